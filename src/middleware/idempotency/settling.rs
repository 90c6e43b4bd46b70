//! In the background: telling whether the ledger can be written to, settling what nobody settles, and forgetting what
//! is old. Each goes on by itself, whatever keeps the others. It reads EC2 and never sends.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};

use super::Books;
use crate::{
    ledger::{Filter, Ledger, LedgerError, Look, Record, State},
    operations::{CallMeta, Operations, Settler},
};

/// How many operations are settled at once, and how many of them of one account and Region: one whose reads hang has no
/// more hands than that.
const AT_ONCE: usize = 64;
const OF_TARGET: usize = 8;

/// How many of one account and Region wait for a hand at most; the next look finds the others.
const WAITING: usize = 64;

/// How long settling one of them may take.
pub(super) const BOUND: Duration = Duration::from_secs(30);

/// How many records are read together, and how often in one look. The next look goes on where this one ended.
const PAGE: usize = 200;
const PAGES: usize = 10;

/// How long the ledger may take to say that it can be written to.
const ANSWERS: Duration = Duration::from_secs(10);

/// Counting takes one part in so many of the time: it reads every record without an outcome.
const SHARE: u32 = 20;

/// How many records are forgotten at once.
const SWEEP: usize = 500;

/// Settles and sweeps until it is dropped, and tells whether the ledger can be written to.
pub async fn run(operations: Operations, books: Books, up: watch::Sender<bool>) {
    tokio::join!(
        keep_checking(books.ledger.as_ref(), books.settle_every, up),
        keep_counting(&operations, &books),
        keep_settling(&operations, &books),
        keep_sweeping(books.ledger.as_ref(), books.settle_every),
    );
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

// === readiness ===

async fn keep_checking(ledger: &dyn Ledger, period: Duration, up: watch::Sender<bool>) {
    let mut ticks = every(period);
    loop {
        ticks.tick().await;
        let silent = || LedgerError::Unavailable("no answer in time".to_owned());
        let checked = timeout(ANSWERS, ledger.check()).await.unwrap_or_else(|_| Err(silent()));
        let is = checked.is_ok();
        let changed = up.send_if_modified(|up| std::mem::replace(up, is) != is);
        match checked {
            Err(error) if changed => {
                tracing::error!(%error, "changes are refused until the ledger can be written to");
            }
            Err(error) => tracing::debug!(%error, "the ledger is still unavailable"),
            Ok(()) if changed => tracing::info!("the ledger can be written to again"),
            Ok(()) => {}
        }
    }
}

// === retention ===

async fn keep_sweeping(ledger: &dyn Ledger, period: Duration) {
    let mut ticks = every(period);
    loop {
        ticks.tick().await;
        if let Err(error) = sweep(ledger).await {
            tracing::debug!(%error, "nothing is forgotten until the next time");
        }
    }
}

/// Forgets what is older than the retention.
pub async fn sweep(ledger: &dyn Ledger) -> Result<(), LedgerError> {
    while ledger.sweep(SWEEP).await? == SWEEP {}
    Ok(())
}

// === what has no outcome ===

async fn keep_counting(operations: &Operations, books: &Books) {
    let mut ticks = every(books.settle_every);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        if let Err(error) = count(operations, books.ledger.as_ref()).await {
            tracing::debug!(%error, "what is unsettled is counted the next time");
        }
        sleep(began.elapsed() * SHARE).await;
    }
}

/// Tells how many operations have no outcome, and since when those are there that are to be settled.
async fn count(operations: &Operations, ledger: &dyn Ledger) -> Result<(), LedgerError> {
    let now = now(ledger).await?;
    let mut counts = [State::InProgress, State::InDoubt, State::Unresolved].map(|state| (state, 0));
    let mut oldest: Option<SystemTime> = None;
    // Engines have an index of each of the two.
    for states in [&[State::InProgress, State::InDoubt][..], &[State::Unresolved]] {
        let mut filter = Filter { states: states.to_vec(), limit: PAGE, ..Filter::default() };
        loop {
            let records = ledger.list(&filter).await?;
            for record in &records {
                let of_state = counts.iter_mut().find(|(state, _)| *state == record.state);
                if let Some((_, count)) = of_state {
                    *count += 1;
                }
                // What waits for a person has an alert of its own.
                if record.state.is_unsettled() {
                    let since = since(record);
                    oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
                }
            }
            if records.len() < PAGE {
                break;
            }
            filter.before = records.last().map(|record| record.id.clone());
        }
    }
    let age = oldest.and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
    operations.metrics().unsettled(&counts.map(|(state, count)| (state.as_str(), count)), age);
    Ok(())
}

/// The first attempt began when the record did. A further one may have, long after.
fn since(record: &Record) -> SystemTime {
    match record.attempts {
        1 => record.created_at,
        _ => record.changed_at,
    }
}

/// The ledger's time, by which its holds end: a look that concerns nothing. A replica's own clock may be another.
async fn now(ledger: &dyn Ledger) -> Result<SystemTime, LedgerError> {
    let (scope, caller, fingerprint, group) = Default::default();
    let nothing = Look { scope, caller, key: None, fingerprint, group };
    ledger.look(&nothing).await.map(|looked| looked.now)
}

// === settling ===

async fn keep_settling(operations: &Operations, books: &Books) {
    let mut ticks = every(books.settle_every);
    let mut hands = Hands::new(operations, books);
    loop {
        tokio::select! {
            // In this order, so that a test's seed replays.
            biased;
            done = hands.next() => done.unwrap_or_else(|error| {
                tracing::debug!(%error, "an operation is settled the next time");
            }),
            _ = ticks.tick() => if let Err(error) = hands.look().await {
                tracing::debug!(%error, "operations are settled the next time");
            },
        }
    }
}

/// One look, until all that it found is settled or cannot be.
pub async fn round(operations: &Operations, books: &Books) -> Result<(), LedgerError> {
    let mut hands = Hands::new(operations, books);
    hands.look().await?;
    let mut result = Ok(());
    while !hands.busy.is_empty() {
        result = result.and(hands.next().await);
    }
    result
}

/// Settles several operations at once, in the one task, so that all of them end when it does.
struct Hands<'a> {
    operations: &'a Operations,
    books: &'a Books,
    busy: Vec<Hand<'a>>,
    /// What the last look found besides.
    waiting: VecDeque<Record>,
    /// Where it ended.
    before: Option<String>,
}

struct Hand<'a> {
    id: String,
    target: (String, String),
    work: Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send + 'a>>,
}

impl<'a> Hands<'a> {
    fn new(operations: &'a Operations, books: &'a Books) -> Self {
        let (busy, waiting, before) = Default::default();
        Self { operations, books, busy, waiting, before }
    }

    /// Looks for what nobody holds any more, and begins with it.
    async fn look(&mut self) -> Result<(), LedgerError> {
        self.waiting.clear();
        let ledger = self.books.ledger.as_ref();
        let mut filter = Filter {
            states: vec![State::InProgress, State::InDoubt],
            held_until: Some(now(ledger).await?),
            before: self.before.take(),
            limit: PAGE,
            ..Filter::default()
        };
        for _ in 0..PAGES {
            let records = ledger.list(&filter).await?;
            let is_last = records.len() < PAGE;
            filter.before = records.last().map(|record| record.id.clone());
            for record in records {
                if self.is_new(&record) {
                    self.waiting.push_back(record);
                }
            }
            self.before = filter.before.clone().filter(|_| !is_last);
            if is_last {
                break;
            }
        }
        self.begin();
        Ok(())
    }

    /// Whether it is in no hand, and its target has not enough that waits.
    fn is_new(&self, record: &Record) -> bool {
        let waits =
            |other: &&Record| (&other.account, &other.region) == (&record.account, &record.region);
        self.busy.iter().all(|hand| hand.id != record.id)
            && self.waiting.iter().filter(waits).count() < WAITING
    }

    /// Begins with what waits, as far as there are hands.
    fn begin(&mut self) {
        let mut next = 0;
        while self.busy.len() < AT_ONCE
            && let Some(record) = self.waiting.get(next)
        {
            let target = (record.account.clone(), record.region.clone());
            if self.busy.iter().filter(|hand| hand.target == target).count() >= OF_TARGET {
                next += 1;
                continue;
            }
            let Some(record) = self.waiting.remove(next) else { return };
            let id = record.id.clone();
            let work = Box::pin(settle(self.operations, self.books, record));
            self.busy.push(Hand { id, target, work });
        }
    }

    /// Waits until one of them is done with.
    async fn next(&mut self) -> Result<(), LedgerError> {
        let done = poll_fn(|cx| self.poll(cx)).await;
        self.begin();
        done
    }

    /// In the order in which they were begun.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LedgerError>> {
        for at in 0..self.busy.len() {
            if let Some(hand) = self.busy.get_mut(at)
                && let Poll::Ready(done) = hand.work.as_mut().poll(cx)
            {
                self.busy.remove(at);
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    }
}

async fn settle(operations: &Operations, books: &Books, record: Record) -> Result<(), LedgerError> {
    let meta = CallMeta::of_record(&record, Instant::now() + BOUND);
    let settler = Settler {
        operations,
        ledger: books.ledger.as_ref(),
        scribe: books.scribe.as_ref(),
        timing: books.timing,
        meta: &meta,
        live: None,
    };
    settler.settle(&record).await
}

#[cfg(test)]
mod tests;
