//! The EC2 backend against moto's server, and against an endpoint that does what it must not.

#![cfg(feature = "ec2")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_ec2::config::{Credentials, Region as SdkRegion};
use portcullis::{
    backend::{
        BackendError, CallContext,
        ec2::{Ec2, Ec2Settings, TargetSettings},
    },
    rule::{
        AccountId, GroupId, GroupRef, Peer, PrefixListId, Protocol, Region, RuleSpec, Target,
        Traffic,
    },
};
use tokio::time::Instant;

#[path = "ec2_backend/denied.rs"]
mod denied;
#[path = "ec2_backend/door.rs"]
mod door;
#[path = "ec2_backend/hostile.rs"]
mod hostile;
#[path = "ec2_backend/identity.rs"]
mod identity;
#[path = "ec2_backend/moto.rs"]
mod moto;
#[path = "ec2_backend/opening.rs"]
mod opening;
#[path = "ec2_backend/pacing.rs"]
mod pacing;
#[path = "ec2_backend/script.rs"]
mod script;

/// The account of moto's default credentials.
const ACCOUNT: &str = "123456789012";

fn account() -> AccountId {
    AccountId::new(ACCOUNT)
}

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn target() -> Target {
    Target { account: account(), region: region("us-east-1") }
}

fn target_settings() -> TargetSettings {
    TargetSettings {
        account: Some(account()),
        regions: vec![region("us-east-1")],
        role_arn: None,
        external_id: None,
        session_per_principal: false,
    }
}

fn settings(endpoint: &str) -> Ec2Settings {
    Ec2Settings {
        endpoint_url: Some(endpoint.to_owned()),
        targets: vec![target_settings()],
        default_account: None,
        default_region: None,
        attempt_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(3),
        decode_authorization_messages: false,
    }
}

/// What a caller with credentials of its own brings.
async fn sdk() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .credentials_provider(Credentials::new("AKIAEXAMPLE", "not-a-secret", None, None, "test"))
        .region(SdkRegion::new("us-east-1"))
        .load()
        .await
}

async fn open(settings: Ec2Settings) -> Ec2 {
    Ec2::open_with(settings, sdk().await).await.unwrap()
}

/// A call with that much time.
fn within(time: Duration) -> CallContext {
    CallContext::new(Instant::now() + time, "operation-1")
}

fn call() -> CallContext {
    within(Duration::from_secs(30))
}

fn id(text: &str) -> GroupRef {
    GroupRef::Id(GroupId::new(text))
}

fn traffic(protocol: &str, ports: Option<(i32, i32)>) -> Traffic {
    let (from, to) = ports.unzip();
    Traffic::new(Protocol::parse(protocol).unwrap(), from, to).unwrap()
}

fn spec(traffic: Traffic, peer: Peer) -> RuleSpec {
    RuleSpec { traffic, peer, description: None }
}

fn v4(cidr: &str) -> Peer {
    Peer::Ipv4(cidr.parse().unwrap())
}

fn v6(cidr: &str) -> Peer {
    Peer::Ipv6(cidr.parse().unwrap())
}

fn list(id: &str) -> Peer {
    Peer::PrefixList(PrefixListId::new(id))
}

fn refused<T: std::fmt::Debug>(result: Result<T, BackendError>) -> String {
    match result {
        Err(BackendError::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}
