use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;

use super::*;
use crate::router::{Candidate, CatalogRouter, RouteState};

#[tokio::test(start_paused = true)]
async fn the_catalogue_keeps_every_promise_behind_every_pointer() {
    model_router(&CatalogRouter::builtin()).await.unwrap();
    model_router(&Arc::new(CatalogRouter::builtin())).await.unwrap();
    let shared: Arc<dyn ModelRouter> = Arc::new(CatalogRouter::builtin());
    model_router(&shared).await.unwrap();
    let boxed: Box<dyn ModelRouter> = Box::new(CatalogRouter::empty().with(ModelRoute::new("local", "one")));
    model_router(&*boxed).await.unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    KnowsNothing,
    RanksNone,
    NamesTwice,
    RanksTheUnknown,
    RefusesInSilence,
    PanicsAtLongPrompts,
    Hangs,
    TakesTurns,
    IgnoresPins,
    IgnoresUpstreams,
    IgnoresLimits,
    LimitsStick,
    BlamesThoseWhoLeft,
    PanicsAtHugeCounts,
    ForgetsNewRoutes,
    RegistersTwice,
    RetiresNothing,
    RetiresTheUnknown,
    TakesAnything,
    GoesInCircles,
}

/// The catalogue with one fault.
#[derive(Debug)]
struct Broken {
    inner: CatalogRouter,
    fault: Fault,
    calls: AtomicUsize,
    sticky: Mutex<RouteLimits>,
    left: AtomicUsize,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        let (calls, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { inner: CatalogRouter::builtin(), fault, calls, sticky: Mutex::default(), left }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// What the inner router is asked.
    fn request(&self, ask: &RouteAsk<'_>) -> InferenceRequest {
        match self.fault {
            Fault::IgnoresPins if !ask.request.selection().is_any() => question(),
            Fault::IgnoresUpstreams if ask.request.upstream_of().is_some() => question(),
            _ => ask.request.clone(),
        }
    }

    fn limits(&self, ask: &RouteAsk<'_>) -> RouteLimits {
        let mut sticky = self.sticky.lock().unwrap();
        if self.has(Fault::LimitsStick) && !ask.limits.deny.is_empty() {
            *sticky = ask.limits.clone();
        }
        if self.has(Fault::IgnoresLimits) { RouteLimits::default() } else { ask.limits.clone().and(sticky.clone()) }
    }
}

#[async_trait]
impl ModelRouter for Broken {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        let turn = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::KnowsNothing => return Err(NoRoute::new("there is none", Vec::new())),
            Fault::Hangs if ask.task() == Task::Rerank => std::future::pending().await,
            Fault::PanicsAtLongPrompts => assert!(ask.prompt_tokens_at_most < 1 << 20),
            _ => {}
        }
        let request = self.request(ask);
        let mut inner = RouteAsk::new(&request);
        inner.limits = self.limits(ask);
        let ranked = self.inner.rank(&inner).await;
        let ranked = ranked.map_err(|refused| match self.fault {
            Fault::RefusesInSilence => NoRoute::new(" ", refused.rejected),
            _ => refused,
        });
        let Ranking { candidates, decision, .. } = match ranked {
            Err(_) if self.has(Fault::RanksNone) => {
                let best = self.inner.rank(&RouteAsk::new(&question())).await?;
                Ranking::new([], best.decision)
            }
            ranked => ranked?,
        };
        let mut candidates = candidates.to_vec();
        let len = candidates.len();
        match self.fault {
            Fault::NamesTwice => candidates.extend(candidates.first().cloned()),
            Fault::RanksTheUnknown => candidates.push(Candidate::new(RouteId::new("together", "made-up"))),
            Fault::TakesTurns => candidates.rotate_left(turn % len),
            Fault::BlamesThoseWhoLeft if self.left.load(Ordering::Relaxed) > 9 => candidates.rotate_left(1 % len),
            _ => {}
        }
        Ok(Ranking::new(candidates, decision))
    }

    fn inner(&self) -> Option<&dyn ModelRouter> {
        Some(&self.inner)
    }

    fn observe(&self, seen: &Observation) {
        match seen.outcome {
            Outcome::Cancelled => drop(self.left.fetch_add(1, Ordering::Relaxed)),
            Outcome::Answered(usage) if self.has(Fault::PanicsAtHugeCounts) => {
                assert!(usage.prompt.checked_add(usage.completion).is_some());
            }
            _ => {}
        }
    }

    fn register(&self, route: ModelRoute) -> Result<Registered, RouterError> {
        match self.fault {
            Fault::ForgetsNewRoutes => Ok(Registered::New),
            Fault::RegistersTwice => self.inner.register(route).map(|_| Registered::New),
            Fault::TakesAnything if route.tasks.is_empty() => self.inner.register(route.task(Task::Chat)),
            _ => self.inner.register(route),
        }
    }

    fn retire(&self, route: &RouteId, to: Option<&RouteId>) -> Result<Retired, RouterError> {
        let known = self.inner.routes().into_iter().find(|known| known.id() == route);
        match self.fault {
            Fault::RetiresNothing => {
                let retired = self.inner.retire(route, to);
                self.inner.register(known.unwrap_or_else(|| ModelRoute::new("a", "b")))?;
                retired
            }
            Fault::RetiresTheUnknown if known.is_none() => Ok(Retired::Now),
            Fault::GoesInCircles => {
                let retired = self.inner.retire(route, to);
                let already = known.is_some_and(|known| matches!(known.state, RouteState::Retired { .. }));
                Ok(retired.unwrap_or(if already { Retired::Already } else { Retired::Now }))
            }
            _ => self.inner.retire(route, to),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_wrapper_of_the_broken_ones_is_whole_itself() {
    model_router(&Broken::new(Fault::None)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_broken_router_fails_at_the_promise_that_it_breaks() {
    for (fault, promise) in [
        (Fault::KnowsNothing, "any request is ranked"),
        (Fault::RanksNone, "a ranking is not empty"),
        (Fault::NamesTwice, "a ranking is not empty"),
        (Fault::Hangs, "any request is ranked"),
        (Fault::RefusesInSilence, "any request is ranked"),
        (Fault::PanicsAtLongPrompts, "any request is ranked"),
        (Fault::RanksTheUnknown, "a route that is ranked unasked"),
        (Fault::TakesTurns, "the same request"),
        (Fault::IgnoresPins, "a request that names"),
        (Fault::IgnoresUpstreams, "a request that names"),
        (Fault::IgnoresLimits, "a route beyond the limits"),
        (Fault::LimitsStick, "a route beyond the limits"),
        (Fault::BlamesThoseWhoLeft, "a caller that went away"),
        (Fault::PanicsAtHugeCounts, "any observation"),
        (Fault::ForgetsNewRoutes, "a route that was registered"),
        (Fault::RegistersTwice, "a route that was registered"),
        (Fault::RetiresNothing, "a route that was registered"),
        (Fault::RetiresTheUnknown, "a route that was registered"),
        (Fault::TakesAnything, "a route that cannot be"),
        (Fault::GoesInCircles, "a route that cannot be"),
    ] {
        let failure = model_router(&Broken::new(fault)).await.expect_err(&format!("{fault:?}"));
        assert!(failure.promise.starts_with(promise), "{fault:?}: {failure}");
    }
}
