//! One's own operations, others', and those of nobody here.

use portcullis::{
    api::proto::v1::{
        self, GetOperationRequest, ListOperationsRequest, OperationState, SettledBy, Target,
    },
    ledger::State,
};
use tonic::Code;

use crate::{
    support::{self, *},
    world::*,
};

fn not_found<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> String {
    let status = answer.unwrap_err();
    let message = status.message().to_owned();
    assert_eq!(refusal::<T>(Err(status)), (Code::NotFound, "OPERATION_NOT_FOUND".into()));
    message
}

fn https(group: &str) -> v1::RevokeEgressRequest {
    by_permissions(group, vec![tcp(443, "10.0.0.0/8")])
}

#[tokio::test]
async fn an_operation_has_what_is_recorded_of_it() {
    let world = world().await;
    let mut request = world.signed("alice", https(DEFAULT_VPC_GROUP));
    let metadata = request.metadata_mut();
    metadata.insert("idempotency-key", "k-1".parse().unwrap());
    metadata.insert("change-reason", "CHG-7:%20f%C3%BCr%20alle".parse().unwrap());
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    metadata.insert("traceparent", parent.parse().unwrap());
    let answer = world.server.groups.clone().revoke_egress(request).await.unwrap().into_inner();
    let seen = world.get("alice", &answer.operation_id).await.unwrap();
    assert_eq!(seen.operation_id, answer.operation_id);
    assert_eq!(seen.method, "portcullis.v1.SecurityGroupService/RevokeEgress");
    let caller = seen.caller.clone().unwrap();
    assert_eq!((caller.method.as_str(), caller.subject.as_str()), ("token", "alice"));
    assert_eq!(caller.principal_id, "token::alice");
    assert_eq!(seen.state(), OperationState::Succeeded);
    assert_eq!(seen.settled_by(), SettledBy::Ec2Answer);
    let target = Target { account_id: HERE.0.into(), region: HERE.1.into() };
    assert_eq!(seen.target, Some(target));
    assert_eq!(seen.group_id, DEFAULT_VPC_GROUP);
    assert_eq!(seen.change_reason, "CHG-7: für alle");
    assert_eq!(seen.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((seen.attempts, seen.ec2_request_ids.len()), (1, 1));
    assert!(seen.created_at.is_some() && seen.settled_at.is_some() && seen.changed_at.is_some());
    assert_eq!(seen.outcome.as_ref().unwrap().code, Some(0));
    let [rule] = seen.security_group_rules.as_slice() else { panic!("{seen:?}") };
    let revoked = &answer.revoked_security_group_rules[0];
    assert_eq!(rule.security_group_rule_id, revoked.security_group_rule_id);
    assert_eq!(rule.cidr_ipv4(), "10.0.0.0/8");
    assert_eq!(rule.group_id(), DEFAULT_VPC_GROUP);
    // In JSON the request reads like EC2's.
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["Request"]["GroupId"], DEFAULT_VPC_GROUP);
    assert_eq!(json["Request"]["IpPermissions"][0]["CidrIpv4"], "10.0.0.0/8");
    assert_eq!(json["State"], "OPERATION_STATE_SUCCEEDED");
    assert_eq!(json["Outcome"]["Code"], 0);
    assert_eq!(world.by_key("alice", "k-1").await.unwrap(), seen);
}

#[tokio::test]
async fn a_refusal_and_a_creation_have_their_own() {
    let world = world().await;
    let unknown = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(1, "192.0.2.0/24")]);
    let status = world.revoke("alice", "no", unknown).await.unwrap_err();
    let seen = world.by_key("alice", "no").await.unwrap();
    assert_eq!(seen.state(), OperationState::Refused);
    let outcome = seen.outcome.unwrap();
    assert_eq!(outcome.reason, "INVALID_PERMISSION_NOT_FOUND");
    assert_eq!((outcome.code, outcome.message.as_str()), (Some(5), status.message()));
    let create = v1::CreateSecurityGroupRequest {
        group_name: Some("made".into()),
        description: Some("for a test".into()),
        vpc_id: Some(NONDEFAULT_VPC.into()),
        ..Default::default()
    };
    let created =
        world.server.groups.clone().create_security_group(world.signed("alice", create)).await;
    let created = created.unwrap().into_inner();
    let seen = world.get("alice", &created.operation_id).await.unwrap();
    assert_eq!(Some(seen.group_id), created.group_id);
    assert_eq!(seen.security_group_rules, []);
}

#[tokio::test]
async fn ones_own_are_seen_and_others_by_policy_alone() {
    let world = world().await;
    let id = world.seed(Seed::new("op-1")).await.id;
    world.get("alice", &id).await.unwrap();
    world.get("reader", &id).await.unwrap();
    let hidden = not_found(world.get("bob", &id).await);
    // Whether there is such an operation makes no difference.
    assert_eq!(not_found(world.get("bob", "op-none").await), hidden);
    assert_eq!(not_found(world.get("alice", "op-none").await), hidden);
    assert_eq!(world.ids("alice", <_>::default()).await, ["op-1"]);
    assert_eq!(world.ids("reader", <_>::default()).await, ["op-1"]);
    assert_eq!(world.ids("bob", <_>::default()).await, [""; 0]);
    let of_alice = ListOperationsRequest { caller: "token::alice".into(), ..Default::default() };
    assert_eq!(world.ids("bob", of_alice.clone()).await, [""; 0]);
    assert_eq!(world.ids("reader", of_alice).await, ["op-1"]);
}

#[tokio::test]
async fn without_access_to_the_target_not_even_ones_own() {
    let world = world().await;
    let id = world.seed(Seed::new("op-1").at(THERE)).await.id;
    world.seed(Seed::new("op-2")).await;
    for caller in ["alice", "reader"] {
        not_found(world.get(caller, &id).await);
        assert_eq!(world.ids(caller, <_>::default()).await, ["op-2"]);
    }
}

#[tokio::test]
async fn a_key_is_its_callers_and_its_backends() {
    let mut world = world().await;
    world.revoke("alice", "k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    world.by_key("alice", "k").await.unwrap();
    for caller in ["bob", "reader"] {
        not_found(world.by_key(caller, "k").await);
    }
    not_found(world.by_key("alice", "other").await);
    // One of another backend, and newer.
    let elsewhere = Seed { key: Some("k"), ..Seed::new("op-z") };
    world.seed(elsewhere).await;
    assert_ne!(world.by_key("alice", "k").await.unwrap().operation_id, "op-z");
    let reset = portcullis::api::proto::sandbox::v1::ResetRequest {};
    let reset = world.signed("alice", reset);
    world.server.sandbox.reset(reset).await.unwrap();
    not_found(world.by_key("alice", "k").await);
}

#[tokio::test]
async fn exactly_one_of_id_and_key() {
    let world = world().await;
    let (id, key) = ("op-1".to_owned(), "k".to_owned());
    for (operation_id, idempotency_key, field) in [
        (String::new(), String::new(), "operation_id"),
        (id.clone(), key, "idempotency_key"),
        (String::new(), "a b".into(), "idempotency_key"),
        (String::new(), "k".repeat(256), "idempotency_key"),
        ("x".repeat(65), String::new(), "operation_id"),
        ("op 1".into(), String::new(), "operation_id"),
    ] {
        let request = GetOperationRequest { operation_id, idempotency_key, target: None };
        let status = world.ask("alice", request.clone()).await.unwrap_err();
        assert_eq!(violations(&status)[0].0, field, "{request:?}");
    }
}

#[tokio::test]
async fn filters_let_through_what_they_name() {
    let policies = format!(
        "{POLICIES} permit (principal in Group::\"readers\", action in [Action::\"access\", Action::\"read\"], resource);"
    );
    let world = start_ruled(&policies, Default::default()).await;
    world.seed(Seed::new("op-1").of("bob")).await;
    world.seed(Seed::new("op-2").is(State::Released)).await;
    world.seed(Seed::new("op-3").at(THERE)).await;
    world.seed(Seed::new("op-4").at(("999999999999", "us-east-1")).is(State::Refused)).await;
    let revoked = world.revoke("alice", "k", https(DEFAULT_VPC_GROUP)).await.unwrap().operation_id;
    let all = ["op-4", "op-3", "op-2", "op-1", revoked.as_str()];
    let target = |account: &str, region: &str| {
        Some(Target { account_id: account.into(), region: region.into() })
    };
    let none = ListOperationsRequest::default;
    let state = |state: OperationState| state.into();
    let far = Some(pbjson_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
    let past = Some(pbjson_types::Timestamp { seconds: 1_000_000_000, nanos: 0 });
    for (request, expected) in [
        (none(), all.to_vec()),
        (
            ListOperationsRequest { states: vec![state(OperationState::Released)], ..none() },
            vec!["op-2"],
        ),
        (
            ListOperationsRequest {
                states: vec![state(OperationState::Refused), state(OperationState::Released)],
                ..none()
            },
            vec!["op-4", "op-2"],
        ),
        (ListOperationsRequest { caller: "token::bob".into(), ..none() }, vec!["op-1"]),
        (ListOperationsRequest { caller: "jwt:x:bob".into(), ..none() }, vec![]),
        (ListOperationsRequest { target: target("", THERE.1), ..none() }, vec!["op-3"]),
        (ListOperationsRequest { target: target("999999999999", ""), ..none() }, vec!["op-4"]),
        (ListOperationsRequest { target: target("999999999999", THERE.1), ..none() }, vec![]),
        (
            ListOperationsRequest { group_id: DEFAULT_VPC_GROUP.into(), ..none() },
            vec![revoked.as_str()],
        ),
        (ListOperationsRequest { group_id: "sg-00000009".into(), ..none() }, vec![]),
        (ListOperationsRequest { created_since: far, ..none() }, vec![]),
        (ListOperationsRequest { created_before: past, ..none() }, vec![]),
        (
            ListOperationsRequest { created_since: past, created_before: far, ..none() },
            all.to_vec(),
        ),
    ] {
        let mut found = world.ids("reader", request.clone()).await;
        // Seeded ids have no time in them.
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{request:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_list_is_named_all_at_once() {
    let world = world().await;
    let time = |seconds, nanos| Some(pbjson_types::Timestamp { seconds, nanos });
    let request = ListOperationsRequest {
        states: vec![0, 7],
        caller: "alice".into(),
        target: Some(Target { account_id: "1".into(), region: "x".into() }),
        group_id: "sg-1".into(),
        created_since: time(-1, 0),
        created_before: time(1, -1),
        page_size: 1001,
        page_token: "x".repeat(5000),
    };
    let status = world.list("alice", request).await.unwrap_err();
    let fields: Vec<String> = violations(&status).into_iter().map(|(field, _)| field).collect();
    assert_eq!(
        fields,
        [
            "target.account_id",
            "target.region",
            "states[0]",
            "states[1]",
            "caller",
            "group_id",
            "created_since",
            "created_before",
            "page_size",
            "page_token"
        ]
    );
    for request in [
        ListOperationsRequest { page_size: -1, ..Default::default() },
        ListOperationsRequest { states: vec![1; 7], ..Default::default() },
        ListOperationsRequest {
            created_since: time(5, 0),
            created_before: time(5, 0),
            ..Default::default()
        },
        ListOperationsRequest { page_token: "b3AtMQ".into(), ..Default::default() },
        ListOperationsRequest { page_token: "%".into(), ..Default::default() },
    ] {
        let answer = world.list("alice", request.clone()).await;
        let status = answer.expect_err(&format!("{request:?}"));
        assert_eq!(support::details(&status).error_info().unwrap().reason, "INVALID_REQUEST");
    }
}
