//! What a client certificate says of its holder.

use std::fmt::Write as _;

use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::ToDer as _,
    extensions::GeneralName,
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

use super::time_of;
use crate::principal::Certificate;

/// The tag of a URI among subject alternative names.
const URI_TAG: u32 = 6;

/// SPIFFE's bound.
const MAX_SPIFFE_BYTES: usize = 2048;

const SPIFFE: &str = "spiffe://";

/// The attributes that RFC 4514 gives names to.
const NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Reads a certificate. An error if it cannot be read, or does not say clearly who its holder is.
pub fn of(der: &[u8]) -> Result<Certificate, String> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let usage = certificate
        .key_usage()
        .map_err(|error| format!("its key usage cannot be read: {error}"))?;
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        // RFC 5280: then what is signed with it, as a handshake is, counts for nothing.
        return Err("its key is not for signatures".to_owned());
    }
    let validity = certificate.validity();
    Ok(Certificate {
        subject: name(certificate.subject())?,
        issuer: name(certificate.issuer())?,
        spiffe_id: spiffe_id(&certificate)?,
        not_before: time_of(validity.not_before.timestamp()),
        not_after: time_of(validity.not_after.timestamp()),
    })
}

/// The SPIFFE id, if there is one. SPIFFE says that exactly one URI makes it: with more nobody could tell which.
fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<Option<String>, String> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| format!("its alternative names cannot be read: {error}"))?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => {
                return Err("a URI among its alternative names is not ASCII".to_owned());
            }
            _ => {}
        }
    }
    let is_spiffe = |uri: &&str| {
        uri.get(..SPIFFE.len()).is_some_and(|start| start.eq_ignore_ascii_case(SPIFFE))
    };
    match uris.as_slice() {
        [uri] if is_spiffe(uri) && is_spiffe_id(uri) => Ok(Some((*uri).to_owned())),
        [uri] if is_spiffe(uri) => Err("its SPIFFE id is malformed".to_owned()),
        uris if uris.iter().any(is_spiffe) => {
            Err("it has a SPIFFE id beside another URI".to_owned())
        }
        _ => Ok(None),
    }
}

/// Whether a URI is what SPIFFE-ID.md section 2 allows for a workload: a trust domain and a path, both of few letters.
fn is_spiffe_id(uri: &str) -> bool {
    let Some((domain, path)) = uri.strip_prefix(SPIFFE).and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let domain_fits = |byte: u8| fits(byte) && !byte.is_ascii_uppercase();
    let segment_fits =
        |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(fits);
    uri.len() <= MAX_SPIFFE_BYTES
        && !domain.is_empty()
        && domain.len() <= 255
        && domain.bytes().all(domain_fits)
        && path.split('/').all(segment_fits)
}

/// A name as RFC 4514 writes it: the last part first. No two names are written the same, and there is nothing in it
/// that acts on a log or a terminal.
fn name(name: &X509Name<'_>) -> Result<String, String> {
    let parts: Result<Vec<String>, String> = name
        .iter_rdn()
        .map(|part| {
            let attributes: Result<Vec<String>, String> = part.iter().map(attribute).collect();
            attributes.map(|attributes| attributes.join("+"))
        })
        .collect();
    let mut parts = parts?;
    parts.reverse();
    Ok(parts.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Result<String, String> {
    let id = attribute.attr_type().to_id_string();
    match (NAMES.iter().find(|(known, _)| *known == id), attribute.as_str()) {
        (Some((_, name)), Ok(value)) => Ok(format!("{name}={}", escaped(value))),
        // What has no name, or is no text, is written as the bytes that it is.
        (name, _) => {
            let der =
                attribute.attr_value().to_der_vec().map_err(|_| "a name in it is malformed")?;
            let mut text = format!("{}=#", name.map_or(id.as_str(), |(_, name)| name));
            for byte in der {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
            }
            Ok(text)
        }
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests;
