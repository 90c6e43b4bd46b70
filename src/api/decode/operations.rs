//! The requests of OperationService.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Checks, INVALID_VALUE, MISSING, v1};
use crate::{
    ledger::{Key, State},
    operations::records::{Query, Which, Word},
    principal::Principal,
    rule::{
        GroupId, Violation,
        permission::{excerpt, given, malformed_group_id},
    },
};

/// The page sizes, and the one that counts if none is given.
const SIZES: std::ops::RangeInclusive<usize> = 1..=1000;
const SIZE: usize = 100;

/// The longest operation id, token and caller that are looked at, and the longest reason.
const MAX_ID: usize = 64;
const MAX_TEXT: usize = 4096;
const MAX_REASON: usize = 512;

type Result<T> = std::result::Result<T, Vec<Violation>>;

/// Which operation.
pub fn get(request: &v1::GetOperationRequest) -> Result<Which> {
    let mut checks = Checks::default();
    let v1::GetOperationRequest { operation_id, idempotency_key, target } = request;
    let (account, region) = checks.target(target.clone());
    if !operation_id.is_empty() && (account.is_some() || region.is_some()) {
        let message =
            "An operation_id tells where it is: give a target with an idempotency_key only.";
        checks.refuse::<()>("target", super::COMBINATION, message);
    }
    let which = match (given(Some(operation_id)), given(Some(idempotency_key))) {
        (Some(id), None) => checks.operation_id(id).map(Which::Id),
        (None, Some(key)) => match Key::parse(key) {
            Some(key) => Some(Which::Key(key, account, region)),
            None => {
                let message = "Expecting 1 to 255 visible ASCII characters.";
                checks.refuse("idempotency_key", INVALID_VALUE, message)
            }
        },
        (None, None) => {
            let message = "Give an operation_id or an idempotency_key.";
            checks.refuse("operation_id", MISSING, message)
        }
        (Some(_), Some(_)) => {
            let message = "Give an operation_id or an idempotency_key, not both.";
            checks.refuse("idempotency_key", super::COMBINATION, message)
        }
    };
    which.filter(|_| checks.violations.is_empty()).ok_or(checks.violations)
}

/// Which operations, and which page of them.
pub fn list(request: v1::ListOperationsRequest) -> Result<Query> {
    let mut checks = Checks::default();
    let (account, region) = checks.target(request.target);
    let mut states = Vec::new();
    if request.states.len() > State::ALL.len() {
        let message = format!("At most {} states can be given.", State::ALL.len());
        checks.refuse::<()>("states", INVALID_VALUE, message);
    }
    for (at, number) in request.states.iter().take(State::ALL.len()).enumerate() {
        match v1::OperationState::try_from(*number).ok().and_then(state) {
            Some(state) => states.push(state),
            None => {
                let message = format!("There is no state {number} to ask for.");
                checks.refuse::<()>(format!("states[{at}]"), INVALID_VALUE, message);
            }
        }
    }
    let caller = given(Some(&request.caller)).and_then(|text| {
        let known = Some(text).filter(|text| text.len() <= MAX_TEXT).and_then(Principal::parse_id);
        known.map(|principal| principal.id()).or_else(|| {
            let message = format!("'{}' is not METHOD:ISSUER:SUBJECT.", excerpt(text));
            checks.refuse("caller", INVALID_VALUE, message)
        })
    });
    let group = given(Some(&request.group_id)).and_then(|text| {
        GroupId::parse(text).or_else(|| {
            checks.refuse("group_id", "InvalidGroupId.Malformed", malformed_group_id(text))
        })
    });
    let since = checks.time("created_since", request.created_since);
    let until = checks.time("created_before", request.created_before);
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        let message = "It must be after created_since.";
        checks.refuse::<()>("created_before", INVALID_VALUE, message);
    }
    let size = match usize::try_from(request.page_size) {
        Ok(0) => SIZE,
        Ok(size) if SIZES.contains(&size) => size,
        _ => {
            let message = format!("Expecting {} to {}.", SIZES.start(), SIZES.end());
            checks.refuse::<()>("page_size", INVALID_VALUE, message);
            SIZE
        }
    };
    let token = given(Some(&request.page_token));
    if token.is_some_and(|token| token.len() > MAX_TEXT) {
        let message = "It is no token of an earlier answer.";
        checks.refuse::<()>("page_token", INVALID_VALUE, message);
    }
    let token = token.map(str::to_owned);
    if !checks.violations.is_empty() {
        return Err(checks.violations);
    }
    Ok(Query { states, caller, account, region, group, since, until, size, token })
}

/// An operator's word.
pub fn settle(request: &v1::SettleOperationRequest) -> Result<Word> {
    let mut checks = Checks::default();
    let id = match given(Some(&request.operation_id)) {
        Some(id) => checks.operation_id(id),
        None => checks.missing("operation_id", "OperationId"),
    };
    let to = match v1::SettleAs::try_from(request.r#as) {
        Ok(v1::SettleAs::Succeeded) => Some(State::Succeeded),
        Ok(v1::SettleAs::NotApplied) => Some(State::Released),
        Ok(v1::SettleAs::Unspecified) => checks.missing("as", "As"),
        Err(_) => {
            checks.refuse("as", INVALID_VALUE, format!("There is no value {}.", request.r#as))
        }
    };
    let reason = match request.reason.trim() {
        "" => checks.missing("reason", "Reason"),
        text if text.len() > MAX_REASON || text.chars().any(char::is_control) => {
            let message = "Expecting 1 to 512 bytes without control characters.";
            checks.refuse("reason", INVALID_VALUE, message)
        }
        text => Some(text.to_owned()),
    };
    match (id, to, reason) {
        (Some(id), Some(to), Some(reason)) => Ok(Word { id, to, reason }),
        // Every part that is missing has noted why.
        _ => Err(checks.violations),
    }
}

fn state(state: v1::OperationState) -> Option<State> {
    match state {
        v1::OperationState::Unspecified => None,
        v1::OperationState::InProgress => Some(State::InProgress),
        v1::OperationState::Succeeded => Some(State::Succeeded),
        v1::OperationState::Refused => Some(State::Refused),
        v1::OperationState::Released => Some(State::Released),
        v1::OperationState::InDoubt => Some(State::InDoubt),
        v1::OperationState::Unresolved => Some(State::Unresolved),
    }
}

impl Checks {
    fn operation_id(&mut self, text: &str) -> Option<String> {
        let well_formed = text.len() <= MAX_ID && text.bytes().all(|byte| byte.is_ascii_graphic());
        if well_formed {
            return Some(text.to_owned());
        }
        let message = format!("'{}' is not an operation's id.", excerpt(text));
        self.refuse("operation_id", INVALID_VALUE, message)
    }

    fn time(&mut self, field: &str, time: Option<pbjson_types::Timestamp>) -> Option<SystemTime> {
        let pbjson_types::Timestamp { seconds, nanos } = time?;
        let parts = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
        let parts = parts.filter(|(_, nanos)| *nanos < 1_000_000_000);
        let time = parts
            .and_then(|(seconds, nanos)| UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)))
            // The last moment that a Timestamp may have: the year 9999.
            .filter(|_| seconds <= 253_402_300_799);
        time.or_else(|| self.refuse(field, INVALID_VALUE, "It is no time between 1970 and 9999."))
    }
}
