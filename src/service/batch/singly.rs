//! Lines that are answered one by one: few that are left, those of models that take no batches, those that are short of
//! time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    Batches, of_store, row,
    submit::{is_damaged, of_spool, passed},
};
use crate::{
    batch::{
        Change, ChunkState, Claim, LineError, LineErrorKind, LineRef, LineState, Outcome, Output, RequestsFile,
        Settling, Way,
    },
    inference::InferenceResponse,
    service::{Error, ErrorKind, state::State},
    types::Usd,
};

/// How long a line may take, with all its attempts.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a chunk is worked on at a time: there are others, and some are late.
const TURN: Duration = Duration::from_secs(60);
/// With less left before the deadline no other line is asked.
const LEAST: Duration = Duration::from_secs(1);
/// How long answers rest in memory that the disk does not take.
const FULL: Duration = Duration::from_secs(5);
/// What the disk must take before lines are asked that are paid.
const ROOM: usize = 1 << 20;

/// A line that was asked, and what came of it.
type Asked = (LineRef, Result<InferenceResponse, Error>);

/// Answers of a chunk on their way to the disk and into the journal.
struct Desk<'a> {
    claim: &'a Claim,
    output: Output,
    /// Not on the disk yet.
    unwritten: Vec<(Vec<u8>, Outcome)>,
    /// On the disk, and not in the journal yet.
    written: Vec<Outcome>,
}

impl State {
    /// Answers the lines of a chunk that wait, each written down as it comes, for a while: what is left is for another
    /// turn. Where `lapsed` says that somebody else may have the chunk, no other line is begun.
    pub(crate) async fn answer_singly(self: &Arc<Self>, claim: &Claim, lapsed: &AtomicBool) -> Result<(), Error> {
        let batches = self.batches()?;
        let (key, now) = (claim.chunk.key, self.clock.now());
        let (from, change) = ([ChunkState::Planned, ChunkState::Running], Change::default());
        let journal = &batches.journal;
        if !journal.step(key, claim.fence, &from, ChunkState::Running, change, now).await.map_err(of_store)? {
            return Ok(());
        }
        let by = journal.find(key.batch).await.map_err(of_store)?.and_then(|batch| batch.deadline);
        let lines = journal.lines_of(key).await.map_err(of_store)?;
        let requests = journal.requests(key.batch).map_err(of_spool)?;
        let output = journal.output(&key, claim.fence).and_then(|output| output.with_room(ROOM)).map_err(of_spool)?;
        let mut desk = Desk { claim, output, unwritten: Vec::new(), written: Vec::new() };
        let begun = Instant::now();
        let (stop, mut stopped, mut is_done, mut count) = (AtomicBool::new(false), None, true, 0);
        let has_time = || by.is_none_or(|by| passed(self.clock.now(), by) >= LEAST);
        let may_begin = || {
            let is_stopped = stop.load(Ordering::Relaxed) || lapsed.load(Ordering::Relaxed);
            !is_stopped && begun.elapsed() < TURN && has_time()
        };
        // What was begun is ended, also where no other line is to begin: it is paid.
        let answers = stream::iter(lines)
            .map(async |line| if may_begin() { Some(self.answer_line(&requests, line, by).await) } else { None });
        let mut answers = std::pin::pin!(answers.buffer_unordered(batches.options.calls.max(1)).ready_chunks(64));
        while let Some(asked) = answers.next().await {
            is_done &= asked.iter().all(Option::is_some);
            for (line, answer) in asked.into_iter().flatten() {
                match answer {
                    // Not the line's fault: it waits until somebody has seen to that.
                    Err(error) if stops_all(error.kind()) => {
                        stop.store(true, Ordering::Relaxed);
                        stopped = Some(error);
                    }
                    answer => {
                        // What the cache answers says nothing of how quick calls are.
                        count += usize::from(answer.as_ref().is_ok_and(|answer| !answer.source.is_cached()));
                        desk.take(&line, answer);
                    }
                }
            }
            match desk.write(batches).await {
                Ok(true) => batches.moved(),
                Ok(false) => return Ok(()),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    stopped = Some(error);
                }
            }
            match self.is_cancelling(claim).await {
                Ok(false) => {}
                Ok(true) => {
                    stop.store(true, Ordering::Relaxed);
                    is_done = false;
                }
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    stopped = Some(error);
                }
            }
        }
        self.write_in_the_end(batches, &mut desk).await?;
        if let Some(error) = stopped {
            return Err(error);
        }
        batches.learn_rate(count, begun.elapsed());
        if !is_done {
            let rest = if has_time() { Duration::ZERO } else { FULL };
            return self.let_rest(claim, ChunkState::Running, (rest, None)).await;
        }
        let (from, to) = (vec![ChunkState::Running], ChunkState::Settled);
        let how = Settling { from, to, outcomes: Vec::new(), tried: false, late: 0 };
        journal.settle(key, claim.fence, how, self.clock.now()).await.map_err(of_store)?;
        batches.moved();
        Ok(())
    }

    /// What is paid is kept in memory until disk and journal take it, or the service ends.
    async fn write_in_the_end(self: &Arc<Self>, batches: &Batches, desk: &mut Desk<'_>) -> Result<(), Error> {
        while let Err(error) = desk.write(batches).await {
            if self.closed.load(Ordering::Acquire) {
                return Err(error);
            }
            tracing::warn!(batch = %desk.claim.chunk.key.batch, %error, "paid answers wait until they can be written");
            tokio::time::sleep(FULL).await;
        }
        Ok(())
    }

    /// Asks for an answer that comes before the deadline.
    async fn answer_line(self: &Arc<Self>, requests: &RequestsFile, line: LineRef, by: Option<SystemTime>) -> Asked {
        let left = by.map_or(PATIENCE, |by| passed(self.clock.now(), by));
        let request = match self.request_at(requests, line.request) {
            Ok(request) => request.deadline(PATIENCE.min(left)),
            Err(error) if is_damaged(&error) => {
                return (line, Err(Error::new(ErrorKind::InvalidRequest, "the request is damaged on the disk")));
            }
            Err(error) => return (line, Err(of_spool(error))),
        };
        let answer = match self.begin() {
            Ok(_in_flight) => Box::pin(self.complete(Arc::new(request))).await,
            Err(error) => Err(error),
        };
        (line, answer)
    }
}

impl Desk<'_> {
    /// Takes what came of a line.
    fn take(&mut self, line: &LineRef, answer: Result<InferenceResponse, Error>) {
        self.unwritten.push(outcome(line, answer, self.claim.chunk.way));
    }

    /// Has the disk take what came, and then the journal; what was not taken stays. `false`: the chunk is somebody else's.
    async fn write(&mut self, batches: &Batches) -> Result<bool, Error> {
        let (key, fence, journal) = (self.claim.chunk.key, self.claim.fence, &batches.journal);
        if !self.unwritten.is_empty() {
            match self.write_rows() {
                Ok(written) => self.written.extend(written),
                Err(error) => {
                    // Nobody knows where the next row would stand in that file.
                    self.output = journal.output_anew(&key, fence).map_err(of_spool)?;
                    return Err(of_spool(error));
                }
            }
            self.unwritten.clear();
        }
        if self.written.is_empty() {
            return Ok(true);
        }
        let is_ours = journal.settle_lines(key, fence, self.written.clone()).await.map_err(of_store)?;
        self.written.clear();
        Ok(is_ours)
    }

    fn write_rows(&mut self) -> io::Result<Vec<Outcome>> {
        let mut written = Vec::with_capacity(self.unwritten.len());
        for (row, outcome) in &self.unwritten {
            written.push(Outcome { answer: Some(self.output.append(row)?), ..outcome.clone() });
        }
        self.output.sync()?;
        Ok(written)
    }
}

impl Batches {
    /// How many lines a second are answered one by one: as measured of late, else two.
    pub(super) fn rate(&self) -> f64 {
        let per_hour = self.lines_per_hour.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = per_hour as f64 / 3_600.0;
        if per_hour == 0 { 2.0 } else { rate }
    }

    fn learn_rate(&self, lines: usize, took: Duration) {
        let millis = took.as_millis().max(1);
        if lines >= 8 {
            let per_hour = (lines as u128 * 3_600_000 / millis).clamp(1, u128::from(u32::MAX));
            let per_hour = u64::try_from(per_hour).unwrap_or(u64::MAX);
            self.lines_per_hour.store(per_hour, Ordering::Relaxed);
        }
    }
}

/// Whether no other line will fare better now.
const fn stops_all(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ShuttingDown
            // Nobody was asked: it was no try.
            | ErrorKind::Ejected
            | ErrorKind::UpstreamAuthentication
            | ErrorKind::UpstreamPayment
            | ErrorKind::OverBudget
            | ErrorKind::Store
    )
}

/// What became of a line, and the row that says so.
fn outcome(line: &LineRef, answer: Result<InferenceResponse, Error>, way: Way) -> (Vec<u8>, Outcome) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return failed(line, &error),
    };
    let outcome = Outcome {
        usage: if answer.source.is_upstream() { answer.answer.usage } else { crate::types::Usage::ZERO },
        cost: answer.cost.known().map(Usd::nanos),
        cached: answer.source.is_cached(),
        singly: true,
        rescued: way == Way::Rescue,
        ..Outcome::new(line.index, LineState::Done)
    };
    match row::of_answer(&answer.answer) {
        Ok(row) => (row, outcome),
        Err(_) => {
            let error = LineError::new(LineErrorKind::Unreadable, "", "the answer cannot be written");
            let failure = Some((error.kind.as_str().into(), "".into(), "".into()));
            (row::of_error(&error), Outcome { state: LineState::Failed, failure, ..outcome })
        }
    }
}

fn failed(line: &LineRef, error: &Error) -> (Vec<u8>, Outcome) {
    let (kind, state) = if error.is_retryable() {
        (LineErrorKind::Transient, LineState::Waiting)
    } else {
        (LineErrorKind::Invalid, LineState::Failed)
    };
    let code = error.kind().as_str();
    let row = row::of_error(&LineError::new(kind, code, error.to_string()));
    let failure = Some((kind.as_str().into(), code.into(), "".into()));
    let cost = error.cost().known().map(Usd::nanos);
    (row, Outcome { cost, failure, ..Outcome::new(line.index, state) })
}
