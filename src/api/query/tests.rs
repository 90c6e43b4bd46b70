//! The door on a real socket, byte by byte.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    api::proto::sandbox::v1::{Fault, FaultKind},
    clock::SystemClock,
    random::SeededRandom,
};

async fn open() -> (Arc<Sandbox>, std::net::SocketAddr) {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(1)));
    let opened = Sandbox::open(None, None, clock.clone(), random.clone());
    let sandbox = Arc::new(opened.unwrap().0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Arc::new(Door::new(sandbox.clone(), clock, random));
    tokio::spawn(serve(listener, door, std::future::pending()));
    (sandbox, address)
}

/// Sends bytes, and reads until the other end closes.
async fn exchange(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn post(form: &str) -> Vec<u8> {
    let length = form.len();
    format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{form}"
    )
    .into_bytes()
}

const VPCS: &str = "Action=DescribeSecurityGroups&Version=2016-11-15";

#[tokio::test]
async fn a_form_is_answered_in_the_body_or_in_the_query() {
    let (_, address) = open().await;
    let get = format!("GET /?{VPCS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    for request in [post(VPCS), get.into_bytes()] {
        let answer = exchange(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("text/xml") && answer.contains("x-amzn-requestid"), "{answer}");
        assert!(answer.ends_with("</DescribeSecurityGroupsResponse>"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_request_of_the_protocol_gets_an_error() {
    let (_, address) = open().await;
    let large = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        MAX_BODY + 1
    );
    for (request, status, code) in [
        (post(""), 400, "MissingParameter"),
        (post("Action=DescribeVpcs"), 400, "MissingParameter"),
        (post("Action=DescribeVpcs&Version=2006-01-01"), 400, "NoSuchVersion"),
        (post("Action=RunInstances&Version=2016-11-15"), 400, "InvalidAction"),
        (post(&format!("{VPCS}&Nonsense=1")), 400, "UnknownParameter"),
        (
            b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            405,
            "MethodNotAllowed",
        ),
        (
            b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            404,
            "InvalidRequest",
        ),
        (large.into_bytes(), 413, "RequestEntityTooLarge"),
    ] {
        let answer = exchange(address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{code}: {answer}");
        assert!(answer.contains(&format!("<Code>{code}</Code>")), "{answer}");
    }
}

#[tokio::test]
async fn a_lost_answer_breaks_off_in_its_midst() {
    let (sandbox, address) = open().await;
    let fault = Fault { kind: FaultKind::LoseAnswer.into(), ..Default::default() };
    sandbox.inject_fault(fault).unwrap();
    let answer = exchange(address, &post(VPCS)).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (_, length) = head.split_once("content-length: ").unwrap();
    let promised: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    assert!(!body.is_empty() && body.len() < promised, "{} of {promised}", body.len());
}
