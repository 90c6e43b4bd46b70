//! EC2's budget, shared out fairly: how fast each EC2 action may be called, and who comes next. Pure: time is an
//! argument, a [`Budget`] only says who goes and when to ask again. `backend/paced.rs` waits and wakes.
//!
//! A budget is a token bucket of EC2's shape, at most a part of EC2's own. A slot is a token: it is *held* from the
//! grant until it is used or given back. What is held counts against the burst, so that however long calls hold their
//! slots, no stretch of time sees more calls than the bucket allows.
//!
//! Replicas may share a budget: [`shared`] then says when the next slot comes, and the bucket here is what is known of the
//! shared one. Who gets a slot is decided here all the same.
//!
//! Who waits stands in one of three [`Lane`]s, which share the budget by weight, and within a lane takes turns with
//! the other callers, one call a turn. A call whose turn comes too late for it is refused at once, also when it is
//! others, arriving later but served before it, that make it too late.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

pub use ec2::{ALL_GROUPS, ec2_bucket, is_throttling};
use shared::{Ask, Share, Taken};

mod ec2;
pub mod shared;

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
    /// What this replica has of it, if it is shared.
    share: Option<Share>,
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
    /// Who waits, by its next turn, then by who came first.
    next: BTreeSet<Place>,
    callers: HashMap<Arc<str>, Caller<W>>,
}

/// A caller's place in a lane: turn, arrival, name.
type Place = (u64, u64, Arc<str>);

/// A caller that waits: what it waits for is served in order, one a turn.
#[derive(Debug)]
struct Caller<W> {
    turn: u64,
    since: u64,
    waiters: VecDeque<Waiter<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    id: u64,
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
    /// Whether it changes something.
    pub fn is_mutation(self) -> bool {
        match self {
            Self::AuthorizeEgress
            | Self::AuthorizeIngress
            | Self::CreateGroup
            | Self::DeleteGroup
            | Self::RevokeEgress
            | Self::RevokeIngress => true,
            Self::DescribeGroups | Self::DescribeAllGroups | Self::DescribeRules => false,
        }
    }

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

    /// Whether it only reads: its slots are used as soon as they are there.
    pub fn is_read(self) -> bool {
        matches!(self, Self::DescribeGroups | Self::DescribeAllGroups | Self::DescribeRules)
    }
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
            share: None,
            lanes: std::array::from_fn(|_| Queue::default()),
            time: 0,
            waiting: 0,
            next_id: 0,
        }
    }

    /// The same of a budget that replicas share: [`Self::to_ask`] and [`Self::answered`] are to be used.
    pub fn shared(bucket: Bucket, percent: u32, action: Action, now: Duration) -> Self {
        let share = Some(Share::new(!action.is_read()));
        Self { share, ..Self::new(bucket, percent, now) }
    }

    /// What to ask of the shared budget now, if anything: it is asked once at a time.
    pub fn to_ask(&mut self, now: Duration) -> Option<Ask> {
        self.share.as_ref()?;
        self.refill(now);
        let waiters = self.lanes.iter().flat_map(|lane| lane.callers.values());
        let latest = waiters.flat_map(|caller| &caller.waiters).map(|waiter| waiter.latest).max();
        let waiting = u32::try_from(self.waiting).unwrap_or(u32::MAX);
        let waiting = latest.map(|latest| (waiting, latest.saturating_sub(now)));
        let capacity = i64::try_from(self.tokens.capacity * 1_000_000 / TOKEN).unwrap_or(i64::MAX);
        let rate = i64::try_from(self.full_rate).unwrap_or(i64::MAX);
        let used = u32::try_from(self.held).unwrap_or(0);
        let share = self.share.as_mut()?;
        share.ask(Ask { capacity, rate, ..Ask::default() }, used, waiting, now)
    }

    /// What the shared budget answered. None: it cannot be reached, and so many replicas share it. True: it is the first
    /// time that it cannot.
    pub fn answered(&mut self, answer: Result<Taken, u32>, now: Duration) -> bool {
        self.refill(now);
        let Some(share) = &mut self.share else { return false };
        match answer {
            Ok(taken) => {
                self.pace = i128::from(taken.pace);
                self.next_step = now + STEP;
                self.tokens.credit = i128::from(taken.left) * (TOKEN / 1_000_000);
                let rate = (self.full_rate * self.pace / 100).max(1);
                let token_time = u64::try_from(TOKEN / rate).unwrap_or(u64::MAX);
                share.taken(taken, Duration::from_nanos(token_time), now);
                false
            }
            Err(replicas) => {
                let new = share.missed(replicas, now);
                if new {
                    self.tokens.credit = 0;
                }
                new
            }
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
        if queue.callers.is_empty() {
            // What a lane did not use while nobody waited in it is gone.
            queue.finish = queue.finish.max(self.time);
        }
        queue.push(caller, Waiter { id, latest, tell });
        self.waiting += 1;
        id
    }

    /// Grants what can be granted and refuses what will be too late, and says when to poll again. None: not before
    /// something changes.
    pub fn poll(&mut self, now: Duration) -> (Vec<Event<W>>, Option<Duration>) {
        self.refill(now);
        let mut events = Vec::new();
        while self.waiting > 0 && self.has_slot() {
            let Some(waiter) = self.next() else { break };
            self.use_slot();
            events.push(Event::Granted(waiter.tell));
        }
        self.refuse_late(now, &mut events);
        let blocked = self.limit() < TOKEN;
        let own = (self.waiting > 0 && !blocked).then(|| now + self.wait_for(1));
        let next = match &self.share {
            None => own,
            Some(share) if self.waiting > 0 => match share.cut_off {
                None => share.next(),
                Some(_) => share.next().into_iter().chain(own).min(),
            },
            Some(_) => None,
        };
        (events, next)
    }

    fn has_slot(&self) -> bool {
        match &self.share {
            Some(share) if share.stock > 0 => true,
            Some(share) if share.cut_off.is_none() => false,
            _ => self.tokens.credit >= TOKEN,
        }
    }

    fn use_slot(&mut self) {
        match &mut self.share {
            Some(share) if share.stock > 0 => share.stock -= 1,
            _ => self.tokens.credit -= TOKEN,
        }
        self.held += 1;
    }

    /// Whether anyone waits.
    pub fn is_waited_for(&self) -> bool {
        self.waiting > 0
    }

    /// Takes a call out of the line. How long a slot would take that is asked for now.
    pub fn cancel(&mut self, id: u64, now: Duration) -> Duration {
        self.refill(now);
        let gone = self.lanes.iter_mut().map(|queue| queue.take(|waiter| waiter.id == id).len());
        self.waiting -= gone.sum::<usize>();
        self.wait_for(self.waiting + 1)
    }

    /// A slot was used, or else is given back.
    pub fn release(&mut self, used: bool, now: Duration) {
        self.refill(now);
        self.held -= 1;
        if used {
            return;
        }
        if let Some(share) = self.share.as_mut().filter(|share| share.cut_off.is_none()) {
            // For the next one here, or else it goes back.
            share.stock += 1;
        } else {
            self.tokens.credit = (self.tokens.credit + TOKEN).min(self.limit());
        }
    }

    /// Calls were made without a slot: those that come pay for them.
    pub fn charge(&mut self, calls: u32, now: Duration) {
        self.refill(now);
        self.tokens.credit -= i128::from(calls) * TOKEN;
        if let Some(share) = &mut self.share {
            share.charge(calls);
        }
    }

    /// EC2 has throttled all the same: its bucket is empty, and somebody else draws on it.
    pub fn throttled(&mut self, now: Duration) {
        self.refill(now);
        if let Some(share) = &mut self.share {
            share.throttled();
        }
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

    /// The same as of now: some of it may have come back since anyone asked for a slot.
    pub fn pace_at(&mut self, now: Duration) -> u32 {
        self.refill(now);
        self.pace()
    }

    fn rate(&self) -> i128 {
        (self.full_rate * self.pace / 100 / self.parts()).max(1)
    }

    fn limit(&self) -> i128 {
        (self.tokens.capacity / self.parts()).max(TOKEN) - self.held * TOKEN
    }

    /// One of how many parts is ours.
    fn parts(&self) -> i128 {
        self.share.as_ref().and_then(|share| share.cut_off).unwrap_or(1)
    }

    fn refill(&mut self, now: Duration) {
        if let Some(share) = &mut self.share {
            share.come(now);
        }
        while self.pace < 100 && self.next_step <= now {
            self.tokens.gain(self.rate(), self.limit(), self.next_step);
            self.pace = (self.pace + PACE_REGAINED).min(100);
            self.next_step += STEP;
        }
        self.tokens.gain(self.rate(), self.limit(), now);
    }

    /// How long until there are so many tokens, at the present pace.
    fn wait_for(&self, tokens: usize) -> Duration {
        let mut tokens = i128::try_from(tokens).unwrap_or(i128::MAX / TOKEN);
        let (rate, mut credit) = (self.rate(), self.tokens.credit);
        let time_of = |tokens: i128| {
            let nanos = (tokens + rate - 1) / rate;
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        let Some(share) = self.share.as_ref().filter(|share| share.cut_off.is_none()) else {
            return time_of((tokens * TOKEN - credit).max(0));
        };
        tokens -= i128::from(share.stock);
        if let Some(due) = share.due {
            let first = due.saturating_sub(self.tokens.at);
            let more = (tokens - 1).max(0) * TOKEN * share.crowd;
            return if tokens <= 0 { Duration::ZERO } else { first + time_of(more) };
        }
        let there = (credit / TOKEN).max(0);
        tokens -= there;
        credit -= there * TOKEN;
        if tokens <= 0 {
            return Duration::ZERO;
        }
        time_of(TOKEN - credit + (tokens - 1) * TOKEN * share.crowd)
    }

    /// Whose turn it is: in the lane that is least far, the earliest.
    fn next(&mut self) -> Option<Waiter<W>> {
        let lanes = self.lanes.iter_mut().zip(STEPS);
        let waiting = lanes.filter(|(queue, _)| !queue.next.is_empty());
        let (queue, step) = waiting.min_by_key(|(queue, step)| queue.finish + step)?;
        let waiter = queue.pop()?;
        queue.finish += step;
        self.time = queue.finish;
        self.waiting -= 1;
        Some(waiter)
    }

    /// Everyone who waits, in the order in which slots would be granted, and after how many at the most if those who
    /// wait for more than one turn have to share all of them with the callers that are there now.
    fn order(&self) -> Vec<(u64, usize)> {
        let lanes = self.lanes.iter().zip(STEPS);
        let mut lanes: Vec<_> = lanes
            .map(|(queue, step)| (queue.finish + step, step, queue.order().into_iter()))
            .collect();
        let mut order = Vec::with_capacity(self.waiting);
        loop {
            let waiting = lanes.iter_mut().filter(|(.., waiters)| waiters.len() > 0);
            let next = waiting.min_by_key(|(finish, ..)| *finish);
            let Some((finish, step, waiters)) = next else { return order };
            *finish += *step;
            order.extend(waiters.next());
        }
    }

    /// Refuses those whose turn comes too late, and the last of too many.
    fn refuse_late(&mut self, now: Duration, events: &mut Vec<Event<W>>) {
        if self.waiting == 0 {
            return;
        }
        let waits: HashMap<u64, Duration> = {
            let order = self.order().into_iter().zip(1..);
            order.map(|((id, least), place)| (id, self.wait_for(least.max(place)))).collect()
        };
        let wait_of = |id: u64| waits.get(&id).copied().unwrap_or_default();
        let too_far = self.wait_for(MAX_WAITING);
        for queue in &mut self.lanes {
            let mut late = queue.take(|waiter| {
                let wait = wait_of(waiter.id);
                now + wait > waiter.latest || wait > too_far
            });
            // As they came: callers are kept in no order.
            late.sort_unstable_by_key(|waiter| waiter.id);
            self.waiting -= late.len();
            events.extend(late.into_iter().map(|late| Event::Refused(late.tell, wait_of(late.id))));
        }
    }
}

// === impl Queue ===

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { finish: 0, turn: 0, next: BTreeSet::new(), callers: HashMap::new() }
    }
}

impl<W> Queue<W> {
    fn push(&mut self, name: &Arc<str>, waiter: Waiter<W>) {
        if let Some(caller) = self.callers.get_mut(name) {
            caller.waiters.push_back(waiter);
            return;
        }
        let (turn, since) = (self.turn + 1, waiter.id);
        self.next.insert((turn, since, name.clone()));
        self.callers.insert(name.clone(), Caller { turn, since, waiters: [waiter].into() });
    }

    /// The first of the caller whose turn it is.
    fn pop(&mut self) -> Option<Waiter<W>> {
        let (turn, since, name) = self.next.pop_first()?;
        self.turn = turn;
        let caller = self.callers.get_mut(&name)?;
        let waiter = caller.waiters.pop_front();
        if caller.waiters.is_empty() {
            self.callers.remove(&name);
        } else {
            caller.turn = turn + 1;
            self.next.insert((turn + 1, since, name));
        }
        waiter
    }

    /// Takes out those who leave. Their caller keeps its turn.
    fn take(&mut self, leaves: impl Fn(&Waiter<W>) -> bool) -> Vec<Waiter<W>> {
        let mut gone = Vec::new();
        self.callers.retain(|name, caller| {
            if !caller.waiters.iter().any(&leaves) {
                return true;
            }
            let (leave, stay): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut caller.waiters).into_iter().partition(&leaves);
            gone.extend(leave);
            caller.waiters = stay;
            if caller.waiters.is_empty() {
                self.next.remove(&(caller.turn, caller.since, name.clone()));
            }
            !caller.waiters.is_empty()
        });
        gone
    }

    /// Ids in the order of turns, each with the least place that it can have while all callers stay.
    fn order(&self) -> Vec<(u64, usize)> {
        let mut order: Vec<_> = self
            .callers
            .values()
            .flat_map(|caller| {
                let turns = caller.waiters.iter().zip(caller.turn..).zip(0..);
                turns.map(|((waiter, turn), rounds)| {
                    (turn, caller.since, waiter.id, rounds * self.callers.len() + 1)
                })
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(.., id, least)| (id, least)).collect()
    }
}

#[cfg(test)]
mod tests;
