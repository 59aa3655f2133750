//! A configured number of attempts a second or a minute, by governor on tokio's clock.

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

/// So many attempts in any stretch of a length.
#[derive(Debug)]
pub(super) struct Ceiling {
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>,
    clock: TokioClock,
    burst: u32,
    gap: Duration,
    /// The turn that was named at the last refusal.
    next: Option<Instant>,
}

impl Ceiling {
    /// `None` for a ceiling of nothing, which the service's builder refuses.
    ///
    /// governor would let the whole number go out at once and as many again as time goes by: nearly twice of it within
    /// the first stretch. So a twentieth may go at once, and the gap between the others is what leaves no stretch with
    /// more than the whole.
    pub(super) fn new(attempts: u32, stretch: Duration) -> Option<Self> {
        let clock = TokioClock(Instant::now());
        let burst = NonZeroU32::new((attempts / 20).max(1))?;
        let others = u128::from(attempts.checked_sub(burst.get())?) + 1;
        let gap = Duration::from_nanos(u64::try_from(stretch.as_nanos().div_ceil(others)).ok()?);
        let quota = Quota::with_period(gap)?.allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, clock);
        Some(Self { limiter, clock, burst: burst.get(), gap, next: None })
    }

    /// Takes a turn, or says when there may be one.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), Instant> {
        self.next = self.limiter.check().err().map(|not_until| {
            let wait = not_until.earliest_possible().duration_since(self.clock.now());
            // Never nothing, so that a caller's loop always lets time pass.
            now + Duration::from(wait).max(Duration::from_nanos(1))
        });
        self.next.map_or(Ok(()), Err)
    }

    /// How long at least until a turn comes, after so many others. governor cannot be asked without a turn being taken:
    /// what it said last counts.
    pub(super) fn wait(&self, now: Instant, ahead: u32) -> Duration {
        match self.next.filter(|next| *next > now) {
            Some(next) => (next - now) + self.gap * ahead,
            None => self.gap * (ahead + 1).saturating_sub(self.burst),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::{advance, pause};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_ceiling_is_used_up_and_never_passed() {
        for attempts in [1, 2, 7, 19, 20, 60, 100, 1_000] {
            let (mut ceiling, start) = (Ceiling::new(attempts, SECOND).unwrap(), Instant::now());
            let mut turns = Vec::new();
            while start.elapsed() < 10 * SECOND {
                match ceiling.check(Instant::now()) {
                    Ok(()) => turns.push(Instant::now()),
                    Err(next) => advance(next - Instant::now()).await,
                }
            }
            let most =
                turns.iter().map(|from| turns.iter().filter(|at| **at >= *from && **at < *from + SECOND).count());
            assert_eq!(most.max().unwrap(), attempts as usize, "in the fullest second");
            assert!(turns.len() * 100 >= attempts as usize * 10 * 95, "{} of {attempts} in ten seconds", turns.len());
        }
    }

    #[test]
    fn a_ceiling_of_nothing_is_none() {
        assert!(Ceiling::new(0, SECOND).is_none());
    }

    proptest! {
        #[test]
        fn no_second_sees_more_whatever_is_asked_when(
            attempts in 1_u32..60,
            gaps in proptest::collection::vec((0_u64..400, 1_usize..30), 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                pause();
                let mut ceiling = Ceiling::new(attempts, SECOND).unwrap();
                let mut turns = Vec::new();
                for (gap, asked) in gaps {
                    advance(Duration::from_millis(gap)).await;
                    for _ in 0..asked {
                        let (now, predicted) = (Instant::now(), ceiling.wait(Instant::now(), 0));
                        match ceiling.check(now) {
                            Ok(()) => turns.push(now),
                            Err(next) => prop_assert!(next > now && now + predicted <= next),
                        }
                    }
                    let within = turns.iter().filter(|at| at.elapsed() < SECOND).count();
                    prop_assert!(within <= attempts as usize, "{within} of {attempts}");
                }
                Ok(())
            })?;
        }
    }
}
