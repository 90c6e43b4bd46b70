//! In the background: settling what nobody settles, and forgetting what is old. It reads EC2 and never sends.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

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

/// Settles and sweeps until it is dropped.
pub async fn run(operations: Operations, books: Books, clock: Arc<dyn Clock>) {
    let mut ticks = interval(books.settle_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut down = false;
    loop {
        ticks.tick().await;
        match round(&operations, &books, clock.as_ref()).await {
            Ok(()) => down = false,
            Err(error) if down => tracing::debug!(%error, "settling"),
            Err(error) => {
                down = true;
                tracing::error!(%error, "operations cannot be settled now");
            }
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
