//! The log: tracing events to stderr, as text for eyes or as one JSON object a line. What a collector gets is in [`otlp`],
//! the spans of calls in [`trace`].
//!
//! A call must never wait for whoever reads stderr: a stuck log collector would be an outage. So a line is copied
//! into a bounded buffer and one thread writes the buffer out, many lines per system call. When the buffer is full,
//! lines are lost and counted, and the count is logged as soon as there is room. tracing-appender's non-blocking
//! writer does nearly this, but it allocates for each line, bounds lines rather than bytes, and does not say in the
//! log that lines were lost.

use std::{
    io::{self, IsTerminal as _, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{Directive, filter_fn},
    fmt,
    fmt::MakeWriter,
    prelude::*,
};

use self::{
    allowance::UNTOLD,
    level::Level,
    lines::Traced,
    losses::Account,
    metrics::{Metrics, Reading, table},
};
use crate::config::TelemetryConfig;

pub mod allowance;
pub mod audit;
pub mod level;
mod lines;
mod losses;
pub mod metrics;
pub mod otlp;
pub mod trace;

/// How the log, and what a collector gets, begin.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Whether the log on stderr is JSON.
    pub json: bool,
    /// The filter's directives.
    pub directives: &'a str,
    /// The collector.
    pub telemetry: &'a TelemetryConfig,
    /// What tells this process from others of its kind.
    pub instance: String,
}

/// How many bytes of lines wait to be written at most: some 20,000 lines.
const CAPACITY: usize = 4 << 20;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts the log, and what a collector gets, for the whole process.
pub fn start(settings: Settings<'_>) -> Result<(Guard, Level), String> {
    let Settings { json, directives, telemetry, instance } = settings;
    let (filter, level) = Level::open(directives)?;
    let mut otlp = match &telemetry.otlp {
        Some(config) => Some(otlp::Guard::open(config, telemetry, instance)?),
        None => None,
    };
    let tracer = otlp.as_mut().map(otlp::Guard::tracer).transpose()?.flatten();
    let logger = otlp.as_mut().map(otlp::Guard::logger).transpose()?.flatten();
    let (lines, guard) = Lines::start(io::stderr()).map_err(|error| error.to_string())?;
    let layer = if json {
        let layer = fmt::layer().json().flatten_event(true).with_span_list(false);
        layer.map_event_format(|format| Traced::new(format, true)).with_writer(lines).boxed()
    } else {
        let ansi = io::stderr().is_terminal();
        let format = move |format: fmt::format::Format| Traced::new(format.with_ansi(ansi), false);
        fmt::layer().with_ansi(ansi).map_event_format(format).with_writer(lines).boxed()
    };
    // The collector gets our own lines and nobody else's: those of its connection would make more of themselves.
    let ours = filter_fn(|line| {
        (line.target().starts_with("portcullis") || line.target() == "audit")
            && line.name() != UNTOLD
    });
    let bridge = logger.map(|to| OpenTelemetryTracingBridge::new(&to).with_filter(ours));
    let subscriber = tracing_subscriber::registry().with(layer).with(bridge).with(filter);
    subscriber.try_init().map_err(|error| error.to_string())?;
    if let Some(tracer) = tracer {
        trace::start(tracer);
    }
    if let Some(otlp) = &otlp {
        allowance::start(otlp.allowance());
    }
    // Else a panic would put bare lines between those of the log.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(
            message = "panicked",
            panic = panic.payload_as_str().unwrap_or("not a text"),
            location = panic.location().map(tracing::field::display),
            backtrace = %std::backtrace::Backtrace::capture(),
        );
    }));
    Ok((Guard { otlp, lines: guard }, level))
}

/// What of the AWS SDK has whole requests and answers at level trace: external ids, and session credentials of roles.
const TELLTALES: [&str; 2] = ["aws_smithy_runtime", "aws_sigv4"];

/// What the directives let through. Some lines only when they name their target: OpenTelemetry's own, as it has one for each
/// batch that fails, and `losses` says the same once a minute; and those of the AWS SDK that hold what is secret.
pub fn filter(directives: &str) -> Result<EnvFilter, String> {
    let mut all = directives.to_owned();
    if !directives.contains("opentelemetry") {
        all.push_str(",opentelemetry=off");
    }
    // As all others' lines, which without a level are errors, but never all of them. What is a level is the filter's word:
    // written out, a directive for one target names it.
    let level =
        |part: &str| part.parse::<Directive>().ok()?.to_string().parse::<LevelFilter>().ok();
    let last = directives.rsplit(',').find_map(level);
    let level = last.unwrap_or(LevelFilter::ERROR).min(LevelFilter::DEBUG);
    for target in TELLTALES.iter().filter(|target| !directives.contains(**target)) {
        all.push_str(&format!(",{target}={level}"));
    }
    EnvFilter::try_new(all).map_err(|error| error.to_string())
}

/// Ends the log and what the collector gets when dropped; what is left is written and sent before, within a bound. Lines
/// after that are lost.
#[derive(Debug)]
pub struct Guard {
    // First: it may have something to say in the log.
    otlp: Option<otlp::Guard>,
    lines: Flush,
}

impl Guard {
    /// The metrics, which the collector gets, too, if there is one.
    pub fn metrics(&mut self) -> Result<Metrics, String> {
        let metrics = match &mut self.otlp {
            None => Metrics::open(|readers| readers)?,
            Some(otlp) => {
                let (reader, resource) = (otlp.metric_reader()?, otlp.resource());
                let metrics = Metrics::open(|readers| match reader {
                    Some(reader) => readers.with_reader(reader).with_resource(resource),
                    None => readers,
                })?;
                let ended = metrics.clone();
                // Its reader has a bound of its own.
                otlp.at_the_end(move |_| drop(ended.shutdown()));
                metrics
            }
        };
        let shared = Arc::clone(&self.lines.0);
        let lost = move || vec![Reading::count(shared.lost.load(Ordering::Relaxed))];
        metrics.watch(&table::LOG_LINES_LOST, lost);
        if let Some(otlp) = &self.otlp {
            let accounts = otlp.accounts();
            metrics.watch(&table::TELEMETRY_LOST, move || {
                let lost = |of: &Arc<Account>| {
                    Reading::count(of.lost_by_now()).with("signal", of.signal())
                };
                accounts.iter().map(lost).collect()
            });
            let allowance = otlp.allowance();
            let untold = move || vec![Reading::count(allowance.spared())];
            metrics.watch(&table::TELEMETRY_UNTOLD, untold);
        }
        Ok(metrics)
    }
}

/// Writes out what is left when dropped. Lines after that are lost.
#[derive(Debug)]
struct Flush(Arc<Shared>);

/// Takes lines without waiting.
#[derive(Clone, Debug)]
struct Lines(Arc<Shared>);

/// One line's way in.
struct Line<'a>(&'a Shared);

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// Lines lost since the start.
    lost: AtomicU64,
    capacity: usize,
    /// There are lines, or it ends.
    wake: Condvar,
    /// The thread is through.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    lost: u64,
    closing: bool,
    ended: bool,
}

// === impl Lines ===

impl Lines {
    fn start(out: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        Self::with_capacity(out, CAPACITY)
    }

    fn with_capacity(
        out: impl Write + Send + 'static,
        capacity: usize,
    ) -> io::Result<(Self, Flush)> {
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            lost: AtomicU64::new(0),
            capacity,
            wake: Condvar::new(),
            ended: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_out(out))?;
        Ok((Self(Arc::clone(&shared)), Flush(shared)))
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    /// Takes a whole line: the formatter writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Shared ===

impl Shared {
    fn push(&self, line: &[u8]) {
        let mut buffer = self.lock();
        if buffer.ended || buffer.lines.len() + line.len() > self.capacity {
            buffer.lost += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = buffer.lines.is_empty();
        buffer.lines.extend_from_slice(line);
        drop(buffer);
        // While there are lines the thread is at work and looks again by itself.
        if was_empty {
            self.wake.notify_one();
        }
    }

    fn write_out(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let buffer = self.lock();
            let mut buffer = self
                .wake
                .wait_while(buffer, |buffer| buffer.lines.is_empty() && !buffer.closing)
                .unwrap_or_else(PoisonError::into_inner);
            if buffer.lines.is_empty() {
                buffer.ended = true;
                self.ended.notify_all();
                return;
            }
            mem::swap(&mut buffer.lines, &mut batch);
            let lost = mem::take(&mut buffer.lost);
            drop(buffer);
            // If stderr is gone there is nobody to tell.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            if lost > 0 {
                tracing::warn!(lost, "log lines lost: stderr is read too slowly");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Flush ===

impl Drop for Flush {
    fn drop(&mut self) {
        let mut buffer = self.0.lock();
        buffer.closing = true;
        self.0.wake.notify_one();
        // Bounded: the end of the process must not depend on the reader of stderr either.
        let waited = self.0.ended.wait_timeout_while(buffer, FLUSH_TIMEOUT, |buffer| !buffer.ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Tells of each write and goes on when told to.
    struct Slow {
        begun: mpsc::Sender<()>,
        go_on: mpsc::Receiver<()>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(()).ok();
            self.go_on.recv().ok();
            self.text.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What of these lines the directives let through: each level of the SDK's request, and of ours.
    fn passed(directives: &str) -> String {
        macro_rules! lines {
            ($($target:literal),*) => {$(
                tracing::warn!(target: $target, "{} warn", $target);
                tracing::info!(target: $target, "{} info", $target);
                tracing::debug!(target: $target, "{} debug", $target);
                tracing::trace!(target: $target, "{} trace", $target);
            )*};
        }
        let text = Arc::new(Mutex::new(String::new()));
        // Nobody waits for it, and it waits for nobody.
        let ((begun, _), (_, go_on)) = (mpsc::channel(), mpsc::channel());
        let writer = Slow { begun, go_on, text: Arc::clone(&text) };
        let (lines, guard) = Lines::with_capacity(writer, 1 << 20).unwrap();
        let layer = fmt::layer().with_ansi(false).with_writer(lines);
        let log = tracing_subscriber::registry().with(layer).with(filter(directives).unwrap());
        tracing::subscriber::with_default(log, || {
            lines!("aws_smithy_runtime::client::orchestrator", "aws_sigv4::http_request", "other");
        });
        drop(guard);
        text.lock().unwrap().clone()
    }

    #[test]
    fn the_sdks_requests_are_logged_only_if_they_are_asked_for_by_name() {
        for directives in ["trace", "trace,portcullis=trace", "aws=trace,trace", " trace", "5"] {
            let log = passed(directives);
            assert_eq!(log.contains("other debug"), log.contains("orchestrator debug"), "{log}");
            assert!(!log.contains("orchestrator trace"), "{directives}: {log}");
            assert!(!log.contains("http_request trace"), "{directives}: {log}");
        }
        let named = passed("trace,aws_smithy_runtime=trace,aws_sigv4=trace");
        assert!(named.contains("orchestrator trace") && named.contains("http_request trace"));
        // It is not louder for it than it was.
        for (directives, loudest, next) in [
            ("info", "orchestrator info", "orchestrator debug"),
            ("info,portcullis=trace", "orchestrator info", "orchestrator debug"),
            ("warn", "orchestrator warn", "orchestrator info"),
            ("other=trace", "other trace", "orchestrator warn"),
            ("other=trace,off", "other trace", "orchestrator warn"),
        ] {
            let log = passed(directives);
            assert!(log.contains(loudest) && !log.contains(next), "{directives}: {log}");
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_never_a_wait() {
        let (begun, has_begun) = mpsc::channel();
        let (go, go_on) = mpsc::channel();
        let text = Arc::new(Mutex::new(String::new()));
        let slow = Slow { begun, go_on, text: Arc::clone(&text) };
        let (lines, guard) = Lines::with_capacity(slow, 8).unwrap();
        let push = |line: &str| lines.make_writer().write_all(line.as_bytes()).unwrap();

        push("first\n");
        has_begun.recv().unwrap();
        push("second\n");
        push("third\n");
        push("fourth\n");
        assert_eq!(lines.0.lock().lost, 2);
        drop(go);
        drop(guard);
        assert_eq!(*text.lock().unwrap(), "first\nsecond\n");

        push("late\n");
        assert!(lines.0.lock().lines.is_empty());
    }
}
