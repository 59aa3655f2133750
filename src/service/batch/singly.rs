//! Lines that are answered one by one: few that are left, those of models that take no batches, those that are short of
//! time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{Batches, of_store, row, submit::of_spool};
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

impl State {
    /// Answers the lines of a chunk that wait, each written down as it comes.
    pub(crate) async fn answer_singly(self: &Arc<Self>, claim: &Claim) -> Result<(), Error> {
        let batches = self.batches()?;
        let (key, now) = (claim.chunk.key, self.clock.now());
        let (from, change) = ([ChunkState::Planned, ChunkState::Running], Change::default());
        let journal = &batches.journal;
        if !journal.step(key, claim.fence, &from, ChunkState::Running, change, now).await.map_err(of_store)? {
            return Ok(());
        }
        let lines = journal.lines_of(key).await.map_err(of_store)?;
        let requests = journal.requests(key.batch).map_err(of_spool)?;
        let mut output = journal.output(&key, claim.fence).map_err(of_spool)?;
        let begun = Instant::now();
        let count = lines.len();
        let (stop, mut stopped) = (AtomicBool::new(false), None);
        // What was begun is ended, also where no other line is to begin.
        let answers = stream::iter(lines).map(async |line| {
            if stop.load(Ordering::Relaxed) { None } else { Some(self.answer_line(&requests, line).await) }
        });
        let mut answers = std::pin::pin!(answers.buffer_unordered(batches.options.calls.max(1)).ready_chunks(64));
        while let Some(answered) = answers.next().await {
            let mut outcomes = Vec::new();
            for (line, answer) in answered.into_iter().flatten() {
                match answer {
                    // Not the line's fault: it waits until somebody has seen to that.
                    Err(error) if stops_all(error.kind()) => {
                        stop.store(true, Ordering::Relaxed);
                        stopped = Some(error);
                    }
                    answer => outcomes.push(outcome(&mut output, &line, answer, claim.chunk.way)?),
                }
            }
            output.sync().map_err(of_spool)?;
            if !journal.settle_lines(key, claim.fence, outcomes).await.map_err(of_store)? {
                return Ok(());
            }
            batches.moved();
            if self.is_cancelling(claim).await? {
                return self.drop_chunk(claim).await;
            }
        }
        if let Some(error) = stopped {
            return Err(error);
        }
        batches.learn_rate(count, begun.elapsed());
        let (from, to) = (vec![ChunkState::Running], ChunkState::Settled);
        let how = Settling { from, to, outcomes: Vec::new(), tried: false, late: 0 };
        journal.settle(key, claim.fence, how, self.clock.now()).await.map_err(of_store)?;
        batches.moved();
        Ok(())
    }

    async fn answer_line(
        self: &Arc<Self>,
        requests: &RequestsFile,
        line: LineRef,
    ) -> (LineRef, Result<InferenceResponse, Error>) {
        let request = match self.request_at(requests, line.request) {
            Ok(request) => request.deadline(PATIENCE),
            Err(error) => return (line, Err(of_spool(error))),
        };
        let answer = match self.begin() {
            Ok(_in_flight) => Box::pin(self.complete(Arc::new(request))).await,
            Err(error) => Err(error),
        };
        (line, answer)
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
            | ErrorKind::UpstreamAuthentication
            | ErrorKind::UpstreamPayment
            | ErrorKind::OverBudget
            | ErrorKind::Store
    )
}

/// What became of a line.
fn outcome(
    output: &mut Output,
    line: &LineRef,
    answer: Result<InferenceResponse, Error>,
    way: Way,
) -> Result<Outcome, Error> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return failed(output, line, &error),
    };
    let bytes = row::of_answer(&answer.answer).map_err(|error| of_spool(io::Error::other(error)))?;
    let place = output.append(&bytes).map_err(of_spool)?;
    Ok(Outcome {
        answer: Some(place),
        usage: if answer.source.is_upstream() { answer.answer.usage } else { crate::types::Usage::ZERO },
        cost: answer.cost.known().map(Usd::nanos),
        cached: answer.source.is_cached(),
        singly: true,
        rescued: way == Way::Rescue,
        ..Outcome::new(line.index, LineState::Done)
    })
}

fn failed(output: &mut Output, line: &LineRef, error: &Error) -> Result<Outcome, Error> {
    let (kind, state) = if error.is_retryable() {
        (LineErrorKind::Transient, LineState::Waiting)
    } else {
        (LineErrorKind::Invalid, LineState::Failed)
    };
    let code = error.kind().as_str();
    let place = output.append(&row::of_error(&LineError::new(kind, code, error.to_string()))).map_err(of_spool)?;
    let failure = Some((kind.as_str().into(), code.into(), "".into()));
    let cost = error.cost().known().map(Usd::nanos);
    Ok(Outcome { answer: Some(place), failure, cost, ..Outcome::new(line.index, state) })
}
