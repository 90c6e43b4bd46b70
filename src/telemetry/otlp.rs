//! What a collector gets, over OTLP/gRPC: traces, the log, and metrics.
//!
//! A call hands its span and its lines over without waiting: the SDK's batch processors have bounded queues and threads
//! of their own, the connection has a runtime of its own, and what finds no place or is not taken is counted
//! (`telemetry/losses.rs`) and lost. The end of the process waits for the last batches, for as long as one request may take.

use std::{
    fmt,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use opentelemetry::{InstrumentationScope, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    logs::{BatchConfigBuilder as LogBatches, BatchLogProcessor, SdkLoggerProvider},
    metrics::{PeriodicReader, Temporality},
    resource::TelemetryResourceDetector,
    trace::{
        BatchConfigBuilder as SpanBatches, BatchSpanProcessor, Sampler, SdkTracer,
        SdkTracerProvider,
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tonic::{
    Request, Status,
    metadata::{MetadataKey, MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{
    allowance::Allowance,
    losses::{Account, Counted},
};
use crate::config::{OtlpConfig, TelemetryConfig};

/// How many spans or lines wait at most, and how many go out at once.
const QUEUE: usize = 8192;
const BATCH: usize = 512;

/// How long a span or a line waits at most until it goes out.
const DELAY: Duration = Duration::from_secs(1);

/// The conventions that the names of attributes are of.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";

/// How long a machine that is busy may take beyond the bound to notice that it has passed, and to say what is lost.
const MARGIN: Duration = Duration::from_secs(2);

/// The collector's end of everything, until it is dropped: then what is left goes out, within a bound.
pub struct Guard {
    runtime: Option<Runtime>,
    channel: Channel,
    config: OtlpConfig,
    resource: Resource,
    bound: Duration,
    accounts: Vec<Arc<Account>>,
    allowance: Arc<Allowance>,
    ends: Vec<End>,
}

type End = Box<dyn FnOnce(Duration) + Send>;

impl Guard {
    /// Prepares to send, and connects when there is something to send. `instance`: what tells this process from others.
    pub fn open(
        config: &OtlpConfig,
        telemetry: &TelemetryConfig,
        instance: String,
    ) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let entered = runtime.enter();
        let channel = endpoint(config)?.connect_lazy();
        drop(entered);
        Ok(Self {
            runtime: Some(runtime),
            channel,
            config: config.clone(),
            resource: resource(telemetry, instance),
            bound: config.timeout,
            accounts: Vec::new(),
            allowance: Arc::new(Allowance::new(config.calls_per_second, Instant::now())),
            ends: Vec::new(),
        })
    }

    /// What this server is to the collector. For the metrics, too.
    pub fn resource(&self) -> Resource {
        self.resource.clone()
    }

    /// What did not arrive, of what there is so far.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.clone()
    }

    /// Of how many calls it hears.
    pub fn allowance(&self) -> Arc<Allowance> {
        self.allowance.clone()
    }

    fn account(&mut self, signal: &'static str, room: usize) -> Arc<Account> {
        let account = Account::new(signal, room);
        self.accounts.push(account.clone());
        account
    }

    /// Something else that has an end: it is told how long that may take.
    pub fn at_the_end(&mut self, end: impl FnOnce(Duration) + Send + 'static) {
        self.ends.push(Box::new(end));
    }

    /// What makes spans; none: there shall be none.
    pub fn tracer(&mut self) -> Result<Option<SdkTracer>, String> {
        let Some(ratio) = self.config.traces else { return Ok(None) };
        let account = self.account("traces", QUEUE + BATCH);
        let exporter = self.exporter(SpanExporter::builder().with_tonic())?.build();
        let exporter = account.count(exporter.map_err(|error| error.to_string())?);
        let batches = SpanBatches::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build());
        let provider = SdkTracerProvider::builder()
            .with_resource(self.resource())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_span_processor(account.count(processor.build()))
            .build();
        let scope = InstrumentationScope::builder("portcullis")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA);
        let tracer = provider.tracer_with_scope(scope.build());
        self.at_the_end(move |bound| drop(provider.shutdown_with_timeout(bound)));
        Ok(Some(tracer))
    }

    /// What takes log lines; none: it shall get none.
    pub fn logger(&mut self) -> Result<Option<SdkLoggerProvider>, String> {
        if !self.config.logs {
            return Ok(None);
        }
        let account = self.account("logs", QUEUE + BATCH);
        let exporter = self.exporter(LogExporter::builder().with_tonic())?.build();
        let exporter = account.count(exporter.map_err(|error| error.to_string())?);
        let batches = LogBatches::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY);
        let processor = BatchLogProcessor::builder(exporter).with_batch_config(batches.build());
        let provider = SdkLoggerProvider::builder()
            .with_resource(self.resource())
            .with_log_processor(account.count(processor.build()))
            .build();
        let ended = provider.clone();
        self.at_the_end(move |bound| drop(ended.shutdown_with_timeout(bound)));
        Ok(Some(provider))
    }

    /// What reads metrics and sends them, for a meter provider; none: it shall send none. Whoever has the provider adds
    /// its end with [`Self::at_the_end`].
    pub fn metric_reader(
        &mut self,
    ) -> Result<Option<PeriodicReader<Counted<MetricExporter>>>, String> {
        let Some(interval) = self.config.metrics else { return Ok(None) };
        let builder = MetricExporter::builder().with_tonic();
        let exporter = self.exporter(builder)?.with_temporality(Temporality::Cumulative).build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let exporter = self.account("metrics", 1).count(exporter);
        Ok(Some(PeriodicReader::builder(exporter).with_interval(interval).build()))
    }

    /// The headers take the place of all that the exporter finds in the environment: only the configuration reads that.
    fn exporter<B: WithExportConfig + WithTonicConfig>(&self, builder: B) -> Result<B, String> {
        let headers = headers(&self.config)?;
        Ok(builder
            .with_channel(self.channel.clone())
            .with_timeout(self.config.timeout)
            .with_interceptor(move |mut request: Request<()>| {
                *request.metadata_mut() = headers.clone();
                Ok::<_, Status>(request)
            }))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let until = Instant::now() + self.bound + MARGIN;
        let (tell, told) = channel::<()>();
        for end in self.ends.drain(..) {
            let (bound, tell) = (self.bound, tell.clone());
            // All at once: one that hangs must not take the time of the others. Without a thread there is no end to it.
            let _ = thread::Builder::new().name("otlp-end".to_owned()).spawn(move || {
                end(bound);
                drop(tell);
            });
        }
        drop(tell);
        let left = until.saturating_duration_since(Instant::now());
        // Nothing is ever sent: it is disconnected when the last one is through.
        if matches!(told.recv_timeout(left), Err(RecvTimeoutError::Timeout)) {
            tracing::warn!("the collector did not take the last of the telemetry in time");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("config", &self.config).finish_non_exhaustive()
    }
}

fn endpoint(config: &OtlpConfig) -> Result<Endpoint, String> {
    let wrong = |error: tonic::transport::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("otlp_endpoint: {}", cause.unwrap_or_else(|| error.to_string()))
    };
    let endpoint = Endpoint::from_shared(config.endpoint.clone())
        .map_err(wrong)?
        .connect_timeout(config.timeout)
        .timeout(config.timeout);
    if !config.endpoint.starts_with("https:") {
        return Ok(endpoint);
    }
    let tls = match &config.ca {
        None => ClientTlsConfig::new().with_native_roots(),
        Some(file) => {
            let pem = crate::tls::client::read_ca(file)?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
    };
    endpoint.tls_config(tls).map_err(wrong)
}

fn headers(config: &OtlpConfig) -> Result<MetadataMap, String> {
    let mut headers = MetadataMap::new();
    for (name, value) in &config.headers {
        // The value is not shown: it is secret.
        let wrong = || format!("otlp_headers: {name} cannot be sent as it is");
        let key = MetadataKey::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = MetadataValue::try_from(value.expose()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

fn resource(config: &TelemetryConfig, instance: String) -> Resource {
    let own = [
        KeyValue::new("service.instance.id", instance),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let given = config.resource.iter();
    let given = given.map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(given)
        .with_service_name(config.service_name.clone())
        .build()
}
