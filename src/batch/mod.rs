//! Many requests at once, answered within a day and often at half the price.
//!
//! A [`BatchSubmitter`] speaks to one provider: it takes a [`Chunk`] of request lines there, tells how the job stands,
//! and brings the [`Row`]s back. It knows nothing of rounds, caches or money; who calls it does.
//!
//! # Why a chunk can be submitted twice
//!
//! The dangerous moment of a batch is a create whose reply is lost: the job may exist, and a second one is paid twice.
//! A provider without idempotency keys can still be asked what it has. So [`submit`](BatchSubmitter::submit) first
//! looks for what an earlier try left behind, by the chunk's [name](Chunk::name), and only then creates.

mod error;
mod file;
mod id;
#[cfg(feature = "batch")]
mod journal;
mod line;
mod looks;
mod overflow;
mod plan;
mod progress;
mod realtime;
mod report;
mod rows;
mod together;
#[cfg(feature = "batch")]
mod verdict;
mod words;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;

pub use self::{
    error::BatchError,
    file::InvalidLine,
    id::{BatchId, InvalidBatchId},
    line::{BatchAnswer, BatchLine, BatchRow, LineSource},
    overflow::{Deferred, Overflow, OverflowError, Overflowing},
    plan::{BatchPlan, ChunkPlan},
    progress::{BatchPhase, BatchProgress, Done},
    realtime::RealtimeBatches,
    report::{BatchReport, JobSummary, LineError, LineErrorKind, LineFailure},
    together::TogetherBatches,
    words::{Chunk, ChunkBody, Limits, Phase, RemoteId, RemoteStatus, Row},
};
#[cfg(feature = "batch")]
pub(crate) use self::{
    journal::{
        BatchRow as BatchRecord, BatchState, Change, ChunkKey, ChunkRow, ChunkState, Claim, Counts, Draft, Due,
        Journal, JournalError, LineRef, LineRow, LineState, NewChunk, NewLine, Outcome, Output, Place, Planned,
        Planning, RequestsFile, Settling, Span, Way,
    },
    verdict::{Verdict, verdict},
};

/// Writing down that a job is about to be created may take so long; after more it is written down anew.
pub(crate) const WRITING: Duration = Duration::from_secs(30);
/// How long after the begin of a submission a job may be created. Who was stopped for longer, or whose lines took so long,
/// may have been overtaken.
pub(crate) const SENDING: Duration = Duration::from_secs(60);
/// How late a create may reach the provider whose connection broke.
const ARRIVING: Duration = Duration::from_secs(60);
/// How late the provider's list may show a job.
const LISTING: Duration = Duration::from_secs(120);
/// For how long after a try was written down its job may be missing from the provider's list, all of it together: until
/// then nothing is created again.
pub(crate) const GRACE: Duration =
    Duration::from_secs(WRITING.as_secs() + SENDING.as_secs() + ARRIVING.as_secs() + LISTING.as_secs());

/// A test may end the process here.
fn reach(place: &str) {
    #[cfg(feature = "batch")]
    crate::store::reach(place);
    #[cfg(not(feature = "batch"))]
    let _ = place;
}

/// Takes batches to one provider and brings the answers back.
///
/// # Contract
///
/// - [`submit`](Self::submit) can be repeated with the same chunk, after a crash too: one job comes of it.
/// - Nothing is kept between calls: what must survive is in the arguments.
/// - Dropping a future leaves at most what the next `submit` of the same chunk finds.
///
/// ```
/// use futures_core::stream::BoxStream;
/// use together_inference::batch::{BatchError, BatchSubmitter, Chunk, Phase, RemoteId, RemoteStatus, Row};
///
/// /// Accepts everything and answers nothing: for a dry run.
/// #[derive(Debug)]
/// struct DryRun;
///
/// #[async_trait::async_trait]
/// impl BatchSubmitter for DryRun {
///     async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, BatchError> {
///         self.limits().admit(chunk)?;
///         println!("{} lines, {} bytes", chunk.lines, chunk.body.len());
///         Ok(RemoteId::from(&*chunk.name))
///     }
///
///     async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError> {
///         Ok(ids.iter().map(|id| RemoteStatus::new(id.clone(), Phase::Completed)).collect())
///     }
///
///     async fn results(&self, _: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError> {
///         Ok(Box::pin(futures_util::stream::iter([Ok(Row::End { read: 0 })])))
///     }
///
///     async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError> {
///         Ok(RemoteStatus::new(id.clone(), Phase::Cancelled))
///     }
/// }
/// ```
#[async_trait]
pub trait BatchSubmitter: Send + Sync + fmt::Debug {
    /// Uploads the lines and creates the job. Safe to repeat with the same chunk: it finds what an earlier try left
    /// behind before it creates.
    ///
    /// # Errors
    ///
    /// [`BatchError::Limit`] before anything is sent, [`BatchError::Refused`] when the provider does not take the
    /// chunk, [`BatchError::Unresolved`] when it cannot be known yet whether an earlier try created the job,
    /// [`BatchError::Body`] when the lines cannot be read, [`BatchError::Client`] when a call failed.
    async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, BatchError>;

    /// The job that an earlier try of this chunk made, if there is one: for a chunk that nobody needs any more. Nothing is
    /// sent, nothing created. Without an answer of its own a submitter is taken to have left nothing.
    ///
    /// # Errors
    ///
    /// [`BatchError::Unresolved`] when it cannot be known yet, [`BatchError::Client`] when a call failed.
    async fn left_behind(&self, chunk: &Chunk) -> Result<Option<RemoteId>, BatchError> {
        let _ = chunk;
        Ok(None)
    }

    /// How jobs stand, in any order; one that the provider does not know is left out, one that could not be asked after
    /// while others could is [unheard](RemoteStatus::unheard). Many at once: one list call, not one a job.
    ///
    /// # Errors
    ///
    /// [`BatchError::Client`] when a call failed.
    async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError>;

    /// The rows of both files, answers and errors, in any order. A cut download is resumed. The last item is
    /// [`Row::End`]: a stream that ends without it was cut. A job without files has no rows.
    ///
    /// # Errors
    ///
    /// [`BatchError::NotReady`] when the job runs, or names a file that is not there yet, [`BatchError::Client`] when a
    /// call failed; the same inside the stream.
    async fn results(&self, job: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError>;

    /// Asks the provider to stop a job. What it had finished stays readable and billed. A job that has ended answers
    /// with how it ended.
    ///
    /// # Errors
    ///
    /// [`BatchError::NotFound`] when the provider does not know the job, [`BatchError::Client`] when a call failed.
    async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError>;

    /// What the provider takes.
    fn limits(&self) -> Limits {
        Limits::default()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: BatchSubmitter + ?Sized> BatchSubmitter for Arc<T> {
    async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, BatchError> {
        (**self).submit(chunk).await
    }

    async fn left_behind(&self, chunk: &Chunk) -> Result<Option<RemoteId>, BatchError> {
        (**self).left_behind(chunk).await
    }

    async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError> {
        (**self).status(ids).await
    }

    async fn results(&self, job: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError> {
        (**self).results(job).await
    }

    async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError> {
        (**self).cancel(id).await
    }

    fn limits(&self) -> Limits {
        (**self).limits()
    }
}
