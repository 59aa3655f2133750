//! The bucket that repeats are paid from.

use crate::types::sync::{AtomicI64, Ordering};

/// What a repeat costs.
const RETRY_COST: i64 = 5;
/// What a first attempt that succeeds puts back.
const SUCCESS_REFUND: i64 = 1;
/// Room for ten repeats in a row.
const CAPACITY: i64 = 50;

/// A token bucket that repeats are paid from: the AWS SDKs' standard rule with a capacity of 50.
///
/// A repeat costs 5; a first attempt that succeeds returns 1, a repeat that succeeds returns its 5. When it is empty
/// the original error is returned at once.
///
/// ```
/// use together_inference::client::RetryBudget;
///
/// let budget = RetryBudget::default();
/// let granted = (0..20).filter(|_| budget.try_spend()).count();
/// assert_eq!(granted, 10);
/// ```
#[derive(Debug)]
pub struct RetryBudget(AtomicI64);

impl Default for RetryBudget {
    /// A full bucket.
    fn default() -> Self {
        Self(AtomicI64::new(CAPACITY))
    }
}

impl RetryBudget {
    /// Takes the price of one repeat; `false` if there is not enough.
    pub fn try_spend(&self) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| (left >= RETRY_COST).then_some(left - RETRY_COST))
            .is_ok()
    }

    /// Returns tokens for a success.
    pub fn succeeded(&self, was_repeat: bool) {
        let refund = if was_repeat { RETRY_COST } else { SUCCESS_REFUND };
        // A full bucket is the healthy case: read before writing, so that calls do not fight for the cache line.
        if self.0.load(Ordering::Relaxed) >= CAPACITY {
            return;
        }
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| Some((left + refund).min(CAPACITY)));
    }

    /// Tokens left.
    #[must_use]
    pub fn left(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_repeats_empty_the_bucket_and_successes_fill_it() {
        let budget = RetryBudget::default();
        assert!((0..10).all(|_| budget.try_spend()));
        assert!(!budget.try_spend());
        (0..4).for_each(|_| budget.succeeded(false));
        assert!(!budget.try_spend(), "four successes are not enough for a repeat");
        budget.succeeded(false);
        assert!(budget.try_spend());
        budget.succeeded(true);
        assert_eq!(budget.left(), 5);
        (0..200).for_each(|_| budget.succeeded(true));
        assert_eq!(budget.left(), 50);
    }
}
