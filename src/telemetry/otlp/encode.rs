//! OTLP's messages, written from what the SDK has, straight into bytes.
//!
//! The official exporter makes a tree of messages first, with memory of its own for each name and each value. That tree is
//! what the tests hold this against.

use std::{borrow::Cow, time::SystemTime};

use opentelemetry::{
    Array, Key, KeyValue, SpanId, TraceId, Value,
    logs::AnyValue,
    trace::{Link, SpanKind, Status},
};
use opentelemetry_sdk::{Resource, logs::SdkLogRecord, trace::SpanData};

/// The conventions that names of attributes are of.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";

/// How a field is written.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH_FIRST: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// That it is known whether a span's parent is elsewhere, and that it is.
const KNOWS_WHERE_PARENT_IS: u32 = 0x100;
const PARENT_IS_ELSEWHERE: u32 = 0x200;

/// A request, of traces or logs: they have the same shape. Each scope has a name, and its spans or records in a row, each
/// of them as [`item`] writes it.
pub fn request<'a>(
    resource: &Resource,
    scopes: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Vec<u8> {
    let mut to = Vec::with_capacity(1 << 10);
    message(&mut to, 1, |to| {
        message(to, 1, |to| {
            for (key, value) in resource {
                attribute(to, 1, key, value);
            }
        });
        for (name, items) in scopes {
            message(to, 2, |to| {
                message(to, 1, |to| {
                    text(to, 1, name);
                    text(to, 2, env!("CARGO_PKG_VERSION"));
                });
                to.extend_from_slice(items);
                text(to, 3, SCHEMA);
            });
        }
    });
    to
}

/// A span or a record, as a scope has it.
pub fn item(to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    message(to, 2, write);
}

/// A span.
pub fn span(to: &mut Vec<u8>, span: &SpanData) {
    let context = &span.span_context;
    ids(to, [1, 2], context.trace_id(), context.span_id());
    text(to, 3, &context.trace_state().header());
    if span.parent_span_id != SpanId::INVALID {
        bytes(to, 4, &span.parent_span_id.to_bytes());
    }
    text(to, 5, &span.name);
    let kind = match span.span_kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    };
    number(to, 6, kind);
    time(to, 7, Some(span.start_time));
    time(to, 8, Some(span.end_time));
    attributes(to, 9, &span.attributes);
    number(to, 10, span.dropped_attributes_count.into());
    for event in span.events.iter() {
        message(to, 11, |to| {
            time(to, 1, Some(event.timestamp));
            text(to, 2, &event.name);
            attributes(to, 3, &event.attributes);
            number(to, 4, event.dropped_attributes_count.into());
        });
    }
    number(to, 12, span.events.dropped_count.into());
    for link in span.links.iter() {
        message(to, 13, |to| self::link(to, link));
    }
    number(to, 14, span.links.dropped_count.into());
    message(to, 15, |to| match &span.status {
        Status::Unset => {}
        Status::Ok => number(to, 3, 1),
        Status::Error { description } => {
            text(to, 2, description);
            number(to, 3, 2);
        }
    });
    let flags = flags(span.parent_span_is_remote, context.trace_flags().to_u8());
    four_bytes(to, 16, flags);
}

fn link(to: &mut Vec<u8>, link: &Link) {
    let context = &link.span_context;
    ids(to, [1, 2], context.trace_id(), context.span_id());
    text(to, 3, &context.trace_state().header());
    attributes(to, 4, &link.attributes);
    number(to, 5, link.dropped_attributes_count.into());
    four_bytes(to, 6, flags(context.is_remote(), context.trace_flags().to_u8()));
}

fn flags(is_elsewhere: bool, of_trace: u8) -> u32 {
    let elsewhere = if is_elsewhere { PARENT_IS_ELSEWHERE } else { 0 };
    u32::from(of_trace) | KNOWS_WHERE_PARENT_IS | elsewhere
}

/// A log record. Its target is the scope's name, and its event's name is no more than a place in the source.
pub fn record(to: &mut Vec<u8>, record: &SdkLogRecord) {
    time(to, 1, record.timestamp());
    number(to, 2, record.severity_number().map_or(0, |severity| severity as u64));
    text(to, 3, record.severity_text().unwrap_or_default());
    if let Some(body) = record.body() {
        message(to, 5, |to| any(to, body));
    }
    for (key, value) in record.attributes_iter() {
        message(to, 6, |to| {
            text(to, 1, key.as_str());
            message(to, 2, |to| any(to, value));
        });
    }
    if let Some(context) = record.trace_context() {
        four_bytes(to, 8, context.trace_flags.map_or(0, |flags| flags.to_u8().into()));
        ids(to, [9, 10], context.trace_id, context.span_id);
    }
    time(to, 11, record.observed_timestamp());
}

/// The name of a record's scope.
pub fn scope_of(record: &SdkLogRecord) -> Cow<'static, str> {
    record.target().cloned().unwrap_or_default()
}

// === attributes ===

fn attributes(to: &mut Vec<u8>, tag: u64, all: &[KeyValue]) {
    for KeyValue { key, value, .. } in all {
        attribute(to, tag, key, value);
    }
}

fn attribute(to: &mut Vec<u8>, tag: u64, key: &Key, value: &Value) {
    message(to, tag, |to| {
        text(to, 1, key.as_str());
        message(to, 2, |to| self::value(to, value));
    });
}

fn value(to: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(value) => bytes(to, 1, value.as_str().as_bytes()),
        Value::Bool(value) => of_bool(to, *value),
        Value::I64(value) => of_i64(to, *value),
        Value::F64(value) => of_f64(to, *value),
        Value::Array(array) => message(to, 5, |to| match array {
            Array::Bool(all) => each(to, all, |to, one| of_bool(to, *one)),
            Array::I64(all) => each(to, all, |to, one| of_i64(to, *one)),
            Array::F64(all) => each(to, all, |to, one| of_f64(to, *one)),
            Array::String(all) => each(to, all, |to, one| bytes(to, 1, one.as_str().as_bytes())),
            // There are no others.
            _ => {}
        }),
        // There are no others.
        _ => {}
    }
}

fn any(to: &mut Vec<u8>, value: &AnyValue) {
    match value {
        AnyValue::String(value) => bytes(to, 1, value.as_str().as_bytes()),
        AnyValue::Boolean(value) => of_bool(to, *value),
        AnyValue::Int(value) => of_i64(to, *value),
        AnyValue::Double(value) => of_f64(to, *value),
        AnyValue::ListAny(all) => message(to, 5, |to| each(to, all, any)),
        AnyValue::Map(all) => message(to, 6, |to| {
            for (key, value) in all.iter() {
                message(to, 1, |to| {
                    text(to, 1, key.as_str());
                    message(to, 2, |to| any(to, value));
                });
            }
        }),
        AnyValue::Bytes(value) => bytes(to, 7, value),
        // There are no others.
        _ => {}
    }
}

fn each<T>(to: &mut Vec<u8>, all: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    for one in all {
        message(to, 1, |to| write(to, one));
    }
}

fn of_bool(to: &mut Vec<u8>, value: bool) {
    head(to, 2, VARINT);
    varint(to, value.into());
}

fn of_i64(to: &mut Vec<u8>, value: i64) {
    head(to, 3, VARINT);
    varint(to, value.cast_unsigned());
}

fn of_f64(to: &mut Vec<u8>, value: f64) {
    head(to, 4, EIGHT_BYTES);
    to.extend_from_slice(&value.to_le_bytes());
}

// === fields: those with their default value are left out ===

fn ids(to: &mut Vec<u8>, [of_trace, of_span]: [u64; 2], trace_id: TraceId, span_id: SpanId) {
    bytes(to, of_trace, &trace_id.to_bytes());
    bytes(to, of_span, &span_id.to_bytes());
}

fn text(to: &mut Vec<u8>, tag: u64, text: &str) {
    if !text.is_empty() {
        bytes(to, tag, text.as_bytes());
    }
}

fn number(to: &mut Vec<u8>, tag: u64, number: u64) {
    if number > 0 {
        head(to, tag, VARINT);
        varint(to, number);
    }
}

fn four_bytes(to: &mut Vec<u8>, tag: u64, number: u32) {
    if number > 0 {
        head(to, tag, FOUR_BYTES);
        to.extend_from_slice(&number.to_le_bytes());
    }
}

fn time(to: &mut Vec<u8>, tag: u64, time: Option<SystemTime>) {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let nanos = since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or_default());
    if nanos > 0 {
        head(to, tag, EIGHT_BYTES);
        to.extend_from_slice(&nanos.to_le_bytes());
    }
}

// === the wire, where nothing is left out ===

fn bytes(to: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    head(to, tag, LENGTH_FIRST);
    varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn message(to: &mut Vec<u8>, tag: u64, write: impl FnOnce(&mut Vec<u8>)) {
    head(to, tag, LENGTH_FIRST);
    let begin = to.len();
    write(to);
    let end = to.len();
    varint(to, (end - begin) as u64);
    // Known last, and written first.
    let length = to.len() - end;
    if let Some(written) = to.get_mut(begin..) {
        written.rotate_right(length);
    }
}

fn head(to: &mut Vec<u8>, tag: u64, wire: u64) {
    varint(to, tag << 3 | wire);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        let [low, ..] = value.to_le_bytes();
        to.push(low | 0x80);
        value >>= 7;
    }
    let [low, ..] = value.to_le_bytes();
    to.push(low);
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        InstrumentationScope,
        logs::{LogRecord as _, Logger as _, LoggerProvider as _, Severity},
        trace::{SpanContext, TraceFlags, TraceState},
    };
    use opentelemetry_proto::{
        tonic::{
            collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
            logs::v1::LogRecord,
        },
        transform::{
            common::tonic::ResourceAttributesWithSchema,
            trace::tonic::group_spans_by_resource_and_scope,
        },
    };
    use opentelemetry_sdk::{
        logs::SdkLoggerProvider,
        trace::{SpanEvents, SpanLinks},
    };
    use prost::Message as _;

    use super::*;

    fn resource() -> Resource {
        let own = [KeyValue::new("a", "b"), KeyValue::new("number", 7)];
        Resource::builder_empty().with_attributes(own).with_service_name("us").build()
    }

    fn context(span: u64, remote: bool) -> SpanContext {
        let state = TraceState::from_key_value([("vendor", "1")]).unwrap();
        SpanContext::new(
            TraceId::from(0xabc),
            SpanId::from(span),
            TraceFlags::SAMPLED,
            remote,
            state,
        )
    }

    fn example(status: Status, parent: u64) -> SpanData {
        let mut events = SpanEvents::default();
        events.events.push(opentelemetry::trace::Event::new(
            "turn",
            SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(77),
            vec![KeyValue::new("in", "event")],
            1,
        ));
        events.dropped_count = 3;
        let mut links = SpanLinks::default();
        links.links.push(Link::new(context(9, true), vec![KeyValue::new("in", "link")], 4));
        let array = Value::Array(Array::String(vec!["x".into(), "".into()]));
        SpanData {
            span_context: context(5, false),
            parent_span_id: SpanId::from(parent),
            parent_span_is_remote: parent > 0,
            span_kind: SpanKind::Server,
            name: "name".into(),
            start_time: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
            end_time: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_001),
            attributes: vec![
                KeyValue::new("text", "x".repeat(300)),
                KeyValue::new("empty", ""),
                KeyValue::new("number", -1),
                KeyValue::new("zero", 0),
                KeyValue::new("part", 0.5),
                KeyValue::new("is", false),
                KeyValue::new("array", array),
                KeyValue::new("numbers", Value::Array(Array::I64(vec![0, 300]))),
            ],
            dropped_attributes_count: 2,
            events,
            links,
            status,
            instrumentation_scope: InstrumentationScope::builder("portcullis")
                .with_version(env!("CARGO_PKG_VERSION"))
                .with_schema_url(SCHEMA)
                .build(),
        }
    }

    #[test]
    fn traces_are_what_the_official_exporter_makes_of_them() {
        let spans = vec![
            example(Status::Unset, 0),
            example(Status::Ok, 3),
            example(Status::error("why"), u64::MAX),
        ];
        let mut items = Vec::new();
        for one in &spans {
            item(&mut items, |to| span(to, one));
        }
        // One of them: their attributes have no order.
        let resource = resource();
        let bytes = request(&resource, [("portcullis", items.as_slice())].into_iter());
        let written = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
        let of_resource = ResourceAttributesWithSchema::from(&resource);
        let resource_spans = group_spans_by_resource_and_scope(spans, &of_resource);
        assert_eq!(written, ExportTraceServiceRequest { resource_spans });
    }

    #[test]
    fn logs_are_what_the_official_exporter_makes_of_them() {
        let logger = SdkLoggerProvider::builder().build().logger("");
        let mut line = logger.create_log_record();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        line.set_target("portcullis::call");
        line.set_severity_number(Severity::Error);
        line.set_severity_text("ERROR");
        line.set_timestamp(time);
        line.set_observed_timestamp(time);
        line.set_body("call".into());
        line.set_trace_context(TraceId::from(1), SpanId::from(2), Some(TraceFlags::SAMPLED));
        line.add_attribute("text", "value");
        line.add_attribute("micros", 0);
        line.add_attribute("part", 0.25);
        line.add_attribute("is", true);
        line.add_attribute("bytes", AnyValue::Bytes(Box::new(vec![1, 2])));
        line.add_attribute("list", AnyValue::ListAny(Box::new(vec![1.into(), "x".into()])));
        let map = [(Key::new("in"), AnyValue::from("map"))];
        line.add_attribute("map", AnyValue::Map(Box::new(map.into_iter().collect())));
        let mut items = Vec::new();
        item(&mut items, |to| record(to, &line));
        let scope = scope_of(&line);
        let bytes = request(&resource(), [(scope.as_ref(), items.as_slice())].into_iter());
        let written = ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap();
        let scopes = &written.resource_logs[0].scope_logs;
        assert_eq!(scopes[0].scope.as_ref().unwrap().name, "portcullis::call");
        assert_eq!(scopes[0].log_records, [LogRecord::from(&line)]);
    }
}
