//! The example programs against the real program, one server with TLS and JWTs for all of them: they must print the same.
//! What they do: read (which gRPC retries by the service config), change with a key (which they retry themselves), and
//! tell errors, also the largest there is, which a client with default limits must be able to read. And what they do not
//! do: send a token in plaintext to another machine, or a change again that must not be.

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
    io::ErrorKind,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use certificates::Folder;
use scripted::{Answer, Scripted};
use secured::Secured;
use serde_json::{Value, json};
use tokio::{process::Command, sync::OnceCell, task::JoinSet, time::timeout};
use tonic::Code;

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
#[path = "examples/scripted.rs"]
mod scripted;
#[path = "json/secured.rs"]
mod secured;
#[path = "examples/service_config.rs"]
mod service_config;

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
    let program = tools.join("bin/node");
    Some(Example { name: "node", program, arguments: vec![script.into()] })
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

/// Those that can be built here.
async fn examples() -> &'static [Example] {
    static BUILT: OnceCell<Vec<Example>> = OnceCell::const_new();
    let build = async || {
        let built = [python().await, go().await, node().await, java().await, rust().await];
        built.into_iter().flatten().collect()
    };
    BUILT.get_or_init(build).await
}

/// Without it Java takes `0.0.0.0` for `::1`, and not for `127.0.0.1`.
fn only_ipv4() -> [(&'static str, &'static OsStr); 1] {
    [("JAVA_TOOL_OPTIONS", OsStr::new("-Djava.net.preferIPv4Stack=true"))]
}

/// A JVM says what options it takes from the environment.
const JAVAS_OWN: &str = "Picked up JAVA_TOOL_OPTIONS: ";

/// What the libraries would take instead of the system's CAs, or beside them.
const CA_VARIABLES: [&str; 5] = [
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "JAVA_TOOL_OPTIONS",
];

impl Example {
    /// A run with this text as the permissions.
    async fn run(&self, flags: &[&OsStr], address: &str, permissions: &str) -> Ran {
        self.run_with(&[], flags, address, permissions).await
    }

    async fn run_with(
        &self,
        environment: &[(&str, &OsStr)],
        flags: &[&OsStr],
        address: &str,
        permissions: &str,
    ) -> Ran {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("permissions-{number}.json"));
        fs::write(&file, permissions).unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(flags).args([address, GROUP]).arg(&file);
        // A proxy for the machine's other traffic is not for this.
        command.env("NO_PROXY", "*").env("no_proxy", "*").env("no_grpc_proxy", "*");
        for name in CA_VARIABLES {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        let ran = finish(command.stdin(Stdio::null()).kill_on_drop(true)).await;
        fs::remove_file(&file).unwrap();
        Ran { out: normal::normal(&same_json(&ran.out)), ..ran }
    }
}

impl Ran {
    /// What it says instead of calling anybody.
    fn refusal(&self) -> &str {
        assert_eq!((self.code, self.out.as_str()), (2, ""), "{self:?}");
        let mut lines: Vec<&str> = self.err.lines().collect();
        lines.retain(|line| !line.starts_with("idempotency-key: ") && !line.contains(JAVAS_OWN));
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0]
    }

    /// What it tried again after, in order.
    fn tried_again(&self) -> Vec<&str> {
        let lines = self.err.lines().filter_map(|line| line.strip_prefix("trying again: "));
        lines.map(str::trim_end).collect()
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
async fn all_say(examples: &[Example], about: &str, run: impl AsyncFn(&Example) -> Ran) -> Ran {
    let mut first: Option<Ran> = None;
    for example in examples {
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
    let examples = examples().await;
    // What is lost for good is not waited for: the server need not be careful with a sandbox.
    let Some(server) = Secured::start("ledger_settle_grace_ms = 0").await else { return };
    let plain = programs::portcullis(&[], &[]).await;
    let address = server.server.address.as_str();
    let ca = [OsStr::new("--ca"), server.ca.as_os_str()];
    let known = [&ca[..], &[OsStr::new("--token-file"), server.token_file.as_os_str()]].concat();

    let ran = all_say(examples, "a revoke whose first attempts fail", async |example| {
        server.sandbox("Reset", json!({})).await;
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
    let ran = all_say(examples, "the largest error", async |example| {
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

    let ran = all_say(examples, "no credential", async |example| {
        example.run(&ca, address, RULE_PERMISSION).await
    })
    .await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.starts_with("status: UNAUTHENTICATED: "), "{ran:?}");
    assert!(ran.out.ends_with("\nreason: CREDENTIALS_MISSING\n"), "{ran:?}");

    let (_, port) = plain.address.split_once(':').unwrap();
    for (address, flags) in [
        (plain.address.clone(), &known[2..]),
        (format!("localhost:{port}"), &known[2..]),
        // This machine, too; but it is not called so, and gets no token.
        (format!("0.0.0.0:{port}"), &known[..0]),
    ] {
        let about = format!("a bad request to {address}, without TLS");
        let ran = all_say(examples, &about, async |example| {
            let bad = r#"[{"IpProtocol": "tcp"}]"#;
            example.run_with(&only_ipv4(), flags, &address, bad).await
        })
        .await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.out.contains("\nstatus: INVALID_ARGUMENT: "), "{ran:?}");
        assert!(ran.out.contains("\nviolation: ip_permissions[0]"), "{ran:?}");
    }

    let ran = all_say(examples, "no JSON", async |example| {
        let ran = example.run(&[], &plain.address, "no JSON").await;
        assert!(ran.err.starts_with("the permissions cannot be read: "), "{ran:?}");
        ran
    })
    .await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
}

/// `--tls`: a server's CA counts if it is one of the system's, which the environment can say.
#[tokio::test]
async fn the_systems_cas_vouch() {
    let examples = examples().await;
    let Some(server) = Secured::start("").await else { return };
    let address = server.server.address.as_str();
    let flags = [OsStr::new("--tls"), OsStr::new("--token-file"), server.token_file.as_os_str()];

    // Each library words this in its own way.
    let ran = all_say(examples, "a CA that is not the system's", async |example| {
        let ran = example.run(&flags, address, RULE_PERMISSION).await;
        let code = ran.out.split(": ").take(2).collect::<Vec<_>>().join(": ");
        Ran { out: code, ..ran }
    })
    .await;
    assert_eq!((ran.code, ran.out.as_str()), (1, "status: UNAVAILABLE"), "{ran:?}");

    let mut environment = vec![("SSL_CERT_FILE", server.ca.as_os_str())];
    let trusted = server.folder.0.join("trusted.p12");
    let mut options = OsString::from("-Djavax.net.ssl.trustStore=");
    options.push(&trusted);
    if examples.iter().any(|example| example.name == "java") {
        let mut keytool = Command::new("keytool");
        keytool.args(["-importcert", "-noprompt", "-storepass", "password", "-file"]);
        build(keytool.arg(&server.ca).arg("-keystore").arg(&trusted)).await;
        options.push(" -Djavax.net.ssl.trustStorePassword=password");
        environment.push(("JAVA_TOOL_OPTIONS", &options));
    }
    let ran = all_say(examples, "a CA that is the system's", async |example| {
        server.sandbox("Reset", json!({})).await;
        example.run_with(&environment, &flags, address, RULE_PERMISSION).await
    })
    .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("\noutcome: OUTCOME_REVOKED_ALL\n"), "{ran:?}");
}

/// Python's OpenSSL may have a folder of CAs instead of a file, and then lists none of them; or no CAs at all.
#[tokio::test]
async fn pythons_cas_may_be_in_a_folder() {
    let python = examples().await.iter().find(|example| example.name == "python");
    let (Some(python), Some(server)) = (python, Secured::start("").await) else { return };
    let address = server.server.address.as_str();
    let flags = [OsStr::new("--tls"), OsStr::new("--token-file"), server.token_file.as_os_str()];
    let folder = Folder::new();
    let no_file = folder.0.join("none");
    let environment =
        [("SSL_CERT_FILE", no_file.as_os_str()), ("SSL_CERT_DIR", folder.0.as_os_str())];
    let ran = python.run_with(&environment, &flags, address, RULE_PERMISSION).await;
    assert_eq!(ran.refusal(), "--tls: no system CAs; give --ca");

    folder.write("0a1b2c3d.0", fs::read(&server.ca).unwrap());
    server.sandbox("Reset", json!({})).await;
    let ran = python.run_with(&environment, &flags, address, RULE_PERMISSION).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("\noutcome: OUTCOME_REVOKED_ALL\n"), "{ran:?}");
}

/// What is wrong before any call: said in one line, and nobody is called.
#[tokio::test]
async fn a_token_is_not_sent_in_plaintext_to_another_machine_nor_is_what_is_no_token() {
    let examples = examples().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let nobody_came = |about: &str| {
        let error = listener.accept().expect_err(about);
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{about}: {error}");
    };
    let loopback = listener.local_addr().unwrap().to_string();
    let port = listener.local_addr().unwrap().port();

    let folder = Folder::new();
    let token = folder.write("token", "a-token\n");
    let with_token = [OsStr::new("--token-file"), token.as_os_str()];
    for host in [
        // Leads to the listener.
        "0.0.0.0",
        "portcullis.invalid",
        "127.0.0.1.portcullis.invalid",
        "localhost.portcullis.invalid",
        "localhost:1@portcullis.invalid",
    ] {
        let address = format!("{host}:{port}");
        let about = format!("a token to {address}");
        all_say(examples, &about, async |example| {
            let ran = example.run_with(&only_ipv4(), &with_token, &address, RULE_PERMISSION).await;
            assert_eq!(
                ran.refusal(),
                format!(
                    "--token-file: the token would go to {address} in plaintext; give --tls or --ca"
                ),
                "{}",
                example.name
            );
            nobody_came(example.name);
            ran
        })
        .await;
    }

    for (name, text) in [("empty", "\n"), ("two", "one\ntwo\n"), ("invisible", "t\u{f6}ken")] {
        let file = folder.write(name, text);
        let flags = [OsStr::new("--token-file"), file.as_os_str()];
        all_say(examples, &format!("a token file that is {name}"), async |example| {
            let ran = example.run(&flags, &loopback, RULE_PERMISSION).await;
            let file = file.display();
            assert_eq!(
                ran.refusal(),
                format!("--token-file: {file}: not one token of visible ASCII characters"),
                "{}",
                example.name
            );
            nobody_came(example.name);
            ran
        })
        .await;
    }

    // The system's own words differ.
    for flag in ["--token-file", "--ca"] {
        let flags = [OsStr::new(flag), OsStr::new("/no/such/file")];
        all_say(examples, &format!("{flag} that is not there"), async |example| {
            let ran = example.run(&flags, &loopback, RULE_PERMISSION).await;
            let said = ran.refusal();
            assert!(said.starts_with(&format!("{flag}: ")), "{}: {said}", example.name);
            assert!(said.contains("/no/such/file"), "{}: {said}", example.name);
            nobody_came(example.name);
            ran
        })
        .await;
    }

    all_say(examples, "a key with a space", async |example| {
        let flags = [OsStr::new("--key"), OsStr::new("two words")];
        let ran = example.run(&flags, &loopback, RULE_PERMISSION).await;
        assert_eq!(ran.refusal(), "--key: not visible ASCII characters", "{}", example.name);
        nobody_came(example.name);
        ran
    })
    .await;
}

/// A change goes again as the server says, or where it did not answer; with its key; and within bounds. All scripts run
/// at once: two wait as long as an attempt may take.
#[tokio::test]
async fn a_change_is_tried_again_as_the_server_says() {
    const MOMENT: Duration = Duration::from_millis(1);
    const HOUR: Duration = Duration::from_secs(3600);
    // They say 20; some libraries round up.
    const ATTEMPT: Duration = Duration::from_secs(21);
    use Answer::{Cut, Done, Hang, Refused, Silent};

    type Script = (&'static [Answer], &'static [&'static str], i32);
    let scripts: [Script; 6] = [
        (
            &[
                // The trailer is gRPC's own word, and goes before the detail.
                Refused(Code::Unavailable, Some("1"), Some(HOUR)),
                Refused(Code::Aborted, None, Some(MOMENT)),
                Refused(Code::Unavailable, None, None),
                Cut,
                Hang,
                Done,
            ],
            &["UNAVAILABLE", "ABORTED", "UNAVAILABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED"],
            0,
        ),
        (&[Silent, Done], &["UNAVAILABLE"], 0),
        (&[Refused(Code::Unavailable, Some("-1"), None)], &[], 1),
        (&[Refused(Code::Unavailable, Some("-1"), Some(MOMENT))], &[], 1),
        // That is after the deadline.
        (&[Refused(Code::Unavailable, None, Some(HOUR))], &[], 1),
        (&[Refused(Code::FailedPrecondition, None, None)], &[], 1),
    ];
    let mut runs = JoinSet::new();
    for example in examples().await {
        for (script, again, code) in scripts {
            runs.spawn(async move {
                let server = Scripted::start(script).await;
                let flags = [OsStr::new("--key"), OsStr::new("the-key")];
                let ran = example.run(&flags, &server.address, RULE_PERMISSION).await;
                let about = format!("{}: {script:?}: {ran:?}", example.name);
                println!("{about}");
                assert_eq!((ran.tried_again(), ran.code), (again.to_vec(), code), "{about}");
                let attempts = server.attempts();
                assert_eq!(attempts.len(), script.len(), "{about}: {attempts:?}");
                for attempt in attempts {
                    assert_eq!(attempt.key, "the-key", "{about}");
                    assert!(attempt.timeout <= ATTEMPT, "{about}: {attempt:?}");
                }
            });
        }
    }
    while let Some(ended) = runs.join_next().await {
        ended.unwrap();
    }
}
