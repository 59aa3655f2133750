//! What a chat completion answers.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{
        ask::{Arrived, NoAnswer},
        bounded::{Bounded, one_body},
        headers::RateLimits,
        lenient::{Count, Truthy, at_most, finish_reason, object, whole},
        loose::{id, said, text},
    },
    Content, FunctionCall, Message, Part, ToolCall,
    said::{Notices, content, role},
    usage::WireUsage,
};
use crate::types::{FinishReason, ModelId, Role, Text, Usage};

/// A whole chat completion.
///
/// Fields that this version does not know are in [`raw`](Self::raw).
#[derive(Clone, PartialEq)]
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
    pub request_id: Option<Arc<str>>,
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

    pub(in crate::client) fn with(self, arrived: Arrived) -> Self {
        let Arrived { request_id, rate_limits, raw } = arrived;
        Self { request_id, rate_limits, raw, ..self }
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
            Some(Content::Text(text)) => text,
            // Texts in parts were joined when they were read.
            Some(Content::Parts(parts)) => parts.iter().find_map(Part::as_text).unwrap_or_default(),
            None => "",
        }
    }

    /// Whether nothing was said: no tool call, no part of a known kind, and no text but white space. Reasoning alone is no
    /// answer.
    ///
    /// ```
    /// use together_inference::inference::Answer;
    ///
    /// assert!(Answer::chat(" \n", "m").choices()[0].is_silent());
    /// assert!(!Answer::chat("5 days", "m").choices()[0].is_silent());
    /// ```
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let is_media = |part: &Part| !matches!(part, Part::Text(_) | Part::Other(_));
        let media = matches!(&self.message.content, Some(Content::Parts(parts)) if parts.iter().any(is_media));
        self.text().trim().is_empty() && self.message.tool_calls.is_empty() && !media
    }

    pub(in crate::client) fn broke_off(&self) -> bool {
        self.finish_reason.as_ref().is_some_and(FinishReason::is_error)
    }
}

/// Log probabilities in the API's own shape: parallel arrays, one entry a token.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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

// ---- the wire

/// The most answers of one response: the API's own limit of `n`.
pub(in crate::client) const MAX_CHOICES: usize = 128;
/// The most tool calls of one answer; more is a broken server.
pub(super) const MAX_TOOL_CALLS: usize = 256;

#[derive(Deserialize)]
struct WireCompletion<'a> {
    #[serde(default, borrow, deserialize_with = "id")]
    id: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "text")]
    model: Option<Text<'a>>,
    #[serde(default)]
    created: Count,
    #[serde(default, deserialize_with = "at_most::<MAX_CHOICES, _, _>")]
    choices: Option<Vec<WireChoice>>,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
    #[serde(default)]
    warnings: Notices,
    #[serde(default)]
    error: Truthy,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    index: Count,
    message: Option<WireMessage>,
    #[serde(default, deserialize_with = "finish_reason")]
    finish_reason: Option<FinishReason>,
    #[serde(default)]
    seed: Count,
    #[serde(default)]
    logprobs: Bounded,
    /// The contract has it here as well as among the log probabilities.
    #[serde(default)]
    top_logprobs: Bounded,
    #[serde(default, deserialize_with = "object")]
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct WireMessage {
    #[serde(default, deserialize_with = "role")]
    role: Option<Role>,
    #[serde(default, deserialize_with = "content")]
    content: Option<Content>,
    #[serde(default, deserialize_with = "said")]
    reasoning: Option<String>,
    #[serde(default, deserialize_with = "said")]
    reasoning_content: Option<String>,
    #[serde(default, deserialize_with = "at_most::<MAX_TOOL_CALLS, _, _>")]
    tool_calls: Option<Vec<ToolCall>>,
    /// The legacy form of a single tool call.
    #[serde(default, deserialize_with = "object")]
    function_call: Option<FunctionCall>,
}

impl WireChoice {
    fn into_choice(self) -> Choice {
        let index = self.index.small().unwrap_or(0);
        let mut message = Message::empty(Role::Assistant);
        if let Some(wire) = self.message {
            message.role = wire.role.unwrap_or(Role::Assistant);
            message.content = wire.content;
            message.reasoning = wire.reasoning.filter(|text| !text.is_empty());
            message.reasoning_content = wire.reasoning_content.filter(|text| !text.is_empty());
            message.tool_calls = wire.tool_calls.unwrap_or_default();
            if let Some(call) = wire.function_call.filter(|call| message.tool_calls.is_empty() && !call.name.is_empty())
            {
                message.tool_calls.push(ToolCall::new("", call.name, call.arguments));
            }
        }
        let logprobs = Logprobs::from_value(self.logprobs.0).map(|read| read.or_beside(self.top_logprobs.0));
        Choice { index, message, finish_reason: self.finish_reason, seed: self.seed.0, logprobs }
    }
}

impl Logprobs {
    pub(in crate::client) fn from_value(value: Value) -> Option<Self> {
        let Value::Object(mut map) = value else { return None };
        if let Some(Value::Array(tokens)) = map.remove("content") {
            return Some(Self::of_tokens(tokens));
        }
        let mut list = |name: &str| match map.remove(name) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let token_ids = list("token_ids").iter().map(|id| id.as_number().and_then(whole)).collect();
        let tokens = list("tokens").into_iter().map(|token| token.as_str().map(str::to_owned)).collect();
        let token_logprobs = list("token_logprobs").iter().map(Value::as_f64).collect();
        Some(Self { token_ids, tokens, token_logprobs, top_logprobs: map.remove("top_logprobs") })
    }

    /// Adds those of the tokens that follow.
    pub(super) fn append(&mut self, more: &Self) {
        self.token_ids.extend_from_slice(&more.token_ids);
        self.tokens.extend_from_slice(&more.tokens);
        self.token_logprobs.extend_from_slice(&more.token_logprobs);
        match (&mut self.top_logprobs, &more.top_logprobs) {
            (Some(Value::Array(all)), Some(Value::Array(more))) => all.extend_from_slice(more),
            (none @ None, more) => none.clone_from(more),
            _ => {}
        }
    }

    /// With the alternatives that stand beside it, if it has none itself.
    fn or_beside(mut self, alternatives: Value) -> Self {
        self.top_logprobs = self.top_logprobs.filter(|own| !own.is_null());
        if self.top_logprobs.is_none() && !alternatives.is_null() {
            self.top_logprobs = Some(alternatives);
        }
        self
    }

    /// `OpenAI`'s shape: an object a token.
    fn of_tokens(tokens: Vec<Value>) -> Self {
        let mut read = Self::default();
        let mut alternatives = Vec::new();
        for mut token in tokens {
            read.token_ids.push(token.get("id").and_then(Value::as_number).and_then(whole));
            read.tokens.push(token.get("token").and_then(Value::as_str).map(str::to_owned));
            read.token_logprobs.push(token.get("logprob").and_then(Value::as_f64));
            alternatives.extend(token.get_mut("top_logprobs").map(Value::take));
        }
        read.top_logprobs = (!alternatives.is_empty()).then_some(Value::Array(alternatives));
        read
    }
}

/// Parses the JSON of a whole completion.
pub(super) fn parse_completion(raw: &Bytes, asked: &ModelId) -> Result<ChatCompletion, NoAnswer> {
    let wire = one_body(|| serde_json::from_slice::<Option<WireCompletion<'_>>>(raw))?;
    let mut wire = wire.ok_or(NO_CHOICES)?;
    let choices = wire.choices.take().unwrap_or_default();
    if choices.is_empty() || wire.error.0 {
        return Err(NO_CHOICES);
    }
    let mut nested_usage = None;
    let mut choices: Vec<Choice> = choices
        .into_iter()
        .map(|mut choice| {
            nested_usage = nested_usage.or(choice.usage.take().and_then(WireUsage::into_usage));
            choice.into_choice()
        })
        .collect();
    // They were made where the larger choices of the wire lay, and may be kept in a cache.
    choices.shrink_to_fit();
    if choices.iter().any(Choice::broke_off) {
        return Err(NoAnswer::BrokeOff);
    }
    Ok(ChatCompletion {
        id: wire.id.map(|id| id.0.into_owned()).unwrap_or_default(),
        model: served(wire.model, asked),
        created: wire.created.0,
        choices,
        usage: wire.usage.and_then(WireUsage::into_usage).or(nested_usage),
        warnings: wire.warnings.into_messages(),
        request_id: None,
        rate_limits: None,
        raw: Bytes::new(),
    })
}

pub(in crate::client) const NO_CHOICES: NoAnswer = NoAnswer::Missing("no choices");

/// The asked model's own id where the server answers with the same name, so that nothing is allocated.
pub(in crate::client) fn served(model: Option<Text<'_>>, asked: &ModelId) -> ModelId {
    match model {
        Some(model) if *asked != *model.0 && !model.0.is_empty() => ModelId::from(&*model.0),
        _ => asked.clone(),
    }
}
