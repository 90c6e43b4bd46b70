//! Files that may change while the server runs: certificates and the like.
//!
//! [`Reload`] looks at the files of each registered part every few seconds, and at once when it is told to (SIGHUP).
//! Where their content differs from what it was, the part reads them again. A part that cannot, because they are
//! broken, keeps what it has: the log says so once, [`Stale`] names the part until the files are good again, and each
//! look tries anew. Content is compared, not times: Kubernetes swaps folders of symbolic links.
//!
//! Files that somebody writes in their place are cut for a moment, and what is cut can be valid and say something else:
//! forbids are gone, or a caller's groups. So a part takes what it read only if two looks, [`SETTLED`] apart, and one after
//! the reading found the same. A change calls for the second look at once, and does not wait for the period.

use std::{
    cell::Cell,
    collections::hash_map::RandomState,
    fmt, fs,
    hash::{BuildHasher as _, Hash as _, Hasher as _},
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, sleep},
};

/// The most bytes of one file that count. Parts have bounds of their own, which are lower.
const MAX_BYTES: u64 = 256 << 20;

/// How long files must have been the same before what they say is taken.
pub const SETTLED: Duration = Duration::from_millis(500);

/// How long they may go on changing until their part counts as stale. What is not taken must be seen.
const RESTLESS: Duration = Duration::from_secs(30);

/// The parts, and which of them could not be read again and keep what they had. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stale(Arc<Mutex<Vec<Standing>>>);

/// How a part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: &'static str,
    /// Whether it keeps what it had.
    pub is_stale: bool,
    /// How often reading it again has failed.
    pub failures: u64,
}

/// Watches the files of parts.
#[derive(Debug, Default)]
pub struct Reload {
    parts: Vec<Part>,
    hashes: RandomState,
    stale: Stale,
}

type Again = Box<dyn Fn(&dyn Fn() -> bool) -> Result<(), String> + Send + Sync>;

struct Part {
    name: &'static str,
    paths: Vec<PathBuf>,
    again: Again,
    /// What the last look found, and since when looks find it.
    seen: Option<(u64, Instant)>,
    /// Since when looks find one thing after the other.
    restless: Option<Instant>,
    /// What was there when it was last read. None: what was there before the first look was perhaps not yet read.
    read: Option<u64>,
    /// Whether it is to be read again even if it is the same.
    asked: bool,
    /// Why it is stale.
    broken: Option<String>,
    failures: u64,
}

// === impl Stale ===

impl Stale {
    /// The names of the stale ones, in the order of registration.
    pub fn names(&self) -> Vec<&'static str> {
        let parts = self.parts().into_iter();
        parts.filter(|part| part.is_stale).map(|part| part.name).collect()
    }

    /// All parts that are watched.
    pub fn parts(&self) -> Vec<Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, parts: Vec<Standing>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = parts;
    }
}

// === impl Reload ===

impl Reload {
    /// Nothing to watch yet. Parts that keep their old state are told to `stale`.
    pub fn new(stale: Stale) -> Self {
        Self { stale, ..Self::default() }
    }

    /// Watches these files, and all files in those that are folders. `again` reads them anew and takes all or nothing;
    /// it may block. What it read it takes only if the function that it gets then says that the files are still the same.
    pub fn register(
        &mut self,
        name: &'static str,
        paths: Vec<PathBuf>,
        again: impl Fn(&dyn Fn() -> bool) -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.parts.push(Part {
            name,
            paths,
            again: Box::new(again),
            seen: None,
            restless: None,
            read: None,
            asked: false,
            broken: None,
            failures: 0,
        });
        self.tell();
    }

    /// Whether there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Looks every `period`, and reads everything again whenever `now` is notified. For ever.
    pub async fn run(mut self, period: Duration, now: Arc<Notify>) {
        let mut wait = Duration::ZERO;
        loop {
            // A look that was asked for counts as the period's: what changes after it waits for the next.
            let asked = tokio::select! {
                biased;
                () = now.notified() => true,
                () = sleep(wait) => false,
            };
            let at = Instant::now();
            let looked = spawn_blocking(move || {
                let done = self.look(asked, at);
                (self, done)
            });
            wait = match looked.await {
                Ok((reload, done)) => {
                    self = reload;
                    if done { period } else { SETTLED }
                }
                Err(error) => {
                    tracing::error!(%error, "files are not watched any more");
                    return;
                }
            };
        }
    }

    /// Looks once. If asked to, what did not change is read again, too. False: something is to be looked at again soon.
    fn look(&mut self, asked: bool, now: Instant) -> bool {
        let mut done = true;
        for part in &mut self.parts {
            done &= part.look(asked, now, &self.hashes);
        }
        self.tell();
        done
    }

    fn tell(&self) {
        let parts = self.parts.iter().map(|part| Standing {
            name: part.name,
            is_stale: part.broken.is_some(),
            failures: part.failures,
        });
        self.stale.set(parts.collect());
    }
}

// === impl Part ===

impl Part {
    /// False: the files have to be looked at again before they are read, or taken.
    fn look(&mut self, asked: bool, now: Instant, hashes: &RandomState) -> bool {
        self.asked |= asked;
        // Before reading, so that what changes meanwhile is seen at the next look.
        let found = fingerprint(&self.paths, hashes);
        let since = self.seen.filter(|(seen, _)| *seen == found).map_or(now, |(_, since)| since);
        self.seen = Some((found, since));
        if now.duration_since(since) < SETTLED {
            let began = *self.restless.get_or_insert(now);
            let is_restless = now.duration_since(began) >= RESTLESS;
            if is_restless {
                self.keeps("its files change all the time".to_owned());
            }
            return is_restless;
        }
        self.restless = None;
        if self.read == Some(found) && !self.asked && self.broken.is_none() {
            return true;
        }
        let moved = Cell::new(false);
        let still = || {
            moved.set(moved.get() || fingerprint(&self.paths, hashes) != found);
            !moved.get()
        };
        let result = (self.again)(&still);
        // What was wrong may have been so for that moment only.
        if moved.get() || (result.is_err() && !still()) {
            self.seen = None;
            return false;
        }
        let first = self.read.replace(found).is_none();
        match result {
            Ok(()) => {
                if !first || self.asked || self.broken.is_some() {
                    tracing::info!(part = self.name, "reloaded");
                }
                self.broken = None;
            }
            Err(error) => self.keeps(error),
        }
        self.asked = false;
        true
    }

    /// It keeps what it has, and why.
    fn keeps(&mut self, error: String) {
        if self.broken.as_ref() != Some(&error) || self.asked {
            tracing::error!(part = self.name, error, "not reloaded: the old state stays");
        }
        self.broken = Some(error);
        self.failures += 1;
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).field("paths", &self.paths).finish()
    }
}

/// A number that differs when the files do. Keyed anew in each process: it tells nothing of a secret.
fn fingerprint(paths: &[PathBuf], hashes: &RandomState) -> u64 {
    let mut hasher = hashes.build_hasher();
    for path in paths {
        if path.is_dir() {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> =
                entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
            files.sort();
            files.iter().for_each(|file| hash(file, &mut hasher));
        } else {
            hash(path, &mut hasher);
        }
    }
    hasher.finish()
}

fn hash(file: &Path, hasher: &mut impl std::hash::Hasher) {
    file.hash(hasher);
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => bytes.hash(hasher),
        Err(error) => error.kind().hash(hasher),
    }
}

#[cfg(test)]
mod tests;
