//! Spans, as OpenTelemetry has them: one for each call, one for each call to EC2 under it, and events of what a call
//! waited for. Without a collector there are none, and asking for one costs a look at an empty cell.
//!
//! OpenTelemetry's own API is used and not tracing's spans: a call has one span and some attributes that are known at its
//! end, and a layer that follows every crate's spans would cost each call more than all of that.

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock, OnceLock},
};

use http::{HeaderMap, HeaderName, uri::Authority};
use opentelemetry::{
    Context, ContextGuard, KeyValue, SpanId, TraceId, Value,
    context::FutureExt as _,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use tokio_util::either::Either;

/// The process's tracer, once there is one.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// How traces travel.
static W3C: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest text of a caller's that is put into an attribute.
const LONGEST: usize = 256;

/// How many attributes the span of a call has at most, so that there is room for all from the start.
const ROOM: usize = 16;

/// What a call brings with it.
#[derive(Clone, Debug)]
pub struct Arrival<'a> {
    /// The RPC, if it is one that there is: `portcullis.v1.SecurityGroupService/RevokeEgress`.
    pub method: Option<&'static str>,
    /// What was asked for.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Which server the caller believes to call.
    pub authority: Option<Cow<'a, Authority>>,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
}

/// How a call ended.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in the line of the call")]
pub struct Ended {
    pub code: &'static str,
    pub reason: Cow<'static, str>,
    pub request_id: Arc<str>,
    pub operation_id: Option<Arc<str>>,
    pub principal: Option<String>,
    pub client: Option<IpAddr>,
    /// Whether it was the server that failed, and not what the caller asked for.
    pub is_fault: bool,
}

/// A call's span.
pub struct CallSpan(Context);

/// A call to another service, as the child of the span that is current. It ends when it is dropped, if not before.
pub struct ClientSpan {
    context: Context,
    ended: bool,
}

/// The span is current on this thread as long as this is there.
pub struct Entered(#[allow(dead_code, reason = "what it does it does when dropped")] ContextGuard);

struct Headers<'a>(&'a HeaderMap);

#[derive(Default)]
struct Sent(Vec<(String, String)>);

/// From now on there are spans.
pub(super) fn start(tracer: SdkTracer) {
    // The first one stays: there is one log and one collector for a process.
    let _ = TRACER.set(tracer);
}

/// Whether there are spans at all.
pub(super) fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Whether the caller records the trace that it names.
pub fn is_sampled(headers: &HeaderMap) -> bool {
    caller(headers).span().span_context().is_sampled()
}

/// The caller's span, if it names one.
fn caller(headers: &HeaderMap) -> Context {
    let none = Context::new();
    if headers.contains_key(TRACEPARENT) {
        W3C.extract_with_context(&none, &Headers(headers))
    } else {
        none
    }
}

/// The trace and the span that are current.
pub fn current() -> Option<(TraceId, SpanId)> {
    is_on().then(|| Context::map_current(ids)).flatten()
}

fn ids(context: &Context) -> Option<(TraceId, SpanId)> {
    let span = context.span();
    let ids = span.span_context();
    ids.is_valid().then(|| (ids.trace_id(), ids.span_id()))
}

/// An attribute of a span.
pub fn attribute(name: &'static str, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(name, value)
}

/// Notes a moment of what the current span is about.
pub fn event(name: &'static str) {
    if is_on() {
        Context::map_current(|context| context.span().add_event(name, Vec::new()));
    }
}

/// The future with the span that is current now: for tasks, which begin with none.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    if is_on() {
        Either::Left(future.with_context(Context::current()))
    } else {
        Either::Right(future)
    }
}

// === impl CallSpan ===

impl CallSpan {
    /// Begins with the call. It belongs to the trace that the caller names, and whether it is recorded is the
    /// caller's decision, if there is one. Else a new trace begins.
    pub fn begin(arrival: &Arrival<'_>) -> Option<Self> {
        let tracer = TRACER.get()?;
        let parent = caller(arrival.headers);
        let mut builder =
            SpanBuilder::from_name(arrival.method.unwrap_or("grpc")).with_kind(SpanKind::Server);
        builder.attributes = Some(Vec::with_capacity(ROOM));
        let mut span = tracer.build_with_context(builder, &parent);
        if span.is_recording() {
            arrival.describe(&mut span);
        }
        Some(Self(parent.with_span(span)))
    }

    /// Makes it current. Not to be held while waiting.
    pub fn enter(&self) -> Entered {
        Entered(self.0.clone().attach())
    }

    /// Ends it.
    pub fn end(&self, ended: Ended) {
        let span = self.0.span();
        if !span.is_recording() {
            return;
        }
        let Ended { code, reason, request_id, operation_id, principal, client, is_fault } = ended;
        if is_fault {
            span.set_status(Status::error(reason.clone()));
        }
        let fault = is_fault.then(|| KeyValue::new("error.type", code));
        let reason = (!reason.is_empty()).then(|| KeyValue::new("portcullis.reason", reason));
        let operation = operation_id.map(|id| KeyValue::new("portcullis.operation_id", id));
        let principal = principal.map(|id| KeyValue::new("enduser.id", id));
        let client = client.map(|ip| KeyValue::new("client.address", ip.to_string()));
        let always = [
            KeyValue::new("rpc.response.status_code", code),
            KeyValue::new("portcullis.request_id", request_id),
        ];
        let some = [fault, reason, operation, principal, client].into_iter().flatten();
        span.set_attributes(always.into_iter().chain(some));
        span.end();
    }
}

impl fmt::Debug for CallSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallSpan").field(&ids(&self.0)).finish()
    }
}

// === impl Arrival ===

impl Arrival<'_> {
    /// Gives the span the attributes that are known from the start.
    fn describe(&self, span: &mut impl opentelemetry::trace::Span) {
        let mut give = |name, value: Value| span.set_attribute(KeyValue::new(name, value));
        give("rpc.system.name", "grpc".into());
        give("rpc.method", self.method.unwrap_or(super::metrics::OTHER).into());
        if self.method.is_none() {
            give("rpc.method_original", excerpt(self.path).into());
        }
        if let Some(authority) = &self.authority {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            give("server.address", excerpt(host).into());
            if let Some(port) = authority.port_u16() {
                give("server.port", i64::from(port).into());
            }
        }
        if let Some(peer) = self.peer {
            give("network.peer.address", peer.ip().to_canonical().to_string().into());
            give("network.peer.port", i64::from(peer.port()).into());
        }
    }
}

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned(),
        None => text.to_owned(),
    }
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Injector for Sent {
    fn set(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }
}

// === impl ClientSpan ===

impl ClientSpan {
    /// The headers by which whoever is called knows the trace: `traceparent`, and `tracestate` if there is one.
    pub fn headers(&self) -> Vec<(String, String)> {
        let mut sent = Sent::default();
        W3C.inject_context(&self.context, &mut sent);
        sent.0.retain(|(_, value)| !value.is_empty());
        sent.0
    }

    /// Begins it; none if what asks for it has no span that is recorded.
    pub fn begin(name: &'static str) -> Option<Self> {
        let tracer = TRACER.get()?;
        let parent = Context::current();
        if !parent.span().span_context().is_sampled() {
            return None;
        }
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Client);
        let span = tracer.build_with_context(builder, &parent);
        Some(Self { context: parent.with_span(span), ended: false })
    }

    /// Ends it under a name that is known by now. `error`: the class of what went wrong.
    pub fn end(mut self, name: String, mut attributes: Vec<KeyValue>, error: Option<&str>) {
        let span = self.context.span();
        if let Some(error) = error {
            attributes.push(KeyValue::new("error.type", error.to_owned()));
            span.set_status(Status::error(""));
        }
        span.update_name(name);
        span.set_attributes(attributes);
        span.end();
        self.ended = true;
    }
}

impl Drop for ClientSpan {
    /// Nobody waits for it any more.
    fn drop(&mut self) {
        if !self.ended {
            let span = self.context.span();
            span.set_attribute(KeyValue::new("error.type", "abandoned"));
            span.set_status(Status::error(""));
            span.end();
        }
    }
}

impl fmt::Debug for ClientSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientSpan").field(&ids(&self.context)).finish()
    }
}

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entered")
    }
}
