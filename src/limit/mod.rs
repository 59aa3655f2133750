//! When an attempt may go out.
//!
//! Each route has a lane: so many attempts at a time, and, where configured, so many a minute. Callers wait in order,
//! a bounded number of them, and never past their deadline. Dropping a waiting call leaves the queue; dropping a
//! permit frees its place.
//!
//! # Why a cap on concurrency and not on latency
//!
//! The latency of a completion is mostly the length of its answer: a limiter that slows down because answers got longer
//! slows down for nothing. Concurrency and the provider's own refusals say what latency cannot.

mod ceiling;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};

use self::ceiling::Ceiling;

/// The bounds of a route.
///
/// ```
/// use std::num::NonZeroU32;
/// use together_inference::{InferenceService, limit::Limits, testing::Together};
///
/// let eight = NonZeroU32::new(8).ok_or("not zero")?;
/// let limits = Limits::default().concurrency(eight).max_waiting(100);
/// let service = InferenceService::builder(Together::new().client()).limits(limits).build()?;
/// # let _ = service;
/// assert_eq!((limits.concurrency.get(), limits.requests_per_minute), (8, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Attempts at a time: 64.
    pub concurrency: NonZeroU32,
    /// Attempts a minute; no ceiling unless set.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Callers that wait at a time; more are refused at once: 1,024.
    pub max_waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: NonZeroU32::MIN.saturating_add(63), requests_per_minute: None, max_waiting: 1_024 }
    }
}

impl Limits {
    /// Sets how many attempts go out at a time.
    #[must_use]
    pub const fn concurrency(mut self, attempts: NonZeroU32) -> Self {
        self.concurrency = attempts;
        self
    }

    /// Sets how many attempts go out a minute.
    ///
    /// As many may go out at once; then one place comes free every minute divided by that number.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    /// use together_inference::limit::Limits;
    ///
    /// let sixty = NonZeroU32::new(60);
    /// let limits = sixty.map(|sixty| Limits::default().requests_per_minute(sixty));
    /// assert_eq!(limits.and_then(|limits| limits.requests_per_minute), sixty);
    /// ```
    #[must_use]
    pub const fn requests_per_minute(mut self, attempts: NonZeroU32) -> Self {
        self.requests_per_minute = Some(attempts);
        self
    }

    /// Sets how many callers may wait at a time.
    ///
    /// ```
    /// use together_inference::limit::Limits;
    ///
    /// assert_eq!(Limits::default().max_waiting(0).max_waiting, 0, "nobody waits: refused at once");
    /// ```
    #[must_use]
    pub const fn max_waiting(mut self, callers: usize) -> Self {
        self.max_waiting = callers;
        self
    }
}

/// The attempts of one route.
#[derive(Debug)]
pub(crate) struct Lane {
    permits: Arc<Semaphore>,
    ceiling: Option<Ceiling>,
    waiting: AtomicUsize,
    limits: Limits,
}

/// A place among the attempts of a route, freed when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
}

/// Why an attempt may not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many callers wait already.
    Full,
    /// The deadline comes before the turn.
    TooLate,
}

impl Lane {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.concurrency.get() as usize)),
            ceiling: limits.requests_per_minute.map(Ceiling::per_minute),
            waiting: AtomicUsize::new(0),
            limits,
        }
    }

    /// Waits for a place, in order of arrival.
    pub(crate) async fn admit(&self, deadline: Instant) -> Result<Permit, Refused> {
        let place = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let _waiting = Waiting::enter(self)?;
                let place = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
                place.ok().and_then(Result::ok).ok_or(Refused::TooLate)?
            }
        };
        // The place first: a turn of the minute that was taken by a caller who then waits in vain would be lost.
        if let Some(ceiling) = &self.ceiling {
            self.under_ceiling(ceiling, deadline).await?;
        }
        Ok(Permit { _place: place })
    }

    async fn under_ceiling(&self, ceiling: &Ceiling, deadline: Instant) -> Result<(), Refused> {
        let Err(mut wait) = ceiling.check() else { return Ok(()) };
        let _waiting = Waiting::enter(self)?;
        loop {
            let turn = Instant::now() + wait;
            if turn >= deadline {
                return Err(Refused::TooLate);
            }
            sleep_until(turn).await;
            match ceiling.check() {
                Ok(()) => return Ok(()),
                Err(longer) => wait = longer,
            }
        }
    }

    /// Attempts that are out now.
    pub(crate) fn in_flight(&self) -> usize {
        (self.limits.concurrency.get() as usize).saturating_sub(self.permits.available_permits())
    }

    /// Callers that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Counts a waiting caller for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(lane: &'a Lane) -> Result<Self, Refused> {
        // Counted before it is known whether there is room, so that of two at a time one is refused; returning early
        // drops `entered`, which takes the count back.
        let entered = Self(&lane.waiting);
        if lane.waiting.fetch_add(1, Ordering::AcqRel) >= lane.limits.max_waiting {
            return Err(Refused::Full);
        }
        Ok(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at_most(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_permit_and_a_dropped_waiter_free_their_places() {
        let lane = Lane::new(Limits::default().concurrency(at_most(1)).max_waiting(1));
        let held = lane.admit(soon()).await.unwrap();
        {
            let mut waiter = Box::pin(lane.admit(soon()));
            assert!(futures_util::poll!(&mut waiter).is_pending());
            assert_eq!(lane.waiting(), 1);
            assert_eq!(lane.admit(soon()).await.unwrap_err(), Refused::Full);
        }
        assert_eq!((lane.waiting(), lane.in_flight()), (0, 1));
        assert_eq!(lane.admit(soon()).await.unwrap_err(), Refused::TooLate);
        drop(held);
        assert!(lane.admit(soon()).await.is_ok());
        assert_eq!((lane.waiting(), lane.in_flight()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ceiling_spreads_attempts_over_the_minute_on_the_tests_clock() {
        let lane = Lane::new(Limits::default().requests_per_minute(at_most(2)));
        let (start, late) = (Instant::now(), Instant::now() + Duration::from_secs(600));
        for _ in 0..4 {
            lane.admit(late).await.unwrap();
        }
        let took = start.elapsed().as_secs_f64();
        assert!((59.0..61.0).contains(&took), "two at once, then one each 30 s: {took}");
        assert_eq!(lane.admit(soon()).await.unwrap_err(), Refused::TooLate);
    }
}
