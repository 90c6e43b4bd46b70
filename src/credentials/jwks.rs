//! An issuer's keys, from a JWK set (RFC 7517).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;

use crate::config::JwtAlgorithm;

/// The largest set that is read.
pub const MAX_BYTES: usize = 256 << 10;

/// The most keys of a set.
const MAX_KEYS: usize = 100;

/// The most keys of one id that are tried.
const MAX_OF_ONE_ID: usize = 4;

/// The keys of an issuer that verify signatures.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    kind: Kind,
    /// The one algorithm that the key is for, if it says so.
    algorithm: Option<String>,
    key: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// What a set says to a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A key of that id made it.
    Good,
    /// No key of that id made it.
    Bad,
    /// There is no key of that id, for no algorithm.
    UnknownKey,
}

/// The members of a key that we read.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a set. Keys for other uses are left out; one without a key for us is an error.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("is over {MAX_BYTES} bytes"));
        }
        let jwks: Jwks =
            serde_json::from_slice(text).map_err(|error| format!("is no JWK set: {error}"))?;
        if jwks.keys.len() > MAX_KEYS {
            return Err(format!("has over {MAX_KEYS} keys"));
        }
        let mut keys = Vec::new();
        for value in jwks.keys {
            let jwk: Option<Jwk> = serde_json::from_value(value).ok();
            keys.extend(jwk.and_then(Key::read));
        }
        if keys.is_empty() {
            return Err("has no key that could verify a signature".to_owned());
        }
        Ok(Self(keys))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a key of this id, or without an id the one key that fits, made the signature.
    pub fn verify(
        &self,
        id: Option<&str>,
        algorithm: JwtAlgorithm,
        message: &str,
        signature: &str,
    ) -> Verdict {
        let of_id = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let named: Vec<&Key> = self.0.iter().filter(of_id).collect();
        if named.is_empty() {
            return Verdict::UnknownKey;
        }
        let fitting: Vec<&Key> = named.into_iter().filter(|key| key.fits(algorithm)).collect();
        // Which one is meant must be plain: trying all of them is work that whoever sends junk could ask for.
        if id.is_none() && fitting.len() != 1 {
            return Verdict::Bad;
        }
        let made = |key: &&Key| {
            let name = algorithm_of(algorithm);
            crypto::verify(signature, message.as_bytes(), &key.key, name).unwrap_or(false)
        };
        if fitting.iter().take(MAX_OF_ONE_ID).any(made) { Verdict::Good } else { Verdict::Bad }
    }
}

impl Key {
    /// The key, if it verifies signatures of a kind that is taken.
    fn read(jwk: Jwk) -> Option<Self> {
        let is_for_us = jwk.r#use.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !is_for_us {
            return None;
        }
        let size = |part: &Option<String>| {
            part.as_ref().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).map(|part| part.len())
        };
        let (x, y) = (jwk.x.as_deref(), jwk.y.as_deref());
        let (kind, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", None) => {
                // 2048 to 8192 bits, exponents as they are in use.
                let is_fit =
                    (256..=1024).contains(&size(&jwk.n)?) && (1..=4).contains(&size(&jwk.e)?);
                let key = DecodingKey::from_rsa_components(jwk.n.as_deref()?, jwk.e.as_deref()?);
                (Kind::Rsa, key.ok().filter(|_| is_fit)?)
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (kind, bytes) =
                    if curve == "P-256" { (Kind::P256, 32) } else { (Kind::P384, 48) };
                let is_fit = size(&jwk.x)? == bytes && size(&jwk.y)? == bytes;
                let key = DecodingKey::from_ec_components(x?, y?);
                (kind, key.ok().filter(|_| is_fit)?)
            }
            ("OKP", Some("Ed25519")) => {
                let is_fit = size(&jwk.x)? == 32;
                (Kind::Ed25519, DecodingKey::from_ed_components(x?).ok().filter(|_| is_fit)?)
            }
            // `oct` above all: a secret that the issuer shares proves nothing.
            _ => return None,
        };
        Some(Self { id: jwk.kid, kind, algorithm: jwk.alg, key })
    }

    fn fits(&self, algorithm: JwtAlgorithm) -> bool {
        let kind = match algorithm {
            JwtAlgorithm::Rs256 | JwtAlgorithm::Rs384 | JwtAlgorithm::Rs512 => Kind::Rsa,
            JwtAlgorithm::Es256 => Kind::P256,
            JwtAlgorithm::Es384 => Kind::P384,
            JwtAlgorithm::EdDsa => Kind::Ed25519,
        };
        let is_named = |name: &str| {
            // RFC 9864's name of the same.
            name == algorithm.as_str() || (algorithm == JwtAlgorithm::EdDsa && name == "Ed25519")
        };
        self.kind == kind && self.algorithm.as_deref().is_none_or(is_named)
    }
}

fn algorithm_of(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Rs384 => Algorithm::RS384,
        JwtAlgorithm::Rs512 => Algorithm::RS512,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::Es384 => Algorithm::ES384,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}
