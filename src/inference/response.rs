//! One caller's view of an answer.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Answer, Decision, Trace};
use crate::{
    client::{Choice, ErrorKind, Image, Message, Ranked, ToolCall},
    types::{Cost, FinishReason, ModelId, RequestId, RouteId, Usage, UsageSource},
};

/// What the service answers: the answer itself, and how it came about for this caller.
///
/// `{reply}` is the text.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceRequest, InferenceService, testing::Together};
///
/// let together = Together::new();
/// together.on("refund").reply("5 days");
/// let service = InferenceService::builder(together.client()).build()?;
///
/// let reply = service.complete(InferenceRequest::chat("How long does a refund take?")).await?;
/// assert_eq!(reply.to_string(), "5 days");
/// assert_eq!(reply.cost().known().map(|cost| cost.nanos()), Some(together.bill().nano_usd));
/// assert_eq!(reply.attempts.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InferenceResponse {
    /// The answer, shared with the cache and other callers.
    pub answer: Arc<Answer>,
    /// The route that the router chose first.
    pub asked: RouteId,
    /// The route that answered; another one after a fallback.
    pub route: RouteId,
    /// Where the answer came from.
    pub source: Source,
    /// What this call cost, all attempts together; $0 for a hit or a follower.
    pub cost: Cost,
    /// What a hit or a follower did not have to pay.
    pub saved: Cost,
    /// Where the token counts come from.
    pub usage_source: UsageSource,
    /// Every attempt at an upstream, in order; empty for a hit or a follower.
    pub attempts: Arc<[Attempt]>,
    /// How long it took.
    pub timings: Timings,
    /// The service's id of the call.
    pub id: RequestId,
    /// When it was ranked (UTC).
    pub at: SystemTime,
    /// The provider's id of the attempt that answered.
    pub request_id: Option<Arc<str>>,
    /// Notices of the provider.
    pub warnings: Arc<[String]>,
    /// Why this model.
    pub decision: Arc<Decision>,
    /// The most tokens that the prompt was taken to have when it was ranked.
    pub prompt_tokens_at_most: u64,
    pub(crate) leaked: Option<&'static str>,
}

/// Where an answer came from.
///
/// ```
/// use together_inference::inference::{Bypass, Source};
///
/// assert_eq!(Source::Upstream(Bypass::Stochastic).to_string(), "upstream (stochastic)");
/// assert!(Source::Miss.is_upstream() && !Source::Coalesced.is_upstream());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The provider; the cache had no answer.
    Miss,
    /// The provider; the cache was not asked.
    Upstream(Bypass),
    /// The cache, from where it keeps it.
    Cache(Origin),
    /// The cache, past its time: a new answer is on its way to it, could not be had, or the request keeps none.
    Stale(Origin),
    /// Another caller's identical request that was under way.
    Coalesced,
}

/// Why the cache was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bypass {
    /// The request said so.
    Asked,
    /// The model answers at random (temperature above 0) and the request did not opt in.
    Stochastic,
}

/// Where a cache kept an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// In this process.
    #[default]
    Memory,
    /// In Redis.
    Redis,
    /// Somewhere else: a layer of the application's own.
    Other,
}

impl Origin {
    /// `memory`, `redis`, `cache`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Other => "cache",
        }
    }
}

impl Source {
    /// Whether this caller paid a provider.
    #[must_use]
    pub const fn is_upstream(self) -> bool {
        matches!(self, Self::Miss | Self::Upstream(_))
    }

    /// Whether it came out of the cache.
    #[must_use]
    pub const fn is_cached(self) -> bool {
        matches!(self, Self::Cache(_) | Self::Stale(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Miss => "upstream (miss)",
            Self::Upstream(Bypass::Asked) => "upstream (cache off)",
            Self::Upstream(Bypass::Stochastic) => "upstream (stochastic)",
            Self::Cache(origin) => origin.as_str(),
            Self::Stale(_) => "stale",
            Self::Coalesced => "coalesced",
        })
    }
}

/// One attempt at an upstream.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Attempt {
    /// Where.
    pub route: RouteId,
    /// What went wrong; `None` for the one that answered.
    pub error: Option<ErrorKind>,
    /// The HTTP status, where one came.
    pub status: Option<u16>,
    /// When it was dispatched, from the beginning of the call.
    pub started: Duration,
    /// How long the provider took from there; the time in which a stream was not asked for more is its reader's.
    pub took: Duration,
    /// From dispatch to the first piece of a stream.
    pub first_token: Option<Duration>,
    /// What was used, as far as it is known.
    pub usage: Usage,
    /// The model that answered, by the provider's name.
    pub served: Option<ModelId>,
    /// Whether it was to find out if an ejected route is back.
    pub probe: bool,
    /// Candidates before this one that got no call, for they were ejected or their key was stopped.
    pub passed_over: u32,
    /// What it cost.
    pub cost: Cost,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.error, self.status) {
            (None, _) => write!(f, "{}: answered", self.route),
            (Some(kind), Some(status)) => write!(f, "{}: {status} {}", self.route, kind.as_str()),
            (Some(kind), None) => write!(f, "{}: {}", self.route, kind.as_str()),
        }
    }
}

/// How long a call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// From the call to the answer.
    pub total: Duration,
    /// From the call to the first delta, for streams.
    pub first_token: Option<Duration>,
}

impl InferenceResponse {
    /// The text of the first answer that says something; empty if it is only tool calls. Where several were asked for and
    /// the first said nothing, message, reasoning and finish are those of that answer as well.
    #[must_use]
    pub fn text(&self) -> &str {
        self.answer.text()
    }

    /// The model that answered, by the provider's word.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        &self.answer.served
    }

    /// The assistant's turn: append it to the conversation for the next one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let first = InferenceRequest::chat("2 + 2?");
    /// let reply = service.complete(&first).await?;
    /// let next = first.messages(reply.message().cloned()).user("And twice that?");
    /// assert_eq!(next.as_chat().unwrap().messages.len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn message(&self) -> Option<&Message> {
        self.answer.first().map(|choice| &choice.message)
    }

    /// All answers, also those that said nothing.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        self.answer.choices()
    }

    /// How many answers said nothing where others did: neither a text nor a tool call. They used up their tokens by
    /// thinking, or were cut before they began; [`Choice::is_silent`] tells which.
    #[must_use]
    pub fn silent(&self) -> usize {
        self.answer.silent()
    }

    /// The vectors, one a text in the texts' order; none where something else was asked.
    #[must_use]
    pub fn vectors(&self) -> &[Arc<[f32]>] {
        self.answer.vectors()
    }

    /// The pictures; none where something else was asked.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        self.answer.images()
    }

    /// The documents, best first; none where something else was asked.
    #[must_use]
    pub fn ranking(&self) -> &[Ranked] {
        self.answer.ranking()
    }

    /// The tool calls of the first answer. Nothing was executed.
    #[must_use]
    pub fn tool_calls(&self) -> &[ToolCall] {
        self.answer.tool_calls()
    }

    /// The mark of a tool call that stands in the text of an answer instead of being called, whether tools were offered or
    /// not: see [`leaked_tool_markup`](super::leaked_tool_markup). Nothing of it was executed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use serde_json::json;
    /// use together_inference::{InferenceRequest, InferenceService, client::Tool, testing::Together};
    ///
    /// let together = Together::new();
    /// together.on("Rain").reply(r#"<tool_call>{"name": "weather"}</tool_call>"#);
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let tool = Tool::function("weather", "The weather now", json!({"type": "object"}));
    /// let reply = service.complete(InferenceRequest::chat("Rain in Paris?").tool(tool)).await?;
    /// assert_eq!(reply.leaked_tool_markup(), Some("<tool_call>"));
    /// assert!(reply.tool_calls().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn leaked_tool_markup(&self) -> Option<&'static str> {
        self.leaked
    }

    /// The reasoning of the first answer, where the model shows it.
    #[must_use]
    pub fn reasoning(&self) -> Option<&str> {
        self.answer.reasoning()
    }

    /// Why the first answer ended.
    #[must_use]
    pub fn finish(&self) -> Option<&FinishReason> {
        self.answer.finish()
    }

    /// Tokens of the answer; for a hit, those of the call that produced it.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.answer.usage
    }

    /// What this call cost.
    #[must_use]
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    /// Where the answer came from.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// How the call went, to be kept: the choice, the attempts, the end.
    #[must_use]
    pub fn trace(&self) -> Trace {
        Trace {
            id: Some(self.id),
            at: Some(self.at),
            prompt_tokens: self.prompt_tokens_at_most,
            decision: Some(Arc::clone(&self.decision)),
            attempts: Arc::clone(&self.attempts),
            end: self.source.to_string().into(),
            route: Some(self.route.clone()),
            cost: self.cost,
        }
    }

    /// Why this model: one line, or the whole table as `{:#}`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, Priority, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let reply = service.complete(InferenceRequest::chat("hi").priority(Priority::Batch)).await?;
    /// assert!(reply.decision().to_string().contains("small"), "{:#}", reply.decision());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Whether another route answered than the one chosen first.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let first = service.complete("hi").await?;
    /// together.overload(first.model().as_str());
    /// let second = service.complete("hi").await?;
    /// assert!(!first.fell_back() && second.fell_back());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn fell_back(&self) -> bool {
        self.asked != self.route
    }
}

impl fmt::Display for InferenceResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}
