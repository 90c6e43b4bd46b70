//! Describing, creating and deleting security groups, and describing rules.

use super::{Outcome, Work, is_dry_run_success};
use crate::{
    backend::{CreateGroup, DeleteGroup, DescribeGroups, DescribeRules},
    error::Error,
};

/// The request of CreateSecurityGroup.
#[derive(Clone, Debug)]
pub struct Create(pub CreateGroup);

/// The request of DeleteSecurityGroup.
#[derive(Clone, Debug)]
pub struct Delete(pub DeleteGroup);

/// Lists groups.
pub(super) async fn describe_groups(
    work: &Work<'_>,
    request: &DescribeGroups,
) -> Result<Outcome, Error> {
    match work.backend.describe_groups(&work.context, &work.target, request).await {
        Ok(page) => Ok(Outcome::Groups(work.target.clone(), page)),
        Err(error) if request.dry_run && is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(Error::from_backend(error, "")),
    }
}

/// Lists rules.
pub(super) async fn describe_rules(
    work: &Work<'_>,
    request: &DescribeRules,
) -> Result<Outcome, Error> {
    match work.backend.describe_rules(&work.context, &work.target, request).await {
        Ok(page) => Ok(Outcome::Rules(work.target.clone(), page)),
        Err(error) if request.dry_run && is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(Error::from_backend(error, "")),
    }
}

/// Creates a group.
pub(super) async fn create(work: &Work<'_>, Create(request): Create) -> Result<Outcome, Error> {
    if !request.dry_run {
        work.begin_sending()?;
    }
    match work.backend.create_group(&work.context, &work.target, &request).await {
        Ok(created) => Ok(Outcome::Created(created)),
        Err(error) if request.dry_run && is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(work.sent_error(error, &request.name)),
    }
}

/// Deletes a group.
pub(super) async fn delete(work: &Work<'_>, Delete(request): &Delete) -> Result<Outcome, Error> {
    if !request.dry_run {
        work.begin_sending()?;
    }
    match work.backend.delete_group(&work.context, &work.target, request).await {
        Ok(deleted) => Ok(Outcome::Deleted(deleted)),
        Err(error) if request.dry_run && is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(work.sent_error(error, &request.group.to_string())),
    }
}
