//! Calls by name with protobuf JSON, as grpcurl makes them, and answers as they read.

use portcullis::{
    api::proto::v1::{self, security_group_service_client::SecurityGroupServiceClient},
    error::upper_snake,
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tonic::{Status, transport::Channel};
use tonic_types::{StatusExt, pb};

/// A connection to the service.
#[derive(Clone)]
pub struct Client(SecurityGroupServiceClient<Channel>);

/// What a call was refused with.
#[derive(Clone, Debug)]
pub struct Refused {
    /// EC2's code in upper snake case; several violations may have several.
    pub codes: Vec<String>,
    pub message: String,
    /// The service refused it: it never got as far as EC2.
    pub by_service: bool,
    pub throttled: bool,
}

/// What a call was answered: JSON with EC2's names, or a refusal.
pub type Answer = Result<Value, Refused>;

macro_rules! rpcs {
    ($($name:literal $method:ident $request:ident,)*) => {
        impl Client {
            /// One call. The body must be of the contract, whether or not the service will like it.
            pub async fn call(&self, rpc: &str, body: &str) -> Answer {
                let mut client = self.0.clone();
                match rpc {
                    $($name => {
                        let request: v1::$request = parse(rpc, body);
                        answer(client.$method(request).await)
                    })*
                    _ => panic!("no RPC {rpc}: add it to this table"),
                }
            }
        }
    };
}

rpcs! {
    "RevokeEgress" revoke_egress RevokeEgressRequest,
    "AuthorizeEgress" authorize_egress AuthorizeEgressRequest,
    "RevokeIngress" revoke_ingress RevokeIngressRequest,
    "AuthorizeIngress" authorize_ingress AuthorizeIngressRequest,
    "DescribeSecurityGroupRules" describe_security_group_rules DescribeSecurityGroupRulesRequest,
    "DescribeSecurityGroups" describe_security_groups DescribeSecurityGroupsRequest,
    "CreateSecurityGroup" create_security_group CreateSecurityGroupRequest,
    "DeleteSecurityGroup" delete_security_group DeleteSecurityGroupRequest,
}

impl Client {
    pub async fn connect(address: &str) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap_or_else(|error| panic!("{address}: {error}"));
        Self(SecurityGroupServiceClient::new(channel))
    }
}

/// The request, having checked that nothing of the body was dropped: a misspelt member would prove nothing.
fn parse<T: DeserializeOwned + Serialize>(rpc: &str, body: &str) -> T {
    let asked: Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{rpc} {body}: {error}"));
    let request: T = serde_json::from_value(asked.clone())
        .unwrap_or_else(|error| panic!("{rpc} {body}: {error}"));
    let read = serde_json::to_value(&request).unwrap();
    if let Some(member) = dropped(&asked, &read) {
        panic!("{rpc} has no member {member}: {body}");
    }
    request
}

/// The first member that one has and the other lacks. Default values are not printed, and lack nothing.
fn dropped(asked: &Value, read: &Value) -> Option<String> {
    match (asked, read) {
        (Value::Object(asked), Value::Object(read)) => asked.iter().find_map(|(name, value)| {
            let blank =
                matches!(value, Value::Bool(false)) || value == "" || value.as_i64() == Some(0);
            let blank = blank || value.as_array().is_some_and(Vec::is_empty);
            match read.get(name) {
                Some(read) => dropped(value, read),
                None if blank => None,
                None => Some(name.clone()),
            }
        }),
        (Value::Array(asked), Value::Array(read)) => {
            asked.iter().zip(read).find_map(|(asked, read)| dropped(asked, read))
        }
        _ => None,
    }
}

fn answer<T: Serialize>(answer: Result<tonic::Response<T>, Status>) -> Answer {
    match answer {
        Ok(answer) => {
            let answer = serde_json::to_value(answer.into_inner()).unwrap();
            // An OK status here, EC2's own error there: see docs/conformance.md.
            if answer["DryRun"] == true {
                return Err(Refused {
                    codes: vec![upper_snake("DryRunOperation")],
                    message: String::new(),
                    by_service: false,
                    throttled: false,
                });
            }
            Ok(answer)
        }
        Err(status) => Err(refused(&status)),
    }
}

fn refused(status: &Status) -> Refused {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else { panic!("no ErrorInfo: {status:?}") };
    let ec2 = info.metadata.get("ec2_code").map(|code| upper_snake(code));
    let by_service = ec2.is_none() && info.reason != "OUTCOME_UNKNOWN";
    let codes = match ec2 {
        Some(code) => vec![code],
        None => violations(status).unwrap_or_else(|| vec![info.reason.clone()]),
    };
    let throttled = info.reason == "EC2_REQUEST_LIMIT_EXCEEDED";
    Refused { codes, message: status.message().to_owned(), by_service, throttled }
}

/// The violations' codes; tonic-types' own type leaves the newer `reason` out, so they are read from the bytes.
fn violations(status: &Status) -> Option<Vec<String>> {
    let status = pb::Status::decode(status.details()).ok()?;
    let detail = status.details.iter().find(|any| any.type_url.ends_with("google.rpc.BadRequest"));
    let request = pb::BadRequest::decode(detail?.value.as_slice()).ok()?;
    let mut codes: Vec<String> =
        request.field_violations.into_iter().map(|violation| violation.reason).collect();
    codes.sort();
    codes.dedup();
    Some(codes)
}
