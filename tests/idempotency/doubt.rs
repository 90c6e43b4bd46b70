//! Lost answers, crashes and a ledger that fails: settled by reading back, and nothing is done twice.

use std::sync::{Arc, atomic::Ordering};

use portcullis::{
    access::Access,
    api::proto::{
        sandbox::v1::{Fault, FaultKind},
        v1::{self, WarningKind},
    },
    ledger::SettledBy,
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    support::{self, *},
    world::*,
};

/// UNAVAILABLE, OUTCOME_UNKNOWN, with the operation and when to come again.
pub fn assert_in_doubt<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.unwrap_err();
    let details = support::details(&status);
    let info = details.error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "OUTCOME_UNKNOWN"));
    assert!(details.retry_info().is_some(), "{status:?}");
    info.metadata["operation_id"].clone()
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_reading_back() {
    let mut world = quick().await;
    for group in [DEFAULT_VPC_GROUP, NONDEFAULT_VPC_GROUP] {
        world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
        let id = assert_in_doubt(world.revoke(group, https(group)).await);
        let before = world.server.effects().await;
        let answer = world.revoke(group, https(group)).await.unwrap();
        assert!(is_replayed(answer.metadata()));
        let answer = answer.into_inner();
        assert_eq!(answer.operation_id, id);
        assert_eq!(answer.revoked_security_group_rules.len(), 1);
        assert_eq!(answer.revoked_security_group_rules[0].cidr_ipv4(), "10.0.0.0/8");
        assert_eq!(answer.warnings[0].kind(), WarningKind::SettledByReadBack);
        // The rest is what the lost answer had.
        let other = quick().await;
        let whole = other.revoke(group, https(group)).await.unwrap().into_inner();
        assert!(!whole.warnings.is_empty());
        assert_eq!(answer.warnings[1..], whole.warnings);
        assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
        assert_eq!(world.server.effects().await, before, "{group}");
        // And that is the answer from now on.
        let again = world.revoke(group, https(group)).await.unwrap().into_inner();
        assert_eq!(again, answer);
    }
}

#[tokio::test]
async fn a_request_that_had_no_effect_is_sent_again_by_a_live_call_by_rule_ids() {
    let mut world = undisturbed(Arc::new(Access::allow_all())).await;
    world.server.fault(FaultKind::ServerError, REVOKE).await;
    assert_in_doubt(world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await);
    let id = world.server.rule_id(NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    assert_eq!(world.server.effects().await, 0);
    let answer = world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await.unwrap().into_inner();
    assert_eq!(answer.revoked_security_group_rules[0].security_group_rule_id(), id);
    assert_eq!(world.server.effects().await, 1);
    let record = world.records().await.pop().unwrap();
    assert_eq!((record.attempts, record.state.as_str()), (2, "SUCCEEDED"));
    assert!(record.notes.iter().any(|note| note.contains("by rule ids")), "{:?}", record.notes);
}

#[tokio::test]
async fn a_rule_that_others_added_since_is_never_touched() {
    let mut world = quick().await;
    world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
    assert_in_doubt(world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await);
    // The same properties under another id. The sandbox's EC2 door and other tools add such rules.
    world.add_outside(NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    let answer = world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await.unwrap().into_inner();
    assert_eq!(answer.warnings[0].kind(), WarningKind::SettledByReadBack);
    let rules = world.server.egress(NONDEFAULT_VPC_GROUP).await;
    let back = rules
        .iter()
        .any(|rule| rule.from_port == Some(443) && rule.cidr_ipv4.as_deref() == Some("10.0.0.0/8"));
    assert!(back, "what somebody added was removed");
}

#[tokio::test]
async fn a_rule_that_others_modified_since_goes_only_if_it_was_named_by_its_id() {
    let mut world = undisturbed(Arc::new(Access::allow_all())).await;
    let id = world.server.rule_id(NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    for (named_by_id, mode) in [
        (false, v1::OnUnknown::Unspecified),
        (false, v1::OnUnknown::Fail),
        (true, v1::OnUnknown::Unspecified),
    ] {
        world.set_outside(&id, NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
        let mut request = https(NONDEFAULT_VPC_GROUP);
        request.on_unknown = mode.into();
        if named_by_id {
            request.ip_permissions.clear();
            request.security_group_rule_ids = vec![id.clone()];
        }
        let key = format!("{named_by_id}-{}", mode.as_str_name());
        world.server.fault(FaultKind::ServerError, REVOKE).await;
        assert_in_doubt(world.revoke(&key, request.clone()).await);
        // As ModifySecurityGroupRules does.
        world.set_outside(&id, NONDEFAULT_VPC_GROUP, 8443, "192.0.2.0/24").await;
        let answer = world.revoke(&key, request).await;
        let rules = world.server.egress(NONDEFAULT_VPC_GROUP).await;
        let there = rules.iter().any(|rule| rule.security_group_rule_id() == id);
        assert_eq!(there, !named_by_id, "{key}");
        match answer {
            Ok(answer) => {
                let removed = &answer.into_inner().revoked_security_group_rules;
                assert!(named_by_id && removed[0].cidr_ipv4() == "192.0.2.0/24", "{removed:?}");
            }
            Err(status) => {
                let details = support::details(&status);
                let reason = &details.error_info().unwrap().reason;
                assert_eq!((named_by_id, reason.as_str()), (false, "INVALID_PERMISSION_NOT_FOUND"));
            }
        }
    }
}

#[tokio::test]
async fn what_is_left_of_a_change_does_not_go_once_it_was_modified() {
    let mut world = undisturbed(Arc::new(Access::allow_all())).await;
    let id = world.server.rule_id(NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    let other = "sgr-0123456789abcdef0";
    world.set_outside(other, NONDEFAULT_VPC_GROUP, 444, "10.0.0.0/8").await;
    let both = vec![tcp(443, "10.0.0.0/8"), tcp(444, "10.0.0.0/8")];
    let request = by_permissions(NONDEFAULT_VPC_GROUP, both);
    world.server.fault(FaultKind::ServerError, REVOKE).await;
    assert_in_doubt(world.revoke("k", request.clone()).await);
    // Somebody took one away, and made another rule of the other.
    world.remove_outside(NONDEFAULT_VPC_GROUP, &id).await;
    world.set_outside(other, NONDEFAULT_VPC_GROUP, 8443, "192.0.2.0/24").await;
    let mut again = keyed("k", request);
    again.set_timeout(std::time::Duration::from_secs(2));
    world.server.groups.clone().revoke_egress(again).await.unwrap_err();
    let record = world.records().await.pop().unwrap();
    assert!(record.notes.iter().any(|note| note.contains("some are not")), "{:?}", record.notes);
    let rules = world.server.egress(NONDEFAULT_VPC_GROUP).await;
    assert!(rules.iter().any(|rule| rule.security_group_rule_id() == other), "{rules:?}");
}

#[tokio::test]
async fn another_change_of_the_group_waits_until_it_is_settled() {
    let mut world = slow().await;
    world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
    assert_in_doubt(world.revoke("k", https(DEFAULT_VPC_GROUP)).await);
    let mut other =
        keyed("other", by_permissions(DEFAULT_VPC_GROUP, vec![tcp_group(22, OTHER_GROUP)]));
    other.set_timeout(std::time::Duration::from_secs(5));
    let status = world.server.patient().revoke_egress(other).await.unwrap_err();
    let details = support::details(&status);
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(details.error_info().unwrap().reason, "GROUP_IN_DOUBT");
    assert!(details.retry_info().is_some());
    assert_eq!(world.server.effects().await, 1);
    // Another group has nothing to do with it.
    world.revoke("free", https(NONDEFAULT_VPC_GROUP)).await.unwrap();
}

#[tokio::test]
async fn another_change_of_the_group_settles_it_first_and_goes_on() {
    let mut world = quick().await;
    world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
    assert_in_doubt(world.revoke("k", https(DEFAULT_VPC_GROUP)).await);
    let other = by_permissions(DEFAULT_VPC_GROUP, vec![cidr("-1", None, None, "0.0.0.0/0")]);
    world.revoke("other", other).await.unwrap();
    assert_eq!(world.states().await, ["SUCCEEDED", "SUCCEEDED"]);
    assert_eq!(world.server.effects().await, 2);
}

#[tokio::test]
async fn in_the_background_it_is_settled_and_never_sent() {
    let mut world = quick().await;
    world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
    assert_in_doubt(world.revoke("a", https(DEFAULT_VPC_GROUP)).await);
    world.until("SUCCEEDED").await;
    world.server.fault(FaultKind::ServerError, REVOKE).await;
    assert_in_doubt(world.revoke("b", https(NONDEFAULT_VPC_GROUP)).await);
    let record = world.until("RELEASED").await;
    assert_eq!(record.settled_by, Some(SettledBy::ReadBack));
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn authorize_create_and_delete_are_settled_by_what_they_left() {
    let mut world = quick().await;
    for (kind, applied) in [(FaultKind::LoseAnswer, true), (FaultKind::ServerError, false)] {
        let effects = world.server.effects().await;
        world.server.fault(kind, AUTHORIZE).await;
        let port = if applied { 4001 } else { 4002 };
        let permission = described(tcp(port, "10.0.0.0/8"), "mine");
        let key = format!("authorize {kind:?}").replace(' ', "-");
        assert_in_doubt(world.authorize(&key, DEFAULT_VPC_GROUP, permission.clone()).await);
        let answer =
            world.authorize(&key, DEFAULT_VPC_GROUP, permission).await.unwrap().into_inner();
        assert_eq!(answer.security_group_rules.len(), 1);
        assert_eq!(answer.security_group_rules[0].from_port(), port);
        let warned = answer.warnings.iter().any(|w| w.kind() == WarningKind::SettledByReadBack);
        assert_eq!(warned, applied);
        assert_eq!(world.server.effects().await, effects + 1);

        world.server.fault(kind, CREATE).await;
        let create = v1::CreateSecurityGroupRequest {
            group_name: Some(format!("made-{port}")),
            description: Some("for a test".into()),
            vpc_id: Some(NONDEFAULT_VPC.into()),
            ..Default::default()
        };
        let key = format!("create-{port}");
        let mut groups = world.server.groups.clone();
        let id = assert_in_doubt(groups.create_security_group(keyed(&key, create.clone())).await);
        let created = groups.create_security_group(keyed(&key, create)).await.unwrap().into_inner();
        assert_eq!(created.operation_id, id);
        let warned = created.warnings.iter().any(|w| w.kind() == WarningKind::SettledByReadBack);
        assert_eq!(warned, applied);
        assert_eq!(world.server.effects().await, effects + 2);

        world.server.fault(kind, DELETE).await;
        let delete =
            v1::DeleteSecurityGroupRequest { group_id: created.group_id, ..Default::default() };
        let key = format!("delete-{port}");
        assert_in_doubt(groups.delete_security_group(keyed(&key, delete.clone())).await);
        let deleted = groups.delete_security_group(keyed(&key, delete)).await.unwrap().into_inner();
        assert_eq!(deleted.return_value, Some(true));
        let warned = deleted.warnings.iter().any(|w| w.kind() == WarningKind::SettledByReadBack);
        assert_eq!(warned, applied);
        assert_eq!(world.server.effects().await, effects + 3);
    }
}

#[tokio::test]
async fn without_a_ledger_nothing_is_changed_and_reads_go_on() {
    let mut world = quick().await;
    world.ledger.down.store(true, Ordering::SeqCst);
    let answer = world.revoke("k", https(DEFAULT_VPC_GROUP)).await;
    assert_eq!(refusal(answer), (Code::Unavailable, "LEDGER_UNAVAILABLE".into()));
    world.server.group(DEFAULT_VPC_GROUP).await;
    // Who watches is told, and told again when it is back.
    let mut health = HealthClient::new(world.server.channel.clone());
    let request = HealthCheckRequest { service: "mutations".into() };
    let mut watched = health.watch(request).await.unwrap().into_inner();
    while watched.message().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    let request = HealthCheckRequest { service: String::new() };
    let whole = health.check(request).await.unwrap().into_inner();
    assert_eq!(whole.status(), ServingStatus::Serving);
    world.ledger.down.store(false, Ordering::SeqCst);
    while watched.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    assert_eq!(world.server.effects().await, 0);
    world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn an_intent_that_was_not_acknowledged_is_never_sent() {
    let mut world = slow().await;
    world.ledger.lose_intents.store(1, Ordering::SeqCst);
    let answer = world.revoke("k", https(DEFAULT_VPC_GROUP)).await;
    assert_eq!(refusal(answer), (Code::Unavailable, "LEDGER_UNAVAILABLE".into()));
    assert_eq!(world.server.effects().await, 0);
    // It was written, and is given back by and by, although its hold is long.
    world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    assert_eq!(world.server.effects().await, 1);
    assert_eq!(world.states().await, ["SUCCEEDED"]);
}

#[tokio::test]
async fn a_change_that_was_made_is_answered_although_the_ledger_lags() {
    let mut world = slow().await;
    world.ledger.fail_moves.store(2, Ordering::SeqCst);
    let answer = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap().into_inner();
    assert!(answer.warnings.iter().any(|warning| warning.kind() == WarningKind::LedgerLags));
    world.until("SUCCEEDED").await;
    // The recorded answer is without that warning.
    let again = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap().into_inner();
    assert!(!again.warnings.iter().any(|warning| warning.kind() == WarningKind::LedgerLags));
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn a_drain_waits_for_what_the_ledger_lags() {
    let mut world = slow().await;
    world.ledger.fail_moves.store(2, Ordering::SeqCst);
    let answer = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap().into_inner();
    assert!(answer.warnings.iter().any(|warning| warning.kind() == WarningKind::LedgerLags));
    let drained = world.server.stop().await.unwrap();
    assert_eq!((drained.complete, world.states().await), (true, vec!["SUCCEEDED"]));
}

#[tokio::test]
async fn a_ledger_that_does_not_answer_takes_no_answer_away() {
    let mut world = slow().await;
    world.ledger.hang_moves.store(1, Ordering::SeqCst);
    let mut request = keyed("k", https(DEFAULT_VPC_GROUP));
    request.metadata_mut().insert("grpc-timeout", "3000m".parse().unwrap());
    let answer = world.server.patient().revoke_egress(request).await.unwrap().into_inner();
    assert!(answer.warnings.iter().any(|warning| warning.kind() == WarningKind::LedgerLags));
    let record = world.until("SUCCEEDED").await;
    assert_eq!(record.id, answer.operation_id);
    assert_eq!(world.server.effects().await, 1);
}

/// Reads lag for longer than the hold: twice they show the rule that has gone, and it seems that nothing was done.
#[tokio::test]
async fn an_effect_that_shows_after_it_was_given_up_is_still_the_operations_own() {
    for still_stale in [0, 1, 3] {
        let mut world = quick().await;
        let kind = FaultKind::StaleRead.into();
        world.server.inject(Fault { kind, count: 1000, ..Default::default() }).await;
        world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
        let id = assert_in_doubt(world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await);
        let record = world.until("RELEASED").await;
        assert_eq!(record.settled_by, Some(SettledBy::ReadBack));
        world.server.clear_faults().await;
        if still_stale > 0 {
            world.server.inject(Fault { kind, count: still_stale, ..Default::default() }).await;
        }
        let answer = world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await.unwrap().into_inner();
        assert_eq!(answer.warnings[0].kind(), WarningKind::SettledByReadBack);
        assert_eq!((answer.operation_id, answer.revoked_security_group_rules.len()), (id, 1));
        let record = world.records().await.pop().unwrap();
        assert_eq!((record.state.as_str(), record.attempts), ("SUCCEEDED", 2));
        assert_eq!(record.settled_by, Some(SettledBy::ReadBack));
        assert_eq!(world.server.effects().await, 1, "{still_stale}");
    }
}

#[tokio::test]
async fn a_holder_that_was_fenced_out_answers_what_the_record_says() {
    let mut world = quick().await;
    // EC2 takes longer than the hold; meanwhile the background looks, sees the rule there and waits, or gone.
    world.delay_a_revoke(1000).await;
    let answer = world.revoke("k", https(DEFAULT_VPC_GROUP)).await;
    let record = world.until("SUCCEEDED").await;
    assert_eq!(record.settled_by, Some(SettledBy::ReadBack));
    assert_eq!(world.server.effects().await, 1);
    match answer {
        Ok(answer) => assert_eq!(answer.into_inner().operation_id, record.id),
        Err(status) => assert_eq!(refusal::<()>(Err(status)).1, "OUTCOME_UNKNOWN"),
    }
}

#[tokio::test]
async fn what_was_sent_is_finished_and_recorded_after_the_deadline() {
    let mut world = slow().await;
    world.delay_a_revoke(600).await;
    let mut request = keyed("k", https(DEFAULT_VPC_GROUP));
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let status = world.server.patient().revoke_egress(request).await.unwrap_err();
    let id = support::details(&status).error_info().unwrap().metadata["operation_id"].clone();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let record = world.until("SUCCEEDED").await;
    assert_eq!(record.id, id);
    assert_eq!(record.settled_by, Some(SettledBy::Ec2Answer));
    let again = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    assert!(is_replayed(again.metadata()));
}

#[tokio::test]
async fn who_leaves_before_its_turn_is_never_sent() {
    let mut world = slow().await;
    world.delay_a_revoke(500).await;
    let mut groups = world.server.groups.clone();
    let first =
        tokio::spawn(
            async move { groups.revoke_egress(keyed("one", https(DEFAULT_VPC_GROUP))).await },
        );
    world.ledger_has_one().await;
    let rest = by_permissions(DEFAULT_VPC_GROUP, vec![cidr("-1", None, None, "0.0.0.0/0")]);
    let mut second = keyed("two", rest);
    second.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let late = world.server.patient().revoke_egress(second).await;
    assert_eq!(refusal(late), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
    first.await.unwrap().unwrap();
    assert_eq!(world.states().await, ["SUCCEEDED"]);
    assert_eq!(world.server.effects().await, 1);
}
