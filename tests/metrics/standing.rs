//! What `/readyz` says of a backend that is elsewhere, with one that fails as it is told to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    api::proto::v1::DescribeSecurityGroupsRequest,
    backend::{
        Answer, AuthorizeRules, Authorized, Backend, BackendError, CallContext, CreateGroup,
        Created, DeleteGroup, Deleted, DescribeGroups, DescribeRules, Failure, GroupImage,
        OwnedRule, Page, Refusal, RevokeRules, Revoked,
        paced::Paced,
        standing::{LastSeen, Standing},
    },
    rule::{AccountId, GroupRef, Region, Target},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{support::refusal, text::ask, world};

/// Two Regions; of the first each list ends as the next of these.
#[derive(Debug)]
struct Elsewhere {
    ends: Mutex<VecDeque<Result<(), BackendError>>>,
    near: LastSeen,
    far: LastSeen,
}

fn target(region: &str) -> Target {
    Target { account: AccountId::new("123456789012"), region: Region::new(region) }
}

fn never<'a, T: Send + 'a>() -> Answer<'a, T> {
    Box::pin(async { Err(BackendError::DeadlineTooNear) })
}

impl Backend for Elsewhere {
    fn identity(&self) -> String {
        "elsewhere".to_owned()
    }

    fn resolve(&self, _: Option<AccountId>, _: Option<Region>) -> Result<Target, BackendError> {
        Ok(target("us-east-1"))
    }

    fn read_lag(&self) -> Duration {
        Duration::ZERO
    }

    fn standing(&self) -> Standing {
        let now = Instant::now();
        let near = self.near.standing(target("us-east-1"), now);
        Standing::Targets(vec![near, self.far.standing(target("us-west-2"), now)])
    }

    fn describe_groups<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a DescribeGroups,
    ) -> Answer<'a, Page<GroupImage>> {
        Box::pin(async {
            match self.ends.lock().unwrap().pop_front().expect("an end") {
                Ok(()) => {
                    self.near.answered(Instant::now());
                    Ok(Page { items: Vec::new(), next_token: None })
                }
                Err(error) => {
                    let class = match &error {
                        BackendError::Refused(refusal) => refusal.code.clone(),
                        _ => "unavailable".to_owned(),
                    };
                    self.near.failed(class, Instant::now());
                    Err(error)
                }
            }
        })
    }

    fn image<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a GroupRef,
    ) -> Answer<'a, GroupImage> {
        never()
    }

    fn describe_rules<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a DescribeRules,
    ) -> Answer<'a, Page<OwnedRule>> {
        never()
    }

    fn revoke<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a RevokeRules,
    ) -> Answer<'a, Revoked> {
        never()
    }

    fn authorize<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a AuthorizeRules,
    ) -> Answer<'a, Authorized> {
        never()
    }

    fn create_group<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a CreateGroup,
    ) -> Answer<'a, Created> {
        never()
    }

    fn delete_group<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a DeleteGroup,
    ) -> Answer<'a, Deleted> {
        never()
    }
}

/// What `/readyz` says; it must be ready.
pub async fn readiness(admin: std::net::SocketAddr) -> Value {
    let answer = ask(admin, "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head} {body}");
    assert_eq!(body["ready"], true, "{body}");
    body
}

/// docs/metrics.md has each name of it.
fn check_document(body: &Value) {
    let document = std::fs::read_to_string(crate::compare::path("docs/metrics.md")).unwrap();
    for name in body["targets"][0].as_object().unwrap().keys() {
        assert!(document.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}

/// How long ago things were is left out: it is not for a test to say.
pub fn without_times(mut body: Value) -> Value {
    for target in body["targets"].as_array_mut().unwrap() {
        for name in ["answered_seconds_ago", "failed_seconds_ago"] {
            let seconds = &mut target[name];
            *seconds = json!(seconds.is_u64());
        }
    }
    body["targets"].take()
}

#[tokio::test]
async fn readiness_tells_of_a_backend_that_fails_and_stays() {
    let ends = [
        Err(Refusal::new("RequestLimitExceeded", "slower").into()),
        Ok(()),
        Err(BackendError::Unavailable(Failure::new("nobody there"))),
    ];
    let elsewhere = Elsewhere {
        ends: Mutex::new(ends.into()),
        near: LastSeen::default(),
        far: LastSeen::default(),
    };
    let start = world::start(|parts, metrics| {
        parts.backend = Arc::new(Paced::new(Arc::new(elsewhere), 80).counted(metrics.clone()));
        parts.sandbox = None;
    });
    let mut world = start.await;
    let far = json!({
        "account": "123456789012", "region": "us-west-2", "state": "not called",
        "answered_seconds_ago": false, "failed_seconds_ago": false, "failure": null,
        "pace_percent": 100,
    });
    let near = |state: &str, answered: bool, failure: Option<&str>| {
        json!({
            "account": "123456789012", "region": "us-east-1", "state": state,
            "answered_seconds_ago": answered, "failed_seconds_ago": failure.is_some(),
            "failure": failure,
        })
    };
    // The pace of the first target, which regains with time, apart.
    let split = |body: Value| {
        let summary = body["dependencies"]["backend"].clone();
        let mut targets = without_times(body);
        let pace = targets[0].as_object_mut().unwrap().remove("pace_percent").unwrap();
        assert_eq!(targets[1], far);
        (summary, targets[0].take(), pace.as_u64().unwrap())
    };
    let mut list = async || {
        world.server.groups.describe_security_groups(DescribeSecurityGroupsRequest::default()).await
    };
    check_document(&readiness(world.admin).await);
    let seen = split(readiness(world.admin).await);
    assert_eq!(seen, (json!("not called"), near("not called", false, None), 100));

    assert_eq!(refusal(list().await).1, "EC2_REQUEST_LIMIT_EXCEEDED");
    let (summary, target, pace) = split(readiness(world.admin).await);
    let throttled = Some("RequestLimitExceeded");
    assert_eq!((summary, target), (json!("failing"), near("failing", false, throttled)));
    assert!((50..100).contains(&pace), "{pace}");

    list().await.unwrap();
    let (summary, target, _) = split(readiness(world.admin).await);
    assert_eq!((summary, target), (json!("ok"), near("ok", true, throttled)));

    assert_eq!(refusal(list().await).1, "EC2_UNAVAILABLE");
    let (summary, target, _) = split(readiness(world.admin).await);
    assert_eq!((summary, target), (json!("failing"), near("failing", true, Some("unavailable"))));

    // Its health has the same word, and nobody else's.
    let mut health = HealthClient::new(world.server.channel.clone());
    let mut is_serving = async |service: &str| {
        let asked = health.check(HealthCheckRequest { service: service.to_owned() }).await;
        asked.unwrap().into_inner().status() == ServingStatus::Serving
    };
    while is_serving("backend").await {
        tokio::task::yield_now().await;
    }
    for name in ["", "mutations", "ledger"] {
        assert!(is_serving(name).await, "{name}");
    }
}
