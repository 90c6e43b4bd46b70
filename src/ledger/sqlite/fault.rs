//! What can go wrong with the file.

use std::{fmt, path::PathBuf};

use rusqlite::ErrorCode;

use crate::ledger::LedgerError;

/// Why a ledger was not opened.
#[derive(Debug)]
pub struct OpenError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: Cause,
}

/// What is wrong with a ledger's file.
#[derive(Debug)]
pub enum Cause {
    /// The file or its folder cannot be made, read or written.
    Io(&'static str, std::io::Error),
    /// Another process has it open.
    InUse,
    /// It is not a ledger, or damaged.
    NotALedger(String),
    /// A later version of Portcullis wrote it: the schema that it has, and the latest that we know.
    Newer(String, u32),
    /// It belongs to another kind of backend: its own, and ours.
    OtherBackend(String, String),
    /// Another file is there than the one that was opened.
    Replaced,
    /// SQLite's word.
    Sqlite(rusqlite::Error),
}

/// Why one operation failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The ledger's answer: nothing is broken.
    Answer(LedgerError),
    /// SQLite's.
    Sql(rusqlite::Error),
    /// A stored record that cannot be read.
    Record(String, serde_json::Error),
    /// The file cannot be opened again.
    Open(String),
    /// The connection is not to be used again.
    Broken(String),
    /// SQLite has undone the whole transaction.
    Undone(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger {}: ", self.path.display())?;
        match &self.cause {
            Cause::Io(what, error) => write!(f, "{what}: {error}"),
            Cause::InUse => f.write_str(
                "another process has it open. A ledger file is one process's: stop the other one, name another file, or \
                 let replicas share a PostgreSQL ledger",
            ),
            Cause::NotALedger(why) => write!(
                f,
                "it is not a ledger, or is damaged ({why}). Name another file, or put a backup in its place"
            ),
            Cause::Newer(found, known) => write!(
                f,
                "its schema is version {found}, and this Portcullis knows {known}: run the version that wrote it, or a \
                 later one"
            ),
            Cause::OtherBackend(has, ours) => write!(
                f,
                "it records what was done on `{has}`, and this is `{ours}`: give each backend a ledger of its own"
            ),
            Cause::Replaced => f.write_str(
                "another file is there now than the one that was opened: put it back, or start again with the new one",
            ),
            Cause::Sqlite(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(error) => write!(f, "{error}"),
            Self::Sql(error) => write!(f, "{error}"),
            Self::Record(id, error) => write!(f, "the record of {id} cannot be read: {error}"),
            Self::Open(why) | Self::Broken(why) => f.write_str(why),
            Self::Undone(why) => write!(f, "a whole transaction was undone: {why}"),
        }
    }
}

impl Fault {
    /// Whether the connection is not to be used again.
    pub(super) fn is_lasting(&self) -> bool {
        let error = match self {
            Self::Broken(_) => return true,
            Self::Sql(error) => error,
            _ => return false,
        };
        !matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::TooBig
                    | ErrorCode::OperationInterrupted
            )
        )
    }

    /// What the caller is told.
    pub(super) fn into_answer(self) -> LedgerError {
        match self {
            Self::Answer(error) => error,
            other => LedgerError::Unavailable(other.to_string()),
        }
    }
}

impl From<LedgerError> for Fault {
    fn from(error: LedgerError) -> Self {
        Self::Answer(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}
