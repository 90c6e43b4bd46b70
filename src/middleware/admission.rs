//! Middleware that bounds the calls in flight and turns new ones away while the server drains. It refuses rather than
//! queues: a caller that is told at once can go to another replica.
//!
//! A place is taken before the request has come, so its body has a bound of its own ([`arrival`]), and one caller may
//! hold but a share of the places ([`share`]).
//!
//! Health checks always pass, or an overloaded server would look dead.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::{Method, header::CONTENT_TYPE};
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse, OverHttp1, refuse};
use crate::{
    api::service::CallInfo,
    error::{Error, Reason},
};

use self::arrival::Arriving;

mod arrival;
pub mod share;
#[cfg(test)]
mod tests;

const HEALTH: &str = "/grpc.health.v1.Health/";
/// Its streams take more than one message.
const REFLECTION: &str = "/grpc.reflection.";

/// The most bytes of one call's metadata, counted as HTTP/2 counts a header list.
const MAX_METADATA_BYTES: usize = 16 << 10;

/// How many calls are in flight, and whether new ones are taken.
#[derive(Debug)]
pub struct Gate {
    in_flight: AtomicUsize,
    max_in_flight: usize,
    draining: AtomicBool,
    left: Notify,
}

/// Admits calls.
#[derive(Clone, Debug)]
pub struct AdmissionLayer {
    gate: Arc<Gate>,
}

/// See [`AdmissionLayer`].
#[derive(Clone, Debug)]
pub struct Admission<S> {
    inner: S,
    gate: Arc<Gate>,
}

/// A place among the calls in flight, given back when the call ends or is dropped.
#[derive(Debug)]
pub struct Place(Arc<Gate>);

pin_project! {
    /// A call that was admitted, or refused at once.
    #[project = AdmissionProj]
    #[allow(missing_docs, reason = "the fields are nobody else's business")]
    pub enum AdmissionFuture<F, P> {
        /// Runs. The place is kept until the response's head: the bodies of unary answers are at hand by then.
        Admitted {
            #[pin]
            inner: F,
            place: Option<P>,
        },
        /// Turned away.
        Refused { response: Option<HttpResponse> },
    }
}

// === impl Gate ===

impl Gate {
    /// Takes at most `max_in_flight` calls at a time.
    pub fn new(max_in_flight: usize) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            max_in_flight,
            draining: AtomicBool::new(false),
            left: Notify::new(),
        }
    }

    /// From here on new calls are turned away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Waits until no call is in flight.
    pub async fn idle(&self) {
        loop {
            let left = self.left.notified();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }

    fn enter(self: &Arc<Self>) -> Result<Place, Error> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Error::new(Reason::Draining, "this server is shutting down; call another"));
        }
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let place = Place(self.clone());
        if before >= self.max_in_flight {
            let message =
                format!("{} calls are in flight, as many as are taken", self.max_in_flight);
            return Err(Error::new(Reason::Overloaded, message));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

// === impl AdmissionLayer ===

impl AdmissionLayer {
    /// Admits through `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, gate: self.gate.clone() }
    }
}

// === impl Admission ===

impl<S: Service<HttpRequest, Response = HttpResponse>> Service<HttpRequest> for Admission<S> {
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = AdmissionFuture<S::Future, Place>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        if let Some(response) = not_grpc(&request) {
            return AdmissionFuture::Refused { response: Some(response) };
        }
        let Some(info) = request.extensions().get::<CallInfo>().cloned() else {
            // Observe is always outside: without it nobody would know of the call.
            return AdmissionFuture::Refused { response: None };
        };
        let refused = |error| AdmissionFuture::Refused { response: Some(refuse(error, &info)) };
        if let Some(error) = oversized_metadata(&request) {
            return refused(error);
        }
        let path = request.uri().path();
        let place = if path.starts_with(HEALTH) { Ok(None) } else { self.gate.enter().map(Some) };
        match place {
            Ok(place) => {
                let is_whole_at_once = !path.starts_with(REFLECTION);
                let request = if is_whole_at_once { request.map(arriving) } else { request };
                AdmissionFuture::Admitted { inner: self.inner.call(request), place }
            }
            Err(error) => refused(error),
        }
    }
}

fn arriving(body: Body) -> Body {
    Body::new(Arriving::new(body))
}

/// What is not a gRPC call at all gets the HTTP status that the gRPC protocol asks for.
fn not_grpc(request: &HttpRequest) -> Option<HttpResponse> {
    let content_type = request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let status = if request.method() != Method::POST {
        http::StatusCode::METHOD_NOT_ALLOWED
    } else if !content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
        http::StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else if request.extensions().get::<OverHttp1>().is_some() {
        http::StatusCode::BAD_REQUEST
    } else {
        return None;
    };
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = status;
    Some(response)
}

/// HTTP/2's own limit is wider: beyond it there is only an HTTP status, which gRPC clients cannot tell from a proxy's.
fn oversized_metadata(request: &HttpRequest) -> Option<Error> {
    let fields = request.headers().iter();
    let bytes: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    (bytes > MAX_METADATA_BYTES).then(|| {
        let message = format!("{bytes} bytes of metadata; at most {MAX_METADATA_BYTES} are taken");
        Error::new(Reason::RequestTooLarge, message)
    })
}

// === impl AdmissionFuture ===

impl<F, E, P> Future for AdmissionFuture<F, P>
where
    F: Future<Output = Result<HttpResponse, E>>,
{
    type Output = Result<HttpResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AdmissionProj::Admitted { inner, place } => {
                let polled = inner.poll(cx);
                if polled.is_ready() {
                    drop(place.take());
                }
                polled
            }
            AdmissionProj::Refused { response } => {
                Poll::Ready(Ok(response.take().unwrap_or_else(|| Status::internal("").into_http())))
            }
        }
    }
}
