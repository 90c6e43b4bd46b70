//! In the background: settling what nobody settles, and forgetting what is old. It reads EC2 and never sends.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::Books;
use crate::{
    clock::Clock,
    ledger::{Filter, LedgerError, Record, State},
    operations::{CallMeta, Operations, Settler},
};

/// How many operations one look takes at most, and how long settling one of them may take.
const AT_ONCE: usize = 64;
const BOUND: Duration = Duration::from_secs(30);

/// How many operations without an outcome are counted at most: their records are read for it.
const COUNTED: usize = 1000;

/// How many records are forgotten at once.
const SWEEP: usize = 500;

/// Settles and sweeps until it is dropped, and tells whether the ledger can be written to.
pub async fn run(
    operations: Operations,
    books: Books,
    clock: Arc<dyn Clock>,
    up: watch::Sender<bool>,
) {
    let mut ticks = interval(books.settle_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let done = match books.ledger.check().await {
            Ok(()) => match round(&operations, &books, clock.as_ref()).await {
                Ok(()) => count(&operations, &books, clock.now()).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let changed = up.send_if_modified(|up| std::mem::replace(up, done.is_ok()) != done.is_ok());
        match done {
            Err(error) if changed => {
                tracing::error!(%error, "changes are refused until the ledger can be written to");
            }
            Err(error) => tracing::debug!(%error, "the ledger is still unavailable"),
            Ok(()) if changed => tracing::info!("the ledger can be written to again"),
            Ok(()) => {}
        }
    }
}

/// One look.
pub async fn round(
    operations: &Operations,
    books: &Books,
    clock: &dyn Clock,
) -> Result<(), LedgerError> {
    let filter = Filter {
        states: vec![State::InProgress, State::InDoubt],
        held_until: Some(clock.now()),
        limit: AT_ONCE,
        ..Filter::default()
    };
    for record in books.ledger.list(&filter).await? {
        settle(operations, books, &record).await?;
    }
    while books.ledger.sweep(SWEEP).await? == SWEEP {}
    Ok(())
}

/// Tells how many operations have no outcome, and since when.
async fn count(operations: &Operations, books: &Books, now: SystemTime) -> Result<(), LedgerError> {
    let states = [State::InProgress, State::InDoubt, State::Unresolved];
    let filter = Filter { states: states.to_vec(), limit: COUNTED, ..Filter::default() };
    let records = books.ledger.list(&filter).await?;
    let counts = states.map(|state| {
        let in_state = records.iter().filter(|record| record.state == state);
        (state.as_str(), in_state.count() as u64)
    });
    // The first attempt began when the record did. A further one may have, long after.
    let since = |record: &Record| match record.attempts {
        1 => record.created_at,
        _ => record.changed_at,
    };
    let oldest = records.iter().map(since).min();
    let age = oldest.and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
    operations.metrics().unsettled(&counts, age);
    Ok(())
}

async fn settle(
    operations: &Operations,
    books: &Books,
    record: &Record,
) -> Result<(), LedgerError> {
    let meta = CallMeta::of_record(record, Instant::now() + BOUND);
    let settler = Settler {
        operations,
        ledger: books.ledger.as_ref(),
        scribe: books.scribe.as_ref(),
        timing: books.timing,
        meta: &meta,
        live: false,
    };
    settler.settle(record).await.map(|_| ())
}
