//! An OTLP receiver for scripts/bench --telemetry: takes everything and counts it, or, told to hang, never answers. Says
//! what it took when it is ended.
//!
//! It shares two cores with what is measured, where a collector would be elsewhere: so it counts spans and lines and does
//! not look into them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// How much may be on its way: as much as a batch and more.
const WINDOW: u32 = 8 << 20;

/// What is exported, traces and logs alike: the resources are field 1, their scopes 2, and the spans or records in
/// those 2.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
}

#[derive(Clone, Default)]
struct Collector {
    hangs: bool,
    spans: Arc<AtomicUsize>,
    lines: Arc<AtomicUsize>,
}

impl Collector {
    async fn take(self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let (head, body) = request.into_parts();
        let counter = match head.uri.path() {
            path if path.ends_with("TraceService/Export") => Some(&self.spans),
            path if path.ends_with("LogsService/Export") => Some(&self.lines),
            _ => None,
        };
        let framed = body.collect().await?.to_bytes();
        if let Some(counter) = counter {
            // Behind gRPC's prefix; nothing is compressed.
            let export = Export::decode(framed.slice(5..)).unwrap();
            let scopes = export.resources.iter().flat_map(|of| &of.scopes);
            counter.fetch_add(scopes.map(|scope| scope.items.len()).sum(), Ordering::Relaxed);
        }
        let mut response = Response::new(empty_message());
        response.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
        Ok(response)
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn empty_message() -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    Full::new(Bytes::from_static(&[0; 5])).with_trailers(ready(Some(Ok(trailers)))).boxed_unsync()
}

async fn serve(listener: TcpListener, collector: Collector) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let collector = collector.clone();
        let served = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| collector.clone().take(request)),
            );
        tokio::spawn(served);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().expect("an address").parse().unwrap();
    let collector =
        Collector { hangs: arguments.next().as_deref() == Some("hang"), ..Default::default() };
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::select! {
        () = serve(listener, collector.clone()) => {}
        _ = terminate.recv() => {
            let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
            println!("{} spans, {} log lines", of(&collector.spans), of(&collector.lines));
        }
    }
}
