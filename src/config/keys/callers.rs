//! Who may call, what they may do, and how often.

use super::{DAY, Key, MILLISECONDS, Takes};

pub(super) const TLS: &[Key] = &[
    Key {
        name: "tls",
        takes: Takes::Choice(&["off", "server", "upstream"]),
        default: "off",
        only_with: None,
        doc: "Who encrypts connections to listen. off: nobody. server: this server, with TLS \
              1.3 or 1.2. upstream: a proxy or a mesh in front of it, and nothing else \
              reaches it.",
    },
    Key {
        name: "tls_cert_file",
        takes: Takes::File,
        default: "",
        only_with: None,
        doc: "The server's certificate and the intermediate ones after it, in PEM. With tls = \
              \"server\" only, as all that follows. A relative name in the configuration file \
              starts from that file's folder; so it does for the others.",
    },
    Key {
        name: "tls_key_file",
        takes: Takes::File,
        default: "",
        only_with: None,
        doc: "The certificate's key, in PEM and not encrypted.",
    },
    Key {
        name: "tls_client_auth",
        takes: Takes::Choice(&["off", "optional", "required"]),
        default: "off",
        only_with: None,
        doc: "Whether clients prove themselves with a certificate. optional: they may have \
              none, but one that they have must be good. required: without a good one there \
              is no connection.",
    },
    Key {
        name: "tls_client_ca_files",
        takes: Takes::Files,
        default: "",
        only_with: None,
        doc: "The CAs of the clients' certificates, in PEM.",
    },
    Key {
        name: "tls_crl_files",
        takes: Takes::Files,
        default: "",
        only_with: None,
        doc: "Lists of revoked certificates, in PEM or DER. A CA without a list revokes \
              nothing; once its list has expired, all its clients are refused. Open \
              connections of a client that a new list names are closed.",
    },
    Key {
        name: "reload_interval_ms",
        takes: Takes::Number(MILLISECONDS, 100, DAY),
        default: "5000",
        only_with: None,
        doc: "How often files that may change while the server runs, such as certificates, \
              are looked at. SIGHUP does it at once. What is new is taken once it has stayed the \
              same for half a second. Broken files change nothing: the old state stays, the log \
              says so, and /readyz names it as stale.",
    },
];

pub(super) const CALLERS: &[Key] = &[
    Key {
        name: "spiffe_trust_domains",
        takes: Takes::List("SPIFFE trust domains such as example.org"),
        default: "",
        only_with: None,
        doc: "The domains whose SPIFFE ids name callers with a client certificate. An id of \
              another domain is refused; a certificate without one is named by its subject.",
    },
    Key {
        name: "trusted_proxies",
        takes: Takes::List("networks such as 10.0.0.0/8"),
        default: "",
        only_with: None,
        doc: "Proxies whose x-forwarded-for is believed: the caller's address is its \
              right-most entry that is not one of them.",
    },
    Key {
        name: "open_health",
        takes: Takes::Switch,
        default: "true",
        only_with: None,
        doc: "Whether grpc.health.v1 answers without a credential.",
    },
    Key {
        name: "open_reflection",
        takes: Takes::Switch,
        default: "false",
        only_with: None,
        doc: "Whether reflection answers without a credential where other calls need one.",
    },
    Key {
        name: "auth_failure_burst",
        takes: Takes::Number("failures", 1, 1_000_000),
        default: "20",
        only_with: None,
        doc: "How many failed authentications an address may have at once. Beyond it failures \
              are RESOURCE_EXHAUSTED; a valid credential always passes.",
    },
    Key {
        name: "auth_failures_per_minute",
        takes: Takes::Number("failures per minute", 1, 1_000_000),
        default: "60",
        only_with: None,
        doc: "How many of them come back in a minute.",
    },
    Key {
        name: "jwks_refresh_interval_ms",
        takes: Takes::Number(MILLISECONDS, 1000, DAY),
        default: "300000",
        only_with: None,
        doc: "How often the keys behind each jwks_url are fetched.",
    },
    Key {
        name: "jwks_min_interval_ms",
        takes: Takes::Number(MILLISECONDS, 100, DAY),
        default: "10000",
        only_with: None,
        doc: "The least time between two fetches of one jwks_url, whatever callers send. A \
              token with an unknown key id has its issuer's keys fetched at once, if that allows.",
    },
    Key {
        name: "jwks_max_stale_ms",
        takes: Takes::Number(MILLISECONDS, 1000, 30 * DAY),
        default: "86400000",
        only_with: None,
        doc: "How long keys are used while their jwks_url cannot be fetched. Then that \
              issuer's tokens are UNAVAILABLE.",
    },
];

pub(super) const ACCESS: &[Key] = &[
    Key {
        name: "policy_dir",
        takes: Takes::Folder,
        default: "",
        only_with: None,
        doc: "The Cedar policies that say who may do what: all *.cedar files of this folder. \
              What no policy permits is denied. Required where callers \
              are authenticated; without it everything is allowed. A \
              relative name in the configuration file starts from that file's folder. See \
              docs/access.md.",
    },
    Key {
        name: "policy_mode",
        takes: Takes::Choice(&["enforce", "report-only"]),
        default: "enforce",
        only_with: None,
        doc: "report-only: every decision is taken and logged, and everything is allowed. \
              Takes policy_dir.",
    },
];

pub(super) const LIMITS: &[Key] = &[
    Key {
        name: "rate_limit_read_per_second",
        takes: Takes::Number("calls", 0, 1_000_000),
        default: "0",
        only_with: None,
        doc: "How many reads each caller may make in a second, in this process. 0: no limit.",
    },
    Key {
        name: "rate_limit_read_burst",
        takes: Takes::Number("calls", 1, 1_000_000),
        default: "100",
        only_with: None,
        doc: "How many reads each caller may make at once.",
    },
    Key {
        name: "rate_limit_mutate_per_second",
        takes: Takes::Number("calls", 0, 1_000_000),
        default: "0",
        only_with: None,
        doc: "How many changes, dry runs included, each caller may make in a second, in this \
              process. 0: no limit.",
    },
    Key {
        name: "rate_limit_mutate_burst",
        takes: Takes::Number("calls", 1, 1_000_000),
        default: "20",
        only_with: None,
        doc: "How many changes each caller may make at once.",
    },
    Key {
        name: "rate_limit_mode",
        takes: Takes::Choice(&["enforce", "report-only"]),
        default: "enforce",
        only_with: None,
        doc: "Whether calls over a limit are refused, or only logged.",
    },
    Key {
        name: "ec2_pacing",
        takes: Takes::Choice(&["auto", "on", "off"]),
        default: "auto",
        only_with: None,
        doc: "Whether calls wait for their share of EC2's request budgets, so that EC2 does not \
              throttle the account. auto: on with EC2, off with the sandbox.",
    },
    Key {
        name: "ec2_pacing_percent",
        takes: Takes::Number("percent", 1, 100),
        default: "80",
        only_with: None,
        doc: "How much of EC2's budgets is used: by all replicas together if the ledger is on \
              PostgreSQL, else by this process. Others use the account, too.",
    },
];
