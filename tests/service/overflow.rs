//! Requests that may wait: answered now or handed over, never both and never neither.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use together_inference::{
    InferenceRequest, async_trait,
    batch::{Deferred, Overflow, OverflowError, Overflowing},
    cache::{CacheEntry, CacheError, CacheLayer},
    inference::CacheKey,
    limit::Limits,
    router::{CatalogRouter, ModelRouter, NoRoute, Override, Ranking, RouteAsk},
    service::{Completion, ErrorKind},
    testing::Fault,
    types::{Rng, SeededRng},
};
use tokio::time::{Instant, sleep};

use crate::world::{LARGE, MID, World, ask, ms, muse, route, secs, spawn};

/// Keeps what it takes, after a while; refuses where it is told to.
#[derive(Clone, Debug, Default)]
struct Later(Arc<Mutex<(Vec<String>, bool, usize)>>);

#[async_trait]
impl Overflow for Later {
    async fn take(&self, request: &InferenceRequest, why: Overflowing) -> Result<Deferred, OverflowError> {
        sleep(ms(10)).await;
        let mut kept = self.0.lock().unwrap();
        kept.2 += 1;
        if kept.1 {
            return Err(OverflowError::new("full"));
        }
        let question = request.as_chat().unwrap().messages[0].text();
        kept.0.push(question.clone());
        Ok(Deferred::new(question, why))
    }
}

impl Later {
    fn taken(&self) -> Vec<String> {
        self.0.lock().unwrap().0.clone()
    }
}

fn world(limits: Limits) -> (World, Later) {
    let later = Later::default();
    (World::with(|builder| builder.overflow(later.clone()).limits(limits)), later)
}

fn patient(question: impl Into<String>) -> InferenceRequest {
    muse(question).model(LARGE).deferrable()
}

fn why(completion: Completion) -> Option<Overflowing> {
    match completion {
        Completion::Deferred(deferred) => Some(deferred.why),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_answered_is_answered() {
    let (world, later) = world(Limits::default());
    assert_eq!(why(world.service.complete_or_defer(patient("hi")).await.unwrap()), None);
    assert!(later.taken().is_empty());
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_hands_over_what_may_wait_and_nothing_else() {
    let (world, later) = world(Limits::default());
    world.sim.fail_share_of(LARGE, 1.0, Fault::status(500));
    assert_eq!(why(world.service.complete_or_defer(patient("a")).await.unwrap()), Some(Overflowing::Outage));
    for request in [patient("b").deadline(secs(60)), muse("c").model(LARGE)] {
        let error = world.service.complete_or_defer(request).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Upstream | ErrorKind::Ejected), "{error}");
    }
    // By now it has been ejected for long: nothing is sent for a request that may wait, but for a probe that is due.
    sleep(secs(31)).await;
    let _ = world.service.complete(muse("d").model(LARGE)).await;
    let calls = world.calls();
    assert_eq!(why(world.service.complete_or_defer(patient("e")).await.unwrap()), Some(Overflowing::Outage));
    assert_eq!((later.taken(), world.calls()), (vec!["a".to_owned(), "e".to_owned()], calls));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_waited_for() {
    // Scenario: the only model is ejected, and well again.
    // Expected: a request that may wait is answered by it, and not handed over for hours.
    let (world, later) = world(Limits::default());
    world.sim.fail_share_of(LARGE, 1.0, Fault::status(500));
    for _ in 0..10 {
        let _ = world.service.complete(muse("a").model(LARGE)).await;
        sleep(ms(100)).await;
    }
    world.sim.heal();
    let (start, calls) = (Instant::now(), world.calls());
    assert_eq!(why(world.service.complete_or_defer(patient("b")).await.unwrap()), None);
    assert!(start.elapsed() <= secs(3) && world.calls() == calls + 1, "{:?}", start.elapsed());
    assert!(later.taken().is_empty());
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_an_operator_took_out_is_not_waited_for() {
    let (world, _) = world(Limits::default());
    world.service.force(&route(LARGE), Some(Override::Eject));
    let start = Instant::now();
    assert_eq!(why(world.service.complete_or_defer(patient("a")).await.unwrap()), Some(Overflowing::Outage));
    assert!(start.elapsed() <= ms(20) && world.calls() == 0);
}

/// A cache that takes its time to find nothing.
#[derive(Debug)]
struct Sluggish;

#[async_trait]
impl CacheLayer for Sluggish {
    async fn get(&self, _: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        sleep(ms(100)).await;
        Ok(None)
    }

    async fn set(&self, _: &CacheKey, _: CacheEntry) -> Result<(), CacheError> {
        Ok(())
    }

    async fn remove(&self, _: &CacheKey) -> Result<(), CacheError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_not_handed_over() {
    // Scenario: an answer that may be shared comes a moment after the two minutes that it is tried for at once, while the
    // task that works for it still has time.
    // Expected: it is waited for, since it is paid for; the overflow does not answer it a second time.
    let later = Later::default();
    let world = World::with(|builder| builder.overflow(later.clone()).cache(Sluggish));
    world.sim.latency(ms(119_900));
    let request = ask("a").model(LARGE).deferrable();
    assert_eq!(why(world.service.complete_or_defer(request).await.unwrap()), None);
    assert_eq!((later.taken().len(), world.calls()), (0, 1));
    world.at_rest().await;
}

/// Whether it was a rehearsal, and the temperature.
type Question = (bool, Option<f64>);

/// Remembers what it is asked.
#[derive(Debug)]
struct Asked(CatalogRouter, Arc<Mutex<Vec<Question>>>);

#[async_trait]
impl ModelRouter for Asked {
    async fn rank(&self, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        let temperature = ask.request.as_chat().and_then(|chat| chat.temperature);
        self.1.lock().unwrap().push((ask.rehearsal, temperature));
        self.0.rank(ask).await
    }

    fn inner(&self) -> Option<&dyn ModelRouter> {
        Some(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_rehearsed_is_what_is_tried() {
    let asked = Arc::default();
    let router = Asked(CatalogRouter::builtin(), Arc::clone(&asked));
    let world = World::with(|builder| builder.overflow(Later::default()).router(router));
    world.service.complete_or_defer(muse("a").deferrable()).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [(true, Some(0.7)), (false, Some(0.7))]);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn the_overflow_is_asked_once_for_a_call() {
    let later = Later::default();
    let world = World::with(|builder| builder.overflow(later.clone()));
    later.0.lock().unwrap().1 = true;
    world.service.force(&route(LARGE), Some(Override::Eject));
    let start = Instant::now();
    let error = world.service.complete_or_defer(patient("a")).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed() < ms(20)), (ErrorKind::Ejected, true));
    assert_eq!(later.0.lock().unwrap().2, 1);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_too_late_hands_over() {
    // Scenario: one call a second goes out, and fifty wait.
    // Expected: who would wait for more than 30 s is handed over at once; who would wait for less is answered.
    let (world, later) = world(Limits::default().requests_per_second(1));
    let waiting: Vec<_> = (0..25).map(|_| world.spawn(muse("w").model(LARGE).deadline(secs(600)))).collect();
    sleep(ms(10)).await;
    assert_eq!(why(world.service.complete_or_defer(patient("soon")).await.unwrap()), None);
    let more: Vec<_> = (0..50).map(|_| world.spawn(muse("w").model(LARGE).deadline(secs(600)))).collect();
    sleep(ms(10)).await;
    let start = Instant::now();
    assert_eq!(why(world.service.complete_or_defer(patient("late")).await.unwrap()), Some(Overflowing::RateLimit));
    assert!(start.elapsed() <= ms(20), "at once: {:?}", start.elapsed());
    assert_eq!(later.taken(), ["late"]);
    for call in waiting.into_iter().chain(more) {
        call.await.unwrap().unwrap();
    }
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_asks_to_wait_too_long_hands_over() {
    let (world, _) = world(Limits::default());
    world.sim.fail_next_of(LARGE, 1, Fault::status(429).retry_after(secs(120)));
    assert_eq!(why(world.service.complete_or_defer(patient("a")).await.unwrap()), Some(Overflowing::RateLimit));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_never_handed_over() {
    let (world, later) = world(Limits::default());
    world.sim.fail_next(10, Fault::status(422));
    for request in [patient("a").temperature(7.0), patient("b")] {
        world.service.complete_or_defer(request).await.unwrap_err();
    }
    assert!(later.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_overflow_that_takes_nothing_leaves_the_error() {
    let (world, later) = world(Limits::default());
    later.0.lock().unwrap().1 = true;
    world.sim.fail_share_of(LARGE, 1.0, Fault::status(500));
    let error = world.service.complete_or_defer(patient("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::Upstream, 3));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_it_is_handed_over_loses_nothing() {
    let (world, later) = world(Limits::default());
    world.sim.fail_next(3, Fault::status(500));
    let call = spawn({
        let service = world.service.clone();
        async move { service.complete_or_defer(patient("a").models([LARGE, MID]).deferrable()).await }
    });
    while world.service.health().in_flight < 2 && !call.is_finished() {
        sleep(ms(1)).await;
    }
    sleep(ms(5)).await;
    call.abort();
    sleep(ms(100)).await;
    assert!(later.taken().len() <= 1);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_each_request_is_answered_or_in_the_overflow_and_never_both() {
    // Scenario: 10,000 requests at ten times the limit, some of them failing, for each of several seeds.
    // Expected: none is lost and none is twice.
    for seed in 0..5 {
        let (world, later) = world(Limits::default().concurrency(200));
        world.sim.limit(LARGE, 20);
        world.sim.latency(ms(200));
        world.sim.fail_share_of(LARGE, 0.05, Fault::status(503));
        let rng = SeededRng::new(seed);
        let mut calls = Vec::new();
        for number in 0..2_000 {
            let service = world.service.clone();
            let request = patient(format!("q{number}"));
            calls.push(spawn(async move { service.complete_or_defer(request).await }));
            sleep(ms(1 + rng.next_u64() % 9)).await;
        }
        let (mut answered, mut deferred) = (HashSet::new(), HashSet::new());
        for (number, call) in calls.into_iter().enumerate() {
            match call.await.unwrap() {
                Ok(Completion::Answered(_)) => assert!(answered.insert(format!("q{number}"))),
                Ok(Completion::Deferred(by)) => assert!(deferred.insert(by.ticket.into_string())),
                Ok(_) => unreachable!(),
                Err(error) => panic!("{number}: {error}"),
            }
        }
        let taken = later.taken();
        let once: HashSet<_> = taken.iter().cloned().collect();
        assert_eq!((taken.len(), &once), (once.len(), &deferred), "each once, and what was said to be");
        assert!(answered.is_disjoint(&deferred) && answered.len() + deferred.len() == 2_000);
        assert!(!deferred.is_empty() && answered.len() > 100, "{} {}", answered.len(), deferred.len());
        world.at_rest().await;
        let _ = route(LARGE);
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_traffic_may_wait_the_end_of_an_outage_is_found() {
    let (world, later) = world(Limits::default());
    world.sim.fail_share_of(LARGE, 1.0, Fault::status(500));
    let mut number = 0;
    let mut ask = async |seconds: u64| {
        let mut answered = 0;
        for _ in 0..seconds * 5 {
            number += 1;
            let reply = world.service.complete_or_defer(patient(number.to_string())).await.unwrap();
            answered += u32::from(why(reply).is_none());
            sleep(ms(200)).await;
        }
        answered
    };
    assert_eq!(ask(10).await, 0);
    world.sim.heal();
    assert!(ask(5).await > 5, "a probe found out");
    let _ = later;
    world.at_rest().await;
}
