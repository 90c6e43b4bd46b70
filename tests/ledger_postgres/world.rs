//! What the tests share: one server, replicas on its databases, and the hand of the database's clock.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use portcullis::{
    ledger::{
        Ledger,
        postgres::{OpenError, Postgres, Settings},
    },
    random::SystemRandom,
};

use crate::{
    server::{Database, Server},
    suite::{Bench, Later, TERMS},
};

/// What ledgers of tests belong to.
pub const BACKEND: &str = "ec2 https://ec2.eu-central-1.amazonaws.com";

/// One server for all tests that leave it as it is. Its machine does not crash.
pub fn shared() -> &'static Server {
    static SERVER: LazyLock<Server> =
        LazyLock::new(|| Server::start(&["fsync=off", "max_connections=400"]));
    &SERVER
}

/// Opens a ledger.
pub async fn open(url: &str) -> Result<Postgres, OpenError> {
    open_bounded(url, Duration::from_secs(20)).await
}

/// The same, whose calls take so long at most.
pub async fn open_bounded(url: &str, bound: Duration) -> Result<Postgres, OpenError> {
    let mut settings = Settings::parse(url)?;
    settings.bound = bound;
    settings.connections = 8;
    Postgres::open(&settings, BACKEND, TERMS, Arc::new(SystemRandom)).await
}

/// The same, where nothing stands against it.
pub async fn ledger(url: &str) -> Arc<dyn Ledger> {
    Arc::new(open(url).await.unwrap())
}

/// Moves a database's clock to so much after the machine's.
pub fn set_clock(database: &Database<'_>, ahead: Duration) {
    database.psql(&format!(
        "CREATE OR REPLACE FUNCTION portcullis.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
            'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + {}'",
        ahead.as_millis()
    ));
}

/// One instance on a database of its own.
#[derive(Debug)]
pub struct Replica {
    database: Database<'static>,
    url: String,
    ahead: Duration,
    ledger: Option<Arc<dyn Ledger>>,
}

impl Replica {
    pub async fn open(database: Database<'static>, url: String) -> Self {
        let ledger = Some(ledger(&url).await);
        Self { database, url, ahead: Duration::ZERO, ledger }
    }
}

impl Bench for Replica {
    fn ledger(&self) -> Arc<dyn Ledger> {
        self.ledger.clone().unwrap()
    }

    fn advance(&mut self, by: Duration) -> Later<'_> {
        self.ahead += by;
        set_clock(&self.database, self.ahead);
        Box::pin(std::future::ready(()))
    }

    fn reopen(&mut self) -> Later<'_> {
        Box::pin(async {
            self.ledger = None;
            self.ledger = Some(ledger(&self.url).await);
        })
    }
}
