//! Lines that have no answer after a round: which go again, which never will, and what is told of them.

use together_inference::{batch::LineErrorKind, service::BatchOptions, testing::Fault};

use super::{MODEL, Shop, check, lines, rows};

fn jobs_alone() -> BatchOptions {
    BatchOptions::default().singly_below(0)
}

/// 37 error rows (20 that pass, 17 that do not), five missing, three twice, one of nobody, one that is no JSON.
#[tokio::test(start_paused = true)]
async fn the_second_round_has_exactly_what_may_still_succeed() {
    let shop = Shop::with(jobs_alone(), |builder| builder).await;
    let text = |number: usize| format!("line {number:06}.");
    for number in 0..20 {
        shop.sim.on_batch_row(text(number * 7)).times(1).fails();
    }
    for number in 0..17 {
        shop.sim.on_batch_row(text(300 + number)).refuses("Maximum four stop sequences allowed");
    }
    for number in 0..5 {
        shop.sim.on_batch_row(text(500 + number)).times(1).missing();
    }
    for number in 0..3 {
        shop.sim.on_batch_row(text(600 + number)).times(1).twice();
    }
    shop.sim.on_batch_row(text(700)).times(1).alien();
    shop.sim.on_batch_row(text(800)).times(1).malformed();

    let ticket = shop.submit(lines(1_000)).await;
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert_eq!(report.jobs.iter().map(|job| job.lines).collect::<Vec<_>>(), [1_000, 26], "{report}");
    assert_eq!((report.succeeded, report.failed.len(), report.retried), (983, 17, 26), "{report}");
    for failure in &report.failed {
        assert_eq!(failure.error.kind, LineErrorKind::Invalid);
        assert_eq!(&*failure.error.code, "batch_client_error");
        assert_eq!(&*failure.error.message, "Maximum four stop sequences allowed");
        assert_eq!((failure.attempts, failure.billed.nanos()), (1, 0));
    }
    let rows = rows(&ticket).await;
    assert!(rows.iter().zip(0..).all(|(row, number)| row.index == number));
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_few_lines_that_failed_are_answered_one_by_one() {
    let shop = Shop::new().await;
    shop.sim.on_batch_row("line 000003.").fails();
    let report = shop.submit(lines(10)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!((report.jobs.len(), report.retried, shop.sim.batches().len()), (1, 1, 1), "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_line_is_given_up_after_three_rounds_with_the_last_word_on_it() {
    let shop = Shop::with(jobs_alone(), |builder| builder).await;
    shop.sim.on_batch_row("line 000001.").fails();
    shop.sim.on_batch_row("line 000002.").missing();
    let report = shop.submit(lines(5)).await.await.unwrap();
    check(&report);
    assert_eq!((report.jobs.len(), report.succeeded), (3, 3), "{report}");
    let [failed, missing] = &report.failed[..] else { panic!("{report}") };
    assert_eq!((failed.error.kind, &*failed.error.message), (LineErrorKind::Transient, "Internal server error"));
    assert_eq!((missing.error.kind, missing.attempts), (LineErrorKind::Missing, 3));
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_code_that_nobody_knows_is_tried_once_more() {
    let shop = Shop::with(jobs_alone(), |builder| builder).await;
    shop.sim.on_batch_row("line 000001.").error("quota_zone_7", "no");
    let report = shop.submit(lines(3)).await.await.unwrap();
    assert_eq!((report.jobs.len(), report.failed.len()), (2, 1), "{report}");
    assert_eq!((&*report.failed[0].error.code, report.failed[0].attempts), ("quota_zone_7", 2));
}

#[tokio::test(start_paused = true)]
async fn an_expired_job_keeps_what_it_finished_and_the_rest_goes_again() {
    let shop = Shop::with(jobs_alone(), |builder| builder).await;
    shop.sim.expire_batches(1, 0.6);
    let report = shop.submit(lines(1_000)).await.await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.jobs.iter().map(|job| job.lines).collect::<Vec<_>>(), [1_000, 400], "{report}");
    assert_eq!(&*report.jobs[0].status, "EXPIRED");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_failed_as_a_whole_is_not_repeated_blindly() {
    let shop = Shop::new().await;
    shop.sim.fail_batches(1, "Invalid JSON on line 7");
    let report = shop.submit(lines(5)).await.await.unwrap();
    check(&report);
    assert_eq!((report.failed.len(), shop.sim.batches().len()), (5, 1), "{report}");
    assert!(report.failed.iter().all(|failure| failure.error.kind == LineErrorKind::JobFailed));
    assert_eq!(&*report.failed[0].error.message, "Invalid JSON on line 7", "in the provider's own words");
    assert_eq!(report.jobs[0].error.as_deref(), Some("Invalid JSON on line 7"));
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_refuses_batches_is_remembered_for_a_day() {
    let shop = Shop::new().await;
    shop.sim.refuse_batches(MODEL);
    let first = shop.submit(lines(3)).await.await.unwrap();
    assert!(first.is_complete(), "{first}");
    let uploads = shop.asked("POST", "/v1/files");
    assert!(uploads > 0);
    let mut job = shop.service.batch(lines(5));
    assert!(job.estimate().await.unwrap().chunks[0].one_by_one.is_some());
    let second = job.submit().await.unwrap().await.unwrap();
    assert!(second.is_complete(), "{second}");
    assert_eq!(shop.asked("POST", "/v1/files"), uploads, "nothing is uploaded for a model that refuses");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_provider_lost_is_sent_again() {
    let shop = Shop::with(jobs_alone(), |builder| builder).await;
    shop.sim.fail_batches(1, "Failed to download input file");
    let report = shop.submit(lines(3)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.jobs.len(), 2, "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_refused_for_a_while_costs_no_line_its_answer() {
    let shop = Shop::new().await;
    shop.sim.fail_next_at("POST /v1/files", 2, Fault::status(401));
    let report = shop.submit(lines(3)).await.await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!((report.jobs.len(), report.retried), (1, 0), "{report}");
    shop.judge().await;
}
