//! A bucket that fills at a steady rate and is emptied by what goes out.
//!
//! Own and not governor's: its rate changes as the provider's is learned, what an answer used is put right at its end,
//! and how long a turn will take can be asked without taking it.

use std::time::Duration;

use tokio::time::Instant;

/// What goes out may be larger than the bucket: it leaves a debt, and the next one waits for longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    level: f64,
    filled: Instant,
}

/// How fast a bucket fills, a second, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Flow {
    pub(super) rate: f64,
    pub(super) capacity: f64,
}

/// No debt takes longer to fill, in seconds, whatever an answer claims to have used.
const LONGEST_DEBT: f64 = 60.0;
/// What is lacking at most to count as there: sums of parts are not exact.
const DUST: f64 = 1e-6;

impl Flow {
    /// A twentieth of a second's worth, but one always: little enough for a second to stay within the whole, and more
    /// than a timer is late by.
    pub(super) fn of(rate: f64) -> Self {
        Self { rate, capacity: (rate / 20.0).max(1.0) }
    }
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { level: f64::MAX, filled: now }
    }

    /// Lets time pass.
    pub(super) fn fill(&mut self, now: Instant, flow: Flow) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        let level = self.level.max(-LONGEST_DEBT * flow.rate);
        self.level = (level + passed * flow.rate).min(flow.capacity);
        self.filled = self.filled.max(now);
    }

    /// How long until so much may go out, after what is ahead of it.
    pub(super) fn wait(&self, flow: Flow, cost: f64, ahead: f64) -> Duration {
        let lacking = ahead + cost.min(flow.capacity) - self.level;
        if lacking <= DUST {
            return Duration::ZERO;
        }
        // Rounded up: whoever wakes by it finds its turn.
        super::seconds(lacking / flow.rate) + Duration::from_nanos(1)
    }

    /// Takes so much out; a negative number gives back.
    pub(super) fn take(&mut self, cost: f64) {
        self.level -= cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_the_bucket_goes_out_when_it_is_full_and_delays_the_next() {
        let (start, flow) = (Instant::now(), Flow { rate: 10.0, capacity: 5.0 });
        let mut bucket = Bucket::new(start);
        bucket.fill(start, flow);
        assert_eq!(bucket.wait(flow, 25.0, 0.0), Duration::ZERO);
        bucket.take(25.0);
        assert_eq!(bucket.wait(flow, 1.0, 0.0).as_millis(), 2_100);
        assert_eq!(bucket.wait(flow, 1.0, 10.0).as_millis(), 3_100, "after ten others");
        bucket.take(-20.0);
        assert_eq!(bucket.wait(flow, 1.0, 0.0).as_millis(), 100, "what was not used is given back");
        bucket.take(1e12);
        bucket.fill(start, flow);
        assert_eq!(bucket.wait(flow, 1.0, 0.0).as_millis(), 60_100, "no debt is for ever");
        bucket.fill(start + Duration::from_secs(600), flow);
        assert!(bucket.wait(flow, 5.0, 0.1) > Duration::ZERO, "no more than its capacity is kept");
    }

    #[test]
    fn whoever_wakes_when_told_finds_a_turn() {
        for rate in [0.5, 3.0, 7.0, 9.5, 33.3, 1_000.0] {
            let (mut now, flow) = (Instant::now(), Flow::of(rate));
            let mut bucket = Bucket::new(now);
            for _ in 0..1_000 {
                bucket.fill(now, flow);
                now += bucket.wait(flow, 1.0, 0.0);
                bucket.fill(now, flow);
                assert_eq!(bucket.wait(flow, 1.0, 0.0), Duration::ZERO, "{rate}");
                bucket.take(1.0);
            }
        }
    }
}
