//! What is bounded: strangers make no series, and no label tells who calls, or with what. And what promtool says.

use std::{collections::BTreeSet, process::Stdio};

use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{io::AsyncWriteExt as _, process::Command};
use tonic::{Request, body::Body};

use crate::{programs::tool, support::*, text::Seen, world};

const CALLS: &str = "rpc_server_call_duration_seconds_count";

#[tokio::test]
async fn paths_that_a_stranger_makes_up_are_one_series() {
    let world = world::start(|_, _| {}).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
    let mut series = Vec::new();
    for number in 0..200 {
        let path = match number % 3 {
            0 => format!("/a{number}/b"),
            1 => format!("/portcullis.v1.SecurityGroupService/Revoke{number}"),
            _ => format!("/portcullis.v1.SecurityGroupService/RevokeEgress/{number}"),
        };
        let request = http::Request::post(format!("http://{}{path}", world.server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        client.request(request.body(Body::empty()).unwrap()).await.unwrap();
        if number % 3 == 2 {
            series.push(world.text().await.0.lines().count());
        }
    }
    let mut seen = Seen::default();
    seen.until(world.admin, CALLS, &[("rpc_method", "_OTHER")], |value| value == 200.0).await;
    let text = world.text().await;
    assert_eq!(text.series(CALLS).count(), 1, "{}", text.0);
    assert!(series.windows(2).skip(1).all(|two| two[0] == two[1]), "{series:?}");
}

#[tokio::test]
async fn no_label_tells_who_called_or_with_what() {
    let (token, authenticator) = world::one_caller("alice-the-caller", 100).await;
    let world = world::start_for(authenticator, |_, _| {}).await;
    let permissions = vec![tcp(443, "10.0.0.0/8")];
    let mut request = Request::new(by_permissions(DEFAULT_VPC_GROUP, permissions));
    let bearer = format!("Bearer {token}");
    for (name, value) in [
        ("authorization", bearer.as_str()),
        ("idempotency-key", "key-of-the-call"),
        ("x-request-id", "id-of-the-request"),
        ("change-reason", "reason-of-the-change"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let mut groups = world.server.groups.clone();
    let operation = groups.revoke_egress(request).await.unwrap().into_inner().operation_id;
    Seen::default().until(world.admin, CALLS, &[], |value| value == 1.0).await;
    let text = world.text().await;
    for secret in [
        "alice-the-caller",
        &token,
        "key-of-the-call",
        "id-of-the-request",
        "reason-of-the-change",
        DEFAULT_VPC_GROUP,
        &operation,
    ] {
        assert!(!text.0.contains(secret), "{secret} is in\n{}", text.0);
    }
    let labels: BTreeSet<&str> = text
        .0
        .lines()
        .filter_map(|line| line.split_once('{')?.1.rsplit_once('}'))
        .flat_map(|(labels, _)| labels.split("\",").filter_map(|label| label.split_once('=')))
        .map(|(name, _)| name)
        .collect();
    let known = [
        "class",
        "engine",
        "le",
        "limit",
        "portcullis_reason",
        "rpc_method",
        "rpc_response_status_code",
        "rpc_system_name",
        "settled_by",
        "state",
    ];
    assert_eq!(labels, known.into());
}

#[tokio::test]
async fn promtool_has_nothing_to_say() {
    let Some(promtool) = tool("bin/promtool") else { return };
    let mut world = world::start(|_, _| {}).await;
    world.server.revoke(DEFAULT_VPC_GROUP, vec![tcp(443, "10.0.0.0/8")]).await.unwrap();
    let text = format!("{}{}", world.text().await.0, crate::program::text().await.0);
    // Each name once: the two servers have some of them both.
    let mut told = BTreeSet::new();
    let mut keep = false;
    let text: String = text
        .lines()
        .filter(|line| {
            if let Some(help) = line.strip_prefix("# HELP ") {
                keep = told.insert(help.split(' ').next().unwrap().to_owned());
            }
            keep
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(told.len() >= 15, "{told:?}");
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    let said = child.wait_with_output().await.unwrap();
    let words = [said.stdout, said.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(said.status.success() && words.is_empty(), "{words}\n{text}");
}
