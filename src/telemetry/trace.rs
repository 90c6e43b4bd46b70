//! Spans, as OpenTelemetry has them: one for each call, one for each call to EC2 under it, and events of what a call
//! waited for. Without a collector there are none, and asking for one costs a look at an empty cell.
//!
//! OpenTelemetry's own API is used and not tracing's spans: a call has one span and some attributes that are known at its
//! end, and a layer that follows every crate's spans would cost each call more than all of that.

use std::{fmt, future::Future, net::SocketAddr, sync::OnceLock};

use http::HeaderMap;
use opentelemetry::{
    Context, ContextGuard, KeyValue, Value,
    context::FutureExt as _,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use tokio_util::either::Either;

/// The process's tracer, once there is one.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The longest text of a caller's that is put into an attribute.
const LONGEST: usize = 256;

/// What a call brings with it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The RPC, if it is one that there is: `portcullis.v1.SecurityGroupService/RevokeEgress`.
    pub method: Option<&'static str>,
    /// What was asked for.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Which server the caller believes to call.
    pub authority: Option<&'a str>,
    /// The version of HTTP.
    pub version: http::Version,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "as in the line of the call")]
pub struct Ended<'a> {
    pub code: &'static str,
    pub reason: &'a str,
    pub request_id: &'a str,
    pub operation_id: &'a str,
    pub principal: &'a str,
    pub client: Option<std::net::IpAddr>,
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

/// From now on there are spans.
pub(super) fn start(tracer: SdkTracer) {
    // The first one stays: there is one log and one collector for a process.
    let _ = TRACER.set(tracer);
}

/// Whether there are spans at all.
pub(super) fn is_on() -> bool {
    TRACER.get().is_some()
}

/// The trace and the span that are current.
pub fn current() -> Option<(String, String)> {
    is_on().then(|| Context::map_current(ids)).flatten()
}

fn ids(context: &Context) -> Option<(String, String)> {
    let span = context.span();
    let ids = span.span_context();
    ids.is_valid().then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
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
    /// caller's decision, if there is one.
    pub fn begin(arrival: &Arrival<'_>) -> Option<Self> {
        Some(Self::begin_with(TRACER.get()?, arrival))
    }

    fn begin_with(tracer: &SdkTracer, arrival: &Arrival<'_>) -> Self {
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &Headers(arrival.headers));
        let builder = SpanBuilder::from_name(arrival.method.unwrap_or("grpc"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", arrival.method.unwrap_or(super::metrics::OTHER)),
            ]);
        let mut span = tracer.build_with_context(builder, &parent);
        if span.is_recording() {
            span.set_attributes(arrival.attributes());
        }
        Self(parent.with_span(span))
    }

    /// Makes it current. Not to be held while waiting.
    pub fn enter(&self) -> Entered {
        Entered(self.0.clone().attach())
    }

    /// Ends it.
    pub fn end(&self, ended: &Ended<'_>) {
        let span = self.0.span();
        if !span.is_recording() {
            return;
        }
        let mut attributes = Vec::with_capacity(7);
        attributes.push(KeyValue::new("rpc.response.status_code", ended.code));
        if ended.is_fault {
            attributes.push(KeyValue::new("error.type", ended.code));
            span.set_status(Status::error(ended.reason.to_owned()));
        }
        for (name, value) in [
            ("portcullis.reason", ended.reason),
            ("portcullis.request_id", ended.request_id),
            ("portcullis.operation_id", ended.operation_id),
            ("enduser.id", ended.principal),
        ] {
            if !value.is_empty() {
                attributes.push(KeyValue::new(name, value.to_owned()));
            }
        }
        if let Some(client) = ended.client {
            attributes.push(KeyValue::new("client.address", client.to_string()));
        }
        span.set_attributes(attributes);
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
    fn attributes(&self) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(8);
        if self.method.is_none() {
            all.push(KeyValue::new("rpc.method_original", excerpt(self.path)));
        }
        let authority = self.authority.and_then(|text| text.parse::<http::uri::Authority>().ok());
        let host = authority.as_ref().map_or("unknown", http::uri::Authority::host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        all.push(KeyValue::new("server.address", excerpt(host)));
        if let Some(port) = authority.as_ref().and_then(http::uri::Authority::port_u16) {
            all.push(KeyValue::new("server.port", i64::from(port)));
        }
        if let Some(peer) = self.peer {
            all.push(KeyValue::new("network.peer.address", peer.ip().to_canonical().to_string()));
            all.push(KeyValue::new("network.peer.port", i64::from(peer.port())));
        }
        all.push(KeyValue::new("network.protocol.name", "http"));
        let version = if self.version == http::Version::HTTP_2 { "2" } else { "1.1" };
        all.push(KeyValue::new("network.protocol.version", version));
        all.push(KeyValue::new("network.transport", "tcp"));
        all
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

// === impl ClientSpan ===

impl ClientSpan {
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
