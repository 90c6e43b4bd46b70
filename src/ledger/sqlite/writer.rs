//! The one connection that writes: all operations that wait are one transaction, and each is answered after its commit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rusqlite::Connection;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Shared,
    fault::{Cause, Fault, OpenError},
    schema,
    tables::Tables,
};
use crate::{
    ledger::{LedgerError, record::to_millis},
    telemetry::metrics::Commits,
};

/// The most operations of one transaction: bounds how long the first one waits.
const MAX_BATCH: usize = 512;

/// Between attempts to open the file again.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// An operation that waits for its turn to write.
pub(super) trait Job: Send {
    /// Does it; an error undoes what it wrote.
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), Undo>;
    /// The transaction is durable, or was not committed.
    fn finish(self: Box<Self>, committed: &Result<(), LedgerError>);
}

/// An operation is undone.
pub(super) struct Undo {
    why: String,
    /// The connection is not to be used again.
    lasting: bool,
}

/// A job with its answer.
pub(super) struct Call<T, F> {
    act: Option<F>,
    outcome: Option<Result<T, LedgerError>>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    conn: Option<Connection>,
    retry: Option<Retry>,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    wait: Duration,
    why: String,
}

/// What it has done since it was opened.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) operations: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) counted: Commits,
}

impl<T, F> Call<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
{
    pub(super) fn boxed(act: F) -> (Box<dyn Job>, oneshot::Receiver<Result<T, LedgerError>>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Self { act: Some(act), outcome: None, reply }), answer)
    }
}

impl<T, F> Job for Call<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
{
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), Undo> {
        let Some(act) = self.act.take() else { return Ok(()) };
        let fault = match act(tables) {
            Ok(done) => {
                self.outcome = Some(Ok(done));
                return Ok(());
            }
            Err(fault) => fault,
        };
        let undo = Undo { why: fault.to_string(), lasting: fault.is_lasting() };
        self.outcome = Some(Err(fault.into_answer()));
        Err(undo)
    }

    fn finish(self: Box<Self>, committed: &Result<(), LedgerError>) {
        // Not committed: what this one saw of the others of its transaction is not so, whatever its own answer was.
        let answer = match (committed, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(LedgerError::Unavailable("it was not run".to_owned())),
            (Err(error), _) => Err(error.clone()),
        };
        // Whoever asked may have left.
        let _ = self.reply.send(answer);
    }
}

impl Writer {
    pub(super) fn open(shared: Arc<Shared>) -> Result<Self, OpenError> {
        let conn = shared.connect()?;
        Ok(Self { shared, conn: Some(conn), retry: None })
    }

    /// One that opens the file when it is asked for something.
    pub(super) fn later(shared: Arc<Shared>) -> Self {
        Self { shared, conn: None, retry: None }
    }

    /// Until nobody can ask any more.
    pub(super) fn serve(mut self, mut queue: mpsc::Receiver<Box<dyn Job>>) {
        while let Some(first) = queue.blocking_recv() {
            self.commit(first, || queue.try_recv().ok());
        }
    }

    /// Runs a job, and all that wait, in one transaction.
    pub(super) fn commit(
        &mut self,
        first: Box<dyn Job>,
        mut more: impl FnMut() -> Option<Box<dyn Job>>,
    ) {
        let mut jobs = vec![first];
        let mut written = Vec::new();
        let began = Instant::now();
        let committed = match self.connection() {
            Err(why) => Err(Fault::Open(why)),
            Ok((conn, shared)) => {
                let done = batch(conn, shared, &mut jobs, &mut more, &mut written);
                if done.is_err() && !conn.is_autocommit() {
                    // If even that fails, the connection goes below or at the next transaction.
                    let _ = conn.execute_batch("ROLLBACK");
                }
                done
            }
        };
        let figures = &self.shared.figures;
        figures.counted.committed(began.elapsed(), jobs.len());
        figures.operations.fetch_add(jobs.len() as u64, Ordering::Relaxed);
        match &committed {
            Ok(()) => {
                figures.commits.fetch_add(1, Ordering::Relaxed);
                self.retry = None;
            }
            Err(fault) if fault.is_lasting() => self.give_up(fault.to_string()),
            Err(_) => {}
        }
        for (id, version) in written {
            // Not committed is also not known: whoever waits looks again.
            self.shared.changes.tell(&id, committed.as_ref().map_or(u64::MAX, |()| version));
        }
        let path = self.shared.place.path.display();
        let committed =
            committed.map_err(|fault| LedgerError::Unavailable(format!("{path}: {fault}")));
        jobs.into_iter().for_each(|job| job.finish(&committed));
    }

    fn connection(&mut self) -> Result<(&mut Connection, &Shared), String> {
        if let Some(Retry { at, why, .. }) = &self.retry
            && self.conn.is_none()
            && Instant::now() < *at
        {
            return Err(format!("{why} (tried again shortly)"));
        }
        if let Err(error) = self.shared.place.check() {
            self.give_up(error.to_string());
            return Err(error.to_string());
        }
        if self.conn.is_none() {
            match self.shared.connect() {
                Ok(conn) => self.conn = Some(conn),
                Err(error) => {
                    self.give_up(error.to_string());
                    return Err(error.to_string());
                }
            }
        }
        let conn = self.conn.as_mut().ok_or_else(|| "not open".to_owned())?;
        Ok((conn, &self.shared))
    }

    /// Closes the file. The first attempt to open it again is the next call's; then attempts are spaced.
    fn give_up(&mut self, why: String) {
        tracing::error!(path = %self.shared.place.path.display(), why, "the ledger's file fails");
        self.conn = None;
        let wait = self
            .retry
            .as_ref()
            .map_or(Duration::ZERO, |retry| (retry.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT));
        self.retry = Some(Retry { at: Instant::now() + wait, wait, why });
    }
}

fn batch(
    conn: &mut Connection,
    shared: &Shared,
    jobs: &mut Vec<Box<dyn Job>>,
    more: &mut impl FnMut() -> Option<Box<dyn Job>>,
    written: &mut Vec<(String, u64)>,
) -> Result<(), Fault> {
    let run = |sql: &str| conn.prepare_cached(sql)?.execute([]).map(drop);
    run("BEGIN IMMEDIATE")?;
    let mut next = 0;
    while let Some(job) = jobs.get_mut(next) {
        // Pages that change within a savepoint are copied. The first one has nothing before it to keep.
        let is_first = next == 0;
        next += 1;
        let mut tables = Tables { conn, now: shared.now(), written: Vec::new() };
        if !is_first {
            run("SAVEPOINT one")?;
        }
        match job.run(&mut tables) {
            Ok(()) => written.append(&mut tables.written),
            Err(Undo { why, lasting: true }) => return Err(Fault::Broken(why)),
            // A full disk may have undone the whole transaction.
            Err(Undo { why, .. }) if conn.is_autocommit() => return Err(Fault::Undone(why)),
            Err(Undo { .. }) if is_first => {
                run("ROLLBACK")?;
                run("BEGIN IMMEDIATE")?;
            }
            Err(Undo { .. }) => run("ROLLBACK TO one")?,
        }
        if !is_first {
            run("RELEASE one")?;
        }
        if next == jobs.len() && next < MAX_BATCH {
            jobs.extend(more());
        }
    }
    run("COMMIT")?;
    Ok(())
}

impl Shared {
    /// In whole milliseconds, as records are stored: what is answered is what is read later.
    pub(super) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(to_millis(self.clock.now()))
    }

    fn connect(&self) -> Result<Connection, OpenError> {
        let path = &self.place.path;
        let mut conn = schema::open_writer(path, &self.backend, self.durable)?;
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints
                .watch(&mut conn)
                .map_err(|error| OpenError { path: path.clone(), cause: Cause::Sqlite(error) })?;
        }
        Ok(conn)
    }
}
