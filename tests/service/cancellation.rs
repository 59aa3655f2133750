//! A call may be dropped anywhere.

use std::sync::Arc;

use together_inference::{
    InferenceRequest, InferenceService,
    cost::{Budget, CostRecord, Ending},
    router::CatalogRouter,
    testing::Fault,
    usd,
};

use crate::{
    doubles::{Remote, SlowCache, SlowIntents, SlowRouter},
    world::{LARGE, MID, SMALL, World, ask, ms, muse, poll_at_most, secs},
};

/// A world whose policies take turns, so that a call has many points to be dropped at.
fn slow_world() -> World {
    let world = World::new();
    let service = InferenceService::builder(world.sim.client())
        .router(SlowRouter(CatalogRouter::builtin()))
        .cache(SlowCache::default())
        .cost_sink(SlowIntents::default())
        .cost_sink(world.costs.clone())
        .budget(Budget::total(usd!("1000000")).soft())
        .budget_store(Remote(Arc::clone(&world.budgets)))
        .build()
        .unwrap();
    world.sim.latency(ms(20));
    world.sim.token_latency(ms(3));
    World { service, ..world }
}

/// What is planned to go wrong in a world.
fn troubled(trouble: usize) -> World {
    let world = slow_world();
    match trouble {
        0 => {}
        1 => world.sim.fail_next(1, Fault::status(503)),
        2 => world.sim.fail_next(1, Fault::disconnect()),
        _ => world.sim.fail_next(3, Fault::status(500)),
    }
    world
}

/// At most one record an attempt, and none where nothing was sent.
async fn check(world: &World, point: usize) -> Vec<CostRecord> {
    tokio::time::sleep(secs(30)).await;
    let records = world.at_rest().await;
    let attempts = records.iter().filter(|record| !matches!(record.ending, Ending::Hit | Ending::Follower)).count();
    let dispatched: u64 = world.service.health().routes.iter().map(|route| route.dispatched).sum();
    assert_eq!(attempts as u64, dispatched, "point {point}");
    assert!(dispatched >= world.calls(), "point {point}");
    records
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_point_settles_once_and_leaves_nothing() {
    // Scenario: a call that is polled k times and dropped, for each k until it ends by itself; cached and not, pinned and
    // not, with and without failures on its way.
    // Expected: one record for each attempt that was dispatched, none if none was; nothing left behind.
    let mut points = 0;
    for trouble in 0..4 {
        for cacheable in [false, true] {
            for pinned in [false, true] {
                let request = if cacheable { ask("why?") } else { muse("why?") };
                let request = if pinned { request.model(LARGE) } else { request.models([LARGE, MID, SMALL]) };
                for point in 0.. {
                    let world = troubled(trouble);
                    let ended = poll_at_most(point, world.service.complete(request.clone())).await.is_some();
                    check(&world, point).await;
                    points += 1;
                    if ended {
                        break;
                    }
                }
            }
        }
    }
    println!("dropped at {points} points");
    assert!(points > 100, "{points}");
}

#[tokio::test(start_paused = true)]
async fn an_uncached_call_that_is_dropped_stops_its_upstream_call() {
    let world = slow_world();
    let call = world.service.complete(muse("why?"));
    assert!(tokio::time::timeout(ms(10), call).await.is_err());
    assert_eq!((world.sim.in_flight(), world.calls()), (0, 1));
    let records = check(&world, 0).await;
    assert_eq!(records[0].ending, Ending::Cancelled);
    assert!(records[0].cost.known().is_none(), "it may have been billed");
    assert_eq!(world.service.costs().unknown, 1);
}

async fn read(service: &InferenceService, request: InferenceRequest) {
    let Ok(mut stream) = service.stream(request).await else { return };
    while let Some(Ok(_)) = stream.next().await {}
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_at_any_point_settles_once_and_leaves_nothing() {
    // Scenario: a stream, from the call to its last delta, polled k times and dropped, for each k until it ends; with
    // failures before and cuts after its beginning.
    // Expected: one record for each attempt that was dispatched, the connection closed, nothing left behind.
    let mut points = 0;
    for trouble in 0..6 {
        for point in 0.. {
            let world = if trouble < 4 { troubled(trouble) } else { slow_world() };
            match trouble {
                4 => world.sim.cut_stream_after(7),
                5 => world.sim.fail_next(1, Fault::error_after(5)),
                _ => {}
            }
            let request = muse("Why is the sky blue?").models([LARGE, MID, SMALL]);
            let ended = poll_at_most(point, read(&world.service, request)).await.is_some();
            assert_eq!(world.sim.open_streams(), 0, "{trouble} {point}");
            check(&world, point).await;
            points += 1;
            if ended {
                break;
            }
        }
    }
    println!("dropped at {points} points");
    assert!(points > 100, "{points}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_at_each_delta_is_one_record() {
    // Scenario: a stream dropped after each of its deltas.
    // Expected: exactly one record each time; the whole one is answered.
    for kept in 0.. {
        let world = slow_world();
        let mut stream = world.service.stream(muse("Why is the sky blue?").model(LARGE)).await.unwrap();
        let mut ended = false;
        for _ in 0..kept {
            ended = stream.next().await.is_none();
        }
        drop(stream);
        assert_eq!(world.sim.open_streams(), 0, "{kept}");
        let records = check(&world, kept).await;
        assert_eq!(records.len(), 1, "{kept}");
        assert_eq!(records[0].ending == Ending::Answered, ended, "{kept}");
        if ended {
            println!("{kept} deltas");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_dropped_streams_leave_nothing() {
    let world = World::new();
    for number in 0..10_000_usize {
        let mut stream = world.service.stream(muse("why?").model(LARGE)).await.unwrap();
        for _ in 0..number % 5 {
            stream.next().await.unwrap().unwrap();
        }
    }
    assert_eq!(world.at_rest().await.len(), 10_000);
    assert_eq!(world.sim.bill().calls, 10_000);
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_a_queue_leave_no_gap() {
    // Scenario: 1,000 callers wait for four places; half of them go away at different times.
    // Expected: the others are answered, all places are free afterwards.
    let limits = together_inference::limit::Limits::default().concurrency(4);
    let world = World::with(|builder| builder.limits(limits));
    world.sim.latency(ms(10));
    let calls: Vec<_> = (0..1_000).map(|number| world.spawn(muse(number.to_string()).model(LARGE))).collect();
    for (number, call) in calls.iter().enumerate().filter(|(number, _)| number % 2 == 0) {
        if number % 20 == 0 {
            tokio::time::sleep(ms(3)).await;
        }
        call.abort();
    }
    let mut answered = 0;
    for call in calls {
        answered += usize::from(matches!(call.await, Ok(Ok(_))));
    }
    assert!(answered >= 500, "{answered}");
    check(&world, 0).await;
}
