//! Operations as people read them.

use super::{Kind, Lines, Rule, rule_table, total};
use crate::api::proto::v1::{self, Operation};

/// A list of operations.
pub fn operations(answer: &v1::ListOperationsResponse, width: Option<usize>) -> String {
    let mut lines = Lines::new(width);
    let rows: Vec<[String; 6]> = answer
        .operations
        .iter()
        .map(|operation| {
            [
                operation.operation_id.clone(),
                state(operation).to_owned(),
                rpc(operation).to_owned(),
                operation.group_id.clone(),
                caller(operation).to_owned(),
                time(operation.created_at),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let (word, text) = (Kind::Word, Kind::Text);
        let columns = [
            ("Operation", word),
            ("State", word),
            ("Call", word),
            ("Group", word),
            ("Caller", text),
            ("Created", word),
        ];
        lines.table(columns, &rows);
    }
    let next = Some(answer.next_page_token.as_str()).filter(|token| !token.is_empty());
    total(&mut lines, false, rows.len(), "operation", next);
    lines.finish()
}

/// One operation, with all that is recorded of it but the request.
pub fn operation(operation: Option<&Operation>, width: Option<usize>) -> String {
    let mut lines = Lines::new(width);
    let Some(operation) = operation else { return lines.finish() };
    let rules: Vec<Rule> = operation.security_group_rules.iter().map(Rule::from).collect();
    let egress = rules.first().is_none_or(|rule| rule.egress);
    rule_table(&mut lines, &rules, egress);
    let settled_by = operation.settled_by().as_str_name();
    let settled_by = settled_by.strip_prefix("SETTLED_BY_").unwrap_or(settled_by);
    let target = operation.target.clone().unwrap_or_default();
    let outcome = operation.outcome.as_ref().map(|outcome| match outcome.code() {
        0 => "OK".to_owned(),
        _ => format!("{}: {}", outcome.reason, outcome.message),
    });
    let said = [
        ("Operation", operation.operation_id.clone()),
        (
            "State",
            match operation.settled_at {
                Some(_) => format!("{}, by {settled_by}", state(operation)),
                None => state(operation).to_owned(),
            },
        ),
        ("Answer", outcome.unwrap_or_default()),
        ("Call", rpc(operation).to_owned()),
        ("Group", operation.group_id.clone()),
        ("Target", format!("{}/{}", target.account_id, target.region)),
        ("Caller", caller(operation).to_owned()),
        ("Reason", operation.change_reason.clone()),
        ("Created", time(operation.created_at)),
        ("Changed", time(operation.changed_at)),
        ("Settled", time(operation.settled_at)),
        ("Attempts", operation.attempts.to_string()),
        ("EC2 requests", operation.ec2_request_ids.join(", ")),
        ("Trace", operation.trace_id.clone()),
    ];
    for (name, text) in said.iter().filter(|(_, text)| !text.is_empty()) {
        lines.add(0, &format!("{name}: {text}"));
    }
    for note in &operation.notes {
        lines.add(0, &format!("Note: {note}"));
    }
    lines.finish()
}

fn state(operation: &Operation) -> &'static str {
    let name = operation.state().as_str_name();
    name.strip_prefix("OPERATION_STATE_").unwrap_or(name)
}

fn rpc(operation: &Operation) -> &str {
    operation.method.rsplit('/').next().unwrap_or_default()
}

fn caller(operation: &Operation) -> &str {
    operation.caller.as_ref().map_or("", |caller| &caller.principal_id)
}

/// To the second. Empty: there is none.
fn time(time: Option<pbjson_types::Timestamp>) -> String {
    let text = time.and_then(|time| serde_json::to_value(time).ok());
    let text = text.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
    text.get(..19).map(|seconds| format!("{seconds}Z")).unwrap_or_default()
}
