//! Log lines that name the trace and the span that they belong to.

use std::fmt;

use tracing::{Event, Subscriber};
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
}

impl<F> Traced<F> {
    /// `json`: its lines are JSON objects.
    pub fn new(inner: F, json: bool) -> Self {
        Self { inner, json }
    }

    fn with_ids(&self, line: &str, trace_id: &str, span_id: &str) -> String {
        // The line may tell of a trace itself: an operation's, which an earlier call began.
        let add = |text: &mut String, name: &str, value: &str| {
            let (known, added) = match self.json {
                true => (format!("\"{name}\":"), format!(",\"{name}\":\"{value}\"")),
                false => (format!("{name}="), format!(" {name}={value}")),
            };
            if !line.contains(&known) {
                text.push_str(&added);
            }
        };
        let end = if self.json { "}\n" } else { "\n" };
        let Some(rest) = line.strip_suffix(end) else { return line.to_owned() };
        let mut text = rest.to_owned();
        add(&mut text, "trace_id", trace_id);
        add(&mut text, "span_id", span_id);
        text.push_str(end);
        text
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
        let Some((trace_id, span_id)) = trace::current() else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&self.with_ids(&line, &trace_id, &span_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_last_and_once() {
        let json = Traced::new((), true);
        assert_eq!(
            json.with_ids("{\"a\":1}\n", "t", "s"),
            "{\"a\":1,\"trace_id\":\"t\",\"span_id\":\"s\"}\n"
        );
        assert_eq!(
            json.with_ids("{\"trace_id\":\"x\"}\n", "t", "s"),
            "{\"trace_id\":\"x\",\"span_id\":\"s\"}\n"
        );
        let text = Traced::new((), false);
        assert_eq!(
            text.with_ids("INFO call a=1\n", "t", "s"),
            "INFO call a=1 trace_id=t span_id=s\n"
        );
    }
}
