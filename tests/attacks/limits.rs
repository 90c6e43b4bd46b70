//! Failures per address, proxies, and services that are open.

use std::time::Duration;

use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::{
    support::{details, refusal},
    world::{World, claims},
};

const JUNK: &str = "pct_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn bearer(token: &str) -> Vec<u8> {
    format!("Bearer {token}").into_bytes()
}

#[tokio::test]
async fn too_many_failures_are_limited_and_a_valid_credential_passes_all_the_same() {
    let world = World::start_with(|config| {
        config.failure_burst = 3;
        config.failures_per_minute = 1;
    })
    .await;
    for _ in 0..3 {
        let invalid = (Code::Unauthenticated, "CREDENTIALS_INVALID".to_owned());
        assert_eq!(world.refusal_of(JUNK).await, invalid);
    }
    let status = world.call_as(JUNK).await.unwrap_err();
    let details = details(&status);
    let reason = &details.error_info().unwrap().reason;
    assert_eq!((status.code(), reason.as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::from_secs(30) && wait <= Duration::from_secs(60), "{wait:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
    assert_eq!(pushback, wait.as_millis().to_string());
    assert_eq!(details.quota_failure().unwrap().violations.len(), 1);
    // Without a credential it is the same, and with a good one from the same address there is no limit.
    assert_eq!(refusal(world.call(&[]).await).1, "RATE_LIMITED");
    for _ in 0..10 {
        world.call_as(&world.static_token).await.unwrap();
        world.call_as(&world.p256.token(&claims())).await.unwrap();
    }
}

#[tokio::test]
async fn what_callers_say_of_their_address_counts_behind_a_trusted_proxy_only() {
    for (trusted, second) in [(false, "RATE_LIMITED"), (true, "CREDENTIALS_INVALID")] {
        let world = World::start_with(|config| {
            config.failure_burst = 1;
            config.failures_per_minute = 1;
            if trusted {
                config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
            }
        })
        .await;
        let from = |address: &str| {
            [("authorization", bearer(JUNK)), ("x-forwarded-for", address.as_bytes().to_vec())]
        };
        assert_eq!(refusal(world.call(&from("192.0.2.1")).await).1, "CREDENTIALS_INVALID");
        assert_eq!(refusal(world.call(&from("192.0.2.2")).await).1, second);
        // What is left of the proxy's own entry is the caller's claim.
        assert_eq!(refusal(world.call(&from("192.0.2.9, 192.0.2.1")).await).1, "RATE_LIMITED");
        assert_eq!(world.log.text().contains("client=192.0.2.1"), trusted);
    }
}

async fn health(world: &World) -> Result<(), tonic::Status> {
    let mut client = HealthClient::new(world.server.channel.clone());
    client.check(HealthCheckRequest::default()).await.map(drop)
}

async fn reflection(world: &World, token: Option<&str>) -> Result<(), tonic::Status> {
    let mut client = ServerReflectionClient::new(world.server.channel.clone());
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(tokio_stream::once(list));
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let mut answers = client.server_reflection_info(request).await?.into_inner();
    answers.message().await.map(|answer| assert!(answer.is_some()))
}

#[tokio::test]
async fn health_is_open_and_reflection_is_not_unless_told_otherwise() {
    let missing = (Code::Unauthenticated, "CREDENTIALS_MISSING".to_owned());
    let world = World::start().await;
    health(&world).await.unwrap();
    assert_eq!(refusal(reflection(&world, None).await), missing);
    reflection(&world, Some(&world.static_token)).await.unwrap();
    drop(world);
    let world = World::start_with(|config| {
        config.open_health = false;
        config.open_reflection = true;
    })
    .await;
    assert_eq!(refusal(health(&world).await), missing);
    reflection(&world, None).await.unwrap();
    assert_eq!(refusal(world.call(&[]).await), missing);
}
