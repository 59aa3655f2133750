//! A deadline is kept, whatever the jobs do.

use together_inference::{
    batch::{LineErrorKind, LineSource},
    cost::{Budget, Scope, Window},
    service::BatchOptions,
    testing::Fault,
    usd,
};

use super::{MODEL, Shop, check, lines, rows};
use crate::world::{ms, secs};

#[tokio::test(start_paused = true)]
async fn what_a_stuck_job_has_not_finished_is_answered_one_by_one_in_time() {
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder).await;
    shop.sim.stick_batches(0.6);
    let deadline = secs(4 * 3_600);
    let ticket = shop.service.batch(lines(100)).deadline(deadline).submit().await.unwrap();
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.rescued, 40, "{report}");
    let took = report.finished.duration_since(report.started).unwrap();
    assert!(took <= deadline, "it took {took:?}");
    let rows = rows(&ticket).await;
    let singly = rows.iter().filter(|row| row.result.as_ref().unwrap().source == LineSource::Realtime).count();
    assert_eq!(singly, 40);
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_no_job_can_keep_is_kept_in_realtime_at_once() {
    let shop = Shop::at_pace(ms(100), BatchOptions::default(), |builder| builder).await;
    let report = shop.service.batch(lines(5)).deadline(secs(60)).submit().await.unwrap().await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!((report.rescued, shop.sim.batches().len()), (5, 0), "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_a_deadline_waits_for_its_job() {
    let shop = Shop::at_pace(secs(60), BatchOptions::default(), |builder| builder).await;
    shop.sim.batch_time(secs(20 * 3_600));
    let report = shop.submit(lines(5)).await.await.unwrap();
    assert!(report.is_complete() && report.rescued == 0, "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_rescued_line_that_fails_is_tried_again_though_its_job_cannot_be_stopped() {
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder).await;
    shop.sim.stick_batches(0.6);
    shop.sim.fail_next_at("POST /v1/batches/*/cancel", 100_000, Fault::status(500));
    let deadline = secs(4 * 3_600);
    let ticket = shop.service.batch(lines(20)).deadline(deadline).submit().await.unwrap();
    shop.sim.fail_next_of(MODEL, 12, Fault::status(503));
    let report = ticket.await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert!(report.retried > 0, "{report}");
    let took = report.finished.duration_since(report.started).unwrap();
    assert!(took <= deadline, "it took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn lines_that_nothing_can_answer_before_the_deadline_end_there() {
    let shop =
        Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder.budget(Budget::total(usd!("100")).hard()));
    let shop = shop.await;
    shop.sim.stick_batches(0.6);
    let deadline = secs(4 * 3_600);
    let ticket = shop.service.batch(lines(20)).deadline(deadline).submit().await.unwrap();
    while shop.sim.batches().is_empty() {
        tokio::time::sleep(secs(1)).await;
    }
    // A rescue is refused now, and what is refused rests for longer than there is time.
    shop.service.budgets().set(Scope::Global, Window::Total, usd!("0.000001")).unwrap();
    let report = ticket.await.unwrap();
    check(&report);
    let kinds: Vec<_> = report.failed.iter().map(|line| line.error.kind).collect();
    assert_eq!(kinds, vec![LineErrorKind::Late; 8], "{report}");
    let took = report.finished.duration_since(report.started).unwrap();
    assert!((deadline..deadline + secs(60)).contains(&took), "it took {took:?}");
    shop.judge().await;
}
