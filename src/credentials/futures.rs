//! A name for a boxed future.

use std::{future::Future, pin::Pin};

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
