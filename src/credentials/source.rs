//! Where an issuer's keys come from, and how fresh they are.
//!
//! A URL's keys are fetched in the background, and at once when a token names a key that is not there; never more
//! often than the least interval allows, and one fetch at a time, however many calls ask. While the URL does not
//! answer, the last good keys are used for a bounded time.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    fetch::Fetch,
    futures::BoxFuture,
    jwks::{self, KeySet},
};

/// How long one fetch may take, and so a call that waits for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The times of fetching.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between fetches in the background.
    pub interval: Duration,
    /// Between any two.
    pub min_interval: Duration,
    /// How old keys may become.
    pub max_stale: Duration,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeySource {
    keys: ArcSwapOption<Loaded>,
    origin: Origin,
}

#[derive(Debug)]
struct Loaded {
    keys: Arc<KeySet>,
    at: Instant,
}

#[derive(Debug)]
enum Origin {
    File(PathBuf),
    Url {
        issuer: String,
        fetch: Arc<dyn Fetch>,
        pace: Pace,
        since: Instant,
        flight: Mutex<Flight>,
        this: Weak<KeySource>,
    },
}

/// The last fetch.
#[derive(Debug, Default)]
struct Flight {
    began: Option<Instant>,
    /// Closed when it is over, however that came.
    over: Option<watch::Receiver<()>>,
    failed: bool,
}

impl KeySource {
    /// Keys in a file. They are as fresh as the file.
    pub fn of_file(file: PathBuf) -> Result<Arc<Self>, String> {
        let keys = ArcSwapOption::new(Some(Arc::new(read(&file)?)));
        Ok(Arc::new(Self { keys, origin: Origin::File(file) }))
    }

    /// Keys at a URL. Fetches them once, and goes on in the background until nobody uses them any more.
    pub async fn of_fetch(issuer: String, fetch: Arc<dyn Fetch>, pace: Pace) -> Arc<Self> {
        let source = Arc::new_cyclic(|this: &Weak<Self>| Self {
            keys: ArcSwapOption::empty(),
            origin: Origin::Url {
                issuer,
                fetch,
                pace,
                since: Instant::now(),
                flight: Mutex::default(),
                this: this.clone(),
            },
        });
        if let Some(fetched) = source.refresh() {
            fetched.await;
        }
        let this = Arc::downgrade(&source);
        tokio::spawn(async move {
            loop {
                let failed = this.upgrade().is_none_or(|source| source.is_behind());
                sleep(if failed { pace.min_interval } else { pace.interval }).await;
                let Some(source) = this.upgrade() else { return };
                let fetched = source.refresh();
                drop(source);
                if let Some(fetched) = fetched {
                    fetched.await;
                }
            }
        });
        source
    }

    /// The keys. An error if there are none, or none that are fresh enough.
    pub fn current(&self) -> Result<Arc<KeySet>, String> {
        let loaded = self.keys.load();
        let Some(loaded) = loaded.as_ref() else {
            return Err("the issuer's keys could not be fetched yet".to_owned());
        };
        if let Origin::Url { pace, .. } = &self.origin
            && loaded.at.elapsed() > pace.max_stale
        {
            return Err(
                "the issuer's keys could not be fetched for longer than they are used".to_owned()
            );
        }
        Ok(loaded.keys.clone())
    }

    /// How long ago the keys were fetched; if they never were, how long that is tried. None: they are a file's, which are as
    /// old as they please.
    pub fn age(&self) -> Option<Duration> {
        let Origin::Url { since, .. } = &self.origin else { return None };
        let fetched = self.keys.load().as_ref().map(|loaded| loaded.at);
        Some(fetched.unwrap_or(*since).elapsed())
    }

    /// Whether the last fetch failed.
    pub fn is_behind(&self) -> bool {
        match &self.origin {
            Origin::File(_) => false,
            Origin::Url { flight, .. } => lock(flight).failed,
        }
    }

    /// Joins the fetch that is under way, or begins one if the last began long enough ago. It goes on if the future
    /// is dropped.
    pub fn refresh(&self) -> Option<BoxFuture<()>> {
        let Origin::Url { pace, flight, this, .. } = &self.origin else { return None };
        let mut flight = lock(flight);
        // Nothing is ever sent: an error means that the other end is gone.
        let under_way = flight.over.clone().filter(|over| over.has_changed().is_ok());
        let mut over = match under_way {
            Some(over) => over,
            None if flight.began.is_some_and(|began| began.elapsed() < pace.min_interval) => {
                return None;
            }
            None => {
                let source = this.upgrade()?;
                let (running, over) = watch::channel(());
                flight.began = Some(Instant::now());
                flight.over = Some(over.clone());
                tokio::spawn(async move {
                    source.fetch().await;
                    drop(running);
                });
                over
            }
        };
        Some(Box::pin(async move {
            let _ = over.changed().await;
        }))
    }

    async fn fetch(&self) {
        let Origin::Url { issuer, fetch, flight, .. } = &self.origin else { return };
        let began = Instant::now();
        let fetched = timeout(FETCH_TIMEOUT, fetch.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let keys = fetched.and_then(|text| KeySet::parse(&text));
        lock(flight).failed = keys.is_err();
        match keys {
            Ok(keys) => {
                tracing::debug!(issuer, keys = keys.len(), "fetched keys");
                self.keys.store(Some(Arc::new(Loaded { keys: Arc::new(keys), at: began })));
            }
            Err(error) => {
                let age_s = self.keys.load().as_ref().map(|loaded| loaded.at.elapsed().as_secs());
                tracing::error!(issuer, error, age_s, "cannot fetch an issuer's keys");
            }
        }
    }

    /// Reads a file anew: a bad one keeps the old keys, and so does one that is then not `still` the same. Has a URL's
    /// keys fetched.
    pub fn reload(&self, still: &dyn Fn() -> bool) -> Result<(), String> {
        match &self.origin {
            Origin::File(file) => {
                let keys = read(file)?;
                if still() {
                    self.keys.store(Some(Arc::new(keys)));
                }
            }
            // The fetch goes on by itself.
            Origin::Url { .. } => drop(self.refresh()),
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<Loaded, String> {
    let fault = |fault: String| format!("jwks_file {}: {fault}", file.display());
    let mut text = Vec::new();
    let limit = jwks::MAX_BYTES as u64 + 1;
    let read = File::open(file).and_then(|file| file.take(limit).read_to_end(&mut text));
    read.map_err(|error| fault(error.to_string()))?;
    let keys = KeySet::parse(&text).map_err(fault)?;
    Ok(Loaded { keys: Arc::new(keys), at: Instant::now() })
}

fn lock(flight: &Mutex<Flight>) -> std::sync::MutexGuard<'_, Flight> {
    flight.lock().unwrap_or_else(PoisonError::into_inner)
}
