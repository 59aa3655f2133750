//! What a model said: immutable, shared by cache, followers and caller.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    client::{Choice, Content, Image, Logprobs, Message, Part, Ranked, ToolCall},
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

/// What was produced. `Debug` shows how much, not what.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Output {
    /// Turns of a conversation, or continuations of a prompt, one a choice; never empty.
    Chat(Vec<Choice>),
    /// Vectors, one a text, in the texts' order.
    Embedding(Vec<Arc<[f32]>>),
    /// Pictures.
    Image(Vec<Image>),
    /// Documents, best first.
    Rerank(Vec<Ranked>),
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chat(choices) => f.debug_tuple("Chat").field(choices).finish(),
            Self::Embedding(vectors) => write!(f, "Embedding({} vectors)", vectors.len()),
            Self::Image(images) => f.debug_tuple("Image").field(images).finish(),
            Self::Rerank(ranking) => write!(f, "Rerank({} documents)", ranking.len()),
        }
    }
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

    /// All answers of a conversation or a prompt; none where something else was asked.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        match &*self.output {
            Output::Chat(choices) => choices,
            _ => &[],
        }
    }

    /// The vectors, one a text in the texts' order; none where something else was asked.
    #[must_use]
    pub fn vectors(&self) -> &[Arc<[f32]>] {
        match &*self.output {
            Output::Embedding(vectors) => vectors,
            _ => &[],
        }
    }

    /// The pictures; none where something else was asked.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        match &*self.output {
            Output::Image(images) => images,
            _ => &[],
        }
    }

    /// The documents, best first; none where something else was asked.
    #[must_use]
    pub fn ranking(&self) -> &[Ranked] {
        match &*self.output {
            Output::Rerank(ranking) => ranking,
            _ => &[],
        }
    }

    /// The first answer that says something, where several were asked for; else the first one.
    pub(super) fn first(&self) -> Option<&Choice> {
        let choices = self.choices();
        choices.iter().find(|choice| !choice.is_silent()).or_else(|| choices.first())
    }

    /// How many answers said nothing where others did: neither a text nor a tool call. They used up their tokens by
    /// thinking, or were cut before they began.
    #[must_use]
    pub fn silent(&self) -> usize {
        self.choices().iter().filter(|choice| choice.is_silent()).count()
    }

    /// The text of the first answer that says something; empty if it is only tool calls.
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
            choice.finish_reason.as_ref().is_some_and(FinishReason::is_complete) && !choice.is_silent()
        };
        !self.is_empty() && self.choices().iter().all(whole)
    }

    /// Whether there is nothing in it: no text but white space and no tool call, no vector, no picture, no document.
    ///
    /// ```
    /// use together_inference::inference::Answer;
    ///
    /// assert!(Answer::chat("", "m").is_empty());
    /// assert!(!Answer::chat("5 days", "m").is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &*self.output {
            Output::Chat(choices) => choices.iter().all(Choice::is_silent),
            Output::Embedding(vectors) => vectors.is_empty(),
            Output::Image(images) => images.is_empty(),
            Output::Rerank(ranking) => ranking.is_empty(),
        }
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
        let output: usize = match &*self.output {
            Output::Chat(choices) => choices.iter().map(choice_bytes).sum(),
            Output::Embedding(vectors) => vectors.iter().map(|vector| size_of_val::<[f32]>(vector) + 32).sum(),
            Output::Image(images) => images.iter().map(image_bytes).sum(),
            Output::Rerank(ranking) => {
                let document = |ranked: &Ranked| ranked.document.as_ref().map_or(0, json_bytes);
                ranking.iter().map(|ranked| size_of::<Ranked>() + document(ranked)).sum()
            }
        };
        size_of::<Self>() + output + self.raw.len()
    }
}

fn choice_bytes(choice: &Choice) -> usize {
    let media: usize = match &choice.message.content {
        Some(Content::Parts(parts)) => parts.iter().map(|part| size_of::<Part>() + media_bytes(part)).sum(),
        _ => 0,
    };
    let logprobs = choice.logprobs.as_ref().map_or(0, logprobs_bytes);
    size_of::<Choice>() + choice.message.text_bytes() + media + logprobs
}

/// The text of a part is among its turn's.
fn media_bytes(part: &Part) -> usize {
    match part {
        Part::Text(_) => 0,
        Part::ImageUrl(url) | Part::VideoUrl(url) | Part::AudioUrl(url) => url.len(),
        Part::InputAudio { data, format } => data.len() + format.len(),
        Part::Other(fields) => fields_bytes(fields),
    }
}

fn logprobs_bytes(logprobs: &Logprobs) -> usize {
    let Logprobs { token_ids, tokens, token_logprobs, top_logprobs } = logprobs;
    let texts: usize = tokens.iter().flatten().map(String::len).sum();
    size_of_val::<[_]>(token_ids)
        + size_of_val::<[_]>(tokens)
        + size_of_val::<[_]>(token_logprobs)
        + texts
        + top_logprobs.as_ref().map_or(0, json_bytes)
}

/// A value in memory, which takes many times its JSON.
fn json_bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(json_bytes).sum(),
            Value::Object(fields) => fields_bytes(fields),
            _ => 0,
        }
}

fn fields_bytes(fields: &Map<String, Value>) -> usize {
    fields.iter().map(|(name, value)| size_of::<String>() + name.len() + json_bytes(value)).sum()
}

fn image_bytes(image: &Image) -> usize {
    image.bytes().map_or(0, Bytes::len) + image.url().map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn what_an_answer_repeats_weighs_too() {
        let answer = |output| Answer { output: Arc::new(output), ..Answer::chat("", "m") };
        let text = "x".repeat(100_000);
        let ranked = |document: Value| {
            let ranked: Ranked = from_value(json!({"index": 0, "relevance_score": 1, "document": document})).unwrap();
            answer(Output::Rerank(vec![ranked])).weight()
        };
        assert!(ranked(json!({"text": text})) > 100_000);
        // Five values of JSON take more than a letter each in memory.
        assert!(
            ranked(json!({"text": [1, null, true, {}, []]})) - ranked(json!({"text": []})) >= 5 * size_of::<Value>()
        );

        let logprobs = Logprobs {
            token_ids: vec![Some(1); 1_000],
            tokens: vec![Some("abcd".to_owned()); 1_000],
            token_logprobs: vec![Some(-0.5); 1_000],
            top_logprobs: Some(json!([{"abcd": -0.5}, text])),
        };
        let mut choice = Answer::chat("hi", "m").choices()[0].clone();
        let plain = answer(Output::Chat(vec![choice.clone()])).weight();
        choice.logprobs = Some(logprobs);
        let weight = answer(Output::Chat(vec![choice])).weight() - plain;
        assert!(weight > 1_000 * (16 + 24 + 4 + 16) + 100_000, "{weight}");
    }
}
