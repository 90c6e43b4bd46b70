//! Operations as callers see them: one, a list, and an operator's word on one that nobody else can settle.
//!
//! Who sees what: its own operations whoever may work in their Target at all; those of others by policy. What may not
//! be seen is answered as what is not there.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{Operations, Scribe, Timing, audit, canonical, journal::unavailable, settle};
use crate::{
    access::{Action, Caller, Circumstances, Resource},
    clock::Clock,
    error::{Error, Reason},
    ledger::{Filter, Key, Ledger, LedgerError, Record, SettledBy, State, record::to_millis},
    rule::{AccountId, GroupId, Region, Target, Violation},
};

/// How many records are read at a time, and how many at most for one page: who sees next to nothing of a large ledger
/// gets a short page and a token.
const BATCH: usize = 200;
const MAX_READ: usize = 10_000;

/// The most of one page, as the ledger holds it: gRPC clients take answers of up to 4 MiB.
const MAX_PAGE_BYTES: usize = 3 << 20;

/// How often an operator's step is tried when others move the record at the same time.
const MAX_ROUNDS: usize = 3;

/// The ledger as callers see it.
#[derive(Clone, Debug)]
pub struct Records {
    operations: Operations,
    ledger: Arc<dyn Ledger>,
    scribe: Arc<dyn Scribe>,
    clock: Arc<dyn Clock>,
    timing: Timing,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Which {
    /// By its id.
    Id(String),
    /// By a key of the caller's own: in this account, in this Region, or both. The newest, if there are several.
    Key(Key, Option<AccountId>, Option<Region>),
}

/// Which operations, and which page of them.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// In any of these states; empty: in any.
    pub states: Vec<State>,
    /// Of this caller, by its id.
    pub caller: Option<String>,
    /// In this account.
    pub account: Option<AccountId>,
    /// In this Region.
    pub region: Option<Region>,
    /// Of this group.
    pub group: Option<GroupId>,
    /// Created at this time or later.
    pub since: Option<SystemTime>,
    /// Created before this time.
    pub until: Option<SystemTime>,
    /// How many at most.
    pub size: usize,
    /// Where to go on.
    pub token: Option<String>,
}

/// A page of operations, and the token of the next one.
pub type RecordPage = (Vec<Record>, Option<String>);

/// An operator's word.
#[derive(Clone, Debug)]
pub struct Word {
    /// The operation.
    pub id: String,
    /// SUCCEEDED or RELEASED.
    pub to: State,
    /// How that is known.
    pub reason: String,
}

/// What one caller may see. It asks policies once for each Target.
struct Sight<'a> {
    operations: &'a Operations,
    caller: Caller<'a>,
    id: String,
    /// Of each Target: whether the caller may work there at all, and once asked, whether it sees all.
    known: HashMap<Target, (bool, Option<bool>)>,
}

// === impl Records ===

impl Records {
    /// Over a ledger, as far as the policies of `operations` allow.
    pub fn new(
        operations: Operations,
        ledger: Arc<dyn Ledger>,
        scribe: Arc<dyn Scribe>,
        timing: Timing,
    ) -> Self {
        let clock = operations.clock.clone();
        Self { operations, ledger, scribe, clock, timing }
    }

    /// One operation that the caller may see.
    pub async fn get(&self, caller: Caller<'_>, which: &Which) -> Result<Record, Error> {
        let record = match which {
            Which::Id(id) => self.find(id).await?,
            Which::Key(key, account, region) => {
                let filter = Filter {
                    caller: Some(caller.principal.id()),
                    key: Some(key.as_str().to_owned()),
                    account: account.as_ref().map(ToString::to_string),
                    region: region.as_ref().map(ToString::to_string),
                    limit: BATCH,
                    ..Filter::default()
                };
                let backend = self.operations.backend().identity();
                let here =
                    |record: &Record| record.scope == canonical::scope(&backend, &record.target());
                let records = self.ledger.list(&filter).await.map_err(unreadable)?;
                records.into_iter().find(here)
            }
        };
        let mut sight = Sight::new(&self.operations, caller);
        record.filter(|record| sight.has(Action::GetOperation, record)).ok_or_else(not_found)
    }

    /// A page of the operations that the caller may see, newest first.
    pub async fn list(&self, caller: Caller<'_>, query: &Query) -> Result<RecordPage, Error> {
        let id = caller.principal.id();
        let binding = query.binding(&id);
        let mut filter = self.filter(query)?;
        filter.before =
            query.token.as_deref().map(|token| place_in(token, &binding)).transpose()?;
        let mut sight = Sight::new(&self.operations, caller);
        let (mut found, mut bytes, mut read) = (Vec::<Record>::new(), 0, 0);
        let token = |id: &str| BASE64_URL_SAFE_NO_PAD.encode(format!("{id} {binding}"));
        loop {
            let records = self.ledger.list(&filter).await.map_err(unreadable)?;
            let last = records.len() < filter.limit;
            read += records.len();
            for record in records {
                filter.before = Some(record.id.clone());
                if !sight.has(Action::ListOperations, &record) {
                    continue;
                }
                let size = serde_json::to_vec(&record).map_or(0, |json| json.len());
                if let Some(end) = found.last()
                    && (found.len() >= query.size || bytes + size > MAX_PAGE_BYTES)
                {
                    let token = token(&end.id);
                    return Ok((found, Some(token)));
                }
                bytes += size;
                found.push(record);
            }
            if last {
                return Ok((found, None));
            }
            if read >= MAX_READ {
                return Ok((found, filter.before.as_deref().map(token)));
            }
        }
    }

    /// Settles an operation by an operator's word.
    pub async fn settle(&self, caller: Caller<'_>, word: &Word) -> Result<Record, Error> {
        let mut sight = Sight::new(&self.operations, caller);
        for _ in 0..MAX_ROUNDS {
            let Some(record) = self.find(&word.id).await? else { return Err(not_found()) };
            sight.may_settle(&record)?;
            let held = match record.state {
                State::Unresolved => record,
                State::InProgress | State::InDoubt => {
                    let hold = self.timing.settling();
                    let taken = self.ledger.take_over(&record.id, record.fence, hold).await;
                    match taken.map_err(unreadable)? {
                        Some(held) => held,
                        None => match self.left(&record) {
                            Some(left) => return Err(held_by_others(&record, left)),
                            None => continue,
                        },
                    }
                }
                _ if record.settled_by == Some(SettledBy::Operator) && record.state == word.to => {
                    return Ok(record);
                }
                State::Succeeded | State::Refused | State::Released => {
                    return Err(settled(&record));
                }
            };
            let Word { to, reason, .. } = word;
            let (operations, scribe) = (&self.operations, self.scribe.as_ref());
            let step =
                settle::by_operator(operations, scribe, &held, *to, caller.principal, reason).await;
            match self.ledger.advance(&held.id, held.fence, &step).await {
                Ok(record) => {
                    audit::left(&self.operations.metrics, &record);
                    return Ok(record);
                }
                // Somebody else was quicker.
                Err(LedgerError::Fenced | LedgerError::Forbidden(_)) => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        let message = "others work on this operation all the time";
        Err(Error::later(Reason::OperationInProgress, message, Duration::from_secs(1)))
    }

    async fn find(&self, id: &str) -> Result<Option<Record>, Error> {
        let filter = Filter { id: Some(id.to_owned()), limit: 1, ..Filter::default() };
        let found = self.ledger.list(&filter).await.map_err(unreadable)?;
        Ok(found.into_iter().next())
    }

    /// How long a record is held by somebody yet. None: not any more.
    fn left(&self, record: &Record) -> Option<Duration> {
        let left = record.held_until.duration_since(self.clock.now()).ok()?;
        (!left.is_zero()).then_some(left)
    }

    fn filter(&self, query: &Query) -> Result<Filter, Error> {
        let Query { states, caller, account, region, group, since, until, .. } = query.clone();
        let mut filter = Filter {
            states,
            caller,
            account: account.as_ref().map(ToString::to_string),
            region: region.as_ref().map(ToString::to_string),
            since,
            until,
            limit: BATCH,
            ..Filter::default()
        };
        if let Some(group) = group {
            let backend = self.operations.backend();
            let target = backend.resolve(account, region);
            let target = target.map_err(|error| Error::from_backend(error, ""))?;
            let scope = canonical::scope(&backend.identity(), &target);
            filter.group = Some(canonical::turn(&scope, group.as_str()));
        }
        Ok(filter)
    }
}

// === impl Query ===

impl Query {
    /// What a token belongs to: the caller and all filters.
    fn binding(&self, caller: &str) -> String {
        let Self { states, caller: of, account, region, group, since, until, size: _, token: _ } =
            self;
        let mut states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        states.sort_unstable();
        states.dedup();
        let time = |time: &Option<SystemTime>| time.map(to_millis).map(|time| time.to_string());
        let parts = [
            Some(states.join(",")),
            of.clone(),
            account.as_ref().map(ToString::to_string),
            region.as_ref().map(ToString::to_string),
            group.as_ref().map(ToString::to_string),
            time(since),
            time(until),
        ];
        let parts = parts.into_iter().map(Option::unwrap_or_default);
        let mut binding = canonical::sha256([caller.to_owned()].into_iter().chain(parts));
        binding.truncate(32);
        binding
    }
}

/// The operation after which a token says to go on.
fn place_in(token: &str, binding: &str) -> Result<String, Error> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = text.as_deref().and_then(|text| text.split_once(' '));
    let message = match parts {
        Some((id, of)) if of == binding => return Ok(id.to_owned()),
        Some(_) => "The token is of another caller, or of a list with other filters.",
        None => "It is no token of an earlier answer.",
    };
    Err(Error::invalid(vec![Violation::new("page_token", "InvalidParameterValue", message)]))
}

// === impl Sight ===

impl<'a> Sight<'a> {
    fn new(operations: &'a Operations, caller: Caller<'a>) -> Self {
        Self { operations, caller, id: caller.principal.id(), known: HashMap::new() }
    }

    /// Whether it sees the record by that action.
    fn has(&mut self, action: Action, record: &Record) -> bool {
        let target = record.target();
        let (access, all) = match self.known.get(&target) {
            Some(known) => *known,
            None => (self.may(Action::Access, &target).is_ok(), None),
        };
        let mine = record.caller == self.id;
        let all = if access && !mine && all.is_none() {
            Some(self.may(action, &target).is_ok())
        } else {
            all
        };
        self.known.insert(target, (access, all));
        access && (mine || all == Some(true))
    }

    /// Whether it may settle the record. If it may not even see it, it is not there.
    fn may_settle(&mut self, record: &Record) -> Result<(), Error> {
        let target = record.target();
        if self.may(Action::Access, &target).is_err() {
            return Err(not_found());
        }
        let denied = match self.may(Action::SettleOperation, &target) {
            Ok(()) => return Ok(()),
            Err(denied) => denied,
        };
        Err(if self.has(Action::GetOperation, record) { denied } else { not_found() })
    }

    fn may(&self, action: Action, target: &Target) -> Result<(), Error> {
        let circumstances = Circumstances::default();
        self.operations.access.check(self.caller, action, Resource::Target(target), circumstances)
    }
}

/// As for a change, but nothing was to be sent.
fn unreadable(error: LedgerError) -> Error {
    let is_down = matches!(error, LedgerError::Unavailable(_));
    let error = unavailable(error);
    if !is_down {
        return error;
    }
    Error { message: "the ledger does not answer now; ask again".to_owned(), ..error }
}

fn not_found() -> Error {
    Error::new(Reason::OperationNotFound, "there is no such operation, or it is not yours to see")
}

fn settled(record: &Record) -> Error {
    let message = format!("the operation is settled already: it is {}", record.state);
    let error = Error::new(Reason::OperationSettled, message);
    Error { operation_id: Some(record.id.as_str().into()), ..error }
}

fn held_by_others(record: &Record, left: Duration) -> Error {
    let message =
        format!("the operation is {}, and is settled by itself if it can be", record.state);
    let error = Error::later(Reason::OperationInProgress, message, left);
    Error { operation_id: Some(record.id.as_str().into()), ..error }
}
