//! What a start prints to stdout: where it listens, and calls to try.

use std::{fmt::Write as _, net::SocketAddr};

use crate::config::{BackendConfig, Config};

const SERVICE: &str = "portcullis.v1.SecurityGroupService";

/// A rule that the sandbox has at the start, for the calls to try.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Its group.
    pub group_id: &'a str,
    /// The rule as JSON of one IpPermission, with EC2's names.
    pub ip_permission: &'a str,
}

/// The text. The addresses are the bound ones: the configured ports may be 0.
pub fn banner(
    config: &Config,
    grpc: SocketAddr,
    admin: Option<SocketAddr>,
    sample: Option<Sample<'_>>,
) -> String {
    let admin = admin.map_or_else(
        || "off".to_owned(),
        |address| format!("http://{address} (/livez, /readyz, /version)"),
    );
    let mut text = format!(
        "portcullis {}\n  \
         gRPC     {grpc} (plaintext, no authentication: for this machine only)\n  \
         admin    {admin}\n  \
         backend  {}\n",
        env!("CARGO_PKG_VERSION"),
        backend(&config.backend),
    );
    if matches!(&config.backend, BackendConfig::Ec2(ec2) if ec2.insecure_loopback) {
        text.push_str(
            "  WARNING  anyone on this machine can change these accounts' security groups\n",
        );
    }
    if matches!(config.backend, BackendConfig::Sandbox(_)) && config.limits.reflection {
        text.push_str("\nTry:\n");
        // Writing to a String cannot fail.
        for call in calls(grpc, sample) {
            let _ = writeln!(text, "  {call}");
        }
    }
    text
}

fn backend(config: &BackendConfig) -> String {
    match config {
        BackendConfig::Sandbox(sandbox) if sandbox.state.is_empty() => {
            "sandbox, kept in this process only".to_owned()
        }
        BackendConfig::Sandbox(sandbox) => {
            let files: Vec<_> =
                sandbox.state.iter().map(|file| file.display().to_string()).collect();
            format!("sandbox, kept in this process only, from {}", files.join(", "))
        }
        BackendConfig::Ec2(ec2) => {
            let accounts: Vec<_> =
                ec2.targets.iter().map(|target| target.account.as_str()).collect();
            let endpoint = ec2.endpoint_url.as_deref().unwrap_or("AWS");
            format!("EC2 at {endpoint}, accounts {}", accounts.join(", "))
        }
    }
}

fn calls(grpc: SocketAddr, sample: Option<Sample<'_>>) -> Vec<String> {
    let mut calls = vec![
        format!("grpcurl -plaintext {grpc} list"),
        format!("grpcurl -plaintext {grpc} describe {SERVICE}.RevokeEgress"),
        format!("grpcurl -plaintext {grpc} {SERVICE}/DescribeSecurityGroups"),
    ];
    calls.extend(sample.map(|Sample { group_id, ip_permission }| {
        let body = format!(r#"{{"GroupId": "{group_id}", "IpPermissions": [{ip_permission}]}}"#);
        format!("grpcurl -plaintext -d '{body}' {grpc} {SERVICE}/RevokeEgress")
    }));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn calls_name_the_bound_address_and_the_sample() {
        let config = Config::parse(&Sources::default()).unwrap();
        let sample = Sample {
            group_id: "sg-1",
            ip_permission: r#"{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}"#,
        };
        let text = banner(&config, "127.0.0.1:4711".parse().unwrap(), None, Some(sample));
        assert!(text.contains("admin    off"), "{text}");
        assert_eq!(text.matches("grpcurl -plaintext").count(), 4, "{text}");
        assert!(
            text.contains(
                r#"-d '{"GroupId": "sg-1", "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}' 127.0.0.1:4711 "#
            ),
            "{text}"
        );
    }
}
