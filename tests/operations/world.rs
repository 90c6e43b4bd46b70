//! A server with policies and four callers, and a ledger that tests can write into.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    access::{Access, Mode, Policies},
    api::{
        proto::v1::{
            self, GetOperationRequest, ListOperationsRequest, ListOperationsResponse, Operation,
            SettleAs, SettleOperationRequest, operation_service_client::OperationServiceClient,
        },
        scribe::ProtoScribe,
    },
    clock::SystemClock,
    config::{AuthenticationConfig, RateLimits},
    credentials::{Authenticator, token},
    ledger::{
        Intended, Intent, Key, Ledger, Move, Plan, Record, Recorded, State, Terms, memory::Memory,
        stored::StoredGroup,
    },
    middleware::idempotency::Books,
    operations::Timing,
    random::SeededRandom,
};
use serde_json::json;
use tonic::{Request, Status, transport::Channel};

use crate::support::{self, Server};

pub const ACCOUNT: &str = "123456789012";
pub const HERE: (&str, &str) = (ACCOUNT, "us-east-1");
pub const THERE: (&str, &str) = (ACCOUNT, "eu-west-1");

/// Everybody works in one Region and in the sandbox; readers and operators see that Region's operations, operators
/// settle there. In the other Region nobody works but whoever tests say.
pub const POLICIES: &str = r#"
    permit (principal, action in Action::"sandbox", resource);
    permit (principal, action in [Action::"access", Action::"mutate"], resource in Target::"123456789012/us-east-1");
    permit (principal, action == Action::"access", resource == Target::"123456789012/us-east-1");
    permit (principal in Group::"readers", action in [Action::"GetOperation", Action::"ListOperations"],
        resource == Target::"123456789012/us-east-1");
    permit (principal in Group::"operators", action == Action::"SettleOperation",
        resource == Target::"123456789012/us-east-1");
"#;

pub struct World {
    pub server: Server,
    pub ledger: Arc<Memory>,
    pub log: Log,
    operations: OperationServiceClient<Channel>,
    tokens: Vec<(&'static str, String)>,
    _guard: tracing::subscriber::DefaultGuard,
}

/// What was logged, one JSON object a line.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines of the audit stream.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = self.text();
        let lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["target"] == "audit").collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub async fn world() -> World {
    start_ruled(POLICIES, RateLimits::default()).await
}

pub async fn start_ruled(policies: &str, rate_limits: RateLimits) -> World {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let callers = [
        ("alice", vec![]),
        ("bob", vec![]),
        ("reader", vec!["readers"]),
        ("operator", vec!["operators"]),
    ];
    let mut tokens = Vec::new();
    let mut config =
        AuthenticationConfig { failure_burst: 1_000_000, ..AuthenticationConfig::default() };
    for (at, (name, groups)) in callers.into_iter().enumerate() {
        let groups = groups.into_iter().map(str::to_owned).collect();
        let (token, entry) = token::generate(&SeededRandom::new(at as u64), name, groups);
        tokens.push((name, token));
        config.tokens.push(entry);
    }
    let authenticator = Authenticator::open(config, false, Arc::new(SystemClock)).await.unwrap();
    let policies = Policies::parse(&[("test.cedar".to_owned(), policies.to_owned())]);
    let access =
        Access::with(policies.unwrap_or_else(|faults| panic!("{faults:?}")), Mode::Enforce);
    let ledger = Arc::new(Memory::new(Terms::default(), Arc::new(SystemClock)));
    let books = Books {
        ledger: ledger.clone(),
        scribe: Arc::new(ProtoScribe),
        timing: Timing::new(Duration::from_millis(50), Duration::ZERO),
        key_required: false,
        // Nothing is settled in the background.
        settle_every: Duration::from_secs(3600),
    };
    let server = support::start_whole(books, access, Arc::new(authenticator), rate_limits).await;
    let operations =
        OperationServiceClient::new(server.channel.clone()).max_decoding_message_size(64 << 20);
    World { server, ledger, log, operations, tokens, _guard: guard }
}

/// What is seeded of an operation.
#[derive(Clone)]
pub struct Seed {
    pub id: String,
    pub caller: &'static str,
    pub target: (&'static str, &'static str),
    pub group: &'static str,
    pub key: Option<&'static str>,
    pub scope: String,
    pub hold: Duration,
    /// None: IN_PROGRESS.
    pub state: Option<State>,
}

impl Seed {
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            caller: "alice",
            target: HERE,
            group: "sg-00000001",
            key: None,
            scope: "nowhere".into(),
            hold: Duration::ZERO,
            state: Some(State::Succeeded),
        }
    }

    pub fn of(self, caller: &'static str) -> Self {
        Self { caller, ..self }
    }

    pub fn at(self, target: (&'static str, &'static str)) -> Self {
        Self { target, ..self }
    }

    pub fn is(self, state: State) -> Self {
        let state = Some(state).filter(|state| *state != State::InProgress);
        Self { state, ..self }
    }
}

impl World {
    pub fn signed<T>(&self, caller: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some((_, token)) = self.tokens.iter().find(|(name, _)| *name == caller) {
            let header = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        request
    }

    pub fn token(&self, caller: &str) -> &str {
        &self.tokens.iter().find(|(name, _)| *name == caller).unwrap().1
    }

    pub async fn get(&self, caller: &str, id: &str) -> Result<Operation, Status> {
        let request = GetOperationRequest { operation_id: id.into(), ..Default::default() };
        self.ask(caller, request).await
    }

    pub async fn by_key(&self, caller: &str, key: &str) -> Result<Operation, Status> {
        let request = GetOperationRequest { idempotency_key: key.into(), ..Default::default() };
        self.ask(caller, request).await
    }

    pub async fn ask(
        &self,
        caller: &str,
        request: GetOperationRequest,
    ) -> Result<Operation, Status> {
        let answer = self.operations.clone().get_operation(self.signed(caller, request)).await?;
        Ok(answer.into_inner().operation.unwrap())
    }

    pub async fn list(
        &self,
        caller: &str,
        request: ListOperationsRequest,
    ) -> Result<ListOperationsResponse, Status> {
        let answer = self.operations.clone().list_operations(self.signed(caller, request)).await?;
        Ok(answer.into_inner())
    }

    /// The ids of a list's first page, which has to be the only one.
    pub async fn ids(&self, caller: &str, request: ListOperationsRequest) -> Vec<String> {
        let page = self.list(caller, request).await.unwrap();
        assert_eq!(page.next_page_token, "");
        ids(&page)
    }

    pub async fn settle(&self, caller: &str, id: &str, to: SettleAs) -> Result<Operation, Status> {
        let request = SettleOperationRequest {
            operation_id: id.into(),
            r#as: to.into(),
            reason: "CHG-9: seen in CloudTrail".into(),
        };
        let answer = self.operations.clone().settle_operation(self.signed(caller, request)).await?;
        Ok(answer.into_inner().operation.unwrap())
    }

    /// A revoke with a key.
    pub async fn revoke(
        &self,
        caller: &str,
        key: &str,
        request: v1::RevokeEgressRequest,
    ) -> Result<v1::RevokeEgressResponse, Status> {
        let mut request = self.signed(caller, request);
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
        self.server.groups.clone().revoke_egress(request).await.map(tonic::Response::into_inner)
    }

    /// A record of one request with so many texts of that kind in it.
    pub async fn big(&self, seed: Seed, texts: Vec<String>) -> Record {
        self.write(seed, json!({ "Texts": texts })).await
    }

    /// Writes a record as a call would have, and moves it on.
    pub async fn seed(&self, seed: Seed) -> Record {
        let request = json!({"GroupId": seed.group});
        self.write(seed, request).await
    }

    async fn write(&self, seed: Seed, request: serde_json::Value) -> Record {
        let Seed { id, caller, target: (account, region), group, key, scope, hold, state } = seed;
        let plan = Plan::Delete {
            group: StoredGroup {
                group_id: group.into(),
                owner_id: account.into(),
                ..StoredGroup::default()
            },
        };
        let intent = Intent {
            // One group a record, so that none is in the way of another.
            group: format!("{scope} {account}/{region}/{group} {id}"),
            id,
            fence: 0,
            scope,
            caller: format!("token::{caller}"),
            key: key.and_then(Key::parse),
            fingerprint: "f".into(),
            method: "portcullis.v1.SecurityGroupService/DeleteSecurityGroup".into(),
            account: account.into(),
            region: region.into(),
            request,
            plan,
            change_reason: None,
            trace_id: None,
            hold,
            conclusion: None,
        };
        let Intended::Written(record) = self.ledger.intend(&intent).await.unwrap() else {
            panic!("it was not written")
        };
        match state {
            None => *record,
            Some(State::Unresolved) => {
                let held = self.ledger.take_over(&record.id, record.fence, Duration::ZERO).await;
                self.advance(&held.unwrap().unwrap(), State::Unresolved).await
            }
            Some(state) => self.advance(&record, state).await,
        }
    }

    pub async fn advance(&self, record: &Record, to: State) -> Record {
        let answer = Recorded { code: 0, message: String::new(), body: Vec::new() };
        let step = Move { answer: to.is_final().then_some(answer), ..Move::to(to) };
        self.ledger.advance(&record.id, record.fence, &step).await.unwrap()
    }
}

pub fn ids(page: &ListOperationsResponse) -> Vec<String> {
    page.operations.iter().map(|operation| operation.operation_id.clone()).collect()
}
