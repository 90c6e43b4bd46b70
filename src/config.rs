//! The configuration: defaults, then the file, then the environment, then flags; each one overrides those before it.
//!
//! [`keys`] is the table of all settings. Parsing is pure: [`Config::parse`] takes the texts of all layers, and only
//! [`Config::load`] reads the environment and the files. Everything that is wrong is reported at once, under the name
//! that the user wrote. Read on in: [`keys`], `reader` (the layers), `file` (TOML), `targets`, `tls`,
//! `safety`, `reference`.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    rule::{AccountId, Region},
    tls::{ClientAuth, Files},
};

use self::reader::Reader;

mod authentication;
mod file;
pub mod keys;
mod ledger;
mod rate_limits;
mod reader;
mod reference;
mod safety;
mod tables;
mod targets;
mod telemetry;
mod tls;

pub use self::{
    authentication::{AuthenticationConfig, IssuerConfig, JwtAlgorithm, KeysFrom, StaticToken},
    ledger::{LedgerConfig, LedgerEngine},
    rate_limits::{CallClass, LimitedCaller, Rate, RateLimits, RateOverride},
    reader::nearest,
    reference::reference,
    telemetry::{OtlpConfig, TelemetryConfig},
};

/// The whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where the admin listener is; none if it is off.
    pub admin_listen: Option<SocketAddr>,
    /// Who encrypts connections.
    pub tls: TlsConfig,
    /// How often files that may change are looked at.
    pub reload_interval: Duration,
    /// What holds the security groups.
    pub backend: BackendConfig,
    /// The account of a call that names none.
    pub default_account: Option<AccountId>,
    /// The Region of a call that names none.
    pub default_region: Option<Region>,
    /// Who may do what. None: everything is allowed.
    pub policies: Option<PolicyConfig>,
    /// Who may call.
    pub authentication: AuthenticationConfig,
    /// What bounds calls and connections.
    pub limits: Limits,
    /// How often each caller may call.
    pub rate_limits: RateLimits,
    /// How much of EC2's request budgets is used, in percent; none: calls are not paced.
    pub pacing_percent: Option<u32>,
    /// Where changes are recorded.
    pub ledger: LedgerConfig,
    /// The log.
    pub log: LogConfig,
    /// What a collector gets.
    pub telemetry: TelemetryConfig,
    /// The settings in effect and where each comes from, for people.
    pub settings: Vec<Setting>,
}

/// Who encrypts connections.
#[derive(Clone, Debug)]
pub enum TlsConfig {
    /// Nobody.
    Off,
    /// This server, with these files.
    Server(Files),
    /// What stands in front of it.
    Upstream,
}

/// What holds the security groups.
#[derive(Debug)]
pub enum BackendConfig {
    /// The in-process sandbox.
    Sandbox(SandboxConfig),
    /// EC2.
    Ec2(Ec2Config),
}

/// The sandbox's part.
#[derive(Debug)]
pub struct SandboxConfig {
    /// The files that it starts with. They exist.
    pub state: Vec<PathBuf>,
    /// Where it answers EC2's own API; none if it does not.
    pub ec2_listen: Option<SocketAddr>,
    /// Whether that may be an address that other machines reach.
    pub ec2_allow_remote: bool,
    /// Whether it throttles as EC2 does.
    pub throttle: bool,
}

/// EC2's part.
#[derive(Debug)]
pub struct Ec2Config {
    /// Replaces EC2's own endpoints.
    pub endpoint_url: Option<String>,
    /// The accounts and Regions served. None: the account of AWS's default credential chain, in one Region.
    pub targets: Vec<TargetConfig>,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Whether it may start on real EC2 although callers are not authenticated.
    pub insecure_loopback: bool,
    /// Whether encoded authorization messages are decoded and logged.
    pub decode_authorization_messages: bool,
}

/// One account that is served.
#[derive(Debug)]
pub struct TargetConfig {
    /// The account.
    pub account: AccountId,
    /// Its Regions; at least one.
    pub regions: Vec<Region>,
    /// The role to assume in it.
    pub role_arn: Option<String>,
    /// What the role's trust policy asks for.
    pub external_id: Option<Secret>,
    /// Whether each caller has a session of its own.
    pub session_per_principal: bool,
}

/// Where the policies are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// The folder. It exists.
    pub dir: PathBuf,
    /// Whether they only report.
    pub report_only: bool,
}

/// What bounds calls and connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The deadline of a call that comes without one.
    pub default_deadline: Duration,
    /// The longest deadline.
    pub max_deadline: Duration,
    /// Calls in work at once.
    pub max_in_flight: usize,
    /// The largest request message.
    pub max_request_bytes: usize,
    /// How long calls are taken as before once the server says that it is not ready.
    pub drain_delay: Duration,
    /// How long a drain may take after that.
    pub drain_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Calls open at once on one connection.
    pub max_concurrent_streams: u32,
    /// The time between HTTP/2 pings.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// How old a connection gets, about; none: as old as it likes.
    pub max_connection_age: Option<Duration>,
    /// How long calls may go on at the end of their connection.
    pub max_connection_age_grace: Duration,
    /// How long a connection may be without a call; none: as long as it likes.
    pub max_connection_idle: Option<Duration>,
    /// Whether server reflection is served.
    pub reflection: bool,
}

/// The log's part.
#[derive(Debug)]
pub struct LogConfig {
    /// Its form.
    pub format: LogFormat,
    /// The filter's directives. They parse.
    pub directives: String,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, otherwise JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whom it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// One line of the configuration in effect.
#[derive(Debug)]
pub struct Setting {
    /// `name = value`, as the file would have it; a comment if the setting has no value.
    pub line: String,
    /// Where the value comes from: a line of the file, a variable, a flag or `default`.
    pub from: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What it is about, as the user wrote it: a file's line and key, a variable or a flag.
    pub place: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The texts of all layers.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file's name and text.
    pub file: Option<(PathBuf, String)>,
    /// The variables whose names begin with [`keys::ENV_PREFIX`], and OpenTelemetry's own.
    pub env: Vec<(String, String)>,
    /// The flags given: a setting's name in the table, and its values.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

impl Config {
    /// Reads the environment and the file that `--config` or else the environment names, and parses.
    pub fn load(
        config: Option<&Path>,
        flags: Vec<(&'static str, Vec<String>)>,
    ) -> Result<Self, Vec<Complaint>> {
        Self::load_and(config, flags, tls::check_files)
    }

    /// The same while a server runs, which reads TLS's files by itself: one that is being replaced, and does not fit yet, is
    /// nothing against the rest.
    pub fn load_again(
        config: Option<&Path>,
        flags: Vec<(&'static str, Vec<String>)>,
    ) -> Result<Self, Vec<Complaint>> {
        Self::load_and(config, flags, |_, _| {})
    }

    fn load_and(
        config: Option<&Path>,
        flags: Vec<(&'static str, Vec<String>)>,
        check: impl FnOnce(&mut Reader<'_>, &Self),
    ) -> Result<Self, Vec<Complaint>> {
        let mut sources = Sources { flags, ..Sources::default() };
        let mut complaints = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(keys::ENV_PREFIX) && !keys::is_standard(&name) {
                continue;
            }
            match value.into_string() {
                Ok(value) => sources.env.push((name, value)),
                Err(_) => complaints
                    .push(Complaint { place: name, message: "the value is not UTF-8".to_owned() }),
            }
        }
        // The environment has no order of its own; complaints shall.
        sources.env.sort();
        let of_env = sources.env.iter().find(|(name, _)| name == keys::CONFIG_ENV);
        let named = match (config, of_env) {
            (Some(path), _) => Some(("--config", path.to_owned())),
            (None, Some((_, path))) => Some((keys::CONFIG_ENV, PathBuf::from(path))),
            (None, None) => None,
        };
        if let Some((place, path)) = named {
            match std::fs::read_to_string(&path) {
                Ok(text) => sources.file = Some((path, text)),
                Err(error) => complaints.push(Complaint {
                    place: place.to_owned(),
                    message: format!("{} cannot be read: {error}", path.display()),
                }),
            }
        }
        let parsed = Self::parse_and(&sources, check);
        if complaints.is_empty() {
            return parsed;
        }
        complaints.extend(parsed.err().into_iter().flatten());
        Err(complaints)
    }

    /// Parses the layers. The only thing it asks the machine is whether the state files exist.
    pub fn parse(sources: &Sources) -> Result<Self, Vec<Complaint>> {
        Self::parse_and(sources, |_, _| {})
    }

    /// Parses, and reports what else `check` finds with all the rest.
    fn parse_and(
        sources: &Sources,
        check: impl FnOnce(&mut Reader<'_>, &Self),
    ) -> Result<Self, Vec<Complaint>> {
        let mut reader = Reader::new(sources);
        // In the order in which they are shown.
        let (listen, admin_listen) =
            (reader.address("listen"), reader.address_or_off("admin_listen"));
        let authentication = AuthenticationConfig::read(&mut reader);
        let tls = tls::read(&mut reader);
        let reload_interval = reader.millis("reload_interval_ms");
        let backend = BackendConfig::read(&mut reader);
        let config = Self {
            listen,
            admin_listen,
            authentication,
            tls,
            reload_interval,
            default_account: reader.account("default_account_id"),
            default_region: reader.region("default_region"),
            ledger: ledger::read(&mut reader, &backend),
            policies: PolicyConfig::read(&mut reader),
            limits: Limits::read(&mut reader),
            rate_limits: rate_limits::read(&mut reader),
            pacing_percent: pacing(&mut reader, &backend),
            log: LogConfig::read(&mut reader),
            telemetry: telemetry::read(&mut reader),
            backend,
            settings: Vec::new(),
        };
        targets::check_default(&mut reader, &config);
        safety::check(&mut reader, &config);
        check_ports(&mut reader, &config);
        check(&mut reader, &config);
        let settings = reader.finish()?;
        Ok(Self { settings, ..config })
    }

    /// The settings in effect as a file would have them, each with where it comes from. Secrets are left out.
    pub fn show(&self) -> String {
        let width =
            self.settings.iter().map(|setting| setting.line.len()).max().unwrap_or(0).min(60);
        let lines = self.settings.iter().map(|Setting { line, from }| {
            if from.is_empty() { format!("{line}\n") } else { format!("{line:width$}  # {from}\n") }
        });
        lines.collect()
    }
}

impl TlsConfig {
    /// Whether clients may name themselves with a certificate.
    pub fn names_clients(&self) -> bool {
        matches!(self, Self::Server(files) if files.client_auth != ClientAuth::Off)
    }
}

/// No two listeners have one port: the second would find it taken.
fn check_ports(reader: &mut Reader<'_>, config: &Config) {
    let door = match &config.backend {
        BackendConfig::Sandbox(sandbox) => sandbox.ec2_listen,
        BackendConfig::Ec2(_) => None,
    };
    let listeners =
        [("admin_listen", config.admin_listen), ("sandbox_ec2_listen", door)].into_iter();
    let mut taken = vec![("listen", config.listen)];
    for (name, address) in listeners.filter_map(|(name, address)| Some((name, address?))) {
        let clash = taken.iter().find(|(_, other)| {
            let (ip, other_ip) = (address.ip(), other.ip());
            address.port() == other.port()
                && (ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified())
        });
        match clash.filter(|_| address.port() != 0) {
            Some((other, _)) => reader.complain(name, format!("{address} is taken by {other}")),
            None => taken.push((name, address)),
        }
    }
}

fn pacing(reader: &mut Reader<'_>, backend: &BackendConfig) -> Option<u32> {
    let on = match reader.word("ec2_pacing") {
        "on" => true,
        "off" => false,
        _ => matches!(backend, BackendConfig::Ec2(_)),
    };
    let percent = reader.count("ec2_pacing_percent");
    on.then_some(percent)
}

impl BackendConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        let word = reader.word("backend");
        reader.refuse_other_backends(word);
        match word {
            "ec2" => Self::Ec2(Ec2Config::read(reader)),
            _ => Self::Sandbox(SandboxConfig {
                state: reader.files("sandbox_state"),
                ec2_listen: reader.address_or_off("sandbox_ec2_listen"),
                ec2_allow_remote: reader.switch("sandbox_ec2_allow_remote"),
                throttle: reader.switch("sandbox_throttle"),
            }),
        }
    }
}

impl Ec2Config {
    fn read(reader: &mut Reader<'_>) -> Self {
        let config = Self {
            endpoint_url: reader.url("ec2_endpoint_url"),
            targets: targets::read(reader),
            attempt_timeout: reader.millis("ec2_attempt_timeout_ms"),
            connect_timeout: reader.millis("ec2_connect_timeout_ms"),
            insecure_loopback: reader.switch("insecure_loopback"),
            decode_authorization_messages: reader.switch("ec2_decode_authorization_messages"),
        };
        reader.check_order("ec2_connect_timeout_ms", "ec2_attempt_timeout_ms");
        config
    }
}

impl PolicyConfig {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let dir = reader.folder("policy_dir");
        let report_only = reader.word("policy_mode") == "report-only";
        if dir.is_none() && report_only {
            let message = "says what becomes of the policies' decisions, and there are no \
                           policies: set policy_dir";
            reader.complain("policy_mode", message.to_owned());
        }
        Some(Self { dir: dir?, report_only })
    }
}

impl Limits {
    fn read(reader: &mut Reader<'_>) -> Self {
        let limits = Self {
            default_deadline: reader.millis("default_deadline_ms"),
            max_deadline: reader.millis("max_deadline_ms"),
            max_in_flight: reader.size("max_in_flight"),
            max_request_bytes: reader.size("max_request_bytes"),
            drain_delay: reader.millis("drain_delay_ms"),
            drain_timeout: reader.millis("drain_timeout_ms"),
            max_connections: reader.size("max_connections"),
            max_concurrent_streams: reader.count("max_concurrent_streams"),
            keepalive_interval: reader.millis("keepalive_interval_ms"),
            keepalive_timeout: reader.millis("keepalive_timeout_ms"),
            max_connection_age: reader.millis_or_never("max_connection_age_ms"),
            max_connection_age_grace: reader.millis("max_connection_age_grace_ms"),
            max_connection_idle: reader.millis_or_never("max_connection_idle_ms"),
            reflection: reader.switch("reflection"),
        };
        reader.check_order("default_deadline_ms", "max_deadline_ms");
        limits
    }
}

impl LogConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        let format = match reader.word("log_format") {
            "json" => LogFormat::Json,
            "text" => LogFormat::Text,
            _ => LogFormat::Auto,
        };
        Self { format, directives: reader.directives("log_level") }
    }
}

impl Default for Limits {
    /// What the table of settings says.
    fn default() -> Self {
        Self::read(&mut Reader::new(&Sources::default()))
    }
}
