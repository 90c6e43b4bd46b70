//! A request's body, until all of it has come. Only then does a unary method begin, so that whoever is cut off here was
//! not served at all.

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

pin_project! {
    /// See the module.
    pub struct Arriving {
        #[pin]
        inner: Body,
        #[pin]
        late: Sleep,
        #[pin]
        draining: WaitForCancellationFutureOwned,
    }
}

impl Arriving {
    /// From now on, and at most until `draining`.
    pub fn new(inner: Body, draining: &CancellationToken) -> Self {
        let draining = draining.clone().cancelled_owned();
        Self { inner, late: sleep(ARRIVAL_TIMEOUT), draining }
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
