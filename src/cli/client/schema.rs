//! What a person typed, as a request of the contract: names, kinds of values and suggestions come from the descriptor.
//!
//! The generated parser of protobuf JSON passes over names that it does not know; a guard or a misspelled port must
//! not get lost that way, so everything is checked here first.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{api::proto::FILE_DESCRIPTOR_SET, config::nearest};

const PACKAGE: &str = ".portcullis.v1.";

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON: it says itself what is a list, a number or true.
    Json,
    /// Shorthand: all is text, and one value may stand for a list of one.
    Shorthand,
}

/// The messages and enums of `portcullis.v1`.
#[derive(Debug)]
pub struct Schema {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Schema {
    /// Reads the descriptor that the program serves by reflection.
    pub fn new() -> Result<Self, String> {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).map_err(|e| e.to_string())?;
        let mut schema = Self { messages: BTreeMap::new(), enums: BTreeMap::new() };
        for file in set.file {
            let name = |name: &str| format!(".{}.{name}", file.package());
            schema.messages.extend(file.message_type.iter().map(|m| (name(m.name()), m.clone())));
            schema.enums.extend(file.enum_type.iter().map(|e| (name(e.name()), e.clone())));
        }
        Ok(schema)
    }

    /// A request out of a value that [`Schema::check`] has passed.
    pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// The value as protobuf JSON of a message, with EC2's names. The error names the key, below `path`.
    pub fn check(
        &self,
        message: &str,
        value: Value,
        path: &str,
        form: Form,
    ) -> Result<Value, String> {
        self.message(&format!("{PACKAGE}{message}"), value, path, form)
    }

    fn message(&self, name: &str, value: Value, path: &str, form: Form) -> Result<Value, String> {
        let Some(message) = self.messages.get(name) else { return Ok(value) };
        let at = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let Value::Object(given) = value else {
            return Err(format!("{at}expected keys with values, but found {}", kind(&value)));
        };
        let mut checked = Map::new();
        for (key, value) in given {
            let field = message.field.iter().find(|f| f.json_name() == key || f.name() == key);
            let Some(field) = field else {
                return Err(format!("{at}there is no {key:?}{}", suggestion(&key, message)));
            };
            // As in protobuf JSON: null is not given.
            if value.is_null() {
                continue;
            }
            let key = field.json_name();
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            let value = self.field(field, value, &path, form)?;
            if checked.insert(key.to_owned(), value).is_some() {
                return Err(format!("{path}: is given twice"));
            }
        }
        Ok(Value::Object(checked))
    }

    fn field(
        &self,
        field: &FieldDescriptorProto,
        value: Value,
        path: &str,
        form: Form,
    ) -> Result<Value, String> {
        if field.label() != Label::Repeated {
            return self.single(field, value, path, form);
        }
        let values = match value {
            Value::Array(values) => values,
            value if form == Form::Shorthand => vec![value],
            value => return Err(format!("{path}: expected a list, but found {}", kind(&value))),
        };
        let values = values.into_iter().enumerate();
        let values =
            values.map(|(n, value)| self.single(field, value, &format!("{path}[{n}]"), form));
        values.collect::<Result<_, _>>().map(Value::Array)
    }

    fn single(
        &self,
        field: &FieldDescriptorProto,
        value: Value,
        path: &str,
        form: Form,
    ) -> Result<Value, String> {
        let wrong = |expected: &str, value: &Value| {
            Err(format!("{path}: expected {expected}, but found {}", kind(value)))
        };
        match (field.r#type(), value) {
            (Type::Message, value) => self.message(field.type_name(), value, path, form),
            (Type::Enum, value) => self.choice(field.type_name(), value, path),
            (Type::String, value) if value.is_string() => Ok(value),
            (Type::String, value) => wrong("text", &value),
            (Type::Bool, value) if value.is_boolean() => Ok(value),
            (Type::Bool, value) => match value.as_str().map(str::to_ascii_lowercase).as_deref() {
                Some("true") if form == Form::Shorthand => Ok(Value::Bool(true)),
                Some("false") if form == Form::Shorthand => Ok(Value::Bool(false)),
                _ => wrong("true or false", &value),
            },
            (Type::Int32, value) => {
                let number = match &value {
                    Value::String(text) => text.parse().ok(),
                    value => value.as_i64().and_then(|number| i32::try_from(number).ok()),
                };
                number.map_or_else(|| wrong("a whole number", &value), |n: i32| Ok(Value::from(n)))
            }
            (_, value) => Ok(value),
        }
    }

    fn choice(&self, name: &str, value: Value, path: &str) -> Result<Value, String> {
        let Some(choices) = self.enums.get(name) else { return Ok(value) };
        let names: Vec<&str> = choices.value.iter().map(|choice| choice.name()).collect();
        match value.as_str() {
            Some(text) if names.contains(&text) => Ok(value),
            _ => {
                let names = names.join(", ");
                Err(format!("{path}: expected one of {names}, but found {}", kind(&value)))
            }
        }
    }
}

/// The name that was meant, or all there are.
fn suggestion(typed: &str, message: &DescriptorProto) -> String {
    let fields = message
        .field
        .iter()
        .filter(|field| !field.options.as_ref().is_some_and(|o| o.deprecated()));
    let names: Vec<&str> = fields.map(FieldDescriptorProto::json_name).collect();
    let same = names.iter().find(|name| name.eq_ignore_ascii_case(typed));
    match same {
        Some(name) => format!("; did you mean {name}?"),
        None => match nearest(typed, names.iter().copied()) {
            near if near.is_empty() => format!("; there are {}", names.join(", ")),
            near => near,
        },
    }
}

/// A value in a few words, for a complaint about it.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => {
            let cut: String = value.chars().take(40).collect();
            format!("{cut:?}{}", if cut == *value { "" } else { "..." })
        }
        // In shorthand a key without a value makes one: the values show where.
        Value::Array(values) => {
            match values.iter().map(Value::as_str).collect::<Option<Vec<_>>>() {
                Some(texts) if !texts.is_empty() => {
                    let cut: String = texts.join(",").chars().take(40).collect();
                    format!("the list {cut}")
                }
                _ => "a list".to_owned(),
            }
        }
        Value::Object(_) => "keys with values".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::proto::v1;

    fn check(value: Value, form: Form) -> Result<Value, String> {
        Schema::new().unwrap().check("RevokeEgressRequest", value, "", form)
    }

    #[test]
    fn what_passes_has_ec2s_names_and_kinds() {
        let form = Form::Shorthand;
        let given = json!({"group_id": "sg-1", "DryRun": "True", "verify": "false", "IpPermissions":
            {"FromPort": "0", "ToPort": "-1", "IpProtocol": "tcp", "IpRanges": {"CidrIp": "::"}}});
        let checked = check(given, form).unwrap();
        let permission = json!({"FromPort": 0, "ToPort": -1, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "::"}]});
        let expected = json!({"GroupId": "sg-1", "DryRun": true, "Verify": false, "IpPermissions": [permission]});
        assert_eq!(checked, expected);
        let request: v1::RevokeEgressRequest = Schema::read(checked).unwrap();
        assert_eq!(request.ip_permissions[0].from_port, Some(0));
        let given = json!({"GroupId": null, "Target": {"Region": "eu-west-1"}, "OnUnknown": "ON_UNKNOWN_FAIL",
            "SecurityGroupRuleIds": ["a"], "IpPermissions": [{"FromPort": 1}]});
        let request: v1::RevokeEgressRequest =
            Schema::read(check(given, Form::Json).unwrap()).unwrap();
        assert_eq!(request.on_unknown(), v1::OnUnknown::Fail);
        assert_eq!(request.group_id, None);
    }

    #[test]
    fn what_does_not_is_named() {
        for (value, says) in [
            (json!([]), "expected keys with values, but found a list"),
            (json!({"GroupID": "sg-1"}), "there is no \"GroupID\"; did you mean GroupId?"),
            (json!({"OnUnknwon": "x"}), "; did you mean OnUnknown?"),
            (json!({"X": 1}), "there is no \"X\"; there are GroupId, IpPermissions, "),
            (json!({"group_id": "a", "GroupId": "b"}), "GroupId: is given twice"),
            (json!({"GroupId": 7}), "GroupId: expected text, but found the number 7"),
            (json!({"GroupId": ["a"]}), "GroupId: expected text, but found the list a"),
            (json!({"DryRun": "true"}), "DryRun: expected true or false, but found \"true\""),
            (json!({"IpPermissions": {}}), "IpPermissions: expected a list, but found keys"),
            (
                json!({"IpPermissions": [null]}),
                "IpPermissions[0]: expected keys with values, but found null",
            ),
            (
                json!({"IpPermissions": [{}, {"FromPort": "x"}]}),
                "IpPermissions[1].FromPort: expected a whole number, but found \"x\"",
            ),
            (json!({"IpPermissions": [{"ToPort": 1.5}]}), "but found the number 1.5"),
            (json!({"IpPermissions": [{"ToPort": 3_000_000_000_u32}]}), "a whole number"),
            (
                json!({"IpPermissions": [{"IpRanges": [{"CidrIP": "x"}]}]}),
                "IpPermissions[0].IpRanges[0]: there is no \"CidrIP\"; did you mean CidrIp?",
            ),
            (
                json!({"OnUnknown": 9}),
                "OnUnknown: expected one of ON_UNKNOWN_UNSPECIFIED, ON_UNKNOWN_FAIL",
            ),
        ] {
            let error = check(value, Form::Json).unwrap_err();
            assert!(error.contains(says), "{says:?} in {error:?}");
        }
        let error = check(json!({"GroupId": ["a", "b"]}), Form::Shorthand).unwrap_err();
        assert_eq!(error, "GroupId: expected text, but found the list a,b");
        let error = check(json!({"DryRun": "yes"}), Form::Shorthand).unwrap_err();
        assert!(error.starts_with("DryRun: expected true or false"), "{error}");
    }
}
