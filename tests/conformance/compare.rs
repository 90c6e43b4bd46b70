//! Whether an answer is what a step says.

use portcullis::error::upper_snake;
use serde_json::{Map, Value};

use super::{
    case::{Difference, General, Step},
    client::Answer,
};

/// EC2's members of an answer's top level. One that an expectation does not name must not be there.
pub const EC2_MEMBERS: &[&str] = &[
    "Return",
    "UnknownIpPermissions",
    "RevokedSecurityGroupRules",
    "SecurityGroupRules",
    "SecurityGroups",
    "GroupId",
    "Tags",
    "SecurityGroupArn",
    "NextToken",
];

/// What a step must be answered in one place. Texts may hold names in braces.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub ok: Option<String>,
    pub error: Option<String>,
    pub says: Option<String>,
    pub left: Option<Vec<String>>,
    /// Paths of members that this place leaves out.
    pub without: Vec<String>,
}

/// What a step was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    pub answer: Answer,
    pub left: Option<Vec<String>>,
}

impl Expected {
    /// As AWS documents it.
    pub fn documented(step: &Step) -> Self {
        Self {
            ok: step.ok.clone(),
            error: step.error.clone(),
            says: step.says.clone(),
            left: step.left.clone(),
            without: Vec::new(),
        }
    }

    /// As a difference changes it.
    pub fn but(self, difference: &Difference) -> Self {
        let Difference { why: _, ok, error, says, left } = difference.clone();
        let left = left.or(self.left);
        if ok.is_none() && error.is_none() {
            return Self { left, says: says.or(self.says), ..self };
        }
        Self { ok, error, says, left, without: Vec::new() }
    }

    /// What is wrong with an answer; none: nothing. `fill` puts real names in.
    pub fn complaint(&self, answered: &Answered, fill: &dyn Fn(&str) -> String) -> Option<String> {
        match (&answered.answer, &self.ok, &self.error) {
            (Ok(answer), Some(ok), _) => {
                let mut expected: Value = parse(&fill(ok));
                for path in &self.without {
                    drop_member(&mut expected, path);
                }
                let named = expected.as_object().expect("an object");
                for member in EC2_MEMBERS {
                    if answer.get(member).is_some() && !named.contains_key(*member) {
                        return Some(format!("{member} is not expected"));
                    }
                }
                if let Some(path) = mismatch(&expected, Some(&without_own_tags(answer))) {
                    return Some(format!("{path} is not {expected}"));
                }
            }
            (Ok(_), None, error) => return Some(format!("not refused with {error:?}")),
            (Err(refused), _, None) => return Some(format!("refused: {:?}", refused.codes)),
            (Err(refused), _, Some(error)) => {
                if refused.codes != [upper_snake(error)] {
                    return Some(format!("{:?}, not {error}", refused.codes));
                }
                let says = self.says.as_deref().map(fill).unwrap_or_default();
                if !refused.message.contains(&says) {
                    return Some(format!("the message does not say {says:?}"));
                }
            }
        }
        let sorted = |left: &[String]| {
            let mut left = left.to_vec();
            left.sort();
            left
        };
        let (expected, left) = (self.left.as_ref()?, answered.left.as_ref()?);
        let expected: Vec<String> = expected.iter().map(|text| fill(text)).collect();
        (sorted(&expected) != sorted(left)).then(|| format!("{left:?} are left, not {expected:?}"))
    }

    /// Without what this place never answers.
    pub fn generally(mut self, general: &General) -> Self {
        let expected: Option<Value> = self.ok.as_ref().map(|ok| parse(&blank(ok)));
        if expected.is_some_and(|mut expected| drop_member(&mut expected, &general.drops)) {
            self.without.push(general.drops.clone());
        }
        self
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The text with a placeholder value for every bare name in braces, so that it parses.
fn blank(text: &str) -> String {
    super::names::replace(text, &|name| {
        // A name within a string stays text, one outside stands for an object or a list.
        if name.starts_with("last:") { Some("null".to_owned()) } else { Some("0".to_owned()) }
    })
}

/// Takes a member out that a pattern names. False: it names none, or says that there is none.
fn drop_member(value: &mut Value, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match value {
        Value::Array(items) if first == "*" => {
            // Every item, and not the first alone.
            items.iter_mut().filter_map(|item| drop_member(item, rest).then_some(())).count() > 0
        }
        Value::Object(members) if rest.is_empty() => {
            let named = members.get(first).is_some_and(|value| !value.is_null());
            if named {
                members.insert(first.to_owned(), Value::Null);
            }
            named
        }
        Value::Object(members) => {
            members.get_mut(first).is_some_and(|value| drop_member(value, rest))
        }
        _ => false,
    }
}

/// The answer less the tag that the service gives to the groups that it creates: EC2's own answers have none.
fn without_own_tags(answer: &Value) -> Value {
    let is_own = |tag: &Value| tag["Key"] == "portcullis:operation-id";
    match answer {
        Value::Array(items) => {
            items.iter().filter(|item| !is_own(item)).map(without_own_tags).collect()
        }
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, value)| {
                !value.as_array().is_some_and(|tags| !tags.is_empty() && tags.iter().all(is_own))
            });
            kept.map(|(name, value)| (name.clone(), without_own_tags(value))).collect()
        }
        other => other.clone(),
    }
}

/// Where an answer is not what a pattern says: members that the pattern names must be there and equal, null says that
/// there is none, lists are compared in any order, and `*` in a text stands for anything.
fn mismatch(pattern: &Value, answer: Option<&Value>) -> Option<String> {
    match (pattern, answer) {
        (Value::Null, None) => None,
        (Value::String(any), Some(_)) if any == "*" => None,
        (Value::Object(pattern), Some(Value::Object(answer))) => members(pattern, answer),
        (Value::Array(pattern), Some(Value::Array(answer))) => {
            if pattern.len() != answer.len() {
                return Some(format!("a list of {}", answer.len()));
            }
            let mut rest: Vec<&Value> = answer.iter().collect();
            for item in pattern {
                let Some(at) =
                    rest.iter().position(|answer| mismatch(item, Some(answer)).is_none())
                else {
                    return Some(format!("an item of {}", Value::from(answer.clone())));
                };
                rest.remove(at);
            }
            None
        }
        (Value::String(pattern), Some(Value::String(answer))) if pattern.contains('*') => {
            let (start, end) = pattern.split_once('*').unwrap_or_default();
            let fits = answer.len() >= start.len() + end.len()
                && answer.starts_with(start)
                && answer.ends_with(end);
            (!fits).then(|| answer.clone())
        }
        (pattern, Some(answer)) => (pattern != answer).then(|| answer.to_string()),
        (_, None) => Some("nothing".to_owned()),
    }
}

fn members(pattern: &Map<String, Value>, answer: &Map<String, Value>) -> Option<String> {
    pattern.iter().find_map(|(name, pattern)| {
        let found = mismatch(pattern, answer.get(name))?;
        Some(format!("{name}: {found}"))
    })
}

#[test]
fn answers_are_compared_member_by_member() {
    let step = |text: &str| -> Step { toml::from_str(text).unwrap() };
    let revoked =
        r#"ok = '{"Return": true, "RevokedSecurityGroupRules": [{"GroupId": "{group}"}]}'"#;
    let expected =
        Expected::documented(&step(&format!("call = \"RevokeEgress\"\n{revoked}\nleft = [\"a\"]")));
    let fill = |text: &str| text.replace("{group}", "sg-1");
    let answered = |json: &str, left: &[&str]| Answered {
        answer: Ok(parse(json)),
        left: Some(left.iter().map(|&name| name.to_owned()).collect()),
    };
    let rules = r#""RevokedSecurityGroupRules": [{"GroupId": "sg-1", "ToPort": 1}]"#;
    let good = answered(&format!(r#"{{"Return": true, "OperationId": "x", {rules}}}"#), &["a"]);
    assert_eq!(expected.complaint(&good, &fill), None);
    for (json, left) in [
        (format!(r#"{{"Return": true, {rules}}}"#), &["b"][..]),
        (format!(r#"{{"Return": false, {rules}}}"#), &["a"]),
        (format!(r#"{{{rules}}}"#), &["a"]),
        (format!(r#"{{"Return": true, "UnknownIpPermissions": [], {rules}}}"#), &["a"]),
        (r#"{"Return": true}"#.to_owned(), &["a"]),
        (r#"{"Return": true, "RevokedSecurityGroupRules": []}"#.to_owned(), &["a"]),
        (
            r#"{"Return": true, "RevokedSecurityGroupRules": [{"GroupId": "sg-2"}]}"#.to_owned(),
            &["a"],
        ),
    ] {
        assert!(expected.complaint(&answered(&json, left), &fill).is_some(), "{json}");
    }
    let general: General = toml::from_str(
        "place = \"moto\"\nwhy = \"\"\ncalls = []\ndrops = \"RevokedSecurityGroupRules\"",
    )
    .unwrap();
    let without = expected.clone().generally(&general);
    assert_ne!(without, expected);
    assert_eq!(without.complaint(&answered(r#"{"Return": true}"#, &["a"]), &fill), None);
    assert!(without.complaint(&good, &fill).is_some());
}
