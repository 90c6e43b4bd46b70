//! Loading a state and getting it back.

use super::*;

/// What `aws ec2 describe-security-groups` prints.
const DESCRIBED: &str = r#"{
  "SecurityGroups": [
    {
      "GroupId": "sg-0123456789abcdef0",
      "IpPermissionsEgress": [
        {"IpProtocol": "-1", "UserIdGroupPairs": [], "IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [], "PrefixListIds": []},
        {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
         "UserIdGroupPairs": [
           {"Description": "peer", "UserId": "999988887777", "GroupId": "sg-0fffffffffffffff0", "VpcId": "vpc-0fffffffffffffff0", "VpcPeeringConnectionId": "pcx-1", "PeeringStatus": "active"},
           {"UserId": "444455556666", "GroupId": "sg-0123456789abcdef0", "GroupName": "app"}],
         "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "fine & old"}], "Ipv6Ranges": [{"CidrIpv6": "2001:DB8::/32"}],
         "PrefixListIds": [{"PrefixListId": "pl-63a5400a"}]}
      ],
      "VpcId": "vpc-0123456789abcdef0",
      "SecurityGroupArn": "arn:aws:ec2:eu-central-1:444455556666:security-group/sg-0123456789abcdef0",
      "OwnerId": "444455556666",
      "GroupName": "app",
      "Description": "an app",
      "IpPermissions": [],
      "SomethingNew": {"A": [1]}
    }
  ],
  "NextToken": "x", "ResponseMetadata": {"RequestId": "y"}
}"#;

fn fields(json: &str) -> Vec<(String, &'static str)> {
    let violations = open(Some(json)).map(|_| ()).unwrap_err();
    violations.into_iter().map(|violation| (violation.field, violation.code)).collect()
}

#[test]
fn the_sample_is_valid_and_the_same_at_each_start() {
    let (first, warnings) = open(None).unwrap();
    assert_eq!(warnings, [""; 0]);
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    let (second, _) = Sandbox::open(None, None, clock, Arc::new(SeededRandom::new(8))).unwrap();
    assert_eq!(first.get_state(false).state, second.get_state(false).state);
    assert_ne!(first.identity(), second.identity());
}

#[tokio::test]
async fn describe_output_loads_as_it_is_and_needs_no_target() {
    let (sandbox, warnings) = open(Some(DESCRIBED)).unwrap();
    assert_eq!(warnings, ["vpc-0123456789abcdef0 is not listed: taken as a nondefault VPC."]);
    let home = sandbox.resolve(None, None).unwrap();
    assert_eq!(home, target("444455556666", "eu-central-1"));
    let bench = Bench { sandbox, target: home };
    let image = bench.image("sg-0123456789abcdef0").await.unwrap();
    assert_eq!((image.rules.len(), image.in_default_vpc), (6, Some(false)));
    // R25: what is described is what a revoke takes.
    let permissions = [
        perm("tcp", 443, 443, "sg-0fffffffffffffff0+peer"),
        perm("tcp", 443, 443, "2001:db8::/32"),
    ];
    bench.revoke_egress("sg-0123456789abcdef0", by_specs(&permissions)).await.unwrap();
}

#[test]
fn json_errors_tell_the_line() {
    let error =
        Sandbox::parse_state(b"{\n  \"SecurityGroups\": [\n    {\"GroupId\": 5}]}").unwrap_err();
    assert!(error.contains("line 3 column"), "{error}");
    assert!(Sandbox::parse_state(b"{} x").is_err());
}

#[tokio::test]
async fn both_forms_of_a_rule_become_one() {
    let groups = Sandbox::parse_state(DESCRIBED.as_bytes()).unwrap();
    let rules = Sandbox::parse_state(
        br#"{"SecurityGroupRules": [
          {"SecurityGroupRuleId": "sgr-0000000000000000a", "GroupId": "sg-0123456789abcdef0", "GroupOwnerId": "444455556666",
           "IsEgress": true, "IpProtocol": "-1", "FromPort": -1, "ToPort": -1, "CidrIpv4": "0.0.0.0/0",
           "Tags": [{"Key": "k", "Value": "v"}], "SecurityGroupRuleArn": "arn:x"},
          {"SecurityGroupRuleId": "sgr-0000000000000000b", "GroupId": "sg-0123456789abcdef0", "GroupOwnerId": "444455556666",
           "IsEgress": true, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
           "ReferencedGroupInfo": {"GroupId": "sg-0123456789abcdef0", "UserId": "444455556666"}}]}"#,
    )
    .unwrap();
    let vpcs = Sandbox::parse_state(
        br#"{"Vpcs": [{"VpcId": "vpc-0123456789abcdef0", "IsDefault": true, "OwnerId": "444455556666", "State": "available",
          "CidrBlockAssociationSet": [], "Ipv6CidrBlockAssociationSet": [{"AssociationId": "x", "Ipv6CidrBlock": "2001:db8::/56"}]}],
          "PrefixLists": [{"PrefixListId": "pl-63a5400a", "OwnerId": "AWS",
          "PrefixListArn": "arn:aws:ec2:eu-central-1:aws:prefix-list/pl-63a5400a"}]}"#,
    )
    .unwrap();
    let merged = Sandbox::merge_states([groups, rules, vpcs]);
    let (sandbox, warnings) = open(None).unwrap();
    assert_eq!(warnings, [""; 0]);
    sandbox.load_state(merged, true).unwrap();
    let home = sandbox.resolve(None, None).unwrap();
    let bench = Bench { sandbox, target: home };
    let image = bench.image("sg-0123456789abcdef0").await.unwrap();
    assert_eq!((image.rules.len(), image.in_default_vpc), (6, Some(true)));
    assert_eq!(image.rules[0].id.as_str(), "sgr-0000000000000000a");
    assert_eq!(image.rules[0].tags().len(), 1);
    let list = perm("udp", 1, 1, "pl-63a5400a");
    bench.authorize_egress("sg-0123456789abcdef0", &[list]).await.unwrap();
}

#[test]
fn what_is_wrong_is_told_by_path() {
    let group = |members: &str| {
        format!(
            r#"{{"SecurityGroups": [{{"GroupId": "sg-0000000a", "VpcId": "vpc-0000000a"{members}}}]}}"#
        )
    };
    let rule = |members: &str| {
        format!(
            r#"{{"SecurityGroups": [{{"GroupId": "sg-0000000a", "VpcId": "vpc-0000000a"}}],
              "SecurityGroupRules": [{{"GroupId": "sg-0000000a", "IsEgress": true, "IpProtocol": "-1"{members}}}]}}"#
        )
    };
    for (json, field, code) in [
        (r#"{"SecurityGroups": [{}]}"#.to_owned(), "security_groups[0].group_id", "MissingParameter"),
        (group(r#", "OwnerId": "x""#), "security_groups[0].owner_id", "InvalidParameterValue"),
        (
            group(r#", "IpPermissionsEgress": [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": [{"CidrIp": "x"}]}]"#),
            "security_groups[0].ip_permissions_egress[0].ip_ranges[0].cidr_ip",
            "InvalidParameterValue",
        ),
        (group(r#", "SecurityGroupArn": "x""#), "security_groups[0].security_group_arn", "InvalidParameterValue"),
        (r#"{"SecurityGroups": [{"GroupId": "sg-0000000a"}]}"#.to_owned(), "security_groups[0].vpc_id", "MissingParameter"),
        (rule(""), "security_group_rules[0]", "InvalidParameterValue"),
        (rule(r#", "CidrIpv4": "0.0.0.0/0", "CidrIpv6": "::/0""#), "security_group_rules[0]", "InvalidParameterCombination"),
        (
            rule(r#", "CidrIpv4": "0.0.0.0/0", "SecurityGroupRuleId": "x""#),
            "security_group_rules[0].security_group_rule_id",
            "InvalidSecurityGroupRuleId.Malformed",
        ),
        (
            r#"{"SecurityGroupRules": [{"GroupId": "sg-0000000a", "IsEgress": true, "IpProtocol": "-1", "CidrIpv4": "0.0.0.0/0"}]}"#.to_owned(),
            "security_group_rules[0].group_id",
            "InvalidGroup.NotFound",
        ),
        (
            r#"{"Vpcs": [{"VpcId": "vpc-0000000a", "IsDefault": true}, {"VpcId": "vpc-0000000b", "IsDefault": true}]}"#.to_owned(),
            "vpcs[1].is_default",
            "InvalidParameterValue",
        ),
        (
            r#"{"SecurityGroups": [{"GroupId": "sg-0000000a", "GroupName": "x", "VpcId": "vpc-0000000a"},
              {"GroupId": "sg-0000000b", "GroupName": "X", "VpcId": "vpc-0000000a"}]}"#.to_owned(),
            "security_groups[1].group_name",
            "InvalidGroup.Duplicate",
        ),
        (r#"{"PrefixLists": [{"PrefixListId": "pl-0000000a", "MaxEntries": 0}]}"#.to_owned(), "prefix_lists[0].max_entries", "InvalidParameterValue"),
        (r#"{"Accounts": [{"AccountId": "123456789012", "Regions": ["x"]}]}"#.to_owned(), "accounts[0].regions[0]", "InvalidParameterValue"),
    ] {
        assert_eq!(fields(&json), [(format!("state.{field}"), code)], "{json}");
    }
}

#[test]
fn a_refused_load_leaves_everything_as_it_was() {
    let (sandbox, _) = open(None).unwrap();
    let before = sandbox.get_state(true);
    let json = r#"{"SecurityGroups": [
      {"GroupId": "sg-0000000b", "GroupName": "fine", "VpcId": "vpc-0000000000000000a"},
      {"GroupId": "sg-0000000a", "GroupName": "WEB", "VpcId": "vpc-0000000000000000a"}]}"#;
    for replace in [false, true] {
        let mut state = Sandbox::parse_state(json.as_bytes()).unwrap();
        if replace {
            state.security_groups[0].group_name = Some("web".to_owned());
        }
        assert!(sandbox.load_state(state, replace).is_err());
    }
    assert_eq!(sandbox.get_state(true), before);
}

#[tokio::test]
async fn merging_replaces_what_is_known_and_keeps_the_rest() {
    let bench = sample();
    let identity = bench.sandbox.identity();
    let json = r#"{"SecurityGroups": [{"GroupId": "sg-000000000000000a1", "GroupName": "web", "VpcId": "vpc-0000000000000000a",
        "IpPermissionsEgress": [{"IpProtocol": "17", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.2/32"}]}]}],
      "SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-0000000000000a3e1", "GroupId": "sg-000000000000000a3", "IsEgress": true,
        "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "CidrIpv4": "10.0.0.0/16"}]}"#;
    let state = Sandbox::parse_state(json.as_bytes()).unwrap();
    assert_eq!(bench.sandbox.load_state(state, false).unwrap(), [""; 0]);
    assert_eq!(bench.ids(WEB, Direction::Egress).await.len(), 1);
    let image = bench.image(CACHE).await.unwrap();
    let rule = image.rules.iter().find(|rule| rule.direction == Direction::Egress).unwrap();
    assert_eq!((rule.traffic.from_port(), rule.id.as_str()), (80, "sgr-0000000000000a3e1"));
    assert_eq!(image.rules.len(), 3);
    assert_eq!(bench.sandbox.identity(), identity);
    // Rules that went are free; those of other groups are not.
    let taken = json.replace("sgr-0000000000000a3e1", "sgr-0000000000000a2e1");
    let state = Sandbox::parse_state(taken.as_bytes()).unwrap();
    let violations = bench.sandbox.load_state(state, false).unwrap_err();
    assert_eq!(violations[0].field, "state.security_group_rules[0].security_group_rule_id");
}

#[tokio::test]
async fn more_rules_than_the_limits_load_but_no_more_come() {
    let ranges: Vec<String> =
        (0..1100).map(|n| format!(r#"{{"CidrIp": "10.{}.{}.0/24"}}"#, n / 256, n % 256)).collect();
    let json = format!(
        r#"{{"SecurityGroups": [{{"GroupId": "sg-0000000a", "GroupName": "big", "VpcId": "vpc-0000000a", "IpPermissionsEgress":
          [{{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": [{}]}}]}}]}}"#,
        ranges.join(",")
    );
    let bench = bench(Some(&json));
    assert_eq!(bench.ids("sg-0000000a", Direction::Egress).await.len(), 1100);
    let more = bench.authorize_egress("sg-0000000a", &[perm("tcp", 2, 2, "10.0.0.0/8")]).await;
    assert_eq!(code(more), "RulesPerSecurityGroupLimitExceeded");
    assert!(bench.authorize_egress("sg-0000000a", &[perm("tcp", 2, 2, "::/0")]).await.is_ok());
}

#[tokio::test]
async fn peers_by_name_load_as_groups_of_the_same_vpc() {
    let group = |name: &str| {
        format!(
            r#"{{"SecurityGroups": [{{"GroupId": "sg-0000000a", "GroupName": "a", "VpcId": "vpc-0000000a", "OwnerId": "111111111111",
              "IpPermissionsEgress": [{{"IpProtocol": "-1", "UserIdGroupPairs": [{{"GroupName": "{name}"}}]}}]}}]}}"#
        )
    };
    let bench = bench(Some(&group("A")));
    let image = bench.image("sg-0000000a").await.unwrap();
    let crate::rule::Peer::Group(peer) = &image.rules[0].peer else { panic!("no group") };
    assert_eq!(peer.group_id.as_ref().unwrap().as_str(), "sg-0000000a");
    assert_eq!(peer.user_id.as_ref().unwrap().as_str(), "111111111111");
    assert_eq!(
        fields(&group("b")),
        [("state.security_groups".to_owned(), "InvalidGroup.NotFound")]
    );
}

#[tokio::test]
async fn a_deleted_group_that_is_loaded_again_is_there_once() {
    let bench = sample();
    let state = bench.sandbox.get_state(false).state.unwrap();
    bench.revoke_egress(WEB, by_ids(&["sgr-0000000000000a1e4"])).await.unwrap();
    bench.delete(group(DB)).await.unwrap();
    bench.sandbox.load_state(state.clone(), false).unwrap();
    assert_eq!(bench.sandbox.get_state(false).state.unwrap(), state);
    bench.sandbox.inject(Script { kind: 7, ..Script::default() }).unwrap();
    assert_eq!(bench.groups(DescribeGroups::default()).await.unwrap().items.len(), 7);
}

/// A group with an egress rule to a list of another account, as both are described, and that other account's list.
fn shared(more: &str) -> String {
    format!(
        r#"{{"SecurityGroups": [{{"GroupId": "sg-0000000a", "GroupName": "a", "VpcId": "vpc-0000000a", "OwnerId": "111111111111",
          "IpPermissionsEgress": [{{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "PrefixListIds": [{{"PrefixListId": "pl-0000000b"}}]}}]}}{more}],
        "PrefixLists": [{{"PrefixListId": "pl-0000000b", "AddressFamily": "IPv4", "MaxEntries": 50, "OwnerId": "222222222222",
          "PrefixListArn": "arn:aws:ec2:us-east-1:222222222222:prefix-list/pl-0000000b"}}]}}"#
    )
}

#[tokio::test]
async fn r29_a_list_that_was_shared_is_seen_and_weighs_its_entries() {
    let bench = bench(Some(&shared("")));
    let lists = async |target: &Target| {
        let all = DescribePrefixLists::default();
        bench.sandbox.describe_prefix_lists(&call(), target, &all).await.unwrap().items
    };
    assert_eq!(lists(&bench.target).await[0].owner_id(), "222222222222");
    bench.authorize_egress("sg-0000000a", &[perm("tcp", 2, 2, "10.0.0.0/8")]).await.unwrap();
    let again = bench.authorize_egress("sg-0000000a", &[perm("tcp", 3, 3, "pl-0000000b")]).await;
    assert_eq!(code(again), "RulesPerSecurityGroupLimitExceeded");
    bench
        .revoke_egress("sg-0000000a", by_specs(&[perm("tcp", 1, 1, "pl-0000000b")]))
        .await
        .unwrap();
    bench.authorize_egress("sg-0000000a", &[perm("tcp", 3, 3, "pl-0000000b")]).await.unwrap();
    // It is there for its own account and in its Region alone, and is not the other's to change.
    assert_eq!(lists(&target("222222222222", "us-east-1")).await.len(), 1);
    let ids = vec!["pl-0000000b".to_owned()];
    let tags = CreateTags { resources: ids, tags: vec![tag("k", "v")], dry_run: false };
    let refused = bench.sandbox.create_tags(&call(), &bench.target, &tags).await;
    assert_eq!(code(refused), "UnauthorizedOperation");
    // What it was loaded from is what it gives back.
    let state = bench.sandbox.get_state(false).state.unwrap();
    bench.sandbox.load_state(state, true).unwrap();
    assert_eq!(lists(&bench.target).await.len(), 1);
}

#[tokio::test]
async fn a_list_of_an_account_that_is_here_is_seen_by_that_account_alone() {
    let other = r#", {"GroupId": "sg-0000000b", "GroupName": "b", "VpcId": "vpc-0000000b", "OwnerId": "222222222222"}"#;
    let bench = bench(Some(&shared(other)));
    let all = DescribePrefixLists::default();
    let seen = bench.sandbox.describe_prefix_lists(&call(), &bench.target, &all).await.unwrap();
    assert_eq!(seen.items, []);
    let again = bench.authorize_egress("sg-0000000a", &[perm("tcp", 3, 3, "pl-0000000b")]).await;
    assert_eq!(code(again), "InvalidPrefixListID.NotFound");
    // What the rule weighs does not depend on who sees the list.
    let ten: Vec<IpPermission> =
        (0..11).map(|n| perm("tcp", 4, 4, &format!("10.{n}.0.0/16"))).collect();
    let more = bench.authorize_egress("sg-0000000a", &ten).await;
    assert_eq!(code(more), "RulesPerSecurityGroupLimitExceeded");
    bench.authorize_egress("sg-0000000a", &ten[1..]).await.unwrap();
}

#[tokio::test]
async fn r43_an_ipv6_range_that_a_vpc_has_lost_is_none() {
    for (state, ipv6) in [
        ("associated", true),
        ("associating", true),
        ("disassociating", false),
        ("disassociated", false),
        ("failed", false),
    ] {
        let json = format!(
            r#"{{"Vpcs": [{{"VpcId": "vpc-0000000a", "OwnerId": "111111111111", "Ipv6CidrBlockAssociationSet": [
              {{"AssociationId": "x", "Ipv6CidrBlock": "2001:db8::/56", "Ipv6CidrBlockState": {{"State": "{state}"}}}}]}}]}}"#
        );
        let bench = bench(Some(&json));
        let made = bench.create("new", Some("vpc-0000000a")).await.unwrap();
        let egress = bench.ids(&made.group_id.unwrap(), Direction::Egress).await;
        assert_eq!(egress.len(), if ipv6 { 2 } else { 1 }, "{state}");
        let loaded = bench.sandbox.get_state(false).state.unwrap();
        let json = serde_json::to_string(&loaded).unwrap();
        assert!(json.contains(&format!(r#""Ipv6CidrBlockState":{{"State":"{state}"}}"#)), "{json}");
        bench.sandbox.load_state(loaded.clone(), true).unwrap();
        assert_eq!(bench.sandbox.get_state(false).state.unwrap(), loaded);
    }
}
