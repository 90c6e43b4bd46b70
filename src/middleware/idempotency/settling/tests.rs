//! What hangs keeps nobody else waiting. EC2 is one whose accounts answer, or do not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::*;
use crate::{
    access::Access,
    backend::{
        Answer, AuthorizeRules, Authorized, Backend, BackendError, CallContext, CreateGroup,
        Created, DeleteGroup, Deleted, DescribeGroups, DescribeRules, Failure, GroupImage,
        OwnedRule, Page, Refusal, RevokeRules, Revoked,
    },
    clock::Clock,
    error::Error,
    ledger::{
        Intended, Intent, Move, Plan, Recorded, Terms,
        memory::Memory,
        stored::{StoredGroup, StoredRule},
    },
    operations::{Outcome, Scribe, Timing},
    rule::{AccountId, GroupRef, Region, Target},
    telemetry::metrics::Metrics,
};

/// Time of the paused runtime, and how far it is ahead of others.
#[derive(Clone, Copy, Debug)]
struct Time(Instant, Duration);

impl Clock for Time {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.0.elapsed() + self.1
    }
}

/// Reads of accounts that begin with `hangs` have no answer; all other groups are gone.
#[derive(Debug, Default)]
struct Ec2 {
    /// How many read now, and the most that there were at once: of each account, and of all.
    reading: Mutex<HashMap<String, (usize, usize)>>,
}

const ALL: &str = "all";

impl Ec2 {
    fn begins(&self, account: &str) {
        let mut reading = self.reading.lock().unwrap();
        for name in [account, ALL] {
            let (now, most) = reading.entry(name.to_owned()).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
    }

    fn ends(&self, account: &str) {
        let mut reading = self.reading.lock().unwrap();
        for name in [account, ALL] {
            reading.get_mut(name).unwrap().0 -= 1;
        }
    }

    fn most(&self, name: &str) -> usize {
        self.reading.lock().unwrap().get(name).map_or(0, |(_, most)| *most)
    }
}

fn none<T: Send + 'static>() -> Answer<'static, T> {
    Box::pin(std::future::ready(Err(BackendError::DeadlineTooNear)))
}

impl Backend for Ec2 {
    fn identity(&self) -> String {
        "scope".to_owned()
    }

    fn resolve(
        &self,
        account: Option<AccountId>,
        region: Option<Region>,
    ) -> Result<Target, BackendError> {
        Ok(Target { account: account.unwrap(), region: region.unwrap() })
    }

    fn read_lag(&self) -> Duration {
        Duration::ZERO
    }

    fn image<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        _: &'a GroupRef,
    ) -> Answer<'a, GroupImage> {
        Box::pin(async move {
            let account = target.account.as_str();
            self.begins(account);
            if account.starts_with("hangs") {
                tokio::time::sleep_until(call.deadline).await;
                self.ends(account);
                return Err(BackendError::Unavailable(Failure::new("no answer")));
            }
            self.ends(account);
            Err(Refusal::new("InvalidGroup.NotFound", "gone").into())
        })
    }

    fn describe_groups<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a DescribeGroups,
    ) -> Answer<'a, Page<GroupImage>> {
        none()
    }

    fn describe_rules<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a DescribeRules,
    ) -> Answer<'a, Page<OwnedRule>> {
        none()
    }

    fn revoke<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a RevokeRules,
    ) -> Answer<'a, Revoked> {
        none()
    }

    fn authorize<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a AuthorizeRules,
    ) -> Answer<'a, Authorized> {
        none()
    }

    fn create_group<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a CreateGroup,
    ) -> Answer<'a, Created> {
        none()
    }

    fn delete_group<'a>(
        &'a self,
        _: &'a CallContext,
        _: &'a Target,
        _: &'a DeleteGroup,
    ) -> Answer<'a, Deleted> {
        none()
    }
}

#[derive(Debug)]
struct Quiet;

impl Scribe for Quiet {
    fn record(&self, _: &str, _: &str, _: Result<Outcome, Error>) -> Recorded {
        Recorded { code: 0, message: String::new(), body: Vec::new() }
    }
}

struct World {
    ec2: Arc<Ec2>,
    operations: Operations,
    books: Books,
    metrics: Metrics,
    count: usize,
}

const EVERY: Duration = Duration::from_secs(5);

impl World {
    /// The ledger's clock is ahead of the server's by that.
    fn new(ahead: Duration) -> Self {
        let began = Instant::now();
        let ec2 = Arc::new(Ec2::default());
        let metrics = Metrics::open(|readers| readers).unwrap();
        let access = Arc::new(Access::allow_all());
        let operations =
            Operations::new(ec2.clone(), access, Arc::new(Time(began, Duration::ZERO)))
                .counted(metrics.clone());
        let clock = Arc::new(Time(began, ahead));
        let books = Books {
            ledger: Arc::new(Memory::new(Terms::default(), clock)),
            scribe: Arc::new(Quiet),
            timing: Timing::default(),
            key_required: false,
            settle_every: EVERY,
        };
        Self { ec2, operations, books, metrics, count: 0 }
    }

    /// So many operations of the account whose holders have died.
    async fn begin(&mut self, account: &str, count: usize) {
        for _ in 0..count {
            self.count += 1;
            let rule = StoredRule {
                security_group_rule_id: Some("sgr-1".into()),
                ip_protocol: "tcp".into(),
                cidr_ipv4: Some("10.0.0.0/8".into()),
                ..StoredRule::default()
            };
            let intent = Intent {
                id: format!("op-{:08}", self.count),
                fence: 0,
                scope: format!("scope {account}/r"),
                caller: "local::anyone".into(),
                key: None,
                fingerprint: "f".into(),
                method: "portcullis.v1.SecurityGroupService/RevokeEgress".into(),
                account: account.into(),
                region: "r".into(),
                group: format!("{account}/{}", self.count),
                request: serde_json::Value::Null,
                plan: Plan::Revoke {
                    group: StoredGroup { group_id: "sg-1".into(), ..StoredGroup::default() },
                    is_egress: true,
                    rules: vec![rule],
                    unmatched: Vec::new(),
                    unmatched_ids: Vec::new(),
                    removes_last_egress_rule: false,
                    rest: String::new(),
                },
                change_reason: None,
                trace_id: None,
                hold: Duration::ZERO,
                conclusion: None,
            };
            let written = self.books.ledger.intend(&intent).await.unwrap();
            assert!(matches!(written, Intended::Written(_)));
        }
        // The holds are over.
        tokio::time::advance(Duration::from_millis(1)).await;
    }

    async fn settled(&self, account: &str) -> usize {
        let filter = Filter {
            account: Some(account.into()),
            states: vec![State::Succeeded],
            limit: 100_000,
            ..Filter::default()
        };
        self.books.ledger.list(&filter).await.unwrap().len()
    }

    /// The background goes on for so long. Whether the ledger was said to be there.
    async fn goes_on_for(&self, time: Duration) -> bool {
        let (tell, told) = watch::channel(false);
        let background = run(self.operations.clone(), self.books.clone(), tell);
        assert!(timeout(time, background).await.is_err());
        *told.borrow()
    }

    fn metric(&self, name: &str) -> String {
        let text = self.metrics.text().unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_hangs_keeps_nobody_else_waiting() {
    let mut world = World::new(Duration::ZERO);
    world.begin("old", 1).await;
    let old = world.books.ledger.list(&Filter { limit: 1, ..Filter::default() }).await.unwrap();
    world.books.ledger.advance(&old[0].id, 1, &Move::to(State::Refused)).await.unwrap();
    tokio::time::advance(Duration::from_secs(91 * 86_400)).await;
    world.begin("answers", 20).await;
    world.begin("hangs", 300).await;
    let is_up = world.goes_on_for(Duration::from_secs(1)).await;
    assert!(is_up, "the ledger is there, whatever EC2 does");
    assert_eq!(world.settled("answers").await, 20);
    assert_eq!(world.ec2.most("hangs"), OF_TARGET);
    let all = world.books.ledger.list(&Filter { limit: 1000, ..Filter::default() }).await.unwrap();
    assert_eq!(all.len(), 320, "what is old is forgotten meanwhile");
    assert_eq!(world.metric("portcullis_operations_unsettled{state=\"IN_PROGRESS\"}"), "320");
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_hands_and_no_more() {
    let mut world = World::new(Duration::ZERO);
    for n in 0..20 {
        world.begin(&format!("hangs-{n}"), 20).await;
    }
    world.goes_on_for(Duration::from_secs(29)).await;
    assert_eq!(world.ec2.most(ALL), AT_ONCE);
    // And each of them is free again: nobody hangs for ever.
    world.begin("answers", 1).await;
    world.goes_on_for(BOUND * 8).await;
    assert_eq!(world.settled("answers").await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_behind_many_that_hang_is_found() {
    let mut world = World::new(Duration::ZERO);
    world.begin("answers", 3).await;
    world.begin("hangs", PAGES * PAGE + PAGE).await;
    world.goes_on_for(EVERY / 2).await;
    assert_eq!(world.settled("answers").await, 0);
    world.goes_on_for(EVERY * 3 / 2).await;
    assert_eq!(world.settled("answers").await, 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_one_hand_is_not_taken_by_another() {
    let mut world = World::new(Duration::ZERO);
    world.begin("hangs", 3).await;
    let mut hands = Hands::new(&world.operations, &world.books);
    for _ in 0..3 {
        hands.look().await.unwrap();
        let ids: Vec<&str> = hands.busy.iter().map(|hand| hand.id.as_str()).collect();
        assert_eq!(ids, ["op-00000003", "op-00000002", "op-00000001"]);
        assert!(hands.waiting.is_empty());
    }
    drop(hands);
    // One round is over when all of it is.
    round(&world.operations, &world.books).await.unwrap();
    assert_eq!(world.ec2.most("hangs"), 3);
}

#[tokio::test(start_paused = true)]
async fn all_are_counted_and_the_oldest_is_the_oldest() {
    let mut world = World::new(Duration::ZERO);
    world.begin("hangs", 1).await;
    tokio::time::advance(Duration::from_secs(1000)).await;
    world.begin("hangs", 2500).await;
    count(&world.operations, world.books.ledger.as_ref()).await.unwrap();
    assert_eq!(world.metric("portcullis_operations_unsettled{state=\"IN_PROGRESS\"}"), "2501");
    assert_eq!(world.metric("portcullis_operations_oldest_unsettled_seconds"), "1000.002");
    // What waits for a person is counted, but is not what is to be settled.
    for state in [State::InDoubt, State::Unresolved] {
        let step = Move::to(state);
        world.books.ledger.advance("op-00000001", 1, &step).await.unwrap();
    }
    count(&world.operations, world.books.ledger.as_ref()).await.unwrap();
    assert_eq!(world.metric("portcullis_operations_unsettled{state=\"UNRESOLVED\"}"), "1");
    assert_eq!(world.metric("portcullis_operations_oldest_unsettled_seconds"), "0.001");
}

#[tokio::test(start_paused = true)]
async fn holds_end_by_the_ledgers_time() {
    let mut world = World::new(Duration::from_secs(3600));
    world.begin("answers", 1).await;
    world.goes_on_for(Duration::from_secs(1)).await;
    assert_eq!(world.settled("answers").await, 1, "this server's clock is an hour behind");
    assert_eq!(world.metric("portcullis_operations_oldest_unsettled_seconds"), "0.001");
}
