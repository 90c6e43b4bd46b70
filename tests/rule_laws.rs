//! Laws of the rule domain, over generated rules.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashSet;

use portcullis::rule::{
    Direction, GroupId, IpPermission, Peer, PrefixListId, Protocol, Rule, RuleId, RuleKey,
    RuleSpec, Traffic, expand,
    explain::{UnknownReason, explain_spec},
    group,
    matching::{match_specs, matches},
    permission::part_groups_from_ranges,
};
use proptest::{collection::vec, prelude::*};

fn traffic() -> impl Strategy<Value = Traffic> {
    let port = prop_oneof![Just(0), Just(22), Just(80), Just(443), Just(65535), 0..65536_i32];
    let icmp = prop_oneof![
        Just((-1, -1)),
        (0..4_i32).prop_map(|kind| (kind, -1)),
        (0..256_i32, 0..256_i32)
    ];
    prop_oneof![
        Just(Traffic::ALL),
        (prop_oneof![Just("tcp"), Just("udp")], port.clone(), port).prop_map(|(name, a, b)| {
            Traffic::new(Protocol::parse(name).unwrap(), Some(a.min(b)), Some(a.max(b))).unwrap()
        }),
        (prop_oneof![Just("icmp"), Just("icmpv6")], icmp).prop_map(|(name, (kind, code))| {
            Traffic::new(Protocol::parse(name).unwrap(), Some(kind), Some(code)).unwrap()
        }),
        (47..52_u8).prop_map(|number| {
            Traffic::new(Protocol::parse(&number.to_string()).unwrap(), None, None).unwrap()
        }),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        (0..4_u8, 8..33_u8).prop_map(|(octet, prefix)| {
            Peer::Ipv4(format!("10.{octet}.3.7/{prefix}").parse().unwrap())
        }),
        Just(Peer::Ipv4("0.0.0.0/0".parse().unwrap())),
        (0..4_u16, 16..129_u8).prop_map(|(part, prefix)| {
            Peer::Ipv6(format!("2001:db8:{part}::1/{prefix}").parse().unwrap())
        }),
        (0..3_u8).prop_map(|n| Peer::PrefixList(PrefixListId::new(format!("pl-0000000{n}")))),
        (0..3_u8).prop_map(|n| Peer::group(GroupId::new(format!("sg-0000000{n}")), None)),
    ]
}

fn spec() -> impl Strategy<Value = RuleSpec> {
    let description = proptest::option::of("[a-zA-Z0-9 ._:/()#,@=+;-]{1,20}");
    (traffic(), peer(), description).prop_map(|(traffic, peer, description)| RuleSpec {
        traffic,
        peer,
        description,
    })
}

/// Specs of which no two are the same rule.
fn specs(most: usize) -> impl Strategy<Value = Vec<RuleSpec>> {
    vec(spec(), 1..most).prop_map(|specs| {
        let mut seen = HashSet::new();
        specs.into_iter().filter(|spec| seen.insert(spec.key())).collect()
    })
}

fn rules(most: usize) -> impl Strategy<Value = Vec<Rule>> {
    (specs(most), any::<u64>()).prop_map(|(specs, directions)| {
        specs
            .into_iter()
            .enumerate()
            .map(|(index, spec)| Rule {
                id: RuleId::new(format!("sgr-{index:017x}")),
                direction: if directions >> (index % 64) & 1 == 0 {
                    Direction::Egress
                } else {
                    Direction::Ingress
                },
                traffic: spec.traffic,
                peer: spec.peer.canonical(),
                description: spec.description.map(String::into_boxed_str),
                tags: None,
            })
            .collect()
    })
}

/// In an order that does not depend on the order of the request.
fn sorted(mut specs: Vec<RuleSpec>) -> Vec<RuleSpec> {
    specs.sort_by_key(|spec| format!("{spec:?}"));
    specs
}

/// The same rules, written in another way.
fn respelled(permissions: &[IpPermission]) -> Vec<IpPermission> {
    let mut out = Vec::new();
    for permission in permissions {
        for mut single in split(permission) {
            single.ip_protocol = single.ip_protocol.map(|protocol| match protocol.as_str() {
                "tcp" => "6".to_owned(),
                "udp" => "UDP".to_owned(),
                "icmp" => "1".to_owned(),
                "icmpv6" => "IcmpV6".to_owned(),
                other => other.to_owned(),
            });
            for range in &mut single.ip_ranges {
                let net: ipnet::Ipv4Net = range.cidr.as_deref().unwrap().parse().unwrap();
                range.cidr = Some(format!("{}/{}", net.broadcast(), net.prefix_len()));
            }
            for range in &mut single.ipv6_ranges {
                range.cidr = range.cidr.take().map(|cidr| cidr.to_uppercase());
            }
            out.push(single);
        }
    }
    out.reverse();
    out
}

/// One permission per peer.
fn split(permission: &IpPermission) -> Vec<IpPermission> {
    let bare = IpPermission {
        ip_ranges: vec![],
        ipv6_ranges: vec![],
        prefix_list_ids: vec![],
        user_id_group_pairs: vec![],
        ..permission.clone()
    };
    let mut out = Vec::new();
    for range in &permission.ip_ranges {
        out.push(IpPermission { ip_ranges: vec![range.clone()], ..bare.clone() });
    }
    for range in &permission.ipv6_ranges {
        out.push(IpPermission { ipv6_ranges: vec![range.clone()], ..bare.clone() });
    }
    for list in &permission.prefix_list_ids {
        out.push(IpPermission { prefix_list_ids: vec![list.clone()], ..bare.clone() });
    }
    for pair in &permission.user_id_group_pairs {
        out.push(IpPermission { user_id_group_pairs: vec![pair.clone()], ..bare.clone() });
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expand_group_expand_is_identity(specs in specs(40)) {
        let grouped = group(&specs);
        let expanded = expand("ip_permissions", &grouped).unwrap();
        prop_assert_eq!(sorted(expanded.clone()), sorted(specs));
        prop_assert_eq!(group(&expanded), grouped);
    }

    #[test]
    fn parting_groups_from_ranges_loses_nothing(specs in specs(40)) {
        let parted = part_groups_from_ranges(group(&specs));
        for permission in &parted {
            let others = permission.peers() - permission.user_id_group_pairs.len();
            prop_assert!(permission.user_id_group_pairs.is_empty() || others == 0);
        }
        prop_assert_eq!(sorted(expand("", &parted).unwrap()), sorted(specs));
    }

    #[test]
    fn matching_does_not_depend_on_spelling_order_or_splitting(
        asked in specs(20),
        rules in rules(40),
    ) {
        let plain = expand("", &group(&asked)).unwrap();
        let other = expand("", &respelled(&group(&asked))).unwrap();
        let named = |specs: &[RuleSpec]| -> HashSet<RuleId> {
            let matching = match_specs(specs, Direction::Egress, &rules);
            matching.matched.iter().map(|rule| rule.id.clone()).collect()
        };
        let unknown = |specs: &[RuleSpec]| -> HashSet<RuleKey> {
            let matching = match_specs(specs, Direction::Egress, &rules);
            matching.unknown.iter().map(|spec| spec.key()).collect()
        };
        prop_assert_eq!(named(&plain), named(&other));
        prop_assert_eq!(unknown(&plain), unknown(&other));
    }

    #[test]
    fn each_rule_is_matched_by_itself_and_by_nothing_else(rules in rules(40)) {
        for rule in &rules {
            let own = [rule.spec()];
            let matched = match_specs(&own, rule.direction, &rules).matched;
            prop_assert_eq!(matched, vec![rule]);
        }
    }

    #[test]
    fn an_explanation_names_rules_that_exist_and_do_not_match(
        asked in spec(),
        rules in rules(40),
    ) {
        let explanation = explain_spec(&asked, Direction::Egress, &rules);
        prop_assert!(explanation.nearest.len() <= 3);
        for rule in &explanation.nearest {
            prop_assert!(rules.contains(rule));
        }
        let matched = rules.iter().any(|rule| rule.direction == Direction::Egress && matches(&asked, rule));
        prop_assert_eq!(matched, explanation.reason == UnknownReason::ChangedConcurrently);
        prop_assert_eq!(
            explanation.nearest.is_empty(),
            explanation.reason == UnknownReason::NoSuchDestination
        );
        let nearest = explanation.nearest.first();
        prop_assert_eq!(
            nearest.is_some_and(|rule| rule.direction == Direction::Ingress),
            explanation.reason == UnknownReason::ExistsInOtherDirection
        );
        prop_assert!(!explanation.message.is_empty());
    }

    #[test]
    fn a_wider_rule_covers_whatever_it_is_wider_than(spec in spec()) {
        prop_assert!(Traffic::ALL.covers(spec.traffic));
        prop_assert!(spec.traffic.covers(spec.traffic));
        prop_assert!(spec.peer.covers(&spec.peer));
    }

    #[test]
    fn expanding_never_panics(permissions in vec(text_permission(), 0..8)) {
        if let Ok(specs) = expand("ip_permissions", &permissions) {
            let keys: HashSet<RuleKey> = specs.iter().map(RuleSpec::key).collect();
            prop_assert_eq!(keys.len(), specs.len());
        }
    }
}

/// Permissions as a careless or hostile caller writes them.
fn text_permission() -> impl Strategy<Value = IpPermission> {
    use portcullis::rule::permission::{Range, UserIdGroupPair};
    let text = || {
        proptest::option::of(prop_oneof![
            "\\PC{0,12}",
            Just("tcp".to_owned()),
            Just("10.0.0.0/8".to_owned()),
            Just("sg-00000000".to_owned())
        ])
    };
    let range = (text(), text()).prop_map(|(cidr, description)| Range { cidr, description });
    let pair = (text(), text(), text()).prop_map(|(group_id, group_name, user_id)| {
        UserIdGroupPair { group_id, group_name, user_id, ..UserIdGroupPair::default() }
    });
    (
        text(),
        any::<Option<i32>>(),
        any::<Option<i32>>(),
        vec(range.clone(), 0..3),
        vec(range, 0..2),
        vec(pair, 0..3),
    )
        .prop_map(
            |(ip_protocol, from_port, to_port, ip_ranges, ipv6_ranges, user_id_group_pairs)| {
                IpPermission {
                    ip_protocol,
                    from_port,
                    to_port,
                    ip_ranges,
                    ipv6_ranges,
                    user_id_group_pairs,
                    ..IpPermission::default()
                }
            },
        )
}
