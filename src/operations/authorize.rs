//! Adding rules, in either direction.

use super::{Outcome, Work, is_dry_run_success, warn};
use crate::{backend::AuthorizeRules, error::Error};

/// The request of an authorize.
#[derive(Clone, Debug)]
pub struct Authorize {
    /// The rules to add, and where.
    pub rules: AuthorizeRules,
}

/// Authorizes. EC2 takes all rules or none.
pub(super) async fn run(work: &Work<'_>, request: Authorize) -> Result<Outcome, Error> {
    let rules = request.rules;
    if !rules.dry_run {
        work.begin_sending()?;
    }
    match work.backend.authorize(&work.context, &work.target, &rules).await {
        Ok(authorized) => Ok(Outcome::Authorized(authorized, warn::host_bits(&rules.specs))),
        Err(error) if rules.dry_run && is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(work.sent_error(error, &rules.group.to_string())),
    }
}
