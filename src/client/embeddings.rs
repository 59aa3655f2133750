//! Embeddings: `POST /v1/embeddings`.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{
    CallOptions, Error, RateLimits, TogetherClient,
    ask::{Arrived, NoAnswer},
    chat::{WireUsage, served},
    fields::{self, Wire},
    lenient::{Count, Truthy, at_most, object},
    loose::text,
};
use crate::types::{ModelId, Text, Usage};

const PATH: &str = "/v1/embeddings";
/// The most vectors of one response; more texts are for several calls.
const MAX_VECTORS: usize = 65_536;
/// The most numbers of one vector: four times the longest in use.
const MAX_DIMENSIONS: usize = 16_384;

/// Embeddings of a client: [`TogetherClient::embeddings`].
#[derive(Clone, Copy, Debug)]
pub struct Embeddings<'a> {
    client: &'a TogetherClient,
}

/// Texts to embed: everything of an embedding request but the model.
///
/// It serialises as the API's JSON and reads it back; `Debug` shows sizes, not texts.
///
/// ```
/// use together_inference::client::EmbeddingInput;
///
/// let input = EmbeddingInput::new(["the sky", "the sea"]);
/// assert_eq!(serde_json::to_string(&input)?, r#"{"input":["the sky","the sea"]}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[non_exhaustive]
pub struct EmbeddingInput {
    /// The texts, each to become one vector.
    #[serde(rename = "input", deserialize_with = "one_or_many")]
    pub texts: Vec<String>,
    /// Fields that this version does not know, sent as they are.
    #[serde(flatten, skip_deserializing)]
    pub extra: Map<String, Value>,
}

impl EmbeddingInput {
    /// The fields that have a type here.
    pub(crate) const FIELDS: &'static [&'static str] = &["input"];

    /// These texts.
    pub fn new<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self { texts: texts.into_iter().map(Into::into).collect(), extra: Map::new() }
    }
}

impl fmt::Debug for EmbeddingInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.texts.iter().map(String::len).sum();
        f.debug_struct("EmbeddingInput")
            .field("texts", &self.texts.len())
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

impl Serialize for EmbeddingInput {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for EmbeddingInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (input, extra) = fields::read(deserializer, Self::FIELDS, Self::deserialize)?;
        Ok(Self { extra, ..input })
    }
}

/// A single text is the API's short form of a list of one.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(vec![text]),
        list => Vec::deserialize(list).map_err(serde::de::Error::custom),
    }
}

/// An embedding request: a model and an [`EmbeddingInput`].
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingRequest {
    model: ModelId,
    input: EmbeddingInput,
}

impl EmbeddingRequest {
    /// These texts by this model.
    ///
    /// ```
    /// use together_inference::client::EmbeddingRequest;
    ///
    /// let request = EmbeddingRequest::new("intfloat/multilingual-e5-large-instruct", ["the sky", "the sea"]);
    /// assert_eq!(request.input().texts.len(), 2);
    /// ```
    pub fn new<T: Into<String>>(model: impl Into<ModelId>, texts: impl IntoIterator<Item = T>) -> Self {
        Self { model: model.into(), input: EmbeddingInput::new(texts) }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &ModelId {
        &self.model
    }

    /// The texts.
    #[must_use]
    pub const fn input(&self) -> &EmbeddingInput {
        &self.input
    }

    /// Every field of the input, to set what has no setter here.
    pub const fn input_mut(&mut self) -> &mut EmbeddingInput {
        &mut self.input
    }
}

/// Vectors of texts.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Embedded {
    /// The model that made them.
    pub model: ModelId,
    /// One vector a text, in the texts' order.
    pub vectors: Vec<Arc<[f32]>>,
    /// Tokens, where the provider reports them: often it does not.
    pub usage: Option<Usage>,
    /// The `x-request-id` of the response.
    pub request_id: Option<Arc<str>>,
    /// What the provider says of its limits, where it does.
    pub rate_limits: Option<RateLimits>,
    /// The JSON as it came.
    pub raw: Bytes,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dimensions = self.vectors.first().map_or(0, |vector| vector.len());
        f.debug_struct("Embedded")
            .field("model", &self.model)
            .field("vectors", &self.vectors.len())
            .field("dimensions", &dimensions)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

impl<'a> Embeddings<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// The vectors of some texts.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::EmbeddingRequest, testing::Together};
    ///
    /// let client = Together::new().client();
    /// let request = EmbeddingRequest::new("intfloat/multilingual-e5-large-instruct", ["the sky", "the sea"]);
    /// let embedded = client.embeddings().create(&request).await?;
    /// assert_eq!(embedded.vectors.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind). An answer with another number of vectors than texts, or with
    /// vectors of unequal length, is [`Malformed`](super::ErrorKind::Malformed).
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the call; the provider may bill what it had computed.
    pub async fn create(self, request: &EmbeddingRequest) -> Result<Embedded, Error> {
        self.create_with(&request.model, &request.input, &CallOptions::default()).await
    }

    /// [`create`](Self::create) of texts by a model, with options for this call.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub async fn create_with(
        self,
        model: &ModelId,
        input: &EmbeddingInput,
        options: &CallOptions,
    ) -> Result<Embedded, Error> {
        let call = self.client.call_of(PATH, model, &Wire { model, input, stream: false }, false)?;
        let parse = |raw: &Bytes| parse(raw, model, input.texts.len());
        let (embedded, Arrived { request_id, rate_limits, raw }) = self.client.ask(&call, options, parse).await?;
        Ok(Embedded { request_id, rate_limits, raw, ..embedded })
    }
}

// ---- the wire

#[derive(Deserialize)]
struct WireEmbeddings<'a> {
    #[serde(default, borrow, deserialize_with = "text")]
    model: Option<Text<'a>>,
    #[serde(default, deserialize_with = "at_most::<MAX_VECTORS, _, _>")]
    data: Option<Vec<WireVector>>,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Truthy,
}

#[derive(Deserialize)]
struct WireVector {
    #[serde(default, deserialize_with = "vector")]
    embedding: Option<Arc<[f32]>>,
    #[serde(default)]
    index: Count,
}

/// Each vector takes its own room alone as soon as it is read: grown by doubling, all together would hold twice as much.
fn vector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<[f32]>>, D::Error> {
    at_most::<MAX_DIMENSIONS, f32, _>(deserializer).map(|values| values.map(Into::into))
}

fn parse(raw: &Bytes, asked: &ModelId, texts: usize) -> Result<Embedded, NoAnswer> {
    let wire: Option<WireEmbeddings<'_>> = serde_json::from_slice(raw)?;
    let WireEmbeddings { model, data, usage, error } = wire.ok_or(NoAnswer::Missing("no data"))?;
    let data = data.unwrap_or_default();
    if error.0 || data.len() != texts {
        return Err(NoAnswer::Missing("not one vector a text"));
    }
    let vectors = in_order(data).ok_or(NoAnswer::Missing("not one vector a text"))?;
    if vectors.windows(2).any(|pair| matches!(pair, [a, b] if a.len() != b.len())) {
        return Err(NoAnswer::Missing("the vectors differ in length"));
    }
    Ok(Embedded {
        model: served(model, asked),
        vectors,
        usage: usage.and_then(WireUsage::into_usage_of_prompt),
        request_id: None,
        rate_limits: None,
        raw: Bytes::new(),
    })
}

/// The vectors by their index; by their place where there is none. `None` if a text has no vector, or none of use.
fn in_order(data: Vec<WireVector>) -> Option<Vec<Arc<[f32]>>> {
    let mut vectors: Vec<Option<Arc<[f32]>>> = vec![None; data.len()];
    for (at, vector) in data.into_iter().enumerate() {
        let index = vector.index.0.map_or(Some(at), |index| usize::try_from(index).ok())?;
        let values =
            vector.embedding.filter(|values| !values.is_empty() && values.iter().all(|one| one.is_finite()))?;
        *vectors.get_mut(index)? = Some(values);
    }
    vectors.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, texts: usize) -> Option<Vec<Arc<[f32]>>> {
        parse(&Bytes::copy_from_slice(json.as_bytes()), &"m".into(), texts).ok().map(|embedded| embedded.vectors)
    }

    #[test]
    fn vectors_come_in_the_order_of_their_texts() {
        let shuffled = r#"{"data":[{"index":1,"embedding":[2,1]},{"index":0,"embedding":[1,0.5]}]}"#;
        assert_eq!(read(shuffled, 2).unwrap(), [Arc::from([1.0, 0.5]), Arc::from([2.0, 1.0])]);
        let unnumbered = r#"{"data":[{"embedding":[1]},{"embedding":[2]}]}"#;
        assert_eq!(read(unnumbered, 2).unwrap(), [Arc::from([1.0]), Arc::from([2.0])]);
    }

    #[test]
    fn what_is_not_one_vector_a_text_is_no_answer() {
        for json in [
            "null",
            "{}",
            r#"{"data":[]}"#,
            r#"{"data":[{"index":0,"embedding":[]}]}"#,
            r#"{"data":[{"index":0}]}"#,
            r#"{"data":[{"index":7,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1e60]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1]}],"error":"x"}"#,
        ] {
            assert_eq!(read(json, 1), None, "{json}");
        }
    }

    #[test]
    fn every_typed_field_is_named() {
        let written = serde_json::to_value(EmbeddingInput::new(["a"])).unwrap();
        assert_eq!(written.as_object().unwrap().keys().collect::<Vec<_>>(), EmbeddingInput::FIELDS);
    }
}
