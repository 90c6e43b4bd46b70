//! The real program: what only it knows of itself, and its admin listener.

use std::{net::SocketAddr, process::Stdio};

use portcullis::clock::{Clock as _, SystemClock};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

use crate::{
    certificates::{Ca, Folder},
    text::{Seen, Text, ask},
};

const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// A running program whose log nobody reads; killed with the test.
pub struct Program {
    pub admin: SocketAddr,
    grpc: String,
    pub folder: Folder,
    _child: Child,
}

/// Answers whoever asks with the keys.
async fn keys_at_a_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{JWKS}",
        JWKS.len()
    );
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

/// With TLS, policies, two issuers, a ledger on disk, and a collector that is not there.
pub async fn start() -> Program {
    let (folder, ca) = (Folder::new(), Ca::new("ca"));
    folder.put("server", &ca.leaf("server"));
    folder.write("ca.pem", &ca.pem);
    folder.write("ca.crl", ca.crl(&[], 2089));
    let url = keys_at_a_url().await;
    folder.write("keys.json", JWKS);
    std::fs::create_dir(folder.0.join("policies")).unwrap();
    std::fs::write(folder.0.join("policies/all.cedar"), "permit (principal, action, resource);")
        .unwrap();
    let config = "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nledger = \"sqlite:ledger.db\"\n\
         tls = \"server\"\ntls_cert_file = \"server.pem\"\ntls_key_file = \"server.key\"\n\
         tls_client_auth = \"optional\"\ntls_client_ca_files = [\"ca.pem\"]\ntls_crl_files = [\"ca.crl\"]\n\
         otlp_endpoint = \"http://127.0.0.1:1\"\notlp_metrics_interval_ms = 1000\n\
         otlp_calls_per_second = 1\n\
         policy_dir = \"policies\"\nreload_interval_ms = 100\n\
         [[jwt_issuers]]\nissuer = \"https://issuer.example\"\naudiences = [\"portcullis\"]\n\
         jwks_file = \"keys.json\"\n\
         [[jwt_issuers]]\nissuer = \"https://other.example\"\naudiences = [\"portcullis\"]\n\
         jwks_url = \"KEYS\"\n\
         [[static_tokens]]\nname = \"deployer\"\nsha256 = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"\n";
    folder.write("portcullis.toml", config.replace("KEYS", &url));
    let mut child = portcullis(&folder, "serve").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut grpc = String::new();
    let admin = loop {
        let line = lines.next_line().await.unwrap().expect("a banner");
        let second = || line.split_whitespace().nth(1).unwrap().to_owned();
        match line.split_whitespace().next() {
            Some("gRPC") => grpc = second(),
            Some("admin") => break second().trim_start_matches("http://").to_owned(),
            _ => {}
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Program { admin: admin.parse().unwrap(), grpc, folder, _child: child }
}

fn portcullis(folder: &Folder, command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    program.args([command, "--config", "portcullis.toml"]).env_clear().current_dir(&folder.0);
    program.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    program
}

impl Program {
    /// Many calls at once.
    async fn calls(&self) {
        let call = || {
            let mut health = Command::new(env!("CARGO_BIN_EXE_portcullis"));
            health.args(["health", "--address", &self.grpc, "--tls-ca-file", "ca.pem"]);
            health.env_clear().current_dir(&self.folder.0).stdout(Stdio::null()).spawn().unwrap()
        };
        for mut asked in [(); 12].map(|()| call()) {
            assert!(asked.wait().await.unwrap().success());
        }
    }

    /// What `check-config` says of the same file.
    pub async fn checked(&self) -> String {
        let output = portcullis(&self.folder, "check-config").output().await.unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    pub async fn put_level(&self, directives: &str) -> String {
        let length = directives.len();
        let head = format!(
            "PUT /log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        );
        ask(self.admin, &format!("{head}{directives}")).await
    }

    pub async fn get(&self, path: &str) -> String {
        ask(self.admin, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await
    }
}

/// A reading of one that has just started.
pub async fn text() -> Text {
    let program = start().await;
    Text::read(program.admin).await
}

/// What only the program knows of itself.
pub async fn all(seen: &mut Seen) {
    let program = start().await;
    let admin = program.admin;
    let build =
        [("version", env!("CARGO_PKG_VERSION")), ("backend", "sandbox"), ("ledger", "sqlite")];
    seen.until(admin, "portcullis_build_info", &build, |value| value == 1.0).await;
    let commits = "portcullis_ledger_commit_duration_seconds_count";
    seen.until(admin, commits, &[("engine", "sqlite")], |value| value > 0.0).await;
    // Keys in a file are as old as they please.
    let (age, issuer) = ("portcullis_keys_age_seconds", [("issuer", "https://other.example")]);
    seen.until(admin, age, &issuer, |value| value > 0.0).await;
    assert_eq!(Text::read(admin).await.series(age).count(), 1);
    program.calls().await;
    seen.until(admin, "portcullis_telemetry_untold_total", &[], |value| value > 0.0).await;
    for signal in ["traces", "logs", "metrics"] {
        let lost = [("signal", signal)];
        assert!(Text::read(admin).await.value("portcullis_telemetry_lost_total", &lost).is_some());
    }
    for signal in ["logs", "metrics"] {
        let lost = [("signal", signal)];
        seen.until(admin, "portcullis_telemetry_lost_total", &lost, |value| value > 0.0).await;
    }
    // Of the CA's certificate, which the test made, and of the list.
    let date =
        |name: &'static str| async move { Text::read(admin).await.value(name, &[]).unwrap() };
    seen.until(admin, "portcullis_tls_client_ca_expiry_seconds", &[], |value| value > 0.0).await;
    seen.until(admin, "portcullis_tls_crl_expiry_seconds", &[], |value| value == 3_755_376_000.0)
        .await;
    seen.until(admin, "portcullis_tls_certificate_not_before_seconds", &[], |value| value > 0.0)
        .await;
    let (from, until) = (
        date("portcullis_tls_certificate_not_before_seconds").await,
        date("portcullis_tls_certificate_expiry_seconds").await,
    );
    assert!(from < until, "{from} {until}");
    // The certificate's end, to the second.
    let expiry = "portcullis_tls_certificate_expiry_seconds";
    let first = Text::read(admin).await.value(expiry, &[]).unwrap();
    let now = SystemClock.now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let now = now.as_secs_f64();
    assert!(first > now, "{first} is not after {now}");

    let (stale, failures) = ("portcullis_reload_stale", "portcullis_reload_failures_total");
    for (part, file, broken) in [
        ("tls", "server.pem", "no certificate"),
        ("policies", "policies/all.cedar", "nonsense"),
        ("credentials", "keys.json", "{}"),
    ] {
        let part = [("part", part)];
        let path = program.folder.0.join(file);
        let good = std::fs::read(&path).unwrap();
        seen.until(admin, stale, &part, |value| value == 0.0).await;
        seen.until(admin, failures, &part, |value| value == 0.0).await;
        std::fs::write(&path, broken).unwrap();
        seen.until(admin, stale, &part, |value| value == 1.0).await;
        // It is tried again at each look.
        seen.until(admin, failures, &part, |value| value >= 2.0).await;
        let ready = program.get("/readyz").await;
        assert!(ready.contains(&format!("\"{}\":\"stale\"", part[0].1)), "{ready}");
        std::fs::write(&path, good).unwrap();
        seen.until(admin, stale, &part, |value| value == 0.0).await;
    }
    // Another certificate, with another end.
    let leaf = Ca::new("ca").issue("server", |params| {
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    });
    program.folder.put("server", &leaf);
    seen.until(admin, expiry, &[], |value| value == 3_786_912_000.0).await;

    // Nobody reads its log: what does not fit is lost. Each change of the level is two long lines.
    let lost = "portcullis_log_lines_lost_total";
    seen.until(admin, lost, &[], |value| value == 0.0).await;
    let long = |number: usize| format!("info,{}{number}=info", "x".repeat(4000));
    let mut number = 0;
    while Text::read(admin).await.value(lost, &[]) == Some(0.0) {
        for _ in 0..20 {
            number += 1;
            let said = program.put_level(&long(number % 10)).await;
            assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        }
    }
    seen.until(admin, lost, &[], |value| value > 0.0).await;
}
