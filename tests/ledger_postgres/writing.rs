//! How records are written: together where they wait, each by itself in what becomes of it, and cheap for the server.

use std::{future::poll_fn, sync::Arc, task::Poll};

use portcullis::{
    ledger::{Answer, Filter, Intended, Intent, Ledger, LedgerError, State},
    telemetry::metrics::Metrics,
};
use tokio_postgres::Client;

use crate::{
    server::Database,
    suite::{all, comes, group, id, in_state, intent, keyed, poll_once, step, stored, to, write},
    world::{open, shared},
};

/// How many transactions a replica has under way at once, as long as few writes wait.
const LINES: u64 = 1;

/// Nobody writes while it is held, and who waits for it is patient.
async fn locks(database: &Database<'_>) -> Client {
    database.psql(
        "CREATE OR REPLACE FUNCTION portcullis.durable() RETURNS bigint LANGUAGE sql AS
            'SELECT set_config(''lock_timeout'', ''60000'', true); SELECT portcullis.now_ms()'",
    );
    let (client, connection) =
        tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
        .batch_execute("BEGIN; LOCK TABLE portcullis.pending IN SHARE ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    client
}

/// All of them are asked for: the first in as many transactions as there can be, which wait for the lock.
async fn ask<T>(database: &Database<'_>, transactions: u64, calls: &mut [Answer<'_, T>]) {
    for (n, call) in (1..).zip(calls) {
        assert!(poll_once(call.as_mut()).await.is_none());
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        comes(async { while n <= transactions && database.psql(waits) != n.to_string() {} }).await;
    }
}

async fn unlock(client: &Client) {
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_written_together_and_one_bad_one_fails_alone() {
    let database = shared().database();
    let metrics = Metrics::open(|readers| readers).unwrap();
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap().counted(&metrics));
    in_state(&ledger, &keyed(200, "taken"), State::Succeeded).await;
    write(&ledger, &intent(201)).await;
    // Longer than what an index holds, and of a kind that is not compressed.
    let long: String =
        (0..600_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    let intents: Vec<Intent> = (0..60)
        .map(|n| match n {
            40 => Intent { group: long.clone(), ..intent(n) },
            41 => keyed(n, "taken"),
            42 => Intent { group: group(201), ..intent(n) },
            43 | 44 => keyed(n, "one-of-two"),
            _ => intent(n),
        })
        .collect();
    let lock = locks(&database).await;
    let mut calls: Vec<_> = intents.iter().map(|intent| ledger.intend(intent)).collect();
    ask(&database, LINES, &mut calls).await;
    unlock(&lock).await;
    let mut written = 0;
    for (n, call) in (0..).zip(calls) {
        match (n, comes(call).await) {
            (40, Err(LedgerError::Unavailable(why))) => assert!(why.contains("index"), "{why}"),
            (41, Ok(Intended::KeyTaken(other))) => assert_eq!(other.id, id(200)),
            (42, Ok(Intended::GroupBusy(other))) => assert_eq!(other.id, id(201)),
            (44, Ok(Intended::KeyTaken(other))) => assert_eq!(other.id, id(43)),
            (40..=42 | 44, other) => panic!("{n}: {other:?}"),
            (_, Ok(Intended::Written(record))) => {
                assert_eq!(record.id, id(n));
                written += 1;
            }
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(written, 56);
    assert_eq!(all(&ledger).await.len(), 58);
    assert_eq!(database.psql("SELECT count(*) FROM portcullis.pending"), "57");
    // Refused for its key, it does not keep its group.
    assert!(matches!(ledger.intend(&keyed(300, "taken")).await, Ok(Intended::KeyTaken(_))));
    write(&ledger, &Intent { group: group(300), ..intent(301) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_one_commit() {
    let database = shared().database();
    let metrics = Metrics::open(|readers| readers).unwrap();
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap().counted(&metrics));
    let intents: Vec<Intent> = (0..101).map(intent).collect();
    write(&ledger, &intents[100]).await;
    let lock = locks(&database).await;
    let mut calls: Vec<_> = intents[..100].iter().map(|intent| ledger.intend(intent)).collect();
    ask(&database, LINES, &mut calls).await;
    unlock(&lock).await;
    // All at once: where the time is not right any more, each looks and writes again.
    comes(poll_fn(|context| {
        calls.retain_mut(|call| match call.as_mut().poll(context) {
            Poll::Ready(answer) => {
                assert!(matches!(answer, Ok(Intended::Written(_))), "{answer:?}");
                false
            }
            Poll::Pending => true,
        });
        if calls.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }))
    .await;
    // Those that were under way, and one for all that waited; on a busy machine some more, whose time is right.
    let text = metrics.text().unwrap();
    let counted = |name: &str| -> u64 {
        let name = format!("portcullis_ledger_commit_writes_{name}{{engine=\"postgres\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    assert!(counted("sum") >= 101 && counted("count") <= counted("sum") / 10, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_before_it_began_is_not_written() {
    let database = shared().database();
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap());
    ledger.check().await.unwrap();
    write(&ledger, &intent(100)).await;
    let lock = locks(&database).await;
    let intents: Vec<Intent> = (0..=LINES).map(intent).collect();
    let mut calls: Vec<_> = intents.iter().map(|intent| ledger.intend(intent)).collect();
    ask(&database, LINES, &mut calls).await;
    let left = intent(50);
    let mut leaves = ledger.intend(&left);
    assert!(poll_once(leaves.as_mut()).await.is_none());
    drop(leaves);
    unlock(&lock).await;
    for call in calls {
        assert!(matches!(comes(call).await, Ok(Intended::Written(_))));
    }
    // Its group is free for the next one.
    write(&ledger, &Intent { group: group(50), ..intent(51) }).await;
    assert_eq!(stored(&ledger, &id(50)).await, None);
}

/// Two replicas that write the same groups, in opposite orders, do not wait for each other crosswise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_write_the_same_groups_do_not_deadlock() {
    let database = shared().database();
    let replicas = [open(&database.url()).await.unwrap(), open(&database.url()).await.unwrap()];
    let replicas = replicas.map(|replica| -> Arc<dyn Ledger> { Arc::new(replica) });
    for (n, replica) in (900..).zip(&replicas) {
        write(replica, &intent(n)).await;
    }
    for round in 0..5 {
        let of = |replica: u64, n: u64| {
            let one = round * 100 + if replica == 0 { n } else { 59 - n };
            Intent { group: group(one), ..intent(1000 * (1 + replica) + one) }
        };
        let intents: Vec<_> = (0..120).map(|n| (n % 2, of(n % 2, n / 2))).collect();
        let lock = locks(&database).await;
        let mut calls: Vec<_> = intents
            .iter()
            .map(|(replica, intent)| replicas[usize::try_from(*replica).unwrap()].intend(intent))
            .collect();
        ask(&database, 2 * LINES, &mut calls).await;
        unlock(&lock).await;
        let mut written = 0;
        for call in calls {
            match comes(call).await.unwrap() {
                Intended::Written(_) => written += 1,
                Intended::GroupBusy(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(written, 60);
    }
    drop(replicas);
    gone(&database).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(database.psql(deadlocks), "0");
}

/// All connections but that of the question are closed: what they counted is told.
async fn gone(database: &Database<'_>) {
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    comes(async { while database.psql(others) != "0" {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_touches_no_index() {
    let database = shared().database();
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap());
    for (n, state) in (0..120).zip(State::ALL.into_iter().cycle()) {
        in_state(&ledger, &keyed(n, &format!("k{n}")), state).await;
    }
    drop(ledger);
    gone(&database).await;
    // 100 to their states, and the UNRESOLVED ones twice.
    let updates = "SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
        WHERE schemaname = 'portcullis' AND relname = 'records'";
    assert_eq!(database.psql(updates), "120|120|120");
}

/// No list of a part, and no sweep that finds nothing, reads all of the records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_sweeps_read_no_more_than_their_part() {
    let database = shared().database();
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap());
    let mut tasks = Vec::new();
    for n in 0..3000 {
        let ledger = ledger.clone();
        let intent = Intent {
            caller: format!("caller {}", n / 10),
            account: format!("account {}", n / 10),
            ..keyed(n, &format!("k{n}"))
        };
        tasks.push(tokio::spawn(async move {
            let state = if n % 100 == 0 { State::Unresolved } else { State::Succeeded };
            in_state(&ledger, &intent, state).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    write(&ledger, &intent(5000)).await;
    drop(ledger);
    gone(&database).await;
    database.psql("ANALYZE portcullis.records, portcullis.pending, portcullis.unresolved");
    let before = reads(&database);
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap());
    let base = || Filter { limit: 1000, ..Filter::default() };
    let some = |text: &str| Some(text.to_owned());
    let newest = stored(&ledger, &id(5000)).await.unwrap().created_at;
    for (filter, count) in [
        (Filter { id: Some(id(7)), ..base() }, 1),
        (Filter { caller: some("caller 7"), ..base() }, 10),
        (Filter { caller: some("caller 7"), before: Some(id(75)), limit: 3, ..base() }, 3),
        (Filter { group: Some(group(7)), ..base() }, 1),
        (Filter { account: some("account 7"), region: some("eu-central-1"), ..base() }, 10),
        (Filter { since: Some(newest), ..base() }, 1),
        (Filter { states: vec![State::InProgress, State::InDoubt], ..base() }, 1),
        (Filter { states: vec![State::Unresolved], ..base() }, 30),
        (Filter { limit: 20, ..base() }, 20),
        (Filter { before: Some(id(2000)), limit: 20, ..base() }, 20),
    ] {
        assert_eq!(ledger.list(&filter).await.unwrap().len(), count, "{filter:?}");
    }
    assert_eq!(ledger.sweep(1000).await, Ok(0));
    let settled = stored(&ledger, &id(5000)).await.unwrap();
    step(&ledger, &settled, &to(State::Succeeded)).await;
    drop(ledger);
    gone(&database).await;
    let after = reads(&database);
    let (scans, rows) = (after.0 - before.0, after.1 - before.1);
    assert_eq!(scans, 0, "all of the records were read");
    assert!((99..300).contains(&rows), "{rows} rows were read");
}

/// Of an account or a Region alone, too, and of those that there are none of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_a_region_read_no_more_than_their_part() {
    let database = shared().database();
    let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap());
    in_state(&ledger, &intent(0), State::Succeeded).await;
    drop(ledger);
    // Nobody else reads pages of it.
    database.psql("ALTER TABLE portcullis.records SET (autovacuum_enabled = false)");
    // So many that an index has far more pages than a list may read.
    database.psql(
        "INSERT INTO portcullis.records SELECT id, scope, caller, NULL, NULL, id, account, region, state, fence, version,
            created, held_until, settled, jsonb_set(jsonb_set(jsonb_set(record::jsonb, '{id}', to_jsonb(id)),
                '{account}', to_jsonb(account)), '{region}', to_jsonb(region))::text
        FROM (SELECT 'op-' || lpad(n::text, 8, '0') AS id, 'account ' || n % 3 AS account,
                CASE n % 15000 WHEN 0 THEN 'odd' ELSE 'region ' || n % 2 END AS region,
                scope, caller, state, fence, version, created, held_until, settled, record
            FROM portcullis.records, generate_series(0, 59999) AS n) AS many",
    );
    database.psql("VACUUM ANALYZE portcullis.records");
    let base = || Filter { limit: 10, ..Filter::default() };
    let some = |text: &str| Some(text.to_owned());
    let settled = || vec![State::Succeeded];
    for (filter, count) in [
        (Filter { region: some("nowhere"), ..base() }, 0),
        (Filter { region: some("odd"), ..base() }, 4),
        (Filter { region: some("region 1"), ..base() }, 10),
        (Filter { region: some("region 1"), before: some("op-00001000"), ..base() }, 10),
        (Filter { region: some("region 1"), states: settled(), ..base() }, 10),
        (Filter { account: some("account 1"), ..base() }, 10),
        (Filter { account: some("nowhere"), ..base() }, 0),
        (Filter { account: some("account 1"), region: some("nowhere"), ..base() }, 0),
    ] {
        let before = pages(&database);
        let ledger: Arc<dyn Ledger> = Arc::new(open(&database.url()).await.unwrap());
        let found = ledger.list(&filter).await.unwrap();
        let mut sorted = found.clone();
        sorted.sort_by(|a, b| b.id.cmp(&a.id));
        assert_eq!((found.len(), &found), (count, &sorted), "{filter:?}");
        assert!(found.iter().all(|record| filter.passes(record)), "{filter:?}");
        drop(ledger);
        gone(&database).await;
        let read = pages(&database) - before;
        assert!(read < 150, "{filter:?}: {read} pages");
    }
}

/// How many pages of records and their indexes were looked at.
fn pages(database: &Database<'_>) -> u64 {
    let pages = "SELECT heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit FROM pg_statio_user_tables
        WHERE schemaname = 'portcullis' AND relname = 'records'";
    database.psql(pages).parse().unwrap()
}

/// How often all records were read one after the other, and how many were read by an index.
fn reads(database: &Database<'_>) -> (u64, u64) {
    let reads = database.psql(
        "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables
            WHERE schemaname = 'portcullis' AND relname = 'records'",
    );
    let (scans, rows) = reads.split_once('|').unwrap();
    (scans.parse().unwrap(), rows.parse().unwrap())
}
