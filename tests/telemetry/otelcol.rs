//! The OpenTelemetry collector itself, with the configuration of deploy/compose: it takes what the program sends, and
//! passes the traces on.

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
    sync::Notify,
    time::timeout,
};

use super::{
    collector::{Collector, Manner, PATIENCE, hex},
    program::{Program, REVOKE, traceparent, unknown, with},
    programs::tool,
};

const TRACE: &str = "5bf92f3577b34da6a3ce929d0e0e4736";

/// What it says, line by line.
#[derive(Clone, Default)]
struct Said(Arc<(Mutex<Vec<String>>, Notify)>);

impl Said {
    /// Waits for a line that has all of this.
    async fn until(&self, parts: &[&str]) {
        let found = timeout(PATIENCE, async {
            loop {
                let news = self.0.1.notified();
                let has = |line: &String| parts.iter().all(|part| line.contains(part));
                if self.0.0.lock().unwrap().iter().any(has) {
                    return;
                }
                news.await;
            }
        });
        let said = || self.0.0.lock().unwrap().join("\n");
        found.await.unwrap_or_else(|_| panic!("no line with {parts:?} in:\n{}", said()));
    }
}

/// The collector on a port that was free a moment ago. None: somebody else has got it.
async fn start(program: &std::path::Path, jaeger: &str) -> Option<(String, Said, Child)> {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose/collector.yaml");
    let config = std::fs::read_to_string(file).unwrap();
    let mut ours = config.clone();
    for (theirs, here) in [
        ("0.0.0.0:4317", free.to_string()),
        ("0.0.0.0:4318", "127.0.0.1:0".to_owned()),
        ("jaeger:4317", jaeger.to_owned()),
    ] {
        assert!(ours.contains(theirs), "{theirs} is not in {file}");
        ours = ours.replace(theirs, &here);
    }
    let mut command = Command::new(program);
    command.arg(format!("--config=yaml:{ours}"));
    // Its own metrics have a port that others may have.
    command.arg("--set=service.telemetry.metrics.level=none");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.env_clear().spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = Said::default();
    let mut ready = false;
    while !ready {
        let Some(line) = timeout(PATIENCE, lines.next_line()).await.expect("a line").unwrap()
        else {
            let said = said.0.0.lock().unwrap().join("\n");
            assert!(said.contains("address already in use"), "{said}");
            return None;
        };
        ready = line.contains("Everything is ready");
        said.0.0.lock().unwrap().push(line);
    }
    let kept = said.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            kept.0.0.lock().unwrap().push(line);
            kept.0.1.notify_waiters();
        }
    });
    Some((format!("http://{free}"), said, child))
}

#[tokio::test]
async fn the_collector_takes_all_three_and_passes_traces_on() {
    let Some(otelcol) = tool("bin/otelcol") else { return };
    let jaeger = Collector::start(Manner::Keeps).await;
    let (url, said, _child) = loop {
        if let Some(started) = start(&otelcol, &jaeger.address.to_string()).await {
            break started;
        }
    };
    let flags = ["--otlp-endpoint", &url, "--otlp-metrics-interval-ms", "100"];
    let program = Program::start(&flags, &[]).await;
    let parent = traceparent(TRACE, true);
    let request = with(unknown(8443), &[("traceparent", &parent)]);
    program.groups().revoke_egress(request).await.unwrap();
    let span = jaeger.span("span of the call", |span| span.name == REVOKE).await;
    assert_eq!(hex(&span.trace_id), TRACE);
    for (signal, what) in [("Traces", "\"spans\""), ("Metrics", "metrics"), ("Logs", "log records")]
    {
        said.until(&["\"otelcol.component.id\": \"debug\"", signal, what]).await;
    }
    let (code, own) = program.end().await;
    assert_eq!(code, Some(0), "{own}");
    assert!(!own.contains("telemetry does not reach the collector"), "{own}");
}

/// A client with spans of its own, of what it calls.
#[cfg(feature = "ec2")]
fn instrumented(url: &str) -> opentelemetry_sdk::trace::SdkTracerProvider {
    use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};

    let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).build().unwrap();
    let resource = opentelemetry_sdk::Resource::builder_empty().with_service_name("the-client");
    opentelemetry_sdk::trace::SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build()
}

#[cfg(feature = "ec2")]
#[tokio::test(flavor = "multi_thread")]
async fn one_trace_from_an_instrumented_client_to_ec2_comes_out_of_the_collector() {
    use std::collections::{BTreeSet, HashMap};

    use opentelemetry::{
        Context, KeyValue,
        propagation::TextMapPropagator as _,
        trace::{SpanKind as Kind, TraceContextExt as _, Tracer as _, TracerProvider as _},
    };
    use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
    use portcullis::api::proto::v1::DescribeSecurityGroupsRequest;

    use super::{
        collector::attribute,
        ec2::in_front_of,
        programs::moto,
        spans::{OF_EC2, check},
    };

    const METHOD: &str = "portcullis.v1.SecurityGroupService/DescribeSecurityGroups";

    let (Some(otelcol), Some(moto_server)) = (tool("bin/otelcol"), tool("venv/bin/moto_server"))
    else {
        return;
    };
    let ec2 = moto(&moto_server).await;
    let behind = Collector::start(Manner::Keeps).await;
    let (url, _said, _child) = loop {
        if let Some(started) = start(&otelcol, &behind.address.to_string()).await {
            break started;
        }
    };
    let program = in_front_of(&ec2.address, &url).await;

    let provider = instrumented(&url);
    let tracer = provider.tracer("the-client");
    let span = tracer
        .span_builder(METHOD)
        .with_kind(Kind::Client)
        .with_attributes([
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", METHOD),
            KeyValue::new("server.address", "127.0.0.1"),
        ])
        .start_with_context(&tracer, &Context::new());
    let context = Context::new().with_span(span);
    let mut headers = HashMap::new();
    opentelemetry_sdk::propagation::TraceContextPropagator::new()
        .inject_context(&context, &mut headers);
    let metadata = [("traceparent", headers["traceparent"].as_str())];
    let request = with(DescribeSecurityGroupsRequest::default(), &metadata);
    program.groups().describe_security_groups(request).await.unwrap();
    context.span().set_attribute(KeyValue::new("rpc.response.status_code", "OK"));
    context.span().end();
    tokio::task::spawn_blocking(move || provider.shutdown().unwrap()).await.unwrap();
    let (code, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");

    let trace = context.span().span_context().trace_id().to_string();
    let spans = behind
        .wait_for("trace of three spans", |got| {
            let of_trace = |span: &&Span| hex(&span.trace_id) == trace;
            let spans: Vec<_> = got.spans.iter().filter(of_trace).cloned().collect();
            (spans.len() >= 3).then_some(spans)
        })
        .await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let of = |kind: SpanKind, name: &str| {
        let found = spans.iter().find(|span| span.kind == i32::from(kind) && span.name == name);
        found.unwrap_or_else(|| panic!("no {kind:?} {name} in {spans:#?}"))
    };
    let client = of(SpanKind::Client, METHOD);
    let server = of(SpanKind::Server, METHOD);
    let sent = of(SpanKind::Client, "EC2.DescribeSecurityGroups");
    assert!(client.parent_span_id.is_empty(), "{client:#?}");
    assert_eq!(server.parent_span_id, client.span_id);
    assert_eq!(sent.parent_span_id, server.span_id);
    for (name, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.method", METHOD),
        ("rpc.response.status_code", "OK"),
        ("server.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
    ] {
        assert_eq!(attribute(&server.attributes, name).as_deref(), Some(value), "{name}");
    }
    check(sent, OF_EC2);
    let got = behind.got();
    let services = got.resources.iter().filter_map(|of| attribute(&of.attributes, "service.name"));
    let services: BTreeSet<String> = services.collect();
    assert_eq!(services, ["portcullis", "the-client"].map(str::to_owned).into());
}
