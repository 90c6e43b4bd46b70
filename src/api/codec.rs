//! The codec of the generated services: prost's, behind a bound on what a request may unfold to.
//!
//! An empty element of a list takes two bytes on the wire and over a hundred in memory, so that a message within the
//! limit of bytes could take a hundred times as much. Its parts are counted before any of it is decoded.

use std::marker::PhantomData;

use prost::{Message, Name, encoding::decode_varint};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// The most strings and messages in one request. A thousand rules with all that may be said of them are ten thousand.
const MAX_PARTS: usize = 20_000;

/// Messages lie in one another less deeply than this.
const MAX_DEPTH: u8 = 8;

/// See the module.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

/// See the module.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Answers, and a sandbox's state, may be of any size.
        let bounded = U::PACKAGE == "portcullis.v1" && U::NAME.ends_with("Request");
        let mut left = MAX_PARTS;
        if bounded && !within(bytes::Buf::chunk(message), MAX_DEPTH, &mut left) {
            let text = format!("the message has more than {MAX_PARTS} strings and messages in it");
            return Err(Status::invalid_argument(text));
        }
        self.0.decode(message)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Whether the parts are no more than what is left. The schema is not asked: text happens to look like a message too,
/// but hardly ever like many. What is no protobuf is left to prost.
fn within(mut bytes: &[u8], depth: u8, left: &mut usize) -> bool {
    while let Ok(tag) = decode_varint(&mut bytes) {
        let skipped = match tag & 7 {
            0 if decode_varint(&mut bytes).is_ok() => 0,
            1 => 8,
            2 => match decode_varint(&mut bytes).map(usize::try_from) {
                Ok(Ok(length)) => {
                    let Some(part) = bytes.get(..length) else { return true };
                    let Some(fewer) = left.checked_sub(1) else { return false };
                    *left = fewer;
                    if depth > 0 && !within(part, depth - 1, left) {
                        return false;
                    }
                    length
                }
                _ => return true,
            },
            // A group's borders; what is in it follows.
            3 | 4 => 0,
            5 => 4,
            _ => return true,
        };
        let Some(rest) = bytes.get(skipped..) else { return true };
        bytes = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::v1::{IpPermission, IpRange, RevokeEgressRequest};

    fn parts(message: &impl Message) -> usize {
        let mut left = MAX_PARTS;
        assert!(within(&message.encode_to_vec(), MAX_DEPTH, &mut left));
        MAX_PARTS - left
    }

    #[test]
    fn strings_and_messages_count_wherever_they_are() {
        let range = IpRange { cidr_ip: Some("10.0.0.0/8".into()), description: Some("x".into()) };
        let permission = IpPermission { ip_ranges: vec![range; 3], ..Default::default() };
        let request = RevokeEgressRequest {
            group_id: Some("sg-1".into()),
            ip_permissions: vec![permission; 2],
            dry_run: Some(true),
            ..Default::default()
        };
        assert_eq!(parts(&request), 1 + 2 * (1 + 3 * 3));
    }

    #[test]
    fn the_bound_is_exact_at_every_depth() {
        for many in [MAX_PARTS, MAX_PARTS + 1] {
            let flat = RevokeEgressRequest {
                ip_permissions: vec![<_>::default(); many],
                ..<_>::default()
            };
            let deep = IpPermission { ip_ranges: vec![<_>::default(); many - 1], ..<_>::default() };
            let deep = RevokeEgressRequest { ip_permissions: vec![deep], ..<_>::default() };
            for request in [flat, deep] {
                let mut left = MAX_PARTS;
                let fits = within(&request.encode_to_vec(), MAX_DEPTH, &mut left);
                assert_eq!(fits, many == MAX_PARTS);
            }
        }
    }

    #[test]
    fn text_is_one_part() {
        let text = "A sentence, (with) [punctuation] and numbers: 10.0.0.0/8 *".repeat(1000);
        let request = RevokeEgressRequest { group_id: Some(text.clone()), ..Default::default() };
        assert!(parts(&request) < text.len() / 100);
    }
}
