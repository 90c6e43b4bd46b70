//! Random input for everything that callers can reach: protobuf → decode → validate → sandbox, and forms → the EC2
//! door → sandbox. Nothing may panic, and after each input the sandbox must be as the answer says.
//!
//! Inputs come in batches, each of a seed of its own on a fresh sandbox, so that a failure names what to run again:
//! `FUZZ_SEED`, `FUZZ_BATCH` and `FUZZ_INPUTS` choose; `scripts/fuzz` runs ten million.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a panic is a failed test"
)]

use std::{collections::BTreeMap, env, io::Write as _, sync::Arc};

use portcullis::{
    api::query::Door, backend::sandbox::Sandbox, clock::SystemClock, random::SeededRandom,
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::runtime::{Builder, Runtime};

#[path = "fuzz/forms.rs"]
mod forms;
#[path = "fuzz/make.rs"]
mod make;
#[path = "fuzz/messages.rs"]
mod messages;
#[path = "fuzz/world.rs"]
mod world;

/// Inputs on one sandbox.
const BATCH: u64 = 1000;

/// Inputs of each of the two kinds where nothing asks for more.
const INPUTS: u64 = 20_000;

/// What became of inputs, by name.
type Tally = BTreeMap<&'static str, u64>;

/// A sandbox of its own for each batch.
struct World {
    sandbox: Arc<Sandbox>,
    door: Door,
    runtime: Runtime,
}

impl World {
    fn new(seed: u64) -> Self {
        let state = serde_json::from_str(include_str!("service/state.json")).unwrap();
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(seed)));
        let opened = Sandbox::open(Some(state), None, clock.clone(), random.clone());
        let sandbox = Arc::new(opened.unwrap().0);
        let door = Door::new(sandbox.clone(), clock, random);
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        Self { sandbox, door, runtime }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var_os(name).map_or(default, |text| text.to_str().unwrap().parse().unwrap())
}

fn run(kind: &str, salt: u64, one: impl Fn(&World, &mut StdRng, &mut Tally)) {
    let (inputs, seed) = (setting("FUZZ_INPUTS", INPUTS), setting("FUZZ_SEED", 1));
    let first = setting("FUZZ_BATCH", 0);
    let mut tally = Tally::new();
    for batch in first..first + inputs.div_ceil(BATCH) {
        let own = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ batch << 1 ^ salt;
        let (world, mut random) = (World::new(own), StdRng::seed_from_u64(own));
        let place = Place { kind, seed, batch };
        for _ in 0..BATCH {
            one(&world, &mut random, &mut tally);
        }
        drop(place);
    }
    let total: u64 = tally.values().sum();
    // Past the capture of tests: it is looked for in the output of CI.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{kind}: {total} inputs, seed {seed}: {tally:?}").unwrap();
    assert_eq!(total, inputs.div_ceil(BATCH) * BATCH);
}

/// Says where a panic happened.
struct Place<'a> {
    kind: &'a str,
    seed: u64,
    batch: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { kind, seed, batch } = self;
            eprintln!("{kind}: again with FUZZ_SEED={seed} FUZZ_BATCH={batch} FUZZ_INPUTS=1");
        }
    }
}

#[test]
fn messages_of_every_kind_keep_the_sandbox_true() {
    run("messages", 0, messages::one);
}

#[test]
fn forms_of_every_kind_keep_the_sandbox_true() {
    run("forms", 1, forms::one);
}
