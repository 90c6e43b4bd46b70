//! The engine in one file: the suite with its thread and without, and what is its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use portcullis::{
    clock::ManualClock,
    ledger::{
        Ledger,
        sqlite::{OpenError, Sqlite},
    },
};

use crate::{
    folder::Folder,
    suite::{self, Bench, Later},
};

#[path = "sqlite/damage.rs"]
mod damage;
#[path = "sqlite/file.rs"]
mod file;
#[path = "sqlite/proof.rs"]
mod proof;

pub const BACKEND: &str = "ec2 https://ec2.eu-central-1.amazonaws.com";

#[derive(Debug)]
pub struct InFile {
    pub folder: Folder,
    pub clock: ManualClock,
    with_thread: bool,
    ledger: Option<Arc<Sqlite>>,
}

impl InFile {
    pub fn new(with_thread: bool) -> Self {
        let clock = ManualClock::new(suite::start());
        let mut bench = Self { folder: Folder::new(), clock, with_thread, ledger: None };
        bench.open().unwrap();
        bench
    }

    pub fn close(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            Arc::try_unwrap(ledger).expect("somebody still has it");
        }
    }

    pub fn open(&mut self) -> Result<(), OpenError> {
        let path = self.path();
        let clock = Arc::new(self.clock.clone());
        let open = if self.with_thread { Sqlite::open } else { Sqlite::open_replayable };
        self.ledger = Some(Arc::new(open(&path, BACKEND, suite::TERMS, clock)?));
        Ok(())
    }

    pub fn sqlite(&self) -> &Sqlite {
        self.ledger.as_ref().unwrap()
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join("ledger.db")
    }

    /// Another connection to the file, as a shell's or an auditor's.
    pub fn raw(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }
}

impl Bench for InFile {
    fn ledger(&self) -> Arc<dyn Ledger> {
        self.ledger.clone().unwrap()
    }

    fn advance(&mut self, by: Duration) -> Later<'_> {
        self.clock.advance(by);
        Box::pin(std::future::ready(()))
    }

    fn reopen(&mut self) -> Later<'_> {
        self.close();
        self.open().unwrap();
        Box::pin(std::future::ready(()))
    }
}

mod with_thread {
    use super::{Bench, InFile};

    async fn open() -> Box<dyn Bench> {
        Box::new(InFile::new(true))
    }

    conformance!(open, durable);
}

mod replayable {
    use super::{Bench, InFile};

    async fn open() -> Box<dyn Bench> {
        Box::new(InFile::new(false))
    }

    conformance!(open, durable);
}
