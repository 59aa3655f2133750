//! Which model serves a request.
//!
//! A [`ModelRouter`] ranks routes, best first; the service tries them in that order. [`CatalogRouter`] is the default:
//! what cannot serve the request is left out by name, priority picks the tier, and cost, latency, success and quality decide
//! within it. It learns from every attempt; the service ejects what fails ([`Availability`]).
//!
//! # Why a ranking and not one choice
//!
//! A fallback chain written by hand is right for the day it was written. A ranking is made for each request from what
//! is known now, so that the second choice is as fit as the first, and says why.
//!
//! # A router of one's own
//!
//! Wrap one: [`inner`](ModelRouter::inner) forwards everything that is not overridden, so that a dozen lines do not
//! switch learning off.
//!
//! ```
//! use together_inference::{
//!     Tier,
//!     router::{CatalogRouter, ModelRouter, NoRoute, Ranking, RouteAsk, RouteLimits},
//! };
//!
//! /// Free users never get a large model.
//! #[derive(Debug)]
//! struct ByPlan(CatalogRouter);
//!
//! #[async_trait::async_trait]
//! impl ModelRouter for ByPlan {
//!     async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
//!         let free = ask.request.tags_of().any(|tag| tag == ("plan", "free"));
//!         let limits = if free { RouteLimits::default().tier(Tier::Small) } else { RouteLimits::default() };
//!         self.0.rank(&ask.with_limits(limits)).await
//!     }
//!
//!     fn inner(&self) -> Option<&dyn ModelRouter> {
//!         Some(&self.0)
//!     }
//! }
//! ```

mod ask;
mod catalog;
mod ejection;
mod expectation;
mod filter;
mod incumbent;
mod learn;
mod lessons;
mod listing;
mod observation;
mod rank;
mod route;
mod score;
mod snapshot;
mod table;
mod thrift;

use std::{fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

pub(crate) use self::ejection::{Ejection, End, Pass, Turn, Verdict};
pub use self::{
    ask::{Health, Prices, RouteAsk, RouteLimits},
    catalog::{CatalogRouter, Seen},
    ejection::{Availability, Override},
    expectation::Expectation,
    listing::{Ability, Listing, Word, Words},
    observation::{Observation, Outcome},
    route::{Capabilities, Known, ModelRoute, RouteState},
    snapshot::CatalogError,
};
use crate::{
    inference::{Decision, Rejection},
    types::{Price, RouteId},
};

/// Ranks routes for requests and learns from what became of them.
#[async_trait]
pub trait ModelRouter: Send + Sync + fmt::Debug {
    /// The routes that can serve the request, best first, never empty.
    ///
    /// Must be the same for the same request while nothing was learned: identical requests share one answer, and a
    /// router that draws lots would scatter them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::router::NoRoute> {
    /// use together_inference::{InferenceRequest, Priority, router::{CatalogRouter, ModelRouter, RouteAsk}};
    ///
    /// let request = InferenceRequest::chat("Why is the sky blue?").priority(Priority::Batch);
    /// let ranking = CatalogRouter::builtin().rank(&RouteAsk::new(&request)).await?;
    /// println!("{:#}", ranking.decision);
    /// assert!(ranking.candidates.len() > 1, "the first choice, and what to fall back to");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NoRoute`], with every route that was left out and why.
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute>;

    /// The router that this one wraps. The other methods go to it unless overridden.
    fn inner(&self) -> Option<&dyn ModelRouter> {
        None
    }

    /// Is told of every attempt, cancelled ones too. Called from `Drop`: it must neither wait nor fail.
    fn observe(&self, seen: &Observation) {
        if let Some(inner) = self.inner() {
            inner.observe(seen);
        }
    }

    /// Whether a call may try this route out now: asked just before an attempt at a [trial](Candidate::trial) goes out, which
    /// uses up its turn. `false` where others were quicker since it was ranked.
    ///
    /// ```
    /// use tokio::time::Instant;
    /// use together_inference::{RouteId, router::{CatalogRouter, ModelRouter}};
    ///
    /// assert!(CatalogRouter::empty().try_out(&RouteId::new("local", "unheard-of"), Instant::now()));
    /// ```
    fn try_out(&self, route: &RouteId, now: Instant) -> bool {
        self.inner().is_none_or(|inner| inner.try_out(route, now))
    }

    /// Whether its set-up can be: asked once, when a service is built.
    ///
    /// # Errors
    ///
    /// [`RouterError`] that says what to change.
    fn check(&self) -> Result<(), RouterError> {
        self.inner().map_or(Ok(()), ModelRouter::check)
    }

    /// Is told that a model refused a request for want of an ability, which another model then answered: the request was
    /// not at fault. As [`observe`](Self::observe) it must neither wait nor fail.
    ///
    /// ```
    /// use tokio::time::Instant;
    /// use together_inference::router::{Ability, CatalogRouter, Known, ModelRoute, ModelRouter};
    ///
    /// let router = CatalogRouter::empty().with(ModelRoute::new("local", "m"));
    /// router.teach(router.routes()[0].id(), Ability::Tools, Instant::now());
    /// assert_eq!(router.routes()[0].capabilities.tools, Known::No, "for a day");
    /// ```
    fn teach(&self, route: &RouteId, lacks: Ability, at: Instant) {
        if let Some(inner) = self.inner() {
            inner.teach(route, lacks, at);
        }
    }

    /// Adds a route, or replaces the one of the same [id](ModelRoute::id) with all its tasks.
    ///
    /// ```
    /// use together_inference::router::{CatalogRouter, ModelRoute, ModelRouter, Registered};
    ///
    /// let router = CatalogRouter::empty();
    /// let route = ModelRoute::new("local", "qwen3-8b");
    /// assert_eq!(router.register(route.clone())?, Registered::New);
    /// assert_eq!(router.register(route.clone().context(8_192))?, Registered::Replaced(Box::new(route)));
    /// # Ok::<(), together_inference::router::RouterError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RouterError`] when the router's routes are fixed or the route cannot be.
    fn register(&self, route: ModelRoute) -> Result<Registered, RouterError> {
        self.inner().map_or_else(|| Err(RouterError::Fixed), |inner| inner.register(route))
    }

    /// Takes a route out of use; requests that pin it go to `to`, if one is named. Repeating it changes nothing.
    ///
    /// ```
    /// use together_inference::{RouteId, router::{CatalogRouter, ModelRoute, ModelRouter, Retired}};
    ///
    /// let router = CatalogRouter::empty().with(ModelRoute::new("local", "old"));
    /// let old = RouteId::new("local", "old");
    /// assert_eq!(router.retire(&old, None)?, Retired::Now);
    /// assert_eq!(router.retire(&old, None)?, Retired::Already);
    /// # Ok::<(), together_inference::router::RouterError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RouterError`] when the router's routes are fixed or the replacement leads back to the route.
    fn retire(&self, route: &RouteId, to: Option<&RouteId>) -> Result<Retired, RouterError> {
        self.inner().map_or_else(|| Err(RouterError::Fixed), |inner| inner.retire(route, to))
    }

    /// Takes over what model lists say, as of this time: prices, contexts, abilities, models that are new. What the
    /// application said itself stays, and so does what somebody with a better [`Word`] said.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use together_inference::{RouteId, Task, router::{CatalogRouter, Listing, ModelRouter, Word}};
    ///
    /// let router = CatalogRouter::empty();
    /// let listing = Listing::new(RouteId::new("local", "qwen3-8b"), Word::ModelList).task(Task::Chat);
    /// assert_eq!(router.hear(&[listing.clone()], SystemTime::now()).new, 1);
    /// assert_eq!(router.hear(&[listing], SystemTime::now()).changed, 0, "nothing new");
    /// ```
    fn hear(&self, listings: &[Listing], at: SystemTime) -> Heard {
        self.inner().map_or_else(Heard::default, |inner| inner.hear(listings, at))
    }

    /// Is told what routes cost from now on: the next ranking goes by it. A route that it does not know stays so.
    ///
    /// ```
    /// use together_inference::{Price, router::{CatalogRouter, ModelRoute, ModelRouter}, usd};
    ///
    /// let router = CatalogRouter::empty().with(ModelRoute::new("local", "m").price(Price::FREE));
    /// let (route, price) = (router.routes()[0].id().clone(), Price::per_million(usd!("1"), usd!("2")));
    /// router.reprice(&[(route, price)]);
    /// assert_eq!(router.routes()[0].price, Some(price));
    /// ```
    fn reprice(&self, prices: &[(RouteId, Price)]) {
        if let Some(inner) = self.inner() {
            inner.reprice(prices);
        }
    }

    /// Whether it makes something of [what is left of budgets](Health::budget_left): looking it up costs each call a
    /// little, and a store that is shared between processes a round trip.
    ///
    /// ```
    /// use together_inference::router::{CatalogRouter, ModelRouter};
    ///
    /// assert!(!CatalogRouter::builtin().weighs_budgets());
    /// assert!(CatalogRouter::builtin().downgrade_below(10).weighs_budgets());
    /// ```
    fn weighs_budgets(&self) -> bool {
        self.inner().is_some_and(ModelRouter::weighs_budgets)
    }

    /// What it expects of a route now, where it learns.
    fn expects(&self, route: &RouteId, now: Instant) -> Option<Expectation> {
        self.inner().and_then(|inner| inner.expects(route, now))
    }

    /// When what it knows was true, where it says so.
    fn as_of(&self) -> Option<SystemTime> {
        self.inner().and_then(ModelRouter::as_of)
    }

    /// The routes that it knows, for price books and reports.
    ///
    /// ```
    /// use together_inference::{Task, router::{CatalogRouter, ModelRouter}};
    ///
    /// let routes = CatalogRouter::builtin().routes();
    /// assert!(routes.iter().filter(|route| route.tasks.contains(&Task::Code)).all(|route| route.price.is_some()));
    /// ```
    fn routes(&self) -> Vec<ModelRoute> {
        self.inner().map_or_else(Vec::new, ModelRouter::routes)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: ModelRouter + ?Sized> ModelRouter for Arc<T> {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        (**self).rank(ask).await
    }

    fn inner(&self) -> Option<&dyn ModelRouter> {
        (**self).inner()
    }

    fn observe(&self, seen: &Observation) {
        (**self).observe(seen);
    }

    fn try_out(&self, route: &RouteId, now: Instant) -> bool {
        (**self).try_out(route, now)
    }

    fn check(&self) -> Result<(), RouterError> {
        (**self).check()
    }

    fn teach(&self, route: &RouteId, lacks: Ability, at: Instant) {
        (**self).teach(route, lacks, at);
    }

    fn register(&self, route: ModelRoute) -> Result<Registered, RouterError> {
        (**self).register(route)
    }

    fn retire(&self, route: &RouteId, to: Option<&RouteId>) -> Result<Retired, RouterError> {
        (**self).retire(route, to)
    }

    fn hear(&self, listings: &[Listing], at: SystemTime) -> Heard {
        (**self).hear(listings, at)
    }

    fn reprice(&self, prices: &[(RouteId, Price)]) {
        (**self).reprice(prices);
    }

    fn weighs_budgets(&self) -> bool {
        (**self).weighs_budgets()
    }

    fn expects(&self, route: &RouteId, now: Instant) -> Option<Expectation> {
        (**self).expects(route, now)
    }

    fn as_of(&self) -> Option<SystemTime> {
        (**self).as_of()
    }

    fn routes(&self) -> Vec<ModelRoute> {
        (**self).routes()
    }
}

/// What became of [`ModelRouter::hear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heard {
    /// Routes that were not known before.
    pub new: usize,
    /// Routes that changed.
    pub changed: usize,
}

/// The routes that can serve a request, best first. Cheap to clone.
///
/// ```
/// use together_inference::{Priority, RouteId, Task, Tier, inference::Decision, router::{Candidate, Ranking}};
///
/// let decision = Decision::new("always-local", Task::Chat, Priority::Standard, Tier::Small, "it is ours");
/// let ranking = Ranking::new([Candidate::new(RouteId::new("local", "qwen3-8b"))], decision);
/// assert_eq!(ranking.candidates.len(), 1);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ranking {
    /// Best first, never empty.
    pub candidates: Arc<[Candidate]>,
    /// Why.
    pub decision: Arc<Decision>,
}

impl Ranking {
    /// A ranking with its reasons.
    pub fn new(candidates: impl Into<Arc<[Candidate]>>, decision: impl Into<Arc<Decision>>) -> Self {
        Self { candidates: candidates.into(), decision: decision.into() }
    }
}

/// A route that can serve a request.
///
/// ```
/// use together_inference::{Price, RouteId, router::Candidate};
///
/// let candidate = Candidate::new(RouteId::new("local", "qwen3-8b")).price(Price::FREE);
/// assert_eq!((candidate.price, candidate.max_output), (Some(Price::FREE), None));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// The route.
    pub route: RouteId,
    /// Its price as the router knows it; the service's price book wins.
    pub price: Option<Price>,
    /// The most tokens of an answer, where it is known: what an answer without `max_tokens` may cost.
    pub max_output: Option<u32>,
    /// Tokens of prompt and answer together, or of each text to embed, where it is known.
    pub context: Option<u32>,
    /// Whether it stands first to find out how it does now: not the first choice, by which answers are cached. Whoever
    /// sends it a call asks [`ModelRouter::try_out`] before.
    pub trial: bool,
}

impl Candidate {
    /// A route of unknown price.
    #[must_use]
    pub const fn new(route: RouteId) -> Self {
        Self { route, price: None, max_output: None, context: None, trial: false }
    }

    /// Sets the price.
    #[must_use]
    pub const fn price(mut self, price: Price) -> Self {
        self.price = Some(price);
        self
    }
}

/// No route can serve a request.
///
/// ```
/// use together_inference::{RouteId, inference::Rejection, router::NoRoute};
///
/// let rejected = vec![(RouteId::new("local", "m"), Rejection::NoVision)];
/// let error = NoRoute::new("no route reads pictures; drop them or add one that does", rejected);
/// assert!(error.to_string().starts_with("no route reads pictures"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct NoRoute {
    /// What is missing and what to change.
    pub reason: Box<str>,
    /// Every route that was left out, and why.
    pub rejected: Vec<(RouteId, Rejection)>,
}

impl NoRoute {
    /// No route, for this reason.
    pub fn new(reason: impl Into<Box<str>>, rejected: Vec<(RouteId, Rejection)>) -> Self {
        Self { reason: reason.into(), rejected }
    }
}

/// What became of [`ModelRouter::register`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Registered {
    /// The route is new.
    New,
    /// It replaced this one.
    Replaced(Box<ModelRoute>),
}

/// What became of [`ModelRouter::retire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retired {
    /// It is out of use from now on.
    Now,
    /// It was already, or the route is not known.
    Already,
}

/// The routes cannot be changed like this.
///
/// ```
/// use together_inference::router::{CatalogRouter, ModelRoute, ModelRouter};
///
/// let error = CatalogRouter::empty().register(ModelRoute::new("local", "m").context(0)).unwrap_err();
/// assert!(error.to_string().starts_with("local/m: a context of 0 tokens"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// The router has no register.
    #[error("this router has a fixed set of routes")]
    Fixed,
    /// The route lacks something.
    #[error("{route}: {problem}")]
    Invalid {
        /// Which.
        route: RouteId,
        /// What is wrong with it.
        problem: Box<str>,
    },
    /// A replacement leads back to what it replaces, or the chain is longer than four.
    #[error("{route} is replaced by {to}, which leads back to it or further than four steps")]
    Cycle {
        /// What was to be retired.
        route: RouteId,
        /// Its replacement.
        to: RouteId,
    },
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a simulation of few routes and small numbers, which shows its figures"
)]
mod shift_tests;
