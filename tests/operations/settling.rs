//! An operator's word, and the audit stream.

use portcullis::{
    api::proto::{
        sandbox::v1::{ClearFaultsRequest, Fault, FaultKind, InjectFaultRequest},
        v1::{
            self, ListOperationsRequest, OperationState, SettleAs, SettleOperationRequest,
            SettledBy, WarningKind, operation_service_client::OperationServiceClient,
        },
    },
    config::{Rate, RateLimits},
    ledger::State,
};
use std::time::Duration;
use tonic::{Code, Status};

use crate::{
    support::{self, *},
    world::*,
};

fn https(group: &str) -> v1::RevokeEgressRequest {
    by_permissions(group, vec![tcp(443, "10.0.0.0/8")])
}

async fn inject(world: &mut World, fault: Fault) {
    let request = world.signed("alice", InjectFaultRequest { fault: Some(fault) });
    world.server.sandbox.inject_fault(request).await.unwrap();
}

/// A revoke by alice under the key, of which nobody knows what became. Its id.
async fn in_doubt(world: &mut World, key: &str, group: &str, kind: FaultKind) -> String {
    let action = "RevokeSecurityGroupEgress".to_owned();
    inject(world, Fault { kind: kind.into(), action, ..Fault::default() }).await;
    let status = world.revoke("alice", key, https(group)).await.unwrap_err();
    let details = support::details(&status);
    assert_eq!(details.error_info().unwrap().reason, "OUTCOME_UNKNOWN", "{status:?}");
    details.error_info().unwrap().metadata["operation_id"].clone()
}

/// The same, given up by the settling.
async fn unresolved(world: &mut World, key: &str, group: &str, kind: FaultKind) -> String {
    use portcullis::ledger::{Filter, Ledger};
    let id = in_doubt(world, key, group, kind).await;
    let filter = Filter { id: Some(id.clone()), limit: 1, ..Filter::default() };
    let held = loop {
        let record = world.ledger.list(&filter).await.unwrap().remove(0);
        let taken = world.ledger.take_over(&id, record.fence, Duration::ZERO).await.unwrap();
        match taken {
            Some(held) => break held,
            // Its hold is a moment.
            None => tokio::task::yield_now().await,
        }
    };
    world.advance(&held, State::Unresolved).await;
    id
}

/// Settles as soon as nobody holds it.
async fn settle(world: &World, id: &str, to: SettleAs) -> v1::Operation {
    loop {
        match world.settle("operator", id, to).await {
            Ok(operation) => return operation,
            Err(status) => assert_eq!(reason(&status), "OPERATION_IN_PROGRESS", "{status:?}"),
        }
    }
}

/// Our role may not read any more.
fn unreadable() -> Fault {
    Fault {
        kind: FaultKind::Refuse.into(),
        action: "DescribeSecurityGroups".into(),
        error_code: "UnauthorizedOperation".into(),
        count: 1_000_000,
        ..Fault::default()
    }
}

fn reason(status: &Status) -> String {
    support::details(status).error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn an_operators_word_frees_the_group_and_is_the_answer() {
    let mut world = world().await;
    let id = in_doubt(&mut world, "k", DEFAULT_VPC_GROUP, FaultKind::LoseAnswer).await;
    inject(&mut world, unreadable()).await;
    let other = || by_permissions(DEFAULT_VPC_GROUP, vec![cidr("-1", None, None, "0.0.0.0/0")]);
    let mut request = world.signed("bob", other());
    request.set_timeout(Duration::from_secs(2));
    let blocked = world.server.patient().revoke_egress(request).await.unwrap_err();
    assert_eq!(reason(&blocked), "GROUP_IN_DOUBT");
    let settled = settle(&world, &id, SettleAs::Succeeded).await;
    assert_eq!(settled.state(), OperationState::Succeeded);
    assert_eq!(settled.settled_by(), SettledBy::Operator);
    let note = settled.notes.last().unwrap();
    assert!(
        note.contains("token::operator") && note.contains("CHG-9: seen in CloudTrail"),
        "{note}"
    );
    // The group is free: what fails now is another thing.
    let free = world.revoke("bob", "other", other()).await.unwrap_err();
    assert_eq!(reason(&free), "EC2_UNAUTHORIZED_OPERATION");
    let answer = world.revoke("alice", "k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    assert_eq!(answer.operation_id, id);
    assert_eq!(answer.revoked_security_group_rules[0].cidr_ipv4(), "10.0.0.0/8");
    assert_eq!(answer.warnings[0].kind(), WarningKind::SettledByOperator);
    let clear = world.signed("alice", ClearFaultsRequest {});
    world.server.sandbox.clear_faults(clear).await.unwrap();
    world.revoke("bob", "other", other()).await.unwrap();
    // Who retries the same settling is told the same, and nothing is written.
    assert_eq!(world.settle("operator", &id, SettleAs::Succeeded).await.unwrap(), settled);
    let status = world.settle("operator", &id, SettleAs::NotApplied).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::FailedPrecondition, "OPERATION_SETTLED".into())
    );
}

#[tokio::test]
async fn what_is_unresolved_runs_again_if_it_was_not_applied() {
    let mut world = world().await;
    let group = NONDEFAULT_VPC_GROUP;
    let id = unresolved(&mut world, "k", group, FaultKind::ServerError).await;
    let status = world.revoke("alice", "k", https(group)).await.unwrap_err();
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN");
    let listed = ListOperationsRequest {
        states: vec![OperationState::Unresolved.into()],
        ..Default::default()
    };
    assert_eq!(world.ids("reader", listed).await, [id.as_str()]);
    let settled = world.settle("operator", &id, SettleAs::NotApplied).await.unwrap();
    assert_eq!(settled.state(), OperationState::Released);
    assert_eq!(settled.outcome, None);
    let answer = world.revoke("alice", "k", https(group)).await.unwrap();
    assert_eq!(
        (answer.operation_id.as_str(), answer.revoked_security_group_rules.len()),
        (id.as_str(), 1)
    );
    assert_eq!(world.get("alice", &id).await.unwrap().attempts, 2);
}

#[tokio::test]
async fn an_answer_is_made_for_every_method() {
    let mut world = world().await;
    let group = NONDEFAULT_VPC_GROUP;
    let id = unresolved(&mut world, "k", group, FaultKind::LoseAnswer).await;
    let settled = world.settle("operator", &id, SettleAs::Succeeded).await.unwrap();
    assert_eq!(settled.outcome.unwrap().code, Some(0));
    let answer = world.revoke("alice", "k", https(group)).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
    // A record of a group that nobody can read.
    let gone = world.seed(Seed::new("op-1").is(State::Unresolved)).await;
    let settled = world.settle("operator", &gone.id, SettleAs::Succeeded).await.unwrap();
    assert_eq!(settled.state(), OperationState::Succeeded);
}

#[tokio::test]
async fn only_who_may_settles_and_who_may_not_see_finds_nothing() {
    let world = world().await;
    let id = world.seed(Seed::new("op-1").is(State::Unresolved)).await.id;
    let there = world.seed(Seed::new("op-2").at(THERE).is(State::Unresolved)).await.id;
    for (caller, id, expected) in [
        ("alice", &id, "ACCESS_DENIED"),
        ("reader", &id, "ACCESS_DENIED"),
        ("bob", &id, "OPERATION_NOT_FOUND"),
        ("alice", &there, "OPERATION_NOT_FOUND"),
        ("operator", &there, "OPERATION_NOT_FOUND"),
    ] {
        let status = world.settle(caller, id, SettleAs::NotApplied).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{caller} {id}");
    }
    let status = world.settle("operator", "op-none", SettleAs::NotApplied).await.unwrap_err();
    assert_eq!(reason(&status), "OPERATION_NOT_FOUND");
    assert_eq!(world.get("alice", &id).await.unwrap().state(), OperationState::Unresolved);
    // An operator need not see it otherwise.
    assert_eq!(reason(&world.get("operator", &id).await.unwrap_err()), "OPERATION_NOT_FOUND");
    world.settle("operator", &id, SettleAs::NotApplied).await.unwrap();
}

#[tokio::test]
async fn what_is_settled_or_held_is_not_an_operators() {
    let world = world().await;
    for (id, state) in
        [("op-1", State::Succeeded), ("op-2", State::Refused), ("op-3", State::Released)]
    {
        world.seed(Seed::new(id).is(state)).await;
        for to in [SettleAs::Succeeded, SettleAs::NotApplied] {
            let status = world.settle("operator", id, to).await.unwrap_err();
            assert_eq!(reason(&status), "OPERATION_SETTLED", "{state}");
        }
    }
    let held = Seed { hold: Duration::from_secs(600), ..Seed::new("op-4").is(State::InProgress) };
    world.seed(held).await;
    let status = world.settle("operator", "op-4", SettleAs::NotApplied).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "OPERATION_IN_PROGRESS".into()));
    let wait = support::details(&status).retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::from_secs(500), "{wait:?}");
    // Its holder died long ago.
    world.seed(Seed::new("op-5").is(State::InProgress)).await;
    let settled = world.settle("operator", "op-5", SettleAs::NotApplied).await.unwrap();
    assert_eq!(settled.state(), OperationState::Released);
}

#[tokio::test]
async fn a_word_says_what_and_why() {
    let world = world().await;
    world.seed(Seed::new("op-1").is(State::Unresolved)).await;
    let good = SettleOperationRequest {
        operation_id: "op-1".into(),
        r#as: SettleAs::NotApplied.into(),
        reason: "x".repeat(512),
    };
    let mut operations = OperationServiceClient::new(world.server.channel.clone());
    let none = SettleOperationRequest::default();
    for (request, fields) in [
        (none, vec!["operation_id", "as", "reason"]),
        (SettleOperationRequest { r#as: 3, ..good.clone() }, vec!["as"]),
        (SettleOperationRequest { reason: "  ".into(), ..good.clone() }, vec!["reason"]),
        (SettleOperationRequest { reason: "x".repeat(513), ..good.clone() }, vec!["reason"]),
        (SettleOperationRequest { reason: "a\nb".into(), ..good.clone() }, vec!["reason"]),
        (
            SettleOperationRequest { operation_id: "a b".into(), ..good.clone() },
            vec!["operation_id"],
        ),
    ] {
        let request = world.signed("operator", request);
        let status = operations.settle_operation(request).await.unwrap_err();
        let found: Vec<String> = violations(&status).into_iter().map(|(field, _)| field).collect();
        assert_eq!(found, fields);
    }
    operations.settle_operation(world.signed("operator", good)).await.unwrap();
}

#[tokio::test]
async fn the_audit_stream_has_each_outcome_and_each_refusal_once_and_no_credential() {
    let rate = Some(Rate { per_second: 1, burst: 5 });
    let limits = RateLimits { mutate: rate, ..RateLimits::default() };
    let world = start_ruled(POLICIES, limits).await;
    let mut groups = world.server.groups.clone();
    // Nobody, somebody's stale token, policy, validation.
    groups.revoke_egress(https(DEFAULT_VPC_GROUP)).await.unwrap_err();
    let mut wrong = tonic::Request::new(https(DEFAULT_VPC_GROUP));
    wrong.metadata_mut().insert("authorization", "Bearer pct_secret-of-somebody".parse().unwrap());
    groups.revoke_egress(wrong).await.unwrap_err();
    let elsewhere = v1::RevokeEgressRequest {
        target: Some(v1::Target { account_id: ACCOUNT.into(), region: "us-east-1".into() }),
        ..https("sg-1")
    };
    groups.revoke_egress(world.signed("bob", elsewhere)).await.unwrap_err();
    let id = world.seed(Seed::new("op-1").is(State::Unresolved)).await.id;
    world.settle("alice", &id, SettleAs::Succeeded).await.unwrap_err();
    // Reads are no attempts at a change.
    let read = v1::DescribeSecurityGroupsRequest::default();
    groups.describe_security_groups(read).await.unwrap_err();
    world.settle("operator", &id, SettleAs::NotApplied).await.unwrap();
    let revoked = world.revoke("alice", "k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    // A replay is no second outcome.
    world.revoke("alice", "k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    let over = loop {
        let unknown = by_permissions(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
        if let Err(status) = world.revoke("alice", "k", unknown).await {
            break reason(&status);
        }
    };
    assert_eq!(over, "RATE_LIMITED");
    let lines = world.log.audit();
    let said: Vec<(String, String)> = lines
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            match line["message"].as_str() {
                Some("refused") => (text("by"), text("principal")),
                _ => (format!("{} {}", text("operation"), text("state")), text("principal")),
            }
        })
        .collect();
    let expected = [
        ("authentication", ""),
        ("authentication", ""),
        ("validation", "token::bob"),
        ("policy", "token::alice"),
        ("op-1 RELEASED", "token::alice"),
        (&format!("{} SUCCEEDED", revoked.operation_id), "token::alice"),
        ("rate limit", "token::alice"),
    ];
    let expected: Vec<(String, String)> =
        expected.map(|(what, who)| (what.to_owned(), who.to_owned())).to_vec();
    assert_eq!(said, expected, "{lines:#?}");
    let outcome = lines.iter().find(|line| line["operation"] == revoked.operation_id).unwrap();
    assert_eq!(outcome["group"], DEFAULT_VPC_GROUP);
    assert_eq!(outcome["code"], 0);
    assert_eq!(lines[4]["settled_by"], "Operator");
    assert!(lines[4]["note"].as_str().unwrap().contains("token::operator"), "{}", lines[4]);
    let text = world.log.text();
    assert!(!text.contains("secret-of-somebody") && !text.contains(world.token("alice")));
}

#[tokio::test]
async fn what_is_settled_by_reading_back_has_one_line_too() {
    let mut world = world().await;
    let id = in_doubt(&mut world, "k", DEFAULT_VPC_GROUP, FaultKind::LoseAnswer).await;
    assert_eq!(world.log.audit(), [serde_json::json!(null); 0]);
    world.revoke("alice", "k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    let lines = world.log.audit();
    let [line] = lines.as_slice() else { panic!("{lines:#?}") };
    assert_eq!(
        (line["operation"].as_str(), line["state"].as_str()),
        (Some(id.as_str()), Some("SUCCEEDED"))
    );
    assert_eq!(line["settled_by"], "ReadBack");
    assert_eq!(line["principal"], "token::alice");
}

#[tokio::test]
async fn what_is_refused_without_a_record_has_a_line_whatever_refused_it() {
    let mut world = world().await;
    let group = DEFAULT_VPC_GROUP;
    let id = in_doubt(&mut world, "k", group, FaultKind::ServerError).await;
    inject(&mut world, unreadable()).await;
    let mut blocked = world.signed("bob", https(group));
    blocked.set_timeout(Duration::from_secs(2));
    world.server.patient().revoke_egress(blocked).await.unwrap_err();
    world.revoke("alice", "other", https(NONDEFAULT_VPC_GROUP)).await.unwrap_err();
    let clear = world.signed("alice", ClearFaultsRequest {});
    world.server.sandbox.clear_faults(clear).await.unwrap();
    world.revoke("alice", "gone", https("sg-0000000000000dead")).await.unwrap_err();
    world.settle("operator", "op-none", SettleAs::NotApplied).await.unwrap_err();
    // This one is recorded as refused, although nothing was sent; and that is its line, also when it is asked for again.
    let absent = || v1::RevokeEgressRequest {
        on_unknown: v1::OnUnknown::Fail.into(),
        ..by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(4444, "10.0.0.0/8")])
    };
    world.revoke("alice", "absent", absent()).await.unwrap_err();
    world.revoke("alice", "absent", absent()).await.unwrap_err();
    let lines = world.log.audit();
    let said: Vec<(String, String)> = lines
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            if line["message"] == "refused" {
                return (text("by"), text("reason"));
            }
            (text("message"), text("state"))
        })
        .collect();
    let expected = [
        ("state", "GROUP_IN_DOUBT"),
        ("EC2", "EC2_UNAUTHORIZED_OPERATION"),
        ("EC2", "INVALID_GROUP_NOT_FOUND"),
        ("state", "OPERATION_NOT_FOUND"),
        ("operation", "REFUSED"),
    ];
    let expected: Vec<(String, String)> =
        expected.map(|(what, why)| (what.to_owned(), why.to_owned())).to_vec();
    assert_eq!(said, expected, "{id} {lines:#?}");
}
