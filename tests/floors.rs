//! Holds the floors of the house: what each file under `src/` may import, and habits that no lint knows.
//!
//! The tables say it all. A file imports from lower floors and from what its own entry covers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice)]

use std::{collections::BTreeSet, fs, path::Path};

use source::{code_of, paths};

#[path = "floors/source.rs"]
mod source;

/// Files (how their paths begin; the longest entry wins), their floor, and what else of that floor they may import.
const FLOORS: &[(&str, u8, &[&str])] = &[
    ("src/main.rs", 9, &[]),
    ("src/open.rs", 8, &[]),
    ("src/lib.rs", 9, &[]),
    ("src/cli", 8, &[]),
    ("src/admin", 8, &[]),
    ("src/server", 7, &[]),
    ("src/middleware.rs", 6, &[]),
    ("src/middleware/web", 6, &["src/middleware.rs"]),
    ("src/middleware/observe", 6, &["src/middleware.rs"]),
    ("src/middleware/deadline", 6, &["src/middleware.rs"]),
    ("src/middleware/admission", 6, &["src/middleware.rs"]),
    ("src/middleware/json", 6, &["src/middleware.rs"]),
    ("src/middleware/conform", 6, &["src/middleware.rs"]),
    ("src/middleware/authenticate", 6, &["src/middleware.rs"]),
    ("src/middleware/rate_limit", 6, &["src/middleware.rs"]),
    ("src/api", 5, &[]),
    ("src/middleware/detach", 4, &[]),
    ("src/middleware/idempotency", 4, &[]),
    ("src/middleware/turns", 4, &[]),
    ("src/operations", 3, &[]),
    ("src/backend/sandbox", 2, &[]),
    ("src/backend/ec2", 2, &[]),
    ("src/backend/paced", 2, &[]),
    ("src/ledger/", 2, &[]),
    ("src/credentials", 2, &[]),
    (
        "src/backend.rs",
        1,
        &["src/rule", "src/clock", "src/pacing", "src/principal", "src/backend/standing"],
    ),
    ("src/backend/standing", 1, &["src/rule"]),
    ("src/ledger.rs", 1, &["src/rule", "src/clock", "src/ledger/"]),
    ("src/ledger/record", 1, &["src/rule", "src/ledger"]),
    ("src/ledger/state", 1, &[]),
    ("src/ledger/stored", 1, &["src/rule"]),
    ("src/ledger/turns", 1, &["src/ledger.rs"]),
    ("src/access", 1, &["src/rule", "src/error", "src/principal"]),
    ("src/config", 1, &["src/rule", "src/error", "src/clock", "src/tls"]),
    ("src/error", 1, &["src/rule", "src/backend.rs"]),
    ("src/pacing", 1, &[]),
    ("src/principal", 1, &[]),
    ("src/rule", 1, &[]),
    ("src/clock", 1, &[]),
    ("src/random", 1, &[]),
    ("src/telemetry", 1, &["src/config", "src/tls"]),
    ("src/reload", 1, &[]),
    ("src/tls", 1, &["src/clock", "src/principal"]),
];

/// The contract's generated types, and who may import them. These users may, whatever their floor.
const CONTRACT: (&str, &[&str]) =
    ("src/api/proto.rs", &["src/api", "src/server", CLIENT, "src/cli/policy", STATE_FORMAT]);
const STATE_FORMAT: &str = "src/backend/sandbox/state_format";
const CLIENT: &str = "src/cli/client";

/// Crates (how their names begin) that only some files under `src/` may name.
const CRATES: &[(&str, &[&str])] = &[
    ("aws_", &["src/backend/ec2"]),
    ("cedar_", &["src/access"]),
    ("jsonwebtoken", &["src/credentials"]),
    ("rusqlite", &["src/ledger/sqlite"]),
    ("clap", &["src/cli"]),
    ("comfy_table", &["src/cli/client/show"]),
    ("toml", &["src/config"]),
    ("governor", &["src/middleware/rate_limit", "src/credentials/failures"]),
    ("quick_xml", &["src/api/query"]),
    ("xmlparser", &["src/backend/ec2"]),
    ("prost_reflect", &["src/api/json"]),
    ("hyper_rustls", &["src/credentials/fetch"]),
    ("opentelemetry", &["src/telemetry"]),
    ("prometheus", &["src/telemetry"]),
    ("deadpool_postgres", &["src/ledger/postgres"]),
    ("tokio_postgres", &["src/ledger/postgres"]),
    (
        "tokio_rustls",
        &["src/tls", "src/cli/connect", "src/server/connections/tests", "src/ledger/postgres/tls"],
    ),
    ("x509_parser", &["src/tls", "src/ledger/postgres/tls"]),
    (
        "tonic",
        &[
            "src/api",
            "src/middleware",
            "src/server",
            "src/cli/connect",
            "src/cli/health",
            "src/cli/client.rs",
            "src/cli/client/failure",
            "src/telemetry/otlp",
            STATE_FORMAT,
        ],
    ),
    (
        "prost",
        &[
            "src/api",
            "src/middleware",
            "src/server",
            "src/cli/client/failure",
            "src/cli/client/schema",
            STATE_FORMAT,
        ],
    ),
];

/// Texts that code must not hold: the text, where, except where, and why.
const TEXTS: &[(&str, &[&str], &[&str], &str)] = &[
    ("todo!(", &["src/", "tests/"], &[], "finish it"),
    ("unimplemented!(", &["src/", "tests/"], &[], "finish it"),
    ("dbg!(", &["src/", "tests/"], &[], "take it out"),
    ("print!(", &["src/"], &["src/main.rs", "src/cli"], "only main and the CLI print"),
    ("println!(", &["src/"], &["src/main.rs", "src/cli"], "only main and the CLI print"),
    ("env::var", &["src/"], &["src/config"], "only the configuration reads the environment"),
    ("#[ignore", &["src/", "tests/"], &[], "every test runs"),
    ("sleep(", &["tests/"], &[], "wait for a condition"),
];

const MAX_LINES: usize = 600;

#[test]
fn the_house_keeps_its_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeSet::new();
    for folder in ["src", "tests", "benches"] {
        collect(root, folder, &mut files);
    }
    assert!(files.contains("src/lib.rs"), "no src/lib.rs among {files:?}");
    let broken: Vec<String> = files
        .iter()
        .flat_map(|file| check(file, &fs::read_to_string(root.join(file)).unwrap(), &files))
        .collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn collect(root: &Path, folder: &str, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root.join(folder)).into_iter().flatten() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, files);
        } else if path.ends_with(".rs") {
            files.insert(path);
        }
    }
}

/// What is wrong with a file, one `file:line: rule` each.
fn check(file: &str, text: &str, files: &BTreeSet<String>) -> Vec<String> {
    let code = code_of(text);
    let mut broken = Vec::new();
    let mut report = |at: usize, rule: String| {
        let line = 1 + code.bytes().take(at).filter(|&byte| byte == b'\n').count();
        broken.push(format!("{file}:{line}: {rule}"));
    };
    if text.lines().count() > MAX_LINES {
        report(0, format!("is over {MAX_LINES} lines: split it"));
    }
    if file.ends_with("/mod.rs") {
        report(0, "no mod.rs: name it after its folder, beside it".to_owned());
    }
    for (text, within, except, why) in TEXTS {
        if covered(file, within) && !covered(file, except) {
            code.match_indices(text).for_each(|(at, _)| report(at, format!("`{text}`: {why}")));
        }
    }
    if !file.starts_with("src/") {
        return broken;
    }
    for (at, _, path) in paths(&code) {
        for (prefix, users) in CRATES {
            if path[0].starts_with(prefix) && !covered(file, users) {
                report(at, format!("names {}; only {} may", path[0], users.join(", ")));
            }
        }
    }
    let Some((own, floor, beside)) = entry(file) else {
        report(0, "has no floor: give it one in tests/floors.rs".to_owned());
        return broken;
    };
    for (at, target) in imports(file, &code, files) {
        let contract = target == CONTRACT.0;
        if contract && !covered(file, CONTRACT.1) {
            report(at, format!("imports {target}; only {} may", CONTRACT.1.join(", ")));
        }
        let Some((_, other, _)) = entry(&target) else { continue };
        let beside = covered(&target, &[own]) || covered(&target, beside);
        if !contract && (other > floor || other == floor && !beside) {
            report(at, format!("on floor {floor} imports {target}, on floor {other}"));
        }
    }
    broken
}

fn covered(file: &str, entries: &[&str]) -> bool {
    entries.iter().any(|entry| file.starts_with(entry))
}

fn entry(file: &str) -> Option<(&'static str, u8, &'static [&'static str])> {
    let fits = FLOORS.iter().filter(|(start, ..)| file.starts_with(start));
    fits.max_by_key(|(start, ..)| start.len()).copied()
}

/// The files that a file imports from, and where it does.
fn imports(file: &str, code: &str, files: &BTreeSet<String>) -> Vec<(usize, String)> {
    let home: Vec<&str> = match file {
        "src/main.rs" | "src/lib.rs" => Vec::new(),
        _ => file[..file.len() - 3].split('/').skip(1).collect(),
    };
    let path_of = |segments: &[&str]| format!("src/{}.rs", segments.join("/"));
    let mut targets = Vec::new();
    for (at, inline, path) in paths(code) {
        let child = path_of(&[&home[..], &path[..1]].concat());
        let mut module = match path[0] {
            "crate" => Vec::new(),
            "super" => [home.clone(), vec![""; inline]].concat(),
            first if first == "self" || files.contains(&child) => home.clone(),
            _ => continue,
        };
        for segment in path {
            match segment {
                "crate" | "self" => {}
                "super" => drop(module.pop()),
                name => module.push(name),
            }
        }
        let mut owners = (1..=module.len()).rev().map(|count| path_of(&module[..count]));
        let target = owners.find(|owner| files.contains(owner));
        targets.push((at, target.unwrap_or_else(|| "src/lib.rs".to_owned())));
    }
    targets
}

fn check_alone(file: &str, text: &str) -> Vec<String> {
    let known = FLOORS.iter().map(|(start, ..)| start.trim_end_matches(".rs"));
    let mut files: BTreeSet<String> = known.map(|start| format!("{start}.rs")).collect();
    files.extend(["src/api/proto.rs", "src/ledger/sqlite.rs", file].map(str::to_owned));
    check(file, text, &files)
}

#[test]
fn every_rule_reports_what_breaks_it() {
    let long = "\n".repeat(MAX_LINES + 1);
    for (file, text, report) in [
        ("src/rule/id.rs", "\nuse crate::error::Error;", ":2: on floor 1 imports src/error.rs"),
        ("src/ledger.rs", "use crate::{rule, server::run};", "imports src/server.rs"),
        ("src/ledger.rs", "use crate::rule::{self, Id as I};\nuse crate::{api};", ":2: on floor 1"),
        (
            "src/error.rs",
            "use crate::{\n    rule::{\n        Rule,\n    },\n    random::R,\n};",
            ":5: on",
        ),
        ("src/ledger.rs", "pub use sqlite::Sqlite;", "imports src/ledger/sqlite.rs"),
        ("src/clock.rs", "fn f() -> crate::rule::Rule {}", "imports src/rule.rs"),
        ("src/rule.rs", "use crate::Thing;", "imports src/lib.rs"),
        ("src/middleware/observe.rs", "use super::deadline::X;", "src/middleware/deadline.rs"),
        ("src/rule.rs", "mod tests { use super::super::config::X; }", "imports src/config.rs"),
        ("src/middleware/turns.rs", "use super::observe::X;", "src/middleware/observe.rs"),
        ("src/backend/ec2.rs", "use crate::backend::sandbox::X;", "src/backend/sandbox.rs"),
        (
            "src/middleware/detach.rs",
            "use crate::api::proto::v1;",
            "imports src/api/proto.rs; only",
        ),
        (
            "src/middleware/turns.rs",
            "use super::idempotency::Slot;",
            "imports src/middleware/idempotency.rs",
        ),
        ("src/server.rs", "use aws_sdk_ec2::Client;", "names aws_sdk_ec2; only"),
        ("src/rule.rs", "fn f() -> tonic::Status {}", "names tonic; only"),
        ("src/ledger/memory.rs", "use rusqlite::Connection;", "names rusqlite; only"),
        ("src/server.rs", "use opentelemetry::KeyValue;", "names opentelemetry; only"),
        ("src/admin.rs", "use prometheus::Registry;", "names prometheus; only"),
        ("src/operations/revoke.rs", "#[derive(prost::Message)]", "names prost; only"),
        ("src/cli/client/show.rs", "fn f() -> tonic::Status {}", "names tonic; only"),
        ("src/cli/banner.rs", "use crate::api::proto::v1;", "imports src/api/proto.rs; only"),
        ("src/novel.rs", "", "has no floor"),
        ("src/rule/mod.rs", "", "no mod.rs"),
        ("tests/long.rs", &long, "is over 600 lines"),
        ("src/rule.rs", "todo!()", "`todo!(`"),
        ("src/rule.rs", "unimplemented!()", "`unimplemented!(`"),
        ("src/rule.rs", "dbg!(x)", "`dbg!(`"),
        ("src/rule.rs", "print!()", "`print!(`"),
        ("src/rule.rs", "eprintln!()", "`println!(`"),
        ("src/rule.rs", "std::env::var_os(NAME)", "`env::var`"),
        ("tests/a.rs", "#[ignore]", "`#[ignore`"),
        ("tests/a.rs", "tokio::time::sleep(SECOND).await", "`sleep(`"),
        ("tests/a.rs", "thread::sleep(SECOND)", "`sleep(`"),
    ] {
        let broken = check_alone(file, text);
        assert!(broken.iter().any(|line| line.contains(report)), "{file} {text:?}: {broken:?}");
    }
}

#[test]
fn what_keeps_the_rules_is_not_reported() {
    for (file, text) in [
        ("src/error.rs", "use std::fmt;\n\nuse crate::{\n    rule::{\n        Rule,\n    },\n};"),
        ("src/main.rs", "fn main() { println!() }"),
        ("src/middleware/turns.rs", "use crate::{ledger::Ledger, operations::Call};"),
        ("src/backend/sandbox/state_format.rs", "use crate::api::proto::v1; use prost::Message;"),
        ("src/backend/ec2/call.rs", "use super::super::ec2; use aws_sdk_ec2::Client;"),
        ("src/rule.rs", "pub use id::Id; mod tests { use super::*; mod deep { use super::X; } }"),
        (
            "src/rule.rs",
            "// use crate::server::X;\nlet text = r#\"\"crate::api::X todo!(\"#; '\"';",
        ),
        ("src/rule.rs", "/* crate::api::X */ fn f<'a>(x: &'a str) { \"\\\"dbg!(\"; '\\''; '–' }"),
    ] {
        assert_eq!(check_alone(file, text), [""; 0], "{file} {text:?}");
    }
}
