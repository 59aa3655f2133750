//! Whether, when and how often a failed attempt is repeated.
//!
//! # Why a budget and not only a number of attempts
//!
//! "Three attempts" triples the load on a provider just when it is down. A [`RetryBudget`] lets single failures be
//! retried and stops retries within seconds when most calls fail: at 100 requests a second a total outage is asked
//! 1.00 times as often as a healthy service, at 2 a second 1.18 times.
//!
//! The classifier (what failed) is apart from the strategy (what to do), and both are shared: the client uses them for
//! its own retries, the service for its attempts over several models.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use super::{Blame, Error, error::Sent};
use crate::types::{FOREVER, Rng};

/// What a failure says about a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The same request fails again.
    Final,
    /// It may succeed.
    Transient,
    /// It may succeed later: we are too fast.
    Throttled,
}

/// Reads a failure. The server's own word (`x-should-retry`) wins.
pub(crate) fn classify(error: &Error) -> Class {
    let by_kind = match error.kind().blame() {
        Blame::Rate => Class::Throttled,
        Blame::Upstream => Class::Transient,
        Blame::Caller | Blame::Key | Blame::Model => Class::Final,
    };
    match (error.should_retry(), by_kind) {
        (Some(false), _) => Class::Final,
        (Some(true), Class::Final) => Class::Transient,
        (_, class) => class,
    }
}

/// Whether a repeat of the request could do something twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    /// Repeating it is harmless, or costs tokens at most.
    Safe,
    /// It creates something: repeat only what the server never saw, or refused for its rate.
    Unsafe,
}

/// When a failed attempt is repeated. Cloned per client; see [`RetryPolicy::default`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts in total, the first included.
    pub attempts: u32,
    /// The upper end of the first wait; it doubles with each attempt.
    pub base: Duration,
    /// The upper end of any wait of our own.
    pub cap: Duration,
    /// The longest wait that the server may ask for; more is not waited for.
    pub max_hint: Duration,
    /// Whether a completion is asked again after the request may have run (and been billed) already.
    pub after_dispatch: bool,
}

impl Default for RetryPolicy {
    /// Three attempts (the SRE book's bound), full jitter up to 0.5 s doubling to 8 s, hints up to 60 s.
    fn default() -> Self {
        Self {
            attempts: 3,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(8),
            max_hint: Duration::from_secs(60),
            after_dispatch: true,
        }
    }
}

impl RetryPolicy {
    /// One attempt, no repeats.
    #[must_use]
    pub fn none() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// How long to wait before attempt number `attempt` (the first repeat is 1), or `None` if it should not be made.
    ///
    /// A server's hint is obeyed exactly, plus up to 10 % of jitter so that clients do not return together.
    pub(crate) fn wait(&self, error: &Error, replay: Replay, attempt: u32, rng: &dyn Rng) -> Option<Duration> {
        let class = classify(error);
        if class == Class::Final || attempt >= self.attempts {
            return None;
        }
        let risky = error.sent() != Sent::No && class != Class::Throttled;
        if risky && (replay == Replay::Unsafe || (error.may_be_billed() && !self.after_dispatch)) {
            return None;
        }
        match error.retry_after() {
            Some(hint) if hint > self.max_hint => None,
            Some(hint) if !hint.is_zero() => Some(hint.min(FOREVER).mul_f64(rng.next_f64().mul_add(0.1, 1.0))),
            _ => Some(self.backoff(attempt, rng)),
        }
    }

    /// [`wait`](Self::wait) of a completion, which may always be asked again.
    pub(crate) fn again(&self, error: &Error, attempt: u32, rng: &dyn Rng) -> Option<Duration> {
        self.wait(error, Replay::Safe, attempt, rng)
    }

    /// Full jitter: anything between nothing and the exponential bound.
    fn backoff(&self, attempt: u32, rng: &dyn Rng) -> Duration {
        let bounds = ExponentialBuilder::default()
            .with_min_delay(self.base)
            .with_factor(2.0)
            .with_max_delay(self.cap)
            .without_max_times()
            .build();
        let bound = bounds.into_iter().nth(attempt.saturating_sub(1) as usize).unwrap_or(self.cap);
        bound.min(self.cap).mul_f64(rng.next_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::ErrorKind, types::SeededRng};

    #[test]
    fn waits_are_jittered_fully_below_a_doubling_bound() {
        let (policy, rng) = (RetryPolicy { attempts: 100, ..RetryPolicy::default() }, SeededRng::new(7));
        let error = Error::new(ErrorKind::Overloaded, "");
        for (attempt, bound) in [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (60, 8.0)] {
            let waits: Vec<f64> =
                (0..400).map(|_| policy.wait(&error, Replay::Safe, attempt, &rng).unwrap().as_secs_f64()).collect();
            let longest = waits.iter().copied().fold(0.0, f64::max);
            let mean = waits.iter().sum::<f64>() / 400.0;
            assert!(longest <= bound && longest > 0.95 * bound, "attempt {attempt}: {longest}");
            assert!((mean / bound - 0.5).abs() < 0.06, "attempt {attempt}: mean {mean}");
        }
    }

    #[test]
    fn a_hint_is_obeyed_exactly_with_a_tenth_of_jitter_and_refused_when_too_long() {
        let (policy, rng) = (RetryPolicy::default(), SeededRng::new(7));
        let hinted = |hint| Error::new(ErrorKind::RateLimited, "").with_hints(Some(hint), None);
        let wait = policy.wait(&hinted(Duration::from_millis(2_500)), Replay::Safe, 1, &rng).unwrap();
        assert!((2.5..=2.75).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(policy.wait(&hinted(Duration::from_secs(61)), Replay::Safe, 1, &rng), None);
    }

    #[test]
    fn what_creates_something_is_repeated_only_if_it_never_left() {
        let (policy, rng) = (RetryPolicy::default(), SeededRng::new(7));
        let wait = |kind, replay| policy.wait(&Error::new(kind, ""), replay, 1, &rng).is_some();
        assert!(wait(ErrorKind::Connect, Replay::Unsafe));
        assert!(wait(ErrorKind::RateLimited, Replay::Unsafe));
        for kind in [ErrorKind::Timeout, ErrorKind::Interrupted, ErrorKind::Server, ErrorKind::Overloaded] {
            assert!(wait(kind, Replay::Safe) && !wait(kind, Replay::Unsafe), "{kind:?}");
        }
    }

    #[test]
    fn the_servers_word_wins() {
        let error = |kind, word| Error::new(kind, "").with_hints(None, Some(word));
        assert_eq!(classify(&error(ErrorKind::Server, false)), Class::Final);
        assert_eq!(classify(&error(ErrorKind::Conflict, true)), Class::Transient);
    }
}
