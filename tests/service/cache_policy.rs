//! What is cached, for whom, how long, and what a broken layer costs.

use std::{collections::HashSet, sync::atomic::Ordering};

use together_inference::{
    InferenceService,
    cache::MemoryCache,
    inference::{CacheControl, Origin, Source},
    router::Override,
    service::ErrorKind,
    testing::Fault,
};
use tokio::time::{Instant, advance};

use crate::{
    doubles::{BrokenCache, Canned, Fails, client},
    world::{LARGE, MID, World, ask, ms, muse, route, secs},
};

#[tokio::test(start_paused = true)]
async fn random_answers_are_cached_only_where_the_request_opts_in() {
    let world = World::new();
    for _ in 0..2 {
        assert!(world.service.complete(muse("why?")).await.unwrap().source().is_upstream());
        let seeded = world.service.complete(muse("why?").temperature(0.3).seed(7)).await.unwrap();
        assert!(seeded.source().is_upstream(), "a seed is no opt-in");
    }
    assert_eq!(world.calls(), 4);
    let opted_in = || muse("why?").allow_cached(true);
    assert_eq!(world.service.complete(opted_in()).await.unwrap().source(), Source::Miss);
    assert_eq!(world.service.complete(opted_in()).await.unwrap().source(), Source::Cache(Origin::Memory));
    assert_eq!(world.calls(), 5);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_opts_out_neither_reads_nor_writes() {
    let world = World::new();
    let opted_out = || ask("why?").allow_cached(false);
    world.service.complete(opted_out()).await.unwrap();
    assert_eq!(world.service.complete(ask("why?")).await.unwrap().source(), Source::Miss, "it did not write");
    assert!(world.service.complete(opted_out()).await.unwrap().source().is_upstream(), "it does not read");
    assert_eq!(world.service.complete(ask("why?")).await.unwrap().source(), Source::Cache(Origin::Memory));
    assert_eq!(world.calls(), 3);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_whole_are_never_stored() {
    // An answer that ended by an error is a failure, and is asked for again: three attempts a call.
    for (text, finish, calls) in [
        ("cut sho", "length", 2),
        ("", "stop", 2),
        ("I can", "content_filter", 2),
        ("half of it", "error", 6),
        ("who knows", "a_reason_of_tomorrow", 2),
    ] {
        let canned = Canned::completion(text, finish);
        let service = InferenceService::builder(client(canned.clone())).build().unwrap();
        service.force(&route(LARGE), Some(Override::Admit));
        for _ in 0..2 {
            let _ = service.complete(ask("why?").model(LARGE)).await;
        }
        assert_eq!(canned.calls.load(Ordering::SeqCst), calls, "{text:?} {finish}");
    }
    let whole = Canned::completion("all of it", "stop");
    let service = InferenceService::builder(client(whole.clone())).build().unwrap();
    for _ in 0..2 {
        service.complete(ask("why?").model(LARGE)).await.unwrap();
    }
    assert_eq!(whole.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn errors_are_never_stored_those_inside_a_success_included() {
    for fault in [Fault::error_in_ok(), Fault::empty_choices(), Fault::null(), Fault::garbage(), Fault::status(422)] {
        let world = World::new();
        world.sim.fail_next(3, fault.clone());
        world.service.complete(ask("why?").model(LARGE)).await.unwrap_err();
        world.sim.heal();
        let reply = world.service.complete(ask("why?").model(LARGE)).await.unwrap();
        assert_eq!(reply.source(), Source::Miss, "{fault:?}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_an_hour_and_no_longer() {
    // Scenario: the same question one second before and exactly at the end of the hour, by a request that takes nothing
    // past its time.
    // Expected: a hit, then a second call.
    let world = World::new();
    let strict = || ask("why?").cache(CacheControl::new().stale_while_revalidate(secs(0)));
    world.service.complete(strict()).await.unwrap();
    advance(secs(3_599)).await;
    assert_eq!(world.service.complete(strict()).await.unwrap().source(), Source::Cache(Origin::Memory));
    advance(secs(1)).await;
    assert_eq!(world.service.complete(strict()).await.unwrap().source(), Source::Miss);
    assert_eq!(world.calls(), 2);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallbacks_answer_stands_in_for_a_minute() {
    // Scenario: the first choice is overloaded, the second answers; the first choice is back at once.
    // Expected: the second one's answer is served for 60 s under the first one's key, then the first is asked.
    let world = World::new();
    world.sim.overload(LARGE);
    let request = || ask("why?").models([LARGE, MID]);
    let reply = world.service.complete(request()).await.unwrap();
    assert!(reply.fell_back() && reply.model().as_str() == MID);
    world.sim.restore(LARGE);
    advance(secs(59)).await;
    let hit = world.service.complete(request()).await.unwrap();
    assert_eq!((hit.source(), hit.model().as_str()), (Source::Cache(Origin::Memory), MID));
    let own = world.service.complete(ask("why?").model(MID)).await.unwrap();
    assert_eq!(own.source(), Source::Miss, "under its own key there is nothing");
    advance(secs(1)).await;
    let fresh = world.service.complete(request()).await.unwrap();
    assert_eq!((fresh.source(), fresh.model().as_str()), (Source::Miss, LARGE));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallbacks_answer_is_not_for_those_who_allow_none() {
    // Scenario: a question to any model falls back from the first choice; others ask the same of the first choice alone,
    // or within a list, at the same time and afterwards.
    // Expected: nobody gets the answer of a model that they do not allow, nor the error of a call that allows fewer.
    let world = World::new();
    world.sim.latency(ms(100));
    let first = world.service.explain(&ask("why?")).await.unwrap().ranked[0].route.model().as_str().to_owned();
    world.sim.overload(&first);
    let any = world.spawn(ask("why?"));
    let pinned = world.spawn(ask("why?").model(first.as_str()).deadline(secs(20)));
    let listed = world.spawn(ask("why?").models([first.as_str(), LARGE]));
    assert!(any.await.unwrap().unwrap().fell_back());
    assert_eq!(pinned.await.unwrap().unwrap_err().kind(), ErrorKind::Upstream);
    assert_eq!(listed.await.unwrap().unwrap().model().as_str(), LARGE);
    world.sim.restore(&first);
    // It had failed too often: a probe finds out that it is back.
    tokio::time::sleep(secs(3)).await;
    let pinned = world.service.complete(ask("why?").model(first.as_str())).await.unwrap();
    assert_eq!((pinned.source(), pinned.model().as_str()), (Source::Miss, first.as_str()));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_questions_stays_within_the_bound() {
    const BOUND: u64 = 1 << 20;
    let cache = MemoryCache::new(BOUND);
    let world = World::with(|builder| builder.cache(cache.clone()));
    world.sim.on("").reply("word ".repeat(200));
    for question in 0..3_000 {
        world.service.complete(ask(question.to_string())).await.unwrap();
        if question % 100 == 99 {
            let weight = cache.weight().await;
            assert!(weight <= BOUND + BOUND / 10, "{weight} after {question}");
        }
    }
    assert!(cache.weight().await > BOUND / 2, "the bound is used");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn tenants_never_share_an_answer() {
    let world = World::new();
    world.sim.on("").reply_with(|body| body["messages"].to_string());
    let tenants = ["a", "a:b", "a:b:c", "b", "A", "a ", "a\0", "none", "ä"];
    let questions = ["b:c", "c", "b", ":c", "a", "a:b:c", "\0c"];
    let mut asked = HashSet::new();
    for tenant in std::iter::once(None).chain(tenants.map(Some)) {
        for question in questions {
            let request = match tenant {
                Some(tenant) => ask(question).tenant(tenant),
                None => ask(question),
            };
            assert!(asked.insert((tenant, question)));
            let first = world.service.complete(request.clone()).await.unwrap();
            assert_eq!(first.source(), Source::Miss, "{tenant:?} {question}");
            let again = world.service.complete(request).await.unwrap();
            assert_eq!(
                (again.source(), again.text()),
                (Source::Cache(Origin::Memory), first.text()),
                "{tenant:?} {question}"
            );
        }
    }
    assert_eq!(world.calls(), asked.len() as u64);
    let acme = world.service.for_tenant("a");
    assert_eq!(acme.complete(ask("b:c")).await.unwrap().source(), Source::Cache(Origin::Memory));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_layer_costs_a_miss_and_at_most_a_quarter_of_a_second() {
    // Scenario: a layer that fails, panics or never answers, in both directions; an upstream that takes a second.
    // Expected: every call is answered by the upstream, at most 250 ms later than without a cache.
    for fails in [Fails::Errs, Fails::Panics, Fails::Hangs] {
        let world = World::with(|builder| builder.cache(BrokenCache(fails)));
        world.sim.latency(secs(1));
        for _ in 0..2 {
            let start = Instant::now();
            let reply = world.service.complete(ask("why?")).await.unwrap();
            assert_eq!(reply.source(), Source::Miss);
            let took = start.elapsed();
            assert!(took <= ms(1_250), "{fails:?}: {took:?}");
            tokio::time::sleep(secs(1)).await;
        }
        assert_eq!(world.calls(), 2, "{fails:?}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_hangs_does_not_hold_a_call_over_its_deadline() {
    // Scenario: a layer that never answers, and a caller that waits 100 ms.
    // Expected: the caller hears of it at its deadline, and no attempt starts after it.
    let world = World::with(|builder| builder.cache(BrokenCache(Fails::Hangs)));
    let start = Instant::now();
    let error = world.service.complete(ask("why?").deadline(ms(100))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(start.elapsed() <= ms(105), "{:?}", start.elapsed());
    tokio::time::sleep(secs(2)).await;
    assert_eq!(world.calls(), 0);
    world.at_rest().await;
}
