//! Who may write.

use super::*;

#[tokio::test]
async fn whoever_was_overtaken_changes_nothing() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let old = claimed(&journal, 1, 2).await;
        journal.release(key(1, 0, 0), old).await.unwrap();
        let other = home.journal().await;
        let new = other.claim(1, at(0)).await.unwrap().pop().unwrap().fence;
        assert_eq!(new, old + 1);

        let (chunk, from) = (key(1, 0, 0), [ChunkState::Planned]);
        let go = |fence| journal.step(chunk, fence, &from, ChunkState::Submitting, Change::default(), at(1));
        assert!(!go(old).await.unwrap());
        assert!(!journal.settle(chunk, old, settling(vec![done(0, 0)]), at(1)).await.unwrap());
        assert!(!journal.settle_lines(chunk, old, vec![done(0, 0)]).await.unwrap());
        assert_eq!(journal.renew(&[(chunk, old)], at(1)).await.unwrap(), [chunk]);
        journal.release(chunk, old).await.unwrap();
        assert_eq!(journal.counts(id(1)).await.unwrap().waiting, 2);
        assert_eq!(journal.chunk(chunk).await.unwrap().unwrap().state, ChunkState::Planned);
        assert!(journal.claim(1, at(1)).await.unwrap().is_empty(), "it is still the other's");
        assert!(go(new).await.unwrap());
    }
}

#[tokio::test]
async fn a_step_that_is_not_from_where_the_chunk_stands_changes_nothing() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 2).await;
        let chunk = key(1, 0, 0);
        let step = |from: ChunkState, to: ChunkState| {
            let journal = journal.clone();
            async move { journal.step(chunk, fence, &[from], to, Change::default(), at(9)).await.unwrap() }
        };
        assert!(!step(ChunkState::Running, ChunkState::Ended).await);
        assert!(step(ChunkState::Planned, ChunkState::Submitting).await);
        assert!(!step(ChunkState::Planned, ChunkState::Submitting).await);
        assert!(step(ChunkState::Submitting, ChunkState::Refused).await);
        // What is for good stays so, even for those who know it.
        assert!(!step(ChunkState::Refused, ChunkState::Planned).await);
        assert!(!journal.settle(chunk, fence, settling(vec![done(0, 0)]), at(1)).await.unwrap());
        assert!(!journal.settle_lines(chunk, fence, vec![done(0, 0)]).await.unwrap());
        let row = journal.chunk(chunk).await.unwrap().unwrap();
        assert_eq!((row.state, row.since), (ChunkState::Refused, at(9)));
        assert_eq!(journal.counts(id(1)).await.unwrap().waiting, 2);
        let told = journal.transitions(id(1)).await.unwrap();
        let told: Vec<&str> = told.iter().map(|told| &**told).collect();
        assert_eq!(told, ["0-0  planned 0", "0-0 planned submitting 1", "0-0 submitting refused 1"]);
    }
}

#[tokio::test]
async fn what_a_step_learns_is_kept_and_what_it_does_not_name_stays() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 2).await;
        let chunk = key(1, 0, 0);
        let step = |from: ChunkState, to: ChunkState, change: Change| {
            let journal = journal.clone();
            async move { assert!(journal.step(chunk, fence, &[from], to, change, at(5)).await.unwrap()) }
        };
        let intent = Change { intent_at: Some(at(4)), ..Change::default() };
        step(ChunkState::Planned, ChunkState::Submitting, intent).await;
        assert_eq!(journal.in_flight().await.unwrap(), 1);
        assert_eq!(journal.enqueued_tokens(&route()).await.unwrap(), 200);
        assert_eq!(journal.enqueued_tokens(&RouteId::new("together", "other")).await.unwrap(), 0);
        let job = Change { remote_id: Some("job".into()), next_at: Some(at(30)), ..Change::default() };
        step(ChunkState::Submitting, ChunkState::Running, job).await;
        let odd = Change { percent: Some(1e30), ..Change::default() };
        step(ChunkState::Running, ChunkState::Running, odd).await;
        assert_eq!(
            journal.chunk(chunk).await.unwrap().unwrap().percent,
            Some(100.0),
            "no provider's number is too large"
        );
        let polled = Change { percent: Some(71.75), remote_status: Some("IN_PROGRESS".into()), ..Change::default() };
        step(ChunkState::Running, ChunkState::Running, polled).await;
        assert!(journal.hurry(chunk, at(7)).await.unwrap());
        assert!(!journal.hurry(chunk, at(8)).await.unwrap());
        let long = "é".repeat(600);
        let ended = Change { output_file: Some("out".into()), error: Some(long.into()), ..Change::default() };
        step(ChunkState::Cancelling, ChunkState::Ended, ended).await;
        let row = journal.chunk(chunk).await.unwrap().unwrap();
        assert_eq!((row.intent_at, row.next_at, row.percent), (Some(at(4)), at(7), Some(71.75)));
        assert_eq!(row.remote_id.as_deref(), Some("job"));
        assert_eq!(row.remote_status.as_deref(), Some("IN_PROGRESS"));
        assert_eq!((row.output_file.as_deref(), row.error_file.as_deref()), (Some("out"), None));
        assert_eq!(row.error.unwrap().chars().count(), 500);
        assert_eq!(journal.transitions(id(1)).await.unwrap().len(), 5);
        assert_eq!(journal.in_flight().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_is_ours_is_not_claimed_again_and_what_a_silent_owner_had_is() {
    let home = Home::file();
    let (journal, other) = (home.journal().await, home.journal().await);
    let fence = claimed(&journal, 1, 1).await;
    assert!(journal.claim(1, at(29)).await.unwrap().is_empty());
    assert_eq!(journal.renew(&[(key(1, 0, 0), fence)], at(29)).await.unwrap(), []);
    assert!(other.claim(1, at(59)).await.unwrap().is_empty());
    assert_eq!(other.claim(1, at(60)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_an_owner_had_that_has_ended_is_claimed_at_once() {
    for home in Home::each().await {
        let journal = home.journal().await;
        claimed(&journal, 1, 1).await;
        let other = home.journal().await;
        assert!(other.claim(1, at(0)).await.unwrap().is_empty());
        drop(journal);
        // A server learns it when the connection ends.
        while other.claim(1, at(0)).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(other.chunk(key(1, 0, 0)).await.unwrap().unwrap().state, ChunkState::Planned);
    }
}

#[tokio::test]
async fn chunks_are_claimed_when_they_are_due() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 1).await;
        let later = Change { next_at: Some(at(30)), ..Change::default() };
        let planned = [ChunkState::Planned];
        journal.step(key(1, 0, 0), fence, &planned, ChunkState::Planned, later, at(0)).await.unwrap();
        journal.release(key(1, 0, 0), fence).await.unwrap();
        assert!(journal.claim(1, at(29)).await.unwrap().is_empty());
        assert_eq!(journal.claim(1, at(30)).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_worker_lives_while_it_says_so() {
    let home = Home::file();
    let (journal, other) = (home.journal().await, home.journal().await);
    assert!(!other.has_worker(at(0)).await.unwrap());
    journal.beat(at(0)).await.unwrap();
    assert!(other.has_worker(at(30)).await.unwrap());
    assert!(!other.has_worker(at(31)).await.unwrap());
    journal.beat(at(31)).await.unwrap();
    assert!(other.has_worker(at(31)).await.unwrap());
    drop(journal);
    while other.has_worker(at(31)).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_model_that_takes_no_batch_is_left_alone_for_a_day() {
    for home in Home::each().await {
        let journal = home.journal().await;
        assert!(!journal.is_refused(&route(), at(0)).await.unwrap());
        journal.refused(&route(), at(0)).await.unwrap();
        let day = 24 * 60 * 60;
        let other = home.journal().await;
        assert!(other.is_refused(&route(), at(day - 1)).await.unwrap());
        assert!(!other.is_refused(&RouteId::new("together", "other"), at(1)).await.unwrap());
        assert!(!other.is_refused(&route(), at(day)).await.unwrap());
        journal.refused(&route(), at(day)).await.unwrap();
        assert!(other.is_refused(&route(), at(day + 1)).await.unwrap());
    }
}
