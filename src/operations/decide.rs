//! What policies are asked, when, and with which facts. What is decided when: docs/access.md.
//!
//! A group that does not exist is decided, too, as one without name, VPC and tags: so a refusal does not tell a caller
//! what exists.

use std::collections::{HashMap, HashSet};

use super::{Command, Create, Work, pages};
use crate::{
    access::{Action, Caller, Circumstances, GroupFacts, Resource, RuleFacts},
    backend::{
        BackendError, CreateGroup, DescribeGroups, Filter, Group, GroupImage, OwnedRule, Selection,
    },
    error::{Error, Reason},
    ledger::{Plan, stored::StoredRule},
    rule::{
        Direction, GroupId, GroupRef, Rule, RuleId, RuleKey, RuleSpec, Tag, VpcId,
        matching::owner_fits,
    },
};

/// The most values of one filter: EC2's limit.
const MAX_FILTER_VALUES: usize = 200;

// === questions ===

impl Work<'_> {
    fn caller(&self) -> Caller<'_> {
        Caller {
            principal: &self.meta.principal,
            peer: &self.meta.peer,
            request_id: &self.meta.request_id,
        }
    }

    /// The early decision, before anything is read or waited for: may the caller work in the account and Region at all,
    /// and do there what is not about groups that must be read first?
    pub(super) fn check_early(&self, command: &Command) -> Result<(), Error> {
        self.check_target(Action::Access, false)?;
        match command {
            Command::DescribeGroups(request) => {
                self.check_target(Action::DescribeSecurityGroups, request.dry_run)
            }
            Command::DescribeRules(request) => {
                self.check_target(Action::DescribeSecurityGroupRules, request.dry_run)
            }
            Command::Create(Create(request)) => self.check_create(request),
            Command::Revoke(_) | Command::Authorize(_) | Command::Delete(_) => Ok(()),
        }
    }

    /// Whether the caller is incident response there, which has a lane of its own to EC2.
    pub(super) fn has_incident_lane(&self) -> bool {
        let resource = Resource::Target(&self.target);
        self.access.grants(self.caller(), Action::UseIncidentLane, resource)
    }

    /// May the caller do this in the account and Region?
    fn check_target(&self, action: Action, dry_run: bool) -> Result<(), Error> {
        let circumstances = Circumstances { dry_run, ..Circumstances::default() };
        let resource = Resource::Target(&self.target);
        self.access.check(self.caller(), action, resource, circumstances)
    }

    /// May the caller create this group?
    fn check_create(&self, request: &CreateGroup) -> Result<(), Error> {
        let group = GroupFacts {
            id: "",
            name: &request.name,
            vpc: request.vpc_id.as_ref().map_or("", VpcId::as_str),
            owner: self.target.account.as_str(),
            tags: &request.tags,
        };
        let circumstances = Circumstances { dry_run: request.dry_run, ..Circumstances::default() };
        let resource = Resource::Group(&self.target, group);
        self.access.check(self.caller(), Action::CreateSecurityGroup, resource, circumstances)
    }

    /// May the caller do this to each of the rules of the group? `image` is none if there is no such group.
    pub(super) fn check_rules(
        &self,
        action: Action,
        group: &GroupRef,
        image: Option<&GroupImage>,
        circumstances: Circumstances,
        rules: &[RuleFacts],
    ) -> Result<(), Error> {
        let facts = match image {
            Some(image) => facts(&image.group),
            None => self.absent(group),
        };
        let resource = Resource::Group(&self.target, facts);
        self.access.check_rules(self.caller(), action, resource, circumstances, rules)
    }

    /// May the caller do what is recorded? Decided on the group and the rules as the record has them.
    pub(super) fn check_plan(&self, plan: &Plan) -> Result<(), Error> {
        let group = plan.group();
        let tags: Vec<Tag> = group.tags.iter().map(Tag::from).collect();
        let facts = GroupFacts {
            id: &group.group_id,
            name: &group.group_name,
            vpc: group.vpc_id.as_deref().unwrap_or_default(),
            owner: &group.owner_id,
            tags: &tags,
        };
        let mut circumstances = Circumstances::default();
        let (action, rules) = match plan {
            Plan::Revoke {
                is_egress,
                rules,
                unmatched,
                unmatched_ids,
                removes_last_egress_rule,
                ..
            } => {
                circumstances.removes_last_egress_rule = *removes_last_egress_rule;
                let direction = if *is_egress { Direction::Egress } else { Direction::Ingress };
                let known = rules.iter().filter_map(StoredRule::to_rule);
                let unknown = unmatched.iter().filter_map(StoredRule::to_spec);
                let facts = known
                    .map(|rule| RuleFacts::of_rule(&rule))
                    .chain(unknown.map(|spec| RuleFacts::of_spec(direction, &spec)))
                    .chain(
                        unmatched_ids
                            .iter()
                            .map(|id| RuleFacts::unknown_id(direction, &RuleId::new(id))),
                    );
                let action = if *is_egress { Action::RevokeEgress } else { Action::RevokeIngress };
                (action, facts.collect())
            }
            Plan::Authorize { is_egress, rules, .. } => {
                let direction = if *is_egress { Direction::Egress } else { Direction::Ingress };
                let specs: Vec<RuleSpec> = rules.iter().filter_map(StoredRule::to_spec).collect();
                let action =
                    if *is_egress { Action::AuthorizeEgress } else { Action::AuthorizeIngress };
                (action, added(direction, &specs))
            }
            Plan::Create { .. } => (Action::CreateSecurityGroup, vec![RuleFacts::none()]),
            Plan::Delete { .. } => (Action::DeleteSecurityGroup, vec![RuleFacts::none()]),
        };
        let resource = Resource::Group(&self.target, facts);
        self.access.check_rules(self.caller(), action, resource, circumstances, &rules)
    }

    /// Whether the caller may list the rules of this group.
    pub(super) fn may_read_rules(&self, group: &Group) -> bool {
        self.readable(Action::DescribeSecurityGroupRules, &[facts(group)]) == [true]
    }

    fn readable(&self, action: Action, groups: &[GroupFacts<'_>]) -> Vec<bool> {
        if self.meta.by_record && self.access.enforces() {
            return vec![false; groups.len()];
        }
        self.access.readable(self.caller(), action, &self.target, groups)
    }

    fn absent<'a>(&'a self, group: &'a GroupRef) -> GroupFacts<'a> {
        let (id, name) = match group {
            GroupRef::Id(id) => (id.as_str(), ""),
            GroupRef::Name(name) => ("", name.as_str()),
        };
        GroupFacts { id, name, vpc: "", owner: self.target.account.as_str(), tags: &[] }
    }

    /// The groups that the caller may read by this action; the others are left out.
    pub(super) fn readable_groups(
        &self,
        action: Action,
        groups: Vec<GroupImage>,
    ) -> Vec<GroupImage> {
        let of_groups: Vec<_> = groups.iter().map(|image| facts(&image.group)).collect();
        let readable = self.readable(action, &of_groups);
        drop(of_groups);
        groups.into_iter().zip(readable).filter_map(|(group, may)| may.then_some(group)).collect()
    }

    /// As [`Self::readable_rules`], for explanations: without an answer they say less.
    pub(super) async fn readable_rules_or_none(&self, rules: Vec<OwnedRule>) -> Vec<OwnedRule> {
        if !self.access.decides() {
            return rules;
        }
        self.readable_rules(rules).await.unwrap_or_default()
    }

    /// The rules of groups that the caller may read the rules of; the others are left out, as are those of groups
    /// that are gone by now.
    pub(super) async fn readable_rules(
        &self,
        rules: Vec<OwnedRule>,
    ) -> Result<Vec<OwnedRule>, BackendError> {
        let distinct: HashSet<&GroupId> = rules.iter().map(|rule| &rule.group_id).collect();
        let mut ids: Vec<String> = distinct.into_iter().map(GroupId::to_string).collect();
        ids.sort();
        let mut readable = HashMap::new();
        for values in ids.chunks(MAX_FILTER_VALUES) {
            let filter = Filter { name: "group-id".to_owned(), values: values.to_vec() };
            let request = DescribeGroups { filters: vec![filter], ..DescribeGroups::default() };
            let groups = pages::everything(self, &request).await?;
            for image in self.readable_groups(Action::DescribeSecurityGroupRules, groups) {
                readable.insert(image.group.id.clone(), ());
            }
        }
        Ok(rules.into_iter().filter(|rule| readable.contains_key(&rule.group_id)).collect())
    }
}

/// A group's facts.
fn facts(group: &Group) -> GroupFacts<'_> {
    GroupFacts {
        id: group.id.as_str(),
        name: &group.name,
        vpc: group.vpc_id.as_ref().map_or("", VpcId::as_str),
        owner: group.owner_id.as_str(),
        tags: &group.tags,
    }
}

// === facts of rules ===

/// The rules that a revoke is about: as the group has them, or as they were asked for.
pub(super) fn selected(
    direction: Direction,
    image: Option<&GroupImage>,
    selection: &Selection,
) -> Vec<RuleFacts> {
    let rules = image.map_or(&[][..], |image| &image.rules);
    match selection {
        Selection::Specs(specs) => {
            let own = rules.iter().filter(|rule| rule.direction == direction);
            let known: HashMap<RuleKey, &Rule> = own.map(|rule| (rule.key(), rule)).collect();
            specs
                .iter()
                .map(|spec| match known.get(&spec.key()).filter(|rule| fits(spec, rule)) {
                    Some(rule) => RuleFacts::of_rule(rule),
                    None => RuleFacts::of_spec(direction, spec),
                })
                .collect()
        }
        Selection::Ids(ids) => {
            let known: HashMap<&RuleId, &Rule> =
                rules.iter().map(|rule| (&rule.id, rule)).collect();
            ids.iter()
                .map(|id| match known.get(id) {
                    Some(rule) => RuleFacts::of_rule(rule),
                    None => RuleFacts::unknown_id(direction, id),
                })
                .collect()
        }
    }
}

fn fits(spec: &RuleSpec, rule: &Rule) -> bool {
    owner_fits(&spec.peer, &rule.peer)
}

/// The rules that an authorize adds.
pub(super) fn added(direction: Direction, specs: &[RuleSpec]) -> Vec<RuleFacts> {
    specs.iter().map(|spec| RuleFacts::of_spec(direction, spec)).collect()
}

/// Whether the group has egress rules and `removed` are all of them.
pub(super) fn removes_last_egress(image: &GroupImage, removed: &[RuleId]) -> bool {
    let removed: HashSet<&RuleId> = removed.iter().collect();
    let mut egress =
        image.rules.iter().filter(|rule| rule.direction == Direction::Egress).peekable();
    egress.peek().is_some() && egress.all(|rule| removed.contains(&rule.id))
}

// === reading ===

/// What was found under a group's id or name.
pub(super) enum Found {
    /// The group.
    Group(GroupImage),
    /// Nothing: what EC2 says.
    Nothing(Error),
}

/// Reads a group for a decision. An error if that is not possible.
pub(super) async fn read(work: &Work<'_>, group: &GroupRef) -> Result<Found, Error> {
    match work.backend.image(&work.context, &work.target, group).await {
        Ok(image) => Ok(Found::Group(image)),
        Err(error) => {
            let error = Error::from_backend(error, &group.to_string());
            let nothing = error.reason == Reason::InvalidGroupNotFound;
            if nothing { Ok(Found::Nothing(error)) } else { Err(error) }
        }
    }
}

impl Found {
    /// The group, to decide on.
    pub(super) fn image(&self) -> Option<&GroupImage> {
        match self {
            Self::Group(image) => Some(image),
            Self::Nothing(_) => None,
        }
    }

    /// The group, once it was decided that the caller may know. A dry run goes to EC2 even without one: EC2 answers it
    /// before it looks.
    pub(super) fn found(self, dry_run: bool) -> Result<Option<GroupImage>, Error> {
        match self {
            Self::Group(image) => Ok(Some(image)),
            Self::Nothing(_) if dry_run => Ok(None),
            Self::Nothing(error) => Err(error),
        }
    }
}
