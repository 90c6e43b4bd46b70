//! The metrics: [`table`] says which there are, [`Metrics`] is the handle that everything counts with.
//!
//! There is no global: the program makes one handle and passes clones of it down, and a test makes its own. What
//! happens is recorded where it happens; what is, such as the age of keys, is asked for when somebody reads
//! ([`Metrics::watch`]). Nothing here waits for a reader.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, MeterProvider as _, UpDownCounter},
};
use opentelemetry_sdk::{
    Resource,
    metrics::{MeterProviderBuilder, SdkMeterProvider},
};
use prometheus::{Registry, TextEncoder};

pub mod table;

use table::{Kind, Metric};

/// The format of [`Metrics::text`].
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// The method of a call to what is no RPC.
pub const OTHER: &str = "_OTHER";

/// Counts and measures. Clones share everything. The default has no reader, so that it costs next to nothing.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    provider: SdkMeterProvider,
    meter: Meter,
    registry: Registry,
    calls: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
    connections: UpDownCounter<i64>,
    limiter: Counter<u64>,
    pacing_wait: Histogram<f64>,
    pacing_queued: UpDownCounter<i64>,
    pacing_refusals: Counter<u64>,
    ec2_calls: Histogram<f64>,
    ec2_throttles: Counter<u64>,
    commits: Histogram<f64>,
    writes: Histogram<f64>,
    turns: Histogram<f64>,
    finished: Counter<u64>,
    recovered: Counter<u64>,
    unsettled: Gauge<u64>,
    oldest: Gauge<f64>,
}

/// What is counted until it is dropped.
#[must_use = "dropped, it is no longer counted"]
pub struct Held {
    counter: UpDownCounter<i64>,
    attributes: Target,
}

/// The account and Region of calls to EC2, and perhaps their class; made once and shared.
type Target = Arc<[KeyValue]>;

/// What waits for EC2's budget in one account and Region.
#[derive(Clone)]
pub struct Pacing {
    metrics: Metrics,
    target: Target,
}

/// Counts a ledger's commits, once it is told what with.
#[derive(Debug, Default)]
pub struct Commits(OnceLock<(Metrics, [KeyValue; 1])>);

/// A value of what is watched, and whose it is.
#[derive(Clone, Debug)]
pub struct Reading {
    value: f64,
    attributes: Vec<KeyValue>,
}

// === impl Metrics ===

impl Metrics {
    /// With Prometheus as a reader. `extend` adds others, and what the process is.
    pub fn open(
        extend: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder,
    ) -> Result<Self, String> {
        let registry = Registry::new();
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self::with(registry, |builder| extend(builder.with_reader(prometheus))))
    }

    fn with(
        registry: Registry,
        extend: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder,
    ) -> Self {
        // Not the SDK's own, which reads the environment.
        let resource = Resource::builder_empty().build();
        let provider = extend(SdkMeterProvider::builder().with_resource(resource)).build();
        let meter = provider.meter("portcullis");
        let histogram = |metric: &Metric| {
            let builder = meter.f64_histogram(metric.name).with_unit(metric.unit);
            let builder = match metric.kind {
                Kind::Histogram(bounds) => builder.with_boundaries(bounds.to_vec()),
                Kind::Counter | Kind::UpDown | Kind::Gauge => builder,
            };
            builder.with_description(metric.doc).build()
        };
        let counter = |metric: &Metric| {
            let builder = meter.u64_counter(metric.name).with_unit(metric.unit);
            builder.with_description(metric.doc).build()
        };
        let up_down = |metric: &Metric| {
            let builder = meter.i64_up_down_counter(metric.name).with_unit(metric.unit);
            builder.with_description(metric.doc).build()
        };
        let (unsettled, oldest) = (&table::OPERATIONS_UNSETTLED, &table::OLDEST_UNSETTLED);
        let metrics = Self(Arc::new(Inner {
            registry,
            calls: histogram(&table::CALL_DURATION),
            in_flight: up_down(&table::CALLS_IN_FLIGHT),
            connections: up_down(&table::CONNECTIONS),
            limiter: counter(&table::LIMITER_REFUSALS),
            pacing_wait: histogram(&table::PACING_WAIT),
            pacing_queued: up_down(&table::PACING_QUEUED),
            pacing_refusals: counter(&table::PACING_REFUSALS),
            ec2_calls: histogram(&table::EC2_CALL_DURATION),
            ec2_throttles: counter(&table::EC2_THROTTLES),
            commits: histogram(&table::COMMIT_DURATION),
            writes: histogram(&table::COMMIT_WRITES),
            turns: histogram(&table::TURNS_WAIT),
            finished: counter(&table::OPERATIONS_FINISHED),
            recovered: counter(&table::OPERATIONS_RECOVERED),
            unsettled: meter
                .u64_gauge(unsettled.name)
                .with_unit(unsettled.unit)
                .with_description(unsettled.doc)
                .build(),
            oldest: meter
                .f64_gauge(oldest.name)
                .with_unit(oldest.unit)
                .with_description(oldest.doc)
                .build(),
            meter,
            provider,
        }));
        metrics.begin_at_zero();
        metrics
    }

    /// Counters of what is rare have series from the start: their first step would be no increase otherwise.
    fn begin_at_zero(&self) {
        for limit in ["principal", "in_flight", "failed_authentication"] {
            for class in ["read", "mutate"] {
                let of = [KeyValue::new("limit", limit), KeyValue::new("class", class)];
                self.0.limiter.add(0, &of);
            }
        }
        for settled_by in ["READ_BACK", "OPERATOR"] {
            for state in ["SUCCEEDED", "RELEASED"] {
                let of = [KeyValue::new("settled_by", settled_by), KeyValue::new("state", state)];
                self.0.recovered.add(0, &of);
            }
        }
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> Result<String, String> {
        let families = self.0.registry.gather();
        TextEncoder::new().encode_to_string(&families).map_err(|error| error.to_string())
    }

    /// Lets readers that send have what is there, within a bound of theirs, and ends them. It may block.
    pub fn shutdown(&self) -> Result<(), String> {
        self.0.provider.shutdown().map_err(|error| error.to_string())
    }

    /// Asks `read` whenever somebody reads. For gauges and counters. It must not block, nor hold what holds this
    /// handle.
    pub fn watch(
        &self,
        metric: &'static Metric,
        read: impl Fn() -> Vec<Reading> + Send + Sync + 'static,
    ) {
        let meter = &self.0.meter;
        let tell = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            for Reading { value, attributes } in read() {
                observer.observe(value, &attributes);
            }
        };
        match metric.kind {
            Kind::Counter => {
                let builder = meter.f64_observable_counter(metric.name).with_unit(metric.unit);
                builder.with_description(metric.doc).with_callback(tell).build();
            }
            Kind::Gauge | Kind::UpDown | Kind::Histogram(_) => {
                let builder = meter.f64_observable_gauge(metric.name).with_unit(metric.unit);
                builder.with_description(metric.doc).with_callback(tell).build();
            }
        }
    }

    // === calls ===

    /// A call has come.
    pub fn call(&self) -> Held {
        Held::new(&self.0.in_flight, Arc::default())
    }

    /// A call is over, however that came. Its method is a known one, or [`OTHER`]. `is_fault`: the server failed.
    pub fn called(
        &self,
        method: &'static str,
        code: &'static str,
        is_fault: bool,
        reason: Cow<'static, str>,
        took: Duration,
    ) {
        let of_fault = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.response.status_code", code),
            KeyValue::new("portcullis.reason", reason),
            KeyValue::new("error.type", code),
        ];
        let attributes = match of_fault.split_last() {
            Some((_, others)) if !is_fault => others,
            _ => &of_fault,
        };
        self.0.calls.record(took.as_secs_f64(), attributes);
    }

    /// A limit on its caller refused a call. `limit`: which; `class`: of the call.
    pub fn limited(&self, limit: &'static str, class: &'static str) {
        self.0.limiter.add(1, &[KeyValue::new("limit", limit), KeyValue::new("class", class)]);
    }

    /// A connection was accepted.
    pub fn connection(&self) -> Held {
        Held::new(&self.0.connections, Arc::default())
    }

    // === EC2 ===

    /// For calls of a class to an account and Region.
    pub fn pacing(&self, account: &str, region: &str, class: &'static str) -> Pacing {
        let target = [
            KeyValue::new("account", account.to_owned()),
            KeyValue::new("region", region.to_owned()),
            KeyValue::new("class", class),
        ];
        self.0.pacing_refusals.add(0, &target);
        Pacing { metrics: self.clone(), target: Arc::new(target) }
    }

    /// A call to EC2 is over. `error`: what became of it, if it failed.
    pub fn called_ec2(
        &self,
        action: Cow<'static, str>,
        (account, region): (&str, &str),
        error: Option<Cow<'static, str>>,
        took: Duration,
    ) {
        let mut attributes = vec![
            KeyValue::new("rpc.method", action),
            KeyValue::new("account", account.to_owned()),
            KeyValue::new("region", region.to_owned()),
        ];
        attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
        self.0.ec2_calls.record(took.as_secs_f64(), &attributes);
    }

    /// EC2 throttled so many of a call's requests.
    pub fn throttled(
        &self,
        action: Cow<'static, str>,
        (account, region): (&str, &str),
        times: u64,
    ) {
        let attributes = [
            KeyValue::new("rpc.method", action),
            KeyValue::new("account", account.to_owned()),
            KeyValue::new("region", region.to_owned()),
        ];
        self.0.ec2_throttles.add(times, &attributes);
    }

    // === operations ===

    /// A change has waited for its group's turn.
    pub fn waited_for_turn(&self, waited: Duration) {
        self.0.turns.record(waited.as_secs_f64(), &[]);
    }

    /// An operation was left in a state.
    pub fn finished(&self, method: &str, state: &'static str) {
        let method = KeyValue::new("rpc.method", method.to_owned());
        self.0.finished.add(1, &[method, KeyValue::new("state", state)]);
    }

    /// An operation was settled without its own answer.
    pub fn recovered(&self, settled_by: &'static str, state: &'static str) {
        let settled_by = KeyValue::new("settled_by", settled_by);
        self.0.recovered.add(1, &[settled_by, KeyValue::new("state", state)]);
    }

    /// How many operations have no outcome, by state, and how old the oldest is that is to be settled.
    pub fn unsettled(&self, counts: &[(&'static str, u64)], oldest: Duration) {
        for (state, count) in counts {
            self.0.unsettled.record(*count, &[KeyValue::new("state", *state)]);
        }
        self.0.oldest.record(oldest.as_secs_f64(), &[]);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::with(Registry::new(), |builder| builder)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

// === impl Held ===

impl Held {
    fn new(counter: &UpDownCounter<i64>, attributes: Target) -> Self {
        counter.add(1, &attributes);
        Self { counter: counter.clone(), attributes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counter.add(-1, &self.attributes);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

// === impl Pacing ===

impl Pacing {
    /// A call waits for a place.
    pub fn queued(&self) -> Held {
        Held::new(&self.metrics.0.pacing_queued, self.target.clone())
    }

    /// A call has got one.
    pub fn waited(&self, waited: Duration) {
        self.metrics.0.pacing_wait.record(waited.as_secs_f64(), &self.target);
    }

    /// There is none in time for a call.
    pub fn refused(&self) {
        self.metrics.0.pacing_refusals.add(1, &self.target);
    }
}

impl fmt::Debug for Pacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacing").field("target", &self.target).finish_non_exhaustive()
    }
}

// === impl Commits ===

impl Commits {
    /// From now on, commits of this engine are counted.
    pub fn count_with(&self, metrics: &Metrics, engine: &'static str) {
        // A ledger is told once.
        let _ = self.0.set((metrics.clone(), [KeyValue::new("engine", engine)]));
    }

    /// A commit of so many writes is over, well or not.
    pub fn committed(&self, took: Duration, writes: usize) {
        if let Some((metrics, engine)) = self.0.get() {
            metrics.0.commits.record(took.as_secs_f64(), engine);
            let writes = u32::try_from(writes).unwrap_or(u32::MAX);
            metrics.0.writes.record(f64::from(writes), engine);
        }
    }
}

// === impl Reading ===

impl Reading {
    /// A value that is nobody's in particular.
    pub fn of(value: f64) -> Self {
        Self { value, attributes: Vec::new() }
    }

    /// How many.
    pub fn count(count: u64) -> Self {
        // Exact far beyond anything that is counted.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        Self::of(count as f64)
    }

    /// One or zero.
    pub fn flag(is: bool) -> Self {
        Self::of(f64::from(u8::from(is)))
    }

    /// Whose it is.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.attributes.push(KeyValue::new(name, value.into()));
        self
    }
}
