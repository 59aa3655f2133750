//! The trace of a call: on every answer and every error, small, with all that a replay needs.

use serde_json::{Value, json};
use together_inference::{
    InferenceRequest, Price,
    inference::{MAX_TRACE_BYTES, Trace},
    router::{CatalogRouter, ModelRoute, ModelRouter, Override},
    service::ErrorKind,
    testing::Fault,
};

use crate::world::{LARGE, MID, World, ask, ms, route};

fn read(trace: &Trace) -> Value {
    let line = trace.to_string();
    assert!(line.len() <= MAX_TRACE_BYTES, "{}", line.len());
    serde_json::from_str(&line).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_trace_says_what_was_known_what_was_chosen_and_how_each_attempt_went() {
    let world = World::new();
    world.sim.latency(ms(250));
    world.sim.fail_next(1, Fault::status(500));
    let request = InferenceRequest::chat("Why is the sky blue?").max_tokens(40);
    let reply = world.service.complete(request).await.unwrap();
    let line = read(&reply.trace());

    assert_eq!((&line["v"], &line["policy"]), (&json!("ti.decision.v1"), &json!("catalog")));
    assert_eq!(line["settings"].as_str().unwrap().len(), 16);
    assert_eq!(line["catalogue"].as_str().unwrap().len(), 16);
    assert!(line["tokens"].as_u64().unwrap() > 10 && line["propensity"] == 1.0, "{line}");
    let first = &line["candidates"][0];
    assert_eq!(first["state"], "live");
    let sum: f64 = first["terms"].as_array().unwrap().iter().map(|term| term.as_f64().unwrap()).sum();
    assert!((sum - first["score"].as_f64().unwrap()).abs() < 0.01, "{first}");
    assert!(first["price"][1].as_u64().unwrap() > 0);

    let attempts = line["attempts"].as_array().unwrap();
    assert_eq!((&attempts[0]["end"], &attempts[1]["end"]), (&json!("server"), &json!("answered")));
    assert!(attempts[1]["start"].as_u64() >= attempts[0]["took"].as_u64(), "{line}");
    assert_eq!(attempts[1]["took"], 250);
    assert!(attempts[1]["usage"][2].as_u64().unwrap() > 0, "{line}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_routes_have_the_same_number_and_other_prices_another() {
    let number = |trace: &Trace| trace.decision.as_ref().unwrap().catalogue;
    let (one, other) = (World::new(), World::new());
    let before = one.service.complete(ask("a")).await.unwrap().trace();
    assert_eq!(number(&before), number(&other.service.complete(ask("b")).await.unwrap().trace()));

    let router = CatalogRouter::builtin();
    router.register(ModelRoute::new("together", LARGE).price(Price::FREE)).unwrap();
    let cheaper = World::with(|builder| builder.router(router));
    assert_ne!(number(&before), number(&cheaper.service.complete(ask("c")).await.unwrap().trace()));
    one.at_rest().await;
    other.at_rest().await;
    cheaper.at_rest_at_own_prices().await;
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_gets_no_call_is_counted() {
    let world = World::new();
    world.service.force(&route(MID), Some(Override::Eject));
    let line = read(&world.service.complete(ask("why?")).await.unwrap().trace());
    assert_eq!(line["attempts"][0]["passed"], 1, "{line}");
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn errors_have_one_as_well_also_where_no_route_serves_the_request() {
    let world = World::new();
    let nobody =
        world.service.complete(ask("why?").max_cost(together_inference::usd!("0.000000001"))).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NoRoute);
    let line = read(&nobody.trace());
    assert!(line["id"].is_string() && line["at"].is_u64(), "{line}");
    assert!(!line["rejected"].as_array().unwrap().is_empty(), "{line}");
    assert_eq!(line["end"], "no_route");

    world.sim.fail_next(3, Fault::status(500));
    let failed = read(&world.service.complete(ask("why?").model(LARGE)).await.unwrap_err().trace());
    assert_eq!((failed["attempts"].as_array().unwrap().len(), &failed["end"]), (3, &json!("upstream")));
}
