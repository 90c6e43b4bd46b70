//! A server whose metrics can be read, and calls to it.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use portcullis::{
    admin::{self, Admin},
    api::scribe::ProtoScribe,
    clock::SystemClock,
    config::AuthenticationConfig,
    credentials::{Authenticator, token},
    ledger::{
        Intended, Intent, Ledger, Move, Plan, Record, State, Terms, memory::Memory,
        stored::StoredGroup,
    },
    middleware::idempotency::Books,
    operations::Timing,
    random::SeededRandom,
    reload::Stale,
    server::{Parts, ServerStatus},
    telemetry::{level::Level, metrics::Metrics},
};
use tokio::net::TcpListener;

use crate::{
    faulty::Faulty,
    support::{self, Server},
    text::Text,
};

pub struct World {
    pub server: Server,
    pub admin: SocketAddr,
    pub ledger: Arc<Faulty>,
}

/// With what the test changes. An attempt may take 50 ms: what is in doubt can be settled after a moment.
pub async fn start(change: impl FnOnce(&mut Parts, &Metrics)) -> World {
    start_for(support::nobody().await, change).await
}

/// For callers that this tells.
pub async fn start_for(
    authenticator: Arc<Authenticator>,
    change: impl FnOnce(&mut Parts, &Metrics),
) -> World {
    let metrics = Metrics::open(|readers| readers).unwrap();
    let memory = Memory::new(Terms::default(), Arc::new(SystemClock)).counted(&metrics);
    let ledger = Arc::new(Faulty::new(memory));
    let mut parts = support::parts(authenticator);
    parts.metrics = metrics.clone();
    parts.books = Books {
        ledger: ledger.clone(),
        scribe: Arc::new(ProtoScribe),
        timing: Timing::new(Duration::from_millis(50), Duration::ZERO),
        key_required: false,
        settle_every: Duration::from_millis(100),
    };
    change(&mut parts, &metrics);
    let backend = parts.backend.clone();
    let status = ServerStatus::default();
    let server = support::serve(parts, status.clone()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, level) = Level::open::<tracing_subscriber::Registry>("info").unwrap();
    let (stale, config) = (Stale::default(), "".into());
    let admin = Admin { status, backend, stale, metrics, config, level };
    tokio::spawn(admin::serve(listener, admin, std::future::pending()));
    World { server, admin: address, ledger }
}

/// Tells one caller, by this token; an address may fail so often at once.
pub async fn one_caller(name: &str, failures: u32) -> (String, Arc<Authenticator>) {
    let (token, entry) = token::generate(&SeededRandom::new(7), name, Vec::new());
    let config = AuthenticationConfig {
        failure_burst: failures,
        failures_per_minute: 1,
        tokens: vec![entry],
        ..AuthenticationConfig::default()
    };
    (token, Arc::new(Authenticator::open(config, false, Arc::new(SystemClock)).await.unwrap()))
}

impl World {
    pub async fn text(&self) -> Text {
        Text::read(self.admin).await
    }

    pub fn set_ledger_down(&self, down: bool) {
        self.ledger.down.store(down, Ordering::SeqCst);
    }

    /// Writes a record as a call of an earlier life would have, held for so long, perhaps in doubt.
    pub async fn seed(&self, id: &str, hold: Duration, in_doubt: bool) -> Record {
        let group = StoredGroup { group_id: "sg-00000001".into(), ..StoredGroup::default() };
        let intent = Intent {
            id: id.into(),
            fence: 0,
            scope: "another life".into(),
            caller: "local::local".into(),
            key: None,
            fingerprint: "f".into(),
            method: "portcullis.v1.SecurityGroupService/DeleteSecurityGroup".into(),
            account: "123456789012".into(),
            region: "us-east-1".into(),
            // One group a record, so that none is in the way of another.
            group: format!("group of {id}"),
            request: serde_json::json!({}),
            plan: Plan::Delete { group },
            change_reason: None,
            trace_id: None,
            hold,
            conclusion: None,
        };
        let Intended::Written(record) = self.ledger.intend(&intent).await.unwrap() else {
            panic!("it was not written")
        };
        if !in_doubt {
            return *record;
        }
        let step = Move { hold, ..Move::to(State::InDoubt) };
        self.ledger.advance(&record.id, record.fence, &step).await.unwrap()
    }
}
