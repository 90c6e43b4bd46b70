//! Where operations are recorded, and for how long.

use std::{path::PathBuf, time::Duration};

use super::{BackendConfig, Secret, reader::Reader, safety::is_loopback_url};

/// The ledger.
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// Where it is.
    pub engine: LedgerEngine,
    /// Whether a change without an idempotency key is refused.
    pub key_required: bool,
    /// How long a key is kept, from the settling of its operation.
    pub key_retention: Duration,
    /// How long a record is kept, from the settling of its operation.
    pub record_retention: Duration,
    /// How long after its end an attempt may still show no effect.
    pub grace: Duration,
}

/// Where a ledger is.
#[derive(Clone, Debug)]
pub enum LedgerEngine {
    /// In this process, and gone with it.
    Memory,
    /// In one file.
    Sqlite(PathBuf),
    /// In a database that replicas share: the connection string, which may hold a password.
    Postgres(Secret),
}

/// The file that a server on EC2 has unless told otherwise.
const DEFAULT_FILE: &str = "portcullis-data/ledger.db";

const HOUR: Duration = Duration::from_secs(3600);

/// Reads the settings of the ledger.
pub(super) fn read(reader: &mut Reader<'_>, backend: &BackendConfig) -> LedgerConfig {
    let default = match backend {
        BackendConfig::Sandbox(_) => LedgerEngine::Memory,
        BackendConfig::Ec2(_) => LedgerEngine::Sqlite(DEFAULT_FILE.into()),
    };
    let engine = reader.ledger("ledger").unwrap_or(default);
    if matches!(engine, LedgerEngine::Memory) && is_real(backend) {
        let message = "a ledger in memory forgets with the process what it did to real security \
                       groups: use sqlite:PATH or postgres://...";
        reader.complain("ledger", message.to_owned());
    }
    let hours = reader.count("ledger_key_retention_hours");
    let days = reader.count("ledger_record_retention_days");
    if hours > days.saturating_mul(24) {
        let message = format!(
            "keys are kept for {hours} hours, longer than the records that they belong to ({days} \
             days: ledger_record_retention_days)"
        );
        reader.complain("ledger_key_retention_hours", message);
    }
    LedgerConfig {
        engine,
        key_required: reader.switch("idempotency_required"),
        key_retention: HOUR * hours,
        record_retention: HOUR * 24 * days,
        grace: reader.millis("ledger_settle_grace_ms"),
    }
}

impl BackendConfig {
    /// What a ledger on disk is bound to. It refuses to be another backend's: its keys and records would mean something
    /// else.
    pub fn ledger_binding(&self) -> String {
        match self {
            Self::Sandbox(_) => "sandbox".to_owned(),
            Self::Ec2(ec2) => format!("ec2 {}", ec2.endpoint_url.as_deref().unwrap_or("aws")),
        }
    }
}

/// Whether what is changed there is real: not the sandbox, and no emulator on this machine.
fn is_real(backend: &BackendConfig) -> bool {
    match backend {
        BackendConfig::Sandbox(_) => false,
        BackendConfig::Ec2(ec2) => !ec2.endpoint_url.as_deref().is_some_and(is_loopback_url),
    }
}

impl LedgerEngine {
    /// Reads `memory`, `sqlite:PATH` or a PostgreSQL URL.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "memory" {
            return Some(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            return (!path.is_empty()).then(|| Self::Sqlite(path.into()));
        }
        let rest = text.strip_prefix("postgres://").or(text.strip_prefix("postgresql://"))?;
        (!rest.is_empty()).then(|| Self::Postgres(Secret::new(text)))
    }

    /// The text without what may be secret: of a URL only scheme, user, host and database are left. Nothing is left of what
    /// is none of the forms, as libpq's `host=h password=p`, or is a URL that is not surely read right.
    pub(super) fn redacted(text: &str) -> String {
        if text == "memory" || text.starts_with("sqlite:") {
            return text.to_owned();
        }
        let hidden = || "[redacted]".to_owned();
        let Some((scheme, rest)) = text.split_once("://") else { return hidden() };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.contains('@') {
            return hidden();
        }
        match rest.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split_once(':').map_or(user, |(user, _)| user);
                format!("{scheme}://{user}@{host}")
            }
            None => format!("{scheme}://{rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_connection_string_is_no_secret() {
        for (text, shown) in [
            ("memory", "memory"),
            ("sqlite:/var/lib/ledger.db", "sqlite:/var/lib/ledger.db"),
            ("postgres://u:p%40ss@h:5432/db?password=x", "postgres://u@h:5432/db"),
            ("postgresql://u:a@b@h/db", "postgresql://u@h/db"),
            ("postgres://h/db?user=u&password=x", "postgres://h/db"),
        ] {
            assert_eq!(LedgerEngine::redacted(text), shown);
            assert!(LedgerEngine::parse(text).is_some(), "{text}");
        }
        for odd in ["host=h password=hush", "postgres://u:hu?sh@h/db", "postgres://h/?password=a@b"]
        {
            assert_eq!(LedgerEngine::redacted(odd), "[redacted]");
        }
        for bad in ["", "sqlite:", "postgres://", "mysql://h/db", "Memory"] {
            assert!(LedgerEngine::parse(bad).is_none(), "{bad}");
        }
        let debug = format!("{:?}", LedgerEngine::parse("postgres://u:hush@h/db"));
        assert!(!debug.contains("hush"), "{debug}");
    }
}
