//! Documents by relevance: `POST /v1/rerank`.

use std::{collections::HashSet, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{
    CallOptions, Error, RateLimits, TogetherClient,
    ask::{Arrived, NoAnswer},
    bounded::{Bounded, one_body},
    chat::{WireUsage, served},
    fields::{self, Wire},
    lenient::{Count, Truthy, at_most, object, or_default},
    loose::{id, text},
};
use crate::types::{ModelId, Text, Usage};

const PATH: &str = "/v1/rerank";
/// The most documents of one response.
const MAX_RESULTS: usize = 65_536;

/// Reranking by a client: [`TogetherClient::rerank`].
#[derive(Clone, Copy, Debug)]
pub struct Rerank<'a> {
    client: &'a TogetherClient,
}

/// A query and the documents to order by it: everything of a rerank request but the model.
///
/// It serialises as the API's JSON and reads it back; `Debug` shows sizes, not texts. The API refuses fields that it
/// does not know.
///
/// ```
/// use together_inference::client::RerankInput;
///
/// let input = RerankInput::new("Where do llamas live?", ["Llamas live in Peru.", "Pandas live in China."]).top_n(1);
/// assert_eq!(input.documents.len(), 2);
/// ```
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[non_exhaustive]
pub struct RerankInput {
    /// What to look for.
    pub query: String,
    /// Where to look: all texts, or all objects.
    pub documents: Vec<Document>,
    /// How many of the best to return; all if absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub top_n: Option<u32>,
    /// Whether the answer repeats the documents.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub return_documents: Option<bool>,
    /// The fields of object documents that count; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty", default, deserialize_with = "or_default")]
    pub rank_fields: Vec<String>,
    /// Fields that this version does not know, sent as they are.
    #[serde(flatten, skip_deserializing)]
    pub extra: Map<String, Value>,
}

/// A document to rank.
#[derive(Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Document {
    /// Its text.
    Text(String),
    /// Its fields.
    Fields(Map<String, Value>),
}

/// By hand: where another crate switches on `serde_json/arbitrary_precision`, a derived reader would round numbers.
impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Object(fields) => Ok(Self::Fields(fields)),
            _ => Err(serde::de::Error::custom("a document is a text or an object")),
        }
    }
}

impl From<&str> for Document {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Document {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Map<String, Value>> for Document {
    fn from(fields: Map<String, Value>) -> Self {
        Self::Fields(fields)
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Fields(fields) => write!(f, "Fields({})", fields.len()),
        }
    }
}

impl RerankInput {
    /// The fields that have a type here.
    pub(crate) const FIELDS: &'static [&'static str] =
        &["query", "documents", "top_n", "return_documents", "rank_fields"];

    /// These documents by their relevance to the query.
    pub fn new<D: Into<Document>>(query: impl Into<String>, documents: impl IntoIterator<Item = D>) -> Self {
        let documents = documents.into_iter().map(Into::into).collect();
        Self { query: query.into(), documents, ..Self::default() }
    }

    /// Only so many of the best.
    #[must_use]
    pub const fn top_n(mut self, most: u32) -> Self {
        self.top_n = Some(most);
        self
    }

    /// The fields of object documents that count.
    #[must_use]
    pub fn rank_fields<F: Into<String>>(mut self, names: impl IntoIterator<Item = F>) -> Self {
        self.rank_fields = names.into_iter().map(Into::into).collect();
        self
    }
}

impl fmt::Debug for RerankInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RerankInput")
            .field("query_bytes", &self.query.len())
            .field("documents", &self.documents.len())
            .field("top_n", &self.top_n)
            .finish_non_exhaustive()
    }
}

impl Serialize for RerankInput {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for RerankInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (input, extra) = fields::read(deserializer, Self::FIELDS, Self::deserialize)?;
        Ok(Self { extra, ..input })
    }
}

/// A rerank request: a model and a [`RerankInput`].
#[derive(Clone, Debug, PartialEq)]
pub struct RerankRequest {
    model: ModelId,
    input: RerankInput,
}

impl RerankRequest {
    /// This input by this model.
    pub fn new(model: impl Into<ModelId>, input: RerankInput) -> Self {
        Self { model: model.into(), input }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &ModelId {
        &self.model
    }

    /// The query and its documents.
    #[must_use]
    pub const fn input(&self) -> &RerankInput {
        &self.input
    }

    /// Every field of the input, to set what has no setter here.
    pub const fn input_mut(&mut self) -> &mut RerankInput {
        &mut self.input
    }
}

/// Documents by relevance.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reranked {
    /// The provider's id.
    pub id: String,
    /// The model that ranked them.
    pub model: ModelId,
    /// The documents, best first.
    pub results: Vec<Ranked>,
    /// Tokens, where the provider reports them.
    pub usage: Option<Usage>,
    /// The `x-request-id` of the response.
    pub request_id: Option<Arc<str>>,
    /// What the provider says of its limits, where it does.
    pub rate_limits: Option<RateLimits>,
    /// The JSON as it came.
    pub raw: Bytes,
}

/// A document with its place.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ranked {
    /// Which of the documents that were given.
    pub index: usize,
    /// How relevant; what a number means differs by model.
    pub relevance_score: f64,
    /// The document, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Value>,
}

impl fmt::Debug for Ranked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranked")
            .field("index", &self.index)
            .field("relevance_score", &self.relevance_score)
            .finish_non_exhaustive()
    }
}

impl<'a> Rerank<'a> {
    pub(super) const fn new(client: &'a TogetherClient) -> Self {
        Self { client }
    }

    /// Orders documents by their relevance to a query.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{client::{RerankInput, RerankRequest}, testing::Together};
    ///
    /// let client = Together::new().client();
    /// let input = RerankInput::new("Where do llamas live?", ["Pandas live in China.", "Llamas live in Peru."]);
    /// let request = RerankRequest::new("mixedbread-ai/Mxbai-Rerank-Large-V2", input);
    /// let ranked = client.rerank().create(&request).await?;
    /// assert_eq!(ranked.results[0].index, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](super::ErrorKind). A result that names no document, or one that another
    /// result names, is [`Malformed`](super::ErrorKind::Malformed).
    ///
    /// # Cancellation
    ///
    /// Dropping the future abandons the call; the provider may bill what it had computed.
    pub async fn create(self, request: &RerankRequest) -> Result<Reranked, Error> {
        self.create_with(&request.model, &request.input, &CallOptions::default()).await
    }

    /// [`create`](Self::create) of an input by a model, with options for this call.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub async fn create_with(
        self,
        model: &ModelId,
        input: &RerankInput,
        options: &CallOptions,
    ) -> Result<Reranked, Error> {
        let call = self.client.call_of(PATH, model, &Wire { model, input, stream: false }, false)?;
        let parse = |raw: &Bytes| parse(raw, model, input.documents.len());
        let (reranked, Arrived { request_id, rate_limits, raw }) = self.client.ask(&call, options, parse).await?;
        Ok(Reranked { request_id, rate_limits, raw, ..reranked })
    }
}

// ---- the wire

#[derive(Deserialize)]
struct WireReranked<'a> {
    #[serde(default, borrow, deserialize_with = "id")]
    id: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "text")]
    model: Option<Text<'a>>,
    #[serde(default, deserialize_with = "at_most::<MAX_RESULTS, _, _>")]
    results: Option<Vec<WireRanked>>,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Truthy,
}

#[derive(Deserialize)]
struct WireRanked {
    #[serde(default)]
    index: Count,
    relevance_score: Option<f64>,
    #[serde(default)]
    document: Bounded,
}

const NO_RESULTS: NoAnswer = NoAnswer::Missing("no results");
const NO_DOCUMENT: NoAnswer = NoAnswer::Missing("a result names no document");

fn parse(raw: &Bytes, asked: &ModelId, documents: usize) -> Result<Reranked, NoAnswer> {
    let wire: Option<WireReranked<'_>> = one_body(|| serde_json::from_slice(raw))?;
    let WireReranked { id, model, results, usage, error } = wire.ok_or(NO_RESULTS)?;
    let results = results.filter(|results| !error.0 && !results.is_empty()).ok_or(NO_RESULTS)?;
    let ranked = |wire: WireRanked| {
        let index = wire.index.0.and_then(|index| usize::try_from(index).ok()).filter(|index| *index < documents)?;
        let document = Some(wire.document.0).filter(|document| !document.is_null());
        Some(Ranked { index, relevance_score: wire.relevance_score?, document })
    };
    let mut results: Vec<Ranked> = results.into_iter().map(ranked).collect::<Option<_>>().ok_or(NO_DOCUMENT)?;
    let mut seen = HashSet::with_capacity(results.len());
    if !results.iter().all(|ranked| seen.insert(ranked.index)) {
        return Err(NoAnswer::Missing("a document has two places"));
    }
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    Ok(Reranked {
        id: id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: served(model, asked),
        results,
        usage: usage.and_then(WireUsage::into_usage_of_prompt),
        request_id: None,
        rate_limits: None,
        raw: Bytes::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Vec<usize>> {
        let reranked = parse(&Bytes::copy_from_slice(json.as_bytes()), &"m".into(), 3).ok()?;
        Some(reranked.results.iter().map(|ranked| ranked.index).collect())
    }

    #[test]
    fn the_best_comes_first() {
        let json = r#"{"results":[{"index":0,"relevance_score":0.1,"document":{"text":null}},
                                  {"index":2,"relevance_score":0.9,"document":{"text":"x"}}]}"#;
        assert_eq!(read(json).unwrap(), [2, 0]);
    }

    #[test]
    fn a_result_without_a_document_of_ours_is_no_answer() {
        for json in [
            "null",
            "{}",
            r#"{"results":[]}"#,
            r#"{"results":[{"index":3,"relevance_score":1}]}"#,
            r#"{"results":[{"relevance_score":1}]}"#,
            r#"{"results":[{"index":0}]}"#,
            r#"{"results":[{"index":0,"relevance_score":1}],"error":{"message":"x"}}"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn every_typed_field_is_named() {
        let input = RerankInput {
            top_n: Some(1),
            return_documents: Some(true),
            rank_fields: vec!["a".into()],
            ..RerankInput::new("q", ["d"])
        };
        let written = serde_json::to_string(&input).unwrap();
        assert!(RerankInput::FIELDS.iter().all(|name| written.contains(&format!("\"{name}\":"))), "{written}");
        assert_eq!(serde_json::from_str::<RerankInput>(&written).unwrap(), input);
    }
}
