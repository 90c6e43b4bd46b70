//! The filters of the describes around security groups: VPCs, tags, prefix lists.

use super::{Field, Filters};
use crate::{
    backend::sandbox::{
        state::{PrefixList, Vpc},
        tagging::TagDescription,
    },
    rule::PrefixListId,
};

/// The filters of DescribeVpcs, parsed.
pub type VpcFilters = Filters<VpcField>;

/// What a filter of DescribeVpcs looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VpcField {
    Cidr,
    Ipv6Cidr,
    Ipv6State,
    IsDefault,
    OwnerId,
    State,
    Tag(String),
    TagKey,
    VpcId,
}

/// The filters of DescribeTags, parsed.
pub type TagFilters = Filters<TagField>;

/// What a filter of DescribeTags looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagField {
    Key,
    ResourceId,
    ResourceType,
    Tag(String),
    Value,
}

/// The filters of DescribeManagedPrefixLists, parsed.
pub type PrefixListFilters = Filters<PrefixListField>;

/// What a filter of DescribeManagedPrefixLists looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixListField {
    Id,
    Name,
    OwnerId,
    Tag(String),
    TagKey,
}

// === impl VpcFilters ===

impl Field for VpcField {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "cidr" | "cidr-block-association.cidr-block" => Self::Cidr,
            "ipv6-cidr-block-association.ipv6-cidr-block" => Self::Ipv6Cidr,
            "ipv6-cidr-block-association.state" => Self::Ipv6State,
            "is-default" | "isDefault" => Self::IsDefault,
            "owner-id" => Self::OwnerId,
            "state" => Self::State,
            "tag-key" => Self::TagKey,
            "vpc-id" => Self::VpcId,
            _ => Self::Tag(name.strip_prefix("tag:")?.to_owned()),
        })
    }
}

impl VpcFilters {
    /// Whether a VPC passes all of them.
    pub fn pass(&self, vpc: &Vpc) -> bool {
        self.all(|field, values| match field {
            VpcField::Cidr => vpc.cidr_block.as_ref().is_some_and(|block| values.any(block)),
            VpcField::Ipv6Cidr => vpc.ipv6_blocks.iter().any(|block| values.any(&block.range)),
            VpcField::Ipv6State => vpc.ipv6_blocks.iter().any(|block| values.any(block.state())),
            VpcField::IsDefault => values.any(if vpc.is_default { "true" } else { "false" }),
            VpcField::OwnerId => values.any(vpc.home.account.as_str()),
            VpcField::State => values.any(vpc.state()),
            VpcField::Tag(key) => values.any_tag(key, &vpc.tags),
            VpcField::TagKey => values.any_key(&vpc.tags),
            VpcField::VpcId => values.any(vpc.id.as_str()),
        })
    }
}

// === impl TagFilters ===

impl Field for TagField {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "key" => Self::Key,
            "resource-id" => Self::ResourceId,
            "resource-type" => Self::ResourceType,
            "value" => Self::Value,
            _ => Self::Tag(name.strip_prefix("tag:")?.to_owned()),
        })
    }
}

impl TagFilters {
    /// Whether a tag passes all of them.
    pub fn pass(&self, tag: &TagDescription) -> bool {
        self.all(|field, values| match field {
            TagField::Key => values.any(&tag.key),
            TagField::ResourceId => values.any(&tag.resource_id),
            TagField::ResourceType => values.any(&tag.resource_type),
            TagField::Tag(key) => tag.key == *key && values.any(&tag.value),
            TagField::Value => values.any(&tag.value),
        })
    }

    /// The only resources whose tags can pass, if the filters name them by id.
    pub fn resource_ids(&self) -> Option<Vec<String>> {
        self.exact(&TagField::ResourceId)
    }
}

// === impl PrefixListFilters ===

impl Field for PrefixListField {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "owner-id" => Self::OwnerId,
            "prefix-list-id" => Self::Id,
            "prefix-list-name" => Self::Name,
            "tag-key" => Self::TagKey,
            _ => Self::Tag(name.strip_prefix("tag:")?.to_owned()),
        })
    }
}

impl PrefixListFilters {
    /// Whether a prefix list passes all of them.
    pub fn pass(&self, list: &PrefixList) -> bool {
        self.all(|field, values| match field {
            PrefixListField::Id => values.any(PrefixListId::as_str(&list.id)),
            PrefixListField::Name => list.name.as_ref().is_some_and(|name| values.any(name)),
            PrefixListField::OwnerId => values.any(list.owner_id()),
            PrefixListField::Tag(key) => values.any_tag(key, &list.tags),
            PrefixListField::TagKey => values.any_key(&list.tags),
        })
    }
}
