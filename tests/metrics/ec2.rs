//! Calls to EC2, through the real server and the SDK, to an endpoint that answers as it is told.

use std::{sync::Arc, time::Duration};

use aws_config::BehaviorVersion;
use aws_sdk_ec2::config::{Credentials, Region as SdkRegion};
use portcullis::{
    api::proto::v1,
    backend::{
        ec2::{Ec2, Ec2Settings, TargetSettings},
        paced::Paced,
    },
    rule::{AccountId, Region},
};
use serde_json::json;

use crate::{
    ACCOUNT,
    script::{Endpoint, error},
    standing::{readiness, without_times},
    support::refusal,
    text::Seen,
    world,
};

async fn open(endpoint: &str) -> Ec2 {
    let settings = Ec2Settings {
        endpoint_url: Some(endpoint.to_owned()),
        targets: vec![TargetSettings {
            account: Some(AccountId::new(ACCOUNT)),
            regions: vec![Region::parse("us-east-1").unwrap()],
            role_arn: None,
            external_id: None,
            session_per_principal: false,
        }],
        default_account: None,
        default_region: None,
        attempt_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(3),
        decode_authorization_messages: false,
    };
    let sdk = aws_config::defaults(BehaviorVersion::latest())
        .credentials_provider(Credentials::new("AKIAEXAMPLE", "not-a-secret", None, None, "test"))
        .region(SdkRegion::new("us-east-1"))
        .load()
        .await;
    Ec2::open_with(settings, sdk).await.unwrap()
}

pub async fn calls(seen: &mut Seen) {
    let (groups, create) = ("DescribeSecurityGroups", "CreateSecurityGroup");
    let endpoint = Endpoint::serve(&[
        (
            groups,
            &[
                error(503, "RequestLimitExceeded", "slower"),
                error(503, "RequestLimitExceeded", "slower"),
                error(400, "InvalidGroup.NotFound", "no such group"),
            ],
        ),
        (create, &[error(503, "RequestLimitExceeded", "slower")]),
    ])
    .await;
    let ec2 = open(&endpoint.url).await;
    let world = world::start(|parts, metrics| {
        parts.backend = Arc::new(ec2.counted(metrics));
        parts.sandbox = None;
    });
    let mut world = world.await;
    let (duration, throttles) =
        ("portcullis_ec2_call_duration_seconds_count", "portcullis_ec2_throttles_total");
    let request = v1::DescribeSecurityGroupsRequest {
        group_ids: vec!["sg-00000001".into()],
        ..Default::default()
    };
    let none = world.server.groups.describe_security_groups(request).await;
    assert_eq!(refusal(none).1, "INVALID_GROUP_NOT_FOUND");
    let labels = |method, error| {
        [
            ("rpc_method", method),
            ("account", ACCOUNT),
            ("region", "us-east-1"),
            ("error_type", error),
        ]
    };
    let is_one = |value| value == 1.0;
    seen.until(world.admin, duration, &labels(groups, "InvalidGroup.NotFound"), is_one).await;
    // The third attempt was answered.
    let throttled = labels(groups, "");
    seen.until(world.admin, throttles, &throttled[..3], |value| value == 2.0).await;
    world.server.create("fresh", "vpc-00000001").await.unwrap_err();
    let throttled = labels(create, "RequestLimitExceeded");
    seen.until(world.admin, duration, &throttled, is_one).await;
    seen.until(world.admin, throttles, &throttled[..3], is_one).await;
}

/// The server stays ready whatever becomes of EC2, and says what that is.
#[tokio::test]
async fn readiness_tells_how_ec2_answers() {
    let groups = "DescribeSecurityGroups";
    let endpoint = Endpoint::serve(&[(
        groups,
        &[
            error(400, "InvalidGroup.NotFound", "no such group"),
            error(400, "AuthFailure", "not these credentials"),
            error(403, "UnauthorizedOperation", "not this"),
        ],
    )])
    .await;
    let ec2 = open(&endpoint.url).await;
    let world = world::start(|parts, metrics| {
        parts.backend = Arc::new(Paced::new(Arc::new(ec2.counted(metrics)), 80));
        parts.sandbox = None;
    });
    let world = world.await;
    let says = |state: &str, answered: bool, failure: Option<&str>| {
        json!([{
            "account": ACCOUNT, "region": "us-east-1", "state": state, "pace_percent": 100,
            "answered_seconds_ago": answered, "failed_seconds_ago": failure.is_some(),
            "failure": failure,
        }])
    };
    let seen = async || without_times(readiness(world.admin).await);
    assert_eq!(seen().await, says("not called", false, None));
    let mut groups = world.server.groups.clone();
    let mut list = async || {
        let request = v1::DescribeSecurityGroupsRequest {
            group_ids: vec!["sg-00000001".into()],
            ..Default::default()
        };
        refusal(groups.describe_security_groups(request).await).1
    };
    // A refusal of what was asked for is an answer.
    assert_eq!(list().await, "INVALID_GROUP_NOT_FOUND");
    assert_eq!(seen().await, says("ok", true, None));
    list().await;
    assert_eq!(seen().await, says("failing", true, Some("AuthFailure")));
    assert_eq!(list().await, "EC2_UNAUTHORIZED_OPERATION");
    assert_eq!(seen().await, says("ok", true, Some("AuthFailure")));
    // Nobody listens any more.
    drop(endpoint);
    assert_eq!(list().await, "EC2_UNAVAILABLE");
    assert_eq!(seen().await, says("failing", true, Some("unavailable")));
}
