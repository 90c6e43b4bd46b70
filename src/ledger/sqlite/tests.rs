//! What cannot be seen from outside: how lists search, and a writer that dies.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::{
    cell::Cell,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rusqlite::{Statement, StatementStatus};

use super::*;
use crate::{clock::ManualClock, ledger::State};

thread_local! {
    /// Instructions that the statements of lists took.
    static STEPS: Cell<i32> = const { Cell::new(0) };
}

pub(super) fn note_steps(statement: &Statement<'_>) {
    STEPS.set(STEPS.get() + statement.reset_status(StatementStatus::VmStep));
}

struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let name = format!("portcullis-sqlite-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name).join("ledger.db"))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn terms() -> Terms {
    let day = Duration::from_secs(86_400);
    Terms { key_retention: day, record_retention: 90 * day }
}

fn start_of_tests() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

#[tokio::test]
async fn a_writer_that_dies_is_followed_by_another() {
    let file = File::new("dies");
    let clock = Arc::new(ManualClock::new(start_of_tests()));
    let ledger = Sqlite::open(&file.0, "b", terms(), clock).unwrap();
    ledger.check().await.unwrap();
    let dies = ledger
        .write(|tables| -> Result<(), Fault> {
            tables.conn.execute("DELETE FROM meta", [])?;
            panic!("as if there were a mistake")
        })
        .await;
    assert!(matches!(dies, Err(LedgerError::Unavailable(_))), "{dies:?}");
    // The queue closes as the thread unwinds; whoever comes before that is told.
    while let Err(error) = ledger.check().await {
        assert!(matches!(error, LedgerError::Unavailable(_)));
    }
    assert_eq!(ledger.verify().await.unwrap().findings, [""; 0]);
}

#[tokio::test]
async fn what_fails_is_undone_whole_and_alone() {
    let file = File::new("undone");
    let clock = Arc::new(ManualClock::new(start_of_tests()));
    let ledger = Sqlite::open_replayable(&file.0, "b", terms(), clock).unwrap();
    let writes = |name: &'static str, fails: bool| {
        move |tables: &mut Tables<'_>| {
            tables.conn.execute("INSERT INTO meta (name, value) VALUES (?1, '')", [name])?;
            let refused = || LedgerError::Forbidden("as if it were not allowed".to_owned());
            if fails { Err(refused().into()) } else { Ok(()) }
        }
    };
    // Three that wait, so one transaction.
    let (calls, answers): (Vec<Box<dyn Job>>, Vec<_>) =
        [("one", false), ("two", true), ("three", false)]
            .map(|(name, fails)| Call::boxed(writes(name, fails)))
            .into_iter()
            .unzip();
    let mut calls = calls.into_iter();
    let Driver::Caller(writer) = &ledger.driver else { panic!() };
    writer.lock().unwrap().commit(calls.next().unwrap(), || calls.next());
    let mut failed = Vec::new();
    for answer in answers {
        failed.push(answer.await.unwrap().is_err());
    }
    assert_eq!((failed, ledger.written()), (vec![false, true, false], (3, 1)));
    let count = "SELECT count(*) FROM meta WHERE name IN ('one', 'two', 'three')";
    let left =
        ledger.write(move |t| Ok(t.conn.query_row(count, [], |row| row.get::<_, i64>(0))?)).await;
    assert_eq!(left.unwrap(), 2);
}

#[tokio::test]
async fn no_filter_reads_records_that_it_does_not_want() {
    let file = File::new("filters");
    let clock = ManualClock::new(start_of_tests());
    let ledger = Sqlite::open_replayable(&file.0, "b", terms(), Arc::new(clock.clone())).unwrap();
    for n in 0..2000 {
        // One in 500 is wanted, and the newest are not.
        let odd = n % 500 == 0;
        let text = |name: &str| if odd { format!("odd {name}") } else { name.to_owned() };
        let intent = Intent {
            id: format!("op-{n:08}"),
            fence: 0,
            scope: "s".into(),
            caller: text("caller"),
            key: crate::ledger::Key::parse(&format!("k{n}")),
            fingerprint: "f".into(),
            method: "m".into(),
            account: text("account"),
            region: "r".into(),
            group: if odd { "odd group".into() } else { format!("g{n}") },
            request: serde_json::Value::Null,
            plan: crate::ledger::Plan::Create { group: Default::default() },
            change_reason: None,
            trace_id: None,
            hold: Duration::from_secs(60),
            conclusion: None,
        };
        let Intended::Written(record) = ledger.intend(&intent).await.unwrap() else { panic!() };
        let end = if odd { State::Refused } else { State::Succeeded };
        ledger.advance(&record.id, 1, &Move::to(end)).await.unwrap();
        clock.advance(Duration::from_secs(1));
    }
    let base = || Filter { limit: 10, ..Filter::default() };
    let some = |text: &str| Some(text.to_owned());
    let early = start_of_tests() + Duration::from_secs(3);
    for (filter, found) in [
        (base(), 10),
        (Filter { before: some("op-00001000"), ..base() }, 10),
        (Filter { id: some("op-00000007"), ..base() }, 1),
        (Filter { caller: some("odd caller"), ..base() }, 4),
        (Filter { caller: some("caller"), ..base() }, 10),
        (Filter { caller: some("caller"), key: some("k7"), ..base() }, 1),
        (Filter { key: some("k7"), ..base() }, 1),
        (Filter { group: some("odd group"), ..base() }, 4),
        (Filter { account: some("odd account"), ..base() }, 4),
        (Filter { account: some("odd account"), region: some("r"), ..base() }, 4),
        (Filter { states: vec![State::Refused], ..base() }, 4),
        (Filter { states: vec![State::Refused, State::Succeeded], ..base() }, 10),
        (Filter { states: vec![State::InProgress, State::InDoubt], ..base() }, 0),
        (Filter { since: Some(start_of_tests()), until: Some(early), ..base() }, 3),
    ] {
        STEPS.set(0);
        assert_eq!(ledger.list(&filter).await.unwrap().len(), found, "{filter:?}");
        let steps = STEPS.get();
        // A record that is looked at takes about ten.
        assert!(steps < 500, "{steps} steps for {filter:?}");
    }
}
