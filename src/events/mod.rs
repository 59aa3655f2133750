//! Jobs that must be done once, later, and not be lost on the way: the event queue.
//!
//! An [`EventQueue`] takes jobs, hands each to one worker at a time for a while (a lease), and hands it out again when
//! that worker is not heard of until the lease's end. [`MemoryQueue`] keeps them in the process.
//!
//! # How a job lives
//!
//! A job waits until it is due. [`lease`](EventQueue::lease) hands it to a worker, which ends the lease in one of four
//! ways: [`ack`](EventQueue::ack) it is done, [`retry`](EventQueue::retry) it failed, [`bury`](EventQueue::bury) it can
//! never succeed, [`release`](EventQueue::release) the worker stops. How long a failed job rests, and how often it may
//! fail, is the job's own policy. A worker that dies says nothing; its jobs are due again exactly when their leases
//! end, and a job that outlives three workers is dead: it is likely what kills them.
//!
//! # Why leases and not acknowledgements on delivery
//!
//! A queue that forgets a job when it hands it out loses it with the worker. One that waits for ever hangs with the
//! worker. A lease does neither, at a price: a worker that was merely slow comes back to a job that somebody else has.
//! So each lease carries a [token](Lease::token), and a stale one is refused with [`QueueError::LeaseLost`]. Effects
//! outside the queue can still happen twice: give the job's id to whatever a handler calls, as idempotency key.
//!
//! ```
//! use std::time::Duration;
//! use together_inference::events::{EventQueue, Fate, Leased, MemoryQueue, NewJob, QueueError};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), QueueError> {
//! let queue = MemoryQueue::default();
//! queue.push(NewJob::new("mail", "welcome", serde_json::json!({ "user": 7 })).dedupe("welcome-7")).await?;
//!
//! for leased in queue.lease("mail", 8, Duration::from_secs(30)).await? {
//!     match leased {
//!         Leased::Job(job) if job.payload["user"].is_u64() => queue.ack(&job.lease).await?,
//!         Leased::Job(job) => match queue.retry(&job.lease, "no user").await? {
//!             Fate::Again { after } => println!("once more in {after:?}"),
//!             Fate::Dead => println!("gave up"),
//!         },
//!         Leased::Dead(job) => println!("{} outlived three workers: {}", job.id, job.last_error),
//!     }
//! }
//! assert!(queue.is_empty());
//! # Ok(())
//! # }
//! ```

mod job;
mod memory;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{
    job::{DeadJob, Fate, Job, JobId, Lease, Leased, MAX_DELAY, MAX_STALLS, NewJob, Pushed, retry_delay},
    memory::MemoryQueue,
};
use crate::types::BoxError;

/// Keeps jobs until they are done.
///
/// # Contract
///
/// - A job is leased to one worker at a time; its lease ends exactly when its hold is over, without anybody looking.
/// - Jobs are handed out in the order in which they became due, then in the order of their ids. Those that rest hold up
///   nobody.
/// - A lease that was lost changes nothing: every call with it is [`QueueError::LeaseLost`]. One that ran out is lost
///   when somebody else leases the job, not before: a late `ack` saves the work.
/// - A duplicate of a job that waits, is leased or is dead is refused. For how long after the end is the queue's to
///   say.
/// - Dropping a future of these methods leaves the job either before or after the call, never between.
///
/// `testing::conformance::event_queue` (feature `testing`) checks all of it.
///
/// A queue of one's own can wrap another:
///
/// ```
/// use std::{sync::atomic::{AtomicU64, Ordering}, time::Duration};
/// use together_inference::events::{EventQueue, Fate, Lease, Leased, NewJob, Pushed, QueueError};
///
/// /// Counts what is given up.
/// #[derive(Debug)]
/// struct Counted<Q>(Q, AtomicU64);
///
/// #[async_trait::async_trait]
/// impl<Q: EventQueue> EventQueue for Counted<Q> {
///     async fn push(&self, job: NewJob) -> Result<Pushed, QueueError> {
///         self.0.push(job).await
///     }
///     async fn lease(&self, queue: &str, n: usize, hold: Duration) -> Result<Vec<Leased>, QueueError> {
///         self.0.lease(queue, n, hold).await
///     }
///     async fn extend(&self, lease: &Lease, hold: Duration) -> Result<(), QueueError> {
///         self.0.extend(lease, hold).await
///     }
///     async fn ack(&self, lease: &Lease) -> Result<(), QueueError> {
///         self.0.ack(lease).await
///     }
///     async fn retry(&self, lease: &Lease, error: &str) -> Result<Fate, QueueError> {
///         let fate = self.0.retry(lease, error).await?;
///         self.1.fetch_add(u64::from(fate == Fate::Dead), Ordering::Relaxed);
///         Ok(fate)
///     }
///     async fn bury(&self, lease: &Lease, error: &str) -> Result<(), QueueError> {
///         self.1.fetch_add(1, Ordering::Relaxed);
///         self.0.bury(lease, error).await
///     }
///     async fn release(&self, lease: &Lease) -> Result<(), QueueError> {
///         self.0.release(lease).await
///     }
/// }
/// ```
#[async_trait]
pub trait EventQueue: Send + Sync + fmt::Debug {
    /// Adds a job; when this returns it is kept as well as the queue keeps anything.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::events::QueueError> {
    /// use together_inference::events::{EventQueue, MemoryQueue, NewJob, QueueError};
    ///
    /// let queue = MemoryQueue::bounded(1);
    /// queue.push(NewJob::new("mail", "welcome", ().into())).await?;
    /// let full = queue.push(NewJob::new("mail", "welcome", ().into())).await;
    /// assert!(matches!(full, Err(QueueError::Full { bound: 1 })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`QueueError::Full`] when the queue is bounded and full, [`QueueError::Store`] when its store fails.
    async fn push(&self, job: NewJob) -> Result<Pushed, QueueError>;

    /// Hands out at most `n` jobs that are due, each for as long as `hold`. It does not wait: nothing due is an empty
    /// answer. Lease only what can start now; a job in line behind another wastes its lease.
    ///
    /// A [`Leased::Dead`] among them was just given up, because its leases ran out [`MAX_STALLS`] times. It is there to
    /// be reported, not to be run, and is not handed out again.
    ///
    /// # Errors
    ///
    /// [`QueueError::Store`] when the store fails; then nothing was leased, or its leases will run out.
    async fn lease(&self, queue: &str, n: usize, hold: Duration) -> Result<Vec<Leased>, QueueError>;

    /// Makes the lease end `hold` from now. Call it at a third of the hold, and stop the work when it is lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), together_inference::events::QueueError> {
    /// use std::time::Duration;
    /// use together_inference::events::{EventQueue, Leased, MemoryQueue, NewJob};
    ///
    /// let (queue, hold) = (MemoryQueue::default(), Duration::from_secs(30));
    /// queue.push(NewJob::new("reports", "yearly", ().into())).await?;
    /// for job in queue.lease("reports", 1, hold).await?.into_iter().filter_map(Leased::job) {
    ///     for _ in 0..9 {
    ///         tokio::time::advance(hold / 3).await; // a third of the work
    ///         queue.extend(&job.lease, hold).await?;
    ///     }
    ///     queue.ack(&job.lease).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`QueueError::LeaseLost`] when the job is somebody else's or ended, [`QueueError::Store`] when the store fails.
    async fn extend(&self, lease: &Lease, hold: Duration) -> Result<(), QueueError>;

    /// Ends a job that is done.
    ///
    /// # Errors
    ///
    /// [`QueueError::LeaseLost`] when the job is somebody else's or ended, [`QueueError::Store`] when the store fails.
    async fn ack(&self, lease: &Lease) -> Result<(), QueueError>;

    /// Puts back a job that failed, to be due after its back-off ([`retry_delay`]); a job that has failed
    /// [`max_attempts`](NewJob::max_attempts) times is dead.
    ///
    /// # Errors
    ///
    /// [`QueueError::LeaseLost`] when the job is somebody else's or ended, [`QueueError::Store`] when the store fails.
    async fn retry(&self, lease: &Lease, error: &str) -> Result<Fate, QueueError>;

    /// Gives up a job that no repeat can save.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::events::QueueError> {
    /// use std::time::Duration;
    /// use together_inference::events::{EventQueue, Leased, MemoryQueue, NewJob};
    ///
    /// let queue = MemoryQueue::default();
    /// queue.push(NewJob::new("mail", "sing", ().into())).await?;
    /// for job in queue.lease("mail", 1, Duration::from_secs(30)).await?.into_iter().filter_map(Leased::job) {
    ///     queue.bury(&job.lease, "no handler for this kind").await?;
    /// }
    /// assert_eq!(&*queue.dead()[0].last_error, "no handler for this kind");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`QueueError::LeaseLost`] when the job is somebody else's or ended, [`QueueError::Store`] when the store fails.
    async fn bury(&self, lease: &Lease, error: &str) -> Result<(), QueueError>;

    /// Gives a job back unharmed, due at once: neither a failure nor a stall. For a worker that shuts down.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::events::QueueError> {
    /// use std::time::Duration;
    /// use together_inference::events::{EventQueue, Leased, MemoryQueue, NewJob};
    ///
    /// let (queue, hold) = (MemoryQueue::default(), Duration::from_secs(30));
    /// queue.push(NewJob::new("mail", "welcome", ().into())).await?;
    /// for job in queue.lease("mail", 1, hold).await?.into_iter().filter_map(Leased::job) {
    ///     queue.release(&job.lease).await?;
    /// }
    /// assert_eq!(queue.lease("mail", 1, hold).await?.len(), 1, "due at once");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`QueueError::LeaseLost`] when the job is somebody else's or ended, [`QueueError::Store`] when the store fails.
    async fn release(&self, lease: &Lease) -> Result<(), QueueError>;
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: EventQueue + ?Sized> EventQueue for Arc<T> {
    async fn push(&self, job: NewJob) -> Result<Pushed, QueueError> {
        (**self).push(job).await
    }

    async fn lease(&self, queue: &str, n: usize, hold: Duration) -> Result<Vec<Leased>, QueueError> {
        (**self).lease(queue, n, hold).await
    }

    async fn extend(&self, lease: &Lease, hold: Duration) -> Result<(), QueueError> {
        (**self).extend(lease, hold).await
    }

    async fn ack(&self, lease: &Lease) -> Result<(), QueueError> {
        (**self).ack(lease).await
    }

    async fn retry(&self, lease: &Lease, error: &str) -> Result<Fate, QueueError> {
        (**self).retry(lease, error).await
    }

    async fn bury(&self, lease: &Lease, error: &str) -> Result<(), QueueError> {
        (**self).bury(lease, error).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), QueueError> {
        (**self).release(lease).await
    }
}

/// A queue could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The job belongs to another worker by now, or has ended. Stop working on it.
    #[error("the lease of job {job} is lost: another worker has the job, or it has ended; stop working on it")]
    LeaseLost {
        /// Which.
        job: JobId,
    },
    /// The queue holds as many jobs as it may.
    #[error("the queue is full at {bound} jobs; let its workers catch up, or raise the bound")]
    Full {
        /// How many.
        bound: usize,
    },
    /// The store behind the queue failed.
    #[error("the queue's store failed")]
    Store(#[source] BoxError),
}

impl QueueError {
    /// Whether the same call may succeed later. A lost lease never comes back.
    ///
    /// ```
    /// use together_inference::events::{JobId, QueueError};
    ///
    /// assert!(QueueError::Full { bound: 10_000 }.is_retryable());
    /// assert!(!QueueError::LeaseLost { job: JobId::new(7) }.is_retryable());
    /// ```
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::LeaseLost { .. })
    }
}
