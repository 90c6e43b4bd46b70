//! What must not start: callers are not authenticated and connections are not encrypted, so nothing but this machine
//! may reach the service, and real security groups only if someone said so.

use std::net::IpAddr;

use super::{BackendConfig, Config, reader::Reader};

/// Reports what is missing for a safe start.
pub fn check(reader: &mut Reader<'_>, config: &Config) {
    let listeners = [("listen", Some(config.listen)), ("admin_listen", config.admin_listen)];
    for (name, address) in listeners {
        if let Some(address) = address
            && !is_loopback(address.ip())
        {
            let message = format!(
                "{address} is not a loopback address: this version has no authentication and \
                 no TLS, so it serves only this machine; use 127.0.0.1 or [::1]"
            );
            reader.complain(name, message);
        }
    }
    if let BackendConfig::Sandbox(sandbox) = &config.backend
        && let Some(address) = sandbox.ec2_listen
        && !is_loopback(address.ip())
        && !sandbox.ec2_allow_remote
    {
        let message = format!(
            "{address} is not a loopback address: EC2's API is answered without verifying \
             signatures, so whoever reaches it owns the sandbox; use 127.0.0.1 or [::1], or \
             accept it with --sandbox-ec2-allow-remote"
        );
        reader.complain("sandbox_ec2_listen", message);
    }
    if let BackendConfig::Ec2(ec2) = &config.backend
        && !ec2.insecure_loopback
        && !ec2.endpoint_url.as_deref().is_some_and(is_loopback_url)
    {
        let message = "on EC2, anyone on this machine could change real security groups, \
                       because callers are not authenticated: set ec2_endpoint_url to an \
                       emulator on loopback, or accept it with --insecure-loopback";
        reader.complain("backend", message.to_owned());
    }
    check_policies(reader, config, config.authentication.has_credentials());
}

/// Callers have names, so something must say what each may do.
fn check_policies(reader: &mut Reader<'_>, config: &Config, authenticated: bool) {
    if authenticated && config.policies.is_none() {
        let message = "callers are authenticated, but nothing says what each of them may do: name \
                       a folder with at least one policy; deploy/policies has four sets to begin \
                       with";
        reader.complain("policy_dir", message.to_owned());
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

pub(super) fn is_loopback_url(url: &str) -> bool {
    let uri = url.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::{super::Sources, *};

    #[test]
    fn loopback_is_told_by_the_host() {
        for url in
            ["http://localhost:4566", "http://127.9.0.1", "https://[::1]:1", "http://LOCALHOST"]
        {
            assert!(is_loopback_url(url), "{url}");
        }
        for url in
            ["http://localhost.example.com", "http://10.0.0.1", "http://127.0.0.1.example.com", "x"]
        {
            assert!(!is_loopback_url(url), "{url}");
        }
        assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_loopback("0.0.0.0".parse().unwrap()));
    }

    #[test]
    fn who_has_a_name_needs_a_policy() {
        let wrong = |policy_dir: Option<&str>, authenticated| {
            let flags = policy_dir.map(|dir| ("policy_dir", vec![dir.to_owned()]));
            let sources = Sources { flags: flags.into_iter().collect(), ..Sources::default() };
            let config = Config::parse(&sources).unwrap();
            let mut reader = Reader::new(&sources);
            check_policies(&mut reader, &config, authenticated);
            reader.finish().is_err()
        };
        assert!(wrong(None, true));
        assert!(!wrong(None, false));
        assert!(!wrong(Some(env!("CARGO_MANIFEST_DIR")), true));
    }
}
