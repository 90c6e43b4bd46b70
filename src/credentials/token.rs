//! Static tokens: 256 random bits, of which the configuration holds only the digest.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    config::StaticToken,
    principal::{Method, Principal},
    random::Random,
};

/// What every token begins with: scanners for leaked secrets find it.
pub const PREFIX: &str = "pct_";

/// How long the rest is: 32 bytes in base64url.
const BODY_BYTES: usize = 43;

/// The tokens of the configuration.
#[derive(Debug)]
pub struct Tokens(Vec<StaticToken>);

impl Tokens {
    /// These.
    pub fn new(tokens: Vec<StaticToken>) -> Self {
        Self(tokens)
    }

    /// Whose token this is. Every digest is compared, whole: how long it takes tells nothing about them.
    pub fn find(&self, token: &str) -> Option<Principal> {
        // Only what `token new` makes. A password of somebody's own could be guessed from its digest.
        if token.strip_prefix(PREFIX)?.len() != BODY_BYTES {
            return None;
        }
        let digest = sha256(token);
        let mut found = None;
        for known in &self.0 {
            if bool::from(digest.ct_eq(&known.sha256)) {
                found = Some(known);
            }
        }
        found.map(|known| Principal {
            method: Method::Token,
            issuer: String::new(),
            subject: known.name.clone(),
            groups: known.groups.clone(),
        })
    }
}

/// A new token and what the configuration gets of it.
pub fn generate(random: &dyn Random, name: &str, groups: Vec<String>) -> (String, StaticToken) {
    let mut bits = [0; 32];
    let (first, second) = bits.split_at_mut(16);
    first.copy_from_slice(&random.bits().to_be_bytes());
    second.copy_from_slice(&random.bits().to_be_bytes());
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits));
    let entry = StaticToken { name: name.to_owned(), sha256: sha256(&token), groups };
    (token, entry)
}

fn sha256(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
#[allow(clippy::string_slice, reason = "tokens are ASCII")]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn a_token_is_known_by_its_digest_alone() {
        let random = SeededRandom::new(7);
        let (first, first_entry) = generate(&random, "first", vec!["team".to_owned()]);
        let (second, second_entry) = generate(&random, "second", Vec::new());
        assert_eq!(first.len(), PREFIX.len() + BODY_BYTES);
        assert_ne!(first, second);
        assert!(!first_entry.to_toml().contains(&first));
        let tokens = Tokens::new(vec![first_entry, second_entry]);
        let found = tokens.find(&first).unwrap();
        assert_eq!(
            (found.id().as_str(), found.groups.as_slice()),
            ("token::first", &["team".to_owned()][..])
        );
        assert_eq!(tokens.find(&second).unwrap().subject, "second");
        let last = if first.ends_with('A') { "B" } else { "A" };
        let changed = format!("{}{last}", &first[..first.len() - 1]);
        for other in
            ["pct_", "", &changed, &first[1..], &format!("{first}A"), &first.to_uppercase()]
        {
            assert_eq!(tokens.find(other), None, "{other}");
        }
    }

    #[test]
    fn a_secret_of_another_form_is_no_token_even_if_its_digest_is_listed() {
        let entry =
            StaticToken { name: "weak".into(), sha256: sha256("pct_hunter2"), groups: vec![] };
        assert_eq!(Tokens::new(vec![entry]).find("pct_hunter2"), None);
    }
}
