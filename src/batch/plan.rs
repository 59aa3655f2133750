//! What a batch would be, before anything is sent.

use std::{fmt, time::Duration};

use crate::types::{Cost, RouteId, Usd};

/// What a batch would be: how many lines go where, and what they would cost.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct BatchPlan {
    /// All lines.
    pub lines: u64,
    /// Lines that the cache answers: never sent.
    pub cached: u64,
    /// Lines that repeat another line of the batch: sent once.
    pub duplicates: u64,
    /// The chunks that the rest is sent in, each of one model.
    pub chunks: Vec<ChunkPlan>,
    /// Lines that cannot be sent, by index, and why. They fail without being sent; the first 1,000 are named.
    pub refused: Vec<(u64, Box<str>)>,
    /// How many cannot be sent.
    pub refused_lines: u64,
    /// What it is expected to cost.
    pub expected: Usd,
    /// What it costs at most.
    pub at_most: Usd,
    /// What the same would be expected to cost in realtime.
    pub realtime: Usd,
    /// Lines of models whose price is not known: in no sum.
    pub unpriced_lines: u64,
    /// How long jobs take: half of them, and nine of ten. `None` where nothing is sent as a job.
    pub eta: Option<(Duration, Duration)>,
}

/// A part of a batch that becomes one job, or is answered one by one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChunkPlan {
    /// The model of every line.
    pub route: RouteId,
    /// How many lines.
    pub lines: u64,
    /// How many bytes are uploaded.
    pub bytes: u64,
    /// Tokens of prompts and answers, roughly.
    pub tokens: u64,
    /// What is taken off the model's price in batches, in percent; `None` where nothing is.
    pub percent_off: Option<u8>,
    /// Why its lines are answered one by one and not as a job, where they are.
    pub one_by_one: Option<Box<str>>,
}

impl BatchPlan {
    /// Lines that are sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.lines).sum()
    }

    /// What is expected to be saved by sending them as a batch.
    #[must_use]
    pub fn saved(&self) -> Usd {
        self.realtime - self.expected
    }

    /// The upper bound as a cost: unpriced where the price of a line is not known.
    #[must_use]
    pub fn cost_at_most(&self) -> Cost {
        match self.unpriced_lines {
            0 if self.at_most.is_zero() => Cost::Known(Usd::ZERO),
            0 => Cost::Unknown { at_most: self.at_most },
            _ => Cost::Unpriced,
        }
    }
}

impl fmt::Display for BatchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines: {} cached, {} duplicates, ", self.lines, self.cached, self.duplicates)?;
        writeln!(f, "{} refused, {} to send in {} chunks", self.refused_lines, self.sent(), self.chunks.len())?;
        for chunk in &self.chunks {
            write!(f, "  {}: {} lines, {} bytes, ", chunk.route, chunk.lines, chunk.bytes)?;
            match (&chunk.one_by_one, chunk.percent_off) {
                (Some(why), _) => writeln!(f, "one by one: {why}")?,
                (None, Some(percent)) => writeln!(f, "discount: {percent} %")?,
                (None, None) => writeln!(f, "discount: none on this model")?,
            }
        }
        write!(f, "cost: {} expected, {} at most; in realtime {}", self.expected, self.at_most, self.realtime)?;
        if self.unpriced_lines > 0 {
            write!(f, "; {} lines of models without a known price are in no sum", self.unpriced_lines)?;
        }
        Ok(())
    }
}
