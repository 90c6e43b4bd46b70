//! `portcullis ledger`: proves a ledger, prints it, and brings its schema up to date. It works on the ledger itself, not
//! through a server.

use std::{io::Write, path::Path, sync::Arc};

use clap::Subcommand;

use super::Settings;
use crate::{
    clock::SystemClock,
    config::{BackendConfig, Config, LedgerConfig, LedgerEngine},
    ledger::{
        Record, Terms,
        postgres::{self, Postgres},
        sqlite::{Archive, Sqlite},
    },
    random::SystemRandom,
};

/// How many records are read at once.
const PAGE: usize = 500;

/// What to do with the ledger that the settings name.
#[derive(Debug, Subcommand)]
pub enum Ledger {
    /// Prove that no record was changed, removed or added by other hands, and that each was written by the rules
    ///
    /// Goes through the chain of events, holds the events of each record against the transition table, and each record
    /// against its last event. Prints the head of the chain: noted elsewhere, it shows later whether all of the ledger was
    /// replaced. A server may be running.
    Verify(Settings),
    /// Print every record, oldest first, as JSON lines
    ///
    /// For a SIEM. Times are milliseconds since 1970. A server may be running.
    Export(Settings),
    /// Bring the schema up to date, as a start does
    ///
    /// On SQLite while no server runs.
    Migrate(Settings),
}

/// Why it was not done.
#[derive(Debug)]
pub enum Failure {
    /// The settings are wrong: everything that is.
    Usage(String),
    /// The ledger cannot be opened or read.
    Ledger(String),
}

/// An open ledger, to read all of it.
enum Open {
    File(Archive),
    Database(Box<Postgres>),
}

impl Ledger {
    /// Does it. True: nothing is wrong with the ledger.
    pub async fn run(self, out: &mut (impl Write + Send)) -> Result<bool, Failure> {
        match self {
            Self::Verify(settings) => {
                let (text, good) = open(settings).await?.verify().await?;
                write(out, &text)?;
                Ok(good)
            }
            Self::Export(settings) => {
                let ledger = open(settings).await?;
                let mut after = None;
                loop {
                    let records = ledger.page(after.as_deref()).await?;
                    let Some(last) = records.last() else { return Ok(true) };
                    after = Some(last.id.clone());
                    for record in &records {
                        let line = serde_json::to_string(record).map_err(ledger_failure)?;
                        write(out, &format!("{line}\n"))?;
                    }
                }
            }
            Self::Migrate(settings) => {
                migrate(settings).await?;
                write(out, "The schema is up to date.\n")?;
                Ok(true)
            }
        }
    }
}

impl Open {
    async fn verify(&self) -> Result<(String, bool), Failure> {
        let (records, events, head, findings) = match self {
            Self::File(archive) => {
                let found = archive.verify().map_err(ledger_failure)?;
                (found.records, found.events, found.head, found.findings)
            }
            Self::Database(database) => {
                let found = database.verify().await.map_err(ledger_failure)?;
                let (place, hash) = found.head;
                (found.records, found.sealed, format!("{hash} at {place}"), found.findings)
            }
        };
        let mut text = format!("records {records}\nevents  {events}\nhead    {head}\n");
        for finding in &findings {
            text.push_str(&format!("WRONG   {finding}\n"));
        }
        Ok((text, findings.is_empty()))
    }

    async fn page(&self, after: Option<&str>) -> Result<Vec<Record>, Failure> {
        match self {
            Self::File(archive) => archive.export(after, PAGE),
            Self::Database(database) => database.export(after, PAGE).await,
        }
        .map_err(ledger_failure)
    }
}

fn load(settings: Settings) -> Result<(LedgerConfig, BackendConfig), Failure> {
    match Config::load(settings.config.as_deref(), settings.flags) {
        Ok(config) => Ok((config.ledger, config.backend)),
        Err(complaints) => {
            let lines: Vec<String> =
                complaints.iter().map(|complaint| format!("  {complaint}")).collect();
            Err(Failure::Usage(format!("the configuration is wrong:\n{}", lines.join("\n"))))
        }
    }
}

async fn open(settings: Settings) -> Result<Open, Failure> {
    let (config, backend) = load(settings)?;
    match &config.engine {
        LedgerEngine::Memory => Err(no_ledger()),
        LedgerEngine::Sqlite(path) => Archive::open(path).map(Open::File).map_err(ledger_failure),
        LedgerEngine::Postgres(url) => {
            let database = open_database(url.expose(), &backend, terms(&config)).await?;
            Ok(Open::Database(Box::new(database)))
        }
    }
}

async fn migrate(settings: Settings) -> Result<(), Failure> {
    let (config, backend) = load(settings)?;
    match &config.engine {
        LedgerEngine::Memory => Err(no_ledger()),
        LedgerEngine::Sqlite(path) => {
            let clock = Arc::new(SystemClock);
            Sqlite::open(Path::new(path), &backend.ledger_binding(), terms(&config), clock)
                .map(drop)
                .map_err(ledger_failure)
        }
        LedgerEngine::Postgres(url) => {
            open_database(url.expose(), &backend, terms(&config)).await.map(drop)
        }
    }
}

async fn open_database(
    url: &str,
    backend: &BackendConfig,
    terms: Terms,
) -> Result<Postgres, Failure> {
    let settings = postgres::Settings::parse(url).map_err(ledger_failure)?;
    let random = Arc::new(SystemRandom);
    Postgres::open(&settings, &backend.ledger_binding(), terms, random)
        .await
        .map_err(ledger_failure)
}

fn terms(config: &LedgerConfig) -> Terms {
    let LedgerConfig { key_retention, record_retention, .. } = *config;
    Terms { key_retention, record_retention }
}

fn no_ledger() -> Failure {
    let message = "a ledger in memory is gone with its server: name one with --ledger sqlite:PATH or postgres://...";
    Failure::Usage(message.to_owned())
}

fn ledger_failure(error: impl std::fmt::Display) -> Failure {
    Failure::Ledger(error.to_string())
}

fn write(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    out.write_all(text.as_bytes()).map_err(|error| Failure::Ledger(format!("stdout: {error}")))
}
