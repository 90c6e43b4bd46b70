//! Errors as gRPC statuses with google.rpc details. The only place that does this.
//!
//! Every error is a Trailers-Only response, and its details are cut so that the metadata stays under the 8 KiB that
//! gRPC clients accept by default.

use std::{borrow::Cow, collections::HashMap, fmt, time::Duration};

use bytes::Bytes;
use prost::Message;
use prost_types::Any;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::pb;

use super::{encode, json::Unreadable, proto::v1};
use crate::{
    error::{self, Detail, Error, Reason, Unknown, UnknownSubject, upper_snake},
    ledger::Recorded,
    rule::Violation,
};

/// The ErrorInfo domain.
pub const DOMAIN: &str = "portcullis";

/// The most bytes of an encoded google.rpc.Status. As base64 in a header it takes a third more, which with the other
/// metadata stays under 8 KiB.
pub const MAX_STATUS_BYTES: usize = 4096;

/// The most bytes of a status message: it is in the header twice, once percent-encoded.
const MAX_MESSAGE_BYTES: usize = 400;

/// What the log says about an error; rides in the status as its source, and never reaches the wire.
#[derive(Debug)]
pub struct Logged {
    /// The reason on the wire.
    pub reason: Cow<'static, str>,
    /// What callers do not see.
    pub internal: Option<Box<str>>,
    /// Whether it is what the ledger has of an operation.
    pub recorded: bool,
}

impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Logged {}

/// Why a request's body was cut off. It rides as the source of the status that the body ends with: on its way through
/// tonic such a status loses what it says itself.
#[derive(Clone, Copy, Debug)]
pub struct Cut(pub Reason, pub &'static str);

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
}

impl std::error::Error for Cut {}

impl From<Cut> for Status {
    fn from(cut: Cut) -> Self {
        let mut status = Self::new(code(cut.0.code()), cut.1);
        status.set_source(std::sync::Arc::new(cut));
        status
    }
}

/// The status of an error.
pub fn encode(error: Error, request_id: &str) -> Status {
    let code = code(error.reason.code());
    let retry_after = error.retry_after;
    let message = cut(&error.message, MAX_MESSAGE_BYTES);
    let mut details =
        vec![any("google.rpc.ErrorInfo", &error_info(&error)), request_info(request_id)];
    if let Some(after) = retry_after {
        let retry_delay = prost_types::Duration::try_from(after).ok();
        details.push(any("google.rpc.RetryInfo", &pb::RetryInfo { retry_delay }));
    }
    let used: usize = details.iter().map(|detail| detail.encoded_len() + 4).sum();
    let room = MAX_STATUS_BYTES.saturating_sub(used + message.len() + 64);
    match error.detail {
        Detail::None => {}
        Detail::Violations(violations) => details.push(bad_request(&violations, room)),
        Detail::Resource(named) => details.push(resource_info(named.0, &named.1)),
        Detail::Quota(quota) => details.push(quota_failure(&quota.0, &quota.1)),
        Detail::Unknown(unknown) => {
            details.push(resource_info("ec2:security-group", &unknown.group));
            let detail = unknown_detail(&unknown, room.saturating_sub(128));
            details.push(any("portcullis.v1.UnknownPermissionsDetail", &detail));
        }
    }
    let status = pb::Status { code: code.into(), message: message.clone(), details };
    let mut metadata = MetadataMap::new();
    let pushback = if error.reason.never_retry() {
        Some("-1".to_owned())
    } else {
        retry_after.map(|after| Duration::as_millis(&after).to_string())
    };
    if let Some(value) = pushback.and_then(|text| MetadataValue::try_from(text).ok()) {
        metadata.insert("grpc-retry-pushback-ms", value);
    }
    let details = Bytes::from(status.encode_to_vec());
    let mut status = Status::with_details_and_metadata(code, message, details, metadata);
    status.set_source(std::sync::Arc::new(Logged {
        reason: error.reason.as_str().into(),
        internal: error.internal,
        recorded: false,
    }));
    status
}

/// An error as it is recorded: without what belongs to one call alone.
pub fn record(error: Error) -> Recorded {
    let status = encode(Error { retry_after: None, ..error }, "");
    let mut whole = pb::Status::decode(status.details()).unwrap_or_default();
    whole.details.retain(|detail| !detail.type_url.ends_with("/google.rpc.RequestInfo"));
    Recorded {
        code: status.code().into(),
        message: status.message().to_owned(),
        body: whole.encode_to_vec(),
    }
}

/// The status of a recorded error.
pub fn replay(recorded: &Recorded, request_id: &str) -> Status {
    let mut whole = pb::Status::decode(recorded.body.as_slice()).unwrap_or_default();
    let reason = first_reason(&whole);
    whole.details.insert(whole.details.len().min(1), request_info(request_id));
    let details = Bytes::from(whole.encode_to_vec());
    let mut status =
        Status::with_details(Code::from_i32(recorded.code), recorded.message.clone(), details);
    status.set_source(std::sync::Arc::new(Logged {
        reason: reason.unwrap_or_default().into(),
        internal: None,
        recorded: true,
    }));
    status
}

/// The reason of a recorded error. None: it is no error.
pub fn reason_of(recorded: &Recorded) -> Option<String> {
    if recorded.code == 0 {
        return None;
    }
    first_reason(&pb::Status::decode(recorded.body.as_slice()).ok()?)
}

/// ErrorInfo is the first detail of every status of ours.
fn first_reason(status: &pb::Status) -> Option<String> {
    let info = status.details.first()?;
    pb::ErrorInfo::decode(info.value.as_slice()).ok().map(|info| info.reason)
}

/// Gives a status that tonic made itself (an undecodable message, an unknown method) our reasons and details.
pub fn dress(status: &Status, request_id: &str) -> Status {
    let text = status.message();
    // Bodies between us and tonic wrap the errors of those inside.
    let causes = || std::iter::successors(std::error::Error::source(status), |e| e.source());
    if let Some(Unreadable(wrong)) = causes().find_map(|cause| cause.downcast_ref()) {
        return encode(Error::invalid(wrong.clone()), request_id);
    }
    if let Some(Cut(reason, text)) = causes().find_map(|cause| cause.downcast_ref()) {
        return encode(Error::new(*reason, *text), request_id);
    }
    let error = match status.code() {
        Code::Unimplemented if text.is_empty() => {
            Error::new(Reason::Unimplemented, "this server has no such method")
        }
        Code::Unimplemented => Error::new(Reason::Unimplemented, text),
        // tonic calls a message over the size limit OUT_OF_RANGE; gRPC's own code for it is RESOURCE_EXHAUSTED.
        Code::OutOfRange | Code::ResourceExhausted => Error::new(Reason::RequestTooLarge, text),
        // grpc.health.v1 says it of a name that it does not know.
        Code::NotFound => Error::new(Reason::ServiceUnknown, "no such service name"),
        Code::InvalidArgument => {
            Error::invalid(vec![Violation::new("request", "InvalidRequest", text)])
        }
        Code::Cancelled | Code::DeadlineExceeded => {
            Error::new(Reason::DeadlineExceeded, "the call ended before its request was whole")
        }
        // Every error of our own comes dressed, so the rest is what tonic, its gRPC-Web layer and HTTP say of a
        // request that they could not read: INTERNAL or UNKNOWN, with texts that are about their inside.
        _ => {
            let invalid = Violation::new(
                "request",
                "InvalidRequest",
                "the message is not a valid encoding of this method's request",
            );
            Error { internal: Some(text.into()), ..Error::invalid(vec![invalid]) }
        }
    };
    encode(error, request_id)
}

fn code(code: error::Code) -> Code {
    match code {
        error::Code::Unknown => Code::Unknown,
        error::Code::Aborted => Code::Aborted,
        error::Code::InvalidArgument => Code::InvalidArgument,
        error::Code::DeadlineExceeded => Code::DeadlineExceeded,
        error::Code::NotFound => Code::NotFound,
        error::Code::AlreadyExists => Code::AlreadyExists,
        error::Code::PermissionDenied => Code::PermissionDenied,
        error::Code::ResourceExhausted => Code::ResourceExhausted,
        error::Code::FailedPrecondition => Code::FailedPrecondition,
        error::Code::Unimplemented => Code::Unimplemented,
        error::Code::Internal => Code::Internal,
        error::Code::Unavailable => Code::Unavailable,
        error::Code::Unauthenticated => Code::Unauthenticated,
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

fn error_info(error: &Error) -> pb::ErrorInfo {
    let mut metadata = HashMap::new();
    if let Some(ec2) = &error.ec2 {
        let ec2_code = ec2.code.as_deref().map(|code| cut(code, 128));
        metadata.extend(ec2_code.map(|code| ("ec2_code".to_owned(), code)));
        let ec2_request_id = ec2.request_id.as_deref().map(|id| cut(id, 128));
        metadata.extend(ec2_request_id.map(|id| ("ec2_request_id".to_owned(), id)));
    }
    metadata
        .extend(error.operation_id.as_ref().map(|id| ("operation_id".to_owned(), id.to_string())));
    pb::ErrorInfo { reason: error.reason.as_str().to_owned(), domain: DOMAIN.to_owned(), metadata }
}

fn request_info(request_id: &str) -> Any {
    let info = pb::RequestInfo { request_id: request_id.to_owned(), serving_data: String::new() };
    any("google.rpc.RequestInfo", &info)
}

fn resource_info(resource_type: &str, name: &str) -> Any {
    let info = pb::ResourceInfo {
        resource_type: resource_type.to_owned(),
        resource_name: cut(name, 300),
        ..pb::ResourceInfo::default()
    };
    any("google.rpc.ResourceInfo", &info)
}

fn quota_failure(subject: &str, description: &str) -> Any {
    let violation = pb::quota_failure::Violation {
        subject: cut(subject, 300),
        description: cut(description, 300),
        ..pb::quota_failure::Violation::default()
    };
    any("google.rpc.QuotaFailure", &pb::QuotaFailure { violations: vec![violation] })
}

/// As many violations as fit; the last one says how many did not.
fn bad_request(violations: &[Violation], room: usize) -> Any {
    let mut field_violations = Vec::new();
    let mut left = room.saturating_sub(160);
    for (index, violation) in violations.iter().enumerate() {
        let encoded = pb::bad_request::FieldViolation {
            field: cut(&violation.field, 200),
            description: cut(&violation.message, 600),
            reason: upper_snake(violation.code),
            localized_message: None,
        };
        let size = encoded.encoded_len() + 4;
        if size > left {
            let more = violations.len() - index;
            field_violations.push(pb::bad_request::FieldViolation {
                field: "*".to_owned(),
                description: format!("{more} more violations are left out"),
                reason: "TRUNCATED".to_owned(),
                localized_message: None,
            });
            break;
        }
        left -= size;
        field_violations.push(encoded);
    }
    any("google.rpc.BadRequest", &pb::BadRequest { field_violations })
}

/// The whole detail if it fits in `room`; else as many explanations and permissions as do.
fn unknown_detail(unknown: &Unknown, room: usize) -> v1::UnknownPermissionsDetail {
    let whole = v1::UnknownPermissionsDetail {
        unknown_ip_permissions: encode::permissions(&unknown.permissions),
        unknown_explanations: unknown.explanations.iter().map(encode::explanation).collect(),
        unknown_security_group_rule_ids: unknown.rule_ids.iter().map(ToString::to_string).collect(),
        total: i32::try_from(unknown.explanations.len()).unwrap_or(i32::MAX),
        truncated: false,
    };
    if whole.encoded_len() <= room {
        return whole;
    }
    let mut cut =
        v1::UnknownPermissionsDetail { truncated: true, total: whole.total, ..Default::default() };
    let mut left = room / 2;
    for mut explanation in whole.unknown_explanations {
        explanation.nearest_rules.truncate(1);
        let size = explanation.encoded_len() + 4;
        if size > left {
            break;
        }
        left -= size;
        cut.unknown_explanations.push(explanation);
    }
    let mut left = room / 2 - 16;
    for explanation in &unknown.explanations {
        match &explanation.subject {
            UnknownSubject::Permission(permission) => {
                let permission = encode::permission(permission);
                let size = permission.encoded_len() + 4;
                if size > left {
                    break;
                }
                left -= size;
                merge(&mut cut.unknown_ip_permissions, permission);
            }
            UnknownSubject::RuleId(id) => {
                let size = id.as_str().len() + 4;
                if size > left {
                    break;
                }
                left -= size;
                cut.unknown_security_group_rule_ids.push(id.to_string());
            }
        }
    }
    cut
}

/// Adds a permission's peers to the one with its protocol and ports, if there is one.
fn merge(permissions: &mut Vec<v1::IpPermission>, new: v1::IpPermission) {
    let same = |old: &&mut v1::IpPermission| {
        old.ip_protocol == new.ip_protocol
            && old.from_port == new.from_port
            && old.to_port == new.to_port
    };
    match permissions.iter_mut().find(same) {
        Some(old) => {
            old.ip_ranges.extend(new.ip_ranges);
            old.ipv6_ranges.extend(new.ipv6_ranges);
            old.prefix_list_ids.extend(new.prefix_list_ids);
            old.user_id_group_pairs.extend(new.user_id_group_pairs);
        }
        None => permissions.push(new),
    }
}

/// At most `limit` bytes, whole characters, with an ellipsis if something was cut.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", text.get(..end).unwrap_or_default())
}
