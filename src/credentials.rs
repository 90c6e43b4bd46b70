//! What proves who a caller is: JWTs, static tokens and client certificates. No HTTP server and no tower in here.
//!
//! [`Authenticator`] takes what a call brings, the `authorization` header and the connection's peer, and gives the
//! principal or why there is none. Why is for the log; callers learn one of four things ([`Refused`]).
//!
//! The checks that cost nothing come first: only a token of a configured issuer, for our audience, with a known key
//! of the right type, has its signature verified. Nothing verified is cached: a signature costs less than a
//! millisecond, and so a key that was rotated out is out at once.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use futures::BoxFuture;
use http::{HeaderMap, header::AUTHORIZATION};

use crate::{
    clock::Clock,
    config::{AuthenticationConfig, KeysFrom, StaticToken},
    principal::{Peer, Principal},
};

use self::{
    address::client_address,
    failures::Failures,
    fetch::{Fetch, HttpFetch},
    jwt::{Issuer, Step, Token},
    source::{KeySource, Pace},
    token::Tokens,
};

pub mod address;
mod certificate;
pub mod failures;
pub mod fetch;
mod futures;
mod jwks;
mod jwt;
mod source;
pub mod token;

/// The longest credential that is looked at.
const MAX_CREDENTIAL_BYTES: usize = 8 << 10;

/// The longest name of a caller. A SPIFFE id has at most as many.
const MAX_NAME_BYTES: usize = 2048;

/// The longest name of a group.
const MAX_GROUP_BYTES: usize = 512;

/// The most groups of one caller.
const MAX_GROUPS: usize = 512;

/// Why a caller has no principal. The texts say the cause and are for the log: they hold nothing of a credential that
/// is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no credential.
    Missing,
    /// Nobody is asked for one, and it is a page in a browser that calls.
    Page,
    /// There is one that is not good, or there are several.
    Invalid(String),
    /// It was good and has expired.
    Expired(String),
    /// Its issuer's keys are not known, so nobody can tell. Not the caller's fault.
    Unverifiable(String),
}

/// What came of looking at a credential.
#[allow(missing_debug_implementations, reason = "a future has none")]
pub enum Checked {
    /// It is known.
    Now(Result<Arc<Principal>, Refused>),
    /// It will be known when the issuer's keys were fetched, which is bounded.
    Later(BoxFuture<Result<Arc<Principal>, Refused>>),
}

/// Tells who calls.
#[derive(Debug)]
pub struct Authenticator {
    config: AuthenticationConfig,
    /// Whether a client certificate names a caller.
    certificates: bool,
    issuers: Vec<Issuer>,
    tokens: ArcSwap<Tokens>,
    /// The configuration's static tokens, read anew.
    reread: Option<Reread>,
    failures: Failures,
    clock: Arc<dyn Clock>,
}

/// Reads the static tokens of the configuration anew.
#[allow(missing_debug_implementations, reason = "the derive below prints its name")]
pub struct Reread(pub Box<dyn Fn() -> Result<Vec<StaticToken>, String> + Send + Sync>);

impl std::fmt::Debug for Reread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reread")
    }
}

impl Authenticator {
    /// Reads the key files and fetches the keys behind URLs. A file that is bad is an error; a URL that does not
    /// answer is not, since it may later.
    pub async fn open(
        config: AuthenticationConfig,
        certificates: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let fetch = |keys: &KeysFrom| -> Option<Arc<dyn Fetch>> {
            HttpFetch::new(keys).map(|fetch| Arc::new(fetch) as Arc<dyn Fetch>)
        };
        Self::open_with(config, certificates, clock, fetch).await
    }

    /// The same with another way to fetch.
    pub async fn open_with(
        config: AuthenticationConfig,
        certificates: bool,
        clock: Arc<dyn Clock>,
        fetch: impl Fn(&KeysFrom) -> Option<Arc<dyn Fetch>>,
    ) -> Result<Self, String> {
        let pace = Pace {
            interval: config.jwks_refresh_interval,
            min_interval: config.jwks_min_interval,
            max_stale: config.jwks_max_stale,
        };
        let mut issuers = Vec::new();
        for issuer in &config.issuers {
            let source = match &issuer.keys {
                KeysFrom::File(file) => KeySource::of_file(file.clone())?,
                keys @ KeysFrom::Url { .. } => {
                    let fetch = fetch(keys).ok_or("no way to fetch keys")?;
                    KeySource::of_fetch(issuer.issuer.clone(), fetch, pace).await
                }
            };
            issuers.push(Issuer::new(issuer.clone(), source));
        }
        Ok(Self {
            certificates,
            issuers,
            tokens: ArcSwap::from_pointee(Tokens::new(config.tokens.clone())),
            reread: None,
            failures: Failures::new(config.failure_burst, config.failures_per_minute),
            clock,
            config,
        })
    }

    /// Lets [`Self::reload`] read the configuration's static tokens anew.
    #[must_use]
    pub fn with_reread(mut self, reread: Reread) -> Self {
        self.reread = Some(reread);
        self
    }

    /// Whether callers need a credential at all.
    pub fn is_on(&self) -> bool {
        self.certificates || self.config.has_credentials()
    }

    /// Whether a call to this path needs none.
    pub fn is_open(&self, path: &str) -> bool {
        (self.config.open_health && path.starts_with("/grpc.health.v1.Health/"))
            || (self.config.open_reflection && path.starts_with("/grpc.reflection."))
    }

    /// The address of the caller: the peer's, or what a trusted proxy says it is.
    pub fn client_address(&self, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
        Some(client_address(peer.address?.ip(), headers, &self.config.trusted_proxies))
    }

    /// How long until the next failure of this address is answered as such; none if this one is.
    pub fn charge(&self, address: Option<IpAddr>) -> Option<std::time::Duration> {
        self.failures.charge(address)
    }

    /// Who calls. Every credential that is there must be good: a bad one is no anonymous one.
    pub fn check(&self, headers: &HeaderMap, peer: &Peer) -> Checked {
        let now = self.clock.now();
        let certificate = match self.certificate(peer, now) {
            Ok(certificate) => certificate,
            Err(refused) => return Checked::Now(Err(refused)),
        };
        let credential = match bearer(headers) {
            Ok(Some(credential)) => credential,
            Ok(None) => return Checked::Now(certificate.map(Arc::new).ok_or(Refused::Missing)),
            Err(refused) => return Checked::Now(Err(refused)),
        };
        if credential.starts_with(token::PREFIX) {
            let principal = self.tokens.load().find(credential);
            let unknown = || Refused::Invalid("no such static token".to_owned());
            return Checked::Now(principal.map(Arc::new).ok_or_else(unknown));
        }
        let token = match Token::parse(credential) {
            Ok(token) => token,
            Err(cause) => return Checked::Now(Err(Refused::Invalid(cause))),
        };
        let Some(issuer) = self.issuers.iter().find(|issuer| issuer.is_of(&token)) else {
            return Checked::Now(Err(Refused::Invalid("iss is no configured issuer".to_owned())));
        };
        match issuer.verify(&token, now) {
            Step::Done(done) => Checked::Now(done.map(Arc::new)),
            // At most one fetch is under way for an issuer, and at most one begins per interval: many calls with
            // unknown key ids wait for the same one, or are refused.
            Step::Refresh(refused) => match (issuer.refresh(), issuer.wait()) {
                (None, _) => Checked::Now(Err(refused)),
                // It may be good: nobody looked.
                (Some(_), None) => {
                    let cause = "as many calls as may wait for the issuer's keys".to_owned();
                    Checked::Now(Err(Refused::Unverifiable(cause)))
                }
                (Some(fetched), Some(place)) => {
                    let issuer = issuer.clone();
                    Checked::Later(Box::pin(async move {
                        let _until_it_is_known = place;
                        fetched.await;
                        match issuer.verify(&token, now) {
                            Step::Done(done) => done.map(Arc::new),
                            Step::Refresh(refused) => Err(refused),
                        }
                    }))
                }
            },
        }
    }

    fn certificate(&self, peer: &Peer, now: SystemTime) -> Result<Option<Principal>, Refused> {
        let certificate = peer.certificate.as_deref().filter(|_| self.certificates);
        // A client need not hear that its connection ends, nor stop calling there.
        if certificate.is_some() && peer.distrusted.is_cancelled() {
            let cause = "the certificate is revoked, or of a CA that is not trusted any more";
            return Err(Refused::Invalid(cause.to_owned()));
        }
        let principal = certificate.map(|certificate| {
            certificate::principal(certificate, &self.config.spiffe_trust_domains, now)
        });
        principal.transpose()
    }

    /// Reads the key files and the static tokens anew, and has the keys behind URLs fetched. What is bad keeps the
    /// old one; all of that is in the error.
    pub fn reload(&self) -> Result<(), String> {
        self.reload_if(&|| true)
    }

    /// The same, but takes what was read only if the files are then `still` the same: a configuration that is cut before
    /// a caller's groups is valid.
    pub fn reload_if(&self, still: &dyn Fn() -> bool) -> Result<(), String> {
        let mut faults = Vec::new();
        for issuer in &self.issuers {
            faults.extend(issuer.reload(still).err());
        }
        match self.reread.as_ref().map(|reread| (reread.0)()) {
            Some(Ok(tokens)) if still() => self.tokens.store(Arc::new(Tokens::new(tokens))),
            Some(Ok(_)) => {}
            Some(Err(fault)) => faults.push(fault),
            None => {}
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }

    /// How long ago the keys of each issuer that has them at a URL were fetched, as far as there are some.
    pub fn key_ages(&self) -> Vec<(String, Duration)> {
        let ages = self.issuers.iter().map(|issuer| (issuer.name().to_owned(), issuer.key_age()));
        ages.filter_map(|(name, age)| Some((name, age?))).collect()
    }

    /// The files whose change calls for [`Self::reload`], besides the configuration's own.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.config.issuers.iter().filter_map(|issuer| match &issuer.keys {
            KeysFrom::File(file) => Some(file.clone()),
            KeysFrom::Url { .. } => None,
        });
        files.collect()
    }
}

/// The credential in the `authorization` header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let invalid = |cause: &str| Err(Refused::Invalid(cause.to_owned()));
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return invalid("there are several authorization headers");
    }
    let Ok(value) = value.to_str() else {
        return invalid("the authorization header is not ASCII");
    };
    let Some((scheme, credential)) = value.split_once(' ') else {
        return invalid("the authorization header has no scheme");
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return invalid("the authorization header's scheme is not Bearer");
    }
    if credential.len() > MAX_CREDENTIAL_BYTES {
        return invalid("the credential is too long");
    }
    // What base64url, dots and our own tokens are made of.
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if credential.is_empty() || !credential.bytes().all(is_fit) {
        return invalid("the credential is not made of base64url and dots");
    }
    Ok(Some(credential))
}

/// Whether a caller or a group can have this name. One that ends a line of a log, that looks like another, or that
/// somebody may take for a pattern is no name.
fn is_name(text: &str, max: usize) -> bool {
    let is_unfit = |character: char| {
        character.is_control()
            || character == '*'
            // Characters that are not seen, and those that turn the direction of what is: Unicode's
            // Default_Ignorable_Code_Point, line and paragraph separators, embeddings, and marks of annotations.
            || matches!(character,
                '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
                | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
    };
    (1..=max).contains(&text.len()) && text.trim() == text && !text.contains(is_unfit)
}

#[cfg(test)]
mod tests;
