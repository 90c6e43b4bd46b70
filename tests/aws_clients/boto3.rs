//! boto3's transcript: docs/transcript-boto3.md. The program asserts by itself; `wire.py` holds the XML of each answer
//! against botocore's model, and no action of the door may be missing.

use std::{collections::BTreeSet, fs, path::Path};

use tokio::process::Command;

use super::{compare, shell::Shell};

const HEAD: &str = "\
# Transcript of boto3

<!-- Written by the tests: PORTCULLIS_TEST_UPDATE=1 cargo test --test aws_clients -->

What boto3's client and resource APIs get from the sandbox's EC2 door: functions of tests/aws_clients/boto3_client.py,
which has their helpers, and what they print. `client` and `ec2` are boto3's client and resource for `ec2`. Each answer
was also held against botocore's model, element by element.
";

#[tokio::test]
async fn boto3_gets_what_its_transcript_says() {
    let Some(shell) = Shell::open("boto3").await else { return };
    let mut command = Command::new("python");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws_clients/boto3_client.py");
    command.arg("-B").arg(program);
    let (output, exit) = shell.finish(command).await;
    assert_eq!(exit, 0, "{output}");
    let actions = output.lines().find_map(|line| line.strip_prefix("actions: ")).unwrap();
    let source = fs::read_to_string(compare::path("src/api/query.rs")).unwrap();
    assert_eq!(actions.split(' ').collect::<BTreeSet<_>>(), dispatched(&source));
    compare::compare("docs/transcript-boto3.md", &format!("{HEAD}{}\n", shell.normal(&output)));
}

/// Every action that the door knows: the arms of its one dispatch.
fn dispatched(source: &str) -> BTreeSet<&str> {
    let (_, rest) = source.split_once("async fn dispatch(").unwrap();
    let (body, _) = rest.split_once("\n    }\n").unwrap();
    let pieces: Vec<&str> = body.split('"').collect();
    // Texts and what follows them, in turn.
    let arms = pieces[1..].chunks(2).filter(|piece| {
        let after = piece.get(1).map_or("", |after| after.trim_start_matches(')').trim_start());
        after.starts_with("=>") || after.starts_with('|')
    });
    arms.map(|arm| arm[0]).collect()
}
