//! JWTs: what is read of one, and what must hold of it. Nothing here waits; time and keys are arguments.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::{IssuerConfig, JwtAlgorithm},
    principal::{Method, Principal},
};

use super::{
    MAX_GROUP_BYTES, MAX_GROUPS, MAX_NAME_BYTES, Refused, futures::BoxFuture, is_name,
    jwks::Verdict, source::KeySource,
};

/// A token that was read and not verified.
#[derive(Debug)]
pub struct Token {
    header: Header,
    claims: Map<String, Value>,
    /// What is signed.
    message: String,
    signature: String,
}

/// The members of a header that we read. What it says of keys of its own (`jwk`, `jku`, `x5c`, `x5u`) is not read.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Extensions that must be understood: none is.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
    /// An unencoded payload (RFC 7797).
    #[serde(default, deserialize_with = "is_there")]
    b64: bool,
    /// Compression and encryption.
    #[serde(default, deserialize_with = "is_there")]
    zip: bool,
    #[serde(default, deserialize_with = "is_there")]
    enc: bool,
}

/// Whatever is there is there: null, too, which an Option would not tell from nothing.
fn is_there<'de, D: Deserializer<'de>>(member: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(member).map(|_| true)
}

/// An issuer and its keys.
#[derive(Clone, Debug)]
pub struct Issuer {
    config: Arc<IssuerConfig>,
    keys: Arc<KeySource>,
    waiting: Arc<Semaphore>,
}

/// How many calls may wait for one issuer's keys. Each holds a place among the calls in flight, and anybody can name a
/// key that is not there: they are to be few beside `max_in_flight`.
pub const MAX_WAITING: usize = 32;

/// How far verifying came.
#[derive(Debug)]
pub enum Step {
    /// To its end.
    Done(Result<Principal, Refused>),
    /// To keys that are not there. Fetching them may help; if it does not this is the answer.
    Refresh(Refused),
}

// === impl Token ===

impl Token {
    /// Reads a token. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.splitn(4, '.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            return Err("the credential is neither a static token nor a signed JWT".to_owned());
        };
        if signature.is_empty() {
            return Err("the JWT has no signature".to_owned());
        }
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| "a part of the JWT is not base64url".to_owned())
        };
        let header: Header = serde_json::from_slice(&decode(header)?)
            .map_err(|_| "the JWT's header is no JSON object as it should be".to_owned())?;
        let claims = serde_json::from_slice(&decode(payload)?)
            .map_err(|_| "the JWT's claims are no JSON object".to_owned())?;
        if header.crit || header.b64 || header.zip || header.enc {
            return Err("the JWT's header asks for an extension".to_owned());
        }
        // Logout tokens, security events and other JWTs of an issuer are no credentials.
        let is_credential = |kind: &str| {
            let kind = kind.to_ascii_lowercase();
            matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
        };
        if !header.typ.as_deref().is_none_or(is_credential) {
            return Err("the JWT's typ is not that of a credential".to_owned());
        }
        let message = text.rsplit_once('.').map(|(message, _)| message.to_owned());
        Ok(Self {
            header,
            claims,
            message: message.unwrap_or_default(),
            signature: (*signature).to_owned(),
        })
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }
}

// === impl Issuer ===

impl Issuer {
    /// With its keys.
    pub fn new(config: IssuerConfig, keys: Arc<KeySource>) -> Self {
        Self { config: Arc::new(config), keys, waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.config.issuer
    }

    /// How old its keys are. None: they are in a file.
    pub fn key_age(&self) -> Option<Duration> {
        self.keys.age()
    }

    /// Whether the token says that it is this issuer's.
    pub fn is_of(&self, token: &Token) -> bool {
        token.text("iss") == Some(self.config.issuer.as_str())
    }

    /// Fetches the keys, if that can help and is due. The future ends when they are there or cannot be had.
    pub fn refresh(&self) -> Option<BoxFuture<()>> {
        self.keys.refresh()
    }

    /// A place among those who wait for the keys, kept while it waits. None: there are as many as may.
    pub fn wait(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }

    /// Reads a key file anew, if it is then `still` the same; has a URL's keys fetched.
    pub fn reload(&self, still: &dyn Fn() -> bool) -> Result<(), String> {
        self.keys.reload(still)
    }

    /// Who the token is for. Expired is said only of a token that was good.
    pub fn verify(&self, token: &Token, now: SystemTime) -> Step {
        let of_claims = self.algorithm(token).and_then(|algorithm| {
            self.audience(token)?;
            Ok((algorithm, self.principal(token)?))
        });
        let (algorithm, principal) = match of_claims {
            Ok(of_claims) => of_claims,
            Err(cause) => return Step::Done(Err(Refused::Invalid(cause))),
        };
        let times = self.times(token, now);
        let keys = match self.keys.current() {
            Ok(keys) => keys,
            Err(cause) => return Step::Refresh(Refused::Unverifiable(cause)),
        };
        let kid = token.header.kid.as_deref();
        match keys.verify(kid, algorithm, &token.message, &token.signature) {
            Verdict::Good => Step::Done(times.map(|()| principal)),
            Verdict::Bad => {
                let cause = "no key of that kid and type made the signature".to_owned();
                Step::Done(Err(Refused::Invalid(cause)))
            }
            Verdict::UnknownKey => {
                let kid: String = kid.unwrap_or_default().chars().take(64).collect();
                let cause = format!("the issuer has no key with the kid {kid:?}");
                // Nothing is fetched for a token that would not do anyway.
                if times.is_err() {
                    Step::Done(Err(Refused::Invalid(cause)))
                } else if self.keys.is_behind() {
                    // It may be a new one.
                    Step::Refresh(Refused::Unverifiable(cause))
                } else {
                    Step::Refresh(Refused::Invalid(cause))
                }
            }
        }
    }

    fn algorithm(&self, token: &Token) -> Result<JwtAlgorithm, String> {
        let named = JwtAlgorithm::parse(&token.header.alg);
        let allowed = named.filter(|algorithm| self.config.algorithms.contains(algorithm));
        allowed.ok_or_else(|| "the JWT's alg is none of the issuer's".to_owned())
    }

    fn audience(&self, token: &Token) -> Result<(), String> {
        let is_ours = |text: &str| self.config.audiences.iter().any(|audience| audience == text);
        let found = match token.claims.get("aud") {
            Some(Value::String(text)) => is_ours(text),
            Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).any(is_ours),
            _ => false,
        };
        if found { Ok(()) } else { Err("aud names none of the audiences".to_owned()) }
    }

    /// RFC 7519: good before `exp`, and from `nbf` on.
    fn times(&self, token: &Token, now: SystemTime) -> Result<(), Refused> {
        let invalid = |cause: &str| Err(Refused::Invalid(cause.to_owned()));
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let skew = self.config.clock_skew.as_secs_f64();
        match token.claims.get("nbf").map(Value::as_f64) {
            None => {}
            Some(None) => return invalid("nbf is not a number"),
            Some(Some(from)) if now + skew < from => return invalid("the JWT is not valid yet"),
            Some(Some(_)) => {}
        }
        match token.claims.get("exp").and_then(Value::as_f64) {
            None => invalid("exp is not there or not a number"),
            Some(until) if now - skew >= until => {
                Err(Refused::Expired("the JWT has expired".to_owned()))
            }
            Some(_) => Ok(()),
        }
    }

    fn principal(&self, token: &Token) -> Result<Principal, String> {
        let subject = token.text("sub").filter(|subject| is_name(subject, MAX_NAME_BYTES));
        let subject = subject.ok_or("sub is not there, or a name that is not taken")?;
        let mut groups = Vec::new();
        for path in &self.config.groups_claims {
            let names: Vec<&str> = match find(&token.claims, path) {
                None => Vec::new(),
                Some(Value::String(name)) => vec![name],
                Some(Value::Array(names)) => {
                    let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
                    names.ok_or_else(|| format!("{path} holds something that is not a text"))?
                }
                Some(_) => return Err(format!("{path} is neither a text nor a list")),
            };
            for name in names {
                let group = format!("{}{name}", self.config.groups_prefix);
                // Leaving one out could lift a policy that forbids it something.
                if name.is_empty() || !is_name(&group, MAX_GROUP_BYTES) {
                    return Err(format!("{path} holds a group by a name that is not taken"));
                }
                if !groups.contains(&group) {
                    groups.push(group);
                }
                if groups.len() > MAX_GROUPS {
                    return Err(format!("it is in more than {MAX_GROUPS} groups"));
                }
            }
        }
        let (issuer, subject) = (self.config.issuer.clone(), subject.to_owned());
        Ok(Principal { method: Method::Jwt, issuer, subject, groups })
    }
}

/// The claim at a path. Names of claims may hold dots, too (`kubernetes.io`): the longest name that is there counts.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.').find_map(|(at, _)| {
        let inner = claims.get(path.get(..at)?)?.as_object()?;
        find(inner, path.get(at + 1..)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_paths_with_dots_in_names() {
        let claims: Map<String, Value> = serde_json::from_str(
            r#"{"a": {"b": {"c": 1}}, "kubernetes.io": {"namespace": "ns", "x.y": {"z": 2}}, "a.b": 3,
                "https://example.org/groups": ["g"]}"#,
        )
        .unwrap();
        let cases = [
            ("a.b.c", Some("1")),
            ("a.b", Some("3")),
            ("kubernetes.io.namespace", Some("\"ns\"")),
            ("kubernetes.io.x.y.z", Some("2")),
            ("https://example.org/groups", Some("[\"g\"]")),
            ("a.c", None),
            ("", None),
            (".", None),
            ("a.", None),
        ];
        for (path, found) in cases {
            assert_eq!(find(&claims, path).map(Value::to_string).as_deref(), found, "{path}");
        }
    }
}
