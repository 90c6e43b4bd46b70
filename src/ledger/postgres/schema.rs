//! What is found and made when a ledger is opened.

use std::{fmt, time::Duration};

use tokio_postgres::{Row, types::Type};

use super::{
    link::{Lease, Link, Trouble},
    sql,
};

/// The version of the schema that this program knows.
const VERSION: i32 = 4;

/// The oldest server: 14, as its number.
const OLDEST: i32 = 140_000;

/// Making the schema takes its time; other replicas wait for it.
const MAKING: Duration = Duration::from_secs(30);

/// Why a ledger cannot be opened. What each says holds no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The URL is not one that can be used.
    Url(String),
    /// The CA's file is not.
    Tls(String),
    /// The database does not answer, or does not let us in.
    Unreachable(String),
    /// The role may not do what it has to.
    Rights(String),
    /// The server is not one that can hold a ledger: why.
    Server(String),
    /// The schema was made by a newer version of this program.
    Newer {
        /// Where.
        place: String,
        /// Its version.
        found: i32,
    },
    /// There is a schema of that name that is not ours.
    Foreign(String),
    /// The ledger belongs to another backend.
    OtherBackend {
        /// Where.
        place: String,
        /// What it was first opened with.
        found: String,
        /// What it was opened with now.
        wanted: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => write!(f, "the ledger's URL: {why}"),
            Self::Tls(why) => write!(f, "the ledger's sslrootcert: {why}"),
            Self::Unreachable(why) | Self::Rights(why) | Self::Server(why) | Self::Foreign(why) => {
                f.write_str(why)
            }
            Self::Newer { place, found } => write!(
                f,
                "the ledger at {place} has schema version {found}, and this program knows {VERSION}: \
                 a newer version of it has opened the ledger; use that one"
            ),
            Self::OtherBackend { place, found, wanted } => write!(
                f,
                "the ledger at {place} belongs to the backend `{found}`, not to `{wanted}`: \
                 name another database for this backend"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// What the server says of itself.
struct Server {
    role: String,
    database: String,
    has_schema: bool,
    has_meta: bool,
    relations: i64,
}

/// Checks the server, makes the schema if there is none, and binds the ledger to `backend`.
pub(super) async fn open(link: &Link, backend: &str) -> Result<(), OpenError> {
    let place = link.place();
    let unreachable = |trouble: Trouble| match trouble {
        Trouble::Rights(words) => OpenError::Rights(words),
        Trouble::Missing(words) | Trouble::Value(words) | Trouble::Other(words) => {
            OpenError::Unreachable(words)
        }
        Trouble::Conflict => OpenError::Unreachable(format!("PostgreSQL at {place}: a conflict")),
    };
    let rows = link.rows(sql::SERVER, &[]).await.map_err(unreachable)?;
    let server = judge(rows.first(), place)?;
    if !server.has_meta {
        if server.relations > 0 {
            return Err(OpenError::Foreign(format!(
                "the database at {place} has a schema `portcullis` that is not a ledger's: use another database"
            )));
        }
        make(link, backend, &server).await.map_err(|trouble| match trouble {
            Trouble::Rights(words) => OpenError::Rights(format!(
                "{words}; an administrator lets it: CREATE SCHEMA portcullis AUTHORIZATION \"{}\" \
                 in database \"{}\"",
                server.role, server.database
            )),
            other => unreachable(other),
        })?;
    }
    let mut lease = link.lease().await.map_err(unreachable)?;
    let rows = lease.rows(sql::META, &[]).await.map_err(|trouble| match trouble {
        Trouble::Missing(_) => foreign(place),
        Trouble::Rights(words) => OpenError::Rights(lacking(&words, &server.role)),
        other => unreachable(other),
    })?;
    let meta = rows
        .first()
        .and_then(|row| Some((row.try_get::<_, i32>(0).ok()?, row.try_get::<_, String>(1).ok()?)));
    match meta {
        None => return Err(foreign(place)),
        Some((found, _)) if found > VERSION => {
            return Err(OpenError::Newer { place: place.to_owned(), found });
        }
        Some((_, found)) if found != backend => {
            let (place, wanted) = (place.to_owned(), backend.to_owned());
            return Err(OpenError::OtherBackend { place, found, wanted });
        }
        Some((found, _)) if found < VERSION => {
            drop(lease);
            migrate(link).await.map_err(|trouble| match trouble {
                Trouble::Rights(words) => OpenError::Rights(format!(
                    "{words}; the schema is of version {found}, and this program needs {VERSION}: run \
                     `portcullis ledger migrate` as the role that owns it"
                )),
                other => unreachable(other),
            })?;
            lease = link.lease().await.map_err(unreachable)?;
        }
        Some(_) => {}
    }
    let rows = lease.rows(sql::LACKING, &[]).await.map_err(|trouble| match trouble {
        Trouble::Missing(_) => foreign(place),
        other => unreachable(other),
    })?;
    match rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten()) {
        Some(rights) => {
            let words = format!("PostgreSQL at {place}: no right to {rights}");
            Err(OpenError::Rights(lacking(&words, &server.role)))
        }
        None => Ok(()),
    }
}

fn foreign(place: &str) -> OpenError {
    OpenError::Foreign(format!(
        "the schema `portcullis` in the database at {place} is not a ledger's, or not a whole one: \
         use another database"
    ))
}

fn lacking(words: &str, role: &str) -> String {
    format!(
        "{words}; an administrator lets it: GRANT USAGE ON SCHEMA portcullis TO \"{role}\"; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA portcullis TO \"{role}\""
    )
}

fn judge(row: Option<&Row>, place: &str) -> Result<Server, OpenError> {
    let said =
        || OpenError::Unreachable(format!("PostgreSQL at {place}: an answer that cannot be read"));
    let row = row.ok_or_else(said)?;
    let text = |at: usize| row.try_get::<_, String>(at).map_err(|_| said());
    let version: i32 = row.try_get(0).map_err(|_| said())?;
    let read_only: bool = row.try_get(1).map_err(|_| said())?;
    let refuse = |why: &str| Err(OpenError::Server(format!("PostgreSQL at {place}: {why}")));
    if version < OLDEST {
        return refuse("it is older than version 14");
    }
    if read_only {
        return refuse(
            "it is a standby or read-only: name the primary, or all hosts of the cluster",
        );
    }
    if text(2)? != "UTF8" {
        return refuse("the database's encoding is not UTF8: CREATE DATABASE ... ENCODING 'UTF8'");
    }
    for (at, name) in [(3, "fsync"), (4, "full_page_writes")] {
        if text(at)? == "off" {
            tracing::warn!(
                place,
                "{name} is off: a crash of the server's machine may lose the ledger"
            );
        }
    }
    Ok(Server {
        role: text(5)?,
        database: text(6)?,
        has_schema: row.try_get(7).map_err(|_| said())?,
        has_meta: row.try_get::<_, i64>(8).map_err(|_| said())? > 0,
        relations: row.try_get(9).map_err(|_| said())?,
    })
}

/// Makes the schema in one transaction, unless another replica has just done it.
async fn make(link: &Link, backend: &str, server: &Server) -> Result<(), Trouble> {
    let mut lease = link.lease_for(MAKING).await?;
    let [_, found] = lease
        .begin_with(sql::BEGIN_MAKING, [(sql::LOCK_SCHEMA, &[]), (sql::SERVER, &[])], false)
        .await?;
    let made = found.first().is_some_and(|row| row.try_get::<_, i64>(8).is_ok_and(|meta| meta > 0));
    if made {
        return finish(&mut lease).await;
    }
    if !server.has_schema {
        lease.batch(sql::MAKE_SCHEMA).await?;
    }
    for version in sql::VERSIONS_OF_SCHEMA {
        lease.batch(version).await?;
    }
    let meta: [sql::Param<'_>; 2] = [(&VERSION, Type::INT4), (&backend, Type::TEXT)];
    lease.commit_with([(sql::NEW_META, &meta)]).await?;
    tracing::info!(place = link.place(), "made the ledger's schema");
    Ok(())
}

/// Brings an older schema up to date in one transaction, unless another replica has just done it.
async fn migrate(link: &Link) -> Result<(), Trouble> {
    let mut lease = link.lease_for(MAKING).await?;
    let [_, meta] = lease
        .begin_with(sql::BEGIN_MAKING, [(sql::LOCK_SCHEMA, &[]), (sql::META, &[])], false)
        .await?;
    let found = meta.first().and_then(|row| row.try_get::<_, i32>(0).ok()).unwrap_or(VERSION);
    for version in sql::VERSIONS_OF_SCHEMA.iter().skip(usize::try_from(found).unwrap_or(0)) {
        lease.batch(version).await?;
    }
    if found < VERSION {
        lease.commit_with([(sql::NEW_VERSION, &[(&VERSION, Type::INT4)])]).await?;
        tracing::info!(
            place = link.place(),
            from = found,
            to = VERSION,
            "migrated the ledger's schema"
        );
        return Ok(());
    }
    finish(&mut lease).await
}

async fn finish(lease: &mut Lease<'_>) -> Result<(), Trouble> {
    lease.commit_with([]).await.map(|[]| ())
}
