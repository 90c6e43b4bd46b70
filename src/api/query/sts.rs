//! STS, as much as clients of EC2 need: who am I, and a session in another account.

use std::time::Duration;

use super::{Answered, Door, Reply, caller, caller::Caller, form::Fields, xml::Element};
use crate::{
    backend::{Backend as _, Refusal},
    rule::{AccountId, permission::excerpt},
};

/// The shortest and longest session, and the one that is given unasked, in seconds.
const MIN_SESSION: i32 = 900;
const MAX_SESSION: i32 = 43_200;
const DEFAULT_SESSION: i32 = 3600;

/// GetCallerIdentity.
pub fn get_caller_identity(door: &Door, caller: &Caller, fields: &Fields) -> Reply {
    fields.finish()?;
    let account = account(door, caller.account.clone())?;
    let key_id = caller.key_id.as_deref().unwrap_or("anonymous");
    let (arn, user_id) = match &caller.session {
        Some((role, session)) => (
            assumed(role, &account, session),
            format!("{}:{session}", caller::id_of("AROA", &account, role)),
        ),
        None => (
            format!("arn:aws:iam::{account}:user/sandbox"),
            caller::id_of("AIDA", &account, key_id),
        ),
    };
    Ok(Answered::new([
        Element::text("Arn", arn),
        Element::text("UserId", user_id),
        Element::text("Account", account),
    ]))
}

/// AssumeRole: for any role of an account of the sandbox. Policies, tags and the external id are taken and mean
/// nothing.
pub fn assume_role(door: &Door, mut fields: Fields) -> Reply {
    let role = fields.text("RoleArn").unwrap_or_default();
    let session = fields.text("RoleSessionName").unwrap_or_default();
    let duration = fields.number("DurationSeconds")?.unwrap_or(DEFAULT_SESSION);
    for name in [
        "ExternalId",
        "Policy",
        "PolicyArns",
        "ProvidedContexts",
        "SerialNumber",
        "SourceIdentity",
        "Tags",
        "TokenCode",
        "TransitiveTagKeys",
    ] {
        fields.ignore(name);
    }
    fields.finish()?;
    let Some(owner) = owner_of(&role) else {
        let message = format!("{} is invalid", excerpt(&role));
        return Err(Refusal::new("ValidationError", message).into());
    };
    let name_is_valid = (2..=64).contains(&session.len())
        && session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_=,.@-".contains(&byte));
    if !name_is_valid {
        let message = format!(
            "'{}' is not a role session name: 2 to 64 characters of A-Z a-z 0-9 _=,.@-",
            excerpt(&session)
        );
        return Err(Refusal::new("ValidationError", message).into());
    }
    if !(MIN_SESSION..=MAX_SESSION).contains(&duration) {
        let message = format!("DurationSeconds is {MIN_SESSION} to {MAX_SESSION}.");
        return Err(Refusal::new("ValidationError", message).into());
    }
    let Ok(owner) = account(door, Some(owner)) else {
        let message = format!("The sandbox has no account for the role {}", excerpt(&role));
        return Err(Refusal::new("AccessDenied", message).into());
    };
    let issued = caller::issue(&owner, &role, &session, door.random.as_ref());
    let ends = door.clock.now() + Duration::from_secs(duration.unsigned_abs().into());
    let credentials = Element::new("Credentials")
        .member("AccessKeyId", &issued.key_id)
        .member("SecretAccessKey", &issued.secret)
        .member("SessionToken", &issued.token)
        .member("Expiration", super::timestamp(ends));
    let user = Element::new("AssumedRoleUser")
        .member("AssumedRoleId", format!("{}:{session}", caller::id_of("AROA", &owner, &role)))
        .member("Arn", assumed(&role, &owner, &session));
    Ok(Answered::new([credentials, user]))
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
    let well_formed = partition.starts_with("aws") && !name.is_empty() && role.len() <= 2048;
    AccountId::parse(account).filter(|_| well_formed)
}

/// The ARN of a session.
fn assumed(role: &str, account: &AccountId, session: &str) -> String {
    let name = role.rsplit('/').next().unwrap_or_default();
    format!("arn:aws:sts::{account}:assumed-role/{name}/{session}")
}
