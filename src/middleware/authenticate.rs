//! Middleware that finds out who calls. What is inside sees a [`Principal`] in the request's extensions, and a
//! [`Peer`] whose address is the caller's own, also behind trusted proxies. Open services have no principal.
//!
//! A failure is answered with one text per reason, whatever the cause: the cause is in the log. Verifying comes first
//! and a failure is charged after, so that a valid credential passes whatever others do from its address. What a flood
//! of bad ones can cost is bounded outside (admission) and by the order of checks: nothing is verified for a token
//! that names no configured issuer, audience and key.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::header::AUTHORIZATION;
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::{HttpRequest, HttpResponse, refuse};
use crate::{
    api::{methods, service::CallInfo},
    credentials::{Authenticator, Checked, Refused, address::is_page_elsewhere},
    error::{Error, Reason},
    principal::{Peer, Principal},
    telemetry::metrics::Metrics,
};

/// Authenticates calls.
#[derive(Clone, Debug)]
pub struct AuthenticateLayer {
    authenticator: Arc<Authenticator>,
    local: Arc<Principal>,
    metrics: Metrics,
}

/// See [`AuthenticateLayer`].
#[derive(Clone, Debug)]
pub struct Authenticate<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
    local: Arc<Principal>,
    metrics: Metrics,
}

/// The rest of a call whose credential is still looked at.
type Later<E> = Pin<Box<dyn Future<Output = Result<HttpResponse, E>> + Send>>;

pin_project! {
    /// A call of somebody known, one that was refused, or one that waits for keys.
    #[project = AuthenticateProj]
    #[allow(missing_docs, reason = "the fields are nobody else's business")]
    pub enum AuthenticateFuture<F, E> {
        /// Runs.
        Known {
            #[pin]
            inner: F,
        },
        /// Turned away.
        Refused { response: Option<HttpResponse> },
        /// Waits for the issuer's keys, then either.
        Later { later: Later<E> },
    }
}

// === impl AuthenticateLayer ===

impl AuthenticateLayer {
    /// Asks `authenticator`; if that is off, every caller is the one on this machine.
    /// Whoever fails too often is counted in `metrics`.
    pub fn new(authenticator: Arc<Authenticator>, metrics: Metrics) -> Self {
        Self { authenticator, local: Arc::new(Principal::local()), metrics }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        let Self { authenticator, local, metrics } = self.clone();
        Authenticate { inner, authenticator, local, metrics }
    }
}

// === impl Authenticate ===

impl<S> Service<HttpRequest> for Authenticate<S>
where
    S: Service<HttpRequest, Response = HttpResponse> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = AuthenticateFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        let Some(info) = request.extensions().get::<CallInfo>().cloned() else {
            // Observe is always outside: without it nobody would know of the call.
            return AuthenticateFuture::Refused { response: None };
        };
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let address = self.authenticator.client_address(&peer, request.headers());
        if let Some(address) = address {
            let _ = info.caller.address.set(address);
            if peer.address.is_some_and(|peer| peer.ip() != address) {
                // Its port is not known.
                let address = Some(SocketAddr::new(address, 0));
                request.extensions_mut().insert(Peer { address, ..peer.clone() });
            }
        }
        let checked = if !self.authenticator.is_on() {
            // Whoever reaches this server may do everything; a page that happens to be open must not be one of them.
            let page = is_page_elsewhere(request.headers());
            Checked::Now(if page { Err(Refused::Page) } else { Ok(self.local.clone()) })
        } else if self.authenticator.is_open(request.uri().path()) {
            request.headers_mut().remove(AUTHORIZATION);
            return AuthenticateFuture::Known { inner: self.inner.call(request) };
        } else {
            self.authenticator.check(request.headers(), &peer)
        };
        // Nothing inside needs it, so nothing inside can tell it.
        request.headers_mut().remove(AUTHORIZATION);
        match checked {
            Checked::Now(Ok(principal)) => {
                admit(&mut request, &info, principal);
                AuthenticateFuture::Known { inner: self.inner.call(request) }
            }
            Checked::Now(Err(refused)) => {
                let class = class_of(request.uri().path());
                let own = (&*self.authenticator, &self.metrics);
                let response = answer(refused, own, address, class, &info);
                AuthenticateFuture::Refused { response: Some(response) }
            }
            Checked::Later(later) => {
                // The service that was made ready is the one to call.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let (authenticator, metrics) = (self.authenticator.clone(), self.metrics.clone());
                let later = Box::pin(async move {
                    match later.await {
                        Ok(principal) => {
                            admit(&mut request, &info, principal);
                            inner.call(request).await
                        }
                        Err(refused) => {
                            let class = class_of(request.uri().path());
                            let own = (&*authenticator, &metrics);
                            Ok(answer(refused, own, address, class, &info))
                        }
                    }
                });
                AuthenticateFuture::Later { later }
            }
        }
    }
}

fn admit(request: &mut HttpRequest, info: &CallInfo, principal: Arc<Principal>) {
    let _ = info.caller.principal.set(principal.clone());
    request.extensions_mut().insert(principal);
}

/// The class of a call, as the rate limits have it.
fn class_of(path: &str) -> &'static str {
    if methods::is_change(path) { "mutate" } else { "read" }
}

/// The refusal. One text for each reason.
fn answer(
    refused: Refused,
    (authenticator, metrics): (&Authenticator, &Metrics),
    address: Option<IpAddr>,
    class: &'static str,
    info: &CallInfo,
) -> HttpResponse {
    let (reason, message, cause) = match refused {
        Refused::Missing => (
            Reason::CredentialsMissing,
            "a credential is needed: send the metadata `authorization: Bearer ...`, or use a client certificate",
            String::new(),
        ),
        Refused::Page => (
            Reason::CredentialsMissing,
            "a page in a browser calls, and this server asks nobody for a credential: it takes calls of this machine's own",
            "a page of another origin".to_owned(),
        ),
        Refused::Invalid(cause) => {
            (Reason::CredentialsInvalid, "the credential is not valid here", cause)
        }
        Refused::Expired(cause) => {
            (Reason::CredentialsExpired, "the credential has expired", cause)
        }
        Refused::Unverifiable(cause) => (
            Reason::CredentialsUnverifiable,
            "the credential cannot be verified now: its issuer does not answer",
            cause,
        ),
    };
    // That an issuer does not answer is nobody's failure.
    let is_failure = reason != Reason::CredentialsUnverifiable;
    let wait = if is_failure { authenticator.charge(address) } else { None };
    if wait.is_some() {
        metrics.limited("failed_authentication", class);
    }
    let error = match wait {
        None => Error::new(reason, message),
        Some(wait) => Error::exhausted(
            Reason::RateLimited,
            "too many failed authentications from this address",
            wait,
            ("authentication-failures".to_owned(), "failed authentications per address".to_owned()),
        ),
    };
    let cause = if cause.is_empty() { reason.as_str().to_owned() } else { cause };
    refuse(Error { internal: Some(cause.into_boxed_str()), ..error }, info)
}

// === impl AuthenticateFuture ===

impl<F, E> Future for AuthenticateFuture<F, E>
where
    F: Future<Output = Result<HttpResponse, E>>,
{
    type Output = Result<HttpResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AuthenticateProj::Known { inner } => inner.poll(cx),
            AuthenticateProj::Later { later } => later.as_mut().poll(cx),
            AuthenticateProj::Refused { response } => {
                Poll::Ready(Ok(response.take().unwrap_or_else(|| Status::internal("").into_http())))
            }
        }
    }
}
