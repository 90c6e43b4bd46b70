//! Connections to the database: a pool of them, calls with a bound, and what their failures come to.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};
use tokio_postgres::{Error, Row, error::SqlState};

use super::{
    OpenError, Settings,
    settings::in_words,
    sql::{self, Param, as_millis},
    tls::Tls,
};
use crate::ledger::LedgerError;

/// An answer that takes longer tells the time badly.
const SLOW: Duration = Duration::from_millis(20);

/// Why a statement did not do it.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// A unique index, or another transaction, says no: somebody was quicker.
    Conflict,
    /// The role may not.
    Rights(String),
    /// Something that a statement names is not there.
    Missing(String),
    /// A value is not one that the database takes.
    Value(String),
    /// Anything else, for the log.
    Other(String),
}

/// The database.
pub(super) struct Link {
    pool: Pool,
    tls: Tls,
    place: String,
    /// Whether statements may have names: no, once a pooler has lost one.
    names: AtomicBool,
    bound: Duration,
    /// The database's time when it last said it.
    clock: Mutex<Option<(i64, Instant)>>,
}

/// One connection, for one call.
pub(super) struct Lease<'a> {
    link: &'a Link,
    client: Option<Object>,
    until: Instant,
    /// Inside a transaction: whoever gets the connection next must not find it open.
    open: bool,
}

impl Link {
    /// Connects when it is first asked for a connection.
    pub fn new(settings: &Settings) -> Result<Self, OpenError> {
        let tls =
            Tls::new(settings.trust, settings.root_cert.as_deref()).map_err(OpenError::Tls)?;
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(settings.config.clone(), tls.clone(), recycling);
        let bound = settings.bound;
        let pool = Pool::builder(manager)
            .max_size(settings.connections.max(1))
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(bound), create: Some(bound), recycle: Some(bound) })
            .build()
            .map_err(|error| OpenError::Url(error.to_string()))?;
        let place = settings.place().to_owned();
        let names = AtomicBool::new(settings.prepared);
        Ok(Self { pool, tls, place, names, bound, clock: Mutex::default() })
    }

    /// How long one call may take.
    pub fn bound(&self) -> Duration {
        self.bound
    }

    /// Where it is, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A connection, until the bound of a call at most.
    pub async fn lease(&self) -> Result<Lease<'_>, Trouble> {
        self.lease_for(self.bound).await
    }

    /// The same with another bound: reading all of the ledger takes its time.
    pub async fn lease_for(&self, bound: Duration) -> Result<Lease<'_>, Trouble> {
        let first = self.bound.min(bound);
        self.take(Instant::now() + first, Instant::now() + bound).await
    }

    /// The same, for what began before: until that time.
    pub async fn lease_until(&self, until: Instant) -> Result<Lease<'_>, Trouble> {
        self.take(until, until).await
    }

    async fn take(&self, first: Instant, until: Instant) -> Result<Lease<'_>, Trouble> {
        let client = match timeout_at(first, self.pool.get()).await {
            Ok(Ok(client)) => client,
            Ok(Err(PoolError::Backend(error))) => return Err(self.trouble(&error)),
            Ok(Err(PoolError::Timeout(_))) | Err(_) => {
                return Err(self.other(format_args!("no connection within {:?}", self.bound)));
            }
            Ok(Err(error)) => return Err(self.other(error)),
        };
        Ok(Lease { link: self, client: Some(client), until, open: false })
    }

    /// One statement.
    pub async fn rows(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Trouble> {
        self.lease().await?.rows(sql, params).await
    }

    /// The database's time, as far as it can be told without asking. Never ahead of it, unless it was set back.
    pub fn now(&self) -> Option<i64> {
        let (said, at) = (*self.clock.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(said.saturating_add(as_millis(Instant::now().saturating_duration_since(at))))
    }

    /// What the database says the time is, in answer to what was sent at `sent`. An answer that took long, such as that of
    /// a slow disk, tells it badly: what agrees with it and was told better stays.
    pub fn heard(&self, now: i64, sent: Instant) {
        let received = Instant::now();
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let agrees = clock.is_some_and(|(said, at)| {
            let at = |then: Instant| said.saturating_add(as_millis(then.duration_since(at)));
            let slack = as_millis(SLOW);
            (at(sent) - slack..=at(received) + slack).contains(&now)
        });
        if !agrees || received.duration_since(sent) < SLOW {
            *clock = Some((now, received));
        }
    }

    fn other(&self, why: impl fmt::Display) -> Trouble {
        Trouble::Other(format!("PostgreSQL at {}: {why}", self.place))
    }

    fn trouble(&self, error: &Error) -> Trouble {
        let words = format!("PostgreSQL at {}: {}", self.place, in_words(error));
        match error.code() {
            // The last two: the role's transactions are stricter by default, or an administrator's lock crossed ours.
            Some(
                &SqlState::UNIQUE_VIOLATION
                | &SqlState::T_R_SERIALIZATION_FAILURE
                | &SqlState::T_R_DEADLOCK_DETECTED,
            ) => Trouble::Conflict,
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Trouble::Rights(words),
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN) => {
                Trouble::Missing(words)
            }
            Some(code) if is_of_a_value(code) => Trouble::Value(words),
            _ => Trouble::Other(words),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Whether a statement may have been refused for its name: it is not known, or is taken, or is of a statement that has other
/// parameters, whose values these are not. Nothing was done.
fn is_of_a_name(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        let refused = [
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::DUPLICATE_PSTATEMENT,
            SqlState::PROTOCOL_VIOLATION,
        ];
        refused.contains(code) || is_of_a_value(code)
    })
}

/// Data exceptions, and limits such as that of what an index holds.
fn is_of_a_value(code: &SqlState) -> bool {
    ["22", "54"].iter().any(|class| code.code().starts_with(class))
}

/// Runs all of them; they are first polled in their order. The first failure in that order counts.
async fn in_order<F, const N: usize>(mut futures: [F; N]) -> Result<[Vec<Row>; N], Error>
where
    F: Future<Output = Result<Vec<Row>, Error>> + Unpin,
{
    let mut done: [Option<F::Output>; N] = [const { None }; N];
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(output) = Pin::new(future).poll(cx) {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let mut rows = [const { Vec::new() }; N];
    for (rows, output) in rows.iter_mut().zip(done.into_iter().flatten()) {
        *rows = output?;
    }
    Ok(rows)
}

impl Lease<'_> {
    /// One statement.
    pub async fn rows(&mut self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Trouble> {
        let Some(client) = &self.client else {
            return Err(self.link.other("the connection is gone"));
        };
        let answer = timeout_at(self.until, client.query_typed(sql, params)).await;
        self.judge(answer)
    }

    /// The same for a statement that comes again and again: the server keeps what it made of it, under a name. A pooler may
    /// give each transaction another connection, where the name is not known, or somebody else's. Then the statement is
    /// refused, goes again without a name, and so do all that come after it.
    pub async fn rows_again(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Trouble> {
        if !self.link.names.load(Ordering::Relaxed) {
            return self.rows(sql, params).await;
        }
        let Some(client) = &self.client else {
            return Err(self.link.other("the connection is gone"));
        };
        let (values, types): (Vec<_>, Vec<_>) = params.iter().cloned().unzip();
        let answer = timeout_at(self.until, async {
            let statement = client.prepare_typed_cached(sql, &types).await?;
            client.query(&statement, &values).await
        });
        let answer = answer.await;
        let Ok(Err(error)) = &answer else { return self.judge(answer) };
        if !is_of_a_name(error) {
            return self.judge(answer);
        }
        let why = in_words(error);
        let rows = self.rows(sql, params).await?;
        if self.link.names.swap(false, Ordering::Relaxed) {
            let place = self.link.place();
            tracing::info!(
                place,
                why,
                "a pooler keeps no prepared statements: going on without them"
            );
        }
        Ok(rows)
    }

    /// Statements without parameters, inside a transaction that was left open.
    pub async fn batch(&mut self, sql: &str) -> Result<(), Trouble> {
        let Some(client) = &self.client else {
            return Err(self.link.other("the connection is gone"));
        };
        let answer = timeout_at(self.until, client.batch_execute(sql)).await;
        self.judge(answer)
    }

    /// One transaction: its statements are sent together, and each gets its rows. With `commit` false it stays open for
    /// what comes after a look at the rows.
    pub async fn begin_with<const N: usize>(
        &mut self,
        begin: &str,
        statements: [(&str, &[Param<'_>]); N],
        commit: bool,
    ) -> Result<[Vec<Row>; N], Trouble> {
        self.open = true;
        let answer = self.together(begin, statements, if commit { sql::COMMIT } else { "" }).await;
        self.open = !commit;
        answer
    }

    /// The end of a transaction that was left open.
    pub async fn commit_with<const N: usize>(
        &mut self,
        statements: [(&str, &[Param<'_>]); N],
    ) -> Result<[Vec<Row>; N], Trouble> {
        let answer = self.together("", statements, sql::COMMIT).await;
        self.open = false;
        answer
    }

    async fn together<const N: usize>(
        &mut self,
        before: &str,
        statements: [(&str, &[Param<'_>]); N],
        after: &str,
    ) -> Result<[Vec<Row>; N], Trouble> {
        let Some(client) = &self.client else {
            return Err(self.link.other("the connection is gone"));
        };
        let run = |text: String| async move {
            if text.is_empty() { Ok(()) } else { client.batch_execute(&text).await }
        };
        let all = async {
            // Requests are sent in the order in which these are first polled, and answered in that order.
            let middle =
                in_order(statements.map(|(sql, params)| Box::pin(client.query_typed(sql, params))));
            let (begun, middle, ended) =
                tokio::join!(biased; run(before.to_owned()), middle, run(after.to_owned()));
            begun?;
            let rows = middle?;
            ended?;
            Ok(rows)
        };
        let answer = timeout_at(self.until, all).await;
        if !matches!(answer, Ok(Ok(_))) && after.is_empty() {
            // Failed half way, and nobody will end it.
            self.discard();
        }
        self.judge(answer)
    }

    fn discard(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }

    /// Keeps a connection that can be used again.
    fn judge<T>(&mut self, answer: Result<Result<T, Error>, Elapsed>) -> Result<T, Trouble> {
        match answer {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                let known = error.code().is_some_and(|code| {
                    // A server that has become a standby, or goes down, answers this for ever.
                    *code != SqlState::READ_ONLY_SQL_TRANSACTION && !code.code().starts_with("57P")
                });
                if !known {
                    self.discard();
                }
                Err(self.link.trouble(&error))
            }
            Err(_) => {
                if let Some(client) = self.client.take() {
                    let (cancel, tls) = (client.cancel_token(), self.link.tls.clone());
                    let bound = self.link.bound;
                    drop(Object::take(client));
                    // What is too slow for us is not left to run; nobody waits for this.
                    tokio::spawn(
                        async move { drop(timeout(bound, cancel.cancel_query(tls)).await) },
                    );
                }
                Err(self.link.other("no answer in time"))
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.open {
            self.discard();
        }
    }
}

impl From<Trouble> for LedgerError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Conflict => {
                Self::Unavailable("PostgreSQL: others were quicker, again and again".to_owned())
            }
            Trouble::Rights(words)
            | Trouble::Missing(words)
            | Trouble::Value(words)
            | Trouble::Other(words) => Self::Unavailable(words),
        }
    }
}
