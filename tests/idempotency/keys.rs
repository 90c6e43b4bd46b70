//! The table of design.md section 3: what a call with a known key gets.

use std::sync::{Arc, atomic::Ordering};

use portcullis::{
    access::Access,
    api::proto::{
        sandbox::v1::{Fault, FaultKind},
        v1::{self, OnUnknown, WarningKind, operation_service_client::OperationServiceClient},
    },
};
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    support::{self, *},
    world::*,
};

#[tokio::test]
async fn a_success_is_replayed_byte_for_byte_and_ec2_is_not_asked() {
    let mut world = quick().await;
    let first = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    assert!(!is_replayed(first.metadata()));
    assert_eq!(world.server.effects().await, 1);
    // The rule is back, and EC2 would not answer: the key's answer stays what it was.
    world.server.authorize(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
    let kind = FaultKind::ServerError.into();
    world.server.inject(Fault { kind, count: 100, ..Default::default() }).await;
    let mut spelled = https(DEFAULT_VPC_GROUP);
    spelled.ip_permissions[0].ip_protocol = Some("6".into());
    spelled.ip_permissions[0].ip_ranges[0].cidr_ip = Some("10.1.2.3/8".into());
    for request in [https(DEFAULT_VPC_GROUP), spelled] {
        let again = world.revoke("k", request).await.unwrap();
        assert!(is_replayed(again.metadata()));
        assert_eq!(again.get_ref().encode_to_vec(), first.get_ref().encode_to_vec());
    }
    assert_eq!(world.server.effects().await, 2);
    let record = world.records().await.pop().unwrap();
    assert_eq!((record.state.as_str(), record.attempts), ("SUCCEEDED", 1));
    assert_eq!(record.id, first.get_ref().operation_id);
    assert_eq!(record.ec2_request_ids.len(), 1);
}

#[tokio::test]
async fn a_refusal_is_replayed_although_the_rule_exists_by_now() {
    let mut world = quick().await;
    let request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(9, "10.0.0.0/8")]);
    let first = world.revoke("k", request.clone()).await.unwrap_err();
    assert_eq!(first.code(), Code::NotFound);
    world.server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(9, "10.0.0.0/8")]).await.unwrap();
    let again = world.revoke("k", request).await.unwrap_err();
    assert!(is_replayed(again.metadata()));
    assert_eq!(first.message(), again.message());
    let (first, again) = (support::details(&first), support::details(&again));
    let same = |a: &tonic_types::ErrorDetails, b: &tonic_types::ErrorDetails| {
        let one = format!("{:?} {:?}", a.error_info().unwrap().reason, a.resource_info());
        one == format!("{:?} {:?}", b.error_info().unwrap().reason, b.resource_info())
    };
    assert!(same(&first, &again), "{first:?} {again:?}");
    assert_eq!(world.records().await.pop().unwrap().ec2_request_ids.len(), 1);
    let id =
        |details: &tonic_types::ErrorDetails| details.request_info().unwrap().request_id.clone();
    assert_ne!(id(&first), id(&again));
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn what_was_released_runs_again_under_its_key() {
    let mut world = quick().await;
    world.server.fault(FaultKind::Throttle, REVOKE).await;
    let refused = world.revoke("k", https(DEFAULT_VPC_GROUP)).await;
    let expected = (Code::ResourceExhausted, "EC2_REQUEST_LIMIT_EXCEEDED".to_owned());
    assert_eq!(refusal(refused), expected);
    assert_eq!(world.states().await, ["RELEASED"]);
    let answer = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    assert!(!is_replayed(answer.metadata()));
    let record = world.records().await.pop().unwrap();
    assert_eq!((record.attempts, record.state.as_str()), (2, "SUCCEEDED"));
    assert_eq!(record.id, answer.get_ref().operation_id);
    let state = world.server.state().await;
    assert_eq!(state.effects.len(), 1);
    assert_eq!(state.effects[0].operation_id, record.id);
}

#[tokio::test]
async fn a_key_is_for_one_request() {
    let mut world = quick().await;
    world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    let mut request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    request.on_unknown = OnUnknown::Fail.into();
    let status = world.revoke("k", request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let details = support::details(&status);
    assert_eq!(details.error_info().unwrap().reason, "IDEMPOTENCY_KEY_REUSED");
    assert!(status.message().ends_with("they differ in: GroupId, OnUnknown"), "{status:?}");
    let other = world.authorize("k", DEFAULT_VPC_GROUP, tcp(1, "10.0.0.0/8")).await.unwrap_err();
    assert!(other.message().contains("differ in: method, "), "{other:?}");
    assert!(!other.message().contains("10.0.0.0"));
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn the_same_call_at_the_same_time_has_one_effect_and_one_answer() {
    let mut world = quick().await;
    world.delay_a_revoke(50).await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mut groups = world.server.groups.clone();
        calls.spawn(async move {
            groups.revoke_egress(keyed("k", https(DEFAULT_VPC_GROUP))).await.unwrap()
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = calls.join_next().await {
        answers.push(answer.unwrap());
    }
    let replayed = answers.iter().filter(|answer| is_replayed(answer.metadata())).count();
    assert_eq!(replayed, 19);
    let first = answers[0].get_ref().encode_to_vec();
    assert!(answers.iter().all(|answer| answer.get_ref().encode_to_vec() == first));
    assert_eq!(world.server.effects().await, 1);
    assert_eq!(world.ledger.intents.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_equal_call_without_a_key_joins_the_one_in_progress() {
    let mut world = quick().await;
    world.delay_a_revoke(50).await;
    let (mut one, mut two) = (world.server.groups.clone(), world.server.groups.clone());
    let (one, two) = tokio::join!(
        one.revoke_egress(https(NONDEFAULT_VPC_GROUP)),
        two.revoke_egress(https(NONDEFAULT_VPC_GROUP))
    );
    // In a nondefault VPC the second would be told that there is no such rule.
    assert_eq!(one.unwrap().into_inner(), two.unwrap().into_inner());
    assert_eq!(world.server.effects().await, 1);
    // Once it is settled, the next equal call is a call of its own.
    let next = world.server.revoke_request(https(NONDEFAULT_VPC_GROUP)).await;
    assert_eq!(refusal(next).0, Code::NotFound);
}

#[tokio::test]
async fn an_answer_in_progress_at_the_deadline_is_aborted_with_retry_info() {
    let mut world = slow().await;
    world.delay_a_revoke(2000).await;
    let mut groups = world.server.groups.clone();
    let first =
        tokio::spawn(
            async move { groups.revoke_egress(keyed("k", https(DEFAULT_VPC_GROUP))).await },
        );
    world.ledger_has_one().await;
    let mut second = keyed("k", https(DEFAULT_VPC_GROUP));
    second.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let status = world.server.patient().revoke_egress(second).await.unwrap_err();
    let details = support::details(&status);
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert_eq!(details.error_info().unwrap().reason, "OPERATION_IN_PROGRESS");
    assert!(details.retry_info().is_some());
    first.await.unwrap().unwrap();
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn an_answer_that_nothing_was_there_is_kept_too() {
    let mut world = quick().await;
    let mut request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(9, "10.0.0.0/8")]);
    request.on_unknown = OnUnknown::RevokeMatched.into();
    let first = world.revoke("k", request.clone()).await.unwrap().into_inner();
    assert_eq!(first.outcome(), portcullis::api::proto::v1::Outcome::RevokedNothing);
    world.server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(9, "10.0.0.0/8")]).await.unwrap();
    let again = world.revoke("k", request.clone()).await.unwrap();
    assert!(is_replayed(again.metadata()));
    assert_eq!(again.into_inner(), first);
    request.on_unknown = OnUnknown::Fail.into();
    request.ip_permissions = vec![tcp(10, "10.0.0.0/8")];
    let refused = world.revoke("f", request.clone()).await.unwrap_err();
    world.server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(10, "10.0.0.0/8")]).await.unwrap();
    let again = world.revoke("f", request).await.unwrap_err();
    assert!(is_replayed(again.metadata()));
    assert_eq!((again.code(), again.message()), (refused.code(), refused.message()));
    assert_eq!(world.server.effects().await, 2);
}

#[tokio::test]
async fn keys_end_with_the_incarnation_of_the_sandbox() {
    let mut world = quick().await;
    world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    world.server.sandbox.reset(portcullis::api::proto::sandbox::v1::ResetRequest {}).await.unwrap();
    let answer = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap();
    assert!(!is_replayed(answer.metadata()));
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn a_dry_run_burns_no_key_and_leaves_no_record() {
    let mut world = quick().await;
    let mut dry = https(DEFAULT_VPC_GROUP);
    dry.dry_run = Some(true);
    assert!(world.revoke("k", dry).await.unwrap().get_ref().dry_run);
    assert_eq!(world.states().await, <[&str; 0]>::default());
    world
        .revoke("k", by_permissions(DEFAULT_VPC_GROUP, vec![tcp(80, "10.9.0.0/16")]))
        .await
        .unwrap();
    assert_eq!(world.server.effects().await, 0);
}

#[tokio::test]
async fn a_bad_key_or_reason_is_named_and_reads_ignore_both() {
    let mut world = quick().await;
    let mut request = keyed("k", https(DEFAULT_VPC_GROUP));
    request.metadata_mut().append("idempotency-key", "two".parse().unwrap());
    request.metadata_mut().insert("change-reason", "%zz%ff".parse().unwrap());
    let status = world.server.groups.revoke_egress(request).await.unwrap_err();
    let fields: Vec<String> = violations(&status).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["metadata.idempotency-key", "metadata.change-reason"]);
    // Beside what is wrong with the request.
    let request = keyed("a b", portcullis::api::proto::v1::RevokeEgressRequest::default());
    let status = world.server.groups.revoke_egress(request).await.unwrap_err();
    let fields: Vec<String> = violations(&status).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["group_id", "ip_permissions", "metadata.idempotency-key"]);
    let read =
        keyed("not a key", portcullis::api::proto::v1::DescribeSecurityGroupsRequest::default());
    world.server.groups.describe_security_groups(read).await.unwrap();
    assert_eq!(world.server.effects().await, 0);
}

#[tokio::test]
async fn a_record_has_what_an_auditor_asks_for() {
    let world = quick().await;
    let mut request = keyed("k-1", https(DEFAULT_VPC_GROUP));
    request.metadata_mut().insert("change-reason", "CHG-7:%20f%C3%BCr%20alle".parse().unwrap());
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    world.server.groups.clone().revoke_egress(request).await.unwrap();
    let record = world.records().await.pop().unwrap();
    assert_eq!(record.caller, "local::local");
    assert_eq!(record.key.unwrap().as_str(), "k-1");
    assert_eq!(record.change_reason.as_deref(), Some("CHG-7: für alle"));
    assert_eq!(record.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(record.method, "portcullis.v1.SecurityGroupService/RevokeEgress");
    assert!(record.group.ends_with(DEFAULT_VPC_GROUP), "{}", record.group);
    assert_eq!(record.request["GroupId"], DEFAULT_VPC_GROUP);
    assert_eq!(record.plan.group().group_id, DEFAULT_VPC_GROUP);
}

#[tokio::test]
async fn an_equal_call_without_a_key_gets_the_answer_of_the_one_in_doubt() {
    let mut world = undisturbed(Arc::new(Access::allow_all())).await;
    world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
    let lost = world.server.revoke_request(https(NONDEFAULT_VPC_GROUP)).await;
    assert_eq!(refusal(lost), (Code::Unknown, "OUTCOME_UNKNOWN".into()));
    // Somebody adds the rule again: it is not this caller's to remove.
    world.add_outside(NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    let answer = world.server.revoke_request(https(NONDEFAULT_VPC_GROUP)).await.unwrap();
    assert_eq!(answer.warnings[0].kind(), WarningKind::SettledByReadBack);
    let records = world.records().await;
    assert_eq!((records.len(), records[0].id.as_str()), (1, answer.operation_id.as_str()));
    world.server.rule_id(NONDEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn without_a_key_nothing_is_sent_again_for_another_call() {
    let mut world = undisturbed(Arc::new(Access::allow_all())).await;
    world.server.fault(FaultKind::ServerError, REVOKE).await;
    world.server.revoke_request(https(NONDEFAULT_VPC_GROUP)).await.unwrap_err();
    let answer = world.server.revoke_request(https(NONDEFAULT_VPC_GROUP)).await.unwrap();
    // It ran by itself, once it was clear that the first had no effect.
    assert_eq!(world.states().await, ["SUCCEEDED", "RELEASED"]);
    let records = world.records().await;
    assert_eq!(records[0].id, answer.operation_id);
    assert!(records.iter().all(|record| record.attempts == 1), "{records:?}");
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn a_replay_by_the_groups_name_asks_ec2_nothing() {
    let mut world = quick().await;
    let request = v1::AuthorizeIngressRequest {
        group_name: Some(world.server.group(DEFAULT_VPC_GROUP).await.group_name.unwrap()),
        ip_permissions: vec![tcp(8444, "10.0.0.0/8")],
        ..Default::default()
    };
    let mut groups = world.server.groups.clone();
    let first = groups.authorize_ingress(keyed("k", request.clone())).await.unwrap();
    let kind = FaultKind::ServerError.into();
    world.server.inject(Fault { kind, count: 100, ..Default::default() }).await;
    let again = groups.authorize_ingress(keyed("k", request)).await.unwrap();
    assert!(is_replayed(again.metadata()));
    assert_eq!(first.into_inner(), again.into_inner());
}

#[tokio::test]
async fn a_key_is_of_one_account_and_region() {
    let mut world = quick().await;
    let there = "sg-0a000000000000001";
    let state = serde_json::json!({
        "Vpcs": [{"VpcId": "vpc-0a000000000000000", "IsDefault": true, "CidrBlock": "172.31.0.0/16",
            "OwnerId": "123456789012", "Region": "eu-west-1"}],
        "SecurityGroups": [{"GroupId": there, "GroupName": "there", "Description": "another Region's",
            "OwnerId": "123456789012", "VpcId": "vpc-0a000000000000000", "IpPermissionsEgress": [
                {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}],
    });
    world.server.load(&state.to_string()).await;
    let target = v1::Target { region: "eu-west-1".into(), ..Default::default() };
    let elsewhere = v1::RevokeEgressRequest { target: Some(target.clone()), ..https(there) };
    let here = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap().into_inner();
    let other = world.revoke("k", elsewhere).await.unwrap();
    assert!(!is_replayed(other.metadata()));
    let other = other.into_inner();
    assert_ne!(here.operation_id, other.operation_id);
    assert_eq!(world.server.effects().await, 2);
    // The newest, unless it is said which.
    let mut operations = OperationServiceClient::new(world.server.channel.clone());
    let home = v1::Target { region: "us-east-1".into(), ..Default::default() };
    for (target, id) in [
        (None, &other.operation_id),
        (Some(target), &other.operation_id),
        (Some(home.clone()), &here.operation_id),
    ] {
        let idempotency_key = "k".to_owned();
        let request = v1::GetOperationRequest { idempotency_key, target, ..Default::default() };
        let operation = operations.get_operation(request).await.unwrap().into_inner().operation;
        assert_eq!(operation.unwrap().operation_id, *id);
    }
    let operation_id = here.operation_id;
    let request =
        v1::GetOperationRequest { operation_id, target: Some(home), ..Default::default() };
    let status = operations.get_operation(request).await.unwrap_err();
    assert_eq!(violations(&status)[0].0, "target");
}

#[tokio::test]
async fn a_peers_name_beside_its_id_is_no_other_request() {
    let world = quick().await;
    let plain = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp_group(22, OTHER_GROUP)]);
    let mut pasted = plain.clone();
    pasted.ip_permissions[0].user_id_group_pairs[0].group_name = Some("other".into());
    world.revoke("k", plain).await.unwrap();
    assert!(is_replayed(world.revoke("k", pasted).await.unwrap().metadata()));
}
