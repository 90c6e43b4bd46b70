//! Retries. tonic knows no service configs, so that what gRPC does elsewhere is here: reads by the published service
//! config; and, as in every language, changes with an idempotency key, which a service config cannot see.

use std::{
    error::Error,
    iter::successors,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tonic::{Code, Status, TimeoutExpired, metadata::AsciiMetadataValue};
use tonic_types::StatusExt;

/// One attempt at a change: one that hangs leaves time for others.
const ATTEMPT: Duration = Duration::from_secs(20);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// What is used of a gRPC service config.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceConfig {
    method_config: Vec<MethodConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MethodConfig {
    name: Vec<Name>,
    retry_policy: RetryPolicy,
}

#[derive(Deserialize)]
struct Name {
    service: String,
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RetryPolicy {
    max_attempts: u32,
    initial_backoff: String,
    max_backoff: String,
    backoff_multiplier: f64,
    retryable_status_codes: Vec<String>,
}

impl ServiceConfig {
    /// Calls a read, again as often as the config says.
    pub async fn read<T>(
        &self,
        service: &str,
        method: &str,
        end: Instant,
        mut call: impl AsyncFnMut(Duration) -> Result<T, Box<dyn Error>>,
    ) -> Result<T, Box<dyn Error>> {
        let is_named = |config: &&MethodConfig| {
            config.name.iter().any(|name| name.service == service && name.method == method)
        };
        let policy = self.method_config.iter().find(is_named).map(|config| &config.retry_policy);
        let mut attempt = 1;
        loop {
            let status = match within(left(end), &mut call).await? {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let policy = policy.filter(|policy| attempt < policy.max_attempts);
            let delay = policy.filter(|policy| policy.names(status.code())).and_then(|policy| {
                pushback(&status).unwrap_or_else(|| Some(policy.backoff(attempt)))
            });
            match delay.filter(|delay| *delay < left(end)) {
                None => return Err(status.into()),
                Some(delay) => tokio::time::sleep(delay).await,
            }
            attempt += 1;
        }
    }
}

impl RetryPolicy {
    fn names(&self, code: Code) -> bool {
        code == Code::Unavailable && self.retryable_status_codes.iter().any(|c| c == "UNAVAILABLE")
    }

    /// As gRPC has it: the exponential backoff, with jitter.
    fn backoff(&self, attempt: u32) -> Duration {
        let seconds = |text: &str| text.trim_end_matches('s').parse().unwrap_or(1.0_f64);
        let grown = self.backoff_multiplier.powf(f64::from(attempt - 1));
        let most = (seconds(&self.initial_backoff) * grown).min(seconds(&self.max_backoff));
        jittered(Duration::from_secs_f64(most))
    }
}

/// Repeats a change, which must carry the key that it gets: the server makes one effect of all attempts. Without a key
/// a change must not be repeated.
pub async fn with_key<T>(
    key: AsciiMetadataValue,
    end: Instant,
    mut call: impl AsyncFnMut(AsciiMetadataValue, Duration) -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let mut keyed = async |left| call(key.clone(), left).await;
        let status = match within(ATTEMPT.min(left(end)), &mut keyed).await? {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        match delay(&status, backoff).filter(|delay| *delay < left(end)) {
            None => return Err(status.into()),
            Some(delay) => {
                let reason = status.get_details_error_info().map(|info| info.reason);
                let code = crate::code_name(status.code());
                eprintln!("trying again: {code} {}", reason.unwrap_or_default());
                tokio::time::sleep(delay).await;
            }
        }
        backoff = (2 * backoff).min(MAX_BACKOFF);
    }
}

/// A call that ends in time, and the connection's own time is part of it. Errors that are no status (outer) are of this
/// program. What tonic says where no server answered is said as gRPC says it.
async fn within<T>(
    limit: Duration,
    call: &mut impl AsyncFnMut(Duration) -> Result<T, Box<dyn Error>>,
) -> Result<Result<T, Status>, Box<dyn Error>> {
    let late = || Status::deadline_exceeded("no answer in time");
    let error = match tokio::time::timeout(limit, call(limit)).await {
        Ok(Ok(answer)) => return Ok(Ok(answer)),
        Ok(Err(error)) => error,
        Err(_) => return Ok(Err(late())),
    };
    let status = *error.downcast::<Status>()?;
    let mut sources = successors(status.source(), |error| (*error).source());
    let is_own = status.source().is_some();
    Ok(Err(match status.code() {
        Code::Cancelled if sources.any(|error| error.is::<TimeoutExpired>()) => late(),
        Code::Cancelled | Code::Unknown if is_own => Status::unavailable(status.message()),
        _ => status,
    }))
}

/// The server's word; without one (it did not answer, or not in time) a backoff. None: not again.
fn delay(status: &Status, backoff: Duration) -> Option<Duration> {
    if let Some(pushback) = pushback(status) {
        return pushback;
    }
    let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let unanswered = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
    told.or_else(|| unanswered.then(|| jittered(backoff)))
}

/// `grpc-retry-pushback-ms`, if it is there: a delay, or (inside) none for "not again".
fn pushback(status: &Status) -> Option<Option<Duration>> {
    let value = status.metadata().get("grpc-retry-pushback-ms")?;
    let millis = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(millis.map(Duration::from_millis))
}

fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.8..1.2))
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}
