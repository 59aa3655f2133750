//! How one request uses the cache.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Tenant;

/// Whose answers a request may share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CacheScope {
    /// Those of its own tenant.
    #[default]
    Tenant,
    /// Those of every request of this scope, whatever its tenant: for prompts that hold nothing of anybody. Those without
    /// a tenant share none unless they say so too.
    Shared,
}

/// Whose answers a key is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// A tenant, or all requests that have none.
    Tenant(Option<&'a Tenant>),
    /// Whoever shares.
    Everybody,
}

/// How a request uses the cache.
///
/// The default reads and keeps answers that the same request would get again (temperature 0, a seeded picture, an
/// embedding, a ranking), for as long as their kind lasts, for its own tenant. An answer a little past its time is served
/// at once, and renewed behind it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use together_inference::{InferenceRequest, InferenceService, inference::CacheControl, testing::Together};
///
/// let together = Together::new();
/// let service = InferenceService::builder(together.client()).build()?;
/// let ask = || InferenceRequest::chat("Who leads the league?").temperature(0.0);
///
/// service.complete(ask()).await?;
/// tokio::time::advance(Duration::from_secs(600)).await;
/// // Nothing older than a minute will do; what comes instead is kept for everybody.
/// service.complete(ask().cache(CacheControl::new().max_age(Duration::from_secs(60)))).await?;
/// assert_eq!(together.calls(), 2);
/// service.complete(ask()).await?;
/// assert_eq!(together.calls(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CacheControl {
    /// Whether an answer may come from the cache.
    pub read: bool,
    /// Whether its answer is kept.
    pub write: bool,
    /// Whether both hold where the model answers at random too.
    pub stochastic: bool,
    /// How long its answer is kept; the time of its kind unless set.
    pub ttl: Option<Duration>,
    /// How old an answer may be.
    pub max_age: Option<Duration>,
    /// Whose answers it shares.
    pub scope: CacheScope,
    /// How long past its time an answer is still served while a new one is fetched behind it; a tenth of its time to live
    /// unless set, zero for never. Vectors have none: they do not change, and a request for some that sets it is refused.
    pub stale_while_revalidate: Option<Duration>,
    /// How long past its time an answer is still served where no other can be had. Never unless set.
    pub stale_if_error: Duration,
}

impl Default for CacheControl {
    fn default() -> Self {
        Self::new()
    }
}

impl CacheControl {
    /// The longest [`stale_if_error`](Self::stale_if_error): a day.
    pub const MAX_STALE: Duration = Duration::from_secs(86_400);

    /// The default.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            read: true,
            write: true,
            stochastic: false,
            ttl: None,
            max_age: None,
            scope: CacheScope::Tenant,
            stale_while_revalidate: None,
            stale_if_error: Duration::ZERO,
        }
    }

    /// Neither reads nor keeps.
    #[must_use]
    pub const fn off() -> Self {
        Self { read: false, write: false, ..Self::new() }
    }

    /// Asks anew, and keeps the answer in the place of the one that is there.
    #[must_use]
    pub const fn refresh() -> Self {
        Self { read: false, ..Self::new() }
    }

    /// Reads, and keeps nothing. It renews nothing either: an answer a little past its time is served as it is.
    #[must_use]
    pub const fn read_only() -> Self {
        Self { write: false, ..Self::new() }
    }

    /// Also where the model answers at random: whoever asks the same gets the same answer.
    #[must_use]
    pub const fn stochastic(mut self) -> Self {
        self.stochastic = true;
        self
    }

    /// Keeps the answer for this long, or for as long as its layer keeps one: [`MemoryCache`](crate::cache::MemoryCache)
    /// two days, Redis thirty years.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Takes no answer that is older.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Shares answers with the requests of all tenants that say so too.
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.scope = CacheScope::Shared;
        self
    }

    /// Serves an answer this long past its time while a new one is fetched; zero for never.
    #[must_use]
    pub const fn stale_while_revalidate(mut self, past: Duration) -> Self {
        self.stale_while_revalidate = Some(past);
        self
    }

    /// Serves an answer this long past its time where no other can be had, marked as
    /// [`Source::Stale`](super::Source::Stale). An answer is there for it if it was kept by a request that said so.
    #[must_use]
    pub const fn stale_if_error(mut self, past: Duration) -> Self {
        self.stale_if_error = past;
        self
    }

    /// How long past its time an answer of this time to live is served while it is renewed.
    pub(crate) fn revalidates_for(&self, ttl: Duration) -> Duration {
        self.stale_while_revalidate.unwrap_or(ttl / 10)
    }
}
