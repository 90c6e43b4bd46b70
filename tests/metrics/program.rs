//! The real program: what only it knows of itself, and its admin listener.

use std::{net::SocketAddr, process::Stdio};

use portcullis::clock::{Clock as _, SystemClock};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
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
    pub folder: Folder,
    _child: Child,
}

/// With TLS, policies, an issuer and a ledger on disk.
pub async fn start() -> Program {
    let folder = Folder::new();
    folder.put("server", &Ca::new("ca").leaf("server"));
    folder.write("keys.json", JWKS);
    std::fs::create_dir(folder.0.join("policies")).unwrap();
    std::fs::write(folder.0.join("policies/all.cedar"), "permit (principal, action, resource);")
        .unwrap();
    folder.write(
        "portcullis.toml",
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nledger = \"sqlite:ledger.db\"\n\
         tls = \"server\"\ntls_cert_file = \"server.pem\"\ntls_key_file = \"server.key\"\n\
         policy_dir = \"policies\"\nreload_interval_ms = 100\n\
         [[jwt_issuers]]\nissuer = \"https://issuer.example\"\naudiences = [\"portcullis\"]\n\
         jwks_file = \"keys.json\"\n\
         [[static_tokens]]\nname = \"deployer\"\nsha256 = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"\n",
    );
    let mut child = portcullis(&folder, "serve").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let admin = loop {
        let line = lines.next_line().await.unwrap().expect("a banner");
        if let Some(rest) = line.trim_start().strip_prefix("admin") {
            break rest.split_whitespace().next().unwrap().trim_start_matches("http://").to_owned();
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Program { admin: admin.parse().unwrap(), folder, _child: child }
}

fn portcullis(folder: &Folder, command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    program.args([command, "--config", "portcullis.toml"]).env_clear().current_dir(&folder.0);
    program.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    program
}

impl Program {
    /// What `check-config` says of the same file.
    pub async fn checked(&self) -> String {
        let output = portcullis(&self.folder, "check-config").output().await.unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    pub async fn put_level(&self, directives: &str) -> String {
        let length = directives.len();
        let head =
            format!("PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        ask(self.admin, &format!("{head}{directives}")).await
    }

    pub async fn get(&self, path: &str) -> String {
        ask(self.admin, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
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
    let issuer = [("issuer", "https://issuer.example")];
    seen.until(admin, "portcullis_keys_age_seconds", &issuer, |value| value > 0.0).await;
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
