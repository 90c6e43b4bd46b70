//! The EC2 backend behind its budget: what waits is not sent, and what EC2 says of too many requests is heeded.

use std::{sync::Arc, time::Duration};

use portcullis::{
    access::Access,
    api::scribe::{ProtoScribe, method},
    backend::{Backend, CreateGroup, DescribeRules, paced::Paced},
    clock::SystemClock,
    error::{Error, Reason},
    ledger::Terms,
    middleware::idempotency::{Books, IdempotencyLayer},
    operations::{Call, CallMeta, Command, Create, Operations, Outcome, Progress},
    pacing::Action,
    principal::{Peer, Principal},
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tower::{Layer as _, ServiceExt as _};

use super::{
    call, open,
    script::{Endpoint, Reply, answer, error},
    settings, target,
};

const CREATE: &str = "CreateSecurityGroup";
const RULES: &str = "DescribeSecurityGroupRules";

/// A change that reads nothing first.
async fn create(backend: Arc<dyn Backend>, time: Duration) -> Result<Outcome, Error> {
    let meta = CallMeta {
        request_id: "r-1".into(),
        deadline: Instant::now() + time,
        account: None,
        region: None,
        operation_id: "op-1".into(),
        principal: Arc::new(Principal::local()),
        by_record: false,
        peer: Peer::default(),
        method: method::CREATE,
        key: None,
        change_reason: None,
        trace_id: None,
        journal: None,
        progress: Arc::new(Progress::default()),
    };
    let command = Command::Create(Create(CreateGroup {
        name: "fresh".to_owned(),
        description: "for a test".to_owned(),
        vpc_id: None,
        tags: Vec::new(),
        dry_run: false,
    }));
    let operations = Operations::new(backend, Arc::new(Access::allow_all()), Arc::new(SystemClock));
    let books = Books::in_memory(Terms::default(), Arc::new(SystemClock), Arc::new(ProtoScribe));
    let layer = IdempotencyLayer::new(books, TaskTracker::new());
    layer.layer(operations).oneshot(Call { meta, command }).await
}

/// One percent of EC2's budget: one change at once, and another after 20 seconds.
async fn paced(script: &[(&str, &[Reply])]) -> (Endpoint, Arc<dyn Backend>, Arc<Paced>) {
    let endpoint = Endpoint::serve(script).await;
    let ec2: Arc<dyn Backend> = Arc::new(open(settings(&endpoint.url)).await);
    let paced = Arc::new(Paced::new(ec2.clone(), 1));
    (endpoint, ec2, paced)
}

#[tokio::test]
async fn a_change_is_sent_when_it_has_its_slot_and_not_before() {
    let created = answer(CREATE, "<groupId>sg-0123456789abcdef0</groupId>");
    let rules = answer(RULES, "<securityGroupRuleSet/>");
    let (endpoint, ec2, paced) = paced(&[(CREATE, &[created]), (RULES, &[rules])]).await;
    let holder = call();
    paced.reserve(&holder, &target(), Action::CreateGroup).unwrap().await.unwrap();
    let change = create(paced.clone(), Duration::from_secs(120));
    tokio::pin!(change);
    // It is polled first, and there is a whole round trip to the endpoint while it waits.
    tokio::select! {
        biased;
        answer = &mut change => panic!("it did not wait: {answer:?}"),
        read = async { ec2.describe_rules(&call(), &target(), &DescribeRules::default()).await } => {
            read.unwrap();
        }
    }
    assert!(endpoint.received(CREATE).is_empty());
    drop(holder.slot.take());
    assert!(matches!(change.await, Ok(Outcome::Recorded(_))));
    assert_eq!(endpoint.received(CREATE).len(), 1);
}

#[tokio::test]
async fn ec2_that_throttles_slows_us_down() {
    let too_many = error(503, "RequestLimitExceeded", "Request limit exceeded.");
    let (endpoint, _, paced) = paced(&[(CREATE, &[too_many])]).await;
    let time = Duration::from_secs(10);
    let error = create(paced.clone(), time).await.unwrap_err();
    assert_eq!(error.reason, Reason::Ec2RequestLimitExceeded, "{error:?}");
    // The next slot was 20 seconds away; it is 40 now, less what has passed.
    let error = create(paced, time).await.unwrap_err();
    assert_eq!(error.reason, Reason::Ec2BudgetExhausted);
    let wait = error.retry_after.unwrap();
    assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(40), "{wait:?}");
    assert_eq!(endpoint.received(CREATE).len(), 1);
}
