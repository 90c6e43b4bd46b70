//! Moves, fences, notes and taking over.

use portcullis::ledger::{
    Intent, LedgerError, Move, Plan, Record, SettledBy, State, stored::StoredGroup,
};

use super::{
    Bench, DAY, HOUR, MINUTE, answer, group, id, in_state, intent, keyed, look, step, stored, to,
    write,
};

pub async fn every_move_of_the_table_and_no_other(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let mut n = 0;
    for from in State::ALL {
        for next in State::ALL {
            n += 1;
            let record = in_state(&ledger, &intent(n), from).await;
            // Not the answer that it has: that would be the same move again.
            let wanted = Move { answer: Some(answer("new")), ..to(next) };
            let moved = ledger.advance(&record.id, record.fence, &wanted).await;
            let is = stored(&ledger, &record.id).await.unwrap();
            if from.may_become(next) {
                let expected = record.advanced(record.fence, &wanted, is.changed_at).unwrap();
                assert_eq!((moved, is.state), (Ok(expected.clone()), next), "{from} to {next}");
                assert_eq!(is, expected);
            } else {
                assert!(matches!(moved, Err(LedgerError::Forbidden(_))), "{from} to {next}");
                assert_eq!(is, record);
            }
        }
    }
}

pub async fn a_move_repeated_is_one_move(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let ends = [State::Succeeded, State::Refused, State::Released, State::Unresolved];
    for (n, state) in (1..).zip(ends) {
        let record = in_state(&ledger, &intent(n), state).await;
        bench.advance(MINUTE).await;
        let repeated = Move { note: Some("again".into()), ..to(state) };
        assert_eq!(step(&ledger, &record, &repeated).await, record, "{state}");
        assert_eq!(stored(&ledger, &record.id).await, Some(record), "{state}");
    }
}

pub async fn moves_need_the_fence(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    for fence in [0, record.fence + 1, u64::MAX] {
        for state in State::ALL {
            let refused = ledger.advance(&record.id, fence, &to(state)).await;
            assert_eq!(refused, Err(LedgerError::Fenced), "{state}");
        }
    }
    assert_eq!(stored(&ledger, &record.id).await, Some(record));
}

pub async fn what_is_unknown_does_not_move(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    write(&ledger, &intent(1)).await;
    for wanted in [to(State::Succeeded), Move::note("seen")] {
        let refused = ledger.advance(&id(2), 1, &wanted).await;
        assert!(matches!(refused, Err(LedgerError::Forbidden(_))), "{refused:?}");
    }
    assert_eq!(ledger.take_over(&id(2), 1, HOUR).await, Ok(None));
    assert_eq!(stored(&ledger, &id(2)).await, None);
}

pub async fn a_settled_answer_is_kept(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &keyed(1, "k")).await;
    bench.advance(MINUTE).await;
    let wanted = Move {
        settled_by: Some(SettledBy::ReadBack),
        ec2_request_id: Some("59dbff89-35bd-4eac-99ed-be587EXAMPLE".into()),
        note: Some("all of it was gone".into()),
        ..to(State::Succeeded)
    };
    let record = step(&ledger, &record, &wanted).await;
    assert!(record.settled_at.unwrap() >= record.created_at + MINUTE);
    assert_eq!(record.settled_by, Some(SettledBy::ReadBack));
    assert_eq!(record.ec2_request_ids, ["59dbff89-35bd-4eac-99ed-be587EXAMPLE"]);
    assert_eq!(record.notes, ["all of it was gone"]);
    let other = Move { answer: Some(answer("another")), ..wanted };
    let refused = ledger.advance(&record.id, record.fence, &other).await;
    assert!(matches!(refused, Err(LedgerError::Forbidden(_))), "{refused:?}");
    let known = look(&ledger, &keyed(1, "k")).await.by_key.unwrap();
    assert_eq!(known.answer, Some(answer("SUCCEEDED")));
    assert_eq!(known, record);
}

pub async fn a_step_may_change_the_plan_and_hold_on(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    bench.advance(30 * MINUTE).await;
    let plan =
        Plan::Delete { group: StoredGroup { group_id: "sg-2".into(), ..StoredGroup::default() } };
    let wanted = Move { plan: Some(plan.clone()), ..to(State::InProgress) };
    let moved = step(&ledger, &record, &wanted).await;
    assert_eq!(moved.plan, plan);
    assert_eq!((moved.fence, moved.attempts), (record.fence, 1));
    // The first hold is over; the second is not.
    bench.advance(40 * MINUTE).await;
    assert_eq!(ledger.take_over(&moved.id, moved.fence, HOUR).await, Ok(None));
    bench.advance(30 * MINUTE).await;
    let taken = ledger.take_over(&moved.id, moved.fence, HOUR).await.unwrap();
    assert_eq!(taken.map(|record| record.plan), Some(plan));
}

pub async fn notes_need_no_fence(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for (n, state) in (1..).zip(State::ALL) {
        let record = in_state(&ledger, &intent(n), state).await;
        let mut note = Move::note("EC2 said yes, too late");
        note.ec2_request_id = Some("req-1".into());
        let noted = ledger.advance(&record.id, 0, &note).await.unwrap();
        assert_eq!(noted.notes, ["EC2 said yes, too late"]);
        assert_eq!(noted.ec2_request_ids, ["req-1"]);
        assert_eq!((noted.state, noted.fence), (state, record.fence));
        assert!(noted.version > record.version);
        let Record { version, changed_at, notes, ec2_request_ids, .. } = noted.clone();
        let expected = Record { version, changed_at, notes, ec2_request_ids, ..record };
        assert_eq!(noted, expected);
        assert_eq!(stored(&ledger, &noted.id).await, Some(noted));
    }
}

pub async fn notes_are_bounded(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    for n in 0..40 {
        let note = Move::note(format!("{n} {}", "ü".repeat(2000)));
        ledger.advance(&record.id, 0, &note).await.unwrap();
    }
    let notes = stored(&ledger, &record.id).await.unwrap().notes;
    assert_eq!(notes.len(), 32);
    assert!(notes.iter().all(|note| note.len() <= 1024));
    assert!(notes[0].starts_with("0 ") && notes[31].starts_with("39 "));
}

pub async fn nothing_is_taken_over_while_it_is_held(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    bench.advance(50 * MINUTE).await;
    assert_eq!(ledger.take_over(&record.id, record.fence, HOUR).await, Ok(None));
    assert_eq!(stored(&ledger, &record.id).await.as_ref(), Some(&record));
    bench.advance(10 * MINUTE).await;
    for fence in [0, record.fence + 1] {
        assert_eq!(ledger.take_over(&record.id, fence, HOUR).await, Ok(None), "{fence}");
    }
    let taken = ledger.take_over(&record.id, record.fence, HOUR).await.unwrap().unwrap();
    assert_eq!(taken.state, State::InDoubt);
    assert!(taken.fence > record.fence && taken.version > record.version);
    assert!(taken.held_until >= record.held_until + HOUR);
    assert_eq!((taken.created_at, taken.attempts), (record.created_at, record.attempts));
    for fence in [record.fence, taken.fence] {
        assert_eq!(ledger.take_over(&record.id, fence, HOUR).await, Ok(None), "it is held");
    }
    // Its second holder is dead as well.
    bench.advance(HOUR).await;
    let third = ledger.take_over(&record.id, taken.fence, HOUR).await.unwrap().unwrap();
    assert!(third.fence > taken.fence);
}

pub async fn who_was_taken_over_is_fenced_out(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &keyed(1, "k")).await;
    bench.advance(HOUR).await;
    let taken = ledger.take_over(&record.id, record.fence, HOUR).await.unwrap().unwrap();
    for state in State::ALL {
        let refused = ledger.advance(&record.id, record.fence, &to(state)).await;
        assert_eq!(refused, Err(LedgerError::Fenced), "{state}");
    }
    let refused = ledger.intend(&Intent { fence: record.fence, ..keyed(1, "k") }).await;
    assert_eq!(refused.unwrap_err(), LedgerError::Fenced);
    assert_eq!(stored(&ledger, &record.id).await.as_ref(), Some(&taken));
    let busy = look(&ledger, &Intent { group: group(1), ..intent(2) }).await.unsettled;
    assert_eq!(busy.as_ref(), Some(&taken));
    let settled = step(&ledger, &taken, &to(State::Succeeded)).await;
    assert_eq!(look(&ledger, &keyed(1, "k")).await.by_key, Some(settled));
}

pub async fn what_is_settled_is_not_taken_over(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let mut records = Vec::new();
    for (n, state) in (1..).zip(State::ALL.into_iter().filter(|state| !state.is_unsettled())) {
        records.push(in_state(&ledger, &intent(n), state).await);
    }
    bench.advance(DAY).await;
    for record in records {
        let taken = ledger.take_over(&record.id, record.fence, HOUR).await;
        assert_eq!(taken, Ok(None), "{}", record.state);
        assert_eq!(stored(&ledger, &record.id).await, Some(record));
    }
}

pub async fn one_of_many_takes_over(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    bench.advance(HOUR).await;
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (ledger, record) = (ledger.clone(), record.clone());
            tokio::spawn(async move { ledger.take_over(&record.id, record.fence, HOUR).await })
        })
        .collect();
    let mut taken = Vec::new();
    for task in tasks {
        taken.extend(task.await.unwrap().unwrap());
    }
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert_eq!(stored(&ledger, &record.id).await, taken.pop());
}

pub async fn one_of_many_moves_to_different_ends_is_made(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let (ledger, record) = (ledger.clone(), record.clone());
            let state = if n % 2 == 0 { State::Succeeded } else { State::Refused };
            let wanted = Move { answer: Some(answer(&n.to_string())), ..to(state) };
            tokio::spawn(async move { ledger.advance(&record.id, record.fence, &wanted).await })
        })
        .collect();
    let mut made = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(record) => made.push(record),
            Err(error) => assert!(matches!(error, LedgerError::Forbidden(_)), "{error:?}"),
        }
    }
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(stored(&ledger, &record.id).await, made.pop());
}
