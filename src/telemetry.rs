//! The log: tracing events to stderr, as text for eyes or as one JSON object a line.
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

use tracing_subscriber::{Layer as _, fmt, fmt::MakeWriter, prelude::*};

use self::{
    level::Level,
    metrics::{Metrics, Reading, table},
};

pub mod audit;
pub mod level;
pub mod metrics;

/// How many bytes of lines wait to be written at most: some 20,000 lines.
const CAPACITY: usize = 4 << 20;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts the log, for the whole process.
pub fn start(json: bool, directives: &str) -> Result<(Guard, Level), String> {
    let (filter, level) = Level::open(directives)?;
    let (lines, guard) = Lines::start(io::stderr()).map_err(|error| error.to_string())?;
    let layer = if json {
        fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(lines).boxed()
    } else {
        fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(lines).boxed()
    };
    let subscriber = tracing_subscriber::registry().with(layer).with(filter);
    subscriber.try_init().map_err(|error| error.to_string())?;
    // Else a panic would put bare lines between those of the log.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(
            message = "panicked",
            panic = panic.payload_as_str().unwrap_or("not a text"),
            location = panic.location().map(tracing::field::display),
            backtrace = %std::backtrace::Backtrace::capture(),
        );
    }));
    Ok((guard, level))
}

/// Writes out what is left when dropped. Lines after that are lost.
#[derive(Debug)]
pub struct Guard(Arc<Shared>);

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
    fn start(out: impl Write + Send + 'static) -> io::Result<(Self, Guard)> {
        Self::with_capacity(out, CAPACITY)
    }

    fn with_capacity(
        out: impl Write + Send + 'static,
        capacity: usize,
    ) -> io::Result<(Self, Guard)> {
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            lost: AtomicU64::new(0),
            capacity,
            wake: Condvar::new(),
            ended: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_out(out))?;
        Ok((Self(Arc::clone(&shared)), Guard(shared)))
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

// === impl Guard ===

impl Guard {
    /// Counts the lines that are lost.
    pub fn count_with(&self, metrics: &Metrics) {
        let shared = Arc::clone(&self.0);
        let lost = move || vec![Reading::count(shared.lost.load(Ordering::Relaxed))];
        metrics.watch(&table::LOG_LINES_LOST, lost);
    }
}

impl Drop for Guard {
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
