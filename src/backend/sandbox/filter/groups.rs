//! The filters of the two describes of security groups.

use super::{Field, Filters, Values};
use crate::{
    backend::GroupImage,
    rule::{Direction, GroupId, Peer, PrefixListId, Rule, RuleId},
};

/// The filters of DescribeSecurityGroups, parsed.
pub type GroupFilters = Filters<GroupField>;

/// What a filter of DescribeSecurityGroups looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupField {
    Description,
    GroupId,
    GroupName,
    OwnerId,
    Tag(String),
    TagKey,
    VpcId,
    Rule(Direction, RuleField),
}

/// What one of its filters over rules looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleField {
    Cidr,
    FromPort,
    GroupId,
    GroupName,
    Ipv6Cidr,
    PrefixListId,
    Protocol,
    ToPort,
    UserId,
}

/// The filters of DescribeSecurityGroupRules, parsed.
pub type RuleFilters = Filters<RuleListField>;

/// What a filter of DescribeSecurityGroupRules looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleListField {
    GroupId,
    RuleId,
    Tag(String),
    TagKey,
}

// === impl GroupFilters ===

impl Field for GroupField {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "description" => Self::Description,
            "group-id" => Self::GroupId,
            "group-name" => Self::GroupName,
            "owner-id" => Self::OwnerId,
            "tag-key" => Self::TagKey,
            "vpc-id" => Self::VpcId,
            _ => {
                if let Some(key) = name.strip_prefix("tag:") {
                    return Some(Self::Tag(key.to_owned()));
                }
                if let Some(field) = name.strip_prefix("egress.ip-permission.") {
                    return Some(Self::Rule(Direction::Egress, RuleField::parse(field)?));
                }
                let field = name.strip_prefix("ip-permission.")?;
                return Some(Self::Rule(Direction::Ingress, RuleField::parse(field)?));
            }
        })
    }

    fn holds_group_ids(&self) -> bool {
        *self == Self::GroupId
    }
}

impl GroupFilters {
    /// Whether a group passes all of them. Each filter over rules may be met by another rule. `name_of` tells the
    /// name of a group that a rule refers to.
    pub fn pass(&self, image: &GroupImage, name_of: &dyn Fn(&GroupId) -> Option<String>) -> bool {
        let group = &image.group;
        self.all(|field, values| match field {
            GroupField::Description => values.any(&group.description),
            GroupField::GroupId => values.any(group.id.as_str()),
            GroupField::GroupName => values.any(&group.name),
            GroupField::OwnerId => values.any(group.owner_id.as_str()),
            GroupField::Tag(key) => values.any_tag(key, &group.tags),
            GroupField::TagKey => values.any_key(&group.tags),
            GroupField::VpcId => group.vpc_id.as_ref().is_some_and(|vpc| values.any(vpc.as_str())),
            GroupField::Rule(direction, field) => image
                .rules
                .iter()
                .any(|rule| rule.direction == *direction && field.passes(rule, values, name_of)),
        })
    }

    /// The only groups that can pass, if the filters name them by id.
    pub fn group_ids(&self) -> Option<Vec<GroupId>> {
        Some(self.exact(&GroupField::GroupId)?.iter().map(GroupId::new).collect())
    }
}

// === impl RuleField ===

impl RuleField {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "cidr" => Self::Cidr,
            "from-port" => Self::FromPort,
            "group-id" => Self::GroupId,
            "group-name" => Self::GroupName,
            "ipv6-cidr" => Self::Ipv6Cidr,
            "prefix-list-id" => Self::PrefixListId,
            "protocol" => Self::Protocol,
            "to-port" => Self::ToPort,
            "user-id" => Self::UserId,
            _ => return None,
        })
    }

    fn passes(
        self,
        rule: &Rule,
        values: &Values,
        name_of: &dyn Fn(&GroupId) -> Option<String>,
    ) -> bool {
        match (self, &rule.peer) {
            (Self::FromPort, _) => values.any(&rule.traffic.from_port().to_string()),
            (Self::ToPort, _) => values.any(&rule.traffic.to_port().to_string()),
            (Self::Protocol, _) => {
                let protocol = rule.traffic.protocol();
                let number = protocol.number().to_string();
                values.any(&protocol.to_string()) || values.any(&number)
            }
            (Self::Cidr, Peer::Ipv4(net)) => values.any(&net.to_string()),
            (Self::Ipv6Cidr, Peer::Ipv6(net)) => values.any(&net.to_string()),
            (Self::PrefixListId, Peer::PrefixList(id)) => values.any(PrefixListId::as_str(id)),
            (Self::GroupId, Peer::Group(peer)) => {
                peer.group_id.as_ref().is_some_and(|id| values.any(id.as_str()))
            }
            (Self::GroupName, Peer::Group(peer)) => {
                let name =
                    peer.group_id.as_ref().and_then(name_of).or_else(|| peer.group_name.clone());
                name.is_some_and(|name| values.any(&name))
            }
            (Self::UserId, Peer::Group(peer)) => {
                peer.user_id.as_ref().is_some_and(|id| values.any(id.as_str()))
            }
            _ => false,
        }
    }
}

// === impl RuleFilters ===

impl Field for RuleListField {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "group-id" => Self::GroupId,
            "security-group-rule-id" => Self::RuleId,
            "tag-key" => Self::TagKey,
            _ => Self::Tag(name.strip_prefix("tag:")?.to_owned()),
        })
    }

    fn holds_group_ids(&self) -> bool {
        *self == Self::GroupId
    }
}

impl RuleFilters {
    /// Whether a rule passes all of them.
    pub fn pass(&self, group: &GroupId, rule: &Rule) -> bool {
        self.all(|field, values| match field {
            RuleListField::GroupId => values.any(group.as_str()),
            RuleListField::RuleId => values.any(rule.id.as_str()),
            RuleListField::Tag(key) => values.any_tag(key, rule.tags()),
            RuleListField::TagKey => values.any_key(rule.tags()),
        })
    }

    /// The only groups whose rules can pass, if the filters name them by id.
    pub fn group_ids(&self) -> Option<Vec<GroupId>> {
        Some(self.exact(&RuleListField::GroupId)?.iter().map(GroupId::new).collect())
    }

    /// The only rules that can pass, if the filters name them by id.
    pub fn rule_ids(&self) -> Option<Vec<RuleId>> {
        Some(self.exact(&RuleListField::RuleId)?.iter().map(RuleId::new).collect())
    }
}
