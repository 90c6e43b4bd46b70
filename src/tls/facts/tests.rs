#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is a failed test")]

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType,
    date_time_ymd,
};

use super::*;

fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Result<Certificate, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    of(params.self_signed(&key).unwrap().der())
}

fn subject_of(parts: &[(DnType, DnValue)]) -> String {
    let fill = |params: &mut CertificateParams| {
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
    };
    certificate(fill).unwrap().subject
}

fn utf8(text: &str) -> DnValue {
    DnValue::Utf8String(text.to_owned())
}

#[test]
fn a_subject_is_written_as_rfc_4514_says() {
    let all = [
        (DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap())),
        (DnType::OrganizationName, utf8("Example, Inc.")),
        (DnType::OrganizationalUnitName, utf8("R+D")),
        (DnType::CommonName, utf8("alice")),
    ];
    assert_eq!(subject_of(&all), r"CN=alice,OU=R\+D,O=Example\, Inc.,C=DE");
    for (value, expected) in [
        ("", "CN="),
        (" a ", r"CN=\ a\ "),
        (" ", r"CN=\ "),
        ("#a#", r"CN=\#a#"),
        (r#"a"b\c<d>e;f=g"#, r#"CN=a\"b\\c\<d\>e\;f=g"#),
        ("a\nb\0c\u{85}\u{2028}", r"CN=a\0Ab\00c\C2\85\E2\80\A8"),
        ("*.ä", "CN=*.ä"),
        ("admin,CN=root", r"CN=admin\,CN=root"),
    ] {
        assert_eq!(subject_of(&[(DnType::CommonName, utf8(value))]), expected);
    }
    // No name in RFC 4514; and no text that everyone reads alike.
    let odd = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
    assert_eq!(subject_of(&[(odd, utf8("a@b"))]), "1.2.840.113549.1.9.1=#0c03614062");
    let bmp = DnValue::BmpString(rcgen::string::BmpString::try_from("ab").unwrap());
    assert_eq!(subject_of(&[(DnType::CommonName, bmp)]), "CN=#1e0400610062");
    assert_eq!(subject_of(&[]), "");
}

fn spiffe(uris: &[&str]) -> Result<Option<String>, String> {
    let names: Vec<_> = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    certificate(|params| params.subject_alt_names = names).map(|facts| facts.spiffe_id)
}

#[test]
fn a_spiffe_id_is_the_only_uri_and_well_formed() {
    let good = "spiffe://example.org/ns/prod/sa/web_1.0-A";
    assert_eq!(spiffe(&[good]), Ok(Some(good.to_owned())));
    assert_eq!(spiffe(&[]), Ok(None));
    assert_eq!(spiffe(&["https://example.org"]), Ok(None));
    assert_eq!(spiffe(&["https://example.org", "urn:a"]), Ok(None));
    for bad in [
        &[good, good][..],
        &[good, "https://example.org"],
        &["urn:a", "SPIFFE://example.org/b"],
        &["spiffe://example.org"],
        &["spiffe://example.org/"],
        &["spiffe://example.org/a/"],
        &["spiffe://example.org//a"],
        &["spiffe://example.org/./a"],
        &["spiffe://example.org/a/.."],
        &["spiffe:///a"],
        &["spiffe://Example.org/a"],
        &["SPIFFE://example.org/a"],
        &["spiffe://me@example.org/a"],
        &["spiffe://example.org:8443/a"],
        &["spiffe://example.org/a?b"],
        &["spiffe://example.org/a#b"],
        &["spiffe://example.org/%61"],
        &["spiffe://example.org/a\nb"],
        &["spiffe://example.org/*"],
        &[&format!("spiffe://example.org/{}", "a".repeat(2048))],
        &[&format!("spiffe://{}/a", "a".repeat(256))],
    ] {
        assert!(spiffe(bad).is_err(), "{bad:?}");
    }
}

/// Alternative names as bytes: what rcgen would not write.
#[test]
fn malformed_alternative_names_refuse_the_certificate() {
    const SAN: &[u64] = &[2, 5, 29, 17];
    let with = |contents: &[&[u8]]| {
        let extensions =
            contents.iter().map(|content| CustomExtension::from_oid_content(SAN, content.to_vec()));
        let extensions: Vec<_> = extensions.collect();
        certificate(|params| params.custom_extensions = extensions)
    };
    let good = b"\x30\x0c\x86\x0aspiffe://a";
    assert!(with(&[good]).is_err(), "no path");
    let good = b"\x30\x0e\x86\x0cspiffe://a/b";
    assert_eq!(with(&[good]).unwrap().spiffe_id.unwrap(), "spiffe://a/b");
    assert!(with(&[good, good]).is_err(), "twice");
    assert!(with(&[b"\x30\x0e\x86\x0cspiffe://\xff/b"]).is_err(), "not ASCII");
    assert!(with(&[b"\x30\x0e\x86\x7fspiffe://a/b"]).is_err(), "cut short");
    assert!(with(&[b"junk"]).is_err());
}

#[test]
fn validity_is_read_and_junk_is_refused() {
    let facts = certificate(|params| {
        params.not_before = date_time_ymd(1970, 1, 2);
        params.not_after = date_time_ymd(2070, 1, 1);
    });
    let facts = facts.unwrap();
    assert_eq!(facts.not_before, time_of(86_400));
    assert_eq!(facts.not_after, time_of(3_155_760_000));
    for junk in [&b""[..], b"junk", &[0x30, 0x82, 0xff, 0xff], &[0x30; 300]] {
        assert!(of(junk).is_err());
    }
}
