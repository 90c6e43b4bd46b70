//! ModifySecurityGroupRules and UpdateSecurityGroupRuleDescriptions: changing rules that stay (ec2-facts section 9).
//! Ids and tags stay, too (R10), and it is all or nothing.

use std::collections::{HashMap, HashSet};

use super::{Sandbox, actions, effects::Change, state::State};
use crate::{
    backend::{
        BackendError, CallContext, DescriptionUpdates, Group, Modified, ModifyRules, Refusal,
        UpdateDescriptions,
    },
    rule::{
        Direction, GroupRef, Peer, Rule, RuleChange, RuleId, RuleSpec, Target,
        is_valid_description,
        matching::{match_ids, owner_fits, same_rule},
        permission::{given, invalid_description},
    },
};

// === impl Sandbox ===

impl Sandbox {
    /// ModifySecurityGroupRules, of rules of both directions.
    pub async fn modify_rules(
        &self,
        call: &CallContext,
        target: &Target,
        request: &ModifyRules,
    ) -> Result<Modified, BackendError> {
        let group = GroupRef::Id(request.group.clone());
        let action = (MODIFY, request.dry_run);
        self.change(call, target, action, Some(&group), |state, _, request_id| {
            let change = modify(state, target, &group, request)?;
            Ok((modified(request_id), change))
        })
        .await
    }

    /// UpdateSecurityGroupRuleDescriptionsEgress or UpdateSecurityGroupRuleDescriptionsIngress.
    pub async fn update_descriptions(
        &self,
        call: &CallContext,
        target: &Target,
        request: &UpdateDescriptions,
    ) -> Result<Modified, BackendError> {
        let action = (update_action(request.direction), request.dry_run);
        self.change(call, target, action, Some(&request.group), |state, _, request_id| {
            let change = describe(state, target, request)?;
            Ok((modified(request_id), change))
        })
        .await
    }
}

const MODIFY: &str = "ModifySecurityGroupRules";

fn update_action(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "UpdateSecurityGroupRuleDescriptionsEgress",
        Direction::Ingress => "UpdateSecurityGroupRuleDescriptionsIngress",
    }
}

fn modified(request_id: &str) -> Modified {
    Modified { return_value: Some(true), request_id: Some(request_id.to_owned()) }
}

fn modify(
    state: &mut State,
    target: &Target,
    group: &GroupRef,
    request: &ModifyRules,
) -> Result<Option<Change>, BackendError> {
    if request.dry_run {
        return Err(actions::dry_run().into());
    }
    actions::refuse_repeated_ids(request.changes.iter().map(|change| &change.id))?;
    let slot = state.find(target, group)?;
    let (group, before) = (slot.group.clone(), slot.rules.clone());
    let places: HashMap<&RuleId, usize> =
        before.iter().enumerate().map(|(place, rule)| (&rule.id, place)).collect();
    let mut after = before.to_vec();
    for change in &request.changes {
        let rule = places.get(&change.id).and_then(|place| after.get_mut(*place));
        let rule = rule.ok_or_else(|| actions::no_such_rule(&change.id))?;
        *rule = replaced(state, target, &group, rule, change)?;
    }
    refuse_twins(&after, &request.changes)?;
    for direction in [Direction::Egress, Direction::Ingress] {
        let has = actions::peers_of(&before, direction);
        let gets = actions::peers_of(&after, direction);
        actions::refuse_too_many(state, has, gets)?;
    }
    Ok(store(state, target, &group, MODIFY, (&before, after)))
}

/// The rule as the change makes it.
fn replaced(
    state: &State,
    target: &Target,
    group: &Group,
    rule: &Rule,
    change: &RuleChange,
) -> Result<Rule, BackendError> {
    let RuleSpec { traffic, peer, description } = &change.spec;
    let ((asked, _), (has, kind)) = (kind_of(peer), kind_of(&rule.peer));
    if asked != has {
        let message = format!(
            "Invalid rule type for security group rule '{}'. You may not specify {asked} for an \
             existing {kind} rule.",
            change.id
        );
        return Err(Refusal::new("InvalidParameterValue", message).into());
    }
    let peer = match peer {
        Peer::Group(_) if peer.same(&rule.peer) => rule.peer.clone(),
        _ => actions::stored_peer(state, target, group, &with_owner(state, group, peer))?,
    };
    Ok(Rule {
        traffic: *traffic,
        peer,
        description: description.as_deref().map(Box::from),
        ..rule.clone()
    })
}

/// What EC2's sentence calls the kind of a peer that is asked for, and of a rule that has it.
fn kind_of(peer: &Peer) -> (&'static str, &'static str) {
    match peer {
        Peer::Ipv4(_) => ("an IPv4 CIDR", "IPv4 CIDR"),
        Peer::Ipv6(_) => ("an IPv6 CIDR", "IPv6 CIDR"),
        Peer::PrefixList(_) => ("a prefix list", "prefix list"),
        Peer::Group(_) => ("a referenced group id", "referenced group id"),
    }
}

/// A group peer with its owner, which the request has no member for. Only an owner in a peered VPC is found.
fn with_owner(state: &State, group: &Group, peer: &Peer) -> Peer {
    let mut peer = peer.clone();
    if let Peer::Group(asked) = &mut peer
        && asked.user_id.is_none()
        && let Some((_, other)) = asked.group_id.as_ref().and_then(|id| state.find_anywhere(id))
        && let (Some(theirs), Some(ours)) = (&other.group.vpc_id, &group.vpc_id)
        && (theirs == ours || state.peered(theirs, ours))
    {
        asked.user_id = Some(other.group.owner_id.clone());
    }
    peer
}

/// Two rules that would be one, of which at least one was changed.
fn refuse_twins(rules: &[Rule], changes: &[RuleChange]) -> Result<(), Refusal> {
    let changed: HashSet<&RuleId> = changes.iter().map(|change| &change.id).collect();
    let (new, old): (Vec<&Rule>, Vec<&Rule>) =
        rules.iter().partition(|rule| changed.contains(&rule.id));
    let mut seen: HashSet<_> = old.into_iter().map(|rule| (rule.direction, rule.key())).collect();
    match new.into_iter().find(|rule| !seen.insert((rule.direction, rule.key()))) {
        Some(twin) => Err(actions::duplicate(&twin.spec())),
        None => Ok(()),
    }
}

fn describe(
    state: &mut State,
    target: &Target,
    request: &UpdateDescriptions,
) -> Result<Option<Change>, BackendError> {
    if request.dry_run {
        return Err(actions::dry_run().into());
    }
    match &request.updates {
        DescriptionUpdates::Specs(specs) => actions::refuse_repeated_specs(specs)?,
        DescriptionUpdates::Ids(updates) => {
            actions::refuse_repeated_ids(updates.iter().map(|(id, _)| id))?;
        }
    }
    let slot = state.find(target, &request.group)?;
    let (group, before) = (slot.group.clone(), slot.rules.clone());
    let described = match &request.updates {
        DescriptionUpdates::Specs(specs) => {
            let specs = actions::resolve_names(state, target, &group, specs)?;
            by_properties(request.direction, specs, &before)?
        }
        DescriptionUpdates::Ids(updates) => by_ids(request.direction, updates, &before)?,
    };
    let mut after = before.to_vec();
    for rule in &mut after {
        let Some(description) = described.get(&rule.id) else { continue };
        let text = given(description.as_deref());
        let ampersand = matches!(rule.peer, Peer::Ipv4(_) | Peer::Ipv6(_));
        if text.is_some_and(|text| !is_valid_description(text, ampersand)) {
            let message = invalid_description(ampersand);
            return Err(Refusal::new("InvalidParameterValue", message).into());
        }
        rule.description = text.map(Box::from);
    }
    let action = update_action(request.direction);
    Ok(store(state, target, &group, action, (&before, after)))
}

/// The rules that are named by properties, and their new descriptions. The description takes no part in the naming.
fn by_properties(
    direction: Direction,
    specs: Vec<RuleSpec>,
    rules: &[Rule],
) -> Result<HashMap<RuleId, Option<String>>, BackendError> {
    actions::refuse_repeated_specs(&specs)?;
    let named = specs.into_iter().map(|spec| {
        let rule = rules.iter().find(|rule| {
            rule.direction == direction
                && same_rule(&spec, rule)
                && owner_fits(&spec.peer, &rule.peer)
        });
        let rule = rule.ok_or_else(actions::no_such_permission)?;
        Ok((rule.id.clone(), spec.description))
    });
    named.collect()
}

fn by_ids(
    direction: Direction,
    updates: &[(RuleId, Option<String>)],
    rules: &[Rule],
) -> Result<HashMap<RuleId, Option<String>>, BackendError> {
    let ids: Vec<RuleId> = updates.iter().map(|(id, _)| id.clone()).collect();
    match match_ids(&ids, direction, rules).unknown.first() {
        Some(id) => Err(actions::no_such_rule(id).into()),
        None => Ok(updates.iter().cloned().collect()),
    }
}

/// Gives the group the rules as they are after the action. What it changed, if anything.
fn store(
    state: &mut State,
    target: &Target,
    group: &Group,
    action: &'static str,
    (before, after): (&[Rule], Vec<Rule>),
) -> Option<Change> {
    let differ = before.iter().zip(&after).filter(|(before, after)| before != after);
    let changed: Vec<Rule> = differ.map(|(_, after)| after.clone()).collect();
    if changed.is_empty() {
        return None;
    }
    // Ids stay, so the index does.
    state.set_rules(target, &group.id, after, (&[], &[]));
    Some(actions::change(action, group, changed))
}
