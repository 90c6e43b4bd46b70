#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is a failed test")]

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::sleep,
};
use tower::{service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{
    clock::SystemClock,
    middleware::{HttpRequest, HttpResponse},
    random::SeededRandom,
    tls::{
        ClientAuth, Files,
        certificates::{Ca, Folder},
        client,
    },
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_DEADLINE: Duration = Duration::from_secs(120);
const HOUR: Duration = Duration::from_secs(3600);
const ANSWER_BYTES: usize = 100_000;
const SLOW: Duration = Duration::from_secs(20);
const AGE: Duration = Duration::from_secs(1000);
const GRACE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(60);

fn ageless() -> Limits {
    Limits {
        max_deadline: MAX_DEADLINE,
        max_connection_age: None,
        max_connection_idle: None,
        ..Limits::default()
    }
}

/// The client's end of a connection, and when the server's end is over. `/silence` gets a body that never comes,
/// `/nothing` none, `/slow` none after [`SLOW`], all else a large one.
fn connect(buffer: usize) -> (DuplexStream, tokio::task::JoinHandle<Duration>) {
    connect_with(&ageless(), buffer)
}

/// Draws the middle.
#[derive(Debug)]
struct Middle;

impl Random for Middle {
    fn bits(&self) -> u128 {
        100_000
    }
}

fn connect_with(
    limits: &Limits,
    buffer: usize,
) -> (DuplexStream, tokio::task::JoinHandle<Duration>) {
    connect_as(limits, buffer, Arc::new(Middle))
}

fn connect_as(
    limits: &Limits,
    buffer: usize,
    random: Arc<dyn Random>,
) -> (DuplexStream, tokio::task::JoinHandle<Duration>) {
    let path = BoxCloneSyncService::new(service_fn(async |request: HttpRequest| {
        let body = match request.uri().path() {
            "/silence" => Body::new(http_body_util::StreamBody::new(tokio_stream::pending::<
                Result<http_body::Frame<Bytes>, Infallible>,
            >())),
            "/nothing" => Body::empty(),
            "/slow" => {
                sleep(SLOW).await;
                Body::empty()
            }
            _ => Body::new(Full::new(Bytes::from(vec![b'x'; ANSWER_BYTES]))),
        };
        Ok(HttpResponse::new(body))
    }));
    let (client, server) = duplex(buffer);
    let connection = Connections::new(limits, None, path, random, Metrics::default())
        .serve
        .connection(server, Peer::default(), std::future::pending());
    let started = Instant::now();
    let ended = tokio::spawn(async move {
        // Without a bound a connection that stays would never fail a test: a paused clock has no end.
        let _ = timeout(HOUR, connection).await;
        started.elapsed()
    });
    (client, ended)
}

async fn http2_client(stream: DuplexStream, window: u32) -> http2::SendRequest<Full<Bytes>> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("http://localhost{path}")).body(Full::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_begin_is_closed() {
    for begun in [&b""[..], &PREFACE[..1], &PREFACE[..23], b"POST / HTTP/1.1\r\nhost: "] {
        let (mut client, ended) = connect(1024);
        client.write_all(begun).await.unwrap();
        assert_eq!(ended.await.unwrap().as_secs(), START_TIMEOUT.as_secs(), "{begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_preface_byte_by_byte_gets_no_longer() {
    let (mut client, ended) = connect(1024);
    let sender = tokio::spawn(async move {
        for byte in PREFACE {
            sleep(Duration::from_secs(1)).await;
            if client.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(ended.await.unwrap().as_secs(), START_TIMEOUT.as_secs());
    sender.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_preface_without_anything_after_it_is_found_by_pings() {
    let (mut client, ended) = connect(1024);
    client.write_all(PREFACE).await.unwrap();
    let limits = Limits::default();
    let bound = limits.keepalive_interval + limits.keepalive_timeout;
    assert!(ended.await.unwrap() <= bound + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_idle_http_1_connection_is_closed() {
    let (client, ended) = connect(1024);
    let (mut sender, connection) = http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request("/")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), ANSWER_BYTES);
    assert_eq!(ended.await.unwrap().as_secs(), START_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_never_taken_ends_its_connection() {
    // No window at all; one that the first bytes fit into, so that hyper is done with the body.
    for window in [0, 1, 50_000] {
        let (client, ended) = connect(1 << 20);
        let mut sender = http2_client(client, window).await;
        let _unread = sender.send_request(request("/")).await.unwrap();
        let after = ended.await.unwrap();
        assert!((MAX_DEADLINE..=MAX_DEADLINE * 2 + START_TIMEOUT).contains(&after), "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_closed() {
    let (mut client, ended) = connect(1024);
    client.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 100];
    client.read_exact(&mut some).await.unwrap();
    let after = ended.await.unwrap();
    assert!((MAX_DEADLINE..=MAX_DEADLINE * 2 + START_TIMEOUT).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_on_and_never_reads_is_closed() {
    let (mut client, ended) = connect(1024);
    while client.write_all(b"POST /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_ok() {}
    let after = ended.await.unwrap();
    assert!((MAX_DEADLINE..=MAX_DEADLINE * 2 + START_TIMEOUT).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_order_stays() {
    let (client, ended) = connect(1 << 20);
    let mut sender = http2_client(client, 1 << 20).await;
    // Like Health.Watch: nothing waits for the client here.
    let _stream = sender.send_request(request("/silence")).await.unwrap();
    for _ in 0..5 {
        let answer = sender.send_request(request("/")).await.unwrap();
        sleep(MAX_DEADLINE * 3).await;
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), ANSWER_BYTES);
    }
    assert!(!ended.is_finished());
}

fn aging() -> Limits {
    Limits { max_connection_age: Some(AGE), max_connection_age_grace: GRACE, ..ageless() }
}

fn idling() -> Limits {
    Limits { max_connection_idle: Some(IDLE), ..aging() }
}

/// Whether something took as long as it should, give or take what pings and their answers take.
fn is_about(took: Duration, expected: Duration) -> bool {
    (expected - Duration::from_millis(10)..expected + Duration::from_secs(1)).contains(&took)
}

#[tokio::test(start_paused = true)]
async fn old_connections_end_one_after_the_other_and_at_once_if_nothing_is_in_work() {
    let random = Arc::new(SeededRandom::new(1));
    let mut ages = Vec::new();
    for _ in 0..20 {
        let (client, ended) = connect_as(&aging(), 1 << 20, random.clone());
        let _sender = http2_client(client, 1 << 20).await;
        ages.push(ended.await.unwrap());
    }
    assert!(ages.iter().all(|age| (AGE * 9 / 10..=AGE * 11 / 10).contains(age)), "{ages:?}");
    ages.sort();
    assert!(ages[0] < AGE * 97 / 100 && ages[19] > AGE * 103 / 100, "{ages:?}");
    ages.dedup();
    assert!(ages.len() > 15, "{ages:?}");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_finishes_its_calls_and_cuts_its_streams() {
    for (path, longer) in [("/slow", SLOW), ("/silence", GRACE)] {
        let (client, ended) = connect_as(&aging(), 1 << 20, Arc::new(Middle));
        let mut sender = http2_client(client, 1 << 20).await;
        sleep(AGE - Duration::from_millis(1)).await;
        let answer = sender.send_request(request(path)).await.unwrap();
        let read = answer.into_body().collect().await;
        assert_eq!(read.is_ok(), path == "/slow", "{read:?}");
        let ended = ended.await.unwrap();
        assert!(is_about(ended, AGE + longer), "{path}: {ended:?}");
        assert!(sender.send_request(request("/")).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_http_1_connection_says_close() {
    let (client, ended) = connect_as(&aging(), 1 << 20, Arc::new(Middle));
    let (mut sender, connection) = http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let started = Instant::now();
    loop {
        let answer = sender.send_request(request("/slow")).await.unwrap();
        let is_old = started.elapsed() > AGE;
        let close = answer.headers().get(http::header::CONNECTION);
        assert_eq!(close.is_some_and(|value| value == "close"), is_old, "{close:?}");
        if is_old {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let ended = ended.await.unwrap();
    assert!((AGE..=AGE + SLOW).contains(&ended), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_ends_and_one_with_a_call_does_not() {
    let (client, ended) = connect_with(&idling(), 1 << 20);
    let _sender = http2_client(client, 1 << 20).await;
    let after = ended.await.unwrap();
    assert!(is_about(after, IDLE), "{after:?}");

    let (client, ended) = connect_with(&idling(), 1 << 20);
    let started = Instant::now();
    let mut sender = http2_client(client, 1 << 20).await;
    for _ in 0..3 {
        sleep(IDLE * 2 / 3).await;
        sender.send_request(request("/nothing")).await.unwrap();
    }
    let stream = sender.send_request(request("/silence")).await.unwrap();
    sleep(IDLE * 3).await;
    assert!(!ended.is_finished());
    drop(stream);
    let since = started.elapsed();
    let after = ended.await.unwrap();
    assert!(is_about(after, since + IDLE), "{after:?} {since:?}");
}

/// Keepalive is not a call: who answers pings and asks for nothing has no place for ever.
#[tokio::test(start_paused = true)]
async fn a_connection_that_only_answers_pings_ends_as_idle() {
    let often = Duration::from_secs(1);
    let limits = Limits { keepalive_interval: often, ..idling() };
    let (client, ended) = connect_with(&limits, 1 << 20);
    let _sender = http2_client(client, 1 << 20).await;
    let after = ended.await.unwrap();
    assert!(is_about(after, IDLE), "{after:?}");
    // What does not answer them goes much earlier.
    let (mut client, ended) = connect_with(&limits, 1 << 20);
    client.write_all(PREFACE).await.unwrap();
    let after = ended.await.unwrap();
    assert!(after < IDLE / 2, "{after:?}");
}

/// A server with TLS that answers with what it knows of the caller, and takes one connection at a time.
async fn tls_server(folder: &Folder, ca: &Ca) -> SocketAddr {
    let (certificate, key) = folder.put("server", &ca.leaf("server"));
    let client_cas = vec![folder.write("ca.pem", &ca.pem)];
    let client_auth = ClientAuth::Optional;
    let files = Files { certificate, key, client_auth, client_cas, crls: Vec::new() };
    let tls = Arc::new(Tls::open(files, Arc::new(SystemClock)).unwrap());
    let path = BoxCloneSyncService::new(service_fn(async |request: HttpRequest| {
        let peer: &Peer = request.extensions().get().unwrap();
        let text = peer.certificate.as_ref().map_or("none", |certificate| &certificate.subject);
        Ok(HttpResponse::new(Body::new(Full::new(Bytes::from(text.to_owned())))))
    }));
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let random = Arc::new(SeededRandom::new(1));
    let connections = Connections::new(&limits, Some(tls), path, random, Metrics::default());
    tokio::spawn(async move { connections.accept(&listener).await });
    address
}

fn tls_config(folder: &Folder, own: bool) -> Arc<tokio_rustls::rustls::ClientConfig> {
    let path = |name| folder.0.join(name);
    let own = own.then(|| (path("client.pem"), path("client.key")));
    let own = own.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    client::config(&path("ca.pem"), own).unwrap()
}

async fn tls_client(
    config: &Arc<tokio_rustls::rustls::ClientConfig>,
    address: SocketAddr,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn a_call_knows_its_callers_certificate() {
    let (folder, ca) = (Folder::new(), Ca::new("ca"));
    folder.put("client", &ca.leaf("alice"));
    let address = tls_server(&folder, &ca).await;
    let (with, without) = (tls_config(&folder, true), tls_config(&folder, false));
    // The second time, the session is resumed.
    for (config, expected) in [(&with, "CN=alice"), (&with, "CN=alice"), (&without, "none")] {
        let stream = tls_client(config, address).await;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request("/")).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), expected);
    }
}

/// Its place is another's again.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_closed() {
    let (folder, ca) = (Folder::new(), Ca::new("ca"));
    let address = tls_server(&folder, &ca).await;
    for begun in [&b""[..], &[22], &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]] {
        let started = Instant::now();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(begun).await.unwrap();
        let config = tls_config(&folder, false);
        let waiting = timeout(HOUR, tls_client(&config, address)).await.unwrap();
        let waited = started.elapsed();
        assert!(
            (HANDSHAKE_TIMEOUT..HANDSHAKE_TIMEOUT * 2).contains(&waited),
            "{begun:?}: {waited:?}"
        );
        let mut rest = Vec::new();
        assert_eq!(slow.read_to_end(&mut rest).await.unwrap(), 0);
        drop(waiting);
    }
}
