//! Planning, names, and what is taken back.

use super::*;

#[tokio::test]
async fn a_name_stands_for_one_content() {
    for home in Home::each().await {
        let named = |number, content| Draft { name: Some("labels".into()), content: [content; 32], ..draft(number, 2) };
        let journal = home.journal().await;
        assert_eq!(planned(&journal, named(1, 1), |_| ()).await, Planned::New);
        assert_eq!(planned(&journal, named(2, 1), |_| ()).await, Planned::Same(id(1)));
        drop(journal);
        let journal = home.journal().await;
        assert_eq!(planned(&journal, named(3, 1), |_| ()).await, Planned::Same(id(1)));
        assert_eq!(planned(&journal, named(4, 2), |_| ()).await, Planned::NameTaken(id(1)));
        for (number, tenant) in [(5, ""), (6, "acme")] {
            let draft = Draft { tenant: Some(tenant.into()), ..named(number, 2) };
            assert_eq!(planned(&journal, draft, |_| ()).await, Planned::New, "another tenant's name is another name");
        }
        assert_eq!(journal.find_named(None, "labels").await.unwrap().unwrap().id, id(1));
        assert_eq!(journal.find_named(Some("acme".into()), "labels").await.unwrap().unwrap().id, id(6));
        assert!(journal.find_named(None, "other").await.unwrap().is_none());
        // Those without a name are never the same.
        assert_eq!(planned(&journal, draft(7, 2), |_| ()).await, Planned::New);
        assert_eq!(planned(&journal, draft(8, 2), |_| ()).await, Planned::New);
        journal.sweep().await.unwrap();
        for gone in 2..=4 {
            assert_eq!(journal.rows_in("line", "batch", id(gone)).await, 0);
            assert!(!home.spool().join(id(gone).as_str()).exists());
        }
    }
}

#[tokio::test]
async fn a_plan_is_seen_when_it_stands_and_not_before() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let mut planning = journal.begin(id(1)).await.unwrap();
        let request = planning.add(b"{}").unwrap();
        planning.lines(vec![line(0, request)]).await.unwrap();
        assert!(journal.find(id(1)).await.unwrap().is_none());
        assert!(journal.open_batches().await.unwrap().is_empty());
        let draft = Draft { deadline: Some(at(60)), tenant: Some("acme".into()), ..draft(1, 1) };
        planning.finish(draft, vec![chunk(0, 1)]).await.unwrap();
        let batch = journal.find(id(1)).await.unwrap().unwrap();
        assert_eq!((batch.state, batch.round, batch.total), (BatchState::Running, 0, 1));
        assert_eq!((batch.created, batch.deadline, batch.finished), (at(0), Some(at(60)), None));
        assert_eq!(batch.tenant, Some("acme".into()));
        let chunks = journal.chunks(id(1)).await.unwrap();
        assert_eq!(chunks.len(), 1);
        assert_eq!((&chunks[0].route, chunks[0].way, chunks[0].next_at), (&route(), Way::Batch, at(0)));
        assert_eq!(journal.rows_in("planning", "id", id(1)).await, 0);
    }
}

#[tokio::test]
async fn a_plan_that_is_dropped_leaves_nothing() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let mut planning = journal.begin(id(1)).await.unwrap();
        let lines = (0..1_200).map(|index| line(index, Span::default()));
        planning.lines(lines.collect()).await.unwrap();
        drop(planning);
        assert_eq!(journal.sweep().await.unwrap(), 1);
        assert_eq!(journal.sweep().await.unwrap(), 0);
        for (table, column) in [("line", "batch"), ("planning", "id")] {
            assert_eq!(journal.rows_in(table, column, id(1)).await, 0, "{table}");
        }
        assert!(!home.spool().join(id(1).as_str()).exists());
    }
}

#[tokio::test]
async fn a_plan_of_a_process_that_is_gone_is_swept_and_can_not_stand_any_more() {
    for home in Home::each().await {
        let (journal, other) = (home.journal().await, home.journal().await);
        let mut planning = journal.begin(id(1)).await.unwrap();
        planning.lines(vec![line(0, Span::default())]).await.unwrap();
        assert_eq!(other.sweep().await.unwrap(), 0, "its process lives");
        // As after half a minute without a sign of life.
        let process = journal.process();
        let gone = ("", "");
        journal
            .write(gone, Durable::Now, move |sql| sql.execute("DELETE FROM process WHERE id = ?1", &[process.into()]))
            .await
            .unwrap();
        assert_eq!(other.sweep().await.unwrap(), 1);
        assert!(planning.lines(vec![line(1, Span::default())]).await.is_err());
        assert!(planning.finish(draft(1, 1), vec![chunk(0, 1)]).await.is_err());
        assert!(journal.find(id(1)).await.unwrap().is_none());
        assert_eq!(journal.rows_in("line", "batch", id(1)).await, 0);
    }
}

#[tokio::test]
async fn a_batch_that_stands_is_not_swept() {
    for home in Home::each().await {
        let journal = home.journal().await;
        planned(&journal, draft(1, 2), |_| ()).await;
        // As if whoever planned it had not learned that it stands.
        locked(&journal.0.dropped).push(id(1));
        assert_eq!(journal.sweep().await.unwrap(), 0);
        assert_eq!(journal.lines(id(1), 0, 10).await.unwrap().len(), 2);
        assert!(home.spool().join(id(1).as_str()).exists());
    }
}

#[tokio::test]
async fn what_was_answered_before_it_was_planned_has_arrived() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let planned = planned(&journal, draft(1, 5), |line| match line.index {
            0 => {
                let outcome = Outcome { cached: true, cost: None, ..done(0, 0) };
                (line.chunk, line.outcome) = (None, Some(outcome));
            }
            1 => (line.chunk, line.outcome) = (None, Some(failed(1))),
            3 => (line.chunk, line.duplicate_of) = (None, Some(0)),
            4 => (line.chunk, line.duplicate_of) = (None, Some(2)),
            _ => {}
        });
        assert_eq!(planned.await, Planned::New);
        let counts = journal.counts(id(1)).await.unwrap();
        assert_eq!((counts.waiting, counts.done, counts.failed, counts.cached), (2, 2, 1, 1));
        assert_eq!((counts.duplicates, counts.unpriced, counts.retried), (1, 0, 0));
        assert_eq!(indexes(&journal.arrived(id(1), 0, 10).await.unwrap()), [0, 1, 3]);
        let claims = journal.claim(1, at(0)).await.unwrap();
        let waiting = journal.lines_of(claims[0].chunk.key).await.unwrap();
        assert_eq!(waiting.len(), 1);
        assert_eq!((waiting[0].index, waiting[0].attempts), (2, 0));
        journal.settle(key(1, 0, 0), claims[0].fence, settling(vec![done(2, 9)]), at(1)).await.unwrap();
        let arrived = journal.arrived(id(1), 3, 10).await.unwrap();
        assert_eq!(indexes(&arrived), [2, 4]);
        assert_eq!(arrived[0].answer, arrived[1].answer);
        assert_eq!(journal.counts(id(1)).await.unwrap().duplicates, 2);
        assert!(journal.finish(id(1), at(2)).await.unwrap());
    }
}

#[tokio::test]
async fn a_server_needs_a_folder_that_somebody_names() {
    #[cfg(feature = "postgres")]
    {
        let home = Home::database().await;
        let error = Journal::new(&home.store().await, None).unwrap_err();
        assert!(error.to_string().contains("name a folder"), "{error}");
    }
    let home = Home::file();
    let journal = Journal::new(&home.store().await, None).unwrap();
    assert_eq!(journal.0.spool.root(), home.spool());
}
