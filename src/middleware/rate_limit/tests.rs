use std::{convert::Infallible, sync::Mutex, time::Duration};

use tokio::time::advance;
use tonic_types::StatusExt;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    config::{LimitedCaller, Rate, RateOverride},
    operations::Progress,
    principal::Method,
};

const FIVE_A_SECOND: Rate = Rate { per_second: 5, burst: 10 };
const REVOKE: &str = "/portcullis.v1.SecurityGroupService/RevokeEgress";
const DESCRIBE: &str = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups";

fn principal(subject: &str, groups: &[&str]) -> Principal {
    Principal {
        method: Method::Jwt,
        issuer: "https://issuer".to_owned(),
        subject: subject.to_owned(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
    }
}

fn limits() -> RateLimits {
    RateLimits { mutate: Some(FIVE_A_SECOND), ..RateLimits::default() }
}

/// The layer around a service that counts what reaches it.
#[derive(Clone)]
struct Bench {
    layer: RateLimitLayer,
    reached: Arc<Mutex<usize>>,
}

impl Bench {
    fn new(limits: &RateLimits) -> Self {
        let layer = RateLimitLayer::new(RateLimitLayer::open(limits), Metrics::default());
        Self { layer, reached: Arc::default() }
    }

    async fn call(&self, principal: &Principal, path: &str) -> HttpResponse {
        let mut request = HttpRequest::new(tonic::body::Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Arc::new(principal.clone()));
        request.extensions_mut().insert(CallInfo {
            request_id: "r-1".into(),
            deadline: tokio::time::Instant::now(),
            progress: Arc::new(Progress::default()),
            caller: Arc::default(),
        });
        let reached = self.reached.clone();
        let inner = service_fn(move |_: HttpRequest| {
            *reached.lock().unwrap() += 1;
            async { Ok::<_, Infallible>(HttpResponse::default()) }
        });
        self.layer.layer(inner).oneshot(request).await.unwrap()
    }

    /// How many of so many calls pass.
    async fn passed(&self, calls: usize, principal: &Principal, path: &str) -> usize {
        let before = *self.reached.lock().unwrap();
        for _ in 0..calls {
            self.call(principal, path).await;
        }
        *self.reached.lock().unwrap() - before
    }
}

fn header(response: &HttpResponse, name: &str) -> String {
    let value = response.headers().get(name);
    value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn it_is_exact_at_the_boundary() {
    let bench = Bench::new(&limits());
    let alice = principal("alice", &[]);
    assert_eq!(bench.passed(25, &alice, REVOKE).await, 10);
    advance(Duration::from_nanos(199_999_999)).await;
    assert_eq!(bench.passed(1, &alice, REVOKE).await, 0);
    advance(Duration::from_nanos(1)).await;
    assert_eq!(bench.passed(2, &alice, REVOKE).await, 1);
    advance(Duration::from_secs(1)).await;
    assert_eq!(bench.passed(25, &alice, REVOKE).await, 5);
    advance(Duration::from_secs(100)).await;
    assert_eq!(bench.passed(25, &alice, REVOKE).await, 10);
}

#[tokio::test(start_paused = true)]
async fn each_caller_and_class_counts_apart_and_health_never() {
    let bench = Bench::new(&RateLimits { read: Some(FIVE_A_SECOND), ..limits() });
    let alice = principal("alice", &[]);
    let namesake = Principal { issuer: "https://other".to_owned(), ..alice.clone() };
    assert_eq!(bench.passed(20, &alice, REVOKE).await, 10);
    assert_eq!(bench.passed(20, &alice, DESCRIBE).await, 10);
    assert_eq!(bench.passed(20, &alice, "/no.such/Method").await, 0);
    assert_eq!(bench.passed(20, &namesake, REVOKE).await, 10);
    assert_eq!(bench.passed(20, &principal("bob", &[]), REVOKE).await, 10);
    assert_eq!(bench.passed(100, &alice, "/grpc.health.v1.Health/Check").await, 100);
}

#[tokio::test(start_paused = true)]
async fn answers_tell_what_is_left_and_refusals_when_to_come_back() {
    let bench = Bench::new(&limits());
    let alice = principal("alice", &[]);
    let first = bench.call(&alice, REVOKE).await;
    assert_eq!(header(&first, "ratelimit"), "\"mutate\";r=9;t=1");
    assert_eq!(header(&first, "ratelimit-policy"), "\"mutate\";q=10;w=2");
    bench.passed(9, &alice, REVOKE).await;
    advance(Duration::from_micros(100)).await;
    let refused = bench.call(&alice, REVOKE).await;
    assert_eq!(header(&refused, "ratelimit"), "\"mutate\";r=0;t=1");
    // 199.9 ms, rounded up: a client that comes back then is served.
    assert_eq!(header(&refused, "grpc-retry-pushback-ms"), "200");
    let status = tonic::Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(200)));
    let quota = &details.quota_failure().unwrap().violations[0];
    assert_eq!(quota.subject, "jwt:https%3A//issuer:alice");
    assert_eq!(quota.description, "mutate: 5 a second, 10 at once");
    let read = bench.call(&alice, DESCRIBE).await;
    assert_eq!(header(&read, "ratelimit"), "");
}

#[tokio::test(start_paused = true)]
async fn the_nearest_limit_counts_a_principals_then_the_first_groups() {
    let of = |caller, rate: Option<u32>| RateOverride {
        caller,
        class: CallClass::Mutate,
        rate: rate.map(|burst| Rate { per_second: 1, burst }),
    };
    let overrides = vec![
        of(LimitedCaller::Group("deployers".to_owned()), Some(20)),
        of(LimitedCaller::Group("everyone".to_owned()), Some(3)),
        of(LimitedCaller::Principal("jwt:https%3A//issuer:alice".to_owned()), Some(1)),
        of(LimitedCaller::Group("on-call".to_owned()), None),
    ];
    let bench = Bench::new(&RateLimits { overrides, ..limits() });
    for (subject, groups, passed) in [
        ("alice", &["deployers"][..], 1),
        ("bob", &["everyone", "deployers"], 20),
        ("carol", &["everyone"], 3),
        ("dave", &["everyone"], 3),
        ("erin", &["unknown"], 10),
        ("frank", &["on-call"], 50),
    ] {
        assert_eq!(
            bench.passed(50, &principal(subject, groups), REVOKE).await,
            passed,
            "{subject}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn report_only_refuses_nothing_and_tells_clients_nothing() {
    let bench = Bench::new(&RateLimits { report_only: true, ..limits() });
    let alice = principal("alice", &[]);
    assert_eq!(bench.passed(100, &alice, REVOKE).await, 100);
    assert_eq!(header(&bench.call(&alice, REVOKE).await, "ratelimit"), "");
}

#[test]
fn without_limits_there_is_no_limiter() {
    assert!(Limiter::new(&RateLimits::default()).is_none());
}
