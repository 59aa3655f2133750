//! A batch from its lines to its report.

use together_inference::{
    InferenceService,
    batch::{BatchPhase, BatchProgress, Done, LineSource},
    events::{EventQueue, MemoryQueue},
    service::{BatchOptions, Cancel, ErrorKind},
    store::Store,
    testing::Together,
};

use super::{Folder, Shop, check, line, lines, rows};
use crate::world::{muse, secs};

#[tokio::test(start_paused = true)]
async fn every_line_is_answered_by_one_job_and_billed_once() {
    let shop = Shop::new().await;
    let ticket = shop.submit(lines(100)).await;
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert!(report.is_complete() && report.failed.is_empty(), "{report}");
    assert_eq!((report.jobs.len(), report.rounds), (1, 1), "{report}");
    assert_eq!(report.cost.nanos(), shop.sim.bill().nano_usd);
    let rows = rows(&ticket).await;
    assert_eq!(rows.iter().map(|row| row.index).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row.result.as_ref().is_ok_and(|answer| answer.source == LineSource::Job)));
    let spent: i64 = rows.iter().map(|row| row.result.as_ref().unwrap().cost.charge().nanos()).sum();
    assert_eq!(spent, report.cost.nanos());
    assert_eq!(shop.asked("POST", "/v1/batches"), 1);
    assert!(shop.costs.records().iter().all(|record| record.batch.is_some()));
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn rows_come_in_the_order_of_arrival_too_each_once() {
    let shop = Shop::new().await;
    let ticket = shop.submit(lines(50)).await;
    let (mut rows, mut seen) = (ticket.results(), Vec::new());
    while let Some(row) = rows.next().await.unwrap() {
        seen.push(row.index);
    }
    assert_eq!(seen.len(), 50);
    assert_ne!(seen, (0..50).collect::<Vec<_>>(), "the provider's order is not that of the lines");
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn progress_never_goes_back_and_ends_exact() {
    use futures_util::StreamExt;

    let shop = Shop::new().await;
    shop.sim.on_batch_row("line 000007.").refuses("Maximum four stop sequences allowed");
    let ticket = shop.submit(lines(40)).await;
    let all: Vec<_> = ticket.progress().map(Result::unwrap).collect().await;
    let last = all.last().unwrap();
    assert_eq!((last.phase, last.done, last.failed), (BatchPhase::Finished, Done::Exact(39), 1));
    assert!(all.iter().any(|seen| matches!(seen.done, Done::Estimated(_))), "the provider's percent was not shown");
    for pair in all.windows(2) {
        // The provider's percent does not tell answers from failures.
        let ended = |seen: &BatchProgress| seen.done.lines() + seen.failed;
        assert!(ended(&pair[0]) <= ended(&pair[1]), "{pair:?}");
        assert!(pair[0].failed <= pair[1].failed && pair[0].round <= pair[1].round, "{pair:?}");
    }
    for seen in &all {
        assert!(seen.done.lines() + seen.failed <= seen.total, "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_found_again_by_another_service() {
    let shop = Shop::new().await;
    let id = shop.service.batch(lines(3)).name("labels").submit().await.unwrap().id();
    let other = shop.another(BatchOptions::default());
    let by_id = other.find_batch(id).await.unwrap();
    assert_eq!(other.find_batch_named("labels").await.unwrap().id(), id);
    assert!(by_id.await.unwrap().is_complete());
    assert_eq!(other.find_batch_named("other").await.unwrap_err().kind(), ErrorKind::NoBatch);
}

#[tokio::test(start_paused = true)]
async fn what_has_finished_when_a_batch_is_cancelled_is_kept_and_paid() {
    let shop = Shop::new().await;
    shop.sim.stick_batches(0.6);
    let ticket = shop.submit(lines(100)).await;
    let mut progress = Box::pin(ticket.progress());
    loop {
        use futures_util::StreamExt;
        let seen = progress.next().await.unwrap().unwrap();
        if seen.server_percent.is_some_and(|percent| percent >= 59.0) {
            break;
        }
    }
    assert!(ticket.cancel(Cancel::KeepFinished).await.unwrap());
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert_eq!((report.succeeded, report.cancelled), (60, 40), "{report}");
    assert!(!ticket.cancel(Cancel::KeepFinished).await.unwrap(), "it is over");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_batch_is_an_event_once() {
    let queue = std::sync::Arc::new(MemoryQueue::default());
    let events = std::sync::Arc::clone(&queue);
    let shop = Shop::with(BatchOptions::default(), |builder| builder.events(events)).await;
    let ticket = shop.submit(lines(3)).await;
    let id = ticket.id();
    ticket.await.unwrap();
    let leased = queue.lease("together-events", 10, secs(30)).await.unwrap();
    let jobs: Vec<_> = leased.into_iter().filter_map(together_inference::events::Leased::job).collect();
    assert_eq!(jobs.len(), 1);
    assert_eq!((&*jobs[0].kind, jobs[0].payload["batch"].as_str()), ("batch-completed", Some(id.as_str())));
    assert_eq!(shop.service.find_batch(id).await.unwrap().status().await.unwrap().phase, BatchPhase::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_nobody_works_for_says_which_line_is_missing() {
    let (sim, folder) = (Together::new(), Folder::new());
    let store = Store::open(folder.0.join("inference.db")).await.unwrap();
    let service = InferenceService::builder(sim.client()).store(&store).batches().build().unwrap();
    let error = service.submit_batch([line(0)]).await.unwrap().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoWorker);
    assert!(error.to_string().contains(".background(Pipeline::new())"), "{error}");
    let none = InferenceService::builder(sim.client()).build().unwrap();
    assert_eq!(none.submit_batch([line(0)]).await.unwrap_err().kind(), ErrorKind::NoBatches);
}

#[tokio::test(start_paused = true)]
async fn lines_of_a_model_that_takes_no_jobs_are_answered_one_by_one() {
    let shop = Shop::new().await;
    let prompts = ["Once upon a time", "In the beginning"];
    let requests = prompts.map(|prompt| together_inference::InferenceRequest::raw_prompt(prompt).model(super::MODEL));
    let ticket = shop.service.submit_batch(requests).await.unwrap();
    let report = ticket.clone().await.unwrap();
    assert!(report.is_complete() && report.jobs.is_empty(), "{report}");
    let rows = rows(&ticket).await;
    assert!(rows.iter().all(|row| row.result.as_ref().is_ok_and(|answer| answer.source == LineSource::Realtime)));
    assert_eq!(shop.sim.batches().len(), 0);
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_nothing_is_over_at_once() {
    let shop = Shop::new().await;
    let report = shop.submit(Vec::new()).await.await.unwrap();
    assert_eq!((report.total, report.succeeded), (0, 0));
    assert_eq!(shop.sim.requests().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_what_was_begun_and_another_service_goes_on() {
    let shop = Shop::new().await;
    let id = shop.submit(vec![muse("one").model(super::MODEL), muse("two").model(super::MODEL)]).await.id();
    shop.service.shutdown(secs(30)).await;
    let other = shop.another(BatchOptions::default());
    let report = other.find_batch(id).await.unwrap().await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(shop.sim.batches().len(), 1, "{report}");
    assert!(other.flush().await);
}
