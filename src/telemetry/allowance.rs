//! Of how many calls a second the collector hears one by one. A flood of calls must not become a flood of telemetry: telling
//! of a call may cost more than answering it. What comes beyond is counted, and logged on stderr, and that is all.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

/// The process's; unset: there is no collector.
static ALLOWANCE: OnceLock<Arc<Allowance>> = OnceLock::new();

/// The name of the events that the collector does not hear.
pub const UNTOLD: &str = "untold";

/// So many calls in each second since it was made, and as many more of those that their callers trace.
#[derive(Debug)]
pub struct Allowance {
    began: Instant,
    per_second: u32,
    any: Window,
    traced: Window,
    spared: AtomicU64,
}

/// The second that was last counted in, in the upper half, and how many there were in it.
#[derive(Debug, Default)]
struct Window(AtomicU64);

/// Whether the collector is to hear of a call that arrived at this time; yes without one, where it costs nothing.
/// `traced`: whether its caller traces it.
pub fn allows(now: Instant, traced: impl FnOnce() -> bool) -> bool {
    ALLOWANCE.get().is_none_or(|allowance| allowance.take(now, traced))
}

/// From now on it is counted.
pub(super) fn start(allowance: Arc<Allowance>) {
    // The first one stays, as with the log.
    let _ = ALLOWANCE.set(allowance);
}

impl Allowance {
    /// A fresh one.
    pub fn new(per_second: u32, now: Instant) -> Self {
        let (any, traced) = (Window::default(), Window::default());
        Self { began: now, per_second, any, traced, spared: AtomicU64::new(0) }
    }

    /// One call of this time's second; false: there have been enough.
    pub fn take(&self, now: Instant, traced: impl FnOnce() -> bool) -> bool {
        // A hundred years of seconds fit.
        let second = now.saturating_duration_since(self.began).as_secs() & u64::from(u32::MAX);
        let take = |window: &Window| window.take(second, self.per_second);
        let taken = take(&self.any) || traced() && take(&self.traced);
        if !taken {
            self.spared.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// How many calls there were beyond it.
    pub fn spared(&self) -> u64 {
        self.spared.load(Ordering::Relaxed)
    }
}

impl Window {
    fn take(&self, second: u64, most: u32) -> bool {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            let (counted, count) = (window >> 32, window & u64::from(u32::MAX));
            // Who was overtaken on the way here counts with those who overtook.
            match second > counted {
                true => Some(second << 32 | 1),
                false => (count < u64::from(most)).then_some(window + 1),
            }
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn so_many_each_second() {
        let began = Instant::now();
        let allowance = Allowance::new(3, began);
        let taken = |millis| allowance.take(began + Duration::from_millis(millis), || false);
        let each = [0, 1, 500, 999, 999, 1000, 1001, 999, 1002, 5000, 4000, 5001, 5002, 6000];
        let expected = [1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1];
        assert_eq!(each.map(|at| u8::from(taken(at))), expected);
        assert_eq!(allowance.spared(), 4);
    }

    #[test]
    fn and_as_many_that_callers_trace() {
        let began = Instant::now();
        let allowance = Allowance::new(2, began);
        let taken = |traced| allowance.take(began, || traced);
        assert_eq!(
            [false, true, true, true, true, false].map(taken),
            [true, true, true, true, false, false]
        );
        assert_eq!(allowance.spared(), 2);
    }

    #[test]
    fn no_more_however_many_ask_at_once() {
        let began = Instant::now();
        let allowance = Allowance::new(1000, began);
        let taken: usize = thread::scope(|scope| {
            let ask = || (0..2000).filter(|_| allowance.take(began, || false)).count();
            let asked: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).sum()
        });
        assert_eq!((taken, allowance.spared()), (1000, 7000));
    }
}
