//! The example programs against the real program, one server with TLS and JWTs for all of them: they must print the same.
//! What they do: read (which gRPC retries by the service config), change with a key (which they retry themselves), and
//! tell errors, also the largest there is, which a client with default limits must be able to read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use secured::Secured;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "tls/certificates.rs"]
mod certificates;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "attacks/keys.rs"]
mod keys;
#[path = "transcripts/normal.rs"]
mod normal;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "transcripts/programs.rs"]
mod programs;
#[path = "json/secured.rs"]
mod secured;

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

/// An example that was built: how it is started.
struct Example {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// What a run printed.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
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

async fn finish(command: &mut Command) -> Ran {
    let output = timeout(PATIENCE, command.output()).await.expect("an end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    Ran { code, out: text(output.stdout), err: text(output.stderr) }
}

async fn build(command: &mut Command) {
    let ran = finish(command).await;
    assert_eq!(ran.code, 0, "{:?}: {ran:?}", command.as_std());
}

async fn python() -> Option<Example> {
    let tools = tools("example-python")?;
    let program = tools.join("example-python/bin/python");
    build(command(folder("python").join("generate.sh"), &tools).env("PYTHON", &program)).await;
    let script = folder("python").join("revoke_egress.py");
    Some(Example { name: "python", program, arguments: vec![script.into()] })
}

async fn go() -> Option<Example> {
    let tools = tools("example-go")?;
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("revoke-egress-go");
    for arguments in [&["generate", "."][..], &["vet", "."], &["build", "-o"]] {
        let mut go = command(tools.join("bin/go"), &tools);
        go.current_dir(folder("go")).args(arguments);
        if arguments[0] == "build" {
            go.arg(&program).arg(".");
        }
        build(&mut go).await;
    }
    Some(Example { name: "go", program, arguments: Vec::new() })
}

async fn node() -> Option<Example> {
    let tools = tools("example-node")?;
    let mut npm = command("npm", &tools);
    build(npm.current_dir(folder("node")).args(["run", "--silent", "build"])).await;
    let script = folder("node").join("dist/revoke-egress.js");
    Some(Example { name: "node", program: "node".into(), arguments: vec![script.into()] })
}

async fn java() -> Option<Example> {
    let tools = tools("example-java")?;
    let mut repository = OsString::from("-Dmaven.repo.local=");
    repository.push(tools.join("m2"));
    let mut maven = command(tools.join("bin/mvn"), &tools);
    maven.current_dir(folder("java")).args(["--offline", "--batch-mode", "--quiet"]);
    build(maven.arg(repository).arg("package")).await;
    let jar = folder("java").join("target/revoke-egress.jar");
    Some(Example {
        name: "java",
        program: "java".into(),
        arguments: vec!["-jar".into(), jar.into()],
    })
}

/// Built as it is, with its own manifest; but into our folder and with our profile, where what it needs is there
/// already: aws-lc alone takes minutes.
async fn rust() -> Option<Example> {
    let own = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let target = own.parent().unwrap().parent().unwrap();
    let mut cargo = command(env!("CARGO"), target);
    cargo
        .current_dir(folder("rust"))
        .args(["build", "--locked", "--quiet", "--target-dir"])
        .arg(target);
    cargo.args(["--config", "profile.dev.debug=\"line-tables-only\""]);
    build(cargo.args(["--config", "profile.dev.package.\"*\".debug=false"])).await;
    let program = target.join("debug/revoke-egress");
    Some(Example { name: "rust", program, arguments: Vec::new() })
}

impl Example {
    /// A run with this text as the permissions.
    async fn run(&self, flags: &[&OsStr], address: &str, permissions: &str) -> Ran {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("permissions.json");
        fs::write(&file, permissions).unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(flags).args([address, GROUP]).arg(file);
        // A proxy for the machine's other traffic is not for this.
        command.env("NO_PROXY", "*").env("no_proxy", "*").env("no_grpc_proxy", "*");
        let ran = finish(command.stdin(Stdio::null()).kill_on_drop(true)).await;
        Ran { out: normal::normal(&same_json(&ran.out)), ..ran }
    }
}

/// How members are ordered and spaced is each library's own business.
fn same_json(text: &str) -> String {
    let line = |line: &str| {
        let parsed = line.find('{').and_then(|at| {
            let (before, json) = line.split_at(at);
            serde_json::from_str::<Value>(json).ok().map(|json| format!("{before}{json}"))
        });
        parsed.unwrap_or_else(|| line.to_owned()) + "\n"
    };
    text.lines().map(line).collect()
}

/// What all print, made of what the first one does.
async fn all_say(
    server: &Secured,
    examples: &[Example],
    about: &str,
    run: impl AsyncFn(&Example) -> Ran,
) -> Ran {
    let mut first: Option<Ran> = None;
    for example in examples {
        server.sandbox("Reset", json!({})).await;
        let ran = run(example).await;
        println!(
            "== {about}: {}\n{}",
            example.name,
            ran.out.lines().take(5).collect::<Vec<_>>().join("\n")
        );
        match &first {
            None => first = Some(ran),
            Some(first) => {
                let name = example.name;
                assert_eq!(
                    ran.out, first.out,
                    "{about}: {name} prints otherwise than {}; {}",
                    examples[0].name, ran.err
                );
                assert_eq!(ran.code, first.code, "{about}: {name}: {}", ran.err);
            }
        }
    }
    first.unwrap()
}

#[tokio::test]
async fn all_clients_print_the_same() {
    let built = [python().await, go().await, node().await, java().await, rust().await];
    let examples: Vec<Example> = built.into_iter().flatten().collect();
    // What is lost for good is not waited for: the server need not be careful with a sandbox.
    let Some(server) = Secured::start("ledger_settle_grace_ms = 0").await else { return };
    let plain = programs::portcullis(&[], &[]).await;
    let address = server.server.address.as_str();
    let ca = [OsStr::new("--ca"), server.ca.as_os_str()];
    let known = [&ca[..], &[OsStr::new("--token-file"), server.token_file.as_os_str()]].concat();

    let ran = all_say(&server, &examples, "a revoke whose first attempts fail", async |example| {
        for fault in [
            json!({"Kind": "FAULT_KIND_SERVER_ERROR", "Action": "DescribeSecurityGroupRules", "Count": 2}),
            json!({"Kind": "FAULT_KIND_LOSE_ANSWER", "Action": "RevokeSecurityGroupEgress"}),
        ] {
            server.sandbox("InjectFault", json!({"Fault": fault})).await;
        }
        let ran = example.run(&known, address, RULE_PERMISSION).await;
        // The program retried the change, gRPC the read; and there was one effect.
        assert!(ran.err.contains("trying again: UNAVAILABLE OUTCOME_UNKNOWN"), "{}: {ran:?}", example.name);
        let state = server.sandbox("GetState", json!({"IncludeEffects": true})).await;
        assert_eq!(state["Effects"].as_array().unwrap().len(), 1, "{}: {state}", example.name);
        assert_eq!(server.sandbox("ClearFaults", json!({})).await, json!({}), "{}", example.name);
        ran
    })
    .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("egress rules: "), "{ran:?}");
    assert_eq!(lines[1], "outcome: OUTCOME_REVOKED_ALL", "{ran:?}");
    assert!(lines[2].starts_with("revoked: {") && lines[2].contains(RULE), "{ran:?}");
    assert!(ran.out.contains("\nwarning: "), "{ran:?}");
    assert_eq!(lines.last(), Some(&"operation: OPERATION_STATE_SUCCEEDED, SETTLED_BY_READ_BACK"));

    let many = a_thousand_unknown();
    let ran = all_say(&server, &examples, "the largest error", async |example| {
        example.run(&known, address, &many).await
    })
    .await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(
        lines[1].starts_with("status: NOT_FOUND: The specified rule does not exist"),
        "{ran:?}"
    );
    assert_eq!(lines[2], "reason: INVALID_PERMISSION_NOT_FOUND", "{ran:?}");
    assert!(lines.contains(&"metadata: ec2_code=InvalidPermission.NotFound"), "{ran:?}");
    assert!(lines.contains(&"unknown in all: 1000"), "{ran:?}");
    let shown = lines.iter().filter(|line| {
        line.starts_with("unknown: UNKNOWN_REASON_NO_SUCH_DESTINATION {\"FromPort\":9000,")
            && line.contains("\"CidrIpv6\":\"2001:db8:ffff:ffff:ffff:ffff:ffff:")
    });
    assert!((1..1000).contains(&shown.count()), "{ran:?}");
    assert_eq!(lines.last(), Some(&"the list was cut to fit into the status"), "{ran:?}");

    let ran = all_say(&server, &examples, "no credential", async |example| {
        example.run(&ca, address, RULE_PERMISSION).await
    })
    .await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.starts_with("status: UNAUTHENTICATED: "), "{ran:?}");
    assert!(ran.out.ends_with("\nreason: CREDENTIALS_MISSING\n"), "{ran:?}");

    let ran = all_say(&server, &examples, "a bad request, without TLS", async |example| {
        example.run(&[], &plain.address, r#"[{"IpProtocol": "tcp"}]"#).await
    })
    .await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("\nstatus: INVALID_ARGUMENT: "), "{ran:?}");
    assert!(ran.out.contains("\nviolation: ip_permissions[0]"), "{ran:?}");

    let ran = all_say(&server, &examples, "no JSON", async |example| {
        let ran = example.run(&[], &plain.address, "no JSON").await;
        assert!(ran.err.starts_with("the permissions cannot be read: "), "{ran:?}");
        ran
    })
    .await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
}

/// The service config names each call that only reads, and no other: a transport must not repeat changes.
#[test]
fn the_service_config_names_the_reads() {
    use portcullis::api::methods;

    let text = fs::read_to_string(folder("service-config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let names = config["methodConfig"].as_array().unwrap().iter().flat_map(|one| {
        assert_eq!(one["retryPolicy"]["retryableStatusCodes"], json!(["UNAVAILABLE"]));
        one["name"].as_array().unwrap()
    });
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut named: Vec<_> =
        names.map(|name| (text(&name["service"]), text(&name["method"]))).collect();
    named.sort();
    let mut reads = methods::all().unwrap();
    reads.retain(|(service, method)| {
        let own = service.starts_with("portcullis.v1.") || service == "grpc.health.v1.Health";
        let streams = method == "Watch";
        own && !streams && !methods::is_change(&format!("/{service}/{method}"))
    });
    reads.sort();
    assert_eq!(named, reads);
}
