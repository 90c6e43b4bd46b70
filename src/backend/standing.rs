//! How EC2 stands, as the calls that were made saw it. Nothing is asked for it: a server that nobody calls knows nothing.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::rule::Target;

/// How a backend stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in this process: there is nothing to be reached.
    InProcess,
    /// The accounts and Regions that it works in, in their order.
    Targets(Vec<TargetStanding>),
}

/// How one account and Region stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetStanding {
    /// Which.
    pub target: Target,
    /// As its last call saw it.
    pub state: State,
    /// How long ago it answered, if only by refusing a request.
    pub answered: Option<Duration>,
    /// What went wrong last, as the metrics' `error_type` has it, and how long ago.
    pub failed: Option<(Cow<'static, str>, Duration)>,
    /// How much of its budget's rate is used, in percent, where calls are paced: less than 100 after it throttled.
    pub pace_percent: Option<u32>,
}

/// What the last call to a target says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// There was none.
    #[default]
    NotCalled,
    /// It answers. A refusal of what was asked for is an answer.
    Ok,
    /// It does not answer, or throttles, or our credentials are not taken, or not to be had.
    Failing,
}

/// What is known of one target. It has room for the last answer and the last failure, however many there are.
#[derive(Debug, Default)]
pub struct LastSeen(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    state: State,
    answered: Option<Instant>,
    failed: Option<(Cow<'static, str>, Instant)>,
}

// === impl Standing ===

impl Standing {
    /// Whether the last call to one of them failed.
    pub fn is_failing(&self) -> bool {
        match self {
            Self::InProcess => false,
            Self::Targets(targets) => targets.iter().any(|target| target.state == State::Failing),
        }
    }

    /// All targets in one word. One that fails is what an operator must see.
    pub fn summary(&self) -> &'static str {
        let targets = match self {
            Self::InProcess => return "in process",
            Self::Targets(targets) => targets,
        };
        let any = |state| targets.iter().any(|target| target.state == state);
        let state = match (self.is_failing(), any(State::Ok)) {
            (true, _) => State::Failing,
            (false, true) => State::Ok,
            (false, false) => State::NotCalled,
        };
        state.as_str()
    }
}

// === impl State ===

impl State {
    /// Its name on the admin port.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotCalled => "not called",
            Self::Ok => "ok",
            Self::Failing => "failing",
        }
    }
}

// === impl LastSeen ===

impl LastSeen {
    /// A call was answered.
    pub fn answered(&self, now: Instant) {
        self.change(|last| {
            last.state = State::Ok;
            last.answered = Some(now);
        });
    }

    /// A call failed, and not for what it asked.
    pub fn failed(&self, class: impl Into<Cow<'static, str>>, now: Instant) {
        self.change(|last| {
            last.state = State::Failing;
            last.failed = Some((class.into(), now));
        });
    }

    /// What is known of this target.
    pub fn standing(&self, target: Target, now: Instant) -> TargetStanding {
        self.change(|Last { state, answered, failed }| TargetStanding {
            target,
            state: *state,
            answered: answered.map(|at| now.saturating_duration_since(at)),
            failed: failed.clone().map(|(class, at)| (class, now.saturating_duration_since(at))),
            pace_percent: None,
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Last) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{AccountId, Region};

    fn target() -> Target {
        Target { account: AccountId::new("123456789012"), region: Region::new("us-east-1") }
    }

    #[test]
    fn the_last_call_says_how_it_stands_and_the_last_failure_stays_known() {
        let (seen, begin) = (LastSeen::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let known = |now| seen.standing(target(), at(now));
        assert_eq!(known(1).state, State::NotCalled);
        assert_eq!((known(1).answered, known(1).failed), (None, None));
        seen.answered(at(2));
        assert_eq!((known(3).state, known(3).answered), (State::Ok, Some(Duration::from_secs(1))));
        seen.failed("unavailable", at(4));
        let failed = Some(("unavailable".into(), Duration::from_secs(1)));
        assert_eq!((known(5).state, known(5).failed), (State::Failing, failed));
        assert_eq!(known(5).answered, Some(Duration::from_secs(3)));
        seen.answered(at(6));
        let failed = Some(("unavailable".into(), Duration::from_secs(3)));
        assert_eq!((known(7).state, known(7).failed), (State::Ok, failed));
    }

    #[test]
    fn one_target_that_fails_is_the_summary() {
        let of = |states: &[State]| {
            let one = |state: &State| TargetStanding {
                state: *state,
                ..LastSeen::default().standing(target(), Instant::now())
            };
            Standing::Targets(states.iter().map(one).collect()).summary()
        };
        assert_eq!(of(&[State::NotCalled, State::NotCalled]), "not called");
        assert_eq!(of(&[State::NotCalled, State::Ok]), "ok");
        assert_eq!(of(&[State::Ok, State::Failing, State::Ok]), "failing");
        assert_eq!(Standing::InProcess.summary(), "in process");
    }
}
