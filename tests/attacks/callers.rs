//! Rate limits of callers who proved who they are. What is exact about them is tested beside the layer, under a paused
//! clock; here it is whose limit counts, and who uses it up.

use portcullis::config::{CallClass, LimitedCaller, Rate, RateLimits, RateOverride};
use serde_json::json;
use tonic::{Code, Status, metadata::MetadataMap};

use crate::{
    support::{details, refusal},
    world::{SECOND, World, claims, claims_with},
};

const ALICE: &str = "jwt:https%3A//first.example:alice";
const BOB: &str = "jwt:https%3A//first.example:bob";

fn limits() -> RateLimits {
    let rate = |burst| Some(Rate { per_second: 1, burst });
    let read = |caller, burst| RateOverride { caller, class: CallClass::Read, rate: rate(burst) };
    let group = |name: &str| LimitedCaller::Group(name.to_owned());
    RateLimits {
        read: rate(3),
        overrides: vec![
            read(LimitedCaller::Principal(ALICE.to_owned()), 7),
            read(group("deployers"), 5),
            read(group("operator"), 6),
        ],
        ..RateLimits::default()
    }
}

/// One read with this token.
async fn read(world: &World, token: &str) -> Result<MetadataMap, Status> {
    world.answer(&[("authorization", format!("Bearer {token}").into_bytes())]).await
}

/// How many calls there are at once, and how many of them are left, as the answer says.
fn said(metadata: &MetadataMap) -> (u32, u32) {
    let number = |name: &str, before: &str| -> u32 {
        let value = metadata.get(name).unwrap().to_str().unwrap();
        let rest = value.strip_prefix("\"read\";").unwrap().strip_prefix(before).unwrap();
        rest.split(';').next().unwrap().parse().unwrap()
    };
    (number("ratelimit-policy", "q="), number("ratelimit", "r="))
}

#[tokio::test]
async fn each_caller_has_its_own_limit_by_principal_or_group() {
    let world = World::start_limited(limits(), |_| {}).await;
    let nobody = json!({"sub": "bob", "groups": null, "realm_access": null});
    let bob = world.p256.token(&claims_with(nobody.clone()));
    for (token, expected) in [
        // Its own limit goes before its groups'.
        (world.p256.token(&claims()), (7, 6)),
        // The same caller with another key.
        (world.rsa.token(&claims()), (7, 5)),
        (world.p256.token(&claims_with(json!({"sub": "carol"}))), (6, 5)),
        // Another issuer's alice is another principal, though she says that she is in the same group.
        (world.second.token(&claims_with(json!({"iss": SECOND}))), (6, 5)),
        (world.static_token.clone(), (5, 4)),
        (bob.clone(), (3, 2)),
    ] {
        let (all, left) = said(&read(&world, &token).await.unwrap());
        // One comes back in a second.
        assert!(
            all == expected.0 && left >= expected.1 && left < all,
            "{all} {left}: {expected:?}"
        );
    }
    // One uses its own up, and nobody else's.
    let mut refused = None;
    for calls in 1..1000 {
        if let Err(status) = read(&world, &bob).await {
            assert!(calls >= 3, "{calls}");
            refused = Some(status);
            break;
        }
    }
    let status = refused.unwrap();
    assert_eq!(details(&status).quota_failure().unwrap().violations[0].subject, BOB);
    assert!(status.metadata().contains_key("ratelimit"), "{status:?}");
    assert_eq!(refusal::<()>(Err(status)), (Code::ResourceExhausted, "RATE_LIMITED".to_owned()));
    let other = world.second.token(&claims_with(json!({
        "iss": SECOND, "sub": "bob", "groups": null, "realm_access": null,
    })));
    assert_eq!(said(&read(&world, &other).await.unwrap()), (3, 2));
}

#[tokio::test]
async fn who_only_claims_to_be_a_caller_uses_nothing_of_its_limit_up() {
    let world = World::start_limited(limits(), |_| {}).await;
    let forged = world.foreign.token(&claims());
    for _ in 0..50 {
        let status = read(&world, &forged).await.unwrap_err();
        assert!(!status.metadata().contains_key("ratelimit"), "{status:?}");
        assert_eq!(refusal::<()>(Err(status)).1, "CREDENTIALS_INVALID");
    }
    assert_eq!(said(&read(&world, &world.p256.token(&claims())).await.unwrap()), (7, 6));
}

#[tokio::test]
async fn report_only_logs_who_would_be_refused_and_refuses_nobody() {
    let limits = RateLimits { report_only: true, ..limits() };
    let world = World::start_limited(limits, |_| {}).await;
    let alice = world.p256.token(&claims());
    let told = || {
        let text = world.log.text();
        text.lines().find(|line| line.contains("over its limit; not enforced")).map(str::to_owned)
    };
    for calls in 1..100 {
        let metadata = read(&world, &alice).await.unwrap();
        assert!(!metadata.contains_key("ratelimit"), "{metadata:?}");
        assert!(calls > 7 || told().is_none(), "{calls}");
        if told().is_some() {
            break;
        }
    }
    let line = told().unwrap();
    for part in [ALICE, "class=\"read\"", "rpc=\"/portcullis.v1.SecurityGroupService/Describe"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}
