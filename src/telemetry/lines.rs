//! Log lines that name the trace and the span that they belong to.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
};

use opentelemetry::{SpanId, TraceId};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::trace;

/// Writes a line as `inner` does, and the ids at its end.
#[derive(Debug)]
pub struct Traced<F> {
    inner: F,
    json: bool,
    current: fn() -> Option<(TraceId, SpanId)>,
}

thread_local! {
    /// Where a line is put together. Taken while it is in use: what is logged may log.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// Whether an event tells of a field. One that is none has no value.
struct Told {
    field: Field,
    is: bool,
}

impl<F> Traced<F> {
    /// `json`: its lines are JSON objects.
    pub fn new(inner: F, json: bool) -> Self {
        Self { inner, json, current: trace::current }
    }

    fn add(
        &self,
        to: &mut String,
        event: &Event<'_>,
        name: &str,
        value: &impl fmt::Display,
    ) -> fmt::Result {
        // The line may tell of a trace itself: an operation's, which an earlier call began.
        match (tells(event, name), self.json) {
            (true, _) => Ok(()),
            (false, true) => write!(to, ",\"{name}\":\"{value}\""),
            (false, false) => write!(to, " {name}={value}"),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some((trace_id, span_id)) = (self.current)() else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = LINE.take();
        line.clear();
        let done = self.inner.format_event(context, Writer::new(&mut line), event);
        let end = if self.json { "}\n" } else { "\n" };
        if line.ends_with(end) {
            line.truncate(line.len() - end.len());
        }
        let done = done
            .and_then(|()| self.add(&mut line, event, "trace_id", &trace_id))
            .and_then(|()| self.add(&mut line, event, "span_id", &span_id))
            .and_then(|()| writer.write_str(&line))
            .and_then(|()| writer.write_str(end));
        LINE.set(line);
        done
    }
}

fn tells(event: &Event<'_>, name: &str) -> bool {
    let Some(field) = event.metadata().fields().field(name) else { return false };
    let mut told = Told { field, is: false };
    event.record(&mut told);
    told.is
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, _: &dyn fmt::Debug) {
        self.is |= *field == self.field;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::{MakeWriter, Subscriber as Fmt};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn log() {
        tracing::info!(a = 1, "call");
        tracing::info!(b = "{x}", trace_id = "own", "operation");
        tracing::info!(trace_id = None::<&str>, c = "}", "operation");
    }

    #[test]
    fn ids_come_last_and_once() {
        let current = || Some((TraceId::from(1), SpanId::from(2)));
        let lines = Lines::default();
        let json = Fmt::builder().json().flatten_event(true).without_time().with_target(false);
        let json = json.map_event_format(|inner| Traced { inner, json: true, current });
        tracing::subscriber::with_default(json.with_writer(lines.clone()).finish(), log);
        let text = Fmt::builder().with_ansi(false).without_time().with_target(false);
        let text = text.map_event_format(|inner| Traced { inner, json: false, current });
        tracing::subscriber::with_default(text.with_writer(lines.clone()).finish(), log);
        let (trace, span) = ("00000000000000000000000000000001", "0000000000000002");
        let expected = format!(
            "\
{{\"level\":\"INFO\",\"message\":\"call\",\"a\":1,\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}
{{\"level\":\"INFO\",\"message\":\"operation\",\"b\":\"{{x}}\",\"trace_id\":\"own\",\"span_id\":\"{span}\"}}
{{\"level\":\"INFO\",\"message\":\"operation\",\"c\":\"}}\",\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}
 INFO call a=1 trace_id={trace} span_id={span}
 INFO operation b=\"{{x}}\" trace_id=\"own\" span_id={span}
 INFO operation c=\"}}\" trace_id={trace} span_id={span}
"
        );
        assert_eq!(String::from_utf8(lines.0.lock().unwrap().clone()).unwrap(), expected);
    }
}
