//! The table of cases: what `cases/*.toml` may say, and what must hold for it before anything runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::Deserialize;

/// The whole table.
#[derive(Debug)]
pub struct Table {
    pub rules: BTreeMap<String, Rule>,
    pub decisions: BTreeMap<String, Decision>,
    pub general: Vec<General>,
    pub chapters: Vec<Chapter>,
}

/// One file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chapter {
    pub title: String,
    /// Permissions by name; a body names them in braces.
    #[serde(default)]
    pub permissions: BTreeMap<String, String>,
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// One row: a fresh group, and calls about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// R1..R47, or a section of the facts as "section 2".
    pub rules: Vec<String>,
    /// What AWS documents, in one sentence.
    pub aws: String,
    pub confidence: Confidence,
    /// Where AWS is silent, or where the service deliberately differs: a name in `decisions`.
    pub decision: Option<String>,
    /// The kinds of VPC that the case runs in.
    #[serde(default = "both")]
    pub vpc: Vec<Kind>,
    /// The rules that the group gets besides its first ones, by the names of their permissions.
    #[serde(default)]
    pub egress: Vec<String>,
    #[serde(default)]
    pub ingress: Vec<String>,
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// One call, and what AWS documents as its answer. `moto` says where moto differs, `service` where the service does in
/// every place, because of the case's decision.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub call: String,
    #[serde(default = "nothing")]
    pub body: String,
    pub ok: Option<String>,
    pub error: Option<String>,
    /// Part of the message.
    pub says: Option<String>,
    /// The group's rules afterwards, in any order.
    pub left: Option<Vec<String>>,
    pub moto: Option<Difference>,
    pub service: Option<Difference>,
}

/// Another answer than the documented one. What is not given is as documented.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    pub why: String,
    pub ok: Option<String>,
    pub error: Option<String>,
    pub says: Option<String>,
    pub left: Option<Vec<String>>,
}

/// A member that a place never answers where AWS does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct General {
    pub place: String,
    pub why: String,
    pub calls: Vec<String>,
    /// The path of the member; `*` stands for every element of a list.
    pub drops: String,
}

/// Where a rule is tested besides the cases, and why no case can show it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub says: String,
    /// Tests in tests/service/ec2_rules.rs.
    #[serde(default)]
    pub tests: Vec<String>,
    pub unobservable: Option<String>,
}

/// What the service decided where EC2 is silent or contradicts itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub decision: String,
    pub ec2: String,
    pub reason: String,
}

/// How sure it is that AWS does this.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    Documented,
    Verified,
    Reported,
    Inferred,
    Unknown,
    /// The service's own: AWS has nothing like it.
    None,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Default,
    Nondefault,
    Ipv6,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    rules: BTreeMap<String, Rule>,
    decisions: BTreeMap<String, Decision>,
    general: Vec<General>,
}

fn both() -> Vec<Kind> {
    vec![Kind::Default, Kind::Nondefault]
}

fn nothing() -> String {
    "{}".to_owned()
}

impl Confidence {
    pub fn word(self) -> &'static str {
        match self {
            Self::Documented => "documented",
            Self::Verified => "verified",
            Self::Reported => "reported",
            Self::Inferred => "inferred",
            Self::Unknown => "unknown",
            Self::None => "no counterpart",
        }
    }
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Nondefault => "nondefault",
            Self::Ipv6 => "nondefault with IPv6",
        }
    }
}

impl Table {
    /// Reads `tests/conformance/cases`; the files in the order of their names.
    pub fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/cases");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let mut files: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let mut chapters = Vec::new();
        let mut facts = None;
        for file in files {
            let text = read(&file);
            let refuse = |error: toml::de::Error| panic!("{}: {error}", file.display());
            if file.ends_with("facts.toml") {
                facts = Some(toml::from_str::<Facts>(&text).unwrap_or_else(refuse));
            } else {
                chapters.push(
                    toml::from_str::<Chapter>(&text)
                        .unwrap_or_else(|error| panic!("{}: {error}", file.display())),
                );
            }
        }
        let Facts { rules, decisions, general } = facts.expect("facts.toml");
        Self { rules, decisions, general, chapters }
    }

    pub fn cases(&self) -> impl Iterator<Item = (&Chapter, &Case)> {
        self.chapters
            .iter()
            .flat_map(|chapter| chapter.cases.iter().map(move |case| (chapter, case)))
    }

    /// The cases that name a rule.
    pub fn cases_of(&self, rule: &str) -> Vec<&Case> {
        let cases = self.cases().map(|(_, case)| case);
        cases.filter(|case| case.rules.iter().any(|name| name == rule)).collect()
    }

    /// Everything that is wrong with the data itself.
    pub fn complaints(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut names = BTreeSet::new();
        for (chapter, case) in self.cases() {
            let mut complain = |text: String| wrong.push(format!("{}: {text}", case.name));
            if !names.insert(&case.name) {
                complain("the name is not unique".to_owned());
            }
            if case.steps.is_empty() || case.vpc.is_empty() || case.rules.is_empty() {
                complain("steps, vpc and rules need at least one each".to_owned());
            }
            for rule in &case.rules {
                let section = rule.strip_prefix("section ");
                if !self.rules.contains_key(rule) && section.is_none() {
                    complain(format!("no rule {rule}"));
                }
            }
            for name in case.egress.iter().chain(&case.ingress) {
                if !chapter.permissions.contains_key(name) {
                    complain(format!("no permission {name}"));
                }
            }
            let decision = case.decision.as_ref();
            if decision.is_some_and(|name| !self.decisions.contains_key(name)) {
                complain(format!("no decision {decision:?}"));
            }
            if case.confidence == Confidence::Unknown && decision.is_none() {
                complain("AWS is silent: name the decision".to_owned());
            }
            for step in &case.steps {
                if step.ok.is_some() == step.error.is_some() {
                    complain(format!("{}: either ok or error", step.call));
                }
                if step.service.is_some() && decision.is_none() {
                    complain(format!("{}: the service differs without a decision", step.call));
                }
            }
        }
        let taken =
            ["group", "peer", "peered", "foreign", "name", "run", "vpc", "account", "region"];
        for chapter in &self.chapters {
            for name in taken.iter().filter(|&&name| chapter.permissions.contains_key(name)) {
                wrong.push(format!("{}: a permission cannot be called {name}", chapter.title));
            }
        }
        let numbers: BTreeSet<String> = (1..=47).map(|number| format!("R{number}")).collect();
        let known: BTreeSet<String> = self.rules.keys().cloned().collect();
        if numbers != known {
            wrong.push(format!("facts.toml must have R1..R47: {known:?}"));
        }
        for (name, rule) in &self.rules {
            match (self.cases_of(name).is_empty(), &rule.unobservable) {
                (true, None) => wrong.push(format!("{name}: neither a case nor why there is none")),
                (false, Some(_)) => wrong.push(format!("{name}: has a case, so it is observable")),
                _ => {}
            }
        }
        let named: BTreeSet<&str> =
            self.rules.values().flat_map(|rule| &rule.tests).map(String::as_str).collect();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/ec2_rules.rs");
        let text = fs::read_to_string(path).unwrap();
        let tests = text.lines().filter_map(|line| line.strip_prefix("async fn ")?.split_once('('));
        let tests: BTreeSet<&str> = tests.map(|(name, _)| name).collect();
        for name in named.symmetric_difference(&tests) {
            wrong.push(format!("{name}: either in facts.toml or in ec2_rules.rs only"));
        }
        for section in ["1", "2", "3", "5", "6", "8", "9"] {
            if self.cases_of(&format!("section {section}")).is_empty() {
                wrong.push(format!("section {section} has no case"));
            }
        }
        for name in self.decisions.keys() {
            if !self.cases().any(|(_, case)| case.decision.as_ref() == Some(name)) {
                wrong.push(format!("the decision {name} has no case"));
            }
        }
        wrong
    }
}
