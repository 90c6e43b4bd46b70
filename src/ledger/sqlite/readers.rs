//! Connections that only read: a few, on threads for blocking work, each with the last committed state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{fault::Fault, place::Place, schema};
use crate::ledger::LedgerError;

/// See the module.
#[derive(Debug)]
pub(super) struct Readers {
    place: Arc<Place>,
    idle: Mutex<Vec<Connection>>,
    free: Semaphore,
    /// Whether reads are done by whoever asks.
    inline: bool,
}

impl Readers {
    /// So many at once.
    pub(super) fn new(place: Arc<Place>, most: usize, inline: bool) -> Arc<Self> {
        let idle = Mutex::default();
        Arc::new(Self { place, idle, free: Semaphore::new(most), inline })
    }

    /// Does all of `act` on one state of the ledger.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let _free = self.free.acquire().await;
        if self.inline {
            return self.read_here(act);
        }
        let readers = self.clone();
        let reading = tokio::task::spawn_blocking(move || readers.read_here(act));
        reading
            .await
            .unwrap_or_else(|error| Err(LedgerError::Unavailable(format!("reading: {error}"))))
    }

    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// Closes what nobody uses: the writer must be the last, to leave everything in the one file.
    pub(super) fn close(&self) {
        self.idle().clear();
    }

    fn read_here<T>(
        &self,
        act: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        let idle = self.idle().pop();
        let done = match idle {
            Some(conn) => Ok(conn),
            None => self.connect(),
        }
        .and_then(|conn| {
            let done = in_one_state(&conn, act);
            if !done.as_ref().is_err_and(Fault::is_lasting) {
                self.idle().push(conn);
            }
            done
        });
        done.map_err(|fault| match fault.into_answer() {
            LedgerError::Unavailable(why) => {
                LedgerError::Unavailable(format!("{}: {why}", self.place.path.display()))
            }
            answer => answer,
        })
    }

    fn connect(&self) -> Result<Connection, Fault> {
        self.place.check().map_err(|error| Fault::Open(error.to_string()))?;
        schema::open_reader(&self.place.path).map_err(|error| Fault::Open(error.to_string()))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs it in one transaction, which is over afterwards whatever happened.
pub(super) fn in_one_state<T>(
    conn: &Connection,
    act: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let state = conn.unchecked_transaction()?;
    let done = act(&state);
    state.rollback()?;
    done
}
