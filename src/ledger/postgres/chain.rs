//! The hash chain: each write of a record appends an event to the tail in its own transaction, so that replicas do not
//! wait for each other. Whoever gets the lock on the chain's end seals what is there, in batches: moves each event into the
//! chain, with its place and the hash over itself and the one before it. The server does that alone (`schema.sql`);
//! here it is computed again, to verify.
//!
//! What is written between two sealings is not protected yet. A chain has no secret: somebody who can write all of the
//! database can make a new one, which is found by comparing its end with one that was exported before.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_postgres::{Row, types::Type};

use super::{
    link::{Lease, Link, Trouble},
    sql::{self, Columns, Param, as_millis},
};
use crate::ledger::{
    LedgerError, Record, State,
    chain::Hash,
    proof::{Course, Findings, Step, wrong_record},
};

/// The most events that are sealed together: to find them, what is left in the tail of those before is gone through each
/// time, until it is vacuumed.
const SEALED: i64 = 4000;

/// The most events that are cut off together.
const CUT: i64 = 500;

/// The most batches that are sealed or cut in one go: nobody is kept at it for ever.
const BATCHES: usize = 40;

/// The longest that one go may take.
const GOING: Duration = Duration::from_secs(30);

/// The most records or events that are read together.
const PAGE: i64 = 500;

/// The longest that all of a ledger is read for.
const READING: Duration = Duration::from_hours(4);

/// What was found when all of the ledger was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many records there are.
    pub records: u64,
    /// How many sealed events there are.
    pub sealed: u64,
    /// How many events are not sealed yet.
    pub unsealed: u64,
    /// The chain's end, in hexadecimal: the same place has the same hash for ever.
    pub head: (u64, String),
    /// What is wrong; at most 100 findings. Empty: nothing.
    pub findings: Vec<String>,
}

/// One event.
struct Event {
    id: String,
    version: i64,
    state: String,
    at: i64,
    digest: Vec<u8>,
}

impl Event {
    /// From the columns from `first` on.
    fn read(row: &Row, first: usize) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(first)?,
            version: row.try_get(first + 1)?,
            state: row.try_get(first + 2)?,
            at: row.try_get(first + 3)?,
            digest: row.try_get(first + 4)?,
        })
    }

    /// Its hash at a place behind the hash of the one before it.
    fn hash(&self, place: i64, before: &[u8]) -> Vec<u8> {
        let mut hash = Sha256::new();
        for part in [before, self.id.as_bytes(), self.state.as_bytes(), &self.digest] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        for number in [place, self.version, self.at] {
            hash.update(number.to_be_bytes());
        }
        hash.finalize().to_vec()
    }
}

/// Seals what is not sealed yet, unless somebody else is at it.
pub(super) async fn seal(link: &Link) -> Result<(), Trouble> {
    again(link, sql::SEAL, SEALED, &[(&SEALED, Type::INT8)]).await
}

/// Cuts what is older than the retention off the chain's beginning, in small pieces, and keeps the hash at the cut.
pub(super) async fn cut(link: &Link, retention: Duration) -> Result<(), Trouble> {
    again(link, sql::CUT, CUT, &[(&as_millis(retention), Type::INT8), (&CUT, Type::INT8)]).await
}

/// Does a batch after the other until one is not full, which has `most`. Each is one statement, and a transaction of its own.
async fn again(
    link: &Link,
    statement: &str,
    most: i64,
    params: &[Param<'_>],
) -> Result<(), Trouble> {
    let mut lease = link.lease_for(GOING).await?;
    for _ in 0..BATCHES {
        let rows = match lease.rows(statement, params).await {
            // Somebody else was at it: where the role's transactions are stricter by default, that is said so.
            Err(Trouble::Conflict) => break,
            rows => rows?,
        };
        if rows.first().and_then(|row| row.try_get::<_, i64>(0).ok()).is_none_or(|done| done < most)
        {
            break;
        }
    }
    Ok(())
}

/// Reads everything and says what does not fit.
pub(super) async fn verify(link: &Link) -> Result<Verified, LedgerError> {
    let mut lease = link.lease_for(READING).await?;
    let [chain] = lease.begin_with(sql::BEGIN_READING, [(sql::CHAIN, &[])], false).await?;
    let (mut verified, mut found) = (Verified::default(), Findings::default());
    let Some(chain) = chain.first() else {
        verified.findings = vec!["the chain's ends are gone".to_owned()];
        return Ok(verified);
    };
    let (place, hash, head_place, head_hash, unsealed) = read(link, || {
        let head: Vec<u8> = chain.try_get(3)?;
        let (place, head_place): (i64, i64) = (chain.try_get(0)?, chain.try_get(2)?);
        Ok((place, chain.try_get(1)?, head_place, head, chain.try_get::<_, i64>(4)?))
    })?;
    verified.unsealed = u64::try_from(unsealed).unwrap_or_default();
    verified.head = (u64::try_from(head_place).unwrap_or_default(), hex(&head_hash));
    let (sealed, end) = read_chain(link, &mut lease, place, hash, &mut found).await?;
    verified.sealed = sealed;
    if end != (head_place, head_hash) {
        found.add(format!("the chain ends at {}, and was sealed up to {head_place}", end.0));
    }
    read_steps(link, &mut lease, place != 0, &mut found).await?;
    verified.records = read_records(link, &mut lease, &mut found).await?;
    let most: [Param<'_>; 1] = [(&PAGE, Type::INT8)];
    for row in lease.rows(sql::LOST, &most).await? {
        let id: String = read(link, || row.try_get(0))?;
        found.add(format!("{id}: the record is gone and was not swept"));
    }
    for row in lease.rows(sql::ASTRAY, &most).await? {
        let id: String = read(link, || row.try_get(0))?;
        found.add(format!("{id}: the lists of what is unsettled do not say what the record says"));
    }
    for row in lease.rows(sql::DOUBLES, &most).await? {
        let (one, other, what): (String, String, String) =
            read(link, || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))?;
        found.add(format!("{one} and {other}: {what}"));
    }
    end_reading(&mut lease).await;
    verified.findings = found.into_told();
    Ok(verified)
}

/// Records in the order of their ids, from behind `after`.
pub(super) async fn export(
    link: &Link,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Record>, LedgerError> {
    let after = after.map(sql::storable).unwrap_or_default();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let params: [Param<'_>; 2] = [(&after, Type::TEXT), (&limit, Type::INT8)];
    let rows = link.rows(sql::EXPORT, &params).await?;
    rows.iter().map(|row| super::record(row, 0)).collect()
}

/// How many sealed events there are, and the place and hash of the last one.
async fn read_chain(
    link: &Link,
    lease: &mut Lease<'_>,
    mut place: i64,
    mut hash: Vec<u8>,
    found: &mut Findings,
) -> Result<(u64, (i64, Vec<u8>)), LedgerError> {
    let mut count = 0;
    loop {
        let page: [Param<'_>; 2] = [(&place, Type::INT8), (&PAGE, Type::INT8)];
        let rows = lease.rows(sql::SEALED, &page).await?;
        let read_all = i64::try_from(rows.len()).is_ok_and(|count| count < PAGE);
        for row in &rows {
            let (at, sealed, event) = read(link, || {
                let hash: Vec<u8> = row.try_get(1)?;
                Ok((row.try_get::<_, i64>(0)?, hash, Event::read(row, 2)?))
            })?;
            if at != place + 1 {
                found.add(format!("events are missing between {place} and {at}"));
            }
            if event.hash(at, &hash) != sealed {
                found.add(format!("{}: event {at} was changed", event.id));
            }
            count += 1;
            // As it was sealed, so that one fault is found once.
            (place, hash) = (at, sealed);
        }
        if read_all {
            return Ok((count, (place, hash)));
        }
    }
}

/// How the events of each record follow each other. Whether those of records that are gone end as they must, [`sql::LOST`]
/// says.
async fn read_steps(
    link: &Link,
    lease: &mut Lease<'_>,
    is_cut: bool,
    found: &mut Findings,
) -> Result<(), LedgerError> {
    let mut course = Course::new(is_cut);
    lease.rows(sql::STEPS, &[]).await?;
    loop {
        let rows = lease.rows(sql::NEXT_STEPS, &[]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            let (id, version, state, digest): (&str, i64, &str, &[u8]) = read(link, || {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
            })?;
            let version = u64::try_from(version).unwrap_or_default();
            course.next(id, state, version, as_hash(digest), found);
        }
    }
}

/// How many records there are.
async fn read_records(
    link: &Link,
    lease: &mut Lease<'_>,
    found: &mut Findings,
) -> Result<u64, LedgerError> {
    let (mut after, mut count) = (String::new(), 0);
    loop {
        let page: [Param<'_>; 2] = [(&after, Type::TEXT), (&PAGE, Type::INT8)];
        let rows = lease.rows(sql::PROVEN, &page).await?;
        let read_all = i64::try_from(rows.len()).is_ok_and(|count| count < PAGE);
        for row in &rows {
            count += 1;
            after = read(link, || row.try_get(1))?;
            read_record(link, row, &after, found)?;
        }
        if read_all {
            return Ok(count);
        }
    }
}

/// Holds a row of [`sql::PROVEN`] against itself and the record's last event.
fn read_record(link: &Link, row: &Row, id: &str, found: &mut Findings) -> Result<(), LedgerError> {
    let text: &str = read(link, || row.try_get(0))?;
    let (version, state, digest): (Option<i64>, Option<&str>, Option<&[u8]>) =
        read(link, || Ok((row.try_get(14)?, row.try_get(15)?, row.try_get(16)?)))?;
    if digest != Some(Sha256::digest(text).as_slice()) {
        found.add(format!("{id}: the record is not what was written last"));
    }
    let record = match serde_json::from_str::<Record>(text) {
        Ok(record) => record,
        Err(error) => {
            found.add(format!("{id}: cannot be read: {error}"));
            return Ok(());
        }
    };
    let columns = Columns::of(&record)?;
    let key_hash: Option<&[u8]> = read(link, || row.try_get(17))?;
    let freed = record.key.is_some() && record.settled_at.is_some() && key_hash.is_none();
    let key_fits = freed || key_hash == sql::key_hash_of_record(&record).as_deref();
    if !read(link, || columns.are_in(row))? || version != Some(columns.version) || !key_fits {
        found.add(format!("{id}: the columns do not say what the record says"));
    }
    let last = version.zip(state).map(|(version, state)| Step {
        version: u64::try_from(version).unwrap_or_default(),
        state: State::parse(state),
        digest: as_hash(digest.unwrap_or_default()),
    });
    if let Some(wrong) = wrong_record(&record, last.as_ref()) {
        found.add(format!("{id}: {wrong}"));
    }
    Ok(())
}

/// What is no hash, such as that of what was swept, is zero.
fn as_hash(digest: &[u8]) -> Hash {
    digest.try_into().unwrap_or_default()
}

/// What a row holds. A type that is not the schema's is a fault of the database.
fn read<T>(
    link: &Link,
    row: impl FnOnce() -> Result<T, tokio_postgres::Error>,
) -> Result<T, Trouble> {
    row().map_err(|error| Trouble::Other(format!("PostgreSQL at {}: {error}", link.place())))
}

/// Nothing was written, so nothing depends on it.
async fn end_reading(lease: &mut Lease<'_>) {
    if let Err(trouble) = lease.commit_with([]).await {
        tracing::debug!(?trouble, "the end of a transaction that only read");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
