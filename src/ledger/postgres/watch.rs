//! Who waits for a change of a record: told at once of changes by this process, and by one poll for all that wait of
//! changes by others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_postgres::types::Type;

use super::{
    link::{Link, Trouble},
    sql::{self, Param},
};
use crate::ledger::LedgerError;

/// The first wait between two polls for a record, and the longest: it doubles.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(1);

/// The most records in one poll.
const MOST: usize = 1000;

/// Everybody who waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Somebody new waits.
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    records: HashMap<String, Watched>,
    /// Whether the task that polls runs. It ends when nobody waits.
    polls: bool,
    /// Since when polls fail.
    failing: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    seen: watch::Sender<Seen>,
    next: Instant,
    pause: Duration,
}

/// What is known of a record.
#[derive(Clone, Debug)]
enum Seen {
    Nothing,
    Version(u64),
    Gone,
    Failed(String),
}

impl Watch {
    /// This process has written a record.
    pub fn tell(&self, id: &str, version: u64) {
        if let Some(watched) = self.waiting().records.get(id) {
            watched.seen.send_replace(Seen::Version(version));
        }
    }

    /// Waits until the record's version is not `version`.
    pub async fn changed(
        &self,
        link: &Arc<Link>,
        id: &str,
        version: u64,
    ) -> Result<(), LedgerError> {
        let mut seen = self.subscribe(link, id);
        loop {
            match &*seen.borrow_and_update() {
                Seen::Version(now) if *now == version => {}
                Seen::Nothing => {}
                Seen::Version(_) | Seen::Gone => return Ok(()),
                Seen::Failed(why) => return Err(LedgerError::Unavailable(why.clone())),
            }
            if seen.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known is asked for again at once: what was seen may be old.
    fn subscribe(&self, link: &Arc<Link>, id: &str) -> watch::Receiver<Seen> {
        let mut waiting = self.waiting();
        let now = Instant::now();
        let watched = waiting.records.entry(id.to_owned()).or_insert_with(|| Watched {
            seen: watch::Sender::new(Seen::Nothing),
            next: now,
            pause: SOONEST,
        });
        watched.next = now;
        let seen = watched.seen.subscribe();
        if !std::mem::replace(&mut waiting.polls, true) {
            tokio::spawn(self.clone().poll(link.clone()));
        }
        drop(waiting);
        self.0.more.notify_one();
        seen
    }

    /// Polls for whatever is due, until nobody waits.
    async fn poll(self, link: Arc<Link>) {
        while let Some((due, next)) = self.due() {
            if due.is_empty() {
                // Both ends of the wait lead to another look.
                drop(timeout_at(next, self.0.more.notified()).await);
                continue;
            }
            let started = Instant::now();
            let found = versions(&link, &due).await;
            self.found(&due, &found, link.bound());
            // However many join, the database is not asked without a pause.
            sleep_until(started + SOONEST / 4).await;
        }
    }

    /// What is to be polled now, and when there will be more. None: nobody waits.
    fn due(&self) -> Option<(Vec<String>, Instant)> {
        let mut waiting = self.waiting();
        waiting.records.retain(|_, watched| watched.seen.receiver_count() > 0);
        let Some(next) = waiting.records.values().map(|watched| watched.next).min() else {
            waiting.polls = false;
            waiting.failing = None;
            return None;
        };
        let now = Instant::now();
        let due = waiting.records.iter_mut().filter(|(_, watched)| watched.next <= now).take(MOST);
        let due = due.map(|(id, watched)| {
            watched.next = now + watched.pause;
            watched.pause = (watched.pause * 2).min(LATEST);
            id.clone()
        });
        Some((due.collect(), next))
    }

    fn found(
        &self,
        asked: &[String],
        found: &Result<HashMap<String, u64>, Trouble>,
        patience: Duration,
    ) {
        let mut waiting = self.waiting();
        let now = Instant::now();
        let failing = match found {
            Ok(_) => None,
            Err(_) => Some(waiting.failing.unwrap_or(now)),
        };
        waiting.failing = failing;
        for id in asked {
            let Some(watched) = waiting.records.get(id) else { continue };
            let seen = match found {
                Ok(found) => found.get(id).map_or(Seen::Gone, |version| Seen::Version(*version)),
                // The database may be back before the caller has to give up.
                Err(_) if failing.is_some_and(|since| now < since + patience) => continue,
                Err(
                    Trouble::Other(words)
                    | Trouble::Rights(words)
                    | Trouble::Missing(words)
                    | Trouble::Value(words),
                ) => Seen::Failed(words.clone()),
                Err(Trouble::Conflict) => continue,
            };
            watched.seen.send_replace(seen);
        }
    }
}

async fn versions(link: &Link, ids: &[String]) -> Result<HashMap<String, u64>, Trouble> {
    let params: [Param<'_>; 1] = [(&ids, Type::TEXT_ARRAY)];
    let rows = link.rows(sql::VERSIONS, &params).await?;
    let found = rows.iter().filter_map(|row| {
        let version = u64::try_from(row.try_get::<_, i64>(1).ok()?).ok()?;
        Some((row.try_get(0).ok()?, version))
    });
    Ok(found.collect())
}
