//! What a revoke named and the group has not: told apart from what it has, and explained.

use super::{Revoke, read};
use crate::{
    backend::{BackendError, DescribeRules, Filter, GroupImage, OwnedRule, Refusal, Selection},
    error::{Detail, Error, Reason, Unknown, UnknownExplanation, UnknownSubject},
    ledger::{Plan, stored::StoredRule},
    operations::Work,
    rule::{
        Direction, IpPermission, Rule, RuleId, RuleSpec, expand,
        explain::{Explanation, UnknownReason, explain_id, explain_spec},
        group,
        matching::{match_ids, match_specs},
    },
};

/// The most rule ids that one look for their owner asks for: EC2's limit of values in a filter.
const MAX_FILTER_VALUES: usize = 200;

/// What matched nothing.
pub(super) enum Missing {
    Specs(Vec<RuleSpec>),
    Ids(Vec<RuleId>),
}

/// Holds a selection against the image: the ids to send, and what matched nothing.
pub(super) fn split(
    direction: Direction,
    image: &GroupImage,
    selection: &Selection,
) -> (Vec<RuleId>, Missing) {
    let ids = |rules: Vec<&Rule>| rules.into_iter().map(|rule| rule.id.clone()).collect();
    match selection {
        Selection::Specs(specs) => {
            let matching = match_specs(specs, direction, &image.rules);
            let missing = matching.unknown.into_iter().cloned().collect();
            (ids(matching.matched), Missing::Specs(missing))
        }
        Selection::Ids(wanted) => {
            let matching = match_ids(wanted, direction, &image.rules);
            let missing = matching.unknown.into_iter().cloned().collect();
            (ids(matching.matched), Missing::Ids(missing))
        }
    }
}

impl Missing {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Specs(specs) => specs.len(),
            Self::Ids(ids) => ids.len(),
        }
    }

    pub(super) async fn explain(
        &self,
        work: &Work<'_>,
        direction: Direction,
        image: &GroupImage,
    ) -> Unknown {
        let group_id = image.group.id.to_string();
        match self {
            Self::Specs(specs) => Unknown {
                group: group_id,
                permissions: group(specs),
                rule_ids: Vec::new(),
                explanations: explain_specs(direction, image, specs),
            },
            Self::Ids(ids) => Unknown {
                group: group_id,
                permissions: Vec::new(),
                rule_ids: ids.clone(),
                explanations: explain_ids(work, direction, image, ids).await,
            },
        }
    }
}

/// What a recorded revoke named and its pre-image had not, held against the group as it is now; none: it is gone.
pub(crate) async fn unknown_of_record(
    work: &Work<'_>,
    plan: &Plan,
    image: Option<&GroupImage>,
) -> Unknown {
    let Plan::Revoke { group, unmatched, unmatched_ids, .. } = plan else {
        return Unknown::default();
    };
    let direction = plan.direction().unwrap_or(Direction::Egress);
    let missing = if unmatched_ids.is_empty() {
        Missing::Specs(unmatched.iter().filter_map(StoredRule::to_spec).collect())
    } else {
        Missing::Ids(unmatched_ids.iter().map(RuleId::new).collect())
    };
    match (image, missing.count()) {
        (_, 0) | (None, _) => Unknown { group: group.group_id.clone(), ..Unknown::default() },
        (Some(image), _) => missing.explain(work, direction, image).await,
    }
}

/// EC2 refused the whole request without saying for what. The pre-image tells; if it knows everything that was asked
/// for, somebody changed the group since, and a fresh read tells what is missing now.
pub(super) async fn explain_refusal(
    work: &Work<'_>,
    request: &Revoke,
    image: &GroupImage,
    selection: &Selection,
) -> Unknown {
    let (_, missing) = split(request.direction, image, selection);
    if missing.count() > 0 {
        return missing.explain(work, request.direction, image).await;
    }
    let gone = match read(work, &request.group).await {
        Ok(fresh) => split(request.direction, &fresh, selection).1,
        Err(_) => missing,
    };
    let all = match selection {
        Selection::Specs(specs) => Missing::Specs(specs.clone()),
        Selection::Ids(ids) => Missing::Ids(ids.clone()),
    };
    let gone = if gone.count() > 0 { gone } else { all };
    // Against the pre-image, which has them: the reason becomes CHANGED_CONCURRENTLY.
    gone.explain(work, request.direction, image).await
}

pub(super) fn unknown_error(work: &Work<'_>, refusal: Refusal, unknown: Unknown) -> Error {
    let mut error = work.sent_error(BackendError::Refused(refusal), &unknown.group);
    debug_assert!(matches!(
        error.reason,
        Reason::InvalidPermissionNotFound | Reason::InvalidSecurityGroupRuleIdNotFound
    ));
    if let [only] = unknown.explanations.as_slice() {
        error.message = format!("{}. {}", error.message.trim_end_matches('.'), only.message);
    }
    error.detail = Detail::Unknown(Box::new(unknown));
    error
}

/// Explains what EC2 lists as unknown, in EC2's own form.
pub(super) fn explain_permissions(
    direction: Direction,
    image: &GroupImage,
    permissions: &[IpPermission],
) -> Vec<UnknownExplanation> {
    permissions
        .iter()
        .flat_map(|permission| match expand("", std::slice::from_ref(permission)) {
            Ok(specs) => explain_specs(direction, image, &specs),
            // EC2 may use another format than the request's: it is passed on as it is.
            Err(_) => vec![UnknownExplanation {
                subject: UnknownSubject::Permission(permission.clone()),
                reason: None,
                nearest: Vec::new(),
                message: "EC2 did not know this permission.".to_owned(),
            }],
        })
        .collect()
}

fn explain_specs(
    direction: Direction,
    image: &GroupImage,
    specs: &[RuleSpec],
) -> Vec<UnknownExplanation> {
    let explain = |spec: &RuleSpec| {
        let permission = group([spec]).pop().unwrap_or_default();
        let explanation = explain_spec(spec, direction, &image.rules);
        owned(UnknownSubject::Permission(permission), explanation, image)
    };
    specs.iter().map(explain).collect()
}

async fn explain_ids(
    work: &Work<'_>,
    direction: Direction,
    image: &GroupImage,
    ids: &[RuleId],
) -> Vec<UnknownExplanation> {
    let owners = owners(work, image, ids).await;
    ids.iter()
        .map(|id| {
            let owner = owners.iter().find(|rule| rule.rule.id == *id);
            let name = owner.map(|rule| rule.group_id.as_str());
            let explanation = explain_id(id, direction, &image.rules, name);
            let reason = explanation.reason;
            let mut explained = owned(UnknownSubject::RuleId(id.clone()), explanation, image);
            if reason == UnknownReason::BelongsToAnotherGroup {
                explained.nearest.extend(owner.cloned());
            }
            explained
        })
        .collect()
}

/// The rules of other groups that have these ids. Best effort: without an answer the explanation says less.
async fn owners(work: &Work<'_>, image: &GroupImage, ids: &[RuleId]) -> Vec<OwnedRule> {
    let values: Vec<String> = ids
        .iter()
        .filter(|id| !image.rules.iter().any(|rule| rule.id == **id))
        // A wildcard in an id would match ids that nobody asked for.
        .filter(|id| !id.as_str().contains(['*', '?', '\\']))
        .take(MAX_FILTER_VALUES)
        .map(RuleId::to_string)
        .collect();
    if values.is_empty() {
        return Vec::new();
    }
    let filter = Filter { name: "security-group-rule-id".to_owned(), values };
    let request = DescribeRules { filters: vec![filter], ..DescribeRules::default() };
    match work.backend.describe_rules(&work.context, &work.target, &request).await {
        Ok(page) => work.readable_rules_or_none(page.items).await,
        Err(_) => Vec::new(),
    }
}

fn owned(
    subject: UnknownSubject,
    explanation: Explanation<'_>,
    image: &GroupImage,
) -> UnknownExplanation {
    let own = |rule: &Rule| OwnedRule {
        group_id: image.group.id.clone(),
        group_owner_id: image.group.owner_id.clone(),
        rule: rule.clone(),
        arn: None,
    };
    UnknownExplanation {
        subject,
        reason: Some(explanation.reason),
        nearest: explanation.nearest.into_iter().map(own).collect(),
        message: explanation.message,
    }
}
