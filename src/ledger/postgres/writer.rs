//! Who writes: what waits is written by one statement, so one transaction and one commit for all of it. Each write is
//! judged by itself: what stands against one does not keep the others.
//!
//! There is no timer. While no line is busy, a write goes at once, and alone; else writes wait, and whoever is free next
//! takes them all. The transaction does not end when a caller leaves: it is done by a task. Who has
//! left before it began is not written.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, timeout_at},
};
use tokio_postgres::types::{ToSql, Type};

use super::{
    link::{Lease, Link, Trouble},
    sql::{self, Columns, Param, as_millis, from_millis, storable},
};
use crate::{
    ledger::{LedgerError, Record, State},
    telemetry::metrics::{Commits, Metrics},
};

/// How many transactions are under way at most: one computes while the other waits for the disk.
const LINES: usize = 2;

/// How many writes wait before a second transaction is begun beside the first: fewer are cheaper in the next one.
const CROWD: usize = 16;

/// How often a line lets others run before it takes what waits, as long as more comes.
const LOOKS: usize = 8;

/// The most writes of one transaction: bounds how long the first one waits.
const MAX_BATCH: usize = 128;

/// By how much the time of a write may differ from the database's when it was not asked for it just now.
const TOLERANCE: Duration = Duration::from_millis(100);

/// What is to be written.
pub(super) struct Write {
    pub draft: Draft,
    /// Of its key. None: there is none, or it is as it was.
    pub key_hash: Option<Vec<u8>>,
    /// The version and the state that it was read in. None: it is new.
    pub over: Option<(u64, State)>,
    /// An expired key that has to be freed: of which record, and its version.
    pub frees: Option<(String, u64)>,
}

/// The record, or how to make it at the time when it is written.
pub(super) enum Draft {
    /// Of a time that the database said just now.
    At(Box<Record>, i64),
    /// Of the time that it is taken to be. None: it cannot be made without a look.
    Now(Box<dyn FnOnce(SystemTime) -> Option<Record> + Send>),
}

/// Whether it was written: the record. None: somebody was quicker, or the time is not right.
type Written = Result<Option<Record>, LedgerError>;

/// See the module. Clones share everything.
#[derive(Clone)]
pub(super) struct Writer(Arc<Shared>);

struct Shared {
    link: Arc<Link>,
    commits: Commits,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// How many lines are busy.
    busy: usize,
}

struct Job {
    write: Write,
    until: Instant,
    reply: oneshot::Sender<Written>,
}

/// A write as it is sent.
struct Ready {
    record: Record,
    columns: Columns,
    at: i64,
    tolerance: i64,
    key_hash: Option<Vec<u8>>,
    step: &'static str,
    read: Option<i64>,
    frees: Option<String>,
    frees_version: Option<i64>,
    reply: oneshot::Sender<Written>,
}

/// A busy line. Dropped, however it went, it is free.
struct Line {
    shared: Arc<Shared>,
    /// One that never was is dropped because the runtime ends, and so would be the one after it.
    began: bool,
}

impl Writer {
    pub fn new(link: Arc<Link>) -> Self {
        Self(Arc::new(Shared { link, commits: Commits::default(), queue: Mutex::default() }))
    }

    /// Counts its commits.
    pub fn count_with(&self, metrics: &Metrics) {
        self.0.commits.count_with(metrics, "postgres");
    }

    /// Writes a record, with its event, durably.
    pub async fn write(&self, write: Write) -> Written {
        let bound = self.0.link.bound();
        let until = Instant::now() + bound;
        let (reply, written) = oneshot::channel();
        self.0.queue().waiting.push_back(Job { write, until, reply });
        self.0.clone().go();
        match timeout_at(until, written).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(self.0.unavailable("the write's task is gone")),
            Err(_) => Err(self.0.unavailable("no answer in time")),
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    fn unavailable(&self, why: &str) -> LedgerError {
        LedgerError::Unavailable(format!("PostgreSQL at {}: {why}", self.link.place()))
    }

    /// Makes a line busy if there is one, and something for it to do.
    fn go(self: Arc<Self>) {
        let mut queue = self.queue();
        let enough = if queue.busy == 0 { 1 } else { CROWD };
        if queue.busy < LINES && queue.waiting.len() >= enough {
            queue.busy += 1;
            drop(queue);
            tokio::spawn(Line { shared: self, began: false }.work());
        }
    }

    /// Writes what waited.
    async fn commit(&self, jobs: Vec<Job>) {
        let jobs = self.in_time(jobs);
        let Some(until) = jobs.iter().map(|job| job.until).min() else { return };
        let mut lease = match self.link.lease_until(until).await {
            Ok(lease) => lease,
            Err(trouble) => {
                jobs.into_iter().for_each(|job| job.refuse(trouble.clone().into()));
                return;
            }
        };
        // Only now is it known when it is written.
        let now = self.link.now();
        let bound = self.link.bound();
        let here = jobs.into_iter().filter(|job| !job.reply.is_closed());
        let mut batch: Vec<_> = here.filter_map(|job| job.ready(now, bound)).collect();
        // Two replicas that write the same groups meet at the first of them, and one waits.
        batch.sort_by(|a, b| {
            (&a.columns.group, &a.record.id).cmp(&(&b.columns.group, &b.record.id))
        });
        match self.send(&mut lease, &batch).await {
            Ok(written) => {
                for (ready, written) in batch.into_iter().zip(written) {
                    ready.answer(Ok(written));
                }
            }
            // It may be about one of them: nothing was written, and each is tried by itself.
            Err(Trouble::Conflict | Trouble::Value(_)) if batch.len() > 1 => {
                for ready in batch {
                    let written = self.send(&mut lease, std::slice::from_ref(&ready)).await;
                    ready.answer(written.map(|written| written.first() == Some(&true)));
                }
            }
            Err(trouble) => {
                batch.into_iter().for_each(|ready| ready.answer(Err(trouble.clone())));
            }
        }
    }

    /// Those whose time will do for the statement: what was given up is not done behind the caller's back.
    fn in_time(&self, jobs: Vec<Job>) -> Vec<Job> {
        let latest = Instant::now() + self.link.bound() / 2;
        let (in_time, late): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| job.until >= latest);
        late.into_iter().for_each(|job| job.refuse(self.unavailable("no connection in time")));
        in_time
    }

    /// One transaction: which of them were written.
    async fn send(&self, lease: &mut Lease<'_>, batch: &[Ready]) -> Result<Vec<bool>, Trouble> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let params = Params::of(batch);
        let statement = if batch.len() == 1 { sql::WRITE } else { sql::WRITE_ALL };
        let rows = lease.rows_again(statement, &params.params()).await;
        self.commits.committed(began.elapsed(), batch.len());
        let times: Result<Vec<i64>, _> = rows?.iter().map(|row| row.try_get(0)).collect();
        let Some(times) = times.ok().filter(|times| times.len() == batch.len()) else {
            let place = self.link.place();
            return Err(Trouble::Other(format!("PostgreSQL at {place}: no answer to a write")));
        };
        if let Some(now) = times.first() {
            self.link.heard(now.saturating_abs(), began);
        }
        Ok(times.into_iter().map(|now| now > 0).collect())
    }
}

impl Line {
    async fn work(mut self) {
        self.began = true;
        loop {
            let jobs: Vec<_> = {
                let mut queue = self.shared.queue();
                let count = queue.waiting.len().min(MAX_BATCH);
                queue.waiting.drain(..count).collect()
            };
            if jobs.is_empty() {
                return;
            }
            let alone = jobs.len() == 1;
            self.shared.commit(jobs).await;
            if alone && self.shared.waiting() == 0 {
                // Nobody comes together with it: looking would only wake other threads.
                return;
            }
            // Those who were answered may have more to write: together rather than one after the other.
            for _ in 0..LOOKS {
                let before = self.shared.waiting();
                yield_now().await;
                if self.shared.waiting() == before {
                    break;
                }
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.queue().busy -= 1;
        // Whoever came since the last look saw a busy line.
        if self.began {
            self.shared.clone().go();
        }
    }
}

impl Job {
    fn refuse(self, error: LedgerError) {
        // Whoever asked may have left.
        let _ = self.reply.send(Err(error));
    }

    /// As it is sent, or it is answered.
    fn ready(self, now: Option<i64>, bound: Duration) -> Option<Ready> {
        let Self { write: Write { draft, key_hash, over, frees }, reply, .. } = self;
        let (record, at, tolerance) = match draft {
            // Since then it may have waited.
            Draft::At(record, at) => (Some(*record), at, as_millis(bound)),
            Draft::Now(make) => {
                let at = now.unwrap_or_default();
                (now.and_then(|now| make(from_millis(now))), at, as_millis(TOLERANCE))
            }
        };
        let Some(mut record) = record else {
            let _ = reply.send(Ok(None));
            return None;
        };
        // As it will be read.
        record.held_until = from_millis(sql::millis(record.held_until));
        let columns = match Columns::of(&record) {
            Ok(columns) => columns,
            Err(error) => {
                let _ = reply.send(Err(error));
                return None;
            }
        };
        let version = |version| i64::try_from(version).unwrap_or(i64::MAX);
        Some(Ready {
            step: step(over.map(|(_, state)| state), record.state),
            record,
            columns,
            at,
            tolerance,
            key_hash,
            read: over.map(|(read, _)| version(read)),
            frees: frees.as_ref().map(|(id, _)| storable(id)),
            frees_version: frees.map(|(_, of)| version(of)),
            reply,
        })
    }
}

impl Ready {
    fn answer(self, written: Result<bool, Trouble>) {
        let answer = match written {
            Ok(true) => Ok(Some(self.record)),
            // Somebody was quicker.
            Ok(false) | Err(Trouble::Conflict) => Ok(None),
            Err(trouble) => Err(trouble.into()),
        };
        // Whoever asked may have left.
        let _ = self.reply.send(answer);
    }
}

/// What becomes of the lists of what is unsettled, in the words of the function that writes.
fn step(was: Option<State>, is: State) -> &'static str {
    let was_open = was.is_some_and(State::is_unsettled);
    match (was, is.is_unsettled()) {
        (_, true) => {
            if was_open {
                ""
            } else {
                "opens"
            }
        }
        (None, false) => "born settled",
        (Some(_), false) if was_open && is == State::Unresolved => "waits",
        (Some(_), false) if was_open => "closes",
        (Some(State::Unresolved), false) if is != State::Unresolved => "decided",
        (Some(_), false) => "",
    }
}

/// The parameters of [`sql::WRITE`], or of [`sql::WRITE_ALL`]: a column of all the writes for each, in the function's order.
struct Params<'a>([(Box<dyn ToSql + Sync + Send + 'a>, Type); 22]);

impl<'a> Params<'a> {
    fn of(batch: &'a [Ready]) -> Self {
        fn column<'a, T: ToSql + Sync + Send + 'a>(
            batch: &'a [Ready],
            of: impl Fn(&'a Ready) -> T,
            each: Type,
            all: Type,
        ) -> (Box<dyn ToSql + Sync + Send + 'a>, Type) {
            match batch {
                [one] => (Box::new(of(one)), each),
                _ => (Box::new(batch.iter().map(of).collect::<Vec<T>>()), all),
            }
        }

        Self([
            column(batch, |ready| ready.columns.id.as_str(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.scope.as_str(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.caller.as_str(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.key.as_deref(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.group.as_str(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.account.as_str(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.region.as_str(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.state, Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.fence, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.columns.version, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.columns.created, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.columns.held_until, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.columns.settled, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.columns.record.as_str(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.columns.digest.as_slice(), Type::BYTEA, Type::BYTEA_ARRAY),
            column(batch, |ready| ready.at, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.tolerance, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.key_hash.as_deref(), Type::BYTEA, Type::BYTEA_ARRAY),
            column(batch, |ready| ready.step, Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.read, Type::INT8, Type::INT8_ARRAY),
            column(batch, |ready| ready.frees.as_deref(), Type::TEXT, Type::TEXT_ARRAY),
            column(batch, |ready| ready.frees_version, Type::INT8, Type::INT8_ARRAY),
        ])
    }

    fn params(&self) -> Vec<Param<'_>> {
        self.0.iter().map(|(column, each)| (&**column as _, each.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::runtime::Builder;

    use super::{super::Settings, *};

    /// Each line that ends begins another while something waits; where none can begin any more, that must end, too.
    #[test]
    fn the_end_of_the_runtime_ends_it() {
        // It takes connections and never says anything.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://u@{}/d?sslmode=disable", silent.local_addr().unwrap());
        let link = Arc::new(Link::new(&Settings::parse(&url).unwrap()).unwrap());
        let writer = Writer::new(link);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..3 * CROWD {
                let draft = Draft::Now(Box::new(|_| None));
                let write = Write { draft, key_hash: None, over: None, frees: None };
                let writer = writer.clone();
                tokio::spawn(async move { writer.write(write).await });
            }
            while writer.0.queue().waiting.is_empty() || writer.0.queue().busy < LINES {
                yield_now().await;
            }
        });
        drop(runtime);
        let queue = writer.0.queue();
        assert!(queue.busy == 0 && !queue.waiting.is_empty());
    }
}
