//! docs/cli.md: what `--help` prints, and real calls with what they print.

use std::fmt::Write as _;

use super::{
    client::{Server, run},
    compare::compare,
    normal::normal,
};

const HEAD: &str = "\
# portcullis revoke-egress, authorize-egress, describe-rules, describe-groups, operations

<!-- Written by the tests: PORTCULLIS_TEST_UPDATE=1 cargo test --test cli -->

## NAME

The client for people: these commands call a running Portcullis server. They take the AWS CLI's own flags, so
`aws ec2 revoke-security-group-egress` becomes `portcullis revoke-egress`, and the rest of the line stays.

| `aws ec2` | `portcullis` |
| --- | --- |
| `revoke-security-group-egress` | `revoke-egress` |
| `authorize-security-group-egress` | `authorize-egress` |
| `describe-security-group-rules` | `describe-rules` |
| `describe-security-groups` | `describe-groups` |

`portcullis operations` has no counterpart: it shows what the server has recorded of changes ([reliability.md](reliability.md)),
and lets an operator settle what nobody else can.

Not taken are the AWS CLI's flags about the AWS CLI itself (`--profile`, `--query`, `--no-cli-pager` and others),
`--max-results` and `--next-token` (take `--page-size` and `--starting-token`), its outputs besides `table` and `json`,
`~` in `file://` paths, and `key@=file://...` inside shorthand. A flag or key that is not known is an error, never
passed over; a list flag stands once, with all its values after it.

";

const TAIL: &str = "\
## OUTPUT

On a terminal the answer is a table as wide as the terminal, then what became of the request, warnings, and for each
unknown permission why it is unknown and which rules come nearest. Where a table does not fit, each row becomes a block.
Ids and addresses are never broken. Not on a terminal, or with `--output json`, it is JSON with EC2's own names, as
every protobuf JSON parser reads it; a describe then has all pages, up to `--max-items`, in one answer. `--output table`
into a pipe breaks no lines. Tables leave out tags, ARNs and the rules of groups; JSON has all.

There are no colours. Characters of an answer that would act on a terminal are shown as U+FFFD in tables and escaped in
JSON.

Errors go to stderr, in the same form as answers: a block for people, or one JSON object with `Code` (gRPC's),
`Reason` (see [errors.md](errors.md)), `Message` and `Details`. Two reasons are the client's own: `UNREACHABLE`, no
connection, so nothing was sent; and `NO_ANSWER`, sent, and no answer came. What is wrong with the command line is
always plain text.

## EXIT STATUS

| code | meaning |
| --- | --- |
| 0 | done as asked; with `--dry-run`: it would be permitted |
| 1 | refused, and nothing was changed; or `revoke-egress` removed only a part or nothing, because the rest was unknown |
| 2 | cannot tell: no connection, no answer before the deadline, EC2's answer was lost (OUTCOME_UNKNOWN), the server failed (INTERNAL), or `--verify` did not see the change in time |
| 64 | the command line or a value in it is wrong; nothing was sent |

A script may repeat what ended with 1 once the reason is gone. After 2 it has to look first (`describe-rules`): the
change may have been made. 2 is therefore kept apart from 1, and 64 is what all of the program's commands say about
their command line.

## EXAMPLES

Against `portcullis serve` with the sandbox's sample, from a fresh start and in this order. Ids that are drawn at
random are written here as OPERATION-ID, REQUEST-ID and RULE-ID, and all times are the same. An exit code other than 0 is shown as `[exit 1]`.
";

/// As typed, and why.
const EXAMPLES: [(&str, &str); 11] = [
    (
        "The rules of a group.",
        "describe-rules --filters Name=group-id,Values=sg-000000000000000a1 --output table",
    ),
    (
        "One rule, by its properties.",
        "revoke-egress --group-id sg-000000000000000a1 --ip-permissions IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges=[{CidrIp=203.0.113.0/24}] --output table",
    ),
    (
        "In a nondefault VPC a permission that matches no rule is an error, and nothing is removed.",
        "revoke-egress --group-id sg-000000000000000a1 --protocol tcp --port 8080 --cidr 10.1.0.0/16 --output table",
    ),
    (
        "What matches is removed all the same, if that is asked for.",
        "revoke-egress --group-id sg-000000000000000a1 --security-group-rule-ids sgr-0000000000000a1e5 sgr-00000000000000bad --on-unknown revoke-matched --output table",
    ),
    (
        "Into a pipe, the answer is JSON.",
        "revoke-egress --group-id sg-000000000000000a1 --protocol udp --port 53 --cidr 10.0.0.2/32",
    ),
    (
        "A new rule, with a tag.",
        "authorize-egress --group-id sg-000000000000000a1 --protocol tcp --port 22 --cidr 192.0.2.0/24 --tag-specifications ResourceType=security-group-rule,Tags=[{Key=ticket,Value=NET-7}]",
    ),
    ("What was changed so far, and what was refused.", "operations list --output table"),
    (
        "An operation that is not there, or not one's own.",
        "operations get --operation-id op-1 --output table",
    ),
    (
        "A few of many; the token goes on from there.",
        "describe-groups --max-items 2 --output table",
    ),
    (
        "A bad request, with everything that is wrong with it.",
        "revoke-egress --group-id web --protocol tcp --cidr 10.0.0.0 --output table",
    ),
    (
        "A slip of the pen.",
        "revoke-egress --group-id sg-000000000000000a1 --ip-permissions IpProtocol=tcp,IpRange=[{CidrIp=10.0.0.0/8}]",
    ),
];

const COMMANDS: [&str; 7] = [
    "revoke-egress",
    "authorize-egress",
    "describe-rules",
    "describe-groups",
    "operations list",
    "operations get",
    "operations settle",
];

/// Times to the second become one time.
fn timeless(text: &str) -> String {
    const TIME: &str = "2026-11-23T09:30:00Z";
    let same = |(at, expected): (usize, u8), byte: u8| match expected {
        b'0'..=b'9' if at >= 2 => byte.is_ascii_digit(),
        _ => byte == expected,
    };
    let is_time = |part: &str| {
        let bytes = part.bytes().zip(TIME.bytes().enumerate());
        part.len() == TIME.len() && bytes.into_iter().all(|(byte, expected)| same(expected, byte))
    };
    let parts: Vec<&str> =
        text.split(' ').map(|part| if is_time(part) { TIME } else { part }).collect();
    parts.join(" ")
}

#[tokio::test]
async fn docs_cli_is_what_the_program_says() {
    let mut text = HEAD.to_owned();
    text.push_str("## SYNOPSIS\n\n```text\n");
    let mut options = String::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let ran = run(&words).await;
        assert_eq!((ran.exit, ran.err.as_str()), (0, ""));
        let (_, usage) = ran.out.split_once("Usage: ").unwrap();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", usage.lines().next().unwrap());
        let _ = write!(options, "### {command}\n\n```text\n{}\n```\n\n", ran.out.trim_end());
    }
    let _ = write!(text, "```\n\n## OPTIONS\n\n{options}{TAIL}");
    let server = Server::start().await;
    for (about, line) in EXAMPLES {
        let words: Vec<&str> = line.split(' ').collect();
        let ran = server.ask(&words).await;
        // As it has to be typed: shells expand brackets and braces.
        let typed = words.iter().map(|word| match word.contains(['[', '{']) {
            true => format!("'{word}'"),
            false => (*word).to_owned(),
        });
        let line = typed.collect::<Vec<_>>().join(" ");
        let _ = write!(
            text,
            "\n{about}\n\n```console\n$ portcullis {line}\n{}{}",
            timeless(&normal(&ran.out)),
            normal(&ran.err)
        );
        if ran.exit != 0 {
            let _ = writeln!(text, "[exit {}]", ran.exit);
        }
        text.push_str("```\n");
    }
    let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    compare("docs/cli.md", &text);
}
