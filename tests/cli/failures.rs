//! Errors: what is printed about them, and which exit code tells a refusal from doubt.

use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::api::proto::sandbox::v1::FaultKind;
use serde_json::json;
use tokio::net::TcpListener;

use super::client::{NONDEFAULT_VPC, Ran, Server, run};

const RULE: [&str; 8] = [
    "revoke-egress",
    "--group-id",
    NONDEFAULT_VPC,
    "--protocol",
    "udp",
    "--port",
    "53",
    "--cidr=10.0.0.2/32",
];

fn said(ran: &Ran, exit: i32, code: &str, reason: &str) {
    let error = ran.error();
    assert_eq!((ran.exit, ran.out.as_str()), (exit, ""), "{ran:?}");
    assert_eq!((&error["Code"], &error["Reason"]), (&json!(code), &json!(reason)), "{ran:?}");
    assert!(error["Message"].is_string() && error["Details"].is_object(), "{ran:?}");
}

#[tokio::test]
async fn a_refusal_is_exit_1_with_all_that_is_known() {
    let server = Server::start().await;
    let words = [
        "revoke-egress",
        "--group-id",
        "g-1",
        "--ip-permissions",
        "IpProtocol=tcp,IpRanges=[{CidrIp=10/8}]",
    ];
    let ran = server.ask(&words).await;
    said(&ran, 1, "INVALID_ARGUMENT", "INVALID_REQUEST");
    let violations = &ran.error()["Details"]["Violations"];
    assert_eq!(violations[0]["Field"], "group_id");
    assert_eq!(violations[0]["Reason"], "INVALID_GROUP_ID_MALFORMED");
    let ran = server.ask(&[&words[..], &["--output", "table"]].concat()).await;
    assert_eq!(ran.exit, 1);
    assert!(
        ran.err.starts_with(
            "portcullis: INVALID_ARGUMENT: INVALID_REQUEST\n  group_id: Invalid id: \"g-1\""
        ),
        "{}",
        ran.err
    );
    for part in [
        "\n  ip_permissions[0].from_port: ",
        "\n  ip_permissions[0].ip_ranges[0].cidr_ip: ",
        "\n  request: ",
    ] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }

    let words = [
        "revoke-egress",
        "--group-id",
        NONDEFAULT_VPC,
        "--protocol",
        "tcp",
        "--port",
        "8001",
        "--cidr",
        "10.1.0.0/16",
    ];
    let ran = server.ask(&[&words[..], &["--output", "table"]].concat()).await;
    assert_eq!(ran.exit, 1);
    for part in [
        "portcullis: NOT_FOUND: INVALID_PERMISSION_NOT_FOUND\n  The specified rule does not exist in this security group. ",
        "\n  unknown: tcp 8001 to 10.1.0.0/16 [PORT_RANGE_DIFFERS]\n    nearest: sgr-0000000000000a1e9 of sg-000000000000000a1: tcp 8000-8100 to 10.1.0.0/16\n",
        "\n  about: ec2:security-group sg-000000000000000a1\n  EC2: InvalidPermission.NotFound, request ",
        "\n  operation: op-",
    ] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
}

#[tokio::test]
async fn many_unknown_permissions_are_counted_where_they_are_cut() {
    let server = Server::start().await;
    let ranges: Vec<_> = (0..200).map(|n| json!({"CidrIp": format!("198.51.{n}.0/24")})).collect();
    let permissions =
        json!([{"IpProtocol": "tcp", "FromPort": 7, "ToPort": 7, "IpRanges": ranges}]).to_string();
    let words = [
        "revoke-egress",
        "--group-id",
        NONDEFAULT_VPC,
        "--ip-permissions",
        &permissions,
        "--output",
        "table",
    ];
    let ran = server.ask(&words).await;
    let shown = ran.err.matches("\n  unknown: tcp 7 to ").count();
    assert!(shown > 0 && shown < 200);
    assert!(
        ran.err.contains(&format!("\n  and {} more, of 200 in all\n", 200 - shown)),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn waiting_helps_is_said_and_is_still_a_refusal() {
    let server = Server::start().await;
    server.fault(FaultKind::RefuseCredentials, "", 0).await;
    let ran = server.ask(&RULE).await;
    said(&ran, 1, "UNAVAILABLE", "EC2_CREDENTIALS_UNAVAILABLE");
    assert_eq!(ran.error()["Details"]["RetryAfterMs"], 5000);
    server.fault(FaultKind::RefuseCredentials, "", 0).await;
    let ran = server.ask(&[&RULE[..], &["--output", "table"]].concat()).await;
    assert!(ran.err.ends_with("\n  try again in 5000 ms\n"), "{}", ran.err);
}

#[tokio::test]
async fn doubt_is_exit_2() {
    let server = Server::start().await;
    server.fault(FaultKind::LoseAnswer, "RevokeSecurityGroupEgress", 0).await;
    said(&server.ask(&RULE).await, 2, "UNKNOWN", "OUTCOME_UNKNOWN");

    let server = Server::start().await;
    server.fault(FaultKind::Delay, "RevokeSecurityGroupEgress", 300).await;
    let ran = server.ask(&[&RULE[..], &["--timeout-ms", "2000"]].concat()).await;
    let error = ran.error();
    assert_eq!(ran.exit, 2, "{ran:?}");
    // Whichever clock is first: the backend's own, the server's for the call, or the client's.
    let reason = error["Reason"].as_str().unwrap();
    assert!(["OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED", "NO_ANSWER"].contains(&reason), "{ran:?}");
}

#[tokio::test]
async fn no_answer_is_exit_2_and_says_whether_something_was_sent() {
    said(
        &run(&[&RULE[..], &["--address", "127.0.0.1:9"]].concat()).await,
        2,
        "UNAVAILABLE",
        "UNREACHABLE",
    );

    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let there = ["--address", &address, "--timeout-ms", "300"];
    let ran = run(&[&RULE[..], &there].concat()).await;
    said(&ran, 2, "DEADLINE_EXCEEDED", "NO_ANSWER");
    let doubt = "whether anything was changed is not known";
    assert!(ran.error()["Message"].as_str().unwrap().contains(doubt), "{ran:?}");
    let ran = run(&[&["describe-rules"], &there[..]].concat()).await;
    said(&ran, 2, "DEADLINE_EXCEEDED", "NO_ANSWER");
    assert!(!ran.err.contains(doubt), "{ran:?}");

    // It takes connections and hangs up.
    let rude = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = rude.local_addr().unwrap().to_string();
    tokio::spawn(async move { while rude.accept().await.is_ok() {} });
    let ran = run(&[&RULE[..], &["--address", &address]].concat()).await;
    assert_eq!(ran.exit, 2, "{ran:?}");
    assert!(["NO_ANSWER", "UNREACHABLE"].contains(&ran.error()["Reason"].as_str().unwrap()));
}

#[tokio::test]
async fn another_servers_words_are_taken_for_what_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (_, service) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let ran = run(&[&RULE[..], &["--address", &address]].concat()).await;
    assert_eq!((ran.exit, &ran.error()["Code"]), (1, &json!("UNIMPLEMENTED")), "{ran:?}");
    assert_eq!(ran.error().get("Reason"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_told_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            tell.send(request.headers().clone()).unwrap();
            let refusal = Response::builder().header("content-type", "application/grpc");
            let refusal = refusal.header("grpc-status", "7").body(String::new()).unwrap();
            std::future::ready(Ok::<_, std::convert::Infallible>(refusal))
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    });
    let ran = run(&[&RULE[..], &["--address", &address, "--timeout-ms", "12345"]].concat()).await;
    assert_eq!((ran.exit, &ran.error()["Code"]), (1, &json!("PERMISSION_DENIED")), "{ran:?}");
    let headers = told.recv().await.unwrap();
    assert_eq!(headers["grpc-timeout"], "12345000u");
    assert!(headers["user-agent"].to_str().unwrap().starts_with("portcullis/"));
}
