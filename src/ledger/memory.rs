//! The ledger in memory: for the in-process sandbox, whose effects die with it. Bounded: the oldest settled records
//! leave when there are too many.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Answer, Filter, Intended, Intent, Key, Ledger, LedgerError, Look, Looked, Move, Record, Terms,
    Turn, turns::Turns,
};
use crate::{
    clock::Clock,
    telemetry::metrics::{Commits, Metrics},
};

/// The most records. A record of a usual call takes about 2 KiB.
const MAX_RECORDS: usize = 100_000;

/// Longer than from a call's coming to its record.
const LONGEST: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug)]
pub struct Memory {
    terms: Terms,
    clock: Arc<dyn Clock>,
    turns: Turns,
    book: Mutex<Book>,
    /// Tells of every change, in the order in which they wait: a test's seed replays.
    changes: Notify,
    commits: Commits,
}

#[derive(Debug, Default)]
struct Book {
    records: BTreeMap<String, Record>,
    keys: HashMap<(String, String, Key), String>,
    /// The unsettled operation of each group: there is one at most.
    unsettled: HashMap<String, String>,
}

impl Memory {
    /// An empty ledger.
    pub fn new(terms: Terms, clock: Arc<dyn Clock>) -> Self {
        Self {
            terms,
            clock,
            turns: Turns::default(),
            book: Mutex::default(),
            changes: Notify::new(),
            commits: Commits::default(),
        }
    }

    /// Counts its writes.
    #[must_use]
    pub fn counted(self, metrics: &Metrics) -> Self {
        self.commits.count_with(metrics, "memory");
        self
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intend_now(&self, intent: &Intent) -> Result<Intended, LedgerError> {
        let now = self.clock.now();
        let mut book = self.book();
        if let Some(other) = book.unsettled_of(&intent.group).filter(|other| other.id != intent.id)
        {
            return Ok(Intended::GroupBusy(Box::new(other.clone())));
        }
        let under_key = intent.key.as_ref().and_then(|key| {
            book.under_key(&intent.scope, &intent.caller, key, self.terms.key_retention, now)
        });
        if let Some(other) = under_key.filter(|other| other.id != intent.id) {
            return Ok(Intended::KeyTaken(Box::new(other.clone())));
        }
        let record = match book.records.get(&intent.id) {
            Some(known) => known.again(intent, now)?,
            None => Record::begin(intent, now)?,
        };
        book.claim_key(&record);
        book.put(record.clone());
        book.make_room();
        Ok(Intended::Written(Box::new(record)))
    }

    /// Something was written, since then.
    fn tell(&self, began: Instant) {
        self.commits.committed(began.elapsed(), 1);
        self.changes.notify_waiters();
    }
}

impl Book {
    fn unsettled_of(&self, group: &str) -> Option<&Record> {
        self.records.get(self.unsettled.get(group)?)
    }

    /// The record under a key, if the key has not ended.
    fn under_key(
        &self,
        scope: &str,
        caller: &str,
        key: &Key,
        retention: Duration,
        now: SystemTime,
    ) -> Option<&Record> {
        let id = self.keys.get(&(scope.to_owned(), caller.to_owned(), key.clone()))?;
        let record = self.records.get(id)?;
        record.key_ends(retention).is_none_or(|end| now < end).then_some(record)
    }

    /// Only an intent claims its key: what moves later may have lost it to another.
    fn claim_key(&mut self, record: &Record) {
        if let Some(key) = record.key.clone() {
            let key = (record.scope.clone(), record.caller.clone(), key);
            self.keys.insert(key, record.id.clone());
        }
    }

    fn put(&mut self, record: Record) {
        if record.state.is_unsettled() {
            self.unsettled.insert(record.group.clone(), record.id.clone());
        } else if self.unsettled.get(&record.group) == Some(&record.id) {
            self.unsettled.remove(&record.group);
        }
        self.records.insert(record.id.clone(), record);
    }

    fn forget(&mut self, id: &str) {
        let Some(record) = self.records.remove(id) else { return };
        if let Some(key) = record.key {
            let key = (record.scope, record.caller, key);
            if self.keys.get(&key).is_some_and(|under| under == id) {
                self.keys.remove(&key);
            }
        }
    }

    fn make_room(&mut self) {
        if self.records.len() > MAX_RECORDS {
            let settled = self.records.values().find(|record| record.settled_at.is_some());
            if let Some(id) = settled.map(|record| record.id.clone()) {
                self.forget(&id);
            }
        }
    }
}

impl Ledger for Memory {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        Box::pin(self.turns.take(group, until))
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        let Look { scope, caller, key, fingerprint, group } = question;
        let now = self.clock.now();
        let book = self.book();
        let by_key = key.as_ref().and_then(|key| {
            book.under_key(scope, caller, key, self.terms.key_retention, now).cloned()
        });
        let unsettled = book.unsettled_of(group).cloned();
        let equal = unsettled.clone().filter(|record| {
            key.is_none()
                && record.scope == *scope
                && record.caller == *caller
                && record.fingerprint == *fingerprint
        });
        Box::pin(std::future::ready(Ok(Looked { by_key, equal, unsettled, now })))
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        let began = Instant::now();
        let intended = self.intend_now(intent);
        self.tell(began);
        Box::pin(std::future::ready(intended))
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        let began = Instant::now();
        let now = self.clock.now();
        let mut book = self.book();
        let advanced = book
            .records
            .get(id)
            .ok_or_else(|| LedgerError::Forbidden(format!("no record {id}")))
            .and_then(|record| record.advanced(fence, step, now));
        if let Ok(record) = &advanced {
            book.put(record.clone());
        }
        drop(book);
        self.tell(began);
        Box::pin(std::future::ready(advanced))
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        let began = Instant::now();
        let now = self.clock.now();
        let mut book = self.book();
        let taken = book.records.get(id).and_then(|record| record.taken_over(fence, hold, now));
        if let Some(record) = &taken {
            book.put(record.clone());
        }
        drop(book);
        self.tell(began);
        Box::pin(std::future::ready(Ok(taken)))
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            loop {
                // Listens before the look, so that nothing is missed between the two.
                let change = self.changes.notified();
                if self.book().records.get(id).is_none_or(|record| record.version != version) {
                    return Ok(());
                }
                change.await;
            }
        })
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        let book = self.book();
        let below = filter.before.as_deref();
        let newest_first = book.records.values().rev();
        let records = newest_first
            // Ids begin with the time at which a call came, and it is recorded before its deadline is over.
            .take_while(|record| filter.since.is_none_or(|at| at <= record.created_at + LONGEST))
            .filter(|record| below.is_none_or(|before| record.id.as_str() < before))
            .filter(|record| filter.passes(record))
            .take(filter.limit)
            .cloned()
            .collect();
        Box::pin(std::future::ready(Ok(records)))
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        let began = Instant::now();
        let now = self.clock.now();
        let mut book = self.book();
        let retention = self.terms.record_retention;
        let old: Vec<String> = book
            .records
            .values()
            .filter(|record| record.settled_at.is_some_and(|at| at + retention <= now))
            .take(limit)
            .map(|record| record.id.clone())
            .collect();
        old.iter().for_each(|id| book.forget(id));
        drop(book);
        self.tell(began);
        Box::pin(std::future::ready(Ok(old.len())))
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
