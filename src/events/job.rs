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
    #[must_use]
    pub fn dedupe(mut self, key: impl Into<Box<str>>) -> Self {
        self.dedupe = Some(key.into());
        self
    }

    /// Sets how often it may fail; 0 counts as 1.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// Sets how long it rests after its first failure; doubled after each, at most [`MAX_DELAY`].
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// The job was added.
    New(JobId),
    /// A job of the same key was there before; this one was not added.
    Duplicate,
}

/// The right to work on a job for a while.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lease {
    job: JobId,
    token: u64,
}

impl Lease {
    /// A lease as a queue gives it out.
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
