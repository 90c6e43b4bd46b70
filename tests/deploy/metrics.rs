//! The metrics as Prometheus sees them: what docs/metrics.md, which a test writes from the program's own table, says.

use std::collections::BTreeSet;

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// As Prometheus names it, a histogram without its endings.
    pub name: String,
    /// Whether it is asked for as `_bucket`, `_sum` and `_count`.
    pub histogram: bool,
    /// Its labels.
    pub labels: BTreeSet<String>,
    /// A histogram's bounds, as `le` has them.
    pub buckets: Vec<String>,
}

/// All of them. A section is a metric: its name, its kind, its labels.
pub fn documented(text: &str) -> Vec<Metric> {
    let quoted = |text: &str| text.split('`').nth(1).unwrap_or_default().to_owned();
    let sections = text.split("\n## `").skip(1);
    sections
        .map(|section| {
            let lines = section.lines().map(str::trim);
            let after =
                |key: &'static str| lines.clone().filter_map(move |line| line.strip_prefix(key));
            let kind = after("- OpenTelemetry: ").next().expect("a metric's kind");
            Metric {
                name: section.split('`').next().unwrap().to_owned(),
                histogram: kind.contains(", histogram"),
                labels: after("- label ").map(quoted).collect(),
                buckets: after("- buckets: ")
                    .flat_map(|all| all.split(", ").map(str::to_owned).collect::<Vec<_>>())
                    .collect(),
            }
        })
        .collect()
}

impl Metric {
    /// Whether a query that asks for `name` means this metric.
    pub fn is(&self, name: &str) -> bool {
        let endings = ["_bucket", "_sum", "_count"];
        if self.histogram {
            endings.iter().any(|ending| name.strip_suffix(ending) == Some(&self.name))
        } else {
            name == self.name
        }
    }
}
