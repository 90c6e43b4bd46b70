//! The ledger on PostgreSQL against pgbench on the same server, alternating: `scripts/bench --postgres`.
//!
//! An operation is an intent and its outcome: two durable writes, each a transaction of its own. pgbench does an insert
//! and an update of one row of the same size: in two transactions, and in one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic ends the measurement"
)]

use std::{
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use portcullis::{
    ledger::{
        Intended, Intent, Ledger, Move, Plan, Recorded, State, Terms,
        postgres::{Postgres, Settings},
        stored::{StoredGroup, StoredRule},
    },
    random::SystemRandom,
};
use server::{Database, Server};
use tokio::time::{Instant, timeout_at};

#[allow(dead_code, reason = "the tests stop and pause it, too")]
#[path = "../tests/postgres/server.rs"]
mod server;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SECONDS: u64 = 4;
const ROUNDS: usize = 5;

const TWO_COMMITS: &str = "\\set id random(1, 9000000000000000)
INSERT INTO plain VALUES (:id, repeat('x', 1500));
UPDATE plain SET body = repeat('y', 1500) WHERE id = :id;
";
const ONE_COMMIT: &str = "\\set id random(1, 9000000000000000)
BEGIN;
INSERT INTO plain VALUES (:id, repeat('x', 1500));
UPDATE plain SET body = repeat('y', 1500) WHERE id = :id;
COMMIT;
";

#[tokio::main]
async fn main() {
    let server = Server::start(&["max_connections=200"]);
    let database = server.database();
    database.psql("CREATE TABLE plain (id bigint PRIMARY KEY, body text NOT NULL)");
    for (name, script) in [("two", TWO_COMMITS), ("one", ONE_COMMIT)] {
        fs::write(server.folder().join(name), script).unwrap();
    }
    println!("{ROUNDS} rounds of {SECONDS} s each, alternating; medians per second");
    // As many callers as are asked for.
    let asked: Vec<usize> = env::args().skip(1).map(|word| word.parse().unwrap()).collect();
    let callers = if asked.is_empty() { vec![1, 16, 64] } else { asked };
    for clients in callers {
        let named = open(&database.url(), clients).await;
        let unnamed = format!("{}&prepared_statements=false", database.url());
        let unnamed = open(&unnamed, clients).await;
        let mut rounds = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            rounds[0].push(operations(&named, clients).await);
            rounds[1].push(operations(&unnamed, clients).await);
            rounds[2].push(pgbench(&database, "two", clients));
            rounds[3].push(pgbench(&database, "one", clients));
        }
        let [named, unnamed, two, one] = rounds.map(|mut round| {
            round.sort_by(f64::total_cmp);
            round[ROUNDS / 2]
        });
        println!("{clients:>3} callers: pgbench {two:.0} with two commits, {one:.0} with one");
        for (how, ours) in [("", named), (", prepared_statements=false", unnamed)] {
            let (two, one) = (ours / two, ours / one);
            println!("    {ours:.0} operations{how}: ratios {two:.2} and {one:.2}");
        }
    }
    let bytes = "SELECT pg_size_pretty(pg_total_relation_size('portcullis.records')), \
        pg_size_pretty(pg_total_relation_size('portcullis.events')), count(*), avg(length(record))::int FROM portcullis.records";
    println!("records, events, how many, characters of each: {}", database.psql(bytes));
}

async fn open(url: &str, callers: usize) -> Arc<dyn Ledger> {
    let mut settings = Settings::parse(url).unwrap();
    settings.connections = callers.min(32);
    let terms = Terms {
        key_retention: Duration::from_secs(86_400),
        record_retention: Duration::from_secs(90 * 86_400),
    };
    Arc::new(Postgres::open(&settings, "bench", terms, Arc::new(SystemRandom)).await.unwrap())
}

/// As many operations as so many callers get done.
async fn operations(ledger: &Arc<dyn Ledger>, callers: usize) -> f64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let mut done = 0_u32;
                while let Ok(()) = timeout_at(end, operation(&ledger, &NUMBER)).await {
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0.0;
    for caller in callers {
        done += f64::from(caller.await.unwrap());
    }
    done / f64::from(u32::try_from(SECONDS).unwrap())
}

async fn operation(ledger: &Arc<dyn Ledger>, number: &AtomicU64) {
    let intent = intent(number.fetch_add(1, Ordering::Relaxed));
    let Intended::Written(record) = ledger.intend(&intent).await.unwrap() else {
        panic!("not written")
    };
    let answer = Recorded { code: 0, message: String::new(), body: vec![7; 200] };
    let settled = Move { answer: Some(answer), ..Move::to(State::Succeeded) };
    ledger.advance(&record.id, record.fence, &settled).await.unwrap();
}

fn intent(n: u64) -> Intent {
    let rule = |m: i32| StoredRule {
        security_group_rule_id: Some(format!("sgr-{n:017}")),
        is_egress: true,
        ip_protocol: "tcp".into(),
        from_port: 443,
        to_port: 443 + m,
        cidr_ipv4: Some("10.0.0.0/8".into()),
        ..StoredRule::default()
    };
    let group = format!("sg-{n:017x}");
    Intent {
        id: format!("op-01900000-0000-7000-8000-{n:012x}"),
        fence: 0,
        scope: "ec2 https://ec2.eu-central-1.amazonaws.com".into(),
        caller: "jwt:https://issuer.example:ann".into(),
        key: portcullis::ledger::Key::parse(&format!("key-{n}")),
        fingerprint: "v1:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".into(),
        method: "portcullis.v1.SecurityGroupService/RevokeEgress".into(),
        account: "123456789012".into(),
        region: "eu-central-1".into(),
        group: format!("123456789012/eu-central-1/{group}"),
        request: serde_json::json!({ "GroupId": group, "SecurityGroupRuleIds": ["a", "b"] }),
        plan: Plan::Revoke {
            group: StoredGroup { group_id: group, ..StoredGroup::default() },
            is_egress: true,
            rules: vec![rule(0), rule(1)],
            unmatched: Vec::new(),
            unmatched_ids: Vec::new(),
            removes_last_egress_rule: false,
            rest: "0123456789abcdef".into(),
        },
        change_reason: None,
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        hold: Duration::from_secs(30),
        conclusion: None,
    }
}

/// pgbench's own figure, of a script.
fn pgbench(database: &Database<'_>, script: &str, clients: usize) -> f64 {
    let (host, port) = database
        .server
        .address()
        .rsplit_once(':')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .unwrap();
    let output = database
        .server
        .command("pgbench")
        .args([
            "--no-vacuum",
            "--jobs=2",
            &format!("--client={clients}"),
            &format!("--time={SECONDS}"),
        ])
        .args(["--host", &host, "--port", &port, "--username=postgres", "--file", script])
        .arg(&database.name)
        .env("PGPASSWORD", server::PASSWORD)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let tps =
        said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}
