//! More calls than the collector is to hear of.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::{
    metrics::v1::{metric::Data, number_data_point::Value},
    trace::v1::Span,
};
use portcullis::api::proto::v1::RevokeEgressRequest;

use crate::{
    collector::{Collector, Got, Manner, attribute, hex, text},
    program::{Program, REVOKE, traceparent, unknown, with},
};

const DRY_RUNS: usize = 40;

fn dry_run() -> RevokeEgressRequest {
    RevokeEgressRequest { dry_run: Some(true), ..unknown(1) }
}

/// A trace of a caller's.
fn callers(n: usize) -> String {
    format!("4bf92f3577b34da6a3ce9200{n:08}")
}

/// The last value of a counter.
fn count(got: &Got, name: &str) -> f64 {
    let metric = got.metrics.iter().rfind(|metric| metric.name == name).expect(name);
    let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    match sum.data_points[0].value {
        Some(Value::AsDouble(count)) => count,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_flood_is_counted_and_logged_here_and_told_in_part() {
    let collector = Collector::start(Manner::Keeps).await;
    let url = collector.url();
    let flags = ["--otlp-endpoint", &url, "--otlp-calls-per-second", "1"];
    let program = Program::start(&flags, &[]).await;
    let mut groups = program.groups();
    for _ in 0..DRY_RUNS {
        groups.revoke_egress(dry_run()).await.unwrap();
    }
    // What callers trace has places of its own, and not for each; a change has none.
    for n in 1..=DRY_RUNS {
        let parent = traceparent(&callers(n), true);
        groups.revoke_egress(with(dry_run(), &[("traceparent", &parent)])).await.unwrap();
    }
    groups.revoke_egress(unknown(1)).await.unwrap();
    drop(groups);
    let (code, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");

    let lines: Vec<serde_json::Value> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &serde_json::Value| line["target"] == "portcullis::call")
        .collect();
    assert_eq!(lines.len(), 2 * DRY_RUNS + 1, "each has its line");
    let change = lines.iter().find_map(|line| line["operation_id"].as_str()).unwrap();

    let got = collector.got();
    let said = |body: &'static str| {
        let lines = got.logs.iter();
        lines.filter(move |line| text(line.body.as_ref()).as_deref() == Some(body))
    };
    let told: BTreeSet<_> =
        said("call").map(|line| attribute(&line.attributes, "request_id").unwrap()).collect();
    let operations: Vec<_> =
        said("operation").filter_map(|line| attribute(&line.attributes, "operation")).collect();
    assert_eq!(operations, [change], "what a change did is always told");
    let spans: Vec<_> = got.spans.iter().filter(|span| span.name == REVOKE).collect();
    let of_callers = (1..=DRY_RUNS).map(callers);
    let recorded = of_callers.filter(|id| spans.iter().any(|span| hex(&span.trace_id) == *id));
    assert!((1..DRY_RUNS).contains(&recorded.count()), "{spans:?}");
    let request = |span: &&Span| attribute(&span.attributes, "portcullis.request_id").unwrap();
    let traced: BTreeSet<_> = spans.iter().map(request).collect();
    assert_eq!(told, traced, "the lines of those that are traced");

    let untold = count(&got, "portcullis.telemetry.untold");
    let told = u32::try_from(traced.len()).unwrap();
    assert_eq!(untold + f64::from(told), f64::from(u32::try_from(lines.len()).unwrap()));
    assert!(untold > 0.0, "else nothing is proved");
}
