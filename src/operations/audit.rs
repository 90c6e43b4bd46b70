//! The audit stream's lines about operations: one for each whose outcome is recorded, whoever recorded it. Attempts
//! that leave no record have theirs from `telemetry/audit.rs`.

use crate::ledger::Record;

/// The outcome is in the ledger. There is one line for each attempt at most, so that the ledger's writes bound them.
pub(crate) fn outcome(record: &Record) {
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
