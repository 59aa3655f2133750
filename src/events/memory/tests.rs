use std::sync::Arc;

use serde_json::json;
use tokio::time::advance;

use super::*;

const HOLD: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);

fn job() -> NewJob {
    NewJob::new("q", "k", json!(1))
}

async fn leases(queue: &MemoryQueue, n: usize) -> Vec<Lease> {
    let leased = queue.lease("q", n, HOLD).await.unwrap();
    leased.into_iter().filter_map(Leased::job).map(|job| job.lease).collect()
}

async fn lease(queue: &MemoryQueue) -> Lease {
    leases(queue, 1).await[0]
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_exactly_at_its_end() {
    let queue = MemoryQueue::default();
    queue.push(job()).await.unwrap();
    let first = lease(&queue).await;
    advance(HOLD - MS).await;
    assert!(leases(&queue, 1).await.is_empty());
    advance(MS).await;
    let second = lease(&queue).await;
    assert_eq!((second.job(), second.token()), (first.job(), first.token() + 1));
    assert!(matches!(queue.ack(&first).await, Err(QueueError::LeaseLost { job }) if job == first.job()));
}

#[tokio::test(start_paused = true)]
async fn back_off_doubles_from_the_jobs_own_and_ends_in_death_with_the_last_error() {
    let queue = MemoryQueue::default();
    queue.push(job()).await.unwrap();
    for (seconds, error) in [(5, "one"), (10, "two")] {
        let after = Duration::from_secs(seconds);
        assert_eq!(queue.retry(&lease(&queue).await, error).await.unwrap(), Fate::Again { after });
        advance(after - MS).await;
        assert!(leases(&queue, 1).await.is_empty());
        advance(MS).await;
    }
    assert_eq!(queue.retry(&lease(&queue).await, "three").await.unwrap(), Fate::Dead);
    assert_eq!(&*queue.dead()[0].last_error, "three");
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_outlives_three_workers_is_dead_and_reported_once() {
    let queue = MemoryQueue::default();
    queue.push(job()).await.unwrap();
    for _ in 0..3 {
        lease(&queue).await;
        advance(HOLD).await;
    }
    let reported = queue.lease("q", 1, HOLD).await.unwrap();
    assert!(matches!(&reported[..], [Leased::Dead(job)] if job.last_error.contains("lease ran out")), "{reported:?}");
    assert!(queue.lease("q", 1, HOLD).await.unwrap().is_empty());
    assert_eq!((queue.len(), queue.dead().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn one_job_above_the_bound_is_refused_until_another_ends() {
    let queue = MemoryQueue::bounded(2);
    queue.push(job().dedupe("a")).await.unwrap();
    queue.push(job()).await.unwrap();
    assert!(matches!(queue.push(job()).await, Err(QueueError::Full { bound: 2 })));
    assert_eq!(queue.push(job().dedupe("a")).await.unwrap(), Pushed::Duplicate, "it would not have needed room");
    let held = lease(&queue).await;
    assert!(matches!(queue.push(job()).await, Err(QueueError::Full { .. })), "a leased job takes room");
    queue.ack(&held).await.unwrap();
    assert!(matches!(queue.push(job()).await, Ok(Pushed::New(_))));
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_ended_jobs_is_bounded_too() {
    let queue = MemoryQueue::bounded(3);
    for n in 0..10 {
        queue.push(job().dedupe(format!("done {n}"))).await.unwrap();
        queue.ack(&lease(&queue).await).await.unwrap();
        queue.push(job().dedupe(format!("dead {n}"))).await.unwrap();
        queue.bury(&lease(&queue).await, "no").await.unwrap();
    }
    assert_eq!(queue.push(job().dedupe("done 7")).await.unwrap(), Pushed::Duplicate);
    assert_eq!(queue.push(job().dedupe("dead 7")).await.unwrap(), Pushed::Duplicate);
    assert!(matches!(queue.push(job().dedupe("done 6")).await, Ok(Pushed::New(_))));
    assert!(matches!(queue.push(job().dedupe("dead 6")).await, Ok(Pushed::New(_))));
    let state = queue.lock();
    assert_eq!((state.dead.len(), state.done.len(), state.keys["q"].len()), (3, 3, 8));
}

#[tokio::test(start_paused = true)]
async fn queues_that_are_empty_leave_nothing_behind() {
    let queue = MemoryQueue::bounded(1);
    for n in 0..100 {
        let name = format!("q{n}");
        queue.push(NewJob::new(&*name, "k", json!(n)).dedupe("a")).await.unwrap();
        let leased = queue.lease(&name, 1, HOLD).await.unwrap().remove(0).job().unwrap();
        queue.ack(&leased.lease).await.unwrap();
    }
    let state = queue.lock();
    assert_eq!((state.due.len(), state.keys.len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_end_and_one_without_length_are_leases() {
    let queue = MemoryQueue::default();
    queue.push(job()).await.unwrap();
    queue.push(job()).await.unwrap();
    assert_eq!(queue.lease("q", usize::MAX, Duration::ZERO).await.unwrap().len(), 2);
    assert_eq!(queue.lease("q", usize::MAX, Duration::MAX).await.unwrap().len(), 2);
    queue.push(job().delay(Duration::MAX)).await.unwrap();
    assert!(leases(&queue, 3).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_error_is_cut_between_characters() {
    let queue = MemoryQueue::default();
    queue.push(job()).await.unwrap();
    queue.bury(&lease(&queue).await, &"é".repeat(5_000).replacen("é", "e", 1)).await.unwrap();
    assert_eq!(queue.dead()[0].last_error.len(), MAX_ERROR_BYTES - 1);
}

#[test]
fn debug_says_that_nothing_survives_a_restart() {
    let text = format!("{:?}", MemoryQueue::bounded(7));
    assert_eq!(text, "MemoryQueue { jobs: 0, dead: 0, bound: 7, survives_restart: false, .. }");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_workers_never_share_a_job() {
    let queue = Arc::new(MemoryQueue::default());
    for _ in 0..2_000 {
        queue.push(job()).await.unwrap();
    }
    let worker = || {
        let queue = Arc::clone(&queue);
        async move {
            let mut seen = Vec::new();
            while let [lease] = leases(&queue, 1).await[..] {
                queue.ack(&lease).await.unwrap();
                seen.push(lease.job());
                tokio::task::yield_now().await;
            }
            seen
        }
    };
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        workers.spawn(worker());
    }
    let mut seen = workers.join_all().await.concat();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((seen.len(), queue.len()), (2_000, 0));
}
