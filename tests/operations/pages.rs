//! Pages: newest first, each operation once, whatever is written meanwhile.

use portcullis::api::proto::v1::{ListOperationsRequest, OperationState};
use prost::Message as _;
use tonic::Code;

use crate::{support::*, world::*};

fn of(page_size: i32, page_token: &str) -> ListOperationsRequest {
    ListOperationsRequest { page_size, page_token: page_token.into(), ..Default::default() }
}

fn id(number: usize) -> String {
    format!("op-{number:06}")
}

#[tokio::test]
async fn pages_are_stable_while_operations_are_added() {
    let world = world().await;
    for number in 0..50 {
        let caller = if number % 3 == 0 { "bob" } else { "alice" };
        world.seed(Seed::new(id(number)).of(caller)).await;
    }
    for (caller, expected) in
        [("reader", (0..50).collect::<Vec<_>>()), ("bob", (0..50).filter(|n| n % 3 == 0).collect())]
    {
        let mut expected: Vec<String> = expected.into_iter().map(id).collect();
        expected.reverse();
        let (mut found, mut token, mut added) = (Vec::new(), String::new(), 0);
        loop {
            let page = world.list(caller, of(7, &token)).await.unwrap();
            assert!(page.operations.len() <= 7);
            found.extend(ids(&page));
            // As many new ones as were read, and all of them newer.
            for _ in 0..7 {
                added += 1;
                world.seed(Seed::new(format!("op-9{caller}{added:04}")).of(caller)).await;
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "{caller}");
        // What was added is there for who asks anew.
        let fresh = world.list(caller, of(1000, "")).await.unwrap();
        assert_eq!(fresh.operations.len(), expected.len() + added);
    }
}

#[tokio::test]
async fn a_page_has_a_hundred_if_nobody_says_otherwise_and_ends_where_the_list_does() {
    let world = world().await;
    for number in 0..150 {
        world.seed(Seed::new(id(number))).await;
    }
    let first = world.list("alice", of(0, "")).await.unwrap();
    assert_eq!(first.operations.len(), 100);
    let rest = world.list("alice", of(50, &first.next_page_token)).await.unwrap();
    assert_eq!((rest.operations.len(), rest.next_page_token.as_str()), (50, ""));
    let all = world.list("alice", of(1000, "")).await.unwrap();
    assert_eq!((all.operations.len(), all.next_page_token.as_str()), (150, ""));
    // What others may see is not part of the list: no empty page at its end either.
    for number in 0..300 {
        world.seed(Seed::new(format!("op-0-{number:03}")).of("bob")).await;
    }
    let all = world.list("alice", of(150, "")).await.unwrap();
    assert_eq!((all.operations.len(), all.next_page_token.as_str()), (150, ""));
}

#[tokio::test]
async fn a_token_is_its_callers_and_its_filters() {
    let world = world().await;
    for number in 0..9 {
        world.seed(Seed::new(id(number))).await;
    }
    let token = world.list("reader", of(2, "")).await.unwrap().next_page_token;
    let again = world.list("reader", of(5, &token)).await.unwrap();
    assert_eq!(ids(&again), (2..7).rev().map(id).collect::<Vec<_>>());
    let of_alice = ListOperationsRequest { caller: "token::alice".into(), ..of(2, &token) };
    let succeeded =
        ListOperationsRequest { states: vec![OperationState::Succeeded.into()], ..of(2, &token) };
    for (caller, request) in [
        ("alice", of(2, &token)),
        ("reader", of_alice),
        ("reader", succeeded),
        ("reader", of(2, token.get(1..).unwrap())),
    ] {
        let status = world.list(caller, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(violations(&status)[0].0, "page_token");
    }
}

#[tokio::test]
async fn a_page_is_no_longer_than_clients_take() {
    let world = world().await;
    for number in 0..30 {
        world.big(Seed::new(id(number)), vec!["x".repeat(1000); 300]).await;
    }
    let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = world.list("alice", of(1000, &token)).await.unwrap();
        assert!(page.encoded_len() < 4 << 20, "{} bytes", page.encoded_len());
        found.extend(ids(&page));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, (0..30).rev().map(id).collect::<Vec<_>>());
    assert!(pages > 1, "{pages}");
}

#[tokio::test]
async fn who_sees_next_to_nothing_of_a_large_ledger_gets_there_in_bounded_steps() {
    let world = world().await;
    world.seed(Seed::new(id(0))).await;
    for number in 1..=10_500 {
        world.seed(Seed::new(id(number)).of("bob")).await;
    }
    let first = world.list("alice", of(0, "")).await.unwrap();
    assert_eq!(first.operations, []);
    let second = world.list("alice", of(0, &first.next_page_token)).await.unwrap();
    assert_eq!((ids(&second), second.next_page_token.as_str()), (vec![id(0)], ""));
    // Whose caller is named is found at once.
    let own = ListOperationsRequest { caller: "token::alice".into(), ..of(0, "") };
    assert_eq!(world.ids("alice", own).await, [id(0)]);
}
