//! What a router learns from.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    client::ErrorKind,
    types::{RouteId, Usage},
};

/// What became of an attempt.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use together_inference::{RouteId, client::ErrorKind, router::{Observation, Outcome}};
///
/// let failed = Outcome::Failed(ErrorKind::Overloaded);
/// let seen = Observation::new(RouteId::new("local", "m"), Instant::now(), Duration::from_millis(40), failed);
/// assert_eq!(seen.first_token, None);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// Where.
    pub route: RouteId,
    /// When it was dispatched.
    pub dispatched: Instant,
    /// How long the provider took. The time in which a stream was not asked for more is its reader's.
    pub took: Duration,
    /// How long a stream waited for its reader. The provider may have worked meanwhile: it took `took` at least, and both
    /// together at most.
    pub held_up: Duration,
    /// From dispatch to the first delta, for streams that began.
    pub first_token: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the service took the route out for its failures because of this, or lets it back.
    pub ejected: Option<bool>,
}

impl Observation {
    /// An attempt that ended like this.
    #[must_use]
    pub const fn new(route: RouteId, dispatched: Instant, took: Duration, outcome: Outcome) -> Self {
        Self { route, dispatched, took, held_up: Duration::ZERO, first_token: None, outcome, ejected: None }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// With an answer.
    Answered(Usage),
    /// Without one.
    Failed(ErrorKind),
    /// The caller went away; says nothing about the route.
    Cancelled,
}
