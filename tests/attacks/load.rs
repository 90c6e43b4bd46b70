//! Everything that callers prove themselves with, and what the server proves itself with, is rotated several times on the
//! real program while callers call without a pause. Not one call with a valid credential fails, neither while files are
//! broken nor while an issuer is down. What bounds the test is counts.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use hyper_util::rt::TokioIo;
use portcullis::{
    api::proto::v1::{self, security_group_service_client::SecurityGroupServiceClient as Groups},
    config::StaticToken,
    credentials::token,
    random::SeededRandom,
    tls::client,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::{Notify, watch},
};
use tokio_rustls::rustls::ClientConfig;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{
    certificates::{Ca, Folder, Leaf},
    issuer::Issuer,
    keys::Key,
    tls::{handshake, patiently},
    world::{FIRST, SECOND},
};

/// Two of each kind of credential.
const CALLERS: usize = 8;
const ROUNDS: usize = 3;

/// What callers have. Each change is a new generation.
#[derive(Clone)]
struct Wallet {
    generation: usize,
    /// With the certificate of the caller.
    with_certificate: Arc<ClientConfig>,
    of_file: String,
    of_url: String,
    fixed: String,
}

/// The kinds of callers.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Certificate,
    TokenOfFile,
    TokenOfUrl,
    Static,
}

struct World {
    folder: Folder,
    address: SocketAddr,
    admin: String,
    /// Without a certificate.
    plain: Arc<ClientConfig>,
    wallet: watch::Sender<Wallet>,
    calls: AtomicUsize,
    failures: Mutex<Vec<String>>,
    /// The generation that each caller has made a whole call with.
    reached: [AtomicUsize; CALLERS],
    called: Notify,
    stop: AtomicBool,
    program: Child,
}

fn jwt(key: &Key, issuer: &str) -> String {
    key.token(
        &json!({"iss": issuer, "aud": "portcullis", "sub": "alice", "exp": 4_000_000_000_u64}),
    )
}

fn set(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// The program's configuration, with these static tokens.
fn configuration(url: &str, tokens: &[&StaticToken]) -> String {
    let tokens: String = tokens.iter().map(|entry| format!("{}\n", entry.to_toml())).collect();
    format!(
        r#"
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
tls = "server"
tls_cert_file = "server.pem"
tls_key_file = "server.key"
tls_client_auth = "optional"
tls_client_ca_files = ["clients.pem"]
policy_dir = "policies"
reload_interval_ms = 100
jwks_refresh_interval_ms = 1000
jwks_min_interval_ms = 100

[[jwt_issuers]]
issuer = "{FIRST}"
audiences = ["portcullis"]
jwks_file = "keys.json"

[[jwt_issuers]]
issuer = "{SECOND}"
audiences = ["portcullis"]
jwks_url = "{url}"

{tokens}"#
    )
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Channel, String> {
    let connector = service_fn(move |_| {
        let config = config.clone();
        async move { handshake(address, config).await.map(TokioIo::new) }
    });
    // tonic would encrypt what is https by itself: only the calls say so.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.origin(format!("https://{address}").parse().unwrap());
    endpoint.connect_with_connector(connector).await.map_err(|error| format!("{error:?}"))
}

async fn call_on(channel: Channel, token: Option<&str>) -> Result<(), String> {
    let mut request = Request::new(v1::DescribeSecurityGroupsRequest::default());
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let answer = Groups::new(channel).describe_security_groups(request).await;
    answer.map(drop).map_err(|status| format!("{status:?}"))
}

impl World {
    fn token<'a>(&self, kind: Kind, wallet: &'a Wallet) -> Option<&'a str> {
        match kind {
            Kind::Certificate => None,
            Kind::TokenOfFile => Some(&wallet.of_file),
            Kind::TokenOfUrl => Some(&wallet.of_url),
            Kind::Static => Some(&wallet.fixed),
        }
    }

    fn config(&self, kind: Kind, wallet: &Wallet) -> Arc<ClientConfig> {
        if kind == Kind::Certificate { wallet.with_certificate.clone() } else { self.plain.clone() }
    }

    /// Calls until it is told to stop: on a connection that stays open, and on new ones.
    async fn keep_calling(&self, index: usize) {
        let kinds = [Kind::Certificate, Kind::TokenOfFile, Kind::TokenOfUrl, Kind::Static];
        let kind = kinds[index % kinds.len()];
        let mut open: Option<(Arc<ClientConfig>, Channel)> = None;
        let mut turn = index;
        while !self.stop.load(Ordering::Relaxed) {
            let wallet = self.wallet.borrow().clone();
            let config = self.config(kind, &wallet);
            // Who has a new certificate shows it on a new connection. Nobody else has a reason for one.
            if open.as_ref().is_none_or(|(with, _)| !Arc::ptr_eq(with, &config)) {
                match connect(self.address, config.clone()).await {
                    Ok(channel) => open = Some((config.clone(), channel)),
                    Err(error) => self.fail(&error),
                }
            }
            let token = self.token(kind, &wallet);
            if let Some((_, channel)) = &open {
                self.count(call_on(channel.clone(), token).await);
            }
            if turn.is_multiple_of(4) {
                let fresh = match connect(self.address, config).await {
                    Ok(channel) => call_on(channel, token).await,
                    Err(error) => Err(error),
                };
                self.count(fresh);
            }
            turn += 1;
            self.reached[index].store(wallet.generation, Ordering::SeqCst);
            self.called.notify_waiters();
        }
    }

    fn count(&self, call: Result<(), String>) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = call {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &str) {
        self.failures.lock().unwrap().push(error.to_owned());
    }

    /// Waits, call by call, until this is so.
    async fn until(&self, is_so: impl Fn() -> bool) {
        patiently(async {
            loop {
                let called = self.called.notified();
                if is_so() {
                    return;
                }
                called.await;
            }
        })
        .await;
    }

    /// Lets everyone call a few times.
    async fn go_on(&self) {
        let enough = self.calls.load(Ordering::SeqCst) + 4 * CALLERS;
        self.until(|| self.calls.load(Ordering::SeqCst) >= enough).await;
    }

    /// Gives callers something new, and waits until nobody uses what was before.
    async fn hand_out(&self, change: impl FnOnce(&mut Wallet)) {
        self.wallet.send_modify(|wallet| {
            change(wallet);
            wallet.generation += 1;
        });
        let now = self.wallet.borrow().generation;
        self.until(|| self.reached.iter().all(|one| one.load(Ordering::SeqCst) >= now)).await;
    }

    /// Waits until a credential is taken, or is no longer. A probe is no call of a caller's.
    async fn until_taken(&self, is_taken: bool, config: &Arc<ClientConfig>, token: Option<&str>) {
        patiently(async {
            loop {
                let answer = match connect(self.address, config.clone()).await {
                    Ok(channel) => call_on(channel, token).await,
                    Err(error) => Err(error),
                };
                if answer.is_ok() == is_taken {
                    return;
                }
            }
        })
        .await;
    }

    /// What the server says that it could not read anew.
    async fn until_stale(&self, part: Option<&str>) {
        let expected = part.map(|part| json!([part]));
        patiently(async {
            loop {
                let mut stream = TcpStream::connect(&self.admin).await.unwrap();
                stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                let body = answer.split_once("\r\n\r\n").unwrap().1;
                let ready: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(ready["ready"], true);
                if ready.get("stale") == expected.as_ref() {
                    return;
                }
            }
        })
        .await;
    }

    /// A file is broken for a while.
    async fn break_file(&self, name: &str, part: &str, broken: &str) {
        let good = fs::read(self.folder.0.join(name)).unwrap();
        self.folder.write(name, broken);
        self.until_stale(Some(part)).await;
        self.go_on().await;
        self.folder.write(name, &good);
        self.until_stale(None).await;
    }

    async fn hang_up(&self) {
        let id = self.program.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &id]).status().await.unwrap().success());
    }

    fn certificate(&self, leaf: &Leaf, name: &str) -> Arc<ClientConfig> {
        let (certificate, key) = self.folder.put(name, leaf);
        client::config(&self.folder.0.join("ca.pem"), Some((&certificate, &key))).unwrap()
    }
}

async fn start(folder: Folder, ca: &Ca, clients: &Ca, wallet: [String; 3]) -> World {
    folder.put("server", &ca.leaf("server"));
    folder.write("ca.pem", &ca.pem);
    folder.write("clients.pem", &clients.pem);
    fs::create_dir(folder.0.join("policies")).unwrap();
    let all = "permit (principal, action, resource);";
    fs::write(folder.0.join("policies/all.cedar"), all).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["--config", "portcullis.toml"]).env_clear().current_dir(&folder.0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut program = command.spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut addresses = Vec::new();
    while addresses.len() < 2 {
        let line = lines.next_line().await.unwrap().expect("a banner");
        if ["gRPC", "admin"].iter().any(|name| line.trim_start().starts_with(name)) {
            let word = line.split_whitespace().nth(1).unwrap();
            addresses.push(word.trim_start_matches("http://").to_owned());
        }
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let plain = client::config(&folder.0.join("ca.pem"), None).unwrap();
    let (certificate, key) = folder.put("alice", &clients.leaf("alice"));
    let own = Some((certificate.as_path(), key.as_path()));
    let [of_file, of_url, fixed] = wallet;
    let wallet = Wallet {
        generation: 1,
        with_certificate: client::config(&folder.0.join("ca.pem"), own).unwrap(),
        of_file,
        of_url,
        fixed,
    };
    World {
        folder,
        address: addresses[0].parse().unwrap(),
        admin: addresses[1].clone(),
        plain,
        wallet: watch::Sender::new(wallet),
        calls: AtomicUsize::new(0),
        failures: Mutex::default(),
        reached: Default::default(),
        called: Notify::new(),
        stop: AtomicBool::new(false),
        program,
    }
}

const NAMES: [&str; ROUNDS + 1] = ["first", "second", "third", "fourth"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_rotated_under_load_and_no_call_with_a_valid_credential_fails() {
    let (folder, ca) = (Folder::new(), Ca::new("servers"));
    let random = SeededRandom::new(5);
    let mut clients = Ca::new("clients 0");
    let (mut of_file, mut of_url) = (Key::p256(NAMES[0]), Key::rsa(NAMES[0]));
    let (fixed, mut entry) = token::generate(&random, "deployer", vec![]);
    let issuer = Issuer::start(set(&[&of_url])).await;
    folder.write("keys.json", set(&[&of_file]));
    folder.write("portcullis.toml", configuration(&issuer.url, &[&entry]));
    let wallet = [jwt(&of_file, FIRST), jwt(&of_url, SECOND), fixed];
    let world = Arc::new(start(folder, &ca, &clients, wallet).await);
    let callers: Vec<_> = (0..CALLERS)
        .map(|index| {
            let world = world.clone();
            tokio::spawn(async move { world.keep_calling(index).await })
        })
        .collect();
    world.go_on().await;

    let (folder, mut rotations) = (&world.folder, 0);
    for (round, &name) in NAMES.iter().enumerate().skip(1) {
        let before = world.wallet.borrow().clone();

        // The server's certificate. Until the key is there, too, what is read does not fit.
        let new = ca.leaf(&format!("server {round}"));
        folder.write("server.pem", &new.certificate);
        world.until_stale(Some("tls")).await;
        world.go_on().await;
        folder.write("server.key", &new.key);
        world.hang_up().await;
        patiently(async {
            loop {
                let stream = handshake(world.address, world.plain.clone()).await.unwrap();
                if stream.get_ref().1.peer_certificates().unwrap()[0].to_vec() == new.der {
                    return;
                }
            }
        })
        .await;
        rotations += 1;

        // The clients' CA: both, then the certificates of the new one, then that alone.
        let next = Ca::new(&format!("clients {round}"));
        folder.write("clients.pem", format!("{}{}", clients.pem, next.pem));
        let own = world.certificate(&next.leaf("alice"), &format!("alice-{round}"));
        world.until_taken(true, &own, None).await;
        world.hand_out(|wallet| wallet.with_certificate = own).await;
        folder.write("clients.pem", &next.pem);
        world.until_taken(false, &before.with_certificate, None).await;
        clients = next;
        rotations += 1;

        // Keys in a file.
        let next = Key::p256(name);
        folder.write("keys.json", set(&[&of_file, &next]));
        let token = jwt(&next, FIRST);
        world.until_taken(true, &world.plain, Some(&token)).await;
        world.hand_out(|wallet| wallet.of_file = token).await;
        folder.write("keys.json", set(&[&next]));
        world.until_taken(false, &world.plain, Some(&before.of_file)).await;
        of_file = next;
        rotations += 1;

        // Keys at a URL, which is down first, and then has nothing of use. Probes ask for an unknown key all the while.
        let next = Key::rsa(name);
        let token = jwt(&next, SECOND);
        for (status, body) in [("503 Service Unavailable", String::new()), ("200 OK", "{".into())] {
            issuer.answer(status, body);
            let fetches = issuer.fetches();
            patiently(async {
                while issuer.fetches() < fetches + 2 {
                    let probe = connect(world.address, world.plain.clone()).await.unwrap();
                    assert!(call_on(probe, Some(&token)).await.is_err());
                }
            })
            .await;
            world.go_on().await;
        }
        issuer.answer("200 OK", set(&[&of_url, &next]));
        world.until_taken(true, &world.plain, Some(&token)).await;
        world.hand_out(|wallet| wallet.of_url = token).await;
        issuer.answer("200 OK", set(&[&next]));
        world.until_taken(false, &world.plain, Some(&before.of_url)).await;
        of_url = next;
        rotations += 1;

        // Static tokens.
        let (token, next) = token::generate(&random, "deployer", vec![]);
        folder.write("portcullis.toml", configuration(&issuer.url, &[&entry, &next]));
        world.until_taken(true, &world.plain, Some(&token)).await;
        world.hand_out(|wallet| wallet.fixed = token).await;
        folder.write("portcullis.toml", configuration(&issuer.url, &[&next]));
        world.until_taken(false, &world.plain, Some(&before.fixed)).await;
        entry = next;
        rotations += 1;

        // Empty is what a file is while it is written in its place.
        let broken = if round % 2 == 1 { "" } else { "broken" };
        for (file, part) in [
            ("server.pem", "tls"),
            ("server.key", "tls"),
            ("clients.pem", "tls"),
            ("keys.json", "credentials"),
            ("portcullis.toml", "credentials"),
        ] {
            world.break_file(file, part, broken).await;
        }
    }
    world.go_on().await;
    world.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let (calls, failures) = (world.calls.load(Ordering::SeqCst), world.failures.lock().unwrap());
    println!("rotations {rotations} calls {calls} refused {}", failures.len());
    assert!(failures.is_empty(), "{} of {calls}: {}", failures.len(), failures[0]);
    assert!(rotations == 5 * ROUNDS && calls > 40 * CALLERS * ROUNDS, "{rotations} {calls}");
}
