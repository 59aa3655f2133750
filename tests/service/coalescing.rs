//! Identical requests in flight share one upstream call.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use together_inference::{
    Cost, InferenceService, Usd, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer, MemoryCache},
    cost::Ending,
    inference::{CacheKey, Origin, Source},
    service::ErrorKind,
    testing::{Fault, Together},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    doubles::{PanicsAtTimes, client},
    world::{LARGE, MID, World, ask, ms, secs, spawn},
};

#[tokio::test(start_paused = true)]
async fn a_thousand_identical_requests_are_one_upstream_call_and_one_answer() {
    // Scenario: 1,000 identical requests at temperature 0 at the same time, an upstream that takes a second.
    // Expected: one upstream call, one payer, and everybody holds the same answer.
    let world = World::new();
    world.sim.latency(secs(1));
    let calls: Vec<_> = (0..1_000).map(|_| world.spawn(ask("why?"))).collect();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.unwrap().unwrap());
    }
    assert_eq!(world.calls(), 1);
    assert!(replies.iter().all(|reply| Arc::ptr_eq(&reply.answer, &replies[0].answer)));
    let paid: Vec<_> = replies.iter().filter(|reply| reply.source() == Source::Miss).collect();
    assert_eq!(paid.len(), 1);
    assert_eq!(paid[0].cost().known().unwrap().nanos(), world.sim.bill().nano_usd);
    for free in replies.iter().filter(|reply| reply.source() != Source::Miss) {
        assert_eq!((free.source(), free.cost().charge().nanos()), (Source::Coalesced, 0));
        assert_eq!(free.saved, paid[0].cost());
    }
    let records = world.at_rest().await;
    assert_eq!(records.iter().filter(|record| record.ending == Ending::Answered).count(), 1);
    assert_eq!(records.iter().filter(|record| record.ending == Ending::Follower).count(), 999);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_does_not_cancel_its_followers() {
    // Scenario: 1,000 identical requests; the caller that came first goes away, at each of 50 moments of the call.
    // Expected: still one upstream call, and the other 999 are answered.
    for point in 0..50 {
        let world = World::new();
        world.sim.latency(secs(1));
        let calls: Vec<_> = (0..1_000).map(|_| world.spawn(ask("why?"))).collect();
        if point == 0 {
            tokio::task::yield_now().await;
        } else {
            sleep(ms(20 * point)).await;
        }
        calls[0].abort();
        let mut answered = 0;
        for call in calls {
            answered += usize::from(matches!(call.await, Ok(Ok(_))));
        }
        assert_eq!(world.calls(), 1, "point {point}");
        assert!(answered >= 999, "point {point}: {answered}");
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_do_not_wait_long_enough_pay_once_together() {
    // Scenario: 200 callers over 4 s, each with a deadline of 200 ms, an upstream that takes a second.
    // Expected: one paid call; those after it are answered from the cache.
    let world = World::new();
    world.sim.latency(secs(1));
    let mut calls = Vec::new();
    for _ in 0..200 {
        calls.push(world.spawn(ask("why?").deadline(ms(200))));
        sleep(ms(20)).await;
    }
    let (mut answered, mut late) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
                late += 1;
            }
        }
    }
    assert_eq!((world.calls(), answered + late), (1, 200));
    assert!(answered >= 150, "{answered}");
    assert_eq!(world.service.complete(ask("why?")).await.unwrap().source(), Source::Cache(Origin::Memory));
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_questions_leave_nothing_behind() {
    // Scenario: 10,000 questions (the benchmark asks 100,000), a thousand at a time, each asked by two callers at once.
    // Expected: each is paid once and answered twice, and no slot is left.
    let world = World::new();
    for wave in 0..10 {
        let pair = |n: u32| (0..2).map(move |_| ask((wave * 1_000 + n).to_string()).model(MID));
        let calls = (0..1_000).flat_map(pair).map(|request| world.service.complete(request));
        for reply in join_all(calls).await {
            reply.unwrap();
        }
        assert_eq!(world.calls(), u64::from(wave + 1) * 1_000);
    }
    let records = world.at_rest().await;
    assert_eq!(records.iter().filter(|record| record.ending == Ending::Answered).count(), 10_000);
    assert_eq!(records.len(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_leaders_error_goes_to_its_followers_once_and_is_not_kept() {
    // Scenario: 100 identical requests for one model that fails with 500; then it is well again.
    // Expected: at most three attempts for all of them, one error for each, and the next call is answered.
    let world = World::new();
    world.sim.latency(ms(100));
    world.sim.fail_next(100, Fault::status(500));
    let calls: Vec<_> = (0..100).map(|_| world.spawn(ask("why?").model(LARGE))).collect();
    let mut errors = Vec::new();
    for call in calls {
        errors.push(call.await.unwrap().unwrap_err());
    }
    for error in &errors {
        assert_eq!(error.kind(), ErrorKind::Upstream, "{error}");
        assert!(error.is_retryable() && error.client_error().unwrap().status() == Some(500), "the evidence is there");
    }
    let (leaders, followers): (Vec<_>, Vec<_>) = errors.iter().partition(|error| !error.attempts().is_empty());
    assert_eq!((leaders.len(), leaders[0].attempts().len() as u64), (1, world.calls()), "made and paid once");
    for error in &followers {
        assert_eq!(error.cost(), Cost::Known(Usd::ZERO));
        assert!(error.to_string().contains("the call that this one had joined failed"), "{error}");
    }
    let ids: HashSet<_> = errors.iter().map(|error| error.trace().id.unwrap().to_string()).collect();
    assert_eq!(ids.len(), 100, "each has a trace of its own");
    assert!(world.calls() <= 3, "{}", world.calls());
    world.sim.heal();
    assert_eq!(world.service.complete(ask("why?").model(LARGE)).await.unwrap().source(), Source::Miss);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_leader_leaves_an_error_and_no_slot() {
    // Scenario: the transport panics under the leader of 50 requests; then it is well again.
    // Expected: an error for each within the time of the call, no slot left, and the next call is answered.
    let (sim, panics) = (Together::new(), Arc::new(AtomicBool::new(true)));
    let transport = PanicsAtTimes { sim: sim.clone(), panics: Arc::clone(&panics) };
    let service = InferenceService::builder(client(transport)).build().unwrap();
    let start = Instant::now();
    let calls: Vec<_> = (0..50).map(|_| spawn(service.complete(ask("why?")))).collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Policy | ErrorKind::LeaderFailed), "{error}");
    }
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    tokio::task::yield_now().await;
    assert_eq!((service.health().coalescing, service.health().in_flight), (0, 0));
    assert_eq!(service.costs().attempts, 1);
    panics.store(false, Ordering::SeqCst);
    service.complete(ask("why?")).await.unwrap();
    assert_eq!(sim.calls(), 1);
}

/// Lets one look-up wait with its (by then outdated) miss until it is released.
#[derive(Clone, Debug, Default)]
struct Parking {
    cache: MemoryCache,
    parks_next: Arc<AtomicBool>,
    release: Arc<Notify>,
}

#[async_trait]
impl CacheLayer for Parking {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let found = self.cache.get(key).await;
        if self.parks_next.swap(false, Ordering::SeqCst) {
            self.release.notified().await;
        }
        found
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.cache.set(key, entry).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.cache.remove(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_miss_does_not_pay_again() {
    // Scenario: a newcomer looks the answer up while the call is under way, misses, and comes to the slots only when the
    // leader has filled the cache and gone.
    // Expected: it leads, looks up again, and pays nothing.
    let cache = Parking::default();
    let world = World::with(|builder| builder.cache(cache.clone()));
    world.sim.latency(ms(100));
    let first = world.spawn(ask("why?"));
    sleep(ms(10)).await;
    cache.parks_next.store(true, Ordering::SeqCst);
    let newcomer = world.spawn(ask("why?"));
    let first = first.await.unwrap().unwrap();
    while world.service.health().coalescing > 0 {
        tokio::task::yield_now().await;
    }
    cache.release.notify_one();
    let newcomer = newcomer.await.unwrap().unwrap();
    assert_eq!((first.source(), newcomer.source()), (Source::Miss, Source::Cache(Origin::Memory)));
    assert_eq!(world.calls(), 1);
    world.at_rest().await;
}

/// On real threads: the races are between workers, and nothing waits for time.
#[test]
fn each_question_is_paid_once_whatever_the_threads_do() {
    const QUESTIONS: u64 = 3_000;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(8).enable_time().build().unwrap();
    for run in 0..20 {
        let sim = Together::new();
        let service = InferenceService::builder(sim.client()).build().unwrap();
        runtime.block_on(async {
            let callers: Vec<_> = (0..16)
                .map(|_| {
                    let service = service.clone();
                    spawn(async move {
                        for question in 0..QUESTIONS {
                            // Pinned, since machines under load make models look slow, and another first choice
                            // is another question.
                            service.complete(ask(question.to_string()).model(MID)).await.unwrap();
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
            assert_eq!(service.shutdown(Duration::from_secs(5)).await.cancelled, 0);
        });
        assert_eq!((sim.calls(), sim.bill().calls), (QUESTIONS, QUESTIONS), "run {run}");
    }
}
