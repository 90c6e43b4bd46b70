//! The program: flags, configuration, log, parts, listeners, server, exit code.

use std::{
    future::Future,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use portcullis::{
    admin::{self, Admin},
    api::query,
    cli::{
        self, Command, Settings,
        banner::{Addresses, Sample, banner},
        client::{Client, Screen},
        ledger::{Failure, Ledger},
    },
    config::{
        self, BackendConfig, Complaint, Config, Ec2Config, LedgerEngine, LogFormat, PolicyConfig,
        SandboxConfig,
    },
    random::{Random, SystemRandom},
    reload::{Reload, Stale},
    server::{self, ServerStatus},
    telemetry::{
        self,
        level::Level,
        metrics::{Metrics, Reading, table},
    },
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot},
};

mod open;

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
        Ok(Command::CheckConfig(check)) => run(check_config(check.settings)),
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
    let parts = open::parts(config, settings, metrics).await?;
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
        let (backend, config) = (parts.backend.clone(), config.show().into());
        let admin = Admin { status, backend, stale, metrics, config, level };
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

/// The parts whose files may change while the server runs.
fn watched(parts: &server::Parts, config: &Config, file: Option<PathBuf>, stale: Stale) -> Reload {
    let mut reload = Reload::new(stale);
    if let Some(tls) = parts.tls.clone() {
        reload.register("tls", tls.files().paths(), move |still| tls.reload_if(still));
    }
    if let Some(PolicyConfig { dir, .. }) = &config.policies {
        let access = parts.access.clone();
        reload.register("policies", vec![dir.clone()], move |still| access.reload_if(still));
    }
    if config.authentication.has_credentials() {
        let authenticator = parts.authenticator.clone();
        // Static tokens are in the configuration file.
        let files = authenticator.files().into_iter().chain(file);
        reload
            .register("credentials", files.collect(), move |still| authenticator.reload_if(still));
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

async fn check_config(settings: Settings) -> u8 {
    let config = match Config::load(settings.config.as_deref(), settings.flags) {
        Ok(config) => config,
        Err(complaints) => return refuse(&complaints),
    };
    match open::check(&config).await {
        Ok(()) => print(&format!("OK\n{}", config.show())),
        Err(error) => complain(&error, FAILED),
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
