//! The connections, owned here so that a drain has a bound, which tonic's and hyper's own have not, and so that no
//! client keeps one for nothing:
//!
//! - one whose TLS handshake is not over within [`HANDSHAKE_TIMEOUT`] is closed;
//! - one that does not begin a request or finish HTTP/2's preface within [`START_TIMEOUT`] is closed;
//! - so is one whose client does not take what is written for it within the longest deadline of a call, when no
//!   caller waits for it any more;
//! - HTTP/2 pings find the dead ones;
//! - what is old, or had no call for long, is asked to end (`lifetime`).

use std::{
    convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::ServiceExt;

use super::{
    Path,
    lifetime::{Calls, Lifetime},
    standstill::{Standstill, Watched, WatchedBody},
};
use crate::{
    config::Limits,
    middleware::admission::Streams,
    principal::Peer,
    random::Random,
    telemetry::metrics::Metrics,
    tls::{self, Tls},
};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take for HTTP/2's preface, and for the head of a request over HTTP/1.1. An idle HTTP/1.1
/// connection gets as long for its next request.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of a call's metadata that are read. Fewer are taken (`MAX_METADATA_BYTES` in admission, which
/// answers with a status); beyond this HTTP/2 itself answers, with 431.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;

/// The most bytes that an HTTP/1.1 connection buffers: hyper's own bound is seven times as much.
const HTTP1_BUFFER_BYTES: usize = 64 << 10;

/// How long it may take until a client has heard that its connection ends. HTTP/2 takes its calls until then: it says
/// GOAWAY and which calls it still took only after the answer to a ping.
const HEARING: Duration = Duration::from_secs(2);

/// How long, after the last call has ended, connections get to close on their own while draining. What is open then
/// is a stream that its client keeps, such as Health.Watch.
const LINGER: Duration = Duration::from_secs(1);

/// How long to wait when no connection can be accepted: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections and serves `path` on them.
pub struct Connections {
    serve: Serve,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    metrics: Metrics,
}

/// What each connection takes with it.
#[derive(Clone)]
struct Serve {
    http: auto::Builder<TokioExecutor>,
    path: Path,
    /// None: connections are not encrypted.
    tls: Option<Arc<Tls>>,
    /// How long what is written for a client may stay untaken.
    untaken_timeout: Duration,
    lifetime: Lifetime,
    random: Arc<dyn Random>,
    /// Each connection finishes what it has and takes nothing new.
    goodbye: CancellationToken,
    /// Each connection ends at once.
    abort: CancellationToken,
}

impl Connections {
    /// None yet.
    pub fn new(
        limits: &Limits,
        tls: Option<Arc<Tls>>,
        path: Path,
        random: Arc<dyn Random>,
        metrics: Metrics,
    ) -> Self {
        let serve = Serve {
            http: http(limits),
            path,
            tls,
            untaken_timeout: limits.max_deadline,
            lifetime: Lifetime::new(limits),
            random,
            goodbye: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        let places = Arc::new(Semaphore::new(limits.max_connections));
        Self { serve, places, tasks: TaskTracker::new(), metrics }
    }

    /// Accepts for ever. At the limit of connections, new ones wait in the kernel's queue.
    pub async fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, address)) => {
                    // Answers are small and whole: waiting to fill a packet only delays them.
                    let _ = stream.set_nodelay(true);
                    let connection = self.serve.clone().accepted(stream, address);
                    let open = self.metrics.connection();
                    self.tasks.spawn(async move {
                        connection.await;
                        drop((open, place));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Begins the end: connections finish what they have and take nothing new. Returns once all have ended, or after a
    /// moment in which the clients of the others have heard of it: until then their calls are still to be served.
    pub async fn say_goodbye(&self, until: Instant) {
        self.serve.goodbye.cancel();
        self.tasks.close();
        let heard = until.min(Instant::now() + HEARING);
        let _ = timeout_at(heard, self.tasks.wait()).await;
    }

    /// Lets connections close on their own for a moment, then ends them.
    pub async fn close(self, until: Instant) {
        let linger = until.saturating_duration_since(Instant::now()).min(LINGER);
        if timeout(linger, self.tasks.wait()).await.is_err() {
            tracing::info!(
                connections = self.tasks.len(),
                "closing connections that clients keep open"
            );
            self.serve.abort.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Serve {
    /// Serves one connection to its end.
    async fn accepted(self, stream: TcpStream, address: SocketAddr) {
        let Some(tls) = self.tls.clone() else {
            let peer = Peer { address: Some(address), ..Peer::default() };
            return self.connection(stream, peer, std::future::pending()).await;
        };
        let handshake = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            // Nothing was asked yet, so nothing is owed.
            () = self.goodbye.cancelled() => return,
        };
        match shaken {
            Ok(Ok((stream, session))) => {
                let certificate = session.certificate.clone();
                let peer = Peer { address: Some(address), certificate, ..Peer::default() };
                // The handshake's state is large; it is not kept as long as the connection.
                Box::pin(self.connection(stream, peer, session.distrusted())).await;
            }
            Ok(Err(error)) => refused(&error, address),
            Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
        }
    }

    /// Ends well when `distrusted` does: what is in work is finished. Nothing new is taken, and what a client that does
    /// not hear of it sends all the same is told by the peer that its certificate is no longer good.
    fn connection<I>(
        self,
        stream: I,
        peer: Peer,
        distrusted: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { http, path, untaken_timeout, lifetime, random, goodbye, abort, .. } = self;
        let standstill = Standstill::default();
        let watch = standstill.clone().watch(START_TIMEOUT, untaken_timeout);
        let (calls, streams) = (Calls::default(), Streams::default());
        let over = lifetime.over(calls.clone(), random.bits());
        let told = peer.distrusted.clone();
        async move {
            let io = TokioIo::new(Watched::new(stream, &standstill));
            let path = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(streams.clone());
                let answering = path.clone().oneshot(request.map(Body::new));
                let (standstill, call) = (standstill.clone(), calls.begin());
                async move {
                    let response = answering.await?;
                    let watched = |body| WatchedBody::new(body, &standstill, call);
                    Ok::<_, Infallible>(response.map(watched))
                }
            });
            let mut connection = pin!(http.serve_connection(io, path));
            let served = async {
                let why = tokio::select! {
                    served = connection.as_mut() => return served,
                    () = goodbye.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        // The drain has a bound.
                        return connection.await;
                    }
                    () = told.cancelled() => None,
                    why = over => Some(why),
                };
                connection.as_mut().graceful_shutdown();
                if let Some(why) = why {
                    tracing::debug!(why, "a connection is to end");
                    tokio::select! {
                        served = timeout(lifetime.grace, connection.as_mut()) => {
                            return served.unwrap_or(Ok(()));
                        }
                        () = told.cancelled() => {}
                    }
                }
                tracing::info!("a connection ends: its client certificate is no longer good");
                // No call lasts longer; a stream would.
                timeout(untaken_timeout, connection).await.unwrap_or(Ok(()))
            };
            let telling = async {
                distrusted.await;
                told.cancel();
                std::future::pending::<Infallible>().await
            };
            tokio::select! {
                // In this order, so that no call begins that does not know it.
                biased;
                never = telling => match never {},
                why = watch => tracing::debug!(why, "a connection was closed"),
                () = abort.cancelled() => {}
                served = served => if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended");
                },
            }
        }
    }
}

/// Logs a handshake that failed: loudly if it was about certificates, which someone has to mend. Probes of load
/// balancers, and port scans, end it otherwise.
fn refused(error: &io::Error, address: SocketAddr) {
    if tls::is_about_certificates(error) {
        tracing::info!(%address, %error, "a TLS handshake failed");
    } else {
        tracing::debug!(%address, %error, "a TLS handshake failed");
    }
}

fn http(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(START_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    http
}

#[cfg(test)]
mod tests;
