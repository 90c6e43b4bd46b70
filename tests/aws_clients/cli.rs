//! The AWS CLI's transcript: docs/transcript-aws-cli.md.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    compare,
    refusals::{REFUSALS, Way},
    shell::{ENVIRONMENT, Ran, Shell},
    story::{STORY, Step},
};

/// What the AWS CLI, version 1, ends with when a service refuses.
const REFUSED: i32 = 255;

const HEAD: &str = "\
# Transcript of the AWS CLI

<!-- Written by the tests: PORTCULLIS_TEST_UPDATE=1 cargo test --test aws_clients -->

What the AWS CLI (version 1) prints when it speaks to the sandbox's EC2 door, from a fresh start and in this order. The
lines are shell and can be typed as they are, with `$SHOP` and its like set to what was printed in their place. Other ids
that are drawn at random are written as RULE-ID and so on. An error ends the AWS CLI with `[exit 255]`.

Signatures are read for the account and the Region and not verified, so any secret will do. Only EC2's version 2016-11-15
and STS's 2011-06-15 are spoken.

```sh
portcullis serve --sandbox-ec2-listen 127.0.0.1:4566
";

#[tokio::test]
async fn the_aws_cli_sees_what_its_transcript_says() {
    // Side by side: each has a server of its own.
    let (told, refused) = tokio::join!(tell(), refuse());
    let (Some(told), Some(refused)) = (told, refused) else { return };
    let mut document = HEAD.to_owned();
    for (name, value) in ENVIRONMENT {
        let _ = writeln!(document, "export {name}={value}");
    }
    document.push_str(
        "export AWS_ENDPOINT_URL=http://127.0.0.1:4566 PORTCULLIS=127.0.0.1:50051\n```\n",
    );
    document.push_str(&told);
    document.push_str(&refused);
    let lines = document.lines().map(|line| format!("{}\n", line.trim_end()));
    compare::compare("docs/transcript-aws-cli.md", &lines.collect::<String>());
}

/// The story, checked and as text.
async fn tell() -> Option<String> {
    let mut shell = Shell::open("aws-cli-story").await?;
    let (mut text, mut wrong) = (String::new(), String::new());
    for step in STORY {
        let (output, exit) = shell.run(step.command).await;
        for (name, pointer) in step.keep {
            shell.keep(name, &output, pointer);
        }
        let ran = Ran { output: shell.normal(&output), exit };
        for complaint in complaints(step, &ran) {
            let _ = writeln!(wrong, "\n{}: {complaint}\n{}", step.name, ran.output);
        }
        let _ = write!(text, "\n## {}\n\n", step.name);
        if !step.about.is_empty() {
            let _ = write!(text, "{}\n\n", step.about);
        }
        text.push_str(&console(step.command, &ran));
    }
    assert!(wrong.is_empty(), "{wrong}");
    Some(text)
}

fn complaints(step: &Step, ran: &Ran) -> Vec<String> {
    let mut complaints = Vec::new();
    match step.code {
        Some(code) => complaints.extend(not_refused(code, ran)),
        None if ran.exit != 0 => complaints.push(format!("exit {}", ran.exit)),
        None => {}
    }
    let spaceless = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let output = spaceless(&ran.output);
    for text in step.says.iter().filter(|text| !output.contains(**text)) {
        complaints.push(format!("does not say {text:?}"));
    }
    for text in step.never.iter().filter(|text| output.contains(**text)) {
        complaints.push(format!("says {text:?}"));
    }
    complaints
}

/// Every code, checked and as text, with a table of them all.
async fn refuse() -> Option<String> {
    let shell = Shell::open("aws-cli-refusals").await?;
    let mut text = "\n## Error codes\n\nOne command for each code, on a fresh start.\n".to_owned();
    let mut table = "\n## All codes\n\n| code | seen |\n| --- | --- |\n".to_owned();
    let mut wrong = String::new();
    let mut shown = BTreeSet::new();
    for (code, way) in REFUSALS {
        let (command, seen) = match way {
            Way::By(command) => ((*command).to_owned(), "above"),
            Way::Fault(fault) => (injected(fault), "above, by a fault that is injected"),
            Way::Never(reason) => {
                let _ = writeln!(table, "| {code} | not here. {reason} |");
                continue;
            }
        };
        let (output, exit) = shell.run(&command).await;
        let ran = Ran { output: shell.normal(&output), exit };
        if let Some(complaint) = not_refused(code, &ran) {
            let _ = writeln!(wrong, "\n{code}: {complaint}\n{}", ran.output);
        }
        if shown.insert(code) {
            let _ = writeln!(table, "| {code} | {seen} |");
            let _ = write!(text, "\n### {code}\n\n");
        } else {
            text.push('\n');
        }
        text.push_str(&console(&command, &ran));
    }
    assert!(wrong.is_empty(), "{wrong}");
    Some(text + &table)
}

fn injected(fault: &str) -> String {
    format!(
        "grpcurl -plaintext -d '{{\"Fault\": {fault}}}' \\\n    \
         $PORTCULLIS portcullis.sandbox.v1.SandboxService/InjectFault > injected.json &&\n\
         aws ec2 describe-security-groups"
    )
}

/// Whether it is anything but this refusal.
fn not_refused(code: &str, ran: &Ran) -> Option<String> {
    let said = ran.output.trim_start().starts_with(&format!("An error occurred ({code}) when "));
    (!said || ran.exit != REFUSED).then(|| format!("exit {}, not {code}", ran.exit))
}

/// As on a screen.
fn console(command: &str, ran: &Ran) -> String {
    let mut text = format!("```console\n$ {command}\n");
    if !ran.output.trim().is_empty() {
        let _ = writeln!(text, "{}", ran.output.trim_start());
    }
    if ran.exit != 0 {
        let _ = writeln!(text, "[exit {}]", ran.exit);
    }
    text + "```\n"
}
