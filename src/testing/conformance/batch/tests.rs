use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_core::{future::BoxFuture, stream::BoxStream};
use futures_util::stream;
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::batch::Limits;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    LosesALine,
    CountsWrongly,
    EndsWithoutEnd,
    AnswersTwice,
    ReadsTheWholeFile,
    CreatesAgain,
    CreatesAgainOnceEnded,
    TakesTooManyLines,
    TakesTooManyBytes,
    TakesAnyPath,
    InventsJobs,
    TellsTwice,
    ForgetsJobs,
    ResultsEarly,
    CancelFailsOnceEnded,
    CancelsTheUnknown,
    ChangesItsMind,
    Hangs,
    Panics,
}

struct Job {
    name: Box<str>,
    ids: Vec<String>,
    until: Instant,
    cancelled: bool,
}

/// A provider in memory, with one fault. A job takes ten minutes of tokio's time.
struct Kept {
    fault: Fault,
    jobs: Mutex<Vec<Job>>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept {
    fn at(id: &RemoteId) -> Option<usize> {
        id.as_str().strip_prefix("job-")?.parse().ok()
    }

    fn told(&self, at: usize) -> Option<RemoteStatus> {
        let jobs = self.jobs.lock().unwrap();
        let job = jobs.get(at)?;
        let ended = job.until <= Instant::now();
        let phase = match (ended, job.cancelled) {
            (true, true) => Phase::Cancelled,
            (true, false) => Phase::Completed,
            (false, true) => Phase::Cancelling,
            (false, false) => Phase::InProgress,
        };
        let mut status = RemoteStatus::new(RemoteId::from(format!("job-{at}")), phase);
        status.output_file = ended.then(|| "out".into());
        Some(status)
    }
}

fn lines(chunk: &Chunk, fault: Fault) -> Vec<String> {
    let bytes = match &chunk.body {
        ChunkBody::Bytes(bytes) => bytes.to_vec(),
        ChunkBody::File { path, offset, len } => {
            let all = std::fs::read(path).unwrap();
            let [from, until] = [*offset, *offset + *len].map(|at| usize::try_from(at).unwrap());
            if fault == Fault::ReadsTheWholeFile { all } else { all[from..until].to_vec() }
        }
    };
    let text = String::from_utf8(bytes).unwrap();
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["custom_id"].as_str().unwrap().to_owned();
    text.lines().map(id).collect()
}

#[async_trait]
impl BatchSubmitter for Kept {
    async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, BatchError> {
        let limits = Limits { lines: u64::MAX, bytes: u64::MAX, ..Limits::default() };
        let limits = match self.fault {
            Fault::TakesTooManyLines => Limits { lines: u64::MAX, ..Limits::default() },
            Fault::TakesTooManyBytes if chunk.body.len() > 1_000_000 => return Ok("job-0".into()),
            Fault::TakesAnyPath => Limits { endpoints: vec![chunk.endpoint.clone()], ..limits },
            _ => Limits::default(),
        };
        limits.admit(chunk)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        match self.fault {
            Fault::Hangs => std::future::pending().await,
            Fault::Panics => panic!("no"),
            _ => {}
        }
        let mut jobs = self.jobs.lock().unwrap();
        let found = jobs.iter().position(|job| job.name == chunk.name && chunk.tried.is_some());
        let ended = found.is_some_and(|at| jobs[at].until <= Instant::now());
        let again = self.fault == Fault::CreatesAgain || (self.fault == Fault::CreatesAgainOnceEnded && ended);
        let at = found.filter(|_| !again).unwrap_or_else(|| {
            let until = Instant::now() + Duration::from_secs(600);
            jobs.push(Job { name: chunk.name.clone(), ids: lines(chunk, self.fault), until, cancelled: false });
            jobs.len() - 1
        });
        Ok(RemoteId::from(format!("job-{at}")))
    }

    async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError> {
        let mut at: Vec<usize> = ids.iter().filter_map(Self::at).collect();
        at.sort_unstable();
        if self.fault != Fault::TellsTwice {
            at.dedup();
        }
        if self.fault == Fault::ForgetsJobs {
            at.pop();
        }
        let mut told: Vec<_> = at.into_iter().filter_map(|at| self.told(at)).collect();
        if self.fault == Fault::InventsJobs {
            told.extend(
                ids.iter().filter(|id| Self::at(id).is_none()).map(|id| RemoteStatus::new(id.clone(), Phase::Failed)),
            );
        }
        Ok(told)
    }

    async fn results(&self, job: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError> {
        if !job.phase.is_final() && self.fault != Fault::ResultsEarly {
            return Err(BatchError::NotReady { id: job.id.clone() });
        }
        let mut ids = Vec::new();
        if job.output_file.is_some() {
            ids.clone_from(&self.jobs.lock().unwrap()[Self::at(&job.id).unwrap()].ids);
        }
        match self.fault {
            Fault::LosesALine => drop(ids.pop()),
            Fault::AnswersTwice => ids.extend(ids.first().cloned()),
            _ => {}
        }
        let mut read = ids.len() as u64;
        if self.fault == Fault::CountsWrongly {
            read += 1;
        }
        let row = |id: String| Row::Answer { custom_id: id.into(), status: 200, body: "{}".into() };
        let mut rows: Vec<_> = ids.into_iter().map(|id| Ok(row(id))).collect();
        if self.fault != Fault::EndsWithoutEnd {
            rows.push(Ok(Row::End { read }));
        }
        Ok(Box::pin(stream::iter(rows)))
    }

    async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError> {
        let not_found = || BatchError::NotFound { id: id.clone() };
        let told = match Self::at(id).and_then(|at| self.told(at)) {
            Some(told) => told,
            None if self.fault == Fault::CancelsTheUnknown => RemoteStatus::new(id.clone(), Phase::Cancelled),
            None => return Err(not_found()),
        };
        if told.phase.is_final() {
            return match self.fault {
                Fault::CancelFailsOnceEnded => Err(BatchError::Refused { reason: "ended".into() }),
                Fault::ChangesItsMind => Ok(RemoteStatus { phase: Phase::Completed, ..told }),
                _ => Ok(told),
            };
        }
        let at = Self::at(id).ok_or_else(not_found)?;
        self.jobs.lock().unwrap()[at].cancelled = true;
        self.told(at).ok_or_else(not_found)
    }
}

fn pace(time: Duration) -> BoxFuture<'static, ()> {
    Box::pin(tokio::time::advance(time))
}

async fn checked(fault: Fault) -> Result<(), Failure> {
    let kept = Arc::new(Kept { fault, jobs: Mutex::default() });
    let jobs = || kept.jobs.lock().unwrap().len();
    batch_submitter(&*kept, &"m".into(), &jobs, &pace).await?;
    batch_submitter(&kept, &"m".into(), &jobs, &pace).await
}

#[tokio::test(start_paused = true)]
async fn a_submitter_that_keeps_its_promises_passes() {
    checked(Fault::None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_broken_submitter_is_found_by_the_promise_that_it_breaks() {
    for (fault, promise) in [
        (Fault::LosesALine, "every line"),
        (Fault::CountsWrongly, "every line"),
        (Fault::EndsWithoutEnd, "every line"),
        (Fault::AnswersTwice, "every line"),
        (Fault::Hangs, "every line"),
        (Fault::Panics, "every line"),
        (Fault::ForgetsJobs, "every line"),
        (Fault::ReadsTheWholeFile, "a range"),
        (Fault::CreatesAgain, "a chunk that is submitted again"),
        (Fault::CreatesAgainOnceEnded, "a chunk that is submitted again"),
        (Fault::TakesTooManyLines, "what is above"),
        (Fault::TakesTooManyBytes, "what is above"),
        (Fault::TakesAnyPath, "what is above"),
        (Fault::InventsJobs, "status tells"),
        (Fault::TellsTwice, "status tells"),
        (Fault::ResultsEarly, "results are not there"),
        (Fault::CancelFailsOnceEnded, "cancelling"),
        (Fault::ChangesItsMind, "cancelling"),
        (Fault::CancelsTheUnknown, "cancelling"),
    ] {
        let failure = checked(fault).await.unwrap_err();
        assert!(failure.promise.starts_with(promise), "{fault:?}: {failure}");
    }
}
