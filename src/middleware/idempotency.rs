//! Typed middleware that makes one operation have one effect and one answer (design.md section 3): it looks a change up
//! in the ledger, replays, joins or settles what is known, and else lets it run in its group's turn and writes down what
//! came of it.
//!
//! It stands right around the operations: they write the intent themselves, through the journal that they get here,
//! because only they know what is about to be sent.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

use crate::{
    clock::Clock,
    error::{Error, Reason},
    ledger::{
        Filter, Intent, Ledger, Look, Looked, Plan, Record, SettledBy, State, Terms, Turn,
        memory::Memory, record::to_millis, turns::MAX_OF_GROUP,
    },
    operations::{
        Answered, Call, CallMeta, Journal, Operations, Outcome, Reply, Scribe, Settler, Timing,
        canonical, journal::unavailable,
    },
    rule::{GroupRef, Target, Violation, permission::excerpt},
    telemetry::{metrics::Metrics, trace},
};

mod conclude;
pub mod settling;

/// How often it is looked for operations that nobody settles.
pub const SETTLE_EVERY: Duration = Duration::from_secs(5);

/// Longer than an operation is in progress.
const LONGEST: Duration = Duration::from_secs(600);

/// What the layer works with.
#[derive(Clone, Debug)]
pub struct Books {
    /// Where operations are recorded.
    pub ledger: Arc<dyn Ledger>,
    /// Writes answers down.
    pub scribe: Arc<dyn Scribe>,
    /// How long things take at most.
    pub timing: Timing,
    /// Whether a change without a key is refused.
    pub key_required: bool,
    /// How often it is looked for operations that nobody settles.
    pub settle_every: Duration,
}

/// Makes operations idempotent.
#[derive(Clone, Debug)]
pub struct IdempotencyLayer {
    books: Books,
    tasks: TaskTracker,
}

/// See [`IdempotencyLayer`].
#[derive(Clone, Debug)]
pub struct Idempotency {
    operations: Operations,
    books: Books,
    tasks: TaskTracker,
}

/// One change on its way through the layer.
struct Run {
    operations: Operations,
    books: Books,
    tasks: TaskTracker,
    call: Call,
    target: Target,
    request: Value,
    question: Look,
    turn: Option<Turn>,
    /// When it was looked up first, in the ledger's time, to the millisecond.
    arrived: Option<SystemTime>,
    /// Whether others had the group's turn in between.
    waited: bool,
    /// Without a key: the operation that this call waits for the answer of.
    joined: Option<String>,
    /// An earlier attempt was in doubt while this call waited: its effect may show only now.
    again: bool,
}

/// A wait for a turn, which is measured however it ends.
struct Wait {
    metrics: Metrics,
    began: Instant,
}

/// What the ledger's knowledge comes to.
enum Course {
    /// Look once more.
    Look,
    /// The answer is known.
    Replay(Box<Record>),
    /// It is this call's to run; as the next attempt of the record that is known, if one is.
    Run(Option<Box<Record>>),
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.metrics.waited_for_turn(self.began.elapsed());
    }
}

impl Books {
    /// With a ledger in memory: for the sandbox within this process, and for tests.
    pub fn in_memory(terms: Terms, clock: Arc<dyn Clock>, scribe: Arc<dyn Scribe>) -> Self {
        Self {
            ledger: Arc::new(Memory::new(terms, clock)),
            scribe,
            timing: Timing::default(),
            key_required: false,
            settle_every: SETTLE_EVERY,
        }
    }
}

impl IdempotencyLayer {
    /// With these books. What cannot be written into them at once is tried again by a task of `tasks`: a drain waits
    /// for it.
    pub fn new(books: Books, tasks: TaskTracker) -> Self {
        Self { books, tasks }
    }
}

impl Layer<Operations> for IdempotencyLayer {
    type Service = Idempotency;

    fn layer(&self, operations: Operations) -> Idempotency {
        Idempotency { operations, books: self.books.clone(), tasks: self.tasks.clone() }
    }
}

impl Service<Call> for Idempotency {
    type Response = Outcome;
    type Error = Error;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Reply {
        if !call.command.is_mutation() {
            return self.operations.call(call);
        }
        let Self { operations, books, tasks } = self.clone();
        let progress = call.meta.progress.clone();
        Box::pin(async move {
            let answer = Run::begin(operations, books, tasks, call).await?.answer().await;
            answer.map_err(|error| own_up(error, progress.sent_operation()))
        })
    }
}

impl Run {
    async fn begin(
        operations: Operations,
        books: Books,
        tasks: TaskTracker,
        call: Call,
    ) -> Result<Self, Error> {
        if books.key_required && call.meta.key.is_none() {
            return Err(Error::invalid(vec![Violation::new(
                "metadata.idempotency-key",
                "MissingParameter",
                "This server takes changes with an idempotency key only.",
            )]));
        }
        let target = operations.place(&call.meta)?;
        let request = canonical::request(&target, &call.command);
        let scope = canonical::scope(&operations.backend().identity(), &target);
        let group = call.command.group().map(|group| group.to_string()).unwrap_or_default();
        let mut question = Look {
            caller: call.meta.principal.id(),
            key: call.meta.key.clone(),
            fingerprint: canonical::fingerprint(call.meta.method, &request),
            group: canonical::turn(&scope, &group),
            scope,
        };
        if let Err(denial) = operations.check_early(&call.meta, &target, &call.command) {
            return Err(own_up_to_earlier(&books, &question, denial).await);
        }
        if let Some(name @ GroupRef::Name(_)) = call.command.group()
            && call.command.names_existing_group()
        {
            question.group = match recorded_group(&books, &question).await? {
                Some(group) => group,
                None => {
                    let found = operations.locate(&call.meta, &target, &name).await?;
                    let id = found.map_or(group, |id| id.to_string());
                    canonical::turn(&question.scope, &id)
                }
            };
        }
        Ok(Self {
            operations,
            books,
            tasks,
            call,
            target,
            request,
            question,
            turn: None,
            arrived: None,
            waited: false,
            joined: None,
            again: false,
        })
    }

    async fn answer(mut self) -> Result<Outcome, Error> {
        loop {
            let looked = self.books.ledger.look(&self.question).await.map_err(unavailable)?;
            let before = match self.course(looked).await? {
                Course::Look => continue,
                Course::Replay(record) => return self.replay(*record),
                Course::Run(before) => before,
            };
            if self.turn.is_none() {
                // Looked again within it: much may happen while one waits.
                self.take_turn().await?;
                continue;
            }
            let journal = Arc::new(self.journal(before.as_deref()));
            let mut call = self.call.clone();
            call.meta.operation_id = journal.draft().id.as_str().into();
            call.meta.journal = Some(journal.clone());
            let meta = call.meta.clone();
            let result = self.operations.clone().perform(call, self.target.clone()).await;
            if journal.so_far().outrun {
                // Another replica was quicker.
                continue;
            }
            return self.conclude(&meta, &journal, result).await;
        }
    }

    /// What the ledger's knowledge comes to; waits, and settles, where that has to come first.
    async fn course(&mut self, looked: Looked) -> Result<Course, Error> {
        let Looked { by_key, equal, unsettled, now } = looked;
        self.arrived.get_or_insert(UNIX_EPOCH + Duration::from_millis(to_millis(now)));
        let mine = match (&self.question.key, equal) {
            (Some(_), _) => by_key,
            (None, Some(equal)) => Some(equal),
            (None, None) => self.answered_meanwhile().await?,
        };
        let before = match mine {
            None => None,
            Some(record) if record.fingerprint != self.question.fingerprint => {
                return Err(self.key_reused(&record));
            }
            Some(record) => match record.state {
                State::Succeeded | State::Refused => return Ok(Course::Replay(Box::new(record))),
                State::Unresolved => return Err(unresolved(&record)),
                State::Released => Some(record),
                State::InProgress | State::InDoubt => {
                    self.join(&record, now).await?;
                    return Ok(Course::Look);
                }
            },
        };
        if self.turn.is_some()
            && let Some(other) = unsettled
        {
            self.clear(&other, now).await?;
            return Ok(Course::Look);
        }
        Ok(Course::Run(before.map(Box::new)))
    }

    /// Without a key: the operation that this call joined, or an equal one that had its turn while this one waited for it,
    /// if it has its answer by now. One that had no effect leaves this call to run by itself.
    async fn answered_meanwhile(&mut self) -> Result<Option<Record>, Error> {
        let filter = if let Some(id) = self.joined.take() {
            Filter { id: Some(id), limit: 1, ..Filter::default() }
        } else if std::mem::take(&mut self.waited) {
            Filter {
                states: vec![State::Succeeded, State::Refused],
                caller: Some(self.question.caller.clone()),
                group: Some(self.question.group.clone()),
                since: self.arrived.and_then(|at| at.checked_sub(LONGEST)),
                limit: MAX_OF_GROUP,
                ..Filter::default()
            }
        } else {
            return Ok(None);
        };
        let records = self.books.ledger.list(&filter).await.map_err(unavailable)?;
        let answered = |record: &Record| {
            record.fingerprint == self.question.fingerprint
                && match record.state {
                    State::Succeeded | State::Refused => record.settled_at >= self.arrived,
                    State::Unresolved => true,
                    State::Released | State::InProgress | State::InDoubt => false,
                }
        };
        Ok(records.into_iter().find(answered))
    }

    /// The same call is in somebody's hands, or nobody's: waits for its answer, or settles it.
    async fn join(&mut self, record: &Record, now: SystemTime) -> Result<(), Error> {
        if self.question.key.is_none() {
            self.joined = Some(record.id.clone());
        }
        let held = left(record, now);
        if !held.is_zero() {
            let in_progress = record.state == State::InProgress;
            let until = Instant::now() + held;
            if !in_progress && until > self.last_moment() {
                return Err(in_doubt(record, self.question.key.is_some(), held));
            }
            if self.wait(record, until).await? {
                return Ok(());
            }
            return Err(if in_progress {
                let message = "the same call is in progress; its answer is not there yet";
                let error =
                    Error::later(Reason::OperationInProgress, message, Duration::from_secs(1));
                Error { operation_id: Some(record.id.as_str().into()), ..error }
            } else {
                in_doubt(record, self.question.key.is_some(), held)
            });
        }
        self.again = true;
        if self.turn.is_none() {
            return self.take_turn().await;
        }
        // Without the key a call only reads: what it joins may be another's to send again.
        self.settle(record, self.question.key.is_some()).await?;
        Ok(())
    }

    /// Another operation of the group is not settled: that comes first.
    async fn clear(&mut self, other: &Record, now: SystemTime) -> Result<(), Error> {
        let held = left(other, now);
        if held.is_zero() {
            self.settle(other, false).await?;
            return Ok(());
        }
        let until = Instant::now() + held;
        if until <= self.last_moment() && self.wait(other, until).await? {
            return Ok(());
        }
        let message =
            "what became of another change of this group is not known yet; nothing was sent";
        Err(Error::later(Reason::GroupInDoubt, message, held))
    }

    /// Settles it, and waits for that as long as this call may. It goes on by itself: what takes two reads would never be
    /// settled if calls that have no time for them ended it again and again.
    async fn settle(&self, record: &Record, live: bool) -> Result<(), Error> {
        let mut meta = self.call.meta.clone();
        meta.operation_id = record.id.as_str().into();
        let live = live.then_some(meta.deadline);
        meta.deadline = meta.deadline.max(Instant::now() + settling::BOUND);
        let (operations, books, record) =
            (self.operations.clone(), self.books.clone(), record.clone());
        let settling = async move {
            let Books { ledger, scribe, timing, .. } = &books;
            let settler = Settler {
                operations: &operations,
                ledger: ledger.as_ref(),
                scribe: scribe.as_ref(),
                timing: *timing,
                meta: &meta,
                live,
            };
            settler.settle(&record).await
        };
        let task = self.tasks.spawn(trace::carried(settling));
        match timeout_at(self.last_moment(), task).await {
            Ok(Ok(settled)) => settled.map_err(unavailable),
            Ok(Err(error)) => Err(Error::internal(format!("settling: {error}"))),
            // The next look finds it held.
            Err(_) => Ok(()),
        }
    }

    /// Waits until the record may have changed, or `until`: true. False: it is the last moment to answer.
    async fn wait(&self, record: &Record, until: Instant) -> Result<bool, Error> {
        let last = self.last_moment();
        tokio::select! {
            // In this order, so that a test's seed replays.
            biased;
            changed = self.books.ledger.changed(&record.id, record.version) => {
                changed.map_err(unavailable)?;
                Ok(true)
            }
            () = sleep_until(until.min(last)) => Ok(until < last),
            () = self.call.meta.progress.abandoned() => Err(gone()),
        }
    }

    async fn take_turn(&mut self) -> Result<(), Error> {
        let _wait = Wait { metrics: self.operations.metrics().clone(), began: Instant::now() };
        let mut turn = self.books.ledger.turn(&self.question.group, self.last_moment());
        let at_once = poll_fn(|cx| Poll::Ready(turn.as_mut().poll(cx))).await;
        let turn = match at_once {
            Poll::Ready(turn) => turn,
            Poll::Pending => {
                self.waited = true;
                tokio::select! {
                    biased;
                    turn = turn => turn,
                    () = self.call.meta.progress.abandoned() => return Err(gone()),
                }
            }
        };
        self.turn = Some(turn.map_err(unavailable)?);
        trace::event("turn");
        Ok(())
    }

    /// When an answer must be given, so that it is ours and not the deadline's.
    fn last_moment(&self) -> Instant {
        let deadline = self.call.meta.deadline;
        let left = deadline.saturating_duration_since(Instant::now());
        deadline - (left / 10).min(Duration::from_millis(20))
    }

    fn journal(&self, before: Option<&Record>) -> Journal {
        let CallMeta { operation_id, key, method, change_reason, trace_id, .. } = &self.call.meta;
        let Look { scope, caller, fingerprint, group, .. } = &self.question;
        let draft = Intent {
            id: before.map_or_else(|| operation_id.to_string(), |record| record.id.clone()),
            fence: before.map_or(0, |record| record.fence),
            scope: scope.clone(),
            caller: caller.clone(),
            key: key.clone(),
            fingerprint: fingerprint.clone(),
            method: (*method).to_owned(),
            account: self.target.account.to_string(),
            region: self.target.region.to_string(),
            group: group.clone(),
            request: self.request.clone(),
            plan: Plan::none(),
            change_reason: change_reason.clone(),
            trace_id: trace_id.clone(),
            hold: Duration::ZERO,
            conclusion: None,
        };
        let by_reads = |record: &&Record| record.settled_by == Some(SettledBy::ReadBack);
        let earlier = before.filter(by_reads).map(|record| record.plan.clone());
        Journal::new(self.books.ledger.clone(), draft, self.books.timing, self.again, earlier)
    }

    /// The recorded answer, if policies still allow its caller what it did.
    fn replay(self, record: Record) -> Result<Outcome, Error> {
        let operation_id: Arc<str> = record.id.as_str().into();
        let allowed = self.operations.may_replay(&self.call.meta, self.target, &record.plan);
        if let Err(denial) = allowed {
            return Err(denied(denial, &record));
        }
        let Some(recorded) = record.answer else {
            return Err(Error::internal(format!(
                "{} is {} without an answer",
                record.id, record.state
            )));
        };
        Ok(Outcome::Recorded(Box::new(Answered {
            operation_id,
            recorded,
            replayed: true,
            lags: false,
            verification: None,
        })))
    }

    fn key_reused(&self, record: &Record) -> Error {
        let mut differing = canonical::differing(&record.request, &self.request);
        if record.method != self.call.meta.method {
            differing.insert(0, "method".to_owned());
        }
        let message = format!(
            "the idempotency key was used with another request; they differ in: {}",
            excerpt(&differing.join(", "))
        );
        Error::new(Reason::IdempotencyKeyReused, message)
    }
}

/// What a caller with a key is told that may not even ask: what it asked for may have been done while it might.
async fn own_up_to_earlier(books: &Books, question: &Look, denial: Error) -> Error {
    if question.key.is_none() {
        return denial;
    }
    // A ledger that cannot be read does not make the denial another one.
    let by_key = books.ledger.look(question).await.ok().and_then(|looked| looked.by_key);
    match by_key.filter(|record| record.fingerprint == question.fingerprint) {
        Some(record) => denied(denial, &record),
        None => denial,
    }
}

/// A denial must not be read as "did not happen".
fn denied(denial: Error, record: &Record) -> Error {
    let Record { id, state, .. } = record;
    let message = format!("policy does not allow this now; operation {id} is {state}");
    Error { message, operation_id: Some(id.as_str().into()), ..denial }
}

/// The group of a call with a known key, by the record: a replay asks EC2 nothing, not even what a name means. What is
/// going to run again is looked up anew.
async fn recorded_group(books: &Books, question: &Look) -> Result<Option<String>, Error> {
    if question.key.is_none() {
        return Ok(None);
    }
    let looked = books.ledger.look(question).await.map_err(unavailable)?;
    let known = looked.by_key.filter(|record| record.state != State::Released);
    Ok(known.map(|record| record.group))
}

/// How long a record is held by somebody.
fn left(record: &Record, now: SystemTime) -> Duration {
    record.held_until.duration_since(now).unwrap_or_default()
}

fn gone() -> Error {
    Error::deadline_passed(None)
}

/// A call that sent what was left of an earlier attempt, and then could not go on: it is not told that nothing was sent.
fn own_up(error: Error, sent: Option<Arc<str>>) -> Error {
    let stopped = matches!(
        error.reason,
        Reason::LedgerUnavailable
            | Reason::DeadlineExceeded
            | Reason::Overloaded
            | Reason::GroupInDoubt
            | Reason::OperationInProgress
    );
    if sent.is_none() || !stopped {
        return error;
    }
    let message = "the operation was sent to EC2, and this call could not wait for what became of it; call again to \
                   learn it";
    Error { message: message.to_owned(), operation_id: sent, ..error }
}

/// What is said of an operation that may have had its effect.
fn in_doubt(record: &Record, has_key: bool, held: Duration) -> Error {
    let operation_id = Some(Arc::from(record.id.as_str()));
    let message = if has_key {
        "the change was sent to EC2 and no readable answer came; call again with the same key to settle it"
    } else {
        "the change was sent to EC2 and no readable answer came: it may or may not have been made; describe \
         the group before you try again"
    };
    let error = if has_key {
        Error::later(Reason::OutcomeUnknownWithKey, message, held)
    } else {
        Error::new(Reason::OutcomeUnknown, message)
    };
    Error { operation_id, ..error }
}

fn unresolved(record: &Record) -> Error {
    let message = "what became of this operation cannot be found out; an operator has to settle it";
    let error = Error::new(Reason::OutcomeUnknown, message);
    Error { operation_id: Some(record.id.as_str().into()), ..error }
}
