//! How requests use the cache: what each may read, what it keeps, how old it may be.

use std::sync::Arc;

use futures_util::future::join_all;
use together_inference::{
    Cost, InferenceRequest, InferenceService, Usd, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer, MemoryCache},
    cost::Ending,
    inference::{Bypass, CacheControl, CacheKey, Origin, Source},
    service::ErrorKind,
    testing::Fault,
};
use tokio::time::advance;

use crate::{
    doubles::{Canned, client},
    world::{LARGE, MID, World, ask, in_turn, ms, muse, secs, settle},
};

const MEMORY: Source = Source::Cache(Origin::Memory);
const STALE: Source = Source::Stale(Origin::Memory);

async fn source(world: &World, request: InferenceRequest) -> Source {
    world.service.complete(request).await.unwrap().source
}

#[tokio::test(start_paused = true)]
async fn a_refresh_asks_anew_and_replaces_what_is_there() {
    let world = World::new();
    world.sim.on("price").reply_with(in_turn(&["old", "new"]));
    world.service.complete(ask("price")).await.unwrap();
    assert_eq!(world.service.complete(ask("price")).await.unwrap().text(), "old");

    let fresh = world.service.complete(ask("price").cache(CacheControl::refresh())).await.unwrap();
    assert_eq!((fresh.text(), fresh.source), ("new", Source::Upstream(Bypass::Asked)));
    settle().await;
    let after = world.service.complete(ask("price")).await.unwrap();
    assert_eq!((after.text(), after.source), ("new", MEMORY));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_only_reads_leaves_nothing_behind() {
    let world = World::new();
    let reads = || ask("why?").cache(CacheControl::read_only());
    assert_eq!(source(&world, reads()).await, Source::Miss);
    settle().await;
    assert_eq!(source(&world, reads()).await, Source::Miss);
    assert_eq!(source(&world, ask("why?")).await, Source::Miss);
    assert_eq!(source(&world, reads()).await, MEMORY);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_the_time_that_its_request_says() {
    let world = World::new();
    let strict = CacheControl::new().ttl(secs(10)).stale_while_revalidate(secs(0));
    world.service.complete(ask("a").cache(strict)).await.unwrap();
    advance(secs(9)).await;
    assert_eq!(source(&world, ask("a").cache(strict)).await, MEMORY);
    advance(secs(2)).await;
    assert_eq!(source(&world, ask("a").cache(strict)).await, Source::Miss);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_older_than_a_request_takes_is_asked_for_anew_also_behind_a_call_under_way() {
    let world = World::new();
    world.service.complete(ask("a")).await.unwrap();
    advance(secs(120)).await;
    let young = || ask("a").cache(CacheControl::new().max_age(secs(60)));
    assert_eq!(source(&world, young()).await, Source::Miss);
    assert_eq!(source(&world, young()).await, MEMORY, "the new one is young enough");
    assert_eq!(world.calls(), 2);

    advance(secs(120)).await;
    let mixed = (0..20).map(|n| world.service.complete(if n % 2 == 0 { ask("a") } else { young() }));
    for (n, reply) in join_all(mixed).await.into_iter().enumerate() {
        let reply = reply.unwrap();
        assert!(n % 2 == 0 || !reply.source.is_cached(), "{n}: {}", reply.source);
    }
    assert_eq!(world.calls(), 3);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn tenants_share_an_answer_only_where_both_say_so() {
    let world = World::new();
    let of = |tenant: &str| ask("what is HTTP?").tenant(tenant);
    let shared = |tenant: &str| of(tenant).cache(CacheControl::new().shared());
    assert_eq!(source(&world, shared("acme")).await, Source::Miss);
    assert_eq!(source(&world, shared("umbrella")).await, MEMORY);
    assert_eq!(source(&world, of("umbrella")).await, Source::Miss);
    assert_eq!(source(&world, of("acme")).await, Source::Miss);
    assert_eq!(source(&world, ask("what is HTTP?")).await, Source::Miss, "nor with those who have no tenant");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_a_little_past_its_time_is_served_at_once_and_renewed_once() {
    // Scenario: an hour's answer, 5 minutes past its time; a thousand ask, while the provider takes a second.
    // Expected: all are served at once, marked as stale, for $0; one call renews it.
    let world = World::new();
    world.sim.latency(secs(1));
    let paid = world.service.complete(ask("a")).await.unwrap();
    advance(secs(3_600 + 300)).await;
    let before = tokio::time::Instant::now();
    let replies = join_all((0..1_000).map(|_| world.service.complete(ask("a")))).await;
    assert!(before.elapsed() < ms(1), "nobody waited");
    for reply in replies {
        let reply = reply.unwrap();
        assert_eq!((reply.source, reply.cost(), reply.saved), (STALE, Cost::Known(Usd::ZERO), paid.cost()));
        assert!(reply.attempts.is_empty());
    }
    settle().await;
    advance(secs(2)).await;
    settle().await;
    assert_eq!(world.calls(), 2);
    assert_eq!(source(&world, ask("a")).await, MEMORY);

    let records = world.at_rest().await;
    let stale: Vec<_> = records.iter().filter(|record| record.ending == Ending::Stale).collect();
    assert_eq!(stale.len(), 1_000);
    assert!(stale.iter().all(|record| record.cost == Cost::Known(Usd::ZERO) && record.saved == paid.cost()));
    assert_eq!(records.iter().filter(|record| record.ending == Ending::Answered).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn long_past_its_time_an_answer_is_asked_for_anew() {
    let world = World::new();
    world.service.complete(ask("a")).await.unwrap();
    advance(secs(3_600 + 361)).await;
    assert_eq!(source(&world, ask("a")).await, Source::Miss);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_an_old_answer_stands_in_where_the_request_takes_it() {
    let world = World::new();
    let patient = || ask("a").cache(CacheControl::new().stale_if_error(secs(7_200)));
    world.service.complete(patient()).await.unwrap();
    advance(secs(3_600 + 7_000)).await;
    world.sim.fail_next(1_000, Fault::status(500));
    assert_eq!(world.service.complete(ask("a")).await.unwrap_err().kind(), ErrorKind::Upstream, "nobody asked for it");
    let reply = world.service.complete(patient()).await.unwrap();
    assert_eq!((reply.source, reply.cost()), (STALE, Cost::Known(Usd::ZERO)));

    let mut stream = world.service.stream(patient()).await.unwrap();
    let mut text = String::new();
    while let Some(delta) = stream.next().await {
        text.push_str(delta.unwrap().text());
    }
    assert_eq!(text, reply.text(), "a stream too");

    advance(secs(300)).await;
    assert!(world.service.complete(patient()).await.is_err(), "longer than it takes");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_never_hides_what_the_caller_must_change() {
    let world = World::new();
    let patient = || ask("a").cache(CacheControl::new().stale_if_error(secs(7_200)));
    world.service.complete(patient()).await.unwrap();
    advance(secs(5_000)).await;
    world.sim.fail_next(1_000, Fault::status(400));
    assert_eq!(world.service.complete(patient()).await.unwrap_err().kind(), ErrorKind::Refused);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn the_policy_decides_for_requests_that_do_not_say() {
    let world = World::with(|builder| {
        builder.cache_policy(|request| match request.tenant_of() {
            Some(tenant) if tenant.as_str() == "private" => Some(CacheControl::off()),
            Some(tenant) if tenant.as_str() == "broken" => panic!("a policy of one's own"),
            Some(_) => Some(CacheControl::new().stochastic()),
            None => None,
        })
    });
    let of = |tenant: &str| ask("a").tenant(tenant);
    for _ in 0..2 {
        assert_eq!(source(&world, of("private")).await, Source::Upstream(Bypass::Asked));
        assert_eq!(source(&world, of("broken")).await, Source::Upstream(Bypass::Asked));
    }
    assert_eq!(source(&world, muse("b").tenant("acme")).await, Source::Miss);
    assert_eq!(source(&world, muse("b").tenant("acme")).await, MEMORY);
    assert_eq!(source(&world, muse("b").tenant("acme").allow_cached(false)).await, Source::Upstream(Bypass::Asked));
    assert_eq!(source(&world, muse("b")).await, Source::Upstream(Bypass::Stochastic));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_control_that_cannot_be_is_refused() {
    let world = World::new();
    for control in [
        CacheControl::new().ttl(secs(0)),
        CacheControl::new().stale_if_error(secs(86_401)),
        CacheControl::new().stale_while_revalidate(secs(86_401)),
    ] {
        let error = world.service.complete(ask("a").cache(control)).await.unwrap_err();
        assert_eq!(error.invalid().unwrap().field, "cache");
    }
    assert_eq!(world.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_only_reads_an_old_answer_pays_for_no_renewal() {
    let world = World::new();
    world.service.complete(ask("a")).await.unwrap();
    advance(secs(3_700)).await;
    for _ in 0..10 {
        assert_eq!(source(&world, ask("a").cache(CacheControl::read_only())).await, STALE);
        settle().await;
    }
    assert_eq!(world.calls(), 1);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_its_answer_keeps_it_also_after_one_that_only_reads() {
    // Scenario: an answer a little past its time is served to one that only reads; meanwhile one comes that takes no old
    // answer and keeps its own.
    // Expected: what that one gets is there for the next.
    let world = World::new();
    world.sim.latency(secs(1));
    world.service.complete(ask("a")).await.unwrap();
    advance(secs(3_700)).await;
    assert_eq!(source(&world, ask("a").cache(CacheControl::read_only())).await, STALE);
    let young = || ask("a").cache(CacheControl::new().max_age(secs(60)));
    world.service.complete(young()).await.unwrap();
    settle().await;
    assert_eq!(source(&world, young()).await, MEMORY);
    assert_eq!(world.calls(), 2);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_goes_on_without_its_caller_and_its_answer_is_kept() {
    let world = World::new();
    world.sim.latency(secs(1));
    let call = world.spawn(ask("a").cache(CacheControl::refresh()));
    tokio::time::sleep(ms(500)).await;
    call.abort();
    assert!(call.await.is_err());
    tokio::time::sleep(secs(2)).await;
    assert_eq!((source(&world, ask("a")).await, world.calls()), (MEMORY, 1));
    let records = world.at_rest().await;
    assert!(records.iter().all(|record| matches!(record.ending, Ending::Answered | Ending::Hit)), "{records:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fallbacks_answer_is_not_served_after_its_minute_while_the_first_choice_is_well() {
    let world = World::new();
    let control = CacheControl::new().stale_if_error(secs(7_200)).stale_while_revalidate(secs(3_600));
    let request = || ask("why?").models([LARGE, MID]).cache(control);
    world.sim.overload(LARGE);
    assert_eq!(world.service.complete(request()).await.unwrap().model().as_str(), MID);
    settle().await;
    advance(secs(1_700)).await;
    let reply = world.service.complete(request()).await.unwrap();
    assert!(!reply.source.is_cached(), "{}: a first choice that is down is asked by way of its fallback", reply.source);
    settle().await;

    world.sim.restore(LARGE);
    advance(secs(1_800)).await;
    let reply = world.service.complete(request()).await.unwrap();
    assert_eq!((reply.model().as_str(), reply.source), (LARGE, Source::Miss));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallbacks_old_answer_stands_in_where_no_other_can_be_had() {
    let world = World::new();
    let request = || ask("why?").models([LARGE, MID]).cache(CacheControl::new().stale_if_error(secs(7_200)));
    world.sim.overload(LARGE);
    world.service.complete(request()).await.unwrap();
    settle().await;
    advance(secs(1_800)).await;
    world.sim.fail_next(1_000, Fault::status(500));
    assert_eq!(source(&world, request()).await, STALE);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn never_means_never_also_at_the_very_end_of_an_answers_time() {
    let world = World::new();
    let strict = CacheControl::new().ttl(secs(10)).stale_while_revalidate(secs(0));
    world.service.complete(ask("a").cache(strict.stale_if_error(secs(60)))).await.unwrap();
    settle().await;
    advance(secs(10)).await;
    assert_eq!(source(&world, ask("a").cache(strict.stale_if_error(secs(60)))).await, Source::Miss);
    settle().await;
    advance(secs(10)).await;
    world.sim.fail_next(1_000, Fault::status(500));
    assert!(world.service.complete(ask("a").cache(strict)).await.is_err(), "nothing stands in either");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn fewer_answers_than_were_asked_for_are_not_kept_as_all_of_them() {
    let canned = Canned::completion("one", "stop");
    let service = InferenceService::builder(client(canned)).build().unwrap();
    for _ in 0..2 {
        let reply = service.complete(ask("a").n(3)).await.unwrap();
        assert_eq!((reply.choices().len(), reply.source), (1, Source::Miss));
        settle().await;
    }
}

/// Writes behind the calls.
#[derive(Debug, Default)]
struct Behind {
    kept: MemoryCache,
    waiting: std::sync::Mutex<Vec<(CacheKey, CacheEntry)>>,
}

#[async_trait]
impl CacheLayer for Behind {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.kept.get(key).await
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.waiting.lock().unwrap().push((*key, entry));
        Ok(())
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.kept.remove(key).await
    }

    async fn flush(&self) -> Result<(), CacheError> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        self.kept.set_many(waiting).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_a_cache_write_what_it_has_behind_the_calls() {
    let cache = Arc::new(Behind::default());
    let world = World::with(|builder| builder.cache(Arc::clone(&cache)));
    world.service.complete(ask("a")).await.unwrap();
    settle().await;
    assert_eq!(cache.waiting.lock().unwrap().len(), 1);
    world.service.shutdown(secs(5)).await;
    assert!(cache.waiting.lock().unwrap().is_empty());
    world.at_rest().await;
}
