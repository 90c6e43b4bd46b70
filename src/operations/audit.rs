//! The audit stream's lines about operations: one for each whose outcome is recorded, whoever recorded it. Attempts
//! that leave no record have theirs from `telemetry/audit.rs`.

use crate::{
    ledger::{Record, SettledBy, State},
    telemetry::metrics::Metrics,
};

/// An operation is left in a state: counted, and told if that is an outcome. What is in doubt has its line when it is
/// settled.
pub(crate) fn left(metrics: &Metrics, record: &Record) {
    metrics.finished(&record.method, record.state.as_str());
    if record.state.is_unsettled() {
        return;
    }
    let settled_by = match record.settled_by {
        Some(SettledBy::Operator) => Some("OPERATOR"),
        Some(SettledBy::ReadBack) => Some("READ_BACK"),
        Some(SettledBy::Ec2Answer) | None => None,
    };
    if let Some(settled_by) = settled_by
        && record.state != State::Unresolved
    {
        metrics.recovered(settled_by, record.state.as_str());
    }
    outcome(record);
}

/// The outcome is in the ledger. There is one line for each attempt at most, so that the ledger's writes bound them.
fn outcome(record: &Record) {
    let settled_by = record.settled_by.map(|by| format!("{by:?}"));
    tracing::info!(
        target: "audit",
        operation = record.id,
        principal = record.caller,
        rpc = record.method,
        account = record.account,
        region = record.region,
        group = record.plan.group().group_id,
        state = record.state.as_str(),
        settled_by,
        code = record.answer.as_ref().map(|answer| answer.code),
        ec2_request_id = record.ec2_request_ids.last(),
        change_reason = record.change_reason,
        trace_id = record.trace_id,
        note = record.notes.last(),
        "operation"
    );
}
