//! Sums: whatever comes of lines, in whatever order and however often it is told, they are those of the lines.

use super::*;
use crate::types::{Rng, SeededRng};

struct Case<'a> {
    journal: &'a Journal,
    rng: SeededRng,
    number: u128,
    total: u64,
}

impl Case<'_> {
    fn below(&self, most: u64) -> u64 {
        self.rng.next_u64() % most
    }

    /// Something that may come of a line, told once or twice.
    fn outcome(&self, index: u64) -> Vec<Outcome> {
        let cost = [None, Some(0), Some(7 + index.cast_signed())][usize::try_from(self.below(3)).unwrap()];
        let outcome = match self.below(7) {
            0 => failed(index),
            1 => Outcome { state: LineState::Waiting, ..failed(index) },
            2 => Outcome { singly: true, rescued: true, cost, ..done(index, index) },
            3 => Outcome { cached: true, cost: Some(0), usage: Usage::ZERO, ..done(index, index) },
            4 => return Vec::new(),
            _ => Outcome { cost, ..done(index, index) },
        };
        if self.below(5) == 0 { vec![outcome.clone(), outcome] } else { vec![outcome] }
    }

    async fn plan(&self) {
        // Half of the lines stand for themselves; the others may repeat one of them.
        let kinds: Vec<u64> = (0..self.total).map(|_| self.below(8)).collect();
        let edit = |line: &mut NewLine| {
            let (at, half) = (line.index, self.total.div_ceil(2));
            match kinds[usize::try_from(at).unwrap()] {
                0..=2 if at >= half => (line.chunk, line.duplicate_of) = (None, Some(at % half)),
                3 => {
                    line.chunk = None;
                    line.outcome = Some(Outcome { cached: true, cost: Some(0), usage: Usage::ZERO, ..done(at, at) });
                }
                4 => (line.chunk, line.outcome) = (None, Some(failed(at))),
                _ => {}
            }
        };
        assert_eq!(planned(self.journal, draft(self.number, self.total), edit).await, Planned::New);
        self.check().await;
    }

    async fn lines(&self) -> Vec<LineRow> {
        self.journal.lines(id(self.number), 0, 100).await.unwrap()
    }

    async fn check(&self) {
        let (lines, counts) = (self.lines().await, self.journal.counts(id(self.number)).await.unwrap());
        let count =
            |is: &dyn Fn(&LineRow) -> bool| u64::try_from(lines.iter().filter(|line| is(line)).count()).unwrap();
        let in_state = |state: LineState| count(&|line| line.state == state);
        let own = |line: &LineRow| line.duplicate_of.is_none();
        let has = |line: &LineRow| line.state == LineState::Done && line.duplicate_of.is_none();
        let case = format!("case {}: {counts:?}", self.number);
        assert_eq!(
            (counts.waiting, counts.done, counts.failed, counts.cancelled),
            (
                in_state(LineState::Waiting),
                in_state(LineState::Done),
                in_state(LineState::Failed),
                in_state(LineState::Cancelled)
            ),
            "{case}"
        );
        assert_eq!(counts.waiting + counts.done + counts.failed + counts.cancelled, self.total, "{case}");
        assert_eq!(counts.cached, count(&|line| has(line) && line.cached), "{case}");
        assert_eq!(counts.duplicates, count(&|line| line.state == LineState::Done && !own(line)), "{case}");
        assert_eq!(counts.rescued, count(&|line| has(line) && line.rescued), "{case}");
        assert_eq!(counts.unpriced, count(&|line| has(line) && !line.cached && line.cost.is_none()), "{case}");
        assert_eq!(
            counts.retried,
            count(&|line| own(line) && line.state != LineState::Waiting && line.attempts > 1),
            "{case}"
        );
        let ended = || lines.iter().filter(|line| own(line) && line.state != LineState::Waiting);
        assert_eq!(counts.cost, ended().map(|line| line.cost.unwrap_or(0)).sum::<i64>(), "{case}");
        assert_eq!(counts.usage.prompt, ended().map(|line| line.usage.prompt).sum::<u64>(), "{case}");
        assert!(counts.cached + counts.duplicates <= counts.done, "{case}");
        let mut places: Vec<u64> = lines.iter().filter_map(|line| line.arrived).collect();
        places.sort_unstable();
        assert!(places.iter().zip(1..).all(|(place, at)| *place == at), "{case}: {places:?}");
    }

    async fn run(&self) {
        self.plan().await;
        for round in 0..3 {
            for claim in self.journal.claim(10, at(0)).await.unwrap() {
                let all: Vec<Outcome> = (0..self.total).flat_map(|index| self.outcome(index)).collect();
                if self.below(2) == 0 {
                    let part = all.iter().take(3).cloned().collect();
                    assert!(self.journal.settle_lines(claim.chunk.key, claim.fence, part).await.unwrap());
                    self.check().await;
                }
                assert!(self.journal.settle(claim.chunk.key, claim.fence, settling(all), at(1)).await.unwrap());
                self.check().await;
            }
            let waiting = self.journal.waiting(id(self.number), 0, 100).await.unwrap();
            let places: Vec<(u64, u32)> = waiting.iter().map(|line| (line.index, 0)).collect();
            if places.is_empty() || self.below(3) == 0 {
                break;
            }
            let chunks = vec![chunk(0, places.len() as u64)];
            assert!(self.journal.next_round(id(self.number), round, chunks, &places, at(1)).await.unwrap());
            self.check().await;
        }
        for claim in self.journal.claim(10, at(9)).await.unwrap() {
            assert!(self.journal.settle(claim.chunk.key, claim.fence, settling(vec![]), at(9)).await.unwrap());
        }
        let waiting = self.journal.waiting(id(self.number), 0, 100).await.unwrap();
        let ends = [LineState::Failed, LineState::Cancelled];
        let end = |line: LineRow| {
            let state = ends[usize::try_from(self.below(2)).unwrap()];
            Outcome { state, ..Outcome::new(line.index, state) }
        };
        self.journal.end_lines(id(self.number), waiting.into_iter().map(end).collect()).await.unwrap();
        self.check().await;
        assert!(self.journal.finish(id(self.number), at(10)).await.unwrap());
        assert_eq!(self.journal.counts(id(self.number)).await.unwrap().waiting, 0);
    }
}

#[tokio::test]
async fn sums_are_those_of_the_lines_whatever_came_of_them() {
    let cases = std::env::var("BATCH_TEST_SEEDS").map_or(150, |cases| cases.parse().unwrap());
    let home = Home::file();
    let journal = home.journal().await;
    for number in 1..=cases {
        let rng = SeededRng::new(u64::try_from(number).unwrap());
        let total = 1 + rng.next_u64() % 12;
        Case { journal: &journal, rng, number, total }.run().await;
    }
}
