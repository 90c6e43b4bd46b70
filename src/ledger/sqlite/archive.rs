//! A ledger's file, to read all of it: for auditors. The server may be writing to it.

use std::{collections::HashSet, path::Path};

use rusqlite::Connection;

use super::{
    fault::{Fault, OpenError},
    readers::in_one_state,
    schema, tables,
};
use crate::ledger::{
    Key, LedgerError, Record,
    chain::{self, Hash},
    record::to_millis,
};

/// The most findings that are told; there is no use in more.
const MAX_FINDINGS: usize = 100;

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

struct Findings(Vec<String>);

impl Archive {
    /// Opens a file to read it, without its lock.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        schema::open_reader(path).map(Self)
    }

    /// Proves that records are as they were written: the chain of events, then each record against its last event.
    pub fn verify(&self) -> Result<Verified, LedgerError> {
        in_one_state(&self.0, verify).map_err(Fault::into_answer)
    }

    /// Records in the order of their ids, after one of them.
    pub fn export(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        tables::export(&self.0, after, limit).map_err(Fault::into_answer)
    }
}

impl Findings {
    fn add(&mut self, finding: String) {
        if self.0.len() < MAX_FINDINGS {
            self.0.push(finding);
        }
    }
}

pub(super) fn verify(conn: &Connection) -> Result<Verified, Fault> {
    let mut findings = Findings(Vec::new());
    let (events, head) = verify_chain(conn, &mut findings)?;
    let records = verify_records(conn, &mut findings)?;
    Ok(Verified { records, events, head: chain::hex(&head), findings: findings.0 })
}

fn verify_chain(conn: &Connection, findings: &mut Findings) -> Result<(u64, Hash), Fault> {
    let (mut last, mut head) = tables::anchor(conn)?;
    let mut events = 0;
    // Records that are not there; each must turn out to have been swept.
    let mut missing = HashSet::new();
    let sql = "SELECT seq, operation, version, kind, at, digest, hash FROM events ORDER BY seq";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (seq, event, hash) = tables::read_event(row)?;
        events += 1;
        if seq != last + 1 {
            findings.add(format!("events {} to {} are missing", last + 1, seq - 1));
        }
        if event.hash(&head) != hash {
            findings.add(format!("event {seq} ({}) does not fit the one before", event.operation));
        }
        (last, head) = (seq, hash);
        if event.kind == chain::SWEPT {
            missing.remove(&event.operation);
        } else if tables::version(conn, &event.operation)?.is_none() {
            missing.insert(event.operation);
        }
    }
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort_unstable();
    for id in missing {
        findings.add(format!("the record of {id} is missing, and was not swept"));
    }
    Ok((events, head))
}

fn verify_records(conn: &Connection, findings: &mut Findings) -> Result<u64, Fault> {
    let mut records = 0;
    let sql = "SELECT o.id, o.record, e.operation, e.version, e.digest,
            o.scope, o.caller, o.key, o.grp, o.account, o.region, o.state, o.version, o.created, o.held_until,
            o.settled, o.freed, o.fence
        FROM operations AS o LEFT JOIN events AS e ON e.seq = o.event ORDER BY o.id";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        records += 1;
        let id: String = row.get(0)?;
        let json: String = row.get(1)?;
        let proof: (Option<String>, Option<i64>, Option<Hash>) =
            (row.get(2)?, row.get(3)?, row.get(4)?);
        let Ok(record) = serde_json::from_str::<Record>(&json) else {
            findings.add(format!("the record of {id} cannot be read"));
            continue;
        };
        let (operation, version, digest) = proof;
        let proven = operation.as_ref() == Some(&id)
            && record.id == id
            && version.map(i64::cast_unsigned) == Some(record.version)
            && digest == Some(chain::digest(&json));
        if !proven {
            findings.add(format!("the record of {id} is not what was written"));
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
            && (!freed || (key.is_some() && record.settled_at.is_some()));
        if !fits {
            findings.add(format!("what is searched of {id} is not what its record says"));
        }
    }
    Ok(records)
}
