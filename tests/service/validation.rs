//! Bad requests are refused before anything is sent or spent; good ones are explained.

use std::time::Duration;

use together_inference::{
    InferenceRequest, Priority, Task, Tier, Usd, client::Tool, inference::Rejection, service::ErrorKind, usd,
};

use crate::world::{LARGE, MID, SMALL, World, ask, muse, used};

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_right_costs_nothing() {
    let bad = [
        ("messages", InferenceRequest::new(Task::Chat)),
        ("model", ask("hi").model("")),
        ("model", ask("hi").models(["a", ""])),
        ("models", ask("hi").models(Vec::<String>::new())),
        ("temperature", ask("hi").temperature(-1.0)),
        ("temperature", ask("hi").temperature(f64::NAN)),
        ("temperature", ask("hi").temperature(f64::INFINITY)),
        ("max_tokens", ask("hi").max_tokens(0)),
        ("n", ask("hi").n(0)),
        ("n", ask("hi").n(129)),
        ("tenant", ask("hi").tenant("")),
        ("session", ask("hi").session("")),
        ("deadline", ask("hi").deadline(Duration::ZERO)),
        ("image_url", InferenceRequest::new(Task::Chat).image_url("https://example.com/a.png").user("hi")),
        ("task", ask("hi").task(Task::Image)),
        ("tools", ask("hi").tool(Tool::function("two words", "", serde_json::json!({})))),
        ("extra", ask("hi").extra("stream", true)),
    ];
    let world = World::new();
    for (field, request) in bad {
        for error in [
            world.service.complete(request.clone()).await.unwrap_err(),
            world.service.stream(request.clone()).await.unwrap_err(),
            world.service.explain(&request).await.unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.status_hint()), (ErrorKind::InvalidRequest, 400), "{field}");
            assert_eq!(error.invalid().unwrap().field, field);
            assert!(error.attempts().is_empty() && !error.is_retryable());
        }
    }
    assert_eq!(world.calls(), 0);
    assert_eq!(used(&world.service).await, (Usd::ZERO, Usd::ZERO));
    assert!(world.at_rest().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_picture_for_a_model_that_sees_none_is_refused_by_name() {
    let world = World::new();
    let request = ask("what is this?").image_url("https://example.com/a.png").model(LARGE);
    let error = world.service.complete(request.clone()).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::NoRoute, 0));
    let (route, why) = &error.no_route().unwrap().rejected[0];
    assert_eq!((route.model().as_str(), why), (LARGE, &Rejection::NoVision));
    assert_eq!(world.service.stream(request).await.unwrap_err().kind(), ErrorKind::NoRoute);
    assert!(world.at_rest().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_ceiling_that_no_model_keeps_is_refused() {
    let world = World::new();
    let error = world.service.complete(ask("why?").max_cost(usd!("0.000000001"))).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::NoRoute, 0));
    let error = world.service.complete(ask("why?").model(LARGE).max_cost(usd!("0.000000001"))).await.unwrap_err();
    assert_eq!((error.kind(), world.calls()), (ErrorKind::NoRoute, 0));
}

#[tokio::test(start_paused = true)]
async fn a_tenants_handle_stamps_its_own_and_refuses_anothers() {
    let world = World::new();
    let acme = world.service.for_tenant("acme");
    acme.complete(muse("hi")).await.unwrap();
    acme.complete(muse("hi").tenant("acme")).await.unwrap();
    acme.stream(muse("hi")).await.unwrap().finish().await.unwrap();
    let foreign = muse("hi").tenant("other");
    for error in [
        acme.complete(foreign.clone()).await.unwrap_err(),
        acme.stream(foreign.clone()).await.unwrap_err(),
        acme.explain(&foreign).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.invalid().unwrap().field), (ErrorKind::InvalidRequest, "tenant"));
    }
    assert_eq!(world.service.for_tenant("").complete(muse("hi")).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(world.calls(), 3);
    let records = world.at_rest().await;
    assert!(records.iter().all(|record| record.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == "acme")));
}

#[tokio::test(start_paused = true)]
async fn priority_picks_the_tier_and_the_decision_says_so() {
    let world = World::new();
    for (priority, tier, reason) in [
        (Priority::Realtime, Tier::Large, "large: realtime"),
        (Priority::Standard, Tier::Mid, "mid: standard"),
        (Priority::Batch, Tier::Small, "small: batch"),
    ] {
        let request = muse("why?").priority(priority);
        let plan = world.service.explain(&request).await.unwrap();
        assert_eq!((&*plan.reason, plan.ranked[0].tier), (reason, tier));
        let line = plan.to_string();
        assert!(line.contains(reason) && line.contains("best of"), "{line}");
        assert!(format!("{plan:#}").lines().count() > 10);
        assert_eq!(world.calls(), 0, "explaining calls nothing");
        let reply = world.service.complete(request).await.unwrap();
        assert_eq!((reply.asked.clone(), &*reply.decision().reason), (plan.ranked[0].route.clone(), reason));
        assert!(!reply.fell_back());
        world.sim.forget();
    }
    let urgent_and_small = muse("why?").priority(Priority::Realtime).tier(Tier::Small);
    assert_eq!(world.service.explain(&urgent_and_small).await.unwrap().ranked[0].tier, Tier::Small);
}

#[tokio::test(start_paused = true)]
async fn a_pin_goes_nowhere_else_and_a_preference_keeps_its_order() {
    let world = World::new();
    let plan = world.service.explain(&muse("why?").model(SMALL)).await.unwrap();
    assert_eq!((plan.ranked.len(), plan.ranked[0].route.model().as_str()), (1, SMALL));
    let plan = world.service.explain(&muse("why?").models([SMALL, LARGE, MID])).await.unwrap();
    let order: Vec<_> = plan.ranked.iter().map(|considered| considered.route.model().as_str()).collect();
    assert_eq!(order, [SMALL, LARGE, MID]);
    world.sim.overload(SMALL);
    let error = world.service.complete(muse("why?").model(SMALL)).await.unwrap_err();
    assert!(error.attempts().iter().all(|attempt| attempt.route.model().as_str() == SMALL));
    assert_eq!(world.calls(), world.sim.calls_to(SMALL));
}
