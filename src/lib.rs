//! Portcullis: a gRPC service through which teams change EC2 security-group rules.
//!
//! The path of a call, outermost first; `server.rs` puts it together:
//!
//! ```text
//! main ─ cli ─ server      flags, config, listener, connections, drain
//!               │
//!   middleware  │ json → web → observe → deadline → admission → authenticate → rate limit → share
//!               │ → conform
//!               │
//!          api  │ decode: protobuf → Call          encode: Outcome → protobuf, Error → status
//!               │
//!   middleware  │ detach → idempotency: replay, join, settle, or a turn
//!               │
//!   operations  │ pre-image → decide → intent → send → explain, warn
//!               │                       │
//!      backend  │ paced → ec2 | sandbox │ ledger: memory | sqlite | postgres
//! ```
//!
//! Below all of it: [`rule`], the pure domain of security-group rules.

pub mod admin;
pub mod cli;
pub mod server;

pub mod middleware;

pub mod api;

pub mod operations;

pub mod backend;

pub mod rule;

pub mod access;
pub mod credentials;

pub mod clock;
pub mod config;
pub mod error;
pub mod ledger;
pub mod pacing;
pub mod principal;
pub mod random;
pub mod reload;
pub mod telemetry;
pub mod tls;
