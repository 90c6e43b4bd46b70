//! Who calls: what authentication finds out, and what policies, limits, logs and the ledger go by.

use std::{fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use tokio_util::sync::CancellationToken;

/// How a caller proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A client certificate.
    Mtls,
    /// A JWT.
    Jwt,
    /// A static token.
    Token,
    /// Not at all: authentication is off, and the server serves this machine only.
    Local,
}

/// A caller. Two issuers' `alice` are two principals: all of method, issuer and subject tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// How it proved who it is.
    pub method: Method,
    /// Who vouches for it: a JWT's issuer, a SPIFFE trust domain, the issuer that a certificate without a SPIFFE id
    /// names. Empty where only one is possible.
    pub issuer: String,
    /// Its name with the issuer.
    pub subject: String,
    /// The groups that the issuer says it is in.
    pub groups: Vec<String>,
}

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address. None: not a network connection.
    pub address: Option<SocketAddr>,
    /// The certificate it proved to hold.
    pub certificate: Option<Arc<Certificate>>,
    /// Cancelled when that certificate is no longer good though it has not expired: it was revoked, or its CA is gone.
    /// All calls of a connection share it.
    pub distrusted: CancellationToken,
}

/// A client certificate that was verified when the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject, as RFC 4514 writes it.
    pub subject: String,
    /// The CA that issued it, likewise.
    pub issuer: String,
    /// The SPIFFE id in its subject alternative names, if there is one.
    pub spiffe_id: Option<String>,
    /// From when it is good.
    pub not_before: SystemTime,
    /// Until when it is good. A connection can outlast it.
    pub not_after: SystemTime,
}

// === impl Method ===

impl Method {
    /// `mtls`, `jwt`, `token` or `local`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Jwt => "jwt",
            Self::Token => "token",
            Self::Local => "local",
        }
    }
}

// === impl Principal ===

impl Principal {
    /// The caller where authentication is off.
    pub fn local() -> Self {
        Self {
            method: Method::Local,
            issuer: String::new(),
            subject: "local".to_owned(),
            groups: Vec::new(),
        }
    }

    /// `method:issuer:subject`, the same for no other principal: colons, percent signs, white space and control
    /// characters within a part are percent-encoded.
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.method.as_str(), escaped(&self.issuer), escaped(&self.subject))
    }

    /// Reads what [`Self::id`] writes. Without groups, which are not part of it.
    pub fn parse_id(id: &str) -> Option<Self> {
        let mut parts = id.split(':');
        let method = parts.next()?;
        let all = [Method::Mtls, Method::Jwt, Method::Token, Method::Local];
        let method = all.into_iter().find(|known| known.as_str() == method)?;
        let (issuer, subject) = (unescaped(parts.next()?)?, unescaped(parts.next()?)?);
        let whole = parts.next().is_none() && !subject.is_empty();
        whole.then(|| Self { method, issuer, subject, groups: Vec::new() })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

fn escaped(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for character in part.chars() {
        if matches!(character, ':' | '%') || character.is_whitespace() || character.is_control() {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                text.push_str(&format!("%{byte:02X}"));
            }
        } else {
            text.push(character);
        }
    }
    text
}

fn unescaped(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(rest.next()?)? << 4 | digit(rest.next()?)?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(issuer: &str, subject: &str) -> String {
        let principal =
            Principal { issuer: issuer.into(), subject: subject.into(), ..Principal::local() };
        principal.id()
    }

    #[test]
    fn no_two_principals_have_one_id() {
        assert_eq!(id("https://a", "alice"), "local:https%3A//a:alice");
        assert_ne!(id("a:b", "c"), id("a", "b:c"));
        assert_ne!(id("a%3Ab", "c"), id("a:b", "c"));
        assert_eq!(id("", "a\nb c\u{85}"), "local::a%0Ab%20c%C2%85");
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for (issuer, subject) in
            [("https://a:1/%", "system:serviceaccount:x:y"), ("", "a\nb\u{85}")]
        {
            let principal =
                Principal { issuer: issuer.into(), subject: subject.into(), ..Principal::local() };
            assert_eq!(Principal::parse_id(&principal.id()), Some(principal));
        }
        for bad in
            ["", "jwt", "jwt:a", "jwt:a:", "jwt:https://a:b", "x:a:b", "jwt:a:%4", "jwt:a:%ff"]
        {
            assert_eq!(Principal::parse_id(bad), None, "{bad}");
        }
    }
}
