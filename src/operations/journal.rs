//! What a use case writes into the ledger on its way: the intent before it sends. The outcome is written by the layer
//! that gave it the journal (`middleware/idempotency.rs`), once the answer is known.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    backend::{CreateGroup, Group, GroupImage},
    error::{Error, Reason},
    ledger::{
        Intended, Intent, Ledger, LedgerError, Move, Plan, Record, State,
        stored::{StoredGroup, StoredRule, StoredTag},
    },
    rule::{Direction, Rule, Tag, Target},
    telemetry::trace,
};

/// The pause between the two reads that prove that nothing was done: longer than any read is known to lag (R47).
pub(super) const SECOND_LOOK: Duration = Duration::from_secs(1);

/// How long things take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One attempt of a request to EC2.
    pub attempt: Duration,
    /// From an intent on, its holder may send for this long, less an attempt.
    pub lease: Duration,
    /// After the end of a lease and of an attempt, how long it may take until reads show what was done (R47).
    pub grace: Duration,
}

/// An operation's line to the ledger.
#[derive(Debug)]
pub struct Journal {
    ledger: Arc<dyn Ledger>,
    draft: Intent,
    timing: Timing,
    again: bool,
    earlier: Option<Plan>,
    kept: Mutex<Kept>,
}

/// What has become of it so far.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The record of the written intent.
    pub record: Option<Box<Record>>,
    /// Until when it may be sent.
    pub lease_ends: Option<Instant>,
    /// Whether something that was sent has no answer.
    pub in_doubt: bool,
    /// Somebody else was quicker: with the group, the key or this very operation. It is to be looked at anew.
    pub outrun: bool,
    /// EC2's request id, of the last request that was answered and is not in the record yet.
    pub ec2_request_id: Option<String>,
    /// What a read shows is the answer, and not what EC2 said.
    pub read_back: bool,
    /// What it would have been about, if it ended without sending anything.
    pub unsent: Option<Plan>,
}

// === impl Timing ===

impl Default for Timing {
    fn default() -> Self {
        Self::new(Duration::from_secs(10), Duration::from_secs(5))
    }
}

impl Timing {
    /// From how long one attempt takes at most. The lease leaves room for three, which a revoke by rule ids may need.
    pub fn new(attempt: Duration, grace: Duration) -> Self {
        Self { attempt, lease: attempt * 3, grace }
    }

    /// How long an intent is held: until its lease and the last attempt have ended and reads show what was done.
    pub fn hold(self) -> Duration {
        self.lease + self.attempt + self.grace
    }

    /// How long one who settles holds a record: for two reads with a pause between them, and an attempt.
    pub fn settling(self) -> Duration {
        self.lease + self.attempt + 2 * SECOND_LOOK
    }
}

// === impl Journal ===

impl Journal {
    /// For one call. `again`: an earlier attempt may have had an effect that was not seen when it was settled.
    /// `earlier`: what that attempt was about, if reads alone say that it had none (R47).
    pub fn new(
        ledger: Arc<dyn Ledger>,
        draft: Intent,
        timing: Timing,
        again: bool,
        earlier: Option<Plan>,
    ) -> Self {
        let again = again || earlier.is_some();
        Self { ledger, draft, timing, again, earlier, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has become of it.
    pub fn so_far(&self) -> Kept {
        self.kept().clone()
    }

    /// What would be written, but for the plan.
    pub fn draft(&self) -> &Intent {
        &self.draft
    }

    /// Whether an earlier attempt may show only now: then what is refused as done already may be our own doing.
    pub fn again(&self) -> bool {
        self.again
    }

    /// What the attempt before was about, if reads alone say that it had no effect.
    pub(crate) fn earlier(&self) -> Option<&Plan> {
        self.earlier.as_ref()
    }

    /// What a read shows is the answer.
    pub(crate) fn is_read_back(&self) {
        self.kept().read_back = true;
    }

    /// Writes the intent, or that it goes on by another plan. Whoever gets an error must not send.
    pub(crate) async fn begin(&self, plan: Plan) -> Result<(), Error> {
        let (before, answered) = {
            let mut kept = self.kept();
            (kept.record.clone(), kept.ec2_request_id.take())
        };
        // The lease runs from before the write: what the ledger counts from ends later.
        let started = Instant::now();
        let hold = self.timing.hold();
        let written = match before {
            None => {
                let intent = Intent { plan, hold, ..self.draft.clone() };
                self.ledger.intend(&intent).await
            }
            Some(record) => {
                let step = Move {
                    plan: Some(plan),
                    hold,
                    ec2_request_id: answered,
                    ..Move::to(State::InProgress)
                };
                let advanced = self.ledger.advance(&record.id, record.fence, &step).await;
                advanced.map(|record| Intended::Written(Box::new(record)))
            }
        };
        let mut kept = self.kept();
        match written {
            Ok(Intended::Written(record)) => {
                trace::event("intent recorded");
                kept.record = Some(record);
                kept.lease_ends = Some(started + self.timing.lease);
                Ok(())
            }
            // A turn can be lost, and with it two calls may begin the next attempt of one operation: one of them does.
            Err(LedgerError::Fenced) if kept.record.is_none() => {
                kept.outrun = true;
                Err(Error::new(Reason::OperationInProgress, "another attempt was quicker"))
            }
            Ok(Intended::KeyTaken(_) | Intended::GroupBusy(_)) => {
                kept.outrun = true;
                Err(Error::new(Reason::OperationInProgress, "another operation was quicker"))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// For how long what is begun may be sent.
    pub(crate) fn lease(&self) -> Duration {
        self.timing.lease
    }

    /// When the lease of what is begun ends, if anything is.
    pub(crate) fn lease_ends(&self) -> Option<Instant> {
        self.kept().lease_ends
    }

    /// When the answer to what is now sent must be there; none: it is too late to send.
    pub(crate) fn send_until(&self) -> Option<Instant> {
        let ends = self.kept().lease_ends?;
        (Instant::now() + self.timing.attempt <= ends).then_some(ends)
    }

    /// Something that was sent has no answer.
    pub(crate) fn doubt(&self) {
        self.kept().in_doubt = true;
    }

    /// It ends without sending anything.
    pub(crate) fn nothing_to_send(&self, plan: Plan) {
        self.kept().unsent = Some(plan);
    }

    /// EC2 answered.
    pub(crate) fn answered(&self, request_id: Option<&String>) {
        if let Some(id) = request_id {
            self.kept().ec2_request_id = Some(id.clone());
        }
    }
}

/// What a caller is told of a ledger that did not do it.
#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
pub fn unavailable(error: LedgerError) -> Error {
    let (reason, message) = match &error {
        LedgerError::Unavailable(_) => (
            Reason::LedgerUnavailable,
            "the ledger cannot be written to; nothing was sent by this attempt",
        ),
        LedgerError::TooLate => (
            Reason::DeadlineExceeded,
            "the deadline passed before the group's turn; nothing was sent",
        ),
        LedgerError::TooMany => {
            (Reason::Overloaded, "too many changes of this group wait already; nothing was sent")
        }
        LedgerError::Fenced | LedgerError::Forbidden(_) => {
            return Error::internal(error.to_string());
        }
    };
    Error { internal: Some(error.to_string().into()), ..Error::new(reason, message) }
}

// === plans ===

/// A group as records hold it.
pub(super) fn stored_group(group: &Group) -> StoredGroup {
    StoredGroup {
        group_id: group.id.to_string(),
        group_name: group.name.clone(),
        description: group.description.clone(),
        owner_id: group.owner_id.to_string(),
        vpc_id: group.vpc_id.as_ref().map(ToString::to_string),
        tags: stored_tags(&group.tags),
    }
}

/// A group that is about to be.
pub(super) fn planned_group(target: &Target, request: &CreateGroup) -> StoredGroup {
    StoredGroup {
        group_id: String::new(),
        group_name: request.name.clone(),
        description: request.description.clone(),
        owner_id: target.account.to_string(),
        vpc_id: request.vpc_id.as_ref().map(ToString::to_string),
        tags: stored_tags(&request.tags),
    }
}

pub(super) fn stored_tags(tags: &[Tag]) -> Vec<StoredTag> {
    tags.iter().map(StoredTag::from).collect()
}

/// The rules of an image, told apart by `touched`: those it is about, and a digest of the rest.
pub(super) fn part(
    image: &GroupImage,
    direction: Direction,
    touched: impl Fn(&Rule) -> bool,
) -> (Vec<StoredRule>, String) {
    let (touched, rest): (Vec<&Rule>, Vec<&Rule>) =
        image.rules.iter().partition(|rule| rule.direction == direction && touched(rule));
    (touched.into_iter().map(StoredRule::of_rule).collect(), digest(&rest))
}

/// SHA-256 over rules, whatever their order.
fn digest(rules: &[&Rule]) -> String {
    let mut lines: Vec<String> = rules
        .iter()
        .map(|rule| serde_json::to_string(&StoredRule::of_rule(rule)).unwrap_or_default())
        .collect();
    lines.sort_unstable();
    super::canonical::sha256(lines.iter().map(String::as_bytes))
}
