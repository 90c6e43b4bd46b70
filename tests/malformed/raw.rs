//! Bytes that are not well-formed HTTP, and HTTP/2 that attacks.

use rand::{Rng as _, RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    case::{Case, End, Manner, Sent, refused},
    wire::{self, frame},
};

const METHOD: &str = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups";

type Kind = (&'static str, fn() -> Vec<End>, fn(&mut StdRng) -> (Vec<u8>, Manner));

const QUICK: &[Kind] = &[
    ("bytes that are no HTTP", http1_refusals, |rng| {
        let mut bytes = bytes(rng, 24..600);
        // Not the beginning of the preface, and no control characters that a parser skips.
        bytes[0] = 1;
        (bytes, Manner::AndFinish)
    }),
    ("garbage in HTTP/1.1's head", http1_refusals, http1_head),
    ("garbage in HTTP/1.1's body", http1_refusals, http1_body),
    (
        "an HTTP/1.1 head that is too large",
        || vec![End::Http(431), End::Closed],
        |rng| {
            let count = rng.random_range(101..2000);
            let fields: String = (0..count).map(|index| format!("x-{index}: x\r\n")).collect();
            (format!("POST {METHOD} HTTP/1.1\r\nhost: x\r\n{fields}\r\n").into(), Manner::AtOnce)
        },
    ),
    ("a TLS ClientHello", http1_refusals, |rng| {
        let mut random = [0; 32];
        rng.fill_bytes(&mut random);
        let name = "x".repeat(rng.random_range(1..200));
        (wire::client_hello(&random, &name), Manner::AtOnce)
    }),
    ("a preface that goes wrong", http1_refusals, |rng| {
        let mut bytes = wire::PREFACE.to_vec();
        let place = rng.random_range(0..bytes.len());
        bytes[place] ^= 1 << rng.random_range(0..7);
        let more = self::bytes(rng, 1..100);
        bytes.extend(more);
        (bytes, Manner::AndFinish)
    }),
    ("garbage after the preface", refused, |rng| {
        let mut junk = bytes(rng, 40..600);
        // Longer than any frame may be.
        junk[0] = 255;
        ([wire::PREFACE, &junk].concat(), Manner::AtOnce)
    }),
    ("a truncated HTTP/2 frame", refused, |rng| {
        let head = wire::call_head(1, METHOD);
        let some = bytes(rng, 1..200);
        let message = frame(wire::DATA, wire::END_STREAM, 1, &some);
        let mut sent = [wire::hello(&[]), head, message].concat();
        let length = rng.random_range(wire::PREFACE.len()..sent.len());
        sent.truncate(length);
        (sent, Manner::AndFinish)
    }),
    ("a frame that breaks HTTP/2's rules", broken, |rng| {
        ([wire::hello(&[]), illegal(rng)].concat(), Manner::AtOnce)
    }),
    ("settings out of range", refused, |rng| {
        let value = rng.random_range(1 << 31..=u32::MAX);
        let setting = *[(2, value), (4, value), (5, value), (5, rng.random_range(0..1 << 14))]
            .choose(rng)
            .unwrap();
        (wire::hello(&[setting]), Manner::AtOnce)
    }),
    ("a header block that cannot be decoded", refused, |rng| {
        let block = match rng.random_range(0..4) {
            // An index that is in no table.
            0 => vec![0xff, rng.random_range(1..127)],
            // A table larger than what was agreed on.
            1 => vec![0x3f, 0xe1, 0xff, rng.random_range(1..127)],
            // Huffman padding that is none.
            2 => vec![0, 0x81, rng.random_range(0..8), 0x81, 0],
            // A length beyond the block's end.
            _ => vec![0, 0x7f, rng.random_range(100..127), b'x'],
        };
        let head = frame(wire::HEADERS, wire::END_HEADERS, 1, &block);
        ([wire::hello(&[]), head].concat(), Manner::AtOnce)
    }),
    (
        "a head that HTTP/2 forbids",
        || vec![End::Reset, End::GoAway, End::Answer],
        |rng| {
            let head = frame(wire::HEADERS, wire::END_HEADERS, 1, &forbidden_head(rng));
            ([wire::hello(&[]), head].concat(), Manner::AtOnce)
        },
    ),
    ("rapid reset", flooded, |rng| {
        let code = rng.random_range(0..14_u32).to_be_bytes();
        let streams = (0..rng.random_range(200..1500)).map(|index| 1 + 2 * index);
        let flood = streams.flat_map(|stream| {
            [wire::call_head(stream, METHOD), frame(wire::RST_STREAM, 0, stream, &code)].concat()
        });
        let flood: Vec<u8> = flood.collect();
        ([wire::hello(&[]), flood, wire::last_ping()].concat(), Manner::AtOnce)
    }),
    ("a flood of CONTINUATION frames", refused, |rng| {
        let size = rng.random_range(0..1000);
        let count = rng.random_range(2000..5000);
        let field = wire::field(b"x-flood", &vec![b'x'; size]);
        let first = frame(wire::HEADERS, 0, 1, &wire::block(&wire::call_fields(METHOD)));
        let more = frame(wire::CONTINUATION, 0, 1, &field).repeat(count);
        ([wire::hello(&[]), first, more].concat(), Manner::AtOnce)
    }),
    ("a flood of PING frames", flooded, |rng| {
        let ping = frame(wire::PING, 0, 0, &rng.random::<u64>().to_be_bytes());
        flood(ping.repeat(rng.random_range(1000..20_000)))
    }),
    ("a flood of SETTINGS frames", flooded, |rng| {
        let window = rng.random_range(0..1_u32 << 31).to_be_bytes();
        let settings = frame(wire::SETTINGS, 0, 0, &[&[0, 4], &window[..]].concat());
        flood(settings.repeat(rng.random_range(1000..20_000)))
    }),
    ("a flood of empty DATA frames", flooded, |rng| {
        let empty = frame(wire::DATA, 0, 1, &[]).repeat(rng.random_range(1000..20_000));
        flood([wire::call_head(1, METHOD), empty].concat())
    }),
    ("a flood of unknown frames", flooded, |rng| {
        let unknown = frame(rng.random_range(10..=255), rng.random(), 0, &bytes(rng, 0..99));
        flood(unknown.repeat(rng.random_range(100..2000)))
    }),
    (
        "byte by byte, but whole",
        || vec![End::Answer],
        |rng| {
            let name = format!("x-{}", rng.random::<u32>());
            let mut fields = wire::call_fields(METHOD);
            fields.push((&name, "x"));
            let head = frame(wire::HEADERS, wire::END_HEADERS, 1, &wire::block(&fields));
            let message = frame(wire::DATA, wire::END_STREAM, 1, &wire::message(0, &[]));
            ([wire::hello(&[]), head, message].concat(), Manner::ByteByByte)
        },
    ),
];

/// Each of these takes the server's patience to its end.
const SLOW: &[Kind] = &[
    ("half open: nothing, or a part of the preface", refused, |rng| {
        (wire::PREFACE[..rng.random_range(0..wire::PREFACE.len())].to_vec(), Manner::UntilClosed)
    }),
    ("half open: a part of an HTTP/1.1 head", http1_refusals, |rng| {
        let mut head = format!("POST {METHOD} HTTP/1.1\r\nhost: x\r\nx-some: some\r\n");
        head.truncate(rng.random_range(1..head.len()));
        (head.into(), Manner::UntilClosed)
    }),
    ("a preface byte by byte, with pauses", refused, |rng| {
        let length = rng.random_range(1..4);
        (wire::PREFACE[..length].to_vec(), Manner::Slowly)
    }),
    ("an HTTP/1.1 head byte by byte, with pauses", http1_refusals, |rng| {
        (format!("x-{}: x\r\n", rng.random::<u16>()).into(), Manner::Slowly)
    }),
    ("an answer that no window is opened for", refused, |rng| {
        let message = frame(wire::DATA, wire::END_STREAM, 1, &wire::message(0, &[]));
        let window = rng.random_range(0..100);
        let hello = wire::hello(&[(4, window)]);
        ([hello, wire::call_head(1, METHOD), message].concat(), Manner::UntilClosed)
    }),
    (
        "a client that asks and never reads",
        || vec![End::Closed],
        |rng| {
            let ping = frame(wire::PING, 0, 0, &rng.random::<u64>().to_be_bytes());
            (ping.repeat(rng.random_range(100..1000)), Manner::NeverReading)
        },
    ),
];

/// `quick` of each kind that is over at once, `slow` of each that is not.
pub fn cases(rng: &mut StdRng, quick: usize, slow: usize) -> Vec<Case> {
    let kinds = QUICK.iter().map(|kind| (kind, quick)).chain(SLOW.iter().map(|kind| (kind, slow)));
    let mut cases = Vec::new();
    for ((kind, expected, make), count) in kinds {
        cases.extend((0..count).map(|_| {
            let (bytes, manner) = make(rng);
            Case { kind, sent: Sent::Raw(bytes, manner), expected: expected() }
        }));
    }
    cases
}

fn http1_refusals() -> Vec<End> {
    vec![End::Http(400), End::Http(408), End::Closed]
}

/// A stream error or a connection error.
fn broken() -> Vec<End> {
    vec![End::GoAway, End::Closed, End::Reset]
}

/// Borne, or answered by ending the connection.
fn flooded() -> Vec<End> {
    vec![End::GoAway, End::Closed, End::Pong]
}

fn flood(frames: Vec<u8>) -> (Vec<u8>, Manner) {
    ([wire::hello(&[]), frames, wire::last_ping()].concat(), Manner::AtOnce)
}

fn bytes(rng: &mut StdRng, length: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(length)];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn http1_head(rng: &mut StdRng) -> (Vec<u8>, Manner) {
    let junk = String::from_utf8_lossy(&bytes(rng, 4..60)).replace(['\r', '\n'], "?");
    let head = match rng.random_range(0..5) {
        0 => format!("{junk}\r\nhost: x\r\n\r\n"),
        1 => format!("POST {METHOD} HTTP/9.{}\r\nhost: x\r\n\r\n", junk.len()),
        2 => format!("POST {METHOD} HTTP/1.1\r\nna me {junk}: x\r\n\r\n"),
        3 => format!("POST {METHOD} HTTP/1.1\r\nhost: x\r\nx: \0{junk}\r\n\r\n"),
        _ => format!("\u{1}POST {junk}\r\n\r\n"),
    };
    (head.into(), Manner::AndFinish)
}

fn http1_body(rng: &mut StdRng) -> (Vec<u8>, Manner) {
    let number: u32 = rng.random();
    let how = match rng.random_range(0..4) {
        0 => format!("content-length: -{number}\r\n\r\n"),
        1 => format!("content-length: {number}\r\ncontent-length: 1{number}\r\n\r\n"),
        2 => format!("transfer-encoding: x-{number}\r\n\r\n"),
        _ => format!("transfer-encoding: chunked\r\n\r\nzz{number}\r\n"),
    };
    let head = format!("POST {METHOD} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    (format!("{head}{how}").into(), Manner::AndFinish)
}

fn illegal(rng: &mut StdRng) -> Vec<u8> {
    let some = bytes(rng, 1..200);
    let head = wire::block(&wire::call_fields(METHOD));
    let even = 2 * rng.random_range(1..1000);
    match rng.random_range(0..12) {
        0 => frame(wire::DATA, 0, 0, &some),
        1 => frame(wire::HEADERS, wire::END_HEADERS, even, &head),
        2 => frame(wire::HEADERS, wire::END_HEADERS, 0, &head),
        3 => frame(wire::SETTINGS, 0, 0, &vec![0; 6 * rng.random_range(1..9) + 1]),
        4 => frame(wire::SETTINGS, wire::ACK, 0, &some),
        5 => frame(wire::PING, 0, 0, &vec![0; rng.random_range(9..99)]),
        6 => frame(wire::WINDOW_UPDATE, 0, 0, &[0; 4]),
        7 => frame(wire::RST_STREAM, 0, even + 1, &[0, 0, 0, 8]),
        8 => frame(wire::CONTINUATION, wire::END_HEADERS, 1, &some),
        9 => frame(wire::PUSH_PROMISE, wire::END_HEADERS, 1, &some),
        10 => frame(wire::DATA, 0, even + 1, &some),
        _ => frame(wire::WINDOW_UPDATE, 0, 0, &u32::MAX.to_be_bytes()).repeat(2),
    }
}

fn forbidden_head(rng: &mut StdRng) -> Vec<u8> {
    let name = format!("x-{}", rng.random::<u32>());
    let mut fields = wire::call_fields(METHOD);
    match rng.random_range(0..6) {
        // A pseudo field too few, too many, unknown, or too late.
        0 => drop(fields.remove(0)),
        1 => drop(fields.remove(2)),
        2 => fields.insert(1, (":method", "POST")),
        3 => fields.insert(1, (":unknown", &name)),
        4 => fields.push((":path", METHOD)),
        // Names are in lower case.
        _ => fields.push(("X-Upper", &name)),
    }
    fields.push((&name, "x"));
    wire::block(&fields)
}
