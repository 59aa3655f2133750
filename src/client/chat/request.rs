//! What a chat completion is asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::Message;
use crate::types::ModelId;

/// A conversation with its parameters: everything of a chat request but the model.
///
/// It serialises as the API's JSON, leaving out what is not set, and reads it back; fields that this version does not
/// know are kept in [`extra`](Self::extra) and sent.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ChatInput {
    /// The turns, oldest first.
    pub messages: Vec<Message>,
    /// The most tokens of the answer, reasoning included; the server's own default if absent.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Randomness, 0 to 2.
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0 to 1.
    pub top_p: Option<f64>,
    /// Sample among this many tokens.
    pub top_k: Option<i32>,
    /// Leave out tokens less likely than this share of the likeliest.
    pub min_p: Option<f64>,
    /// Over 1 discourages repetition.
    pub repetition_penalty: Option<f64>,
    /// −2 to 2: discourages tokens that occurred.
    pub presence_penalty: Option<f64>,
    /// −2 to 2: discourages tokens by how often they occurred.
    pub frequency_penalty: Option<f64>,
    /// Additive bias by token id, −100 to 100.
    pub logit_bias: BTreeMap<String, f64>,
    /// Makes sampling repeatable where the server can.
    pub seed: Option<u64>,
    /// How many answers, 1 to 128.
    pub n: Option<u32>,
    /// How many log probabilities a token, 0 to 20.
    pub logprobs: Option<u8>,
    /// Whether the answer starts with the prompt. The prompt's own log probabilities are in
    /// [`ChatCompletion::raw`](super::ChatCompletion::raw), under `prompt`.
    pub echo: Option<bool>,
    /// `truncate` or `error` when the prompt is longer than the context.
    pub context_length_exceeded_behavior: Option<String>,
    /// The form of the answer.
    pub response_format: Option<ResponseFormat>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether and what it must call.
    pub tool_choice: Option<ToolChoice>,
    /// The legacy form of `tool_choice`.
    pub function_call: Option<Value>,
    /// `hipaa`.
    pub compliance: Option<String>,
    /// Arguments of the model's chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// A moderation model that screens the call.
    pub safety_model: Option<String>,
    /// `low`, `medium` or `high`, for models with graded reasoning.
    pub reasoning_effort: Option<String>,
    /// Switches reasoning of hybrid models on or off; sent as `{"enabled": …}`.
    pub reasoning: Option<bool>,
    /// Fields that this version does not know, sent as they are.
    pub extra: Map<String, Value>,
}

/// The fields of [`ChatInput`] in wire order, each once: what is written, and what is taken back when reading.
macro_rules! with_fields {
    ($do:ident) => {
        $do! {
            messages, max_tokens, stop, temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty,
            frequency_penalty, logit_bias, seed, n, logprobs, echo, context_length_exceeded_behavior, response_format,
            tools, tool_choice, function_call, compliance, chat_template_kwargs, safety_model, reasoning_effort
        }
    };
}

/// Whether a field is left out of the JSON.
trait Absent {
    fn is_absent(&self) -> bool;
}

impl<T> Absent for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T> Absent for Vec<T> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Absent for BTreeMap<K, V> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl ChatInput {
    /// Adds a turn. Most requests have one, and a vector would begin with room for four.
    pub(crate) fn push(&mut self, message: Message) {
        if self.messages.is_empty() {
            self.messages.reserve_exact(1);
        }
        self.messages.push(message);
    }

    /// Whether the API's field of this name has a field of its own here (or is set by the client itself).
    pub(crate) fn is_typed(name: &str) -> bool {
        macro_rules! names {
            ($($field:ident),*) => { [$(stringify!($field)),*] };
        }
        with_fields!(names).contains(&name) || matches!(name, "model" | "stream" | "stream_options")
    }

    /// Writes every field that is set into a JSON object under way.
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        macro_rules! write {
            ($($field:ident),*) => {$(
                if !self.$field.is_absent() {
                    map.serialize_entry(stringify!($field), &self.$field)?;
                }
            )*};
        }
        with_fields!(write);
        if let Some(enabled) = self.reasoning {
            map.serialize_entry("reasoning", &BTreeMap::from([("enabled", enabled)]))?;
        }
        self.extra.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))
    }

    fn read(mut map: Map<String, Value>) -> Result<Self, serde_json::Error> {
        fn take<T: for<'de> Deserialize<'de> + Default>(
            map: &mut Map<String, Value>,
            name: &str,
        ) -> Result<T, serde_json::Error> {
            match map.remove(name) {
                None | Some(Value::Null) => Ok(T::default()),
                Some(value) => T::deserialize(value),
            }
        }
        let mut input = Self::default();
        // A single stop text is OpenAI's short form.
        if let Some(text) = map.get("stop").and_then(Value::as_str) {
            let list = Value::Array(vec![text.into()]);
            map.insert("stop".to_owned(), list);
        }
        macro_rules! read {
            ($($field:ident),*) => {$( input.$field = take(&mut map, stringify!($field))?; )*};
        }
        with_fields!(read);
        if let Some(Value::Object(reasoning)) = map.get("reasoning")
            && let (1, Some(enabled)) = (reasoning.len(), reasoning.get("enabled").and_then(Value::as_bool))
        {
            input.reasoning = Some(enabled);
            map.remove("reasoning");
        }
        input.extra = map;
        Ok(input)
    }
}

impl Serialize for ChatInput {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.write(&mut map)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for ChatInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Map::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A chat completion request: a model and a [`ChatInput`].
///
/// ```
/// use together_inference::client::ChatRequest;
///
/// let request = ChatRequest::new("zai-org/GLM-5.3").system("Answer in one word.").user("Sky?").max_tokens(8);
/// assert_eq!(request.input().messages.len(), 2);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    model: ModelId,
    input: ChatInput,
}

impl ChatRequest {
    /// An empty conversation with this model.
    pub fn new(model: impl Into<ModelId>) -> Self {
        Self::from_input(model, ChatInput::default())
    }

    /// This conversation with this model.
    pub fn from_input(model: impl Into<ModelId>, input: ChatInput) -> Self {
        Self { model: model.into(), input }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &ModelId {
        &self.model
    }

    /// The conversation.
    #[must_use]
    pub const fn input(&self) -> &ChatInput {
        &self.input
    }

    /// Every field of the conversation, to set what has no setter here.
    pub const fn input_mut(&mut self) -> &mut ChatInput {
        &mut self.input
    }

    /// Appends a turn.
    #[must_use]
    pub fn message(mut self, message: Message) -> Self {
        self.input.messages.push(message);
        self
    }

    /// Appends instructions to the model.
    #[must_use]
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(Message::system(text.into()))
    }

    /// Appends a user's turn.
    #[must_use]
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(Message::user(text.into()))
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

    /// Sets the sampling seed.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.input.seed = Some(seed);
        self
    }

    /// Sets how many answers, 1 to 128: [`ChatCompletion::choices`](super::ChatCompletion::choices) has them all.
    #[must_use]
    pub const fn n(mut self, answers: u32) -> Self {
        self.input.n = Some(answers);
        self
    }

    /// Asks for the log probabilities of each token and of so many alternatives, 0 to 20:
    /// [`Choice::logprobs`](super::Choice::logprobs).
    #[must_use]
    pub const fn logprobs(mut self, alternatives: u8) -> Self {
        self.input.logprobs = Some(alternatives);
        self
    }

    /// Sets texts that end the answer.
    #[must_use]
    pub fn stop<T: Into<String>>(mut self, texts: impl IntoIterator<Item = T>) -> Self {
        self.input.stop = texts.into_iter().map(Into::into).collect();
        self
    }

    /// Has a moderation model screen the call. What it finds unsafe is refused:
    /// [`ErrorKind::Moderated`](crate::client::ErrorKind::Moderated).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use together_inference::{
    ///     client::{ChatRequest, ErrorKind},
    ///     testing::Together,
    /// };
    ///
    /// let client = Together::new().client();
    /// let request = ChatRequest::new("zai-org/GLM-5.3").user("How do I steal a car?");
    /// let request = request.safety_model("meta-llama/Llama-Guard-4-12B");
    /// let error = client.chat().create(&request).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Moderated);
    /// # }
    /// ```
    #[must_use]
    pub fn safety_model(mut self, model: impl Into<String>) -> Self {
        self.input.safety_model = Some(model.into());
        self
    }

    /// Sets the form of the answer.
    #[must_use]
    pub fn response_format(mut self, format: ResponseFormat) -> Self {
        self.input.response_format = Some(format);
        self
    }

    /// Adds a tool.
    #[must_use]
    pub fn tool(mut self, tool: Tool) -> Self {
        self.input.tools.push(tool);
        self
    }

    /// Sets a field that this version does not know.
    #[must_use]
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.input.extra.insert(name.into(), value.into());
        self
    }
}

/// A request on the wire, borrowed: the model of this attempt with the caller's conversation.
pub(crate) struct Wire<'a> {
    pub(crate) model: &'a ModelId,
    pub(crate) input: &'a ChatInput,
    pub(crate) stream: bool,
}

impl Serialize for Wire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", self.model)?;
        self.input.write(&mut map)?;
        if self.stream {
            map.serialize_entry("stream", &true)?;
            // Without it some models send no usage at all.
            map.serialize_entry("stream_options", &BTreeMap::from([("include_usage", true)]))?;
        }
        map.end()
    }
}

/// The form of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema(JsonSchema),
    /// Text that matches a regular expression.
    Regex(String),
    /// A form that this version does not know, sent as it is.
    Other(Map<String, Value>),
}

/// A JSON schema with its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JsonSchema {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// What it describes, for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema.
    pub schema: Value,
    /// Whether the server must enforce it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

impl JsonSchema {
    /// A schema that the server must enforce.
    pub fn strict(name: impl Into<String>, schema: Value) -> Self {
        Self { name: name.into(), description: None, schema, strict: Some(true) }
    }

    /// How many fields it writes.
    fn len(&self) -> usize {
        2 + usize::from(self.description.is_some()) + usize::from(self.strict.is_some())
    }
}

impl Serialize for ResponseFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Text => map.serialize_entry("type", "text")?,
            Self::JsonObject => map.serialize_entry("type", "json_object")?,
            Self::JsonSchema(schema) => {
                map.serialize_entry("type", "json_schema")?;
                map.serialize_entry("json_schema", schema)?;
            }
            Self::Regex(pattern) => {
                map.serialize_entry("type", "regex")?;
                map.serialize_entry("pattern", pattern)?;
            }
            Self::Other(fields) => fields.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for ResponseFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        Ok(match (map.get("type").and_then(Value::as_str), map.len()) {
            (Some("text"), 1) => Self::Text,
            (Some("json_object"), 1) => Self::JsonObject,
            (Some("regex"), 2) if map.get("pattern").is_some_and(Value::is_string) => {
                Self::Regex(map.get("pattern").and_then(Value::as_str).unwrap_or_default().to_owned())
            }
            (Some("json_schema"), 2) => match map.get("json_schema").map(JsonSchema::deserialize) {
                // With a field that the schema's type has no place for, the whole is kept as it came.
                Some(Ok(schema))
                    if schema.len() == map.get("json_schema").and_then(Value::as_object).map_or(0, Map::len) =>
                {
                    Self::JsonSchema(schema)
                }
                _ => Self::Other(map),
            },
            _ => Self::Other(map),
        })
    }
}

/// A function that the model may ask to be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: Function,
    /// Fields that this version does not know, sent as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The description of a function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Function {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// When and how to use it, for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Fields that this version does not know, such as `strict`, sent as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Tool {
    /// A function with a JSON schema of its arguments.
    pub fn function(name: impl Into<String>, description: impl Into<String>, parameters: Value) -> Self {
        let function = Function {
            name: name.into(),
            description: Some(description.into()),
            parameters: Some(parameters),
            extra: Map::new(),
        };
        Self { kind: "function".to_owned(), function, extra: Map::new() }
    }
}

/// Whether the model must call a tool.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// No calls.
    None,
    /// At least one call.
    Required,
    /// A call of this function.
    Function(String),
    /// A form that this version does not know, sent as it is.
    Other(Value),
}

impl ToolChoice {
    fn to_value(&self) -> Value {
        match self {
            Self::Auto => "auto".into(),
            Self::None => "none".into(),
            Self::Required => "required".into(),
            Self::Function(name) => {
                let function = Map::from_iter([("name".to_owned(), name.as_str().into())]);
                let fields = [("type".to_owned(), "function".into()), ("function".to_owned(), function.into())];
                Value::Object(Map::from_iter(fields))
            }
            Self::Other(value) => value.clone(),
        }
    }
}

impl Serialize for ToolChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let name = value.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
        let known = match (value.as_str(), name) {
            (Some("auto"), _) => Some(Self::Auto),
            (Some("none"), _) => Some(Self::None),
            (Some("required"), _) => Some(Self::Required),
            (None, Some(name)) => Some(Self::Function(name.to_owned())).filter(|choice| choice.to_value() == value),
            _ => None,
        };
        Ok(known.unwrap_or(Self::Other(value)))
    }
}
