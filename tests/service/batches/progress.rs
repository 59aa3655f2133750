//! How far a batch is: an estimate that can be relied on, and readers that cost the worker nothing.

use std::future::IntoFuture;

use futures_util::StreamExt;
use together_inference::{
    batch::{BatchPhase, BatchProgress},
    service::{BatchOptions, BatchTicket},
};
use tokio::time::{Instant, sleep};

use super::{Shop, check, lines};
use crate::world::secs;

/// What was told of the time that is left, each with the moment; and when the batch was over.
async fn watch(ticket: BatchTicket) -> (Vec<(Instant, BatchProgress)>, Instant) {
    let mut told = Vec::new();
    loop {
        let status = ticket.status().await.unwrap();
        if status.phase == BatchPhase::Finished {
            return (told, Instant::now());
        }
        told.push((Instant::now(), status));
        sleep(secs(5)).await;
    }
}

/// From a fifth on until the last one, whose end is a matter of when the job is looked at.
fn is_right(told: &[(Instant, BatchProgress)], over: Instant) {
    let mut checked = 0;
    for (at, status) in told {
        let Some((half, most)) = status.eta else { continue };
        assert!(half <= most, "{status:?}");
        if status.server_percent.is_some_and(|percent| (20.0..80.0).contains(&percent)) {
            let (left, told) = ((over - *at).as_secs_f64(), half.as_secs_f64());
            assert!((told / left - 1.0).abs() <= 0.3, "{told} s were told and {left} s were left: {status:?}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}

#[tokio::test(start_paused = true)]
async fn the_time_that_is_left_is_told_within_a_third_and_not_before_there_is_something_to_go_by() {
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder).await;
    shop.sim.batch_time(secs(3_600));
    shop.sim.batch_validation(secs(20));
    let (told, over) = watch(shop.submit(lines(400)).await).await;
    is_right(&told, over);
    let first = told.iter().position(|(_, status)| status.eta.is_some()).unwrap();
    assert!(first > 0 && told[first].1.server_percent.unwrap() >= 5.0, "{:?}", told[first]);
    for (_, status) in &told[..first] {
        assert!(status.server_percent.is_none_or(|percent| percent < 5.0), "{status:?}");
    }
}

/// Its job begins when another one has ended.
#[tokio::test(start_paused = true)]
async fn the_time_that_is_left_does_not_count_how_long_a_batch_waited_for_its_turn() {
    let shop = Shop::at_pace(secs(10), BatchOptions::default().jobs(1), |builder| builder).await;
    shop.sim.batch_time(secs(3_600));
    let first = shop.submit(lines(20)).await;
    while shop.sim.batches().is_empty() {
        sleep(secs(10)).await;
    }
    let second = shop.submit((20..220).map(super::line).collect()).await;
    let (told, over) = watch(second).await;
    is_right(&told, over);
    assert!(first.await.unwrap().is_complete());
}

#[tokio::test(start_paused = true)]
async fn readers_that_read_nothing_cost_the_worker_nothing() {
    let mut ends = Vec::new();
    for readers in [0, 100] {
        let shop = Shop::new().await;
        let begun = Instant::now();
        let ticket = shop.submit(lines(40)).await;
        let mut slow = Vec::new();
        for _ in 0..readers {
            let mut progress = Box::pin(ticket.progress());
            assert_eq!(progress.next().await.unwrap().unwrap().total, 40);
            slow.push(progress);
        }
        let report = ticket.clone().into_future().await.unwrap();
        check(&report);
        ends.push((begun.elapsed(), shop.asked("POST", "/v1/"), shop.sim.requests().len()));
        for progress in &mut slow {
            // The latest alone: nothing is kept for who does not read.
            let mut left = Vec::new();
            while let Some(seen) = progress.next().await {
                left.push(seen.unwrap());
            }
            assert_eq!(left.len(), 1, "{left:?}");
            assert_eq!((left[0].phase, left[0].eta), (BatchPhase::Finished, None));
        }
    }
    let [(alone, sent, asked), (beside, sent_beside, asked_beside)] = ends[..] else { panic!("{ends:?}") };
    assert_eq!(sent, sent_beside);
    assert!(asked_beside <= asked + 2, "{asked} requests alone, {asked_beside} beside readers");
    // Jobs are asked after every half a minute: it may be one look more.
    assert!(beside.abs_diff(alone) <= secs(60), "{alone:?} alone, {beside:?} beside readers");
}
