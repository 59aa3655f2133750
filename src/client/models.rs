//! The model list: `GET /v1/models`.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Error, TogetherClient};
use crate::types::{ModelId, Price, Rate};

/// The model list of a client: [`TogetherClient::models`].
#[derive(Clone, Copy, Debug)]
pub struct Models<'a> {
    client: &'a TogetherClient,
}

impl<'a> Models<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Every model that the API lists. Being listed does not mean being callable without a dedicated endpoint.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind).
    pub async fn list(self) -> Result<Vec<Model>, Error> {
        self.client.get::<ModelList>("/v1/models").await.map(|list| list.0)
    }
}

/// Both forms: Together's bare array and `OpenAI`'s `{"data": [...]}`.
struct ModelList(Vec<Model>);

impl<'de> Deserialize<'de> for ModelList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = match Value::deserialize(deserializer)? {
            Value::Object(mut map) => map.remove("data").unwrap_or_default(),
            list => list,
        };
        Vec::deserialize(list).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A model as the API lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// `chat`, `language`, `code`, `image`, `embedding`, `moderation`, `rerank`, … (open).
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// The name for people.
    #[serde(default)]
    pub display_name: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub organization: Option<String>,
    /// The licence's name.
    #[serde(default)]
    pub license: Option<String>,
    /// Tokens of prompt and answer together.
    #[serde(default)]
    pub context_length: Option<u32>,
    /// Prices; a zero means "not said here".
    #[serde(default)]
    pub pricing: Option<Pricing>,
}

/// Dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pricing {
    /// Prompt.
    #[serde(default)]
    pub input: Option<f64>,
    /// Completion.
    #[serde(default)]
    pub output: Option<f64>,
    /// Prompt tokens from the provider's cache.
    #[serde(default)]
    pub cached_input: Option<f64>,
    /// Per hour, of a dedicated endpoint.
    #[serde(default)]
    pub hourly: Option<f64>,
}

impl Model {
    /// The price per token, or `None` where the list does not say one: missing, zero and negative prices are not free.
    #[must_use]
    pub fn price(&self) -> Option<Price> {
        let pricing = self.pricing.as_ref()?;
        let input = Rate::from_fetched(pricing.input?)?;
        // Embedding models have no completion to price.
        let output = match self.kind.as_deref() {
            Some("embedding" | "rerank") => pricing.output.and_then(Rate::from_fetched).unwrap_or(Rate::FREE),
            _ => Rate::from_fetched(pricing.output?)?,
        };
        Some(Price::from_rates(input, pricing.cached_input.and_then(Rate::from_fetched), output))
    }
}
