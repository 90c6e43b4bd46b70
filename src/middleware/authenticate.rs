//! Middleware that finds out who calls. What is inside sees a [`Principal`] in the request's extensions.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse};
use crate::principal::Principal;

/// Authenticates calls.
#[derive(Clone, Debug)]
pub struct AuthenticateLayer {
    local: Arc<Principal>,
}

/// See [`AuthenticateLayer`].
#[derive(Clone, Debug)]
pub struct Authenticate<S> {
    inner: S,
    local: Arc<Principal>,
}

impl AuthenticateLayer {
    /// Takes every caller for the one on this machine.
    pub fn off() -> Self {
        Self { local: Arc::new(Principal::local()) }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { inner, local: self.local.clone() }
    }
}

impl<S: Service<HttpRequest, Response = HttpResponse>> Service<HttpRequest> for Authenticate<S> {
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest) -> S::Future {
        request.extensions_mut().insert(self.local.clone());
        self.inner.call(request)
    }
}
