//! What must be true of the sandbox before and after any input.

use std::{collections::HashSet, sync::Arc, time::Duration};

use portcullis::{
    api::{encode, proto::v1},
    backend::{Backend, CallContext, DescribeGroups, GroupImage},
    rule::{Direction, Rule, RuleId, RuleSpec, Target, group},
};
use tokio::time::Instant;

use super::World;

/// The most rules of a group by direction and family; see ec2-facts section 6.
const MAX_RULES: usize = 60;

impl World {
    pub(super) fn call(&self) -> CallContext {
        let deadline = Instant::now() + Duration::from_secs(60);
        CallContext::new(deadline, "op")
    }

    pub(super) fn target(&self) -> Target {
        self.sandbox.resolve(None, None).unwrap()
    }

    /// All groups of the default target.
    pub(super) fn images(&self) -> Vec<GroupImage> {
        let (call, target) = (self.call(), self.target());
        let all = DescribeGroups::default();
        let page = self.sandbox.describe_groups(&call, &target, &all);
        self.runtime.block_on(page).unwrap().items
    }

    /// Ids of rules that exist.
    pub(super) fn known(images: &[GroupImage]) -> Vec<String> {
        let rules = images.iter().flat_map(|image| image.rules.iter());
        rules.map(|rule| rule.id.to_string()).collect()
    }

    /// Permissions that name egress rules of the first groups.
    pub(super) fn existing(images: &[GroupImage]) -> Vec<v1::IpPermission> {
        let rules = images.iter().take(3).flat_map(|image| image.rules.iter());
        let egress = rules.filter(|rule| rule.direction == Direction::Egress).take(50);
        let specs: Vec<RuleSpec> = egress.map(Rule::spec).collect();
        specs.iter().flat_map(|spec| encode::permissions(&group([spec]))).collect()
    }
}

/// Whether nothing changed.
pub fn same(before: &[GroupImage], after: &[GroupImage]) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|(before, after)| {
            before.group == after.group
                && (Arc::ptr_eq(&before.rules, &after.rules) || before.rules == after.rules)
        })
}

/// What is true of every state: ids are unique, rules of a group differ, limits hold, peers are canonical.
pub fn check(images: &[GroupImage], before: &[GroupImage]) {
    let mut ids: HashSet<&RuleId> = HashSet::new();
    for image in images {
        let known = before.iter().find(|before| before.group.id == image.group.id);
        if known.is_some_and(|before| Arc::ptr_eq(&before.rules, &image.rules)) {
            continue;
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            let rules: Vec<&Rule> =
                image.rules.iter().filter(|rule| rule.direction == direction).collect();
            let keys: HashSet<_> = rules.iter().map(|rule| rule.key()).collect();
            assert_eq!(keys.len(), rules.len(), "{} has a rule twice", image.group.id);
            // Groups and lists count in both families, so no family is over the limit if all together are not.
            assert!(rules.len() <= 2 * MAX_RULES, "{} has too many rules", image.group.id);
        }
        for rule in image.rules.iter() {
            assert!(ids.insert(&rule.id), "{} twice", rule.id);
            assert_eq!(rule.peer.clone().canonical(), rule.peer, "{}", rule.id);
            assert!(rule.description.as_deref() != Some(""), "{}", rule.id);
        }
    }
}
