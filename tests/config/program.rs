//! The real program: its exit codes, what it prints, its signals, and its two listeners.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use portcullis::api::proto::{
    sandbox::v1::{
        Fault, FaultKind, GetStateRequest, InjectFaultRequest,
        sandbox_service_client::SandboxServiceClient,
    },
    v1::{self, security_group_service_client::SecurityGroupServiceClient},
};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::all_keys;

/// The program with nothing of our own environment.
fn portcullis(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.env_clear().args(args).stdin(Stdio::null()).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    outcome(portcullis(args).output().unwrap())
}

fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_ledger_is_made_proved_and_printed() {
    let folder = std::env::temp_dir().join(format!("portcullis-ledger-{}", std::process::id()));
    let ledger = format!("sqlite:{}", folder.join("ledger.db").display());
    let on = |command: &str| run(&["ledger", command, "--ledger", &ledger]);
    let (code, _, told) = on("verify");
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("ledger.db"), "{told}");
    assert_eq!(on("migrate"), (0, "The schema is up to date.\n".into(), String::new()));
    let (code, said, _) = on("verify");
    assert!(code == 0 && said.starts_with("records 0\nevents  0\nhead    "), "{said}");
    assert_eq!(on("export"), (0, String::new(), String::new()));
    // It is the sandbox's: EC2's server does not take it.
    let ec2 = ["--backend", "ec2", "--insecure-loopback", "--ledger", &ledger];
    let (code, _, told) = run(&[&["ledger", "migrate"], &ec2[..]].concat());
    assert!(code == 1 && told.contains("sandbox"), "{told}");
    std::fs::remove_dir_all(folder).unwrap();
    for command in ["verify", "export", "migrate"] {
        let (code, _, told) = run(&["ledger", command]);
        assert!(code == 64 && told.contains("a ledger in memory is gone"), "{told}");
    }
}

#[test]
fn help_names_every_setting_with_its_default_and_unit() {
    for args in [&["--help"][..], &["serve", "--help"], &["check-config", "--help"]] {
        let (code, help, _) = run(args);
        assert_eq!(code, 0);
        // Lines are wrapped.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for key in all_keys() {
            let flag = format!("--{}", key.flag());
            for part in [
                &flag,
                &format!("[env: {}]", key.env()),
                &format!("[default: {}", key.default),
                key.doc,
            ] {
                assert!(help.contains(part), "{part} in {help}");
            }
        }
        assert!(help.contains("[default: 30000 milliseconds]"), "{help}");
    }
    assert!(run(&["--help"]).1.contains("Examples:"));
}

#[test]
fn exit_codes_tell_bad_usage_from_bad_luck() {
    for (args, code) in [
        (&["--version"][..], 0),
        (&["health", "--help"], 0),
        (&["check-config"], 0),
        (&["check-config", "--config", "deploy/config/ec2.toml"], 0),
        (&["--lisen", "x"], 64),
        (&["--listen"], 64),
        (&["no-such-command"], 64),
        (&["--listen", "0.0.0.0:50051"], 64),
        (&["serve", "--backend", "ec2"], 64),
        (&["check-config", "--config", "nowhere.toml"], 64),
        (&["health", "--timeout-ms", "0"], 64),
        // Nobody listens on the discard port.
        (&["health", "--address", "127.0.0.1:9"], 1),
    ] {
        let (got, out, err) = run(args);
        assert_eq!(got, code, "{args:?}: {out}{err}");
    }
}

#[test]
fn check_config_reads_the_files_that_are_named() {
    let folder = std::env::temp_dir().join(format!("portcullis-check-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("none")).unwrap();
    std::fs::create_dir_all(folder.join("broken")).unwrap();
    std::fs::write(folder.join("broken/a.cedar"), "permit (principal, action").unwrap();
    std::fs::write(folder.join("state.json"), "{").unwrap();
    std::fs::write(folder.join("keys.json"), "[]").unwrap();
    let issuer = "[[jwt_issuers]]\nissuer = \"https://i\"\naudiences = [\"a\"]\njwks_file = \"keys.json\"\n\
                  [[static_tokens]]\nname = \"a\"\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n";
    for (name, config, why) in [
        (
            "keys.toml",
            format!(
                "policy_dir = \"{}/deploy/policies/guardrails\"\n{issuer}",
                env!("CARGO_MANIFEST_DIR")
            ),
            "keys.json",
        ),
        ("none.toml", "policy_dir = \"none\"\n".to_owned(), "none"),
        ("broken.toml", "policy_dir = \"broken\"\n".to_owned(), "a.cedar"),
        ("state.toml", "sandbox_state = [\"state.json\"]\n".to_owned(), "state.json"),
    ] {
        std::fs::write(folder.join(name), config).unwrap();
        let file = folder.join(name).display().to_string();
        let (code, said, told) = run(&["check-config", "--config", &file]);
        assert!(code == 1 && said.is_empty() && told.contains(why), "{name}: {code} {said}{told}");
    }
    std::fs::remove_dir_all(folder).unwrap();
    let (code, _, told) =
        run(&["check-config", "--listen", "127.0.0.1:7", "--admin-listen", "127.0.0.1:7"]);
    assert!(
        code == 64 && told.contains("--admin-listen: 127.0.0.1:7 is taken by listen"),
        "{told}"
    );
}

#[test]
fn all_complaints_are_printed_with_the_names_that_were_used() {
    let mut command = portcullis(&["check-config", "--drain-timeout-ms", "ten"]);
    command.env("PORTCULLIS_LISTN", "x").env("PORTCULLIS_CONFIG", "nowhere.toml");
    let (code, out, err) = outcome(command.output().unwrap());
    assert_eq!((code, out.as_str()), (64, ""));
    for part in [
        "--drain-timeout-ms: ",
        "did you mean PORTCULLIS_LISTEN?",
        "PORTCULLIS_CONFIG: nowhere.toml cannot be read",
    ] {
        assert!(err.contains(part), "{part} in {err}");
    }
}

#[test]
fn check_config_shows_what_is_in_effect_without_secrets() {
    let (code, out, _) =
        run(&["check-config", "--config", "deploy/config/ec2.toml", "--log-level", "warn"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("OK\n") && out.contains("[redacted]"), "{out}");
    assert!(!out.contains("replace-me"), "{out}");
    assert!(out.contains("# --log-level") && out.contains("# deploy/config/ec2.toml:"), "{out}");
}

/// A running server; ended with the test.
struct Server {
    child: Child,
    banner: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(args: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", args)
    }

    fn start_on(listen: &str, args: &[&str]) -> Self {
        let mut command = portcullis(&["--listen", listen, "--admin-listen", "127.0.0.1:0"]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        // It is printed once the listeners are bound; "backend" is the last line that every start prints.
        while !banner.contains("  backend ") {
            assert_ne!(out.read_line(&mut banner).unwrap(), 0, "{banner}");
        }
        Self { child, banner }
    }

    /// The word after a name in the banner.
    fn told(&self, name: &str) -> &str {
        let line = self.banner.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut stream =
            TcpStream::connect(self.told("admin").strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn end(mut self) -> (i32, String) {
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code().unwrap(), log)
    }
}

#[test]
fn it_serves_the_admin_port_and_drains_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(&[]);
        assert!(server.get("/livez").starts_with("HTTP/1.1 200 "));
        assert!(server.get("/version").contains(env!("CARGO_PKG_VERSION")));
        assert!(server.get("/nothing").starts_with("HTTP/1.1 404 "));
        // The banner comes before the first call is accepted.
        let mut ready = server.get("/readyz");
        while ready.starts_with("HTTP/1.1 503 ") {
            ready = server.get("/readyz");
        }
        assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
        let body: serde_json::Value =
            serde_json::from_str(ready.split_once("\r\n\r\n").unwrap().1).unwrap();
        let expected = serde_json::json!({
            "draining": false, "ready": true, "started": true,
            "dependencies": {"ledger": "ok", "backend": "in process"},
        });
        assert_eq!(body, expected, "{ready}");

        server.signal(signal);
        let (code, log) = server.end();
        assert_eq!(code, 0, "{log}");
        // stderr is not a terminal here.
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
        }
        assert!(log.contains("draining"), "{log}");
    }
}

#[test]
fn a_port_that_is_taken_is_bad_luck() {
    let server = Server::start(&[]);
    let (code, _, log) = run(&["--listen", server.told("gRPC"), "--admin-listen", "off"]);
    assert_eq!(code, 1, "{log}");
    assert!(log.contains(&format!("listen {}", server.told("gRPC"))), "{log}");
}

#[test]
fn the_log_is_text_if_asked_for() {
    let server = Server::start(&["--log-format", "text"]);
    server.signal("TERM");
    let (_, log) = server.end();
    assert!(log.contains(" INFO portcullis") && !log.starts_with('{'), "{log}");
}

/// What `portcullis health` says of a server where only `good` serves.
#[tokio::test(flavor = "multi_thread")]
async fn health_asks_for_the_server_or_one_service() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("bad", tonic_health::ServingStatus::NotServing).await;
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    for (name, expected) in
        [("", (0, "SERVING\n")), ("bad", (1, "NOT_SERVING\n")), ("none", (1, "SERVICE_UNKNOWN\n"))]
    {
        let address = address.clone();
        let asked = tokio::task::spawn_blocking(move || {
            run(&["health", "--address", &address, "--service", name])
        });
        let (code, out, err) = asked.await.unwrap();
        assert_eq!((code, out.as_str()), expected, "{name}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_calls_whatever_streams_stay_open_and_frees_the_port() {
    let server = Server::start(&[]);
    let address = server.told("gRPC").to_owned();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let mut sandbox = SandboxServiceClient::new(channel.clone());
    let fault = Fault {
        kind: FaultKind::Delay.into(),
        action: "RevokeSecurityGroupEgress".into(),
        delay: Some(pbjson_types::Duration { seconds: 0, nanos: 700_000_000 }),
        ..Fault::default()
    };
    sandbox.inject_fault(InjectFaultRequest { fault: Some(fault) }).await.unwrap();
    let mut groups = SecurityGroupServiceClient::new(channel);
    let call = tokio::spawn(async move {
        let range = v1::IpRange { cidr_ip: Some("10.0.0.0/8".into()), description: None };
        let permission = v1::IpPermission {
            ip_protocol: Some("tcp".into()),
            from_port: Some(443),
            to_port: Some(443),
            ip_ranges: vec![range],
            ..v1::IpPermission::default()
        };
        let request = v1::RevokeEgressRequest {
            group_id: Some("sg-000000000000000d1".into()),
            ip_permissions: vec![permission],
            ..v1::RevokeEgressRequest::default()
        };
        groups.revoke_egress(request).await.unwrap().into_inner()
    });
    let with_effects = GetStateRequest { include_effects: true };
    while sandbox.get_state(with_effects).await.unwrap().into_inner().effects.is_empty() {
        tokio::task::yield_now().await;
    }

    server.signal("TERM");
    assert_eq!(call.await.unwrap().outcome(), v1::Outcome::RevokedAll);
    let (code, log) = tokio::task::spawn_blocking(|| server.end()).await.unwrap();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("closing connections that clients keep open"), "{log}");
    assert_eq!(Server::start_on(&address, &[]).told("gRPC"), address);
}
