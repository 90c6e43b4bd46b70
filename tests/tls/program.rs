//! The real program with TLS: its own client commands, grpcurl, SIGHUP, and what it refuses to start with.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
};

use super::{
    certificates::{Ca, Folder},
    programs,
    support::patiently,
};

/// The files of a server and of a client in one folder.
struct World {
    folder: Folder,
    ca: Ca,
}

/// A running program; killed with the test.
struct Program {
    child: Child,
    grpc: String,
    admin: String,
    banner: String,
    log: Lines<BufReader<ChildStderr>>,
}

impl World {
    fn new() -> Self {
        let (folder, ca) = (Folder::new(), Ca::new("ca"));
        folder.put("server", &ca.leaf("server"));
        folder.put("client", &ca.leaf("client"));
        folder.put("other", &Ca::new("others").leaf("other"));
        folder.write("ca.pem", &ca.pem);
        folder.write("token", "pct_hush\n");
        // Callers with a name need a policy; TLS is the matter here.
        std::fs::create_dir(folder.0.join("policies")).unwrap();
        let all = "permit (principal, action, resource);";
        std::fs::write(folder.0.join("policies/all.cedar"), all).unwrap();
        Self { folder, ca }
    }

    fn command(&self, program: impl AsRef<Path>, line: &str) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(line.split_whitespace()).env_clear().current_dir(&self.folder.0);
        command.env("PORTCULLIS_POLICY_DIR", "policies");
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn portcullis(&self, line: &str) -> Command {
        self.command(env!("CARGO_BIN_EXE_portcullis"), line)
    }

    /// Exit code, stdout, stderr.
    async fn run(&self, line: &str) -> (i32, String, String) {
        outcome(self.portcullis(line)).await
    }

    async fn serve(&self, flags: &str) -> Program {
        let line = format!("--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 {flags}");
        let mut command = self.portcullis(&line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        while !banner.contains("  backend ") {
            banner += &format!("{}\n", lines.next_line().await.unwrap().expect("a banner"));
        }
        let word = |name: &str| {
            let line = banner.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().trim_start_matches("http://").to_owned()
        };
        let (grpc, admin) = (word("gRPC"), word("admin"));
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Program { child, grpc, admin, banner, log }
    }
}

async fn outcome(mut command: Command) -> (i32, String, String) {
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

impl Program {
    async fn readyz(&self) -> serde_json::Value {
        let mut stream = TcpStream::connect(&self.admin).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().await.unwrap().success());
    }

    /// Waits for a line of the log.
    async fn logged(&mut self, part: &str) {
        while !self.log.next_line().await.unwrap().expect("such a line").contains(part) {}
    }

    /// Ends it, and returns what of its log was not read yet.
    async fn end(mut self) -> String {
        self.signal("TERM").await;
        let mut log = String::new();
        while let Some(line) = self.log.next_line().await.unwrap() {
            log += &format!("{line}\n");
        }
        assert!(self.child.wait().await.unwrap().success(), "{log}");
        log
    }
}

const MTLS: &str = "--tls server --tls-cert-file server.pem --tls-key-file server.key \
                    --tls-client-auth required --tls-client-ca-files ca.pem";

/// Optional is for callers with another credential: one without any is nobody.
#[tokio::test]
async fn without_an_optional_certificate_a_caller_is_refused_and_with_it_has_a_name() {
    let world = World::new();
    let policies = world.folder.0.join("policies/all.cedar");
    let only_client =
        r#"permit (principal == Principal::"mtls:CN=ca:CN=client", action, resource);"#;
    std::fs::write(policies, only_client).unwrap();
    let server = world.serve(&MTLS.replace("required", "optional")).await;
    let call = format!("describe-groups --address {} --tls-ca-file ca.pem", server.grpc);
    let (code, out, err) = world.run(&call).await;
    assert!(code == 1 && err.contains("CREDENTIALS_MISSING"), "{code} {out}{err}");
    for (name, code, expected) in [("client", 0, "SecurityGroups"), ("server", 1, "ACCESS_DENIED")]
    {
        let own = format!("--tls-cert-file {name}.pem --tls-key-file {name}.key");
        let (ended, out, err) = world.run(&format!("{call} {own}")).await;
        assert!(ended == code && format!("{out}{err}").contains(expected), "{name}: {out}{err}");
    }
    server.end().await;
}

#[tokio::test]
async fn its_own_commands_prove_who_they_are() {
    let world = World::new();
    let server = world.serve(MTLS).await;
    assert!(server.banner.contains("(TLS, client certificates required)"), "{}", server.banner);
    let own = "--tls-ca-file ca.pem --tls-cert-file client.pem --tls-key-file client.key";
    let address = &server.grpc;
    let (code, out, err) = world.run(&format!("health --address {address} {own}")).await;
    assert_eq!((code, out.as_str()), (0, "SERVING\n"), "{err}");
    for flags in [own, &format!("{own} --tls-server-name localhost")] {
        let (code, out, err) =
            world.run(&format!("describe-groups --address {address} {flags}")).await;
        assert!(code == 0 && out.contains("SecurityGroups"), "{out}{err}");
    }
    for (flags, expected) in [
        ("", ""),
        ("--tls-ca-file ca.pem", ""),
        ("--tls-ca-file ca.pem --tls-cert-file other.pem --tls-key-file other.key", ""),
        ("--tls-ca-file other.pem", "UnknownIssuer"),
        ("--tls-ca-file ca.pem --tls-server-name example.com", "not valid for name"),
    ] {
        let (code, out, err) =
            world.run(&format!("describe-groups --address {address} {flags}")).await;
        assert!(code == 2 && err.contains(expected), "{flags}: {code} {out}{err}");
        let (code, ..) = world.run(&format!("health --address {address} {flags}")).await;
        assert_eq!(code, 1, "{flags}");
    }
    let log = server.end().await;
    assert!(!log.contains("hush"), "{log}");
}

#[tokio::test]
async fn its_own_commands_refuse_what_they_cannot_mean() {
    let world = World::new();
    for (flags, expected) in [
        ("--tls-cert-file client.pem", "--tls-key-file"),
        ("--tls-cert-file client.pem --tls-key-file client.key", "--tls-ca-file"),
        ("--tls-server-name x", "--tls-ca-file"),
        ("--tls-ca-file nowhere.pem", "nowhere.pem"),
        ("--tls-ca-file token", "no certificate in PEM"),
        (
            "--tls-ca-file ca.pem --tls-cert-file client.pem --tls-key-file other.key",
            "does not fit",
        ),
        ("--tls-ca-file ca.pem --tls-server-name a/b", "not a name"),
        ("--token-file nowhere", "nowhere"),
        ("--token-file ca.pem", "not one token"),
        ("--token-file token --address 192.0.2.1:1", "in plaintext"),
    ] {
        let (code, out, err) = world.run(&format!("describe-groups {flags}")).await;
        assert!(code == 64 && err.contains(expected), "{flags}: {code} {out}{err}");
        assert!(!err.contains("hush"), "{err}");
    }
}

#[tokio::test]
async fn a_token_goes_with_each_call() {
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, mut told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            let service = hyper::service::service_fn(move |request: http::Request<_>| {
                let _: &hyper::body::Incoming = request.body();
                let _ = seen.try_send(request.headers().get("authorization").cloned());
                async { Err::<http::Response<String>, _>(std::io::Error::other("enough")) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let http =
                hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let _ = http.serve_connection(io, service).await;
        }
    });
    for command in ["health", "describe-groups"] {
        let line = format!("{command} --address {address} --token-file token");
        assert_ne!(world.run(&line).await.0, 0);
        assert_eq!(told.recv().await.unwrap().unwrap(), "Bearer pct_hush");
    }
}

#[tokio::test]
async fn grpcurl_with_its_flags_for_certificates() {
    let Some(grpcurl) = programs::tool("bin/grpcurl") else { return };
    let world = World::new();
    let server = world.serve(MTLS).await;
    let call = format!("{} portcullis.v1.SecurityGroupService/DescribeSecurityGroups", server.grpc);
    let own = "-cacert ca.pem -cert client.pem -key client.key";
    let (code, out, err) = outcome(world.command(&grpcurl, &format!("{own} {call}"))).await;
    assert!(code == 0 && out.contains("SecurityGroups"), "{out}{err}");
    for flags in ["-plaintext", "-cacert ca.pem", "-cacert ca.pem -cert other.pem -key other.key"] {
        let line = format!("-connect-timeout 3 {flags} {call}");
        let (code, out, _) = outcome(world.command(&grpcurl, &line)).await;
        assert!(code != 0 && !out.contains("SecurityGroups"), "{flags}: {out}");
    }
}

#[tokio::test]
async fn files_are_read_again_on_change_and_on_sighup() {
    let world = World::new();
    let server = world.serve(&format!("{MTLS} --reload-interval-ms 100")).await;
    let own = "--tls-ca-file ca.pem --tls-cert-file client.pem --tls-key-file client.key";
    let health = format!("health --address {} {own}", server.grpc);
    assert_eq!(world.run(&health).await.0, 0);

    let good = std::fs::read(world.folder.0.join("server.pem")).unwrap();
    world.folder.write("server.pem", "broken");
    let stale = async {
        loop {
            let ready = server.readyz().await;
            if ready.get("stale").is_some() {
                return ready;
            }
        }
    };
    let ready = patiently(stale).await;
    assert_eq!(ready["stale"], serde_json::json!(["tls"]));
    assert_eq!(ready["ready"], true, "it still serves with what it had");
    assert_eq!(world.run(&health).await.0, 0);
    world.folder.write("server.pem", good);
    patiently(async { while server.readyz().await.get("stale").is_some() {} }).await;
    assert_eq!(world.run(&health).await.0, 0);
    let log = server.end().await;
    assert!(log.contains("not reloaded: the old state stays") && log.contains("reloaded"), "{log}");

    // With a long interval only the signal brings the new certificate.
    let mut server = world.serve(&format!("{MTLS} --reload-interval-ms 86400000")).await;
    // The look at the start is over when that at the signal is.
    server.signal("HUP").await;
    server.logged("\"reloaded\"").await;
    let new = Ca::new("new");
    world.folder.put("server", &new.leaf("server"));
    let health = format!("health --address {} {own}", server.grpc);
    assert_eq!(world.run(&health).await.0, 0);
    server.signal("HUP").await;
    world.folder.write("ca.pem", format!("{}{}", new.pem, world.ca.pem));
    let only_new = world.folder.write("new.pem", &new.pem);
    let health =
        health.replace("--tls-ca-file ca.pem", &format!("--tls-ca-file {}", only_new.display()));
    patiently(async { while world.run(&health).await.0 != 0 {} }).await;
    let log = server.end().await;
    assert!(log.contains("SIGHUP"), "{log}");
}

/// Everything that is wrong, at once, under the names that the user wrote; and never what is in the key's file.
#[tokio::test]
async fn what_is_wrong_with_the_files_is_told_at_once() {
    let world = World::new();
    world.folder.write("junk", "-----BEGIN PRIVATE KEY-----\nhush hush\n");
    world.folder.write("empty", "");
    for (flags, expected) in [
        ("--tls server", &["--tls: needs tls_cert_file", "--tls: needs tls_key_file"][..]),
        (
            "--tls-cert-file x --tls-client-auth required",
            &[
                "--tls-cert-file: does nothing unless tls",
                "--tls-client-auth: does nothing unless tls",
            ],
        ),
        (
            "--tls server --tls-cert-file nowhere --tls-key-file junk --tls-client-auth optional \
             --tls-client-ca-files empty --tls-client-ca-files client.pem --tls-crl-files server.pem",
            &[
                "--tls-cert-file: nowhere cannot be read",
                "--tls-key-file: junk holds no key in PEM",
                "--tls-client-ca-files: empty holds no certificate in PEM",
                "--tls-client-ca-files: client.pem: certificate 1 is not a CA's",
                "--tls-crl-files: server.pem holds no revocation list",
            ],
        ),
        (
            "--tls server --tls-cert-file server.pem --tls-key-file client.key",
            &["--tls-key-file: client.key does not fit the certificate in server.pem"],
        ),
        (
            "--tls server --tls-cert-file server.pem --tls-key-file server.key \
             --tls-client-ca-files ca.pem",
            &["--tls-client-ca-files: does nothing unless tls_client_auth"],
        ),
        (
            "--tls server --tls-cert-file server.pem --tls-key-file server.key \
             --tls-client-auth required",
            &["--tls-client-auth: needs tls_client_ca_files"],
        ),
        (
            "--tls server --tls-cert-file server.pem --tls-key-file server.key --listen 0.0.0.0:1",
            &["--listen: 0.0.0.0:1 is not a loopback address, and callers are not authenticated"],
        ),
    ] {
        for command in ["check-config", "serve"] {
            let (code, out, err) = world.run(&format!("{command} {flags}")).await;
            assert_eq!((code, out.as_str()), (64, ""), "{flags}: {err}");
            for part in expected {
                assert!(err.contains(part), "{part} in {err}");
            }
            assert_eq!(err.lines().count(), expected.len() + 1, "{err}");
            assert!(!err.contains("hush"), "{err}");
        }
    }
    let (code, out, _) = world.run(&format!("check-config {MTLS} --listen 0.0.0.0:1")).await;
    assert!(code == 0 && !out.contains("BEGIN"), "{out}");
}
