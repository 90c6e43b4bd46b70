//! What every engine of the ledger does, whatever it stores its records in: one case for each promise of the trait.
//!
//! An engine is plugged in with a [`Bench`] and one line in a module of its own:
//!
//! ```ignore
//! async fn open() -> Box<dyn Bench> { ... }   // an empty ledger with `suite::TERMS`
//! conformance!(open, durable);                // without `durable` if it forgets everything when it is closed
//! ```
//!
//! The clock of an engine may go on by itself (a database's does): cases leave margins of minutes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use portcullis::ledger::{
    Filter, Intended, Intent, Key, Ledger, Look, Looked, Move, Plan, Record, Recorded, State,
    Terms,
    stored::{StoredGroup, StoredRule},
};
use serde_json::json;

#[path = "suite/changes.rs"]
pub mod changes;
#[path = "suite/durable.rs"]
#[allow(dead_code, reason = "not every engine is durable")]
pub mod durable;
#[path = "suite/intents.rs"]
pub mod intents;
#[path = "suite/lists.rs"]
pub mod lists;
#[path = "suite/moves.rs"]
pub mod moves;
#[path = "suite/turns.rs"]
pub mod turns;

/// Makes one `#[tokio::test]` for each case.
macro_rules! conformance {
    ($open:ident) => {
        conformance!(@ $open intents:
            a_new_intent_is_written
            what_is_answered_is_what_is_stored
            an_intent_may_be_born_settled
            what_is_not_final_is_not_born
            a_key_is_per_scope_and_caller
            a_key_is_kept_for_its_retention_after_settling
            an_unresolved_operation_keeps_its_key
            a_freed_key_is_the_next_ones
            what_was_released_runs_again
            what_runs_again_may_be_born_settled
            only_what_was_released_runs_again
            what_runs_again_needs_its_key
            what_runs_again_needs_its_group
            what_runs_again_may_be_in_another_group
            a_group_has_one_unsettled_operation
            a_settled_operation_frees_its_group
            one_of_many_intents_of_a_call_is_written
            one_of_many_intents_of_a_key_is_written
            one_of_many_intents_of_a_group_is_written
            many_groups_are_written_at_once
            one_bad_intent_among_many_fails_alone
            an_equal_request_without_a_key_is_found
            a_call_with_a_key_joins_nothing
        );
        conformance!(@ $open moves:
            every_move_of_the_table_and_no_other
            a_move_repeated_is_one_move
            moves_need_the_fence
            what_is_unknown_does_not_move
            a_settled_answer_is_kept
            a_step_may_change_the_plan_and_hold_on
            notes_need_no_fence
            notes_are_bounded
            nothing_is_taken_over_while_it_is_held
            who_was_taken_over_is_fenced_out
            what_is_settled_is_not_taken_over
            one_of_many_takes_over
            one_of_many_moves_to_different_ends_is_made
        );
        conformance!(@ $open changes:
            a_change_wakes_who_waits
            many_may_wait
            what_has_changed_already_is_not_waited_for
            changes_of_others_wake_nobody
            every_kind_of_change_wakes
        );
        conformance!(@ $open lists:
            newest_first
            each_filter_filters
            filters_are_met_together
            pages_are_stable_while_records_come
            records_hold_any_text
            sweeping_is_by_settling_and_in_batches
            what_is_not_settled_is_never_swept
            what_was_swept_is_gone
            it_can_be_written_to
        );
        conformance!(@ $open turns:
            turns_come_in_the_order_of_asking
            groups_do_not_wait_for_each_other
            nobody_waits_past_the_deadline
            a_turn_that_is_dropped_is_the_next_ones
            who_leaves_the_line_keeps_nobody_waiting
            the_line_is_bounded
            a_turn_is_not_an_intent
        );
    };
    ($open:ident, durable) => {
        conformance!($open);
        conformance!(@ $open durable:
            everything_is_there_again
            what_was_begun_goes_on
            keys_and_groups_are_guarded_again
            turns_are_not_kept
            a_retention_goes_on
            it_is_opened_again_and_again
        );
    };
    (@ $open:ident $part:ident: $($case:ident)*) => {
        mod $part {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let mut bench = super::$open().await;
                    $crate::suite::$part::$case(&mut *bench).await;
                }
            )*
        }
    };
}

/// What a bench does, and is to be waited for.
pub type Later<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One engine with its data.
pub trait Bench: fmt::Debug + Send {
    /// The ledger as it is open now.
    fn ledger(&self) -> Arc<dyn Ledger>;

    /// Moves the ledger's clock on.
    fn advance(&mut self, by: Duration) -> Later<'_>;

    /// A new instance on the same data, as after a crash. Cases hold no other reference to the old one by then.
    fn reopen(&mut self) -> Later<'_>;
}

/// What benches open their ledgers with.
pub const TERMS: Terms =
    Terms { key_retention: DAY, record_retention: Duration::from_secs(90 * 86_400) };
pub const DAY: Duration = Duration::from_secs(86_400);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const MINUTE: Duration = Duration::from_secs(60);

/// When the cases begin, for engines whose clock can be set.
#[allow(dead_code, reason = "not every engine's clock can be set")]
pub fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The id of the `n`th operation.
pub fn id(n: u64) -> String {
    format!("op-01900000-0000-7000-8000-{n:012}")
}

pub fn key(text: &str) -> Option<Key> {
    Some(Key::parse(text).unwrap())
}

/// The `n`th intent, in a group of its own, without a key, held for an hour.
pub fn intent(n: u64) -> Intent {
    Intent {
        id: id(n),
        fence: 0,
        scope: "ec2 https://ec2.eu-central-1.amazonaws.com".into(),
        caller: "jwt:https://issuer.example:ann".into(),
        key: None,
        fingerprint: format!("v1:{n}"),
        method: "portcullis.v1.SecurityGroupService/RevokeEgress".into(),
        account: "123456789012".into(),
        region: "eu-central-1".into(),
        group: group(n),
        request: json!({ "GroupId": format!("sg-{n:017}"), "Number": u64::MAX, "None": null }),
        plan: Plan::Revoke {
            group: StoredGroup { group_id: format!("sg-{n:017}"), ..StoredGroup::default() },
            is_egress: true,
            rules: vec![StoredRule {
                security_group_rule_id: Some(format!("sgr-{n:017}")),
                ip_protocol: "tcp".into(),
                from_port: 443,
                to_port: 443,
                cidr_ipv4: Some("10.0.0.0/8".into()),
                ..StoredRule::default()
            }],
            unmatched: Vec::new(),
            unmatched_ids: Vec::new(),
            removes_last_egress_rule: false,
            rest: "sha256:0".into(),
        },
        change_reason: None,
        trace_id: None,
        hold: HOUR,
        conclusion: None,
    }
}

pub fn group(n: u64) -> String {
    format!("123456789012/eu-central-1/sg-{n:017}")
}

/// The `n`th intent under a key.
pub fn keyed(n: u64, text: &str) -> Intent {
    Intent { key: key(text), ..intent(n) }
}

/// The same operation's next attempt.
pub fn again(record: &Record, intent: &Intent) -> Intent {
    Intent { id: record.id.clone(), fence: record.fence, ..intent.clone() }
}

pub fn answer(text: &str) -> Recorded {
    Recorded { code: 0, message: text.to_owned(), body: (0..=255).collect() }
}

/// To a state, with an answer if it is settled by it.
pub fn to(state: State) -> Move {
    let settled = !state.is_unsettled() && state != State::Unresolved;
    Move {
        hold: if state.is_unsettled() { HOUR } else { Duration::ZERO },
        answer: settled.then(|| answer(state.as_str())),
        ..Move::to(state)
    }
}

/// What a call like this intent would ask.
pub fn question(intent: &Intent) -> Look {
    Look {
        scope: intent.scope.clone(),
        caller: intent.caller.clone(),
        key: intent.key.clone(),
        fingerprint: intent.fingerprint.clone(),
        group: intent.group.clone(),
    }
}

pub async fn look(ledger: &Arc<dyn Ledger>, intent: &Intent) -> Looked {
    ledger.look(&question(intent)).await.unwrap()
}

/// Writes an intent that nothing stands against.
pub async fn write(ledger: &Arc<dyn Ledger>, intent: &Intent) -> Record {
    match ledger.intend(intent).await.unwrap() {
        Intended::Written(record) => *record,
        other => panic!("not written: {other:?}"),
    }
}

pub async fn step(ledger: &Arc<dyn Ledger>, record: &Record, step: &Move) -> Record {
    ledger.advance(&record.id, record.fence, step).await.unwrap()
}

/// The moves that bring a new record into a state.
pub fn path_to(state: State) -> &'static [State] {
    match state {
        State::InProgress => &[],
        State::Succeeded => &[State::Succeeded],
        State::Refused => &[State::Refused],
        State::Released => &[State::Released],
        State::InDoubt => &[State::InDoubt],
        State::Unresolved => &[State::InDoubt, State::Unresolved],
    }
}

/// A record in a state.
pub async fn in_state(ledger: &Arc<dyn Ledger>, intent: &Intent, state: State) -> Record {
    let mut record = write(ledger, intent).await;
    for &next in path_to(state) {
        record = step(ledger, &record, &to(next)).await;
    }
    record
}

/// The record as the ledger has it now.
pub async fn stored(ledger: &Arc<dyn Ledger>, id: &str) -> Option<Record> {
    let filter = Filter { id: Some(id.to_owned()), limit: 2, ..Filter::default() };
    let mut found = ledger.list(&filter).await.unwrap();
    assert!(found.len() <= 1, "{found:?}");
    found.pop()
}

pub async fn ids(ledger: &Arc<dyn Ledger>, filter: Filter) -> Vec<String> {
    ledger.list(&filter).await.unwrap().into_iter().map(|record| record.id).collect()
}

/// All ids, newest first.
pub async fn all(ledger: &Arc<dyn Ledger>) -> Vec<String> {
    ids(ledger, Filter { limit: 1000, ..Filter::default() }).await
}

/// Polls a future once.
pub async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The output of something that must come; so long that only a hang fails.
pub async fn comes<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it never came")
}

/// Does it for each of the intents at once.
pub async fn intend_all(ledger: &Arc<dyn Ledger>, intents: Vec<Intent>) -> Vec<Intended> {
    let tasks: Vec<_> = intents
        .into_iter()
        .map(|intent| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.intend(&intent).await.unwrap() })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}
