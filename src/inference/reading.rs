//! What policies read of a request.

use std::time::Duration;

use serde_json::Value;

use super::{InferenceRequest, Input, JsonNeed, Needs, Selection};
use crate::{
    client::{ChatInput, Content, Message, ResponseFormat, Tool},
    types::{Priority, SessionId, Task, Tenant, Tier, UpstreamId, Usd},
};

/// Tokens that an image may take, at most, where nothing is known of its size.
const IMAGE_TOKENS: u64 = 4_096;
/// Tokens around a message: its role and separators.
const MESSAGE_TOKENS: u64 = 16;

/// What policies read.
impl InferenceRequest {
    /// The task.
    #[must_use]
    pub const fn task_of(&self) -> Task {
        self.task
    }

    /// What the model works on.
    #[must_use]
    pub const fn input(&self) -> &Input {
        &self.input
    }

    /// The conversation.
    #[must_use]
    pub const fn chat_ref(&self) -> &ChatInput {
        let Input::Chat(input) = &self.input;
        input
    }

    /// Its urgency.
    #[must_use]
    pub const fn priority_of(&self) -> Priority {
        self.priority
    }

    /// The tier that it asks for, by itself or by its priority.
    #[must_use]
    pub fn tier_of(&self) -> Tier {
        self.tier.unwrap_or_else(|| self.priority.tier())
    }

    /// Whether the tier was asked for by name.
    #[must_use]
    pub const fn names_tier(&self) -> bool {
        self.tier.is_some()
    }

    /// Which models may serve it.
    #[must_use]
    pub const fn selection(&self) -> &Selection {
        &self.model
    }

    /// The upstream that it is restricted to.
    #[must_use]
    pub const fn upstream_of(&self) -> Option<&UpstreamId> {
        self.upstream.as_ref()
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant_of(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    /// Its session.
    #[must_use]
    pub const fn session_of(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    /// Its labels.
    pub fn tags_of(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tags.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How long the caller waits.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Priority};
    ///
    /// assert_eq!(InferenceRequest::chat("hi").deadline_of().as_secs(), 120);
    /// assert_eq!(InferenceRequest::chat("hi").priority(Priority::Realtime).deadline_of().as_secs(), 60);
    /// ```
    #[must_use]
    pub fn deadline_of(&self) -> Duration {
        // Below what load balancers wait where a person does.
        let default = if self.priority == Priority::Realtime { 60 } else { 120 };
        self.deadline.unwrap_or(Duration::from_secs(default))
    }

    /// Whether the deadline was set by name.
    pub(crate) const fn names_deadline(&self) -> bool {
        self.deadline.is_some()
    }

    /// How long until the first token, if it matters.
    #[must_use]
    pub const fn first_token_of(&self) -> Option<Duration> {
        self.first_token
    }

    /// The most it may cost.
    #[must_use]
    pub const fn max_cost_of(&self) -> Option<Usd> {
        self.max_cost
    }

    /// Whether it may be answered hours later.
    #[must_use]
    pub const fn is_deferrable(&self) -> bool {
        self.deferrable
    }

    /// Whether answers may be read from and written to a cache: `Err` says why not.
    pub(crate) fn cacheable(&self) -> Result<(), super::Bypass> {
        match (self.allow_cached, self.chat_ref().temperature) {
            // Exactly 0: a little above it the next answer may be another one.
            (Some(true), _) | (None, Some(0.0)) => Ok(()),
            (Some(false), _) => Err(super::Bypass::Asked),
            (None, _) => Err(super::Bypass::Stochastic),
        }
    }

    /// What the request shows that a model must be able to do, with what the caller added.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, inference::{JsonNeed, Needs}};
    ///
    /// let request = InferenceRequest::chat("hi").json_schema("answer", serde_json::json!({"type": "object"}));
    /// assert_eq!(request.needs_of(), Needs::none().json(JsonNeed::Schema));
    /// ```
    #[must_use]
    pub fn needs_of(&self) -> Needs {
        let input = self.chat_ref();
        let json = match &input.response_format {
            Some(ResponseFormat::JsonSchema(_)) => JsonNeed::Schema,
            Some(ResponseFormat::JsonObject) => JsonNeed::Object,
            _ => JsonNeed::None,
        };
        let shown = Needs {
            context: 0,
            tools: !input.tools.is_empty(),
            vision: input.messages.iter().any(Message::has_media),
            json,
            reasoning: input.reasoning == Some(true) || input.reasoning_effort.is_some(),
        };
        self.needs.and(shown)
    }

    /// The most tokens that the prompt can have: a UTF-8 byte is at least a token's share, 16 more a message and the
    /// tools' schemas in full.
    ///
    /// An image counts as 4,096. Of a real tokenizer's count it is about four times as much for English text.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// assert_eq!(InferenceRequest::chat("hello").prompt_tokens_at_most(), 5 + 16);
    /// assert_eq!(InferenceRequest::chat("hello").system("é").prompt_tokens_at_most(), 5 + 16 + 2 + 16);
    /// ```
    #[must_use]
    pub fn prompt_tokens_at_most(&self) -> u64 {
        let input = self.chat_ref();
        let tools: usize = input.tools.iter().map(tool_bytes).sum();
        let messages: u64 = input.messages.iter().map(message_tokens).sum();
        messages + tools as u64
    }

    /// The tokens that the prompt has, estimated: four bytes a token.
    pub(crate) fn prompt_tokens_counted(&self) -> u64 {
        let messages = &self.chat_ref().messages;
        let bytes: usize = messages.iter().map(Message::text_bytes).sum();
        (bytes as u64).div_ceil(4) + 4 * messages.len() as u64
    }

    /// Fills in what the request leaves to the service: temperature 0.7.
    pub(crate) fn set_defaults(&mut self) {
        let Input::Chat(input) = &mut self.input;
        input.temperature.get_or_insert(0.7);
    }

    /// Stamps a tenant.
    ///
    /// # Errors
    ///
    /// The request back, boxed, if it names another tenant.
    pub(crate) fn stamp(mut self, tenant: &Tenant) -> Result<Self, Box<Self>> {
        match &self.tenant {
            Some(other) if other != tenant => Err(Box::new(self)),
            _ => {
                self.tenant = Some(tenant.clone());
                Ok(self)
            }
        }
    }
}

fn message_tokens(message: &Message) -> u64 {
    let images = match &message.content {
        Some(Content::Parts(parts)) => parts.iter().filter(|part| part.as_text().is_none()).count() as u64,
        _ => 0,
    };
    message.text_bytes() as u64 + MESSAGE_TOKENS + images * IMAGE_TOKENS
}

fn tool_bytes(tool: &Tool) -> usize {
    let parameters = tool.function.parameters.as_ref().map_or(0, json_bytes);
    tool.function.name.len() + tool.function.description.as_ref().map_or(0, String::len) + parameters
}

/// About the bytes of a value as JSON, without writing it.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 24,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| json_bytes(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + 4 + json_bytes(value)).sum::<usize>() + 2,
    }
}
