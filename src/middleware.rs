//! What every call passes. HTTP level, outermost first: [`json`], [`web`], [`observe`], [`deadline`], [`admission`],
//! [`authenticate`], [`rate_limit`], [`admission::share`], [`conform`]. Typed level, below decoding: [`detach`], [`idempotency`].
//!
//! A layer that refuses answers the refusal itself, as a gRPC status, so that the layers outside see an ordinary
//! response. `server.rs` alone puts them together.

use http::{Request, Response};
use tonic::body::Body;

use crate::{
    api::{service::CallInfo, status},
    error::Error,
};

pub mod admission;
pub mod authenticate;
pub mod conform;
pub mod deadline;
pub mod detach;
pub mod idempotency;
pub mod json;
pub mod observe;
pub mod rate_limit;
pub mod web;

/// A request at HTTP level.
pub type HttpRequest = Request<Body>;

/// A response at HTTP level.
pub type HttpResponse = Response<Body>;

/// In the extensions of a request that came over HTTP/1.1 and was not translated: it is no gRPC call, whatever it says.
#[derive(Clone, Copy, Debug)]
pub struct OverHttp1;

/// A refusal as a Trailers-Only response.
pub fn refuse(error: Error, info: &CallInfo) -> HttpResponse {
    status::encode(error, &info.request_id).into_http()
}
