//! Security-group rules: the pure domain.
//!
//! Read in this order: [`id`], [`traffic`] (protocol and ports), [`peer`], [`permission`] (EC2's grouped form, and
//! expanding it into atomic rules and back), [`change`], [`matching`], [`explain`].
//!
//! Nothing here knows of protobuf, AWS's SDK, time or I/O.

pub mod change;
pub mod explain;
pub mod id;
pub mod matching;
pub mod peer;
pub mod permission;
pub mod traffic;

pub use change::{RuleChange, RuleRequest};
pub use id::{AccountId, GroupId, GroupRef, PrefixListId, Region, RuleId, Target, VpcId};
pub use peer::{GroupPeer, Peer, PeerKey};
pub use permission::{IpPermission, expand, group};
pub use traffic::{Protocol, Traffic};

/// Which way a rule's traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Outbound.
    Egress,
    /// Inbound.
    Ingress,
}

impl Direction {
    /// The opposite direction.
    pub fn other(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }

    /// `egress` or `ingress`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// A tag of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The tag's key.
    pub key: String,
    /// The tag's value, empty if it has none.
    pub value: String,
}

/// One rule named by its properties: an [`IpPermission`] with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Protocol and ports.
    pub traffic: Traffic,
    /// The destination (egress) or source (ingress), as the caller spelled it: host bits are kept.
    pub peer: Peer,
    /// The description, if one was given.
    pub description: Option<String>,
}

impl RuleSpec {
    /// What makes this rule itself: two rules of one group and direction never share it (ec2-facts R15).
    pub fn key(&self) -> RuleKey {
        RuleKey { traffic: self.traffic, peer: self.peer.key() }
    }
}

/// A rule's identity within one direction of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleKey {
    /// Protocol and ports in normal form.
    pub traffic: Traffic,
    /// The peer in canonical form.
    pub peer: PeerKey,
}

/// One rule that a group has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Assigned when the rule is authorized; stays the same when it is modified (ec2-facts R10).
    pub id: RuleId,
    /// Which way.
    pub direction: Direction,
    /// Protocol and ports.
    pub traffic: Traffic,
    /// The peer, canonical.
    pub peer: Peer,
    /// The description, if it has one.
    pub description: Option<Box<str>>,
    /// The rule's tags. Boxed because nearly no rule has any, and there are millions of rules.
    pub tags: Option<Box<Vec<Tag>>>,
}

impl Rule {
    /// See [`RuleSpec::key`].
    pub fn key(&self) -> RuleKey {
        RuleKey { traffic: self.traffic, peer: self.peer.key() }
    }

    /// The rule's tags.
    pub fn tags(&self) -> &[Tag] {
        self.tags.as_deref().map_or(&[], Vec::as_slice)
    }

    /// This rule by its properties, as a revoke or authorize call would name it.
    pub fn spec(&self) -> RuleSpec {
        RuleSpec {
            traffic: self.traffic,
            peer: self.peer.clone(),
            description: self.description.as_deref().map(str::to_owned),
        }
    }
}

/// One thing wrong with a request, in EC2's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `ip_permissions[2].ip_ranges[0].cidr_ip`.
    pub field: String,
    /// EC2's error code for it, such as `InvalidParameterValue`.
    pub code: &'static str,
    /// What is wrong and what would be right; EC2's own sentence where it is known.
    pub message: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), code, message: message.into() }
    }
}

/// The longest description, in characters (ec2-facts section 2).
pub const MAX_DESCRIPTION: usize = 255;

/// Whether every character is allowed in a description, and it is short enough. `&` is allowed for CIDR ranges and
/// for group names and descriptions, not for group pairs and prefix lists (seed page, ec2-facts section 2).
pub fn is_valid_description(text: &str, ampersand: bool) -> bool {
    text.len() <= MAX_DESCRIPTION
        && text.bytes().all(|byte| {
            byte.is_ascii_alphanumeric()
                || b" ._-:/()#,@[]+=;{}!$*".contains(&byte)
                || (ampersand && byte == b'&')
        })
}
