//! The rate limiter's memory: before, with a million callers that all owe something, and after they were idle. Prints
//! what the process takes, so run it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use portcullis::{
    config::{CallClass, Rate, RateLimits},
    middleware::rate_limit::Limiter,
    principal::{Method, Principal},
};
use tokio::time::{Instant, timeout};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let callers: usize = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().unwrap());
    let rate = Rate { per_second: 1, burst: 30 };
    let limits = RateLimits { mutate: Some(rate), ..RateLimits::default() };
    let empty = resident();
    let limiter = Limiter::new(&limits).unwrap();
    report("nobody", &limiter, empty);
    let started = Instant::now();
    // Each uses the whole quota up, so that none is forgotten before the last one came.
    for caller in 0..callers {
        let principal = Principal {
            method: Method::Jwt,
            issuer: "https://issuer.example".to_owned(),
            subject: format!("system:serviceaccount:namespace-{}:{caller}", caller % 1000),
            groups: Vec::new(),
        };
        for _ in 0..rate.burst {
            assert!(limiter.check(Some(&principal), CallClass::Mutate).unwrap().over.is_none());
        }
    }
    let took = started.elapsed();
    report("at the peak", &limiter, empty);
    let checks = callers * usize::try_from(rate.burst).unwrap();
    println!("{checks} checks, headers included: {} ns each", took.as_nanos() / checks as u128);
    let _ = timeout(Duration::from_secs(40), limiter.keep_swept()).await;
    report("after 40 s of nothing", &limiter, empty);
}

fn report(when: &str, limiter: &Limiter, empty: usize) {
    let mebibytes = resident().saturating_sub(empty) as f64 / f64::from(1 << 20);
    println!("{when}: {} callers known, {mebibytes:.1} MiB", limiter.known());
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
