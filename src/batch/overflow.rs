//! Where a request goes that cannot be served in time and may wait for hours.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{inference::InferenceRequest, types::BoxError};

/// Takes over requests that may wait.
///
/// # Who owns a request
///
/// One side only. Until [`take`](Self::take) answers `Ok` it is the service's; from then on it is the overflow's, which
/// must see that it is answered once. The service asks only when no attempt of its own is under way any more, never asks
/// twice for one call, and lets `take` run to its end even if the caller leaves.
///
/// ```
/// use std::sync::Mutex;
/// use together_inference::{
///     InferenceRequest, async_trait,
///     batch::{Deferred, Overflow, OverflowError, Overflowing},
/// };
///
/// /// Keeps requests in memory, for whoever comes to fetch them.
/// #[derive(Debug, Default)]
/// struct Later(Mutex<Vec<InferenceRequest>>);
///
/// #[async_trait]
/// impl Overflow for Later {
///     async fn take(&self, request: &InferenceRequest, why: Overflowing) -> Result<Deferred, OverflowError> {
///         let mut kept = self.0.lock().map_err(|_| OverflowError::new("the list is broken"))?;
///         kept.push(request.clone());
///         Ok(Deferred::new(kept.len().to_string(), why))
///     }
/// }
/// ```
#[async_trait]
pub trait Overflow: Send + Sync + fmt::Debug {
    /// Takes a request over.
    ///
    /// # Errors
    ///
    /// [`OverflowError`] when it does not: the request stays the service's, whose caller gets the error that it would
    /// have got without an overflow.
    async fn take(&self, request: &InferenceRequest, why: Overflowing) -> Result<Deferred, OverflowError>;
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Overflow + ?Sized> Overflow for Arc<T> {
    async fn take(&self, request: &InferenceRequest, why: Overflowing) -> Result<Deferred, OverflowError> {
        (**self).take(request, why).await
    }
}

/// Why a request is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflowing {
    /// Its turn would come too late, or the provider asks to wait too long.
    RateLimit,
    /// Every model for it is down.
    Outage,
    /// A batch costs less, and there is time for one.
    Cheaper,
}

impl Overflowing {
    /// The name in logs and metrics: `rate_limit`, `outage`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::Outage => "outage",
            Self::Cheaper => "cheaper",
        }
    }
}

/// A request that will be answered later.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deferred {
    /// What the overflow finds it by.
    pub ticket: Box<str>,
    /// Why it was not served at once.
    pub why: Overflowing,
}

impl Deferred {
    /// A request that was taken over under this ticket.
    pub fn new(ticket: impl Into<Box<str>>, why: Overflowing) -> Self {
        Self { ticket: ticket.into(), why }
    }
}

/// A request was not taken over.
#[derive(Debug, thiserror::Error)]
#[error("the overflow did not take the request")]
pub struct OverflowError(#[source] BoxError);

impl OverflowError {
    /// For this reason.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }
}
