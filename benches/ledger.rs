//! What the SQLite ledger costs: operations per fsync, latency over bare fsyncs, a million records against none, the time
//! to open them, and the size of the file while records come and are swept. Ratios in one run.
//!
//!     ledger FOLDER [--records N] [--rounds N]

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    missing_docs
)]

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use portcullis::{
    clock::{Clock, ManualClock, SystemClock},
    ledger::{
        Filter, Intended, Intent, Ledger, Move, Plan, Recorded, State, Terms,
        sqlite::Sqlite,
        stored::{StoredGroup, StoredRule},
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TERMS: Terms = Terms {
    key_retention: Duration::from_secs(86_400),
    record_retention: Duration::from_secs(90 * 86_400),
};
/// As of the server that scripts/bench starts with it.
const BACKEND: &str = "sandbox";

/// Ids are never used twice, whichever ledger they are for.
static NEXT: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    let (mut records, mut rounds) = (1_000_000, 5);
    while let Some(flag) = arguments.next() {
        let number = arguments.next().expect("a number").parse().unwrap();
        match flag.as_str() {
            "--records" => records = number,
            "--rounds" => rounds = number,
            other => panic!("{other}"),
        }
    }
    fs::create_dir_all(&folder).unwrap();
    latency(&folder, 7).await;
    per_fsync(&folder).await;
    many_records(&folder, records, rounds).await;
    size(&folder).await;
}

fn open(folder: &Path, name: &str, clock: Arc<dyn Clock>) -> Sqlite {
    Sqlite::open(&folder.join(name), BACKEND, TERMS, clock).unwrap()
}

/// An operation whose record takes about 1 KB, under a key, in a group of its own.
fn intent() -> Intent {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    // Ids go up with time, groups and keys do not.
    let scattered = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let group = format!("sg-0{scattered:016x}");
    let rule = StoredRule {
        security_group_rule_id: Some(format!("sgr-0{scattered:016x}")),
        ip_protocol: "tcp".into(),
        from_port: 443,
        to_port: 443,
        cidr_ipv4: Some("10.0.0.0/8".into()),
        ..StoredRule::default()
    };
    Intent {
        id: format!("op-{:08x}-{:04x}-7000-8000-{scattered:012x}", n >> 16, n & 0xffff),
        fence: 0,
        scope: "sandbox/0190a1b2-c3d4-7000-8000-000000000000 123456789012/eu-central-1".into(),
        caller: format!("jwt:https://issuer.example:team-{}", n % 50),
        key: portcullis::ledger::Key::parse(&format!("{scattered:032x}")),
        fingerprint: format!("v1:{scattered:064x}"),
        method: "portcullis.v1.SecurityGroupService/RevokeEgress".into(),
        account: "123456789012".into(),
        region: "eu-central-1".into(),
        group: format!("123456789012/eu-central-1/{group}"),
        request: serde_json::json!({ "GroupId": group, "IpPermissions": [{ "IpProtocol": "tcp", "FromPort": 443,
            "ToPort": 443, "IpRanges": [{ "CidrIp": "10.0.0.0/8" }] }] }),
        plan: Plan::Revoke {
            group: StoredGroup { group_id: group, ..StoredGroup::default() },
            is_egress: true,
            rules: vec![rule],
            unmatched: Vec::new(),
            unmatched_ids: Vec::new(),
            removes_last_egress_rule: false,
            rest: format!("sha256:{scattered:064x}"),
        },
        change_reason: None,
        trace_id: Some(format!("{scattered:032x}")),
        hold: Duration::from_secs(60),
        conclusion: None,
    }
}

fn outcome() -> Move {
    let answer = Recorded { code: 0, message: String::new(), body: vec![7; 48] };
    Move { answer: Some(answer), ..Move::to(State::Succeeded) }
}

/// One operation: intent and outcome.
async fn operate(ledger: &Sqlite) {
    let intent = intent();
    let Intended::Written(record) = ledger.intend(&intent).await.unwrap() else {
        panic!("not written")
    };
    ledger.advance(&record.id, record.fence, &outcome()).await.unwrap();
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Appends and syncs as the WAL of one such commit would, twice.
async fn latency(folder: &Path, rounds: usize) {
    const CALLS: usize = 300;
    let ledger = open(folder, "latency.db", Arc::new(SystemClock));
    for _ in 0..CALLS {
        operate(&ledger).await;
    }
    let wal = folder.join("latency.db-wal");
    // How much one commit writes.
    let ours = open(folder, "size.db", Arc::new(SystemClock));
    operate(&ours).await;
    let before = fs::metadata(folder.join("size.db-wal")).unwrap().len();
    for _ in 0..20 {
        operate(&ours).await;
    }
    let bytes = (fs::metadata(folder.join("size.db-wal")).unwrap().len() - before) / 40;
    drop(ours);
    let mut bare = File::create(folder.join("bare")).unwrap();
    bare.write_all(&vec![0; fs::metadata(wal).unwrap().len() as usize]).unwrap();
    bare.sync_all().unwrap();
    let page = vec![1; bytes as usize];
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        use std::io::Seek as _;
        for _ in 0..CALLS {
            let started = Instant::now();
            operate(&ledger).await;
            ours.push(started.elapsed().as_secs_f64() * 1e3);
        }
        bare.rewind().unwrap();
        for _ in 0..CALLS {
            let started = Instant::now();
            for _ in 0..2 {
                if bare.stream_position().unwrap() + bytes > 4 << 20 {
                    bare.rewind().unwrap();
                }
                bare.write_all(&page).unwrap();
                bare.sync_data().unwrap();
            }
            bares.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (ours, bare) = (median(ours), median(bares));
    println!(
        "intent and outcome, one caller: {ours:.3} ms; two bare fdatasyncs of {bytes} bytes: {bare:.3} ms; \
         {:.3} ms more, {:.2} times",
        ours - bare,
        ours / bare
    );
}

async fn run(ledger: &Arc<Sqlite>, callers: usize, calls: usize) -> Duration {
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for _ in 0..calls / callers {
                    operate(&ledger).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    started.elapsed()
}

async fn per_fsync(folder: &Path) {
    let ledger = Arc::new(open(folder, "batches.db", Arc::new(SystemClock)));
    for (callers, calls) in [(1, 1000), (16, 8000), (256, 25_600)] {
        let before = ledger.written();
        let took = run(&ledger, callers, calls).await;
        let after = ledger.written();
        println!(
            "{callers:>3} callers: {:.1} writes per commit, {:.0} operations (two writes each) per second",
            (after.0 - before.0) as f64 / (after.1 - before.1) as f64,
            calls as f64 / took.as_secs_f64()
        );
    }
}

async fn fill(ledger: &Arc<Sqlite>, records: usize) {
    let took = run(ledger, 512, records).await;
    println!("{records} records written in {took:.1?}");
}

async fn many_records(folder: &Path, records: usize, rounds: usize) {
    let full = Arc::new(open(folder, "full.db", Arc::new(SystemClock)));
    fill(&full, records / 512 * 512).await;
    let bytes = fs::metadata(folder.join("full.db")).unwrap().len();
    println!("its file has {} MiB, {} bytes a record", bytes >> 20, bytes / records as u64);
    for _ in 0..100 {
        let _ = full.intend(&intent()).await.unwrap();
    }
    for name in ["full.db", "full.db-wal"] {
        let size = fs::metadata(folder.join(name)).map_or(0, |file| file.len());
        println!("    {name}: {} KiB", size >> 10);
    }
    let started = Instant::now();
    drop(full);
    let closed = started.elapsed();
    let started = Instant::now();
    let full = Arc::new(open(folder, "full.db", Arc::new(SystemClock)));
    let opened = started.elapsed();
    let unsettled = Filter {
        states: vec![State::InProgress, State::InDoubt],
        limit: 1000,
        ..Filter::default()
    };
    let found = full.list(&unsettled).await.unwrap().len();
    full.check().await.unwrap();
    println!(
        "closed in {closed:.1?}, opened in {opened:.1?}; {found} unsettled found and written to after {:.1?}",
        started.elapsed()
    );
    let caller = Some("jwt:https://issuer.example:team-7".to_owned());
    let lists = [
        ("a caller's newest", Filter { caller, limit: 100, ..Filter::default() }),
        (
            "those of an account that has none",
            Filter { account: Some("none".into()), limit: 100, ..Filter::default() },
        ),
    ];
    for (what, filter) in lists {
        let started = Instant::now();
        let found = full.list(&filter).await.unwrap().len();
        println!("{what}: {found} listed in {:.1?}", started.elapsed());
    }
    let mut ratios = Vec::new();
    for callers in [1, 64] {
        let calls = if callers == 1 { 500 } else { 12_800 };
        ratios.clear();
        let (mut fulls, mut empties) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let name = format!("empty-{callers}-{round}.db");
            let empty = Arc::new(open(folder, &name, Arc::new(SystemClock)));
            run(&full, callers, calls / 5).await;
            run(&empty, callers, calls / 5).await;
            let full = calls as f64 / run(&full, callers, calls).await.as_secs_f64();
            let empty = calls as f64 / run(&empty, callers, calls).await.as_secs_f64();
            ratios.push(full / empty);
            fulls.push(full);
            empties.push(empty);
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "{callers} callers: {:.0} operations per second with {records} records, {:.0} with none; ratio of medians \
             {:.2} (rounds {:.2} to {:.2})",
            median(fulls.clone()),
            median(empties.clone()),
            median(fulls) / median(empties),
            ratios.first().unwrap(),
            ratios.last().unwrap()
        );
    }
    let started = Instant::now();
    let verified = full.verify().await.unwrap();
    println!(
        "verified {} records and {} events in {:.1?}: {} findings",
        verified.records,
        verified.events,
        started.elapsed(),
        verified.findings.len()
    );
}

/// A day's records come and a day's are swept, again and again.
async fn size(folder: &Path) {
    const A_DAY: usize = 512;
    const DAYS: usize = 360;
    let clock = ManualClock::new(SystemTime::now());
    let ledger = Arc::new(open(folder, "swept.db", Arc::new(clock.clone())));
    for day in 0..=DAYS {
        if day % 60 == 0 {
            let [file, wal] = ["swept.db", "swept.db-wal"]
                .map(|name| fs::metadata(folder.join(name)).map_or(0, |file| file.len()) >> 10);
            let kept = ledger.list(&Filter { limit: 1 << 30, ..Filter::default() }).await.unwrap();
            println!(
                "day {day:>3}: {:>6} records, file {file:>6} KiB, WAL {wal:>6} KiB",
                kept.len()
            );
        }
        // The last days are quiet: what is swept is given back.
        if day < DAYS - 100 {
            run(&ledger, 64, A_DAY).await;
        }
        clock.advance(Duration::from_secs(86_400));
        while ledger.sweep(100).await.unwrap() > 0 {}
    }
    println!("verified: {:?}", ledger.verify().await.unwrap().findings);
}
