//! Opens the parts that the server is made of, as the configuration says.

use std::sync::Arc;

#[cfg(feature = "ec2")]
use portcullis::config::TargetConfig;
use portcullis::{
    access::{Access, Mode},
    api::{methods, scribe::ProtoScribe},
    backend::{Backend, paced::Paced, sandbox::Sandbox},
    cli::Settings,
    clock::{Clock, SystemClock},
    config::{
        BackendConfig, Config, Ec2Config, IssuerConfig, LedgerConfig, LedgerEngine, PolicyConfig,
        SandboxConfig, TlsConfig,
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
    rule::Target,
    server::Parts,
    telemetry::metrics::Metrics,
    tls::Tls,
};

/// Opens all of them.
pub async fn parts(
    config: &Config,
    settings: Settings,
    metrics: &Metrics,
) -> Result<Parts, String> {
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
    Ok(Parts {
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

/// Whether the files that the configuration names hold what they should, without asking anybody else and without making
/// anything. The files of TLS are the configuration's own to check.
pub async fn check(config: &Config) -> Result<(), String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if let BackendConfig::Sandbox(sandbox) = &config.backend {
        open_sandbox(config, sandbox, clock.clone(), Arc::new(SystemRandom))?;
    }
    let mut authentication = config.authentication.clone();
    authentication.issuers.retain(IssuerConfig::is_file);
    Authenticator::open(authentication, config.tls.names_clients(), clock).await?;
    open_access(config).map(drop)
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
    let load = move || Config::load_again(settings.config.as_deref(), settings.flags.clone());
    let reread = move || match load() {
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
