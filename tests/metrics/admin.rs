//! `/config`, `/log-level` and `/readyz` of the real program.

use crate::{program, text::ask};

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_configuration_is_shown_as_check_config_prints_it() {
    let program = program::start().await;
    let shown = program.get("/config").await;
    assert!(shown.starts_with("HTTP/1.1 200 "), "{shown}");
    assert_eq!(format!("OK\n{}", body(&shown)), program.checked().await);
    assert!(body(&shown).contains("reload_interval_ms = 100"), "{shown}");
    // By a proxy for somebody else, and by pages: of another site, and of one whose name leads here by now.
    for through in [
        "host: localhost\r\nx-forwarded-for: 192.0.2.1",
        "host: localhost\r\norigin: http://evil.example",
        "host: 127.0.0.1:9464\r\nsec-fetch-site: cross-site",
        "host: evil.example:9464",
    ] {
        let asked = format!("GET /config HTTP/1.1\r\n{through}\r\n\r\n");
        let refused = ask(program.admin, &asked).await;
        assert!(refused.starts_with("HTTP/1.1 403 ") && !refused.contains("reload"), "{refused}");
        let asked = format!("PUT /log-level HTTP/1.1\r\n{through}\r\ncontent-length: 3\r\n\r\noff");
        assert!(ask(program.admin, &asked).await.starts_with("HTTP/1.1 403 "), "{through}");
        // Probes and scrapes come under any name.
        let asked = format!("GET /livez HTTP/1.1\r\n{through}\r\n\r\n");
        assert!(ask(program.admin, &asked).await.starts_with("HTTP/1.1 200 "), "{through}");
    }
    assert_eq!(body(&program.get("/log-level").await), "info\n");
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs_and_nonsense_changes_nothing() {
    let program = program::start().await;
    assert_eq!(body(&program.get("/log-level").await), "info\n");
    for (bad, why) in [
        ("loud", "\\\"loud\\\" is no level"),
        ("", "empty"),
        ("info,portcullis=loud", "error parsing level filter"),
    ] {
        let said = program.put_level(bad).await;
        assert!(said.starts_with("HTTP/1.1 400 ") && said.contains(why), "{bad}: {said}");
    }
    assert_eq!(body(&program.get("/log-level").await), "info\n");
    let said = program.put_level("warn,portcullis=debug\n").await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert_eq!(body(&program.get("/log-level").await), "warn,portcullis=debug\n");
    let long = program.put_level(&"x".repeat(5000)).await;
    assert!(long.starts_with("HTTP/1.1 413 "), "{long}");
}

#[tokio::test]
async fn a_new_log_level_is_what_is_logged() {
    use tracing_subscriber::prelude::*;
    let (filter, level) = portcullis::telemetry::level::Level::open("info").unwrap();
    let subscriber = tracing_subscriber::registry().with(filter);
    let _guard = tracing::subscriber::set_default(subscriber);
    assert!(!tracing::enabled!(tracing::Level::DEBUG));
    level.set("debug").unwrap();
    assert!(tracing::enabled!(tracing::Level::DEBUG));
    level.set("off").unwrap();
    assert!(!tracing::enabled!(tracing::Level::ERROR));
}

#[tokio::test]
async fn readiness_says_how_each_part_stands() {
    let program = program::start().await;
    let ready = program.get("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(body(&ready)).unwrap();
    assert_eq!(
        body["dependencies"],
        serde_json::json!({
            "backend": "in process", "ledger": "ok", "tls": "ok", "policies": "ok",
            "credentials": "ok",
        })
    );
    assert_eq!(body.get("targets"), None, "there is nothing to be reached");
}
