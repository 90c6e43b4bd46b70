//! The program: flags, configuration, log, parts, listeners, server, exit code.

use std::{
    future::Future,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

#[cfg(feature = "ec2")]
use portcullis::config::TargetConfig;
use portcullis::{
    access::{Access, Mode},
    admin::{self, Admin},
    api::{methods, query, scribe::ProtoScribe},
    backend::{Backend, paced::Paced, sandbox::Sandbox},
    cli::{
        self, Command, Settings,
        banner::{Addresses, Sample, banner},
        client::{Client, Screen},
        ledger::{Failure, Ledger},
    },
    clock::{Clock, SystemClock},
    config::{
        self, BackendConfig, Complaint, Config, Ec2Config, LedgerConfig, LedgerEngine, LogFormat,
        PolicyConfig, SandboxConfig, TlsConfig,
    },
    credentials::{Authenticator, Reread},
    ledger::{
        self, Terms,
        memory::Memory,
        postgres::{self, Postgres},
        sqlite::Sqlite,
    },
    middleware::idempotency::{Books, SETTLE_EVERY},
    operations::Timing,
    random::{Random, SystemRandom},
    reload::{Reload, Stale},
    rule::Target,
    server::{self, ServerStatus},
    telemetry::{
        self,
        level::Level,
        metrics::{Metrics, Reading, table},
    },
    tls::Tls,
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot},
};

/// Many small allocations per call on all cores: mimalloc is faster at them than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OK: u8 = 0;
const FAILED: u8 = 1;
/// A write beyond RLIMIT_FSIZE: the same number on Linux and macOS, which tokio has no name for.
const SIGXFSZ: i32 = 25;
/// EX_USAGE of sysexits.h: trying again without changing something is of no use.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let code = match cli::parse(std::env::args_os()) {
        Ok(Command::Serve(settings)) => run(serve(settings)),
        Ok(Command::CheckConfig(check)) if check.reference => print(&config::reference()),
        Ok(Command::CheckConfig(check)) => check_config(check.settings),
        Ok(Command::Health(health)) => run(ask_health(health)),
        Ok(Command::Policy(policy)) => match policy.run() {
            Ok(said) => {
                print(&said.text);
                if said.good { OK } else { FAILED }
            }
            Err(error) => complain(&error, USAGE),
        },
        Ok(Command::NewToken(new)) => print(&new.make(&SystemRandom)),
        Ok(Command::Ledger(ledger)) => run(work_on(ledger)),
        Ok(Command::Client(client)) => run(ask(client)),
        Err(error) => {
            // If nobody reads it there is nobody to tell.
            let _ = error.print();
            if error.use_stderr() { USAGE } else { OK }
        }
    };
    ExitCode::from(code)
}

/// Runs to the end without waiting for blocking work that is left then: after a second signal there may be some.
fn run(command: impl Future<Output = u8>) -> u8 {
    match Runtime::new() {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            runtime.shutdown_background();
            code
        }
        Err(error) => complain(&format!("cannot start: {error}"), FAILED),
    }
}

async fn serve(settings: Settings) -> u8 {
    let config = match Config::load(settings.config.as_deref(), settings.flags.clone()) {
        Ok(config) => config,
        Err(complaints) => return refuse(&complaints),
    };
    let json = match config.log.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let log = telemetry::Settings {
        json,
        directives: &config.log.directives,
        telemetry: &config.telemetry,
        instance: uuid::Builder::from_random_bytes(SystemRandom.bits().to_be_bytes())
            .into_uuid()
            .to_string(),
    };
    let (mut telemetry, level) = match telemetry::start(log) {
        Ok(started) => started,
        Err(error) => return complain(&format!("cannot start the log: {error}"), FAILED),
    };
    let metrics = match open_metrics(&config, &mut telemetry) {
        Ok(metrics) => metrics,
        Err(error) => return complain(&format!("cannot start the metrics: {error}"), FAILED),
    };
    match start(&config, settings, &metrics, level).await {
        Ok(started) => started.finish().await,
        Err(error) => {
            tracing::error!(error, "cannot start");
            FAILED
        }
    }
}

/// What runs between start and end.
struct Started {
    signals: Signals,
    drain: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<server::Drained>,
}

async fn start(
    config: &Config,
    settings: Settings,
    metrics: &Metrics,
    level: Level,
) -> Result<Started, String> {
    // First, so that a signal during the start is not missed.
    let signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
    let file = settings.config.clone();
    let parts = open(config, settings, metrics).await?;
    let stale = watched_files(metrics);
    // Before anyone is told that it runs, and may send SIGHUP.
    start_reload(watched(&parts, config, file, stale.clone()), config)
        .map_err(|error| format!("signals: {error}"))?;
    let listener = bind("listen", config.listen).await?;
    let grpc = local_address(&listener)?;
    let status = ServerStatus::default();
    let ec2_door = open_ec2_door(config, &parts).await?;
    let mut admin = None;
    if let Some(address) = config.admin_listen {
        let listener = bind("admin_listen", address).await?;
        admin = Some(local_address(&listener)?);
        // It answers as long as the process runs, through the drain.
        let (status, metrics) = (status.clone(), metrics.clone());
        let admin = Admin { status, stale, metrics, config: config.show().into(), level };
        tokio::spawn(admin::serve(listener, admin, std::future::pending()));
    }
    print(&banner(config, Addresses { grpc, admin, ec2_door }, sample(config)));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %grpc,
        admin = admin.map(tracing::field::display),
        ec2_door = ec2_door.map(tracing::field::display),
        backend = ?config.backend,
        "started"
    );
    if let BackendConfig::Ec2(Ec2Config { insecure_loopback: true, .. }) = config.backend {
        tracing::warn!("anyone on this machine can change these accounts' security groups");
    }
    let (drain, draining) = oneshot::channel();
    let shutdown = async {
        // Whether sent or dropped, it means the end.
        let _ = draining.await;
    };
    let server = tokio::spawn(server::serve(listener, parts, shutdown, status));
    Ok(Started { signals, drain, server })
}

/// A rule of the sample state, for the calls to try.
fn sample(config: &Config) -> Option<Sample<'static>> {
    match &config.backend {
        BackendConfig::Sandbox(sandbox) if sandbox.state.is_empty() => Some(Sample {
            group_id: "sg-000000000000000d1",
            ip_permission: r#"{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}"#,
        }),
        BackendConfig::Sandbox(_) | BackendConfig::Ec2(_) => None,
    }
}

impl Started {
    /// Waits for the drain that the first signal starts. The second ends it.
    async fn finish(self) -> u8 {
        let Self { mut signals, drain, mut server } = self;
        let ended = tokio::select! {
            ended = &mut server => ended,
            name = signals.next() => {
                tracing::info!(signal = name, "draining; a second signal ends at once");
                drop(drain);
                tokio::select! {
                    ended = &mut server => ended,
                    name = signals.next() => {
                        tracing::error!(signal = name, "ended before the drain was complete");
                        return FAILED;
                    }
                }
            }
        };
        match ended {
            Ok(server::Drained { complete: true }) => {
                tracing::info!("ended after a complete drain");
                OK
            }
            Ok(server::Drained { complete: false }) => {
                tracing::error!("ended with calls still in work: drain_timeout_ms was too short");
                FAILED
            }
            Err(error) => {
                tracing::error!(%error, "the server failed");
                FAILED
            }
        }
    }
}

/// What counts, and what this process says of itself.
fn open_metrics(config: &Config, telemetry: &mut telemetry::Guard) -> Result<Metrics, String> {
    let metrics = telemetry.metrics()?;
    let backend = match &config.backend {
        BackendConfig::Sandbox(_) => "sandbox",
        BackendConfig::Ec2(_) => "ec2",
    };
    let ledger = match &config.ledger.engine {
        LedgerEngine::Memory => "memory",
        LedgerEngine::Sqlite(_) => "sqlite",
        LedgerEngine::Postgres(_) => "postgres",
    };
    metrics.watch(&table::BUILD_INFO, move || {
        let one = Reading::of(1.0).with("version", env!("CARGO_PKG_VERSION"));
        vec![one.with("backend", backend).with("ledger", ledger)]
    });
    Ok(metrics)
}

/// The parts that are read again, as the metrics tell of them.
fn watched_files(metrics: &Metrics) -> Stale {
    let stale = Stale::default();
    let parts = stale.clone();
    metrics.watch(&table::RELOAD_STALE, move || {
        let parts = parts.parts().into_iter();
        parts.map(|part| Reading::flag(part.is_stale).with("part", part.name)).collect()
    });
    let parts = stale.clone();
    metrics.watch(&table::RELOAD_FAILURES, move || {
        let parts = parts.parts().into_iter();
        parts.map(|part| Reading::count(part.failures).with("part", part.name)).collect()
    });
    stale
}

/// Opens the parts that the server is made of.
async fn open(
    config: &Config,
    settings: Settings,
    metrics: &Metrics,
) -> Result<server::Parts, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let (backend, sandbox): (Arc<dyn Backend>, _) = match &config.backend {
        BackendConfig::Sandbox(sandbox) => {
            let sandbox = open_sandbox(config, sandbox, clock.clone(), random.clone())?;
            (sandbox.clone(), Some(sandbox))
        }
        BackendConfig::Ec2(ec2) => (open_ec2(config, ec2, metrics).await?, None),
    };
    let authenticator = Arc::new(open_authenticator(config, settings, clock.clone()).await?);
    let access = Arc::new(open_access(config)?);
    let tls = open_tls(config, clock.clone())?;
    let books = open_books(config, clock.clone(), random.clone(), metrics).await?;
    let backend = match config.pacing_percent {
        Some(percent) => {
            let paced = pace(config, backend, percent, &*random).await?;
            Arc::new(paced.counted(metrics.clone()))
        }
        None => backend,
    };
    let (limits, rate_limits) = (config.limits.clone(), config.rate_limits.clone());
    Ok(server::Parts {
        limits,
        rate_limits,
        tls,
        authenticator,
        backend,
        sandbox,
        books,
        access,
        clock,
        random,
        metrics: metrics.clone(),
    })
}

/// The ledger, and what goes with it.
async fn open_books(
    config: &Config,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    metrics: &Metrics,
) -> Result<Books, String> {
    let LedgerConfig { engine, key_required, key_retention, record_retention, grace } =
        &config.ledger;
    let terms = Terms { key_retention: *key_retention, record_retention: *record_retention };
    let ledger: Arc<dyn ledger::Ledger> = match engine {
        LedgerEngine::Memory => Arc::new(Memory::new(terms, clock).counted(metrics)),
        LedgerEngine::Sqlite(path) => {
            let opened = Sqlite::open(path, &config.backend.ledger_binding(), terms, clock);
            Arc::new(opened.map_err(|error| error.to_string())?.counted(metrics))
        }
        LedgerEngine::Postgres(url) => {
            let settings = postgres::Settings::parse(url.expose());
            let settings = settings.map_err(|error| error.to_string())?;
            let opened =
                Postgres::open(&settings, &config.backend.ledger_binding(), terms, random).await;
            Arc::new(opened.map_err(|error| error.to_string())?.counted(metrics))
        }
    };
    let attempt = match &config.backend {
        BackendConfig::Ec2(ec2) => ec2.attempt_timeout,
        BackendConfig::Sandbox(_) => Timing::default().attempt,
    };
    Ok(Books {
        ledger,
        scribe: Arc::new(ProtoScribe),
        timing: Timing::new(attempt, *grace),
        key_required: *key_required,
        settle_every: SETTLE_EVERY,
    })
}

/// The pacing of EC2's calls, which replicas share through the database of their ledger.
async fn pace(
    config: &Config,
    backend: Arc<dyn Backend>,
    percent: u32,
    random: &dyn Random,
) -> Result<Paced, String> {
    let paced = Paced::new(backend, percent);
    let LedgerEngine::Postgres(url) = &config.ledger.engine else { return Ok(paced) };
    let settings = postgres::Settings::parse(url.expose()).map_err(|error| error.to_string())?;
    let shared = postgres::Budgets::join(&settings, random).await;
    Ok(paced.sharing(Arc::new(shared.map_err(|error| error.to_string())?)))
}

/// TLS, if it is served here.
fn open_tls(config: &Config, clock: Arc<dyn Clock>) -> Result<Option<Arc<Tls>>, String> {
    let TlsConfig::Server(files) = &config.tls else { return Ok(None) };
    let tls = Tls::open(files.clone(), clock).map_err(|faults| {
        let lines = faults.iter().map(|wrong| format!("\n  {}: {}", wrong.setting, wrong.message));
        format!("TLS cannot be served:{}", lines.collect::<String>())
    })?;
    Ok(Some(Arc::new(tls)))
}

/// The policies, if there are any.
fn open_access(config: &Config) -> Result<Access, String> {
    methods::check()?;
    let Some(PolicyConfig { dir, report_only }) = &config.policies else {
        return Ok(Access::allow_all());
    };
    let mode = if *report_only { Mode::ReportOnly } else { Mode::Enforce };
    Access::open(dir, mode).map_err(|faults| {
        let lines = faults.iter().map(|fault| format!("\n  {fault}"));
        format!("the policies in {} are wrong:{}", dir.display(), lines.collect::<String>())
    })
}

/// What tells who calls. Its static tokens are read anew from where the configuration came from.
async fn open_authenticator(
    config: &Config,
    settings: Settings,
    clock: Arc<dyn Clock>,
) -> Result<Authenticator, String> {
    let reread = move || match Config::load(settings.config.as_deref(), settings.flags.clone()) {
        // As a file is while it is written anew. What authenticates nobody would not have started as this did.
        Ok(Config { authentication, tls, .. })
            if !authentication.has_credentials() && !tls.names_clients() =>
        {
            Err("the configuration names no caller any more: that needs a restart".to_owned())
        }
        Ok(config) => Ok(config.authentication.tokens),
        Err(complaints) => {
            let lines: Vec<String> = complaints.iter().map(ToString::to_string).collect();
            Err(format!("the configuration is wrong: {}", lines.join("; ")))
        }
    };
    let authentication = config.authentication.clone();
    let certificates = config.tls.names_clients();
    let authenticator = Authenticator::open(authentication, certificates, clock).await?;
    Ok(authenticator.with_reread(Reread(Box::new(reread))))
}

/// The parts whose files may change while the server runs.
fn watched(parts: &server::Parts, config: &Config, file: Option<PathBuf>, stale: Stale) -> Reload {
    let mut reload = Reload::new(stale);
    if let Some(tls) = parts.tls.clone() {
        reload.register("tls", tls.files().paths(), move || tls.reload());
    }
    if let Some(PolicyConfig { dir, .. }) = &config.policies {
        let access = parts.access.clone();
        reload.register("policies", vec![dir.clone()], move || access.reload());
    }
    if config.authentication.has_credentials() {
        let authenticator = parts.authenticator.clone();
        // Static tokens are in the configuration file.
        let files = authenticator.files().into_iter().chain(file);
        reload.register("credentials", files.collect(), move || authenticator.reload());
    }
    reload
}

/// Watches, and lets SIGHUP read all files again. Without any, SIGHUP does what it does to programs: a terminal that
/// is closed ends the server that was started in it.
fn start_reload(reload: Reload, config: &Config) -> io::Result<()> {
    if reload.is_empty() {
        return Ok(());
    }
    let mut hangup = signal(SignalKind::hangup())?;
    let now = Arc::new(Notify::new());
    tokio::spawn(reload.run(config.reload_interval, now.clone()));
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "reading files again");
            now.notify_one();
        }
    });
    Ok(())
}

/// The sandbox with the state of the configured files, or the sample.
fn open_sandbox(
    config: &Config,
    sandbox: &SandboxConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<Arc<Sandbox>, String> {
    let mut states = Vec::new();
    for file in &sandbox.state {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let state = Sandbox::parse_state(text.as_slice());
        states.push(state.map_err(|error| format!("{}: {error}", file.display()))?);
    }
    let state = (!states.is_empty()).then(|| Sandbox::merge_states(states));
    let target = config.default_account.clone().zip(config.default_region.clone());
    let target = target.map(|(account, region)| Target { account, region });
    let (opened, warnings) = Sandbox::open(state, target, clock, random).map_err(|violations| {
        let lines =
            violations.iter().map(|wrong| format!("\n  {}: {}", wrong.field, wrong.message));
        format!("the sandbox's state is wrong:{}", lines.collect::<String>())
    })?;
    if sandbox.throttle {
        opened.throttle();
    }
    for warning in warnings {
        tracing::warn!(assumed = warning, "sandbox state");
    }
    Ok(Arc::new(opened))
}

/// The sandbox's EC2 door, if it is to have one. Like the admin listener it answers as long as the process runs.
async fn open_ec2_door(
    config: &Config,
    parts: &server::Parts,
) -> Result<Option<SocketAddr>, String> {
    let BackendConfig::Sandbox(SandboxConfig { ec2_listen: Some(address), .. }) = &config.backend
    else {
        return Ok(None);
    };
    let Some(sandbox) = &parts.sandbox else { return Ok(None) };
    let listener = bind("sandbox_ec2_listen", *address).await?;
    let bound = local_address(&listener)?;
    let door = query::Door::new(sandbox.clone(), parts.clock.clone(), parts.random.clone());
    tokio::spawn(query::serve(listener, Arc::new(door), std::future::pending()));
    Ok(Some(bound))
}

#[cfg(feature = "ec2")]
async fn open_ec2(
    config: &Config,
    ec2: &Ec2Config,
    metrics: &Metrics,
) -> Result<Arc<dyn Backend>, String> {
    use portcullis::backend::ec2::{Ec2, Ec2Settings, TargetSettings};
    let target = |target: &TargetConfig| TargetSettings {
        account: Some(target.account.clone()),
        regions: target.regions.clone(),
        role_arn: target.role_arn.clone(),
        external_id: target.external_id.as_ref().map(|id| id.expose().to_owned()),
        session_per_principal: target.session_per_principal,
    };
    let settings = Ec2Settings {
        endpoint_url: ec2.endpoint_url.clone(),
        targets: ec2.targets.iter().map(target).collect(),
        default_account: config.default_account.clone(),
        default_region: config.default_region.clone(),
        attempt_timeout: ec2.attempt_timeout,
        connect_timeout: ec2.connect_timeout,
        decode_authorization_messages: ec2.decode_authorization_messages,
    };
    // Boxed, because the SDK's futures are large and it happens once.
    Ok(Arc::new(Box::pin(Ec2::open(settings)).await?.counted(metrics)))
}

#[cfg(not(feature = "ec2"))]
#[allow(clippy::unused_async, reason = "the other build awaits")]
async fn open_ec2(_: &Config, _: &Ec2Config, _: &Metrics) -> Result<Arc<dyn Backend>, String> {
    Err("this build has no EC2 backend: build with the feature ec2".to_owned())
}

async fn bind(name: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("{name} {address}: {error}"))
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        // With a handler a limit on the size of files fails the write, which the ledger can tell, and does not end us.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn check_config(settings: Settings) -> u8 {
    match Config::load(settings.config.as_deref(), settings.flags) {
        Ok(config) => print(&format!("OK\n{}", config.show())),
        Err(complaints) => refuse(&complaints),
    }
}

async fn ask_health(health: cli::health::Health) -> u8 {
    match health.ask().await {
        Ok((status, serving)) => {
            print(&format!("{status}\n"));
            if serving { OK } else { FAILED }
        }
        Err(error) => complain(&error, FAILED),
    }
}

async fn ask(client: Client) -> u8 {
    let ended = client.run(Screen::of_process()).await;
    print(&ended.out);
    let _ = io::stderr().write_all(ended.err.as_bytes());
    ended.code
}

async fn work_on(ledger: Ledger) -> u8 {
    match ledger.run(&mut io::stdout()).await {
        Ok(true) => OK,
        Ok(false) => FAILED,
        Err(Failure::Usage(error)) => complain(&error, USAGE),
        Err(Failure::Ledger(error)) => complain(&error, FAILED),
    }
}

fn refuse(complaints: &[Complaint]) -> u8 {
    let lines: Vec<String> = complaints.iter().map(|complaint| format!("  {complaint}")).collect();
    complain(&format!("the configuration is wrong:\n{}", lines.join("\n")), USAGE)
}

/// Prints to stdout. A closed stdout is no reason to fail: `println!` would panic.
fn print(text: &str) -> u8 {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    OK
}

fn complain(text: &str, code: u8) -> u8 {
    let _ = writeln!(io::stderr(), "portcullis: {text}");
    code
}
