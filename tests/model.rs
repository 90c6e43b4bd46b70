//! The model of idempotency: random programs of calls, retries, duplicates, deadlines that pass, callers that hang up,
//! replicas that die at any await point and at any call of the ledger, faults of the ledger and of EC2, stale reads and
//! other writers; on one to three replicas, under a paused clock. The sandbox's state is the judge of what was done.
//!
//! A seed makes a program, and a failure says which: `MODEL_SEED`, `MODEL_FIRST` and `MODEL_PROGRAMS` choose;
//! `scripts/model` runs many. Program, world and promises: `model/program.rs`, `model/world.rs`, `model/rules.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_wrap,
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    reason = "a panic is a failed test"
)]

use std::{
    env,
    io::Write,
    sync::{Arc, Mutex},
};

use portcullis::ledger::{Ledger, Terms, memory::Memory, sqlite::Sqlite};

use bugs::{Bug, Engine};
use folder::Folder;
use program::Program;
use world::{Tally, Time};

#[path = "model/bugs.rs"]
mod bugs;
#[path = "ledger/folder.rs"]
mod folder;
#[path = "model/found.rs"]
mod found;
#[path = "model/life.rs"]
mod life;
#[path = "model/link.rs"]
mod link;
#[path = "model/postgres.rs"]
mod postgres;
#[path = "model/program.rs"]
mod program;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/run.rs"]
mod run;
#[allow(dead_code, reason = "other tests stop and pause it, too")]
#[path = "postgres/server.rs"]
mod server;
#[path = "model/watch.rs"]
mod watch;
#[path = "model/wire.rs"]
mod wire;
#[path = "model/world.rs"]
mod world;

/// Programs where nothing asks for more.
const PROGRAMS: u64 = 2000;

/// The same on SQLite, where each takes longer.
const PROGRAMS_ON_SQLITE: u64 = 200;

/// And on a real PostgreSQL.
const PROGRAMS_ON_POSTGRESQL: u64 = 50;

/// Programs within which a planted bug must be found.
const SEARCH: u64 = 1500;

fn setting(name: &str, default: u64) -> u64 {
    env::var_os(name).map_or(default, |text| text.to_str().unwrap().parse().unwrap())
}

fn memory(_: &str, time: Arc<Time>) -> Arc<dyn Ledger> {
    Arc::new(Memory::new(Terms::default(), time))
}

/// Makes a ledger in a file of its own; the one of the program before is gone then.
fn sqlite() -> impl Fn(&str, Arc<Time>) -> Arc<dyn Ledger> + Send + Sync {
    let last = Mutex::new(None);
    move |_, time| {
        let folder = Folder::new();
        let file = folder.join("ledger.db");
        let ledger = Sqlite::open_replayable(&file, "sandbox", Terms::default(), time).unwrap();
        *last.lock().unwrap() = Some(folder);
        Arc::new(ledger)
    }
}

fn seed_of(seed: u64, number: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03)
}

/// Runs programs; fails with the smallest that breaks the promise which the first failure broke.
fn programs(test: &str, engine: &Engine, usual: u64) -> (u64, Tally) {
    let (seed, first) = (setting("MODEL_SEED", 1), setting("MODEL_FIRST", 0));
    let count = setting("MODEL_PROGRAMS", usual);
    let mut tally = Tally::default();
    for number in first..first + count {
        let program = Program::new(seed_of(seed, number));
        let verbose = setting("MODEL_VERBOSE", 0) == 1;
        if verbose {
            println!("{program}");
        }
        let ran = run::run(&program, None, engine, verbose);
        if let Some(broken) = ran.violations.first() {
            println!("program {number} of seed {seed}: {broken}");
            let small = shrink(program, &kind(broken), engine);
            println!("{small}");
            let ran = run::run(&small, None, engine, true);
            panic!(
                "{}\nagain: MODEL_SEED={seed} MODEL_FIRST={number} MODEL_PROGRAMS=1 \
                 cargo test --no-default-features --test model {test} -- --exact",
                ran.violations.join("\n")
            );
        }
        tally.add(ran.tally);
    }
    (count, tally)
}

/// What was broken, without the names in it.
fn kind(broken: &str) -> String {
    broken
        .chars()
        .filter(|c| c.is_ascii_alphabetic() || *c == ' ')
        .take(300)
        .collect::<String>()
        .split_whitespace()
        .filter(|word| !word.starts_with("op"))
        .take(4)
        .collect::<Vec<_>>()
        .join(" ")
}

fn shrink(mut program: Program, broke: &str, engine: &Engine) -> Program {
    let fails = |program: &Program| {
        let ran = run::run(program, None, engine, false);
        ran.violations.iter().any(|broken| kind(broken) == broke)
    };
    while let Some(smaller) = program.smaller().into_iter().find(fails) {
        program = smaller;
    }
    program
}

#[test]
fn random_programs_keep_every_promise() {
    report("", programs("random_programs_keep_every_promise", &memory, PROGRAMS));
}

#[test]
fn random_programs_keep_every_promise_on_sqlite() {
    let test = "random_programs_keep_every_promise_on_sqlite";
    report(" sqlite", programs(test, &sqlite(), PROGRAMS_ON_SQLITE));
}

#[test]
fn random_programs_keep_every_promise_on_postgresql() {
    let test = "random_programs_keep_every_promise_on_postgresql";
    report(" postgresql", programs(test, &postgres::engine(), PROGRAMS_ON_POSTGRESQL));
}

fn report(ledger: &str, (count, tally): (u64, Tally)) {
    let Tally { calls, crashes, ledger_faults, ec2_faults, settled_by_read, unresolved, .. } =
        tally;
    // Past the capture of tests: it is looked for in the output of CI.
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "model{ledger} programs {count} calls {calls} crashes {crashes} ledger faults {ledger_faults} EC2 faults \
         {ec2_faults} settled by read {settled_by_read} unresolved {unresolved} violations 0"
    )
    .unwrap();
    println!("{tally:?}");
}

#[test]
fn a_seed_replays() {
    for number in 0..200 {
        let program = Program::new(seed_of(11, number));
        let [first, second] = [0, 1].map(|_| {
            let mut ran = run::run(&program, None, &memory, false);
            // The details of a refusal have a map, which is written in any order.
            let answers = ran.records.values_mut().filter_map(|record| record.answer.as_mut());
            answers.filter(|answer| answer.code != 0).for_each(|answer| answer.body.clear());
            (ran.records, format!("{:?}", ran.tally))
        });
        assert!(first == second, "program {number} went another way: {} and {}", first.1, second.1);
    }
}

/// The rules find a planted bug, and call it by the name of what it breaks.
fn finds(bug: Bug, what: &str) {
    for number in 0..SEARCH {
        let program = Program::new(seed_of(7, number));
        let ran = run::run(&program, Some(bug), &memory, false);
        if ran.violations.iter().any(|broken| broken.contains(what)) {
            println!("{bug:?}: found by program {number}");
            return;
        }
    }
    panic!("{SEARCH} programs, and nobody noticed {bug:?}");
}

macro_rules! finds {
    ($($name:ident: $bug:ident $what:literal;)*) => {
        $(#[test]
        fn $name() {
            finds(Bug::$bug, $what);
        })*
    };
}

finds! {
    finds_a_write_past_the_fence: NoFence "was moved past its fence";
    finds_a_second_effect: SentTwice "had an effect when it was";
    finds_a_background_that_sends: BackgroundSends "the background sent";
    finds_a_send_without_an_intent: NoIntent "was sent without an intent";
    finds_another_answer: ForgedReplay "another answer than before";
    finds_a_send_for_nobody: NobodyLeaves "was sent after its caller gave up";
    finds_a_lost_record: LostOutcome "and is lost";
    finds_a_move_that_there_is_not: ForgedMove "no such move";
    finds_what_is_never_settled: NoBackground "for ever";
    finds_what_is_settled_too_early: HoldsTooShort "had an effect when it was";
    finds_a_refusal_with_an_effect: LyingRefusal "and has";
    finds_an_answer_that_is_not_so: LyingAnswer "and did";
    finds_two_operations_of_a_group: UnguardedGroups "two unsettled of a group";
    finds_a_resend_by_properties: PropertiesAgain "was sent other than planned";
    finds_a_rule_that_has_become_another: AsPlanned "was sent for what is another rule by now";
    finds_two_records_of_a_key: ForgottenKeys "two records of a key";
    finds_what_is_unresolved_without_a_cause: NoCause "UNRESOLVED without a cause";
    finds_what_was_read_back_and_is_not_so: BlindReads "was read back as done";
    finds_an_internal_error: SternLedger "a fault of ours";
    finds_what_was_sent_and_denied: FalseComfort "is told that nothing was sent";
}
