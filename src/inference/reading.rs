//! What policies read of a request.

use std::time::Duration;

use serde_json::Map;

use super::{
    Bypass, CacheControl, CacheScope, InferenceRequest, Input, JsonNeed, Needs, Selection, cache_control::Owner,
};
use crate::{
    client::{ChatInput, EmbeddingInput, Message, PromptInput, ResponseFormat},
    types::{ModelId, Priority, SessionId, Task, Tenant, Tier, TraceId, UpstreamId, Usd},
};

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

    /// The conversation, if it is one.
    #[must_use]
    pub const fn as_chat(&self) -> Option<&ChatInput> {
        match &self.input {
            Input::Chat(input) => Some(input),
            _ => None,
        }
    }

    /// The most tokens of each answer, where the request says it.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// assert_eq!(InferenceRequest::raw_prompt("Once upon").max_tokens(8).max_tokens_of(), Some(8));
    /// assert_eq!(InferenceRequest::embedding(["the sky"]).max_tokens_of(), None);
    /// ```
    #[must_use]
    pub const fn max_tokens_of(&self) -> Option<u32> {
        match &self.input {
            Input::Chat(input) => input.max_tokens,
            Input::Prompt(input) => input.max_tokens,
            _ => None,
        }
    }

    /// Whether its answer can come in pieces.
    pub(crate) const fn streams(&self) -> bool {
        matches!(&self.input, Input::Chat(_) | Input::Prompt(_))
    }

    /// The randomness, where the request says it.
    #[cfg(feature = "schema")]
    pub(crate) const fn temperature_of(&self) -> Option<f64> {
        match &self.input {
            Input::Chat(input) => input.temperature,
            Input::Prompt(input) => input.temperature,
            _ => None,
        }
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

    /// The trace that it is a part of.
    #[must_use]
    pub const fn trace_id_of(&self) -> Option<TraceId> {
        self.trace_id
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

    /// How it uses the cache, if it says so.
    #[must_use]
    pub const fn cache_of(&self) -> Option<&CacheControl> {
        self.cache.as_ref()
    }

    /// Whose answers it may get from a cache: another tenant's only where both say so.
    pub(crate) fn cache_owner(&self) -> Owner<'_> {
        match self.cache.unwrap_or_default().scope {
            CacheScope::Tenant => Owner::Tenant(self.tenant.as_ref()),
            CacheScope::Shared => Owner::Everybody,
        }
    }

    /// How it may use the cache: `Err` says why not at all.
    pub(crate) fn caching(&self) -> Result<CacheControl, Bypass> {
        let control = self.cache.unwrap_or_default();
        match control {
            CacheControl { read: false, write: false, .. } => Err(Bypass::Asked),
            CacheControl { stochastic: false, .. } if !self.is_repeatable() => Err(Bypass::Stochastic),
            _ => Ok(control),
        }
    }

    /// Takes over what a policy says, where the request itself says nothing.
    pub(crate) fn set_caching(&mut self, policy: impl FnOnce(&Self) -> Option<CacheControl>) {
        if self.cache.is_none() {
            self.cache = policy(self);
        }
    }

    /// Whether the same request gets the same answer.
    fn is_repeatable(&self) -> bool {
        match &self.input {
            // Exactly 0: a little above it the next answer may be another one.
            Input::Chat(ChatInput { temperature, .. }) | Input::Prompt(PromptInput { temperature, .. }) => {
                *temperature == Some(0.0)
            }
            // A link dies before the cache forgets it.
            Input::Image(input) => input.seed.is_some() && input.response_format.as_deref() != Some("url"),
            Input::Embedding(_) | Input::Rerank(_) => true,
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
        let Input::Chat(input) = &self.input else { return self.needs };
        let json = match &input.response_format {
            Some(ResponseFormat::JsonSchema(_)) if self.json_by_prompt => JsonNeed::None,
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

    /// Fills in what the request leaves to the service: temperature 0.7, and where its schema stands.
    pub(crate) fn set_defaults(&mut self) {
        self.move_schema_into_prompt();
        match &mut self.input {
            Input::Chat(ChatInput { temperature, .. }) | Input::Prompt(PromptInput { temperature, .. }) => {
                temperature.get_or_insert(0.7);
            }
            _ => {}
        }
    }

    /// Bounds an answer that the request leaves without a bound.
    pub(crate) const fn bound_answer(&mut self, tokens: u32) {
        if let Input::Chat(ChatInput { max_tokens: max_tokens @ None, .. })
        | Input::Prompt(PromptInput { max_tokens: max_tokens @ None, .. }) = &mut self.input
        {
            *max_tokens = Some(tokens);
        }
    }

    /// Names the model where the request leaves it open.
    pub(crate) fn pin(&mut self, model: &ModelId) {
        self.model = Selection::Pin(model.into());
    }

    /// The same request, whatever it may cost.
    pub(crate) const fn without_max_cost(mut self) -> Self {
        self.max_cost = None;
        self
    }

    /// The same request for these texts.
    pub(crate) fn with_texts(&self, texts: Vec<String>) -> Self {
        let extra = match &self.input {
            Input::Embedding(input) => input.extra.clone(),
            _ => Map::new(),
        };
        let mut input = EmbeddingInput::new(texts);
        input.extra = extra;
        Self {
            priority: self.priority,
            model: self.model.clone(),
            tenant: self.tenant.clone(),
            session: self.session.clone(),
            trace_id: self.trace_id,
            deadline: self.deadline,
            max_cost: self.max_cost,
            upstream: self.upstream.clone(),
            cache: self.cache,
            needs: self.needs,
            tags: self.tags.clone(),
            ..Self::with_input(self.task, Input::Embedding(input))
        }
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
