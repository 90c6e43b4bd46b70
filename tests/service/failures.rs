//! What callers see when EC2, the network or the server fails, and that the effects agree with it.

use std::time::Duration;

use portcullis::api::proto::{
    sandbox::v1::{Fault, FaultKind, InjectFaultRequest},
    v1,
};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::support::*;

const REVOKE: &str = "RevokeSecurityGroupEgress";

#[tokio::test]
async fn each_fault_ends_in_its_status_and_the_effect_log_agrees() {
    let cases = [
        (FaultKind::Throttle, Code::ResourceExhausted, "EC2_REQUEST_LIMIT_EXCEEDED", 0),
        (FaultKind::ServerError, Code::Unknown, "OUTCOME_UNKNOWN", 0),
        (FaultKind::LoseAnswer, Code::Unknown, "OUTCOME_UNKNOWN", 1),
        (FaultKind::RefuseCredentials, Code::Unavailable, "EC2_CREDENTIALS_UNAVAILABLE", 0),
    ];
    for (kind, code, reason, effects) in cases {
        let mut server = start().await;
        server.fault(kind, REVOKE).await;
        let status =
            server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap_err();
        let details = details(&status);
        assert_eq!((status.code(), details.error_info().unwrap().reason.as_str()), (code, reason));
        assert_eq!(server.effects().await, effects, "{kind:?}");
        let pushback =
            status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().unwrap());
        match reason {
            // The transport must not send it again on its own.
            "OUTCOME_UNKNOWN" => {
                assert_eq!(pushback, Some("-1"));
                assert!(details.error_info().unwrap().metadata.contains_key("operation_id"));
            }
            _ => {
                let delay = details.retry_info().unwrap().retry_delay.unwrap();
                assert_eq!(pushback, Some(delay.as_millis().to_string().as_str()));
            }
        }
    }
}

#[tokio::test]
async fn a_server_error_may_come_after_the_effect() {
    let mut server = start().await;
    let fault = Fault { action: REVOKE.into(), after_effect: true, ..Default::default() };
    server.inject(Fault { kind: FaultKind::ServerError.into(), ..fault.clone() }).await;
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await;
    assert_eq!(refusal(answer), (Code::Unknown, "OUTCOME_UNKNOWN".into()));
    assert_eq!(server.effects().await, 1);
    // With another kind it is refused, by its name.
    let fault = Some(Fault { kind: FaultKind::LoseAnswer.into(), ..fault });
    let status = server.sandbox.inject_fault(InjectFaultRequest { fault }).await.unwrap_err();
    let violations = details(&status).bad_request().unwrap().field_violations.clone();
    let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["fault.after_effect"]);
}

#[tokio::test]
async fn a_failed_read_changes_nothing_and_says_so() {
    let mut server = start().await;
    let kind = FaultKind::ServerError.into();
    let action = "DescribeSecurityGroups".to_owned();
    server.inject(Fault { kind, action, count: 5, ..Default::default() }).await;
    let answer = server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await;
    assert_eq!(refusal(answer), (Code::Unavailable, "EC2_UNAVAILABLE".into()));
    assert_eq!(server.effects().await, 0);
    server.clear_faults().await;
    server.revoke(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
}

fn with_timeout(
    request: v1::RevokeEgressRequest,
    timeout: &str,
) -> Request<v1::RevokeEgressRequest> {
    let mut request = Request::new(request);
    request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

#[tokio::test]
async fn a_deadline_before_the_send_means_that_nothing_is_ever_sent() {
    let mut server = start().await;
    let delay = Some(pbjson_types::Duration { seconds: 0, nanos: 400_000_000 });
    let action = "DescribeSecurityGroupRules".to_owned();
    let kind = FaultKind::Delay.into();
    server.inject(Fault { kind, action, delay, ..Default::default() }).await;
    let request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    let answer = server.patient().revoke_egress(with_timeout(request, "200m")).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // A drain waits for what is left of it: then nothing more can happen.
    let mut watcher = server.sandbox.clone();
    let drained = server.stop();
    let _ =
        watcher.get_state(portcullis::api::proto::sandbox::v1::GetStateRequest::default()).await;
    assert!(drained.await.unwrap().complete);
}

#[tokio::test]
async fn a_deadline_after_the_send_names_the_operation_and_the_change_is_made() {
    let mut server = start().await;
    let delay = Some(pbjson_types::Duration { seconds: 20, nanos: 0 });
    let kind = FaultKind::Delay.into();
    server.inject(Fault { kind, action: REVOKE.into(), delay, ..Default::default() }).await;
    let request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
    let answer = server.patient().revoke_egress(with_timeout(request, "300m")).await;
    let status = answer.unwrap_err();
    let info = details(&status).error_info().unwrap().clone();
    assert!(info.metadata["operation_id"].starts_with("op-"), "{info:?}");
    let state = server.state().await;
    assert_eq!(state.effects.len(), 1);
    assert_eq!(state.effects[0].operation_id, info.metadata["operation_id"]);
}

#[tokio::test]
async fn a_bad_timeout_is_a_bad_request() {
    let server = start().await;
    // tonic's own client would not send these.
    for timeouts in
        [&[("grpc-timeout", "soon")][..], &[("grpc-timeout", "9S"), ("grpc-timeout", "9S")]]
    {
        let path = "/portcullis.v1.SecurityGroupService/RevokeEgress";
        let status = crate::contract::raw_call(&server, path, timeouts, b"\0\0\0\0\0").await;
        assert_eq!(
            violations(&status),
            [("metadata.grpc-timeout".into(), "INVALID_PARAMETER_VALUE".into())]
        );
    }
}

#[tokio::test]
async fn too_many_calls_in_flight_are_refused_at_once() {
    let mut server = start_with(portcullis::config::Limits { max_in_flight: 1, ..limits() }).await;
    let delay = Some(pbjson_types::Duration { seconds: 20, nanos: 0 });
    let kind = FaultKind::Delay.into();
    let group_id = NONDEFAULT_VPC_GROUP.to_owned();
    server
        .inject(Fault { kind, action: REVOKE.into(), group_id, delay, ..Default::default() })
        .await;
    let mut busy = server.groups.clone();
    let slow = tokio::spawn(async move {
        // It may itself be refused, while one of the calls below has the only place.
        loop {
            let request = by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]);
            match busy.revoke_egress(with_timeout(request, "10S")).await {
                Err(status) if status.code() == Code::Unavailable => {}
                answer => return answer,
            }
        }
    });
    let status = loop {
        if let Err(status) = server.revoke(OTHER_GROUP, vec![cidr("-1", None, None, "::/0")]).await
            && status.code() != Code::NotFound
        {
            break status;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "OVERLOADED");
    // Health is answered all the same.
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel.clone());
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    slow.abort();
}

#[tokio::test]
async fn a_drain_finishes_calls_refuses_new_ones_and_is_bounded_by_open_streams() {
    let mut server = start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);

    let delay = Some(pbjson_types::Duration { seconds: 0, nanos: 300_000_000 });
    let kind = FaultKind::Delay.into();
    server.inject(Fault { kind, action: REVOKE.into(), delay, ..Default::default() }).await;
    let mut client = server.groups.clone();
    let slow = tokio::spawn(async move {
        client
            .revoke_egress(by_permissions(NONDEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]))
            .await
    });
    while server.state().await.effects.is_empty() {
        tokio::task::yield_now().await;
    }
    let drained = server.stop();
    // The watcher is told, and the call in flight is finished.
    let told = watch.message().await.unwrap().unwrap();
    assert_eq!(told.status(), tonic_health::pb::health_check_response::ServingStatus::NotServing);
    assert_eq!(slow.await.unwrap().unwrap().into_inner().outcome(), v1::Outcome::RevokedAll);
    // The watch is still open; the drain ends nevertheless, and the port is free.
    let drained = tokio::time::timeout(Duration::from_secs(20), drained).await.unwrap().unwrap();
    assert!(drained.complete);
    let ended = tokio::time::timeout(Duration::from_secs(20), watch.message()).await.unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    tokio::net::TcpListener::bind(server.address).await.unwrap();
}
