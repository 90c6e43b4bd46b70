//! Collectors that do not do their part: calls go on, and the process ends.

use std::net::TcpListener;

use opentelemetry_proto::tonic::{common::v1::KeyValue, metrics::v1::metric::Data};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tonic::transport::{Identity, ServerTlsConfig};

use super::{
    collector::{Collector, Manner, PATIENCE, attribute},
    program::{Program, REVOKE, unknown},
};

/// More than find a place on their way.
const CALLS: i32 = 40;

async fn calls_go_on(url: &str) -> String {
    let flags = ["--otlp-endpoint", url, "--otlp-timeout-ms", "300"];
    let program = Program::start(&flags, &[]).await;
    let mut groups = program.groups();
    let calls = async {
        for port in 1..=CALLS {
            groups.revoke_egress(unknown(port)).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, calls).await.expect("answers");
    let (code, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");
    said
}

/// How many were lost, as the last line about it says.
fn lost(said: &str, signal: &str) -> i64 {
    let signal = format!("\"signal\":\"{signal}\"");
    let line = said.lines().rfind(|line| line.contains(&signal));
    let line = line.unwrap_or_else(|| panic!("no loss of {signal} is told:\n{said}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["lost"].as_i64().unwrap()
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_telemetry_and_nothing_else() {
    // Nobody listens there, and nobody else gets the port as long as this is there.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let said = calls_go_on(&format!("http://{address}")).await;
    assert_eq!(lost(&said, "traces"), i64::from(CALLS));
    assert!(lost(&said, "logs") >= i64::from(CALLS));
    // The SDK's own lines, one for each batch, are not among them.
    assert!(!said.contains("\"opentelemetry"), "{said}");
}

#[tokio::test]
async fn a_collector_that_refuses_is_told_of_without_its_words() {
    let collector = Collector::start(Manner::Refuses).await;
    let said = calls_go_on(&collector.url()).await;
    assert_eq!(lost(&said, "traces"), i64::from(CALLS));
    assert!(said.contains("PermissionDenied") && !said.contains("the collector's words"), "{said}");
    assert!(collector.got().requests > 0);
}

#[tokio::test]
async fn a_collector_that_never_answers_does_not_keep_the_process() {
    let collector = Collector::start(Manner::Hangs).await;
    let said = calls_go_on(&collector.url()).await;
    assert_eq!(lost(&said, "traces"), i64::from(CALLS));
    assert!(collector.got().requests > 0);
}

#[tokio::test]
async fn a_socket_that_takes_and_says_nothing_does_not_keep_the_process() {
    // The kernel accepts for it; it never reads.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = calls_go_on(&format!("http://{}", socket.local_addr().unwrap())).await;
    assert_eq!(lost(&said, "traces"), i64::from(CALLS));
    drop(socket);
}

#[tokio::test]
async fn what_is_left_at_the_end_is_sent() {
    let collector = Collector::start(Manner::Keeps).await;
    let program = Program::start(&["--otlp-endpoint", &collector.url()], &[]).await;
    for port in 1..=CALLS {
        program.groups().revoke_egress(unknown(port)).await.unwrap();
    }
    // Sooner than it would be sent by itself, most likely.
    let (code, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");
    let spans = collector.got().spans;
    assert!(!said.contains("does not reach"), "{said}");
    assert_eq!(spans.iter().filter(|span| span.name == REVOKE).count(), CALLS as usize, "{said}");
    // And the metrics of all of them.
    let metrics = collector.got().metrics;
    let calls = metrics.iter().rfind(|metric| metric.name == "rpc.server.call.duration").unwrap();
    let Some(Data::Histogram(calls)) = &calls.data else { panic!("{calls:?}") };
    let of_revokes =
        |attributes: &[KeyValue]| attribute(attributes, "rpc.method").as_deref() == Some(REVOKE);
    let counted = calls.data_points.iter().filter(|point| of_revokes(&point.attributes));
    assert_eq!(counted.map(|point| point.count).sum::<u64>(), u64::from(CALLS.unsigned_abs()));
    // The last line but those about its own end.
    let logs = format!("{:?}", collector.got().logs);
    assert!(logs.contains("ended after a complete drain"), "{logs}");
}

#[tokio::test]
async fn over_tls_the_collector_must_be_the_right_one() {
    let (ca, identity) = certificates();
    let tls = ServerTlsConfig::new().identity(identity);
    let collector = Collector::start_with(Manner::Keeps, Some(tls)).await;
    let folder = std::env::temp_dir().join(format!("portcullis-otlp-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    let url = format!("https://localhost:{}", collector.address.port());
    let (file, other) = (file.to_str().unwrap(), folder.join("other.pem"));
    let flags = ["--otlp-endpoint", &url, "--otlp-ca-file", file];
    let program = Program::start(&flags, &[]).await;
    program.groups().revoke_egress(unknown(1)).await.unwrap();
    collector.span("span over TLS", |span| span.name == REVOKE).await;
    assert_eq!(program.end().await.0, Some(0));

    // Another CA: nothing is sent to it.
    std::fs::write(&other, certificates().0).unwrap();
    let before = collector.got().requests;
    let flags = ["--otlp-endpoint", &url, "--otlp-ca-file", other.to_str().unwrap()];
    let program = Program::start(&flags, &[]).await;
    program.groups().revoke_egress(unknown(1)).await.unwrap();
    let (code, said) = program.end().await;
    assert_eq!((code, lost(&said, "traces")), (Some(0), 1), "{said}");
    assert_eq!(collector.got().requests, before);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A CA, and a certificate for localhost of it.
fn certificates() -> (String, Identity) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = own.signed_by(&key, &issuer).unwrap();
    (ca_certificate.pem(), Identity::from_pem(certificate.pem(), key.serialize_pem()))
}
