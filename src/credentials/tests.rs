//! Certificates, and keys under a paused clock. What callers see is in `tests/attacks.rs`.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey, crypto, jwk::Jwk};
use serde_json::json;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    clock::ManualClock,
    config::{IssuerConfig, JwtAlgorithm},
    principal::Certificate,
    random::SeededRandom,
};

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn certificate(subject: &str, spiffe_id: Option<&str>) -> Certificate {
    Certificate {
        subject: subject.to_owned(),
        issuer: "CN=first".to_owned(),
        spiffe_id: spiffe_id.map(str::to_owned),
        not_before: at(NOW - 10),
        not_after: at(NOW + 10),
    }
}

fn peer(certificate: Certificate) -> Peer {
    Peer { certificate: Some(Arc::new(certificate)), ..Peer::default() }
}

/// What came of it at once.
fn now(
    authenticator: &Authenticator,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<Arc<Principal>, Refused> {
    match authenticator.check(headers, peer) {
        Checked::Now(result) => result,
        Checked::Later(_) => panic!("it waits"),
    }
}

fn bearer_of(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    headers
}

async fn with_certificates() -> (Authenticator, ManualClock, String) {
    let (token, entry) = token::generate(&SeededRandom::new(1), "robot", Vec::new());
    let config = AuthenticationConfig {
        tokens: vec![entry],
        spiffe_trust_domains: vec!["example.org".to_owned()],
        ..AuthenticationConfig::default()
    };
    let clock = ManualClock::new(at(NOW));
    let authenticator = Authenticator::open(config, true, Arc::new(clock.clone())).await.unwrap();
    (authenticator, clock, token)
}

#[tokio::test]
async fn a_certificate_names_its_caller() {
    let (authenticator, _, _) = with_certificates().await;
    let none = HeaderMap::new();
    let id = |certificate| now(&authenticator, &none, &peer(certificate)).map(|found| found.id());
    let first = certificate("CN=alice,O=Example", None);
    let second = Certificate { issuer: "CN=my CA: b".to_owned(), ..first.clone() };
    assert_eq!(id(first).unwrap(), "mtls:CN=first:CN=alice,O=Example");
    assert_eq!(id(second).unwrap(), "mtls:CN=my%20CA%3A%20b:CN=alice,O=Example");
    let spiffe = certificate("O=SPIRE", Some("spiffe://example.org/ns/a/sa/b"));
    assert_eq!(id(spiffe).unwrap(), "mtls:example.org:spiffe%3A//example.org/ns/a/sa/b");
    assert_eq!(now(&authenticator, &none, &Peer::default()), Err(Refused::Missing));
}

#[test]
fn a_name_has_no_character_that_is_not_seen() {
    // The first and the last of each range of Default_Ignorable_Code_Point (Unicode 16).
    let ranges = [
        (0xad, 0xad),
        (0x34f, 0x34f),
        (0x61c, 0x61c),
        (0x115f, 0x1160),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x200b, 0x200f),
        (0x202a, 0x202e),
        (0x2060, 0x206f),
        (0x3164, 0x3164),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff0, 0xfff8),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0000, 0xe0fff),
    ];
    for code in ranges.into_iter().flat_map(|(first, last)| first..=last) {
        let name = format!("al{}ice", char::from_u32(code).unwrap());
        assert!(!is_name(&name, 100), "U+{code:04X}");
    }
    for name in ["älice", "李", "alice@example.org", "한글", "🔑", "ﾡ", "︐"] {
        assert!(is_name(name, 100), "{name}");
    }
}

#[tokio::test]
async fn certificates_that_name_nobody_here_are_refused() {
    let (authenticator, _, _) = with_certificates().await;
    let long = format!("spiffe://example.org/{}", "a".repeat(2048));
    let mut bad = vec![
        certificate("", None),
        certificate("CN=*.example.org", None),
        certificate("CN=a\nb", None),
        // As RFC 4514 writes what a certificate has.
        certificate(r"CN=a\0Ab", None),
        certificate(r"CN=a\\\0Ab", None),
        Certificate { issuer: String::new(), ..certificate("CN=alice", None) },
        Certificate { issuer: r"CN=a\0Ab".to_owned(), ..certificate("CN=alice", None) },
        certificate("CN=a\u{202e}b", None),
    ];
    for id in [
        "spiffe://evil.org/a",
        "spiffe://example.org.evil.org/a",
        "spiffe://evil.org/spiffe://example.org/a",
        "spiffe://sub.example.org/a",
        "spiffe://EXAMPLE.org/a",
        "SPIFFE://example.org/a",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org//a",
        "spiffe://example.org/a/",
        "spiffe://example.org/../a",
        "spiffe://example.org/./a",
        "spiffe://example.org/a%2fb",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org/*",
        "spiffe://example.org/a\n",
        "spiffe://example.org:8443/a",
        "spiffe://user@example.org/a",
        "https://example.org/a",
        "spiffe:///a",
        "",
        &long,
    ] {
        // The subject would be fit: it is not fallen back on.
        bad.push(certificate("CN=alice", Some(id)));
    }
    for certificate in bad {
        let refused = now(&authenticator, &HeaderMap::new(), &peer(certificate.clone()));
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{certificate:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_certificate_expires_on_an_open_connection() {
    let (authenticator, clock, token) = with_certificates().await;
    let peer = peer(certificate("CN=alice", None));
    let none = HeaderMap::new();
    assert!(now(&authenticator, &none, &peer).is_ok());
    clock.advance(Duration::from_secs(10));
    assert!(now(&authenticator, &none, &peer).is_ok(), "its last second");
    clock.advance(Duration::from_secs(1));
    assert!(matches!(now(&authenticator, &none, &peer), Err(Refused::Expired(_))));
    // Policy would go by it: a token beside it does not make it good.
    let refused = now(&authenticator, &bearer_of(&token), &peer);
    assert!(matches!(refused, Err(Refused::Expired(_))));
    let early = Certificate {
        not_before: at(NOW + 60),
        not_after: at(NOW + 90),
        ..certificate("CN=a", None)
    };
    let early = self::peer(early);
    assert!(matches!(now(&authenticator, &none, &early), Err(Refused::Invalid(_))));
}

#[tokio::test]
async fn a_certificate_that_is_distrusted_on_an_open_connection_is_refused_there() {
    let (authenticator, _, token) = with_certificates().await;
    let (none, peer) = (HeaderMap::new(), peer(certificate("CN=alice", None)));
    assert!(now(&authenticator, &none, &peer).is_ok());
    let of_next_call = peer.clone();
    peer.distrusted.cancel();
    for headers in [&none, &bearer_of(&token)] {
        let refused = now(&authenticator, headers, &of_next_call);
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_token_beside_a_certificate_names_the_caller_and_must_be_good() {
    let (authenticator, _, token) = with_certificates().await;
    let peer = peer(certificate("CN=alice", None));
    assert_eq!(now(&authenticator, &bearer_of(&token), &peer).unwrap().id(), "token::robot");
    let refused = now(&authenticator, &bearer_of("junk"), &peer);
    assert!(matches!(refused, Err(Refused::Invalid(_))), "the certificate is not fallen back on");
}

#[tokio::test]
async fn a_certificate_is_nothing_where_they_are_not_configured() {
    let clock = Arc::new(ManualClock::new(at(NOW)));
    let config = AuthenticationConfig::default();
    let off = Authenticator::open(config.clone(), false, clock.clone()).await.unwrap();
    assert!(!off.is_on());
    let peer = peer(certificate("CN=alice", None));
    assert_eq!(now(&off, &HeaderMap::new(), &peer), Err(Refused::Missing));
    let on = Authenticator::open(config, true, clock).await.unwrap();
    assert!(on.is_on() && now(&on, &HeaderMap::new(), &peer).is_ok());
    // No domain is configured: no SPIFFE id is trusted.
    let spiffe = Peer {
        certificate: Some(Arc::new(certificate("CN=alice", Some("spiffe://example.org/a")))),
        ..Peer::default()
    };
    assert!(matches!(now(&on, &HeaderMap::new(), &spiffe), Err(Refused::Invalid(_))));
}

// === keys under a paused clock ===

/// An issuer that answers when it is let.
#[derive(Clone, Debug)]
struct Scripted {
    begun: Arc<AtomicUsize>,
    let_go: Arc<Semaphore>,
    answer: Arc<Mutex<Result<Bytes, String>>>,
}

impl Scripted {
    fn new(keys: &[&Pair]) -> Self {
        Self {
            begun: Arc::default(),
            let_go: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            answer: Arc::new(Mutex::new(Ok(set(keys)))),
        }
    }

    fn answer(&self, answer: Result<Bytes, &str>) {
        *self.answer.lock().unwrap() = answer.map_err(str::to_owned);
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

impl Fetch for Scripted {
    fn fetch(&self) -> BoxFuture<Result<Bytes, String>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let this = self.clone();
        Box::pin(async move {
            this.let_go.acquire().await.unwrap().forget();
            this.answer.lock().unwrap().clone()
        })
    }
}

struct Pair(&'static str, EncodingKey);

impl Pair {
    /// An Ed25519 key in PKCS #8; its id is the seed.
    fn new(kid: &'static str) -> Self {
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend(kid.bytes().cycle().take(32));
        Self(kid, EncodingKey::from_ed_der(&der))
    }

    fn token(&self) -> HeaderMap {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({"alg": "EdDSA", "kid": self.0}));
        let claims = json!({"iss": "i", "aud": "a", "sub": "alice", "exp": NOW + 600});
        let message = format!("{header}.{}", part(claims));
        let signature = crypto::sign(message.as_bytes(), &self.1, Algorithm::EdDSA).unwrap();
        bearer_of(&format!("{message}.{signature}"))
    }
}

fn set(keys: &[&Pair]) -> Bytes {
    let jwk = |Pair(kid, pair): &&Pair| {
        let mut jwk = Jwk::from_encoding_key(pair, Algorithm::EdDSA).unwrap();
        jwk.common.key_id = Some((*kid).to_owned());
        jwk
    };
    json!({"keys": keys.iter().map(jwk).collect::<Vec<_>>()}).to_string().into()
}

const MINUTE: Duration = Duration::from_secs(60);

/// Fetches every five minutes, at most every ten seconds, and keys last an hour.
async fn with_keys_of(scripted: &Scripted) -> Arc<Authenticator> {
    let config = AuthenticationConfig {
        issuers: vec![IssuerConfig {
            issuer: "i".to_owned(),
            audiences: vec!["a".to_owned()],
            keys: KeysFrom::Url {
                url: http::Uri::from_static("https://issuer.example/"),
                ca_file: None,
                token_file: None,
            },
            algorithms: JwtAlgorithm::ALL.to_vec(),
            groups_claims: Vec::new(),
            groups_prefix: String::new(),
            clock_skew: MINUTE,
        }],
        jwks_refresh_interval: 5 * MINUTE,
        jwks_min_interval: MINUTE / 6,
        jwks_max_stale: 60 * MINUTE,
        ..AuthenticationConfig::default()
    };
    let clock = Arc::new(ManualClock::new(at(NOW)));
    let fetch = |_: &KeysFrom| Some(Arc::new(scripted.clone()) as Arc<dyn Fetch>);
    Arc::new(Authenticator::open_with(config, false, clock, fetch).await.unwrap())
}

async fn ended(
    authenticator: &Authenticator,
    headers: &HeaderMap,
) -> Result<Arc<Principal>, Refused> {
    match authenticator.check(headers, &Peer::default()) {
        Checked::Now(result) => result,
        Checked::Later(later) => later.await,
    }
}

#[tokio::test(start_paused = true)]
async fn a_stampede_of_unknown_keys_is_one_fetch() {
    let (old, new, third) = (Pair::new("old"), Pair::new("new"), Pair::new("third"));
    let scripted = Scripted::new(&[&old]);
    let authenticator = with_keys_of(&scripted).await;
    assert_eq!(scripted.begun(), 1, "at the start");
    // Right after a fetch an unknown key has none, however many ask.
    for _ in 0..1000 {
        assert!(matches!(
            now(&authenticator, &third.token(), &Peer::default()),
            Err(Refused::Invalid(_))
        ));
    }
    assert_eq!(scripted.begun(), 1);

    tokio::time::advance(MINUTE / 6).await;
    scripted.answer(Ok(set(&[&old, &new])));
    scripted.let_go.forget_permits(Semaphore::MAX_PERMITS);
    let mut waiting = tokio::task::JoinSet::new();
    let check = |token: HeaderMap| authenticator.check(&token, &Peer::default());
    for number in 0..2 * jwt::MAX_WAITING - 2 {
        let headers = if number % 2 == 0 { new.token() } else { third.token() };
        let Checked::Later(later) = check(headers) else { panic!("it does not wait") };
        // Half of them hang up: the fetch goes on for the others.
        if number % 4 < 2 {
            waiting.spawn(later);
        }
    }
    // More do not wait, and nobody says that their tokens are bad.
    for number in 0..1000 {
        let headers = if number % 2 == 0 { new.token() } else { third.token() };
        let Checked::Now(Err(Refused::Unverifiable(_))) = check(headers) else {
            panic!("it waits")
        };
    }
    // Known keys do not wait.
    assert!(now(&authenticator, &old.token(), &Peer::default()).is_ok());
    tokio::task::yield_now().await;
    assert_eq!(scripted.begun(), 2);
    scripted.let_go.add_permits(1000);
    let results = waiting.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), jwt::MAX_WAITING / 2);
    assert_eq!(
        results.iter().filter(|result| matches!(result, Err(Refused::Invalid(_)))).count(),
        jwt::MAX_WAITING / 2
    );
    assert_eq!(scripted.begun(), 2);
    // Their places are the next ones'.
    tokio::time::advance(MINUTE / 6).await;
    assert!(matches!(authenticator.check(&third.token(), &Peer::default()), Checked::Later(_)));
}

#[tokio::test(start_paused = true)]
async fn the_old_keys_outlast_an_issuer_that_does_not_answer_for_as_long_as_is_set() {
    let pair = Pair::new("one");
    let scripted = Scripted::new(&[&pair]);
    let authenticator = with_keys_of(&scripted).await;
    scripted.answer(Err("connection refused"));
    for _ in 0..60 {
        assert!(ended(&authenticator, &pair.token()).await.is_ok());
        tokio::time::sleep(MINUTE).await;
    }
    tokio::time::sleep(MINUTE).await;
    let refused = ended(&authenticator, &pair.token()).await;
    assert!(matches!(refused, Err(Refused::Unverifiable(_))), "{refused:?}");
    // It answers again: within the least interval all is well, with no call's help.
    scripted.answer(Ok(set(&[&pair])));
    tokio::time::sleep(MINUTE / 6).await;
    tokio::task::yield_now().await;
    assert!(now(&authenticator, &pair.token(), &Peer::default()).is_ok());
    assert!(scripted.begun() <= 2 + 62 * 6, "{} fetches", scripted.begun());
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_in_the_background_and_an_issuer_that_hangs_is_given_up() {
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    let scripted = Scripted::new(&[&old]);
    let authenticator = with_keys_of(&scripted).await;
    scripted.answer(Ok(set(&[&new])));
    tokio::time::sleep(5 * MINUTE).await;
    tokio::task::yield_now().await;
    assert!(now(&authenticator, &new.token(), &Peer::default()).is_ok());
    // The old key is out without anybody's asking.
    assert!(matches!(ended(&authenticator, &old.token()).await, Err(Refused::Invalid(_))));
    tokio::time::sleep(MINUTE).await;
    scripted.let_go.forget_permits(Semaphore::MAX_PERMITS);
    let began = tokio::time::Instant::now();
    assert!(matches!(ended(&authenticator, &old.token()).await, Err(Refused::Unverifiable(_))));
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    // Whoever uses the keys no more ends the fetching.
    drop(authenticator);
    let begun = scripted.begun();
    tokio::time::sleep(60 * MINUTE).await;
    assert!(scripted.begun() <= begun + 1);
}

#[tokio::test]
async fn a_key_file_that_is_bad_at_the_start_is_an_error() {
    let config = AuthenticationConfig {
        issuers: vec![IssuerConfig {
            issuer: "i".to_owned(),
            audiences: vec!["a".to_owned()],
            keys: KeysFrom::File("/nonexistent/keys.json".into()),
            algorithms: JwtAlgorithm::ALL.to_vec(),
            groups_claims: Vec::new(),
            groups_prefix: String::new(),
            clock_skew: MINUTE,
        }],
        ..AuthenticationConfig::default()
    };
    let clock = Arc::new(ManualClock::new(at(NOW)));
    let fault = Authenticator::open(config, false, clock).await.unwrap_err();
    assert!(fault.contains("/nonexistent/keys.json"), "{fault}");
}
