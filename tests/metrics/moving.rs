//! Each metric of the table moves when its thing happens. One test walks through all of it, and fails at its end if
//! the table has a metric that nothing moved.

use std::{sync::Arc, time::Duration};

use portcullis::{
    api::proto::{
        sandbox::v1::{Fault, FaultKind},
        v1::{
            self, SettleAs, SettleOperationRequest,
            operation_service_client::OperationServiceClient,
        },
    },
    backend::paced::Paced,
    config::{Rate, RateLimits},
    telemetry::metrics::table::{self, TABLE},
};
use tonic::{Code, Request};

use crate::{
    compare,
    support::*,
    text::Seen,
    world::{self, World},
};

const CALLS: &str = "rpc_server_call_duration_seconds_count";
const IN_FLIGHT: &str = "portcullis_calls_in_flight";
const DESCRIBE: &str = "portcullis.v1.SecurityGroupService/DescribeSecurityGroups";
const REVOKE: &str = "portcullis.v1.SecurityGroupService/RevokeEgress";
const HOUR: Duration = Duration::from_secs(3600);
/// The longest delay that can be asked for.
const LONG: Duration = Duration::from_secs(300);

fn https(group: &str) -> v1::RevokeEgressRequest {
    by_permissions(group, vec![tcp(443, "10.0.0.0/8")])
}

fn by_id(group: &str) -> v1::DescribeSecurityGroupsRequest {
    v1::DescribeSecurityGroupsRequest { group_ids: vec![group.into()], ..Default::default() }
}

fn is(wanted: f64) -> impl Fn(f64) -> bool {
    move |value| value == wanted
}

fn some(value: f64) -> bool {
    value > 0.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_the_table_moves_when_its_thing_happens() {
    let mut seen = Seen::default();
    calls(&mut seen).await;
    limits(&mut seen).await;
    pacing(&mut seen).await;
    operations(&mut seen).await;
    ledger(&mut seen).await;
    drain(&mut seen).await;
    crate::program::all(&mut seen).await;
    #[cfg(feature = "ec2")]
    Box::pin(crate::ec2::calls(&mut seen)).await;
    let mut missing = seen.missing();
    if cfg!(not(feature = "ec2")) {
        let ec2 = [&table::EC2_CALL_DURATION, &table::EC2_THROTTLES];
        let ec2 = ec2.map(|metric| metric.prometheus_name());
        missing.retain(|name| !ec2.contains(name));
    }
    assert_eq!(missing, [""; 0], "these never moved");
}

async fn calls(seen: &mut Seen) {
    let mut world = world::start(|_, _| {}).await;
    let admin = world.admin;
    seen.until(admin, "portcullis_connections", &[], is(1.0)).await;
    let fine = [
        ("rpc_system_name", "grpc"),
        ("rpc_method", DESCRIBE),
        ("rpc_response_status_code", "OK"),
        ("portcullis_reason", ""),
    ];
    for times in [1.0, 2.0] {
        world.server.group(DEFAULT_VPC_GROUP).await;
        seen.until(admin, CALLS, &fine, is(times)).await;
    }
    let none = world.server.groups.describe_security_groups(by_id("sg-00000000")).await;
    let (code, reason) = refusal(none);
    assert_eq!(code, Code::NotFound);
    let refused = [("rpc_response_status_code", "NOT_FOUND"), ("portcullis_reason", &reason)];
    seen.until(admin, CALLS, &refused, is(1.0)).await;
    seen.until(admin, IN_FLIGHT, &[], is(0.0)).await;

    // A caller that leaves: the call is counted, once, as dropped.
    let delay = Some(LONG.into());
    let action = "DescribeSecurityGroups".to_owned();
    let kind = FaultKind::Delay.into();
    world.server.inject(Fault { kind, delay, action, ..Default::default() }).await;
    let mut groups = world.server.groups.clone();
    let left =
        tokio::spawn(
            async move { groups.describe_security_groups(by_id(DEFAULT_VPC_GROUP)).await },
        );
    seen.until(admin, IN_FLIGHT, &[], is(1.0)).await;
    left.abort();
    let dropped = [
        ("rpc_method", DESCRIBE),
        ("rpc_response_status_code", "CANCELLED"),
        ("portcullis_reason", "DROPPED"),
    ];
    seen.until(admin, CALLS, &dropped, is(1.0)).await;
    seen.until(admin, IN_FLIGHT, &[], is(0.0)).await;
    // Two that went well, one refused, one dropped; and the fault.
    assert_eq!(world.text().await.value(CALLS, &[]), Some(5.0));
}

async fn limits(seen: &mut Seen) {
    let rate = Rate { per_second: 1, burst: 1 };
    let rate_limits = RateLimits { mutate: Some(rate), ..RateLimits::default() };
    let mut world = world::start(|parts, _| parts.rate_limits = rate_limits).await;
    let limited = [("limit", "principal"), ("class", "mutate")];
    let name = "portcullis_limiter_refusals_total";
    assert_eq!(world.text().await.value(name, &[]), Some(0.0));
    while refusal(world.server.revoke_request(https("sg-00000000")).await).1 != "RATE_LIMITED" {}
    seen.until(world.admin, name, &limited, is(1.0)).await;

    let (_, authenticator) = world::one_caller("alice", 1).await;
    let mut world = world::start_for(authenticator, |_, _| {}).await;
    let failed = [("limit", "failed_authentication"), ("class", "read")];
    loop {
        let refused = world.server.groups.describe_security_groups(by_id("x")).await;
        if refusal(refused).1 == "RATE_LIMITED" {
            break;
        }
    }
    seen.until(world.admin, name, &failed, is(1.0)).await;
}

async fn pacing(seen: &mut Seen) {
    // One change at once, and another after twenty seconds.
    let start = world::start(|parts, metrics| {
        let paced = Paced::new(parts.backend.clone(), 1).counted(metrics.clone());
        parts.backend = Arc::new(paced);
    });
    let mut world = start.await;
    let admin = world.admin;
    world.server.revoke_request(https(DEFAULT_VPC_GROUP)).await.unwrap();
    for class in ["mutate", "read"] {
        let labels = [("account", "123456789012"), ("region", "us-east-1"), ("class", class)];
        seen.until(admin, "portcullis_pacing_wait_seconds_count", &labels, some).await;
        seen.until(admin, "portcullis_pacing_queued", &labels, is(0.0)).await;
    }
    let mut hasty = Request::new(https(NONDEFAULT_VPC_GROUP));
    hasty.set_timeout(Duration::from_secs(2));
    let refused = world.server.patient().revoke_egress(hasty).await;
    assert_eq!(refusal(refused).1, "EC2_BUDGET_EXHAUSTED");
    let changes = [("account", "123456789012"), ("class", "mutate")];
    seen.until(admin, "portcullis_pacing_refusals_total", &changes, is(1.0)).await;
    let mut groups = world.server.groups.clone();
    let waits = tokio::spawn(async move { groups.revoke_egress(https(OTHER_GROUP)).await });
    seen.until(admin, "portcullis_pacing_queued", &changes, is(1.0)).await;
    waits.abort();
    seen.until(admin, "portcullis_pacing_queued", &changes, is(0.0)).await;
}

async fn operations(seen: &mut Seen) {
    let mut world = world::start(|_, _| {}).await;
    let admin = world.admin;
    let finished = "portcullis_operations_finished_total";
    let unsettled = "portcullis_operations_unsettled";
    let recovered = "portcullis_operations_recovered_total";
    let oldest = "portcullis_operations_oldest_unsettled_seconds";
    let in_state = |state| [("rpc_method", REVOKE), ("state", state)];
    for state in ["IN_PROGRESS", "IN_DOUBT", "UNRESOLVED"] {
        seen.until(admin, unsettled, &[("state", state)], is(0.0)).await;
    }
    seen.until(admin, oldest, &[], is(0.0)).await;

    world.server.revoke_request(https(DEFAULT_VPC_GROUP)).await.unwrap();
    seen.until(admin, finished, &in_state("SUCCEEDED"), is(1.0)).await;
    seen.until(admin, "portcullis_turns_wait_seconds_count", &[], is(1.0)).await;
    // It is gone, and here that is an error.
    let refused = world.server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(444, "10.0.0.0/8")]).await;
    assert_eq!(refusal(refused).1, "INVALID_PERMISSION_NOT_FOUND");
    seen.until(admin, finished, &in_state("REFUSED"), is(1.0)).await;

    // An answer that is lost: left in doubt, then settled by reading back.
    world.server.fault(FaultKind::LoseAnswer, "RevokeSecurityGroupEgress").await;
    let lost = world.server.revoke_request(https(NONDEFAULT_VPC_GROUP)).await;
    assert_eq!(refusal(lost).1, "OUTCOME_UNKNOWN");
    seen.until(admin, finished, &in_state("IN_DOUBT"), is(1.0)).await;
    let read_back = [("settled_by", "READ_BACK"), ("state", "SUCCEEDED")];
    seen.until(admin, recovered, &read_back, is(1.0)).await;
    seen.until(admin, finished, &in_state("SUCCEEDED"), is(2.0)).await;

    // What is in somebody's hands, and what nobody can settle.
    world.seed("operation-1", HOUR, false).await;
    seen.until(admin, unsettled, &[("state", "IN_PROGRESS")], is(1.0)).await;
    world.seed("operation-2", HOUR, true).await;
    seen.until(admin, unsettled, &[("state", "IN_DOUBT")], is(1.0)).await;
    seen.until(admin, oldest, &[], some).await;
    world.seed("operation-3", Duration::ZERO, false).await;
    seen.until(admin, finished, &[("state", "UNRESOLVED")], is(1.0)).await;
    seen.until(admin, unsettled, &[("state", "UNRESOLVED")], is(1.0)).await;
    let settle = SettleOperationRequest {
        operation_id: "operation-3".into(),
        r#as: SettleAs::NotApplied.into(),
        reason: "CHG-9".into(),
    };
    let mut operations = OperationServiceClient::new(world.server.channel.clone());
    operations.settle_operation(settle).await.unwrap();
    let operator = [("settled_by", "OPERATOR"), ("state", "RELEASED")];
    seen.until(admin, recovered, &operator, is(1.0)).await;
    seen.until(admin, unsettled, &[("state", "UNRESOLVED")], is(0.0)).await;
}

async fn ledger(seen: &mut Seen) {
    let mut world = world::start(|_, _| {}).await;
    let admin = world.admin;
    let engine = [("engine", "memory")];
    let (duration, writes) = (
        "portcullis_ledger_commit_duration_seconds_count",
        "portcullis_ledger_commit_writes_count",
    );
    world.server.revoke_request(https(DEFAULT_VPC_GROUP)).await.unwrap();
    // The intent and the outcome.
    seen.until(admin, duration, &engine, |value| value >= 2.0).await;
    seen.until(admin, writes, &engine, |value| value >= 2.0).await;
    seen.until(admin, "portcullis_ledger_up", &[], is(1.0)).await;
    world.set_ledger_down(true);
    seen.until(admin, "portcullis_ledger_up", &[], is(0.0)).await;
    world.set_ledger_down(false);
    seen.until(admin, "portcullis_ledger_up", &[], is(1.0)).await;
}

async fn drain(seen: &mut Seen) {
    let mut world: World = world::start(|_, _| {}).await;
    let admin = world.admin;
    seen.until(admin, "portcullis_draining", &[], is(0.0)).await;
    let (kind, action) = (FaultKind::Delay.into(), "DescribeSecurityGroups".to_owned());
    let delay = Some(LONG.into());
    world.server.inject(Fault { kind, delay, action, ..Default::default() }).await;
    let mut groups = world.server.groups.clone();
    let call =
        tokio::spawn(
            async move { groups.describe_security_groups(by_id(DEFAULT_VPC_GROUP)).await },
        );
    seen.until(admin, IN_FLIGHT, &[], is(1.0)).await;
    let drained = world.server.stop();
    seen.until(admin, "portcullis_draining", &[], is(1.0)).await;
    call.abort();
    drained.await.unwrap();
    seen.until(admin, "portcullis_connections", &[], is(0.0)).await;
}

#[test]
fn the_reference_is_the_table() {
    compare::compare("docs/metrics.md", &table::reference());
}

#[test]
fn names_are_told_apart() {
    let names: std::collections::BTreeSet<String> =
        TABLE.iter().map(|metric| metric.prometheus_name()).collect();
    assert_eq!(names.len(), TABLE.len());
}
