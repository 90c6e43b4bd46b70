//! How connections end, at a drain and at their age, with nothing lost that a client had sent.

use std::time::Duration;

use portcullis::{
    api::proto::{
        sandbox::v1::{Fault, FaultKind},
        v1::{
            DescribeSecurityGroupRulesRequest, DescribeSecurityGroupsRequest,
            security_group_service_client::SecurityGroupServiceClient,
        },
    },
    config::Limits,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    support::*,
    wire::{self, frame},
};

const DESCRIBE: &str = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups";

/// A client that does exactly what a test says, and no more: it may be slow to answer pings and to hear of the end.
struct Raw(TcpStream);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Raw {
    async fn connect(server: &Server) -> Self {
        let mut raw = Self(TcpStream::connect(server.address).await.unwrap());
        raw.send(&wire::hello(&[])).await;
        raw.until(wire::SETTINGS).await;
        raw.send(&frame(wire::SETTINGS, wire::ACK, 0, &[])).await;
        // All answers fit.
        let window = (u32::MAX >> 2).to_be_bytes();
        raw.send(&frame(wire::WINDOW_UPDATE, 0, 0, &window)).await;
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// None at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The payload of the next frame of that kind.
    async fn until(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let found = self.next().await.expect("such a frame");
            if found.kind == kind {
                return found.payload;
            }
        }
    }

    /// Calls, and says whether there was a message in the answer: a refusal has none.
    async fn is_answered(&mut self, stream: u32) -> bool {
        let message = frame(wire::DATA, wire::END_STREAM, stream, &wire::message(0, &[]));
        self.send(&[wire::call_head(stream, DESCRIBE), message].concat()).await;
        loop {
            let answer = self.next().await.expect("an answer");
            if answer.stream != stream {
                continue;
            }
            if answer.kind == wire::DATA && !answer.payload.is_empty() {
                return true;
            }
            if answer.flags & wire::END_STREAM != 0 {
                return false;
            }
        }
    }
}

/// The last stream that a GOAWAY promises to serve.
fn last_stream(goaway: &[u8]) -> u32 {
    u32::from_be_bytes(goaway[..4].try_into().unwrap())
}

#[tokio::test]
async fn a_call_that_is_sent_before_the_goaway_was_heard_is_served() {
    let mut server = start().await;
    let mut raw = Raw::connect(&server).await;
    assert!(raw.is_answered(1).await);
    let drained = server.stop();
    // It would take everything still; what it will have taken it says after the answer to its ping.
    assert_eq!(last_stream(&raw.until(wire::GOAWAY).await), u32::MAX >> 1);
    let ping = raw.until(wire::PING).await;
    assert!(raw.is_answered(3).await);
    raw.send(&frame(wire::PING, wire::ACK, 0, &ping)).await;
    assert_eq!(last_stream(&raw.until(wire::GOAWAY).await), 3);
    while raw.next().await.is_some() {}
    assert!(drained.await.unwrap().complete);
}

#[tokio::test]
async fn who_does_not_want_to_hear_of_the_end_is_refused_after_a_moment() {
    let minutes = Duration::from_secs(240);
    let patient = Limits { drain_timeout: minutes, default_deadline: minutes, ..limits() };
    let mut server = start_with(Limits { max_deadline: minutes, ..patient }).await;
    let mut raw = Raw::connect(&server).await;
    // Something to wait for.
    let delay = Some(pbjson_types::Duration { seconds: 240, nanos: 0 });
    let kind = FaultKind::Delay.into();
    let action = "DescribeSecurityGroupRules".to_owned();
    server.inject(Fault { kind, action, delay, ..Default::default() }).await;
    let mut slow = server.groups.clone();
    let slow = tokio::spawn(async move {
        slow.describe_security_group_rules(DescribeSecurityGroupRulesRequest::default()).await
    });
    while !server.state().await.calls.contains_key("DescribeSecurityGroupRules") {
        tokio::task::yield_now().await;
    }
    let drained = server.stop();
    raw.until(wire::GOAWAY).await;
    let mut streams = (1..).step_by(2);
    while raw.is_answered(streams.next().unwrap()).await {}
    assert!(!drained.is_finished());
    slow.abort();
    assert!(drained.await.unwrap().complete);
}

async fn connect(server: &Server) -> Channel {
    Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn for_the_delay_of_a_drain_it_is_not_ready_and_takes_everything() {
    let hour = Duration::from_secs(3600);
    let mut server = start_with(Limits { drain_delay: hour, ..limits() }).await;
    let drained = server.stop();
    let mut health = HealthClient::new(server.channel.clone());
    let mut status = ServingStatus::Serving;
    while status == ServingStatus::Serving {
        status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
    }
    assert_eq!(status, ServingStatus::NotServing);
    let mut another = SecurityGroupServiceClient::new(connect(&server).await);
    let request = DescribeSecurityGroupsRequest::default();
    another.describe_security_groups(request).await.unwrap();
    server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
    drained.abort();
    // Then it ends.
    let short = Duration::from_millis(10);
    let mut server = start_with(Limits { drain_delay: short, ..limits() }).await;
    assert!(server.stop().await.unwrap().complete);
    tokio::net::TcpListener::bind(server.address).await.unwrap();
}

#[tokio::test]
async fn an_old_connection_is_replaced_and_nothing_on_it_fails() {
    let age = Some(Duration::from_millis(20));
    let mut server = start_with(Limits { max_connection_age: age, ..limits() }).await;
    // Far older than its connection may get.
    let delay = Some(pbjson_types::Duration { seconds: 0, nanos: 500_000_000 });
    let kind = FaultKind::Delay.into();
    let action = "RevokeSecurityGroupEgress".to_owned();
    while server.sandbox.inject_fault(fault(kind, &action, delay)).await.is_err() {}
    let mut raw = Raw::connect(&server).await;
    raw.until(wire::GOAWAY).await;
    assert!(raw.is_answered(1).await);
    let mut slow = SecurityGroupServiceClient::new(connect(&server).await);
    let request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    slow.revoke_egress(request).await.unwrap();
}

fn fault(
    kind: i32,
    action: &str,
    delay: Option<pbjson_types::Duration>,
) -> portcullis::api::proto::sandbox::v1::InjectFaultRequest {
    let fault = Fault { kind, action: action.to_owned(), delay, ..Default::default() };
    portcullis::api::proto::sandbox::v1::InjectFaultRequest { fault: Some(fault) }
}

#[tokio::test]
async fn a_stream_ends_with_its_old_connection_and_its_client_goes_on() {
    let short = Duration::from_millis(20);
    let aging =
        Limits { max_connection_age: Some(short), max_connection_age_grace: short, ..limits() };
    let server = start_with(aging).await;
    let mut watches = 0;
    while watches < 3 {
        let mut health = HealthClient::new(connect(&server).await);
        let Ok(watch) = health.watch(HealthCheckRequest::default()).await else { continue };
        let mut watch = watch.into_inner();
        while let Ok(Some(_)) = watch.message().await {}
        watches += 1;
    }
}
