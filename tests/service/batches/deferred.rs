//! Requests that may wait and cannot be served in time are answered by a batch, each once.

use std::time::Duration;

use together_inference::{
    InferenceRequest,
    batch::Overflowing,
    service::{BatchOptions, Completion, ErrorKind},
    testing::Fault,
};

use super::{MODEL, Shop};
use crate::world::{route, secs};

fn ask(number: u32) -> InferenceRequest {
    InferenceRequest::chat(format!("report {number}")).model(MODEL).deferrable().deadline(secs(6 * 3_600))
}

#[tokio::test(start_paused = true)]
async fn what_the_rate_limit_keeps_out_is_answered_later_by_one_job() {
    let shop = Shop::new().await;
    shop.sim.fail_next(1_000, Fault::status(429).retry_after(Duration::from_secs(3_600)));
    let mut tickets = Vec::new();
    for number in 0..5 {
        match shop.service.complete_or_defer(ask(number)).await.unwrap() {
            Completion::Deferred(deferred) => tickets.push(deferred.ticket),
            answered => panic!("{answered:?}"),
        }
    }
    let mut answers = Vec::new();
    for ticket in &tickets {
        // The ticket is all that another process needs.
        let row = shop.another(BatchOptions::default()).deferred(ticket).await.unwrap().await.unwrap();
        answers.push(row.result.unwrap().text().to_owned());
    }
    assert_eq!((answers.len(), shop.sim.batches().len(), shop.sim.batches()[0].lines), (5, 1, 5));
    assert_eq!(shop.service.deferred("nonsense").await.unwrap_err().kind(), ErrorKind::NoBatch);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_wait_never_enters_a_batch() {
    let shop = Shop::new().await;
    shop.sim.fail_next(1_000, Fault::status(429).retry_after(Duration::from_secs(3_600)));
    let request = InferenceRequest::chat("now").model(MODEL);
    let error = shop.service.complete_or_defer(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
    tokio::time::sleep(secs(3_600)).await;
    assert_eq!(shop.sim.batches().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_may_wait_waits_for_a_price_that_is_a_fifth_lower() {
    let shop = Shop::with(BatchOptions::default(), |builder| builder.batch_percent_off(&route(MODEL), 50)).await;
    shop.sim.batch_discount(MODEL, 50);
    let Completion::Deferred(deferred) = shop.service.complete_or_defer(ask(1)).await.unwrap() else {
        panic!("it was answered at once")
    };
    assert_eq!((deferred.why, shop.sim.calls()), (Overflowing::Cheaper, 0));
    let row = shop.service.deferred(&deferred.ticket).await.unwrap().await.unwrap();
    assert_eq!(row.result.unwrap().cost.charge().nanos(), shop.sim.bill().nano_usd);
    // With less time, or an answer in the cache, it does not wait.
    let soon = ask(2).deadline(secs(2 * 3_600));
    assert!(matches!(shop.service.complete_or_defer(soon).await.unwrap(), Completion::Answered(_)));
    let known = ask(3).temperature(0.0);
    shop.service.complete(known.clone()).await.unwrap();
    assert!(matches!(shop.service.complete_or_defer(known).await.unwrap(), Completion::Answered(_)));
    shop.judge().await;
}
