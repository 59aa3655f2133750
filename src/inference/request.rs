//! One request of any task: what to infer, and how to serve it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{JsonNeed, Needs};
use crate::{
    client::{ChatInput, Content, JsonSchema, Message, Part, ResponseFormat, Tool, ToolChoice},
    types::{ModelId, Priority, RouteId, SessionId, Task, Tenant, Tier, UpstreamId, Usd},
};

/// Tokens that an image may take, at most, where nothing is known of its size.
const IMAGE_TOKENS: u64 = 4_096;
/// Tokens around a message: its role and separators.
const MESSAGE_TOKENS: u64 = 16;

/// What is asked of the service: an input, and how to serve it. Serialisable, so that it can be queued, journalled and
/// replayed.
///
/// Setters chain; one that does not fit the input is remembered and refused, by name, when the request is used.
///
/// ```
/// use together_inference::{InferenceRequest, Priority};
///
/// let request = InferenceRequest::chat("Why is the sky blue?")
///     .system("Answer in one sentence.")
///     .priority(Priority::Realtime)
///     .temperature(0.0);
/// request.validate()?;
/// # Ok::<(), together_inference::inference::InvalidRequest>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferenceRequest {
    pub(super) task: Task,
    pub(super) input: Input,
    #[serde(default)]
    pub(super) priority: Priority,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) allow_cached: Option<bool>,
    #[serde(default, skip_serializing_if = "Selection::is_any")]
    pub(super) model: Selection,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<UpstreamId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tier: Option<Tier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<Tenant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deadline: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_token: Option<Duration>,
    #[serde(default)]
    pub(super) deferrable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_cost: Option<Usd>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<(Box<str>, Box<str>)>,
    #[serde(default)]
    pub(super) needs: Needs,
    /// The first setter that did not fit.
    #[serde(skip)]
    pub(super) misfit: Option<Misfit>,
}

/// A setter that does not fit the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Misfit {
    pub(super) setter: &'static str,
    pub(super) problem: &'static str,
}

/// What the model works on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Input {
    /// A conversation.
    Chat(ChatInput),
}

/// Which models may serve a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Selection {
    /// Whatever the router finds best.
    #[default]
    Any,
    /// This one and no other.
    Pin(ModelRef),
    /// These, in this order.
    Prefer(Vec<ModelRef>),
}

impl Selection {
    /// Whether the router is free to choose.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    /// The models named, in order of preference; empty if the router is free to choose.
    #[must_use]
    pub fn named(&self) -> &[ModelRef] {
        match self {
            Self::Any => &[],
            Self::Pin(one) => std::slice::from_ref(one),
            Self::Prefer(list) => list,
        }
    }
}

/// A model, on a certain upstream or on any.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelRef {
    /// Where, if it matters.
    pub upstream: Option<UpstreamId>,
    /// Which.
    pub model: ModelId,
}

impl ModelRef {
    /// Whether the route is this model.
    #[must_use]
    pub fn matches(&self, route: &RouteId) -> bool {
        self.model == *route.model() && self.upstream.as_ref().is_none_or(|upstream| upstream == route.upstream())
    }
}

impl From<&str> for ModelRef {
    fn from(model: &str) -> Self {
        ModelId::from(model).into()
    }
}

impl From<String> for ModelRef {
    fn from(model: String) -> Self {
        ModelId::from(model).into()
    }
}

impl From<ModelId> for ModelRef {
    fn from(model: ModelId) -> Self {
        Self { upstream: None, model }
    }
}

impl From<&ModelId> for ModelRef {
    fn from(model: &ModelId) -> Self {
        model.clone().into()
    }
}

impl From<RouteId> for ModelRef {
    fn from(route: RouteId) -> Self {
        Self { upstream: Some(route.upstream().clone()), model: route.model().clone() }
    }
}

impl From<&str> for InferenceRequest {
    fn from(user: &str) -> Self {
        Self::chat(user)
    }
}

impl From<String> for InferenceRequest {
    fn from(user: String) -> Self {
        Self::chat(user)
    }
}

impl From<&Self> for InferenceRequest {
    fn from(request: &Self) -> Self {
        request.clone()
    }
}

impl InferenceRequest {
    /// An empty conversation for this task.
    #[must_use]
    pub fn new(task: Task) -> Self {
        Self {
            task,
            input: Input::Chat(ChatInput::default()),
            priority: Priority::default(),
            allow_cached: None,
            model: Selection::Any,
            upstream: None,
            tier: None,
            tenant: None,
            session: None,
            deadline: None,
            first_token: None,
            deferrable: false,
            max_cost: None,
            tags: Vec::new(),
            needs: Needs::default(),
            misfit: None,
        }
    }

    /// A conversation that starts with this user's turn.
    pub fn chat(user: impl Into<Content>) -> Self {
        Self::new(Task::Chat).user(user)
    }

    /// The same for a model that is good at source code.
    pub fn code(user: impl Into<Content>) -> Self {
        Self::new(Task::Code).user(user)
    }

    /// Another task for the same input.
    #[must_use]
    pub const fn task(mut self, task: Task) -> Self {
        self.task = task;
        self
    }

    /// Changes the conversation, or remembers that there is none.
    fn chat_input(mut self, setter: &'static str, change: impl FnOnce(&mut ChatInput)) -> Self {
        let _ = setter;
        match &mut self.input {
            Input::Chat(input) => change(input),
        }
        self
    }

    /// Puts instructions to the model before everything else; a second call replaces them.
    #[must_use]
    pub fn system(self, text: impl Into<Content>) -> Self {
        self.chat_input("system", |input| {
            let message = Message::system(text);
            match input.messages.first_mut() {
                Some(first) if first.role == crate::types::Role::System => *first = message,
                _ => input.messages.insert(0, message),
            }
        })
    }

    /// Appends a user's turn.
    #[must_use]
    pub fn user(self, content: impl Into<Content>) -> Self {
        self.message(Message::user(content))
    }

    /// Appends a turn.
    #[must_use]
    pub fn message(self, message: Message) -> Self {
        self.chat_input("message", |input| input.messages.push(message))
    }

    /// Appends turns.
    #[must_use]
    pub fn messages(self, messages: impl IntoIterator<Item = Message>) -> Self {
        self.chat_input("messages", |input| input.messages.extend(messages))
    }

    /// Adds a picture, by URL, to the last user's turn.
    #[must_use]
    pub fn image_url(mut self, url: impl Into<String>) -> Self {
        let Input::Chat(input) = &mut self.input;
        let Some(last) = input.messages.iter_mut().rfind(|message| message.role == crate::types::Role::User) else {
            let problem = "there is no user's turn to add the picture to; call user(..) first";
            self.misfit = self.misfit.or(Some(Misfit { setter: "image_url", problem }));
            return self;
        };
        let mut parts = match last.content.take() {
            Some(Content::Text(text)) => vec![Part::Text(text)],
            Some(Content::Parts(parts)) => parts,
            None => Vec::new(),
        };
        parts.push(Part::ImageUrl(url.into()));
        last.content = Some(Content::Parts(parts));
        self
    }

    /// Adds a tool that the model may call. Nothing is called by this crate.
    #[must_use]
    pub fn tool(self, tool: Tool) -> Self {
        self.tools([tool])
    }

    /// Adds tools that the model may call.
    #[must_use]
    pub fn tools(self, tools: impl IntoIterator<Item = Tool>) -> Self {
        self.chat_input("tools", |input| input.tools.extend(tools))
    }

    /// Whether and what the model must call.
    #[must_use]
    pub fn tool_choice(self, choice: ToolChoice) -> Self {
        self.chat_input("tool_choice", |input| input.tool_choice = Some(choice))
    }

    /// The form of the answer.
    #[must_use]
    pub fn response_format(self, format: ResponseFormat) -> Self {
        self.chat_input("response_format", |input| input.response_format = Some(format))
    }

    /// Asks for JSON of this schema; `complete_as` does it for a type.
    #[must_use]
    pub fn json_schema(self, name: impl Into<String>, schema: Value) -> Self {
        self.response_format(ResponseFormat::JsonSchema(JsonSchema::strict(name, schema)))
    }

    /// Randomness, 0 to 2; 0.7 unless set. Answers at 0 are cached.
    #[must_use]
    pub fn temperature(self, temperature: f64) -> Self {
        self.chat_input("temperature", |input| input.temperature = Some(temperature))
    }

    /// The most tokens of the answer, reasoning included.
    #[must_use]
    pub fn max_tokens(self, tokens: u32) -> Self {
        self.chat_input("max_tokens", |input| input.max_tokens = Some(tokens))
    }

    /// The sampling seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.chat_input("seed", |input| input.seed = Some(seed))
    }

    /// Texts that end the answer.
    #[must_use]
    pub fn stop<S: Into<String>>(self, texts: impl IntoIterator<Item = S>) -> Self {
        self.chat_input("stop", |input| input.stop.extend(texts.into_iter().map(Into::into)))
    }

    /// How many answers, 1 to 128.
    #[must_use]
    pub fn n(self, answers: u32) -> Self {
        self.chat_input("n", |input| input.n = Some(answers))
    }

    /// A field of the API that has no setter here, sent as it is.
    #[must_use]
    pub fn extra(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.chat_input("extra", |input| {
            input.extra.insert(name.into(), value.into());
        })
    }

    /// How urgent it is; picks the tier unless [`tier`](Self::tier) does.
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The size class of model. Urgency is not size: a free user in a chat is realtime and small.
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// `true`: read and keep cached answers even if the model answers at random; `false`: neither read nor keep them.
    /// Unless set, answers at temperature 0 are cached.
    #[must_use]
    pub const fn allow_cached(mut self, allow: bool) -> Self {
        self.allow_cached = Some(allow);
        self
    }

    /// This model (or route) and no other: no fallback elsewhere.
    #[must_use]
    pub fn model(mut self, model: impl Into<ModelRef>) -> Self {
        self.model = Selection::Pin(model.into());
        self
    }

    /// These models in this order, falling back within them.
    #[must_use]
    pub fn models<M: Into<ModelRef>>(mut self, models: impl IntoIterator<Item = M>) -> Self {
        self.model = Selection::Prefer(models.into_iter().map(Into::into).collect());
        self
    }

    /// Only models of this upstream.
    #[must_use]
    pub fn upstream(mut self, upstream: impl Into<UpstreamId>) -> Self {
        self.upstream = Some(upstream.into());
        self
    }

    /// Demands more of the model than the request itself shows.
    #[must_use]
    pub fn needs(mut self, needs: Needs) -> Self {
        self.needs = self.needs.and(needs);
        self
    }

    /// Whose request it is.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Tenant>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The conversation or agent run that it belongs to.
    #[must_use]
    pub fn session(mut self, session: impl Into<SessionId>) -> Self {
        self.session = Some(session.into());
        self
    }

    /// A label for cost records and budgets.
    #[must_use]
    pub fn tag(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }

    /// How long the caller waits, from the call on; 120 s unless set, 60 s at realtime priority.
    #[must_use]
    pub const fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// How long each attempt at a stream may take to its first token; past it the attempt is given up, recorded, and the
    /// next model is asked. A plain call shows no first token: there it has no effect.
    #[must_use]
    pub const fn first_token(mut self, time: Duration) -> Self {
        self.first_token = Some(time);
        self
    }

    /// Whether the request may be answered hours later, where the caller asks for that possibility.
    #[must_use]
    pub const fn deferrable(mut self) -> Self {
        self.deferrable = true;
        self
    }

    /// The most that the answer may cost. Models whose upper bound is over it are left out.
    #[must_use]
    pub const fn max_cost(mut self, most: Usd) -> Self {
        self.max_cost = Some(most);
        self
    }
}

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
            (Some(true), _) | (None, Some(0.0)) => Ok(()),
            (Some(false), _) => Err(super::Bypass::Asked),
            (None, _) => Err(super::Bypass::Stochastic),
        }
    }

    /// What the request shows that a model must be able to do, with what the caller added.
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
