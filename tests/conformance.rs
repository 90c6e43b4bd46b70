//! One table of cases (`conformance/cases`), what AWS documents for each, and what each place answers: the sandbox, the
//! sandbox through EC2's own API, moto, and real EC2 where an account's owner has run `scripts/live-aws`.
//!
//! The run is docs/conformance.md, word for word: `PORTCULLIS_TEST_UPDATE=1 cargo test --test conformance` writes it, any
//! other run compares with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]
#![cfg_attr(
    not(feature = "ec2"),
    allow(dead_code, reason = "the other build asks moto and the door")
)]

#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/client.rs"]
mod client;
#[path = "conformance/compare.rs"]
mod compare;
#[path = "transcripts/compare.rs"]
mod document;
#[path = "conformance/names.rs"]
mod names;
#[path = "conformance/page.rs"]
mod page;
#[path = "conformance/places.rs"]
mod places;
#[path = "transcripts/programs.rs"]
#[allow(dead_code, reason = "the transcripts use it all")]
mod programs;
#[path = "conformance/query.rs"]
mod query;
#[path = "conformance/report.rs"]
mod report;
#[path = "conformance/run.rs"]
mod run;

use case::Table;
use run::{Verdict, Verdicts};

/// What is wrong with the verdicts of a place.
fn complaints(place: &str, verdicts: &Verdicts) -> Vec<String> {
    let wrong = verdicts.values().filter_map(|verdict| match verdict {
        Verdict::Wrong(text) => Some(format!("{place}: {text}")),
        Verdict::AsDocumented { .. } | Verdict::Differs(_) => None,
    });
    wrong.collect()
}

#[test]
fn the_table_is_whole() {
    let complaints = Table::read().complaints();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[cfg(not(feature = "ec2"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_answers_as_the_table_says() {
    let sandbox = places::sandbox().await;
    let complaints = complaints("sandbox", &sandbox.place.run_all(&Table::read(), true).await);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    eprintln!("SKIPPED: moto, the door and docs/conformance.md, which need the feature ec2");
}

#[cfg(feature = "ec2")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_answers_as_the_table_says() {
    let table = Table::read();
    let (sandbox, door, moto) = tokio::join!(places::sandbox(), places::door(), places::moto());
    let moto_verdicts = async {
        match &moto {
            Some(moto) => Some(moto.place.run_all(&table, true).await),
            None => None,
        }
    };
    let (sandbox, door, moto) = tokio::join!(
        sandbox.place.run_all(&table, true),
        door.place.run_all(&table, true),
        moto_verdicts
    );
    let places = [("sandbox", Some(&sandbox)), ("door", Some(&door)), ("moto", moto.as_ref())];
    let complaints: Vec<String> = places
        .iter()
        .flat_map(|(place, verdicts)| verdicts.map(|verdicts| complaints(place, verdicts)))
        .flatten()
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n\n"));
    let Some(moto) = moto else {
        eprintln!("SKIPPED: docs/conformance.md, of which moto is a part");
        return;
    };
    document::compare("docs/conformance.md", &page::page(&table, &sandbox, &door, &moto));
}
