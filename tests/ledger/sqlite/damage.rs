//! Full disks, damaged files and files that go away.

use std::fs;

use portcullis::ledger::{Intended, LedgerError, Move, State};

use super::{Bench, InFile};
use crate::suite::{all, id, in_state, intent, look, step, stored, to, write};

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    for with_thread in [true, false] {
        let mut bench = InFile::new(with_thread);
        let ledger = bench.ledger();
        let first = write(&ledger, &intent(1)).await;
        bench.sqlite().limit_pages(60).await.unwrap();
        let mut acknowledged = vec![id(1)];
        let full = loop {
            let n = acknowledged.len() as u64 + 1;
            match ledger.intend(&intent(n)).await {
                Ok(Intended::Written(record)) => acknowledged.push(record.id),
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
            assert!(n < 1000, "it was never full");
        };
        assert!(matches!(&full, LedgerError::Unavailable(why) if why.contains("full")), "{full:?}");
        assert!(acknowledged.len() > 5);
        // It stays full, whoever asks, and is read as before.
        let tasks: Vec<_> = (500..520)
            .map(|n| {
                let ledger = ledger.clone();
                tokio::spawn(async move { ledger.intend(&intent(n)).await })
            })
            .collect();
        for task in tasks {
            assert!(matches!(task.await.unwrap(), Err(LedgerError::Unavailable(_))));
        }
        acknowledged.reverse();
        assert_eq!(all(&ledger).await, acknowledged);
        assert!(look(&ledger, &intent(500)).await.unsettled.is_none());

        bench.sqlite().limit_pages(10_000).await.unwrap();
        write(&ledger, &intent(500)).await;
        step(&ledger, &first, &to(State::Succeeded)).await;
        drop(ledger);
        bench.reopen().await;
        acknowledged.insert(0, id(500));
        assert_eq!(all(&bench.ledger()).await, acknowledged);
        assert_eq!(bench.sqlite().verify().await.unwrap().findings, [""; 0]);
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_unavailable() {
    let mut bench = InFile::new(false);
    for n in 1..=60 {
        in_state(&bench.ledger(), &intent(n), State::Succeeded).await;
    }
    bench.close();
    let whole = fs::read(bench.path()).unwrap();
    let page = 4096;
    let mut seen = [0; 3];
    for damaged in 0..whole.len() / page {
        for (from, to, byte) in [(0, page, 0xa5), (0, 100, 0), (100, 140, 0xff), (0, page, 0)] {
            let mut bytes = whole.clone();
            bytes[damaged * page + from..damaged * page + to].fill(byte);
            fs::write(bench.path(), bytes).unwrap();
            seen[use_it(&mut bench).await] += 1;
        }
    }
    for length in [1, 100, page, whole.len() / 2, whole.len() - page, whole.len() - 1] {
        fs::write(bench.path(), &whole[..length]).unwrap();
        use_it(&mut bench).await;
    }
    assert!(seen.iter().all(|&count| count > 0), "refused, unavailable, unnoticed: {seen:?}");
    fs::write(bench.path(), whole).unwrap();
    bench.open().unwrap();
    assert_eq!(all(&bench.ledger()).await.len(), 60);
}

/// 0: refused, 1: some call was unavailable or found nothing where something was, 2: unnoticed.
async fn use_it(bench: &mut InFile) -> usize {
    for end in ["-wal", "-shm"] {
        let mut path = bench.path().into_os_string();
        path.push(end);
        let _ = fs::remove_file(path);
    }
    let Err(refused) = bench.open() else {
        let ledger = bench.ledger();
        let mut failed = false;
        let mut note = |error: LedgerError| match error {
            LedgerError::Unavailable(why) => {
                assert!(why.contains("ledger.db"), "{why}");
                failed = true;
            }
            other => drop(other),
        };
        for n in [1, 30, 60, 61] {
            ledger.intend(&intent(n)).await.err().map(&mut note);
            ledger.advance(&id(n), 0, &Move::note("seen")).await.err().map(&mut note);
        }
        let filter = portcullis::ledger::Filter { limit: 100, ..Default::default() };
        ledger.list(&filter).await.err().map(&mut note);
        ledger.sweep(10).await.err().map(&mut note);
        ledger.check().await.err().map(&mut note);
        drop(ledger);
        let verified = bench.sqlite().verify().await;
        let clean = verified.is_ok_and(|verified| verified.findings.is_empty());
        bench.close();
        return if failed || !clean { 1 } else { 2 };
    };
    assert!(refused.to_string().contains("ledger.db"), "{refused}");
    0
}

#[tokio::test]
async fn a_file_that_goes_away_is_missed_until_it_is_back() {
    for with_thread in [true, false] {
        let mut bench = InFile::new(with_thread);
        let ledger = bench.ledger();
        let record = write(&ledger, &intent(1)).await;
        let away = bench.folder.join("away.db");
        fs::rename(bench.path(), &away).unwrap();
        for _ in 0..3 {
            let refused = ledger.intend(&intent(2)).await.unwrap_err();
            let LedgerError::Unavailable(why) = refused else { panic!("{refused:?}") };
            assert!(why.contains("ledger.db") && why.contains("it is gone"), "{why}");
        }
        assert!(!bench.path().exists(), "an empty ledger would have taken its place");

        // Another ledger in its place is not taken for it.
        fs::write(bench.path(), "").unwrap();
        let refused = ledger.advance(&record.id, record.fence, &to(State::Succeeded)).await;
        assert!(matches!(&refused, Err(LedgerError::Unavailable(_))), "{refused:?}");
        fs::remove_file(bench.path()).unwrap();

        fs::rename(&away, bench.path()).unwrap();
        // Attempts are spaced, a few seconds at most.
        let settled = loop {
            match ledger.advance(&record.id, record.fence, &to(State::Succeeded)).await {
                Ok(record) => break record,
                Err(LedgerError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        drop(ledger);
        bench.reopen().await;
        let ledger = bench.ledger();
        assert_eq!(stored(&ledger, &record.id).await, Some(settled));
        assert_eq!(all(&ledger).await, [id(1)]);
    }
}
