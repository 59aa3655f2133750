//! Second jobs of the same lines.

use super::*;

#[tokio::test]
async fn a_second_job_is_noted_once_and_nobody_waits_for_it() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 2).await;
        let chunk = key(1, 0, 0);
        let change = Change { remote_id: Some("job".into()), ..Change::default() };
        assert!(journal.step(chunk, fence, &[ChunkState::Planned], ChunkState::Running, change, at(1)).await.unwrap());
        let note = async |job: &str| journal.adopt_twin(chunk, job, at(2)).await.unwrap();
        assert!(!note("job").await, "it is the first one");
        assert!(note("second").await && !note("second").await && note("third").await);
        assert!(!journal.adopt_twin(key(2, 0, 0), "fourth", at(2)).await.unwrap(), "nobody knows the chunk");

        let chunks = journal.chunks(id(1)).await.unwrap();
        let twins: Vec<_> = chunks.iter().filter(|chunk| chunk.lines == 0).collect();
        let jobs: Vec<_> = twins.iter().map(|twin| (twin.key.no, twin.remote_id.as_deref().unwrap())).collect();
        assert_eq!(jobs, [(1 << 30, "second"), ((1 << 30) + 1, "third")]);
        assert!(twins.iter().all(|twin| twin.state == ChunkState::Cancelling && twin.route == route()));
        // It is asked after, and the round ends without it.
        let claims = journal.claim(10, at(2)).await.unwrap();
        assert_eq!(claims.len(), 2);
        assert_eq!(journal.rounds_over().await.unwrap().len(), 0, "the first one runs");
        let settled = Settling { from: vec![ChunkState::Running], ..settling(Vec::new()) };
        assert!(journal.settle(chunk, fence, settled, at(3)).await.unwrap());
        assert_eq!(journal.rounds_over().await.unwrap()[0].1, 2, "its lines go on");
        let last = Settling { from: vec![ChunkState::Cancelling], late: 2, ..settling(Vec::new()) };
        let Claim { chunk: twin, fence } = claims.into_iter().next().unwrap();
        assert!(journal.settle(twin.key, fence, last, at(4)).await.unwrap());
        assert_eq!(journal.chunk(twin.key).await.unwrap().unwrap().late, 2);
        assert_eq!(journal.counts(id(1)).await.unwrap().waiting, 2);
    }
}
