//! Tags.

use super::*;

const APP: &str = "vpc-0000000000000000a";
const AWS_LIST: &str = "pl-63a5400a";
const RULE: &str = "sgr-0000000000000a1e1";
const TAGGED: &str = "sgr-0000000000000a1e3";
const STACK: &str = "sg-000000000000000a4";

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn pairs(tags: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    let pair = |(key, value): &(&str, Option<&str>)| ((*key).to_owned(), value.map(str::to_owned));
    tags.iter().map(pair).collect()
}

impl Bench {
    async fn create_tags(&self, resources: &[&str], tags: &[Tag]) -> Result<(), BackendError> {
        let (resources, tags) = (texts(resources), tags.to_vec());
        let request = CreateTags { resources, tags, dry_run: false };
        self.sandbox.create_tags(&call(), &self.target, &request).await
    }

    async fn delete_tags(
        &self,
        resources: &[&str],
        tags: &[(&str, Option<&str>)],
    ) -> Result<(), BackendError> {
        let (resources, tags) = (texts(resources), pairs(tags));
        let request = DeleteTags { resources, tags, dry_run: false };
        self.sandbox.delete_tags(&call(), &self.target, &request).await
    }

    async fn describe_tags(
        &self,
        request: DescribeTags,
    ) -> Result<Page<TagDescription>, BackendError> {
        self.sandbox.describe_tags(&call(), &self.target, &request).await
    }

    /// The tags that pass, as `resource key=value`.
    async fn tags(&self, filters: Vec<Filter>) -> Vec<String> {
        let request = DescribeTags { filters, ..DescribeTags::default() };
        let tags = self.describe_tags(request).await.unwrap().items;
        tags.iter().map(|tag| format!("{} {}={}", tag.resource_id, tag.key, tag.value)).collect()
    }
}

#[tokio::test]
async fn every_kind_of_resource_is_tagged_in_one_call() {
    let bench = sample();
    let before = bench.sandbox.get_state(false).state;
    let all = [RULE, WEB, LIST, APP, DB, RULE];
    bench.create_tags(&all, &[tag("a", "1"), tag("team", "x")]).await.unwrap();
    let image = bench.image(WEB).await.unwrap();
    assert_eq!(image.group.tags, [tag("Name", "web"), tag("team", "x"), tag("a", "1")]);
    assert_eq!(bench.rule(WEB, RULE).await.tags(), [tag("a", "1"), tag("team", "x")]);
    let state = bench.sandbox.get_state(true);
    let (held, effects) = (state.state.unwrap(), state.effects);
    assert_eq!(held.managed_prefix_lists[0].tags.len(), 2);
    assert_eq!(held.vpcs[0].tags.len(), 3);
    assert_eq!(bench.sandbox.load_state(held.clone(), true).unwrap(), [""; 0]);
    assert_eq!(bench.sandbox.get_state(false).state.unwrap(), held);
    // One effect for each group, with its rules that were tagged.
    let logged: Vec<(&str, &str, usize)> = effects
        .iter()
        .map(|effect| {
            (effect.action.as_str(), effect.group_id.as_str(), effect.security_group_rules.len())
        })
        .collect();
    assert_eq!(logged, [("CreateTags", WEB, 1), ("CreateTags", DB, 0)]);
    assert_eq!(effects[0].security_group_rules[0].tags.len(), 2);
    // The same again changes nothing.
    bench.create_tags(&all, &[tag("a", "1")]).await.unwrap();
    assert_eq!(bench.sandbox.get_state(true).effects.len(), 2);

    bench.delete_tags(&all, &[("a", None)]).await.unwrap();
    bench.delete_tags(&[RULE, LIST, APP], &[("team", Some("x"))]).await.unwrap();
    bench.create_tags(&[WEB], &[tag("team", "storefront")]).await.unwrap();
    bench.create_tags(&[DB], &[tag("team", "data")]).await.unwrap();
    assert_eq!(bench.sandbox.get_state(false).state, before);
}

#[tokio::test]
async fn tags_go_by_key_by_value_or_all_but_ec2_s_own() {
    let bench = sample();
    bench
        .delete_tags(&[WEB], &[("team", Some("data")), ("Name", Some("")), ("x", None)])
        .await
        .unwrap();
    assert_eq!(bench.image(WEB).await.unwrap().group.tags.len(), 2);
    bench.delete_tags(&[WEB, STACK], &[("team", Some("storefront"))]).await.unwrap();
    assert_eq!(bench.image(WEB).await.unwrap().group.tags, [tag("Name", "web")]);
    bench.create_tags(&[STACK], &[tag("mine", "")]).await.unwrap();
    bench.delete_tags(&[WEB, STACK, TAGGED], &[]).await.unwrap();
    assert!(bench.image(WEB).await.unwrap().group.tags.is_empty());
    assert_eq!(bench.rule(WEB, TAGGED).await.tags, None);
    let left = bench.image(STACK).await.unwrap().group.tags.clone();
    assert!(left.len() == 2 && left.iter().all(|tag| tag.key.starts_with("aws:")), "{left:?}");
}

#[tokio::test]
async fn tagging_is_all_or_nothing() {
    let bench = sample();
    let before = bench.sandbox.get_state(true);
    for (bad, code, message) in [
        ("sg-00000000", "InvalidGroup.NotFound", "The security group 'sg-00000000' does not exist"),
        (
            "sgr-00000000",
            "InvalidSecurityGroupRuleId.NotFound",
            "The security group rule ID 'sgr-00000000' does not exist",
        ),
        ("vpc-00000000", "InvalidVpcID.NotFound", "The vpc ID 'vpc-00000000' does not exist"),
        (
            "pl-00000000",
            "InvalidPrefixListID.NotFound",
            "The prefix list ID 'pl-00000000' does not exist",
        ),
        ("subnet-00000000", "InvalidID", "The ID 'subnet-00000000' is not valid"),
        ("sg-web", "InvalidID", "The ID 'sg-web' is not valid"),
        ("", "InvalidID", "The ID '' is not valid"),
        // Another account's.
        (
            WORKER,
            "InvalidGroup.NotFound",
            "The security group 'sg-000000000000000e1' does not exist",
        ),
        (
            "sgr-0000000000000e1e1",
            "InvalidSecurityGroupRuleId.NotFound",
            "The security group rule ID 'sgr-0000000000000e1e1' does not exist",
        ),
        (
            "vpc-0000000000000000e",
            "InvalidVpcID.NotFound",
            "The vpc ID 'vpc-0000000000000000e' does not exist",
        ),
        (AWS_LIST, "UnauthorizedOperation", "You are not authorized to perform this operation."),
    ] {
        let resources = [WEB, RULE, APP, LIST, bad];
        for refused in [
            refusal(bench.create_tags(&resources, &[tag("a", "b")]).await),
            refusal(bench.delete_tags(&resources, &[]).await),
        ] {
            assert_eq!((refused.code.as_str(), refused.message.as_str()), (code, message));
        }
    }
    let after = bench.sandbox.get_state(true);
    assert_eq!((after.state, after.effects), (before.state, before.effects));
}

#[tokio::test]
async fn bad_tags_are_refused_before_a_dry_run_is_answered() {
    let bench = sample();
    let long = "é".repeat(128);
    for (tags, expected) in [
        (vec![], "MissingParameter"),
        (vec![tag("", "x")], "InvalidParameterValue"),
        (vec![tag("aws:x", "x")], "InvalidParameterValue"),
        (vec![tag("AWS:x", "x")], "InvalidParameterValue"),
        (vec![tag(&format!("{long}é"), "")], "InvalidParameterValue"),
        (vec![tag("x", &format!("{long}{long}é"))], "InvalidParameterValue"),
        (vec![tag("x", "1"), tag("x", "2")], "InvalidParameterValue"),
        ((0..51).map(|number| tag(&number.to_string(), "")).collect(), "TagLimitExceeded"),
        (vec![tag(&long, &format!("{long}{long}"))], "DryRunOperation"),
    ] {
        let request = CreateTags { resources: texts(&["sg-00000000"]), tags, dry_run: true };
        let refused = bench.sandbox.create_tags(&call(), &bench.target, &request).await;
        assert_eq!(code(refused), expected, "{request:?}");
    }
    let many = vec![WEB; 1001];
    for refused in
        [bench.delete_tags(&[], &[]).await, bench.create_tags(&[], &[tag("x", "")]).await]
    {
        assert_eq!(code(refused), "MissingParameter");
    }
    assert_eq!(code(bench.create_tags(&many, &[tag("x", "")]).await), "ResourceCountExceeded");
    assert_eq!(code(bench.delete_tags(&many, &[]).await), "ResourceCountExceeded");
    assert_eq!(code(bench.delete_tags(&[WEB], &[("aws:x", None)]).await), "InvalidParameterValue");
    let many = vec![("x", None); 1001];
    assert_eq!(code(bench.delete_tags(&[WEB], &many).await), "ResourceCountExceeded");
}

#[tokio::test]
async fn a_resource_has_at_most_50_tags_without_ec2_s_own() {
    let bench = sample();
    let tags: Vec<Tag> = (0..50).map(|number| tag(&format!("k{number}"), "")).collect();
    bench.create_tags(&[STACK, RULE], &tags).await.unwrap();
    assert_eq!(bench.image(STACK).await.unwrap().group.tags.len(), 52);
    // In place of one that is there.
    bench.create_tags(&[STACK], &[tag("k1", "x")]).await.unwrap();
    for full in [STACK, RULE] {
        let refused = bench.create_tags(&[LIST, full], &[tag("more", "")]).await;
        assert_eq!(code(refused), "TagLimitExceeded");
    }
    assert_eq!(bench.tags(vec![filter("key", &["more"])]).await, [""; 0]);
}

#[tokio::test]
async fn tags_are_described_by_filter() {
    let mut bench = sample();
    let home = std::mem::replace(&mut bench.target, target("210987654321", "eu-west-1"));
    let theirs = [WORKER, "sgr-0000000000000e1e1", "vpc-0000000000000000e"];
    bench.create_tags(&theirs, &[tag("theirs", "")]).await.unwrap();
    assert_eq!(bench.tags(vec![]).await.len(), 3);
    bench.target = home;
    for (filters, expected) in [
        (vec![filter("key", &["ticket"])], vec!["sgr-0000000000000a1e3 ticket=NET-101"]),
        (vec![filter("value", &["w?b"])], vec!["sg-000000000000000a1 Name=web"]),
        (vec![filter("resource-type", &["vpc"])], vec!["vpc-0000000000000000a Name=app"]),
        (
            vec![filter("resource-type", &["security-group-rule"])],
            vec!["sgr-0000000000000a1e3 ticket=NET-101"],
        ),
        (
            vec![filter("tag:team", &["data"])],
            vec!["sg-000000000000000a2 team=data", "sg-000000000000000a3 team=data"],
        ),
        (
            vec![filter("resource-id", &[WEB, "sg-00000000", "i-1", TAGGED, APP])],
            vec![
                "sg-000000000000000a1 Name=web",
                "sg-000000000000000a1 team=storefront",
                "sgr-0000000000000a1e3 ticket=NET-101",
                "vpc-0000000000000000a Name=app",
            ],
        ),
        (
            vec![filter("resource-id", &[WEB]), filter("key", &["team"])],
            vec!["sg-000000000000000a1 team=storefront"],
        ),
        (
            vec![filter("resource-id", &["*a3"]), filter("key", &["Name"])],
            vec!["sg-000000000000000a3 Name=cache"],
        ),
        // Another account's.
        (vec![filter("resource-id", &theirs)], vec![]),
        (vec![filter("key", &["theirs"])], vec![]),
    ] {
        assert_eq!(bench.tags(filters.clone()).await, expected, "{filters:?}");
    }
    for (bad, expected) in [
        (
            DescribeTags { filters: vec![filter("tag-key", &["x"])], ..DescribeTags::default() },
            "InvalidParameterValue",
        ),
        (DescribeTags { max_results: Some(4), ..DescribeTags::default() }, "InvalidParameterValue"),
        (DescribeTags { dry_run: true, ..DescribeTags::default() }, "DryRunOperation"),
        (
            DescribeTags { filters: vec![filter("key", &["x"]); 51], ..DescribeTags::default() },
            "FilterLimitExceeded",
        ),
        (
            DescribeTags { filters: vec![filter("key", &["x"; 201])], ..DescribeTags::default() },
            "FilterLimitExceeded",
        ),
    ] {
        assert_eq!(code(bench.describe_tags(bad.clone()).await), expected, "{bad:?}");
    }
}

#[tokio::test]
async fn pages_show_every_tag_once() {
    let bench = sample();
    let tags: Vec<Tag> = (0..12).map(|number| tag(&format!("k {number}"), "")).collect();
    bench.create_tags(&[LIST, RULE, CACHE, "sgr-0000000000000a3e1", APP], &tags).await.unwrap();
    let all = bench.tags(vec![]).await;
    assert_eq!(all.len(), 5 * 12 + 10);
    for filters in [vec![], vec![filter("resource-id", &[LIST, RULE, CACHE, APP])]] {
        let expected = bench.tags(filters.clone()).await;
        let mut seen = Vec::new();
        let mut next_token = None;
        loop {
            let filters = filters.clone();
            let request =
                DescribeTags { filters, max_results: Some(5), next_token, dry_run: false };
            let page = bench.describe_tags(request).await.unwrap();
            assert!(page.items.len() <= 5);
            seen.extend(
                page.items
                    .iter()
                    .map(|tag| format!("{} {}={}", tag.resource_id, tag.key, tag.value)),
            );
            next_token = page.next_token;
            if next_token.is_none() {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
    // A token that is none of a page's.
    for text in ["t1 9 a b c", "t1 1 a b", "t1 ", "v1 vpc-00000000"] {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
        let next_token = Some(BASE64_URL_SAFE_NO_PAD.encode(text));
        let request = DescribeTags { next_token, ..DescribeTags::default() };
        assert_eq!(code(bench.describe_tags(request).await), "InvalidPaginationToken", "{text}");
    }
}

#[tokio::test]
async fn tags_of_far_groups_are_found_past_untagged_ones() {
    let groups: Vec<String> = (0..2500)
        .map(|number| format!(r#"{{"GroupId": "sg-{number:08x}", "GroupName": "g{number}", "VpcId": "vpc-0000000a"}}"#))
        .collect();
    let bench = bench(Some(&format!(r#"{{"SecurityGroups": [{}]}}"#, groups.join(","))));
    bench.create_tags(&["sg-000009c3"], &[tag("far", "1")]).await.unwrap();
    assert_eq!(bench.tags(vec![]).await, ["sg-000009c3 far=1"]);
}

#[tokio::test]
async fn faults_about_a_group_meet_tags_of_it_and_its_rules() {
    let bench = sample();
    let script = |kind, action: &str| Script {
        kind,
        action: action.to_owned(),
        group_id: WEB.to_owned(),
        ..Script::default()
    };
    bench.sandbox.inject(script(1, "CreateTags")).unwrap();
    bench.sandbox.inject(script(5, "DeleteTags")).unwrap();
    bench.create_tags(&[DB, LIST, APP], &[tag("a", "")]).await.unwrap();
    assert_eq!(code(bench.create_tags(&[RULE], &[tag("a", "")]).await), "RequestLimitExceeded");
    let lost = bench.delete_tags(&[DB, WEB], &[]).await;
    assert!(matches!(lost, Err(BackendError::OutcomeUnknown(_))), "{lost:?}");
    assert!(bench.image(WEB).await.unwrap().group.tags.is_empty());
    // R47: tags of rules are of the rules.
    bench.create_tags(&[RULE], &[tag("a", "")]).await.unwrap();
    bench.sandbox.inject(Script { kind: 7, ..Script::default() }).unwrap();
    assert!(bench.rule(WEB, RULE).await.tags().is_empty());
    assert_eq!(bench.rule(WEB, RULE).await.tags().len(), 1);
}
