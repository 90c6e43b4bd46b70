//! From what the SDK says went wrong to what the caller must know: whether EC2 said no, and if not, whether the call may
//! have had an effect all the same.
//!
//! "No effect" is claimed only on proof: an answer of EC2 with an error code and a 4xx status (or throttling), or
//! the request never having met a connection. Everything else that happens to a mutation is an unknown outcome.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::operation::RequestId;
use aws_smithy_runtime_api::{client::result::SdkError, http::Response};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::{
    backend::{BackendError, Failure, Refusal},
    pacing::is_throttling,
};

/// How far the last attempt of a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The request is being put together.
    Building,
    /// Credentials and endpoint are being looked up.
    Identifying,
    /// The request is being signed.
    Signing,
    /// The HTTP client has the request.
    Sending,
}

/// The code for what EC2 throttles; here also for a throttle that says no code.
const THROTTLED: &str = "RequestLimitExceeded";

/// The longest detail that is kept for the log.
const MAX_DETAIL: usize = 1024;

/// The one place that judges an SDK error. `effect`: whether the call would change something if it arrived.
pub(super) fn classify<E>(error: &SdkError<E, Response>, stage: Stage, effect: bool) -> BackendError
where
    E: Error + ProvideErrorMetadata + 'static,
{
    let detail = detail_of(error);
    match error {
        SdkError::ServiceError(context) => {
            let meta = context.err().meta();
            let code = meta.code().filter(|code| !code.is_empty());
            answered(context.raw(), code, meta.message(), &detail, effect)
        }
        // Half an answer, or one that is not what the action answers with. Its status still counts.
        SdkError::ResponseError(context) => answered(context.raw(), None, None, &detail, effect),
        SdkError::ConstructionFailure(_)
        | SdkError::TimeoutError(_)
        | SdkError::DispatchFailure(_)
        // The enum may grow; what is unknown is judged by how far the call came.
        | _ => unanswered(error, stage, &detail, effect),
    }
}

/// There is an HTTP answer.
fn answered(
    response: &Response,
    code: Option<&str>,
    message: Option<&str>,
    detail: &str,
    effect: bool,
) -> BackendError {
    let status = response.status().as_u16();
    let request_id = request_id(response);
    let refused = |code: &str| {
        let message = message.unwrap_or_default().to_owned();
        let request_id = request_id.clone();
        BackendError::Refused(Refusal { code: code.to_owned(), message, request_id })
    };
    let failure = || Failure {
        detail: format!("HTTP {status}: {detail}"),
        code: code.map(str::to_owned),
        request_id: request_id.clone(),
    };
    match (status, code) {
        // Throttling happens before EC2 does anything, and comes with a 5xx status.
        (_, Some(code)) if is_throttling(code) => refused(code),
        (400..=499, Some(code)) => refused(code),
        (429, None) => refused(THROTTLED),
        // Not EC2's form of a refusal, so somebody on the way refused to pass the request on. 408 alone tells of a
        // wait, and a wait may follow upon having passed it on.
        (400..=407 | 409..=499, None) => BackendError::Unavailable(failure()),
        // A 5xx may follow upon the effect; a 2xx that cannot be read most probably does; a redirect is none of EC2's.
        _ => lost(failure(), effect),
    }
}

/// There is no HTTP answer.
fn unanswered(
    error: &(dyn Error + 'static),
    stage: Stage,
    detail: &str,
    effect: bool,
) -> BackendError {
    let failure = Failure::new(detail);
    if stage == Stage::Identifying
        || stage < Stage::Sending && find::<CredentialsError>(error).is_some()
    {
        return BackendError::CredentialsUnavailable(failure);
    }
    if stage < Stage::Sending || never_connected(error) {
        return BackendError::Unavailable(failure);
    }
    // Includes a timeout of ours, which may have cut the attempt at any point.
    lost(failure, effect)
}

/// Whether the request met no connection: name resolution, TCP or TLS failed, or took too long. Only the HTTP client's
/// own word counts. "User" errors, for one, also arise in the midst of writing a request.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    find::<hyper_util::client::legacy::Error>(error).is_some_and(|error| error.is_connect())
}

/// No answer, or none that can be read.
pub(super) fn lost(failure: Failure, effect: bool) -> BackendError {
    if effect { BackendError::OutcomeUnknown(failure) } else { BackendError::Unavailable(failure) }
}

/// Whether EC2 refuses the credentials themselves, not what is done with them.
pub(super) fn is_credentials_refusal(code: &str) -> bool {
    matches!(
        code,
        "AuthFailure"
            | "ExpiredToken"
            | "InvalidClientTokenId"
            | "RequestExpired"
            | "UnrecognizedClientException"
    )
}

/// EC2's request id: in a header on AWS, only in the body with some that speak its protocol.
fn request_id(response: &Response) -> Option<String> {
    if let Some(id) = response.request_id() {
        return Some(id.to_owned());
    }
    let body = std::str::from_utf8(response.body().bytes()?).ok()?;
    let (_, rest) = body.split_once("<RequestID>").or_else(|| body.split_once("<RequestId>"))?;
    let (id, _) = rest.split_once('<')?;
    let well_formed = id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_graphic());
    (well_formed && !id.is_empty()).then(|| id.to_owned())
}

/// The messages of an error and its causes. Never its `Debug`, which shows bodies and headers.
pub(super) fn detail_of(error: &(dyn Error + 'static)) -> String {
    let mut detail = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !detail.ends_with(&text) {
            detail.push_str(": ");
            detail.push_str(&text);
        }
        cause = error.source();
    }
    if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL) {
        detail.truncate(end);
    }
    detail
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
