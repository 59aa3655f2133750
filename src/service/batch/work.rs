//! The steps of a worker: what is due, one step of it, what the provider says of all jobs at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use tokio::sync::watch;

use super::{
    Batches, of_batch, of_store,
    rounds::{Pressure, TELL_AFTER, time_to_rest},
    submit::{name_of, passed},
};
use crate::{
    batch::{
        BatchRecord, BatchState, BatchSubmitter, Change, ChunkKey, ChunkRow, ChunkState, Claim, Due, Phase, RemoteId,
        RemoteStatus, Way,
    },
    notify::AlertKind,
    service::{Error, InferenceService, state::State},
    types::UpstreamId,
};

/// Chunks that a turn claims, at most: one list call tells of all of them.
const MOST: usize = 10_000;
/// What is said of the worker itself.
const WORKER: &str = "worker of batches";
/// How long a chunk rests that has no place among the jobs that may be out.
pub(super) const FULL: Duration = Duration::from_secs(5);
/// How long one rests at least that could not be taken further.
const LEAST: Duration = Duration::from_secs(1);
/// Claims are renewed no more often than this.
const FAST: Duration = Duration::from_millis(100);
/// A job that is found nowhere for so long is told of: the key may be another project's.
const UNSEEN: Duration = Duration::from_secs(600);
/// One that is found nowhere for so long is lost. What providers promise has passed by then.
const LOST: Duration = Duration::from_secs(24 * 3_600);
/// A job that runs for so long is asked after half as often.
const LONG: Duration = Duration::from_secs(600);
/// Of the tokens that may wait for a model, in percent.
const ENQUEUED: u64 = 80;

impl InferenceService {
    /// Tells when something moved; `None` without batches.
    pub(crate) fn batches_moved(&self) -> Option<watch::Receiver<u64>> {
        self.state.batches.as_ref().map(|batches| batches.moved.subscribe())
    }

    /// Counts a worker in as long as it is held.
    pub(crate) fn at_work(&self) -> AtWork {
        if let Some(batches) = &self.state.batches {
            batches.workers.fetch_add(1, Ordering::AcqRel);
            batches.moved();
        }
        AtWork(Arc::downgrade(&self.state))
    }

    /// Says that a worker lives.
    pub(crate) async fn beat(&self) -> Result<(), Error> {
        let journal = &self.state.batches()?.journal;
        journal.beat(self.state.clock.now()).await.map_err(of_store)?;
        // What a process had begun to plan that has ended is nobody's. Where it cannot be deleted it harms no batch.
        if let Err(error) = journal.sweep().await {
            tracing::warn!(%error, "plans that were given up could not be deleted");
        }
        self.forget_old().await;
        Ok(())
    }

    /// Forgets what was asked in batches that are over, and all of those whose retention is over. Where that fails it harms
    /// no other, and is tried again.
    async fn forget_old(&self) {
        let Some(batches) = &self.state.batches else { return };
        if let Err(error) = batches.journal.forget_requests().await {
            tracing::warn!(%error, "the requests of batches that are over could not be deleted");
        }
        let Some(before) = self.state.clock.now().checked_sub(batches.options.retention) else { return };
        match batches.journal.discard_before(before).await {
            Ok(0) => {}
            Ok(batches) => tracing::info!(batches, "batches were forgotten whose retention is over"),
            Err(error) => tracing::warn!(%error, "batches whose retention is over could not be forgotten"),
        }
    }

    /// Jobs that are to be asked after, for this worker alone: all that are due, since one list tells of them.
    pub(crate) async fn claim_jobs(&self) -> Result<Vec<Claim>, Error> {
        self.claim(Due::Jobs, MOST).await
    }

    /// Chunks that something is to be done about, for this worker alone: so many at most, the rest is for others.
    pub(crate) async fn claim_steps(&self, most: usize) -> Result<Vec<Claim>, Error> {
        self.claim(Due::Steps, most).await
    }

    async fn claim(&self, due: Due, most: usize) -> Result<Vec<Claim>, Error> {
        let (batches, now) = (self.state.batches()?, self.state.clock.now());
        batches.journal.claim_due(due, most, batches.options.lease, now).await.map_err(of_store)
    }

    /// How often a claim is renewed, and for how long it holds: three times as long.
    pub(crate) fn renewals(&self) -> (Duration, Duration) {
        let lease = self.state.batches.as_ref().map_or(LONG, |batches| batches.options.lease);
        ((lease / 3).max(FAST), lease)
    }

    /// Keeps chunks for this worker; `false` where another one has one of them.
    pub(crate) async fn renew(&self, claims: &[Claim]) -> Result<bool, Error> {
        let held: Vec<_> = claims.iter().map(|claim| (claim.chunk.key, claim.fence)).collect();
        let (batches, now) = (self.state.batches()?, self.state.clock.now());
        let lost = batches.journal.renew(&held, batches.options.lease, now).await.map_err(of_store)?;
        Ok(lost.is_empty())
    }

    /// Lets others have a chunk.
    pub(crate) async fn release(&self, key: &ChunkKey, fence: i64) -> Result<(), Error> {
        self.state.batches()?.journal.release(*key, fence).await.map_err(of_store)
    }

    /// Leaves a chunk alone for a while that could not be taken further, longer each time. A person is told where it fails
    /// again and again.
    pub(crate) async fn rest_chunk(&self, claim: &Claim, error: &Error) -> Result<(), Error> {
        let (batches, key) = (self.state.batches()?, claim.chunk.key);
        let (times, rest) = batches.failing_chunks.failed(key);
        if times == TELL_AFTER {
            let title = || format!("a part of batch {} cannot be taken further and waits: {error}", key.batch);
            self.state.tell_batch(AlertKind::BatchStuck, &name_of(&key), title);
        }
        let batch = batches.journal.find(key.batch).await.map_err(of_store)?;
        let most = batch.map_or(Duration::MAX, |batch| time_to_rest(&batch, self.state.clock.now()));
        match batches.journal.chunk(key).await.map_err(of_store)? {
            Some(chunk) if !chunk.state.is_final() => {
                self.state.let_rest(claim, chunk.state, (rest.min(most.max(LEAST)), None)).await
            }
            _ => Ok(()),
        }
    }

    /// Has a person told that the worker has done no turn for a while, or that it does again.
    pub(crate) fn tell_of_worker(&self, failing: Option<&Error>) {
        match failing {
            Some(error) => {
                let title = || format!("the worker of batches cannot work, and no batch moves: {error}");
                self.state.tell_once(AlertKind::StoreError, WORKER, title);
            }
            None => self.state.told.forget(AlertKind::StoreError, WORKER),
        }
    }

    /// Takes a chunk one step further.
    pub(crate) async fn step_chunk(&self, claim: &Claim, lapsed: &AtomicBool) -> Result<(), Error> {
        self.step(claim, lapsed).await?;
        self.state.batches()?.failing_chunks.went_well(&claim.chunk.key);
        Ok(())
    }

    async fn step(&self, claim: &Claim, lapsed: &AtomicBool) -> Result<(), Error> {
        let state = &self.state;
        let journal = &state.batches()?.journal;
        let batch = journal.find(claim.chunk.key.batch).await.map_err(of_store)?;
        let is_over =
            batch.as_ref().is_none_or(|batch| matches!(batch.state, BatchState::Cancelling | BatchState::Finished));
        match (claim.chunk.state, claim.chunk.way) {
            (ChunkState::Planned, _) | (ChunkState::Running, Way::Realtime | Way::Rescue) if is_over => {
                state.drop_chunk(claim).await
            }
            (ChunkState::Planned | ChunkState::Running, Way::Realtime | Way::Rescue) => {
                state.answer_singly(claim, lapsed).await
            }
            // Its lines went another way, or nobody wants them any more.
            (ChunkState::Planned | ChunkState::Submitting, Way::Batch)
                if is_over || !journal.has_lines(claim.chunk.key).await.map_err(of_store)? =>
            {
                state.abandon_chunk(claim).await
            }
            // It is for a rescue, which the next turn begins.
            (ChunkState::Planned, Way::Batch) if state.is_pressed(batch.as_ref()).await? => {
                state.let_rest(claim, ChunkState::Planned, (FULL, None)).await
            }
            (ChunkState::Planned, Way::Batch) if !state.has_room(claim).await? => {
                state.let_rest(claim, ChunkState::Planned, (FULL, None)).await
            }
            (ChunkState::Planned | ChunkState::Submitting, Way::Batch) => state.submit_chunk(claim).await,
            (ChunkState::Ended, Way::Batch) => match status_of(&claim.chunk) {
                Some(job) => state.settle_chunk(claim, &job).await,
                None => state.refuse_chunk(claim, "the journal has no job of it").await,
            },
            _ => Ok(()),
        }
    }

    /// Asks after jobs, one list call a provider, and writes down how they stand.
    pub(crate) async fn poll_chunks(&self, claims: &[Claim]) -> Result<(), Error> {
        let mut by_upstream: HashMap<&UpstreamId, Vec<&Claim>> = HashMap::new();
        for claim in claims {
            by_upstream.entry(claim.chunk.route.upstream()).or_default().push(claim);
        }
        for (upstream, claims) in by_upstream {
            self.state.poll(upstream, &claims).await?;
        }
        Ok(())
    }

    /// Takes batches further whose round is over, and rescues those that are late.
    pub(crate) async fn turn_batches(&self) -> Result<(), Error> {
        self.state.flush_gathered().await?;
        self.state.rescue_late().await?;
        self.state.next_rounds().await
    }
}

/// A worker of this process.
#[derive(Debug)]
pub(crate) struct AtWork(std::sync::Weak<State>);

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Some(state) = self.0.upgrade()
            && let Some(batches) = &state.batches
        {
            batches.workers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl State {
    /// Whether the batch of a chunk is to be stopped.
    pub(super) async fn is_cancelling(&self, claim: &Claim) -> Result<bool, Error> {
        let batch = self.batches()?.journal.find(claim.chunk.key.batch).await.map_err(of_store)?;
        Ok(batch.is_some_and(|batch| batch.state == BatchState::Cancelling))
    }

    /// Whether a batch has no time for a job any more.
    async fn is_pressed(&self, batch: Option<&BatchRecord>) -> Result<bool, Error> {
        let Some(batch) = batch.filter(|batch| batch.deadline.is_some()) else { return Ok(false) };
        let batches = self.batches()?;
        let waiting = batches.journal.counts(batch.id).await.map_err(of_store)?.waiting;
        Ok(self.pressure(batches, batch, waiting) != Pressure::None)
    }

    /// Whether another job may be out.
    pub(super) async fn has_room(&self, claim: &Claim) -> Result<bool, Error> {
        let (batches, chunk) = (self.batches()?, &claim.chunk);
        if batches.journal.in_flight().await.map_err(of_store)? >= batches.options.jobs as u64 {
            return Ok(false);
        }
        let Some(submitter) = batches.submitter(chunk.route.upstream()) else { return Ok(true) };
        let enqueued = batches.journal.enqueued_tokens(&chunk.route).await.map_err(of_store)?;
        let most = submitter.limits().enqueued_tokens / 100 * ENQUEUED;
        // One that is larger than all that may wait is for the provider to judge.
        Ok(enqueued == 0 || enqueued.saturating_add(chunk.tokens) <= most)
    }

    async fn poll(self: &Arc<Self>, upstream: &UpstreamId, claims: &[&Claim]) -> Result<(), Error> {
        let (batches, now) = (self.batches()?, self.clock.now());
        let Some(submitter) = batches.submitter(upstream) else { return Ok(()) };
        // Those that came too late for the last list wait for the next one, unless somebody waits for their end.
        if !claims.iter().any(|claim| claim.chunk.state == ChunkState::Cancelling) && !batches.may_list(upstream, now) {
            let waiting = claims.iter().map(|claim| self.ask_later(batches, claim, now));
            return join_all(waiting).await.into_iter().collect();
        }
        let ids: Vec<RemoteId> =
            claims.iter().filter_map(|claim| claim.chunk.remote_id.as_deref()).map(RemoteId::from).collect();
        let (statuses, was_told) = match submitter.status(&ids).await {
            Ok(statuses) => (statuses, true),
            Err(error) => {
                tracing::warn!(%error, "the provider does not say how its jobs stand");
                (Vec::new(), false)
            }
        };
        let by_id: HashMap<&str, &RemoteStatus> = statuses.iter().map(|status| (status.id.as_str(), status)).collect();
        let heard = claims.iter().map(|claim| {
            let status = claim.chunk.remote_id.as_deref().and_then(|id| by_id.get(id)).copied();
            self.hear(batches, claim, status, (submitter, was_told))
        });
        // All at once: the store writes together what comes together.
        let heard = join_all(heard).await;
        batches.moved();
        heard.into_iter().collect()
    }

    /// Leaves a job to the next list.
    async fn ask_later(&self, batches: &Batches, claim: &Claim, now: SystemTime) -> Result<(), Error> {
        let chunk = &claim.chunk;
        let next_at = Some(next_poll(passed(chunk.since, now), now, batches.options.poll));
        let (from, change) = ([chunk.state], Change { next_at, ..Change::default() });
        batches.journal.step(chunk.key, claim.fence, &from, chunk.state, change, now).await.map_err(of_store)?;
        Ok(())
    }

    /// Writes down how a job stands.
    async fn hear(
        self: &Arc<Self>,
        batches: &Batches,
        claim: &Claim,
        status: Option<&RemoteStatus>,
        (submitter, was_told): (&Arc<dyn BatchSubmitter>, bool),
    ) -> Result<(), Error> {
        let (chunk, now) = (&claim.chunk, self.clock.now());
        self.tell_if_stuck(batches, chunk, status, now);
        let stopped;
        if status.is_some() {
            batches.was_seen(&chunk.key);
        }
        if status.is_some_and(RemoteStatus::is_unheard) {
            return self.ask_later(batches, claim, now).await;
        }
        let status = match status {
            Some(status) if chunk.state == ChunkState::Cancelling && !status.phase.is_final() => {
                stopped = self.stop_job(submitter, status).await;
                &stopped
            }
            Some(status) => status,
            None => {
                let unseen = if was_told { passed(batches.unseen_since(chunk.key, now), now) } else { Duration::ZERO };
                // Nobody waits for the end of one that is to be stopped.
                let is_lost = unseen > if chunk.state == ChunkState::Cancelling { UNSEEN } else { LOST };
                if unseen > UNSEEN
                    && let Some(id) = &chunk.remote_id
                {
                    let title =
                        || format!("the provider does not know batch job {id}: is the key that of its project?");
                    self.tell_once(AlertKind::BatchStuck, id, title);
                }
                let change = Change {
                    next_at: Some(if is_lost {
                        now
                    } else {
                        next_poll(passed(chunk.since, now), now, batches.options.poll)
                    }),
                    remote_status: is_lost.then(|| "FAILED".into()),
                    error: is_lost.then(|| "the provider does not know the job any more".into()),
                    ..Change::default()
                };
                let to = if is_lost { ChunkState::Ended } else { chunk.state };
                let from = [chunk.state];
                batches.journal.step(chunk.key, claim.fence, &from, to, change, now).await.map_err(of_store)?;
                return Ok(());
            }
        };
        self.stop_twins(batches, claim, status).await?;
        if chunk.state == ChunkState::Running && !status.phase.is_final() && self.is_cancelling(claim).await? {
            batches.journal.hurry(chunk.key, now).await.map_err(of_store)?;
            return Ok(());
        }
        let is_final = status.phase.is_final();
        let change = Change {
            remote_status: Some(status.phase.as_str().into()),
            percent: status.percent,
            output_file: status.output_file.clone(),
            error_file: status.error_file.clone(),
            error: status.error.clone(),
            next_at: Some(if is_final { now } else { next_poll(passed(chunk.since, now), now, batches.options.poll) }),
            ..Change::default()
        };
        let (from, to) = ([chunk.state], if is_final { ChunkState::Ended } else { chunk.state });
        batches.journal.step(chunk.key, claim.fence, &from, to, change, now).await.map_err(of_store)?;
        Ok(())
    }

    /// Asks for the end of a job; what cannot be heard now is asked again.
    async fn stop_job(&self, submitter: &Arc<dyn BatchSubmitter>, status: &RemoteStatus) -> RemoteStatus {
        if status.phase == Phase::Cancelling {
            return status.clone();
        }
        submitter.cancel(&status.id).await.unwrap_or_else(|error| {
            tracing::warn!(job = %status.id, error = %of_batch(&error), "a job could not be stopped; it is asked again");
            status.clone()
        })
    }

    /// Has jobs stopped that came of the same lines, and a person told: what they have done is paid as well, and read.
    async fn stop_twins(
        self: &Arc<Self>,
        batches: &Batches,
        claim: &Claim,
        status: &RemoteStatus,
    ) -> Result<(), Error> {
        for twin in &status.twins {
            let key = claim.chunk.key;
            if batches.journal.adopt_twin(key, twin.as_str(), self.clock.now()).await.map_err(of_store)? {
                let id = &status.id;
                let title =
                    || format!("batch job {twin} has the lines of {id}: it is stopped, and paid for what it did");
                self.tell_batch(AlertKind::BatchFailed, twin.as_str(), title);
            }
        }
        Ok(())
    }
}

/// How the job of a chunk stood when it was last asked after.
fn status_of(chunk: &ChunkRow) -> Option<RemoteStatus> {
    let id = RemoteId::from(chunk.remote_id.as_deref()?);
    let mut status = RemoteStatus::new(id, Phase::from(chunk.remote_status.as_deref().unwrap_or_default()));
    status.percent = chunk.percent;
    status.output_file.clone_from(&chunk.output_file);
    status.error_file.clone_from(&chunk.error_file);
    status.error.clone_from(&chunk.error);
    Some(status)
}

/// When a job is first asked after that was submitted now. The next moment is left out where it is near: jobs are asked
/// after together by then, and this one would need a list of its own.
pub(super) fn first_poll(now: SystemTime, every: Duration) -> SystemTime {
    next_poll(Duration::ZERO, now.checked_add(every / 2).unwrap_or(now), every)
}

/// When a job is asked after next: all jobs of all batches at the same moments, so that one list call tells of them.
pub(super) fn next_poll(runs: Duration, now: SystemTime, every: Duration) -> SystemTime {
    let every = if runs >= LONG { every.saturating_mul(2) } else { every };
    let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let next = (millis / every + 1).saturating_mul(every);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(next)).unwrap_or(now)
}
