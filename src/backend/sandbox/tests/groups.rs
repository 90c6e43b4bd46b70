//! Creating and deleting groups, and references between VPCs.

use super::*;

const APP: &str = "vpc-0000000000000000a";

pub const PEERED: &str = r#"{
  "Vpcs": [
    {"VpcId": "vpc-0000000a", "OwnerId": "111111111111", "PeeredVpcIds": ["vpc-0000000b"]},
    {"VpcId": "vpc-0000000b", "OwnerId": "222222222222"},
    {"VpcId": "vpc-0000000c", "OwnerId": "111111111111", "PeeredVpcIds": ["vpc-0000000a"]}],
  "SecurityGroups": [
    {"GroupId": "sg-0000000a", "GroupName": "a", "VpcId": "vpc-0000000a", "OwnerId": "111111111111"},
    {"GroupId": "sg-0000000b", "GroupName": "b", "VpcId": "vpc-0000000b", "OwnerId": "222222222222"},
    {"GroupId": "sg-0000000c", "GroupName": "c", "VpcId": "vpc-0000000c", "OwnerId": "111111111111"}]
}"#;

#[tokio::test]
async fn r43_a_new_group_lets_everything_out() {
    let bench = sample();
    for (vpc, count) in [(None, 1), (Some(APP), 2)] {
        let id = bench.create("new", vpc).await.unwrap().group_id.unwrap();
        let image = bench.image(&id).await.unwrap();
        assert_eq!(image.in_default_vpc, Some(vpc.is_none()));
        let rules: Vec<String> = image
            .rules
            .iter()
            .map(|rule| format!("{} {} {}", rule.direction.as_str(), rule.traffic, rule.peer))
            .collect();
        let all = ["egress all protocols 0.0.0.0/0", "egress all protocols ::/0"];
        assert_eq!(rules, all[..count]);
    }
}

#[tokio::test]
async fn names_are_unique_in_a_vpc_whatever_their_case() {
    let bench = sample();
    let refused = refusal(bench.create("WEB  ", Some(APP)).await);
    assert_eq!(refused.code, "InvalidGroup.Duplicate");
    let trimmed = bench.create("web  ", None).await.unwrap().group_id.unwrap();
    assert_eq!(bench.image(&trimmed).await.unwrap().group.name, "web");
    for (name, expected) in [
        ("sg-x", "InvalidParameterValue"),
        ("SG-x", "InvalidParameterValue"),
        ("default", "InvalidGroup.Reserved"),
        ("Default ", "InvalidGroup.Reserved"),
    ] {
        assert_eq!(code(bench.create(name, Some(APP)).await), expected, "{name}");
    }
    assert_eq!(code(bench.create("x", Some("vpc-00000000")).await), "InvalidVpcID.NotFound");
    let foreign = bench.create("x", Some("vpc-0000000000000000e")).await;
    assert_eq!(code(foreign), "InvalidVpcID.NotFound");
}

#[tokio::test]
async fn without_a_default_vpc_a_vpc_or_id_must_be_named() {
    let bench = bench(Some(PEERED));
    assert_eq!(code(bench.create("x", None).await), "VPCIdNotSpecified");
    assert_eq!(code(bench.delete(GroupRef::Name("a".to_owned())).await), "VPCIdNotSpecified");
    let named = bench.authorize_egress("sg-0000000a", &[perm("tcp", 1, 1, "name:a")]).await;
    let refused = refusal(named);
    assert_eq!(refused.message, "The security group 'a' does not exist in default VPC 'none'");
}

#[tokio::test]
async fn the_2501st_group_is_refused() {
    let groups: Vec<String> = (0..2499)
        .map(|number| format!(r#"{{"GroupId": "sg-{number:08x}", "GroupName": "g{number}", "VpcId": "vpc-0000000a"}}"#))
        .collect();
    let bench = bench(Some(&format!(r#"{{"SecurityGroups": [{}]}}"#, groups.join(","))));
    let refused = bench.create("one-more", Some("vpc-0000000a")).await;
    assert_eq!(code(refused), "SecurityGroupLimitExceeded");
    bench.delete(group("sg-00000000")).await.unwrap();
    bench.create("one-more", Some("vpc-0000000a")).await.unwrap();
}

#[tokio::test]
async fn r45_each_vpc_has_a_default_group_that_stays() {
    let bench = bench(Some(PEERED));
    let filter =
        |name: &str, value: &str| Filter { name: name.to_owned(), values: vec![value.to_owned()] };
    let request = DescribeGroups {
        filters: vec![filter("group-name", "default"), filter("vpc-id", "vpc-0000000c")],
        ..DescribeGroups::default()
    };
    let page = bench.groups(request).await.unwrap();
    let [image] = page.items.as_slice() else { panic!("{page:?}") };
    let own = image.rules.iter().find(|rule| rule.direction == Direction::Ingress).unwrap();
    assert_eq!(own.peer.to_string(), image.group.id.to_string());
    assert_eq!(image.rules.len(), 2);
    let refused = refusal(bench.delete(GroupRef::Id(image.group.id.clone())).await);
    assert_eq!(refused.code, "CannotDelete");
    // Its rules may go.
    let ids = Selection::Ids(
        image
            .rules
            .iter()
            .filter(|rule| rule.direction == Direction::Egress)
            .map(|rule| rule.id.clone())
            .collect(),
    );
    assert!(bench.revoke_egress(image.group.id.as_str(), ids).await.is_ok());
}

#[tokio::test]
async fn r27_a_group_that_its_vpc_refers_to_stays() {
    let bench = sample();
    assert_eq!(code(bench.delete(group(DB)).await), "DependencyViolation");
    bench.revoke_egress(WEB, by_ids(&["sgr-0000000000000a1e4"])).await.unwrap();
    let deleted = bench.delete(group(DB)).await.unwrap();
    assert_eq!((deleted.return_value, deleted.group_id.as_deref()), (Some(true), Some(DB)));
    assert_eq!(code(bench.image(DB).await), "InvalidGroup.NotFound");
    assert_eq!(code(bench.delete(group(DB)).await), "InvalidGroup.NotFound");
    // A reference to itself does not count.
    let id = bench.create("own", Some(APP)).await.unwrap().group_id.unwrap();
    bench.authorize_egress(&id, &[perm("tcp", 1, 1, &id)]).await.unwrap();
    bench.delete(group(&id)).await.unwrap();
    // The name is free again.
    bench.create("own", Some(APP)).await.unwrap();
}

#[tokio::test]
async fn r27_r28_references_across_peered_vpcs_outlive_their_group() {
    let mut bench = bench(Some(PEERED));
    let foreign = |user: Option<&str>| {
        let mut permission = perm("tcp", 1, 1, "sg-0000000b");
        permission.user_id_group_pairs[0].user_id = user.map(str::to_owned);
        [permission]
    };
    // Another account's group exists only for who names its owner.
    for user in [None, Some("333333333333")] {
        let refused = bench.authorize_egress("sg-0000000a", &foreign(user)).await;
        assert_eq!(code(refused), "InvalidGroup.NotFound");
    }
    let permissions = foreign(Some("222222222222"));
    let refused = refusal(bench.authorize_egress("sg-0000000c", &permissions).await);
    assert!(refused.message.contains("different networks"), "{refused:?}");
    let added = bench.authorize_egress("sg-0000000a", &permissions).await.unwrap();
    let crate::rule::Peer::Group(peer) = &added.rules[0].rule.peer else { panic!("no group") };
    assert_eq!(peer.vpc_id.as_deref(), Some("vpc-0000000b"));
    assert_eq!(peer.peering_status.as_deref(), Some("active"));

    bench.target = target("222222222222", "us-east-1");
    bench.delete(group("sg-0000000b")).await.unwrap();
    bench.target = target("111111111111", "us-east-1");
    let image = bench.image("sg-0000000a").await.unwrap();
    let crate::rule::Peer::Group(peer) = &image.rules[0].peer else { panic!("no group") };
    assert_eq!((&peer.user_id, &peer.vpc_id), (&None, &None));
    let revoked = bench.revoke_egress("sg-0000000a", by_specs(&permissions)).await.unwrap();
    assert_eq!(revoked.revoked[0].referenced_group_id.as_deref(), Some("sg-0000000b"));
}

#[tokio::test]
async fn r28_a_stale_reference_shows_no_name() {
    let named = PEERED.replace(
        r#""GroupName": "c","#,
        r#""GroupName": "c", "IpPermissionsEgress": [{"IpProtocol": "-1", "UserIdGroupPairs":
          [{"GroupId": "sg-0000000a", "GroupName": "a", "UserId": "111111111111"}]}],"#,
    );
    let mut bench = bench(Some(&named));
    bench.target = target("111111111111", "us-east-1");
    let name = async |bench: &Bench| {
        let image = bench.image("sg-0000000c").await.unwrap();
        let crate::rule::Peer::Group(peer) = &image.rules[0].peer else { panic!("no group") };
        (peer.group_id.clone(), peer.group_name.clone())
    };
    let id = Some(GroupId::new("sg-0000000a"));
    assert_eq!(name(&bench).await, (id.clone(), Some("a".to_owned())));
    bench.delete(group("sg-0000000a")).await.unwrap();
    assert_eq!(name(&bench).await, (id, None));
}

#[tokio::test]
async fn targets_are_apart_and_unknown_ones_are_not_served() {
    let mut bench = sample();
    let resolve = |account: Option<&str>, region: Option<&str>| {
        bench.sandbox.resolve(account.map(AccountId::new), region.map(Region::new))
    };
    assert_eq!(resolve(None, None).unwrap(), target("123456789012", "us-east-1"));
    let other = resolve(Some("210987654321"), None).unwrap();
    assert_eq!(other, target("210987654321", "eu-west-1"));
    for (account, region) in [
        (Some("999999999999"), None),
        (None, Some("eu-west-1")),
        (Some("210987654321"), Some("us-east-1")),
    ] {
        let error = resolve(account, region).unwrap_err();
        assert!(matches!(error, BackendError::TargetNotConfigured { .. }), "{error:?}");
    }
    assert_eq!(code(bench.image(WORKER).await), "InvalidGroup.NotFound");
    bench.target = other;
    assert!(bench.image(WORKER).await.is_ok());
    assert_eq!(code(bench.image(WEB).await), "InvalidGroup.NotFound");
}
