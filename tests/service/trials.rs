//! Routes that lost their place, and the calls that find out whether they are as before.

use std::time::Duration;

use together_inference::{
    InferenceRequest, Price, Priority, Tier,
    router::{CatalogRouter, ModelRoute},
    usd,
};
use tokio::time::sleep;

use crate::world::{LARGE, MID, World, ask, ms, muse, secs};

/// Two equals, of which the first is a little cheaper.
fn world() -> World {
    let route = |model, price| {
        let mut route = ModelRoute::new("together", model).tier(Tier::Large).price(price);
        route.latency_p50 = Some(Duration::from_secs(3));
        route
    };
    let router = CatalogRouter::empty()
        .with(route(LARGE, Price::per_million(usd!("1"), usd!("1"))))
        .with(route(MID, Price::per_million(usd!("1.1"), usd!("1.1"))));
    World::with(|builder| builder.router(router))
}

fn realtime(request: InferenceRequest) -> InferenceRequest {
    request.priority(Priority::Realtime)
}

/// Calls one after the other until they go to the other model.
async fn until_it_lost_its_place(world: &World) {
    world.sim.latency(secs(1));
    for _ in 0..10 {
        assert_eq!(world.service.complete(realtime(muse("why?"))).await.unwrap().model().as_str(), LARGE);
    }
    world.sim.latency_of(LARGE, secs(10));
    for _ in 0..60 {
        world.service.complete(realtime(muse("why?"))).await.unwrap();
    }
    let there = world.service.complete(realtime(ask("kept"))).await.unwrap();
    assert_eq!(there.asked.model().as_str(), MID);
}

#[tokio::test(start_paused = true)]
async fn what_the_cache_answers_uses_up_no_probe() {
    // Scenario: the first choice was slow and is as before; each time when a probe is due, thirty questions are asked that
    // the cache answers, and then one that it does not.
    // Expected: that one is the probe.
    let world = world();
    until_it_lost_its_place(&world).await;
    world.sim.latency_of(LARGE, secs(1));
    let before = world.sim.calls_to(LARGE);
    for _ in 0..3 {
        sleep(secs(3)).await;
        for _ in 0..30 {
            let kept = world.service.complete(realtime(ask("kept"))).await.unwrap();
            assert!(kept.source().is_cached());
            let propensity = kept.decision.propensity;
            assert!(propensity > 0.0 && propensity < 1.0, "a share goes to the one on trial: {propensity}");
        }
        world.service.complete(realtime(muse("why?"))).await.unwrap();
    }
    assert_eq!(world.sim.calls_to(LARGE) - before, 3);
    world.at_rest_at_own_prices().await;
}

#[tokio::test(start_paused = true)]
async fn of_many_calls_that_find_a_probe_due_one_is_it() {
    // Scenario: a probe is due when fifty calls come at once: the same question, and then fifty different ones.
    // Expected: one call goes to the model on trial each time; none is lost.
    let world = world();
    until_it_lost_its_place(&world).await;
    for same in [true, false] {
        for _ in 0..40 {
            world.service.complete(realtime(ask("kept"))).await.unwrap();
        }
        sleep(secs(3)).await;
        let before = world.sim.calls_to(LARGE);
        let question = |number: usize| if same { "the same".to_owned() } else { format!("q{number}") };
        let calls: Vec<_> = (0..50).map(|number| world.spawn(realtime(ask(question(number))))).collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert_eq!(world.sim.calls_to(LARGE) - before, 1, "{same}");
        sleep(ms(10)).await;
    }
    world.at_rest_at_own_prices().await;
}
