//! A ledger's file, to read all of it: for auditors. The server may be writing to it.

use std::path::Path;

use rusqlite::{Connection, Row, Rows};

use super::{
    fault::{Fault, OpenError},
    readers::in_one_state,
    schema, tables,
};
use crate::ledger::{
    Key, LedgerError, Record,
    chain::{self, Hash},
    proof::{Course, Findings, Step, wrong_record},
    record::to_millis,
};

/// See the module.
#[derive(Debug)]
pub struct Archive(Connection);

/// What verifying found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many records there are.
    pub records: u64,
    /// How many events prove them.
    pub events: u64,
    /// The hash of the whole chain: noted elsewhere, it proves later that nothing of it was changed.
    pub head: String,
    /// What is wrong; empty if nothing is. At most 100.
    pub findings: Vec<String>,
}

impl Archive {
    /// Opens a file to read it, without its lock.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        schema::open_reader(path).map(Self)
    }

    /// Proves that records are as they were written, and were written right: the chain of events, each record against its
    /// events, and what there is one of at most.
    pub fn verify(&self) -> Result<Verified, LedgerError> {
        in_one_state(&self.0, verify).map_err(Fault::into_answer)
    }

    /// Records in the order of their ids, after one of them.
    pub fn export(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        tables::export(&self.0, after, limit).map_err(Fault::into_answer)
    }
}

pub(super) fn verify(conn: &Connection) -> Result<Verified, Fault> {
    let mut found = Findings::default();
    let (events, is_cut, head) = verify_chain(conn, &mut found)?;
    let records = verify_records(conn, is_cut, &mut found)?;
    for (one, other, what) in tables::doubles(conn)? {
        found.add(format!("{one} and {other}: {what}"));
    }
    Ok(Verified { records, events, head: chain::hex(&head), findings: found.into_told() })
}

/// How many events there are, whether some were cut off before them, and the last one's hash.
fn verify_chain(conn: &Connection, found: &mut Findings) -> Result<(u64, bool, Hash), Fault> {
    let (mut last, mut head) = tables::anchor(conn)?;
    let is_cut = last != 0;
    let mut events = 0;
    let sql = "SELECT seq, operation, version, kind, at, digest, hash FROM events ORDER BY seq";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (seq, event, hash) = tables::read_event(row)?;
        events += 1;
        if seq != last + 1 {
            found.add(format!("events {} to {} are missing", last + 1, seq - 1));
        }
        if event.hash(&head) != hash {
            found.add(format!("event {seq} ({}) does not fit the one before", event.operation));
        }
        (last, head) = (seq, hash);
    }
    Ok((events, is_cut, head))
}

/// The events again, record by record.
struct Events<'s> {
    rows: Rows<'s>,
    course: Course,
    /// Read already, and of a record that comes later.
    ahead: Option<(String, u64, String, Hash)>,
}

impl Events<'_> {
    /// Follows the events of records up to this one. What is before it is not there: it must have been swept.
    fn up_to(&mut self, id: Option<&str>, found: &mut Findings) -> Result<(), Fault> {
        let mut open: Option<String> = None;
        loop {
            let next = match self.ahead.take() {
                Some(next) => Some(next),
                None => self.rows.next()?.map(event_of_record).transpose()?,
            };
            if open.is_some() && open.as_deref() != next.as_ref().map(|next| next.0.as_str()) {
                self.gone(open.take(), found);
            }
            let Some((of, version, kind, digest)) = next else { return Ok(()) };
            if id.is_some_and(|id| id < of.as_str()) {
                self.ahead = Some((of, version, kind, digest));
                return Ok(());
            }
            self.course.next(&of, &kind, version, digest, found);
            open = Some(of).filter(|of| Some(of.as_str()) != id);
        }
    }

    fn gone(&self, id: Option<String>, found: &mut Findings) {
        let Some(id) = id else { return };
        if !matches!(self.course.last_of(&id), Some(Step { state: None, .. })) {
            found.add(format!("the record of {id} is missing, and was not swept"));
        }
    }
}

fn event_of_record(row: &Row<'_>) -> Result<(String, u64, String, Hash), rusqlite::Error> {
    Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?, row.get(3)?))
}

/// Records and their events side by side, both by id: SQLite sorts the events in a temporary file if they are many.
fn verify_records(conn: &Connection, is_cut: bool, found: &mut Findings) -> Result<u64, Fault> {
    let sql = "SELECT operation, version, kind, digest FROM events ORDER BY operation, seq";
    let mut events = conn.prepare(sql)?;
    let rows = events.query([])?;
    let mut events = Events { rows, course: Course::new(is_cut), ahead: None };
    let mut records = 0;
    let sql = "SELECT o.id, o.record, e.operation, e.version, e.digest,
            o.scope, o.caller, o.key, o.grp, o.account, o.region, o.state, o.version, o.created, o.held_until,
            o.settled, o.freed, o.fence, o.key_hash, f.operation
        FROM operations AS o LEFT JOIN events AS e ON e.seq = o.event LEFT JOIN events AS f ON f.seq = o.first
        ORDER BY o.id";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        records += 1;
        let id: String = row.get(0)?;
        events.up_to(Some(&id), found)?;
        verify_record(&id, row, &events.course, found)?;
    }
    events.up_to(None, found)?;
    Ok(records)
}

fn verify_record(
    id: &str,
    row: &Row<'_>,
    course: &Course,
    found: &mut Findings,
) -> Result<(), Fault> {
    let json: String = row.get(1)?;
    let proof: (Option<String>, Option<i64>, Option<Hash>) =
        (row.get(2)?, row.get(3)?, row.get(4)?);
    let Ok(record) = serde_json::from_str::<Record>(&json) else {
        found.add(format!("the record of {id} cannot be read"));
        return Ok(());
    };
    let (operation, version, digest) = proof;
    let proven = operation.as_deref() == Some(id)
        && record.id == id
        && version.map(i64::cast_unsigned) == Some(record.version)
        && digest == Some(chain::digest(&json));
    if !proven {
        found.add(format!("the record of {id} is not what was written"));
    }
    if let Some(wrong) = wrong_record(&record, course.last_of(id)) {
        found.add(format!("{id}: {wrong}"));
    }
    let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let key = record.key.as_ref().map(Key::as_str);
    let freed = number(16)? != 0;
    let fits = row.get::<_, String>(5)? == record.scope
        && row.get::<_, String>(6)? == record.caller
        && row.get::<_, Option<String>>(7)?.as_deref() == key
        && row.get::<_, String>(8)? == record.group
        && row.get::<_, String>(9)? == record.account
        && row.get::<_, String>(10)? == record.region
        && row.get::<_, String>(11)? == record.state.as_str()
        && number(12)? == record.version
        && number(13)? == to_millis(record.created_at)
        && number(14)? == to_millis(record.held_until)
        && row.get::<_, Option<i64>>(15)?.map(i64::cast_unsigned)
            == record.settled_at.map(to_millis)
        && number(17)? == record.fence
        && row.get::<_, Option<[u8; 16]>>(18)? == tables::key_hash_of(&record)
        // Its first event may be forgotten by now.
        && row.get::<_, Option<String>>(19)?.is_none_or(|first| first == id)
        && (!freed || (key.is_some() && record.settled_at.is_some()));
    if !fits {
        found.add(format!("what is searched of {id} is not what its record says"));
    }
    Ok(())
}
