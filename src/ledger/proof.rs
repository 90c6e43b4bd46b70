//! What must be so in every ledger, whichever engine keeps it: how the events of a record follow each other, and what a
//! record is in each state. Pure, and one event at a time: verifying takes no memory for what it has read.
//!
//! The chain proves that nothing was changed since it was written. This proves that what was written was right.

use super::{
    Record, State,
    chain::{Hash, SWEPT},
};

/// The most findings that are told; there is no use in more.
const MAX_FINDINGS: usize = 100;

/// What was found to be wrong, in plain words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<String>);

/// One event of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The record's version.
    pub version: u64,
    /// Its state. None: it was swept.
    pub state: Option<State>,
    /// Of the record as it was stored. Nothing is said of a swept one's.
    pub digest: Hash,
}

/// The events of record after record.
#[derive(Debug)]
pub struct Course {
    /// Whether the chain's beginning was cut off: the first event that is kept of a record need not be its first.
    is_cut: bool,
    /// Whose events are read, and the last one of them that could be.
    now: Option<(String, Option<Step>)>,
}

// === impl Findings ===

impl Findings {
    /// One more.
    pub fn add(&mut self, finding: String) {
        if self.0.len() < MAX_FINDINGS {
            self.0.push(finding);
        }
    }

    /// All of them; at most 100.
    pub fn into_told(self) -> Vec<String> {
        self.0
    }
}

// === impl Course ===

impl Course {
    /// At the beginning. `is_cut`: whether the chain's was cut off.
    pub fn new(is_cut: bool) -> Self {
        Self { is_cut, now: None }
    }

    /// The next event. Those of a record come together, and in the order of their versions.
    pub fn next(&mut self, id: &str, kind: &str, version: u64, digest: Hash, found: &mut Findings) {
        let before = match self.now.take() {
            Some((of, step)) if of == id => step,
            _ => None,
        };
        let state = if kind == SWEPT { None } else { State::parse(kind) };
        let step = if state.is_none() && kind != SWEPT {
            found.add(format!("{id}: an event says {kind}, which is no state"));
            before
        } else {
            let step = Step { version, state, digest };
            if let Some(wrong) = wrong_step(before.as_ref(), &step, self.is_cut) {
                found.add(format!("{id}: {wrong}"));
            }
            Some(step)
        };
        self.now = Some((id.to_owned(), step));
    }

    /// The last event that was read, if it is this record's.
    pub fn last_of(&self, id: &str) -> Option<&Step> {
        let (of, step) = self.now.as_ref()?;
        step.as_ref().filter(|_| of == id)
    }
}

/// What is wrong with an event after the one before it of the same record. None: nothing.
pub fn wrong_step(before: Option<&Step>, step: &Step, is_cut: bool) -> Option<String> {
    let Step { version, state, digest } = step;
    let Some(before) = before else {
        return match state {
            // Swept, and its own events were cut off since.
            _ if is_cut && *version > 1 => None,
            None if is_cut => None,
            None => Some("it was swept, and none of its own events is there".to_owned()),
            Some(_) if *version != 1 => Some(format!("its events begin with version {version}")),
            Some(state) if !state.may_begin() => Some(format!("it began {state}")),
            Some(_) => None,
        };
    };
    let Some(was) = before.state else {
        return Some(format!("version {version} was written after it was swept"));
    };
    let Some(is) = *state else {
        if before.version != *version {
            let last = before.version;
            return Some(format!("version {version} was swept, and {last} was written last"));
        }
        return (was.is_unsettled() || was == State::Unresolved)
            .then(|| format!("it was swept while it was {was}"));
    };
    if *version == before.version {
        // When the chain is cut, the last event of a record that stays is said again.
        let again = was == is && *digest == before.digest;
        return (!again).then(|| format!("version {version} was written twice"));
    }
    if *version != before.version + 1 {
        return Some(format!("version {version} was written after {}", before.version));
    }
    // A note changes no state.
    (was != is && !was.may_become(is))
        .then(|| format!("version {version} went from {was} to {is}, and there is no such move"))
}

/// What is wrong with a record by itself, and with its last event. None: nothing.
pub fn wrong_record(record: &Record, last: Option<&Step>) -> Option<String> {
    let Record { state, version, fence, attempts, settled_at, settled_by, answer, .. } = record;
    let waits = state.is_unsettled() || *state == State::Unresolved;
    let words = match last {
        None => return Some("it has no event".to_owned()),
        Some(Step { state: None, .. }) => "it is there although it was swept",
        Some(Step { version: last, .. }) if last != version => {
            return Some(format!("it is version {version}, and {last} was written last"));
        }
        Some(Step { state: Some(last), .. }) if last != state => {
            return Some(format!("it is {state}, and was {last} when it was written last"));
        }
        Some(_) if state.is_final() && answer.is_none() => "it is final and has no answer",
        Some(_) if waits && answer.is_some() => "it is not settled and has an answer",
        Some(_) if waits != settled_at.is_none() => {
            "when it was settled does not go with its state"
        }
        Some(_) if waits != settled_by.is_none() => "how it was settled does not go with its state",
        Some(_) if *fence == 0 || *attempts == 0 => "nobody ever held it",
        Some(_) if fence > version || u64::from(*attempts) > *version => {
            "it was held more often than it was written"
        }
        Some(_) => return None,
    };
    Some(format!("{words}: {state}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::ledger::{Intent, Move, Plan, Recorded};

    fn step(version: u64, state: State) -> Step {
        Step { version, state: Some(state), digest: [version.to_be_bytes()[7]; 32] }
    }

    fn swept(version: u64) -> Step {
        Step { version, state: None, digest: [0; 32] }
    }

    #[test]
    fn a_record_moves_by_the_table_one_version_at_a_time() {
        for from in State::ALL {
            for to in State::ALL {
                let before = step(7, from);
                let moves = from == to || from.may_become(to);
                let wrong = wrong_step(Some(&before), &step(8, to), false);
                assert_eq!(wrong.is_none(), moves, "{from} to {to}: {wrong:?}");
                for version in [0, 1, 6, 7, 9, u64::MAX] {
                    let next = Step { digest: [1; 32], ..step(version, to) };
                    assert!(wrong_step(Some(&before), &next, true).is_some(), "{version}");
                }
                let again = wrong_step(Some(&before), &step(7, to), true);
                assert_eq!(again.is_none(), from == to, "said again: {from} {to}");
            }
        }
    }

    #[test]
    fn a_record_begins_with_its_first_version_unless_that_was_cut_off() {
        for state in State::ALL {
            assert_eq!(wrong_step(None, &step(1, state), false).is_none(), state.may_begin());
            assert_eq!(wrong_step(None, &step(1, state), true).is_none(), state.may_begin());
            assert!(wrong_step(None, &step(2, state), false).is_some());
            assert!(wrong_step(None, &step(2, state), true).is_none());
        }
        assert!(wrong_step(None, &swept(1), false).is_some());
        assert!(wrong_step(None, &swept(1), true).is_none());
    }

    #[test]
    fn only_what_is_settled_is_swept_and_that_is_its_end() {
        for state in State::ALL {
            let settled = matches!(state, State::Succeeded | State::Refused | State::Released);
            let wrong = wrong_step(Some(&step(3, state)), &swept(3), true);
            assert_eq!(wrong.is_none(), settled, "{state}: {wrong:?}");
            assert!(wrong_step(Some(&step(3, state)), &swept(2), true).is_some());
            for version in [1, 3, 4] {
                assert!(wrong_step(Some(&swept(3)), &step(version, state), true).is_some());
            }
        }
        assert!(wrong_step(Some(&swept(3)), &swept(3), true).is_some());
    }

    #[test]
    fn a_course_tells_records_apart_and_names_them() {
        let mut found = Findings::default();
        let mut course = Course::new(false);
        for (id, kind, version) in [
            ("a", "IN_PROGRESS", 1),
            ("a", "SUCCEEDED", 2),
            ("b", "REFUSED", 1),
            ("c", "IN_PROGRESS", 1),
            ("c", "FORGOTTEN", 2),
            ("c", "RELEASED", 2),
        ] {
            course.next(id, kind, version, [0; 32], &mut found);
        }
        assert_eq!(course.last_of("c").map(|step| step.version), Some(2));
        assert_eq!(course.last_of("b"), None);
        assert_eq!(found.into_told(), ["c: an event says FORGOTTEN, which is no state"]);
        let mut found = Findings::default();
        for n in 0..1000 {
            found.add(n.to_string());
        }
        assert_eq!(found.into_told().len(), MAX_FINDINGS);
    }

    fn begun() -> Record {
        let intent = Intent {
            id: "op-1".into(),
            fence: 0,
            scope: "s".into(),
            caller: "c".into(),
            key: None,
            fingerprint: "f".into(),
            method: "m".into(),
            account: "a".into(),
            region: "r".into(),
            group: "g".into(),
            request: serde_json::Value::Null,
            plan: Plan::none(),
            change_reason: None,
            trace_id: None,
            hold: Duration::ZERO,
            conclusion: None,
        };
        Record::begin(&intent, SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn every_record_that_moves_make_is_right_and_nothing_may_be_missing() {
        let answer = Some(Recorded { code: 0, message: String::new(), body: Vec::new() });
        let other = |state: State| State::ALL.into_iter().find(|other| *other != state);
        let mut known = vec![begun()];
        let mut seen = vec![State::InProgress];
        while let Some(record) = known.pop() {
            let last = step(record.version, record.state);
            assert_eq!(wrong_record(&record, Some(&last)), None);
            let is_settled = record.settled_at.is_some();
            let spoilt = [
                Record { version: record.version + 1, ..record.clone() },
                Record { fence: 0, ..record.clone() },
                Record { fence: record.version + 1, ..record.clone() },
                Record { attempts: 0, ..record.clone() },
                Record { attempts: 1000, ..record.clone() },
                Record { state: other(record.state).unwrap(), ..record.clone() },
                Record {
                    settled_at: (!is_settled).then_some(SystemTime::UNIX_EPOCH),
                    ..record.clone()
                },
                Record {
                    settled_by: (!is_settled).then_some(crate::ledger::SettledBy::Operator),
                    ..record.clone()
                },
            ];
            for wrong in spoilt {
                assert!(wrong_record(&wrong, Some(&last)).is_some(), "{wrong:?}");
            }
            if record.state != State::Released {
                let answer = if record.state.is_final() { None } else { answer.clone() };
                let wrong = Record { answer, ..record.clone() };
                assert!(wrong_record(&wrong, Some(&last)).is_some(), "{wrong:?}");
            }
            assert!(wrong_record(&record, None).is_some());
            assert!(wrong_record(&record, Some(&swept(record.version))).is_some());
            let nexts = State::ALL.into_iter().filter(|next| record.state.may_become(*next));
            for next in nexts.collect::<Vec<_>>() {
                if seen.contains(&next) {
                    continue;
                }
                seen.push(next);
                let answer = answer.clone().filter(|_| next.is_final());
                let step = Move { answer, ..Move::to(next) };
                known.push(record.advanced(1, &step, SystemTime::UNIX_EPOCH).unwrap());
            }
        }
        assert_eq!(seen.len(), State::ALL.len());
    }
}
