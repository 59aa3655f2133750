//! Everything that the calls of one service share.

use std::{
    collections::HashMap,
    panic::catch_unwind,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    background::Backgrounds,
    cached::CachePolicy,
    choice::Key,
    coalesce::Slots,
    counter::Counter,
    embed::TextSlots,
    error::{Error, ErrorKind},
    invalidations::Invalidations,
    recorder::Recorder,
    refresh::Refresher,
    stream::LiveStreams,
    told::{Alerts, Told},
};
use crate::{
    batch::Overflow,
    cache::CacheLayer,
    client::{RetryBudget, RetryPolicy, TogetherClient},
    cost::{Budgets, CostRecord, Ending, FanOut, PriceBook, Unpriced},
    limit::{Lane, Limits},
    notify::Notifier,
    router::{Availability, Ejection, ModelRouter, Outcome},
    types::{Clock, Cost, ModelId, Rng, RouteId, UpstreamId, Usd},
};

/// A cache layer is a miss after this.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// Routes that are remembered; past it those that never answered are forgotten, for callers name what they like.
const MOST_ROUTES: usize = 1_024;

/// The shared state of a service; tasks and calls in flight hold it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) upstreams: Vec<(UpstreamId, TogetherClient)>,
    /// The key of each upstream, in the same order.
    pub(super) keys: Vec<Key>,
    pub(super) router: Arc<dyn ModelRouter>,
    pub(super) cache: Arc<dyn CacheLayer>,
    pub(super) cache_policy: Option<CachePolicy>,
    pub(super) invalidations: Invalidations,
    pub(super) sinks: FanOut,
    /// Whether what is left of the budgets is looked up for it.
    pub(super) router_weighs_budgets: bool,
    pub(super) budgets: Arc<Budgets>,
    pub(super) unpriced: Unpriced,
    pub(super) notifier: Arc<dyn Notifier>,
    pub(super) overflow: Option<Arc<dyn Overflow>>,
    #[cfg(feature = "batch")]
    pub(super) batches: Option<super::batch::Batches>,
    /// Where it is said that a batch is over.
    #[cfg(feature = "batch")]
    pub(super) events: Option<Arc<dyn crate::events::EventQueue>>,
    pub(super) backgrounds: Backgrounds,
    pub(super) prices: PriceBook,
    pub(super) counter: Counter,
    pub(super) limits: Limits,
    pub(super) route_limits: HashMap<RouteId, Limits>,
    pub(super) retry: RetryPolicy,
    pub(super) wants_intents: bool,
    pub(super) default_max_tokens: u32,
    /// The model of every embedding request that names none.
    pub(super) embedding_model: OnceLock<ModelId>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rng: Arc<dyn Rng>,
    pub(super) recorder: Recorder,
    pub(super) slots: Slots,
    pub(super) text_slots: TextSlots,
    pub(super) totals: Totals,
    /// Callers that wait for an answer or read one.
    pub(super) calls: TaskTracker,
    /// Detached leaders and alerts.
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
    pub(super) closed: AtomicBool,
    pub(super) routes: RwLock<HashMap<RouteId, Arc<RouteState>>>,
    pub(super) streams: Arc<LiveStreams>,
    pub(super) told: Told,
    pub(super) alerts: Alerts,
    /// Whether a route was ever ejected: only then calls look for probes behind the first choice.
    pub(super) troubled: AtomicBool,
    pub(super) refresher: Refresher,
}

/// What belongs to one route whatever call uses it.
#[derive(Debug)]
pub(super) struct RouteState {
    pub(super) id: RouteId,
    pub(super) lane: Lane,
    pub(super) retries: RetryBudget,
    pub(super) counts: Counts,
    pub(super) ejection: Ejection,
}

impl RouteState {
    /// Whether more is known of it than that a caller made up its name.
    fn is_worth_keeping(&self) -> bool {
        self.counts.answered.load(Ordering::Relaxed) > 0 || self.ejection.availability() != Availability::Admitted
    }
}

/// Whether there is a runtime with time here. IO is the transport's own affair: a simulator needs none.
///
/// Tokio says whether there is a timer only by panicking where one is made without. To make one costs next to nothing, for
/// it is registered at its first poll only; the panic is caught, and seen by the panic hook alone.
pub(super) fn in_runtime() -> Result<(), Error> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(Error::new(ErrorKind::NoRuntime, "call the service inside a Tokio runtime"));
    }
    let timer = catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO)));
    timer.map_err(|_| Error::new(ErrorKind::NoRuntime, "this Tokio runtime has no timer; build it with enable_all()"))
}

/// Attempts of a route by how they ended.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) dispatched: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) cancelled: AtomicU64,
    /// Tokens of all answers together.
    pub(super) completion: AtomicU64,
}

impl Counts {
    /// One more, and its number.
    pub(super) fn started(&self) -> u64 {
        self.dispatched.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Answered(_) => &self.answered,
            Outcome::Failed(_) => &self.failed,
            Outcome::Cancelled => &self.cancelled,
        };
        if let Outcome::Answered(usage) = outcome {
            self.completion.fetch_add(usage.completion, Ordering::Relaxed);
        }
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sums over all records.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) known: AtomicI64,
    pub(super) unknown: AtomicI64,
    pub(super) saved: AtomicI64,
    pub(super) unpriced: AtomicU64,
    pub(super) unknown_attempts: AtomicU64,
    pub(super) attempts: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) followers: AtomicU64,
}

impl Totals {
    pub(super) fn add(&self, record: &CostRecord) {
        let counter = match record.ending {
            Ending::Hit | Ending::Stale => &self.hits,
            Ending::Follower => &self.followers,
            _ => &self.attempts,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match record.cost {
            Cost::Known(usd) => {
                self.known.fetch_add(usd.nanos(), Ordering::Relaxed);
            }
            Cost::Unknown { at_most } => {
                self.unknown.fetch_add(at_most.nanos(), Ordering::Relaxed);
                self.unknown_attempts.fetch_add(1, Ordering::Relaxed);
            }
            Cost::Unpriced => {
                self.unpriced.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.saved.fetch_add(record.saved.known().unwrap_or(Usd::ZERO).nanos(), Ordering::Relaxed);
    }
}

impl State {
    /// Counts a call in, unless the service is shutting down or there is no runtime.
    pub(super) fn begin(self: &Arc<Self>) -> Result<TaskTrackerToken, Error> {
        in_runtime()?;
        let token = self.calls.token();
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::ShuttingDown, "the service takes no more calls"));
        }
        self.recorder.ensure_running(self);
        self.refresher.ensure_running(self);
        self.ensure_background();
        Ok(token)
    }

    /// The client of a route's upstream.
    pub(super) fn client(&self, route: &RouteId) -> Option<&TogetherClient> {
        self.upstreams.iter().find(|(id, _)| id == route.upstream()).map(|(_, client)| client)
    }

    /// Something of a route that was used already.
    pub(super) fn with_route<T>(&self, id: &RouteId, of: impl FnOnce(&RouteState) -> T) -> Option<T> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(id).map(|route| of(route))
    }

    /// The state of a route, made at its first use.
    pub(super) fn route(&self, id: &RouteId) -> Arc<RouteState> {
        if let Some(route) = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Arc::clone(route);
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= MOST_ROUTES {
            routes.retain(|_, route| Arc::strong_count(route) > 1 || route.is_worth_keeping());
        }
        let made = routes.entry(id.clone()).or_insert_with(|| {
            let limits = self.route_limits.get(id).copied().unwrap_or(self.limits);
            Arc::new(RouteState {
                id: id.clone(),
                lane: Lane::new(limits),
                retries: RetryBudget::default(),
                counts: Counts::default(),
                ejection: Ejection::default(),
            })
        });
        Arc::clone(made)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let waiting = self.recorder.waiting();
        if waiting > 0 && !self.closed.load(Ordering::Acquire) {
            tracing::warn!(
                records = waiting,
                "the service was dropped with unwritten cost records; call shutdown first"
            );
        }
    }
}
