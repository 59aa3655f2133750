//! One process is killed at a place that it passes, or at any time; the next one ends the batch.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};
use together_inference::types::{Rng, SeededRng};

use super::{Job, SMALL, Site};

/// The places that a child passes which nobody disturbs.
pub(super) async fn places(site: &Site) -> Vec<String> {
    let site = site.another().await;
    let (ended_well, said) = site.run(SMALL, "list").await;
    assert!(ended_well, "{said}");
    site.judge("undisturbed", SMALL).await;
    let places: BTreeSet<&str> = said.lines().filter_map(|line| line.strip_prefix("kill point ")).collect();
    let places: Vec<String> =
        places.into_iter().filter(|place| place.starts_with("batch")).map(str::to_owned).collect();
    assert!(places.len() >= 24, "{places:?}");
    places
}

/// Kills a child at each of these places, at the first, second, ... time that it comes there.
async fn killed_anywhere(site: &Site, times: impl Fn(&str) -> u32) {
    let places = places(site).await;
    let cases: Vec<_> =
        places.iter().flat_map(|place| (1..=times(place)).map(move |time| format!("{place}:{time}"))).collect();
    let survived = stream::iter(&cases).map(|case| async move {
        let site = site.another().await;
        let (mut ended_well, _) = site.run(SMALL, case).await;
        let (killed, jobs) = (!ended_well, site.together.batches().len());
        if killed {
            let said;
            (ended_well, said) = site.run(SMALL, "nowhere").await;
            assert!(ended_well, "{}, {case}: {said}", site.home.kind());
        }
        site.judge(case, SMALL).await;
        println!("{}, {case}: killed: {killed}, jobs by then: {jobs}", site.home.kind());
        killed
    });
    let killed = survived.buffer_unordered(4).filter(|killed| std::future::ready(*killed)).count().await;
    let first = cases.iter().filter(|case| case.ends_with(":1")).count();
    assert!(killed >= first, "{killed} were killed in {} cases at {first} places", cases.len());
    println!("{}: {killed} killed in {} cases at {first} places", site.home.kind(), cases.len());
}

#[tokio::test]
async fn killed_anywhere_a_batch_is_ended_by_the_next_process_at_one_price() {
    for site in Site::each().await {
        killed_anywhere(&site, |_| 1).await;
    }
}

/// `cargo test --all-features --test service -- --ignored killed_anywhere_again --nocapture`
#[tokio::test]
#[ignore = "takes minutes"]
async fn killed_anywhere_again_a_batch_is_ended_at_one_price() {
    for site in Site::each().await {
        killed_anywhere(&site, |_| 3).await;
    }
}

#[tokio::test]
async fn the_disk_has_what_the_worker_says_before_it_says_it() {
    for site in Site::each().await {
        let job = Job { lines: SMALL.chunk, ..SMALL };
        let (ended_well, said) = site.run(job, "list").await;
        assert!(ended_well, "{said}");
        let mut places = said.lines().filter_map(|line| line.strip_prefix("kill point "));
        for place in [
            "batch: requests are flushed",
            "batch: a plan is about to stand",
            "batch: a plan stands",
            "batch: lines are written",
            "batch: a chunk went on",
            "batch: lines are about to be uploaded",
            "batch: a job is created",
            "batch: rows are about to be read",
            "batch: costs are recorded",
            "batch: rows are flushed",
            "batch: a chunk is about to be settled",
            "batch: a chunk is settled",
            "batch: a batch has ended",
        ] {
            assert!(places.any(|found| found == place), "{place} is missing or comes too early: {said}");
        }
    }
}

/// Kills two children of each batch at random moments, then has a third end it.
async fn killed_at_any_time(rounds: u64, seed: u64) {
    let rng = Arc::new(SeededRng::new(seed));
    let sites = Site::each().await;
    for site in &sites {
        let rounds = stream::iter(0..rounds).map(|round| {
            let rng = Arc::clone(&rng);
            async move {
                let site = site.another().await;
                let mut killed = 0;
                for _ in 0..2 {
                    // It ends by what the children have asked for, not by a time.
                    let most = site.together.requests().len() + usize::try_from(1 + rng.next_u64() % 16).unwrap();
                    killed += u32::from(site.kill_when(SMALL, |together| together.requests().len() >= most).await);
                }
                let (ended_well, said) = site.run(SMALL, "nowhere").await;
                assert!(ended_well, "{}, round {round}: {said}", site.home.kind());
                site.judge(&format!("round {round}"), SMALL).await;
                killed
            }
        });
        let killed: u32 = rounds.buffer_unordered(4).collect::<Vec<_>>().await.into_iter().sum();
        println!("{}: {killed} killed", site.home.kind());
    }
}

#[tokio::test]
async fn killed_at_any_time_and_again_it_is_paid_once() {
    killed_at_any_time(4, 7).await;
}

/// `cargo test --all-features --test service -- --ignored killed_two_hundred --nocapture`
#[tokio::test]
#[ignore = "takes minutes"]
async fn killed_two_hundred_times_it_is_paid_once() {
    killed_at_any_time(100, 8).await;
}
