//! The ledger in one file of SQLite, for one process (docs/reliability-sqlite.md).
//!
//! `sqlite/place.rs` makes and locks the file, `schema.rs` recognises it and sets up connections, `tables.rs` has the
//! statements, `writer.rs` commits what waits, `checkpoint.rs` copies it from the WAL into the file, `readers.rs` reads,
//! `lists.rs` searches, `archive.rs` verifies and exports.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

mod archive;
mod changes;
mod checkpoint;
mod fault;
mod lists;
mod place;
mod readers;
mod schema;
mod tables;
mod writer;

#[cfg(test)]
mod tests;

pub use archive::{Archive, Verified};
pub use fault::{Cause, OpenError};

use self::{
    changes::Changes,
    checkpoint::Checkpoints,
    fault::Fault,
    lists::Search,
    place::Place,
    readers::Readers,
    tables::Tables,
    writer::{Call, Figures, Job, Writer},
};
use super::{
    Answer, Filter, Intended, Intent, Ledger, LedgerError, Look, Looked, Move, Record, Terms, Turn,
    turns::Turns,
};
use crate::{clock::Clock, telemetry::metrics::Metrics};

/// Reading is short and mostly from memory.
const READERS: usize = 4;

/// And so many read for lists that go through much.
const SEARCHERS: usize = 2;

/// The most operations that wait to be written; whoever comes then waits for a place.
const QUEUE: usize = 1024;

/// See the module.
pub struct Sqlite {
    shared: Arc<Shared>,
    driver: Driver,
    turns: Turns,
}

/// What the writer and the callers have in common.
#[derive(Debug)]
struct Shared {
    place: Arc<Place>,
    readers: Arc<Readers>,
    /// For what may take long: calls do not wait for it.
    searchers: Arc<Readers>,
    changes: Arc<Changes>,
    figures: Figures,
    clock: Arc<dyn Clock>,
    terms: Terms,
    /// What the file is bound to.
    backend: String,
    /// Whether a commit waits until the disk has it.
    durable: bool,
    /// None: the writer copies its WAL itself.
    checkpoints: Option<Checkpoints>,
}

/// Who writes.
enum Driver {
    /// A thread, in batches. None: it has ended, and the next call begins another.
    Thread(Mutex<Option<Running>>),
    /// Whoever calls, one operation at a time.
    Caller(Mutex<Writer>),
}

struct Running {
    queue: mpsc::Sender<Box<dyn Job>>,
    thread: JoinHandle<()>,
}

impl Sqlite {
    /// Opens the ledger in a file, which is made if it is not there, for one kind of backend. Fails if another process has
    /// it open.
    pub fn open(
        path: &Path,
        backend: &str,
        terms: Terms,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let shared = Shared::new(path, backend, terms, clock, true)?;
        let writer = Writer::open(shared.clone())?;
        let running = start(writer).map_err(|error| OpenError {
            path: path.to_owned(),
            cause: Cause::Io("its thread cannot be started", error),
        })?;
        let driver = Driver::Thread(Mutex::new(Some(running)));
        Ok(Self { shared, driver, turns: Turns::default() })
    }

    /// A ledger for tests that replay: without threads, each call is committed by the task that makes it, and no commit
    /// waits for the disk. It outlasts a process that is killed, and not a power cut.
    pub fn open_replayable(
        path: &Path,
        backend: &str,
        terms: Terms,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let shared = Shared::new(path, backend, terms, clock, false)?;
        let driver = Driver::Caller(Mutex::new(Writer::open(shared.clone())?));
        Ok(Self { shared, driver, turns: Turns::default() })
    }

    /// Counts its commits.
    #[must_use]
    pub fn counted(self, metrics: &Metrics) -> Self {
        self.shared.figures.counted.count_with(metrics, "sqlite");
        self
    }

    /// Proves that the records are as they were written. Reads the whole ledger.
    pub async fn verify(&self) -> Result<Verified, LedgerError> {
        self.shared.searchers.read(archive::verify).await
    }

    /// Records in the order of their ids, after one of them.
    pub async fn export(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        self.shared.searchers.read(move |conn| tables::export(conn, after.as_deref(), limit)).await
    }

    /// How many operations were written since it was opened, and in how many commits.
    pub fn written(&self) -> (u64, u64) {
        let Figures { operations, commits, .. } = &self.shared.figures;
        (operations.load(Ordering::Relaxed), commits.load(Ordering::Relaxed))
    }

    /// How many pages the file may have from now on: makes a full disk for tests.
    #[doc(hidden)]
    pub async fn limit_pages(&self, pages: u32) -> Result<(), LedgerError> {
        self.write(move |tables| {
            tables.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
            Ok(())
        })
        .await
    }

    async fn write<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (job, mut answer) = Call::boxed(act);
        // Whether it was committed before the writer ended is open.
        let ended = || Err(LedgerError::Unavailable("the writer has ended".to_owned()));
        match &self.driver {
            Driver::Thread(running) => {
                let queue = self.queue(running)?;
                if queue.send(job).await.is_err() {
                    return ended();
                }
                tokio::select! {
                    biased;
                    answer = &mut answer => answer.unwrap_or_else(|_| ended()),
                    // What is sent while a writer ends can stay in its queue, unanswered.
                    () = queue.closed() => answer.try_recv().unwrap_or_else(|_| ended()),
                }
            }
            Driver::Caller(writer) => {
                writer.lock().unwrap_or_else(PoisonError::into_inner).commit(job, || None);
                answer.await.unwrap_or_else(|_| ended())
            }
        }
    }

    /// The writer's queue; a writer that has ended is followed by another.
    fn queue(
        &self,
        running: &Mutex<Option<Running>>,
    ) -> Result<mpsc::Sender<Box<dyn Job>>, LedgerError> {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_ref().filter(|running| !running.queue.is_closed()) {
            return Ok(running.queue.clone());
        }
        let next = start(Writer::later(self.shared.clone()))
            .map_err(|error| LedgerError::Unavailable(format!("the writer's thread: {error}")))?;
        Ok(running.insert(next).queue.clone())
    }
}

fn start(writer: Writer) -> std::io::Result<Running> {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let thread =
        std::thread::Builder::new().name("ledger".to_owned()).spawn(|| writer.serve(jobs))?;
    Ok(Running { queue, thread })
}

impl Shared {
    fn new(
        path: &Path,
        backend: &str,
        terms: Terms,
        clock: Arc<dyn Clock>,
        durable: bool,
    ) -> Result<Arc<Self>, OpenError> {
        let place = Arc::new(Place::take(path)?);
        let readers = Readers::new(place.clone(), READERS, !durable);
        let searchers = Readers::new(place.clone(), SEARCHERS, !durable);
        let changes = Arc::default();
        let figures = Figures::default();
        let backend = backend.to_owned();
        let checkpoints = if durable { Some(Checkpoints::begin(&place)?) } else { None };
        Ok(Arc::new(Self {
            place,
            readers,
            searchers,
            changes,
            figures,
            clock,
            terms,
            backend,
            durable,
            checkpoints,
        }))
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.shared.place.path).finish_non_exhaustive()
    }
}

impl Drop for Sqlite {
    /// What waits is still written; then the file is free for the next one.
    fn drop(&mut self) {
        self.shared.readers.close();
        self.shared.searchers.close();
        if let Driver::Thread(running) = &mut self.driver
            && let Some(running) = running.get_mut().unwrap_or_else(PoisonError::into_inner).take()
        {
            drop(running.queue);
            // It failed if it panicked, which has been told.
            let _ = running.thread.join();
        }
    }
}

impl Ledger for Sqlite {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        Box::pin(self.turns.take(group, until))
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        Box::pin(async move {
            let (question, retention) = (question.clone(), self.shared.terms.key_retention);
            let now = self.shared.now();
            let look = move |conn: &_| tables::look(conn, &question, retention, now);
            self.shared.readers.read(look).await
        })
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        Box::pin(async move {
            let (intent, retention) = (intent.clone(), self.shared.terms.key_retention);
            self.write(move |tables| intend(tables, &intent, retention)).await
        })
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        Box::pin(async move {
            let (id, step) = (id.to_owned(), step.clone());
            self.write(move |tables| {
                let record = tables.by_id(&id)?;
                let next = record.advanced(fence, &step, tables.now)?;
                if next.version != record.version {
                    tables.update(&next)?;
                }
                Ok(next)
            })
            .await
        })
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        Box::pin(async move {
            let id = id.to_owned();
            self.write(move |tables| {
                let known = tables::by_id(tables.conn, &id)?;
                let taken = known.and_then(|record| record.taken_over(fence, hold, tables.now));
                if let Some(record) = &taken {
                    tables.update(record)?;
                }
                Ok(taken)
            })
            .await
        })
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            // Before the look, so that nothing is missed between the two.
            let mut waiter = self.shared.changes.watch(id);
            let wanted = id.to_owned();
            let is = self.shared.readers.read(move |conn| tables::version(conn, &wanted)).await?;
            if is == Some(version) {
                waiter.until_not(version).await;
            }
            Ok(())
        })
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        Box::pin(async move {
            let mut search = Search::new(filter.clone());
            let Shared { readers, searchers, .. } = self.shared.as_ref();
            loop {
                let reader = if search.is_short() { readers } else { searchers };
                let further = move |conn: &_| search.go_on(conn);
                match reader.read(further).await?.0 {
                    Ok(found) => return Ok(found),
                    Err(unfinished) => search = unfinished,
                }
            }
        })
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        let terms = self.shared.terms;
        Box::pin(self.write(move |tables| tables.sweep(terms, limit)))
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(self.write(|tables| tables.touch()))
    }
}

fn intend(
    tables: &mut Tables<'_>,
    intent: &Intent,
    retention: Duration,
) -> Result<Intended, Fault> {
    let conn = tables.conn;
    let unsettled = tables::unsettled_of(conn, &intent.group)?;
    if let Some(other) = unsettled.filter(|other| other.id != intent.id) {
        return Ok(Intended::GroupBusy(Box::new(other)));
    }
    let holder = match &intent.key {
        Some(key) => tables::holder(conn, &intent.scope, &intent.caller, key)?,
        None => None,
    };
    if let Some(other) = holder.filter(|other| other.id != intent.id) {
        if other.key_ends(retention).is_none_or(|end| tables.now < end) {
            return Ok(Intended::KeyTaken(Box::new(other)));
        }
        tables.free_key(&other.id)?;
    }
    let known = tables::by_id(conn, &intent.id)?;
    let record = match &known {
        Some(known) => known.again(intent, tables.now)?,
        None => Record::begin(intent, tables.now)?,
    };
    tables.intend(&record, known.is_none())?;
    Ok(Intended::Written(Box::new(record)))
}
