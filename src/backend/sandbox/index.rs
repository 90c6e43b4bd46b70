//! Finds the group of a rule id, among millions, in little memory.
//!
//! Ids are kept as 64-bit hashes and groups as 32-bit numbers: 16 bytes a rule instead of 48. An id whose hash
//! another one had first is kept in full. A hash can still be another id's, so the answer is the only group that can
//! have the rule, and whoever asks looks there.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
};

use crate::rule::{GroupId, Rule, RuleId};

/// A group's number in the index.
pub type Ordinal = u32;

/// Rule ids and the groups that have them.
#[derive(Clone, Debug, Default)]
pub struct RuleIndex {
    hasher: RandomState,
    groups: Vec<GroupId>,
    retired: Vec<Ordinal>,
    by_hash: HashMap<u64, Ordinal, BuildHasherDefault<AsItIs>>,
    collided: HashMap<RuleId, Ordinal>,
}

/// The keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

// === impl RuleIndex ===

impl RuleIndex {
    /// Numbers a group.
    pub fn enroll(&mut self, group: GroupId) -> Ordinal {
        if let Some(ordinal) = self.retired.pop()
            && let Some(place) = self.groups.get_mut(ordinal as usize)
        {
            *place = group;
            return ordinal;
        }
        self.groups.push(group);
        Ordinal::try_from(self.groups.len() - 1).unwrap_or(Ordinal::MAX)
    }

    /// Frees a group's number.
    pub fn retire(&mut self, ordinal: Ordinal) {
        self.retired.push(ordinal);
    }

    /// Rules came to a group. None of their ids is known yet.
    pub fn add(&mut self, ordinal: Ordinal, rules: &[Rule]) {
        for rule in rules {
            match self.by_hash.entry(self.hasher.hash_one(&rule.id)) {
                Entry::Vacant(place) => {
                    place.insert(ordinal);
                }
                Entry::Occupied(_) => {
                    self.collided.insert(rule.id.clone(), ordinal);
                }
            }
        }
    }

    /// Rules went.
    pub fn remove(&mut self, rules: &[Rule]) {
        for rule in rules {
            if self.collided.remove(&rule.id).is_none() {
                self.by_hash.remove(&self.hasher.hash_one(&rule.id));
            }
        }
    }

    /// The only group that can have a rule with this id.
    pub fn candidate(&self, id: &RuleId) -> Option<&GroupId> {
        let ordinal = match self.collided.get(id) {
            Some(ordinal) => ordinal,
            None => self.by_hash.get(&self.hasher.hash_one(id))?,
        };
        self.groups.get(*ordinal as usize)
    }
}

// === impl AsItIs ===

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
