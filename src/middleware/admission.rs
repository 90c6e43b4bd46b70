//! Middleware that bounds the calls in flight and turns new ones away while the server drains. It refuses rather than
//! queues: a caller that is told at once can go to another replica.
//!
//! A place is taken before the request has come, so its body has a bound of its own (`admission/arrival.rs`), and one caller may
//! hold but a share of the places ([`share`]).
//!
//! Health checks always pass, or an overloaded server would look dead. What stays open, `Health.Watch` and reflection,
//! has bounds of its own, since nobody needs a credential to watch.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, header::CONTENT_TYPE};
use http_body_util::BodyExt as _;
use pin_project_lite::pin_project;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
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
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// How many streams one connection may have open: each name that health knows can be watched.
const STREAMS_OF_CONNECTION: usize = 8;

/// When to try a stream again: nobody knows when another ends.
const STREAM_WAIT: Duration = Duration::from_secs(1);

const DRAINING: &str = "this server is shutting down; call another";

/// The most bytes of one call's metadata, counted as HTTP/2 counts a header list.
const MAX_METADATA_BYTES: usize = 16 << 10;

/// How many calls are in flight, and whether new ones are taken.
#[derive(Debug)]
pub struct Gate {
    in_flight: AtomicUsize,
    max_in_flight: usize,
    streams: Arc<Semaphore>,
    draining: CancellationToken,
    left: Notify,
}

/// In the extensions of a request: the streams that its connection may still open.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Semaphore>);

/// A stream's places, of all and of its connection, given back when its body is dropped.
type Open = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

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
            stream: Option<Open>,
        },
        /// Turned away.
        Refused { response: Option<HttpResponse> },
    }
}

// === impl Gate ===

impl Gate {
    /// Takes at most `max_in_flight` calls at a time, and leaves `max_streams` streams open.
    pub fn new(max_in_flight: usize, max_streams: usize) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            max_in_flight,
            streams: Arc::new(Semaphore::new(max_streams)),
            draining: CancellationToken::new(),
            left: Notify::new(),
        }
    }

    /// From here on new calls are turned away, and those whose request has not come yet: they are not in work, and it
    /// may never come.
    pub fn drain(&self) {
        self.draining.cancel();
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
        if self.draining.is_cancelled() {
            return Err(Error::new(Reason::Draining, DRAINING));
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

    fn open(&self, connection: Option<&Streams>) -> Result<Open, Error> {
        let of_connection =
            connection.map(|Streams(left)| left.clone().try_acquire_owned()).transpose();
        let of_all = self.streams.clone().try_acquire_owned();
        let (Ok(of_connection), Ok(of_all)) = (of_connection, of_all) else {
            let text = format!(
                "as many streams are open as may be, here or on this connection ({STREAMS_OF_CONNECTION})"
            );
            let quota = ("streams".to_owned(), text.clone());
            return Err(Error::exhausted(Reason::RateLimited, text, STREAM_WAIT, quota));
        };
        Ok((of_all, of_connection))
    }
}

impl Default for Streams {
    /// Of a connection that has none yet.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_OF_CONNECTION)))
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
        let is_reflection = path.starts_with(REFLECTION);
        let stream = if is_reflection || path == WATCH {
            self.gate.open(request.extensions().get::<Streams>()).map(Some)
        } else {
            Ok(None)
        };
        let place = if path.starts_with(HEALTH) { Ok(None) } else { self.gate.enter().map(Some) };
        match (place, stream) {
            (Ok(place), Ok(stream)) => {
                let arriving = |body| Body::new(Arriving::new(body, &self.gate.draining));
                let request = if is_reflection { request } else { request.map(arriving) };
                AdmissionFuture::Admitted { inner: self.inner.call(request), place, stream }
            }
            (Err(error), _) | (_, Err(error)) => refused(error),
        }
    }
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
            AdmissionProj::Admitted { inner, place, stream } => {
                let mut polled = inner.poll(cx);
                if polled.is_ready() {
                    drop(place.take());
                }
                if let Poll::Ready(Ok(response)) = &mut polled
                    && let Some(open) = stream.take()
                {
                    let body = std::mem::take(response.body_mut());
                    *response.body_mut() = Body::new(body.map_frame(move |frame| {
                        let _until_it_is_dropped = &open;
                        frame
                    }));
                }
                polled
            }
            AdmissionProj::Refused { response } => {
                Poll::Ready(Ok(response.take().unwrap_or_else(|| Status::internal("").into_http())))
            }
        }
    }
}
