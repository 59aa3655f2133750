//! What a [`ModelRouter`] promises.

use std::{collections::HashSet, panic::AssertUnwindSafe, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::{Failure, Promise};
use crate::{
    client::{ErrorKind, Tool},
    inference::InferenceRequest,
    router::{
        ModelRoute, ModelRouter, NoRoute, Observation, Outcome, Ranking, Registered, Retired, RouteAsk, RouteLimits,
        RouterError,
    },
    types::{ModelId, Priority, RouteId, Task, Tier, Usage, Usd},
};

/// Checks what [`ModelRouter`] promises, on a router that knows a route for an ordinary question.
///
/// If the router can learn of routes, two are registered, on the upstream of the best route so far, and retired again.
/// Observations are made up for the best route; none says that it failed.
///
/// ```
/// use together_inference::{
///     router::CatalogRouter,
///     testing::conformance::{self, Failure},
/// };
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Failure> {
/// conformance::model_router(&CatalogRouter::builtin()).await
/// # }
/// ```
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn model_router(router: &dyn ModelRouter) -> Result<(), Failure> {
    let on = |promise| On { router, promise: Promise(promise) };
    any_request_is_answered(&on("any request is ranked or refused with a reason")).await?;
    rankings_are_whole(&on("a ranking is not empty and names each route once")).await?;
    rankings_are_known(&on("a route that is ranked unasked is among those that the router knows")).await?;
    the_same_is_ranked_the_same(&on("the same request is ranked the same while nothing was learned")).await?;
    pins_hold(&on("a request that names a model or an upstream gets no other")).await?;
    limits_hold(&on("a route beyond the limits is not ranked")).await?;
    leaving_says_nothing(&on("a caller that went away says nothing about a route")).await?;
    anything_is_observed(&on("any observation is taken")).await?;
    routes_come_and_go(&on("a route that was registered is known and ranked until it is retired")).await?;
    unfit_routes_are_refused(&on("a route that cannot be and a circle of replacements are refused")).await
}

struct On<'a> {
    router: &'a dyn ModelRouter,
    promise: Promise,
}

impl On<'_> {
    async fn ask(&self, ask: &RouteAsk<'_>) -> Result<Result<Ranking, NoRoute>, Failure> {
        let answer = self.promise.answer("rank", self.router.rank(ask)).await?;
        match &answer {
            Err(refused) if refused.reason.trim().is_empty() => Err(self.promise.broken("a refusal says no reason")),
            _ => Ok(answer),
        }
    }

    /// The routes for a request, best first; none where it is refused.
    async fn routes(&self, ask: &RouteAsk<'_>) -> Result<Vec<RouteId>, Failure> {
        let ranking = self.ask(ask).await?;
        Ok(ranking.map_or_else(|_| Vec::new(), |ranking| names(&ranking)))
    }

    /// The routes for an ordinary question, which must be there.
    async fn ordinary(&self) -> Result<(RouteId, Vec<RouteId>), Failure> {
        let request = question();
        match self.ask(&RouteAsk::new(&request)).await? {
            Ok(ranking) => {
                let routes = names(&ranking);
                let best = routes.first().cloned().ok_or_else(|| self.promise.broken("a ranking is empty"))?;
                Ok((best, routes))
            }
            Err(refused) => Err(self.promise.broken(format!("an ordinary question is refused: {refused}"))),
        }
    }

    /// A call that must not panic, as `observe` is made from `Drop`.
    fn call<T>(&self, name: &str, call: impl FnOnce(&dyn ModelRouter) -> T) -> Result<T, Failure> {
        std::panic::catch_unwind(AssertUnwindSafe(|| call(self.router)))
            .map_err(|_| self.promise.broken(format!("{name} panicked")))
    }

    fn observe(&self, route: &RouteId, outcome: Outcome) -> Result<(), Failure> {
        for took in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
            let mut seen = Observation::new(route.clone(), Instant::now(), took, outcome);
            self.call("observe", |router| router.observe(&seen))?;
            seen.first_token = Some(took);
            self.call("observe", |router| router.observe(&seen))?;
        }
        Ok(())
    }

    fn register(&self, route: ModelRoute) -> Result<Result<Registered, RouterError>, Failure> {
        self.call("register", |router| router.register(route))
    }

    fn retire(&self, route: &RouteId, to: Option<&RouteId>) -> Result<Result<Retired, RouterError>, Failure> {
        self.call("retire", |router| router.retire(route, to))
    }

    fn knows(&self, route: &RouteId) -> Result<bool, Failure> {
        Ok(self.call("routes", |router| router.routes())?.iter().any(|known| known.id() == route))
    }
}

fn question() -> InferenceRequest {
    InferenceRequest::chat("Why is the sky blue?").max_tokens(64)
}

fn names(ranking: &Ranking) -> Vec<RouteId> {
    ranking.candidates.iter().map(|one| one.route.clone()).collect()
}

/// Requests of many kinds, odd ones among them.
fn requests() -> Vec<InferenceRequest> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let mut requests = vec![
        question(),
        question().tier(Tier::Small),
        question().tier(Tier::Large).priority(Priority::Batch),
        question().max_cost(Usd::ZERO),
        question().max_cost(Usd::from_nanos(i64::MAX)),
        question().max_tokens(u32::MAX).n(128),
        question().json_schema("answer", schema),
        question().tool(Tool::function("f", "", json!({}))),
        question().image_url("https://example.com/a.png"),
        question().model("a model that nobody has"),
        question().model(""),
        question().models(["a model that nobody has", "nor this one"]),
        question().models(Vec::<&str>::new()),
        question().upstream("an upstream that nobody has"),
        question().tenant("acme").session("s").tag("plan", "free"),
        InferenceRequest::chat(""),
        InferenceRequest::chat("long ".repeat(1 << 20)),
        InferenceRequest::code("fn main() {}"),
    ];
    requests
        .extend([Priority::Realtime, Priority::Standard, Priority::Batch].map(|urgent| question().priority(urgent)));
    requests.extend([Task::Chat, Task::Code, Task::Embedding, Task::Image, Task::Rerank].map(InferenceRequest::new));
    requests
}

async fn any_request_is_answered(on: &On<'_>) -> Result<(), Failure> {
    on.ordinary().await?;
    for request in requests() {
        // Either will do.
        let _ = on.ask(&RouteAsk::new(&request)).await?;
    }
    let requests = requests();
    let asks: Vec<RouteAsk<'_>> = requests.iter().map(RouteAsk::new).collect();
    join_all(asks.iter().map(|ask| on.ask(ask))).await.into_iter().try_for_each(|answer| answer.map(drop))
}

async fn rankings_are_whole(on: &On<'_>) -> Result<(), Failure> {
    for request in requests() {
        let Ok(ranking) = on.ask(&RouteAsk::new(&request)).await? else { continue };
        let routes = names(&ranking);
        if routes.is_empty() {
            return Err(on.promise.broken("a ranking is empty"));
        }
        let distinct: HashSet<&RouteId> = routes.iter().collect();
        on.promise.same(&format!("distinct routes of {routes:?}"), distinct.len(), routes.len())?;
    }
    Ok(())
}

async fn rankings_are_known(on: &On<'_>) -> Result<(), Failure> {
    let known = on.call("routes", |router| router.routes())?;
    // A router that tells of no routes makes no promise about them.
    if known.is_empty() {
        return Ok(());
    }
    let (_, routes) = on.ordinary().await?;
    match routes.into_iter().find(|route| known.iter().all(|known| known.id() != route)) {
        Some(route) => Err(on.promise.broken(format!("{route} is ranked and not known"))),
        None => Ok(()),
    }
}

async fn the_same_is_ranked_the_same(on: &On<'_>) -> Result<(), Failure> {
    for request in requests() {
        let first = on.routes(&RouteAsk::new(&request)).await?;
        for _ in 0..4 {
            // What a cache key leaves out must not matter either: when it is asked.
            let again = on.routes(&RouteAsk::new(&request.clone())).await?;
            on.promise.same("the ranking of a request that comes again", again, first.clone())?;
        }
    }
    Ok(())
}

async fn pins_hold(on: &On<'_>) -> Result<(), Failure> {
    let (_, routes) = on.ordinary().await?;
    let fits = |what: &str, found: Vec<RouteId>, fits: &dyn Fn(&RouteId) -> bool| match found.iter().find(|r| !fits(r))
    {
        Some(other) => Err(on.promise.broken(format!("{what} gets {other}"))),
        None => Ok(()),
    };
    for route in routes.iter().take(8) {
        let pinned = question().model(route.model().as_str());
        let found = on.routes(&RouteAsk::new(&pinned)).await?;
        fits(&format!("a request for {}", route.model()), found, &|other| other.model() == route.model())?;
        let there = question().upstream(route.upstream().clone());
        let found = on.routes(&RouteAsk::new(&there)).await?;
        fits(&format!("a request for {}", route.upstream()), found, &|other| other.upstream() == route.upstream())?;
    }
    if let [first, .., last] = &*routes {
        let named = [last.model(), first.model()];
        let preferred = question().models(named.map(ModelId::as_str));
        let found = on.routes(&RouteAsk::new(&preferred)).await?;
        fits("a request for two models", found, &|other| named.contains(&other.model()))?;
    }
    let nowhere = question().upstream("an upstream that nobody has");
    fits("a request for an upstream that nobody has", on.routes(&RouteAsk::new(&nowhere)).await?, &|_| false)
}

async fn limits_hold(on: &On<'_>) -> Result<(), Failure> {
    let (best, routes) = on.ordinary().await?;
    let request = question();
    let ask = RouteAsk::new(&request);
    let all = || routes.iter().map(|route| route.model().clone());
    let narrow = [
        RouteLimits::default().deny([best.model().clone()]),
        RouteLimits::default().allow([best.model().clone()]),
        RouteLimits::default().allow(["a model that nobody has"]),
        RouteLimits::default().deny(all()),
        RouteLimits::default().allow(all()).deny([best.model().clone()]),
    ];
    for limits in narrow {
        let found = on.routes(&ask.with_limits(limits.clone())).await?;
        if let Some(beyond) = found.iter().find(|route| !limits.admits(route.model())) {
            return Err(on.promise.broken(format!("{beyond} is beyond {limits:?}")));
        }
    }
    // Narrower bounds of one question must not stick to the next.
    on.promise.same("the ranking without limits afterwards", on.routes(&ask).await?, routes)
}

async fn leaving_says_nothing(on: &On<'_>) -> Result<(), Failure> {
    let (best, routes) = on.ordinary().await?;
    for _ in 0..50 {
        on.observe(&best, Outcome::Cancelled)?;
    }
    on.promise.same("the ranking after callers went away", on.ordinary().await?.1, routes)
}

async fn anything_is_observed(on: &On<'_>) -> Result<(), Failure> {
    let (best, _) = on.ordinary().await?;
    let nobody = RouteId::new("", "a model that nobody has");
    let huge = Usage { prompt: u64::MAX, cached: u64::MAX, completion: u64::MAX, ..Usage::default() };
    for usage in [Usage::default(), huge] {
        on.observe(&best, Outcome::Answered(usage))?;
        on.observe(&nobody, Outcome::Answered(usage))?;
    }
    for kind in [ErrorKind::Timeout, ErrorKind::RateLimited, ErrorKind::ModelNotAvailable, ErrorKind::InvalidRequest] {
        on.observe(&nobody, Outcome::Failed(kind))?;
    }
    on.ordinary().await.map(drop)
}

/// A route beside the best one that would serve an ordinary question.
fn newcomer(best: &RouteId, name: &str) -> ModelRoute {
    ModelRoute::new(best.upstream().clone(), format!("conformance/{name}")).tier(Tier::Mid)
}

async fn routes_come_and_go(on: &On<'_>) -> Result<(), Failure> {
    let (best, _) = on.ordinary().await?;
    let route = newcomer(&best, "comes-and-goes");
    let id = route.id().clone();
    match on.register(route.clone())? {
        Err(RouterError::Fixed) => return Ok(()),
        other => on.promise.same("the first registration", other, Ok(Registered::New))?,
    }
    on.promise.same("whether it is known", on.knows(&id)?, true)?;
    let dearer = route.clone().weight(0.5);
    let replaced = on.register(dearer.clone())?;
    on.promise.same("the second registration", replaced, Ok(Registered::Replaced(Box::new(route))))?;
    let pinned = question().model(id.model().as_str());
    on.promise.same("its ranking by name", on.routes(&RouteAsk::new(&pinned)).await?, vec![id.clone()])?;
    on.promise.same("the first retirement", on.retire(&id, Some(&best))?, Ok(Retired::Now))?;
    on.promise.same("the second retirement", on.retire(&id, Some(&best))?, Ok(Retired::Already))?;
    if on.routes(&RouteAsk::new(&pinned)).await?.contains(&id) || on.ordinary().await?.1.contains(&id) {
        return Err(on.promise.broken("it is ranked after it was retired"));
    }
    let unknown = on.retire(&RouteId::new("together", "a model that nobody has"), None)?;
    on.promise.same("the retirement of a route that nobody has", unknown, Ok(Retired::Already))
}

async fn unfit_routes_are_refused(on: &On<'_>) -> Result<(), Failure> {
    let (best, before) = on.ordinary().await?;
    let (there, back) = (newcomer(&best, "there"), newcomer(&best, "back"));
    let (there_id, back_id) = (there.id().clone(), back.id().clone());
    if matches!(on.register(there)?, Err(RouterError::Fixed)) {
        return on.promise.same("the ranking after a refusal", on.ordinary().await?.1, before);
    }
    on.promise.same("a second registration", on.register(back)?, Ok(Registered::New))?;
    for unfit in [ModelRoute::new("", ""), newcomer(&best, "none").tasks([]), newcomer(&best, "nan").weight(f32::NAN)] {
        let id = unfit.id().clone();
        if !matches!(on.register(unfit)?, Err(RouterError::Invalid { .. })) || on.knows(&id)? {
            return Err(on.promise.broken(format!("{id}: it lacks something and is taken")));
        }
    }
    on.promise.same("a retirement", on.retire(&there_id, Some(&back_id))?, Ok(Retired::Now))?;
    match on.retire(&back_id, Some(&there_id))? {
        Err(RouterError::Cycle { .. }) => {}
        other => return Err(on.promise.broken(format!("a circle of replacements gives {other:?}"))),
    }
    let pinned = question().model(there_id.model().as_str());
    on.promise.same("where it leads", on.routes(&RouteAsk::new(&pinned)).await?, vec![back_id.clone()])?;
    on.promise.same("the last retirement", on.retire(&back_id, None)?, Ok(Retired::Now))?;
    on.promise.same("the ranking when both are retired", on.ordinary().await?.1, before)
}

#[cfg(test)]
mod tests;
