//! Rate limits through a socket. What is exact about them is tested beside the layer, under a paused clock.

use std::time::Duration;

use portcullis::{
    api::{methods::MUTATIONS, proto::FILE_DESCRIPTOR_SET},
    config::{Rate, RateLimits},
};
use prost::Message;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    NONDEFAULT_VPC_GROUP, by_permissions, details, limits, nobody, refusal, start_limited, tcp,
};

#[tokio::test]
async fn a_caller_over_its_limit_is_told_and_health_still_answers() {
    let rate = Rate { per_second: 1, burst: 3 };
    let rate_limits = RateLimits { mutate: Some(rate), ..RateLimits::default() };
    let mut server = start_limited(limits(), rate_limits, true, nobody().await).await;
    let mut refused = None;
    // However slow the machine is: one of so many comes sooner than a second after the one before it.
    for calls in 0..1000 {
        let mut request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
        request.dry_run = Some(true);
        match server.groups.revoke_egress(request).await {
            Ok(answer) => {
                let metadata = answer.metadata();
                assert_eq!(metadata.get("ratelimit-policy").unwrap(), "\"mutate\";q=3;w=3");
                assert!(metadata.contains_key("ratelimit"));
            }
            Err(status) => {
                assert!(calls >= 3, "{calls}");
                refused = Some(status);
                break;
            }
        }
    }
    let status = refused.unwrap();
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
    let pushback = Duration::from_millis(pushback.parse().unwrap());
    assert!((1..=1000).contains(&pushback.as_millis()), "{pushback:?}");
    let details = details(&status);
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(pushback));
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "local::local");
    assert!(status.metadata().contains_key("x-request-id"));
    assert_eq!(refusal::<()>(Err(status)), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
    // Reads have a limit of their own, here none; health has none at all.
    for _ in 0..10 {
        server.egress(NONDEFAULT_VPC_GROUP).await;
        let mut health = HealthClient::new(server.channel.clone());
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
}

/// A method that reads says so by its name; every other one must be in the table.
#[test]
fn every_method_has_its_class() {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut mutations = Vec::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let reads = ["Describe", "Get", "List", "Preview"];
                if !reads.iter().any(|read| method.name().starts_with(read)) {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    mutations.push(path);
                }
            }
        }
    }
    mutations.sort();
    let mut table = MUTATIONS.to_vec();
    table.sort_unstable();
    assert_eq!(table, mutations);
}
