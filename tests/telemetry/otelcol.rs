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
