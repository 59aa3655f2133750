//! How fast a provider lets us go, learned from what it says and from what it refuses.
//!
//! Nothing is limited until there is something to go by. A header that names a limit sets the pace just below it. A
//! refusal tells what was taken within the second before it: the pace falls to 0.7 of that, and grows again, quickly up
//! to there, slowly around it, and quickly beyond, so that a limit that stands is touched once in eleven seconds, and
//! one that was raised is found within thirty. It grows only while callers wait for it: an idle lane learns nothing.
//!
//! # Why not in even steps
//!
//! Steps that find a doubled limit within half a minute also run into a limit that stands every few seconds: with ten
//! requests a second, one refusal in thirty. A cubic has both a plateau and a steep end, and costs on average 7.5 % of
//! the limit.

use std::time::Duration;

use tokio::time::Instant;

use super::bucket::{Bucket, Flow};
use crate::client::Window;

/// What is left of the pace after a refusal.
const FALL: f64 = 0.7;
/// How long it takes to grow back to where it was refused.
const REGAIN: f64 = 11.0;
/// How close to a limit that is told the pace stays.
const MARGIN: f64 = 0.95;
/// A told limit that is so much higher than the last one puts an end to what was learned under that.
const RAISED: f64 = 1.1;
/// Growing counts this much of a pause between two turns at most.
const STRIDE: Duration = Duration::from_secs(4);

/// The pace of requests, or of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    bucket: Bucket,
    told: Option<Told>,
    learned: Option<Learned>,
    /// The slowest that it gets.
    floor: f64,
    /// Whether somebody has waited for it since the last turn, and when that was.
    awaited: bool,
    last: Instant,
}

/// A limit that a header named.
#[derive(Clone, Copy, Debug)]
struct Told {
    limit: f64,
    /// When the attempt went out that brought it: answers overtake each other.
    sent: Instant,
}

/// What refusals have taught.
#[derive(Clone, Copy, Debug)]
struct Learned {
    /// What was taken a second when it was refused.
    taken: f64,
    /// How long it has been growing since.
    grown: Duration,
    /// Refusals of what went out before belong to the same cause.
    refused: Instant,
}

impl Learned {
    fn rate(&self) -> f64 {
        let way = self.grown.as_secs_f64() / REGAIN - 1.0;
        self.taken * (1.0 + (1.0 - FALL) * way.powi(3))
    }
}

impl Pace {
    pub(super) fn new(now: Instant, floor: f64) -> Self {
        Self { bucket: Bucket::new(now), told: None, learned: None, floor, awaited: false, last: now }
    }

    /// How much may go out a second; `None` while nothing is known.
    pub(super) fn rate(&self) -> Option<f64> {
        let told = self.told.map(|told| told.limit * MARGIN);
        let learned = self.learned.map(|learned| learned.rate());
        let rate = [told, learned].into_iter().flatten().reduce(f64::min)?;
        Some(rate.max(self.floor))
    }

    /// What the provider allows a second as far as is known: the pace stays below it most of the time.
    pub(super) fn limit(&self) -> Option<f64> {
        let told = self.told.map(|told| told.limit);
        let learned = self.learned.map(|learned| learned.rate().max(learned.taken));
        [told, learned].into_iter().flatten().reduce(f64::min)
    }

    /// How long until so much may go out, after what is ahead of it.
    pub(super) fn wait(&mut self, now: Instant, cost: f64, ahead: f64) -> Duration {
        let Some(flow) = self.rate().map(Flow::of) else { return Duration::ZERO };
        self.bucket.fill(now, flow);
        self.bucket.wait(flow, cost, ahead)
    }

    /// The same for who would go out now.
    pub(super) fn turn(&mut self, now: Instant, cost: f64) -> Duration {
        let wait = self.wait(now, cost, 0.0);
        self.awaited |= !wait.is_zero();
        wait
    }

    /// So much goes out.
    pub(super) fn take(&mut self, now: Instant, cost: f64) {
        if self.rate().is_none() {
            return;
        }
        self.bucket.take(cost);
        if let Some(learned) = self.learned.as_mut().filter(|_| self.awaited) {
            learned.grown += now.saturating_duration_since(self.last).min(STRIDE);
        }
        (self.awaited, self.last) = (false, now);
    }

    /// What went out was more than was thought.
    pub(super) fn put_right(&mut self, more: f64) {
        if self.rate().is_some() {
            self.bucket.take(more);
        }
    }

    /// A response to what went out at `sent` named these limits. How much is left of them is not read: by the time that
    /// an answer is there, it is long untrue.
    pub(super) fn told(&mut self, now: Instant, sent: Instant, windows: [Option<Window>; 2]) {
        let limits = windows.into_iter().flatten().filter_map(|window| window.limit);
        let Some(limit) = limits.filter(|limit| *limit > 0.0).reduce(f64::min) else { return };
        if self.told.is_some_and(|told| told.sent > sent) {
            return;
        }
        if self.told.is_some_and(|told| limit > told.limit * RAISED) {
            self.learned = None;
        }
        self.begin(now);
        self.told = Some(Told { limit, sent });
    }

    /// What went out at `sent` was refused, when so much was taken a second.
    pub(super) fn refused(&mut self, now: Instant, sent: Instant, taken: f64) {
        if let Some(learned) = self.learned.as_mut().filter(|learned| sent <= learned.refused) {
            learned.taken = learned.taken.min(taken.max(self.floor));
            return;
        }
        // One refusal in between must not bring everything to a stop: others may have used up the limit.
        let least = self.rate().map_or(0.0, |rate| rate * FALL).max(self.floor);
        self.begin(now);
        self.learned = Some(Learned { taken: taken.max(least), grown: Duration::ZERO, refused: now });
        self.last = now;
    }

    /// From the first limit on there is a bucket. What is out already has been taken from it.
    fn begin(&mut self, now: Instant) {
        if self.rate().is_none() {
            self.bucket = Bucket::new(now);
            self.bucket.fill(now, Flow { rate: 0.0, capacity: 0.0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn window(limit: f64) -> [Option<Window>; 2] {
        [None, Some(Window { limit: Some(limit), remaining: None })]
    }

    /// Takes turns as they come for so long, somebody always waiting, and counts them.
    fn press(pace: &mut Pace, now: &mut Instant, time: Duration) -> f64 {
        let (end, mut turns) = (*now + time, 0.0);
        while *now < end {
            *now += pace.turn(*now, 1.0);
            pace.take(*now, 1.0);
            turns += 1.0;
        }
        turns
    }

    #[test]
    fn nothing_is_limited_until_there_is_something_to_go_by() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 0.5);
        for _ in 0..10_000 {
            assert_eq!(pace.turn(start, 1.0), Duration::ZERO);
            pace.take(start, 1.0);
        }
        assert_eq!((pace.rate(), pace.limit()), (None, None));
    }

    #[test]
    fn a_refusal_sets_the_pace_to_seven_tenths_of_what_was_taken() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now, 0.5);
        pace.refused(now, now, 10.0);
        assert!((pace.rate().unwrap() - 7.0).abs() < 1e-9);
        assert_eq!(pace.limit(), Some(10.0));
        // Others of the same burst put it right, and do not lower it again.
        pace.refused(now, now, 8.0);
        assert!((pace.rate().unwrap() - 5.6).abs() < 1e-9);
        now += SECOND;
        pace.refused(now, now, 0.0);
        assert!((pace.limit().unwrap() - 5.6 * FALL).abs() < 1e-9, "one refusal stops nothing");
        for _ in 0..100 {
            now += SECOND;
            pace.refused(now, now, 0.0);
        }
        assert_eq!(pace.rate(), Some(0.5), "nor do a hundred");
    }

    #[test]
    fn growth_is_back_in_eleven_seconds_and_doubles_within_thirty_but_only_when_it_is_waited_for() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 0.5);
        pace.refused(start, start, 10.0);
        let mut now = start;
        for _ in 0..600 {
            now += SECOND;
            assert_eq!(pace.turn(now, 1.0), Duration::ZERO);
            pace.take(now, 1.0);
        }
        assert!((pace.rate().unwrap() - 7.0).abs() < 1e-9, "ten minutes of little use teach nothing");
        let turns = press(&mut pace, &mut now, 11 * SECOND);
        assert!((pace.rate().unwrap() - 10.0).abs() < 0.1);
        assert!((100.0..104.0).contains(&turns), "{turns} in eleven seconds");
        press(&mut pace, &mut now, 16 * SECOND);
        assert!(pace.rate().unwrap() > 17.0);
    }

    #[test]
    fn a_told_limit_is_kept_to_at_once_and_an_older_answer_does_not_undo_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 0.5);
        pace.told(start, start + SECOND, window(40.0));
        assert_eq!((pace.rate(), pace.limit()), (Some(38.0), Some(40.0)));
        pace.told(start, start, window(400.0));
        assert_eq!(pace.limit(), Some(40.0), "sent before");
        pace.told(start, start + 2 * SECOND, window(0.0));
        assert_eq!(pace.limit(), Some(40.0), "a limit of nothing says nothing");
        pace.refused(start, start, 20.0);
        assert!((pace.limit().unwrap() - 38.0 * FALL).abs() < 1e-9, "somebody else uses it too");
        pace.told(start, start + 3 * SECOND, window(80.0));
        assert_eq!(pace.rate(), Some(76.0), "raised");
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_a_told_limit(limit in 1_u32..200, gaps in vec((0_u64..900, 1_u32..40), 1..40)) {
            let mut now = Instant::now();
            let (mut pace, mut turns) = (Pace::new(now, 0.5), Vec::new());
            pace.told(now, now, window(limit.into()));
            for (gap, callers) in gaps {
                now += Duration::from_millis(gap);
                for _ in 0..callers {
                    if pace.turn(now, 1.0).is_zero() {
                        pace.take(now, 1.0);
                        turns.push(now);
                    }
                }
                let within = turns.iter().filter(|at| now - **at < SECOND).count();
                prop_assert!(within <= limit as usize, "{within} of {limit}");
            }
        }
    }
}
