//! The ledger on a real PostgreSQL: the conformance suite, directly, without prepared statements, and through PgBouncer, and what is its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

#[path = "ledger_postgres/bouncer.rs"]
mod bouncer;
#[path = "ledger_postgres/budget.rs"]
mod budget;
#[path = "ledger_postgres/chain.rs"]
mod chain;
#[path = "ledger_postgres/failures.rs"]
mod failures;
#[path = "ledger_postgres/names.rs"]
mod names;
#[path = "ledger_postgres/opening.rs"]
mod opening;
#[path = "ledger_postgres/replicas.rs"]
mod replicas;
#[path = "postgres/server.rs"]
mod server;
#[path = "ledger/suite.rs"]
#[macro_use]
mod suite;
#[path = "ledger_postgres/encrypted.rs"]
mod encrypted;
#[path = "ledger_postgres/world.rs"]
mod world;
#[path = "ledger_postgres/writing.rs"]
mod writing;

mod direct {
    use super::{
        suite::Bench,
        world::{Replica, shared},
    };

    async fn open() -> Box<dyn Bench> {
        let database = shared().database();
        let url = database.url();
        Box::new(Replica::open(database, url).await)
    }

    conformance!(open, durable);
}

mod without_names {
    use super::{
        suite::Bench,
        world::{Replica, shared},
    };

    async fn open() -> Box<dyn Bench> {
        let database = shared().database();
        let url = format!("{}&prepared_statements=false", database.url());
        Box::new(Replica::open(database, url).await)
    }

    conformance!(open, durable);
}

mod through_pgbouncer {
    use super::{
        bouncer::bouncer,
        suite::Bench,
        world::{Replica, shared},
    };

    async fn open() -> Box<dyn Bench> {
        let database = shared().database();
        let url = database.url_at(&bouncer().address(), "postgres");
        Box::new(Replica::open(database, url).await)
    }

    conformance!(open, durable);
}
