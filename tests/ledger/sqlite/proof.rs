//! The chain of events, exports, and how both stay bounded.

use portcullis::ledger::{
    Intent, Move, State,
    chain::{Event, Hash, digest},
    sqlite::Archive,
};
use rusqlite::Connection;

use super::{Bench, InFile};
use crate::suite::{
    DAY, HOUR, TERMS, again, all, group, id, in_state, intent, keyed, step, stored, to, write,
};

/// Some of everything: 12 records in all states.
async fn some(bench: &mut InFile) {
    let ledger = bench.ledger();
    for (n, state) in (1..).zip(State::ALL) {
        in_state(&ledger, &keyed(n, &format!("k{n}")), state).await;
        in_state(&ledger, &intent(n + 6), state).await;
    }
    let released = stored(&ledger, &id(4)).await.unwrap();
    let record = write(&ledger, &again(&released, &keyed(4, "k4"))).await;
    ledger.advance(&record.id, 0, &Move::note("seen")).await.unwrap();
    bench.advance(HOUR).await;
    ledger.take_over(&record.id, record.fence, HOUR).await.unwrap().unwrap();
    let refused = Intent { group: group(4), ..keyed(20, "k20") };
    ledger.intend(&refused).await.unwrap();
}

#[tokio::test]
async fn what_is_as_it_was_written_is_proven() {
    let mut bench = InFile::new(true);
    assert_eq!(bench.sqlite().verify().await.unwrap().findings, [""; 0], "empty");
    some(&mut bench).await;
    let verified = bench.sqlite().verify().await.unwrap();
    assert_eq!(verified.findings, [""; 0]);
    // Born: 12. On the way to their states: 6 each. Again, noted, taken over: 3.
    assert_eq!((verified.records, verified.events), (12, 12 + 12 + 3));
    assert_eq!(verified.head.len(), 64);
    let archive = Archive::open(&bench.path()).unwrap();
    assert_eq!(archive.verify().unwrap(), verified, "while it is in use");
    step(&bench.ledger(), &stored(&bench.ledger(), &id(1)).await.unwrap(), &to(State::Refused))
        .await;
    assert_ne!(archive.verify().unwrap().head, verified.head);
}

#[tokio::test]
async fn everything_is_exported_in_order() {
    let mut bench = InFile::new(true);
    some(&mut bench).await;
    let archive = Archive::open(&bench.path()).unwrap();
    let mut exported = Vec::new();
    loop {
        let after = exported.last().map(|record: &portcullis::ledger::Record| record.id.clone());
        let page = bench.sqlite().export(after.clone(), 5).await.unwrap();
        assert_eq!(archive.export(after.as_deref(), 5).unwrap(), page);
        if page.is_empty() {
            break;
        }
        exported.extend(page);
    }
    let ids: Vec<_> = exported.into_iter().map(|record| record.id).collect();
    let mut newest_first = all(&bench.ledger()).await;
    newest_first.reverse();
    assert_eq!(ids, newest_first);
}

#[tokio::test]
async fn what_other_hands_did_is_found() {
    let mut bench = InFile::new(true);
    some(&mut bench).await;
    bench.close();
    let of_2 = "(SELECT min(seq) FROM events WHERE operation LIKE '%02')";
    for (done, finding) in [
        ("UPDATE operations SET record = replace(record, '\"REFUSED\"', '\"SUCCEEDED\"')", "03"),
        ("UPDATE operations SET record = replace(record, '443', '22') WHERE id LIKE '%02'", "02"),
        ("UPDATE operations SET record = 'x' WHERE id LIKE '%02'", "02 cannot be read"),
        ("UPDATE operations SET state = 'RELEASED' WHERE id LIKE '%02'", "searched of"),
        ("UPDATE operations SET caller = 'eve' WHERE id LIKE '%02'", "searched of"),
        ("UPDATE operations SET freed = rowid WHERE id LIKE '%01'", "searched of"),
        ("UPDATE operations SET fence = 9 WHERE id LIKE '%01'", "searched of"),
        ("UPDATE operations SET key_hash = NULL WHERE id LIKE '%01'", "searched of"),
        (
            "UPDATE operations SET first = (SELECT max(seq) FROM events WHERE operation NOT LIKE '%01'
                AND seq NOT IN (SELECT first FROM operations)) WHERE id LIKE '%01'",
            "searched of",
        ),
        ("UPDATE operations SET held_until = 0 WHERE id LIKE '%01'", "searched of"),
        ("DELETE FROM operations WHERE id LIKE '%02'", "02 is missing"),
        ("DELETE FROM events WHERE seq = 3", "events 3 to 3 are missing"),
        (&format!("UPDATE events SET version = 7 WHERE seq = {of_2}"), "does not fit"),
        (&format!("UPDATE events SET at = 7 WHERE seq = {of_2}"), "does not fit"),
        (&format!("UPDATE events SET kind = 'SWEPT' WHERE seq = {of_2}"), "does not fit"),
        (
            "UPDATE events SET seq = -1 WHERE seq = 2; UPDATE events SET seq = 2 WHERE seq = 3;
             UPDATE events SET seq = 3 WHERE seq = -1",
            "does not fit",
        ),
        (
            "DELETE FROM operations WHERE id LIKE '%02'; DELETE FROM events WHERE operation LIKE '%02'",
            "are missing",
        ),
        (
            "UPDATE operations SET (record, event) = (SELECT record, event FROM operations WHERE id LIKE '%03')
             WHERE id LIKE '%02'",
            "02 is not what was written",
        ),
        (
            "INSERT INTO operations SELECT 99999, 'op-x', scope, caller, NULL, NULL, 0, 'g', account, region, state, fence,
             version, created, held_until, settled, 99999, record FROM operations WHERE id LIKE '%02'",
            "op-x is not what was written",
        ),
        ("UPDATE anchor SET hash = randomblob(32)", "event 1"),
    ] {
        let copy = bench.folder.join("copy.db");
        std::fs::copy(bench.path(), &copy).unwrap();
        rusqlite::Connection::open(&copy).unwrap().execute_batch(done).unwrap();
        let findings = Archive::open(&copy).unwrap().verify().unwrap().findings;
        assert!(findings.iter().any(|found| found.contains(finding)), "{done}: {findings:?}");
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(bench.folder.join(&format!("copy.db{end}")));
        }
    }
    assert_eq!(Archive::open(&bench.path()).unwrap().verify().unwrap().findings, [""; 0]);
}

/// Makes the chain fit what stands there: as if it had been written so.
fn chain_again(conn: &Connection) {
    let records: Vec<(i64, String)> = conn
        .prepare("SELECT event, record FROM operations")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for (event, record) in records {
        let sql = "UPDATE events SET digest = ?2 WHERE seq = ?1";
        conn.execute(sql, (event, digest(&record))).unwrap();
    }
    let events: Vec<(i64, Event)> = conn
        .prepare("SELECT seq, operation, version, kind, at, digest FROM events ORDER BY seq")
        .unwrap()
        .query_map([], |row| {
            let number = |at| row.get::<_, i64>(at).map(|number| number.try_into().unwrap());
            let event = Event {
                operation: row.get(1)?,
                version: number(2)?,
                kind: row.get(3)?,
                at: number(4)?,
                digest: row.get(5)?,
            };
            Ok((row.get(0)?, event))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut head: Hash = conn.query_row("SELECT hash FROM anchor", [], |row| row.get(0)).unwrap();
    for (seq, event) in events {
        head = event.hash(&head);
        conn.execute("UPDATE events SET hash = ?2 WHERE seq = ?1", (seq, head)).unwrap();
    }
}

#[tokio::test]
async fn what_was_written_wrong_is_found_although_the_chain_fits() {
    let mut bench = InFile::new(true);
    some(&mut bench).await;
    bench.close();
    let first = |n: &str| format!("(SELECT min(seq) FROM events WHERE operation LIKE '%{n}')");
    let last = |n: &str| format!("(SELECT max(seq) FROM events WHERE operation LIKE '%{n}')");
    let swept = |n: &str| {
        format!(
            "INSERT INTO events SELECT (SELECT max(seq) FROM events) + 1, id, version, 'SWEPT', 0, zeroblob(32), zeroblob(32)
             FROM operations WHERE id LIKE '%{n}';"
        )
    };
    let version = |n: u32| {
        format!(
            "UPDATE events SET version = {n} WHERE seq = {};
             UPDATE operations SET version = {n}, record = json_set(record, '$.version', {n}) WHERE id LIKE '%02'",
            last("02")
        )
    };
    for (done, finding) in [
        (
            "UPDATE operations SET record = json_set(record, '$.answer', json('null')) WHERE id LIKE '%02'"
                .to_owned(),
            "02: it is final and has no answer: SUCCEEDED",
        ),
        (
            "UPDATE operations SET settled = NULL, record = json_set(record, '$.settled_at', json('null'))
             WHERE id LIKE '%03'"
                .to_owned(),
            "03: when it was settled does not go with its state: REFUSED",
        ),
        (
            format!("UPDATE events SET kind = 'SUCCEEDED' WHERE seq = {}", first("03")),
            "03: version 2 went from SUCCEEDED to REFUSED, and there is no such move",
        ),
        (
            format!("UPDATE events SET kind = 'RELEASED' WHERE seq = {}", first("03")),
            "03: it began RELEASED",
        ),
        (
            format!("UPDATE events SET kind = 'DONE' WHERE seq = {}", first("03")),
            "03: an event says DONE, which is no state",
        ),
        (
            format!("UPDATE events SET kind = 'REFUSED' WHERE seq = {}", last("02")),
            "02: it is SUCCEEDED, and was REFUSED when it was written last",
        ),
        (version(3), "02: version 3 was written after 1"),
        (version(1), "02: version 1 was written twice"),
        (
            format!(
                "UPDATE operations SET event = {}, state = 'IN_PROGRESS', version = 1, settled = NULL,
                    record = json_set(record, '$.state', 'IN_PROGRESS', '$.version', 1, '$.settled_at', json('null'),
                        '$.settled_by', json('null'), '$.answer', json('null')) WHERE id LIKE '%02'",
                first("02")
            ),
            "02: it is version 1, and 2 was written last",
        ),
        (
            format!("{} DELETE FROM operations WHERE id LIKE '%05'", swept("05")),
            "05: it was swept while it was IN_DOUBT",
        ),
        (swept("02"), "02: it is there although it was swept: SUCCEEDED"),
        (
            "DROP INDEX one_per_key;
             UPDATE operations SET key = 'k2', record = json_set(record, '$.key', 'k2'),
                key_hash = (SELECT key_hash FROM operations WHERE key = 'k2') WHERE id LIKE '%08'"
                .to_owned(),
            "08: both have the same key of the same caller",
        ),
        (
            "DROP INDEX one_unsettled_per_group;
             UPDATE operations SET (grp, record) = (SELECT o.grp, json_set(operations.record, '$.group', o.grp)
                FROM operations AS o WHERE o.id LIKE '%01') WHERE id LIKE '%05'"
                .to_owned(),
            "05: both are unsettled, and of the same group",
        ),
    ] {
        let copy = bench.folder.join("copy.db");
        std::fs::copy(bench.path(), &copy).unwrap();
        let conn = Connection::open(&copy).unwrap();
        conn.execute_batch(&done).unwrap();
        chain_again(&conn);
        drop(conn);
        let findings = Archive::open(&copy).unwrap().verify().unwrap().findings;
        // What follows an event that says nothing may not fit either.
        let found = findings.first().is_some_and(|found| found.ends_with(finding));
        assert!(found && findings.len() <= 2, "{done}: {findings:?}");
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(bench.folder.join(&format!("copy.db{end}")));
        }
    }
}

#[tokio::test]
async fn what_is_swept_leaves_a_chain_that_proves_the_rest() {
    let mut bench = InFile::new(false);
    let ledger = bench.ledger();
    let unresolved = in_state(&ledger, &intent(1), State::Unresolved).await;
    let mut longest = 0;
    let mut n = 1;
    for day in 1..=300 {
        for _ in 0..3 {
            n += 1;
            in_state(&ledger, &intent(n), State::Succeeded).await;
        }
        bench.advance(DAY).await;
        while ledger.sweep(2).await.unwrap() > 0 {}
        if day % 30 != 0 {
            continue;
        }
        let verified = bench.sqlite().verify().await.unwrap();
        assert_eq!(verified.findings, [""; 0]);
        longest = longest.max(verified.events);
    }
    let kept = TERMS.record_retention.as_secs() / DAY.as_secs() * 3;
    assert_eq!(bench.sqlite().verify().await.unwrap().records, kept - 3 + 1);
    // Two events of each record that is kept, and one of each that was swept in as long a time again.
    assert!((2 * kept..4 * kept).contains(&longest), "{longest} events");
    assert_eq!(stored(&ledger, &unresolved.id).await, Some(unresolved.clone()));
    drop(ledger);
    bench.reopen().await;
    bench.close();
    let raw = bench.raw();
    let events = "SELECT count(*) FROM events WHERE operation = ?1";
    let proofs: u32 = raw.query_row(events, [&unresolved.id], |row| row.get(0)).unwrap();
    assert_eq!(proofs, 1, "its last event goes on with the chain");
    raw.execute("DELETE FROM operations WHERE id = ?1", [&unresolved.id]).unwrap();
    let findings = Archive::open(&bench.path()).unwrap().verify().unwrap().findings;
    assert_eq!(
        findings,
        [format!("the record of {} is missing, and was not swept", unresolved.id)]
    );
}
