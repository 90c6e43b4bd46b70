//! Names in braces, and what they stand for.

use std::collections::BTreeMap;

use serde_json::Value;

/// Replaces every `{name}` for which there is a value. JSON's own braces are never followed by a bare name.
pub fn replace(text: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let name = after.split_once('}').map(|(name, _)| name).filter(|name| is_name(name));
        match name.and_then(|name| value(name).map(|value| (name, value))) {
            Some((name, value)) => {
                out.push_str(&value);
                rest = after.get(name.len() + 1..).unwrap_or_default();
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '-' | '_'))
}

/// The names that one run of a case knows.
#[derive(Clone, Debug, Default)]
pub struct Names {
    values: BTreeMap<String, String>,
    /// The answer before.
    pub last: Value,
}

impl Names {
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_owned(), value.into());
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The name of an id, if it has one.
    pub fn name_of(&self, prefix: &str, id: &str) -> Option<&str> {
        let found =
            self.values.iter().find(|(name, value)| *value == id && name.starts_with(prefix));
        found.and_then(|(name, _)| name.strip_prefix(prefix))
    }

    /// The text with everything filled in; a name that nobody knows is a fault of the data.
    pub fn fill(&self, text: &str) -> String {
        let once = replace(text, &|name| Some(self.value(name)));
        // A permission may hold names itself.
        replace(&once, &|name| Some(self.value(name)))
    }

    /// What a text takes from the answer before, and is not there: after another answer than the documented one.
    pub fn lacks(&self, text: &str) -> Option<String> {
        let parts = text.split("{last:").skip(1).filter_map(|part| part.split_once('}'));
        let mut pointers = parts.map(|(pointer, _)| pointer.to_owned());
        pointers.find(|pointer| self.last.pointer(pointer).is_none())
    }

    fn value(&self, name: &str) -> String {
        if let Some(pointer) = name.strip_prefix("last:") {
            return match self.last.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => panic!("the answer before has no {pointer}: {}", self.last),
            };
        }
        let count = |text: &str| text.parse::<usize>().unwrap();
        match name.split_once(':') {
            Some(("ranges", number)) => ranges(count(number)),
            Some(("filters", number)) => filters(count(number)),
            Some(("text", number)) => "a".repeat(count(number)),
            _ => match self.get(name) {
                Some(value) => value.to_owned(),
                None => panic!("{{{name}}} stands for nothing"),
            },
        }
    }

    /// An answer to show, with names in place of ids. No account's number leaves its owner's machine so.
    pub fn show(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.values {
            let is_id = value.contains('-') && !value.contains('{') && value.len() > 10;
            if is_id || name == "account" {
                text = text.replace(value, &format!("{{{name}}}"));
            }
        }
        text
    }
}

/// So many IPv4 ranges, as members of IpRanges.
fn ranges(count: usize) -> String {
    let range = |n: usize| format!(r#"{{"CidrIp": "10.{}.{}.0/24"}}"#, n / 256, n % 256);
    (0..count).map(range).collect::<Vec<_>>().join(", ")
}

/// So many filters of a describe that rules and groups both have.
fn filters(count: usize) -> String {
    vec![r#"{"Name": "group-id", "Values": ["sg-00000000"]}"#; count].join(", ")
}

#[test]
fn names_are_filled_in_and_braces_of_json_are_left_alone() {
    let mut names = Names::default();
    names.set("group", "sg-1");
    names.set("https", r#"{"PeerOf": "{group}"}"#);
    names.last = serde_json::json!({"Tokens": ["t", {"a": 1}]});
    let text = r#"{"GroupId": "{group}", "P": [{https}, {}], "T": "{last:/Tokens/0}", "O": {last:/Tokens/1}}"#;
    let filled = r#"{"GroupId": "sg-1", "P": [{"PeerOf": "sg-1"}, {}], "T": "t", "O": {"a":1}}"#;
    assert_eq!(names.fill(text), filled);
    assert_eq!(names.lacks(text), None);
    assert_eq!(names.lacks("{last:/Tokens/2}").as_deref(), Some("/Tokens/2"));
    assert_eq!(names.fill("{ranges:2}"), r#"{"CidrIp": "10.0.0.0/24"}, {"CidrIp": "10.0.1.0/24"}"#);
    assert_eq!(names.fill("{text:3}"), "aaa");
    names.set("account", "123456789012");
    names.set("rule:a", "sgr-0123456789abcdef0");
    let answer = "arn:aws:ec2:us-east-1:123456789012:security-group-rule/sgr-0123456789abcdef0";
    let shown = "arn:aws:ec2:us-east-1:{account}:security-group-rule/{rule:a}";
    assert_eq!(names.show(answer), shown);
}
