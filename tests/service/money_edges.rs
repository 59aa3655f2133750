//! Money where something goes wrong: no price, no budget, failures, leaks.

use std::sync::Arc;

use together_inference::{
    Cost, InferenceService, Price, UsageSource, Usd,
    client::ErrorKind as Wire,
    cost::{Budget, Ending, MemoryCosts, Scope},
    inference::{Origin, Source},
    limit::Limits,
    router::{CatalogRouter, ModelRoute},
    service::{ErrorKind, ServiceBuilder},
    testing::{Fault, SimModel, Together},
    usd,
};
use tokio::time::sleep;

use crate::{
    books::Books,
    doubles::Remote,
    world::{LARGE, MID, SMALL, World, ask, ms, muse, poll_at_most, route, secs, used},
};

#[tokio::test(start_paused = true)]
async fn a_hit_is_free_and_says_what_it_saved() {
    let world = World::new();
    let paid = world.service.complete(ask("why?")).await.unwrap();
    for _ in 0..3 {
        let hit = world.service.complete(ask("why?")).await.unwrap();
        assert_eq!(
            (hit.source(), hit.cost(), hit.saved),
            (Source::Cache(Origin::Memory), Cost::Known(Usd::ZERO), paid.cost())
        );
        assert!(hit.attempts.is_empty());
    }
    let records = world.at_rest().await;
    assert_eq!(records.iter().filter(|record| record.ending == Ending::Hit && record.saved == paid.cost()).count(), 3);
    let totals = world.service.costs();
    assert_eq!((totals.hits, totals.attempts), (3, 1));
    assert_eq!(totals.saved.nanos(), 3 * world.sim.bill().nano_usd);
}

#[tokio::test(start_paused = true)]
async fn a_model_without_a_price_is_never_free_and_never_within_a_budget() {
    let sim = Together::new();
    sim.add_model(SimModel::chat("acme/unpriced"));
    let costs = MemoryCosts::default();
    let service = InferenceService::builder(sim.client()).cost_sink(costs.clone()).build().unwrap();
    let reply = service.complete(ask("why?").model("acme/unpriced")).await.unwrap();
    assert_eq!(reply.cost(), Cost::Unpriced);
    assert_eq!(service.complete(ask("why?").model("acme/unpriced")).await.unwrap().saved, Cost::Unpriced);
    let stream = service.stream(muse("why?").model("acme/unpriced")).await.unwrap();
    assert_eq!(stream.finish().await.unwrap().cost(), Cost::Unpriced);
    drop(service.stream(muse("why?").model("acme/unpriced")).await.unwrap());
    assert!(service.flush().await);
    for record in costs.records().iter().filter(|record| record.ending != Ending::Hit) {
        assert_eq!(record.cost, Cost::Unpriced);
    }
    assert_eq!(service.costs().unpriced, 3);
    Books::new(&sim, &costs).add_up();

    let world = World::with(|builder| builder.budget(Budget::daily(usd!("25"))));
    world.sim.add_model(SimModel::chat("acme/unpriced"));
    let refused = world.service.complete(ask("why?").model("acme/unpriced")).await.unwrap_err();
    assert_eq!((refused.kind(), world.calls()), (ErrorKind::Unpriced, 0));
    let refused = world.service.stream(muse("why?").model("acme/unpriced")).await.unwrap_err();
    assert_eq!((refused.kind(), world.calls()), (ErrorKind::Unpriced, 0));
    let hard = |builder: ServiceBuilder| builder.budget(Budget::daily(usd!("25")));
    let free = World::with(|builder| hard(builder).price(&route("acme/unpriced"), Price::FREE));
    free.sim.add_model(SimModel::chat("acme/unpriced"));
    let reply = free.service.complete(ask("why?").model("acme/unpriced")).await.unwrap();
    assert_eq!(reply.cost(), Cost::Known(Usd::ZERO), "free by the application's own word");
    free.at_rest_at_own_prices().await;
}

#[tokio::test(start_paused = true)]
async fn a_price_that_changes_in_flight_does_not_touch_the_record() {
    // Scenario: prices are ten times higher from the middle of a call on.
    // Expected: that call costs what the provider bills for it, the old price; the next one the new.
    let world = World::new();
    world.sim.latency_of(LARGE, secs(1));
    let call = world.spawn(muse("why?").model(LARGE));
    sleep(ms(500)).await;
    world.sim.set_price(LARGE, 14_000_000, 44_000_000);
    assert!(world.service.refresh_catalogue().await.failures.is_empty());
    let old = call.await.unwrap().unwrap();
    assert_eq!(old.cost().known().unwrap().nanos(), world.sim.bill().lines[0].nano_usd);
    let new = world.service.complete(muse("why?").model(LARGE)).await.unwrap();
    assert_eq!(new.cost().known().unwrap().nanos(), world.sim.bill().lines[1].nano_usd);
    let records = world.at_rest().await;
    assert_eq!(records[0].price, Some(Price::per_million(usd!("1.40"), usd!("4.40")).cached(usd!("0.26"))));
    assert_ne!(records[1].price, records[0].price);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_may_have_been_billed_is_recorded_at_its_upper_bound() {
    // Scenario: the first model never answers and is given up after a second; the second one answers.
    // Expected: two records, the first at its upper bound, which the response shows too.
    let world = World::new();
    world.sim.fail_next_of(LARGE, 1, Fault::disconnect());
    let request = muse("why?").models([LARGE, MID]).max_tokens(100);
    let reply = world.service.complete(request).await.unwrap();
    let records = world.at_rest().await;
    assert_eq!((records.len(), reply.attempts.len()), (2, 2));
    assert!(matches!(records[0].cost, Cost::Unknown { at_most } if at_most > Usd::ZERO));
    assert_eq!((records[0].usage_source, records[1].usage_source), (UsageSource::UpperBound, UsageSource::Reported));
    assert_eq!(reply.cost(), records[0].cost.plus(records[1].cost));
    assert_eq!(records[0].request, records[1].request);
}

/// A repeated request is charged for each of its attempts: what may have been billed at its upper bound, what was
/// answered at what it cost. None of them hides behind the other.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_repeated_after_a_time_out_is_charged_for_both_attempts() {
    // Scenario: the first attempt is sent and never answered until it is given up; the second one is answered.
    // Expected: one request with two records, and the budgets are charged for both, upper bound and actual cost.
    let tenant = || Scope::tenant("acme");
    let world = World::with(|builder| builder.budget(Budget::daily(usd!("5")).hard().of(tenant())));
    world.sim.fail_next_of(LARGE, 1, Fault::hang());
    let request = muse("why?").models([LARGE, MID]).max_tokens(100).tenant("acme").deadline(secs(600));
    let reply = world.service.complete(request).await.unwrap();
    let records = world.at_rest().await;
    let [lost, answered] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(reply.attempts[0].error, Some(Wire::Timeout));
    assert_eq!((lost.request, lost.ending), (answered.request, Ending::Failed(Wire::Timeout)));
    assert_ne!(lost.attempt, answered.attempt);
    let (Cost::Unknown { at_most }, Cost::Known(actual)) = (lost.cost, answered.cost) else { panic!("{records:?}") };
    assert!(at_most > Usd::ZERO && actual > Usd::ZERO);
    assert_eq!(reply.cost(), Cost::Unknown { at_most: at_most + actual });
    let budget = world.service.budgets().remaining(&tenant()).await.unwrap().remove(0);
    assert_eq!((budget.spent, budget.reserved, budget.calls), (at_most + actual, Usd::ZERO, 2));
}

#[tokio::test(start_paused = true)]
async fn responses_never_cost_more_than_the_records_and_nothing_leaks() {
    // Scenario: a few hundred calls of every kind, some cancelled, some failing, some streamed and dropped, shared and
    // cached ones among them; with budgets that settle at once and with remote ones.
    // Expected: the responses' costs are covered by the records, nothing stays reserved, in flight or open.
    for remote in [false, true] {
        let world = World::with(|builder| builder);
        let world = if remote {
            let budgets = Arc::clone(&world.budgets);
            let service = InferenceService::builder(world.sim.client())
                .cost_sink(world.costs.clone())
                .budget(Budget::total(usd!("1000000")).soft())
                .budget_store(Remote(budgets))
                .build()
                .unwrap();
            World { service, ..world }
        } else {
            world
        };
        world.sim.latency(ms(30));
        world.sim.token_latency(ms(5));
        for model in [LARGE, MID, SMALL] {
            world.sim.fail_share_of(model, 0.15, Fault::status(503));
            world.sim.fail_share_of(model, 0.1, Fault::disconnect());
            world.sim.fail_share_of(model, 0.05, Fault::error_after(3));
        }
        let mut paid = Usd::ZERO;
        for number in 0_usize..400 {
            let request = if number % 2 == 0 { ask((number % 20).to_string()) } else { muse(number.to_string()) };
            let request = request.models([LARGE, MID, SMALL]);
            let reply = match number % 5 {
                0 => poll_at_most(number % 7, world.service.complete(request)).await,
                1 => Some(world.service.complete(request.deadline(ms(20 + number as u64 % 30))).await),
                2 => match world.service.stream(request).await {
                    Ok(mut stream) if number % 3 == 0 => {
                        stream.next().await;
                        None
                    }
                    Ok(stream) => Some(stream.finish().await),
                    Err(error) => Some(Err(error)),
                },
                _ => Some(world.service.complete(request).await),
            };
            if let Some(Ok(reply)) = reply {
                paid += reply.cost().charge();
            }
        }
        sleep(secs(1)).await;
        let records = world.at_rest().await;
        let recorded: Usd = records.iter().map(|record| record.cost.charge()).sum();
        assert!(paid <= recorded && paid > Usd::ZERO, "{paid} {recorded}");
        let known: Usd = records.iter().filter_map(|record| record.cost.known()).sum();
        assert!(known.nanos() <= world.sim.bill().nano_usd * 11 / 10, "{known} {}", world.sim.bill().nano_usd);
        assert!(recorded.nanos() >= world.sim.bill().nano_usd * 9 / 10, "{recorded} {}", world.sim.bill().nano_usd);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hard_budget_is_never_overshot_and_another_model_may_still_fit() {
    let sim = Together::new();
    sim.latency(secs(1));
    let service = InferenceService::builder(sim.client()).budget(Budget::total(usd!("0.01"))).build().unwrap();
    // 200 tokens at $4.40 a million and a short prompt: at most $0.0009 each.
    let calls: Vec<_> = (0..200)
        .map(|number| crate::world::spawn(service.complete(muse(number.to_string()).model(LARGE).max_tokens(200))))
        .collect();
    sleep(ms(500)).await;
    let (spent, reserved) = used(&service).await;
    assert!(spent + reserved <= usd!("0.01") && reserved > usd!("0.008"), "{spent} {reserved}");
    let admitted = sim.calls();
    for call in calls {
        if let Err(error) = call.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::OverBudget);
            assert_eq!(error.over_budget().unwrap().scope, Scope::Global);
            assert!(error.attempts().is_empty());
        }
    }
    assert_eq!(sim.calls(), admitted);
    assert!(used(&service).await.0 <= usd!("0.01"));
}

#[tokio::test(start_paused = true)]
async fn anothers_empty_budget_refuses_nobody_else() {
    // Scenario: the same question at the same time from a session whose budget is used up, which comes first, and from
    // 20 callers of others.
    // Expected: that session is refused, the others are answered by one upstream call.
    let (sim, empty) = (Together::new(), Scope::Session("empty".into()));
    sim.latency(ms(100));
    let builder = InferenceService::builder(sim.client()).budget(Budget::total(Usd::ZERO).of(empty));
    let service = builder.budget(Budget::total(usd!("1000"))).build().unwrap();
    let refused: Vec<_> = (0..5).map(|_| crate::world::spawn(service.complete(ask("why?").session("empty")))).collect();
    let others: Vec<_> = (0..20)
        .map(|number| crate::world::spawn(service.complete(ask("why?").session(format!("{}", number % 3)))))
        .collect();
    for call in refused {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::OverBudget);
    }
    for call in others {
        call.await.unwrap().unwrap();
    }
    assert_eq!((sim.calls(), service.health().coalescing), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_remote_budget_counts_the_model_that_answers_after_one_was_passed_over() {
    // Scenario: a store that cannot settle at once; the first choice is full, the second one answers.
    // Expected: what the second one cost is spent, though the first one's reservation was given back before.
    let full = Limits::default().max_waiting(0).concurrency(1);
    let world = World::with(|builder| builder.limits_of(route(LARGE), full));
    let service = InferenceService::builder(world.sim.client())
        .cost_sink(world.costs.clone())
        .budget(Budget::total(usd!("1000000")).soft())
        .budget_store(Remote(Arc::clone(&world.budgets)))
        .limits_of(route(LARGE), full)
        .build()
        .unwrap();
    let world = World { service, ..world };
    world.sim.latency(secs(1));
    let hog = world.spawn(muse("hog").model(LARGE));
    sleep(ms(100)).await;
    let reply = world.service.complete(muse("why?").models([LARGE, MID])).await.unwrap();
    assert_eq!((reply.model().as_str(), reply.attempts.len()), (MID, 1));
    hog.await.unwrap().unwrap();
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_free_model_on_ones_own_server_costs_nothing_but_is_recorded() {
    let (sim, local, costs) = (Together::new(), Together::new(), MemoryCosts::default());
    local.add_model(SimModel::chat("qwen3-8b"));
    let router = CatalogRouter::builtin().with(ModelRoute::new("local", "qwen3-8b").price(Price::FREE));
    let service = InferenceService::builder(sim.client())
        .upstream("local", local.client())
        .router(router)
        .cost_sink(costs.clone())
        .build()
        .unwrap();
    let reply = service.complete(muse("why?").model("qwen3-8b")).await.unwrap();
    assert_eq!((reply.cost(), sim.calls(), local.calls()), (Cost::Known(Usd::ZERO), 0, 1));
    assert!(service.flush().await);
    assert!(costs.records()[0].usage.total() > 0);
}
