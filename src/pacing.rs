//! EC2's budget, shared out fairly: how fast each EC2 action may be called, and who comes next. Pure: time is an
//! argument, a [`Budget`] only says who goes and when to ask again. `backend/paced.rs` waits and wakes.
//!
//! A budget is a token bucket of EC2's shape, at most a part of EC2's own. A slot is a token: it is *held* from the
//! grant until it is used or given back. What is held counts against the burst, so that however long calls hold their
//! slots, no stretch of time sees more calls than the bucket allows.
//!
//! Who waits stands in one of three [`Lane`]s, which share the budget by weight, and within a lane takes turns with
//! the other callers: the order is by self-clocked fair queueing, one call a turn. A call whose turn comes too late
//! for it is refused at once, also when it is others, arriving later but served before it, that make it too late.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// EC2's actions that have a budget of their own here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is EC2's action of that name")]
pub enum Action {
    AuthorizeEgress,
    AuthorizeIngress,
    CreateGroup,
    DeleteGroup,
    RevokeEgress,
    RevokeIngress,
    DescribeGroups,
    /// DescribeSecurityGroups without any filter, id, name or page size: EC2 counts it apart.
    DescribeAllGroups,
    DescribeRules,
}

/// The size of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// How many tokens it holds.
    pub burst: u32,
    /// How many it gains in a second.
    pub per_second: u32,
}

/// What a call has a right to besides its caller's turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// Incident response.
    Incident,
    /// What we read for a change: before it, and to see that it happened.
    OwnReads,
    /// Everything else.
    #[default]
    Common,
}

/// A token bucket, exact to the nanosecond.
#[derive(Clone, Debug)]
pub struct Tokens {
    capacity: i128,
    /// In the same unit as [`TOKEN`]. Below zero after calls that were made without a slot.
    credit: i128,
    at: Duration,
}

/// The budget of one action in one account and Region. `W` is what a waiter is told through.
#[derive(Debug)]
pub struct Budget<W> {
    tokens: Tokens,
    /// In thousandths of a token in a second.
    full_rate: i128,
    /// How much of `full_rate` is used, in percent: EC2 has throttled us.
    pace: i128,
    /// When some of the pace comes back.
    next_step: Duration,
    /// Until when what EC2 throttles was sent at the pace before.
    slowing_until: Duration,
    held: i128,
    lanes: [Queue<W>; LANES],
    /// The lanes' virtual time.
    time: u64,
    waiting: usize,
    next_id: u64,
}

/// One lane: callers take turns.
#[derive(Debug)]
struct Queue<W> {
    /// How far the lane has come in the lanes' virtual time.
    finish: u64,
    /// The turn that is being served.
    turn: u64,
    /// By turn, then by arrival.
    waiters: BTreeMap<(u64, u64), Waiter<W>>,
    /// Each waiting caller's last turn.
    last: HashMap<Arc<str>, u64>,
}

#[derive(Debug)]
struct Waiter<W> {
    caller: Arc<str>,
    latest: Duration,
    tell: W,
}

/// What becomes of a call that asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<W> {
    /// It has a slot.
    Granted(W),
    /// There will be none in time for it, but after this long, if nobody else comes.
    Refused(W, Duration),
}

/// A token of credit: thousandths of a token in a second, times nanoseconds.
const TOKEN: i128 = 1_000_000_000_000;

const LANES: usize = 3;

/// A lane's step in virtual time, by [`Lane`]: what it has to wait for a slot is inverse to its weight, here 8 : 4 : 1.
const STEPS: [u64; LANES] = [1, 2, 8];

/// The most calls that wait for one budget. At EC2's pace none of so many would be in time.
pub const MAX_WAITING: usize = 2048;

/// The least pace, in percent.
const MIN_PACE: i128 = 5;

/// How much pace comes back with each [`STEP`] in which EC2 did not throttle.
const PACE_REGAINED: i128 = 5;

/// The least time between two changes of pace in one direction: what was on its way when EC2 throttled is throttled,
/// too.
const STEP: Duration = Duration::from_secs(1);

impl Action {
    /// EC2's name of the action.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthorizeEgress => "AuthorizeSecurityGroupEgress",
            Self::AuthorizeIngress => "AuthorizeSecurityGroupIngress",
            Self::CreateGroup => "CreateSecurityGroup",
            Self::DeleteGroup => "DeleteSecurityGroup",
            Self::RevokeEgress => "RevokeSecurityGroupEgress",
            Self::RevokeIngress => "RevokeSecurityGroupIngress",
            Self::DescribeGroups => "DescribeSecurityGroups",
            Self::DescribeAllGroups => ALL_GROUPS,
            Self::DescribeRules => "DescribeSecurityGroupRules",
        }
    }
}

/// What stands for DescribeSecurityGroups without any filter, id, name or page size.
pub const ALL_GROUPS: &str = "DescribeSecurityGroups, unfiltered";

/// EC2's own bucket of an action, per account and Region. Each request costs one token however many rules it has.
pub fn ec2_bucket(action: &str) -> Bucket {
    let (burst, per_second) = match action {
        ALL_GROUPS => (50, 10),
        "CreateTags" | "DeleteTags" => (100, 10),
        read if read.starts_with("Describe") => (100, 20),
        _ => (50, 5),
    };
    Bucket { burst, per_second }
}

// === impl Tokens ===

impl Tokens {
    /// A full bucket of this part of a size, but of one token at least.
    fn full(bucket: Bucket, percent: u32, now: Duration) -> Self {
        let capacity = (i128::from(bucket.burst) * i128::from(percent) * TOKEN / 100).max(TOKEN);
        Self { capacity, credit: capacity, at: now }
    }

    /// A full bucket.
    pub fn new(bucket: Bucket, now: Duration) -> Self {
        Self::full(bucket, 100, now)
    }

    /// Takes a token out of a bucket of that size, if there is one.
    pub fn take(&mut self, bucket: Bucket, now: Duration) -> bool {
        self.gain(i128::from(bucket.per_second) * 1000, self.capacity, now);
        let has = self.credit >= TOKEN;
        if has {
            self.credit -= TOKEN;
        }
        has
    }

    fn gain(&mut self, rate: i128, limit: i128, until: Duration) {
        let passed = until.saturating_sub(self.at);
        let gained = rate * i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX / 1_000_000_000);
        self.credit = (self.credit + gained).min(limit);
        self.at = self.at.max(until);
    }
}

// === impl Budget ===

impl<W> Budget<W> {
    /// This part, in percent, of EC2's bucket.
    pub fn new(bucket: Bucket, percent: u32, now: Duration) -> Self {
        Self {
            tokens: Tokens::full(bucket, percent, now),
            full_rate: i128::from(bucket.per_second) * 10 * i128::from(percent.max(1)),
            pace: 100,
            next_step: now,
            slowing_until: now,
            held: 0,
            lanes: std::array::from_fn(|_| Queue::default()),
            time: 0,
            waiting: 0,
            next_id: 0,
        }
    }

    /// Puts a call in line; [`Self::poll`] says what becomes of it. `latest`: when a slot is of no use any more. The id
    /// is for [`Self::cancel`].
    pub fn ask(&mut self, caller: &Arc<str>, lane: Lane, latest: Duration, tell: W) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let [incident, own, common] = &mut self.lanes;
        let queue = match lane {
            Lane::Incident => incident,
            Lane::OwnReads => own,
            Lane::Common => common,
        };
        if queue.waiters.is_empty() {
            // What a lane did not use while nobody waited in it is gone.
            queue.finish = queue.finish.max(self.time);
        }
        let last = queue.last.get(caller).copied().unwrap_or_default();
        let turn = last.max(queue.turn) + 1;
        queue.last.insert(caller.clone(), turn);
        queue.waiters.insert((turn, id), Waiter { caller: caller.clone(), latest, tell });
        self.waiting += 1;
        id
    }

    /// Grants what can be granted and refuses what will be too late, and says when to poll again. None: not before
    /// something changes.
    pub fn poll(&mut self, now: Duration) -> (Vec<Event<W>>, Option<Duration>) {
        self.refill(now);
        let mut events = Vec::new();
        while self.waiting > 0 && self.tokens.credit >= TOKEN {
            let Some((lane, key)) = self.next() else { break };
            if let Some(waiter) = self.serve(lane, key) {
                self.tokens.credit -= TOKEN;
                self.held += 1;
                events.push(Event::Granted(waiter.tell));
            }
        }
        self.refuse_late(now, &mut events);
        let blocked = self.limit() < TOKEN;
        let next = (self.waiting > 0 && !blocked).then(|| now + self.wait_for(1));
        (events, next)
    }

    /// Whether anyone waits.
    pub fn is_waited_for(&self) -> bool {
        self.waiting > 0
    }

    /// Takes a call out of the line. How long a slot would take that is asked for now.
    pub fn cancel(&mut self, id: u64, now: Duration) -> Duration {
        self.refill(now);
        for queue in &mut self.lanes {
            let key = queue.waiters.keys().find(|(_, other)| *other == id).copied();
            if key.and_then(|key| queue.waiters.remove(&key)).is_some() {
                self.waiting -= 1;
                queue.recount();
            }
        }
        self.wait_for(self.waiting + 1)
    }

    /// A slot was used, or else is given back.
    pub fn release(&mut self, used: bool, now: Duration) {
        self.refill(now);
        self.held -= 1;
        if !used {
            self.tokens.credit = (self.tokens.credit + TOKEN).min(self.limit());
        }
    }

    /// Calls were made without a slot: those that come pay for them.
    pub fn charge(&mut self, calls: u32, now: Duration) {
        self.refill(now);
        self.tokens.credit -= i128::from(calls) * TOKEN;
    }

    /// EC2 has throttled all the same: its bucket is empty, and somebody else draws on it.
    pub fn throttled(&mut self, now: Duration) {
        self.refill(now);
        self.tokens.credit = self.tokens.credit.min(0);
        if now >= self.slowing_until {
            self.pace = (self.pace / 2).max(MIN_PACE);
            self.slowing_until = now + STEP;
        }
        self.next_step = now + STEP;
    }

    /// How much of the configured rate is in use, in percent.
    pub fn pace(&self) -> u32 {
        u32::try_from(self.pace).unwrap_or(100)
    }

    fn rate(&self) -> i128 {
        (self.full_rate * self.pace / 100).max(1)
    }

    fn limit(&self) -> i128 {
        self.tokens.capacity - self.held * TOKEN
    }

    fn refill(&mut self, now: Duration) {
        while self.pace < 100 && self.next_step <= now {
            self.tokens.gain(self.rate(), self.limit(), self.next_step);
            self.pace = (self.pace + PACE_REGAINED).min(100);
            self.next_step += STEP;
        }
        self.tokens.gain(self.rate(), self.limit(), now);
    }

    /// How long until there are so many tokens, at the present pace.
    fn wait_for(&self, tokens: usize) -> Duration {
        let tokens = i128::try_from(tokens).unwrap_or(i128::MAX / TOKEN);
        let missing = (tokens * TOKEN - self.tokens.credit).max(0);
        let nanos = (missing + self.rate() - 1) / self.rate();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Who is next: the lane that is least far, and in it the earliest turn.
    fn next(&self) -> Option<(usize, (u64, u64))> {
        let lanes = self.lanes.iter().zip(STEPS).enumerate();
        let waiting = lanes.filter_map(|(lane, (queue, step))| {
            let (key, _) = queue.waiters.first_key_value()?;
            Some((queue.finish + step, lane, *key))
        });
        waiting.min().map(|(_, lane, key)| (lane, key))
    }

    fn serve(&mut self, lane: usize, key: (u64, u64)) -> Option<Waiter<W>> {
        let (queue, step) = (self.lanes.get_mut(lane)?, STEPS.get(lane)?);
        let waiter = queue.waiters.remove(&key)?;
        self.waiting -= 1;
        queue.finish += step;
        self.time = queue.finish;
        queue.turn = key.0;
        if queue.last.get(&waiter.caller) == Some(&key.0) {
            queue.last.remove(&waiter.caller);
        }
        Some(waiter)
    }

    /// Everyone who waits, in the order in which slots would be granted.
    fn order(&self) -> Vec<(usize, (u64, u64))> {
        let mut order = Vec::with_capacity(self.waiting);
        let lanes = self.lanes.iter().zip(STEPS);
        let mut lanes: Vec<_> =
            lanes.map(|(queue, step)| (queue.finish + step, step, queue.waiters.keys())).collect();
        loop {
            let waiting = lanes.iter_mut().enumerate().filter(|(_, (.., keys))| keys.len() > 0);
            let next = waiting.min_by_key(|(lane, (finish, ..))| (*finish, *lane));
            let Some((lane, (finish, step, keys))) = next else { return order };
            *finish += *step;
            order.extend(keys.next().map(|key| (lane, *key)));
        }
    }

    /// Refuses those whose turn comes too late, and the last of too many.
    fn refuse_late(&mut self, now: Duration, events: &mut Vec<Event<W>>) {
        if self.waiting == 0 {
            return;
        }
        let mut ahead = 0;
        let mut refused = false;
        for (lane, key) in self.order() {
            let wait = self.wait_for(ahead + 1);
            let Some(queue) = self.lanes.get_mut(lane) else { continue };
            let in_time = queue.waiters.get(&key).is_some_and(|waiter| now + wait <= waiter.latest);
            if in_time && ahead < MAX_WAITING {
                ahead += 1;
            } else if let Some(waiter) = queue.waiters.remove(&key) {
                self.waiting -= 1;
                refused = true;
                events.push(Event::Refused(waiter.tell, wait));
            }
        }
        if refused {
            self.lanes.iter_mut().for_each(Queue::recount);
        }
    }
}

// === impl Queue ===

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { finish: 0, turn: 0, waiters: BTreeMap::new(), last: HashMap::new() }
    }
}

impl<W> Queue<W> {
    /// Forgets the turns of those who left the line: who was refused a thousand times is not a thousand turns behind.
    fn recount(&mut self) {
        self.last.clear();
        for ((turn, _), waiter) in &self.waiters {
            // In the order of turns, so that the last one stays.
            self.last.insert(waiter.caller.clone(), *turn);
        }
    }
}

#[cfg(test)]
mod tests;
