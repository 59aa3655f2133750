//! A process is killed at a place that it passes, and what becomes of a create and of the list goes wrong as well.

use futures_util::{StreamExt, stream};
use together_inference::testing::Together;

use super::{
    super::late::{Call, FATES, Fate, LAGS},
    Job, SMALL, Site,
    killed::places,
};
use crate::world::secs;

/// How much faster time goes here: a create in doubt takes four and a half minutes.
const SPEED: u32 = 60;

/// Kills a child at a place, with this fate of the first create and a list that is so late, and has another end it.
async fn crossed(site: &Site, job: Job, (place, fate, lag): (&str, Fate, u64)) {
    let together = Together::builder().time_scale(1.0 / f64::from(SPEED)).build();
    together.batch_time(secs(20));
    together.batch_list_lag(secs(lag));
    fate.befall(&together, Call::Create);
    let site = Site::with(site.home.another().await, together, SPEED).await;
    let case = format!("{place}, the create: {fate:?}, the list {lag} s late");
    let (ended_well, _) = site.run(job, place).await;
    if !ended_well {
        let (ended_well, said) = site.run(job, "nowhere").await;
        assert!(ended_well, "{}, {case}: {said}", site.home.kind());
    }
    site.judge(&case, job).await;
}

/// Every `nth` case, from that one on.
async fn all_crossed(nth: usize, first: usize) {
    for site in Site::each().await {
        let places = places(&site).await;
        let cases = places.iter().flat_map(|place| {
            FATES.into_iter().flat_map(move |fate| LAGS.into_iter().map(move |lag| (&**place, fate, lag)))
        });
        let cases: Vec<_> = cases.skip(first).step_by(nth).collect();
        stream::iter(&cases).for_each_concurrent(4, |case| crossed(&site, SMALL, *case)).await;
        println!(
            "{}: {} cases at {} places, one job a chunk and one bill",
            site.home.kind(),
            cases.len(),
            places.len()
        );
    }
}

#[tokio::test]
async fn killed_anywhere_with_a_create_in_doubt_and_a_late_list_it_is_one_job_at_one_price() {
    // Some of all of them.
    all_crossed(89, 13).await;
}

/// `cargo test --all-features --test service -- --ignored killed_everywhere_with --nocapture`
#[tokio::test]
#[ignore = "takes half an hour"]
async fn killed_everywhere_with_every_fate_of_a_create_and_every_list_it_is_one_job_at_one_price() {
    all_crossed(1, 0).await;
}
