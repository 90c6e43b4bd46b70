//! Every way a call can fail, as callers see it: a reason that is a contract, a text, and typed details.
//!
//! `api/status.rs` alone turns an [`Error`] into a gRPC status. What EC2 says becomes an `Error` here, once, for both
//! backends ([`Error::from_backend`]).

use std::{sync::Arc, time::Duration};

use crate::{
    backend::{BackendError, Failure, Refusal},
    rule::{IpPermission, RuleId, Violation, explain::UnknownReason},
};

/// Why a call failed. The names on the wire are [`Reason::as_str`]; programs act on them (design.md section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is documented by its name on the wire and in docs/errors.md")]
pub enum Reason {
    InvalidRequest,
    AccessDenied,
    TargetNotConfigured,
    InvalidGroupNotFound,
    InvalidSecurityGroupRuleIdNotFound,
    InvalidPermissionNotFound,
    InvalidPermissionDuplicate,
    InvalidGroupDuplicate,
    RulesPerSecurityGroupLimitExceeded,
    DependencyViolation,
    CannotDelete,
    Ec2UnauthorizedOperation,
    Ec2CredentialsUnavailable,
    Ec2RequestLimitExceeded,
    Ec2BudgetExhausted,
    Ec2Rejected,
    Ec2Unavailable,
    OutcomeUnknown,
    OutcomeUnknownWithKey,
    IdempotencyKeyReused,
    OperationInProgress,
    GroupInDoubt,
    OperationNotFound,
    OperationSettled,
    LedgerUnavailable,
    CredentialsMissing,
    CredentialsInvalid,
    CredentialsExpired,
    CredentialsUnverifiable,
    RateLimited,
    DeadlineExceeded,
    Overloaded,
    Draining,
    ServiceUnknown,
    RequestTooLarge,
    Unimplemented,
    Internal,
}

/// The gRPC codes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "these are gRPC's own names")]
pub enum Code {
    Unknown,
    Aborted,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Unimplemented,
    Internal,
    Unavailable,
    Unauthenticated,
}

impl Reason {
    /// The name on the wire, in ErrorInfo.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::AccessDenied => "ACCESS_DENIED",
            Self::TargetNotConfigured => "TARGET_NOT_CONFIGURED",
            Self::InvalidGroupNotFound => "INVALID_GROUP_NOT_FOUND",
            Self::InvalidSecurityGroupRuleIdNotFound => "INVALID_SECURITY_GROUP_RULE_ID_NOT_FOUND",
            Self::InvalidPermissionNotFound => "INVALID_PERMISSION_NOT_FOUND",
            Self::InvalidPermissionDuplicate => "INVALID_PERMISSION_DUPLICATE",
            Self::InvalidGroupDuplicate => "INVALID_GROUP_DUPLICATE",
            Self::RulesPerSecurityGroupLimitExceeded => "RULES_PER_SECURITY_GROUP_LIMIT_EXCEEDED",
            Self::DependencyViolation => "DEPENDENCY_VIOLATION",
            Self::CannotDelete => "CANNOT_DELETE",
            Self::Ec2UnauthorizedOperation => "EC2_UNAUTHORIZED_OPERATION",
            Self::Ec2CredentialsUnavailable => "EC2_CREDENTIALS_UNAVAILABLE",
            Self::Ec2RequestLimitExceeded => "EC2_REQUEST_LIMIT_EXCEEDED",
            Self::Ec2BudgetExhausted => "EC2_BUDGET_EXHAUSTED",
            Self::Ec2Rejected => "EC2_REJECTED",
            Self::Ec2Unavailable => "EC2_UNAVAILABLE",
            Self::OutcomeUnknown | Self::OutcomeUnknownWithKey => "OUTCOME_UNKNOWN",
            Self::IdempotencyKeyReused => "IDEMPOTENCY_KEY_REUSED",
            Self::OperationInProgress => "OPERATION_IN_PROGRESS",
            Self::GroupInDoubt => "GROUP_IN_DOUBT",
            Self::OperationNotFound => "OPERATION_NOT_FOUND",
            Self::OperationSettled => "OPERATION_SETTLED",
            Self::LedgerUnavailable => "LEDGER_UNAVAILABLE",
            Self::CredentialsMissing => "CREDENTIALS_MISSING",
            Self::CredentialsInvalid => "CREDENTIALS_INVALID",
            Self::CredentialsExpired => "CREDENTIALS_EXPIRED",
            Self::CredentialsUnverifiable => "CREDENTIALS_UNVERIFIABLE",
            Self::RateLimited => "RATE_LIMITED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Overloaded => "OVERLOADED",
            Self::Draining => "DRAINING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
            Self::RequestTooLarge => "REQUEST_TOO_LARGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
        }
    }

    /// The gRPC code.
    pub fn code(self) -> Code {
        match self {
            Self::InvalidRequest | Self::TargetNotConfigured => Code::InvalidArgument,
            Self::InvalidGroupNotFound
            | Self::InvalidSecurityGroupRuleIdNotFound
            | Self::InvalidPermissionNotFound
            | Self::OperationNotFound
            | Self::ServiceUnknown => Code::NotFound,
            Self::InvalidPermissionDuplicate | Self::InvalidGroupDuplicate => Code::AlreadyExists,
            Self::RulesPerSecurityGroupLimitExceeded
            | Self::DependencyViolation
            | Self::CannotDelete
            | Self::IdempotencyKeyReused
            | Self::OperationSettled
            | Self::Ec2Rejected => Code::FailedPrecondition,
            Self::OperationInProgress => Code::Aborted,
            Self::AccessDenied | Self::Ec2UnauthorizedOperation => Code::PermissionDenied,
            Self::CredentialsMissing | Self::CredentialsInvalid | Self::CredentialsExpired => {
                Code::Unauthenticated
            }
            Self::Ec2RequestLimitExceeded
            | Self::Ec2BudgetExhausted
            | Self::RateLimited
            | Self::RequestTooLarge => Code::ResourceExhausted,
            Self::Ec2CredentialsUnavailable
            | Self::Ec2Unavailable
            | Self::CredentialsUnverifiable
            | Self::OutcomeUnknownWithKey
            | Self::GroupInDoubt
            | Self::LedgerUnavailable
            | Self::Overloaded
            | Self::Draining => Code::Unavailable,
            // Without a key, that is: with one, the same call again settles it.
            Self::OutcomeUnknown => Code::Unknown,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Unimplemented => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }

    /// Whether the same call, later, may well succeed, so that RetryInfo and pushback go with the refusal. An error that
    /// knows better has its own time.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Ec2RequestLimitExceeded
            | Self::Ec2BudgetExhausted
            | Self::Ec2Unavailable
            | Self::RateLimited
            | Self::OutcomeUnknownWithKey
            | Self::OperationInProgress
            | Self::GroupInDoubt
            | Self::LedgerUnavailable => Some(Duration::from_secs(1)),
            Self::Ec2CredentialsUnavailable | Self::CredentialsUnverifiable => {
                Some(Duration::from_secs(5))
            }
            Self::Overloaded => Some(Duration::from_millis(100)),
            Self::Draining => Some(Duration::from_millis(50)),
            Self::InvalidRequest
            | Self::AccessDenied
            | Self::TargetNotConfigured
            | Self::InvalidGroupNotFound
            | Self::InvalidSecurityGroupRuleIdNotFound
            | Self::InvalidPermissionNotFound
            | Self::InvalidPermissionDuplicate
            | Self::InvalidGroupDuplicate
            | Self::RulesPerSecurityGroupLimitExceeded
            | Self::DependencyViolation
            | Self::CannotDelete
            | Self::Ec2UnauthorizedOperation
            | Self::Ec2Rejected
            | Self::OutcomeUnknown
            | Self::IdempotencyKeyReused
            | Self::OperationNotFound
            | Self::OperationSettled
            | Self::CredentialsMissing
            | Self::CredentialsInvalid
            | Self::CredentialsExpired
            | Self::DeadlineExceeded
            | Self::ServiceUnknown
            | Self::RequestTooLarge
            | Self::Unimplemented
            | Self::Internal => None,
        }
    }

    /// Whether a transport must not send the call again on its own: what it did is not known.
    pub fn never_retry(self) -> bool {
        self == Self::OutcomeUnknown
    }
}

/// A failed call.
#[derive(Debug)]
pub struct Error {
    /// Why.
    pub reason: Reason,
    /// The text that callers see. Not a contract.
    pub message: String,
    /// What EC2 said, where it spoke.
    pub ec2: Option<Box<Ec2Cause>>,
    /// The operation, where one was begun.
    pub operation_id: Option<Arc<str>>,
    /// What the reason brings with it.
    pub detail: Detail,
    /// After how long the same call may well succeed.
    pub retry_after: Option<Duration>,
    /// For the log only.
    pub internal: Option<Box<str>>,
}

/// EC2's part in a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ec2Cause {
    /// EC2's error code.
    pub code: Option<String>,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// What a reason brings with it besides its text.
#[derive(Debug, Default)]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// Every violation of a bad request.
    Violations(Vec<Violation>),
    /// Something that was not found or is in the way: its type and name.
    Resource(Box<(&'static str, String)>),
    /// Permissions or rule ids that were not known.
    Unknown(Box<Unknown>),
    /// The quota that was exceeded: its subject and description.
    Quota(Box<(String, String)>),
}

/// Permissions and rule ids that named no rule, and why. Part of an answer or of an error.
#[derive(Clone, Debug, Default)]
pub struct Unknown {
    /// The security group.
    pub group: String,
    /// The permissions, grouped, as EC2 or we group them.
    pub permissions: Vec<IpPermission>,
    /// The rule ids.
    pub rule_ids: Vec<RuleId>,
    /// One per atomic permission or id.
    pub explanations: Vec<UnknownExplanation>,
}

/// Why one permission or rule id was unknown.
#[derive(Clone, Debug)]
pub struct UnknownExplanation {
    /// What was asked for.
    pub subject: UnknownSubject,
    /// Why; none if the group's rules could not be read.
    pub reason: Option<UnknownReason>,
    /// The closest rules.
    pub nearest: Vec<crate::backend::OwnedRule>,
    /// In plain words.
    pub message: String,
}

/// What an explanation is about.
#[derive(Clone, Debug)]
pub enum UnknownSubject {
    /// A permission with one peer.
    Permission(IpPermission),
    /// A rule id.
    RuleId(RuleId),
}

impl Error {
    /// An error with nothing but its reason and text.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            ec2: None,
            operation_id: None,
            detail: Detail::None,
            retry_after: reason.retry_after(),
            internal: None,
        }
    }

    /// A refusal that waiting cures, and after how long. `quota` is what ran out: its subject and description.
    pub fn exhausted(
        reason: Reason,
        message: impl Into<String>,
        wait: Duration,
        quota: (String, String),
    ) -> Self {
        Self { detail: Detail::Quota(Box::new(quota)), ..Self::later(reason, message, wait) }
    }

    /// A bad request, with everything that is wrong with it.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let message = match violations.as_slice() {
            [one] => format!("{}: {}", one.field, one.message),
            [first, rest @ ..] => format!(
                "{}: {} (and {} more, see the details)",
                first.field,
                first.message,
                rest.len()
            ),
            [] => "the request is invalid".to_owned(),
        };
        Self {
            detail: Detail::Violations(violations),
            ..Self::new(Reason::InvalidRequest, message)
        }
    }

    /// The caller's time is over. `operation_id`: of the change, if it was sent.
    pub fn deadline_passed(operation_id: Option<Arc<str>>) -> Self {
        let message = if operation_id.is_some() {
            "the deadline passed after the change was sent to EC2; it goes on without an answer"
        } else {
            "the deadline passed; nothing was sent"
        };
        Self { operation_id, ..Self::new(Reason::DeadlineExceeded, message) }
    }

    /// A refusal that waiting cures, and after how long.
    pub fn later(reason: Reason, message: impl Into<String>, wait: Duration) -> Self {
        // Rounded up to what the trailer can say: who comes a moment too early is refused again.
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self { retry_after: Some(Duration::from_millis(millis)), ..Self::new(reason, message) }
    }

    /// A fault of ours. The caller learns nothing but the request id.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self {
            internal: Some(detail.into().into_boxed_str()),
            ..Self::new(Reason::Internal, "an internal error; the request id finds it in the log")
        }
    }

    /// What a backend's error means for the caller. `resource` is the group that the call was about.
    pub fn from_backend(error: BackendError, resource: &str) -> Self {
        match error {
            BackendError::Refused(refusal) => Self::from_refusal(refusal, resource),
            BackendError::Unavailable(failure) => Self::from_failure(
                Reason::Ec2Unavailable,
                "EC2 cannot be reached or cannot answer; nothing was changed by this attempt",
                failure,
            ),
            BackendError::CredentialsUnavailable(failure) => Self::from_failure(
                Reason::Ec2CredentialsUnavailable,
                "the server has no valid AWS credentials for this target; nothing was sent",
                failure,
            ),
            BackendError::OutcomeUnknown(failure) => Self::from_failure(
                Reason::OutcomeUnknown,
                "the change was sent to EC2 and no readable answer came: it may or may not have been \
                 made; describe the group before you try again",
                failure,
            ),
            BackendError::DeadlineTooNear => Self::new(
                Reason::DeadlineExceeded,
                "the deadline left no time to call EC2; nothing was sent",
            ),
            BackendError::BudgetExhausted { action, target, wait } => Self::exhausted(
                Reason::Ec2BudgetExhausted,
                format!("{action} in {target} is busy until after the deadline; nothing was sent"),
                wait,
                (format!("ec2:{target}/{action}"), "EC2's request budget".to_owned()),
            ),
            BackendError::TargetNotConfigured { asked } => Self::new(
                Reason::TargetNotConfigured,
                format!("target: this server does not work in {asked}"),
            ),
        }
    }

    fn from_failure(reason: Reason, message: &str, failure: Failure) -> Self {
        Self {
            ec2: Some(Box::new(Ec2Cause { code: failure.code, request_id: failure.request_id })),
            internal: Some(failure.detail.into_boxed_str()),
            ..Self::new(reason, message)
        }
    }

    /// The one table from EC2's error codes to reasons (design.md section 5). A code that is not in it degrades to
    /// EC2_REJECTED and travels in `ec2_code`.
    fn from_refusal(refusal: Refusal, resource: &str) -> Self {
        let named = |group: &str| Detail::Resource(Box::new(("ec2:security-group", group.into())));
        let group = || named(resource);
        let (reason, detail) = match refusal.code.as_str() {
            "InvalidGroup.NotFound" | "InvalidSecurityGroupID.NotFound" => {
                // It may be a peer that is not there.
                let absent = missing_group(&refusal.message).unwrap_or(resource);
                (Reason::InvalidGroupNotFound, named(absent))
            }
            "InvalidSecurityGroupRuleId.NotFound" => {
                (Reason::InvalidSecurityGroupRuleIdNotFound, group())
            }
            "InvalidPermission.NotFound" => (Reason::InvalidPermissionNotFound, group()),
            "InvalidPermission.Duplicate" => (Reason::InvalidPermissionDuplicate, group()),
            "InvalidGroup.Duplicate" => (Reason::InvalidGroupDuplicate, group()),
            "RulesPerSecurityGroupLimitExceeded" => (
                Reason::RulesPerSecurityGroupLimitExceeded,
                Detail::Quota(Box::new((
                    format!("ec2:security-group/{resource}"),
                    refusal.message.clone(),
                ))),
            ),
            "DependencyViolation" | "InvalidGroup.InUse" => (Reason::DependencyViolation, group()),
            "CannotDelete" => (Reason::CannotDelete, group()),
            "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
                (Reason::Ec2UnauthorizedOperation, Detail::None)
            }
            "AuthFailure"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "MissingAuthenticationToken"
            | "IncompleteSignature"
            | "OptInRequired" => (Reason::Ec2CredentialsUnavailable, Detail::None),
            "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException" => (
                Reason::Ec2RequestLimitExceeded,
                Detail::Quota(Box::new(("ec2".to_owned(), refusal.message.clone()))),
            ),
            "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable"
            | "ServerInternal" => (Reason::Ec2Unavailable, Detail::None),
            code => match request_field(code, &refusal.message) {
                Some(violation) => (Reason::InvalidRequest, Detail::Violations(vec![violation])),
                None => (Reason::Ec2Rejected, Detail::None),
            },
        };
        let message = match reason {
            // EC2 speaks of credentials that are ours: its text is for the log.
            Reason::Ec2CredentialsUnavailable => {
                "the server's AWS credentials were refused by EC2; nothing was changed".to_owned()
            }
            Reason::Ec2UnauthorizedOperation => {
                "EC2 does not permit the server's role to do this; nothing was changed".to_owned()
            }
            _ => refusal.message.clone(),
        };
        Self {
            ec2: Some(Box::new(Ec2Cause {
                code: Some(refusal.code),
                request_id: refusal.request_id,
            })),
            detail,
            internal: Some(refusal.message.into_boxed_str()),
            ..Self::new(reason, message)
        }
    }
}

/// The group that EC2 did not find, where its sentence says which.
fn missing_group(message: &str) -> Option<&str> {
    message.strip_prefix("The security group '")?.split_once('\'').map(|(group, _)| group)
}

/// EC2's codes for what is wrong with a request, that only EC2 could find. They are bad requests like those that we
/// find ourselves.
fn request_field(code: &str, message: &str) -> Option<Violation> {
    let (code, field) = match code {
        "InvalidParameterValue" => ("InvalidParameterValue", ""),
        "InvalidParameterCombination" => ("InvalidParameterCombination", ""),
        "MissingParameter" => ("MissingParameter", ""),
        "UnknownParameter" => ("UnknownParameter", ""),
        "InvalidGroupId.Malformed" => ("InvalidGroupId.Malformed", "group_id"),
        "InvalidSecurityGroupId.Malformed" => ("InvalidSecurityGroupId.Malformed", "group_id"),
        "InvalidSecurityGroupRuleId.Malformed" => {
            ("InvalidSecurityGroupRuleId.Malformed", "security_group_rule_ids")
        }
        "InvalidPermission.Malformed" => ("InvalidPermission.Malformed", "ip_permissions"),
        "InvalidPrefixListId.Malformed" => ("InvalidPrefixListId.Malformed", "ip_permissions"),
        "InvalidGroup.Reserved" => ("InvalidGroup.Reserved", "group_name"),
        "InvalidMaxResults" => ("InvalidMaxResults", "max_results"),
        "InvalidNextToken" => ("InvalidNextToken", "next_token"),
        "InvalidPaginationToken" => ("InvalidPaginationToken", "next_token"),
        "InvalidFilter" => ("InvalidFilter", "filters"),
        "FilterLimitExceeded" => ("FilterLimitExceeded", "filters"),
        _ => return None,
    };
    Some(Violation::new(field, code, message))
}

/// EC2's code in upper snake case: `InvalidGroupId.Malformed` is `INVALID_GROUP_ID_MALFORMED`.
pub fn upper_snake(code: &str) -> String {
    let letters: Vec<char> = code.chars().collect();
    let mut snake = String::with_capacity(code.len() + 8);
    for (index, &letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| letters.get(index));
        let after = letters.get(index + 1);
        let word_starts = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    || (before.is_ascii_uppercase() && after.is_some_and(char::is_ascii_lowercase))
            });
        if word_starts {
            snake.push('_');
        }
        snake.push(if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' });
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_in_upper_snake_case() {
        let cases = [
            ("InvalidGroupId.Malformed", "INVALID_GROUP_ID_MALFORMED"),
            ("InvalidSecurityGroupRuleId.NotFound", "INVALID_SECURITY_GROUP_RULE_ID_NOT_FOUND"),
            ("InvalidVpcID.NotFound", "INVALID_VPC_ID_NOT_FOUND"),
            ("VPCIdNotSpecified", "VPC_ID_NOT_SPECIFIED"),
            ("MissingParameter", "MISSING_PARAMETER"),
        ];
        for (code, snake) in cases {
            assert_eq!(upper_snake(code), snake);
        }
    }

    #[test]
    fn an_unknown_code_is_a_rejection_that_names_it() {
        let refusal = Refusal::new("SomethingNew", "no");
        let error = Error::from_backend(refusal.into(), "sg-1");
        assert_eq!(error.reason, Reason::Ec2Rejected);
        assert_eq!(error.ec2.unwrap().code.unwrap(), "SomethingNew");
    }

    #[test]
    fn our_credentials_are_never_the_callers() {
        for code in ["AuthFailure", "ExpiredToken", "RequestExpired"] {
            let error = Error::from_backend(Refusal::new(code, "secret text").into(), "sg-1");
            assert_eq!(error.reason.code(), Code::Unavailable);
            assert!(!error.message.contains("secret"));
        }
    }
}
