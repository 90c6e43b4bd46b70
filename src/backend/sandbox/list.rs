//! The describes: groups and rules in the order of their ids, filtered, page by page.
//!
//! The lock is held for one chunk of groups at a time, and filters work outside it. A page goes on after the id that
//! the last one ended with, so writes between pages repeat and lose nothing else.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Bound,
};

use super::{
    Sandbox, actions,
    filter::{GroupFilters, List, Paging, RuleFilters},
    state::View,
};
use crate::{
    backend::{BackendError, DescribeGroups, DescribeRules, GroupImage, OwnedRule, Page},
    rule::{GroupId, GroupRef, Rule, RuleId, Target},
};

/// How many groups a list takes at a time: how long a list may hold the lock.
pub const CHUNK: usize = 1000;

/// The groups that a list is about.
enum Source {
    All,
    These(BTreeSet<GroupId>),
}

// === impl Sandbox ===

impl Sandbox {
    /// The next groups of a list. Empty: there are no more.
    fn chunk(
        &self,
        target: &Target,
        source: &Source,
        from: Bound<&GroupId>,
        view: &View,
    ) -> Result<Vec<GroupImage>, BackendError> {
        let world = self.lock();
        match source {
            Source::All => world.state.groups_from(target, from, CHUNK, view),
            Source::These(ids) => {
                world.state.site(target)?;
                let images = ids.range((from, Bound::Unbounded)).filter_map(|id| {
                    let group = GroupRef::Id((*id).clone());
                    let (slot, rules) = world.state.find_as(target, &group, view).ok()?;
                    Some(world.state.image(slot, rules))
                });
                Ok(images.take(CHUNK).collect())
            }
        }
    }

    /// DescribeSecurityGroups.
    pub(super) fn list_groups(
        &self,
        target: &Target,
        request: &DescribeGroups,
        view: &View,
    ) -> Result<Page<GroupImage>, BackendError> {
        let filters = GroupFilters::parse(&request.filters)?;
        let ids = (!request.group_ids.is_empty()).then_some("groupIds");
        let paging =
            Paging::parse(List::Groups, request.max_results, request.next_token.as_deref(), ids)?;
        if request.dry_run {
            return Err(actions::dry_run().into());
        }
        let source = self.groups_asked_for(target, request, view)?;
        let source = source.or_else(|| filters.group_ids());
        let source = source.map_or(Source::All, |ids| Source::These(ids.into_iter().collect()));
        let name_of = |id: &GroupId| {
            let world = self.lock();
            world.state.find_anywhere(id).map(|(_, slot)| slot.group.name.clone())
        };
        fill(
            &paging,
            |after| {
                let after = after.map(GroupId::new);
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                self.chunk(target, &source, from, view)
            },
            |image| image.group.id.to_string(),
            |image| filters.pass(image, &name_of),
        )
    }

    /// The groups that a describe names by id or name, all of which must exist. None: it names none.
    fn groups_asked_for(
        &self,
        target: &Target,
        request: &DescribeGroups,
        view: &View,
    ) -> Result<Option<Vec<GroupId>>, BackendError> {
        if request.group_ids.is_empty() && request.group_names.is_empty() {
            return Ok(None);
        }
        let world = self.lock();
        let ids = request.group_ids.iter().cloned().map(GroupRef::Id);
        let names = request.group_names.iter().cloned().map(GroupRef::Name);
        ids.chain(names)
            .map(|group| {
                let (slot, _) = world.state.find_as(target, &group, view)?;
                Ok(slot.group.id.clone())
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// DescribeSecurityGroupRules.
    pub(super) fn list_rules(
        &self,
        target: &Target,
        request: &DescribeRules,
        view: &View,
    ) -> Result<Page<OwnedRule>, BackendError> {
        let filters = RuleFilters::parse(&request.filters)?;
        let ids = (!request.rule_ids.is_empty()).then_some("securityGroupRuleIds");
        let paging =
            Paging::parse(List::Rules, request.max_results, request.next_token.as_deref(), ids)?;
        if request.dry_run {
            return Err(actions::dry_run().into());
        }
        let source = self.groups_with_rules(target, request, &filters, view)?;
        let mut missing: HashSet<&RuleId> = request.rule_ids.iter().collect();
        let wanted = missing.clone();
        let after = paging.after.as_deref().and_then(|after| after.split_once(' '));
        let after = after.map(|(group, rule)| (GroupId::new(group), RuleId::new(rule)));
        let mut items: Vec<OwnedRule> = Vec::new();
        let mut last: Option<GroupId> = None;
        loop {
            let from = match (&last, &after) {
                (Some(last), _) => Bound::Excluded(last),
                // The last page may have ended within a group.
                (None, Some((group, _))) => Bound::Included(group),
                (None, None) => Bound::Unbounded,
            };
            let chunk = self.chunk(target, &source, from, view)?;
            let Some(end) = chunk.last() else { break };
            last = Some(end.group.id.clone());
            for image in chunk {
                let group = &image.group;
                let shown = |rule: &&Rule| {
                    let seen = after
                        .as_ref()
                        .is_some_and(|(of, last)| *of == group.id && rule.id <= *last);
                    !seen && (wanted.is_empty() || wanted.contains(&rule.id))
                };
                let mut rules: Vec<&Rule> = image.rules.iter().filter(shown).collect();
                rules.sort_unstable_by(|a, b| a.id.cmp(&b.id));
                for rule in rules {
                    missing.remove(&rule.id);
                    if filters.pass(&group.id, rule) {
                        items.push(actions::owned_rule(target, group, rule));
                    }
                }
                if items.len() > paging.size {
                    break;
                }
            }
            if items.len() > paging.size {
                break;
            }
        }
        if paging.after.is_none()
            && items.len() <= paging.size
            && let Some(id) = request.rule_ids.iter().find(|id| missing.contains(id))
        {
            return Err(actions::no_such_rule(id).into());
        }
        Ok(page(items, &paging, |owned| format!("{} {}", owned.group_id, owned.rule.id)))
    }

    /// The groups that can have the rules which a describe names, if it names them by id.
    fn groups_with_rules(
        &self,
        target: &Target,
        request: &DescribeRules,
        filters: &RuleFilters,
        view: &View,
    ) -> Result<Source, BackendError> {
        // A rule id that is asked for must exist, whether or not its group passes the filters.
        if request.rule_ids.is_empty()
            && let Some(ids) = filters.group_ids()
        {
            return Ok(Source::These(ids.into_iter().collect()));
        }
        let ids = if request.rule_ids.is_empty() {
            filters.rule_ids()
        } else {
            Some(request.rule_ids.clone())
        };
        // Rules that went are not in the index any more, but a stale read shows them.
        let Some(ids) = ids.filter(|_| *view == View::Current) else { return Ok(Source::All) };
        let world = self.lock();
        world.state.site(target)?;
        let groups = ids.iter().filter_map(|id| world.state.group_of_rule(id).cloned());
        Ok(Source::These(groups.collect()))
    }
}

/// A page of what passes, chunk by chunk. `chunk` gives the items after a key, in the order of their keys, and none at
/// the end.
pub fn fill<T>(
    paging: &Paging,
    chunk: impl Fn(Option<&str>) -> Result<Vec<T>, BackendError>,
    key: impl Fn(&T) -> String,
    pass: impl Fn(&T) -> bool,
) -> Result<Page<T>, BackendError> {
    let mut items = Vec::new();
    let mut after = paging.after.clone();
    while items.len() <= paging.size {
        let chunk = chunk(after.as_deref())?;
        let Some(last) = chunk.last() else { break };
        after = Some(key(last));
        items.extend(chunk.into_iter().filter(&pass));
    }
    Ok(page(items, paging, key))
}

/// The first page of the items, which are in order and perhaps more.
pub fn page<T>(mut items: Vec<T>, paging: &Paging, end: impl Fn(&T) -> String) -> Page<T> {
    let more = items.len() > paging.size;
    items.truncate(paging.size);
    let next_token = items.last().filter(|_| more).map(|last| paging.token(&end(last)));
    Page { items, next_token }
}
