//! Three processes: a caller, Portcullis with its EC2 backend, and a sandbox whose EC2 door misbehaves. Whatever
//! happens on the way, the caller is told what the sandbox's log of effects says happened.

#![cfg(feature = "ec2")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]
#![allow(dead_code, reason = "the helpers serve other tests, too")]

use std::time::Duration;

use portcullis::api::proto::{
    sandbox::v1::{
        Fault, FaultKind, GetStateRequest, InjectFaultRequest, ResetRequest,
        sandbox_service_client::SandboxServiceClient,
    },
    v1::{
        AuthorizeEgressRequest, CreateSecurityGroupRequest, DeleteSecurityGroupRequest,
        DescribeSecurityGroupRulesRequest, RevokeEgressRequest,
        security_group_service_client::SecurityGroupServiceClient,
    },
};
use tonic::{Code, Request, Status, transport::Channel};

use programs::{Program, portcullis};
use support::{Patient, by_ids, by_permissions, details, ec2_code, patient, tcp};

#[path = "transcripts/programs.rs"]
mod programs;
#[path = "service/support.rs"]
mod support;

/// Groups of the sandbox's sample.
const DEFAULT_VPC_GROUP: &str = "sg-000000000000000d1";
const NONDEFAULT_VPC_GROUP: &str = "sg-000000000000000a1";

const REVOKE: &str = "RevokeSecurityGroupEgress";
const RULES: &str = "DescribeSecurityGroupRules";

/// The processes, and a client of each.
struct World {
    groups: SecurityGroupServiceClient<Patient>,
    sandbox: SandboxServiceClient<Channel>,
    ec2: Program,
    _service: Program,
}

/// What a caller was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It was done.
    Done,
    /// It was not done.
    NotDone(Code, String),
    /// Nobody knows.
    Unknown(Code, String),
}

impl World {
    async fn start() -> Self {
        let ec2 = portcullis(&["--sandbox-ec2-listen", "127.0.0.1:0"], &[]).await;
        let url = format!("http://{}", ec2.ec2_door.as_ref().unwrap());
        let flags = [
            "--backend",
            "ec2",
            "--ec2-endpoint-url",
            &url,
            "--default-region",
            "us-east-1",
            "--ledger",
            "memory",
        ];
        let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
        let service = portcullis(&flags, &keys).await;
        let channel = |address: &str| {
            Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
        };
        Self {
            groups: patient(&service.address),
            sandbox: SandboxServiceClient::new(channel(&ec2.address)),
            ec2,
            _service: service,
        }
    }

    /// The state of the start, with this fault waiting.
    async fn with(&mut self, fault: Fault) {
        self.sandbox.reset(ResetRequest {}).await.unwrap();
        let request = InjectFaultRequest { fault: Some(fault) };
        self.sandbox.inject_fault(request).await.unwrap();
    }

    /// The operations that had effects, and how many calls of the action came.
    async fn effects(&mut self, action: &str) -> (Vec<String>, u32) {
        let request = GetStateRequest { include_effects: true };
        let state = self.sandbox.get_state(request).await.unwrap().into_inner();
        let operations = state.effects.into_iter().map(|effect| effect.operation_id).collect();
        (operations, state.calls.get(action).copied().unwrap_or_default())
    }

    /// What the caller of a mutation was told, having checked it against the log of effects: a change that was
    /// answered is in the log under the operation's id, one that was refused is not, one in doubt is named.
    async fn check(&mut self, name: &str, answer: Result<String, Status>) -> (Told, usize) {
        let (operations, _) = self.effects("").await;
        let told = match answer {
            Ok(operation) => {
                assert_eq!(operations, [operation], "{name}");
                Told::Done
            }
            Err(status) => {
                let info = details(&status);
                let info = info.error_info().unwrap();
                let reason = info.reason.clone();
                if matches!(reason.as_str(), "OUTCOME_UNKNOWN" | "DEADLINE_EXCEEDED") {
                    let operation = &info.metadata["operation_id"];
                    assert!(operations.iter().all(|id| id == operation), "{name}: {operations:?}");
                    Told::Unknown(status.code(), reason)
                } else {
                    assert_eq!(operations, [""; 0], "{name}: {status:?}");
                    Told::NotDone(status.code(), reason)
                }
            }
        };
        (told, operations.len())
    }

    async fn revoke(&mut self, request: RevokeEgressRequest) -> Result<String, Status> {
        let mut request = Request::new(request);
        request.set_timeout(Duration::from_secs(3));
        Ok(self.groups.revoke_egress(request).await?.into_inner().operation_id)
    }
}

fn fault(kind: FaultKind, action: &str) -> Fault {
    Fault { kind: kind.into(), action: action.into(), count: 100, ..Default::default() }
}

fn server_error(code: &str, after_effect: bool) -> Fault {
    let error_code = code.to_owned();
    Fault { error_code, after_effect, ..fault(FaultKind::ServerError, REVOKE) }
}

fn refuse(code: &str) -> Fault {
    Fault { error_code: code.to_owned(), ..fault(FaultKind::Refuse, REVOKE) }
}

fn not_done(code: Code, reason: &str) -> Told {
    Told::NotDone(code, reason.to_owned())
}

fn unknown(code: Code, reason: &str) -> Told {
    Told::Unknown(code, reason.to_owned())
}

#[tokio::test]
async fn each_fault_of_a_revoke_ends_in_its_status_and_the_effect_log_agrees() {
    let delay = |seconds| {
        let delay = Some(Duration::from_secs(seconds).into());
        Fault { delay, ..fault(FaultKind::Delay, REVOKE) }
    };
    let in_doubt = || unknown(Code::Unknown, "OUTCOME_UNKNOWN");
    let cases = [
        (
            "throttled",
            fault(FaultKind::Throttle, REVOKE),
            not_done(Code::ResourceExhausted, "EC2_REQUEST_LIMIT_EXCEEDED"),
            0,
        ),
        ("500 before the effect", server_error("", false), in_doubt(), 0),
        ("500 after the effect", server_error("", true), in_doubt(), 1),
        ("503 before the effect", server_error("Unavailable", false), in_doubt(), 0),
        ("503 after the effect", server_error("ServiceUnavailable", true), in_doubt(), 1),
        ("reset in the midst of the answer", fault(FaultKind::LoseAnswer, REVOKE), in_doubt(), 1),
        (
            "delayed past the deadline",
            delay(60),
            unknown(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            1,
        ),
        ("delayed a little", delay(1), Told::Done, 1),
        (
            "the role may not",
            refuse("UnauthorizedOperation"),
            not_done(Code::PermissionDenied, "EC2_UNAUTHORIZED_OPERATION"),
            0,
        ),
        (
            "refused for another reason",
            refuse("IncorrectState"),
            not_done(Code::FailedPrecondition, "EC2_REJECTED"),
            0,
        ),
        (
            "credentials refused",
            fault(FaultKind::RefuseCredentials, REVOKE),
            not_done(Code::Unavailable, "EC2_CREDENTIALS_UNAVAILABLE"),
            0,
        ),
    ];
    let count = cases.len();
    for (name, fault, expected, effects) in cases {
        for group in [DEFAULT_VPC_GROUP, NONDEFAULT_VPC_GROUP] {
            // A world of its own: what is in doubt in one would be joined by an equal call in the next.
            let mut world = World::start().await;
            world.with(fault.clone()).await;
            let request = by_permissions(group, vec![tcp(443, "0.0.0.0/0")]);
            let answer = world.revoke(request).await;
            let (told, applied) = world.check(name, answer).await;
            assert_eq!((&told, applied), (&expected, effects), "{name}, {group}");
            let (_, calls) = world.effects(REVOKE).await;
            assert_eq!(calls, 1, "{name}: a mutation is sent once");
        }
    }
    eprintln!("{count} faults, each in both kinds of VPC");
}

#[tokio::test]
async fn reads_are_tried_again_and_their_failure_sends_nothing() {
    let mut world = World::start().await;
    let revoke = || by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "0.0.0.0/0")]);
    for kind in [FaultKind::Throttle, FaultKind::ServerError, FaultKind::LoseAnswer] {
        let once = Fault { count: 1, ..fault(kind, RULES) };
        world.with(once).await;
        let answer = world.revoke(revoke()).await;
        assert_eq!(world.check("once", answer).await, (Told::Done, 1), "{kind:?}");

        world.with(fault(kind, RULES)).await;
        let answer = world.revoke(revoke()).await;
        let (told, effects) = world.check("always", answer).await;
        assert!(matches!(told, Told::NotDone(..)), "{kind:?}: {told:?}");
        let (_, calls) = world.effects(REVOKE).await;
        assert_eq!((effects, calls), (0, 0), "{kind:?}");
    }
    // A read itself.
    world.with(fault(FaultKind::Throttle, RULES)).await;
    let request = DescribeSecurityGroupRulesRequest::default();
    let status = world.groups.describe_security_group_rules(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(ec2_code(&status), "RequestLimitExceeded");
}

#[tokio::test]
async fn every_mutation_that_loses_its_answer_is_in_doubt_and_named() {
    let mut world = World::start().await;
    let group_id = Some(NONDEFAULT_VPC_GROUP.to_owned());
    let rules = DescribeSecurityGroupRulesRequest::default();
    let rules = world.groups.describe_security_group_rules(rules).await.unwrap().into_inner();
    let rule = rules
        .security_group_rules
        .iter()
        .find(|rule| rule.group_id == group_id && rule.is_egress == Some(true));
    let rule_id = rule.unwrap().security_group_rule_id.clone().unwrap();
    let actions = [
        "RevokeSecurityGroupEgress",
        "AuthorizeSecurityGroupEgress",
        "CreateSecurityGroup",
        "DeleteSecurityGroup",
    ];
    for action in actions {
        world.with(fault(FaultKind::LoseAnswer, action)).await;
        let answer = match action {
            "RevokeSecurityGroupEgress" => {
                world.revoke(by_ids(NONDEFAULT_VPC_GROUP, &[&rule_id])).await
            }
            "AuthorizeSecurityGroupEgress" => {
                let request = AuthorizeEgressRequest {
                    group_id: group_id.clone(),
                    ip_permissions: vec![tcp(8443, "10.1.0.0/16")],
                    ..Default::default()
                };
                let answer = world.groups.authorize_egress(request).await;
                answer.map(|answer| answer.into_inner().operation_id)
            }
            "CreateSecurityGroup" => {
                let request = CreateSecurityGroupRequest {
                    group_name: Some("lost".to_owned()),
                    description: Some("lost".to_owned()),
                    ..Default::default()
                };
                let answer = world.groups.create_security_group(request).await;
                answer.map(|answer| answer.into_inner().operation_id)
            }
            _ => {
                let request = DeleteSecurityGroupRequest {
                    group_id: Some("sg-000000000000000a4".to_owned()),
                    ..Default::default()
                };
                let answer = world.groups.delete_security_group(request).await;
                answer.map(|answer| answer.into_inner().operation_id)
            }
        };
        let told = world.check(action, answer).await;
        assert_eq!(told, (unknown(Code::Unknown, "OUTCOME_UNKNOWN"), 1), "{action}");
    }
}

#[tokio::test]
async fn a_dry_run_that_fails_leaves_no_doubt() {
    let mut world = World::start().await;
    for kind in [FaultKind::ServerError, FaultKind::LoseAnswer] {
        world.with(fault(kind, REVOKE)).await;
        let request = RevokeEgressRequest {
            dry_run: Some(true),
            ..by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "0.0.0.0/0")])
        };
        let answer = world.revoke(request).await;
        let told = world.check("dry run", answer).await;
        assert_eq!(told, (not_done(Code::Unavailable, "EC2_UNAVAILABLE"), 0), "{kind:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_got_nothing() {
    let World { mut groups, ec2, _service, .. } = World::start().await;
    drop(ec2);
    let request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "0.0.0.0/0")]);
    let status = groups.revoke_egress(request).await.unwrap_err();
    let info = details(&status);
    let info = info.error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "EC2_UNAVAILABLE"));
    assert_eq!(info.metadata.get("operation_id"), None);
}
