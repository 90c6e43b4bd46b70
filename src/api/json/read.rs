//! A message out of JSON, or everything that is wrong with it, each with its path: a guard or a misspelled port must not
//! get lost. Memory is bounded before anything is built, and so is the list of complaints.

use std::{collections::BTreeSet, fmt};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde::{
    Deserialize,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::{config::nearest, rule::Violation};

/// The most commas and opening brackets, which bound the values: each takes one byte in the text and fifty in memory. A
/// thousand rules with all that may be said of them have twenty thousand.
const MAX_VALUES: usize = 60_000;

/// More complaints than this help nobody.
const MAX_COMPLAINTS: usize = 100;

/// The longest name that is compared with others, or repeated.
const MAX_NAME: usize = 64;

const BAD_REQUEST: &str = "InvalidRequest";
const BAD_VALUE: &str = "InvalidParameterValue";

/// JSON with every member of its objects, also those given twice.
#[derive(Debug, PartialEq)]
enum Tree {
    Scalar(Value),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

struct Reader {
    wrong: Vec<Violation>,
}

/// Reads a message. No bytes at all are the message without fields.
pub fn message(message: &MessageDescriptor, body: &[u8]) -> Result<DynamicMessage, Vec<Violation>> {
    let refused = |text: String| vec![Violation::new("request", BAD_REQUEST, text)];
    if body.is_empty() {
        return Ok(DynamicMessage::new(message.clone()));
    }
    if values(body) > MAX_VALUES {
        return Err(refused(format!("the JSON has more than {MAX_VALUES} values in it")));
    }
    let tree: Tree =
        serde_json::from_slice(body).map_err(|error| refused(format!("not JSON: {error}")))?;
    let mut reader = Reader { wrong: Vec::new() };
    let read = reader.message(message, tree, "");
    if reader.wrong.is_empty() { Ok(read) } else { Err(reader.wrong) }
}

/// How many values there can be, without reading them.
fn values(text: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

// === impl Reader ===

impl Reader {
    fn complain(&mut self, path: &str, code: &'static str, text: impl Into<String>) {
        let path = if path.is_empty() { "request" } else { path };
        if self.wrong.len() < MAX_COMPLAINTS {
            self.wrong.push(Violation::new(path, code, text));
        }
    }

    fn message(&mut self, message: &MessageDescriptor, tree: Tree, path: &str) -> DynamicMessage {
        let mut read = DynamicMessage::new(message.clone());
        let Tree::Object(members) = tree else {
            let text = format!("expected an object, but found {}", tree.kind());
            self.complain(path, BAD_VALUE, text);
            return read;
        };
        let mut seen = BTreeSet::new();
        for (key, value) in members {
            let by_json_name = message.get_field_by_json_name(&key);
            let Some(field) = by_json_name.or_else(|| message.get_field_by_name(&key)) else {
                let text = format!("there is no such field{}", suggestion(&key, message));
                self.complain(&join(path, cut(&key)), "UnknownParameter", text);
                continue;
            };
            let path = join(path, field.name());
            if !seen.insert(field.number()) {
                self.complain(&path, BAD_VALUE, "it is given twice");
                continue;
            }
            // As in protobuf JSON: null is not given.
            if value == Tree::Scalar(Value::Null) {
                continue;
            }
            self.field(&mut read, &field, value, &path);
        }
        read
    }

    fn field(&mut self, of: &mut DynamicMessage, field: &FieldDescriptor, tree: Tree, path: &str) {
        let kind = field.kind();
        let inner = match &kind {
            // Those of google.protobuf have forms of their own.
            Kind::Message(inner)
                if !field.is_map() && inner.package_name() != "google.protobuf" =>
            {
                inner
            }
            _ => return self.leaf(of, field, tree, path),
        };
        if !field.is_list() {
            let read = self.message(inner, tree, path);
            of.set_field(field, prost_reflect::Value::Message(read));
            return;
        }
        let Tree::List(items) = tree else {
            let text = format!("expected a list, but found {}", tree.kind());
            return self.complain(path, BAD_VALUE, text);
        };
        let items = items.into_iter().enumerate().map(|(at, item)| {
            prost_reflect::Value::Message(self.message(inner, item, &format!("{path}[{at}]")))
        });
        let items = items.collect();
        of.set_field(field, prost_reflect::Value::List(items));
    }

    /// Anything that prost-reflect reads whole; alone in a message, so that its complaint is about this field.
    fn leaf(&mut self, of: &mut DynamicMessage, field: &FieldDescriptor, tree: Tree, path: &str) {
        let alone = Map::from_iter([(field.json_name().to_owned(), tree.into())]);
        match DynamicMessage::deserialize(field.parent_message().clone(), Value::Object(alone)) {
            Ok(read) => of.set_field(field, read.get_field(field).into_owned()),
            Err(error) => {
                let text = error.to_string();
                self.complain(path, BAD_VALUE, cut_to(&text, 4 * MAX_NAME));
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The name that was meant, if one is near.
fn suggestion(typed: &str, message: &MessageDescriptor) -> String {
    if typed.len() > MAX_NAME {
        return String::new();
    }
    let fields: Vec<FieldDescriptor> = message.fields().collect();
    let mut names = fields.iter().map(FieldDescriptor::json_name);
    match names.clone().find(|name| name.eq_ignore_ascii_case(typed)) {
        Some(name) => format!("; did you mean {name}?"),
        None => nearest(typed, names.by_ref()),
    }
}

fn cut(name: &str) -> &str {
    cut_to(name, MAX_NAME)
}

fn cut_to(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

// === impl Tree ===

impl Tree {
    fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(Value::String(_)) => "text",
            Self::Scalar(Value::Number(_)) => "a number",
            Self::Scalar(Value::Bool(_)) => "true or false",
            Self::Scalar(_) => "null",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl From<Tree> for Value {
    fn from(tree: Tree) -> Self {
        match tree {
            Tree::Scalar(value) => value,
            Tree::List(items) => items.into_iter().map(Self::from).collect(),
            Tree::Object(members) => {
                members.into_iter().map(|(key, value)| (key, Self::from(value))).collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = from.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Contract, *};
    use crate::api::proto::v1::{OnUnknown, RevokeEgressRequest};

    fn read(body: &str) -> Result<RevokeEgressRequest, Vec<(String, String)>> {
        let contract = Contract::read().unwrap();
        let method = contract.method("/portcullis.v1.SecurityGroupService/RevokeEgress").unwrap();
        let said = |wrong: Violation| (wrong.field, wrong.message);
        let read = method.request(body.as_bytes());
        read.map(|bytes| prost::Message::decode(bytes.as_slice()).unwrap())
            .map_err(|wrong| wrong.0.into_iter().map(said).collect())
    }

    #[test]
    fn both_names_of_a_field_are_read() {
        let body = r#"{"GroupId": "sg-1", "ip_permissions": [{"IpProtocol": "tcp", "FromPort": "22", "to_port": 22e0,
            "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}], "OnUnknown": "ON_UNKNOWN_FAIL", "DryRun": null, "Verify": true}"#;
        let request = read(body).unwrap();
        assert_eq!(request.group_id.as_deref(), Some("sg-1"));
        assert_eq!(request.ip_permissions[0].from_port, Some(22));
        assert_eq!(request.ip_permissions[0].to_port, Some(22));
        assert_eq!(request.on_unknown(), OnUnknown::Fail);
        assert_eq!((request.dry_run, request.verify), (None, true));
        assert_eq!(read(""), Ok(RevokeEgressRequest::default()));
        assert_eq!(read("{}"), read(""));
    }

    #[test]
    fn what_is_wrong_is_named_all_at_once() {
        let body = r#"{"GroupID": "sg-1", "GroupId": 7, "group_id": "sg-1", "Verify": "yes", "Target": [],
            "IpPermissions": [{"FromPort": 3000000000}, null, {"IpRanges": {}}, {"IpRanges": [{"CidrIP": "x"}]}],
            "SecurityGroupRuleIds": ["a", 1], "OnUnknown": "ON_UNKNOWN_GUESS"}"#;
        let wrong = read(body).unwrap_err();
        let fields: Vec<&str> = wrong.iter().map(|(field, _)| field.as_str()).collect();
        let expected = [
            "GroupID",
            "group_id",
            "group_id",
            "verify",
            "target",
            "ip_permissions[0].from_port",
            "ip_permissions[1]",
            "ip_permissions[2].ip_ranges",
            "ip_permissions[3].ip_ranges[0].CidrIP",
            "security_group_rule_ids",
            "on_unknown",
        ];
        assert_eq!(fields, expected, "{wrong:?}");
        assert_eq!(wrong[0].1, "there is no such field; did you mean GroupId?");
        assert_eq!(wrong[2].1, "it is given twice");
        assert_eq!(wrong[8].1, "there is no such field; did you mean CidrIp?");
    }

    #[test]
    fn memory_and_complaints_are_bounded() {
        let many = format!("[{}]", vec!["{}"; MAX_VALUES].join(","));
        assert!(read(&many).unwrap_err()[0].1.contains("more than"));
        // In a text nothing counts.
        let text = format!(r#"{{"GroupId": "\"{}"}}"#, ",[{".repeat(MAX_VALUES));
        assert!(read(&text).is_ok());
        let strange: Vec<String> = (0..500).map(|at| format!("\"x{at}\": 0")).collect();
        let wrong = read(&format!("{{{}}}", strange.join(","))).unwrap_err();
        assert_eq!(wrong.len(), MAX_COMPLAINTS);
        let name = "é".repeat(100_000);
        let wrong = read(&format!("{{\"{name}\": 0}}")).unwrap_err();
        assert_eq!(wrong[0].0, "é".repeat(MAX_NAME / 2));
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(read(&deep).unwrap_err()[0].1.contains("recursion limit"));
    }
}
