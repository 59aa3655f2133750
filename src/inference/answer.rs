//! What a model said: immutable, shared by cache, followers and caller.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    client::{ChatCompletion, Choice, Message, ToolCall},
    types::{FinishReason, ModelId, Usage},
};

/// An answer. Never copied on a cache hit: everybody holds the same one.
///
/// ```
/// use together_inference::inference::Answer;
///
/// let answer = Answer::chat("5 days", "zai-org/GLM-5.3");
/// assert_eq!((answer.served.as_str(), answer.text()), ("zai-org/GLM-5.3", "5 days"));
/// assert!(!format!("{answer:?}").contains("5 days"), "what is logged shows no text");
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// What was produced.
    pub output: Arc<Output>,
    /// The model that produced it, by the provider's word.
    pub served: ModelId,
    /// Tokens, reported or counted; the response says which.
    pub usage: Usage,
    /// Whether the provider reported the usage.
    pub usage_reported: bool,
    /// The provider's JSON, with fields that this version does not know; empty for a folded stream, and dropped by
    /// memory caches.
    pub raw: Bytes,
}

/// Sizes, not texts.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("output", &self.output)
            .field("served", &self.served)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// What was produced.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// Turns of a conversation, one a choice; never empty.
    Chat(Vec<Choice>),
}

impl Answer {
    /// A whole answer of one text, without usage: for tests, and for an [`Infer`](super::Infer) of one's own.
    ///
    /// ```
    /// use together_inference::inference::Answer;
    ///
    /// let answer = Answer::chat("5 days", "zai-org/GLM-5.3");
    /// assert_eq!(answer.text(), "5 days");
    /// assert!(answer.is_complete());
    /// ```
    pub fn chat(text: impl Into<String>, served: impl Into<ModelId>) -> Self {
        let choice = Choice {
            index: 0,
            message: Message::assistant(text.into()),
            finish_reason: Some(FinishReason::Stop),
            seed: None,
            logprobs: None,
        };
        Self {
            output: Arc::new(Output::Chat(vec![choice])),
            served: served.into(),
            usage: Usage::default(),
            usage_reported: false,
            raw: Bytes::new(),
        }
    }

    /// The answer of a completion.
    pub(crate) fn of_completion(completion: ChatCompletion, counted: Usage) -> Self {
        Self {
            usage: completion.usage.unwrap_or(counted),
            usage_reported: completion.usage.is_some(),
            output: Arc::new(Output::Chat(completion.choices)),
            served: completion.model,
            raw: completion.raw,
        }
    }

    /// All answers.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        let Output::Chat(choices) = &*self.output;
        choices
    }

    fn first(&self) -> Option<&Choice> {
        self.choices().first()
    }

    /// The text of the first answer; empty if it is only tool calls.
    #[must_use]
    pub fn text(&self) -> &str {
        self.first().map_or("", Choice::text)
    }

    /// The reasoning of the first answer, where the model shows it.
    #[must_use]
    pub fn reasoning(&self) -> Option<&str> {
        let message = &self.first()?.message;
        message.reasoning.as_deref().or(message.reasoning_content.as_deref())
    }

    /// The tool calls of the first answer.
    #[must_use]
    pub fn tool_calls(&self) -> &[ToolCall] {
        self.first().map_or(&[], |choice| &choice.message.tool_calls)
    }

    /// Why the first answer ended.
    #[must_use]
    pub fn finish(&self) -> Option<&FinishReason> {
        self.first()?.finish_reason.as_ref()
    }

    /// Whether every answer is whole: not cut, not filtered, not empty. Only whole answers are cached.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{FinishReason, InferenceRequest, InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let reply = service.complete(InferenceRequest::chat("Why is the sky blue?").max_tokens(2)).await?;
    /// assert_eq!(reply.finish(), Some(&FinishReason::Length));
    /// assert!(!reply.answer.is_complete());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let whole = |choice: &Choice| {
            choice.finish_reason.as_ref().is_some_and(FinishReason::is_complete)
                && (!choice.text().is_empty() || !choice.message.tool_calls.is_empty())
        };
        !self.choices().is_empty() && self.choices().iter().all(whole)
    }

    /// Whether nothing was said: no text and no tool call.
    ///
    /// ```
    /// use together_inference::inference::Answer;
    ///
    /// assert!(Answer::chat("", "m").is_empty());
    /// assert!(!Answer::chat("5 days", "m").is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.choices().iter().all(|choice| choice.text().is_empty() && choice.message.tool_calls.is_empty())
    }

    /// The same without the provider's JSON: what a memory cache keeps.
    pub(crate) fn without_raw(&self) -> Self {
        Self { raw: Bytes::new(), ..self.clone() }
    }

    /// Bytes in memory, about: what a cache weighs.
    ///
    /// ```
    /// use together_inference::inference::Answer;
    ///
    /// let (short, long) = (Answer::chat("5 days", "m"), Answer::chat("5 days ".repeat(1_000), "m"));
    /// assert!(long.weight() - short.weight() > 6_000);
    /// ```
    #[must_use]
    pub fn weight(&self) -> usize {
        let choices: usize =
            self.choices().iter().map(|choice| size_of::<Choice>() + choice.message.text_bytes()).sum();
        size_of::<Self>() + choices + self.raw.len()
    }
}

/// How an answer is stored outside the process. Plain fields in one place, so that a stored answer reads back whatever
/// the provider's JSON was.
#[derive(Serialize, Deserialize)]
struct Stored {
    served: ModelId,
    usage: Usage,
    usage_reported: bool,
    choices: Vec<StoredChoice>,
}

#[derive(Serialize, Deserialize)]
struct StoredChoice {
    index: u32,
    message: Message,
    finish_reason: Option<FinishReason>,
    seed: Option<u64>,
}

impl Answer {
    /// The answer as JSON, for layers that leave the process. The provider's raw JSON and log probabilities are not
    /// kept.
    ///
    /// ```
    /// use together_inference::inference::Answer;
    ///
    /// let answer = Answer::chat("5 days", "zai-org/GLM-5.3");
    /// assert_eq!(Answer::from_json(&answer.to_json()?)?, answer);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Only if the allocator fails; kept as a `Result` since serialisation may grow.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let choices = self.choices().iter().map(|choice| StoredChoice {
            index: choice.index,
            message: choice.message.clone(),
            finish_reason: choice.finish_reason.clone(),
            seed: choice.seed,
        });
        serde_json::to_vec(&Stored {
            served: self.served.clone(),
            usage: self.usage,
            usage_reported: self.usage_reported,
            choices: choices.collect(),
        })
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// ```
    /// use together_inference::inference::Answer;
    ///
    /// assert!(Answer::from_json(b"null").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let stored: Stored = serde_json::from_slice(json)?;
        let choices = stored.choices.into_iter().map(|choice| Choice {
            index: choice.index,
            message: choice.message,
            finish_reason: choice.finish_reason,
            seed: choice.seed,
            logprobs: None,
        });
        Ok(Self {
            output: Arc::new(Output::Chat(choices.collect())),
            served: stored.served,
            usage: stored.usage,
            usage_reported: stored.usage_reported,
            raw: Bytes::new(),
        })
    }
}
