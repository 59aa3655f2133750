//! The default router: a catalogue of routes, and an order that explains itself.

mod choosing;

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Ability, CatalogError, Expectation, Heard, Listing, ModelRoute, ModelRouter, NoRoute, Observation, Outcome,
    Ranking, Registered, Retired, RouteAsk, RouteState, RouterError,
    incumbent::Incumbents,
    learn::{self, Estimate},
    lessons::{Lack, Lessons},
    rank, score, snapshot,
    table::{Entry, Table},
    thrift::Thrift,
};
use crate::{
    client::ErrorKind,
    inference::Selection,
    types::{Price, RouteId, later},
};

/// Ranks the routes of a catalogue.
///
/// What cannot serve a request is left out by name. Of the rest the priority picks the tier (realtime → large,
/// standard → mid, batch → small) unless the request names one, and cost, latency and quality decide within it; a
/// route that is not known to have a needed ability comes after those that have it. An empty tier falls to the nearest
/// dearer one, then to the nearest cheaper, and the routes of other tiers stand behind as fallbacks. Embeddings have no
/// tiers.
///
/// A route without a tier gets one by its output price among those of its task: a third each. A route without a price
/// counts as the dearest.
///
/// # What it learns
///
/// How long each route takes, against what was expected of an answer of that length, and how often it answers. Both fade
/// within a minute or two without news, so that nothing stays stuck. The first choice of a class of requests changes only
/// when another route is better by 15 % for a second and has shown it with two calls of its own; one that lost its place
/// is probed with a twentieth of the calls at most (more where it fails now and then, which takes more calls to show) and
/// returns after clean results. A changed price or route counts at once. Routes of unknown latency are expected to be as
/// fast as the others. Everything is in memory.
///
/// # What is exact and what is estimated
///
/// A request with a cost ceiling is held against the most that it can cost: each byte of the prompt a token, and
/// `max_tokens` (4,096 where unset) for each answer. Contexts are held against an estimate, four bytes a token, because
/// the bound would refuse most long prompts that fit; for a pinned model the length is left to the upstream. Scores use
/// a nominal request of 1,000 tokens in and 256 out, so that the order never depends on a prompt's length, and
/// [`Considered::expected_cost`](crate::inference::Considered::expected_cost) is what that one costs.
///
/// # Names
///
/// A request that pins a model gets its routes and no other, also a preview, one of weight 0 or one that the catalogue
/// does not know (on the upstream it names, or `together`). Only an ability known to be missing, the request's own
/// upstream and the limits stand against it. A retired one goes to its replacement, and the decision says so.
///
/// # Sharing
///
/// All methods take `&self`; put it into an [`Arc`] to keep registering routes while a service uses it. A ranking
/// sees all of a change or nothing of it. Repeated questions are answered from the rankings finished since the last
/// change.
///
/// ```
/// use together_inference::{Price, Task, Tier, router::{CatalogRouter, ModelRoute, ModelRouter}};
///
/// let local = ModelRoute::new("local", "qwen3-8b").task(Task::Chat).tier(Tier::Small).price(Price::FREE);
/// let router = CatalogRouter::builtin().with(local);
/// assert!(router.routes().len() > 20);
/// ```
#[derive(Default)]
pub struct CatalogRouter {
    table: RwLock<Arc<Table>>,
    lessons: Lessons,
    incumbents: Incumbents,
    /// Results that were learned from, and how many of them put a ranking right at once.
    results: AtomicU64,
    turns: AtomicU64,
    /// Odd while the next call that a canary has a share in goes elsewhere.
    canaries: AtomicU64,
    /// Below how many thousandths of a budget it saves; 0 never.
    thrifty_below: u16,
    /// When what is known was true; the catalogue's own date until a list is heard.
    as_of: RwLock<Option<SystemTime>>,
}

/// How the attempts on a route ended so far.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use together_inference::{RouteId, Usage, router::{CatalogRouter, ModelRoute, ModelRouter, Observation, Outcome}};
///
/// let router = CatalogRouter::empty().with(ModelRoute::new("local", "m"));
/// let route = RouteId::new("local", "m");
/// let answered = Outcome::Answered(Usage::default());
/// router.observe(&Observation::new(route.clone(), Instant::now(), Duration::from_millis(300), answered));
/// assert_eq!(router.seen(&route).map(|seen| (seen.answered, seen.failed)), Some((1, 0)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// With an answer.
    pub answered: u64,
    /// Without one.
    pub failed: u64,
    /// Because the caller went away.
    pub cancelled: u64,
}

impl CatalogRouter {
    /// The shipped catalogue: Together AI's models and prices as of [`snapshot_date`](Self::snapshot_date). What an
    /// upstream says of itself is newer and should be registered over it.
    ///
    /// ```
    /// use together_inference::{RouteId, router::{CatalogRouter, ModelRouter}};
    ///
    /// let flagship = RouteId::new("together", "zai-org/GLM-5.3");
    /// assert!(CatalogRouter::builtin().routes().iter().any(|route| *route.id() == flagship));
    /// ```
    #[must_use]
    pub fn builtin() -> Self {
        // That the shipped text parses is a test; without its routes the router still says what it lacks.
        let shipped = Self::from_tsv(snapshot::SHIPPED).unwrap_or_default();
        *shipped.as_of.write().unwrap_or_else(PoisonError::into_inner) = snapshot::date();
        shipped
    }

    /// No routes, to add one's own.
    ///
    /// ```
    /// use together_inference::router::{CatalogRouter, ModelRouter};
    ///
    /// assert!(CatalogRouter::empty().routes().is_empty());
    /// ```
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// A catalogue of one's own as text.
    ///
    /// The first line names the columns, separated by tabs: `tasks` (with commas) and `model` are needed; `upstream`
    /// (`together` if unset), `tier`, `context`, `max_output`, `usd_in`, `usd_out`, `usd_cached` (dollars per million
    /// tokens), `tools`, `json_schema`, `vision`, `reasoning` (`yes` or `no`), `state` (`live` or `preview`) and
    /// `source_date` may be left out. `?`, `-` and nothing mean "not known". Empty lines and those that start with `#`
    /// are skipped.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] with line and column of the first mistake; a route that stands twice is one.
    ///
    /// ```
    /// use together_inference::router::{CatalogRouter, ModelRouter};
    ///
    /// let router = CatalogRouter::from_tsv("tasks\tmodel\ttier\nchat,code\tacme/big\tlarge\n")?;
    /// assert_eq!(router.routes()[0].id().to_string(), "together/acme/big");
    ///
    /// let error = CatalogRouter::from_tsv("tasks\tmodel\ttier\nchat\tacme/big\thuge\n").unwrap_err();
    /// assert_eq!((error.line, error.field), (2, "tier"));
    /// # Ok::<(), together_inference::router::CatalogError>(())
    /// ```
    pub fn from_tsv(text: &str) -> Result<Self, CatalogError> {
        Ok(Self::of(snapshot::parse(text)?.into_iter().collect()))
    }

    /// When the shipped catalogue was gathered, as `YYYY-MM-DD`.
    ///
    /// ```
    /// use together_inference::router::CatalogRouter;
    ///
    /// assert_eq!(CatalogRouter::snapshot_date().len(), "2026-11-24".len());
    /// ```
    #[must_use]
    pub const fn snapshot_date() -> &'static str {
        snapshot::DATE
    }

    fn of(table: Table) -> Self {
        Self { table: RwLock::new(Arc::new(table)), ..Self::default() }
    }

    /// Adds a route, or replaces the one of the same id.
    ///
    /// What was seen of a replaced route is kept. Nothing is checked here, unlike in
    /// [`register`](ModelRouter::register).
    ///
    /// ```
    /// use together_inference::{Tier, router::{CatalogRouter, ModelRoute, ModelRouter}};
    ///
    /// let local = || ModelRoute::new("local", "qwen3-8b");
    /// let router = CatalogRouter::empty().with(local()).with(local().tier(Tier::Small));
    /// assert_eq!(router.routes(), [local().tier(Tier::Small)]);
    /// ```
    #[must_use]
    pub fn with(self, route: ModelRoute) -> Self {
        let with = self.table().with(route);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(with);
        self
    }

    /// Saves while less than this part of the tightest budget is left, in percent; it never does unless this is set.
    ///
    /// The cost then counts twice as much as usual beside quality, latency and success, and a request that names
    /// neither a model nor a tier is served one tier below its own. With less than half of that part left the cost
    /// counts four times as much, and it is served by the small tier. The dearer routes stay behind as fallbacks.
    /// Embeddings are never downgraded.
    ///
    /// ```
    /// use together_inference::{
    ///     InferenceRequest, Priority, Tier,
    ///     router::{CatalogRouter, Health, ModelRouter, RouteAsk},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::router::NoRoute> {
    /// let router = CatalogRouter::builtin().downgrade_below(10);
    /// let request = InferenceRequest::chat("Why is the sky blue?").priority(Priority::Realtime);
    /// for (permille, tier) in [(800, Tier::Large), (80, Tier::Mid), (20, Tier::Small)] {
    ///     let health = Health::default().budget_left(permille);
    ///     let ranking = router.rank(&RouteAsk::new(&request).with_health(health)).await?;
    ///     assert_eq!(ranking.decision.tier, tier);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn downgrade_below(mut self, percent: u8) -> Self {
        self.thrifty_below = if percent > 100 { 1_000 } else { percent as u16 * 10 };
        self
    }

    /// How the attempts on a route ended so far; `None` if the catalogue does not know it.
    ///
    /// ```
    /// use together_inference::{RouteId, router::{CatalogRouter, ModelRoute, Seen}};
    ///
    /// let router = CatalogRouter::empty().with(ModelRoute::new("local", "m"));
    /// assert_eq!(router.seen(&RouteId::new("local", "m")), Some(Seen::default()));
    /// assert_eq!(router.seen(&RouteId::new("local", "other")), None);
    /// ```
    #[must_use]
    pub fn seen(&self, route: &RouteId) -> Option<Seen> {
        let [answered, failed, cancelled] = self.table().entry(route)?.counts.read();
        Some(Seen { answered, failed, cancelled })
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the table, unless the change is refused or there is none.
    fn change<T>(
        &self,
        change: impl FnOnce(&Table) -> Result<(Option<Table>, T), RouterError>,
    ) -> Result<T, RouterError> {
        // Held while the next table is made: of two changes at a time none may be lost.
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let (next, answer) = change(&table)?;
        if let Some(next) = next {
            *table = Arc::new(next);
        }
        Ok(answer)
    }

    /// Changes the table, if there is something to change.
    fn replace(&self, change: impl FnOnce(&Table) -> Option<Table>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = change(&table) {
            *table = Arc::new(next);
        }
    }

    /// The ranking, without a future around it.
    pub(super) fn rank_now(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        if self.lessons.any_ended(ask.now) {
            self.replace(|table| self.lessons.forget(table, ask.now));
        }
        let table = self.table();
        let saving;
        let ask = match Thrift::of(ask, self.thrifty_below) {
            Thrift::None => ask,
            thrift => {
                saving = RouteAsk { thrift, ..ask.clone() };
                &saving
            }
        };
        match ask.request.selection() {
            Selection::Pin(model) => rank::pinned(&table, ask, model),
            Selection::Prefer(models) => rank::preferred(&table, ask, models),
            Selection::Any => self.rank_any(&table, ask),
        }
    }
}

#[async_trait]
impl ModelRouter for CatalogRouter {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        self.rank_now(ask)
    }

    fn weighs_budgets(&self) -> bool {
        self.thrifty_below > 0
    }

    /// Counts how attempts end, see [`seen`](CatalogRouter::seen), and learns from them. A model that is not available
    /// is no default for a day.
    fn observe(&self, seen: &Observation) {
        if seen.outcome == Outcome::Failed(ErrorKind::ModelNotAvailable) {
            let at = later(seen.dispatched, seen.took);
            self.replace(|table| self.lessons.learn(table, &seen.route, Lack::Model, at));
        }
        let table = self.table();
        let Some(entry) = table.entry(&seen.route) else { return };
        let count = match seen.outcome {
            Outcome::Answered(_) => &entry.counts.answered,
            Outcome::Failed(_) => &entry.counts.failed,
            Outcome::Cancelled => &entry.counts.cancelled,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.learn(entry, table.climate_of(&entry.route), seen);
        if entry.route.state == RouteState::Missing && matches!(seen.outcome, Outcome::Answered(_)) {
            self.replace(|table| self.lessons.is_there(table, &seen.route));
        }
    }

    /// Gives a probe's turn, or every second one of a canary, to the first call that goes out for it.
    fn try_out(&self, route: &RouteId, now: Instant) -> bool {
        let table = self.table();
        let take = |entry: &Entry| entry.learned.take_probe(now).unwrap_or_else(|| self.take_canary());
        table.entry(route).is_none_or(take)
    }

    /// Looks at every route as [`register`](ModelRouter::register) does, and follows every replacement.
    fn check(&self) -> Result<(), RouterError> {
        let table = self.table();
        for entry in table.entries() {
            check(&entry.route)?;
            if let (RouteState::Retired { to: Some(to) }, false) =
                (&entry.route.state, table.chain_ends(entry.route.id()))
            {
                return Err(RouterError::Cycle { route: entry.route.id().clone(), to: to.clone() });
            }
        }
        Ok(())
    }

    fn teach(&self, route: &RouteId, lacks: Ability, at: Instant) {
        self.replace(|table| self.lessons.learn(table, route, Lack::Ability(lacks), at));
    }

    fn register(&self, route: ModelRoute) -> Result<Registered, RouterError> {
        check(&route)?;
        self.change(|table| {
            let Some(before) = table.entry(route.id()).map(|entry| &*entry.route) else {
                return changed(table, route, Registered::New);
            };
            let answer = Registered::Replaced(Box::new(before.clone()));
            // Registering the same again must not forget the finished rankings.
            if *before == route { Ok((None, answer)) } else { changed(table, route, answer) }
        })
    }

    fn retire(&self, route: &RouteId, to: Option<&RouteId>) -> Result<Retired, RouterError> {
        self.change(|table| {
            let Some(before) = table.entry(route) else { return Ok((None, Retired::Already)) };
            let answer = match &before.route.state {
                RouteState::Retired { to: known } if to.is_none() || known.as_ref() == to => {
                    return Ok((None, Retired::Already));
                }
                // Out of use before, but with another replacement from now on.
                RouteState::Retired { .. } => Retired::Already,
                _ => Retired::Now,
            };
            let mut after = ModelRoute::clone(&before.route);
            after.state = RouteState::Retired { to: to.cloned() };
            changed(table, after, answer)
        })
    }

    fn hear(&self, listings: &[Listing], at: SystemTime) -> Heard {
        let mut heard = Heard::default();
        self.replace(|table| {
            let mut routes: Vec<ModelRoute> =
                table.entries().iter().map(|entry| ModelRoute::clone(&entry.route)).collect();
            for listing in listings {
                match routes.iter_mut().find(|route| *route.id() == listing.route) {
                    Some(route) => {
                        let told = listing.told(route);
                        heard.changed += usize::from(told != *route);
                        *route = told;
                    }
                    None if !listing.tasks.is_empty() => {
                        heard.new += 1;
                        routes.push(listing.to_route());
                    }
                    None => {}
                }
            }
            (heard != Heard::default()).then(|| table.with_all(routes))
        });
        *self.as_of.write().unwrap_or_else(PoisonError::into_inner) = Some(at);
        heard
    }

    fn reprice(&self, prices: &[(RouteId, Price)]) {
        self.replace(|table| {
            let mut routes: Vec<ModelRoute> =
                table.entries().iter().map(|entry| ModelRoute::clone(&entry.route)).collect();
            let mut is_other = false;
            for (id, price) in prices {
                let price = Some(*price).filter(|price| !price.is_negative());
                for route in routes.iter_mut().filter(|route| route.id() == id && route.price != price) {
                    route.price = price;
                    is_other = true;
                }
            }
            is_other.then(|| table.with_all(routes))
        });
    }

    fn expects(&self, route: &RouteId, now: Instant) -> Option<Expectation> {
        let table = self.table();
        let entry = table.entry(route)?;
        let climate = table.climate(*entry.route.tasks.first()?);
        let said = score::said_seconds(&entry.route);
        let expected = learn::Expected { said, unknown: climate.unknown, common: climate.common };
        let Estimate { success, seconds, seen, .. } = entry.learned.estimate(now, &expected);
        Some(Expectation::new(success, seconds).results(seen))
    }

    fn as_of(&self) -> Option<SystemTime> {
        *self.as_of.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn routes(&self) -> Vec<ModelRoute> {
        self.table().entries().iter().map(|entry| ModelRoute::clone(&entry.route)).collect()
    }
}

/// The table with this route, unless its replacement leads back to it or too far.
fn changed<T>(table: &Table, route: ModelRoute, answer: T) -> Result<(Option<Table>, T), RouterError> {
    let leads = match &route.state {
        RouteState::Retired { to: Some(to) } => Some((route.id().clone(), to.clone())),
        _ => None,
    };
    let next = table.with(route);
    match leads {
        Some((route, to)) if !next.chains_end() => Err(RouterError::Cycle { route, to }),
        _ => Ok((Some(next), answer)),
    }
}

fn check(route: &ModelRoute) -> Result<(), RouterError> {
    let unit = |value: f32| (0.0..=1.0).contains(&value);
    let problem = if route.id().model().as_str().is_empty() || route.id().upstream().as_str().is_empty() {
        "upstream and model must not be empty"
    } else if route.tasks.is_empty() {
        "needs at least one task"
    } else if !unit(route.weight) {
        "the weight must be 0 to 1"
    } else if route.quality_score.is_some_and(|score| !unit(score)) {
        "the quality must be 0 to 1"
    } else if route.context == Some(0) {
        "a context of 0 tokens serves nothing; leave it unset if it is not known"
    } else if route.price.is_some_and(|price| price.is_negative()) {
        "the price is less than nothing; leave it unset if it is not known, Price::FREE is nothing"
    } else {
        return Ok(());
    };
    Err(RouterError::Invalid { route: route.id().clone(), problem: problem.into() })
}

impl fmt::Debug for CatalogRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogRouter").field("routes", &self.table().entries().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
