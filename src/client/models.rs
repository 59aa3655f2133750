//! The model list: `GET /v1/models`.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Error, TogetherClient, lenient::Count};
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

    pub(super) const fn client(self) -> &'a TogetherClient {
        self.client
    }

    /// The models that the API lists for dedicated endpoints.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind).
    pub async fn list_dedicated(self) -> Result<Vec<Model>, Error> {
        self.client.get::<ModelList>("/v1/models?dedicated=true").await.map(|list| list.0)
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

/// Both forms: Together's bare array and `OpenAI`'s `{"data": [...]}`. A row without an id is left out.
struct ModelList(Vec<Model>);

impl<'de> Deserialize<'de> for ModelList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = match Value::deserialize(deserializer)? {
            Value::Object(mut map) => map.remove("data").unwrap_or_default(),
            list => list,
        };
        let rows: Vec<Value> = Vec::deserialize(list).map_err(serde::de::Error::custom)?;
        let models = rows.into_iter().filter_map(|row| Model::deserialize(row).ok());
        Ok(Self(models.filter(|model| !model.id.as_str().is_empty()).collect()))
    }
}

/// A model as the API lists it. A field that is not of its type counts as absent, but for the id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// `chat`, `language`, `code`, `image`, `embedding`, `moderation`, `rerank`, … (open).
    #[serde(rename = "type", default, deserialize_with = "text")]
    pub kind: Option<String>,
    /// The name for people.
    #[serde(default, deserialize_with = "text")]
    pub display_name: Option<String>,
    /// Who made it.
    #[serde(default, deserialize_with = "text")]
    pub organization: Option<String>,
    /// The licence's name.
    #[serde(default, deserialize_with = "text")]
    pub license: Option<String>,
    /// Tokens of prompt and answer together.
    #[serde(default, deserialize_with = "small_count")]
    pub context_length: Option<u32>,
    /// Prices; a zero means "not said here".
    #[serde(default, deserialize_with = "pricing")]
    pub pricing: Option<Pricing>,
}

/// Dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pricing {
    /// Prompt.
    #[serde(default, deserialize_with = "dollars")]
    pub input: Option<f64>,
    /// Completion.
    #[serde(default, deserialize_with = "dollars")]
    pub output: Option<f64>,
    /// Prompt tokens from the provider's cache.
    #[serde(default, deserialize_with = "dollars")]
    pub cached_input: Option<f64>,
    /// Per hour, of a dedicated endpoint.
    #[serde(default, deserialize_with = "dollars")]
    pub hourly: Option<f64>,
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

fn small_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Count::deserialize(deserializer).map(Count::small)
}

/// A number, or one written as text.
fn dollars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let dollars = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().trim_start_matches('$').parse().ok(),
        _ => None,
    };
    Ok(dollars.filter(|dollars| dollars.is_finite()))
}

fn pricing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pricing>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(if value.is_object() { Pricing::deserialize(value).ok() } else { None })
}

impl Model {
    /// The price per token, or `None` where the list does not say one: missing, zero and negative prices are not free.
    #[must_use]
    pub fn price(&self) -> Option<Price> {
        let pricing = self.pricing?;
        match self.kind.as_deref() {
            // These have no completion to price.
            Some("embedding" | "rerank") => {
                let output = pricing.output.and_then(Rate::from_fetched).unwrap_or(Rate::FREE);
                Some(Price::from_rates(pricing.input.and_then(Rate::from_fetched)?, pricing.cached(), output))
            }
            _ => pricing.price(),
        }
    }
}

impl Pricing {
    /// The price per token, if both sides have one.
    #[must_use]
    pub fn price(&self) -> Option<Price> {
        let rate = |dollars: Option<f64>| dollars.and_then(Rate::from_fetched);
        Some(Price::from_rates(rate(self.input)?, self.cached(), rate(self.output)?))
    }

    /// Whether it says zero of what is asked and answered: an API's word for "not known".
    pub(crate) fn is_zero(&self) -> bool {
        let is_zero = |dollars: Option<f64>| dollars.is_none_or(|dollars| dollars == 0.0);
        is_zero(self.input) && is_zero(self.output) && (self.input.is_some() || self.output.is_some())
    }

    fn cached(&self) -> Option<Rate> {
        self.cached_input.and_then(Rate::from_fetched)
    }
}
