//! What was asked for, held against the log of effects.

use std::collections::HashMap;

use portcullis::api::proto::{
    sandbox::v1::{Effect, GetStateRequest},
    v1::{
        GetOperationRequest, ListOperationsRequest, OperationState, RevokeEgressResponse, Warning,
        WarningKind, operation_service_client::OperationServiceClient,
        security_group_service_client::SecurityGroupServiceClient,
    },
};

use crate::{
    clients::{Jobs, is_passing},
    fleet::{Ec2, Fleet, channel, cidr, group_id},
};

const REVOKE: &str = "RevokeSecurityGroupEgress";

/// What is wrong.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Changes with more than one effect, or two answers.
    pub doubled: usize,
    /// Changes that were answered and not made, or made and not recorded.
    pub lost: usize,
    /// Operations of which nobody knows what became of them.
    pub unsettled: usize,
    pub why: Vec<String>,
}

/// Whether a key's second answer is its first. Who was told that the ledger lags gets the recorded answer without that;
/// or, if nobody was left to write it down, one that was read back, and says so, with warnings of the group as it was then:
/// what went may have been added again.
fn is_the_same(first: &RevokeEgressResponse, second: &RevokeEgressResponse) -> bool {
    let lags = |warning: &Warning| warning.kind() == WarningKind::LedgerLags;
    if !first.warnings.iter().any(lags) {
        return first == second;
    }
    let read_back = |warning: &Warning| warning.kind() == WarningKind::SettledByReadBack;
    let is_read_back = second.warnings.iter().any(read_back);
    let is_of_then = |warning: &Warning| match warning.kind() {
        WarningKind::LedgerLags | WarningKind::SettledByReadBack => true,
        WarningKind::CoveredByWiderRule => is_read_back,
        _ => false,
    };
    let without = |answer: &RevokeEgressResponse| {
        let mut answer = answer.clone();
        answer.warnings.retain(|warning| !is_of_then(warning));
        answer
    };
    without(first) == without(second)
}

/// When an effect was, and by which request: what to look for in the record and in the logs.
fn told(effect: &Effect) -> String {
    format!("effect {} at {:?} by {}", effect.sequence, effect.applied_at, effect.request_id)
}

pub async fn of(jobs: &Jobs, ec2: &Ec2, fleet: &mut Fleet) -> Verdict {
    let mut verdict = Verdict::default();
    let address = fleet.addresses().borrow()[0].clone();
    // Every key once more: the same answer.
    let mut again = SecurityGroupServiceClient::new(channel(&address));
    for job in &jobs.all {
        let answer = loop {
            match again.revoke_egress(job.request()).await {
                // What could not be written down at once may still be in doubt.
                Err(status) if is_passing(&status) => tokio::task::yield_now().await,
                answer => break answer.map(tonic::Response::into_inner),
            }
        };
        match (&job.answer, answer) {
            (Ok(first), Ok(second)) if is_the_same(first, &second) => {}
            (first, second) => {
                verdict.doubled += 1;
                verdict.why.push(format!("{} had {first:?} and then {second:?}", job.key));
            }
        }
    }
    let request = GetStateRequest { include_effects: true };
    // As many effects as there were calls.
    let mut sandbox = ec2.sandbox.clone().max_decoding_message_size(256 << 20);
    let state = sandbox.get_state(request).await.unwrap().into_inner();
    let mut operations = OperationServiceClient::new(channel(&address));
    let mut removed: HashMap<&str, Vec<String>> = HashMap::new();
    for effect in state.effects.iter().filter(|effect| effect.action == REVOKE) {
        for rule in &effect.security_group_rules {
            let place = format!("{} {}", effect.group_id, rule.cidr_ipv4());
            removed.entry(&effect.operation_id).or_default().push(place);
        }
    }
    for job in &jobs.all {
        let id = job.answer.as_ref().map(|answer| answer.operation_id.clone()).unwrap_or_default();
        let place = format!("{} {}", group_id(job.group), cidr(job.rule));
        match removed.remove(id.as_str()).as_deref() {
            Some([one]) if *one == place => {}
            None => {
                verdict.lost += 1;
                verdict.why.push(format!("{} was answered {:?} and not made", job.key, job.answer));
            }
            Some(many) => {
                verdict.doubled += 1;
                verdict.why.push(format!("{} of {place} removed {many:?}", job.key));
                verdict
                    .why
                    .extend(state.effects.iter().filter(|it| it.operation_id == id).map(told));
                let operation_id = id;
                let request = GetOperationRequest { operation_id, ..Default::default() };
                let operation = operations.get_operation(request).await;
                verdict.why.push(format!("its record: {operation:?}"));
            }
        }
    }
    // What nobody was told of.
    for (operation, places) in removed {
        verdict.doubled += 1;
        verdict.why.push(format!("{operation} removed {places:?}, and no call was answered so"));
    }
    let unsettled =
        [OperationState::InProgress, OperationState::InDoubt, OperationState::Unresolved];
    let request =
        ListOperationsRequest { states: unsettled.map(Into::into).to_vec(), ..Default::default() };
    let left = operations.list_operations(request).await.unwrap().into_inner().operations;
    verdict.unsettled = left.len();
    verdict.why.extend(left.iter().map(|operation| format!("left: {operation:?}")));
    verdict
}
