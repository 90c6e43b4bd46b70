//! An OTLP receiver for scripts/bench --telemetry: takes everything and counts it, or, told to hang, never answers. Says
//! what it took when it is ended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use opentelemetry_proto::tonic::collector::{
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
};
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Request, Response, Status, transport::Server};

#[derive(Clone, Default)]
struct Collector {
    hangs: bool,
    spans: Arc<AtomicUsize>,
    lines: Arc<AtomicUsize>,
}

impl Collector {
    async fn take(&self, counter: &AtomicUsize, count: usize) {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.take(&self.spans, scopes.map(|scope| scope.spans.len()).sum()).await;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_logs.into_iter().flat_map(|of| of.scope_logs);
        self.take(&self.lines, scopes.map(|scope| scope.log_records.len()).sum()).await;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(&AtomicUsize::new(0), 1).await;
        Ok(Response::new(Default::default()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().expect("an address").parse().unwrap();
    let collector =
        Collector { hangs: arguments.next().as_deref() == Some("hang"), ..Default::default() };
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let served = Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .add_service(LogsServiceServer::new(collector.clone()))
        .add_service(MetricsServiceServer::new(collector.clone()))
        .serve(address);
    tokio::select! {
        served = served => served.unwrap(),
        _ = terminate.recv() => {
            let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
            println!("{} spans, {} log lines", of(&collector.spans), of(&collector.lines));
        }
    }
}
