//! A running server, a client, and short ways to say what a test is about.

use std::{sync::Arc, time::Duration};

use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use portcullis::{
    access::Access,
    api::proto::{
        sandbox::v1::{
            ClearFaultsRequest, Fault, FaultKind, GetStateRequest, GetStateResponse,
            InjectFaultRequest, LoadStateRequest, SandboxState,
            sandbox_service_client::SandboxServiceClient,
        },
        v1::{
            self, IpPermission, IpRange, Ipv6Range, PrefixListId, RevokeEgressRequest,
            RevokeEgressResponse, UserIdGroupPair,
            security_group_service_client::SecurityGroupServiceClient,
        },
    },
    api::scribe::ProtoScribe,
    backend::sandbox::Sandbox,
    clock::SystemClock,
    config::{AuthenticationConfig, Limits, RateLimits},
    credentials::Authenticator,
    ledger::Terms,
    middleware::idempotency::Books,
    random::SeededRandom,
    server::{self, Drained, Parts, ServerStatus},
};
use prost::Message;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, Status, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt};

/// A group of the default VPC with egress rules of every kind; see [`STATE`].
pub const DEFAULT_VPC_GROUP: &str = "sg-0d000000000000001";
/// The same rules in a nondefault VPC.
pub const NONDEFAULT_VPC_GROUP: &str = "sg-0e000000000000001";
/// A second group in the nondefault VPC, referred to by the first.
pub const OTHER_GROUP: &str = "sg-0e000000000000002";
/// The VPC of [`NONDEFAULT_VPC_GROUP`].
pub const NONDEFAULT_VPC: &str = "vpc-0e000000000000000";
/// An IPv6 VPC.
pub const IPV6_VPC: &str = "vpc-0f000000000000000";

/// Two VPCs with one group each that has the same egress rules:
/// tcp 443 to 10.0.0.0/8 ("internal https"), tcp 80-90 to 10.0.0.0/8, icmp 8/-1 to 10.0.0.0/8,
/// tcp 22 to another group, tcp 443 to a prefix list, all to 0.0.0.0/0.
pub const STATE: &str = include_str!("state.json");

/// A server that runs until the test ends.
pub struct Server {
    pub groups: SecurityGroupServiceClient<Channel>,
    pub sandbox: SandboxServiceClient<Channel>,
    pub address: std::net::SocketAddr,
    pub channel: Channel,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Drained>>,
}

pub fn limits() -> Limits {
    Limits {
        default_deadline: Duration::from_secs(30),
        max_deadline: Duration::from_secs(120),
        drain_timeout: Duration::from_secs(5),
        max_in_flight: 1024,
        max_connections: 100,
        max_request_bytes: 1 << 20,
        max_concurrent_streams: 256,
        keepalive_interval: Duration::from_secs(60),
        keepalive_timeout: Duration::from_secs(20),
        reflection: true,
    }
}

/// A server with [`STATE`].
pub async fn start() -> Server {
    start_with(limits()).await
}

pub async fn start_with(limits: Limits) -> Server {
    start_as(limits, true, Access::allow_all()).await
}

/// Without SandboxService, as with another backend.
pub async fn start_without_sandbox_service() -> Server {
    start_as(limits(), false, Access::allow_all()).await
}

/// With policies.
#[allow(dead_code, reason = "the access tests use it")]
pub async fn start_with_access(access: Access) -> Server {
    start_as(limits(), true, access).await
}

async fn start_as(limits: Limits, sandbox_service: bool, access: Access) -> Server {
    start_parts(limits, RateLimits::default(), sandbox_service, access, nobody().await, None).await
}

/// With this ledger, and policies.
#[allow(dead_code, reason = "the tests of idempotency use it")]
pub async fn start_with_books(books: Books, access: Access) -> Server {
    let none = RateLimits::default();
    start_parts(limits(), none, true, access, nobody().await, Some(books)).await
}

/// With all of it.
#[allow(dead_code, reason = "the tests of operations use it")]
pub async fn start_whole(
    books: Books,
    access: Access,
    authenticator: Arc<Authenticator>,
    rate_limits: RateLimits,
) -> Server {
    start_parts(limits(), rate_limits, true, access, authenticator, Some(books)).await
}

/// What lets everybody in, as the caller on this machine.
pub async fn nobody() -> Arc<Authenticator> {
    let off = AuthenticationConfig::default();
    Arc::new(Authenticator::open(off, false, Arc::new(SystemClock)).await.unwrap())
}

/// For callers that this tells, with limits for each.
#[allow(dead_code, reason = "the tests of attacks and limits use it")]
pub async fn start_limited(
    limits: Limits,
    rate_limits: RateLimits,
    sandbox_service: bool,
    authenticator: Arc<Authenticator>,
) -> Server {
    let access = Access::allow_all();
    start_parts(limits, rate_limits, sandbox_service, access, authenticator, None).await
}

async fn start_parts(
    limits: Limits,
    rate_limits: RateLimits,
    sandbox_service: bool,
    access: Access,
    authenticator: Arc<Authenticator>,
    books: Option<Books>,
) -> Server {
    let state: SandboxState = serde_json::from_str(STATE).unwrap();
    let clock = Arc::new(SystemClock);
    let random = Arc::new(SeededRandom::new(1));
    let (sandbox, warnings) =
        Sandbox::open(Some(state), None, clock.clone(), random.clone()).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let sandbox = Arc::new(sandbox);
    let backend = sandbox.clone();
    let sandbox = sandbox_service.then_some(sandbox);
    let access = Arc::new(access);
    let parts = Parts {
        limits,
        rate_limits,
        tls: None,
        authenticator,
        backend,
        sandbox,
        books: books.unwrap_or_else(|| {
            Books::in_memory(Terms::default(), clock.clone(), Arc::new(ProtoScribe))
        }),
        access,
        clock,
        random,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let task = tokio::spawn(server::serve(listener, parts, shutdown, ServerStatus::default()));
    let channel =
        Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Server {
        groups: SecurityGroupServiceClient::new(channel.clone()),
        sandbox: SandboxServiceClient::new(channel.clone()),
        address,
        channel,
        stop: Some(stop),
        task: Some(task),
    }
}

/// A transport that leaves deadlines to the server. tonic's [`Channel`] has a timer of its own for a call's
/// `grpc-timeout`, which can go off on a busy machine before the server's answer has come.
pub type Patient = Client<HttpConnector, tonic::body::Body>;

/// A client that waits for what the server says of a deadline.
#[allow(dead_code, reason = "the tests of deadlines use it")]
pub fn patient(address: &str) -> SecurityGroupServiceClient<Patient> {
    let transport = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let origin = format!("http://{address}").parse().unwrap();
    SecurityGroupServiceClient::with_origin(transport, origin)
}

impl Server {
    /// A client for calls with a deadline.
    #[allow(dead_code, reason = "the tests of deadlines use it")]
    pub fn patient(&self) -> SecurityGroupServiceClient<Patient> {
        patient(&self.address.to_string())
    }

    /// Begins the drain; the task ends when it is over.
    pub fn stop(&mut self) -> JoinHandle<Drained> {
        let _ = self.stop.take().unwrap().send(());
        self.task.take().unwrap()
    }

    pub async fn revoke(
        &mut self,
        group: &str,
        permissions: Vec<IpPermission>,
    ) -> Result<RevokeEgressResponse, Status> {
        self.revoke_request(by_permissions(group, permissions)).await
    }

    pub async fn revoke_ids(
        &mut self,
        group: &str,
        ids: &[&str],
    ) -> Result<RevokeEgressResponse, Status> {
        self.revoke_request(by_ids(group, ids)).await
    }

    pub async fn revoke_request(
        &mut self,
        request: RevokeEgressRequest,
    ) -> Result<RevokeEgressResponse, Status> {
        self.groups.revoke_egress(request).await.map(tonic::Response::into_inner)
    }

    pub async fn authorize(
        &mut self,
        group: &str,
        permissions: Vec<IpPermission>,
    ) -> Result<v1::AuthorizeEgressResponse, Status> {
        let request = v1::AuthorizeEgressRequest {
            group_id: Some(group.into()),
            ip_permissions: permissions,
            ..Default::default()
        };
        self.groups.authorize_egress(request).await.map(tonic::Response::into_inner)
    }

    pub async fn group(&mut self, group: &str) -> v1::SecurityGroup {
        let request = v1::DescribeSecurityGroupsRequest {
            group_ids: vec![group.into()],
            ..Default::default()
        };
        let mut groups = self
            .groups
            .describe_security_groups(request)
            .await
            .unwrap()
            .into_inner()
            .security_groups;
        groups.pop().unwrap()
    }

    /// The egress rules of a group, as DescribeSecurityGroupRules has them.
    pub async fn egress(&mut self, group: &str) -> Vec<v1::SecurityGroupRule> {
        let mut rules = self.rules(group).await;
        rules.retain(|rule| rule.is_egress == Some(true));
        rules
    }

    pub async fn rules(&mut self, group: &str) -> Vec<v1::SecurityGroupRule> {
        let filter = v1::Filter { name: Some("group-id".into()), values: vec![group.to_owned()] };
        let request =
            v1::DescribeSecurityGroupRulesRequest { filters: vec![filter], ..Default::default() };
        self.groups
            .describe_security_group_rules(request)
            .await
            .unwrap()
            .into_inner()
            .security_group_rules
    }

    /// The id of the egress rule with that first port and peer.
    pub async fn rule_id(&mut self, group: &str, from_port: i32, cidr: &str) -> String {
        let rules = self.egress(group).await;
        let rule = rules.iter().find(|rule| {
            rule.from_port == Some(from_port) && rule.cidr_ipv4.as_deref() == Some(cidr)
        });
        rule.unwrap().security_group_rule_id.clone().unwrap()
    }

    pub async fn create(&mut self, name: &str, vpc: &str) -> Result<String, Status> {
        let request = v1::CreateSecurityGroupRequest {
            group_name: Some(name.into()),
            description: Some("for a test".into()),
            vpc_id: Some(vpc.into()),
            ..Default::default()
        };
        let created = self.groups.create_security_group(request).await?.into_inner();
        Ok(created.group_id.unwrap())
    }

    pub async fn state(&mut self) -> GetStateResponse {
        let request = GetStateRequest { include_effects: true };
        self.sandbox.get_state(request).await.unwrap().into_inner()
    }

    /// How many changes were applied.
    pub async fn effects(&mut self) -> usize {
        self.state().await.effects.len()
    }

    pub async fn load(&mut self, json: &str) {
        let state = serde_json::from_str(json).unwrap();
        let request = LoadStateRequest { state: Some(state), replace: false };
        self.sandbox.load_state(request).await.unwrap();
    }

    pub async fn fault(&mut self, kind: FaultKind, action: &str) {
        self.inject(Fault { kind: kind.into(), action: action.into(), ..Default::default() }).await;
    }

    pub async fn inject(&mut self, fault: Fault) {
        let request = InjectFaultRequest { fault: Some(fault) };
        self.sandbox.inject_fault(request).await.unwrap();
    }

    pub async fn clear_faults(&mut self) {
        self.sandbox.clear_faults(ClearFaultsRequest {}).await.unwrap();
    }
}

pub fn by_permissions(group: &str, permissions: Vec<IpPermission>) -> RevokeEgressRequest {
    RevokeEgressRequest {
        group_id: Some(group.into()),
        ip_permissions: permissions,
        ..Default::default()
    }
}

pub fn by_ids(group: &str, ids: &[&str]) -> RevokeEgressRequest {
    RevokeEgressRequest {
        group_id: Some(group.into()),
        security_group_rule_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        ..Default::default()
    }
}

/// A permission without peers.
pub fn permission(
    protocol: &str,
    from: impl Into<Option<i32>>,
    to: impl Into<Option<i32>>,
) -> IpPermission {
    IpPermission {
        ip_protocol: Some(protocol.into()),
        from_port: from.into(),
        to_port: to.into(),
        ..Default::default()
    }
}

/// A permission with one range, v4 or v6.
pub fn cidr(
    protocol: &str,
    from: impl Into<Option<i32>>,
    to: impl Into<Option<i32>>,
    range: &str,
) -> IpPermission {
    let mut permission = permission(protocol, from, to);
    if range.contains(':') {
        permission.ipv6_ranges.push(Ipv6Range { cidr_ipv6: Some(range.into()), description: None });
    } else {
        permission.ip_ranges.push(IpRange { cidr_ip: Some(range.into()), description: None });
    }
    permission
}

/// tcp on one port to a range.
pub fn tcp(port: i32, range: &str) -> IpPermission {
    cidr("tcp", port, port, range)
}

pub fn described(mut permission: IpPermission, text: &str) -> IpPermission {
    for range in &mut permission.ip_ranges {
        range.description = Some(text.into());
    }
    for pair in &mut permission.user_id_group_pairs {
        pair.description = Some(text.into());
    }
    permission
}

/// tcp on one port to a group.
pub fn tcp_group(port: i32, group: &str) -> IpPermission {
    let mut permission = permission("tcp", port, port);
    permission
        .user_id_group_pairs
        .push(UserIdGroupPair { group_id: Some(group.into()), ..Default::default() });
    permission
}

pub fn prefix_list(protocol: &str, port: i32, id: &str) -> IpPermission {
    let mut permission = permission(protocol, port, port);
    permission
        .prefix_list_ids
        .push(PrefixListId { prefix_list_id: Some(id.into()), description: None });
    permission
}

/// Code and reason of a refusal, having checked what every error must have.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    let details = details(&status);
    let info = details.error_info().expect("ErrorInfo");
    (status.code(), info.reason.clone())
}

/// The details of an error, having checked what every error must have.
pub fn details(status: &Status) -> ErrorDetails {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "portcullis");
    assert!(!details.request_info().expect("RequestInfo").request_id.is_empty());
    assert!(status.details().len() <= 6 << 10, "{} bytes of details", status.details().len());
    details
}

/// EC2's code in an error.
pub fn ec2_code(status: &Status) -> String {
    details(status).error_info().unwrap().metadata.get("ec2_code").cloned().unwrap_or_default()
}

/// Field and reason of each violation.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    details(status)
        .bad_request()
        .expect("BadRequest")
        .field_violations
        .iter()
        .map(|violation| (violation.field.clone(), reason_of(status, &violation.field)))
        .collect()
}

/// tonic-types' own type leaves the newer `reason` out: read it from the bytes.
fn reason_of(status: &Status, field: &str) -> String {
    let status = tonic_types::pb::Status::decode(status.details()).unwrap();
    let detail = status.details.iter().find(|any| any.type_url.ends_with("google.rpc.BadRequest"));
    let request = tonic_types::pb::BadRequest::decode(detail.unwrap().value.as_slice()).unwrap();
    let violation = request.field_violations.iter().find(|violation| violation.field == field);
    violation.unwrap().reason.clone()
}

/// The typed detail of an unknown permission.
pub fn unknown_detail(status: &Status) -> v1::UnknownPermissionsDetail {
    let status = tonic_types::pb::Status::decode(status.details()).unwrap();
    let detail = status
        .details
        .iter()
        .find(|any| any.type_url == "type.googleapis.com/portcullis.v1.UnknownPermissionsDetail");
    v1::UnknownPermissionsDetail::decode(detail.unwrap().value.as_slice()).unwrap()
}
