//! docs/attacks.md names tests. They must be there, and so must the cases that it quotes.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a row says of where its attack is tried.
struct Row<'a> {
    attack: &'a str,
    file: PathBuf,
    test: &'a str,
    cases: Vec<&'a str>,
}

fn rows(document: &str) -> Vec<Row<'_>> {
    let table = document.lines().filter(|line| line.starts_with("| ")).skip(2);
    table
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [attack, _, place] = cells[..] else { panic!("three cells: {line}") };
            let mut quoted = place.split('`').skip(1).step_by(2);
            let (file, test) = (quoted.next().unwrap(), quoted.next().unwrap());
            let cases = place.split('"').skip(1).step_by(2).collect();
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
            Row { attack, file, test, cases }
        })
        .collect()
}

/// What is wrong with a row.
fn fault(row: &Row<'_>) -> Option<String> {
    let Ok(mut text) = fs::read_to_string(&row.file) else {
        return Some(format!("{}: there is no {}", row.attack, row.file.display()));
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let start = [format!("async fn {}()", row.test), format!("fn {}()", row.test)];
    let at = lines.iter().position(|line| start.iter().any(|start| line.starts_with(start)));
    let marked = at.filter(|at| {
        lines[..*at]
            .iter()
            .rev()
            .take(3)
            .any(|line| line.starts_with("#[") && line.contains("test"))
    });
    if marked.is_none() {
        return Some(format!("{}: no test {} in {}", row.attack, row.test, row.file.display()));
    }
    // The cases of tests/attacks.rs are in tests/attacks/.
    for entry in fs::read_dir(row.file.with_extension("")).into_iter().flatten() {
        let path = entry.unwrap().path();
        if !path.ends_with("document.rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    let missing = row.cases.iter().find(|case| !text.contains(&format!("\"{case}\"")));
    missing.map(|case| format!("{}: no case {case:?} of {}", row.attack, row.test))
}

#[test]
fn every_row_names_a_test() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/attacks.md");
    let document = fs::read_to_string(path).unwrap();
    let rows = rows(&document);
    assert!(rows.len() >= 60, "{} rows", rows.len());
    let faults: Vec<String> = rows.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_row_that_names_nothing_is_found() {
    let of = |place: &str| {
        let document =
            format!("| attack | gets | test |\n| --- | --- | --- |\n| x | y | {place} |\n");
        fault(&rows(&document)[0])
    };
    let good = "`attacks.rs` `every_call_needs_a_credential`";
    assert_eq!(of(good), None);
    assert!(of("`nowhere.rs` `every_call_needs_a_credential`").is_some());
    assert!(of("`attacks.rs` `every_call_needs_a`").is_some());
    // A function, but no test.
    assert!(of("`attacks/table.rs` `of_claims`").is_some());
    assert!(of("`attacks.rs` `every_call_needs_a_credential` \"no such case\"").is_some());
}
