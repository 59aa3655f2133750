//! What failed rests before it is tried again, longer each time: what is broken neither turns in circles nor holds up the
//! rest.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// After the first failure; it doubles with each that follows.
const FIRST: Duration = Duration::from_secs(5);
/// At most.
const LONGEST: Duration = Duration::from_secs(300);

/// How often things failed in a row, and until when they rest. In memory: a new process tries at once.
#[derive(Debug)]
pub(super) struct Rests<K>(Mutex<HashMap<K, (u32, Instant)>>);

impl<K> Default for Rests<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Rests<K> {
    /// Counts a failure: how many there were in a row, and how long it rests.
    pub(super) fn failed(&self, key: K) -> (u32, Duration) {
        let now = Instant::now();
        let mut all = self.lock();
        // What has not been heard of for long is over.
        all.retain(|_, (_, until)| *until + 2 * LONGEST > now);
        let (times, until) = all.entry(key).or_insert((0, now));
        let rest = FIRST.saturating_mul(1 << (*times).min(16)).min(LONGEST);
        *times = times.saturating_add(1);
        *until = now + rest;
        (*times, rest)
    }

    /// Whether it is to be left alone now.
    pub(super) fn rests(&self, key: &K) -> bool {
        self.lock().get(key).is_some_and(|(_, until)| Instant::now() < *until)
    }

    pub(super) fn went_well(&self, key: &K) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, (u32, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_again_rests_twice_as_long_and_five_minutes_at_most() {
        let rests = Rests::default();
        let seconds: Vec<u64> = (0..9).map(|_| rests.failed(7).1.as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert!(rests.rests(&7) && !rests.rests(&8));
        tokio::time::advance(LONGEST).await;
        assert!(!rests.rests(&7));
        assert_eq!(rests.failed(7).0, 10, "it is remembered how often");
        rests.went_well(&7);
        assert_eq!(rests.failed(7), (1, FIRST));
    }
}
