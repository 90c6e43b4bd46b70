//! Which rules a request names. Exact on protocol, both ports and the one peer: no overlap, no containment (R6).

use super::{Direction, Peer, Rule, RuleId, RuleSpec};

/// Whether `spec` names `rule`. A description or owner that is given must be the rule's own; one that is left out
/// never matters (R12, R13, R25).
pub fn matches(spec: &RuleSpec, rule: &Rule) -> bool {
    same_rule(spec, rule) && description_fits(spec, rule) && owner_fits(&spec.peer, &rule.peer)
}

/// Whether `spec` and `rule` have one identity, whatever their descriptions and owners.
pub fn same_rule(spec: &RuleSpec, rule: &Rule) -> bool {
    spec.traffic == rule.traffic && spec.peer.same(&rule.peer)
}

/// Whether the description, if one is given, is the rule's.
pub fn description_fits(spec: &RuleSpec, rule: &Rule) -> bool {
    match spec.description.as_deref() {
        None => true,
        given => given == rule.description.as_deref(),
    }
}

/// Whether the owner of a group peer, if one is given and one is known, is the rule's.
pub fn owner_fits(requested: &Peer, stored: &Peer) -> bool {
    match (requested, stored) {
        (Peer::Group(requested), Peer::Group(stored)) => {
            match (&requested.user_id, &stored.user_id) {
                (Some(requested), Some(stored)) => requested == stored,
                // The owner of a deleted group in another VPC is not known any more (R28).
                (None, _) | (_, None) => true,
            }
        }
        _ => true,
    }
}

/// A request held against the rules of a group.
#[derive(Debug)]
pub struct Matching<'a, T> {
    /// The rules that were named, in the order of the request.
    pub matched: Vec<&'a Rule>,
    /// What named none, in the order of the request.
    pub unknown: Vec<&'a T>,
}

/// Finds the rule that each spec names, among the rules of one direction.
pub fn match_specs<'a>(
    specs: &'a [RuleSpec],
    direction: Direction,
    rules: &'a [Rule],
) -> Matching<'a, RuleSpec> {
    find(specs, direction, rules, matches)
}

/// Finds the rule of each id, among the rules of one direction: an id of the other direction is not found (R11).
pub fn match_ids<'a>(
    ids: &'a [RuleId],
    direction: Direction,
    rules: &'a [Rule],
) -> Matching<'a, RuleId> {
    find(ids, direction, rules, |id, rule| *id == rule.id)
}

fn find<'a, T>(
    wanted: &'a [T],
    direction: Direction,
    rules: &'a [Rule],
    names: impl Fn(&T, &Rule) -> bool,
) -> Matching<'a, T> {
    let mut matching = Matching { matched: Vec::with_capacity(wanted.len()), unknown: Vec::new() };
    for one in wanted {
        match rules.iter().find(|rule| rule.direction == direction && names(one, rule)) {
            Some(rule) => matching.matched.push(rule),
            None => matching.unknown.push(one),
        }
    }
    matching
}
