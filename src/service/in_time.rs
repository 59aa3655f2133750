//! Whether a repeat could still end before the deadline.
//!
//! # Why a third of what is expected
//!
//! What is expected is the average of answers of 256 tokens, or of `max_tokens` if that is less. The shortest answers take
//! a third of it: what passes before the first token. With less time left neither a short answer nor a quick one would
//! come, and the attempt would be paid for nothing. A larger share would give up repeats that bring short answers. Where
//! nothing was seen of a route nothing is ruled out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use tokio::time::Instant;

use super::{plan::Plan, state::State};
use crate::{
    router::Expectation,
    types::{RouteId, later},
};

impl State {
    /// The candidates that were tried, and those next in turn that could not end in time.
    pub(super) fn passed_over(&self, plan: &Plan, mut tried: Vec<usize>) -> Vec<usize> {
        while let Some(next) = self.next_taker(plan, &tried)
            && !self.ends_in_time(plan, next, Duration::ZERO)
        {
            tried.push(next);
        }
        tried
    }

    /// Whether an attempt at this candidate that starts after a wait could end before the deadline.
    pub(super) fn ends_in_time(&self, plan: &Plan, at: usize, wait: Duration) -> bool {
        let Some(candidate) = plan.ranking.candidates.get(at) else { return false };
        let left = plan.deadline.saturating_duration_since(later(Instant::now(), wait));
        let seen = self.expects(&candidate.route).filter(|expected| expected.results > 0);
        !left.is_zero() && seen.is_none_or(|expected| left >= expected.time(plan.tokens_expected()) / 3)
    }

    /// What the router expects of a route. One that panics expects nothing.
    pub(super) fn expects(&self, route: &RouteId) -> Option<Expectation> {
        let expected = AssertUnwindSafe(|| self.router.expects(route, Instant::now()));
        catch_unwind(expected).ok().flatten()
    }
}
