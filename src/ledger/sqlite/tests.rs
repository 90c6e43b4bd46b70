//! What cannot be seen from outside: how lists search, and a writer that dies.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    clock::ManualClock,
    ledger::{SettledBy, State},
};

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
    for _ in 0..200 {
        let dies = ledger
            .write(|tables| -> Result<(), Fault> {
                tables.conn.execute("DELETE FROM meta", [])?;
                panic!("as if there were a mistake")
            })
            .await;
        assert!(matches!(dies, Err(LedgerError::Unavailable(_))), "{dies:?}");
        // The queue closes as the thread unwinds; whoever comes before that is told, also who comes while it closes: the
        // queue keeps what is put into it then.
        let back = async {
            while let Err(error) = ledger.check().await {
                assert!(matches!(error, LedgerError::Unavailable(_)));
            }
        };
        tokio::time::timeout(Duration::from_secs(60), back).await.expect("an answer");
    }
    assert_eq!(ledger.verify().await.unwrap().findings, [""; 0]);
}

#[tokio::test]
async fn what_fails_is_undone_whole_and_alone() {
    // Wherever it stands: the first one has no savepoint.
    for failing in 0..3 {
        let file = File::new(&format!("undone-{failing}"));
        let clock = Arc::new(ManualClock::new(start_of_tests()));
        let ledger = Sqlite::open_replayable(&file.0, "b", terms(), clock).unwrap();
        let writes = |n: usize| {
            move |tables: &mut Tables<'_>| {
                let sql = "INSERT INTO meta (name, value) VALUES (?1, '')";
                tables.conn.execute(sql, [format!("job {n}")])?;
                let refused = || LedgerError::Forbidden("as if it were not allowed".to_owned());
                if n == failing { Err(refused().into()) } else { Ok(()) }
            }
        };
        // Three that wait, so one transaction.
        let (calls, answers): (Vec<Box<dyn Job>>, Vec<_>) =
            [0, 1, 2].map(|n| Call::boxed(writes(n))).into_iter().unzip();
        let mut calls = calls.into_iter();
        let Driver::Caller(writer) = &ledger.driver else { panic!() };
        writer.lock().unwrap().commit(calls.next().unwrap(), || calls.next());
        let mut failed = Vec::new();
        for answer in answers {
            failed.push(answer.await.unwrap().is_err());
        }
        let expected: Vec<bool> = (0..3).map(|n| n == failing).collect();
        assert_eq!((failed, ledger.written()), (expected, (3, 1)));
        let names = "SELECT group_concat(name, ', ') FROM (SELECT name FROM meta WHERE name LIKE 'job %' ORDER BY name)";
        let left = ledger
            .write(move |t| Ok(t.conn.query_row(names, [], |row| row.get::<_, String>(0))?))
            .await;
        let kept: Vec<String> =
            (0..3).filter(|n| *n != failing).map(|n| format!("job {n}")).collect();
        assert_eq!(left.unwrap(), kept.join(", "));
    }
}

/// A record in a state of its own, `odd` or as all others.
fn some(n: u64, odd: bool) -> Intent {
    let text = |name: &str| if odd { format!("odd {name}") } else { name.to_owned() };
    Intent {
        id: format!("op-{n:08}"),
        fence: 0,
        scope: "s".into(),
        caller: text("caller"),
        key: crate::ledger::Key::parse(&format!("k{n}")),
        fingerprint: "f".into(),
        method: "m".into(),
        account: text("account"),
        region: text("region"),
        group: if odd { "odd group".into() } else { format!("g{n}") },
        request: serde_json::Value::Null,
        plan: crate::ledger::Plan::Create { group: Default::default() },
        change_reason: None,
        trace_id: None,
        hold: Duration::from_secs(60),
        conclusion: None,
    }
}

/// What a list finds, how often it gives the connection back, and the most instructions until it does.
fn searched(file: &File, filter: &Filter) -> (Vec<Record>, usize, i32) {
    let mut search = lists::Search::new(filter.clone());
    let conn = schema::open_reader(&file.0).unwrap();
    let (mut turns, mut most) = (1, 0);
    loop {
        match search.go_on(&conn).unwrap() {
            (Ok(found), steps) => return (found, turns, most.max(steps)),
            (Err(unfinished), steps) => {
                (search, turns, most) = (unfinished, turns + 1, most.max(steps));
            }
        }
    }
}

#[tokio::test]
async fn no_filter_reads_records_that_it_does_not_want() {
    let file = File::new("filters");
    let clock = ManualClock::new(start_of_tests());
    let ledger = Sqlite::open_replayable(&file.0, "b", terms(), Arc::new(clock.clone())).unwrap();
    for n in 0..2000 {
        // One in 500 is wanted, and the newest are not.
        let odd = n % 500 == 0;
        let Intended::Written(record) = ledger.intend(&some(n, odd)).await.unwrap() else {
            panic!()
        };
        let end = if odd { State::Refused } else { State::Succeeded };
        ledger.advance(&record.id, 1, &Move::to(end)).await.unwrap();
        clock.advance(Duration::from_secs(60));
    }
    let base = || Filter { limit: 10, ..Filter::default() };
    let some = |text: &str| Some(text.to_owned());
    let at = |minute: u64| Some(start_of_tests() + Duration::from_secs(60 * minute));
    for (filter, found) in [
        (base(), 10),
        (Filter { before: some("op-00001000"), ..base() }, 10),
        (Filter { id: some("op-00000007"), ..base() }, 1),
        (Filter { caller: some("odd caller"), ..base() }, 4),
        (Filter { caller: some("caller"), ..base() }, 10),
        (Filter { caller: some("caller"), before: some("op-00000100"), ..base() }, 10),
        (Filter { caller: some("caller"), key: some("k7"), ..base() }, 1),
        (Filter { group: some("odd group"), ..base() }, 4),
        (Filter { account: some("odd account"), ..base() }, 4),
        (Filter { account: some("account"), ..base() }, 10),
        (Filter { account: some("odd account"), region: some("odd region"), ..base() }, 4),
        (Filter { account: some("account"), region: some("odd region"), ..base() }, 0),
        (Filter { region: some("odd region"), ..base() }, 4),
        (Filter { region: some("region"), ..base() }, 10),
        (Filter { region: some("nowhere"), ..base() }, 0),
        (Filter { region: some("nowhere"), states: vec![State::Succeeded], ..base() }, 0),
        (Filter { states: vec![State::Refused], ..base() }, 4),
        (Filter { states: vec![State::Refused, State::Succeeded], ..base() }, 10),
        (Filter { states: vec![State::InProgress, State::InDoubt], ..base() }, 0),
        (Filter { since: at(0), until: at(3), ..base() }, 3),
        (Filter { since: at(1), ..base() }, 10),
        (Filter { until: at(3), ..base() }, 3),
        (Filter { since: at(5000), ..base() }, 0),
        (Filter { since: at(100), until: at(1000), ..base() }, 10),
    ] {
        assert_eq!(ledger.list(&filter).await.unwrap().len(), found, "{filter:?}");
        let (again, turns, steps) = searched(&file, &filter);
        assert_eq!((again.len(), turns), (found, 1), "{filter:?}");
        // A record that is looked at takes about ten: none but those that are found, if an index has them in order; an
        // hour's, where ids are bounded by time; one caller's of the newest era; the newest 320, and then the index of all
        // eras and not their records.
        let Filter { caller, key, group, account, region, until, .. } = &filter;
        let most = match filter {
            _ if key.is_some() => 900,
            _ if *until == at(1000) || caller.is_some() => 10_000,
            _ if [group, account, region].iter().any(|text| text.is_some()) => 22_000,
            _ => 900,
        };
        assert!(steps < most, "{steps} steps for {filter:?}");
    }
}

#[tokio::test]
async fn what_no_index_serves_is_searched_slice_by_slice_and_found_all_the_same() {
    let file = File::new("slices");
    let clock = ManualClock::new(start_of_tests());
    let ledger = Sqlite::open_replayable(&file.0, "b", terms(), Arc::new(clock)).unwrap();
    let count = 5 * 4096;
    for n in 0..count {
        let mut intent = some(n, n % 2 == 0);
        // Of the odd caller's, all but two are in an account that is not odd.
        if n != 6 && n != 4000 {
            intent.account = "account".to_owned();
        }
        if n == 0 {
            // Its call took long to come so far, and no clock has gone on.
            intent.id = "op-99999999".to_owned();
        }
        intent.group = format!("g{n}");
        let answer = crate::ledger::Recorded { code: 0, message: String::new(), body: vec![] };
        intent.conclusion = Some((State::Succeeded, answer, SettledBy::Ec2Answer));
        ledger.intend(&intent).await.unwrap();
    }
    let filter = Filter {
        caller: Some("odd caller".to_owned()),
        account: Some("odd account".to_owned()),
        limit: 10,
        ..Filter::default()
    };
    let (found, turns, most) = searched(&file, &filter);
    let ids: Vec<_> = found.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids, ["op-00004000", "op-00000006"]);
    assert!(turns > 1 && most < 60_000, "{turns} turns, {most} steps in one of them");
    for limit in [1, 2, 3] {
        let page = ledger.list(&Filter { limit, ..filter.clone() }).await.unwrap();
        assert_eq!(page, found[..limit.min(2)]);
    }
    // The newest eras fill the list, and the oldest has what is before them.
    let filter_of_caller =
        Filter { caller: Some("odd caller".to_owned()), limit: 2, ..Filter::default() };
    let newest = ledger.list(&filter_of_caller).await.unwrap();
    let ids_of_caller: Vec<_> = newest.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids_of_caller, ["op-99999999", &format!("op-{:08}", count - 2)]);
    // As long as it lasts, others read.
    let filter = Filter { before: Some(ids[0].to_owned()), ..filter };
    assert_eq!(ledger.list(&filter).await.unwrap(), found[1..]);
}

#[tokio::test]
async fn long_searches_do_not_keep_calls_waiting() {
    let file = File::new("searchers");
    let clock = Arc::new(ManualClock::new(start_of_tests()));
    let ledger = Arc::new(Sqlite::open(&file.0, "b", terms(), clock).unwrap());
    // As many as want to are at it.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let searches: Vec<_> = (0..8)
        .map(|_| {
            let (ledger, held) = (ledger.clone(), held.clone());
            tokio::spawn(async move {
                let wait = move |_: &_| {
                    let _ = held.lock().unwrap().recv();
                    Ok(())
                };
                ledger.shared.searchers.read(wait).await
            })
        })
        .collect();
    let question = Look {
        scope: "s".into(),
        caller: "c".into(),
        key: None,
        fingerprint: "f".into(),
        group: "g".into(),
    };
    while ledger.shared.searchers.is_free() {
        tokio::task::yield_now().await;
    }
    let calls = async {
        ledger.look(&question).await.unwrap();
        for short in [
            Filter { id: Some("op-1".into()), limit: 1, ..Filter::default() },
            Filter {
                group: Some("g".into()),
                caller: Some("c".into()),
                since: Some(start_of_tests()),
                limit: 1,
                ..Filter::default()
            },
            Filter { states: vec![State::InDoubt], limit: 1, ..Filter::default() },
        ] {
            ledger.list(&short).await.unwrap();
        }
    };
    // So long that only a wait for the searches fails.
    let done = tokio::time::timeout(Duration::from_secs(60), calls).await;
    assert!(done.is_ok(), "calls wait for searches");
    drop(hold);
    for search in searches {
        search.await.unwrap().unwrap();
    }
}
