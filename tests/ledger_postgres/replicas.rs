//! Several instances on one database.

use std::{sync::Arc, time::Duration};

use portcullis::ledger::{Intended, Intent, Ledger, LedgerError, State, Turn};
use tokio::time::Instant;

use crate::{
    suite::{
        DAY, HOUR, MINUTE, answer, comes, group, id, in_state, intent, keyed, look, poll_once,
        step, stored, to, write,
    },
    world::{ledger, set_clock, shared},
};

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

/// How many stand in the lines of a database.
fn standing(database: &crate::server::Database<'_>) -> String {
    database.psql("SELECT coalesce(sum(cardinality(tickets)), 0) FROM portcullis.turns")
}

/// Waits until so many do.
async fn stands(database: &crate::server::Database<'_>, wanted: &str) {
    comes(async {
        while standing(database) != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Asks for a turn, and comes back when it stands in line.
async fn ask(
    ledger: &Arc<dyn Ledger>,
    database: &crate::server::Database<'_>,
    place: &str,
) -> tokio::task::JoinHandle<Turn> {
    let ledger = ledger.clone();
    let turn = tokio::spawn(async move { ledger.turn("g", far()).await.unwrap() });
    stands(database, place).await;
    turn
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_come_in_order_across_replicas() {
    let database = shared().database();
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(ledger(&database.url()).await);
    }
    let mut line = Vec::new();
    for (replica, place) in replicas.iter().zip(["1", "2", "3", "4"]) {
        line.push(ask(replica, &database, place).await);
    }
    let mut turns = line.into_iter();
    let mut held = comes(turns.next().unwrap()).await.unwrap();
    for (next, left) in turns.zip(["3", "2", "1"]) {
        assert!(!next.is_finished(), "two have the turn");
        drop(held);
        held = comes(next).await.unwrap();
        assert_eq!(standing(&database), left);
    }
    drop(held);
    stands(&database, "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_has_the_turn() {
    let database = shared().database();
    let inside = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let replica = ledger(&database.url()).await;
        for _ in 0..15 {
            let (replica, inside) = (replica.clone(), inside.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = replica.turn("g", far()).await.unwrap();
                use std::sync::atomic::Ordering::SeqCst;
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two have the turn");
                replica.check().await.unwrap();
                inside.fetch_sub(1, SeqCst);
            }));
        }
    }
    for task in tasks {
        comes(task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_replica_keeps_nobody_waiting_past_its_lease() {
    let database = shared().database();
    let url = database.url();
    // A process that dies: its tasks are gone without a last word.
    let dies = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let turn = runtime.block_on(async { ledger(&url).await.turn("g", far()).await.unwrap() });
        runtime.shutdown_background();
        std::mem::forget(turn);
    });
    tokio::task::spawn_blocking(|| dies.join().unwrap()).await.unwrap();
    assert_eq!(standing(&database), "1");
    let alive = ledger(&database.url()).await;
    let late = alive.turn("g", Instant::now() + Duration::from_millis(200)).await;
    assert_eq!(late.unwrap_err(), LedgerError::TooLate);
    set_clock(&database, MINUTE);
    drop(comes(alive.turn("g", far())).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_goes_leaves_the_line_in_the_database() {
    let database = shared().database();
    let (one, other) = (ledger(&database.url()).await, ledger(&database.url()).await);
    let held = ask(&one, &database, "1").await.await.unwrap();
    let gone = ask(&other, &database, "2").await;
    gone.abort();
    stands(&database, "1").await;
    // Dropped while the first look at the line is on its way.
    let mut leaves = other.turn("g", far());
    assert!(poll_once(leaves.as_mut()).await.is_none());
    drop(leaves);
    drop(held);
    drop(comes(other.turn("g", far())).await.unwrap());
    stands(&database, "0").await;
    other.sweep(1).await.unwrap();
    assert_eq!(database.psql("SELECT count(*) FROM portcullis.turns"), "0");
}

/// Three replicas, and from each some intents at once.
async fn race(intents: impl Fn(u64) -> Intent) {
    let database = shared().database();
    let mut tasks = Vec::new();
    for replica in 0..3 {
        let ledger = ledger(&database.url()).await;
        for n in 0..8 {
            let (ledger, intent) = (ledger.clone(), intents(replica * 8 + n));
            tasks.push(tokio::spawn(async move { ledger.intend(&intent).await.unwrap() }));
        }
    }
    let (mut written, mut others) = (Vec::new(), Vec::new());
    for task in tasks {
        match comes(task).await.unwrap() {
            Intended::Written(record) => written.push(*record),
            Intended::KeyTaken(record) | Intended::GroupBusy(record) => others.push(*record),
        }
    }
    assert_eq!((written.len(), others.len()), (1, 23));
    assert!(others.iter().all(|other| *other == written[0]), "{others:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_intent_of_a_group_is_written() {
    race(|n| Intent { group: group(0), ..intent(n) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_intent_of_a_key_is_written() {
    race(|n| keyed(n, "k")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_intent_gets_an_expired_key() {
    let database = shared().database();
    let replicas = [ledger(&database.url()).await, ledger(&database.url()).await];
    in_state(&replicas[0], &keyed(1, "k"), State::Succeeded).await;
    set_clock(&database, DAY + MINUTE);
    let mut tasks = Vec::new();
    for n in 2..18 {
        let ledger = replicas[usize::try_from(n % 2).unwrap()].clone();
        tasks.push(tokio::spawn(async move { ledger.intend(&keyed(n, "k")).await.unwrap() }));
    }
    let mut written = 0;
    for task in tasks {
        match comes(task).await.unwrap() {
            Intended::Written(_) => written += 1,
            Intended::KeyTaken(other) => assert_ne!(other.id, id(1)),
            Intended::GroupBusy(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(written, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_by_others_wake() {
    let database = shared().database();
    let (one, other) = (ledger(&database.url()).await, ledger(&database.url()).await);
    let record = write(&one, &intent(1)).await;
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (other, record) = (other.clone(), record.clone());
            tokio::spawn(async move { other.changed(&record.id, record.version).await })
        })
        .collect();
    let mut waits = other.changed(&record.id, record.version);
    assert!(poll_once(waits.as_mut()).await.is_none());
    let settled = step(&one, &record, &to(State::Succeeded)).await;
    comes(waits).await.unwrap();
    for wait in waiting {
        comes(wait).await.unwrap().unwrap();
    }
    assert_eq!(stored(&other, &record.id).await, Some(settled));
    comes(other.changed("op-nothing", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_over_fences_the_other_out() {
    let database = shared().database();
    let (one, other) = (ledger(&database.url()).await, ledger(&database.url()).await);
    let record = write(&one, &keyed(1, "k")).await;
    assert_eq!(other.take_over(&record.id, record.fence, HOUR).await, Ok(None), "it is held");
    set_clock(&database, HOUR + MINUTE);
    let taken = other.take_over(&record.id, record.fence, HOUR).await.unwrap().unwrap();
    // The first one still knows the record as it wrote it, and once it has written something, what the time is.
    write(&one, &intent(2)).await;
    let late = one.advance(&record.id, record.fence, &to(State::Succeeded)).await;
    assert_eq!(late, Err(LedgerError::Fenced));
    let next = one.intend(&Intent { group: group(1), ..intent(3) }).await.unwrap();
    let Intended::GroupBusy(busy) = next else { panic!("the group is not free: {next:?}") };
    assert_eq!(busy.id, record.id);
    let noted =
        one.advance(&record.id, 0, &portcullis::ledger::Move::note("too late")).await.unwrap();
    assert_eq!((noted.fence, noted.state), (taken.fence, State::InDoubt));
    let settled = step(&other, &noted, &to(State::Succeeded)).await;
    assert_eq!(settled.answer, Some(answer("SUCCEEDED")));
    assert_eq!(look(&one, &keyed(1, "k")).await.by_key, Some(settled));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_the_databases() {
    let database = shared().database();
    let ledger = ledger(&database.url()).await;
    let before = write(&ledger, &intent(1)).await;
    // What the ledger took for the time is now wrong, forwards and backwards.
    set_clock(&database, DAY);
    let later = write(&ledger, &intent(2)).await;
    let ahead = later.created_at.duration_since(before.created_at).unwrap();
    assert!((DAY..DAY + HOUR).contains(&ahead), "{ahead:?}");
    assert_eq!(later.held_until, later.created_at + HOUR);
    let moved = step(&ledger, &before, &to(State::InDoubt)).await;
    assert!(moved.held_until >= later.created_at + HOUR);
    set_clock(&database, Duration::ZERO);
    let back = write(&ledger, &intent(3)).await;
    assert!(back.created_at < later.created_at - 23 * HOUR);
}
