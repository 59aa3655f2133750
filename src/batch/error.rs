//! What can go wrong between us and a provider's batches.

use std::time::Duration;

use super::RemoteId;
use crate::client;

/// A batch could not be submitted, followed or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A call failed.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The chunk's lines could not be read.
    #[error("the lines of the batch cannot be read")]
    Body(#[from] std::io::Error),
    /// The chunk is more than the provider takes; nothing was sent.
    #[error("a batch of {asked} {what} is above the provider's {most}; split it")]
    Limit {
        /// Of what: `lines`, `bytes`.
        what: &'static str,
        /// How much the chunk has.
        asked: u64,
        /// How much the provider takes.
        most: u64,
    },
    /// The provider has no batches at this path; nothing was sent.
    #[error("the provider has no batches at {endpoint}; send these requests one by one")]
    Endpoint {
        /// The path.
        endpoint: Box<str>,
    },
    /// The provider does not take the chunk, and would not if asked again.
    #[error("the provider refuses the batch: {reason}")]
    Refused {
        /// What it says.
        reason: Box<str>,
    },
    /// An earlier try may have created the job and the provider's list may not show it yet: creating now could pay
    /// twice.
    #[error("whether an earlier try created the batch is not known yet; submit it again in {} s", after.as_secs())]
    Unresolved {
        /// When to ask again.
        after: Duration,
    },
    /// The job runs, or names a file that is not there yet.
    #[error("the results of batch {id} are not there yet")]
    NotReady {
        /// Which.
        id: RemoteId,
    },
    /// The provider does not know the job.
    #[error("the provider does not know batch {id}")]
    NotFound {
        /// Which.
        id: RemoteId,
    },
}

impl BatchError {
    /// Whether the same call may succeed later.
    ///
    /// ```
    /// use std::time::Duration;
    /// use together_inference::batch::BatchError;
    ///
    /// assert!(BatchError::Unresolved { after: Duration::from_secs(30) }.is_retryable());
    /// assert!(!BatchError::NotFound { id: "batch_1".into() }.is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Unresolved { .. } | Self::NotReady { .. } => true,
            _ => false,
        }
    }
}
