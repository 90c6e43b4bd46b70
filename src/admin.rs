//! The admin listener: what an orchestrator, Prometheus and whoever is on call ask over plain HTTP/1.1.
//!
//! `/livez` answers while the process runs, `/readyz` says whether it takes calls, `/version` which build it is,
//! `/metrics` what it counts. `/readyz` also says how what the server depends on stands: parts whose files are broken
//! are stale, and work on with what they had; without a ledger changes are refused and reads go on; EC2 stands as the
//! last calls saw it. The listener goes on answering through the drain, so that a load balancer sees the draining.
//!
//! `/config` and `/log-level` are for whoever is on this machine: they tell more than a stranger should
//! know, and change something.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    backend::{
        Backend,
        standing::{Standing, TargetStanding},
    },
    credentials::address::{is_asked_as_local, is_page_elsewhere},
    reload::Stale,
    server::ServerStatus,
    telemetry::{
        level::Level,
        metrics::{self, Metrics},
    },
};

/// Connections at once; more wait to be accepted. Probes come one by one.
const MAX_CONNECTIONS: usize = 64;

/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may take in all. It carries one request, so nobody can hold one for long.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be accepted: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most bytes of a request's body: no directives are longer.
const MAX_BODY: usize = 4096;

/// What is asked about. Clones share it.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Whether the server takes calls.
    pub status: ServerStatus,
    /// Where the security groups are.
    pub backend: Arc<dyn Backend>,
    /// The parts that are read again.
    pub stale: Stale,
    /// What is counted.
    pub metrics: Metrics,
    /// The configuration in effect, for people: without secrets.
    pub config: Arc<str>,
    /// What is logged.
    pub level: Level,
}

/// What a request gets.
#[derive(Debug)]
struct Answer {
    code: StatusCode,
    form: &'static str,
    body: String,
    allow: Option<&'static str>,
}

/// Answers until `shutdown` resolves. Answers under way are cut then; none takes long.
pub async fn serve(listener: TcpListener, admin: Admin, shutdown: impl Future<Output = ()>) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = admin.clone();
                    tokio::spawn(async move {
                        connection(stream, admin).await;
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

async fn connection(stream: TcpStream, admin: Admin) {
    let local = is_local(stream.peer_addr(), stream.local_addr());
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move {
            let (head, body) = request.into_parts();
            let answer = match admin.gate(&head, local) {
                Some(refusal) => refusal,
                None if head.method == Method::PUT => match read(body).await {
                    Ok(directives) => admin.set_level(&directives),
                    Err(refusal) => refusal,
                },
                None => admin.show(head.uri.path()),
            };
            Ok::<_, Infallible>(answer.into_response())
        }
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

/// Whether a connection comes from this machine: both of its ends are loopback addresses.
fn is_local(peer: io::Result<SocketAddr>, own: io::Result<SocketAddr>) -> bool {
    [peer, own].into_iter().all(|end| end.is_ok_and(|end| end.ip().to_canonical().is_loopback()))
}

/// Whether a proxy says that it asks for somebody else, who may be anywhere.
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| headers.contains_key(*name))
}

async fn read(body: Incoming) -> Result<String, Answer> {
    let bytes = Limited::new(body, MAX_BODY).collect().await.map_err(|_| {
        Answer::refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is cut off, or too long")
    })?;
    String::from_utf8(bytes.to_bytes().into())
        .map_err(|_| Answer::refusal(StatusCode::BAD_REQUEST, "the body is not UTF-8"))
}

/// One account and Region, for people and programs.
fn shown(standing: &TargetStanding) -> Value {
    let TargetStanding { target, state, answered, failed, pace_percent } = standing;
    let (failure, failed) = failed.as_ref().map(|(class, ago)| (class, ago.as_secs())).unzip();
    json!({
        "account": target.account.as_str(),
        "region": target.region.as_str(),
        "state": state.as_str(),
        "answered_seconds_ago": answered.map(|ago| ago.as_secs()),
        "failed_seconds_ago": failed,
        "failure": failure,
        "pace_percent": pace_percent,
    })
}

// === impl Admin ===

impl Admin {
    /// What is refused before anything is read or done.
    fn gate(&self, head: &request::Parts, local: bool) -> Option<Answer> {
        let (allow, for_all) = match head.uri.path() {
            "/livez" | "/readyz" | "/version" | "/metrics" => ("GET, HEAD", true),
            "/config" => ("GET, HEAD", false),
            "/log-level" => ("GET, HEAD, PUT", false),
            _ => {
                let paths = "there are /livez, /readyz, /version, /metrics, /config and /log-level";
                return Some(Answer::refusal(StatusCode::NOT_FOUND, paths));
            }
        };
        let own = local && is_asked_as_local(&head.headers) && !is_page_elsewhere(&head.headers);
        let is_allowed = for_all || own && !is_forwarded(&head.headers);
        if !is_allowed {
            let only =
                "this is for connections from this machine alone, to 127.0.0.1, ::1 or localhost";
            return Some(Answer::refusal(StatusCode::FORBIDDEN, only));
        }
        if allow.split(", ").any(|method| head.method.as_str() == method) {
            return None;
        }
        let answer = Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allow}"));
        Some(Answer { allow: Some(allow), ..answer })
    }

    fn show(&self, path: &str) -> Answer {
        match path {
            "/livez" => Answer::json(StatusCode::OK, &json!({ "live": true })),
            "/readyz" => self.readiness(),
            "/metrics" => match self.metrics.text() {
                Ok(text) => Answer::new(StatusCode::OK, metrics::TEXT_FORMAT, text),
                Err(error) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, &error),
            },
            "/config" => Answer::text(self.config.to_string()),
            "/log-level" => Answer::text(format!("{}\n", self.level.get())),
            _ => Answer::json(
                StatusCode::OK,
                &json!({
                    "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"),
                }),
            ),
        }
    }

    fn readiness(&self) -> Answer {
        let (started, draining) = (self.status.started(), self.status.draining());
        let ready = started && !draining;
        let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut body = json!({ "ready": ready, "started": started, "draining": draining });
        let ledger = if self.status.ledger_up() { "ok" } else { "unavailable" };
        let backend = self.backend.standing();
        let mut dependencies = json!({ "ledger": ledger, "backend": backend.summary() });
        for part in self.stale.parts() {
            let standing = if part.is_stale { "stale" } else { "ok" };
            if let Some(dependencies) = dependencies.as_object_mut() {
                dependencies.insert(part.name.to_owned(), json!(standing));
            }
        }
        if let Some(body) = body.as_object_mut() {
            body.insert("dependencies".to_owned(), dependencies);
            // Told, and no reason not to be ready: every replica would leave at once, and no restart cures EC2.
            if let Standing::Targets(targets) = &backend {
                let targets: Vec<Value> = targets.iter().map(shown).collect();
                body.insert("targets".to_owned(), json!(targets));
            }
            let stale = self.stale.names();
            if !stale.is_empty() {
                body.insert("stale".to_owned(), json!(stale));
            }
            if !self.status.ledger_up() {
                body.insert("ledger".to_owned(), json!("unavailable"));
            }
        }
        Answer::json(code, &body)
    }

    fn set_level(&self, directives: &str) -> Answer {
        match self.level.set(directives) {
            Ok(()) => Answer::text(format!("{}\n", self.level.get())),
            Err(error) => Answer::refusal(StatusCode::BAD_REQUEST, &error),
        }
    }
}

// === impl Answer ===

impl Answer {
    fn new(code: StatusCode, form: &'static str, body: String) -> Self {
        Self { code, form, body, allow: None }
    }

    fn json(code: StatusCode, body: &Value) -> Self {
        Self::new(code, "application/json", format!("{body}\n"))
    }

    fn text(body: String) -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", body)
    }

    fn refusal(code: StatusCode, why: &str) -> Self {
        Self::json(code, &json!({ "error": why }))
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.form));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

    use super::*;
    use crate::{backend::sandbox::Sandbox, clock::SystemClock, random::SystemRandom};

    #[test]
    fn only_loopback_at_both_ends_is_this_machine() {
        for (peer, own, local) in [
            ("127.0.0.1:1", "127.0.0.1:2", true),
            ("[::1]:1", "[::1]:2", true),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2", true),
            ("10.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.6:1", "10.0.0.2:2", false),
            ("10.0.0.1:1", "10.0.0.2:2", false),
            ("[2001:db8::1]:1", "[::1]:2", false),
        ] {
            let end = |text: &str| Ok(text.parse().unwrap());
            assert_eq!(is_local(end(peer), end(own)), local, "{peer} {own}");
        }
        assert!(!is_local(Err(io::ErrorKind::NotConnected.into()), Ok("[::1]:2".parse().unwrap())));
    }

    #[test]
    fn strangers_get_what_is_for_all_and_nothing_else() {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let (sandbox, _) = Sandbox::open(None, None, clock, random).unwrap();
        let (_filter, level) = Level::open::<tracing_subscriber::Registry>("info").unwrap();
        let admin = Admin {
            status: ServerStatus::default(),
            backend: Arc::new(sandbox),
            stale: Stale::default(),
            metrics: Metrics::default(),
            config: "secret".into(),
            level,
        };
        let gate = |method: &str, path: &str, local, proxy: Option<&'static str>| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(proxy) = proxy {
                request = request.header(proxy, "192.0.2.1");
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            admin.gate(&head, local).map_or(200, |answer| answer.code.as_u16())
        };
        for path in ["/livez", "/readyz", "/version", "/metrics"] {
            assert_eq!(gate("GET", path, false, None), 200, "{path}");
            assert_eq!(gate("PUT", path, true, None), 405, "{path}");
        }
        for (method, path) in [("GET", "/config"), ("GET", "/log-level"), ("PUT", "/log-level")] {
            assert_eq!(gate(method, path, true, None), 200, "{method} {path}");
            assert_eq!(gate(method, path, false, None), 403, "{method} {path}");
            for proxy in ["forwarded", "x-forwarded-for", "x-real-ip"] {
                assert_eq!(gate(method, path, true, Some(proxy)), 403, "{method} {path} {proxy}");
            }
        }
        assert_eq!(gate("DELETE", "/log-level", true, None), 405);
        assert_eq!(gate("GET", "/config/x", true, None), 404);
    }
}
