//! Middleware that speaks gRPC-Web to browsers and HTTP/1.1 clients; what is inside sees plain gRPC.
//!
//! tonic-web does it, and answers what is neither by itself, where nobody would see it. So it gets only what it
//! translates; the rest goes inside as it came, where all that is refused is counted and logged.

use std::{
    mem,
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Version, header::CONTENT_TYPE};
use tokio_util::either::Either;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse, OverHttp1};

/// What tonic-web translates.
const TRANSLATED: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// Translates calls.
#[derive(Clone, Copy, Debug)]
pub struct WebLayer;

/// See [`WebLayer`].
#[derive(Clone, Debug)]
pub struct Web<S> {
    inner: S,
}

impl<S> Layer<S> for WebLayer {
    type Service = Web<S>;

    fn layer(&self, inner: S) -> Web<S> {
        Web { inner }
    }
}

impl<S> Service<HttpRequest> for Web<S>
where
    S: Service<HttpRequest, Response = HttpResponse> + Clone,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = Either<<GrpcWebService<S> as Service<HttpRequest>>::Future, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        if request.method() == Method::POST && is_translated(request.headers()) {
            let next = self.inner.clone();
            // The one that is ready.
            let inner = mem::replace(&mut self.inner, next);
            return Either::Left(GrpcWebLayer::new().layer(inner).call(request));
        }
        if request.version() < Version::HTTP_2 {
            request.extensions_mut().insert(OverHttp1);
        }
        Either::Right(self.inner.call(request))
    }
}

fn is_translated(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| TRANSLATED.iter().any(|one| kind == one))
}
