//! How often, where and until when a call is tried.

use std::{sync::Arc, time::Duration};

use together_inference::{
    InferenceRequest, InferenceService, Usd, async_trait,
    client::ErrorKind as Wire,
    cost::{CostRecord, CostSink, SinkError},
    limit::Limits,
    router::Override,
    service::{Error, ErrorKind},
    testing::{Fault, Together},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::world::{LARGE, MID, SMALL, World, ask, ms, muse, route, secs};

fn everything() -> [Fault; 12] {
    [
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::status(408),
        Fault::status(429),
        Fault::status(524),
        Fault::refuse(),
        Fault::disconnect(),
        Fault::garbage(),
        Fault::error_in_ok(),
        Fault::empty_choices(),
        Fault::null(),
    ]
}

async fn fails(world: &World, request: InferenceRequest, streams: bool) -> Error {
    if streams {
        world.service.stream(request).await.unwrap_err()
    } else {
        world.service.complete(request).await.unwrap_err()
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_at_most_three_attempts_whatever_fails() {
    // Scenario: every model fails in every way, for a pinned one, three, six and any; whole and streamed, cached or not.
    // Expected: at most three upstream calls, all of them on the error, each with its record unless nothing was sent.
    for fault in everything() {
        for number in 0..16 {
            let world = World::new();
            world.sim.fail_next(100, fault.clone());
            let request = if number % 2 == 0 { ask("why?") } else { muse("why?") };
            let request = match number / 4 {
                0 => request.model(LARGE),
                1 => request.models([LARGE, MID, SMALL]),
                2 => request.models([LARGE, MID, SMALL, "Qwen/Qwen3.7-Max", "Qwen/Qwen3.7-Plus", "Qwen/Qwen3.5-9B"]),
                _ => request,
            };
            let error = fails(&world, request, number % 4 > 1).await;
            assert!((1..=3).contains(&world.calls()), "{fault:?} {number}: {}", world.calls());
            assert_eq!(error.attempts().len() as u64, world.calls(), "{fault:?} {number}: {error}");
            let records = world.at_rest().await;
            let connected = error.attempts().iter().filter(|attempt| attempt.error != Some(Wire::Connect)).count();
            assert_eq!(records.len(), connected, "{fault:?} {number}");
            let recorded: Usd = records.iter().map(|record| record.cost.charge()).sum();
            assert_eq!(error.cost().charge(), recorded);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_model_is_replaced_in_the_same_call() {
    for fault in [Fault::status(500), Fault::status(503), Fault::error_in_ok(), Fault::null(), Fault::refuse()] {
        for streams in [false, true] {
            let world = World::new();
            world.sim.fail_next_of(LARGE, 1, fault.clone());
            let (request, start) = (ask("why?").models([LARGE, MID]), Instant::now());
            let reply = if streams {
                world.service.stream(request).await.unwrap().finish().await.unwrap()
            } else {
                world.service.complete(request).await.unwrap()
            };
            assert_eq!(start.elapsed(), Duration::ZERO, "at once");
            assert_eq!((reply.asked.model().as_str(), reply.model().as_str(), reply.fell_back()), (LARGE, MID, true));
            assert_eq!(reply.attempts.len(), 2);
            assert!(reply.attempts[0].error.is_some() && reply.attempts[1].error.is_none());
            assert_eq!(reply.attempts[1].cost.known().unwrap().nanos(), world.sim.bill().nano_usd);
            world.at_rest().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_available_is_passed_over_unless_it_is_pinned() {
    for remove in [false, true] {
        let world = World::new();
        if remove {
            world.sim.remove_model(LARGE);
        } else {
            world.sim.unavailable(LARGE);
        }
        let reply = world.service.complete(muse("why?").models([LARGE, MID])).await.unwrap();
        assert_eq!((reply.model().as_str(), world.calls()), (MID, 2));
        let error = world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts().len(), world.calls()), (ErrorKind::Refused, 1, 3));
        assert_eq!(error.client_error().unwrap().kind(), Wire::ModelNotAvailable);
        world.at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_must_change_is_tried_once() {
    let context = Fault::status(403).message("Input validation error: `inputs` tokens + `max_new_tokens` must be < 5");
    for (fault, kind) in [
        (Fault::status(401), ErrorKind::UpstreamAuthentication),
        (Fault::status(402), ErrorKind::UpstreamPayment),
        (context, ErrorKind::Refused),
        (Fault::status(404), ErrorKind::Refused),
        (Fault::status(422), ErrorKind::Refused),
    ] {
        for streams in [false, true] {
            let world = World::new();
            world.sim.fail_next(5, fault.clone());
            let error = fails(&world, muse("why?").model(LARGE), streams).await;
            assert_eq!((error.kind(), error.attempts().len(), world.calls()), (kind, 1, 1), "{error}");
            sleep(secs(1)).await;
            let records = world.at_rest().await;
            assert_eq!((records.len(), records[0].cost.charge()), (1, Usd::ZERO));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_waits_as_long_as_the_provider_asks() {
    // Scenario: 429 with a hint of 2.5 s, in each of the headers that carry it; and one with a hint of two minutes.
    // Expected: the second attempt starts after the hint and at most a tenth more; two minutes are not waited for.
    let hint = ms(2_500);
    for fault in [Fault::status(429).retry_after_ms(hint), Fault::status(429).rate_limit_reset(hint)] {
        let (world, start) = (World::new(), Instant::now());
        world.sim.fail_next(1, fault);
        let reply = world.service.complete(muse("why?").model(LARGE)).await.unwrap();
        let took = start.elapsed();
        assert!((hint..=ms(2_751)).contains(&took), "{took:?}");
        assert_eq!((reply.attempts.len(), world.calls()), (2, 2));
        world.at_rest().await;
    }
    let (world, start) = (World::new(), Instant::now());
    world.sim.fail_next(1, Fault::status(429).retry_after(secs(120)));
    let error = world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after(), world.calls()), (ErrorKind::RateLimited, Some(secs(120)), 1));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_after_the_deadline() {
    // Scenario: deadlines from 1 ms to 3 s against a model that fails after 100 ms, and against one that hangs.
    // Expected: the call ends by its deadline, and the last attempt started before it.
    for deadline in [1, 50, 99, 100, 101, 150, 400, 1_000, 3_000].map(ms) {
        for hangs in [false, true] {
            let (world, start) = (World::new(), Instant::now());
            world.sim.latency(ms(100));
            if hangs {
                world.sim.hang();
            } else {
                world.sim.fail_next(10, Fault::status(500));
            }
            let error = world.service.complete(muse("why?").model(LARGE).deadline(deadline)).await.unwrap_err();
            let took = start.elapsed();
            assert!(took <= deadline + ms(2), "{deadline:?}: {took:?}");
            let attempted: Duration = error.attempts().iter().map(|attempt| attempt.took).sum();
            let last = error.attempts().last().unwrap().took;
            assert!(attempted < deadline + last, "{error:?}");
            if hangs {
                assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
            }
            let calls = world.calls();
            sleep(secs(10)).await;
            assert_eq!(world.calls(), calls, "nothing goes on");
            world.at_rest().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_repeat_starts_that_could_not_end_in_time() {
    // Scenario: the models of a call are known to take ten seconds; the first one fails when one second is left.
    // Expected: the caller gets that failure at once, without another attempt; a model of which nothing is known, or that
    // is known to be fast, is tried all the same.
    for streams in [false, true] {
        for (others, answers) in [(vec![], false), (vec![MID], false), (vec![MID, SMALL], true)] {
            let world = World::new();
            world.sim.latency(secs(10));
            for model in [LARGE, MID] {
                for _ in 0..3 {
                    world.service.complete(muse("why?").model(model)).await.unwrap();
                }
            }
            world.sim.latency_of(SMALL, ms(500));
            world.sim.fail_next_of(LARGE, 3, Fault::status(500));
            let (calls, start) = (world.calls(), Instant::now());
            let request = muse("why?").models([vec![LARGE], others].concat()).deadline(secs(11));
            if answers {
                let reply = if streams {
                    world.service.stream(request).await.unwrap().finish().await.unwrap()
                } else {
                    world.service.complete(request).await.unwrap()
                };
                assert_eq!((reply.model().as_str(), reply.attempts.len()), (SMALL, 2));
                world.at_rest().await;
                continue;
            }
            let error = fails(&world, request, streams).await;
            assert_eq!((error.kind(), error.client_error().unwrap().status()), (ErrorKind::Upstream, Some(500)));
            assert_eq!((world.calls() - calls, start.elapsed()), (1, secs(10)), "{error}");
            world.at_rest().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_may_just_end_in_time_starts() {
    // Scenario: answers take two seconds, and the first attempt fails when three are left.
    let world = World::new();
    world.sim.latency(secs(2));
    for _ in 0..3 {
        world.service.complete(muse("why?").model(LARGE)).await.unwrap();
    }
    world.sim.fail_next_of(LARGE, 1, Fault::status(500));
    let reply = world.service.complete(muse("why?").model(LARGE).deadline(secs(5))).await.unwrap();
    assert_eq!(reply.attempts.len(), 2);
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_place_leaves_at_its_deadline() {
    let one = Limits::default().concurrency(1).max_waiting(1);
    let world = World::with(|builder| builder.limits(one));
    world.sim.latency(secs(10));
    let hog = world.spawn(muse("hog").model(LARGE));
    sleep(ms(10)).await;
    let (start, waiter) = (Instant::now(), world.spawn(muse("why?").model(LARGE).deadline(secs(1))));
    sleep(ms(10)).await;
    let refused = world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
    assert_eq!((refused.kind(), start.elapsed()), (ErrorKind::Overloaded, ms(10)));
    let late = waiter.await.unwrap().unwrap_err();
    assert_eq!((late.kind(), late.attempts().len()), (ErrorKind::DeadlineExceeded, 0));
    assert_eq!(start.elapsed().as_secs(), 1);
    hog.await.unwrap().unwrap();
    assert_eq!(world.calls(), 1);
    world.at_rest().await;
}

/// Takes records only when it is let.
#[derive(Debug)]
struct Blocked(Arc<Semaphore>);

#[async_trait]
impl CostSink for Blocked {
    async fn record(&self, _: &[CostRecord]) -> Result<(), SinkError> {
        self.0.acquire().await.map(drop).map_err(SinkError::new)
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_of_records_does_not_let_an_attempt_start_too_late() {
    // Scenario: a sink that takes nothing until the queue is full, and a caller that waits 50 ms.
    // Expected: the caller hears of it, nothing is sent; a patient caller is answered after 100 ms, counted as a gap.
    let (sim, gate) = (Together::new(), Arc::new(Semaphore::new(0)));
    let service = InferenceService::builder(sim.client()).cost_sink(Blocked(Arc::clone(&gate))).build().unwrap();
    while service.health().records_waiting < 4_096 + 256 {
        service.complete(muse("fill").model(LARGE)).await.unwrap();
        // Lets the sink take its first page, at which it then stays; more than a page is not put before it.
        tokio::task::yield_now().await;
    }
    let (calls, start) = (sim.calls(), Instant::now());
    let error = service.complete(muse("why?").model(LARGE).deadline(ms(50))).await.unwrap_err();
    assert_eq!((error.kind(), sim.calls()), (ErrorKind::DeadlineExceeded, calls), "{error}");
    assert_eq!(start.elapsed(), ms(50));
    service.complete(muse("why?").model(LARGE)).await.unwrap();
    assert!(start.elapsed() <= ms(210), "{:?}", start.elapsed());
    assert!(service.health().records_lost >= 1);
    gate.add_permits(1_000);
    assert!(service.flush().await);
}

#[tokio::test(start_paused = true)]
async fn an_empty_retry_budget_returns_the_original_error_at_once() {
    // Scenario: a pinned model that always fails, asked again and again.
    // Expected: ten repeats in all; then every call is one attempt that takes no time.
    let world = World::new();
    world.service.force(&route(LARGE), Some(Override::Admit));
    world.sim.fail_next(1_000, Fault::status(500));
    for _ in 0..20 {
        world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
    }
    assert_eq!(world.calls(), 20 + 10);
    let start = Instant::now();
    let error = world.service.complete(muse("why?").model(LARGE)).await.unwrap_err();
    assert_eq!((error.attempts().len(), error.kind(), start.elapsed()), (1, ErrorKind::Upstream, Duration::ZERO));
    assert_eq!(error.client_error().unwrap().status(), Some(500));
    let health = world.service.health();
    assert!(health.routes[0].retry_budget < 5, "{health:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_success_is_a_failure_that_is_not_cached() {
    let world = World::new();
    world.sim.fail_next_of(LARGE, 1, Fault::error_in_ok());
    let request = || ask("why?").models([LARGE, MID]);
    let reply = world.service.complete(request()).await.unwrap();
    assert_eq!((reply.model().as_str(), reply.attempts[0].error), (MID, Some(Wire::Server)));
    let health = world.service.health();
    let large = health.routes.iter().find(|route| route.route.model().as_str() == LARGE).unwrap();
    assert_eq!((large.failed, large.answered), (1, 0));
    world.at_rest().await;
}
