//! Turns of groups.

use std::time::Duration;

use portcullis::ledger::LedgerError;
use tokio::time::Instant;

use super::{Bench, comes, intent, poll_once, write};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

pub async fn turns_come_in_the_order_of_asking(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let first = comes(ledger.turn("g", far())).await.unwrap();
    let mut second = ledger.turn("g", far());
    assert!(poll_once(second.as_mut()).await.is_none());
    let mut third = ledger.turn("g", far());
    assert!(poll_once(third.as_mut()).await.is_none());
    drop(first);
    assert!(poll_once(third.as_mut()).await.is_none(), "the third passed the second");
    let second = comes(second).await.unwrap();
    assert!(poll_once(third.as_mut()).await.is_none());
    drop(second);
    comes(third).await.unwrap();
}

pub async fn groups_do_not_wait_for_each_other(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let _one = comes(ledger.turn("g", far())).await.unwrap();
    let _other = comes(ledger.turn("G", far())).await.unwrap();
    let _third = comes(ledger.turn("", far())).await.unwrap();
}

pub async fn nobody_waits_past_the_deadline(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let first = comes(ledger.turn("g", far())).await.unwrap();
    for wait in [Duration::ZERO, Duration::from_millis(20)] {
        let late = comes(ledger.turn("g", Instant::now() + wait)).await;
        assert_eq!(late.unwrap_err(), LedgerError::TooLate);
    }
    drop(first);
    comes(ledger.turn("g", far())).await.unwrap();
}

pub async fn a_turn_that_is_dropped_is_the_next_ones(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for _ in 0..10 {
        drop(comes(ledger.turn("g", far())).await.unwrap());
    }
    // A task that dies with its turn.
    let dies = ledger.clone();
    let task = tokio::spawn(async move {
        let _turn = dies.turn("g", far()).await.unwrap();
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    task.abort();
    comes(ledger.turn("g", far())).await.unwrap();
}

pub async fn who_leaves_the_line_keeps_nobody_waiting(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let first = comes(ledger.turn("g", far())).await.unwrap();
    let mut leaves = ledger.turn("g", far());
    assert!(poll_once(leaves.as_mut()).await.is_none());
    let mut stays = ledger.turn("g", far());
    assert!(poll_once(stays.as_mut()).await.is_none());
    drop(leaves);
    assert!(poll_once(stays.as_mut()).await.is_none());
    drop(first);
    comes(stays).await.unwrap();
}

pub async fn the_line_is_bounded(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let first = comes(ledger.turn("g", far())).await.unwrap();
    let mut line = Vec::new();
    let refused = loop {
        let mut turn = ledger.turn("g", far());
        match poll_once(turn.as_mut()).await {
            Some(answer) => break answer,
            None => line.push(turn),
        }
        assert!(line.len() < 10_000, "the line has no end");
    };
    assert_eq!(refused.unwrap_err(), LedgerError::TooMany);
    comes(ledger.turn("h", far())).await.unwrap();
    line.truncate(1);
    drop(first);
    comes(line.pop().unwrap()).await.unwrap();
    comes(ledger.turn("g", far())).await.unwrap();
}

pub async fn a_turn_is_not_an_intent(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let wanted = intent(1);
    let _turn = comes(ledger.turn(&wanted.group, far())).await.unwrap();
    write(&ledger, &wanted).await;
}
