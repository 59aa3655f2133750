//! What the caller holds of a batch: how far it is, what came of it.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use futures_core::Stream;
use tokio::{sync::watch, time::timeout};

use super::{Batches, USUAL, of_store, results::BatchRows, submit::passed};
use crate::{
    batch::{
        BatchId, BatchPhase, BatchProgress, BatchRecord as Batch, BatchReport, BatchState, ChunkRow, ChunkState,
        Counts, Done, JobSummary, LineError, LineErrorKind, LineFailure, LineRow, Way,
    },
    service::{Error, ErrorKind, InferenceService, state::State},
    types::Usd,
};

/// How often a ticket looks where nothing of this process tells it: other processes work on the batch, too.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// Failures that are read together.
const PAGE: usize = 1_000;

/// A batch that was submitted. Dropping it cancels nothing; it is found again by its id or name.
///
/// Awaiting it waits for the end of the batch, and gives its [report](BatchReport).
#[derive(Clone, Debug)]
pub struct BatchTicket {
    service: InferenceService,
    id: BatchId,
}

/// What becomes of the answers of a batch that is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancel {
    /// What has finished is read and kept: it is paid.
    KeepFinished,
}

impl BatchTicket {
    pub(super) const fn new(service: InferenceService, id: BatchId) -> Self {
        Self { service, id }
    }

    /// What it is found again by.
    #[must_use]
    pub const fn id(&self) -> BatchId {
        self.id
    }

    /// How far it is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] where it cannot be read, [`ErrorKind::NoBatch`] where it was discarded.
    pub async fn status(&self) -> Result<BatchProgress, Error> {
        let state = &self.service.state;
        let batches = state.batches()?;
        let batch = self.row(batches).await?;
        let counts = batches.journal.counts(self.id).await.map_err(of_store)?;
        let chunks = batches.journal.chunks(self.id).await.map_err(of_store)?;
        Ok(progress(&batch, &counts, &chunks, state.clock.now()))
    }

    /// How far it is, whenever that changes, until its end; a slow reader gets the latest alone.
    pub fn progress(&self) -> impl Stream<Item = Result<BatchProgress, Error>> + Send + use<> {
        let ticket = self.clone();
        futures_util::stream::unfold(Some((ticket, None)), |last| async {
            let (ticket, before): (Self, Option<BatchProgress>) = last?;
            match ticket.progress_after(before.as_ref()).await {
                Ok(now) => {
                    let next = (now.phase != BatchPhase::Finished).then(|| (ticket, Some(now.clone())));
                    Some((Ok(now), next))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn progress_after(&self, before: Option<&BatchProgress>) -> Result<BatchProgress, Error> {
        let state = &self.service.state;
        let batches = state.batches()?;
        loop {
            let moved = batches.moved.subscribe();
            let mut now = self.status().await?;
            let Some(before) = before else { return Ok(now) };
            now.never_before(before);
            let same = BatchProgress { elapsed: before.elapsed, eta: before.eta, ..now.clone() } == *before;
            if !same {
                return Ok(now);
            }
            state.wait_for_batch(batches, moved, LOOK).await?;
        }
    }

    /// Its rows in the order in which they arrive.
    pub fn results(&self) -> BatchRows {
        BatchRows::new(self.service.clone(), self.id, false)
    }

    /// Its rows in the order in which the lines were given: one that is not there yet is waited for.
    pub fn results_in_order(&self) -> BatchRows {
        BatchRows::new(self.service.clone(), self.id, true)
    }

    /// Its rows as values of a type, in the order in which the lines were given.
    #[cfg(feature = "schema")]
    pub fn results_as<T>(&self) -> super::results::TypedRows<T>
    where
        T: schemars::JsonSchema + serde::de::DeserializeOwned,
    {
        super::results::TypedRows::new(self.results_in_order())
    }

    /// Stops it: nothing more is submitted, jobs are asked to stop. What has finished is kept, and paid.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] where that cannot be written down. `false`: it was over or cancelled already.
    pub async fn cancel(&self, how: Cancel) -> Result<bool, Error> {
        let Cancel::KeepFinished = how;
        let state = &self.service.state;
        let batches = state.batches()?;
        let now = state.clock.now();
        let cancelled = batches.journal.cancel(self.id, now).await.map_err(of_store)?;
        for chunk in batches.journal.chunks(self.id).await.map_err(of_store)? {
            if chunk.state == ChunkState::Running && chunk.way == Way::Batch {
                batches.journal.hurry(chunk.key, now).await.map_err(of_store)?;
            }
        }
        batches.moved();
        Ok(cancelled)
    }

    /// Forgets it once it is over: its rows and files are gone and its name is free again; its costs stay in the ledger.
    /// Without this it is forgotten when its [retention](super::BatchOptions::retention) is over.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`] while it is not over or a job of it is still being stopped,
    /// [`ErrorKind::Store`] where it cannot be forgotten.
    ///
    /// # Cancellation
    ///
    /// Dropping the future forgets it or leaves it whole; files that are left then are deleted by the next worker.
    pub async fn discard(self) -> Result<(), Error> {
        let batches = self.service.state.batches()?;
        if self.row(batches).await?.finished.is_none() {
            return Err(Error::new(ErrorKind::InvalidRequest, "the batch is not over; cancel it first"));
        }
        if batches.journal.discard(self.id).await.map_err(of_store)? {
            return Ok(());
        }
        let message = "a job of the batch is still being stopped; what it has done is yet to be read: discard it later";
        Err(Error::new(ErrorKind::InvalidRequest, message))
    }

    /// Waits for its end.
    async fn report(self) -> Result<BatchReport, Error> {
        let state = &self.service.state;
        let batches = state.batches()?;
        loop {
            let moved = batches.moved.subscribe();
            let batch = self.row(batches).await?;
            if let Some(finished) = batch.finished {
                let counts = batches.journal.counts(self.id).await.map_err(of_store)?;
                let chunks = batches.journal.chunks(self.id).await.map_err(of_store)?;
                let failed = self.failures(batches).await?;
                return Ok(BatchReport {
                    id: self.id,
                    name: batch.name,
                    total: batch.total,
                    succeeded: counts.done,
                    failed,
                    cancelled: counts.cancelled,
                    from_cache: counts.cached,
                    deduplicated: counts.duplicates,
                    retried: counts.retried,
                    rescued: counts.rescued,
                    rounds: batch.round + 1,
                    double_billed: chunks.iter().map(|chunk| chunk.late).sum(),
                    jobs: chunks.into_iter().filter_map(job).collect(),
                    usage: counts.usage,
                    cost: Usd::from_nanos(counts.cost),
                    unpriced_lines: counts.unpriced,
                    started: batch.created,
                    finished,
                });
            }
            state.wait_for_batch(batches, moved, LOOK).await?;
        }
    }

    async fn failures(&self, batches: &Batches) -> Result<Vec<LineFailure>, Error> {
        let (mut failures, mut from) = (Vec::new(), 0);
        loop {
            let page = batches.journal.failures(self.id, from, PAGE).await.map_err(of_store)?;
            let Some(last) = page.last() else { return Ok(failures) };
            from = last.index + 1;
            let billed = |line: &LineRow| (line.attempts, Usd::from_nanos(line.cost.unwrap_or_default()));
            let tried: Vec<_> = page.iter().map(billed).collect();
            let rows = self.service.state.rows_of(self.id, page).await?;
            for (row, (attempts, billed)) in rows.into_iter().zip(tried) {
                let unknown = || LineError::new(LineErrorKind::Other, "", "no more is known");
                let error = row.result.err().unwrap_or_else(unknown);
                failures.push(LineFailure { index: row.index, id: row.id, error, attempts, billed });
            }
        }
    }

    async fn row(&self, batches: &Batches) -> Result<Batch, Error> {
        let found = batches.journal.find(self.id).await.map_err(of_store)?;
        found.ok_or_else(|| super::no_batch(&self.id.to_string()))
    }
}

impl IntoFuture for BatchTicket {
    type Output = Result<BatchReport, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Waits for the end of the batch.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.report())
    }
}

impl State {
    /// Waits until something has moved, so long at most. An error where nobody works on batches: it would wait for ever.
    pub(super) async fn wait_for_batch(
        self: &Arc<Self>,
        batches: &Batches,
        mut moved: watch::Receiver<u64>,
        most: Duration,
    ) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::ShuttingDown, "the service works on no batches any more"));
        }
        self.ensure_background();
        let nobody = || batches.workers.load(Ordering::Acquire) == 0;
        if nobody() && !batches.journal.has_worker(self.clock.now()).await.map_err(of_store)? {
            // One of this service has just been started.
            if self.backgrounds.are_some() && timeout(LOOK, moved.changed()).await.is_ok() && !nobody() {
                return Ok(());
            }
            let message = "nobody works on the batches of this store: add .background(Pipeline::new()) to the builder of \
                           a service that has it";
            return Err(Error::new(ErrorKind::NoWorker, message));
        }
        // A service that is gone tells nobody any more; the next look says what is.
        let _ = timeout(most, moved.changed()).await;
        Ok(())
    }
}

fn job(chunk: ChunkRow) -> Option<JobSummary> {
    Some(JobSummary {
        id: chunk.remote_id?,
        round: chunk.key.round,
        route: chunk.route,
        lines: chunk.lines,
        status: chunk.remote_status.unwrap_or_default(),
        error: chunk.error,
    })
}

fn progress(batch: &Batch, counts: &Counts, chunks: &[ChunkRow], now: SystemTime) -> BatchProgress {
    let is_out = |chunk: &&ChunkRow| {
        chunk.way == Way::Batch
            && matches!(chunk.state, ChunkState::Running | ChunkState::Cancelling | ChunkState::Ended)
    };
    let out = || chunks.iter().filter(is_out);
    let sent: u64 = chunks.iter().filter(|chunk| chunk.remote_id.is_some()).map(|chunk| chunk.lines).sum();
    let in_jobs: u64 = out().map(|chunk| chunk.lines).sum();
    // In hundredths of lines.
    let worked: f64 = out().map(|chunk| f64::from(chunk.percent.unwrap_or(0.0)) * lines_f64(chunk.lines)).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count that is at most the total")]
    let estimated = (worked / 100.0).max(0.0) as u64;
    #[expect(clippy::cast_possible_truncation, reason = "a percentage")]
    let server_percent = (in_jobs > 0).then(|| (worked / lines_f64(in_jobs)) as f32);
    let done = match estimated.min(counts.waiting) {
        0 => Done::Exact(counts.done),
        more => Done::Estimated(counts.done + more),
    };
    let phase = match batch.state {
        BatchState::Finished => BatchPhase::Finished,
        BatchState::Cancelling => BatchPhase::Cancelling,
        _ if sent > 0 || counts.done > counts.cached => BatchPhase::Running,
        _ => BatchPhase::Planned,
    };
    BatchProgress {
        phase,
        total: batch.total,
        cached: counts.cached,
        sent: sent.min(batch.total),
        done,
        failed: counts.failed,
        round: batch.round,
        server_percent,
        elapsed: passed(batch.created, now),
        eta: (phase != BatchPhase::Finished).then(|| eta(out(), counts.waiting, now)).flatten(),
        cost_so_far: Usd::from_nanos(counts.cost),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for a share")]
fn lines_f64(lines: u64) -> f64 {
    lines as f64
}

/// What is left at the pace of the jobs that are out, from when each was created to when it was last seen to be further:
/// nine of ten take half as long again. Nothing before a twentieth of theirs is done.
fn eta<'a>(out: impl Iterator<Item = &'a ChunkRow>, waiting: u64, now: SystemTime) -> Option<(Duration, Duration)> {
    let (mut lines, mut seen, mut done, mut worked, mut pace) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for chunk in out {
        lines += lines_f64(chunk.lines);
        let share = f64::from(chunk.percent.unwrap_or(0.0) / 100.0).clamp(0.0, 1.0);
        let took = passed(chunk.since, chunk.moved).as_secs_f64();
        if chunk.state != ChunkState::Running || share == 0.0 || took == 0.0 {
            continue;
        }
        let its_pace = lines_f64(chunk.lines) * share / took;
        seen += lines_f64(chunk.lines);
        worked += lines_f64(chunk.lines) * share;
        done += (its_pace * passed(chunk.since, now).as_secs_f64()).min(lines_f64(chunk.lines));
        pace += its_pace;
    }
    if worked == 0.0 || worked < lines * 0.05 {
        return None;
    }
    // Jobs that were not seen to move yet are taken to be as fast as the others.
    let left = (lines_f64(waiting) - done * lines / seen).max(0.0) / (pace * lines / seen);
    let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX).min(USUAL.1 * 24);
    Some((left, left.mul_f64(1.5)))
}
