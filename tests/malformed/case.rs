//! One malformed request: what is sent, and what may come of it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use super::{json, support, wire};

/// What nothing may take longer than. The server closes what stands still after 10 s and twice its longest deadline.
const HANG: Duration = Duration::from_secs(60);

/// The pause between the bytes of a slow sender.
const SLOW: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Hash)]
pub struct Case {
    pub kind: &'static str,
    pub sent: Sent,
    pub expected: Vec<End>,
}

#[derive(Clone, Debug, Hash)]
pub enum Sent {
    Call(Call),
    Raw(Vec<u8>, Manner),
    /// HTTP/1.1 with JSON, whose answers are read whole.
    Http1(Vec<u8>, Manner),
}

/// A request through an HTTP library.
#[derive(Clone, Debug, Hash)]
pub struct Call {
    pub http1: bool,
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Whether the body ends. If not, its sender waits for ever.
    pub ends: bool,
}

/// How bytes are sent, and what is waited for.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Manner {
    /// At once; then any answer.
    AtOnce,
    /// At once, then the sender says that it is done; then the connection's end.
    AndFinish,
    /// At once; then the connection's end, whatever else is said.
    UntilClosed,
    /// Byte by byte, one packet each; then any answer.
    ByteByByte,
    /// Byte by byte with pauses, over and over, until the connection's end.
    Slowly,
    /// A greeting, then this over and over without reading anything, until writing fails.
    NeverReading,
}

/// What came of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum End {
    /// A gRPC status: its code, and the reason if it is not OK.
    Status(i32, &'static str),
    /// Any gRPC status that is in order.
    AnyStatus,
    /// An answer in JSON: its HTTP status, and the reason if it is an error of ours.
    Json(u16, &'static str),
    /// Any answer in JSON that is in order.
    AnyJson,
    /// HTTP/1.1: more than one answer, with these HTTP statuses.
    Several(Vec<u16>),
    /// An HTTP status without a gRPC status.
    Http(u16),
    /// The server closed the connection.
    Closed,
    /// HTTP/2: the server refuses the connection.
    GoAway,
    /// HTTP/2: the server refuses the stream.
    Reset,
    /// HTTP/2: there is an answer; its head is not read here.
    Answer,
    /// HTTP/2: the ping that followed was answered: the connection goes on.
    Pong,
}

pub fn invalid() -> Vec<End> {
    vec![End::Status(Code::InvalidArgument.into(), "INVALID_REQUEST")]
}

pub fn too_large() -> Vec<End> {
    vec![End::Status(Code::ResourceExhausted.into(), "REQUEST_TOO_LARGE")]
}

/// The connection is given up, in whichever way.
pub fn refused() -> Vec<End> {
    vec![End::GoAway, End::Closed]
}

impl Case {
    /// Sends it and says what is wrong with what came of it, if anything.
    pub async fn run(&self, address: &str) -> Result<(), String> {
        let ended = timeout(HANG, async {
            match &self.sent {
                Sent::Call(call) => call.run(address).await,
                Sent::Raw(bytes, manner) => raw(bytes, *manner, address).await,
                Sent::Http1(bytes, manner) => json::exchange(address, bytes, *manner).await,
            }
        });
        let end = ended.await.map_err(|_| format!("{}: a hang", self.kind))?;
        let any = self.expected.contains(&End::AnyStatus) && matches!(end, End::Status(..))
            || self.expected.contains(&End::AnyJson) && matches!(end, End::Json(..));
        if any || self.expected.contains(&end) {
            return Ok(());
        }
        let mut sent = format!("{:?}", self.sent);
        sent.truncate(2000);
        Err(format!("{}: {end:?}, expected {:?}; {sent}", self.kind, self.expected))
    }
}

impl Call {
    async fn run(&self, address: &str) -> End {
        let Ok(stream) = TcpStream::connect(address).await else { return End::Closed };
        let io = TokioIo::new(stream);
        let uri =
            if self.http1 { self.path.clone() } else { format!("http://{address}{}", self.path) };
        let mut request = http::Request::builder().method(self.method).uri(uri);
        if self.http1 {
            request = request.header("host", "localhost");
        }
        for (name, value) in &self.headers {
            request = request.header(name, http::HeaderValue::from_bytes(value).unwrap());
        }
        // In pieces of 16 KiB, and one that never comes if the body is not to end.
        let pieces: Vec<_> = self.body.chunks(16 << 10).map(|piece| Ok(frame(piece))).collect();
        let pieces = tokio_stream::iter(pieces);
        let body: BoxBody<Bytes, std::io::Error> = if self.ends {
            BoxBody::new(StreamBody::new(pieces))
        } else {
            BoxBody::new(StreamBody::new(pieces.chain(tokio_stream::pending())))
        };
        let request = request.body(body).unwrap();
        let answer = if self.http1 {
            let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(io).await
            else {
                return End::Closed;
            };
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let Ok((mut sender, connection)) = handshake else { return End::Closed };
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        match answer {
            Ok(answer) => end_of(answer).await,
            Err(_) => End::Closed,
        }
    }
}

fn frame(piece: &[u8]) -> http_body::Frame<Bytes> {
    http_body::Frame::data(Bytes::copy_from_slice(piece))
}

async fn end_of(answer: http::Response<hyper::body::Incoming>) -> End {
    let (head, body) = answer.into_parts();
    let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap());
    if header("content-type") == Some("application/json") {
        let Ok(body) = body.collect().await else { return End::Closed };
        return json::told(head.status.as_u16(), header("x-request-id"), &body.to_bytes());
    }
    if head.status != 200 {
        return End::Http(head.status.as_u16());
    }
    let status = match Status::from_header_map(&head.headers) {
        Some(status) => {
            assert_ne!(status.code(), Code::Ok, "a head that says OK");
            assert!(head.headers.contains_key("x-request-id"));
            let rest = body.collect().await.unwrap().to_bytes();
            assert!(rest.is_empty(), "not Trailers-Only: {rest:?}");
            status
        }
        None => {
            let body = body.collect().await.unwrap();
            let trailers = body.trailers().expect("trailers");
            Status::from_header_map(trailers).expect("grpc-status")
        }
    };
    if status.code() == Code::Ok {
        return End::Status(0, "");
    }
    // What every error must have is checked there, its size too.
    let reason = support::details(&status).error_info().unwrap().reason.clone();
    End::Status(status.code().into(), reason.leak())
}

async fn raw(bytes: &[u8], manner: Manner, address: &str) -> End {
    let Ok(stream) = TcpStream::connect(address).await else { return End::Closed };
    stream.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let bytes = bytes.to_vec();
    if manner == Manner::NeverReading {
        let _ = writer.write_all(&wire::hello(&[])).await;
        while writer.write_all(&bytes).await.is_ok() {}
        return End::Closed;
    }
    // Writing may block until something is read, and fail because the server has had enough.
    let sender = tokio::spawn(async move {
        match manner {
            Manner::ByteByByte => {
                for byte in bytes {
                    if writer.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
            }
            Manner::Slowly => {
                let mut ticks = tokio::time::interval(SLOW);
                for byte in bytes.into_iter().cycle() {
                    ticks.tick().await;
                    if writer.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
            }
            _ => {
                let _ = writer.write_all(&bytes).await;
            }
        }
        if manner == Manner::AndFinish {
            let _ = writer.shutdown().await;
        }
        writer
    });
    let only_close = !matches!(manner, Manner::AtOnce | Manner::ByteByByte);
    let end = answer(&mut reader, only_close).await;
    sender.abort();
    end
}

/// The first thing that the server says that is more than a greeting.
async fn answer(reader: &mut (impl AsyncRead + Unpin), only_close: bool) -> End {
    let mut got = Vec::new();
    let mut goaway = false;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = reader.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return if goaway { End::GoAway } else { End::Closed };
        }
        got.extend_from_slice(&buffer[..count]);
        if got.starts_with(b"HTTP/1.1 ") {
            let Some(status) = got.get(9..12) else { continue };
            let status = std::str::from_utf8(status).unwrap().parse().unwrap();
            // A refusal ends the connection.
            while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            return End::Http(status);
        }
        while got.len() >= 9 {
            let length = u32::from_be_bytes([0, got[0], got[1], got[2]]) as usize;
            if got.len() < 9 + length {
                break;
            }
            let frame: Vec<u8> = got.drain(..9 + length).collect();
            let end = match frame[3] {
                wire::GOAWAY => {
                    goaway = true;
                    None
                }
                wire::HEADERS => Some(End::Answer),
                wire::RST_STREAM => Some(End::Reset),
                wire::PING if frame[4] == wire::ACK && &frame[9..] == wire::LAST_PING => {
                    Some(End::Pong)
                }
                _ => None,
            };
            if let Some(end) = end.filter(|_| !only_close) {
                return end;
            }
        }
    }
}
