//! A queue in the process.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    DeadJob, EventQueue, Fate, Job, JobId, Lease, Leased, MAX_STALLS, NewJob, Pushed, QueueError, retry_delay,
};

/// The most bytes of an error text that a dead job keeps.
const MAX_ERROR_BYTES: usize = 1_024;

/// Beyond any lease or delay; an `Instant` can be added this much without overflow.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Keeps jobs in memory: **nothing outlives the process**. For tests, examples and jobs whose loss is cheap.
///
/// Bounded: at most 10,000 jobs that wait or are leased, unless [`bounded`](Self::bounded) says otherwise; one more is
/// [`QueueError::Full`]. The same number of dead jobs and of deduplication keys of ended jobs is kept, the oldest
/// forgotten first: until then a duplicate is refused.
///
/// Time is tokio's, so that tests advance it:
///
/// ```
/// use std::time::Duration;
/// use together_inference::events::{EventQueue, MemoryQueue, NewJob, QueueError};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), QueueError> {
/// let queue = MemoryQueue::default();
/// queue.push(NewJob::new("reports", "daily", ().into()).delay(Duration::from_secs(60))).await?;
/// assert!(queue.lease("reports", 1, Duration::from_secs(30)).await?.is_empty());
///
/// tokio::time::advance(Duration::from_secs(60)).await;
/// assert_eq!(queue.lease("reports", 1, Duration::from_secs(30)).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
pub struct MemoryQueue {
    bound: usize,
    // Never held across an await: no method of this queue waits.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    entries: HashMap<JobId, Entry>,
    /// By queue: when each entry is due, be it to be run or to be taken from who holds it.
    due: HashMap<Box<str>, BTreeSet<(Instant, JobId)>>,
    /// By queue: the keys of all jobs that are remembered.
    keys: HashMap<Box<str>, HashSet<Box<str>>>,
    dead: VecDeque<(DeadJob, Option<Key>)>,
    done: VecDeque<Key>,
}

struct Key {
    queue: Box<str>,
    key: Box<str>,
}

struct Entry {
    job: NewJob,
    due: Instant,
    leased: bool,
    token: u64,
    failures: u32,
    stalls: u32,
}

impl MemoryQueue {
    /// A queue of at most this many jobs.
    #[must_use]
    pub fn bounded(jobs: usize) -> Self {
        Self { bound: jobs, state: Mutex::default() }
    }

    /// How many jobs wait or are leased, in all queues.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::events::QueueError> {
    /// use std::time::Duration;
    /// use together_inference::events::{EventQueue, MemoryQueue, NewJob};
    ///
    /// let queue = MemoryQueue::default();
    /// queue.push(NewJob::new("mail", "welcome", ().into())).await?;
    /// queue.lease("mail", 1, Duration::from_secs(30)).await?;
    /// assert_eq!(queue.len(), 1, "leased is not done");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether no job waits or is leased.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The jobs that were given up, oldest first.
    #[must_use]
    pub fn dead(&self) -> Vec<DeadJob> {
        self.lock().dead.iter().map(|(job, _)| job.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::bounded(10_000)
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (jobs, dead) = {
            let state = self.lock();
            (state.entries.len(), state.dead.len())
        };
        f.debug_struct("MemoryQueue")
            .field("jobs", &jobs)
            .field("dead", &dead)
            .field("bound", &self.bound)
            .field("survives_restart", &false)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl EventQueue for MemoryQueue {
    async fn push(&self, job: NewJob) -> Result<Pushed, QueueError> {
        let mut state = self.lock();
        if state.remembers(&job) {
            return Ok(Pushed::Duplicate);
        }
        if state.entries.len() >= self.bound {
            return Err(QueueError::Full { bound: self.bound });
        }
        Ok(Pushed::New(state.add(job)))
    }

    async fn lease(&self, queue: &str, n: usize, hold: Duration) -> Result<Vec<Leased>, QueueError> {
        let mut state = self.lock();
        let now = Instant::now();
        // Chosen before any is leased: with no hold a job is due again at once, and must not be handed out twice.
        let ids: Vec<JobId> = state.due_at(queue, now).take(n).collect();
        Ok(ids.into_iter().filter_map(|id| state.hand_out(id, later(now, hold), self.bound)).collect())
    }

    async fn extend(&self, lease: &Lease, hold: Duration) -> Result<(), QueueError> {
        let mut state = self.lock();
        let entry = state.take(lease)?;
        state.put(lease.job(), Entry { due: later(Instant::now(), hold), ..entry });
        Ok(())
    }

    async fn ack(&self, lease: &Lease) -> Result<(), QueueError> {
        let mut state = self.lock();
        let entry = state.take(lease)?;
        state.remember_done(entry.job, self.bound);
        Ok(())
    }

    async fn retry(&self, lease: &Lease, error: &str) -> Result<Fate, QueueError> {
        let mut state = self.lock();
        let entry = state.take(lease)?;
        let failures = entry.failures.saturating_add(1);
        if failures >= entry.job.max_attempts {
            state.bury(lease.job(), entry.job, error, self.bound);
            return Ok(Fate::Dead);
        }
        let after = retry_delay(entry.job.backoff, entry.failures);
        let due = later(Instant::now(), after);
        state.put(lease.job(), Entry { due, leased: false, failures, ..entry });
        Ok(Fate::Again { after })
    }

    async fn bury(&self, lease: &Lease, error: &str) -> Result<(), QueueError> {
        let mut state = self.lock();
        let entry = state.take(lease)?;
        state.bury(lease.job(), entry.job, error, self.bound);
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), QueueError> {
        let mut state = self.lock();
        let entry = state.take(lease)?;
        state.put(lease.job(), Entry { due: Instant::now(), leased: false, ..entry });
        Ok(())
    }
}

impl State {
    fn remembers(&self, job: &NewJob) -> bool {
        let Some(key) = &job.dedupe else { return false };
        self.keys.get(&job.queue).is_some_and(|keys| keys.contains(key))
    }

    fn add(&mut self, job: NewJob) -> JobId {
        self.last_id += 1;
        let id = JobId::new(self.last_id);
        if let Some(key) = &job.dedupe {
            self.keys.entry(job.queue.clone()).or_default().insert(key.clone());
        }
        let due = later(Instant::now(), job.delay);
        self.put(id, Entry { job, due, leased: false, token: 0, failures: 0, stalls: 0 });
        id
    }

    fn due_at(&self, queue: &str, now: Instant) -> impl Iterator<Item = JobId> {
        let waiting = self.due.get(queue).into_iter().flatten();
        waiting.take_while(move |(due, _)| *due <= now).map(|(_, id)| *id)
    }

    /// Leases the job until then, or buries it when its leases ran out too often.
    fn hand_out(&mut self, id: JobId, until: Instant, bound: usize) -> Option<Leased> {
        let entry = self.remove(id)?;
        // Due and still leased: whoever had it was not heard of in time.
        let stalls = entry.stalls + u32::from(entry.leased);
        if stalls >= MAX_STALLS {
            return Some(Leased::Dead(self.bury(id, entry.job, "the lease ran out: its worker died or hung", bound)));
        }
        let token = entry.token + 1;
        let job = Job::new(Lease::new(id, token), entry.job.kind.clone(), entry.job.payload.clone());
        self.put(id, Entry { due: until, leased: true, token, stalls, ..entry });
        Some(Leased::Job(job))
    }

    /// Takes the job out if the lease holds; whoever takes it puts it back or ends it.
    fn take(&mut self, lease: &Lease) -> Result<Entry, QueueError> {
        let holds = |entry: &Entry| entry.leased && entry.token == lease.token();
        let id = lease.job();
        let held = self.entries.get(&id).is_some_and(holds);
        held.then(|| self.remove(id)).flatten().ok_or(QueueError::LeaseLost { job: id })
    }

    fn put(&mut self, id: JobId, entry: Entry) {
        match self.due.get_mut(&entry.job.queue) {
            Some(due) => due.insert((entry.due, id)),
            None => self.due.entry(entry.job.queue.clone()).or_default().insert((entry.due, id)),
        };
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: JobId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(due) = self.due.get_mut(&entry.job.queue) {
            due.remove(&(entry.due, id));
            if due.is_empty() {
                self.due.remove(&entry.job.queue);
            }
        }
        Some(entry)
    }

    fn bury(&mut self, id: JobId, job: NewJob, error: &str, bound: usize) -> DeadJob {
        let NewJob { queue, kind, payload, dedupe, .. } = job;
        let dead = DeadJob::new(id, kind, payload, clip(error));
        self.dead.push_back((dead.clone(), dedupe.map(|key| Key { queue, key })));
        if self.dead.len() > bound
            && let Some((_, Some(key))) = self.dead.pop_front()
        {
            self.forget(&key);
        }
        dead
    }

    fn remember_done(&mut self, job: NewJob, bound: usize) {
        let Some(key) = job.dedupe else { return };
        self.done.push_back(Key { queue: job.queue, key });
        if self.done.len() > bound
            && let Some(key) = self.done.pop_front()
        {
            self.forget(&key);
        }
    }

    fn forget(&mut self, Key { queue, key }: &Key) {
        if let Some(keys) = self.keys.get_mut(queue) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(queue);
            }
        }
    }
}

/// So much later, at most [`FAR`]: a caller's `Duration::MAX` means "never", not a panic.
fn later(now: Instant, by: Duration) -> Instant {
    now + by.min(FAR)
}

/// The first bytes of an error, cut between characters.
fn clip(error: &str) -> &str {
    let whole = error.len() <= MAX_ERROR_BYTES;
    let cut = || (0..=MAX_ERROR_BYTES).rev().find_map(|end| error.get(..end));
    if whole { error } else { cut().unwrap_or_default() }
}

#[cfg(test)]
mod tests;
