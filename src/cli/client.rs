//! The client for people: commands that call a running server, with the AWS CLI's own flags.
//!
//! [`args`] holds the flags, [`operations`] those of `portcullis operations` and what it asks, `input` and `shorthand` read their values, `schema` checks them against the contract;
//! `show` and `failure` make what is printed. Nothing here prints or ends the process.

use std::{
    future::Future,
    io::{self, IsTerminal},
    time::Duration,
};

use clap::Subcommand;
use serde_json::{Map, Value};
use terminal_size::terminal_size_of;
use tonic::{Code, Request, Response, Status, transport::Channel};

use self::{
    args::{
        AuthorizeEgress, Common, Connection, DescribeGroups, DescribeRules, List, Output, Paging,
        Reach, RevokeEgress,
    },
    failure::{CANNOT_TELL, Failure, REFUSED},
    input::Input,
    operations::Operations,
    schema::Schema,
};
use super::connect::{Connected, Unconnected};
use crate::api::proto::v1::{
    self, security_group_service_client::SecurityGroupServiceClient as Service,
};

pub mod args;
mod failure;
mod help;
mod input;
pub mod operations;
mod schema;
pub mod shorthand;
mod show;

/// The most bytes of one answer: 1000 groups with 1000 rules each take less.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A command that calls a server.
#[derive(Debug, Subcommand)]
pub enum Client {
    /// Remove outbound rules from a security group of a running server
    #[command(after_help = help::REVOKE)]
    RevokeEgress(Box<RevokeEgress>),
    /// Add outbound rules to a security group of a running server
    #[command(after_help = help::AUTHORIZE)]
    AuthorizeEgress(Box<AuthorizeEgress>),
    /// List the security-group rules of a running server
    #[command(after_help = help::DESCRIBE_RULES)]
    DescribeRules(Box<DescribeRules>),
    /// List the security groups of a running server
    #[command(after_help = help::DESCRIBE_GROUPS)]
    DescribeGroups(Box<DescribeGroups>),
    /// Look at the operations that a running server has recorded, and settle those that nobody else can
    Operations {
        /// What to do.
        #[command(subcommand)]
        command: Operations,
    },
}

/// What the streams are connected to: the columns of a terminal, or none if it is something else.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    out: Option<usize>,
    err: Option<usize>,
}

impl Screen {
    /// Of this process.
    pub fn of_process() -> Self {
        // Some terminals do not say how wide they are.
        let columns = |size: Option<(terminal_size::Width, _)>| {
            size.map_or(80, |(terminal_size::Width(columns), _)| usize::from(columns))
        };
        let (out, err) = (io::stdout(), io::stderr());
        Self {
            out: out.is_terminal().then(|| columns(terminal_size_of(&out))),
            err: err.is_terminal().then(|| columns(terminal_size_of(&err))),
        }
    }
}

/// What to print, and how to end.
#[derive(Debug)]
pub struct Ended {
    /// For stdout.
    pub out: String,
    /// For stderr.
    pub err: String,
    /// The exit code.
    pub code: u8,
}

/// An answer in either form, and the exit code.
struct Answer {
    table: String,
    json: String,
    code: u8,
}

impl Client {
    /// Makes the call, or calls.
    pub async fn run(&self, screen: Screen) -> Ended {
        let reach = match self {
            Self::RevokeEgress(args) => &args.common.reach,
            Self::AuthorizeEgress(args) => &args.common.reach,
            Self::DescribeRules(args) => &args.common.reach,
            Self::DescribeGroups(args) => &args.common.reach,
            Self::Operations { command } => command.reach(),
        };
        let default = if screen.out.is_some() { Output::Table } else { Output::Json };
        let output = reach.output.unwrap_or(default);
        match self.ask(screen.out).await {
            Ok(Answer { table, json, code }) => {
                let out = if output == Output::Table { table } else { json };
                Ended { out, err: String::new(), code }
            }
            Err(failure) => Ended {
                out: String::new(),
                err: failure.show(output, screen.err),
                code: failure.exit(),
            },
        }
    }

    async fn ask(&self, width: Option<usize>) -> Result<Answer, Failure> {
        let input = Input::new().map_err(Failure::Usage)?;
        match self {
            Self::RevokeEgress(args) => revoke(read(args.body(&input))?, &args.common, width).await,
            Self::AuthorizeEgress(args) => {
                authorize(read(args.body(&input))?, &args.common, width).await
            }
            Self::DescribeRules(args) => {
                describe_rules(read(args.body(&input))?, &args.list, &args.common, width).await
            }
            Self::DescribeGroups(args) => {
                describe_groups(read(args.body(&input))?, &args.list, &args.common, width).await
            }
            Self::Operations { command } => command.ask(width).await,
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(
    body: Result<Map<String, Value>, String>,
) -> Result<T, Failure> {
    body.and_then(|body| Schema::read(Value::Object(body))).map_err(Failure::Usage)
}

async fn revoke(
    request: v1::RevokeEgressRequest,
    common: &Common,
    width: Option<usize>,
) -> Result<Answer, Failure> {
    let server = Server::connect(&common.reach, true).await?;
    let group = request.group_id.clone().unwrap_or_default();
    let answer = server
        .call(request, |mut service, request| async move { service.revoke_egress(request).await });
    let answer = answer.await?;
    let unknown = answer.unknown_explanations.len()
        + answer.unknown_ip_permissions.len()
        + answer.unknown_security_group_rule_ids.len();
    let code = match answer.outcome() {
        v1::Outcome::RevokedPart | v1::Outcome::RevokedNothing => REFUSED,
        _ if unknown > 0 => REFUSED,
        _ if answer.verification.as_ref().is_some_and(|seen| !seen.visible) => CANNOT_TELL,
        v1::Outcome::RevokedAll | v1::Outcome::Unspecified => 0,
    };
    Ok(Answer { table: show::revoked(&answer, &group, width), json: show::json(&answer), code })
}

async fn authorize(
    request: v1::AuthorizeEgressRequest,
    common: &Common,
    width: Option<usize>,
) -> Result<Answer, Failure> {
    let server = Server::connect(&common.reach, true).await?;
    let group = request.group_id.clone().unwrap_or_default();
    let answer = server.call(request, |mut service, request| async move {
        service.authorize_egress(request).await
    });
    let answer = answer.await?;
    Ok(Answer {
        table: show::authorized(&answer, &group, width),
        json: show::json(&answer),
        code: 0,
    })
}

async fn describe_rules(
    request: v1::DescribeSecurityGroupRulesRequest,
    list: &List,
    common: &Common,
    width: Option<usize>,
) -> Result<Answer, Failure> {
    let server = Server::connect(&common.reach, false).await?;
    let page = async |token: Option<String>| {
        let mut request = request.clone();
        request.next_token = token;
        let page = server.call(request, |mut service, request| async move {
            service.describe_security_group_rules(request).await
        });
        let page = page.await?;
        Ok((page.security_group_rules, page.next_token, page.dry_run))
    };
    let (security_group_rules, next_token, dry_run) =
        pages(&list.paging, request.next_token.clone(), page).await?;
    let answer =
        v1::DescribeSecurityGroupRulesResponse { security_group_rules, next_token, dry_run };
    Ok(Answer { table: show::rules(&answer, width), json: show::json(&answer), code: 0 })
}

async fn describe_groups(
    request: v1::DescribeSecurityGroupsRequest,
    list: &List,
    common: &Common,
    width: Option<usize>,
) -> Result<Answer, Failure> {
    let server = Server::connect(&common.reach, false).await?;
    let page = async |token: Option<String>| {
        let mut request = request.clone();
        request.next_token = token;
        let page = server.call(request, |mut service, request| async move {
            service.describe_security_groups(request).await
        });
        let page = page.await?;
        Ok((page.security_groups, page.next_token, page.dry_run))
    };
    let (security_groups, next_token, dry_run) =
        pages(&list.paging, request.next_token.clone(), page).await?;
    let answer = v1::DescribeSecurityGroupsResponse { security_groups, next_token, dry_run };
    Ok(Answer { table: show::groups(&answer, width), json: show::json(&answer), code: 0 })
}

/// A page's items, the token of the next one, and whether it was a dry run.
type Page<T> = (Vec<T>, Option<String>, bool);

/// All pages as one, up to the number that was asked for. Our token is `SKIP:TOKEN`: so many items into a page.
async fn pages<T>(
    list: &Paging,
    first: Option<String>,
    ask: impl AsyncFn(Option<String>) -> Result<Page<T>, Failure>,
) -> Result<Page<T>, Failure> {
    let most =
        list.max_items.map_or(usize::MAX, |most| usize::try_from(most.get()).unwrap_or(usize::MAX));
    let (mut skip, mut token) = list.starting_token.as_deref().map_or((0, first), resume);
    let mut items = Vec::new();
    loop {
        let (page, next, dry_run) = ask(token.clone()).await?;
        let start = skip.min(page.len());
        let end = page.len().min(start.saturating_add(most - items.len()));
        let cut = end < page.len();
        items.extend(page.into_iter().take(end).skip(start));
        match next.filter(|next| !next.is_empty()) {
            _ if cut => {
                let rest = format!("{end}:{}", token.unwrap_or_default());
                return Ok((items, Some(rest), dry_run));
            }
            None => return Ok((items, None, dry_run)),
            Some(next) if items.len() == most => {
                return Ok((items, Some(format!("0:{next}")), dry_run));
            }
            Some(next) if Some(&next) == token.as_ref() => {
                let message = "the server says to go on where this page began";
                return Err(Failure::no_answer(Code::Internal, message, false));
            }
            Some(next) => (skip, token) = (0, Some(next)),
        }
    }
}

/// Where `--starting-token` says to go on. One that is not ours is the server's own.
fn resume(text: &str) -> (usize, Option<String>) {
    let ours = text.split_once(':').and_then(|(skip, token)| Some((skip.parse().ok()?, token)));
    let (skip, token) = ours.unwrap_or((0, text));
    (skip, (!token.is_empty()).then(|| token.to_owned()))
}

/// A connected server.
struct Server<'a> {
    connected: Connected,
    address: &'a str,
    timeout: Duration,
    /// Whether the call may change something.
    changes: bool,
}

impl<'a> Server<'a> {
    async fn connect(reach: &'a Reach, changes: bool) -> Result<Self, Failure> {
        let Connection { address, timeout_ms, security } = &reach.connection;
        let timeout = Duration::from_millis(*timeout_ms);
        let connected =
            security.connect(address, timeout).await.map_err(|failed| match failed {
                Unconnected::Usage(why) => Failure::Usage(why),
                Unconnected::Unreachable(why) => Failure::unreachable(&why),
            })?;
        Ok(Self { connected, address, timeout, changes })
    }

    /// One call of SecurityGroupService.
    async fn call<Q, A, F: Future<Output = Result<Response<A>, Status>>>(
        &self,
        message: Q,
        send: impl FnOnce(Service<Channel>, Request<Q>) -> F,
    ) -> Result<A, Failure> {
        let send = |channel, request| {
            send(Service::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES), request)
        };
        self.exchange(message, send).await
    }

    /// One call, with its deadline; the server is told of it.
    async fn exchange<Q, A, F: Future<Output = Result<Response<A>, Status>>>(
        &self,
        message: Q,
        send: impl FnOnce(Channel, Request<Q>) -> F,
    ) -> Result<A, Failure> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        self.connected.sign(&mut request);
        let channel = self.connected.channel.clone();
        match tokio::time::timeout(self.timeout, send(channel, request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if !timed_out(&status) => {
                Err(Failure::from_status(&status, self.address, self.changes))
            }
            Ok(Err(_)) | Err(_) => {
                let waited = self.timeout.as_millis();
                let message = format!("{}: no answer within {waited} ms", self.address);
                Err(Failure::no_answer(Code::DeadlineExceeded, &message, self.changes))
            }
        }
    }
}

/// Whether tonic's own clock ended the call: it looks at the deadline, too.
fn timed_out(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source())
        .any(|error| error.is::<tonic::TimeoutExpired>())
}

#[cfg(test)]
mod tests;
