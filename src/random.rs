//! Randomness as an argument, so that ids and drawn faults can be replayed.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Gives random bits.
pub trait Random: fmt::Debug + Send + Sync + 'static {
    /// 128 of them.
    fn bits(&self) -> u128;
}

/// The operating system's randomness, through a generator of each thread's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[allow(clippy::disallowed_methods, reason = "the one place that draws")]
    fn bits(&self) -> u128 {
        rand::rng().random()
    }
}

/// The same bits for the same seed.
#[derive(Debug)]
pub struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn bits(&self) -> u128 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}
