//! Modifying rules and updating descriptions.

use super::*;
use crate::rule::Peer;

const HTTPS: &str = "sgr-0000000000000a1e1";
const HTTPS_V6: &str = "sgr-0000000000000a1e2";
const TO_DB: &str = "sgr-0000000000000a1e4";
const TO_LIST: &str = "sgr-0000000000000a1e6";
const HTTP_IN: &str = "sgr-0000000000000a1c1";
const TAGGED: &str = "sgr-0000000000000a1e3";
const DUPLICATE: &str = "InvalidPermission.Duplicate";

fn by_id(id: &str, text: Option<&str>) -> DescriptionUpdates {
    DescriptionUpdates::Ids(vec![(RuleId::new(id), text.map(str::to_owned))])
}

fn by_properties(permissions: &[IpPermission]) -> DescriptionUpdates {
    DescriptionUpdates::Specs(specs(permissions))
}

#[tokio::test]
async fn r10_both_directions_change_in_one_call_and_ids_and_tags_stay() {
    let bench = sample();
    let before = bench.image(WEB).await.unwrap();
    let changes = [
        becomes(TAGGED, perm("udp", 5, 6, "10.9.9.9/16+new")),
        becomes(HTTP_IN, perm("tcp", 8080, 8080, "10.0.0.0/8")),
        becomes(HTTPS_V6, perm("-1", -1, -1, "2001:DB8::1/32")),
    ];
    let modified = bench.modify(WEB, &changes).await.unwrap();
    assert_eq!(modified.return_value, Some(true));
    assert!(modified.request_id.is_some());
    let rule = bench.rule(WEB, TAGGED).await;
    assert_eq!(format!("{} {}", rule.traffic, rule.peer), "udp 5-6 10.9.0.0/16");
    assert_eq!(rule.description.as_deref(), Some("new"));
    assert_eq!(rule.tags(), [tag("ticket", "NET-101")]);
    let rule = bench.rule(WEB, HTTP_IN).await;
    assert_eq!(rule.direction, Direction::Ingress);
    assert_eq!(format!("{} {}", rule.traffic, rule.peer), "tcp 8080-8080 10.0.0.0/8");
    assert_eq!(bench.rule(WEB, HTTPS_V6).await.peer.to_string(), "2001:db8::/32");
    // Their places and ids are what they were, and so are the other rules.
    let after = bench.image(WEB).await.unwrap();
    for (old, new) in before.rules.iter().zip(after.rules.iter()) {
        assert_eq!(old.id, new.id);
        let changed = changes.iter().any(|change| change.id == old.id);
        assert_eq!(old != new, changed, "{old:?}");
    }
    // The ids are still found, and what is described is what is there.
    let rule_ids = changes.iter().map(|change| change.id.clone()).collect();
    let request = DescribeRules { rule_ids, ..DescribeRules::default() };
    assert_eq!(bench.rules(request).await.unwrap().items.len(), 3);
    bench.revoke_egress(WEB, by_ids(&[TAGGED])).await.unwrap();

    let effects = bench.sandbox.get_state(true).effects;
    assert_eq!(effects[0].action, "ModifySecurityGroupRules");
    let logged: Vec<&str> =
        effects[0].security_group_rules.iter().map(|rule| rule.ip_protocol()).collect();
    assert_eq!(logged, ["-1", "udp", "tcp"]);
}

#[tokio::test]
async fn a_change_replaces_the_description_too() {
    let bench = sample();
    bench.modify(WEB, &[becomes(HTTPS, perm("tcp", 443, 443, "0.0.0.0/0"))]).await.unwrap();
    assert_eq!(bench.rule(WEB, HTTPS).await.description, None);
}

#[tokio::test]
async fn the_kind_of_a_peer_stays() {
    let bench = sample();
    let before = bench.sandbox.get_state(false).state;
    for (id, peer, asked, has) in [
        (HTTPS, "::/0", "an IPv6 CIDR", "IPv4 CIDR"),
        (HTTPS, DB, "a referenced group id", "IPv4 CIDR"),
        (HTTPS, LIST, "a prefix list", "IPv4 CIDR"),
        (HTTPS_V6, "0.0.0.0/0", "an IPv4 CIDR", "IPv6 CIDR"),
        (TO_LIST, DB, "a referenced group id", "prefix list"),
        (TO_DB, "0.0.0.0/0", "an IPv4 CIDR", "referenced group id"),
    ] {
        let good = becomes(HTTP_IN, perm("tcp", 8080, 8080, "10.0.0.0/8"));
        let bad = becomes(id, perm("tcp", 9, 9, peer));
        let refused = refusal(bench.modify(WEB, &[good, bad]).await);
        assert_eq!(refused.code, "InvalidParameterValue");
        let text = format!(
            "Invalid rule type for security group rule '{id}'. You may not specify {asked} for an \
             existing {has} rule."
        );
        assert_eq!(refused.message, text);
    }
    assert_eq!(bench.sandbox.get_state(false).state, before);
}

#[tokio::test]
async fn what_a_change_names_must_exist_and_nothing_changes_if_not() {
    let bench = sample();
    let before = bench.sandbox.get_state(true);
    let good = becomes(HTTPS, perm("tcp", 444, 444, "0.0.0.0/0"));
    for (bad, code) in [
        (
            becomes("sgr-00000000", perm("tcp", 1, 1, "10.0.0.0/8")),
            "InvalidSecurityGroupRuleId.NotFound",
        ),
        // A rule of another group.
        (
            becomes("sgr-0000000000000a2e1", perm("tcp", 443, 443, LIST)),
            "InvalidSecurityGroupRuleId.NotFound",
        ),
        (becomes(TO_LIST, perm("tcp", 1, 1, "pl-00000009")), "InvalidPrefixListID.NotFound"),
        (becomes(TO_DB, perm("tcp", 1, 1, "sg-00000000")), "InvalidGroup.NotFound"),
        (becomes(TO_DB, perm("tcp", 1, 1, LEGACY)), "InvalidGroup.NotFound"),
        (becomes(TO_DB, perm("tcp", 1, 1, WORKER)), "InvalidGroup.NotFound"),
        (becomes(HTTPS, perm("tcp", 1, 1, "10.0.0.0/8")), "InvalidParameterValue"),
    ] {
        let refused = refusal(bench.modify(WEB, &[good.clone(), bad.clone()]).await);
        assert_eq!(refused.code, code, "{bad:?}");
    }
    let refused = refusal(bench.modify(WEB, &[good.clone(), good.clone()]).await);
    assert!(refused.message.starts_with(&format!("Duplicated security group rule ID '{HTTPS}'.")));
    let alone = std::slice::from_ref(&good);
    assert_eq!(code(bench.modify("sg-00000000", alone).await), "InvalidGroup.NotFound");
    for id in [WEB, "sg-00000000"] {
        let (group, changes) = (GroupId::new(id), vec![good.clone()]);
        let dry = ModifyRules { group, changes, dry_run: true };
        let refused = bench.sandbox.modify_rules(&call(), &bench.target, &dry).await;
        assert_eq!(code(refused), "DryRunOperation");
    }
    let after = bench.sandbox.get_state(true);
    assert_eq!((after.state, after.effects), (before.state, before.effects));
    assert_eq!(after.calls.get("ModifySecurityGroupRules"), Some(&11));
}

#[tokio::test]
async fn r31_a_change_may_not_make_two_rules_one_but_two_may_swap() {
    let bench = sample();
    let payment = perm("tcp", 443, 443, "203.0.113.9/24");
    let refused = refusal(bench.modify(WEB, &[becomes(HTTPS, payment.clone())]).await);
    assert_eq!(refused.code, DUPLICATE);
    let text = "the specified rule \"peer: 203.0.113.0/24, TCP, from port: 443, to port: 443, \
                ALLOW\" already exists";
    assert_eq!(refused.message, text);
    // Two changes to one rule.
    let new = perm("tcp", 1, 1, "10.0.0.0/8");
    let both = [becomes(HTTPS, new.clone()), becomes(TAGGED, new.clone())];
    assert_eq!(code(bench.modify(WEB, &both).await), DUPLICATE);
    // The same rule of the other direction is another rule.
    let both = [becomes(HTTPS, new.clone()), becomes(HTTP_IN, new)];
    bench.modify(WEB, &both).await.unwrap();
    let swapped = [becomes(HTTPS, payment), becomes(TAGGED, perm("tcp", 1, 1, "10.0.0.0/8"))];
    bench.modify(WEB, &swapped).await.unwrap();
    assert_eq!(bench.rule(WEB, HTTPS).await.peer.to_string(), "203.0.113.0/24");
    assert_eq!(bench.rule(WEB, TAGGED).await.peer.to_string(), "10.0.0.0/8");
}

#[tokio::test]
async fn a_heavier_prefix_list_must_fit() {
    let bench = sample();
    let list = |max_entries| {
        let (name, address_family) = ("list".to_owned(), "IPv4".to_owned());
        CreatePrefixList { name, address_family, max_entries, ..CreatePrefixList::default() }
    };
    let mut ids = Vec::new();
    for entries in [53, 54] {
        let made = bench.sandbox.create_prefix_list(&call(), &bench.target, &list(entries)).await;
        ids.push(made.unwrap().id.to_string());
    }
    // In IPv4 web has five ranges, two groups and a list of ten.
    let heavier = |id: &str| [becomes(TO_LIST, perm("tcp", 443, 443, id))];
    assert_eq!(
        code(bench.modify(WEB, &heavier(&ids[1])).await),
        "RulesPerSecurityGroupLimitExceeded"
    );
    bench.modify(WEB, &heavier(&ids[0])).await.unwrap();
    // At the limit, what weighs no more is not refused.
    bench.modify(WEB, &[becomes(HTTPS, perm("tcp", 9, 9, "0.0.0.0/0"))]).await.unwrap();
    let more = bench.authorize_egress(WEB, &[perm("tcp", 7, 7, "10.0.0.0/8")]).await;
    assert_eq!(code(more), "RulesPerSecurityGroupLimitExceeded");
}

#[tokio::test]
async fn a_rule_keeps_its_group_or_gets_one_within_reach() {
    let mut bench = bench(Some(super::groups::PEERED));
    let mut across = perm("tcp", 1, 1, "sg-0000000b");
    across.user_id_group_pairs[0].user_id = Some("222222222222".to_owned());
    let own = perm("tcp", 2, 2, "sg-0000000a");
    let added = bench.authorize_egress("sg-0000000a", &[across, own]).await.unwrap();
    let [foreign, itself] = [0, 1].map(|place| added.rules[place].rule.id.to_string());
    let first = added.rules[0].rule.peer.clone();
    // The request cannot name the owner.
    let change = becomes(&foreign, perm("tcp", 3, 3, "sg-0000000b"));
    bench.modify("sg-0000000a", &[change]).await.unwrap();
    assert_eq!(bench.rule("sg-0000000a", &foreign).await.peer, first);
    let change = becomes(&itself, perm("tcp", 4, 4, "sg-0000000b"));
    bench.modify("sg-0000000a", &[change]).await.unwrap();
    let Peer::Group(peer) = bench.rule("sg-0000000a", &itself).await.peer else { panic!() };
    assert_eq!(peer.user_id.unwrap().as_str(), "222222222222");
    let own = becomes(&itself, perm("tcp", 4, 4, "sg-0000000c"));
    bench.modify("sg-0000000a", &[own]).await.unwrap();
    // Their VPCs are not peered.
    let out = bench.authorize_egress("sg-0000000c", &[perm("tcp", 4, 4, "sg-0000000c")]).await;
    let id = out.unwrap().rules[0].rule.id.to_string();
    let change = becomes(&id, perm("tcp", 4, 4, "sg-0000000b"));
    let refused = refusal(bench.modify("sg-0000000c", &[change]).await);
    assert_eq!(refused.message, "The security group 'sg-0000000b' does not exist");

    // R27: a stale rule may change its ports, but not become one.
    bench.target = target("222222222222", "us-east-1");
    bench.delete(group("sg-0000000b")).await.unwrap();
    bench.target = target("111111111111", "us-east-1");
    let change = becomes(&foreign, perm("tcp", 5, 5, "sg-0000000b"));
    bench.modify("sg-0000000a", &[change]).await.unwrap();
    let change = becomes(&itself, perm("tcp", 6, 6, "sg-0000000b"));
    assert_eq!(code(bench.modify("sg-0000000a", &[change]).await), "InvalidGroup.NotFound");
}

#[tokio::test]
async fn r47_a_stale_read_shows_the_rules_before_they_were_modified() {
    let bench = sample();
    bench.modify(WEB, &[becomes(HTTPS, perm("tcp", 1, 1, "10.0.0.0/8"))]).await.unwrap();
    let stale = Script { kind: 7, group_id: WEB.to_owned(), ..Script::default() };
    bench.sandbox.inject(stale).unwrap();
    assert_eq!(bench.rule(WEB, HTTPS).await.peer.to_string(), "0.0.0.0/0");
    assert_eq!(bench.rule(WEB, HTTPS).await.peer.to_string(), "10.0.0.0/8");
}

#[tokio::test]
async fn a_lost_modification_was_applied() {
    let bench = sample();
    let script = |kind| Script {
        kind,
        action: "ModifySecurityGroupRules".to_owned(),
        group_id: WEB.to_owned(),
        ..Script::default()
    };
    let change = [becomes(HTTPS, perm("tcp", 1, 1, "10.0.0.0/8"))];
    bench.sandbox.inject(script(1)).unwrap();
    bench.sandbox.inject(script(5)).unwrap();
    assert_eq!(code(bench.modify(WEB, &change).await), "RequestLimitExceeded");
    assert_eq!(bench.rule(WEB, HTTPS).await.peer.to_string(), "0.0.0.0/0");
    let lost = bench.modify(WEB, &change).await;
    assert!(matches!(lost, Err(BackendError::OutcomeUnknown(_))), "{lost:?}");
    assert_eq!(bench.rule(WEB, HTTPS).await.peer.to_string(), "10.0.0.0/8");
}

#[tokio::test]
async fn descriptions_change_by_properties_and_by_id() {
    let bench = sample();
    let named = [
        perm("tcp", 443, 443, "0.0.0.0/0+one & two"),
        perm("tcp", 5432, 5432, DB),
        perm("6", 443, 443, "::/0+three"),
    ];
    let updated = bench.update(WEB, Direction::Egress, by_properties(&named)).await.unwrap();
    assert_eq!(updated.return_value, Some(true));
    assert!(updated.request_id.is_some());
    assert_eq!(bench.rule(WEB, HTTPS).await.description.as_deref(), Some("one & two"));
    assert_eq!(bench.rule(WEB, TO_DB).await.description, None);
    assert_eq!(bench.rule(WEB, HTTPS_V6).await.description.as_deref(), Some("three"));
    bench.update(WEB, Direction::Ingress, by_id(HTTP_IN, Some("in"))).await.unwrap();
    assert_eq!(bench.rule(WEB, HTTP_IN).await.description.as_deref(), Some("in"));
    for nothing in [None, Some("")] {
        bench.update(WEB, Direction::Ingress, by_id(HTTP_IN, nothing)).await.unwrap();
        assert_eq!(bench.rule(WEB, HTTP_IN).await.description, None);
    }
    let effects = bench.sandbox.get_state(true).effects;
    let logged: Vec<(&str, usize)> = effects
        .iter()
        .map(|effect| (effect.action.as_str(), effect.security_group_rules.len()))
        .collect();
    // What changed nothing is not there.
    let ingress = "UpdateSecurityGroupRuleDescriptionsIngress";
    let egress = "UpdateSecurityGroupRuleDescriptionsEgress";
    assert_eq!(logged, [(egress, 3), (ingress, 1), (ingress, 1)]);
    assert_eq!(effects[1].security_group_rules[0].description(), "in");
}

#[tokio::test]
async fn descriptions_of_what_is_not_there_are_an_error_in_both_kinds_of_vpc() {
    let bench = sample();
    let before = bench.sandbox.get_state(true);
    for (id, good) in [
        (WEB, perm("tcp", 443, 443, "0.0.0.0/0+x")),
        (LEGACY, perm("tcp", 443, 443, "10.0.0.0/8+x")),
    ] {
        let named = by_properties(&[good, perm("tcp", 9, 9, "10.0.0.0/8+y")]);
        let refused = refusal(bench.update(id, Direction::Egress, named).await);
        assert_eq!(refused.code, "InvalidPermission.NotFound");
        assert_eq!(refused.message, "The specified rule does not exist in this security group.");
    }
    // Only rules of that direction.
    let ingress = by_properties(&[perm("tcp", 80, 80, "0.0.0.0/0+x")]);
    let refused = bench.update(WEB, Direction::Egress, ingress).await;
    assert_eq!(code(refused), "InvalidPermission.NotFound");
    let refused = bench.update(WEB, Direction::Egress, by_id(HTTP_IN, Some("x"))).await;
    assert_eq!(code(refused), "InvalidSecurityGroupRuleId.NotFound");
    // An owner that is given must be the group's.
    let mut pair = perm("tcp", 5432, 5432, &format!("{DB}+x"));
    pair.user_id_group_pairs[0].user_id = Some("210987654321".to_owned());
    let refused = bench.update(WEB, Direction::Egress, by_properties(&[pair])).await;
    assert_eq!(code(refused), "InvalidPermission.NotFound");
    for (id, text, ok) in [(HTTPS, "a&b", true), (TO_DB, "a&b", false), (TO_DB, "é", false)] {
        let request = UpdateDescriptions {
            group: group(WEB),
            direction: Direction::Egress,
            updates: by_id(id, Some(text)),
            dry_run: ok,
        };
        let refused = bench.sandbox.update_descriptions(&call(), &bench.target, &request).await;
        let expected = if ok { "DryRunOperation" } else { "InvalidParameterValue" };
        assert_eq!(code(refused), expected, "{text}");
    }
    let twice = vec![(RuleId::new(HTTPS), None), (RuleId::new(HTTPS), Some("x".to_owned()))];
    let refused = bench.update(WEB, Direction::Egress, DescriptionUpdates::Ids(twice)).await;
    assert_eq!(code(refused), "InvalidParameterValue");
    let same = perm("tcp", 443, 443, "0.0.0.0/0");
    let twice = [specs(std::slice::from_ref(&same)), specs(&[same])].concat();
    let refused = bench.update(WEB, Direction::Egress, DescriptionUpdates::Specs(twice)).await;
    assert_eq!(code(refused), "InvalidParameterValue");
    let after = bench.sandbox.get_state(true);
    assert_eq!((after.state, after.effects), (before.state, before.effects));
}

#[tokio::test]
async fn a_group_in_the_default_vpc_is_described_by_name() {
    let bench = sample();
    let request = UpdateDescriptions {
        group: GroupRef::Name("LEGACY".to_owned()),
        direction: Direction::Ingress,
        updates: by_properties(&[perm("tcp", 22, 22, "203.0.113.0/24+ssh")]),
        dry_run: false,
    };
    bench.sandbox.update_descriptions(&call(), &bench.target, &request).await.unwrap();
    let rule = bench.rule(LEGACY, "sgr-0000000000000d1c1").await;
    assert_eq!(rule.description.as_deref(), Some("ssh"));
}
