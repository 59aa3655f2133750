//! What went out lately, and what of it was refused: how much the provider took within a second.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// A refusal that comes later than this says nothing of the rate any more.
const KEPT: Duration = Duration::from_secs(10);
/// More is not kept, whatever goes out.
const MOST: usize = 4_096;
/// Limits hold by the second.
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Sent {
    attempts: VecDeque<Attempt>,
    /// The number of the first one that is kept.
    first: u64,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    tokens: f64,
    refused: bool,
}

/// What the provider took within a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) requests: f64,
    pub(super) tokens: f64,
}

impl Sent {
    /// Notes an attempt, and gives its number.
    pub(super) fn note(&mut self, at: Instant, tokens: f64) -> u64 {
        let is_old = |attempt: &Attempt| at.saturating_duration_since(attempt.at) > KEPT;
        while self.attempts.len() >= MOST || self.attempts.front().is_some_and(is_old) {
            self.attempts.pop_front();
            self.first += 1;
        }
        self.attempts.push_back(Attempt { at, tokens, refused: false });
        self.first + self.attempts.len() as u64 - 1
    }

    /// Notes a refusal; says what was taken within the second before that attempt, if that is still known.
    pub(super) fn refuse(&mut self, number: u64) -> Option<Taken> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let refused = self.attempts.get_mut(index)?;
        refused.refused = true;
        let at = refused.at;
        let before = self.attempts.range(..index).rev().take_while(|attempt| at - attempt.at < SECOND);
        let none = Taken { requests: 0.0, tokens: 0.0 };
        Some(before.filter(|attempt| !attempt.refused).fold(none, |taken, attempt| Taken {
            requests: taken.requests + 1.0,
            tokens: taken.tokens + attempt.tokens,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_tells_how_much_of_it_was_taken_and_so_does_a_steady_flow() {
        let (mut sent, start) = (Sent::default(), Instant::now());
        let burst: Vec<_> = (0..64).map(|_| sent.note(start, 2.0)).collect();
        for number in &burst[10..] {
            assert_eq!(sent.refuse(*number), Some(Taken { requests: 10.0, tokens: 20.0 }));
        }
        let steady = (1..=40).map(|tenth| sent.note(start + tenth * Duration::from_millis(100), 1.0)).last();
        let taken = Taken { requests: 9.0, tokens: 9.0 };
        assert_eq!(sent.refuse(steady.unwrap()), Some(taken), "the nine before it within a second");
    }

    #[test]
    fn little_is_kept_and_what_is_not_says_nothing() {
        let (mut sent, start) = (Sent::default(), Instant::now());
        let first = sent.note(start, 1.0);
        for _ in 0..2 * MOST {
            sent.note(start, 1.0);
        }
        assert_eq!(sent.attempts.len(), MOST);
        assert_eq!(sent.refuse(first), None);
        let late = sent.note(start + KEPT * 2, 1.0);
        assert_eq!((sent.attempts.len(), sent.refuse(late)), (1, Some(Taken { requests: 0.0, tokens: 0.0 })));
        assert_eq!(sent.refuse(late + 1), None, "never sent");
    }
}
