//! What the provider takes at a time.

use std::{future::IntoFuture, time::Duration};

use together_inference::service::BatchOptions;
use tokio::time::Instant;

use super::{Shop, cases, line};
use crate::world::{ms, secs};

#[tokio::test(start_paused = true)]
async fn lines_are_cut_into_as_few_chunks_as_fit_one_model_each() {
    let shop = Shop::with(BatchOptions::default().chunk_lines(50), |builder| builder).await;
    let models = ["zai-org/GLM-5.3", "deepseek-ai/DeepSeek-V4.1-Flash"];
    let requests: Vec<_> = (0..240).map(|number| line(number).model(models[number % 2])).collect();
    let mut job = shop.service.batch(requests);
    let plan = job.estimate().await.unwrap();
    assert_eq!(plan.chunks.iter().map(|chunk| chunk.lines).sum::<u64>(), 240);
    assert_eq!(plan.chunks.len(), 6, "three of each model: {plan}");
    let report = job.submit().await.unwrap().await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(shop.sim.batches().len(), 6);
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_line_that_the_provider_would_not_take_is_refused_before_it_is_sent() {
    let shop = Shop::new().await;
    let long = together_inference::InferenceRequest::chat("x".repeat(10_000_000)).model(super::MODEL);
    let mut job = shop.service.batch([line(0), long]);
    let plan = job.estimate().await.unwrap();
    assert_eq!((plan.refused_lines, plan.sent()), (1, 1), "{plan}");
    let report = job.submit().await.unwrap().await.unwrap();
    assert_eq!((report.succeeded, report.failed.len(), report.failed[0].index), (1, 1, 1), "{report}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_jobs_are_out_than_may_be() {
    let shop = Shop::with(BatchOptions::default().chunk_lines(5).jobs(3), |builder| builder).await;
    let ticket = shop.submit(super::lines(50)).await;
    let mut most = 0;
    let mut waiting = Box::pin(ticket.into_future());
    let report = loop {
        tokio::select! {
            report = &mut waiting => break report.unwrap(),
            () = tokio::time::sleep(secs(5)) => {
                let out = shop.sim.batches().iter().filter(|job| job.status == "IN_PROGRESS" || job.status == "VALIDATING").count();
                most = most.max(out);
            }
        }
    };
    assert!(report.is_complete(), "{report}");
    assert!((1..=3).contains(&most), "{most} jobs were out");
    assert_eq!(shop.sim.batches().len(), 10);
    shop.judge().await;
}

/// The most list calls within so many seconds.
fn most_lists(times: &[Instant], within: Duration) -> usize {
    times
        .iter()
        .map(|at| times.iter().filter(|other| *other >= at && **other < *at + within).count())
        .max()
        .unwrap_or(0)
}

/// Runs so many jobs of a line each, of which so many were created without anybody hearing of it; the most list calls in
/// half a minute.
async fn lists(jobs: u64, lost: u32) -> usize {
    let options = BatchOptions::default().chunk_lines(1).jobs(2_000);
    // No try is to be in doubt only because time goes faster than a machine that has much to do.
    let shop = Shop::at_pace(ms(200), options, |builder| builder).await;
    shop.sim.batch_time(secs(900));
    shop.sim.lose_reply("POST /v1/batches", lost);
    let mut waiting = Box::pin(shop.submit(super::lines(jobs as usize)).await.into_future());
    let begun = Instant::now();
    let (mut times, mut seen) = (Vec::new(), 0);
    let report = loop {
        tokio::select! {
            report = &mut waiting => break report.unwrap(),
            () = tokio::time::sleep(secs(5)) => {
                let lists = shop.sim.asked("GET /v1/batches") as usize;
                times.extend(std::iter::repeat_n(Instant::now(), lists - seen));
                seen = lists;
                if shop.sim.batches().len() as u64 == jobs {
                    shop.set_pace(secs(5));
                }
            }
        }
    };
    assert!(report.is_complete(), "{report}");
    assert_eq!(shop.sim.batches().len() as u64, jobs, "one job a chunk");
    let most = begun.elapsed().as_secs() as usize / 30 + 2;
    assert!(lost > 0 || seen <= most, "{seen} lists in {:?}", begun.elapsed());
    shop.judge().await;
    // Time goes on by five seconds, so that the moment of a call is known no better.
    most_lists(&times, secs(25))
}

#[tokio::test(start_paused = true)]
async fn however_many_jobs_there_are_one_list_call_in_half_a_minute_tells_of_all() {
    let most = lists(1_000, 0).await;
    assert_eq!(most, 1, "lists in half a minute");
}

#[tokio::test(start_paused = true)]
async fn however_many_tries_are_in_doubt_the_list_is_asked_for_two_looks_at_all_of_them() {
    let most = lists(cases(40), (cases(40) / 2) as u32).await;
    // Beside the look at the jobs that run.
    assert!(most <= 4, "{most} lists in half a minute");
}
