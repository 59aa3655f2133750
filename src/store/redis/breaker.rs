//! When to leave a server alone: counted failures within a window.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// So many failures …
const MOST: usize = 5;
/// … within this time.
const WINDOW: Duration = Duration::from_secs(10);

/// The failures of one connection.
#[derive(Debug, Default)]
pub(super) struct Failures(VecDeque<Instant>);

impl Failures {
    /// One more. Whether that is one too many.
    pub(super) fn add(&mut self, now: Instant) -> bool {
        self.0.push_back(now);
        while self.0.front().is_some_and(|first| now.saturating_duration_since(*first) > WINDOW) {
            self.0.pop_front();
        }
        self.0.len() >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_fifth_failure_within_ten_seconds_is_one_too_many() {
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let mut failures = Failures::default();
        assert_eq!([0, 1, 2, 3, 4].map(|second| failures.add(at(second))), [false, false, false, false, true]);
        let mut failures = Failures::default();
        assert_eq!(
            [0, 3, 6, 9, 12, 13].map(|second| failures.add(at(second))),
            [false, false, false, false, false, true]
        );
    }
}
