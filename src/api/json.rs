//! The contract as JSON, for curl: requests, answers and errors by the descriptors that reflection serves, in the form of
//! Connect's unary protocol (<https://connectrpc.com/docs/protocol>). Names are the contract's `json_name`s, AWS's own.
//!
//! Only bytes and texts here; `middleware/json.rs` puts them into calls.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use serde_json::{Map, Value};
use tonic::{Code, Status};
use tonic_types::pb;

use super::proto::FILE_DESCRIPTOR_SET;
use crate::{
    error::{Error, Reason},
    rule::Violation,
};

mod read;

/// What can be called, and what errors carry.
#[derive(Clone, Debug, Default)]
pub struct Contract(DescriptorPool);

/// A unary method, whose messages are known.
#[derive(Clone, Debug)]
pub struct Method(MethodDescriptor);

/// Why a call is refused whatever its body holds. It travels with the request to the innermost layer, which answers it:
/// who may not call at all is told that first, and the refusal is counted as any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// There is no such method for JSON, or no such encoding of its body.
    Unimplemented(&'static str),
    /// A header, and what is wrong with it.
    Header(&'static str, &'static str),
}

/// What is wrong with the body: the source of the status with which reading it fails.
#[derive(Debug)]
pub struct Unreadable(pub Vec<Violation>);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the JSON is not a request of this method")
    }
}

impl std::error::Error for Unreadable {}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Unimplemented(text) => Self::new(Reason::Unimplemented, text),
            Unfit::Header(name, text) => Self::invalid(vec![Violation::new(
                format!("metadata.{name}"),
                "InvalidParameterValue",
                text,
            )]),
        }
    }
}

// === impl Contract ===

impl Contract {
    /// Reads the descriptors that are compiled in.
    pub fn read() -> Result<Self, String> {
        let mut pool = DescriptorPool::new();
        for set in [
            FILE_DESCRIPTOR_SET,
            tonic_types::pb::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            let set = prost_types::FileDescriptorSet::decode(set).map_err(|e| e.to_string())?;
            // Several bring the same files of google.protobuf.
            let new =
                set.file.into_iter().filter(|file| pool.get_file_by_name(file.name()).is_none());
            let new: Vec<_> = new.collect();
            pool.add_file_descriptor_protos(new).map_err(|e| e.to_string())?;
        }
        Ok(Self(pool))
    }

    /// The method at a path such as `/portcullis.v1.SecurityGroupService/RevokeEgress`.
    pub fn method(&self, path: &str) -> Result<Method, Unfit> {
        let mut parts = path.trim_start_matches('/').split('/');
        let found = match (parts.next(), parts.next(), parts.next()) {
            (Some(service), Some(method), None) => self
                .0
                .get_service_by_name(service)
                .and_then(|service| service.methods().find(|known| known.name() == method)),
            _ => None,
        };
        match found {
            None => Err(Unfit::Unimplemented("this server has no such method")),
            Some(found) if found.is_client_streaming() || found.is_server_streaming() => {
                Err(Unfit::Unimplemented("this method streams: call it with gRPC, not with JSON"))
            }
            Some(found) => Ok(Method(found)),
        }
    }

    /// An error as Connect has it. `debug` is the detail in words; programs decode `value`.
    pub fn error(&self, status: &Status) -> Vec<u8> {
        let mut error = Map::new();
        error.insert("code".to_owned(), code_name(status.code()).into());
        if !status.message().is_empty() {
            error.insert("message".to_owned(), status.message().into());
        }
        let details = pb::Status::decode(status.details()).unwrap_or_default().details;
        if !details.is_empty() {
            let details = details.iter().map(|detail| self.detail(detail)).collect();
            error.insert("details".to_owned(), details);
        }
        line(Value::Object(error).to_string().into_bytes())
    }

    fn detail(&self, detail: &prost_types::Any) -> Value {
        let name = detail.type_url.rsplit('/').next().unwrap_or_default();
        let value = STANDARD_NO_PAD.encode(&detail.value);
        let mut shown =
            Map::from_iter([("type".to_owned(), name.into()), ("value".to_owned(), value.into())]);
        let message = self.0.get_message_by_name(name);
        let message =
            message.and_then(|known| DynamicMessage::decode(known, detail.value.as_slice()).ok());
        if let Some(debug) = message.and_then(|message| serde_json::to_value(&message).ok()) {
            shown.insert("debug".to_owned(), debug);
        }
        Value::Object(shown)
    }
}

// === impl Method ===

impl Method {
    /// The request that JSON says, encoded; or everything that is wrong with it.
    pub fn request(&self, body: &[u8]) -> Result<Vec<u8>, Unreadable> {
        read::message(&self.0.input(), body).map(|read| read.encode_to_vec()).map_err(Unreadable)
    }

    /// An answer as JSON.
    pub fn answer(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let decoded =
            DynamicMessage::decode(self.0.output(), message).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity(2 * message.len());
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        decoded
            .serialize_with_options(&mut serializer, &SerializeOptions::new())
            .map_err(|error| error.to_string())?;
        Ok(line(bytes))
    }
}

/// Ends with a line break, for terminals.
fn line(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    text
}

/// Connect's names of the codes.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "canceled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The HTTP status that Connect gives a code.
pub fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unauthenticated => 401,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_fit_together() {
        let contract = Contract::read().unwrap();
        for (service, name) in super::super::methods::all().unwrap() {
            let method = contract.method(&format!("/{service}/{name}"));
            let streams = service.starts_with("grpc.reflection.") || name == "Watch";
            assert_eq!(method.is_err(), streams, "{service}/{name}: {method:?}");
        }
        for path in ["", "/", "/portcullis.v1.SecurityGroupService", "/a/b", "/a/b/c"] {
            let refused = contract.method(path).unwrap_err();
            assert_eq!(refused, Unfit::Unimplemented("this server has no such method"), "{path}");
        }
        for name in ["google.rpc.ErrorInfo", "portcullis.v1.UnknownPermissionsDetail"] {
            assert!(contract.0.get_message_by_name(name).is_some(), "{name}");
        }
    }
}
