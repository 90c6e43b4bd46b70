use std::{cell::RefCell, num::NonZeroU64};

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    list: Paging,
}

fn list(flags: &[&str]) -> Paging {
    Flags::try_parse_from([&["list"], flags].concat()).unwrap().list
}

/// A server of 7 items, 3 a page; its tokens are the index of the first item.
async fn seven(token: Option<String>) -> Result<Page<u8>, Failure> {
    let first: u8 = token.map_or(0, |token| token.parse().unwrap());
    let next = (first + 3 < 7).then(|| (first + 3).to_string());
    Ok(((first..7.min(first + 3)).collect(), next, false))
}

#[tokio::test]
async fn pages_are_followed_to_the_end_or_the_number_asked_for() {
    let (items, next, _) = pages(&list(&[]), None, seven).await.unwrap();
    assert_eq!((items, next), ((0..7).collect(), None));
    for most in 1..=8 {
        let (mut all, mut start) = (Vec::new(), Vec::new());
        loop {
            let most = most.to_string();
            let mut flags = vec!["--max-items".to_owned(), most];
            flags.append(&mut start);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let list = list(&flags);
            let (items, next, _) = pages(&list, None, seven).await.unwrap();
            assert!(items.len() as u64 <= list.max_items.map_or(0, NonZeroU64::get));
            assert!(next.is_none() || items.len() as u64 == list.max_items.unwrap().get());
            all.extend(items);
            let Some(next) = next else { break };
            start = vec!["--starting-token".to_owned(), next];
        }
        assert_eq!(all, (0..7).collect::<Vec<_>>(), "{most}");
    }
    // The server's own token, as grpcurl shows it, and one that --cli-input-json gives.
    let (items, ..) = pages(&list(&["--starting-token", "6"]), None, seven).await.unwrap();
    assert_eq!(items, [6]);
    let (items, ..) = pages(&list(&[]), Some("3".to_owned()), seven).await.unwrap();
    assert_eq!(items, [3, 4, 5, 6]);
    // A page that is shorter than it was.
    let (items, ..) = pages(&list(&["--starting-token", "9:3"]), None, seven).await.unwrap();
    assert_eq!(items, [6]);
}

#[tokio::test]
async fn a_server_that_goes_round_in_circles_is_left() {
    let asked = RefCell::new(0);
    let stuck = async |_: Option<String>| {
        *asked.borrow_mut() += 1;
        Ok((vec![0_u8], Some("again".to_owned()), false))
    };
    let failure = pages(&list(&[]), None, stuck).await.unwrap_err();
    assert_eq!((failure.exit(), asked.into_inner()), (CANNOT_TELL, 2));
}
