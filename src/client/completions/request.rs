//! What a completion is asked.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::super::{fields, lenient::or_default};
use crate::types::ModelId;

/// A prompt with its parameters: everything of a completion request but the model.
///
/// It serialises as the API's JSON, leaving out what is not set, and reads it back. `Debug` shows sizes, not texts.
///
/// ```
/// use together_inference::client::PromptInput;
///
/// let input = PromptInput::new("Once upon a time");
/// assert_eq!(serde_json::to_string(&input)?, r#"{"prompt":"Once upon a time"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default)]
#[non_exhaustive]
pub struct PromptInput {
    /// The text to continue, sent to the model as it is.
    pub prompt: String,
    /// The most tokens of the answer; the server's own default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Texts that end the answer.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "texts")]
    pub stop: Vec<String>,
    /// Randomness, 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Sample among this many tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i32>,
    /// Leave out tokens less likely than this share of the likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Over 1 discourages repetition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// −2 to 2: discourages tokens that occurred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// −2 to 2: discourages tokens by how often they occurred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Additive bias by token id, −100 to 100.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub logit_bias: BTreeMap<String, f64>,
    /// Makes sampling repeatable where the server can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How many answers, 1 to 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// How many log probabilities a token, 0 to 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u8>,
    /// Whether the answer starts with the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// A moderation model that screens the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_model: Option<String>,
    /// Fields that this version does not know, sent as they are.
    #[serde(flatten, skip_deserializing)]
    pub extra: Map<String, Value>,
}

/// A single text is the short form of a list of one.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(vec![text]),
        list => Vec::deserialize(list).map_err(serde::de::Error::custom),
    }
}

impl PromptInput {
    /// The fields that have a type here.
    pub(crate) const FIELDS: &'static [&'static str] = &[
        "prompt",
        "max_tokens",
        "stop",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "seed",
        "n",
        "logprobs",
        "echo",
        "safety_model",
    ];

    /// This text to continue.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }
}

impl fmt::Debug for PromptInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptInput")
            .field("prompt_bytes", &self.prompt.len())
            .field("max_tokens", &self.max_tokens)
            .field("temperature", &self.temperature)
            .field("seed", &self.seed)
            .field("n", &self.n)
            .finish_non_exhaustive()
    }
}

impl Serialize for PromptInput {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PromptInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (input, extra) = fields::read(deserializer, Self::FIELDS, Self::deserialize)?;
        Ok(Self { extra, ..input })
    }
}

/// A completion request: a model and a [`PromptInput`].
///
/// ```
/// use together_inference::client::CompletionRequest;
///
/// let request = CompletionRequest::new("zai-org/GLM-5.3", "Once upon a time").max_tokens(64);
/// assert_eq!(request.input().max_tokens, Some(64));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    model: ModelId,
    input: PromptInput,
}

impl CompletionRequest {
    /// This text, continued by this model.
    pub fn new(model: impl Into<ModelId>, prompt: impl Into<String>) -> Self {
        Self::from_input(model, PromptInput::new(prompt))
    }

    /// This input with this model.
    pub fn from_input(model: impl Into<ModelId>, input: PromptInput) -> Self {
        Self { model: model.into(), input }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &ModelId {
        &self.model
    }

    /// The prompt.
    #[must_use]
    pub const fn input(&self) -> &PromptInput {
        &self.input
    }

    /// Every field of the input, to set what has no setter here.
    pub const fn input_mut(&mut self) -> &mut PromptInput {
        &mut self.input
    }

    /// Sets the most tokens of the answer.
    #[must_use]
    pub const fn max_tokens(mut self, tokens: u32) -> Self {
        self.input.max_tokens = Some(tokens);
        self
    }

    /// Sets the randomness, 0 to 2.
    #[must_use]
    pub const fn temperature(mut self, temperature: f64) -> Self {
        self.input.temperature = Some(temperature);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_typed_field_is_named_and_read_back() {
        let input = PromptInput {
            max_tokens: Some(1),
            stop: vec!["a".into()],
            temperature: Some(0.1),
            top_p: Some(0.2),
            top_k: Some(-1),
            min_p: Some(0.3),
            repetition_penalty: Some(1.1),
            presence_penalty: Some(-0.5),
            frequency_penalty: Some(0.5),
            logit_bias: [("1".to_owned(), 2.0)].into(),
            seed: Some(u64::MAX),
            n: Some(2),
            logprobs: Some(3),
            echo: Some(true),
            safety_model: Some("m".into()),
            ..PromptInput::new("p")
        };
        let written = serde_json::to_string(&input).unwrap();
        assert!(PromptInput::FIELDS.iter().all(|name| written.contains(&format!("\"{name}\":"))), "{written}");
        assert_eq!(serde_json::from_str::<PromptInput>(&written).unwrap(), input);
        let short: PromptInput = serde_json::from_str(r#"{"prompt":"p","stop":"x","n":null,"top_a":1}"#).unwrap();
        assert_eq!((short.stop, short.n, short.extra["top_a"].clone()), (vec!["x".to_owned()], None, 1.into()));
    }
}
