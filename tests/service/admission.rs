//! What is taken and what is not, through a socket. What is exact about it is tested beside the layer.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::config::Limits;
use prost::Message as _;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{support::*, wire};

type Frames = mpsc::Receiver<Result<Frame<Bytes>, Infallible>>;

/// A call whose request is what comes of these.
async fn call(address: SocketAddr, method: &str, request: Frames) -> (Code, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{address}/portcullis.v1.SecurityGroupService/{method}");
    let head = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let body = StreamBody::new(ReceiverStream::new(request));
    let response = sender.send_request(head.body(body).unwrap()).await.unwrap();
    match Status::from_header_map(response.headers()) {
        None => (Code::Ok, String::new()),
        Some(status) => refusal::<()>(Err(status)),
    }
}

#[tokio::test]
async fn of_two_messages_none_is_done() {
    let mut server = start().await;
    let [first, second] = [443, 80].map(|port| {
        let request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(port, "10.0.0.0/8")]);
        Bytes::from(wire::message(0, &request.encode_to_vec()))
    });
    for frames in [vec![[&first[..], &second].concat().into()], vec![first.clone(), second]] {
        let (sender, request) = mpsc::channel(2);
        for bytes in frames {
            sender.send(Ok(Frame::data(bytes))).await.unwrap();
        }
        drop(sender);
        let refused = call(server.address, "RevokeEgress", request).await;
        assert_eq!(refused, (Code::Unimplemented, "UNIMPLEMENTED".to_owned()));
    }
    assert!(server.state().await.effects.is_empty());
}

#[tokio::test]
async fn a_connection_may_watch_a_few_names_and_checks_are_free() {
    let server = start_with(Limits { max_concurrent_streams: 100, ..limits() }).await;
    let mut health = HealthClient::new(server.channel.clone());
    let mut watches = Vec::new();
    let refused = loop {
        match health.watch(HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch),
            Err(status) => break status,
        }
    };
    assert_eq!(watches.len(), 8);
    assert_eq!(refusal::<()>(Err(refused)), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
    for _ in 0..100 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    watches.pop();
    while health.watch(HealthCheckRequest::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}
