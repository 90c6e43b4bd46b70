//! The admin listener: what an orchestrator asks over plain HTTP/1.1.
//!
//! `/livez` answers while the process runs, `/readyz` says whether it takes calls, `/version` which build it is.
//! `/readyz` also names the parts whose files are broken, as stale: they work on with what they had; and the
//! ledger, if it is unavailable: then changes are refused and reads go on. The listener
//! goes on answering through the drain, so that a load balancer sees the draining.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{reload::Stale, server::ServerStatus};

/// Connections at once; more wait to be accepted. Probes come one by one.
const MAX_CONNECTIONS: usize = 64;

/// How long the request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may take in all. It carries one request, so nobody can hold one for long.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be accepted: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `shutdown` resolves. Answers under way are cut then; none takes long.
pub async fn serve(
    listener: TcpListener,
    status: ServerStatus,
    stale: Stale,
    shutdown: impl Future<Output = ()>,
) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (status, stale) = (status.clone(), stale.clone());
                    tokio::spawn(async move {
                        connection(stream, status, stale).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
}

async fn connection(stream: TcpStream, status: ServerStatus, stale: Stale) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &status, &stale);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(8192)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection took too long"),
    }
}

/// What a request gets.
fn answer(
    method: &Method,
    path: &str,
    status: &ServerStatus,
    stale: &Stale,
) -> Response<Full<Bytes>> {
    let (code, body) = match path {
        "/livez" => (StatusCode::OK, serde_json::json!({ "live": true })),
        "/readyz" => {
            let (started, draining) = (status.started(), status.draining());
            let ready = started && !draining;
            let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let mut body = serde_json::json!({
                "ready": ready, "started": started, "draining": draining,
            });
            let stale = stale.names();
            if let Some(body) = body.as_object_mut() {
                if !stale.is_empty() {
                    body.insert("stale".to_owned(), serde_json::json!(stale));
                }
                if !status.ledger_up() {
                    body.insert("ledger".to_owned(), serde_json::json!("unavailable"));
                }
            }
            (code, body)
        }
        "/version" => (
            StatusCode::OK,
            serde_json::json!({
                "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"),
            }),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            serde_json::json!({ "error": "there are /livez, /readyz and /version" }),
        ),
    };
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let (code, body) = if is_read || code == StatusCode::NOT_FOUND {
        (code, body)
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, serde_json::json!({ "error": "use GET" }))
    };
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if code == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
