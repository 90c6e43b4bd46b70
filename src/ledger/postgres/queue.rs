//! Turns across replicas: first those of this process take theirs, then the first of each process stands in a line in
//! the database.
//!
//! A ticket is good for [`LEASE`]: whoever holds it renews it, so a dead replica keeps nobody waiting for longer. All of a
//! turn in the database is done by one task, which outlives the call: whatever becomes of the call, its ticket goes.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_postgres::types::Type;

use super::{
    link::{Link, Trouble},
    sql::{self, Param, as_millis},
};
use crate::{
    ledger::{Held, LedgerError, Turn, turns::Turns},
    random::Random,
};

/// For how long a ticket is good when its replica has died.
const LEASE: Duration = Duration::from_secs(10);

/// How often it is renewed by who has the turn.
const RENEWAL: Duration = Duration::from_secs(3);

/// The first wait between two looks at the line, and the longest: it doubles, and a half of it is random.
const SOONEST: Duration = Duration::from_millis(4);
const LATEST: Duration = Duration::from_millis(100);

/// The most replicas in one line.
const MAX_LINE: i64 = 256;

/// The turns of all groups.
#[derive(Debug)]
pub(super) struct Queue {
    here: Turns,
    link: Arc<Link>,
    random: Arc<dyn Random>,
}

/// A turn in the database, and in this process. Dropped, the task gives the ticket back.
struct Both {
    _gone: oneshot::Sender<()>,
    _here: Turn,
}

impl Held for Both {}

impl fmt::Debug for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Both")
    }
}

/// A place in a line.
struct Ticket {
    link: Arc<Link>,
    random: Arc<dyn Random>,
    group: String,
    number: i64,
}

impl Queue {
    pub fn new(link: Arc<Link>, random: Arc<dyn Random>) -> Self {
        Self { here: Turns::default(), link, random }
    }

    pub async fn take(&self, group: &str, until: Instant) -> Result<Turn, LedgerError> {
        let here = self.here.take(group, until).await?;
        let bytes = self.random.bits().to_le_bytes();
        let (number, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let ticket = Ticket {
            link: self.link.clone(),
            random: self.random.clone(),
            group: sql::storable(group),
            number: i64::from_le_bytes(*number),
        };
        let (tell, told) = oneshot::channel();
        tokio::spawn(ticket.stand(until, tell));
        let gone = match timeout_at(until, told).await {
            Ok(Ok(told)) => told?,
            Ok(Err(_)) => {
                return Err(LedgerError::Unavailable("the turn's task is gone".to_owned()));
            }
            Err(_) => return Err(LedgerError::TooLate),
        };
        Ok(Turn::new(Both { _gone: gone, _here: here }))
    }
}

impl Ticket {
    /// Waits for the turn, tells it, keeps it until it is over.
    async fn stand(
        self,
        until: Instant,
        mut tell: oneshot::Sender<Result<oneshot::Sender<()>, LedgerError>>,
    ) {
        match self.wait(until, &mut tell).await {
            Ok(()) => {
                let (end, ended) = oneshot::channel();
                if tell.send(Ok(end)).is_ok() {
                    self.keep(ended).await;
                }
            }
            // Whoever waits is answered first.
            Err(error) => drop(tell.send(Err(error))),
        }
        self.leave().await;
    }

    /// Each look at the line is waited for, even when the call is gone: one that came after `leave` would enter again.
    async fn wait(
        &self,
        until: Instant,
        tell: &mut oneshot::Sender<Result<oneshot::Sender<()>, LedgerError>>,
    ) -> Result<(), LedgerError> {
        let mut pause = SOONEST;
        loop {
            match self.enter().await {
                Ok(Some(1)) => return Ok(()),
                Ok(None) => return Err(LedgerError::TooMany),
                // In the case of a conflict the next look will tell.
                Ok(Some(_)) | Err(Trouble::Conflict) => {}
                Err(trouble) => return Err(trouble.into()),
            }
            let half = pause / 2;
            let next = Instant::now() + half + half.mul_f64(self.fraction());
            tokio::select! {
                () = sleep_until(next.min(until)) => {}
                () = tell.closed() => return Err(LedgerError::TooLate),
            }
            if next >= until {
                return Err(LedgerError::TooLate);
            }
            pause = (pause * 2).min(LATEST);
        }
    }

    /// Renews the lease until the turn is over.
    async fn keep(&self, mut ended: oneshot::Receiver<()>) {
        while timeout(RENEWAL, &mut ended).await.is_err() {
            // A turn that could not be renewed is lost when its lease ends; the unique index still guards.
            if let Err(trouble) = self.enter().await {
                tracing::debug!(group = self.group, ?trouble, "the turn was not renewed");
            }
        }
    }

    /// Enters the line, or stays in it: the place. None: it is too long.
    async fn enter(&self) -> Result<Option<i32>, Trouble> {
        let lease = as_millis(LEASE);
        let params: [Param<'_>; 4] = [
            (&self.group, Type::TEXT),
            (&self.number, Type::INT8),
            (&lease, Type::INT8),
            (&MAX_LINE, Type::INT8),
        ];
        let rows = self.link.rows(sql::ENTER, &params).await?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok().flatten()))
    }

    /// Not done, it is done by the end of the lease.
    async fn leave(&self) {
        let params: [Param<'_>; 2] = [(&self.group, Type::TEXT), (&self.number, Type::INT8)];
        if let Err(trouble) = self.link.rows(sql::LEAVE, &params).await {
            tracing::debug!(group = self.group, ?trouble, "a ticket stays until its lease ends");
        }
    }

    /// Between 0 and 1.
    fn fraction(&self) -> f64 {
        let [first, ..] = self.random.bits().to_le_bytes();
        f64::from(first) / 256.0
    }
}
