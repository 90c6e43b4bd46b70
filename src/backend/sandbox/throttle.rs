//! EC2's own request budgets: a token bucket for each action, account and Region.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::{
    backend::Refusal,
    pacing::{Tokens, ec2_bucket},
    rule::Target,
};

/// The buckets.
#[derive(Debug)]
pub struct Throttle {
    epoch: Instant,
    /// Of the targets that the state has, so that their number is bounded.
    buckets: HashMap<(Target, &'static str), Tokens>,
    refused: u64,
}

impl Throttle {
    /// All buckets full.
    pub fn new() -> Self {
        Self { epoch: Instant::now(), buckets: HashMap::new(), refused: 0 }
    }

    /// Takes a token for each action, or refuses as EC2 does.
    pub fn admit(&mut self, target: &Target, actions: &[&'static str]) -> Result<(), Refusal> {
        let now = self.epoch.elapsed();
        for action in actions {
            let bucket = ec2_bucket(action);
            let tokens = self.buckets.entry((target.clone(), action));
            if !tokens.or_insert_with(|| Tokens::new(bucket, now)).take(bucket, now) {
                self.refused += 1;
                return Err(Refusal::new("RequestLimitExceeded", "Request limit exceeded."));
            }
        }
        Ok(())
    }

    /// How many calls were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
