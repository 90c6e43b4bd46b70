//! The states of an operation, and the one table of how it may move between them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an operation stands. The names are the contract's and the engines'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The intent is durable and somebody holds it.
    InProgress,
    /// EC2 said yes, or reading back proved it.
    Succeeded,
    /// EC2 said no, and would say it again.
    Refused,
    /// Certainly without effect, and trying again can help.
    Released,
    /// It may have had its effect.
    InDoubt,
    /// Nobody but an operator can tell.
    Unresolved,
}

/// Every move that there is. A record is born IN_PROGRESS or, where nothing had to be sent, SUCCEEDED or REFUSED.
const TABLE: &[(State, State)] = &[
    // Its holder sends once more, by other rule ids.
    (State::InProgress, State::InProgress),
    (State::InProgress, State::Succeeded),
    (State::InProgress, State::Refused),
    (State::InProgress, State::Released),
    (State::InProgress, State::InDoubt),
    // Taken over, or read without a result.
    (State::InDoubt, State::InDoubt),
    // A live caller with the key sends the rest.
    (State::InDoubt, State::InProgress),
    (State::InDoubt, State::Succeeded),
    (State::InDoubt, State::Refused),
    (State::InDoubt, State::Released),
    (State::InDoubt, State::Unresolved),
    // The same call again.
    (State::Released, State::InProgress),
    (State::Released, State::Succeeded),
    (State::Released, State::Refused),
    // An operator decides.
    (State::Unresolved, State::Succeeded),
    (State::Unresolved, State::Released),
];

impl State {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::InProgress,
        Self::Succeeded,
        Self::Refused,
        Self::Released,
        Self::InDoubt,
        Self::Unresolved,
    ];

    /// Whether the table has the move.
    pub fn may_become(self, to: Self) -> bool {
        TABLE.contains(&(self, to))
    }

    /// Whether a record may be born in it.
    pub fn may_begin(self) -> bool {
        matches!(self, Self::InProgress | Self::Succeeded | Self::Refused)
    }

    /// Whether nobody knows yet what it did: then no other change of its group is begun.
    pub fn is_unsettled(self) -> bool {
        matches!(self, Self::InProgress | Self::InDoubt)
    }

    /// Whether its answer is final.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Refused)
    }

    /// As it is written: `IN_PROGRESS`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "IN_PROGRESS",
            Self::Succeeded => "SUCCEEDED",
            Self::Refused => "REFUSED",
            Self::Released => "RELEASED",
            Self::InDoubt => "IN_DOUBT",
            Self::Unresolved => "UNRESOLVED",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_final_never_moves() {
        for from in State::ALL.into_iter().filter(|state| state.is_final()) {
            assert!(State::ALL.into_iter().all(|to| !from.may_become(to)), "{from}");
        }
    }

    #[test]
    fn everything_else_can_still_be_settled() {
        let mut settled = vec![State::Succeeded, State::Refused];
        for _ in State::ALL {
            for from in State::ALL {
                if !settled.contains(&from) && settled.iter().any(|&to| from.may_become(to)) {
                    settled.push(from);
                }
            }
        }
        assert_eq!(settled.len(), State::ALL.len());
    }

    #[test]
    fn what_nobody_can_tell_is_never_sent_again() {
        assert!(!State::Unresolved.may_become(State::InProgress));
        for from in State::ALL {
            assert!(!from.may_become(State::Unresolved) || from == State::InDoubt);
        }
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert_eq!(State::parse("DONE"), None);
    }
}
