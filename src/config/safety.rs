//! What must not start. Where callers are not authenticated or connections are not encrypted, nothing but this machine
//! may reach the service, and real security groups only if someone said so.

use std::net::IpAddr;

use super::{BackendConfig, Config, TlsConfig, reader::Reader};

/// What a safe start depends on.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// Nobody is served without having proved who it is.
    authenticated: bool,
    /// Connections are encrypted, here or in front of us.
    encrypted: bool,
    /// `listen` is on loopback.
    local: bool,
    /// `admin_listen` is on loopback, or off.
    local_admin: bool,
    /// Nothing real can be changed: the sandbox, or an emulator on loopback.
    harmless: bool,
    /// `insecure_loopback`.
    accepted: bool,
}

/// Why a start is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Other machines reach `listen`.
    Listen,
    /// Other machines reach `admin_listen`.
    AdminListen,
    /// Anyone on this machine could change what is real.
    Backend,
}

/// The rule.
fn refusals(start: Start) -> Vec<Refusal> {
    let Start { authenticated, encrypted, local, local_admin, harmless, accepted } = start;
    if authenticated && encrypted {
        return Vec::new();
    }
    let refused = [
        (!local, Refusal::Listen),
        (!local_admin, Refusal::AdminListen),
        (!harmless && !accepted, Refusal::Backend),
    ];
    refused.into_iter().filter_map(|(applies, refusal)| applies.then_some(refusal)).collect()
}

/// Whether callers are authenticated: whoever has no good credential of a kind that is configured is refused.
fn authenticates(config: &Config) -> bool {
    config.authentication.has_credentials() || config.tls.names_clients()
}

/// Reports what is missing for a safe start.
pub fn check(reader: &mut Reader<'_>, config: &Config) {
    let start = Start {
        authenticated: authenticates(config),
        encrypted: !matches!(config.tls, TlsConfig::Off),
        local: is_loopback(config.listen.ip()),
        local_admin: config.admin_listen.is_none_or(|address| is_loopback(address.ip())),
        harmless: match &config.backend {
            BackendConfig::Sandbox(_) => true,
            BackendConfig::Ec2(ec2) => ec2.endpoint_url.as_deref().is_some_and(is_loopback_url),
        },
        accepted: matches!(&config.backend, BackendConfig::Ec2(ec2) if ec2.insecure_loopback),
    };
    let missing = missing(start);
    for refusal in refusals(start) {
        let (name, address) = match refusal {
            Refusal::Listen => ("listen", Some(config.listen)),
            Refusal::AdminListen => ("admin_listen", config.admin_listen),
            Refusal::Backend => ("backend", None),
        };
        let message = match address {
            Some(address) => format!(
                "{address} is not a loopback address, and {missing}: use 127.0.0.1 or [::1]"
            ),
            None => format!(
                "on EC2, anyone on this machine could change real security groups: {missing}; \
                 or set ec2_endpoint_url to an emulator on loopback, or accept it with \
                 --insecure-loopback"
            ),
        };
        reader.complain(name, message);
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
    check_policies(reader, config, start.authenticated);
    check_idle(reader, config, start.authenticated);
}

/// Refuses settings that would do nothing: whoever gave one believes in something that is not so.
fn check_idle(reader: &mut Reader<'_>, config: &Config, authenticated: bool) {
    let fetches = config.authentication.issuers.iter().any(|issuer| !issuer.is_file());
    let reloads = matches!(config.tls, TlsConfig::Server(_))
        || config.policies.is_some()
        || config.authentication.has_credentials();
    let nobody = "does nothing where callers are not authenticated: set [[jwt_issuers]], \
                  [[static_tokens]] or tls_client_auth";
    let rules: [(bool, &[&str], &str); 6] = [
        (
            config.tls.names_clients(),
            &["spiffe_trust_domains"],
            "does nothing unless clients have certificates: set tls_client_auth",
        ),
        (
            authenticated,
            &["trusted_proxies"],
            "a proxy would let other machines reach a server that authenticates nobody: set \
             [[jwt_issuers]], [[static_tokens]] or tls_client_auth",
        ),
        (
            authenticated,
            &["open_health", "open_reflection", "auth_failure_burst", "auth_failures_per_minute"],
            nobody,
        ),
        (
            config.limits.reflection || !authenticated,
            &["open_reflection"],
            "does nothing without reflection",
        ),
        (
            fetches,
            &["jwks_refresh_interval_ms", "jwks_min_interval_ms", "jwks_max_stale_ms"],
            "does nothing without a jwks_url in [[jwt_issuers]]: a jwks_file is looked at every \
             reload_interval_ms",
        ),
        (
            reloads,
            &["reload_interval_ms"],
            "does nothing where no file may change: there are no certificates, policies, keys or \
             tokens",
        ),
    ];
    for (_, names, message) in rules.iter().filter(|(does_something, ..)| !does_something) {
        for name in names.iter().filter(|name| reader.is_changed(name)).collect::<Vec<_>>() {
            reader.complain(name, (*message).to_owned());
        }
    }
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

/// What is missing, and how to have it.
fn missing(start: Start) -> String {
    let authentication = (!start.authenticated).then_some(
        "callers are not authenticated ([[jwt_issuers]], [[static_tokens]], or tls_client_auth)",
    );
    let encryption =
        (!start.encrypted).then_some("connections are not encrypted (tls = server or upstream)");
    let both: Vec<&str> = authentication.into_iter().chain(encryption).collect();
    both.join(" and ")
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
#[allow(clippy::panic, clippy::indexing_slicing, reason = "a panic is a failed test")]
mod tests {
    use super::{super::Sources, *};

    /// Whether each start is refused, and for what: all of them, with what authenticates and encrypts first.
    #[test]
    fn every_start_there_is() {
        use Refusal::{AdminListen, Backend, Listen};
        let bits = |number: u8| (0..6).map(move |bit| number >> bit & 1 == 1);
        for number in 0..64 {
            let flags: Vec<bool> = bits(number).collect();
            let [authenticated, encrypted, local, local_admin, harmless, accepted] = flags[..]
            else {
                panic!("six flags")
            };
            let start = Start { authenticated, encrypted, local, local_admin, harmless, accepted };
            let expected: &[Refusal] = match (local, local_admin, harmless || accepted) {
                _ if authenticated && encrypted => &[],
                (true, true, true) => &[],
                (true, true, false) => &[Backend],
                (true, false, true) => &[AdminListen],
                (true, false, false) => &[AdminListen, Backend],
                (false, true, true) => &[Listen],
                (false, true, false) => &[Listen, Backend],
                (false, false, true) => &[Listen, AdminListen],
                (false, false, false) => &[Listen, AdminListen, Backend],
            };
            assert_eq!(refusals(start), expected, "{start:?}");
            if !expected.is_empty() {
                let text = missing(start);
                assert_eq!(text.contains("tls_client_auth"), !authenticated, "{start:?}");
                assert_eq!(text.contains("tls = server"), !encrypted, "{start:?}");
            }
        }
    }

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
