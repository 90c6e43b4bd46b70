//! The documents that the scenarios keep true.

use std::fmt::Write as _;

use super::run::Ran;

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
