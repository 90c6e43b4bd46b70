//! Malformed gRPC calls in well-formed HTTP.

use prost::Message as _;
use rand::{Rng as _, RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use tonic::Code;

use super::{
    case::{Call, Case, End, Sent, invalid, too_large},
    support, wire,
};

const SERVICE: &str = "/portcullis.v1.SecurityGroupService";

const METHODS: [&str; 8] = [
    "RevokeEgress",
    "AuthorizeEgress",
    "RevokeIngress",
    "AuthorizeIngress",
    "DescribeSecurityGroupRules",
    "DescribeSecurityGroups",
    "CreateSecurityGroup",
    "DeleteSecurityGroup",
];

/// A kind of malformed call: its name, what it may come to, and one of it.
type Kind = (&'static str, fn() -> Vec<End>, fn(&mut StdRng) -> Call);

const KINDS: &[Kind] = &[
    ("bytes that are no protobuf", invalid, no_protobuf),
    ("a request with bytes changed", any, changed),
    ("groups nested too deeply", invalid, nested),
    ("a hundred thousand empty elements", invalid, |rng| {
        let element: &[u8] = if rng.random() { &[18, 0] } else { &[18, 2, 58, 0] };
        let many = element.repeat((256 << 10) / element.len() + rng.random_range(0..99));
        body(rng, &wire::message(0, &many)).at("RevokeEgress")
    }),
    ("values out of every range", invalid, extreme),
    ("a truncated gRPC message", invalid, truncated),
    ("no message at all", invalid, |rng| body(rng, &[])),
    ("a compression flag that is none", invalid, |rng| {
        let flag = rng.random_range(2..=255);
        let bytes = bytes(rng, 1..60);
        body(rng, &wire::message(flag, &bytes))
    }),
    ("compressed without saying how", invalid, |rng| {
        let bytes = bytes(rng, 1..60);
        body(rng, &wire::message(1, &bytes))
    }),
    ("compressed, but not", invalid, |rng| {
        let bytes = bytes(rng, 20..200);
        let encoding = *["gzip", "zstd"].choose(rng).unwrap();
        body(rng, &wire::message(1, &bytes)).with("grpc-encoding", encoding)
    }),
    (
        "an unknown compression",
        || status(Code::Unimplemented, "UNIMPLEMENTED"),
        |rng| {
            let name = word(rng);
            let bytes = bytes(rng, 1..60);
            body(rng, &wire::message(1, &bytes)).with("grpc-encoding", &format!("x-{name}"))
        },
    ),
    ("a gzip bomb", too_large, |rng| {
        let bomb = wire::gzip_bomb(rng.random_range(2 << 20..80 << 20));
        body(rng, &wire::message(1, &bomb)).with("grpc-encoding", "gzip")
    }),
    ("a zstd bomb", too_large, |rng| {
        let bomb = wire::zstd_bomb(rng.random_range(2 << 20..1 << 30));
        body(rng, &wire::message(1, &bomb)).with("grpc-encoding", "zstd")
    }),
    ("a message that claims to be huge", too_large, |rng| {
        let length: u32 = rng.random_range((1 << 20) + 1..u32::MAX);
        let head = [&[0][..], &length.to_be_bytes()].concat();
        body(rng, &head)
    }),
    ("a message that is huge", too_large, |rng| {
        let bytes = vec![rng.random(); rng.random_range((1 << 20) + 1..3 << 20)];
        body(rng, &wire::message(0, &bytes))
    }),
    ("a message after the message", any, |rng| {
        let request = request(rng).encode_to_vec();
        let more = bytes(rng, 1..60);
        body(rng, &[wire::message(0, &request), more].concat())
    }),
    (
        "an unknown method or service",
        || status(Code::Unimplemented, "UNIMPLEMENTED"),
        |rng| {
            let name = word(rng);
            let mut call = body(rng, &wire::message(0, &[]));
            call.path = match rng.random_range(0..4) {
                0 => format!("{SERVICE}/{name}"),
                1 => format!("/portcullis.v1.{name}/RevokeEgress"),
                2 => format!("/{name}"),
                _ => format!("{SERVICE}/RevokeEgress/{name}"),
            };
            call
        },
    ),
    (
        "not gRPC's content type",
        || vec![End::Http(415)],
        |rng| {
            let name = word(rng);
            let mut call = body(rng, &wire::message(0, &[]));
            call.headers.retain(|(name, _)| name != "content-type");
            if rng.random_bool(0.8) {
                call = call.with("content-type", &format!("application/{name}"));
            }
            call
        },
    ),
    (
        "not POST",
        || vec![End::Http(405)],
        |rng| {
            let mut call = body(rng, &wire::message(0, &[]));
            call.method =
                ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"].choose(rng).unwrap();
            call
        },
    ),
    ("a timeout that is none", invalid, |rng| {
        let name = word(rng);
        let timeout = match rng.random_range(0..5) {
            0 => name,
            1 => format!("{}S", rng.random_range(100_000_000..u64::MAX)),
            2 => format!("-{}S", rng.random_range(0..100)),
            3 => format!("{}s", rng.random_range(0..100)),
            _ => format!("{}.5S", rng.random_range(0..100)),
        };
        describe(rng).with("grpc-timeout", &timeout)
    }),
    (
        "metadata that is no text or no base64",
        || vec![End::Status(0, "")],
        |rng| {
            let mut call = describe(rng);
            let name = word(rng);
            let value: Vec<u8> =
                (0..rng.random_range(1..60)).map(|_| rng.random_range(128..=255)).collect();
            call.headers.push((format!("x-{name}"), value.clone()));
            call.headers.push(("x-request-id".into(), value));
            call.with("x-some-bin", "!!! no base64 !!!")
        },
    ),
    ("metadata over its limit", too_large, |rng| {
        let value = "x".repeat(rng.random_range(17_000..60_000));
        describe(rng).with("x-large", &value)
    }),
    ("far too many headers", too_large, |rng| {
        let call = describe(rng);
        (0..rng.random_range(450..900))
            .fold(call, |call, index| call.with(&format!("x-{index}"), "x"))
    }),
    (
        "metadata over what is read",
        || vec![End::Http(431), End::Closed],
        |rng| {
            let value = "x".repeat(rng.random_range(70_000..400_000));
            describe(rng).with("x-large", &value)
        },
    ),
    (
        "a body that never ends",
        || status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        |rng| {
            let some = bytes(rng, 0..1000);
            let timeout = format!("{}m", rng.random_range(100..900));
            let message = [&[0, 0, 0, 16, 0][..], &some].concat();
            Call { ends: false, ..body(rng, &message) }.with("grpc-timeout", &timeout)
        },
    ),
    ("gRPC-Web frames that are none", invalid, |rng| {
        let flag = *[0, 1, 128, 255].choose(rng).unwrap();
        let junk = bytes(rng, 1..80);
        let mut message = wire::message(flag, &junk);
        message.truncate(message.len() - 1);
        web(body(rng, &message), "application/grpc-web+proto")
    }),
    ("gRPC-Web text that is no base64", invalid, |rng| {
        let text: String = (0..rng.random_range(1..99))
            .map(|_| *['!', '?', '-', '_', '='].choose(rng).unwrap())
            .collect();
        web(body(rng, text.as_bytes()), "application/grpc-web-text")
    }),
    (
        "gRPC-Web that is not POST",
        || vec![End::Http(405)],
        |rng| {
            let some = bytes(rng, 1..9);
            let mut call = web(body(rng, &some), "application/grpc-web");
            call.method = ["PUT", "DELETE", "PATCH"].choose(rng).unwrap();
            call
        },
    ),
    (
        "gRPC over HTTP/1.1",
        || vec![End::Http(400)],
        |rng| {
            let some = bytes(rng, 1..99);
            Call { http1: true, ..body(rng, &wire::message(0, &some)) }
        },
    ),
    (
        "a gRPC-Web body that never ends",
        || status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        |rng| {
            let timeout = format!("{}m", rng.random_range(100..900));
            let call = web(body(rng, &[0, 0, 0, 16, 0]), "application/grpc-web+proto");
            Call { ends: false, ..call }.with("grpc-timeout", &timeout)
        },
    ),
];

/// `count` of each kind.
pub fn cases(rng: &mut StdRng, count: usize) -> Vec<Case> {
    let of = |(kind, expected, make): &Kind, rng: &mut StdRng| Case {
        kind,
        sent: Sent::Call(make(rng)),
        expected: expected(),
    };
    KINDS.iter().flat_map(|kind| (0..count).map(|_| of(kind, rng)).collect::<Vec<_>>()).collect()
}

fn any() -> Vec<End> {
    vec![End::AnyStatus]
}

fn status(code: Code, reason: &'static str) -> Vec<End> {
    vec![End::Status(code.into(), reason)]
}

impl Call {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn at(mut self, method: &str) -> Self {
        self.path = format!("{SERVICE}/{method}");
        self
    }
}

/// A call of some method with that body.
fn body(rng: &mut StdRng, bytes: &[u8]) -> Call {
    let call = Call {
        http1: false,
        method: "POST",
        path: String::new(),
        headers: vec![
            ("content-type".into(), b"application/grpc".to_vec()),
            ("te".into(), b"trailers".to_vec()),
        ],
        body: bytes.to_vec(),
        ends: true,
    };
    call.at(METHODS.choose(rng).unwrap())
}

/// A read that is in order.
fn describe(rng: &mut StdRng) -> Call {
    body(rng, &wire::message(0, &[])).at("DescribeSecurityGroups")
}

fn web(mut call: Call, content_type: &str) -> Call {
    call.headers = vec![("content-type".into(), content_type.into())];
    Call { http1: true, ..call }
}

fn bytes(rng: &mut StdRng, length: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(length)];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn word(rng: &mut StdRng) -> String {
    (0..rng.random_range(4..20)).map(|_| rng.random_range('a'..='z')).collect()
}

/// A revocation that is in order.
fn request(rng: &mut StdRng) -> portcullis::api::proto::v1::RevokeEgressRequest {
    let range = format!("10.{}.0.0/16", rng.random::<u8>());
    let permissions = (0..rng.random_range(1..9)).map(|port| support::tcp(port, &range)).collect();
    support::by_permissions("sg-000000000000000a1", permissions)
}

fn no_protobuf(rng: &mut StdRng) -> Call {
    // Wire type 7 does not exist.
    let mut junk = bytes(rng, 1..200);
    junk[0] |= 7;
    body(rng, &wire::message(0, &junk))
}

fn changed(rng: &mut StdRng) -> Call {
    let mut bytes = request(rng).encode_to_vec();
    for _ in 0..rng.random_range(1..6) {
        let place = rng.random_range(0..bytes.len());
        match rng.random_range(0..3) {
            0 => bytes[place] = rng.random(),
            1 => bytes.insert(place, rng.random()),
            _ => drop(bytes.remove(place)),
        }
    }
    body(rng, &wire::message(0, &bytes)).at("RevokeEgress")
}

fn nested(rng: &mut StdRng) -> Call {
    // The start of field 99, a group, never ended.
    let depth = rng.random_range(101..5000);
    body(rng, &wire::message(0, &[0x9b, 0x06].repeat(depth)))
}

fn extreme(rng: &mut StdRng) -> Call {
    let mut request = request(rng);
    let port = |rng: &mut StdRng| *[i32::MIN, -2, 65_536, i32::MAX].choose(rng).unwrap();
    for permission in &mut request.ip_permissions {
        permission.from_port = Some(port(rng));
        permission.to_port = Some(port(rng));
    }
    request.group_id = Some(word(rng).repeat(rng.random_range(1..2000)));
    request.on_unknown = rng.random_range(99..i32::MAX);
    body(rng, &wire::message(0, &request.encode_to_vec())).at("RevokeEgress")
}

fn truncated(rng: &mut StdRng) -> Call {
    let mut message = wire::message(0, &request(rng).encode_to_vec());
    message.truncate(rng.random_range(1..message.len()));
    body(rng, &message)
}
