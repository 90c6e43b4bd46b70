//! Our shorthand and the AWS CLI's own parser read the same text alike.

use std::collections::BTreeMap;

use portcullis::cli::client::shorthand::parse;
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use serde_json::Value;

use super::programs::{output, tool};

/// Reads a JSON list of texts, and prints for each what the AWS CLI makes of it, or null.
const AWS: &str = r#"
import json, sys
from awscli.shorthand import ShorthandParser, ShorthandParseError
def read(text):
    try:
        return ShorthandParser().parse(text)
    except (ShorthandParseError, TypeError):
        return None
print(json.dumps([read(text) for text in json.load(open(sys.argv[1]))]))
"#;

/// Texts that both must take.
const BOTH: [&str; 16] = [
    "a=b",
    "a=",
    "a=,b=",
    "a=b,c",
    "Name=group-id,Values=sg-1,sg-2",
    "Values=x,y,z,Name=n",
    "a=b , c = d",
    "a=one two , three",
    r"a=b\,c",
    r"a=b\,c,d\,e",
    r#"a=b,"c=d",'e,f'"#,
    r#"a="say \"hi\"",b='it\'s'"#,
    "a=[b,c,]",
    "a={ b = c , d = [ e ] } , f = g",
    r#"IpProtocol=tcp,FromPort=443,ToPort=443,IpRanges=[{CidrIp=10.0.0.0/8,Description="a b"}]"#,
    "IpProtocol=-1,UserIdGroupPairs=[{GroupId=sg-1,UserId=123456789012}],PrefixListIds=[{PrefixListId=pl-1}]",
];

/// Pieces of shorthand in any order: most of them are wrong.
const PIECES: &str = r#"([ab]=|[ab]|,|=|\[|\]|\{|\}|"[ab,=]?"|'[ab\]]?'|\\,| ){0,9}"#;

#[tokio::test]
async fn the_aws_cli_reads_the_same() {
    let Some(python) = tool("venv/bin/python") else { return };
    let mut runner = TestRunner::deterministic();
    let mut texts: Vec<String> = BOTH.iter().map(|text| (*text).to_owned()).collect();
    for start in ["a=", "a=[", "a={b=", "a=b,"] {
        let pieces = proptest::string::string_regex(PIECES).unwrap();
        texts.extend(
            (0..1500)
                .map(|_| format!("{start}{}", pieces.new_tree(&mut runner).unwrap().current())),
        );
    }
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-shorthand.json");
    std::fs::write(&file, serde_json::to_string(&texts).unwrap()).unwrap();
    let (read, exit) = output(&python, &["-c", AWS, file.to_str().unwrap()]).await;
    assert_eq!(exit, 0, "{read}");
    let theirs: Vec<Value> = serde_json::from_str(&read).unwrap();
    let mut counts = BTreeMap::new();
    for (at, (text, theirs)) in texts.iter().zip(theirs).enumerate() {
        let ours = parse(text);
        assert!(at >= BOTH.len() || ours.is_ok() && !theirs.is_null(), "{text}");
        *counts.entry((ours.is_ok(), !theirs.is_null())).or_insert(0) += 1;
        match ours {
            Ok(ours) if !theirs.is_null() => assert_eq!(ours, theirs, "{text}"),
            Err(fault) if !theirs.is_null() => {
                // An empty key and a value that begins with a closing bracket are mistakes here, and so is
                // `a=b,c\,d=e`, of which the AWS CLI loses a part.
                let known = fault.to_string().contains("expected a key") || text.contains(r"\,");
                let tight: String = text.split(' ').collect();
                let bracket =
                    ["=]", "=}", ",]", ",}", "[}"].iter().any(|part| tight.contains(part));
                assert!(known || bracket, "{text}: {fault}");
            }
            _ => {}
        }
    }
    assert!(counts.get(&(true, true)).is_some_and(|count| *count > 300), "{counts:?}");
}
