//! Describing, creating and deleting security groups, and describing rules.

use super::{Outcome, Work, decide, is_dry_run_success, journal, pages, pages::Listing, settle};
use crate::{
    access::{Action, Circumstances, RuleFacts},
    backend::{BackendError, CreateGroup, DeleteGroup, DescribeGroups, DescribeRules, Page},
    error::{Detail, Error, Reason},
    ledger::Plan,
    rule::{GroupId, GroupRef, RuleId, Tag},
};

/// The tag that a created group has: the operation that created it.
pub const OPERATION_TAG: &str = "portcullis:operation-id";

/// The most tags of a group (EC2's limit). A request that uses them all leaves no room for ours.
const MAX_TAGS: usize = 50;

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
    let ids = request.group_ids.iter().map(GroupId::as_str);
    let named = ids.chain(request.group_names.iter().map(String::as_str)).next();
    let bare = DescribeGroups { filters: Vec::new(), ..request.clone() };
    match list(work, request, request.dry_run, named, &bare).await {
        Ok(page) => Ok(Outcome::Groups(work.target.clone(), page)),
        Err(Failed::Backend(error)) if request.dry_run && is_dry_run_success(&error) => {
            Ok(Outcome::DryRun)
        }
        Err(Failed::Backend(error)) => Err(Error::from_backend(error, "")),
        Err(Failed::Hidden(name)) => Err(hidden(Reason::InvalidGroupNotFound, "group", name)),
    }
}

/// Lists rules.
pub(super) async fn describe_rules(
    work: &Work<'_>,
    request: &DescribeRules,
) -> Result<Outcome, Error> {
    let named = request.rule_ids.first().map(RuleId::as_str);
    let bare = DescribeRules { filters: Vec::new(), ..request.clone() };
    match list(work, request, request.dry_run, named, &bare).await {
        Ok(page) => Ok(Outcome::Rules(work.target.clone(), page)),
        Err(Failed::Backend(error)) if request.dry_run && is_dry_run_success(&error) => {
            Ok(Outcome::DryRun)
        }
        Err(Failed::Backend(error)) => Err(Error::from_backend(error, "")),
        Err(Failed::Hidden(name)) => {
            Err(hidden(Reason::InvalidSecurityGroupRuleIdNotFound, "rule", name))
        }
    }
}

/// Why there is no list.
enum Failed<'a> {
    Backend(BackendError),
    /// Something named is not there, or not for this caller. The first that was named: which it is, is not said.
    Hidden(&'a str),
}

/// A page of what the caller may read. What is named by id or name must be there and readable, all of it: a name that
/// may not be read is answered as one that does not exist is. `bare` is the request without its filters, which must not
/// tell the two apart either; nor must a page that lacks what may not be read.
async fn list<'a, L: Listing>(
    work: &Work<'_>,
    request: &L,
    dry_run: bool,
    named: Option<&'a str>,
    bare: &L,
) -> Result<Page<L::Item>, Failed<'a>> {
    if !work.access.enforces() || dry_run {
        let (size, token) = request.asked();
        let page = request.page(work, size, token.map(str::to_owned)).await;
        let page = page.map_err(Failed::Backend)?;
        if !work.access.decides() {
            return Ok(page);
        }
        // It only reports: the decisions are logged, and nothing is left out.
        let items = request.readable(work, page.items).await.map_err(Failed::Backend)?;
        return Ok(Page { items, ..page });
    }
    let Some(named) = named else {
        return pages::page(work, request).await.map_err(Failed::Backend);
    };
    // All of it, whichever page is asked for.
    let first = named_page(work, bare, named, None, None).await?;
    let mut more = first.next_token.clone();
    while let Some(token) = more {
        more = named_page(work, bare, named, None, Some(token)).await?.next_token;
    }
    match request.asked() {
        (None, None) if !request.is_filtered() => Ok(first),
        (size, token) => named_page(work, request, named, size, token.map(str::to_owned)).await,
    }
}

async fn named_page<'a, L: Listing>(
    work: &Work<'_>,
    request: &L,
    named: &'a str,
    size: Option<i32>,
    token: Option<String>,
) -> Result<Page<L::Item>, Failed<'a>> {
    let page = request.page(work, size, token).await;
    let Page { items, next_token } = page.map_err(|error| match error {
        BackendError::Refused(refusal) if refusal.code.ends_with(".NotFound") => {
            Failed::Hidden(named)
        }
        error => Failed::Backend(error),
    })?;
    let all = items.len();
    let items = request.readable(work, items).await.map_err(Failed::Backend)?;
    if items.len() < all { Err(Failed::Hidden(named)) } else { Ok(Page { items, next_token }) }
}

fn hidden(reason: Reason, kind: &str, name: &str) -> Error {
    let resource = Detail::Resource(Box::new(("ec2:security-group", name.to_owned())));
    let message = format!("a {kind} that the request names does not exist or is not yours to see");
    Error { detail: resource, ..Error::new(reason, message) }
}

/// Creates a group. Its operation's id becomes a tag of it, by which it is found again if the answer is lost.
pub(super) async fn create(work: &Work<'_>, Create(mut request): Create) -> Result<Outcome, Error> {
    if request.dry_run {
        return match work.backend.create_group(&work.context, &work.target, &request).await {
            Err(error) if is_dry_run_success(&error) => Ok(Outcome::DryRun),
            Err(error) => Err(Error::from_backend(error, &request.name)),
            Ok(_) => Err(Error::internal("EC2 answered a dry run as if it had been done")),
        };
    }
    if request.tags.len() < MAX_TAGS {
        let value = work.meta.operation_id.to_string();
        request.tags.push(Tag { key: OPERATION_TAG.to_owned(), value });
    }
    let plan = Plan::Create { group: journal::planned_group(&work.target, &request) };
    let context = work.begin_sending(plan.clone()).await?;
    match work.backend.create_group(&context, &work.target, &request).await {
        Ok(created) => {
            work.answered(created.request_id.as_ref());
            Ok(Outcome::Created(created, Vec::new()))
        }
        Err(error) => {
            let error = work.sent_error(error, &request.name);
            let ours = work.again() && error.reason == Reason::InvalidGroupDuplicate;
            match settle::done_after_all(work, &plan, ours).await? {
                Some(outcome) => Ok(outcome),
                None => Err(error),
            }
        }
    }
}

/// Deletes a group.
pub(super) async fn delete(work: &Work<'_>, Delete(mut request): Delete) -> Result<Outcome, Error> {
    let name = request.group.to_string();
    if request.dry_run && !work.access.decides() {
        return dry_delete(work, &request, &name).await;
    }
    let image = decide::read(work, &request.group).await?;
    let circumstances = Circumstances { dry_run: request.dry_run, ..Circumstances::default() };
    let (action, none) = (Action::DeleteSecurityGroup, [RuleFacts::none()]);
    work.check_rules(action, &request.group, image.image(), circumstances, &none)?;
    // What was decided on is what goes, whatever its name means by now.
    let image = image.found(request.dry_run)?;
    if let Some(image) = &image {
        request.group = GroupRef::Id(image.group.id.clone());
    }
    let Some(image) = image.filter(|_| !request.dry_run) else {
        return dry_delete(work, &request, &name).await;
    };
    let plan = Plan::Delete { group: journal::stored_group(&image.group) };
    let context = work.begin_sending(plan.clone()).await?;
    match work.backend.delete_group(&context, &work.target, &request).await {
        Ok(deleted) => {
            work.answered(deleted.request_id.as_ref());
            Ok(Outcome::Deleted(deleted, Vec::new()))
        }
        Err(error) => {
            let error = work.sent_error(error, &name);
            let ours = work.again() && error.reason == Reason::InvalidGroupNotFound;
            match settle::done_after_all(work, &plan, ours).await? {
                Some(outcome) => Ok(outcome),
                None => Err(error),
            }
        }
    }
}

async fn dry_delete(work: &Work<'_>, request: &DeleteGroup, name: &str) -> Result<Outcome, Error> {
    match work.backend.delete_group(&work.context, &work.target, request).await {
        Err(error) if is_dry_run_success(&error) => Ok(Outcome::DryRun),
        Err(error) => Err(Error::from_backend(error, name)),
        Ok(_) => Err(Error::internal("EC2 answered a dry run as if it had been done")),
    }
}
