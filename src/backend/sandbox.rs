//! A backend that behaves like EC2 and lives in this process: the test double of other services, and a rehearsal of
//! one's own account.
//!
//! A call goes: EC2's budget? (`throttle`, if it is on) → fault? (`fault`) → action (`actions`, `family`, `around` and `tagging` on the `state`, or `list`) →
//! effect noted (`effects`) → answer, late or lost if the fault says so. One lock holds everything, for as long as it takes to
//! find one group and replace its list of rules; a read takes shared pointers and works on them after it let go.
//!
//! Where EC2 is silent:
//! - An IPv6 range may be authorized in a VPC without IPv6, and is revoked like any rule. Revoking one that the group
//!   has not is what any mismatch is (R40).
//! - A rule may refer to a group of a peered VPC of the Region; to another account's only by naming its owner.
//! - A dry run is answered before anything is looked up (R1), and its failures are those of a read: it has no effect
//!   that could be in doubt.
//! - A group that is looked up by name without a default VPC: VPCIdNotSpecified.
//! - A modification names a group of another account in a peered VPC by its id alone: it cannot say the owner. A rule
//!   that keeps its group keeps it as it is, deleted or not.
//! - What counts for a modification is the group as it is after all of it: two rules may swap their properties.
//! - Updating the description of a rule that the group has not is an error in either kind of VPC.
//! - More rules than the limit are kept when they were loaded. Only what would add to them is refused.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use self::{
    effects::{Change, Effect, Effects},
    fault::{Faults, Kind, Strike, server_error, unanswered},
    filter::{GroupFilters, RuleFilters},
    load::Draft,
    state::{State, View, not_configured},
    throttle::Throttle,
};
use crate::{
    backend::{
        Answer, AuthorizeRules, Authorized, Backend, BackendError, CallContext, CreateGroup,
        Created, DeleteGroup, Deleted, DescribeGroups, DescribeRules, Failure, GroupImage,
        OwnedRule, Page, Refusal, RevokeRules, Revoked,
    },
    clock::Clock,
    pacing::ALL_GROUPS,
    random::Random,
    rule::{AccountId, GroupId, GroupRef, Region, Target, Violation},
};

mod actions;
mod around;
mod effects;
mod family;
mod fault;
mod filter;
mod index;
mod list;
mod load;
mod sample;
mod state;
mod state_format;
mod tagging;
#[cfg(test)]
mod tests;
mod throttle;

pub use actions::dry_run;
pub use around::{CreatePrefixList, CreateVpc, DeleteVpc, DescribePrefixLists, DescribeVpcs};
pub use state::{Ipv6Block, PrefixList, Vpc};
pub use tagging::{CreateTags, DeleteTags, DescribeTags, TagDescription};

const DESCRIBE_GROUPS: &str = "DescribeSecurityGroups";
const DESCRIBE_RULES: &str = "DescribeSecurityGroupRules";

/// EC2 in this process. See the module.
pub struct Sandbox {
    world: Mutex<World>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// The default target, if the configuration says one.
    given_default: Option<Target>,
}

/// Everything that changes.
struct World {
    state: State,
    /// The target of calls that name none.
    default: Target,
    initial: (State, Target),
    faults: Faults,
    effects: Effects,
    incarnation: String,
    throttle: Option<Throttle>,
}

/// A call that was let in.
struct Ticket {
    strike: Option<Strike>,
    request_id: String,
}

// === impl Sandbox ===

impl Sandbox {
    /// Starts with what was loaded.
    fn start(
        draft: Draft,
        given_default: Option<Target>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<(Self, Vec<String>), Vec<Violation>> {
        let default = load::default_target(&draft, given_default.as_ref());
        let (state, warnings) = load::merge(&State::default(), draft, &default, random.as_ref())?;
        let world = World {
            initial: (state.kept(), default.clone()),
            state,
            default,
            faults: Faults::default(),
            effects: Effects::default(),
            incarnation: uuid(random.as_ref()),
            throttle: None,
        };
        Ok((Self { world: Mutex::new(world), clock, random, given_default }, warnings))
    }

    /// Merges a load into the state, or replaces the state by it.
    fn adopt(&self, draft: Draft, replace: bool) -> Result<Vec<String>, Vec<Violation>> {
        let random = self.random.as_ref();
        if !replace {
            let mut world = self.lock();
            let (state, warnings) = load::merge(&world.state, draft, &world.default, random)?;
            world.state = state;
            return Ok(warnings);
        }
        let default = load::default_target(&draft, self.given_default.as_ref());
        let (state, warnings) = load::merge(&State::default(), draft, &default, random)?;
        let mut world = self.lock();
        let replaced = std::mem::replace(&mut world.state, state);
        world.default = default;
        world.incarnation = uuid(random);
        // Freeing millions of rules takes a while: calls need not wait for it.
        drop(world);
        drop(replaced);
        Ok(warnings)
    }

    /// Back to the state of the start: no fault waits, no effect is logged, no call is counted. The new incarnation.
    pub fn reset(&self) -> String {
        let mut world = self.lock();
        world.state = world.initial.0.restored();
        world.default = world.initial.1.clone();
        world.faults = Faults::default();
        world.effects = Effects::default();
        world.throttle = world.throttle.as_ref().map(|_| Throttle::new());
        world.incarnation = uuid(self.random.as_ref());
        world.incarnation.clone()
    }

    /// From here on calls are throttled as EC2 does it: RequestLimitExceeded beyond a bucket for each action.
    pub fn throttle(&self) {
        self.lock().throttle = Some(Throttle::new());
    }

    /// How many calls were refused because a bucket was empty.
    pub fn throttled(&self) -> u64 {
        self.lock().throttle.as_ref().map(Throttle::refused).unwrap_or_default()
    }

    /// Drops every fault that waits. How many there were.
    pub fn clear_faults(&self) -> u32 {
        self.lock().faults.clear()
    }

    /// Puts a fault behind those that wait. How many wait now.
    fn inject(&self, script: fault::Script) -> Result<u32, Vec<Violation>> {
        let fault = script.check()?;
        self.lock().faults.inject(fault)
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call, and finds the fault that meets it. `changes`: it may have an effect.
    fn admit(
        &self,
        call: &CallContext,
        target: &Target,
        actions: &[&'static str],
        changes: bool,
        about: impl FnOnce(&State) -> Vec<GroupId>,
    ) -> Result<Ticket, BackendError> {
        self.admit_from(call, (target, actions), actions, changes, about)
    }

    /// The same, out of these budgets.
    fn admit_from(
        &self,
        call: &CallContext,
        (target, budgets): (&Target, &[&'static str]),
        actions: &[&'static str],
        changes: bool,
        about: impl FnOnce(&State) -> Vec<GroupId>,
    ) -> Result<Ticket, BackendError> {
        if Instant::now() >= call.deadline {
            return Err(BackendError::DeadlineTooNear);
        }
        let request_id = uuid(self.random.as_ref());
        let world = &mut *self.lock();
        for action in actions {
            world.effects.count(action);
        }
        if let Some(throttle) = &mut world.throttle
            && world.state.sites().contains_key(target)
        {
            throttle
                .admit(target, budgets)
                .map_err(|refusal| Refusal { request_id: Some(request_id.clone()), ..refusal })?;
        }
        let strike = world.faults.strike(actions, &about(&world.state));
        match strike.as_ref().and_then(|strike| strike.refusal(changes, &request_id)) {
            Some(refusal) => Err(refusal),
            None => Ok(Ticket { strike, request_id }),
        }
    }

    /// Gives the answer, unless the fault delays or loses it.
    async fn answer<T>(
        call: &CallContext,
        ticket: Ticket,
        changes: bool,
        result: Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let Ticket { strike, request_id } = ticket;
        let result = result.map_err(|error| match error {
            BackendError::Refused(refusal) => {
                Refusal { request_id: Some(request_id.clone()), ..refusal }.into()
            }
            other => other,
        });
        let no_answer = |detail| Err(unanswered(changes, Failure::new(detail)));
        match strike.map(|strike| strike.kind) {
            Some(Kind::ServerError { code, .. }) => {
                Err(unanswered(changes, server_error(code, &request_id)))
            }
            Some(Kind::LoseAnswer) => no_answer("the answer was lost by a fault"),
            Some(Kind::Delay(delay)) => {
                let ready = Instant::now() + delay;
                sleep_until(ready.min(call.deadline)).await;
                if ready > call.deadline {
                    return no_answer("a fault delays the answer past the deadline");
                }
                result
            }
            _ => result,
        }
    }

    /// A request of the EC2 door that cannot be read. Whether it is let in comes first (R2), and it costs what any other does.
    pub async fn refuse_unread<T>(
        &self,
        call: &CallContext,
        target: &Target,
        (action, group): (&str, Option<GroupId>),
        refusal: Refusal,
    ) -> Result<T, BackendError> {
        let Some(action) = fault::action(action) else { return Err(refusal.into()) };
        let about = |_: &State| group.into_iter().collect();
        let ticket = self.admit(call, target, &[action], false, about)?;
        Self::answer(call, ticket, false, Err(refusal.into())).await
    }

    /// A call of one action that reads and is about no group.
    async fn read<T>(
        &self,
        call: &CallContext,
        target: &Target,
        action: &'static str,
        work: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let ticket = self.admit(call, target, &[action], false, |_| Vec::new())?;
        Self::answer(call, ticket, false, work()).await
    }

    /// A call of one action that changes one group, if it is no dry run.
    async fn change<T>(
        &self,
        call: &CallContext,
        target: &Target,
        action: (&'static str, bool),
        group: Option<&GroupRef>,
        work: impl FnOnce(&mut State, &dyn Random, &str) -> Result<(T, Option<Change>), BackendError>,
    ) -> Result<T, BackendError> {
        let about = |state: &State| {
            let group = group.and_then(|group| meant(state, target, group));
            group.into_iter().collect()
        };
        self.change_all(call, target, action, about, work).await
    }

    /// A call of one action that changes anything, if it is no dry run.
    async fn change_all<T, C: IntoIterator<Item = Change>>(
        &self,
        call: &CallContext,
        target: &Target,
        (action, dry_run): (&'static str, bool),
        about: impl FnOnce(&State) -> Vec<GroupId>,
        work: impl FnOnce(&mut State, &dyn Random, &str) -> Result<(T, C), BackendError>,
    ) -> Result<T, BackendError> {
        let ticket = self.admit(call, target, &[action], !dry_run, about)?;
        let result = {
            let world = &mut *self.lock();
            let applied = work(&mut world.state, self.random.as_ref(), &ticket.request_id);
            applied.map(|(answer, changes)| {
                for change in changes {
                    world.effects.record(Effect {
                        sequence: 0,
                        applied_at: self.clock.now(),
                        target: target.clone(),
                        change,
                        request_id: ticket.request_id.clone(),
                        operation_id: call.operation_id.clone(),
                        session: call.session.clone(),
                    });
                }
                answer
            })
        };
        Self::answer(call, ticket, !dry_run, result).await
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let incarnation = self.lock().incarnation.clone();
        f.debug_struct("Sandbox").field("incarnation", &incarnation).finish_non_exhaustive()
    }
}

impl Backend for Sandbox {
    fn identity(&self) -> String {
        format!("sandbox/{}", self.lock().incarnation)
    }

    fn resolve(
        &self,
        account: Option<AccountId>,
        region: Option<Region>,
    ) -> Result<Target, BackendError> {
        let world = self.lock();
        let account = account.unwrap_or_else(|| world.default.account.clone());
        let region = match region {
            Some(region) => region,
            None if account == world.default.account => world.default.region.clone(),
            None => {
                let mut sites = world.state.sites().keys();
                let first = sites.find(|target| target.account == account);
                let asked = || BackendError::TargetNotConfigured { asked: account.to_string() };
                first.ok_or_else(asked)?.region.clone()
            }
        };
        let target = Target { account, region };
        if world.state.sites().contains_key(&target) {
            Ok(target)
        } else {
            Err(not_configured(&target))
        }
    }

    fn read_lag(&self) -> Duration {
        Duration::ZERO
    }

    fn image<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        group: &'a GroupRef,
    ) -> Answer<'a, GroupImage> {
        Box::pin(async move {
            let about = |state: &State| meant(state, target, group).into_iter().collect();
            let ticket =
                self.admit(call, target, &[DESCRIBE_GROUPS, DESCRIBE_RULES], false, about)?;
            let view = ticket.view();
            let result = {
                let world = self.lock();
                let found = world.state.find_as(target, group, &view);
                found.map(|(slot, rules)| world.state.image(slot, rules))
            };
            Self::answer(call, ticket, false, result).await
        })
    }

    fn describe_groups<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeGroups,
    ) -> Answer<'a, Page<GroupImage>> {
        Box::pin(async move {
            let budget = if request.is_unfiltered() { ALL_GROUPS } else { DESCRIBE_GROUPS };
            let budgets = (target, &[budget][..]);
            let ticket = self.admit_from(call, budgets, &[DESCRIBE_GROUPS], false, |state| {
                let names = request.group_names.iter().cloned().map(GroupRef::Name);
                let named = names.filter_map(|name| meant(state, target, &name));
                let filtered = GroupFilters::parse(&request.filters).ok();
                let filtered = filtered.and_then(|filters| filters.group_ids()).unwrap_or_default();
                request.group_ids.iter().cloned().chain(named).chain(filtered).collect()
            })?;
            let result = self.list_groups(target, request, &ticket.view());
            Self::answer(call, ticket, false, result).await
        })
    }

    fn describe_rules<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeRules,
    ) -> Answer<'a, Page<OwnedRule>> {
        Box::pin(async move {
            let ticket = self.admit(call, target, &[DESCRIBE_RULES], false, |state| {
                let filters = RuleFilters::parse(&request.filters).ok();
                let filtered = filters.and_then(|filters| filters.group_ids()).unwrap_or_default();
                let of_rules =
                    request.rule_ids.iter().filter_map(|id| state.group_of_rule(id).cloned());
                of_rules.chain(filtered).collect()
            })?;
            let result = self.list_rules(target, request, &ticket.view());
            Self::answer(call, ticket, false, result).await
        })
    }

    fn revoke<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a RevokeRules,
    ) -> Answer<'a, Revoked> {
        let action = (actions::revoke_action(request.direction), request.dry_run);
        let group = Some(&request.group);
        Box::pin(self.change(call, target, action, group, move |state, _, request_id| {
            let (mut revoked, change) = actions::revoke(state, target, request)?;
            revoked.request_id = Some(request_id.to_owned());
            Ok((revoked, change))
        }))
    }

    fn authorize<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a AuthorizeRules,
    ) -> Answer<'a, Authorized> {
        let action = (actions::authorize_action(request.direction), request.dry_run);
        let group = Some(&request.group);
        Box::pin(self.change(call, target, action, group, move |state, random, request_id| {
            let (mut authorized, change) = actions::authorize(state, target, request, random)?;
            authorized.request_id = Some(request_id.to_owned());
            Ok((authorized, change))
        }))
    }

    fn create_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a CreateGroup,
    ) -> Answer<'a, Created> {
        let action = ("CreateSecurityGroup", request.dry_run);
        Box::pin(self.change(call, target, action, None, move |state, random, request_id| {
            let (mut created, change) = actions::create_group(state, target, request, random)?;
            created.request_id = Some(request_id.to_owned());
            Ok((created, change))
        }))
    }

    fn delete_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DeleteGroup,
    ) -> Answer<'a, Deleted> {
        let action = ("DeleteSecurityGroup", request.dry_run);
        let group = Some(&request.group);
        Box::pin(self.change(call, target, action, group, move |state, _, request_id| {
            let (mut deleted, change) = actions::delete_group(state, target, request)?;
            deleted.request_id = Some(request_id.to_owned());
            Ok((deleted, change))
        }))
    }
}

// === impl Ticket ===

impl Ticket {
    fn view(&self) -> View {
        match &self.strike {
            Some(Strike { kind: Kind::StaleRead, group }) => View::Stale { only: group.clone() },
            _ => View::Current,
        }
    }
}

/// The id of the group that a call is about, whether or not it exists.
fn meant(state: &State, target: &Target, group: &GroupRef) -> Option<GroupId> {
    match group {
        GroupRef::Id(id) => Some(id.clone()),
        GroupRef::Name(name) => state.sites().get(target)?.by_name(name).cloned(),
    }
}

/// A UUID, as EC2's request ids are.
fn uuid(random: &dyn Random) -> String {
    uuid::Builder::from_random_bytes(random.bits().to_be_bytes()).into_uuid().to_string()
}
