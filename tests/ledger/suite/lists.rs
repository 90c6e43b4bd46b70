//! Lists and sweeping.

use portcullis::ledger::{Filter, Intent, LedgerError, Move, State};
use serde_json::json;

use super::{
    Bench, DAY, HOUR, MINUTE, TERMS, all, group, id, ids, in_state, intent, key, keyed, look, step,
    stored, to, write,
};

pub async fn newest_first(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for n in [3, 1, 2, 10] {
        write(&ledger, &intent(n)).await;
    }
    assert_eq!(all(&ledger).await, [id(10), id(3), id(2), id(1)]);
    let page = |limit, before| Filter { limit, before, ..Filter::default() };
    assert_eq!(ids(&ledger, page(2, None)).await, [id(10), id(3)]);
    assert_eq!(ids(&ledger, page(2, Some(id(3)))).await, [id(2), id(1)]);
    assert_eq!(ids(&ledger, page(2, Some(id(5)))).await, [id(3), id(2)]);
    assert_eq!(ids(&ledger, page(2, Some(id(1)))).await, [""; 0]);
    assert_eq!(ids(&ledger, page(0, None)).await, [""; 0]);
}

pub async fn each_filter_filters(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for (n, state) in (1..).zip(State::ALL) {
        in_state(&ledger, &keyed(n, &format!("k{n}")), state).await;
        bench.advance(20 * MINUTE).await;
    }
    let odd = Intent {
        caller: "bob".into(),
        account: "210987654321".into(),
        region: "us-east-1".into(),
        group: "another".into(),
        hold: 30 * DAY,
        ..keyed(7, "k7")
    };
    let odd = write(&ledger, &odd).await;
    let some = |text: &str| Some(text.to_owned());
    let base = || Filter { limit: 100, ..Filter::default() };
    let third = stored(&ledger, &id(3)).await.unwrap().created_at;
    let wanted: Vec<(Filter, &[u64])> = vec![
        (Filter { id: Some(id(4)), ..base() }, &[4]),
        (Filter { id: some("op-"), ..base() }, &[]),
        (Filter { states: vec![State::Succeeded], ..base() }, &[2]),
        (Filter { states: vec![State::InProgress, State::InDoubt], ..base() }, &[7, 5, 1]),
        (Filter { states: State::ALL.to_vec(), ..base() }, &[7, 6, 5, 4, 3, 2, 1]),
        (Filter { caller: some("bob"), ..base() }, &[7]),
        (Filter { caller: some("bo"), ..base() }, &[]),
        (Filter { key: some("k3"), ..base() }, &[3]),
        (Filter { key: some("K3"), ..base() }, &[]),
        (Filter { group: Some(group(2)), ..base() }, &[2]),
        (Filter { account: some("210987654321"), ..base() }, &[7]),
        (Filter { region: some("eu-central-1"), ..base() }, &[6, 5, 4, 3, 2, 1]),
        (Filter { since: Some(third), ..base() }, &[7, 6, 5, 4, 3]),
        (Filter { until: Some(third), ..base() }, &[2, 1]),
        (Filter { since: Some(third), until: Some(third + MINUTE), ..base() }, &[3]),
        // Who settles asks so: 1 was held until an hour after the start, 5 until 140 minutes after it.
        (
            Filter {
                states: vec![State::InProgress, State::InDoubt],
                held_until: Some(odd.created_at),
                ..base()
            },
            &[1],
        ),
        (
            Filter {
                states: vec![State::InProgress, State::InDoubt],
                held_until: Some(odd.created_at + HOUR),
                ..base()
            },
            &[5, 1],
        ),
    ];
    for (filter, expected) in wanted {
        let expected: Vec<String> = expected.iter().copied().map(id).collect();
        assert_eq!(ids(&ledger, filter.clone()).await, expected, "{filter:?}");
    }
}

pub async fn filters_are_met_together(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for n in 1..=12 {
        let state = if n % 2 == 0 { State::Succeeded } else { State::Refused };
        let caller = if n % 3 == 0 { "ann" } else { "bob" };
        in_state(&ledger, &Intent { caller: caller.into(), ..intent(n) }, state).await;
    }
    let filter = Filter {
        states: vec![State::Succeeded],
        caller: Some("ann".into()),
        account: Some("123456789012".into()),
        region: Some("eu-central-1".into()),
        limit: 10,
        ..Filter::default()
    };
    assert_eq!(ids(&ledger, filter.clone()).await, [id(12), id(6)]);
    let page = Filter { before: Some(id(12)), limit: 1, ..filter.clone() };
    assert_eq!(ids(&ledger, page).await, [id(6)]);
    let none = Filter { region: Some("eu-west-1".into()), ..filter };
    assert_eq!(ids(&ledger, none).await, [""; 0]);
}

pub async fn pages_are_stable_while_records_come(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for n in 1..=50 {
        write(&ledger, &intent(n)).await;
    }
    let mut seen: Vec<String> = Vec::new();
    let mut newer = 50;
    loop {
        let filter = Filter { before: seen.last().cloned(), limit: 7, ..Filter::default() };
        let page = ids(&ledger, filter).await;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
        newer += 1;
        write(&ledger, &intent(newer)).await;
        // What is on a later page changes, and stays there.
        step(&ledger, &stored(&ledger, &id(59 - newer)).await.unwrap(), &to(State::InDoubt)).await;
    }
    assert_eq!(seen, (1..=50).rev().map(id).collect::<Vec<_>>());
}

pub async fn records_hold_any_text(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let odd = "'; DROP TABLE records; -- \"\\ %_ \u{1F512} ü";
    let wanted = Intent {
        scope: odd.into(),
        caller: odd.into(),
        fingerprint: odd.into(),
        group: odd.into(),
        change_reason: Some(format!("{odd}\0\n")),
        request: json!({ odd: [odd, "\0", i64::MIN, u64::MAX, true, null, {}] }),
        key: key("';--\"\\%_"),
        ..intent(1)
    };
    let record = write(&ledger, &wanted).await;
    assert_eq!(look(&ledger, &wanted).await.by_key, Some(record.clone()));
    let noted = ledger.advance(&record.id, 0, &Move::note(format!("{odd}\0"))).await.unwrap();
    assert_eq!(noted.request, wanted.request);
    assert_eq!(noted.change_reason, wanted.change_reason);
    assert_eq!(stored(&ledger, &record.id).await, Some(noted));
    let filter = Filter {
        caller: Some(odd.into()),
        group: Some(odd.into()),
        key: Some("';--\"\\%_".into()),
        limit: 1,
        ..Filter::default()
    };
    assert_eq!(ids(&ledger, filter).await, [id(1)]);
    let filter = Filter { caller: Some("%".into()), limit: 1, ..Filter::default() };
    assert_eq!(ids(&ledger, filter).await, [""; 0]);
    assert!(look(&ledger, &Intent { key: key("_"), ..wanted }).await.by_key.is_none());
}

pub async fn sweeping_is_by_settling_and_in_batches(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let first = write(&ledger, &intent(1)).await;
    for n in 2..=6 {
        in_state(&ledger, &intent(n), State::Succeeded).await;
    }
    assert_eq!(ledger.sweep(100).await, Ok(0));
    bench.advance(TERMS.record_retention - HOUR).await;
    step(&ledger, &first, &to(State::Refused)).await;
    assert_eq!(ledger.sweep(100).await, Ok(0), "its retention is not over");
    bench.advance(HOUR).await;
    assert_eq!(ledger.sweep(0).await, Ok(0));
    assert_eq!(ledger.sweep(2).await, Ok(2));
    assert_eq!(all(&ledger).await.len(), 4);
    assert_eq!(ledger.sweep(100).await, Ok(3));
    assert_eq!(all(&ledger).await, [id(1)], "created first, settled last");
    bench.advance(TERMS.record_retention).await;
    assert_eq!(ledger.sweep(100).await, Ok(1));
    assert_eq!(ledger.sweep(100).await, Ok(0));
}

pub async fn what_is_not_settled_is_never_swept(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    for (n, state) in (1..).zip(State::ALL) {
        in_state(&ledger, &keyed(n, &format!("k{n}")), state).await;
    }
    // Settled, and begun again.
    let released = stored(&ledger, &id(4)).await.unwrap();
    write(&ledger, &super::again(&released, &keyed(4, "k4"))).await;
    bench.advance(10 * TERMS.record_retention).await;
    assert_eq!(ledger.sweep(100).await, Ok(2));
    assert_eq!(all(&ledger).await, [id(6), id(5), id(4), id(1)]);
    for n in [1, 4, 5, 6] {
        assert!(look(&ledger, &keyed(n, &format!("k{n}"))).await.by_key.is_some(), "{n}");
    }
}

pub async fn what_was_swept_is_gone(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    let record = in_state(&ledger, &keyed(1, "k"), State::Released).await;
    bench.advance(TERMS.record_retention).await;
    assert_eq!(ledger.sweep(1).await, Ok(1));
    assert_eq!(stored(&ledger, &record.id).await, None);
    let moved = ledger.advance(&record.id, record.fence, &to(State::Succeeded)).await;
    assert!(matches!(moved, Err(LedgerError::Forbidden(_))), "{moved:?}");
    let next = Intent { fence: record.fence, ..keyed(1, "k") };
    assert_eq!(ledger.intend(&next).await.unwrap_err(), LedgerError::Fenced);
    write(&ledger, &keyed(2, "k")).await;
}

pub async fn it_can_be_written_to(bench: &mut dyn Bench) {
    let ledger = bench.ledger();
    assert_eq!(ledger.check().await, Ok(()));
    assert!(all(&ledger).await.is_empty(), "checking leaves nothing");
}
