//! The ledger's engines, each with the conformance suite (`ledger/suite.rs`) and what is its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

#[path = "ledger/suite.rs"]
#[macro_use]
mod suite;
#[path = "ledger/folder.rs"]
mod folder;
#[path = "ledger/sqlite.rs"]
mod sqlite;

mod memory {
    use std::{sync::Arc, time::Duration};

    use portcullis::{
        clock::ManualClock,
        ledger::{Ledger, memory::Memory},
    };

    use super::suite::{self, Bench, Later};

    #[derive(Debug)]
    struct InMemory {
        clock: ManualClock,
        ledger: Arc<Memory>,
    }

    impl Bench for InMemory {
        fn ledger(&self) -> Arc<dyn Ledger> {
            self.ledger.clone()
        }

        fn advance(&mut self, by: Duration) -> Later<'_> {
            self.clock.advance(by);
            Box::pin(std::future::ready(()))
        }

        fn reopen(&mut self) -> Later<'_> {
            panic!("what is in memory dies with it");
        }
    }

    async fn open() -> Box<dyn Bench> {
        let clock = ManualClock::new(suite::start());
        let ledger = Arc::new(Memory::new(suite::TERMS, Arc::new(clock.clone())));
        Box::new(InMemory { clock, ledger })
    }

    conformance!(open);
}
