//! Middleware that limits how often each caller may call: GCRA per principal and class of call (`limiter`), in bounded
//! memory (`table`). Right inside authentication, because it needs the caller, and outside decoding, because a refusal
//! is to cost little.
//!
//! Answers say in `ratelimit` and `ratelimit-policy` how much is left. Health checks are never limited. Each process
//! counts for itself.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, header::HeaderName};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use self::limiter::Over;
use super::{HttpRequest, HttpResponse, refuse};
use crate::{
    api::{methods, service::CallInfo},
    config::{CallClass, RateLimits},
    error::{Error, Reason},
    principal::Principal,
    telemetry::metrics::Metrics,
};

mod limiter;
mod table;
#[cfg(test)]
mod tests;

pub use limiter::{Decision, Limiter};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const HEALTH: &str = "/grpc.health.v1.Health/";

/// The class of a call, by its path. None: it is not limited.
pub fn class_of(path: &str) -> Option<CallClass> {
    if path.starts_with(HEALTH) {
        None
    } else if methods::is_change(path) {
        Some(CallClass::Mutate)
    } else {
        Some(CallClass::Read)
    }
}

/// Limits calls.
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    limiter: Option<Arc<Limiter>>,
    metrics: Metrics,
}

/// See [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    limiter: Option<Arc<Limiter>>,
    metrics: Metrics,
}

pin_project! {
    /// A call within its limit, or one that was refused at once.
    #[project = RateLimitProj]
    #[allow(missing_docs, reason = "the fields are nobody else's business")]
    pub enum RateLimitFuture<F> {
        /// Runs; its answer gets the headers.
        Within {
            #[pin]
            inner: F,
            headers: Option<[HeaderValue; 2]>,
        },
        /// Turned away.
        Refused { response: Option<HttpResponse> },
    }
}

// === impl RateLimitLayer ===

impl RateLimitLayer {
    /// Limits by `limiter`, or not at all. Refusals are counted in `metrics`.
    pub fn new(limiter: Option<Arc<Limiter>>, metrics: Metrics) -> Self {
        Self { limiter, metrics }
    }

    /// The limiter for these limits, and the task that keeps it small. None: there is no limit.
    pub fn open(limits: &RateLimits) -> Option<Arc<Limiter>> {
        Limiter::new(limits).map(Arc::new)
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit { inner, limiter: self.limiter.clone(), metrics: self.metrics.clone() }
    }
}

// === impl RateLimit ===

impl<S: Service<HttpRequest, Response = HttpResponse>> Service<HttpRequest> for RateLimit<S> {
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = RateLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let decision = self.limiter.as_deref().and_then(|limiter| decide(limiter, &request));
        match decision {
            Some(Decision { over: Some(over), headers }) => {
                self.metrics.limited("principal", over.class.as_str());
                let mut response = refusal(&over, &request);
                tell(&mut response, headers);
                RateLimitFuture::Refused { response: Some(response) }
            }
            within => {
                let headers = within.map(|decision| decision.headers);
                RateLimitFuture::Within { inner: self.inner.call(request), headers }
            }
        }
    }
}

/// What the limits say to a request. None: nothing that concerns it.
fn decide(limiter: &Limiter, request: &HttpRequest) -> Option<Decision> {
    let class = class_of(request.uri().path())?;
    let principal = principal(request);
    let decision = limiter.check(principal, class)?;
    if !limiter.report_only {
        return Some(decision);
    }
    if let Some(over) = decision.over {
        tracing::info!(
            target: "portcullis::rate_limit",
            principal = %principal.map(Principal::id).unwrap_or_default(),
            class = over.class.as_str(),
            rpc = request.uri().path(),
            "over its limit; not enforced"
        );
    }
    None
}

fn principal(request: &HttpRequest) -> Option<&Principal> {
    request.extensions().get::<Arc<Principal>>().map(Arc::as_ref)
}

fn refusal(over: &Over, request: &HttpRequest) -> HttpResponse {
    let Over { class, rate, wait } = over;
    let class = class.as_str();
    let message = format!(
        "over the limit of {} {class} calls a second, {} at once; try again in {} ms",
        rate.per_second,
        rate.burst,
        wait.as_nanos().div_ceil(1_000_000)
    );
    let subject = principal(request).map(Principal::id).unwrap_or_default();
    let error = Error::exhausted(
        Reason::RateLimited,
        message,
        *wait,
        (subject, format!("{class}: {} a second, {} at once", rate.per_second, rate.burst)),
    );
    match request.extensions().get::<CallInfo>() {
        Some(info) => refuse(error, info),
        None => crate::api::status::encode(error, "").into_http(),
    }
}

fn tell(response: &mut HttpResponse, [limit, policy]: [HeaderValue; 2]) {
    response.headers_mut().insert(RATELIMIT, limit);
    response.headers_mut().insert(RATELIMIT_POLICY, policy);
}

// === impl RateLimitFuture ===

impl<F, E> Future for RateLimitFuture<F>
where
    F: Future<Output = Result<HttpResponse, E>>,
{
    type Output = Result<HttpResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            RateLimitProj::Within { inner, headers } => {
                let mut polled = inner.poll(cx);
                if let Poll::Ready(Ok(response)) = &mut polled
                    && let Some(headers) = headers.take()
                {
                    tell(response, headers);
                }
                polled
            }
            RateLimitProj::Refused { response } => {
                Poll::Ready(Ok(response.take().unwrap_or_default()))
            }
        }
    }
}
