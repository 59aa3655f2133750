//! What speaks for a route within its tier.
//!
//! Log-linear: a route that is twice as dear loses the same amount wherever it stands, and leaving one route out never
//! changes the order of the others (scaling between the best and the worst would).
//!
//! The cost is that of a nominal request, so that the order does not depend on how long a prompt happens to be.

use super::{ModelRoute, RouteAsk, learn::Estimate};
use crate::types::{Priority, Usage, Usd};

/// The request that costs are compared by: 1,000 tokens in, 256 out.
const NOMINAL: Usage = Usage { prompt: 1_000, completion: 256, ..Usage::ZERO };
/// The quality of a route that nobody evaluated; the same for all, so that it cancels.
const UNKNOWN_QUALITY: f64 = 0.5;
/// The lowest quality that counts: the logarithm of 0 would outweigh everything.
const LEAST_QUALITY: f64 = 0.01;
/// Seconds to an answer where nothing is known; the same for all, so that it cancels.
pub(super) const UNKNOWN_SECONDS: f64 = 2.0;
/// The shortest time that counts: differences below it are noise, and matter to nobody.
const LEAST_SECONDS: f64 = 0.05;
/// Added to a cost in dollars, so that a free route has a logarithm.
const COST_FLOOR: f64 = 1e-7;

/// How much each term counts at a priority: at realtime 10 % of failures are as bad as 2.3 times the time, at standard
/// as bad as half as much again in price.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weights {
    quality: f64,
    cost: f64,
    latency: f64,
    success: f64,
}

impl Weights {
    /// A number for these weights, the same in every process: FNV-1a, for it is asked for at every ranking.
    pub(super) fn fingerprint(self) -> u64 {
        let Self { quality, cost, latency, success } = self;
        let bytes = [quality, cost, latency, success].into_iter().flat_map(f64::to_le_bytes);
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Those of a question: its priority's, with more weight on the cost where money is short.
    pub(super) fn asked(ask: &RouteAsk<'_>) -> Self {
        let weights = Self::of(ask.priority());
        Self { cost: weights.cost * ask.thrift.cost(), ..weights }
    }

    const fn of(priority: Priority) -> Self {
        match priority {
            Priority::Realtime => Self { quality: 2.0, cost: 0.5, latency: 1.0, success: 8.0 },
            Priority::Standard => Self { quality: 1.0, cost: 1.0, latency: 0.5, success: 4.0 },
            Priority::Batch => Self { quality: 0.5, cost: 1.0, latency: 0.0, success: 2.0 },
        }
    }
}

/// The logarithms that a score is made of, taken once when the routes change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Terms {
    quality: f64,
    cost: f64,
}

impl Terms {
    /// The terms of a route; without a price it costs as much as `dearest`.
    pub(super) fn new(route: &ModelRoute, dearest: Usd) -> Self {
        let cost = expected_cost(route).unwrap_or(dearest);
        Self { quality: quality(route).ln(), cost: (dollars(cost) + COST_FLOOR).ln() }
    }

    /// What a score is the sum of: quality, cost, latency, success. Higher is better.
    pub(super) fn weighed(&self, weights: Weights, now: &Estimate) -> [f64; 4] {
        [
            weights.quality * self.quality,
            -weights.cost * self.cost,
            -weights.latency * now.seconds.max(LEAST_SECONDS).ln(),
            weights.success * now.success.ln(),
        ]
    }
}

/// What the nominal request costs there, if the price is known.
pub(super) fn expected_cost(route: &ModelRoute) -> Option<Usd> {
    route.price.map(|price| price.cost(&NOMINAL))
}

fn quality(route: &ModelRoute) -> f64 {
    let known = route.quality_score.map(f64::from).filter(|score| score.is_finite());
    known.map_or(UNKNOWN_QUALITY, |score| score.clamp(LEAST_QUALITY, 1.0))
}

/// What somebody said of its latency.
pub(super) fn said_seconds(route: &ModelRoute) -> Option<f64> {
    route.latency_p50.map(|time| time.as_secs_f64().max(LEAST_SECONDS))
}

/// The beginning of a hash, as a number.
pub(super) fn first_bytes(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn dollars(amount: Usd) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a score needs no more than 52 bits")]
    let nanos = amount.nanos().max(0) as f64;
    nanos / 1e9
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::{
        Price,
        router::learn::{Expected, Learned},
        usd,
    };

    fn route(input: &'static str) -> ModelRoute {
        let price = Price::per_million(crate::parse_usd(input).unwrap(), usd!("1"));
        ModelRoute::new("together", "m").price(price)
    }

    fn score(route: &ModelRoute, priority: Priority) -> f64 {
        let expected = Expected { said: said_seconds(route), unknown: UNKNOWN_SECONDS, common: 0.0 };
        let unseen = Learned::default().estimate(Instant::now(), &expected);
        Terms::new(route, usd!("1")).weighed(Weights::of(priority), &unseen).iter().sum()
    }

    #[test]
    fn cheaper_faster_and_better_score_higher() {
        for priority in [Priority::Realtime, Priority::Standard, Priority::Batch] {
            assert!(score(&route("1"), priority) > score(&route("2"), priority));
            assert!(score(&route("1").quality_score(0.8), priority) > score(&route("1"), priority));
        }
        let mut fast = route("1");
        fast.latency_p50 = Some(Duration::from_millis(500));
        assert!(score(&fast, Priority::Realtime) > score(&route("1"), Priority::Realtime));
        assert!((score(&fast, Priority::Batch) - score(&route("1"), Priority::Batch)).abs() < 1e-12);
    }

    #[test]
    fn an_unpriced_route_costs_as_much_as_the_dearest() {
        let unpriced = Terms::new(&ModelRoute::new("together", "m"), usd!("0.01"));
        let free = Terms::new(&ModelRoute::new("together", "m").price(Price::FREE), usd!("0.01"));
        assert!((unpriced.cost - (0.01_f64 + COST_FLOOR).ln()).abs() < 1e-9);
        assert!(free.cost < unpriced.cost);
    }

    #[test]
    fn nonsense_never_makes_a_score_that_is_no_number() {
        for quality in [f32::NAN, f32::INFINITY, -1.0, 0.0, 7.0] {
            let mut route = route("0").quality_score(quality);
            route.latency_p50 = Some(Duration::ZERO);
            assert!(score(&route, Priority::Realtime).is_finite(), "{quality}");
        }
    }
}
