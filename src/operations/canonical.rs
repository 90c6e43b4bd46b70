//! A request in one form, whatever way it was spelled: what fingerprints are taken of, what records hold, and what two
//! requests under one key are compared by.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Command, OnUnknown};
use crate::{
    backend::Selection,
    ledger::stored::{StoredRule, StoredTag},
    rule::{Direction, GroupRef, Peer, RuleSpec, Tag, Target},
};

/// Changes when the form does, so that an old fingerprint is never taken for a new one.
const VERSION: &str = "portcullis.v1/2";

const REVOKE_MATCHED: &str = "REVOKE_MATCHED";

/// A mutation in canonical form. Whether it is verified afterwards is not part of it: that changes nothing.
pub fn request(target: &Target, command: &Command) -> Value {
    let mut form = Map::new();
    form.insert("AccountId".to_owned(), target.account.as_str().into());
    form.insert("Region".to_owned(), target.region.as_str().into());
    match command {
        Command::Revoke(request) => {
            group(&mut form, &request.group);
            match &request.selection {
                Selection::Specs(specs) => rules(&mut form, request.direction, specs),
                Selection::Ids(ids) => {
                    let mut ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
                    ids.sort_unstable();
                    form.insert("SecurityGroupRuleIds".to_owned(), ids.into());
                }
            }
            let on_unknown = match request.on_unknown {
                OnUnknown::AsEc2 => "UNSPECIFIED",
                OnUnknown::Fail => "FAIL",
                OnUnknown::RevokeMatched => REVOKE_MATCHED,
            };
            form.insert("OnUnknown".to_owned(), on_unknown.into());
        }
        Command::Authorize(request) => {
            group(&mut form, &request.rules.group);
            rules(&mut form, request.rules.direction, &request.rules.specs);
            tags(&mut form, &request.rules.tags);
        }
        Command::Create(request) => {
            form.insert("GroupName".to_owned(), request.0.name.as_str().into());
            form.insert("Description".to_owned(), request.0.description.as_str().into());
            let vpc = request.0.vpc_id.as_ref();
            form.extend(vpc.map(|vpc| ("VpcId".to_owned(), vpc.as_str().into())));
            tags(&mut form, &request.0.tags);
        }
        Command::Delete(request) => group(&mut form, &request.0.group),
        Command::DescribeGroups(_) | Command::DescribeRules(_) => {}
    }
    Value::Object(form)
}

/// Whether a recorded request is a revoke of what matches, whatever else it names.
pub fn revokes_matched(request: &Value) -> bool {
    request.get("OnUnknown").and_then(Value::as_str) == Some(REVOKE_MATCHED)
}

fn group(form: &mut Map<String, Value>, group: &GroupRef) {
    let (name, value) = match group {
        GroupRef::Id(id) => ("GroupId", id.as_str()),
        GroupRef::Name(name) => ("GroupName", name.as_str()),
    };
    form.insert(name.to_owned(), value.into());
}

/// Atomic rules in one order, without host bits and without a name beside a group's id, which matching ignores.
fn rules(form: &mut Map<String, Value>, direction: Direction, specs: &[RuleSpec]) {
    let rules = specs.iter().map(|spec| {
        let mut peer = spec.peer.clone().canonical();
        if let Peer::Group(group) = &mut peer
            && group.group_id.is_some()
        {
            group.group_name = None;
        }
        json!(StoredRule::of_spec(direction, &RuleSpec { peer, ..spec.clone() }))
    });
    form.insert("IpPermissions".to_owned(), ordered(rules));
}

fn tags(form: &mut Map<String, Value>, tags: &[Tag]) {
    let tags = tags.iter().map(|tag| json!(StoredTag::from(tag)));
    form.insert("Tags".to_owned(), ordered(tags));
}

/// A list in the order of its items' texts.
fn ordered(items: impl Iterator<Item = Value>) -> Value {
    let mut items: Vec<Value> = items.collect();
    items.sort_by_cached_key(Value::to_string);
    Value::Array(items)
}

/// Where keys are told apart: the backend and, of it, the account and Region. Another incarnation's keys are other keys.
pub fn scope(backend: &str, target: &Target) -> String {
    format!("{backend} {target}")
}

/// What a change takes its turn for, and what records are found by: the group, by id if it has one, in its scope.
pub fn turn(scope: &str, group: &str) -> String {
    format!("{scope}/{group}")
}

/// The fingerprint of a request in canonical form.
pub fn fingerprint(method: &str, request: &Value) -> String {
    sha256([VERSION.as_bytes(), method.as_bytes(), request.to_string().as_bytes()])
}

/// The members in which two requests differ, by name; values are not for everybody to see.
pub fn differing(recorded: &Value, asked: &Value) -> Vec<String> {
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (recorded, asked) = (members(recorded), members(asked));
    let names = recorded.keys().chain(asked.keys().filter(|name| !recorded.contains_key(*name)));
    names.filter(|name| recorded.get(*name) != asked.get(*name)).cloned().collect()
}

/// SHA-256 in hexadecimal over parts, each with its length before it.
pub fn sha256<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
