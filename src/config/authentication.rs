//! Who may call: `[[jwt_issuers]]`, `[[static_tokens]]` and the settings around them.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{
    Sources,
    keys::{JWT_ISSUER_MEMBERS, JWT_ISSUERS, STATIC_TOKEN_MEMBERS, STATIC_TOKENS},
    reader::Reader,
    tables::{self, Entry, list, quoted},
};

const MAX_CLOCK_SKEW_S: u64 = 300;
const DEFAULT_CLOCK_SKEW_S: u64 = 60;

/// Who may call, and how they prove it.
#[derive(Clone, Debug)]
pub struct AuthenticationConfig {
    /// The issuers whose JWTs are taken.
    pub issuers: Vec<IssuerConfig>,
    /// The static tokens.
    pub tokens: Vec<StaticToken>,
    /// The domains whose SPIFFE ids name callers.
    pub spiffe_trust_domains: Vec<String>,
    /// The proxies whose x-forwarded-for is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether health answers without a credential.
    pub open_health: bool,
    /// Whether reflection does.
    pub open_reflection: bool,
    /// How many failures an address may have at once.
    pub failure_burst: u32,
    /// How many come back in a minute.
    pub failures_per_minute: u32,
    /// How often keys are fetched.
    pub jwks_refresh_interval: Duration,
    /// The least time between two fetches.
    pub jwks_min_interval: Duration,
    /// How long keys are used while they cannot be fetched.
    pub jwks_max_stale: Duration,
}

/// An issuer of JWTs.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// What `iss` says.
    pub issuer: String,
    /// What `aud` must name one of. Not empty.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub keys: KeysFrom,
    /// The signatures that are taken. Not empty.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Claims that hold groups.
    pub groups_claims: Vec<String>,
    /// Comes before each group.
    pub groups_prefix: String,
    /// How far its clock may be off.
    pub clock_skew: Duration,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum KeysFrom {
    /// In a file. It exists.
    File(PathBuf),
    /// At a URL: https, or http on loopback.
    Url {
        /// The URL.
        url: http::Uri,
        /// The CAs that it is verified with; else the system's.
        ca_file: Option<PathBuf>,
        /// A bearer token to send.
        token_file: Option<PathBuf>,
    },
}

/// A signature that a JWT may have: never `none`, never one that whoever verifies could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "these are the names of RFC 7518 and RFC 8037")]
pub enum JwtAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    EdDsa,
}

/// A static token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticToken {
    /// The caller.
    pub name: String,
    /// The token's digest.
    pub sha256: [u8; 32],
    /// The caller's groups.
    pub groups: Vec<String>,
}

impl IssuerConfig {
    /// Whether its keys are in a file.
    pub fn is_file(&self) -> bool {
        matches!(self.keys, KeysFrom::File(_))
    }
}

// === impl AuthenticationConfig ===

impl AuthenticationConfig {
    /// Whether any credential is configured besides client certificates.
    pub fn has_credentials(&self) -> bool {
        !self.issuers.is_empty() || !self.tokens.is_empty()
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let config = Self {
            issuers: read_issuers(reader),
            tokens: read_tokens(reader),
            spiffe_trust_domains: reader.list("spiffe_trust_domains", trust_domain),
            trusted_proxies: reader.list("trusted_proxies", network),
            open_health: reader.switch("open_health"),
            open_reflection: reader.switch("open_reflection"),
            failure_burst: reader.count("auth_failure_burst"),
            failures_per_minute: reader.count("auth_failures_per_minute"),
            jwks_refresh_interval: reader.millis("jwks_refresh_interval_ms"),
            jwks_min_interval: reader.millis("jwks_min_interval_ms"),
            jwks_max_stale: reader.millis("jwks_max_stale_ms"),
        };
        reader.check_order("jwks_min_interval_ms", "jwks_refresh_interval_ms");
        reader.check_order("jwks_refresh_interval_ms", "jwks_max_stale_ms");
        config
    }
}

impl Default for AuthenticationConfig {
    /// What the table of settings says.
    fn default() -> Self {
        Self::read(&mut Reader::new(&Sources::default()))
    }
}

/// A domain as the SPIFFE specification writes it.
fn trust_domain(text: &str) -> Option<String> {
    let is_fit = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    ((1..=255).contains(&text.len()) && text.bytes().all(is_fit)).then(|| text.to_owned())
}

/// A network, or one address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

// === issuers ===

fn read_issuers(reader: &mut Reader<'_>) -> Vec<IssuerConfig> {
    let known = std::cell::RefCell::new(Vec::new());
    tables::read(reader, JWT_ISSUERS, JWT_ISSUER_MEMBERS, |entry| {
        let issuer = read_issuer(entry)?;
        if known.borrow().contains(&issuer.issuer) {
            let message = format!("{:?} is listed twice", issuer.issuer);
            return entry.refuse("issuer", message);
        }
        known.borrow_mut().push(issuer.issuer.clone());
        Some(issuer)
    })
}

/// The issuer, if what it cannot do without is right. Everything wrong is reported.
fn read_issuer(entry: &mut Entry<'_, '_, '_>) -> Option<IssuerConfig> {
    let issuer = entry.text("issuer");
    let audiences = entry.texts("audiences").and_then(|audiences| {
        if audiences.is_empty() {
            return entry.refuse("audiences", "takes at least one".to_owned());
        }
        Some(audiences)
    });
    let keys = read_keys(entry);
    let algorithms = match entry.texts("algorithms") {
        None => JwtAlgorithm::ALL.to_vec(),
        Some(names) => {
            let known = names.iter().filter_map(|name| JwtAlgorithm::parse(name));
            let known: Vec<_> = known.collect();
            if known.len() != names.len() || known.is_empty() {
                let all: Vec<_> = JwtAlgorithm::ALL.iter().map(|known| known.as_str()).collect();
                let _: Option<()> =
                    entry.refuse("algorithms", format!("takes some of {}", all.join(", ")));
            }
            known
        }
    };
    let groups_claims = entry.texts("groups_claims").unwrap_or_default();
    let groups_prefix = entry.text("groups_prefix").unwrap_or_default();
    let skew = entry.number("clock_skew_s", 0, MAX_CLOCK_SKEW_S).unwrap_or(DEFAULT_CLOCK_SKEW_S);
    let config = IssuerConfig {
        issuer: issuer?,
        audiences: audiences?,
        keys: keys?,
        algorithms,
        groups_claims,
        groups_prefix,
        clock_skew: Duration::from_secs(skew),
    };
    note_issuer(entry, &config);
    Some(config)
}

fn read_keys(entry: &mut Entry<'_, '_, '_>) -> Option<KeysFrom> {
    match (entry.has("jwks_file"), entry.has("jwks_url")) {
        (true, true) => return entry.refuse("jwks_url", "goes without jwks_file".to_owned()),
        (false, false) => {
            return entry.refuse("jwks_url", "jwks_url or jwks_file is missing".to_owned());
        }
        (true, false) => {
            for name in ["jwks_ca_file", "jwks_token_file"].into_iter() {
                if entry.has(name) {
                    let _: Option<()> =
                        entry.refuse(name, "does nothing without jwks_url".to_owned());
                }
            }
            return entry.file("jwks_file").map(KeysFrom::File);
        }
        (false, true) => {}
    }
    // Whether these exist shows when they are used: in a pod they do, where the file is checked they may not.
    let ca_file = entry.path("jwks_ca_file");
    let token_file = entry.path("jwks_token_file");
    let text = entry.text("jwks_url")?;
    let url: Option<http::Uri> = text.parse().ok();
    let is_fit = |url: &http::Uri| {
        let is_plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        let is_safe = match url.scheme_str() {
            Some("https") => true,
            Some("http") => super::safety::is_loopback_url(&url.to_string()),
            _ => false,
        };
        is_plain && is_safe
    };
    match url.filter(is_fit) {
        Some(url) => Some(KeysFrom::Url { url, ca_file, token_file }),
        None => entry.refuse(
            "jwks_url",
            "takes an https URL without credentials, or an http URL on loopback".to_owned(),
        ),
    }
}

fn note_issuer(entry: &mut Entry<'_, '_, '_>, config: &IssuerConfig) {
    let path = |path: &PathBuf| quoted(&path.display().to_string());
    let mut members =
        vec![("issuer", quoted(&config.issuer)), ("audiences", list(&config.audiences))];
    match &config.keys {
        KeysFrom::File(file) => members.push(("jwks_file", path(file))),
        KeysFrom::Url { url, ca_file, token_file } => {
            members.push(("jwks_url", quoted(&shown(url))));
            members.extend(ca_file.as_ref().map(|file| ("jwks_ca_file", path(file))));
            members.extend(token_file.as_ref().map(|file| ("jwks_token_file", path(file))));
        }
    }
    let algorithms: Vec<_> =
        config.algorithms.iter().map(|algorithm| algorithm.as_str().to_owned()).collect();
    members.push(("algorithms", list(&algorithms)));
    members.push(("groups_claims", list(&config.groups_claims)));
    if !config.groups_prefix.is_empty() {
        members.push(("groups_prefix", quoted(&config.groups_prefix)));
    }
    members.push(("clock_skew_s", config.clock_skew.as_secs().to_string()));
    entry.note(&members);
}

/// A URL without its query, where some services want a key. It has no credentials before the host.
fn shown(url: &http::Uri) -> String {
    let text = url.to_string();
    text.split_once('?').map_or(text.clone(), |(place, _)| format!("{place}?[redacted]"))
}

// === static tokens ===

fn read_tokens(reader: &mut Reader<'_>) -> Vec<StaticToken> {
    let known = std::cell::RefCell::new(Vec::new());
    tables::read(reader, STATIC_TOKENS, STATIC_TOKEN_MEMBERS, |entry| {
        let name = entry.text("name");
        let groups = entry.texts("groups").unwrap_or_default();
        let sha256 = entry.text("sha256").and_then(|text| match digest(&text) {
            Some(digest) if known.borrow().contains(&digest) => {
                entry.refuse("sha256", "is that of another entry".to_owned())
            }
            Some(digest) => Some(digest),
            // What is there may be the token itself: it is not shown.
            None => entry.refuse("sha256", "takes 64 hexadecimal digits".to_owned()),
        });
        let token = StaticToken { name: name?, sha256: sha256?, groups };
        known.borrow_mut().push(token.sha256);
        entry.note(&[
            ("name", quoted(&token.name)),
            ("sha256", quoted(&hex(&token.sha256))),
            ("groups", list(&token.groups)),
        ]);
        Some(token)
    })
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

// === impl JwtAlgorithm ===

impl JwtAlgorithm {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Rs256, Self::Rs384, Self::Rs512, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its name in a JWT's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// By its name, exactly.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

// === impl StaticToken ===

impl StaticToken {
    /// The table that the configuration file gets.
    pub fn to_toml(&self) -> String {
        format!(
            "[[{STATIC_TOKENS}]]\nname = {}\nsha256 = \"{}\"\ngroups = {}\n",
            quoted(&self.name),
            hex(&self.sha256),
            list(&self.groups)
        )
    }
}
