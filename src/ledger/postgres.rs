//! The ledger on PostgreSQL: for several replicas, which share it.
//!
//! Read on in `postgres/sql.rs`: every statement is there, and why each is a whole transaction. `schema.rs` opens,
//! `link.rs` keeps connections and bounds calls, `queue.rs` gives turns, `watch.rs` wakes who waits, `chain.rs` seals and
//! verifies, `budget.rs` shares EC2's budget. What is promised under which failure: docs/reliability-postgresql.md.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_postgres::{Row, types::Type};

use self::{
    link::{Link, Trouble},
    queue::Queue,
    sql::{Columns, Param, Sought, as_millis, from_millis, key_hash, key_hash_of, storable},
    watch::Watch,
};
use super::{
    Answer, Filter, Intended, Intent, Ledger, LedgerError, Look, Looked, Move, Record, Terms, Turn,
};
use crate::{
    random::Random,
    telemetry::metrics::{Commits, Metrics},
};

mod budget;
mod chain;
mod link;
mod queue;
mod schema;
mod settings;
mod sql;
mod tls;
mod watch;

pub use self::{budget::Budgets, chain::Verified, schema::OpenError, settings::Settings};

/// By how much the time of a write may differ from the database's when it was not asked for it just now.
const TOLERANCE: Duration = Duration::from_millis(100);

/// How often a write is tried again when others are quicker.
const ATTEMPTS: usize = 16;

/// The most unsettled records of this process that are known without a look.
const MAX_KNOWN: usize = 10_000;

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
    commits: Commits,
}

/// When a write says it is, and by how much that may be wrong.
#[derive(Clone, Copy)]
struct Now {
    millis: i64,
    tolerance: i64,
}

/// How a record is written.
enum Write<'a> {
    /// It is new.
    New { key_hash: Option<&'a Vec<u8>> },
    /// It is still as it was read. No hash: the key is as it was.
    Over { version: u64, key_hash: Option<&'a Vec<u8>> },
}

/// An expired key that has to be freed: whose, and its version.
struct Expired {
    id: String,
    version: i64,
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
            link,
            watch: Watch::default(),
            known: Mutex::default(),
            seals: AtomicBool::new(false),
            commits: Commits::default(),
        })))
    }

    /// Counts its commits.
    #[must_use]
    pub fn counted(self, metrics: &Metrics) -> Self {
        self.0.commits.count_with(metrics, "postgres");
        self
    }

    /// Reads everything and says what does not fit: changed, removed or reordered records and events.
    pub async fn verify(&self) -> Result<Verified, LedgerError> {
        chain::seal(&self.0.link).await?;
        chain::verify(&self.0.link, &self.0.terms).await
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

    /// What the row's first column says.
    fn hear(&self, rows: &[Row]) -> Option<i64> {
        let now = rows.first()?.try_get(0).ok()?;
        self.0.link.heard(now);
        Some(now)
    }

    async fn intend_now(&self, intent: &Intent) -> Result<Intended, LedgerError> {
        let hash = key_hash_of(intent);
        let guess = self.guess().filter(|_| intent.fence == 0);
        if let Some(now) = guess {
            let record = Record::begin(intent, from_millis(now.millis))?;
            let write = Write::New { key_hash: hash.as_ref() };
            if let Some(record) = self.write(record, now, &write, None).await? {
                return Ok(Intended::Written(Box::new(record)));
            }
        }
        for _ in 0..ATTEMPTS {
            let [mine, held, busy] =
                self.read(Some(&intent.id), hash.as_ref(), Some(&intent.group)).await?;
            let now = Now { millis: mine.0, tolerance: as_millis(self.0.link.bound()) };
            let at = from_millis(now.millis);
            if let Some(other) = busy.1.filter(|other| other.id != intent.id) {
                return Ok(Intended::GroupBusy(Box::new(other)));
            }
            let mut expired = None;
            if let Some(other) = held.1.filter(|other| other.id != intent.id) {
                if other.key_ends(self.0.terms.key_retention).is_none_or(|end| at < end) {
                    return Ok(Intended::KeyTaken(Box::new(other)));
                }
                let version = i64::try_from(other.version).unwrap_or(i64::MAX);
                expired = Some(Expired { id: storable(&other.id), version });
            }
            let (record, write) = match &mine.1 {
                Some(known) => {
                    let write = Write::Over { version: known.version, key_hash: hash.as_ref() };
                    (known.again(intent, at)?, write)
                }
                None => (Record::begin(intent, at)?, Write::New { key_hash: hash.as_ref() }),
            };
            if let Some(record) = self.write(record, now, &write, expired).await? {
                return Ok(Intended::Written(Box::new(record)));
            }
        }
        Err(self.contended(&intent.id))
    }

    async fn advance_now(&self, id: &str, fence: u64, step: &Move) -> Result<Record, LedgerError> {
        let known = self.known().remove(id);
        if let (Some(known), Some(now)) = (known, self.guess())
            && let Ok(next) = known.advanced(fence, step, from_millis(now.millis))
            && next != known
        {
            let write = Write::Over { version: known.version, key_hash: None };
            if let Some(record) = self.write(next, now, &write, None).await? {
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
            let now = Now { millis: now, tolerance: as_millis(self.0.link.bound()) };
            let write = Write::Over { version: record.version, key_hash: None };
            if let Some(record) = self.write(next, now, &write, None).await? {
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
            let now = Now { millis: now, tolerance: as_millis(self.0.link.bound()) };
            let write = Write::Over { version: record.version, key_hash: None };
            if let Some(record) = self.write(next, now, &write, None).await? {
                return Ok(Some(record));
            }
        }
        Err(self.contended(id))
    }

    /// The database's time without asking: true to a tenth of a second, or the write is not done.
    fn guess(&self) -> Option<Now> {
        let millis = self.0.link.now()?;
        Some(Now { millis, tolerance: as_millis(TOLERANCE) })
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
        let rows = self.0.link.rows(sql::LOOK, &params).await?;
        let (Some(now), Some(row)) = (self.hear(&rows), rows.first()) else {
            return Err(LedgerError::Unavailable("PostgreSQL: no answer to a look".to_owned()));
        };
        let read = |at| Ok::<_, LedgerError>((now, some_record(row, at)?));
        Ok([read(1)?, read(2)?, read(3)?])
    }

    /// Writes a record, with its event, in one transaction. None: somebody was quicker, or the time is not right.
    async fn write(
        &self,
        mut record: Record,
        now: Now,
        how: &Write<'_>,
        expired: Option<Expired>,
    ) -> Result<Option<Record>, LedgerError> {
        // As it will be read.
        record.held_until = from_millis(sql::millis(record.held_until));
        let columns = Columns::of(&record, &self.0.terms)?;
        let (statement, key_hash, version) = match how {
            Write::New { key_hash } => (sql::INSERT, *key_hash, 0),
            Write::Over { version, key_hash } => {
                (sql::UPDATE, *key_hash, i64::try_from(*version).unwrap_or(i64::MAX))
            }
        };
        let mut params = columns.params();
        params.extend::<[Param<'_>; 3]>([
            (&now.millis, Type::INT8),
            (&now.tolerance, Type::INT8),
            (&key_hash, Type::BYTEA),
        ]);
        if matches!(how, Write::Over { .. }) {
            params.push((&version, Type::INT8));
        }
        let began = Instant::now();
        let mut lease = self.0.link.lease().await?;
        let written = match &expired {
            None => lease.rows(statement, &params).await,
            Some(Expired { id, version }) => {
                let free: [Param<'_>; 2] = [(id, Type::TEXT), (version, Type::INT8)];
                let statements = [(sql::FREE, free.as_slice()), (statement, &params)];
                lease.transaction(statements).await.map(|[_, rows]| rows)
            }
        };
        drop(lease);
        self.0.commits.committed(began.elapsed(), 1);
        let rows = match written {
            Ok(rows) => rows,
            Err(Trouble::Conflict) => return Ok(None),
            Err(trouble) => return Err(trouble.into()),
        };
        self.hear(&rows);
        if !rows.first().is_some_and(|row| row.try_get(1).unwrap_or(false)) {
            return Ok(None);
        }
        self.remember(&record);
        self.0.watch.tell(&record.id, record.version);
        self.seal_soon();
        Ok(Some(record))
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
            let rows = self.0.link.rows(sql::LIST, &sought.params()).await?;
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
