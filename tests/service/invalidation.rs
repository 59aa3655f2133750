//! What is invalidated is gone: also what was only on its way into the cache, and whoever is the first choice by then.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use together_inference::{
    InferenceRequest, Price, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer, MemoryCache},
    inference::{CacheControl, CacheKey, Origin, Source},
    router::{CatalogRouter, ModelRouter, NoRoute, Ranking, RouteAsk},
    service::{ErrorKind, ServiceBuilder},
    types::Tenant,
};
use tokio::time::{Instant, sleep};

use crate::world::{World, ask, in_turn, ms, route, secs, settle, spawn};

const MEMORY: Source = Source::Cache(Origin::Memory);
const EMBEDDER: &str = "intfloat/multilingual-e5-large-instruct";

/// A world whose price is another one each time that it is asked for.
fn market(edit: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> World {
    let world = World::with(edit);
    world.sim.on("price").reply_with(in_turn(&["old", "new", "newer"]));
    world
}

async fn is_asked_anew(world: &World) {
    let reply = world.service.complete(ask("price")).await.unwrap();
    assert_eq!((reply.text(), reply.source), ("new", Source::Miss));
    settle().await;
    assert_eq!(world.service.complete(ask("price")).await.unwrap().text(), "new", "which is kept");
}

#[tokio::test(start_paused = true)]
async fn what_is_invalidated_is_asked_for_anew_and_nothing_else_is() {
    let world = World::new();
    let of = |tenant: &str, question: &str| ask(question).tenant(tenant);
    let source = async |request| world.service.complete(request).await.unwrap().source;
    for tenant in ["acme", "umbrella"] {
        for question in ["a", "b"] {
            world.service.complete(of(tenant, question)).await.unwrap();
        }
    }
    world.service.invalidate(&of("acme", "a")).await.unwrap();
    assert_eq!(source(of("acme", "a")).await, Source::Miss);
    assert_eq!(source(of("acme", "b")).await, MEMORY);
    assert_eq!(source(of("umbrella", "a")).await, MEMORY);

    world.service.invalidate_tenant(&"acme".into()).await.unwrap();
    assert_eq!(source(of("acme", "a")).await, Source::Miss);
    assert_eq!(source(of("acme", "b")).await, Source::Miss);
    assert_eq!(source(of("umbrella", "a")).await, MEMORY);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_keeps_nothing_of_what_was_invalidated() {
    let world = World::new();
    world.sim.latency(secs(1));
    let early = world.spawn(ask("a"));
    settle().await;
    world.service.invalidate(&ask("a")).await.unwrap();
    let late = world.spawn(ask("a"));
    early.await.unwrap().unwrap();
    assert_eq!(late.await.unwrap().unwrap().source, Source::Miss, "it did not join");
    assert_eq!(
        (world.calls(), world.service.complete(ask("a")).await.unwrap().source),
        (2, MEMORY),
        "the later is kept"
    );
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_under_way_keeps_nothing_of_what_was_invalidated() {
    let world = market(|builder| builder);
    let mut stream = world.service.stream(ask("price")).await.unwrap();
    stream.next().await.unwrap().unwrap();
    world.service.invalidate(&ask("price")).await.unwrap();
    stream.finish().await.unwrap();
    settle().await;
    is_asked_anew(&world).await;
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_keeps_nothing_of_what_was_invalidated() {
    let world = market(|builder| builder);
    world.sim.latency(secs(1));
    let early = world.spawn(ask("price").cache(CacheControl::refresh()));
    sleep(ms(100)).await;
    world.service.invalidate(&ask("price")).await.unwrap();
    early.await.unwrap().unwrap();
    settle().await;
    is_asked_anew(&world).await;
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn vectors_under_way_are_not_kept_for_a_tenant_that_was_invalidated_and_are_for_others() {
    let world = World::with(|builder| builder.embedding_model(EMBEDDER).price(&route(EMBEDDER), Price::FREE));
    world.sim.latency(secs(1));
    let vector = |tenant: &str| InferenceRequest::embedding(["sky"]).tenant(tenant);
    let early = ["acme", "umbrella"].map(|tenant| world.spawn(vector(tenant)));
    sleep(ms(100)).await;
    world.service.invalidate_tenant(&"acme".into()).await.unwrap();
    for call in early {
        call.await.unwrap().unwrap();
    }
    settle().await;
    assert_eq!(world.service.complete(vector("acme")).await.unwrap().source, Source::Miss);
    assert_eq!(world.service.complete(vector("umbrella")).await.unwrap().source, MEMORY);

    let early = world.spawn(InferenceRequest::embedding(["sea"]).tenant("acme"));
    sleep(ms(100)).await;
    world.service.invalidate(&InferenceRequest::embedding(["sea", "land"]).tenant("acme")).await.unwrap();
    early.await.unwrap().unwrap();
    settle().await;
    let reply = world.service.complete(InferenceRequest::embedding(["sea"]).tenant("acme")).await.unwrap();
    assert_eq!(reply.source, Source::Miss);
    world.at_rest().await;
}

/// Takes its time to keep something.
#[derive(Debug, Default)]
struct Slow(MemoryCache);

#[async_trait]
impl CacheLayer for Slow {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.0.get(key).await
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        sleep(ms(100)).await;
        self.0.set(key, entry).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.0.remove(key).await
    }

    async fn forget_tenant(&self, tenant: &Tenant) -> Result<(), CacheError> {
        self.0.forget_tenant(tenant).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_on_its_way_into_the_cache_is_taken_out_of_it_again() {
    let world = market(|builder| builder.cache(Slow::default()));
    assert_eq!(world.service.complete(ask("price")).await.unwrap().text(), "old");
    sleep(ms(10)).await;
    world.service.invalidate(&ask("price")).await.unwrap();
    sleep(ms(300)).await;
    is_asked_anew(&world).await;
    // The last one is still being kept.
    sleep(secs(1)).await;
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn vectors_on_their_way_into_the_cache_are_taken_out_of_it_again() {
    let slow = |builder: ServiceBuilder| {
        builder.embedding_model(EMBEDDER).price(&route(EMBEDDER), Price::FREE).cache(Slow::default())
    };
    let world = World::with(slow);
    let vector = || InferenceRequest::embedding(["sky"]).tenant("acme");
    let early = world.spawn(vector());
    sleep(ms(50)).await;
    assert_eq!(world.calls(), 1, "it is being kept");
    world.service.invalidate_tenant(&"acme".into()).await.unwrap();
    early.await.unwrap().unwrap();
    settle().await;
    assert_eq!(world.service.complete(vector()).await.unwrap().source, Source::Miss);
    // The last one is still being kept.
    sleep(secs(1)).await;
    world.at_rest().await;
}

/// Misses where it is told to, and takes its time for what it finds and what it forgets.
#[derive(Debug, Default)]
struct Late {
    values: MemoryCache,
    misses: AtomicBool,
}

#[async_trait]
impl CacheLayer for Late {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        if self.misses.swap(false, Ordering::SeqCst) {
            return Ok(None);
        }
        let found = self.values.get(key).await?;
        if found.is_some() {
            sleep(ms(100)).await;
        }
        Ok(found)
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.values.set(key, entry).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        sleep(ms(50)).await;
        self.values.remove(key).await
    }

    async fn forget_tenant(&self, tenant: &Tenant) -> Result<(), CacheError> {
        sleep(ms(50)).await;
        self.values.forget_tenant(tenant).await
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_joins_a_leader_that_found_what_was_then_taken_out() {
    // Scenario: while an answer is being taken out, a call misses, leads, looks again inside its slot and is about to find
    // the old one; the answer is out; the next call comes before the leader has found it.
    // Expected: the next call does not wait for the leader.
    for of_tenant in [false, true] {
        let layer = Arc::new(Late::default());
        let world = market(|builder| builder.cache(Arc::clone(&layer)));
        let price = || ask("price").tenant("acme");
        world.service.complete(price()).await.unwrap();
        settle().await;
        let service = world.service.clone();
        let invalidated = spawn(async move {
            if of_tenant { service.invalidate_tenant(&"acme".into()).await } else { service.invalidate(&price()).await }
        });
        sleep(ms(10)).await;
        layer.misses.store(true, Ordering::SeqCst);
        let leader = world.spawn(price());
        sleep(ms(20)).await;
        assert!(!invalidated.is_finished() && !leader.is_finished());
        invalidated.await.unwrap().unwrap();
        let next = world.service.complete(price()).await.unwrap();
        assert_eq!((next.text(), next.source), ("new", Source::Miss));
        assert_eq!(leader.await.unwrap().unwrap().text(), "old", "it was asked before");
        world.at_rest().await;
    }
}

/// Turns the ranking round while it is told to.
#[derive(Debug)]
struct Turns(CatalogRouter, Arc<AtomicBool>);

#[async_trait]
impl ModelRouter for Turns {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        let ranking = self.0.rank(ask).await?;
        let mut candidates = ranking.candidates.to_vec();
        if self.1.load(Ordering::SeqCst) {
            candidates.reverse();
        }
        Ok(Ranking::new(candidates, ranking.decision))
    }

    fn inner(&self) -> Option<&dyn ModelRouter> {
        Some(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_taken_out_also_while_another_model_is_the_first_choice() {
    let turned = Arc::new(AtomicBool::new(false));
    let router = Turns(CatalogRouter::builtin(), Arc::clone(&turned));
    let world = market(|builder| builder.router(router));
    world.service.complete(ask("price")).await.unwrap();
    turned.store(true, Ordering::SeqCst);
    world.service.invalidate(&ask("price")).await.unwrap();
    turned.store(false, Ordering::SeqCst);
    is_asked_anew(&world).await;
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_taken_out_also_while_its_model_is_down() {
    // Scenario: the first choice goes down, others answer, the answer is invalidated; the first choice comes back.
    // Expected: its old answer does not.
    let world = World::new();
    world.sim.on("price").reply_with(in_turn(&["old", "x", "y", "z"]));
    let model = world.service.complete(ask("price")).await.unwrap().model().clone();
    world.sim.overload(model.as_str());
    for n in 0..30 {
        let _ = world.service.complete(ask(format!("other {n}"))).await;
    }
    world.service.invalidate(&ask("price")).await.unwrap();
    world.sim.restore(model.as_str());
    sleep(secs(30)).await;
    for n in 0..30 {
        let _ = world.service.complete(ask(format!("yet {n}"))).await;
        sleep(secs(1)).await;
    }
    let first = world.service.explain(&ask("price")).await.unwrap().ranked[0].route.clone();
    assert_eq!(*first.model(), model, "it is back");
    assert_ne!(world.service.complete(ask("price")).await.unwrap().text(), "old");
    world.at_rest().await;
}

/// Hangs where it is to forget something.
#[derive(Debug, Default)]
struct NeverForgets(MemoryCache);

#[async_trait]
impl CacheLayer for NeverForgets {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.0.get(key).await
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.0.set(key, entry).await
    }

    async fn remove(&self, _: &CacheKey) -> Result<(), CacheError> {
        std::future::pending().await
    }

    async fn forget_tenant(&self, _: &Tenant) -> Result<(), CacheError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_hangs_is_an_error_of_the_invalidation_in_time() {
    let world = World::with(|builder| builder.cache(NeverForgets::default()));
    let (one, other) = (world.service.clone(), world.service.clone());
    let calls = [
        (secs(2), spawn(async move { one.invalidate(&ask("a")).await })),
        (secs(31), spawn(async move { other.invalidate_tenant(&"acme".into()).await })),
    ];
    let begun = Instant::now();
    for (most, call) in calls {
        let error = tokio::time::timeout(secs(600), call).await.expect("it returns").unwrap().unwrap_err();
        assert!(begun.elapsed() < most, "{:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Policy);
        assert!(error.to_string().contains("took too long"), "{error}");
    }
}
