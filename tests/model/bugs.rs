//! Bugs, planted from outside, one for each promise: what the rules must find.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    backend::{GroupImage, RevokeRules, Selection},
    clock::Clock,
    ledger::{
        Answer, Filter, Intended, Intent, Key, Ledger, LedgerError, Look, Looked, Move, Plan,
        Record, State, Turn, stored::StoredRule,
    },
    rule::{Rule, RuleSpec},
};
use tokio::time::Instant;

use crate::world::{Applied, Time, World};

/// Makes a ledger for a backend.
pub type Engine = dyn Fn(&str, Arc<Time>) -> Arc<dyn Ledger> + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Who was fenced out may write.
    NoFence,
    /// The network makes a request again much later.
    SentTwice,
    /// The background sends what is left.
    BackgroundSends,
    /// An intent is acknowledged and not written.
    NoIntent,
    /// A replayed answer is another.
    ForgedReplay,
    /// Nobody tells the operation that its caller has gone.
    NobodyLeaves,
    /// An outcome is acknowledged and not written.
    LostOutcome,
    /// RELEASED is written as UNRESOLVED.
    ForgedMove,
    /// Nothing is settled in the background.
    NoBackground,
    /// It is settled before the last request can have arrived.
    HoldsTooShort,
    /// EC2 refuses and does it.
    LyingRefusal,
    /// EC2 does not say all that it did.
    LyingAnswer,
    /// Two operations of a group at once.
    UnguardedGroups,
    /// Rule ids become properties.
    PropertiesAgain,
    /// A rule that was modified is seen as it was planned.
    AsPlanned,
    /// A key is not looked up.
    ForgottenKeys,
    /// UNRESOLVED, and nobody knows why.
    NoCause,
    /// The ledger forbids what is allowed.
    SternLedger,
    /// The background sees no rules.
    BlindReads,
    /// A caller is told that nothing was sent.
    FalseComfort,
}

impl World {
    /// EC2's answer, or what a bug makes of it.
    pub fn forge(&self, mut answer: Applied) -> Applied {
        if self.has(Bug::LyingAnswer) {
            match &mut answer {
                Applied::Revoked(revoked) => {
                    revoked.revoked.pop();
                }
                Applied::Authorized(authorized) => {
                    authorized.rules.pop();
                }
                Applied::Created(_) | Applied::Deleted(_) => {}
            }
        }
        answer
    }

    pub fn as_planned(&self, operation: &str, image: GroupImage) -> GroupImage {
        let record = self.book().records.get(operation).cloned();
        let Some(Plan::Revoke { rules, .. }) = record.map(|record| record.plan) else {
            return image;
        };
        let planned =
            |rule: &Rule| rules.iter().filter_map(StoredRule::to_rule).find(|it| it.id == rule.id);
        let seen = image.rules.iter().map(|rule| planned(rule).unwrap_or_else(|| rule.clone()));
        GroupImage { rules: Arc::new(seen.collect()), ..image }
    }

    pub async fn by_properties(&self, request: RevokeRules) -> RevokeRules {
        let Selection::Ids(ids) = &request.selection else { return request };
        let image = self.image(&request.group).await;
        let rules = image.iter().flat_map(|image| image.rules.iter());
        let specs: Vec<RuleSpec> =
            rules.filter(|rule| ids.contains(&rule.id)).map(|rule| rule.spec()).collect();
        match specs.is_empty() {
            true => request,
            false => RevokeRules { selection: Selection::Specs(specs), ..request },
        }
    }
}

/// An engine with a bug in it.
pub fn spoil(inner: Arc<dyn Ledger>, bug: Option<Bug>, time: Arc<Time>) -> Arc<dyn Ledger> {
    match bug {
        Some(
            bug @ (Bug::NoFence
            | Bug::LostOutcome
            | Bug::ForgedMove
            | Bug::UnguardedGroups
            | Bug::ForgottenKeys
            | Bug::NoCause),
        ) => Arc::new(Spoilt { inner, bug, time, asked: Mutex::default() }),
        _ => inner,
    }
}

#[derive(Debug)]
struct Spoilt {
    inner: Arc<dyn Ledger>,
    bug: Bug,
    time: Arc<Time>,
    /// What was asked for, by operation.
    asked: Mutex<HashMap<String, (String, Option<Key>)>>,
}

impl Spoilt {
    /// As who asked for it knows it.
    fn as_asked(&self, record: Record) -> Record {
        match self.asked.lock().unwrap().get(&record.id).cloned() {
            Some((group, key)) => Record { group, key, ..record },
            None => record,
        }
    }

    async fn record(&self, id: &str) -> Option<Record> {
        let filter = Filter { id: Some(id.to_owned()), limit: 1, ..Filter::default() };
        self.inner.list(&filter).await.unwrap().pop()
    }
}

impl Ledger for Spoilt {
    fn turn<'a>(&'a self, group: &'a str, until: Instant) -> Answer<'a, Turn> {
        self.inner.turn(group, until)
    }

    fn look<'a>(&'a self, question: &'a Look) -> Answer<'a, Looked> {
        self.inner.look(question)
    }

    fn intend<'a>(&'a self, intent: &'a Intent) -> Answer<'a, Intended> {
        Box::pin(async move {
            let asked = (intent.group.clone(), intent.key.clone());
            self.asked.lock().unwrap().insert(intent.id.clone(), asked);
            let mut intent = intent.clone();
            match self.bug {
                Bug::UnguardedGroups => intent.group.push_str(&intent.id),
                Bug::ForgottenKeys => intent.key = None,
                _ => {}
            }
            Ok(match self.inner.intend(&intent).await? {
                Intended::Written(record) => Intended::Written(Box::new(self.as_asked(*record))),
                taken => taken,
            })
        })
    }

    fn advance<'a>(&'a self, id: &'a str, fence: u64, step: &'a Move) -> Answer<'a, Record> {
        Box::pin(async move {
            let Some(record) = self.record(id).await else {
                return self.inner.advance(id, fence, step).await;
            };
            let step = step.clone();
            match self.bug {
                Bug::NoFence => self.inner.advance(id, record.fence, &step).await,
                Bug::LostOutcome if step.to == Some(State::Succeeded) => {
                    record.advanced(fence, &step, self.time.now())
                }
                Bug::ForgedMove if step.to == Some(State::Released) => {
                    if record.fence != fence {
                        return Err(LedgerError::Fenced);
                    }
                    Ok(Record { state: State::Unresolved, ..record })
                }
                Bug::NoCause if step.to == Some(State::Unresolved) => {
                    let step = Move { note: None, ..step };
                    let done = self.inner.advance(id, fence, &step).await?;
                    Ok(Record { notes: Vec::new(), ..done })
                }
                _ => self.inner.advance(id, fence, &step).await.map(|done| self.as_asked(done)),
            }
        })
    }

    fn take_over<'a>(
        &'a self,
        id: &'a str,
        fence: u64,
        hold: Duration,
    ) -> Answer<'a, Option<Record>> {
        self.inner.take_over(id, fence, hold)
    }

    fn changed<'a>(&'a self, id: &'a str, version: u64) -> Answer<'a, ()> {
        self.inner.changed(id, version)
    }

    fn list<'a>(&'a self, filter: &'a Filter) -> Answer<'a, Vec<Record>> {
        self.inner.list(filter)
    }

    fn sweep(&self, limit: usize) -> Answer<'_, usize> {
        self.inner.sweep(limit)
    }

    fn check(&self) -> Answer<'_, ()> {
        self.inner.check()
    }
}
