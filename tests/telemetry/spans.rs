//! Spans and lines of calls to the sandbox.

use std::{collections::BTreeSet, fs};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use portcullis::api::proto::v1::GetOperationRequest;

use super::{
    collector::{Collector, Manner, attribute, hex, text},
    program::{GROUP, Program, REVOKE, traceparent, unknown, with},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER: &str = "0af7651916cd43dd8448eb211c80319c";
const THIRD: &str = "1af7651916cd43dd8448eb211c80319c";

/// The attributes of a call's span: what the conventions for gRPC servers require or recommend, and ours. What is
/// empty here is there with some value.
const OF_A_CALL: &[(&str, &str)] = &[
    ("rpc.system.name", "grpc"),
    ("rpc.method", REVOKE),
    ("rpc.response.status_code", "OK"),
    ("server.address", "127.0.0.1"),
    ("server.port", ""),
    ("client.address", "127.0.0.1"),
    ("network.peer.address", "127.0.0.1"),
    ("network.peer.port", ""),
    ("enduser.id", ""),
    ("portcullis.request_id", "my-request"),
    ("portcullis.operation_id", ""),
];

/// Those of a call that failed.
const OF_A_FAILURE: &[&str] = &["error.type", "portcullis.reason", "rpc.method_original"];

pub fn check(span: &Span, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let found = attribute(&span.attributes, name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {span:#?}"));
        assert!(value.is_empty() || found == *value, "{name} is {found:?}, not {value:?}");
        assert!(!found.is_empty(), "{name} is empty");
    }
    let mut known: BTreeSet<&str> = expected.iter().map(|(name, _)| *name).collect();
    // On a busy machine a read may have been sent again.
    known.insert("http.request.resend_count");
    for found in &span.attributes {
        assert!(known.contains(found.key.as_str()), "{} is in no table", found.key);
    }
}

/// The record of the only operation that a log line names.
async fn trace_of_operation(program: &Program, id: &str) -> String {
    let request = GetOperationRequest { operation_id: id.to_owned(), ..Default::default() };
    let answer = program.operations().get_operation(request).await.unwrap().into_inner();
    answer.operation.unwrap().trace_id
}

#[tokio::test]
async fn a_call_is_a_span_of_its_callers_trace_and_its_lines_name_it() {
    let collector = Collector::start(Manner::Keeps).await;
    let url = collector.url();
    let flags = [
        "--otlp-endpoint",
        &url,
        "--service-name",
        "gate",
        "--resource-attributes",
        "deployment.environment.name=a%20b",
    ];
    let secret = [
        ("PORTCULLIS_OTLP_HEADERS", "x-collector-key=hush%20headers"),
        // What the library would take from the environment by itself.
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-collector-key=another,x-more=more"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,nobody.asked=for-it"),
    ];
    let program = Program::start(&flags, &secret).await;
    let parent = traceparent(TRACE, true);
    let metadata = [
        ("traceparent", parent.as_str()),
        ("tracestate", "vendor=1"),
        ("x-request-id", "my-request"),
        ("authorization", "Bearer hush-credential"),
        ("idempotency-key", "hush-key"),
        ("change-reason", "CHG-1"),
    ];
    program.groups().revoke_egress(with(unknown(8443), &metadata)).await.unwrap();

    let span = collector.span("span of the call", |span| span.name == REVOKE).await;
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!(span.kind, i32::from(SpanKind::Server));
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    assert_eq!(span.status.clone().unwrap_or_default().code, i32::from(StatusCode::Unset));
    check(&span, OF_A_CALL);
    let events: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["turn", "intent recorded", "outcome recorded"]);

    let operation = attribute(&span.attributes, "portcullis.operation_id").unwrap();
    assert_eq!(trace_of_operation(&program, &operation).await, TRACE);

    // The line of the call and that of its operation.
    for (body, target) in [("call", "portcullis::call"), ("operation", "audit")] {
        let line = collector
            .wait_for(body, |got| {
                let of_trace = |line: &&_| hex(&opentelemetry_trace(line)) == TRACE;
                let mut lines = got.logs.iter().filter(of_trace);
                lines.find(|line| text(line.body.as_ref()).as_deref() == Some(body)).cloned()
            })
            .await;
        assert_eq!(hex(&line.span_id), hex(&span.span_id), "{target}");
    }

    let (code, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");
    let ids = format!("\"trace_id\":\"{TRACE}\",\"span_id\":\"{}\"", hex(&span.span_id));
    let line = said.lines().find(|line| line.contains("\"portcullis::call\"")).unwrap();
    assert!(line.contains(&ids), "{line}");

    let got = collector.got();
    for resource in &got.resources {
        let of = |name| attribute(&resource.attributes, name);
        assert_eq!(of("service.name").as_deref(), Some("gate"));
        assert_eq!(of("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(of("service.instance.id").map(|id| id.len()), Some(36));
        assert_eq!(of("deployment.environment.name").as_deref(), Some("a b"));
        assert_eq!(of("nobody.asked"), None);
        for (name, value) in [("name", "opentelemetry"), ("language", "rust"), ("version", "0.")] {
            let name = format!("telemetry.sdk.{name}");
            let found = attribute(&resource.attributes, &name).unwrap();
            assert!(found.starts_with(value), "{name} in {resource:?}");
        }
    }
    for metadata in &got.metadata {
        assert_eq!(metadata.get("x-collector-key").unwrap(), "hush headers");
        assert_eq!(metadata.get("x-more"), None);
    }
    let all = format!("{:?}{:?}{:?}{:?}{said}", got.spans, got.logs, got.metrics, got.resources);
    assert!(all.contains(GROUP), "else nothing is proved");
    for secret in ["hush-credential", "hush headers", "hush%20headers", "hush-key"] {
        assert!(!all.contains(secret), "{secret} got out");
    }
}

fn opentelemetry_trace(line: &opentelemetry_proto::tonic::logs::v1::LogRecord) -> Vec<u8> {
    line.trace_id.clone()
}

#[tokio::test]
async fn the_callers_decision_goes_before_the_ratio() {
    for (ratio, traced, untraced) in
        [("0", vec![(TRACE, true)], OTHER), ("1", vec![(THIRD, true)], OTHER)]
    {
        let collector = Collector::start(Manner::Keeps).await;
        let url = collector.url();
        let flags = ["--otlp-endpoint", &url, "--traces-sample-ratio", ratio];
        let program = Program::start(&flags, &[]).await;
        let mut groups = program.groups();
        // One that shall not be traced, one without a trace, and those that shall.
        let not = traceparent(untraced, false);
        groups.revoke_egress(with(unknown(1), &[("traceparent", &not)])).await.unwrap();
        groups.revoke_egress(unknown(2)).await.unwrap();
        for (trace, _) in &traced {
            let parent = traceparent(trace, true);
            groups.revoke_egress(with(unknown(3), &[("traceparent", &parent)])).await.unwrap();
        }
        let last = traced.last().unwrap().0;
        collector.span("span", |span| hex(&span.trace_id) == last).await;
        let (_, said) = program.end().await;
        let got = collector.got();
        let traces: Vec<String> = got.spans.iter().map(|span| hex(&span.trace_id)).collect();
        assert!(!traces.contains(&untraced.to_owned()), "ratio {ratio}: {traces:?}");
        let own = traces.iter().filter(|trace| *trace != last).count();
        assert_eq!(own, if ratio == "1" { 1 } else { 0 }, "ratio {ratio}: {traces:?}");
        // Traced or not, the lines of a call name the trace that it is part of.
        for trace in [untraced, last] {
            assert!(said.contains(&format!("\"trace_id\":\"{trace}\"")), "{trace} in {said}");
        }
    }
}

#[tokio::test]
async fn without_a_callers_trace_a_call_begins_one_and_its_record_names_it() {
    let collector = Collector::start(Manner::Keeps).await;
    let program = Program::start(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())]).await;
    program.groups().revoke_egress(unknown(1)).await.unwrap();
    let span = collector.span("span", |span| span.name == REVOKE).await;
    assert!(span.parent_span_id.is_empty());
    let operation = attribute(&span.attributes, "portcullis.operation_id").unwrap();
    assert_eq!(trace_of_operation(&program, &operation).await, hex(&span.trace_id));
    program.end().await;
}

#[tokio::test]
async fn a_call_that_is_paced_notes_each_slot_that_it_gets() {
    let collector = Collector::start(Manner::Keeps).await;
    let url = collector.url();
    let program = Program::start(&["--otlp-endpoint", &url, "--ec2-pacing", "on"], &[]).await;
    program.groups().revoke_egress(unknown(1)).await.unwrap();
    let span = collector.span("span", |span| span.name == REVOKE).await;
    let events: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
    // For the change itself, before anything is read, and for the two reads of the group as it was.
    let slots = ["ec2 slot"; 3];
    let rest = ["intent recorded", "outcome recorded"];
    assert_eq!(events, [&["turn"], &slots[..], &rest].concat());
    program.end().await;
}

#[tokio::test]
async fn a_failure_is_told_apart_from_a_refusal() {
    let collector = Collector::start(Manner::Keeps).await;
    let program = Program::start(&["--otlp-endpoint", &collector.url()], &[]).await;
    program.groups().revoke_egress(with(Default::default(), &[])).await.unwrap_err();
    let mut raw = tonic::client::Grpc::new(program.channel.clone());
    raw.ready().await.unwrap();
    let path = "/no.such.Service/Method".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    raw.unary(tonic::Request::new(()), path, codec).await.unwrap_err();

    let refused = collector.span("refusal", |span| span.name == REVOKE).await;
    let of = |span: &Span, name| attribute(&span.attributes, name);
    assert_eq!(of(&refused, "rpc.response.status_code").as_deref(), Some("INVALID_ARGUMENT"));
    assert_eq!(of(&refused, "portcullis.reason").as_deref(), Some("INVALID_REQUEST"));
    assert_eq!(of(&refused, "error.type"), None);
    assert_eq!(refused.status.unwrap_or_default().code, i32::from(StatusCode::Unset));

    let failed = collector.span("failure", |span| span.name == "grpc").await;
    assert_eq!(of(&failed, "rpc.method").as_deref(), Some("_OTHER"));
    assert_eq!(of(&failed, "rpc.method_original").as_deref(), Some("/no.such.Service/Method"));
    assert_eq!(of(&failed, "rpc.response.status_code").as_deref(), Some("UNIMPLEMENTED"));
    assert_eq!(of(&failed, "error.type").as_deref(), Some("UNIMPLEMENTED"));
    assert_eq!(failed.status.unwrap_or_default().code, i32::from(StatusCode::Error));
    program.end().await;
}

#[test]
fn the_document_lists_every_attribute() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md");
    let document = fs::read_to_string(path).unwrap();
    let of_calls = OF_A_CALL.iter().map(|(name, _)| *name).chain(OF_A_FAILURE.iter().copied());
    let of_ec2 = OF_EC2.iter().map(|(name, _)| *name).chain(["error.type"]);
    for name in of_calls.chain(of_ec2) {
        assert!(document.contains(&format!("| `{name}` |")), "{name} is not in {path}");
    }
}

/// The attributes of the span of a call to EC2.
pub const OF_EC2: &[(&str, &str)] = &[
    ("rpc.system.name", "aws-api"),
    ("rpc.service", "EC2"),
    ("rpc.method", ""),
    ("server.address", "127.0.0.1"),
    ("server.port", ""),
    ("cloud.provider", "aws"),
    ("cloud.region", "us-east-1"),
    ("cloud.account.id", "123456789012"),
    ("http.response.status_code", ""),
    ("aws.request_id", ""),
];
