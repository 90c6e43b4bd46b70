//! What the service does, one use case a file, and the typed call that travels between decoding and here.
//!
//! [`Operations`] is the innermost service of the path: everything typed (detaching, later idempotency, turns and
//! pacing) is a layer around it with the same types. Behind it is only the backend.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    access::Access,
    backend::{
        Authorized, Backend, BackendError, CallContext, Created, Deleted, DescribeGroups,
        DescribeRules, GroupImage, OwnedRule, Page, Refusal,
    },
    clock::Clock,
    error::Error,
    ledger::{Key, Plan, Record, Recorded},
    pacing::{self, Lane},
    principal::{Peer, Principal},
    rule::{AccountId, Direction, GroupId, GroupRef, Region, RuleId, Target},
    telemetry::metrics::Metrics,
};

pub(crate) mod audit;
pub mod authorize;
pub mod canonical;
mod decide;
pub mod groups;
pub mod journal;
mod names;
mod pages;
pub mod records;
pub mod revoke;
mod settle;
mod warn;

pub use authorize::Authorize;
pub use groups::{Create, Delete};
pub use journal::{Journal, Timing};
pub use revoke::{OnUnknown, Revoke, RevokeOutcome};
pub(crate) use settle::Settler;
pub use warn::{Warning, WarningKind};

use revoke::Verification;

/// A decoded call, as the typed layers see it.
#[derive(Clone, Debug)]
pub struct Call {
    /// What every call has.
    pub meta: CallMeta,
    /// What it asks for.
    pub command: Command,
}

/// What every call has besides its request.
#[derive(Clone, Debug)]
pub struct CallMeta {
    /// For RequestInfo and the log.
    pub request_id: Arc<str>,
    /// When the caller must have its answer; our own margin is already taken off.
    pub deadline: Instant,
    /// The account that was asked for, if one was.
    pub account: Option<AccountId>,
    /// The Region that was asked for, if one was.
    pub region: Option<Region>,
    /// This call's id in the ledger, EC2's audit trail and the answer.
    pub operation_id: Arc<str>,
    /// Who calls.
    pub principal: Arc<Principal>,
    /// Nobody calls: the principal is what a record says, which has neither groups nor an address. Policies that are about
    /// those would be silent, so nothing is shown that they may forbid.
    pub by_record: bool,
    /// The other end of the caller's connection.
    pub peer: Peer,
    /// The RPC: `portcullis.v1.SecurityGroupService/RevokeEgress`.
    pub method: &'static str,
    /// The caller's idempotency key.
    pub key: Option<Key>,
    /// The caller's words on why.
    pub change_reason: Option<String>,
    /// The trace that the call is part of.
    pub trace_id: Option<String>,
    /// Where a change is written down before it is sent; the layer that records changes puts it here.
    pub journal: Option<Arc<Journal>>,
    /// How far the call has come; shared with the layers that may have to answer for it.
    pub progress: Arc<Progress>,
}

impl CallMeta {
    /// For looking at what became of an operation, without a caller that waits for it.
    pub(crate) fn of_record(record: &Record, deadline: Instant) -> Self {
        Self {
            request_id: "".into(),
            deadline,
            account: None,
            region: None,
            operation_id: record.id.as_str().into(),
            principal: Principal::parse_id(&record.caller).unwrap_or_else(Principal::local).into(),
            by_record: true,
            peer: Peer::default(),
            method: "",
            key: None,
            change_reason: None,
            trace_id: None,
            journal: None,
            progress: Arc::default(),
        }
    }
}

/// How far a mutation has come. It decides what may be said when the deadline passes, and whether a caller that has
/// gone still gets its change.
#[derive(Debug, Default)]
pub struct Progress {
    step: std::sync::Mutex<Step>,
    operation_id: OnceLock<Arc<str>>,
    gone: CancellationToken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    NotSent,
    Sent,
    Abandoned,
}

/// What a call asks for.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is the request of the RPC of that name")]
pub enum Command {
    Revoke(Revoke),
    Authorize(Authorize),
    DescribeGroups(DescribeGroups),
    DescribeRules(DescribeRules),
    Create(Create),
    Delete(Delete),
}

/// What a call gets.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is the answer to the command of that name")]
pub enum Outcome {
    Revoked(Box<RevokeOutcome>),
    Authorized(Authorized, Vec<Warning>),
    Groups(Target, Page<GroupImage>),
    Rules(Target, Page<OwnedRule>),
    Created(Created, Vec<Warning>),
    Deleted(Deleted, Vec<Warning>),
    /// EC2 answered DryRunOperation: permitted, nothing changed.
    DryRun,
    /// What the ledger holds of a change: the answer, or the refusal.
    Recorded(Box<Answered>),
}

/// A recorded answer, with what belongs to this call alone.
#[derive(Debug)]
pub struct Answered {
    /// The operation.
    pub operation_id: Arc<str>,
    /// What is recorded.
    pub recorded: Recorded,
    /// Whether an earlier call of the same key got it already.
    pub replayed: bool,
    /// Whether the ledger could not write it down yet.
    pub lags: bool,
    /// The result of reading back, if that was asked for.
    pub verification: Option<Verification>,
}

/// Writes answers down in the contract's form, and so that they are read again.
pub trait Scribe: fmt::Debug + Send + Sync + 'static {
    /// The answer to a call of `method`, without what belongs to one call alone.
    fn record(&self, method: &str, operation_id: &str, result: Result<Outcome, Error>) -> Recorded;
}

/// A boxed future of a typed service.
pub type Reply = Pin<Box<dyn Future<Output = Result<Outcome, Error>> + Send>>;

/// The innermost typed service.
#[derive(Clone, Debug)]
pub struct Operations {
    backend: Arc<dyn Backend>,
    access: Arc<Access>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// What a use case works with.
pub(crate) struct Work<'a> {
    pub(crate) backend: &'a dyn Backend,
    pub(crate) access: &'a Access,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) meta: &'a CallMeta,
    pub(crate) context: CallContext,
    pub(crate) target: Target,
}

// === impl Operations ===

impl Operations {
    /// Works on `backend`, as far as `access` allows.
    pub fn new(backend: Arc<dyn Backend>, access: Arc<Access>, clock: Arc<dyn Clock>) -> Self {
        Self { backend, access, clock, metrics: Metrics::default() }
    }

    /// Counts in `metrics` what becomes of operations.
    #[must_use]
    pub fn counted(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// What counts.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where the call works.
    pub(crate) fn place(&self, meta: &CallMeta) -> Result<Target, Error> {
        let target = self.backend.resolve(meta.account.clone(), meta.region.clone());
        target.map_err(|error| Error::from_backend(error, ""))
    }

    /// Whether its caller may work there at all, and do what can be decided without a look.
    pub(crate) fn check_early(
        &self,
        meta: &CallMeta,
        target: &Target,
        command: &Command,
    ) -> Result<(), Error> {
        self.work(meta, target.clone(), false).check_early(command)
    }

    /// What a use case works with. `own_reads`: it reads for a change, and not for its caller.
    fn work<'a>(&'a self, meta: &'a CallMeta, target: Target, own_reads: bool) -> Work<'a> {
        let mut context = CallContext::new(meta.deadline, meta.operation_id.as_ref());
        context.caller = Some(meta.principal.clone());
        if own_reads {
            context.read_lane = Lane::OwnReads;
        }
        Work {
            backend: self.backend.as_ref(),
            access: self.access.as_ref(),
            clock: self.clock.as_ref(),
            meta,
            context,
            target,
        }
    }

    /// Does what the call asks for, in the place that [`Self::place`] found, once [`Self::check_early`] allows it.
    pub(crate) async fn perform(self, call: Call, target: Target) -> Result<Outcome, Error> {
        let Call { meta, command } = call;
        let mutation = command.mutation();
        let mut work = self.work(&meta, target, mutation.is_some());
        if work.backend.is_paced() && work.has_incident_lane() {
            (work.context.lane, work.context.read_lane) = (Lane::Incident, Lane::Incident);
        }
        // Before any read, so that a change that cannot be sent in time costs EC2 nothing.
        if let Some(action) = mutation {
            work.reserve(action).await?;
        }
        match command {
            Command::Revoke(request) => revoke::run(&work, request).await,
            Command::Authorize(request) => authorize::run(&work, request).await,
            Command::DescribeGroups(request) => groups::describe_groups(&work, &request).await,
            Command::DescribeRules(request) => groups::describe_rules(&work, &request).await,
            Command::Create(request) => groups::create(&work, request).await,
            Command::Delete(request) => groups::delete(&work, request).await,
        }
    }

    /// The id of a group that is named by its name; none if there is no such group.
    pub(crate) async fn locate(
        &self,
        meta: &CallMeta,
        target: &Target,
        group: &GroupRef,
    ) -> Result<Option<GroupId>, Error> {
        let work = self.work(meta, target.clone(), true);
        let found = decide::read(&work, group).await?;
        Ok(found.image().map(|image| image.group.id.clone()))
    }

    /// Reads a group back until none of `removed` shows, or the deadline nears.
    pub(crate) async fn verify(
        &self,
        meta: &CallMeta,
        target: Target,
        group: &GroupRef,
        removed: &[RuleId],
    ) -> Verification {
        revoke::verify(&self.work(meta, target, true), group, removed).await
    }

    /// May the caller still have the answer of what is recorded? Decided on what the record holds, with today's
    /// policies; EC2 is not asked.
    pub(crate) fn may_replay(
        &self,
        meta: &CallMeta,
        target: Target,
        plan: &Plan,
    ) -> Result<(), Error> {
        self.work(meta, target, true).check_plan(plan)
    }

    /// The backend.
    pub(crate) fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }
}

impl Service<Call> for Operations {
    type Response = Outcome;
    type Error = Error;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Reply {
        let operations = self.clone();
        Box::pin(async move {
            let target = operations.place(&call.meta)?;
            operations.check_early(&call.meta, &target, &call.command)?;
            operations.perform(call, target).await
        })
    }
}

// === impl Work ===

impl Work<'_> {
    /// Waits for a slot of EC2's budget. What is chosen by a read is chosen after it: a slot can be long in coming. False:
    /// there is nothing to wait for.
    pub(crate) async fn reserve(&self, action: pacing::Action) -> Result<bool, Error> {
        let Some(reserved) = self.backend.reserve(&self.context, &self.target, action) else {
            return Ok(false);
        };
        reserved.await.map_err(|error| Error::from_backend(error, ""))?;
        Ok(true)
    }

    /// Writes the intent, and marks the call as sent: with what comes back it may be sent now. An error if its caller
    /// has gone, or the intent could not be written: then it must never be sent.
    pub(crate) async fn begin_sending(&self, plan: Plan) -> Result<CallContext, Error> {
        let late = || Error::from_backend(BackendError::DeadlineTooNear, "");
        let Some(journal) = &self.meta.journal else {
            return Err(Error::internal("a change without a journal"));
        };
        if self.meta.deadline <= Instant::now() {
            return Err(late());
        }
        // From before the intent is written, as the lease.
        let began = self.clock.now();
        journal.begin(plan).await?;
        let until = journal.send_until().ok_or_else(late)?;
        if self.meta.deadline <= Instant::now()
            || !self.meta.progress.begin_sending(&self.meta.operation_id)
        {
            return Err(late());
        }
        // It was sent, so it is finished: the caller's deadline bounds the caller's wait, not the change.
        let until_wall = began.checked_add(journal.lease());
        Ok(CallContext { deadline: until, deadline_wall: until_wall, ..self.context.clone() })
    }

    /// Until when the call may wait for something: its deadline, or the end of its lease, as what it has begun is taken over
    /// after that.
    pub(crate) fn may_wait_until(&self) -> Instant {
        let journal = self.meta.journal.as_ref();
        let ends = journal.and_then(|journal| journal.lease_ends());
        ends.map_or(self.meta.deadline, |ends| ends.min(self.meta.deadline))
    }

    /// EC2 answered a change, whatever it said.
    pub(crate) fn answered(&self, request_id: Option<&String>) {
        if let Some(journal) = &self.meta.journal {
            journal.answered(request_id);
        }
    }

    /// What a read shows is the answer, and not what EC2 said.
    pub(crate) fn is_read_back(&self) {
        if let Some(journal) = &self.meta.journal {
            journal.is_read_back();
        }
    }

    /// The call ends without sending anything: what it would have been about.
    pub(crate) fn nothing_to_send(&self, plan: Plan) {
        if let Some(journal) = &self.meta.journal {
            journal.nothing_to_send(plan);
        }
    }

    /// Whether an earlier attempt of this call may show only now: then what EC2 refuses as done may be our own doing.
    pub(crate) fn again(&self) -> bool {
        self.meta.journal.as_ref().is_some_and(|journal| journal.again())
    }

    /// What the attempt before was about, if reads alone say that it had no effect.
    pub(crate) fn earlier(&self) -> Option<&Plan> {
        self.meta.journal.as_ref()?.earlier()
    }

    /// Names the operation in an error of a mutation that was sent.
    pub(crate) fn sent_error(&self, error: BackendError, resource: &str) -> Error {
        self.answered(error.request_id());
        // The backend's own bound is the deadline, too: which of the two notices first is chance, what is said is not.
        let unknown = matches!(error, BackendError::OutcomeUnknown(_));
        if let (true, Some(journal)) = (unknown, &self.meta.journal) {
            journal.doubt();
        }
        let late = unknown && Instant::now() >= self.meta.deadline;
        let operation_id = self.meta.progress.sent_operation();
        if late {
            return Error::deadline_passed(operation_id);
        }
        Error { operation_id, ..Error::from_backend(error, resource) }
    }
}

/// Whether EC2 said that a dry run would have gone through.
pub(crate) fn is_dry_run_success(error: &BackendError) -> bool {
    matches!(error, BackendError::Refused(Refusal { code, .. }) if code == "DryRunOperation")
}

// === impl Command ===

impl Command {
    /// EC2's action, if the command changes something.
    fn mutation(&self) -> Option<pacing::Action> {
        let action = match self {
            Self::Revoke(request) => revoke::paced_as(request.direction),
            Self::Authorize(request) => match request.rules.direction {
                Direction::Egress => pacing::Action::AuthorizeEgress,
                Direction::Ingress => pacing::Action::AuthorizeIngress,
            },
            Self::Create(_) => pacing::Action::CreateGroup,
            Self::Delete(_) => pacing::Action::DeleteGroup,
            Self::DescribeGroups(_) | Self::DescribeRules(_) => return None,
        };
        self.is_mutation().then_some(action)
    }

    /// Whether the name in [`Self::group`] is one of a group that is there already.
    pub(crate) fn names_existing_group(&self) -> bool {
        !matches!(self, Self::Create(_))
    }

    /// What it changes: the group, or for one that is to be its VPC and name.
    pub(crate) fn group(&self) -> Option<GroupRef> {
        match self {
            Self::Revoke(request) => Some(request.group.clone()),
            Self::Authorize(request) => Some(request.rules.group.clone()),
            Self::Delete(request) => Some(request.0.group.clone()),
            Self::Create(request) => {
                let vpc = request.0.vpc_id.as_ref().map_or("default", |vpc| vpc.as_str());
                Some(GroupRef::Name(format!("{vpc}/{}", request.0.name)))
            }
            Self::DescribeGroups(_) | Self::DescribeRules(_) => None,
        }
    }

    /// Whether it changes something, so that it must be run to its end once it was sent.
    pub fn is_mutation(&self) -> bool {
        match self {
            Self::Revoke(request) => !request.dry_run,
            Self::Authorize(request) => !request.rules.dry_run,
            Self::Create(request) => !request.0.dry_run,
            Self::Delete(request) => !request.0.dry_run,
            Self::DescribeGroups(_) | Self::DescribeRules(_) => false,
        }
    }
}

// === impl Progress ===

impl Progress {
    fn step(&self) -> std::sync::MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From here on the effect may happen. False if the caller has gone: then it must not.
    pub fn begin_sending(&self, operation_id: &Arc<str>) -> bool {
        let mut step = self.step();
        if *step == Step::Abandoned {
            return false;
        }
        *step = Step::Sent;
        let _ = self.operation_id.set(operation_id.clone());
        true
    }

    /// The caller has gone or got its answer: what was not sent never will be.
    pub fn abandon(&self) {
        let mut step = self.step();
        if *step == Step::NotSent {
            *step = Step::Abandoned;
            self.gone.cancel();
        }
    }

    /// Waits until the caller has gone before the call was sent.
    pub async fn abandoned(&self) {
        self.gone.cancelled().await;
    }

    /// The operation, if it was sent.
    pub fn sent_operation(&self) -> Option<Arc<str>> {
        self.operation_id.get().cloned()
    }
}
