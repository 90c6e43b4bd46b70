//! The hash chain: what it finds, and how it is kept short.

use std::sync::Arc;

use portcullis::ledger::{
    Ledger, Move, State,
    postgres::{Postgres, Verified},
};

use crate::{
    server::Database,
    suite::{DAY, HOUR, id, in_state, intent, step, to},
    world::{open, set_clock, shared},
};

/// A ledger with some records, all of them sealed.
async fn filled(database: &Database<'_>) -> (Arc<Postgres>, Arc<dyn Ledger>) {
    let postgres = Arc::new(open(&database.url()).await.unwrap());
    let ledger: Arc<dyn Ledger> = postgres.clone();
    for (n, state) in (1..).zip(State::ALL) {
        in_state(&ledger, &intent(n), state).await;
    }
    let verified = postgres.verify().await.unwrap();
    assert_eq!(verified.findings, Vec::<String>::new());
    assert_eq!((verified.records, verified.unsealed), (6, 0));
    // Six intents, and the moves to where each is.
    assert_eq!((verified.sealed, verified.head.0), (12, 12));
    (postgres, ledger)
}

async fn found(postgres: &Postgres, finding: &str) -> Verified {
    let verified = postgres.verify().await.unwrap();
    assert!(verified.findings.iter().any(|found| found.contains(finding)), "{verified:?}");
    verified
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_tampered_with_is_found() {
    for (tampering, finding) in [
        (
            "UPDATE portcullis.records SET record = replace(record, 'sg-', 'sg+') WHERE id LIKE '%2'",
            "0002: the record is not what was written last",
        ),
        (
            "UPDATE portcullis.records SET state = 'SUCCEEDED' WHERE id LIKE '%3'",
            "0003: the columns do not say what the record says",
        ),
        (
            "UPDATE portcullis.records SET caller = 'mallory' WHERE id LIKE '%3'",
            "0003: the columns do not say what the record says",
        ),
        ("DELETE FROM portcullis.records WHERE id LIKE '%4'", "0004: the record is gone"),
        ("UPDATE portcullis.events SET state = 'SWEPT' WHERE place = 7", "event 7 was changed"),
        ("UPDATE portcullis.events SET digest = '\\x00' WHERE place = 1", "event 1 was changed"),
        ("UPDATE portcullis.events SET at = at + 1 WHERE place = 12", "event 12 was changed"),
        ("DELETE FROM portcullis.events WHERE place = 5", "missing between 4 and 6"),
        ("DELETE FROM portcullis.events WHERE place = 12", "the chain ends at 11"),
        (
            "UPDATE portcullis.events SET place = -1 WHERE place = 3;
             UPDATE portcullis.events SET place = 3 WHERE place = 4;
             UPDATE portcullis.events SET place = 4 WHERE place = -1",
            "event 3 was changed",
        ),
        (
            "WITH gone AS (DELETE FROM portcullis.events WHERE place >= 11 RETURNING *)
             INSERT INTO portcullis.tail (id, version, state, at, digest)
             SELECT id, version, state, at, digest FROM gone",
            "missing between 10 and 13",
        ),
        (
            "DELETE FROM portcullis.pending WHERE id LIKE '%1'",
            "0001: the lists of what is unsettled",
        ),
        (
            "INSERT INTO portcullis.pending SELECT \"group\", id FROM portcullis.records WHERE id LIKE '%2'",
            "0002: the lists of what is unsettled",
        ),
        (
            "UPDATE portcullis.pending SET \"group\" = 'g' WHERE id LIKE '%5'",
            "0005: the lists of what",
        ),
        ("DELETE FROM portcullis.unresolved", "0006: the lists of what is unsettled"),
        (
            "INSERT INTO portcullis.unresolved VALUES ('op-nothing')",
            "op-nothing: the lists of what",
        ),
        ("DELETE FROM portcullis.chain", "ends are gone"),
    ] {
        let database = shared().database();
        let (postgres, _) = filled(&database).await;
        database.psql(tampering);
        found(&postgres, finding).await;
    }
}

/// Makes the chain fit what stands there: as if it had been written so.
const CHAIN_AGAIN: &str =
    "UPDATE portcullis.events e SET digest = sha256(convert_to(r.record, 'UTF8'))
        FROM portcullis.records r WHERE r.id = e.id AND r.version = e.version AND e.state <> 'SWEPT';
    INSERT INTO portcullis.tail (id, version, state, at, digest)
        SELECT id, version, state, at, digest FROM portcullis.events ORDER BY place;
    DELETE FROM portcullis.events;
    UPDATE portcullis.chain SET head_place = 0, head_hash = '\\x';
    SELECT portcullis.seal(500)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_wrong_is_found_although_the_chain_fits() {
    let record = |n: u32, columns: &str, path: &str, value: &str| {
        format!(
            "UPDATE portcullis.records SET {columns}
                record = jsonb_set(record::jsonb, '{{{path}}}', '{value}')::text WHERE id LIKE '%{n}';"
        )
    };
    let event = |n: u32, version: u32, set: &str| {
        format!("UPDATE portcullis.events SET {set} WHERE id LIKE '%{n}' AND version = {version};")
    };
    let swept = |n: u32| {
        format!(
            "INSERT INTO portcullis.events SELECT 1000, id, version, 'SWEPT', 0, '\\x', '\\x'
             FROM portcullis.records WHERE id LIKE '%{n}';"
        )
    };
    for (done, finding) in [
        (record(2, "", "answer", "null"), "2: it is final and has no answer: SUCCEEDED"),
        (
            record(3, "settled = NULL,", "settled_at", "null"),
            "3: when it was settled does not go with its state: REFUSED",
        ),
        (
            event(3, 1, "state = 'SUCCEEDED'"),
            "3: version 2 went from SUCCEEDED to REFUSED, and there is no such move",
        ),
        (event(3, 1, "state = 'RELEASED'"), "3: it began RELEASED"),
        (event(3, 1, "state = 'DONE'"), "3: an event says DONE, which is no state"),
        (
            event(2, 2, "state = 'REFUSED'"),
            "2: it is SUCCEEDED, and was REFUSED when it was written last",
        ),
        (
            event(2, 2, "version = 3") + &record(2, "version = 3,", "version", "3"),
            "2: version 3 was written after 1",
        ),
        (
            event(2, 2, "version = 1") + &record(2, "version = 1,", "version", "1"),
            "2: version 1 was written twice",
        ),
        (
            swept(5)
                + "DELETE FROM portcullis.records WHERE id LIKE '%5';
                   DELETE FROM portcullis.pending WHERE id LIKE '%5'",
            "5: it was swept while it was IN_DOUBT",
        ),
        (swept(2), "2: it is there although it was swept: SUCCEEDED"),
        (
            format!(
                "DROP INDEX portcullis.records_key; {}
                 UPDATE portcullis.records SET key_hash =
                    sha256(int8send(length(scope)) || convert_to(scope, 'UTF8')
                        || int8send(length(caller)) || convert_to(caller, 'UTF8')
                        || int8send(length(key)) || convert_to(key, 'UTF8')) WHERE id ~ '[23]$';",
                record(2, "key = 'k',", "key", "\"k\"") + &record(3, "key = 'k',", "key", "\"k\"")
            ),
            "3: both have the same key of the same caller",
        ),
        (
            record(2, "key = 'k', key_hash = '\\x00',", "key", "\"k\""),
            "2: the columns do not say what the record says",
        ),
        (
            "UPDATE portcullis.records r SET \"group\" = o.\"group\",
                record = jsonb_set(r.record::jsonb, '{group}', to_jsonb(o.\"group\"))::text
             FROM portcullis.records o WHERE o.id LIKE '%1' AND r.id LIKE '%5'"
                .to_owned(),
            "5: both are unsettled, and of the same group",
        ),
    ] {
        let database = shared().database();
        let (postgres, _) = filled(&database).await;
        database.psql(&done);
        database.psql(CHAIN_AGAIN);
        let findings = postgres.verify().await.unwrap().findings;
        // What is in doubt of another group than its own is astray from both sides, too.
        let found = findings.iter().any(|found| found.ends_with(finding));
        assert!(found && findings.len() <= 3, "{done}: {findings:?}");
    }
}

/// A chain is cut while a record moves on: its last event of then is said again behind the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_again_too_late_is_no_finding() {
    let database = shared().database();
    let (postgres, _) = filled(&database).await;
    database.psql(
        "INSERT INTO portcullis.tail (id, version, state, at, digest)
            SELECT id, version, state, at, digest FROM portcullis.events WHERE version = 1",
    );
    for _ in 0..2 {
        // In the tail, and sealed.
        let verified = postgres.verify().await.unwrap();
        assert_eq!(verified.findings, Vec::<String>::new(), "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_sealed_by_itself_and_by_replicas_together() {
    let database = shared().database();
    let replicas = [open(&database.url()).await.unwrap(), open(&database.url()).await.unwrap()];
    let mut tasks = Vec::new();
    for n in 0..600_u64 {
        let ledger: Arc<dyn Ledger> = Arc::new(replicas[usize::try_from(n % 2).unwrap()].clone());
        tasks.push(tokio::spawn(async move {
            let record = crate::suite::write(&ledger, &intent(n)).await;
            step(&ledger, &record, &to(State::Succeeded)).await;
        }));
    }
    let verifying = replicas.each_ref().map(|replica| {
        let replica = replica.clone();
        tokio::spawn(async move { replica.verify().await.unwrap() })
    });
    for task in tasks {
        task.await.unwrap();
    }
    for verified in verifying {
        assert_eq!(verified.await.unwrap().findings, Vec::<String>::new());
    }
    crate::suite::comes(async {
        while database.psql("SELECT count(*) FROM portcullis.tail") != "0" {}
    })
    .await;
    let verified = replicas[0].verify().await.unwrap();
    assert_eq!(verified.findings, Vec::<String>::new());
    assert_eq!((verified.records, verified.sealed), (600, 1200));
    // And what is exported is all of it, in order.
    let mut exported = Vec::new();
    loop {
        let after = exported.last().cloned();
        let page = replicas[1].export(after.as_deref(), 250).await.unwrap();
        if page.is_empty() {
            break;
        }
        exported.extend(page.into_iter().map(|record| record.id));
    }
    assert_eq!(exported, (0..600).map(id).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_is_cut_behind_what_was_swept_and_still_proves_the_rest() {
    let database = shared().database();
    let (postgres, ledger) = filled(&database).await;
    let before = postgres.verify().await.unwrap().head;
    let mut ahead = 91 * DAY;
    set_clock(&database, ahead);
    in_state(&ledger, &intent(20), State::Succeeded).await;
    // SUCCEEDED, REFUSED and RELEASED are settled and go; the others stay for ever.
    assert_eq!(ledger.sweep(100).await.unwrap(), 3);
    ledger.sweep(100).await.unwrap();
    let verified = postgres.verify().await.unwrap();
    assert_eq!(verified.findings, Vec::<String>::new(), "{verified:?}");
    // The twelve are cut off. Three records that stay were said again, three swept, one was begun and settled.
    assert_eq!((verified.records, verified.sealed), (4, 8));
    assert_eq!(database.psql("SELECT anchor_place FROM portcullis.chain"), "12");
    assert_eq!(database.psql("SELECT encode(anchor_hash, 'hex') FROM portcullis.chain"), before.1);
    // What stays is still proven.
    let record = database.psql("SELECT record FROM portcullis.records WHERE id LIKE '%5'");
    database.psql("UPDATE portcullis.records SET record = record || ' ' WHERE id LIKE '%5'");
    found(&postgres, "0005: the record is not what was written last").await;
    database
        .psql(&format!("UPDATE portcullis.records SET record = $r${record}$r$ WHERE id LIKE '%5'"));
    database.psql("UPDATE portcullis.chain SET anchor_hash = '\\x00'");
    found(&postgres, "event 13 was changed").await;
    database.psql(&format!("UPDATE portcullis.chain SET anchor_hash = '\\x{}'", before.1));
    // Years of sweeping: it does not grow.
    for _ in 0..5 {
        ahead += 100 * DAY;
        set_clock(&database, ahead);
        ledger.sweep(100).await.unwrap();
        ledger.sweep(100).await.unwrap();
        let verified = postgres.verify().await.unwrap();
        assert_eq!(verified.findings, Vec::<String>::new(), "{verified:?}");
        assert!(verified.sealed <= 8, "{verified:?}");
    }
    // And what was said again moves on.
    let unresolved = crate::suite::stored(&ledger, &id(6)).await.unwrap();
    let decided = Move { hold: HOUR, ..to(State::Succeeded) };
    step(&ledger, &unresolved, &decided).await;
    assert_eq!(postgres.verify().await.unwrap().findings, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_is_cut_as_fast_as_records_are_swept() {
    let database = shared().database();
    let postgres = open(&database.url()).await.unwrap();
    let ledger: Arc<dyn Ledger> = Arc::new(postgres.clone());
    let mut tasks = Vec::new();
    for n in 0..700 {
        let ledger = ledger.clone();
        tasks.push(tokio::spawn(async move {
            in_state(&ledger, &intent(n), State::Succeeded).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    set_clock(&database, 91 * DAY);
    assert_eq!(ledger.sweep(1000).await.unwrap(), 700);
    assert_eq!(
        database.psql("SELECT count(*) FROM portcullis.events"),
        "700",
        "those that say SWEPT"
    );
    set_clock(&database, 182 * DAY);
    assert_eq!(ledger.sweep(1000).await.unwrap(), 0);
    assert_eq!(database.psql("SELECT count(*) FROM portcullis.events"), "0");
    assert_eq!(postgres.verify().await.unwrap().findings, Vec::<String>::new());
}
