//! How EC2 behaves, rule by rule (ec2-facts R1..R47), through a socket. Rules that are not here do not apply to a
//! call by themselves: R3 is the shape of an error, R14 and R41 say what moto does, R37 and R46 are advice.

use portcullis::api::proto::{sandbox::v1::FaultKind, v1};
use tonic::Code;

use crate::support::*;

const BOTH: [&str; 2] = [DEFAULT_VPC_GROUP, NONDEFAULT_VPC_GROUP];

#[tokio::test]
async fn r01_dry_run_is_answered_before_existence_but_after_syntax() {
    let mut server = start().await;
    let mut request = by_permissions("sg-00000000", vec![tcp(1, "10.0.0.0/8")]);
    request.dry_run = Some(true);
    let answer = server.revoke_request(request.clone()).await.unwrap();
    assert!(answer.dry_run);
    assert_eq!(answer.return_value, None);
    assert_eq!(answer.operation_id, "");
    // design.md section 7: syntax is checked under DryRun, too.
    request.group_id = Some("fake-group".into());
    let status = server.revoke_request(request).await.unwrap_err();
    assert_eq!(violations(&status), [("group_id".into(), "INVALID_GROUP_ID_MALFORMED".into())]);
    assert_eq!(server.effects().await, 0);
}

#[tokio::test]
async fn r02_authorization_precedes_the_dry_run() {
    let mut server = start().await;
    server
        .inject(portcullis::api::proto::sandbox::v1::Fault {
            kind: FaultKind::Refuse.into(),
            error_code: "UnauthorizedOperation".into(),
            ..Default::default()
        })
        .await;
    let mut request = by_permissions(DEFAULT_VPC_GROUP, vec![tcp(1, "10.0.0.0/8")]);
    request.dry_run = Some(true);
    let answer = server.revoke_request(request).await;
    assert_eq!(refusal(answer), (Code::PermissionDenied, "EC2_UNAUTHORIZED_OPERATION".into()));
}

#[tokio::test]
async fn r04_the_group_is_looked_up_before_the_rule() {
    let mut server = start().await;
    let answer = server.revoke("sg-00000000", vec![tcp(1, "10.0.0.0/8")]).await;
    assert_eq!(refusal(answer), (Code::NotFound, "INVALID_GROUP_NOT_FOUND".into()));
    let answer = server.revoke_ids("sg-00000000", &["sgr-00000000"]).await;
    assert_eq!(refusal(answer), (Code::NotFound, "INVALID_GROUP_NOT_FOUND".into()));
}

#[tokio::test]
async fn r05_rules_are_named_by_id_or_by_properties() {
    for group in BOTH {
        let mut server = start().await;
        let by_properties = server.revoke(group, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
        assert_eq!(by_properties.return_value, Some(true));
        assert_eq!(by_properties.outcome(), v1::Outcome::RevokedAll);
        assert_eq!(by_properties.revoked_security_group_rules.len(), 1);
        assert!(by_properties.unknown_ip_permissions.is_empty());
        let id = server.rule_id(group, 80, "10.0.0.0/8").await;
        let by_id = server.revoke_ids(group, &[&id]).await.unwrap();
        let revoked = &by_id.revoked_security_group_rules[0];
        assert_eq!(revoked.security_group_rule_id, Some(id));
        assert_eq!(revoked.group_id.as_deref(), Some(group));
        assert_eq!(revoked.is_egress, Some(true));
        assert_eq!((revoked.from_port, revoked.to_port), (Some(80), Some(90)));
        assert_eq!(revoked.cidr_ipv4.as_deref(), Some("10.0.0.0/8"));
        assert_eq!(server.egress(group).await.len(), 4);
    }
}

#[tokio::test]
async fn r06_a_match_is_exact_without_overlap_or_containment() {
    let mut server = start().await;
    for near in [
        cidr("tcp", 80, 80, "10.0.0.0/8"),
        cidr("tcp", 79, 91, "10.0.0.0/8"),
        cidr("udp", 80, 90, "10.0.0.0/8"),
        cidr("tcp", 80, 90, "10.0.0.0/9"),
        cidr("tcp", 80, 90, "0.0.0.0/0"),
    ] {
        let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![near]).await;
        assert_eq!(refusal(answer), (Code::NotFound, "INVALID_PERMISSION_NOT_FOUND".into()));
    }
    assert_eq!(server.egress(NONDEFAULT_VPC_GROUP).await.len(), 6);
}

#[tokio::test]
async fn r07_r08_each_peer_is_a_rule_and_a_subset_can_be_revoked() {
    for group in BOTH {
        let mut server = start().await;
        let mut three = tcp(9000, "10.1.0.0/16");
        three.ip_ranges.extend(tcp(9000, "10.2.0.0/16").ip_ranges);
        three.ip_ranges.extend(tcp(9000, "10.3.0.0/16").ip_ranges);
        let added = server.authorize(group, vec![three.clone()]).await.unwrap();
        let mut ids: Vec<_> = added
            .security_group_rules
            .iter()
            .map(|rule| rule.security_group_rule_id.clone())
            .collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        three.ip_ranges.pop();
        let revoked = server.revoke(group, vec![three]).await.unwrap();
        assert_eq!(revoked.revoked_security_group_rules.len(), 2);
        let left = server.egress(group).await;
        assert!(left.iter().any(|rule| rule.cidr_ipv4.as_deref() == Some("10.3.0.0/16")));
        assert!(!left.iter().any(|rule| rule.cidr_ipv4.as_deref() == Some("10.2.0.0/16")));
    }
}

#[tokio::test]
async fn r09_both_lists_or_neither_are_refused() {
    let mut server = start().await;
    let mut request = by_permissions(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    request.security_group_rule_ids = vec!["sgr-00000000".into()];
    let status = server.revoke_request(request).await.unwrap_err();
    let combination = "INVALID_PARAMETER_COMBINATION".to_owned();
    assert_eq!(violations(&status), [("security_group_rule_ids".into(), combination)]);
    let status = server.revoke(DEFAULT_VPC_GROUP, vec![]).await.unwrap_err();
    assert_eq!(violations(&status), [("ip_permissions".into(), "MISSING_PARAMETER".into())]);
    assert_eq!(server.effects().await, 0);
}

#[tokio::test]
async fn r10_ids_are_unique_and_assigned_at_authorize() {
    let mut server = start().await;
    let first = server.authorize(OTHER_GROUP, vec![tcp(1, "10.0.0.0/8")]).await.unwrap();
    let second = server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(1, "10.0.0.0/8")]).await.unwrap();
    let id = |answer: &v1::AuthorizeEgressResponse| {
        answer.security_group_rules[0].security_group_rule_id.clone().unwrap()
    };
    assert_ne!(id(&first), id(&second));
    assert!(id(&first).starts_with("sgr-") && id(&first).len() == 21);
    assert_eq!(server.rule_id(OTHER_GROUP, 1, "10.0.0.0/8").await, id(&first));
}

#[tokio::test]
async fn r11_an_id_of_another_group_or_direction_is_not_found() {
    for group in BOTH {
        let mut server = start().await;
        let ingress =
            server.rules(group).await.into_iter().find(|rule| rule.is_egress == Some(false));
        let ingress = ingress.unwrap().security_group_rule_id.unwrap();
        let other = server.rules(OTHER_GROUP).await[0].security_group_rule_id.clone().unwrap();
        let foreign = if group == OTHER_GROUP { ingress.clone() } else { other };
        for id in [ingress, foreign] {
            let answer = server.revoke_ids(group, &[&id]).await;
            let expected = "INVALID_SECURITY_GROUP_RULE_ID_NOT_FOUND".to_owned();
            assert_eq!(refusal(answer), (Code::NotFound, expected));
        }
        assert_eq!(server.effects().await, 0);
    }
}

#[tokio::test]
async fn r12_r13_a_description_may_be_left_out_but_not_be_wrong() {
    let mut server = start().await;
    let wrong = described(tcp(443, "10.0.0.0/8"), "something else");
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![wrong.clone()]).await;
    assert_eq!(refusal(answer), (Code::NotFound, "INVALID_PERMISSION_NOT_FOUND".into()));
    let unknown = server.revoke(DEFAULT_VPC_GROUP, vec![wrong.clone()]).await.unwrap();
    assert_eq!(unknown.unknown_ip_permissions, [wrong]);
    let right = described(tcp(443, "10.0.0.0/8"), "internal https");
    assert_eq!(
        server.revoke(NONDEFAULT_VPC_GROUP, vec![right]).await.unwrap().outcome(),
        v1::Outcome::RevokedAll
    );
    let omitted = server.revoke(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
    let revoked = &omitted.revoked_security_group_rules[0];
    assert_eq!(revoked.description.as_deref(), Some("internal https"));
}

#[tokio::test]
async fn r15_descriptions_are_not_part_of_identity() {
    let mut server = start().await;
    let again = described(tcp(443, "10.0.0.0/8"), "another text");
    let answer = server.authorize(NONDEFAULT_VPC_GROUP, vec![again]).await;
    assert_eq!(refusal(answer), (Code::AlreadyExists, "INVALID_PERMISSION_DUPLICATE".into()));
}

#[tokio::test]
async fn r16_ports_are_ignored_with_all_protocols() {
    for ports in [(None, None), (Some(0), Some(0)), (Some(-1), Some(-1)), (Some(443), Some(443))] {
        for group in BOTH {
            let mut server = start().await;
            let all = cidr("-1", ports.0, ports.1, "0.0.0.0/0");
            let answer = server.revoke(group, vec![all]).await.unwrap();
            let revoked = &answer.revoked_security_group_rules[0];
            assert_eq!(revoked.ip_protocol.as_deref(), Some("-1"));
            assert_eq!((revoked.from_port, revoked.to_port), (Some(-1), Some(-1)));
        }
    }
    // Describe rules shows -1/-1, describe groups shows no ports.
    let mut server = start().await;
    let rule = server.egress(OTHER_GROUP).await.remove(0);
    assert_eq!((rule.from_port, rule.to_port), (Some(-1), Some(-1)));
    let group = server.group(OTHER_GROUP).await;
    assert_eq!(group.ip_permissions_egress[0].from_port, None);
    assert_eq!(group.ip_permissions_egress[0].to_port, None);
}

#[tokio::test]
async fn r17_r18_names_and_numbers_in_any_case_are_one_protocol() {
    for protocol in ["6", "TCP", "Tcp"] {
        let mut server = start().await;
        let answer =
            server.revoke(NONDEFAULT_VPC_GROUP, vec![cidr(protocol, 443, 443, "10.0.0.0/8")]).await;
        assert_eq!(
            answer.unwrap().revoked_security_group_rules[0].ip_protocol.as_deref(),
            Some("tcp")
        );
    }
    let mut server = start().await;
    let all = cidr("58", None, None, "2001:db8::/32");
    let added = server.authorize("sg-0f000000000000001", vec![all]).await.unwrap();
    assert_eq!(added.security_group_rules[0].ip_protocol.as_deref(), Some("icmpv6"));
    let by_name = cidr("icmpv6", -1, -1, "2001:db8::/32");
    let answer = server.revoke("sg-0f000000000000001", vec![by_name]).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
    let status = server.revoke(DEFAULT_VPC_GROUP, vec![cidr("all", 1, 1, "10.0.0.0/8")]).await;
    assert_eq!(
        violations(&status.unwrap_err()),
        [("ip_permissions[0].ip_protocol".into(), "INVALID_PARAMETER_VALUE".into())]
    );
}

#[tokio::test]
async fn r19_ports_are_not_part_of_other_protocols_identity() {
    let mut server = start().await;
    let gre = cidr("47", 1, 2, "10.0.0.0/8");
    server.authorize(NONDEFAULT_VPC_GROUP, vec![gre]).await.unwrap();
    let rule = server
        .egress(NONDEFAULT_VPC_GROUP)
        .await
        .into_iter()
        .find(|rule| rule.ip_protocol.as_deref() == Some("47"));
    assert_eq!(rule.unwrap().from_port, Some(-1));
    let answer = server
        .revoke(NONDEFAULT_VPC_GROUP, vec![cidr("47", None, None, "10.0.0.0/8")])
        .await
        .unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
}

#[tokio::test]
async fn r20_icmp_type_and_code_are_exact() {
    let mut server = start().await;
    let wrong = cidr("icmp", 8, 8, "10.0.0.0/8");
    let answer = server.revoke(DEFAULT_VPC_GROUP, vec![wrong]).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedNothing);
    assert_eq!(answer.unknown_explanations[0].reason(), v1::UnknownReason::IcmpTypeOrCodeDiffers);
    let right = cidr("icmp", 8, -1, "10.0.0.0/8");
    let answer = server.revoke(DEFAULT_VPC_GROUP, vec![right]).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
}

#[tokio::test]
async fn r22_ranges_are_stored_in_canonical_form() {
    let mut server = start().await;
    let added =
        server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(1, "100.68.0.18/18")]).await.unwrap();
    assert_eq!(added.security_group_rules[0].cidr_ipv4.as_deref(), Some("100.68.0.0/18"));
    assert_eq!(added.warnings[0].kind(), v1::WarningKind::HostBitsSet);
    let answer = server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(1, "100.68.0.1/18")]).await;
    assert_eq!(refusal(answer), (Code::AlreadyExists, "INVALID_PERMISSION_DUPLICATE".into()));
    let v6 = cidr("tcp", 1, 1, "2001:0DB8:0:0::1/32");
    let added = server.authorize("sg-0f000000000000001", vec![v6]).await.unwrap();
    assert_eq!(added.security_group_rules[0].cidr_ipv6.as_deref(), Some("2001:db8::/32"));
}

#[tokio::test]
async fn r23_another_spelling_of_the_range_matches() {
    for group in BOTH {
        let mut server = start().await;
        let answer = server.revoke(group, vec![tcp(443, "10.99.1.2/8")]).await.unwrap();
        assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
        let kinds: Vec<_> = answer.warnings.iter().map(v1::Warning::kind).collect();
        assert!(kinds.contains(&v1::WarningKind::HostBitsSet));
    }
}

#[tokio::test]
async fn r24_describe_output_that_mixes_groups_and_ranges_revokes_as_it_is() {
    for group in BOTH {
        let mut server = start().await;
        let mixed =
            tcp_group(22, if group == DEFAULT_VPC_GROUP { DEFAULT_VPC_GROUP } else { group });
        server.authorize(group, vec![mixed]).await.unwrap();
        server.authorize(group, vec![tcp(22, "10.7.0.0/16")]).await.unwrap();
        let described = server.group(group).await;
        assert!(described.ip_permissions_egress.iter().any(|permission| {
            !permission.ip_ranges.is_empty() && !permission.user_id_group_pairs.is_empty()
        }));
        let answer = server.revoke(group, described.ip_permissions_egress).await.unwrap();
        assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
        assert_eq!(answer.revoked_security_group_rules.len(), 8);
        assert_eq!(server.egress(group).await, []);
    }
}

#[tokio::test]
async fn r25_a_group_peer_is_matched_by_id_and_owner_alone() {
    let mut server = start().await;
    let mut permission = tcp_group(22, OTHER_GROUP);
    let pair = &mut permission.user_id_group_pairs[0];
    pair.group_name = Some("whatever".into());
    pair.vpc_id = Some(NONDEFAULT_VPC.into());
    pair.peering_status = Some("active".into());
    pair.vpc_peering_connection_id = Some("pcx-00000000".into());
    pair.user_id = Some("999999999999".into());
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![permission.clone()]).await;
    let status = answer.unwrap_err();
    let detail = unknown_detail(&status);
    assert_eq!(detail.unknown_explanations[0].reason(), v1::UnknownReason::PeerOwnerDiffers);
    permission.user_id_group_pairs[0].user_id = Some("123456789012".into());
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![permission]).await.unwrap();
    let revoked = &answer.revoked_security_group_rules[0];
    assert_eq!(revoked.referenced_group_id.as_deref(), Some(OTHER_GROUP));
}

#[tokio::test]
async fn r26_a_group_may_refer_to_itself() {
    let mut server = start().await;
    let own = tcp_group(1, NONDEFAULT_VPC_GROUP);
    server.authorize(NONDEFAULT_VPC_GROUP, vec![own.clone()]).await.unwrap();
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![own]).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
}

#[tokio::test]
async fn r27_r28_a_stale_reference_to_a_peer_vpc_is_revoked_like_any_rule() {
    let mut server = start().await;
    let peer = server.create("peer", NONDEFAULT_VPC).await.unwrap();
    let reference = tcp_group(1, &peer);
    server.authorize("sg-0f000000000000001", vec![reference.clone()]).await.unwrap();
    let find = |rules: Vec<v1::SecurityGroupRule>| {
        rules.into_iter().find_map(|rule| rule.referenced_group_info).unwrap()
    };
    let live = find(server.egress("sg-0f000000000000001").await);
    assert_eq!(live.user_id.as_deref(), Some("123456789012"));
    assert_eq!(live.vpc_id.as_deref(), Some(NONDEFAULT_VPC));
    let delete = v1::DeleteSecurityGroupRequest { group_id: Some(peer), ..Default::default() };
    server.groups.delete_security_group(delete).await.unwrap();
    let stale = find(server.egress("sg-0f000000000000001").await);
    assert_eq!((stale.user_id, stale.vpc_id), (None, None));
    let answer = server.revoke("sg-0f000000000000001", vec![reference]).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
}

#[tokio::test]
async fn r27_within_a_vpc_a_referenced_group_cannot_be_deleted() {
    let mut server = start().await;
    let delete =
        v1::DeleteSecurityGroupRequest { group_id: Some(OTHER_GROUP.into()), ..Default::default() };
    let answer = server.groups.delete_security_group(delete).await;
    assert_eq!(refusal(answer), (Code::FailedPrecondition, "DEPENDENCY_VIOLATION".into()));
}

#[tokio::test]
async fn r28_own_references_show_their_owner() {
    let mut server = start().await;
    let rules = server.egress(NONDEFAULT_VPC_GROUP).await;
    let info = rules.into_iter().find_map(|rule| rule.referenced_group_info).unwrap();
    assert_eq!(info.group_id.as_deref(), Some(OTHER_GROUP));
    assert_eq!(info.user_id.as_deref(), Some("123456789012"));
}

#[tokio::test]
async fn r29_a_prefix_list_is_matched_by_id_and_weighs_its_entries() {
    let mut server = start().await;
    let list = prefix_list("tcp", 443, "pl-0a000000000000001");
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![list.clone()]).await.unwrap();
    let revoked = &answer.revoked_security_group_rules[0];
    assert_eq!(revoked.prefix_list_id.as_deref(), Some("pl-0a000000000000001"));
    // One rule to everywhere, and 55 more: five are left, the list's weight.
    let group = server.create("weight", NONDEFAULT_VPC).await.unwrap();
    let mut many = permission("tcp", 1, 1);
    many.ip_ranges = (0..54).flat_map(|n| tcp(1, &format!("10.{n}.0.0/16")).ip_ranges).collect();
    server.authorize(&group, vec![many]).await.unwrap();
    server.authorize(&group, vec![list]).await.unwrap();
    let answer = server.authorize(&group, vec![tcp(1, "10.100.0.0/16")]).await;
    let expected = "RULES_PER_SECURITY_GROUP_LIMIT_EXCEEDED".to_owned();
    assert_eq!(refusal(answer), (Code::FailedPrecondition, expected));
}

#[tokio::test]
async fn r30_the_same_permission_twice_is_refused_however_spelled() {
    let mut server = start().await;
    let twice = vec![tcp(443, "10.0.0.0/8"), cidr("6", 443, 443, "10.1.2.3/8")];
    let path = "ip_permissions[1].ip_ranges[0]".to_owned();
    let expected = [(path, "INVALID_PARAMETER_VALUE".to_owned())];
    let status = server.revoke(DEFAULT_VPC_GROUP, twice.clone()).await.unwrap_err();
    assert_eq!(violations(&status), expected);
    let status = server.authorize(DEFAULT_VPC_GROUP, twice).await.unwrap_err();
    assert_eq!(violations(&status), expected);
    assert_eq!(server.effects().await, 0);
}

#[tokio::test]
async fn r31_a_duplicate_is_described_in_ec2s_words_and_nothing_is_added() {
    let mut server = start().await;
    let cases = [
        (tcp(443, "10.0.0.0/8"), "peer: 10.0.0.0/8, TCP, from port: 443, to port: 443, ALLOW"),
        (cidr("-1", None, None, "0.0.0.0/0"), "peer: 0.0.0.0/0, ALL, ALLOW"),
        (cidr("icmp", 8, -1, "10.0.0.0/8"), "peer: 10.0.0.0/8, ICMP, type: 8, code: ALL, ALLOW"),
        (
            tcp_group(22, OTHER_GROUP),
            "peer: sg-0e000000000000002, TCP, from port: 22, to port: 22, ALLOW",
        ),
    ];
    for (duplicate, words) in cases {
        let both = vec![tcp(7, "10.0.0.0/8"), duplicate];
        let status = server.authorize(NONDEFAULT_VPC_GROUP, both).await.unwrap_err();
        assert_eq!(ec2_code(&status), "InvalidPermission.Duplicate");
        assert_eq!(status.message(), format!("the specified rule \"{words}\" already exists"));
    }
    assert_eq!(server.effects().await, 0);
    // R21's wording for all of ICMP.
    let all = vec![cidr("icmp", -1, -1, "10.0.0.0/8")];
    server.authorize(NONDEFAULT_VPC_GROUP, all.clone()).await.unwrap();
    let status = server.authorize(NONDEFAULT_VPC_GROUP, all).await.unwrap_err();
    assert!(status.message().contains("ICMP, type: ALL, code: ALL, ALLOW"), "{status:?}");
}

#[tokio::test]
async fn r32_the_same_rule_id_twice_is_refused() {
    let mut server = start().await;
    let id = server.rule_id(DEFAULT_VPC_GROUP, 443, "10.0.0.0/8").await;
    let status = server.revoke_ids(DEFAULT_VPC_GROUP, &[&id, &id]).await.unwrap_err();
    let field = "security_group_rule_ids[1]".to_owned();
    assert_eq!(violations(&status), [(field, "INVALID_PARAMETER_VALUE".into())]);
}

#[tokio::test]
async fn r33_nondefault_vpc_any_mismatch_removes_nothing() {
    let mut server = start().await;
    let asked = vec![tcp(443, "10.0.0.0/8"), tcp(444, "10.0.0.0/8")];
    let status = server.revoke(NONDEFAULT_VPC_GROUP, asked).await.unwrap_err();
    assert_eq!(ec2_code(&status), "InvalidPermission.NotFound");
    let detail = unknown_detail(&status);
    assert_eq!(detail.unknown_ip_permissions, [tcp(444, "10.0.0.0/8")]);
    assert_eq!(detail.total, 1);
    assert!(!detail.truncated);
    assert_eq!(server.egress(NONDEFAULT_VPC_GROUP).await.len(), 6);
    assert_eq!(server.effects().await, 0);
}

#[tokio::test]
async fn r34_default_vpc_a_mismatch_is_a_success_that_lists_it() {
    let mut server = start().await;
    let answer = server.revoke(DEFAULT_VPC_GROUP, vec![tcp(444, "10.0.0.0/8")]).await.unwrap();
    assert_eq!(answer.return_value, Some(true));
    assert_eq!(answer.unknown_ip_permissions, [tcp(444, "10.0.0.0/8")]);
    assert_eq!(answer.revoked_security_group_rules, []);
    assert_eq!(answer.outcome(), v1::Outcome::RevokedNothing);
    assert_eq!(answer.unknown_explanations.len(), 1);
    assert_eq!(server.egress(DEFAULT_VPC_GROUP).await.len(), 6);
}

#[tokio::test]
async fn r35_default_vpc_what_matches_goes_and_the_rest_is_unknown() {
    let mut server = start().await;
    let asked = vec![tcp(443, "10.0.0.0/8"), tcp(444, "10.0.0.0/8")];
    let answer = server.revoke(DEFAULT_VPC_GROUP, asked).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedPart);
    assert_eq!(answer.revoked_security_group_rules.len(), 1);
    assert_eq!(answer.unknown_ip_permissions, [tcp(444, "10.0.0.0/8")]);
    assert_eq!(server.egress(DEFAULT_VPC_GROUP).await.len(), 5);
}

#[tokio::test]
async fn r36_default_vpc_is_about_the_vpc_and_not_the_groups_name() {
    let mut server = start().await;
    let request = v1::DescribeSecurityGroupsRequest {
        filters: vec![
            v1::Filter { name: Some("group-name".into()), values: vec!["default".into()] },
            v1::Filter { name: Some("vpc-id".into()), values: vec![NONDEFAULT_VPC.into()] },
        ],
        ..Default::default()
    };
    let groups = server.groups.describe_security_groups(request).await.unwrap().into_inner();
    let default_group = groups.security_groups[0].group_id.clone().unwrap();
    let answer = server.revoke(&default_group, vec![tcp(1, "10.0.0.0/8")]).await;
    assert_eq!(refusal(answer), (Code::NotFound, "INVALID_PERMISSION_NOT_FOUND".into()));
}

#[tokio::test]
async fn r38_r39_an_unknown_id_is_an_error_in_both_kinds_and_nothing_goes() {
    for group in BOTH {
        let mut server = start().await;
        let id = server.rule_id(group, 443, "10.0.0.0/8").await;
        let status = server.revoke_ids(group, &[&id, "sgr-00000000"]).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(ec2_code(&status), "InvalidSecurityGroupRuleId.NotFound");
        let detail = unknown_detail(&status);
        assert_eq!(detail.unknown_security_group_rule_ids, ["sgr-00000000"]);
        assert_eq!(server.egress(group).await.len(), 6);
    }
}

#[tokio::test]
async fn r40_an_ipv6_peer_in_an_ipv4_vpc_is_unknown_and_never_dropped_silently() {
    let mut server = start().await;
    let v6 = cidr("-1", None, None, "::/0");
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![v6.clone()]).await;
    assert_eq!(refusal(answer), (Code::NotFound, "INVALID_PERMISSION_NOT_FOUND".into()));
    let answer = server.revoke(DEFAULT_VPC_GROUP, vec![v6.clone()]).await.unwrap();
    assert_eq!(answer.unknown_ip_permissions, [v6]);
}

#[tokio::test]
async fn r42_repeating_a_revoke_depends_on_the_vpc() {
    for group in BOTH {
        let mut server = start().await;
        server.revoke(group, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
        let again = server.revoke(group, vec![tcp(443, "10.0.0.0/8")]).await;
        if group == DEFAULT_VPC_GROUP {
            assert_eq!(again.unwrap().outcome(), v1::Outcome::RevokedNothing);
        } else {
            assert_eq!(refusal(again), (Code::NotFound, "INVALID_PERMISSION_NOT_FOUND".into()));
        }
        assert_eq!(server.effects().await, 1);
    }
}

#[tokio::test]
async fn r43_a_new_group_has_the_default_egress_rules_of_its_vpc() {
    let mut server = start().await;
    let v4 = server.create("plain", NONDEFAULT_VPC).await.unwrap();
    let rules = server.rules(&v4).await;
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].cidr_ipv4.as_deref(), Some("0.0.0.0/0"));
    assert_eq!(rules[0].is_egress, Some(true));
    let v6 = server.create("dual", IPV6_VPC).await.unwrap();
    let group = server.group(&v6).await;
    assert_eq!(group.ip_permissions, []);
    assert_eq!(group.ip_permissions_egress.len(), 1);
    assert_eq!(group.ip_permissions_egress[0].ip_ranges.len(), 1);
    assert_eq!(group.ip_permissions_egress[0].ipv6_ranges[0].cidr_ipv6.as_deref(), Some("::/0"));
}

#[tokio::test]
async fn r44_the_last_egress_rule_may_go_with_a_warning() {
    let mut server = start().await;
    let answer =
        server.revoke(OTHER_GROUP, vec![cidr("-1", None, None, "0.0.0.0/0")]).await.unwrap();
    let kinds: Vec<_> = answer.warnings.iter().map(v1::Warning::kind).collect();
    assert!(kinds.contains(&v1::WarningKind::LastEgressRuleRemoved));
    assert!(kinds.contains(&v1::WarningKind::ConnectionsStayTracked));
    assert_eq!(server.egress(OTHER_GROUP).await, []);
}

#[tokio::test]
async fn r45_each_vpc_has_an_undeletable_default_group() {
    let mut server = start().await;
    let filter = v1::Filter { name: Some("group-name".into()), values: vec!["default".into()] };
    let request = v1::DescribeSecurityGroupsRequest { filters: vec![filter], ..Default::default() };
    let groups =
        server.groups.describe_security_groups(request).await.unwrap().into_inner().security_groups;
    assert_eq!(groups.len(), 3);
    for group in groups {
        let id = group.group_id.clone().unwrap();
        let ingress = &group.ip_permissions[0];
        assert_eq!(ingress.ip_protocol.as_deref(), Some("-1"));
        assert_eq!(ingress.user_id_group_pairs[0].group_id.as_ref(), Some(&id));
        let delete =
            v1::DeleteSecurityGroupRequest { group_id: Some(id.clone()), ..Default::default() };
        let answer = server.groups.delete_security_group(delete).await;
        assert_eq!(refusal(answer), (Code::FailedPrecondition, "CANNOT_DELETE".into()));
        let answer = server.revoke(&id, vec![cidr("-1", None, None, "0.0.0.0/0")]).await.unwrap();
        assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
    }
}

#[tokio::test]
async fn r47_a_stale_read_does_not_make_a_rule_unknown() {
    let mut server = start().await;
    server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(7, "10.0.0.0/8")]).await.unwrap();
    server.fault(FaultKind::StaleRead, "DescribeSecurityGroupRules").await;
    let mut request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(7, "10.0.0.0/8")]);
    request.on_unknown = v1::OnUnknown::Fail.into();
    let answer = server.revoke_request(request).await.unwrap();
    assert_eq!(answer.outcome(), v1::Outcome::RevokedAll);
}

#[tokio::test]
async fn r47_verify_reads_until_the_change_is_visible() {
    let mut server = start().await;
    let mut request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    request.verify = true;
    let answer = server.revoke_request(request).await.unwrap();
    let verification = answer.verification.unwrap();
    assert!(verification.visible);
    assert_eq!(verification.attempts, 1);
    assert!(verification.checked_at.unwrap().seconds > 0);
}
