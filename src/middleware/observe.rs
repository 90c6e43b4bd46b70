//! Middleware that gives each call its id and writes one log line about it, however it ends. Outermost, so that
//! refusals and dropped calls are counted, too: the line is written when the response's last frame went out, or when
//! the call was dropped. Refused attempts at changes have one in the audit stream as well.

use std::{
    borrow::Cow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::HeaderName};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse};
use crate::{
    api::{
        methods,
        service::{CallInfo, Caller},
        status::Logged,
    },
    operations::Progress,
    principal::Peer,
    random::Random,
    telemetry::{
        allowance::{self, UNTOLD},
        audit::{Attempt, Audit, Kind},
        metrics::{self, Metrics},
        trace::{self, Arrival, CallSpan, Ended},
    },
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The reason of a call that nobody waited for to its end, in metrics and spans.
const DROPPED: &str = "DROPPED";

/// The reason of what is answered with an HTTP status alone.
const NOT_GRPC: &str = "NOT_GRPC";

/// The longest request id that is taken over from a caller.
const MAX_REQUEST_ID: usize = 128;

/// Observes calls.
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    random: Arc<dyn Random>,
    audit: Arc<Audit>,
    metrics: Metrics,
    calls: TaskTracker,
}

/// See [`ObserveLayer`].
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    random: Arc<dyn Random>,
    audit: Arc<Audit>,
    metrics: Metrics,
    calls: TaskTracker,
}

/// What the log line says. Written on drop, so that no way of ending escapes it.
struct Line {
    request_id: Arc<str>,
    path: http::uri::PathAndQuery,
    started: Instant,
    /// Until the end is known the call counts as dropped.
    code: Code,
    reason: Cow<'static, str>,
    internal: Option<Box<str>>,
    /// Whether the answer is what the ledger has of an operation.
    recorded: bool,
    progress: Arc<Progress>,
    caller: Arc<Caller>,
    audit: Arc<Audit>,
    metrics: Metrics,
    /// Whether an end was seen: else the call was dropped.
    ended: bool,
    /// Whether the collector hears of it, whatever comes of it.
    told: bool,
    /// None: there are no traces, or it is not worth one.
    span: Option<CallSpan>,
    _in_flight: metrics::Held,
    _open: TaskTrackerToken,
}

pin_project! {
    /// The response, observed until its head is known.
    pub struct ObserveFuture<F> {
        #[pin]
        inner: F,
        line: Option<Line>,
    }
}

pin_project! {
    /// A body, observed until its last frame.
    struct ObservedBody {
        #[pin]
        inner: Body,
        line: Option<Line>,
    }
}

// === impl ObserveLayer ===

impl ObserveLayer {
    /// Draws request ids from `random`; tells `audit` of refused attempts at changes; counts in `metrics`.
    pub fn new(random: Arc<dyn Random>, audit: Arc<Audit>, metrics: Metrics) -> Self {
        Self { random, audit, metrics, calls: TaskTracker::new() }
    }

    /// The calls that are not told of yet. A call is over for its caller, and its connection, a moment before it is told
    /// of: whoever ends the process waits for this.
    pub fn calls(&self) -> TaskTracker {
        self.calls.clone()
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        let Self { random, audit, metrics, calls } = self.clone();
        Observe { inner, random, audit, metrics, calls }
    }
}

// === impl Observe ===

impl<S: Service<HttpRequest, Response = HttpResponse>> Service<HttpRequest> for Observe<S> {
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        let request_id: Arc<str> = match given_id(&request) {
            Some(id) => id.into(),
            None => uuid::Builder::from_random_bytes(self.random.bits().to_be_bytes())
                .into_uuid()
                .to_string()
                .into(),
        };
        let started = Instant::now();
        let told = allowance::allows(started, || trace::is_sampled(request.headers()));
        let span = told.then(|| begin_span(&request)).flatten();
        let progress = Arc::new(Progress::default());
        let caller = Arc::new(Caller::default());
        request.extensions_mut().insert(CallInfo {
            request_id: request_id.clone(),
            // Set by the deadline layer.
            deadline: started,
            progress: progress.clone(),
            caller: caller.clone(),
        });
        let line = Line {
            request_id,
            path: request
                .uri()
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")),
            started,
            code: Code::Cancelled,
            reason: Cow::Borrowed(""),
            internal: None,
            recorded: false,
            progress,
            caller,
            audit: self.audit.clone(),
            metrics: self.metrics.clone(),
            ended: false,
            told,
            span,
            _in_flight: self.metrics.call(),
            _open: self.calls.token(),
        };
        let _entered = line.span.as_ref().map(CallSpan::enter);
        ObserveFuture { inner: self.inner.call(request), line: Some(line) }
    }
}

/// Probes come all day long and say nothing.
fn begin_span(request: &HttpRequest) -> Option<CallSpan> {
    let path = request.uri().path();
    if path.starts_with("/grpc.health.v1.Health/") {
        return None;
    }
    let host = || request.headers().get(http::header::HOST)?.to_str().ok()?.parse().ok();
    CallSpan::begin(&Arrival {
        method: methods::known(path),
        path,
        headers: request.headers(),
        authority: request.uri().authority().map(Cow::Borrowed).or_else(|| host().map(Cow::Owned)),
        peer: request.extensions().get::<Peer>().and_then(|peer| peer.address),
    })
}

/// The caller's own id, if it is fit for a header and a log line.
fn given_id(request: &HttpRequest) -> Option<&str> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let fit =
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    fit.then_some(id)
}

// === impl ObserveFuture ===

impl<F, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<HttpResponse, E>>,
{
    type Output = Result<HttpResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let span = this.line.as_ref().and_then(|line| line.span.as_ref());
        let _entered = span.map(CallSpan::enter);
        let mut response = match this.inner.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(response)) => response,
        };
        let Some(mut line) = this.line.take() else { return Poll::Ready(Ok(response)) };
        if let Ok(value) = HeaderValue::from_str(&line.request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        if let Some(status) = response.extensions().get::<Status>() {
            line.ended_with(status);
        } else if !response.status().is_success() {
            line.ended_without_status(response.status());
        }
        Poll::Ready(Ok(response.map(|inner| Body::new(ObservedBody { inner, line: Some(line) }))))
    }
}

// === impl ObservedBody ===

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(trailers), Some(line)) = (frame.trailers_ref(), this.line.as_mut()) {
                    line.ended = true;
                    let code = trailers.get(Status::GRPC_STATUS);
                    line.code =
                        code.map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
                }
            }
            Poll::Ready(Some(Err(status))) => {
                if let Some(line) = this.line.as_mut() {
                    line.ended_with(status);
                }
            }
            Poll::Ready(None) => drop(this.line.take()),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl Line ===

impl Line {
    /// It was no gRPC call, so that it got no gRPC status. That is its caller's doing, and no failure of ours.
    fn ended_without_status(&mut self, status: StatusCode) {
        self.ended = true;
        self.code = if status.is_client_error() { Code::InvalidArgument } else { Code::Unknown };
        self.reason = Cow::Borrowed(NOT_GRPC);
        self.internal = Some(status.to_string().into());
    }

    fn ended_with(&mut self, status: &Status) {
        self.ended = true;
        self.code = status.code();
        if let Some(logged) =
            std::error::Error::source(status).and_then(|source| source.downcast_ref::<Logged>())
        {
            self.reason = logged.reason.clone();
            self.internal = logged.internal.clone();
            self.recorded = logged.recorded;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let operation = self.progress.sent_operation();
        let code = code_name(self.code);
        let principal = self.caller.principal.get();
        let method = principal.map(|principal| principal.method.as_str());
        let principal = principal.map(|principal| principal.id());
        let client = self.caller.address.get().copied();
        let _entered = self.span.as_ref().map(CallSpan::enter);
        // What is not known is not in the line. error! means that a person must act: only faults of ours.
        macro_rules! line {
            ($level:ident, $name:expr) => {
                tracing::$level!(
                    name: $name,
                    target: "portcullis::call",
                    // Without the query: what people put there may be secret.
                    rpc = self.path.path(),
                    code,
                    reason = (!self.reason.is_empty()).then_some(&*self.reason),
                    detail = self.internal.as_deref(),
                    request_id = &*self.request_id,
                    operation_id = operation.as_deref(),
                    principal = principal.as_deref(),
                    method,
                    client = client.map(tracing::field::display),
                    micros,
                    "call"
                )
            };
        }
        if self.code == Code::Internal {
            line!(error, "call")
        } else if self.told {
            line!(info, "call")
        } else {
            line!(info, UNTOLD)
        }
        let rpc = methods::known(self.path.path()).unwrap_or(metrics::OTHER);
        let reason = if self.ended { self.reason.clone() } else { Cow::Borrowed(DROPPED) };
        let is_fault = is_fault(self.code);
        self.metrics.called(rpc, code, is_fault, reason.clone(), took);
        // What was sent, or is recorded without that, has its own line.
        if let Some(kind) = Kind::of(&self.reason)
            && operation.is_none()
            && !self.recorded
            && methods::is_change(self.path.path())
        {
            self.audit.refused(Attempt {
                kind,
                rpc: self.path.path(),
                code,
                reason: &self.reason,
                request_id: &self.request_id,
                principal: principal.as_deref(),
                client,
            });
        }
        if let Some(span) = &self.span {
            span.end(Ended {
                code,
                reason,
                request_id: self.request_id.clone(),
                operation_id: operation,
                principal,
                client,
                is_fault,
            });
        }
    }
}

/// Whether the server failed, and not what it was asked for: as the conventions for spans of gRPC servers have it.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// gRPC's own names of its codes.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::random::SeededRandom;

    #[tokio::test]
    async fn a_call_is_open_until_it_is_told_of() {
        let layer = ObserveLayer::new(
            Arc::new(SeededRandom::new(1)),
            Arc::new(Audit::default()),
            Metrics::default(),
        );
        let answer = |_: HttpRequest| async {
            let body = http_body_util::Full::new(Bytes::from_static(b"frame"));
            Ok::<_, Infallible>(HttpResponse::new(Body::new(body)))
        };
        let mut observed = layer.layer(tower::service_fn(answer));
        let calls = layer.calls();
        let call = observed.call(HttpRequest::default());
        assert_eq!(calls.len(), 1);
        let answer = call.await.unwrap();
        assert_eq!(calls.len(), 1);
        drop(answer);
        assert_eq!(calls.len(), 0);
        drop(observed.call(HttpRequest::default()));
        assert_eq!(calls.len(), 0);
    }
}
