//! What a [`BatchSubmitter`] promises.

use std::{
    collections::HashSet,
    io::Write,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;

use super::{Failure, Pace, Promise, begin_and_drop};
use crate::{
    batch::{BatchError, BatchSubmitter, Chunk, ChunkBody, Phase, RemoteId, RemoteStatus, Row},
    types::ModelId,
};

/// How often a job is looked at until it has ended, and how long apart.
const LOOKS: u32 = 2_000;
const BETWEEN_LOOKS: Duration = Duration::from_secs(60);

/// Checks what [`BatchSubmitter`] promises.
///
/// `model` is one that the provider has batches for, `jobs` tells how many jobs the provider has, and `pace` lets time
/// pass until they end. Some ten jobs of a few lines are made. Chunks that are submitted again say that they were tried
/// long ago.
///
/// ```
/// use std::sync::{Mutex, PoisonError};
/// use futures_core::stream::BoxStream;
/// use together_inference::{
///     batch::{BatchError, BatchSubmitter, Chunk, RemoteId, RemoteStatus, Row},
///     testing::conformance::{self, Failure},
/// };
///
/// /// Refuses everything: no batches.
/// #[derive(Debug)]
/// struct None;
///
/// #[async_trait::async_trait]
/// impl BatchSubmitter for None {
///     async fn submit(&self, _: &Chunk) -> Result<RemoteId, BatchError> {
///         Err(BatchError::Refused { reason: "no batches here".into() })
///     }
///     async fn status(&self, _: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError> {
///         Ok(Vec::new())
///     }
///     async fn results(&self, job: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError> {
///         Err(BatchError::NotFound { id: job.id.clone() })
///     }
///     async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError> {
///         Err(BatchError::NotFound { id: id.clone() })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let pace = |time| -> futures_core::future::BoxFuture<'static, ()> { Box::pin(tokio::time::advance(time)) };
/// let model = "zai-org/GLM-5.3".into();
/// let failure = conformance::batch_submitter(&None, &model, &|| 0, &pace).await.unwrap_err();
/// assert!(failure.to_string().contains("no batches here"));
/// # }
/// ```
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn batch_submitter(
    submitter: &dyn BatchSubmitter,
    model: &ModelId,
    jobs: &(dyn Fn() -> usize + Send + Sync),
    pace: Pace<'_>,
) -> Result<(), Failure> {
    let on = |promise| On { submitter, model, jobs, pace, promise: Promise(promise) };
    every_line_is_answered(&on("every line of a chunk is answered once, and the end counts the rows")).await?;
    a_range_is_its_lines(&on("a range of a file is the lines that are in it")).await?;
    a_chunk_is_one_job(&on("a chunk that is submitted again is the same job")).await?;
    lost_tries_are_found(&on("a submission that was dropped harms no other, and leaves one job at most")).await?;
    limits_are_kept(&on("what is above the limits is refused before anything is sent")).await?;
    status_tells_what_it_is_asked(&on("status tells of each job that is known once, and of no other")).await?;
    results_wait_for_the_end(&on("results are not there before the end, and a job without files has none")).await?;
    cancelling_twice_is_harmless(&on("cancelling tells how a job stands, also one that has ended")).await
}

struct On<'a> {
    submitter: &'a dyn BatchSubmitter,
    model: &'a ModelId,
    jobs: &'a (dyn Fn() -> usize + Send + Sync),
    pace: Pace<'a>,
    promise: Promise,
}

/// Different in every run, so that a provider that outlives one knows nothing of its lines.
static RUN: AtomicU64 = AtomicU64::new(0);

/// A name that no chunk had before.
fn name(what: &str) -> String {
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    format!("conformance-{}-{run}-{what}", std::process::id())
}

fn line_id(name: &str, line: usize) -> String {
    format!("{name}-0-{line}")
}

impl On<'_> {
    fn lines(&self, name: &str, count: usize) -> String {
        let line = |n| {
            let (id, model) = (line_id(name, n), self.model);
            let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
            serde_json::json!({"custom_id": id, "body": body}).to_string() + "\n"
        };
        (0..count).map(line).collect()
    }

    fn chunk(&self, name: &str, count: usize) -> Chunk {
        let lines = u64::try_from(count).unwrap_or(u64::MAX);
        Chunk::new(name, self.model.clone(), lines, ChunkBody::Bytes(self.lines(name, count).into()))
    }

    async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, Failure> {
        self.promise.done("submit", self.submitter.submit(chunk)).await
    }

    async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, Failure> {
        self.promise.done("status", self.submitter.status(ids)).await
    }

    /// How the job stands once it has ended.
    async fn ended(&self, id: &RemoteId) -> Result<RemoteStatus, Failure> {
        for _ in 0..LOOKS {
            match self.status(std::slice::from_ref(id)).await?.into_iter().find(|status| status.id == *id) {
                Some(status) if status.phase.is_final() => return Ok(status),
                Some(_) => (self.pace)(BETWEEN_LOOKS).await,
                None => return Err(self.promise.broken(format!("{id} was submitted but is not known"))),
            }
        }
        Err(self.promise.broken(format!("{id} does not end")))
    }

    /// All rows of a job, and what the end counts.
    async fn rows(&self, job: &RemoteStatus) -> Result<(Vec<Row>, u64), Failure> {
        let read = async {
            let (mut rows, mut read) = (Vec::new(), self.submitter.results(job).await?);
            while let Some(row) = read.next().await {
                rows.push(row?);
            }
            Ok::<_, BatchError>(rows)
        };
        let mut rows = self.promise.done("results", read).await?;
        match rows.pop() {
            Some(Row::End { read }) if !rows.iter().any(|row| matches!(row, Row::End { .. })) => Ok((rows, read)),
            _ => Err(self.promise.broken("the rows do not end with their end")),
        }
    }

    /// That each line has its row.
    async fn answered(&self, chunk: &Chunk, id: &RemoteId) -> Result<(), Failure> {
        let job = self.ended(id).await?;
        self.promise.same("the phase", &job.phase, &Phase::Completed)?;
        let (rows, read) = self.rows(&job).await?;
        self.promise.same("the rows that the end counts", read, u64::try_from(rows.len()).unwrap_or(u64::MAX))?;
        let ids = rows.into_iter().map(|row| match row {
            Row::Answer { custom_id, .. } | Row::Error { custom_id, .. } => Ok(custom_id.into()),
            row => Err(self.promise.broken(format!("{row:?} is of no line"))),
        });
        let mut ids: Vec<String> = ids.collect::<Result<_, _>>()?;
        let count = usize::try_from(chunk.lines).unwrap_or(usize::MAX);
        let mut wanted: Vec<String> = (0..count).map(|line| line_id(&chunk.name, line)).collect();
        ids.sort_unstable();
        wanted.sort_unstable();
        self.promise.same("the lines that have a row", ids, wanted)
    }
}

async fn every_line_is_answered(on: &On<'_>) -> Result<(), Failure> {
    let chunk = on.chunk(&name("lines"), 3);
    let id = on.submit(&chunk).await?;
    on.answered(&chunk, &id).await?;
    // A second reading finds the same.
    on.answered(&chunk, &id).await
}

/// A file that is gone when the suite is.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn a_range_is_its_lines(on: &On<'_>) -> Result<(), Failure> {
    let name = name("range");
    let spool = Spool(std::env::temp_dir().join(format!("{name}.jsonl")));
    let (before, lines, after) = (on.lines("before", 1), on.lines(&name, 2), on.lines("after", 1));
    let written = std::fs::File::create(&spool.0)
        .and_then(|mut file| file.write_all((before.clone() + &lines + &after).as_bytes()));
    on.promise.ok("writing a file of lines", written)?;
    let len = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX);
    let body = ChunkBody::File { path: spool.0.clone(), offset: len(&before), len: len(&lines) };
    let chunk = Chunk { body, ..on.chunk(&name, 2) };
    let id = on.submit(&chunk).await?;
    on.answered(&chunk, &id).await
}

async fn a_chunk_is_one_job(on: &On<'_>) -> Result<(), Failure> {
    let chunk = on.chunk(&name("again"), 1);
    let before = (on.jobs)();
    let id = on.submit(&chunk).await?;
    on.promise.same("new jobs", (on.jobs)() - before, 1)?;
    let again = chunk.tried(SystemTime::UNIX_EPOCH);
    on.promise.same("the job of the repeat", on.submit(&again).await?, id.clone())?;
    on.ended(&id).await?;
    on.promise.same("the job of a repeat after its end", on.submit(&again).await?, id)?;
    on.promise.same("new jobs", (on.jobs)() - before, 1)
}

async fn lost_tries_are_found(on: &On<'_>) -> Result<(), Failure> {
    let chunk = on.chunk(&name("lost"), 1);
    let before = (on.jobs)();
    begin_and_drop(on.submitter.submit(&chunk));
    let again = chunk.tried(SystemTime::UNIX_EPOCH);
    begin_and_drop(on.submitter.submit(&again));
    let id = on.submit(&again).await?;
    on.promise.same("new jobs", (on.jobs)() - before, 1)?;
    on.answered(&again, &id).await
}

async fn limits_are_kept(on: &On<'_>) -> Result<(), Failure> {
    let (limits, before) = (on.submitter.limits(), (on.jobs)());
    let mut many = on.chunk(&name("many"), 1);
    many.lines = limits.lines.saturating_add(1);
    let mut large = on.chunk(&name("large"), 1);
    large.body = ChunkBody::File { path: "/nowhere/at/all".into(), offset: 0, len: limits.bytes.saturating_add(1) };
    let elsewhere = on.chunk(&name("elsewhere"), 1).endpoint("/v1/conformance");
    for (chunk, what) in [(many, "lines"), (large, "bytes"), (elsewhere, "endpoint")] {
        if what == "lines" && limits.lines == u64::MAX || what == "bytes" && limits.bytes == u64::MAX {
            continue;
        }
        match (on.promise.answer("submit", on.submitter.submit(&chunk)).await?, what) {
            (Err(BatchError::Endpoint { .. }), "endpoint") => {}
            (Err(BatchError::Limit { what: said, .. }), _) if said == what => {}
            (answer, _) => return Err(on.promise.broken(format!("too many {what}: {answer:?}"))),
        }
    }
    on.promise.same("new jobs", (on.jobs)() - before, 0)
}

async fn status_tells_what_it_is_asked(on: &On<'_>) -> Result<(), Failure> {
    on.promise.same("of no job", on.status(&[]).await?.len(), 0)?;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(on.submit(&on.chunk(&name(&format!("status-{n}")), 1)).await?);
    }
    let (unknown, left_out) = (RemoteId::from("conformance-unknown"), ids.pop());
    let asked = [ids.clone(), vec![unknown, ids.first().cloned().unwrap_or_else(|| RemoteId::from(""))]].concat();
    let told = on.status(&asked).await?;
    let known: HashSet<RemoteId> = told.iter().map(|status| status.id.clone()).collect();
    on.promise.same("how many are told of", told.len(), ids.len())?;
    on.promise.same("which are told of", known, ids.iter().cloned().collect())?;
    for id in ids.iter().chain(&left_out) {
        on.ended(id).await?;
    }
    Ok(())
}

async fn results_wait_for_the_end(on: &On<'_>) -> Result<(), Failure> {
    let id = on.submit(&on.chunk(&name("early"), 1)).await?;
    let running = RemoteStatus::new(id.clone(), Phase::InProgress);
    match on.promise.answer("results", on.submitter.results(&running)).await? {
        Err(BatchError::NotReady { .. }) => {}
        Err(error) => return Err(on.promise.broken(format!("results of a job that runs: {error}"))),
        Ok(_) => return Err(on.promise.broken("a job that runs has results")),
    }
    on.ended(&id).await?;
    let bare = RemoteStatus::new(id, Phase::Failed);
    on.promise.same("rows of a job without files", on.rows(&bare).await?, (Vec::new(), 0))
}

async fn cancelling_twice_is_harmless(on: &On<'_>) -> Result<(), Failure> {
    let id = on.submit(&on.chunk(&name("cancelled"), 1)).await?;
    let asked = on.promise.done("cancel", on.submitter.cancel(&id)).await?;
    on.promise.same("the job", &asked.id, &id)?;
    let ended = on.ended(&id).await?;
    let again = on.promise.done("cancel of a job that has ended", on.submitter.cancel(&id)).await?;
    on.promise.same("how it ended", again.phase, ended.phase)?;
    match on.promise.answer("cancel", on.submitter.cancel(&RemoteId::from("conformance-unknown"))).await? {
        Err(BatchError::NotFound { .. }) => Ok(()),
        answer => Err(on.promise.broken(format!("a job that is not known: {answer:?}"))),
    }
}

#[cfg(test)]
mod tests;
