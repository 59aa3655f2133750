//! What routes cost: by whose word, since when, who is told, and that the simulator's own bill agrees.

use std::{sync::Arc, time::SystemTime};

use together_inference::{
    Cost, InferenceService, Price, RouteId, Tier, Usage, Usd,
    cost::{Budget, MemoryCosts, PriceSource, Scope, Unpriced, Window},
    limit::Limits,
    notify::AlertKind,
    router::{CatalogRouter, ModelRoute, ModelRouter},
    service::ErrorKind,
    testing::{SimModel, Together},
    types::{Clock, ManualClock},
    usd,
};
use tokio::time::sleep;

use crate::{
    doubles::Alerts,
    world::{LARGE, World, ms, muse, route, secs, settle},
};

fn per_million(dollars: Usd) -> Price {
    Price::per_million(dollars, dollars)
}

/// Two models that are alike but for their prices, and who is told.
fn two() -> (Together, Arc<CatalogRouter>, Alerts, InferenceService) {
    let together = Together::new();
    for (model, picos) in [("acme/cheap", 1_000), ("acme/dear", 2_000)] {
        together.add_model(SimModel::chat(model).price(picos, picos));
    }
    let known = "tasks\tmodel\ttier\tusd_in\tusd_out\n\
                 chat\tacme/cheap\tmid\t0.001\t0.001\n\
                 chat\tacme/dear\tmid\t0.002\t0.002\n";
    let router = Arc::new(CatalogRouter::from_tsv(known).unwrap());
    let alerts = Alerts::default();
    let service = InferenceService::builder(together.client())
        .router(Arc::clone(&router))
        .notifier(alerts.clone())
        .build()
        .unwrap();
    (together, router, alerts, service)
}

fn told(alerts: &Alerts, kind: AlertKind) -> Vec<String> {
    alerts.taken().iter().filter(|alert| alert.kind() == kind).map(|alert| alert.title().to_owned()).collect()
}

/// Scenario: the cheaper of two models becomes ten times as dear by the provider's lists, which are read three times.
/// Expected: one alert that says from what to what; the next request goes to the other one, and each record keeps its
/// price.
#[tokio::test(start_paused = true)]
async fn a_change_of_price_is_told_once_and_moves_the_next_request() {
    let (together, _, alerts, service) = two();
    service.refresh_catalogue().await;
    settle().await;
    assert_eq!(told(&alerts, AlertKind::PriceChanged), [""; 0], "as the catalogue has it");
    let first = service.complete(muse("a")).await.unwrap();
    assert_eq!(first.model().as_str(), "acme/cheap");

    together.set_price("acme/cheap", 10_000, 10_000);
    for _ in 0..3 {
        service.refresh_catalogue().await;
    }
    settle().await;
    assert_eq!(
        told(&alerts, AlertKind::PriceChanged),
        [
            "together/acme/cheap cost $0.001/M in, $0.001/M out and costs $0.01/M in, $0.01/M out by the supported models"
        ]
    );
    let second = service.complete(muse("b")).await.unwrap();
    assert_eq!(second.model().as_str(), "acme/dear");
    let versions: Vec<_> = service.price_history(&route("acme/cheap")).iter().map(|stamp| stamp.price).collect();
    assert_eq!(versions, [per_million(usd!("0.001")), per_million(usd!("0.01"))]);
    for (reply, line) in [&first, &second].into_iter().zip(&together.bill().lines) {
        assert_eq!(reply.cost().known().unwrap().nanos(), line.nano_usd);
    }
}

/// Scenario: prices change by the provider and by the application while calls are out, the clock going on. Expected:
/// each record has the price at its dispatch and finds its version again; the bill agrees where it was the provider.
#[tokio::test(start_paused = true)]
async fn an_attempt_is_priced_by_the_version_at_its_dispatch() {
    let (sim, costs) = (Together::new(), MemoryCosts::default());
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + secs(1_000)));
    let service = InferenceService::builder(sim.client())
        .cost_sink(costs.clone())
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .build()
        .unwrap();
    sim.latency_of(LARGE, secs(1));
    let ask = |text: &str| crate::world::spawn(service.complete(muse(text).model(LARGE)));
    let call = ask("before");
    sleep(ms(500)).await;
    clock.advance(secs(10));
    sim.set_price(LARGE, 14_000_000, 44_000_000);
    assert!(service.refresh_catalogue().await.failures.is_empty());
    let before = call.await.unwrap().unwrap();
    clock.advance(secs(10));
    let call = ask("between");
    sleep(ms(500)).await;
    clock.advance(secs(10));
    assert!(service.set_price(&route(LARGE), per_million(usd!("1"))).is_change());
    let between = call.await.unwrap().unwrap();
    clock.advance(secs(10));
    ask("after").await.unwrap().unwrap();

    assert!(service.flush().await);
    let records = costs.records();
    let lines = sim.bill().lines;
    for (reply, line) in [(before, &lines[0]), (between, &lines[1])] {
        assert_eq!(reply.cost().known().unwrap().nanos(), line.nano_usd);
    }
    let history = service.price_history(&route(LARGE));
    assert_eq!(history.iter().map(|stamp| stamp.version).collect::<Vec<_>>(), [1, 2, 3]);
    for (record, stamp) in records.iter().zip(&history) {
        assert_eq!(record.price, Some(stamp.price));
        let then = history.iter().rev().find(|stamp| stamp.since <= record.at).unwrap();
        assert_eq!(then, stamp, "a record finds its price again by its time");
        assert_eq!(record.cost, Cost::Known(stamp.price.cost(&record.usage)));
    }
    assert_eq!(history[2].source, PriceSource::User);
    sim.set_price(LARGE, 1_000, 1_000);
    service.refresh_catalogue().await;
    assert_eq!(service.price_of(&route(LARGE)), Some(history[2]), "no list overrides the application");
}

/// Scenario: two calls at a time; while three more wait in line for ten seconds, the model becomes ten times as dear. A hard
/// budget has room for all five at the old price, and for one at the new one; the last says how much it may cost at most.
/// Expected: the third has the price and the time at which it was sent, and as much is set aside as it may cost at that
/// price; the fourth finds no room and the fifth is dearer than its ceiling: both are refused and never sent.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_waited_in_line_has_the_price_and_the_time_at_which_it_was_sent() {
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + secs(1_000)));
    let cheap = per_million(usd!("1"));
    let world = World::with(|builder| {
        builder
            .clock(Arc::clone(&clock) as Arc<dyn Clock>)
            .price(&route(LARGE), cheap)
            .budget(Budget::total(usd!("0.013")).hard())
            .limits_of(route(LARGE), Limits::default().concurrency(2))
    });
    world.sim.latency_of(LARGE, secs(10));
    let question = || muse("why?").model(LARGE).max_tokens(1_000).deadline(secs(100));
    let calls = [question(), question(), question(), question(), question().max_cost(usd!("0.002"))];
    let calls: Vec<_> = calls.into_iter().map(|call| world.spawn(call)).collect();
    sleep(secs(1)).await;
    clock.advance(secs(1));
    let dear = per_million(usd!("10"));
    world.service.set_price(&route(LARGE), dear);
    sleep(secs(10)).await;
    let budgets = world.service.budgets().remaining(&Scope::Global).await.unwrap();
    let hard = budgets.iter().find(|budget| budget.hard).unwrap();
    assert!(hard.reserved >= usd!("0.01"), "{} is set aside for what may cost ten times as much", hard.reserved);
    let mut ended = Vec::new();
    for call in calls {
        ended.push(call.await.unwrap().map_err(|error| error.kind()).map(drop));
    }
    let refused = Err(ErrorKind::OverBudget);
    assert_eq!(ended, [Ok(()), Ok(()), Ok(()), refused, Err(ErrorKind::OverBudget)]);
    let records = world.at_rest_at_own_prices().await;
    let stamps: Vec<_> = records.iter().map(|record| (record.price, record.price_version)).collect();
    assert_eq!(stamps, [(Some(cheap), Some(1)), (Some(cheap), Some(1)), (Some(dear), Some(2))]);
    assert_eq!(records[2].at, records[0].at + secs(1));
    assert_eq!(world.calls(), 3);
}

/// Scenario: the provider lists a model at zero; another model of one's own is declared free.
/// Expected: the first is unpriced, counted, told once, and refused under a ceiling; the second costs nothing.
#[tokio::test(start_paused = true)]
async fn a_fetched_zero_is_unpriced_and_a_declared_one_is_free() {
    let (sim, alerts) = (Together::new(), Alerts::default());
    for model in ["acme/zero", "acme/ours"] {
        sim.add_model(SimModel::chat(model).price(0, 0));
    }
    let service = InferenceService::builder(sim.client())
        .price(&route("acme/ours"), Price::FREE)
        .notifier(alerts.clone())
        .build()
        .unwrap();
    service.refresh_catalogue().await;
    assert_eq!(service.price_of(&route("acme/zero")), None);
    let unpriced = service.health().unpriced_routes;
    for text in ["a", "b", "c"] {
        let reply = service.complete(muse(text).model("acme/zero")).await.unwrap();
        assert_eq!(reply.cost(), Cost::Unpriced);
        let reply = service.complete(muse(text).model("acme/ours")).await.unwrap();
        assert_eq!(reply.cost(), Cost::Known(Usd::ZERO));
    }
    settle().await;
    let health = service.health();
    assert_eq!((health.unpriced_attempts, service.costs().unpriced, service.costs().known), (3, 3, Usd::ZERO));
    let told = told(&alerts, AlertKind::CallUnpriced);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("together/acme/zero") && told[0].contains(".price("), "{told:?}");
    let refused = service.complete(muse("d").model("acme/zero").max_cost(usd!("1"))).await.unwrap_err();
    assert_eq!((refused.kind(), sim.calls_to("acme/zero")), (ErrorKind::NoRoute, 3));
    service.set_price(&route("acme/zero"), Price::FREE);
    let reply = service.complete(muse("e").model("acme/zero").max_cost(usd!("1"))).await.unwrap();
    assert_eq!(reply.cost(), Cost::Known(Usd::ZERO));
    assert_eq!(service.health().unpriced_routes, unpriced - 1, "it was one of them");
}

/// Scenario: a model whose price was listed is listed at zero from then on, and later at a price again.
/// Expected: nobody knows what it costs meanwhile, whatever was listed or is in the catalogue: it is unpriced, counted and
/// told, and no route of a request with a ceiling.
#[tokio::test(start_paused = true)]
async fn a_price_that_turns_zero_is_none() {
    let (together, _, alerts, service) = two();
    service.refresh_catalogue().await;
    let unpriced = service.health().unpriced_routes;
    together.set_price("acme/cheap", 0, 0);
    service.refresh_catalogue().await;
    settle().await;
    assert_eq!(service.price_of(&route("acme/cheap")), None);
    assert_eq!(service.health().unpriced_routes, unpriced + 1);
    let told = told(&alerts, AlertKind::PriceChanged);
    assert!(told.len() == 1 && told[0].contains("acme/cheap") && told[0].contains("zero"), "{told:?}");
    let reply = service.complete(muse("a").model("acme/cheap")).await.unwrap();
    assert_eq!(reply.cost(), Cost::Unpriced);
    service.complete(muse("b").model("acme/cheap").max_cost(usd!("1"))).await.unwrap_err();
    together.set_price("acme/cheap", 3_000, 3_000);
    service.refresh_catalogue().await;
    let reply = service.complete(muse("c").model("acme/cheap").max_cost(usd!("1"))).await.unwrap();
    assert!(reply.cost().charge() > Usd::ZERO);
}

/// Scenario: the application gives a model another price, twice the same; a router's own price is another one than the
/// catalogue's.
/// Expected: one alert for each change, that says from what to what.
#[tokio::test(start_paused = true)]
async fn a_price_that_the_application_or_a_router_changes_is_told_too() {
    let (_, router, alerts, service) = two();
    for _ in 0..2 {
        service.set_price(&route("acme/cheap"), per_million(usd!("7")));
    }
    settle().await;
    let first = told(&alerts, AlertKind::PriceChanged);
    assert!(first.len() == 1 && first[0].contains("acme/cheap") && first[0].contains('7'), "{first:?}");
    router.reprice(&[(route("acme/dear"), per_million(usd!("9")))]);
    service.complete(muse("a").model("acme/dear")).await.unwrap();
    settle().await;
    let both = told(&alerts, AlertKind::PriceChanged);
    assert!(both.len() == 2 && both[1].contains("acme/dear") && both[1].contains('9'), "{both:?}");
}

/// Scenario: a model whose price was listed is in no list any more.
/// Expected: the last price stands; a budget is not left without one because a list is silent.
#[tokio::test(start_paused = true)]
async fn a_price_that_is_not_listed_any_more_stands() {
    let (together, _, alerts, service) = two();
    together.set_price("acme/cheap", 3_000, 3_000);
    service.refresh_catalogue().await;
    together.remove_model("acme/cheap");
    service.refresh_catalogue().await;
    settle().await;
    assert_eq!(service.price_of(&route("acme/cheap")).unwrap().price, per_million(usd!("0.003")));
    assert_eq!(told(&alerts, AlertKind::PriceChanged).len(), 1);
}

/// Scenario: the application sets a price at the builder, later another one while the service runs, each of which makes
/// another model the cheaper one.
/// Expected: the router ranks by it at once, and what it costs is what was set.
#[tokio::test(start_paused = true)]
async fn a_price_of_the_applications_own_ranks_and_bills() {
    let (sim, router, ..) = two();
    let service = InferenceService::builder(sim.client())
        .router(Arc::clone(&router))
        .price(&route("acme/dear"), Price::FREE)
        .build()
        .unwrap();
    let reply = service.complete(muse("a")).await.unwrap();
    assert_eq!((reply.model().as_str(), reply.cost()), ("acme/dear", Cost::Known(Usd::ZERO)));
    service.refresh_catalogue().await;
    assert_eq!(service.complete(muse("b")).await.unwrap().model().as_str(), "acme/dear", "lists change nothing of it");
    service.set_price(&route("acme/dear"), per_million(usd!("5")));
    assert_eq!(service.complete(muse("c")).await.unwrap().model().as_str(), "acme/cheap");
}

/// Scenario: a route that the application registered with a price of its own is listed at another one.
/// Expected: its own counts, also when the route is registered anew at another price.
#[tokio::test(start_paused = true)]
async fn the_price_of_a_route_of_ones_own_is_not_overridden_by_a_list() {
    let sim = Together::new();
    sim.add_model(SimModel::chat("acme/ours").price(9_000_000, 9_000_000));
    let own = |dollars| ModelRoute::new("together", "acme/ours").tier(Tier::Mid).price(per_million(dollars));
    let router = Arc::new(CatalogRouter::empty().with(own(usd!("1"))));
    let service = InferenceService::builder(sim.client()).router(Arc::clone(&router)).build().unwrap();
    service.refresh_catalogue().await;
    let reply = service.complete(muse("a").model("acme/ours")).await.unwrap();
    assert_eq!(reply.cost(), Cost::Known(per_million(usd!("1")).cost(&reply.usage())));
    router.register(own(usd!("2"))).unwrap();
    service.refresh_catalogue().await;
    let reply = service.complete(muse("b").model("acme/ours")).await.unwrap();
    assert_eq!(reply.cost(), Cost::Known(per_million(usd!("2")).cost(&reply.usage())));
}

#[tokio::test(start_paused = true)]
async fn the_discount_of_a_batch_is_of_the_model_and_may_be_set() {
    const LLAMA: &str = "meta-llama/Llama-3.3-70B-Instruct-Turbo";
    let world = World::with(|builder| {
        builder.price(&route(LLAMA), per_million(usd!("0.88"))).batch_percent_off(&route("acme/ours"), 25)
    });
    let batch = |route: &RouteId| world.service.price_of(route).unwrap().batch();
    assert_eq!(batch(&route(LLAMA)), per_million(usd!("0.44")));
    world.service.set_price(&route(LLAMA), per_million(usd!("0.90")));
    assert_eq!(batch(&route(LLAMA)), per_million(usd!("0.45")), "of whatever the price is");
    let glm = world.service.price_of(&route(LARGE)).unwrap();
    assert_eq!(glm.batch(), glm.price, "most are not discounted");
    world.service.set_price(&route("acme/ours"), per_million(usd!("1")));
    assert_eq!(batch(&route("acme/ours")), per_million(usd!("0.75")));
}

/// What is below nothing is no price, whoever says it and by whatever unit: it would pay for what others spend.
#[test]
fn a_price_below_nothing_is_refused_before_a_service_is_built() {
    let (route, below) = (route(LARGE), -usd!("0.50"));
    for price in [
        Price::per_million(below, usd!("1")),
        Price::per_million(usd!("1"), below),
        Price::per_million(usd!("1"), usd!("1")).cached(below),
        Price::per_megapixel(below),
        Price::per_image(below),
        Price::per_audio_minute(below),
        Price::per_hour(below),
    ] {
        let builder = || InferenceService::builder(Together::new().client());
        let router = |route| CatalogRouter::empty().with(route);
        for (error, whose) in [
            (builder().price(&route, price).build(), LARGE),
            (builder().unpriced(Unpriced::Assume(price)).build(), "unpriced"),
            (builder().router(router(ModelRoute::new("together", LARGE).price(price))).build(), LARGE),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(whose) && error.contains("less than nothing"), "{error}");
        }
    }
    let known = format!("tasks\tmodel\ttier\tusd_in\tusd_out\nchat\t{LARGE}\tmid\t-0.001\t0.001\n");
    let error = CatalogRouter::from_tsv(&known).unwrap_err().to_string();
    assert!(error.contains("usd_in"), "{error}");
}

/// Scenario: an application sets a price below nothing while the service runs, over a route that has a price by a list;
/// one call is made, the price is put right, and another one is made.
/// Expected: the first is unpriced, counted and told, never free and never at the price that was overruled; under a hard
/// budget it is refused. The second is priced.
#[tokio::test(start_paused = true)]
async fn a_price_below_nothing_makes_a_running_service_unpriced_and_not_free() {
    let alerts = Alerts::default();
    let world = World::with(|builder| builder.notifier(alerts.clone()));
    let (service, route) = (&world.service, route(LARGE));
    let (before, unpriced) = (service.price_of(&route).unwrap(), service.health().unpriced_routes);
    let change = service.set_price(&route, per_million(-usd!("1")));
    assert_eq!((change.before, change.now), (Some(before), None));
    assert_eq!(service.price_of(&route), None);
    let reply = service.complete(muse("a").model(LARGE)).await.unwrap();
    assert_eq!(reply.cost(), Cost::Unpriced);
    assert_eq!(service.health().unpriced_routes, unpriced + 1);
    settle().await;
    assert_eq!(told(&alerts, AlertKind::CallUnpriced).len(), 1);
    let record = world.costs.records().pop().unwrap();
    assert_eq!((record.cost, record.price), (Cost::Unpriced, None));

    service.budgets().set(Scope::tenant("acme"), Window::Day, usd!("5")).unwrap();
    let refused = service.complete(muse("b").model(LARGE).tenant("acme")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unpriced);

    assert!(service.set_price(&route, per_million(usd!("1"))).now.is_some());
    let priced = service.complete(muse("c").model(LARGE).tenant("acme")).await.unwrap();
    assert!(priced.cost().known().is_some_and(|cost| cost > Usd::ZERO));
    assert_eq!(service.health().unpriced_routes, unpriced);
    assert!(service.price_history(&route).iter().all(|stamp| !stamp.price.is_negative()));
    world.at_rest_at_own_prices().await;
}

/// One nano-dollar per million tokens is a thousandth of what a rate counts in: little, and not nothing.
#[test]
fn no_price_that_is_not_nothing_is_rounded_to_nothing() {
    let tiny = Price::per_million(Usd::from_nanos(1), Usd::from_nanos(1));
    assert_ne!(tiny, Price::FREE);
    assert!(tiny.cost(&Usage { prompt: 1, ..Usage::default() }) > Usd::ZERO);
}
