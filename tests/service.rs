//! The service through a real socket: a server in this process, a tonic client, the sandbox as the backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "service/support.rs"]
mod support;

#[path = "service/admission.rs"]
mod admission;
#[path = "service/contract.rs"]
mod contract;
#[path = "service/drain.rs"]
mod drain;
#[path = "service/ec2_rules.rs"]
mod ec2_rules;
#[path = "service/explanations.rs"]
mod explanations;
#[path = "service/failures.rs"]
mod failures;
#[path = "service/rate_limits.rs"]
mod rate_limits;
#[path = "service/validation.rs"]
mod validation;
#[path = "malformed/wire.rs"]
#[allow(dead_code, reason = "the tests of malformed calls use the rest")]
mod wire;
