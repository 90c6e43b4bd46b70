//! A ledger that fails when it is told to, before or after it did what it was asked for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::ledger::{
    Answer, Filter, Intended, Intent, Ledger, LedgerError, Look, Looked, Move, Record, Turn,
    memory::Memory,
};
use tokio::time::Instant;

#[derive(Debug)]
pub struct Faulty {
    inner: Memory,
    /// Nothing works.
    pub down: AtomicBool,
    /// So many intents are written, and their writing is not acknowledged.
    pub lose_intents: AtomicUsize,
    /// So many moves fail before anything is written.
    pub fail_moves: AtomicUsize,
    /// So many moves have no answer at all, and are not written.
    pub hang_moves: AtomicUsize,
    pub intents: Arc<AtomicUsize>,
}

impl Faulty {
    pub fn new(inner: Memory) -> Self {
        Self {
            inner,
            down: AtomicBool::default(),
            lose_intents: AtomicUsize::default(),
            fail_moves: AtomicUsize::default(),
            hang_moves: AtomicUsize::default(),
            intents: Arc::default(),
        }
    }

    fn up(&self) -> Result<(), LedgerError> {
        if self.down.load(Ordering::SeqCst) { Err(lost()) } else { Ok(()) }
    }
}

fn lost() -> LedgerError {
    LedgerError::Unavailable("told to fail".to_owned())
}

fn count_down(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Ledger for Faulty {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        self.inner.turn(group, until)
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        Box::pin(async move {
            self.up()?;
            self.inner.look(question).await
        })
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        Box::pin(async move {
            self.up()?;
            self.intents.fetch_add(1, Ordering::SeqCst);
            let intended = self.inner.intend(intent).await;
            if count_down(&self.lose_intents) { Err(lost()) } else { intended }
        })
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        Box::pin(async move {
            self.up()?;
            if count_down(&self.fail_moves) {
                return Err(lost());
            }
            if count_down(&self.hang_moves) {
                std::future::pending::<()>().await;
            }
            self.inner.advance(id, fence, step).await
        })
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        self.inner.take_over(id, fence, hold)
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        self.inner.changed(id, version)
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        self.inner.list(filter)
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        self.inner.sweep(limit)
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.up() })
    }
}
