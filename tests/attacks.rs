//! Attacks on the running server: all refused, with the right code and reason, and with one text per reason, so that
//! nothing in it helps. Each of them is a small change of something that is taken, which is tried, too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "attacks/callers.rs"]
mod callers;
#[path = "tls/certificates.rs"]
#[allow(dead_code, reason = "the tests of TLS use the rest")]
mod certificates;
#[path = "attacks/document.rs"]
mod document;
#[path = "attacks/issuer.rs"]
mod issuer;
#[path = "attacks/keys.rs"]
mod keys;
#[path = "attacks/limits.rs"]
mod limits;
#[path = "attacks/load.rs"]
mod load;
#[path = "attacks/mtls.rs"]
mod mtls;
#[path = "attacks/rotation.rs"]
mod rotation;
#[path = "service/support.rs"]
#[allow(dead_code, reason = "the service's tests use the rest")]
mod support;
#[path = "attacks/table.rs"]
mod table;
#[path = "tls/support.rs"]
#[allow(dead_code, reason = "the tests of TLS use the rest")]
mod tls;
#[path = "malformed/wire.rs"]
#[allow(dead_code, reason = "the tests of malformed bytes use the rest")]
mod wire;
#[path = "attacks/world.rs"]
mod world;

use std::collections::HashMap;

use portcullis::api::proto::{sandbox::v1::GetStateRequest, v1};
use serde_json::json;
use support::refusal;
use tonic::{Code, Request};
use world::{FIRST, NOW, SECOND, World, claims, claims_with};

#[tokio::test]
async fn every_attack_is_refused_and_learns_nothing() {
    let world = World::start().await;
    let attacks = table::attacks(&world);
    assert!(attacks.len() >= 60, "{} attacks", attacks.len());
    let mut texts: HashMap<&str, String> = HashMap::new();
    let mut broken = Vec::new();
    for attack in &attacks {
        let Err(status) = world.call(&attack.headers).await else {
            broken.push(format!("{} passed", attack.name));
            continue;
        };
        let info = support::details(&status).error_info().unwrap().clone();
        if (status.code(), info.reason.as_str()) != (attack.code, attack.reason) {
            broken.push(format!("{} was {:?} {}", attack.name, status.code(), info.reason));
            continue;
        }
        if attack.code == Code::Unauthenticated {
            let text = texts.entry(attack.reason).or_insert_with(|| status.message().to_owned());
            if text != status.message() {
                broken.push(format!("{} was told {}", attack.name, status.message()));
            }
        }
        // It learns nothing else, and waiting would not help it.
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        if !info.metadata.is_empty() || pushback.is_some() {
            broken.push(format!("{} was told more: {status:?}", attack.name));
        }
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
    assert_eq!(texts.len(), 3, "{texts:?}");
    println!("{} attacks were refused", attacks.len());

    // What they are changes of still passes.
    for token in [world.p256.token(&claims()), world.static_token.clone()] {
        world.call_as(&token).await.unwrap();
    }
    // Nothing was changed, and none of what was sent is in the log at any level.
    let mut request = Request::new(GetStateRequest { include_effects: true });
    let value = format!("Bearer {}", world.static_token).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let state = world.server.sandbox.clone().get_state(request).await.unwrap().into_inner();
    assert_eq!(state.effects.len(), 0);
    let log = world.log.text();
    assert!(log.contains("reason=\"CREDENTIALS_INVALID\""), "{log}");
    for attack in &attacks {
        for (name, value) in &attack.headers {
            let value = String::from_utf8_lossy(value);
            // The last part of a token: what makes it one.
            let secret = value.rsplit([' ', '.', '"']).find(|part| part.len() > 20);
            if let Some(secret) = secret.filter(|_| *name == "authorization") {
                assert!(!log.contains(secret), "{} is in the log: {secret}", attack.name);
            }
        }
    }
    assert!(!log.contains(&world.static_token[4..]));
    let debug = format!("{:?}", world.authenticator);
    assert!(!debug.contains(&world.static_token[4..]));
}

#[tokio::test]
async fn every_call_needs_a_credential() {
    let world = World::start().await;
    let mut groups = world.server.groups.clone();
    let mut sandbox = world.server.sandbox.clone();
    let missing = (Code::Unauthenticated, "CREDENTIALS_MISSING".to_owned());
    assert_eq!(refusal(groups.revoke_egress(support::by_ids("sg-1", &["sgr-1"])).await), missing);
    assert_eq!(refusal(sandbox.get_state(GetStateRequest::default()).await), missing);
    // Also where there is nothing: what exists here is not for everybody to find out.
    let path = http::uri::PathAndQuery::from_static("/no.such.Service/Call");
    let mut client = tonic::client::Grpc::new(world.server.channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let unknown = client.unary(Request::new(()), path, codec).await;
    assert_eq!(refusal(unknown), missing);
}

#[tokio::test]
async fn every_kind_of_credential_passes_and_is_named_in_the_log() {
    let world = World::start().await;
    let rsa = |alg| world.rsa.token_with(&json!({"alg": alg, "kid": "rsa"}), &claims());
    let no_kid = world.p256.token_with(&json!({"alg": "ES256"}), &claims());
    let access =
        world.p256.token_with(&json!({"alg": "ES256", "kid": "p256", "typ": "at+JWT"}), &claims());
    for token in [
        rsa("RS256"),
        rsa("RS384"),
        rsa("RS512"),
        world.p256.token(&claims()),
        world.p384.token(&claims()),
        world.pinned.token(&claims()),
        world.ed25519.token(&claims()),
        no_kid,
        access,
        world.p256.token(&claims_with(json!({"aud": ["another", "portcullis-staging"]}))),
        // The boundaries, with the skew.
        world.p256.token(&claims_with(json!({"exp": NOW - 59}))),
        world.p256.token(&claims_with(json!({"nbf": NOW + 60, "exp": NOW as f64 + 0.5}))),
        world.p256.token(&claims_with(json!({"nbf": null, "groups": "one", "realm_access": null}))),
        world.p256.token(&claims_with(
            json!({"groups": ["Domain Users", "/a/b"], "sub": "auth0|älice@x"}),
        )),
    ] {
        world.call_as(&token).await.unwrap();
    }
    world
        .call(&[("authorization", format!("bEARER {}", world.static_token).into_bytes())])
        .await
        .unwrap();
    let log = world.log.text();
    assert!(
        log.contains("principal=\"jwt:https%3A//first.example:alice\" method=\"jwt\""),
        "{log}"
    );
    assert!(log.contains("principal=\"token::deployer\" method=\"token\""), "{log}");
    assert!(log.contains("client=127.0.0.1"), "{log}");
}

#[tokio::test]
async fn two_issuers_alices_are_two_callers() {
    let world = World::start().await;
    let of_second = claims_with(json!({"iss": SECOND}));
    world.call_as(&world.p256.token(&claims())).await.unwrap();
    world.call_as(&world.second.token(&of_second)).await.unwrap();
    // The second has one key: a token need not name it.
    world.call_as(&world.second.token_with(&json!({"alg": "ES256"}), &of_second)).await.unwrap();
    let log = world.log.text();
    for issuer in [FIRST, SECOND] {
        let id = format!("principal=\"jwt:{}:alice\"", issuer.replace(':', "%3A"));
        assert!(log.contains(&id), "{id} in {log}");
    }
}

/// Nobody is asked who they are, so that what they say of it is dropped unread and is in no log.
#[tokio::test]
async fn without_authentication_the_header_is_ignored_and_never_logged() {
    let (log, _guard) = world::Log::begin();
    let server = support::start().await;
    let secret = "c2VjcmV0LW9mLXNvbWVib2R5LWVsc2U";
    for values in [
        vec![format!("Bearer {secret}")],
        vec![format!("Basic {secret}")],
        vec![secret.to_owned()],
        vec![format!("Bearer {secret}.{secret}.{secret}"), format!("Bearer {secret}")],
    ] {
        let mut request = Request::new(v1::DescribeSecurityGroupsRequest::default());
        for value in values {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        server.groups.clone().describe_security_groups(request).await.unwrap();
        // Nor where the call fails, and says of itself what it can.
        let mut request = Request::new(support::by_ids("sg-1", &["x"]));
        let value = format!("Bearer {secret}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let status = server.groups.clone().revoke_egress(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(!format!("{status:?}").contains(secret));
    }
    let text = log.text();
    assert!(text.contains("principal=\"local::local\""), "{text}");
    assert!(!text.contains(secret));
}

/// Some clients put credentials there. It is read by nobody.
#[tokio::test]
async fn what_stands_in_a_query_is_never_logged() {
    let world = World::start().await;
    let query = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups?access_token=hush";
    for path in [query, "/no.such.Service/Call?hush", "/?hush"] {
        let mut client = tonic::client::Grpc::new(world.server.channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let mut request = Request::new(());
        let value = format!("Bearer {}", world.static_token).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let path = http::uri::PathAndQuery::from_static(path);
        let _ = client.unary(request, path, codec).await;
    }
    let log = world.log.text();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains(" portcullis")).collect();
    let named = |rpc: &str| ours.iter().any(|line| line.contains(&format!("rpc=\"{rpc}\"")));
    assert!(named(query.split('?').next().unwrap()) && named("/"), "{ours:#?}");
    assert!(!ours.iter().any(|line| line.contains("hush")), "{ours:#?}");
}

/// The header's value ends the header's line: HTTP has no way to write it, and what is written all the same is no call.
#[tokio::test]
async fn a_new_line_in_a_header_makes_no_second_header() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::start().await;
    let path = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups";
    for (name, value) in [
        ("a line feed alone", "Bearer x\nauthorization: Bearer GOOD"),
        ("a carriage return alone", "Bearer x\rauthorization: Bearer GOOD"),
        ("two headers", "Bearer x\r\nauthorization: Bearer GOOD"),
        ("a folded line", "Bearer x\r\n GOOD"),
        ("a zero byte", "Bearer x\0GOOD"),
        ("a smuggled call", "Bearer x\r\ncontent-length: 0\r\n\r\nPOST / HTTP/1.1\r\nx: GOOD"),
    ] {
        let value = value.replace("GOOD", &world.static_token);
        let mut stream = tokio::net::TcpStream::connect(world.server.address).await.unwrap();
        let call = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web\r\nconnection: close\r\n\
             authorization: {value}\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0"
        );
        stream.write_all(call.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It may close with our bytes unread, which some systems tell as an error.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        let refused = answer.contains("grpc-status: 16") || answer.contains("grpc-status:16");
        assert!(refused || answer.starts_with("http/1.1 400"), "{name}: {answer}");
        assert!(!answer.contains("securitygroups"), "{name}: {answer}");
    }
    // The same call with the good one alone is answered.
    let mut stream = tokio::net::TcpStream::connect(world.server.address).await.unwrap();
    let call = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web\r\nconnection: close\r\n\
         authorization: Bearer {}\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0",
        world.static_token
    );
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.contains("grpc-status: 0") || answer.contains("grpc-status:0"), "{answer}");
}

#[tokio::test]
async fn a_token_that_expires_on_an_open_connection_is_refused_there() {
    let world = World::start().await;
    let token = world.p256.token(&claims());
    world.call_as(&token).await.unwrap();
    world.clock.advance(std::time::Duration::from_secs(660));
    let expired = (Code::Unauthenticated, "CREDENTIALS_EXPIRED".to_owned());
    assert_eq!(world.refusal_of(&token).await, expired);
}
