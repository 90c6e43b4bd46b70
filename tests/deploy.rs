//! What is in deploy/ fits together and fits the program: queries name metrics that exist, alerts have their entries in the
//! runbook, the IAM policies have what is called. Everything that other tools know is checked by scripts/check-deploy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a panic is a failed test"
)]

use std::{collections::BTreeSet, fs, path::Path};

use metrics::Metric;
use serde_json::Value;

#[path = "deploy/metrics.rs"]
mod metrics;
#[path = "deploy/promql.rs"]
mod promql;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts after `key: ` in a YAML file of ours.
fn values(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::to_owned).collect()
}

/// The expressions of the rules.
fn rules() -> Vec<String> {
    let text = read("deploy/prometheus/rules.yml");
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() != "expr: |" {
            assert!(!line.trim_start().starts_with("expr:"), "{line}: expressions are blocks");
            continue;
        }
        let mut expression = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("          ")) {
            expression += line;
            expression.push('\n');
        }
        found.push(expression);
    }
    found
}

fn dashboard() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/portcullis.json")).unwrap();
    dashboard["panels"].as_array().unwrap().clone()
}

/// What an expression asks for must be a metric of docs/metrics.md with its labels, or a rule of ours.
fn assert_known(expression: &str, metrics: &[Metric]) {
    let recorded = values(&read("deploy/prometheus/rules.yml"), "record");
    let asked = promql::asked(expression);
    assert!(!asked.metrics.is_empty(), "{expression}: asks for nothing");
    let mut labels: BTreeSet<&str> = ["job", "instance"].into();
    for name in &asked.metrics {
        if name == "up" {
            continue;
        }
        // Which labels it keeps is for the rule to say, and those are looked at there.
        if recorded.contains(name) {
            labels.extend(metrics.iter().flat_map(|metric| &metric.labels).map(String::as_str));
            continue;
        }
        let metric = metrics.iter().find(|metric| metric.is(name));
        let metric = metric.unwrap_or_else(|| panic!("{name} is no metric: {expression}"));
        labels.extend(metric.labels.iter().map(String::as_str));
        if name.ends_with("_bucket") {
            labels.insert("le");
        }
    }
    for label in &asked.labels {
        assert!(
            labels.contains(label.as_str()),
            "nothing there has the label {label}: {expression}"
        );
    }
    // A quantile is only as exact as the buckets around it: an alert's limit has to be one of them.
    for rest in expression.split("))) > ").skip(1) {
        let limit = rest.split_whitespace().next().unwrap();
        let name = asked.metrics.iter().find(|name| name.ends_with("_bucket")).unwrap();
        let metric = metrics.iter().find(|metric| metric.is(name)).unwrap();
        assert!(
            metric.buckets.iter().any(|bound| bound == limit),
            "{limit} is no bucket: {expression}"
        );
    }
}

fn metrics() -> Vec<Metric> {
    let metrics = metrics::documented(&read("docs/metrics.md"));
    assert!(metrics.len() >= 20, "{metrics:?}");
    metrics
}

#[test]
fn rules_ask_for_metrics_that_exist() {
    let rules = rules();
    assert!(rules.len() >= 20, "{}", rules.len());
    let metrics = metrics();
    for expression in rules {
        assert_known(&expression, &metrics);
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let metrics = metrics();
    let mut seen = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard() {
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "two panels have the id {}",
            panel["id"]
        );
        if panel["type"] == "row" {
            continue;
        }
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert_known(expression, &metrics);
            seen.extend(promql::asked(expression).metrics);
        }
    }
    // Everything that is measured can be seen.
    for metric in &metrics {
        assert!(seen.iter().any(|name| metric.is(name)), "no panel shows {}", metric.name);
    }
}

/// Other releases, and other services, have series of the same names.
#[test]
fn every_selector_says_whose_series_it_wants() {
    let mut selectors = 0;
    let mut each = |expression: &str, wanted: &str| {
        for (metric, job) in promql::asked(expression).jobs {
            assert_eq!(job, wanted, "{metric} without the job: {expression}");
            selectors += 1;
        }
    };
    for expression in rules() {
        // The chart puts the release's name there.
        each(&expression, r#"="portcullis""#);
        // What several releases record or alert of is told apart by the label.
        for (at, _) in expression.match_indices("by (") {
            assert!(expression[at..].starts_with("by (job"), "loses the job: {expression}");
        }
        let loses = ["sum(", "max(", "min("].iter().any(|it| expression.contains(it));
        assert!(!loses, "loses the job: {expression}");
    }
    for panel in dashboard() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            each(target["expr"].as_str().unwrap(), r#"=~"$job""#);
        }
    }
    assert!(selectors >= 100, "{selectors}");
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/portcullis.json")).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let job = variables.iter().find(|it| it["name"] == "job").unwrap();
    assert!(job["allValue"].is_null(), "All would be every service's series, not Portcullis's");
}

/// The first calls of a kind that fail make their series: to rate() and increase() they are none.
#[test]
fn panels_of_failures_count_the_first_ones() {
    let mut panels = 0;
    for panel in dashboard() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            if expression.contains("rpc_response_status_code") {
                let asked = promql::asked(expression);
                let recorded = asked.metrics.iter().all(|it| it.starts_with("portcullis:calls:"));
                assert!(recorded, "{}: {expression}", panel["title"]);
                panels += 1;
            }
        }
    }
    assert_eq!(panels, 2);
}

#[test]
fn every_alert_has_its_entry_and_its_tests() {
    let rules = read("deploy/prometheus/rules.yml");
    let alerts = values(&rules, "alert");
    assert!(alerts.len() >= 20, "{}", alerts.len());
    let runbook = read("docs/runbook.md");
    let entries: Vec<String> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    assert_eq!(
        alerts.iter().collect::<BTreeSet<_>>(),
        entries.iter().collect::<BTreeSet<_>>(),
        "alerts (left) and entries of docs/runbook.md (right)"
    );
    assert_eq!(alerts.len(), entries.len(), "one is there twice");
    let urls = values(&rules, "runbook_url");
    let anchors: Vec<&str> =
        urls.iter().map(|url| url.split_once("/docs/runbook.md#").unwrap().1).collect();
    let expected: Vec<String> = alerts.iter().map(|alert| alert.to_lowercase()).collect();
    assert_eq!(anchors, expected, "each alert's runbook_url names its own entry");
    let tests = ["rules", "newborn", "releases", "crashes"]
        .map(|name| read(&format!("deploy/prometheus/{name}_test.yml")))
        .concat();
    for alert in &alerts {
        let fires = format!("labels: 'ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "no test sees {alert} fire");
    }
    // Entries refer to one another.
    for link in runbook.split("](#").skip(1) {
        let anchor = link.split(')').next().unwrap();
        assert!(expected.iter().any(|it| it == anchor), "#{anchor} is no entry of the runbook");
    }
}

/// `describe_vpcs` is DescribeVpcs.
fn action(method: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    method.split('_').map(word).collect()
}

#[test]
fn the_targets_role_may_do_what_is_called_and_nothing_else() {
    let mut called = BTreeSet::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend");
    let files = fs::read_dir(folder.join("ec2")).unwrap().map(|entry| entry.unwrap().path());
    for file in files.chain([folder.join("ec2.rs")]) {
        for line in fs::read_to_string(file).unwrap().lines() {
            // The SDK's calls stand on lines of their own.
            let Some(method) = line.trim().strip_prefix('.').and_then(|it| it.strip_suffix("()"))
            else {
                continue;
            };
            let verb = method.split('_').next().unwrap();
            if ["describe", "create", "delete", "authorize", "revoke"].contains(&verb)
                && method != verb
            {
                called.insert(format!("ec2:{}", action(method)));
            }
        }
    }
    assert!(called.contains("ec2:RevokeSecurityGroupEgress") && called.len() >= 9, "{called:?}");
    // What the tags of a creation need, and what ec2_decode_authorization_messages does.
    called.extend(["ec2:CreateTags", "sts:DecodeAuthorizationMessage"].map(str::to_owned));
    let policy: Value = serde_json::from_str(&read("deploy/iam/target.json")).unwrap();
    let mut allowed = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        let actions = statement["Action"].as_array().unwrap().iter();
        allowed.extend(actions.map(|action| action.as_str().unwrap().to_owned()));
        // Everything at EC2 is bound to Regions; everything that changes something, to resources.
        let action = statement["Action"][0].as_str().unwrap();
        if action.starts_with("ec2:") {
            assert!(statement["Condition"]["StringEquals"]["ec2:Region"].is_array(), "{statement}");
        }
        assert!(
            statement["Resource"][0] != "*"
                || action.contains(":Describe")
                || action.starts_with("sts:"),
            "{statement}"
        );
    }
    assert_eq!(called, allowed, "called by src/backend/ec2 (left), allowed by target.json (right)");
}

#[test]
fn the_trust_policy_is_the_documented_one() {
    let documented = read("docs/aws-identity.md");
    let policy: Value = serde_json::from_str(&read("deploy/iam/target-trust.json")).unwrap();
    for statement in policy["Statement"].as_array().unwrap() {
        let name = statement["Action"][0].as_str().unwrap();
        assert!(documented.contains(&format!("\"{name}\"")), "{name}");
        for keys in statement["Condition"].as_object().unwrap().values() {
            for (key, values) in keys.as_object().unwrap() {
                assert!(documented.contains(&format!("\"{key}\"")), "{key}");
                for value in values.as_array().unwrap() {
                    let known = documented.contains(&value.to_string());
                    assert!(known || key == "sts:ExternalId", "{key}: {value}");
                }
            }
        }
    }
}

/// Who is woken finds in each entry what it means, how to look, what to do and whom to call; its queries ask for what there is.
#[test]
fn every_entry_of_the_runbook_can_be_worked_with() {
    let runbook = read("docs/runbook.md");
    let metrics = metrics();
    let mut queries = 0;
    for entry in runbook.split("\n### ").skip(1) {
        let name = entry.lines().next().unwrap();
        // What follows belongs to the next chapter.
        let entry = entry.split("\n## ").next().unwrap();
        let parts = ["Means", "Look", "Do", "Escalate"].map(|part| format!("\n**{part}.**"));
        let at: Vec<usize> = parts
            .iter()
            .map(|part| entry.find(part).unwrap_or_else(|| panic!("{name}: no{part}")))
            .collect();
        assert!(at.is_sorted(), "{name}: its parts are in another order");
        // A command, a query, or a link to the entry that has them.
        let look = &entry[at[1]..at[2]];
        assert!(look.contains('`') || look.contains("](#"), "{name}: nothing to look with");
        for block in entry.split("```promql\n").skip(1) {
            for query in block.split("```").next().unwrap().lines() {
                assert_known(query, &metrics);
                queries += 1;
            }
        }
    }
    assert!(queries >= 10, "{queries}");
}

/// Settings, metrics, log fields, reasons and panels that the runbook sends people to.
#[test]
fn the_runbook_names_what_there_is() {
    let runbook = read("docs/runbook.md");
    let (settings, errors) = (read("docs/configuration.md"), read("docs/errors.md"));
    let metrics = metrics();
    let lines = read("src/middleware/observe.rs") + &read("src/operations/audit.rs");
    let is_name = |text: &str| {
        text.contains('_') && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    let quoted = |mark: char| runbook.split(mark).skip(1).step_by(2).map(str::to_owned);
    // Blocks of three marks would shift all that follows.
    assert_eq!(runbook.matches("```").count() % 2, 0);
    let names: BTreeSet<String> = quoted('`').filter(|text| is_name(text)).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let is_field = lines.contains(&format!("{name} = "));
        // PostgreSQL's own.
        let known = settings.contains(&format!("`{name}`"))
            || metrics.iter().any(|metric| metric.is(name))
            || is_field
            || name == "track_io_timing";
        assert!(known, "docs/runbook.md: {name} is no setting, no metric and no field of the log");
    }
    let panels: BTreeSet<String> =
        dashboard().iter().filter_map(|panel| panel["title"].as_str().map(str::to_owned)).collect();
    let prose: String = runbook.split("```").step_by(2).collect();
    let named = prose.split('"').skip(1).step_by(2);
    let named: BTreeSet<&str> = named.filter(|text| text.starts_with(char::is_uppercase)).collect();
    assert!(named.len() >= 5, "{named:?}");
    for panel in named {
        // Without its statistic: "EC2 latency, p99".
        let known = panels.iter().any(|title| title.split(", p").next() == Some(panel));
        assert!(known || panels.contains(panel), "docs/runbook.md: no panel {panel:?}: {panels:?}");
    }
    let words = runbook.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let reasons = words.filter(|word| {
        word.contains('_') && word.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    });
    for reason in reasons.filter(|reason| *reason != "DATA_LOSS") {
        assert!(errors.contains(&format!("| {reason} |")), "docs/runbook.md: no reason {reason}");
    }
}

/// A setting's default.
fn default(name: &str) -> u64 {
    let settings = read("docs/configuration.md");
    let (_, rest) = settings.split_once(&format!("### `{name}`")).expect(name);
    let (_, rest) = rest.split_once("- default: `").expect(name);
    rest.split('`').next().unwrap().parse().unwrap()
}

/// Killed before the end it loses the last lines, and calls that would have been finished. The chart adds up for itself,
/// which scripts/check-deploy looks at.
#[test]
fn who_ends_the_program_waits_for_its_end() {
    let seconds = |file: &str, name: &str| -> u64 {
        let text = read(file);
        let (_, rest) = text
            .split_once(&format!("{name}: Duration = Duration::from_secs("))
            .unwrap_or_else(|| panic!("{file}: no {name}"));
        rest.split(')').next().unwrap().parse().unwrap()
    };
    let ends = seconds("src/server.rs", "LAST_LINES")
        + seconds("src/telemetry.rs", "FLUSH_TIMEOUT")
        + seconds("src/telemetry/otlp.rs", "MARGIN");
    let drain = read("docs/drain.md");
    assert!(drain.contains(&format!("| the ends of log and telemetry | {ends} |")), "{ends}");
    let takes =
        (default("drain_delay_ms") + default("drain_timeout_ms") + default("otlp_timeout_ms"))
            / 1000
            + ends;
    let unit = read("deploy/systemd/portcullis.service");
    let (_, waits) = unit.split_once("\nTimeoutStopSec=").unwrap();
    let compose = values(&read("deploy/compose/compose.yaml"), "stop_grace_period").remove(0);
    for waits in [waits.lines().next().unwrap(), compose.trim_end_matches('s')] {
        let waits: u64 = waits.parse().unwrap();
        assert!(waits >= takes + 5, "{waits} s are too few for {takes}");
        assert!(drain.contains(&format!("the compose file have {waits}.")), "{waits}");
    }
}

/// Keys that are fetched as rarely as the settings say are none to get up for.
#[test]
fn keys_are_old_when_fetching_has_failed_for_hours() {
    let limit = format!("> 6 * 3600 + {}", default("jwks_refresh_interval_ms") / 1000);
    let rules = rules();
    let rule = rules.iter().find(|rule| rule.contains("portcullis_keys_age_seconds")).unwrap();
    assert!(rule.contains(&limit), "{limit}: {rule}");
    // The chart puts its own value there.
    assert!(read("deploy/helm/portcullis/templates/monitoring.yaml").contains(&limit[2..]));
    assert!(default("jwks_max_stale_ms") / 4000 >= 6 * 3600);
}

/// `keepalive_timeout_ms` (10 s): what the documents say of a setting is its default.
#[test]
fn times_in_the_documents_are_the_defaults() {
    let mut told = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (at, _) in text.match_indices("_ms` (") {
            let name = text[..at + 3].rsplit('`').next().unwrap();
            let value = text[at + 6..].split([')', ',']).next().unwrap();
            let mut words = value.split_whitespace();
            let number: Option<u64> = words.next().and_then(|word| word.parse().ok());
            let unit = match words.next() {
                Some("ms") => 1,
                Some("s") => 1000,
                Some("min") => 60_000,
                Some("hours") => 3_600_000,
                _ => continue,
            };
            let Some(number) = number else { continue };
            assert_eq!(number * unit, default(name), "{}: {name} ({value})", path.display());
            told += 1;
        }
    }
    assert!(told >= 7, "{told}");
}
