//! The schema, how it is made and recognised, and how connections are set up.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::{
    checkpoint,
    fault::{Cause, OpenError},
    tables::key_hash,
};

/// Says whose file it is: "PCLG".
const APPLICATION_ID: i64 = 0x5043_4c47;

/// Applied in order; the schema's version is how many of them were. `first` and `event` are the record's first and last
/// events: rows are in the order in which they were created. `freed` is 0 while the record has its key, which goes to the
/// next one when its retention is over, and else the row's own number.
///
/// The second one keeps every record of the first. Where the first event was forgotten and the last one said again, which is
/// later than its creation, the old row's number keeps its place: that is at most what its first event's was. One whose events
/// are gone stays for verifying to find.
///
/// Each index costs every operation a page or two in the WAL, and more the further apart the entries of one commit are.
/// So there are few. Keys are in theirs by a hash. What is created when is found by the order of rows. Most records, which
/// SUCCEEDED, are in no index of a state. All else that lists ask for is in one index by era, of 1024 events: only the newest
/// era's few pages are written.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

    CREATE TABLE operations (
        id TEXT NOT NULL,
        scope TEXT NOT NULL,
        caller TEXT NOT NULL,
        key TEXT,
        freed INTEGER NOT NULL,
        grp TEXT NOT NULL,
        account TEXT NOT NULL,
        region TEXT NOT NULL,
        state TEXT NOT NULL,
        fence INTEGER NOT NULL,
        version INTEGER NOT NULL,
        created INTEGER NOT NULL,
        held_until INTEGER NOT NULL,
        settled INTEGER,
        event INTEGER NOT NULL,
        record TEXT NOT NULL
    );
    CREATE UNIQUE INDEX operations_by_id ON operations (id);
    CREATE UNIQUE INDEX one_per_key ON operations (key, caller, scope, freed) WHERE key IS NOT NULL;
    CREATE UNIQUE INDEX one_unsettled_per_group ON operations (grp) WHERE state IN ('IN_PROGRESS', 'IN_DOUBT');
    CREATE INDEX operations_by_caller ON operations (caller, id);
    CREATE INDEX operations_by_group ON operations (grp, id);
    CREATE INDEX operations_by_account ON operations (account, region, id);
    CREATE INDEX operations_by_state ON operations (state, id) WHERE state IN ('REFUSED', 'RELEASED', 'UNRESOLVED');
    CREATE INDEX operations_by_created ON operations (created);

    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        operation TEXT NOT NULL,
        version INTEGER NOT NULL,
        kind TEXT NOT NULL,
        at INTEGER NOT NULL,
        digest BLOB NOT NULL,
        hash BLOB NOT NULL
    );
    CREATE TABLE anchor (seq INTEGER NOT NULL, hash BLOB NOT NULL);
    INSERT INTO anchor VALUES (0, zeroblob(32));
", "
    DROP INDEX operations_by_id;
    DROP INDEX one_per_key;
    DROP INDEX one_unsettled_per_group;
    DROP INDEX operations_by_caller;
    DROP INDEX operations_by_group;
    DROP INDEX operations_by_account;
    DROP INDEX operations_by_state;
    DROP INDEX operations_by_created;
    ALTER TABLE operations RENAME TO before;
    CREATE TABLE operations (
        first INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        scope TEXT NOT NULL,
        caller TEXT NOT NULL,
        key TEXT,
        key_hash BLOB,
        freed INTEGER NOT NULL,
        grp TEXT NOT NULL,
        account TEXT NOT NULL,
        region TEXT NOT NULL,
        state TEXT NOT NULL,
        fence INTEGER NOT NULL,
        version INTEGER NOT NULL,
        created INTEGER NOT NULL,
        held_until INTEGER NOT NULL,
        settled INTEGER,
        event INTEGER NOT NULL,
        record TEXT NOT NULL
    );
    INSERT INTO operations
        SELECT n.first, id, scope, caller, key, NULL, CASE freed WHEN 0 THEN 0 ELSE n.first END, grp, account, region,
            state, fence, version, created, held_until, settled, event, record
        FROM before JOIN (
            SELECT b.rowid AS row, CASE WHEN e.first IS NULL THEN b.event WHEN e.at = b.created THEN e.first ELSE b.rowid END
                AS first
            FROM before AS b LEFT JOIN (SELECT operation, min(seq) AS first, at FROM events GROUP BY operation) AS e
                ON e.operation = b.id) AS n ON n.row = before.rowid
        ORDER BY n.first;
    DROP TABLE before;
    CREATE UNIQUE INDEX operations_by_id ON operations (id);
    CREATE UNIQUE INDEX one_per_key ON operations (key_hash, freed) WHERE key_hash IS NOT NULL;
    CREATE UNIQUE INDEX one_unsettled_per_group ON operations (grp) WHERE state IN ('IN_PROGRESS', 'IN_DOUBT');
    CREATE INDEX operations_by_era ON operations (first >> 10, caller, grp, account, region, id);
    CREATE INDEX operations_by_state ON operations (state, id) WHERE state IN ('REFUSED', 'RELEASED', 'UNRESOLVED');
"];

/// The WAL is cut to so many bytes when it was longer.
const WAL_BYTES: u32 = 32 << 20;

/// KiB of pages that the writer and each reader keep. The indexes' last pages are what matters.
const WRITER_CACHE: i32 = 64 << 10;
const READER_CACHE: i32 = 8 << 10;

/// How long a connection waits for somebody with a shell on the file.
const BUSY: Duration = Duration::from_secs(2);

/// The one that writes. Looks at the header, the schema and who the file belongs to, and at nothing else: a start takes
/// the same time however much is in it.
pub(super) fn open_writer(
    path: &Path,
    backend: &str,
    durable: bool,
) -> Result<Connection, OpenError> {
    connect(path, backend, durable).map_err(|cause| OpenError { path: path.to_owned(), cause })
}

fn connect(path: &Path, backend: &str, durable: bool) -> Result<Connection, Cause> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    if recognise(&conn)? == 0 {
        // Only possible before the first table.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    let mode: String =
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Cause::NotALedger(format!("its journal is {mode}, and cannot be a WAL")));
    }
    conn.pragma_update(None, "synchronous", if durable { "FULL" } else { "OFF" })?;
    conn.pragma_update(None, "wal_autocheckpoint", checkpoint::PAGES)?;
    conn.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE)?;
    // What savepoints copy stays in memory: a batch bounds it.
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    migrate(&mut conn, backend)?;
    Ok(conn)
}

/// One that reads. It never waits for the writer, nor the writer for it.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let open = || -> Result<Connection, Cause> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(BUSY)?;
        conn.set_prepared_statement_cache_capacity(32);
        conn.pragma_update(None, "cache_size", -READER_CACHE)?;
        conn.pragma_update(None, "trusted_schema", false)?;
        let applied = recognise(&conn)?;
        if usize::try_from(applied) != Ok(MIGRATIONS.len()) {
            let old = format!("its schema is version {applied}: a server brings it up to date");
            return Err(Cause::NotALedger(old));
        }
        Ok(conn)
    };
    open().map_err(|cause| OpenError { path: path.to_owned(), cause })
}

/// One that copies the WAL into the file. The writer's connection was there before, and has looked at it.
pub(super) fn open_copier(path: &Path) -> Result<Connection, OpenError> {
    let open = || -> Result<Connection, Cause> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        Ok(conn)
    };
    open().map_err(|cause| OpenError { path: path.to_owned(), cause })
}

/// Which version of the schema a file has; 0 if it is empty.
fn recognise(conn: &Connection) -> Result<u32, Cause> {
    let application: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 && application == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(Cause::NotALedger("it is another application's database".to_owned()));
    }
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let version = value(conn, "schema")?.unwrap_or_default();
    match version.parse() {
        Ok(applied) if (1..=known).contains(&applied) => Ok(applied),
        Ok(0) | Err(_) => Err(Cause::NotALedger(format!("its schema is version `{version}`"))),
        Ok(_) => Err(Cause::Newer(version, known)),
    }
}

fn migrate(conn: &mut Connection, backend: &str) -> Result<(), Cause> {
    let change = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let applied = recognise(&change)?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(applied).unwrap_or(usize::MAX)) {
        change.execute_batch(migration)?;
    }
    if usize::try_from(applied) != Ok(MIGRATIONS.len()) {
        hash_keys(&change)?;
        change.pragma_update(None, "application_id", APPLICATION_ID)?;
        change.execute(
            "INSERT OR REPLACE INTO meta (name, value) VALUES ('schema', ?1)",
            params![MIGRATIONS.len().to_string()],
        )?;
    }
    match value(&change, "backend")? {
        Some(bound) if bound == backend => {}
        Some(bound) => return Err(Cause::OtherBackend(bound, backend.to_owned())),
        None => {
            change.execute(
                "INSERT INTO meta (name, value) VALUES ('backend', ?1)",
                params![backend],
            )?;
        }
    }
    change.commit()?;
    Ok(())
}

/// What SQL cannot: the hashes of keys that have none yet.
fn hash_keys(change: &Connection) -> Result<(), rusqlite::Error> {
    let mut update = change.prepare("UPDATE operations SET key_hash = ?2 WHERE first = ?1")?;
    let sql = "SELECT first, scope, caller, key FROM operations
        WHERE first > ?1 AND key IS NOT NULL AND key_hash IS NULL ORDER BY first LIMIT 1";
    let mut next = change.prepare(sql)?;
    let mut after = 0;
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    loop {
        let found: Option<(i64, String, String, String)> =
            next.query_row([after], read).optional()?;
        let Some((first, scope, caller, key)) = found else { return Ok(()) };
        update.execute(params![first, key_hash(&scope, &caller, &key)])?;
        after = first;
    }
}

fn value(conn: &Connection, name: &str) -> Result<Option<String>, rusqlite::Error> {
    conn.query_row("SELECT value FROM meta WHERE name = ?1", params![name], |row| row.get(0))
        .optional()
}

impl From<rusqlite::Error> for Cause {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                Self::NotALedger(error.to_string())
            }
            _ => Self::Sqlite(error),
        }
    }
}
