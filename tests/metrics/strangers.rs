//! What is no gRPC call at all is refused where it is seen: counted as its caller's doing, and with a request id.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use portcullis::{
    api::query::{self, Door},
    backend::sandbox::Sandbox,
    clock::SystemClock,
    random::SeededRandom,
};
use tokio::net::TcpListener;
use tonic::body::Body;

use crate::{
    text::{Seen, ask},
    world,
};

const CALLS: &str = "rpc_server_call_duration_seconds_count";
const REVOKE: &str = "portcullis.v1.SecurityGroupService/RevokeEgress";

#[tokio::test]
async fn what_is_no_call_is_counted_as_its_callers_doing() {
    let world = world::start(|_, _| {}).await;
    let address = world.server.address;
    let mut asked = 0.0;
    for (verb, kind, status) in [
        ("GET", "application/grpc", "405"),
        ("GET", "text/plain", "405"),
        ("POST", "text/plain", "415"),
        // What curl sends by itself.
        ("POST", "application/x-www-form-urlencoded", "415"),
        ("POST", "application/grpc", "400"),
        ("GET", "application/grpc-web", "405"),
        ("POST", "application/grpc-web+other", "400"),
    ] {
        let head = format!("{verb} /{REVOKE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        let body = "content-length: 2\r\nx-request-id: mine\r\n\r\n{}";
        let answer = ask(address, &format!("{head}content-type: {kind}\r\n{body}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{verb} {kind}: {answer}");
        assert!(answer.contains("x-request-id: mine\r\n"), "{verb} {kind}: {answer}");
        assert_eq!(
            answer.contains("curl --json"),
            kind.contains("form"),
            "{verb} {kind}: {answer}"
        );
        asked += 1.0;
    }
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
    for (verb, kind) in [("GET", "application/grpc"), ("POST", "text/plain"), ("POST", "text/json")]
    {
        let request = http::Request::builder()
            .method(verb)
            .uri(format!("http://{address}/{REVOKE}"))
            .header("content-type", kind);
        let answer = client.request(request.body(Body::empty()).unwrap()).await.unwrap();
        assert!(answer.status().is_client_error() && answer.headers().contains_key("x-request-id"));
        asked += 1.0;
    }
    let refused = [
        ("rpc_method", REVOKE),
        ("rpc_response_status_code", "INVALID_ARGUMENT"),
        ("portcullis_reason", "NOT_GRPC"),
    ];
    Seen::default().until(world.admin, CALLS, &refused, |value| value == asked).await;
    assert_eq!(world.text().await.value(CALLS, &[]), Some(asked));
    assert_eq!(world.text().await.value(CALLS, &[("error_type", "INVALID_ARGUMENT")]), None);
}

/// A server that asks nobody for a credential: a page that happens to be open in a browser is not on this machine.
#[tokio::test]
async fn pages_in_browsers_are_nobody_here() {
    let world = world::start(|_, _| {}).await;
    let body = "{\"GroupId\": \"sg-0d000000000000001\", \"DryRun\": true, \"SecurityGroupRuleIds\": [\"sgr-1\"]}";
    for (page, status) in [
        ("", "200"),
        ("origin: http://localhost:3000\r\n", "200"),
        ("origin: http://evil.example\r\n", "401"),
        ("origin: null\r\n", "401"),
        ("sec-fetch-site: cross-site\r\n", "401"),
    ] {
        for kind in ["application/json", "application/grpc-web+proto"] {
            let head = format!(
                "POST /{REVOKE} HTTP/1.1\r\nhost: evil.example\r\n{page}connection: close\r\n"
            );
            let rest =
                format!("content-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let answer = ask(world.server.address, &format!("{head}{rest}")).await;
            let refused =
                ["CREDENTIALS_MISSING", "grpc-status: 16"].iter().any(|told| answer.contains(told));
            assert_eq!(refused, status == "401", "{page}{kind}: {answer}");
            if kind == "application/json" {
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{page}: {answer}");
            }
        }
    }
}

/// Browsers send forms, and fetch images, of every page there is.
#[tokio::test]
async fn the_ec2_door_takes_nothing_of_pages() {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(1)));
    let (sandbox, _) = Sandbox::open(None, None, clock.clone(), random.clone()).unwrap();
    let door = Arc::new(Door::new(Arc::new(sandbox), clock, random));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(query::serve(listener, door, std::future::pending()));
    let form = "Action=DescribeSecurityGroups&Version=2016-11-15";
    for (page, status) in [
        ("", "200"),
        ("origin: http://evil.example\r\n", "403"),
        ("sec-fetch-site: cross-site\r\n", "403"),
    ] {
        let get = format!("GET /?{form} HTTP/1.1\r\nhost: x\r\n{page}connection: close\r\n\r\n");
        let post = format!(
            "POST / HTTP/1.1\r\nhost: x\r\n{page}content-type: application/x-www-form-urlencoded\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        );
        for request in [get, post] {
            let answer = ask(address, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
    }
}

#[tokio::test]
async fn faults_of_the_server_have_a_type_and_refusals_have_none() {
    let world = world::start(|_, _| {}).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
    for path in ["no.such/Call", REVOKE] {
        let request = http::Request::post(format!("http://{}/{path}", world.server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        client
            .request(request.body(Body::new(Full::new(Bytes::from_static(&[0; 5])))).unwrap())
            .await
            .unwrap();
    }
    let fault = [("rpc_response_status_code", "UNIMPLEMENTED"), ("error_type", "UNIMPLEMENTED")];
    let mut seen = Seen::default();
    seen.until(world.admin, CALLS, &fault, |value| value == 1.0).await;
    let refused = [("rpc_response_status_code", "INVALID_ARGUMENT"), ("rpc_method", REVOKE)];
    seen.until(world.admin, CALLS, &refused, |value| value == 1.0).await;
    let text = world.text().await;
    let refused = text.series(CALLS).find(|(labels, _)| labels.contains("INVALID_ARGUMENT"));
    assert!(!refused.unwrap().0.contains("error_type"), "{}", text.0);
}
