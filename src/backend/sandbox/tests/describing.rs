//! Lists, filters and pages.

use super::*;

fn with_filters(filters: Vec<Filter>) -> DescribeGroups {
    DescribeGroups { filters, ..DescribeGroups::default() }
}

fn rule_filters(filters: Vec<Filter>) -> DescribeRules {
    DescribeRules { filters, ..DescribeRules::default() }
}

async fn names(bench: &Bench, filters: Vec<Filter>) -> Vec<String> {
    let page = bench.groups(with_filters(filters)).await.unwrap();
    page.items.iter().map(|image| image.group.name.clone()).collect()
}

#[tokio::test]
async fn groups_pass_every_filter_by_any_value() {
    let bench = sample();
    for (filters, expected) in [
        (vec![filter("group-name", &["we?", "ca*"])], vec!["web", "cache"]),
        (vec![filter("group-name", &["WEB"])], vec![]),
        (vec![filter("tag:team", &["data"])], vec!["db", "cache"]),
        (vec![filter("tag-key", &["aws:cloudformation:*"])], vec!["stack-owned"]),
        (vec![filter("description", &["Caches"])], vec!["cache"]),
        (vec![filter("owner-id", &["210987654321"])], vec![]),
        (vec![filter("vpc-id", &["*d"])], vec!["default", "legacy"]),
        (vec![filter("group-id", &[WEB, "sg-00000000"])], vec!["web"]),
        (vec![filter("group-id", &[WEB]), filter("tag:team", &["data"])], vec![]),
        (vec![filter("ip-permission.from-port", &["5432"])], vec!["db"]),
        (vec![filter("ip-permission.cidr", &["203.0.113.0/24"])], vec!["legacy"]),
        (vec![filter("ip-permission.group-name", &["web"])], vec!["db", "cache"]),
        (vec![filter("ip-permission.group-id", &[CACHE])], vec!["cache"]),
        (vec![filter("ip-permission.ipv6-cidr", &["::/0"])], vec!["web"]),
        (vec![filter("egress.ip-permission.prefix-list-id", &[LIST])], vec!["web", "db"]),
        (vec![filter("egress.ip-permission.protocol", &["icmp"])], vec!["web"]),
        (vec![filter("egress.ip-permission.protocol", &["17"])], vec!["web", "legacy"]),
        (vec![filter("egress.ip-permission.to-port", &["8100"])], vec!["web"]),
        (vec![filter("egress.ip-permission.user-id", &["123456789012"])], vec!["web"]),
        // One rule has the port, another the range.
        (
            vec![
                filter("egress.ip-permission.from-port", &["5432"]),
                filter("egress.ip-permission.cidr", &["10.0.0.2/32"]),
            ],
            vec!["web"],
        ),
    ] {
        assert_eq!(names(&bench, filters.clone()).await, expected, "{filters:?}");
    }
}

#[tokio::test]
async fn bad_filters_are_refused() {
    let bench = sample();
    for (bad, code, message) in [
        (
            filter("Group-Name", &["x"]),
            "InvalidParameterValue",
            "The filter 'Group-Name' is invalid",
        ),
        (filter("nonsense", &["x"]), "InvalidParameterValue", "The filter 'nonsense' is invalid"),
        (
            filter("group-id", &["web"]),
            "InvalidGroupId.Malformed",
            "The security group ID 'web' is malformed",
        ),
    ] {
        for refused in [
            refusal(bench.groups(with_filters(vec![bad.clone()])).await),
            refusal(bench.rules(rule_filters(vec![bad.clone()])).await),
        ] {
            assert_eq!((refused.code.as_str(), refused.message.as_str()), (code, message));
        }
    }
    let wild = with_filters(vec![filter("group-id", &["web*"])]);
    assert!(bench.groups(wild).await.unwrap().items.is_empty());
    assert_eq!(
        code(bench.rules(rule_filters(vec![filter("vpc-id", &["x"])])).await),
        "InvalidParameterValue"
    );
}

#[tokio::test]
async fn groups_by_id_and_name_must_exist() {
    let bench = sample();
    let request = DescribeGroups {
        group_ids: vec![GroupId::new(WEB), GroupId::new(DB), GroupId::new(WEB)],
        group_names: vec!["Legacy".to_owned()],
        ..DescribeGroups::default()
    };
    let page = bench.groups(request).await.unwrap();
    assert_eq!(page.items.len(), 3);
    assert_eq!(page.next_token, None);
    let ids = DescribeGroups {
        group_ids: vec![GroupId::new("sg-00000000")],
        ..DescribeGroups::default()
    };
    let refused = refusal(bench.groups(ids.clone()).await);
    assert_eq!(refused.message, "The security group 'sg-00000000' does not exist");
    let name = DescribeGroups { group_names: vec!["web".to_owned()], ..DescribeGroups::default() };
    assert_eq!(code(bench.groups(name).await), "InvalidGroup.NotFound");
    let paged = DescribeGroups { max_results: Some(5), ..ids.clone() };
    assert_eq!(code(bench.groups(paged).await), "InvalidParameterCombination");
    let dry = DescribeGroups { dry_run: true, ..ids };
    assert_eq!(code(bench.groups(dry).await), "DryRunOperation");
}

#[tokio::test]
async fn rules_by_id_and_filter() {
    let bench = sample();
    let ids = ["sgr-0000000000000a1e9", "sgr-0000000000000a2c1"];
    let request =
        DescribeRules { rule_ids: ids.map(RuleId::new).to_vec(), ..DescribeRules::default() };
    let page = bench.rules(request.clone()).await.unwrap();
    let found: Vec<&str> = page.items.iter().map(|owned| owned.rule.id.as_str()).collect();
    assert_eq!(found, ids);
    assert_eq!(page.items[1].group_id.as_str(), DB);
    for bad in ["sgr-00000000", "sgr-0000000000000e1e1"] {
        let request =
            DescribeRules { rule_ids: vec![RuleId::new(bad)], ..DescribeRules::default() };
        let refused = refusal(bench.rules(request).await);
        assert_eq!(refused.code, "InvalidSecurityGroupRuleId.NotFound");
        assert_eq!(refused.message, format!("The security group rule ID '{bad}' does not exist"));
    }
    for (filters, count) in [
        (vec![filter("group-id", &[WEB])], 12),
        (vec![filter("group-id", &["sg-00000000"])], 0),
        (vec![filter("security-group-rule-id", &["sgr-0000000000000a1e1"])], 1),
        (vec![filter("security-group-rule-id", &["*a1c*"])], 3),
        (vec![filter("tag:ticket", &["NET-*"])], 1),
        (vec![filter("tag-key", &["ticket"]), filter("group-id", &[DB])], 0),
    ] {
        let page = bench.rules(rule_filters(filters.clone())).await.unwrap();
        assert_eq!(page.items.len(), count, "{filters:?}");
    }
    let filters = vec![filter("group-id", &[DB])];
    let both = DescribeRules { filters, ..request.clone() };
    assert_eq!(bench.rules(both).await.unwrap().items.len(), 1);
    let paged = DescribeRules { max_results: Some(5), ..request };
    assert_eq!(code(bench.rules(paged).await), "InvalidParameterCombination");
}

#[tokio::test]
async fn pages_show_everything_once_while_others_write() {
    let bench = sample();
    let all = bench.rules(DescribeRules::default()).await.unwrap().items;
    let mut seen: Vec<OwnedRule> = Vec::new();
    let mut token = None;
    loop {
        let request =
            DescribeRules { max_results: Some(5), next_token: token, ..DescribeRules::default() };
        let page = bench.rules(request).await.unwrap();
        assert!(page.items.len() <= 5);
        seen.extend(page.items);
        token = page.next_token;
        if token.is_none() {
            break;
        }
        // What was shown may go; what comes is not before it.
        let shown = seen.last().unwrap();
        let ids = Selection::Ids(vec![shown.rule.id.clone()]);
        bench.revoke(shown.group_id.as_str(), shown.rule.direction, ids).await.unwrap();
    }
    assert_eq!(seen, all);

    let first = DescribeGroups { max_results: Some(5), ..DescribeGroups::default() };
    let first = bench.groups(first).await.unwrap();
    let rest = DescribeGroups { next_token: first.next_token, ..DescribeGroups::default() };
    let rest = bench.groups(rest).await.unwrap();
    assert_eq!((first.items.len(), rest.items.len(), rest.next_token), (5, 2, None));
    let bad = DescribeGroups { next_token: Some("bad".to_owned()), ..DescribeGroups::default() };
    assert_eq!(code(bench.groups(bad).await), "InvalidPaginationToken");
}

#[tokio::test]
async fn a_list_goes_on_where_a_chunk_ends() {
    let groups: Vec<String> = (0..2500)
        .map(|number| format!(r#"{{"GroupId": "sg-{number:08x}", "GroupName": "g{number}", "VpcId": "vpc-0000000a"}}"#))
        .collect();
    let bench = bench(Some(&format!(r#"{{"SecurityGroups": [{}]}}"#, groups.join(","))));
    let last = bench.groups(with_filters(vec![filter("group-name", &["g2499"])])).await.unwrap();
    assert_eq!(last.items.len(), 1);
    let page = bench.groups(DescribeGroups::default()).await.unwrap();
    assert_eq!(page.items.len(), 1000);
    assert!(page.next_token.is_some());
}
