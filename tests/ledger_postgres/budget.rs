//! EC2's budget shared by replicas: the pacing of each of them on the real database, whose clock is moved by the test.
//! Where that is so, every figure is exact.

use std::{process::Stdio, sync::Arc, time::Duration};

use portcullis::{
    api::proto::v1::{
        DescribeSecurityGroupsRequest, security_group_service_client::SecurityGroupServiceClient,
    },
    backend::{Backend, BackendError, CallContext, DescribeGroups, paced::Paced, sandbox::Sandbox},
    clock::SystemClock,
    ledger::postgres::{Budgets, Settings},
    pacing::{
        Action, Bucket, Budget, Event, Lane, Tokens, ec2_bucket,
        shared::{Ask, SharedBudget, Taken},
    },
    random::SystemRandom,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    task::JoinSet,
    time::Instant,
};
use tokio_postgres::{Client, NoTls};

use crate::{
    bouncer::bouncer,
    server::{Database, Server},
    world::{BACKEND, open, shared},
};

const ACTION: Action = Action::RevokeEgress;

/// 80 % of EC2's: 40 at once, 4 a second.
const PERCENT: u32 = 80;
const JUDGE: Bucket = Bucket { burst: 40, per_second: 4 };

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The hand of the database's clock.
struct Hand(Client);

impl Hand {
    async fn of(database: &Database<'_>) -> Self {
        drop(open(&database.url()).await.unwrap());
        database.psql(
            "CREATE TABLE IF NOT EXISTS public.hand (ms bigint);
             INSERT INTO public.hand SELECT 1000000000000 WHERE NOT EXISTS (SELECT FROM public.hand);
             CREATE OR REPLACE FUNCTION portcullis.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
                'SELECT ms FROM public.hand'",
        );
        Self::to(&database.url()).await
    }

    async fn to(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        Self(client)
    }

    /// So much after its beginning, which may be before it.
    async fn set(&self, millis: i64) {
        let ms = 1_000_000_000_000 + millis;
        self.0.execute("UPDATE public.hand SET ms = $1", &[&ms]).await.unwrap();
    }
}

async fn join(url: &str) -> Budgets {
    let mut settings = Settings::parse(url).unwrap();
    settings.budget_bound = Duration::from_secs(60);
    Budgets::join(&settings, &SystemRandom).await.unwrap()
}

/// What a replica asks for that wants so much, and waits for as long as it takes.
fn ask(want: u32) -> Ask {
    let (capacity, rate) = (40_000_000, 4000);
    Ask { capacity, rate, holds: true, want, patience: at(3_600_000), ..Ask::default() }
}

async fn take(budgets: &Budgets, ask: Ask) -> Taken {
    budgets.take("111122223333", "eu-central-1", ACTION.name(), ask).await.unwrap()
}

/// A replica with callers that call again as soon as they are answered, or when they are told to.
struct Replica {
    budgets: Budgets,
    budget: Budget<usize>,
    callers: Vec<Caller>,
    served: usize,
    refused: usize,
}

struct Caller {
    name: Arc<str>,
    patience: Duration,
    /// When it calls again; none: it waits for an answer.
    calls: Option<Duration>,
    served: usize,
}

impl Replica {
    async fn new(url: &str, callers: usize, patience: Duration) -> Self {
        let caller = |n| Caller {
            name: format!("caller {n}").into(),
            patience,
            calls: Some(Duration::ZERO),
            served: 0,
        };
        Self {
            budgets: join(url).await,
            budget: Budget::shared(ec2_bucket(ACTION.name()), PERCENT, ACTION, Duration::ZERO),
            callers: (0..callers).map(caller).collect(),
            served: 0,
            refused: 0,
        }
    }

    /// Everything that happens at a moment. When something will.
    async fn step(&mut self, hand: &Hand, now: Duration, ec2: &mut Tokens) -> Duration {
        loop {
            for (n, caller) in self.callers.iter_mut().enumerate() {
                if caller.calls.is_some_and(|at| at <= now) {
                    caller.calls = None;
                    self.budget.ask(&caller.name, Lane::Common, now + caller.patience, n);
                }
            }
            let (events, next) = self.budget.poll(now);
            let quiet = events.is_empty();
            for event in events {
                match event {
                    Event::Granted(n) => {
                        assert!(ec2.take(JUDGE, now), "more than the budget at {now:?}");
                        self.budget.release(true, now);
                        self.served += 1;
                        self.callers[n].served += 1;
                        self.callers[n].calls = Some(now);
                    }
                    Event::Refused(n, wait) => {
                        self.refused += 1;
                        self.callers[n].calls = Some(now + wait.max(at(1)));
                    }
                }
            }
            if let Some(ask) = self.budget.to_ask(now) {
                hand.set(i64::try_from(now.as_millis()).unwrap()).await;
                let taken = self.budgets.take("1", "r", ACTION.name(), ask).await;
                self.budget.answered(taken.ok_or(1), now);
            } else if quiet {
                let calls = self.callers.iter().filter_map(|caller| caller.calls);
                let next = calls.chain(next).min();
                return next.unwrap_or(Duration::MAX);
            }
        }
    }
}

/// Lets time pass. Nobody sends more than the budget, all together.
async fn run(hand: &Hand, replicas: &mut [Replica], until: Duration) {
    let mut now = Duration::ZERO;
    let mut ec2 = Tokens::new(JUDGE, now);
    while now <= until {
        let mut next = Duration::MAX;
        for replica in &mut *replicas {
            next = next.min(replica.step(hand, now, &mut ec2).await);
        }
        // The database counts in milliseconds.
        now = now.max(next).max(now + at(1));
    }
}

async fn flood(database: &Database<'_>, url: &str, count: usize) {
    let hand = Hand::of(database).await;
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(Replica::new(url, 20, at(20_000)).await);
    }
    run(&hand, &mut replicas, at(60_000)).await;
    let served: Vec<usize> = replicas.iter().map(|replica| replica.served).collect();
    println!("{count} replicas in 60 s, of a budget of 240: {served:?}");
    let total: usize = served.iter().sum();
    assert!((238..=240).contains(&total), "{served:?}");
    let even = 240 / count;
    assert!(served.iter().all(|served| served.abs_diff(even) <= 3), "{served:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_together_send_what_one_would() {
    for count in 1..=3 {
        let database = shared().database();
        flood(&database, &database.url(), count).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_pgbouncer_too() {
    let database = shared().database();
    let url = database.url_at(&bouncer().address(), "postgres");
    flood(&database, &url, 3).await;
}

/// It gets its replica's part, one of so many as wait, whatever the others' callers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_replica_starves_nobody_elsewhere() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let flooding = Replica::new(&database.url(), 40, at(30_000)).await;
    // It asks for its next slot only when it has the last one, and is in a hurry.
    let modest = Replica::new(&database.url(), 1, at(1000)).await;
    let mut replicas = [flooding, modest];
    run(&hand, &mut replicas, at(60_000)).await;
    let [flooding, modest] = &replicas;
    println!("in 60 s: the flood {}, the other {}", flooding.served, modest.served);
    assert!((238..=240).contains(&(flooding.served + modest.served)));
    assert!(modest.served >= 118, "{}", modest.served);
    let fair = flooding.callers.iter().map(|caller| caller.served);
    assert!(fair.clone().max().unwrap() - fair.min().unwrap() <= 1, "callers take turns");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_taken_in_batches_and_the_next_slot_is_reserved() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let (one, other) = (join(&database.url()).await, join(&database.url()).await);
    // Nobody knows what was sent before: it begins as spent.
    let first = take(&one, ask(8)).await;
    assert_eq!(first, Taken { granted: 1, wait: at(250), left: -1_000_000, pace: 100 });
    assert_eq!(take(&other, ask(1)).await.wait, at(500));
    // Both held one meanwhile, so that the bucket has filled but for two.
    hand.set(60_000).await;
    take(&one, ask(0)).await;
    take(&other, ask(0)).await;
    let all = take(&one, ask(8)).await;
    assert_eq!(all, Taken { granted: 8, wait: at(0), left: 30_000_000, pace: 100 });
    assert_eq!(take(&other, ask(33)).await.granted, 30);
    // What comes back is there, as far as the bucket goes, and what cannot be waited for is not reserved.
    let back = Ask { held: 0, back: 8, ..ask(0) };
    assert_eq!(take(&one, back).await.left, 8_000_000);
    assert_eq!(take(&one, back).await.left, 10_000_000, "30 are held");
    // What was sent without a slot is paid for.
    assert_eq!(take(&one, Ask { charged: 12, ..ask(0) }).await.left, -2_000_000);
    let hurried = Ask { patience: at(749), ..ask(1) };
    let refused = take(&one, hurried).await;
    assert_eq!((refused.granted, refused.wait, refused.left), (0, at(750), -2_000_000));
    assert_eq!(take(&one, ask(1)).await.wait, at(750));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_replica_holds_counts_against_the_burst() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let (one, other) = (join(&database.url()).await, join(&database.url()).await);
    take(&one, ask(0)).await;
    hand.set(60_000).await;
    assert_eq!(take(&one, ask(30)).await.granted, 30);
    // However long they are held, nothing is saved up behind them.
    hand.set(110_000).await;
    assert_eq!(take(&other, ask(40)).await.granted, 10);
    assert_eq!(take(&other, Ask { held: 10, ..ask(1) }).await.granted, 0, "all are held");
    // One that is used makes room, as fast as the bucket fills.
    take(&one, Ask { held: 29, ..ask(0) }).await;
    assert_eq!(take(&other, Ask { held: 10, ..ask(1) }).await.wait, at(250));
    // A replica that died does not hold for ever: whoever is there cleans up.
    drop(one);
    hand.set(240_000).await;
    let (third, _fourth) = (join(&database.url()).await, join(&database.url()).await);
    take(&third, ask(0)).await;
    assert_eq!(third.replicas(), 1);
    hand.set(300_000).await;
    assert_eq!(take(&third, ask(40)).await.granted, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_ec2_throttles_one_all_slow_down_and_recover() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let (one, other) = (join(&database.url()).await, join(&database.url()).await);
    take(&one, ask(0)).await;
    hand.set(60_000).await;
    let throttled = Ask { throttled: true, ..ask(0) };
    assert_eq!(take(&one, throttled).await, Taken { pace: 50, left: 0, ..Taken::default() });
    // At once by another: what was on its way at the pace before is no news.
    assert_eq!(take(&other, throttled).await.pace, 50);
    let slow = take(&other, ask(1)).await;
    assert_eq!((slow.granted, slow.wait), (1, at(500)));
    hand.set(61_000).await;
    assert_eq!(take(&other, throttled).await.pace, 27);
    hand.set(62_000).await;
    assert_eq!(take(&one, ask(0)).await.pace, 32);
    hand.set(75_999).await;
    assert_eq!(take(&one, ask(0)).await.pace, 97);
    hand.set(76_000).await;
    assert_eq!(take(&one, ask(0)).await.pace, 100);
    for half in 0..40 {
        hand.set(80_000 + half * 500).await;
        take(&one, throttled).await;
    }
    assert_eq!(take(&one, ask(0)).await.pace, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_moved_neither_stops_it_nor_gives_more_than_a_burst() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let one = join(&database.url()).await;
    take(&one, ask(0)).await;
    hand.set(86_400_000).await;
    let reads = |want| Ask { holds: false, ..ask(want) };
    assert_eq!(take(&one, reads(100)).await.granted, 40);
    assert_eq!(take(&one, Ask { throttled: true, ..reads(0) }).await.pace, 50);
    // Back by a day: nothing is gained by it, and it goes on from there.
    hand.set(0).await;
    let next = take(&one, reads(1)).await;
    assert_eq!((next.granted, next.wait), (1, at(500)));
    hand.set(1000).await;
    assert_eq!(take(&one, reads(0)).await.pace, 55);
    hand.set(60_000).await;
    assert_eq!(take(&one, reads(100)).await.granted, 40);
    // A replica that comes back after it was cut off: what it sent is not known.
    hand.set(120_000).await;
    assert_eq!(take(&one, Ask { spent: true, ..reads(8) }).await.wait, at(250));
}

/// Both stand at the row's lock while another replica is there before them, and time passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_at_the_same_time_takes_one_after_the_other() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let (one, other) = (join(&database.url()).await, join(&database.url()).await);
    let reads = |want| Ask { holds: false, ..ask(want) };
    take(&one, reads(0)).await;
    hand.set(10_000).await;
    assert_eq!(take(&one, reads(30)).await.left, 10_000_000);
    let before = Hand::to(&database.url()).await.0;
    before.batch_execute("BEGIN; SELECT FROM portcullis.budget FOR UPDATE").await.unwrap();
    let tasks = [one.clone(), other.clone()]
        .map(|budgets| tokio::spawn(async move { take(&budgets, reads(1)).await }));
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while database.psql(waiting) != "2" {}
    hand.set(11_000).await;
    before
        .batch_execute("UPDATE portcullis.budget SET at = 1000000011000, credit = 5000000; COMMIT")
        .await
        .unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap().granted, 1);
    }
    assert_eq!(take(&one, reads(0)).await.left, 3_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_database_gives_no_burst() {
    let mut server = Server::start(&["fsync=off"]);
    let database = server.database();
    let (url, name) = (database.url(), database.name.clone());
    let hand = Hand::of(&database).await;
    let one = join(&url).await;
    take(&one, ask(0)).await;
    hand.set(60_000).await;
    let reads = |want| Ask { holds: false, ..ask(want) };
    assert_eq!(take(&one, reads(39)).await.left, 1_000_000);
    server.kill();
    assert_eq!(one.take("1", "r", ACTION.name(), reads(1)).await, None);
    server.begin();
    assert_eq!(server.psql(&name, "SELECT count(*) FROM portcullis.budget"), "0");
    Hand::to(&url).await.set(60_000).await;
    let first = loop {
        if let Some(taken) = one.take("1", "r", ACTION.name(), reads(40)).await {
            break taken;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((first.granted, first.left), (1, -1_000_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_counted() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let one = join(&database.url()).await;
    assert_eq!(one.replicas(), 1);
    let (two, three) = (join(&database.url()).await, join(&database.url()).await);
    assert_eq!((two.replicas(), three.replicas()), (2, 3));
    drop((one, two, three));
    hand.set(60_000).await;
    assert_eq!(join(&database.url()).await.replicas(), 4, "one may come back");
    hand.set(60_001).await;
    assert_eq!(join(&database.url()).await.replicas(), 2);
    // A clock that is set back leaves nobody there for ever.
    hand.set(-86_400_000).await;
    assert_eq!(join(&database.url()).await.replicas(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_are_apart_by_account_region_and_action() {
    let database = shared().database();
    let hand = Hand::of(&database).await;
    let one = join(&database.url()).await;
    let keys = [("1", "r", "A"), ("2", "r", "A"), ("1", "s", "A"), ("1", "r", "B")];
    for (account, region, action) in keys {
        one.take(account, region, action, ask(0)).await.unwrap();
    }
    hand.set(60_000).await;
    for (account, region, action) in keys {
        assert_eq!(one.take(account, region, action, ask(40)).await.unwrap().granted, 40);
    }
    // Nobody has asked for a day.
    hand.set(60_000 + 86_400_001).await;
    join(&database.url()).await;
    assert_eq!(database.psql("SELECT count(*) FROM portcullis.budget"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stricter_transactions_of_the_role_are_no_harm_to_it() {
    let database = shared().database();
    drop(open(&database.url()).await.unwrap());
    let name = &database.name;
    database
        .psql(&format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"));
    let (one, other) = (join(&database.url()).await, join(&database.url()).await);
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let budgets = if n % 2 == 0 { one.clone() } else { other.clone() };
            tokio::spawn(async move { take(&budgets, Ask { holds: false, ..ask(1) }).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().granted, 1);
    }
}

/// The program has its replicas share where its ledger is on PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_shares() {
    let database = shared().database();
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["--listen", "127.0.0.1:0", "--ec2-pacing", "on", "--ledger", &database.url()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut after = async |start: &str| loop {
        let line = lines.next_line().await.unwrap().expect("no such line");
        if let Some(rest) = line.trim_start().strip_prefix(start) {
            break rest.trim().to_owned();
        }
    };
    let grpc = after("gRPC").await;
    let address = format!("http://{}", grpc.split(' ').next().unwrap());
    let said = after("pacing").await;
    assert_eq!(said, "80 % of EC2's request budgets, shared by the replicas on this ledger");
    let channel = tonic::transport::Channel::from_shared(address).unwrap().connect_lazy();
    let mut client = SecurityGroupServiceClient::new(channel);
    client.describe_security_groups(DescribeSecurityGroupsRequest::default()).await.unwrap();
    let rows = database.psql("SELECT action FROM portcullis.budget");
    assert_eq!(rows, Action::DescribeAllGroups.name());
}

/// The schema as version 1 of it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_version_1_is_migrated_by_whoever_comes_first() {
    let database = shared().database();
    database.psql("CREATE SCHEMA portcullis");
    database.psql(include_str!("../../src/ledger/postgres/schema.sql"));
    database.psql(&format!(
        "INSERT INTO portcullis.meta (schema_version, backend) VALUES (1, '{BACKEND}')"
    ));
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let url = database.url();
            tokio::spawn(async move { open(&url).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(database.psql("SELECT schema_version FROM portcullis.meta"), "4");
    let budgets = join(&database.url()).await;
    assert_eq!(take(&budgets, ask(1)).await.granted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_migrate_is_told_who_does() {
    let database = shared().database();
    database.psql("CREATE SCHEMA portcullis");
    database.psql(include_str!("../../src/ledger/postgres/schema.sql"));
    let role = format!("{}_user", database.name);
    database.psql(&format!(
        "INSERT INTO portcullis.meta (schema_version, backend) VALUES (1, '{BACKEND}');
         CREATE ROLE {role} LOGIN PASSWORD '{}'; GRANT USAGE ON SCHEMA portcullis TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA portcullis TO {role}",
        crate::server::PASSWORD
    ));
    let error = open(&database.url_at(&shared().address(), &role)).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains("`portcullis ledger migrate` as the role that owns it"), "{words}");
    assert_eq!(database.psql("SELECT schema_version FROM portcullis.meta"), "1");
}

fn ec2() -> Arc<Sandbox> {
    let (sandbox, _) =
        Sandbox::open(None, None, Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap();
    sandbox.throttle();
    Arc::new(sandbox)
}

/// Lists all groups: 40 at once and 8 a second, of EC2's 50 and 10.
async fn list(backend: &dyn Backend) -> Result<(), BackendError> {
    let target = backend.resolve(None, None)?;
    let call = CallContext::new(Instant::now() + Duration::from_secs(120), "op-1");
    backend.describe_groups(&call, &target, &DescribeGroups::default()).await.map(drop)
}

/// In real time, from the backend down to EC2's bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_on_one_account_are_not_throttled() {
    let database = shared().database();
    drop(open(&database.url()).await.unwrap());
    let ec2 = ec2();
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let budgets = Arc::new(join(&database.url()).await);
        let replica = Arc::new(Paced::new(ec2.clone(), PERCENT).sharing(budgets));
        for _ in 0..35 {
            let replica = replica.clone();
            tasks.spawn(async move { list(&*replica).await.unwrap() });
        }
    }
    while tasks.join_next().await.transpose().unwrap().is_some() {}
    assert_eq!(ec2.throttled(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_without_the_database_and_share_again_with_it() {
    let mut server = Server::start(&["fsync=off"]);
    let database = server.database();
    let (url, name) = (database.url(), database.name.clone());
    drop(open(&url).await.unwrap());
    let ec2 = ec2();
    let replica = Paced::new(ec2.clone(), PERCENT).sharing(Arc::new(join(&url).await));
    list(&replica).await.unwrap();
    server.kill();
    for _ in 0..3 {
        list(&replica).await.unwrap();
    }
    server.begin();
    while server.psql(&name, "SELECT count(*) FROM portcullis.budget") != "1" {
        list(&replica).await.unwrap();
    }
    assert_eq!(ec2.throttled(), 0);
}
