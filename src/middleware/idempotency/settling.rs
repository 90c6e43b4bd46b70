//! In the background: settling what nobody settles, and forgetting what is old. It reads EC2 and never sends.

use std::{sync::Arc, time::Duration};

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
            Ok(()) => round(&operations, &books, clock.as_ref()).await,
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
