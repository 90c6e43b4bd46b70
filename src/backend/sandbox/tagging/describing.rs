//! DescribeTags: the tags of all that a target has, page by page.
//!
//! The list goes through prefix lists, groups (each followed by its rules) and VPCs, in the order of their ids, and takes
//! the lock for one chunk of them at a time.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Bound::{self, Excluded, Included, Unbounded},
    sync::Arc,
};

use super::{Resource, Sandbox};
use crate::{
    backend::{
        BackendError, CallContext, Filter, GroupImage, Page, Refusal,
        sandbox::{
            actions,
            filter::{List, Paging, TagFilters},
            list::{CHUNK, fill, page},
            state::{PrefixList, State, View, Vpc},
        },
    },
    rule::{GroupId, GroupRef, PrefixListId, Rule, Tag, Target, VpcId},
};

/// The request of DescribeTags.
#[derive(Clone, Debug, Default)]
pub struct DescribeTags {
    /// All must pass.
    pub filters: Vec<Filter>,
    /// The page.
    pub next_token: Option<String>,
    /// The page's size.
    pub max_results: Option<i32>,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
}

/// A tag and what has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagDescription {
    /// The resource's id.
    pub resource_id: String,
    /// `security-group`, `security-group-rule`, `vpc` or `prefix-list`.
    pub resource_type: String,
    /// The tag's key.
    pub key: String,
    /// The tag's value, empty if it has none.
    pub value: String,
}

/// What has tags, as a list shows them. A group comes with its rules.
enum Holder {
    List(Arc<PrefixList>),
    Group(GroupImage),
    Vpc(Arc<Vpc>),
}

/// Where a tag stands in the list of all: what kind of holder, which, which rule of it if it is a rule's, and its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    section: u8,
    holder: String,
    rule: String,
    key: String,
}

/// The last kind of holder in the list.
const LAST_SECTION: u8 = 2;

// === impl Sandbox ===

impl Sandbox {
    /// DescribeTags.
    pub async fn describe_tags(
        &self,
        call: &CallContext,
        target: &Target,
        request: &DescribeTags,
    ) -> Result<Page<TagDescription>, BackendError> {
        self.read(call, target, "DescribeTags", || self.list_tags(target, request)).await
    }

    fn list_tags(
        &self,
        target: &Target,
        request: &DescribeTags,
    ) -> Result<Page<TagDescription>, BackendError> {
        let filters = TagFilters::parse(&request.filters)?;
        let token = request.next_token.as_deref();
        let paging = Paging::parse(List::Tags, request.max_results, token, None)?;
        let after = paging.after.as_deref().map(Place::parse).transpose()?;
        if request.dry_run {
            return Err(actions::dry_run().into());
        }
        let key = |(place, _): &(Place, TagDescription)| place.to_string();
        let pass = |(_, tag): &(Place, TagDescription)| filters.pass(tag);
        let listed = match filters.resource_ids() {
            Some(ids) => {
                let mut tags = self.tags_of(target, &ids)?;
                tags.retain(|tag| after.as_ref().is_none_or(|after| tag.0 > *after) && pass(tag));
                page(tags, &paging, key)
            }
            None => fill(&paging, |after| self.tags_after(target, after), key, pass)?,
        };
        let items = listed.items.into_iter().map(|(_, tag)| tag).collect();
        Ok(Page { items, next_token: listed.next_token })
    }

    /// The tags of some resources, in the order of the list. One that does not exist has none.
    fn tags_of(
        &self,
        target: &Target,
        ids: &[String],
    ) -> Result<Vec<(Place, TagDescription)>, BackendError> {
        let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        let holders: Vec<Holder> = {
            let world = self.lock();
            let state = &world.state;
            state.site(target)?;
            let mut groups = BTreeSet::new();
            let mut others = Vec::new();
            for resource in ids.iter().filter_map(|id| Resource::parse(id).ok()) {
                match resource {
                    Resource::Group(id) => drop(groups.insert(id)),
                    Resource::Rule(id) => groups.extend(state.group_of_rule(&id).cloned()),
                    Resource::Vpc(id) => {
                        others.extend(own_vpc(state, target, &id).cloned().map(Holder::Vpc));
                    }
                    Resource::List(id) => {
                        others.extend(own_list(state, target, &id).cloned().map(Holder::List));
                    }
                }
            }
            let images = groups.into_iter().filter_map(|id| {
                let slot = state.find(target, &GroupRef::Id(id)).ok()?;
                Some(Holder::Group(state.image(slot, &slot.rules)))
            });
            images.chain(others).collect()
        };
        let mut tags: Vec<(Place, TagDescription)> = holders
            .iter()
            .flat_map(Holder::tags)
            .filter(|(_, tag)| ids.contains(tag.resource_id.as_str()))
            .collect();
        tags.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(tags)
    }

    /// The next tags of the list of all. Empty: there are no more.
    fn tags_after(
        &self,
        target: &Target,
        after: Option<&str>,
    ) -> Result<Vec<(Place, TagDescription)>, BackendError> {
        let after = after.map(Place::parse).transpose()?;
        let mut section = after.as_ref().map_or(0, |after| after.section);
        // The last page may have ended within a holder.
        let mut from = after.as_ref().map_or(Unbounded, |after| Included(after.holder.clone()));
        loop {
            let holders = self.holders(target, section, from.as_ref().map(String::as_str))?;
            let Some(last) = holders.last() else {
                if section == LAST_SECTION {
                    return Ok(Vec::new());
                }
                section += 1;
                from = Unbounded;
                continue;
            };
            from = Excluded(last.id().to_owned());
            let tags = holders.iter().flat_map(Holder::tags);
            let tags: Vec<_> = tags
                .filter(|(place, _)| after.as_ref().is_none_or(|after| place > after))
                .collect();
            if !tags.is_empty() {
                return Ok(tags);
            }
        }
    }

    /// The next holders of one kind. Empty: there are no more.
    fn holders(
        &self,
        target: &Target,
        section: u8,
        from: Bound<&str>,
    ) -> Result<Vec<Holder>, BackendError> {
        let world = self.lock();
        let state = &world.state;
        state.site(target)?;
        Ok(match section {
            0 => {
                let lists = state.lists().range((from.map(PrefixListId::new), Unbounded));
                let seen = lists.filter_map(|(id, _)| own_list(state, target, id));
                seen.take(CHUNK).cloned().map(Holder::List).collect()
            }
            1 => {
                let from = from.map(GroupId::new);
                let images = state.groups_from(target, from.as_ref(), CHUNK, &View::Current)?;
                images.into_iter().map(Holder::Group).collect()
            }
            _ => {
                let vpcs = state.vpcs().range((from.map(VpcId::new), Unbounded));
                let seen = vpcs.filter_map(|(id, _)| own_vpc(state, target, id));
                seen.take(CHUNK).cloned().map(Holder::Vpc).collect()
            }
        })
    }
}

/// The tags of a VPC are its owner's alone, whoever works in it.
fn own_vpc<'a>(state: &'a State, target: &Target, id: &VpcId) -> Option<&'a Arc<Vpc>> {
    state.vpcs().get(id).filter(|vpc| vpc.home == *target)
}

/// Nor has who was given a list its tags.
fn own_list<'a>(
    state: &'a State,
    target: &Target,
    id: &PrefixListId,
) -> Option<&'a Arc<PrefixList>> {
    let list = state.prefix_list(target, id)?;
    list.owner.as_ref().is_none_or(|owner| *owner == target.account).then_some(list)
}

// === impl Holder ===

impl Holder {
    fn id(&self) -> &str {
        match self {
            Self::List(list) => list.id.as_str(),
            Self::Group(image) => image.group.id.as_str(),
            Self::Vpc(vpc) => vpc.id.as_str(),
        }
    }

    /// Its tags, in the order of the list.
    fn tags(&self) -> Vec<(Place, TagDescription)> {
        match self {
            Self::List(list) => self.place(0, ("", "prefix-list"), &list.tags),
            Self::Vpc(vpc) => self.place(2, ("", "vpc"), &vpc.tags),
            Self::Group(image) => {
                let mut tags = self.place(1, ("", "security-group"), &image.group.tags);
                let mut rules: Vec<&Rule> =
                    image.rules.iter().filter(|rule| rule.tags.is_some()).collect();
                rules.sort_unstable_by(|a, b| a.id.cmp(&b.id));
                for rule in rules {
                    let of = (rule.id.as_str(), "security-group-rule");
                    tags.extend(self.place(1, of, rule.tags()));
                }
                tags
            }
        }
    }

    fn place(
        &self,
        section: u8,
        (rule, kind): (&str, &str),
        tags: &[Tag],
    ) -> Vec<(Place, TagDescription)> {
        let holder = self.id();
        let resource = if rule.is_empty() { holder } else { rule };
        let placed = |tag: &Tag| {
            let place = Place {
                section,
                holder: holder.to_owned(),
                rule: rule.to_owned(),
                key: tag.key.clone(),
            };
            let tag = TagDescription {
                resource_id: resource.to_owned(),
                resource_type: kind.to_owned(),
                key: tag.key.clone(),
                value: tag.value.clone(),
            };
            (place, tag)
        };
        let mut placed: Vec<_> = tags.iter().map(placed).collect();
        placed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        placed
    }
}

// === impl Place ===

impl Place {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut parts = text.splitn(4, ' ');
        let section = parts.next().and_then(|section| section.parse().ok());
        let section = section.filter(|section| *section <= LAST_SECTION);
        match (section, parts.next(), parts.next(), parts.next()) {
            (Some(section), Some(holder), Some(rule), Some(key)) => Ok(Self {
                section,
                holder: holder.to_owned(),
                rule: rule.to_owned(),
                key: key.to_owned(),
            }),
            _ => Err(Paging::invalid_token()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.section, self.holder, self.rule, self.key)
    }
}
