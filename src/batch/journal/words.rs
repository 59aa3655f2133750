//! What the journal is told and tells.

use std::time::{Duration, SystemTime};

use crate::{
    batch::BatchId,
    types::{RouteId, Tenant, Usage},
};

/// A batch as it is planned.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) id: BatchId,
    pub(crate) tenant: Option<Tenant>,
    /// What it is found by again; no other batch of the tenant has it.
    pub(crate) name: Option<Box<str>>,
    /// The hash of everything that was asked.
    pub(crate) content: [u8; 32],
    pub(crate) total: u64,
    pub(crate) created: SystemTime,
    pub(crate) deadline: Option<SystemTime>,
    /// What else was asked of it, as JSON: the journal does not read it.
    pub(crate) policy: Box<str>,
}

/// What came of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// It stands now.
    New,
    /// One of that name and content stood already: this one was dropped.
    Same(BatchId),
    /// One of that name and other content stands: this one was dropped.
    NameTaken(BatchId),
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchState {
    /// Lines come one by one, until it is closed.
    Gathering,
    Running,
    /// To be stopped: what has finished is kept.
    Cancelling,
    Finished,
}

/// Where a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineState {
    Waiting,
    Done,
    Failed,
    Cancelled,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Where an answer is: in which file of the batch's folder, and where there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Box<str>,
    pub(crate) span: Span,
}

/// A line as it is planned.
#[derive(Clone, Debug)]
pub(crate) struct NewLine {
    pub(crate) index: u64,
    pub(crate) user_id: Option<Box<str>>,
    /// Where the request is, in the file of requests.
    pub(crate) request: Span,
    /// The cache's key of it, where the answer may be cached.
    pub(crate) key: Option<[u8; 32]>,
    /// The line that it repeats: it is answered when that one is.
    pub(crate) duplicate_of: Option<u64>,
    /// Its chunk in the first round; none for a duplicate and for what is done already.
    pub(crate) chunk: Option<u32>,
    /// What came of it already: an answer out of the cache, or a refusal.
    pub(crate) outcome: Option<Outcome>,
}

/// What came of a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) index: u64,
    /// [`LineState::Waiting`] says why a try brought nothing; the line goes on waiting.
    pub(crate) state: LineState,
    /// Where the answer is, or the provider's row of the error.
    pub(crate) answer: Option<Place>,
    pub(crate) usage: Usage,
    /// In nano-dollars; none where no price is known.
    pub(crate) cost: Option<i64>,
    /// Whether it was answered by the cache.
    pub(crate) cached: bool,
    /// Whether it was answered one by one, for the deadline's sake.
    pub(crate) rescued: bool,
    /// Whether a call of its own answered it.
    pub(crate) singly: bool,
    /// Why it failed: a kind of ours, the provider's code, the provider's words.
    pub(crate) failure: Option<(Box<str>, Box<str>, Box<str>)>,
}

impl Outcome {
    /// One that says nothing else.
    pub(crate) const fn new(index: u64, state: LineState) -> Self {
        let (answer, cost, failure) = (None, None, None);
        Self { index, state, answer, usage: Usage::ZERO, cost, cached: false, rescued: false, singly: false, failure }
    }
}

/// A chunk's name: round and number are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChunkKey {
    pub(crate) batch: BatchId,
    pub(crate) round: u16,
    pub(crate) no: u32,
}

/// How the lines of a chunk are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// As a job of the provider's.
    Batch,
    /// One by one.
    Realtime,
    /// One by one, for the deadline's sake.
    Rescue,
}

/// A chunk as it is planned.
#[derive(Clone, Debug)]
pub(crate) struct NewChunk {
    pub(crate) no: u32,
    pub(crate) route: RouteId,
    pub(crate) endpoint: Box<str>,
    pub(crate) way: Way,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    /// An estimate of its tokens.
    pub(crate) tokens: u64,
    /// For how long it is left alone at first.
    pub(crate) rest: Duration,
}

/// Where a chunk stands. The last four are for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ChunkState {
    Planned,
    /// Being uploaded and created: a job of it may exist.
    Submitting,
    /// There is a job.
    Running,
    /// The job is to be stopped.
    Cancelling,
    /// The job has ended; its rows are not all read.
    Ended,
    /// Its rows are read and their costs recorded.
    Settled,
    /// The provider does not take it; no line of it was answered by it.
    Refused,
    /// Its lines go another way, for the deadline's sake.
    Rescued,
    /// It was never submitted.
    Dropped,
}

/// A chunk as the journal has it.
#[derive(Clone, Debug)]
pub(crate) struct ChunkRow {
    pub(crate) key: ChunkKey,
    pub(crate) state: ChunkState,
    pub(crate) route: RouteId,
    pub(crate) endpoint: Box<str>,
    pub(crate) way: Way,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) tokens: u64,
    /// Since when a job of it may exist.
    pub(crate) intent_at: Option<SystemTime>,
    pub(crate) remote_id: Option<Box<str>>,
    /// The provider's own word.
    pub(crate) remote_status: Option<Box<str>>,
    pub(crate) percent: Option<f32>,
    pub(crate) output_file: Option<Box<str>>,
    pub(crate) error_file: Option<Box<str>>,
    /// Why the job failed as a whole, in the provider's words; or why it was refused.
    pub(crate) error: Option<Box<str>>,
    /// Rows that were billed for lines that had been answered elsewhere.
    pub(crate) late: u64,
    /// When it is to be looked at next.
    #[cfg_attr(not(test), expect(dead_code, reason = "claims go by it, and tests look at it"))]
    pub(crate) next_at: SystemTime,
    /// When it came to where it stands.
    pub(crate) since: SystemTime,
}

/// What changes with a step of a chunk; `None` leaves a thing as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) intent_at: Option<SystemTime>,
    pub(crate) remote_id: Option<Box<str>>,
    pub(crate) remote_status: Option<Box<str>>,
    pub(crate) percent: Option<f32>,
    pub(crate) output_file: Option<Box<str>>,
    pub(crate) error_file: Option<Box<str>>,
    pub(crate) error: Option<Box<str>>,
    pub(crate) next_at: Option<SystemTime>,
}

/// A chunk that this process works on. Whoever has a higher fence of it has taken it over.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) chunk: ChunkRow,
    pub(crate) fence: i64,
}

impl Claim {
    /// Whether what is done about it are calls that are paid one by one.
    pub(crate) fn is_of_calls(&self) -> bool {
        self.chunk.way != Way::Batch
    }
}

/// A line of a chunk that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineRef {
    pub(crate) index: u64,
    pub(crate) request: Span,
    pub(crate) key: Option<[u8; 32]>,
    /// Rounds and single tries that it was part of and that brought nothing.
    pub(crate) attempts: u32,
    /// Whether a call of its own was tried last.
    pub(crate) singly: bool,
}

/// A batch as the journal has it.
#[derive(Clone, Debug)]
pub(crate) struct BatchRow {
    pub(crate) id: BatchId,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) name: Option<Box<str>>,
    pub(crate) state: BatchState,
    pub(crate) round: u16,
    pub(crate) total: u64,
    pub(crate) created: SystemTime,
    pub(crate) deadline: Option<SystemTime>,
    pub(crate) finished: Option<SystemTime>,
    pub(crate) policy: Box<str>,
}

/// Sums over the lines of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) waiting: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    /// Of those done; no duplicates.
    pub(crate) cached: u64,
    /// Of those done: lines that repeat another.
    pub(crate) duplicates: u64,
    /// Of those done; no duplicates.
    pub(crate) rescued: u64,
    /// Lines that have ended and took more than one try.
    pub(crate) retried: u64,
    /// Of those done by a paid call: without a price.
    pub(crate) unpriced: u64,
    /// Of lines that are no duplicates.
    pub(crate) usage: Usage,
    pub(crate) cost: i64,
}

/// A line as the journal has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LineRow {
    pub(crate) index: u64,
    pub(crate) user_id: Option<Box<str>>,
    pub(crate) request: Span,
    pub(crate) duplicate_of: Option<u64>,
    /// That of the line that it repeats, for a duplicate; so is what follows.
    pub(crate) state: LineState,
    /// Its place in the order of arrival, from 1, once it has ended.
    pub(crate) arrived: Option<u64>,
    pub(crate) answer: Option<Place>,
    pub(crate) usage: Usage,
    pub(crate) cost: Option<i64>,
    pub(crate) cached: bool,
    pub(crate) rescued: bool,
    pub(crate) singly: bool,
    /// Tries so far, the one that ended it included.
    pub(crate) attempts: u32,
    pub(crate) rounds: u16,
    pub(crate) failure: Option<(Box<str>, Box<str>, Box<str>)>,
}
