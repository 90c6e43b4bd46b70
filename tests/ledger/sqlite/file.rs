//! The file: whose it is, what it refuses to be, and who may use it at the same time.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::Arc,
};

use portcullis::{
    clock::ManualClock,
    ledger::{
        Filter, Ledger, State,
        sqlite::{Archive, Cause, OpenError, Sqlite},
    },
};
use tokio::task::JoinSet;

use super::{BACKEND, Bench, InFile};
use crate::{
    folder::Folder,
    suite::{self, TERMS, all, comes, id, ids, in_state, intent, keyed, look, poll_once, write},
};

fn open(path: &Path) -> Result<Sqlite, OpenError> {
    let clock = Arc::new(ManualClock::new(suite::start()));
    Sqlite::open(path, BACKEND, suite::TERMS, clock)
}

/// Whether another process gets the lock.
fn is_free(path: &Path) -> bool {
    let mut lock = path.to_owned().into_os_string();
    lock.push(".lock");
    let flock = Command::new("flock").arg("--nonblock").arg(lock).arg("true").status();
    flock.expect("flock, of util-linux").success()
}

#[tokio::test]
async fn it_is_one_process_s() {
    let mut bench = InFile::new(true);
    let link = bench.folder.join("link.db");
    std::os::unix::fs::symlink(bench.path(), &link).unwrap();
    for path in [bench.path(), link] {
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused.cause, Cause::InUse), "{refused}");
        let text = refused.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains("another process"),
            "{text}"
        );
    }
    assert!(!is_free(&bench.path()));
    write(&bench.ledger(), &intent(1)).await;
    bench.close();
    assert!(is_free(&bench.path()));
    bench.open().unwrap();
}

#[tokio::test]
async fn what_is_made_is_nobody_elses() {
    let folder = Folder::new();
    let path = folder.join("deep/er/ledger.db");
    let ledger: Arc<dyn Ledger> = Arc::new(open(&path).unwrap());
    write(&ledger, &intent(1)).await;
    all(&ledger).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut files = 0;
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = entry.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{file:?}");
        files += 1;
    }
    assert_eq!(files, 4, "the file, its WAL, its index, its lock");
    for made in ["deep", "deep/er"] {
        assert_eq!(mode(&folder.join(made)), 0o700, "{made}");
    }
}

#[tokio::test]
async fn it_is_bound_to_its_backend() {
    let mut bench = InFile::new(true);
    bench.close();
    let clock = Arc::new(bench.clock.clone());
    let other = Sqlite::open(&bench.path(), "sandbox", suite::TERMS, clock).unwrap_err();
    assert!(matches!(other.cause, Cause::OtherBackend(..)), "{other}");
    assert!(other.to_string().contains(BACKEND) && other.to_string().contains("`sandbox`"));
    bench.open().unwrap();
}

#[tokio::test]
async fn what_is_not_a_ledger_is_left_alone() {
    let folder = Folder::new();
    let foreign = folder.join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let text = folder.join("text.db");
    fs::write(&text, "not a database, but longer than its header would be\n".repeat(100)).unwrap();
    for path in [foreign, text] {
        let before = fs::read(&path).unwrap();
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused.cause, Cause::NotALedger(_)), "{refused}");
        assert!(Archive::open(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    let refused = open(&folder.join("")).unwrap_err();
    assert!(matches!(refused.cause, Cause::Io(..) | Cause::Sqlite(_)), "{refused}");
    fs::write(folder.join("empty.db"), "").unwrap();
    let ledger = open(&folder.join("empty.db")).unwrap();
    ledger.check().await.unwrap();
}

#[tokio::test]
async fn a_schema_that_is_not_ours_is_refused() {
    let mut bench = InFile::new(true);
    write(&bench.ledger(), &intent(1)).await;
    bench.close();
    for (version, newer) in [("3", true), ("99", true), ("0", false), ("one", false), ("", false)] {
        let sql = "UPDATE meta SET value = ?1 WHERE name = 'schema'";
        bench.raw().execute(sql, [version]).unwrap();
        let refused = bench.open().unwrap_err();
        match &refused.cause {
            Cause::Newer(found, 2) => assert!(newer && found == version, "{refused}"),
            Cause::NotALedger(_) => assert!(!newer, "{refused}"),
            _ => panic!("{refused}"),
        }
    }
    bench.raw().execute("UPDATE meta SET value = '2' WHERE name = 'schema'", []).unwrap();
    bench.open().unwrap();
    assert_eq!(all(&bench.ledger()).await, [id(1)]);
}

/// Makes of a file what the first version of the schema had been.
const AS_VERSION_1: &str = "
    DROP INDEX operations_by_id; DROP INDEX one_per_key; DROP INDEX one_unsettled_per_group; DROP INDEX operations_by_era;
    DROP INDEX operations_by_state;
    ALTER TABLE operations RENAME TO now;
    CREATE TABLE operations (id TEXT NOT NULL, scope TEXT NOT NULL, caller TEXT NOT NULL, key TEXT, freed INTEGER NOT NULL,
        grp TEXT NOT NULL, account TEXT NOT NULL, region TEXT NOT NULL, state TEXT NOT NULL, fence INTEGER NOT NULL,
        version INTEGER NOT NULL, created INTEGER NOT NULL, held_until INTEGER NOT NULL, settled INTEGER,
        event INTEGER NOT NULL, record TEXT NOT NULL);
    INSERT INTO operations SELECT id, scope, caller, key, freed, grp, account, region, state, fence, version, created,
        held_until, settled, event, record FROM now ORDER BY id;
    UPDATE operations SET freed = rowid WHERE freed <> 0;
    DROP TABLE now;
    CREATE UNIQUE INDEX operations_by_id ON operations (id);
    CREATE UNIQUE INDEX one_per_key ON operations (key, caller, scope, freed) WHERE key IS NOT NULL;
    CREATE UNIQUE INDEX one_unsettled_per_group ON operations (grp) WHERE state IN ('IN_PROGRESS', 'IN_DOUBT');
    CREATE INDEX operations_by_caller ON operations (caller, id);
    CREATE INDEX operations_by_group ON operations (grp, id);
    CREATE INDEX operations_by_account ON operations (account, region, id);
    CREATE INDEX operations_by_state ON operations (state, id) WHERE state IN ('REFUSED', 'RELEASED', 'UNRESOLVED');
    CREATE INDEX operations_by_created ON operations (created);
    UPDATE meta SET value = '1' WHERE name = 'schema';
";

#[tokio::test]
async fn a_file_of_the_first_schema_is_brought_up_to_date() {
    for damage in [
        "",
        // Its events are gone.
        "DELETE FROM events WHERE operation LIKE '%1'",
        // It was said again, long after it was created.
        "UPDATE events SET at = at + 1, seq = seq + 100 WHERE operation LIKE '%1'",
    ] {
        first_schema(damage).await;
    }
}

async fn first_schema(damage: &str) {
    let mut bench = InFile::new(true);
    let ledger = bench.ledger();
    in_state(&ledger, &keyed(1, "k"), State::Succeeded).await;
    bench.advance(TERMS.key_retention).await;
    // The key is the next one's.
    let unsettled = write(&ledger, &keyed(2, "k")).await;
    in_state(&ledger, &intent(3), State::Refused).await;
    let before = [3, 2, 1].map(id);
    assert_eq!(all(&ledger).await, before);
    drop(ledger);
    bench.close();
    bench.raw().execute_batch(&format!("{AS_VERSION_1} {damage}")).unwrap();
    assert!(Archive::open(&bench.path()).is_err(), "it is not to be changed");
    bench.open().unwrap();
    let ledger = bench.ledger();
    assert_eq!(all(&ledger).await, before);
    assert_eq!(look(&ledger, &keyed(2, "k")).await.by_key, Some(unsettled.clone()));
    let of_caller = Filter {
        caller: Some(unsettled.caller.clone()),
        key: Some("k".to_owned()),
        limit: 9,
        ..Filter::default()
    };
    assert_eq!(ids(&ledger, of_caller).await, [id(2), id(1)]);
    write(&ledger, &keyed(4, "k4")).await;
    drop(ledger);
    bench.close();
    let order =
        "SELECT group_concat(substr(id, -1), '') FROM (SELECT id FROM operations ORDER BY first)";
    let order: String = bench.raw().query_row(order, [], |row| row.get(0)).unwrap();
    assert_eq!(order, "1234", "{damage}");
    let findings = Archive::open(&bench.path()).unwrap().verify().unwrap().findings;
    assert_eq!(findings.is_empty(), damage.is_empty(), "{findings:?}");
}

#[tokio::test]
async fn what_waits_is_one_commit_and_readers_do_not_wait() {
    let bench = InFile::new(true);
    let ledger = bench.ledger();
    write(&ledger, &intent(1)).await;
    let before = bench.sqlite().written();
    let intents: Vec<_> = (2..=65).map(intent).collect();
    let mut waiting: Vec<_> = intents.iter().map(|intent| ledger.intend(intent)).collect();
    // Nobody can write meanwhile.
    let raw = bench.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    for intended in &mut waiting {
        assert!(poll_once(intended.as_mut()).await.is_none());
    }
    assert_eq!(comes(look(&ledger, &intent(1))).await.unsettled.unwrap().id, id(1));
    assert_eq!(comes(all(&ledger)).await, [id(1)]);
    for intended in &mut waiting {
        assert!(poll_once(intended.as_mut()).await.is_none(), "it was not committed");
    }
    raw.execute_batch("ROLLBACK").unwrap();
    for intended in waiting {
        comes(intended).await.unwrap();
    }
    let after = bench.sqlite().written();
    assert_eq!(after.0 - before.0, 64);
    assert!(after.1 - before.1 <= 2, "{} commits", after.1 - before.1);
    assert_eq!(all(&ledger).await.len(), 65);
}

#[tokio::test]
async fn it_can_be_copied_while_it_is_used() {
    let bench = InFile::new(true);
    let ledger = bench.ledger();
    for n in 1..=20 {
        in_state(&ledger, &intent(n), State::Succeeded).await;
    }
    let copy = bench.folder.join("copy.db");
    bench.raw().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    write(&ledger, &intent(21)).await;
    let everything = Filter { limit: 100, before: Some(id(21)), ..Filter::default() };
    let copied = open(&copy).unwrap();
    let records = copied.list(&everything).await.unwrap();
    assert_eq!(records, ledger.list(&everything).await.unwrap());
    assert_eq!(copied.verify().await.unwrap().findings, [""; 0]);
}

#[tokio::test]
async fn the_wal_is_copied_and_begins_again_while_calls_go_on() {
    // What the writer copies itself is longer.
    const LONGEST: u64 = 8000 * (24 + 4096);
    let bench = InFile::new(true);
    let ledger = bench.ledger();
    let wal = bench.folder.join("ledger.db-wal");
    // How often it began again stands in its header.
    let begun_again = || {
        let mut header = [0; 16];
        File::open(&wal).unwrap().read_exact(&mut header).unwrap();
        u32::from_be_bytes(header[12..].try_into().unwrap())
    };
    let mut written = 0;
    while begun_again() < 2 {
        let mut calls = JoinSet::new();
        for n in written..written + 64 {
            let ledger = ledger.clone();
            calls.spawn(async move { write(&ledger, &intent(n)).await });
        }
        calls.join_all().await;
        written += 64;
        assert!(fs::metadata(&wal).unwrap().len() < LONGEST, "{written} written");
    }
}
