//! What the service does, one use case a file, and the typed call that travels between decoding and here.
//!
//! [`Operations`] is the innermost service of the path: everything typed (detaching, later idempotency, turns and
//! pacing) is a layer around it with the same types. Behind it is only the backend.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower::Service;

use crate::{
    access::{Access, Action},
    backend::{
        Authorized, Backend, BackendError, CallContext, Created, Deleted, DescribeGroups,
        DescribeRules, GroupImage, OwnedRule, Page, Refusal,
    },
    clock::Clock,
    error::Error,
    principal::{Peer, Principal},
    rule::{AccountId, Region, Target},
};

pub mod authorize;
mod decide;
pub mod groups;
mod names;
mod pages;
pub mod revoke;
mod warn;

pub use authorize::Authorize;
pub use groups::{Create, Delete};
pub use revoke::{OnUnknown, Revoke, RevokeOutcome};
pub use warn::{Warning, WarningKind};

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
    /// The other end of the caller's connection.
    pub peer: Peer,
    /// How far the call has come; shared with the layers that may have to answer for it.
    pub progress: Arc<Progress>,
}

/// How far a mutation has come. It decides what may be said when the deadline passes, and whether a caller that has
/// gone still gets its change.
#[derive(Debug, Default)]
pub struct Progress {
    step: std::sync::Mutex<Step>,
    operation_id: OnceLock<Arc<str>>,
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
    Created(Created),
    Deleted(Deleted),
    /// EC2 answered DryRunOperation: permitted, nothing changed.
    DryRun,
}

/// A boxed future of a typed service.
pub type Reply = Pin<Box<dyn Future<Output = Result<Outcome, Error>> + Send>>;

/// The innermost typed service.
#[derive(Clone, Debug)]
pub struct Operations {
    backend: Arc<dyn Backend>,
    access: Arc<Access>,
    clock: Arc<dyn Clock>,
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
        Self { backend, access, clock }
    }

    async fn run(self, call: Call) -> Result<Outcome, Error> {
        let Call { meta, command } = call;
        let target = self
            .backend
            .resolve(meta.account.clone(), meta.region.clone())
            .map_err(|error| Error::from_backend(error, ""))?;
        let mut context = CallContext::new(meta.deadline, meta.operation_id.as_ref());
        context.caller = Some(meta.principal.clone());
        let work = Work {
            backend: self.backend.as_ref(),
            access: self.access.as_ref(),
            clock: self.clock.as_ref(),
            meta: &meta,
            context,
            target,
        };
        work.check_target(Action::Access, false)?;
        match command {
            Command::Revoke(request) => revoke::run(&work, request).await,
            Command::Authorize(request) => authorize::run(&work, request).await,
            Command::DescribeGroups(request) => groups::describe_groups(&work, &request).await,
            Command::DescribeRules(request) => groups::describe_rules(&work, &request).await,
            Command::Create(request) => groups::create(&work, request).await,
            Command::Delete(request) => groups::delete(&work, request).await,
        }
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
        Box::pin(self.clone().run(call))
    }
}

// === impl Work ===

impl Work<'_> {
    /// Marks the call as sent. An error if its caller has gone: then it must never be sent.
    pub(crate) fn begin_sending(&self) -> Result<(), Error> {
        if self.meta.deadline <= Instant::now()
            || !self.meta.progress.begin_sending(&self.meta.operation_id)
        {
            return Err(Error::from_backend(BackendError::DeadlineTooNear, ""));
        }
        Ok(())
    }

    /// Names the operation in an error of a mutation that was sent.
    pub(crate) fn sent_error(&self, error: BackendError, resource: &str) -> Error {
        // The backend's own bound is the deadline, too: which of the two notices first is chance, what is said is not.
        let late = matches!(error, BackendError::OutcomeUnknown(_))
            && Instant::now() >= self.meta.deadline;
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
        }
    }

    /// The operation, if it was sent.
    pub fn sent_operation(&self) -> Option<Arc<str>> {
        self.operation_id.get().cloned()
    }
}
