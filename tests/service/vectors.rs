//! Vectors that are cached far away, asked for by many at once, or past their time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use together_inference::{
    InferenceRequest, Price, Usd, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer, MemoryCache, TieredCache},
    cost::{Budget, Ending, Scope},
    inference::{CacheControl, CacheKey, Origin, Source},
    service::{ErrorKind, ServiceBuilder},
    testing::Fault,
    usd,
};
use tokio::time::{advance, sleep};

use crate::{
    doubles::Quarters,
    world::{World, ms, route, secs, spawn},
};

const E5: &str = "intfloat/multilingual-e5-large-instruct";

fn priced(builder: ServiceBuilder) -> ServiceBuilder {
    builder.price(&route(E5), Price::per_million(usd!("0.02"), Usd::ZERO)).tokenizer(Quarters)
}

fn world() -> World {
    World::with(priced)
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("text number {number}")).collect()
}

fn sky() -> InferenceRequest {
    InferenceRequest::embedding(["the sky"])
}

/// A layer that takes its time for several keys: a millisecond each, and for ever from some look-up on.
#[derive(Debug)]
struct Far {
    kept: MemoryCache,
    look_ups: AtomicUsize,
    hangs_from: usize,
}

impl Far {
    fn hangs_from(look_up: usize) -> Arc<Self> {
        Arc::new(Self { kept: MemoryCache::default(), look_ups: AtomicUsize::new(0), hangs_from: look_up })
    }
}

#[async_trait]
impl CacheLayer for Far {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.kept.get(key).await
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.kept.set(key, entry).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.kept.remove(key).await
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheEntry>>, CacheError> {
        if self.look_ups.fetch_add(1, Ordering::SeqCst) >= self.hangs_from {
            std::future::pending::<()>().await;
        }
        sleep(ms(keys.len() as u64 / 2)).await;
        self.kept.get_many(keys).await
    }
}

/// Scenario: two thousand vectors lie in a layer that reads them in a second.
/// Expected: they are found and nothing is paid, though a look-up has 250 ms.
#[tokio::test(start_paused = true)]
async fn many_vectors_far_away_are_found_page_by_page() {
    let far = Far::hangs_from(usize::MAX);
    let world = World::with(|builder| priced(builder).cache(Arc::clone(&far)));
    world.service.embed(texts(0..2_000)).await.unwrap();
    world.at_rest().await;
    let calls = world.calls();
    let again = world.service.embed(texts(0..2_000)).await.unwrap();
    assert_eq!((again.source, world.calls() - calls), (Source::Cache(Origin::Memory), 0));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_layer_answered_before_it_hung_is_not_paid_again() {
    let far = Far::hangs_from(usize::MAX);
    let first = World::with(|builder| priced(builder).cache(Arc::clone(&far)));
    first.service.embed(texts(0..1_024)).await.unwrap();
    first.at_rest().await;
    let far = Arc::new(Far { kept: far.kept.clone(), look_ups: AtomicUsize::new(0), hangs_from: 2 });
    let world = World::with(|builder| priced(builder).cache(Arc::clone(&far)));
    let begun = tokio::time::Instant::now();
    world.service.embed(texts(0..1_024)).await.unwrap();
    let took = begun.elapsed();
    assert_eq!((world.calls(), far.look_ups.load(Ordering::SeqCst)), (2, 3), "no page after the one that hung");
    assert!(took < secs(1), "{took:?}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn vectors_that_are_near_are_found_while_the_far_layer_hangs() {
    let cache = TieredCache::new(MemoryCache::default(), Far::hangs_from(0));
    let world = World::with(|builder| priced(builder).cache(cache));
    world.service.embed(texts(0..100)).await.unwrap();
    let more = world.service.embed(texts(0..101)).await.unwrap();
    assert_eq!(world.sim.requests()[1].body["input"], serde_json::json!(["text number 100"]));
    assert!(more.saved.known().unwrap() > Usd::ZERO);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_text_that_many_ask_for_at_once_is_paid_once() {
    let world = world();
    world.sim.latency(secs(1));
    let replies = join_all((0..100).map(|_| world.service.complete(sky()))).await;
    let replies: Vec<_> = replies.into_iter().map(Result::unwrap).collect();
    assert_eq!(world.calls(), 1);
    assert!(replies.iter().all(|reply| reply.vectors() == replies[0].vectors()));
    let joined = replies.iter().filter(|reply| reply.source == Source::Coalesced).count();
    assert_eq!(joined, 99);
    let records = world.at_rest().await;
    let followers = records.iter().filter(|record| record.ending == Ending::Follower).count();
    assert_eq!((records.len(), followers), (100, 99));
    let billed: i64 = records.iter().map(|record| record.cost.charge().nanos()).sum();
    assert_eq!(billed, world.sim.bill().nano_usd);
    assert_eq!(replies.iter().map(|reply| reply.cost().charge().nanos()).sum::<i64>(), billed);
}

#[tokio::test(start_paused = true)]
async fn of_sets_that_overlap_each_text_is_paid_once() {
    let world = world();
    world.sim.latency(secs(1));
    let (one, other) = tokio::join!(world.service.embed(texts(0..400)), world.service.embed(texts(200..700)));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.vectors()[200..400], other.vectors()[..200]);
    let mut asked: Vec<String> = Vec::new();
    for request in world.sim.requests() {
        asked.extend(request.body["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()));
    }
    asked.sort_unstable();
    let count = asked.len();
    asked.dedup();
    assert_eq!((count, asked.len()), (700, 700));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_takes_no_vectors_from_the_others() {
    let world = world();
    world.sim.latency(secs(1));
    let first = spawn(world.service.complete(sky()));
    sleep(ms(100)).await;
    let second = spawn(world.service.complete(sky()));
    sleep(ms(100)).await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().source, Source::Coalesced);
    assert_eq!(world.calls(), 1);
    // Nobody is left, and it is kept all the same.
    let alone = spawn(world.service.embed("the sea"));
    sleep(ms(100)).await;
    alone.abort();
    sleep(secs(1)).await;
    assert_eq!(world.service.embed("the sea").await.unwrap().source, Source::Cache(Origin::Memory));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn vectors_under_way_are_neither_joined_nor_kept_once_they_are_invalidated() {
    for of_tenant in [false, true] {
        let world = world();
        world.sim.latency(secs(1));
        let want = || sky().tenant("acme");
        let early = world.spawn(want());
        sleep(ms(100)).await;
        if of_tenant {
            world.service.invalidate_tenant(&"acme".into()).await.unwrap();
        } else {
            world.service.invalidate(&want()).await.unwrap();
        }
        let late = world.spawn(want());
        sleep(ms(100)).await;
        assert_eq!(world.calls(), 2, "not joined");
        late.abort();
        early.await.unwrap().unwrap();
        world.service.invalidate(&want()).await.unwrap();
        sleep(secs(1)).await;
        assert_eq!(world.service.complete(want()).await.unwrap().source, Source::Miss, "not kept");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_each_who_waits_and_paid_by_one() {
    let world = world();
    world.sim.latency(ms(100));
    world.sim.on("the sky").fail(400);
    let errors = join_all((0..10).map(|_| world.service.complete(sky()))).await;
    let errors: Vec<_> = errors.into_iter().map(Result::unwrap_err).collect();
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Refused));
    let attempts: Vec<_> = errors.iter().map(|error| error.attempts().len()).collect();
    assert_eq!((world.calls(), attempts.iter().sum::<usize>()), (1, 1), "{attempts:?}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn only_calls_that_allow_the_same_share_vectors() {
    let world = world();
    world.sim.latency(secs(1));
    let all = [
        sky(),
        sky().tenant("acme"),
        sky().cache(CacheControl::new().max_age(secs(60))),
        sky().model(E5).max_cost(usd!("1")),
        sky().allow_cached(false),
        sky().cache(CacheControl::read_only()),
    ];
    let count = all.len() as u64;
    let replies = join_all(all.map(|request| world.service.complete(request))).await;
    assert!(replies.iter().all(|reply| reply.as_ref().unwrap().source.is_upstream()));
    assert_eq!(world.calls(), count);
    world.at_rest().await;
}

/// Scenario: two sessions share the answers of all tenants; one of them has no money left.
/// Expected: the refusal is for that one alone, whoever came first.
#[tokio::test(start_paused = true)]
async fn another_callers_empty_budget_is_no_answer() {
    let nothing = Budget::total(Usd::ZERO).of(Scope::tenant("poor"));
    let world = World::with(|builder| priced(builder).budget(nothing));
    let shared = |tenant: &str| sky().tenant(tenant).cache(CacheControl::new().shared());
    let (poor, rich) = tokio::join!(world.service.complete(shared("poor")), world.service.complete(shared("rich")));
    assert_eq!(poor.unwrap_err().kind(), ErrorKind::OverBudget);
    assert_eq!(rich.unwrap().source, Source::Miss);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_vectors_past_their_day_are_as_good_as_ever() {
    let world = world();
    let kept = |texts: &[&str]| {
        let control = CacheControl::new().stale_if_error(secs(7_200));
        InferenceRequest::embedding(texts.iter().copied()).cache(control)
    };
    let first = world.service.complete(kept(&["sky", "sea"])).await.unwrap();
    world.at_rest().await;
    advance(secs(86_400 + 60)).await;
    world.sim.fail_next(1_000, Fault::status(500));
    let old = world.service.complete(kept(&["sky", "sea"])).await.unwrap();
    assert_eq!((old.source, old.vectors()), (Source::Stale(Origin::Memory), first.vectors()));
    assert!(old.saved.known().unwrap() > Usd::ZERO && old.cost().charge().is_zero());
    assert!(world.service.complete(kept(&["sky", "sun"])).await.is_err(), "one of them was never asked for");
    assert!(world.service.embed(["sky"]).await.is_err(), "who did not say so gets none");
    let young = kept(&["sky"]).cache(CacheControl::new().stale_if_error(secs(7_200)).max_age(secs(3_600)));
    assert!(world.service.complete(young).await.is_err());
    let records = world.costs.records();
    assert_eq!(records.iter().filter(|record| record.ending == Ending::Stale).count(), 1);
    advance(secs(7_200)).await;
    assert!(world.service.complete(kept(&["sky"])).await.is_err(), "that long is over");
}

#[tokio::test(start_paused = true)]
async fn vectors_are_not_renewed_behind_a_stale_answer() {
    let world = world();
    let error =
        world.service.complete(sky().cache(CacheControl::new().stale_while_revalidate(secs(60)))).await.unwrap_err();
    assert_eq!((error.invalid().unwrap().field, world.calls()), ("cache", 0));
    assert!(error.to_string().contains("vectors do not change"), "{error}");
    let never = sky().cache(CacheControl::new().stale_while_revalidate(secs(0)));
    world.service.complete(never).await.unwrap();
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn more_texts_than_a_call_can_number_are_refused_before_any_is_paid() {
    let world = world();
    let error = world.service.embed(vec!["a".to_owned(); (1 << 18) + 1]).await.unwrap_err();
    assert_eq!((error.invalid().unwrap().field, world.calls()), ("input", 0));
    assert!(error.to_string().contains("262144"), "{error}");
}
