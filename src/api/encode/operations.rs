//! Operations as the contract's messages.

use prost::Message as _;

use super::{super::proto::v1, timestamp};
use crate::{
    api::{scribe::method, status},
    ledger::{
        Plan, Record, Recorded, SettledBy, State,
        stored::{StoredGroup, StoredRule},
    },
    operations::canonical,
    principal::Principal,
};

/// An operation, as far as its record goes.
pub fn operation(record: &Record) -> v1::Operation {
    let group = record.plan.group();
    v1::Operation {
        operation_id: record.id.clone(),
        method: record.method.clone(),
        caller: Some(caller(&record.caller)),
        state: state(record.state).into(),
        settled_by: record.settled_by.map_or(v1::SettledBy::Unspecified, settled_by).into(),
        target: Some(v1::Target {
            account_id: record.account.clone(),
            region: record.region.clone(),
        }),
        group_id: match &group.group_id {
            id if id.is_empty() => created(record).unwrap_or_default(),
            id => id.clone(),
        },
        request: serde_json::from_value(canonical::readable(&record.request)).ok(),
        change_reason: record.change_reason.clone().unwrap_or_default(),
        attempts: i32::try_from(record.attempts).unwrap_or(i32::MAX),
        created_at: Some(timestamp(record.created_at)),
        changed_at: Some(timestamp(record.changed_at)),
        settled_at: record.settled_at.map(timestamp),
        ec2_request_ids: record.ec2_request_ids.clone(),
        trace_id: record.trace_id.clone().unwrap_or_default(),
        notes: record.notes.clone(),
        security_group_rules: match &record.plan {
            Plan::Revoke { rules, .. } | Plan::Authorize { rules, .. } => {
                rules.iter().map(|stored| rule(group, stored)).collect()
            }
            Plan::Create { .. } | Plan::Delete { .. } => Vec::new(),
        },
        outcome: record.answer.as_ref().map(outcome),
    }
}

fn caller(id: &str) -> v1::OperationCaller {
    let known = Principal::parse_id(id);
    v1::OperationCaller {
        method: known.as_ref().map_or("", |known| known.method.as_str()).to_owned(),
        issuer: known.as_ref().map(|known| known.issuer.clone()).unwrap_or_default(),
        subject: known.map(|known| known.subject).unwrap_or_default(),
        principal_id: id.to_owned(),
    }
}

fn state(state: State) -> v1::OperationState {
    match state {
        State::InProgress => v1::OperationState::InProgress,
        State::Succeeded => v1::OperationState::Succeeded,
        State::Refused => v1::OperationState::Refused,
        State::Released => v1::OperationState::Released,
        State::InDoubt => v1::OperationState::InDoubt,
        State::Unresolved => v1::OperationState::Unresolved,
    }
}

fn settled_by(by: SettledBy) -> v1::SettledBy {
    match by {
        SettledBy::Ec2Answer => v1::SettledBy::Ec2Answer,
        SettledBy::ReadBack => v1::SettledBy::ReadBack,
        SettledBy::Operator => v1::SettledBy::Operator,
    }
}

/// The id of a group that was created: only the answer has it.
fn created(record: &Record) -> Option<String> {
    let answer = record.answer.as_ref().filter(|answer| answer.code == 0)?;
    let is_create = record.method == method::CREATE;
    let answer = v1::CreateSecurityGroupResponse::decode(answer.body.as_slice()).ok();
    answer.filter(|_| is_create)?.group_id
}

fn rule(group: &StoredGroup, stored: &StoredRule) -> v1::SecurityGroupRule {
    v1::SecurityGroupRule {
        security_group_rule_id: stored.security_group_rule_id.clone(),
        group_id: Some(group.group_id.clone()),
        group_owner_id: Some(group.owner_id.clone()),
        is_egress: Some(stored.is_egress),
        ip_protocol: Some(stored.ip_protocol.clone()),
        from_port: Some(stored.from_port),
        to_port: Some(stored.to_port),
        cidr_ipv4: stored.cidr_ipv4.clone(),
        cidr_ipv6: stored.cidr_ipv6.clone(),
        prefix_list_id: stored.prefix_list_id.clone(),
        referenced_group_info: stored.referenced_group_info.as_ref().map(|peer| {
            v1::ReferencedSecurityGroup {
                group_id: peer.group_id.clone(),
                user_id: peer.user_id.clone(),
                ..v1::ReferencedSecurityGroup::default()
            }
        }),
        description: stored.description.clone(),
        tags: stored
            .tags
            .iter()
            .map(|tag| v1::Tag { key: Some(tag.key.clone()), value: Some(tag.value.clone()) })
            .collect(),
        security_group_rule_arn: None,
    }
}

fn outcome(recorded: &Recorded) -> v1::RecordedOutcome {
    v1::RecordedOutcome {
        code: Some(recorded.code),
        reason: status::reason_of(recorded).unwrap_or_default(),
        message: recorded.message.clone(),
    }
}
