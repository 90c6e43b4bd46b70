//! Every setting there is: the one table that parsing, `--help` and the reference in `docs/` are made of.
//!
//! A setting's name in the file gives its other two names: `log_level` is `PORTCULLIS_LOG_LEVEL` in the environment
//! and `--log-level` among the flags.

mod tables;

pub use tables::{
    JWT_ISSUER_MEMBERS, JWT_ISSUERS, STATIC_TOKEN_MEMBERS, STATIC_TOKENS, TABLES, TARGET_MEMBERS,
    TARGETS,
};

/// What the environment's names begin with.
pub const ENV_PREFIX: &str = "PORTCULLIS_";

/// The environment variable that names the configuration file. The file's name is not a setting: it cannot be in the
/// file.
pub const CONFIG_ENV: &str = "PORTCULLIS_CONFIG";

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file. A number's name ends with its unit.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// The value it has if nothing gives it one. Empty: none.
    pub default: &'static str,
    /// The backend it says something to. It is refused with another: no setting does nothing.
    pub only_with: Option<&'static str>,
    /// What it does, as one or two sentences.
    pub doc: &'static str,
}

/// The values that a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A socket address.
    Address,
    /// A socket address, or `off`.
    AddressOrOff,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any number of files.
    Files,
    /// A folder.
    Folder,
    /// Any number of texts, each of this kind.
    List(&'static str),
    /// One file.
    File,
    /// An AWS account id.
    Account,
    /// A Region code.
    Region,
    /// An http or https URL.
    Url,
    /// A whole number of this unit, from the first bound to the second.
    Number(&'static str, u64, u64),
    /// `true` or `false`.
    Switch,
    /// Directives of a log filter.
    Directives,
}

impl Key {
    /// Its name in the environment.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Its name among the flags, without the hyphens in front.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }
}

impl Takes {
    /// A placeholder for a value.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Address => "IP:PORT",
            Self::AddressOrOff => "IP:PORT|off",
            Self::Choice(_) => "WORD",
            Self::Files | Self::File => "FILE",
            Self::Folder => "FOLDER",
            Self::List(_) => "TEXT",
            Self::Account => "ACCOUNT",
            Self::Region => "REGION",
            Self::Url => "URL",
            Self::Number(..) => "NUMBER",
            Self::Switch => "BOOL",
            Self::Directives => "DIRECTIVES",
        }
    }

    /// The values it takes, in words.
    pub fn describe(self) -> String {
        match self {
            Self::Address => "an IP address and a port".to_owned(),
            Self::AddressOrOff => "an IP address and a port, or `off`".to_owned(),
            Self::Choice(words) => words.join(", "),
            Self::Files => "files; a list in the file, commas between them in the environment, \
                            the flag once for each"
                .to_owned(),
            Self::Folder => "a folder".to_owned(),
            Self::List(kind) => format!(
                "{kind}; a list in the file, commas between them in the environment, the flag once \
                 for each"
            ),
            Self::File => "a file".to_owned(),
            Self::Account => "12 digits".to_owned(),
            Self::Region => "a Region code such as us-east-1".to_owned(),
            Self::Url => "an http or https URL".to_owned(),
            Self::Number(unit, min, max) => format!("{min} to {max} {unit}"),
            Self::Switch => "true or false".to_owned(),
            Self::Directives => "a level, or directives such as info,portcullis=debug".to_owned(),
        }
    }
}

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    groups().flat_map(|(_, keys)| keys).find(|key| key.name == name)
}

/// All settings under their headings, in the order in which they are shown.
pub fn groups() -> impl Iterator<Item = (&'static str, &'static [Key])> {
    GROUPS.iter().copied()
}

const MILLISECONDS: &str = "milliseconds";
const DAY: u64 = 86_400_000;

const GROUPS: &[(&str, &[Key])] = &[
    ("Addresses", ADDRESSES),
    ("TLS", TLS),
    ("Callers", CALLERS),
    ("Backend", BACKEND),
    ("Access", ACCESS),
    ("Calls", CALLS),
    ("Connections", CONNECTIONS),
    ("Logging", LOGGING),
];

const ADDRESSES: &[Key] = &[
    Key {
        name: "listen",
        takes: Takes::Address,
        default: "127.0.0.1:50051",
        only_with: None,
        doc: "Where gRPC is served. Port 0 takes a free one. Addresses that other machines \
              reach start only with TLS (server or upstream) and authenticated callers.",
    },
    Key {
        name: "admin_listen",
        takes: Takes::AddressOrOff,
        default: "127.0.0.1:9464",
        only_with: None,
        doc: "Where /livez, /readyz and /version are served over plain HTTP/1.1, to anyone. \
              Addresses that other machines reach start only where listen may be one.",
    },
    Key {
        name: "reflection",
        takes: Takes::Switch,
        default: "true",
        only_with: None,
        doc: "Whether gRPC server reflection is served. grpcurl needs it, or the proto \
              files.",
    },
];

const CALLERS: &[Key] = &[
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

const TLS: &[Key] = &[
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
              are looked at. SIGHUP does it at once. Broken files change nothing: the old \
              state stays, the log says so, and /readyz names it as stale.",
    },
];

const BACKEND: &[Key] = &[
    Key {
        name: "backend",
        takes: Takes::Choice(&["sandbox", "ec2"]),
        default: "sandbox",
        only_with: None,
        doc: "What holds the security groups: an in-process sandbox that behaves like EC2, \
              or EC2 itself.",
    },
    Key {
        name: "default_account_id",
        takes: Takes::Account,
        default: "",
        only_with: None,
        doc: "The account of a call that names none. With the sandbox it goes together with default_region.",
    },
    Key {
        name: "default_region",
        takes: Takes::Region,
        default: "",
        only_with: None,
        doc: "The Region of a call that names none. With the sandbox it goes together with default_account_id; with EC2 and no [[ec2_targets]] it is the Region that is served, else the one of the AWS environment or profile is.",
    },
    Key {
        name: "sandbox_state",
        takes: Takes::Files,
        default: "",
        only_with: Some("sandbox"),
        doc: "What the sandbox starts with, as the AWS CLI's describe commands print it. \
              Several files are merged. A relative name in the configuration file starts \
              from that file's folder.",
    },
    Key {
        name: "sandbox_ec2_listen",
        takes: Takes::AddressOrOff,
        default: "off",
        only_with: Some("sandbox"),
        doc: "Where the sandbox also answers EC2's own Query API, for the AWS CLI, SDKs and \
              Terraform. Signatures are read for account and Region and not verified. Only \
              loopback addresses start, unless sandbox_ec2_allow_remote.",
    },
    Key {
        name: "sandbox_ec2_allow_remote",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("sandbox"),
        doc: "Lets sandbox_ec2_listen be an address that other machines reach. Whoever \
              reaches it can change everything in the sandbox.",
    },
    Key {
        name: "ec2_endpoint_url",
        takes: Takes::Url,
        default: "",
        only_with: Some("ec2"),
        doc: "Replaces EC2's and STS's own endpoints, for an emulator or a VPC endpoint.",
    },
    Key {
        name: "ec2_connect_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 1, DAY),
        default: "3000",
        only_with: Some("ec2"),
        doc: "How long connecting to EC2 may take.",
    },
    Key {
        name: "ec2_attempt_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 1, DAY),
        default: "10000",
        only_with: Some("ec2"),
        doc: "How long one attempt of an EC2 call may take, connecting included.",
    },
    Key {
        name: "ec2_decode_authorization_messages",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("ec2"),
        doc: "Whether what EC2 says in code when it does not permit a call is decoded by STS and \
              logged, at most once a second. The role needs sts:DecodeAuthorizationMessage. \
              Callers are never told. See docs/aws-identity.md.",
    },
    Key {
        name: "insecure_loopback",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("ec2"),
        doc: "Lets anyone on this machine change real security groups: starts on EC2 \
              without TLS, or although callers are not authenticated. Not needed if \
              ec2_endpoint_url is on loopback.",
    },
];

const ACCESS: &[Key] = &[
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

const CALLS: &[Key] = &[
    Key {
        name: "default_deadline_ms",
        takes: Takes::Number(MILLISECONDS, 1, DAY),
        default: "30000",
        only_with: None,
        doc: "The deadline of a call that comes without one.",
    },
    Key {
        name: "max_deadline_ms",
        takes: Takes::Number(MILLISECONDS, 1, DAY),
        default: "120000",
        only_with: None,
        doc: "The longest deadline; a longer one is cut to it.",
    },
    Key {
        name: "max_in_flight",
        takes: Takes::Number("calls", 1, 1_000_000),
        default: "1024",
        only_with: None,
        doc: "How many calls may be in work at once. More are refused with UNAVAILABLE.",
    },
    Key {
        name: "max_request_bytes",
        takes: Takes::Number("bytes", 1024, 67_108_864),
        default: "1048576",
        only_with: None,
        doc: "The largest request message, after decompression.",
    },
    Key {
        name: "drain_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 0, DAY),
        default: "30000",
        only_with: None,
        doc: "How long calls in work may take to end after SIGTERM or SIGINT.",
    },
];

const CONNECTIONS: &[Key] = &[
    Key {
        name: "max_connections",
        takes: Takes::Number("connections", 1, 1_000_000),
        default: "10000",
        only_with: None,
        doc: "How many gRPC connections may be open at once. More wait to be accepted.",
    },
    Key {
        name: "max_concurrent_streams",
        takes: Takes::Number("calls per connection", 1, 1_000_000),
        default: "256",
        only_with: None,
        doc: "How many calls one connection may have open at once.",
    },
    Key {
        name: "keepalive_interval_ms",
        takes: Takes::Number(MILLISECONDS, 1000, DAY),
        default: "30000",
        only_with: None,
        doc: "How often a connection is checked with an HTTP/2 ping.",
    },
    Key {
        name: "keepalive_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 1, DAY),
        default: "10000",
        only_with: None,
        doc: "How long a ping may stay unanswered before the connection is closed.",
    },
];

const LOGGING: &[Key] = &[
    Key {
        name: "log_format",
        takes: Takes::Choice(&["auto", "json", "text"]),
        default: "auto",
        only_with: None,
        doc: "The form of the log on stderr. auto: text on a terminal, otherwise JSON, one \
              object a line.",
    },
    Key {
        name: "log_level",
        takes: Takes::Directives,
        default: "info",
        only_with: None,
        doc: "What is logged.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_of_a_unit_say_it() {
        let all: Vec<_> = groups().flat_map(|(_, keys)| keys).collect();
        for (index, key) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other.env() != key.env()), "{}", key.name);
            if let Takes::Number(unit @ ("milliseconds" | "seconds" | "bytes"), ..) = key.takes {
                let suffix = if unit == MILLISECONDS { "_ms" } else { unit };
                assert!(key.name.ends_with(suffix), "{}", key.name);
            }
        }
    }
}
