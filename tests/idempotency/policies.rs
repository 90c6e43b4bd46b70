//! Policies that change while an operation is in doubt, and callers who may not see what settling reads.

use std::{fs, sync::Arc};

use portcullis::{
    access::{Access, Mode},
    api::proto::{
        sandbox::v1::FaultKind,
        v1::{self, RevokeEgressResponse, WarningKind},
    },
    ledger::SettledBy,
};
use tonic::{Code, Status};

use crate::{
    folder::Folder,
    support::{self, *},
    world::*,
};

const EVERYTHING: &str = "permit (principal, action, resource);";

/// Policies that a test writes anew.
struct Policies {
    folder: Folder,
    access: Arc<Access>,
}

impl Policies {
    fn new(text: &str) -> Self {
        let folder = Folder::new();
        fs::write(folder.join("test.cedar"), text).unwrap();
        let access = Access::open(&folder.join(""), Mode::Enforce).unwrap();
        Self { folder, access: Arc::new(access) }
    }

    fn become_these(&self, text: &str) {
        fs::write(self.folder.join("test.cedar"), text).unwrap();
        self.access.reload().unwrap();
    }
}

#[tokio::test]
async fn what_policies_no_longer_allow_is_not_sent_again() {
    let policies = Policies::new(EVERYTHING);
    let mut world = undisturbed(policies.access.clone()).await;
    world.server.fault(FaultKind::ServerError, REVOKE).await;
    let lost = world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await;
    assert_eq!(refusal(lost), (Code::Unavailable, "OUTCOME_UNKNOWN".into()));
    policies.become_these(&format!(
        "{EVERYTHING} forbid (principal, action == Action::\"RevokeEgress\", resource);"
    ));
    let denied = world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await;
    assert_eq!(refusal(denied), (Code::PermissionDenied, "ACCESS_DENIED".into()));
    assert_eq!(world.server.effects().await, 0);
    assert_eq!(world.states().await, ["RELEASED"]);
    policies.become_these(EVERYTHING);
    world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await.unwrap();
    assert_eq!(world.server.effects().await, 1);
}

#[tokio::test]
async fn a_denied_replay_names_the_operation_and_its_state() {
    let policies = Policies::new(EVERYTHING);
    let mut world = undisturbed(policies.access.clone()).await;
    let create = || v1::CreateSecurityGroupRequest {
        group_name: Some("made".into()),
        description: Some("made once".into()),
        vpc_id: Some(NONDEFAULT_VPC.into()),
        ..Default::default()
    };
    let made = world.server.groups.create_security_group(keyed("c", create())).await.unwrap();
    let done = world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap().into_inner();
    let (revoke, access) = ("Action::\"RevokeEgress\"", "Action::\"access\"");
    let create_group = "Action::\"CreateSecurityGroup\"";
    let told = |status: Status, operation: &str| {
        assert_eq!(status.code(), Code::PermissionDenied);
        let details = support::details(&status);
        assert_eq!(details.error_info().unwrap().metadata["operation_id"], operation);
        let expected =
            format!("policy does not allow this now; operation {operation} is SUCCEEDED");
        assert_eq!(status.message(), expected);
    };
    // By what is decided on the record, and by what is decided before anything is read.
    for action in [revoke, access] {
        policies.become_these(&format!(
            "{EVERYTHING} forbid (principal, action == {action}, resource);"
        ));
        told(world.revoke("k", https(DEFAULT_VPC_GROUP)).await.unwrap_err(), &done.operation_id);
    }
    policies.become_these(&format!(
        "{EVERYTHING} forbid (principal, action == {create_group}, resource);"
    ));
    let denied = world.server.groups.create_security_group(keyed("c", create())).await;
    told(denied.unwrap_err(), &made.get_ref().operation_id);
    // What was never done, or is something else, is no operation's.
    for (key, name) in [("c2", "made"), ("c", "another")] {
        let request = v1::CreateSecurityGroupRequest { group_name: Some(name.into()), ..create() };
        let denied = world.server.groups.create_security_group(keyed(key, request)).await;
        assert!(denied.unwrap_err().message().ends_with("nothing was changed"));
    }
}

/// The record's caller is known by its id alone then: a policy about its groups would be silent.
#[tokio::test]
async fn what_the_background_reads_back_shows_nothing_that_a_policy_may_forbid() {
    let policies = Policies::new(EVERYTHING);
    let mut world = settling(policies.access.clone()).await;
    let request = by_permissions(
        DEFAULT_VPC_GROUP,
        vec![tcp(443, "10.0.0.0/8"), cidr("tcp", 80, 91, "10.0.0.0/8")],
    );
    world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
    let lost = world.revoke("k", request.clone()).await;
    assert_eq!(refusal(lost), (Code::Unavailable, "OUTCOME_UNKNOWN".into()));
    let record = world.until("SUCCEEDED").await;
    assert_eq!(record.settled_by, Some(SettledBy::ReadBack));
    let told = world.revoke("k", request).await.unwrap().into_inner();
    let [unknown] = &told.unknown_explanations[..] else { panic!("{told:?}") };
    assert!(unknown.nearest_rules.is_empty(), "{unknown:?}");
    assert_eq!(unknown.message, "The group has no such rule.");
}

#[tokio::test]
async fn what_is_read_back_shows_no_rule_that_its_caller_may_not_read() {
    let policies = Policies::new(&format!(
        "{EVERYTHING} forbid (principal, action == Action::\"DescribeSecurityGroupRules\", resource);"
    ));
    let mut world = undisturbed(policies.access.clone()).await;
    // The second is unknown, and near to a rule that there is; a wider one covers the first.
    let request = by_permissions(
        DEFAULT_VPC_GROUP,
        vec![tcp(443, "10.0.0.0/8"), cidr("tcp", 80, 91, "10.0.0.0/8")],
    );
    let direct = world.revoke("direct", request.clone()).await.unwrap().into_inner();
    world.server.authorize(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
    world.server.fault(FaultKind::LoseAnswer, REVOKE).await;
    world.revoke("k", request.clone()).await.unwrap_err();
    let read = world.revoke("k", request).await.unwrap().into_inner();
    assert!(read.warnings.iter().any(|w| w.kind() == WarningKind::SettledByReadBack), "{read:?}");
    for answer in [direct, read] {
        let RevokeEgressResponse { unknown_explanations, warnings, .. } = answer;
        assert_eq!(unknown_explanations.len(), 1);
        assert!(unknown_explanations[0].nearest_rules.is_empty(), "{unknown_explanations:?}");
        assert_eq!(unknown_explanations[0].message, "The group has no such rule.");
        let covered = warnings.iter().any(|w| w.kind() == WarningKind::CoveredByWiderRule);
        assert!(!covered, "{warnings:?}");
    }
}
