//! As much of PromQL as it takes to see which metrics and labels an expression asks for. Whether it is PromQL is promtool's
//! to say.

use std::collections::BTreeSet;

/// What an expression names.
#[derive(Debug, Default)]
pub struct Asked {
    /// Metrics, and recorded rules.
    pub metrics: BTreeSet<String>,
    /// Labels that it selects or groups by.
    pub labels: BTreeSet<String>,
    /// Each selector: its metric, and what it wants of `job`, such as `="portcullis"`.
    pub jobs: Vec<(String, String)>,
}

/// What `expression` names.
pub fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let tokens = tokens(expression);
    let mut depth = 0;
    let mut grouping = false;
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map(String::as_str);
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "by" | "without" | "on" | "ignoring" => grouping = true,
            ")" => grouping = false,
            name if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {}
            label if depth > 0 || grouping => {
                asked.labels.insert(label.to_owned());
            }
            "and" | "or" | "unless" | "bool" | "offset" => {}
            _ if matches!(next, Some("(" | "by" | "without")) => {}
            metric => {
                asked.metrics.insert(metric.to_owned());
                asked.jobs.push((metric.to_owned(), job(&tokens[at + 1..])));
            }
        }
    }
    asked
}

/// What the matchers at the beginning of `tokens` say of the job.
fn job(tokens: &[String]) -> String {
    let mut said = tokens.iter().map(String::as_str);
    if said.next() != Some("{") {
        return String::new();
    }
    said.take_while(|token| *token != "}")
        .skip_while(|token| *token != "job")
        .skip(1)
        .take_while(|token| *token != ",")
        .collect()
}

/// Names, numbers, signs and texts; comments and the ranges in brackets are left out.
fn tokens(expression: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = expression.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                let mut text = String::from(c);
                while let Some(c) = rest.next() {
                    text.push(c);
                    if c == '\\' {
                        text.extend(rest.next());
                    } else if c == '"' {
                        break;
                    }
                }
                tokens.push(text);
            }
            '#' => while rest.next().is_some_and(|c| c != '\n') {},
            '[' => while rest.next().is_some_and(|c| c != ']') {},
            c if c.is_ascii_alphanumeric() || c == '_' || c == ':' => {
                let mut name = String::from(c);
                while let Some(c) =
                    rest.next_if(|c| c.is_ascii_alphanumeric() || "_:.".contains(*c))
                {
                    name.push(c);
                }
                tokens.push(name);
            }
            c if c.is_whitespace() => {}
            c => tokens.push(c.to_string()),
        }
    }
    tokens
}

#[test]
fn metrics_and_labels_are_told_apart() {
    let asked = asked(
        "histogram_quantile(0.99, sum by (le, a_label) (rate(one_bucket{job=~\"no{t\\\"m[e\", x!=\"y\"}[5m])))\n\
         # not this\n\
         > on (z) 2 * 1e3 and absent(two == 1) or vector(0) unless three offset 5m",
    );
    let sorted = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(sorted(&asked.metrics), "one_bucket three two");
    assert_eq!(sorted(&asked.labels), "a_label job le x z");
    let jobs: Vec<_> = asked.jobs.iter().map(|(metric, job)| format!("{metric}{job}")).collect();
    assert_eq!(jobs, ["one_bucket=~\"no{t\\\"m[e\"", "two", "three"]);
}
