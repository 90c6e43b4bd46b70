//! A server with short holds, and calls with keys.

use std::{sync::Arc, time::Duration};

use portcullis::{
    access::Access,
    api::{
        proto::{
            sandbox::v1::{Fault, FaultKind},
            v1::{self, RevokeEgressRequest, RevokeEgressResponse},
        },
        scribe::ProtoScribe,
    },
    backend::{Backend, CallContext, RevokeRules, Selection, paced::Paced, sandbox::Sandbox},
    clock::SystemClock,
    ledger::{Filter, Ledger, Record, Terms, memory::Memory},
    middleware::idempotency::Books,
    operations::Timing,
    rule::{Direction, GroupId, GroupRef, RuleId},
    server::{Parts, ServerStatus},
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::{faulty::Faulty, support::*};

pub const REVOKE: &str = "RevokeSecurityGroupEgress";
pub const AUTHORIZE: &str = "AuthorizeSecurityGroupEgress";
pub const CREATE: &str = "CreateSecurityGroup";
pub const DELETE: &str = "DeleteSecurityGroup";

pub struct World {
    pub server: Server,
    /// For others, who do not ask the server.
    outside: Arc<Sandbox>,
    pub ledger: Arc<Faulty>,
}

/// An attempt may take 50 ms: what is in doubt can be settled after a moment.
pub async fn quick() -> World {
    start_timed(Access::allow_all(), Timing::new(Duration::from_millis(50), Duration::ZERO)).await
}

/// Nothing is settled within a test.
pub async fn slow() -> World {
    start_timed(Access::allow_all(), Timing::new(Duration::from_secs(100), Duration::ZERO)).await
}

/// As [`quick`], with policies.
pub async fn settling(access: Arc<Access>) -> World {
    let timing = Timing::new(Duration::from_millis(50), Duration::ZERO);
    start_settling(access, timing, Duration::from_millis(100)).await
}

/// As [`quick`], and only calls settle. With policies.
pub async fn undisturbed(access: Arc<Access>) -> World {
    let timing = Timing::new(Duration::from_millis(50), Duration::ZERO);
    start_settling(access, timing, Duration::from_secs(3600)).await
}

pub async fn start_timed(access: Access, timing: Timing) -> World {
    start_settling(Arc::new(access), timing, Duration::from_millis(100)).await
}

async fn start_settling(access: Arc<Access>, timing: Timing, settle_every: Duration) -> World {
    start(access, timing, settle_every, |sandbox| sandbox).await
}

/// As [`undisturbed`], with so many percent of EC2's budget.
pub async fn paced(percent: u32) -> World {
    let timing = Timing::new(Duration::from_millis(50), Duration::ZERO);
    let access = Arc::new(Access::allow_all());
    let paced = |sandbox| Arc::new(Paced::new(sandbox, percent)) as Arc<dyn Backend>;
    start(access, timing, Duration::from_secs(3600), paced).await
}

async fn start(
    access: Arc<Access>,
    timing: Timing,
    settle_every: Duration,
    around: impl FnOnce(Arc<dyn Backend>) -> Arc<dyn Backend>,
) -> World {
    let memory = Memory::new(Terms::default(), Arc::new(SystemClock));
    let ledger = Arc::new(Faulty::new(memory));
    let books = Books {
        ledger: ledger.clone(),
        scribe: Arc::new(ProtoScribe),
        timing,
        key_required: false,
        settle_every,
    };
    let parts = parts(nobody().await);
    let backend = around(parts.backend.clone());
    let parts = Parts { access, books, backend, ..parts };
    let outside = parts.sandbox.clone().unwrap();
    World { server: serve(parts, ServerStatus::default()).await, outside, ledger }
}

/// A request with a key and the client's deadline.
pub fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

/// tcp 443 to 10.0.0.0/8, which both groups have.
pub fn https(group: &str) -> RevokeEgressRequest {
    by_permissions(group, vec![tcp(443, "10.0.0.0/8")])
}

impl World {
    pub async fn revoke(
        &self,
        key: &str,
        request: RevokeEgressRequest,
    ) -> Result<Response<RevokeEgressResponse>, Status> {
        self.server.groups.clone().revoke_egress(keyed(key, request)).await
    }

    pub async fn authorize(
        &self,
        key: &str,
        group: &str,
        permission: v1::IpPermission,
    ) -> Result<Response<v1::AuthorizeEgressResponse>, Status> {
        let request = v1::AuthorizeEgressRequest {
            group_id: Some(group.into()),
            ip_permissions: vec![permission],
            ..Default::default()
        };
        self.server.groups.clone().authorize_egress(keyed(key, request)).await
    }

    pub async fn records(&self) -> Vec<Record> {
        self.ledger.list(&Filter { limit: 100, ..Filter::default() }).await.unwrap()
    }

    /// The state of each record, newest first.
    pub async fn states(&self) -> Vec<&'static str> {
        self.records().await.iter().map(|record| record.state.as_str()).collect()
    }

    /// Waits until the newest record is in this state.
    pub async fn until(&self, state: &str) -> Record {
        loop {
            let record = self.records().await.remove(0);
            if record.state.as_str() == state {
                return record;
            }
            self.ledger.changed(&record.id, record.version).await.unwrap();
        }
    }
}

/// Whether an answer is marked as a recorded one.
pub fn is_replayed(metadata: &tonic::metadata::MetadataMap) -> bool {
    metadata.get("idempotency-replayed").is_some_and(|value| value == "true")
}

impl World {
    /// The next revoke takes so long at EC2.
    pub async fn delay_a_revoke(&mut self, millis: u64) {
        let delay = Some(Duration::from_millis(millis).into());
        let (kind, action) = (FaultKind::Delay.into(), REVOKE.into());
        self.server.inject(Fault { kind, delay, action, ..Default::default() }).await;
    }

    /// Waits until an intent is written.
    pub async fn ledger_has_one(&self) {
        while self.records().await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Adds a rule as another tool does: not through the ledger.
    pub async fn add_outside(&mut self, group: &str, port: i32, cidr: &str) {
        self.set_outside("sgr-0123456789abcdef0", group, port, cidr).await;
    }

    /// Takes an egress rule away, as another tool does.
    pub async fn remove_outside(&self, group: &str, id: &str) {
        let target = self.outside.resolve(None, None).unwrap();
        let request = RevokeRules {
            group: GroupRef::Id(GroupId::new(group)),
            direction: Direction::Egress,
            selection: Selection::Ids(vec![RuleId::new(id)]),
            dry_run: false,
        };
        let call = CallContext::new(Instant::now() + Duration::from_secs(10), "");
        self.outside.revoke(&call, &target, &request).await.unwrap();
    }

    /// Makes the rule of this id such a one, as another tool does.
    pub async fn set_outside(&mut self, id: &str, group: &str, port: i32, cidr: &str) {
        let state = serde_json::json!({"SecurityGroupRules": [{
            "SecurityGroupRuleId": id,
            "GroupId": group, "IsEgress": true, "IpProtocol": "tcp",
            "FromPort": port, "ToPort": port, "CidrIpv4": cidr,
        }]});
        self.server.load(&state.to_string()).await;
    }
}
