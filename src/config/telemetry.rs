//! The collector, and what it gets. OpenTelemetry's own variables count where nothing of ours says anything.

use std::{path::PathBuf, time::Duration};

use super::{Secret, reader::Reader};

/// What is sent to a collector, and as whose.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `service.name`.
    pub service_name: String,
    /// The other attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// The collector; none: nothing is sent.
    pub otlp: Option<OtlpConfig>,
}

/// The collector.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    /// Where it is: an http or https URL.
    pub endpoint: String,
    /// What each request carries.
    pub headers: Vec<(String, Secret)>,
    /// The CAs that it is verified with; none: the system's. The file exists.
    pub ca: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// The part of the calls that are traced; none: there are no traces.
    pub traces: Option<f64>,
    /// How often metrics are sent; none: they are not.
    pub metrics: Option<Duration>,
    /// Whether the log is sent.
    pub logs: bool,
    /// Of how many calls a second it hears one by one.
    pub calls_per_second: u32,
}

/// Says that nothing of OpenTelemetry's own variables counts.
const DISABLED: &str = "OTEL_SDK_DISABLED";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";

/// Variables that have no setting of their own.
pub(super) const MORE_VARIABLES: &[&str] = &[DISABLED, PROTOCOL, SAMPLER];

/// What does nothing without a collector.
const IDLE: &[&str] = &[
    "otlp_headers",
    "otlp_ca_file",
    "otlp_timeout_ms",
    "otlp_traces",
    "otlp_metrics",
    "otlp_logs",
    "otlp_metrics_interval_ms",
    "otlp_calls_per_second",
    "traces_sample_ratio",
    "service_name",
    "resource_attributes",
];

/// Whether the environment turns OpenTelemetry's own variables off.
pub(super) fn disabled(env: &[(String, String)]) -> bool {
    variable(env, DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Reads the settings.
pub(super) fn read(reader: &mut Reader<'_>) -> TelemetryConfig {
    let endpoint = reader.url("otlp_endpoint");
    let headers = reader.pairs("otlp_headers", header_name);
    let ca = reader.files("otlp_ca_file").pop();
    let timeout = reader.millis("otlp_timeout_ms");
    let traces = reader.switch("otlp_traces");
    let metrics = reader.switch("otlp_metrics");
    let logs = reader.switch("otlp_logs");
    let interval = reader.millis("otlp_metrics_interval_ms");
    let calls_per_second = reader.count("otlp_calls_per_second");
    let ratio = reader.ratio("traces_sample_ratio");
    let ratio = sampler(reader, endpoint.is_some(), ratio);
    let mut service_name = reader.name("service_name");
    let mut resource = reader.pairs("resource_attributes", attribute_name);
    if let Some(at) = resource.iter().position(|(name, _)| name == "service.name") {
        let (_, given) = resource.swap_remove(at);
        if !reader.is_given("service_name") {
            service_name = given;
        }
    }
    let Some(endpoint) = endpoint else {
        // What the environment says for all programs need not be for this one.
        for name in IDLE {
            if reader.is_given_here(name) && reader.is_changed(name) {
                reader.complain(name, "does nothing without otlp_endpoint".to_owned());
            }
        }
        return TelemetryConfig { service_name, resource, otlp: None };
    };
    if ca.is_some() && !endpoint.starts_with("https:") {
        let message = "does nothing unless otlp_endpoint is an https URL";
        reader.complain("otlp_ca_file", message.to_owned());
    }
    let protocol = variable(reader.env(), PROTOCOL).unwrap_or_default();
    if !reader.is_given_here("otlp_endpoint") && !matches!(protocol, "" | "grpc") {
        let message = format!(
            "takes grpc, not {protocol:?}: only OTLP/gRPC is spoken; set PORTCULLIS_OTLP_ENDPOINT to \
             the collector's address for it (usually port 4317), or {DISABLED} to true"
        );
        reader.complain_at(PROTOCOL.to_owned(), message);
    }
    let secret = |(name, value): (String, String)| (name, Secret::new(value));
    let otlp = OtlpConfig {
        endpoint,
        headers: headers.into_iter().map(secret).collect(),
        ca,
        timeout,
        traces: traces.then_some(ratio),
        metrics: metrics.then_some(interval),
        logs,
        calls_per_second,
    };
    TelemetryConfig { service_name, resource, otlp: Some(otlp) }
}

/// What the standard's name of a sampler makes of the ratio.
fn sampler(reader: &mut Reader<'_>, on: bool, ratio: f64) -> f64 {
    if !on || reader.is_given_here("traces_sample_ratio") || disabled(reader.env()) {
        return ratio;
    }
    match variable(reader.env(), SAMPLER).unwrap_or_default() {
        "" | "parentbased_traceidratio" => ratio,
        "parentbased_always_on" => 1.0,
        "parentbased_always_off" => 0.0,
        other => {
            let message = format!(
                "takes parentbased_traceidratio, parentbased_always_on or parentbased_always_off, not \
                 {other:?}: a caller's decision always counts"
            );
            reader.complain_at(SAMPLER.to_owned(), message);
            ratio
        }
    }
}

/// A header's name in lower case, if it is one that may be set.
fn header_name(text: &str) -> Option<String> {
    let name = http::HeaderName::from_bytes(text.as_bytes()).ok()?;
    let name = name.as_str();
    // Those are the protocol's own; a value of bytes would have to be encoded.
    let own = matches!(name, "te" | "host" | "content-type" | "content-length" | "connection");
    (!own && !name.starts_with("grpc-") && !name.ends_with("-bin")).then(|| name.to_owned())
}

fn attribute_name(text: &str) -> Option<String> {
    let fit = (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    fit.then(|| text.to_owned())
}
