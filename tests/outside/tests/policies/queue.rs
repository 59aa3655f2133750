//! A queue as a list.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use together_inference::{
    async_trait,
    events::{
        DeadJob, EventQueue, Fate, Job, JobId, Lease, Leased, MAX_STALLS, NewJob, Pushed, QueueError, retry_delay,
    },
};
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct ListQueue(Mutex<Vec<Row>>);

#[derive(Debug)]
struct Row {
    id: JobId,
    job: NewJob,
    due: Instant,
    state: State,
    token: u64,
    failures: u32,
    stalls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    Leased,
    Done,
    Dead,
}

const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);

impl ListQueue {
    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.0.lock().unwrap()
    }

    /// Changes the row of a lease that holds.
    fn with<T>(&self, lease: &Lease, change: impl FnOnce(&mut Row) -> T) -> Result<T, QueueError> {
        let mut rows = self.rows();
        let held = |row: &&mut Row| row.id == lease.job() && row.token == lease.token() && row.state == State::Leased;
        let row = rows.iter_mut().find(held).ok_or(QueueError::LeaseLost { job: lease.job() })?;
        Ok(change(row))
    }
}

#[async_trait]
impl EventQueue for ListQueue {
    async fn push(&self, job: NewJob) -> Result<Pushed, QueueError> {
        let mut rows = self.rows();
        let same = |row: &Row| row.job.queue == job.queue && row.job.dedupe == job.dedupe;
        if job.dedupe.is_some() && rows.iter().any(same) {
            return Ok(Pushed::Duplicate);
        }
        let id = JobId::new(rows.len() as u64 + 1);
        let due = Instant::now() + job.delay.min(FAR);
        rows.push(Row { id, job, due, state: State::Waits, token: 0, failures: 0, stalls: 0 });
        Ok(Pushed::New(id))
    }

    async fn lease(&self, queue: &str, n: usize, hold: Duration) -> Result<Vec<Leased>, QueueError> {
        let (mut rows, now) = (self.rows(), Instant::now());
        let open = |row: &&mut Row| {
            *row.job.queue == *queue && row.due <= now && matches!(row.state, State::Waits | State::Leased)
        };
        let mut due: Vec<&mut Row> = rows.iter_mut().filter(open).collect();
        due.sort_by_key(|row| (row.due, row.id));
        let lease = |row: &mut Row| {
            let (kind, payload) = (row.job.kind.clone(), row.job.payload.clone());
            row.stalls += u32::from(row.state == State::Leased);
            if row.stalls >= MAX_STALLS {
                row.state = State::Dead;
                return Leased::Dead(DeadJob::new(row.id, kind, payload, "its leases ran out"));
            }
            row.token += 1;
            (row.state, row.due) = (State::Leased, now + hold.min(FAR));
            Leased::Job(Job::new(Lease::new(row.id, row.token), kind, payload))
        };
        Ok(due.into_iter().take(n).map(lease).collect())
    }

    async fn extend(&self, lease: &Lease, hold: Duration) -> Result<(), QueueError> {
        self.with(lease, |row| row.due = Instant::now() + hold.min(FAR))
    }

    async fn ack(&self, lease: &Lease) -> Result<(), QueueError> {
        self.with(lease, |row| row.state = State::Done)
    }

    async fn retry(&self, lease: &Lease, _: &str) -> Result<Fate, QueueError> {
        self.with(lease, |row| {
            let after = retry_delay(row.job.backoff, row.failures);
            row.failures += 1;
            if row.failures >= row.job.max_attempts {
                row.state = State::Dead;
                return Fate::Dead;
            }
            (row.state, row.due) = (State::Waits, Instant::now() + after);
            Fate::Again { after }
        })
    }

    async fn bury(&self, lease: &Lease, _: &str) -> Result<(), QueueError> {
        self.with(lease, |row| row.state = State::Dead)
    }

    async fn release(&self, lease: &Lease) -> Result<(), QueueError> {
        self.with(lease, |row| (row.state, row.due) = (State::Waits, Instant::now()))
    }
}
