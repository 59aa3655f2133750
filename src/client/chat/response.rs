//! What a chat completion answers.

use std::{borrow::Cow, fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{
    super::{
        headers::RateLimits,
        lenient::{Count, whole},
    },
    FunctionCall, Message, ToolCall,
};
use crate::types::{FinishReason, ModelId, Role, Usage};

/// A whole chat completion.
///
/// Fields that this version does not know are in [`raw`](Self::raw).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChatCompletion {
    /// The provider's id of the completion.
    pub id: String,
    /// The model that answered; may differ from the one asked (silent redirects).
    pub model: ModelId,
    /// Unix time in seconds.
    pub created: Option<u64>,
    /// The answers, by index; never empty.
    pub choices: Vec<Choice>,
    /// Tokens, where the provider reports them.
    pub usage: Option<Usage>,
    /// Notices of the provider, such as a coming removal.
    pub warnings: Vec<String>,
    /// The `x-request-id` of the response.
    pub request_id: Option<Box<str>>,
    /// What the provider says of its limits, where it does.
    pub rate_limits: Option<RateLimits>,
    /// The JSON as it came; empty for a folded stream.
    pub raw: Bytes,
}

impl ChatCompletion {
    /// The text of the first answer.
    #[must_use]
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", Choice::text)
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// Its number, from 0.
    pub index: u32,
    /// The assistant's turn.
    pub message: Message,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
    /// The sampling seed, where the server says it. It may exceed `i64`.
    pub seed: Option<u64>,
    /// Log probabilities, where asked for.
    pub logprobs: Option<Logprobs>,
}

impl Choice {
    /// The text of the answer; empty if it is only tool calls.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.message.content {
            Some(super::Content::Text(text)) => text,
            _ => "",
        }
    }
}

/// Log probabilities in the API's own shape: parallel arrays, one entry a token.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Logprobs {
    /// Token ids.
    pub token_ids: Vec<Option<u64>>,
    /// Token texts.
    pub tokens: Vec<Option<String>>,
    /// Log probability of each token.
    pub token_logprobs: Vec<Option<f64>>,
    /// Alternatives, as the server sends them.
    pub top_logprobs: Option<Value>,
}

/// One chunk of a streamed completion.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Delta {
    /// What was added, by answer. Empty in a chunk that only carries usage.
    pub choices: Vec<ChoiceDelta>,
    /// Tokens, usually on the last chunk.
    pub usage: Option<Usage>,
    /// The provider's id, model and time; the same on every chunk, so that only the fold reads them.
    pub(crate) head: Option<Head>,
}

/// What a chunk says of the whole completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) model: Option<ModelId>,
    pub(crate) created: Option<u64>,
    pub(crate) warnings: Vec<String>,
}

/// What a chunk adds to one answer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ChoiceDelta {
    /// Which answer.
    pub index: u32,
    /// Text to append.
    pub content: Option<String>,
    /// Reasoning to append.
    pub reasoning: Option<String>,
    /// Whether the reasoning came as `reasoning_content`.
    pub(crate) reasoning_content: bool,
    /// Pieces of tool calls.
    pub tool_calls: Vec<ToolCallDelta>,
    /// Set on the last chunks of the answer.
    pub finish_reason: Option<FinishReason>,
    pub(crate) seed: Option<u64>,
    pub(crate) token_id: Option<u64>,
    pub(crate) logprob: Option<f64>,
}

/// A piece of a tool call: the first names it, later ones add arguments.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ToolCallDelta {
    /// Which call of the answer.
    pub index: u32,
    /// Its id, on the first piece.
    pub id: Option<String>,
    /// The function, on the first piece.
    pub name: Option<String>,
    /// JSON text to append.
    pub arguments: String,
}

impl Delta {
    /// The text that this chunk adds to the first answer; often empty.
    #[must_use]
    pub fn text(&self) -> &str {
        self.first().and_then(|choice| choice.content.as_deref()).unwrap_or_default()
    }

    /// The reasoning that this chunk adds to the first answer.
    #[must_use]
    pub fn reasoning(&self) -> &str {
        self.first().and_then(|choice| choice.reasoning.as_deref()).unwrap_or_default()
    }

    /// The pieces of tool calls that this chunk adds to the first answer.
    #[must_use]
    pub fn tool_calls(&self) -> &[ToolCallDelta] {
        self.first().map_or(&[], |choice| &choice.tool_calls)
    }

    /// Whether anything of an answer is in it: a chunk of only a role or usage is not.
    #[must_use]
    pub fn has_content(&self) -> bool {
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        self.choices
            .iter()
            .any(|choice| filled(&choice.content) || filled(&choice.reasoning) || !choice.tool_calls.is_empty())
    }

    fn first(&self) -> Option<&ChoiceDelta> {
        self.choices.iter().find(|choice| choice.index == 0)
    }
}

// ---- the wire

/// A borrowed text; `Option<Cow<str>>` alone would always copy.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The most answers of one response: the API's own limit of `n`.
pub(super) const MAX_CHOICES: usize = 128;
/// The most tool calls of one answer; more is a broken server.
pub(super) const MAX_TOOL_CALLS: usize = 256;
/// The most notices of one response.
const MAX_WARNINGS: usize = 256;

/// Reads a list that may be null. A longer one is an error: two bytes of JSON would become hundreds in memory.
fn at_most<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_option(Bounded::<T, MAX>(PhantomData))
}

struct Bounded<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            items.push(item);
        }
        Ok(Some(items))
    }
}

#[derive(Deserialize)]
pub(super) struct WireUsage {
    #[serde(default)]
    prompt_tokens: Count,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    cached_tokens: Count,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Count,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Count,
}

impl WireUsage {
    /// `None` where neither side was counted: an object of nulls is no usage.
    fn into_usage(self) -> Option<Usage> {
        if self.prompt_tokens.0.is_none() && self.completion_tokens.0.is_none() {
            return None;
        }
        let detail = self.prompt_tokens_details.and_then(|details| details.cached_tokens.0);
        Some(Usage {
            prompt: self.prompt_tokens.0.unwrap_or(0),
            cached: self.cached_tokens.0.or(detail).unwrap_or(0),
            completion: self.completion_tokens.0.unwrap_or(0),
            reasoning: self.completion_tokens_details.and_then(|details| details.reasoning_tokens.0).unwrap_or(0),
        })
    }
}

#[derive(Deserialize)]
struct WireCompletion<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(default)]
    created: Count,
    #[serde(default, borrow, deserialize_with = "at_most::<MAX_CHOICES, _, _>")]
    choices: Option<Vec<WireChoice<'a>>>,
    usage: Option<WireUsage>,
    #[serde(default, deserialize_with = "at_most::<MAX_WARNINGS, _, _>")]
    warnings: Option<Vec<WireWarning>>,
}

#[derive(Deserialize)]
struct WireWarning {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct WireChoice<'a> {
    #[serde(default)]
    index: Count,
    message: Option<WireMessage>,
    #[serde(borrow)]
    delta: Option<WireDelta<'a>>,
    finish_reason: Option<FinishReason>,
    #[serde(default)]
    seed: Count,
    #[serde(default)]
    logprobs: Value,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct WireMessage {
    role: Option<Role>,
    content: Option<super::Content>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    #[serde(default, deserialize_with = "at_most::<MAX_TOOL_CALLS, _, _>")]
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
struct WireDelta<'a> {
    content: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    #[serde(default, borrow, deserialize_with = "at_most::<MAX_TOOL_CALLS, _, _>")]
    tool_calls: Option<Vec<WireToolDelta<'a>>>,
    #[serde(default)]
    token_id: Count,
}

#[derive(Deserialize)]
struct WireToolDelta<'a> {
    #[serde(default)]
    index: Count,
    id: Option<String>,
    #[serde(borrow)]
    function: Option<WireFunctionDelta<'a>>,
}

#[derive(Deserialize)]
struct WireFunctionDelta<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<Text<'a>>,
}

impl WireChoice<'_> {
    fn index(&self) -> u32 {
        self.index.small().unwrap_or(0)
    }

    fn into_choice(self) -> Choice {
        let index = self.index();
        let mut message = Message::empty(Role::Assistant);
        if let Some(wire) = self.message {
            message.role = wire.role.unwrap_or(Role::Assistant);
            message.content = wire.content;
            message.reasoning = wire.reasoning.filter(|text| !text.is_empty());
            message.reasoning_content = wire.reasoning_content.filter(|text| !text.is_empty());
            message.tool_calls = wire.tool_calls.unwrap_or_default();
        }
        let logprobs = Logprobs::from_value(self.logprobs);
        Choice { index, message, finish_reason: self.finish_reason, seed: self.seed.0, logprobs }
    }

    fn into_delta(self) -> ChoiceDelta {
        let mut delta = ChoiceDelta {
            index: self.index(),
            finish_reason: self.finish_reason,
            seed: self.seed.0,
            logprob: self.logprobs.as_f64(),
            ..ChoiceDelta::default()
        };
        if let Some(wire) = self.delta {
            delta.content = wire.content;
            delta.reasoning_content = wire.reasoning.is_none() && wire.reasoning_content.is_some();
            delta.reasoning = wire.reasoning.or(wire.reasoning_content);
            delta.token_id = wire.token_id.0;
            delta.tool_calls = wire.tool_calls.into_iter().flatten().map(WireToolDelta::into_delta).collect();
        }
        delta
    }
}

impl WireToolDelta<'_> {
    fn into_delta(self) -> ToolCallDelta {
        let (name, arguments) = self.function.map_or((None, None), |function| (function.name, function.arguments));
        ToolCallDelta {
            index: self.index.small().unwrap_or(0),
            id: self.id,
            name,
            arguments: arguments.map(|text| text.0.into_owned()).unwrap_or_default(),
        }
    }
}

impl Logprobs {
    fn from_value(value: Value) -> Option<Self> {
        let Value::Object(mut map) = value else { return None };
        let mut list = |name: &str| match map.remove(name) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let token_ids = list("token_ids").iter().map(|id| id.as_number().and_then(whole)).collect();
        let tokens = list("tokens").into_iter().map(|token| token.as_str().map(str::to_owned)).collect();
        let token_logprobs = list("token_logprobs").iter().map(Value::as_f64).collect();
        Some(Self { token_ids, tokens, token_logprobs, top_logprobs: map.remove("top_logprobs") })
    }
}

/// Parses the JSON of a whole completion. `Ok(None)`: it is JSON, but no choice is in it.
pub(super) fn parse_completion(raw: &Bytes, asked: &ModelId) -> Result<Option<ChatCompletion>, serde_json::Error> {
    let Some(mut wire) = serde_json::from_slice::<Option<WireCompletion<'_>>>(raw)? else { return Ok(None) };
    let choices = wire.choices.take().unwrap_or_default();
    if choices.is_empty() {
        return Ok(None);
    }
    let mut nested_usage = None;
    let choices: Vec<Choice> = choices
        .into_iter()
        .map(|mut choice| {
            nested_usage = nested_usage.or(choice.usage.take().and_then(WireUsage::into_usage));
            choice.into_choice()
        })
        .collect();
    Ok(Some(ChatCompletion {
        id: wire.id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: served(wire.model, asked),
        created: wire.created.0,
        choices,
        usage: wire.usage.and_then(WireUsage::into_usage).or(nested_usage),
        warnings: wire.warnings.into_iter().flatten().map(|warning| warning.message).collect(),
        request_id: None,
        rate_limits: None,
        raw: raw.clone(),
    }))
}

/// The asked model's own id where the server answers with the same name, so that nothing is allocated.
fn served(model: Option<Text<'_>>, asked: &ModelId) -> ModelId {
    match model {
        Some(model) if *asked != *model.0 && !model.0.is_empty() => ModelId::from(&*model.0),
        _ => asked.clone(),
    }
}

/// Parses the JSON of one chunk. The head is read only where `want_head` asks for it.
pub(super) fn parse_delta(data: &[u8], want_head: bool) -> Result<Delta, serde_json::Error> {
    let mut wire: WireCompletion<'_> = serde_json::from_slice(data)?;
    let mut usage = wire.usage.take().and_then(WireUsage::into_usage);
    let mut choices = Vec::with_capacity(wire.choices.as_ref().map_or(0, Vec::len));
    for mut choice in wire.choices.take().into_iter().flatten() {
        usage = usage.or(choice.usage.take().and_then(WireUsage::into_usage));
        choices.push(choice.into_delta());
    }
    let warned = wire.warnings.as_ref().is_some_and(|warnings| !warnings.is_empty());
    let head = (want_head || warned).then(|| Head {
        id: wire.id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: wire.model.map(|model| ModelId::from(&*model.0)),
        created: wire.created.0,
        warnings: wire.warnings.into_iter().flatten().map(|warning| warning.message).collect(),
    });
    Ok(Delta { choices, usage, head })
}

/// Joins a tool call's pieces.
impl ToolCallDelta {
    pub(super) fn apply(&self, call: &mut ToolCall) {
        if let Some(id) = self.id.as_ref().filter(|id| !id.is_empty()) {
            call.id.clone_from(id);
        }
        let FunctionCall { name, arguments } = &mut call.function;
        if let Some(part) = self.name.as_ref().filter(|part| !part.is_empty()) {
            name.clone_from(part);
        }
        arguments.push_str(&self.arguments);
    }
}
