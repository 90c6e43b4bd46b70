//! Spans and log lines on their way to the collector, in OTLP's bytes from the moment they are handed over.
//!
//! The SDK's own way is a queue of spans and lines, which are copied, freed by another thread, turned into messages and
//! then into bytes: of a call that takes 45 microseconds of processor time that took 27 more. Here whoever hands
//! something over writes its bytes and adds them to the open batch, under a lock that is held for the copy alone. A task
//! sends full batches at once, and what there is every [`DELAY`].

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    logs::{LogProcessor, SdkLogRecord},
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use super::{encode, send::Sending};
use crate::telemetry::losses::Account;

/// How many spans or lines wait at most, and how many go out at once.
const QUEUE: usize = 8192;
const BATCH: usize = 512;

/// How many may be on their way.
pub const ROOM: usize = QUEUE + BATCH;

/// How long a span or a line waits at most until it goes out.
const DELAY: Duration = Duration::from_secs(1);

thread_local! {
    /// Where one of them is written before it is added.
    static DRAFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Takes spans or lines without waiting.
pub struct Batches {
    shared: Arc<Shared>,
    /// Disconnected when all is sent.
    through: Mutex<Receiver<()>>,
}

struct Shared {
    account: Arc<Account>,
    waiting: Mutex<Waiting>,
    /// A batch is full, or it ends.
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    open: Batch,
    full: VecDeque<Batch>,
    /// In all of them.
    count: usize,
    closing: bool,
}

/// What goes out at once: the spans or records of each scope in a row.
#[derive(Default)]
pub struct Batch {
    scopes: Vec<(String, Vec<u8>)>,
    count: usize,
}

// === impl Batches ===

impl Batches {
    /// Sends on this runtime.
    pub fn start(runtime: &Handle, account: Arc<Account>, sending: Sending) -> Self {
        let (waiting, wake) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { account, waiting, wake });
        let (told, through) = channel();
        runtime.spawn(shared.clone().keep_sending(sending, told));
        Self { shared, through: Mutex::new(through) }
    }

    fn put(&self, scope: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.shared.account.offered();
        let put = DRAFT.try_with(|draft| {
            let mut draft = draft.try_borrow_mut().ok()?;
            draft.clear();
            encode::item(&mut draft, write);
            self.shared.add(scope, &draft)
        });
        // Full, closed, or this thread is at its end.
        if !matches!(put, Ok(Some(()))) {
            self.shared.account.dropped();
        }
    }

    /// Sends what there is, for as long as this.
    fn close(&self, bound: Duration) -> OTelSdkResult {
        self.shared.waiting().closing = true;
        self.shared.wake.notify_one();
        let through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent on it.
        let result = match through.recv_timeout(bound) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(OTelSdkError::Timeout(bound)),
            Ok(()) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Ok(()),
        };
        self.shared.account.close();
        result
    }
}

impl SpanProcessor for Batches {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.put(span.instrumentation_scope.name(), |to| encode::span(to, &span));
        }
    }

    /// Nobody asks for it: what there is goes out at the end, or after [`DELAY`].
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.close(timeout)
    }
}

impl LogProcessor for Batches {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        self.put(&encode::scope_of(record), |to| encode::record(to, record));
    }

    /// Nobody asks for it: what there is goes out at the end, or after [`DELAY`].
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.close(timeout)
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("account", &self.shared.account).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds it, if there is room.
    fn add(&self, scope: &str, item: &[u8]) -> Option<()> {
        let mut waiting = self.waiting();
        if waiting.closing || waiting.count >= QUEUE {
            return None;
        }
        waiting.count += 1;
        waiting.open.add(scope, item);
        if waiting.open.count >= BATCH {
            let full = mem::take(&mut waiting.open);
            waiting.full.push_back(full);
            drop(waiting);
            self.wake.notify_one();
        }
        Some(())
    }

    /// The next batch. `all`: one that is not full, too.
    fn next(&self, all: bool) -> Option<Batch> {
        let mut waiting = self.waiting();
        let batch = waiting
            .full
            .pop_front()
            .or_else(|| (all && waiting.open.count > 0).then(|| mem::take(&mut waiting.open)))?;
        waiting.count -= batch.count;
        Some(batch)
    }

    /// Until it is closed and all is sent. `_told` is dropped then.
    async fn keep_sending(self: Arc<Self>, sending: Sending, _told: Sender<()>) {
        let mut ticks = interval(DELAY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let all = tokio::select! {
                () = self.wake.notified() => false,
                _ = ticks.tick() => true,
            };
            let closing = self.waiting().closing;
            while let Some(batch) = self.next(all || closing) {
                let count = batch.count as u64;
                let result = sending.send(&batch).await;
                self.account.exported(count, &result);
            }
            if closing {
                return;
            }
        }
    }
}

// === impl Batch ===

impl Batch {
    fn add(&mut self, scope: &str, item: &[u8]) {
        self.count += 1;
        // There are a handful: a target of the log is one.
        let known = self.scopes.iter_mut().find(|(name, _)| name == scope);
        match known {
            Some((_, items)) => items.extend_from_slice(item),
            None => self.scopes.push((scope.to_owned(), item.to_vec())),
        }
    }

    /// The scopes by name.
    pub fn scopes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.scopes.iter().map(|(name, items)| (name.as_str(), items.as_slice()))
    }
}
