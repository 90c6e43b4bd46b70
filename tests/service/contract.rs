//! What every client relies on: reflection, health, metadata, compression, gRPC-Web, limits, tonic's own errors.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use portcullis::api::proto::v1;
use prost::Message;
use tonic::{Code, Status, codec::CompressionEncoding};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::*;

/// A call made of bytes, over HTTP/2 without a gRPC client.
pub async fn raw_call(
    server: &Server,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static [u8],
) -> Status {
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{}{path}", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from_static(body));
    let response = sender.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    Status::from_header_map(response.headers()).expect("a Trailers-Only response")
}

#[tokio::test]
async fn reflection_lists_the_services_and_finds_every_detail_type() {
    let server = start().await;
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let mut ask = async |request: MessageRequest| {
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut answers =
            client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("not a list")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "portcullis.v1.SecurityGroupService",
        "portcullis.v1.OperationService",
        "portcullis.sandbox.v1.SandboxService",
    ] {
        assert!(names.iter().any(|listed| listed == name), "{name} is not in {names:?}");
    }
    for symbol in [
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
        "google.rpc.RetryInfo",
        "portcullis.v1.UnknownPermissionsDetail",
        "portcullis.v1.RevokeEgressRequest",
    ] {
        let answer = ask(MessageRequest::FileContainingSymbol(symbol.into())).await;
        assert!(
            matches!(answer, MessageResponse::FileDescriptorResponse(_)),
            "{symbol}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn reflection_answers_in_its_older_version_too() {
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = start().await;
    let symbol = "portcullis.v1.SecurityGroupService".to_owned();
    let message_request = Some(MessageRequest::FileContainingSymbol(symbol));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::FileDescriptorResponse(files) = answer else { panic!("{answer:?}") };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn reflection_lists_only_what_is_served() {
    let server = start_without_sandbox_service().await;
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("not a list") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    let served = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "portcullis.v1.SecurityGroupService",
        "portcullis.v1.OperationService",
    ];
    assert!(served.iter().all(|name| names.iter().any(|listed| listed == name)), "{names:?}");
    assert_eq!(names.len(), served.len(), "{names:?}");
}

#[tokio::test]
async fn health_has_a_name_for_each_part() {
    let server = start().await;
    let mut health = HealthClient::new(server.channel.clone());
    for name in [
        "",
        "portcullis.v1.SecurityGroupService",
        "portcullis.v1.OperationService",
        "mutations",
        "backend",
    ] {
        let request = HealthCheckRequest { service: name.into() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    let request = HealthCheckRequest { service: "no-such".into() };
    let answer = health.check(request).await;
    assert_eq!(answer.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn request_ids_are_taken_over_if_fit_and_always_given() {
    let mut server = start().await;
    let describe = v1::DescribeSecurityGroupsRequest::default;
    let mut own = tonic::Request::new(describe());
    own.metadata_mut().insert("x-request-id", "my-id-1".parse().unwrap());
    let answer = server.groups.describe_security_groups(own).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "my-id-1");
    let mut unfit = tonic::Request::new(describe());
    unfit.metadata_mut().insert("x-request-id", "x".repeat(129).parse().unwrap());
    let answer = server.groups.describe_security_groups(unfit).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap().len(), 36);
    let mut failing = tonic::Request::new(v1::RevokeEgressRequest::default());
    failing.metadata_mut().insert("x-request-id", "my-id-2".parse().unwrap());
    let status = server.groups.revoke_egress(failing).await.unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "my-id-2");
    assert_eq!(details(&status).request_info().unwrap().request_id, "my-id-2");
}

#[tokio::test]
async fn gzip_and_zstd_work_both_ways() {
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let server = start().await;
        let mut groups =
            server.groups.clone().send_compressed(encoding).accept_compressed(encoding);
        let answer = groups
            .describe_security_groups(v1::DescribeSecurityGroupsRequest::default())
            .await
            .unwrap();
        assert_eq!(answer.into_inner().security_groups.len(), 8);
    }
}

#[tokio::test]
async fn tonics_own_errors_have_our_form() {
    let server = start().await;
    let service = "/portcullis.v1.SecurityGroupService";
    // A message whose bytes are no protobuf.
    let status =
        raw_call(&server, &format!("{service}/RevokeEgress"), &[], b"\0\0\0\0\x02\xff\xff").await;
    assert_eq!(violations(&status), [("request".into(), "INVALID_REQUEST".into())]);
    for path in [format!("{service}/NoSuchMethod"), "/no.such.Service/Method".into()] {
        let status = raw_call(&server, &path, &[], b"\0\0\0\0\0").await;
        assert_eq!(refusal::<()>(Err(status)), (Code::Unimplemented, "UNIMPLEMENTED".into()));
    }
    // A frame that promises more than the limit.
    let status =
        raw_call(&server, &format!("{service}/RevokeEgress"), &[], b"\0\x7f\xff\xff\xff").await;
    assert_eq!(refusal::<()>(Err(status)), (Code::ResourceExhausted, "REQUEST_TOO_LARGE".into()));
}

#[tokio::test]
async fn what_is_not_grpc_gets_an_http_status() {
    let server = start().await;
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/portcullis.v1.SecurityGroupService/RevokeEgress", server.address);
    for (method, content_type, expected) in
        [("GET", "application/grpc", 405), ("POST", "text/html", 415)]
    {
        let request = http::Request::builder()
            .method(method)
            .uri(&uri)
            .header("content-type", content_type)
            .body(Full::new(Bytes::new()))
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), expected);
    }
}

#[tokio::test]
async fn grpc_web_over_http_1() {
    let server = start().await;
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let message = v1::DescribeSecurityGroupsRequest {
        group_ids: vec![OTHER_GROUP.into()],
        ..Default::default()
    }
    .encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let request = http::Request::post("/portcullis.v1.SecurityGroupService/DescribeSecurityGroups")
        .header("host", "localhost")
        .header("content-type", "application/grpc-web+proto")
        .body(Full::new(Bytes::from(frame)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
    let answer = v1::DescribeSecurityGroupsResponse::decode(&body[5..5 + length]).unwrap();
    assert_eq!(answer.security_groups[0].group_id.as_deref(), Some(OTHER_GROUP));
    assert!(String::from_utf8_lossy(&body[5 + length..]).contains("grpc-status:0"));
}

#[test]
fn json_names_are_awss() {
    let request: v1::RevokeEgressRequest = serde_json::from_str(
        r#"{"GroupId": "sg-00000000", "IpPermissions": [{"FromPort": 0, "IpProtocol": "tcp", "ToPort": 0}],
            "DryRun": false, "OnUnknown": "ON_UNKNOWN_FAIL"}"#,
    )
    .unwrap();
    assert_eq!(request.ip_permissions[0].from_port, Some(0));
    assert_eq!(request.dry_run, Some(false));
    let json = serde_json::to_value(&request).unwrap();
    assert_eq!(json["IpPermissions"][0]["FromPort"], 0);
    assert_eq!(json["DryRun"], false);
    assert!(serde_json::from_str::<v1::RevokeEgressRequest>(r#"{"group_id": "sg-1"}"#).is_ok());
}
