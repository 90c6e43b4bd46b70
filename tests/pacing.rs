//! EC2's budget shared out under a paused clock: use cases on a sandbox that throttles as EC2 does. `--nocapture`
//! prints the figures of docs/performance.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    access::{Access, Mode, Policies},
    backend::{
        Backend, BackendError, CallContext, CreateGroup, DescribeGroups, DescribeRules, Selection,
        paced::Paced, sandbox::Sandbox,
    },
    clock::SystemClock,
    error::{Error, Reason},
    ledger::{Intent, Plan, Terms, memory::Memory},
    operations::{
        Call, CallMeta, Command, Create, Journal, OnUnknown, Operations, Outcome, Progress, Revoke,
        Timing,
    },
    pacing::Action,
    principal::{Peer, Principal},
    random::SeededRandom,
    rule::{Direction, GroupId, GroupRef, IpPermission, RuleId, Target, expand},
};
use tokio::{task::JoinSet, time::Instant};
use tower::ServiceExt;

#[path = "pacing/shared.rs"]
mod shared;

/// A group of the sample, in a default VPC: an unknown permission is no error there, and changes nothing.
const GROUP: &str = "sg-000000000000000d1";

/// So many calls at once, and each that is refused comes back so soon.
const FLOOD: (usize, Duration) = (100, Duration::from_secs(1));

#[derive(Clone)]
struct World {
    sandbox: Arc<Sandbox>,
    backend: Arc<dyn Backend>,
    operations: Operations,
    calls: Arc<AtomicUsize>,
}

fn sandbox() -> Arc<Sandbox> {
    let random = Arc::new(SeededRandom::new(1));
    let (sandbox, _) = Sandbox::open(None, None, Arc::new(SystemClock), random).unwrap();
    sandbox.throttle();
    Arc::new(sandbox)
}

fn world(sandbox: Arc<Sandbox>, backend: Arc<dyn Backend>, access: Access) -> World {
    let access = Arc::new(access);
    let operations = Operations::new(backend.clone(), access, Arc::new(SystemClock));
    World { sandbox, backend, operations, calls: Arc::default() }
}

fn paced(percent: u32) -> World {
    paced_for(percent, Access::allow_all())
}

fn paced_for(percent: u32, access: Access) -> World {
    let sandbox = sandbox();
    let backend = Arc::new(Paced::new(sandbox.clone(), percent));
    world(sandbox, backend, access)
}

fn policies(text: &str, mode: Mode) -> Access {
    let policies = Policies::parse(&[("test.cedar".to_owned(), text.to_owned())]);
    Access::with(policies.unwrap_or_else(|faults| panic!("{faults:?}")), mode)
}

/// Everybody may do everything, and this one goes first.
const FIRST: &str = r#"
permit (principal, action in [Action::"access", Action::"read", Action::"mutate"], resource);
permit (principal == Principal::"local::on-call", action == Action::"UseIncidentLane", resource);
"#;

fn group() -> GroupRef {
    GroupRef::Id(GroupId::parse(GROUP).unwrap())
}

fn revoke() -> Command {
    let permission = IpPermission {
        ip_protocol: Some("tcp".to_owned()),
        from_port: Some(8443),
        to_port: Some(8443),
        ip_ranges: vec![portcullis::rule::permission::Range {
            cidr: Some("192.0.2.0/24".to_owned()),
            description: None,
        }],
        ..IpPermission::default()
    };
    Command::Revoke(Revoke {
        group: group(),
        direction: Direction::Egress,
        selection: Selection::Specs(expand("", &[permission]).unwrap()),
        dry_run: false,
        on_unknown: OnUnknown::AsEc2,
        verify: false,
    })
}

impl World {
    async fn call_as(
        &self,
        caller: &str,
        deadline: Duration,
        command: Command,
    ) -> Result<Outcome, Error> {
        let progress = Arc::new(Progress::default());
        let answer = self.call_with(caller, deadline, command, &progress).await;
        // What had to wait for its turn in vain was not sent.
        let busy = |error: &Error| error.reason == Reason::Ec2BudgetExhausted;
        assert!(!answer.as_ref().is_err_and(busy) || progress.sent_operation().is_none());
        answer
    }

    /// A record of its own for each call: turns of groups are another matter.
    fn journal(&self) -> Arc<Journal> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(SystemClock);
        let ledger = Arc::new(Memory::new(Terms::default(), clock));
        let draft = Intent {
            id: format!("op-{number}"),
            fence: 0,
            scope: String::new(),
            caller: String::new(),
            key: None,
            fingerprint: String::new(),
            method: String::new(),
            account: String::new(),
            region: String::new(),
            group: String::new(),
            request: serde_json::Value::Null,
            plan: Plan::none(),
            change_reason: None,
            trace_id: None,
            hold: Duration::ZERO,
            conclusion: None,
        };
        Arc::new(Journal::new(ledger, draft, Timing::default(), false, None))
    }

    async fn call_with(
        &self,
        caller: &str,
        deadline: Duration,
        command: Command,
        progress: &Arc<Progress>,
    ) -> Result<Outcome, Error> {
        let principal = Principal { subject: caller.to_owned(), ..Principal::local() };
        let meta = CallMeta {
            request_id: "r-1".into(),
            deadline: Instant::now() + deadline,
            account: None,
            region: None,
            operation_id: "op-1".into(),
            principal: Arc::new(principal),
            by_record: false,
            peer: Peer::default(),
            method: "",
            key: None,
            change_reason: None,
            trace_id: None,
            journal: Some(self.journal()),
            progress: progress.clone(),
        };
        self.operations.clone().oneshot(Call { meta, command }).await
    }

    /// Keeps so many calls of a caller under way until `until`; counts those that are served by then.
    fn keep_busy(
        &self,
        tasks: &mut JoinSet<()>,
        caller: &str,
        (calls, patience): (usize, Duration),
        until: Instant,
    ) -> Arc<AtomicUsize> {
        let served = Arc::new(AtomicUsize::new(0));
        for _ in 0..calls {
            let (world, caller, served) = (self.clone(), caller.to_owned(), served.clone());
            tasks.spawn(async move {
                while Instant::now() < until {
                    match world.call_as(&caller, Duration::from_secs(30), revoke()).await {
                        Ok(_) if Instant::now() <= until => {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(error.reason, Reason::Ec2BudgetExhausted, "{error:?}");
                            // The flood does not heed RetryInfo.
                            let wait = error.retry_after.unwrap().min(patience);
                            tokio::time::sleep_until(Instant::now() + wait).await;
                        }
                    }
                }
            });
        }
        served
    }

    fn target(&self) -> Target {
        self.backend.resolve(None, None).unwrap()
    }
}

fn within(seconds: u64) -> CallContext {
    CallContext::new(Instant::now() + Duration::from_secs(seconds), "op-1")
}

#[tokio::test(start_paused = true)]
async fn nine_callers_keep_their_share_beside_one_that_floods() {
    let world = paced(80);
    let until = Instant::now() + Duration::from_secs(200);
    let mut tasks = JoinSet::new();
    let flood = world.keep_busy(&mut tasks, "flood", FLOOD, until);
    let others: Vec<_> = (0..9)
        .map(|n| world.keep_busy(&mut tasks, &format!("caller {n}"), (2, Duration::MAX), until))
        .collect();
    while tasks.join_next().await.transpose().unwrap().is_some() {}
    let others: Vec<usize> = others.iter().map(|served| served.load(Ordering::Relaxed)).collect();
    let flood = flood.load(Ordering::Relaxed);
    let total = flood + others.iter().sum::<usize>();
    println!("in 200 s, of {total} calls: the flood {flood}, the nine {others:?}");
    // 40 at once, which are whoever's who comes first, and 4 a second, of which a tenth is each one's.
    assert!(others.iter().all(|served| (76..=84).contains(served)), "{others:?}");
    assert!((798..=841).contains(&total), "{total}");
    assert_eq!(world.sandbox.throttled(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_makes_ec2_throttle_nothing_and_the_budget_is_used() {
    for (percent, budget) in [(80, 40 + 4 * 300), (100, 50 + 5 * 300)] {
        let world = paced(percent);
        let seconds = 300;
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut tasks = JoinSet::new();
        let served: Vec<_> = (0..20)
            .map(|n| {
                world.keep_busy(&mut tasks, &format!("caller {n}"), (10, Duration::MAX), until)
            })
            .collect();
        while tasks.join_next().await.transpose().unwrap().is_some() {}
        let served: usize = served.iter().map(|served| served.load(Ordering::Relaxed)).sum();
        let throttled = world.sandbox.throttled();
        println!(
            "{percent} %: {served} of a budget of {budget} in {seconds} s ({:.1} %), {throttled} throttled",
            100.0 * served as f64 / f64::from(budget)
        );
        assert_eq!(throttled, 0);
        let budget = usize::try_from(budget).unwrap();
        assert!(served * 100 >= budget * 95 && served <= budget, "{served} of {budget}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_pacing_the_same_flood_is_throttled() {
    let sandbox = sandbox();
    let world = world(sandbox.clone(), sandbox, Access::allow_all());
    let mut refused = 0;
    for _ in 0..60 {
        let answer = world.call_as("flood", Duration::from_secs(30), revoke()).await;
        refused +=
            usize::from(answer.is_err_and(|error| error.reason == Reason::Ec2RequestLimitExceeded));
    }
    assert_eq!((refused, world.sandbox.throttled()), (10, 10));
    // The buckets fill again, and are full after a reset.
    tokio::time::advance(Duration::from_millis(200)).await;
    world.call_as("flood", Duration::from_secs(30), revoke()).await.unwrap();
    world.call_as("flood", Duration::from_secs(30), revoke()).await.unwrap_err();
    world.sandbox.reset();
    world.call_as("flood", Duration::from_secs(30), revoke()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_sent_in_time_is_refused_at_once_and_reads_nothing() {
    let world = paced(80);
    for _ in 0..40 {
        world.call_as("a", Duration::from_secs(30), revoke()).await.unwrap();
    }
    let before = Instant::now();
    let refused = world.call_as("a", Duration::from_millis(300), revoke()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.reason, Reason::Ec2BudgetExhausted);
    assert_eq!(error.retry_after, Some(Duration::from_millis(250)));
    assert_eq!(Instant::now(), before);
    // Then, and not before: the time is exact.
    tokio::time::advance(Duration::from_millis(249)).await;
    world.call_as("a", Duration::from_millis(100), revoke()).await.unwrap_err();
    tokio::time::advance(Duration::from_millis(1)).await;
    let before = Instant::now();
    world.call_as("a", Duration::from_millis(100), revoke()).await.unwrap();
    assert_eq!(Instant::now(), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sent_gives_its_slot_back() {
    let world = paced(80);
    // Nothing matches, so that nothing is sent.
    let unknown = Selection::Ids(vec![RuleId::new("sgr-0000000000000ffff")]);
    for _ in 0..70 {
        let command = Command::Revoke(Revoke {
            group: group(),
            direction: Direction::Egress,
            selection: unknown.clone(),
            dry_run: false,
            on_unknown: OnUnknown::Fail,
            verify: false,
        });
        let error = world.call_as("a", Duration::from_secs(30), command).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidSecurityGroupRuleIdNotFound);
    }
    let before = Instant::now();
    for _ in 0..40 {
        world.call_as("a", Duration::from_secs(30), revoke()).await.unwrap();
    }
    // The reads had to wait, the changes did not.
    let reads_only = Instant::now() - before;
    assert!(reads_only < Duration::from_secs(6), "{reads_only:?}");
}

/// A dry run, and what a revoke sends once more, hold no slot: they take one on their way.
#[tokio::test(start_paused = true)]
async fn what_holds_no_slot_is_paced_too() {
    let world = paced(80);
    let dry_run = || {
        let Command::Revoke(request) = revoke() else { unreachable!() };
        Command::Revoke(Revoke { dry_run: true, ..request })
    };
    for _ in 0..40 {
        world.call_as("a", Duration::from_secs(30), dry_run()).await.unwrap();
    }
    let late = world.call_as("a", Duration::from_millis(600), dry_run()).await;
    assert_eq!(late.unwrap_err().reason, Reason::Ec2BudgetExhausted);
    let before = Instant::now();
    world.call_as("a", Duration::from_secs(30), dry_run()).await.unwrap();
    assert_eq!(before.elapsed().as_millis().div_ceil(10), 25);
}

#[tokio::test(start_paused = true)]
async fn incident_response_passes_the_flood() {
    let short = Duration::from_secs(2);
    // Policy says who it is; policies that only report say so, too, and refuse nobody.
    for (access, first) in [
        (policies(FIRST, Mode::Enforce), true),
        (
            policies(
                &FIRST.replace("permit (principal, ", "forbid (principal, "),
                Mode::ReportOnly,
            ),
            true,
        ),
        (policies(&FIRST.replace("on-call", "somebody"), Mode::Enforce), false),
        (policies(&FIRST.replace("on-call", "somebody"), Mode::ReportOnly), false),
        (
            policies(
                &format!(
                    "{FIRST}forbid (principal, action == Action::\"UseIncidentLane\", resource);"
                ),
                Mode::Enforce,
            ),
            false,
        ),
        (Access::allow_all(), false),
    ] {
        let said = format!("{access:?}");
        let world = paced_for(80, access);
        let until = Instant::now() + Duration::from_secs(30);
        let mut tasks = JoinSet::new();
        // Each has its turn, so that one more caller would wait for all of theirs.
        for n in 0..50 {
            world.keep_busy(&mut tasks, &format!("caller {n}"), (2, Duration::MAX), until);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        let before = Instant::now();
        let answer = world.call_as("on-call", short, revoke()).await;
        let waited = before.elapsed();
        if first {
            answer.unwrap();
            println!("incident response waited {waited:?} in the flood");
            assert!(waited <= Duration::from_millis(500), "{waited:?}");
        } else {
            assert_eq!(answer.unwrap_err().reason, Reason::Ec2BudgetExhausted, "{said}");
        }
        let flooded = world.call_as("caller 1", short, revoke()).await;
        assert_eq!(flooded.unwrap_err().reason, Reason::Ec2BudgetExhausted);
        tasks.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn reads_of_incident_response_pass_a_flood_of_reads() {
    let world = paced_for(80, policies(FIRST, Mode::Enforce));
    let mut tasks = JoinSet::new();
    let list = || Command::DescribeGroups(DescribeGroups::default());
    for n in 0..300 {
        let world = world.clone();
        tasks.spawn(async move {
            loop {
                let answer = world.call_as(&n.to_string(), Duration::from_secs(30), list()).await;
                if answer.is_err() {
                    tokio::time::sleep_until(Instant::now() + Duration::from_secs(1)).await;
                }
            }
        });
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let before = Instant::now();
    world.call_as("on-call", Duration::from_secs(2), list()).await.unwrap();
    assert!(before.elapsed() <= Duration::from_millis(500), "{:?}", before.elapsed());
    let other = world.call_as("another", Duration::from_secs(2), list()).await;
    assert_eq!(other.unwrap_err().reason, Reason::Ec2BudgetExhausted);
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_early_waits_for_no_slot() {
    let create = || {
        Command::Create(Create(CreateGroup {
            name: "fresh".to_owned(),
            description: "for a test".to_owned(),
            vpc_id: None,
            tags: Vec::new(),
            dry_run: false,
        }))
    };
    for (text, commands) in [
        (r#"permit (principal == Principal::"local::a", action, resource);"#, [revoke(), create()]),
        (
            r#"permit (principal, action == Action::"access", resource);
               permit (principal == Principal::"local::a", action, resource);"#,
            [create(), create()],
        ),
    ] {
        let world = paced_for(80, policies(text, Mode::Enforce));
        for command in commands {
            let action = match command {
                Command::Create(_) => Action::CreateGroup,
                _ => Action::RevokeEgress,
            };
            let target = world.target();
            let mut held = Vec::new();
            for _ in 0..40 {
                let call = within(30);
                world.backend.reserve(&call, &target, action).unwrap().await.unwrap();
                held.push(call);
            }
            // No slot is left, and none comes in time.
            let before = Instant::now();
            let short = Duration::from_millis(600);
            let waited = world.call_as("a", short, command.clone()).await.unwrap_err();
            assert_eq!(waited.reason, Reason::Ec2BudgetExhausted);
            let denied = world.call_as("nobody", short, command).await.unwrap_err();
            assert_eq!(denied.reason, Reason::AccessDenied);
            assert_eq!(Instant::now(), before);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_we_read_for_changes_has_its_lane_beside_a_flood_of_reads() {
    let world = paced(80);
    let target = world.target();
    let mut tasks = JoinSet::new();
    // Each of so many callers: taking turns alone would be of no help.
    for n in 0..300 {
        let (backend, target) = (world.backend.clone(), target.clone());
        let caller = Principal { subject: n.to_string(), ..Principal::local() };
        let caller = Some(Arc::new(caller));
        tasks.spawn(async move {
            loop {
                let call = CallContext { caller: caller.clone(), ..within(30) };
                let request = DescribeRules::default();
                if backend.describe_rules(&call, &target, &request).await.is_err() {
                    tokio::time::sleep_until(Instant::now() + Duration::from_secs(1)).await;
                }
            }
        });
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let before = Instant::now();
    world.call_as("a", Duration::from_secs(2), revoke()).await.unwrap();
    assert!(before.elapsed() <= Duration::from_millis(250), "{:?}", before.elapsed());
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn it_slows_down_when_others_use_the_account_and_recovers() {
    let world = paced(80);
    let target = world.target();
    // Somebody else empties EC2's bucket and goes on taking 3 of the 5 a second.
    let (sandbox, other) = (world.sandbox.clone(), target.clone());
    let noise = tokio::spawn(async move {
        let Command::Revoke(request) = revoke() else { unreachable!() };
        let request = portcullis::backend::RevokeRules {
            group: request.group,
            direction: request.direction,
            selection: request.selection,
            dry_run: false,
        };
        let mut interval = tokio::time::interval(Duration::from_millis(333));
        loop {
            interval.tick().await;
            let _ = sandbox.revoke(&within(30), &other, &request).await;
        }
    });
    let mut outcomes = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(120) {
        let answer = world.call_as("a", Duration::from_secs(30), revoke()).await;
        outcomes.push((started.elapsed(), answer.map_err(|error| error.reason)));
    }
    noise.abort();
    let throttled = |from, to| {
        let range = Duration::from_secs(from)..Duration::from_secs(to);
        let within = outcomes.iter().filter(|(at, _)| range.contains(at));
        let (all, refused): (Vec<_>, Vec<_>) = within.partition(|(_, answer)| answer.is_ok());
        (all.len(), refused.len())
    };
    let (served, refused) = throttled(30, 120);
    println!("beside another user: {served} served, {refused} throttled in 90 s");
    assert!(
        outcomes
            .iter()
            .all(|(_, answer)| { matches!(answer, Ok(_) | Err(Reason::Ec2RequestLimitExceeded)) })
    );
    // 2 a second are left; looking for more costs some.
    assert!((90..=230).contains(&served) && refused * 5 < served, "{served} {refused}");
    // Alone again: back at 4 a second.
    tokio::time::advance(Duration::from_secs(60)).await;
    for _ in 0..40 {
        world.call_as("a", Duration::from_secs(30), revoke()).await.unwrap();
    }
    let before = Instant::now();
    for _ in 0..40 {
        world.call_as("a", Duration::from_secs(30), revoke()).await.unwrap();
    }
    assert_eq!(before.elapsed().as_millis().div_ceil(100), 100);
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_leaves_the_line() {
    let world = paced(80);
    let target = world.target();
    let request = DescribeGroups::default();
    // Unfiltered: 40 at once, 8 a second.
    for _ in 0..40 {
        world.backend.describe_groups(&within(30), &target, &request).await.unwrap();
    }
    for _ in 0..50 {
        let call = within(30);
        let waiting = world.backend.describe_groups(&call, &target, &request);
        let given_up = tokio::time::timeout(Duration::from_millis(1), waiting).await;
        assert!(given_up.is_err());
    }
    // 50 ms have passed: the next slot is as near as if nobody had asked, also for a call that has little time.
    let before = Instant::now();
    world.backend.describe_groups(&within(2), &target, &request).await.unwrap();
    assert_eq!(before.elapsed().as_millis().div_ceil(5), 15);
}

#[tokio::test(start_paused = true)]
async fn the_backend_below_still_decides_about_time() {
    let world = paced(80);
    let request = DescribeGroups::default();
    let late = CallContext::new(Instant::now(), "op-1");
    let answer = world.backend.describe_groups(&late, &world.target(), &request).await;
    assert!(matches!(answer, Err(BackendError::DeadlineTooNear)), "{answer:?}");
}
