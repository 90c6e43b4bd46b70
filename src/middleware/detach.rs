//! Typed middleware that runs mutations in tasks of their own, so that one that was sent is finished when its caller
//! hangs up or its deadline passes. One that was not sent by then never is (design.md section 2).
//!
//! The tasks are tracked: a drain waits for them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

use crate::{
    error::Error,
    operations::{Call, Outcome, Progress, Reply},
    telemetry::trace,
};

/// Detaches mutations.
#[derive(Clone, Debug)]
pub struct DetachLayer {
    tasks: TaskTracker,
}

/// See [`DetachLayer`].
#[derive(Clone, Debug)]
pub struct Detach<S> {
    inner: S,
    tasks: TaskTracker,
}

/// Gives the call up when its caller has gone.
struct Caller(Arc<Progress>);

impl DetachLayer {
    /// Tracks the mutations in `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        Self { tasks }
    }
}

impl<S> Layer<S> for DetachLayer {
    type Service = Detach<S>;

    fn layer(&self, inner: S) -> Detach<S> {
        Detach { inner, tasks: self.tasks.clone() }
    }
}

impl<S> Service<Call> for Detach<S>
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
        if !call.command.is_mutation() {
            return self.inner.call(call);
        }
        let caller = Caller(call.meta.progress.clone());
        let task = self.tasks.spawn(trace::carried(self.inner.call(call)));
        Box::pin(async move {
            let answer = task.await;
            drop(caller);
            answer.unwrap_or_else(|error| {
                Err(Error::internal(format!("the operation's task: {error}")))
            })
        })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
