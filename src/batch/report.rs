//! What came of a batch.

use std::{fmt, time::SystemTime};

use super::BatchId;
use crate::types::{RouteId, Usage, Usd};

/// What came of a batch: `succeeded + failed.len() + cancelled == total`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchReport {
    /// Which.
    pub id: BatchId,
    /// The name that it was given.
    pub name: Option<Box<str>>,
    /// All lines.
    pub total: u64,
    /// Lines with an answer.
    pub succeeded: u64,
    /// Lines without one, in input order.
    pub failed: Vec<LineFailure>,
    /// Lines that were not answered because the batch was cancelled.
    pub cancelled: u64,
    /// Of those that succeeded: answered by the cache.
    pub from_cache: u64,
    /// Of those that succeeded: answered with the line that they repeat.
    pub deduplicated: u64,
    /// Lines that took more than one try.
    pub retried: u64,
    /// Of those that succeeded: answered one by one for the deadline's sake.
    pub rescued: u64,
    /// Rounds of jobs.
    pub rounds: u16,
    /// The jobs of the provider.
    pub jobs: Vec<JobSummary>,
    /// Tokens of all answers that were paid.
    pub usage: Usage,
    /// What they cost.
    pub cost: Usd,
    /// Lines that were answered twice, by a job and one by one: what the job took for them is in the ledger alone.
    pub double_billed: u64,
    /// Answers of models whose price is not known: in no sum.
    pub unpriced_lines: u64,
    /// When it was planned.
    pub started: SystemTime,
    /// When its last line ended.
    pub finished: SystemTime,
}

/// A line that has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LineFailure {
    /// Which line, from 0.
    pub index: u64,
    /// The id that it was given.
    pub id: Option<Box<str>>,
    /// What went wrong.
    pub error: LineError,
    /// How often it was tried.
    pub attempts: u32,
    /// What that cost; nothing, unless an answer was paid that could not be used.
    pub billed: Usd,
}

/// Why a line has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}{}: {message}", Code(code))]
#[non_exhaustive]
pub struct LineError {
    /// What kind of failure.
    pub kind: LineErrorKind,
    /// The provider's code, if it gave one; it groups what fails for good with what may pass.
    pub code: Box<str>,
    /// In the provider's words.
    pub message: Box<str>,
}

struct Code<'a>(&'a str);

impl fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// What kind of failure a line met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LineErrorKind {
    /// The request cannot be sent, or the provider says that it can never succeed.
    Invalid,
    /// It might have succeeded, and did not within its tries.
    Transient,
    /// The provider brought neither an answer nor an error for it.
    Missing,
    /// The whole job failed.
    JobFailed,
    /// The batch was cancelled first.
    Cancelled,
    /// The deadline came first.
    Late,
    /// The answer cannot be read.
    Unreadable,
    /// Of a kind that a newer version of the crate wrote.
    Other,
}

const KINDS: [(LineErrorKind, &str); 7] = [
    (LineErrorKind::Invalid, "invalid"),
    (LineErrorKind::Transient, "transient"),
    (LineErrorKind::Missing, "missing"),
    (LineErrorKind::JobFailed, "job_failed"),
    (LineErrorKind::Cancelled, "cancelled"),
    (LineErrorKind::Late, "late"),
    (LineErrorKind::Unreadable, "unreadable"),
];

impl LineErrorKind {
    /// The name in logs and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("other", |(_, name)| name)
    }

    /// The kind of that name.
    #[cfg(any(test, feature = "batch"))]
    pub(crate) fn of(name: &str) -> Self {
        KINDS.iter().find(|(_, known)| *known == name).map_or(Self::Other, |(kind, _)| *kind)
    }
}

impl fmt::Display for LineErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LineError {
    /// An error of this kind, with the provider's code or none.
    pub fn new(kind: LineErrorKind, code: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Self {
        Self { kind, code: code.into(), message: message.into() }
    }
}

/// A job of the provider's, as it was last heard of.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct JobSummary {
    /// Its id at the provider.
    pub id: Box<str>,
    /// The round that it was of, from 0.
    pub round: u16,
    /// The model of its lines.
    pub route: RouteId,
    /// How many lines it had.
    pub lines: u64,
    /// The provider's word on how it stands.
    pub status: Box<str>,
    /// Why it failed as a whole, in the provider's words.
    pub error: Option<Box<str>>,
}

impl BatchReport {
    /// Whether every line has an answer.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.succeeded == self.total
    }
}

impl fmt::Display for BatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.finished.duration_since(self.started).unwrap_or_default();
        write!(f, "batch {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        writeln!(f, ": {} of {} lines answered in {:.1?}", self.succeeded, self.total, took)?;
        write!(f, "{} from the cache, {} duplicates, ", self.from_cache, self.deduplicated)?;
        write!(f, "{} retried, {} rescued, ", self.retried, self.rescued)?;
        writeln!(f, "{} failed, {} cancelled", self.failed.len(), self.cancelled)?;
        for job in &self.jobs {
            write!(f, "  job {} ({}, round {}): {} lines, {}", job.id, job.route, job.round, job.lines, job.status)?;
            match &job.error {
                Some(error) => writeln!(f, ": {error}")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "cost: {}", self.cost)?;
        if self.unpriced_lines > 0 {
            write!(f, "; {} answers of models without a known price are in no sum", self.unpriced_lines)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_that_are_read_back() {
        for (kind, name) in KINDS {
            assert_eq!((kind.as_str(), LineErrorKind::of(name)), (name, kind));
        }
        assert_eq!(LineErrorKind::of("melted"), LineErrorKind::Other);
        let error = LineError::new(LineErrorKind::Invalid, "batch_client_error", "no such tool");
        assert_eq!(error.to_string(), "invalid (batch_client_error): no such tool");
    }
}
