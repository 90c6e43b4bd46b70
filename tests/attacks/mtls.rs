//! Attacks with client certificates: at the handshake, and past it where the certificate is one of ours but names
//! nobody, or somebody else. In TLS 1.3 and 1.2, with certificates required and optional.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use portcullis::{
    access::{Access, Mode, Policies},
    api::proto::v1::{self, security_group_service_client::SecurityGroupServiceClient as Groups},
    clock::ManualClock,
    config::{AuthenticationConfig, KeysFrom},
    credentials::Authenticator,
    tls::ClientAuth,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::json;
use tokio_rustls::rustls::{
    AlertDescription as Alert, ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    certificates::{Ca, Folder, Leaf, uri},
    keys::Key,
    support::{self, refusal},
    tls::{Server, handshake, patiently},
    wire,
    world::{FIRST, Log, NOW, SECOND, claims, claims_with, issuer_config},
};

const MISSING: (Code, &str) = (Code::Unauthenticated, "CREDENTIALS_MISSING");
const INVALID: (Code, &str) = (Code::Unauthenticated, "CREDENTIALS_INVALID");
const EXPIRED: (Code, &str) = (Code::Unauthenticated, "CREDENTIALS_EXPIRED");
const DENIED: (Code, &str) = (Code::PermissionDenied, "ACCESS_DENIED");

/// Who may call: each by one policy, and nobody else.
const POLICIES: &str = r#"
permit (principal == Principal::"mtls:CN=clients:CN=alice", action, resource);
permit (principal == Principal::"mtls:example.org:spiffe%3A//example.org/bob", action, resource);
// The token names the caller, and policy sees the certificate beside it.
permit (principal == Principal::"jwt:https%3A//first.example:carol", action, resource)
when { principal.certificate_subject == "CN=alice" && principal.certificate_issuer == "CN=clients" };
permit (principal == Principal::"jwt:https%3A//first.example:alice", action, resource)
when { principal.certificate_subject == "" };
permit (principal == Principal::"token::deployer", action, resource);
"#;

struct World {
    server: Server,
    clock: ManualClock,
    /// Its certificates are taken, too, and its name is another.
    partner: Ca,
    first: Key,
    second: Key,
    log: Log,
    _keys: Folder,
    _log: tracing::subscriber::DefaultGuard,
}

impl World {
    async fn start(client_auth: ClientAuth) -> Self {
        let (log, guard) = Log::begin();
        let (first, second) = (Key::p256("first"), Key::p256("second"));
        let keys = Folder::new();
        let file = |name: &str, key: &Key| {
            KeysFrom::File(keys.write(name, json!({"keys": [key.jwk()]}).to_string()))
        };
        let config = AuthenticationConfig {
            issuers: vec![
                issuer_config(FIRST, file("first.json", &first)),
                issuer_config(SECOND, file("second.json", &second)),
            ],
            spiffe_trust_domains: vec!["example.org".to_owned()],
            failure_burst: 1_000_000,
            ..AuthenticationConfig::default()
        };
        let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(NOW));
        let authenticator = Authenticator::open(config, true, Arc::new(clock.clone())).await;
        let policies = Policies::parse(&[("who.cedar".to_owned(), POLICIES.to_owned())]);
        let access =
            Access::with(policies.unwrap_or_else(|faults| panic!("{faults:?}")), Mode::Enforce);
        let server = Server::start_for(
            client_auth,
            true,
            Arc::new(clock.clone()),
            Arc::new(authenticator.unwrap()),
            access,
        )
        .await;
        let partner = Ca::new("partner");
        server.folder.write("clients.pem", format!("{}{}", server.clients.pem, partner.pem));
        server.tls.reload().unwrap();
        Self { server, clock, partner, first, second, log, _keys: keys, _log: guard }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Chain {
        Chain::of(self.server.clients.issue("alice", change))
    }

    fn config(
        &self,
        own: Option<&Chain>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.server.ca.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(Chain { leaf, between }) => {
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                let chain = [&leaf.der].into_iter().chain(between).map(|der| der.clone().into());
                builder.with_client_auth_cert(chain.collect(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.into()
    }

    /// One call on a new connection, with this token.
    async fn call(
        &self,
        own: Option<&Chain>,
        version: &'static SupportedProtocolVersion,
        token: Option<&str>,
    ) -> Result<(), Status> {
        call_on(self.server.channel(self.config(own, version)).await.unwrap(), token).await
    }
}

/// A certificate, and what comes between it and a root.
#[derive(Debug)]
struct Chain {
    leaf: Leaf,
    between: Vec<Vec<u8>>,
}

impl Chain {
    fn of(leaf: Leaf) -> Self {
        Self { leaf, between: Vec::new() }
    }
}

async fn call_on(channel: Channel, token: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(v1::DescribeSecurityGroupsRequest::default());
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    Groups::new(channel).describe_security_groups(request).await.map(drop)
}

fn named(name: &str) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
    }
}

fn with_uris(uris: &'static [&str]) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.subject_alt_names.extend(uris.iter().map(|text| uri(text)))
}

/// Certificates that get no connection, and the alert that says so.
fn at_the_handshake(world: &World) -> Vec<(&'static str, Chain, Alert)> {
    let clients = &world.server.clients;
    let issue = |change: fn(&mut CertificateParams)| world.issue(change);
    let below = |name: &'static str, is_ca: IsCa| {
        let ca = clients.below(name, is_ca);
        Chain { leaf: ca.leaf("alice"), between: vec![ca.der.clone()] }
    };
    vec![
        ("self-signed", Chain::of(Leaf::self_signed("alice")), Alert::UnknownCA),
        ("of another CA", Chain::of(Ca::new("others").leaf("alice")), Alert::UnknownCA),
        (
            "of another CA that comes with it",
            {
                let others = Ca::new("others");
                Chain { leaf: others.leaf("alice"), between: vec![others.der.clone()] }
            },
            Alert::UnknownCA,
        ),
        (
            "of a CA with the name of ours",
            Chain::of(Ca::new("clients").leaf("alice")),
            Alert::DecryptError,
        ),
        ("of a client that plays a CA", below("mallory", IsCa::NoCa), Alert::CertificateUnknown),
        (
            "of a client that says so",
            below("mallory", IsCa::ExplicitNoCa),
            Alert::CertificateUnknown,
        ),
        (
            "of a CA too deep",
            {
                let first = clients.below("first", IsCa::Ca(BasicConstraints::Constrained(0)));
                let second = first.below("second", IsCa::Ca(BasicConstraints::Unconstrained));
                let between = vec![second.der.clone(), first.der.clone()];
                Chain { leaf: second.leaf("alice"), between }
            },
            Alert::CertificateUnknown,
        ),
        (
            "a CA's own",
            issue(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Alert::CertificateUnknown,
        ),
        (
            "expired",
            issue(|params| params.not_after = date_time_ymd(2024, 1, 1)),
            Alert::CertificateExpired,
        ),
        (
            "not yet valid",
            issue(|params| params.not_before = date_time_ymd(2090, 1, 1)),
            Alert::CertificateExpired,
        ),
        (
            "for servers only",
            issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            Alert::UnsupportedCertificate,
        ),
        (
            "for signing code",
            issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            Alert::UnsupportedCertificate,
        ),
        (
            "of a key that is for encryption only",
            issue(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            Alert::CertificateUnknown,
        ),
        (
            "two SPIFFE ids",
            world.issue(with_uris(&["spiffe://example.org/bob", "spiffe://example.org/eve"])),
            Alert::CertificateUnknown,
        ),
        (
            "one SPIFFE id twice",
            world.issue(with_uris(&["spiffe://example.org/bob", "spiffe://example.org/bob"])),
            Alert::CertificateUnknown,
        ),
        (
            "a SPIFFE id beside another URI",
            world.issue(with_uris(&["https://example.org/", "spiffe://example.org/bob"])),
            Alert::CertificateUnknown,
        ),
        (
            "a SPIFFE id in capitals",
            world.issue(with_uris(&["SPIFFE://example.org/bob"])),
            Alert::CertificateUnknown,
        ),
        (
            "a SPIFFE id with a way up",
            world.issue(with_uris(&["spiffe://example.org/a/../bob"])),
            Alert::CertificateUnknown,
        ),
        (
            "a SPIFFE id with a wildcard",
            world.issue(with_uris(&["spiffe://example.org/*"])),
            Alert::CertificateUnknown,
        ),
        (
            "a SPIFFE id without a path",
            world.issue(with_uris(&["spiffe://example.org"])),
            Alert::CertificateUnknown,
        ),
        (
            "a SPIFFE id with a user",
            world.issue(with_uris(&["spiffe://example.org@evil.org/bob"])),
            Alert::CertificateUnknown,
        ),
    ]
}

/// Certificates that get a connection, and no answer on it.
fn past_the_handshake(world: &World) -> Vec<(&'static str, Chain, (Code, &'static str))> {
    let nobody = |change: fn(&mut CertificateParams)| {
        world.issue(move |params| {
            params.distinguished_name = DistinguishedName::new();
            change(params);
        })
    };
    vec![
        ("another trust domain", world.issue(with_uris(&["spiffe://evil.org/bob"])), INVALID),
        (
            "a trust domain that ends like ours",
            world.issue(with_uris(&["spiffe://not.example.org/bob"])),
            INVALID,
        ),
        (
            "a trust domain that begins like ours",
            world.issue(with_uris(&["spiffe://example.org.evil.org/bob"])),
            INVALID,
        ),
        ("no name", nobody(|_| {}), INVALID),
        ("names of hosts only", nobody(|params| params.subject_alt_names.truncate(1)), INVALID),
        ("a wildcard", world.issue(named("*")), INVALID),
        ("a wildcard in a name", world.issue(named("*.example.org")), INVALID),
        ("a new line", world.issue(named("alice\nlevel=ERROR forged")), INVALID),
        ("a carriage return", world.issue(named("alice\r\nx-principal: root")), INVALID),
        ("a zero byte", world.issue(named("alice\0.evil.org")), INVALID),
        ("an escape sequence", world.issue(named("alice\u{1b}[2J")), INVALID),
        ("turned letters", world.issue(named("\u{202e}ecila")), INVALID),
        ("letters that are not seen", world.issue(named("al\u{200b}ice")), INVALID),
        ("a name too long", world.issue(named(&"a".repeat(2049))), INVALID),
        // They have names, which are not those that policies know.
        ("another name", world.issue(named("bob")), DENIED),
        ("a name with another in it", world.issue(named("eve,CN=alice")), DENIED),
        ("a name in capitals", world.issue(named("ALICE")), DENIED),
        (
            "a name and more",
            world.issue(|params| params.distinguished_name.push(DnType::OrganizationName, "x")),
            DENIED,
        ),
        ("the same name of the partner's CA", Chain::of(world.partner.leaf("alice")), DENIED),
        (
            "the same name of a CA below the partner's",
            {
                let ca = world.partner.below("Clients", IsCa::Ca(BasicConstraints::Unconstrained));
                Chain { leaf: ca.leaf("alice"), between: vec![ca.der.clone()] }
            },
            DENIED,
        ),
        (
            "a SPIFFE id and another's name",
            world.issue(with_uris(&["spiffe://example.org/eve"])),
            DENIED,
        ),
    ]
}

#[tokio::test]
async fn every_bad_certificate_is_refused_in_both_versions_of_tls() {
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let world = World::start(client_auth).await;
        let mut broken = Vec::new();
        let mut texts = std::collections::HashMap::new();
        let (at, past) = (at_the_handshake(&world), past_the_handshake(&world));
        for version in [&TLS13, &TLS12] {
            for (name, chain, expected) in &at {
                let config = world.config(Some(chain), version);
                let alert = world.server.alert(config.clone()).await;
                if alert != *expected {
                    broken.push(format!("{name} was told {alert:?}"));
                }
                if world.server.call(config).await.is_ok() {
                    broken.push(format!("{name} called"));
                }
            }
            for (name, chain, expected) in &past {
                let Err(status) = world.call(Some(chain), version, None).await else {
                    broken.push(format!("{name} passed"));
                    continue;
                };
                let text = texts.entry(*expected).or_insert_with(|| status.message().to_owned());
                if text != status.message() {
                    broken.push(format!("{name} was told {}", status.message()));
                }
                let info = support::details(&status).error_info().unwrap().clone();
                if (status.code(), info.reason.as_str()) != *expected || !info.metadata.is_empty() {
                    broken.push(format!("{name} was {status:?}"));
                }
            }
            // What they are changes of still passes.
            for good in [world.issue(|_| {}), world.issue(with_uris(&["spiffe://example.org/bob"]))]
            {
                world.call(Some(&good), version, None).await.unwrap();
            }
        }
        assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
        println!("{} certificates were refused", at.len() + past.len());
        let log = world.log.text();
        assert!(
            !log.lines()
                .any(|line| line.starts_with("level=ERROR") || line.starts_with("x-principal"))
        );
        // Why is for the log.
        for cause in [
            "trust domain that is not configured",
            "names nobody",
            "two SPIFFE",
            "not for signatures",
        ] {
            assert!(log.contains(cause) || cause == "two SPIFFE", "{cause}");
        }
    }
}

/// Who can sign nothing of ours cannot ask what is known here: whatever a forged certificate says, the answer is one.
#[tokio::test]
async fn a_forged_certificate_learns_nothing() {
    let world = World::start(ClientAuth::Required).await;
    let revoked = world.issue(|_| {});
    let crl = world.server.clients.crl(&[&revoked.leaf.serial], 2090);
    world.server.folder.write("clients.crl", crl);
    world.server.tls.reload().unwrap();
    assert_eq!(
        world.server.alert(world.config(Some(&revoked), &TLS13)).await,
        Alert::CertificateRevoked
    );
    let forger = Ca::new("clients");
    let serial = revoked.leaf.serial.clone();
    for (name, leaf) in [
        ("a name that is known", forger.leaf("alice")),
        ("one that is not", forger.leaf("nobody")),
        (
            "a serial number that is revoked",
            forger.issue("alice", |params| params.serial_number = Some(serial)),
        ),
        ("a SPIFFE id of ours", forger.issue("x", with_uris(&["spiffe://example.org/bob"]))),
        ("another", forger.issue("x", with_uris(&["spiffe://evil.org/bob"]))),
        (
            "two",
            forger.issue("x", with_uris(&["spiffe://example.org/bob", "spiffe://example.org/eve"])),
        ),
    ] {
        for version in [&TLS13, &TLS12] {
            let chain = Chain { leaf: Leaf { ..leaf.clone() }, between: Vec::new() };
            let alert = world.server.alert(world.config(Some(&chain), version)).await;
            assert_eq!(alert, Alert::DecryptError, "{name}");
        }
    }
    // A certificate is no secret. Without its key there is no connection.
    let stolen = Leaf { key: forger.leaf("alice").key, ..world.issue(|_| {}).leaf };
    let stolen = Chain::of(stolen);
    let mut config = ClientConfig::clone(&world.config(None, &TLS13));
    config.client_auth_cert_resolver = Arc::new(Stolen(stolen));
    let alert = world.server.alert(Arc::new(config)).await;
    assert_eq!(alert, Alert::DecryptError);
}

/// Shows one's certificate and signs with another's key: rustls would not, if it were asked properly.
#[derive(Debug)]
struct Stolen(Chain);

impl tokio_rustls::rustls::client::ResolvesClientCert for Stolen {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[tokio_rustls::rustls::SignatureScheme],
    ) -> Option<Arc<tokio_rustls::rustls::sign::CertifiedKey>> {
        let key = PrivateKeyDer::from_pem_slice(self.0.leaf.key.as_bytes()).unwrap();
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let chain = vec![self.0.leaf.der.clone().into()];
        Some(Arc::new(tokio_rustls::rustls::sign::CertifiedKey::new(chain, key)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_certificate_that_expires_on_an_open_connection_is_refused_there() {
    for version in [&TLS13, &TLS12] {
        let world = World::start(ClientAuth::Required).await;
        // NOW is the day before.
        let own = world.issue(|params| params.not_after = date_time_ymd(2027, 1, 16));
        let claims = claims_with(json!({"sub": "carol", "exp": NOW + 1_000_000}));
        let token = world.first.token(&claims);
        let config = world.config(Some(&own), version);
        let open = world.server.channel(config.clone()).await.unwrap();
        call_on(open.clone(), None).await.unwrap();
        call_on(open.clone(), Some(&token)).await.unwrap();
        world.clock.advance(Duration::from_secs(86_400));
        let expired = (EXPIRED.0, EXPIRED.1.to_owned());
        assert_eq!(refusal(call_on(open.clone(), None).await), expired);
        // Policy goes by it, so that a good token does not save it.
        assert_eq!(refusal(call_on(open, Some(&token)).await), expired);
        // A session that is resumed skips the certificate at the handshake, and the call does not.
        let resumed = world.server.channel(config).await.unwrap();
        assert_eq!(refusal(call_on(resumed, None).await), expired);
        let alert = world.server.alert(world.config(Some(&own), version)).await;
        assert_eq!(alert, Alert::CertificateExpired);
    }
}

/// The client does not hear of it: it knows no GOAWAY, and never answers the ping by which the server would end what it
/// still takes.
#[tokio::test]
async fn who_is_distrusted_and_calls_on_is_refused_on_the_open_connection() {
    use tokio::io::AsyncWriteExt as _;
    const METHOD: &str = "/portcullis.v1.SecurityGroupService/DescribeSecurityGroups";
    for by_list in [true, false] {
        let world = World::start(ClientAuth::Required).await;
        let own = if by_list { world.issue(|_| {}) } else { Chain::of(world.partner.leaf("bob")) };
        let config = world.config(Some(&own), &TLS13);
        let mut stream = handshake(world.server.address, config).await.unwrap();
        let call = |stream| {
            let message = wire::frame(wire::DATA, wire::END_STREAM, stream, &wire::message(0, &[]));
            [wire::call_head(stream, METHOD), message].concat()
        };
        stream.write_all(&[wire::hello(&[]), call(1)].concat()).await.unwrap();
        patiently(until_frame(&mut stream, |kind, flags, of| {
            kind == wire::HEADERS && of == 1 && flags & wire::END_STREAM != 0
        }))
        .await;
        let invalid = "reason=\"CREDENTIALS_INVALID\"";
        assert!(!world.log.text().contains(invalid), "{}", world.log.text());

        let clients = &world.server.clients;
        if by_list {
            world.server.folder.write("clients.crl", clients.crl(&[&own.leaf.serial], 2090));
        } else {
            world.server.folder.write("clients.pem", &clients.pem);
        }
        world.server.tls.reload().unwrap();
        patiently(until_frame(&mut stream, |kind, _, _| kind == wire::GOAWAY)).await;
        stream.write_all(&call(3)).await.unwrap();
        patiently(until_frame(&mut stream, |kind, flags, of| {
            kind == wire::HEADERS && of == 3 && flags & wire::END_STREAM != 0
        }))
        .await;
        let log = world.log.text();
        let calls: Vec<&str> =
            log.lines().filter(|line| line.contains("portcullis::call")).collect();
        assert!(calls.len() == 2 && calls[1].contains(invalid), "{calls:#?}");
        assert!(calls[1].contains("is not trusted any more"), "{calls:#?}");
    }
}

/// Reads frames until there is one like this: kind, flags and stream.
async fn until_frame(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    is_it: impl Fn(u8, u8, u32) -> bool,
) {
    use tokio::io::AsyncReadExt as _;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let [high, middle, low, kind, flags, of @ ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if is_it(kind, flags, u32::from_be_bytes(of)) {
            return;
        }
    }
}

/// Certificate and token: each must be good, the token names the caller, and policy sees the certificate.
#[tokio::test]
async fn a_certificate_and_a_token_must_both_be_good() {
    let world = World::start(ClientAuth::Optional).await;
    let alice = world.issue(|_| {});
    let bob = Chain::of(world.server.clients.leaf("bob"));
    let evil = world.issue(with_uris(&["spiffe://evil.org/bob"]));
    let partners = Chain::of(world.partner.leaf("alice"));
    let of_alice = world.first.token(&claims());
    let of_carol = world.first.token(&claims_with(json!({"sub": "carol"})));
    let late = world.first.token(&claims_with(json!({"sub": "carol", "exp": NOW - 3600})));
    let seconds = world.second.token(&claims_with(json!({"sub": "carol", "iss": SECOND})));
    let forged = world.second.token(&claims_with(json!({"sub": "carol"})));
    for (name, own, token, expected) in [
        ("no certificate and no token", None, None, Err(MISSING)),
        ("a certificate", Some(&alice), None, Ok(())),
        ("a token", None, Some(&of_alice), Ok(())),
        ("a token with the certificate that policy wants", Some(&alice), Some(&of_carol), Ok(())),
        ("that token without it", None, Some(&of_carol), Err(DENIED)),
        ("with another", Some(&bob), Some(&of_carol), Err(DENIED)),
        ("with one of the same name and another CA", Some(&partners), Some(&of_carol), Err(DENIED)),
        ("with one of another trust domain", Some(&evil), Some(&of_carol), Err(INVALID)),
        ("another issuer's token of that subject", Some(&alice), Some(&seconds), Err(DENIED)),
        // The certificate alone would do.
        ("a token that policy does not want beside it", Some(&alice), Some(&of_alice), Err(DENIED)),
        ("an expired token beside it", Some(&alice), Some(&late), Err(EXPIRED)),
        ("a forged token beside it", Some(&alice), Some(&forged), Err(INVALID)),
    ] {
        for version in [&TLS13, &TLS12] {
            let got = world.call(own, version, token.map(String::as_str)).await;
            match expected {
                Ok(()) => got.unwrap_or_else(|status| panic!("{name}: {status:?}")),
                Err((code, reason)) => {
                    assert!(got.is_err(), "{name} passed");
                    assert_eq!(refusal(got), (code, reason.to_owned()), "{name}");
                }
            }
        }
    }
    let log = world.log.text();
    assert!(log.contains("principal=\"jwt:https%3A//first.example:carol\""), "{log}");
    for token in [&of_alice, &of_carol, &late, &seconds, &forged] {
        assert!(!log.contains(token.rsplit('.').next().unwrap()));
    }
}
