//! A chunk becomes a job: written down, uploaded, created, and known again after a crash.

use std::{
    collections::HashSet,
    io::{self, Write},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{
    Batches, of_store, row,
    work::{FULL, first_poll},
};
use crate::{
    batch::{
        BatchError, Change, Chunk, ChunkBody, ChunkKey, ChunkState, Claim, GRACE, LineRef, RequestsFile, Span, WRITING,
        Way,
    },
    client,
    inference::{InferenceRequest, Input},
    notify::AlertKind,
    service::{Error, ErrorKind, state::State},
    store::reach,
    types::RouteId,
};

/// How long a submission rests that failed and may succeed later.
const REST: Duration = Duration::from_secs(30);
/// How long one rests whose key is refused or has no credit.
const LOCKED: Duration = Duration::from_secs(60);
/// How long a chunk rests that a budget has no room for.
const POOR: Duration = Duration::from_secs(60);

impl State {
    /// The body that a call of this request would send to a model.
    pub(super) fn body_of(&self, request: &InferenceRequest, route: &RouteId) -> Result<Bytes, client::Error> {
        let client = self.client(route).ok_or_else(client::Error::no_stream)?;
        match request.input() {
            Input::Chat(input) => client.chat().body(route.model(), input),
            _ => Err(client::Error::no_stream()),
        }
    }

    /// Takes a chunk a step further that is to become a job. What fails is tried again later; what cannot be is refused.
    pub(crate) async fn submit_chunk(self: &Arc<Self>, claim: &Claim) -> Result<(), Error> {
        let batches = self.batches()?;
        let (key, now) = (claim.chunk.key, self.clock.now());
        self.tell_if_unsubmitted(&claim.chunk, now);
        let Some(submitter) = batches.submitter(claim.chunk.route.upstream()) else {
            return self.refuse_chunk(claim, "the service has no batches on its upstream").await;
        };
        let tried = claim.chunk.intent_at;
        if !self.write_input(batches, claim).await? {
            return Ok(());
        }
        if tried.is_none() && self.budgets.are_any() {
            let lines = batches.journal.lines_of(key).await.map_err(of_store)?;
            if let Some(why) = self.reserve_lines(&claim.chunk, &lines).await? {
                tracing::warn!(batch = %key.batch, why, "a chunk waits for a budget");
                return self.let_rest(claim, ChunkState::Planned, (POOR, Some(why))).await;
            }
        }
        let len = std::fs::metadata(batches.journal.input_path(&key)).map_err(of_spool)?.len();
        // One at a time: else many would find the same place free.
        let turn = batches.admission.lock().await;
        if tried.is_none() && !self.has_room(claim).await? {
            return self.let_rest(claim, ChunkState::Planned, (FULL, None)).await;
        }
        // Within the grace of an earlier try nothing is created, so that its time goes on counting.
        let may_create = tried.is_none_or(|at| passed(at, now) >= GRACE);
        let intent_at = may_create.then_some(now);
        let from = [ChunkState::Planned, ChunkState::Submitting];
        let change = Change { intent_at, ..Change::default() };
        if !batches
            .journal
            .step(key, claim.fence, &from, ChunkState::Submitting, change, now)
            .await
            .map_err(of_store)?
        {
            return Ok(());
        }
        drop(turn);
        let begun = self.clock.now();
        let is_over = |at| !may_create && passed(at, begun) >= GRACE;
        // What was decided by the time is decided again where writing it down took long.
        if passed(now, begun) >= WRITING || tried.is_some_and(is_over) {
            return self.let_rest(claim, ChunkState::Submitting, (Duration::ZERO, None)).await;
        }
        let job = submitter.submit(&Self::chunk_of(batches, claim, tried, len)).await;
        let now = self.clock.now();
        match job {
            Ok(id) => {
                tracing::info!(batch = %key.batch, job = %id, lines = claim.chunk.lines, bytes = claim.chunk.bytes, "a job was submitted");
                let next_at = Some(first_poll(now, batches.options.poll));
                let change = Change { remote_id: Some(id.as_str().into()), next_at, ..Change::default() };
                let from = [ChunkState::Submitting];
                batches
                    .journal
                    .step(key, claim.fence, &from, ChunkState::Running, change, now)
                    .await
                    .map_err(of_store)?;
                batches.moved();
                Ok(())
            }
            Err(BatchError::Unresolved { after }) => self.let_rest(claim, ChunkState::Submitting, (after, None)).await,
            Err(error) if error.is_retryable() => {
                tracing::warn!(batch = %key.batch, %error, "a job could not be submitted; it is tried again");
                self.let_rest(claim, ChunkState::Submitting, (REST, Some(error.to_string()))).await
            }
            // The key is to blame and not the chunk: it waits until somebody has seen to that.
            Err(BatchError::Client(error)) if Error::of_key(error.kind()).is_some() => {
                let title = || format!("batches cannot be submitted: {error}");
                self.tell_batch(AlertKind::BatchStuck, claim.chunk.route.upstream().as_str(), title);
                self.let_rest(claim, ChunkState::Submitting, (LOCKED, Some(error.to_string()))).await
            }
            // Ours to mend: the provider was not asked.
            Err(BatchError::Body(error)) => Err(of_spool(error)),
            Err(error) => {
                if blames_model(&error) {
                    batches.journal.refused(&claim.chunk.route, now).await.map_err(of_store)?;
                }
                self.refuse_chunk(claim, &error.to_string()).await
            }
        }
    }

    /// Lets go of a chunk that is not to be submitted any more: if an earlier try has made a job of it, that is stopped,
    /// and what it has done by then is read and paid.
    pub(super) async fn abandon_chunk(self: &Arc<Self>, claim: &Claim) -> Result<(), Error> {
        let (batches, chunk) = (self.batches()?, &claim.chunk);
        self.tell_if_unsubmitted(chunk, self.clock.now());
        let Some(tried) = chunk.intent_at.filter(|_| chunk.state == ChunkState::Submitting) else {
            return self.drop_chunk(claim).await;
        };
        let Some(submitter) = batches.submitter(chunk.route.upstream()) else { return self.drop_chunk(claim).await };
        // It is known by its name: its lines may be gone.
        let found = submitter.left_behind(&Self::chunk_of(batches, claim, Some(tried), 0)).await;
        let now = self.clock.now();
        match found {
            Ok(None) => self.drop_chunk(claim).await,
            Ok(Some(id)) => {
                let change = Change { remote_id: Some(id.as_str().into()), next_at: Some(now), ..Change::default() };
                let (from, to) = ([ChunkState::Submitting], ChunkState::Running);
                batches.journal.step(chunk.key, claim.fence, &from, to, change, now).await.map_err(of_store)?;
                batches.journal.hurry(chunk.key, now).await.map_err(of_store)?;
                batches.moved();
                Ok(())
            }
            Err(BatchError::Unresolved { after }) => self.let_rest(claim, ChunkState::Submitting, (after, None)).await,
            Err(error) => {
                tracing::warn!(batch = %chunk.key.batch, %error, "whether a job is out cannot be known yet");
                self.let_rest(claim, ChunkState::Submitting, (REST, None)).await
            }
        }
    }

    fn chunk_of(batches: &Batches, claim: &Claim, tried: Option<SystemTime>, len: u64) -> Chunk {
        let chunk = &claim.chunk;
        let path = batches.journal.input_path(&chunk.key);
        let body = ChunkBody::File { path, offset: 0, len };
        let made = Chunk::new(name_of(&chunk.key), chunk.route.model().clone(), chunk.lines, body)
            .endpoint(chunk.endpoint.clone());
        match tried {
            Some(at) => made.tried(at),
            None => made,
        }
    }

    /// Writes the lines of a chunk, unless they are there: what was uploaded once is not written differently. `false`: no
    /// line waits for it any more.
    async fn write_input(self: &Arc<Self>, batches: &Batches, claim: &Claim) -> Result<bool, Error> {
        let (key, is_new) = (claim.chunk.key, claim.chunk.intent_at.is_none());
        if !is_new && batches.journal.input_path(&key).exists() {
            return Ok(true);
        }
        let turn = Arc::clone(&batches.writing).lock_owned().await;
        let lines = batches.journal.lines_of(key).await.map_err(of_store)?;
        if lines.is_empty() && is_new {
            self.drop_chunk(claim).await?;
            return Ok(false);
        }
        reach("batch: lines are about to be written");
        let (state, route) = (Arc::clone(self), claim.chunk.route.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let journal = &state.batches().map_err(io::Error::other)?.journal;
            let requests = journal.requests(key.batch)?;
            journal.write_input(&key, |file| state.write_lines(file, &key, &route, &lines, &requests))?;
            Ok(())
        });
        writing.await.map_err(io::Error::other).and_then(|written| written).map_err(of_spool)?;
        reach("batch: lines are written");
        Ok(true)
    }

    fn write_lines(
        &self,
        file: &mut dyn Write,
        key: &ChunkKey,
        route: &RouteId,
        lines: &[LineRef],
        requests: &RequestsFile,
    ) -> io::Result<()> {
        for line in lines {
            let request = match self.request_at(requests, line.request) {
                Ok(request) => request,
                // It has no row in the job, and the next round says why.
                Err(error) if is_damaged(&error) => continue,
                Err(error) => return Err(error),
            };
            let body = self.body_of(&request, route).map_err(io::Error::other)?;
            let custom_id = key.batch.custom_id(key.round, line.index);
            write!(file, r#"{{"custom_id":"{custom_id}","body":"#)?;
            file.write_all(&body)?;
            file.write_all(b"}\n")?;
        }
        Ok(())
    }

    /// The request of a line, as it is sent.
    pub(super) fn request_at(&self, requests: &RequestsFile, at: Span) -> io::Result<InferenceRequest> {
        let bytes = requests.read(at)?;
        let mut request: InferenceRequest =
            serde_json::from_slice(&bytes).map_err(|error| row::unreadable("request", &error))?;
        self.prepare(&mut request);
        Ok(request)
    }

    /// Leaves a chunk that stands here as it is for a while.
    pub(super) async fn let_rest(
        &self,
        claim: &Claim,
        at: ChunkState,
        (time, error): (Duration, Option<String>),
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let change = Change { next_at: now.checked_add(time), error: error.map(Into::into), ..Change::default() };
        let journal = &self.batches()?.journal;
        journal.step(claim.chunk.key, claim.fence, &[at], at, change, now).await.map_err(of_store)?;
        Ok(())
    }

    /// Drops a chunk of which no job can be, with what it has set aside.
    pub(super) async fn drop_chunk(self: &Arc<Self>, claim: &Claim) -> Result<(), Error> {
        if claim.chunk.way == Way::Batch {
            self.release_lines(&claim.chunk, &HashSet::new()).await?;
        }
        let (from, now) = ([ChunkState::Planned, ChunkState::Running, ChunkState::Submitting], self.clock.now());
        let (batches, key) = (self.batches()?, claim.chunk.key);
        let (fence, change) = (claim.fence, Change::default());
        if batches.journal.step(key, fence, &from, ChunkState::Dropped, change, now).await.map_err(of_store)? {
            batches.journal.remove_inputs(key).await.map_err(of_store)?;
            batches.moved();
        }
        Ok(())
    }

    /// Ends a chunk that the provider does not take: its lines go elsewhere in the next round.
    pub(super) async fn refuse_chunk(self: &Arc<Self>, claim: &Claim, why: &str) -> Result<(), Error> {
        self.release_lines(&claim.chunk, &HashSet::new()).await?;
        let (batches, now, chunk) = (self.batches()?, self.clock.now(), &claim.chunk);
        tracing::warn!(batch = %chunk.key.batch, route = %chunk.route, why, "a batch was refused");
        let from = [ChunkState::Planned, ChunkState::Submitting, ChunkState::Ended];
        let change = Change { error: Some(why.into()), ..Change::default() };
        let (key, fence) = (chunk.key, claim.fence);
        if batches.journal.step(key, fence, &from, ChunkState::Refused, change, now).await.map_err(of_store)? {
            batches.journal.remove_inputs(key).await.map_err(of_store)?;
        }
        batches.paid.forget(key);
        batches.moved();
        Ok(())
    }
}

/// Whether the provider itself does not take this model in batches: of that other batches learn.
fn blames_model(error: &BatchError) -> bool {
    match error {
        BatchError::Refused { .. } | BatchError::Endpoint { .. } => true,
        // A body that is too large, a name that is taken, a key that may not: none of it is about the model.
        BatchError::Client(error) => matches!(error.status(), Some(400 | 404 | 422)),
        _ => false,
    }
}

/// What a chunk is called towards the provider.
pub(super) fn name_of(key: &ChunkKey) -> String {
    format!("{}-{}-{}", key.batch, key.round, key.no)
}

pub(super) fn passed(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

/// Whether a row of the spool will never be read again, and others may.
pub(super) fn is_damaged(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// The error of a spool that cannot be read or written.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` is given")]
pub(super) fn of_spool(error: io::Error) -> Error {
    Error::new(ErrorKind::Store, format!("the files of the batch: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_blamed_for_what_the_provider_said_alone() {
        let unread = || BatchError::Body(io::Error::other("the disk"));
        let local = || BatchError::Client(client::Error::no_stream());
        let large = || BatchError::Limit { what: "lines", asked: 2, most: 1 };
        for error in [unread(), local(), large()] {
            assert!(!blames_model(&error), "{error}");
        }
        assert!(blames_model(&BatchError::Refused { reason: "no batches".into() }));
    }
}
