//! Files that may change while the server runs: certificates and the like.
//!
//! [`Reload`] looks at the files of each registered part every few seconds, and at once when it is told to (SIGHUP).
//! Where their content differs from what it was, the part reads them again. A part that cannot, because they are
//! broken, keeps what it has: the log says so once, [`Stale`] names the part until the files are good again, and each
//! look tries anew. Content is compared, not times: Kubernetes swaps folders of symbolic links.

use std::{
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
    time::{MissedTickBehavior, interval},
};

/// The most bytes of one file that count. Parts have bounds of their own, which are lower.
const MAX_BYTES: u64 = 256 << 20;

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

type Again = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

struct Part {
    name: &'static str,
    paths: Vec<PathBuf>,
    again: Again,
    /// None: never looked at. What was there before the first look was perhaps not yet read.
    seen: Option<u64>,
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
    /// it may block.
    pub fn register(
        &mut self,
        name: &'static str,
        paths: Vec<PathBuf>,
        again: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let again = Box::new(again);
        self.parts.push(Part { name, paths, again, seen: None, broken: None, failures: 0 });
        self.tell();
    }

    /// Whether there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Looks every `period`, and reads everything again whenever `now` is notified. For ever.
    pub async fn run(mut self, period: Duration, now: Arc<Notify>) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A look that was asked for counts as the period's: what changes after it waits for the next.
            let asked = tokio::select! {
                biased;
                () = now.notified() => true,
                _ = ticks.tick() => false,
            };
            if asked {
                ticks.reset();
            }
            let looked = spawn_blocking(move || {
                self.look(asked);
                self
            });
            self = match looked.await {
                Ok(reload) => reload,
                Err(error) => {
                    tracing::error!(%error, "files are not watched any more");
                    return;
                }
            };
        }
    }

    /// Looks once. If asked to, what did not change is read again, too.
    fn look(&mut self, asked: bool) {
        for part in &mut self.parts {
            part.look(asked, &self.hashes);
        }
        self.tell();
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
    fn look(&mut self, asked: bool, hashes: &RandomState) {
        // Before reading, so that what changes meanwhile is seen at the next look.
        let found = fingerprint(&self.paths, hashes);
        let first = self.seen.is_none();
        let changed = self.seen.replace(found) != Some(found);
        if !changed && !asked && self.broken.is_none() {
            return;
        }
        match (self.again)() {
            Ok(()) => {
                let quiet = first && !asked && self.broken.is_none();
                self.broken = None;
                if !quiet {
                    tracing::info!(part = self.name, "reloaded");
                }
            }
            Err(error) => {
                if self.broken.as_ref() != Some(&error) || asked {
                    tracing::error!(part = self.name, error, "not reloaded: the old state stays");
                }
                self.broken = Some(error);
                self.failures += 1;
            }
        }
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
