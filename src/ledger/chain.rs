//! The chain of events: every write of a record appends one, and each holds the hash of the one before, so that a record
//! that was changed, removed or put elsewhere by other hands is found. Pure; engines store it.
//!
//! There is no secret in it. It finds damage and careless hands; whoever can write the whole store can make a new chain,
//! unless its head was noted elsewhere.

use sha2::{Digest, Sha256};

use super::Record;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What the kind of an event is when its record was swept; else the record's state.
pub const SWEPT: &str = "SWEPT";

/// One write of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The operation.
    pub operation: String,
    /// The record's version.
    pub version: u64,
    /// The record's state, or [`SWEPT`].
    pub kind: String,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Of the record as it was stored.
    pub digest: Hash,
}

impl Event {
    /// The event of a record that is stored as `json`.
    pub fn of(record: &Record, json: &str, at: u64) -> Self {
        Self {
            operation: record.id.clone(),
            version: record.version,
            kind: record.state.as_str().to_owned(),
            at,
            digest: digest(json),
        }
    }

    /// The hash of the chain up to this event.
    pub fn hash(&self, before: &Hash) -> Hash {
        let mut hash = Sha256::new();
        hash.update(before);
        for text in [&self.operation, &self.kind] {
            // With their lengths, so that no two events look alike.
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text);
        }
        hash.update(self.version.to_be_bytes());
        hash.update(self.at.to_be_bytes());
        hash.update(self.digest);
        hash.finalize().into()
    }
}

/// Of a stored record.
pub fn digest(json: &str) -> Hash {
    Sha256::digest(json).into()
}

/// Of texts of any length, no two lists of them alike.
pub(super) fn digest_of(texts: &[&str]) -> Hash {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

/// A hash for people.
pub fn hex(hash: &Hash) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let event = Event {
            operation: "op-1".into(),
            version: 1,
            kind: "REFUSED".into(),
            at: 5,
            digest: digest("{}"),
        };
        let hash = event.hash(&[0; 32]);
        assert_eq!(hash, event.clone().hash(&[0; 32]));
        for other in [
            Event { operation: "op-1R".into(), kind: "EFUSED".into(), ..event.clone() },
            Event { version: 2, ..event.clone() },
            Event { kind: SWEPT.into(), ..event.clone() },
            Event { at: 6, ..event.clone() },
            Event { digest: digest("{ }"), ..event.clone() },
        ] {
            assert_ne!(other.hash(&[0; 32]), hash, "{other:?}");
        }
        assert_ne!(event.hash(&[1; 32]), hash);
        assert_eq!(hex(&digest("")).get(..8), Some("e3b0c442"));
    }
}
