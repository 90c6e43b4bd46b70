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

/// 40 at once, 4 a second, shared.
fn shared_budget() -> Budget<&'static str> {
    Budget::shared(MUTATION, 80, Action::RevokeEgress, at(0))
}

fn ask_for(budget: &mut Budget<&'static str>, callers: &[&'static str], latest: Duration) {
    for caller in callers {
        budget.ask(&name(caller), Lane::Common, latest, caller);
    }
}

/// What the shared budget says.
fn taken(granted: u32, wait: u64, left: i64) -> Result<Taken, u32> {
    Ok(Taken { granted, wait: at(wait), left: left * 1_000_000, pace: 100 })
}

#[test]
fn a_shared_slot_is_asked_for_once_and_by_those_that_wait() {
    let mut budget = shared_budget();
    assert_eq!(budget.to_ask(at(0)), None, "nobody waits");
    ask_for(&mut budget, &["a", "b", "c"], at(900));
    assert_eq!(budget.poll(at(0)), (vec![], Some(at(0))));
    let ask = budget.to_ask(at(100)).unwrap();
    assert_eq!((ask.want, ask.patience, ask.holds), (3, at(800), true));
    assert_eq!((ask.capacity, ask.rate), (40_000_000, 4000));
    assert_eq!((budget.to_ask(at(100)), budget.poll(at(100)).1), (None, None), "once at a time");
    budget.answered(taken(2, 0, 0), at(110));
    assert_eq!(budget.poll(at(110)).0, [Event::Granted("a"), Event::Granted("b")]);
    // The third has its slot reserved, and an incident comes before it.
    assert_eq!(budget.to_ask(at(110)).unwrap().held, 2);
    budget.answered(taken(1, 250, -1), at(110));
    assert_eq!(budget.poll(at(110)), (vec![], Some(at(360))));
    assert_eq!(budget.to_ask(at(359)), None);
    budget.ask(&name("on call"), Lane::Incident, at(900), "incident");
    assert_eq!(budget.poll(at(360)).0, [Event::Granted("incident")]);
    assert_eq!(budget.to_ask(at(360)).unwrap().want, 1);
}

#[test]
fn at_most_a_batch_is_taken_at_once() {
    let mut budget = shared_budget();
    ask_for(&mut budget, &["a"; 100], FAR);
    assert_eq!(budget.poll(at(0)).0, [], "nobody is refused before anything is known");
    assert_eq!(budget.to_ask(at(0)).unwrap().want, shared::BATCH);
}

#[test]
fn what_nobody_needs_any_more_goes_back() {
    let mut budget = shared_budget();
    ask_for(&mut budget, &["a", "b"], FAR);
    budget.to_ask(at(0)).unwrap();
    budget.answered(taken(2, 0, 10), at(0));
    assert_eq!(budget.poll(at(0)).0.len(), 2);
    // Not used: it is the next one's here.
    budget.release(false, at(0));
    ask_for(&mut budget, &["c"], FAR);
    assert_eq!(budget.poll(at(0)).0, [Event::Granted("c")]);
    budget.release(false, at(0));
    let report = budget.to_ask(at(0)).unwrap();
    assert_eq!((report.want, report.back, report.held), (0, 1, 1));
    budget.answered(taken(0, 0, 11), at(0));
    // The last one is used: that, too, is told.
    budget.release(true, at(0));
    let report = budget.to_ask(at(5)).unwrap();
    assert_eq!((report.back, report.held), (0, 0));
    budget.answered(taken(0, 0, 11), at(5));
    assert_eq!(budget.to_ask(at(10)), None);
    // And so does a slot that is reserved.
    let id = budget.ask(&name("d"), Lane::Common, FAR, "d");
    budget.to_ask(at(10)).unwrap();
    budget.answered(taken(1, 250, -1), at(10));
    budget.cancel(id, at(20));
    let report = budget.to_ask(at(20)).unwrap();
    assert_eq!((report.back, report.held), (1, 0));
}

#[test]
fn reads_hold_nothing_and_cost_one_question() {
    let mut budget = Budget::shared(MUTATION, 80, Action::DescribeRules, at(0));
    ask_for(&mut budget, &["a"], FAR);
    assert!(!budget.to_ask(at(0)).unwrap().holds);
    budget.answered(taken(1, 0, 5), at(0));
    budget.poll(at(0));
    budget.release(true, at(0));
    assert_eq!(budget.to_ask(at(0)), None);
}

#[test]
fn who_cannot_be_in_time_for_a_shared_slot_is_told_when() {
    let mut budget = shared_budget();
    ask_for(&mut budget, &["a"], at(300));
    budget.to_ask(at(0)).unwrap();
    // Three replicas are ahead: none was reserved.
    budget.answered(taken(0, 1000, -3), at(0));
    assert_eq!(budget.poll(at(0)).0, [Event::Refused("a", at(1000))]);
    // What is known is enough to refuse the next one without a question.
    ask_for(&mut budget, &["b"], at(990));
    assert_eq!(budget.poll(at(10)).0, [Event::Refused("b", at(990))]);
    assert_eq!(budget.to_ask(at(10)), None);
    // With one reserved behind three others, each further one is four slots away.
    ask_for(&mut budget, &["c", "d", "e"], at(2900));
    assert_eq!(budget.poll(at(1000)).0, []);
    budget.to_ask(at(1000)).unwrap();
    budget.answered(taken(1, 1000, -4), at(1000));
    assert_eq!(
        budget.poll(at(1000)).0,
        [Event::Refused("d", at(2000)), Event::Refused("e", at(3000))]
    );
    assert_eq!(budget.poll(at(2000)).0, [Event::Granted("c")]);
}

#[test]
fn what_was_refused_is_not_asked_for_again_at_once() {
    let mut budget = shared_budget();
    ask_for(&mut budget, &["a"], FAR);
    budget.to_ask(at(0)).unwrap();
    // As when all slots are held elsewhere.
    budget.answered(taken(0, 250, 0), at(0));
    assert_eq!(budget.poll(at(0)), (vec![], Some(at(250))));
    assert_eq!(budget.to_ask(at(249)), None);
    assert_eq!(budget.to_ask(at(250)).unwrap().want, 1);
}

#[test]
fn a_throttle_and_what_was_sent_without_a_slot_are_reported() {
    let mut budget = shared_budget();
    budget.throttled(at(0));
    budget.charge(3, at(0));
    let report = budget.to_ask(at(0)).unwrap();
    assert_eq!((report.throttled, report.charged, report.want), (true, 3, 0));
    budget.answered(Ok(Taken { granted: 0, wait: at(0), left: -3_000_000, pace: 25 }), at(0));
    assert_eq!(budget.pace(), 25);
    assert_eq!(budget.to_ask(at(0)), None);
}

#[test]
fn without_the_shared_budget_a_replica_has_a_part_that_begins_as_spent() {
    let mut budget = shared_budget();
    ask_for(&mut budget, &["a"; 30], FAR);
    budget.to_ask(at(0)).unwrap();
    assert!(budget.answered(Err(4), at(0)), "that is news");
    // A quarter of 4 a second.
    let mut granted = 0;
    let mut now = at(0);
    let mut misses = 0;
    loop {
        let (events, next) = budget.poll(now);
        granted += events.len();
        events.iter().for_each(|_| budget.release(true, now));
        if let Some(ask) = budget.to_ask(now) {
            assert!(ask.spent);
            assert!(!budget.answered(Err(4), now));
            misses += 1;
        }
        now = next.unwrap();
        if now > at(10_000) {
            break;
        }
    }
    // It is tried once a second meanwhile.
    assert_eq!((granted, misses), (10, 10));
    // Idle, it saves up a quarter of the burst.
    ask_for(&mut budget, &["b"; 10], FAR);
    let burst = budget.poll(at(100_000)).0.len();
    assert_eq!(burst, 10);
    // And back again: what is shared counts.
    assert!(budget.to_ask(at(100_000)).unwrap().spent);
    budget.answered(taken(1, 250, -1), at(100_000));
    assert_eq!(budget.poll(at(100_249)).0, []);
    assert_eq!(budget.poll(at(100_250)).0.len(), 1);
    assert!(!budget.to_ask(at(100_250)).unwrap().spent);
}
