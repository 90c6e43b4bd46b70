//! Who may do what: policies, decisions and what reaches the backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "service/support.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod support;

#[path = "access/attributes.rs"]
mod attributes;
#[path = "access/loading.rs"]
mod loading;
#[path = "access/program.rs"]
mod program;
#[path = "access/rpcs.rs"]
mod rpcs;
#[path = "access/server.rs"]
mod server;
#[path = "access/sets.rs"]
mod sets;
