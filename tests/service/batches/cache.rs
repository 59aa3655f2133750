//! Lines that need no provider, and answers that others need none for.

use together_inference::{batch::LineSource, cost::Ending};

use super::{Shop, line, lines, rows};

#[tokio::test(start_paused = true)]
async fn cached_and_repeated_lines_are_never_sent_and_answers_fill_the_cache() {
    let shop = Shop::new().await;
    for number in 0..40 {
        shop.service.complete(line(number)).await.unwrap();
    }
    let calls = shop.sim.calls();
    // 40 that are cached, 50 that are not, and one of those nine times more.
    let mut asked = lines(91);
    asked.extend((0..9).map(|_| line(90)));
    let mut job = shop.service.batch(asked.clone());
    let plan = job.estimate().await.unwrap().clone();
    assert_eq!((plan.lines, plan.cached, plan.duplicates, plan.sent()), (100, 40, 9, 51), "{plan}");
    let ticket = job.submit().await.unwrap();
    let report = ticket.clone().await.unwrap();
    assert_eq!((report.succeeded, report.from_cache, report.deduplicated), (100, 40, 9), "{report}");
    assert_eq!(shop.sim.batches()[0].lines, 51);
    let rows = rows(&ticket).await;
    assert_eq!(rows[0].result.as_ref().unwrap().source, LineSource::Cache);
    assert_eq!(rows[99].result.as_ref().unwrap().source, LineSource::Duplicate);
    assert_eq!(rows[99].result.as_ref().unwrap().text(), rows[90].result.as_ref().unwrap().text());
    let hits = shop.costs.records().iter().filter(|record| record.ending == Ending::Hit).count();
    assert_eq!(hits, 40, "what the cache saved is on record");

    for request in asked.clone() {
        assert!(shop.service.complete(request).await.unwrap().source.is_cached());
    }
    assert_eq!(shop.sim.calls(), calls, "a batch's answers are those of complete");
    let again = shop.submit(asked).await.await.unwrap();
    assert_eq!((again.from_cache, again.cost.nanos(), shop.sim.batches().len()), (100, 0, 1), "{again}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn another_tenant_gets_nothing_of_it() {
    let shop = Shop::new().await;
    shop.service.for_tenant("acme").batch(lines(5)).submit().await.unwrap().await.unwrap();
    let mut job = shop.service.for_tenant("other").batch(lines(5));
    assert_eq!(job.estimate().await.unwrap().cached, 0);
}

#[tokio::test(start_paused = true)]
async fn lines_that_are_answered_at_random_are_each_sent() {
    let shop = Shop::new().await;
    let mut job = shop.service.batch((0..5).map(|_| line(0).temperature(1.0)));
    let plan = job.estimate().await.unwrap();
    assert_eq!((plan.duplicates, plan.sent()), (0, 5));
}
