//! The metrics through a real server and its real admin listener: each metric of the table moves when its thing
//! happens, none tells who calls, and strangers cannot make series. docs/metrics.md is written here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

#[path = "metrics/admin.rs"]
mod admin;
#[path = "metrics/bounds.rs"]
mod bounds;
#[path = "tls/certificates.rs"]
#[allow(dead_code, reason = "the tests of TLS use the rest")]
mod certificates;
#[path = "transcripts/compare.rs"]
mod compare;
#[cfg(feature = "ec2")]
#[path = "metrics/ec2.rs"]
mod ec2;
#[path = "idempotency/faulty.rs"]
mod faulty;
#[path = "metrics/moving.rs"]
mod moving;
#[path = "metrics/program.rs"]
mod program;
#[allow(dead_code, reason = "the transcripts use all of it")]
#[path = "transcripts/programs.rs"]
mod programs;
#[cfg(feature = "ec2")]
#[allow(dead_code, reason = "the tests of the backend use the rest")]
#[path = "ec2_backend/script.rs"]
mod script;
#[path = "metrics/standing.rs"]
mod standing;
#[path = "metrics/strangers.rs"]
mod strangers;
#[path = "service/support.rs"]
#[allow(dead_code, reason = "the tests of the service use the rest")]
mod support;
#[path = "metrics/text.rs"]
mod text;
#[path = "metrics/world.rs"]
mod world;

/// The account of the scripted endpoint.
#[cfg(feature = "ec2")]
const ACCOUNT: &str = "123456789012";
