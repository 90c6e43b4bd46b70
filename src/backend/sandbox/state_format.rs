//! The sandbox's side of SandboxService: protobuf messages to and from what the other files work on. Only here do
//! backends name protobuf types.
//!
//! What [`encode`] writes, [`decode`] reads back to the same state.

use std::{sync::Arc, time::Duration};

use self::{decode::decode, encode::encode};
use super::{Sandbox, effects::Effect, fault::Script, sample::SAMPLE};
use crate::{
    api::proto::sandbox::v1::{Fault, GetStateResponse, SandboxState},
    clock::Clock,
    random::Random,
    rule::{Target, Violation},
};

mod decode;
mod encode;

// === impl Sandbox ===

impl Sandbox {
    /// Starts with a state; none: the built-in sample. Also what was assumed about the state, in plain words.
    /// `default_target`: of calls that name none, if not the state's first.
    pub fn open(
        state: Option<SandboxState>,
        default_target: Option<Target>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<(Self, Vec<String>), Vec<Violation>> {
        let state = match state {
            Some(state) => state,
            None => Self::parse_state(SAMPLE.as_bytes())
                .map_err(|error| vec![Violation::new("state", "InvalidParameterValue", error)])?,
        };
        Self::start(decode(state)?, default_target, clock, random)
    }

    /// Reads a state from protobuf JSON, such as the AWS CLI prints. The error tells the line and column.
    pub fn parse_state(json: &[u8]) -> Result<SandboxState, String> {
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// One state out of several, such as one file for each describe.
    pub fn merge_states(states: impl IntoIterator<Item = SandboxState>) -> SandboxState {
        states.into_iter().fold(SandboxState::default(), |mut merged, state| {
            merged.security_groups.extend(state.security_groups);
            merged.vpcs.extend(state.vpcs);
            merged.security_group_rules.extend(state.security_group_rules);
            merged.managed_prefix_lists.extend(state.managed_prefix_lists);
            merged.prefix_lists.extend(state.prefix_lists);
            merged.accounts.extend(state.accounts);
            merged
        })
    }

    /// Adds to the state, or replaces it; all of it or none. What was assumed, in plain words.
    pub fn load_state(
        &self,
        state: SandboxState,
        replace: bool,
    ) -> Result<Vec<String>, Vec<Violation>> {
        self.adopt(decode(state)?, replace)
    }

    /// The state in the form that [`Sandbox::load_state`] takes, and what happened.
    pub fn get_state(&self, include_effects: bool) -> GetStateResponse {
        // Encoding takes long if there is much: it works on a copy, which shares groups and rules.
        let (state, default, effects, incarnation, calls) = {
            let world = self.lock();
            let effects: Vec<Effect> =
                if include_effects { world.effects.log().cloned().collect() } else { Vec::new() };
            let calls = world.effects.calls().iter();
            let calls = calls.map(|(action, count)| ((*action).to_owned(), *count)).collect();
            let default = world.default.clone();
            (world.state.kept(), default, effects, world.incarnation.clone(), calls)
        };
        GetStateResponse {
            state: Some(encode(&state, &default)),
            effects: effects.iter().map(encode::effect).collect(),
            incarnation,
            calls,
        }
    }

    /// Makes calls fail in a scripted way. How many faults wait now.
    pub fn inject_fault(&self, fault: Fault) -> Result<u32, Vec<Violation>> {
        self.inject(Script {
            kind: fault.kind,
            action: fault.action,
            group_id: fault.group_id,
            count: fault.count,
            delay: fault.delay.map(|delay| {
                let seconds = u64::try_from(delay.seconds).map_err(|_| ())?;
                let nanos = u32::try_from(delay.nanos).map_err(|_| ())?;
                Duration::from_secs(seconds)
                    .checked_add(Duration::from_nanos(nanos.into()))
                    .ok_or(())
            }),
            error_code: fault.error_code,
            percent: fault.percent,
            seed: fault.seed,
            after_effect: fault.after_effect,
        })
    }
}
