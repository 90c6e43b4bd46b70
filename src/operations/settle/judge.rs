//! What one read shows of an operation: its plan held against the group as it is now. Pure.

use crate::{
    backend::GroupImage,
    ledger::{
        Plan,
        stored::{StoredRule, StoredTag},
    },
    rule::{Rule, RuleId, Tag, matching::same_rule},
};

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
pub(super) fn same_tags(there: &[Tag], intended: &[Tag]) -> bool {
    let own = there.iter().filter(|tag| !tag.key.starts_with("aws:")).count();
    own == intended.len() && intended.iter().all(|tag| there.contains(tag))
}
