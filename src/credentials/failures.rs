//! Failed authentications per address: a bound on what guessing gets out of us, and on what it costs.
//!
//! Only failures are charged, after the fact: a valid credential always passes, also from an address that others
//! misuse (NAT, load balancers). What is limited is how many failures are answered as such.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Mutex,
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed, keyed::HashMapStateStore},
};
use tokio::time::Instant;

/// The most addresses that are told apart. The rest share one budget.
const MAX_ADDRESSES: usize = 100_000;

/// How often addresses that are idle leave, if the table is not full before.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How often a full table is swept: that looks at each address.
const SWEEP_FULL_EVERY: Duration = Duration::from_secs(1);

type NoOp = NoOpMiddleware<Duration>;

/// The failures of all addresses.
#[derive(Debug)]
pub struct Failures {
    each: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, TokioClock, NoOp>,
    /// The addresses for which there is no room.
    rest: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOp>,
    clock: TokioClock,
    swept: Mutex<Duration>,
    max: usize,
}

/// tokio's time, since the start.
#[derive(Clone, Copy, Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Failures {
    /// `burst` at once, and `per_minute` come back.
    pub fn new(burst: u32, per_minute: u32) -> Self {
        Self::with_room_for(MAX_ADDRESSES, burst, per_minute)
    }

    fn with_room_for(max: usize, burst: u32, per_minute: u32) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(at_least_one(per_minute)).allow_burst(at_least_one(burst));
        let clock = TokioClock(Instant::now());
        Self {
            each: RateLimiter::new(quota, HashMapStateStore::default(), clock),
            rest: RateLimiter::direct_with_clock(quota, clock),
            clock,
            swept: Mutex::new(Duration::ZERO),
            max,
        }
    }

    /// Charges one failure. Over the limit: how long until there is room again.
    pub fn charge(&self, address: Option<IpAddr>) -> Option<Duration> {
        let key = key(address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        self.sweep();
        let wait = |limited: NotUntil<Duration>| limited.wait_time_from(self.clock.now());
        if self.each.len() < self.max {
            self.each.check_key(&key).err().map(wait)
        } else {
            self.rest.check().err().map(wait)
        }
    }

    fn sweep(&self) {
        let Ok(mut swept) = self.swept.try_lock() else { return };
        let now = self.clock.now();
        let every = if self.each.len() < self.max { SWEEP_EVERY } else { SWEEP_FULL_EVERY };
        if now.saturating_sub(*swept) >= every {
            *swept = now;
            self.each.retain_recent();
            self.each.shrink_to_fit();
        }
    }
}

/// One IPv4 address, or one /64 of IPv6: who has one has all of it.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(number: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(number.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_exact_at_the_boundary() {
        let failures = Failures::new(3, 60);
        for _ in 0..3 {
            assert_eq!(failures.charge(v4(1)), None);
        }
        assert_eq!(failures.charge(v4(1)), Some(Duration::from_secs(1)));
        assert_eq!(failures.charge(v4(2)), None, "another address has its own");
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(failures.charge(v4(1)), Some(Duration::from_millis(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(failures.charge(v4(1)), None);
        assert_eq!(failures.charge(v4(1)), Some(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_address_and_mapped_ones_are_ipv4() {
        let failures = Failures::new(1, 1);
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(failures.charge(address("2001:db8::1")), None);
        assert!(failures.charge(address("2001:db8::ffff:2")).is_some());
        assert_eq!(failures.charge(address("2001:db8:0:1::1")), None);
        assert_eq!(failures.charge(address("192.0.2.1")), None);
        assert!(failures.charge(address("::ffff:192.0.2.1")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_addresses_leave_and_a_full_table_stays_full() {
        let failures = Failures::with_room_for(100, 2, 60);
        for number in 0..1000 {
            let _ = failures.charge(v4(number));
        }
        assert_eq!(failures.each.len(), 100);
        // One that has its own entry is still counted; the others share what is left.
        assert_eq!(failures.charge(v4(5_000)), Some(Duration::from_secs(1)));
        tokio::time::advance(SWEEP_EVERY).await;
        assert_eq!(failures.charge(v4(5_000)), None);
        assert_eq!(failures.each.len(), 1);
    }
}
