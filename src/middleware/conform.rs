//! Middleware that gives the errors that tonic makes itself (an undecodable message, one that is too large, an unknown
//! method) the reasons and details that every error here has, and turns a panic into INTERNAL, so that it ends one
//! call and not its connection. A call that came as JSON and cannot be one is refused here, too. Innermost at HTTP level, next to tonic.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse};
use crate::{
    api::{json::Unfit, service::CallInfo, status},
    error::Error,
};

/// Dresses tonic's own errors.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConformLayer;

/// See [`ConformLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Conform<S>(S);

pin_project! {
    /// The response, looked at when it comes.
    pub struct ConformFuture<F> {
        #[pin]
        inner: F,
        unfit: Option<Unfit>,
        request_id: Option<std::sync::Arc<str>>,
    }
}

impl<S> Layer<S> for ConformLayer {
    type Service = Conform<S>;

    fn layer(&self, inner: S) -> Conform<S> {
        Conform(inner)
    }
}

impl<S: Service<HttpRequest, Response = HttpResponse>> Service<HttpRequest> for Conform<S> {
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = ConformFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let request_id = request.extensions().get::<CallInfo>().map(|info| info.request_id.clone());
        let unfit = request.extensions().get::<Unfit>().cloned();
        ConformFuture { inner: self.0.call(request), unfit, request_id }
    }
}

impl<F, E> Future for ConformFuture<F>
where
    F: Future<Output = Result<HttpResponse, E>>,
{
    type Output = Result<HttpResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let request_id = this.request_id.as_deref().unwrap_or_default();
        if let Some(unfit) = this.unfit.take() {
            return Poll::Ready(Ok(status::encode(unfit.into(), request_id).into_http()));
        }
        // Nothing of the call is used after a panic: its future is done and dropped.
        let polled = match catch_unwind(AssertUnwindSafe(|| this.inner.poll(cx))) {
            Ok(polled) => polled,
            Err(_) => {
                let error = Error::internal("a handler panicked; the panic is in the log");
                return Poll::Ready(Ok(status::encode(error, request_id).into_http()));
            }
        };
        let Poll::Ready(Ok(response)) = polled else { return polled };
        let bare = match response.headers().get(Status::GRPC_STATUS) {
            None => return Poll::Ready(Ok(response)),
            // The status itself, where it is there: it knows what its headers do not say.
            Some(_) => response
                .extensions()
                .get::<Status>()
                .cloned()
                .or_else(|| Status::from_header_map(response.headers()))
                .filter(|status| status.details().is_empty() && status.code() != tonic::Code::Ok),
        };
        Poll::Ready(Ok(match bare {
            None => response,
            Some(bare) => status::dress(&bare, request_id).into_http(),
        }))
    }
}
