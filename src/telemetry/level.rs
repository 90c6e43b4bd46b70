//! Which lines the log has, and changing that while the program runs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, reload};

/// The log filter's directives. Clones change the same filter.
#[derive(Clone)]
pub struct Level {
    current: Arc<Mutex<String>>,
    apply: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl Level {
    /// A filter, and the handle that changes it.
    pub fn open<S: Subscriber + Send + Sync + 'static>(
        directives: &str,
    ) -> Result<(reload::Layer<EnvFilter, S>, Self), String> {
        let (filter, handle) = reload::Layer::new(super::filter(directives)?);
        let apply = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        let current = Arc::new(Mutex::new(directives.to_owned()));
        Ok((filter, Self { current, apply: Arc::new(apply) }))
    }

    /// The directives in effect.
    pub fn get(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes others, or says what is wrong with them. Logged before and after, so that the log says it whatever is
    /// left of it.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        let directives = directives.trim();
        let filter = parse(directives)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let from = std::mem::replace(&mut *current, directives.to_owned());
        tracing::warn!(from, to = directives, "the log level changes");
        if let Err(error) = (self.apply)(filter) {
            *current = from;
            return Err(error);
        }
        tracing::warn!(from, to = directives, "the log level has changed");
        Ok(())
    }
}

/// Stricter than a start is: a word that is no level would be a target, and all other lines would be gone.
fn parse(directives: &str) -> Result<EnvFilter, String> {
    for directive in directives.split(',') {
        let directive = directive.trim();
        let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        if directive.is_empty() {
            return Err("a directive is empty".to_owned());
        }
        if !directive.contains(['=', '[']) && !is_level(directive) {
            return Err(format!(
                "{directive:?} is no level: error, warn, info, debug, trace or off, or target=level"
            ));
        }
    }
    super::filter(directives)
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level").field("current", &self.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_directive_is_named() {
        for good in
            ["info", "info,portcullis=debug", "warn,h2=trace", "off", "portcullis[call]=debug"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("loud", "\"loud\" is no level"),
            ("", "empty"),
            ("info,", "empty"),
            ("info,x=loud", "error parsing level filter"),
            ("info,x=debug=trace", "error parsing level filter"),
        ] {
            let said = parse(bad).unwrap_err();
            assert!(said.contains(part), "{bad}: {said}");
        }
    }

    #[test]
    fn a_bad_level_changes_nothing() {
        let (_filter, level) = Level::open::<tracing_subscriber::Registry>("info").unwrap();
        assert!(level.set("loud").is_err());
        assert_eq!(level.get(), "info");
    }
}
