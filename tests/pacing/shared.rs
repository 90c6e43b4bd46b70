//! Replicas that share a budget, with all of the pacing layer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use portcullis::{
    access::Access,
    backend::{DescribeGroups, paced::Paced},
    operations::Command,
    pacing::{
        Action,
        shared::{Ask, SharedBudget, Taken, Taking},
    },
};
use tokio::{task::JoinSet, time::Instant};

use crate::{World, sandbox, within, world};

/// Where replicas share, in memory: `src/ledger/postgres/schema_2.sql` without the rare cases. Each answer takes its time.
#[derive(Clone, Debug)]
struct Bank {
    latency: Duration,
    epoch: Instant,
    /// By action: millionths of a token, and at which millisecond.
    credit: Arc<Mutex<HashMap<&'static str, (i64, i64)>>>,
    away: Arc<Mutex<bool>>,
}

impl Bank {
    fn new(latency: u64) -> Self {
        let latency = Duration::from_millis(latency);
        Self { latency, epoch: Instant::now(), credit: Arc::default(), away: Arc::default() }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.epoch.elapsed().as_millis()).unwrap()
    }
}

impl SharedBudget for Bank {
    fn take(&self, _: &str, _: &str, action: &'static str, ask: Ask) -> Taking {
        let bank = self.clone();
        Box::pin(async move {
            tokio::time::sleep_until(Instant::now() + bank.latency).await;
            if *bank.away.lock().unwrap() {
                return None;
            }
            let mut credit = bank.credit.lock().unwrap();
            let (credit, at) = credit.entry(action).or_default();
            let now = bank.now();
            let gained = ask.rate * (now - *at);
            let back = i64::from(ask.back) * 1_000_000;
            (*credit, *at) = ((*credit + gained + back).min(ask.capacity), now);
            let mut taken = Taken { pace: 100, ..Taken::default() };
            if *credit >= 1_000_000 {
                taken.granted = ask.want.min(u32::try_from(*credit / 1_000_000).unwrap());
            } else if ask.want > 0 {
                let wait = (1_000_000 - *credit + ask.rate - 1) / ask.rate;
                taken.wait = Duration::from_millis(u64::try_from(wait).unwrap());
                taken.granted = u32::from(taken.wait <= ask.patience);
            }
            *credit -= i64::from(taken.granted) * 1_000_000;
            taken.left = *credit;
            Some(taken)
        })
    }

    fn replicas(&self) -> u32 {
        2
    }
}

fn replicas(count: usize, percent: u32, bank: &Bank) -> Vec<World> {
    let sandbox = sandbox();
    let paced = || Paced::new(sandbox.clone(), percent).sharing(Arc::new(bank.clone()));
    (0..count).map(|_| world(sandbox.clone(), Arc::new(paced()), Access::allow_all())).collect()
}

#[tokio::test(start_paused = true)]
async fn replicas_that_share_make_ec2_throttle_nothing_and_use_the_budget() {
    let worlds = replicas(3, 100, &Bank::new(5));
    let until = Instant::now() + Duration::from_secs(100);
    let mut tasks = JoinSet::new();
    let served: Vec<_> = worlds
        .iter()
        .map(|world| world.keep_busy(&mut tasks, "a", (20, Duration::MAX), until))
        .collect();
    while tasks.join_next().await.transpose().unwrap().is_some() {}
    let served: Vec<usize> = served.iter().map(|served| served.load(Ordering::Relaxed)).collect();
    let total: usize = served.iter().sum();
    println!("three replicas that share, at 100 %: {served:?} of a budget of 500 in 100 s");
    // It begins as spent.
    assert!((490..=500).contains(&total), "{served:?}");
    assert!(served.iter().all(|served| served.abs_diff(total / 3) <= 10), "{served:?}");
    assert_eq!(worlds[0].sandbox.throttled(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_little_time_gets_a_shared_slot_that_is_there() {
    let worlds = replicas(1, 80, &Bank::new(5));
    tokio::time::advance(Duration::from_secs(1)).await;
    let command = Command::DescribeGroups(DescribeGroups::default());
    worlds[0].call_as("a", Duration::from_millis(300), command).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_the_shared_budget_reads_go_on_with_a_part_of_it() {
    let bank = Bank::new(1000);
    let worlds = replicas(1, 80, &bank);
    let world = &worlds[0];
    let list = || Command::DescribeGroups(DescribeGroups::default());
    *bank.away.lock().unwrap() = true;
    let before = Instant::now();
    // Unfiltered: 8 a second, of which this replica has a half. The first one waits for the failure.
    for _ in 0..41 {
        world.call_as("a", Duration::from_secs(30), list()).await.unwrap();
    }
    assert_eq!(before.elapsed().as_millis().div_ceil(10), 100 + 41 * 25);
    // It is tried meanwhile, and once it answers all of it is there again.
    *bank.away.lock().unwrap() = false;
    for _ in 0..20 {
        world.call_as("a", Duration::from_secs(30), list()).await.unwrap();
    }
    let before = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..24 {
        let (world, list) = (world.clone(), list());
        tasks.spawn(async move { world.call_as("a", Duration::from_secs(30), list).await });
    }
    while let Some(answer) = tasks.join_next().await {
        answer.unwrap().unwrap();
    }
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn slots_that_were_waited_for_in_vain_go_back_to_all() {
    let bank = Bank::new(5);
    let worlds = replicas(1, 80, &bank);
    let world = &worlds[0];
    let target = world.target();
    let request = DescribeGroups::default();
    for _ in 0..15 {
        let call = within(30);
        let waiting = world.backend.describe_groups(&call, &target, &request);
        assert!(tokio::time::timeout(Duration::from_millis(6), waiting).await.is_err());
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    world.backend.describe_groups(&within(2), &target, &request).await.unwrap();
    // 1.1 s at 8 a second, but for the one.
    let (credit, at) = bank.credit.lock().unwrap()[Action::DescribeAllGroups.name()];
    let credit = credit + 8000 * (bank.now() - at);
    assert!((7_000_000..8_000_000).contains(&credit), "{credit}");
}
