//! Batches at Together.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};

use super::{
    BatchError, BatchSubmitter, Chunk, ChunkBody, GRACE, Limits, Phase, RemoteId, RemoteStatus, Row, SENDING,
    looks::Looks, reach, rows::Rows,
};
use crate::{
    client::{
        BatchJob, CancelledBatch, CreateBatch, ErrorKind, FileContent, FilePurpose, FileUpload, RemoteFile,
        TogetherClient,
    },
    types::Clock,
};

/// Between two looks at the list.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// How many jobs that a list leaves out are asked for at the same time.
const AT_ONCE: usize = 4;

/// Batches at Together, or at any server with the same `/v1/files` and `/v1/batches`.
///
/// # How one job comes of a chunk
///
/// The API has no idempotency keys, and a create whose reply is lost may have made a job. What a job is known by is its
/// input file, and that is the same however often the same lines are sent, since the upload asks by checksum first; of
/// uploads at the same time it may be several, of one name and size. So a chunk that was [tried](Chunk::tried) before is
/// created again only when no job of such a file is in the list, four and a half minutes after that try, twice. Until
/// then its submission is [`Unresolved`](BatchError::Unresolved), as is one that has taken so long that others may have
/// tried meanwhile. That long, because a try may take half a minute to be written down and a minute to be sent, a request
/// whose connection broke may arrive a minute later, and the list may show its job two minutes after that.
///
/// This holds if no two chunks have the same lines: give each line a `custom_id` of its own.
///
/// Where the provider is later than that, two jobs may come of a chunk: [`RemoteStatus::twins`] tells of them.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use together_inference::{TogetherClient, batch::{BatchError, BatchSubmitter, Chunk, ChunkBody, TogetherBatches}};
///
/// let client = TogetherClient::builder().api_key("key").build().unwrap();
/// let batches = TogetherBatches::new(client);
/// let chunk = Chunk::new("labels-1", "zai-org/GLM-5.3", 50_001, ChunkBody::Bytes("{}\n".into()));
/// let refused = batches.submit(&chunk).await.unwrap_err();
/// assert!(matches!(refused, BatchError::Limit { what: "lines", .. }), "before anything is sent");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TogetherBatches {
    client: TogetherClient,
    clock: Arc<dyn Clock>,
    limits: Limits,
    looks: Arc<Looks>,
}

impl TogetherBatches {
    /// Over this client, with its clock.
    #[must_use]
    pub fn new(client: TogetherClient) -> Self {
        let clock = Arc::clone(client.clock());
        Self { client, clock, limits: Limits::default(), looks: Arc::default() }
    }

    /// Sets where wall time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets what the server takes, where it is another one.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Files of this name, and of this size where it is known: two that are uploaded at the same time may not be known as the
    /// same.
    async fn files_of(&self, name: &str, bytes: Option<u64>) -> Result<Vec<Box<str>>, BatchError> {
        let is_it =
            |file: &RemoteFile| file.filename == name && bytes.zip(file.bytes).is_none_or(|(ours, its)| ours == its);
        let files = self.client.files().list_where(is_it).await?;
        Ok(files.into_iter().map(|file| file.id.into()).collect())
    }

    /// The job that an earlier try made of one of these files, if a list of that moment or later has it; and when that was.
    /// Others of them are cancelled.
    async fn found(&self, files: &[Box<str>], since: SystemTime) -> Result<(Option<RemoteId>, SystemTime), BatchError> {
        let look = self.looks.since(since, &self.client, &*self.clock).await?;
        let mut jobs = look.of(files).into_iter();
        let Some(adopted) = jobs.next() else { return Ok((None, look.at)) };
        for twin in jobs.filter(|job| !job.has_ended) {
            tracing::warn!(
                adopted = %adopted.id,
                twin = %twin.id,
                "two jobs came of one chunk: cancelling the later one"
            );
            if let Err(error) = self.client.batches().cancel(twin.id.as_str()).await {
                tracing::warn!(twin = %twin.id, %error, "it could not be cancelled and may be billed");
            }
        }
        Ok((Some(adopted.id.clone()), look.at))
    }

    /// What an earlier try left behind, when it can be known that it left something or nothing. The grace is over only if
    /// it was when this submission began: who asked for it wrote down that it may create.
    async fn earlier(
        &self,
        files: &[Box<str>],
        tried: SystemTime,
        begun: SystemTime,
    ) -> Result<Option<RemoteId>, BatchError> {
        let since = begun.duration_since(tried).unwrap_or_default();
        let is_over = since >= GRACE;
        let moment = if is_over { tried.checked_add(GRACE).unwrap_or(tried) } else { tried };
        let (found, at) = self.found(files, moment).await?;
        if found.is_some() {
            return Ok(found);
        }
        if !is_over {
            return Err(BatchError::Unresolved { after: GRACE.saturating_sub(since) });
        }
        // A list may come from a copy that lags behind another one.
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let later = at.checked_add(BETWEEN_LOOKS).unwrap_or(at);
        self.found(files, later).await.map(|(found, _)| found)
    }

    async fn one(&self, id: &RemoteId) -> Result<Option<BatchJob>, BatchError> {
        match self.client.batches().get(id.as_str()).await {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl BatchSubmitter for TogetherBatches {
    async fn submit(&self, chunk: &Chunk) -> Result<RemoteId, BatchError> {
        self.limits.admit(chunk)?;
        let begun = self.clock.now();
        reach("batch: lines are about to be uploaded");
        let uploaded = self.client.files().upload(&upload_of(chunk)).await?;
        reach("batch: lines are uploaded");
        let file = uploaded.file.id;
        if let Some(tried) = chunk.tried {
            let mut files = self.files_of(&file_name(chunk), Some(chunk.body.len())).await?;
            if !files.iter().any(|other| **other == *file) {
                files.push(file.as_str().into());
            }
            if let Some(found) = self.earlier(&files, tried, begun).await? {
                return Ok(found);
            }
        }
        reach("batch: a job is about to be created");
        if self.clock.now().duration_since(begun).unwrap_or_default() >= SENDING {
            return Err(BatchError::Unresolved { after: Duration::ZERO });
        }
        let created = self.client.batches().create(&CreateBatch::new(file).endpoint(&*chunk.endpoint)).await?;
        reach("batch: a job is created");
        if let Some(warning) = created.warning {
            tracing::warn!(job = created.job.id, warning, "the provider warns of a batch");
        }
        Ok(RemoteId::from(created.job.id))
    }

    async fn status(&self, ids: &[RemoteId]) -> Result<Vec<RemoteStatus>, BatchError> {
        let wanted: HashSet<&str> = ids.iter().map(RemoteId::as_str).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        // Of other jobs no more than their files: an account may have ten thousands.
        let others = std::sync::Mutex::new(HashMap::new());
        let keep = |job: &BatchJob| {
            let is_wanted = wanted.contains(&*job.id);
            if let Some(file) = job.input_file_id.as_deref().filter(|_| !is_wanted) {
                others.lock().unwrap_or_else(PoisonError::into_inner).insert(Box::from(&*job.id), Box::from(file));
            }
            is_wanted
        };
        reach("batch: jobs are about to be listed");
        let mut found = self.client.batches().list_where(keep).await?;
        reach("batch: jobs are listed");
        let others: HashMap<Box<str>, Box<str>> = others.into_inner().unwrap_or_else(PoisonError::into_inner);
        let seen: HashSet<&str> = found.iter().map(|job| &*job.id).collect();
        // The list lags behind: what is not in it may be there.
        let unseen: HashSet<&RemoteId> = ids.iter().filter(|id| !seen.contains(id.as_str())).collect();
        let asked: Vec<_> = unseen.into_iter().map(async |id| (id, self.one(id).await)).collect();
        let late: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        let mut unheard = Vec::new();
        for (id, job) in late {
            match job {
                Ok(job) => found.extend(job),
                Err(error) => {
                    tracing::warn!(job = %id, %error, "a job could not be asked after");
                    unheard.push(RemoteStatus::unheard(id.clone()));
                }
            }
        }
        let files: HashSet<&str> = found.iter().filter_map(|job| job.input_file_id.as_deref()).collect();
        let mut twins: HashMap<Box<str>, Vec<RemoteId>> = HashMap::new();
        for (id, file) in others.into_iter().filter(|(_, file)| files.contains(&**file)) {
            twins.entry(file).or_default().push(RemoteId::from(&*id));
        }
        let told = found.into_iter().map(|job| {
            let twins = job.input_file_id.as_deref().and_then(|file| twins.get(file).cloned()).unwrap_or_default();
            RemoteStatus { twins, ..status_of(job) }
        });
        Ok(told.chain(unheard).collect())
    }

    async fn results(&self, job: &RemoteStatus) -> Result<BoxStream<'static, Result<Row, BatchError>>, BatchError> {
        if !job.phase.is_final() {
            return Err(BatchError::NotReady { id: job.id.clone() });
        }
        let files = [&job.output_file, &job.error_file].into_iter().flatten().cloned().collect();
        let mut reading = Reading {
            client: self.client.clone(),
            id: job.id.clone(),
            files,
            content: None,
            rows: Rows::default(),
            ready: VecDeque::new(),
            read: 0,
            ended: false,
        };
        reading.open().await?;
        let stream = stream::try_unfold(reading, async |mut reading| {
            let row = reading.next().await?;
            Ok(row.map(|row| (row, reading)))
        });
        Ok(stream.boxed())
    }

    async fn cancel(&self, id: &RemoteId) -> Result<RemoteStatus, BatchError> {
        let not_found = || BatchError::NotFound { id: id.clone() };
        match self.client.batches().cancel(id.as_str()).await {
            Ok(CancelledBatch::Asked(job)) => Ok(status_of(*job)),
            Ok(CancelledBatch::Ended(_)) => Ok(status_of(self.one(id).await?.ok_or_else(not_found)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(not_found()),
            Err(error) => Err(error.into()),
        }
    }

    async fn left_behind(&self, chunk: &Chunk) -> Result<Option<RemoteId>, BatchError> {
        let Some(tried) = chunk.tried else { return Ok(None) };
        // By its name: nothing is uploaded for the sake of asking.
        let files = self.files_of(&file_name(chunk), None).await?;
        if !files.is_empty()
            && let Some(found) = self.earlier(&files, tried, self.clock.now()).await?
        {
            return Ok(Some(found));
        }
        match GRACE.checked_sub(self.clock.now().duration_since(tried).unwrap_or_default()) {
            Some(after) if !after.is_zero() => Err(BatchError::Unresolved { after }),
            _ => Ok(None),
        }
    }

    fn limits(&self) -> Limits {
        self.limits.clone()
    }
}

/// The name of a chunk's file, which says whose it is.
fn file_name(chunk: &Chunk) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    let name: String = chunk.name.chars().map(|char| if is_plain(char) { char } else { '-' }).collect();
    format!("ti-{name}.jsonl")
}

/// The lines as a file of that name.
fn upload_of(chunk: &Chunk) -> FileUpload {
    let upload = match &chunk.body {
        ChunkBody::Bytes(bytes) => FileUpload::bytes("", bytes.clone(), FilePurpose::Batch),
        ChunkBody::File { path, offset, len } => FileUpload::range(path, *offset, *len, FilePurpose::Batch),
    };
    upload.named(file_name(chunk))
}

fn status_of(job: BatchJob) -> RemoteStatus {
    let boxed = |text: Option<String>| text.map(String::into_boxed_str);
    #[expect(clippy::cast_possible_truncation, reason = "a percentage needs no more digits")]
    let percent = job.progress.map(|percent| percent as f32);
    RemoteStatus {
        percent,
        input_file: boxed(job.input_file_id),
        output_file: boxed(job.output_file_id),
        error_file: boxed(job.error_file_id),
        error: boxed(job.error),
        ..RemoteStatus::new(RemoteId::from(job.id), Phase::from(&job.status))
    }
}

/// The files of a job while they are read, one after the other.
struct Reading {
    client: TogetherClient,
    id: RemoteId,
    files: VecDeque<Box<str>>,
    content: Option<FileContent>,
    rows: Rows,
    ready: VecDeque<Row>,
    read: u64,
    ended: bool,
}

impl Reading {
    /// Opens the next file.
    async fn open(&mut self) -> Result<(), BatchError> {
        let Some(file) = self.files.pop_front() else { return Ok(()) };
        self.content = Some(self.client.files().content(&file).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => BatchError::NotReady { id: self.id.clone() },
            _ => error.into(),
        })?);
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Row>, BatchError> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                self.read += 1;
                return Ok(Some(row));
            }
            let Some(content) = &mut self.content else {
                let is_first = !std::mem::replace(&mut self.ended, true);
                return Ok(is_first.then_some(Row::End { read: self.read }));
            };
            match content.next().await {
                Some(piece) => self.rows.push(&piece?, &mut self.ready),
                None => {
                    self.ready.extend(self.rows.end());
                    self.content = None;
                    self.open().await?;
                }
            }
        }
    }
}
