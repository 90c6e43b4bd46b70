//! Tags of groups, rules, VPCs and prefix lists.
//!
//! A call names any of them and is all or nothing. EC2's own tags, `aws:...`, can be neither set nor deleted, and do not
//! count. What EC2 cannot tell from a typing error is InvalidID; an id of the right form gets the resource's own error.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    Sandbox, actions,
    around::{missing, not_owned},
    effects::Change,
    state::{PrefixList, State, Vpc, no_such_list, no_such_vpc},
};
use crate::{
    backend::{BackendError, CallContext, Refusal},
    rule::{
        GroupId, GroupRef, PrefixListId, Rule, RuleId, Tag, Target, VpcId, permission::excerpt,
    },
};

mod describing;

pub use describing::{DescribeTags, TagDescription};

/// The most tags of one resource, and resources of one call.
const MAX_TAGS: usize = 50;
const MAX_RESOURCES: usize = 1000;

/// The most characters of a key and a value.
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;

const INVALID_VALUE: &str = "InvalidParameterValue";

/// The request of CreateTags.
#[derive(Clone, Debug, Default)]
pub struct CreateTags {
    /// Ids of groups, rules, VPCs and prefix lists.
    pub resources: Vec<String>,
    /// Each of them gets these, in place of what it has under the same keys.
    pub tags: Vec<Tag>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// The request of DeleteTags.
#[derive(Clone, Debug, Default)]
pub struct DeleteTags {
    /// Ids of groups, rules, VPCs and prefix lists.
    pub resources: Vec<String>,
    /// Keys; with a value: only if the tag has it. None at all: every tag but EC2's own.
    pub tags: Vec<(String, Option<String>)>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// A resource by its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Resource {
    Group(GroupId),
    Rule(RuleId),
    Vpc(VpcId),
    List(PrefixListId),
}

/// The tags that a call gives to resources.
#[derive(Debug, Default)]
struct Edits {
    groups: BTreeMap<GroupId, OfGroup>,
    vpcs: Vec<Vpc>,
    lists: Vec<PrefixList>,
}

/// The new tags of a group, if it is named itself, and of its rules.
#[derive(Debug, Default)]
struct OfGroup {
    own: Option<Vec<Tag>>,
    rules: BTreeMap<RuleId, Vec<Tag>>,
}

// === impl Sandbox ===

impl Sandbox {
    /// CreateTags.
    pub async fn create_tags(
        &self,
        call: &CallContext,
        target: &Target,
        request: &CreateTags,
    ) -> Result<(), BackendError> {
        let action = "CreateTags";
        let resources = Resource::parse_all(&request.resources);
        let about = |state: &State| groups_of(state, resources.as_deref());
        self.change_all(call, target, (action, request.dry_run), about, |state, _, _| {
            let resources = resources.clone()?;
            if request.tags.is_empty() {
                return Err(missing("tagSet").into());
            }
            check_tags(&request.tags)?;
            if request.dry_run {
                return Err(actions::dry_run().into());
            }
            let edits = Edits::of(state, target, resources, |tags| with_tags(tags, &request.tags))?;
            Ok(((), edits.apply(state, target, action)))
        })
        .await
    }

    /// DeleteTags.
    pub async fn delete_tags(
        &self,
        call: &CallContext,
        target: &Target,
        request: &DeleteTags,
    ) -> Result<(), BackendError> {
        let action = "DeleteTags";
        let resources = Resource::parse_all(&request.resources);
        let about = |state: &State| groups_of(state, resources.as_deref());
        self.change_all(call, target, (action, request.dry_run), about, |state, _, _| {
            let resources = resources.clone()?;
            if request.tags.len() > MAX_RESOURCES {
                return Err(too_many("tags").into());
            }
            for (key, _) in &request.tags {
                check_key(key)?;
            }
            if request.dry_run {
                return Err(actions::dry_run().into());
            }
            let edits =
                Edits::of(state, target, resources, |tags| Ok(without_tags(tags, &request.tags)))?;
            Ok(((), edits.apply(state, target, action)))
        })
        .await
    }
}

/// The groups that a call about these resources is about.
fn groups_of(state: &State, resources: Result<&[Resource], &Refusal>) -> Vec<GroupId> {
    let groups = resources.unwrap_or_default().iter().filter_map(|resource| match resource {
        Resource::Group(id) => Some(id.clone()),
        Resource::Rule(id) => state.group_of_rule(id).cloned(),
        Resource::Vpc(_) | Resource::List(_) => None,
    });
    groups.collect()
}

/// Checks the tags of a new resource, or those that resources get.
pub fn check_tags(tags: &[Tag]) -> Result<(), Refusal> {
    if tags.len() > MAX_TAGS {
        return Err(limit_exceeded());
    }
    let mut seen = HashSet::with_capacity(tags.len());
    for tag in tags {
        check_key(&tag.key)?;
        if tag.value.chars().count() > MAX_VALUE {
            let message = format!("Tag value exceeds the maximum length of {MAX_VALUE} characters");
            return Err(Refusal::new(INVALID_VALUE, message));
        }
        if !seen.insert(&tag.key) {
            let message = format!("Duplicate tag key '{}' specified.", excerpt(&tag.key));
            return Err(Refusal::new(INVALID_VALUE, message));
        }
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if is_reserved(key) {
        let message = "Tag keys starting with 'aws:' are reserved for internal use";
        return Err(Refusal::new(INVALID_VALUE, message));
    }
    if key.is_empty() {
        return Err(Refusal::new(INVALID_VALUE, "Tag key cannot be empty."));
    }
    if key.chars().count() > MAX_KEY {
        let message = format!("Tag key exceeds the maximum length of {MAX_KEY} characters");
        return Err(Refusal::new(INVALID_VALUE, message));
    }
    Ok(())
}

fn is_reserved(key: &str) -> bool {
    key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"))
}

fn limit_exceeded() -> Refusal {
    let message = format!("The maximum number of {MAX_TAGS} tags of a resource has been reached.");
    Refusal::new("TagLimitExceeded", message)
}

fn too_many(what: &str) -> Refusal {
    let message = format!("At most {MAX_RESOURCES} {what} in one request.");
    Refusal::new("ResourceCountExceeded", message)
}

/// A resource's tags with others added. EC2's own do not count.
fn with_tags(tags: &[Tag], added: &[Tag]) -> Result<Vec<Tag>, Refusal> {
    let mut tags = tags.to_vec();
    for tag in added {
        match tags.iter_mut().find(|old| old.key == tag.key) {
            Some(old) => old.value.clone_from(&tag.value),
            None => tags.push(tag.clone()),
        }
    }
    if tags.iter().filter(|tag| !is_reserved(&tag.key)).count() > MAX_TAGS {
        return Err(limit_exceeded());
    }
    Ok(tags)
}

/// A resource's tags without those that are named.
fn without_tags(tags: &[Tag], named: &[(String, Option<String>)]) -> Vec<Tag> {
    let goes = |tag: &Tag| {
        if named.is_empty() {
            return !is_reserved(&tag.key);
        }
        named.iter().any(|(key, value)| {
            *key == tag.key && value.as_ref().is_none_or(|value| *value == tag.value)
        })
    };
    tags.iter().filter(|tag| !goes(tag)).cloned().collect()
}

// === impl Resource ===

impl Resource {
    fn parse(id: &str) -> Result<Self, Refusal> {
        let resource = match id.split_once('-').map(|(kind, _)| kind) {
            Some("sg") => GroupId::parse(id).map(Self::Group),
            Some("sgr") => RuleId::parse(id).map(Self::Rule),
            Some("vpc") => VpcId::parse(id).map(Self::Vpc),
            Some("pl") => PrefixListId::parse(id).map(Self::List),
            _ => None,
        };
        resource.ok_or_else(|| {
            Refusal::new("InvalidID", format!("The ID '{}' is not valid", excerpt(id)))
        })
    }

    /// What a call is about, each once.
    fn parse_all(ids: &[String]) -> Result<Vec<Self>, Refusal> {
        if ids.is_empty() {
            return Err(missing("resourceIdSet"));
        }
        if ids.len() > MAX_RESOURCES {
            return Err(too_many("resources"));
        }
        let resources: BTreeSet<Self> =
            ids.iter().map(|id| Self::parse(id)).collect::<Result<_, _>>()?;
        Ok(resources.into_iter().collect())
    }
}

// === impl Edits ===

impl Edits {
    /// Finds the resources and what becomes of their tags.
    fn of(
        state: &State,
        target: &Target,
        resources: Vec<Resource>,
        edit: impl Fn(&[Tag]) -> Result<Vec<Tag>, Refusal>,
    ) -> Result<Self, BackendError> {
        state.site(target)?;
        let mut edits = Self::default();
        for resource in resources {
            match resource {
                Resource::Group(id) => {
                    let slot = state.find(target, &GroupRef::Id(id.clone()))?;
                    let tags = edit(&slot.group.tags)?;
                    edits.groups.entry(id).or_default().own = Some(tags);
                }
                Resource::Rule(id) => {
                    let group = state.group_of_rule(&id).cloned();
                    let group = group.ok_or_else(|| actions::no_such_rule(&id))?;
                    // A group of another target is none of the caller's.
                    let slot = state.find(target, &GroupRef::Id(group.clone()));
                    let slot = slot.map_err(|_| actions::no_such_rule(&id))?;
                    let rule = slot.rules.iter().find(|rule| rule.id == id);
                    let tags = edit(rule.map_or(&[], Rule::tags))?;
                    edits.groups.entry(group).or_default().rules.insert(id, tags);
                }
                Resource::Vpc(id) => {
                    let vpc = state.visible_vpc(target, &id).ok_or_else(|| no_such_vpc(&id))?;
                    if vpc.home != *target {
                        return Err(not_owned().into());
                    }
                    edits.vpcs.push(Vpc { tags: edit(&vpc.tags)?, ..(**vpc).clone() });
                }
                Resource::List(id) => {
                    let list = state.prefix_list(target, &id).ok_or_else(|| no_such_list(&id))?;
                    if list.owner.as_ref() != Some(&target.account) {
                        return Err(not_owned().into());
                    }
                    edits.lists.push(PrefixList { tags: edit(&list.tags)?, ..(**list).clone() });
                }
            }
        }
        Ok(edits)
    }

    /// Gives the resources their tags. What changed of groups and rules, one change a group.
    fn apply(self, state: &mut State, target: &Target, action: &'static str) -> Vec<Change> {
        self.vpcs.into_iter().for_each(|vpc| state.put_vpc(vpc));
        self.lists.into_iter().for_each(|list| state.put_list(list));
        let mut changes = Vec::new();
        for (id, OfGroup { own, mut rules }) in self.groups {
            let Ok(slot) = state.find(target, &GroupRef::Id(id.clone())) else { continue };
            let group = slot.group.clone();
            let mut after = slot.rules.to_vec();
            let mut tagged = Vec::new();
            for rule in &mut after {
                let Some(tags) = rules.remove(&rule.id) else { continue };
                if tags != rule.tags() {
                    rule.tags = (!tags.is_empty()).then(|| Box::new(tags));
                    tagged.push(rule.clone());
                }
            }
            let own = own.filter(|tags| *tags != group.tags);
            if own.is_none() && tagged.is_empty() {
                continue;
            }
            if let Some(tags) = own {
                state.set_group_tags(target, &id, tags);
            }
            if !tagged.is_empty() {
                state.set_rules(target, &id, after, (&[], &[]));
            }
            changes.push(actions::change(action, &group, tagged));
        }
        changes
    }
}
