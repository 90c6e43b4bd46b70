//! The real program with the sandbox, TLS and JWTs, and what callers of it need: a CA's file, tokens, curl.

use std::{path::PathBuf, time::SystemTime};

use portcullis::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    certificates::{Ca, Folder},
    keys::Key,
    programs::{self, Program},
};

const ISSUER: &str = "https://issuer.example";

/// A running server.
pub struct Secured {
    pub server: Program,
    #[allow(dead_code, reason = "the tests of JSON use it; it goes with this")]
    pub folder: Folder,
    pub ca: PathBuf,
    /// Holds a good token.
    pub token_file: PathBuf,
    curl: PathBuf,
}

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// `1.1` or `2`.
    #[allow(dead_code, reason = "the tests of JSON use it")]
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Secured {
    /// None: curl is not installed, and need not be.
    pub async fn start(settings: &str) -> Option<Self> {
        let curl = programs::tool("bin/curl")?;
        let folder = Folder::new();
        let ca = Ca::new("ca");
        folder.put("server", &ca.leaf("server"));
        let ca = folder.write("ca.pem", &ca.pem);
        let key = Key::p256("key");
        folder.write("keys.json", json!({"keys": [key.jwk()]}).to_string());
        let now = SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let token = |exp: u64| {
            key.token(&json!({"iss": ISSUER, "aud": "portcullis", "sub": "alice", "exp": exp}))
        };
        let token_file = folder.write("token", token(now + 3600));
        folder.write("expired", token(now - 3600));
        std::fs::create_dir(folder.0.join("policies")).unwrap();
        let policy = "permit (principal, action, resource);";
        std::fs::write(folder.0.join("policies/all.cedar"), policy).unwrap();
        let config = format!(
            "tls = \"server\"\ntls_cert_file = \"server.pem\"\ntls_key_file = \"server.key\"\n\
             policy_dir = \"policies\"\n{settings}\n\
             [[jwt_issuers]]\nissuer = \"{ISSUER}\"\naudiences = [\"portcullis\"]\njwks_file = \"keys.json\"\n"
        );
        let config = folder.write("portcullis.toml", config);
        let server = programs::portcullis(&["--config", config.to_str().unwrap()], &[]).await;
        Some(Self { server, folder, ca, token_file, curl })
    }

    /// curl to this path, with these arguments and no credential.
    pub async fn curl(&self, path: &str, arguments: &[&str]) -> Answer {
        let mut command = Command::new(&self.curl);
        // --globoff: a path may hold brackets. The defaults of whoever runs the tests are out.
        command.args(["--disable", "--silent", "--show-error", "--include", "--globoff"]);
        command.args(["--max-time", "60", "--noproxy", "*"]).arg("--cacert").arg(&self.ca);
        command.args(arguments).arg(format!("https://{}{path}", self.server.address));
        let (text, code) = programs::finish(command).await;
        assert_eq!(code, 0, "{arguments:?}: {text}");
        Answer::read(&text)
    }

    /// A call with JSON and a good token.
    pub async fn call(&self, path: &str, body: &Value, arguments: &[&str]) -> Answer {
        let token = std::fs::read_to_string(&self.token_file).unwrap();
        let (authorization, body) = (format!("authorization: Bearer {token}"), body.to_string());
        let own =
            ["--header", "content-type: application/json", "--header", &authorization, "-d", &body];
        self.curl(path, &[&own[..], arguments].concat()).await
    }

    /// A call to the sandbox's own service.
    pub async fn sandbox(&self, method: &str, body: Value) -> Value {
        let path = format!("/portcullis.sandbox.v1.SandboxService/{method}");
        let answer = self.call(&path, &body, &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

impl Answer {
    fn read(text: &str) -> Self {
        let mut rest = text.trim_start();
        loop {
            let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
            let mut lines = head.lines();
            let mut first = lines.next().unwrap().split_whitespace();
            let version = first.next().unwrap().trim_start_matches("HTTP/").to_owned();
            let status = first.next().unwrap().parse().unwrap();
            // An interim answer, to "expect".
            if status == 100 {
                rest = body;
                continue;
            }
            let headers = lines.filter_map(|line| line.split_once(": "));
            let headers =
                headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
            return Self { status, version, headers: headers.collect(), text: body.to_owned() };
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[allow(dead_code, reason = "the tests of JSON use it")]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}
