//! TLS as clients meet it: real handshakes on real sockets, good and bad, rotation under load, and the real program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

#[path = "tls/certificates.rs"]
#[allow(dead_code, reason = "the attacks use the rest")]
mod certificates;
#[path = "tls/handshakes.rs"]
mod handshakes;
#[path = "tls/program.rs"]
mod program;
#[allow(dead_code, reason = "the transcripts use all of it")]
#[path = "transcripts/programs.rs"]
mod programs;
#[path = "tls/rotation.rs"]
mod rotation;
#[path = "tls/support.rs"]
mod support;
