//! Adding rules, in either direction.

use super::{Outcome, Work, decide, is_dry_run_success, journal, names, settle, warn};
use crate::{
    access::{Action, Circumstances},
    backend::{AuthorizeRules, GroupImage},
    error::{Error, Reason},
    ledger::{Plan, stored::StoredRule},
    rule::{Direction, GroupRef, matching::same_rule},
};

/// The request of an authorize.
#[derive(Clone, Debug)]
pub struct Authorize {
    /// The rules to add, and where.
    pub rules: AuthorizeRules,
}

/// Authorizes. EC2 takes all rules or none.
pub(super) async fn run(work: &Work<'_>, request: Authorize) -> Result<Outcome, Error> {
    let mut rules = request.rules;
    let name = rules.group.to_string();
    if rules.dry_run {
        if work.access.decides() {
            decide(work, &mut rules).await?;
        }
        return match work.backend.authorize(&work.context, &work.target, &rules).await {
            Err(error) if is_dry_run_success(&error) => Ok(Outcome::DryRun),
            Err(error) => Err(Error::from_backend(error, &name)),
            Ok(_) => Err(Error::internal("EC2 answered a dry run as if it had been done")),
        };
    }
    let Some(image) = decide(work, &mut rules).await? else {
        return Err(Error::internal("a group was neither found nor not found"));
    };
    let plan = plan(&rules, &image);
    let context = work.begin_sending(plan.clone()).await?;
    match work.backend.authorize(&context, &work.target, &rules).await {
        Ok(authorized) => {
            work.answered(authorized.request_id.as_ref());
            Ok(Outcome::Authorized(authorized, warn::host_bits(&rules.specs)))
        }
        Err(error) => {
            let error = work.sent_error(error, &name);
            // What was there before the earlier attempt is not its doing.
            let was_there = matches!(
                work.earlier(),
                Some(Plan::Authorize { present, .. }) if !present.is_empty()
            );
            let ours =
                work.again() && !was_there && error.reason == Reason::InvalidPermissionDuplicate;
            match settle::done_after_all(work, &plan, ours).await? {
                Some(outcome) => Ok(outcome),
                None => Err(error),
            }
        }
    }
}

/// What is about to come, and what shows later whether it came.
fn plan(rules: &AuthorizeRules, image: &GroupImage) -> Plan {
    let (present, rest) = journal::part(image, rules.direction, |rule| {
        rules.specs.iter().any(|spec| same_rule(spec, rule))
    });
    let direction = rules.direction;
    Plan::Authorize {
        group: journal::stored_group(&image.group),
        is_egress: direction == Direction::Egress,
        rules: rules.specs.iter().map(|spec| StoredRule::of_spec(direction, spec)).collect(),
        tags: journal::stored_tags(&rules.tags),
        present,
        rest,
    }
}

/// Decides each rule, on the group as it is and with peers by id. What was decided on is what is sent.
async fn decide(work: &Work<'_>, rules: &mut AuthorizeRules) -> Result<Option<GroupImage>, Error> {
    let found = decide::read(work, &rules.group).await?;
    let named = match found.image() {
        Some(image) => names::resolve(work, image, &mut rules.specs).await?,
        None => None,
    };
    let action = match rules.direction {
        Direction::Egress => Action::AuthorizeEgress,
        Direction::Ingress => Action::AuthorizeIngress,
    };
    let circumstances = Circumstances { dry_run: rules.dry_run, ..Circumstances::default() };
    let facts = decide::added(rules.direction, &rules.specs);
    work.check_rules(action, &rules.group, found.image(), circumstances, &facts)?;
    let image = found.found(rules.dry_run)?;
    if let Some(image) = &image {
        rules.group = GroupRef::Id(image.group.id.clone());
    }
    named.map_or(Ok(image), Err)
}
