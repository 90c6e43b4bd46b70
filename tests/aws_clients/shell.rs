//! A shell in which the AWS CLI and grpcurl speak to a server of their own, and nothing else is set.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokio::process::Command;

use super::programs::{Program, finish, portcullis, tool};

/// What the clients get, beside the addresses. Any secret will do, and a fault that is injected is to be seen, not
/// retried.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_DEFAULT_REGION", "us-east-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_MAX_ATTEMPTS", "1"),
    ("AWS_PAGER", ""),
];

/// A server, and what is remembered of its answers.
pub struct Shell {
    server: Program,
    folder: PathBuf,
    path: String,
    /// Variables by name, for the commands to come.
    known: Vec<(String, String)>,
}

/// What a command came to, without what differs from run to run.
pub struct Ran {
    pub output: String,
    pub exit: i32,
}

impl Shell {
    /// A fresh server. None: a program that is needed is not installed, and need not be.
    pub async fn open(name: &str) -> Option<Self> {
        let tools = ["venv/bin/aws", "venv/bin/python", "bin/grpcurl"].map(tool);
        let mut path = String::new();
        for file in tools {
            path.push_str(file?.parent().unwrap().to_str().unwrap());
            path.push(':');
        }
        path.push_str("/usr/bin:/bin");
        let server = portcullis(&["--sandbox-ec2-listen", "127.0.0.1:0"], &[]).await;
        // Also the home folder, so that nobody's ~/.aws is read.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Some(Self { server, folder, path, known: Vec::new() })
    }

    /// Runs a line of shell.
    pub async fn run(&self, line: &str) -> (String, i32) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]);
        self.finish(command).await
    }

    /// Runs a command in this shell's folder and environment.
    pub async fn finish(&self, mut command: Command) -> (String, i32) {
        let ec2_door = format!("http://{}", self.server.ec2_door.as_deref().unwrap());
        command
            .current_dir(&self.folder)
            .env_clear()
            .envs(ENVIRONMENT.iter().copied())
            .env("PATH", &self.path)
            .env("HOME", &self.folder)
            .env("AWS_ENDPOINT_URL", ec2_door)
            .env("PORTCULLIS", &self.server.address)
            .envs(self.known.iter().map(|(name, value)| (name, value)));
        finish(command).await
    }

    /// Keeps a part of an answer: a JSON pointer says which.
    pub fn keep(&mut self, name: &str, answer: &str, pointer: &str) {
        let answer: Value = serde_json::from_str(answer).unwrap_or_default();
        let value = answer.pointer(pointer).and_then(Value::as_str);
        let value = value.unwrap_or_else(|| panic!("no text at {pointer} in {answer}"));
        self.known.push((name.to_owned(), value.to_owned()));
    }

    /// The text with the names of what was kept, and without other ids and times.
    pub fn normal(&self, text: &str) -> String {
        let known = self.known.iter().fold(text.trim_end().to_owned(), |text, (name, value)| {
            text.replace(value.as_str(), &format!("${name}"))
        });
        normal(&known)
    }
}

/// Ids that are drawn at random and times become names. The sample's own ids are fixed, and stay: they are mostly
/// zeros.
pub fn normal(text: &str) -> String {
    let in_word = |c: char| c.is_ascii_alphanumeric() || "-:".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !in_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end.max(first.len_utf8()));
        out.push_str(name(word).unwrap_or(word));
        rest = after;
    }
    out
}

fn name(word: &str) -> Option<&'static str> {
    let hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    let (kind, id) = word.rsplit_once('-')?;
    let drawn = id.len() == 17 && hex(id) && !id.contains("0000000000");
    let lengths: Vec<usize> = word.split('-').map(str::len).collect();
    match kind {
        "sgr" if drawn => Some("RULE-ID"),
        "sg" if drawn => Some("GROUP-ID"),
        "vpc" if drawn => Some("VPC-ID"),
        "vpc-cidr-assoc" if drawn => Some("ASSOCIATION-ID"),
        "pl" if drawn => Some("LIST-ID"),
        _ if lengths == [8, 4, 4, 4, 12] && hex(&word.replace('-', "")) => Some("REQUEST-ID"),
        _ if lengths.first() == Some(&4) && word.contains('T') && word.ends_with('Z') => {
            Some("TIME")
        }
        _ => None,
    }
}

#[test]
fn only_what_is_random_is_named() {
    let text = "sgr-0123456789abcdef0 \"sg-0123456789abcdef0\", arn/sgr-0123456789abcdef0 – \
                vpc-0123456789abcdef0 pl-0123456789abcdef0 2026-01-02T03:04:05Z \
                01a20855-7df9-7f97-883a-5e3bf834e895 sg-000000000000000a1 pl-63a5400a shop-door \
                vpc-cidr-assoc-1000000000000000a vpc-cidr-assoc-0123456789abcdef0";
    let named = "RULE-ID \"GROUP-ID\", arn/RULE-ID – VPC-ID LIST-ID TIME REQUEST-ID \
                 sg-000000000000000a1 pl-63a5400a shop-door \
                 vpc-cidr-assoc-1000000000000000a ASSOCIATION-ID";
    assert_eq!(normal(text), named);
}
