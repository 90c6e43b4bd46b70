//! Every setting there is: the one table that parsing, `--help` and the reference in `docs/` are made of.
//!
//! A setting's name in the file gives its other two names: `log_level` is `PORTCULLIS_LOG_LEVEL` in the environment
//! and `--log-level` among the flags.

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
            Self::Files => "FILE",
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

/// The table of targets is the one setting that only the file can give: `[[ec2_targets]]`, and these in each.
pub const TARGETS: &str = "ec2_targets";

/// A member of a target: its name, what it takes, whether it is required, and what it is.
pub const TARGET_MEMBERS: &[(&str, &str, bool, &str)] = &[
    ("account_id", "12 digits", true, "The account. Each account is listed once."),
    ("regions", "a list of Region codes", true, "The Regions of the account that are served."),
    (
        "role_arn",
        "a role's ARN",
        false,
        "The role to assume in the account. Without it the process's own credentials are used.",
    ),
    (
        "external_id",
        "text",
        false,
        "The external id that the role's trust policy asks for. A secret: it is never printed.",
    ),
];

/// The table of limits for some callers: `[[rate_limits]]`, in the file only.
pub const RATE_LIMITS: &str = "rate_limits";

/// A member of a limit: its name, what it takes, whether it is required, and what it is.
pub const RATE_LIMIT_MEMBERS: &[(&str, &str, bool, &str)] = &[
    ("principal", "a principal's id", false, "The one caller it is for. Either this or `group`."),
    (
        "group",
        "a group's name",
        false,
        "Each caller in the group has this limit for itself. A principal's own limit goes before its groups'; of several groups the first listed counts.",
    ),
    ("class", "`read` or `mutate`", true, "Which calls it counts."),
    ("per_second", "0 to 1000000", true, "How many calls come back in a second. 0: no limit."),
    (
        "burst",
        "1 to 1000000",
        false,
        "How many calls may come at once. Without it as many as come back in a second.",
    ),
];

const MILLISECONDS: &str = "milliseconds";
const DAY: u64 = 86_400_000;

const GROUPS: &[(&str, &[Key])] = &[
    ("Addresses", ADDRESSES),
    ("Backend", BACKEND),
    ("Calls", CALLS),
    ("Connections", CONNECTIONS),
    ("Limits", LIMITS),
    ("Logging", LOGGING),
];

const ADDRESSES: &[Key] = &[
    Key {
        name: "listen",
        takes: Takes::Address,
        default: "127.0.0.1:50051",
        only_with: None,
        doc: "Where gRPC is served. Port 0 takes a free one. Only loopback addresses \
              start: callers are not authenticated and TLS is not served.",
    },
    Key {
        name: "admin_listen",
        takes: Takes::AddressOrOff,
        default: "127.0.0.1:9464",
        only_with: None,
        doc: "Where /livez, /readyz and /version are served over HTTP/1.1. Only loopback \
              addresses start.",
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
        name: "sandbox_throttle",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("sandbox"),
        doc: "Whether the sandbox refuses with RequestLimitExceeded what is beyond EC2's own \
              request budgets, such as 50 revokes at once and 5 a second.",
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
        name: "insecure_loopback",
        takes: Takes::Switch,
        default: "false",
        only_with: Some("ec2"),
        doc: "Lets anyone on this machine change real security groups: starts on EC2 \
              although callers are not authenticated. Not needed if ec2_endpoint_url is on \
              loopback.",
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

const LIMITS: &[Key] = &[
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
        doc: "How much of EC2's budgets this process uses. Others use the account, too; with \
              several processes divide it among them.",
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
