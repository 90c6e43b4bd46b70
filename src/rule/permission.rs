//! EC2's grouped form of rules, expanding it into atomic rules with every constraint checked, and grouping back.
//!
//! [`IpPermission`] is text as it travels: it holds what a caller or EC2 wrote, valid or not, so that nothing is lost
//! in translation. [`expand`] is the only way from it to [`RuleSpec`]s.

use std::{collections::HashMap, net::IpAddr, str::FromStr};

use super::{
    AccountId, GroupId, GroupPeer, Peer, PrefixListId, Protocol, RuleKey, RuleSpec, Traffic,
    Violation, is_valid_description,
};

/// The most atomic rules in one request (ec2-facts section 6).
pub const MAX_RULES: usize = 1000;

/// The most violations that are collected: a request full of them is told so, at bounded cost.
pub const MAX_VIOLATIONS: usize = 256;

/// The longest text that is taken where no tighter limit applies.
const MAX_TEXT: usize = 255;

/// Protocol, ports and any number of peers, as EC2 groups them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpPermission {
    /// Protocol name or number.
    pub ip_protocol: Option<String>,
    /// First port or ICMP type.
    pub from_port: Option<i32>,
    /// Last port or ICMP code.
    pub to_port: Option<i32>,
    /// IPv4 ranges.
    pub ip_ranges: Vec<Range>,
    /// IPv6 ranges.
    pub ipv6_ranges: Vec<Range>,
    /// Prefix lists.
    pub prefix_list_ids: Vec<PrefixListRef>,
    /// Security groups.
    pub user_id_group_pairs: Vec<UserIdGroupPair>,
}

/// A CIDR range as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The range in CIDR notation.
    pub cidr: Option<String>,
    /// The rule's description.
    pub description: Option<String>,
}

/// A prefix list as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixListRef {
    /// The id.
    pub prefix_list_id: Option<String>,
    /// The rule's description.
    pub description: Option<String>,
}

/// A security group as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIdGroupPair {
    /// The group's id.
    pub group_id: Option<String>,
    /// The group's name.
    pub group_name: Option<String>,
    /// The owner.
    pub user_id: Option<String>,
    /// The group's VPC.
    pub vpc_id: Option<String>,
    /// The peering connection.
    pub vpc_peering_connection_id: Option<String>,
    /// Its status.
    pub peering_status: Option<String>,
    /// The rule's description.
    pub description: Option<String>,
}

/// Expands permissions into atomic rules, one per range, prefix list or group, in the order given.
///
/// Every constraint of the seed page and of ec2-facts sections 1 and 2 is checked; all violations come back at once,
/// with paths under `field`. The same rule twice is refused, however it is spelled (design.md section 7).
pub fn expand(field: &str, permissions: &[IpPermission]) -> Result<Vec<RuleSpec>, Vec<Violation>> {
    let total: usize = permissions.iter().map(|permission| permission.peers().max(1)).sum();
    if total > MAX_RULES {
        let message = format!("{total} rules in one request; at most {MAX_RULES} are allowed.");
        return Err(vec![Violation::new(field, "ResourceCountExceeded", message)]);
    }
    expand_all(field, permissions)
}

/// [`expand`] without the bound of one request: what a group holds already may be more.
pub fn expand_all(
    field: &str,
    permissions: &[IpPermission],
) -> Result<Vec<RuleSpec>, Vec<Violation>> {
    let mut expansion =
        Expansion { field, specs: Vec::new(), seen: HashMap::new(), violations: Vec::new() };
    for (index, permission) in permissions.iter().enumerate() {
        if expansion.violations.len() >= MAX_VIOLATIONS {
            break;
        }
        expansion.permission(index, permission);
    }
    expansion.finish()
}

/// Groups atomic rules by protocol and ports, in order of first appearance. What [`expand`] made of some permissions
/// and this made of that expands to the same rules again, up to their order.
pub fn group<'a>(specs: impl IntoIterator<Item = &'a RuleSpec>) -> Vec<IpPermission> {
    let mut places: HashMap<Traffic, usize> = HashMap::new();
    let mut permissions: Vec<IpPermission> = Vec::new();
    for spec in specs {
        let place = *places.entry(spec.traffic).or_insert_with(|| {
            permissions.push(IpPermission::without_peers(spec.traffic));
            permissions.len() - 1
        });
        if let Some(permission) = permissions.get_mut(place) {
            permission.push(spec);
        }
    }
    permissions
}

/// Parts permissions that hold groups beside ranges: the page forbids that mix, EC2's describe output has it, and
/// callers paste it back (R24).
pub fn part_groups_from_ranges(permissions: Vec<IpPermission>) -> Vec<IpPermission> {
    let mut parted = Vec::with_capacity(permissions.len());
    for mut permission in permissions {
        let pairs = std::mem::take(&mut permission.user_id_group_pairs);
        let others_remain = permission.peers() > 0;
        if !pairs.is_empty() {
            parted.push(IpPermission {
                user_id_group_pairs: pairs,
                ip_protocol: permission.ip_protocol.clone(),
                from_port: permission.from_port,
                to_port: permission.to_port,
                ..IpPermission::default()
            });
        }
        if others_remain {
            parted.push(permission);
        }
    }
    parted
}

// === impl IpPermission ===

impl IpPermission {
    /// A permission of that traffic with no peer yet.
    fn without_peers(traffic: Traffic) -> Self {
        let ports = traffic.permission_ports();
        Self {
            ip_protocol: Some(traffic.protocol().to_string()),
            from_port: ports.map(|(from, _)| from),
            to_port: ports.map(|(_, to)| to),
            ..Self::default()
        }
    }

    /// How many peers it has.
    pub fn peers(&self) -> usize {
        self.ip_ranges.len()
            + self.ipv6_ranges.len()
            + self.prefix_list_ids.len()
            + self.user_id_group_pairs.len()
    }

    fn push(&mut self, spec: &RuleSpec) {
        let description = spec.description.clone();
        match &spec.peer {
            Peer::Ipv4(net) => {
                self.ip_ranges.push(Range { cidr: Some(net.to_string()), description });
            }
            Peer::Ipv6(net) => {
                self.ipv6_ranges.push(Range { cidr: Some(net.to_string()), description });
            }
            Peer::PrefixList(id) => self
                .prefix_list_ids
                .push(PrefixListRef { prefix_list_id: Some(id.to_string()), description }),
            Peer::Group(peer) => self.user_id_group_pairs.push(UserIdGroupPair {
                group_id: peer.group_id.as_ref().map(GroupId::to_string),
                group_name: peer.group_name.clone(),
                user_id: peer.user_id.as_ref().map(AccountId::to_string),
                vpc_id: peer.vpc_id.clone(),
                vpc_peering_connection_id: peer.vpc_peering_connection_id.clone(),
                peering_status: peer.peering_status.clone(),
                description,
            }),
        }
    }
}

// === expanding ===

/// EC2's sentence for the same rule twice in one request (R30).
pub const SAME_TWICE: &str = "The same permission must not appear multiple times";

const INVALID_VALUE: &str = "InvalidParameterValue";
const NO_PEER: &str = "missing mandatory parameter: exactly one of remote-security-group, \
     remote-ip-range, remote-ipv6-range, or prefix-list-id must be present";

struct Expansion<'a> {
    /// The path of the permissions.
    field: &'a str,
    specs: Vec<RuleSpec>,
    seen: HashMap<RuleKey, Place>,
    violations: Vec<Violation>,
}

/// Where a peer stands. Spelled out only for a violation: a sandbox may load millions of peers.
#[derive(Clone, Copy)]
struct Place {
    permission: usize,
    list: &'static str,
    index: usize,
}

impl Expansion<'_> {
    fn permission(&mut self, number: usize, permission: &IpPermission) {
        let traffic = self.traffic(number, permission);
        if permission.peers() == 0 {
            self.refuse(format!("{}[{number}]", self.field), INVALID_VALUE, NO_PEER);
        }
        for (index, range) in permission.ip_ranges.iter().enumerate() {
            let place = Place { permission: number, list: "ip_ranges", index };
            let peer = self.range(place, "cidr_ip", range.cidr.as_deref(), Peer::Ipv4);
            self.rule(place, traffic, peer, range.description.as_deref(), true);
        }
        for (index, range) in permission.ipv6_ranges.iter().enumerate() {
            let place = Place { permission: number, list: "ipv6_ranges", index };
            let peer = self.range(place, "cidr_ipv6", range.cidr.as_deref(), Peer::Ipv6);
            self.rule(place, traffic, peer, range.description.as_deref(), true);
        }
        for (index, list) in permission.prefix_list_ids.iter().enumerate() {
            let place = Place { permission: number, list: "prefix_list_ids", index };
            let peer = self.prefix_list(place, given(list.prefix_list_id.as_deref()));
            self.rule(place, traffic, peer, list.description.as_deref(), false);
        }
        for (index, pair) in permission.user_id_group_pairs.iter().enumerate() {
            let place = Place { permission: number, list: "user_id_group_pairs", index };
            let peer = self.group_pair(place, pair);
            self.rule(place, traffic, peer, pair.description.as_deref(), false);
        }
    }

    fn traffic(&mut self, number: usize, permission: &IpPermission) -> Option<Traffic> {
        let Some(text) = permission.ip_protocol.as_deref() else {
            self.refuse(
                format!("{}[{number}].ip_protocol", self.field),
                INVALID_VALUE,
                "Invalid value 'null' for protocol. VPC security group rules must specify \
                 protocols explicitly.",
            );
            return None;
        };
        let Some(protocol) = Protocol::parse(text) else {
            let message =
                format!("Invalid value '{}' for IP protocol. Unknown protocol.", excerpt(text));
            self.refuse(format!("{}[{number}].ip_protocol", self.field), INVALID_VALUE, message);
            return None;
        };
        match Traffic::new(protocol, permission.from_port, permission.to_port) {
            Ok(traffic) => Some(traffic),
            Err(violations) => {
                for violation in violations {
                    let field = format!("{}[{number}].{}", self.field, violation.field);
                    self.refuse(field, violation.code, violation.message);
                }
                None
            }
        }
    }

    fn range<N: FromStr>(
        &mut self,
        place: Place,
        field: &str,
        cidr: Option<&str>,
        peer: fn(N) -> Peer,
    ) -> Option<Peer> {
        let Some(text) = given(cidr) else {
            self.refuse(self.path(place, field), INVALID_VALUE, NO_PEER);
            return None;
        };
        let parsed = parse_cidr(text).map(peer);
        if parsed.is_none() {
            let message = format!("CIDR block {} is malformed", excerpt(text));
            self.refuse(self.path(place, field), INVALID_VALUE, message);
        }
        parsed
    }

    fn prefix_list(&mut self, place: Place, id: Option<&str>) -> Option<Peer> {
        let Some(text) = id else {
            self.refuse(self.path(place, "prefix_list_id"), INVALID_VALUE, NO_PEER);
            return None;
        };
        let parsed = PrefixListId::parse(text).map(Peer::PrefixList);
        if parsed.is_none() {
            let message = format!("Invalid id: \"{}\" (expecting \"pl-...\")", excerpt(text));
            let field = self.path(place, "prefix_list_id");
            self.refuse(field, "InvalidPrefixListId.Malformed", message);
        }
        parsed
    }

    fn group_pair(&mut self, place: Place, pair: &UserIdGroupPair) -> Option<Peer> {
        let before = self.violations.len();
        let group_id = given(pair.group_id.as_deref());
        let group_name = given(pair.group_name.as_deref());
        let user_id = given(pair.user_id.as_deref());
        if let Some(text) = group_id.filter(|text| GroupId::parse(text).is_none()) {
            let field = self.path(place, "group_id");
            self.refuse(field, "InvalidGroupId.Malformed", malformed_group_id(text));
        }
        if group_id.is_none() && group_name.is_none() {
            self.refuse(self.path(place, "group_id"), INVALID_VALUE, NO_PEER);
        }
        if let Some(text) = user_id.filter(|text| AccountId::parse(text).is_none()) {
            let message =
                format!("Invalid value '{}' for userId. Expecting 12 digits.", excerpt(text));
            self.refuse(self.path(place, "user_id"), INVALID_VALUE, message);
        }
        let texts = [
            ("group_name", group_name),
            ("vpc_id", pair.vpc_id.as_deref()),
            ("vpc_peering_connection_id", pair.vpc_peering_connection_id.as_deref()),
            ("peering_status", pair.peering_status.as_deref()),
        ];
        for (name, text) in texts {
            if text.is_some_and(|text| text.len() > MAX_TEXT) {
                let message = format!("Longer than {MAX_TEXT} bytes.");
                self.refuse(self.path(place, name), INVALID_VALUE, message);
            }
        }
        (self.violations.len() == before).then(|| {
            Peer::Group(Box::new(GroupPeer {
                group_id: group_id.map(GroupId::new),
                group_name: group_name.map(str::to_owned),
                user_id: user_id.map(AccountId::new),
                vpc_id: given(pair.vpc_id.as_deref()).map(str::to_owned),
                vpc_peering_connection_id: given(pair.vpc_peering_connection_id.as_deref())
                    .map(str::to_owned),
                peering_status: given(pair.peering_status.as_deref()).map(str::to_owned),
            }))
        })
    }

    /// The last step for one peer: its description, and whether the same rule was there before.
    fn rule(
        &mut self,
        place: Place,
        traffic: Option<Traffic>,
        peer: Option<Peer>,
        description: Option<&str>,
        ampersand: bool,
    ) {
        let description = given(description);
        if description.is_some_and(|text| !is_valid_description(text, ampersand)) {
            let message = invalid_description(ampersand);
            self.refuse(self.path(place, "description"), INVALID_VALUE, message);
        }
        let (Some(traffic), Some(peer)) = (traffic, peer) else { return };
        let spec = RuleSpec { traffic, peer, description: description.map(str::to_owned) };
        match self.seen.get(&spec.key()) {
            Some(&first) => {
                let message = format!("{SAME_TWICE}: {} is the same rule.", self.place(first));
                self.refuse(self.place(place), INVALID_VALUE, message);
            }
            None => {
                self.seen.insert(spec.key(), place);
                self.specs.push(spec);
            }
        }
    }

    fn place(&self, Place { permission, list, index }: Place) -> String {
        format!("{}[{permission}].{list}[{index}]", self.field)
    }

    fn path(&self, place: Place, member: &str) -> String {
        format!("{}.{member}", self.place(place))
    }

    fn refuse(&mut self, field: String, code: &'static str, message: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation::new(field, code, message));
        }
    }

    fn finish(self) -> Result<Vec<RuleSpec>, Vec<Violation>> {
        if self.violations.is_empty() { Ok(self.specs) } else { Err(self.violations) }
    }
}

/// EC2's sentence for a description that a rule cannot have; see [`is_valid_description`].
pub fn invalid_description(ampersand: bool) -> String {
    let extra = if ampersand { "&" } else { "" };
    format!(
        "Invalid rule description. Valid descriptions are strings less than 256 characters from the \
         following set: a-zA-Z0-9. _-:/()#,@[]+={extra};{{}}!$*"
    )
}

/// EC2's sentence for a malformed group id.
pub fn malformed_group_id(text: &str) -> String {
    format!("Invalid id: \"{}\" (expecting \"sg-...\")", excerpt(text))
}

/// An empty string counts as absent: CLI skeletons hold them.
pub fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// As much of a caller's text as an error message repeats: control characters replaced, at most 64 characters.
pub fn excerpt(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(64)
        .map(|character| if character.is_control() { '\u{fffd}' } else { character })
        .collect();
    if text.chars().nth(64).is_some() {
        short.push_str("...");
    }
    short
}

/// Reads a range. One with leading zeros is malformed: `010.0.0.0/8` is decimal to some and octal to others, and whom a rule
/// lets in must not depend on who reads it.
pub fn parse_cidr<N: FromStr>(text: &str) -> Option<N> {
    let (address, length) = text.split_once('/')?;
    // std takes none in an address.
    address.parse::<IpAddr>().ok()?;
    let ambiguous = length.len() > 1 && length.starts_with('0');
    if ambiguous { None } else { text.parse().ok() }
}

/// The rules that a new group starts with (R43).
pub fn default_egress(ipv6: bool) -> Vec<RuleSpec> {
    let all = |peer| RuleSpec { traffic: Traffic::ALL, peer, description: None };
    let mut specs = vec![all(Peer::Ipv4(ipnet::Ipv4Net::default()))];
    if ipv6 {
        specs.push(all(Peer::Ipv6(ipnet::Ipv6Net::default())));
    }
    specs
}
