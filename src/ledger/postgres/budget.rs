//! EC2's budget, shared by the replicas through the database: `schema_2.sql` counts, by the database's clock.
//!
//! It has connections of its own, so that it does not wait behind the ledger's, and a bound of its own, so that reads
//! soon go on without it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use super::{
    OpenError, Settings,
    link::{Link, Trouble},
    sql::{self, Param, as_millis, storable},
};
use crate::{
    pacing::shared::{Ask, SharedBudget, Taken, Taking},
    random::Random,
};

/// The most connections.
const CONNECTIONS: usize = 4;

/// How often a replica says that it is there. It is forgotten after a minute.
const PRESENCE: Duration = Duration::from_secs(15);

/// How often it is tried when others are quicker.
const ATTEMPTS: usize = 16;

/// For how long nobody tries again after a failure: each of many budgets would wait in vain.
const PAUSE: Duration = Duration::from_millis(500);

/// The shared budgets. When the last clone is dropped, the replica is forgotten after a while.
#[derive(Clone)]
pub struct Budgets(Arc<Inner>);

struct Inner {
    link: Link,
    replica: i64,
    replicas: AtomicU32,
    failed: Mutex<Option<Instant>>,
}

impl Budgets {
    /// Joins the replicas on the database of a ledger that was opened. It does not fail because the database is away by
    /// now.
    pub async fn join(settings: &Settings, random: &dyn Random) -> Result<Self, OpenError> {
        let mut settings = settings.clone();
        settings.connections = settings.connections.min(CONNECTIONS);
        settings.bound = settings.budget_bound;
        let bytes = random.bits().to_le_bytes();
        let (number, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let inner = Arc::new(Inner {
            link: Link::new(&settings)?,
            replica: i64::from_le_bytes(*number),
            replicas: AtomicU32::new(1),
            failed: Mutex::default(),
        });
        inner.be_present().await;
        let present = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                sleep(PRESENCE).await;
                let Some(inner) = present.upgrade() else { return };
                inner.be_present().await;
            }
        });
        Ok(Self(inner))
    }
}

impl Inner {
    /// A replica that cannot say it is still counted for a while, and counts the others as before.
    async fn be_present(&self) {
        let params: [Param<'_>; 1] = [(&self.replica, Type::INT8)];
        match self.link.rows(sql::PRESENT, &params).await {
            Ok(rows) => {
                let count = rows.first().and_then(|row| row.try_get::<_, i64>(0).ok());
                let count = count.and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
                self.replicas.store(count.max(1), Ordering::Relaxed);
            }
            Err(trouble) => {
                tracing::debug!(?trouble, "the other replicas do not hear of this one");
            }
        }
    }

    async fn take(
        &self,
        account: &str,
        region: &str,
        action: &str,
        ask: &Ask,
    ) -> Result<Taken, Trouble> {
        let number = |count: u32| i64::from(count);
        let (held, back, charged) = (number(ask.held), number(ask.back), number(ask.charged));
        let (want, patience) = (number(ask.want), as_millis(ask.patience));
        let params: [Param<'_>; 14] = [
            (&account, Type::TEXT),
            (&region, Type::TEXT),
            (&action, Type::TEXT),
            (&self.replica, Type::INT8),
            (&ask.capacity, Type::INT8),
            (&ask.rate, Type::INT8),
            (&ask.holds, Type::BOOL),
            (&held, Type::INT8),
            (&back, Type::INT8),
            (&charged, Type::INT8),
            (&ask.throttled, Type::BOOL),
            (&ask.spent, Type::BOOL),
            (&want, Type::INT8),
            (&patience, Type::INT8),
        ];
        let rows = self.link.rows(sql::TAKE_SLOTS, &params).await?;
        let said = |at: usize| rows.first().and_then(|row| row.try_get::<_, i64>(at).ok());
        let pace = rows.first().and_then(|row| row.try_get::<_, i32>(3).ok());
        let (Some(granted), Some(wait), Some(left), Some(pace)) = (said(0), said(1), said(2), pace)
        else {
            return Err(Trouble::Other("PostgreSQL: no answer about the budget".to_owned()));
        };
        Ok(Taken {
            granted: u32::try_from(granted).unwrap_or(0),
            wait: Duration::from_millis(u64::try_from(wait).unwrap_or(0)),
            left,
            pace: u32::try_from(pace).unwrap_or(100),
        })
    }

    /// Whether it has failed so lately that there is no use in trying.
    fn pauses(&self) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|at| at.elapsed() < PAUSE)
    }

    fn has_failed(&self, failed: bool) {
        let at = failed.then(Instant::now);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl SharedBudget for Budgets {
    fn take(&self, account: &str, region: &str, action: &'static str, ask: Ask) -> Taking {
        let (inner, account, region) = (self.0.clone(), storable(account), storable(region));
        Box::pin(async move {
            if inner.pauses() {
                return None;
            }
            let mut taken = inner.take(&account, &region, action, &ask).await;
            for _ in 1..ATTEMPTS {
                // Only where the role's transactions are stricter by default.
                if !matches!(taken, Err(Trouble::Conflict)) {
                    break;
                }
                taken = inner.take(&account, &region, action, &ask).await;
            }
            inner.has_failed(taken.is_err());
            taken
                .inspect_err(|trouble| {
                    tracing::warn!(?trouble, "the shared budget cannot be reached");
                })
                .ok()
        })
    }

    fn replicas(&self) -> u32 {
        self.0.replicas.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").field("place", &self.0.link.place()).finish_non_exhaustive()
    }
}
