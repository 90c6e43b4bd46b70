//! Who may call how often: the configured limits, each a GCRA over the shared table.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock::Clock, middleware::StateInformationMiddleware, nanos::Nanos,
};
use http::HeaderValue;
use tokio::time::Instant;

use super::table::{Key, Shared, Table};
use crate::{
    config::{CallClass, LimitedCaller, Rate, RateLimits},
    principal::Principal,
};

/// How often callers that owe nothing are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// All limits.
#[derive(Debug)]
pub struct Limiter {
    table: Arc<Table>,
    defaults: HashMap<CallClass, Limit>,
    /// By id and class.
    of_principals: HashMap<(String, CallClass), Limit>,
    /// By group and class; with its place in the file: the first that fits counts.
    of_groups: HashMap<(String, CallClass), (usize, Limit)>,
    /// Whether what is over a limit is only logged.
    pub report_only: bool,
}

/// One limit: each caller that it is for has a quota of its own.
#[derive(Debug)]
struct Limit {
    class: CallClass,
    /// None: no limit.
    gcra: Option<Gcra>,
}

#[derive(Debug)]
struct Gcra {
    rate: Rate,
    /// Tells its numbers in the table from other limits'.
    index: usize,
    limiter: RateLimiter<Key, Shared, Ticks, StateInformationMiddleware>,
}

/// Tokio's clock, which tests pause. It stands at zero until it is set going, so that governor, which remembers when
/// its limiters began, counts from the table's epoch.
#[derive(Debug, Default)]
struct Ticks(OnceLock<Instant>);

/// What a call gets.
#[derive(Debug)]
pub struct Decision {
    /// None: it may go on.
    pub over: Option<Over>,
    /// The values of `ratelimit` and `ratelimit-policy`.
    pub headers: [HeaderValue; 2],
}

/// The limit that a call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// The calls it counts.
    pub class: CallClass,
    /// The limit.
    pub rate: Rate,
    /// After how long a call is within it.
    pub wait: Duration,
}

impl Limiter {
    /// None: there is no limit.
    pub fn new(limits: &RateLimits) -> Option<Self> {
        let table = Arc::new(Table::default());
        let mut built = 0;
        let mut limit = |class, rate: Option<Rate>| {
            built += 1;
            Limit { class, gcra: rate.and_then(|rate| Gcra::new(rate, built, &table)) }
        };
        let defaults = [(CallClass::Read, limits.read), (CallClass::Mutate, limits.mutate)];
        let defaults = defaults.into_iter().map(|(class, rate)| (class, limit(class, rate)));
        let defaults: HashMap<_, _> = defaults.collect();
        let (mut of_principals, mut of_groups) = (HashMap::new(), HashMap::new());
        for (place, other) in limits.overrides.iter().enumerate() {
            let limit = limit(other.class, other.rate);
            match &other.caller {
                LimitedCaller::Principal(id) => {
                    of_principals.insert((id.clone(), other.class), limit);
                }
                LimitedCaller::Group(group) => {
                    of_groups.insert((group.clone(), other.class), (place, limit));
                }
            }
        }
        let report_only = limits.report_only;
        let limiter = Self { table, defaults, of_principals, of_groups, report_only };
        let mut all = limiter.defaults.values().chain(limiter.of_principals.values());
        let any = all.any(|limit| limit.gcra.is_some())
            || limiter.of_groups.values().any(|(_, limit)| limit.gcra.is_some());
        any.then_some(limiter)
    }

    /// Counts a call. None: no limit is for it. Callers without a name share one quota.
    pub fn check(&self, principal: Option<&Principal>, class: CallClass) -> Option<Decision> {
        let limit = self.limit(principal, class)?;
        let gcra = limit.gcra.as_ref()?;
        let caller = principal.map(|caller| (caller.method, &caller.issuer, &caller.subject));
        Some(gcra.check(self.table.key((gcra.index, caller)), limit.class))
    }

    /// A principal's own limit, else the first of its groups', else everyone's.
    fn limit(&self, principal: Option<&Principal>, class: CallClass) -> Option<&Limit> {
        let own = principal.filter(|_| !self.of_principals.is_empty());
        if let Some(limit) = own.and_then(|own| self.of_principals.get(&(own.id(), class))) {
            return Some(limit);
        }
        let groups = principal.filter(|_| !self.of_groups.is_empty()).map(|caller| &caller.groups);
        let of_groups = groups.into_iter().flatten();
        let of_groups = of_groups.filter_map(|group| self.of_groups.get(&(group.clone(), class)));
        let first = of_groups.min_by_key(|(place, _)| *place).map(|(_, limit)| limit);
        first.or_else(|| self.defaults.get(&class))
    }

    /// How many callers are known.
    pub fn known(&self) -> usize {
        self.table.len()
    }

    /// Forgets callers that owe nothing, for ever.
    pub async fn keep_swept(&self) {
        self.table.keep_swept(SWEEP_EVERY).await;
    }
}

// === impl Gcra ===

impl Gcra {
    fn new(rate: Rate, index: usize, table: &Arc<Table>) -> Option<Self> {
        let period = Duration::from_secs(1).checked_div(rate.per_second)?;
        let quota = Quota::with_period(period)?.allow_burst(NonZeroU32::new(rate.burst)?);
        let limiter = RateLimiter::new(quota, Shared(table.clone()), Ticks::default());
        let gcra = Self { rate, index, limiter };
        let _ = gcra.limiter.clock().0.set(table.epoch());
        Some(gcra)
    }

    fn check(&self, key: Key, class: CallClass) -> Decision {
        let (left, wait) = match self.limiter.check_key(&key) {
            Ok(state) => (state.remaining_burst_capacity(), None),
            Err(refused) => (0, Some(refused.wait_time_from(self.limiter.clock().now()))),
        };
        let Rate { per_second, burst } = self.rate;
        // When what is left is all that it can be, or else when there is something again.
        let reset = wait.map_or_else(
            || u64::from((burst - left.min(burst)).div_ceil(per_second)),
            |wait| u64::try_from(wait.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u64::MAX),
        );
        let name = class.as_str();
        let window = burst.div_ceil(per_second);
        let value = |text: String| {
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        let headers = [
            value(format!("\"{name}\";r={left};t={reset}")),
            value(format!("\"{name}\";q={burst};w={window}")),
        ];
        Decision { over: wait.map(|wait| Over { class, rate: self.rate, wait }), headers }
    }
}

// === impl Ticks ===

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let passed = self.0.get().map(Instant::elapsed).unwrap_or_default();
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX).into()
    }
}
