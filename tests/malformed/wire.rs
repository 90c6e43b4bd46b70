//! HTTP/2 by hand: frames and header blocks that no library would write.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// The payload of the ping that asks whether the server still answers.
pub const LAST_PING: &[u8; 8] = b"the last";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The preface and the client's settings: each an id and a value.
pub fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
}

pub fn last_ping() -> Vec<u8> {
    frame(PING, 0, 0, LAST_PING)
}

/// One field of a header block: literal, not indexed, not compressed.
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        if text.len() < 127 {
            field.push(u8::try_from(text.len()).unwrap());
        } else {
            field.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                field.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            field.push(u8::try_from(rest).unwrap());
        }
        field.extend(text);
    }
    field
}

pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// The header fields of a call in order.
pub fn call_fields(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
}

/// The head of a call that is in order; its message is to follow.
pub fn call_head(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&call_fields(path)))
}

/// A gRPC message.
pub fn message(flag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[flag], &length[..], bytes].concat()
}

/// A gzip stream of zeros: a literal, then matches of 258 bytes in 13 bits each. Its end is missing.
pub fn gzip_bomb(bytes: usize) -> Vec<u8> {
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut count) = (0u64, 0u32);
    // Deflate packs bits from the low end; Huffman codes come with their high bit first.
    let mut put = |value: u64, length: u32, bomb: &mut Vec<u8>| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            bomb.push(bits.to_le_bytes()[0]);
            bits >>= 8;
            count -= 8;
        }
    };
    // The last block, fixed codes; the literal 0 is 00110000.
    put(0b011, 3, &mut bomb);
    put(0b0000_1100, 8, &mut bomb);
    for _ in 0..bytes / 258 {
        // Length 258 is 11000101, distance 1 is 00000.
        put(0b1010_0011, 13, &mut bomb);
    }
    bomb
}

/// A zstd frame of zeros: blocks of 128 KiB in four bytes each.
pub fn zstd_bomb(bytes: usize) -> Vec<u8> {
    // No content size; a window of 1 MiB.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    let blocks = bytes / (128 << 10);
    for index in 0..=blocks {
        let last = u32::from(index == blocks);
        let head = (last | 1 << 1 | (128 << 10) << 3).to_le_bytes();
        bomb.extend([head[0], head[1], head[2], 0]);
    }
    bomb
}

/// A TLS ClientHello with a server name, as far as its extensions go.
pub fn client_hello(random: &[u8; 32], name: &str) -> Vec<u8> {
    let name_length = u16::try_from(name.len()).unwrap();
    let extension = [
        &[0, 0][..],
        &(name_length + 5).to_be_bytes(),
        &(name_length + 3).to_be_bytes(),
        &[0],
        &name_length.to_be_bytes(),
        name.as_bytes(),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        random,
        &[0, 0, 2, 0x13, 1, 1, 0],
        &u16::try_from(extension.len()).unwrap().to_be_bytes(),
        &extension,
    ]
    .concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1, 0][..], &length, &body].concat();
    let length = u16::try_from(handshake.len()).unwrap().to_be_bytes();
    [&[22, 3, 1][..], &length, &handshake].concat()
}
