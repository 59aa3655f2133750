//! A process that has a chunk stops for longer than its lease, and goes on when another one has taken over.

use std::{
    fs,
    ops::{Deref, DerefMut},
    process::{Child, Command},
};

use futures_util::future::join_all;

use super::{Job, SMALL, STOP, Site, ended};
use crate::world::ms;

/// One chunk, and nothing else going on when the process stops. A budget would be waited for before the places that matter
/// here, and whoever was overtaken is told so meanwhile.
const JOB: Job = Job { lines: 4, look: 1_000, lease: 2, budget: 0, ..SMALL };

/// The sums that any write about a batch changes.
async fn written(site: &Site) -> Vec<i64> {
    let mut sums = Vec::new();
    for sum in [
        "count(*) FROM transition",
        "CAST(sum(fence + since + coalesce(next_at, 0) + late + coalesce(intent_at, 0)) AS BIGINT) FROM chunk",
        "count(*) FROM chunk WHERE state = 'settled' AND owner IS NULL",
        "CAST(sum(attempts + arrived + answer_off + cost) AS BIGINT) FROM line",
        "CAST(sum(arrived + done + cost + finished) AS BIGINT) FROM batch",
        "count(*) FROM cost_record",
    ] {
        sums.push(site.home.count(&format!("SELECT {sum}")).await);
    }
    sums
}

/// A child that ends with the test, stopped or not.
struct Owner(Option<Child>);

impl Deref for Owner {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().unwrap()
    }
}

impl DerefMut for Owner {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until a child has stopped.
async fn stopped(child: &mut Child) {
    let stat = format!("/proc/{}/stat", child.id());
    loop {
        let stat = fs::read_to_string(&stat).unwrap();
        if stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T') {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before it came to the place");
        tokio::time::sleep(ms(5)).await;
    }
}

fn go_on(child: &Child) {
    let status = Command::new("sh").args(["-c", &format!("kill -CONT {}", child.id())]).status().unwrap();
    assert!(status.success());
}

/// Stops the owner of a chunk here, has another process end the batch, and lets the owner go on: it comes to `then` and
/// changes nothing.
async fn overtaken(site: Site, place: &str, then: &str) {
    let case = format!("{}, stopped where {place}", site.home.kind());
    let mut owner = Owner(Some(site.start(JOB, (STOP, &format!("{place}:1")))));
    stopped(&mut owner).await;
    let (ended_well, said) = site.run(JOB, "nowhere").await;
    assert!(ended_well, "{case}: {said}");
    site.judge(&format!("stopped where {place}"), JOB).await;
    let before = written(&site).await;
    go_on(&owner);
    let (ended_well, said) = ended(owner.0.take().unwrap()).await;
    assert!(ended_well, "{case}: {said}");
    assert!(said.contains(&format!("kill point {then}")), "{case}: it did not come to where {then}: {said}");
    assert_eq!(written(&site).await, before, "{case}: it wrote something: {said}");
    site.judge(&format!("gone on from where {place}"), JOB).await;
}

#[tokio::test]
async fn whoever_was_stopped_until_others_took_over_changes_nothing_when_it_goes_on() {
    let mut cases = Vec::new();
    for (place, then) in [
        ("batch: a job is about to be created", "batch: a chunk is about to go on"),
        ("batch: a job is created", "batch: a chunk is about to go on"),
        ("batch: rows are on the disk", "batch: a chunk is about to be settled"),
    ] {
        cases.extend(Site::each().await.into_iter().map(|site| overtaken(site, place, then)));
    }
    join_all(cases).await;
}
