//! Malformed calls with JSON, over HTTP/1.1 and HTTP/2, and HTTP/1.1 that breaks in their midst.

use rand::{Rng as _, RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::case::{Call, Case, End, Manner, Sent};

const SERVICE: &str = "/portcullis.v1.SecurityGroupService";
const REVOKE: &str = "/portcullis.v1.SecurityGroupService/RevokeEgress";
const DESCRIBE: &str = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups";

/// The most bytes of an error.
const MAX_ERROR: usize = 32 << 10;

type Kind = (&'static str, fn() -> Vec<End>, fn(&mut StdRng) -> Call);

const KINDS: &[Kind] = &[
    ("bytes that are no JSON", invalid, |rng| {
        let mut junk = bytes(rng, 1..300);
        junk[0] |= 128;
        call(rng, &junk)
    }),
    ("JSON that is cut off", invalid, |rng| {
        let mut text = request(rng);
        text.truncate(rng.random_range(1..text.len()));
        call(rng, text.as_bytes())
    }),
    ("JSON and then more of it", invalid, |rng| {
        let text = format!("{} {}", request(rng), word(rng));
        call(rng, text.as_bytes())
    }),
    ("JSON with bytes changed", any, |rng| {
        let mut text = request(rng).into_bytes();
        for _ in 0..rng.random_range(1..6) {
            let place = rng.random_range(0..text.len());
            match rng.random_range(0..3) {
                0 => text[place] = rng.random(),
                1 => text.insert(place, rng.random()),
                _ => drop(text.remove(place)),
            }
        }
        call(rng, &text)
    }),
    ("JSON nested deeply", invalid, |rng| {
        let depth = rng.random_range(200..55_000);
        let open = if rng.random() { "[" } else { "{\"IpPermissions\":" };
        let end = if rng.random() { "0" } else { "" };
        call(rng, format!("{}{end}", open.repeat(depth)).as_bytes())
    }),
    ("JSON of very many values", invalid, |rng| {
        let value = *["{}", "0", "[]", "\"\""].choose(rng).unwrap();
        let values = vec![value; rng.random_range(60_001..90_000)].join(",");
        call(rng, format!("{{\"IpPermissions\": [{values}]}}").as_bytes())
    }),
    ("JSON with fields that do not exist", invalid, |rng| {
        let names: Vec<String> =
            (0..rng.random_range(1..900)).map(|_| format!("\"{}\": 1", word(rng))).collect();
        call(rng, format!("{{{}}}", names.join(", ")).as_bytes())
    }),
    ("JSON with values of the wrong type", invalid, |rng| {
        let number: u32 = rng.random();
        let text = match rng.random_range(0..8) {
            0 => format!("{{\"GroupId\": {number}}}"),
            1 => format!("{{\"IpPermissions\": \"{}\"}}", word(rng)),
            2 => format!("{{\"IpPermissions\": [[{number}]]}}"),
            3 => format!("{{\"IpPermissions\": [{{\"FromPort\": {number}.5}}]}}"),
            4 => format!("{{\"IpPermissions\": [{{\"FromPort\": 9{number}99999999}}]}}"),
            5 => format!("{{\"DryRun\": {number}}}"),
            6 => format!("[{number}]"),
            _ => format!("\"{}\"", word(rng)),
        };
        call(rng, text.as_bytes())
    }),
    ("JSON with a field twice", invalid, |rng| {
        let name = *["GroupId", "group_id"].choose(rng).unwrap();
        let text = format!("{{\"GroupId\": \"{}\", \"{name}\": \"{}\"}}", word(rng), word(rng));
        call(rng, text.as_bytes())
    }),
    ("JSON that is not UTF-8", invalid, |rng| {
        let wrong: &[u8] =
            [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\\ud800"].choose(rng).unwrap();
        let text = [b"{\"GroupId\": \"", word(rng).as_bytes(), wrong, b"\"}"].concat();
        call(rng, &text)
    }),
    ("JSON in another charset", invalid, |rng| {
        let kind = format!("application/json; charset={}", word(rng));
        typed(call(rng, b"{}"), &kind)
    }),
    ("a deadline that is none", invalid, |rng| {
        let timeout = match rng.random_range(0..4) {
            0 => word(rng),
            1 => format!("{}99999999999", rng.random_range(1..99)),
            2 => format!("-{}", rng.random_range(0..99)),
            _ => format!("{}.5", rng.random_range(0..99)),
        };
        with(call(rng, b"{}"), "connect-timeout-ms", &timeout)
    }),
    ("compressed JSON", unimplemented, |rng| {
        let encoding = *["gzip", "zstd", "br", "x"].choose(rng).unwrap();
        let junk = bytes(rng, 1..99);
        with(call(rng, &junk), "content-encoding", encoding)
    }),
    ("JSON to an unknown method, or one that streams", unimplemented, |rng| {
        let name = word(rng);
        let mut call = call(rng, b"{}");
        call.path = match rng.random_range(0..5) {
            0 => format!("{SERVICE}/{name}"),
            1 => format!("/portcullis.v1.{name}/RevokeEgress"),
            2 => format!("/{name}"),
            3 => format!("{REVOKE}/{name}"),
            _ => "/grpc.health.v1.Health/Watch".to_owned(),
        };
        call
    }),
    (
        "JSON that is not POST",
        || vec![End::Http(405)],
        |rng| {
            let mut call = call(rng, b"{}");
            call.method = ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"].choose(rng).unwrap();
            call
        },
    ),
    (
        "JSON as curl sends a form",
        || vec![End::Json(415, "")],
        |rng| {
            let text = request(rng);
            typed(call(rng, text.as_bytes()), "application/x-www-form-urlencoded")
        },
    ),
    (
        "JSON with a content type that is none",
        || vec![End::Json(415, "")],
        |rng| {
            let (text, kind) = (request(rng), word(rng));
            let kind = match rng.random_range(0..4) {
                0 => format!("text/json; x={kind}"),
                1 => format!("application/{kind}+json"),
                2 => format!("application/{kind}json"),
                _ => format!("{kind}/json"),
            };
            typed(call(rng, text.as_bytes()), &kind)
        },
    ),
    (
        "a JSON body that is huge",
        // Whoever goes on sending may not read the answer.
        || vec![End::Json(429, "REQUEST_TOO_LARGE"), End::Closed],
        |rng| {
            let byte = *b" [x".choose(rng).unwrap();
            let huge = vec![byte; rng.random_range((1 << 20) + 1..3 << 20)];
            Call { http1: true, ..call(rng, &huge) }
        },
    ),
    (
        "a JSON body that is huge, over HTTP/2",
        || vec![End::Json(429, "REQUEST_TOO_LARGE")],
        |rng| {
            let byte = *b" [x".choose(rng).unwrap();
            let huge = vec![byte; rng.random_range((1 << 20) + 1..3 << 20)];
            Call { http1: false, ..call(rng, &huge) }
        },
    ),
    (
        "a JSON body that never ends",
        || vec![End::Json(504, "DEADLINE_EXCEEDED")],
        |rng| {
            let text = request(rng);
            let timeout = rng.random_range(100..900).to_string();
            let call = Call { ends: false, ..call(rng, &text.as_bytes()[..text.len() - 1]) };
            with(call, "connect-timeout-ms", &timeout)
        },
    ),
];

type Broken = (&'static str, fn() -> Vec<End>, fn(&mut StdRng) -> (Vec<u8>, Manner));

/// HTTP/1.1 by hand. Who says that it is done before its answer has come may get none.
const BROKEN: &[Broken] = &[
    (
        "pipelined JSON, good and bad",
        || vec![End::Several(vec![200, 400, 200, 501, 200])],
        |rng| {
            let bad = match rng.random_range(0..3) {
                0 => "{".repeat(rng.random_range(1..500)),
                1 => format!("{{\"{}\": 1}}", word(rng)),
                _ => format!("{} {}", request(rng), word(rng)),
            };
            let good = posted(DESCRIBE, "{}");
            let nowhere = posted(&format!("{SERVICE}/{}", word(rng)), "{}");
            let last = format!("{}{{}}", head(DESCRIBE, "content-length: 2\r\nconnection: close"));
            let all = [&good, &posted(REVOKE, &bad), &good, &nowhere, last.as_bytes()];
            (all.concat(), Manner::AtOnce)
        },
    ),
    ("chunks that are none", stopped, |rng| {
        let broken = match rng.random_range(0..4) {
            0 => format!("z{}\r\n", word(rng)),
            1 => format!("{:x}\r\n{}", rng.random_range(20..99), "x".repeat(19)),
            2 => format!("2\r\n{}\r\n0\r\n\r\n", "x".repeat(rng.random_range(3..99))),
            _ => format!("f{:016x}\r\n", rng.random::<u64>()),
        };
        let head = head(DESCRIBE, "transfer-encoding: chunked");
        (format!("{head}1\r\n{{\r\n{broken}").into(), Manner::AndFinish)
    }),
    ("a JSON body that stops", stopped, |rng| {
        let text = request(rng);
        let length = text.len() + rng.random_range(1..1000);
        let head = head(REVOKE, &format!("content-length: {length}"));
        (format!("{head}{text}").into(), Manner::AndFinish)
    }),
    (
        "lengths that contradict each other",
        || vec![End::Closed, End::Http(400)],
        |rng| {
            let length = rng.random_range(1..99);
            let how = format!("content-length: {length}\r\ncontent-length: {}", length + 1);
            let smuggled = posted(DESCRIBE, "{}");
            let all = [head(REVOKE, &how).as_bytes(), b"{}", &smuggled].concat();
            (all, Manner::AtOnce)
        },
    ),
    (
        "a length and chunks",
        // The chunks count, and what follows is no request of its own.
        || vec![End::Closed, End::Http(400), End::Json(200, "")],
        |rng| {
            let length = rng.random_range(1..99);
            let how = format!("content-length: {length}\r\ntransfer-encoding: chunked");
            let head = head(DESCRIBE, &format!("{how}\r\nconnection: close"));
            (format!("{head}2\r\n{{}}\r\n0\r\n\r\n").into(), Manner::AtOnce)
        },
    ),
    (
        "trailers and extensions of chunks",
        || vec![End::Json(200, "")],
        |rng| {
            let (name, value) = (word(rng), word(rng));
            let head = head(DESCRIBE, "transfer-encoding: chunked\r\nconnection: close");
            let end = format!("0\r\nx-{name}: {value}\r\n\r\n");
            let chunks = format!("1;{name}={value}\r\n{{\r\n1\r\n}}\r\n{end}");
            (format!("{head}{chunks}").into(), Manner::AtOnce)
        },
    ),
];

/// `count` of each kind.
pub fn cases(rng: &mut StdRng, count: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, expected, make) in KINDS {
        cases.extend((0..count).map(|_| Case {
            kind,
            sent: Sent::Call(make(rng)),
            expected: expected(),
        }));
    }
    for (kind, expected, make) in BROKEN {
        cases.extend((0..count).map(|_| {
            let (bytes, manner) = make(rng);
            Case { kind, sent: Sent::Http1(bytes, manner), expected: expected() }
        }));
    }
    cases
}

fn invalid() -> Vec<End> {
    vec![End::Json(400, "INVALID_REQUEST")]
}

fn unimplemented() -> Vec<End> {
    vec![End::Json(501, "UNIMPLEMENTED")]
}

fn any() -> Vec<End> {
    vec![End::AnyJson]
}

/// Told to whoever may still listen, or not.
fn stopped() -> Vec<End> {
    vec![End::Json(400, "INVALID_REQUEST"), End::Http(400), End::Closed]
}

/// A call of a method that takes the request below.
fn call(rng: &mut StdRng, body: &[u8]) -> Call {
    Call {
        http1: rng.random(),
        method: "POST",
        path: REVOKE.to_owned(),
        headers: vec![("content-type".into(), b"application/json".to_vec())],
        body: body.to_vec(),
        ends: true,
    }
}

fn with(mut call: Call, name: &str, value: &str) -> Call {
    call.headers.push((name.into(), value.into()));
    call
}

fn typed(call: Call, kind: &str) -> Call {
    Call { headers: vec![("content-type".into(), kind.into())], ..call }
}

/// A revocation that is in order; it only asks what would be.
fn request(rng: &mut StdRng) -> String {
    let port = rng.random_range(1..65_535);
    let net: u8 = rng.random();
    format!(
        "{{\"GroupId\": \"sg-000000000000000a1\", \"DryRun\": true, \"IpPermissions\": [{{\"IpProtocol\": \
         \"tcp\", \"FromPort\": {port}, \"ToPort\": {port}, \"IpRanges\": [{{\"CidrIp\": \"10.{net}.0.0/16\"}}]}}]}}"
    )
}

fn head(path: &str, how: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{how}\r\n\r\n")
}

fn posted(path: &str, body: &str) -> Vec<u8> {
    format!("{}{body}", head(path, &format!("content-length: {}", body.len()))).into_bytes()
}

fn bytes(rng: &mut StdRng, length: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(length)];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn word(rng: &mut StdRng) -> String {
    (0..rng.random_range(4..20)).map(|_| rng.random_range('a'..='z')).collect()
}

/// Sends it all, and reads all answers until the server closes.
pub async fn exchange(address: &str, bytes: &[u8], manner: Manner) -> End {
    let Ok(mut stream) = TcpStream::connect(address).await else { return End::Closed };
    let _ = stream.write_all(bytes).await;
    if manner == Manner::AndFinish {
        let _ = stream.shutdown().await;
    }
    let (mut got, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        got.extend_from_slice(&buffer[..count]);
    }
    let mut rest = String::from_utf8(got).unwrap();
    let mut ends = Vec::new();
    while !rest.is_empty() {
        let (head, body) = rest.split_once("\r\n\r\n").expect("a whole head");
        let status = head.get(9..12).unwrap().parse().unwrap();
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
        };
        let length = header("content-length").map_or(0, |length| length.parse().unwrap());
        let (body, more) = body.split_at(length);
        ends.push(match header("content-type") {
            Some("application/json") => told(status, header("x-request-id"), body.as_bytes()),
            _ => End::Http(status),
        });
        rest = more.to_owned();
    }
    match ends.as_slice() {
        [] => End::Closed,
        [one] => one.clone(),
        several => End::Several(several.iter().map(status).collect()),
    }
}

fn status(end: &End) -> u16 {
    match end {
        End::Json(status, _) | End::Http(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// What an answer in JSON says; every error must be one that programs can read.
pub fn told(status: u16, request_id: Option<&str>, body: &[u8]) -> End {
    let body: Value = serde_json::from_slice(body).expect("JSON");
    if status == 200 {
        assert!(body.get("code").is_none(), "{body}");
        return End::Json(200, "");
    }
    assert!(body.to_string().len() <= MAX_ERROR, "{} bytes", body.to_string().len());
    for name in ["code", "message"] {
        let text = body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}"));
        assert!(!text.is_empty() && !text.chars().any(char::is_control), "{name}: {body}");
    }
    let Some(details) = body["details"].as_array() else { return End::Json(status, "") };
    let detail = |kind: &str| {
        let found = details.iter().find(|detail| detail["type"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {body}"))["debug"].clone()
    };
    assert_eq!(detail("google.rpc.RequestInfo")["requestId"].as_str(), request_id, "{body}");
    let reason = detail("google.rpc.ErrorInfo")["reason"].as_str().unwrap().to_owned();
    End::Json(status, reason.leak())
}
