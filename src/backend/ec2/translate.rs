//! Between the domain and the SDK's types. Nothing is lost either way: what cannot be read is an [`Unreadable`], never
//! a rule less.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use aws_sdk_ec2::types;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    backend::{Filter, Group, GroupImage, OwnedRule, RevokedRule},
    rule::{
        AccountId, Direction, GroupId, GroupPeer, IpPermission, Peer, PrefixListId, Protocol, Rule,
        RuleId, RuleSpec, Tag, Traffic, VpcId, group,
        permission::{PrefixListRef, Range, UserIdGroupPair, part_groups_from_ranges},
    },
};

/// Something in EC2's answer that has no place in the domain: what it is, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable(pub String);

// === to EC2 ===

/// Atomic rules as permissions. Groups and ranges travel apart (the seed page forbids one permission with both), and
/// the name of a group that has an id stays here (both in one pair are said to be refused).
///
/// Protocols without ports are sent without ports. EC2 ignores ports there (R16, R19), and the form without them is the
/// one that every action of the family takes.
pub(super) fn permissions<'a>(
    specs: impl IntoIterator<Item = &'a RuleSpec>,
) -> Vec<types::IpPermission> {
    part_groups_from_ranges(group(specs)).into_iter().map(permission).collect()
}

fn permission(permission: IpPermission) -> types::IpPermission {
    let range = |range: Range| {
        types::IpRange::builder().set_cidr_ip(range.cidr).set_description(range.description).build()
    };
    let range6 = |range: Range| {
        types::Ipv6Range::builder()
            .set_cidr_ipv6(range.cidr)
            .set_description(range.description)
            .build()
    };
    let list = |list: PrefixListRef| {
        types::PrefixListId::builder()
            .set_prefix_list_id(list.prefix_list_id)
            .set_description(list.description)
            .build()
    };
    types::IpPermission::builder()
        .set_ip_protocol(permission.ip_protocol)
        .set_from_port(permission.from_port)
        .set_to_port(permission.to_port)
        .set_ip_ranges(some(permission.ip_ranges.into_iter().map(range)))
        .set_ipv6_ranges(some(permission.ipv6_ranges.into_iter().map(range6)))
        .set_prefix_list_ids(some(permission.prefix_list_ids.into_iter().map(list)))
        .set_user_id_group_pairs(some(permission.user_id_group_pairs.into_iter().map(pair)))
        .build()
}

fn pair(pair: UserIdGroupPair) -> types::UserIdGroupPair {
    let name = if pair.group_id.is_some() { None } else { pair.group_name };
    types::UserIdGroupPair::builder()
        .set_group_id(pair.group_id)
        .set_group_name(name)
        .set_user_id(pair.user_id)
        .set_vpc_id(pair.vpc_id)
        .set_vpc_peering_connection_id(pair.vpc_peering_connection_id)
        .set_peering_status(pair.peering_status)
        .set_description(pair.description)
        .build()
}

/// An empty list is left out: written as an empty element, EC2 takes it for one with nothing in it and refuses.
pub(super) fn some<T>(items: impl IntoIterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.into_iter().collect();
    (!items.is_empty()).then_some(items)
}

pub(super) fn filters(filters: &[Filter]) -> Option<Vec<types::Filter>> {
    some(filters.iter().map(|filter| {
        types::Filter::builder()
            .name(&filter.name)
            .set_values(some(filter.values.iter().cloned()))
            .build()
    }))
}

/// Tags for what a call creates, of which EC2 wants to know the kind.
pub(super) fn tag_specifications(
    kind: types::ResourceType,
    tags: &[Tag],
) -> Option<Vec<types::TagSpecification>> {
    let tags =
        some(tags.iter().map(|tag| types::Tag::builder().key(&tag.key).value(&tag.value).build()))?;
    let specification =
        types::TagSpecification::builder().resource_type(kind).set_tags(Some(tags)).build();
    Some(vec![specification])
}

// === from EC2 ===

/// A permission as EC2 spells it, member by member.
pub(super) fn ip_permission(permission: &types::IpPermission) -> IpPermission {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    IpPermission {
        ip_protocol: owned(permission.ip_protocol()),
        from_port: permission.from_port(),
        to_port: permission.to_port(),
        ip_ranges: permission
            .ip_ranges()
            .iter()
            .map(|range| Range {
                cidr: owned(range.cidr_ip()),
                description: owned(range.description()),
            })
            .collect(),
        ipv6_ranges: permission
            .ipv6_ranges()
            .iter()
            .map(|range| Range {
                cidr: owned(range.cidr_ipv6()),
                description: owned(range.description()),
            })
            .collect(),
        prefix_list_ids: permission
            .prefix_list_ids()
            .iter()
            .map(|list| PrefixListRef {
                prefix_list_id: owned(list.prefix_list_id()),
                description: owned(list.description()),
            })
            .collect(),
        user_id_group_pairs: permission
            .user_id_group_pairs()
            .iter()
            .map(|pair| UserIdGroupPair {
                group_id: owned(pair.group_id()),
                group_name: owned(pair.group_name()),
                user_id: owned(pair.user_id()),
                vpc_id: owned(pair.vpc_id()),
                vpc_peering_connection_id: owned(pair.vpc_peering_connection_id()),
                peering_status: owned(pair.peering_status()),
                description: owned(pair.description()),
            })
            .collect(),
    }
}

pub(super) fn revoked_rule(rule: types::RevokedSecurityGroupRule) -> RevokedRule {
    RevokedRule {
        security_group_rule_id: rule.security_group_rule_id,
        group_id: rule.group_id,
        is_egress: rule.is_egress,
        ip_protocol: rule.ip_protocol,
        from_port: rule.from_port,
        to_port: rule.to_port,
        cidr_ipv4: rule.cidr_ipv4,
        cidr_ipv6: rule.cidr_ipv6,
        prefix_list_id: rule.prefix_list_id,
        referenced_group_id: rule.referenced_group_id,
        description: rule.description,
    }
}

pub(super) fn tags(tags: &[types::Tag]) -> Vec<Tag> {
    tags.iter()
        .map(|tag| Tag {
            key: tag.key().unwrap_or_default().to_owned(),
            value: tag.value().unwrap_or_default().to_owned(),
        })
        .collect()
}

/// What a rule is read with where EC2 leaves members out: the request that it answers.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// The account that was asked.
    pub account: &'a AccountId,
    /// The group, where the request named one by its id.
    pub group: Option<&'a GroupId>,
    /// The direction, where the request had one.
    pub direction: Option<Direction>,
}

pub(super) fn owned_rule(
    rule: &types::SecurityGroupRule,
    asked: &Asked<'_>,
) -> Result<OwnedRule, Unreadable> {
    let id = rule
        .security_group_rule_id()
        .ok_or_else(|| Unreadable("a rule without an id".to_owned()))?;
    let unreadable = |what: &str| Unreadable(format!("rule {id} {what}"));
    let group_id = rule
        .group_id()
        .map(GroupId::new)
        .or_else(|| asked.group.cloned())
        .ok_or_else(|| unreadable("without a group"))?;
    let direction = rule
        .is_egress()
        .map(|egress| if egress { Direction::Egress } else { Direction::Ingress })
        .or(asked.direction)
        .ok_or_else(|| unreadable("without a direction"))?;
    let owner = rule.group_owner_id().map(AccountId::new);
    let tags = tags(rule.tags());
    Ok(OwnedRule {
        group_id,
        group_owner_id: owner.unwrap_or_else(|| asked.account.clone()),
        rule: Rule {
            id: RuleId::new(id),
            direction,
            traffic: traffic(rule.ip_protocol(), rule.from_port(), rule.to_port())
                .map_err(|Unreadable(what)| unreadable(&what))?,
            peer: peer(rule).map_err(|Unreadable(what)| unreadable(&what))?,
            description: rule.description().map(Box::from),
            tags: (!tags.is_empty()).then(|| Box::new(tags)),
        },
        arn: rule.security_group_rule_arn().map(str::to_owned),
    })
}

fn traffic(
    protocol: Option<&str>,
    from: Option<i32>,
    to: Option<i32>,
) -> Result<Traffic, Unreadable> {
    let text = protocol.unwrap_or_default();
    let protocol =
        Protocol::parse(text).ok_or_else(|| Unreadable(format!("with protocol {text:?}")))?;
    Ok(Traffic::from_ec2(protocol, from, to))
}

/// The one peer of a described rule. None or two is nothing that we know.
fn peer(rule: &types::SecurityGroupRule) -> Result<Peer, Unreadable> {
    let group = rule.referenced_group_info();
    let peers = (rule.cidr_ipv4(), rule.cidr_ipv6(), rule.prefix_list_id(), group);
    match peers {
        (Some(cidr), None, None, None) => ipv4(cidr),
        (None, Some(cidr), None, None) => ipv6(cidr),
        (None, None, Some(id), None) => Ok(Peer::PrefixList(PrefixListId::new(id))),
        (None, None, None, Some(group)) if group.group_id().is_some() => {
            Ok(Peer::Group(Box::new(GroupPeer {
                group_id: group.group_id().map(GroupId::new),
                group_name: None,
                user_id: group.user_id().map(AccountId::new),
                vpc_id: group.vpc_id().map(str::to_owned),
                vpc_peering_connection_id: group.vpc_peering_connection_id().map(str::to_owned),
                peering_status: group.peering_status().map(str::to_owned),
            })))
        }
        (None, None, None, _) => Err(Unreadable("without a peer".to_owned())),
        _ => Err(Unreadable("with several peers".to_owned())),
    }
}

fn ipv4(cidr: &str) -> Result<Peer, Unreadable> {
    match range(cidr) {
        Some(IpNet::V4(net)) => Ok(Peer::Ipv4(Ipv4Net::trunc(&net))),
        _ => Err(Unreadable(format!("with IPv4 range {cidr:?}"))),
    }
}

fn ipv6(cidr: &str) -> Result<Peer, Unreadable> {
    match range(cidr) {
        Some(IpNet::V6(net)) => Ok(Peer::Ipv6(Ipv6Net::trunc(&net))),
        _ => Err(Unreadable(format!("with IPv6 range {cidr:?}"))),
    }
}

/// A range, or a lone address as the range that holds only it.
fn range(text: &str) -> Option<IpNet> {
    IpNet::from_str(text).ok().or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))
}

pub(super) fn group_of(
    group: &types::SecurityGroup,
    account: &AccountId,
) -> Result<Group, Unreadable> {
    let id = group.group_id().ok_or_else(|| Unreadable("a group without an id".to_owned()))?;
    Ok(Group {
        id: GroupId::new(id),
        name: group.group_name().unwrap_or_default().to_owned(),
        description: group.description().unwrap_or_default().to_owned(),
        vpc_id: group.vpc_id().map(VpcId::new),
        owner_id: group.owner_id().map_or_else(|| account.clone(), AccountId::new),
        tags: tags(group.tags()),
        arn: group.security_group_arn().map(str::to_owned),
    })
}

/// A group of a list. EC2 describes its rules grouped and without ids there, so their ids are empty here.
pub(super) fn listed_group(
    group: &types::SecurityGroup,
    account: &AccountId,
) -> Result<GroupImage, Unreadable> {
    let mut rules = Vec::new();
    let sides = [
        (Direction::Ingress, group.ip_permissions()),
        (Direction::Egress, group.ip_permissions_egress()),
    ];
    for (direction, permissions) in sides {
        for permission in permissions {
            listed_rules(direction, permission, &mut rules).map_err(|Unreadable(what)| {
                let id = group.group_id().unwrap_or_default();
                Unreadable(format!("a rule of group {id} {what}"))
            })?;
        }
    }
    let group = Arc::new(group_of(group, account)?);
    Ok(GroupImage { group, in_default_vpc: None, rules: Arc::new(rules) })
}

fn listed_rules(
    direction: Direction,
    permission: &types::IpPermission,
    rules: &mut Vec<Rule>,
) -> Result<(), Unreadable> {
    let traffic = traffic(permission.ip_protocol(), permission.from_port(), permission.to_port())?;
    let mut push = |peer, description: Option<&str>| {
        let description = description.map(Box::from);
        rules.push(Rule { id: RuleId::new(""), direction, traffic, peer, description, tags: None });
    };
    for range in permission.ip_ranges() {
        push(ipv4(range.cidr_ip().unwrap_or_default())?, range.description());
    }
    for range in permission.ipv6_ranges() {
        push(ipv6(range.cidr_ipv6().unwrap_or_default())?, range.description());
    }
    for list in permission.prefix_list_ids() {
        let id = list.prefix_list_id().ok_or_else(|| Unreadable("without a peer".to_owned()))?;
        push(Peer::PrefixList(PrefixListId::new(id)), list.description());
    }
    for pair in permission.user_id_group_pairs() {
        if pair.group_id().is_none() && pair.group_name().is_none() {
            return Err(Unreadable("without a peer".to_owned()));
        }
        let peer = GroupPeer {
            group_id: pair.group_id().map(GroupId::new),
            group_name: pair.group_name().map(str::to_owned),
            user_id: pair.user_id().map(AccountId::new),
            vpc_id: pair.vpc_id().map(str::to_owned),
            vpc_peering_connection_id: pair.vpc_peering_connection_id().map(str::to_owned),
            peering_status: pair.peering_status().map(str::to_owned),
        };
        push(Peer::Group(Box::new(peer)), pair.description());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(peer: Peer, traffic: Traffic) -> RuleSpec {
        RuleSpec { traffic, peer, description: Some("why".to_owned()) }
    }

    #[test]
    fn groups_travel_apart_and_a_name_beside_an_id_stays_here() {
        let pair = |group_id: Option<&str>| {
            Peer::Group(Box::new(GroupPeer {
                group_id: group_id.map(GroupId::new),
                group_name: Some("web".to_owned()),
                user_id: Some(AccountId::new("123456789012")),
                vpc_id: Some("vpc-1".to_owned()),
                vpc_peering_connection_id: Some("pcx-1".to_owned()),
                peering_status: Some("active".to_owned()),
            }))
        };
        let https = Traffic::new(Protocol::TCP, Some(443), Some(443)).unwrap();
        let sent = permissions(&[
            spec(Peer::Ipv4("10.0.0.7/8".parse().unwrap()), https),
            spec(pair(Some("sg-1")), https),
            spec(pair(None), https),
            spec(Peer::Ipv6("2001:db8::/32".parse().unwrap()), https),
            spec(Peer::PrefixList(PrefixListId::new("pl-1")), https),
        ]);
        assert_eq!(sent.len(), 2);
        let [groups, others] = [&sent[0], &sent[1]];
        let [with_id, by_name] = groups.user_id_group_pairs() else { panic!("{groups:?}") };
        assert_eq!((with_id.group_id(), with_id.group_name()), (Some("sg-1"), None));
        assert_eq!((by_name.group_id(), by_name.group_name()), (None, Some("web")));
        assert_eq!(with_id.user_id(), Some("123456789012"));
        assert_eq!(with_id.vpc_id(), Some("vpc-1"));
        assert_eq!(with_id.vpc_peering_connection_id(), Some("pcx-1"));
        assert_eq!(with_id.peering_status(), Some("active"));
        assert_eq!(with_id.description(), Some("why"));
        // Host bits travel as the caller spelled them: it is EC2 that decides.
        assert_eq!(others.ip_ranges()[0].cidr_ip(), Some("10.0.0.7/8"));
        assert_eq!(others.ipv6_ranges()[0].cidr_ipv6(), Some("2001:db8::/32"));
        assert_eq!(others.prefix_list_ids()[0].prefix_list_id(), Some("pl-1"));
        assert!(others.user_id_group_pairs.is_none());
        assert!(groups.ip_ranges.is_none());
        assert_eq!((groups.from_port(), groups.to_port()), (Some(443), Some(443)));
    }

    #[test]
    fn protocols_without_ports_are_sent_without_ports() {
        for (protocol, ports) in
            [("-1", None), ("47", None), ("icmp", Some((8, -1))), ("icmpv6", Some((-1, -1)))]
        {
            let (from, to) = ports.unzip();
            let traffic = Traffic::new(Protocol::parse(protocol).unwrap(), from, to).unwrap();
            let sent = permissions(&[spec(Peer::Ipv4(Ipv4Net::default()), traffic)]);
            assert_eq!(sent[0].ip_protocol(), Some(protocol));
            assert_eq!((sent[0].from_port(), sent[0].to_port()), (from, to), "{protocol}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_said_to_be_so() {
        let account = AccountId::new("123456789012");
        let asked = Asked { account: &account, group: None, direction: None };
        let good = types::SecurityGroupRule::builder()
            .security_group_rule_id("sgr-1")
            .group_id("sg-1")
            .is_egress(true)
            .ip_protocol("tcp")
            .from_port(1)
            .to_port(2)
            .cidr_ipv4("10.0.0.0/8");
        assert_eq!(
            owned_rule(&good.clone().build(), &asked).unwrap().group_owner_id,
            account,
            "the owner is the account that was asked"
        );
        let group = types::ReferencedSecurityGroup::builder().user_id("123456789012").build();
        for (rule, what) in [
            (good.clone().set_security_group_rule_id(None), "without an id"),
            (good.clone().set_group_id(None), "without a group"),
            (good.clone().set_is_egress(None), "without a direction"),
            (good.clone().ip_protocol("quic"), "with protocol"),
            (good.clone().set_ip_protocol(None), "with protocol"),
            (good.clone().set_cidr_ipv4(None), "without a peer"),
            (good.clone().set_cidr_ipv4(None).referenced_group_info(group), "without a peer"),
            (good.clone().prefix_list_id("pl-1"), "with several peers"),
            (good.clone().cidr_ipv4("10.0.0.0/33"), "with IPv4 range"),
            (good.clone().cidr_ipv4("::/0"), "with IPv4 range"),
        ] {
            let Unreadable(said) = owned_rule(&rule.build(), &asked).unwrap_err();
            assert!(said.contains(what), "{said}");
        }
    }
}
