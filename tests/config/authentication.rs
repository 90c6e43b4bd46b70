//! `[[jwt_issuers]]`, `[[static_tokens]]` and the settings around them.

use std::time::Duration;

use portcullis::config::{JwtAlgorithm, KeysFrom};

use crate::{MTLS, complaint, of_file, sources};

const ISSUER: &str = r#"
[[jwt_issuers]]
issuer = "https://login.example.com"
audiences = ["portcullis"]
jwks_url = "https://login.example.com/keys"
"#;

const TOKEN: &str = r#"
[[static_tokens]]
name = "deployer"
sha256 = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
"#;

#[test]
fn what_is_given_is_read_and_the_rest_has_defaults() {
    let lists =
        "spiffe_trust_domains = [\"example.org\"]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n";
    assert!(complaint(lists).contains("spiffe_trust_domains: does nothing unless clients"));
    let config = of_file(&format!("{MTLS}{lists}{ISSUER}{TOKEN}"));
    let authentication = &config.authentication;
    assert!(authentication.has_credentials());
    let issuer = &authentication.issuers[0];
    assert_eq!(issuer.issuer, "https://login.example.com");
    assert_eq!(issuer.algorithms, JwtAlgorithm::ALL);
    assert_eq!(issuer.clock_skew, Duration::from_secs(60));
    assert!(matches!(&issuer.keys, KeysFrom::Url { ca_file: None, token_file: None, .. }));
    let token = &authentication.tokens[0];
    assert_eq!((token.name.as_str(), &token.sha256[..3]), ("deployer", &[0, 0x11, 0x22][..]));
    assert_eq!(authentication.trusted_proxies.len(), 2);
    assert_eq!(authentication.spiffe_trust_domains, ["example.org"]);
    assert!(authentication.open_health && !authentication.open_reflection);
    // What is shown parses, and is the same.
    let again = of_file(&config.show());
    assert_eq!(format!("{:?}", again.authentication), format!("{authentication:?}"));
    assert!(!of_file("").authentication.has_credentials());
}

#[test]
fn files_start_from_the_configurations_folder() {
    let text = ISSUER
        .replace("jwks_url = \"https://login.example.com/keys\"", "jwks_file = \"keys.json\"");
    assert!(
        complaint(&text).contains(":5: jwt_issuers[0].jwks_file: there is no file etc/keys.json")
    );
    let own = concat!("jwks_file = \"", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml\"");
    let config = of_file(&ISSUER.replace("jwks_url = \"https://login.example.com/keys\"", own));
    assert!(matches!(&config.authentication.issuers[0].keys, KeysFrom::File(_)));
}

#[test]
fn lists_come_from_the_environment_and_flags_too() {
    let layers = sources("", &[("PORTCULLIS_TRUSTED_PROXIES", "10.0.0.0/8,192.0.2.1")], &[]);
    let config = portcullis::config::Config::parse(&layers).unwrap();
    assert_eq!(config.authentication.trusted_proxies.len(), 2);
    let layers = sources("", &[("PORTCULLIS_JWT_ISSUERS", "x")], &[]);
    let told = crate::complaints(&layers);
    assert!(told[0].contains("only the configuration file can hold [[jwt_issuers]]"), "{told:?}");
}

#[test]
fn every_fault_is_named() {
    let url = "jwks_url = \"https://login.example.com/keys\"";
    for (from, to, expected) in [
        ("issuer = \"https://login.example.com\"\n", "", ":2: jwt_issuers[0]: issuer is missing"),
        ("\"https://login.example.com\"\n", "\"\"\n", "[0].issuer: must not be empty"),
        (
            "\"https://login.example.com\"\n",
            "5\n",
            "[0].issuer: takes a string, not a TOML integer",
        ),
        ("[\"portcullis\"]", "[]", "[0].audiences: takes at least one"),
        (
            "[\"portcullis\"]",
            "[\"\"]",
            "[0].audiences: takes a list of strings, none of them empty",
        ),
        ("[\"portcullis\"]", "\"portcullis\"", "[0].audiences: takes a list of strings"),
        (url, "", ":2: jwt_issuers[0]: jwks_url or jwks_file is missing"),
        (url, "jwks_url = \"http://login.example.com/\"", "[0].jwks_url: takes an https URL"),
        (
            url,
            "jwks_url = \"https://user:pass@login.example.com/\"",
            "[0].jwks_url: takes an https URL",
        ),
        (url, "jwks_url = \"file:///etc/passwd\"", "[0].jwks_url: takes an https URL"),
        (url, "jwks_url = \"/keys\"", "[0].jwks_url: takes an https URL"),
        (url, &format!("{url}\njwks_file = \"x\""), "[0].jwks_url: goes without jwks_file"),
        (url, &format!("{url}\nalgorithms = [\"HS256\"]"), "[0].algorithms: takes some of RS256"),
        (url, &format!("{url}\nalgorithms = [\"none\"]"), "[0].algorithms: takes some of RS256"),
        (url, &format!("{url}\nalgorithms = []"), "[0].algorithms: takes some of RS256"),
        (
            url,
            &format!("{url}\nclock_skew_s = 301"),
            "[0].clock_skew_s: takes a whole number, 0 to 300",
        ),
        (
            url,
            &format!("{url}\nclock_skew_s = -1"),
            "[0].clock_skew_s: takes a whole number, 0 to 300",
        ),
        (
            url,
            &format!("{url}\naudience = \"x\""),
            "there is no such member; did you mean audiences?",
        ),
        (url, &format!("{url}\nlog_level = \"info\""), "is a setting: it goes above the first"),
        (
            url,
            &format!("{url}\n{ISSUER}"),
            "jwt_issuers[1].issuer: \"https://login.example.com\" is listed twice",
        ),
    ] {
        let told = complaint(&ISSUER.replacen(from, to, 1));
        assert!(told.contains(expected), "{expected}\nin {told}");
    }
    for (from, to, expected) in [
        ("name = \"deployer\"\n", "", "static_tokens[0]: name is missing"),
        ("00112233", "0011223", "[0].sha256: takes 64 hexadecimal digits"),
        ("00112233", "0011223x", "[0].sha256: takes 64 hexadecimal digits"),
        ("00112233", "+0112233", "[0].sha256: takes 64 hexadecimal digits"),
        (
            TOKEN,
            &format!("{TOKEN}{}", TOKEN.to_lowercase()),
            "static_tokens[1].sha256: is that of another entry",
        ),
    ] {
        let told = complaint(&TOKEN.replacen(from, to, 1));
        assert!(told.contains(expected), "{expected}\nin {told}");
    }
    for (text, expected) in [
        ("jwt_issuers = 5", ":1: jwt_issuers: takes tables, each under [[jwt_issuers]]"),
        ("jwt_issuers = [5]", "jwt_issuers[0]: takes a table, not a TOML integer"),
        ("trusted_proxies = [\"10.0.0.0/33\"]", "takes networks such as"),
        ("trusted_proxies = \"10.0.0.0/8\"", "takes a list of strings"),
        ("jwks_min_interval_ms = 400000", "more than jwks_refresh_interval_ms"),
        ("jwt_issuer = []", "did you mean jwt_issuers?"),
    ] {
        let told = complaint(text);
        assert!(told.contains(expected), "{expected}\nin {told}");
    }
    let told = complaint(&format!("{MTLS}spiffe_trust_domains = [\"spiffe://example.org\"]"));
    assert!(told.contains("takes SPIFFE trust domains"), "{told}");
}

#[test]
fn a_token_in_the_place_of_its_digest_is_not_shown() {
    let told = complaint(&TOKEN.replace(
        "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF",
        "pct_secretsecretsecret",
    ));
    assert!(!told.contains("secretsecret"), "{told}");
}
