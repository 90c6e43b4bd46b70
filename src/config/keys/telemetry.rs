//! Traces, metrics and logs for a collector.

use super::{DAY, Key, MILLISECONDS, Takes};

/// OpenTelemetry's own variables that give a setting its value where nothing of ours does.
pub const STANDARD: &[(&str, &str)] = &[
    ("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("otlp_headers", "OTEL_EXPORTER_OTLP_HEADERS"),
    ("otlp_ca_file", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    ("otlp_timeout_ms", "OTEL_EXPORTER_OTLP_TIMEOUT"),
    ("otlp_metrics_interval_ms", "OTEL_METRIC_EXPORT_INTERVAL"),
    ("traces_sample_ratio", "OTEL_TRACES_SAMPLER_ARG"),
    ("service_name", "OTEL_SERVICE_NAME"),
    ("resource_attributes", "OTEL_RESOURCE_ATTRIBUTES"),
];

pub(super) const TELEMETRY: &[Key] = &[
    Key {
        name: "otlp_endpoint",
        takes: Takes::Url,
        default: "",
        only_with: None,
        doc: "The collector that gets traces, metrics and logs over OTLP/gRPC, such as \
              http://127.0.0.1:4317. Without it nothing is sent.",
    },
    Key {
        name: "otlp_headers",
        takes: Takes::Pairs { secret: true },
        default: "",
        only_with: None,
        doc: "Headers of each request to the collector, such as its credential. They are secret: \
              they belong into PORTCULLIS_OTLP_HEADERS or the file, not among the flags.",
    },
    Key {
        name: "otlp_ca_file",
        takes: Takes::File,
        default: "",
        only_with: None,
        doc: "The CAs that an https collector is verified with, in PEM; else the system's.",
    },
    Key {
        name: "otlp_timeout_ms",
        takes: Takes::Number(MILLISECONDS, 1, 60_000),
        default: "5000",
        only_with: None,
        doc: "How long one request to the collector may take, and how long the end of the process \
              waits for the last ones.",
    },
    Key {
        name: "otlp_traces",
        takes: Takes::Switch,
        default: "true",
        only_with: None,
        doc: "Whether the collector gets traces.",
    },
    Key {
        name: "otlp_metrics",
        takes: Takes::Switch,
        default: "true",
        only_with: None,
        doc: "Whether the collector gets metrics.",
    },
    Key {
        name: "otlp_logs",
        takes: Takes::Switch,
        default: "true",
        only_with: None,
        doc: "Whether the collector gets the log. It is written to stderr all the same.",
    },
    Key {
        name: "otlp_metrics_interval_ms",
        takes: Takes::Number(MILLISECONDS, 100, DAY),
        default: "60000",
        only_with: None,
        doc: "How often the collector gets metrics.",
    },
    Key {
        name: "otlp_calls_per_second",
        takes: Takes::Number("calls", 1, 1_000_000),
        default: "100",
        only_with: None,
        doc: "Of how many calls a second the collector hears one by one. Those beyond are counted, and \
              have their line on stderr, but begin no trace, and the collector gets their line only if \
              they are an error of the server. Lines of operations and of refused attempts (target `audit`) \
              do not count. Of calls that their callers trace it hears of as many again.",
    },
    Key {
        name: "traces_sample_ratio",
        takes: Takes::Ratio,
        default: "1",
        only_with: None,
        doc: "The part of the calls that are traced, of those whose caller does not say. A caller's \
              own decision (the sampled flag of traceparent) goes before it.",
    },
    Key {
        name: "service_name",
        takes: Takes::Name,
        default: "portcullis",
        only_with: None,
        doc: "This service's name in traces, metrics and logs.",
    },
    Key {
        name: "resource_attributes",
        takes: Takes::Pairs { secret: false },
        default: "",
        only_with: None,
        doc: "What else they say of this server, such as deployment.environment.name=production.",
    },
];
