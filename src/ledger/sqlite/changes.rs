//! Who waits for which record. All changes are made in this process, so nobody has to ask the file again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// The records that somebody waits for, each with the version that it was last given.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<HashMap<String, watch::Sender<Option<u64>>>>);

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    changes: Arc<Changes>,
    id: String,
    versions: Option<watch::Receiver<Option<u64>>>,
}

impl Changes {
    /// From now on nothing is missed.
    pub(super) fn watch(self: &Arc<Self>, id: &str) -> Waiter {
        let versions = self
            .waited()
            .entry(id.to_owned())
            .or_insert_with(|| watch::Sender::new(None))
            .subscribe();
        Waiter { changes: self.clone(), id: id.to_owned(), versions: Some(versions) }
    }

    pub(super) fn tell(&self, id: &str, version: u64) {
        if let Some(waited) = self.waited().get(id) {
            waited.send_replace(Some(version));
        }
    }

    fn waited(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<u64>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Until the record is told to have another version.
    pub(super) async fn until_not(&mut self, version: u64) {
        let Some(versions) = &mut self.versions else { return };
        // An error says that nobody tells any more: whoever waits looks again.
        let _ = versions.wait_for(|told| told.is_some_and(|told| told != version)).await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.versions.take());
        let mut waited = self.changes.waited();
        if waited.get(&self.id).is_some_and(|waited| waited.receiver_count() == 0) {
            waited.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_remembered_who_has_left() {
        let changes = Arc::new(Changes::default());
        let (one, two) = (changes.watch("a"), changes.watch("a"));
        drop(one);
        assert_eq!(changes.waited().len(), 1);
        drop(two);
        assert!(changes.waited().is_empty());
    }
}
