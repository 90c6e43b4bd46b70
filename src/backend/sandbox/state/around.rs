//! What is around the groups: VPCs and prefix lists.

use super::arn;
use crate::rule::{AccountId, PrefixListId, Region, Tag, Target, VpcId};

/// A VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// The id.
    pub id: VpcId,
    /// Whether it is the default one of its account in its Region.
    pub is_default: bool,
    /// The primary IPv4 range, as text.
    pub cidr_block: Option<String>,
    /// The IPv6 ranges, also those that it had.
    pub ipv6_blocks: Vec<Ipv6Block>,
    /// The account and Region.
    pub home: Target,
    /// Kept as given.
    pub state: Option<String>,
    /// The tags.
    pub tags: Vec<Tag>,
    /// The VPCs it is peered with.
    pub peered: Vec<VpcId>,
}

/// An IPv6 range of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6Block {
    /// The range, as text.
    pub range: String,
    /// What became of it; kept as given.
    pub state: Option<String>,
}

/// A managed prefix list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixList {
    /// The id.
    pub id: PrefixListId,
    /// The name.
    pub name: Option<String>,
    /// `IPv4` or `IPv6`.
    pub address_family: Option<String>,
    /// Its weight against a group's limit of rules.
    pub max_entries: Option<i32>,
    /// The account; none: AWS owns it and every account sees it.
    pub owner: Option<AccountId>,
    /// The Region.
    pub region: Region,
    /// The tags.
    pub tags: Vec<Tag>,
}

// === impl Vpc ===

impl Vpc {
    /// Whether it has an IPv6 range (R43).
    pub fn has_ipv6(&self) -> bool {
        self.ipv6_blocks.iter().any(Ipv6Block::is_there)
    }

    /// Its state; one that was loaded without is there.
    pub fn state(&self) -> &str {
        self.state.as_deref().unwrap_or("available")
    }
}

// === impl Ipv6Block ===

impl Ipv6Block {
    /// Its state; one that was loaded without is there.
    pub fn state(&self) -> &str {
        self.state.as_deref().unwrap_or("associated")
    }

    /// Whether the VPC has it. EC2 goes on describing a range for a while that it has no longer.
    fn is_there(&self) -> bool {
        matches!(self.state(), "associated" | "associating")
    }
}

// === impl PrefixList ===

impl PrefixList {
    /// What OwnerId says: the account, or `AWS`.
    pub fn owner_id(&self) -> &str {
        self.owner.as_ref().map_or("AWS", AccountId::as_str)
    }

    /// The ARN.
    pub fn arn(&self) -> String {
        let account = self.owner.as_ref().map_or("aws", AccountId::as_str);
        arn(&self.region, account, "prefix-list", self.id.as_str())
    }

    /// How many rules it counts as.
    pub fn weight(&self) -> usize {
        self.max_entries.and_then(|entries| usize::try_from(entries).ok()).unwrap_or(1).max(1)
    }
}
