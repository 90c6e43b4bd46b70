//! The other end of a rule: destination (egress) or source (ingress).

use std::fmt;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{AccountId, GroupId, PrefixListId};

/// A rule has exactly one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An IPv4 range; host bits are as the caller spelled them.
    Ipv4(Ipv4Net),
    /// An IPv6 range; host bits are as the caller spelled them.
    Ipv6(Ipv6Net),
    /// A managed prefix list.
    PrefixList(PrefixListId),
    /// A security group.
    Group(Box<GroupPeer>),
}

/// A security group that a rule refers to. Only the group, and the owner if given, take part in matching (R25).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPeer {
    /// The group's id; a stored rule always has it.
    pub group_id: Option<GroupId>,
    /// The group's name: names the group in the default VPC where there is no id, else informational.
    pub group_name: Option<String>,
    /// The account that owns the group.
    pub user_id: Option<AccountId>,
    /// Informational.
    pub vpc_id: Option<String>,
    /// Informational.
    pub vpc_peering_connection_id: Option<String>,
    /// Informational.
    pub peering_status: Option<String>,
}

/// A peer in the form in which it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerKey {
    /// A range without host bits (R22, R23).
    Ipv4(Ipv4Net),
    /// A range without host bits.
    Ipv6(Ipv6Net),
    /// By id (R29).
    PrefixList(PrefixListId),
    /// By id; ids are unique over accounts, so the owner is checked apart.
    Group(GroupId),
    /// By name, where no id is known.
    GroupName(String),
}

impl Peer {
    /// A reference to a group by its id.
    pub fn group(group_id: GroupId, user_id: Option<AccountId>) -> Self {
        Self::Group(Box::new(GroupPeer {
            group_id: Some(group_id),
            user_id,
            ..GroupPeer::default()
        }))
    }

    /// The form in which peers are compared.
    pub fn key(&self) -> PeerKey {
        match self {
            Self::Ipv4(net) => PeerKey::Ipv4(net.trunc()),
            Self::Ipv6(net) => PeerKey::Ipv6(net.trunc()),
            Self::PrefixList(id) => PeerKey::PrefixList(id.clone()),
            Self::Group(peer) => match &peer.group_id {
                Some(id) => PeerKey::Group(id.clone()),
                None => PeerKey::GroupName(peer.group_name.clone().unwrap_or_default()),
            },
        }
    }

    /// Whether both name the same peer, comparing as [`Peer::key`] does but without building keys.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ipv4(a), Self::Ipv4(b)) => a.trunc() == b.trunc(),
            (Self::Ipv6(a), Self::Ipv6(b)) => a.trunc() == b.trunc(),
            (Self::PrefixList(a), Self::PrefixList(b)) => a == b,
            (Self::Group(a), Self::Group(b)) => match (&a.group_id, &b.group_id) {
                (Some(a), Some(b)) => a == b,
                (None, None) => a.group_name == b.group_name,
                (Some(_), None) | (None, Some(_)) => false,
            },
            _ => false,
        }
    }

    /// This peer as EC2 stores it: without host bits.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::Ipv4(net) => Self::Ipv4(net.trunc()),
            Self::Ipv6(net) => Self::Ipv6(net.trunc()),
            other => other,
        }
    }

    /// Whether the caller spelled a range with host bits set.
    pub fn has_host_bits(&self) -> bool {
        match self {
            Self::Ipv4(net) => *net != net.trunc(),
            Self::Ipv6(net) => *net != net.trunc(),
            Self::PrefixList(_) | Self::Group(_) => false,
        }
    }

    /// Whether everything that `other` stands for is within this. What a prefix list or group holds is not known
    /// here, so those cover only themselves.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ipv4(a), Self::Ipv4(b)) => a.contains(b),
            (Self::Ipv6(a), Self::Ipv6(b)) => a.contains(b),
            _ => self.same(other),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(net) => net.fmt(f),
            Self::Ipv6(net) => net.fmt(f),
            Self::PrefixList(id) => id.fmt(f),
            Self::Group(peer) => match (&peer.group_id, &peer.group_name) {
                (Some(id), _) => id.fmt(f),
                (None, Some(name)) => write!(f, "group \"{name}\""),
                (None, None) => f.write_str("an unnamed group"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Peer {
        Peer::Ipv4(text.parse().unwrap())
    }

    fn v6(text: &str) -> Peer {
        Peer::Ipv6(text.parse().unwrap())
    }

    #[test]
    fn r22_r23_ranges_are_compared_without_host_bits() {
        assert!(v4("100.68.0.18/18").same(&v4("100.68.0.0/18")));
        assert_eq!(v4("100.68.0.18/18").key(), v4("100.68.0.0/18").key());
        assert!(v4("100.68.0.18/18").has_host_bits());
        assert!(v6("2001:DB8::1/32").same(&v6("2001:db8::/32")));
        assert_eq!(v6("2001:DB8:0::1/32").canonical().to_string(), "2001:db8::/32");
    }

    #[test]
    fn r25_only_the_group_takes_part_in_comparing() {
        let plain = Peer::group(GroupId::new("sg-00000001"), None);
        let described = Peer::Group(Box::new(GroupPeer {
            group_id: Some(GroupId::new("sg-00000001")),
            group_name: Some("web".into()),
            vpc_id: Some("vpc-00000001".into()),
            peering_status: Some("active".into()),
            ..GroupPeer::default()
        }));
        assert!(plain.same(&described));
        assert_eq!(plain.key(), described.key());
    }

    #[test]
    fn ranges_cover_what_is_inside_them() {
        assert!(v4("10.0.0.0/8").covers(&v4("10.1.0.0/16")));
        assert!(v4("10.0.0.1/8").covers(&v4("10.1.0.0/16")));
        assert!(!v4("10.1.0.0/16").covers(&v4("10.0.0.0/8")));
        assert!(!v4("0.0.0.0/0").covers(&v6("::/0")));
    }
}
