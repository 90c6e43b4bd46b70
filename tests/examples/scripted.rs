//! A server of the contract that answers changes as a script says, and writes down what each attempt brought. It does
//! what the real one cannot be made to do on command: close a connection, leave a call unanswered, fall silent.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tonic::{Code, Status, body::Body, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What an attempt at a change gets.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// An empty response.
    Done,
    /// A status with this `grpc-retry-pushback-ms` and this RetryInfo.
    Refused(Code, Option<&'static str>, Option<Duration>),
    /// The connection is closed.
    Cut,
    /// Nothing; but the connection goes on answering pings, as a proxy does whose own connection is lost.
    Hang,
    /// Nothing, nor to anything else on the connection, pings among it. It stays open.
    Silent,
}

/// What an attempt at a change brought.
#[derive(Debug)]
pub struct Attempt {
    pub key: String,
    pub timeout: Duration,
}

/// A running server; it ends with the test's runtime.
pub struct Scripted {
    pub address: String,
    script: Arc<Script>,
}

struct Script {
    answers: Mutex<VecDeque<Answer>>,
    attempts: Mutex<Vec<Attempt>>,
}

enum End {
    Cut,
    Silent,
}

impl Scripted {
    pub async fn start(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers = Mutex::new(answers.iter().copied().collect());
        let script = Arc::new(Script { answers, attempts: Mutex::default() });
        let shared = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, script }
    }

    /// The attempts so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        std::mem::take(&mut *self.script.attempts.lock().unwrap())
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>) {
    let (end, mut ended) = mpsc::unbounded_channel();
    let service = service_fn(move |request| {
        let (script, end) = (script.clone(), end.clone());
        async move { Ok::<_, Infallible>(script.answer(request, end).await) }
    });
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => {}
        // Whoever is not polled reads nothing and writes nothing.
        Some(end) = ended.recv() => if matches!(end, End::Silent) { pending().await },
    }
}

impl Script {
    async fn answer(
        &self,
        request: Request<Incoming>,
        end: mpsc::UnboundedSender<End>,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let _ = body.collect().await;
        if !head.uri.path().ends_with("/RevokeEgress") {
            return done();
        }
        let header = |name| head.headers.get(name).map_or("", |value| value.to_str().unwrap());
        let attempt = Attempt {
            key: header("idempotency-key").to_owned(),
            timeout: timeout(header("grpc-timeout")),
        };
        self.attempts.lock().unwrap().push(attempt);
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(Answer::Done) => return done(),
            Some(Answer::Refused(code, pushback, delay)) => return refused(code, pushback, delay),
            Some(Answer::Cut) => end.send(End::Cut).unwrap(),
            Some(Answer::Silent) => end.send(End::Silent).unwrap(),
            Some(Answer::Hang) => {}
            None => return refused(Code::Internal, None, None),
        }
        pending().await
    }
}

fn done() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)];
    let body = StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Infallible>)));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(body)).unwrap()
}

fn refused(code: Code, pushback: Option<&'static str>, delay: Option<Duration>) -> Response<Body> {
    let mut metadata = MetadataMap::new();
    if let Some(pushback) = pushback {
        metadata.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
    }
    let mut details = ErrorDetails::new();
    if delay.is_some() {
        details.set_retry_info(delay);
    }
    Status::with_error_details_and_metadata(code, "as the script says", details, metadata)
        .into_http()
}

/// As gRPC writes it: `20S`, `19999m`.
fn timeout(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number = number.parse().unwrap();
    match unit {
        "H" => Duration::from_secs(3600 * number),
        "M" => Duration::from_secs(60 * number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => panic!("{text}"),
    }
}
