//! Intents, keys and groups.

use portcullis::ledger::{Intended, Intent, LedgerError, Record, SettledBy, State};

use super::{
    Bench, DAY, HOUR, MINUTE, TERMS, again, all, answer, group, id, in_state, intend_all, intent,
    keyed, look, step, stored, to, write,
};

pub async fn a_new_intent_is_written(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let wanted = Intent {
        change_reason: Some("CHG-1".into()),
        trace_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
        ..keyed(1, "k")
    };
    let before = look(&ledger, &wanted).await;
    assert!(before.by_key.is_none() && before.equal.is_none() && before.unsettled.is_none());
    let record = write(&ledger, &wanted).await;
    assert_eq!(record, Record::begin(&wanted, record.created_at).unwrap());
    assert_eq!((record.state, record.fence, record.version), (State::InProgress, 1, 1));
    assert_eq!((record.attempts, record.held_until), (1, record.created_at + HOUR));
    assert!(before.now <= record.created_at && record.created_at <= before.now + 10 * MINUTE);
    let after = look(&ledger, &wanted).await;
    assert_eq!((after.by_key, after.unsettled), (Some(record.clone()), Some(record)));
}

pub async fn what_is_answered_is_what_is_stored(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let mut record = write(&ledger, &intent(1)).await;
    assert_eq!(stored(&ledger, &record.id).await, Some(record.clone()));
    for next in [State::InDoubt, State::Released] {
        record = step(&ledger, &record, &to(next)).await;
        assert_eq!(stored(&ledger, &record.id).await, Some(record.clone()));
    }
    let record = write(&ledger, &again(&record, &intent(1))).await;
    assert_eq!(stored(&ledger, &record.id).await, Some(record.clone()));
    bench.advance(2 * HOUR).await;
    let record = ledger.take_over(&record.id, record.fence, HOUR).await.unwrap();
    assert_eq!(stored(&ledger, &id(1)).await, record);
}

pub async fn an_intent_may_be_born_settled(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for (n, state) in [(1, State::Succeeded), (2, State::Refused)] {
        let conclusion = Some((state, answer("known before"), SettledBy::Ec2Answer));
        let wanted = Intent { conclusion, group: group(0), ..keyed(n, &format!("k{n}")) };
        let record = write(&ledger, &wanted).await;
        assert_eq!((record.state, record.fence, record.attempts), (state, 1, 1));
        assert_eq!(record.answer, Some(answer("known before")));
        assert_eq!(record.settled_at, Some(record.created_at));
        let known = look(&ledger, &wanted).await;
        assert_eq!(known.by_key, Some(record));
        assert!(known.unsettled.is_none(), "it does not keep its group");
    }
}

pub async fn what_is_not_final_is_not_born(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for state in [State::InProgress, State::Released, State::InDoubt, State::Unresolved] {
        let wanted =
            Intent { conclusion: Some((state, answer(""), SettledBy::Ec2Answer)), ..keyed(1, "k") };
        let refused = ledger.intend(&wanted).await;
        assert!(matches!(refused, Err(LedgerError::Forbidden(_))), "{state}: {refused:?}");
        assert!(look(&ledger, &wanted).await.by_key.is_none());
    }
    assert!(all(&ledger).await.is_empty());
    write(&ledger, &keyed(1, "k")).await;
}

pub async fn a_key_is_per_scope_and_caller(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let first = write(&ledger, &keyed(1, "k")).await;
    let elsewhere = Intent { scope: "sandbox 2".into(), ..keyed(2, "k") };
    let another = Intent { caller: "jwt:https://issuer.example:bob".into(), ..keyed(3, "k") };
    for wanted in [elsewhere, another, keyed(4, "K"), intent(5)] {
        assert!(look(&ledger, &wanted).await.by_key.is_none());
        let record = write(&ledger, &wanted).await;
        assert_eq!(look(&ledger, &wanted).await.by_key, wanted.key.is_some().then_some(record));
    }
    match ledger.intend(&keyed(6, "k")).await.unwrap() {
        Intended::KeyTaken(record) => assert_eq!(*record, first),
        other => panic!("{other:?}"),
    }
    assert_eq!(stored(&ledger, &id(6)).await, None);
    assert!(look(&ledger, &keyed(6, "other")).await.unsettled.is_none());
}

pub async fn a_key_is_kept_for_its_retention_after_settling(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let wanted = keyed(1, "k");
    let record = write(&ledger, &wanted).await;
    bench.advance(10 * TERMS.key_retention).await;
    assert_eq!(look(&ledger, &wanted).await.by_key, Some(record.clone()), "it is not settled");
    let record = step(&ledger, &record, &to(State::Succeeded)).await;
    bench.advance(TERMS.key_retention - 10 * MINUTE).await;
    assert_eq!(look(&ledger, &wanted).await.by_key, Some(record.clone()));
    let taken = ledger.intend(&keyed(2, "k")).await.unwrap();
    assert!(matches!(taken, Intended::KeyTaken(other) if *other == record));
    bench.advance(10 * MINUTE).await;
    assert!(look(&ledger, &wanted).await.by_key.is_none(), "its retention is over");
    assert_eq!(stored(&ledger, &record.id).await, Some(record), "the record is not");
}

pub async fn an_unresolved_operation_keeps_its_key(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let wanted = keyed(1, "k");
    let record = in_state(&ledger, &wanted, State::Unresolved).await;
    bench.advance(10 * TERMS.key_retention).await;
    assert_eq!(look(&ledger, &wanted).await.by_key, Some(record.clone()));
    let taken = ledger.intend(&keyed(2, "k")).await.unwrap();
    assert!(matches!(taken, Intended::KeyTaken(_)), "{taken:?}");
    step(&ledger, &record, &to(State::Succeeded)).await;
    bench.advance(TERMS.key_retention).await;
    assert!(look(&ledger, &wanted).await.by_key.is_none(), "an operator has settled it");
}

pub async fn a_freed_key_is_the_next_ones(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for n in 1..4 {
        let record = in_state(&ledger, &keyed(n, "k"), State::Refused).await;
        assert_eq!(look(&ledger, &keyed(9, "k")).await.by_key, Some(record));
        bench.advance(TERMS.key_retention).await;
    }
    assert_eq!(all(&ledger).await, [id(3), id(2), id(1)]);
    let first = stored(&ledger, &id(1)).await.unwrap();
    assert_eq!(first.key, keyed(1, "k").key, "the record still tells its key");
    // A note to the one that has lost its key must not take the key back.
    let record = write(&ledger, &keyed(4, "k")).await;
    ledger.advance(&first.id, 0, &portcullis::ledger::Move::note("late")).await.unwrap();
    assert_eq!(look(&ledger, &keyed(9, "k")).await.by_key, Some(record));
}

pub async fn what_was_released_runs_again(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let wanted = keyed(1, "k");
    let released = in_state(&ledger, &wanted, State::Released).await;
    assert!(released.settled_at.is_some() && released.answer.is_some());
    bench.advance(MINUTE).await;
    let next = Intent { trace_id: Some("second".into()), ..again(&released, &wanted) };
    let record = write(&ledger, &next).await;
    assert_eq!((record.state, record.attempts), (State::InProgress, 2));
    assert!(record.fence > released.fence && record.version > released.version);
    assert_eq!((record.settled_at, &record.answer), (None, &None));
    assert_eq!(record.created_at, released.created_at);
    assert_eq!(record.trace_id.as_deref(), Some("second"));
    assert_eq!(all(&ledger).await.len(), 1, "it is the same record");
    let known = look(&ledger, &wanted).await;
    assert_eq!((known.by_key.as_ref(), known.unsettled.as_ref()), (Some(&record), Some(&record)));
    // Whoever ran it before has lost it.
    let late = ledger.advance(&record.id, released.fence, &to(State::Succeeded)).await;
    assert_eq!(late, Err(LedgerError::Fenced));
    let twice = ledger.intend(&next).await;
    assert_eq!(twice.unwrap_err(), LedgerError::Fenced);
    assert_eq!(stored(&ledger, &record.id).await, Some(record));
}

pub async fn what_runs_again_may_be_born_settled(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let wanted = keyed(1, "k");
    let released = in_state(&ledger, &wanted, State::Released).await;
    let conclusion = Some((State::Refused, answer("now refused"), SettledBy::Ec2Answer));
    let next = Intent { conclusion, ..again(&released, &wanted) };
    let record = write(&ledger, &next).await;
    assert_eq!((record.state, record.attempts), (State::Refused, 2));
    assert_eq!(record.answer, Some(answer("now refused")));
    assert!(look(&ledger, &wanted).await.unsettled.is_none());
}

pub async fn only_what_was_released_runs_again(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for (n, state) in (1..).zip(State::ALL) {
        let record = in_state(&ledger, &intent(n), state).await;
        for fence in [0, record.fence, record.fence + 1] {
            if state == State::Released && fence == record.fence {
                continue;
            }
            let refused = ledger.intend(&Intent { fence, ..intent(n) }).await;
            assert_eq!(refused.unwrap_err(), LedgerError::Fenced, "{state} {fence}");
        }
        assert_eq!(stored(&ledger, &record.id).await, Some(record));
    }
    let unknown = ledger.intend(&Intent { fence: 1, ..intent(99) }).await;
    assert_eq!(unknown.unwrap_err(), LedgerError::Fenced);
    assert_eq!(stored(&ledger, &id(99)).await, None);
}

pub async fn what_runs_again_needs_its_key(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let released = in_state(&ledger, &keyed(1, "k"), State::Released).await;
    bench.advance(TERMS.key_retention).await;
    let record = write(&ledger, &keyed(2, "k")).await;
    let late = ledger.intend(&again(&released, &keyed(1, "k"))).await.unwrap();
    assert!(matches!(late, Intended::KeyTaken(other) if *other == record));
    assert_eq!(stored(&ledger, &released.id).await, Some(released));
    assert_eq!(look(&ledger, &keyed(9, "k")).await.by_key, Some(record));
}

pub async fn what_runs_again_needs_its_group(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let released = in_state(&ledger, &intent(1), State::Released).await;
    let other = write(&ledger, &Intent { group: group(1), ..intent(2) }).await;
    let busy = ledger.intend(&again(&released, &intent(1))).await.unwrap();
    assert!(matches!(busy, Intended::GroupBusy(record) if *record == other));
    assert_eq!(stored(&ledger, &released.id).await.as_ref(), Some(&released));
    step(&ledger, &other, &to(State::Succeeded)).await;
    write(&ledger, &again(&released, &intent(1))).await;
}

pub async fn what_runs_again_may_be_in_another_group(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let released = in_state(&ledger, &intent(1), State::Released).await;
    let moved = Intent { group: group(7), ..again(&released, &intent(1)) };
    let other = write(&ledger, &Intent { group: group(1), ..intent(2) }).await;
    let record = write(&ledger, &moved).await;
    assert_eq!(look(&ledger, &intent(7)).await.unsettled, Some(record));
    assert_eq!(look(&ledger, &intent(1)).await.unsettled, Some(other));
}

pub async fn a_group_has_one_unsettled_operation(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let mut record = write(&ledger, &intent(1)).await;
    for state in [State::InProgress, State::InDoubt] {
        record = step(&ledger, &record, &to(state)).await;
        let elsewhere = Intent { scope: "another".into(), caller: "bob".into(), ..keyed(2, "k") };
        for wanted in [intent(2), elsewhere] {
            let wanted = Intent { group: group(1), ..wanted };
            assert_eq!(look(&ledger, &wanted).await.unsettled.as_ref(), Some(&record));
            let busy = ledger.intend(&wanted).await.unwrap();
            assert!(matches!(busy, Intended::GroupBusy(other) if *other == record), "{state}");
        }
        let born = Some((State::Succeeded, answer(""), SettledBy::Ec2Answer));
        let settled = Intent { conclusion: born, group: group(1), ..intent(3) };
        let busy = ledger.intend(&settled).await.unwrap();
        assert!(matches!(busy, Intended::GroupBusy(_)), "{busy:?}");
    }
    bench.advance(10 * DAY).await;
    let busy = ledger.intend(&Intent { group: group(1), ..intent(2) }).await.unwrap();
    assert!(matches!(busy, Intended::GroupBusy(_)), "the end of its hold settles nothing");
    assert_eq!(all(&ledger).await, [id(1)]);
}

pub async fn a_settled_operation_frees_its_group(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for (n, state) in (1..).zip(State::ALL.into_iter().filter(|state| !state.is_unsettled())) {
        in_state(&ledger, &Intent { group: group(0), ..intent(n) }, state).await;
        assert!(look(&ledger, &intent(0)).await.unsettled.is_none(), "{state}");
    }
    write(&ledger, &intent(0)).await;
}

/// How many were written, and whether all others name the one that was.
fn one_written(answers: &[Intended]) -> String {
    let written: Vec<&Record> = answers
        .iter()
        .filter_map(|answer| match answer {
            Intended::Written(record) => Some(&**record),
            _ => None,
        })
        .collect();
    assert_eq!(written.len(), 1, "{answers:?}");
    for answer in answers {
        let (Intended::Written(record) | Intended::KeyTaken(record) | Intended::GroupBusy(record)) =
            answer;
        assert_eq!(record.id, written[0].id);
    }
    written[0].id.clone()
}

pub async fn one_of_many_intents_of_a_call_is_written(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let intents =
        (1..=32).map(|n| Intent { group: group(0), fingerprint: "v1:0".into(), ..keyed(n, "k") });
    let answers = intend_all(&ledger, intents.collect()).await;
    assert_eq!(all(&ledger).await, [one_written(&answers)]);
}

pub async fn one_of_many_intents_of_a_key_is_written(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let answers = intend_all(&ledger, (1..=32).map(|n| keyed(n, "k")).collect()).await;
    assert_eq!(all(&ledger).await, [one_written(&answers)]);
    let taken = answers.iter().filter(|answer| matches!(answer, Intended::KeyTaken(_))).count();
    assert_eq!(taken, 31, "{answers:?}");
}

pub async fn one_of_many_intents_of_a_group_is_written(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let intents = (1..=32).map(|n| Intent { group: group(0), ..keyed(n, &format!("k{n}")) });
    let answers = intend_all(&ledger, intents.collect()).await;
    assert_eq!(all(&ledger).await, [one_written(&answers)]);
    let busy = answers.iter().filter(|answer| matches!(answer, Intended::GroupBusy(_))).count();
    assert_eq!(busy, 31, "{answers:?}");
}

pub async fn many_groups_are_written_at_once(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let answers = intend_all(&ledger, (1..=64).map(intent).collect()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Intended::Written(_))), "{answers:?}");
    assert_eq!(all(&ledger).await, (1..=64).rev().map(id).collect::<Vec<_>>());
}

pub async fn one_bad_intent_among_many_fails_alone(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let tasks: Vec<_> = (1..=64)
        .map(|n| {
            let ledger = ledger.clone();
            let conclusion =
                (n % 4 == 0).then(|| (State::InDoubt, answer(""), SettledBy::Ec2Answer));
            let fence = u64::from(n % 4 == 1);
            let intent = Intent { conclusion, fence, ..intent(n) };
            tokio::spawn(async move { ledger.intend(&intent).await })
        })
        .collect();
    for (n, task) in (1..).zip(tasks) {
        let answer = task.await.unwrap();
        match n % 4 {
            0 => assert!(matches!(answer, Err(LedgerError::Forbidden(_))), "{answer:?}"),
            1 => assert_eq!(answer.unwrap_err(), LedgerError::Fenced),
            _ => assert!(matches!(answer, Ok(Intended::Written(_))), "{answer:?}"),
        }
    }
    let good = (1..=64).rev().filter(|n| n % 4 >= 2).map(id);
    assert_eq!(all(&ledger).await, good.collect::<Vec<_>>());
}

pub async fn an_equal_request_without_a_key_is_found(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let mut record = write(&ledger, &intent(1)).await;
    for state in [State::InProgress, State::InDoubt] {
        record = step(&ledger, &record, &to(state)).await;
        assert_eq!(look(&ledger, &intent(1)).await.equal.as_ref(), Some(&record), "{state}");
    }
    for unequal in [
        Intent { fingerprint: "v1:2".into(), ..intent(1) },
        Intent { caller: "bob".into(), ..intent(1) },
        Intent { scope: "another".into(), ..intent(1) },
        Intent { group: group(2), ..intent(1) },
    ] {
        assert!(look(&ledger, &unequal).await.equal.is_none(), "{unequal:?}");
    }
    step(&ledger, &record, &to(State::Succeeded)).await;
    assert!(look(&ledger, &intent(1)).await.equal.is_none(), "it is settled");
}

pub async fn a_call_with_a_key_joins_nothing(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    let known = look(&ledger, &keyed(1, "k")).await;
    assert!(known.equal.is_none() && known.by_key.is_none());
    assert_eq!(known.unsettled, Some(record));
}
