//! Copies the WAL into the file, in a thread of its own: no call pays for it.
//!
//! SQLite begins the WAL from its start again when a write finds all of it copied. So the thread goes on until what came
//! meanwhile is copied, too, which takes ever less. Only if the WAL has become far longer, because the thread cannot open
//! the file or somebody reads an old state for long, the writer copies as well.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, hooks::Wal, wal::CheckpointMode};

use super::{
    fault::{Cause, OpenError},
    place::Place,
    schema,
};

/// The WAL is copied when it has so many pages of 4 KiB: those that were written again meanwhile are copied once.
pub(super) const PAGES: i32 = 6000;

/// And by the writer, when it has so many.
const FAR_TOO_MANY: i32 = 4 * PAGES;

/// How often the thread goes on with what came meanwhile before it waits for the next commit.
const ROUNDS: usize = 16;

/// The thread. It ends before this is gone; the connections that are watched have to be gone before.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// None: it is to end.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn begin(place: &Arc<Place>) -> Result<Self, OpenError> {
        // One that waits is enough: it is for all that was committed until then.
        let (wake, woken) = sync_channel(1);
        let at = place.clone();
        let thread = thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn(move || serve(&at, &woken))
            .map_err(|error| OpenError {
                path: place.path.clone(),
                cause: Cause::Io("its thread cannot be started", error),
            })?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// A writer's connection tells the thread how long the WAL is.
    pub(super) fn watch(&self, conn: &mut Connection) -> Result<(), rusqlite::Error> {
        let wake = self.wake.clone();
        conn.wal_hook(Some(move |wal: &mut Wal, pages| {
            if pages >= PAGES {
                // Full: it is awake already. Gone: the writer is left.
                let _ = wake.as_ref().map(|wake| wake.try_send(()));
            }
            if pages >= FAR_TOO_MANY {
                // An error would be the commit's, which is done.
                let _ = wal.checkpoint();
            }
            Ok(())
        }))
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // It failed if it panicked, which has been told.
            let _ = thread.join();
        }
    }
}

fn serve(place: &Place, woken: &Receiver<()>) {
    let mut conn = None;
    while woken.recv().is_ok() {
        let open = match conn.take() {
            Some(conn) => Ok(conn),
            None => place.check().and_then(|()| schema::open_copier(&place.path)),
        };
        let copied = open.map_err(|error| error.to_string()).and_then(|open| {
            copy(&open).map_err(|error| error.to_string())?;
            conn = Some(open);
            Ok(())
        });
        if let Err(error) = copied {
            let path = place.path.display();
            tracing::debug!(%path, error, "the WAL is not copied until the next commit");
        }
    }
}

fn copy(conn: &Connection) -> Result<(), rusqlite::Error> {
    let mut before = 0;
    for _ in 0..ROUNDS {
        let (pages, copied) = conn.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE)?;
        let is_read = copied < pages;
        let has_begun_again = pages < before;
        if is_read || has_begun_again || pages == before {
            break;
        }
        before = pages;
    }
    Ok(())
}
