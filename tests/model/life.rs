//! A replica's life. It ends at any await point: what it was doing is dropped there, and nothing it asks for afterwards is
//! answered.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
};

use portcullis::{
    error::Error,
    operations::{Call, Outcome, Reply},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service};

#[derive(Debug, Default)]
pub struct Life {
    end: CancellationToken,
    /// How many polls are left; 0 or less: it is not counted.
    polls: AtomicI64,
}

impl Life {
    pub fn is_over(&self) -> bool {
        self.end.is_cancelled()
    }

    pub fn end(&self) {
        self.end.cancel();
    }

    pub fn end_after(&self, polls: i64) {
        self.polls.store(polls, Ordering::Relaxed);
    }

    fn polled(&self) {
        if self.polls.load(Ordering::Relaxed) > 0 && self.polls.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.end();
        }
    }

    /// The dead get no further.
    pub async fn go_on(&self) {
        if self.is_over() {
            pending::<()>().await;
        }
    }
}

/// A future that ends with a life; then it is none.
pub struct Mortal<F> {
    life: Arc<Life>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future> Mortal<F> {
    pub fn new(life: Arc<Life>, inner: F) -> Self {
        let end = Box::pin(life.end.clone().cancelled_owned());
        Self { life, end, inner: Some(Box::pin(inner)) }
    }
}

impl<F: Future> Future for Mortal<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.life.polled();
        if self.end.as_mut().poll(cx).is_ready() {
            self.inner = None;
            return Poll::Ready(None);
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = inner.as_mut().poll(cx);
        if self.life.is_over() {
            self.inner = None;
            return Poll::Ready(None);
        }
        polled.map(Some)
    }
}

/// Makes what runs below it mortal: also a task that no longer has a caller.
#[derive(Clone, Debug)]
pub struct MortalLayer(pub Arc<Life>);

#[derive(Clone, Debug)]
pub struct MortalService<S> {
    life: Arc<Life>,
    inner: S,
}

impl<S> Layer<S> for MortalLayer {
    type Service = MortalService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MortalService { life: self.0.clone(), inner }
    }
}

impl<S> Service<Call> for MortalService<S>
where
    S: Service<Call, Response = Outcome, Error = Error, Future = Reply>,
{
    type Response = Outcome;
    type Error = Error;
    type Future = Reply;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Reply {
        let mortal = Mortal::new(self.life.clone(), self.inner.call(call));
        Box::pin(async move { mortal.await.unwrap_or_else(|| Err(Error::internal("it died"))) })
    }
}
