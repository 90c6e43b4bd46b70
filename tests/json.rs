//! Calls with JSON by real curl against the real program: the same callers, limits and errors as with gRPC.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use secured::{Answer, Secured};
use serde_json::{Value, json};

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "tls/certificates.rs"]
mod certificates;
#[path = "transcripts/compare.rs"]
mod compare;
#[path = "json/errors.rs"]
mod errors;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "attacks/keys.rs"]
mod keys;
#[path = "transcripts/normal.rs"]
mod normal;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "transcripts/programs.rs"]
mod programs;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "json/secured.rs"]
mod secured;

const REVOKE: &str = "/portcullis.v1.SecurityGroupService/RevokeEgress";
const DESCRIBE: &str = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups";
const GROUP: &str = "sg-000000000000000a1";
const RULE: &str = "sgr-0000000000000a1e3";

/// Connect's code, our reason, and the HTTP status.
fn refusal(answer: &Answer) -> (u16, String, String) {
    let error = answer.json();
    let info = detail(&error, "google.rpc.ErrorInfo");
    assert_eq!(info["domain"], "portcullis", "{answer:?}");
    let request_id = detail(&error, "google.rpc.RequestInfo")["requestId"].clone();
    assert_eq!(Some(request_id.as_str().unwrap()), answer.header("x-request-id"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (answer.status, text(&error["code"]), text(&info["reason"]))
}

fn detail(error: &Value, kind: &str) -> Value {
    let details = error["details"].as_array().unwrap_or_else(|| panic!("no details: {error}"));
    let found = details.iter().find(|detail| detail["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}: {error}"))["debug"].clone()
}

fn fields(answer: &Answer) -> Vec<String> {
    let violations = detail(&answer.json(), "google.rpc.BadRequest")["fieldViolations"].clone();
    let violations = violations.as_array().unwrap().iter();
    violations.map(|one| one["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn calls_are_the_same_over_both_versions() {
    let Some(server) = Secured::start("").await else { return };
    let body = json!({"GroupId": GROUP, "SecurityGroupRuleIds": [RULE]});
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        server.sandbox("Reset", json!({})).await;
        let key = format!("idempotency-key: key-{version}");
        let keyed = [flag, "--header", &key, "--header", "x-request-id: mine"];
        let answer = server.call(REVOKE, &body, &keyed).await;
        assert_eq!((answer.status, answer.version.as_str()), (200, version), "{answer:?}");
        assert_eq!(answer.header("x-request-id"), Some("mine"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["Outcome"], "OUTCOME_REVOKED_ALL");
        assert_eq!(answer.json()["RevokedSecurityGroupRules"][0]["SecurityGroupRuleId"], RULE);
        // The key is the call's, so that the same answer comes again, and says so.
        let again = server.call(REVOKE, &body, &keyed).await;
        assert_eq!(again.json(), answer.json());
        assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
        let other = json!({"GroupId": GROUP, "SecurityGroupRuleIds": ["sgr-0000000000000a1e1"]});
        let reused = server.call(REVOKE, &other, &keyed).await;
        let expected = (400, "failed_precondition".into(), "IDEMPOTENCY_KEY_REUSED".into());
        assert_eq!(refusal(&reused), expected);
    }
    // No body is the request without fields.
    let health = server.call("/grpc.health.v1.Health/Check", &json!({}), &[]).await;
    assert_eq!(health.json(), json!({"status": "SERVING"}));
}

#[tokio::test]
async fn callers_are_asked_first() {
    let Some(server) = Secured::start("").await else { return };
    let json = "content-type: application/json";
    let expired = std::fs::read_to_string(server.folder.0.join("expired")).unwrap();
    let expired = format!("authorization: Bearer {expired}");
    for (credential, reason) in [
        ("x-nothing: 0", "CREDENTIALS_MISSING"),
        ("authorization: Bearer x.y.z", "CREDENTIALS_INVALID"),
        (expired.as_str(), "CREDENTIALS_EXPIRED"),
    ] {
        // Whatever else is wrong is not told to them.
        for (path, body) in [(REVOKE, "not JSON"), ("/a/b", "{}"), (DESCRIBE, "{\"X\": 1}")] {
            let arguments = ["--header", json, "--header", credential, "-d", body];
            let answer = server.curl(path, &arguments).await;
            let expected = (401, "unauthenticated".into(), reason.into());
            assert_eq!(refusal(&answer), expected, "{path} {body}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_name() {
    let Some(server) = Secured::start("").await else { return };
    let body = json!({"GroupID": GROUP, "IpPermissions": [{"FromPort": "x"}, 7]});
    let answer = server.call(REVOKE, &body, &[]).await;
    let expected = (400, "invalid_argument".into(), "INVALID_REQUEST".into());
    assert_eq!(refusal(&answer), expected);
    let named = ["GroupID", "ip_permissions[0].from_port", "ip_permissions[1]"];
    assert_eq!(fields(&answer), named, "{answer:?}");
    assert!(answer.text.contains("there is no such field; did you mean GroupId?"), "{answer:?}");

    for (header, field) in [
        ("connect-timeout-ms: soon", "metadata.connect-timeout-ms"),
        ("connect-protocol-version: 2", "metadata.connect-protocol-version"),
    ] {
        let answer = server.call(DESCRIBE, &json!({}), &["--header", header]).await;
        assert_eq!(refusal(&answer), expected);
        assert_eq!(fields(&answer), [field]);
    }
    for (path, header) in [
        ("/grpc.health.v1.Health/Watch", "x-nothing: 0"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "x-nothing: 0"),
        ("/portcullis.v1.SecurityGroupService/Guess", "x-nothing: 0"),
        ("/a/b/c", "x-nothing: 0"),
        (DESCRIBE, "content-encoding: gzip"),
    ] {
        let answer = server.call(path, &json!({}), &["--header", header]).await;
        let expected = (501, "unimplemented".into(), "UNIMPLEMENTED".into());
        assert_eq!(refusal(&answer), expected, "{path} {header}");
    }
    let late = server.call(DESCRIBE, &json!({}), &["--header", "connect-timeout-ms: 0"]).await;
    let expected = (504, "deadline_exceeded".into(), "DEADLINE_EXCEEDED".into());
    assert_eq!(refusal(&late), expected);
    // curl's own content type, and GET.
    let form = server.curl(DESCRIBE, &["-d", "{}"]).await;
    assert_eq!((form.status, form.header("accept-post")), (415, Some("application/json")));
    assert!(form.text.contains("application/json"), "{form:?}");
    let get = server.curl(DESCRIBE, &["--header", "content-type: application/json"]).await;
    assert_eq!(get.status, 405, "{get:?}");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let Some(server) = Secured::start("max_request_bytes = 300000").await else { return };
    let token = std::fs::read_to_string(&server.token_file).unwrap();
    let authorization = format!("authorization: Bearer {token}");
    let invalid = (400, "invalid_argument", "INVALID_REQUEST");
    for (name, body, expected) in [
        ("long", vec![b' '; 300_001], (429, "resource_exhausted", "REQUEST_TOO_LARGE")),
        ("deep", "[".repeat(100_000).into_bytes(), invalid),
        ("many", format!("[{}0]", "0,".repeat(100_000)).into_bytes(), invalid),
        ("bytes", b"{\"GroupId\": \"\xff\xfe\"}".to_vec(), invalid),
        ("cut", b"{\"GroupId\": \"sg".to_vec(), invalid),
    ] {
        let file = server.folder.0.join(name);
        std::fs::write(&file, body).unwrap();
        let data = format!("@{}", file.display());
        // With its length beforehand, and in chunks without it.
        for extra in ["x-nothing: 0", "transfer-encoding: chunked"] {
            let json = "content-type: application/json";
            let arguments = ["--http1.1", "--header", json, "--header", &authorization];
            let body = ["--header", extra, "--data-binary", &data];
            let answer = server.curl(REVOKE, &[&arguments[..], &body].concat()).await;
            let expected = (expected.0, expected.1.to_owned(), expected.2.to_owned());
            assert_eq!(refusal(&answer), expected, "{name} {extra}");
        }
    }
}

#[tokio::test]
async fn a_delay_is_told_to_http_clients_too() {
    let Some(server) = Secured::start("").await else { return };
    let fault = json!({"Kind": "FAULT_KIND_THROTTLE", "Action": "DescribeSecurityGroups"});
    server.sandbox("InjectFault", json!({"Fault": fault})).await;
    let answer = server.call(DESCRIBE, &json!({}), &[]).await;
    let (status, _, reason) = refusal(&answer);
    assert_eq!((status, reason.as_str()), (429, "EC2_REQUEST_LIMIT_EXCEEDED"));
    let pushback: u64 = answer.header("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert_eq!(answer.header("retry-after"), Some(pushback.div_ceil(1000).to_string().as_str()));
}

#[tokio::test]
async fn docs_json_shows_what_curl_prints() {
    if programs::tool("bin/curl").is_none() {
        return;
    }
    let server = programs::portcullis(&[], &[]).await;
    let written = std::fs::read_to_string(compare::path("docs/json.md")).unwrap();
    let (before, rest) = written.split_once("```console\n").unwrap();
    let (block, after) = rest.split_once("```").unwrap();
    let mut now = String::new();
    let mut lines = block.lines();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("$ ") else { continue };
        let mut command = first.to_owned();
        while command.ends_with('\\') {
            command.push('\n');
            command.push_str(lines.next().unwrap());
        }
        let mut shell = tokio::process::Command::new("bash");
        let script = command.replace("127.0.0.1:50051", &server.address);
        shell.args(["-c", &script]).env("NO_PROXY", "*");
        let (output, code) = programs::finish(shell).await;
        assert_eq!(code, 0, "{command}: {output}");
        now.push_str(&format!("$ {command}\n{}\n", output.trim_end()));
    }
    assert!(now.contains("OUTCOME_REVOKED_ALL") && now.contains("did you mean GroupId?"), "{now}");
    // The request's id is in the base64 of a detail, too.
    let same = normal::normal(&without_values(&now)) == normal::normal(&without_values(block));
    let shown = if same { block } else { now.as_str() };
    compare::compare("docs/json.md", &format!("{before}```console\n{shown}```{after}"));
}

fn without_values(text: &str) -> String {
    let mut parts = text.split("\"value\":\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('"').map_or("", |(_, rest)| rest))
}
