//! What a router is asked, and within which bounds.

use std::fmt;

use tokio::time::Instant;

use super::thrift::Thrift;
use crate::{
    inference::{InferenceRequest, Needs},
    types::{ModelId, Price, Priority, RouteId, Task, Tenant, Tier, Usd},
};

/// What a router is asked.
///
/// ```
/// use together_inference::{InferenceRequest, Priority, Tier, router::{RouteAsk, RouteLimits}};
///
/// let request = InferenceRequest::chat("hi").priority(Priority::Realtime);
/// let ask = RouteAsk::new(&request);
/// assert_eq!(ask.tier(), Tier::Large);
/// assert_eq!(ask.with_limits(RouteLimits::default().tier(Tier::Mid)).tier(), Tier::Mid);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteAsk<'a> {
    /// The request.
    pub request: &'a InferenceRequest,
    /// What it demands of a model.
    pub needs: Needs,
    /// The most tokens that its prompt can have.
    pub prompt_tokens_at_most: u64,
    /// Narrower bounds than the request's own.
    pub limits: RouteLimits,
    /// What the asker knows of prices: the application's own and the provider's current ones.
    pub prices: Option<&'a dyn Prices>,
    /// How the asker stands.
    pub health: Health,
    /// When it is asked.
    pub now: Instant,
    /// Whether nothing comes of it: no probe's turn is taken.
    pub rehearsal: bool,
    /// What the router makes of the budget.
    pub(super) thrift: Thrift,
}

/// How the asker stands, as far as it bears on who is chosen.
///
/// ```
/// use together_inference::{InferenceRequest, router::{Health, RouteAsk}};
///
/// let request = InferenceRequest::chat("hi");
/// let ask = RouteAsk::new(&request).with_health(Health::default().budget_left(80));
/// assert_eq!(ask.health.budget_left, Some(80), "8 % of the tightest budget");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// What is left of the tightest budget that the request counts against, in thousandths; `None` without a budget, or
    /// where that is not known.
    pub budget_left: Option<u16>,
}

impl Health {
    /// Sets what is left of the tightest budget, in thousandths; more than 1,000 is all of it.
    #[must_use]
    pub const fn budget_left(mut self, permille: u16) -> Self {
        self.budget_left = Some(if permille > 1_000 { 1_000 } else { permille });
        self
    }
}

/// Prices from outside the router, which win over its own.
pub trait Prices: Send + Sync + fmt::Debug {
    /// The price of a route, if it is known.
    fn price(&self, route: &RouteId) -> Option<Price>;
}

impl<'a> RouteAsk<'a> {
    /// The question that a request is.
    #[must_use]
    pub fn new(request: &'a InferenceRequest) -> Self {
        Self {
            request,
            needs: request.needs_of(),
            prompt_tokens_at_most: request.prompt_tokens_at_most(),
            limits: RouteLimits { max_cost: request.max_cost_of(), ..RouteLimits::default() },
            prices: None,
            health: Health::default(),
            now: Instant::now(),
            rehearsal: false,
            thrift: Thrift::None,
        }
    }

    /// The same question, with what the asker knows of prices.
    #[must_use]
    pub const fn with_prices(mut self, prices: &'a dyn Prices) -> Self {
        self.prices = Some(prices);
        self
    }

    /// The same question by an asker who stands like this.
    #[must_use]
    pub const fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// The same question, of which nothing comes.
    #[must_use]
    pub const fn rehearsed(mut self) -> Self {
        self.rehearsal = true;
        self
    }

    /// The same question within narrower bounds. Bounds never widen.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, router::{RouteAsk, RouteLimits}, usd};
    ///
    /// let request = InferenceRequest::chat("hi").max_cost(usd!("0.01"));
    /// let wider = RouteAsk::new(&request).with_limits(RouteLimits::default().max_cost(usd!("1.00")));
    /// assert_eq!(wider.limits.max_cost, Some(usd!("0.01")));
    /// ```
    #[must_use]
    pub fn with_limits(&self, limits: RouteLimits) -> Self {
        Self { limits: self.limits.clone().and(limits), ..self.clone() }
    }

    /// What kind of request it is.
    #[must_use]
    pub const fn task(&self) -> Task {
        self.request.task_of()
    }

    /// How urgent it is.
    #[must_use]
    pub const fn priority(&self) -> Priority {
        self.request.priority_of()
    }

    /// The tier that it asks for, within the limits and what a router makes of the budget.
    #[must_use]
    pub fn tier(&self) -> Tier {
        let asked = self.request.tier_of();
        let asked = if self.request.names_tier() { asked } else { self.thrift.tier(asked) };
        self.limits.tier.map_or(asked, |most| asked.min(most))
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> Option<&Tenant> {
        self.request.tenant_of()
    }

    /// The most tokens that prompt and answer can have together; without `max_tokens` the prompt alone.
    ///
    /// ```
    /// use together_inference::{InferenceRequest, router::RouteAsk};
    ///
    /// let request = InferenceRequest::chat("hello").max_tokens(100);
    /// // Five bytes, sixteen for the turn, and the answer.
    /// assert_eq!(RouteAsk::new(&request).tokens_at_most(), 5 + 16 + 100);
    /// ```
    #[must_use]
    pub fn tokens_at_most(&self) -> u64 {
        self.prompt_tokens_at_most + self.request.max_tokens_of().map_or(0, u64::from)
    }
}

/// Bounds on the routes that may be chosen.
///
/// ```
/// use together_inference::{Tier, router::RouteLimits, usd};
///
/// let free_users = RouteLimits::default().tier(Tier::Small).max_cost(usd!("0.001")).deny(["acme/beta"]);
/// assert!(!free_users.admits(&"acme/beta".into()));
/// assert!(free_users.admits(&"acme/stable".into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RouteLimits {
    /// No tier above this one.
    pub tier: Option<Tier>,
    /// No route that may cost more.
    pub max_cost: Option<Usd>,
    /// Only these models; all if empty.
    pub allow: Vec<ModelId>,
    /// None of these models.
    pub deny: Vec<ModelId>,
}

impl RouteLimits {
    /// No tier above this one.
    #[must_use]
    pub const fn tier(mut self, most: Tier) -> Self {
        self.tier = Some(most);
        self
    }

    /// No route that may cost more.
    #[must_use]
    pub const fn max_cost(mut self, most: Usd) -> Self {
        self.max_cost = Some(most);
        self
    }

    /// Only these models; a second call replaces the first. To narrow a list, use [`and`](Self::and).
    ///
    /// ```
    /// use together_inference::router::RouteLimits;
    ///
    /// let limits = RouteLimits::default().allow(["a", "b"]);
    /// assert!(limits.admits(&"a".into()) && !limits.admits(&"c".into()));
    /// assert!(RouteLimits::default().admits(&"c".into()), "no list is no bound");
    /// ```
    #[must_use]
    pub fn allow<M: Into<ModelId>>(mut self, models: impl IntoIterator<Item = M>) -> Self {
        self.allow = models.into_iter().map(Into::into).collect();
        self
    }

    /// None of these models either.
    ///
    /// ```
    /// use together_inference::router::RouteLimits;
    ///
    /// let limits = RouteLimits::default().deny(["a"]).deny(["b"]);
    /// assert!(!limits.admits(&"a".into()) && !limits.admits(&"b".into()));
    /// ```
    #[must_use]
    pub fn deny<M: Into<ModelId>>(mut self, models: impl IntoIterator<Item = M>) -> Self {
        self.deny.extend(models.into_iter().map(Into::into));
        self
    }

    /// Both bounds at once.
    ///
    /// The lower tier, the lower cost, what both allow and neither denies.
    ///
    /// ```
    /// use together_inference::{Tier, router::RouteLimits};
    ///
    /// let (one, other) = (RouteLimits::default().allow(["a", "b"]), RouteLimits::default().allow(["b", "c"]));
    /// let both = one.tier(Tier::Mid).and(other.tier(Tier::Large));
    /// assert_eq!(both.tier, Some(Tier::Mid));
    /// assert_eq!(["a", "b", "c"].map(|model| both.admits(&model.into())), [false, true, false]);
    /// ```
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.tier = [self.tier, other.tier].into_iter().flatten().min();
        self.max_cost = [self.max_cost, other.max_cost].into_iter().flatten().min();
        self.deny.extend(other.deny);
        match (self.allow.is_empty(), other.allow.is_empty()) {
            (true, _) => self.allow = other.allow,
            (false, true) => {}
            (false, false) => {
                // Nothing in common must stay "nothing", not become "all".
                let denied = self.allow.iter().filter(|model| !other.allow.contains(model)).cloned();
                self.deny.extend(denied.collect::<Vec<_>>());
            }
        }
        self
    }

    /// Whether the model is within the lists.
    #[must_use]
    pub fn admits(&self, model: &ModelId) -> bool {
        (self.allow.is_empty() || self.allow.contains(model)) && !self.deny.contains(model)
    }
}
