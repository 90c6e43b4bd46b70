//! A budget that replicas share: what is asked of it, and what this replica has of it.
//!
//! Slots are taken when somebody waits, at most [`BATCH`] at once, and the next one is reserved when none is there.
//! Replicas that wait so take turns, one slot each; who gets it is decided here, when it has come. While the shared
//! budget cannot be reached, this replica has a part of it for itself, which begins as spent.

use std::{fmt, future::Future, pin::Pin, time::Duration};

/// The most slots that are taken at once: enough that a round trip does not slow a burst down, few enough that another
/// replica's call comes between.
pub const BATCH: u32 = 8;

/// When something that was refused is asked for again: soon, but not at once.
const SOON: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// How often a shared budget that cannot be reached is tried.
const RETRY: Duration = Duration::from_secs(1);

/// Where the budgets are shared.
pub trait SharedBudget: fmt::Debug + Send + Sync + 'static {
    /// Reports, and takes slots of one budget. None: it cannot be reached, and whether it was done is open.
    fn take(&self, account: &str, region: &str, action: &'static str, ask: Ask) -> Taking;

    /// How many replicas share, as far as is known; 1 at least.
    fn replicas(&self) -> u32;
}

/// The answer to come.
pub type Taking = Pin<Box<dyn Future<Output = Option<Taken>> + Send>>;

/// What a replica reports, and what it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The bucket's size, in millionths of a token.
    pub capacity: i64,
    /// What it gains, in thousandths of a token in a second.
    pub rate: i64,
    /// Whether slots are held for longer than a moment, so that they count against the burst.
    pub holds: bool,
    /// The slots that this replica holds, without those that it asks for.
    pub held: u32,
    /// It gives so many back.
    pub back: u32,
    /// It has made so many calls without a slot.
    pub charged: u32,
    /// EC2 has throttled it.
    pub throttled: bool,
    /// What was sent lately is not known to the shared budget.
    pub spent: bool,
    /// So many slots.
    pub want: u32,
    /// A slot that is further away is of no use.
    pub patience: Duration,
}

/// What a replica gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// So many slots.
    pub granted: u32,
    /// After this long. Nothing granted: how long a slot would take.
    pub wait: Duration,
    /// What is left in the bucket, in millionths of a token; below zero: given away in advance.
    pub left: i64,
    /// How much of the rate is in use, in percent.
    pub pace: u32,
}

/// What this replica has of the budget.
#[derive(Debug)]
pub(super) struct Share {
    /// Whether slots are held for longer than a moment.
    pub holds: bool,
    /// Slots that can be used.
    pub stock: u32,
    /// When the slot that is reserved comes.
    pub due: Option<Duration>,
    /// How many replicas wait for slots, as far as is known: who waits for several gets one in so many.
    pub crowd: i128,
    /// Of how many replicas this is one while the budget cannot be reached.
    pub cut_off: Option<i128>,
    /// What of `held` is known to the others.
    told: u32,
    back: u32,
    charged: u32,
    throttled: bool,
    asking: bool,
    /// Not before.
    again: Duration,
}

impl Share {
    pub fn new(holds: bool) -> Self {
        Self {
            holds,
            stock: 0,
            due: None,
            crowd: 1,
            cut_off: None,
            told: 0,
            back: 0,
            charged: 0,
            throttled: false,
            asking: false,
            again: Duration::ZERO,
        }
    }

    /// What is reserved may have come.
    pub fn come(&mut self, now: Duration) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.stock += 1;
        }
    }

    pub fn charge(&mut self, calls: u32) {
        self.charged = self.charged.saturating_add(calls);
    }

    pub fn throttled(&mut self) {
        self.throttled = true;
    }

    /// When to look again though nothing changes: what is reserved comes, or it may be asked again.
    pub fn next(&self) -> Option<Duration> {
        match (self.due, self.asking) {
            (Some(due), _) => Some(due),
            (None, true) => None,
            (None, false) => Some(self.again),
        }
    }

    /// What to ask now, if anything: `used` are the slots that calls hold, `patience` is that of the most patient of those
    /// that wait, and None if nobody does. `ask` has the size.
    pub fn ask(
        &mut self,
        ask: Ask,
        used: u32,
        waiting: Option<(u32, Duration)>,
        now: Duration,
    ) -> Option<Ask> {
        if self.asking || self.cut_off.is_some() && now < self.again {
            return None;
        }
        if waiting.is_none() {
            self.back += self.stock + u32::from(self.due.take().is_some());
            self.stock = 0;
        }
        let ready = self.stock == 0 && self.due.is_none() && now >= self.again;
        let (want, patience) = match waiting {
            Some((waiting, patience)) if ready => (waiting.min(BATCH), patience),
            _ => (0, Duration::ZERO),
        };
        let held = used + self.stock + u32::from(self.due.is_some());
        let untold = self.holds && waiting.is_none() && held != self.told;
        if want == 0 && self.back == 0 && self.charged == 0 && !self.throttled && !untold {
            return None;
        }
        self.asking = true;
        self.told = held;
        Some(Ask {
            holds: self.holds,
            held,
            back: std::mem::take(&mut self.back),
            charged: std::mem::take(&mut self.charged),
            throttled: std::mem::take(&mut self.throttled),
            spent: self.cut_off.is_some(),
            want,
            patience,
            ..ask
        })
    }

    /// Takes what was granted. `token_time`: how long a token takes, at the pace of the answer.
    pub fn taken(&mut self, taken: Taken, token_time: Duration, now: Duration) {
        self.asking = false;
        self.cut_off = None;
        self.told += taken.granted;
        if taken.granted == 0 {
            self.again = now + taken.wait.clamp(SOON.0, SOON.1);
        } else if taken.wait.is_zero() {
            self.stock += taken.granted;
            self.crowd = 1;
        } else {
            self.due = Some(now + taken.wait);
            // Those that are ahead of us, and we.
            let crowd = taken.wait.as_nanos().div_ceil(token_time.as_nanos().max(1));
            self.crowd = i128::try_from(crowd).unwrap_or(1).max(1);
        }
    }

    /// No answer. True: that is new.
    pub fn missed(&mut self, replicas: u32, now: Duration) -> bool {
        self.asking = false;
        self.again = now + RETRY;
        let before = self.cut_off.replace(i128::from(replicas.max(1)));
        before.is_none()
    }
}
