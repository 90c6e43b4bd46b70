//! The client commands as a person or a script meets them: the real program against a real server, piped and in a
//! real terminal. docs/cli.md is made of it: `PORTCULLIS_TEST_UPDATE=1 cargo test --test cli` writes it, any other
//! run compares with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a panic is a failed test"
)]

#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/client.rs"]
mod client;
#[allow(dead_code, reason = "the transcripts use all of it")]
#[path = "transcripts/compare.rs"]
mod compare;
#[path = "cli/document.rs"]
mod document;
#[path = "cli/failures.rs"]
mod failures;
#[path = "cli/forms.rs"]
mod forms;
#[path = "transcripts/normal.rs"]
mod normal;
#[allow(dead_code, reason = "the transcripts use all of it")]
#[path = "transcripts/programs.rs"]
mod programs;
#[path = "cli/shorthand.rs"]
mod shorthand;
#[path = "cli/terminal.rs"]
mod terminal;
