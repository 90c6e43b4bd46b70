//! A backend behind EC2's budget: every call waits for its slot, see [`crate::pacing`]. The thin part that waits,
//! wakes and tells what EC2 said.
//!
//! A mutation takes its slot with [`Backend::reserve`], before anything is read for it, and holds it until it is sent.
//! Whatever has none takes one on its way: reads, dry runs, and what a revoke sends again.
//!
//! Each process has budgets of its own, unless replicas share them ([`Paced::sharing`]): then a task of each line asks
//! the shared one, and nobody waits for an answer that is only a report. What the SDK does within one call (second attempts of a read that failed) is
//! not seen; it is what the rest of EC2's bucket is for.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Answer, AuthorizeRules, Authorized, Backend, BackendError, CallContext, CreateGroup, Created,
    DeleteGroup, Deleted, DescribeGroups, DescribeRules, GroupImage, OwnedRule, Page, RevokeRules,
    Revoked, Slot,
    standing::{Standing, TargetStanding},
};
use crate::{
    pacing::{
        Action, Budget, Event, Lane, ec2_bucket, is_throttling,
        shared::{SharedBudget, Taken, Taking},
    },
    principal::Principal,
    rule::{AccountId, Direction, GroupRef, Region, Target},
    telemetry::{
        metrics::{Metrics, Pacing},
        trace,
    },
};

/// How long before its deadline a call is no more worth sending.
const CALL_TIME: Duration = Duration::from_millis(500);

/// How long the shared budget is waited for, if need be, by a call that has less time than [`CALL_TIME`].
const ASK_TIME: Duration = Duration::from_millis(250);

/// The most rules on a page of DescribeSecurityGroupRules.
const RULES_ON_A_PAGE: usize = 1000;

/// A backend behind EC2's budget.
pub struct Paced {
    inner: Arc<dyn Backend>,
    percent: u32,
    metrics: Metrics,
    shared: Option<Arc<dyn SharedBudget>>,
    epoch: Instant,
    /// One for each action in each target that was called; the backend knows how many targets there are.
    lines: Mutex<HashMap<(Target, Action), Arc<Line>>>,
}

/// The line for one budget.
struct Line {
    target: Target,
    action: Action,
    counted: Pacing,
    epoch: Instant,
    state: Mutex<State>,
    shared: Option<Arc<dyn SharedBudget>>,
    /// Tells the driver that its next time may be another.
    changed: Notify,
}

struct State {
    budget: Budget<Tell>,
    /// Whether a task wakes those who wait. One does whenever someone waits.
    driven: bool,
}

/// How a waiter learns what became of it.
type Tell = oneshot::Sender<Result<Permit, Duration>>;

/// A slot that was granted.
struct Permit {
    line: Arc<Line>,
    spent: bool,
}

/// Takes a call out of the line if it is dropped while it waits.
struct Waiting<'a> {
    line: &'a Arc<Line>,
    id: Option<u64>,
}

// === impl Paced ===

impl Paced {
    /// Calls `inner` with at most this part, in percent, of EC2's own budgets.
    pub fn new(inner: Arc<dyn Backend>, percent: u32) -> Self {
        let (epoch, metrics) = (Instant::now(), Metrics::default());
        Self { inner, percent, metrics, shared: None, epoch, lines: Mutex::default() }
    }

    /// Counts what waits.
    #[must_use]
    pub fn counted(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// The part is that of all replicas together.
    #[must_use]
    pub fn sharing(self, shared: Arc<dyn SharedBudget>) -> Self {
        Self { shared: Some(shared), ..self }
    }

    fn line(&self, target: &Target, action: Action) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry((target.clone(), action)).or_insert_with(|| {
            let now = self.epoch.elapsed();
            let bucket = ec2_bucket(action.name());
            let budget = match self.shared {
                Some(_) => Budget::shared(bucket, self.percent, action, now),
                None => Budget::new(bucket, self.percent, now),
            };
            let class = if action.is_mutation() { "mutate" } else { "read" };
            let Target { account, region } = target;
            Arc::new(Line {
                target: target.clone(),
                action,
                counted: self.metrics.pacing(account.as_str(), region.as_str(), class),
                epoch: self.epoch,
                state: Mutex::new(State { budget, driven: false }),
                shared: self.shared.clone(),
                changed: Notify::new(),
            })
        });
        line.clone()
    }

    /// The slowest action's pace.
    fn pace(&self, target: &Target) -> u32 {
        let lines: Vec<Arc<Line>> = {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.values().filter(|line| line.target == *target).cloned().collect()
        };
        lines.iter().map(|line| line.lock().budget.pace_at(line.now())).min().unwrap_or(100)
    }

    async fn slot(
        &self,
        call: &CallContext,
        target: &Target,
        action: Action,
        lane: Lane,
    ) -> Result<Permit, BackendError> {
        self.line(target, action).slot(call, lane).await
    }

    /// Makes a mutation with the slot that the call holds, or with one that it waits for.
    async fn mutate<T>(
        &self,
        call: &CallContext,
        target: &Target,
        action: Action,
        send: Answer<'_, T>,
    ) -> Result<T, BackendError> {
        match call.slot.take().filter(|slot| slot.is_for(target, action)) {
            Some(slot) => slot.spend(),
            None => Box::new(self.slot(call, target, action, call.lane).await?).spend(),
        }
        self.heard(target, &[action], send.await)
    }

    /// Slows down if EC2 says so.
    fn heard<T>(
        &self,
        target: &Target,
        actions: &[Action],
        answer: Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        if let Err(BackendError::Refused(refusal)) = &answer
            && is_throttling(&refusal.code)
        {
            for action in actions {
                self.line(target, *action).throttled();
            }
        }
        answer
    }
}

impl fmt::Debug for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paced")
            .field("inner", &self.inner)
            .field("percent", &self.percent)
            .finish_non_exhaustive()
    }
}

impl Backend for Paced {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn resolve(
        &self,
        account: Option<AccountId>,
        region: Option<Region>,
    ) -> Result<Target, BackendError> {
        self.inner.resolve(account, region)
    }

    fn read_lag(&self) -> Duration {
        self.inner.read_lag()
    }

    fn standing(&self) -> Standing {
        let mut standing = self.inner.standing();
        if let Standing::Targets(targets) = &mut standing {
            for TargetStanding { target, pace_percent, .. } in targets {
                *pace_percent = Some(self.pace(target));
            }
        }
        standing
    }

    fn is_paced(&self) -> bool {
        true
    }

    fn reserve<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        action: Action,
    ) -> Option<Answer<'a, ()>> {
        Some(Box::pin(async move {
            let permit = self.slot(call, target, action, call.lane).await?;
            call.slot.put(Box::new(permit));
            Ok(())
        }))
    }

    fn image<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        group: &'a GroupRef,
    ) -> Answer<'a, GroupImage> {
        Box::pin(async move {
            let actions = [Action::DescribeGroups, Action::DescribeRules];
            for action in actions {
                Box::new(self.slot(call, target, action, call.read_lane).await?).spend();
            }
            let image = self.inner.image(call, target, group).await;
            if let Ok(image) = &image {
                let more = image.rules.len().saturating_sub(1) / RULES_ON_A_PAGE;
                if more > 0 {
                    let more = u32::try_from(more).unwrap_or(u32::MAX);
                    self.line(target, Action::DescribeRules).charge(more);
                }
            }
            self.heard(target, &actions, image)
        })
    }

    fn describe_groups<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeGroups,
    ) -> Answer<'a, Page<GroupImage>> {
        Box::pin(async move {
            let action = match request.is_unfiltered() {
                true => Action::DescribeAllGroups,
                false => Action::DescribeGroups,
            };
            Box::new(self.slot(call, target, action, call.read_lane).await?).spend();
            let page = self.inner.describe_groups(call, target, request).await;
            self.heard(target, &[action], page)
        })
    }

    fn describe_rules<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DescribeRules,
    ) -> Answer<'a, Page<OwnedRule>> {
        Box::pin(async move {
            let action = Action::DescribeRules;
            Box::new(self.slot(call, target, action, call.read_lane).await?).spend();
            let page = self.inner.describe_rules(call, target, request).await;
            self.heard(target, &[action], page)
        })
    }

    fn revoke<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a RevokeRules,
    ) -> Answer<'a, Revoked> {
        let action = match request.direction {
            Direction::Egress => Action::RevokeEgress,
            Direction::Ingress => Action::RevokeIngress,
        };
        Box::pin(self.mutate(call, target, action, self.inner.revoke(call, target, request)))
    }

    fn authorize<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a AuthorizeRules,
    ) -> Answer<'a, Authorized> {
        let action = match request.direction {
            Direction::Egress => Action::AuthorizeEgress,
            Direction::Ingress => Action::AuthorizeIngress,
        };
        Box::pin(self.mutate(call, target, action, self.inner.authorize(call, target, request)))
    }

    fn create_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a CreateGroup,
    ) -> Answer<'a, Created> {
        let send = self.inner.create_group(call, target, request);
        Box::pin(self.mutate(call, target, Action::CreateGroup, send))
    }

    fn delete_group<'a>(
        &'a self,
        call: &'a CallContext,
        target: &'a Target,
        request: &'a DeleteGroup,
    ) -> Answer<'a, Deleted> {
        let send = self.inner.delete_group(call, target, request);
        Box::pin(self.mutate(call, target, Action::DeleteGroup, send))
    }
}

// === impl Line ===

impl Line {
    /// Waits for a slot.
    async fn slot(
        self: &Arc<Self>,
        call: &CallContext,
        lane: Lane,
    ) -> Result<Permit, BackendError> {
        let caller = call.caller.as_deref().map(Principal::id).unwrap_or_default().into();
        let mut latest = call.deadline.checked_sub(CALL_TIME).unwrap_or(call.deadline);
        if self.shared.is_some() {
            latest = latest.max(call.deadline.min(Instant::now() + ASK_TIME));
        }
        let (tell, told) = oneshot::channel();
        let (asked, queued) = (Instant::now(), self.counted.queued());
        let latest_since = latest.saturating_duration_since(self.epoch);
        let id = self.lock().budget.ask(&caller, lane, latest_since, tell);
        let mut waiting = Waiting { line: self, id: Some(id) };
        self.settle();
        self.drive();
        // What is put off (all slots held, a slower pace) is not put off past the deadline. A slot that is there is
        // taken even then: whether there is time for the call is for the backend to say.
        let told = timeout_at(latest.max(Instant::now()), told).await;
        let wait = match told {
            Ok(Ok(Ok(permit))) => {
                waiting.id = None;
                drop(queued);
                self.counted.waited(asked.elapsed());
                trace::event("ec2 slot");
                return Ok(permit);
            }
            Ok(Ok(Err(wait))) => {
                waiting.id = None;
                wait
            }
            Ok(Err(_)) | Err(_) => waiting.leave(),
        };
        self.counted.refused();
        Err(BackendError::BudgetExhausted {
            action: self.action.name(),
            target: self.target.clone(),
            wait,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Tells everyone what became of them. When to do it again, if anyone waits.
    fn settle(self: &Arc<Self>) -> Option<Duration> {
        let (events, next) = self.lock().budget.poll(self.now());
        // Not under the lock: a permit that nobody takes is given back, and so is one that is dropped with its waiter.
        for event in events {
            let told = match event {
                Event::Granted(tell) => tell.send(Ok(Permit { line: self.clone(), spent: false })),
                Event::Refused(tell, wait) => tell.send(Err(wait)),
            };
            drop(told);
        }
        next
    }

    /// Makes sure that those who wait are woken, and that the shared budget is asked and told.
    fn drive(self: &Arc<Self>) {
        // Slots may be given back when there is no runtime any more.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut state = self.lock();
        if state.driven {
            self.changed.notify_one();
            return;
        }
        let asked = self.ask(&mut state);
        if asked.is_none() && !state.budget.is_waited_for() {
            return;
        }
        state.driven = true;
        drop(state);
        runtime.spawn(self.clone().run(asked));
    }

    async fn run(self: Arc<Self>, mut asked: Option<Taking>) {
        loop {
            let next = self.settle();
            if asked.is_none() {
                let mut state = self.lock();
                asked = self.ask(&mut state);
                if asked.is_none() && !state.budget.is_waited_for() {
                    state.driven = false;
                    return;
                }
            }
            let answer = async {
                match &mut asked {
                    Some(taking) => taking.await,
                    None => std::future::pending().await,
                }
            };
            let due = async {
                match next {
                    Some(next) => sleep_until(self.epoch + next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = answer => {
                    asked = None;
                    self.answered(answer);
                }
                () = due => {}
                () = self.changed.notified() => {}
            }
        }
    }

    fn ask(&self, state: &mut State) -> Option<Taking> {
        let shared = self.shared.as_ref()?;
        let ask = state.budget.to_ask(self.now())?;
        let Target { account, region } = &self.target;
        Some(shared.take(account.as_str(), region.as_str(), self.action.name(), ask))
    }

    fn answered(&self, answer: Option<Taken>) {
        let replicas = self.shared.as_ref().map_or(1, |shared| shared.replicas());
        if self.lock().budget.answered(answer.ok_or(replicas), self.now()) {
            let action = self.action.name();
            tracing::warn!(target = %self.target, action, replicas, "EC2's budget is not shared for now: one part of it");
        }
    }

    fn release(self: &Arc<Self>, used: bool) {
        self.lock().budget.release(used, self.now());
        self.drive();
    }

    fn charge(self: &Arc<Self>, calls: u32) {
        self.lock().budget.charge(calls, self.now());
        self.drive();
    }

    fn throttled(self: &Arc<Self>) {
        let pace = {
            let mut state = self.lock();
            state.budget.throttled(self.now());
            state.budget.pace()
        };
        self.drive();
        tracing::warn!(target = %self.target, action = self.action.name(), pace, "EC2 throttles: slower");
    }
}

// === impl Permit ===

impl Slot for Permit {
    fn spend(mut self: Box<Self>) {
        self.spent = true;
    }

    fn is_for(&self, target: &Target, action: Action) -> bool {
        self.line.action == action && self.line.target == *target
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.line.release(self.spent);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("action", &self.line.action).finish_non_exhaustive()
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    fn leave(&mut self) -> Duration {
        let Some(id) = self.id.take() else { return Duration::ZERO };
        let wait = self.line.lock().budget.cancel(id, self.line.now());
        self.line.drive();
        wait
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
