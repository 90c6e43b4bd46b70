//! The metrics as Prometheus sees them. docs/metrics.md, which the program writes, has the same names.

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// As Prometheus names it, a histogram without its endings.
    pub name: &'static str,
    /// Whether it is asked for as `_bucket`, `_sum` and `_count`.
    pub histogram: bool,
    /// Its labels.
    pub labels: &'static [&'static str],
}

const fn one(name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, histogram: false, labels }
}

const fn histogram(name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, histogram: true, labels }
}

/// All of them.
pub const METRICS: &[Metric] = &[
    histogram(
        "rpc_server_call_duration_seconds",
        &["rpc_system_name", "rpc_method", "rpc_response_status_code", "portcullis_reason"],
    ),
    one("portcullis_calls_in_flight", &[]),
    one("portcullis_limiter_refusals_total", &["limit", "class"]),
    histogram("portcullis_pacing_wait_seconds", &["account", "region", "class"]),
    one("portcullis_pacing_queued", &["account", "region", "class"]),
    one("portcullis_pacing_refusals_total", &["account", "region", "class"]),
    histogram(
        "portcullis_ec2_call_duration_seconds",
        &["rpc_method", "account", "region", "error_type"],
    ),
    one("portcullis_ec2_throttles_total", &["rpc_method", "account", "region"]),
    histogram("portcullis_ledger_commit_duration_seconds", &["engine"]),
    histogram("portcullis_ledger_commit_writes", &["engine"]),
    one("portcullis_ledger_up", &[]),
    histogram("portcullis_turns_wait_seconds", &[]),
    one("portcullis_operations_finished_total", &["rpc_method", "state"]),
    one("portcullis_operations_unsettled", &["state"]),
    one("portcullis_operations_oldest_unsettled_seconds", &[]),
    one("portcullis_operations_recovered_total", &["settled_by", "state"]),
    one("portcullis_reload_failures_total", &["part"]),
    one("portcullis_reload_stale", &["part"]),
    one("portcullis_tls_certificate_expiry_seconds", &[]),
    one("portcullis_keys_age_seconds", &["issuer"]),
    one("portcullis_log_lines_lost_total", &[]),
    one("portcullis_draining", &[]),
    one("portcullis_connections", &[]),
    one("portcullis_build_info", &["version", "backend", "ledger"]),
];

/// The metric that a query means with `name`.
pub fn find(name: &str) -> Option<&'static Metric> {
    let endings = ["_bucket", "_sum", "_count"];
    let stem = endings.iter().find_map(|ending| name.strip_suffix(ending));
    METRICS.iter().find(|metric| {
        if metric.histogram { stem == Some(metric.name) } else { name == metric.name }
    })
}
