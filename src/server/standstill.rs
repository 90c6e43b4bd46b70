//! Notices connections that stand still: whose client does not finish the start, or does not take what is written for
//! it. Neither hyper nor HTTP/2's pings find these: a client that answers pings but never opens its flow-control window
//! makes its answers wait in memory for ever.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};
use tonic::{Status, body::Body};

use super::lifetime::Call;

/// HTTP/2's preface. No gRPC call over HTTP/1.1 is as short.
const PREFACE_BYTES: usize = 24;

/// What is known of one connection.
#[derive(Clone, Debug, Default)]
pub struct Standstill(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Bytes received, counted as far as [`PREFACE_BYTES`].
    received: AtomicUsize,
    /// How often the watch looked.
    turn: AtomicUsize,
    /// What waits for the client since an even and since an odd turn.
    waiting: [AtomicUsize; 2],
}

/// Something that may wait for the client.
#[derive(Debug)]
struct Mark {
    of: Standstill,
    /// Where it is counted, while it waits.
    since: Option<usize>,
}

/// A connection's bytes, watched.
#[derive(Debug)]
pub struct Watched<I> {
    inner: I,
    received: usize,
    write: Mark,
}

pin_project! {
    /// An answer's body, each of whose chunks is watched until it is on its way. Its call is open as long.
    pub struct WatchedBody {
        #[pin]
        inner: Body,
        of: Standstill,
        _call: Call,
    }
}

/// A chunk of an answer. hyper drops it once its last byte was handed to the connection, which flow control may put
/// off.
#[derive(Debug)]
pub struct Chunk {
    bytes: Bytes,
    _mark: Mark,
}

// === impl Standstill ===

impl Standstill {
    /// Ends when the connection should, and says why: the start was not over in `start`, or something waited for
    /// `untaken`, and at most twice that.
    pub async fn watch(self, start: Duration, untaken: Duration) -> &'static str {
        sleep(start).await;
        if self.0.received.load(Ordering::Relaxed) < PREFACE_BYTES {
            return "its client did not begin";
        }
        loop {
            sleep(untaken).await;
            if self.stands_still() {
                return "its client did not take what was written for it";
            }
        }
    }

    /// Begins a new turn, unless something has waited for all of the one that ends.
    fn stands_still(&self) -> bool {
        let next = self.0.turn.load(Ordering::Relaxed).wrapping_add(1);
        // The place of the next turn is still that of the turn before this one.
        let stands = self.waiting(next).load(Ordering::Relaxed) > 0;
        self.0.turn.store(next, Ordering::Relaxed);
        stands
    }

    fn waiting(&self, turn: usize) -> &AtomicUsize {
        let [even, odd] = &self.0.waiting;
        if turn.is_multiple_of(2) { even } else { odd }
    }
}

// === impl Mark ===

impl Mark {
    fn new(of: &Standstill) -> Self {
        Self { of: of.clone(), since: None }
    }

    fn begin(&mut self) {
        if self.since.is_none() {
            let turn = self.of.0.turn.load(Ordering::Relaxed);
            self.of.waiting(turn).fetch_add(1, Ordering::Relaxed);
            self.since = Some(turn);
        }
    }

    fn end(&mut self) {
        if let Some(turn) = self.since.take() {
            self.of.waiting(turn).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl Watched ===

impl<I> Watched<I> {
    /// Tells `of` what it sees.
    pub fn new(inner: I, of: &Standstill) -> Self {
        Self { inner, received: 0, write: Mark::new(of) }
    }

    fn note_write<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        if polled.is_pending() {
            self.write.begin()
        } else {
            self.write.end()
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if self.received < PREFACE_BYTES {
            self.received += buffer.filled().len() - before;
            self.write.of.0.received.store(self.received, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.note_write(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.note_write(polled)
    }
}

// === impl WatchedBody ===

impl WatchedBody {
    /// Tells `of` what it sees.
    pub fn new(inner: Body, of: &Standstill, call: Call) -> Self {
        Self { inner, of: of.clone(), _call: call }
    }
}

impl HttpBody for WatchedBody {
    type Data = Chunk;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, Status>>> {
        let this = self.project();
        let chunk = |bytes| {
            let mut mark = Mark::new(this.of);
            mark.begin();
            Chunk { bytes, _mark: mark }
        };
        let polled = this.inner.poll_frame(cx);
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl Chunk ===

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.bytes.copy_to_bytes(count)
    }
}
