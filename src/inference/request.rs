//! One request of any task: what to infer, and how to serve it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CacheControl, Input, ModelRef, Needs, Selection};
use crate::types::{Priority, SessionId, Task, Tenant, Tier, TraceId, UpstreamId, Usd};

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
    pub(super) cache: Option<CacheControl>,
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
    pub(super) trace_id: Option<TraceId>,
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
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) json_by_prompt: bool,
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

impl InferenceRequest {
    /// A request with this input, for the service to serve as it finds best.
    pub(super) fn with_input(task: Task, input: Input) -> Self {
        Self {
            task,
            input,
            priority: Priority::default(),
            cache: None,
            model: Selection::Any,
            upstream: None,
            tier: None,
            tenant: None,
            session: None,
            trace_id: None,
            deadline: None,
            first_token: None,
            deferrable: false,
            max_cost: None,
            tags: Vec::new(),
            needs: Needs::default(),
            json_by_prompt: false,
            misfit: None,
        }
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
    /// assert!(service.complete(ask()).await?.source.is_cached(), "at a temperature of 0.7 too");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn allow_cached(mut self, allow: bool) -> Self {
        self.cache = Some(if allow { CacheControl::new().stochastic() } else { CacheControl::off() });
        self
    }

    /// How it uses the cache; [`allow_cached`](Self::allow_cached) in full. The service's
    /// [policy](crate::service::ServiceBuilder::cache_policy) decides for requests that do not say.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, inference::CacheControl, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let ask = |tenant: &str| InferenceRequest::chat("What is HTTP?").temperature(0.0).tenant(tenant);
    /// service.complete(ask("acme").cache(CacheControl::new().shared())).await?;
    /// let other = service.complete(ask("umbrella").cache(CacheControl::new().shared())).await?;
    /// assert!(other.source.is_cached());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn cache(mut self, control: CacheControl) -> Self {
        self.cache = Some(control);
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

    /// The trace that it is a part of: a label of its cost records.
    ///
    /// ```
    /// use together_inference::InferenceRequest;
    ///
    /// let trace = "4bf92f3577b34da6a3ce929d0e0e4736".parse()?;
    /// let request = InferenceRequest::chat("Why is the sky blue?").trace_id(trace);
    /// assert_eq!(request.trace_id_of(), Some(trace));
    /// # Ok::<(), std::num::ParseIntError>(())
    /// ```
    #[must_use]
    pub const fn trace_id(mut self, trace: TraceId) -> Self {
        self.trace_id = Some(trace);
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

    /// The most that the answer may cost, all attempts at it together. Models whose upper bound is over it are left out
    /// before anything is sent, and the next one that is not is asked; where none is left the error says what each would
    /// cost ([`too_dear`](crate::service::Error::too_dear)).
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
