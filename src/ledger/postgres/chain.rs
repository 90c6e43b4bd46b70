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
use crate::ledger::{LedgerError, Record};

/// The most events that are sealed together, and that are cut off together.
const BATCH: i64 = 500;

/// The most batches that are sealed or cut in one go: nobody is kept at it for ever.
const BATCHES: usize = 40;

/// The longest that one go may take.
const GOING: Duration = Duration::from_secs(30);

/// The most records or events that are read together.
const PAGE: i64 = 500;

/// The longest that all of a ledger is read for.
const READING: Duration = Duration::from_hours(4);

/// The most findings that are told.
const MAX_FINDINGS: usize = 100;

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
    again(link, sql::SEAL, &[(&BATCH, Type::INT8)]).await
}

/// Cuts what is older than the retention off the chain's beginning, in small pieces, and keeps the hash at the cut.
pub(super) async fn cut(link: &Link, retention: Duration) -> Result<(), Trouble> {
    again(link, sql::CUT, &[(&as_millis(retention), Type::INT8), (&BATCH, Type::INT8)]).await
}

/// Does a batch after the other until one is not full. Each is one statement, and a transaction of its own.
async fn again(link: &Link, statement: &str, params: &[Param<'_>]) -> Result<(), Trouble> {
    let mut lease = link.lease_for(GOING).await?;
    for _ in 0..BATCHES {
        let rows = match lease.rows(statement, params).await {
            // Somebody else was at it: where the role's transactions are stricter by default, that is said so.
            Err(Trouble::Conflict) => break,
            rows => rows?,
        };
        if rows
            .first()
            .and_then(|row| row.try_get::<_, i64>(0).ok())
            .is_none_or(|done| done < BATCH)
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
    let mut verified = Verified::default();
    let Some(chain) = chain.first() else {
        verified.finds(|| "the chain's ends are gone".to_owned());
        return Ok(verified);
    };
    let (place, hash, head_place, head_hash, unsealed) = read(link, || {
        let head: Vec<u8> = chain.try_get(3)?;
        let (place, head_place): (i64, i64) = (chain.try_get(0)?, chain.try_get(2)?);
        Ok((place, chain.try_get(1)?, head_place, head, chain.try_get::<_, i64>(4)?))
    })?;
    verified.unsealed = u64::try_from(unsealed).unwrap_or_default();
    verified.head = (u64::try_from(head_place).unwrap_or_default(), hex(&head_hash));
    let end = verified.read_chain(link, &mut lease, place, hash).await?;
    if end != (head_place, head_hash) {
        verified
            .finds(|| format!("the chain ends at {}, and was sealed up to {head_place}", end.0));
    }
    verified.read_records(link, &mut lease).await?;
    let most: [Param<'_>; 1] = [(&PAGE, Type::INT8)];
    for row in lease.rows(sql::LOST, &most).await? {
        let id: String = read(link, || row.try_get(0))?;
        verified.finds(|| format!("{id}: the record is gone and was not swept"));
    }
    for row in lease.rows(sql::ASTRAY, &most).await? {
        let id: String = read(link, || row.try_get(0))?;
        verified.finds(|| {
            format!("{id}: the lists of what is unsettled do not say what the record says")
        });
    }
    end_reading(&mut lease).await;
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

impl Verified {
    async fn read_chain(
        &mut self,
        link: &Link,
        lease: &mut Lease<'_>,
        mut place: i64,
        mut hash: Vec<u8>,
    ) -> Result<(i64, Vec<u8>), LedgerError> {
        loop {
            let page: [Param<'_>; 2] = [(&place, Type::INT8), (&PAGE, Type::INT8)];
            let rows = lease.rows(sql::SEALED, &page).await?;
            let read_all = i64::try_from(rows.len()).is_ok_and(|count| count < PAGE);
            for row in &rows {
                let (found, sealed, event) = read(link, || {
                    let hash: Vec<u8> = row.try_get(1)?;
                    Ok((row.try_get::<_, i64>(0)?, hash, Event::read(row, 2)?))
                })?;
                if found != place + 1 {
                    self.finds(|| format!("events are missing between {place} and {found}"));
                }
                if event.hash(found, &hash) != sealed {
                    self.finds(|| format!("{}: event {found} was changed", event.id));
                }
                self.sealed += 1;
                // As it was sealed, so that one fault is found once.
                (place, hash) = (found, sealed);
            }
            if read_all {
                return Ok((place, hash));
            }
        }
    }

    async fn read_records(
        &mut self,
        link: &Link,
        lease: &mut Lease<'_>,
    ) -> Result<(), LedgerError> {
        let mut after = String::new();
        loop {
            let page: [Param<'_>; 2] = [(&after, Type::TEXT), (&PAGE, Type::INT8)];
            let rows = lease.rows(sql::PROVEN, &page).await?;
            let read_all = i64::try_from(rows.len()).is_ok_and(|count| count < PAGE);
            for row in &rows {
                let (text, id): (String, String) =
                    read(link, || Ok((row.try_get(0)?, row.try_get(1)?)))?;
                let proof: (Option<i64>, Option<Vec<u8>>) =
                    read(link, || Ok((row.try_get(14)?, row.try_get(15)?)))?;
                self.records += 1;
                if proof.1.as_deref() != Some(Sha256::digest(&text).as_slice()) {
                    self.finds(|| format!("{id}: the record is not what was written last"));
                }
                match serde_json::from_str::<Record>(&text) {
                    Ok(record) => {
                        let columns = Columns::of(&record)?;
                        if !read(link, || columns.are_in(row))? || proof.0 != Some(columns.version)
                        {
                            self.finds(|| {
                                format!("{id}: the columns do not say what the record says")
                            });
                        }
                    }
                    Err(error) => self.finds(|| format!("{id}: cannot be read: {error}")),
                }
                after = id;
            }
            if read_all {
                return Ok(());
            }
        }
    }

    fn finds(&mut self, finding: impl FnOnce() -> String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding());
        }
    }
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
