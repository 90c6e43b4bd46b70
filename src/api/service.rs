//! SecurityGroupService: from a gRPC request to a typed call, and back.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use tonic::{Request, Response, Status};
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::{
    decode::{self, Decoded},
    encode,
    metadata::Given,
    methods,
    proto::v1::{self, security_group_service_server::SecurityGroupService},
    scribe::{self, Attach, method},
    status,
};
use crate::{
    error::Error,
    operations::{Call, CallMeta, Outcome, Progress},
    principal::{Peer, Principal},
    random::Random,
    telemetry::trace,
};

/// The typed part of the path.
pub type Typed = BoxCloneSyncService<Call, Outcome, Error>;

/// What the HTTP layers know of a call; they put it into the request's extensions.
#[derive(Clone, Debug)]
pub struct CallInfo {
    /// For RequestInfo, the log and the answer's metadata.
    pub request_id: Arc<str>,
    /// When our answer must be out: the caller's deadline less our margin.
    pub deadline: tokio::time::Instant,
    /// How far the call has come.
    pub progress: Arc<Progress>,
    /// Who calls, once that is known.
    pub caller: Arc<Caller>,
}

/// Who calls and from where, for the log line that an outer layer writes.
#[derive(Debug, Default)]
pub struct Caller {
    /// Set by authentication.
    pub principal: OnceLock<Arc<Principal>>,
    /// The address behind all trusted proxies. Set by authentication.
    pub address: OnceLock<IpAddr>,
}

/// The service.
#[derive(Clone, Debug)]
pub struct SecurityGroups {
    typed: Typed,
    random: Arc<dyn Random>,
    clock: Arc<dyn crate::clock::Clock>,
}

impl SecurityGroups {
    /// Hands calls to `typed`.
    pub fn new(typed: Typed, random: Arc<dyn Random>, clock: Arc<dyn crate::clock::Clock>) -> Self {
        Self { typed, random, clock }
    }

    async fn handle<Q, R: Attach>(
        &self,
        method: &'static str,
        request: Request<Q>,
        decode: fn(Q) -> decode::Result,
        encode: fn(Outcome, &str) -> Result<R, Error>,
    ) -> Result<Response<R>, Status> {
        let Some(info) = request.extensions().get::<CallInfo>().cloned() else {
            return Err(status::encode(Error::internal("no call info in the request"), ""));
        };
        let refused = |error| status::encode(error, &info.request_id);
        let Some(principal) = request.extensions().get::<Arc<Principal>>().cloned() else {
            return Err(refused(Error::internal("no principal in the request")));
        };
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let (given, mut wrong) = match Given::read(request.metadata()) {
            // Reads take no notice of what only changes need.
            Err(wrong) if methods::is_change(&format!("/{method}")) => (Given::default(), wrong),
            given => (given.unwrap_or_default(), Vec::new()),
        };
        let Decoded { account, region, command } = match decode(request.into_inner()) {
            Ok(decoded) if wrong.is_empty() => decoded,
            Ok(_) => return Err(refused(Error::invalid(wrong))),
            Err(mut body) => {
                body.append(&mut wrong);
                return Err(refused(Error::invalid(body)));
            }
        };
        let Given { key, change_reason, trace_id } = given;
        // With spans of our own, the one that the call is in: without a caller's trace it is a new one.
        let trace_id = trace::current().map(|(trace_id, _)| trace_id.to_string()).or(trace_id);
        let operation_id: Arc<str> = self.new_operation_id().into();
        let meta = CallMeta {
            request_id: info.request_id.clone(),
            deadline: info.deadline,
            account,
            region,
            operation_id: operation_id.clone(),
            principal,
            by_record: false,
            peer,
            method,
            key,
            change_reason,
            trace_id,
            journal: None,
            progress: info.progress.clone(),
        };
        match self.typed.clone().oneshot(Call { meta, command }).await {
            Ok(Outcome::Recorded(answered)) => scribe::answer(*answered, &info.request_id),
            Ok(outcome) => encode(outcome, &operation_id).map(Response::new).map_err(refused),
            Err(error) => Err(refused(error)),
        }
    }

    /// `op-` and a UUID of version 7: sortable by time.
    fn new_operation_id(&self) -> String {
        let since = self.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or_default();
        let [head @ .., _, _, _, _, _, _] = self.random.bits().to_be_bytes();
        format!("op-{}", uuid::Builder::from_unix_timestamp_millis(millis, &head).into_uuid())
    }
}

#[tonic::async_trait]
impl SecurityGroupService for SecurityGroups {
    async fn revoke_egress(
        &self,
        request: Request<v1::RevokeEgressRequest>,
    ) -> Result<Response<v1::RevokeEgressResponse>, Status> {
        self.handle(method::REVOKE_EGRESS, request, decode::revoke_egress, encode::revoke_egress)
            .await
    }

    async fn authorize_egress(
        &self,
        request: Request<v1::AuthorizeEgressRequest>,
    ) -> Result<Response<v1::AuthorizeEgressResponse>, Status> {
        self.handle(
            method::AUTHORIZE_EGRESS,
            request,
            decode::authorize_egress,
            encode::authorize_egress,
        )
        .await
    }

    async fn revoke_ingress(
        &self,
        request: Request<v1::RevokeIngressRequest>,
    ) -> Result<Response<v1::RevokeIngressResponse>, Status> {
        self.handle(method::REVOKE_INGRESS, request, decode::revoke_ingress, encode::revoke_ingress)
            .await
    }

    async fn authorize_ingress(
        &self,
        request: Request<v1::AuthorizeIngressRequest>,
    ) -> Result<Response<v1::AuthorizeIngressResponse>, Status> {
        self.handle(
            method::AUTHORIZE_INGRESS,
            request,
            decode::authorize_ingress,
            encode::authorize_ingress,
        )
        .await
    }

    async fn describe_security_group_rules(
        &self,
        request: Request<v1::DescribeSecurityGroupRulesRequest>,
    ) -> Result<Response<v1::DescribeSecurityGroupRulesResponse>, Status> {
        self.handle(method::DESCRIBE_RULES, request, decode::describe_rules, encode::describe_rules)
            .await
    }

    async fn describe_security_groups(
        &self,
        request: Request<v1::DescribeSecurityGroupsRequest>,
    ) -> Result<Response<v1::DescribeSecurityGroupsResponse>, Status> {
        self.handle(
            method::DESCRIBE_GROUPS,
            request,
            decode::describe_groups,
            encode::describe_groups,
        )
        .await
    }

    async fn create_security_group(
        &self,
        request: Request<v1::CreateSecurityGroupRequest>,
    ) -> Result<Response<v1::CreateSecurityGroupResponse>, Status> {
        self.handle(method::CREATE, request, decode::create, encode::created).await
    }

    async fn delete_security_group(
        &self,
        request: Request<v1::DeleteSecurityGroupRequest>,
    ) -> Result<Response<v1::DeleteSecurityGroupResponse>, Status> {
        self.handle(method::DELETE, request, decode::delete, encode::deleted).await
    }
}
