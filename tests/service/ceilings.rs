//! What a request allows: its price, its models, its time; and what its neighbours may take from it.

use std::{collections::HashMap, sync::Mutex};

use together_inference::{
    Price, RouteId, Usd, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer},
    inference::{CacheKey, ModelRef, Needs},
    router::{Capabilities, CatalogRouter, Known, ModelRoute, Override},
    service::ErrorKind,
    testing::Fault,
    usd,
};

use super::world::{LARGE, MID, World, ask, muse, route, secs, used};

#[tokio::test(start_paused = true)]
async fn max_cost_holds_against_the_price_that_is_billed() {
    let dear = Price::per_million(usd!("1000"), usd!("1000"));
    let world = World::with(|builder| builder.price(&route(MID), dear).price(&route("my/own"), Price::FREE));
    let within = |model: &str| muse("q").model(model).max_tokens(50).max_cost(usd!("0.001"));
    let error = world.service.complete(within(MID)).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::NoRoute, 0), "{error}");
    // A price that only the application knows counts as well.
    assert_eq!(world.service.complete(within("my/own")).await.unwrap_err().kind(), ErrorKind::Refused);
    let unknown = world.service.complete(within("never/heard-of")).await.unwrap_err();
    assert_eq!((unknown.kind(), world.calls()), (ErrorKind::NoRoute, 1), "{unknown}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_missing_is_no_route_and_the_next_one_is_asked() {
    let nowhere = || ModelRef::from(RouteId::new("nope", "m"));
    let world = World::with(|builder| builder.price(&RouteId::new("nope", "m"), Price::FREE));
    let error = world.service.complete(muse("q").model(nowhere())).await.unwrap_err();
    assert_eq!((error.kind(), error.status_hint(), world.calls()), (ErrorKind::NoRoute, 400, 0));
    assert!(error.to_string().contains("nope"), "{error}");
    let reply = world.service.complete(muse("q").models([nowhere(), ModelRef::from(MID)])).await.unwrap();
    assert_eq!(reply.model().as_str(), MID);
    world.at_rest().await;
}

/// A layer that gives back what it was given, however old.
#[derive(Debug, Default)]
struct Hoarder(Mutex<HashMap<CacheKey, CacheEntry>>);

#[async_trait]
impl CacheLayer for Hoarder {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.0.lock().unwrap().insert(*key, entry);
        Ok(())
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_not_served_even_by_a_layer_that_keeps_it() {
    // Scenario: a layer of the application's own ignores the time to live; an hour passes, and
    // the tenth of it for which an old answer is served while a new one is on its way.
    // Expected: a hit before, a paid call after.
    let world = World::with(|builder| builder.cache(Hoarder::default()));
    world.service.complete(ask("q")).await.unwrap();
    tokio::time::advance(secs(3_599)).await;
    world.service.complete(ask("q")).await.unwrap();
    assert_eq!(world.calls(), 1);
    tokio::time::advance(secs(362)).await;
    world.service.complete(ask("q")).await.unwrap();
    assert_eq!(world.calls(), 2);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_the_undemanding_is_not_served_to_who_needs_more() {
    let plain = Capabilities::default().reasoning(Known::Unknown);
    let router = CatalogRouter::empty().with(ModelRoute::new("together", MID).capabilities(plain).price(Price::FREE));
    let world = World::with(|builder| builder.router(router));
    world.service.complete(ask("q")).await.unwrap();
    world.service.complete(ask("q").needs(Needs::none().reasoning())).await.unwrap();
    world.service.complete(ask("q").max_cost(usd!("1"))).await.unwrap();
    assert_eq!(world.calls(), 3);
    world.at_rest_at_own_prices().await;
}

#[tokio::test(start_paused = true)]
async fn a_hit_on_a_fallbacks_answer_says_who_gave_it() {
    let world = World::new();
    world.sim.unavailable(LARGE);
    let request = || ask("q").models([LARGE, MID]);
    let paid = world.service.complete(request()).await.unwrap();
    let hit = world.service.complete(request()).await.unwrap();
    assert_eq!((paid.fell_back(), hit.fell_back()), (true, true));
    assert_eq!((&hit.route, hit.model()), (&paid.route, paid.model()));
    assert_eq!(hit.saved, paid.attempts.last().unwrap().cost);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_was_not_charged_refills_no_retry_budget() {
    let world = World::new();
    let left =
        || world.service.health().routes.iter().find(|known| known.route == route(MID)).map(|known| known.retry_budget);
    world.service.force(&route(MID), Some(Override::Admit));
    world.sim.fail_next_of(MID, 15, Fault::status(500));
    for _ in 0..5 {
        world.service.complete(muse("x").model(MID)).await.unwrap_err();
    }
    world.sim.heal();
    world.sim.unavailable(LARGE);
    let before = left().unwrap();
    world.service.complete(muse("x").models([LARGE, MID])).await.unwrap();
    assert_eq!(left().unwrap(), before + 1, "a first-try success returns one");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_longer_than_its_deadline_is_still_charged_to_the_budget() {
    // Scenario: a stream without a deadline of its own takes six minutes.
    // Expected: what it cost is spent of the budget, nothing was given back early.
    let world = World::new();
    world.sim.on("long").reply("one two three four five six seven eight nine ten eleven twelve thirteen fourteen");
    world.sim.token_latency(secs(25));
    let stream = world.service.stream(muse("long").model(LARGE).max_tokens(5_000)).await.unwrap();
    let reply = stream.finish().await.unwrap();
    assert!(reply.timings.total > secs(180), "{:?}", reply.timings);
    world.service.flush().await;
    let (spent, reserved) = used(&world.service).await;
    assert_eq!((Some(spent), reserved), (reply.cost().known(), Usd::ZERO));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn names_that_callers_make_up_are_forgotten_and_routes_that_answer_are_not() {
    let world = World::new();
    world.service.complete(muse("q").model(MID)).await.unwrap();
    for name in 0..3_000 {
        world.service.complete(muse("q").model(format!("made/up-{name}"))).await.unwrap_err();
    }
    let routes = world.service.health().routes;
    assert!(routes.len() <= 1_025, "{}", routes.len());
    assert!(routes.iter().any(|known| known.route.model().as_str() == MID && known.answered == 1));
    world.at_rest().await;
}
