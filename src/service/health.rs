//! What the service knows of itself, as plain data.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{InferenceService, state::RouteState};
use crate::{
    router::{Availability, Expectation, Observation, Outcome, Override},
    types::{RouteId, UpstreamId, Usd},
};

/// The state of a service at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ServiceHealth {
    /// Whether it takes calls: `false` from the start of a shutdown.
    pub accepting: bool,
    /// Calls that are not over, streams included, and the tasks that work for them.
    pub in_flight: usize,
    /// Cacheable calls under way, each with its followers as one.
    pub coalescing: usize,
    /// Cost records that wait for the sinks.
    pub records_waiting: usize,
    /// Cost records that no sink took, and attempts never made that a sink was not told to forget.
    pub records_lost: u64,
    /// Alerts that reached nobody: the notifier failed, or too many were on their way. The next one that arrives says how
    /// many there were before it, and what still holds is told again.
    pub alerts_lost: u64,
    /// Upstreams whose key the provider refuses (401, 402).
    pub stopped_keys: Vec<UpstreamId>,
    /// Routes in use, or used before, whose price nobody says: what calls there cost is in no sum, and under a budget or a
    /// `max_cost` they are refused.
    pub unpriced_routes: usize,
    /// Attempts without a price so far.
    pub unpriced_attempts: u64,
    /// Each route that was used.
    pub routes: Vec<RouteHealth>,
}

impl ServiceHealth {
    /// Whether calls should come here: for a readiness probe.
    ///
    /// What the providers do is not asked: an outage of theirs would take every instance out of service at once, and with
    /// them the answers that caches and other providers still have.
    ///
    /// ```
    /// use together_inference::{InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// assert!(service.health().is_ready());
    /// service.begin_shutdown();
    /// assert!(!service.health().is_ready());
    /// # Ok::<(), together_inference::service::BuildError>(())
    /// ```
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.accepting
    }

    /// Whether something is not as it should be, though calls are served: a route is ejected, a key is refused, records
    /// were lost. For a dashboard or an alert, not for a readiness probe.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        let is_out = |route: &RouteHealth| {
            matches!(route.availability, Availability::Ejected | Availability::Forced(Override::Eject))
        };
        self.records_lost > 0 || !self.stopped_keys.is_empty() || self.routes.iter().any(is_out)
    }
}

/// The state of a route at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RouteHealth {
    /// The route.
    pub route: RouteId,
    /// Whether it gets calls.
    pub availability: Availability,
    /// Attempts so far.
    pub dispatched: u64,
    /// Those that answered.
    pub answered: u64,
    /// Those that failed.
    pub failed: u64,
    /// What the router has learned of it lately, where it learns: how likely it answers.
    pub success: Option<f64>,
    /// And how many seconds an answer of 256 tokens takes.
    pub seconds: Option<f64>,
    /// Those that were abandoned by their callers.
    pub cancelled: u64,
    /// Attempts that are out now.
    pub in_flight: usize,
    /// Callers that wait for their turn.
    pub waiting: usize,
    /// Attempts that the provider refused for our rate.
    pub throttled: u64,
    /// Requests a second that the provider allows, as far as it said or its refusals taught.
    pub requests_per_second: Option<f64>,
    /// Tokens a second that the provider allows, as far as it said or its refusals taught.
    pub tokens_per_second: Option<f64>,
    /// How long nothing goes out because the provider asked for it.
    pub paused: Duration,
    /// How long a call that came now would wait, behind all that wait already.
    pub predicted_wait: Duration,
    /// What is left of the retry budget, at most 50; a repeat costs 5.
    pub retry_budget: i64,
}

/// What all calls cost together since the service began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CostTotals {
    /// Attempts with a record.
    pub attempts: u64,
    /// Cache hits.
    pub hits: u64,
    /// Callers that shared another one's answer.
    pub followers: u64,
    /// The sum of known costs.
    pub known: Usd,
    /// The most that attempts of unknown usage cost.
    pub unknown_at_most: Usd,
    /// How many those are.
    pub unknown: u64,
    /// Attempts without a price: their cost is in no sum.
    pub unpriced: u64,
    /// What hits and followers did not have to pay.
    pub saved: Usd,
}

impl InferenceService {
    /// The state of the service now.
    #[must_use]
    pub fn health(&self) -> ServiceHealth {
        let state = &self.state;
        let used = state.routes.read().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let expects = |id| catch_unwind(AssertUnwindSafe(|| state.router.expects(id, now))).ok().flatten();
        let mut routes: Vec<_> = used.values().map(|route| route.health(expects(&route.id))).collect();
        drop(used);
        routes.sort_by(|a, b| a.route.cmp(&b.route));
        let unpriced_routes = state.unpriced_routes();
        ServiceHealth {
            accepting: !state.closed.load(Ordering::Acquire),
            in_flight: state.calls.len() + state.tasks.len(),
            coalescing: state.slots.len() + state.text_slots.len(),
            records_waiting: state.recorder.waiting(),
            records_lost: state.recorder.lost(),
            alerts_lost: state.alerts.lost(),
            stopped_keys: state.stopped_keys(),
            unpriced_routes,
            unpriced_attempts: state.totals.unpriced.load(Ordering::Relaxed),
            routes,
        }
    }

    /// Decides over the crate's head whether a route gets calls, until `None` takes it back.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, router::Override, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let usual = service.complete(InferenceRequest::chat("hi")).await?.route;
    /// service.force(&usual, Some(Override::Eject));
    /// assert_ne!(service.complete(InferenceRequest::chat("hi")).await?.route, usual);
    /// service.force(&usual, None);
    /// assert_eq!(service.complete(InferenceRequest::chat("hi")).await?.route, usual);
    /// # Ok(())
    /// # }
    /// ```
    pub fn force(&self, route: &RouteId, availability: Option<Override>) {
        self.state.route(route).ejection.force(availability);
        // What the router made of failures until now is over as well.
        let mut seen = Observation::new(route.clone(), Instant::now(), Duration::ZERO, Outcome::Cancelled);
        seen.ejected = Some(false);
        let told = AssertUnwindSafe(|| self.state.router.observe(&seen));
        if catch_unwind(told).is_err() {
            tracing::warn!("the router panicked in observe");
        }
    }

    /// What all calls cost together, at once and without asking a sink.
    #[must_use]
    pub fn costs(&self) -> CostTotals {
        let totals = &self.state.totals;
        let usd = |sum: &std::sync::atomic::AtomicI64| Usd::from_nanos(sum.load(Ordering::Relaxed));
        CostTotals {
            attempts: totals.attempts.load(Ordering::Relaxed),
            hits: totals.hits.load(Ordering::Relaxed),
            followers: totals.followers.load(Ordering::Relaxed),
            known: usd(&totals.known),
            unknown_at_most: usd(&totals.unknown),
            unknown: totals.unknown_attempts.load(Ordering::Relaxed),
            unpriced: totals.unpriced.load(Ordering::Relaxed),
            saved: usd(&totals.saved),
        }
    }
}

impl RouteState {
    fn health(&self, expected: Option<Expectation>) -> RouteHealth {
        let lane = self.lane.health();
        RouteHealth {
            route: self.id.clone(),
            availability: self.ejection.availability(),
            dispatched: self.counts.dispatched.load(Ordering::Relaxed),
            answered: self.counts.answered.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            success: expected.map(|expected| expected.success),
            seconds: expected.map(|expected| expected.seconds),
            cancelled: self.counts.cancelled.load(Ordering::Relaxed),
            in_flight: lane.in_flight,
            waiting: lane.waiting,
            throttled: lane.throttled,
            requests_per_second: lane.requests_per_second,
            tokens_per_second: lane.tokens_per_second,
            paused: lane.paused,
            predicted_wait: lane.predicted_wait,
            retry_budget: self.retries.left(),
        }
    }
}
