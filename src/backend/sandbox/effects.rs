//! What was applied, and how many calls came: tests of other services count effects here.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use crate::{
    backend::AwsSession,
    rule::{AccountId, GroupId, Rule, Target},
};

/// The most effects that are kept.
const MAX_EFFECTS: usize = 100_000;

/// The most rules, and tags of rules, that the kept effects hold together. One call may change a thousand rules, so a
/// bound on effects alone would not bound memory.
const MAX_RULES: usize = 1_000_000;

/// What an action changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// EC2's name of the action.
    pub action: &'static str,
    /// The group.
    pub group_id: GroupId,
    /// Its owner.
    pub owner_id: AccountId,
    /// The rules that were removed or added; modified, described or tagged ones as they are after it.
    pub rules: Vec<Rule>,
}

/// One change, with when and by which call.
#[derive(Clone, Debug)]
pub struct Effect {
    /// 1, 2, 3 ...
    pub sequence: u32,
    /// When.
    pub applied_at: SystemTime,
    /// Where.
    pub target: Target,
    /// What.
    pub change: Change,
    /// The sandbox's id for the call.
    pub request_id: String,
    /// The Portcullis operation.
    pub operation_id: String,
    /// The AWS session that made the call, if one did.
    pub session: Option<Arc<AwsSession>>,
}

/// The log of effects and the counters of calls.
#[derive(Debug, Default)]
pub struct Effects {
    log: VecDeque<Effect>,
    rules: usize,
    last: u32,
    calls: BTreeMap<&'static str, u32>,
}

impl Change {
    fn weight(&self) -> usize {
        self.rules.iter().map(|rule| 1 + rule.tags().len()).sum()
    }
}

impl Effects {
    /// A call came.
    pub fn count(&mut self, action: &'static str) {
        let calls = self.calls.entry(action).or_default();
        *calls = calls.saturating_add(1);
    }

    /// A change was applied. The sequence number is set here.
    pub fn record(&mut self, effect: Effect) {
        self.last = self.last.saturating_add(1);
        self.rules += effect.change.weight();
        self.log.push_back(Effect { sequence: self.last, ..effect });
        while self.log.len() > MAX_EFFECTS || self.rules > MAX_RULES {
            let Some(oldest) = self.log.pop_front() else { break };
            self.rules -= oldest.change.weight();
        }
    }

    /// The kept effects, oldest first.
    pub fn log(&self) -> impl Iterator<Item = &Effect> {
        self.log.iter()
    }

    /// How many calls came, by action.
    pub fn calls(&self) -> &BTreeMap<&'static str, u32> {
        &self.calls
    }
}
