//! A fixed number of attempts a minute, by governor on tokio's clock.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::Instant;

/// governor's own clocks ignore tokio's paused time.
#[derive(Clone, Copy, Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

#[derive(Debug)]
pub(super) struct Ceiling {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>,
    clock: TokioClock,
}

impl Ceiling {
    pub(super) fn per_minute(attempts: NonZeroU32) -> Self {
        let clock = TokioClock(Instant::now());
        Self { limiter: RateLimiter::direct_with_clock(Quota::per_minute(attempts), clock), clock }
    }

    /// Takes a turn, or says how long until there may be one.
    pub(super) fn check(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| {
            let wait = not_until.earliest_possible().duration_since(self.clock.now());
            // Never nothing, so that a caller's loop always lets time pass.
            Duration::from(wait).max(Duration::from_nanos(1))
        })
    }
}
