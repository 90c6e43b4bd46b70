//! Waiting for a change.

use portcullis::ledger::{Move, State};

use super::{Bench, HOUR, again, comes, id, in_state, intent, poll_once, step, stored, to, write};

pub async fn a_change_wakes_who_waits(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    let mut waits = ledger.changed(&record.id, record.version);
    assert!(poll_once(waits.as_mut()).await.is_none(), "nothing has changed");
    let settled = step(&ledger, &record, &to(State::Succeeded)).await;
    comes(waits).await.unwrap();
    assert_eq!(stored(&ledger, &record.id).await, Some(settled), "and it is there to read");
}

pub async fn many_may_wait(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let (ledger, record) = (ledger.clone(), record.clone());
            tokio::spawn(async move { ledger.changed(&record.id, record.version).await })
        })
        .collect();
    step(&ledger, &record, &to(State::Succeeded)).await;
    for task in waiting {
        comes(task).await.unwrap().unwrap();
    }
}

pub async fn what_has_changed_already_is_not_waited_for(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = in_state(&ledger, &intent(1), State::InDoubt).await;
    comes(ledger.changed(&record.id, record.version - 1)).await.unwrap();
    comes(ledger.changed(&id(2), 0)).await.unwrap();
}

pub async fn changes_of_others_wake_nobody(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;
    let mut waits = ledger.changed(&record.id, record.version);
    for n in 2..40 {
        in_state(&ledger, &intent(n), State::Succeeded).await;
        let refused = ledger.advance(&record.id, record.fence + 1, &to(State::Refused)).await;
        assert!(refused.is_err());
        let early = poll_once(waits.as_mut()).await;
        assert!(early.is_none(), "its version is the same: {early:?}");
    }
    step(&ledger, &record, &to(State::InDoubt)).await;
    comes(waits).await.unwrap();
}

pub async fn every_kind_of_change_wakes(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = write(&ledger, &intent(1)).await;

    let mut waits = ledger.changed(&record.id, record.version);
    assert!(poll_once(waits.as_mut()).await.is_none());
    let record = ledger.advance(&record.id, 0, &Move::note("seen")).await.unwrap();
    comes(waits).await.unwrap();

    bench.advance(HOUR).await;
    let mut waits = ledger.changed(&record.id, record.version);
    assert!(poll_once(waits.as_mut()).await.is_none());
    let record = ledger.take_over(&record.id, record.fence, HOUR).await.unwrap().unwrap();
    comes(waits).await.unwrap();

    let record = step(&ledger, &record, &to(State::Released)).await;
    let mut waits = ledger.changed(&record.id, record.version);
    assert!(poll_once(waits.as_mut()).await.is_none());
    write(&ledger, &again(&record, &intent(1))).await;
    comes(waits).await.unwrap();
}
