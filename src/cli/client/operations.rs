//! `portcullis operations`: what became of changes, and an operator's word on those that nobody else can settle.

use std::num::NonZeroU64;

use clap::{Args, Subcommand, ValueEnum};
use pbjson_types::Timestamp;
use serde_json::{from_value, json};

use super::{
    Answer, MAX_ANSWER_BYTES, Server,
    args::{Paging, Reach},
    failure::Failure,
    help, pages,
    show::{self, operations as tables},
};
use crate::api::proto::v1::{self, operation_service_client::OperationServiceClient as Service};

/// What to do with operations.
#[derive(Debug, Subcommand)]
pub enum Operations {
    /// List recorded operations, newest first
    #[command(after_help = help::LIST_OPERATIONS)]
    List(Box<ListOperations>),
    /// Show one operation, by its id or by one's own idempotency key
    #[command(after_help = help::GET_OPERATION)]
    Get(Box<GetOperation>),
    /// Say what became of an operation that cannot be found out
    #[command(after_help = help::SETTLE_OPERATION)]
    Settle(Box<SettleOperation>),
}

/// `portcullis operations list`.
#[derive(Args, Debug)]
pub struct ListOperations {
    /// Only in one of these states
    #[arg(long, value_name = "STATE", num_args = 1..)]
    states: Vec<State>,
    /// Only of this caller: METHOD:ISSUER:SUBJECT, with %3A for colons within a part
    #[arg(long, value_name = "ID")]
    caller: Option<String>,
    /// Only of this security group
    #[arg(long, value_name = "ID")]
    group_id: Option<String>,
    /// Only in this AWS account
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,
    /// Only in this AWS Region
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Only those created at this time or later, such as 2026-11-23T09:30:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only those created before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Print at most so many; the answer then says how to go on
    #[arg(long, value_name = "NUMBER", default_value = "100")]
    max_items: NonZeroU64,
    /// Ask the server for so many at a time
    #[arg(long, value_name = "NUMBER")]
    page_size: Option<u32>,
    /// Go on where an earlier answer's NextPageToken says
    #[arg(long, value_name = "TOKEN")]
    starting_token: Option<String>,
    /// What all commands take.
    #[command(flatten)]
    reach: Reach,
}

/// `portcullis operations get`.
#[derive(Args, Debug)]
pub struct GetOperation {
    /// The operation's id
    #[arg(long, value_name = "ID", required_unless_present = "idempotency_key")]
    #[arg(conflicts_with = "idempotency_key")]
    operation_id: Option<String>,
    /// The idempotency key that the change was called with, by the same caller
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// With a key: only in this account
    #[arg(long, value_name = "ID", conflicts_with = "operation_id")]
    account_id: Option<String>,
    /// With a key: only in this Region
    #[arg(long, value_name = "REGION", conflicts_with = "operation_id")]
    region: Option<String>,
    /// What all commands take.
    #[command(flatten)]
    reach: Reach,
}

/// `portcullis operations settle`.
#[derive(Args, Debug)]
pub struct SettleOperation {
    /// The operation's id
    #[arg(long, value_name = "ID")]
    operation_id: String,
    /// What became of it
    #[arg(long = "as", value_name = "WHAT")]
    settle_as: SettleAs,
    /// How that is known: a sentence, or a ticket
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// What all commands take.
    #[command(flatten)]
    reach: Reach,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// About to be sent, or sent
    InProgress,
    /// Done
    Succeeded,
    /// EC2 said no and would say it again, or nothing matched
    Refused,
    /// Without effect; the same call with the key runs again
    Released,
    /// Sent, and nobody knows yet what came of it
    InDoubt,
    /// It cannot be found out; an operator has to settle it
    Unresolved,
}

/// What an operator says.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SettleAs {
    /// It was done, all of it; calls with the key get an answer that says so
    Succeeded,
    /// It had no effect; the same call with the key runs again
    NotApplied,
}

fn time(text: &str) -> Result<Timestamp, String> {
    from_value(json!(text)).map_err(|_| "not a time such as 2026-11-23T09:30:00Z".to_owned())
}

impl Operations {
    /// How to reach the server, and how to print.
    pub fn reach(&self) -> &Reach {
        match self {
            Self::List(args) => &args.reach,
            Self::Get(args) => &args.reach,
            Self::Settle(args) => &args.reach,
        }
    }

    /// Makes the call, or calls.
    pub(super) async fn ask(&self, width: Option<usize>) -> Result<Answer, Failure> {
        // Settling says nothing to EC2, and saying it again does no harm.
        let server = Server::connect(self.reach(), false).await?;
        match self {
            Self::List(args) => args.ask(&server, width).await,
            Self::Get(args) => {
                let request = v1::GetOperationRequest {
                    operation_id: args.operation_id.clone().unwrap_or_default(),
                    idempotency_key: args.idempotency_key.clone().unwrap_or_default(),
                    target: Some(v1::Target {
                        account_id: args.account_id.clone().unwrap_or_default(),
                        region: args.region.clone().unwrap_or_default(),
                    }),
                };
                let answer = server.exchange(request, |channel, request| async move {
                    let service = Service::new(channel);
                    let mut service = service.max_decoding_message_size(MAX_ANSWER_BYTES);
                    service.get_operation(request).await
                });
                let answer = answer.await?;
                let table = tables::operation(answer.operation.as_ref(), width);
                Ok(Answer { table, json: show::json(&answer), code: 0 })
            }
            Self::Settle(args) => {
                let settle_as = match args.settle_as {
                    SettleAs::Succeeded => v1::SettleAs::Succeeded,
                    SettleAs::NotApplied => v1::SettleAs::NotApplied,
                };
                let request = v1::SettleOperationRequest {
                    operation_id: args.operation_id.clone(),
                    r#as: settle_as.into(),
                    reason: args.reason.clone(),
                };
                let answer = server.exchange(request, |channel, request| async move {
                    let service = Service::new(channel);
                    let mut service = service.max_decoding_message_size(MAX_ANSWER_BYTES);
                    service.settle_operation(request).await
                });
                let answer = answer.await?;
                let table = tables::operation(answer.operation.as_ref(), width);
                Ok(Answer { table, json: show::json(&answer), code: 0 })
            }
        }
    }
}

impl ListOperations {
    async fn ask(&self, server: &Server<'_>, width: Option<usize>) -> Result<Answer, Failure> {
        let target = v1::Target {
            account_id: self.account_id.clone().unwrap_or_default(),
            region: self.region.clone().unwrap_or_default(),
        };
        let request = v1::ListOperationsRequest {
            states: self.states.iter().map(|state| state.asked().into()).collect(),
            caller: self.caller.clone().unwrap_or_default(),
            target: Some(target),
            group_id: self.group_id.clone().unwrap_or_default(),
            created_since: self.since,
            created_before: self.until,
            // A size that the contract's type cannot hold is out of the server's bounds as well.
            page_size: self.page_size.map_or(0, |size| i32::try_from(size).unwrap_or(i32::MAX)),
            page_token: String::new(),
        };
        let page = async |token: Option<String>| {
            let page_token = token.unwrap_or_default();
            let request = v1::ListOperationsRequest { page_token, ..request.clone() };
            let page = server.exchange(request, |channel, request| async move {
                let service = Service::new(channel);
                let mut service = service.max_decoding_message_size(MAX_ANSWER_BYTES);
                service.list_operations(request).await
            });
            let page = page.await?;
            Ok((page.operations, Some(page.next_page_token), false))
        };
        let paging = Paging {
            max_items: Some(self.max_items),
            page_size: self.page_size,
            starting_token: self.starting_token.clone(),
        };
        let (operations, next, _) = pages(&paging, None, page).await?;
        let next_page_token = next.unwrap_or_default();
        let answer = v1::ListOperationsResponse { operations, next_page_token };
        Ok(Answer { table: tables::operations(&answer, width), json: show::json(&answer), code: 0 })
    }
}

impl State {
    fn asked(self) -> v1::OperationState {
        match self {
            Self::InProgress => v1::OperationState::InProgress,
            Self::Succeeded => v1::OperationState::Succeeded,
            Self::Refused => v1::OperationState::Refused,
            Self::Released => v1::OperationState::Released,
            Self::InDoubt => v1::OperationState::InDoubt,
            Self::Unresolved => v1::OperationState::Unresolved,
        }
    }
}
