use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::*;
use crate::events::MemoryQueue;

/// The suite on a queue of tokio's time.
async fn check(queue: &dyn EventQueue) -> Result<(), Failure> {
    event_queue(queue, &|time| Box::pin(tokio::time::advance(time))).await
}

#[tokio::test(start_paused = true)]
async fn the_memory_queue_keeps_every_promise_behind_every_pointer() {
    check(&MemoryQueue::default()).await.unwrap();
    check(&Arc::new(MemoryQueue::default())).await.unwrap();
    let shared: Arc<dyn EventQueue> = Arc::new(MemoryQueue::default());
    check(&shared).await.unwrap();
    let boxed: Box<dyn EventQueue> = Box::new(MemoryQueue::default());
    check(&*boxed).await.unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    LosesJobs,
    Reorders,
    MixesQueues,
    HandsOneJobToTwo,
    ForgetsToAck,
    IgnoresDelay,
    IgnoresTheFence,
    LateIsLost,
    IgnoresExtend,
    NeverRetries,
    RetriesAtOnce,
    RetriesForEver,
    UncappedBackOff,
    ForgetsDedupe,
    ReleaseIsAFailure,
    BuryIsARelease,
    NeverDies,
    DiesInSilence,
}

/// A memory queue with one fault.
#[derive(Debug)]
struct Broken {
    inner: MemoryQueue,
    fault: Fault,
    pushes: AtomicU64,
    /// What was handed out, and until when.
    seen: Mutex<Vec<(Job, Instant)>>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self { inner: MemoryQueue::default(), fault, pushes: AtomicU64::new(0), seen: Mutex::default() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The lease, or with a broken fence the newest of its job.
    fn fenced(&self, lease: &Lease) -> Lease {
        let seen = self.seen.lock().unwrap();
        let newest = seen.iter().rev().map(|(job, _)| job.lease).find(|newest| newest.job() == lease.job());
        if self.has(Fault::IgnoresTheFence) { newest.unwrap_or(*lease) } else { *lease }
    }

    fn is_late(&self, lease: &Lease) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.iter().any(|(job, until)| job.lease == *lease && *until <= Instant::now())
    }

    fn one_name<'a>(&self, queue: &'a str) -> &'a str {
        if self.has(Fault::MixesQueues) { "all" } else { queue }
    }
}

#[async_trait]
impl EventQueue for Broken {
    async fn push(&self, mut job: NewJob) -> Result<Pushed, QueueError> {
        let n = self.pushes.fetch_add(1, Ordering::Relaxed) + 1;
        job.queue = self.one_name(&job.queue).into();
        match self.fault {
            Fault::LosesJobs if n.is_multiple_of(4) => return Ok(Pushed::New(JobId::new(n))),
            Fault::ForgetsDedupe => job.dedupe = None,
            Fault::IgnoresDelay => job.delay = Duration::ZERO,
            Fault::RetriesForEver => job.max_attempts = 1_000,
            _ => {}
        }
        self.inner.push(job).await
    }

    async fn lease(&self, queue: &str, n: usize, hold: Duration) -> Result<Vec<Leased>, QueueError> {
        let hold = if self.has(Fault::NeverDies) { Duration::MAX } else { hold };
        let mut leased = self.inner.lease(self.one_name(queue), n, hold).await?;
        match self.fault {
            Fault::Reorders => leased.reverse(),
            Fault::HandsOneJobToTwo if leased.is_empty() && n == 3 => {
                leased.extend(self.seen.lock().unwrap().last().cloned().map(|(job, _)| Leased::Job(job)));
            }
            Fault::DiesInSilence => leased.retain(|leased| matches!(leased, Leased::Job(_))),
            _ => {}
        }
        let until = Instant::now() + hold.min(MAX_DELAY);
        let jobs = leased.iter().cloned().filter_map(Leased::job);
        self.seen.lock().unwrap().extend(jobs.map(|job| (job, until)));
        Ok(leased)
    }

    async fn extend(&self, lease: &Lease, hold: Duration) -> Result<(), QueueError> {
        if self.has(Fault::LateIsLost) && self.is_late(lease) {
            return Err(QueueError::LeaseLost { job: lease.job() });
        }
        let hold = if self.has(Fault::IgnoresExtend) { Duration::ZERO } else { hold };
        self.inner.extend(&self.fenced(lease), hold).await
    }

    async fn ack(&self, lease: &Lease) -> Result<(), QueueError> {
        if self.has(Fault::ForgetsToAck) {
            return Ok(());
        }
        self.inner.ack(&self.fenced(lease)).await
    }

    async fn retry(&self, lease: &Lease, error: &str) -> Result<Fate, QueueError> {
        let lease = self.fenced(lease);
        match self.fault {
            Fault::NeverRetries => {
                self.inner.bury(&lease, error).await?;
                Ok(Fate::Again { after: TICK * 4 })
            }
            Fault::RetriesAtOnce => {
                self.inner.release(&lease).await?;
                Ok(Fate::Again { after: TICK * 4 })
            }
            Fault::UncappedBackOff => match self.inner.retry(&lease, error).await? {
                Fate::Again { after } if after == MAX_DELAY => Ok(Fate::Again { after: MAX_DELAY * 2 }),
                fate => Ok(fate),
            },
            _ => self.inner.retry(&lease, error).await,
        }
    }

    async fn bury(&self, lease: &Lease, error: &str) -> Result<(), QueueError> {
        let lease = self.fenced(lease);
        if self.has(Fault::BuryIsARelease) {
            return self.inner.release(&lease).await;
        }
        self.inner.bury(&lease, error).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), QueueError> {
        let lease = self.fenced(lease);
        if self.has(Fault::ReleaseIsAFailure) {
            return self.inner.retry(&lease, "released").await.map(drop);
        }
        self.inner.release(&lease).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_wrapper_of_the_broken_ones_is_whole_itself() {
    check(&Broken::new(Fault::None)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_broken_queue_fails_at_the_promise_that_it_breaks() {
    for (fault, promise) in [
        (Fault::LosesJobs, "every job is handed out once"),
        (Fault::Reorders, "every job is handed out once"),
        (Fault::MixesQueues, "a queue hands out its own jobs alone"),
        (Fault::HandsOneJobToTwo, "a job is leased to one worker at a time"),
        (Fault::ForgetsToAck, "a job that is done"),
        (Fault::IgnoresDelay, "a job is handed out when it is due"),
        (Fault::IgnoresTheFence, "a lease ends at its end, and a lost one changes nothing"),
        (Fault::LateIsLost, "a lease that ran out holds"),
        (Fault::IgnoresExtend, "an extended lease holds"),
        (Fault::NeverRetries, "a failed job comes back"),
        (Fault::RetriesAtOnce, "a failed job comes back"),
        (Fault::RetriesForEver, "a job that failed as often as it may"),
        (Fault::UncappedBackOff, "no back-off is above an hour"),
        (Fault::ForgetsDedupe, "a duplicate is refused"),
        (Fault::ReleaseIsAFailure, "a released job is back at once"),
        (Fault::BuryIsARelease, "a buried job is not handed out again"),
        (Fault::NeverDies, "a lease ends at its end"),
        (Fault::DiesInSilence, "a job whose leases ran out three times"),
    ] {
        let failure = check(&Broken::new(fault)).await.expect_err(&format!("{fault:?}"));
        assert!(failure.promise.starts_with(promise), "{fault:?}: {failure}");
    }
}
