//! A command that did not do what it should: what is printed about it, and its exit code.

use clap::Error as Usage;
use prost::Message as _;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::pb;

use super::{
    args::Output,
    show::{self, Lines},
};
use crate::{
    api::{proto::v1, status::DOMAIN},
    cli::connect::chain,
    error::{Reason, upper_snake},
};

/// Refused, or something was unknown.
pub const REFUSED: u8 = 1;
/// Nobody knows: the caller has to look before it tries again.
pub const CANNOT_TELL: u8 = 2;
/// EX_USAGE of sysexits.h, as clap's own complaints here.
const USAGE: u8 = 64;

/// Why there is no answer to print.
#[derive(Debug)]
pub enum Failure {
    /// What was typed cannot be sent.
    Usage(String),
    /// The server's word, or that there is none.
    Call(Box<Refusal>),
}

/// A call that failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Refusal {
    #[serde(skip)]
    exit: u8,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    message: String,
    details: Details,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    operation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ec2_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ec2_request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Resource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quotas: Vec<Quota>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<Violation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_permissions: Option<v1::UnknownPermissionsDetail>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Resource {
    r#type: String,
    name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Quota {
    subject: String,
    description: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Violation {
    field: String,
    reason: String,
    description: String,
}

impl Failure {
    /// No connection: nothing was sent.
    pub fn unreachable(message: &str) -> Self {
        Self::without_answer(
            Code::Unavailable,
            "UNREACHABLE",
            format!("{message}; nothing was sent"),
        )
    }

    /// Sent, perhaps, and no answer came. `changes`: whether the call may have changed something.
    pub fn no_answer(code: Code, message: &str, changes: bool) -> Self {
        let doubt =
            "; whether anything was changed is not known: describe the group before you try again";
        let message = format!("{message}{}", if changes { doubt } else { "" });
        Self::without_answer(code, "NO_ANSWER", message)
    }

    fn without_answer(code: Code, reason: &str, message: String) -> Self {
        Self::Call(Box::new(Refusal {
            exit: CANNOT_TELL,
            code: upper_snake(&format!("{code:?}")),
            reason: Some(reason.to_owned()),
            message,
            details: Details::default(),
        }))
    }

    /// What the status of a call means. One that tonic made itself has a source.
    pub fn from_status(status: &Status, address: &str, changes: bool) -> Self {
        if let Some(source) = std::error::Error::source(status) {
            return Self::no_answer(
                status.code(),
                &format!("{address}: {}", chain(source)),
                changes,
            );
        }
        let mut reason = None;
        let mut details = Details::default();
        let sent = pb::Status::decode(status.details()).unwrap_or_default();
        for any in &sent.details {
            let value = any.value.as_slice();
            // What cannot be decoded is not ours.
            match any.type_url.rsplit('/').next().unwrap_or_default() {
                "google.rpc.ErrorInfo" => {
                    let info = pb::ErrorInfo::decode(value).unwrap_or_default();
                    if info.domain == DOMAIN {
                        let part = |key: &str| info.metadata.get(key).cloned();
                        details.operation_id = part("operation_id");
                        details.ec2_code = part("ec2_code");
                        details.ec2_request_id = part("ec2_request_id");
                        reason = Some(info.reason);
                    }
                }
                "google.rpc.RequestInfo" => {
                    let info = pb::RequestInfo::decode(value).unwrap_or_default();
                    details.request_id = Some(info.request_id);
                }
                "google.rpc.RetryInfo" => {
                    let delay = pb::RetryInfo::decode(value).unwrap_or_default().retry_delay;
                    details.retry_after_ms = delay.map(|delay| {
                        let nanos = i64::from(delay.nanos) / 1_000_000;
                        delay.seconds.saturating_mul(1000).saturating_add(nanos)
                    });
                }
                "google.rpc.BadRequest" => {
                    let bad = pb::BadRequest::decode(value).unwrap_or_default();
                    details.violations.extend(bad.field_violations.into_iter().map(|wrong| {
                        Violation {
                            field: wrong.field,
                            reason: wrong.reason,
                            description: wrong.description,
                        }
                    }));
                }
                "google.rpc.ResourceInfo" => {
                    let info = pb::ResourceInfo::decode(value).unwrap_or_default();
                    let (r#type, name) = (info.resource_type, info.resource_name);
                    details.resource = Some(Resource { r#type, name });
                }
                "google.rpc.QuotaFailure" => {
                    let failure = pb::QuotaFailure::decode(value).unwrap_or_default();
                    details.quotas.extend(failure.violations.into_iter().map(|quota| Quota {
                        subject: quota.subject,
                        description: quota.description,
                    }));
                }
                "portcullis.v1.UnknownPermissionsDetail" => {
                    details.unknown_permissions = v1::UnknownPermissionsDetail::decode(value).ok();
                }
                _ => {}
            }
        }
        Self::Call(Box::new(Refusal {
            exit: exit(status.code(), reason.as_deref()),
            code: upper_snake(&format!("{:?}", status.code())),
            reason,
            message: status.message().to_owned(),
            details,
        }))
    }

    /// The exit code.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Call(refusal) => refusal.exit,
        }
    }

    /// What goes to stderr.
    pub fn show(&self, output: Output, width: Option<usize>) -> String {
        match self {
            Self::Usage(text) => {
                let text = text.lines().map(show::clean).collect::<Vec<_>>().join("\n");
                Usage::raw(clap::error::ErrorKind::ValueValidation, format!("{text}\n")).to_string()
            }
            Self::Call(refusal) if output == Output::Json => show::json(refusal),
            Self::Call(refusal) => refusal.block(width),
        }
    }
}

/// Settled or not: by Portcullis's reason, else only where gRPC's code leaves no doubt.
fn exit(code: Code, reason: Option<&str>) -> u8 {
    let in_doubt = [Reason::OutcomeUnknown, Reason::DeadlineExceeded, Reason::Internal];
    let settled = match reason {
        Some(reason) => !in_doubt.iter().any(|doubt| doubt.as_str() == reason),
        None => {
            matches!(code, Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied)
        }
    };
    if settled { REFUSED } else { CANNOT_TELL }
}

impl Refusal {
    /// For people: what, why, and all that helps to go on.
    fn block(&self, width: Option<usize>) -> String {
        let Self { code, reason, message, details, .. } = self;
        let mut lines = Lines::new(width);
        let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        lines.add(0, &format!("portcullis: {code}{reason}"));
        // For one violation the message is the violation; for many it begins with the first.
        let first = details.violations.first();
        let first = first.map(|wrong| format!("{}: {}", wrong.field, wrong.description));
        if !first.is_some_and(|first| message.starts_with(&first)) {
            lines.add(2, message);
        }
        for Violation { field, reason, description } in &details.violations {
            lines.add(2, &format!("{field}: {description} [{reason}]"));
        }
        if let Some(unknown) = &details.unknown_permissions {
            let shown = unknown.unknown_explanations.len();
            show::explanations(&mut lines, &unknown.unknown_explanations, message);
            let total = usize::try_from(unknown.total).unwrap_or_default();
            if unknown.truncated && total > shown {
                lines.add(2, &format!("and {} more, of {total} in all", total - shown));
            }
        }
        for Quota { subject, description } in &details.quotas {
            lines.add(2, &format!("quota of {subject}: {description}"));
        }
        if let Some(Resource { r#type, name }) = &details.resource {
            lines.add(2, &format!("about: {type} {name}"));
        }
        let ec2 = [("", &details.ec2_code), ("request ", &details.ec2_request_id)];
        let ec2 = ec2.iter().filter_map(|(name, part)| Some(format!("{name}{}", part.as_ref()?)));
        let ec2: Vec<String> = ec2.collect();
        if !ec2.is_empty() {
            lines.add(2, &format!("EC2: {}", ec2.join(", ")));
        }
        if let Some(id) = &details.operation_id {
            lines.add(2, &format!("operation: {id}"));
        }
        if let Some(id) = &details.request_id {
            lines.add(2, &format!("request: {id}"));
        }
        if let Some(wait) = details.retry_after_ms {
            lines.add(2, &format!("try again in {wait} ms"));
        }
        lines.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prost_types::Any;

    use super::*;

    fn status(code: Code, reason: Option<(&str, &str)>) -> Status {
        let info = reason.map(|(domain, reason)| pb::ErrorInfo {
            reason: reason.to_owned(),
            domain: domain.to_owned(),
            metadata: HashMap::from([("operation_id".to_owned(), "op-1".to_owned())]),
        });
        let any = info.map(|info| Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
            value: info.encode_to_vec(),
        });
        let details = pb::Status { details: any.into_iter().collect(), ..pb::Status::default() };
        Status::with_details(code, "why", details.encode_to_vec().into())
    }

    #[test]
    fn only_what_is_settled_is_a_refusal() {
        for (code, reason, exit) in [
            (Code::NotFound, Some((DOMAIN, "INVALID_GROUP_NOT_FOUND")), REFUSED),
            (Code::Unavailable, Some((DOMAIN, "EC2_UNAVAILABLE")), REFUSED),
            (Code::Unavailable, Some((DOMAIN, "DRAINING")), REFUSED),
            (Code::Unknown, Some((DOMAIN, "OUTCOME_UNKNOWN")), CANNOT_TELL),
            (Code::Unavailable, Some((DOMAIN, "OUTCOME_UNKNOWN")), CANNOT_TELL),
            (Code::DeadlineExceeded, Some((DOMAIN, "DEADLINE_EXCEEDED")), CANNOT_TELL),
            (Code::Internal, Some((DOMAIN, "INTERNAL")), CANNOT_TELL),
            // What a proxy says.
            (Code::NotFound, Some(("elsewhere", "INVALID_GROUP_NOT_FOUND")), CANNOT_TELL),
            (Code::Unavailable, None, CANNOT_TELL),
            (Code::Unauthenticated, None, REFUSED),
            (Code::PermissionDenied, None, REFUSED),
            (Code::Unimplemented, None, REFUSED),
        ] {
            let failure = Failure::from_status(&status(code, reason), "server", true);
            assert_eq!(failure.exit(), exit, "{code:?} {reason:?}");
        }
    }

    #[test]
    fn details_that_are_not_what_they_say_are_passed_over() {
        let any = |name: &str| Any { type_url: format!("x/{name}"), value: vec![0xff; 9] };
        let names = [
            "google.rpc.ErrorInfo",
            "google.rpc.RetryInfo",
            "portcullis.v1.UnknownPermissionsDetail",
        ];
        let details = names.map(any).to_vec();
        let details = pb::Status { details, ..pb::Status::default() }.encode_to_vec();
        for details in [details, vec![0xff; 9]] {
            let status = Status::with_details(Code::NotFound, "\u{1b}why", details.into());
            let failure = Failure::from_status(&status, "server", true);
            assert_eq!(failure.show(Output::Table, None), "portcullis: NOT_FOUND\n  \u{fffd}why\n");
            let shown: serde_json::Value =
                serde_json::from_str(&failure.show(Output::Json, None)).unwrap();
            assert_eq!(shown["Message"], "\u{1b}why");
        }
    }

    #[test]
    fn an_operation_that_was_begun_is_named() {
        let sent = Failure::from_status(
            &status(Code::DeadlineExceeded, Some((DOMAIN, "DEADLINE_EXCEEDED"))),
            "s",
            true,
        );
        let shown = sent.show(Output::Table, None);
        assert_eq!(
            shown,
            "portcullis: DEADLINE_EXCEEDED: DEADLINE_EXCEEDED\n  why\n  operation: op-1\n"
        );
    }
}
