//! The rate limiter's memory: before, with a million callers that all owe something, and after they were idle. Prints
//! what the process takes, so run it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use std::time::{Duration, Instant};

use portcullis::{
    config::{CallClass, Rate, RateLimits},
    middleware::rate_limit::Limiter,
    principal::{Method, Principal},
};
use tokio::time::timeout;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Time stands still while they come, so that nobody is forgotten before the last one is there.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let callers: usize = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().unwrap());
    let rate = Rate { per_second: 1, burst: 30 };
    let limits = RateLimits { mutate: Some(rate), ..RateLimits::default() };
    let empty = resident();
    let limiter = Limiter::new(&limits).unwrap();
    report("nobody", &limiter, empty);
    let started = Instant::now();
    for caller in 0..callers {
        let principal = Principal {
            method: Method::Jwt,
            issuer: "https://issuer.example".to_owned(),
            subject: format!("system:serviceaccount:namespace-{}:{caller}", caller % 1000),
            groups: Vec::new(),
        };
        assert!(limiter.check(Some(&principal), CallClass::Mutate).unwrap().over.is_none());
    }
    let took = started.elapsed();
    report("at the peak", &limiter, empty);
    println!(
        "each caller's first check, headers included: {} ns",
        took.as_nanos() / callers as u128
    );
    let _ = timeout(Duration::from_secs(40), limiter.keep_swept()).await;
    // The allocator hands pages back a little later, and only while it is used.
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(10));
        drop((0..1000).map(|n| vec![0_u8; n]).collect::<Vec<_>>());
    }
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
