//! What must hold, whatever happens.

use std::{collections::BTreeMap, time::Duration};

use portcullis::{
    api::{
        proto::v1::{
            AuthorizeEgressResponse, AuthorizeIngressResponse, CreateSecurityGroupResponse,
            RevokeEgressResponse, RevokeIngressResponse, WarningKind,
        },
        scribe::method,
    },
    backend::{RevokeRules, Selection},
    error::{Error, Reason},
    ledger::{Filter, Plan, Record, Recorded, SettledBy, State},
    rule::{GroupId, GroupRef},
};
use prost::Message;

use crate::bugs::Bug;
use crate::world::{Begun, Effect, Mutation, World, planned_ids};

/// What an answer says that was done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    removed: Vec<String>,
    added: Vec<String>,
    created: Option<String>,
    read_back: bool,
}

impl World {
    /// Right before a mutation goes out.
    pub fn check_send(&self, call: Option<usize>, operation: &str, mutation: &Mutation) {
        let (begun, record, over, sent) = {
            let mut book = self.book();
            book.tally.sent += 1;
            let called = call.map(|call| &mut book.calls[call]);
            let (over, sent) = called.map_or((false, 0), |called| {
                called.sent += 1;
                (called.over, called.sent)
            });
            let begun = book.begun.insert(operation.to_owned(), Begun::Spent);
            if begun == Some(Begun::Rest) {
                book.tally.sent_again += 1;
            }
            (begun, book.records.get(operation).cloned(), over, sent)
        };
        if call.is_none() {
            self.broken(|| format!("the background sent {operation}"));
        }
        if over && sent == 1 {
            self.broken(|| format!("{operation} was sent after its caller gave up"));
        }
        let Some(record) = record else {
            return self.broken(|| format!("{operation} was sent without an intent"));
        };
        let begun = match begun {
            Some(Begun::Spent) | None => {
                return self.broken(|| format!("{operation} was sent again without an intent"));
            }
            Some(begun) => begun,
        };
        if record.state != State::InProgress || record.held_until < self.now() + self.terms.attempt
        {
            self.broken(|| format!("{operation} was sent while it was {}", record.state));
        }
        let planned = planned_ids(&record.plan);
        let by_ids = |request: &RevokeRules| match &request.selection {
            Selection::Ids(ids) => ids.iter().all(|id| planned.contains(&id.to_string())),
            Selection::Specs(_) => false,
        };
        let right = match (mutation, &record.plan) {
            (Mutation::Revoke(request), Plan::Revoke { .. }) => {
                begun == Begun::Attempt || by_ids(request)
            }
            (Mutation::Authorize(_), Plan::Authorize { .. })
            | (Mutation::Create(_), Plan::Create { .. })
            | (Mutation::Delete(_), Plan::Delete { .. }) => begun == Begun::Attempt,
            _ => false,
        };
        if !right {
            self.broken(|| format!("{operation} ({begun:?}) was sent other than planned"));
        }
        if let (Mutation::Revoke(request), Plan::Revoke { rules: planned, .. }) =
            (mutation, &record.plan)
            && let Selection::Ids(ids) = &request.selection
        {
            let read = self.book().read.get(operation).cloned().unwrap_or_default();
            let mut found = read.iter().filter(|rule| ids.contains(&rule.id));
            if !found.all(|rule| planned.iter().any(|planned| planned.is_still(rule))) {
                self.broken(|| format!("{operation} was sent for what is another rule by now"));
            }
        }
    }

    /// What a caller is told that is not the answer.
    pub fn check_error(&self, call: usize, error: &Error) {
        let sent = self.book().calls[call].sent;
        let comfort = error.message.contains("nothing was sent") || self.has(Bug::FalseComfort);
        if comfort && sent > 0 {
            let reason = error.reason;
            self.broken(|| format!("call {call} is told that nothing was sent: {reason:?}"));
        }
        if error.reason == Reason::Internal {
            self.broken(|| format!("call {call}: a fault of ours: {:?}", error.internal));
        }
    }

    /// When a mutation has had its effect.
    pub async fn check_effect(&self, effect: &Effect) {
        let operation = &effect.operation;
        let (record, asked) = {
            let book = self.book();
            (book.records.get(operation).cloned(), book.asked.get(operation).copied())
        };
        let Some(record) = record else {
            return self.broken(|| format!("{operation} had an effect without an intent"));
        };
        if !record.state.is_unsettled() {
            let state = record.state;
            self.broken(|| format!("{operation} had an effect when it was {state} already"));
        }
        let standing = self.standing(operation, &record.plan).await;
        if !standing.is_empty() {
            self.broken(|| format!("{operation} had a second effect after it {standing:?}"));
        }
        // A rule that came after the pre-image was read goes only if it came before the request was there.
        let planned = planned_ids(&record.plan);
        let slack = self.terms.lag + Duration::from_millis(200);
        for rule in &effect.removed {
            let born = self.book().births.get(&rule.id).copied();
            let late = match (born, asked) {
                (Some(born), Some(asked)) => born + slack >= asked,
                _ => false,
            };
            if !planned.contains(&rule.id.to_string()) && !late {
                self.broken(|| {
                    format!("{operation} removed {}, which it had not planned", rule.id)
                });
            }
        }
    }

    /// When a record has come to an end, for now or for good.
    pub async fn check_settled(&self, record: &Record) {
        let id = &record.id;
        let standing = self.standing(id, &record.plan).await;
        match record.state {
            State::Released | State::Refused if !standing.is_empty() => {
                self.broken(|| format!("{id} is {} and has {standing:?}", record.state));
            }
            State::Succeeded => self.check_success(record).await,
            State::Unresolved => {
                self.book().tally.unresolved += 1;
                let group = record.plan.group().group_id.clone();
                let touched = {
                    let book = self.book();
                    book.effects.iter().any(|effect| effect.operation != *id)
                };
                if !touched {
                    self.broken(|| format!("{id} is UNRESOLVED, and nobody else touched {group}"));
                }
            }
            _ => {}
        }
        if record.settled_by == Some(SettledBy::ReadBack) {
            self.book().tally.settled_by_read += 1;
        }
        if record.state.is_final() && record.answer.is_none() {
            self.broken(|| format!("{id} is {} without an answer", record.state));
        }
    }

    async fn check_success(&self, record: &Record) {
        let id = &record.id;
        let Some(said) = record.answer.as_ref().and_then(|answer| said(&record.method, answer))
        else {
            return self.broken(|| format!("{id} SUCCEEDED with an answer that cannot be read"));
        };
        let effects: Vec<Effect> = {
            let book = self.book();
            book.effects.iter().filter(|effect| effect.operation == *id).cloned().collect()
        };
        if let Some(created) = &said.created {
            let by_us =
                |effect: &Effect| effect.created.as_ref().is_some_and(|id| id.as_str() == created);
            if !effects.iter().any(by_us) {
                self.broken(|| format!("{id} says that it created {created}"));
            }
            return;
        }
        if record.settled_by == Some(SettledBy::ReadBack) || said.read_back {
            return self.check_read_back(record, &said).await;
        }
        let done = match &record.plan {
            Plan::Delete { .. } => {
                // Deleted after all, perhaps: by an earlier attempt, or by others.
                let gone = self.image(&group_of(record)).await.is_none();
                if !gone {
                    self.broken(|| format!("{id} says that it deleted a group"));
                }
                return;
            }
            Plan::Authorize { .. } | Plan::Revoke { .. } | Plan::Create { .. } => {
                // What an earlier attempt did to rules that came after its pre-image is not this answer's.
                let last = effects.last().filter(|effect| effect.attempt == record.attempts);
                let ids = |rules: &[portcullis::rule::Rule]| {
                    let mut ids: Vec<String> =
                        rules.iter().map(|rule| rule.id.to_string()).collect();
                    ids.sort();
                    ids
                };
                Said {
                    removed: last.map(|effect| ids(&effect.removed)).unwrap_or_default(),
                    added: last.map(|effect| ids(&effect.added)).unwrap_or_default(),
                    ..Said::default()
                }
            }
        };
        if done != said {
            self.broken(|| format!("{id} says {said:?} and did {done:?}"));
        }
    }

    /// What was read back is so.
    async fn check_read_back(&self, record: &Record, said: &Said) {
        let Plan::Revoke { .. } = &record.plan else { return };
        let image = self.image(&group_of(record)).await;
        let there = |id: &String| {
            image.iter().any(|image| image.rules.iter().any(|rule| rule.id.as_str() == id))
        };
        let mut planned = planned_ids(&record.plan);
        planned.sort();
        if planned.is_empty() || planned.iter().any(there) || said.removed != planned {
            self.broken(|| format!("{} was read back as done: {planned:?}", record.id));
        }
    }

    /// When all is over.
    pub async fn check_end(&self) {
        let (records, finals) = {
            let book = self.book();
            let finals: Vec<_> = book
                .calls
                .iter()
                .filter_map(|call| Some((call.caller, call.key, call.answer.clone()?)))
                .collect();
            (book.records.clone(), finals)
        };
        let filter = Filter { limit: 1_000_000, ..Filter::default() };
        let kept = self.engine.list(&filter).await.unwrap();
        for record in records.values() {
            let id = &record.id;
            if !kept.iter().any(|kept| kept == record) {
                self.broken(|| format!("{id} was acknowledged as {} and is lost", record.state));
            }
            match record.state {
                State::InProgress | State::InDoubt => {
                    self.broken(|| format!("{id} is {} for ever", record.state));
                }
                State::Unresolved if record.notes.is_empty() => {
                    self.broken(|| format!("{id} is UNRESOLVED without a cause"));
                }
                _ => {}
            }
        }
        let mut of_key: BTreeMap<_, (String, Recorded)> = BTreeMap::new();
        for (caller, key, given) in finals {
            let Some(record) = records.get(&given.operation) else {
                self.broken(|| format!("{} was answered and is lost", given.operation));
                continue;
            };
            if given.lags {
                self.check_lagging(record, &given.recorded);
                continue;
            }
            if record.answer.as_ref() != Some(&given.recorded) {
                self.broken(|| format!("{} was answered otherwise than recorded", record.id));
            }
            if key.is_some() {
                let answer = (given.operation, given.recorded);
                let first = of_key.entry((caller, key)).or_insert_with(|| answer.clone());
                if *first != answer {
                    self.broken(|| format!("{}: another answer than before", answer.0));
                }
            }
        }
    }

    /// EC2's answer was given before it was recorded: a revoke that was made stays made.
    fn check_lagging(&self, record: &Record, recorded: &Recorded) {
        let Some(said) = (recorded.code == 0).then(|| said(&record.method, recorded)).flatten()
        else {
            return;
        };
        if !said.removed.is_empty() && record.state != State::Succeeded {
            self.broken(|| format!("{} was answered as done and is {}", record.id, record.state));
        }
    }
}

fn group_of(record: &Record) -> GroupRef {
    GroupRef::Id(GroupId::new(&record.plan.group().group_id))
}

fn said(of: &str, answer: &Recorded) -> Option<Said> {
    let body = answer.body.as_slice();
    let mut said = Said::default();
    macro_rules! read {
        ($message:ident, $rules:ident, $into:ident) => {{
            let message = $message::decode(body).ok()?;
            let kind = WarningKind::SettledByReadBack;
            said.read_back = message.warnings.iter().any(|warning| warning.kind() == kind);
            let ids = message.$rules.iter().map(|rule| rule.security_group_rule_id().to_owned());
            said.$into = ids.collect();
        }};
    }
    match of {
        method::REVOKE_EGRESS => {
            read!(RevokeEgressResponse, revoked_security_group_rules, removed)
        }
        method::REVOKE_INGRESS => {
            read!(RevokeIngressResponse, revoked_security_group_rules, removed)
        }
        method::AUTHORIZE_EGRESS => read!(AuthorizeEgressResponse, security_group_rules, added),
        method::AUTHORIZE_INGRESS => read!(AuthorizeIngressResponse, security_group_rules, added),
        method::CREATE => {
            said.created =
                Some(CreateSecurityGroupResponse::decode(body).ok()?.group_id().to_owned());
        }
        _ => {}
    }
    said.removed.sort();
    said.added.sort();
    Some(said)
}
