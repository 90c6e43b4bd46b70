//! A thousand malformed requests against the real program, while a well-behaved client keeps calling.
//!
//! They are generated from a seed. Each ends in a status that is in order or in the end of its connection, none in a
//! hang, an error in the server's log, or memory that stays taken.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    sync::Arc,
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{sync::Semaphore, task::JoinSet};

use program::Program;

#[path = "malformed/admin.rs"]
mod admin;
#[path = "malformed/calls.rs"]
mod calls;
#[path = "malformed/case.rs"]
mod case;
#[path = "malformed/json.rs"]
mod json;
#[path = "malformed/program.rs"]
mod program;
#[path = "malformed/raw.rs"]
mod raw;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "service/support.rs"]
mod support;
#[path = "malformed/wire.rs"]
mod wire;

const SEED: u64 = 20_260_601;

/// Malformed requests at once.
const AT_ONCE: usize = 64;

/// What the server's memory may grow by in all, and by the end. Each of the requests at once may hold a message of
/// 1 MiB, compressed and not, and HTTP/2's buffers.
const MAX_PEAK_GROWTH: u64 = 128 << 20;
const MAX_GROWTH: u64 = 64 << 20;

/// Deadlines that slow kinds need not wait for long, and the others never meet on a busy machine.
const FLAGS: [&str; 4] = ["--default-deadline-ms", "8000", "--max-deadline-ms", "8000"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_malformed_requests() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut cases = raw::cases(&mut rng, 22, 8);
    cases.extend(calls::cases(&mut rng, 22));
    cases.extend(json::cases(&mut rng, 12));
    let distinct: HashSet<u64> = cases.iter().map(hash).collect();
    assert!(distinct.len() >= 1000, "{} distinct requests of {}", distinct.len(), cases.len());

    let program = Program::start(&FLAGS).await;
    program.call().await;
    let before = program.memory("VmRSS");
    let bystander = program.keep_calling().await;
    let failures = run(cases, &program.address).await;
    let calls = bystander.stop().await;
    assert!(failures.is_empty(), "{} went wrong:\n{}", failures.len(), failures.join("\n"));

    program.call().await;
    let (after, peak) = (program.memory("VmRSS"), program.memory("VmHWM"));
    println!("{} distinct requests, seed {SEED}", distinct.len());
    println!("{calls} well-formed calls meanwhile, all answered");
    println!("memory: {before} bytes before, {peak} at most, {after} after");
    assert!(peak < before + MAX_PEAK_GROWTH, "{peak}");
    assert!(after < before + MAX_GROWTH, "{after}");
    assert_eq!(program.errors_logged(), "");
}

#[tokio::test]
async fn connections_that_never_begin_do_not_keep_others_out() {
    let program = Program::start(&["--max-connections", "8"]).await;
    let mut silent = Vec::new();
    for sent in [&b""[..], b"PRI * HT"].repeat(8) {
        let mut stream = tokio::net::TcpStream::connect(&program.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, sent).await.unwrap();
        silent.push(stream);
    }
    program.call().await;
    println!("{} silent connections, room for 8, and a call was answered", silent.len());
}

/// Runs them and says what went wrong.
async fn run(cases: Vec<case::Case>, address: &str) -> Vec<String> {
    let mut kinds = BTreeMap::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for case in cases {
        *kinds.entry(case.kind).or_insert(0) += 1;
        let (places, address) = (places.clone(), address.to_owned());
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            case.run(&address).await
        });
    }
    for (kind, count) in &kinds {
        println!("{count:5}  {kind}");
    }
    // Past the capture of tests: it is looked for in the output of CI.
    let count = kinds.values().sum::<i32>();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{count:5}  malformed requests of {} kinds", kinds.len()).unwrap();
    running.join_all().await.into_iter().filter_map(Result::err).collect()
}

fn hash(case: &case::Case) -> u64 {
    let mut hasher = DefaultHasher::new();
    case.hash(&mut hasher);
    hasher.finish()
}
