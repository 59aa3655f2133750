//! What the provider takes at a time.

use together_inference::service::BatchOptions;

use super::{Shop, line};

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
            () = tokio::time::sleep(crate::world::secs(5)) => {
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

#[tokio::test(start_paused = true)]
async fn however_many_jobs_there_are_one_list_call_tells_of_all() {
    let shop = Shop::with(BatchOptions::default().chunk_lines(1), |builder| builder).await;
    shop.sim.batch_time(crate::world::secs(3_600));
    let ticket = shop.submit(super::lines(40)).await;
    let begun = tokio::time::Instant::now();
    let report = ticket.await.unwrap();
    assert!(report.is_complete(), "{report}");
    let lists =
        shop.sim.requests().iter().filter(|request| request.method == "GET" && request.path == "/v1/batches").count();
    let most = begun.elapsed().as_secs() as usize / 30 + 2;
    assert!(lists <= most, "{lists} lists in {:?}", begun.elapsed());
    shop.judge().await;
}
