//! The whole path of a call, outermost layer first. The only composer. The connections that calls come in on are in
//! `server/connections.rs`.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tonic::{codec::CompressionEncoding, service::Routes};
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    access::Access,
    api::{
        health::Health,
        json::Contract,
        operations::OperationFace,
        proto::{
            FILE_DESCRIPTOR_SET,
            sandbox::v1::sandbox_service_server::{self, SandboxServiceServer},
            v1::{
                operation_service_server::{self, OperationServiceServer},
                security_group_service_server::{self, SecurityGroupServiceServer},
            },
        },
        sandbox::SandboxFace,
        service::{SecurityGroups, Typed},
    },
    backend::{Backend, sandbox::Sandbox},
    clock::Clock,
    config::{Limits, RateLimits},
    credentials::Authenticator,
    middleware::{
        HttpRequest, HttpResponse,
        admission::{AdmissionLayer, Gate, share::ShareLayer},
        authenticate::AuthenticateLayer,
        conform::ConformLayer,
        deadline::DeadlineLayer,
        detach::DetachLayer,
        idempotency::{Books, IdempotencyLayer, settling},
        json::JsonLayer,
        observe::ObserveLayer,
        rate_limit::RateLimitLayer,
        web::WebLayer,
    },
    operations::{Operations, records::Records},
    random::Random,
    telemetry::{
        audit::Audit,
        metrics::{Metrics, Reading, table},
    },
    tls::{Dates, Tls},
};

use self::connections::Connections;

mod connections;
mod lifetime;
mod standstill;

/// The most bytes of a request to SandboxService: a state is far larger than any call.
const MAX_SANDBOX_REQUEST_BYTES: usize = 256 << 20;

/// How often it is looked how the backend stands, for who asks for its health.
const STANDING_PERIOD: Duration = Duration::from_secs(1);

/// How long the end waits for the lines and spans of calls that are over.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Everything that the server is made of.
#[derive(Debug)]
pub struct Parts {
    /// Deadlines, sizes and counts.
    pub limits: Limits,
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// TLS; none if connections are not encrypted here.
    pub tls: Option<Arc<Tls>>,
    /// How often each caller may call.
    pub rate_limits: RateLimits,
    /// Where the security groups are.
    pub backend: Arc<dyn Backend>,
    /// The sandbox, if it is the backend: its own service is offered then.
    pub sandbox: Option<Arc<Sandbox>>,
    /// The ledger, and what goes with it.
    pub books: Books,
    /// Who may do what.
    pub access: Arc<Access>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids.
    pub random: Arc<dyn Random>,
    /// What counts.
    pub metrics: Metrics,
}

/// Whether the server takes calls; a handle shared with the admin port.
#[derive(Clone, Debug, Default)]
pub struct ServerStatus(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    started: AtomicBool,
    draining: AtomicBool,
    ledger_down: AtomicBool,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Whether every call and operation in flight was finished within the bound.
    pub complete: bool,
}

/// Serves on `listener` until `shutdown`, then drains. First it says that it is not ready, and goes on as before for as
/// long as load balancers are given to see it. Then no connection is taken any more and clients are told to go: what
/// they sent before they heard of it is still done, what comes later is refused, and calls in flight are finished,
/// within the configured bound whatever clients do.
pub async fn serve(
    listener: TcpListener,
    parts: Parts,
    shutdown: impl Future<Output = ()> + Send,
    status: ServerStatus,
) -> Drained {
    let limits = parts.limits.clone();
    // As many streams as connections, so that each may watch.
    let gate = Arc::new(Gate::new(limits.max_in_flight, limits.max_connections));
    let operations = TaskTracker::new();
    let (routes, health) = routes(&parts, &operations).await;
    let limiter = RateLimitLayer::open(&parts.rate_limits);
    let audit = Arc::new(Audit::default());
    let observe = ObserveLayer::new(parts.random.clone(), audit.clone(), parts.metrics.clone());
    let calls = observe.calls();
    let rate_limit = RateLimitLayer::new(limiter.clone(), parts.metrics.clone());
    let path = path(routes, &parts, &gate, observe, rate_limit);
    watch_parts(&parts, &status);
    // Ends with the server, when this is dropped.
    let mut background = JoinSet::new();
    background.spawn(async move {
        if let Some(limiter) = limiter {
            limiter.keep_swept().await;
        }
    });
    background.spawn(async move { audit.keep_telling().await });
    let (up, mut ledger_up) = watch::channel(true);
    background.spawn(settling::run(use_cases(&parts), parts.books.clone(), up));
    let (told, backend) = (health.clone(), parts.backend.clone());
    let onlooker = background.spawn(async move {
        let (mut up, mut ticks) = (true, interval(STANDING_PERIOD));
        loop {
            ticks.tick().await;
            // Whoever watches hears of changes alone.
            if std::mem::replace(&mut up, !backend.standing().is_failing()) != up {
                told.backend(up).await;
            }
        }
    });
    let (told, shown) = (health.clone(), status.clone());
    let watcher = background.spawn(async move {
        while ledger_up.changed().await.is_ok() {
            let up = *ledger_up.borrow_and_update();
            shown.set_ledger_up(up);
            told.ledger(up).await;
        }
    });
    status.set_started();

    let (tls, random, metrics) = (parts.tls.clone(), parts.random.clone(), parts.metrics.clone());
    let connections = Connections::new(&limits, tls, path, random, metrics);
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = shutdown => {}
    }
    status.set_draining();
    // What they say would undo the next line.
    watcher.abort();
    onlooker.abort();
    health.drain().await;
    if !limits.drain_delay.is_zero() {
        tracing::info!(delay_ms = limits.drain_delay.as_millis(), "not ready, and going on");
        tokio::select! {
            () = connections.accept(&listener) => {}
            () = sleep(limits.drain_delay) => {}
        }
    }
    // From here on the port is free for the next server.
    drop(listener);
    let until = Instant::now() + limits.drain_timeout;
    tracing::info!(bound_ms = limits.drain_timeout.as_millis(), "draining");
    connections.say_goodbye(until).await;
    gate.drain();
    operations.close();
    let complete = timeout_at(until, async {
        gate.idle().await;
        operations.wait().await;
    })
    .await
    .is_ok();
    connections.close(until).await;
    calls.close();
    // Nobody waits for them any more, so there is little to wait for.
    let _ = timeout(LAST_LINES, calls.wait()).await;
    Drained { complete }
}

/// The path. Each layer wraps all that follow it.
fn path(
    routes: Routes,
    parts: &Parts,
    gate: &Arc<Gate>,
    observe: ObserveLayer,
    rate_limit: RateLimitLayer,
) -> Path {
    let limits = &parts.limits;
    let path = ServiceBuilder::new()
        // Speaks JSON to curl.
        .layer(JsonLayer::new(contract(), limits.max_request_bytes))
        // Speaks gRPC-Web to browsers and HTTP/1.1 clients; everything inside sees plain gRPC.
        .layer(WebLayer)
        // Outermost of ours, so that refusals and dropped calls are seen.
        .layer(observe)
        // Outside admission and all waiting, so that everything is bounded by it.
        .layer(DeadlineLayer::new(limits.default_deadline, limits.max_deadline))
        // Before anything that costs.
        .layer(AdmissionLayer::new(gate.clone()))
        // Before anything is decoded.
        .layer(AuthenticateLayer::new(parts.authenticator.clone(), parts.metrics.clone()))
        // Right inside authentication, because it needs the caller.
        .layer(rate_limit)
        // Inside the rate limit, so that whoever tries without end is limited by that.
        .layer(ShareLayer::new(limits.max_in_flight, parts.metrics.clone()))
        // Next to tonic, whose own errors it gives our form.
        .layer(ConformLayer)
        .service(routes.prepare());
    BoxCloneSyncService::new(path)
}

/// The contract as JSON has it.
fn contract() -> Contract {
    Contract::read().unwrap_or_else(|error| {
        // The descriptors are compiled in, so that a test of this very line catches it before a release.
        tracing::error!(%error, "JSON is off: the descriptors do not fit together");
        Contract::default()
    })
}

/// A path for requests as hyper gives them, boxed because its type has no reader.
type Path = BoxCloneSyncService<HttpRequest, HttpResponse, std::convert::Infallible>;

/// The typed part of the path: below decoding, above the backend.
fn typed(parts: &Parts, operations: &TaskTracker) -> Typed {
    let typed = ServiceBuilder::new()
        // A mutation that was sent is finished, whatever becomes of its caller.
        .layer(DetachLayer::new(operations.clone()))
        // One operation, one effect, one answer; and the group's turn. Pacing is around the backend: it counts EC2's
        // calls, not ours.
        .layer(IdempotencyLayer::new(parts.books.clone(), operations.clone()))
        .service(use_cases(parts));
    BoxCloneSyncService::new(typed)
}

fn use_cases(parts: &Parts) -> Operations {
    let operations =
        Operations::new(parts.backend.clone(), parts.access.clone(), parts.clock.clone());
    operations.counted(parts.metrics.clone())
}

/// Lets whoever reads the metrics ask the parts. The metrics outlive them.
fn watch_parts(parts: &Parts, status: &ServerStatus) {
    let Parts { metrics, tls, authenticator, .. } = parts;
    let own = status.clone();
    metrics.watch(&table::LEDGER_UP, move || vec![Reading::flag(own.ledger_up())]);
    let own = status.clone();
    metrics.watch(&table::DRAINING, move || vec![Reading::flag(own.draining())]);
    if let Some(tls) = tls {
        let date = |metric, of: fn(Dates) -> Option<SystemTime>| {
            let tls = Arc::downgrade(tls);
            metrics.watch(metric, move || {
                let date = tls.upgrade().and_then(|tls| of(tls.dates()));
                let since = date.and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok());
                since.map(|since| Reading::of(since.as_secs_f64())).into_iter().collect()
            });
        };
        date(&table::CERTIFICATE_NOT_BEFORE, |dates| dates.not_before);
        date(&table::CERTIFICATE_EXPIRY, |dates| dates.not_after);
        date(&table::CLIENT_CA_EXPIRY, |dates| dates.client_ca);
        date(&table::CRL_EXPIRY, |dates| dates.crl);
    }
    let authenticator = Arc::downgrade(authenticator);
    metrics.watch(&table::KEYS_AGE, move || {
        let ages = authenticator.upgrade().map(|of| of.key_ages()).unwrap_or_default();
        let ages = ages.into_iter();
        ages.map(|(issuer, age)| Reading::of(age.as_secs_f64()).with("issuer", issuer)).collect()
    });
}

/// The ledger as callers see it.
fn records(parts: &Parts) -> Records {
    let Books { ledger, scribe, timing, .. } = parts.books.clone();
    Records::new(use_cases(parts), ledger, scribe, timing)
}

/// The services.
async fn routes(parts: &Parts, operations: &TaskTracker) -> (Routes, Health) {
    let groups =
        SecurityGroups::new(typed(parts, operations), parts.random.clone(), parts.clock.clone());
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let served =
        [security_group_service_server::SERVICE_NAME, operation_service_server::SERVICE_NAME];
    let mut names = vec!["mutations", "backend", "ledger"];
    names.extend(served);
    if parts.access.decides() {
        names.push("policy");
    }
    let mut routes = Routes::new(health_service).add_service(
        SecurityGroupServiceServer::new(groups)
            .max_decoding_message_size(parts.limits.max_request_bytes)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Zstd),
    );
    routes = routes.add_service(
        OperationServiceServer::new(OperationFace::new(records(parts)))
            .max_decoding_message_size(parts.limits.max_request_bytes)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Zstd),
    );
    if let Some(sandbox) = &parts.sandbox {
        names.push(sandbox_service_server::SERVICE_NAME);
        routes = routes.add_service(
            SandboxServiceServer::new(SandboxFace::new(sandbox.clone(), parts.access.clone()))
                .max_decoding_message_size(MAX_SANDBOX_REQUEST_BYTES)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd),
        );
    }
    if parts.limits.reflection {
        // What is not served is not listed: the sandbox's service is in the descriptors of every build.
        let mut services = vec!["grpc.health.v1.Health"];
        services.extend(served);
        services.extend(parts.sandbox.as_ref().map(|_| sandbox_service_server::SERVICE_NAME));
        routes = reflect(routes, &services);
    }
    (routes, Health::serving(reporter, names).await)
}

/// Reflection in both versions, from encoded descriptors, with everything that grpcurl needs to print errors.
fn reflect(routes: Routes, services: &[&str]) -> Routes {
    let builder = |own| {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(own);
        services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
    };
    let v1 = builder("grpc.reflection.v1.ServerReflection").build_v1();
    let v1alpha = builder("grpc.reflection.v1alpha.ServerReflection").build_v1alpha();
    match (v1, v1alpha) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            // The descriptors are compiled in, so that a test of this very line catches it before a release.
            tracing::error!(%error, "reflection is off: the descriptors do not fit together");
            routes
        }
    }
}

// === impl ServerStatus ===

impl ServerStatus {
    /// Whether it has begun to take calls.
    pub fn started(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    /// Whether it takes no new ones any more.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Whether changes can be recorded: if not, they are refused, and reads go on.
    pub fn ledger_up(&self) -> bool {
        !self.0.ledger_down.load(Ordering::Acquire)
    }

    fn set_ledger_up(&self, up: bool) {
        self.0.ledger_down.store(!up, Ordering::Release);
    }

    fn set_started(&self) {
        self.0.started.store(true, Ordering::Release);
    }

    fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Release);
    }
}
