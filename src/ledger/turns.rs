//! Turns within one process: in the order in which they are asked for, one group at a time, and bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{Held, LedgerError, Turn};

/// The most calls that wait for one group, and for all groups together.
const MAX_OF_GROUP: usize = 256;
const MAX_OF_ALL: usize = 16_384;

/// The turns of all groups.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<Groups>>);

#[derive(Debug, Default)]
struct Groups {
    of: HashMap<Arc<str>, Group>,
    all: usize,
}

#[derive(Debug)]
struct Group {
    turn: Arc<Semaphore>,
    /// Who waits or has it.
    here: usize,
}

/// A place in the line of a group, then its turn.
#[derive(Debug)]
struct Place {
    turns: Turns,
    group: Arc<str>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for the group's turn, until `until` at most.
    pub async fn take(&self, group: &str, until: Instant) -> Result<Turn, LedgerError> {
        let (mut place, turn) = self.line_up(group)?;
        match timeout_at(until, turn.acquire_owned()).await {
            Ok(permit) => place.permit = permit.ok(),
            Err(_) => return Err(LedgerError::TooLate),
        }
        Ok(Turn::new(place))
    }

    fn line_up(&self, group: &str) -> Result<(Place, Arc<Semaphore>), LedgerError> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Groups { of, all } = &mut *groups;
        let name: Arc<str> =
            of.get_key_value(group).map_or_else(|| group.into(), |(n, _)| n.clone());
        let here = of.get(group).map_or(0, |group| group.here);
        if here >= MAX_OF_GROUP || *all >= MAX_OF_ALL {
            return Err(LedgerError::TooMany);
        }
        *all += 1;
        let entry = of
            .entry(name.clone())
            .or_insert_with(|| Group { turn: Arc::new(Semaphore::new(1)), here: 0 });
        entry.here += 1;
        let turn = entry.turn.clone();
        Ok((Place { turns: self.clone(), group: name, permit: None }, turn))
    }
}

impl Held for Place {}

impl Drop for Place {
    fn drop(&mut self) {
        // Before the group can be forgotten: else two could have its turn.
        drop(self.permit.take());
        let mut groups = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.all -= 1;
        if let Some(group) = groups.of.get_mut(&self.group) {
            group.here -= 1;
            if group.here == 0 {
                groups.of.remove(&self.group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin, task::Poll, time::Duration};

    use super::*;

    /// Polls a future once.
    async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order_and_groups_do_not_wait_for_each_other() {
        let turns = Turns::default();
        let far = Instant::now() + Duration::from_secs(60);
        let first = turns.take("a", far).await.unwrap();
        let mut second = Box::pin(turns.take("a", far));
        let mut third = Box::pin(turns.take("a", far));
        assert!(poll_once(second.as_mut()).await.is_none());
        assert!(poll_once(third.as_mut()).await.is_none());
        let other = turns.take("b", far).await.unwrap();
        drop(first);
        assert!(poll_once(third.as_mut()).await.is_none(), "the third passed the second");
        let second = poll_once(second.as_mut()).await.unwrap().unwrap();
        assert!(poll_once(third.as_mut()).await.is_none());
        drop(second);
        drop(poll_once(third.as_mut()).await.unwrap().unwrap());
        drop((third, other));
        let groups = turns.0.lock().unwrap();
        assert!(groups.of.is_empty() && groups.all == 0, "{groups:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_or_leaves_keeps_nobody_waiting() {
        let turns = Turns::default();
        let now = Instant::now();
        let first = turns.take("a", now).await.unwrap();
        let late = turns.take("a", now + Duration::from_secs(1)).await;
        assert_eq!(late.unwrap_err(), LedgerError::TooLate);
        let mut gone = Box::pin(turns.take("a", now + Duration::from_secs(60)));
        assert!(poll_once(gone.as_mut()).await.is_none());
        drop(gone);
        drop(first);
        drop(turns.take("a", Instant::now()).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_is_bounded() {
        let turns = Turns::default();
        let far = Instant::now() + Duration::from_secs(60);
        let mut line = Vec::new();
        for _ in 0..MAX_OF_GROUP {
            let mut turn = Box::pin(turns.take("a", far));
            line.push((poll_once(turn.as_mut()).await, turn));
        }
        assert_eq!(turns.take("a", far).await.unwrap_err(), LedgerError::TooMany);
        drop(turns.take("b", far).await.unwrap());
    }
}
