//! What the sandbox holds: VPCs, prefix lists, and for each account and Region its security groups.
//!
//! Groups and their rules are shared pointers. A read clones pointers, a write replaces the list of one group, so
//! neither depends on how much else there is. Nothing here checks what EC2 would check: `actions.rs` and `load.rs` do.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::index::{Ordinal, RuleIndex};
use crate::{
    backend::{BackendError, Group, GroupImage, Refusal},
    random::Random,
    rule::{
        AccountId, GroupId, GroupRef, Peer, PrefixListId, Region, Rule, RuleId, Tag, Target, VpcId,
        permission::excerpt,
    },
};

mod around;

pub use around::{Ipv6Block, PrefixList, Vpc};

/// How many deleted groups of a target are remembered, for stale reads.
const MAX_DELETED: usize = 1000;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct State {
    sites: BTreeMap<Target, Site>,
    vpcs: BTreeMap<VpcId, Arc<Vpc>>,
    lists: BTreeMap<PrefixListId, Arc<PrefixList>>,
    index: RuleIndex,
}

/// The security groups of one account in one Region.
#[derive(Clone, Debug, Default)]
pub struct Site {
    groups: BTreeMap<GroupId, Slot>,
    /// By VPC and lower-case name: names are unique in a VPC whatever their case.
    names: HashMap<VpcId, HashMap<String, GroupId>>,
    default_vpc: Option<VpcId>,
    deleted: BTreeMap<GroupId, Slot>,
    deletions: VecDeque<GroupId>,
}

/// A group and its rules.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The group.
    pub group: Arc<Group>,
    /// Its rules.
    pub rules: Arc<Vec<Rule>>,
    before: Before,
    ordinal: Ordinal,
}

/// What a stale read shows.
#[derive(Clone, Debug)]
enum Before {
    /// Nothing has changed since it was loaded.
    Same,
    /// The group was not there.
    Absent,
    /// It had these rules.
    Rules(Arc<Vec<Rule>>),
}

/// A rule's other peer.
#[derive(Debug)]
pub struct Edit {
    target: Target,
    group: GroupId,
    place: usize,
    peer: Peer,
}

/// Whether a read is answered from before a group's latest change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Current,
    /// As it was; `only` for that group, if there is one.
    Stale {
        /// The only group that is shown as it was.
        only: Option<GroupId>,
    },
}

// === impl State ===

impl State {
    /// The accounts and Regions.
    pub fn sites(&self) -> &BTreeMap<Target, Site> {
        &self.sites
    }

    /// The VPCs.
    pub fn vpcs(&self) -> &BTreeMap<VpcId, Arc<Vpc>> {
        &self.vpcs
    }

    /// The prefix lists.
    pub fn lists(&self) -> &BTreeMap<PrefixListId, Arc<PrefixList>> {
        &self.lists
    }

    /// The groups of a target.
    pub fn site(&self, target: &Target) -> Result<&Site, BackendError> {
        self.sites.get(target).ok_or_else(|| not_configured(target))
    }

    /// A group of any target.
    pub fn find_anywhere(&self, id: &GroupId) -> Option<(&Target, &Slot)> {
        self.sites.iter().find_map(|(target, site)| Some((target, site.groups.get(id)?)))
    }

    /// A group by id, or by name in the default VPC, or EC2's error.
    pub fn find(&self, target: &Target, group: &GroupRef) -> Result<&Slot, BackendError> {
        self.find_as(target, group, &View::Current).map(|(slot, _)| slot)
    }

    /// [`State::find`] as a read sees it, and the rules it sees.
    pub fn find_as(
        &self,
        target: &Target,
        group: &GroupRef,
        view: &View,
    ) -> Result<(&Slot, &Arc<Vec<Rule>>), BackendError> {
        let site = self.site(target)?;
        let id = match group {
            GroupRef::Id(id) => id,
            GroupRef::Name(name) => {
                // Without a default VPC a name cannot mean anything (ec2-facts section 8).
                if site.default_vpc.is_none() {
                    return Err(no_default_vpc().into());
                }
                site.by_name(name).ok_or_else(|| site.no_such_name(name))?
            }
        };
        site.seen(id, view).ok_or_else(|| no_such_group(id).into())
    }

    /// The group as a backend shows it.
    pub fn image(&self, slot: &Slot, rules: &Arc<Vec<Rule>>) -> GroupImage {
        GroupImage {
            group: slot.group.clone(),
            in_default_vpc: Some(self.in_default_vpc(&slot.group)),
            rules: rules.clone(),
        }
    }

    /// Whether the group's VPC is a default one (R36).
    pub fn in_default_vpc(&self, group: &Group) -> bool {
        self.vpc_of(group).is_some_and(|vpc| vpc.is_default)
    }

    /// A VPC that the target's account sees: its own, or one shared with it in which it has groups.
    pub fn visible_vpc(&self, target: &Target, id: &VpcId) -> Option<&Arc<Vpc>> {
        let shared = || self.sites.get(target).is_some_and(|site| site.works_in(id));
        self.vpcs
            .get(id)
            .filter(|vpc| vpc.home == *target || vpc.home.region == target.region && shared())
    }

    /// The group's VPC.
    pub fn vpc_of(&self, group: &Group) -> Option<&Arc<Vpc>> {
        self.vpcs.get(group.vpc_id.as_ref()?)
    }

    /// The groups from `from` on, in the order of their ids, at most `limit`.
    pub fn groups_from(
        &self,
        target: &Target,
        from: Bound<&GroupId>,
        limit: usize,
        view: &View,
    ) -> Result<Vec<GroupImage>, BackendError> {
        let site = self.site(target)?;
        let seen = |groups: &BTreeMap<GroupId, Slot>| {
            let ids = groups.range((from, Bound::Unbounded)).map(|(id, _)| id);
            let seen = ids.filter_map(|id| site.seen(id, view)).take(limit);
            seen.map(|(slot, rules)| self.image(slot, rules)).collect::<Vec<_>>()
        };
        let mut images = seen(&site.groups);
        if *view != View::Current {
            images.extend(seen(&site.deleted));
            images.sort_unstable_by(|a, b| a.group.id.cmp(&b.group.id));
            images.truncate(limit);
        }
        Ok(images)
    }

    /// Whether a rule with that id exists in any group.
    pub fn has_rule(&self, id: &RuleId) -> bool {
        self.group_of_rule(id).is_some()
    }

    /// The group that has the rule.
    pub fn group_of_rule(&self, id: &RuleId) -> Option<&GroupId> {
        let group = self.index.candidate(id)?;
        let (_, slot) = self.find_anywhere(group)?;
        slot.rules.iter().any(|rule| rule.id == *id).then_some(group)
    }

    /// Whether the VPCs are peered, whichever of them says so.
    pub fn peered(&self, a: &VpcId, b: &VpcId) -> bool {
        let names = |x, y| self.vpcs.get(x).is_some_and(|vpc: &Arc<Vpc>| vpc.peered.contains(y));
        names(a, b) || names(b, a)
    }

    /// A prefix list that the target's account sees in its Region: its own, AWS's, or one whose owner has nothing else here, which
    /// can only have been described because it was shared.
    pub fn prefix_list(&self, target: &Target, id: &PrefixListId) -> Option<&Arc<PrefixList>> {
        let list = self.lists.get(id)?;
        let visible = list.region == target.region
            && list
                .owner
                .as_ref()
                .is_none_or(|owner| *owner == target.account || !self.has_groups(owner));
        visible.then_some(list)
    }

    /// Whether the account has a group, and so whether it has a VPC: each has its `default`.
    fn has_groups(&self, account: &AccountId) -> bool {
        let mut sites = self.sites.iter();
        sites.any(|(target, site)| target.account == *account && !site.groups.is_empty())
    }

    /// Makes sure that the account and Region exist.
    pub fn ensure_site(&mut self, target: &Target) -> &mut Site {
        self.sites.entry(target.clone()).or_default()
    }

    /// Adds or replaces a VPC.
    pub fn put_vpc(&mut self, vpc: Vpc) {
        if let Some(old) = self.vpcs.get(&vpc.id).cloned() {
            let site = self.ensure_site(&old.home);
            if site.default_vpc.as_ref() == Some(&vpc.id) {
                site.default_vpc = None;
            }
        }
        let site = self.ensure_site(&vpc.home);
        if vpc.is_default {
            site.default_vpc = Some(vpc.id.clone());
        }
        self.vpcs.insert(vpc.id.clone(), Arc::new(vpc));
    }

    /// Takes a VPC out, whose groups went before. Others are not peered with it any more.
    pub fn remove_vpc(&mut self, id: &VpcId) {
        let Some(vpc) = self.vpcs.remove(id) else { return };
        if let Some(site) = self.sites.get_mut(&vpc.home)
            && site.default_vpc.as_ref() == Some(id)
        {
            site.default_vpc = None;
        }
        for other in self.vpcs.values_mut().filter(|other| other.peered.contains(id)) {
            Arc::make_mut(other).peered.retain(|peered| peered != id);
        }
    }

    /// Adds or replaces a prefix list.
    pub fn put_list(&mut self, list: PrefixList) {
        self.lists.insert(list.id.clone(), Arc::new(list));
    }

    /// Adds a group that is not there. `created`: by an action, so that a stale read misses it.
    pub fn insert_group(&mut self, target: &Target, group: Group, rules: Vec<Rule>, created: bool) {
        let id = group.id.clone();
        let ordinal = self.index.enroll(id.clone());
        self.index.add(ordinal, &rules);
        let site = self.ensure_site(target);
        if let Some(vpc) = &group.vpc_id {
            let names = site.names.entry(vpc.clone()).or_default();
            names.insert(group.name.to_lowercase(), id.clone());
        }
        let slot = Slot {
            group: Arc::new(group),
            rules: Arc::new(rules),
            before: if created { Before::Absent } else { Before::Same },
            ordinal,
        };
        // An id that is loaded again is not a deleted group's any more.
        site.deleted.remove(&id);
        site.groups.insert(id, slot);
    }

    /// Takes a group out. `remembered`: a stale read still sees it.
    pub fn remove_group(
        &mut self,
        target: &Target,
        id: &GroupId,
        remembered: bool,
    ) -> Option<Slot> {
        let site = self.sites.get_mut(target)?;
        let slot = site.groups.remove(id)?;
        if let Some(vpc) = &slot.group.vpc_id
            && let Some(names) = site.names.get_mut(vpc)
        {
            names.remove(&slot.group.name.to_lowercase());
            // VPCs come and go: nothing is kept of one without groups.
            if names.is_empty() {
                site.names.remove(vpc);
            }
        }
        if remembered {
            let past = Slot { before: Before::Rules(slot.rules.clone()), ..slot.clone() };
            site.deleted.insert(id.clone(), past);
            site.deletions.push_back(id.clone());
            if site.deletions.len() > MAX_DELETED
                && let Some(oldest) = site.deletions.pop_front()
            {
                site.deleted.remove(&oldest);
            }
        }
        self.index.remove(&slot.rules);
        self.index.retire(slot.ordinal);
        Some(slot)
    }

    /// Gives a group other rules, of which `removed` went and `added` came.
    pub fn set_rules(
        &mut self,
        target: &Target,
        id: &GroupId,
        rules: Vec<Rule>,
        (removed, added): (&[Rule], &[Rule]),
    ) {
        let slot = self.sites.get_mut(target).and_then(|site| site.groups.get_mut(id));
        let Some(slot) = slot else { return };
        slot.before = Before::Rules(std::mem::replace(&mut slot.rules, Arc::new(rules)));
        let ordinal = slot.ordinal;
        self.index.remove(removed);
        self.index.add(ordinal, added);
    }

    /// Gives a group other tags. That is no change of its rules: a stale read shows it, too.
    pub fn set_group_tags(&mut self, target: &Target, id: &GroupId, tags: Vec<Tag>) {
        let slot = self.sites.get_mut(target).and_then(|site| site.groups.get_mut(id));
        if let Some(slot) = slot {
            Arc::make_mut(&mut slot.group).tags = tags;
        }
    }

    /// Finds the rules that get another peer. `rewrite` knows the target, the group and the rule.
    pub fn edits(
        &self,
        mut rewrite: impl FnMut(&Target, &Group, &Rule) -> Option<Peer>,
    ) -> Vec<Edit> {
        let mut edits = Vec::new();
        for (target, site) in &self.sites {
            for slot in site.groups.values() {
                for (place, rule) in slot.rules.iter().enumerate() {
                    if let Some(peer) = rewrite(target, &slot.group, rule) {
                        let (target, group) = (target.clone(), slot.group.id.clone());
                        edits.push(Edit { target, group, place, peer });
                    }
                }
            }
        }
        edits
    }

    /// Gives rules their other peers. Ids stay, and it counts as no change of their groups.
    pub fn apply(&mut self, edits: Vec<Edit>) {
        for Edit { target, group, place, peer } in edits {
            let site = self.sites.get_mut(&target);
            let slot = site.and_then(|site| site.groups.get_mut(&group));
            let Some(slot) = slot else { continue };
            if let Some(rule) = Arc::make_mut(&mut slot.rules).get_mut(place) {
                rule.peer = peer;
            }
        }
    }

    /// A new id that no rule has and that is `free` otherwise.
    pub fn new_rule_id(&self, random: &dyn Random, free: impl Fn(&RuleId) -> bool) -> RuleId {
        let free = |id: &RuleId| !self.has_rule(id) && free(id);
        fresh(random, |digits| RuleId::new(format!("sgr-{digits}")), free)
    }

    /// A new id that no group has or had lately.
    pub fn new_group_id(&self, random: &dyn Random) -> GroupId {
        let free = |id: &GroupId| {
            self.sites
                .values()
                .all(|site| !site.groups.contains_key(id) && !site.deleted.contains_key(id))
        };
        fresh(random, |digits| GroupId::new(format!("sg-{digits}")), free)
    }

    /// A new id that no VPC has.
    pub fn new_vpc_id(&self, random: &dyn Random) -> VpcId {
        let free = |id: &VpcId| !self.vpcs.contains_key(id);
        fresh(random, |digits| VpcId::new(format!("vpc-{digits}")), free)
    }

    /// A new id that no prefix list has.
    pub fn new_list_id(&self, random: &dyn Random) -> PrefixListId {
        let free = |id: &PrefixListId| !self.lists.contains_key(id);
        fresh(random, |digits| PrefixListId::new(format!("pl-{digits}")), free)
    }

    /// A copy to go back to. It has no index, which is large; [`State::restored`] makes it again.
    pub fn kept(&self) -> Self {
        Self { index: RuleIndex::default(), ..self.clone() }
    }

    /// What was kept, ready for use.
    pub fn restored(&self) -> Self {
        let mut state = Self { index: RuleIndex::default(), ..self.clone() };
        for slot in state.sites.values_mut().flat_map(|site| site.groups.values_mut()) {
            slot.ordinal = state.index.enroll(slot.group.id.clone());
            state.index.add(slot.ordinal, &slot.rules);
        }
        state
    }
}

// === impl Site ===

impl Site {
    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// The groups, in the order of their ids.
    pub fn groups(&self) -> impl Iterator<Item = &Slot> {
        self.groups.values()
    }

    /// The account's default VPC in the Region.
    pub fn default_vpc(&self) -> Option<&VpcId> {
        self.default_vpc.as_ref()
    }

    /// A group of the default VPC by its name, in any case.
    pub fn by_name(&self, name: &str) -> Option<&GroupId> {
        self.by_name_in(self.default_vpc.as_ref()?, name)
    }

    /// A group of a VPC by its name, in any case.
    pub fn by_name_in(&self, vpc: &VpcId, name: &str) -> Option<&GroupId> {
        self.names.get(vpc)?.get(&name.to_lowercase())
    }

    /// Whether the account has groups in the VPC, its own or one shared with it.
    pub fn works_in(&self, vpc: &VpcId) -> bool {
        self.names.get(vpc).is_some_and(|names| !names.is_empty())
    }

    /// EC2's error for a name that the default VPC has not.
    pub fn no_such_name(&self, name: &str) -> Refusal {
        let vpc = self.default_vpc.as_ref().map_or("none", VpcId::as_str);
        let name = excerpt(name);
        let message = format!("The security group '{name}' does not exist in default VPC '{vpc}'");
        Refusal::new("InvalidGroup.NotFound", message)
    }

    /// The group and its rules, as a read sees them.
    fn seen(&self, id: &GroupId, view: &View) -> Option<(&Slot, &Arc<Vec<Rule>>)> {
        let stale = match view {
            View::Current => false,
            View::Stale { only } => only.as_ref().is_none_or(|only| only == id),
        };
        let slot = match self.groups.get(id) {
            None if stale => self.deleted.get(id)?,
            slot => slot?,
        };
        match &slot.before {
            Before::Absent if stale => None,
            Before::Rules(rules) if stale => Some((slot, rules)),
            _ => Some((slot, &slot.rules)),
        }
    }
}

/// The partition that a Region belongs to, as ARNs name it.
fn partition(region: &Region) -> &'static str {
    match region.as_str() {
        name if name.starts_with("cn-") => "aws-cn",
        name if name.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// The ARN of an EC2 resource, such as `security-group` and `sg-...`.
pub fn arn(region: &Region, account: &str, kind: &str, id: &str) -> String {
    format!("arn:{}:ec2:{region}:{account}:{kind}/{id}", partition(region))
}

/// EC2's error for a group id that does not exist.
pub fn no_such_group(id: &GroupId) -> Refusal {
    Refusal::new("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
}

/// EC2's error for a VPC id that does not exist.
pub fn no_such_vpc(id: &VpcId) -> Refusal {
    Refusal::new("InvalidVpcID.NotFound", format!("The vpc ID '{id}' does not exist"))
}

/// EC2's error for a prefix list id that does not exist.
pub fn no_such_list(id: &PrefixListId) -> Refusal {
    let message = format!("The prefix list ID '{id}' does not exist");
    Refusal::new("InvalidPrefixListID.NotFound", message)
}

/// EC2's error where a default VPC is needed and there is none.
pub fn no_default_vpc() -> Refusal {
    Refusal::new("VPCIdNotSpecified", "No default VPC for this user")
}

/// The account and Region are not of this sandbox.
pub fn not_configured(target: &Target) -> BackendError {
    BackendError::TargetNotConfigured { asked: target.to_string() }
}

/// Draws until the id is free. Counts on from the draw, so that it ends whatever `random` gives.
fn fresh<T>(random: &dyn Random, id: impl Fn(String) -> T, free: impl Fn(&T) -> bool) -> T {
    let mut bits = (random.bits() >> 64) as u64;
    loop {
        let drawn = id(format!("{bits:017x}"));
        if free(&drawn) {
            return drawn;
        }
        bits = bits.wrapping_add(1);
    }
}
