//! `[[jwt_issuers]]`, `[[static_tokens]]` and the settings around them.

use std::time::Duration;

use portcullis::config::{Config, JwtAlgorithm, KeysFrom};

use crate::{MTLS, POLICIES, complaint, complaints, of_file, sources};

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
    let proxies = [("PORTCULLIS_TRUSTED_PROXIES", "10.0.0.0/8,192.0.2.1")];
    let layers = sources(TOKEN, &proxies, POLICIES);
    let config = Config::parse(&layers).unwrap();
    assert_eq!(config.authentication.trusted_proxies.len(), 2);
    let layers = sources("", &[("PORTCULLIS_JWT_ISSUERS", "x")], &[]);
    let told = complaints(&layers);
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
        ("jwt_issuer = []", "did you mean jwt_issuers?"),
    ] {
        let told = complaint(&format!("{text}\n{TOKEN}"));
        assert!(told.contains(expected), "{expected}\nin {told}");
    }
    let told = complaint(&format!("jwks_min_interval_ms = 400000\n{ISSUER}"));
    assert!(told.contains("more than jwks_refresh_interval_ms"), "{told}");
    let told = complaint(&format!("{MTLS}spiffe_trust_domains = [\"spiffe://example.org\"]"));
    assert!(told.contains("takes SPIFFE trust domains"), "{told}");
}

/// Whoever gave such a setting believes in something that is not so.
#[test]
fn what_would_do_nothing_is_refused() {
    let own = concat!("jwks_file = \"", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml\"");
    let of_file_keys = ISSUER.replace("jwks_url = \"https://login.example.com/keys\"", own);
    let both = format!("{of_file_keys}{}", ISSUER.replace("login", "other"));
    let policy = format!("policy_dir = {:?}\n", POLICIES[0].1);
    let nobody = "does nothing where callers are not authenticated";
    let no_url = "does nothing without a jwks_url in [[jwt_issuers]]";
    // The setting, what is refused beside it and why, and what it does something with.
    for (setting, without, expected, with) in [
        ("spiffe_trust_domains = [\"a\"]", TOKEN, "does nothing unless clients have", MTLS),
        ("trusted_proxies = [\"127.0.0.1\"]", "", "a proxy would let other machines", TOKEN),
        ("trusted_proxies = [\"127.0.0.1\"]", "", "a proxy would let other machines", MTLS),
        ("open_health = false", "", nobody, TOKEN),
        ("open_reflection = true", "", nobody, MTLS),
        ("open_reflection = true", "reflection = false\n", "does nothing", TOKEN),
        ("auth_failure_burst = 21", "", nobody, &of_file_keys),
        ("auth_failures_per_minute = 61", "", nobody, MTLS),
        ("jwks_refresh_interval_ms = 300001", "", no_url, ISSUER),
        ("jwks_refresh_interval_ms = 300001", TOKEN, no_url, ISSUER),
        ("jwks_min_interval_ms = 10001", &of_file_keys, no_url, &both),
        ("jwks_max_stale_ms = 86400001", MTLS, no_url, ISSUER),
        ("reload_interval_ms = 5001", "", "does nothing where no file may change", TOKEN),
        ("reload_interval_ms = 5001", "", "does nothing where no file may change", MTLS),
        ("reload_interval_ms = 5001", "", "does nothing where no file may change", &of_file_keys),
        ("reload_interval_ms = 5001", "", "does nothing where no file may change", &policy),
    ] {
        let name = setting.split(' ').next().unwrap();
        let policies = if without.is_empty() || with == policy { &[] } else { POLICIES };
        let told = complaints(&sources(&format!("{setting}\n{without}"), &[], policies));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&format!("{name}: {expected}")), "{setting}: {told:?}");
        // Also from the environment.
        let variable = format!("PORTCULLIS_{}", name.to_uppercase());
        let value = setting.split(" = ").nth(1).unwrap().trim_matches(['[', ']', '"']);
        let told = complaints(&sources(without, &[(&variable, value)], policies));
        assert!(told.len() == 1 && told[0].starts_with(&variable), "{setting}: {told:?}");
        let policies = if with == policy { &[] } else { POLICIES };
        let good = sources(&format!("{setting}\n{with}"), &[], policies);
        Config::parse(&good).unwrap_or_else(|told| panic!("{setting} with {with}: {told:?}"));
    }
    // A default may be written out anywhere, such as check-config prints it.
    let all = Config::parse(&sources("", &[], &[])).unwrap().show();
    for name in ["auth_failure_burst = 20", "reload_interval_ms = 5000", "open_reflection = false"]
    {
        assert!(all.contains(name), "{all}");
    }
    Config::parse(&sources(&all, &[], &[])).unwrap();
}

#[test]
fn a_token_in_the_place_of_its_digest_is_not_shown() {
    let told = complaint(&TOKEN.replace(
        "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF",
        "pct_secretsecretsecret",
    ));
    assert!(!told.contains("secretsecret"), "{told}");
}

#[test]
fn a_key_in_the_query_of_a_jwks_url_is_not_printed() {
    let of = |url: &str| ISSUER.replace("https://login.example.com/keys", url);
    let config = of_file(&of("https://keys.example/set?k=hush&x=hush"));
    let shown = config.show();
    assert!(shown.contains("jwks_url = \"https://keys.example/set?[redacted]\""), "{shown}");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(
        of_file(&of("https://keys.example/set")).show().contains("\"https://keys.example/set\"")
    );
    let told = complaint(&of("https://hush@keys.example/set"));
    assert!(told.contains("jwks_url: takes an https URL") && !told.contains("hush"), "{told}");
}
