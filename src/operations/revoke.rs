//! Revoking rules, in either direction: pre-image, send, and what to say about what was unknown.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Outcome, Warning, WarningKind, Work, decide, is_dry_run_success,
    journal::{self, SECOND_LOOK},
    names, settle, warn,
};
use crate::{
    access::{Action, Circumstances},
    backend::{
        BackendError, CallContext, GroupImage, Refusal, RevokeRules, Revoked, RevokedRule,
        Selection,
    },
    error::{Detail, Error, Reason, Unknown},
    ledger::{Plan, stored::StoredRule},
    pacing,
    rule::{Direction, GroupRef, Rule, RuleId, expand, matching::match_specs},
};

mod missing;
mod verify;

pub(super) use missing::unknown_of_record;
use missing::{Missing, explain_permissions, explain_refusal, split, unknown_error};
pub use verify::Verification;
pub(super) use verify::verify;

/// How often rule ids are chosen anew when the group changes between reading and sending.
const MAX_ROUNDS: usize = 3;

/// The request of a revoke.
#[derive(Clone, Debug)]
pub struct Revoke {
    /// The group; by name only for ingress.
    pub group: GroupRef,
    /// Which way.
    pub direction: Direction,
    /// Which rules.
    pub selection: Selection,
    /// Only ask whether it is permitted.
    pub dry_run: bool,
    /// What to do about what matches nothing.
    pub on_unknown: OnUnknown,
    /// Read the group back afterwards.
    pub verify: bool,
}

/// What to do about permissions and ids that match nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// As EC2 does in that kind of VPC.
    AsEc2,
    /// Fail before anything is sent.
    Fail,
    /// Revoke the rest.
    RevokeMatched,
}

/// The answer of a revoke.
#[derive(Debug)]
pub struct RevokeOutcome {
    /// `Return`, if EC2 was called.
    pub return_value: Option<bool>,
    /// What EC2 removed.
    pub revoked: Vec<RevokedRule>,
    /// What was unknown.
    pub unknown: Unknown,
    /// What became of the request.
    pub extent: Extent,
    /// The rules to look for when the change is read back, if that was asked for.
    pub to_verify: Option<Vec<RuleId>>,
    /// What the caller should know.
    pub warnings: Vec<Warning>,
}

/// What became of a request as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every rule went.
    All,
    /// Some did.
    Part,
    /// None did.
    Nothing,
}

/// Whose budget a revoke is of.
pub(super) fn paced_as(direction: Direction) -> pacing::Action {
    match direction {
        Direction::Egress => pacing::Action::RevokeEgress,
        Direction::Ingress => pacing::Action::RevokeIngress,
    }
}

/// Revokes.
pub(super) async fn run(work: &Work<'_>, mut request: Revoke) -> Result<Outcome, Error> {
    if request.dry_run {
        if work.access.decides() {
            decide_dry_run(work, &mut request).await?;
        }
        return dry_run(work, &request).await;
    }
    let found = decide::read(work, &request.group).await?;
    let Some(image) = found.image().cloned() else {
        decide(work, &request, None, &request.selection)?;
        found.found(false)?;
        return Err(Error::internal("a group was neither found nor not found"));
    };
    let (selection, refusal) = resolve_names(work, &image, request.selection.clone()).await?;
    decide(work, &request, Some(&image), &selection)?;
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    if work.access.decides() {
        // What was decided on is what is changed, whatever its name means by now.
        request.group = GroupRef::Id(image.group.id.clone());
    }
    if let Some(done) = settle::done_before(work, &image).await? {
        return Ok(done);
    }
    let may_read = work.may_read_rules(&image.group);
    let planned = again(work, &request, &image, &selection);
    let outcome = change(work, &request, image, selection).await;
    // Nothing was there to remove, after an attempt that may have removed it.
    let ours = match &outcome {
        Ok(Outcome::Revoked(outcome)) => outcome.extent == Extent::Nothing,
        Ok(_) => false,
        Err(error) => matches!(
            error.reason,
            Reason::InvalidPermissionNotFound | Reason::InvalidSecurityGroupRuleIdNotFound
        ),
    };
    if let Some(planned) = planned
        && let Some(done) = settle::done_after_all(work, &planned, ours).await?
    {
        work.nothing_to_send(planned);
        return Ok(done);
    }
    if may_read { outcome } else { reticent(outcome) }
}

/// What a further attempt is about, if EC2's word that it is not there can mean that the one before removed it: all of it is
/// in the pre-image, and was in that of the attempt before. What others have added since was removed by nobody.
fn again(
    work: &Work<'_>,
    request: &Revoke,
    image: &GroupImage,
    selection: &Selection,
) -> Option<Plan> {
    let Plan::Revoke { rules: before, .. } = work.earlier()? else { return None };
    let (ids, missing) = split(request.direction, image, selection);
    let was_there = |id: &RuleId| {
        before.iter().any(|rule| rule.security_group_rule_id.as_deref() == Some(id.as_str()))
    };
    let all = missing.count() == 0 && ids.iter().all(was_there);
    all.then(|| plan(request, image, &ids, &missing))
}

/// May the caller revoke these rules of the group as it is now?
pub(super) fn may_revoke_ids(
    work: &Work<'_>,
    direction: Direction,
    image: &GroupImage,
    ids: Vec<RuleId>,
) -> Result<(), Error> {
    let selection = Selection::Ids(ids);
    let request = Revoke {
        group: GroupRef::Id(image.group.id.clone()),
        direction,
        selection: selection.clone(),
        dry_run: false,
        on_unknown: OnUnknown::Fail,
        verify: false,
    };
    decide(work, &request, Some(image), &selection)
}

async fn change(
    work: &Work<'_>,
    request: &Revoke,
    image: GroupImage,
    selection: Selection,
) -> Result<Outcome, Error> {
    // An id that the pre-image lacks could name a rule that no policy saw: then we choose the ids. EC2 takes ids all
    // or nothing, as FAIL does.
    let blind = work.access.enforces() && matches!(selection, Selection::Ids(_));
    let on_unknown = match request.on_unknown {
        OnUnknown::AsEc2 if blind => OnUnknown::Fail,
        on_unknown => on_unknown,
    };
    let answer = match on_unknown {
        OnUnknown::AsEc2 => as_ec2(work, request, &image, selection.clone()).await?,
        OnUnknown::Fail | OnUnknown::RevokeMatched => {
            by_matching(work, request, on_unknown, image, selection.clone()).await?
        }
    };
    Ok(finish(request, &selection, answer))
}

async fn dry_run(work: &Work<'_>, request: &Revoke) -> Result<Outcome, Error> {
    match send(work, &work.context, request, request.selection.clone(), true).await {
        Err(error) if is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(Error::from_backend(error, &request.group.to_string())),
        Ok(_) => Err(Error::internal("EC2 answered a dry run as if it had been done")),
    }
}

// === policies ===

async fn decide_dry_run(work: &Work<'_>, request: &mut Revoke) -> Result<(), Error> {
    let found = decide::read(work, &request.group).await?;
    let (selection, refusal) = match found.image() {
        Some(image) => resolve_names(work, image, request.selection.clone()).await?,
        None => (request.selection.clone(), None),
    };
    decide(work, request, found.image(), &selection)?;
    if let Some(image) = found.found(true)? {
        request.group = GroupRef::Id(image.group.id.clone());
    }
    refusal.map_or(Ok(()), Err)
}

/// Decides each rule of a selection, with the group as it is.
fn decide(
    work: &Work<'_>,
    request: &Revoke,
    image: Option<&GroupImage>,
    selection: &Selection,
) -> Result<(), Error> {
    if !work.access.decides() {
        return Ok(());
    }
    let action = match request.direction {
        Direction::Egress => Action::RevokeEgress,
        Direction::Ingress => Action::RevokeIngress,
    };
    let last = request.direction == Direction::Egress
        && image.is_some_and(|image| {
            let (ids, _) = split(request.direction, image, selection);
            decide::removes_last_egress(image, &ids)
        });
    let circumstances = Circumstances { dry_run: request.dry_run, removes_last_egress_rule: last };
    let rules = decide::selected(request.direction, image, selection);
    work.check_rules(action, &request.group, image, circumstances, &rules)
}

/// The answer for a caller that may revoke rules of the group but not list them: nothing in it shows a rule, or a tag,
/// that the caller did not name.
fn reticent(outcome: Result<Outcome, Error>) -> Result<Outcome, Error> {
    match outcome {
        Ok(Outcome::Revoked(mut revoked)) => {
            conceal(&mut revoked);
            Ok(Outcome::Revoked(revoked))
        }
        Err(mut error) => {
            if let Detail::Unknown(unknown) = &mut error.detail {
                conceal_unknown(unknown);
                "The specified rule does not exist in this security group."
                    .clone_into(&mut error.message);
            }
            Err(error)
        }
        other => other,
    }
}

/// Takes out of an answer what only those may see who may list the group's rules.
pub(super) fn conceal(revoked: &mut RevokeOutcome) {
    conceal_unknown(&mut revoked.unknown);
    revoked.warnings.retain(|warning| {
        !matches!(warning.kind, WarningKind::CoveredByWiderRule | WarningKind::OwnedElsewhere)
    });
}

fn conceal_unknown(unknown: &mut Unknown) {
    for explanation in &mut unknown.explanations {
        explanation.reason = None;
        explanation.nearest.clear();
        "The group has no such rule.".clone_into(&mut explanation.message);
    }
}

/// See [`names::resolve`].
async fn resolve_names(
    work: &Work<'_>,
    image: &GroupImage,
    mut selection: Selection,
) -> Result<(Selection, Option<Error>), Error> {
    let refusal = match &mut selection {
        Selection::Specs(specs) => names::resolve(work, image, specs).await?,
        Selection::Ids(_) => None,
    };
    Ok((selection, refusal))
}

/// What was done, before it is dressed up as an answer.
struct Done {
    image: GroupImage,
    revoked: Option<Revoked>,
    unknown: Unknown,
    unknown_count: usize,
}

/// EC2 decides: the request is sent as it is.
async fn as_ec2(
    work: &Work<'_>,
    request: &Revoke,
    image: &GroupImage,
    selection: Selection,
) -> Result<Done, Error> {
    let (ids, missing) = split(request.direction, image, &selection);
    let context = work.begin_sending(plan(request, image, &ids, &missing)).await?;
    match send(work, &context, request, selection.clone(), false).await {
        Ok(mut revoked) => {
            work.answered(revoked.request_id.as_ref());
            let permissions = std::mem::take(&mut revoked.unknown);
            let left = without(image, &revoked_ids(&revoked.revoked));
            let explanations = explain_permissions(request.direction, &left, &permissions);
            let unknown_count = explanations.len();
            let unknown = Unknown {
                group: image.group.id.to_string(),
                permissions,
                rule_ids: Vec::new(),
                explanations,
            };
            Ok(Done { image: image.clone(), revoked: Some(revoked), unknown, unknown_count })
        }
        Err(BackendError::Refused(refusal)) if is_unknown(&refusal) => {
            work.answered(refusal.request_id.as_ref());
            let unknown = explain_refusal(work, request, image, &selection).await;
            Err(unknown_error(work, refusal, unknown))
        }
        Err(error) => Err(work.sent_error(error, image.group.id.as_str())),
    }
}

/// We decide: what matches the pre-image goes by rule id, which EC2 takes all or nothing in either kind of VPC.
async fn by_matching(
    work: &Work<'_>,
    request: &Revoke,
    on_unknown: OnUnknown,
    mut image: GroupImage,
    selection: Selection,
) -> Result<Done, Error> {
    if let Selection::Specs(specs) = &selection {
        names::refuse_repeated(specs)?;
    }
    let (mut ids, mut missing) = split(request.direction, &image, &selection);
    if missing.count() > 0 {
        // A rule authorized a moment ago may not show yet (R47): look once more before calling it unknown.
        pause(work, work.backend.read_lag()).await;
        image = read_again(work, request, &selection).await?;
        (ids, missing) = split(request.direction, &image, &selection);
    }
    for round in 1.. {
        let left = match on_unknown {
            OnUnknown::RevokeMatched => without(&image, &ids),
            OnUnknown::AsEc2 | OnUnknown::Fail => image.clone(),
        };
        let unknown = missing.explain(work, request.direction, &left).await;
        let unknown_count = missing.count();
        if on_unknown == OnUnknown::Fail && unknown_count > 0 {
            work.nothing_to_send(plan(request, &image, &ids, &missing));
            let refusal = match selection {
                Selection::Specs(_) => Refusal::new(
                    "InvalidPermission.NotFound",
                    "The specified rule does not exist in this security group.",
                ),
                Selection::Ids(_) => Refusal::new(
                    "InvalidSecurityGroupRuleId.NotFound",
                    "A security group rule ID does not exist in this security group.",
                ),
            };
            let mut error = unknown_error(work, refusal, unknown);
            // Nothing was sent, and EC2 said nothing.
            error.ec2 = None;
            error.operation_id = None;
            return Err(error);
        }
        if ids.is_empty() {
            work.nothing_to_send(plan(request, &image, &ids, &missing));
            return Ok(Done { image, revoked: None, unknown, unknown_count });
        }
        if round > MAX_ROUNDS {
            return Err(outrun(work));
        }
        let context = work.begin_sending(plan(request, &image, &ids, &missing)).await?;
        match send(work, &context, request, Selection::Ids(ids.clone()), false).await {
            Ok(revoked) => {
                work.answered(revoked.request_id.as_ref());
                return Ok(Done { image, revoked: Some(revoked), unknown, unknown_count });
            }
            Err(BackendError::Refused(refusal)) if is_unknown(&refusal) => {
                // Somebody else was quicker with one of them. Nothing was removed: read and choose again.
                work.answered(refusal.request_id.as_ref());
                let slot = work.reserve(paced_as(request.direction));
                timeout_at(work.may_wait_until(), slot).await.map_err(|_| outrun(work))??;
                let last = round == MAX_ROUNDS;
                let lag = work.backend.read_lag();
                pause(work, if last { lag.max(SECOND_LOOK) } else { lag }).await;
                image = read_again(work, request, &selection).await?;
                (ids, missing) = split(request.direction, &image, &selection);
            }
            Err(error) => return Err(work.sent_error(error, image.group.id.as_str())),
        }
    }
    Err(Error::internal("revoke rounds ended without an answer"))
}

/// What is about to go, and what shows later whether it went.
fn plan(request: &Revoke, image: &GroupImage, ids: &[RuleId], missing: &Missing) -> Plan {
    let touched: HashSet<&RuleId> = ids.iter().collect();
    let (rules, rest) = journal::part(image, request.direction, |rule| touched.contains(&rule.id));
    let (unmatched, unmatched_ids) = match missing {
        Missing::Specs(specs) => {
            let stored = specs.iter().map(|spec| StoredRule::of_spec(request.direction, spec));
            (stored.collect(), Vec::new())
        }
        Missing::Ids(ids) => (Vec::new(), ids.iter().map(ToString::to_string).collect()),
    };
    Plan::Revoke {
        group: journal::stored_group(&image.group),
        is_egress: request.direction == Direction::Egress,
        rules,
        unmatched,
        unmatched_ids,
        removes_last_egress_rule: request.direction == Direction::Egress
            && decide::removes_last_egress(image, ids),
        rest,
    }
}

/// Warnings, and the answer.
fn finish(request: &Revoke, selection: &Selection, done: Done) -> Outcome {
    let Done { image, revoked, unknown, unknown_count } = done;
    let requested = match selection {
        Selection::Specs(specs) => specs.len(),
        Selection::Ids(ids) => ids.len(),
    };
    let (return_value, revoked) = match revoked {
        Some(revoked) => (revoked.return_value, revoked.revoked),
        None => (None, Vec::new()),
    };
    let extent = match unknown_count {
        0 => Extent::All,
        count if count >= requested && revoked.is_empty() => Extent::Nothing,
        _ => Extent::Part,
    };
    let mut warnings = match selection {
        Selection::Specs(specs) => warn::host_bits(specs),
        Selection::Ids(_) => Vec::new(),
    };
    let mut to_verify = None;
    if extent != Extent::Nothing {
        let removed = removed_ids(request.direction, &image, selection, &revoked, &unknown);
        let is_gone =
            |rule: &&Rule| rule.direction == request.direction && removed.contains(&rule.id);
        let gone: Vec<Rule> = image.rules.iter().filter(is_gone).cloned().collect();
        warnings.extend(warn::after_revoke(&image.group, request.direction, &gone, &image.rules));
        if request.verify {
            to_verify = Some(removed);
        }
    }
    Outcome::Revoked(Box::new(RevokeOutcome {
        return_value,
        revoked,
        unknown,
        extent,
        to_verify,
        warnings,
    }))
}

/// The ids that EC2 says are gone; where an endpoint does not list them, those of the pre-image that were named and
/// are not unknown.
fn removed_ids(
    direction: Direction,
    image: &GroupImage,
    selection: &Selection,
    revoked: &[RevokedRule],
    unknown: &Unknown,
) -> Vec<RuleId> {
    if !revoked.is_empty() {
        return revoked_ids(revoked);
    }
    let (mut ids, _) = split(direction, image, selection);
    if !unknown.permissions.is_empty() {
        let specs = expand("", &unknown.permissions).unwrap_or_default();
        let unknown: Vec<&RuleId> = match_specs(&specs, direction, &image.rules)
            .matched
            .iter()
            .map(|rule| &rule.id)
            .collect();
        ids.retain(|id| !unknown.contains(&id));
    }
    ids
}

fn revoked_ids(revoked: &[RevokedRule]) -> Vec<RuleId> {
    let ids = revoked.iter().filter_map(|rule| rule.security_group_rule_id.as_deref());
    ids.map(RuleId::new).collect()
}

/// The group as it is once `removed` have gone: an explanation names no rule that this very call removes.
fn without(image: &GroupImage, removed: &[RuleId]) -> GroupImage {
    if removed.is_empty() {
        return image.clone();
    }
    let left = image.rules.iter().filter(|rule| !removed.contains(&rule.id)).cloned().collect();
    GroupImage { rules: Arc::new(left), ..image.clone() }
}

/// Reads the group again, and decides again: it may have changed.
async fn read_again(
    work: &Work<'_>,
    request: &Revoke,
    selection: &Selection,
) -> Result<GroupImage, Error> {
    let image = read(work, &request.group).await?;
    decide(work, request, Some(&image), selection)?;
    Ok(image)
}

async fn read(work: &Work<'_>, group: &GroupRef) -> Result<GroupImage, Error> {
    work.backend
        .image(&work.context, &work.target, group)
        .await
        .map_err(|error| Error::from_backend(error, &group.to_string()))
}

async fn send(
    work: &Work<'_>,
    context: &CallContext,
    request: &Revoke,
    selection: Selection,
    dry_run: bool,
) -> Result<Revoked, BackendError> {
    let request = RevokeRules {
        group: request.group.clone(),
        direction: request.direction,
        selection,
        dry_run,
    };
    work.backend.revoke(context, &work.target, &request).await
}

/// For a call that may well do it when it comes again.
fn outrun(work: &Work<'_>) -> Error {
    let message =
        "others change these rules all the time, or reads lag behind; nothing was removed";
    let error = Error::later(Reason::OperationInProgress, message, SECOND_LOOK);
    Error { operation_id: work.meta.progress.sent_operation(), ..error }
}

/// Waits, but not for longer than the call may.
async fn pause(work: &Work<'_>, by: Duration) {
    if !by.is_zero() {
        sleep_until((Instant::now() + by).min(work.may_wait_until())).await;
    }
}

/// Whether EC2 means that something named does not exist. Some endpoints answer an unknown id with the code for an
/// unknown permission.
fn is_unknown(refusal: &Refusal) -> bool {
    matches!(
        refusal.code.as_str(),
        "InvalidPermission.NotFound" | "InvalidSecurityGroupRuleId.NotFound"
    )
}
