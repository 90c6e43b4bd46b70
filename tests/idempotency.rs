//! One operation, one effect, one answer: through a real server, with the sandbox's effect log as the judge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "service/support.rs"]
#[allow(dead_code, reason = "the service's tests use the rest")]
mod support;

#[path = "idempotency/again.rs"]
mod again;
#[path = "idempotency/doubt.rs"]
mod doubt;
#[path = "idempotency/faulty.rs"]
mod faulty;
#[path = "ledger/folder.rs"]
mod folder;
#[path = "idempotency/keys.rs"]
mod keys;
#[path = "idempotency/policies.rs"]
mod policies;
#[path = "idempotency/world.rs"]
mod world;
