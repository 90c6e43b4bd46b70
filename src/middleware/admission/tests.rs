//! Under a paused clock. What goes over a socket is in `tests/service/admission.rs`.

use std::{convert::Infallible, future::pending, time::Duration};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt as _;
use tower::{ServiceExt as _, service_fn};

use super::{share::ShareLayer, *};
use crate::{
    api::status,
    operations::Progress,
    principal::{Method as By, Principal},
    telemetry::metrics::Metrics,
};

const REVOKE: &str = "/portcullis.v1.SecurityGroupService/RevokeEgress";

fn request(path: &str, body: Body) -> HttpRequest {
    let mut request = HttpRequest::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
    request.extensions_mut().insert(CallInfo {
        request_id: "r-1".into(),
        deadline: Instant::now(),
        progress: Arc::new(Progress::default()),
        caller: Arc::default(),
    });
    request
}

/// A body that ends when its sender is dropped.
fn body() -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Body::new(StreamBody::new(ReceiverStream::new(receiver))))
}

/// A call to something that answers once it has the request, as tonic does.
fn call(gate: &Arc<Gate>, request: HttpRequest) -> JoinHandle<(Code, String)> {
    let inner = service_fn(async |request: HttpRequest| {
        Ok::<_, Infallible>(match request.into_body().collect().await {
            Ok(_) => HttpResponse::default(),
            Err(cut) => status::dress(&cut, "r-1").into_http(),
        })
    });
    let called = AdmissionLayer::new(gate.clone()).layer(inner).oneshot(request);
    tokio::spawn(async { answer(&called.await.unwrap()) })
}

fn answer(response: &HttpResponse) -> (Code, String) {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return (Code::Ok, String::new());
    };
    let details = status.get_error_details();
    (status.code(), details.error_info().map(|info| info.reason.clone()).unwrap_or_default())
}

fn refused(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_loses_its_place() {
    let gate = Arc::new(Gate::new(2, 0));
    let begin = Instant::now();
    let (_silent, nothing) = body();
    let (dripping, drops) = body();
    tokio::spawn(async move {
        let mut drop = interval(Duration::from_secs(1));
        while dripping.send(Ok(Frame::data(Bytes::from_static(&[1])))).await.is_ok() {
            drop.tick().await;
        }
    });
    let calls = [call(&gate, request(REVOKE, nothing)), call(&gate, request(REVOKE, drops))];
    tokio::task::yield_now().await;
    let third = call(&gate, request(REVOKE, Body::empty())).await.unwrap();
    assert_eq!(third, refused(Code::Unavailable, "OVERLOADED"));
    for cut in calls {
        assert_eq!(cut.await.unwrap(), refused(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        // The timer's own grain.
        assert!(begin.elapsed() <= arrival::ARRIVAL_TIMEOUT + Duration::from_millis(1));
    }
    gate.idle().await;
    assert_eq!(call(&gate, request(REVOKE, Body::empty())).await.unwrap().0, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_one_message() {
    let gate = Arc::new(Gate::new(1, 0));
    let one = [&[1, 0, 0, 1, 2][..], &[0; 258]].concat();
    let several = refused(Code::Unimplemented, "UNIMPLEMENTED");
    // However it is cut into frames, and whatever follows.
    for size in [1, 2, 5, 6, 262, 263, 264, 999] {
        for (rest, expected) in
            [(&[][..], &refused(Code::Ok, "")), (&[0], &several), (&one, &several)]
        {
            let (sender, body) = body();
            let answered = call(&gate, request(REVOKE, body));
            for bytes in [&one, rest].concat().chunks(size) {
                // Nobody reads on behind the end of the first.
                let _ = sender.send(Ok(Frame::data(Bytes::copy_from_slice(bytes)))).await;
            }
            drop(sender);
            assert_eq!(answered.await.unwrap(), *expected, "{size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_requests_to_come() {
    let gate = Arc::new(Gate::new(2, 0));
    let begin = Instant::now();
    let (_silent, nothing) = body();
    let unfinished = call(&gate, request(REVOKE, nothing));
    tokio::task::yield_now().await;
    gate.drain();
    gate.idle().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(unfinished.await.unwrap(), refused(Code::Unavailable, "DRAINING"));
}

#[tokio::test]
async fn streams_have_places_of_their_own() {
    let gate = Arc::new(Gate::new(100, STREAMS_OF_CONNECTION + 2));
    let open = async |connection: &Streams, path| {
        let mut request = request(path, Body::empty());
        request.extensions_mut().insert(connection.clone());
        let inner = service_fn(async |_: HttpRequest| {
            let (_, body) = body();
            Ok::<_, Infallible>(HttpResponse::new(body))
        });
        let layer = AdmissionLayer::new(gate.clone());
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        (answer(&response), response)
    };
    let over = refused(Code::ResourceExhausted, "RATE_LIMITED");
    let (first, second) = (Streams::default(), Streams::default());
    let mut streams = Vec::new();
    for number in 0..STREAMS_OF_CONNECTION {
        let path =
            if number % 2 == 0 { WATCH } else { "/grpc.reflection.v1.ServerReflection/Info" };
        let (answered, stream) = open(&first, path).await;
        assert_eq!(answered.0, Code::Ok);
        streams.push(stream);
    }
    assert_eq!(open(&first, WATCH).await.0, over);
    // They are in nobody's way: checks, calls, another connection's streams, as far as there are places.
    assert_eq!(open(&first, "/grpc.health.v1.Health/Check").await.0.0, Code::Ok);
    assert_eq!(open(&first, REVOKE).await.0.0, Code::Ok);
    for _ in 0..2 {
        let (answered, stream) = open(&second, WATCH).await;
        assert_eq!(answered.0, Code::Ok);
        streams.push(stream);
    }
    assert_eq!(open(&second, WATCH).await.0, over);
    streams.remove(0);
    assert_eq!(open(&second, WATCH).await.0.0, Code::Ok);
    assert_eq!(open(&first, WATCH).await.0.0, Code::Ok);
}

#[tokio::test]
async fn one_caller_has_half_of_the_places() {
    let layer = ShareLayer::new(5, Metrics::default());
    let held = |method, subject: &str| {
        let subject = subject.to_owned();
        let principal = Principal { method, subject, ..Principal::local() };
        let mut request = request(REVOKE, Body::empty());
        request.extensions_mut().insert(Arc::new(principal));
        let inner = service_fn(async |_: HttpRequest| pending::<Result<_, Infallible>>().await);
        layer.layer(inner).oneshot(request)
    };
    let begun = async |method, subject| {
        let mut call = Box::pin(held(method, subject));
        let answered = tokio::select! {
            biased;
            response = &mut call => Some(answer(&response.unwrap())),
            () = std::future::ready(()) => None,
        };
        (call, answered)
    };
    let mut calls = Vec::new();
    for _ in 0..3 {
        let (call, answered) = begun(By::Jwt, "alice").await;
        assert_eq!(answered, None);
        calls.push(call);
    }
    let over = Some(refused(Code::ResourceExhausted, "RATE_LIMITED"));
    assert_eq!(begun(By::Jwt, "alice").await.1, over);
    // Others have theirs, also one of that name.
    for (method, subject) in [(By::Token, "alice"), (By::Jwt, "bob")] {
        let (call, answered) = begun(method, subject).await;
        assert_eq!(answered, None);
        calls.push(call);
    }
    calls.remove(0);
    let (call, answered) = begun(By::Jwt, "alice").await;
    assert_eq!(answered, None);
    calls.push(call);
    assert_eq!(begun(By::Jwt, "alice").await.1, over);
    calls.clear();
    assert_eq!(layer.callers(), 0);
    // Where nobody is authenticated there is nobody to keep places for.
    for _ in 0..10 {
        let (call, answered) = begun(By::Local, "local").await;
        assert_eq!(answered, None);
        calls.push(call);
    }
}
