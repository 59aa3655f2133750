//! A route as the router knows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Word, Words};
use crate::types::{ModelId, Price, Rate, RouteId, Task, Tier, UpstreamId};

/// A model on an upstream with everything that speaks for or against it.
///
/// ```
/// use together_inference::{Price, Task, Tier, router::ModelRoute};
///
/// let local = ModelRoute::new("local", "qwen3-8b").task(Task::Chat).tier(Tier::Small).price(Price::FREE);
/// assert_eq!(local.id().to_string(), "local/qwen3-8b");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelRoute {
    // Not public: tables are sorted by it.
    pub(super) id: RouteId,
    /// What it is good for.
    pub tasks: Vec<Task>,
    /// Its size class; by its price within the task if `None`.
    pub tier: Option<Tier>,
    /// Its price; unpriced if `None`.
    pub price: Option<Price>,
    /// Tokens of prompt and answer together, where it is known.
    pub context: Option<u32>,
    /// Tokens of an answer at most, where it is known.
    pub max_output: Option<u32>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The median time to an answer that is expected of it.
    pub latency_p50: Option<Duration>,
    /// 0 to 1, from an evaluation of one's own; the shipped catalogue has none.
    pub quality_score: Option<f32>,
    /// Whether it is in use.
    pub state: RouteState,
    /// 0: known but not in use until promoted; 1: in use.
    pub weight: f32,
    /// By whose word each capability is known.
    #[serde(default)]
    pub words: Words,
    /// Whether it is going to be removed, by the provider's word.
    #[serde(default)]
    pub deprecated: bool,
    /// Whether the application put it here: lists then change no more than what it left unknown.
    #[serde(default)]
    pub(super) by_user: bool,
}

/// Whether a route is in use.
///
/// ```
/// use together_inference::{RouteId, router::{CatalogRouter, ModelRoute, ModelRouter, RouteState}};
///
/// let router = CatalogRouter::empty().with(ModelRoute::new("local", "old")).with(ModelRoute::new("local", "new"));
/// let (old, new) = (RouteId::new("local", "old"), RouteId::new("local", "new"));
/// router.retire(&old, Some(&new))?;
/// let state = router.routes().into_iter().find(|route| *route.id() == old).map(|route| route.state);
/// assert!(matches!(state, Some(RouteState::Retired { to: Some(to) }) if to == new));
/// # Ok::<(), together_inference::router::RouterError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RouteState {
    /// In use.
    #[default]
    Live,
    /// Served only where it is asked for by name.
    Preview,
    /// The provider said that it is not available: tried where nothing else serves, and in use again after a day.
    Missing,
    /// Out of use; requests that pin it go to the replacement.
    Retired {
        /// The replacement.
        to: Option<RouteId>,
    },
}

/// Whether something is known of a model.
///
/// ```
/// use together_inference::router::Known;
///
/// assert!(Known::Yes > Known::Unknown && Known::Unknown > Known::No);
/// assert_eq!(Known::default(), Known::Unknown);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Known {
    /// It cannot.
    No,
    /// Nobody said. It may be tried, after those that can.
    #[default]
    Unknown,
    /// It can.
    Yes,
}

impl Known {
    /// The word that somebody's own statement has.
    const fn word(self) -> Word {
        match self {
            Self::Unknown => Word::Snapshot,
            Self::Yes | Self::No => Word::User,
        }
    }
}

/// What a model can do.
///
/// ```
/// use together_inference::router::{Capabilities, Known};
///
/// let text_only = Capabilities::all().vision(Known::No);
/// assert_eq!((text_only.tools, text_only.vision), (Known::Yes, Known::No));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Calls tools.
    pub tools: Known,
    /// Answers in JSON of a schema.
    pub json_schema: Known,
    /// Reads pictures.
    pub vision: Known,
    /// Reasons.
    pub reasoning: Known,
}

impl ModelRoute {
    /// A live route of unknown price and abilities, for chat.
    pub fn new(upstream: impl Into<UpstreamId>, model: impl Into<ModelId>) -> Self {
        Self {
            id: RouteId::new(upstream, model),
            tasks: vec![Task::Chat],
            tier: None,
            price: None,
            context: None,
            max_output: None,
            capabilities: Capabilities::default(),
            latency_p50: None,
            quality_score: None,
            state: RouteState::Live,
            weight: 1.0,
            words: Words::default(),
            deprecated: false,
            by_user: true,
        }
    }

    /// Whether the application made it: what others say of it does not stand against that.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.by_user
    }

    /// Whether requests that do not name it can be routed to it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self.state, RouteState::Live | RouteState::Missing) && self.weight > 0.0
    }

    /// The upstream and the model.
    #[must_use]
    pub const fn id(&self) -> &RouteId {
        &self.id
    }

    /// Makes it good for this task alone.
    #[must_use]
    pub fn task(mut self, task: Task) -> Self {
        self.tasks = vec![task];
        self
    }

    /// Makes it good for these tasks.
    ///
    /// At least one: a route without a task is refused by [`register`](super::ModelRouter::register).
    ///
    /// ```
    /// use together_inference::{Task, router::ModelRoute};
    ///
    /// let route = ModelRoute::new("local", "qwen3-coder").tasks([Task::Chat, Task::Code]);
    /// assert_eq!(route.tasks, [Task::Chat, Task::Code]);
    /// ```
    #[must_use]
    pub fn tasks(mut self, tasks: impl IntoIterator<Item = Task>) -> Self {
        self.tasks = tasks.into_iter().collect();
        self
    }

    /// Sets the size class.
    ///
    /// ```
    /// use together_inference::{Tier, router::ModelRoute};
    ///
    /// assert_eq!(ModelRoute::new("local", "qwen3-8b").tier(Tier::Small).tier, Some(Tier::Small));
    /// ```
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Sets the price.
    ///
    /// [`Price::FREE`] is a price; without one its calls are unpriced, and no request with a cost ceiling goes there.
    ///
    /// ```
    /// use together_inference::{Price, router::ModelRoute, usd};
    ///
    /// let route = ModelRoute::new("together", "m").price(Price::per_million(usd!("1.40"), usd!("4.40")));
    /// assert_eq!(route.price.map(|price| price.output.to_string()), Some("$4.40/M".to_owned()));
    /// ```
    #[must_use]
    pub const fn price(mut self, price: Price) -> Self {
        self.price = Some(price);
        self
    }

    /// Sets the context in tokens.
    ///
    /// Prompt and answer together; 0 is refused when the route is registered.
    ///
    /// ```
    /// use together_inference::router::ModelRoute;
    ///
    /// assert_eq!(ModelRoute::new("local", "qwen3-8b").context(32_768).context, Some(32_768));
    /// ```
    #[must_use]
    pub const fn context(mut self, tokens: u32) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Sets what it can do.
    ///
    /// ```
    /// use together_inference::router::{Capabilities, Known, ModelRoute};
    ///
    /// let route = ModelRoute::new("local", "qwen3-8b").capabilities(Capabilities::default().tools(Known::Yes));
    /// assert_eq!((route.capabilities.tools, route.capabilities.vision), (Known::Yes, Known::Unknown));
    /// ```
    #[must_use]
    pub const fn capabilities(mut self, capabilities: Capabilities) -> Self {
        let words = [capabilities.tools, capabilities.json_schema, capabilities.vision, capabilities.reasoning];
        let [tools, json_schema, vision, reasoning] = words;
        // What is left unknown may be told by others.
        self.words = Words {
            tools: tools.word(),
            json_schema: json_schema.word(),
            vision: vision.word(),
            reasoning: reasoning.word(),
        };
        self.capabilities = capabilities;
        self
    }

    /// Sets the weight, 0 to 1.
    ///
    /// At 0 it serves only requests that name it. Anything outside 0 to 1 is refused when the route is registered.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, router::{CatalogRouter, ModelRoute, ModelRouter, RouteAsk}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let router = CatalogRouter::empty().with(ModelRoute::new("together", "acme/tuned").weight(0.0));
    /// assert!(router.rank(&RouteAsk::new(&InferenceRequest::chat("hi"))).await.is_err(), "not in use yet");
    ///
    /// let by_name = InferenceRequest::chat("hi").model("acme/tuned");
    /// assert!(router.rank(&RouteAsk::new(&by_name)).await.is_ok());
    /// # }
    /// ```
    #[must_use]
    pub const fn weight(mut self, weight: f32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the quality, 0 to 1.
    ///
    /// Anything outside 0 to 1 is refused when the route is registered.
    ///
    /// ```
    /// use together_inference::router::{CatalogRouter, ModelRoute, ModelRouter};
    ///
    /// assert_eq!(ModelRoute::new("local", "qwen3-8b").quality_score(0.8).quality_score, Some(0.8));
    /// let percent = ModelRoute::new("local", "qwen3-8b").quality_score(80.0);
    /// assert!(CatalogRouter::empty().register(percent).is_err());
    /// ```
    #[must_use]
    pub const fn quality_score(mut self, score: f32) -> Self {
        self.quality_score = Some(score);
        self
    }

    /// What a token of the prompt costs, and one of the answer; `None` where the price is not known. A [`Rate`] counts
    /// pico-dollars (10⁻¹² $) per token and prints as dollars per million tokens.
    ///
    /// ```
    /// use together_inference::{Price, router::ModelRoute, types::Rate, usd};
    ///
    /// let route = ModelRoute::new("together", "m").price(Price::per_million(usd!("0.15"), usd!("0.60")));
    /// let (prompt, answer) = route.cost_per_token().ok_or("unpriced")?;
    /// assert_eq!(prompt, Rate::from_picos(150_000));
    /// assert_eq!(answer.to_string(), "$0.60/M");
    /// # Ok::<(), &str>(())
    /// ```
    #[must_use]
    pub fn cost_per_token(&self) -> Option<(Rate, Rate)> {
        self.price.map(|price| (price.input, price.output))
    }
}

impl Capabilities {
    /// Knows that it can do everything.
    ///
    /// ```
    /// use together_inference::router::{Capabilities, Known};
    ///
    /// assert_eq!(Capabilities::all().reasoning, Known::Yes);
    /// ```
    #[must_use]
    pub const fn all() -> Self {
        Self { tools: Known::Yes, json_schema: Known::Yes, vision: Known::Yes, reasoning: Known::Yes }
    }

    /// Sets whether it calls tools.
    #[must_use]
    pub const fn tools(mut self, known: Known) -> Self {
        self.tools = known;
        self
    }

    /// Sets whether it answers in JSON of a schema.
    #[must_use]
    pub const fn json_schema(mut self, known: Known) -> Self {
        self.json_schema = known;
        self
    }

    /// Sets whether it reads pictures.
    #[must_use]
    pub const fn vision(mut self, known: Known) -> Self {
        self.vision = known;
        self
    }

    /// Sets whether it reasons.
    #[must_use]
    pub const fn reasoning(mut self, known: Known) -> Self {
        self.reasoning = known;
        self
    }
}
