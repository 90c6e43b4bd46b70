//! `kill -9` and SIGSTOP for real: servers with a ledger on disk between real clients and EC2, which is a sandbox behind its
//! EC2 door in a process of its own. In the end every change that was asked for is held against the log of effects.
//!
//! Then PostgreSQL itself is stopped, crashed, paused, and cut off by a proxy.
//!
//! scripts/chaos runs it for longer: `CHAOS_KILLS`, `CHAOS_FAULTS`, `CHAOS_REPLICAS`, `CHAOS_SEED`.

#![cfg(feature = "ec2")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "chaos/clients.rs"]
mod clients;
#[path = "chaos/fleet.rs"]
#[allow(dead_code, reason = "a rolling restart uses the rest")]
mod fleet;
#[path = "postgres/server.rs"]
#[allow(dead_code, reason = "the tests of the ledger use the rest")]
mod postgres;
#[path = "transcripts/programs.rs"]
#[allow(dead_code, reason = "the transcripts use the rest")]
mod programs;
#[path = "chaos/toxiproxy.rs"]
mod toxiproxy;
#[path = "chaos/verdict.rs"]
mod verdict;

use std::{
    env,
    io::{self, Write as _},
};

use clients::{CLIENTS, Clients};
use fleet::{Ec2, Fleet, Where};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::json;
use tokio::task::block_in_place;
use toxiproxy::Toxiproxy;

/// As many kills as a run of all tests has.
const KILLS: usize = 10;

/// After how many answers, at least and at most, the next server is killed or paused.
const BETWEEN: std::ops::Range<usize> = 5..30;

/// How many answers the others give while one is paused: from well within the hold of what it has in hand (2.1 s) to well
/// past it.
const PAUSE: std::ops::Range<usize> = 5..60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_on_sqlite_is_killed_again_and_again() {
    let folder = env::temp_dir().join(format!("portcullis-chaos-{}", std::process::id()));
    run(Where::Sqlite(folder.join("ledger.db")), 1).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_on_postgresql_are_killed_and_paused() {
    let replicas = setting("CHAOS_REPLICAS", 3);
    let server = postgres::Server::start(&["fsync=off", "max_connections=200"]);
    let database = server.database();
    run(Where::Postgres(database.url()), replicas).await;
}

/// What becomes of the database.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Stop,
    Crash,
    Pause,
    Down,
    Latency,
    Timeout,
    ResetPeer,
    LimitData,
}

/// Each of them comes before one comes again.
const FAULTS: [Fault; 8] = [
    Fault::Stop,
    Fault::Crash,
    Fault::Pause,
    Fault::Down,
    Fault::Latency,
    Fault::Timeout,
    Fault::ResetPeer,
    Fault::LimitData,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_go_on_after_whatever_becomes_of_postgresql() {
    let Some(program) = programs::tool("bin/toxiproxy-server") else { return };
    let replicas = setting("CHAOS_REPLICAS", 3);
    let (faults, seed) = (setting("CHAOS_FAULTS", FAULTS.len()), setting("CHAOS_SEED", 1));
    let mut random = StdRng::seed_from_u64(seed as u64);
    // With fsync: it crashes.
    let mut server = postgres::Server::start(&["max_connections=200"]);
    let proxy = Toxiproxy::start(&program, &server.address()).await;
    let ledger = Where::Postgres(server.database().url_at(&proxy.address, "postgres"));
    let ec2 = Ec2::start().await;
    let mut fleet = Fleet::start(&ec2, ledger, replicas).await;
    let clients = Clients::start(&ec2, &fleet.addresses());
    let mut coming = Vec::new();
    for number in 1..=faults {
        clients.answers(random.random_range(BETWEEN)).await;
        if coming.is_empty() {
            coming.extend(FAULTS);
            coming.shuffle(&mut random);
        }
        let fault = coming.pop().unwrap();
        begin(fault, &mut server, &proxy).await;
        // All clients find it so, and again.
        clients.calls(2 * CLIENTS).await;
        block_in_place(|| match fault {
            Fault::Stop | Fault::Crash => server.begin(),
            Fault::Pause => server.go_on(),
            _ => {}
        });
        proxy.heal().await;
        println!("fault {number} of {faults}: {fault:?}, {} answers", clients.answered());
    }
    clients.answers(CLIENTS).await;
    let jobs = clients.finish().await;
    let found = verdict::of(&jobs, &ec2, &mut fleet).await;
    // Past the capture of tests: it is looked for in the output of CI.
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "faults {faults} calls {} doubled {} lost {} unsettled {}",
        jobs.calls, found.doubled, found.lost, found.unsettled
    )
    .unwrap();
    assert_eq!((found.doubled, found.lost, found.unsettled), (0, 0, 0), "{:#?}", found.why);
}

async fn begin(fault: Fault, server: &mut postgres::Server, proxy: &Toxiproxy) {
    match fault {
        Fault::Stop => block_in_place(|| server.stop()),
        Fault::Crash => block_in_place(|| server.kill()),
        Fault::Pause => block_in_place(|| server.pause()),
        Fault::Down => proxy.down().await,
        Fault::Latency => {
            proxy.toxic("latency", "upstream", json!({"latency": 300, "jitter": 200})).await;
        }
        // What was asked for may be done; nothing of it comes back, and the connection stays.
        Fault::Timeout => proxy.toxic("timeout", "downstream", json!({"timeout": 0})).await,
        Fault::ResetPeer => proxy.toxic("reset_peer", "downstream", json!({"timeout": 0})).await,
        // In the midst of a message.
        Fault::LimitData => proxy.toxic("limit_data", "downstream", json!({"bytes": 3000})).await,
    }
}

async fn run(ledger: Where, replicas: usize) {
    let (kills, seed) = (setting("CHAOS_KILLS", KILLS), setting("CHAOS_SEED", 1));
    let mut random = StdRng::seed_from_u64(seed as u64);
    let ec2 = Ec2::start().await;
    let mut fleet = Fleet::start(&ec2, ledger, replicas).await;
    let clients = Clients::start(&ec2, &fleet.addresses());
    for kill in 0..kills {
        clients.answers(random.random_range(BETWEEN)).await;
        let victim = random.random_range(0..replicas);
        // A paused one finds itself fenced out when it goes on; where it is the only one, its leases are over then.
        if random.random_range(0..2) == 0 {
            fleet.signal(victim, "STOP").await;
            if replicas > 1 {
                clients.answers(random.random_range(PAUSE)).await;
            } else {
                // Each of them has waited in vain, for longer than the hold.
                clients.calls(CLIENTS).await;
            }
            fleet.signal(victim, "CONT").await;
            clients.answers(3).await;
        }
        fleet.kill(victim).await;
        println!("kill {} of {kills}: replica {victim}, {} answers", kill + 1, clients.answered());
        fleet.restart(victim).await;
    }
    let jobs = clients.finish().await;
    let found = verdict::of(&jobs, &ec2, &mut fleet).await;
    // Past the capture of tests: it is looked for in the output of CI.
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "kills {kills} calls {} doubled {} lost {} unsettled {}",
        jobs.calls, found.doubled, found.lost, found.unsettled
    )
    .unwrap();
    assert_eq!((found.doubled, found.lost, found.unsettled), (0, 0, 0), "{:#?}", found.why);
}

#[allow(clippy::disallowed_methods, reason = "how long it runs is the script's to say")]
fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}
