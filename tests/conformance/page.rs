//! docs/conformance.md, from the table and the run.

use std::fmt::Write as _;

use super::{
    case::{Case, Confidence, Kind, Table},
    report::Report,
    run::{Verdict, Verdicts},
};

const HEAD: &str = "\
# Conformance

<!-- Written by the tests: PORTCULLIS_TEST_UPDATE=1 cargo test --test conformance -->

What the AWS documentation says about security-group rules, and what is answered in each place. Every row is a case
that the tests run through the service's own gRPC API, with a fresh group and the real binary
(`tests/conformance/cases`); this page is written by that run, and a difference that the data does not explain, or that
no longer occurs, fails it.

| place | what it is |
| --- | --- |
| sandbox | the in-process sandbox |
| door | the EC2 backend, whose EC2 is another Portcullis' sandbox behind EC2's own API (`--sandbox-ec2-listen`) |
| moto | the EC2 backend, whose EC2 is moto's server |
| live | the EC2 backend and Amazon EC2, by `scripts/live-aws`, which an account's owner runs |

- *as documented*: the answer, and the group's rules after it, are what the AWS documentation says, or what the word
  in the second column says about how sure that is: *documented* (AWS's text), *verified* (recorded from AWS),
  *reported* (people quote AWS, or clients depend on it), *inferred* (our reading).
- *as decided*: AWS says nothing that is clear, or has nothing like it; the answer is what the service decided
  (see [Deliberate deviations](#deliberate-deviations)).
- *(service)*: the service refused the request itself, with EC2's code, before it got as far as EC2.
- *differs*: with the number of the explanation below the table. *deviates*: a difference that the service decided on.

EC2's DryRunOperation, an error there, is an OK status with `DryRun: true` here, and counts as the same answer. Group,
rule and request ids are compared by what they stand for. R numbers are the rules of the [last table](#rules).
";

/// The explanations, in the order in which the table names them.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, text: String) -> usize {
        let found = self.0.iter().position(|note| *note == text);
        1 + found.unwrap_or_else(|| {
            self.0.push(text);
            self.0.len() - 1
        })
    }
}

/// The whole page.
pub fn page(table: &Table, sandbox: &Verdicts, door: &Verdicts, moto: &Verdicts) -> String {
    let live = Report::read();
    let mut text = HEAD.to_owned();
    let when = match &live {
        Some(report) => format!("live: run on {} in {}.", report.date, report.region),
        None => "live: not run.".to_owned(),
    };
    let _ = write!(text, "\n{when}\n\n");
    let live = live.map(|report| report.verdicts());
    let places = [
        ("sandbox", Some(sandbox)),
        ("door", Some(door)),
        ("moto", Some(moto)),
        ("live", live.as_ref()),
    ];
    counts(&mut text, table, &places);
    let mut notes = Notes::default();
    for chapter in &table.chapters {
        let _ = write!(
            text,
            "\n## {}\n\n| case | AWS documentation | sandbox | door | moto | live |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            chapter.title
        );
        for case in &chapter.cases {
            let cells = places.map(|(place, verdicts)| {
                let Some(verdicts) = verdicts else { return "not run".to_owned() };
                match verdicts.get(&case.name) {
                    Some(verdict) => cell(case, place, verdict, &mut notes),
                    None => "not run".to_owned(),
                }
            });
            let _ = writeln!(
                text,
                "| {}{} | {} | {} |",
                case.name,
                kinds(case),
                documentation(case),
                cells.join(" | ")
            );
        }
    }
    text.push_str("\n## Explanations\n\n");
    for (number, note) in notes.0.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", number + 1);
    }
    decisions(&mut text, table);
    rules(&mut text, table);
    text
}

fn counts(text: &mut String, table: &Table, places: &[(&str, Option<&Verdicts>)]) {
    let total = table.cases().count();
    let _ = write!(
        text,
        "{total} cases. Where a case runs in more than one kind of VPC, it is answered alike in each. *Left out* counts \
         the cases that\ndiffer only in members that the place never answers; *(service)* counts, among all, the \
         errors that the service found\nbefore EC2 could.\n\n\
         | place | as documented | as decided | deviates | differs | left out | (service) |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for (place, verdicts) in places {
        let Some(verdicts) = verdicts else {
            let _ = writeln!(text, "| {place} | not run | | | | | |");
            continue;
        };
        let cases: Vec<(&Case, &Verdict)> =
            table.cases().filter_map(|(_, case)| Some((case, verdicts.get(&case.name)?))).collect();
        let words = ["as documented", "as decided", "deviates", "differs"].map(|wanted| {
            cases.iter().filter(|(case, verdict)| word(case, verdict) == wanted).count()
        });
        let [documented, decided, deviates, differs] = words;
        let left_out = cases.iter().filter(|(_, verdict)| only_left_out(table, verdict)).count();
        let service = |verdict: &Verdict| match verdict {
            Verdict::AsDocumented { by_service } => *by_service,
            Verdict::Differs(_) | Verdict::Wrong(_) => false,
        };
        let service = cases.iter().filter(|(_, verdict)| service(verdict)).count();
        let _ = writeln!(
            text,
            "| {place} | {documented} | {decided} | {deviates} | {} | {left_out} | {service} |",
            differs - left_out
        );
    }
}

/// Whether all that differs is what the place never answers.
fn only_left_out(table: &Table, verdict: &Verdict) -> bool {
    let Verdict::Differs(differences) = verdict else { return false };
    differences.iter().all(|(_, why)| table.general.iter().any(|general| general.why == *why))
}

/// A verdict's word in the table.
fn word(case: &Case, verdict: &Verdict) -> &'static str {
    let silent = matches!(case.confidence, Confidence::Unknown | Confidence::None);
    match verdict {
        Verdict::AsDocumented { .. } if silent => "as decided",
        Verdict::AsDocumented { .. } => "as documented",
        Verdict::Differs(differences) if only_ours(case, differences) => "deviates",
        Verdict::Differs(_) => "differs",
        Verdict::Wrong(text) => panic!("{text}"),
    }
}

/// Whether all differences are what the service decided on.
fn only_ours(case: &Case, differences: &[(String, String)]) -> bool {
    let ours: Vec<&str> =
        case.steps.iter().filter_map(|step| Some(step.service.as_ref()?.why.as_str())).collect();
    differences.iter().all(|(_, why)| ours.contains(&why.as_str()))
}

fn cell(case: &Case, place: &str, verdict: &Verdict, notes: &mut Notes) -> String {
    let word = word(case, verdict);
    match verdict {
        Verdict::AsDocumented { by_service: true } => format!("{word} (service)"),
        Verdict::AsDocumented { by_service: false } | Verdict::Wrong(_) => word.to_owned(),
        Verdict::Differs(differences) => {
            let mut numbers: Vec<usize> = Vec::new();
            for (answer, why) in differences {
                let note = match (word, why.as_str()) {
                    ("deviates", why) => format!("{answer}: {why}"),
                    (_, "") => format!("{place}: {answer}"),
                    (_, why) => format!("{place} answers {answer}: {why}"),
                };
                let number = notes.number(note);
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
            }
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            format!("{word} [{}](#explanations)", numbers.join(", "))
        }
    }
}

/// The kinds of VPC, unless they are the usual two or the case's name says it.
fn kinds(case: &Case) -> String {
    if case.vpc == [Kind::Default, Kind::Nondefault] || case.name.ends_with("default VPC") {
        return String::new();
    }
    let words: Vec<&str> = case.vpc.iter().map(|kind| kind.word()).collect();
    format!(" ({})", words.join(", "))
}

fn documentation(case: &Case) -> String {
    format!("{} ({}; {})", case.aws, case.rules.join(", "), case.confidence.word())
}

fn decisions(text: &mut String, table: &Table) {
    text.push_str(
        "\n## Deliberate deviations\n\n\
         Where EC2 is silent or contradicts itself the service decides, in the sandbox and before the EC2 backend \
         alike. The EC2\nbackend leaves to EC2 whatever is not syntax.\n\n\
         | decision | EC2 | reason | cases |\n| --- | --- | --- | --- |\n",
    );
    for (name, decision) in &table.decisions {
        let cases = table.cases().filter(|(_, case)| case.decision.as_ref() == Some(name));
        let names: Vec<&str> = cases.map(|(_, case)| case.name.as_str()).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            decision.decision,
            decision.ec2,
            decision.reason,
            names.join("; ")
        );
    }
}

fn rules(text: &mut String, table: &Table) {
    text.push_str(
        "\n## Rules\n\n\
         The tests are in `tests/service/ec2_rules.rs`.\n\n\
         | rule | what it says | cases, or why there is none | tests |\n| --- | --- | --- | --- |\n",
    );
    for number in 1..=47 {
        let name = format!("R{number}");
        let rule = &table.rules[&name];
        let cases: Vec<&str> =
            table.cases_of(&name).iter().map(|case| case.name.as_str()).collect();
        let cases = rule.unobservable.clone().unwrap_or_else(|| cases.join("; "));
        let tests: Vec<String> = rule.tests.iter().map(|test| format!("`{test}`")).collect();
        let _ = writeln!(text, "| {name} | {} | {cases} | {} |", rule.says, tests.join(", "));
    }
}
