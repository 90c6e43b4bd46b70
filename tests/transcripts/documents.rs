//! The documents that the scenarios keep true.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use super::{
    compare::path,
    run::Ran,
    scenarios::{SCENARIOS, Scenario},
};

const HEAD: &str = "\
# Transcript

<!-- Written by the tests: PORTCULLIS_TEST_UPDATE=1 cargo test --test transcripts -->

What `portcullis serve` answers to grpcurl with the sandbox's sample, from a fresh start and in this order. The calls
can be typed as they are. Ids that are drawn at random are written here as OPERATION-ID, REQUEST-ID and RULE-ID. An
error ends grpcurl with 64 plus the gRPC code, shown as `[exit 69]`.

How each answer compares with EC2 and with moto is in [conformance.md](conformance.md).
";

pub fn transcript(ran: &[Ran]) -> String {
    let mut text = HEAD.to_owned();
    for Ran { scenario, command, output, exit } in ran {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {}\n\n{}\n\n", scenario.name, scenario.about);
        let _ = write!(text, "```console\n$ {command}\n{output}\n");
        if *exit != 0 {
            let _ = writeln!(text, "[exit {exit}]");
        }
        text.push_str("```\n");
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn conformance_has_every_scenario_and_every_rule() {
    let document = fs::read_to_string(path("docs/conformance.md")).unwrap();
    for Scenario { name, .. } in SCENARIOS {
        let rows = document.lines().filter(|line| line.starts_with(&format!("| {name} |")));
        assert_eq!(rows.count(), 1, "rows for {name:?}");
    }
    for rule in 1..=47 {
        let rows = document.lines().filter(|line| line.starts_with(&format!("| R{rule} |")));
        assert_eq!(rows.count(), 1, "rows for R{rule}");
    }
    let tests = fs::read_to_string(path("tests/service/ec2_rules.rs")).unwrap();
    let tests: BTreeSet<&str> = tests
        .lines()
        .filter_map(|line| line.strip_prefix("async fn r")?.split_once('('))
        .map(|(name, _)| name)
        .collect();
    let named: BTreeSet<&str> = code(&document)
        .filter_map(|code| code.strip_prefix('r'))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert_eq!(named, tests, "the tests that docs/conformance.md names, and those there are");
}
