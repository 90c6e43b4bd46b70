//! Middleware that lets one caller hold but a share of the calls in flight, so that none of them, even one that may do
//! nothing here, keeps out all others. Inside authentication, because it needs the caller.
//!
//! Where nobody is authenticated everybody is the caller on this machine: there is nobody to keep places for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tower::{Layer, Service};

use super::{AdmissionFuture, HttpRequest, HttpResponse, refuse};
use crate::{
    api::{methods, service::CallInfo},
    error::{Error, Reason},
    principal::{Method, Principal},
    telemetry::metrics::Metrics,
};

/// How many callers it takes to fill the server.
const CALLERS: usize = 2;

/// When to come again: nobody knows when one of the caller's own calls ends.
const WAIT: Duration = Duration::from_secs(1);

/// Bounds each caller.
#[derive(Clone, Debug)]
pub struct ShareLayer {
    shares: Arc<Shares>,
    metrics: Metrics,
}

/// See [`ShareLayer`].
#[derive(Clone, Debug)]
pub struct Share<S> {
    inner: S,
    shares: Arc<Shares>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Shares {
    most: usize,
    /// By the principal's id; who holds nothing is not here.
    held: Mutex<HashMap<String, usize>>,
}

/// A place of a caller's share, given back when the call ends or is dropped.
#[derive(Debug)]
pub struct Held {
    of: Arc<Shares>,
    caller: String,
}

// === impl ShareLayer ===

impl ShareLayer {
    /// A share of `max_in_flight` for each. Refusals are counted in `metrics`.
    pub fn new(max_in_flight: usize, metrics: Metrics) -> Self {
        let most = max_in_flight.div_ceil(CALLERS);
        Self { shares: Arc::new(Shares { most, held: Mutex::default() }), metrics }
    }
}

impl<S> Layer<S> for ShareLayer {
    type Service = Share<S>;

    fn layer(&self, inner: S) -> Share<S> {
        Share { inner, shares: self.shares.clone(), metrics: self.metrics.clone() }
    }
}

// === impl Share ===

impl<S: Service<HttpRequest, Response = HttpResponse>> Service<HttpRequest> for Share<S> {
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = AdmissionFuture<S::Future, Held>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let caller = request.extensions().get::<Arc<Principal>>();
        let caller = caller.filter(|caller| caller.method != Method::Local);
        match caller.map(|caller| self.shares.take(caller.id())).transpose() {
            Ok(place) => {
                AdmissionFuture::Admitted { inner: self.inner.call(request), place, stream: None }
            }
            Err(error) => {
                let is_change = methods::is_change(request.uri().path());
                self.metrics.limited("in_flight", if is_change { "mutate" } else { "read" });
                let info = request.extensions().get::<CallInfo>();
                AdmissionFuture::Refused { response: info.map(|info| refuse(error, info)) }
            }
        }
    }
}

// === impl Shares ===

impl Shares {
    fn take(self: &Arc<Self>, caller: String) -> Result<Held, Error> {
        let mut all = self.lock();
        let held = all.entry(caller.clone()).or_default();
        if *held < self.most {
            *held += 1;
            return Ok(Held { of: self.clone(), caller });
        }
        let most = self.most;
        Err(Error::exhausted(
            Reason::RateLimited,
            format!("{most} calls of this caller are in flight, as many as one may have"),
            WAIT,
            (caller, format!("calls in flight: {most} at once")),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        if let Some(held) = all.get_mut(&self.caller) {
            *held -= 1;
            if *held == 0 {
                all.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
impl ShareLayer {
    /// How many callers hold something.
    pub fn callers(&self) -> usize {
        self.shares.lock().len()
    }
}
