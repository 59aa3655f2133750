//! The words of a batch: what goes out, how it stands, what comes back.

use std::{fmt, path::PathBuf, sync::Arc, time::SystemTime};

use bytes::Bytes;

use super::BatchError;
use crate::{client::BatchStatus, types::ModelId};

/// Request lines that become one job: of one model, so that a refused model fails nothing else.
///
/// ```
/// use together_inference::batch::{Chunk, ChunkBody};
///
/// let line = r#"{"custom_id":"1","body":{"messages":[{"role":"user","content":"hi"}]}}"#;
/// let chunk = Chunk::new("labels-2026-08-01-0", "zai-org/GLM-5.3", 1, ChunkBody::Bytes(format!("{line}\n").into()));
/// assert_eq!((&*chunk.endpoint, chunk.tried), ("/v1/chat/completions", None));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Chunk {
    /// A name that no other chunk has and that is the same after a restart: how an earlier try is found again.
    pub name: Box<str>,
    /// The path that every line goes to, such as `/v1/chat/completions`.
    pub endpoint: Box<str>,
    /// The model of every line.
    pub model: ModelId,
    /// How many lines.
    pub lines: u64,
    /// The lines.
    pub body: ChunkBody,
    /// When it was first tried, if it was: a job may have been created then.
    pub tried: Option<SystemTime>,
}

impl Chunk {
    /// A chunk of chat requests that was not tried before.
    pub fn new(name: impl Into<Box<str>>, model: impl Into<ModelId>, lines: u64, body: ChunkBody) -> Self {
        Self { name: name.into(), endpoint: CHAT.into(), model: model.into(), lines, body, tried: None }
    }

    /// Sets the path that every line goes to.
    ///
    /// ```
    /// use together_inference::batch::{Chunk, ChunkBody};
    ///
    /// let body = ChunkBody::Bytes("{}\n".into());
    /// let chunk = Chunk::new("old-1", "zai-org/GLM-5.3", 1, body).endpoint("/v1/completions");
    /// assert_eq!(&*chunk.endpoint, "/v1/completions");
    /// ```
    #[must_use]
    pub fn endpoint(mut self, path: impl Into<Box<str>>) -> Self {
        self.endpoint = path.into();
        self
    }

    /// Says when it was first tried.
    #[must_use]
    pub const fn tried(mut self, at: SystemTime) -> Self {
        self.tried = Some(at);
        self
    }
}

/// Where the lines of a chunk are: JSON Lines, each with its `custom_id`, as the provider wants them.
///
/// ```
/// use together_inference::batch::ChunkBody;
///
/// assert_eq!(ChunkBody::Bytes("{}\n{}\n".into()).len(), 6);
/// let part = ChunkBody::File { path: "labels.jsonl".into(), offset: 1_000_000, len: 500_000 };
/// assert_eq!(part.len(), 500_000, "as declared: the file is not opened");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ChunkBody {
    /// In memory.
    Bytes(Bytes),
    /// In a file, so that a hundred chunks need no memory.
    File {
        /// The file.
        path: PathBuf,
        /// Where they begin.
        offset: u64,
        /// How many bytes they have.
        len: u64,
    },
}

impl ChunkBody {
    /// How many bytes the lines have.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::File { len, .. } => *len,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A job as the provider names it.
///
/// ```
/// use together_inference::batch::RemoteId;
///
/// assert_eq!(RemoteId::from("batch_1").as_str(), "batch_1");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RemoteId(Arc<str>);

impl RemoteId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RemoteId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for RemoteId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for RemoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How far a job is.
///
/// ```
/// use together_inference::batch::Phase;
///
/// assert_eq!(Phase::from("IN_PROGRESS"), Phase::InProgress);
/// assert_eq!(Phase::from("PAUSED"), Phase::Other("PAUSED".into()));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// Its lines are read.
    Validating,
    /// It runs.
    InProgress,
    /// It ended by itself; single lines may have failed.
    Completed,
    /// It ended without answers; the job's error says why.
    Failed,
    /// Its time ran out; what was finished by then may be there.
    Expired,
    /// It is being stopped.
    Cancelling,
    /// It was stopped; what was finished by then may be there.
    Cancelled,
    /// A word that this version does not know: the job is taken to run.
    Other(Box<str>),
}

impl Phase {
    /// Whether the job has ended, and nothing about it changes any more.
    ///
    /// ```
    /// use together_inference::batch::Phase;
    ///
    /// assert!(Phase::Cancelled.is_final() && !Phase::Cancelling.is_final());
    /// assert!(!Phase::from("PAUSED").is_final(), "a word that is not known is taken to run");
    /// ```
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Expired | Self::Cancelled)
    }

    /// The word for it, as Together says it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Validating => "VALIDATING",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Expired => "EXPIRED",
            Self::Cancelling => "CANCELING",
            Self::Cancelled => "CANCELLED",
            Self::Other(word) => word,
        }
    }
}

impl From<&BatchStatus> for Phase {
    /// `OpenAI` says `finalizing` too, of a job that still runs.
    fn from(status: &BatchStatus) -> Self {
        match status {
            BatchStatus::Validating => Self::Validating,
            BatchStatus::InProgress => Self::InProgress,
            BatchStatus::Completed => Self::Completed,
            BatchStatus::Failed => Self::Failed,
            BatchStatus::Expired => Self::Expired,
            BatchStatus::Cancelling => Self::Cancelling,
            BatchStatus::Cancelled => Self::Cancelled,
            BatchStatus::Other(word) if word.as_str().eq_ignore_ascii_case("finalizing") => Self::InProgress,
            BatchStatus::Other(word) => Self::Other(word.as_str().into()),
        }
    }
}

impl From<&str> for Phase {
    /// Reads a provider's word in either case and every spelling that was seen.
    fn from(word: &str) -> Self {
        Self::from(&BatchStatus::from(word))
    }
}

/// How a job stands.
///
/// ```
/// use together_inference::batch::{Phase, RemoteStatus};
///
/// let mut status = RemoteStatus::new("batch_1".into(), Phase::InProgress);
/// status.percent = Some(40.0);
/// assert!(status.output_file.is_none() && !status.phase.is_final());
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct RemoteStatus {
    /// Which.
    pub id: RemoteId,
    /// How far it is.
    pub phase: Phase,
    /// The same in the provider's percent, if it says.
    pub percent: Option<f32>,
    /// The file of its lines.
    pub input_file: Option<Box<str>>,
    /// The file of the answers, once there are any.
    pub output_file: Option<Box<str>>,
    /// The file of the errors, once there are any.
    pub error_file: Option<Box<str>>,
    /// Why it failed as a whole, in the provider's words.
    pub error: Option<Box<str>>,
    /// Other jobs of the same lines, ended or not: what a create whose reply was lost made of a chunk that was then
    /// submitted again. They are paid as well, until somebody cancels them.
    pub twins: Vec<RemoteId>,
}

impl RemoteStatus {
    /// A job of which no more is known.
    #[must_use]
    pub const fn new(id: RemoteId, phase: Phase) -> Self {
        Self {
            id,
            phase,
            percent: None,
            input_file: None,
            output_file: None,
            error_file: None,
            error: None,
            twins: Vec::new(),
        }
    }

    /// A job that could not be asked after, while others could: unlike one that the provider does not know, it is taken
    /// to stand as it did.
    ///
    /// ```
    /// use together_inference::batch::RemoteStatus;
    ///
    /// let status = RemoteStatus::unheard("batch_1".into());
    /// assert!(status.is_unheard() && !status.phase.is_final());
    /// ```
    #[must_use]
    pub fn unheard(id: RemoteId) -> Self {
        Self::new(id, Phase::Other("".into()))
    }

    /// Whether it could not be asked after.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        matches!(&self.phase, Phase::Other(word) if word.is_empty())
    }
}

/// A row of a job's results.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Row {
    /// A line that got an HTTP answer, be it an error status.
    Answer {
        /// Which line.
        custom_id: Box<str>,
        /// The status.
        status: u16,
        /// The body as it came: JSON.
        body: Bytes,
    },
    /// A line that got none.
    Error {
        /// Which line.
        custom_id: Box<str>,
        /// The provider's code. It groups what fails for good with what may pass: read the message too.
        code: Box<str>,
        /// The provider's words.
        message: Box<str>,
    },
    /// Not a row: no JSON, or no line that it belongs to. The others are unharmed.
    Malformed {
        /// What is wrong with it.
        problem: Box<str>,
    },
    /// The end of both files.
    End {
        /// How many rows there were, malformed ones included.
        read: u64,
    },
}

const CHAT: &str = "/v1/chat/completions";

/// What a provider takes. The default is what Together documents.
///
/// ```
/// use together_inference::batch::{Chunk, ChunkBody, Limits};
///
/// let body = ChunkBody::Bytes("{}\n".into());
/// assert!(Limits::default().admit(&Chunk::new("labels-1", "zai-org/GLM-5.3", 50_000, body.clone())).is_ok());
/// assert!(Limits::default().admit(&Chunk::new("labels-2", "zai-org/GLM-5.3", 50_001, body)).is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The most lines of a job.
    pub lines: u64,
    /// The most bytes of a job.
    pub bytes: u64,
    /// The most bytes of a line.
    pub line_bytes: u64,
    /// The most tokens that may wait for one model, of all jobs together.
    pub enqueued_tokens: u64,
    /// The paths that lines may go to.
    pub endpoints: Vec<Box<str>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lines: 50_000,
            bytes: 100_000_000,
            line_bytes: 10_000_000,
            enqueued_tokens: 30_000_000_000,
            endpoints: vec![CHAT.into(), "/v1/completions".into()],
        }
    }
}

impl Limits {
    /// Checks what a chunk says of itself: its path, lines and bytes.
    ///
    /// Lines are not read: their own length is not checked here.
    ///
    /// ```
    /// use together_inference::batch::{BatchError, Chunk, ChunkBody, Limits};
    ///
    /// let body = ChunkBody::File { path: "labels.jsonl".into(), offset: 0, len: 200_000_000 };
    /// let refused = Limits::default().admit(&Chunk::new("labels-1", "zai-org/GLM-5.3", 1_000, body));
    /// assert!(matches!(refused, Err(BatchError::Limit { what: "bytes", most: 100_000_000, .. })));
    /// ```
    ///
    /// # Errors
    ///
    /// [`BatchError::Limit`] or [`BatchError::Endpoint`] for the first that is not taken.
    pub fn admit(&self, chunk: &Chunk) -> Result<(), BatchError> {
        if !self.endpoints.contains(&chunk.endpoint) {
            return Err(BatchError::Endpoint { endpoint: chunk.endpoint.clone() });
        }
        for (what, asked, most) in [("lines", chunk.lines, self.lines), ("bytes", chunk.body.len(), self.bytes)] {
            if asked > most {
                return Err(BatchError::Limit { what, asked, most });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> ChunkBody {
        ChunkBody::File { path: PathBuf::from("x.jsonl"), offset: 0, len }
    }

    #[test]
    fn limits_admit_up_to_themselves() {
        let admit = |lines, len| Limits::default().admit(&Chunk::new("c", "m", lines, file(len)));
        assert!(admit(50_000, 100_000_000).is_ok());
        assert!(matches!(admit(50_001, 1), Err(BatchError::Limit { what: "lines", asked: 50_001, most: 50_000 })));
        assert!(matches!(admit(1, 100_000_001), Err(BatchError::Limit { what: "bytes", .. })));
        let elsewhere = Chunk::new("c", "m", 1, file(1)).endpoint("/v1/embeddings");
        assert!(matches!(Limits::default().admit(&elsewhere), Err(BatchError::Endpoint { .. })));
    }

    #[test]
    fn phases_are_read_in_every_spelling_seen() {
        for (word, phase, ended) in [
            ("VALIDATING", Phase::Validating, false),
            ("IN_PROGRESS", Phase::InProgress, false),
            ("COMPLETED", Phase::Completed, true),
            ("CANCELING", Phase::Cancelling, false),
            ("CANCELLED", Phase::Cancelled, true),
            ("PAUSED", Phase::Other("PAUSED".into()), false),
        ] {
            let (read, status) = (Phase::from(word), BatchStatus::from(word));
            assert_eq!((read.as_str(), read.is_final()), (status.as_str(), status.is_final()), "both say the same");
            assert_eq!(Phase::from("finalizing"), Phase::InProgress);
            assert_eq!((read.is_final(), read), (ended, phase));
        }
    }
}
