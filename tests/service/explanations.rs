//! Why a permission was unknown, `on_unknown`, and warnings.

use portcullis::api::proto::{sandbox::v1::FaultKind, v1, v1::UnknownReason};
use tonic::Code;

use crate::support::*;

/// Asks for one permission that is not there; gives the explanation. OTHER_GROUP's default rule is gone, so that it
/// does not cover everything.
async fn explained(server: &mut Server, permission: v1::IpPermission) -> v1::UnknownExplanation {
    let status = server.revoke(NONDEFAULT_VPC_GROUP, vec![permission]).await.unwrap_err();
    let mut detail = unknown_detail(&status);
    assert_eq!(detail.unknown_explanations.len(), 1);
    detail.unknown_explanations.pop().unwrap()
}

#[tokio::test]
async fn each_reason_names_a_rule_that_exists() {
    let mut server = start().await;
    server.revoke(NONDEFAULT_VPC_GROUP, vec![cidr("-1", None, None, "0.0.0.0/0")]).await.unwrap();
    let cases = [
        (cidr("tcp", 80, 80, "10.0.0.0/8"), UnknownReason::PortRangeDiffers),
        (cidr("icmp", 8, 0, "10.0.0.0/8"), UnknownReason::IcmpTypeOrCodeDiffers),
        (cidr("udp", 443, 443, "10.0.0.0/8"), UnknownReason::ProtocolDiffers),
        (described(tcp(443, "10.0.0.0/8"), "no"), UnknownReason::DescriptionDiffers),
        (tcp(443, "10.1.0.0/16"), UnknownReason::CoveredByWiderRule),
        (tcp(8443, "10.0.0.0/8"), UnknownReason::ExistsInOtherDirection),
        (tcp(443, "192.0.2.0/24"), UnknownReason::NoSuchDestination),
    ];
    let ids: Vec<_> = server
        .rules(NONDEFAULT_VPC_GROUP)
        .await
        .into_iter()
        .map(|rule| rule.security_group_rule_id)
        .collect();
    for (permission, reason) in cases {
        let explanation = explained(&mut server, permission.clone()).await;
        assert_eq!(explanation.reason(), reason, "{permission:?}");
        assert!(!explanation.message.is_empty());
        assert!(explanation.nearest_rules.len() <= 3);
        assert_eq!(
            explanation.nearest_rules.is_empty(),
            reason == UnknownReason::NoSuchDestination
        );
        for rule in &explanation.nearest_rules {
            assert!(ids.contains(&rule.security_group_rule_id));
        }
        let subject = v1::unknown_explanation::Subject::IpPermission(permission);
        assert_eq!(explanation.subject, Some(subject));
    }
}

#[tokio::test]
async fn a_rule_id_of_another_group_or_direction_is_explained() {
    let mut server = start().await;
    let other = server.rules(OTHER_GROUP).await[0].security_group_rule_id.clone().unwrap();
    let rules = server.rules(NONDEFAULT_VPC_GROUP).await;
    let ingress = rules.iter().find(|rule| rule.is_egress == Some(false)).unwrap();
    let ingress = ingress.security_group_rule_id.clone().unwrap();
    let asked = [other.as_str(), ingress.as_str(), "sgr-00000000"];
    let status = server.revoke_ids(NONDEFAULT_VPC_GROUP, &asked).await.unwrap_err();
    let detail = unknown_detail(&status);
    let reasons: Vec<_> =
        detail.unknown_explanations.iter().map(v1::UnknownExplanation::reason).collect();
    let expected = [
        UnknownReason::BelongsToAnotherGroup,
        UnknownReason::ExistsInOtherDirection,
        UnknownReason::NoSuchDestination,
    ];
    assert_eq!(reasons, expected);
    let owner = &detail.unknown_explanations[0].nearest_rules[0];
    assert_eq!(owner.group_id.as_deref(), Some(OTHER_GROUP));
    // A single explanation follows EC2's sentence, which has no full stop.
    let status = server.revoke_ids(NONDEFAULT_VPC_GROUP, &["sgr-00000000"]).await.unwrap_err();
    let message = "The security group rule ID 'sgr-00000000' does not exist. This security group";
    assert!(status.message().starts_with(message), "{}", status.message());
}

#[tokio::test]
async fn a_peer_that_does_not_exist_is_named_and_not_the_group() {
    let mut server = start().await;
    let asked = vec![tcp_group(1, "sg-00000000")];
    let revoke = server.revoke(NONDEFAULT_VPC_GROUP, asked.clone()).await.unwrap_err();
    let authorize = server.authorize(NONDEFAULT_VPC_GROUP, asked).await.unwrap_err();
    for status in [revoke, authorize] {
        assert_eq!(ec2_code(&status), "InvalidGroup.NotFound");
        assert_eq!(status.message(), "The security group 'sg-00000000' does not exist");
        let resource = details(&status).resource_info().unwrap().resource_name.clone();
        assert_eq!(resource, "sg-00000000");
    }
}

#[tokio::test]
async fn fail_refuses_before_sending_in_either_kind_of_vpc() {
    for group in [DEFAULT_VPC_GROUP, NONDEFAULT_VPC_GROUP] {
        let mut server = start().await;
        let mut request =
            by_permissions(group, vec![tcp(443, "10.0.0.0/8"), tcp(444, "10.0.0.0/8")]);
        request.on_unknown = v1::OnUnknown::Fail.into();
        let status = server.revoke_request(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(unknown_detail(&status).unknown_ip_permissions, [tcp(444, "10.0.0.0/8")]);
        let state = server.state().await;
        assert_eq!(state.effects, []);
        assert_eq!(state.calls.get("RevokeSecurityGroupEgress"), None);
    }
}

#[tokio::test]
async fn revoke_matched_removes_the_rest_in_either_kind_of_vpc() {
    for group in [DEFAULT_VPC_GROUP, NONDEFAULT_VPC_GROUP] {
        let mut server = start().await;
        let id = server.rule_id(group, 443, "10.0.0.0/8").await;
        let mut request =
            by_permissions(group, vec![tcp(443, "10.0.0.0/8"), tcp(444, "10.0.0.0/8")]);
        request.on_unknown = v1::OnUnknown::RevokeMatched.into();
        let answer = server.revoke_request(request.clone()).await.unwrap();
        assert_eq!(answer.outcome(), v1::Outcome::RevokedPart);
        assert_eq!(answer.unknown_ip_permissions, [tcp(444, "10.0.0.0/8")]);
        assert_eq!(answer.revoked_security_group_rules[0].security_group_rule_id, Some(id));
        let again = server.revoke_request(request).await.unwrap();
        assert_eq!(again.outcome(), v1::Outcome::RevokedNothing);
        assert_eq!(again.unknown_explanations.len(), 2);
        assert_eq!(server.effects().await, 1);

        let left = server.rule_id(group, 80, "10.0.0.0/8").await;
        let mut by_id = by_ids(group, &[&left, "sgr-00000000"]);
        by_id.on_unknown = v1::OnUnknown::RevokeMatched.into();
        let answer = server.revoke_request(by_id).await.unwrap();
        assert_eq!(answer.unknown_security_group_rule_ids, ["sgr-00000000"]);
        assert_eq!(answer.outcome(), v1::Outcome::RevokedPart);
    }
}

#[tokio::test]
async fn an_explanation_names_no_rule_that_the_call_itself_removes() {
    for on_unknown in [v1::OnUnknown::Unspecified, v1::OnUnknown::RevokeMatched] {
        let mut server = start().await;
        let asked = vec![tcp(443, "10.0.0.0/8"), tcp(443, "10.1.0.0/16")];
        let removed = server.rule_id(DEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
        let mut request = by_permissions(DEFAULT_VPC_GROUP, asked);
        request.on_unknown = on_unknown.into();
        let answer = server.revoke_request(request).await.unwrap();
        let explanation = &answer.unknown_explanations[0];
        assert_eq!(explanation.reason(), UnknownReason::CoveredByWiderRule);
        for rule in &explanation.nearest_rules {
            assert_ne!(rule.security_group_rule_id.as_ref(), Some(&removed));
        }
    }
}

#[tokio::test]
async fn a_rule_that_vanishes_between_reading_and_sending_changed_concurrently() {
    let mut server = start().await;
    server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
    // The pre-image is read from before that revoke.
    server.fault(FaultKind::StaleRead, "DescribeSecurityGroupRules").await;
    let status =
        server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap_err();
    let detail = unknown_detail(&status);
    assert_eq!(detail.unknown_explanations[0].reason(), UnknownReason::ChangedConcurrently);
}

#[tokio::test]
async fn warnings_name_wider_rules_and_foreign_owners() {
    let mut server = start().await;
    server
        .load(
            r#"{"SecurityGroups": [{"GroupId": "sg-0e000000000000009", "GroupName": "stack", "Description": "d",
            "VpcId": "vpc-0e000000000000000", "OwnerId": "123456789012",
            "Tags": [{"Key": "aws:cloudformation:stack-name", "Value": "network"}],
            "IpPermissionsEgress": [
              {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.1.0.0/16"}]},
              {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1000, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}]}"#,
        )
        .await;
    let wider = server.rule_id("sg-0e000000000000009", 1, "10.0.0.0/8").await;
    let answer =
        server.revoke("sg-0e000000000000009", vec![tcp(443, "10.1.0.0/16")]).await.unwrap();
    let covered = &answer.warnings[0];
    assert_eq!(covered.kind(), v1::WarningKind::CoveredByWiderRule);
    assert_eq!(covered.security_group_rule_id, wider);
    let owned = &answer.warnings[1];
    assert_eq!(owned.kind(), v1::WarningKind::OwnedElsewhere);
    assert!(owned.message.contains("CloudFormation stack network"), "{}", owned.message);
}

#[tokio::test]
async fn the_largest_error_stays_within_its_bound_and_says_what_was_cut() {
    let mut server = start().await;
    let mut many = permission("tcp", 7, 7);
    many.ip_ranges = (0..1000)
        .flat_map(|n| tcp(7, &format!("10.{}.{}.0/24", n / 256, n % 256)).ip_ranges)
        .collect();
    let status = server.revoke(NONDEFAULT_VPC_GROUP, vec![many.clone()]).await.unwrap_err();
    let (code, reason) = refusal::<()>(Err(status.clone()));
    assert_eq!((code, reason.as_str()), (Code::NotFound, "INVALID_PERMISSION_NOT_FOUND"));
    let detail = unknown_detail(&status);
    assert_eq!(detail.total, 1000);
    assert!(detail.truncated);
    assert!(!detail.unknown_explanations.is_empty());
    assert!(!detail.unknown_ip_permissions.is_empty());
    // In a default VPC it is an answer, which may be long: nothing is cut.
    let answer = server.revoke(DEFAULT_VPC_GROUP, vec![many.clone()]).await.unwrap();
    assert_eq!(answer.unknown_ip_permissions, [many]);
    assert_eq!(answer.unknown_explanations.len(), 1000);
}

#[tokio::test]
async fn r30_a_group_by_name_and_by_id_is_one_permission_whatever_is_said_of_unknown_ones() {
    for on_unknown in
        [v1::OnUnknown::Unspecified, v1::OnUnknown::Fail, v1::OnUnknown::RevokeMatched]
    {
        // The group has such a rule for the one port, and none for the other.
        for port in [22, 23] {
            let mut server = start().await;
            let mut twice = tcp_group(port, "sg-0d000000000000002");
            twice
                .user_id_group_pairs
                .push(v1::UserIdGroupPair { group_name: Some("db".into()), ..Default::default() });
            let mut request = by_permissions(DEFAULT_VPC_GROUP, vec![twice]);
            request.on_unknown = on_unknown.into();
            let status = server.revoke_request(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{on_unknown:?} {port}: {status:?}");
            assert_eq!(status.message(), "The same permission must not appear multiple times");
            assert_eq!(server.effects().await, 0);
        }
    }
}
