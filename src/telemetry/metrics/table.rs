//! Every metric: name, kind, unit, attributes, meaning. Instruments are made from this table, and `docs/metrics.md` is
//! written from it, so that there is one place to look.
//!
//! Values of attributes are bounded: they are fixed in the code, or come from the configuration. No caller, group, key
//! or request id is ever one. An RPC that does not exist is `_OTHER`.

use std::fmt::Write as _;

use Kind::{Counter, Gauge, Histogram, UpDown};

/// What a metric counts or measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Grows and shrinks.
    UpDown,
    /// What is now.
    Gauge,
    /// How often which values; the bounds of its buckets.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// OpenTelemetry's name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// In UCUM; empty: a number without one.
    pub unit: &'static str,
    /// The attributes, and which values each has.
    pub attributes: &'static [(&'static str, &'static str)],
    /// What it says.
    pub doc: &'static str,
}

/// Of calls, from the cheapest refusal to the longest deadline.
const CALL_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0,
];
/// Of waiting, which most often is none.
const WAIT_SECONDS: &[f64] =
    &[0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];
/// Of commits, from memory's to a disk that is stuck.
const COMMIT_SECONDS: &[f64] = &[
    0.000_01, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0,
];
/// SQLite takes 512 writes into one commit at most.
const COMMIT_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

const RPC: (&str, &str) = (
    "rpc.method",
    "`portcullis.v1.SecurityGroupService/RevokeEgress` and so on; `_OTHER` for what is no RPC",
);
const ACCOUNT: (&str, &str) = ("account", "a configured account");
const REGION: (&str, &str) = ("region", "a configured Region");
const CLASS: (&str, &str) = ("class", "`read`, `mutate`");
const ENGINE: (&str, &str) = ("engine", "`memory`, `sqlite`, `postgres`");
const PART: (&str, &str) = ("part", "`tls`, `policies`, `credentials`");
const ACTION: (&str, &str) = ("rpc.method", "EC2's action, `RevokeSecurityGroupEgress`");

/// `rpc.server.call.duration`.
pub const CALL_DURATION: Metric = Metric {
    name: "rpc.server.call.duration",
    kind: Histogram(CALL_SECONDS),
    unit: "s",
    attributes: &[
        ("rpc.system.name", "`grpc`"),
        RPC,
        ("rpc.response.status_code", "gRPC's code: `OK`, `NOT_FOUND`"),
        (
            "portcullis.reason",
            "the reason in ErrorInfo (docs/errors.md), empty when OK; `DROPPED` with `CANCELLED`: the caller left; \
             `NOT_GRPC` with `INVALID_ARGUMENT`: neither gRPC nor what is translated into it, and answered with an \
             HTTP status alone",
        ),
        (
            "error.type",
            "gRPC's code again, if it is a fault of the server: `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, \
             `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`; absent otherwise",
        ),
    ],
    doc: "Duration of calls, from their head to the last frame of their answer, dropped ones included",
};
/// `portcullis.calls.in_flight`.
pub const CALLS_IN_FLIGHT: Metric = Metric {
    name: "portcullis.calls.in_flight",
    kind: UpDown,
    unit: "{call}",
    attributes: &[],
    doc: "Calls that came and are not answered yet",
};
/// `portcullis.limiter.refusals`.
pub const LIMITER_REFUSALS: Metric = Metric {
    name: "portcullis.limiter.refusals",
    kind: Counter,
    unit: "{call}",
    attributes: &[("limit", "`principal`, `in_flight`, `failed_authentication`"), CLASS],
    doc: "Calls refused because their caller, or an address that fails to authenticate, comes too often, or has too many in flight",
};
/// `portcullis.pacing.wait`.
pub const PACING_WAIT: Metric = Metric {
    name: "portcullis.pacing.wait",
    kind: Histogram(WAIT_SECONDS),
    unit: "s",
    attributes: &[ACCOUNT, REGION, CLASS],
    doc: "How long calls to EC2 waited for their place in EC2's budget, those without a wait included",
};
/// `portcullis.pacing.queued`.
pub const PACING_QUEUED: Metric = Metric {
    name: "portcullis.pacing.queued",
    kind: UpDown,
    unit: "{call}",
    attributes: &[ACCOUNT, REGION, CLASS],
    doc: "Calls to EC2 that wait for their place in EC2's budget",
};
/// `portcullis.pacing.refusals`.
pub const PACING_REFUSALS: Metric = Metric {
    name: "portcullis.pacing.refusals",
    kind: Counter,
    unit: "{call}",
    attributes: &[ACCOUNT, REGION, CLASS],
    doc: "Calls refused because EC2's budget had no place for them in time",
};
/// `portcullis.ec2.call.duration`.
pub const EC2_CALL_DURATION: Metric = Metric {
    name: "portcullis.ec2.call.duration",
    kind: Histogram(CALL_SECONDS),
    unit: "s",
    attributes: &[
        ACTION,
        ACCOUNT,
        REGION,
        (
            "error.type",
            "EC2's code, or `unavailable`, `credentials_unavailable`, `outcome_unknown`; absent when fine",
        ),
    ],
    doc: "Duration of calls to EC2, further attempts of the SDK included",
};
/// `portcullis.ec2.throttles`.
pub const EC2_THROTTLES: Metric = Metric {
    name: "portcullis.ec2.throttles",
    kind: Counter,
    unit: "{request}",
    attributes: &[ACTION, ACCOUNT, REGION],
    doc: "Requests to EC2 that it throttled: the SDK tries reads up to three times, and each counts",
};
/// `portcullis.ledger.commit.duration`.
pub const COMMIT_DURATION: Metric = Metric {
    name: "portcullis.ledger.commit.duration",
    kind: Histogram(COMMIT_SECONDS),
    unit: "s",
    attributes: &[ENGINE],
    doc: "Duration of the ledger's commits, failed ones included",
};
/// `portcullis.ledger.commit.writes`.
pub const COMMIT_WRITES: Metric = Metric {
    name: "portcullis.ledger.commit.writes",
    kind: Histogram(COMMIT_SIZES),
    unit: "{write}",
    attributes: &[ENGINE],
    doc: "Writes that one commit of the ledger made durable together",
};
/// `portcullis.ledger.up`.
pub const LEDGER_UP: Metric = Metric {
    name: "portcullis.ledger.up",
    kind: Gauge,
    unit: "",
    attributes: &[],
    doc: "1: the ledger can be written to; 0: it cannot, and changes are refused",
};
/// `portcullis.turns.wait`.
pub const TURNS_WAIT: Metric = Metric {
    name: "portcullis.turns.wait",
    kind: Histogram(WAIT_SECONDS),
    unit: "s",
    attributes: &[],
    doc: "How long changes waited for the turn of their group, those that waited in vain included",
};
/// `portcullis.operations.finished`.
pub const OPERATIONS_FINISHED: Metric = Metric {
    name: "portcullis.operations.finished",
    kind: Counter,
    unit: "{operation}",
    attributes: &[RPC, ("state", "`SUCCEEDED`, `REFUSED`, `RELEASED`, `IN_DOUBT`, `UNRESOLVED`")],
    doc: "Operations by the state that they were left in; one left in doubt counts again when it is settled",
};
/// `portcullis.operations.unsettled`.
pub const OPERATIONS_UNSETTLED: Metric = Metric {
    name: "portcullis.operations.unsettled",
    kind: Gauge,
    unit: "{operation}",
    attributes: &[("state", "`IN_PROGRESS`, `IN_DOUBT`, `UNRESOLVED`")],
    doc: "Operations in the ledger without an outcome, counted every few seconds; every replica counts all",
};
/// `portcullis.operations.oldest_unsettled`.
pub const OLDEST_UNSETTLED: Metric = Metric {
    name: "portcullis.operations.oldest_unsettled",
    kind: Gauge,
    unit: "s",
    attributes: &[],
    doc: "Age of the oldest operation that is IN_PROGRESS or IN_DOUBT; 0: there is none",
};
/// `portcullis.operations.recovered`.
pub const OPERATIONS_RECOVERED: Metric = Metric {
    name: "portcullis.operations.recovered",
    kind: Counter,
    unit: "{operation}",
    attributes: &[("settled_by", "`READ_BACK`, `OPERATOR`"), ("state", "`SUCCEEDED`, `RELEASED`")],
    doc: "Operations whose answer was lost and that were settled otherwise",
};
/// `portcullis.reload.failures`.
pub const RELOAD_FAILURES: Metric = Metric {
    name: "portcullis.reload.failures",
    kind: Counter,
    unit: "{reload}",
    attributes: &[PART],
    doc: "Attempts to read changed files that failed; one that is broken is tried at every look",
};
/// `portcullis.reload.stale`.
pub const RELOAD_STALE: Metric = Metric {
    name: "portcullis.reload.stale",
    kind: Gauge,
    unit: "",
    attributes: &[PART],
    doc: "1: the files are broken, and the part works on with what it had",
};
/// `portcullis.tls.certificate.expiry`.
pub const CERTIFICATE_EXPIRY: Metric = Metric {
    name: "portcullis.tls.certificate.expiry",
    kind: Gauge,
    unit: "s",
    attributes: &[],
    doc: "When the server's certificate expires, in seconds since 1970",
};
/// `portcullis.tls.certificate.not_before`.
pub const CERTIFICATE_NOT_BEFORE: Metric = Metric {
    name: "portcullis.tls.certificate.not_before",
    kind: Gauge,
    unit: "s",
    attributes: &[],
    doc: "From when the server's certificate is good, in seconds since 1970: with its expiry, how long it lives",
};
/// `portcullis.tls.client_ca.expiry`.
pub const CLIENT_CA_EXPIRY: Metric = Metric {
    name: "portcullis.tls.client_ca.expiry",
    kind: Gauge,
    unit: "s",
    attributes: &[],
    doc: "When the first of the CAs of client certificates expires, in seconds since 1970; absent without any",
};
/// `portcullis.tls.crl.expiry`.
pub const CRL_EXPIRY: Metric = Metric {
    name: "portcullis.tls.crl.expiry",
    kind: Gauge,
    unit: "s",
    attributes: &[],
    doc: "When the first of the revocation lists expires, in seconds since 1970: from then on the clients of its CA are refused; absent if none says when",
};
/// `portcullis.keys.age`.
pub const KEYS_AGE: Metric = Metric {
    name: "portcullis.keys.age",
    kind: Gauge,
    unit: "s",
    attributes: &[("issuer", "a configured issuer")],
    doc: "Age of the keys of an issuer that has them at a URL, since they were fetched; before that, since the start",
};
/// `portcullis.log.lines_lost`.
pub const LOG_LINES_LOST: Metric = Metric {
    name: "portcullis.log.lines_lost",
    kind: Counter,
    unit: "{line}",
    attributes: &[],
    doc: "Log lines lost because stderr is read too slowly",
};
/// `portcullis.telemetry.lost`.
pub const TELEMETRY_LOST: Metric = Metric {
    name: "portcullis.telemetry.lost",
    kind: Counter,
    unit: "{item}",
    attributes: &[("signal", "`traces`: spans; `logs`: lines; `metrics`: exports of all of them")],
    doc: "What is known not to have reached the collector; absent without one",
};
/// `portcullis.telemetry.untold`.
pub const TELEMETRY_UNTOLD: Metric = Metric {
    name: "portcullis.telemetry.untold",
    kind: Counter,
    unit: "{call}",
    attributes: &[],
    doc: "Calls beyond otlp_calls_per_second, of which the collector does not hear one by one; absent without one",
};
/// `portcullis.draining`.
pub const DRAINING: Metric = Metric {
    name: "portcullis.draining",
    kind: Gauge,
    unit: "",
    attributes: &[],
    doc: "1: no new calls are taken, and those in flight are finished",
};
/// `portcullis.connections`.
pub const CONNECTIONS: Metric = Metric {
    name: "portcullis.connections",
    kind: UpDown,
    unit: "{connection}",
    attributes: &[],
    doc: "Open connections, those in a TLS handshake included",
};
/// `portcullis.build.info`.
pub const BUILD_INFO: Metric = Metric {
    name: "portcullis.build.info",
    kind: Gauge,
    unit: "",
    attributes: &[
        ("version", "this build's"),
        ("backend", "`sandbox`, `ec2`"),
        ("ledger", "`memory`, `sqlite`, `postgres`"),
    ],
    doc: "Always 1: what runs",
};

/// All of them, in the order of the reference.
pub const TABLE: &[&Metric] = &[
    &CALL_DURATION,
    &CALLS_IN_FLIGHT,
    &CONNECTIONS,
    &LIMITER_REFUSALS,
    &TURNS_WAIT,
    &PACING_WAIT,
    &PACING_QUEUED,
    &PACING_REFUSALS,
    &EC2_CALL_DURATION,
    &EC2_THROTTLES,
    &OPERATIONS_FINISHED,
    &OPERATIONS_UNSETTLED,
    &OLDEST_UNSETTLED,
    &OPERATIONS_RECOVERED,
    &LEDGER_UP,
    &COMMIT_DURATION,
    &COMMIT_WRITES,
    &RELOAD_FAILURES,
    &RELOAD_STALE,
    &CERTIFICATE_NOT_BEFORE,
    &CERTIFICATE_EXPIRY,
    &CLIENT_CA_EXPIRY,
    &CRL_EXPIRY,
    &KEYS_AGE,
    &LOG_LINES_LOST,
    &TELEMETRY_LOST,
    &TELEMETRY_UNTOLD,
    &DRAINING,
    &BUILD_INFO,
];

impl Metric {
    /// The name that Prometheus sees: what the exporter makes of name, unit and kind.
    pub fn prometheus_name(&self) -> String {
        let unit = if self.unit == "s" { "_seconds" } else { "" };
        let total = if self.kind == Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }

    fn kind_name(&self) -> &'static str {
        match self.kind {
            Counter => "counter",
            UpDown => "up-down counter",
            Gauge => "gauge",
            Histogram(_) => "histogram",
        }
    }
}

const HEAD: &str = "\
# Metrics

<!-- Written by a test from the table in src/telemetry/metrics/table.rs:
     PORTCULLIS_TEST_UPDATE=1 cargo test --test metrics -->

`GET /metrics` on the admin listener (`admin_listen`) answers in Prometheus' text format, version 0.0.4. The same
metrics have OpenTelemetry's names, units and attributes; in Prometheus' names and labels a `.` is a `_`, seconds are
`_seconds`, and counters end in `_total`. Up-down counters are gauges there.

Labels are bounded: their values are fixed, or come from the configuration. No caller, group, key or request id is a
label, and whatever paths a stranger asks for, they are one series: `_OTHER`. Most metrics of what has not happened since
the start have no series yet; those of refusals and recoveries begin at 0.

A process keeps 2000 series of a metric at most (OpenTelemetry's default; a histogram's buckets are one). What comes beyond
is put into a single one, whose only label is `otel_metric_overflow=\"true\"`, until the next start. That is for those who
serve many accounts: `portcullis_ec2_call_duration_seconds` has a series for each of EC2's nine actions, for each account and
Region, fine, and again for each error that came. 2000 of them are 222 pairs of account and Region where nothing ever
fails, 111 with one error of each action, 74 with two, in each replica. `portcullis_ec2_throttles_total` is full with 222 pairs that were
throttled at every action, pacing's metrics with 1000 pairs. Sums stay right then, but an account or Region that came late has no series
of its own, and PortcullisEc2Slow and PortcullisEc2Throttled do not name it. `{otel_metric_overflow=\"true\"}` in Prometheus
says whether it is so; `targets` in `/readyz`, spans and the log have every account all the same.
";

const TAIL: &str = "
## Beside them on the admin listener

| path | who may | what it answers |
| --- | --- | --- |
| `GET /livez` | anyone | 200 while the process runs |
| `GET /readyz` | anyone | 200 if it takes calls, else 503; the body also says how the ledger, the backend and the files that are read again stand |
| `GET /version` | anyone | name and version |
| `GET /metrics` | anyone | the above |
| `GET /config` | this machine | the configuration in effect with the place that each value comes from, as `check-config` prints it: secrets are left out |
| `GET /log-level` | this machine | the log filter's directives |
| `PUT /log-level` | this machine | sets them: `curl -X PUT --data 'info,portcullis=debug' http://127.0.0.1:9464/log-level`. It lasts until the next start; what is no directive is refused |

`this machine`: both ends of the connection are loopback addresses and no proxy says that it forwards; everyone else
gets 403. On Kubernetes `kubectl port-forward` comes that way.

`/readyz` has `dependencies`: `ledger` is `ok` or `unavailable`, `tls`, `policies` and `credentials` are `ok` or `stale`, and `backend` is
`in process` for the sandbox. For EC2 it is `not called`, `ok` or `failing`, and `targets` has the same for each account and
Region, as the last call to it saw it; nothing is asked for the sake of readiness, and an EC2 that fails makes no replica unready.

| in `targets` | |
| --- | --- |
| `account`, `region` | which |
| `state` | `ok`: the last call was answered, if only by a refusal of what was asked for; `failing`: it was not, or throttled, or our credentials were not taken; `not called` |
| `answered_seconds_ago` | when it answered last, or null |
| `failed_seconds_ago`, `failure` | when it failed last, and how, in the words of `error_type` above; null: never |
| `pace_percent` | how much of its budget's rate is used, by the slowest action: less than 100 for a while after EC2 throttled; null if `ec2_pacing` is `off` |

`grpc.health.v1`, on the gRPC port, has these names: the empty one and the services, which serve until a drain begins; `mutations`
and `ledger`, which do not while the ledger cannot be written to; `backend`, which does not while the last call to an account and
Region of EC2 failed, though calls go on; and `policy`, if there are policies. `portcullis health --service NAME` asks for one.
";

/// The reference, as Markdown: `docs/metrics.md` is this text.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for metric in TABLE {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n## `{}`\n\n{}.\n\n- OpenTelemetry: `{}`, {}",
            metric.prometheus_name(),
            metric.doc,
            metric.name,
            metric.kind_name()
        );
        if !metric.unit.is_empty() {
            let _ = write!(text, ", unit `{}`", metric.unit);
        }
        text.push('\n');
        for (name, values) in metric.attributes {
            let _ = writeln!(text, "- label `{}`: {values}", name.replace('.', "_"));
        }
        if let Histogram(bounds) = metric.kind {
            let bounds: Vec<String> = bounds.iter().map(f64::to_string).collect();
            let _ = writeln!(text, "- buckets: {}", bounds.join(", "));
        }
    }
    text + TAIL
}
