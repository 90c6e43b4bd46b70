//! Keys that come, go and cannot be fetched.

use std::{fs, sync::atomic::Ordering, time::Duration};

use portcullis::{
    config::KeysFrom,
    credentials::{Authenticator, Reread},
};
use serde_json::json;
use tonic::Code;

use crate::{
    issuer::Issuer,
    keys::Key,
    support,
    world::{FIRST, World, at_url, claims, issuer_config},
};

fn set(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

fn invalid() -> (Code, String) {
    (Code::Unauthenticated, "CREDENTIALS_INVALID".to_owned())
}

/// A world whose first issuer is this one, and may be asked again at once.
async fn world_of(issuer: &Issuer) -> World {
    let keys = at_url(&issuer.url);
    World::start_with(|config| {
        config.issuers[0] = issuer_config(FIRST, keys);
        config.jwks_min_interval = Duration::ZERO;
    })
    .await
}

#[tokio::test]
async fn a_new_key_is_fetched_when_its_first_token_comes_and_the_old_one_is_out_at_once() {
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    let issuer = Issuer::start(set(&[&old])).await;
    let world = world_of(&issuer).await;
    world.call_as(&old.token(&claims())).await.unwrap();
    assert_eq!(world.refusal_of(&new.token(&claims())).await, invalid());
    // Both, as issuers do for a while: no call fails that carries a valid credential.
    issuer.answer("200 OK", set(&[&old, &new]));
    world.call_as(&new.token(&claims())).await.unwrap();
    world.call_as(&old.token(&claims())).await.unwrap();
    let fetches = issuer.fetches();
    issuer.answer("200 OK", set(&[&new]));
    // A token of a third key has the set fetched; known ones never do.
    assert_eq!(world.refusal_of(&Key::p256("third").token(&claims())).await, invalid());
    assert_eq!(issuer.fetches(), fetches + 1);
    world.call_as(&new.token(&claims())).await.unwrap();
    assert_eq!(issuer.fetches(), fetches + 1);
    assert_eq!(world.refusal_of(&old.token(&claims())).await, invalid());
    // A key under the old id is not the old key.
    let again = Key::p256("new");
    issuer.answer("200 OK", set(&[&again]));
    assert_eq!(world.refusal_of(&Key::p256("fourth").token(&claims())).await, invalid());
    assert_eq!(world.refusal_of(&new.token(&claims())).await, invalid());
    world.call_as(&again.token(&claims())).await.unwrap();
}

#[tokio::test]
async fn a_set_that_is_bad_in_any_way_leaves_the_old_one() {
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    let issuer = Issuer::start(set(&[&old])).await;
    let world = world_of(&issuer).await;
    let many: Vec<_> = (0..101).map(|_| new.jwk()).collect();
    let mut small = json!({"kty": "RSA", "kid": "new", "e": "AQAB"});
    small["n"] = json!("w".repeat(171));
    let short = json!({"kty": "EC", "crv": "P-256", "kid": "new", "x": "AAAA", "y": "AAAA"});
    let oct = json!({"kty": "oct", "kid": "new", "k": "c2VjcmV0"});
    for (status, body) in [
        ("500 Internal Server Error", set(&[&new])),
        ("404 Not Found", String::new()),
        ("204 No Content", String::new()),
        // To somewhere else: not followed, though the keys come with it.
        ("302 Found\r\nlocation: http://127.0.0.1:1/", set(&[&new])),
        ("200 OK", String::new()),
        ("200 OK", "<html>".into()),
        ("200 OK", "{}".into()),
        ("200 OK", json!({"keys": []}).to_string()),
        ("200 OK", json!({"keys": {}}).to_string()),
        ("200 OK", json!({ "keys": many }).to_string()),
        ("200 OK", json!({ "keys": [small] }).to_string()),
        ("200 OK", json!({ "keys": [short] }).to_string()),
        ("200 OK", json!({ "keys": [oct] }).to_string()),
        // Larger than any set is.
        ("200 OK", set(&[&new]) + &" ".repeat(300 << 10)),
    ] {
        issuer.answer(status, body.clone());
        let refused = world.refusal_of(&new.token(&claims())).await;
        // The issuer's keys are not at hand, so nobody can say that this is not one of them.
        assert_eq!(
            refused,
            (Code::Unavailable, "CREDENTIALS_UNVERIFIABLE".to_owned()),
            "{status} {body:.50}"
        );
        world.call_as(&old.token(&claims())).await.unwrap();
    }
    // Larger than any memory is.
    issuer.endless.store(true, Ordering::SeqCst);
    let unverifiable = (Code::Unavailable, "CREDENTIALS_UNVERIFIABLE".to_owned());
    assert_eq!(world.refusal_of(&new.token(&claims())).await, unverifiable);
    world.call_as(&old.token(&claims())).await.unwrap();
    issuer.endless.store(false, Ordering::SeqCst);
    issuer.answer("200 OK", set(&[&new]));
    world.call_as(&new.token(&claims())).await.unwrap();
}

#[tokio::test]
async fn a_set_in_a_file_that_is_huge_leaves_the_old_one() {
    let folder = tempfile_folder("huge");
    let file = folder.join("keys.json");
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    fs::write(&file, set(&[&old])).unwrap();
    let keys = KeysFrom::File(file.clone());
    let world = World::start_with(|config| config.issuers[0] = issuer_config(FIRST, keys)).await;
    let many: Vec<_> = (0..101).map(|_| new.jwk()).collect();
    let huge = std::path::Path::new("/dev/zero");
    for text in [set(&[&new]) + &" ".repeat(300 << 10), json!({ "keys": many }).to_string()] {
        fs::write(&file, text).unwrap();
        assert!(world.authenticator.reload().unwrap_err().contains("keys.json"));
        assert_eq!(world.refusal_of(&new.token(&claims())).await, invalid());
        world.call_as(&old.token(&claims())).await.unwrap();
    }
    if huge.exists() {
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(huge, &file).unwrap();
        assert!(world.authenticator.reload().unwrap_err().contains("keys.json"));
        world.call_as(&old.token(&claims())).await.unwrap();
    }
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn two_keys_of_one_id_are_both_tried() {
    let (first, second) = (Key::p256("same"), Key::p256("same"));
    let other_kind = Key::rsa("same");
    let issuer = Issuer::start(set(&[&first, &second, &other_kind])).await;
    let world = world_of(&issuer).await;
    for key in [&first, &second, &other_kind] {
        world.call_as(&key.token(&claims())).await.unwrap();
    }
    assert_eq!(world.refusal_of(&Key::p256("same").token(&claims())).await, invalid());
    // Without an id it is not plain which of the two is meant.
    let header = json!({"alg": "ES256"});
    assert_eq!(world.refusal_of(&first.token_with(&header, &claims())).await, invalid());
}

#[tokio::test]
async fn an_issuer_that_never_answered_is_unavailable_and_the_others_work() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let world = World::start_with(|config| {
        config.issuers[0] = issuer_config(FIRST, at_url(&url));
        config.failure_burst = 1;
    })
    .await;
    for _ in 0..3 {
        let status = world.call_as(&world.p256.token(&claims())).await.unwrap_err();
        let details = support::details(&status);
        let reason = &details.error_info().unwrap().reason;
        assert_eq!(
            (status.code(), reason.as_str()),
            (Code::Unavailable, "CREDENTIALS_UNVERIFIABLE")
        );
        assert!(details.retry_info().is_some());
    }
    world.call_as(&world.static_token).await.unwrap();
    // None of it was charged.
    assert_eq!(world.refusal_of("junk").await, invalid());
}

#[tokio::test]
async fn files_and_tokens_are_read_anew_and_bad_ones_keep_the_old() {
    let folder = tempfile_folder("reload");
    let file = folder.join("keys.json");
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    fs::write(&file, set(&[&old])).unwrap();
    let keys = KeysFrom::File(file.clone());
    let world = World::start_with(|config| config.issuers[0] = issuer_config(FIRST, keys)).await;
    assert_eq!(world.authenticator.files(), vec![file.clone()]);
    world.call_as(&old.token(&claims())).await.unwrap();
    // A token of a key that is not there reads nothing: the file's change does.
    fs::write(&file, set(&[&new])).unwrap();
    assert_eq!(world.refusal_of(&new.token(&claims())).await, invalid());
    world.authenticator.reload().unwrap();
    world.call_as(&new.token(&claims())).await.unwrap();
    assert_eq!(world.refusal_of(&old.token(&claims())).await, invalid());
    for broken in ["", "{", r#"{"keys": []}"#] {
        fs::write(&file, broken).unwrap();
        let fault = world.authenticator.reload().unwrap_err();
        assert!(fault.contains("keys.json"), "{fault}");
        world.call_as(&new.token(&claims())).await.unwrap();
    }
    fs::remove_file(&file).unwrap();
    assert!(world.authenticator.reload().is_err());
    world.call_as(&new.token(&claims())).await.unwrap();
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn static_tokens_are_swapped() {
    use portcullis::{
        clock::SystemClock,
        config::AuthenticationConfig,
        credentials::{Checked, token},
        random::SeededRandom,
    };
    use std::sync::{Arc, Mutex};
    let random = SeededRandom::new(9);
    let (first, first_entry) = token::generate(&random, "a", vec![]);
    let (second, second_entry) = token::generate(&random, "a", vec![]);
    let config =
        AuthenticationConfig { tokens: vec![first_entry], ..AuthenticationConfig::default() };
    let next = Arc::new(Mutex::new(Ok(vec![second_entry])));
    let reread = next.clone();
    let authenticator = Authenticator::open(config, false, Arc::new(SystemClock))
        .await
        .unwrap()
        .with_reread(Reread(Box::new(move || reread.lock().unwrap().clone())));
    let passes = |token: &str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        matches!(authenticator.check(&headers, &Default::default()), Checked::Now(Ok(_)))
    };
    assert!(passes(&first) && !passes(&second));
    authenticator.reload().unwrap();
    assert!(!passes(&first) && passes(&second));
    *next.lock().unwrap() = Err("line 3 is wrong".to_owned());
    assert_eq!(authenticator.reload(), Err("line 3 is wrong".to_owned()));
    assert!(passes(&second));
}

/// Cut before a caller's groups, the file is valid and what policy forbids them is lifted.
#[tokio::test(start_paused = true)]
async fn a_configuration_that_is_cut_while_it_is_written_changes_nobody() {
    use portcullis::{
        clock::SystemClock,
        config::{Config, Sources},
        credentials::{Checked, token},
        random::SeededRandom,
        reload::{Reload, SETTLED},
    };
    use std::{sync::Arc, time::Duration};
    use tokio::sync::Notify;
    const PERIOD: Duration = Duration::from_secs(5);
    let folder = tempfile_folder("cut");
    let random = SeededRandom::new(11);
    let (_, alice) = token::generate(&random, "alice", vec![]);
    let (secret, bob) = token::generate(&random, "bob", vec!["contractors".into()]);
    let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policies/read-only");
    let whole = format!("policy_dir = {policies:?}\n{}{}", alice.to_toml(), bob.to_toml());
    let (cut, _) = whole.rsplit_once("groups").unwrap();
    let file = folder.join("portcullis.toml");
    fs::write(&file, &whole).unwrap();
    let of = |path: std::path::PathBuf| {
        let file = Some((path.clone(), fs::read_to_string(path).unwrap()));
        Config::parse(&Sources { file, ..Sources::default() }).map(|config| config.authentication)
    };
    let authenticator =
        Authenticator::open(of(file.clone()).unwrap(), false, Arc::new(SystemClock));
    let path = file.clone();
    let reread = move || of(path.clone()).map(|config| config.tokens).map_err(|_| "bad".to_owned());
    let authenticator = authenticator.await.unwrap().with_reread(Reread(Box::new(reread)));
    let authenticator = Arc::new(authenticator);
    let groups = || {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {secret}").parse().unwrap());
        let checked = authenticator.check(&headers, &Default::default());
        let Checked::Now(Ok(principal)) = checked else { panic!("bob is not known") };
        principal.groups.len()
    };
    let (mut reload, reloaded) = (Reload::default(), authenticator.clone());
    reload.register("credentials", vec![file.clone()], move |still| reloaded.reload_if(still));
    let now = Arc::new(Notify::new());
    let task = tokio::spawn(reload.run(PERIOD, now.clone()));
    pass(SETTLED * 2).await;
    for by_signal in [true, false] {
        // The look of the period comes one later.
        now.notify_one();
        pass(PERIOD - Duration::from_millis(1)).await;
        fs::write(&file, cut).unwrap();
        if by_signal {
            now.notify_one();
        }
        pass(SETTLED / 2).await;
        assert_eq!(groups(), 1, "by signal: {by_signal}");
        fs::write(&file, &whole).unwrap();
        pass(SETTLED * 3).await;
        assert_eq!(groups(), 1, "by signal: {by_signal}");
    }
    // What stays is meant.
    fs::write(&file, cut).unwrap();
    now.notify_one();
    pass(SETTLED * 2).await;
    assert_eq!(groups(), 0);
    task.abort();
    fs::remove_dir_all(folder).unwrap();
}

/// Lets the paused clock go on, and all that waits for it.
async fn pass(time: std::time::Duration) {
    tokio::time::sleep_until(tokio::time::Instant::now() + time).await;
}

fn tempfile_folder(name: &str) -> std::path::PathBuf {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attacks-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The claims of a projected token, as the API server writes them.
#[tokio::test]
async fn kubernetes_projected_tokens_pass_as_the_sample_has_it() {
    use portcullis::config::{Config, Sources};
    let key = Key::rsa("k8s");
    let issuer = Issuer::start(set(&[&key])).await;
    let folder = tempfile_folder("kubernetes");
    let token_file = folder.join("token");
    fs::write(&token_file, "the-pod's-own-token\n").unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/config/kubernetes.toml");
    let text = fs::read_to_string(path).unwrap();
    let file = Some((path.into(), text));
    let mut sample =
        Config::parse(&Sources { file, ..Sources::default() }).unwrap().authentication.issuers[0]
            .clone();
    let KeysFrom::Url { url, ca_file, token_file: file } = &mut sample.keys else { panic!() };
    *url = issuer.url.parse().unwrap();
    *ca_file = None;
    *file = Some(token_file);
    let world = World::start_with(|config| config.issuers[0] = sample).await;
    assert_eq!(issuer.authorization.lock().unwrap().as_deref(), Some("Bearer the-pod's-own-token"));
    let good = json!({
        "aud": ["portcullis"],
        "exp": crate::world::NOW + 3600,
        "iat": crate::world::NOW,
        "iss": "https://kubernetes.default.svc.cluster.local",
        "jti": "8f1b0ee9-1a1b-4d5e-9d2b-0d2d3a4b5c6d",
        "kubernetes.io": {
            "namespace": "payments",
            "node": {"name": "node-1", "uid": "1f7a1e3c-94a3-4d5f-8d3a-0a1b2c3d4e5f"},
            "pod": {"name": "api-0", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": "api", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
            "warnafter": crate::world::NOW + 3600,
        },
        "nbf": crate::world::NOW,
        "sub": "system:serviceaccount:payments:api",
    });
    let mut headers = http::HeaderMap::new();
    let value = format!("Bearer {}", key.token(&good));
    headers.insert("authorization", value.parse().unwrap());
    let checked = world.authenticator.check(&headers, &Default::default());
    let portcullis::credentials::Checked::Now(Ok(principal)) = checked else { panic!() };
    assert_eq!(principal.subject, "system:serviceaccount:payments:api");
    assert_eq!(principal.groups, ["kubernetes:payments"]);
    // The tokens that every pod has for the API server are not for us.
    let mut for_api = good;
    for_api["aud"] = json!(["https://kubernetes.default.svc.cluster.local"]);
    assert_eq!(world.refusal_of(&key.token(&for_api)).await, invalid());
    fs::remove_dir_all(folder).unwrap();
}
