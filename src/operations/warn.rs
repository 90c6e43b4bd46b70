//! What a caller should know about a change that was made.

use crate::{
    backend::Group,
    rule::{Direction, Rule, RuleId, RuleSpec, Tag},
};

/// The most warnings of one kind: a thousand rules are not a thousand warnings.
const MAX_OF_A_KIND: usize = 20;

/// Something the caller should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// In plain words.
    pub message: String,
    /// The rule it is about, if it is about one.
    pub rule_id: Option<RuleId>,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named and documented in the contract")]
pub enum WarningKind {
    LastEgressRuleRemoved,
    CoveredByWiderRule,
    OwnedElsewhere,
    ConnectionsStayTracked,
    HostBitsSet,
    SettledByReadBack,
    LedgerLags,
    SettledByOperator,
}

impl Warning {
    fn new(kind: WarningKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), rule_id: None }
    }

    fn about(kind: WarningKind, rule: &Rule, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), rule_id: Some(rule.id.clone()) }
    }
}

/// Ranges that were spelled with host bits.
pub(super) fn host_bits(specs: &[RuleSpec]) -> Vec<Warning> {
    specs
        .iter()
        .filter(|spec| spec.peer.has_host_bits())
        .map(|spec| {
            let message = format!(
                "{} has host bits set; it means {}.",
                spec.peer,
                spec.peer.clone().canonical()
            );
            Warning::new(WarningKind::HostBitsSet, message)
        })
        .take(MAX_OF_A_KIND)
        .collect()
}

/// What follows from removing `gone` from a group; of `rules` they may be in there or not.
pub(super) fn after_revoke(
    group: &Group,
    direction: Direction,
    gone: &[Rule],
    rules: &[Rule],
) -> Vec<Warning> {
    let is_gone = |rule: &Rule| gone.iter().any(|gone| gone.id == rule.id);
    let left = rules.iter().filter(|rule| rule.direction == direction && !is_gone(rule));
    let left: Vec<&Rule> = left.collect();
    let mut warnings = Vec::new();
    if left.is_empty() && !gone.is_empty() && direction == Direction::Egress {
        warnings.push(Warning::new(
            WarningKind::LastEgressRuleRemoved,
            format!(
                "{} has no egress rule left: what it is attached to can open no connection.",
                group.id
            ),
        ));
    }
    let covered = gone.iter().filter_map(|gone| {
        let wider = left
            .iter()
            .find(|left| left.traffic.covers(gone.traffic) && left.peer.covers(&gone.peer))?;
        let message = format!(
            "{} is removed, but {} ({}, {}) still allows its traffic.",
            gone.id, wider.id, wider.traffic, wider.peer
        );
        Some(Warning::about(WarningKind::CoveredByWiderRule, wider, message))
    });
    warnings.extend(covered.take(MAX_OF_A_KIND));
    if let Some(owner) = owner(&group.tags) {
        let message =
            format!("{} is managed by {owner}: what was removed may come back.", group.id);
        warnings.push(Warning::new(WarningKind::OwnedElsewhere, message));
    }
    let owned = gone.iter().filter_map(|rule| {
        let message =
            format!("{} was managed by {}: it may come back.", rule.id, owner(rule.tags())?);
        Some(Warning::about(WarningKind::OwnedElsewhere, rule, message))
    });
    warnings.extend(owned.take(MAX_OF_A_KIND));
    if !gone.is_empty() {
        warnings.push(Warning::new(
            WarningKind::ConnectionsStayTracked,
            "Connections that are open and tracked go on until they end or time out; a network ACL \
             ends them at once.",
        ));
    }
    warnings
}

/// Who manages a resource, by the tags that the usual tools leave.
fn owner(tags: &[Tag]) -> Option<String> {
    tags.iter().find_map(|Tag { key, value }| {
        let lower = key.to_ascii_lowercase();
        match lower.as_str() {
            "aws:cloudformation:stack-name" => Some(format!("the CloudFormation stack {value}")),
            "aws:eks:cluster-name" | "elbv2.k8s.aws/cluster" => {
                Some(format!("a controller of the Kubernetes cluster {value}"))
            }
            "crossplane-name" => Some(format!("Crossplane ({value})")),
            "terraform" if !value.eq_ignore_ascii_case("false") => Some("Terraform".to_owned()),
            "managedby" | "managed-by" | "managed_by" => {
                let manager = value.to_ascii_lowercase();
                let known = ["terraform", "opentofu", "pulumi", "cloudformation", "crossplane"];
                known.iter().any(|name| manager.contains(name)).then(|| value.clone())
            }
            _ => lower
                .strip_prefix("kubernetes.io/cluster/")
                .map(|name| format!("a controller of the Kubernetes cluster {name}")),
        }
    })
}
