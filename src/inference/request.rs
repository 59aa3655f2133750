//! One request of any task: what to infer, and how to serve it.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ModelRef, Needs, Selection};
use crate::{
    client::{ChatInput, Content, JsonSchema, Message, Part, ResponseFormat, Tool, ToolChoice},
    types::{Priority, SessionId, Task, Tenant, Tier, UpstreamId, Usd},
};

/// What is asked of the service: an input, and how to serve it. Serialisable, so that it can be queued, journalled and
/// replayed.
///
/// Setters chain; one that does not fit the input is remembered and refused, by name, when the request is used. What is
/// wrong on its face (a temperature of 3, an empty tenant) is refused before anything is sent or spent:
/// [`validate`](Self::validate) says so without a service.
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
    ///
    /// Chat or code; a conversation for another task is refused by [`validate`](Self::validate), and so is one without
    /// a turn.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task, client::Message};
    ///
    /// let history = [Message::user("2 + 2?"), Message::assistant("4"), Message::user("And twice that?")];
    /// let request = InferenceRequest::new(Task::Chat).messages(history);
    /// assert_eq!(request.chat_ref().messages.len(), 3);
    /// ```
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
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("Why is the sky blue?");
    /// assert_eq!(request, "Why is the sky blue?".into());
    /// ```
    pub fn chat(user: impl Into<Content>) -> Self {
        Self::new(Task::Chat).user(user)
    }

    /// The same for a model that is good at source code.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Task};
    ///
    /// assert_eq!(InferenceRequest::code("Reverse a list in Rust.").task_of(), Task::Code);
    /// ```
    pub fn code(user: impl Into<Content>) -> Self {
        Self::new(Task::Code).user(user)
    }

    /// Another task for the same input.
    #[must_use]
    pub const fn task(mut self, task: Task) -> Self {
        self.task = task;
        self
    }

    /// Changes the conversation.
    fn chat_input(mut self, change: impl FnOnce(&mut ChatInput)) -> Self {
        let Input::Chat(input) = &mut self.input;
        change(input);
        self
    }

    /// Puts instructions to the model before everything else; a second call replaces them.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, client::Message};
    ///
    /// let request = InferenceRequest::chat("hi").system("Be kind.").system("Be brief.");
    /// assert_eq!(request.chat_ref().messages, [Message::system("Be brief."), Message::user("hi")]);
    /// ```
    #[must_use]
    pub fn system(self, text: impl Into<Content>) -> Self {
        self.chat_input(|input| {
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
    ///
    /// ```
    /// use together_inference::{InferenceRequest, client::Message};
    ///
    /// let next = InferenceRequest::chat("2 + 2?").message(Message::assistant("4")).user("And twice that?");
    /// assert_eq!(next.chat_ref().messages.len(), 3);
    /// ```
    #[must_use]
    pub fn message(self, message: Message) -> Self {
        self.chat_input(|input| input.messages.push(message))
    }

    /// Appends turns.
    #[must_use]
    pub fn messages(self, messages: impl IntoIterator<Item = Message>) -> Self {
        self.chat_input(|input| input.messages.extend(messages))
    }

    /// Adds a picture, by URL, to the last user's turn.
    ///
    /// A `data:` URL will do as well. Without a user's turn the request is refused when it is used.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("What is in it?").image_url("https://acme.example/cat.png");
    /// assert!(request.needs_of().vision, "only models that read pictures are asked");
    ///
    /// let nowhere = InferenceRequest::new(together_inference::Task::Chat).image_url("https://acme.example/cat.png");
    /// assert_eq!(nowhere.validate().unwrap_err().field, "image_url");
    /// ```
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

    /// Adds a picture of this media type (such as `image/png`) to the last user's turn, in the request itself.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("What is in it?").image(b"\x89PNG...", "image/png");
    /// assert!(request.needs_of().vision);
    /// ```
    #[must_use]
    pub fn image(self, bytes: impl AsRef<[u8]>, media_type: &str) -> Self {
        self.image_url(format!("data:{media_type};base64,{}", BASE64_STANDARD.encode(bytes)))
    }

    /// Adds a tool that the model may call. Nothing is called by this crate.
    ///
    /// ```
    /// use serde_json::json;
    /// use together_inference::{InferenceRequest, client::Tool};
    ///
    /// let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    /// let request = InferenceRequest::chat("Rain in Paris?").tool(Tool::function("weather", "The weather now", city));
    /// assert!(request.needs_of().tools);
    /// ```
    #[must_use]
    pub fn tool(self, tool: Tool) -> Self {
        self.tools([tool])
    }

    /// Adds tools that the model may call.
    #[must_use]
    pub fn tools(self, tools: impl IntoIterator<Item = Tool>) -> Self {
        self.chat_input(|input| input.tools.extend(tools))
    }

    /// Whether and what the model must call.
    ///
    /// ```
    /// use serde_json::json;
    /// use together_inference::{InferenceRequest, client::{Tool, ToolChoice}};
    ///
    /// let request = InferenceRequest::chat("Rain in Paris?")
    ///     .tool(Tool::function("weather", "The weather now", json!({"type": "object"})))
    ///     .tool_choice(ToolChoice::Function("weather".into()));
    /// request.validate()?;
    /// # Ok::<(), together_inference::inference::InvalidRequest>(())
    /// ```
    #[must_use]
    pub fn tool_choice(self, choice: ToolChoice) -> Self {
        self.chat_input(|input| input.tool_choice = Some(choice))
    }

    /// The form of the answer.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, client::ResponseFormat, inference::JsonNeed};
    ///
    /// let request = InferenceRequest::chat("Three colours, as JSON.").response_format(ResponseFormat::JsonObject);
    /// assert_eq!(request.needs_of().json, JsonNeed::Object);
    /// ```
    #[must_use]
    pub fn response_format(self, format: ResponseFormat) -> Self {
        self.chat_input(|input| input.response_format = Some(format))
    }

    /// Asks for JSON of this schema; `complete_as` does it for a type.
    ///
    /// The name is 1 to 64 ASCII letters, digits, `_`, `-` or `.`.
    ///
    /// ```
    /// use serde_json::json;
    /// use together_inference::{InferenceRequest, inference::JsonNeed};
    ///
    /// let schema = json!({"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]});
    /// let request = InferenceRequest::chat("How long does a refund take?").json_schema("refund", schema);
    /// assert_eq!(request.needs_of().json, JsonNeed::Schema);
    /// ```
    #[must_use]
    pub fn json_schema(self, name: impl Into<String>, schema: Value) -> Self {
        self.response_format(ResponseFormat::JsonSchema(JsonSchema::strict(name, schema)))
    }

    /// Randomness, 0 to 2; 0.7 unless set. Answers at 0 are cached.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// InferenceRequest::chat("Why is the sky blue?").temperature(0.0).validate()?;
    /// let error = InferenceRequest::chat("Why is the sky blue?").temperature(2.5).validate().unwrap_err();
    /// assert_eq!(error.field, "temperature");
    /// # Ok::<(), together_inference::inference::InvalidRequest>(())
    /// ```
    #[must_use]
    pub fn temperature(self, temperature: f64) -> Self {
        self.chat_input(|input| input.temperature = Some(temperature))
    }

    /// The most tokens of the answer, reasoning included.
    ///
    /// It bounds what the call may cost. Too few for a model that reasons leave no text: the answer ends with
    /// [`FinishReason::Length`](crate::FinishReason::Length).
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("hi").max_tokens(256);
    /// assert_eq!(request.chat_ref().max_tokens, Some(256));
    /// assert!(InferenceRequest::chat("hi").max_tokens(0).validate().is_err());
    /// ```
    #[must_use]
    pub fn max_tokens(self, tokens: u32) -> Self {
        self.chat_input(|input| input.max_tokens = Some(tokens))
    }

    /// The sampling seed.
    ///
    /// Providers take it as a wish: the same seed makes the same answer likely, not certain.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// assert_eq!(InferenceRequest::chat("hi").seed(7).chat_ref().seed, Some(7));
    /// ```
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.chat_input(|input| input.seed = Some(seed))
    }

    /// Texts that end the answer.
    ///
    /// A second call adds to the first.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("Count to ten.").stop(["five"]).stop(["six"]);
    /// assert_eq!(request.chat_ref().stop, ["five", "six"]);
    /// ```
    #[must_use]
    pub fn stop<S: Into<String>>(self, texts: impl IntoIterator<Item = S>) -> Self {
        self.chat_input(|input| input.stop.extend(texts.into_iter().map(Into::into)))
    }

    /// How many answers, 1 to 128.
    ///
    /// The tokens of every answer are billed, and count against [`max_cost`](Self::max_cost).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let reply = service.complete(InferenceRequest::chat("A name for a cat?").n(3)).await?;
    /// assert_eq!(reply.choices().len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn n(self, answers: u32) -> Self {
        self.chat_input(|input| input.n = Some(answers))
    }

    /// A field of the API that has no setter here, sent as it is.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("hi").extra("top_a", 0.2);
    /// assert_eq!(request.chat_ref().extra["top_a"], 0.2);
    /// assert!(InferenceRequest::chat("hi").extra("model", "other").validate().is_err());
    /// ```
    #[must_use]
    pub fn extra(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.chat_input(|input| {
            input.extra.insert(name.into(), value.into());
        })
    }

    /// How urgent it is; picks the tier unless [`tier`](Self::tier) does.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Priority, Tier};
    ///
    /// let urgent = InferenceRequest::chat("hi").priority(Priority::Realtime);
    /// assert_eq!((urgent.tier_of(), urgent.deadline_of().as_secs()), (Tier::Large, 60));
    /// let usual = InferenceRequest::chat("hi");
    /// assert_eq!((usual.tier_of(), usual.deadline_of().as_secs()), (Tier::Mid, 120));
    /// ```
    #[must_use]
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The size class of model. Urgency is not size: a free user in a chat is realtime and small.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, Priority, Tier};
    ///
    /// let free_user = InferenceRequest::chat("hi").priority(Priority::Realtime).tier(Tier::Small);
    /// assert_eq!(free_user.tier_of(), Tier::Small);
    /// ```
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// `true`: read and keep cached answers even if the model answers at random; `false`: neither read nor keep them.
    /// Unless set, answers at temperature 0 are cached.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, inference::Source, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let ask = || InferenceRequest::chat("A fact about cats?").allow_cached(true);
    /// assert_eq!(service.complete(ask()).await?.source, Source::Miss);
    /// assert_eq!(service.complete(ask()).await?.source, Source::Cache, "at a temperature of 0.7 too");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn allow_cached(mut self, allow: bool) -> Self {
        self.allow_cached = Some(allow);
        self
    }

    /// This model (or route) and no other: no fallback elsewhere.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, RouteId, inference::Selection};
    ///
    /// let pinned = InferenceRequest::chat("hi").model("zai-org/GLM-5.3");
    /// assert!(matches!(pinned.selection(), Selection::Pin(model) if model.model == "zai-org/GLM-5.3"));
    /// // A route names the server too.
    /// let ours = InferenceRequest::chat("hi").model(RouteId::new("local", "qwen3-8b"));
    /// assert!(ours.selection().named().iter().all(|model| model.upstream.is_some()));
    /// ```
    #[must_use]
    pub fn model(mut self, model: impl Into<ModelRef>) -> Self {
        self.model = Selection::Pin(model.into());
        self
    }

    /// These models in this order, falling back within them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// together.unavailable("Qwen/Qwen3.7-Max");
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let request = InferenceRequest::chat("hi").models(["Qwen/Qwen3.7-Max", "zai-org/GLM-5.3"]);
    /// let reply = service.complete(request).await?;
    /// assert_eq!(reply.model(), &"zai-org/GLM-5.3");
    /// assert!(reply.fell_back());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn models<M: Into<ModelRef>>(mut self, models: impl IntoIterator<Item = M>) -> Self {
        self.model = Selection::Prefer(models.into_iter().map(Into::into).collect());
        self
    }

    /// Only models of this upstream.
    ///
    /// No fallback leaves it: what must stay on one server stays there.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let at_home = InferenceRequest::chat("A secret.").upstream("local");
    /// assert_eq!(at_home.upstream_of(), Some(&"local".into()));
    /// ```
    #[must_use]
    pub fn upstream(mut self, upstream: impl Into<UpstreamId>) -> Self {
        self.upstream = Some(upstream.into());
        self
    }

    /// Demands more of the model than the request itself shows.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, inference::Needs};
    ///
    /// let request = InferenceRequest::chat("Prove it.").needs(Needs::none().reasoning());
    /// assert!(request.needs_of().reasoning);
    /// ```
    #[must_use]
    pub fn needs(mut self, needs: Needs) -> Self {
        self.needs = self.needs.and(needs);
        self
    }

    /// Whose request it is.
    ///
    /// Cached answers, coalesced calls and budgets stay within it. An empty name is refused.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// assert_eq!(InferenceRequest::chat("hi").tenant("acme").tenant_of(), Some(&"acme".into()));
    /// assert_eq!(InferenceRequest::chat("hi").tenant("").validate().unwrap_err().field, "tenant");
    /// ```
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
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("hi").tag("plan", "free").tag("feature", "search");
    /// assert!(request.tags_of().any(|tag| tag == ("plan", "free")));
    /// ```
    #[must_use]
    pub fn tag(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }

    /// How long the caller waits, from the call on; 120 s unless set, 60 s at realtime priority.
    ///
    /// All attempts and waits together. A stream is bounded to its end, and by the default only to its first piece.
    ///
    /// ```
    /// use std::time::Duration;
    /// use together_inference::InferenceRequest;
    ///
    /// let request = InferenceRequest::chat("hi").deadline(Duration::from_secs(5));
    /// assert_eq!(request.deadline_of(), Duration::from_secs(5));
    /// assert!(InferenceRequest::chat("hi").deadline(Duration::ZERO).validate().is_err());
    /// ```
    #[must_use]
    pub const fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// How long each attempt at a stream may take to its first token; past it the attempt is given up, recorded, and
    /// the next model is asked. A plain call shows no first token: there it has no effect.
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
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together, usd};
    ///
    /// let together = Together::new();
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let too_little = InferenceRequest::chat("Why is the sky blue?").max_tokens(1_000).max_cost(usd!("0.000001"));
    /// assert!(service.complete(too_little).await.is_err());
    /// assert_eq!(together.calls(), 0, "refused before anything was sent");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn max_cost(mut self, most: Usd) -> Self {
        self.max_cost = Some(most);
        self
    }
}
