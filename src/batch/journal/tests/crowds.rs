//! Many at once.

use std::collections::HashSet;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_claimers_share_a_chunk() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let mut planning = journal.begin(id(1)).await.unwrap();
        let lines = (0..200).map(|index| {
            let mut line = line(index, Span::default());
            line.chunk = Some(u32::try_from(index).unwrap());
            line
        });
        planning.lines(lines.collect()).await.unwrap();
        planning.finish(draft(1, 200), (0..200).map(|no| chunk(no, 1)).collect()).await.unwrap();
        // Half of them are of this process, half of others.
        let strangers = futures_util::future::join_all((0..4).map(|_| home.journal())).await;
        let others = strangers.iter().cloned().chain(std::iter::repeat_n(journal.clone(), 4));
        let claimers = others.map(|journal| {
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    match journal.claim(7, at(0)).await {
                        Ok(claims) if claims.is_empty() => return mine,
                        Ok(claims) => mine.extend(claims),
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            })
        });
        let claims: Vec<Claim> =
            futures_util::future::join_all(claimers).await.into_iter().flat_map(|claims| claims.unwrap()).collect();
        let keys: HashSet<ChunkKey> = claims.iter().map(|claim| claim.chunk.key).collect();
        // Who has ended leaves its chunks to others; none had before now.
        drop(strangers);
        assert_eq!((claims.len(), keys.len()), (200, 200));
        assert!(claims.iter().all(|claim| claim.fence == 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_plan_one_name_at_once_one_stands() {
    for home in Home::each().await {
        let journals = futures_util::future::join_all((0..8).map(|_| home.journal())).await;
        let plans = journals.iter().zip(1..).map(|(journal, number)| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let draft = Draft { name: Some("labels".into()), ..draft(number, 3) };
                (id(number), planned(&journal, draft, |_| ()).await)
            })
        });
        let plans: Vec<_> = futures_util::future::join_all(plans).await.into_iter().map(|plan| plan.unwrap()).collect();
        let stands: Vec<BatchId> =
            plans.iter().filter(|(_, planned)| *planned == Planned::New).map(|(id, _)| *id).collect();
        assert_eq!(stands.len(), 1, "{plans:?}");
        assert_eq!(plans.iter().filter(|(_, planned)| *planned == Planned::Same(stands[0])).count(), 7);
        for journal in &journals {
            journal.sweep().await.unwrap();
        }
        assert_eq!(journals[0].open_batches().await.unwrap().len(), 1);
        let folders = std::fs::read_dir(home.spool()).unwrap().count();
        assert_eq!(folders, 1, "those that do not stand left nothing");
    }
}

/// All who write to the same lines and chunks at once: nobody is stuck, and the sums are the lines'.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_at_once_from_many_chunks_are_counted_once() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let mut planning = journal.begin(id(1)).await.unwrap();
        let lines = (0..400).map(|index| {
            let mut line = line(index, Span::default());
            line.chunk = Some(u32::try_from(index % 8).unwrap());
            line
        });
        planning.lines(lines.collect()).await.unwrap();
        planning.finish(draft(1, 400), (0..8).map(|no| chunk(no, 50)).collect()).await.unwrap();
        let claims = journal.claim(8, at(0)).await.unwrap();
        let settle = claims.into_iter().map(|claim| {
            let journal = journal.clone();
            tokio::spawn(async move {
                // Each also has rows for the first lines, which are others'.
                let own = (0..400).filter(|index| index % 8 == u64::from(claim.chunk.key.no));
                let outcomes = (0..8).chain(own).map(|index| done(index, 0)).collect();
                assert!(journal.settle(claim.chunk.key, claim.fence, settling(outcomes), at(1)).await.unwrap());
            })
        });
        futures_util::future::join_all(settle).await.into_iter().for_each(|settled| settled.unwrap());
        let counts = journal.counts(id(1)).await.unwrap();
        assert_eq!((counts.waiting, counts.done, counts.cost), (0, 400, 4_000));
        let arrived = journal.arrived(id(1), 0, 1_000).await.unwrap();
        assert!(arrived.iter().zip(1..).all(|(line, place)| line.arrived == Some(place)));
        assert_eq!(arrived.len(), 400);
    }
}
