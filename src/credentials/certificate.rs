//! A caller's name from its client certificate. TLS verified the chain when the connection was made; what time
//! changes is checked for every call.

use std::time::SystemTime;

use crate::principal::{Certificate, Method, Principal};

use super::{MAX_NAME_BYTES, Refused, is_name};

/// The principal: the SPIFFE id if there is one, else the subject with the CA that gave it. Two CAs' `CN=alice` are two
/// principals.
pub fn principal(
    certificate: &Certificate,
    trust_domains: &[String],
    now: SystemTime,
) -> Result<Principal, Refused> {
    let invalid = |cause: &str| Err(Refused::Invalid(cause.to_owned()));
    let (issuer, subject) = match &certificate.spiffe_id {
        None => {
            let is_fit = |name| is_name(name, MAX_NAME_BYTES) && !has_control(name);
            if !is_fit(&certificate.issuer) || !is_fit(&certificate.subject) {
                return invalid("the certificate names nobody, or by a name that is not taken");
            }
            (certificate.issuer.clone(), &certificate.subject)
        }
        Some(id) => {
            let Some(domain) = trust_domain(id) else {
                return invalid("the certificate's SPIFFE id is malformed");
            };
            // Its subject says nothing then: SPIRE gives all workloads one and the same.
            if !trust_domains.iter().any(|trusted| trusted == domain) {
                return invalid(
                    "the certificate's SPIFFE id is of a trust domain that is not configured",
                );
            }
            (domain.to_owned(), id)
        }
    };
    if !is_name(subject, MAX_NAME_BYTES) {
        return invalid("the certificate's SPIFFE id is too long");
    }
    if now < certificate.not_before {
        return invalid("the certificate is not valid yet");
    }
    if now > certificate.not_after {
        return Err(Refused::Expired("the certificate has expired".to_owned()));
    }
    Ok(Principal { method: Method::Mtls, issuer, subject: subject.clone(), groups: Vec::new() })
}

/// Whether a name that RFC 4514 writes had a control character in it: that is a backslash and two hexadecimal digits,
/// and nothing else is.
fn has_control(name: &str) -> bool {
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        if character == '\\' && characters.next().is_some_and(|next| next.is_ascii_hexdigit()) {
            return true;
        }
    }
    false
}

/// The trust domain of a well-formed SPIFFE id of a workload.
fn trust_domain(id: &str) -> Option<&str> {
    let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let is_domain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    let is_segment = |segment: &str| {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        !matches!(segment, "" | "." | "..") && segment.bytes().all(is_fit)
    };
    let is_fit = (1..=255).contains(&domain.len())
        && domain.bytes().all(is_domain)
        && path.split('/').all(is_segment);
    is_fit.then_some(domain)
}
