//! What a start prints to stdout: where it listens, and calls to try.

use std::{fmt::Write as _, net::SocketAddr};

use crate::{
    config::{BackendConfig, Config, LedgerEngine, TlsConfig},
    tls::ClientAuth,
};

const SERVICE: &str = "portcullis.v1.SecurityGroupService";

/// A rule that the sandbox has at the start, for the calls to try.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Its group.
    pub group_id: &'a str,
    /// The rule as JSON of one IpPermission, with EC2's names.
    pub ip_permission: &'a str,
}

/// The addresses that were bound: the configured ports may be 0.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// gRPC.
    pub grpc: SocketAddr,
    /// The admin listener.
    pub admin: Option<SocketAddr>,
    /// EC2's own API on the sandbox.
    pub ec2_door: Option<SocketAddr>,
}

/// The text.
pub fn banner(config: &Config, addresses: Addresses, sample: Option<Sample<'_>>) -> String {
    let Addresses { grpc, admin, ec2_door } = addresses;
    let admin = admin.map_or_else(
        || "off".to_owned(),
        |address| format!("http://{address} (/livez, /readyz, /metrics, /version)"),
    );
    let mut text = format!(
        "portcullis {}\n  \
         gRPC     {grpc} ({})\n  \
         admin    {admin}\n  \
         backend  {}\n",
        env!("CARGO_PKG_VERSION"),
        security(config),
        backend(&config.backend),
    );
    // Writing to a String cannot fail.
    if let Some(percent) = config.pacing_percent {
        let whose = match config.ledger.engine {
            LedgerEngine::Postgres(_) => "shared by the replicas on this ledger",
            LedgerEngine::Memory | LedgerEngine::Sqlite(_) => "for this process",
        };
        let _ = writeln!(text, "  pacing   {percent} % of EC2's request budgets, {whose}");
    }
    if let Some(address) = ec2_door {
        let _ = writeln!(
            text,
            "  EC2      http://{address} (EC2's own API on the sandbox; any credentials)"
        );
    }
    if matches!(&config.backend, BackendConfig::Ec2(ec2) if ec2.insecure_loopback) {
        text.push_str(
            "  WARNING  anyone on this machine can change these accounts' security groups\n",
        );
    }
    if matches!(config.backend, BackendConfig::Sandbox(_)) && config.limits.reflection {
        text.push_str("\nTry:\n");
        for call in calls(&grpcurl(config), grpc, ec2_door, sample) {
            let _ = writeln!(text, "  {call}");
        }
    }
    text
}

fn security(config: &Config) -> &'static str {
    match &config.tls {
        TlsConfig::Off if config.authentication.has_credentials() => {
            "plaintext: for this machine only; callers prove who they are"
        }
        TlsConfig::Off => "plaintext, no authentication: for this machine only",
        TlsConfig::Upstream => "plaintext, encrypted by what stands in front of it",
        TlsConfig::Server(files) => match files.client_auth {
            ClientAuth::Off => "TLS",
            ClientAuth::Optional => "TLS, client certificates optional",
            ClientAuth::Required => "TLS, client certificates required",
        },
    }
}

/// How grpcurl is called, with the files that the caller has to have.
fn grpcurl(config: &Config) -> String {
    let mut text = with_files(&config.tls);
    if config.authentication.has_credentials() && !config.tls.names_clients() {
        text.push_str(r#" -H "authorization: Bearer $TOKEN""#);
    }
    text
}

fn with_files(tls: &TlsConfig) -> String {
    match tls {
        TlsConfig::Off | TlsConfig::Upstream => "grpcurl -plaintext".to_owned(),
        TlsConfig::Server(files) if files.client_auth == ClientAuth::Off => {
            "grpcurl -cacert ca.pem".to_owned()
        }
        TlsConfig::Server(_) => {
            "grpcurl -cacert ca.pem -cert client.pem -key client.key".to_owned()
        }
    }
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
            let accounts = match accounts.as_slice() {
                [] => "the account of the server's own credentials".to_owned(),
                accounts => format!("accounts {}", accounts.join(", ")),
            };
            let endpoint = ec2.endpoint_url.as_deref().unwrap_or("AWS");
            format!("EC2 at {endpoint}, {accounts}")
        }
    }
}

fn calls(
    grpcurl: &str,
    grpc: SocketAddr,
    ec2_door: Option<SocketAddr>,
    sample: Option<Sample<'_>>,
) -> Vec<String> {
    let mut calls = vec![
        format!("{grpcurl} {grpc} list"),
        format!("{grpcurl} {grpc} describe {SERVICE}.RevokeEgress"),
        format!("{grpcurl} {grpc} {SERVICE}/DescribeSecurityGroups"),
    ];
    calls.extend(sample.map(|Sample { group_id, ip_permission }| {
        let body = format!(r#"{{"GroupId": "{group_id}", "IpPermissions": [{ip_permission}]}}"#);
        format!("{grpcurl} -d '{body}' {grpc} {SERVICE}/RevokeEgress")
    }));
    calls.extend(ec2_door.map(|address| {
        format!(
            "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test aws --region us-east-1 \
             --endpoint-url http://{address} ec2 describe-security-groups"
        )
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
        let grpc = "127.0.0.1:4711".parse().unwrap();
        let addresses = Addresses { grpc, admin: None, ec2_door: None };
        let text = banner(&config, addresses, Some(sample));
        assert!(text.contains("admin    off"), "{text}");
        assert_eq!(text.matches("grpcurl -plaintext").count(), 4, "{text}");
        assert!(
            text.contains(
                r#"-d '{"GroupId": "sg-1", "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}' 127.0.0.1:4711 "#
            ),
            "{text}"
        );
    }

    #[test]
    fn calls_bring_the_credential_that_is_needed() {
        let text = r#"
policy_dir = "src"
[[static_tokens]]
name = "a"
sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
"#;
        let file = (concat!(env!("CARGO_MANIFEST_DIR"), "/x.toml").into(), text.to_owned());
        let sources = Sources { file: Some(file), ..Sources::default() };
        let config = Config::parse(&sources).unwrap();
        let grpc = "127.0.0.1:4711".parse().unwrap();
        let text = banner(&config, Addresses { grpc, admin: None, ec2_door: None }, None);
        let call = r#"grpcurl -plaintext -H "authorization: Bearer $TOKEN" 127.0.0.1:4711 list"#;
        assert!(text.contains(call), "{text}");
    }
}
