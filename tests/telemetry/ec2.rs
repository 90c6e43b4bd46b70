//! A trace from a caller through Portcullis to EC2: moto's server, and a sandbox's EC2 door.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use portcullis::api::proto::{
    sandbox::v1::{Fault, FaultKind, GetStateRequest, InjectFaultRequest},
    v1::{CreateSecurityGroupRequest, DescribeSecurityGroupsRequest, RevokeEgressRequest},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    collector::{Collector, Manner, PATIENCE, attribute, hex},
    program::{GROUP, Program, REVOKE, traceparent, unknown, with},
    programs::{moto, portcullis, tool},
    spans::{OF_EC2, check},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Portcullis in front of an EC2 at that address.
pub async fn in_front_of(address: &str, collector: &str) -> Program {
    let ec2 = format!("http://{address}");
    let flags = [
        "--backend",
        "ec2",
        "--ec2-endpoint-url",
        &ec2,
        "--default-region",
        "us-east-1",
        "--ledger",
        "memory",
        "--otlp-endpoint",
        collector,
    ];
    let keys = [("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "hush-secret")];
    Program::start(&flags, &keys).await
}

/// The spans of calls to EC2 under the span of a call.
fn under<'a>(spans: &'a [Span], call: &Span) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == call.span_id).collect()
}

#[tokio::test]
async fn a_trace_goes_from_the_caller_to_ec2() {
    let Some(program) = tool("venv/bin/moto_server") else { return };
    let ec2 = moto(&program).await;
    let collector = Collector::start(Manner::Keeps).await;
    let program = in_front_of(&ec2.address, &collector.url()).await;
    let parent = traceparent(TRACE, true);
    let create = CreateSecurityGroupRequest {
        group_name: Some("traced".into()),
        description: Some("for a test".into()),
        ..Default::default()
    };
    let metadata = [("traceparent", parent.as_str())];
    program.groups().create_security_group(with(create, &metadata)).await.unwrap();
    let describe = DescribeSecurityGroupsRequest {
        group_ids: vec!["sg-00000000000000000".into()],
        ..Default::default()
    };
    program.groups().describe_security_groups(with(describe, &metadata)).await.unwrap_err();
    let (code, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");

    let spans = collector.got().spans;
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name.ends_with(name));
        found.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
    };
    let call = named("SecurityGroupService/CreateSecurityGroup");
    assert_eq!(
        (hex(&call.trace_id).as_str(), hex(&call.parent_span_id).as_str()),
        (TRACE, "00f067aa0ba902b7")
    );
    let sent =
        *under(&spans, call).iter().find(|span| span.name == "EC2.CreateSecurityGroup").unwrap();
    assert_eq!(hex(&sent.trace_id), TRACE);
    assert_eq!(sent.kind, i32::from(SpanKind::Client));
    check(sent, OF_EC2);
    assert_eq!(attribute(&sent.attributes, "rpc.method").as_deref(), Some("CreateSecurityGroup"));
    assert_eq!(attribute(&sent.attributes, "http.response.status_code").as_deref(), Some("200"));

    let call = named("SecurityGroupService/DescribeSecurityGroups");
    let refused = *under(&spans, call).first().unwrap();
    assert_eq!(refused.name, "EC2.DescribeSecurityGroups");
    let of = |name| attribute(&refused.attributes, name);
    assert_eq!(of("error.type").as_deref(), Some("InvalidGroup.NotFound"));
    assert_eq!(of("http.response.status_code").as_deref(), Some("400"));
    assert_eq!(refused.status.clone().unwrap_or_default().code, i32::from(StatusCode::Error));
    assert!(!format!("{:?}{:?}", spans, collector.got().logs).contains("hush-secret"));
}

/// Stands before an EC2, passes on what comes, and keeps it.
async fn listen_in(ec2: &str) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Mutex::new(String::new()));
    let (kept, ec2) = (heard.clone(), ec2.to_owned());
    tokio::spawn(async move {
        loop {
            let (from, mut to) = listener.accept().await.unwrap().0.into_split();
            let (mut back, on) = TcpStream::connect(&ec2).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut back, &mut to).await });
            tokio::spawn(pass_on(from, on, kept.clone()));
        }
    });
    (address, heard)
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    kept: Arc<Mutex<String>>,
) {
    let mut bytes = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        kept.lock().unwrap().push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        to.write_all(&bytes[..length]).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_to_ec2_names_its_span_and_does_not_sign_that() {
    let ec2 = portcullis(&["--sandbox-ec2-listen", "127.0.0.1:0"], &[]).await;
    let (address, heard) = listen_in(ec2.ec2_door.as_ref().unwrap()).await;
    let collector = Collector::start(Manner::Keeps).await;
    // Each caller has a session of its own, for which STS is asked.
    let file = std::env::temp_dir().join(format!("portcullis-trace-{}.toml", std::process::id()));
    let config = format!(
        "backend = \"ec2\"\nec2_endpoint_url = \"http://{address}\"\nledger = \"memory\"\n\
         otlp_endpoint = \"{}\"\n[[ec2_targets]]\naccount_id = \"123456789012\"\n\
         regions = [\"us-east-1\"]\nrole_arn = \"arn:aws:iam::123456789012:role/portcullis\"\n\
         session_per_principal = true\n",
        collector.url()
    );
    std::fs::write(&file, config).unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "hush-secret")];
    let program = Program::start(&["--config", file.to_str().unwrap()], &keys).await;
    std::fs::remove_file(file).unwrap();
    let parent = traceparent(TRACE, true);
    let metadata = [("traceparent", parent.as_str()), ("tracestate", "vendor=1")];
    program.groups().revoke_egress(with(unknown(1), &metadata)).await.unwrap();
    // A call that is not sampled has no spans, and sends none on.
    let not = traceparent("0af7651916cd43dd8448eb211c80319c", false);
    program.groups().revoke_egress(with(unknown(2), &[("traceparent", &not)])).await.unwrap();
    let (code, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");

    let heard = heard.lock().unwrap().clone();
    let requests: Vec<&str> = heard.split("POST / HTTP/1.1").skip(1).collect();
    let spans = collector.got().spans;
    let sent: Vec<&Span> =
        spans.iter().filter(|span| span.kind == i32::from(SpanKind::Client)).collect();
    assert!(sent.len() >= 4, "{sent:#?}");
    assert_eq!(sent.iter().filter(|span| span.name == "STS.AssumeRole").count(), 1, "{sent:#?}");
    for span in &sent {
        let action = attribute(&span.attributes, "rpc.method").unwrap();
        let (own, body) = (
            format!("traceparent: 00-{TRACE}-{}-01\r\n", hex(&span.span_id)),
            format!("Action={action}&"),
        );
        let of: Vec<&&str> = requests.iter().filter(|request| request.contains(&own)).collect();
        assert!(of.len() == 1 && of[0].contains(&body), "{own}{body}{heard}");
        assert!(of[0].contains("tracestate: vendor=1\r\n"), "{heard}");
    }
    let traced = requests.iter().filter(|request| request.contains("traceparent: ")).count();
    assert!(traced == sent.len() && traced < requests.len(), "{heard}");
    let signed: Vec<&str> = heard.lines().filter(|line| line.contains("SignedHeaders=")).collect();
    assert_eq!(signed.len(), requests.len(), "{heard}");
    assert!(signed.iter().all(|line| !line.contains("trace")), "{heard}");
}

#[tokio::test]
async fn the_trace_of_a_caller_who_has_gone_shows_what_was_sent() {
    let ec2 = portcullis(&["--sandbox-ec2-listen", "127.0.0.1:0"], &[]).await;
    let collector = Collector::start(Manner::Keeps).await;
    let program = in_front_of(ec2.ec2_door.as_ref().unwrap(), &collector.url()).await;
    let channel =
        tonic::transport::Channel::from_shared(format!("http://{}", ec2.address)).unwrap();
    let mut sandbox =
        portcullis::api::proto::sandbox::v1::sandbox_service_client::SandboxServiceClient::new(
            channel.connect().await.unwrap(),
        );
    // It is done at once, and answered later than its caller waits.
    let fault = Fault {
        kind: FaultKind::Delay.into(),
        action: "RevokeSecurityGroupEgress".into(),
        delay: Some(pbjson_types::Duration { seconds: 6, nanos: 0 }),
        ..Default::default()
    };
    sandbox.inject_fault(InjectFaultRequest { fault: Some(fault) }).await.unwrap();
    let RevokeEgressRequest { mut ip_permissions, .. } = unknown(443);
    ip_permissions[0].ip_ranges[0].cidr_ip = Some("10.0.0.0/8".into());
    let request =
        RevokeEgressRequest { group_id: Some(GROUP.into()), ip_permissions, ..Default::default() };
    let mut groups = program.groups();
    let call = tokio::spawn(async move {
        let parent = traceparent(TRACE, true);
        groups.revoke_egress(with(request, &[("traceparent", &parent)])).await
    });
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let request = GetStateRequest { include_effects: true };
            let state = sandbox.get_state(request).await.unwrap().into_inner();
            if !state.effects.is_empty() {
                return;
            }
        }
    });
    done.await.expect("an effect");
    call.abort();
    let left = collector.span("call", |span| span.name == REVOKE).await;
    assert_eq!(attribute(&left.attributes, "portcullis.reason").as_deref(), Some("DROPPED"));
    let sent = "EC2.RevokeSecurityGroupEgress";
    let sent = collector.span(sent, |span| span.name == sent).await;
    assert_eq!((hex(&sent.trace_id).as_str(), &sent.parent_span_id), (TRACE, &left.span_id));
    assert!(sent.end_time_unix_nano > left.end_time_unix_nano, "{left:#?} {sent:#?}");
    assert!(
        Duration::from_nanos(sent.end_time_unix_nano - sent.start_time_unix_nano)
            > Duration::from_secs(1)
    );
    program.end().await;
}
