//! Adding rules, in either direction.

use super::{Outcome, Work, decide, is_dry_run_success, names, warn};
use crate::{
    access::{Action, Circumstances},
    backend::AuthorizeRules,
    error::Error,
    rule::{Direction, GroupRef},
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
    if work.access.decides() {
        decide(work, &mut rules).await?;
    }
    if !rules.dry_run {
        work.begin_sending()?;
    }
    match work.backend.authorize(&work.context, &work.target, &rules).await {
        Ok(authorized) => Ok(Outcome::Authorized(authorized, warn::host_bits(&rules.specs))),
        Err(error) if rules.dry_run && is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(work.sent_error(error, &name)),
    }
}

/// Decides each rule, on the group as it is and with peers by id. What was decided on is what is sent.
async fn decide(work: &Work<'_>, rules: &mut AuthorizeRules) -> Result<(), Error> {
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
    if let Some(image) = found.found(rules.dry_run)? {
        rules.group = GroupRef::Id(image.group.id.clone());
    }
    named.map_or(Ok(()), Err)
}
