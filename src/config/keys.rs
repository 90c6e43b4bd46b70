//! Every setting there is: the one table that parsing, `--help` and the reference in `docs/` are made of.
//!
//! A setting's name in the file gives its other two names: `log_level` is `PORTCULLIS_LOG_LEVEL` in the environment
//! and `--log-level` among the flags.

mod backends;
mod callers;
mod ledger;
mod tables;
mod telemetry;

use self::{
    backends::BACKEND,
    callers::{ACCESS, CALLERS, LIMITS, TLS},
    ledger::LEDGER,
    telemetry::{STANDARD, TELEMETRY},
};
pub use tables::{
    JWT_ISSUER_MEMBERS, JWT_ISSUERS, RATE_LIMIT_MEMBERS, RATE_LIMITS, STATIC_TOKEN_MEMBERS,
    STATIC_TOKENS, TABLES, TARGET_MEMBERS, TARGETS,
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
    /// Where a ledger is.
    Ledger,
    /// Directives of a log filter.
    Directives,
    /// A number from 0 to 1.
    Ratio,
    /// A short name.
    Name,
    /// Any number of names with a value each; the values may be `secret`.
    #[allow(missing_docs, reason = "the line above says it")]
    Pairs { secret: bool },
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

    /// The variable of OpenTelemetry's own that counts where no layer gives a value, if there is one.
    pub fn standard(&self) -> Option<&'static str> {
        STANDARD.iter().find(|(name, _)| *name == self.name).map(|(_, variable)| *variable)
    }
}

impl Takes {
    /// Whether what somebody wrote may have a password in it, in whatever form: it is not shown when it is wrong.
    pub fn may_be_secret(self) -> bool {
        matches!(self, Self::Ledger | Self::Url | Self::Pairs { .. })
    }

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
            Self::Ledger => "LEDGER",
            Self::Directives => "DIRECTIVES",
            Self::Ratio => "NUMBER",
            Self::Name => "NAME",
            Self::Pairs { .. } => "NAME=VALUE",
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
            Self::Ledger => "memory, sqlite:PATH or postgres://USER@HOST/DATABASE".to_owned(),
            Self::Directives => "a level, or directives such as info,portcullis=debug".to_owned(),
            Self::Ratio => "a number from 0 to 1".to_owned(),
            Self::Name => "letters, digits, dots, underscores and hyphens".to_owned(),
            Self::Pairs { .. } => "NAME=VALUE, with what is special in a value percent-encoded; a \
                                   list in the file, commas between them in the environment, the \
                                   flag once for each"
                .to_owned(),
        }
    }
}

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    groups().flat_map(|(_, keys)| keys).find(|key| key.name == name)
}

/// Whether it is one of OpenTelemetry's own variables that count.
pub fn is_standard(variable: &str) -> bool {
    let more = super::telemetry::MORE_VARIABLES;
    STANDARD.iter().any(|(_, known)| *known == variable) || more.contains(&variable)
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
    ("Ledger", LEDGER),
    ("Access", ACCESS),
    ("Calls", CALLS),
    ("Connections", CONNECTIONS),
    ("Limits", LIMITS),
    ("Logging", LOGGING),
    ("Telemetry", TELEMETRY),
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
        doc: "Where /livez, /readyz, /version and /metrics are served over plain HTTP/1.1, to anyone; and \
              /config and /log-level, to this machine alone (docs/metrics.md). Addresses that other machines reach start only where listen may be one.",
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
        doc: "How many calls may be in work at once. More are refused with UNAVAILABLE, and more \
              than half of one caller with RESOURCE_EXHAUSTED.",
    },
    Key {
        name: "max_request_bytes",
        takes: Takes::Number("bytes", 1024, 67_108_864),
        default: "1048576",
        only_with: None,
        doc: "The largest request message, after decompression.",
    },
    Key {
        name: "drain_delay_ms",
        takes: Takes::Number(MILLISECONDS, 0, DAY),
        default: "0",
        only_with: None,
        doc: "How long after SIGTERM or SIGINT calls and connections are taken as before, while \
              /readyz and health already say not ready: what load balancers need to send callers \
              elsewhere. 5000 behind a Kubernetes Service.",
    },
    Key {
        name: "drain_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 0, DAY),
        default: "30000",
        only_with: None,
        doc: "How long calls in work may take to end after SIGTERM or SIGINT, and after \
              drain_delay_ms.",
    },
];

const CONNECTIONS: &[Key] = &[
    Key {
        name: "max_connections",
        takes: Takes::Number("connections", 1, 1_000_000),
        default: "10000",
        only_with: None,
        doc: "How many gRPC connections may be open at once. More wait to be accepted. As many \
              streams, such as Health.Watch, may be open on all of them together.",
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
    Key {
        name: "max_connection_age_ms",
        takes: Takes::Number(MILLISECONDS, 0, DAY),
        default: "1800000",
        only_with: None,
        doc: "How old a connection gets, give or take a tenth, which is drawn for each. Then its \
              client is asked to make another, by GOAWAY or connection: close, so that callers \
              spread over the replicas. 0: as old as it likes.",
    },
    Key {
        name: "max_connection_age_grace_ms",
        takes: Takes::Number(MILLISECONDS, 0, DAY),
        default: "150000",
        only_with: None,
        doc: "How long calls may go on at the end of their connection's age. What is open then, \
              such as Health.Watch, is cut. Longer than max_deadline_ms, so that no call is.",
    },
    Key {
        name: "max_connection_idle_ms",
        takes: Takes::Number(MILLISECONDS, 0, DAY),
        default: "300000",
        only_with: None,
        doc: "How long a connection may be without a call before its client is asked to close it, \
              as at its age. 0: as long as it likes. Over HTTP/1.1 it is ten seconds.",
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
