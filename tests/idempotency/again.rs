//! What a live call sends again, and when it does not.

use std::{sync::Arc, time::Duration};

use portcullis::{
    access::Access,
    api::proto::{
        sandbox::v1::{Fault, FaultKind},
        v1::{self, OnUnknown},
    },
};
use tonic::{Code, Request};

use crate::{
    doubt::assert_in_doubt,
    support::{self, *},
    world::*,
};

/// A rule beside that of [`https`].
const OTHER: &str = "sgr-0123456789abcdef0";

fn within<T>(time: Duration, mut request: Request<T>) -> Request<T> {
    request.set_timeout(time);
    request
}

fn open() -> Arc<Access> {
    Arc::new(Access::allow_all())
}

#[tokio::test]
async fn a_call_without_time_for_two_reads_still_gets_the_group_settled() {
    let mut world = undisturbed(open()).await;
    world.server.fault(FaultKind::ServerError, REVOKE).await;
    assert_in_doubt(world.revoke("k", https(NONDEFAULT_VPC_GROUP)).await);
    let other = by_permissions(NONDEFAULT_VPC_GROUP, vec![cidr("-1", None, None, "0.0.0.0/0")]);
    let hurried = within(Duration::from_millis(700), keyed("other", other));
    let status = world.server.groups.clone().revoke_egress(hurried).await.unwrap_err();
    let reason = support::details(&status).error_info().unwrap().reason.clone();
    assert_eq!((status.code(), reason.as_str()), (Code::Unavailable, "GROUP_IN_DOUBT"));
    // Nobody else settles here.
    let settled = tokio::time::timeout(Duration::from_secs(20), world.until("RELEASED")).await;
    assert!(settled.is_ok(), "{:?}", world.records().await);
    assert_eq!(world.server.effects().await, 0);
}

#[tokio::test]
async fn the_rest_is_sent_only_where_ec2_may_have_taken_a_part() {
    for (group, mode, goes) in [
        // The permission that nothing matches spoilt all of it.
        (NONDEFAULT_VPC_GROUP, OnUnknown::Unspecified, false),
        (NONDEFAULT_VPC_GROUP, OnUnknown::RevokeMatched, true),
        (DEFAULT_VPC_GROUP, OnUnknown::Unspecified, true),
    ] {
        let mut world = undisturbed(open()).await;
        world.set_outside(OTHER, group, 444, "10.0.0.0/8").await;
        let gone = world.server.rule_id(group, 443, "10.0.0.0/8").await;
        let three = [443, 444, 445].map(|port| tcp(port, "10.0.0.0/8"));
        let mut request = by_permissions(group, three.to_vec());
        request.on_unknown = mode.into();
        world.server.fault(FaultKind::ServerError, REVOKE).await;
        assert_in_doubt(world.revoke("k", request.clone()).await);
        world.remove_outside(group, &gone).await;
        let again = within(Duration::from_secs(3), keyed("k", request));
        let answer = world.server.groups.clone().revoke_egress(again).await;
        let rules = world.server.egress(group).await;
        let there = rules.iter().any(|rule| rule.security_group_rule_id() == OTHER);
        assert_eq!((answer.is_ok(), there), (goes, !goes), "{group} {mode:?}: {answer:?}");
    }
}

#[tokio::test]
async fn who_is_outrun_again_and_again_can_try_again() {
    let mut world = undisturbed(open()).await;
    let group = NONDEFAULT_VPC_GROUP;
    world.set_outside(OTHER, group, 444, "10.0.0.0/8").await;
    let gone = world.server.rule_id(group, 443, "10.0.0.0/8").await;
    world.remove_outside(group, &gone).await;
    // Reads do not know of it yet.
    let (kind, count) = (FaultKind::StaleRead.into(), 1000);
    world.server.inject(Fault { kind, count, ..Default::default() }).await;
    let both = [443, 444].map(|port| tcp(port, "10.0.0.0/8"));
    let mut request = by_permissions(group, both.to_vec());
    request.on_unknown = OnUnknown::RevokeMatched.into();
    let status = world.revoke("k", request.clone()).await.unwrap_err();
    let details = support::details(&status);
    let reason = details.error_info().unwrap().reason.as_str();
    assert_eq!((status.code(), reason), (Code::Aborted, "OPERATION_IN_PROGRESS"));
    assert!(details.retry_info().is_some());
    assert_eq!(world.states().await, ["RELEASED"]);
    world.server.clear_faults().await;
    let answer = world.revoke("k", request).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedPart);
    assert_eq!(answer.revoked_security_group_rules[0].security_group_rule_id(), OTHER);
}

#[tokio::test]
async fn what_was_there_before_is_not_read_back_as_added() {
    let mut world = undisturbed(open()).await;
    let group = NONDEFAULT_VPC_GROUP;
    world.set_outside(OTHER, group, 444, "10.0.0.0/8").await;
    world.server.fault(FaultKind::ServerError, AUTHORIZE).await;
    assert_in_doubt(world.authorize("k", group, tcp(444, "10.0.0.0/8")).await);
    let status = world.authorize("k", group, tcp(444, "10.0.0.0/8")).await.unwrap_err();
    let reason = support::details(&status).error_info().unwrap().reason.clone();
    assert_eq!(
        (status.code(), reason.as_str()),
        (Code::AlreadyExists, "INVALID_PERMISSION_DUPLICATE")
    );
    assert_eq!(world.states().await, ["REFUSED"]);
}

#[tokio::test]
async fn what_is_sent_again_is_compared_after_its_slot_has_come() {
    // A tenth of EC2's budget: five at once, then one in two seconds.
    let mut world = paced(10).await;
    let group = NONDEFAULT_VPC_GROUP;
    let id = world.server.rule_id(group, 443, "10.0.0.0/8").await;
    world.server.fault(FaultKind::ServerError, REVOKE).await;
    assert_in_doubt(world.revoke("k", https(group)).await);
    for port in 1..5 {
        // Of the same budget, and nothing comes of it.
        let request = by_permissions(OTHER_GROUP, vec![tcp(port, "10.0.0.0/8")]);
        world.revoke(&format!("other-{port}"), request).await.unwrap_err();
    }
    let again = within(Duration::from_secs(20), keyed("k", https(group)));
    let mut groups = world.server.groups.clone();
    let again = tokio::spawn(async move { groups.revoke_egress(again).await });
    while world.records().await.iter().all(|record| record.fence < 2) {
        tokio::task::yield_now().await;
    }
    world.set_outside(&id, group, 8443, "192.0.2.0/24").await;
    let status = again.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let rules = world.server.egress(group).await;
    assert!(rules.iter().any(|rule| rule.security_group_rule_id() == id), "{rules:?}");
}

#[tokio::test]
async fn a_peers_name_that_cannot_be_looked_up_is_not_one_that_is_not_there() {
    let mut world = undisturbed(open()).await;
    let mut permission = tcp_group(22, "sg-0d000000000000002");
    let pair = &mut permission.user_id_group_pairs[0];
    (pair.group_id, pair.group_name) = (None, Some("db".into()));
    // The group itself can be read.
    let (kind, group_id) = (FaultKind::Throttle.into(), "sg-0d000000000000002".into());
    world.server.inject(Fault { kind, group_id, ..Default::default() }).await;
    let request = by_permissions(DEFAULT_VPC_GROUP, vec![permission]);
    let status = world.revoke("k", request).await.unwrap_err();
    let reason = support::details(&status).error_info().unwrap().reason.clone();
    assert_eq!(reason, "EC2_REQUEST_LIMIT_EXCEEDED", "{status:?}");
    assert_eq!(world.records().await.len(), 0, "nothing was sent");
}
