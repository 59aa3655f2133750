//! How a service is put together.

mod costs;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock, RwLock, atomic::AtomicBool},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[cfg(feature = "batch")]
use super::batch::BatchSetup;
use super::{
    InferenceService,
    background::{Background, Backgrounds},
    cached::CachePolicy,
    choice::Key,
    coalesce::Slots,
    counter::Counter,
    embed::TextSlots,
    invalidations::Invalidations,
    recorder::Recorder,
    refresh::Refresher,
    state::{State, Totals},
    told::{Alerts, Told},
};
use crate::{
    batch::Overflow,
    cache::{CacheLayer, MemoryCache},
    client::{self, RetryPolicy, TogetherClient},
    cost::{
        Budget, BudgetStore, Budgets, CostSink, FanOut, InvalidBudget, MemoryBudgets, PriceBook, PriceSource,
        TracingCosts, Unpriced,
    },
    inference::{CacheControl, CountTokens, InferenceRequest},
    limit::Limits,
    notify::{LogNotifier, Notifier},
    router::{CatalogRouter, ModelRoute, ModelRouter, RouterError},
    types::{Clock, ModelId, Price, Rng, RouteId, SystemClock, SystemRng, Task, UpstreamId},
};

/// Puts an [`InferenceService`] together. Everything has a default.
///
/// ```
/// use together_inference::{
///     InferenceService, RouteId, Price, Tier, Task,
///     cache::MemoryCache,
///     cost::{Budget, MemoryCosts},
///     router::{CatalogRouter, ModelRoute},
///     testing::Together,
///     usd,
/// };
///
/// let costs = MemoryCosts::default();
/// let service = InferenceService::builder(Together::new().client())
///     .upstream("local", Together::new().client())
///     .router(CatalogRouter::builtin().with(ModelRoute::new("local", "qwen3-8b").tier(Tier::Small).price(Price::FREE)))
///     .cache(MemoryCache::new(64 << 20))
///     .cost_sink(costs.clone())
///     .budget(Budget::daily(usd!("25.00")).hard())
///     .build()?;
/// # Ok::<(), together_inference::service::BuildError>(())
/// ```
#[derive(Debug)]
pub struct ServiceBuilder {
    upstreams: Vec<(UpstreamId, TogetherClient)>,
    router: Option<Arc<dyn ModelRouter>>,
    cache: Option<Arc<dyn CacheLayer>>,
    cache_policy: Option<CachePolicy>,
    sinks: Vec<Arc<dyn CostSink>>,
    budgets: Vec<Budget>,
    budget_store: Option<Arc<dyn BudgetStore>>,
    unpriced: Unpriced,
    notifier: Option<Arc<dyn Notifier>>,
    overflow: Option<Arc<dyn Overflow>>,
    backgrounds: Vec<Arc<dyn Background>>,
    #[cfg(feature = "batch")]
    store: Option<crate::store::Store>,
    #[cfg(feature = "batch")]
    pub(super) batches: Option<BatchSetup>,
    #[cfg(feature = "batch")]
    pub(super) events: Option<Arc<dyn crate::events::EventQueue>>,
    prices: Vec<(RouteId, Price)>,
    batch_discounts: Vec<(RouteId, u8)>,
    tokenizer: Option<Arc<dyn CountTokens>>,
    limits: Limits,
    route_limits: HashMap<RouteId, Limits>,
    retry: RetryPolicy,
    default_max_tokens: u32,
    embedding_model: Option<ModelId>,
    refresh: Option<Duration>,
    tasks: Vec<Task>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

/// A service that cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The client could not be built.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Two upstreams have one id, or one has none.
    #[error("upstream {0:?}: each needs an id of its own that is not empty; the first client is \"together\"")]
    Upstream(UpstreamId),
    /// The router names an upstream that the service has not.
    #[error("the router's route {0} is on an upstream that the service has not; add .upstream({1:?}, client)")]
    Route(RouteId, UpstreamId),
    /// The router's own set-up cannot be.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// A budget cannot be.
    #[error(transparent)]
    Budget(#[from] InvalidBudget),
    /// The application's price of a route is less than nothing.
    #[error("the price of {0} is less than nothing ({1}); give its dollars, or Price::FREE")]
    Price(RouteId, Price),
    /// So is what it assumes of routes without a price.
    #[error("unpriced({0:?}): the price is less than nothing; give dollars, or Price::FREE")]
    Unpriced(Unpriced),
    /// No route serves a task that the service is for.
    #[error("no route in use serves {0}; add one with CatalogRouter::with(ModelRoute::new(..).task(..))")]
    Task(Task),
    /// The time between two readings of the model lists is too short.
    #[error("refresh_catalogue_every({0:?}) is less than a minute; the lists change hourly at most")]
    Refresh(Duration),
    /// Batches that cannot be.
    #[cfg(feature = "batch")]
    #[error("batches: {0}")]
    Batches(Box<str>),
    /// A bound of 0 would let nothing out.
    #[error("{0}(0) lets no call out; set at least 1, or leave it out")]
    Limit(&'static str),
}

impl ServiceBuilder {
    pub(super) fn new(client: TogetherClient) -> Self {
        Self {
            upstreams: vec![(UpstreamId::together(), client)],
            router: None,
            cache: None,
            cache_policy: None,
            sinks: Vec::new(),
            budgets: Vec::new(),
            budget_store: None,
            unpriced: Unpriced::default(),
            notifier: None,
            overflow: None,
            backgrounds: Vec::new(),
            #[cfg(feature = "batch")]
            store: None,
            #[cfg(feature = "batch")]
            batches: None,
            #[cfg(feature = "batch")]
            events: None,
            prices: Vec::new(),
            batch_discounts: Vec::new(),
            tokenizer: None,
            limits: Limits::default(),
            route_limits: HashMap::new(),
            retry: RetryPolicy::default(),
            default_max_tokens: 4_096,
            embedding_model: None,
            refresh: None,
            tasks: Vec::new(),
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng::default()),
        }
    }

    /// Adds another server. Its models are used where the router knows them.
    #[must_use]
    pub fn upstream(mut self, id: impl Into<UpstreamId>, client: TogetherClient) -> Self {
        self.upstreams.push((id.into(), client));
        self
    }

    /// Replaces the router; [`CatalogRouter::builtin`] unless set.
    #[must_use]
    pub fn router(mut self, router: impl ModelRouter + 'static) -> Self {
        self.router = Some(Arc::new(router));
        self
    }

    /// Replaces the cache; a [`MemoryCache`] of 64 MiB unless set.
    #[must_use]
    pub fn cache(mut self, cache: impl CacheLayer + 'static) -> Self {
        self.cache = Some(Arc::new(cache));
        self
    }

    /// Decides how requests use the cache that do not say so themselves; `None` leaves it at the default.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use together_inference::{InferenceRequest, InferenceService, Task, inference::CacheControl, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client())
    ///     .cache_policy(|request| match request.task_of() {
    ///         // Code reviews of the same diff are the same review, for a day.
    ///         Task::Code => Some(CacheControl::new().stochastic().ttl(Duration::from_secs(86_400))),
    ///         _ => None,
    ///     })
    ///     .build()?;
    /// let review = || InferenceRequest::code("- 1\n+ 2");
    /// service.complete(review()).await?;
    /// assert!(service.complete(review()).await?.source.is_cached());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn cache_policy(
        mut self,
        policy: impl Fn(&InferenceRequest) -> Option<CacheControl> + Send + Sync + 'static,
    ) -> Self {
        self.cache_policy = Some(CachePolicy(Box::new(policy)));
        self
    }

    /// Adds a sink for cost records; [`TracingCosts`] alone unless one is added.
    #[must_use]
    pub fn cost_sink(mut self, sink: impl CostSink + 'static) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// Keeps what must not be lost in a store: a [`Ledger`](crate::cost::Ledger) of costs, with its defaults, and batches
    /// where [there are any](Self::batches).
    ///
    /// Several services may share one. For a ledger of another [durability](crate::cost::Durability), give it to
    /// [`cost_sink`](Self::cost_sink) instead.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    #[must_use]
    #[cfg_attr(not(feature = "batch"), expect(unused_mut, reason = "batches alone remember it"))]
    pub fn store(mut self, store: &crate::store::Store) -> Self {
        #[cfg(feature = "batch")]
        {
            self.store = Some(store.clone());
        }
        self.cost_sink(crate::cost::Ledger::new(store))
    }

    /// Adds what works in the background, such as a [`Pipeline`](crate::pipeline::Pipeline); nothing unless added.
    #[must_use]
    pub fn background(mut self, background: impl Background + 'static) -> Self {
        self.backgrounds.push(Arc::new(background));
        self
    }

    /// Replaces who is told when a person should act; a [`LogNotifier`] unless set.
    #[must_use]
    pub fn notifier(mut self, notifier: impl Notifier + 'static) -> Self {
        self.notifier = Some(Arc::new(notifier));
        self
    }

    /// Sets who takes over requests that may wait and cannot be served in time; nobody unless set. See
    /// [`complete_or_defer`](InferenceService::complete_or_defer).
    #[must_use]
    pub fn overflow(mut self, overflow: impl Overflow + 'static) -> Self {
        self.overflow = Some(Arc::new(overflow));
        self
    }

    /// Sets the bounds of every route that has none of its own.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the bounds of one route.
    #[must_use]
    pub fn limits_of(mut self, route: RouteId, limits: Limits) -> Self {
        self.route_limits.insert(route, limits);
        self
    }

    /// Sets when failed attempts are repeated. Over all models of a call there are never more than three.
    #[must_use]
    pub const fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the model of every embedding request that names none: vectors of two models cannot be compared. Unless set,
    /// it is the router's first choice when the first such request comes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceService, testing::Together};
    ///
    /// let model = "intfloat/multilingual-e5-large-instruct";
    /// let service = InferenceService::builder(Together::new().client()).embedding_model(model).build()?;
    /// assert_eq!(service.embed("the sky").await?.model(), &model);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn embedding_model(mut self, model: impl Into<ModelId>) -> Self {
        self.embedding_model = Some(model.into());
        self
    }

    /// Reads the model lists in the background, from the first call on and then about that often:
    /// [`refresh_catalogue`](InferenceService::refresh_catalogue). Not unless set; [`InferenceService::from_env`] does it
    /// hourly.
    #[must_use]
    pub const fn refresh_catalogue_every(mut self, time: Duration) -> Self {
        self.refresh = Some(time);
        self
    }

    /// Says which tasks the service is for: it is not built where no route is in use for one of them.
    ///
    /// ```
    /// use together_inference::{InferenceService, Task, router::{CatalogRouter, ModelRoute}, testing::Together};
    ///
    /// let chat_alone = CatalogRouter::empty().with(ModelRoute::new("together", "acme/Chat-9B").task(Task::Chat));
    /// let builder = InferenceService::builder(Together::new().client()).router(chat_alone);
    /// let error = builder.serves([Task::Chat, Task::Embedding]).build().unwrap_err();
    /// assert!(error.to_string().starts_with("no route in use serves embedding"), "{error}");
    /// ```
    #[must_use]
    pub fn serves(mut self, tasks: impl IntoIterator<Item = Task>) -> Self {
        self.tasks.extend(tasks);
        self
    }

    /// Sets what an answer without `max_tokens` is taken to use at most where money is set aside: 4,096 unless set. Under a
    /// hard budget it is sent as well.
    #[must_use]
    pub const fn default_max_tokens(mut self, tokens: u32) -> Self {
        self.default_max_tokens = tokens;
        self
    }

    /// Sets where wall time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets where jitter and ids come from. Ids must not repeat: a fixed seed is for tests.
    #[must_use]
    pub fn rng(mut self, rng: Arc<dyn Rng>) -> Self {
        self.rng = rng;
        self
    }

    fn check_bounds(&self) -> Result<(), BuildError> {
        if let Some(bound) = self.route_limits.values().chain([&self.limits]).find_map(Limits::stuck) {
            return Err(BuildError::Limit(bound));
        }
        if let Some((route, price)) = self.prices.iter().find(|(_, price)| price.is_negative()) {
            return Err(BuildError::Price(route.clone(), *price));
        }
        if let Unpriced::Assume(price) = self.unpriced
            && price.is_negative()
        {
            return Err(BuildError::Unpriced(self.unpriced));
        }
        let too_often = self.refresh.filter(|time| *time < Duration::from_secs(60));
        too_often.map_or(Ok(()), |time| Err(BuildError::Refresh(time)))
    }

    /// The prices that are known from the start.
    fn price_book(&self, known: &[ModelRoute]) -> PriceBook {
        let prices = PriceBook::new(Arc::clone(&self.clock));
        for (route, percent) in &self.batch_discounts {
            prices.set_batch_percent_off(route, Some(*percent));
        }
        for (route, price) in &self.prices {
            prices.set(route, *price, PriceSource::User);
        }
        for route in known {
            if let Some(price) = route.price {
                prices.set(route.id(), price, PriceSource::Catalogue);
            }
        }
        prices
    }

    /// Puts the service together. No runtime is needed; tasks start at the first call.
    ///
    /// # Errors
    ///
    /// [`BuildError`] for two upstreams of one id, a route that cannot be or is on an upstream that is missing, replacements
    /// that lead in a circle, a task that nothing serves, a price or a budget that cannot be, or a limit of 0.
    pub fn build(self) -> Result<InferenceService, BuildError> {
        self.check_bounds()?;
        let router = self.router.clone().unwrap_or_else(|| Arc::new(CatalogRouter::builtin()));
        let mut seen = HashSet::new();
        if let Some((id, _)) = self.upstreams.iter().find(|(id, _)| id.as_str().is_empty() || !seen.insert(id.clone()))
        {
            return Err(BuildError::Upstream(id.clone()));
        }
        router.check()?;
        let known = router.routes();
        let serves = |task: &&Task| known.iter().any(|route| route.tasks.contains(task) && route.is_in_use());
        if let Some(task) = self.tasks.iter().find(|task| !serves(task)) {
            return Err(BuildError::Task(*task));
        }
        if let Some(route) = known.iter().find(|route| !seen.contains(route.id().upstream())) {
            return Err(BuildError::Route(route.id().clone(), route.id().upstream().clone()));
        }
        let prices = self.price_book(&known);
        let sinks = if self.sinks.is_empty() { vec![Arc::new(TracingCosts) as Arc<dyn CostSink>] } else { self.sinks };
        let sinks = FanOut::new(sinks);
        let store = self.budget_store.unwrap_or_else(|| Arc::new(MemoryBudgets::new()));
        let budgets = Arc::new(Budgets::new(self.budgets, store, Arc::clone(&self.clock))?);
        let recorder = Recorder::new(&sinks, Arc::clone(&budgets));
        #[cfg(feature = "batch")]
        let batches = super::batch::set_up(self.batches, self.store.as_ref(), &self.upstreams)?;
        let service = InferenceService {
            state: Arc::new(State {
                keys: self.upstreams.iter().map(|_| Key::default()).collect(),
                upstreams: self.upstreams,
                router_weighs_budgets: router.weighs_budgets(),
                router,
                cache_policy: self.cache_policy,
                cache: self.cache.unwrap_or_else(|| Arc::new(MemoryCache::default())),
                wants_intents: sinks.wants_intents(),
                sinks,
                budgets,
                unpriced: self.unpriced,
                notifier: self.notifier.unwrap_or_else(|| Arc::new(LogNotifier::default())),
                overflow: self.overflow,
                #[cfg(feature = "batch")]
                batches,
                #[cfg(feature = "batch")]
                events: self.events,
                backgrounds: Backgrounds::new(self.backgrounds),
                prices,
                counter: Counter::new(self.tokenizer),
                limits: self.limits,
                route_limits: self.route_limits,
                retry: self.retry,
                default_max_tokens: self.default_max_tokens,
                embedding_model: self.embedding_model.map_or_else(OnceLock::new, OnceLock::from),
                clock: self.clock,
                rng: self.rng,
                recorder,
                invalidations: Invalidations::default(),
                slots: Slots::default(),
                text_slots: TextSlots::default(),
                totals: Totals::default(),
                calls: TaskTracker::new(),
                tasks: TaskTracker::new(),
                cancel: CancellationToken::new(),
                closed: AtomicBool::new(false),
                routes: RwLock::default(),
                streams: Arc::default(),
                told: Told::default(),
                troubled: AtomicBool::new(false),
                refresher: Refresher::new(self.refresh),
                alerts: Alerts::default(),
            }),
        };
        service.state.listen_to_budgets();
        service.state.tell_router(&self.prices);
        service.warn_if_stale();
        Ok(service)
    }
}
