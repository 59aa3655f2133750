//! Batches where there are none: each line is a call of its own.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};

use super::{BatchError, BatchLine, BatchSubmitter, Chunk, ChunkBody, Limits, Phase, RemoteId, RemoteStatus, Row};
use crate::{
    inference::Infer,
    types::{BoxError, Priority},
};

/// Calls at a time, unless set.
const CALLS: usize = 8;

/// Answers the lines of a chunk one by one, by whatever infers: for a server that has no batches, and for a key that may
/// not use them. The lines are called when the [`results`](BatchSubmitter::results) are read, at batch priority.
///
/// A service needs it for its other upstreams alone: lines whose model takes no batches it answers one by one by itself.
/// What infers records its own costs.
///
/// A chunk in a file is known again by another process; one in memory is this process's.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use futures_util::TryStreamExt;
/// use together_inference::{
///     InferenceService,
///     batch::{BatchSubmitter, Chunk, ChunkBody, RealtimeBatches, Row},
///     testing::Together,
/// };
///
/// let together = Together::new();
/// together.on("hi").reply("hello");
/// let service = InferenceService::builder(together.client()).build()?;
/// let batches = RealtimeBatches::new(Arc::new(service));
/// let line = r#"{"custom_id":"1","body":{"model":"zai-org/GLM-5.3","messages":[{"role":"user","content":"hi"}]}}"#;
///
/// let id = batches.submit(&Chunk::new("c", "zai-org/GLM-5.3", 1, ChunkBody::Bytes(line.into()))).await?;
/// let status = batches.status(&[id]).await?.remove(0);
/// let rows: Vec<Row> = batches.results(&status).await?.try_collect().await?;
/// assert!(matches!(&rows[0], Row::Answer { status: 200, .. }));
/// assert_eq!(rows[1], Row::End { read: 1 });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RealtimeBatches {
    infer: Arc<dyn Infer>,
    calls: usize,
    /// Chunks in memory.
    kept: Mutex<HashMap<RemoteId, Bytes>>,
}

impl RealtimeBatches {
    /// Answers by this.
    #[must_use]
    pub fn new(infer: Arc<dyn Infer>) -> Self {
        Self { infer, calls: CALLS, kept: Mutex::default() }
    }

    /// Sets how many lines are called at a time; 0 counts as 1.
    #[must_use]
    pub const fn calls(mut self, calls: usize) -> Self {
        self.calls = if calls == 0 { 1 } else { calls };
        self
    }

    /// The lines of a job, if they are still there.
    fn body(&self, id: &RemoteId) -> Option<ChunkBody> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = kept.get(id) {
            return Some(ChunkBody::Bytes(bytes.clone()));
        }
        let mut parts = id.as_str().strip_prefix(FILE)?.splitn(3, ':');
        let (offset, len) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let path = PathBuf::from(parts.next()?);
        path.exists().then_some(ChunkBody::File { path, offset, len })
    }
}

/// What the id of a chunk in a file begins with: where it is follows.
const FILE: &str = "file:";
const MEMORY: &str = "memory:";

#[async_trait]
impl BatchSubmitter for RealtimeBatches {
    async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, BatchError> {
        self.limits().admit(chunk)?;
        Ok(match &chunk.body {
            ChunkBody::File { path, offset, len } => RemoteId::from(format!("{FILE}{offset}:{len}:{}", path.display())),
            ChunkBody::Bytes(bytes) => {
                let id = RemoteId::from(format!("{MEMORY}{}", chunk.name));
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.insert(id.clone(), bytes.clone());
                id
            }
        })
    }

    async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError> {
        let known = ids.iter().filter(|id| self.body(id).is_some());
        Ok(known.map(|id| RemoteStatus::new(id.clone(), Phase::Completed)).collect())
    }

    async fn results(&self, job: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError> {
        let body = self.body(&job.id).ok_or_else(|| BatchError::NotFound { id: job.id.clone() })?;
        let bytes = tokio::task::spawn_blocking(move || read(body)).await.map_err(io::Error::other)??;
        let lines = split(&bytes);
        let (infer, read) = (Arc::clone(&self.infer), lines.len() as u64);
        let rows = stream::iter(lines).map(move |line| answer(Arc::clone(&infer), line));
        let end = stream::iter([Ok(Row::End { read })]);
        Ok(rows.buffer_unordered(self.calls).map(Ok).chain(end).boxed())
    }

    async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError> {
        if self.body(id).is_none() {
            return Err(BatchError::NotFound { id: id.clone() });
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(RemoteStatus::new(id.clone(), Phase::Cancelled))
    }

    fn limits(&self) -> Limits {
        Limits { endpoints: vec!["/v1/chat/completions".into()], ..Limits::default() }
    }
}

fn read(body: ChunkBody) -> io::Result<Bytes> {
    match body {
        ChunkBody::Bytes(bytes) => Ok(bytes),
        ChunkBody::File { path, offset, len } => {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(len).read_to_end(&mut bytes)?;
            Ok(bytes.into())
        }
    }
}

/// The lines, each a part of the whole.
fn split(bytes: &Bytes) -> Vec<Bytes> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    lines.map(|line| bytes.slice_ref(line)).collect()
}

/// Calls one line.
async fn answer(infer: Arc<dyn Infer>, line: Bytes) -> Row {
    let Some(BatchLine { id: Some(custom_id), request }) =
        std::str::from_utf8(&line).ok().and_then(|line| BatchLine::from_json(line).ok())
    else {
        return Row::Malformed { problem: "it is no request with a custom_id".into() };
    };
    match infer.infer(request.priority(Priority::Batch)).await {
        Ok(reply) => {
            let raw = &reply.answer.raw;
            let body =
                if raw.is_empty() { super::file::body_of(&reply.answer).to_string().into() } else { raw.clone() };
            Row::Answer { custom_id, status: 200, body }
        }
        Err(error) => Row::Error { custom_id, code: "realtime".into(), message: said(&error).into() },
    }
}

fn said(error: &BoxError) -> String {
    error.to_string()
}
