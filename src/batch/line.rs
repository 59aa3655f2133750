//! A line of a batch, on its way out and back.

use std::sync::Arc;

use super::LineError;
use crate::{
    inference::{Answer, InferenceRequest},
    types::{Cost, FinishReason, ModelId, Usage},
};

/// A request of a batch, with the id that its answer is known by.
///
/// ```
/// use together_inference::{InferenceRequest, batch::BatchLine};
///
/// let line = BatchLine::from(("review-7", InferenceRequest::chat("Is this a good review?")));
/// assert_eq!(line.id.as_deref(), Some("review-7"));
/// assert_eq!(BatchLine::from(InferenceRequest::chat("hi")).id, None);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchLine {
    /// What the caller knows it by. It stays here: the provider is told a name of ours.
    pub id: Option<Box<str>>,
    /// What is asked.
    pub request: InferenceRequest,
}

impl<R: Into<InferenceRequest>> From<R> for BatchLine {
    fn from(request: R) -> Self {
        Self { id: None, request: request.into() }
    }
}

impl<I: Into<Box<str>>, R: Into<InferenceRequest>> From<(I, R)> for BatchLine {
    fn from((id, request): (I, R)) -> Self {
        Self { id: Some(id.into()), request: request.into() }
    }
}

/// A line of a batch that has ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchRow {
    /// Which, from 0, in the order in which the lines were given.
    pub index: u64,
    /// The id that it was given.
    pub id: Option<Box<str>>,
    /// Its answer, or why it has none.
    pub result: Result<BatchAnswer, LineError>,
}

impl BatchRow {
    /// The row of a line that came to this.
    #[must_use]
    pub const fn new(index: u64, id: Option<Box<str>>, result: Result<BatchAnswer, LineError>) -> Self {
        Self { index, id, result }
    }
}

/// The answer of a line.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchAnswer {
    /// The answer, with the model that served it and what it used.
    pub answer: Arc<Answer>,
    /// What it cost: nothing out of the cache, and for a line that repeats another.
    pub cost: Cost,
    /// Where it came from.
    pub source: LineSource,
}

/// Where the answer of a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LineSource {
    /// A job of the provider's.
    Job,
    /// A call of its own.
    Realtime,
    /// The cache.
    Cache,
    /// The line that it repeats.
    Duplicate,
}

impl BatchAnswer {
    /// The text of the answer; empty if it is only tool calls.
    #[must_use]
    pub fn text(&self) -> &str {
        self.answer.text()
    }

    /// The model that answered.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        &self.answer.served
    }

    /// What it used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.answer.usage
    }

    /// Why it ended.
    #[must_use]
    pub fn finish(&self) -> Option<&FinishReason> {
        self.answer.finish()
    }
}
