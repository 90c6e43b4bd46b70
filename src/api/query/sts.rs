//! STS, as much as clients of EC2 need: who am I, a session in another account, and why a call was not permitted.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    Answered, Door, Reply, Trouble,
    caller::{self, Caller, Session},
    form::Fields,
    xml::Element,
};
use crate::{
    backend::{AwsSession, Backend as _, Refusal},
    rule::{AccountId, permission::excerpt},
};

/// The shortest and longest session, and the one that is given unasked, in seconds.
const MIN_SESSION: i32 = 900;
const MAX_SESSION: i32 = 43_200;
const DEFAULT_SESSION: i32 = 3600;

/// The longest session that a session may assume.
const MAX_CHAINED_SESSION: i32 = 3600;

/// What AWS says of RoleSessionName and SourceIdentity.
const NAME_RULE: &str = "2 to 64 characters of A-Z a-z 0-9 _+=,.@-";

/// What AWS says of session tags.
const MAX_TAGS: usize = 50;
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;
const TAG_RULE: &str = "letters, digits, spaces and _.:/=+-@";

/// The longest name of a role.
const MAX_ROLE_NAME: usize = 64;

/// The longest message that is decoded.
const MAX_ENCODED: usize = 10_240;

/// What an encoded message begins with once it is decoded.
const DENIAL_MARK: &str = "sandbox-denial ";

/// GetCallerIdentity.
pub fn get_caller_identity(door: &Door, caller: &Caller, fields: &Fields) -> Reply {
    fields.finish()?;
    let account = account(door, caller.account.clone())?;
    let (arn, user_id) = principal(caller, &account);
    Ok(Answered::new([
        Element::text("Arn", arn),
        Element::text("UserId", user_id),
        Element::text("Account", account),
    ]))
}

/// AssumeRole: for any role of an account of the sandbox. Policies and the external id are taken and mean nothing.
pub fn assume_role(door: &Door, caller: &Caller, mut fields: Fields) -> Reply {
    let role = fields.text("RoleArn").unwrap_or_default();
    let name = fields.text("RoleSessionName").unwrap_or_default();
    let duration = fields.number("DurationSeconds")?.unwrap_or(DEFAULT_SESSION);
    let source_identity = fields.text("SourceIdentity");
    let tags = members(&mut fields, "Tags", |fields| {
        fields.list("member", |fields| {
            let (key, value) = (fields.text("Key"), fields.text("Value"));
            Ok((key.unwrap_or_default(), value.unwrap_or_default()))
        })
    })?;
    let transitive = members(&mut fields, "TransitiveTagKeys", |fields| fields.texts("member"))?;
    for name in
        ["ExternalId", "Policy", "PolicyArns", "ProvidedContexts", "SerialNumber", "TokenCode"]
    {
        fields.ignore(name);
    }
    fields.finish()?;
    let Some(owner) = owner_of(&role) else {
        return Err(invalid(format!("{} is invalid", excerpt(&role))));
    };
    if !is_name(&name) {
        let message = format!("'{}' is not a role session name: {NAME_RULE}", excerpt(&name));
        return Err(invalid(message));
    }
    if let Some(source) = source_identity.as_deref().filter(|source| !is_name(source)) {
        let message = format!("'{}' is not a source identity: {NAME_RULE}", excerpt(source));
        return Err(invalid(message));
    }
    let longest = if caller.session.is_some() { MAX_CHAINED_SESSION } else { MAX_SESSION };
    if !(MIN_SESSION..=longest).contains(&duration) {
        return Err(invalid(format!("DurationSeconds is {MIN_SESSION} to {longest}.")));
    }
    check_tags(&tags, &transitive)?;
    let session = Session { role, name, source_identity, tags, transitive };
    let session = inherit(session, caller.session.as_ref())?;
    let Ok(owner) = account(door, Some(owner)) else {
        let message = format!("The sandbox has no account for the role {}", excerpt(&session.role));
        return Err(Refusal::new("AccessDenied", message).into());
    };
    let issued = caller::issue(&owner, &session, door.random.as_ref());
    if issued.token.len() > caller::MAX_TOKEN {
        let percent = issued.token.len() * 100 / caller::MAX_TOKEN;
        let message = format!("Packed size of session tags consumes {percent}% of allotted space.");
        return Err(Refusal::new("PackedPolicyTooLarge", message).into());
    }
    let ends = door.clock.now() + Duration::from_secs(duration.unsigned_abs().into());
    let credentials = Element::new("Credentials")
        .member("AccessKeyId", &issued.key_id)
        .member("SecretAccessKey", &issued.secret)
        .member("SessionToken", &issued.token)
        .member("Expiration", super::timestamp(ends));
    let user = Element::new("AssumedRoleUser")
        .member("AssumedRoleId", role_id(&session, &owner))
        .member("Arn", named(&session, &owner).arn);
    let source = session.source_identity.map(|source| Element::text("SourceIdentity", source));
    Ok(Answered::new([credentials, user].into_iter().chain(source)))
}

/// DecodeAuthorizationMessage, for what [`encode_denial`] encoded.
pub fn decode_denial(mut fields: Fields) -> Reply {
    let encoded = super::common::required(&mut fields, "EncodedMessage")?;
    fields.finish()?;
    if encoded.len() > MAX_ENCODED {
        let message = format!("EncodedMessage has at most {MAX_ENCODED} characters.");
        return Err(invalid(message));
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(text) = text.as_deref().and_then(|text| text.strip_prefix(DENIAL_MARK)) else {
        let message = "Message is not valid: it is none that this sandbox encoded.";
        return Err(Refusal::new("InvalidAuthorizationMessageException", message).into());
    };
    Ok(Answered::new([Element::text("DecodedMessage", text)]))
}

/// Says why in the form that DecodeAuthorizationMessage reads.
pub fn encode_denial(door: &Door, caller: &Caller, action: &str, refusal: Refusal) -> Refusal {
    let Ok(account) = account(door, caller.account.clone()) else { return refusal };
    let (arn, id) = principal(caller, &account);
    let nothing = json!({"items": []});
    let denial = json!({
        "allowed": false,
        "explicitDeny": false,
        "matchedStatements": nothing,
        "failures": nothing,
        "context": {
            "principal": {"id": id, "arn": arn},
            "action": format!("ec2:{action}"),
            "resource": "*",
            "conditions": nothing,
        },
    });
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(format!("{DENIAL_MARK}{denial}"));
    let message = format!("{} Encoded authorization failure message: {encoded}", refusal.message);
    Refusal { message, ..refusal }
}

/// The ARN and the unique id of who asks.
fn principal(caller: &Caller, account: &AccountId) -> (String, String) {
    let key_id = caller.key_id.as_deref().unwrap_or("anonymous");
    match &caller.session {
        Some(session) => (named(session, account).arn, role_id(session, account)),
        None => {
            (format!("arn:aws:iam::{account}:user/sandbox"), caller::id_of("AIDA", account, key_id))
        }
    }
}

/// What AWS calls a session.
pub fn named(session: &Session, account: &AccountId) -> AwsSession {
    let role = session.role.rsplit('/').next().unwrap_or_default();
    AwsSession {
        arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{}", session.name),
        source_identity: session.source_identity.clone(),
    }
}

fn role_id(session: &Session, account: &AccountId) -> String {
    format!("{}:{}", caller::id_of("AROA", account, &session.role), session.name)
}

// === sessions ===

/// What stays through a chain of roles: the source identity, and the transitive tags with their keys.
fn inherit(mut session: Session, from: Option<&Session>) -> Result<Session, Trouble> {
    let Some(from) = from else { return Ok(session) };
    if from.source_identity.is_some() {
        if session.source_identity.is_some() && session.source_identity != from.source_identity {
            let message = "A source identity is set for this session and cannot be another.";
            return Err(Refusal::new("AccessDenied", message).into());
        }
        session.source_identity.clone_from(&from.source_identity);
    }
    let is_transitive = |key: &str| from.transitive.iter().any(|other| same_key(key, other));
    if let Some((key, _)) = session.tags.iter().find(|(key, _)| is_transitive(key)) {
        let message = format!("The tag {} is inherited and cannot be set.", excerpt(key));
        return Err(invalid(message));
    }
    session.tags.extend(from.tags.iter().filter(|(key, _)| is_transitive(key)).cloned());
    session.transitive.extend(from.transitive.iter().cloned());
    Ok(session)
}

fn check_tags(tags: &[(String, String)], transitive: &[String]) -> Result<(), Trouble> {
    if tags.len() > MAX_TAGS || transitive.len() > MAX_TAGS {
        return Err(invalid(format!("At most {MAX_TAGS} tags.")));
    }
    for (index, (key, value)) in tags.iter().enumerate() {
        let shown = excerpt(key);
        if !is_tag_text(key, MAX_TAG_KEY) || key.is_empty() {
            return Err(invalid(format!(
                "'{shown}' is not a tag key: 1 to {MAX_TAG_KEY} {TAG_RULE}"
            )));
        }
        if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return Err(invalid(format!("The tag key {shown} is AWS's own: it begins with aws:.")));
        }
        if !is_tag_text(value, MAX_TAG_VALUE) {
            return Err(invalid(format!(
                "'{}' is not a value for the tag {shown}: 0 to {MAX_TAG_VALUE} {TAG_RULE}",
                excerpt(value)
            )));
        }
        if tags.iter().take(index).any(|(other, _)| same_key(other, key)) {
            let message =
                format!("Duplicate tag keys found: {shown}. Tag keys are case insensitive.");
            return Err(invalid(message));
        }
    }
    let missing = |key: &&String| !tags.iter().any(|(other, _)| same_key(other, key));
    match transitive.iter().find(missing) {
        Some(key) => {
            let shown = excerpt(key);
            let message =
                format!("The transitive tag key {shown} must be one of the requested tags.");
            Err(invalid(message))
        }
        None => Ok(()),
    }
}

/// Whether it is what RoleSessionName and SourceIdentity take.
fn is_name(text: &str) -> bool {
    (2..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
}

fn is_tag_text(text: &str, longest: usize) -> bool {
    let is_good = |letter: char| {
        letter.is_alphanumeric()
            || letter.is_whitespace() && !letter.is_control()
            || "_.:/=+-@".contains(letter)
    };
    text.chars().count() <= longest && text.chars().all(is_good)
}

fn same_key(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// A list as STS's protocol writes it: `Name.member.1`.
fn members<T>(
    fields: &mut Fields,
    name: &str,
    read: impl Fn(&mut Fields) -> Result<Vec<T>, Refusal>,
) -> Result<Vec<T>, Refusal> {
    if let Some(list) = fields.structure(name, read)? {
        return Ok(list);
    }
    // How SDKs write a list without elements. Another text stays, and is not recognized.
    if fields.text(name).is_some_and(|text| !text.is_empty()) {
        let message = format!("The parameter {name} is not a list");
        return Err(Refusal::new("MalformedInput", message));
    }
    Ok(Vec::new())
}

fn invalid(message: String) -> Trouble {
    Refusal::new("ValidationError", message).into()
}

/// The account, if it is one of the sandbox; the default one if none is named.
fn account(door: &Door, account: Option<AccountId>) -> Result<AccountId, Refusal> {
    let asked = account.clone();
    match door.sandbox.resolve(account, None) {
        Ok(target) => Ok(target.account),
        Err(_) => {
            let asked = asked.map(|account| account.to_string()).unwrap_or_default();
            let message = format!("The sandbox has no account {asked}");
            Err(Refusal::new("InvalidClientTokenId", message))
        }
    }
}

/// The account of `arn:aws:iam::ACCOUNT:role/PATH/NAME`.
fn owner_of(role: &str) -> Option<AccountId> {
    let (partition, rest) = role.strip_prefix("arn:")?.split_once(":iam::")?;
    let (account, name) = rest.split_once(":role/")?;
    let last = name.rsplit('/').next().unwrap_or_default();
    let well_formed = partition.starts_with("aws")
        && (1..=MAX_ROLE_NAME).contains(&last.len())
        && role.len() <= 2048;
    AccountId::parse(account).filter(|_| well_formed)
}
