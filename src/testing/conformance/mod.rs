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

mod batch;
mod budget;
mod cache;
mod notifier;
mod queue;
mod router;
mod sink;

use std::{fmt, panic::AssertUnwindSafe, time::Duration};

use futures_core::future::BoxFuture;
use futures_util::FutureExt;

pub use self::{
    batch::batch_submitter,
    budget::budget_store,
    cache::{CacheProfile, cache_layer},
    notifier::notifier,
    queue::event_queue,
    router::model_router,
    sink::cost_sink,
};

/// Lets time pass for the implementation under test: `tokio::time::advance` for one on tokio's clock, moving its clock
/// for one with an injected one, `tokio::time::sleep` for a server with a clock of its own.
pub type Pace<'a> = &'a (dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Polls a call once and drops it, whatever came of it.
fn begin_and_drop<T>(call: impl Future<Output = T>) {
    let _ = AssertUnwindSafe(call).catch_unwind().now_or_never();
}

/// A promise that was not kept.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{cost::MemoryCosts, testing::conformance};
///
/// let (kept, asked) = (MemoryCosts::default(), MemoryCosts::default());
/// // A sink whose records are not where the test looks for them.
/// let failure = conformance::cost_sink(&kept, &|| asked.records()).await.unwrap_err();
/// assert!(failure.to_string().starts_with("promise broken: "));
/// # Ok(())
/// # }
/// ```
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

    /// What a call answers; one that is late or panics breaks the promise.
    async fn answer<T>(self, call: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
        match tokio::time::timeout(PATIENCE, AssertUnwindSafe(future).catch_unwind()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.broken(format!("{call} panicked"))),
            Err(_) => Err(self.broken(format!("{call}: no answer within {PATIENCE:?}"))),
        }
    }

    /// The value of a call that must succeed, in time and without a panic.
    async fn done<T, E: std::error::Error>(
        self,
        call: &str,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        self.ok(call, self.answer(call, future).await?)
    }

    #[expect(clippy::needless_pass_by_value, reason = "the values are made for the comparison")]
    fn same<T: PartialEq + fmt::Debug>(self, what: &str, seen: T, wanted: T) -> Result<(), Failure> {
        if seen == wanted { Ok(()) } else { Err(self.broken(format!("{what}: {seen:?} instead of {wanted:?}"))) }
    }
}
