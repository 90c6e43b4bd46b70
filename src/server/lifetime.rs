//! How long a connection in good order is kept: for an age, so that callers spread over the replicas there are today,
//! and for so long without a call, so that its place is another's.
//!
//! Both end it as a drain does: HTTP/2 says GOAWAY, HTTP/1.1 `connection: close`, and calls in work are finished.

use std::{
    future::{self, Future},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Limits;

/// An age is drawn between these shares of the configured one, in millionths. Connections that were made at once, as
/// after a restart, would all end at once.
const SHARES: (u32, u32) = (900_000, 1_100_000);

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    age: Option<Duration>,
    idle: Option<Duration>,
    /// How long calls that are in work at its end may take.
    pub grace: Duration,
}

/// The calls of one connection.
#[derive(Clone, Debug)]
pub struct Calls(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    open: AtomicUsize,
    begin: Instant,
    /// When the last one ended, in nanoseconds since the connection began.
    last_end: AtomicU64,
}

/// One call, open until this is dropped.
#[derive(Debug)]
pub struct Call(Calls);

// === impl Lifetime ===

impl Lifetime {
    /// As configured.
    pub fn new(limits: &Limits) -> Self {
        Self {
            age: limits.max_connection_age,
            idle: limits.max_connection_idle,
            grace: limits.max_connection_age_grace,
        }
    }

    /// Ends when a connection that begins now should, and says why. Its age is drawn with `bits`.
    pub fn over(self, calls: Calls, bits: u128) -> impl Future<Output = &'static str> + Send {
        let age = self.age.map(|age| jittered(age, bits));
        async move {
            tokio::select! {
                () = after(age) => "it was old",
                () = calls.idle(self.idle) => "it was idle",
            }
        }
    }
}

async fn after(bound: Option<Duration>) {
    match bound {
        Some(bound) => sleep(bound).await,
        None => future::pending().await,
    }
}

fn jittered(age: Duration, bits: u128) -> Duration {
    let (least, most) = SHARES;
    let drawn = u32::try_from(bits % u128::from(most - least + 1)).unwrap_or(0);
    age / 1_000_000 * (least + drawn)
}

// === impl Calls ===

impl Default for Calls {
    /// None yet.
    fn default() -> Self {
        Self(Arc::new(Counts {
            open: AtomicUsize::new(0),
            begin: Instant::now(),
            last_end: AtomicU64::new(0),
        }))
    }
}

impl Calls {
    /// One more.
    pub fn begin(&self) -> Call {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Call(self.clone())
    }

    /// Ends when there was no call for `bound`.
    async fn idle(&self, bound: Option<Duration>) {
        let Some(bound) = bound else { return future::pending().await };
        loop {
            // A call that is open now ends later than now: nothing is due before this bound either.
            let due = match self.0.open.load(Ordering::Acquire) {
                0 => self.last_end() + bound,
                _ => Instant::now() + bound,
            };
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }

    fn last_end(&self) -> Instant {
        self.0.begin + Duration::from_nanos(self.0.last_end.load(Ordering::Acquire))
    }
}

// === impl Call ===

impl Drop for Call {
    fn drop(&mut self) {
        let counts = &self.0.0;
        let nanos = u64::try_from(counts.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // Before it is uncounted, so that who sees none open sees when that began.
        counts.last_end.fetch_max(nanos, Ordering::AcqRel);
        counts.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_over_a_fifth() {
        let age = Duration::from_secs(1000);
        assert_eq!(jittered(age, 0), Duration::from_secs(900));
        assert_eq!(jittered(age, 100_000), age);
        assert_eq!(jittered(age, 200_000), Duration::from_secs(1100));
        assert_eq!(jittered(age, 200_001), Duration::from_secs(900));
        assert!(jittered(age, u128::MAX) <= Duration::from_secs(1100));
    }
}
