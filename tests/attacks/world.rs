//! A server with two issuers and a static token, and a caller that sends any metadata.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis::{
    api::proto::v1::DescribeSecurityGroupsRequest,
    clock::ManualClock,
    config::{AuthenticationConfig, IssuerConfig, JwtAlgorithm, KeysFrom, RateLimits, StaticToken},
    credentials::{Authenticator, token},
    random::SeededRandom,
};
use serde_json::{Value, json};
use tonic::{Code, Extensions, Request, Status, metadata::MetadataMap};

use crate::{
    issuer::Issuer,
    keys::Key,
    support::{self, Server},
};

/// The time on the clock.
pub const NOW: u64 = 1_800_000_000;
/// The first issuer, which has keys of every kind at a URL.
pub const FIRST: &str = "https://first.example";
/// The second, which has one key and takes ES256 only.
pub const SECOND: &str = "https://second.example";
pub const AUDIENCE: &str = "portcullis";

pub struct World {
    pub server: Server,
    pub authenticator: Arc<Authenticator>,
    pub clock: ManualClock,
    pub rsa: Key,
    pub p256: Key,
    pub p384: Key,
    pub ed25519: Key,
    /// In the set as a key for encryption.
    pub encryption: Key,
    /// Was in the set once.
    pub retired: Key,
    /// The second issuer's.
    pub second: Key,
    /// The second issuer's, of a kind that is not taken from it.
    pub second_rsa: Key,
    /// The first issuer's, for RS256 alone.
    pub pinned: Key,
    /// In no set.
    pub foreign: Key,
    pub static_token: String,
    pub static_entry: StaticToken,
    pub log: Log,
    _log: tracing::subscriber::DefaultGuard,
}

/// What was logged, at every level.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Of this thread, which is the one that the test's runtime has.
    pub fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub fn issuer_config(issuer: &str, keys: KeysFrom) -> IssuerConfig {
    IssuerConfig {
        issuer: issuer.into(),
        audiences: vec![AUDIENCE.into(), "portcullis-staging".into()],
        keys,
        algorithms: JwtAlgorithm::ALL.to_vec(),
        groups_claims: vec!["groups".into(), "realm_access.roles".into()],
        groups_prefix: String::new(),
        clock_skew: Duration::from_secs(60),
    }
}

pub fn at_url(url: &str) -> KeysFrom {
    KeysFrom::Url { url: url.parse().unwrap(), ca_file: None, token_file: None }
}

/// Claims that are good.
pub fn claims() -> Value {
    json!({
        "iss": FIRST, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600, "nbf": NOW - 10, "iat": NOW - 10,
        "groups": ["team-a"], "realm_access": {"roles": ["operator"]},
    })
}

/// The same with some of them changed; null takes one out.
pub fn claims_with(changes: Value) -> Value {
    let mut claims = claims();
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(&name)),
            value => claims[name] = value,
        }
    }
    claims
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut AuthenticationConfig)) -> Self {
        Self::start_limited(RateLimits::default(), change).await
    }

    pub async fn start_limited(
        rate_limits: RateLimits,
        change: impl FnOnce(&mut AuthenticationConfig),
    ) -> Self {
        let (log, guard) = Log::begin();
        let (rsa, p256, p384) = (Key::rsa("rsa"), Key::p256("p256"), Key::p384("p384"));
        let (ed25519, encryption) = (Key::ed25519("ed25519"), Key::p256("encryption"));
        let second = Key::p256("second");
        let second_rsa = Key::rsa("second-rsa");
        let pinned = Key::rsa("pinned");
        let mut for_one = pinned.jwk();
        for_one["alg"] = json!("RS256");
        let mut for_encryption = encryption.jwk();
        for_encryption["use"] = json!("enc");
        let oct = json!({"kty": "oct", "kid": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"});
        let keys = [rsa.jwk(), p256.jwk(), p384.jwk(), ed25519.jwk(), for_encryption, for_one, oct];
        let issuer = Issuer::start(json!({ "keys": keys }).to_string()).await;
        let other =
            Issuer::start(json!({"keys": [second.jwk(), second_rsa.jwk()]}).to_string()).await;
        let (static_token, static_entry) =
            token::generate(&SeededRandom::new(3), "deployer", vec!["deployers".into()]);
        let mut config = AuthenticationConfig {
            issuers: vec![
                issuer_config(FIRST, at_url(&issuer.url)),
                IssuerConfig {
                    algorithms: vec![JwtAlgorithm::Es256],
                    ..issuer_config(SECOND, at_url(&other.url))
                },
            ],
            tokens: vec![static_entry.clone()],
            failure_burst: 1_000_000,
            // Not one fetch more than the first, but where a test says so.
            jwks_min_interval: Duration::from_secs(3600),
            jwks_refresh_interval: Duration::from_secs(3600),
            ..AuthenticationConfig::default()
        };
        change(&mut config);
        let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(NOW));
        let opened = Authenticator::open(config, true, Arc::new(clock.clone())).await;
        let authenticator = Arc::new(opened.unwrap());
        let limits = support::limits();
        let server = support::start_limited(limits, rate_limits, true, authenticator.clone()).await;
        Self {
            server,
            authenticator,
            clock,
            rsa,
            p256,
            p384,
            ed25519,
            encryption,
            retired: Key::p256("retired"),
            second,
            second_rsa,
            pinned,
            foreign: Key::rsa("rsa"),
            static_token,
            static_entry,
            log,
            _log: guard,
        }
    }

    /// A call with this metadata.
    pub async fn call(&self, headers: &[(&str, Vec<u8>)]) -> Result<(), Status> {
        self.answer(headers).await.map(drop)
    }

    /// The metadata of the answer to a call with this metadata.
    pub async fn answer(&self, headers: &[(&str, Vec<u8>)]) -> Result<MetadataMap, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let metadata = MetadataMap::from_headers(map);
        let message = DescribeSecurityGroupsRequest::default();
        let request = Request::from_parts(metadata, Extensions::default(), message);
        let answer = self.server.groups.clone().describe_security_groups(request).await;
        answer.map(|answer| answer.metadata().clone())
    }

    /// A call with this token.
    pub async fn call_as(&self, token: &str) -> Result<(), Status> {
        self.call(&[("authorization", format!("Bearer {token}").into_bytes())]).await
    }

    /// Code and reason of a call with this token.
    pub async fn refusal_of(&self, token: &str) -> (Code, String) {
        support::refusal(self.call_as(token).await)
    }
}
