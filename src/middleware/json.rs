//! Middleware that lets curl call unary methods with JSON, over HTTP/1.1 and HTTP/2, in the form of Connect's unary
//! protocol. Outside everything else: what is inside sees plain gRPC, so that callers, limits, policies and the log are
//! the same. What only looks like JSON is refused inside as well; here it is said what it should have been.
//!
//! The body is read and translated when the service asks for it, behind authentication and within the deadline.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method as Verb, Response, StatusCode, Version,
    header::{
        ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT,
        RETRY_AFTER, TE, TRANSFER_ENCODING,
    },
};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt as _, Full, Limited};
use pin_project_lite::pin_project;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse};
use crate::api::json::{Contract, Method, Unfit, http_status};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How much of a body that nobody reads is waited for, and how long.
const MAX_TAKEN: usize = 64 << 10;
const TAKING: Duration = Duration::from_secs(1);

/// What a body is led by in gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Translates calls.
#[derive(Clone, Debug)]
pub struct JsonLayer {
    contract: Contract,
    max_request_bytes: usize,
}

/// See [`JsonLayer`].
#[derive(Clone, Debug)]
pub struct Json<S> {
    inner: S,
    contract: Contract,
    max_request_bytes: usize,
}

type Told<E> = Pin<Box<dyn Future<Output = Result<HttpResponse, E>> + Send>>;

pin_project! {
    /// The answer.
    #[project = JsonProj]
    #[allow(missing_docs, reason = "the fields are nobody else's business")]
    pub enum JsonFuture<F, E> {
        /// As JSON.
        Translated { told: Told<E> },
        /// As it is: the call was no JSON.
        Other {
            #[pin]
            inner: F,
        },
    }
}

/// A request's body, translated when it is read.
struct Translated {
    inner: Body,
    method: Method,
    read: BytesMut,
    limit: usize,
    done: bool,
}

// === impl JsonLayer ===

impl JsonLayer {
    /// For the methods of this contract, with bodies of at most so many bytes.
    pub fn new(contract: Contract, max_request_bytes: usize) -> Self {
        Self { contract, max_request_bytes }
    }
}

impl<S> Layer<S> for JsonLayer {
    type Service = Json<S>;

    fn layer(&self, inner: S) -> Json<S> {
        let Self { contract, max_request_bytes } = self.clone();
        Json { inner, contract, max_request_bytes }
    }
}

// === impl Json ===

impl<S> Service<HttpRequest> for Json<S>
where
    S: Service<HttpRequest, Response = HttpResponse>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = JsonFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        match media_type(request.headers()).as_deref() {
            Some("application/json") => {}
            Some(kind) if request.method() == Verb::POST && is_meant_as_json(kind) => {
                return JsonFuture::Translated { told: self.refused(request) };
            }
            _ => return JsonFuture::Other { inner: self.inner.call(request) },
        }
        let (request, method) = self.translate(request);
        let called = self.inner.call(request);
        let contract = self.contract.clone();
        let told = Box::pin(async move {
            let response = called.await?;
            // Not gRPC's answer: a method that is not POST.
            if response.status() != StatusCode::OK {
                return Ok(response);
            }
            Ok(answer(&contract, method.as_ref(), response).await)
        });
        JsonFuture::Translated { told }
    }
}

impl<S> Json<S> {
    /// What the service says to a call of another type, and what would have been the right one.
    fn refused(&mut self, request: HttpRequest) -> Told<S::Error>
    where
        S: Service<HttpRequest, Response = HttpResponse>,
        S::Future: Send + 'static,
    {
        let (mut head, body) = request.into_parts();
        // Nobody reads it there.
        head.headers.remove(CONTENT_LENGTH);
        head.headers.remove(TRANSFER_ENCODING);
        let called = self.inner.call(HttpRequest::from_parts(head, Body::empty()));
        let contract = self.contract.clone();
        Box::pin(async move {
            let response = called.await?;
            take(body).await;
            Ok(match response.status() {
                StatusCode::UNSUPPORTED_MEDIA_TYPE => other_type(&response),
                StatusCode::OK => answer(&contract, None, response).await,
                _ => response,
            })
        })
    }

    /// The same call in gRPC.
    fn translate(&self, request: HttpRequest) -> (HttpRequest, Option<Method>) {
        let (mut head, body) = request.into_parts();
        let fit = fit(&mut head.headers).and_then(|()| self.contract.method(head.uri.path()));
        for name in [
            CONTENT_LENGTH,
            CONTENT_ENCODING,
            ACCEPT_ENCODING,
            TRANSFER_ENCODING,
            CONNECTION,
            EXPECT,
            TIMEOUT,
            VERSION,
            HeaderName::from_static("grpc-encoding"),
            HeaderName::from_static("grpc-accept-encoding"),
        ] {
            head.headers.remove(name);
        }
        head.headers.insert(CONTENT_TYPE, GRPC);
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        head.version = Version::HTTP_2;
        let method = match fit {
            Ok(method) => method,
            Err(unfit) => {
                head.extensions.insert(unfit);
                return (HttpRequest::from_parts(head, Body::empty()), None);
            }
        };
        let body = Translated {
            inner: body,
            method: method.clone(),
            read: BytesMut::new(),
            limit: self.max_request_bytes,
            done: false,
        };
        (HttpRequest::from_parts(head, Body::new(body)), Some(method))
    }
}

/// The content type, without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    text.split(';').next().map(|kind| kind.trim().to_ascii_lowercase())
}

/// Whether the headers are such that the body can be read; the deadline is put into gRPC's form.
fn fit(headers: &mut HeaderMap) -> Result<(), Unfit> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let charset = text(&CONTENT_TYPE).and_then(|kind| {
        let parameters = kind.split(';').skip(1);
        parameters.filter_map(|one| one.trim().split_once('=')).find(|one| {
            one.0.eq_ignore_ascii_case("charset")
                && !one.1.trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    });
    if charset.is_some() {
        return Err(Unfit::Header("content-type", "JSON is UTF-8."));
    }
    if !matches!(text(&CONTENT_ENCODING), None | Some("identity")) {
        return Err(Unfit::Unimplemented("JSON is taken as it is: leave content-encoding out"));
    }
    if !matches!(text(&VERSION), None | Some("1")) {
        return Err(Unfit::Header("connect-protocol-version", "Expecting 1."));
    }
    if headers.get_all(&TIMEOUT).iter().nth(1).is_some() {
        return Err(Unfit::Header("connect-timeout-ms", "It may be given once."));
    }
    let Some(timeout) = text(&TIMEOUT) else { return Ok(()) };
    let digits = (1..=10).contains(&timeout.len()) && timeout.bytes().all(|b| b.is_ascii_digit());
    let timeout = timeout.parse().ok().filter(|_| digits).map(grpc_timeout);
    let Some(timeout) = timeout.and_then(|text| HeaderValue::from_str(&text).ok()) else {
        return Err(Unfit::Header("connect-timeout-ms", "Expecting one to ten digits."));
    };
    headers.insert(GRPC_TIMEOUT, timeout);
    Ok(())
}

/// Milliseconds in gRPC's form, which has eight digits.
fn grpc_timeout(millis: u64) -> String {
    if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", millis.div_ceil(1000)) }
}

/// What curl sends without a content type, and what JSON is called elsewhere.
fn is_meant_as_json(kind: &str) -> bool {
    kind == "application/x-www-form-urlencoded"
        || kind.ends_with("json") && !kind.starts_with("application/grpc")
}

/// Takes what there is of a body that nobody reads. Over HTTP/2 an answer before the body's end is followed by a reset,
/// for which curl may forget the answer.
async fn take(body: Body) {
    let read = Limited::new(body, MAX_TAKEN).collect();
    // Whatever it is, it is dropped.
    let _ = timeout(TAKING, read).await;
}

/// Says which content type it must have, instead of nothing at all.
fn other_type(refused: &HttpResponse) -> HttpResponse {
    let text = concat!(
        r#"{"code":"invalid_argument","message":"the content type must be application/json: "#,
        r#"curl --json, or --header 'content-type: application/json'"}"#,
        "\n"
    );
    let told = json(refused.status(), text.as_bytes().to_vec());
    let mut response = with_metadata(told, refused.headers(), &HeaderMap::new());
    response.headers_mut().insert("accept-post", JSON);
    response
}

fn json(status: StatusCode, body: Vec<u8>) -> HttpResponse {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// gRPC's answer as JSON.
async fn answer(
    contract: &Contract,
    method: Option<&Method>,
    response: HttpResponse,
) -> HttpResponse {
    let (head, body) = response.into_parts();
    let (message, trailers) = match body.collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned().unwrap_or_default();
            (collected.to_bytes(), trailers)
        }
        Err(status) => return error(contract, &status, &head.headers, &HeaderMap::new()),
    };
    let told = Status::from_header_map(&head.headers);
    let told = told.or_else(|| Status::from_header_map(&trailers));
    let status = told.unwrap_or_else(|| Status::internal("the answer has no end"));
    if status.code() != Code::Ok {
        return error(contract, &status, &head.headers, &trailers);
    }
    let written = match (method, message.get(PREFIX..)) {
        (Some(method), Some(message)) => method.answer(message),
        _ => Err("the answer has no message".to_owned()),
    };
    match written {
        Ok(text) => with_metadata(json(StatusCode::OK, text), &head.headers, &trailers),
        Err(text) => {
            tracing::error!(error = text, "an answer cannot be told as JSON");
            let broken = Status::internal("the answer cannot be told as JSON");
            error(contract, &broken, &head.headers, &trailers)
        }
    }
}

fn error(
    contract: &Contract,
    status: &Status,
    headers: &HeaderMap,
    trailers: &HeaderMap,
) -> HttpResponse {
    let code = StatusCode::from_u16(http_status(status.code()));
    let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_metadata(json(code, contract.error(status)), headers, trailers);
    // The same for HTTP's own clients, in whole seconds; -1 says never.
    let pushback = headers.get(PUSHBACK).or_else(|| trailers.get(PUSHBACK));
    let pushback = pushback.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(millis) = pushback {
        response.headers_mut().insert(RETRY_AFTER, millis.div_ceil(1000).into());
    }
    response
}

/// Metadata are headers; what follows the message in gRPC has Connect's `trailer-` before its name.
fn with_metadata(
    mut response: HttpResponse,
    headers: &HeaderMap,
    trailers: &HeaderMap,
) -> HttpResponse {
    let is_own = |name: &HeaderName| {
        *name == CONTENT_TYPE
            || *name == CONTENT_LENGTH
            || name.as_str().starts_with("grpc-") && *name != PUSHBACK
    };
    for (name, value) in headers.iter().filter(|(name, _)| !is_own(name)) {
        response.headers_mut().append(name.clone(), value.clone());
    }
    for (name, value) in trailers.iter().filter(|(name, _)| !is_own(name)) {
        if let Ok(name) = HeaderName::try_from(format!("trailer-{name}")) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

// === impl JsonFuture ===

impl<F, E> Future for JsonFuture<F, E>
where
    F: Future<Output = Result<HttpResponse, E>>,
{
    type Output = Result<HttpResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            JsonProj::Translated { told } => told.as_mut().poll(cx),
            JsonProj::Other { inner } => inner.poll(cx),
        }
    }
}

// === impl Translated ===

impl Translated {
    fn check_size(&self, more: usize) -> Result<(), Status> {
        let size = self.read.len().saturating_add(more);
        if size <= self.limit {
            return Ok(());
        }
        let limit = self.limit;
        Err(Status::resource_exhausted(format!("the request has more than {limit} bytes of JSON")))
    }

    /// The request as gRPC frames it.
    fn message(&self) -> Result<Bytes, Status> {
        let message = self.method.request(&self.read).map_err(|wrong| {
            let mut status = Status::invalid_argument(wrong.to_string());
            status.set_source(Arc::new(wrong));
            status
        })?;
        let length = u32::try_from(message.len())
            .map_err(|_| Status::resource_exhausted("the request is too long"))?;
        let mut framed = BytesMut::with_capacity(PREFIX + message.len());
        framed.put_u8(0);
        framed.put_u32(length);
        framed.extend_from_slice(&message);
        Ok(framed.freeze())
    }
}

impl HttpBody for Translated {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.done {
            return Poll::Ready(None);
        }
        // What says beforehand that it is too long need not be read.
        let announced = usize::try_from(self.inner.size_hint().lower()).unwrap_or(usize::MAX);
        let mut checked = self.check_size(announced);
        while checked.is_ok() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        checked = self.check_size(data.len());
                        if checked.is_ok() {
                            self.read.extend_from_slice(&data);
                        }
                    }
                }
                Some(Err(status)) => checked = Err(status),
                None => break,
            }
        }
        self.done = true;
        let framed = checked.and_then(|()| self.message());
        Poll::Ready(Some(framed.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<HeaderMap, Unfit> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(name, HeaderValue::from_static(value));
        fit(&mut headers).map(|()| headers)
    }

    #[test]
    fn timeouts_get_grpcs_form() {
        for (given, expected) in
            [("0", "0m"), ("1500", "1500m"), ("99999999", "99999999m"), ("9999999999", "10000000S")]
        {
            let headers = read("connect-timeout-ms", given).unwrap();
            assert_eq!(headers["grpc-timeout"], expected);
        }
        for bad in ["", "-1", "+1", "1.5", "12345678901", "1s"] {
            assert!(read("connect-timeout-ms", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (name, value, fits) in [
            ("content-type", "application/json; charset=UTF-8", true),
            ("content-type", "application/json; charset=\"utf-8\"; x=y", true),
            ("content-type", "application/json;charset=latin1", false),
            ("content-encoding", "identity", true),
            ("content-encoding", "gzip", false),
            ("connect-protocol-version", "1", true),
            ("connect-protocol-version", "2", false),
        ] {
            assert_eq!(read(name, value).is_ok(), fits, "{name}: {value}");
        }
    }
}
