//! What a batch would cost, may cost and did cost.

use together_inference::{
    Price, RouteId, Usd,
    cost::Budget,
    inference::InferenceRequest,
    service::{BatchOptions, ErrorKind},
    types::SeededRng,
    usd,
};

use super::{MODEL, Shop, line, lines};
use crate::world::{route, secs, used};

#[tokio::test(start_paused = true)]
async fn an_estimate_sends_nothing_and_leaves_nothing() {
    let shop = Shop::new().await;
    let mut job = shop.service.batch(lines(20));
    let plan = job.estimate().await.unwrap();
    assert_eq!((plan.lines, plan.sent(), plan.chunks.len()), (20, 20, 1));
    assert!(plan.expected <= plan.at_most && !plan.at_most.is_zero());
    assert!(plan.to_string().contains("discount: none on this model"), "{plan}");
    drop(job);
    assert_eq!(shop.sim.requests().len(), 0);
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

/// The bound holds for every job, whatever its lines are.
#[tokio::test(start_paused = true)]
async fn no_job_costs_more_than_its_upper_bound() {
    use together_inference::types::Rng;

    let rng = SeededRng::new(7);
    let shop = Shop::new().await;
    let mut billed = 0;
    for job in 0..20 {
        let count = 1 + rng.next_u64() % 6;
        let requests: Vec<_> = (0..count)
            .map(|number| {
                let words = "word ".repeat(usize::try_from(rng.next_u64() % 60).unwrap());
                InferenceRequest::chat(format!("{job} {number} {words}"))
                    .model(MODEL)
                    .max_tokens(1 + (rng.next_u64() % 99) as u32)
            })
            .collect();
        let mut job = shop.service.batch(requests);
        let at_most = job.estimate().await.unwrap().at_most;
        let report = job.submit().await.unwrap().await.unwrap();
        let now = shop.sim.bill().nano_usd;
        assert!(report.is_complete() && at_most.nanos() >= now - billed, "{report}");
        billed = now;
    }
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
    let _ = Price::FREE;
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
