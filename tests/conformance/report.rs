//! What a run on real EC2 gave: `live.json`, which `scripts/live-aws` writes and the page shows.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::run::{Verdict, Verdicts};

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub date: String,
    pub region: String,
    cases: BTreeMap<String, Entry>,
}

/// A verdict as the file has it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    as_documented: bool,
    #[serde(default)]
    by_service: bool,
    /// What was answered instead.
    #[serde(default)]
    answers: Vec<(String, String)>,
}

impl Report {
    /// None: no account's owner has run it.
    pub fn read() -> Option<Self> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/live.json");
        let text = fs::read_to_string(&path).ok()?;
        Some(
            serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        )
    }

    pub fn new(date: String, region: String, verdicts: &Verdicts) -> Self {
        let cases = verdicts.iter().map(|(name, verdict)| {
            let (as_documented, by_service, answers) = match verdict {
                Verdict::AsDocumented { by_service } => (true, *by_service, Vec::new()),
                Verdict::Differs(answers) => (false, false, answers.clone()),
                Verdict::Wrong(text) => (false, false, vec![(text.clone(), String::new())]),
            };
            (name.clone(), Entry { as_documented, by_service, answers })
        });
        Self { date, region, cases: cases.collect() }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap() + "\n"
    }

    pub fn verdicts(&self) -> Verdicts {
        let verdict = |entry: &Entry| match entry {
            Entry { as_documented: true, by_service, .. } => {
                Verdict::AsDocumented { by_service: *by_service }
            }
            Entry { answers, .. } => Verdict::Differs(answers.clone()),
        };
        self.cases.iter().map(|(name, entry)| (name.clone(), verdict(entry))).collect()
    }
}

#[test]
fn a_report_reads_as_it_was_written() {
    let differs = vec![("step 1, RevokeEgress: INVALID_ACTION".to_owned(), String::new())];
    let verdicts = Verdicts::from([
        ("a".to_owned(), Verdict::AsDocumented { by_service: true }),
        ("b".to_owned(), Verdict::AsDocumented { by_service: false }),
        ("c".to_owned(), Verdict::Differs(differs)),
    ]);
    let report = Report::new("2026-01-31".to_owned(), "us-east-1".to_owned(), &verdicts);
    let read: Report = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!((read.date.as_str(), read.region.as_str()), ("2026-01-31", "us-east-1"));
    assert_eq!(read.verdicts(), verdicts);
}
