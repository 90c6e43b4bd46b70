//! What the model has found: the shortest program of each, under many draws. Each failed until it was mended.

use std::time::Duration;

use portcullis::operations::OnUnknown;

use crate::{
    memory,
    program::{Ask, CallStep, Outside, Program, Step, Terms, What},
    run,
};

/// Draws for each program. Each bug showed in at least one of them.
const DRAWS: u64 = 400;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Replicas with one second for an attempt, and nobody who settles but callers.
fn terms(ec2: u64, ledger: u64) -> Terms {
    Terms {
        replicas: 2,
        attempt: secs(1),
        grace: secs(5),
        lag: Duration::ZERO,
        ec2,
        ledger,
        crash: 0,
        settle_every: secs(600),
    }
}

fn revoke() -> Ask {
    let ports = vec![22, 443];
    let mode = OnUnknown::AsEc2;
    Ask::Revoke { group: 1, egress: true, by_name: false, ports, ids: false, mode }
}

/// A call with a key, of a caller with time.
fn call(at: u64, key: usize) -> (Duration, What) {
    hurried(at, key, secs(60))
}

fn hurried(at: u64, key: usize, deadline: Duration) -> (Duration, What) {
    let call = CallStep {
        replica: usize::from(at % 2 == 1),
        caller: 0,
        key: Some(key),
        ask: 0,
        deadline,
        hang_up: None,
        calm: false,
    };
    (secs(at), What::Call(call))
}

fn holds(terms: Terms, ask: &Ask, steps: Vec<(Duration, What)>) {
    let steps: Vec<Step> =
        steps.into_iter().zip(0..).map(|((at, what), number)| Step { number, at, what }).collect();
    for seed in 0..DRAWS {
        let program = Program { seed, terms, asks: vec![ask.clone()], steps: steps.clone() };
        let ran = run::run(&program, None, &memory, false);
        if !ran.violations.is_empty() {
            println!("{program}");
            run::run(&program, None, &memory, true);
            panic!("draw {seed}: {}", ran.violations.join("\n"));
        }
    }
}

/// A live call sent the rest of an operation, could not look at the ledger after it, and said that nothing was sent.
#[test]
fn who_sent_the_rest_does_not_say_that_nothing_was_sent() {
    holds(terms(700, 200), &revoke(), vec![call(0, 0), call(8, 0), call(16, 0), call(24, 0)]);
}

/// Two calls with a lost turn began the next attempt of one released operation: the slower got INTERNAL.
#[test]
fn two_attempts_at_once_of_a_released_operation_get_one_answer() {
    holds(terms(300, 300), &revoke(), vec![call(0, 0), call(3, 0), call(3, 0), call(3, 0)]);
}

/// The same, where there was nothing left to send.
#[test]
fn two_attempts_at_once_with_nothing_to_send_get_one_answer() {
    let Ask::Revoke { group, egress, by_name, ports, ids, .. } = revoke() else { unreachable!() };
    let ask = Ask::Revoke { group, egress, by_name, ports, ids, mode: OnUnknown::Fail };
    let remove = (secs(1), What::Outside(Outside::Remove { group: 1, port: 22 }));
    let steps = vec![call(0, 0), remove, call(3, 0), call(3, 0), call(3, 0)];
    holds(terms(300, 300), &ask, steps);
}

/// Others removed the rule that the pre-image had, the request added it, and it was read back as not done.
#[test]
fn an_authorize_whose_rule_others_removed_meanwhile_is_seen() {
    let ask = Ask::Authorize {
        group: 1,
        egress: true,
        ports: vec![443],
        description: Some("ours"),
        tag: true,
    };
    let remove = (secs(1), What::Outside(Outside::Remove { group: 1, port: 443 }));
    holds(terms(900, 0), &ask, vec![call(0, 0), remove, call(20, 0)]);
}

/// The intent of a released operation's next attempt was not written; voiding it released another call's attempt, which
/// had been sent.
#[test]
fn an_intent_that_was_not_written_voids_no_other_attempt() {
    holds(terms(500, 300), &revoke(), vec![call(0, 0), call(3, 0), call(3, 0), call(4, 0)]);
}

/// What was sent again without an answer was read back as not done while it was still under way.
#[test]
fn what_was_sent_again_is_waited_for() {
    let again = hurried(9, 0, Duration::from_millis(800));
    holds(terms(900, 0), &revoke(), vec![call(0, 0), again, call(11, 1)]);
}

/// A revoke that reads had given up ran again, EC2 refused it for one of its rules, and a stale read did not have the other
/// one, which somebody had just added: it was answered as removed.
#[test]
fn what_others_added_since_is_not_taken_for_removed() {
    let remove = |port| (secs(0), What::Outside(Outside::Remove { group: 1, port }));
    let add = (secs(30), What::Outside(Outside::Add { group: 1, port: 443 }));
    let terms = Terms { lag: secs(1), settle_every: secs(2), ..terms(700, 0) };
    holds(terms, &revoke(), vec![remove(22), remove(443), call(1, 0), add, call(30, 0)]);
}
