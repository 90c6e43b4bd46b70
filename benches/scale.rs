//! How the sandbox scales: 100,000 groups with 60 rules against 10 groups. Prints load time, memory, and the time of
//! an authorize and a revoke through a socket, as medians and their ratio.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use std::{fmt::Write as _, sync::Arc, time::Duration, time::Instant};

use portcullis::{
    access::Access,
    api::proto::v1::{self, security_group_service_client::SecurityGroupServiceClient},
    api::scribe::ProtoScribe,
    backend::sandbox::Sandbox,
    clock::SystemClock,
    config::{AuthenticationConfig, Limits, RateLimits},
    credentials::Authenticator,
    ledger::Terms,
    middleware::idempotency::Books,
    random::SeededRandom,
    server::{self, Parts, ServerStatus},
    telemetry::metrics::Metrics,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RULES: usize = 60;
const ROUNDS: usize = 2000;

#[tokio::main]
async fn main() {
    let many: usize = std::env::args().nth(1).map_or(100_000, |text| text.parse().unwrap());
    let small = open(10);
    let before = resident();
    let large = open(many);
    let megabytes = resident().saturating_sub(before) >> 20;
    println!("memory of {many} groups with {RULES} rules: {megabytes} MiB");
    let (mut small, mut large) = (serve(small).await, serve(large).await);
    let (mut times_small, mut times_large) = (Vec::new(), Vec::new());
    // In turn, so that what else the machine does falls on both alike.
    for _ in 0..ROUNDS {
        times_small.push(revoke(&mut small).await);
        times_large.push(revoke(&mut large).await);
    }
    let (small, large) = (median(times_small), median(times_large));
    println!(
        "authorize and revoke, median of {ROUNDS}: 10 groups {small:?}, {many} groups {large:?}, ratio {:.2}",
        large.as_secs_f64() / small.as_secs_f64()
    );
}

fn open(groups: usize) -> Sandbox {
    let json = state(groups);
    let started = Instant::now();
    let state = Sandbox::parse_state(json.as_bytes()).unwrap();
    let parsed = started.elapsed();
    let (sandbox, _) =
        Sandbox::open(Some(state), None, Arc::new(SystemClock), Arc::new(SeededRandom::new(1)))
            .unwrap();
    println!(
        "{groups} groups, {} MiB of JSON: parsed in {parsed:.2?}, loaded in {:.2?}",
        json.len() >> 20,
        started.elapsed() - parsed
    );
    sandbox
}

/// As `aws ec2 describe-security-groups` prints groups.
fn state(groups: usize) -> String {
    let mut json = r#"{"Vpcs":[{"VpcId":"vpc-00000001","IsDefault":false,"OwnerId":"123456789012","Region":"us-east-1"}],"SecurityGroups":["#.to_owned();
    for group in 0..groups {
        let comma = if group == 0 { "" } else { "," };
        write!(json, r#"{comma}{{"GroupId":"sg-{group:08x}","GroupName":"group {group}","Description":"d","VpcId":"vpc-00000001","OwnerId":"123456789012","IpPermissionsEgress":[{{"IpProtocol":"tcp","FromPort":443,"ToPort":443,"IpRanges":["#).unwrap();
        for rule in 0..RULES - 1 {
            let comma = if rule == 0 { "" } else { "," };
            write!(json, r#"{comma}{{"CidrIp":"10.{rule}.0.0/16"}}"#).unwrap();
        }
        json.push_str("]}]}");
    }
    json.push_str("]}");
    json
}

async fn serve(sandbox: Sandbox) -> SecurityGroupServiceClient<tonic::transport::Channel> {
    let sandbox = Arc::new(sandbox);
    let limits = Limits { reflection: false, ..Limits::default() };
    let clock = Arc::new(SystemClock);
    let off = AuthenticationConfig::default();
    let authenticator = Authenticator::open(off, false, clock.clone()).await.unwrap();
    let parts = Parts {
        tls: None,
        limits,
        authenticator: Arc::new(authenticator),
        rate_limits: RateLimits::default(),
        backend: sandbox.clone(),
        sandbox: None,
        books: Books::in_memory(Terms::default(), clock.clone(), Arc::new(ProtoScribe)),
        access: Arc::new(Access::allow_all()),
        clock,
        random: Arc::new(SeededRandom::new(2)),
        metrics: Metrics::default(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(server::serve(listener, parts, std::future::pending(), ServerStatus::default()));
    let channel = tonic::transport::Channel::from_shared(address).unwrap().connect().await.unwrap();
    SecurityGroupServiceClient::new(channel)
}

/// One rule added to the last but one place and removed again; the group ends as it began.
async fn revoke(client: &mut SecurityGroupServiceClient<tonic::transport::Channel>) -> Duration {
    let permission = v1::IpPermission {
        ip_protocol: Some("tcp".into()),
        from_port: Some(1),
        to_port: Some(1),
        ip_ranges: vec![v1::IpRange { cidr_ip: Some("192.0.2.0/24".into()), description: None }],
        ..Default::default()
    };
    let group_id = Some("sg-00000005".to_owned());
    let started = Instant::now();
    let authorize = v1::AuthorizeEgressRequest {
        group_id: group_id.clone(),
        ip_permissions: vec![permission.clone()],
        ..Default::default()
    };
    client.authorize_egress(authorize).await.unwrap();
    let revoke = v1::RevokeEgressRequest {
        group_id,
        ip_permissions: vec![permission],
        ..Default::default()
    };
    client.revoke_egress(revoke).await.unwrap();
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap()
}

/// Bytes in memory, as Linux counts them.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
