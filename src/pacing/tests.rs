use super::*;

const MUTATION: Bucket = Bucket { burst: 50, per_second: 5 };
const FAR: Duration = Duration::from_secs(3600);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

/// At 80 %: 40 at once, 4 a second.
fn budget() -> Budget<&'static str> {
    Budget::new(MUTATION, 80, at(0))
}

/// Uses the burst up.
fn drained() -> Budget<&'static str> {
    let mut budget = budget();
    for _ in 0..40 {
        budget.ask(&name("before"), Lane::Common, FAR, "before");
    }
    assert_eq!(budget.poll(at(0)).0.len(), 40);
    (0..40).for_each(|_| budget.release(true, at(0)));
    budget
}

/// Who is served, in order, when one slot after the other comes free.
fn served(budget: &mut Budget<&'static str>, slots: usize) -> Vec<&'static str> {
    let mut order = Vec::new();
    let mut now = at(0);
    for _ in 0..slots {
        let (events, next) = budget.poll(now);
        for event in events {
            let Event::Granted(who) = event else { panic!("{event:?}") };
            order.push(who);
            budget.release(true, now);
        }
        let Some(next) = next else { break };
        now = next;
    }
    order
}

#[test]
fn the_burst_goes_at_once_and_the_rest_at_the_rate_to_the_nanosecond() {
    let mut budget = drained();
    budget.ask(&name("a"), Lane::Common, FAR, "a");
    assert_eq!(budget.poll(at(0)), (vec![], Some(at(250))));
    let early = at(250).saturating_sub(Duration::from_nanos(1));
    assert_eq!(budget.poll(early), (vec![], Some(at(250))));
    assert_eq!(budget.poll(at(250)), (vec![Event::Granted("a")], None));
}

#[test]
fn who_cannot_be_in_time_is_refused_at_once_and_told_when() {
    let mut budget = drained();
    budget.ask(&name("a"), Lane::Common, at(250), "in time");
    budget.ask(&name("a"), Lane::Common, at(499), "late");
    let refused = vec![Event::Refused("late", at(500))];
    assert_eq!(budget.poll(at(0)), (refused, Some(at(250))));
}

#[test]
fn a_slot_that_is_there_is_given_whatever_the_deadline() {
    let mut budget = budget();
    budget.ask(&name("a"), Lane::Common, at(0), "a");
    assert_eq!(budget.poll(at(5)).0, [Event::Granted("a")]);
}

#[test]
fn callers_take_turns_and_who_is_displaced_is_told() {
    let mut budget = drained();
    for _ in 0..3 {
        budget.ask(&name("flood"), Lane::Common, at(750), "flood");
    }
    assert_eq!(budget.poll(at(0)).0, []);
    budget.ask(&name("other"), Lane::Common, at(750), "other");
    // Two callers: the flood's third turn is the fifth slot.
    assert_eq!(budget.poll(at(0)).0, [Event::Refused("flood", at(1250))]);
    assert_eq!(served(&mut budget, 4), ["flood", "other", "flood"]);
}

#[test]
fn who_was_refused_a_thousand_times_is_not_behind_for_it() {
    let mut budget = drained();
    for _ in 0..1000 {
        budget.ask(&name("flood"), Lane::Common, at(250), "flood");
        budget.poll(at(0));
    }
    for _ in 0..3 {
        budget.ask(&name("other"), Lane::Common, FAR, "other");
    }
    budget.ask(&name("flood"), Lane::Common, FAR, "flood");
    let order = served(&mut budget, 6);
    assert_eq!(order, ["flood", "other", "flood", "other", "other"]);
}

#[test]
fn lanes_share_by_weight_and_none_starves() {
    let mut budget = drained();
    for _ in 0..60 {
        budget.ask(&name("a"), Lane::Common, FAR, "common");
        budget.ask(&name("a"), Lane::OwnReads, FAR, "own");
        budget.ask(&name("a"), Lane::Incident, FAR, "incident");
    }
    let order = served(&mut budget, 53);
    let count = |lane| order.iter().filter(|served| **served == lane).count();
    assert_eq!((count("incident"), count("own"), count("common")), (32, 16, 4));
}

#[test]
fn incident_response_passes_a_full_line() {
    let mut budget = drained();
    for _ in 0..100 {
        budget.ask(&name("flood"), Lane::Common, FAR, "flood");
    }
    budget.ask(&name("on call"), Lane::Incident, FAR, "incident");
    assert_eq!(served(&mut budget, 3), ["incident", "flood"]);
}

#[test]
fn what_is_estimated_is_what_happens() {
    let mut budget = drained();
    let lanes = [Lane::Common, Lane::Incident, Lane::OwnReads, Lane::Common];
    for (index, lane) in (0..40).zip(lanes.iter().cycle()) {
        budget.ask(&name(&format!("caller {}", index % 3)), *lane, FAR, "");
    }
    let estimated: Vec<u64> = budget.order().into_iter().map(|(id, _)| id).collect();
    let mut happens = Vec::new();
    while let Some(waiter) = budget.next() {
        happens.push(waiter.id);
    }
    assert_eq!(estimated.len(), 40);
    assert_eq!(estimated, happens);
}

#[test]
fn who_waits_for_many_turns_does_not_count_on_the_others_to_leave() {
    let mut budget = drained();
    budget.ask(&name("other"), Lane::Common, FAR, "other");
    for _ in 0..10 {
        budget.ask(&name("flood"), Lane::Common, at(1250), "flood");
    }
    // Places 2 and 4 of a line of which every second place is the other's, although the other waits for one only.
    let (events, _) = budget.poll(at(0));
    assert_eq!(events.len(), 7);
    assert_eq!(events[0], Event::Refused("flood", at(1750)));
    // Its turn is not lost with those who left.
    assert_eq!(served(&mut budget, 6), ["other", "flood", "flood", "flood"]);
}

#[test]
fn the_line_is_bounded_and_a_newcomer_still_gets_in() {
    let mut budget = drained();
    for _ in 0..2 * MAX_WAITING {
        budget.ask(&name("flood"), Lane::Common, FAR, "flood");
    }
    assert_eq!(budget.poll(at(0)).0.len(), MAX_WAITING);
    assert_eq!(budget.waiting, MAX_WAITING);
    budget.ask(&name("other"), Lane::Common, FAR, "other");
    let (events, _) = budget.poll(at(0));
    // Half of the line is the other's from now on.
    assert_eq!(events.len(), MAX_WAITING / 2);
    assert!(events.iter().all(|event| matches!(event, Event::Refused("flood", _))));
    assert_eq!(served(&mut budget, 3), ["flood", "other"]);
}

#[test]
fn slots_that_are_held_count_against_the_burst() {
    let mut budget = budget();
    for _ in 0..40 {
        budget.ask(&name("a"), Lane::Common, FAR, "a");
    }
    assert_eq!(budget.poll(at(0)).0.len(), 40);
    // However long they are held, nothing is saved up behind them.
    budget.ask(&name("b"), Lane::Common, FAR, "b");
    assert_eq!(budget.poll(at(60_000)), (vec![], None));
    budget.release(true, at(60_000));
    assert_eq!(budget.poll(at(60_000)).1, Some(at(60_250)));
    budget.release(false, at(60_000));
    assert_eq!(budget.poll(at(60_000)).0, [Event::Granted("b")]);
}

#[test]
fn who_leaves_the_line_makes_room() {
    let mut budget = drained();
    let first = budget.ask(&name("a"), Lane::Common, FAR, "first");
    budget.ask(&name("a"), Lane::Common, FAR, "second");
    assert_eq!(budget.cancel(first, at(0)), at(500));
    assert_eq!(served(&mut budget, 2), ["second"]);
    assert!(!budget.is_waited_for());
}

#[test]
fn a_throttle_halves_the_pace_once_a_second_and_it_comes_back_step_by_step() {
    let mut budget = drained();
    budget.throttled(at(0));
    budget.throttled(at(900));
    assert_eq!(budget.pace(), 50);
    budget.throttled(at(1000));
    assert_eq!(budget.pace(), 25);
    budget.ask(&name("a"), Lane::Common, FAR, "a");
    assert_eq!(budget.poll(at(1000)).1, Some(at(2000)));
    assert_eq!(budget.poll(at(2000)).0, [Event::Granted("a")]);
    assert_eq!(budget.pace(), 30);
    budget.poll(at(15_999));
    assert_eq!(budget.pace(), 95);
    budget.poll(at(16_000));
    assert_eq!(budget.pace(), 100);
    for millis in 0..20 {
        budget.throttled(at(20_000 + millis * 1000));
    }
    assert_eq!(budget.pace(), 5);
}

#[test]
fn calls_without_a_slot_are_paid_for_by_those_that_come() {
    let mut budget = drained();
    budget.charge(2, at(0));
    budget.ask(&name("a"), Lane::Common, FAR, "a");
    assert_eq!(budget.poll(at(0)).1, Some(at(750)));
}

#[test]
fn a_bucket_of_ec2_is_exact_at_its_edge() {
    let mut tokens = Tokens::new(MUTATION, at(0));
    assert_eq!((0..60).filter(|_| tokens.take(MUTATION, at(0))).count(), 50);
    assert!(!tokens.take(MUTATION, at(199)));
    assert!(tokens.take(MUTATION, at(200)));
    assert!(!tokens.take(MUTATION, at(399)));
}
