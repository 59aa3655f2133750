//! Why a model was chosen: readable as one line, whole as a table. Never holds a prompt.

use std::fmt;

use super::Needs;
use crate::types::{Price, Priority, RouteId, Task, Tier, Usd};

/// The router's reasons for one ranking.
///
/// `{}` is one line, `{:#}` a table of every route that was considered.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), together_inference::router::NoRoute> {
/// use together_inference::{InferenceRequest, router::{CatalogRouter, ModelRouter, RouteAsk}};
///
/// let request = InferenceRequest::chat("What is in it?").image_url("https://acme.example/cat.png");
/// let ranking = CatalogRouter::builtin().rank(&RouteAsk::new(&request)).await?;
/// assert_eq!(ranking.decision.to_string().lines().count(), 1);
/// assert!(format!("{:#}", ranking.decision).contains("out: does not read pictures"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Decision {
    /// The policy that decided, such as `catalog`.
    pub policy: Box<str>,
    /// A hash of the policy's settings: the same number for the same settings. 0 where it has none.
    pub settings: u64,
    /// A hash of the routes that it knew, prices included: the same number for the same routes. 0 where it keeps none.
    pub catalogue: u64,
    /// What kind of request it was about.
    pub task: Task,
    /// Its priority.
    pub priority: Priority,
    /// The tier asked for, by name or by priority.
    pub tier: Tier,
    /// What was demanded of a model.
    pub needs: Needs,
    /// Why the first one is first, such as `large: realtime`.
    pub reason: Box<str>,
    /// How likely this one was to be first, 0 to 1: below 1 where a share of the calls goes to another one on trial. What a
    /// replay weighs its result by.
    pub propensity: f64,
    /// The candidates, best first.
    pub ranked: Vec<Considered>,
    /// What was left out, and why.
    pub rejected: Vec<(RouteId, Rejection)>,
}

/// A candidate with what spoke for it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Considered {
    /// The route.
    pub route: RouteId,
    /// Its tier.
    pub tier: Tier,
    /// How it stood, as far as the policy knew.
    pub condition: Condition,
    /// The price that the policy went by.
    pub price: Option<Price>,
    /// What the request is expected to cost there; `None` if the price is not known.
    pub expected_cost: Option<Usd>,
    /// The policy's score; higher is better.
    pub score: f64,
    /// What the score is the sum of: quality, cost, latency, success.
    pub terms: [f64; 4],
    /// Seconds that a nominal answer of 256 tokens is expected to take.
    pub expected_seconds: f64,
    /// How likely it answers.
    pub success: f64,
    /// Results of the last half minute that this is known from.
    pub results: u32,
}

impl Considered {
    /// A candidate of which nothing but its score is known.
    #[must_use]
    pub const fn new(route: RouteId, tier: Tier, score: f64) -> Self {
        Self {
            route,
            tier,
            condition: Condition::Live,
            price: None,
            expected_cost: None,
            score,
            terms: [0.0; 4],
            expected_seconds: 0.0,
            success: 1.0,
            results: 0,
        }
    }
}

/// How a candidate stands with its policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// In use.
    #[default]
    Live,
    /// It lost its place for being slow or failing, and shows by a few calls whether it is well again.
    Demoted,
    /// The provider said of late that it is not available.
    Missing,
}

impl Condition {
    /// As in traces: `live`, `demoted`, `missing`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Demoted => "demoted",
            Self::Missing => "missing",
        }
    }
}

/// Why a route cannot serve a request.
///
/// ```
/// use together_inference::inference::Rejection;
///
/// let why = Rejection::Context { needed: 40_000, available: 32_768 };
/// assert_eq!(why.to_string(), "context of 32768 tokens, 40000 needed");
/// assert_eq!(Rejection::Other("on fire".into()).to_string(), "on fire");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rejection {
    /// It does not call tools.
    NoTools,
    /// It does not read pictures.
    NoVision,
    /// It does not answer in JSON of a schema.
    NoJsonSchema,
    /// It does not reason.
    NoReasoning,
    /// Prompt and answer do not fit.
    Context {
        /// The most tokens that the request may take.
        needed: u64,
        /// The route's context.
        available: u32,
    },
    /// It would cost too much, at most.
    Cost {
        /// The most that it may cost there.
        at_most: Usd,
    },
    /// A ceiling is set and its price is not known.
    Unpriced,
    /// It is retired.
    Retired,
    /// It is a preview, which is never a default.
    Preview,
    /// Weight 0: registered, not yet in use.
    NotInUse,
    /// Its tier is above the limit.
    Tier {
        /// The highest tier allowed.
        most: Tier,
    },
    /// The request or a wrapping router leaves it out.
    Excluded,
    /// Reserved for routers of one's own.
    Other(Box<str>),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTools => f.write_str("does not call tools"),
            Self::NoVision => f.write_str("does not read pictures"),
            Self::NoJsonSchema => f.write_str("does not answer in JSON of a schema"),
            Self::NoReasoning => f.write_str("does not reason"),
            Self::Context { needed, available } => write!(f, "context of {available} tokens, {needed} needed"),
            Self::Cost { at_most } => write!(f, "may cost {at_most}"),
            Self::Unpriced => f.write_str("price not known, and a ceiling is set"),
            Self::Retired => f.write_str("retired"),
            Self::Preview => f.write_str("preview, never a default"),
            Self::NotInUse => f.write_str("not in use yet"),
            Self::Tier { most } => write!(f, "above tier {most}"),
            Self::Excluded => f.write_str("not allowed here"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl Decision {
    /// A decision of a router of one's own.
    ///
    /// ```
    /// use together_inference::{Priority, Task, Tier, inference::Decision};
    ///
    /// let decision = Decision::new("ours", Task::Chat, Priority::Standard, Tier::Mid, "the only one");
    /// assert!(decision.ranked.is_empty(), "the fields are public; fill in what was considered");
    /// ```
    pub fn new(
        policy: impl Into<Box<str>>,
        task: Task,
        priority: Priority,
        tier: Tier,
        reason: impl Into<Box<str>>,
    ) -> Self {
        Self {
            policy: policy.into(),
            settings: 0,
            catalogue: 0,
            task,
            priority,
            tier,
            needs: Needs::none(),
            reason: reason.into(),
            propensity: 1.0,
            ranked: Vec::new(),
            rejected: Vec::new(),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = self.ranked.first();
        let name = best.map_or("none", |best| short(best.route.model().as_str()));
        // Those behind it in other tiers are fallbacks: it was not chosen over them.
        let peers = self.ranked.iter().filter(|other| best.is_some_and(|best| best.tier == other.tier)).count();
        write!(f, "{name} ({}; best of {peers})", self.reason)?;
        if f.alternate() { self.table(f) } else { Ok(()) }
    }
}

impl Decision {
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.ranked.iter().map(|considered| &considered.route);
        let routes = routes.chain(self.rejected.iter().map(|(route, _)| route)).map(ToString::to_string);
        let routes: Vec<_> = routes.collect();
        let width = routes.iter().map(String::len).max().unwrap_or(0);
        let (ranked, rejected) = routes.split_at(self.ranked.len());
        write!(f, "\n  {:<width$} {:<6} {:>13} {:>7}", "route", "tier", "expected cost", "score")?;
        for (route, Considered { tier, expected_cost, score, .. }) in ranked.iter().zip(&self.ranked) {
            let cost = expected_cost.map_or_else(|| "unpriced".to_owned(), |cost| cost.to_string());
            write!(f, "\n  {route:<width$} {tier:<6} {cost:>13} {score:>+7.3}")?;
        }
        for (route, (_, why)) in rejected.iter().zip(&self.rejected) {
            write!(f, "\n  {route:<width$} out: {why}")?;
        }
        Ok(())
    }
}

/// `zai-org/GLM-5.3` without its organisation.
fn short(model: &str) -> &str {
    model.rsplit('/').next().unwrap_or(model)
}
