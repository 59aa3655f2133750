//! The catalogue: what lists and refusals teach, and for how long.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::json;
use together_inference::{
    InferenceService, Price, RouteId, Task, Tier,
    client::{ErrorKind, Tool, ToolChoice},
    limit::Limits,
    notify::AlertKind,
    router::{Capabilities, CatalogRouter, Known, ModelRoute, ModelRouter, RouteState, Word},
    service,
    testing::{Fault, SimModel, Together},
    types::{Clock, ManualClock},
    usd,
};
use tokio::time::advance;

use crate::{
    doubles::{Alerts, HangingLists, client},
    world::{LARGE, MID, World, ask, muse, route, secs},
};

fn tool() -> Tool {
    Tool::function("weather", "The weather now", json!({"type": "object"}))
}

/// Two models that are alike; the cheaper one refuses tools, which nobody knows.
fn alike() -> (Together, Arc<CatalogRouter>) {
    let together = Together::new();
    together.add_model(SimModel::chat("acme/cheap").price(1_000, 1_000).without("tools"));
    together.add_model(SimModel::chat("acme/dear").price(2_000, 2_000));
    let price = |dollars| Price::per_million(dollars, dollars);
    let router = CatalogRouter::empty()
        .with(ModelRoute::new("together", "acme/cheap").tier(Tier::Mid).price(price(usd!("0.001"))))
        .with(ModelRoute::new("together", "acme/dear").tier(Tier::Mid).price(price(usd!("0.002"))));
    (together, Arc::new(router))
}

fn tools_of(router: &CatalogRouter, model: &str) -> (Known, Word) {
    let routes = router.routes();
    let found = routes.iter().find(|known| *known.id() == route(model)).unwrap();
    (found.capabilities.tools, found.words.tools)
}

/// Scenario: a model refuses a request by the name of a parameter.
/// Expected: the next one answers it, and for a day such requests go there at once; other requests do not.
#[tokio::test(start_paused = true)]
async fn a_refused_parameter_is_believed_for_a_day() {
    let (together, router) = alike();
    let service = InferenceService::builder(together.client()).router(Arc::clone(&router)).build().unwrap();
    let first = service.complete(muse("Rain?").tool(tool())).await.unwrap();
    assert_eq!((first.model().as_str(), first.attempts.len()), ("acme/dear", 2));
    assert_eq!(tools_of(&router, "acme/cheap"), (Known::No, Word::Learned));
    for (request, model) in [(muse("Rain?").tool(tool()), "acme/dear"), (muse("Rain?"), "acme/cheap")] {
        let reply = service.complete(request).await.unwrap();
        assert_eq!((reply.model().as_str(), reply.attempts.len()), (model, 1));
    }
    advance(secs(86_400 - 60)).await;
    assert_eq!(service.complete(muse("Rain?").tool(tool())).await.unwrap().attempts.len(), 1);
    advance(secs(61)).await;
    assert_eq!(service.complete(muse("Rain?").tool(tool())).await.unwrap().attempts.len(), 2, "asked once more");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_teaches_nothing_that_the_request_does_not_need_or_the_application_knows_better() {
    let (together, router) = alike();
    let service = InferenceService::builder(together.client()).router(Arc::clone(&router)).build().unwrap();
    let fault = Fault::status(400).message("response_format is not supported");
    together.fail_next_of("acme/cheap", 1, fault);
    let error = service.complete(muse("Rain?")).await.unwrap_err();
    assert_eq!((error.client_error().unwrap().kind(), error.attempts().len()), (ErrorKind::InvalidRequest, 1));
    assert_eq!(tools_of(&router, "acme/cheap").0, Known::Unknown);

    let sure = ModelRoute::new("together", "acme/cheap").capabilities(Capabilities::all());
    router.register(sure).unwrap();
    service.complete(muse("Rain?").tool(tool()).model("acme/cheap")).await.unwrap_err();
    assert_eq!(tools_of(&router, "acme/cheap"), (Known::Yes, Word::User));
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_that_refuses_is_an_error_that_names_the_parameter() {
    let (together, router) = alike();
    let service = InferenceService::builder(together.client()).router(router).build().unwrap();
    let error = service.complete(muse("Rain?").tool(tool()).model("acme/cheap")).await.unwrap_err();
    assert_eq!(error.client_error().unwrap().param(), Some("tools"));
    assert_eq!(error.attempts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_ranks_below_what_is() {
    let price = Price::per_million(usd!("1"), usd!("1"));
    let router = CatalogRouter::empty()
        .with(ModelRoute::new("together", "acme/unknown").tier(Tier::Mid).price(Price::FREE))
        .with(ModelRoute::new("together", "acme/sure").tier(Tier::Mid).price(price).capabilities(Capabilities::all()));
    let service = InferenceService::builder(Together::new().client()).router(router).build().unwrap();
    let best = |request| {
        let service = service.clone();
        async move { service.explain(&request).await.unwrap().ranked[0].route.model().to_string() }
    };
    assert_eq!(best(muse("hi").tool(tool())).await, "acme/sure", "although it is dearer");
    assert_eq!(best(muse("hi")).await, "acme/unknown");
}

#[tokio::test(start_paused = true)]
async fn lists_fill_in_what_is_not_known_and_change_nothing_that_the_application_said() {
    let together = Together::new();
    together.add_model(SimModel::chat("acme/new").price(10_000, 20_000).context(9_000).vision());
    let own = ModelRoute::new("together", "acme/own").context(4_000);
    together.add_model(SimModel::chat("acme/own").price(10_000, 20_000).context(9_000));
    let router = Arc::new(CatalogRouter::builtin().with(own));
    let fixed = Price::per_million(usd!("7"), usd!("7"));
    let service = InferenceService::builder(together.client())
        .router(Arc::clone(&router))
        .price(&route("zai-org/GLM-5.3"), fixed)
        .build()
        .unwrap();
    let refreshed = service.refresh_catalogue().await;
    assert!(refreshed.failures.is_empty() && refreshed.new >= 2, "{refreshed:?}");
    let routes = router.routes();
    let find = |model: &str| routes.iter().find(|known| *known.id() == route(model)).unwrap();
    let new = find("acme/new");
    assert_eq!(
        (new.context, new.capabilities.vision, new.words.vision),
        (Some(9_000), Known::Yes, Word::SupportedModels)
    );
    assert_eq!(new.price, Some(Price::per_million(usd!("0.01"), usd!("0.02"))));
    let own = find("acme/own");
    assert_eq!((own.context, own.price.is_some()), (Some(4_000), true), "its own context, the list's price");
    assert_eq!(find("mixedbread-ai/Mxbai-Rerank-Large-V2").tasks, [Task::Rerank]);
    assert!(
        routes.iter().all(|known| !known.id().model().as_str().contains("Llama-Guard")),
        "no model to converse with"
    );
    assert_eq!(service.refresh_catalogue().await.changed, 0, "the same once more");
    let reply = service.complete(ask("hi").model("zai-org/GLM-5.3")).await.unwrap();
    assert_eq!(reply.cost().known(), Some(fixed.cost(&reply.usage())), "the application's price stands");
}

#[tokio::test(start_paused = true)]
async fn without_the_curated_list_the_older_one_serves_and_new_models_are_previews() {
    let together = Together::new();
    together.add_model(SimModel::chat("acme/new").price(10_000, 20_000));
    together.fail_next_at("/v2/supported-models", 1, Fault::status(404));
    let router = Arc::new(CatalogRouter::builtin());
    let service = InferenceService::builder(together.client()).router(Arc::clone(&router)).build().unwrap();
    assert!(service.refresh_catalogue().await.failures.is_empty());
    let routes = router.routes();
    let new = routes.iter().find(|known| *known.id() == route("acme/new")).unwrap();
    assert_eq!(new.state, RouteState::Preview, "it may need an endpoint of one's own");
    assert_eq!(service.complete(muse("hi").model("acme/new")).await.unwrap().model(), &"acme/new");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_cannot_be_read_does_not_keep_the_others_from_it() {
    let (sick, well) = (Together::new(), Together::builder().models([SimModel::chat("qwen3-8b")]).build());
    sick.fail_next_at("/v1/models", 9, Fault::status(500));
    let service = InferenceService::builder(sick.client()).upstream("local", well.client()).build().unwrap();
    let refreshed = service.refresh_catalogue().await;
    assert_eq!(refreshed.failures.len(), 1);
    assert_eq!(refreshed.failures[0].upstream.as_str(), "together");
    let here = muse("hi").model(RouteId::new("local", "qwen3-8b"));
    assert_eq!(service.complete(here).await.unwrap().model(), &"qwen3-8b");
    assert_eq!(refreshed.new, 1);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_catalogue_is_told_and_a_refresh_renews_it() {
    let gathered = CatalogRouter::builtin().as_of().unwrap();
    let clock = Arc::new(ManualClock::new(gathered + Duration::from_secs(40 * 86_400)));
    let world = World::with(|builder| builder.clock(clock.clone()));
    assert_eq!(world.service.catalogue_age(), Some(Duration::from_secs(40 * 86_400)));
    world.service.refresh_catalogue().await;
    assert_eq!(world.service.catalogue_age(), Some(Duration::ZERO));
    clock.set(SystemTime::UNIX_EPOCH);
    assert_eq!(world.service.catalogue_age(), Some(Duration::ZERO), "a clock that goes back is no harm");
}

#[tokio::test(start_paused = true)]
async fn what_every_model_refuses_is_the_callers_mistake_and_teaches_nothing() {
    // Scenario: a request whose parameter two models refuse, and one that pins its model.
    // Expected: an error each, and the next request with tools still finds both.
    let together = Together::new();
    let price = |dollars| Price::per_million(dollars, dollars);
    for model in ["acme/cheap", "acme/dear"] {
        together.add_model(SimModel::chat(model).price(1_000, 1_000).without("tools"));
    }
    let router = CatalogRouter::empty()
        .with(ModelRoute::new("together", "acme/cheap").tier(Tier::Mid).price(price(usd!("0.001"))))
        .with(ModelRoute::new("together", "acme/dear").tier(Tier::Mid).price(price(usd!("0.002"))));
    let service = InferenceService::builder(together.client()).router(router).build().unwrap();
    let error = service.complete(muse("Rain?").tool(tool())).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts().len()), (service::ErrorKind::Refused, 2), "{error}");
    service.complete(muse("Rain?").tool(tool()).model("acme/cheap")).await.unwrap_err();
    let plan = service.explain(&muse("Rain?").tool(tool())).await.unwrap();
    assert_eq!((plan.ranked.len(), plan.rejected.len()), (2, 0));
}

#[test]
fn a_tool_that_no_server_would_take_is_refused_here() {
    let choice = muse("Rain?").tool(tool()).tool_choice(ToolChoice::Function("wether".into()));
    let no_object = muse("Rain?").tool(Tool::function("weather", "The weather now", json!([1])));
    let no_schema = muse("Rain?").json_schema("x", json!("no schema"));
    for (request, field) in [(choice, "tool_choice"), (no_object, "tools"), (no_schema, "json_schema")] {
        assert_eq!(request.validate().unwrap_err().field, field);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_gone_is_passed_over_with_one_alert_and_asked_again_after_a_day() {
    let alerts = Alerts::default();
    let world = World::with(|builder| builder.notifier(alerts.clone()));
    let first = world.service.complete(muse("hi")).await.unwrap().route;
    world.sim.unavailable(first.model().as_str());
    for attempts in [2, 1, 1] {
        let reply = world.service.complete(muse("hi")).await.unwrap();
        assert_eq!((reply.attempts.len(), reply.route == first), (attempts, false));
    }
    world.service.complete(muse("hi").model(first.clone())).await.unwrap_err();
    world.sim.restore(first.model().as_str());
    let place = async || {
        let plan = world.service.explain(&muse("hi")).await.unwrap();
        (plan.ranked.iter().position(|one| one.route == first).unwrap(), plan.ranked.len())
    };
    let (at, of) = place().await;
    assert_eq!(at, of - 1, "nobody asks");
    advance(secs(86_401)).await;
    assert!(place().await.0 <= 1);
    world.at_rest().await;
    assert_eq!(alerts.kinds(), [AlertKind::ModelDeprecated]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_gone_is_still_tried_where_nothing_else_serves() {
    let together = Together::new();
    together.add_model(SimModel::chat("acme/only").price(1_000, 1_000));
    together.unavailable("acme/only");
    let router = CatalogRouter::empty().with(ModelRoute::new("together", "acme/only").price(Price::FREE));
    let service = InferenceService::builder(together.client()).router(router).build().unwrap();
    for _ in 0..2 {
        assert_eq!(service.complete(muse("hi")).await.unwrap_err().attempts().len(), 1);
    }
    together.restore("acme/only");
    service.complete(muse("hi")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_redirect_is_seen_priced_as_served_and_told_once_a_day() {
    let alerts = Alerts::default();
    let world = World::with(|builder| builder.notifier(alerts.clone()));
    world.sim.deprecate(LARGE, MID);
    for _ in 0..3 {
        let reply = world.service.complete(muse("hi").model(LARGE)).await.unwrap();
        assert_eq!((reply.asked.model().as_str(), reply.model().as_str()), (LARGE, MID));
        assert_eq!(reply.cost().known().unwrap().nanos() * i64::from(world.calls() as u32), world.sim.bill().nano_usd);
    }
    world.at_rest().await;
    assert_eq!(alerts.kinds(), [AlertKind::ModelRedirected]);
    advance(secs(86_400)).await;
    world.service.complete(muse("hi").model(LARGE)).await.unwrap();
    world.at_rest().await;
    assert_eq!(alerts.kinds().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_has_left_is_replaced_and_what_will_leave_is_told_of() {
    let (alerts, clock) = (Alerts::default(), Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + secs(1_795_608_000))));
    let world = World::with(|builder| builder.notifier(alerts.clone()).clock(Arc::clone(&clock) as Arc<dyn Clock>));
    world.sim.announce(LARGE, MID, "2026-12-01");
    world.sim.announce("acme/nobody-knows", MID, "2026-11-01");
    for _ in 0..2 {
        world.service.refresh_catalogue().await;
        assert_eq!(world.service.complete(muse("hi").model(LARGE)).await.unwrap().model().as_str(), LARGE);
    }
    clock.advance(secs(10 * 86_400));
    world.service.refresh_catalogue().await;
    world.sim.unavailable(LARGE);
    let reply = world.service.complete(muse("hi").model(LARGE)).await.unwrap();
    assert_eq!((reply.model().as_str(), reply.attempts.len()), (MID, 1));
    assert!(reply.decision().reason.starts_with("retired →"), "{}", reply.decision());
    world.at_rest().await;
    assert_eq!(alerts.kinds(), [AlertKind::ModelDeprecated; 2], "that it will, and that it did");
    let asked = world.sim.requests();
    let page = asked.iter().find(|asked| asked.path == "/docs/deprecations.md").unwrap();
    assert!(!page.headers.contains_key("authorization"), "the key is nobody's business there");
}

#[tokio::test(start_paused = true)]
async fn the_lists_are_read_in_the_background_as_often_as_asked() {
    let together = Together::new();
    let service = InferenceService::builder(together.client()).refresh_catalogue_every(secs(3_600)).build().unwrap();
    let lists = || together.requests().iter().filter(|asked| asked.path == "/v1/models").count();
    service.complete(muse("hi")).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(lists(), 1);
    tokio::time::sleep(secs(3 * 3_600)).await;
    assert!((3..=4).contains(&lists()), "{}", lists());
    service.shutdown(secs(1)).await;
    let read = lists();
    tokio::time::sleep(secs(24 * 3_600)).await;
    assert_eq!(lists(), read, "it ends with the service");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_being_read_does_not_outlive_a_shutdown() {
    // Scenario: the service answers a call and reads its lists, which do not come; a shutdown, and nobody drops it.
    // Expected: it returns at once, and the connection of the list is closed.
    let reading = Arc::new(());
    let transport = HangingLists(Together::new(), Arc::clone(&reading));
    let builder = InferenceService::builder(client(transport)).refresh_catalogue_every(secs(3_600));
    let service = builder.build().unwrap();
    service.complete(muse("hi")).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    let readers = || Arc::strong_count(&reading) - 2;
    assert_eq!(readers(), 1);
    let start = tokio::time::Instant::now();
    service.shutdown(secs(30)).await;
    tokio::task::yield_now().await;
    assert_eq!((readers(), start.elapsed()), (0, secs(0)));
}

#[test]
fn a_set_up_that_cannot_be_is_refused_with_what_to_change() {
    let upstream = || Together::new().client();
    let circle = || {
        let retired = |from: &str, to: &str| {
            let mut route = ModelRoute::new("together", from);
            route.state = RouteState::Retired { to: Some(RouteId::new("together", to)) };
            route
        };
        CatalogRouter::empty().with(retired("a", "b")).with(retired("b", "a"))
    };
    let none_in_use = CatalogRouter::empty().with(ModelRoute::new("together", "a").weight(0.0));
    for (error, says) in [
        (InferenceService::builder(upstream()).router(circle()).build(), "leads back to it"),
        (
            InferenceService::builder(upstream()).router(none_in_use).serves([Task::Chat]).build(),
            "no route in use serves chat",
        ),
        (
            InferenceService::builder(upstream()).router(CatalogRouter::empty().with(ModelRoute::new("", "a"))).build(),
            "must not be empty",
        ),
        (InferenceService::builder(upstream()).upstream("together", upstream()).build(), "an id of its own"),
        (InferenceService::builder(upstream()).limits(Limits::default().tokens_per_second(0)).build(), "(0) lets no"),
        (InferenceService::builder(upstream()).refresh_catalogue_every(secs(1)).build(), "less than a minute"),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_callers_make_up_are_no_news() {
    let alerts = Alerts::default();
    let service = InferenceService::builder(Together::new().client()).notifier(alerts.clone()).build().unwrap();
    for number in 0..20 {
        let error = service.complete(muse("why?").model(format!("made-up/{number}"))).await.unwrap_err();
        assert_eq!(error.kind(), service::ErrorKind::Refused, "{error}");
    }
    service.shutdown(secs(1)).await;
    assert!(alerts.kinds().is_empty());
}
