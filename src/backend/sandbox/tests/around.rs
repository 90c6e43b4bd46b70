//! VPCs and prefix lists.

use super::*;

const APP: &str = "vpc-0000000000000000a";
const DEFAULT: &str = "vpc-0000000000000000d";

fn vpc(cidr_block: &str) -> CreateVpc {
    CreateVpc { cidr_block: cidr_block.to_owned(), ..CreateVpc::default() }
}

fn list(name: &str, address_family: &str, max_entries: i32) -> CreatePrefixList {
    let (name, address_family) = (name.to_owned(), address_family.to_owned());
    CreatePrefixList { name, address_family, max_entries, ..CreatePrefixList::default() }
}

impl Bench {
    async fn create_vpc(&self, request: CreateVpc) -> Result<Arc<Vpc>, BackendError> {
        self.sandbox.create_vpc(&call(), &self.target, &request).await
    }

    async fn delete_vpc(&self, id: &str) -> Result<(), BackendError> {
        let request = DeleteVpc { vpc_id: crate::rule::VpcId::new(id), dry_run: false };
        self.sandbox.delete_vpc(&call(), &self.target, &request).await
    }

    async fn vpcs(&self, request: DescribeVpcs) -> Result<Page<Arc<Vpc>>, BackendError> {
        self.sandbox.describe_vpcs(&call(), &self.target, &request).await
    }

    async fn vpc_ids(&self, filters: Vec<Filter>) -> Vec<String> {
        let page = self.vpcs(DescribeVpcs { filters, ..DescribeVpcs::default() }).await.unwrap();
        page.items.iter().map(|vpc| vpc.id.to_string()).collect()
    }

    async fn create_list(
        &self,
        request: CreatePrefixList,
    ) -> Result<Arc<PrefixList>, BackendError> {
        self.sandbox.create_prefix_list(&call(), &self.target, &request).await
    }

    async fn lists(
        &self,
        request: DescribePrefixLists,
    ) -> Result<Page<Arc<PrefixList>>, BackendError> {
        self.sandbox.describe_prefix_lists(&call(), &self.target, &request).await
    }
}

#[tokio::test]
async fn r43_r45_a_new_vpc_has_its_default_group() {
    let bench = sample();
    for ipv6 in [false, true] {
        let tags = vec![tag("Name", "new")];
        let made = CreateVpc { ipv6, tags: tags.clone(), ..vpc("10.7.1.9/16") };
        let made = bench.create_vpc(made).await.unwrap();
        assert_eq!(made.cidr_block.as_deref(), Some("10.7.0.0/16"));
        assert_eq!(
            (made.is_default, made.state(), made.home.clone()),
            (false, "available", bench.target.clone())
        );
        assert_eq!((made.tags.clone(), made.id.as_str().len()), (tags, 21));
        let blocks: Vec<ipnet::Ipv6Net> =
            made.ipv6_blocks.iter().map(|block| block.range.parse().unwrap()).collect();
        let documentation: ipnet::Ipv6Net = "2001:db8::/32".parse().unwrap();
        assert!(
            blocks.iter().all(|block| documentation.contains(block) && block.prefix_len() == 56)
        );
        assert!(blocks.iter().all(|block| block.trunc() == *block));
        assert_eq!(blocks.len(), usize::from(ipv6));

        let page = bench
            .vpcs(DescribeVpcs { vpc_ids: vec![made.id.clone()], ..DescribeVpcs::default() })
            .await;
        assert_eq!(page.unwrap().items, std::slice::from_ref(&made));
        let request = DescribeGroups {
            filters: vec![filter("vpc-id", &[made.id.as_str()])],
            ..DescribeGroups::default()
        };
        let groups = bench.groups(request).await.unwrap().items;
        let [image] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((image.group.name.as_str(), image.in_default_vpc), ("default", Some(false)));
        let rules: Vec<String> = image
            .rules
            .iter()
            .map(|rule| format!("{} {} {}", rule.direction.as_str(), rule.traffic, rule.peer))
            .collect();
        let mut expected = vec!["egress all protocols 0.0.0.0/0".to_owned()];
        expected.extend(ipv6.then(|| "egress all protocols ::/0".to_owned()));
        expected.push(format!("ingress all protocols {}", image.group.id));
        assert_eq!(rules, expected);
        let effect = bench.sandbox.get_state(true).effects.pop().unwrap();
        assert_eq!(
            (effect.action.as_str(), effect.group_id.as_str()),
            ("CreateVpc", image.group.id.as_str())
        );
        // R47: it may not show yet.
        bench.sandbox.inject(Script { kind: 7, ..Script::default() }).unwrap();
        assert_eq!(code(bench.image(image.group.id.as_str()).await), "InvalidGroup.NotFound");
        // It is a VPC like any other.
        bench.create("web", Some(made.id.as_str())).await.unwrap();
    }
    let state = bench.sandbox.get_state(false).state.unwrap();
    assert_eq!(state.vpcs.len(), 5);
    assert_eq!(bench.sandbox.load_state(state.clone(), true).unwrap(), [""; 0]);
    assert_eq!(bench.sandbox.get_state(false).state.unwrap(), state);
}

#[tokio::test]
async fn bad_vpcs_are_refused_and_nothing_is_made() {
    let bench = sample();
    let before = bench.sandbox.get_state(true);
    for (bad, expected) in [
        (vpc(""), "MissingParameter"),
        (vpc("10.0.0.0"), "InvalidParameterValue"),
        (vpc("2001:db8::/56"), "InvalidParameterValue"),
        (vpc("010.0.0.0/16"), "InvalidParameterValue"),
        (vpc("10.0.0.0/016"), "InvalidParameterValue"),
        (vpc("10.0.0.0/15"), "InvalidVpc.Range"),
        (vpc("10.0.0.0/29"), "InvalidVpc.Range"),
        (CreateVpc { tags: vec![tag("aws:x", "")], ..vpc("10.0.0.0/16") }, "InvalidParameterValue"),
        (CreateVpc { dry_run: true, ..vpc("10.0.0.0/16") }, "DryRunOperation"),
        (CreateVpc { dry_run: true, ..vpc("10.0.0.0/29") }, "InvalidVpc.Range"),
    ] {
        assert_eq!(code(bench.create_vpc(bad.clone()).await), expected, "{bad:?}");
    }
    let after = bench.sandbox.get_state(true);
    assert_eq!((after.state, after.effects), (before.state, before.effects));
    for good in ["10.0.0.0/16", "10.0.0.0/28"] {
        bench.create_vpc(vpc(good)).await.unwrap();
    }
}

#[tokio::test]
async fn a_vpc_goes_with_its_default_group_alone() {
    let bench = sample();
    let before = bench.sandbox.get_state(false).state;
    let id = bench.create_vpc(vpc("10.0.0.0/16")).await.unwrap().id.to_string();
    let group = bench.create("web", Some(&id)).await.unwrap().group_id.unwrap();
    let refused = refusal(bench.delete_vpc(&id).await);
    assert_eq!(refused.code, "DependencyViolation");
    assert_eq!(refused.message, format!("The vpc '{id}' has dependencies and cannot be deleted."));
    bench.delete(super::group(&group)).await.unwrap();
    let dry = DeleteVpc { vpc_id: crate::rule::VpcId::new(&id), dry_run: true };
    let refused = bench.sandbox.delete_vpc(&call(), &bench.target, &dry).await;
    assert_eq!(code(refused), "DryRunOperation");
    bench.delete_vpc(&id).await.unwrap();
    assert_eq!(bench.sandbox.get_state(false).state, before);
    let effect = bench.sandbox.get_state(true).effects.pop().unwrap();
    assert_eq!((effect.action.as_str(), effect.security_group_rules.len()), ("DeleteVpc", 2));
    let refused = refusal(bench.delete_vpc(&id).await);
    assert_eq!(refused.code, "InvalidVpcID.NotFound");
    assert_eq!(refused.message, format!("The vpc ID '{id}' does not exist"));
    assert_eq!(code(bench.create("web", Some(&id)).await), "InvalidVpcID.NotFound");
    // Another account's.
    assert_eq!(code(bench.delete_vpc("vpc-0000000000000000e").await), "InvalidVpcID.NotFound");
    assert_eq!(code(bench.delete_vpc(APP).await), "DependencyViolation");
    // Without the default VPC, names mean nothing.
    bench.delete(super::group(LEGACY)).await.unwrap();
    bench.delete_vpc(DEFAULT).await.unwrap();
    assert_eq!(code(bench.create("x", None).await), "VPCIdNotSpecified");
}

#[tokio::test]
async fn r27_r28_references_from_peered_vpcs_outlive_the_vpc() {
    let mut bench = bench(Some(super::groups::PEERED));
    bench.target = target("222222222222", "us-east-1");
    let filters = vec![filter("group-name", &["default"])];
    let groups = bench.groups(DescribeGroups { filters, ..DescribeGroups::default() }).await;
    let default = groups.unwrap().items[0].group.id.to_string();
    bench.target = target("111111111111", "us-east-1");
    let mut across = perm("tcp", 1, 1, &default);
    across.user_id_group_pairs[0].user_id = Some("222222222222".to_owned());
    bench.authorize_egress("sg-0000000a", &[across]).await.unwrap();
    bench.target = target("222222222222", "us-east-1");
    bench.delete(group("sg-0000000b")).await.unwrap();
    bench.delete_vpc("vpc-0000000b").await.unwrap();
    bench.target = target("111111111111", "us-east-1");
    let image = bench.image("sg-0000000a").await.unwrap();
    let crate::rule::Peer::Group(peer) = &image.rules[0].peer else { panic!("no group") };
    assert_eq!(peer.group_id.as_ref().unwrap().as_str(), default);
    assert_eq!((&peer.user_id, &peer.vpc_id), (&None, &None));
    let vpcs = bench.sandbox.get_state(false).state.unwrap().vpcs;
    assert_eq!(vpcs[0].peered_vpc_ids, [""; 0]);
    assert_eq!(vpcs[1].peered_vpc_ids, ["vpc-0000000a"]);
}

#[tokio::test]
async fn vpcs_by_id_filter_and_page() {
    let bench = sample();
    for (filters, expected) in [
        (vec![], vec![APP, DEFAULT]),
        (vec![filter("is-default", &["true"])], vec![DEFAULT]),
        (vec![filter("isDefault", &["false"])], vec![APP]),
        (vec![filter("vpc-id", &["*d", "vpc-0000000000000000e"])], vec![DEFAULT]),
        (vec![filter("cidr", &["10.0.0.0/16"])], vec![APP]),
        (vec![filter("cidr-block-association.cidr-block", &["172.*"])], vec![DEFAULT]),
        (vec![filter("ipv6-cidr-block-association.ipv6-cidr-block", &["2001:db8:*"])], vec![APP]),
        (vec![filter("state", &["available"])], vec![APP, DEFAULT]),
        (vec![filter("owner-id", &["210987654321"])], vec![]),
        (vec![filter("tag:Name", &["app"])], vec![APP]),
        (vec![filter("tag-key", &["N*"]), filter("is-default", &["true"])], vec![]),
    ] {
        assert_eq!(bench.vpc_ids(filters.clone()).await, expected, "{filters:?}");
    }
    let vpc_ids = [DEFAULT, APP, APP].map(crate::rule::VpcId::new).to_vec();
    let request = DescribeVpcs { vpc_ids, ..DescribeVpcs::default() };
    assert_eq!(bench.vpcs(request.clone()).await.unwrap().items.len(), 2);
    let filters = vec![filter("is-default", &["true"])];
    let filtered = DescribeVpcs { filters, ..request.clone() };
    assert_eq!(bench.vpcs(filtered).await.unwrap().items.len(), 1);
    let foreign = vec![crate::rule::VpcId::new("vpc-0000000000000000e")];
    let bad_filter = vec![filter("cidr-block", &["x"])];
    for (bad, expected) in [
        (DescribeVpcs { vpc_ids: foreign, ..request.clone() }, "InvalidVpcID.NotFound"),
        (DescribeVpcs { max_results: Some(5), ..request.clone() }, "InvalidParameterCombination"),
        (DescribeVpcs { max_results: Some(4), ..DescribeVpcs::default() }, "InvalidParameterValue"),
        (DescribeVpcs { filters: bad_filter, ..DescribeVpcs::default() }, "InvalidParameterValue"),
        (
            DescribeVpcs { next_token: Some("x".to_owned()), ..DescribeVpcs::default() },
            "InvalidPaginationToken",
        ),
        (DescribeVpcs { dry_run: true, ..DescribeVpcs::default() }, "DryRunOperation"),
    ] {
        assert_eq!(code(bench.vpcs(bad.clone()).await), expected, "{bad:?}");
    }
    let mut seen = Vec::new();
    for _ in 0..10 {
        bench.create_vpc(vpc("10.0.0.0/24")).await.unwrap();
    }
    let mut next_token = None;
    loop {
        let request = DescribeVpcs { max_results: Some(5), next_token, ..DescribeVpcs::default() };
        let page = bench.vpcs(request).await.unwrap();
        assert!(page.items.len() <= 5);
        seen.extend(page.items.iter().map(|vpc| vpc.id.to_string()));
        next_token = page.next_token;
        if next_token.is_none() {
            break;
        }
    }
    assert_eq!(seen, bench.vpc_ids(vec![]).await);
    assert_eq!(seen.len(), 12);
    let elsewhere = target("999999999999", "us-east-1");
    let error = bench.sandbox.describe_vpcs(&call(), &elsewhere, &DescribeVpcs::default()).await;
    assert!(matches!(error, Err(BackendError::TargetNotConfigured { .. })), "{error:?}");
}

#[tokio::test]
async fn a_shared_vpc_is_seen_by_who_works_in_it_and_stays_its_owner_s() {
    let mut bench = bench(Some(
        r#"{"Vpcs": [{"VpcId": "vpc-0000000a", "OwnerId": "111111111111"}], "SecurityGroups": [
          {"GroupId": "sg-0000000a", "GroupName": "a", "VpcId": "vpc-0000000a", "OwnerId": "222222222222"}]}"#,
    ));
    for (account, expected) in
        [("222222222222", "UnauthorizedOperation"), ("111111111111", "DependencyViolation")]
    {
        bench.target = target(account, "us-east-1");
        assert_eq!(bench.vpc_ids(vec![]).await, ["vpc-0000000a"]);
        assert_eq!(code(bench.delete_vpc("vpc-0000000a").await), expected);
    }
}

#[tokio::test]
async fn there_are_at_most_1000_vpcs_and_lists() {
    let bench = sample();
    for _ in 2..1000 {
        bench.create_vpc(vpc("10.0.0.0/28")).await.unwrap();
    }
    assert_eq!(code(bench.create_vpc(vpc("10.0.0.0/28")).await), "VpcLimitExceeded");
    for number in 1..1000 {
        bench.create_list(list(&format!("list-{number}"), "IPv4", 1)).await.unwrap();
    }
    assert_eq!(code(bench.create_list(list("more", "IPv4", 1)).await), "ResourceLimitExceeded");
    // AWS's own list and another account's VPC do not count.
    let mut elsewhere = bench;
    elsewhere.target = target("210987654321", "eu-west-1");
    elsewhere.create_vpc(vpc("10.0.0.0/28")).await.unwrap();
    elsewhere.create_list(list("first", "IPv4", 1)).await.unwrap();
}

#[tokio::test]
async fn prefix_lists_are_made_and_described() {
    let bench = sample();
    for (bad, expected) in [
        (list("", "IPv4", 1), "MissingParameter"),
        (list("com.amazonaws.mine", "IPv4", 1), "InvalidParameterValue"),
        (list("a\nb", "IPv4", 1), "InvalidParameterValue"),
        (list(&"x".repeat(256), "IPv4", 1), "InvalidParameterValue"),
        (list("x", "", 1), "MissingParameter"),
        (list("x", "ipv4", 1), "InvalidParameterValue"),
        (list("x", "IPv4", 0), "InvalidParameterValue"),
        (list("x", "IPv4", 1001), "InvalidParameterValue"),
        (
            CreatePrefixList { tags: vec![tag("", "")], ..list("x", "IPv4", 1) },
            "InvalidParameterValue",
        ),
        (CreatePrefixList { dry_run: true, ..list("x", "IPv4", 1) }, "DryRunOperation"),
    ] {
        assert_eq!(code(bench.create_list(bad.clone()).await), expected, "{bad:?}");
    }
    let tags = vec![tag("team", "net")];
    let made = CreatePrefixList { tags: tags.clone(), ..list("mine", "IPv6", 60) };
    let made = bench.create_list(made).await.unwrap();
    assert_eq!((made.owner_id(), made.tags.clone(), made.weight()), ("123456789012", tags, 60));
    let id = made.id.to_string();
    assert_eq!(made.arn(), format!("arn:aws:ec2:us-east-1:123456789012:prefix-list/{id}"));
    // cache has one rule, so a list of 60 is too heavy.
    let refused = bench.authorize_egress(CACHE, &[perm("tcp", 1, 1, &id)]).await;
    assert_eq!(code(refused), "RulesPerSecurityGroupLimitExceeded");

    let names = async |filters: Vec<Filter>| -> Vec<String> {
        let request = DescribePrefixLists { filters, ..DescribePrefixLists::default() };
        let page = bench.lists(request).await.unwrap();
        page.items.iter().map(|list| list.name.clone().unwrap()).collect()
    };
    let s3 = "com.amazonaws.us-east-1.s3";
    for (filters, expected) in [
        (vec![filter("owner-id", &["AWS"])], vec![s3]),
        (vec![filter("owner-id", &["123456789012"]), filter("tag:team", &["n?t"])], vec!["mine"]),
        (vec![filter("prefix-list-id", &[LIST])], vec!["internal-networks"]),
        (vec![filter("prefix-list-name", &["*.s3"])], vec![s3]),
        (vec![filter("tag-key", &["team"])], vec!["mine"]),
    ] {
        assert_eq!(names(filters.clone()).await, expected, "{filters:?}");
    }
    let by_id = |id: &str| DescribePrefixLists {
        prefix_list_ids: vec![crate::rule::PrefixListId::new(id)],
        ..DescribePrefixLists::default()
    };
    assert_eq!(bench.lists(by_id(&id)).await.unwrap().items, [made]);
    let refused = refusal(bench.lists(by_id("pl-00000009")).await);
    assert_eq!(refused.code, "InvalidPrefixListID.NotFound");
    assert_eq!(refused.message, "The prefix list ID 'pl-00000009' does not exist");
    let mut seen = 0;
    let mut next_token = None;
    loop {
        let request = DescribePrefixLists {
            max_results: Some(1),
            next_token,
            ..DescribePrefixLists::default()
        };
        let page = bench.lists(request).await.unwrap();
        seen += page.items.len();
        next_token = page.next_token;
        if next_token.is_none() {
            break;
        }
    }
    assert_eq!(seen, 3);
    let dry = DescribePrefixLists { dry_run: true, ..DescribePrefixLists::default() };
    assert_eq!(code(bench.lists(dry).await), "DryRunOperation");
}

#[tokio::test]
async fn faults_meet_the_actions_around_and_calls_are_counted() {
    let bench = sample();
    for action in [
        "DescribeVpcs",
        "CreateVpc",
        "DeleteVpc",
        "CreateManagedPrefixList",
        "DescribeManagedPrefixLists",
    ] {
        bench
            .sandbox
            .inject(Script { kind: 1, action: action.to_owned(), ..Script::default() })
            .unwrap();
    }
    let throttled = "RequestLimitExceeded";
    assert_eq!(code(bench.vpcs(DescribeVpcs::default()).await), throttled);
    assert_eq!(code(bench.create_vpc(vpc("10.0.0.0/16")).await), throttled);
    assert_eq!(code(bench.delete_vpc(APP).await), throttled);
    assert_eq!(code(bench.create_list(list("x", "IPv4", 1)).await), throttled);
    assert_eq!(code(bench.lists(DescribePrefixLists::default()).await), throttled);
    assert!(bench.vpcs(DescribeVpcs::default()).await.is_ok());
    bench.sandbox.inject(Script { kind: 5, ..Script::default() }).unwrap();
    let lost = bench.create_vpc(vpc("10.0.0.0/16")).await;
    assert!(matches!(lost, Err(BackendError::OutcomeUnknown(_))), "{lost:?}");
    assert_eq!(bench.vpc_ids(vec![]).await.len(), 3);
    let calls = bench.sandbox.get_state(false).calls;
    assert_eq!((calls.get("DescribeVpcs"), calls.get("CreateVpc")), (Some(&3), Some(&2)));
}
