//! Suites that check whether an implementation keeps its trait's promises.
//!
//! Each is a function that takes the implementation and answers with the first [`Failure`]. A test of one's own
//! implementation is one call, and one more behind whatever pointer the application holds it in:
//!
//! ```
//! use std::sync::Arc;
//! use together_inference::{
//!     events::{EventQueue, MemoryQueue},
//!     testing::conformance::{self, Failure},
//! };
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Failure> {
//! conformance::event_queue(&MemoryQueue::default(), &|time| Box::pin(tokio::time::advance(time))).await?;
//!
//! let shared: Arc<dyn EventQueue> = Arc::new(MemoryQueue::default());
//! conformance::event_queue(&shared, &|time| Box::pin(tokio::time::advance(time))).await
//! # }
//! ```

mod notifier;
mod queue;

use std::{fmt, time::Duration};

use futures_core::future::BoxFuture;

pub use self::{notifier::notifier, queue::event_queue};

/// Lets time pass for the implementation under test: `tokio::time::advance` for one on tokio's clock, moving its clock
/// for one with an injected one, `tokio::time::sleep` for a server with a clock of its own.
pub type Pace<'a> = &'a (dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync);

/// A promise that was not kept.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("promise broken: {promise}: {detail}")]
#[non_exhaustive]
pub struct Failure {
    /// The promise.
    pub promise: &'static str,
    /// What was seen instead.
    pub detail: String,
}

/// A promise while it is checked.
#[derive(Clone, Copy)]
struct Promise(&'static str);

impl Promise {
    fn broken(self, detail: impl Into<String>) -> Failure {
        Failure { promise: self.0, detail: detail.into() }
    }

    /// The value of a call that must succeed.
    fn ok<T, E: std::error::Error>(self, call: &str, result: Result<T, E>) -> Result<T, Failure> {
        result.map_err(|error| self.broken(format!("{call} failed: {error}")))
    }

    #[expect(clippy::needless_pass_by_value, reason = "the values are made for the comparison")]
    fn same<T: PartialEq + fmt::Debug>(self, what: &str, seen: T, wanted: T) -> Result<(), Failure> {
        if seen == wanted { Ok(()) } else { Err(self.broken(format!("{what}: {seen:?} instead of {wanted:?}"))) }
    }
}
