//! Scripted faults. The same script and the same calls meet the same faults.

use std::time::Duration;

use super::around::NOT_AUTHORIZED;
use crate::{
    backend::{BackendError, Failure, Refusal},
    rule::{GroupId, Violation},
};

/// The most faults that wait at a time.
const MAX_WAITING: usize = 1000;
const MAX_COUNT: u32 = 1_000_000;
const MAX_DELAY: Duration = Duration::from_mins(5);
const MAX_CODE: usize = 128;

const INVALID_VALUE: &str = "InvalidParameterValue";
const MISSING: &str = "MissingParameter";

/// The actions that only read.
const READS: [&str; 5] = [
    "DescribeManagedPrefixLists",
    "DescribeSecurityGroupRules",
    "DescribeSecurityGroups",
    "DescribeTags",
    "DescribeVpcs",
];

/// The actions that change something.
const MUTATIONS: [&str; 14] = [
    "AuthorizeSecurityGroupEgress",
    "AuthorizeSecurityGroupIngress",
    "CreateManagedPrefixList",
    "CreateSecurityGroup",
    "CreateTags",
    "CreateVpc",
    "DeleteSecurityGroup",
    "DeleteTags",
    "DeleteVpc",
    "ModifySecurityGroupRules",
    "RevokeSecurityGroupEgress",
    "RevokeSecurityGroupIngress",
    "UpdateSecurityGroupRuleDescriptionsEgress",
    "UpdateSecurityGroupRuleDescriptionsIngress",
];

/// An action of the sandbox by its name.
pub fn action(name: &str) -> Option<&'static str> {
    READS.iter().chain(&MUTATIONS).copied().find(|action| *action == name)
}

/// What a fault does to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RequestLimitExceeded.
    Throttle,
    /// A 5xx with this code.
    ServerError {
        /// The code.
        code: String,
        /// Whether the call is applied before it is answered so.
        after_effect: bool,
    },
    /// Applied at once, answered later.
    Delay(Duration),
    /// AuthFailure.
    RefuseCredentials,
    /// Applied, and the answer is lost.
    LoseAnswer,
    /// A 4xx with this code.
    Refuse(String),
    /// A read from before the latest change.
    StaleRead,
}

/// A fault as it is asked for; [`Script::check`] makes it a [`Fault`].
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The kind's number in the contract, 1 to 7.
    pub kind: i32,
    /// Only calls of this action; empty: any.
    pub action: String,
    /// Only calls about this group; empty: any.
    pub group_id: String,
    /// How many calls; 0: one.
    pub count: u32,
    /// For [`Kind::Delay`].
    pub delay: Option<Result<Duration, ()>>,
    /// For [`Kind::Refuse`] and [`Kind::ServerError`].
    pub error_code: String,
    /// Of how many in 100 calls; 0: of all.
    pub percent: u32,
    /// What draws them.
    pub seed: u64,
    /// For [`Kind::ServerError`].
    pub after_effect: bool,
}

/// A fault that waits.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: Kind,
    action: Option<String>,
    group: Option<GroupId>,
    left: u32,
    percent: u64,
    draws: u64,
    seed: u64,
}

/// The faults that wait, in the order they were injected.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

/// A fault that met a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What it does.
    pub kind: Kind,
    /// The group it was limited to.
    pub group: Option<GroupId>,
}

// === impl Script ===

impl Script {
    /// Checks every field; all violations come back at once.
    pub fn check(self) -> Result<Fault, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut refuse = |field: &str, code: &'static str, message: String| {
            violations.push(Violation::new(format!("fault.{field}"), code, message));
        };
        let takes_code = matches!(self.kind, 2 | 6);
        let action_is_known = self.action.is_empty() || action(&self.action).is_some();
        if !(1..=7).contains(&self.kind) {
            let code = if self.kind == 0 { MISSING } else { INVALID_VALUE };
            refuse("kind", code, "Say what the fault does: a FaultKind other than 0.".to_owned());
        }
        if !action_is_known {
            let message = "Not an action of the sandbox. Expecting EC2's name, such as \
                           RevokeSecurityGroupEgress."
                .to_owned();
            refuse("action", INVALID_VALUE, message);
        } else if self.kind == 7 && MUTATIONS.contains(&self.action.as_str()) {
            let message = format!("{} does not read: STALE_READ cannot apply to it.", self.action);
            refuse("action", INVALID_VALUE, message);
        }
        if !self.group_id.is_empty() && GroupId::parse(&self.group_id).is_none() {
            let message = crate::rule::permission::malformed_group_id(&self.group_id);
            refuse("group_id", "InvalidGroupId.Malformed", message);
        }
        if self.count > MAX_COUNT {
            refuse("count", INVALID_VALUE, format!("At most {MAX_COUNT}."));
        }
        if self.percent > 100 {
            refuse("percent", INVALID_VALUE, "At most 100.".to_owned());
        }
        match (self.kind, &self.delay) {
            (3, None) => {
                refuse("delay", MISSING, "DELAY needs it: for how long.".to_owned());
            }
            (3, Some(delay)) => {
                if !delay.is_ok_and(|delay| !delay.is_zero() && delay <= MAX_DELAY) {
                    let message = format!("More than 0 and at most {} s.", MAX_DELAY.as_secs());
                    refuse("delay", INVALID_VALUE, message);
                }
            }
            (_, Some(_)) => refuse("delay", INVALID_VALUE, "Only with DELAY.".to_owned()),
            (_, None) => {}
        }
        if self.kind == 6 && self.error_code.is_empty() {
            let message = "REFUSE needs it: EC2's error code.".to_owned();
            refuse("error_code", MISSING, message);
        }
        let code_is_valid = self.error_code.len() <= MAX_CODE
            && self.error_code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
        if !code_is_valid {
            let message = format!("Letters, digits and dots, at most {MAX_CODE}.");
            refuse("error_code", INVALID_VALUE, message);
        } else if !takes_code && !self.error_code.is_empty() {
            let message = "Only with REFUSE and SERVER_ERROR.".to_owned();
            refuse("error_code", INVALID_VALUE, message);
        }
        if self.after_effect && self.kind != 2 {
            let message = "Only with SERVER_ERROR.".to_owned();
            refuse("after_effect", INVALID_VALUE, message);
        }
        let kind = match self.kind {
            1 => Kind::Throttle,
            2 => Kind::ServerError {
                code: match self.error_code {
                    code if code.is_empty() => "InternalError".to_owned(),
                    code => code,
                },
                after_effect: self.after_effect,
            },
            3 => Kind::Delay(self.delay.and_then(Result::ok).unwrap_or_default()),
            4 => Kind::RefuseCredentials,
            5 => Kind::LoseAnswer,
            6 => Kind::Refuse(self.error_code),
            _ => Kind::StaleRead,
        };
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Fault {
            kind,
            action: Some(self.action).filter(|action| !action.is_empty()),
            group: GroupId::parse(&self.group_id),
            left: self.count.max(1),
            percent: if self.percent == 0 { 100 } else { self.percent.into() },
            draws: 0,
            seed: self.seed,
        })
    }
}

// === impl Fault ===

impl Fault {
    fn concerns(&self, actions: &[&str], groups: &[GroupId]) -> bool {
        let reads = actions.iter().all(|action| READS.contains(action));
        self.action.as_ref().is_none_or(|action| actions.contains(&action.as_str()))
            && self.group.as_ref().is_none_or(|group| groups.contains(group))
            && (reads || self.kind != Kind::StaleRead)
    }

    fn draw(&mut self) -> bool {
        self.draws += 1;
        mix(self.seed.wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15))) % 100
            < self.percent
    }
}

// === impl Faults ===

impl Faults {
    /// Puts a fault behind those that wait. How many wait now.
    pub fn inject(&mut self, fault: Fault) -> Result<u32, Vec<Violation>> {
        if self.0.len() >= MAX_WAITING {
            let message = format!("{MAX_WAITING} faults wait already: ClearFaults drops them.");
            return Err(vec![Violation::new("fault", "ResourceCountExceeded", message)]);
        }
        self.0.push(fault);
        Ok(u32::try_from(self.0.len()).unwrap_or(u32::MAX))
    }

    /// Drops them all. How many there were.
    pub fn clear(&mut self) -> u32 {
        let cleared = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.clear();
        cleared
    }

    /// The fault that meets a call about these groups, if one does. It is used up by one.
    pub fn strike(&mut self, actions: &[&str], groups: &[GroupId]) -> Option<Strike> {
        let place =
            self.0.iter_mut().position(|fault| fault.concerns(actions, groups) && fault.draw())?;
        let fault = self.0.get_mut(place)?;
        fault.left -= 1;
        let strike = Strike { kind: fault.kind.clone(), group: fault.group.clone() };
        if fault.left == 0 {
            self.0.remove(place);
        }
        Some(strike)
    }
}

// === impl Strike ===

impl Strike {
    /// The error of a call that the fault keeps from being applied.
    pub fn refusal(&self, changes: bool, request_id: &str) -> Option<BackendError> {
        let (code, message) = match &self.kind {
            Kind::Throttle => ("RequestLimitExceeded", "Request limit exceeded."),
            Kind::RefuseCredentials => {
                ("AuthFailure", "AWS was not able to validate the provided access credentials")
            }
            // The door adds why, in code.
            Kind::Refuse(code) if code == "UnauthorizedOperation" => {
                (code.as_str(), NOT_AUTHORIZED)
            }
            Kind::Refuse(code) => (code.as_str(), "Refused by a fault that was injected."),
            Kind::ServerError { after_effect: true, .. } => return None,
            Kind::ServerError { code, .. } => {
                return Some(unanswered(changes, server_error(code.clone(), request_id)));
            }
            Kind::Delay(_) | Kind::LoseAnswer | Kind::StaleRead => return None,
        };
        let refusal = Refusal::new(code, message);
        Some(Refusal { request_id: Some(request_id.to_owned()), ..refusal }.into())
    }
}

/// No readable answer: of a change nobody knows whether it was applied, a read can be tried again.
pub fn unanswered(changes: bool, failure: Failure) -> BackendError {
    if changes { BackendError::OutcomeUnknown(failure) } else { BackendError::Unavailable(failure) }
}

/// A 5xx that was injected.
pub fn server_error(code: String, request_id: &str) -> Failure {
    Failure {
        detail: "a server error that was injected".to_owned(),
        code: Some(code),
        request_id: Some(request_id.to_owned()),
    }
}

/// SplitMix64's output function: unlike a library's generator it is the same in every version.
fn mix(seed: u64) -> u64 {
    let mut bits = seed;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
