//! What a router expects of a route.

use std::time::Duration;

use super::learn;

/// What a router expects of a route.
///
/// ```
/// use std::time::Duration;
/// use together_inference::router::Expectation;
///
/// let expected = Expectation::new(0.99, 10.0).results(3);
/// assert_eq!(expected.time(Expectation::TOKENS), Duration::from_secs(10));
/// assert_eq!(expected.time(0), Duration::from_secs(3), "until the first token");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Expectation {
    /// How likely it answers.
    pub success: f64,
    /// Seconds to an answer of [`TOKENS`](Self::TOKENS).
    pub seconds: f64,
    /// Results that the seconds rest on; 0 where they are only what was said or what is usual elsewhere.
    pub results: u32,
}

impl Expectation {
    /// The tokens of the answer that [`seconds`](Self::seconds) are for.
    pub const TOKENS: u64 = 256;

    /// So likely an answer, in so many seconds, which nobody has seen.
    #[must_use]
    pub const fn new(success: f64, seconds: f64) -> Self {
        Self { success, seconds, results: 0 }
    }

    /// Sets how many results the seconds rest on.
    #[must_use]
    pub const fn results(mut self, results: u32) -> Self {
        self.results = results;
        self
    }

    /// How long an answer of so many tokens takes; no time where the seconds are no number.
    #[must_use]
    pub fn time(&self, tokens: u64) -> Duration {
        Duration::try_from_secs_f64(self.seconds * learn::nominal(tokens)).unwrap_or_default()
    }
}
