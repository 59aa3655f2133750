//! The rows of a job that has ended become answers, cached answers and cost records, each once.
//!
//! The order is what a crash makes of it: block by block the rows are written and the records go to the sinks; then all rows
//! are on the disk for good; then the journal says that the chunk is settled. A crash in between has them done again:
//! records are known by their attempt, answers by their line.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    Batches,
    builder::Policy,
    of_store, row,
    submit::{is_damaged, of_spool, passed},
};
use crate::{
    batch::{
        BatchError, Change, ChunkRow, ChunkState, Claim, LineError, LineErrorKind, LineRef, LineState, Outcome, Output,
        Phase, RemoteId, RemoteStatus, RequestsFile, Row, Settling, Verdict, verdict,
    },
    cache::{CacheEntry, CacheValue},
    cost::CostRecord,
    inference::{Answer, CacheKey, InferenceRequest, Kind},
    notify::AlertKind,
    service::{Error, plan, state::State},
    store::reach,
    types::{FinishReason, Usd},
};

/// Rows that are worked on together.
const BLOCK: usize = 256;
/// How long a job waits until the one before it is settled.
const TURN: Duration = Duration::from_secs(60);
/// How long files rest that are named and not there yet, or cannot be read now.
const REST: Duration = Duration::from_secs(60);
/// For how long rows are asked for that cannot be read.
const UNREADABLE: Duration = Duration::from_secs(24 * 3_600);
/// Of a code no more is kept than so many characters.
const CODE: usize = 64;
/// So many codes of a job that nobody knows are told of, at most.
const CODES: usize = 8;
/// A row without an answer is asked for again at most so often where nobody knows what its code means.
const UNKNOWN_TRIES: u32 = 1;

/// What a job as a whole says of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Rows tell; what has none is missing.
    Rows,
    /// The model takes no batches.
    ModelRefused,
    /// It never ran, and may next time.
    Upload,
    /// It will not run.
    Never,
}

fn ended(job: &RemoteStatus) -> Ended {
    if job.phase != Phase::Failed {
        return Ended::Rows;
    }
    let error = job.error.as_deref().unwrap_or_default().to_ascii_lowercase();
    if error.contains("non-serverless model") || error.contains("model_not_available") {
        Ended::ModelRefused
    } else if error.contains("download input file") {
        Ended::Upload
    } else {
        Ended::Never
    }
}

/// The rows of a chunk on their way.
struct Book {
    state: Arc<State>,
    chunk: ChunkRow,
    remote: Box<str>,
    require_stop: bool,
    /// Lines that wait for this chunk, by index.
    lines: Vec<LineRef>,
    requests: RequestsFile,
    output: Output,
    /// What was found so far, in the order of the rows.
    outcomes: Vec<Outcome>,
    /// Where that of each line is.
    noted: Vec<Option<u32>>,
    billed: HashSet<Box<str>>,
    /// Rows that belong to no line of this chunk: another round's, or nobody's.
    alien: u64,
    malformed: u64,
    codes: HashSet<Box<str>>,
}

/// What a block of rows brought beside outcomes.
#[derive(Default)]
struct Brought {
    /// Each with its request and the index of its line.
    billed: Vec<(CostRecord, InferenceRequest, u64)>,
    entries: Vec<(CacheKey, CacheEntry)>,
    /// Billed rows of lines that do not wait for this chunk any more.
    late: Vec<(u64, Box<str>, bytes::Bytes)>,
}

impl State {
    /// Reads what a job brought, and settles its chunk.
    pub(crate) async fn settle_chunk(self: &Arc<Self>, claim: &Claim, job: &RemoteStatus) -> Result<(), Error> {
        let batches = self.batches()?;
        let chunk = &claim.chunk;
        match ended(job) {
            Ended::Rows => {}
            Ended::ModelRefused => {
                batches.journal.refused(&chunk.route, self.clock.now()).await.map_err(of_store)?;
                return self.refuse_chunk(claim, job.error.as_deref().unwrap_or("the model is refused")).await;
            }
            Ended::Upload => {
                self.release_lines(chunk, &HashSet::new()).await?;
                return self.close_chunk(batches, claim, (Vec::new(), 0)).await;
            }
            Ended::Never => return self.fail_chunk(batches, claim, job).await,
        }
        let Some(submitter) = batches.submitter(chunk.route.upstream()) else {
            return self.refuse_chunk(claim, "the service has no batches on its upstream").await;
        };
        // A provider that is slow to send holds up the others' for a while only.
        let _turn = timeout(TURN, batches.settling.lock()).await;
        reach("batch: rows are about to be read");
        let mut rows = match submitter.results(job).await {
            Ok(rows) => rows,
            Err(error) => return self.not_readable(claim, &error).await,
        };
        let mut book = self.open_book(batches, claim, &job.id).await?;
        let since = self.invalidations.now();
        let (mut is_over, mut doubled, mut charged) = (false, 0, HashSet::new());
        while !is_over {
            let mut block = Vec::with_capacity(BLOCK);
            while block.len() < BLOCK && !is_over {
                let cut = || Err(BatchError::NotReady { id: job.id.clone() });
                match rows.next().await.unwrap_or_else(cut) {
                    Ok(Row::End { .. }) => is_over = true,
                    Ok(row) => block.push(row),
                    // What was read is kept and paid; only the rest goes again.
                    Err(error) if self.is_given_up(claim) => {
                        self.tell_of_given_up(claim, &error);
                        is_over = true;
                    }
                    Err(error) => return self.not_readable(claim, &error).await,
                }
            }
            let working = tokio::task::spawn_blocking(move || book.take(block).map(|brought| (book, brought)));
            let brought;
            (book, brought) = working.await.map_err(io::Error::other).and_then(|taken| taken).map_err(of_spool)?;
            let Brought { mut billed, entries, late } = brought;
            let late = self.late_records(batches, chunk, &job.id, late).await?;
            doubled += late.len() as u64;
            billed.extend(late);
            charged.extend(self.pay(batches, chunk, billed).await?);
            self.keep_many_unless_invalidated(since, entries).await;
        }
        let (alien, malformed) = (book.alien, book.malformed);
        if alien + malformed > 0 {
            tracing::warn!(batch = %chunk.key.batch, job = %job.id, alien, malformed, "a job has rows of no line");
        }
        for code in &book.codes {
            let title = || format!("batches have rows of the unknown code {code:?}: their lines are tried once more");
            self.tell_once(AlertKind::BatchPartial, code, title);
        }
        reach("batch: rows are read");
        let working = tokio::task::spawn_blocking(move || book.finish());
        let outcomes = working.await.map_err(io::Error::other).and_then(|done| done).map_err(of_spool)?;
        reach("batch: rows are on the disk");
        self.release_lines(chunk, &charged).await?;
        self.close_chunk(batches, claim, (outcomes, doubled)).await
    }

    async fn open_book(self: &Arc<Self>, batches: &Batches, claim: &Claim, job: &RemoteId) -> Result<Book, Error> {
        let chunk = claim.chunk.clone();
        let lines = batches.journal.lines_of(chunk.key).await.map_err(of_store)?;
        let policy = batches.journal.find(chunk.key.batch).await.map_err(of_store)?.map(|row| row.policy);
        // Damaged, it withholds no answer that is paid.
        let policy = policy.map_or_else(Policy::default, |policy| {
            serde_json::from_str(&policy).unwrap_or_else(|error| {
                let error = row::unreadable("policy", &error);
                tracing::warn!(batch = %chunk.key.batch, %error, "what the batch asked for is not known any more");
                Policy::default()
            })
        });
        let requests = batches.journal.requests(chunk.key.batch).map_err(of_spool)?;
        let output = batches.journal.output(&chunk.key, claim.fence).map_err(of_spool)?;
        Ok(Book {
            state: Arc::clone(self),
            chunk,
            remote: job.as_str().into(),
            require_stop: policy.require_stop,
            requests,
            output,
            outcomes: Vec::with_capacity(lines.len()),
            noted: vec![None; lines.len()],
            lines,
            billed: HashSet::new(),
            alien: 0,
            malformed: 0,
            codes: HashSet::new(),
        })
    }

    /// Says so in the journal: the chunk is settled, and these lines have ended.
    async fn close_chunk(
        &self,
        batches: &Batches,
        claim: &Claim,
        (outcomes, late): (Vec<Outcome>, u64),
    ) -> Result<(), Error> {
        let (now, key, fence, journal) = (self.clock.now(), claim.chunk.key, claim.fence, &batches.journal);
        let answered = outcomes.iter().filter(|outcome| outcome.state == LineState::Done).count();
        let (from, to) = (vec![ChunkState::Ended], ChunkState::Settled);
        let how = Settling { from, to, outcomes, tried: true, late };
        let is_settled = journal.settle(key, fence, how, now).await.map_err(of_store)?;
        if is_settled {
            journal.remove_inputs(key).await.map_err(of_store)?;
            tracing::info!(batch = %key.batch, round = key.round, answered, "a job was settled");
            // Whoever lost the chunk meanwhile may get it again, and charges no line twice.
            batches.paid.forget(key);
        }
        batches.moved();
        Ok(())
    }

    /// A job that will not run: its lines fail with its own words, and nothing is tried again.
    async fn fail_chunk(self: &Arc<Self>, batches: &Batches, claim: &Claim, job: &RemoteStatus) -> Result<(), Error> {
        let why = job.error.as_deref().unwrap_or("the provider does not say why");
        let about = job.id.as_str();
        let lines = batches.journal.lines_of(claim.chunk.key).await.map_err(of_store)?;
        let mut output = batches.journal.output(&claim.chunk.key, claim.fence).map_err(of_spool)?;
        let error = LineError::new(LineErrorKind::JobFailed, "", why);
        let place =
            output.append(&row::of_error(&error)).and_then(|place| output.sync().map(|()| place)).map_err(of_spool)?;
        let failure = (error.kind.as_str().into(), "".into(), "".into());
        let failed = |line: &LineRef| Outcome {
            answer: Some(place.clone()),
            failure: Some(Clone::clone(&failure)),
            ..Outcome::new(line.index, LineState::Failed)
        };
        self.release_lines(&claim.chunk, &HashSet::new()).await?;
        self.close_chunk(batches, claim, (lines.iter().map(failed).collect(), 0)).await?;
        let title = || format!("batch job {about} failed: {why}");
        self.tell_batch(AlertKind::BatchFailed, about, title);
        Ok(())
    }

    /// Rows that cannot be read now are read later; after a day they are taken for lost, and their lines go again.
    async fn not_readable(self: &Arc<Self>, claim: &Claim, error: &BatchError) -> Result<(), Error> {
        if self.is_given_up(claim) {
            self.tell_of_given_up(claim, error);
            self.release_lines(&claim.chunk, &HashSet::new()).await?;
            return self.close_chunk(self.batches()?, claim, (Vec::new(), 0)).await;
        }
        tracing::warn!(batch = %claim.chunk.key.batch, %error, "the rows of a job cannot be read yet");
        let now = self.clock.now();
        let change = Change { next_at: now.checked_add(REST), ..Change::default() };
        let from = [ChunkState::Ended];
        let journal = &self.batches()?.journal;
        journal.step(claim.chunk.key, claim.fence, &from, ChunkState::Ended, change, now).await.map_err(of_store)?;
        Ok(())
    }

    /// Whether rows of a chunk were asked for in vain for long enough.
    fn is_given_up(&self, claim: &Claim) -> bool {
        passed(claim.chunk.since, self.clock.now()) >= UNREADABLE
    }

    fn tell_of_given_up(self: &Arc<Self>, claim: &Claim, error: &BatchError) {
        tracing::error!(batch = %claim.chunk.key.batch, %error, "rows of a job are given up");
        let job = claim.chunk.remote_id.as_deref().unwrap_or_default();
        let title = || format!("rows of batch job {job} cannot be read for a day; their lines are sent again: {error}");
        self.tell_batch(AlertKind::BatchFailed, job, title);
    }
}

impl Book {
    /// Takes rows in: answers and errors go to the spool, what they mean into the outcomes.
    fn take(&mut self, rows: Vec<Row>) -> io::Result<Brought> {
        let mut brought = Brought::default();
        for row in rows {
            let meaning = verdict(&row);
            match row {
                Row::Answer { custom_id, body, .. } if meaning == Some(Verdict::Answered) => {
                    self.answered(&mut brought, custom_id, &body)?;
                }
                Row::Answer { custom_id, status, body } => {
                    let message: String = String::from_utf8_lossy(&body).chars().take(500).collect();
                    self.failed(&custom_id, meaning, &status.to_string(), &message)?;
                }
                Row::Error { custom_id, code, message } => self.failed(&custom_id, meaning, &code, &message)?,
                _ => self.malformed += 1,
            }
        }
        Ok(brought)
    }

    /// The line of a row, if it belongs to this round.
    fn index(&mut self, custom_id: &str) -> Option<u64> {
        let index = self.chunk.key.batch.line_of(custom_id).filter(|(round, _)| *round == self.chunk.key.round);
        self.alien += u64::from(index.is_none());
        index.map(|(_, index)| index)
    }

    /// Where a line stands among those that wait for this chunk.
    fn place(&self, index: u64) -> Option<usize> {
        self.lines.binary_search_by_key(&index, |line| line.index).ok()
    }

    fn answered(&mut self, brought: &mut Brought, custom_id: Box<str>, body: &bytes::Bytes) -> io::Result<()> {
        let Some(index) = self.index(&custom_id) else { return Ok(()) };
        if !self.billed.insert(custom_id.clone()) {
            self.alien += 1;
            return Ok(());
        }
        let Some((at, line)) = self.place(index).and_then(|at| Some((at, self.lines.get(at)?.clone()))) else {
            brought.late.push((index, custom_id, body.clone()));
            return Ok(());
        };
        let state = Arc::clone(&self.state);
        // An answer is paid, and there, also where nobody knows any more what was asked.
        let (request, is_known) = match state.request_at(&self.requests, line.request) {
            Err(error) if is_damaged(&error) => (InferenceRequest::chat(""), false),
            request => (request?, true),
        };
        let (record, answer) = state.record_of(&self.chunk, &self.remote, &custom_id, &request, index, body);
        let cost = record.cost.known().map(Usd::nanos);
        let usage = record.usage;
        brought.billed.push((record, request.clone(), index));
        let Some(answer) = answer else {
            let error = LineError::new(LineErrorKind::Unreadable, "200", "the answer cannot be read");
            return self.fail(at, LineState::Waiting, &error);
        };
        let was_cut = answer.finish() == Some(&FinishReason::Length);
        let place = self.output.append(&row::of_body(body))?;
        let mut outcome = Outcome { answer: Some(place), usage, cost, ..Outcome::new(index, LineState::Done) };
        if self.require_stop && was_cut {
            outcome.state = LineState::Failed;
            outcome.failure =
                Some((LineErrorKind::Invalid.as_str().into(), "length".into(), "the answer was cut".into()));
        } else if is_known && let Some(entry) = self.entry(&request, answer) {
            brought.entries.push(entry);
        }
        // Success beats an error that came before it.
        self.note(at, outcome);
        Ok(())
    }

    /// What the cache is to keep of an answer.
    fn entry(&self, request: &InferenceRequest, answer: Answer) -> Option<(CacheKey, CacheEntry)> {
        let control = request.caching().ok().filter(|control| control.write)?;
        if !plan::is_whole(request, &answer) {
            return None;
        }
        let ttl = control.ttl.unwrap_or(Kind::Inference.ttl());
        let entry = CacheEntry::new(CacheValue::Inference(Arc::new(answer)), ttl).kept_for(control.stale_if_error);
        Some((self.state.key_to(request, &self.chunk.route), entry))
    }

    fn failed(&mut self, custom_id: &str, verdict: Option<Verdict>, code: &str, message: &str) -> io::Result<()> {
        let Some(index) = self.index(custom_id) else { return Ok(()) };
        let Some(at) = self.place(index) else { return Ok(()) };
        // It goes where a code belongs, and not a text of any length.
        let code = code.char_indices().nth(CODE).map_or(code, |(end, _)| code.get(..end).unwrap_or(code));
        let tried = self.lines.get(at).map_or(0, |line| line.attempts);
        let (kind, state) = match verdict {
            Some(Verdict::Permanent) => (LineErrorKind::Invalid, LineState::Failed),
            Some(Verdict::Unknown) if tried >= UNKNOWN_TRIES => (LineErrorKind::Invalid, LineState::Failed),
            Some(Verdict::Unknown) => {
                if self.codes.len() < CODES {
                    self.codes.insert(code.into());
                }
                (LineErrorKind::Transient, LineState::Waiting)
            }
            _ => (LineErrorKind::Transient, LineState::Waiting),
        };
        self.fail(at, state, &LineError::new(kind, code, message))
    }

    /// The first word on a line counts, unless an answer comes.
    fn fail(&mut self, at: usize, state: LineState, error: &LineError) -> io::Result<()> {
        let Some(line) = self.lines.get(at).filter(|_| self.noted.get(at).is_some_and(Option::is_none)) else {
            self.alien += 1;
            return Ok(());
        };
        let index = line.index;
        let place = self.output.append(&row::of_error(error))?;
        // The message may quote a prompt: it is in the spool alone.
        let failure = Some((error.kind.as_str().into(), error.code.clone(), "".into()));
        self.note(at, Outcome { answer: Some(place), failure, ..Outcome::new(index, state) });
        Ok(())
    }

    fn note(&mut self, at: usize, outcome: Outcome) {
        let Some(noted) = self.noted.get_mut(at) else { return };
        if let Some(before) = noted.and_then(|before| self.outcomes.get_mut(before as usize)) {
            *before = outcome;
        } else {
            *noted = u32::try_from(self.outcomes.len()).ok();
            self.outcomes.push(outcome);
        }
    }

    /// Everything is on the disk; what became of each line.
    fn finish(mut self) -> io::Result<Vec<Outcome>> {
        let error = LineError::new(LineErrorKind::Missing, "", "the job brought neither an answer nor an error");
        for at in 0..self.noted.len() {
            if self.noted.get(at).is_some_and(Option::is_none) {
                self.fail(at, LineState::Waiting, &error)?;
            }
        }
        self.output.sync()?;
        Ok(self.outcomes)
    }
}
