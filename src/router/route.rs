//! A route as the router knows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{ModelId, Price, RouteId, Task, Tier, UpstreamId, Usd};

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
}

/// Whether a route is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RouteState {
    /// In use.
    #[default]
    Live,
    /// Served only where it is asked for by name.
    Preview,
    /// Out of use; requests that pin it go to the replacement.
    Retired {
        /// The replacement.
        to: Option<RouteId>,
    },
}

/// Whether something is known of a model.
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

/// What a model can do.
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
        }
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
    #[must_use]
    pub fn tasks(mut self, tasks: impl IntoIterator<Item = Task>) -> Self {
        self.tasks = tasks.into_iter().collect();
        self
    }

    /// Sets the size class.
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Sets the price.
    #[must_use]
    pub const fn price(mut self, price: Price) -> Self {
        self.price = Some(price);
        self
    }

    /// Sets the context in tokens.
    #[must_use]
    pub const fn context(mut self, tokens: u32) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Sets what it can do.
    #[must_use]
    pub const fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Sets the weight, 0 to 1.
    #[must_use]
    pub const fn weight(mut self, weight: f32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the quality, 0 to 1.
    #[must_use]
    pub const fn quality_score(mut self, score: f32) -> Self {
        self.quality_score = Some(score);
        self
    }

    /// Dollars per million tokens, prompt and answer, where the price is known.
    #[must_use]
    pub fn cost_per_token(&self) -> Option<(Usd, Usd)> {
        let price = self.price?;
        Some((price.cost(&of(1_000_000, 0)), price.cost(&of(0, 1_000_000))))
    }
}

fn of(prompt: u64, completion: u64) -> crate::types::Usage {
    crate::types::Usage { prompt, completion, ..crate::types::Usage::default() }
}

impl Capabilities {
    /// Knows that it can do everything.
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
