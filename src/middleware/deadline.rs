//! Middleware that ends a call a little before its caller gives up, with DEADLINE_EXCEEDED and, if the change was
//! sent, the operation's id. tonic's own timeout would answer CANCELLED.
//!
//! It bounds the time to the response's head. A unary call's work is over by then; a stream, such as Health.Watch,
//! goes on as long as its client wants.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderMap;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse, refuse};
use crate::{api::service::CallInfo, error::Error, rule::Violation};

/// Bounds calls.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer {
    default: Duration,
    max: Duration,
}

/// See [`DeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Deadline<S> {
    inner: S,
    default: Duration,
    max: Duration,
}

pin_project! {
    /// A call that is bounded, or refused at once.
    #[project = DeadlineProj]
    #[allow(missing_docs, reason = "the fields are nobody else's business")]
    pub enum DeadlineFuture<F> {
        /// Runs until its deadline.
        Bounded {
            #[pin]
            inner: F,
            #[pin]
            sleep: Sleep,
            info: Option<CallInfo>,
        },
        /// The timeout could not be read.
        Refused { response: Option<HttpResponse> },
    }
}

// === impl DeadlineLayer ===

impl DeadlineLayer {
    /// Calls without a deadline get `default`; none gets more than `max`.
    pub fn new(default: Duration, max: Duration) -> Self {
        Self { default, max }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, default: self.default, max: self.max }
    }
}

// === impl Deadline ===

impl<S: Service<HttpRequest, Response = HttpResponse>> Service<HttpRequest> for Deadline<S> {
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        let timeout = grpc_timeout(request.headers());
        let Some(info) = request.extensions_mut().get_mut::<CallInfo>() else {
            return DeadlineFuture::Refused { response: None };
        };
        let timeout = match timeout {
            Ok(given) => given.unwrap_or(self.default).min(self.max),
            Err(violation) => {
                let response = refuse(Error::invalid(vec![violation]), info);
                return DeadlineFuture::Refused { response: Some(response) };
            }
        };
        let deadline = Instant::now() + timeout.saturating_sub(margin(timeout));
        info.deadline = deadline;
        let info = info.clone();
        // tonic would enforce the header too, and answer CANCELLED.
        request.headers_mut().remove("grpc-timeout");
        DeadlineFuture::Bounded {
            inner: self.inner.call(request),
            sleep: tokio::time::sleep_until(deadline),
            info: Some(info),
        }
    }
}

/// How long before the caller's deadline we answer: the smaller of 50 ms and 10 %.
fn margin(timeout: Duration) -> Duration {
    (timeout / 10).min(Duration::from_millis(50))
}

/// The `grpc-timeout` header: up to eight digits and a unit, as the gRPC protocol has it.
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Violation> {
    let mut values = headers.get_all("grpc-timeout").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad = |text| Violation::new("metadata.grpc-timeout", "InvalidParameterValue", text);
    if values.next().is_some() {
        return Err(bad("It may be given once."));
    }
    let parsed = value.to_str().ok().and_then(parse_timeout);
    let expected = "Expecting one to eight digits and one of the units H, M, S, m, u, n.";
    parsed.map(Some).ok_or_else(|| bad(expected))
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

// === impl DeadlineFuture ===

impl<F, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<HttpResponse, E>>,
{
    type Output = Result<HttpResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            DeadlineProj::Refused { response } => {
                let broken = || tonic::Status::internal("").into_http();
                Poll::Ready(Ok(response.take().unwrap_or_else(broken)))
            }
            DeadlineProj::Bounded { inner, sleep, info } => {
                if let Poll::Ready(done) = inner.poll(cx) {
                    return Poll::Ready(done);
                }
                match (sleep.poll(cx), info.take()) {
                    (Poll::Ready(()), Some(info)) => Poll::Ready(Ok(refuse(passed(&info), &info))),
                    (_, kept) => {
                        *info = kept;
                        Poll::Pending
                    }
                }
            }
        }
    }
}

/// What is said when the deadline passed. From here on, what was not sent never will be.
fn passed(info: &CallInfo) -> Error {
    info.progress.abandon();
    Error::deadline_passed(info.progress.sent_operation())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_as_the_protocol_has_them() {
        assert_eq!(parse_timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse_timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "1", "-1S", "+1S", "123456789S", "1s", "1 S", "１S"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_margin_is_the_smaller_of_50_ms_and_10_percent() {
        assert_eq!(margin(Duration::from_secs(30)), Duration::from_millis(50));
        assert_eq!(margin(Duration::from_millis(100)), Duration::from_millis(10));
    }
}
