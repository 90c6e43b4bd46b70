//! The configuration: layers, complaints, safety, what is printed, and the files that document it. The program that
//! reads it is in `config/program.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{fs, path::PathBuf, time::Duration};

use portcullis::config::{
    self, BackendConfig, CallClass, Config, LedgerEngine, Limits, LogFormat, Rate, RateLimits,
    Sources,
    keys::{self, Key, Takes},
};

#[path = "config/authentication.rs"]
mod authentication;
#[path = "config/program.rs"]
mod program;
#[path = "config/telemetry.rs"]
mod telemetry;

const STATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

const EC2: &str = r#"
backend = "ec2"
insecure_loopback = true
[[ec2_targets]]
account_id = "123456789012"
regions = ["us-east-1", "eu-west-1"]
role_arn = "arn:aws:iam::123456789012:role/portcullis"
external_id = "hush"
"#;

/// The layers: the file's text, the variables and the flags.
fn sources(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    Sources {
        file: Some((PathBuf::from("etc/portcullis.toml"), file.to_owned())),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags.iter().map(|(name, value)| (*name, vec![(*value).to_owned()])).collect(),
    }
}

/// Whoever names callers must say what each may do.
const POLICIES: &[(&str, &str)] =
    &[("policy_dir", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policies/read-only"))];

fn of_file(text: &str) -> Config {
    Config::parse(&sources(text, &[], POLICIES)).unwrap()
}

fn complaints(sources: &Sources) -> Vec<String> {
    Config::parse(sources).unwrap_err().iter().map(ToString::to_string).collect()
}

/// The one complaint about a file.
fn complaint(text: &str) -> String {
    let all = complaints(&sources(text, &[], POLICIES));
    assert_eq!(all.len(), 1, "{all:#?}");
    all[0].clone()
}

fn all_keys() -> impl Iterator<Item = &'static Key> {
    keys::groups().flat_map(|(_, keys)| keys)
}

// === layers ===

#[test]
fn without_anything_the_defaults_hold() {
    let config = Config::parse(&Sources::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(config.admin_listen.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.limits.max_request_bytes, 1 << 20);
    assert!(config.limits.reflection);
    assert!(matches!(&config.backend, BackendConfig::Sandbox(sandbox) if sandbox.state.is_empty()));
    assert_eq!(format!("{:?}", config.limits), format!("{:?}", Limits::default()));
}

#[test]
fn flags_override_variables_override_the_file_overrides_defaults() {
    let limits = |env: &[_], flags: &[_]| {
        let file = "drain_timeout_ms = 1\nmax_in_flight = 1\nmax_connections = 1";
        Config::parse(&sources(file, env, flags)).unwrap().limits
    };
    let env = [("PORTCULLIS_DRAIN_TIMEOUT_MS", "2"), ("PORTCULLIS_MAX_IN_FLIGHT", "2")];
    let limits = limits(&env, &[("drain_timeout_ms", "3")]);
    assert_eq!(limits.drain_timeout, Duration::from_millis(3));
    assert_eq!(limits.max_in_flight, 2);
    assert_eq!(limits.max_connections, 1);
    assert_eq!(limits.max_concurrent_streams, 256);
}

#[test]
fn a_state_file_named_in_the_file_starts_from_its_folder() {
    let file = Sources {
        file: Some((STATE.into(), "sandbox_state = [\"LICENSE\"]".to_owned())),
        ..Sources::default()
    };
    let BackendConfig::Sandbox(sandbox) = Config::parse(&file).unwrap().backend else { panic!() };
    assert!(sandbox.state[0].is_absolute(), "{sandbox:?}");

    let env = [("PORTCULLIS_SANDBOX_STATE", "LICENSE,Cargo.toml")];
    let config = Config::parse(&sources("", &env, &[])).unwrap();
    let BackendConfig::Sandbox(sandbox) = config.backend else { panic!() };
    assert_eq!(sandbox.state, [PathBuf::from("LICENSE"), PathBuf::from("Cargo.toml")]);
}

#[test]
fn the_file_writes_numbers_as_toml_does() {
    assert_eq!(of_file("max_request_bytes = 0x10_0000").limits.max_request_bytes, 1 << 20);
    assert_eq!(of_file("max_in_flight = 2_000").limits.max_in_flight, 2000);
}

#[test]
fn targets_are_read() {
    let BackendConfig::Ec2(ec2) = of_file(EC2).backend else { panic!() };
    let target = &ec2.targets[0];
    assert_eq!(target.account.as_str(), "123456789012");
    assert_eq!(target.regions.len(), 2);
    assert_eq!(target.external_id.as_ref().unwrap().expose(), "hush");
    assert!(!target.session_per_principal && !ec2.decode_authorization_messages);
    let on = format!("ec2_decode_authorization_messages = true{EC2}session_per_principal = true");
    let config = of_file(&on);
    assert!(config.show().contains("\nsession_per_principal = true"), "{}", config.show());
    let BackendConfig::Ec2(ec2) = config.backend else { panic!() };
    assert!(ec2.targets[0].session_per_principal && ec2.decode_authorization_messages);
    let off = of_file(&format!("{EC2}session_per_principal = false"));
    let BackendConfig::Ec2(ec2) = off.backend else { panic!() };
    assert!(!ec2.targets[0].session_per_principal);
}

#[test]
fn limits_are_read_and_shown() {
    assert_eq!(of_file("").rate_limits, RateLimits::default());
    let file = r#"
rate_limit_mutate_per_second = 2
rate_limit_mode = "report-only"
[[rate_limits]]
group = "deployers"
class = "mutate"
per_second = 5
burst = 50
[[rate_limits]]
principal = "jwt:https%3A//issuer:alice"
class = "read"
per_second = 0
"#;
    let config = of_file(file);
    let limits = &config.rate_limits;
    assert_eq!((limits.read, limits.mutate), (None, Some(Rate { per_second: 2, burst: 20 })));
    assert!(limits.report_only);
    assert_eq!(limits.overrides[0].rate, Some(Rate { per_second: 5, burst: 50 }));
    assert_eq!(limits.overrides[1].class, CallClass::Read);
    assert_eq!(limits.overrides[1].rate, None);
    assert_eq!(of_file(&config.show()).rate_limits, *limits);
}

#[test]
fn pacing_is_on_with_ec2_and_off_with_the_sandbox() {
    let percent = |text: &str| of_file(text).pacing_percent;
    assert_eq!(percent(""), None);
    assert_eq!(percent("ec2_pacing = \"on\"\nec2_pacing_percent = 50"), Some(50));
    assert_eq!(percent(EC2), Some(80));
    assert_eq!(percent(&format!("ec2_pacing = \"off\"{EC2}")), None);
}

// === complaints ===

#[test]
fn limits_are_checked() {
    let table = "class = \"read\"\nper_second = 1\n";
    for (members, expected) in [
        (table.to_owned(), "rate_limits[0]: takes either a principal or a group"),
        (format!("{table}group = \"a\"\nprincipal = \"b\""), "either a principal or a group"),
        ("group = \"a\"\nper_second = 1".to_owned(), "rate_limits[0]: class is missing"),
        ("group = \"a\"\nclass = \"read\"".to_owned(), "rate_limits[0]: per_second is missing"),
        ("group = \"a\"\nclass = \"all\"\nper_second = 1".to_owned(), "takes one of read, mutate"),
        (format!("{table}group = \"a\"\nburst = 0"), "burst: takes a whole number, 1 to 1000000"),
        (
            "group = \"a\"\nclass = \"read\"\nper_second = 0\nburst = 1".to_owned(),
            "burst: does nothing where per_second is 0",
        ),
        (
            format!("{table}group = \"a\"\nbrust = 1"),
            "brust: there is no such member; did you mean burst?",
        ),
        (
            format!("{table}group = \"a\"\nlog_level = \"info\""),
            "goes above the first [[rate_limits]]",
        ),
        (
            format!("{table}group = \"a\"\n[[rate_limits]]\n{table}group = \"a\""),
            "rate_limits[1]: has the same caller and class as one before it",
        ),
    ] {
        let told = complaint(&format!("[[rate_limits]]\n{members}"));
        assert!(told.contains(expected), "{told}\nnot {expected}");
    }
    let told = complaint("rate_limits = 7");
    assert!(told.contains("takes tables, each under [[rate_limits]]"), "{told}");
}

#[test]
fn everything_wrong_is_told_at_once_as_the_user_wrote_it() {
    let file = "listen = 7\nmax_in_flight = -1\nreflection = \"yes\"\nbackend = \"ec3\"\ndefault_region = \"us-east-1\"";
    let env = [("PORTCULLIS_LOG_LEVEL", "a=b=c"), ("PORTCULLIS_LISTN", "")];
    let flags = [("drain_timeout_ms", "ten"), ("sandbox_state", "nowhere.json")];
    let all = complaints(&sources(file, &env, &flags));
    for expected in [
        "PORTCULLIS_LISTN: there is no such setting; did you mean PORTCULLIS_LISTEN?",
        "etc/portcullis.toml:1: listen: takes a string, not a TOML integer",
        "etc/portcullis.toml:2: max_in_flight: takes a whole number, 1 to 1000000 calls, not \"-1\"",
        "etc/portcullis.toml:3: reflection: takes true or false, not a TOML string",
        "etc/portcullis.toml:4: backend: takes one of sandbox, ec2, not \"ec3\"",
        "etc/portcullis.toml:5: default_region: goes together with default_account_id, which is not set",
        "PORTCULLIS_LOG_LEVEL: takes a level, or directives such as info,portcullis=debug, not \"a=b=c\"",
        "--drain-timeout-ms: takes a whole number, 0 to 86400000 milliseconds, not \"ten\"",
        "--sandbox-state: there is no file nowhere.json",
    ] {
        assert!(all.iter().any(|line| line == expected), "{expected}\nin {all:#?}");
    }
    assert_eq!(all.len(), 9, "{all:#?}");
}

#[test]
fn every_setting_is_checked_in_every_layer() {
    for key in all_keys() {
        // Only settings of the backend in use are read.
        let base = if key.only_with == Some("ec2") {
            EC2.replace("insecure_loopback = true", "")
        } else {
            String::new()
        };
        let with_endpoint = format!("ec2_endpoint_url = \"http://[::1]\"\n{base}");
        let base =
            if base.is_empty() || key.name == "ec2_endpoint_url" { base } else { with_endpoint };
        let (env, flag) = (key.env(), format!("--{}", key.flag()));
        let wrong = "no/such=file,or=value";
        for (place, sources) in [
            (env.clone(), sources(&base, &[(&env, wrong)], &[])),
            (flag, sources(&base, &[], &[(key.name, wrong)])),
            (
                format!(": {}", key.name),
                sources(&format!("{} = 1979-05-27\n{base}", key.name), &[], &[]),
            ),
        ] {
            let all = complaints(&sources);
            assert!(all.iter().any(|line| line.contains(&place)), "{place} in {all:#?}");
        }
    }
}

#[test]
fn unknown_names_are_refused() {
    for (file, expected) in [
        (
            "log_levle = \"info\"",
            "etc/portcullis.toml:1: log_levle: there is no such setting; did you mean log_level?",
        ),
        ("\n[log]\nlevel = 1", "etc/portcullis.toml:2: log: there is no such setting"),
        (
            "nonsense_in_here = 1",
            "etc/portcullis.toml:1: nonsense_in_here: there is no such setting",
        ),
        (
            "ec2_target = 1",
            "etc/portcullis.toml:1: ec2_target: there is no such setting; did you mean ec2_targets?",
        ),
    ] {
        assert_eq!(complaint(file), expected);
    }
    let env =
        [("PORTCULLIS_EC2_TARGETS", "x"), ("PORTCULLIS_CONFIG", "x"), ("PORTCULLIS_TEST_X", "x")];
    let expected = "PORTCULLIS_EC2_TARGETS: only the configuration file can hold [[ec2_targets]]";
    assert_eq!(complaints(&sources("", &env, &[])), [expected]);
}

#[test]
fn bad_syntax_is_told_with_its_line_and_hides_nothing_else() {
    let all = complaints(&sources("max_in_flight = 0\nlisten = \n", &[("PORTCULLIS_X", "")], &[]));
    assert!(all.iter().any(|line| line.starts_with("etc/portcullis.toml:2: ")), "{all:#?}");
    assert!(all.iter().any(|line| line.contains(":1: max_in_flight")), "{all:#?}");
    assert!(all.iter().any(|line| line.contains("PORTCULLIS_X")), "{all:#?}");
}

#[test]
fn settings_that_contradict_each_other() {
    for (file, expected) in [
        (
            "default_deadline_ms = 2\nmax_deadline_ms = 1",
            ":1: default_deadline_ms: default_deadline_ms is 2, more than max_deadline_ms, which is 1",
        ),
        ("max_deadline_ms = 1", ":1: max_deadline_ms: default_deadline_ms is 30000, more than"),
        (
            "ec2_attempt_timeout_ms = 1",
            ":1: ec2_attempt_timeout_ms: does nothing unless backend = \"ec2\"",
        ),
        (
            "[[ec2_targets]]\naccount_id = \"1\"",
            "ec2_targets: does nothing unless backend = \"ec2\"",
        ),
        (
            &format!("sandbox_state = [{STATE:?}]{EC2}"),
            ":1: sandbox_state: does nothing unless backend = \"sandbox\"",
        ),
        (
            &format!("ec2_connect_timeout_ms = 20000{EC2}"),
            "more than ec2_attempt_timeout_ms, which is 10000",
        ),
        (
            &format!("default_account_id = \"123456789012\"\ndefault_region = \"us-west-1\"{EC2}"),
            "default_region: us-west-1 is not among ec2_targets",
        ),
        (
            "backend = \"ec2\"\ninsecure_loopback = true\nec2_targets = []",
            ":3: ec2_targets: takes at least one table",
        ),
    ] {
        let told = complaint(file);
        assert!(told.contains(expected), "{expected}\nin {told}");
    }
}

#[test]
fn targets_are_checked() {
    for (from, to, expected) in [
        (
            "\"123456789012\"",
            "\"12345\"",
            ":5: ec2_targets[0].account_id: takes 12 digits, not \"12345\"",
        ),
        (
            "\"123456789012\"",
            "5",
            ":5: ec2_targets[0].account_id: takes a string, not a TOML integer",
        ),
        ("account_id = \"123456789012\"\n", "", ":4: ec2_targets[0]: account_id is missing"),
        (
            "\"us-east-1\", \"eu-west-1\"",
            "",
            ":6: ec2_targets[0].regions: takes a list of at least one Region code",
        ),
        ("eu-west-1", "us-east-1", ":6: ec2_targets[0].regions: us-east-1 is listed twice"),
        (
            "eu-west-1",
            "Ireland",
            ":6: ec2_targets[0].regions: takes Region codes such as us-east-1, not \"Ireland\"",
        ),
        (
            "::123456789012:",
            "::210987654321:",
            ":7: ec2_targets[0].role_arn: is a role of 210987654321, not of account 123456789012",
        ),
        (":role/", ":user/", ":7: ec2_targets[0].role_arn: takes an ARN such as"),
        (
            "external_id",
            "extern_id",
            ":8: ec2_targets[0].extern_id: there is no such member of a target; did you mean external_id?",
        ),
        (
            "role_arn = \"arn:aws:iam::123456789012:role/portcullis\"",
            "",
            ":8: ec2_targets[0].external_id: does nothing without role_arn",
        ),
        (
            "external_id",
            "log_level = \"info\"\nexternal_id",
            ":8: ec2_targets[0].log_level: is a setting: it goes above the first [[ec2_targets]]",
        ),
        ("\"hush\"", "\"h\"", ":8: ec2_targets[0].external_id: takes 2 to 1224 characters"),
        (
            "role_arn = \"arn:aws:iam::123456789012:role/portcullis\"\nexternal_id = \"hush\"",
            "session_per_principal = true",
            ":7: ec2_targets[0].session_per_principal: needs role_arn",
        ),
        (
            "external_id = \"hush\"",
            "session_per_principal = \"yes\"",
            ":8: ec2_targets[0].session_per_principal: takes true or false, not a TOML string",
        ),
        (
            "[[ec2_targets]]",
            "[[ec2_targets]]\naccount_id = \"123456789012\"\nregions = [\"us-east-1\"]\n[[ec2_targets]]",
            "ec2_targets[1].account_id: 123456789012 is listed twice",
        ),
    ] {
        let told = complaint(&EC2.replace(from, to));
        assert!(told.contains(expected), "{expected}\nin {told}");
    }
}

// === safety ===

#[test]
fn only_loopback_starts() {
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        for key in ["listen", "admin_listen"] {
            let told = complaint(&format!("{key} = {address:?}"));
            assert!(
                told.contains(&format!(":1: {key}: {address} is not a loopback address")),
                "{told}"
            );
        }
    }
    assert!(of_file("listen = \"[::1]:0\"\nadmin_listen = \"off\"").admin_listen.is_none());
}

/// Parsing does not ask for the files.
const MTLS: &str = "tls = \"server\"\ntls_cert_file = \"a\"\ntls_key_file = \"b\"\n\
                    tls_client_auth = \"required\"\ntls_client_ca_files = [\"c\"]\n";

#[test]
fn with_tls_and_authenticated_callers_anything_starts() {
    let everywhere = "listen = \"0.0.0.0:1\"\nadmin_listen = \"0.0.0.0:2\"\n";
    let ec2 = EC2.replace("insecure_loopback = true\n", "");
    of_file(&format!("{everywhere}{MTLS}"));
    let ec2 = ec2.replace("backend = ", &format!("{everywhere}{MTLS}backend = "));
    of_file(&ec2);
    let config = of_file(MTLS);
    let config::TlsConfig::Server(files) = &config.tls else { panic!("{config:?}") };
    assert_eq!(files.key, PathBuf::from("etc/b"), "beside the file that names it");
    for (from, to, missing) in [
        (MTLS, "tls = \"upstream\"\n", "callers are not authenticated"),
        (
            MTLS,
            "",
            "callers are not authenticated ([[jwt_issuers]], [[static_tokens]], or tls_client_auth) and connections are",
        ),
    ] {
        let all = complaints(&sources(&ec2.replace(from, to), &[], POLICIES));
        for (place, line) in ["listen", "admin_listen", "backend"].iter().zip(&all) {
            assert!(line.contains(place) && line.contains(missing), "{all:#?}");
        }
        assert_eq!(all.len(), 3, "{all:#?}");
    }
}

#[test]
fn ec2_starts_only_on_a_loopback_endpoint_or_when_told_to() {
    let ec2 = EC2.replace("insecure_loopback = true\n", "");
    for endpoint in ["", "ec2_endpoint_url = \"https://ec2.us-east-1.amazonaws.com\""] {
        let told = complaint(&format!("{endpoint}{ec2}"));
        assert!(
            told.contains("backend: on EC2,") && told.contains("--insecure-loopback"),
            "{told}"
        );
    }
    of_file(&format!("ec2_endpoint_url = \"http://localhost:4566\"{ec2}"));
    Config::parse(&sources(&ec2, &[], &[("insecure_loopback", "true")])).unwrap();
}

#[test]
fn an_endpoint_is_an_address_alone_and_its_password_is_not_told() {
    for url in [
        "ftp://[::1]",
        "[::1]:80",
        "http://[::1]/path",
        "http://[::1]?x",
        "http://me:hush@[::1]",
        "h/?hush",
    ] {
        let told = complaint(&format!("ec2_endpoint_url = {url:?}{EC2}"));
        assert!(
            told.contains(":1: ec2_endpoint_url: takes an") && !told.contains("hush"),
            "{told}"
        );
    }
}

// === what is printed ===

#[test]
fn secrets_are_not_printed() {
    let config = of_file(EC2);
    for text in [format!("{config:?}"), format!("{config:#?}"), config.show()] {
        assert!(!text.contains("hush") && text.contains("[redacted]"), "{text}");
    }
}

#[test]
fn what_is_shown_is_a_file_that_means_the_same() {
    let env = [("PORTCULLIS_MAX_IN_FLIGHT", "7")];
    let config = Config::parse(&sources(EC2, &env, &[("log_level", "debug")])).unwrap();
    let shown = config.show();
    assert!(
        shown.contains("# PORTCULLIS_MAX_IN_FLIGHT") && shown.contains("# --log-level"),
        "{shown}"
    );
    let again = of_file(&shown);
    assert_eq!(format!("{:?}", again.limits), format!("{:?}", config.limits));
    assert_eq!(again.log.directives, config.log.directives);
    // Settings of another backend are not in effect.
    assert!(!shown.contains("sandbox_state"), "{shown}");
}

// === the ledger ===

#[test]
fn the_ledger_is_as_durable_as_what_it_records() {
    assert!(matches!(of_file("").ledger.engine, LedgerEngine::Memory));
    let file = of_file(EC2).ledger.engine;
    assert!(matches!(&file, LedgerEngine::Sqlite(path) if path.ends_with("ledger.db")), "{file:?}");
    let told = complaint(&format!("ledger = \"memory\"{EC2}"));
    assert!(told.contains("ledger: a ledger in memory forgets"), "{told}");
    // An emulator on this machine is nothing real.
    let emulator = EC2.replace("insecure_loopback = true", "ec2_endpoint_url = \"http://[::1]:1\"");
    of_file(&format!("ledger = \"memory\"{emulator}"));
    for bad in ["", "redis://h", "sqlite:", "postgres://"] {
        let told = complaint(&format!("ledger = {bad:?}"));
        assert!(told.contains("ledger: takes memory, sqlite:PATH or postgres://"), "{told}");
    }
    let told = complaint("ledger_key_retention_hours = 49\nledger_record_retention_days = 2");
    assert!(told.contains("ledger_key_retention_hours: keys are kept for 49 hours"), "{told}");
}

#[test]
fn the_ledgers_password_is_not_printed() {
    let text = "ledger = \"postgres://me:hush@db.example:5432/portcullis?password=hush\"";
    let config = of_file(text);
    for shown in [format!("{config:?}"), config.show()] {
        assert!(!shown.contains("hush"), "{shown}");
    }
    assert!(config.show().contains("postgres://me@db.example:5432/portcullis"));
    for bad in ["mysql://me:hush@h", "host=h user=me password=hush", "hush"] {
        let told = complaint(&format!("ledger = {bad:?}"));
        assert!(told.contains("ledger: takes memory") && !told.contains("hush"), "{told}");
    }
}

// === files ===

#[test]
fn the_samples_parse() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/config");
    let mut samples = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).unwrap();
            let file = Some((path.clone(), text));
            let parsed = Config::parse(&Sources { file, ..Sources::default() });
            assert!(parsed.is_ok(), "{}: {parsed:#?}", path.display());
            samples += 1;
        }
    }
    assert!(samples >= 3, "{samples} samples in {folder}");
}

#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let written = fs::read_to_string(path).unwrap();
    assert!(
        written == config::reference(),
        "run: cargo run -- check-config --reference > docs/configuration.md"
    );
}

#[test]
fn defaults_are_values_that_their_settings_take() {
    for key in all_keys().filter(|key| !key.default.is_empty()) {
        let base = if key.only_with == Some("ec2") { EC2 } else { "" };
        let base = base.replace("insecure_loopback = true", "ec2_endpoint_url = \"http://[::1]\"");
        let parsed = Config::parse(&sources(&base, &[(&key.env(), key.default)], &[]));
        assert!(parsed.is_ok(), "{}: {parsed:#?}", key.name);
        if let Takes::Number(_, min, max) = key.takes {
            assert!((min..=max).contains(&key.default.parse().unwrap()), "{}", key.name);
        }
    }
}
