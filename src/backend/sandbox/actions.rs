//! The actions that change something, as EC2 does them (ec2-facts section 4). Each first finds everything that could
//! be wrong, in EC2's order (R4), and then applies: all or nothing. What is syntax was checked by the caller.

use std::collections::HashSet;

use super::{
    effects::Change,
    state::{Site, State, Vpc, arn, no_default_vpc, no_such_group, no_such_list, no_such_vpc},
};
use crate::{
    backend::{
        AuthorizeRules, Authorized, BackendError, CreateGroup, Created, DeleteGroup, Deleted,
        Group, OwnedRule, Refusal, RevokeRules, Revoked, RevokedRule, Selection,
    },
    random::Random,
    rule::{
        self, AccountId, Direction, GroupId, GroupPeer, Peer, Rule, RuleId, RuleSpec, Target,
        Traffic,
        matching::{match_ids, match_specs},
        permission::{SAME_TWICE, default_egress, excerpt},
        traffic::Ports,
    },
};

/// The most rules of a group, by direction and address family (ec2-facts section 6).
const MAX_RULES: usize = 60;

/// The most groups of an account in a Region.
const MAX_GROUPS: usize = 2500;

/// What an action answers, and what it changed, if anything.
type Outcome<T> = Result<(T, Option<Change>), BackendError>;

/// EC2's answer to a call that only asks whether it is permitted.
pub fn dry_run() -> Refusal {
    Refusal::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
}

/// EC2's name of a revoke.
pub fn revoke_action(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "RevokeSecurityGroupEgress",
        Direction::Ingress => "RevokeSecurityGroupIngress",
    }
}

/// EC2's name of an authorize.
pub fn authorize_action(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "AuthorizeSecurityGroupEgress",
        Direction::Ingress => "AuthorizeSecurityGroupIngress",
    }
}

/// Revokes rules by properties or by id.
pub fn revoke(state: &mut State, target: &Target, request: &RevokeRules) -> Outcome<Revoked> {
    if request.dry_run {
        return Err(dry_run().into());
    }
    match &request.selection {
        Selection::Specs(specs) => refuse_repeated_specs(specs)?,
        Selection::Ids(ids) => refuse_repeated_ids(ids)?,
    }
    let slot = state.find(target, &request.group)?;
    let (group, rules) = (slot.group.clone(), slot.rules.clone());
    let mut unknown = Vec::new();
    let resolved: Vec<RuleSpec>;
    let matched: Vec<&Rule> = match &request.selection {
        Selection::Specs(specs) => {
            resolved = resolve_names(state, target, &group, specs)?;
            refuse_repeated_specs(&resolved)?;
            let matching = match_specs(&resolved, request.direction, &rules);
            if !matching.unknown.is_empty() && !state.in_default_vpc(&group) {
                // Peers are looked up before rules (R4). What a rule refers to need not be there any more (R27).
                let mut peers = matching.unknown.iter().map(|spec| &spec.peer);
                let absent = peers.find_map(|peer| absent_peer(state, target, &group, peer));
                return Err(absent.unwrap_or_else(no_such_permission).into());
            }
            // As they were asked: a name stays a name. What is unknown comes in the order of the request.
            let mut missed = matching.unknown.iter().copied().peekable();
            let asked = resolved.iter().zip(specs).filter_map(|(resolved, asked)| {
                missed.next_if(|miss| std::ptr::eq(*miss, resolved)).map(|_| asked)
            });
            unknown = rule::group(asked);
            matching.matched
        }
        Selection::Ids(ids) => {
            let matching = match_ids(ids, request.direction, &rules);
            if let Some(id) = matching.unknown.first() {
                return Err(no_such_rule(id).into());
            }
            matching.matched
        }
    };
    let removed: Vec<Rule> = matched.into_iter().cloned().collect();
    if !removed.is_empty() {
        let gone: HashSet<&RuleId> = removed.iter().map(|rule| &rule.id).collect();
        let kept = rules.iter().filter(|rule| !gone.contains(&rule.id)).cloned().collect();
        state.set_rules(target, &group.id, kept, (&removed, &[]));
    }
    let revoked = Revoked {
        return_value: Some(true),
        unknown,
        revoked: removed.iter().map(|rule| RevokedRule::new(&group.id, rule)).collect(),
        request_id: None,
    };
    let change =
        (!removed.is_empty()).then(|| change(revoke_action(request.direction), &group, removed));
    Ok((revoked, change))
}

/// Authorizes rules.
pub fn authorize(
    state: &mut State,
    target: &Target,
    request: &AuthorizeRules,
    random: &dyn Random,
) -> Outcome<Authorized> {
    if request.dry_run {
        return Err(dry_run().into());
    }
    refuse_repeated_specs(&request.specs)?;
    let slot = state.find(target, &request.group)?;
    let (group, rules) = (slot.group.clone(), slot.rules.clone());
    let mut specs = resolve_names(state, target, &group, &request.specs)?;
    for spec in &mut specs {
        // An IPv6 range is taken whether or not the VPC has IPv6: R40 is about revoking only.
        spec.peer = stored_peer(state, target, &group, &spec.peer)?;
    }
    refuse_repeated_specs(&specs)?;
    for spec in &specs {
        let known = RuleSpec { description: None, ..spec.clone() };
        let exists = rules.iter().any(|rule| {
            rule.direction == request.direction && rule::matching::same_rule(&known, rule)
        });
        if exists {
            return Err(duplicate(spec).into());
        }
    }
    let has = || peers_of(&rules, request.direction);
    refuse_too_many(state, has(), has().chain(specs.iter().map(|spec| &spec.peer)))?;

    let mut all: Vec<Rule> = rules.to_vec();
    for spec in specs {
        let rule = Rule {
            id: state.new_rule_id(random, |id| all.iter().all(|rule| rule.id != *id)),
            direction: request.direction,
            traffic: spec.traffic,
            peer: spec.peer,
            description: spec.description.map(String::into_boxed_str),
            tags: (!request.tags.is_empty()).then(|| Box::new(request.tags.clone())),
        };
        all.push(rule);
    }
    let added = all.get(rules.len()..).unwrap_or_default().to_vec();
    if !added.is_empty() {
        state.set_rules(target, &group.id, all, (&[], &added));
    }
    let authorized = Authorized {
        return_value: Some(true),
        rules: added.iter().map(|rule| owned_rule(target, &group, rule)).collect(),
        request_id: None,
    };
    let change =
        (!added.is_empty()).then(|| change(authorize_action(request.direction), &group, added));
    Ok((authorized, change))
}

/// Creates a group.
pub fn create_group(
    state: &mut State,
    target: &Target,
    request: &CreateGroup,
    random: &dyn Random,
) -> Outcome<Created> {
    let name = request.name.trim_end_matches(' ');
    if name.to_lowercase().starts_with("sg-") {
        let message = format!(
            "Invalid value '{name}' for groupName. Group names may not be in the format sg-*."
        );
        return Err(Refusal::new("InvalidParameterValue", message).into());
    }
    if name.eq_ignore_ascii_case("default") {
        let message = format!("Cannot use reserved security group name: {name}");
        return Err(Refusal::new("InvalidGroup.Reserved", message).into());
    }
    if request.dry_run {
        return Err(dry_run().into());
    }
    let site = state.site(target)?;
    let vpc_id = match &request.vpc_id {
        Some(id) => id,
        None => site.default_vpc().ok_or_else(no_default_vpc)?,
    };
    let vpc = state.visible_vpc(target, vpc_id).ok_or_else(|| no_such_vpc(vpc_id))?.clone();
    if site.by_name_in(&vpc.id, name).is_some() {
        let message = format!("The security group '{name}' already exists for VPC '{}'", vpc.id);
        return Err(Refusal::new("InvalidGroup.Duplicate", message).into());
    }
    if site.len() >= MAX_GROUPS {
        return Err(Refusal::new(
            "SecurityGroupLimitExceeded",
            "The maximum number of security groups has been reached.",
        )
        .into());
    }
    let id = state.new_group_id(random);
    let group = Group {
        arn: Some(arn(&target.region, target.account.as_str(), "security-group", id.as_str())),
        id: id.clone(),
        name: name.to_owned(),
        description: request.description.clone(),
        vpc_id: Some(vpc.id.clone()),
        owner_id: target.account.clone(),
        tags: request.tags.clone(),
    };
    let rules = starting_egress(state, vpc.has_ipv6(), random);
    let created = Created {
        group_id: Some(id.to_string()),
        tags: group.tags.clone(),
        arn: group.arn.clone(),
        request_id: None,
    };
    let change = change("CreateSecurityGroup", &group, rules.clone());
    state.insert_group(target, group, rules, true);
    Ok((created, Some(change)))
}

/// Deletes a group.
pub fn delete_group(state: &mut State, target: &Target, request: &DeleteGroup) -> Outcome<Deleted> {
    if request.dry_run {
        return Err(dry_run().into());
    }
    let group = state.find(target, &request.group)?.group.clone();
    if group.name == "default" {
        let message = format!(
            "the specified group: \"{}\" name: \"default\" cannot be deleted by a user",
            group.id
        );
        return Err(Refusal::new("CannotDelete", message).into());
    }
    let in_use = state.sites().values().flat_map(Site::groups).any(|slot| {
        slot.group.vpc_id == group.vpc_id
            && slot.group.id != group.id
            && slot.rules.iter().any(|rule| refers_to(&rule.peer, &group.id))
    });
    if in_use {
        let message = format!("resource {} has a dependent object", group.id);
        return Err(Refusal::new("DependencyViolation", message).into());
    }
    let removed = state.remove_group(target, &group.id, true);
    forget_references(state, &group.id);
    let deleted = Deleted {
        return_value: Some(true),
        group_id: Some(group.id.to_string()),
        request_id: None,
    };
    let rules = removed.map(|slot| slot.rules.to_vec()).unwrap_or_default();
    Ok((deleted, Some(change("DeleteSecurityGroup", &group, rules))))
}

/// References to a deleted group from peered VPCs become stale: its owner, VPC and name are not known any more
/// (R27, R28).
pub fn forget_references(state: &mut State, deleted: &GroupId) {
    let stale = state.edits(|_, _, rule| {
        let Peer::Group(peer) = &rule.peer else { return None };
        refers_to(&rule.peer, deleted).then(|| {
            let peer =
                GroupPeer { user_id: None, vpc_id: None, group_name: None, ..(**peer).clone() };
            Peer::Group(Box::new(peer))
        })
    });
    state.apply(stale);
}

/// The group `default` that a new VPC starts with (R45), and its rules.
pub fn default_group(state: &State, vpc: &Vpc, random: &dyn Random) -> (Group, Vec<Rule>) {
    let id = state.new_group_id(random);
    let (region, account) = (&vpc.home.region, &vpc.home.account);
    let group = Group {
        arn: Some(arn(region, account.as_str(), "security-group", id.as_str())),
        id: id.clone(),
        name: "default".to_owned(),
        description: "default VPC security group".to_owned(),
        vpc_id: Some(vpc.id.clone()),
        owner_id: account.clone(),
        tags: Vec::new(),
    };
    let mut rules = starting_egress(state, vpc.has_ipv6(), random);
    let own = state.new_rule_id(random, |id| rules.iter().all(|rule| rule.id != *id));
    rules.push(plain_rule(own, Direction::Ingress, Peer::group(id, Some(account.clone()))));
    (group, rules)
}

/// A rule as a backend shows it, with the group that has it.
pub fn owned_rule(target: &Target, group: &Group, rule: &Rule) -> OwnedRule {
    OwnedRule {
        group_id: group.id.clone(),
        group_owner_id: group.owner_id.clone(),
        arn: Some(rule_arn(target, &group.owner_id, rule)),
        rule: rule.clone(),
    }
}

/// A rule's ARN.
pub fn rule_arn(target: &Target, owner: &AccountId, rule: &Rule) -> String {
    arn(&target.region, owner.as_str(), "security-group-rule", rule.id.as_str())
}

/// The egress rules of a new group (R43).
fn starting_egress(state: &State, ipv6: bool, random: &dyn Random) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for spec in default_egress(ipv6) {
        let id = state.new_rule_id(random, |id| rules.iter().all(|rule| rule.id != *id));
        rules.push(plain_rule(id, Direction::Egress, spec.peer));
    }
    rules
}

/// A rule for all traffic, without description and tags.
fn plain_rule(id: RuleId, direction: Direction, peer: Peer) -> Rule {
    Rule { id, direction, traffic: Traffic::ALL, peer, description: None, tags: None }
}

/// EC2's error for a rule id that does not exist.
pub fn no_such_rule(id: &RuleId) -> Refusal {
    let message = format!("The security group rule ID '{}' does not exist", excerpt(id.as_str()));
    Refusal::new("InvalidSecurityGroupRuleId.NotFound", message)
}

/// EC2's error for properties that no rule has.
pub fn no_such_permission() -> Refusal {
    let message = "The specified rule does not exist in this security group.";
    Refusal::new("InvalidPermission.NotFound", message)
}

/// What an action did to a group.
pub fn change(action: &'static str, group: &Group, rules: Vec<Rule>) -> Change {
    Change { action, group_id: group.id.clone(), owner_id: group.owner_id.clone(), rules }
}

fn refers_to(peer: &Peer, group: &GroupId) -> bool {
    matches!(peer, Peer::Group(peer) if peer.group_id.as_ref() == Some(group))
}

/// The same rule twice in one call (R30).
pub fn refuse_repeated_specs(specs: &[RuleSpec]) -> Result<(), Refusal> {
    let mut seen = HashSet::with_capacity(specs.len());
    if specs.iter().all(|spec| seen.insert(spec.key())) {
        return Ok(());
    }
    Err(Refusal::new("InvalidParameterValue", SAME_TWICE))
}

/// The same rule id twice in one call (R32).
pub fn refuse_repeated_ids<'a>(ids: impl IntoIterator<Item = &'a RuleId>) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    match ids.into_iter().find(|id| !seen.insert(*id)) {
        None => Ok(()),
        Some(id) => Err(Refusal::new("InvalidParameterValue", rule::change::repeated_rule_id(id))),
    }
}

/// Group peers by name as group peers by id. Only in the default VPC a rule may name a group: elsewhere even a name that the
/// default VPC has is refused (ec2-facts section 2).
pub fn resolve_names(
    state: &State,
    target: &Target,
    group: &Group,
    specs: &[RuleSpec],
) -> Result<Vec<RuleSpec>, BackendError> {
    let site = state.site(target)?;
    let takes_names = group.vpc_id.as_ref() == site.default_vpc();
    let mut resolved = specs.to_vec();
    for spec in &mut resolved {
        let Peer::Group(peer) = &mut spec.peer else { continue };
        if peer.group_id.is_none() {
            let name = peer.group_name.take().unwrap_or_default();
            match site.by_name(&name) {
                Some(id) if takes_names => peer.group_id = Some(id.clone()),
                Some(_) => return Err(id_is_needed(&name).into()),
                None => return Err(site.no_such_name(&name).into()),
            }
        }
    }
    Ok(resolved)
}

/// EC2's error for a name in a rule outside the default VPC, which has such a group: to say that it does not exist there
/// would be wrong.
fn id_is_needed(name: &str) -> Refusal {
    let name = excerpt(name);
    let message = format!(
        "Invalid value '{name}' for groupName. You may not reference Amazon VPC security groups by \
         name. Please use the corresponding id for this operation."
    );
    Refusal::new("InvalidParameterValue", message)
}

/// EC2's error for a peer that is not there. One that is said to be another account's cannot be looked up, and one that is out
/// of reach is there (ec2-facts section 2). As in authorize, another account's is none to who does not name its owner.
fn absent_peer(state: &State, target: &Target, group: &Group, peer: &Peer) -> Option<Refusal> {
    match peer {
        Peer::Ipv4(_) | Peer::Ipv6(_) => None,
        Peer::PrefixList(id) => state.prefix_list(target, id).is_none().then(|| no_such_list(id)),
        Peer::Group(asked) => {
            let id = asked.group_id.as_ref()?;
            let own = |owner: &AccountId| *owner == group.owner_id;
            let there = state.find_anywhere(id).is_some_and(|(home, slot)| {
                home.region == target.region && own(&slot.group.owner_id)
            });
            let looked_up = asked.user_id.as_ref().is_none_or(own);
            (looked_up && !there).then(|| no_such_group(id))
        }
    }
}

/// The peer as EC2 stores it, if it exists and may be referred to from `group`.
pub fn stored_peer(
    state: &State,
    target: &Target,
    group: &Group,
    peer: &Peer,
) -> Result<Peer, Refusal> {
    match peer {
        Peer::Ipv4(_) | Peer::Ipv6(_) => Ok(peer.clone().canonical()),
        Peer::PrefixList(id) => match state.prefix_list(target, id) {
            Some(_) => Ok(peer.clone()),
            None => Err(no_such_list(id)),
        },
        Peer::Group(asked) => {
            stored_group_peer(state, target, group, asked).map(|peer| Peer::Group(Box::new(peer)))
        }
    }
}

fn stored_group_peer(
    state: &State,
    target: &Target,
    group: &Group,
    asked: &GroupPeer,
) -> Result<GroupPeer, Refusal> {
    let id = asked.group_id.clone().unwrap_or_else(|| GroupId::new(""));
    // Another account's group exists only for who names its owner; a group of another Region never does.
    let owner: &AccountId = asked.user_id.as_ref().unwrap_or(&group.owner_id);
    let other = state
        .find_anywhere(&id)
        .filter(|(home, slot)| home.region == target.region && slot.group.owner_id == *owner)
        .map(|(_, slot)| slot.group.clone())
        .ok_or_else(|| no_such_group(&id))?;
    let same_vpc = other.vpc_id == group.vpc_id;
    let reachable = same_vpc
        || match (&other.vpc_id, &group.vpc_id) {
            (Some(theirs), Some(ours)) => state.peered(theirs, ours),
            _ => false,
        };
    if !reachable {
        return Err(Refusal::new(
            "InvalidGroup.NotFound",
            "You have specified two resources that belong to different networks.",
        ));
    }
    Ok(GroupPeer {
        group_id: Some(id),
        group_name: None,
        user_id: Some(other.owner_id.clone()),
        vpc_id: other.vpc_id.as_ref().filter(|_| !same_vpc).map(ToString::to_string),
        vpc_peering_connection_id: asked.vpc_peering_connection_id.clone().filter(|_| !same_vpc),
        peering_status: (!same_vpc).then(|| "active".to_owned()),
    })
}

/// The rule exists already (R31).
pub fn duplicate(spec: &RuleSpec) -> Refusal {
    let (from, to) = (spec.traffic.from_port(), spec.traffic.to_port());
    let or_all = |number: i32| if number == -1 { "ALL".to_owned() } else { number.to_string() };
    let protocol = match spec.traffic.protocol() {
        rule::Protocol::ALL => "ALL".to_owned(),
        rule::Protocol::ICMPV6 => "ICMPv6".to_owned(),
        other => other.to_string().to_uppercase(),
    };
    let ports = match spec.traffic.protocol().ports() {
        Ports::Range => format!(", from port: {from}, to port: {to}"),
        Ports::TypeAndCode => format!(", type: {}, code: {}", or_all(from), or_all(to)),
        Ports::None => String::new(),
    };
    let message = format!(
        "the specified rule \"peer: {}, {protocol}{ports}, ALLOW\" already exists",
        spec.peer.clone().canonical()
    );
    Refusal::new("InvalidPermission.Duplicate", message)
}

/// The peers of the rules of one direction.
pub fn peers_of(rules: &[Rule], direction: Direction) -> impl Iterator<Item = &Peer> {
    rules.iter().filter(move |rule| rule.direction == direction).map(|rule| &rule.peer)
}

/// Refuses rules past the limit. IPv4 and IPv6 rules are limited apart; groups and prefix lists count in both
/// (ec2-facts section 6). What was loaded may be over the limit already: only what grows is refused.
pub fn refuse_too_many<'a>(
    state: &State,
    before: impl Iterator<Item = &'a Peer>,
    after: impl Iterator<Item = &'a Peer>,
) -> Result<(), Refusal> {
    let weigh = |peer: &Peer| match peer {
        Peer::Ipv4(_) => (1, 0),
        Peer::Ipv6(_) => (0, 1),
        Peer::Group(_) => (1, 1),
        Peer::PrefixList(id) => {
            // Whoever owns it and whoever sees it.
            let weight = state.lists().get(id).map_or(1, |list| list.weight());
            (weight, weight)
        }
    };
    let sum = |(ipv4, ipv6): (usize, usize), (v4, v6): (usize, usize)| (ipv4 + v4, ipv6 + v6);
    let before = before.map(weigh).fold((0, 0), sum);
    let after = after.map(weigh).fold((0, 0), sum);
    let over = |before: usize, after: usize| after > before && after > MAX_RULES;
    if over(before.0, after.0) || over(before.1, after.1) {
        return Err(Refusal::new(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        ));
    }
    Ok(())
}
