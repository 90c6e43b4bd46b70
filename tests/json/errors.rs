//! docs/errors.md against the code: each reason has its row, and each row's code, details and advice are the code's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portcullis::{
    api::status,
    backend::{BackendError, Failure, Refusal},
    error::{Detail, Error, Reason, upper_snake},
    rule::{AccountId, Region, Target, Violation},
};
use prost::Message as _;
use tonic_types::pb;

use crate::compare;

/// All reasons: the test holds this list against the enum.
const ALL: &[Reason] = &[
    Reason::InvalidRequest,
    Reason::AccessDenied,
    Reason::TargetNotConfigured,
    Reason::InvalidGroupNotFound,
    Reason::InvalidSecurityGroupRuleIdNotFound,
    Reason::InvalidPermissionNotFound,
    Reason::InvalidPermissionDuplicate,
    Reason::InvalidGroupDuplicate,
    Reason::RulesPerSecurityGroupLimitExceeded,
    Reason::DependencyViolation,
    Reason::CannotDelete,
    Reason::Ec2UnauthorizedOperation,
    Reason::Ec2CredentialsUnavailable,
    Reason::Ec2RequestLimitExceeded,
    Reason::Ec2BudgetExhausted,
    Reason::Ec2Rejected,
    Reason::Ec2Unavailable,
    Reason::OutcomeUnknown,
    Reason::OutcomeUnknownWithKey,
    Reason::IdempotencyKeyReused,
    Reason::OperationInProgress,
    Reason::GroupInDoubt,
    Reason::OperationNotFound,
    Reason::OperationSettled,
    Reason::LedgerUnavailable,
    Reason::CredentialsMissing,
    Reason::CredentialsInvalid,
    Reason::CredentialsExpired,
    Reason::CredentialsUnverifiable,
    Reason::RateLimited,
    Reason::DeadlineExceeded,
    Reason::Overloaded,
    Reason::Draining,
    Reason::ServiceUnknown,
    Reason::RequestTooLarge,
    Reason::Unimplemented,
    Reason::Internal,
];

/// What EC2's codes become. One for each reason is enough: the table from the one to the other has its own tests.
const REFUSALS: &[&str] = &[
    "InvalidGroup.NotFound",
    "InvalidSecurityGroupRuleId.NotFound",
    "InvalidPermission.NotFound",
    "InvalidPermission.Duplicate",
    "InvalidGroup.Duplicate",
    "RulesPerSecurityGroupLimitExceeded",
    "DependencyViolation",
    "CannotDelete",
    "UnauthorizedOperation",
    "AuthFailure",
    "RequestLimitExceeded",
    "InternalError",
    "InvalidParameterValue",
    "VpcLimitExceeded",
];

/// Everything that the code can say, with all that it says it with.
fn errors() -> Vec<Error> {
    let mut errors: Vec<Error> = ALL.iter().map(|reason| Error::new(*reason, "no")).collect();
    let target = Target { account: AccountId::new("123456789012"), region: Region::new("x") };
    let refusals = REFUSALS.iter().map(|code| Refusal::new(*code, "no").into());
    let of_backend = refusals.chain([
        BackendError::Unavailable(Failure::new("no")),
        BackendError::CredentialsUnavailable(Failure::new("no")),
        BackendError::OutcomeUnknown(Failure::new("no")),
        BackendError::DeadlineTooNear,
        BackendError::BudgetExhausted { action: "X", target, wait: Duration::from_secs(1) },
        BackendError::TargetNotConfigured { asked: "x".to_owned() },
    ]);
    errors.extend(of_backend.map(|error| Error::from_backend(error, "sg-1")));
    errors.push(Error::invalid(vec![Violation::new("group_id", "MissingParameter", "no")]));
    errors.push(Error::deadline_passed(Some("op-1".into())));
    let quota = ("alice".to_owned(), "calls".to_owned());
    errors.push(Error::exhausted(Reason::RateLimited, "no", Duration::from_secs(1), quota));
    for reason in [Reason::InvalidPermissionNotFound, Reason::InvalidSecurityGroupRuleIdNotFound] {
        let detail = Detail::Unknown(Box::default());
        errors.push(Error { detail, ..Error::new(reason, "no") });
    }
    errors
}

/// What errors of one reason can be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    codes: BTreeSet<String>,
    /// The details, without those that each error has.
    details: BTreeSet<String>,
    /// What RetryInfo and the pushback say of the same call again.
    delay: bool,
    never: bool,
}

/// What the code says.
fn given() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::<String, Row>::new();
    for error in errors() {
        let row = rows.entry(error.reason.as_str().to_owned()).or_default();
        let code = upper_snake(&format!("{:?}", error.reason.code()));
        let sent = status::encode(error, "request");
        assert_eq!(upper_snake(&format!("{:?}", sent.code())), code);
        row.codes.insert(code);
        let whole = pb::Status::decode(sent.details()).unwrap();
        let kinds = whole.details.iter().map(|one| one.type_url.rsplit(['.', '/']).next().unwrap());
        let kinds: BTreeSet<String> = kinds.map(str::to_owned).collect();
        let pushback = sent.metadata().get("grpc-retry-pushback-ms").map(|ms| ms.to_str().unwrap());
        row.delay |= kinds.contains("RetryInfo");
        row.never |= pushback == Some("-1");
        let always = |kind: &&String| !["ErrorInfo", "RequestInfo"].contains(&kind.as_str());
        row.details.extend(kinds.iter().filter(always).cloned());
    }
    rows
}

/// Those of `words` that a text has, as whole words.
fn named<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let of_text: BTreeSet<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    words.filter(|word| of_text.contains(word)).map(str::to_owned).collect()
}

/// What the document says.
fn told() -> BTreeMap<String, Row> {
    let docs = std::fs::read_to_string(compare::path("docs/errors.md")).unwrap();
    let codes: Vec<String> =
        (1..=16).map(|code| upper_snake(&format!("{:?}", tonic::Code::from(code)))).collect();
    let kinds =
        ["BadRequest", "QuotaFailure", "ResourceInfo", "RetryInfo", "UnknownPermissionsDetail"];
    let mut rows = BTreeMap::new();
    for line in docs.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[_, reason, code, details, again, _, _] = cells.as_slice() else {
            panic!("not a row: {line}")
        };
        let row = Row {
            codes: named(code, codes.iter().map(String::as_str)),
            details: named(details, kinds.into_iter()),
            delay: again.starts_with("after the delay"),
            never: details.contains("pushback -1"),
        };
        assert!(rows.insert(reason.to_owned(), row).is_none(), "{reason} has two rows");
    }
    rows
}

#[test]
fn docs_errors_is_what_the_code_says() {
    let source = std::fs::read_to_string(compare::path("src/error.rs")).unwrap();
    let (_, variants) = source.split_once("pub enum Reason {").unwrap();
    let (variants, _) = variants.split_once('}').unwrap();
    let variants: BTreeSet<String> =
        variants.split(',').map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect();
    let listed: BTreeSet<String> = ALL.iter().map(|reason| format!("{reason:?}")).collect();
    assert_eq!(listed, variants, "a reason of src/error.rs is not in the list of this test");
    let (given, told) = (given(), told());
    let names = |rows: &BTreeMap<String, Row>| rows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&told), names(&given));
    for (reason, row) in &given {
        assert_eq!(told[reason], *row, "docs/errors.md says something else of {reason}");
    }
}

/// A call whose outcome is not known has a record; the rest is of no change.
#[test]
fn what_refuses_a_change_without_a_record_has_its_line_in_the_audit_stream() {
    use portcullis::telemetry::audit::Kind;
    for reason in ALL {
        let none = matches!(
            reason,
            Reason::OutcomeUnknown | Reason::OutcomeUnknownWithKey | Reason::ServiceUnknown
        );
        assert_eq!(Kind::of(reason.as_str()).is_none(), none, "{}", reason.as_str());
    }
}
