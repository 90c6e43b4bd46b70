//! Answers as the ledger holds them, and back: encoded once, so that a replay is the same answer byte for byte.

use prost::Message;
use tonic::{
    Response, Status,
    metadata::{MetadataMap, MetadataValue},
};

use super::{encode, proto::v1, status};
use crate::{
    error::Error,
    ledger::Recorded,
    operations::{Answered, Outcome, Scribe, Warning, WarningKind},
};

/// The metadata of an answer that is a recorded one.
const REPLAYED: &str = "idempotency-replayed";

/// Writes in the contract's messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProtoScribe;

impl Scribe for ProtoScribe {
    fn record(&self, method: &str, operation_id: &str, result: Result<Outcome, Error>) -> Recorded {
        let written = result.and_then(|outcome| write(method, operation_id, outcome));
        match written {
            Ok(body) => Recorded { code: 0, message: String::new(), body },
            Err(error) => status::record(error),
        }
    }
}

fn write(method: &str, id: &str, outcome: Outcome) -> Result<Vec<u8>, Error> {
    Ok(match method {
        method::REVOKE_EGRESS => encode::revoke_egress(outcome, id)?.encode_to_vec(),
        method::REVOKE_INGRESS => encode::revoke_ingress(outcome, id)?.encode_to_vec(),
        method::AUTHORIZE_EGRESS => encode::authorize_egress(outcome, id)?.encode_to_vec(),
        method::AUTHORIZE_INGRESS => encode::authorize_ingress(outcome, id)?.encode_to_vec(),
        method::CREATE => encode::created(outcome, id)?.encode_to_vec(),
        method::DELETE => encode::deleted(outcome, id)?.encode_to_vec(),
        other => return Err(Error::internal(format!("{other} has no recorded answer"))),
    })
}

/// The RPCs, as records name them.
#[allow(missing_docs, reason = "the contract's names")]
pub mod method {
    pub const REVOKE_EGRESS: &str = "portcullis.v1.SecurityGroupService/RevokeEgress";
    pub const REVOKE_INGRESS: &str = "portcullis.v1.SecurityGroupService/RevokeIngress";
    pub const AUTHORIZE_EGRESS: &str = "portcullis.v1.SecurityGroupService/AuthorizeEgress";
    pub const AUTHORIZE_INGRESS: &str = "portcullis.v1.SecurityGroupService/AuthorizeIngress";
    pub const CREATE: &str = "portcullis.v1.SecurityGroupService/CreateSecurityGroup";
    pub const DELETE: &str = "portcullis.v1.SecurityGroupService/DeleteSecurityGroup";
    pub const DESCRIBE_GROUPS: &str = "portcullis.v1.SecurityGroupService/DescribeSecurityGroups";
    pub const DESCRIBE_RULES: &str =
        "portcullis.v1.SecurityGroupService/DescribeSecurityGroupRules";
}

/// A response that can carry what is not recorded.
pub trait Attach: Message + Default {
    /// Adds the result of reading back, and a warning.
    fn attach(&mut self, verification: Option<v1::Verification>, warning: Option<v1::Warning>);
}

macro_rules! attach {
    ($($revoked:ident)*; $($changed:ident)*; $($other:ident)*) => {
        $(impl Attach for v1::$revoked {
            fn attach(&mut self, verification: Option<v1::Verification>, warning: Option<v1::Warning>) {
                self.verification = verification;
                self.warnings.extend(warning);
            }
        })*
        $(impl Attach for v1::$changed {
            fn attach(&mut self, _: Option<v1::Verification>, warning: Option<v1::Warning>) {
                self.warnings.extend(warning);
            }
        })*
        $(impl Attach for v1::$other {
            fn attach(&mut self, _: Option<v1::Verification>, _: Option<v1::Warning>) {}
        })*
    };
}

attach!(
    RevokeEgressResponse RevokeIngressResponse;
    AuthorizeEgressResponse AuthorizeIngressResponse CreateSecurityGroupResponse DeleteSecurityGroupResponse;
    DescribeSecurityGroupsResponse DescribeSecurityGroupRulesResponse
);

/// A recorded answer as this call gets it.
pub fn answer<R: Attach>(answered: Answered, request_id: &str) -> Result<Response<R>, Status> {
    let Answered { operation_id, recorded, replayed, lags, verification } = answered;
    let mark = |metadata: &mut MetadataMap| {
        if replayed {
            metadata.insert(REPLAYED, MetadataValue::from_static("true"));
        }
    };
    if recorded.code != 0 {
        let mut status = status::replay(&recorded, request_id);
        mark(status.metadata_mut());
        return Err(status);
    }
    let mut message = R::decode(recorded.body.as_slice()).map_err(|error| {
        let error =
            Error::internal(format!("the record of {operation_id} cannot be read: {error}"));
        status::encode(error, request_id)
    })?;
    let warning = lags.then(|| Warning {
        kind: WarningKind::LedgerLags,
        message: "The change is made; the ledger could not write that down yet.".to_owned(),
        rule_id: None,
    });
    message.attach(verification.as_ref().map(encode::verification), warning.map(encode::warning));
    let mut response = Response::new(message);
    mark(response.metadata_mut());
    Ok(response)
}
