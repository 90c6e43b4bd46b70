//! An operator's word on what became of an operation.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{is_here, outcome, read};
use crate::{
    ledger::{Move, Record, SettledBy, State},
    operations::{CallMeta, Operations, Scribe, Warning, WarningKind},
    principal::Principal,
};

/// How long the group is read for what only it can tell. The target may be gone: then the record alone makes the answer.
const READ: Duration = Duration::from_secs(2);

/// The step that an operator takes: to SUCCEEDED, with an answer made of what the record holds, or to RELEASED.
pub(in crate::operations) async fn by_operator(
    operations: &Operations,
    scribe: &dyn Scribe,
    record: &Record,
    to: State,
    operator: &Principal,
    reason: &str,
) -> Move {
    let answer = match to {
        State::Succeeded => Some(answer(operations, scribe, record).await),
        _ => None,
    };
    Move {
        answer,
        settled_by: Some(SettledBy::Operator),
        note: Some(format!("{to}, says the operator {operator}: {reason}")),
        ..Move::to(to)
    }
}

async fn answer(
    operations: &Operations,
    scribe: &dyn Scribe,
    record: &Record,
) -> crate::ledger::Recorded {
    let meta = CallMeta::of_record(record, Instant::now() + READ);
    let work = operations.work(&meta, record.target(), true);
    let image = if is_here(operations, record) {
        timeout(READ, read(&work, &record.plan, &record.id)).await
    } else {
        Ok(Ok(None))
    };
    let image = image.ok().and_then(Result::ok).flatten();
    let warning = Warning {
        kind: WarningKind::SettledByOperator,
        message: "EC2's answer was lost; an operator says that the change was made.".to_owned(),
        rule_id: None,
    };
    let outcome = outcome(&work, &record.plan, image, warning).await;
    scribe.record(&record.method, &record.id, Ok(outcome))
}
