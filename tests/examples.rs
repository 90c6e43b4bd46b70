//! The example programs in other languages against the real program: an ordinary revoke, and the largest error there
//! is, which a client with default limits must be able to read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "transcripts/programs.rs"]
mod programs;

/// A group of the sandbox's own state, in a nondefault VPC, and one of its rules.
const GROUP: &str = "sg-000000000000000a1";
const RULE: &str = "sgr-0000000000000a1e3";
const RULE_PERMISSION: &str = r#"[{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
    "IpRanges": [{"CidrIp": "203.0.113.0/24", "Description": "payment provider"}]}]"#;

/// How long a build or a run may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// As many permissions as a request takes, none of them known, each as long as it can be.
fn a_thousand_unknown() -> String {
    let ranges: Vec<String> = (0..1000)
        .map(|index| {
            let text = format!("{index:03} {}", "unknown ".repeat(31));
            format!(
                r#"{{"CidrIpv6": "2001:db8:ffff:ffff:ffff:ffff:ffff:{index:x}/128", "Description": "{}"}}"#,
                text.trim()
            )
        })
        .collect();
    format!(
        r#"[{{"IpProtocol": "tcp", "FromPort": 9000, "ToPort": 9000, "Ipv6Ranges": [{}]}}]"#,
        ranges.join(", ")
    )
}

/// The tools folder, if `scripts/tools` made the example's tools there.
fn tools(example: &str) -> Option<PathBuf> {
    let stamp = programs::tool(&format!("stamps/{example}"))?;
    Some(stamp.parent().unwrap().parent().unwrap().canonicalize().unwrap())
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn command(program: impl AsRef<Path>, tools: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    let mut path = OsString::from(tools.join("bin"));
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    command.env("PATH", path).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a command prints, and its exit code.
async fn run(command: &mut Command) -> (String, i32) {
    let output = timeout(PATIENCE, command.output()).await.expect("an end").unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    (text, output.status.code().unwrap())
}

async fn build(command: &mut Command) {
    let (text, code) = run(command).await;
    assert_eq!(code, 0, "{:?}: {text}", command.as_std());
}

/// Runs an example against a server of its own. `start` gives its command, to which the arguments are added.
async fn check(name: &str, start: impl Fn() -> Command) {
    let server = programs::portcullis(&[], &[]).await;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-permissions.json"));
    let revoke = async |permissions: &str| {
        fs::write(&file, permissions).unwrap();
        run(start().args([&server.address, GROUP]).arg(&file)).await
    };

    let (text, code) = revoke(&a_thousand_unknown()).await;
    assert_eq!(code, 1, "{text}");
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("status: NOT_FOUND: The specified rule does not exist"), "{text}");
    assert_eq!(lines.next().unwrap(), "reason: INVALID_PERMISSION_NOT_FOUND", "{text}");
    assert!(text.contains("\nmetadata: ec2_code=InvalidPermission.NotFound\n"), "{text}");
    assert!(text.contains("\nunknown in all: 1000\n"), "{text}");
    let unknown = "unknown: UNKNOWN_REASON_NO_SUCH_DESTINATION {";
    let shown: Vec<_> = text.lines().filter(|line| line.starts_with(unknown)).collect();
    assert!((1..1000).contains(&shown.len()), "{text}");
    // What is between the members of a JSON object is each library's own business.
    let bare = shown[0].replace(' ', "");
    assert!(bare.contains(r#""CidrIpv6":"2001:db8:ffff:ffff:ffff:ffff:ffff:0/128""#), "{text}");
    assert!(text.contains("\nthe list was cut to fit into the status\n"), "{text}");
    println!("{name}: the largest error was read, {} of 1000 explanations", shown.len());

    let (text, code) = revoke(RULE_PERMISSION).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("outcome: OUTCOME_REVOKED_ALL\nrevoked: {"), "{text}");
    assert!(text.contains(RULE) && text.contains("\nwarning: "), "{text}");

    let (text, code) = revoke(r#"[{"IpProtocol": "tcp"}]"#).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("status: INVALID_ARGUMENT: "), "{text}");
    assert!(text.contains("\nviolation: ip_permissions[0]"), "{text}");

    let (text, code) = revoke("no JSON").await;
    assert_eq!(code, 2, "{text}");
    assert!(text.starts_with("the permissions cannot be read: "), "{text}");
}

#[tokio::test]
async fn python() {
    let Some(tools) = tools("example-python") else { return };
    let python = tools.join("example-python/bin/python");
    let folder = folder("python");
    build(command(folder.join("generate.sh"), &tools).env("PYTHON", &python)).await;
    check("python", || {
        let mut program = command(&python, &tools);
        program.arg(folder.join("revoke_egress.py"));
        program
    })
    .await;
}

#[tokio::test]
async fn go() {
    let Some(tools) = tools("example-go") else { return };
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("revoke-egress-go");
    for arguments in [&["generate", "."][..], &["vet", "."], &["build", "-o"]] {
        let mut go = command(tools.join("bin/go"), &tools);
        go.current_dir(folder("go")).args(arguments);
        if arguments[0] == "build" {
            go.arg(&program).arg(".");
        }
        build(&mut go).await;
    }
    check("go", || command(&program, &tools)).await;
}

#[tokio::test]
async fn java() {
    let Some(tools) = tools("example-java") else { return };
    let mut repository = OsString::from("-Dmaven.repo.local=");
    repository.push(tools.join("m2"));
    let mut maven = command(tools.join("bin/mvn"), &tools);
    maven.current_dir(folder("java")).args(["--offline", "--batch-mode", "--quiet"]);
    build(maven.arg(repository).arg("package")).await;
    check("java", || {
        let mut program = command("java", &tools);
        program.arg("-jar").arg(folder("java").join("target/revoke-egress.jar"));
        program
    })
    .await;
}
