//! The end of an operation: what its result means for the record, writing that down, and the answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Run, in_doubt};
use crate::{
    error::{Error, Reason},
    ledger::{Intended, Intent, LedgerError, Move, Record, Recorded, SettledBy, State},
    operations::{Answered, CallMeta, Journal, Outcome, audit, journal::Kept},
    telemetry::trace,
};

/// The first pause before a write is tried again; it doubles, up to the second.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a result means for the record: its new state.
fn state_after(result: &Result<Outcome, Error>, kept: &Kept) -> State {
    match result {
        _ if kept.in_doubt => State::InDoubt,
        Ok(_) => State::Succeeded,
        Err(error) => match error.reason {
            // The same call would get the same no.
            Reason::InvalidPermissionNotFound
            | Reason::InvalidSecurityGroupRuleIdNotFound
            | Reason::InvalidPermissionDuplicate
            | Reason::InvalidGroupDuplicate
            | Reason::RulesPerSecurityGroupLimitExceeded
            | Reason::InvalidRequest => State::Refused,
            // A fault of ours, wherever it was: nothing is known of what was sent.
            Reason::Internal | Reason::OutcomeUnknown => State::InDoubt,
            _ => State::Released,
        },
    }
}

impl Run {
    /// Writes down what came of it, and answers.
    pub(super) async fn conclude(
        self,
        meta: &CallMeta,
        journal: &Journal,
        result: Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let kept = journal.so_far();
        let state = state_after(&result, &kept);
        match (&kept.record, &kept.unsent) {
            (Some(record), _) => {
                let record = record.clone();
                self.conclude_begun(meta, &record, kept, state, result).await
            }
            (None, Some(_)) if state.is_final() => {
                self.conclude_unsent(meta, journal, kept, state, result).await
            }
            (None, _) => {
                if matches!(&result, Err(error) if error.reason == Reason::LedgerUnavailable) {
                    self.void(journal);
                }
                result
            }
        }
    }

    /// It was begun: its record moves on.
    async fn conclude_begun(
        mut self,
        meta: &CallMeta,
        record: &Record,
        kept: Kept,
        state: State,
        result: Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let (scribe, timing) = (self.books.scribe.clone(), self.books.timing);
        let to_verify = to_verify(&result);
        let hold = timing.attempt + timing.grace;
        let mut step = Move {
            // What a further round came to, where it had nothing left to send.
            plan: kept.unsent,
            ec2_request_id: kept.ec2_request_id,
            settled_by: Some(settled_by(kept.read_back)),
            ..Move::to(state)
        };
        let failure = match (state, result) {
            (State::Succeeded | State::Refused, result) => {
                step.answer = Some(scribe.record(&record.method, &record.id, result));
                None
            }
            (State::InDoubt, result) => {
                step.hold = hold;
                step.note = Some(note_of(&result));
                Some(match result {
                    Err(error) if error.reason == Reason::OutcomeUnknown => {
                        let told = in_doubt(record, meta.key.is_some(), hold);
                        Error { ec2: error.ec2, internal: error.internal, ..told }
                    }
                    Err(error) => error,
                    Ok(_) => in_doubt(record, meta.key.is_some(), hold),
                })
            }
            (_, result) => {
                step.note = Some(note_of(&result));
                result.err()
            }
        };
        let mut lags = false;
        match self.write_down(record, &step).await {
            Ok(record) => {
                trace::event("outcome recorded");
                self.left(&record);
            }
            Err(LedgerError::Fenced) => return self.fenced(meta, record, &step).await,
            Err(error) => {
                // What was done is not turned into an error by bookkeeping.
                tracing::error!(operation = record.id, %error, "the outcome could not be written down");
                lags = true;
                // As long as nobody else has settled it.
                self.keep_trying(record.id.clone(), record.fence, step.clone(), None);
            }
        }
        drop(self.turn.take());
        match (failure, step.answer) {
            (Some(error), _) => Err(error),
            (None, Some(recorded)) => {
                let verification = match to_verify {
                    Some(removed) => {
                        let group = crate::rule::GroupRef::Id(crate::rule::GroupId::new(
                            &record.plan.group().group_id,
                        ));
                        let target = self.target.clone();
                        Some(self.operations.verify(meta, target, &group, &removed).await)
                    }
                    None => None,
                };
                Ok(answered(meta, recorded, lags, verification))
            }
            (None, None) => Err(Error::internal("an outcome without an answer")),
        }
    }

    /// Writes an outcome down. A ledger that does not answer does not take the caller's answer away: at the last moment
    /// it goes out without.
    async fn write_down(&self, record: &Record, step: &Move) -> Result<Record, LedgerError> {
        let writing = self.books.ledger.advance(&record.id, record.fence, step);
        let last = self.last_moment();
        if last <= Instant::now() {
            // Nobody waits for the answer any more.
            return writing.await;
        }
        let late = "no answer before the caller's deadline";
        timeout_at(last, writing)
            .await
            .unwrap_or_else(|_| Err(LedgerError::Unavailable(late.to_owned())))
    }

    /// Nothing had to be sent, and the answer is final all the same: the next call with the key gets it, too.
    async fn conclude_unsent(
        self,
        meta: &CallMeta,
        journal: &Journal,
        kept: Kept,
        state: State,
        result: Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let Some(plan) = kept.unsent else { return result };
        let recorded = self.books.scribe.record(meta.method, &journal.draft().id, result);
        let conclusion = (state, recorded.clone(), settled_by(kept.read_back));
        let intent = Intent { plan, conclusion: Some(conclusion), ..journal.draft().clone() };
        let quicker = match self.books.ledger.intend(&intent).await {
            Ok(Intended::Written(record)) => {
                self.left(&record);
                return Ok(answered(meta, recorded, false, None));
            }
            Ok(Intended::KeyTaken(record) | Intended::GroupBusy(record)) => record.id.clone(),
            // Another attempt of this very operation.
            Err(LedgerError::Fenced) => intent.id,
            Err(error) => return Err(super::unavailable(error)),
        };
        let message = "another operation was quicker; nothing was sent";
        let error = Error::later(Reason::OperationInProgress, message, Duration::from_millis(100));
        Err(Error { operation_id: Some(quicker.as_str().into()), ..error })
    }

    /// Somebody took the record over while this call held it for dead: what the record says counts, and what EC2 told
    /// this call is kept as evidence.
    async fn fenced(
        &self,
        meta: &CallMeta,
        record: &Record,
        step: &Move,
    ) -> Result<Outcome, Error> {
        let ledger = &self.books.ledger;
        let seen = step.to.map_or("", State::as_str);
        let id = step.ec2_request_id.as_deref().unwrap_or("unknown");
        let note = Move::note(format!(
            "a holder that was fenced out (fence {}) saw {seen}, EC2 request id {id}",
            record.fence
        ));
        match ledger.advance(&record.id, record.fence, &note).await {
            Ok(Record { state, answer: Some(recorded), .. }) if state.is_final() => {
                Ok(answered(meta, recorded, false, None))
            }
            Ok(now) => {
                let held = now.held_until.duration_since(now.changed_at).unwrap_or_default();
                Err(in_doubt(&now, meta.key.is_some(), held))
            }
            Err(error) => {
                tracing::error!(operation = record.id, %error, "fenced out, and the record cannot be read");
                Err(in_doubt(record, meta.key.is_some(), self.books.timing.hold()))
            }
        }
    }

    /// An intent whose writing was never acknowledged is void: nothing was sent. If it was written, it is released, so
    /// that the next call need not wait until its hold ends. Only of a new record: if the next attempt of a known one was
    /// not written, the fence that it would have got is by now another call's, which may have sent.
    fn void(&self, journal: &Journal) {
        let Intent { id, fence, .. } = journal.draft();
        if *fence != 0 {
            return;
        }
        let note = "its intent was never acknowledged, and nothing was sent".to_owned();
        let step = Move { note: Some(note), ..Move::to(State::Released) };
        let until = Instant::now() + self.books.timing.hold();
        self.keep_trying(id.clone(), fence + 1, step, Some(until));
    }

    fn left(&self, record: &Record) {
        audit::left(self.operations.metrics(), record);
    }

    /// Tries a write again until it is done, is refused, or is somebody else's to do; `until` then at most.
    fn keep_trying(&self, id: String, fence: u64, step: Move, until: Option<Instant>) {
        let (ledger, metrics) = (self.books.ledger.clone(), self.operations.metrics().clone());
        self.tasks.spawn(async move {
            let mut pause = RETRY;
            while until.is_none_or(|until| Instant::now() < until) {
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                match ledger.advance(&id, fence, &step).await {
                    Err(LedgerError::Unavailable(_)) => {}
                    Ok(record) => return audit::left(&metrics, &record),
                    Err(_) => return,
                }
            }
        });
    }
}

/// A read that shows an earlier attempt's effect is not EC2's answer.
fn settled_by(read_back: bool) -> SettledBy {
    if read_back { SettledBy::ReadBack } else { SettledBy::Ec2Answer }
}

fn to_verify(result: &Result<Outcome, Error>) -> Option<Vec<crate::rule::RuleId>> {
    match result {
        Ok(Outcome::Revoked(revoked)) => revoked.to_verify.clone(),
        _ => None,
    }
}

fn note_of(result: &Result<Outcome, Error>) -> String {
    match result {
        Ok(_) => "answered".to_owned(),
        Err(error) => {
            let code = error.ec2.as_ref().and_then(|ec2| ec2.code.as_deref()).unwrap_or_default();
            format!("{} {code}", error.reason.as_str()).trim_end().to_owned()
        }
    }
}

fn answered(
    meta: &CallMeta,
    recorded: Recorded,
    lags: bool,
    verification: Option<crate::operations::revoke::Verification>,
) -> Outcome {
    let operation_id = meta.operation_id.clone();
    Outcome::Recorded(Box::new(Answered {
        operation_id,
        recorded,
        replayed: false,
        lags,
        verification,
    }))
}
