//! Who asks, as far as the sandbox needs to know: the account and the Region, read from the signature. The signature
//! itself is not checked, so any secret will do.
//!
//! The account is in the access key's id, as AWS writes it there (the first 40 bits after the prefix). Session keys of
//! [`issue`] are made in that form, so that nothing has to be remembered of a session. A key that holds no
//! account, such as `test`, stands for the default account.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::form::Fields;
use crate::{
    backend::Refusal,
    random::Random,
    rule::{AccountId, Region},
};

/// The id that AWS's documentation uses in examples. It holds an account that nobody means.
const EXAMPLE_KEY: &str = "AKIAIOSFODNN7EXAMPLE";

/// Base 32 as RFC 4648 has it.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The longest token of a session. AWS bounds what a session carries, too.
pub const MAX_TOKEN: usize = 8192;

/// What a session's token begins with once it is decoded.
const TOKEN_MARK: &str = "sandbox-session ";

/// Who asks, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The access key's id.
    pub key_id: Option<String>,
    /// The account that it holds. None: the default account.
    pub account: Option<AccountId>,
    /// The Region that the signature is for. None: the default Region.
    pub region: Option<Region>,
    /// The session, if it is one that [`issue`] made.
    pub session: Option<Session>,
}

/// What AssumeRole was told of a session. It travels in the session's token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The role's ARN.
    pub role: String,
    /// RoleSessionName.
    pub name: String,
    /// SourceIdentity.
    pub source_identity: Option<String>,
    /// Tags: keys and values.
    pub tags: Vec<(String, String)>,
    /// TransitiveTagKeys: of tags that sessions have which are assumed from this one.
    pub transitive: Vec<String>,
}

/// Temporary credentials.
#[derive(Debug)]
pub struct Credentials {
    /// AccessKeyId.
    pub key_id: String,
    /// SecretAccessKey.
    pub secret: String,
    /// SessionToken.
    pub token: String,
}

impl Caller {
    /// Reads the Authorization header, or the parameters of a presigned request, and takes them out.
    pub fn read(headers: &HeaderMap, fields: &mut Fields) -> Result<Self, Refusal> {
        for name in [
            "X-Amz-Algorithm",
            "X-Amz-Date",
            "X-Amz-Expires",
            "X-Amz-SignedHeaders",
            "X-Amz-Signature",
        ] {
            fields.ignore(name);
        }
        let header =
            |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let presigned = fields.text("X-Amz-Credential");
        let token = fields.text("X-Amz-Security-Token");
        let scope = match header("authorization") {
            Some(text) => Some(credential(text).ok_or_else(incomplete)?.to_owned()),
            None => presigned,
        };
        let Some(scope) = scope else { return Ok(Self::default()) };
        // key id / date / Region / service / aws4_request
        let mut parts = scope.split('/');
        let (key_id, region) = (parts.next(), parts.nth(1));
        let (Some(key_id), Some(region)) = (key_id, region.and_then(Region::parse)) else {
            return Err(incomplete());
        };
        let token = header("x-amz-security-token").or(token.as_deref());
        Ok(Self {
            account: account_of(key_id),
            key_id: Some(key_id.chars().take(128).collect()),
            region: Some(region),
            session: token.and_then(session_of),
        })
    }
}

/// The credential of a header such as `AWS4-HMAC-SHA256 Credential=.../..., SignedHeaders=..., Signature=...`.
fn credential(header: &str) -> Option<&str> {
    let (_, members) = header.split_once(char::is_whitespace)?;
    members.split(',').find_map(|member| member.trim().strip_prefix("Credential="))
}

fn incomplete() -> Refusal {
    Refusal::new(
        "IncompleteSignature",
        "Authorization header requires 'Credential' parameter: KEY/DATE/REGION/SERVICE/aws4_request",
    )
}

/// The account that an access key's id holds.
fn account_of(key_id: &str) -> Option<AccountId> {
    let digits = key_id.strip_prefix("AKIA").or_else(|| key_id.strip_prefix("ASIA"))?;
    if key_id == EXAMPLE_KEY || digits.len() != 16 {
        return None;
    }
    let mut bits: u128 = 0;
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == digit)?;
        bits = bits << 5 | value as u128;
    }
    // One bit, then the account in 40.
    AccountId::parse(&format!("{:012}", bits >> 39 & 0xff_ffff_ffff))
}

/// Credentials for a session of a role in an account. A token over [`MAX_TOKEN`] is not taken later.
pub fn issue(account: &AccountId, session: &Session, random: &dyn Random) -> Credentials {
    let mut secret = random.bits().to_be_bytes().to_vec();
    secret.extend(random.bits().to_be_bytes());
    // 30 bytes are the 40 characters that AWS's secrets have.
    secret.truncate(30);
    Credentials {
        key_id: unique_id("ASIA", account, random.bits()),
        secret: BASE64_STANDARD.encode(secret),
        token: BASE64_STANDARD.encode(format!("{TOKEN_MARK}{}", text_of(session))),
    }
}

/// The id of a user (AIDA) or role (AROA) in an account. One name always has one id.
pub fn id_of(kind: &str, account: &AccountId, name: &str) -> String {
    // FNV-1a: the same in every version, unlike the standard library's hash.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    unique_id(kind, account, hash.into())
}

/// An id as AWS writes it: four letters for the kind, then one bit, the account and 39 more bits in base 32.
fn unique_id(kind: &str, account: &AccountId, bits: u128) -> String {
    let account: u128 = account.as_str().parse().unwrap_or_default();
    let bits = 1 << 79 | account << 39 | bits & 0x7f_ffff_ffff;
    let digits = (0..16).rev().filter_map(|place| {
        let value = usize::try_from(bits >> (place * 5) & 31).ok()?;
        ALPHABET.get(value).map(|letter| char::from(*letter))
    });
    kind.chars().chain(digits).collect()
}

fn text_of(session: &Session) -> String {
    // Nothing but texts is in it, so that it can always be written.
    serde_json::to_string(session).unwrap_or_default()
}

fn session_of(token: &str) -> Option<Session> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(token).ok()?).ok()?;
    serde_json::from_str(text.strip_prefix(TOKEN_MARK)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    fn read(authorization: Option<&str>, form: &str) -> Result<Caller, Refusal> {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            headers.insert("authorization", text.parse().unwrap());
        }
        let mut fields = Fields::parse(form.as_bytes()).unwrap();
        let caller = Caller::read(&headers, &mut fields)?;
        fields.finish()?;
        Ok(caller)
    }

    fn signed(key_id: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={key_id}/20260101/eu-west-1/ec2/aws4_request, \
             SignedHeaders=host, Signature=0"
        )
    }

    #[test]
    fn the_key_tells_the_account_as_aws_writes_it() {
        // Published examples of the encoding.
        for (key_id, account) in [
            ("ASIAQNZGKIQY56JQ7WML", Some("029608264753")),
            ("AKIAIOSFODNN7EXAMPLE", None),
            ("test", None),
            ("AKIA", None),
            ("AKIAIOSFODNN7EXAMPL1", None),
            ("ASIA7777777777777777", None),
        ] {
            let caller = read(Some(&signed(key_id)), "").unwrap();
            assert_eq!(caller.account.as_ref().map(AccountId::as_str), account, "{key_id}");
            assert_eq!(caller.region, Some(Region::new("eu-west-1")));
        }
    }

    #[test]
    fn a_session_s_key_and_token_tell_its_account_role_and_name() {
        for account in ["000000000000", "123456789012", "999999999999"] {
            let account = AccountId::new(account);
            let random = SeededRandom::new(7);
            let session = Session {
                role: "arn:aws:iam::1:role/a".to_owned(),
                name: "me".to_owned(),
                source_identity: Some("she".to_owned()),
                tags: vec![("k 1".to_owned(), "v\u{e9}".to_owned())],
                transitive: vec!["k 1".to_owned()],
            };
            let issued = issue(&account, &session, &random);
            assert_eq!((issued.key_id.len(), issued.secret.len()), (20, 40));
            assert_eq!(account_of(&issued.key_id), Some(account));
            assert_eq!(session_of(&issued.token), Some(session));
        }
        assert_eq!(session_of("AAAA"), None);
        assert_eq!(session_of(&"A".repeat(MAX_TOKEN + 4)), None);
    }

    #[test]
    fn a_name_always_has_one_id_and_others_have_others() {
        let account = AccountId::new("123456789012");
        let id = id_of("AROA", &account, "arn:aws:iam::123456789012:role/a");
        assert_eq!(id, id_of("AROA", &account, "arn:aws:iam::123456789012:role/a"));
        assert_ne!(id, id_of("AROA", &account, "arn:aws:iam::123456789012:role/b"));
        assert_ne!(id, id_of("AROA", &AccountId::new("210987654321"), "role/a"));
        assert!(id.len() == 20 && id.starts_with("AROA"), "{id}");
        assert_eq!(account_of(&id.replacen("AROA", "AKIA", 1)), Some(account));
    }

    #[test]
    fn presigned_requests_are_read_like_signed_ones() {
        let form = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=test%2F20260101%2Feu-west-1%2F\
                    ec2%2Faws4_request&X-Amz-Date=x&X-Amz-Expires=9&X-Amz-SignedHeaders=host&\
                    X-Amz-Signature=0";
        assert_eq!(read(None, form).unwrap(), read(Some(&signed("test")), "").unwrap());
        assert_eq!(read(None, "").unwrap(), Caller::default());
    }

    #[test]
    fn half_a_signature_is_incomplete() {
        for text in
            ["", "Basic", "Basic dTpw", "AWS4-HMAC-SHA256 Credential=test", "X Credential=a/b"]
        {
            assert_eq!(read(Some(text), "").unwrap_err().code, "IncompleteSignature", "{text}");
        }
        assert_eq!(
            read(None, "X-Amz-Credential=a%2Fb%2Fnot_a_region").unwrap_err().code,
            "IncompleteSignature"
        );
    }
}
