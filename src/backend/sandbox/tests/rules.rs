//! Revoking and authorizing.

use super::*;

const NOT_FOUND: &str = "InvalidPermission.NotFound";

#[tokio::test]
async fn r1_dry_run_is_answered_before_the_group_is_looked_up() {
    let bench = sample();
    let before = bench.sandbox.get_state(true);
    for id in [WEB, "sg-00000000"] {
        let request = RevokeRules {
            group: group(id),
            direction: Direction::Egress,
            selection: by_ids(&["sgr-00000000"]),
            dry_run: true,
        };
        let refusal = refusal(bench.sandbox.revoke(&call(), &bench.target, &request).await);
        assert_eq!(refusal.code, "DryRunOperation");
        let message = "Request would have succeeded, but DryRun flag is set.";
        assert_eq!(refusal.message, message);
        assert!(refusal.request_id.is_some());
    }
    let after = bench.sandbox.get_state(true);
    assert_eq!((after.state, after.effects), (before.state, before.effects));
}

#[tokio::test]
async fn r4_the_group_is_looked_up_before_its_rules() {
    let bench = sample();
    let selection = by_ids(&["sgr-00000000"]);
    let refusal = refusal(bench.revoke_egress("sg-00000000", selection).await);
    assert_eq!(refusal.code, "InvalidGroup.NotFound");
    assert_eq!(refusal.message, "The security group 'sg-00000000' does not exist");
    // The peers are looked up before the rules, too.
    let both = [perm("tcp", 443, 443, "0.0.0.0/0"), perm("tcp", 1, 1, "sg-00000000")];
    assert_eq!(code(bench.authorize_egress(WEB, &both).await), "InvalidGroup.NotFound");
}

#[tokio::test]
async fn r6_r20_a_match_is_exact() {
    let bench = sample();
    for miss in [
        perm("tcp", 8000, 8000, "10.1.0.0/16"),
        perm("tcp", 8000, 8101, "10.1.0.0/16"),
        perm("udp", 8000, 8100, "10.1.0.0/16"),
        perm("tcp", 8000, 8100, "10.1.0.0/24"),
        perm("tcp", 8000, 8100, "10.0.0.0/8"),
        perm("icmp", 8, 8, "10.0.0.0/16"),
        perm("icmp", -1, -1, "10.0.0.0/16"),
        perm("-1", -1, -1, "0.0.0.0/0"),
    ] {
        let result = bench.revoke_egress(WEB, by_specs(std::slice::from_ref(&miss))).await;
        assert_eq!(code(result), NOT_FOUND, "{miss:?}");
    }
    let hit = [perm("icmp", 8, -1, "10.0.0.0/16"), perm("tcp", 8000, 8100, "10.1.0.0/16")];
    let revoked = bench.revoke_egress(WEB, by_specs(&hit)).await.unwrap();
    assert_eq!(revoked.revoked.len(), 2);
    assert_eq!((revoked.return_value, revoked.unknown), (Some(true), Vec::new()));
}

#[tokio::test]
async fn r8_a_subset_of_merged_peers_may_go() {
    let bench = sample();
    let some = [perm("tcp", 443, 443, "0.0.0.0/0"), perm("tcp", 443, 443, LIST)];
    bench.revoke_egress(WEB, by_specs(&some)).await.unwrap();
    let left = bench.ids(WEB, Direction::Egress).await;
    assert_eq!(left.len(), 7);
    assert!(left.contains(&"sgr-0000000000000a1e2".to_owned()), "{left:?}");
}

#[tokio::test]
async fn r11_ids_of_another_group_or_direction_are_not_found() {
    let bench = sample();
    for id in ["sgr-0000000000000a2e1", "sgr-0000000000000a1c1", "sgr-00000000"] {
        let refusal = refusal(bench.revoke_egress(WEB, by_ids(&[id])).await);
        assert_eq!(refusal.code, "InvalidSecurityGroupRuleId.NotFound");
        assert_eq!(refusal.message, format!("The security group rule ID '{id}' does not exist"));
    }
}

#[tokio::test]
async fn r12_r13_a_given_description_must_match_an_omitted_one_never_matters() {
    let bench = sample();
    let with = |text: &str| [perm("tcp", 5432, 5432, &format!("{DB}+{text}"))];
    assert_eq!(code(bench.revoke_egress(WEB, by_specs(&with("Database"))).await), NOT_FOUND);
    let revoked = bench.revoke_egress(WEB, by_specs(&with("database"))).await.unwrap();
    let expected = RevokedRule {
        security_group_rule_id: Some("sgr-0000000000000a1e4".to_owned()),
        group_id: Some(WEB.to_owned()),
        is_egress: Some(true),
        ip_protocol: Some("tcp".to_owned()),
        from_port: Some(5432),
        to_port: Some(5432),
        referenced_group_id: Some(DB.to_owned()),
        description: Some("database".to_owned()),
        ..RevokedRule::default()
    };
    assert_eq!(revoked.revoked, [expected]);
    let plain = [perm("icmp", 8, -1, "10.0.0.0/16")];
    let revoked = bench.revoke_egress(WEB, by_specs(&plain)).await.unwrap();
    assert_eq!(revoked.revoked[0].description.as_deref(), Some("ping"));
    // A description that the rule has not.
    let described = [perm("udp", 53, 53, "10.0.0.2/32+dns")];
    assert_eq!(code(bench.revoke_egress(WEB, by_specs(&described)).await), NOT_FOUND);
}

#[tokio::test]
async fn r16_r17_r19_ports_of_protocols_without_ports_and_names_do_not_matter() {
    let bench = sample();
    let all = bench
        .revoke_egress("sg-000000000000000a4", by_specs(&[perm("-1", 0, 0, "0.0.0.0/0")]))
        .await;
    let rule = &all.unwrap().revoked[0];
    assert_eq!(rule.ip_protocol.as_deref(), Some("-1"));
    assert_eq!((rule.from_port, rule.to_port), (Some(-1), Some(-1)));
    bench.authorize_egress(WEB, &[perm("47", 5, 6, "10.9.0.0/16")]).await.unwrap();
    bench.revoke_egress(WEB, by_specs(&[perm("47", -1, -1, "10.9.0.0/16")])).await.unwrap();
    bench.authorize_egress(WEB, &[perm("58", -1, -1, "2001:db8::/32")]).await.unwrap();
    let revoked = by_specs(&[perm("icmpv6", -1, -1, "2001:db8::/32")]);
    bench.revoke_egress(WEB, revoked).await.unwrap();
    bench.revoke_egress(WEB, by_specs(&[perm("6", 443, 443, "0.0.0.0/0")])).await.unwrap();
}

#[tokio::test]
async fn r22_r23_ranges_are_stored_and_matched_canonically() {
    let bench = sample();
    let added = bench.authorize_egress(WEB, &[perm("tcp", 1, 1, "100.68.0.18/18")]).await.unwrap();
    assert_eq!(added.rules[0].rule.peer.to_string(), "100.68.0.0/18");
    let again = bench.authorize_egress(WEB, &[perm("tcp", 1, 1, "100.68.1.1/18")]).await;
    assert_eq!(code(again), "InvalidPermission.Duplicate");
    let revoked = bench.revoke_egress(WEB, by_specs(&[perm("tcp", 1, 1, "100.68.9.9/18")])).await;
    assert_eq!(revoked.unwrap().revoked[0].cidr_ipv4.as_deref(), Some("100.68.0.0/18"));
}

#[tokio::test]
async fn r25_an_owner_that_is_given_must_be_the_group_s() {
    let bench = sample();
    let pair = |user: &str| {
        let mut permission = perm("tcp", 6379, 6379, CACHE);
        permission.user_id_group_pairs[0].user_id = Some(user.to_owned());
        permission.user_id_group_pairs[0].vpc_id = Some("vpc-whatever".to_owned());
        permission.user_id_group_pairs[0].group_name = Some("whatever".to_owned());
        by_specs(&[permission])
    };
    assert_eq!(code(bench.revoke_egress(WEB, pair("210987654321")).await), NOT_FOUND);
    assert!(bench.revoke_egress(WEB, pair("123456789012")).await.is_ok());
}

#[tokio::test]
async fn r26_a_group_may_refer_to_itself() {
    let bench = sample();
    let added = bench.authorize_egress(WEB, &[perm("tcp", 9, 9, WEB)]).await.unwrap();
    let crate::rule::Peer::Group(peer) = &added.rules[0].rule.peer else { panic!("no group") };
    assert_eq!(peer.user_id.as_ref().unwrap().as_str(), "123456789012");
    assert_eq!((&peer.vpc_id, &peer.group_name), (&None, &None));
    bench.revoke_egress(WEB, by_specs(&[perm("tcp", 9, 9, WEB)])).await.unwrap();
}

#[tokio::test]
async fn r30_r32_the_same_rule_twice_in_a_call_is_refused() {
    let bench = sample();
    let twice =
        [specs(&[perm("tcp", 7, 7, "10.0.0.0/8")]), specs(&[perm("6", 7, 7, "10.1.1.1/8")])];
    let refused = refusal(bench.authorize(WEB, Direction::Egress, twice.concat()).await);
    assert_eq!(refused.code, "InvalidParameterValue");
    assert_eq!(refused.message, "The same permission must not appear multiple times");
    let refused = refusal(bench.revoke_egress(WEB, Selection::Specs(twice.concat())).await);
    assert_eq!(refused.code, "InvalidParameterValue");
    let id = "sgr-0000000000000a1e1";
    let refused = refusal(bench.revoke_egress(WEB, by_ids(&[id, id])).await);
    assert_eq!(refused.code, "InvalidParameterValue");
    assert!(refused.message.starts_with(&format!("Duplicated security group rule ID '{id}'.")));
    // A name and an id that are one group are one rule.
    let named = [specs(&[perm("-1", -1, -1, "name:LEGACY")]), specs(&[perm("-1", -1, -1, LEGACY)])];
    let refused = bench.authorize(LEGACY, Direction::Egress, named.concat()).await;
    assert_eq!(code(refused), "InvalidParameterValue");
}

#[tokio::test]
async fn r31_authorizing_what_exists_adds_nothing_and_says_which() {
    let bench = sample();
    for (permission, text) in [
        (
            perm("tcp", 443, 443, "0.0.0.0/0"),
            "peer: 0.0.0.0/0, TCP, from port: 443, to port: 443, ALLOW",
        ),
        (
            perm("tcp", 5432, 5432, DB),
            "peer: sg-000000000000000a2, TCP, from port: 5432, to port: 5432, ALLOW",
        ),
        (perm("icmp", 8, -1, "10.0.0.0/16"), "peer: 10.0.0.0/16, ICMP, type: 8, code: ALL, ALLOW"),
    ] {
        let new = perm("tcp", 12, 12, "10.0.0.0/8");
        let refused = refusal(bench.authorize_egress(WEB, &[new, permission]).await);
        assert_eq!(refused.code, "InvalidPermission.Duplicate");
        assert_eq!(refused.message, format!("the specified rule \"{text}\" already exists"));
        assert_eq!(bench.ids(WEB, Direction::Egress).await.len(), 9);
    }
    let all = refusal(bench.authorize_egress(LEGACY, &[perm("-1", 0, 0, "0.0.0.0/0")]).await);
    assert_eq!(all.message, "the specified rule \"peer: 0.0.0.0/0, ALL, ALLOW\" already exists");
    // The same rule of the other direction is another rule.
    let added =
        bench.authorize(WEB, Direction::Ingress, specs(&[perm("tcp", 5432, 5432, DB)])).await;
    assert!(added.is_ok());
}

#[tokio::test]
async fn r33_nondefault_vpc_mismatch_removes_nothing() {
    let bench = sample();
    let before = bench.ids(WEB, Direction::Egress).await;
    let partly = [perm("tcp", 443, 443, "0.0.0.0/0"), perm("tcp", 444, 444, "0.0.0.0/0")];
    let refused = refusal(bench.revoke_egress(WEB, by_specs(&partly)).await);
    assert_eq!(refused.code, NOT_FOUND);
    assert_eq!(refused.message, "The specified rule does not exist in this security group.");
    assert_eq!(bench.ids(WEB, Direction::Egress).await, before);
    // R36: it is the VPC that counts, not the group's name.
    let refused = bench.revoke_egress(APP_DEFAULT, by_specs(&partly)).await;
    assert_eq!(code(refused), NOT_FOUND);
}

#[tokio::test]
async fn r34_r35_r42_default_vpc_mismatch_is_listed_and_the_rest_goes() {
    let bench = sample();
    let asked = [
        perm("tcp", 443, 443, "0.0.0.0/0"),
        perm("tcp", 443, 443, "10.1.2.3/16+why"),
        perm("udp", 53, 54, "10.0.0.2/32"),
        perm("-1", 5, 5, "10.0.0.0/8"),
        perm("tcp", 443, 443, "10.7.0.0/16"),
    ];
    let revoked = bench.revoke_egress(LEGACY, by_specs(&asked)).await.unwrap();
    assert_eq!(revoked.return_value, Some(true));
    assert_eq!(revoked.revoked.len(), 1);
    let unknown = specs(&revoked.unknown);
    // Regrouped by protocol and ports, as they were spelled.
    assert_eq!(revoked.unknown.len(), 3);
    assert_eq!(revoked.unknown[0].ip_ranges[0].cidr.as_deref(), Some("10.1.2.3/16"));
    assert_eq!(revoked.unknown[0].ip_ranges[0].description.as_deref(), Some("why"));
    assert_eq!(unknown.len(), 4);
    assert_eq!(revoked.unknown[2].from_port, None);
    assert_eq!(bench.ids(LEGACY, Direction::Egress).await.len(), 3);

    let effects = bench.sandbox.get_state(true).effects.len();
    let again = bench.revoke_egress(LEGACY, by_specs(&asked)).await.unwrap();
    assert_eq!((again.return_value, again.revoked.len()), (Some(true), 0));
    assert_eq!(specs(&again.unknown).len(), 5);
    assert_eq!(bench.sandbox.get_state(true).effects.len(), effects);
}

#[tokio::test]
async fn r38_r39_ids_are_all_or_nothing_in_both_kinds_of_vpc() {
    let bench = sample();
    for (id, rule) in [(WEB, "sgr-0000000000000a1e1"), (LEGACY, "sgr-0000000000000d1e1")] {
        let before = bench.ids(id, Direction::Egress).await;
        let refused = bench.revoke_egress(id, by_ids(&[rule, "sgr-0badbadbadbadbad0"])).await;
        assert_eq!(code(refused), "InvalidSecurityGroupRuleId.NotFound");
        assert_eq!(bench.ids(id, Direction::Egress).await, before);
        let revoked = bench.revoke_egress(id, by_ids(&[rule])).await.unwrap();
        assert_eq!(revoked.revoked[0].security_group_rule_id.as_deref(), Some(rule));
        assert_eq!(bench.ids(id, Direction::Egress).await.len(), before.len() - 1);
    }
}

#[tokio::test]
async fn r40_ipv6_in_a_vpc_without_it_is_a_rule_like_any_other() {
    let bench = sample();
    let ipv6 = [perm("tcp", 443, 443, "2001:db8::/32")];
    let missed = bench.revoke_egress(LEGACY, by_specs(&ipv6)).await.unwrap();
    assert_eq!(missed.unknown, ipv6);
    bench.authorize_egress(LEGACY, &ipv6).await.unwrap();
    assert_eq!(bench.revoke_egress(LEGACY, by_specs(&ipv6)).await.unwrap().revoked.len(), 1);
}

#[tokio::test]
async fn r44_the_last_rule_may_go() {
    let bench = sample();
    bench.revoke_egress(CACHE, by_ids(&["sgr-0000000000000a3e1"])).await.unwrap();
    assert!(bench.ids(CACHE, Direction::Egress).await.is_empty());
}

#[tokio::test]
async fn peers_by_name_mean_groups_of_the_default_vpc() {
    let bench = sample();
    let missing = [perm("tcp", 1, 1, "name:web")];
    for id in [WEB, LEGACY] {
        let refused = refusal(bench.revoke_egress(id, by_specs(&missing)).await);
        assert_eq!(refused.code, "InvalidGroup.NotFound");
        let text = "The security group 'web' does not exist in default VPC 'vpc-0000000000000000d'";
        assert_eq!(refused.message, text);
    }
    let named = [perm("tcp", 1, 1, "name:default")];
    // Outside the default VPC no name is taken, and the default VPC's groups do not matter.
    let by_name = [
        code(bench.revoke_egress(WEB, by_specs(&named)).await),
        code(bench.authorize_egress(WEB, &named).await),
        code(bench.update(WEB, Direction::Egress, DescriptionUpdates::Specs(specs(&named))).await),
    ];
    assert_eq!(by_name, ["InvalidParameterValue"; 3]);
    let missed = bench.revoke_egress(LEGACY, by_specs(&named)).await.unwrap();
    assert_eq!(missed.unknown, named);
    let added = bench.authorize_egress(LEGACY, &named).await.unwrap();
    assert_eq!(added.rules[0].rule.peer.to_string(), "sg-0000000000000000d");
    bench.revoke_egress(LEGACY, by_specs(&named)).await.unwrap();
    // The group itself by name, ingress.
    let request = RevokeRules {
        group: GroupRef::Name("legacy".to_owned()),
        direction: Direction::Ingress,
        selection: by_specs(&[perm("tcp", 22, 22, "203.0.113.0/24")]),
        dry_run: false,
    };
    let revoked = bench.sandbox.revoke(&call(), &bench.target, &request).await.unwrap();
    assert_eq!(revoked.revoked[0].is_egress, Some(false));
}

#[tokio::test]
async fn a_name_is_not_taken_from_a_vpc_that_is_peered_with_the_default_one() {
    let json = r#"{"Vpcs": [{"VpcId": "vpc-0000000d", "IsDefault": true, "OwnerId": "111111111111"},
      {"VpcId": "vpc-0000000a", "OwnerId": "111111111111", "PeeredVpcIds": ["vpc-0000000d"]}],
      "SecurityGroups": [
        {"GroupId": "sg-0000000d", "GroupName": "db", "VpcId": "vpc-0000000d"},
        {"GroupId": "sg-0000000a", "GroupName": "web", "VpcId": "vpc-0000000a",
         "IpPermissionsEgress": [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1,
           "UserIdGroupPairs": [{"GroupId": "sg-0000000d"}]}]}]}"#;
    let bench = bench(Some(json));
    let there = [perm("tcp", 1, 1, "name:db")];
    let refusals = [
        refusal(bench.authorize_egress("sg-0000000a", &[perm("tcp", 2, 2, "name:db")]).await),
        refusal(
            bench
                .update("sg-0000000a", Direction::Egress, DescriptionUpdates::Specs(specs(&there)))
                .await,
        ),
        refusal(bench.revoke_egress("sg-0000000a", by_specs(&there)).await),
    ];
    for refused in refusals {
        assert_eq!(refused.code, "InvalidParameterValue");
        let text = "Invalid value 'db' for groupName. You may not reference Amazon VPC security groups by \
                    name. Please use the corresponding id for this operation.";
        assert_eq!(refused.message, text);
    }
    assert_eq!(bench.image("sg-0000000a").await.unwrap().rules.len(), 1);
}

#[tokio::test]
async fn what_a_rule_refers_to_must_exist_within_reach() {
    let bench = sample();
    let refused = refusal(bench.authorize_egress(WEB, &[perm("tcp", 1, 1, LEGACY)]).await);
    assert_eq!(refused.code, "InvalidGroup.NotFound");
    let text = "You have specified two resources that belong to different networks.";
    assert_eq!(refused.message, text);
    let other_account = refusal(bench.authorize_egress(WEB, &[perm("tcp", 1, 1, WORKER)]).await);
    assert_eq!(other_account.message, format!("The security group '{WORKER}' does not exist"));
    let list = refusal(bench.authorize_egress(WEB, &[perm("tcp", 1, 1, "pl-00000009")]).await);
    assert_eq!(list.code, "InvalidPrefixListID.NotFound");
    assert_eq!(list.message, "The prefix list ID 'pl-00000009' does not exist");
}

#[tokio::test]
async fn r4_a_revoke_looks_up_what_no_rule_refers_to() {
    let bench = sample();
    let revoke = async |id, peer| {
        // The first is there: nothing goes.
        let asked = [perm("udp", 53, 53, "10.0.0.2/32"), perm("tcp", 1, 1, peer)];
        bench.revoke_egress(id, by_specs(&asked)).await
    };
    let absent = refusal(revoke(WEB, "sg-00000000").await);
    assert_eq!(absent.code, "InvalidGroup.NotFound");
    assert_eq!(absent.message, "The security group 'sg-00000000' does not exist");
    let absent = refusal(revoke(WEB, "pl-00000009").await);
    assert_eq!(absent.code, "InvalidPrefixListID.NotFound");
    assert_eq!(absent.message, "The prefix list ID 'pl-00000009' does not exist");
    // What is there but out of reach, or another account's, no rule refers to.
    assert_eq!(code(revoke(WEB, LEGACY).await), NOT_FOUND);
    let mut foreign = perm("tcp", 1, 1, "sg-00000000");
    foreign.user_id_group_pairs[0].user_id = Some("999999999999".to_owned());
    assert_eq!(code(bench.revoke_egress(WEB, by_specs(&[foreign])).await), NOT_FOUND);
    assert_eq!(bench.image(WEB).await.unwrap().rules.len(), 12);
    // Another account's group without its owner is no group, there or not: it would tell that it exists.
    let json = r#"{"SecurityGroups": [{"GroupId": "sg-0000000b", "GroupName": "b", "VpcId": "vpc-0000000b",
      "OwnerId": "210987654321", "SecurityGroupArn": "arn:aws:ec2:us-east-1:210987654321:security-group/sg-0000000b"}]}"#;
    let state = Sandbox::parse_state(json.as_bytes()).unwrap();
    bench.sandbox.load_state(state, false).unwrap();
    let absent = refusal(revoke(WEB, "sg-0000000b").await);
    assert_eq!(absent.code, "InvalidGroup.NotFound");
    assert_eq!(absent.message, "The security group 'sg-0000000b' does not exist");
    let mut foreign = perm("tcp", 1, 1, "sg-0000000b");
    foreign.user_id_group_pairs[0].user_id = Some("210987654321".to_owned());
    assert_eq!(code(bench.revoke_egress(WEB, by_specs(&[foreign])).await), NOT_FOUND);
    // In a default VPC it is unknown, and the rest goes (R34, R35).
    for peer in ["sg-00000000", "pl-00000009"] {
        let missed = revoke(LEGACY, peer).await.unwrap();
        assert!(missed.unknown.contains(&perm("tcp", 1, 1, peer)), "{missed:?}");
    }
}

#[tokio::test]
async fn limits_count_ipv4_and_ipv6_apart_and_groups_and_lists_in_both() {
    let bench = sample();
    let many = |count: u8, family: fn(u8) -> String| -> Vec<IpPermission> {
        (0..count).map(|number| perm("tcp", 9, 9, &family(number))).collect()
    };
    // cache has one IPv4 rule; a list weighs ten.
    bench.authorize_egress(CACHE, &[perm("tcp", 9, 9, LIST)]).await.unwrap();
    let v4 = |number| format!("10.{number}.0.0/16");
    let v6 = |number| format!("2001:db8:{number:x}::/48");
    let too_many = refusal(bench.authorize_egress(CACHE, &many(50, v4)).await);
    assert_eq!(too_many.code, "RulesPerSecurityGroupLimitExceeded");
    assert_eq!(
        too_many.message,
        "The maximum number of rules per security group has been reached."
    );
    bench.authorize_egress(CACHE, &many(49, v4)).await.unwrap();
    bench.authorize_egress(CACHE, &many(50, v6)).await.unwrap();
    let refused = bench.authorize_egress(CACHE, &[perm("tcp", 9, 9, WEB)]).await;
    assert_eq!(code(refused), "RulesPerSecurityGroupLimitExceeded");
    let ingress = specs(&[perm("tcp", 9, 9, WEB)]);
    assert!(bench.authorize(CACHE, Direction::Ingress, ingress).await.is_ok());
}

#[tokio::test]
async fn authorized_rules_come_back_whole() {
    let bench = sample();
    let tags = vec![Tag { key: "ticket".to_owned(), value: "1".to_owned() }];
    let request = AuthorizeRules {
        group: group(WEB),
        direction: Direction::Egress,
        specs: specs(&[perm("tcp", 1, 2, "10.0.0.0/8+why"), perm("tcp", 1, 2, "::/0")]),
        tags: tags.clone(),
        dry_run: false,
    };
    let added = bench.sandbox.authorize(&call(), &bench.target, &request).await.unwrap();
    assert_eq!(added.rules.len(), 2);
    for owned in &added.rules {
        assert_eq!(owned.group_owner_id.as_str(), "123456789012");
        assert_eq!(owned.rule.tags(), tags);
        let arn =
            format!("arn:aws:ec2:us-east-1:123456789012:security-group-rule/{}", owned.rule.id);
        assert_eq!(owned.arn.as_ref(), Some(&arn));
        assert_eq!(owned.rule.id.as_str().len(), 21);
    }
    let image = bench.image(WEB).await.unwrap();
    assert!(added.rules.iter().all(|owned| image.rules.contains(&owned.rule)));
}
