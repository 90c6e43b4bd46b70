//! What did not reach the collector: counted, in a metric too, and said in the log, at most once a minute. The SDK says it
//! for each batch, which would make of a collector's outage a flood of lines, so it is silenced (see `telemetry.rs`).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, InstrumentationScope, logs::Severity};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};
use tokio::time::Instant;

/// How often losses are told at most.
const AGAIN: Duration = Duration::from_secs(60);

/// One signal's account.
#[derive(Debug)]
pub struct Account {
    signal: &'static str,
    /// How many may be on their way: whatever is missing beyond that did not find a place in the queue.
    room: u64,
    offered: AtomicU64,
    delivered: AtomicU64,
    /// Whose request failed.
    failed: AtomicU64,
    /// The most that were known to be lost: what is delivered makes room for others that may be on their way.
    known: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    lost: u64,
}

/// A processor or exporter whose work is put into the account.
#[derive(Debug)]
pub struct Counted<T> {
    inner: T,
    account: Arc<Account>,
}

// === impl Account ===

impl Account {
    /// An empty one, of a signal whose queue and batch have so much room.
    pub fn new(signal: &'static str, room: usize) -> Arc<Self> {
        Arc::new(Self {
            signal,
            room: u64::try_from(room).unwrap_or(u64::MAX),
            offered: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            known: AtomicU64::new(0),
            told: Mutex::default(),
        })
    }

    /// Puts `inner`'s work into it.
    pub fn count<T>(self: &Arc<Self>, inner: T) -> Counted<T> {
        Counted { inner, account: self.clone() }
    }

    /// One is there to be sent.
    pub fn offered(&self) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }

    /// Its signal, as OpenTelemetry calls it.
    pub fn signal(&self) -> &'static str {
        self.signal
    }

    /// How many are lost for certain by now. It never shrinks.
    pub fn lost_by_now(&self) -> u64 {
        let lost = self.lost(self.room);
        self.known.fetch_max(lost, Ordering::Relaxed).max(lost)
    }

    /// How many are lost for certain while it runs; at the end, `room` is zero and it is exact.
    fn lost(&self, room: u64) -> u64 {
        // First, so that what comes meanwhile is not missed from what is delivered meanwhile.
        let offered = self.offered.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        let delivered = self.delivered.load(Ordering::Relaxed);
        failed + offered.saturating_sub(delivered + failed + room)
    }

    /// So many were sent, well or not.
    pub fn exported(&self, count: u64, result: &OTelSdkResult) {
        let counter = if result.is_ok() { &self.delivered } else { &self.failed };
        counter.fetch_add(count, Ordering::Relaxed);
        let error = result.as_ref().err().map(ToString::to_string);
        self.tell(self.room, error.as_deref(), false);
    }

    /// Says what is lost, if that is news.
    fn tell(&self, room: u64, error: Option<&str>, last: bool) {
        let lost = self.lost(room);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last || told.at.is_none_or(|at| at.elapsed() >= AGAIN);
        if lost == told.lost || !due {
            return;
        }
        *told = Told { at: Some(Instant::now()), lost };
        drop(told);
        // Not for the collector: it is about it.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        tracing::warn!(signal = self.signal, lost, error, "telemetry does not reach the collector");
    }

    /// The end: what has not been delivered is lost.
    pub fn close(&self) {
        self.tell(0, None, true);
    }
}

// === impl Counted ===

impl<T: SpanProcessor> SpanProcessor for Counted<T> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.account.offered();
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let result = self.inner.shutdown_with_timeout(timeout);
        self.account.close();
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<T: LogProcessor> LogProcessor for Counted<T> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.account.offered();
        self.inner.emit(record, scope);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let result = self.inner.shutdown_with_timeout(timeout);
        self.account.close();
        result
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.inner.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<T: SpanExporter> SpanExporter for Counted<T> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let result = self.inner.export(batch).await;
        self.account.exported(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.inner.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<T: LogExporter> LogExporter for Counted<T> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = u64::try_from(batch.iter().count()).unwrap_or(u64::MAX);
        let result = self.inner.export(batch).await;
        self.account.exported(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.inner.shutdown()
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.inner.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<T: PushMetricExporter> PushMetricExporter for Counted<T> {
    /// Each export is one: the next one says all of it again.
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.account.offered();
        let result = self.inner.export(metrics).await;
        self.account.exported(1, &result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    #[test]
    fn what_is_lost_is_what_was_offered_and_not_delivered() {
        let account = Account::new("spans", 10);
        for _ in 0..25 {
            account.offered();
        }
        assert_eq!(account.lost_by_now(), 15);
        // They may all be on their way, but for five.
        account.exported(10, &Ok(()));
        assert_eq!(account.lost(account.room), 5);
        assert_eq!(account.lost_by_now(), 15);
        account.exported(3, &Err(OTelSdkError::AlreadyShutdown));
        assert_eq!(account.lost(account.room), 5);
        assert_eq!(account.lost(0), 15);
        account.close();
        assert_eq!(account.told.lock().unwrap().lost, 15);
    }

    #[tokio::test(start_paused = true)]
    async fn losses_are_told_once_a_minute() {
        let account = Account::new("spans", 10);
        let failed = || Err(OTelSdkError::AlreadyShutdown);
        let told = || account.told.lock().unwrap().lost;
        account.exported(1, &failed());
        assert_eq!(told(), 1);
        account.exported(1, &failed());
        assert_eq!(told(), 1);
        tokio::time::advance(AGAIN).await;
        account.exported(1, &failed());
        assert_eq!(told(), 3);
    }
}
