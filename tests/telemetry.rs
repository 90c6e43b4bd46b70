//! What a collector gets: the real program, and the official OTLP services as the receiver on a real socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

#[path = "telemetry/collector.rs"]
mod collector;
#[cfg(feature = "ec2")]
#[path = "telemetry/ec2.rs"]
mod ec2;
#[path = "telemetry/faults.rs"]
mod faults;
#[path = "telemetry/flood.rs"]
mod flood;
#[path = "telemetry/otelcol.rs"]
mod otelcol;
#[path = "telemetry/program.rs"]
mod program;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "transcripts/programs.rs"]
mod programs;
#[path = "telemetry/spans.rs"]
mod spans;
