//! A rolling restart under load: three replicas on one PostgreSQL are ended with SIGTERM, one after the other, and
//! started again, while a client of gRPC's own making calls them with the published service config. Not one call fails,
//! and every change has its one effect.
//!
//! scripts/rolling-restart runs it for longer: `ROLLING_ROUNDS`.

#![cfg(feature = "ec2")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "chaos/fleet.rs"]
#[allow(dead_code, reason = "the tests of kills use the rest")]
mod fleet;
#[path = "postgres/server.rs"]
#[allow(dead_code, reason = "the tests of the ledger use the rest")]
mod postgres;
#[path = "transcripts/programs.rs"]
#[allow(dead_code, reason = "the transcripts use the rest")]
mod programs;
#[path = "chaos/toxiproxy.rs"]
#[allow(dead_code, reason = "the tests of kills use the rest")]
mod toxiproxy;

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use fleet::{Ec2, Fleet, Where};
use portcullis::api::proto::sandbox::v1::GetStateRequest;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};
use toxiproxy::Toxiproxy;

const REPLICAS: usize = 3;

/// How often each replica is restarted in a run of all tests.
const ROUNDS: usize = 2;

/// How many calls there are between two restarts, at least.
const BETWEEN: usize = 60;

/// How far the client is, one way: there is always something under way that the other side has not seen.
const DISTANCE_MS: u64 = 20;

/// Connections get as old as this, so that they are replaced under load, too.
const FLAGS: [&str; 2] = ["--max-connection-age-ms", "2000"];

/// What the client says in the end.
#[derive(Debug, Deserialize)]
struct Report {
    calls: usize,
    /// How often its wrapper sent a change with its key again.
    again: usize,
    failed: Vec<String>,
    /// The action and the operation of each change that it was told of.
    changes: Vec<(String, String)>,
}

struct Client {
    process: Child,
    /// How many calls it has made by now.
    calls: watch::Receiver<usize>,
    report: JoinHandle<Report>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_replicas_are_restarted() {
    let Some(python) = programs::tool("example-python/bin/python") else { return };
    let Some(proxy) = programs::tool("bin/toxiproxy-server") else { return };
    let rounds = setting("ROLLING_ROUNDS", ROUNDS);
    let server = postgres::Server::start(&["fsync=off", "max_connections=200"]);
    let database = server.database();
    let ec2 = Ec2::start().await;
    let listen = ports();
    let ledger = Where::Postgres(database.url());
    let mut fleet = Fleet::start_at(&ec2, ledger, listen.clone(), FLAGS.to_vec()).await;
    let generated = Generated::by(&python).await;
    let mut proxies = Vec::new();
    for address in &listen {
        let proxy = Toxiproxy::start(&proxy, address).await;
        for stream in ["upstream", "downstream"] {
            proxy.toxic("latency", stream, json!({"latency": DISTANCE_MS})).await;
        }
        proxies.push(proxy);
    }
    let found: Vec<String> = proxies.iter().map(|proxy| proxy.address.clone()).collect();
    let mut client = Client::start(&python, &generated.0, &found);
    for round in 0..rounds {
        for (replica, address) in listen.iter().enumerate() {
            client.more_calls(BETWEEN).await;
            assert_eq!(fleet.end(replica).await, Some(0), "a drain that was not complete");
            client.more_calls(BETWEEN).await;
            fleet.restart(replica).await;
            // As a deployment does that goes on when the replica is ready and its callers have found it.
            until_connected(address).await;
            println!(
                "round {} of {rounds}: replica {replica}, {} calls",
                round + 1,
                client.calls()
            );
        }
    }
    client.more_calls(BETWEEN).await;
    let report = client.finish().await;
    let (doubled, lost) = count(&report, &ec2).await;
    println!(
        "restarts {} calls {} failed {} changes {} again {} doubled {doubled} lost {lost}",
        rounds * REPLICAS,
        report.calls,
        report.failed.len(),
        report.changes.len(),
        report.again,
    );
    let some: Vec<_> = report.failed.iter().take(10).collect();
    assert_eq!(some, [""; 0]);
    assert_eq!((doubled, lost), (0, 0));
}

/// How many changes EC2 made more often, and less often, than the client was told.
async fn count(report: &Report, ec2: &Ec2) -> (usize, usize) {
    let request = GetStateRequest { include_effects: true };
    // As many effects as there were changes.
    let mut sandbox = ec2.sandbox.clone().max_decoding_message_size(256 << 20);
    let state = sandbox.get_state(request).await.unwrap().into_inner();
    let mut made: HashMap<(&str, &str), usize> = HashMap::new();
    for effect in &state.effects {
        *made.entry((&effect.action, &effect.operation_id)).or_default() += 1;
    }
    let (mut doubled, mut lost) = (0, 0);
    for (action, operation) in &report.changes {
        match made.remove(&(action.as_str(), operation.as_str())) {
            Some(1) => {}
            Some(_) => doubled += 1,
            None => lost += 1,
        }
    }
    (doubled + made.len(), lost)
}

/// The client's code, generated from the protos into a folder of its own.
struct Generated(PathBuf);

impl Generated {
    async fn by(python: &Path) -> Self {
        let folder = env::temp_dir().join(format!("portcullis-rolling-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let generated = Self(folder);
        let out = generated.0.display();
        let mut command = Command::new(python);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["-m", "grpc_tools.protoc", "--proto_path=proto"]);
        command.args([format!("--python_out={out}"), format!("--grpc_python_out={out}")]);
        command.args(
            ["types", "revocation", "security_group_service", "operation_service"]
                .map(|name| format!("portcullis/v1/{name}.proto")),
        );
        let (said, code) = programs::finish(command).await;
        assert_eq!(code, 0, "{said}");
        generated
    }
}

impl Drop for Generated {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Client {
    fn start(python: &Path, generated: &Path, addresses: &[String]) -> Self {
        let mut process = Command::new(python)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("tests/rolling/client.py")
            .args([generated, Path::new("examples/service-config.json")])
            .args(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (made, calls) = watch::channel(0);
        let report = tokio::spawn(async move {
            loop {
                let line = lines.next_line().await.unwrap().expect("a report");
                match line.parse() {
                    Ok(count) => drop(made.send(count)),
                    Err(_) => return serde_json::from_str(&line).expect(&line),
                }
            }
        });
        Self { process, calls, report }
    }

    fn calls(&self) -> usize {
        *self.calls.borrow()
    }

    async fn more_calls(&mut self, more: usize) {
        let wanted = self.calls() + more;
        self.calls.wait_for(|calls| *calls >= wanted).await.expect("the client works on");
    }

    async fn finish(mut self) -> Report {
        drop(self.process.stdin.take());
        self.report.await.unwrap()
    }
}

/// Ports that the system does not give to clients: each is to be had again after a restart.
fn ports() -> Vec<String> {
    let mut random = StdRng::seed_from_u64(std::process::id().into());
    let mut listen = Vec::new();
    while listen.len() < REPLICAS {
        let address = format!("127.0.0.1:{}", random.random_range(20_000..32_000));
        if !listen.contains(&address) && std::net::TcpListener::bind(&address).is_ok() {
            listen.push(address);
        }
    }
    listen
}

/// Waits until the client has a connection to that server: in Linux' table there is one from its port.
async fn until_connected(address: &str) {
    const ESTABLISHED: &str = "01";
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let local = format!("0100007F:{port:04X}");
    let is_connected = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&local) && words.nth(1) == Some(ESTABLISHED)
    };
    while !fs::read_to_string("/proc/net/tcp").unwrap().lines().any(is_connected) {
        tokio::task::yield_now().await;
    }
}

#[allow(clippy::disallowed_methods, reason = "how long it runs is the script's to say")]
fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}
