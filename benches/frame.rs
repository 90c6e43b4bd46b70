//! Reads a RevokeEgressRequest as protobuf JSON from standard input and writes it as one gRPC frame, for h2load.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use std::io::{Write, stdin, stdout};

use prost::Message;

fn main() {
    let request: portcullis::api::proto::v1::RevokeEgressRequest =
        serde_json::from_reader(stdin()).unwrap();
    let message = request.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    stdout().write_all(&frame).unwrap();
}
