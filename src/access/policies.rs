//! Policies from a directory: parsed, named, checked against the schema.

use std::{fmt, fs, path::Path, str::FromStr, sync::LazyLock};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

/// The schema's text, as it is shipped.
pub const SCHEMA: &str = include_str!("portcullis.cedarschema");

/// The most bytes of one file, and the most files: a directory that was given by mistake is not read whole.
const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_FILES: usize = 1000;

/// The annotations that mean something. Any other may be one of these misspelled, which could make a policy that
/// shall only report decide.
const ID: &str = "id";
const REPORT_ONLY: &str = "report_only";
const DESCRIPTION: &str = "description";

/// The schema, parsed. The error cannot happen in a build whose tests pass.
static PARSED: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
    Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|error| chain(&error))
});

/// The schema.
pub fn schema() -> Result<&'static Schema, Fault> {
    let broken = |error: &String| Fault::of("portcullis.cedarschema", None, error.clone());
    PARSED.as_ref().map_err(broken)
}

/// A set of policies that passed all checks.
#[derive(Debug)]
pub struct Policies {
    /// Those that decide.
    pub enforced: PolicySet,
    /// Those that decide and those that only report. None: there are no such.
    pub with_report_only: Option<PolicySet>,
    /// How many there are in all.
    pub count: usize,
    /// What the validator warns of.
    pub warnings: Vec<Fault>,
}

/// One thing wrong with a directory of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, or the directory.
    pub file: String,
    /// The line, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl Fault {
    fn of(file: &str, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

impl Policies {
    /// Whether the others say something else.
    pub fn differs_from(&self, others: &Self) -> bool {
        (&self.enforced, &self.with_report_only) != (&others.enforced, &others.with_report_only)
    }

    /// Reads every `*.cedar` file of a directory, in the order of their names. All that is wrong comes back at once.
    pub fn read(dir: &Path) -> Result<Self, Vec<Fault>> {
        let of_dir = |message: String| vec![Fault::of(&dir.display().to_string(), None, message)];
        let entries =
            fs::read_dir(dir).map_err(|error| of_dir(format!("cannot be read: {error}")))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| of_dir(format!("cannot be read: {error}")))?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| of_dir(format!("{name:?} is not UTF-8")))?;
            // What begins with a dot is how Kubernetes and editors keep other versions.
            if name.ends_with(".cedar") && !name.starts_with('.') {
                names.push(name.to_owned());
            }
        }
        names.sort();
        if names.len() > MAX_FILES {
            return Err(of_dir(format!("{} policy files; at most {MAX_FILES}", names.len())));
        }
        let mut files = Vec::with_capacity(names.len());
        let mut faults = Vec::new();
        for name in names {
            match read_file(&dir.join(&name)) {
                Ok(text) => files.push((name, text)),
                Err(message) => faults.push(Fault::of(&name, None, message)),
            }
        }
        match Self::parse(&files) {
            Ok(policies) if faults.is_empty() => {
                if policies.count == 0 {
                    return Err(of_dir("there is no policy in it".to_owned()));
                }
                Ok(policies)
            }
            Ok(_) => Err(faults),
            Err(found) => Err([faults, found].concat()),
        }
    }

    /// Parses files, given as name and text.
    pub fn parse(files: &[(String, String)]) -> Result<Self, Vec<Fault>> {
        let schema = schema().map_err(|fault| vec![fault])?;
        let validator = Validator::new(schema.clone());
        let mut enforced = PolicySet::new();
        let mut all = PolicySet::new();
        let (mut count, mut report_only) = (0, 0);
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for (file, text) in files {
            let named = match named(file, text) {
                Ok(named) => named,
                Err(found) => {
                    faults.extend(found);
                    continue;
                }
            };
            // As a file is while it is written anew: what it forbade would be lifted.
            if named.is_empty() {
                faults.push(Fault::of(file, None, "there is no policy in it"));
            }
            let mut of_file = PolicySet::new();
            for (policy, reports) in named {
                count += 1;
                report_only += usize::from(reports);
                let sets =
                    [Some(&mut of_file), Some(&mut all), (!reports).then_some(&mut enforced)];
                for set in sets.into_iter().flatten() {
                    if let Err(error) = set.add(policy.clone()) {
                        faults.push(Fault::of(file, None, chain(&error)));
                    }
                }
            }
            let result = validator.validate(&of_file, ValidationMode::Strict);
            faults.extend(result.validation_errors().map(|error| located(file, text, error)));
            warnings.extend(result.validation_warnings().map(|error| located(file, text, error)));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let with_report_only = (report_only > 0).then_some(all);
        Ok(Self { enforced, with_report_only, count, warnings })
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let data = fs::metadata(path).map_err(failed)?;
    if !data.is_file() {
        return Err("is not a file".to_owned());
    }
    if data.len() > MAX_FILE_BYTES {
        return Err(format!("has {} bytes; at most {MAX_FILE_BYTES}", data.len()));
    }
    fs::read_to_string(path).map_err(failed)
}

/// The policies of a file with the ids that the log names them by, and whether each only reports.
fn named(file: &str, text: &str) -> Result<Vec<(Policy, bool)>, Vec<Fault>> {
    let parsed = PolicySet::from_str(text).map_err(|errors| {
        errors.iter().map(|error| located(file, text, error)).collect::<Vec<_>>()
    })?;
    let mut faults = Vec::new();
    for template in parsed.templates() {
        let message = "a template (?principal or ?resource): nothing links it, so it would never \
                       apply; write the policy out";
        faults.push(Fault::of(file, None, format!("{}: {message}", template.id())));
    }
    // Cedar numbers a file's policies from 0 in the order in which they stand.
    let number = |policy: &Policy| -> usize {
        let id: &str = policy.id().as_ref();
        id.strip_prefix("policy").and_then(|digits| digits.parse().ok()).unwrap_or_default()
    };
    let mut policies: Vec<&Policy> = parsed.policies().collect();
    policies.sort_by_key(|policy| number(policy));
    let mut seen = std::collections::HashSet::new();
    let mut named = Vec::with_capacity(policies.len());
    for policy in policies {
        let name = match policy.annotation(ID) {
            Some(id) => id.to_owned(),
            None => (number(policy) + 1).to_string(),
        };
        let id = format!("{file}#{name}");
        let mut wrong = |message: String| faults.push(Fault::of(file, None, message));
        if name.is_empty() || name.chars().any(char::is_control) {
            wrong(format!("{id:?}: @id needs a name without control characters"));
        }
        if !seen.insert(name) {
            wrong(format!("two policies have the id {id}"));
        }
        for (key, _) in policy.annotations() {
            if ![ID, REPORT_ONLY, DESCRIPTION].contains(&key) {
                wrong(format!(
                    "{id}: there is no annotation @{key}; there are @{ID}, @{REPORT_ONLY} and @{DESCRIPTION}"
                ));
            }
        }
        let reports = match policy.annotation(REPORT_ONLY) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                wrong(format!("{id}: @{REPORT_ONLY} takes \"true\" or \"false\", not {other:?}"));
                false
            }
        };
        named.push((policy.new_id(PolicyId::new(id)), reports));
    }
    if faults.is_empty() { Ok(named) } else { Err(faults) }
}

/// A diagnostic with the line that it points at, and what helps.
fn located(file: &str, text: &str, error: &impl Diagnostic) -> Fault {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let line =
        offset.map(|offset| 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count());
    let message = match error.help() {
        Some(help) => format!("{} ({help})", chain(error)),
        None => chain(error),
    };
    Fault::of(file, line, message)
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
