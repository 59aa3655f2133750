//! A deadline is kept, whatever the jobs do.

use together_inference::{batch::LineSource, service::BatchOptions};

use super::{Shop, check, lines, rows};
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
