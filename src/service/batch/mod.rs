//! Many requests as one batch: planned here, carried out by a worker in the background.
//!
//! In the order of the files: `builder` (what the caller says of it), `planner` (each line validated, ranked, looked up in
//! the cache, put into a chunk), `submit` (a chunk becomes a job), `settle` (its rows become answers and records), `singly`
//! (lines that are answered one by one), `stuck` (jobs that do not move), `rounds` (what becomes of the rest), `rests` (what
//! fails is tried later), `ticket` and `results` (what the caller reads).

mod builder;
mod defer;
mod money;
mod options;
mod placer;
mod planner;
mod records;
mod rests;
mod results;
mod rounds;
mod row;
mod seen;
mod set_up;
mod settle;
mod singly;
mod stuck;
mod submit;
mod ticket;
pub(crate) mod work;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::{Duration, SystemTime},
};

use futures_util::stream;
use tokio::sync::watch;

#[cfg(feature = "schema")]
pub use self::results::{TypedRow, TypedRows};
pub use self::{
    builder::BatchBuilder,
    defer::DeferredTicket,
    options::BatchOptions,
    results::BatchRows,
    ticket::{BatchTicket, Cancel},
};
pub(super) use self::{
    defer::Gather,
    set_up::{BatchSetup, set_up},
};
use self::{defer::Gathering, money::Paid, rests::Rests};
use super::{Error, ErrorKind, InferenceService, TenantService, state::State};
use crate::{
    batch::{BatchError, BatchId, BatchLine, BatchSubmitter, ChunkKey, Journal, JournalError},
    types::{Tenant, UpstreamId},
};

/// What a service has for batches.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) journal: Journal,
    pub(super) submitters: Vec<(UpstreamId, Arc<dyn BatchSubmitter>)>,
    pub(super) options: BatchOptions,
    /// Told when something moved: tickets look again.
    pub(super) moved: watch::Sender<u64>,
    /// Workers that run in this process.
    pub(super) workers: AtomicUsize,
    /// How many lines an hour are answered one by one; 0 where that is not known.
    pub(super) lines_per_hour: AtomicU64,
    /// Batches that gather deferred requests.
    gathering: Gathering,
    paid: Paid,
    /// Held by whoever looks whether another job may be out.
    admission: tokio::sync::Mutex<()>,
    /// Held while the lines of a chunk are written: the first are on their way while others are written.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// Held while the rows of a job are read, unless that takes long: what each line came to is in memory meanwhile.
    settling: tokio::sync::Mutex<()>,
    /// Batches and chunks that could not be taken further.
    failing: Rests<BatchId>,
    failing_chunks: Rests<ChunkKey>,
    /// When each provider was last asked after its jobs.
    listed: Mutex<HashMap<UpstreamId, SystemTime>>,
    /// Since when jobs are found nowhere.
    unseen: Mutex<HashMap<ChunkKey, SystemTime>>,
}

impl Batches {
    pub(super) fn new(
        journal: Journal,
        submitters: Vec<(UpstreamId, Arc<dyn BatchSubmitter>)>,
        options: BatchOptions,
    ) -> Self {
        Self {
            journal,
            submitters,
            options,
            moved: watch::Sender::new(0),
            workers: AtomicUsize::new(0),
            lines_per_hour: AtomicU64::new(0),
            gathering: Gathering::default(),
            paid: Paid::default(),
            admission: tokio::sync::Mutex::default(),
            writing: Arc::default(),
            settling: tokio::sync::Mutex::default(),
            failing: Rests::default(),
            failing_chunks: Rests::default(),
            listed: Mutex::default(),
            unseen: Mutex::default(),
        }
    }

    /// Whether it is time for another list of a provider's jobs, which is then counted as asked for.
    fn may_list(&self, upstream: &UpstreamId, now: SystemTime) -> bool {
        let mut listed = locked(&self.listed);
        let since = listed.get(upstream).map(|at| now.duration_since(*at).unwrap_or(Duration::MAX));
        // A worker is not always there at the moment.
        let is_time = since.is_none_or(|since| since >= self.options.poll / 10 * 9);
        if is_time {
            listed.insert(upstream.clone(), now);
        }
        is_time
    }

    /// Since when the job of a chunk is found nowhere, if `now` it is not.
    fn unseen_since(&self, chunk: ChunkKey, now: SystemTime) -> SystemTime {
        *locked(&self.unseen).entry(chunk).or_insert(now)
    }

    fn was_seen(&self, chunk: &ChunkKey) {
        locked(&self.unseen).remove(chunk);
    }

    pub(super) fn submitter(&self, upstream: &UpstreamId) -> Option<&Arc<dyn BatchSubmitter>> {
        self.submitters.iter().find(|(id, _)| id == upstream).map(|(_, submitter)| submitter)
    }

    /// Has tickets and workers look again.
    pub(super) fn moved(&self) {
        self.moved.send_modify(|times| *times = times.wrapping_add(1));
    }
}

impl InferenceService {
    /// A batch of these requests, to be estimated and submitted. Half the price on some models, answers within a day.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, pipeline::Pipeline, store::Store, testing::Together};
    ///
    /// # let folder = std::env::temp_dir().join(format!("together-inference-batch-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// let together = Together::builder().time_scale(0.001).build();
    /// let service = InferenceService::builder(together.client())
    ///     .store(&Store::open(folder.join("inference.db")).await?)
    ///     .batches()
    ///     .background(Pipeline::new().poll_every(std::time::Duration::from_millis(20)))
    ///     .build()?;
    /// let reviews = ["Great.", "Broke after a day.", "Fine."];
    /// let ask = |review| InferenceRequest::chat(review).system("Positive or negative?").temperature(0.0);
    ///
    /// let mut job = service.batch(reviews.map(ask)).name("reviews/2026-11-24");
    /// println!("{}", job.estimate().await?);
    /// let report = job.submit().await?.await?;
    /// assert_eq!(report.succeeded, 3);
    /// assert_eq!(report.cost.nanos(), together.bill().nano_usd);
    /// # service.shutdown(std::time::Duration::from_secs(5)).await;
    /// # drop(service);
    /// # std::fs::remove_dir_all(folder)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch<I>(&self, requests: I) -> BatchBuilder<stream::Iter<I::IntoIter>>
    where
        I: IntoIterator,
        I::Item: Into<BatchLine>,
    {
        self.batch_stream(stream::iter(requests))
    }

    /// The same of requests that come as a stream: they are written down as they come and never held together.
    pub fn batch_stream<S>(&self, requests: S) -> BatchBuilder<S> {
        BatchBuilder::new(self.clone(), None, requests)
    }

    /// Submits these requests as a batch, with no options.
    ///
    /// # Errors
    ///
    /// As [`BatchBuilder::submit`].
    pub async fn submit_batch<I>(&self, requests: I) -> Result<BatchTicket, Error>
    where
        I: IntoIterator + Send,
        I::IntoIter: Send + Unpin,
        I::Item: Into<BatchLine> + Send,
    {
        let builder = self.batch(requests);
        builder.submit().await
    }

    /// The ticket of a batch that was submitted before, here or in another process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoBatch`] when the store has none of this id, [`ErrorKind::Store`] when it cannot be read.
    pub async fn find_batch(&self, id: BatchId) -> Result<BatchTicket, Error> {
        let batches = self.state.batches()?;
        let found = batches.journal.find(id).await.map_err(of_store)?;
        found.map_or_else(|| Err(no_batch(&id.to_string())), |row| Ok(BatchTicket::new(self.clone(), row.id)))
    }

    /// The ticket of the batch of this name that belongs to no tenant.
    ///
    /// # Errors
    ///
    /// As [`find_batch`](Self::find_batch).
    pub async fn find_batch_named(&self, name: &str) -> Result<BatchTicket, Error> {
        self.find_named(None, name).await
    }

    async fn find_named(&self, tenant: Option<&Tenant>, name: &str) -> Result<BatchTicket, Error> {
        let batches = self.state.batches()?;
        let found = batches.journal.find_named(tenant.cloned(), name).await.map_err(of_store)?;
        found.map_or_else(|| Err(no_batch(name)), |row| Ok(BatchTicket::new(self.clone(), row.id)))
    }
}

impl TenantService {
    /// [`InferenceService::batch`] for this tenant: lines of another one are refused.
    pub fn batch<I>(&self, requests: I) -> BatchBuilder<stream::Iter<I::IntoIter>>
    where
        I: IntoIterator,
        I::Item: Into<BatchLine>,
    {
        BatchBuilder::new(self.service().clone(), Some(self.tenant().clone()), stream::iter(requests))
    }

    /// [`InferenceService::find_batch`] for this tenant: batches of others are not found.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn find_batch(&self, id: BatchId) -> Result<BatchTicket, Error> {
        let found = self.service().state.batches()?.journal.find(id).await.map_err(of_store)?;
        match found.filter(|row| row.tenant.as_ref() == Some(self.tenant())) {
            Some(row) => Ok(BatchTicket::new(self.service().clone(), row.id)),
            None => Err(no_batch(&id.to_string())),
        }
    }

    /// [`InferenceService::find_batch_named`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn find_batch_named(&self, name: &str) -> Result<BatchTicket, Error> {
        self.service().find_named(Some(self.tenant()), name).await
    }
}

impl State {
    /// What there is for batches.
    pub(super) fn batches(&self) -> Result<&Batches, Error> {
        self.batches.as_ref().ok_or_else(|| {
            let message = "the service has no batches; add .store(&store) and .batches() to its builder";
            Error::new(ErrorKind::NoBatches, message)
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_batch(which: &str) -> Error {
    Error::new(ErrorKind::NoBatch, format!("the store has no batch {which}"))
}

/// The error of a journal that cannot be read or written.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` is given")]
pub(super) fn of_store(error: JournalError) -> Error {
    Error::new(ErrorKind::Store, error.to_string())
}

/// The error of a provider that does not take or tell.
pub(super) fn of_batch(error: &BatchError) -> Error {
    Error::new(ErrorKind::Upstream, error.to_string())
}

/// How long jobs take, by what others have seen of a quarter of a million: half of them, nine of ten.
pub(super) const USUAL: (Duration, Duration) = (Duration::from_secs(7 * 60), Duration::from_secs(3_600));
