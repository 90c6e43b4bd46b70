//! Reading a group back after a revoke.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::super::Work;
use crate::rule::{GroupRef, RuleId};

/// The first pause between two reads that verify a change; it doubles up to [`VERIFY_PAUSE_MAX`].
const VERIFY_PAUSE: Duration = Duration::from_millis(100);
const VERIFY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long before the deadline verifying gives up, so that the answer is in time.
const VERIFY_RESERVE: Duration = Duration::from_millis(500);

/// The result of reading a group back.
#[derive(Debug)]
pub struct Verification {
    /// Whether the change was seen.
    pub visible: bool,
    /// How many reads it took.
    pub attempts: i32,
    /// When the last was answered.
    pub checked_at: std::time::SystemTime,
}

/// Reads the group back until none of `removed` shows, or the deadline nears.
pub(in super::super) async fn verify(
    work: &Work<'_>,
    group: &GroupRef,
    removed: &[RuleId],
) -> Verification {
    let last = work.meta.deadline.checked_sub(VERIFY_RESERVE).unwrap_or(work.meta.deadline);
    let mut wait = VERIFY_PAUSE;
    let mut attempts = 0;
    loop {
        let image = work.backend.image(&work.context, &work.target, group).await;
        attempts += 1;
        let visible =
            image.is_ok_and(|image| !image.rules.iter().any(|rule| removed.contains(&rule.id)));
        let next = Instant::now() + wait;
        if visible || next >= last {
            return Verification { visible, attempts, checked_at: work.clock.now() };
        }
        sleep_until(next).await;
        wait = (wait * 2).min(VERIFY_PAUSE_MAX);
    }
}
