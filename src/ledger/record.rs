//! What a record holds, and how it moves. Pure: engines read a record, move it with these functions under their lock,
//! and write it back.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    LedgerError, State,
    stored::{StoredGroup, StoredRule, StoredTag},
};
use crate::rule::{AccountId, Direction, Region, Target};

/// The most notes of a record, and the most of EC2's request ids: an operation in doubt is read again and again.
const MAX_NOTES: usize = 32;

/// The longest note, in bytes.
const MAX_NOTE: usize = 1024;

/// An idempotency key: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

/// What is about to be sent.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The operation: `op-` and a UUID of version 7.
    pub id: String,
    /// 0 for a new record; of a RELEASED one, which is run again, its fence.
    pub fence: u64,
    /// The backend; part of the scope of keys.
    pub scope: String,
    /// Who asks: `Principal::id()`.
    pub caller: String,
    /// The caller's key.
    pub key: Option<Key>,
    /// Of the request.
    pub fingerprint: String,
    /// The RPC: `portcullis.v1.SecurityGroupService/RevokeEgress`.
    pub method: String,
    /// The account.
    pub account: String,
    /// The Region.
    pub region: String,
    /// What the turn was for: the group, in its account and Region.
    pub group: String,
    /// The request in canonical form.
    pub request: serde_json::Value,
    /// What will be changed, and how to see whether it was.
    pub plan: Plan,
    /// The caller's words.
    pub change_reason: Option<String>,
    /// The trace that the call is part of.
    pub trace_id: Option<String>,
    /// For how long nobody else may settle it.
    pub hold: Duration,
    /// Nothing has to be sent: it is born with this result.
    pub conclusion: Option<(State, Recorded, SettledBy)>,
}

/// What an operation changes, with the part of the pre-image that proves later whether it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Action", rename_all_fields = "PascalCase")]
pub enum Plan {
    /// Rules go.
    Revoke {
        /// The group as it was.
        group: StoredGroup,
        /// Which way.
        is_egress: bool,
        /// The rules of the pre-image that the request named or matched.
        rules: Vec<StoredRule>,
        /// What it named by properties and the pre-image had not.
        unmatched: Vec<StoredRule>,
        /// What it named by id and the pre-image had not.
        unmatched_ids: Vec<String>,
        /// Whether these were all of the group's egress rules.
        removes_last_egress_rule: bool,
        /// A digest of the group's other rules.
        rest: String,
    },
    /// Rules come.
    Authorize {
        /// The group as it was.
        group: StoredGroup,
        /// Which way.
        is_egress: bool,
        /// The rules to add.
        rules: Vec<StoredRule>,
        /// Tags for each of them.
        tags: Vec<StoredTag>,
        /// Rules of the pre-image that are the same but for description and tags: then EC2 refuses the whole.
        present: Vec<StoredRule>,
        /// A digest of all of the group's rules.
        rest: String,
    },
    /// A group comes. It is found again by the operation's id in a tag.
    Create {
        /// The group to be; without an id.
        group: StoredGroup,
    },
    /// A group goes.
    Delete {
        /// The group as it was.
        group: StoredGroup,
    },
}

/// An answer, as it is recorded and replayed: everything but what belongs to one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The gRPC status code; 0 is OK.
    pub code: i32,
    /// The status message; empty if OK.
    pub message: String,
    /// The encoded response, or the encoded `google.rpc.Status`.
    #[serde(with = "bytes")]
    pub body: Vec<u8>,
}

/// How it is known what became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "named and documented in the contract")]
pub enum SettledBy {
    Ec2Answer,
    ReadBack,
    Operator,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in Intent")]
pub struct Record {
    pub id: String,
    pub scope: String,
    pub caller: String,
    pub key: Option<Key>,
    pub fingerprint: String,
    pub method: String,
    pub account: String,
    pub region: String,
    pub group: String,
    pub request: serde_json::Value,
    pub plan: Plan,
    pub change_reason: Option<String>,
    pub trace_id: Option<String>,
    /// Where it stands.
    pub state: State,
    /// Who may move it; grows with every new holder.
    pub fence: u64,
    /// Grows with every change.
    pub version: u64,
    /// How often it was begun.
    pub attempts: u32,
    /// How often it was looked at since without a result.
    pub looks: u32,
    /// While it is unsettled: until when nobody but its holder may touch it.
    #[serde(with = "millis")]
    pub held_until: SystemTime,
    #[serde(with = "millis")]
    pub created_at: SystemTime,
    #[serde(with = "millis")]
    pub changed_at: SystemTime,
    #[serde(with = "millis::option")]
    pub settled_at: Option<SystemTime>,
    pub settled_by: Option<SettledBy>,
    pub answer: Option<Recorded>,
    /// EC2's ids of the requests that were answered.
    pub ec2_request_ids: Vec<String>,
    /// Why it was settled as it was, and what else was seen.
    pub notes: Vec<String>,
}

/// A step of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where to. None: nowhere, only a note is added; that needs no fence.
    pub to: Option<State>,
    /// What is now to be sent.
    pub plan: Option<Plan>,
    /// For how long nobody else may touch it.
    pub hold: Duration,
    /// The answer.
    pub answer: Option<Recorded>,
    /// How it is known.
    pub settled_by: Option<SettledBy>,
    /// EC2's request id.
    pub ec2_request_id: Option<String>,
    /// Why.
    pub note: Option<String>,
}

// === impl Key ===

impl Key {
    /// Checks the syntax.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed =
            (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        well_formed.then(|| Self(text.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Plan ===

impl Plan {
    /// Nothing: until it is known what it will be.
    pub fn none() -> Self {
        Self::Create { group: StoredGroup::default() }
    }

    /// The group, as it was.
    pub fn group(&self) -> &StoredGroup {
        match self {
            Self::Revoke { group, .. }
            | Self::Authorize { group, .. }
            | Self::Create { group }
            | Self::Delete { group } => group,
        }
    }

    /// Which way its rules go.
    pub fn direction(&self) -> Option<Direction> {
        match self {
            Self::Revoke { is_egress, .. } | Self::Authorize { is_egress, .. } => {
                Some(if *is_egress { Direction::Egress } else { Direction::Ingress })
            }
            Self::Create { .. } | Self::Delete { .. } => None,
        }
    }
}

// === impl Move ===

impl Move {
    /// To a state, with nothing else.
    pub fn to(state: State) -> Self {
        Self { to: Some(state), ..Self::note("") }
    }

    /// Nowhere: what was seen is written down.
    pub fn note(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            to: None,
            plan: None,
            hold: Duration::ZERO,
            answer: None,
            settled_by: None,
            ec2_request_id: None,
            note: (!text.is_empty()).then_some(text),
        }
    }
}

// === impl Record ===

impl Record {
    /// The record of a new operation.
    pub fn begin(intent: &Intent, now: SystemTime) -> Result<Self, LedgerError> {
        let record = Self {
            id: intent.id.clone(),
            scope: intent.scope.clone(),
            caller: intent.caller.clone(),
            key: intent.key.clone(),
            fingerprint: intent.fingerprint.clone(),
            method: intent.method.clone(),
            account: intent.account.clone(),
            region: intent.region.clone(),
            group: intent.group.clone(),
            request: intent.request.clone(),
            plan: intent.plan.clone(),
            change_reason: intent.change_reason.clone(),
            trace_id: intent.trace_id.clone(),
            state: State::InProgress,
            fence: 0,
            version: 0,
            attempts: 0,
            looks: 0,
            held_until: now,
            created_at: now,
            changed_at: now,
            settled_at: None,
            settled_by: None,
            answer: None,
            ec2_request_ids: Vec::new(),
            notes: Vec::new(),
        };
        if intent.fence != 0 {
            return Err(LedgerError::Fenced);
        }
        record.born(intent, now)
    }

    /// The next attempt of an operation that was released.
    pub fn again(&self, intent: &Intent, now: SystemTime) -> Result<Self, LedgerError> {
        if self.fence != intent.fence || self.state != State::Released {
            return Err(LedgerError::Fenced);
        }
        let record = Self {
            plan: intent.plan.clone(),
            group: intent.group.clone(),
            trace_id: intent.trace_id.clone(),
            settled_at: None,
            settled_by: None,
            answer: None,
            ..self.clone()
        };
        record.born(intent, now)
    }

    fn born(mut self, intent: &Intent, now: SystemTime) -> Result<Self, LedgerError> {
        self.fence += 1;
        self.version += 1;
        self.attempts += 1;
        self.looks = 0;
        self.changed_at = now;
        self.held_until = now + intent.hold;
        self.state = State::InProgress;
        if let Some((state, answer, by)) = &intent.conclusion {
            if !state.may_begin() || !state.is_final() {
                return Err(LedgerError::Forbidden(format!("an operation is not born {state}")));
            }
            self.state = *state;
            self.answer = Some(answer.clone());
            self.settled(*by, now);
        }
        Ok(self)
    }

    /// The record after a step. The same step again is no step.
    pub fn advanced(&self, fence: u64, step: &Move, now: SystemTime) -> Result<Self, LedgerError> {
        let mut next = self.clone();
        next.version += 1;
        next.changed_at = now;
        next.remember(step);
        let Some(to) = step.to else { return Ok(next) };
        if self.fence != fence {
            return Err(LedgerError::Fenced);
        }
        if self.state == to && !to.is_unsettled() && self.answer == step.answer {
            return Ok(self.clone());
        }
        if !self.state.may_become(to) {
            return Err(LedgerError::Forbidden(format!("{} to {to} ({})", self.state, self.id)));
        }
        next.state = to;
        next.held_until = now + step.hold;
        if let Some(plan) = &step.plan {
            next.plan = plan.clone();
        }
        match (self.state, to) {
            (State::InDoubt, State::InProgress) => {
                next.attempts += 1;
                next.looks = 0;
            }
            (State::InDoubt, State::InDoubt) => next.looks += 1,
            _ => {}
        }
        if to == State::Unresolved {
            next.held_until = now;
        } else if !to.is_unsettled() {
            next.answer.clone_from(&step.answer);
            next.settled(step.settled_by.unwrap_or(SettledBy::Ec2Answer), now);
        }
        Ok(next)
    }

    /// The record in the hands of somebody who settles it. None: not yet, or no longer.
    pub fn taken_over(&self, fence: u64, hold: Duration, now: SystemTime) -> Option<Self> {
        let free = self.fence == fence && self.state.is_unsettled() && self.held_until <= now;
        free.then(|| Self {
            state: State::InDoubt,
            fence: self.fence + 1,
            version: self.version + 1,
            changed_at: now,
            held_until: now + hold,
            ..self.clone()
        })
    }

    /// Where it works.
    pub fn target(&self) -> Target {
        Target { account: AccountId::new(&self.account), region: Region::new(&self.region) }
    }

    /// Until when a settled record's key is known.
    pub fn key_ends(&self, retention: Duration) -> Option<SystemTime> {
        self.settled_at.map(|at| at + retention)
    }

    fn settled(&mut self, by: SettledBy, now: SystemTime) {
        self.settled_at = Some(now);
        self.settled_by = Some(by);
        self.held_until = now;
    }

    fn remember(&mut self, step: &Move) {
        if let Some(id) = &step.ec2_request_id
            && self.ec2_request_ids.len() < MAX_NOTES
        {
            self.ec2_request_ids.push(id.clone());
        }
        if let Some(note) = &step.note {
            let mut note = note.clone();
            let end = (0..=MAX_NOTE).rev().find(|&end| note.is_char_boundary(end)).unwrap_or(0);
            note.truncate(end);
            if self.notes.last() == Some(&note) {
                return;
            }
            // The first notes tell how it began, the last how it ended.
            if self.notes.len() == MAX_NOTES {
                self.notes.remove(MAX_NOTES / 2);
            }
            self.notes.push(note);
        }
    }
}

/// Times as milliseconds since 1970.
mod millis {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(super::to_millis(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        u64::deserialize(from).map(|millis| UNIX_EPOCH + Duration::from_millis(millis))
    }

    pub mod option {
        use super::{Deserialize, Deserializer, Duration, Serializer, SystemTime, UNIX_EPOCH};

        pub fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => to.serialize_some(&super::super::to_millis(*time)),
                None => to.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            let millis = Option::<u64>::deserialize(from)?;
            Ok(millis.map(|millis| UNIX_EPOCH + Duration::from_millis(millis)))
        }
    }
}

/// Milliseconds since 1970; engines order and compare times in them.
pub fn to_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes as base64.
mod bytes {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map_err(D::Error::custom)
    }
}
