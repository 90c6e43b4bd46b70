//! Settling: finding out what became of an operation whose answer was lost, by holding a fresh read against what the
//! record says of the time before (design.md section 3, docs/reliability.md).
//!
//! [`mod@judge`] is pure and says what one read shows. The rest decides how many reads prove what, and writes it down.
//! Whoever settles without a live caller only reads. A live caller may send what is left once more, by rule ids.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    CallMeta, Operations, Outcome, RevokeOutcome, Scribe, Timing, Warning, WarningKind, Work,
    audit, canonical, groups::OPERATION_TAG, journal::SECOND_LOOK, revoke, warn,
};
use crate::{
    backend::{
        Authorized, BackendError, Created, Deleted, DescribeGroups, Failure, Filter, GroupImage,
        OwnedRule, RevokeRules, RevokedRule, Selection,
    },
    error::{Error, Reason},
    ledger::{
        Ledger, LedgerError, Move, Plan, Record, Recorded, SettledBy, State, stored::StoredRule,
    },
    rule::{AccountId, Direction, GroupId, GroupRef, RuleId, Tag, Target, matching::same_rule},
};

mod judge;
mod operator;

use judge::{Seen, judge, same_tags};
pub(super) use operator::by_operator;

/// The pause before the next look at what could not be decided; it doubles with every look, up to the second.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How often what looks undecidable is looked at before an operator is asked: with the pauses, about two minutes.
const MAX_LOOKS: u32 = 7;

/// How often a live caller sends what is left.
const MAX_ROUNDS: usize = 3;

/// What settles.
pub(crate) struct Settler<'a> {
    pub(crate) operations: &'a Operations,
    pub(crate) ledger: &'a dyn Ledger,
    pub(crate) scribe: &'a dyn Scribe,
    pub(crate) timing: Timing,
    /// The call on whose behalf it is settled; for one without a caller, one made up for it.
    pub(crate) meta: &'a CallMeta,
    /// Until when that call waits, if it has the record's key: so long what is left may be sent once more, if policies
    /// still allow it. Reading goes on after that.
    pub(crate) live: Option<Instant>,
}

/// How a look at a record ended.
enum Verdict {
    Move(Box<Move>),
    /// Not yet: why, and whether looking again for ever is no use.
    Unclear(String, bool),
    /// What was sent again has no answer: it may have its effect yet.
    UnderWay(String),
    /// Somebody else has the record.
    Lost,
}

impl Settler<'_> {
    /// Takes a record over whose hold has ended, and settles it if it can be told.
    pub(crate) async fn settle(&self, record: &Record) -> Result<(), LedgerError> {
        let hold = self.timing.settling();
        let Some(held) = self.ledger.take_over(&record.id, record.fence, hold).await? else {
            return Ok(());
        };
        let mut holder = Holder { settler: self, record: held, ec2_request_id: None };
        let verdict = holder.look().await?;
        let ec2_request_id = holder.ec2_request_id.take();
        let step = match verdict {
            Verdict::Move(step) => *step,
            Verdict::Unclear(why, hopeless) if hopeless && holder.record.looks >= MAX_LOOKS => {
                Move { note: Some(why), ..Move::to(State::Unresolved) }
            }
            Verdict::Unclear(why, _) => {
                let pause = PAUSE.saturating_mul(1 << holder.record.looks.min(16));
                Move { note: Some(why), hold: pause.min(PAUSE_MAX), ..Move::to(State::InDoubt) }
            }
            Verdict::UnderWay(why) => {
                let hold = self.timing.attempt + self.timing.grace;
                Move { note: Some(why), hold, ..Move::to(State::InDoubt) }
            }
            Verdict::Lost => return Ok(()),
        };
        let step = Move { ec2_request_id, ..step };
        let record = &holder.record;
        match self.ledger.advance(&record.id, record.fence, &step).await {
            Ok(record) if record.state.is_unsettled() => {
                tracing::debug!(operation = record.id, note = step.note, "not settled yet");
                Ok(())
            }
            Ok(record) => {
                audit::left(&self.operations.metrics, &record);
                Ok(())
            }
            Err(LedgerError::Fenced) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// One who holds a record to settle it.
struct Holder<'a> {
    settler: &'a Settler<'a>,
    record: Record,
    /// Of what was sent again, until it is in the record.
    ec2_request_id: Option<String>,
}

impl Holder<'_> {
    async fn look(&mut self) -> Result<Verdict, LedgerError> {
        let Settler { operations, meta, .. } = self.settler;
        let Target { account, region } = self.record.target();
        let Ok(target) = operations.backend().resolve(Some(account), Some(region)) else {
            let why = "its account and Region are not served any more".to_owned();
            return Ok(step(State::Unresolved, None, why));
        };
        if !is_here(operations, &self.record) {
            let why = "the backend that it worked on is another by now".to_owned();
            return Ok(step(State::Unresolved, None, why));
        }
        let work = operations.work(meta, target, true);
        let (mut sent, mut has_slot) = (false, false);
        // Twice as often: what was read before a slot came is read again.
        for _ in 0..2 * MAX_ROUNDS {
            let plan = self.record.plan.clone();
            let image = match read(&work, &plan, &self.record.id).await {
                Ok(image) => image,
                Err((why, hopeless)) => return Ok(Verdict::Unclear(why, hopeless)),
            };
            let part = match judge(&plan, image.as_ref()) {
                Seen::Done => return Ok(self.done(&work, &plan, image).await),
                Seen::Conflict(why) => return Ok(Verdict::Unclear(why, true)),
                Seen::NotDone => None,
                Seen::Part(left) => Some(left),
            };
            let is_part = part.is_some();
            let Some(left) = self.resend(&work, &plan, image.as_ref(), part) else {
                return Ok(match (is_part, sent) {
                    (true, _) => {
                        let why = "some of the rules are gone and some are not".to_owned();
                        Verdict::Unclear(why, true)
                    }
                    (false, true) => unclear("what was sent again shows no effect"),
                    (false, false) => self.twice(&work, &plan).await,
                });
            };
            if !has_slot {
                match self.reserve(&work, &plan).await {
                    Ok(waited) => has_slot = waited,
                    Err(why) => return Ok(unclear(&why)),
                }
                if has_slot {
                    continue;
                }
            }
            if let Some(verdict) = self.send(&work, &plan, left).await? {
                return Ok(verdict);
            }
            (sent, has_slot) = (true, false);
        }
        Ok(unclear("others change the group all the time"))
    }

    /// What a live caller may send once more: rules by their ids, if the request was about nothing else, the rules are
    /// what they were, and as far as policies allow it today, with the group as it is. A rule keeps its id when it is
    /// modified (ec2-facts R10), and what it has become was perhaps not asked for: a new attempt, which matches anew,
    /// finds out.
    fn resend(
        &self,
        work: &Work<'_>,
        plan: &Plan,
        image: Option<&GroupImage>,
        left: Option<Vec<RuleId>>,
    ) -> Option<Vec<RuleId>> {
        let Plan::Revoke { rules, unmatched, unmatched_ids, .. } = plan else { return None };
        let only_these = unmatched.is_empty() && unmatched_ids.is_empty();
        // Where what matches nothing spoils the rest, somebody else took the part that is gone: EC2 refused the request.
        let takes_part = left.is_some()
            && (canonical::revokes_matched(&self.record.request)
                || unmatched_ids.is_empty() && image?.in_default_vpc == Some(true));
        if self.has_gone() || rules.is_empty() || !(only_these || takes_part) {
            return None;
        }
        let ids = rules.iter().filter_map(|rule| rule.security_group_rule_id.as_deref());
        let left = left.unwrap_or_else(|| ids.map(RuleId::new).collect());
        let image = image?;
        let is_as_it_was = |id: &RuleId| {
            let now = image.rules.iter().find(|rule| rule.id == *id);
            now.is_some_and(|now| rules.iter().any(|before| before.is_still(now)))
        };
        if !left.iter().all(is_as_it_was) {
            return None;
        }
        revoke::may_revoke_ids(work, plan.direction()?, image, left.clone()).ok()?;
        Some(left)
    }

    /// Whether nobody waits who may send.
    fn has_gone(&self) -> bool {
        self.settler.live.is_none_or(|until| until <= Instant::now())
    }

    /// Waits for a slot of EC2's budget, as long as there is a live caller. False: there is nothing to wait for.
    async fn reserve(&self, work: &Work<'_>, plan: &Plan) -> Result<bool, String> {
        let (Some(until), Some(direction)) = (self.settler.live, plan.direction()) else {
            return Ok(false);
        };
        match timeout_at(until, work.reserve(revoke::paced_as(direction))).await {
            Ok(Ok(waited)) => Ok(waited),
            Ok(Err(error)) => Err(format!("not sent again: {}", error.reason.as_str())),
            Err(_) => Err("not sent again: its caller has gone".to_owned()),
        }
    }

    /// Sends what is left. None: read again.
    async fn send(
        &mut self,
        work: &Work<'_>,
        plan: &Plan,
        left: Vec<RuleId>,
    ) -> Result<Option<Verdict>, LedgerError> {
        let Settler { ledger, timing, meta, .. } = self.settler;
        let (started, began) = (Instant::now(), work.clock.now());
        let note = format!("to be sent again by rule ids: {} of them", left.len());
        let intent = Move {
            plan: Some(plan.clone()),
            hold: timing.hold(),
            ec2_request_id: self.ec2_request_id.take(),
            note: Some(note),
            ..Move::to(State::InProgress)
        };
        match ledger.advance(&self.record.id, self.record.fence, &intent).await {
            Ok(record) => self.record = record,
            Err(LedgerError::Fenced) => return Ok(Some(Verdict::Lost)),
            Err(error) => return Err(error),
        }
        let in_time = Instant::now() + timing.attempt <= started + timing.lease;
        let operation_id = meta.operation_id.clone();
        if !in_time || self.has_gone() || !meta.progress.begin_sending(&operation_id) {
            // Not sent; what was sent before is as much in doubt as it was.
            return Ok(Some(unclear("its caller has gone")));
        }
        let request = RevokeRules {
            group: GroupRef::Id(GroupId::new(&plan.group().group_id)),
            direction: plan.direction().unwrap_or(Direction::Egress),
            selection: Selection::Ids(left),
            dry_run: false,
        };
        let mut context = work.context.clone();
        context.deadline = started + timing.lease;
        context.deadline_wall = began.checked_add(timing.lease);
        let answer = work.backend.revoke(&context, &work.target, &request).await;
        self.ec2_request_id = match &answer {
            Ok(revoked) => revoked.request_id.clone(),
            Err(error) => error.request_id().cloned(),
        };
        match answer {
            // Read again: it is the read that proves all of it.
            Ok(_) => pause(work.backend.read_lag(), None).await,
            Err(BackendError::Refused(refusal)) if refusal.code.ends_with(".NotFound") => {
                pause(work.backend.read_lag(), None).await;
            }
            Err(error) => {
                let under_way = matches!(error, BackendError::OutcomeUnknown(_));
                let error = Error::from_backend(error, "");
                let why = format!("sent again: {}", error.reason.as_str());
                return Ok(Some(if under_way { Verdict::UnderWay(why) } else { unclear(&why) }));
            }
        }
        Ok(None)
    }

    /// What was done is written down as the answer that got lost.
    async fn done(&self, work: &Work<'_>, plan: &Plan, image: Option<GroupImage>) -> Verdict {
        let Settler { operations, scribe, meta, .. } = self.settler;
        // The answer is for the record's caller, whoever settles it: it shows what that one may see. Where that one is not
        // here to be judged, no more than what its own request says.
        let outcome = if meta.principal.id() == self.record.caller {
            outcome(work, plan, image, read_back()).await
        } else {
            let meta = CallMeta::of_record(&self.record, meta.deadline);
            let theirs = operations.work(&meta, work.target.clone(), true);
            outcome(&theirs, plan, image, read_back()).await
        };
        let answer = scribe.record(&self.record.method, &self.record.id, Ok(outcome));
        let why = "read back: what was asked for is there".to_owned();
        step(State::Succeeded, Some(answer), why)
    }

    /// Nothing was done, if a second read says so, too.
    async fn twice(&self, work: &Work<'_>, plan: &Plan) -> Verdict {
        pause(SECOND_LOOK.max(work.backend.read_lag()), Some(work.meta.deadline)).await;
        match read(work, plan, &self.record.id).await {
            Ok(image) if judge(plan, image.as_ref()) == Seen::NotDone => {
                let why = "read back twice: nothing was changed".to_owned();
                step(State::Released, None, why)
            }
            Ok(_) => unclear("two reads differ"),
            Err((why, hopeless)) => Verdict::Unclear(why, hopeless),
        }
    }
}

fn step(to: State, answer: Option<Recorded>, why: String) -> Verdict {
    Verdict::Move(Box::new(Move {
        answer,
        settled_by: Some(SettledBy::ReadBack),
        note: Some(why),
        ..Move::to(to)
    }))
}

fn unclear(why: &str) -> Verdict {
    Verdict::Unclear(why.to_owned(), false)
}

/// Waits, but not past `until`.
async fn pause(by: Duration, until: Option<Instant>) {
    if !by.is_zero() {
        let end = Instant::now() + by;
        sleep_until(until.map_or(end, |until| end.min(until))).await;
    }
}

/// Whether what a record changed is in the backend as it is now: another incarnation's group of the same name is another
/// group.
fn is_here(operations: &Operations, record: &Record) -> bool {
    record.scope == canonical::scope(&operations.backend().identity(), &record.target())
}

/// The group that a plan is about, as it is now. An error: why it cannot be read, and whether that may stay so.
async fn read(
    work: &Work<'_>,
    plan: &Plan,
    operation_id: &str,
) -> Result<Option<GroupImage>, (String, bool)> {
    let Plan::Create { group } = plan else {
        let group = GroupRef::Id(GroupId::new(&plan.group().group_id));
        return match work.backend.image(&work.context, &work.target, &group).await {
            Ok(image) => Ok(Some(image)),
            Err(error) => absent_or(error),
        };
    };
    let tagged = group.tags.iter().any(|tag| tag.key == OPERATION_TAG);
    let filter = if tagged {
        Filter { name: format!("tag:{OPERATION_TAG}"), values: vec![operation_id.to_owned()] }
    } else {
        Filter { name: "group-name".to_owned(), values: vec![group.group_name.clone()] }
    };
    let request = DescribeGroups { filters: vec![filter], ..DescribeGroups::default() };
    match work.backend.describe_groups(&work.context, &work.target, &request).await {
        Ok(page) => Ok(page.items.into_iter().find(|image| {
            let tags: Vec<Tag> = group.tags.iter().map(Tag::from).collect();
            image.group.name == group.group_name
                && group.vpc_id.as_deref().is_none_or(|vpc| {
                    image.group.vpc_id.as_ref().is_some_and(|of| of.as_str() == vpc)
                })
                && (tagged || same_tags(&image.group.tags, &tags))
        })),
        Err(error) => absent_or(error),
    }
}

fn absent_or(error: BackendError) -> Result<Option<GroupImage>, (String, bool)> {
    let error = Error::from_backend(error, "");
    match error.reason {
        Reason::InvalidGroupNotFound => Ok(None),
        reason => {
            let hopeless = matches!(
                reason,
                Reason::Ec2UnauthorizedOperation
                    | Reason::TargetNotConfigured
                    | Reason::Ec2Rejected
            );
            Err((format!("the group cannot be read: {}", reason.as_str()), hopeless))
        }
    }
}

/// For an attempt that EC2 refused because the thing is done already, after one whose answer was lost: the outcome, if it
/// was that one that did it. `ours`: whether that may be so. An error: it cannot be told yet.
pub(super) async fn done_after_all(
    work: &Work<'_>,
    plan: &Plan,
    ours: bool,
) -> Result<Option<Outcome>, Error> {
    if !ours {
        return Ok(None);
    }
    // The pre-image of this attempt may have it already.
    let plan = match plan.clone() {
        Plan::Authorize { group, is_egress, rules, tags, rest, .. } => {
            Plan::Authorize { group, is_egress, rules, tags, present: Vec::new(), rest }
        }
        plan => plan,
    };
    let mut seen = read(work, &plan, &work.meta.operation_id).await;
    if !matches!(&seen, Ok(image) if judge(&plan, image.as_ref()) == Seen::Done) {
        // What EC2 says and what a read shows can be of different times (R47).
        pause(SECOND_LOOK.max(work.backend.read_lag()), Some(work.may_wait_until())).await;
        seen = read(work, &plan, &work.meta.operation_id).await;
    }
    match seen {
        Ok(image) if judge(&plan, image.as_ref()) == Seen::Done => {
            work.is_read_back();
            Ok(Some(outcome(work, &plan, image, read_back()).await))
        }
        Ok(_) => Ok(None),
        // An attempt that may have done it is not denied.
        Err((why, _)) => Err(work.sent_error(BackendError::OutcomeUnknown(Failure::new(why)), "")),
    }
}

/// A further attempt of a revoke of which reads alone said that it had no effect: the outcome, if the effect shows by now
/// in the pre-image. Then there is nothing to send.
pub(super) async fn done_before(
    work: &Work<'_>,
    image: &GroupImage,
) -> Result<Option<Outcome>, Error> {
    let Some(earlier @ Plan::Revoke { .. }) = work.earlier() else { return Ok(None) };
    if judge(earlier, Some(image)) != Seen::Done {
        return Ok(None);
    }
    work.check_plan(earlier)?;
    work.nothing_to_send(earlier.clone());
    work.is_read_back();
    Ok(Some(outcome(work, earlier, Some(image.clone()), read_back()).await))
}

fn read_back() -> Warning {
    Warning {
        kind: WarningKind::SettledByReadBack,
        message: "EC2's answer was lost; reading the group back shows the change.".to_owned(),
        rule_id: None,
    }
}

/// The answer that got lost, as far as a read can tell it and its caller may see it.
async fn outcome(
    work: &Work<'_>,
    plan: &Plan,
    image: Option<GroupImage>,
    warning: Warning,
) -> Outcome {
    match plan {
        Plan::Revoke { group, is_egress, rules, unmatched, unmatched_ids, .. } => {
            let group_id = GroupId::new(&group.group_id);
            let gone: Vec<_> = rules.iter().filter_map(StoredRule::to_rule).collect();
            let revoked = gone.iter().map(|rule| RevokedRule::new(&group_id, rule)).collect();
            let direction = if *is_egress { Direction::Egress } else { Direction::Ingress };
            let mut warnings = vec![warning];
            // As the lost answer had them, with the group's other rules as they are now.
            if let Some(now) = &image {
                warnings.extend(warn::after_revoke(&now.group, direction, &gone, &now.rules));
            }
            let unknown = revoke::unknown_of_record(work, plan, image.as_ref()).await;
            let all = unmatched.is_empty() && unmatched_ids.is_empty();
            let mut outcome = RevokeOutcome {
                return_value: Some(true),
                revoked,
                unknown,
                extent: if all { revoke::Extent::All } else { revoke::Extent::Part },
                to_verify: None,
                warnings,
            };
            if image.is_some_and(|image| !work.may_read_rules(&image.group)) {
                revoke::conceal(&mut outcome);
            }
            Outcome::Revoked(Box::new(outcome))
        }
        Plan::Authorize { group, rules, .. } => {
            let group_id = GroupId::new(&group.group_id);
            let now = image.as_ref().map_or(&[][..], |image| &image.rules);
            let added = rules.iter().filter_map(|stored| {
                let spec = stored.to_spec()?;
                let direction = stored.direction();
                now.iter().find(|rule| rule.direction == direction && same_rule(&spec, rule))
            });
            let rules = added
                .map(|rule| OwnedRule {
                    group_id: group_id.clone(),
                    group_owner_id: AccountId::new(&group.owner_id),
                    rule: rule.clone(),
                    arn: None,
                })
                .collect();
            let authorized = Authorized { return_value: Some(true), rules, request_id: None };
            Outcome::Authorized(authorized, vec![warning])
        }
        Plan::Create { .. } => {
            let created = Created {
                group_id: image.as_ref().map(|image| image.group.id.to_string()),
                tags: image.as_ref().map(|image| image.group.tags.clone()).unwrap_or_default(),
                arn: image.as_ref().and_then(|image| image.group.arn.clone()),
                request_id: None,
            };
            Outcome::Created(created, vec![warning])
        }
        Plan::Delete { group } => {
            let deleted = Deleted {
                return_value: Some(true),
                group_id: Some(group.group_id.clone()),
                request_id: None,
            };
            Outcome::Deleted(deleted, vec![warning])
        }
    }
}
