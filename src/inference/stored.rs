//! An answer outside the process, and back.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Answer, Output};
use crate::{
    client::{Choice, Image, Logprobs, Message, Ranked},
    types::{FinishReason, ModelId, Usage},
};

/// How an answer is stored outside the process. Plain fields in one place, so that a stored answer reads back whatever
/// the provider's JSON was.
#[derive(Serialize, Deserialize)]
struct Stored {
    served: ModelId,
    usage: Usage,
    usage_reported: bool,
    output: StoredOutput,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredOutput {
    Chat(Vec<StoredChoice>),
    Embedding(Vec<Arc<[f32]>>),
    Image(Vec<Image>),
    Rerank(Vec<Ranked>),
}

#[derive(Serialize, Deserialize)]
struct StoredChoice {
    index: u32,
    message: Message,
    finish_reason: Option<FinishReason>,
    seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs>,
}

impl Answer {
    /// The answer as JSON, for layers that leave the process. The provider's raw JSON is not kept.
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
        let stored = |choice: &Choice| StoredChoice {
            index: choice.index,
            message: choice.message.clone(),
            finish_reason: choice.finish_reason.clone(),
            seed: choice.seed,
            logprobs: choice.logprobs.clone(),
        };
        let output = match &*self.output {
            Output::Chat(choices) => StoredOutput::Chat(choices.iter().map(stored).collect()),
            Output::Embedding(vectors) => StoredOutput::Embedding(vectors.clone()),
            Output::Image(images) => StoredOutput::Image(images.clone()),
            Output::Rerank(ranking) => StoredOutput::Rerank(ranking.clone()),
        };
        let (served, usage, usage_reported) = (self.served.clone(), self.usage, self.usage_reported);
        serde_json::to_vec(&Stored { served, usage, usage_reported, output })
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
        let Stored { served, usage, usage_reported, output } = serde_json::from_slice(json)?;
        let choice = |stored: StoredChoice| Choice {
            index: stored.index,
            message: stored.message,
            finish_reason: stored.finish_reason,
            seed: stored.seed,
            logprobs: stored.logprobs,
        };
        let output = match output {
            StoredOutput::Chat(choices) => Output::Chat(choices.into_iter().map(choice).collect()),
            StoredOutput::Embedding(vectors) => Output::Embedding(vectors),
            StoredOutput::Image(images) => Output::Image(images),
            StoredOutput::Rerank(ranking) => Output::Rerank(ranking),
        };
        Ok(Self { output: Arc::new(output), served, usage, usage_reported, raw: Bytes::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_kept() {
        let mut answer = Answer::chat("5 days", "m");
        let Output::Chat(choices) = &*answer.output else { panic!("a chat") };
        let mut choices = choices.clone();
        let mut logprobs = Logprobs::default();
        (logprobs.tokens, logprobs.token_logprobs) = (vec![Some("5".into()), None], vec![Some(-0.25), None]);
        logprobs.top_logprobs = Some(serde_json::json!([{"5": -0.25}]));
        choices[0].logprobs = Some(logprobs);
        answer.output = Arc::new(Output::Chat(choices));
        assert_eq!(Answer::from_json(&answer.to_json().unwrap()).unwrap(), answer);
    }
}
