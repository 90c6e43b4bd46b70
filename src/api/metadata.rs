//! What a change may carry beside its request: the caller's key, its reason, and the trace that it is part of.

use percent_encoding::percent_decode;
use tonic::metadata::MetadataMap;

use crate::{ledger::Key, rule::Violation};

/// The longest reason, decoded, in bytes.
const MAX_REASON: usize = 512;

const INVALID_VALUE: &str = "InvalidParameterValue";

/// What a call's metadata says of its change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `idempotency-key`.
    pub key: Option<Key>,
    /// `change-reason`, decoded.
    pub change_reason: Option<String>,
    /// The trace id of `traceparent`.
    pub trace_id: Option<String>,
}

impl Given {
    /// Reads it, or says everything that is wrong with it. A traceparent that is no traceparent is none, as its standard
    /// wants it.
    pub fn read(metadata: &MetadataMap) -> Result<Self, Vec<Violation>> {
        let mut wrong = Vec::new();
        let key = one(metadata, "idempotency-key", &mut wrong).and_then(|text| {
            let key = std::str::from_utf8(text).ok().and_then(Key::parse);
            if key.is_none() {
                let message = "Expecting 1 to 255 visible ASCII characters.";
                wrong.push(Violation::new("metadata.idempotency-key", INVALID_VALUE, message));
            }
            key
        });
        let change_reason = one(metadata, "change-reason", &mut wrong).and_then(|text| {
            let decoded = percent_decode(text).decode_utf8().ok().map(String::from);
            let reason = decoded.filter(|reason| {
                (1..=MAX_REASON).contains(&reason.len()) && !reason.chars().any(char::is_control)
            });
            if reason.is_none() {
                let message =
                    "Expecting percent-encoded UTF-8 of 1 to 512 bytes without control characters.";
                wrong.push(Violation::new("metadata.change-reason", INVALID_VALUE, message));
            }
            reason
        });
        let trace_id = metadata.get("traceparent").and_then(|value| trace_id(value.to_str().ok()?));
        if wrong.is_empty() { Ok(Self { key, change_reason, trace_id }) } else { Err(wrong) }
    }
}

/// The one value of a key.
fn one<'a>(
    metadata: &'a MetadataMap,
    name: &'static str,
    wrong: &mut Vec<Violation>,
) -> Option<&'a [u8]> {
    let mut values = metadata.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        let message = "It may be given once.";
        wrong.push(Violation::new(format!("metadata.{name}"), INVALID_VALUE, message));
        return None;
    }
    Some(first.as_encoded_bytes())
}

/// `00-<trace id>-<parent id>-<flags>`, as W3C Trace Context has it.
fn trace_id(traceparent: &str) -> Option<String> {
    let mut parts = traceparent.split('-');
    let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let sound = hex(version, 2) && version != "ff" && hex(id, 32) && hex(parent, 16);
    let is_set = id.bytes().any(|byte| byte != b'0');
    (sound && is_set).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Result<Given, Vec<String>> {
        let mut metadata = MetadataMap::new();
        for (name, value) in pairs {
            metadata.append(*name, MetadataValue::try_from(*value).unwrap());
        }
        Given::read(&metadata)
            .map_err(|wrong| wrong.into_iter().map(|violation| violation.field).collect())
    }

    #[test]
    fn what_is_given_is_read() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let given = read(&[
            ("idempotency-key", "a/b~!"),
            ("change-reason", "CHG-1:%20f%C3%BCr%20%F0%9F%94%A5 ok"),
            ("traceparent", parent),
        ])
        .unwrap();
        assert_eq!(given.key.unwrap().as_str(), "a/b~!");
        assert_eq!(given.change_reason.as_deref(), Some("CHG-1: für 🔥 ok"));
        assert_eq!(given.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(read(&[]), Ok(Given::default()));
        assert_eq!(read(&[("traceparent", "00-0-0-0")]), Ok(Given::default()));
    }

    #[test]
    fn what_is_wrong_is_named_all_at_once() {
        let (long, many) = ("k".repeat(256), "x".repeat(513));
        for (key, reason) in [("", "%ff"), ("a b", "%0A"), (&long, &many), ("a b", "")] {
            let wrong = read(&[("idempotency-key", key), ("change-reason", reason)]);
            let fields = ["metadata.idempotency-key", "metadata.change-reason"];
            assert_eq!(wrong.unwrap_err(), fields, "{key} {reason}");
        }
        let twice = read(&[("idempotency-key", "a"), ("idempotency-key", "a")]);
        assert_eq!(twice.unwrap_err(), ["metadata.idempotency-key"]);
    }
}
