//! The AWS CLI and boto3 through the sandbox's EC2 door: the real program, and the real clients as people use them.
//!
//! What they print is docs/transcript-aws-cli.md and docs/transcript-boto3.md, word for word:
//! `PORTCULLIS_TEST_UPDATE=1 cargo test --test aws_clients` writes them, any other run compares with them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

#[path = "aws_clients/boto3.rs"]
mod boto3;
#[path = "aws_clients/cli.rs"]
mod cli;
#[path = "transcripts/compare.rs"]
mod compare;
#[allow(dead_code, reason = "other tests need more programs")]
#[path = "transcripts/programs.rs"]
mod programs;
#[path = "aws_clients/refusals.rs"]
mod refusals;
#[path = "aws_clients/shell.rs"]
mod shell;
#[path = "aws_clients/story.rs"]
mod story;
