//! A request's body, until all of it has come, and that it is one message. Only then does a unary method begin, so that
//! whoever is cut off here was not served at all.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::DRAINING;
use crate::{api::status::Cut, error::Reason};

/// How long a request may take to come, as long as other beginnings of a client. A deadline does not do for it: its
/// caller chooses that, and holds a place for nothing until then.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

const LATE: Cut =
    Cut(Reason::DeadlineExceeded, "the request had not come after ten seconds; nothing was sent");

const UNFINISHED: Cut = Cut(Reason::Draining, DRAINING);

/// UNIMPLEMENTED is what gRPC's table of status codes says of it. tonic would do the first and say nothing of the others.
const SEVERAL: Cut =
    Cut(Reason::Unimplemented, "the request has several messages; this method takes one");

/// What a message is led by: whether it is compressed, and its length.
const PREFIX: u64 = 5;

/// How much came of what should be one message.
#[derive(Debug, Default)]
struct Message {
    came: u64,
    length: u32,
}

pin_project! {
    /// See the module.
    pub struct Arriving {
        #[pin]
        inner: Body,
        #[pin]
        late: Sleep,
        #[pin]
        draining: WaitForCancellationFutureOwned,
        message: Message,
    }
}

impl Arriving {
    /// From now on, and at most until `draining`.
    pub fn new(inner: Body, draining: &CancellationToken) -> Self {
        let draining = draining.clone().cancelled_owned();
        Self { inner, late: sleep(ARRIVAL_TIMEOUT), draining, message: Message::default() }
    }
}

impl Message {
    /// Whether these bytes are of the same message as those before.
    fn goes_on(&mut self, bytes: &[u8]) -> bool {
        for (_, byte) in (self.came..PREFIX).zip(bytes) {
            // The flag, which is first, is shifted out.
            self.length = self.length << 8 | u32::from(*byte);
        }
        self.came = self.came.saturating_add(bytes.len() as u64);
        self.came <= PREFIX || self.came - PREFIX <= u64::from(self.length)
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
            && !this.message.goes_on(bytes)
        {
            return Poll::Ready(Some(Err(SEVERAL.into())));
        }
        // What is here is never late, but one byte at a time would come for ever.
        if polled.is_ready() {
            polled
        } else if this.draining.poll(cx).is_ready() {
            Poll::Ready(Some(Err(UNFINISHED.into())))
        } else if this.late.poll(cx).is_ready() {
            Poll::Ready(Some(Err(LATE.into())))
        } else {
            Poll::Pending
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
