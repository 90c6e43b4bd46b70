//! OperationService through a real server: who sees what, pages, an operator's word, and the audit stream.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "service/support.rs"]
#[allow(dead_code, reason = "the service's tests use the rest")]
mod support;

#[path = "operations/pages.rs"]
mod pages;
#[path = "operations/settling.rs"]
mod settling;
#[path = "operations/sight.rs"]
mod sight;
#[path = "operations/world.rs"]
mod world;
