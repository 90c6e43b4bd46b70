//! Scripted faults, effects and counters.

use super::*;

const REVOKE: &str = "RevokeSecurityGroupEgress";
const FIRST: &str = "sgr-0000000000000a1e1";

fn script(kind: i32) -> Script {
    Script { kind, ..Script::default() }
}

async fn revoke_first(bench: &Bench) -> Result<Revoked, BackendError> {
    bench.revoke_egress(WEB, by_ids(&[FIRST])).await
}

#[tokio::test]
async fn refusing_faults_apply_nothing() {
    let bench = sample();
    let refused = |code: &str| Script { error_code: code.to_owned(), ..script(6) };
    for fault in [script(1), script(4), refused("Blocked")] {
        bench.sandbox.inject(fault).unwrap();
    }
    let throttled = refusal(revoke_first(&bench).await);
    assert_eq!(throttled.code, "RequestLimitExceeded");
    assert_eq!(throttled.message, "Request limit exceeded.");
    assert!(throttled.request_id.is_some());
    assert_eq!(code(revoke_first(&bench).await), "AuthFailure");
    assert_eq!(code(revoke_first(&bench).await), "Blocked");
    bench.sandbox.inject(refused("UnauthorizedOperation")).unwrap();
    let message = "You are not authorized to perform this operation.";
    assert_eq!(refusal(revoke_first(&bench).await).message, message);
    assert!(bench.sandbox.get_state(true).effects.is_empty());
    assert!(revoke_first(&bench).await.is_ok());
    let state = bench.sandbox.get_state(true);
    assert_eq!(state.calls.get(REVOKE), Some(&5));
    assert_eq!(state.effects.len(), 1);
}

#[tokio::test]
async fn nobody_knows_what_a_server_error_or_a_lost_answer_did() {
    let bench = sample();
    for fault in [script(2), script(5), script(2), script(5)] {
        bench.sandbox.inject(fault).unwrap();
    }
    let Err(BackendError::OutcomeUnknown(failure)) = revoke_first(&bench).await else { panic!() };
    assert_eq!(failure.code.as_deref(), Some("InternalError"));
    assert!(bench.sandbox.get_state(true).effects.is_empty());
    let Err(BackendError::OutcomeUnknown(failure)) = revoke_first(&bench).await else { panic!() };
    assert_eq!(failure.code, None);
    assert_eq!(bench.sandbox.get_state(true).effects.len(), 1);
    for _ in 0..2 {
        assert!(matches!(bench.image(WEB).await, Err(BackendError::Unavailable(_))));
    }
    assert_eq!(bench.image(WEB).await.unwrap().rules.len(), 11);
}

#[tokio::test]
async fn a_server_error_may_come_after_the_effect() {
    let bench = sample();
    let after = Script { after_effect: true, error_code: "Broken".to_owned(), ..script(2) };
    bench.sandbox.inject(Script { count: 3, ..after }).unwrap();
    let Err(BackendError::OutcomeUnknown(failure)) = revoke_first(&bench).await else { panic!() };
    assert_eq!(failure.code.as_deref(), Some("Broken"));
    let effects = bench.sandbox.get_state(true).effects;
    assert_eq!(effects.len(), 1);
    assert_eq!(failure.request_id.as_deref(), Some(effects[0].request_id.as_str()));
    // Whatever the call would have been told.
    assert!(matches!(revoke_first(&bench).await, Err(BackendError::OutcomeUnknown(_))));
    assert!(matches!(bench.image(WEB).await, Err(BackendError::Unavailable(_))));
    assert_eq!(code(revoke_first(&bench).await), "InvalidSecurityGroupRuleId.NotFound");
}

#[test]
fn faults_may_name_every_action() {
    let (sandbox, _) = open(None).unwrap();
    for action in [
        "DescribeVpcs",
        "DescribeTags",
        "DescribeManagedPrefixLists",
        "CreateVpc",
        "DeleteVpc",
        "CreateTags",
        "DeleteTags",
        "CreateManagedPrefixList",
        "ModifySecurityGroupRules",
        "UpdateSecurityGroupRuleDescriptionsEgress",
        "UpdateSecurityGroupRuleDescriptionsIngress",
    ] {
        sandbox.inject(Script { action: action.to_owned(), ..script(1) }).unwrap();
        let stale = Script { action: action.to_owned(), ..script(7) };
        assert_eq!(sandbox.inject(stale).is_ok(), action.starts_with("Describe"), "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_answer_is_applied_at_once_and_bounded_by_the_deadline() {
    let bench = sample();
    let delay = |seconds| Script { delay: Some(Ok(Duration::from_secs(seconds))), ..script(3) };
    bench.sandbox.inject(delay(10)).unwrap();
    let started = Instant::now();
    let revoking = revoke_first(&bench);
    tokio::pin!(revoking);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut revoking).await.is_err());
    assert_eq!(bench.sandbox.get_state(true).effects.len(), 1);
    revoking.await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(10));

    bench.sandbox.inject(delay(300)).unwrap();
    bench.sandbox.inject(delay(300)).unwrap();
    let started = Instant::now();
    let result = bench.revoke_egress(WEB, by_ids(&["sgr-0000000000000a1e2"])).await;
    assert!(matches!(result, Err(BackendError::OutcomeUnknown(_))));
    assert_eq!(started.elapsed(), Duration::from_secs(30));
    assert!(matches!(bench.image(WEB).await, Err(BackendError::Unavailable(_))));
    assert_eq!(bench.image(WEB).await.unwrap().rules.len(), 10);

    let late = CallContext::new(Instant::now(), "");
    let result = bench.sandbox.image(&late, &bench.target, &group(WEB)).await;
    assert!(matches!(result, Err(BackendError::DeadlineTooNear)));
}

#[tokio::test]
async fn r47_a_stale_read_shows_the_group_before_its_latest_change() {
    let bench = sample();
    revoke_first(&bench).await.unwrap();
    let stale = || Script { group_id: WEB.to_owned(), ..script(7) };
    bench.sandbox.inject(Script { count: 4, ..stale() }).unwrap();
    assert_eq!(bench.image(WEB).await.unwrap().rules.len(), 12);
    let by_id = DescribeGroups { group_ids: vec![GroupId::new(WEB)], ..DescribeGroups::default() };
    assert_eq!(bench.groups(by_id.clone()).await.unwrap().items[0].rules.len(), 12);
    // Writes and reads about other groups are not hit.
    bench.image(DB).await.unwrap();
    let filters = vec![Filter { name: "group-id".to_owned(), values: vec![WEB.to_owned()] }];
    let rules = DescribeRules { filters, ..DescribeRules::default() };
    assert_eq!(bench.rules(rules.clone()).await.unwrap().items.len(), 12);
    bench.image(WEB).await.unwrap();
    assert_eq!(bench.rules(rules).await.unwrap().items.len(), 11);

    // A rule that went is shown by its id, a new group is not, a deleted one is.
    bench.sandbox.inject(Script { count: 3, ..script(7) }).unwrap();
    let gone = DescribeRules { rule_ids: vec![RuleId::new(FIRST)], ..DescribeRules::default() };
    assert_eq!(bench.rules(gone).await.unwrap().items.len(), 1);
    let new = bench.create("new", None).await.unwrap().group_id.unwrap();
    assert_eq!(code(bench.image(&new).await), "InvalidGroup.NotFound");
    bench.delete(group(&new)).await.unwrap();
    assert_eq!(bench.image(&new).await.unwrap().rules.len(), 1);
    assert_eq!(code(bench.image(&new).await), "InvalidGroup.NotFound");
}

#[tokio::test]
async fn faults_are_limited_to_actions_and_groups_and_used_up_in_order() {
    let bench = sample();
    let of = |action: &str, group: &str| Script {
        action: action.to_owned(),
        group_id: group.to_owned(),
        count: 2,
        ..script(1)
    };
    bench.sandbox.inject(of(REVOKE, DB)).unwrap();
    bench.sandbox.inject(of("DescribeSecurityGroupRules", "")).unwrap();
    assert!(revoke_first(&bench).await.is_ok());
    assert_eq!(code(bench.image(WEB).await), "RequestLimitExceeded");
    assert_eq!(code(bench.image(WEB).await), "RequestLimitExceeded");
    assert!(bench.image(WEB).await.is_ok());
    assert_eq!(
        code(bench.revoke_egress(DB, by_ids(&["sgr-0000000000000a2e1"])).await),
        "RequestLimitExceeded"
    );
    assert_eq!(bench.sandbox.clear_faults(), 1);
    let calls = bench.sandbox.get_state(false).calls;
    assert_eq!(calls.get("DescribeSecurityGroups"), Some(&3));
    assert_eq!(calls.get("DescribeSecurityGroupRules"), Some(&3));
}

#[tokio::test]
async fn the_same_seed_draws_the_same_calls() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let bench = sample();
        bench.sandbox.inject(Script { percent: 30, seed, count: 1000, ..script(1) }).unwrap();
        let mut hits = Vec::new();
        for _ in 0..200 {
            hits.push(bench.image(WEB).await.is_err());
        }
        let count = hits.iter().filter(|hit| **hit).count();
        assert!((35..=85).contains(&count), "{count}");
        runs.push(hits);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[test]
fn bad_faults_are_refused_by_field() {
    let (sandbox, _) = open(None).unwrap();
    let bad = Script {
        kind: 1,
        action: "Revoke".to_owned(),
        group_id: "web".to_owned(),
        count: 1_000_001,
        delay: Some(Ok(Duration::from_secs(1))),
        error_code: "X".to_owned(),
        percent: 101,
        seed: 0,
        after_effect: true,
    };
    let fields = |script: Script| -> Vec<String> {
        sandbox.inject(script).unwrap_err().into_iter().map(|violation| violation.field).collect()
    };
    let all = ["action", "group_id", "count", "percent", "delay", "error_code", "after_effect"];
    assert_eq!(fields(bad), all.map(|field| format!("fault.{field}")));
    for (bad, field) in [
        (script(0), "fault.kind"),
        (script(8), "fault.kind"),
        (script(3), "fault.delay"),
        (Script { delay: Some(Err(())), ..script(3) }, "fault.delay"),
        (Script { delay: Some(Ok(Duration::from_secs(301))), ..script(3) }, "fault.delay"),
        (script(6), "fault.error_code"),
        (Script { error_code: "a b".to_owned(), ..script(6) }, "fault.error_code"),
        (Script { action: REVOKE.to_owned(), ..script(7) }, "fault.action"),
        (Script { after_effect: true, ..script(5) }, "fault.after_effect"),
    ] {
        assert_eq!(fields(bad), [field]);
    }
    for waiting in 1..=1000 {
        assert_eq!(sandbox.inject(script(1)).unwrap(), waiting);
    }
    assert_eq!(fields(script(1)), ["fault"]);
}

#[tokio::test]
async fn effects_tell_what_was_applied_by_which_call() {
    let bench = sample();
    let revoked = revoke_first(&bench).await.unwrap();
    bench.authorize_egress(WEB, &[perm("tcp", 1, 1, "10.0.0.0/8")]).await.unwrap();
    let state = bench.sandbox.get_state(true);
    let actions: Vec<(u32, &str, usize)> = state
        .effects
        .iter()
        .map(|effect| (effect.sequence, effect.action.as_str(), effect.security_group_rules.len()))
        .collect();
    assert_eq!(actions, [(1, REVOKE, 1), (2, "AuthorizeSecurityGroupEgress", 1)]);
    let first = &state.effects[0];
    assert_eq!((first.operation_id.as_str(), first.group_id.as_str()), ("op-1", WEB));
    assert_eq!(Some(&first.request_id), revoked.request_id.as_ref());
    assert_eq!(first.applied_at.as_ref().unwrap().seconds, 1_700_000_000);
    assert!(bench.sandbox.get_state(false).effects.is_empty());
}

#[tokio::test]
async fn reset_begins_a_new_incarnation() {
    let bench = sample();
    let (start, identity) = (bench.sandbox.get_state(true), bench.sandbox.identity());
    revoke_first(&bench).await.unwrap();
    bench.delete(group(CACHE)).await.unwrap_err();
    bench.create("new", None).await.unwrap();
    bench.sandbox.inject(script(1)).unwrap();
    let incarnation = bench.sandbox.reset();
    assert_eq!(bench.sandbox.identity(), format!("sandbox/{incarnation}"));
    assert_ne!(bench.sandbox.identity(), identity);
    let after = bench.sandbox.get_state(true);
    assert_eq!(
        (after.state, after.effects, after.calls),
        (start.state, start.effects, start.calls)
    );
    assert!(revoke_first(&bench).await.is_ok());
}
