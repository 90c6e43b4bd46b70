//! Merges what was loaded into the state. Syntax was checked when it was decoded; here the parts are fitted together
//! (Regions, owners, both describe forms of a rule), and what contradicts itself is refused.
//!
//! It works on a copy of the state, so that a refused load leaves nothing behind.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    actions::default_group,
    state::{Ipv6Block, PrefixList, State, Vpc, arn},
};
use crate::{
    backend::Group,
    random::Random,
    rule::{
        AccountId, Direction, GroupId, Peer, PrefixListId, Region, Rule, RuleId, RuleKey, Tag,
        Target, Violation, VpcId, permission::MAX_VIOLATIONS,
    },
};

const INVALID_VALUE: &str = "InvalidParameterValue";

/// What EC2's own examples use.
const SAMPLE_ACCOUNT: &str = "123456789012";
const SAMPLE_REGION: &str = "us-east-1";

/// A decoded state: each part valid by itself, in the order and number of the message's fields.
#[derive(Debug, Default)]
pub struct Draft {
    /// Accounts and their Regions.
    pub accounts: Vec<(AccountId, Vec<Region>)>,
    /// VPCs.
    pub vpcs: Vec<VpcDraft>,
    /// Prefix lists, of both fields.
    pub lists: Vec<ListDraft>,
    /// Groups.
    pub groups: Vec<GroupDraft>,
    /// Rules with ids.
    pub rules: Vec<RuleDraft>,
}

/// A VPC that may lack its account and Region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpcDraft {
    /// See [`Vpc::id`].
    pub id: VpcId,
    /// See [`Vpc::is_default`].
    pub is_default: bool,
    /// See [`Vpc::cidr_block`].
    pub cidr_block: Option<String>,
    /// See [`Vpc::ipv6_blocks`].
    pub ipv6_blocks: Vec<Ipv6Block>,
    /// The account.
    pub owner: Option<AccountId>,
    /// The Region.
    pub region: Option<Region>,
    /// See [`Vpc::state`].
    pub state: Option<String>,
    /// See [`Vpc::tags`].
    pub tags: Vec<Tag>,
    /// See [`Vpc::peered`].
    pub peered: Vec<VpcId>,
}

/// A prefix list that may lack its account and Region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListDraft {
    /// The message's field and index, for violations.
    pub path: String,
    /// See [`PrefixList::id`].
    pub id: PrefixListId,
    /// See [`PrefixList::name`].
    pub name: Option<String>,
    /// See [`PrefixList::address_family`].
    pub address_family: Option<String>,
    /// See [`PrefixList::max_entries`].
    pub max_entries: Option<i32>,
    /// None: not given. Some(None): AWS.
    pub owner: Option<Option<AccountId>>,
    /// The Region.
    pub region: Option<Region>,
    /// See [`PrefixList::tags`].
    pub tags: Vec<Tag>,
}

/// A group that may lack its account, Region and VPC. Its rules have no ids yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDraft {
    /// The id.
    pub id: GroupId,
    /// The name.
    pub name: Option<String>,
    /// The description.
    pub description: String,
    /// The VPC.
    pub vpc_id: Option<VpcId>,
    /// The account.
    pub owner: Option<AccountId>,
    /// The Region.
    pub region: Option<Region>,
    /// The tags.
    pub tags: Vec<Tag>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// A rule of a group that is loaded with it or was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDraft {
    /// The group.
    pub group_id: GroupId,
    /// The group's owner, if given.
    pub owner: Option<AccountId>,
    /// The rule. An empty id: it gets a new one.
    pub rule: Rule,
}

/// The default target: the given one, else the first account of the load with its first Region, else EC2's
/// documentation's.
pub fn default_target(draft: &Draft, given: Option<&Target>) -> Target {
    if let Some(target) = given {
        return target.clone();
    }
    let owners = draft.accounts.iter().map(|(account, _)| account);
    let account = owners
        .chain(draft.groups.iter().filter_map(|group| group.owner.as_ref()))
        .chain(draft.vpcs.iter().filter_map(|vpc| vpc.owner.as_ref()))
        .next()
        .cloned()
        .unwrap_or_else(|| AccountId::new(SAMPLE_ACCOUNT));
    let its = |owner: &Option<AccountId>| owner.as_ref().is_none_or(|owner| *owner == account);
    let listed = draft.accounts.iter().filter(|(listed, _)| *listed == account);
    let region = listed
        .flat_map(|(_, regions)| regions)
        .chain(
            draft
                .groups
                .iter()
                .filter(|group| its(&group.owner))
                .filter_map(|group| group.region.as_ref()),
        )
        .chain(
            draft.vpcs.iter().filter(|vpc| its(&vpc.owner)).filter_map(|vpc| vpc.region.as_ref()),
        )
        .next()
        .cloned()
        .unwrap_or_else(|| Region::new(SAMPLE_REGION));
    Target { account, region }
}

/// Merges a draft into a copy of the state. Also what was assumed, in plain words.
pub fn merge(
    state: &State,
    draft: Draft,
    default: &Target,
    random: &dyn Random,
) -> Result<(State, Vec<String>), Vec<Violation>> {
    let mut merge = Merge {
        state: state.clone(),
        default,
        random,
        warnings: Vec::new(),
        violations: Vec::new(),
    };
    merge.state.ensure_site(default);
    merge.accounts(&draft.accounts);
    merge.vpcs(&draft);
    merge.lists(draft.lists);
    merge.groups(draft.groups, draft.rules);
    merge.default_groups();
    merge.complete_references();
    if merge.violations.is_empty() {
        Ok((merge.state, merge.warnings))
    } else {
        Err(merge.violations)
    }
}

/// A group on its way into the state.
struct Entry {
    path: String,
    target: Target,
    group: Group,
    rules: Vec<Rule>,
}

struct Merge<'a> {
    state: State,
    default: &'a Target,
    random: &'a dyn Random,
    warnings: Vec<String>,
    violations: Vec<Violation>,
}

// === impl Merge ===

impl Merge<'_> {
    fn refuse(&mut self, field: String, code: &'static str, message: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation::new(field, code, message));
        }
    }

    fn accounts(&mut self, accounts: &[(AccountId, Vec<Region>)]) {
        for (account, regions) in accounts {
            for region in regions {
                let target = Target { account: account.clone(), region: region.clone() };
                self.state.ensure_site(&target);
            }
            // An account without a Region could not be named.
            if !self.state.sites().keys().any(|target| target.account == *account) {
                let region = self.default.region.clone();
                self.state.ensure_site(&Target { account: account.clone(), region });
            }
        }
    }

    fn vpcs(&mut self, draft: &Draft) {
        let mut regions: HashMap<&VpcId, &Region> = HashMap::new();
        for group in &draft.groups {
            if let (Some(vpc), Some(region)) = (&group.vpc_id, &group.region) {
                regions.entry(vpc).or_insert(region);
            }
        }
        let mut seen: HashMap<&VpcId, &VpcDraft> = HashMap::new();
        for (index, vpc) in draft.vpcs.iter().enumerate() {
            match seen.get(&vpc.id) {
                Some(first) if *first == vpc => continue,
                Some(_) => {
                    let message = format!("{} is listed twice, with other members.", vpc.id);
                    self.refuse(format!("state.vpcs[{index}].vpc_id"), INVALID_VALUE, message);
                    continue;
                }
                None => {
                    seen.insert(&vpc.id, vpc);
                }
            }
            let region = vpc
                .region
                .as_ref()
                .or_else(|| regions.get(&vpc.id).copied())
                .unwrap_or(&self.default.region);
            let account = vpc.owner.as_ref().unwrap_or(&self.default.account);
            let home = Target { account: account.clone(), region: region.clone() };
            let other = self.state.site(&home).ok().and_then(|site| site.default_vpc().cloned());
            if vpc.is_default
                && let Some(other) = other.filter(|other| *other != vpc.id)
            {
                let message = format!("{home} has the default VPC {other} already.");
                self.refuse(format!("state.vpcs[{index}].is_default"), INVALID_VALUE, message);
                continue;
            }
            self.state.put_vpc(Vpc {
                id: vpc.id.clone(),
                is_default: vpc.is_default,
                cidr_block: vpc.cidr_block.clone(),
                ipv6_blocks: vpc.ipv6_blocks.clone(),
                home,
                state: vpc.state.clone(),
                tags: vpc.tags.clone(),
                peered: vpc.peered.clone(),
            });
        }
    }

    fn lists(&mut self, lists: Vec<ListDraft>) {
        let mut seen: HashMap<PrefixListId, ListDraft> = HashMap::new();
        for list in lists {
            if let Some(first) = seen.get(&list.id) {
                if (ListDraft { path: first.path.clone(), ..list.clone() }) != *first {
                    let message = format!("{} is listed twice, with other members.", list.id);
                    let field = format!("{}.prefix_list_id", list.path);
                    self.refuse(field, INVALID_VALUE, message);
                }
                continue;
            }
            seen.insert(list.id.clone(), list.clone());
            let owner = list.owner.unwrap_or_else(|| Some(self.default.account.clone()));
            let region = list.region.unwrap_or_else(|| self.default.region.clone());
            if let Some(account) = &owner {
                let home = Target { account: account.clone(), region: region.clone() };
                self.state.ensure_site(&home);
            }
            self.state.put_list(PrefixList {
                id: list.id,
                name: list.name,
                address_family: list.address_family,
                max_entries: list.max_entries,
                owner,
                region,
                tags: list.tags,
            });
        }
    }

    /// Takes out the groups that are replaced or whose rules change, then puts all of them in: names and rule ids may
    /// move from one to another.
    fn groups(&mut self, groups: Vec<GroupDraft>, rules: Vec<RuleDraft>) {
        let mut changed: BTreeMap<GroupId, Entry> = BTreeMap::new();
        for (index, draft) in groups.into_iter().enumerate() {
            let path = format!("state.security_groups[{index}]");
            let Some(entry) = self.group(path, draft) else { continue };
            match changed.get(&entry.group.id) {
                Some(first) if first.group == entry.group && first.rules == entry.rules => {}
                Some(first) => {
                    let message = format!("{} is the same group with other members.", first.path);
                    let field = format!("{}.group_id", entry.path);
                    self.refuse(field, INVALID_VALUE, message);
                }
                None => {
                    changed.insert(entry.group.id.clone(), entry);
                }
            }
        }
        for id in changed.keys() {
            self.take(id);
        }
        let listed = self.rules(rules, &mut changed);
        for entry in changed.into_values() {
            self.put(entry, &listed);
        }
    }

    /// A group with its account, Region and VPC found.
    fn group(&mut self, path: String, draft: GroupDraft) -> Option<Entry> {
        let account = draft.owner.unwrap_or_else(|| self.default.account.clone());
        let known = draft.vpc_id.as_ref().and_then(|vpc| self.state.vpcs().get(vpc)).cloned();
        let region = draft
            .region
            .or_else(|| known.as_ref().map(|vpc| vpc.home.region.clone()))
            .unwrap_or_else(|| self.default.region.clone());
        if let Some(vpc) = known.filter(|vpc| vpc.home.region != region) {
            let message = format!("{} is in {}, this group in {region}.", vpc.id, vpc.home.region);
            self.refuse(format!("{path}.vpc_id"), INVALID_VALUE, message);
            return None;
        }
        let target = Target { account, region };
        let default_vpc = self.state.ensure_site(&target).default_vpc().cloned();
        let vpc_id = match (draft.vpc_id, default_vpc) {
            (Some(id), _) => id,
            (None, Some(id)) => {
                self.warnings.push(format!("{} names no VPC: taken as in {id}.", draft.id));
                id
            }
            (None, None) => {
                let message = format!("It names no VPC, and {target} has no default VPC.");
                self.refuse(format!("{path}.vpc_id"), "MissingParameter", message);
                return None;
            }
        };
        if !self.state.vpcs().contains_key(&vpc_id) {
            self.warnings.push(format!("{vpc_id} is not listed: taken as a nondefault VPC."));
            self.state.put_vpc(Vpc {
                id: vpc_id.clone(),
                is_default: false,
                cidr_block: None,
                ipv6_blocks: Vec::new(),
                home: target.clone(),
                state: None,
                tags: Vec::new(),
                peered: Vec::new(),
            });
        }
        let name = draft.name.unwrap_or_else(|| {
            let name = format!("group-{}", draft.id.as_str().trim_start_matches("sg-"));
            self.warnings.push(format!("{} has no name: it is called {name}.", draft.id));
            name
        });
        let arn = arn(&target.region, target.account.as_str(), "security-group", draft.id.as_str());
        let group = Group {
            arn: Some(arn),
            id: draft.id,
            name,
            description: draft.description,
            vpc_id: Some(vpc_id),
            owner_id: target.account.clone(),
            tags: draft.tags,
        };
        Some(Entry { path, target, group, rules: draft.rules })
    }

    /// Takes a group out of the state, wherever it is.
    fn take(&mut self, id: &GroupId) -> Option<Entry> {
        let target = self.state.find_anywhere(id).map(|(target, _)| target.clone())?;
        let slot = self.state.remove_group(&target, id, false)?;
        Some(Entry {
            path: "state".to_owned(),
            target,
            group: Arc::unwrap_or_clone(slot.group),
            rules: Arc::unwrap_or_clone(slot.rules),
        })
    }

    /// Fits the rules that are listed by themselves to their groups. Answers where each of their ids is.
    fn rules(
        &mut self,
        rules: Vec<RuleDraft>,
        changed: &mut BTreeMap<GroupId, Entry>,
    ) -> HashMap<RuleId, usize> {
        let mut listed: HashMap<RuleId, usize> = HashMap::with_capacity(rules.len());
        let mut by_group: BTreeMap<GroupId, Vec<(usize, RuleDraft)>> = BTreeMap::new();
        for (index, draft) in rules.into_iter().enumerate() {
            match by_group.get_mut(&draft.group_id) {
                Some(of_group) => of_group.push((index, draft)),
                None => {
                    by_group.insert(draft.group_id.clone(), vec![(index, draft)]);
                }
            }
        }
        for (id, given) in by_group {
            let first = given.first().map_or(0, |(index, ..)| *index);
            if !changed.contains_key(&id) {
                let Some(entry) = self.take(&id) else {
                    let field = format!("state.security_group_rules[{first}].group_id");
                    let message = format!("The security group '{id}' does not exist");
                    self.refuse(field, "InvalidGroup.NotFound", message);
                    continue;
                };
                changed.insert(id.clone(), entry);
            }
            if let Some(entry) = changed.get_mut(&id) {
                let base = std::mem::take(&mut entry.rules);
                entry.rules = self.fit(&entry.group.owner_id, base, given, &mut listed);
            }
        }
        listed
    }

    /// The rules of one group: those listed by themselves in their order, then the others.
    fn fit(
        &mut self,
        owner: &AccountId,
        base: Vec<Rule>,
        given: Vec<(usize, RuleDraft)>,
        listed: &mut HashMap<RuleId, usize>,
    ) -> Vec<Rule> {
        let mut places: HashMap<(Direction, RuleKey), usize> = HashMap::with_capacity(given.len());
        let mut rules: Vec<Rule> = Vec::with_capacity(given.len().max(base.len()));
        for (index, draft) in given {
            let rule = draft.rule;
            let path = || format!("state.security_group_rules[{index}]");
            if draft.owner.is_some_and(|given| given != *owner) {
                let message = format!("The group belongs to {owner}.");
                self.refuse(format!("{}.group_owner_id", path()), INVALID_VALUE, message);
            }
            let key = (rule.direction, rule.key());
            if let Some(same) = places.get(&key).and_then(|place| rules.get(*place)) {
                if *same != rule {
                    let message = format!("{} of the group is the same rule.", same.id);
                    self.refuse(path(), "InvalidPermission.Duplicate", message);
                }
                continue;
            }
            if !rule.id.as_str().is_empty()
                && let Some(first) = listed.insert(rule.id.clone(), index)
            {
                let message = format!("state.security_group_rules[{first}] has that id, too.");
                let field = format!("{}.security_group_rule_id", path());
                self.refuse(field, INVALID_VALUE, message);
                continue;
            }
            places.insert(key, rules.len());
            rules.push(rule);
        }
        for rule in base {
            let place = places.get(&(rule.direction, rule.key()));
            match place.and_then(|place| rules.get_mut(*place)) {
                // What is listed by itself says more; only a group peer's name is in the permissions alone.
                Some(same) => {
                    if let (Peer::Group(peer), Peer::Group(base)) = (&mut same.peer, rule.peer) {
                        peer.group_name = peer.group_name.take().or(base.group_name);
                    }
                    if same.id.as_str().is_empty() {
                        same.id = rule.id;
                    }
                }
                // Listed with other properties: it was modified.
                None if listed.contains_key(&rule.id) => {}
                None => rules.push(rule),
            }
        }
        rules
    }

    /// Puts a group into the state, with ids for the rules that have none.
    fn put(&mut self, entry: Entry, listed: &HashMap<RuleId, usize>) {
        let Entry { path, target, group, mut rules } = entry;
        let site = self.state.ensure_site(&target);
        let namesake = group.vpc_id.as_ref().and_then(|vpc| site.by_name_in(vpc, &group.name));
        if let Some(other) = namesake {
            let message = format!("{other} has the name '{}' in the same VPC.", group.name);
            self.refuse(format!("{path}.group_name"), "InvalidGroup.Duplicate", message);
            return;
        }
        let mut drawn: HashSet<RuleId> = HashSet::new();
        for rule in &mut rules {
            if rule.id.as_str().is_empty() {
                let free = |id: &RuleId| !drawn.contains(id) && !listed.contains_key(id);
                rule.id = self.state.new_rule_id(self.random, free);
                drawn.insert(rule.id.clone());
            } else if let Some(owner) = self.state.group_of_rule(&rule.id) {
                let message = format!("{} is the id of a rule of {owner}.", rule.id);
                let field = listed.get(&rule.id).map_or_else(
                    || path.clone(),
                    |index| format!("state.security_group_rules[{index}].security_group_rule_id"),
                );
                self.refuse(field, INVALID_VALUE, message);
            }
        }
        self.state.insert_group(&target, group, rules, false);
    }

    /// Every VPC has a group named `default` (R45).
    fn default_groups(&mut self) {
        let vpcs: Vec<Arc<Vpc>> = self.state.vpcs().values().cloned().collect();
        for vpc in vpcs {
            if self.state.ensure_site(&vpc.home).by_name_in(&vpc.id, "default").is_some() {
                continue;
            }
            let (group, rules) = default_group(&self.state, &vpc, self.random);
            self.state.insert_group(&vpc.home, group, rules, false);
        }
    }

    /// Finds the groups that rules refer to: by name within the VPC, and the owner and VPC of each (R28). A group that
    /// is not here is foreign or deleted, and the reference stays as it is (R27).
    fn complete_references(&mut self) {
        let mut unnamed = Vec::new();
        let mut named = BTreeSet::new();
        let edits = self.state.edits(|target, group, rule| {
            let Peer::Group(peer) = &rule.peer else { return None };
            let mut peer = (**peer).clone();
            if peer.group_id.is_none() {
                let name = peer.group_name.as_deref().unwrap_or_default();
                let site = self.state.sites().get(target)?;
                match group.vpc_id.as_ref().and_then(|vpc| site.by_name_in(vpc, name)) {
                    Some(id) => {
                        named.insert(group.id.clone());
                        peer.group_id = Some(id.clone());
                    }
                    None => unnamed.push((group.id.clone(), name.to_owned())),
                }
            }
            let (_, other) = self.state.find_anywhere(peer.group_id.as_ref()?)?;
            peer.user_id.get_or_insert_with(|| other.group.owner_id.clone());
            if peer.vpc_id.is_none() && other.group.vpc_id != group.vpc_id {
                peer.vpc_id = other.group.vpc_id.as_ref().map(ToString::to_string);
            }
            let completed = Peer::Group(Box::new(peer));
            (completed != rule.peer).then_some(completed)
        });
        self.state.apply(edits);
        for (group, name) in unnamed {
            let message = format!("{group} refers to the group '{name}', which its VPC has not.");
            self.refuse("state.security_groups".to_owned(), "InvalidGroup.NotFound", message);
        }
        for group in named {
            let Some((_, slot)) = self.state.find_anywhere(&group) else { continue };
            let mut seen = HashSet::new();
            if !slot.rules.iter().all(|rule| seen.insert((rule.direction, rule.key()))) {
                let message =
                    format!("{group} refers to one group by name and by id, in one rule.");
                let field = "state.security_groups".to_owned();
                self.refuse(field, "InvalidPermission.Duplicate", message);
            }
        }
    }
}
