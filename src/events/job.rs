//! The words of the queue: jobs, leases and what becomes of them.

use std::{fmt, time::Duration};

use serde_json::Value;

/// A job whose leases ran out this often is dead.
pub const MAX_STALLS: u32 = 3;

/// The longest back-off.
pub const MAX_DELAY: Duration = Duration::from_secs(3_600);

/// How long a job rests that failed now and had failed `failures` times before: the back-off doubled each time, at most
/// [`MAX_DELAY`].
///
/// ```
/// use std::time::Duration;
/// use together_inference::events::retry_delay;
///
/// let delays = [0, 1, 2, 30].map(|failures| retry_delay(Duration::from_secs(5), failures).as_secs());
/// assert_eq!(delays, [5, 10, 20, 3_600]);
/// ```
#[must_use]
pub fn retry_delay(backoff: Duration, failures: u32) -> Duration {
    // Bounded, as a shift by 32 would overflow; a back-off of a second is at the cap after twelve.
    backoff.saturating_mul(1 << failures.min(20)).min(MAX_DELAY)
}

/// A job to be pushed: by default due at once, tried three times, five seconds and then ten between.
///
/// ```
/// use std::time::Duration;
/// use together_inference::events::NewJob;
///
/// let job = NewJob::new("together-events", "deploy-model", serde_json::json!({ "job": "ft-1" }))
///     .dedupe("deploy-ft-1")
///     .delay(Duration::from_secs(60));
/// assert_eq!((job.max_attempts, job.backoff), (3, Duration::from_secs(5)));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NewJob {
    /// The queue that it waits in. Queues exist by being named.
    pub queue: Box<str>,
    /// What is to be done: picks the handler.
    pub kind: Box<str>,
    /// What it is to be done with. Keep it small: ids rather than data.
    pub payload: Value,
    /// No second job of this key is taken in the same queue.
    pub dedupe: Option<Box<str>>,
    /// How often it may fail; at least 1.
    pub max_attempts: u32,
    /// How long it rests after its first failure; doubled after each.
    pub backoff: Duration,
    /// How long until it is due.
    pub delay: Duration,
}

impl NewJob {
    /// A job with the default policy.
    ///
    /// ```
    /// use std::time::Duration;
    /// use together_inference::events::NewJob;
    ///
    /// let job = NewJob::new("mail", "welcome", serde_json::json!({ "user": 7 }));
    /// assert_eq!((&*job.queue, &*job.kind, job.delay), ("mail", "welcome", Duration::ZERO));
    /// assert_eq!(job.dedupe, None);
    /// ```
    pub fn new(queue: impl Into<Box<str>>, kind: impl Into<Box<str>>, payload: Value) -> Self {
        Self {
            queue: queue.into(),
            kind: kind.into(),
            payload,
            dedupe: None,
            max_attempts: 3,
            backoff: Duration::from_secs(5),
            delay: Duration::ZERO,
        }
    }

    /// Refuses a second job of this key in the same queue.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::events::QueueError> {
    /// use together_inference::events::{EventQueue, MemoryQueue, NewJob, Pushed};
    ///
    /// let queue = MemoryQueue::default();
    /// let job = || NewJob::new("mail", "welcome", ().into()).dedupe("welcome-7");
    /// assert!(matches!(queue.push(job()).await?, Pushed::New(_)));
    /// assert_eq!(queue.push(job()).await?, Pushed::Duplicate);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn dedupe(mut self, key: impl Into<Box<str>>) -> Self {
        self.dedupe = Some(key.into());
        self
    }

    /// Sets how often it may fail; 0 counts as 1.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::events::QueueError> {
    /// use std::time::Duration;
    /// use together_inference::events::{EventQueue, Fate, Leased, MemoryQueue, NewJob};
    ///
    /// let queue = MemoryQueue::default();
    /// queue.push(NewJob::new("mail", "welcome", ().into()).max_attempts(1)).await?;
    /// for job in queue.lease("mail", 1, Duration::from_secs(30)).await?.into_iter().filter_map(Leased::job) {
    ///     assert_eq!(queue.retry(&job.lease, "no such address").await?, Fate::Dead);
    /// }
    /// assert_eq!(queue.dead().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// Sets how long it rests after its first failure; doubled after each, at most [`MAX_DELAY`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use together_inference::events::{NewJob, retry_delay};
    ///
    /// let job = NewJob::new("mail", "welcome", ().into()).backoff(Duration::from_secs(60));
    /// assert_eq!([0, 1].map(|failures| retry_delay(job.backoff, failures).as_secs()), [60, 120]);
    /// ```
    #[must_use]
    pub const fn backoff(mut self, first: Duration) -> Self {
        self.backoff = first;
        self
    }

    /// Sets how long until it is due.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// A job's number, rising in the order of pushes and never used twice: the idempotency key for what a handler calls.
///
/// ```
/// use together_inference::events::JobId;
///
/// assert!(JobId::new(7) < JobId::new(8));
/// assert_eq!(format!("charge-{}", JobId::new(7)), "charge-7");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct JobId(u64);

impl JobId {
    /// The job of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What became of a push.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), together_inference::events::QueueError> {
/// use together_inference::events::{EventQueue, MemoryQueue, NewJob, Pushed};
///
/// match MemoryQueue::default().push(NewJob::new("mail", "welcome", ().into())).await? {
///     Pushed::New(id) => assert!(id.get() > 0),
///     Pushed::Duplicate => unreachable!("it has no key"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// The job was added.
    New(JobId),
    /// A job of the same key was there before; this one was not added.
    Duplicate,
}

/// The right to work on a job for a while.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), together_inference::events::QueueError> {
/// use std::time::Duration;
/// use together_inference::events::{EventQueue, Leased, MemoryQueue, NewJob};
///
/// let (queue, hold) = (MemoryQueue::default(), Duration::from_secs(30));
/// queue.push(NewJob::new("mail", "welcome", ().into())).await?;
/// let slow = queue.lease("mail", 1, hold).await?.into_iter().find_map(Leased::job).ok_or("due").unwrap();
/// tokio::time::advance(hold).await;
/// let next = queue.lease("mail", 1, hold).await?.into_iter().find_map(Leased::job).ok_or("due").unwrap();
/// assert_eq!(next.lease.job(), slow.lease.job());
/// assert!(next.lease.token() > slow.lease.token());
/// assert!(queue.ack(&slow.lease).await.is_err(), "it is somebody else's by now");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lease {
    job: JobId,
    token: u64,
}

impl Lease {
    /// A lease as a queue gives it out.
    ///
    /// ```
    /// use together_inference::events::{JobId, Lease};
    ///
    /// let lease = Lease::new(JobId::new(7), 2);
    /// assert_eq!((lease.job().get(), lease.token()), (7, 2));
    /// ```
    #[must_use]
    pub const fn new(job: JobId, token: u64) -> Self {
        Self { job, token }
    }

    /// The job.
    #[must_use]
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// How often the job had been leased with this one: the fence. Of two leases of a job the higher one holds.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }
}

/// One of the answers to [`lease`](super::EventQueue::lease).
#[derive(Clone, Debug, PartialEq)]
pub enum Leased {
    /// A job to be run.
    Job(Job),
    /// A job that was given up just now, because its leases ran out too often: report it, do not run it.
    Dead(DeadJob),
}

impl Leased {
    /// The job, if it is to be run.
    ///
    /// ```
    /// use together_inference::events::{DeadJob, JobId, Leased};
    ///
    /// let dead = DeadJob::new(JobId::new(7), "welcome", ().into(), "3 workers were lost with it");
    /// assert_eq!(Leased::Dead(dead).job(), None);
    /// ```
    #[must_use]
    pub fn job(self) -> Option<Job> {
        match self {
            Self::Job(job) => Some(job),
            Self::Dead(_) => None,
        }
    }
}

/// A job that is to be run under a lease.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Job {
    /// The right to run it.
    pub lease: Lease,
    /// What is to be done.
    pub kind: Box<str>,
    /// With what.
    pub payload: Value,
}

impl Job {
    /// A job as a queue hands it out.
    pub fn new(lease: Lease, kind: impl Into<Box<str>>, payload: Value) -> Self {
        Self { lease, kind: kind.into(), payload }
    }
}

/// A job that was given up.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeadJob {
    /// Which.
    pub id: JobId,
    /// What was to be done.
    pub kind: Box<str>,
    /// With what.
    pub payload: Value,
    /// Why it was given up. Long texts are cut.
    pub last_error: Box<str>,
}

impl DeadJob {
    /// A dead job as a queue reports it.
    pub fn new(id: JobId, kind: impl Into<Box<str>>, payload: Value, last_error: impl Into<Box<str>>) -> Self {
        Self { id, kind: kind.into(), payload, last_error: last_error.into() }
    }
}

/// What became of a failed job.
///
/// ```
/// use std::time::Duration;
/// use together_inference::events::{Fate, retry_delay};
///
/// let first = Fate::Again { after: retry_delay(Duration::from_secs(5), 0) };
/// assert_eq!(first, Fate::Again { after: Duration::from_secs(5) });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is due again after this time.
    Again {
        /// The back-off.
        after: Duration,
    },
    /// It failed as often as it may.
    Dead,
}
