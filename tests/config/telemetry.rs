//! The collector's settings, and OpenTelemetry's own variables behind them.

use std::time::Duration;

use portcullis::config::{Config, OtlpConfig};

use super::{complaints, of_file, sources};

fn otlp(file: &str, env: &[(&str, &str)]) -> Option<OtlpConfig> {
    Config::parse(&sources(file, env, &[])).unwrap().telemetry.otlp
}

#[test]
fn nothing_is_sent_unless_there_is_a_collector() {
    assert!(of_file("").telemetry.otlp.is_none());
    let found = otlp("otlp_endpoint = \"http://[::1]:4317\"", &[]).unwrap();
    assert_eq!(found.endpoint, "http://[::1]:4317");
    assert_eq!((found.traces, found.logs), (Some(1.0), true));
    assert_eq!(found.metrics, Some(Duration::from_secs(60)));
    for idle in [
        "otlp_headers = [\"a=b\"]",
        "otlp_timeout_ms = 1",
        "otlp_logs = false",
        "traces_sample_ratio = 0.5",
        "service_name = \"x\"",
        "resource_attributes = [\"a=b\"]",
    ] {
        let told = complaints(&sources(idle, &[], &[])).concat();
        assert!(told.contains("does nothing without otlp_endpoint"), "{idle}: {told}");
    }
}

#[test]
fn opentelemetrys_own_variables_count_where_nothing_else_does() {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "X-Key=a%3Db, other=2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "700"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "8000"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=of-attributes,service.namespace=edge%20one"),
        ("OTEL_NOBODY_KNOWS", "1"),
    ];
    let config = Config::parse(&sources("", &env, &[])).unwrap();
    assert_eq!(config.telemetry.service_name, "of-attributes");
    assert_eq!(config.telemetry.resource, [("service.namespace".into(), "edge one".into())]);
    let found = config.telemetry.otlp.unwrap();
    assert_eq!(found.endpoint, "http://collector:4317");
    let headers: Vec<_> =
        found.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("x-key", "a=b"), ("other", "2")]);
    assert_eq!((found.timeout, found.traces), (Duration::from_millis(700), Some(0.25)));
    assert_eq!(found.metrics, Some(Duration::from_secs(8)));

    // Ours go before them, and the name before the attribute.
    let more = [("OTEL_SERVICE_NAME", "of-variable"), ("PORTCULLIS_TRACES_SAMPLE_RATIO", "1")];
    let env = [&env[..], &more].concat();
    let file = "otlp_endpoint = \"https://mine\"\notlp_timeout_ms = 9";
    let config = Config::parse(&sources(file, &env, &[])).unwrap();
    assert_eq!(config.telemetry.service_name, "of-variable");
    let found = config.telemetry.otlp.unwrap();
    assert_eq!(
        (found.endpoint.as_str(), found.timeout),
        ("https://mine", Duration::from_millis(9))
    );
    assert_eq!(found.traces, Some(1.0));

    // Or not at all.
    let env = [&env[..], &[("OTEL_SDK_DISABLED", "TRUE")]].concat();
    assert!(otlp("", &env[..9]).is_some());
    let off: Vec<_> = env.into_iter().filter(|(name, _)| !name.starts_with("PORTC")).collect();
    assert!(otlp("", &off).is_none());
    // What is for all programs need not be for this one.
    assert!(otlp("", &[("OTEL_TRACES_SAMPLER", "xray"), ("OTEL_SERVICE_NAME", "x")]).is_none());
    assert!(otlp("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).is_none());
}

#[test]
fn samplers_and_protocols_that_are_not_ours_are_refused() {
    let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    for (sampler, ratio) in [("parentbased_always_on", 1.0), ("parentbased_always_off", 0.0)] {
        assert_eq!(otlp("", &[on, ("OTEL_TRACES_SAMPLER", sampler)]).unwrap().traces, Some(ratio));
    }
    for (name, value) in [
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a"),
    ] {
        let told = complaints(&sources("", &[on, (name, value)], &[])).concat();
        assert!(told.starts_with(&format!("{name}: ")), "{told}");
    }
    // The address is ours: then it is for what we speak.
    let protocol = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
    assert!(otlp("otlp_endpoint = \"http://mine\"", &protocol).is_some());
}

#[test]
fn headers_are_secret_and_can_be_sent() {
    let file = "otlp_endpoint = \"http://mine\"\notlp_headers = [\"authorization=Bearer%20hush\"]";
    let config = of_file(file);
    for shown in [config.show(), format!("{config:?}")] {
        assert!(!shown.contains("hush") && shown.contains("authorization"), "{shown}");
    }
    for bad in [
        "hush",
        "a b=hush",
        "grpc-timeout=hush",
        "a-bin=hush",
        "a=hush%0d%0a",
        "=hush",
        "a=%ff-hush",
    ] {
        let file = format!("otlp_endpoint = \"http://mine\"\notlp_headers = [\"x=1\", {bad:?}]");
        let told = complaints(&sources(&file, &[], &[])).concat();
        assert!(told.contains(":2: otlp_headers: takes NAME=VALUE"), "{told}");
        assert!(told.contains("number 2") && !told.contains("hush"), "{told}");
    }
}
