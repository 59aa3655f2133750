//! What a batch would cost, may cost and did cost.

use std::sync::{Arc, atomic::Ordering};

use together_inference::{
    Cost, Price, RouteId, Usd,
    cost::{Budget, Unpriced},
    inference::InferenceRequest,
    service::{BatchOptions, ErrorKind, ServiceBuilder},
    testing::{Fault, SimModel},
    types::{Rng, SeededRng},
    usd,
};

use super::{MODEL, Shop, cases, line, lines};
use crate::{
    doubles::Fails,
    sinks::BadSink,
    world::{LARGE, MID, SMALL, ms, route, secs, used},
};

#[tokio::test(start_paused = true)]
async fn an_estimate_sends_nothing_and_leaves_nothing() {
    let shop = Shop::new().await;
    let mut job = shop.service.batch(lines(20));
    let plan = job.estimate().await.unwrap().clone();
    assert_eq!((plan.lines, plan.sent(), plan.chunks.len()), (20, 20, 1));
    assert!(plan.expected <= plan.at_most && !plan.at_most.is_zero());
    assert!(plan.to_string().contains("discount: none on this model"), "{plan}");
    assert_eq!((plan.chunks[0].percent_off, plan.expected), (None, plan.realtime), "{plan}");
    drop(job);
    assert_eq!(shop.sim.requests().len(), 0);
    // Nor is anything said to be saved.
    let report = shop.submit(lines(20)).await.await.unwrap();
    assert!(report.cost > Usd::ZERO && report.cost <= plan.at_most, "{report}");
    assert_eq!(shop.service.costs().saved, Usd::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_discount_of_the_model_is_in_plan_bill_and_records() {
    let shop = Shop::with(BatchOptions::default(), |builder| builder.batch_percent_off(&route(MODEL), 50)).await;
    shop.sim.batch_discount(MODEL, 50);
    let mut job = shop.service.batch(lines(10));
    let plan = job.estimate().await.unwrap();
    assert_eq!(plan.chunks[0].percent_off, Some(50), "{plan}");
    assert!(plan.expected < plan.realtime);
    let report = job.submit().await.unwrap().await.unwrap();
    assert_eq!(report.cost.nanos(), shop.sim.bill().nano_usd, "{report}");
    let records = shop.costs.records();
    assert!(records.iter().all(|record| record.saved.charge() > Usd::ZERO));
    shop.judge().await;
}

/// The bound holds for every job, whatever its lines are and however often they go out.
#[tokio::test(start_paused = true)]
async fn no_job_costs_more_than_its_upper_bound() {
    let rng = SeededRng::new(7);
    let below = |most: u64| rng.next_u64() % most;
    let half = |builder: ServiceBuilder| builder.batch_percent_off(&route(LARGE), 50);
    let shop = Shop::with(BatchOptions::default().jobs(2_000), half).await;
    shop.sim.batch_discount(LARGE, 50);
    shop.sim.on_batch_row("flaky").times(100).fails();
    let texts = ["word ", "\u{1f980}", "\u{e9}t\u{e9} ", "{\"a\":[1,2]} ", "\\n\\n", "\u{5b57}"];
    let (mut waiting, jobs) = (Vec::new(), cases(100));
    for job in 0..jobs {
        let requests: Vec<_> = (0..=below(6))
            .map(|number| {
                let words = texts[below(6) as usize].repeat(below(80) as usize);
                let flaky = if below(5) == 0 { "flaky" } else { "" };
                let ask = InferenceRequest::chat(format!("{job} {number} {flaky} {words}"));
                let ask = ask.model([LARGE, MID, SMALL][below(3) as usize]);
                let ask = if below(3) == 0 { ask.system(words) } else { ask };
                // Without a bound of its own an answer has the service's.
                if below(4) == 0 { ask } else { ask.max_tokens(1 + below(200) as u32) }
            })
            .collect();
        let mut job = shop.service.batch(requests);
        let at_most = job.estimate().await.unwrap().at_most;
        waiting.push((at_most, job.submit().await.unwrap()));
    }
    for (at_most, ticket) in waiting {
        let report = ticket.await.unwrap();
        assert!(report.is_complete() && report.cost <= at_most, "{at_most}: {report}");
    }
    assert!(shop.sim.batches().len() as u64 >= jobs);
    // The reports add up to the bill.
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_cost_too_much_is_refused_before_anything_is_sent() {
    let shop = Shop::new().await;
    let refused = shop.service.batch(lines(20)).max_cost(usd!("0.000001")).submit().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OverBudget, "{refused}");
    assert_eq!(shop.sim.requests().len(), 0);
    assert!(shop.service.batch(lines(2)).max_cost(usd!("5")).submit().await.unwrap().await.unwrap().is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_model_without_a_price_is_unpriced_and_not_free() {
    let model = "acme/Unheard-1B";
    let route = RouteId::new("together", model);
    let shop = Shop::with(BatchOptions::default(), |builder| builder).await;
    let requests = || vec![line(0).model(route.clone())];
    let mut job = shop.service.batch(requests());
    let plan = job.estimate().await.unwrap();
    assert_eq!((plan.unpriced_lines, plan.at_most), (1, Usd::ZERO), "{plan}");
    let refused = shop.service.batch(requests()).max_cost(usd!("5")).submit().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unpriced, "{refused}");
}

/// Scenario: a hard budget, and a model without a price for which one is assumed.
/// Expected: its lines are sent, and set aside and charged by that price; their records stay without one.
#[tokio::test(start_paused = true)]
async fn a_price_that_is_assumed_is_charged_to_budgets_for_batches_too() {
    let price = Price::per_million(usd!("0"), usd!("100"));
    let shop = Shop::with(BatchOptions::default(), |builder| {
        builder.budget(Budget::total(usd!("1")).hard()).unpriced(Unpriced::Assume(price))
    })
    .await;
    shop.sim.add_model(SimModel::chat("acme/Unheard-1B").price(0, 0));
    let requests = (0..3).map(|number| line(number).model(RouteId::new("together", "acme/Unheard-1B"))).collect();
    let report = shop.submit(requests).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert!(shop.service.flush().await);
    let records = shop.costs.records();
    assert!(records.len() == 3 && records.iter().all(|record| record.cost == Cost::Unpriced && record.batch.is_some()));
    let charged: Usd = records.iter().map(|record| price.cost(&record.usage)).sum();
    assert!(charged > Usd::ZERO);
    assert_eq!(used(&shop.service).await, (charged, Usd::ZERO));
}

/// Scenario: a sink of the application's own that fails, panics or hangs, beside the ledger.
/// Expected: the batch is settled all the same, and the ledger has every record: the other one is offered them five times.
#[tokio::test(start_paused = true)]
async fn a_sink_that_takes_nothing_holds_back_no_batch_that_the_ledger_has() {
    for fails in [Fails::Errs, Fails::Panics, Fails::Hangs] {
        let offers = Arc::default();
        let sink = BadSink(fails, Arc::clone(&offers));
        let shop = Shop::with(BatchOptions::default(), |builder| builder.cost_sink(sink)).await;
        let ticket = shop.submit(lines(5)).await;
        let report = tokio::time::timeout(secs(7_200), ticket).await.expect("it is held back").unwrap();
        assert!(report.is_complete(), "{fails:?}: {report}");
        tokio::time::sleep(secs(100)).await;
        assert_eq!(offers.load(Ordering::SeqCst), 6, "{fails:?}: at once, and five times with pauses");
        assert_eq!(shop.service.health().records_lost, 0, "{fails:?}");
        shop.judge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hard_budget_holds_for_batches_too() {
    let shop = Shop::with(BatchOptions::default(), |builder| builder.budget(Budget::total(usd!("0.01")).hard())).await;
    let report = shop.submit(lines(3)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(used(&shop.service).await, (report.cost, Usd::ZERO), "spent what it cost, and nothing is set aside");
    // Thousands of lines that may cost more than what is left wait, and are not sent.
    let dear: Vec<_> = (0..50).map(|number| line(number).max_tokens(4_000)).collect();
    let ticket = shop.submit(dear).await;
    let sent = shop.sim.batches().len();
    let waited = tokio::time::timeout(secs(600), ticket.clone()).await;
    assert!(waited.is_err(), "it was sent over the budget");
    assert_eq!(shop.sim.batches().len(), sent);
    assert_eq!(used(&shop.service).await, (report.cost, Usd::ZERO), "what has no room sets nothing aside");
    shop.judge().await;
}

/// Each line has its usage and its cost; their sum is what the job cost, however often its file was read.
#[tokio::test(start_paused = true)]
async fn lines_add_up_to_their_job_and_are_settled_once_however_often_it_is_read() {
    let half =
        |builder: ServiceBuilder| builder.batch_percent_off(&route(MODEL), 50).budget(Budget::total(usd!("5")).soft());
    let shop = Shop::at_pace(ms(500), BatchOptions::default(), half).await;
    shop.sim.batch_discount(MODEL, 50);
    shop.sim.batch_time(secs(30));
    let ticket = shop.submit(lines(600)).await;
    // The first two times it breaks off after the first rows were paid, and cannot be gone on with.
    let content = "GET /v1/files/*/content";
    for _ in 0..2 {
        shop.sim.cut_downloads(1, 250_000);
        let read = shop.sim.asked(content);
        while shop.sim.asked(content) == read {
            tokio::time::sleep(ms(100)).await;
        }
        shop.sim.fail_next_at(content, 1_000, Fault::status(500));
        tokio::time::sleep(secs(55)).await;
        shop.sim.heal();
    }
    let report = ticket.clone().await.unwrap();
    assert!(report.is_complete(), "{report}");
    let whole =
        shop.sim.requests().iter().filter(|sent| sent.path.ends_with("/content") && sent.method == "GET").count();
    assert!(whole >= 3, "it was read {whole} times");

    let (mut cost, mut tokens) = (0, 0);
    for row in super::rows(&ticket).await {
        let answer = row.result.unwrap();
        assert!(answer.usage().completion > 0 && answer.cost.charge() > Usd::ZERO);
        cost += answer.cost.charge().nanos();
        tokens += answer.usage().total();
    }
    let bill = shop.sim.bill();
    assert_eq!((cost, tokens), (report.cost.nanos(), report.usage.total()));
    assert_eq!((cost, tokens), (bill.nano_usd, bill.prompt_tokens + bill.completion_tokens));
    shop.judge().await;
    assert_eq!(used(&shop.service).await, (report.cost, Usd::ZERO), "a budget was charged for each reading");
    let totals = shop.service.costs();
    assert_eq!((totals.attempts, totals.known), (600, report.cost), "the sums count each reading");
    assert_eq!(totals.saved, report.cost, "half of the price was saved");
}
