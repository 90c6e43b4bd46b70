//! A collector that keeps what it gets, refuses it, or never answers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use tokio::{net::TcpListener, sync::Notify, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    metadata::MetadataMap,
    transport::{Server, ServerTlsConfig},
};

/// How long what must come may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What it does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Keeps,
    Refuses,
    Hangs,
}

#[derive(Clone, Debug)]
pub struct Collector {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    manner: Manner,
    got: Mutex<Got>,
    news: Notify,
}

/// All that came.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub spans: Vec<Span>,
    pub logs: Vec<LogRecord>,
    pub metrics: Vec<Metric>,
    pub resources: Vec<Resource>,
    pub metadata: Vec<MetadataMap>,
    /// How many requests came, taken or not.
    pub requests: usize,
}

impl Collector {
    pub async fn start(manner: Manner) -> Self {
        Self::start_with(manner, None).await
    }

    pub async fn start_with(manner: Manner, tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner { manner, got: Mutex::default(), news: Notify::new() });
        let collector = Self { address, inner };
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        // As the collector's own exporter sends it.
        let traces = TraceServiceServer::new(collector.clone());
        let served = server
            .add_service(traces.accept_compressed(CompressionEncoding::Gzip))
            .add_service(LogsServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        collector
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn got(&self) -> Got {
        self.inner.got.lock().unwrap().clone()
    }

    /// Waits until `found` finds it.
    pub async fn wait_for<T>(&self, what: &str, found: impl Fn(&Got) -> Option<T>) -> T {
        let waited = timeout(PATIENCE, async {
            loop {
                let news = self.inner.news.notified();
                if let Some(found) = found(&self.inner.got.lock().unwrap()) {
                    return found;
                }
                news.await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("no {what} came; {:#?}", self.got()))
    }

    pub async fn span(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        self.wait_for(what, |got| got.spans.iter().find(|span| is_it(span)).cloned()).await
    }

    async fn receive(
        &self,
        metadata: &MetadataMap,
        put: impl FnOnce(&mut Got),
    ) -> Result<(), Status> {
        {
            let mut got = self.inner.got.lock().unwrap();
            got.requests += 1;
            got.metadata.push(metadata.clone());
            if self.inner.manner == Manner::Keeps {
                put(&mut got);
            }
        }
        self.inner.news.notify_waiters();
        match self.inner.manner {
            Manner::Keeps => Ok(()),
            Manner::Refuses => Err(Status::permission_denied("the collector's words")),
            Manner::Hangs => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.receive(&metadata, |got| {
            for resource_spans in message.resource_spans {
                got.resources.extend(resource_spans.resource);
                for scope in resource_spans.scope_spans {
                    got.spans.extend(scope.spans);
                }
            }
        })
        .await?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.receive(&metadata, |got| {
            for resource_logs in message.resource_logs {
                got.resources.extend(resource_logs.resource);
                for scope in resource_logs.scope_logs {
                    got.logs.extend(scope.log_records);
                }
            }
        })
        .await?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.receive(&metadata, |got| {
            for resource_metrics in message.resource_metrics {
                got.resources.extend(resource_metrics.resource);
                for scope in resource_metrics.scope_metrics {
                    got.metrics.extend(scope.metrics);
                }
            }
        })
        .await?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Bytes as they are written in headers and lines.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute as text.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().filter(|attribute| attribute.key == name).collect::<Vec<_>>();
    assert!(found.len() <= 1, "{name} is there {} times", found.len());
    found.first().and_then(|attribute| text(attribute.value.as_ref()))
}

/// A value as text.
pub fn text(value: Option<&AnyValue>) -> Option<String> {
    Some(match value?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(is) => is.to_string(),
        other => panic!("{other:?}"),
    })
}
