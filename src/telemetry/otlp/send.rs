//! One request to the collector, and trying again.

use std::{error::Error, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, Extensions, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::Channel,
};
use tonic_types::StatusExt as _;

use super::{batches::Batch, encode};

/// Where spans and log records go.
pub const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// How often a request is tried again at most, and how long after the first try; then twice as long, and so on.
const AGAIN: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(100);

/// How batches are sent.
pub struct Sending {
    pub channel: Channel,
    pub path: &'static str,
    pub headers: MetadataMap,
    /// How long one batch may take, with all tries.
    pub timeout: Duration,
    pub resource: Resource,
}

/// Bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

// === impl Sending ===

impl Sending {
    /// Sends a batch. An error has no word of the collector's, which may repeat a credential of ours.
    pub async fn send(&self, batch: &Batch) -> OTelSdkResult {
        let message = Bytes::from(encode::request(&self.resource, batch.scopes()));
        let until = Instant::now() + self.timeout;
        let mut again = 0;
        loop {
            let late = || Err(Status::deadline_exceeded(""));
            let answer = timeout_at(until, self.once(message.clone())).await;
            let Err(status) = answer.unwrap_or_else(|_| late()) else { return Ok(()) };
            let pause = pause_after(&status, again);
            match pause {
                Some(pause) if again < AGAIN && Instant::now() + pause < until => {
                    again += 1;
                    sleep(pause).await;
                }
                _ => return Err(OTelSdkError::InternalFailure(told(&status))),
            }
        }
    }

    async fn once(&self, message: Bytes) -> Result<(), Status> {
        let mut client = Grpc::new(self.channel.clone());
        let unready = |error: tonic::transport::Error| Status::from_error(Box::new(error));
        client.ready().await.map_err(unready)?;
        let request = Request::from_parts(self.headers.clone(), Extensions::new(), message);
        let path = PathAndQuery::from_static(self.path);
        client.unary(request, path, Raw).await.map(drop)
    }
}

/// How long to wait before another try; none: it would be no better. As OTLP has it.
fn pause_after(status: &Status, again: u32) -> Option<Duration> {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match status.code() {
        Code::ResourceExhausted => asked,
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Some(asked.unwrap_or(BACKOFF * 2_u32.pow(again))),
        _ => None,
    }
}

/// The code, and what happened on this side of the connection.
fn told(status: &Status) -> String {
    let mut text = format!("{:?}", status.code());
    let mut cause = status.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

// === impl Raw ===

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    /// What a collector rejected of a batch that it took, it says in its own log and metrics.
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}
