//! Why a permission or rule id matched nothing, and which rules come closest.

use super::{
    Direction, Peer, Rule, RuleId, RuleSpec,
    matching::{description_fits, matches, owner_fits, same_rule},
    permission::excerpt,
    traffic::Ports,
};

/// The most rules that an explanation shows.
pub const MAX_NEAREST: usize = 3;

/// Why nothing matched. The order is the documented one: where several fit, the first is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnknownReason {
    /// The rule was there when the group was read, and EC2 said no a moment later.
    ChangedConcurrently,
    /// An earlier operation removed it.
    AlreadyRevoked,
    /// A rule matches but for the description that was given.
    DescriptionDiffers,
    /// A rule refers to that group, owned by another account.
    PeerOwnerDiffers,
    /// The same rule exists in the other direction.
    ExistsInOtherDirection,
    /// A rule has that protocol and peer, with other ports.
    PortRangeDiffers,
    /// A rule has that protocol and peer, with another ICMP type or code.
    IcmpTypeOrCodeDiffers,
    /// A rule has that peer, with another protocol.
    ProtocolDiffers,
    /// A wider rule still allows that traffic.
    CoveredByWiderRule,
    /// The rule id belongs to another group.
    BelongsToAnotherGroup,
    /// No rule has that peer or id.
    NoSuchDestination,
}

/// Why one permission matched nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// The reason.
    pub reason: UnknownReason,
    /// At most [`MAX_NEAREST`] rules that come closest, the closest first.
    pub nearest: Vec<&'a Rule>,
    /// The reason in plain words.
    pub message: String,
}

/// Explains why `spec` named no rule of `direction`. `rules` are all the group's rules, of both directions, as they
/// were read last.
pub fn explain_spec<'a>(
    spec: &RuleSpec,
    direction: Direction,
    rules: &'a [Rule],
) -> Explanation<'a> {
    let mut found: Vec<(UnknownReason, u64, &Rule)> = rules
        .iter()
        .filter_map(|rule| {
            let reason = resemblance(spec, direction, rule)?;
            Some((reason, distance(spec, rule), rule))
        })
        .collect();
    // A stable sort: among equals the group's own order stays, so that the answer does not flicker.
    found.sort_by_key(|(reason, distance, _)| (*reason, *distance));
    let reason = found.first().map_or(UnknownReason::NoSuchDestination, |(reason, _, _)| *reason);
    let nearest: Vec<&Rule> =
        found.into_iter().map(|(_, _, rule)| rule).take(MAX_NEAREST).collect();
    let message = spec_message(reason, spec, direction, nearest.first().copied());
    Explanation { reason, nearest, message }
}

/// Explains why `id` named no rule of `direction`. `owner` is the group that has the rule, if some other one has.
pub fn explain_id<'a>(
    id: &RuleId,
    direction: Direction,
    rules: &'a [Rule],
    owner: Option<&str>,
) -> Explanation<'a> {
    if let Some(rule) = rules.iter().find(|rule| rule.id == *id) {
        let (reason, message) = if rule.direction == direction {
            let message = format!("{id} was there when the group was read; EC2 does not know it.");
            (UnknownReason::ChangedConcurrently, message)
        } else {
            let message = format!(
                "{id} is an {} rule of this group ({}), not an {} rule.",
                rule.direction.as_str(),
                describe(rule),
                direction.as_str()
            );
            (UnknownReason::ExistsInOtherDirection, message)
        };
        return Explanation { reason, nearest: vec![rule], message };
    }
    let (reason, message) = match owner {
        Some(owner) => (UnknownReason::BelongsToAnotherGroup, format!("{id} belongs to {owner}.")),
        None => (
            UnknownReason::NoSuchDestination,
            format!("This security group has no rule with the id {}.", excerpt(id.as_str())),
        ),
    };
    Explanation { reason, nearest: Vec::new(), message }
}

/// The reason for which `rule` is worth showing, if it is.
fn resemblance(spec: &RuleSpec, direction: Direction, rule: &Rule) -> Option<UnknownReason> {
    if rule.direction != direction {
        return matches(spec, rule).then_some(UnknownReason::ExistsInOtherDirection);
    }
    if matches(spec, rule) {
        return Some(UnknownReason::ChangedConcurrently);
    }
    if same_rule(spec, rule) {
        return Some(if owner_fits(&spec.peer, &rule.peer) {
            debug_assert!(!description_fits(spec, rule));
            UnknownReason::DescriptionDiffers
        } else {
            UnknownReason::PeerOwnerDiffers
        });
    }
    if spec.peer.same(&rule.peer) {
        return Some(match spec.traffic.protocol() == rule.traffic.protocol() {
            true if spec.traffic.protocol().ports() == Ports::TypeAndCode => {
                UnknownReason::IcmpTypeOrCodeDiffers
            }
            true => UnknownReason::PortRangeDiffers,
            false => UnknownReason::ProtocolDiffers,
        });
    }
    let covered = rule.traffic.covers(spec.traffic) && rule.peer.covers(&spec.peer);
    covered.then_some(UnknownReason::CoveredByWiderRule)
}

/// How far a rule is from what was asked, among rules with the same reason: ports off, then how much wider.
fn distance(spec: &RuleSpec, rule: &Rule) -> u64 {
    let ports = if spec.traffic.protocol() == rule.traffic.protocol() {
        u64::from(spec.traffic.from_port().abs_diff(rule.traffic.from_port()))
            + u64::from(spec.traffic.to_port().abs_diff(rule.traffic.to_port()))
    } else {
        1 << 18
    };
    let widening = match (&spec.peer, &rule.peer) {
        (Peer::Ipv4(asked), Peer::Ipv4(has)) => asked.prefix_len().abs_diff(has.prefix_len()),
        (Peer::Ipv6(asked), Peer::Ipv6(has)) => asked.prefix_len().abs_diff(has.prefix_len()),
        _ => 0,
    };
    u64::from(widening) << 20 | ports
}

/// A rule in a few words: `tcp 443-443 to 10.0.0.0/8`.
fn describe(rule: &Rule) -> String {
    format!("{} {} {}", rule.traffic, preposition(rule.direction), rule.peer)
}

fn preposition(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "to",
        Direction::Ingress => "from",
    }
}

fn spec_message(
    reason: UnknownReason,
    spec: &RuleSpec,
    direction: Direction,
    nearest: Option<&Rule>,
) -> String {
    let asked = format!("{} {} {}", spec.traffic, preposition(direction), spec.peer);
    let Some(rule) = nearest else {
        return format!(
            "No {} rule of this security group is {asked}, or near it.",
            direction.as_str()
        );
    };
    let id = &rule.id;
    let has = describe(rule);
    match reason {
        UnknownReason::DescriptionDiffers => format!(
            "{id} is {asked}, with {} instead of the given one.",
            match rule.description.as_deref() {
                Some(text) => format!("the description \"{text}\""),
                None => "no description".to_owned(),
            }
        ),
        UnknownReason::PeerOwnerDiffers => {
            format!(
                "{id} is {asked}, but that group belongs to another account than the given one."
            )
        }
        UnknownReason::ExistsInOtherDirection => format!(
            "{id} is the same rule as {}: {has}. No {} rule is {asked}.",
            direction.other().as_str(),
            direction.as_str()
        ),
        UnknownReason::PortRangeDiffers => {
            format!("{id} is {has}; asked was {asked}. Ports must be equal.")
        }
        UnknownReason::IcmpTypeOrCodeDiffers => {
            format!("{id} is {has}; asked was {asked}. Type and code must be equal.")
        }
        UnknownReason::ProtocolDiffers => {
            format!("{id} is {has}; asked was {asked}. The protocol must be equal.")
        }
        UnknownReason::CoveredByWiderRule => {
            format!("No rule is {asked}; {id}, {has}, is wider and still allows that traffic.")
        }
        UnknownReason::ChangedConcurrently => {
            format!("{id} was {asked} when the group was read; EC2 does not know it.")
        }
        UnknownReason::AlreadyRevoked
        | UnknownReason::BelongsToAnotherGroup
        | UnknownReason::NoSuchDestination => format!("No rule is {asked}."),
    }
}
