//! What is still there when the ledger is opened again.

use std::time::Duration;

use portcullis::ledger::{Filter, Intended, Intent, LedgerError, State};
use tokio::time::Instant;

use super::{
    Bench, DAY, HOUR, TERMS, again, all, comes, group, id, in_state, intent, keyed, look, step,
    stored, to, write,
};

pub async fn everything_is_there_again(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for (n, state) in (1..).zip(State::ALL) {
        in_state(&ledger, &keyed(n, &format!("k{n}")), state).await;
    }
    let everything = Filter { limit: 100, ..Filter::default() };
    let before = ledger.list(&everything).await.unwrap();
    drop(ledger);
    bench.reopen().await;
    let ledger = bench.ledger();
    assert_eq!(ledger.list(&everything).await.unwrap(), before);
    assert_eq!(before.len(), State::ALL.len());
    ledger.check().await.unwrap();
}

pub async fn what_was_begun_goes_on(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let alive = write(&ledger, &intent(1)).await;
    let released = in_state(&ledger, &intent(2), State::Released).await;
    let dead = write(&ledger, &intent(3)).await;
    drop(ledger);
    bench.reopen().await;
    let ledger = bench.ledger();
    step(&ledger, &alive, &to(State::Succeeded)).await;
    write(&ledger, &again(&released, &intent(2))).await;
    assert_eq!(ledger.take_over(&dead.id, dead.fence, HOUR).await, Ok(None), "it is still held");
    bench.advance(HOUR).await;
    let taken = ledger.take_over(&dead.id, dead.fence, HOUR).await.unwrap().unwrap();
    drop(ledger);
    bench.reopen().await;
    let ledger = bench.ledger();
    let late = ledger.advance(&dead.id, dead.fence, &to(State::Succeeded)).await;
    assert_eq!(late, Err(LedgerError::Fenced));
    step(&ledger, &taken, &to(State::Refused)).await;
}

pub async fn keys_and_groups_are_guarded_again(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    write(&ledger, &keyed(1, "k")).await;
    in_state(&ledger, &keyed(2, "l"), State::Succeeded).await;
    drop(ledger);
    bench.reopen().await;
    let ledger = bench.ledger();
    for text in ["k", "l"] {
        let taken = ledger.intend(&keyed(3, text)).await.unwrap();
        assert!(matches!(taken, Intended::KeyTaken(_)), "{text}: {taken:?}");
    }
    let busy = ledger.intend(&Intent { group: group(1), ..intent(3) }).await.unwrap();
    assert!(matches!(busy, Intended::GroupBusy(_)), "{busy:?}");
    assert_eq!(all(&ledger).await, [id(2), id(1)]);
}

pub async fn turns_are_not_kept(bench: &mut dyn Bench) {
    let far = Instant::now() + Duration::from_secs(600);
    let ledger = bench.ledger();
    drop(comes(ledger.turn("g", far)).await.unwrap());
    drop(ledger);
    bench.reopen().await;
    let ledger = bench.ledger();
    comes(ledger.turn("g", far)).await.unwrap();
}

pub async fn a_retention_goes_on(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    in_state(&ledger, &keyed(1, "k"), State::Succeeded).await;
    drop(ledger);
    bench.advance(TERMS.key_retention).await;
    bench.reopen().await;
    let ledger = bench.ledger();
    assert!(look(&ledger, &keyed(1, "k")).await.by_key.is_none());
    assert_eq!(ledger.sweep(10).await, Ok(0));
    drop(ledger);
    bench.advance(TERMS.record_retention - DAY).await;
    bench.reopen().await;
    let ledger = bench.ledger();
    assert_eq!(ledger.sweep(10).await, Ok(1));
    drop(ledger);
    bench.reopen().await;
    assert_eq!(stored(&bench.ledger(), &id(1)).await, None);
}

pub async fn it_is_opened_again_and_again(bench: &mut dyn Bench) {
    for n in 1..=5 {
        write(&bench.ledger(), &intent(n)).await;
        bench.reopen().await;
    }
    assert_eq!(all(&bench.ledger()).await.len(), 5);
}
