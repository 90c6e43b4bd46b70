//! What the rate limiters remember of their callers: one number each, in bounded memory.
//!
//! A caller whose number is in the past has its whole quota again, which is what it means to be unknown: so it is
//! forgotten, by the next newcomer that needs its place or by [`Table::sweep`].
//!
//! Places are in small sets, and a caller's set follows from its key. If all places of a set are taken by callers that
//! still owe something, then
//! - a newcomer takes the place of the one that owes least, if that owes no more than the newcomer does now: what is
//!   forgiven is at most what anyone gets who is seen for the first time;
//! - else the newcomers of that set share one place. They are slower than they should be, and none is unlimited; who is
//!   known stays known, so that nobody gets rid of a debt by sending others ahead.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{nanos::Nanos, state::StateStore};
use tokio::time::Instant;

/// Sets; a power of two.
const SETS: usize = 1 << 16;

/// Places in a set. Two million in all: a million callers fill 15 in a set, and hardly ever 32.
const PLACES: usize = 32;

/// How many sets a sweep goes over at a time.
const SWEPT_AT_ONCE: usize = 1024;

/// What a caller is known by: a hash that nobody outside can compute, so that nobody picks its set or its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

/// The numbers. All limiters share them; the limiter is part of the key.
#[derive(Debug)]
pub struct Table {
    hasher: RandomState,
    epoch: Instant,
    sets: Box<[Mutex<Set>]>,
    places: usize,
}

/// A table as a limiter has it.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<Table>);

#[derive(Debug, Default)]
struct Set {
    /// Key and number: when the caller's quota is whole again, in nanoseconds since the epoch.
    known: Vec<(u64, u64)>,
    /// The number of all who found no place.
    others: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self::of(SETS, PLACES)
    }
}

impl Table {
    fn of(sets: usize, places: usize) -> Self {
        let sets = (0..sets).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::new(), epoch: Instant::now(), sets, places }
    }

    /// Since when the numbers count.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// The key of a caller, with whatever else tells it apart.
    pub fn key(&self, caller: impl Hash) -> Key {
        Key(self.hasher.hash_one(caller))
    }

    /// How many callers owe something, or did when they were last looked at.
    pub fn len(&self) -> usize {
        self.sets.iter().map(|set| lock(set).known.len()).sum()
    }

    /// Forgets whose number is in the past, every so often, for ever.
    pub async fn keep_swept(&self, every: Duration) {
        let mut interval = tokio::time::interval(every);
        loop {
            interval.tick().await;
            for sets in self.sets.chunks(SWEPT_AT_ONCE) {
                let now = self.now();
                sets.iter().for_each(|set| lock(set).sweep(now));
                tokio::task::yield_now().await;
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn set(&self, key: Key) -> Option<MutexGuard<'_, Set>> {
        // The upper half: a set's own order goes by nothing, but a hash's halves are independent anyway.
        let index = usize::try_from(key.0 >> 32).unwrap_or_default() & (self.sets.len() - 1);
        self.sets.get(index).map(lock)
    }
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Shared {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure(*key, measure)
    }
}

impl Table {
    fn measure<T, E>(
        &self,
        key: Key,
        measure: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<T, E> {
        // There are as many sets as a mask can name; without one the caller is new each time.
        let Some(mut set) = self.set(key) else { return measure(None).map(|(answer, _)| answer) };
        if let Some((_, number)) = set.known.iter_mut().find(|(known, _)| *known == key.0) {
            let (answer, next) = measure(Some((*number).into()))?;
            *number = next.into();
            return Ok(answer);
        }
        if set.known.len() >= self.places {
            set.sweep(self.now());
        }
        let (answer, next) = measure(None)?;
        let next = next.into();
        if set.known.len() < self.places {
            set.known.push((key.0, next));
            return Ok(answer);
        }
        if let Some(least) = set.known.iter_mut().min_by_key(|(_, number)| *number)
            && least.1 <= next
        {
            *least = (key.0, next);
            return Ok(answer);
        }
        let (answer, next) = measure(Some(set.others.into()))?;
        set.others = next.into();
        Ok(answer)
    }
}

impl Set {
    fn sweep(&mut self, now: u64) {
        self.known.retain(|(_, number)| *number > now);
        if self.known.capacity() > 4 * self.known.len() {
            self.known.shrink_to(self.known.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses one of a quota of `burst` with one back each second.
    fn call(table: &Table, caller: &str, burst: u64) -> bool {
        const SECOND: u64 = 1_000_000_000;
        let now = table.now();
        let used = table.measure(table.key(caller), |number| {
            let number = u64::from(number.unwrap_or(now.into())).max(now);
            let fits = number + SECOND <= now + burst * SECOND;
            if fits { Ok(((), Nanos::from(number + SECOND))) } else { Err(()) }
        });
        used.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_owes_nothing_leaves() {
        let table = Table::of(4, 8);
        for caller in 0..20 {
            assert!(call(&table, &caller.to_string(), 1));
        }
        assert!(table.len() >= 16);
        let swept = table.keep_swept(Duration::from_secs(10));
        let _ = tokio::time::timeout(Duration::from_secs(11), swept).await;
        assert_eq!(table.len(), 0);
        assert!(table.sets.iter().all(|set| lock(set).known.capacity() == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_full_set_debtors_stay_known_and_newcomers_are_limited_together() {
        let table = Table::of(1, 8);
        let debtors: Vec<String> = (0..8).map(|n| format!("debtor {n}")).collect();
        for debtor in &debtors {
            assert_eq!((0..20).filter(|_| call(&table, debtor, 10)).count(), 10);
        }
        // A thousand newcomers: as many calls as one of them would get, and no debtor is forgotten for them.
        let served = (0..1000).filter(|n| call(&table, &format!("newcomer {n}"), 10)).count();
        assert_eq!(served, 10);
        assert!(!debtors.iter().any(|debtor| call(&table, debtor, 10)));
        // A newcomer gets in with time, although the debtors go on.
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(debtors.iter().all(|debtor| call(&table, debtor, 10)));
            assert!(call(&table, "another", 10));
        }
        assert_eq!(table.len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_full_set_who_called_once_makes_room_for_the_next() {
        let table = Table::of(1, 8);
        for _ in 0..10 {
            call(&table, "debtor", 10);
        }
        for n in 0..1000 {
            assert!(call(&table, &n.to_string(), 10), "{n}");
            assert!(!call(&table, "debtor", 10));
        }
        assert_eq!(table.len(), 8);
    }
}
