//! The real program and real grpcurl: what a person at a shell sees, against the sandbox and against moto's server.
//!
//! One table of scenarios (`scenarios.rs`) runs on both backends. The sandbox's run is docs/transcript.md, word for
//! word: `PORTCULLIS_TEST_UPDATE=1 cargo test --test transcripts` writes it, any other run compares with it. What the
//! README shows is run, too (`readme.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]
#![cfg_attr(not(feature = "ec2"), allow(dead_code, reason = "the other build asks moto"))]

#[path = "transcripts/compare.rs"]
mod compare;
#[path = "transcripts/documents.rs"]
mod documents;
#[cfg(feature = "ec2")]
#[path = "transcripts/moto.rs"]
mod moto;
#[path = "transcripts/normal.rs"]
mod normal;
#[path = "transcripts/programs.rs"]
mod programs;
#[path = "transcripts/readme.rs"]
mod readme;
#[path = "transcripts/run.rs"]
mod run;
#[path = "transcripts/sandbox.rs"]
mod sandbox;
#[path = "transcripts/scenarios.rs"]
mod scenarios;
