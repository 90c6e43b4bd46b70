//! Bad requests: every violation at once, each with its field path and EC2's code.

use portcullis::api::proto::v1;
use tonic::Code;

use crate::support::*;

async fn refused(permissions: Vec<v1::IpPermission>) -> Vec<(String, String)> {
    let mut server = start().await;
    let status = server.revoke(DEFAULT_VPC_GROUP, permissions).await.unwrap_err();
    assert_eq!(server.state().await.calls.len(), 0, "the backend was called");
    violations(&status)
}

fn value(field: &str) -> (String, String) {
    (field.to_owned(), "INVALID_PARAMETER_VALUE".to_owned())
}

#[tokio::test]
async fn the_group_id_is_required_and_has_a_form() {
    let mut server = start().await;
    let status = server.revoke_request(v1::RevokeEgressRequest::default()).await.unwrap_err();
    assert_eq!(
        violations(&status),
        [
            ("group_id".into(), "MISSING_PARAMETER".into()),
            ("ip_permissions".into(), "MISSING_PARAMETER".into()),
        ]
    );
    for bad in ["0", "eks-cluster-sg-x", "sg-123", "SG-00000000", "sg-0000000G"] {
        let status = server.revoke(bad, vec![tcp(1, "10.0.0.0/8")]).await.unwrap_err();
        assert_eq!(violations(&status), [("group_id".into(), "INVALID_GROUP_ID_MALFORMED".into())]);
    }
}

#[tokio::test]
async fn permissions_are_checked_member_by_member() {
    let mut pair = permission("tcp", 1, 1);
    pair.user_id_group_pairs = vec![
        v1::UserIdGroupPair {
            group_id: Some("web".into()),
            user_id: Some("12".into()),
            ..Default::default()
        },
        v1::UserIdGroupPair::default(),
    ];
    let mut lists = permission("tcp", 1, 1);
    lists.prefix_list_ids = vec![v1::PrefixListId {
        prefix_list_id: Some("pl-xyz".into()),
        description: Some("a & b".into()),
    }];
    let found = refused(vec![
        cidr("tcp", None, 1, "10.0.0.0/8"),
        cidr("tcp", 1, 65536, "10.0.0.0/8"),
        cidr("udp", -1, -1, "10.0.0.0/8"),
        cidr("tcp", 80, 70, "10.0.0.0/8"),
        cidr("icmp", 8, 65535, "10.0.0.0/8"),
        cidr("icmp", -1, 3, "10.0.0.0/8"),
        cidr("esp", None, None, "10.0.0.0/8"),
        v1::IpPermission { ip_protocol: None, ..tcp(1, "10.0.0.0/8") },
        permission("tcp", 1, 1),
        tcp(1, "10.0.0.0"),
        tcp(1, "10.0.0.0/33"),
        described(tcp(2, "10.0.0.0/8"), "it's"),
        described(tcp(3, "10.0.0.0/8"), &"x".repeat(256)),
        pair,
        lists,
    ])
    .await;
    let expected = [
        value("ip_permissions[0].from_port"),
        value("ip_permissions[1].to_port"),
        value("ip_permissions[2].from_port"),
        value("ip_permissions[2].to_port"),
        value("ip_permissions[3].to_port"),
        value("ip_permissions[4].to_port"),
        value("ip_permissions[5].to_port"),
        value("ip_permissions[6].ip_protocol"),
        value("ip_permissions[7].ip_protocol"),
        value("ip_permissions[8]"),
        value("ip_permissions[9].ip_ranges[0].cidr_ip"),
        value("ip_permissions[10].ip_ranges[0].cidr_ip"),
        value("ip_permissions[11].ip_ranges[0].description"),
        value("ip_permissions[12].ip_ranges[0].description"),
        (
            "ip_permissions[13].user_id_group_pairs[0].group_id".into(),
            "INVALID_GROUP_ID_MALFORMED".into(),
        ),
        value("ip_permissions[13].user_id_group_pairs[0].user_id"),
        value("ip_permissions[13].user_id_group_pairs[1].group_id"),
        (
            "ip_permissions[14].prefix_list_ids[0].prefix_list_id".into(),
            "INVALID_PREFIX_LIST_ID_MALFORMED".into(),
        ),
        value("ip_permissions[14].prefix_list_ids[0].description"),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_ipv6_range_is_not_an_ipv4_range() {
    let mut wrong = permission("tcp", 1, 1);
    wrong.ip_ranges = vec![v1::IpRange { cidr_ip: Some("::/0".into()), description: None }];
    assert_eq!(refused(vec![wrong]).await, [value("ip_permissions[0].ip_ranges[0].cidr_ip")]);
}

#[tokio::test]
async fn a_range_with_leading_zeros_is_malformed() {
    // Some read them as octal numbers, others as decimal ones: 010.0.0.0 would be 8.0.0.0 or 10.0.0.0.
    for ambiguous in [
        "010.0.0.0/8",
        "10.0.0.00/8",
        "10.0.0.0/08",
        "10.0.0.0/00",
        "1::/08",
        "::ffff:010.0.0.0/104",
    ] {
        let path = if ambiguous.contains(':') { "ipv6_ranges" } else { "ip_ranges" };
        let path = format!("ip_permissions[0].{path}[0]");
        let found = refused(vec![tcp(1, ambiguous)]).await;
        let [(field, code)] = found.as_slice() else { panic!("{ambiguous}: {found:?}") };
        assert!(field.starts_with(&path) && code == "INVALID_PARAMETER_VALUE", "{found:?}");
    }
    let mut server = start().await;
    for fine in ["0.0.0.0/0", "10.0.0.0/10", "0001:0db8::/32", "::/0", "::ffff:10.0.0.0/104"] {
        server.authorize(NONDEFAULT_VPC_GROUP, vec![tcp(1, fine)]).await.unwrap();
    }
}

#[tokio::test]
async fn ampersands_are_for_ranges_only() {
    let mut server = start().await;
    let fine = described(tcp(5, "10.0.0.0/8"), "a & b");
    server.authorize(NONDEFAULT_VPC_GROUP, vec![fine]).await.unwrap();
    let pair = described(tcp_group(5, OTHER_GROUP), "a & b");
    let status = server.authorize(NONDEFAULT_VPC_GROUP, vec![pair]).await.unwrap_err();
    assert_eq!(
        violations(&status),
        [value("ip_permissions[0].user_id_group_pairs[0].description")]
    );
}

#[tokio::test]
async fn at_most_1000_rules_in_a_call() {
    let mut many = permission("tcp", 7, 7);
    many.ip_ranges = (0..1001)
        .flat_map(|n| tcp(7, &format!("10.{}.{}.0/24", n / 256, n % 256)).ip_ranges)
        .collect();
    assert_eq!(
        refused(vec![many]).await,
        [("ip_permissions".to_owned(), "RESOURCE_COUNT_EXCEEDED".to_owned())]
    );
}

#[tokio::test]
async fn rule_ids_have_a_form() {
    let mut server = start().await;
    let bad = ["10.0.0.0/8", "sgr-0123456789abcdef01", ""];
    let status = server.revoke_ids(DEFAULT_VPC_GROUP, &bad).await.unwrap_err();
    let malformed = |n: usize| {
        let code = "INVALID_SECURITY_GROUP_RULE_ID_MALFORMED".to_owned();
        (format!("security_group_rule_ids[{n}]"), code)
    };
    assert_eq!(violations(&status), [malformed(0), malformed(1), malformed(2)]);
    // Whatever else follows the prefix names no rule. The status is a header: nothing breaks it.
    for odd in ["sgr-a b", "sgr-é", "sgr-\0\u{1}\r\nx: y\u{7f}"] {
        for group in [DEFAULT_VPC_GROUP, NONDEFAULT_VPC_GROUP] {
            let status = server.revoke_ids(group, &[odd]).await.unwrap_err();
            assert_eq!(status.code(), Code::NotFound);
            assert_eq!(ec2_code(&status), "InvalidSecurityGroupRuleId.NotFound");
            assert_eq!(unknown_detail(&status).unknown_security_group_rule_ids, [odd]);
            assert!(!status.message().chars().any(char::is_control), "{status:?}");
        }
    }
}

#[tokio::test]
async fn a_describe_has_50_filters_at_most() {
    let mut server = start().await;
    let filter = v1::Filter { name: Some("group-id".into()), values: vec!["sg-00000000".into()] };
    let filters = vec![filter; 51];
    let groups =
        v1::DescribeSecurityGroupsRequest { filters: filters.clone(), ..Default::default() };
    let rules = v1::DescribeSecurityGroupRulesRequest { filters, ..Default::default() };
    for status in [
        server.groups.describe_security_groups(groups).await.unwrap_err(),
        server.groups.describe_security_group_rules(rules).await.unwrap_err(),
    ] {
        assert_eq!(violations(&status), [("filters".into(), "FILTER_LIMIT_EXCEEDED".into())]);
    }
}

#[tokio::test]
async fn only_spaces_are_cut_off_a_name() {
    let mut server = start().await;
    for end in ["\t", "\n", "\n  ", "\u{a0}"] {
        let status = server.create(&format!("new{end}"), NONDEFAULT_VPC).await.unwrap_err();
        assert_eq!(violations(&status), [value("group_name")]);
    }
    server.create("new  ", NONDEFAULT_VPC).await.unwrap();
}

#[tokio::test]
#[allow(deprecated)]
async fn each_legacy_scalar_is_refused_with_the_equivalent() {
    let base = || v1::RevokeEgressRequest {
        group_id: Some(DEFAULT_VPC_GROUP.into()),
        ..Default::default()
    };
    let cases = [
        (
            v1::RevokeEgressRequest { cidr_ip: Some("10.0.0.0/8".into()), ..base() },
            "cidr_ip",
            r#"{"IpRanges":[{"CidrIp":"10.0.0.0/8"}]}"#,
        ),
        (
            v1::RevokeEgressRequest { from_port: Some(443), ..base() },
            "from_port",
            r#"{"FromPort":443}"#,
        ),
        (
            v1::RevokeEgressRequest { ip_protocol: Some("tcp".into()), ..base() },
            "ip_protocol",
            r#"{"IpProtocol":"tcp"}"#,
        ),
        (v1::RevokeEgressRequest { to_port: Some(443), ..base() }, "to_port", r#"{"ToPort":443}"#),
        (
            v1::RevokeEgressRequest { source_security_group_name: Some("web".into()), ..base() },
            "source_security_group_name",
            r#"{"UserIdGroupPairs":[{"GroupName":"web"}]}"#,
        ),
        (
            v1::RevokeEgressRequest {
                source_security_group_owner_id: Some("123456789012".into()),
                ..base()
            },
            "source_security_group_owner_id",
            r#"{"UserIdGroupPairs":[{"UserId":"123456789012"}]}"#,
        ),
    ];
    let mut server = start().await;
    for (request, field, equivalent) in cases {
        let status = server.revoke_request(request).await.unwrap_err();
        assert_eq!(violations(&status), [value(field)]);
        assert!(status.message().contains(equivalent), "{}", status.message());
    }
    // What CLI skeletons hold counts as unset.
    let mut skeleton = by_permissions(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    skeleton.cidr_ip = Some(String::new());
    skeleton.from_port = Some(0);
    skeleton.to_port = Some(0);
    skeleton.ip_protocol = Some(String::new());
    server.revoke_request(skeleton).await.unwrap();
}

#[tokio::test]
#[allow(deprecated)]
async fn the_whole_seed_request_is_refused_with_every_violation_named() {
    let mut request: v1::RevokeEgressRequest = serde_json::from_str(
        r#"{"DryRun": true, "GroupId": "string", "IpPermissions": [{"FromPort": 123, "IpProtocol": "string",
        "IpRanges": [{"CidrIp": "string", "Description": "string"}],
        "Ipv6Ranges": [{"CidrIpv6": "string", "Description": "string"}],
        "PrefixListIds": [{"Description": "string", "PrefixListId": "string"}], "ToPort": 123,
        "UserIdGroupPairs": [{"Description": "string", "GroupId": "string", "GroupName": "string",
        "PeeringStatus": "string", "UserId": "string", "VpcId": "string", "VpcPeeringConnectionId": "string"}]}],
        "SecurityGroupRuleIds": ["string"], "CidrIp": "string", "FromPort": 123, "IpProtocol": "string",
        "ToPort": 123, "SourceSecurityGroupName": "string", "SourceSecurityGroupOwnerId": "string"}"#,
    )
    .unwrap();
    request.target = Some(v1::Target { account_id: "1".into(), region: "moon".into() });
    let mut server = start().await;
    let status = server.revoke_request(request).await.unwrap_err();
    let fields: Vec<_> = violations(&status).into_iter().map(|(field, _)| field).collect();
    let expected = [
        "group_id",
        "cidr_ip",
        "from_port",
        "ip_protocol",
        "to_port",
        "source_security_group_name",
        "source_security_group_owner_id",
        "ip_permissions[0].ip_protocol",
        "ip_permissions[0].ip_ranges[0].cidr_ip",
        "ip_permissions[0].ipv6_ranges[0].cidr_ipv6",
        "ip_permissions[0].prefix_list_ids[0].prefix_list_id",
        "ip_permissions[0].user_id_group_pairs[0].group_id",
        "ip_permissions[0].user_id_group_pairs[0].user_id",
        "security_group_rule_ids[0]",
        "security_group_rule_ids",
        "target.account_id",
        "target.region",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn what_is_not_built_yet_is_refused_and_never_ignored() {
    let mut server = start().await;
    let mut request = by_permissions(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    request.expected_rules_digest = "abc".into();
    let status = server.revoke_request(request.clone()).await.unwrap_err();
    let unsupported = "UNSUPPORTED_OPERATION".to_owned();
    assert_eq!(violations(&status), [("expected_rules_digest".into(), unsupported)]);
    request.expected_rules_digest.clear();
    request.on_unknown = 7;
    let status = server.revoke_request(request.clone()).await.unwrap_err();
    assert_eq!(violations(&status), [value("on_unknown")]);
    assert_eq!(server.effects().await, 0);
}

#[tokio::test]
async fn targets_that_are_not_here_are_refused() {
    let mut server = start().await;
    for (account, region) in [("999999999999", ""), ("", "eu-north-1")] {
        let mut request = by_permissions(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
        request.target = Some(v1::Target { account_id: account.into(), region: region.into() });
        let answer = server.revoke_request(request).await;
        assert_eq!(refusal(answer), (Code::InvalidArgument, "TARGET_NOT_CONFIGURED".into()));
    }
}

#[tokio::test]
async fn ingress_takes_the_older_form_and_names() {
    let mut server = start().await;
    let older = v1::AuthorizeIngressRequest {
        group_name: Some("web".into()),
        ip_protocol: Some("tcp".into()),
        from_port: Some(22),
        to_port: Some(22),
        cidr_ip: Some("192.0.2.0/24".into()),
        ..Default::default()
    };
    let answer = server.groups.authorize_ingress(older.clone()).await.unwrap().into_inner();
    assert_eq!(answer.security_group_rules[0].group_id.as_deref(), Some(DEFAULT_VPC_GROUP));
    let mut both = older;
    both.ip_permissions = vec![tcp(1, "10.0.0.0/8")];
    let status = server.groups.authorize_ingress(both).await.unwrap_err();
    assert_eq!(violations(&status)[0].1, "INVALID_PARAMETER_COMBINATION");
    let by_source = v1::RevokeIngressRequest {
        group_name: Some("web".into()),
        source_security_group_name: Some("db".into()),
        ..Default::default()
    };
    let answer = server.groups.revoke_ingress(by_source).await.unwrap().into_inner();
    assert_eq!(answer.unknown_explanations.len(), 3);
    let status =
        server.groups.revoke_ingress(v1::RevokeIngressRequest::default()).await.unwrap_err();
    assert_eq!(violations(&status)[0], ("group_id".into(), "MISSING_PARAMETER".into()));
}
