//! Every statement on records and events.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, named_params, params};

use super::fault::Fault;
use crate::ledger::{
    Key, LedgerError, Look, Looked, Record, Terms,
    chain::{self, Event, Hash},
    record::to_millis,
};

/// The most events that one sweep looks at for each record that it may forget.
const EVENTS_PER_RECORD: usize = 8;

/// Free pages that stay for the next records, and the most that one sweep gives back: 4 KiB each.
const SPARE_PAGES: i64 = 1024;
const VACUUM_PAGES: i64 = 2048;

/// The tables, as one transaction sees them.
#[derive(Debug)]
pub(super) struct Tables<'c> {
    pub(super) conn: &'c Connection,
    pub(super) now: SystemTime,
    /// What was written, and the version that it has now.
    pub(super) written: Vec<(String, u64)>,
}

/// Numbers and times as SQLite has them.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn time(time: SystemTime) -> i64 {
    whole(to_millis(time))
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn record(id: &str, json: &str) -> Result<Record, Fault> {
    serde_json::from_str(json).map_err(|error| Fault::Record(id.to_owned(), error))
}

/// The one record that a statement finds, whose columns are `id, record`.
fn find(
    conn: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Option<Record>, Fault> {
    let mut statement = conn.prepare_cached(sql)?;
    let found: Option<(String, String)> =
        statement.query_row(parameters, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    found.map(|(id, json)| record(&id, &json)).transpose()
}

pub(super) fn by_id(conn: &Connection, id: &str) -> Result<Option<Record>, Fault> {
    find(conn, "SELECT id, record FROM operations WHERE id = ?1", params![id])
}

/// A record's version, if there is one.
pub(super) fn version(conn: &Connection, id: &str) -> Result<Option<u64>, Fault> {
    let mut statement = conn.prepare_cached("SELECT version FROM operations WHERE id = ?1")?;
    let found: Option<i64> = statement.query_row(params![id], |row| row.get(0)).optional()?;
    Ok(found.map(|version| u64::try_from(version).unwrap_or(0)))
}

pub(super) fn unsettled_of(conn: &Connection, group: &str) -> Result<Option<Record>, Fault> {
    let sql = "SELECT id, record FROM operations
        WHERE grp = ?1 AND state IN ('IN_PROGRESS', 'IN_DOUBT')";
    find(conn, sql, params![group])
}

/// The record that has the key, whether or not its retention is over.
pub(super) fn holder(
    conn: &Connection,
    scope: &str,
    caller: &str,
    key: &Key,
) -> Result<Option<Record>, Fault> {
    let sql = "SELECT id, record FROM operations
        WHERE key_hash = ?1 AND freed = 0 AND key = ?2 AND caller = ?3 AND scope = ?4";
    let (hash, key) = (key_hash(scope, caller, key.as_str()), key.as_str());
    find(conn, sql, params![hash, key, caller, scope])
}

/// What a key is found by: its own part is first, by which lists find it in every scope.
pub(super) fn key_hash(scope: &str, caller: &str, key: &str) -> [u8; 16] {
    let mut hash = [0; 16];
    let parts = [chain::digest_of(&[caller, key]), chain::digest_of(&[caller, key, scope])];
    let bytes = parts.iter().flat_map(|part| part.iter().take(8));
    hash.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    hash
}

/// The same of a record, if it has a key.
pub(super) fn key_hash_of(record: &Record) -> Option<[u8; 16]> {
    record.key.as_ref().map(|key| key_hash(&record.scope, &record.caller, key.as_str()))
}

/// Between which hashes those of a key are, whatever the scope.
pub(super) fn key_hashes(caller: &str, key: &str) -> [[u8; 16]; 2] {
    [0, u8::MAX].map(|rest| {
        let mut hash = key_hash("", caller, key);
        hash.iter_mut().skip(8).for_each(|byte| *byte = rest);
        hash
    })
}

/// The first and the last row.
pub(super) fn ends(conn: &Connection) -> Result<Option<(i64, i64)>, Fault> {
    let sql = "SELECT (SELECT min(first) FROM operations), (SELECT max(first) FROM operations)";
    let (first, last): (Option<i64>, Option<i64>) =
        conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(first.zip(last))
}

/// The first row that was created at a time or later, or would be. Rows are in that order, as far as clocks are.
pub(super) fn first_since(conn: &Connection, at: i64) -> Result<i64, Fault> {
    let Some((mut from, last)) = ends(conn)? else { return Ok(0) };
    let mut to = last.saturating_add(1);
    let sql = "SELECT first, created FROM operations WHERE first >= ?1 ORDER BY first LIMIT 1";
    let mut next = conn.prepare_cached(sql)?;
    while from < to {
        let middle = from + (to - from) / 2;
        let (row, created): (i64, i64) =
            next.query_row(params![middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if created < at {
            from = row + 1;
        } else {
            to = middle;
        }
    }
    Ok(from)
}

pub(super) fn look(
    conn: &Connection,
    question: &Look,
    retention: Duration,
    now: SystemTime,
) -> Result<Looked, Fault> {
    let Look { scope, caller, key, fingerprint, group } = question;
    let by_key = match key {
        Some(key) => holder(conn, scope, caller, key)?,
        None => None,
    };
    let by_key = by_key.filter(|record| record.key_ends(retention).is_none_or(|end| now < end));
    let unsettled = unsettled_of(conn, group)?;
    let equal = unsettled.clone().filter(|record| {
        key.is_none()
            && record.scope == *scope
            && record.caller == *caller
            && record.fingerprint == *fingerprint
    });
    Ok(Looked { by_key, equal, unsettled, now })
}

/// Records in the order of their ids, for exports.
pub(super) fn export(
    conn: &Connection,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Record>, Fault> {
    let sql = "SELECT id, record FROM operations WHERE id > ?1 ORDER BY id LIMIT ?2";
    let mut statement = conn.prepare_cached(sql)?;
    let after = after.unwrap_or_default();
    let rows = statement.query_map(params![after, count(limit)], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let mut records = Vec::new();
    for row in rows {
        let (id, json) = row?;
        records.push(record(&id, &json)?);
    }
    Ok(records)
}

/// Two records of what there is one of at most, and what that is. The indexes see to it, as long as they are there.
pub(super) fn doubles(conn: &Connection) -> Result<Vec<(String, String, &'static str)>, Fault> {
    let mut doubles = Vec::new();
    for (sql, what) in [
        (
            "SELECT min(rowid) AS one, max(rowid) AS other FROM operations WHERE key IS NOT NULL AND freed = 0
            GROUP BY key, caller, scope HAVING count(*) > 1 LIMIT 100",
            "both have the same key of the same caller",
        ),
        (
            "SELECT min(rowid) AS one, max(rowid) AS other FROM operations WHERE state IN ('IN_PROGRESS', 'IN_DOUBT')
            GROUP BY grp HAVING count(*) > 1 LIMIT 100",
            "both are unsettled, and of the same group",
        ),
    ] {
        let mut statement = conn.prepare(&format!(
            "SELECT a.id, b.id FROM ({sql}) JOIN operations AS a ON a.rowid = one
            JOIN operations AS b ON b.rowid = other"
        ))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, what)))?;
        for row in rows {
            doubles.push(row?);
        }
    }
    Ok(doubles)
}

impl Tables<'_> {
    pub(super) fn by_id(&self, id: &str) -> Result<Record, Fault> {
        let known = by_id(self.conn, id)?;
        known.ok_or_else(|| LedgerError::Forbidden(format!("no record {id}")).into())
    }

    /// Writes a record, new or not, that has its key if it has one.
    pub(super) fn intend(&mut self, record: &Record, is_new: bool) -> Result<(), Fault> {
        if is_new {
            let sql = "INSERT INTO operations (first, id, scope, caller, key, key_hash, freed, grp, account, region,
                    state, fence, version, created, held_until, settled, event, record)
                VALUES (:event, :id, :scope, :caller, :key, :key_hash, 0, :group, :account, :region,
                    :state, :fence, :version, :created, :held_until, :settled, :event, :record)";
            return self.write(record, sql);
        }
        // First, while it is settled: its old group may be another's by now.
        let sql = "UPDATE operations SET freed = 0, grp = ?2 WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute(params![record.id, record.group])?;
        self.update(record)
    }

    /// Writes a record that has moved. Columns that no move changes are left out: SQLite writes each index of a column
    /// that is set, even to what it was.
    pub(super) fn update(&mut self, record: &Record) -> Result<(), Fault> {
        let sql = "UPDATE operations SET state = :state, fence = :fence, version = :version, held_until = :held_until,
                settled = :settled, event = :event, record = :record
            WHERE id = :id";
        self.write(record, sql)
    }

    fn write(&mut self, record: &Record, sql: &str) -> Result<(), Fault> {
        let json = serde_json::to_string(record)
            .map_err(|error| Fault::Record(record.id.clone(), error))?;
        let event = self.append(&Event::of(record, &json, to_millis(self.now)))?;
        let mut statement = self.conn.prepare_cached(sql)?;
        // What a statement does not write is not bound.
        let columns: &[(&str, &dyn ToSql)] = named_params! {
            ":id": record.id,
            ":scope": record.scope,
            ":caller": record.caller,
            ":key": record.key.as_ref().map(Key::as_str),
            ":key_hash": key_hash_of(record),
            ":group": record.group,
            ":account": record.account,
            ":region": record.region,
            ":state": record.state.as_str(),
            ":fence": whole(record.fence),
            ":version": whole(record.version),
            ":created": time(record.created_at),
            ":held_until": time(record.held_until),
            ":settled": record.settled_at.map(time),
            ":event": event,
            ":record": json,
        };
        for (name, value) in columns {
            if let Some(at) = statement.parameter_index(name)? {
                statement.raw_bind_parameter(at, value)?;
            }
        }
        statement.raw_execute()?;
        self.written.push((record.id.clone(), record.version));
        Ok(())
    }

    /// Takes a key, whose retention is over, from its record.
    pub(super) fn free_key(&self, id: &str) -> Result<(), Fault> {
        let sql = "UPDATE operations SET freed = first WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute(params![id])?;
        Ok(())
    }

    fn append(&self, event: &Event) -> Result<i64, Fault> {
        let (last, before) = match last_event(self.conn)? {
            Some(last) => last,
            None => anchor(self.conn)?,
        };
        let sql = "INSERT INTO events (seq, operation, version, kind, at, digest, hash)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let seq = last + 1;
        self.conn.prepare_cached(sql)?.execute(params![
            seq,
            event.operation,
            whole(event.version),
            event.kind,
            whole(event.at),
            event.digest,
            event.hash(&before),
        ])?;
        Ok(seq)
    }

    /// Forgets old records, then what their events are no longer needed for, and gives pages back.
    pub(super) fn sweep(&mut self, terms: Terms, limit: usize) -> Result<usize, Fault> {
        let old = self.now.checked_sub(terms.record_retention).unwrap_or(SystemTime::UNIX_EPOCH);
        // What is settled so long is created longer.
        let sql = "SELECT id, version, record FROM operations WHERE first < ?1 AND created <= ?2 AND settled <= ?2
            ORDER BY first LIMIT ?3";
        let end = first_since(self.conn, time(old).saturating_add(1))?;
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map(params![end, time(old), count(limit)], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        })?;
        let swept: Vec<_> = rows.collect::<Result<_, _>>()?;
        for (id, version, json) in &swept {
            let sql = "DELETE FROM operations WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute(params![id])?;
            self.append(&Event {
                operation: id.clone(),
                version: u64::try_from(*version).unwrap_or(0),
                kind: chain::SWEPT.to_owned(),
                at: to_millis(self.now),
                digest: chain::digest(json),
            })?;
            self.written.push((id.clone(), u64::MAX));
        }
        self.trim(time(old), limit.saturating_mul(EVENTS_PER_RECORD))?;
        self.give_back()?;
        Ok(swept.len())
    }

    /// Forgets events from the front of the chain; the anchor holds the hash that the rest goes on from. The last event of
    /// a record that is still there is appended again, so that the record stays proven.
    fn trim(&self, old: i64, limit: usize) -> Result<(), Fault> {
        let sql = "SELECT seq, operation, version, kind, at, digest, hash FROM events ORDER BY seq LIMIT ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params![count(limit)])?;
        let mut trimmed = None;
        let mut carried = Vec::new();
        while let Some(row) = rows.next()? {
            let (seq, event, hash) = read_event(row)?;
            if whole(event.at) > old {
                break;
            }
            let sql = "SELECT 1 FROM operations WHERE id = ?1 AND event = ?2";
            if self.conn.prepare_cached(sql)?.exists(params![event.operation, seq])? {
                carried.push(event);
            }
            trimmed = Some((seq, hash));
        }
        drop(rows);
        let Some((seq, hash)) = trimmed else { return Ok(()) };
        for event in carried {
            let event = Event { at: to_millis(self.now), ..event };
            let sql = "UPDATE operations SET event = ?2 WHERE id = ?1";
            let again = self.append(&event)?;
            self.conn.prepare_cached(sql)?.execute(params![event.operation, again])?;
        }
        self.conn.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute(params![seq])?;
        let sql = "UPDATE anchor SET seq = ?1, hash = ?2";
        self.conn.prepare_cached(sql)?.execute(params![seq, hash])?;
        Ok(())
    }

    fn give_back(&self) -> Result<(), Fault> {
        let free: i64 = self.conn.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        let pages = (free - SPARE_PAGES).min(VACUUM_PAGES);
        if pages > 0 {
            let mut statement =
                self.conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    /// Something to commit.
    pub(super) fn touch(&self) -> Result<(), Fault> {
        let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES ('checked', ?1)";
        self.conn.prepare_cached(sql)?.execute(params![time(self.now).to_string()])?;
        Ok(())
    }
}

pub(super) fn last_event(conn: &Connection) -> Result<Option<(i64, Hash)>, Fault> {
    let sql = "SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1";
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Where the kept chain begins.
pub(super) fn anchor(conn: &Connection) -> Result<(i64, Hash), Fault> {
    let mut statement = conn.prepare_cached("SELECT seq, hash FROM anchor")?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// A row of `seq, operation, version, kind, at, digest, hash`.
pub(super) fn read_event(row: &Row<'_>) -> Result<(i64, Event, Hash), rusqlite::Error> {
    let number =
        |column| row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0));
    let event = Event {
        operation: row.get(1)?,
        version: number(2)?,
        kind: row.get(3)?,
        at: number(4)?,
        digest: row.get(5)?,
    };
    Ok((row.get(0)?, event, row.get(6)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_scope_and_in_all() {
        let hash = key_hash("s", "ann", "k");
        let others = [("s2", "ann", "k"), ("s", "ann", "k2"), ("s", "bob", "k"), ("s", "annk", "")];
        for (scope, caller, key) in others {
            assert_ne!(key_hash(scope, caller, key), hash);
            let [from, to] = key_hashes("ann", "k");
            let is_of_key = (caller, key) == ("ann", "k");
            assert_eq!((from..=to).contains(&key_hash(scope, caller, key)), is_of_key);
        }
    }
}
