//! What an [`EventQueue`] promises.

use std::{collections::HashSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;

use super::{Failure, Pace, Promise};
use crate::events::{DeadJob, EventQueue, Fate, Job, JobId, Lease, Leased, MAX_DELAY, NewJob, Pushed, QueueError};

/// The grain of time: long enough for a database on a busy machine, short enough that the suite takes seconds on one.
const TICK: Duration = Duration::from_millis(250);
/// A lease that no check outlives unless it means to.
const LONG: Duration = Duration::from_secs(600);

/// Checks what [`EventQueue`] promises, on a queue whose store holds nothing yet.
///
/// `pace` lets time pass, about 15 s of it in steps of a quarter of a second and more. With a real clock it sleeps, and
/// the suite takes as long.
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn event_queue(queue: &dyn EventQueue, pace: Pace<'_>) -> Result<(), Failure> {
    jobs_come_out_once(&On::new(queue, pace, "every job is handed out once, as it was pushed, in order")).await?;
    queues_are_apart(&On::new(queue, pace, "a queue hands out its own jobs alone")).await?;
    workers_share_nothing(&On::new(queue, pace, "a job is leased to one worker at a time")).await?;
    done_is_done(&On::new(queue, pace, "a job that is done is not handed out again")).await?;
    delays_hold(&On::new(queue, pace, "a job is handed out when it is due, in the order of that")).await?;
    leases_end(&On::new(queue, pace, "a lease ends at its end, and a lost one changes nothing")).await?;
    late_is_not_lost(&On::new(queue, pace, "a lease that ran out holds until somebody else has the job")).await?;
    extensions_hold(&On::new(queue, pace, "an extended lease holds")).await?;
    failures_come_back(&On::new(queue, pace, "a failed job comes back after its back-off, doubled each time")).await?;
    attempts_end(&On::new(queue, pace, "a job that failed as often as it may is dead")).await?;
    back_off_is_capped(&On::new(queue, pace, "no back-off is above an hour")).await?;
    resting_jobs_hold_up_nobody(&On::new(queue, pace, "a job that rests holds up nobody")).await?;
    buried_is_dead(&On::new(queue, pace, "a buried job is not handed out again")).await?;
    duplicates_are_refused(&On::new(queue, pace, "a duplicate is refused while the first one exists")).await?;
    releases_are_free(&On::new(queue, pace, "a released job is back at once and unharmed")).await?;
    stalls_end(&On::new(queue, pace, "a job whose leases ran out three times is reported dead and not run")).await
}

/// A queue under one check. The promise is also the name that its jobs wait under, so that no check sees another's.
struct On<'a> {
    queue: &'a dyn EventQueue,
    pace: Pace<'a>,
    promise: Promise,
}

impl<'a> On<'a> {
    const fn new(queue: &'a dyn EventQueue, pace: Pace<'a>, promise: &'static str) -> Self {
        Self { queue, pace, promise: Promise(promise) }
    }

    const fn name(&self) -> &'static str {
        self.promise.0
    }

    fn job(&self, n: u32) -> NewJob {
        NewJob::new(self.name(), format!("kind {n}"), json!({ "n": n, "text": "é \" \u{1}" })).backoff(TICK * 4)
    }

    async fn wait(&self, ticks: u32) {
        (self.pace)(TICK * ticks).await;
    }

    async fn push(&self, job: NewJob) -> Result<JobId, Failure> {
        match self.promise.ok("push", self.queue.push(job).await)? {
            Pushed::New(id) => Ok(id),
            Pushed::Duplicate => Err(self.promise.broken("a job that is none was refused as a duplicate")),
        }
    }

    async fn lease(&self, n: usize, hold: Duration) -> Result<Vec<Leased>, Failure> {
        self.promise.ok("lease", self.queue.lease(self.name(), n, hold).await)
    }

    /// Jobs to be run; a dead one breaks the promise.
    async fn jobs(&self, n: usize, hold: Duration) -> Result<Vec<Job>, Failure> {
        let run = |leased| match leased {
            Leased::Job(job) => Ok(job),
            Leased::Dead(job) => Err(self.promise.broken(format!("job {} is dead: {}", job.id, job.last_error))),
        };
        self.lease(n, hold).await?.into_iter().map(run).collect()
    }

    /// The one job that is due.
    async fn one(&self, hold: Duration) -> Result<Job, Failure> {
        let mut jobs = self.jobs(2, hold).await?;
        self.promise.same("jobs that are due", jobs.len(), 1)?;
        jobs.pop().ok_or_else(|| self.promise.broken("no job is due"))
    }

    async fn none(&self, when: &str) -> Result<(), Failure> {
        self.promise.same(when, self.lease(9, LONG).await?, Vec::new())
    }

    async fn ack(&self, lease: &Lease) -> Result<(), Failure> {
        self.promise.ok("ack", self.queue.ack(lease).await)
    }

    async fn retry(&self, lease: &Lease) -> Result<Fate, Failure> {
        self.promise.ok("retry", self.queue.retry(lease, "it failed").await)
    }

    /// That every call with the lease is refused.
    async fn lost(&self, lease: &Lease) -> Result<(), Failure> {
        let retry = self.queue.retry(lease, "stale").await.map(drop);
        for (call, result) in [
            ("extend", self.queue.extend(lease, LONG).await),
            ("retry", retry),
            ("release", self.queue.release(lease).await),
            ("bury", self.queue.bury(lease, "stale").await),
            ("ack", self.queue.ack(lease).await),
        ] {
            let refused = matches!(&result, Err(QueueError::LeaseLost { job }) if *job == lease.job());
            if !refused {
                return Err(self.promise.broken(format!("{call} with a lost lease gives {result:?}")));
            }
        }
        Ok(())
    }
}

async fn jobs_come_out_once(on: &On<'_>) -> Result<(), Failure> {
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(on.push(on.job(n)).await?);
    }
    on.promise.same("a lease of none", on.jobs(0, LONG).await?, Vec::new())?;
    let mut jobs = on.jobs(2, LONG).await?;
    on.promise.same("jobs of the five", jobs.len(), 2)?;
    jobs.extend(on.jobs(9, LONG).await?);
    on.promise.same("ids", jobs.iter().map(|job| job.lease.job()).collect(), ids)?;
    for (job, pushed) in jobs.iter().zip((0..).map(|n| on.job(n))) {
        on.promise.same("kind", &job.kind, &pushed.kind)?;
        on.promise.same("payload", &job.payload, &pushed.payload)?;
    }
    on.none("jobs after all were leased").await
}

async fn queues_are_apart(on: &On<'_>) -> Result<(), Failure> {
    let id = on.push(on.job(0)).await?;
    let other = on.queue.lease("another queue", 9, LONG).await;
    on.promise.same("jobs of another queue", on.promise.ok("lease", other)?, Vec::new())?;
    on.promise.same("its job", on.one(LONG).await?.lease.job(), id)
}

async fn workers_share_nothing(on: &On<'_>) -> Result<(), Failure> {
    for n in 0..40 {
        on.push(on.job(n)).await?;
    }
    let rounds = join_all((0..16).map(|_| on.jobs(3, LONG))).await;
    let mut jobs = rounds.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    jobs.extend(on.jobs(40, LONG).await?);
    let distinct: HashSet<JobId> = jobs.iter().map(|job| job.lease.job()).collect();
    on.promise.same("leases of forty jobs by seventeen workers", jobs.len(), 40)?;
    on.promise.same("jobs among them", distinct.len(), 40)
}

async fn done_is_done(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0)).await?;
    let job = on.one(TICK).await?;
    on.ack(&job.lease).await?;
    on.lost(&job.lease).await?;
    on.wait(6).await;
    on.none("jobs after the only one was done").await
}

async fn delays_hold(on: &On<'_>) -> Result<(), Failure> {
    let late = on.push(on.job(0).delay(TICK * 4)).await?;
    let soon = on.push(on.job(1).delay(TICK * 2)).await?;
    on.none("jobs before any is due").await?;
    on.wait(1).await;
    on.none("jobs before any is due").await?;
    on.wait(5).await;
    let due: Vec<JobId> = on.jobs(9, LONG).await?.iter().map(|job| job.lease.job()).collect();
    on.promise.same("jobs in the order of their due times", due, vec![soon, late])
}

async fn leases_end(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0)).await?;
    let first = on.one(TICK * 4).await?.lease;
    on.wait(2).await;
    on.none("jobs while the only one is leased").await?;
    on.wait(3).await;
    let second = on.one(LONG).await?.lease;
    on.promise.same("the job after the lease's end", second.job(), first.job())?;
    if second.token() <= first.token() {
        return Err(on.promise.broken(format!("token {} after {}", second.token(), first.token())));
    }
    on.lost(&first).await?;
    on.none("jobs after calls with a lost lease").await?;
    on.ack(&second).await
}

async fn late_is_not_lost(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0)).await?;
    let lease = on.one(TICK).await?.lease;
    on.wait(3).await;
    on.promise.ok("a late extend", on.queue.extend(&lease, TICK).await)?;
    on.wait(3).await;
    on.promise.ok("a late ack", on.queue.ack(&lease).await)?;
    on.none("jobs after a late ack").await
}

async fn extensions_hold(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0)).await?;
    let lease = on.one(TICK * 3).await?.lease;
    for _ in 0..3 {
        on.wait(2).await;
        on.promise.ok("extend", on.queue.extend(&lease, TICK * 4).await)?;
    }
    on.none("jobs while the extended lease holds").await?;
    on.wait(6).await;
    on.promise.same("the job after its end", on.one(LONG).await?.lease.job(), lease.job())
}

async fn failures_come_back(on: &On<'_>) -> Result<(), Failure> {
    let id = on.push(on.job(0)).await?;
    for ticks in [4, 8] {
        let fate = on.retry(&on.one(LONG).await?.lease).await?;
        on.promise.same("fate", fate, Fate::Again { after: TICK * ticks })?;
        on.wait(ticks - 2).await;
        on.none("jobs while the only one rests").await?;
        on.wait(3).await;
    }
    on.promise.same("the job after its back-off", on.one(LONG).await?.lease.job(), id)
}

async fn attempts_end(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0).max_attempts(2).backoff(TICK)).await?;
    on.retry(&on.one(LONG).await?.lease).await?;
    on.wait(2).await;
    let last = on.one(LONG).await?.lease;
    on.promise.same("fate", on.retry(&last).await?, Fate::Dead)?;
    on.lost(&last).await?;
    on.wait(4).await;
    on.none("jobs after the last attempt").await
}

async fn back_off_is_capped(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0).backoff(MAX_DELAY * 2)).await?;
    let fate = on.retry(&on.one(LONG).await?.lease).await?;
    on.promise.same("fate", fate, Fate::Again { after: MAX_DELAY })
}

async fn resting_jobs_hold_up_nobody(on: &On<'_>) -> Result<(), Failure> {
    for n in 0..8 {
        on.push(on.job(n).backoff(MAX_DELAY)).await?;
    }
    for job in on.jobs(8, LONG).await? {
        on.retry(&job.lease).await?;
    }
    let good = on.push(on.job(8)).await?;
    on.promise.same("the job behind eight that rest", on.one(LONG).await?.lease.job(), good)
}

async fn buried_is_dead(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0)).await?;
    let lease = on.one(TICK).await?.lease;
    on.promise.ok("bury", on.queue.bury(&lease, "no").await)?;
    on.lost(&lease).await?;
    on.wait(6).await;
    on.none("jobs after the only one was buried").await
}

async fn duplicates_are_refused(on: &On<'_>) -> Result<(), Failure> {
    let keyed = |key: &str| on.job(0).dedupe(key);
    let refused = async |when: &str| {
        on.promise.same(when, on.promise.ok("push", on.queue.push(keyed("a")).await)?, Pushed::Duplicate)
    };
    on.push(keyed("a")).await?;
    refused("a duplicate of a job that waits").await?;
    let lease = on.one(LONG).await?.lease;
    refused("a duplicate of a job that is leased").await?;
    on.retry(&lease).await?;
    refused("a duplicate of a job that rests").await?;
    on.wait(5).await;
    on.promise.ok("bury", on.queue.bury(&on.one(LONG).await?.lease, "no").await)?;
    refused("a duplicate of a job that is dead").await?;
    on.push(keyed("b")).await?;
    on.push(on.job(0)).await?;
    on.push(on.job(0)).await?;
    on.push(NewJob { queue: "a third queue".into(), ..keyed("a") }).await?;
    on.promise.same("jobs that are no duplicates", on.jobs(9, LONG).await?.len(), 3)
}

async fn releases_are_free(on: &On<'_>) -> Result<(), Failure> {
    on.push(on.job(0).max_attempts(2)).await?;
    for _ in 0..5 {
        let lease = on.one(LONG).await?.lease;
        on.promise.ok("release", on.queue.release(&lease).await)?;
        on.lost(&lease).await?;
    }
    let fate = on.retry(&on.one(LONG).await?.lease).await?;
    on.promise.same("fate after five releases and a failure", fate, Fate::Again { after: TICK * 4 })
}

async fn stalls_end(on: &On<'_>) -> Result<(), Failure> {
    let id = on.push(on.job(0)).await?;
    for _ in 0..3 {
        on.one(TICK).await?;
        on.wait(2).await;
    }
    match &on.lease(9, LONG).await?[..] {
        [Leased::Dead(DeadJob { id: dead, .. })] if *dead == id => {}
        other => return Err(on.promise.broken(format!("after three leases that ran out: {other:?}"))),
    }
    on.none("jobs after the only one died").await
}

#[cfg(test)]
mod tests;
