//! What comes of lines.

use super::*;

#[tokio::test]
async fn the_first_answer_of_a_line_counts_and_a_chunk_is_settled_once() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 3).await;
        let chunk = key(1, 0, 0);
        assert!(journal.settle_lines(chunk, fence, vec![done(1, 7), failed(1)]).await.unwrap());
        let again = settling(vec![done(0, 1), failed(1), done(1, 99), done(0, 55), done(2, 2)]);
        assert!(journal.settle(chunk, fence, again.clone(), at(1)).await.unwrap());
        let before = (journal.counts(id(1)).await.unwrap(), journal.lines(id(1), 0, 10).await.unwrap());
        assert!(!journal.settle(chunk, fence, again, at(2)).await.unwrap());
        journal.end_lines(id(1), vec![failed(0), failed(2)]).await.unwrap();
        let after = (journal.counts(id(1)).await.unwrap(), journal.lines(id(1), 0, 10).await.unwrap());
        assert_eq!(before, after);
        let (counts, lines) = after;
        assert_eq!((counts.done, counts.failed, counts.cost), (3, 0, 30));
        assert_eq!((counts.usage.prompt, counts.usage.completion), (9, 6));
        let offsets: Vec<u64> = lines.iter().map(|line| line.answer.as_ref().unwrap().span.offset).collect();
        assert_eq!(offsets, [1, 7, 2]);
        assert_eq!(lines.iter().map(|line| line.arrived.unwrap()).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(lines[0].user_id.as_deref(), Some("user 0"));
        assert!(lines.iter().all(|line| (line.attempts, line.rounds) == (1, 1)));
    }
}

#[tokio::test]
async fn lines_that_repeat_another_end_as_it_does() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let copies = |line: &mut NewLine| {
            if line.index >= 3 {
                (line.chunk, line.duplicate_of) = (None, Some(line.index % 3));
            }
        };
        assert_eq!(planned(&journal, draft(1, 9), copies).await, Planned::New);
        let fence = journal.claim(1, at(0)).await.unwrap()[0].fence;
        let chunk = key(1, 0, 0);
        assert_eq!(journal.lines_of(chunk).await.unwrap().len(), 3);
        // What somebody says about a copy itself does not count.
        journal.settle_lines(chunk, fence, vec![done(2, 5), done(3, 6)]).await.unwrap();
        assert_eq!(indexes(&journal.arrived(id(1), 0, 10).await.unwrap()), [2, 5, 8]);
        let rest = settling(vec![failed(1), done(0, 3)]);
        journal.settle(chunk, fence, rest, at(1)).await.unwrap();
        let arrived = journal.arrived(id(1), 0, 10).await.unwrap();
        assert_eq!(indexes(&arrived), [2, 5, 8, 1, 0, 3, 4, 6, 7]);
        assert!(arrived.iter().zip(1..).all(|(line, place)| line.arrived == Some(place)));
        let counts = journal.counts(id(1)).await.unwrap();
        assert_eq!((counts.waiting, counts.done, counts.failed, counts.duplicates), (0, 6, 3, 4));
        assert_eq!((counts.cost, counts.usage.prompt), (20, 6), "what is paid once is counted once");
        let failures = journal.failures(id(1), 2, 10).await.unwrap();
        assert_eq!(indexes(&failures), [4, 7]);
        assert_eq!(failures[0].failure, failed(1).failure);
    }
}

#[tokio::test]
async fn lines_without_an_answer_wait_on_and_remember_why() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 4).await;
        let why = Outcome { state: LineState::Waiting, ..failed(1) };
        let mut settling = settling(vec![done(0, 0), why]);
        settling.late = 3;
        assert!(journal.settle(key(1, 0, 0), fence, settling, at(1)).await.unwrap());
        let lines = journal.lines(id(1), 0, 10).await.unwrap();
        assert_eq!(lines.iter().map(|line| line.attempts).collect::<Vec<_>>(), [1, 1, 1, 1]);
        assert_eq!((lines[1].state, &lines[1].failure), (LineState::Waiting, &failed(1).failure));
        assert_eq!(lines[1].arrived, None);
        assert_eq!(journal.chunk(key(1, 0, 0)).await.unwrap().unwrap().late, 3);

        let over = journal.rounds_over().await.unwrap();
        assert_eq!((over.len(), over[0].1), (1, 3));
        assert!(!journal.finish(id(1), at(2)).await.unwrap());
        assert_eq!(indexes(&journal.waiting(id(1), 2, 10).await.unwrap()), [2, 3]);
        assert!(journal.next_round(id(1), 0, vec![chunk(0, 3)], &[(1, 0), (2, 0), (3, 0)], at(3)).await.unwrap());
        let again = journal.next_round(id(1), 0, vec![chunk(0, 3)], &[(1, 0), (2, 0), (3, 0)], at(3));
        assert!(!again.await.unwrap(), "another process was quicker");
        assert!(journal.rounds_over().await.unwrap().is_empty());

        let fence = journal.claim(1, at(3)).await.unwrap()[0].fence;
        assert_eq!(journal.lines_of(key(1, 1, 0)).await.unwrap().len(), 3);
        // One by one: each outcome is a try.
        let singly = Outcome { singly: true, ..done(1, 9) };
        let why = Outcome { state: LineState::Waiting, singly: true, ..failed(3) };
        journal.settle_lines(key(1, 1, 0), fence, vec![singly, why]).await.unwrap();
        let at_3 = journal.lines_at(id(1), &[3]).await.unwrap();
        assert_eq!((at_3[0].attempts, at_3[0].singly), (2, true));
        let over = Settling { tried: false, ..super::settling(vec![]) };
        assert!(journal.settle(key(1, 1, 0), fence, over, at(4)).await.unwrap());
        journal.end_lines(id(1), vec![failed(2), failed(3)]).await.unwrap();
        let counts = journal.counts(id(1)).await.unwrap();
        assert_eq!((counts.waiting, counts.done, counts.failed, counts.retried), (0, 2, 2, 2));
        let lines = journal.lines(id(1), 0, 10).await.unwrap();
        let tries: Vec<_> = lines.iter().map(|line| (line.attempts, line.rounds)).collect();
        assert_eq!(tries, [(1, 1), (2, 2), (1, 2), (2, 2)]);
        assert_eq!(journal.rounds_over().await.unwrap()[0].1, 0);
        assert!(journal.finish(id(1), at(5)).await.unwrap());
        assert!(!journal.finish(id(1), at(6)).await.unwrap());
        let batch = journal.find(id(1)).await.unwrap().unwrap();
        assert_eq!((batch.state, batch.round, batch.finished), (BatchState::Finished, 1, Some(at(5))));
        assert!(!journal.next_round(id(1), 1, vec![], &[], at(7)).await.unwrap());
    }
}

#[tokio::test]
async fn lines_are_rescued_from_a_chunk_that_is_under_way_and_its_bill_is_still_read() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let late = claimed(&journal, 1, 3).await;
        let rescue = NewChunk { way: Way::Rescue, ..chunk(0, 3) };
        assert!(journal.next_round(id(1), 0, vec![rescue], &[(0, 0), (1, 0), (2, 0)], at(1)).await.unwrap());
        assert_eq!(journal.lines_of(key(1, 0, 0)).await.unwrap(), []);
        let fence = journal.claim(1, at(1)).await.unwrap()[0].fence;
        let rescued = |index| Outcome { rescued: true, singly: true, ..done(index, 0) };
        journal.settle_lines(key(1, 1, 0), fence, vec![rescued(0), rescued(1)]).await.unwrap();
        // The job has a row of a line that still waits, and one of a line that does not.
        let settling = Settling { late: 1, ..settling(vec![done(1, 50), done(2, 60)]) };
        assert_eq!(journal.rounds_over().await.unwrap().len(), 0);
        journal.settle_lines(key(1, 0, 0), late, vec![done(2, 60)]).await.unwrap();
        assert_eq!(journal.rounds_over().await.unwrap().len(), 1, "nothing waits");
        assert!(journal.finish(id(1), at(2)).await.unwrap());
        journal.release(key(1, 0, 0), late).await.unwrap();
        let claims = journal.claim(5, at(2)).await.unwrap();
        assert_eq!(claims.len(), 1, "the rescue's chunk is still ours");
        let claim = &claims[0];
        assert_eq!(claim.chunk.key, key(1, 0, 0));
        assert!(journal.settle(key(1, 0, 0), claim.fence, settling, at(40)).await.unwrap());
        let counts = journal.counts(id(1)).await.unwrap();
        assert_eq!((counts.done, counts.rescued, counts.cost), (3, 2, 30));
    }
}

#[tokio::test]
async fn a_batch_that_is_cancelled_is_looked_at_now_and_ends_when_no_line_waits() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 2).await;
        let later = Change { next_at: Some(at(600)), ..Change::default() };
        let planned = [ChunkState::Planned];
        journal.step(key(1, 0, 0), fence, &planned, ChunkState::Planned, later, at(0)).await.unwrap();
        assert!(journal.cancel(id(1), at(5)).await.unwrap());
        assert!(!journal.cancel(id(1), at(6)).await.unwrap());
        assert_eq!(journal.chunk(key(1, 0, 0)).await.unwrap().unwrap().next_at, at(6));
        assert_eq!(journal.open_batches().await.unwrap()[0].state, BatchState::Cancelling);
        assert!(!journal.finish(id(1), at(7)).await.unwrap());
        let cancelled = |index| Outcome::new(index, LineState::Cancelled);
        let settling = Settling { to: ChunkState::Dropped, tried: false, ..settling(vec![cancelled(0), cancelled(1)]) };
        assert!(journal.settle(key(1, 0, 0), fence, settling, at(7)).await.unwrap());
        assert_eq!(journal.counts(id(1)).await.unwrap().cancelled, 2);
        assert!(journal.lines(id(1), 0, 9).await.unwrap().iter().all(|line| line.attempts == 0));
        assert!(journal.finish(id(1), at(8)).await.unwrap());
        assert!(!journal.cancel(id(1), at(9)).await.unwrap());
    }
}

#[tokio::test]
async fn pages_of_lines_join_without_gaps() {
    for home in Home::each().await {
        let journal = home.journal().await;
        claimed(&journal, 1, 10).await;
        let (mut from, mut seen) = (0, Vec::new());
        loop {
            let page = journal.lines(id(1), from, 3).await.unwrap();
            let Some(last) = page.last() else { break };
            from = last.index + 1;
            seen.extend(indexes(&page));
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        let requests = journal.requests(id(1)).unwrap();
        let lines = journal.lines(id(1), 0, 10).await.unwrap();
        assert_eq!(requests.read(lines[7].request).unwrap(), b"{\"line\":7}");
    }
}

#[tokio::test]
async fn what_a_table_has_no_room_for_is_cut_or_replaced() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 1).await;
        let words = format!("a\0{}", "é".repeat(600));
        let failure = Some(("rejected".into(), "400".into(), words.into()));
        let outcome = Outcome { failure, ..failed(0) };
        journal.settle(key(1, 0, 0), fence, settling(vec![outcome]), at(1)).await.unwrap();
        let failures = journal.failures(id(1), 0, 1).await.unwrap();
        assert_eq!(failures[0].failure.as_ref().unwrap().2.chars().count(), 500);
    }
}

#[tokio::test]
async fn lines_that_are_answered_one_by_one_are_placed_nowhere_else_meanwhile() {
    for home in Home::each().await {
        let journal = home.journal().await;
        let fence = claimed(&journal, 1, 4).await;
        assert!(journal.settle(key(1, 0, 0), fence, settling(vec![done(0, 0)]), at(1)).await.unwrap());
        let singly = NewChunk { way: Way::Realtime, rest: Duration::from_secs(60), ..chunk(0, 2) };
        let more = vec![singly, chunk(1, 1)];
        assert!(journal.next_round(id(1), 0, more, &[(1, 0), (2, 0), (3, 1)], at(2)).await.unwrap());
        assert_eq!(indexes(&journal.waiting(id(1), 0, 10).await.unwrap()), [3]);
        let due = |now: u64| {
            let journal = journal.clone();
            async move {
                journal.claim(10, at(now)).await.unwrap().iter().map(|claim| claim.chunk.key.no).collect::<Vec<_>>()
            }
        };
        assert_eq!(due(61).await, [1], "it rests at first");
        let claims = journal.claim(10, at(62)).await.unwrap();
        let ended = Settling { outcomes: vec![failed(1)], tried: false, ..settling(Vec::new()) };
        assert!(journal.settle(key(1, 1, 0), claims[0].fence, ended, at(63)).await.unwrap());
        assert_eq!(indexes(&journal.waiting(id(1), 0, 10).await.unwrap()), [2, 3], "it is over");
    }
}
