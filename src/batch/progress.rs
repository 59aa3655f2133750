//! How far a batch is.

use std::time::Duration;

use crate::types::Usd;

/// How far a batch is. It never goes back.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchProgress {
    /// What is being done.
    pub phase: BatchPhase,
    /// All lines.
    pub total: u64,
    /// Lines that the cache answered.
    pub cached: u64,
    /// Lines that are in jobs, or were.
    pub sent: u64,
    /// Lines with an answer.
    pub done: Done,
    /// Lines without one, for good.
    pub failed: u64,
    /// The round of jobs, from 0.
    pub round: u16,
    /// How far the provider says that its jobs are, in percent, weighed by their lines.
    pub server_percent: Option<f32>,
    /// Since it was planned.
    pub elapsed: Duration,
    /// How long it may still take: half of all such batches, and nine of ten; once there is something to go by.
    pub eta: Option<(Duration, Duration)>,
    /// What its answers cost so far.
    pub cost_so_far: Usd,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BatchPhase {
    /// Its lines wait to be submitted.
    Planned,
    /// The provider works.
    Running,
    /// It is being stopped.
    Cancelling,
    /// Every line has ended.
    Finished,
}

/// How many lines have an answer: the provider counts in percent, so that it is not exact until rows are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// So many.
    Exact(u64),
    /// So many by the provider's percent.
    Estimated(u64),
}

impl Done {
    /// How many, exact or not.
    #[must_use]
    pub const fn lines(self) -> u64 {
        match self {
            Self::Exact(lines) | Self::Estimated(lines) => lines,
        }
    }
}

#[cfg(feature = "batch")]
impl BatchProgress {
    /// Takes over from an earlier one what would go back: an estimate that was too high stands until it is reached.
    pub(crate) fn never_before(&mut self, before: &Self) {
        self.sent = self.sent.max(before.sent);
        self.failed = self.failed.max(before.failed);
        self.cached = self.cached.max(before.cached);
        self.round = self.round.max(before.round);
        let most = self.total.saturating_sub(self.failed);
        if self.done.lines() < before.done.lines() && self.phase != BatchPhase::Finished {
            self.done = Done::Estimated(before.done.lines().min(most));
        }
    }
}
