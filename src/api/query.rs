//! The sandbox's other door: EC2's Query protocol over HTTP, on the same state, faults and effect log. The AWS CLI,
//! boto3, Terraform and our own EC2 backend talk to it as to EC2.
//!
//! A request goes: HTTP (bounded) → `form` (its parameters) → `caller` (account and Region, from the signature) →
//! the action (`groups`, `family`, `around`, `sts`) → `xml`. EC2's and STS's actions share one address, since no two
//! have a name in common.
//!
//! Signatures are read and not checked: whoever reaches the door owns the sandbox.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use self::{
    caller::Caller,
    form::Fields,
    xml::{Api, EC2_VERSION, Element, STS_VERSION},
};
use crate::{
    backend::{Backend as _, BackendError, CallContext, Failure, Refusal, sandbox::Sandbox},
    clock::Clock,
    credentials::address::is_page_elsewhere,
    random::Random,
    rule::{Direction, GroupId, Target, permission::excerpt},
};

mod around;
mod caller;
mod common;
mod family;
mod form;
mod groups;
mod sts;
mod xml;

/// The largest request.
const MAX_BODY: usize = 2 << 20;

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// How long a request's head may take to arrive, and how long a connection may be idle: clients keep some.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer may take. The longest delay that a fault can bring is shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(10);

/// How long to wait when no connection can be accepted: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers EC2's Query protocol for a sandbox.
#[derive(Debug)]
pub struct Door {
    sandbox: Arc<Sandbox>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// A request of an action of EC2.
struct Ask<'a> {
    sandbox: &'a Sandbox,
    target: Target,
    call: CallContext,
}

/// What an action answers.
#[derive(Debug)]
struct Answered {
    /// The sandbox's id for the call, if it gave one.
    request_id: Option<String>,
    body: Vec<Element>,
}

/// Why there is no answer.
#[derive(Debug)]
enum Trouble {
    /// EC2's error, with its code.
    Refused(Refusal),
    /// The same, of a request that was not even read to its end: the sandbox does not know of it.
    Unread(Refusal),
    /// A server error that was injected.
    Failed { code: String, request_id: Option<String> },
    /// The answer was lost on the way: what went out breaks off.
    Lost,
}

type Reply = Result<Answered, Trouble>;

/// An answer's body: whole, or breaking off.
type Body = BoxBody<Bytes, BrokenOff>;

/// Ends a connection in the midst of an answer.
#[derive(Clone, Copy, Debug)]
pub struct BrokenOff;

/// The first half of a body.
struct Half {
    half: Option<Bytes>,
    /// Whether hyper had the time to write it.
    out: bool,
}

/// Serves on `listener` until `shutdown` resolves. Requests under way are cut then.
pub async fn serve(listener: TcpListener, door: Arc<Door>, shutdown: impl Future<Output = ()>) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let door = door.clone();
                    tokio::spawn(async move {
                        door.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "EC2 connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
}

// === impl Door ===

impl Door {
    /// Opens on `sandbox`. `random` gives request ids and session keys.
    pub fn new(sandbox: Arc<Sandbox>, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { sandbox, clock, random }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let door = self.clone();
            async move { Ok::<_, Infallible>(door.request(request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "an EC2 connection ended");
        }
    }

    /// Reads the parameters, wherever they are.
    async fn request(&self, request: http::Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let refuse = |status, code: &str, message: &str| {
            let text = xml::error(Api::Ec2, code, message, &self.new_request_id(), false);
            whole(status, text)
        };
        // The door asks nobody for a credential, and browsers send forms for whatever page is open.
        if is_page_elsewhere(&head.headers) {
            let message = "The sandbox's EC2 door takes no requests of pages in browsers.";
            return refuse(StatusCode::FORBIDDEN, "UnauthorizedOperation", message);
        }
        let form = match head.method {
            Method::GET => Bytes::copy_from_slice(head.uri.query().unwrap_or_default().as_bytes()),
            Method::POST => {
                let too_large = || {
                    let message = format!("The request is not whole, or over {MAX_BODY} bytes.");
                    refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
                };
                // Nobody waits for what is going to be refused.
                if body.size_hint().lower() > MAX_BODY as u64 {
                    return too_large();
                }
                match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
                    Ok(Ok(body)) => body.to_bytes(),
                    Ok(Err(_)) => return too_large(),
                    Err(_) => {
                        let message = "The request did not arrive in time.";
                        return refuse(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message);
                    }
                }
            }
            _ => {
                let message = "The Query protocol has GET and POST.";
                return refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message);
            }
        };
        if head.uri.path() != "/" {
            return refuse(StatusCode::NOT_FOUND, "InvalidRequest", "The path is /.");
        }
        self.answer(&head.headers, &form).await
    }

    /// Answers a form with its headers.
    pub async fn answer(&self, headers: &HeaderMap, form: &[u8]) -> Response<Body> {
        let started = Instant::now();
        let (action, api, reply) = self.act(headers, form).await;
        let (response, code) = match reply {
            Ok(Answered { request_id, body }) => {
                let request_id = request_id.unwrap_or_else(|| self.new_request_id());
                let text = xml::answer(api, &action, &request_id, &body);
                (identified(whole(StatusCode::OK, text), &request_id), "OK".to_owned())
            }
            Err(Trouble::Refused(refusal) | Trouble::Unread(refusal)) => {
                let request_id = refusal.request_id.unwrap_or_else(|| self.new_request_id());
                let status = status_of(api, &refusal.code);
                let ours = status.is_server_error();
                let text = xml::error(api, &refusal.code, &refusal.message, &request_id, ours);
                (identified(whole(status, text), &request_id), refusal.code)
            }
            Err(Trouble::Failed { code, request_id }) => {
                let request_id = request_id.unwrap_or_else(|| self.new_request_id());
                let status = status_of(api, &code);
                let status = if status.is_server_error() {
                    status
                } else {
                    StatusCode::INTERNAL_SERVER_ERROR
                };
                let text =
                    xml::error(api, &code, "An internal error has occurred", &request_id, true);
                (identified(whole(status, text), &request_id), code)
            }
            Err(Trouble::Lost) => {
                let text = xml::answer(api, &action, &self.new_request_id(), &[]);
                (broken_off(text), "answer lost".to_owned())
            }
        };
        tracing::info!(
            %action,
            http_status = response.status().as_u16(),
            code,
            took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            "EC2 request"
        );
        response
    }

    /// The action, as far as it is known, and what it answers.
    async fn act(&self, headers: &HeaderMap, form: &[u8]) -> (String, Api, Reply) {
        let mut fields = match Fields::parse(form) {
            Ok(fields) => fields,
            Err(refusal) => return (String::new(), Api::Ec2, Err(refusal.into())),
        };
        let action = fields.text("Action").map(|action| excerpt(&action)).unwrap_or_default();
        let version = fields.text("Version").unwrap_or_default();
        // An error, too, is in the envelope that the client of that API can read.
        let api = match (action.as_str(), version.as_str()) {
            ("AssumeRole" | "DecodeAuthorizationMessage" | "GetCallerIdentity", _)
            | (_, STS_VERSION) => Api::Sts,
            _ => Api::Ec2,
        };
        let reply = match Caller::read(headers, &mut fields) {
            Ok(_) if action.is_empty() => Err(missing("Action")),
            Ok(_) if version.is_empty() => Err(missing("Version")),
            Ok(caller) => {
                let reply = self.dispatch(api, (&action, &version), &caller, headers, fields).await;
                // Who is not permitted is told why in code, as EC2 does it.
                reply.map_err(|trouble| match trouble {
                    Trouble::Refused(refusal) if refusal.code == "UnauthorizedOperation" => {
                        Trouble::Refused(sts::encode_denial(self, &caller, &action, refusal))
                    }
                    trouble => trouble,
                })
            }
            Err(refusal) => Err(refusal.into()),
        };
        (action, api, reply)
    }

    async fn dispatch(
        &self,
        api: Api,
        (action, version): (&str, &str),
        caller: &Caller,
        headers: &HeaderMap,
        fields: Fields,
    ) -> Reply {
        let spoken = if api == Api::Sts { STS_VERSION } else { EC2_VERSION };
        if version != spoken {
            let message = format!("Version {} is not spoken here: {spoken}", excerpt(version));
            return Err(Refusal::new("NoSuchVersion", message).into());
        }
        match (api, action) {
            (Api::Ec2, _) => {}
            (Api::Sts, "AssumeRole") => return sts::assume_role(self, caller, fields),
            (Api::Sts, "DecodeAuthorizationMessage") => return sts::decode_denial(fields),
            (Api::Sts, "GetCallerIdentity") => {
                return sts::get_caller_identity(self, caller, &fields);
            }
            (Api::Sts, _) => {
                let message = format!("Could not find operation {action} for version {version}");
                return Err(Refusal::new("InvalidAction", message).into());
            }
        }
        let target = self.sandbox.resolve(caller.account.clone(), caller.region.clone())?;
        let mut call = CallContext::new(Instant::now() + ANSWER_TIMEOUT, operation_of(headers));
        let session = caller.session.as_ref();
        call.session = session.map(|session| Arc::new(sts::named(session, &target.account)));
        let ask = Ask { sandbox: &self.sandbox, target, call };
        let group = fields.peek("GroupId").and_then(GroupId::parse);
        let reply = match action {
            "AuthorizeSecurityGroupEgress" => groups::authorize_egress(&ask, fields).await,
            "AuthorizeSecurityGroupIngress" => groups::authorize_ingress(&ask, fields).await,
            "CreateManagedPrefixList" => around::create_prefix_list(&ask, fields).await,
            "CreateSecurityGroup" => groups::create(&ask, fields).await,
            "CreateTags" => around::create_tags(&ask, fields).await,
            "CreateVpc" => around::create_vpc(&ask, fields).await,
            "DeleteSecurityGroup" => groups::delete(&ask, fields).await,
            "DeleteTags" => around::delete_tags(&ask, fields).await,
            "DeleteVpc" => around::delete_vpc(&ask, fields).await,
            "DescribeManagedPrefixLists" => around::describe_prefix_lists(&ask, fields).await,
            "DescribeNetworkInterfaces" => around::describe_network_interfaces(fields),
            "DescribeSecurityGroupRules" => groups::describe_rules(&ask, fields).await,
            "DescribeSecurityGroups" => groups::describe_groups(&ask, fields).await,
            "DescribeTags" => around::describe_tags(&ask, fields).await,
            "DescribeVpcs" => around::describe_vpcs(&ask, fields).await,
            "ModifySecurityGroupRules" => family::modify_rules(&ask, fields).await,
            "RevokeSecurityGroupEgress" => groups::revoke_egress(&ask, fields).await,
            "RevokeSecurityGroupIngress" => groups::revoke_ingress(&ask, fields).await,
            "UpdateSecurityGroupRuleDescriptionsEgress" => {
                family::update_descriptions(&ask, fields, Direction::Egress).await
            }
            "UpdateSecurityGroupRuleDescriptionsIngress" => {
                family::update_descriptions(&ask, fields, Direction::Ingress).await
            }
            _ => {
                let message = format!("The action {action} is not valid for this web service.");
                Err(Refusal::new("InvalidAction", message).into())
            }
        };
        match reply {
            Err(Trouble::Unread(refusal)) => {
                let about = (action, group);
                Ok(ask.sandbox.refuse_unread(&ask.call, &ask.target, about, refusal).await?)
            }
            reply => reply,
        }
    }

    fn new_request_id(&self) -> String {
        uuid::Builder::from_random_bytes(self.random.bits().to_be_bytes()).into_uuid().to_string()
    }
}

// === impl Answered ===

impl Answered {
    /// An answer to which the sandbox gave no id.
    fn new(body: impl IntoIterator<Item = Element>) -> Self {
        Self { request_id: None, body: body.into_iter().collect() }
    }

    /// A page of a list.
    fn page(
        name: &'static str,
        items: impl IntoIterator<Item = Element>,
        next_token: Option<String>,
    ) -> Self {
        let token = next_token.map(|token| Element::text("nextToken", token));
        Self::new([Element::items(name, items)].into_iter().chain(token))
    }
}

// === impl Trouble ===

impl Trouble {
    /// A command that is not of its action: a fault of ours.
    fn mismatch() -> Self {
        Self::Failed { code: "InternalError".to_owned(), request_id: None }
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Unread(refusal)
    }
}

impl From<BackendError> for Trouble {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Refused(refusal) => Self::Refused(refusal),
            BackendError::OutcomeUnknown(Failure { code: Some(code), request_id, .. })
            | BackendError::Unavailable(Failure { code: Some(code), request_id, .. }) => {
                Self::Failed { code, request_id }
            }
            BackendError::OutcomeUnknown(_)
            | BackendError::Unavailable(_)
            | BackendError::CredentialsUnavailable(_)
            | BackendError::DeadlineTooNear
            | BackendError::BudgetExhausted { .. } => Self::Lost,
            // What EC2 says to credentials of an account that a Region does not know.
            BackendError::TargetNotConfigured { asked } => Self::Refused(Refusal::new(
                "AuthFailure",
                format!(
                    "AWS was not able to validate the provided access credentials: the sandbox \
                     has nothing in {asked}"
                ),
            )),
        }
    }
}

fn missing(parameter: &str) -> Trouble {
    let message = format!("The request must contain the parameter {parameter}");
    Refusal::new("MissingParameter", message).into()
}

/// The HTTP status of an error code (ec2-facts section 8).
fn status_of(api: Api, code: &str) -> StatusCode {
    match code {
        "DryRunOperation" => StatusCode::PRECONDITION_FAILED,
        "UnauthorizedOperation" | "AccessDenied" | "InvalidClientTokenId" => StatusCode::FORBIDDEN,
        "AuthFailure" => StatusCode::UNAUTHORIZED,
        "RequestLimitExceeded" | "ServiceUnavailable" | "Unavailable" => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        "InternalError" | "InternalFailure" | "ServerInternal" => StatusCode::INTERNAL_SERVER_ERROR,
        "IncompleteSignature" if api == Api::Sts => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// The Portcullis operation that made the call: our EC2 backend puts it into the user agent, as `lib/operation/ID`.
fn operation_of(headers: &HeaderMap) -> String {
    let agents = [header::USER_AGENT.as_str(), "x-amz-user-agent"];
    let agents = agents.iter().flat_map(|name| headers.get_all(*name));
    agents
        .filter_map(|agent| agent.to_str().ok())
        .flat_map(|agent| agent.split(' '))
        .find_map(|word| word.strip_prefix("lib/operation/"))
        .map(excerpt)
        .unwrap_or_default()
}

/// A point in time as AWS writes it: whole seconds, and Z.
fn timestamp(time: SystemTime) -> String {
    let seconds = pbjson_types::Timestamp { nanos: 0, ..super::encode::timestamp(time) };
    let text = serde_json::to_value(seconds).unwrap_or_default();
    text.as_str().unwrap_or_default().replace("+00:00", "Z")
}

// === HTTP ===

fn whole(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    let body = http_body_util::Full::from(text).map_err(|never| match never {}).boxed();
    respond(status, body)
}

/// Half of the text, then the end of the connection. The length that is promised is the whole one's.
fn broken_off(text: Vec<u8>) -> Response<Body> {
    let length = text.len();
    let half = Bytes::from(text).slice(..length / 2);
    let mut response = respond(StatusCode::OK, Half { half: Some(half), out: false }.boxed());
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/xml;charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn identified(mut response: Response<Body>, request_id: &str) -> Response<Body> {
    if let Ok(value) = header::HeaderValue::from_str(request_id) {
        response.headers_mut().insert("x-amzn-requestid", value);
    }
    response
}

impl HttpBody for Half {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        // hyper writes what it has when there is no more for the moment, and throws it away at an error.
        if !self.out {
            self.out = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(BrokenOff)))
    }
}

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is lost by a fault")
    }
}

impl std::error::Error for BrokenOff {}

#[cfg(test)]
mod tests;
