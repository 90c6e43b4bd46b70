//! The ledger: one record per mutating call, which is idempotency store, crash log and audit trail at once
//! (design.md section 3).
//!
//! Read in this order: [`state`] (the transition table), [`record`] (what a record holds, and the pure functions that
//! every engine moves it with), [`proof`] (what verifying holds all of them against), then one engine: `ledger/memory.rs`,
//! `ledger/sqlite.rs`, `ledger/postgres.rs`. Engines store and lock; what may happen to a record is decided here.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

pub mod chain;
pub mod memory;
pub mod postgres;
pub mod proof;
pub mod record;
pub mod sqlite;
pub mod state;
pub mod stored;
pub mod turns;

pub use record::{Intent, Key, Move, Plan, Record, Recorded, SettledBy};
pub use state::State;

/// What every method answers.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// Where operations are recorded. A crash at any point of any method leaves the ledger as it was before the method or
/// as it is after it; what follows for the operation is said at each.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Waits, until `until` at most, for the turn of a group; turns are given in the order in which they were asked for.
    /// Not durable: a crash before or after it means that the turn is lost, and nothing was begun.
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn>;

    /// What is known that concerns a call. A read: a crash means nothing.
    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked>;

    /// Writes an intent, durably: a new record, or the next attempt of one that was RELEASED. With a conclusion
    /// (`Intent::conclusion`) the record is born settled. A crash before it: nothing is known of the operation, and nothing
    /// was sent. A crash after it: the record is found IN_PROGRESS, and is settled when its hold ends; it may never have
    /// been sent. An error that is not a refusal leaves open whether the intent was written: the operation must not be
    /// sent, and what was written is settled as not applied.
    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended>;

    /// Moves a record on, durably, by the transition table; `fence` must be the record's. A crash before it: the record is
    /// as the move before left it, and is settled by whoever comes next. A crash after it: as if there had been none.
    /// Twice with the same fence and move, to a state that is not unsettled, is the same as once: the second writes nothing
    /// and answers the same record. To IN_PROGRESS or IN_DOUBT it is written again: the state, the fence and the attempts are
    /// as after once, but the version grows, the hold begins anew, and where IN_DOUBT stays IN_DOUBT one more look is counted. So a
    /// write that was not acknowledged may be repeated: it can only make the next look later. A note is kept once if it is the last.
    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record>;

    /// Takes a record over whose hold has ended, to settle it: IN_DOUBT, with a new fence, held for `hold`. None: it is
    /// held, was taken over by somebody else or is settled. A crash before it: nothing. After it: the next one takes it
    /// over when this hold ends, and fences this one out.
    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>>;

    /// Waits until a record's version is no longer `version`, or may no longer be. A wait: a crash means nothing.
    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()>;

    /// Records, newest first, from a place onward. A read.
    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>>;

    /// Forgets what has been settled for longer than the retention, at most `limit` records, and says how many. Unsettled
    /// ones are never forgotten. A crash before or after it: the rest is swept the next time.
    fn sweep(&self, limit: usize) -> Answer<'_, usize>;

    /// Whether it can be written to now. A crash means nothing.
    fn check(&self) -> Answer<'_, ()>;
}

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// A key, from the settling of its operation.
    pub key_retention: Duration,
    /// A record, from the settling of its operation. Not shorter than the key's.
    pub record_retention: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self { key_retention: 24 * HOUR, record_retention: 90 * 24 * HOUR }
    }
}

/// The turn of a group. Dropped, it is the next one's.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "held for its drop")] Box<dyn Held>);

/// What a turn holds; given back when dropped.
pub trait Held: fmt::Debug + Send + Sync {}

impl Turn {
    /// A turn that is over when `held` is dropped.
    pub fn new(held: impl Held + 'static) -> Self {
        Self(Box::new(held))
    }
}

/// What a call asks of the ledger before it does anything.
#[derive(Clone, Debug)]
pub struct Look {
    /// The backend that the call works on; part of the scope of keys.
    pub scope: String,
    /// The caller: `Principal::id()`.
    pub caller: String,
    /// The caller's key.
    pub key: Option<Key>,
    /// The request's.
    pub fingerprint: String,
    /// The group that it changes.
    pub group: String,
}

/// What the ledger knows that concerns a call.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The record under the caller's key, if the key is still kept.
    pub by_key: Option<Record>,
    /// Without a key: the same caller's unsettled record of an equal request.
    pub equal: Option<Record>,
    /// An unsettled record of the group (IN_PROGRESS or IN_DOUBT), whoever made it.
    pub unsettled: Option<Record>,
    /// The ledger's time.
    pub now: SystemTime,
}

/// What became of an intent.
#[derive(Clone, Debug)]
pub enum Intended {
    /// It is written. Whoever has this record's fence may send.
    Written(Box<Record>),
    /// The key is another's by now: its record.
    KeyTaken(Box<Record>),
    /// The group has an unsettled operation: its record.
    GroupBusy(Box<Record>),
}

/// Which records.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By id.
    pub id: Option<String>,
    /// In any of these states; empty: in any.
    pub states: Vec<State>,
    /// Of this caller.
    pub caller: Option<String>,
    /// Under this key of the caller's.
    pub key: Option<String>,
    /// Of this group, as `Intent::group` has it.
    pub group: Option<String>,
    /// In this account.
    pub account: Option<String>,
    /// In this Region.
    pub region: Option<String>,
    /// Created at this time or later.
    pub since: Option<SystemTime>,
    /// Created before this time.
    pub until: Option<SystemTime>,
    /// Whose hold ended before this time: who wants to settle asks for them.
    pub held_until: Option<SystemTime>,
    /// Only ids before this one: where the last page ended.
    pub before: Option<String>,
    /// At most so many.
    pub limit: usize,
}

impl Filter {
    /// Whether a record passes all but `before` and `limit`, which are about the list.
    pub fn passes(&self, record: &Record) -> bool {
        fn is(wanted: &Option<String>, has: Option<&str>) -> bool {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == has)
        }
        is(&self.id, Some(&record.id))
            && (self.states.is_empty() || self.states.contains(&record.state))
            && is(&self.caller, Some(&record.caller))
            && is(&self.key, record.key.as_ref().map(Key::as_str))
            && is(&self.group, Some(&record.group))
            && is(&self.account, Some(&record.account))
            && is(&self.region, Some(&record.region))
            && self.since.is_none_or(|since| since <= record.created_at)
            && self.until.is_none_or(|until| record.created_at < until)
            && self.held_until.is_none_or(|before| record.held_until < before)
    }
}

/// Why the ledger did not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerError {
    /// It cannot be read or written now. Whether what was asked for was done is open. The text is for the log.
    Unavailable(String),
    /// The fence is not the record's: somebody else has taken it over, or settled it.
    Fenced,
    /// The transition table has no such move, or there is no such record: a fault of ours.
    Forbidden(String),
    /// The time for waiting is over.
    TooLate,
    /// Too many wait already.
    TooMany,
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(detail) => write!(f, "the ledger is unavailable: {detail}"),
            Self::Fenced => f.write_str("the operation was taken over"),
            Self::Forbidden(detail) => write!(f, "no such move: {detail}"),
            Self::TooLate => f.write_str("waited too long"),
            Self::TooMany => f.write_str("too many wait"),
        }
    }
}

impl std::error::Error for LedgerError {}
