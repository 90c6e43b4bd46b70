//! Settling: finding out what became of an operation whose answer was lost, by holding a fresh read against what the
//! record says of the time before (design.md section 3, docs/reliability.md).
//!
//! [`judge`] is pure and says what one read shows. The rest decides how many reads prove what, and writes it down.
//! Whoever settles without a live caller only reads. A live caller may send what is left once more, by rule ids.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    CallMeta, Operations, Outcome, RevokeOutcome, Scribe, Timing, Warning, WarningKind, Work,
    audit, canonical, groups::OPERATION_TAG, journal::SECOND_LOOK, revoke, warn,
};
use crate::{
    backend::{
        Authorized, BackendError, Created, Deleted, DescribeGroups, Filter, GroupImage, OwnedRule,
        RevokeRules, RevokedRule, Selection,
    },
    error::{Error, Reason},
    ledger::{
        Ledger, LedgerError, Move, Plan, Record, Recorded, SettledBy, State,
        stored::{StoredRule, StoredTag},
    },
    rule::{
        AccountId, Direction, GroupId, GroupRef, Rule, RuleId, Tag, Target, matching::same_rule,
    },
};

mod operator;

pub(super) use operator::by_operator;

/// The pause before the next look at what could not be decided; it doubles with every look, up to the second.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How often what looks undecidable is looked at before an operator is asked: with the pauses, about two minutes.
const MAX_LOOKS: u32 = 7;

/// How often a live caller sends what is left.
const MAX_ROUNDS: usize = 3;

/// What became of settling.
#[derive(Debug)]
pub(crate) enum Settled {
    /// The record has moved to a state that is not unsettled; or somebody else has it.
    Moved,
    /// It cannot be told yet.
    Later,
}

/// What one read shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// What was asked for is there.
    Done,
    /// Everything is as it was before.
    NotDone,
    /// Some of the rules are gone; these are left.
    Part(Vec<RuleId>),
    /// Neither what was there before nor what was asked for.
    Conflict(String),
}

/// Holds a read against a plan. `image`: the group as it is now; none if there is no such group.
pub(super) fn judge(plan: &Plan, image: Option<&GroupImage>) -> Seen {
    match plan {
        Plan::Revoke { rules, .. } => judge_revoke(rules, image),
        Plan::Authorize { rules, tags, present, .. } => {
            judge_authorize(rules, tags, present, image)
        }
        Plan::Create { .. } if image.is_some() => Seen::Done,
        Plan::Create { .. } => Seen::NotDone,
        Plan::Delete { .. } if image.is_none() => Seen::Done,
        Plan::Delete { .. } => Seen::NotDone,
    }
}

/// By ids alone: the same properties under another id were added by somebody since, and a rule that was modified
/// meanwhile has not gone.
fn judge_revoke(rules: &[StoredRule], image: Option<&GroupImage>) -> Seen {
    if rules.is_empty() {
        return Seen::NotDone;
    }
    let now = image.map_or(&[][..], |image| &image.rules);
    let ids = rules.iter().filter_map(|rule| rule.security_group_rule_id.as_deref());
    let left: Vec<RuleId> =
        ids.filter(|id| now.iter().any(|rule| rule.id.as_str() == *id)).map(RuleId::new).collect();
    match left.len() {
        0 => Seen::Done,
        all if all == rules.len() => Seen::NotDone,
        _ => Seen::Part(left),
    }
}

fn judge_authorize(
    rules: &[StoredRule],
    tags: &[StoredTag],
    present: &[StoredRule],
    image: Option<&GroupImage>,
) -> Seen {
    let now = image.map_or(&[][..], |image| &image.rules);
    // EC2 refuses the whole call if one of its rules is there already. One that has gone since may have gone before the
    // call came.
    let was_there = |stored: &StoredRule| {
        now.iter().any(|rule| Some(rule.id.as_str()) == stored.security_group_rule_id.as_deref())
    };
    if present.iter().any(was_there) {
        return Seen::NotDone;
    }
    let tags: Vec<Tag> = tags.iter().map(Tag::from).collect();
    let (mut there, mut other) = (0, Vec::new());
    for stored in rules {
        let Some(spec) = stored.to_spec() else {
            return Seen::Conflict("the record's rules cannot be read".to_owned());
        };
        let direction = stored.direction();
        let same = |rule: &&Rule| rule.direction == direction && same_rule(&spec, rule);
        let Some(rule) = now.iter().find(same) else { continue };
        there += 1;
        let as_intended = rule.description.as_deref().unwrap_or_default()
            == spec.description.as_deref().unwrap_or_default()
            && same_tags(rule.tags(), &tags);
        if !as_intended {
            other.push(rule.id.to_string());
        }
    }
    match (there, other.as_slice()) {
        (0, _) => Seen::NotDone,
        (there, []) if there == rules.len() => Seen::Done,
        (_, []) => Seen::Conflict("some of the rules are there and some are not".to_owned()),
        (_, other) => Seen::Conflict(format!(
            "{} differs from the intent in description or tags",
            other.join(", ")
        )),
    }
}

/// Whether every tag of the intent is there. AWS's own are not ours to compare.
fn same_tags(there: &[Tag], intended: &[Tag]) -> bool {
    let own = there.iter().filter(|tag| !tag.key.starts_with("aws:")).count();
    own == intended.len() && intended.iter().all(|tag| there.contains(tag))
}

// === settling a record ===

/// What settles.
pub(crate) struct Settler<'a> {
    pub(crate) operations: &'a Operations,
    pub(crate) ledger: &'a dyn Ledger,
    pub(crate) scribe: &'a dyn Scribe,
    pub(crate) timing: Timing,
    /// The call on whose behalf it is settled; for one without a caller, one made up for it.
    pub(crate) meta: &'a CallMeta,
    /// Whether that call has the record's key, so that what is left may be sent once more, if policies still allow it.
    pub(crate) live: bool,
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
    pub(crate) async fn settle(&self, record: &Record) -> Result<Settled, LedgerError> {
        let hold = self.timing.settling();
        let Some(held) = self.ledger.take_over(&record.id, record.fence, hold).await? else {
            return Ok(Settled::Moved);
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
            Verdict::Lost => return Ok(Settled::Moved),
        };
        let step = Move { ec2_request_id, ..step };
        let record = &holder.record;
        match self.ledger.advance(&record.id, record.fence, &step).await {
            Ok(record) if record.state.is_unsettled() => {
                tracing::debug!(operation = record.id, note = step.note, "not settled yet");
                Ok(Settled::Later)
            }
            Ok(record) => {
                audit::left(&self.operations.metrics, &record);
                Ok(Settled::Moved)
            }
            Err(LedgerError::Fenced) => Ok(Settled::Moved),
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
        let mut sent = false;
        for _ in 0..MAX_ROUNDS {
            let plan = self.record.plan.clone();
            let image = match read(&work, &plan, &self.record.id).await {
                Ok(image) => image,
                Err((why, hopeless)) => return Ok(Verdict::Unclear(why, hopeless)),
            };
            match judge(&plan, image.as_ref()) {
                Seen::Done => return Ok(self.done(&work, &plan, image).await),
                Seen::NotDone => {
                    let left = self.resend(&work, &plan, image.as_ref(), None);
                    match left {
                        Some(left) => match self.send(&work, &plan, left).await? {
                            Some(verdict) => return Ok(verdict),
                            None => sent = true,
                        },
                        None if sent => return Ok(unclear("what was sent again shows no effect")),
                        None => return Ok(self.twice(&work, &plan).await),
                    }
                }
                Seen::Part(left) => match self.resend(&work, &plan, image.as_ref(), Some(left)) {
                    Some(left) => match self.send(&work, &plan, left).await? {
                        Some(verdict) => return Ok(verdict),
                        None => sent = true,
                    },
                    None => {
                        let why = "some of the rules are gone and some are not".to_owned();
                        return Ok(Verdict::Unclear(why, true));
                    }
                },
                Seen::Conflict(why) => return Ok(Verdict::Unclear(why, true)),
            }
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
        // A part is gone, so EC2 took the request: then the rest may go whatever else was asked for.
        if !self.settler.live || rules.is_empty() || !(only_these || left.is_some()) {
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
        if !in_time
            || meta.deadline <= Instant::now()
            || !meta.progress.begin_sending(&operation_id)
        {
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
        // The answer is for the record's caller, whoever settles it: it shows what that one may see.
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
/// was that one that did it. `ours`: whether that may be so.
pub(super) async fn done_after_all(work: &Work<'_>, plan: &Plan, ours: bool) -> Option<Outcome> {
    if !ours {
        return None;
    }
    // The pre-image of this attempt may have it already.
    let plan = match plan.clone() {
        Plan::Authorize { group, is_egress, rules, tags, rest, .. } => {
            Plan::Authorize { group, is_egress, rules, tags, present: Vec::new(), rest }
        }
        plan => plan,
    };
    let image = read(work, &plan, &work.meta.operation_id).await.ok()?;
    if judge(&plan, image.as_ref()) != Seen::Done {
        return None;
    }
    work.is_read_back();
    Some(outcome(work, &plan, image, read_back()).await)
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
