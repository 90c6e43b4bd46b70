//! Rules and groups as records hold them: with AWS's member names, so that people and SIEMs can read them, and read back
//! into the domain without loss of anything that takes part in matching.

use serde::{Deserialize, Serialize};

use crate::rule::{
    AccountId, Direction, GroupId, GroupPeer, Peer, PrefixListId, Protocol, Rule, RuleId, RuleSpec,
    Tag, Traffic,
};

/// A rule, with an id or, as somebody named it by its properties, without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StoredRule {
    #[allow(missing_docs, reason = "AWS's member of that name")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_group_rule_id: Option<String>,
    /// Which way.
    pub is_egress: bool,
    /// In normal form: `tcp`, `-1`, `50`.
    pub ip_protocol: String,
    /// -1 for none or all.
    pub from_port: i32,
    /// -1 for none or all.
    pub to_port: i32,
    /// As it was spelled: host bits are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_ipv4: Option<String>,
    /// As it was spelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_ipv6: Option<String>,
    #[allow(missing_docs, reason = "AWS's member of that name")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_list_id: Option<String>,
    #[allow(missing_docs, reason = "AWS's member of that name")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referenced_group_info: Option<StoredPeer>,
    #[allow(missing_docs, reason = "AWS's member of that name")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[allow(missing_docs, reason = "AWS's member of that name")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<StoredTag>,
}

/// A group that a rule refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "AWS's members of these names")]
pub struct StoredPeer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "AWS's members of these names")]
pub struct StoredTag {
    pub key: String,
    pub value: String,
}

/// A group, as far as policies and settling look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "AWS's members of these names")]
pub struct StoredGroup {
    pub group_id: String,
    pub group_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub owner_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<StoredTag>,
}

// === impl StoredRule ===

impl StoredRule {
    /// A rule that was named by its properties.
    pub fn of_spec(direction: Direction, spec: &RuleSpec) -> Self {
        let mut stored = Self {
            is_egress: direction == Direction::Egress,
            ip_protocol: spec.traffic.protocol().to_string(),
            from_port: spec.traffic.from_port(),
            to_port: spec.traffic.to_port(),
            description: spec.description.clone(),
            ..Self::default()
        };
        match &spec.peer {
            Peer::Ipv4(net) => stored.cidr_ipv4 = Some(net.to_string()),
            Peer::Ipv6(net) => stored.cidr_ipv6 = Some(net.to_string()),
            Peer::PrefixList(id) => stored.prefix_list_id = Some(id.to_string()),
            Peer::Group(peer) => {
                stored.referenced_group_info = Some(StoredPeer {
                    group_id: peer.group_id.as_ref().map(ToString::to_string),
                    group_name: peer.group_name.clone(),
                    user_id: peer.user_id.as_ref().map(ToString::to_string),
                });
            }
        }
        stored
    }

    /// A rule that a group has.
    pub fn of_rule(rule: &Rule) -> Self {
        Self {
            security_group_rule_id: Some(rule.id.to_string()),
            tags: rule.tags().iter().map(StoredTag::from).collect(),
            ..Self::of_spec(rule.direction, &rule.spec())
        }
    }

    /// Whether the rule is this one and has been neither modified nor described anew since. Tags do not count.
    pub fn is_still(&self, rule: &Rule) -> bool {
        let now = Self { tags: self.tags.clone(), ..Self::of_rule(rule) };
        *self == now
    }

    /// The rule by its properties. None: the record is not one of ours.
    pub fn to_spec(&self) -> Option<RuleSpec> {
        let peer = match self {
            Self { cidr_ipv4: Some(net), .. } => Peer::Ipv4(net.parse().ok()?),
            Self { cidr_ipv6: Some(net), .. } => Peer::Ipv6(net.parse().ok()?),
            Self { prefix_list_id: Some(id), .. } => Peer::PrefixList(PrefixListId::new(id)),
            Self { referenced_group_info: Some(peer), .. } => Peer::Group(Box::new(GroupPeer {
                group_id: peer.group_id.as_ref().map(GroupId::new),
                group_name: peer.group_name.clone(),
                user_id: peer.user_id.as_ref().map(AccountId::new),
                ..GroupPeer::default()
            })),
            _ => return None,
        };
        let protocol = Protocol::parse(&self.ip_protocol)?;
        let traffic = Traffic::from_ec2(protocol, Some(self.from_port), Some(self.to_port));
        Some(RuleSpec { traffic, peer, description: self.description.clone() })
    }

    /// The rule with its id. None: it has none.
    pub fn to_rule(&self) -> Option<Rule> {
        let RuleSpec { traffic, peer, description } = self.to_spec()?;
        let tags: Vec<Tag> = self.tags.iter().map(Tag::from).collect();
        Some(Rule {
            id: RuleId::new(self.security_group_rule_id.as_ref()?),
            direction: self.direction(),
            traffic,
            peer,
            description: description.map(String::into_boxed_str),
            tags: (!tags.is_empty()).then(|| Box::new(tags)),
        })
    }

    /// Which way.
    pub fn direction(&self) -> Direction {
        if self.is_egress { Direction::Egress } else { Direction::Ingress }
    }
}

impl From<&Tag> for StoredTag {
    fn from(tag: &Tag) -> Self {
        Self { key: tag.key.clone(), value: tag.value.clone() }
    }
}

impl From<&StoredTag> for Tag {
    fn from(tag: &StoredTag) -> Self {
        Self { key: tag.key.clone(), value: tag.value.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let group = Peer::Group(Box::new(GroupPeer {
            group_name: Some("web".into()),
            ..GroupPeer::default()
        }));
        let peers = [
            Peer::Ipv4("10.1.2.3/8".parse().unwrap()),
            Peer::Ipv6("2001:db8::1/32".parse().unwrap()),
            Peer::PrefixList(PrefixListId::new("pl-12345678")),
            Peer::group(GroupId::new("sg-12345678"), Some(AccountId::new("123456789012"))),
            group,
        ];
        let traffics = [
            Traffic::ALL,
            Traffic::from_ec2(Protocol::TCP, Some(0), Some(443)),
            Traffic::from_ec2(Protocol::parse("icmp").unwrap(), Some(8), Some(-1)),
            Traffic::from_ec2(Protocol::parse("50").unwrap(), None, None),
        ];
        for (peer, traffic) in peers.iter().zip(traffics.iter().cycle()) {
            let tag = Tag { key: "a".into(), value: String::new() };
            let rule = Rule {
                id: RuleId::new("sgr-1"),
                direction: Direction::Ingress,
                traffic: *traffic,
                peer: peer.clone(),
                description: Some("x".into()),
                tags: Some(Box::new(vec![tag])),
            };
            let text = serde_json::to_string(&StoredRule::of_rule(&rule)).unwrap();
            let read: StoredRule = serde_json::from_str(&text).unwrap();
            assert_eq!(read.to_rule(), Some(rule.clone()), "{text}");
            let spec = StoredRule::of_spec(Direction::Egress, &rule.spec());
            assert_eq!((spec.to_spec(), spec.to_rule()), (Some(rule.spec()), None));
        }
        assert_eq!(StoredRule::default().to_spec(), None);
    }
}
