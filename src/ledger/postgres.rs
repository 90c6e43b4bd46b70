//! The ledger on PostgreSQL: for several replicas, which share it.
//!
//! Read on in `postgres/sql.rs`: every statement is there, and why each is a whole transaction. `writer.rs` writes
//! what waits together, `schema.rs` opens, `link.rs` keeps connections and bounds calls, `queue.rs` gives turns, `watch.rs`
//! wakes who waits, `chain.rs` verifies, `budget.rs` shares EC2's budget. What is promised under which failure: docs/reliability-postgresql.md.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Row, types::Type};

use self::{
    link::Link,
    queue::Queue,
    sql::{Param, Sought, as_millis, from_millis, key_hash, key_hash_of, storable},
    watch::Watch,
    writer::{Draft, Write, Writer},
};
use super::{
    Answer, Filter, Intended, Intent, Ledger, LedgerError, Look, Looked, Move, Record, Terms, Turn,
};
use crate::{random::Random, telemetry::metrics::Metrics};

mod budget;
mod chain;
mod link;
mod queue;
mod schema;
mod settings;
mod sql;
mod tls;
mod watch;
mod writer;

pub use self::{budget::Budgets, chain::Verified, schema::OpenError, settings::Settings};

/// How often a write is tried again when others are quicker.
const ATTEMPTS: usize = 16;

/// The most unsettled records of this process that are known without a look.
const MAX_KNOWN: usize = 10_000;

/// How many lists that may go through much are searched for at once.
const SEARCHES: usize = 2;

/// How long what was written may stay unsealed while there are writes.
const SEALING: Duration = Duration::from_secs(1);

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

struct Inner {
    terms: Terms,
    link: Arc<Link>,
    queue: Queue,
    watch: Watch,
    /// What this process has written and not settled: its next move needs no look.
    known: Mutex<HashMap<String, Record>>,
    /// A sealing is under way, or about to be.
    seals: AtomicBool,
    writer: Writer,
    /// Searches that may go through much: they leave connections to the calls.
    searches: Semaphore,
}

impl Postgres {
    /// Connects, checks the server, makes the schema where there is none, and binds the ledger to `backend` (such as
    /// `ec2` or `sandbox`).
    pub async fn open(
        settings: &Settings,
        backend: &str,
        terms: Terms,
        random: Arc<dyn Random>,
    ) -> Result<Self, OpenError> {
        if settings.is_exposed() {
            let place = settings.place();
            tracing::warn!(
                place,
                "the database's certificate is not checked: set sslmode=verify-full"
            );
        }
        let link = Arc::new(Link::new(settings)?);
        schema::open(&link, backend).await?;
        Ok(Self(Arc::new(Inner {
            terms,
            queue: Queue::new(link.clone(), random),
            writer: Writer::new(link.clone()),
            link,
            watch: Watch::default(),
            known: Mutex::default(),
            seals: AtomicBool::new(false),
            searches: Semaphore::new(SEARCHES),
        })))
    }

    /// Counts its commits.
    #[must_use]
    pub fn counted(self, metrics: &Metrics) -> Self {
        self.0.writer.count_with(metrics);
        self
    }

    /// Reads everything and says what does not fit: changed, removed or reordered records and events.
    pub async fn verify(&self) -> Result<Verified, LedgerError> {
        chain::seal(&self.0.link).await?;
        chain::verify(&self.0.link).await
    }

    /// Records in the order of their ids, at most `limit`, from behind `after`: call it again with the last one's id
    /// until there are none.
    pub async fn export(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        chain::export(&self.0.link, after, limit).await
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn intend_now(&self, intent: &Intent) -> Result<Intended, LedgerError> {
        let hash = key_hash_of(intent);
        if intent.fence == 0 && self.0.link.now().is_some() {
            let begun = intent.clone();
            let draft = Draft::Now(Box::new(move |now| Record::begin(&begun, now).ok()));
            let write = Write { draft, key_hash: hash.clone(), over: None, frees: None };
            if let Some(record) = self.write(write).await? {
                return Ok(Intended::Written(Box::new(record)));
            }
        }
        for _ in 0..ATTEMPTS {
            let [mine, held, busy] =
                self.read(Some(&intent.id), hash.as_ref(), Some(&intent.group)).await?;
            let at = from_millis(mine.0);
            if let Some(other) = busy.1.filter(|other| other.id != intent.id) {
                return Ok(Intended::GroupBusy(Box::new(other)));
            }
            let mut frees = None;
            if let Some(other) = held.1.filter(|other| other.id != intent.id) {
                if other.key_ends(self.0.terms.key_retention).is_none_or(|end| at < end) {
                    return Ok(Intended::KeyTaken(Box::new(other)));
                }
                frees = Some((other.id, other.version));
            }
            let (record, over) = match &mine.1 {
                Some(known) => (known.again(intent, at)?, Some((known.version, known.state))),
                None => (Record::begin(intent, at)?, None),
            };
            let draft = Draft::At(Box::new(record), mine.0);
            let write = Write { draft, key_hash: hash.clone(), over, frees };
            if let Some(record) = self.write(write).await? {
                return Ok(Intended::Written(Box::new(record)));
            }
        }
        Err(self.contended(&intent.id))
    }

    async fn advance_now(&self, id: &str, fence: u64, step: &Move) -> Result<Record, LedgerError> {
        let known = self.known().remove(id);
        if let Some(known) = known {
            let (over, step) = (Some((known.version, known.state)), step.clone());
            let draft = Draft::Now(Box::new(move |now| {
                known.advanced(fence, &step, now).ok().filter(|next| *next != known)
            }));
            let write = Write { draft, key_hash: None, over, frees: None };
            if let Some(record) = self.write(write).await? {
                return Ok(record);
            }
        }
        for _ in 0..ATTEMPTS {
            let [(now, record), ..] = self.read(Some(id), None, None).await?;
            let record = record.ok_or_else(|| LedgerError::Forbidden(format!("no record {id}")))?;
            let next = record.advanced(fence, step, from_millis(now))?;
            if next == record {
                return Ok(record);
            }
            if let Some(record) = self.write_over(&record, next, now).await? {
                return Ok(record);
            }
        }
        Err(self.contended(id))
    }

    async fn take_over_now(
        &self,
        id: &str,
        fence: u64,
        hold: Duration,
    ) -> Result<Option<Record>, LedgerError> {
        for _ in 0..ATTEMPTS {
            let [(now, record), ..] = self.read(Some(id), None, None).await?;
            let Some(record) = record else { return Ok(None) };
            let Some(next) = record.taken_over(fence, hold, from_millis(now)) else {
                return Ok(None);
            };
            if let Some(record) = self.write_over(&record, next, now).await? {
                return Ok(Some(record));
            }
        }
        Err(self.contended(id))
    }

    /// The record with an id, the one with a key, and the unsettled one of a group, each with the database's time.
    async fn read(
        &self,
        id: Option<&str>,
        key_hash: Option<&Vec<u8>>,
        group: Option<&str>,
    ) -> Result<[(i64, Option<Record>); 3], LedgerError> {
        let (id, group) = (id.map(storable), group.map(storable));
        let params: [Param<'_>; 3] =
            [(&id, Type::TEXT), (&key_hash, Type::BYTEA), (&group, Type::TEXT)];
        let sent = Instant::now();
        let rows = self.0.link.rows(sql::LOOK, &params).await?;
        let said = rows.first().and_then(|row| Some((row.try_get(0).ok()?, row)));
        let Some((now, row)) = said else {
            return Err(LedgerError::Unavailable("PostgreSQL: no answer to a look".to_owned()));
        };
        self.0.link.heard(now, sent);
        let read = |at| Ok::<_, LedgerError>((now, some_record(row, at)?));
        Ok([read(1)?, read(2)?, read(3)?])
    }

    /// Writes a record over the one that was read.
    async fn write_over(
        &self,
        read: &Record,
        next: Record,
        now: i64,
    ) -> Result<Option<Record>, LedgerError> {
        let draft = Draft::At(Box::new(next), now);
        let over = Some((read.version, read.state));
        self.write(Write { draft, key_hash: None, over, frees: None }).await
    }

    /// Writes a record, with its event. None: somebody was quicker, or the time is not right.
    async fn write(&self, write: Write) -> Result<Option<Record>, LedgerError> {
        let written = self.0.writer.write(write).await?;
        if let Some(record) = &written {
            self.remember(record);
            self.0.watch.tell(&record.id, record.version);
            self.seal_soon();
        }
        Ok(written)
    }

    fn remember(&self, record: &Record) {
        let mut known = self.known();
        if !record.state.is_unsettled() {
            known.remove(&record.id);
            return;
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(record.id.clone(), record.clone());
    }

    /// Sees to it that what was written is sealed, once in a while and not in the way of the call.
    fn seal_soon(&self) {
        if !self.0.seals.swap(true, Ordering::AcqRel) {
            let inner = self.0.clone();
            tokio::spawn(async move {
                sleep(SEALING).await;
                inner.seals.store(false, Ordering::Release);
                if let Err(trouble) = chain::seal(&inner.link).await {
                    tracing::debug!(?trouble, "events stay unsealed until the next time");
                }
            });
        }
    }

    async fn look_now(&self, question: &Look) -> Result<Looked, LedgerError> {
        let Look { scope, caller, key, fingerprint, group } = question;
        let hash = key.as_ref().map(|key| key_hash(scope, caller, key.as_str()));
        let [(now, _), (_, held), (_, unsettled)] =
            self.read(None, hash.as_ref(), Some(group)).await?;
        let now = from_millis(now);
        let retention = self.0.terms.key_retention;
        let by_key = held.filter(|record| record.key_ends(retention).is_none_or(|end| now < end));
        let equal = unsettled.clone().filter(|record| {
            key.is_none()
                && record.scope == *scope
                && record.caller == *caller
                && record.fingerprint == *fingerprint
        });
        Ok(Looked { by_key, equal, unsettled, now })
    }

    async fn sweep_now(&self, limit: usize) -> Result<usize, LedgerError> {
        let age = as_millis(self.0.terms.record_retention);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params: [Param<'_>; 2] = [(&age, Type::INT8), (&limit, Type::INT8)];
        let link = &self.0.link;
        let rows = link.rows(sql::SWEEP, &params).await?;
        chain::seal(link).await?;
        chain::cut(link, self.0.terms.record_retention).await?;
        link.rows(sql::SWEEP_TURNS, &[]).await?;
        let gone = rows.first().and_then(|row| row.try_get::<_, i64>(0).ok());
        Ok(gone.and_then(|gone| usize::try_from(gone).ok()).unwrap_or_default())
    }

    fn contended(&self, id: &str) -> LedgerError {
        let place = self.0.link.place();
        LedgerError::Unavailable(format!(
            "PostgreSQL at {place}: others were quicker {ATTEMPTS} times to write {id} or what it needs"
        ))
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("place", &self.0.link.place()).finish_non_exhaustive()
    }
}

/// A record as a row holds it.
fn record(row: &Row, at: usize) -> Result<Record, LedgerError> {
    some_record(row, at)?
        .ok_or_else(|| LedgerError::Unavailable("PostgreSQL: a row without a record".to_owned()))
}

fn some_record(row: &Row, at: usize) -> Result<Option<Record>, LedgerError> {
    let text: Option<&str> = row
        .try_get(at)
        .map_err(|error| LedgerError::Unavailable(format!("PostgreSQL: {error}")))?;
    text.map(|text| {
        serde_json::from_str(text).map_err(|error| {
            LedgerError::Unavailable(format!("PostgreSQL: a record that cannot be read: {error}"))
        })
    })
    .transpose()
}

impl Ledger for Postgres {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        Box::pin(self.0.queue.take(group, until))
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        Box::pin(self.look_now(question))
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        Box::pin(self.intend_now(intent))
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        Box::pin(self.advance_now(id, fence, step))
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        Box::pin(self.take_over_now(id, fence, hold))
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        Box::pin(self.0.watch.changed(&self.0.link, id, version))
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        Box::pin(async move {
            let sought = Sought::by(filter);
            let _search = if sought.is_short() {
                None
            } else {
                // Within a call's bound, as everything.
                let free = timeout(self.0.link.bound(), self.0.searches.acquire()).await;
                let busy = || "PostgreSQL: others search, for as long as a call may take";
                Some(free.map_err(|_| LedgerError::Unavailable(busy().to_owned()))?)
            };
            let (statement, params) = sought.statement();
            let rows = self.0.link.rows(statement, &params).await?;
            rows.iter().map(|row| record(row, 0)).collect()
        })
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        Box::pin(self.sweep_now(limit))
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let rows = self.0.link.rows(sql::CHECK, &[]).await?;
            match rows.first() {
                Some(_) => Ok(()),
                None => Err(LedgerError::Unavailable("PostgreSQL: the ledger is gone".to_owned())),
            }
        })
    }
}
