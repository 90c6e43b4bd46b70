//! `rate_limit_...` and `[[rate_limits]]`: how often each caller may call.

use std::{cell::RefCell, collections::HashSet};

use super::{
    keys::{RATE_LIMIT_MEMBERS, RATE_LIMITS},
    reader::Reader,
    tables::{self, Entry, quoted},
};

/// How often each caller may call. By default as often as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Everyone's limit of reads; none: no limit.
    pub read: Option<Rate>,
    /// Everyone's limit of changes.
    pub mutate: Option<Rate>,
    /// Other limits for some, in the file's order.
    pub overrides: Vec<RateOverride>,
    /// Whether what is over a limit is only logged.
    pub report_only: bool,
}

/// A limit: a bucket that holds `burst` calls and is filled at a steady rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many calls come back in a second. At least one.
    pub per_second: u32,
    /// How many calls may come at once. At least one.
    pub burst: u32,
}

/// A limit other than everyone's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateOverride {
    /// Whose.
    pub caller: LimitedCaller,
    /// Of which calls.
    pub class: CallClass,
    /// None: no limit.
    pub rate: Option<Rate>,
}

/// Whom a limit is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LimitedCaller {
    /// The principal with this id.
    Principal(String),
    /// Each principal in this group.
    Group(String),
}

/// The classes of calls that limits count apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallClass {
    /// Reads.
    Read,
    /// What changes something, dry runs included.
    Mutate,
}

impl CallClass {
    /// `read` or `mutate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Mutate => "mutate",
        }
    }
}

/// The most calls a second or at once.
const MAX: u64 = 1_000_000;

/// Reads the settings and the tables.
pub fn read(reader: &mut Reader<'_>) -> RateLimits {
    let mut rate = |per_second, burst| {
        let (rate, at_once) = (reader.count(per_second), reader.count(burst));
        (rate > 0).then_some(Rate { per_second: rate, burst: at_once })
    };
    let read = rate("rate_limit_read_per_second", "rate_limit_read_burst");
    let mutate = rate("rate_limit_mutate_per_second", "rate_limit_mutate_burst");
    let report_only = reader.word("rate_limit_mode") == "report-only";
    RateLimits { read, mutate, overrides: overrides(reader), report_only }
}

fn overrides(reader: &mut Reader<'_>) -> Vec<RateOverride> {
    let known = RefCell::new(HashSet::new());
    tables::read(reader, RATE_LIMITS, RATE_LIMIT_MEMBERS, |entry| {
        let limit = read_override(entry)?;
        if !known.borrow_mut().insert((limit.caller.clone(), limit.class)) {
            return entry.refuse("", "has the same caller and class as one before it".to_owned());
        }
        note(entry, &limit);
        Some(limit)
    })
}

/// The limit, unless something is wrong with it. Everything wrong in the table is reported.
fn read_override(entry: &mut Entry<'_, '_, '_>) -> Option<RateOverride> {
    let caller = match (entry.has("principal"), entry.has("group")) {
        (true, false) => entry.text("principal").map(LimitedCaller::Principal),
        (false, true) => entry.text("group").map(LimitedCaller::Group),
        (false, false) | (true, true) => {
            entry.refuse("", "takes either a principal or a group".to_owned())
        }
    };
    let class = entry.text("class").and_then(|text| match text.as_str() {
        "read" => Some(CallClass::Read),
        "mutate" => Some(CallClass::Mutate),
        _ => entry.refuse("class", format!("takes one of read, mutate, not {text:?}")),
    });
    let per_second = entry.number("per_second", 0, MAX);
    let burst = entry.number("burst", 1, MAX);
    let rate = match (per_second?, burst) {
        (0, None) => None,
        (0, Some(_)) => {
            return entry.refuse("burst", "does nothing where per_second is 0".to_owned());
        }
        (per_second, burst) => Some(Rate {
            per_second: u32::try_from(per_second).ok()?,
            burst: u32::try_from(burst.unwrap_or(per_second)).ok()?,
        }),
    };
    Some(RateOverride { caller: caller?, class: class?, rate })
}

fn note(entry: &mut Entry<'_, '_, '_>, limit: &RateOverride) {
    let caller = match &limit.caller {
        LimitedCaller::Principal(id) => ("principal", quoted(id)),
        LimitedCaller::Group(group) => ("group", quoted(group)),
    };
    let mut members = vec![
        caller,
        ("class", quoted(limit.class.as_str())),
        ("per_second", limit.rate.map_or(0, |rate| rate.per_second).to_string()),
    ];
    members.extend(limit.rate.map(|rate| ("burst", rate.burst.to_string())));
    entry.note(&members);
}
