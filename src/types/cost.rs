//! What an attempt or a call cost, as far as it is known.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Usd;

/// What an attempt or a call cost.
///
/// ```
/// use together_inference::{Cost, usd};
///
/// assert_eq!(Cost::Known(usd!("0.000213")).to_string(), "$0.000213");
/// assert_eq!(Cost::Unknown { at_most: usd!("0.01") }.to_string(), "at most $0.01");
/// assert_eq!(Cost::Unpriced.to_string(), "unpriced");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Cost {
    /// Exactly this, by the tokens that were reported or counted and the price stamped at dispatch.
    Known(Usd),
    /// The provider may have billed it but no usage came back; at most this.
    Unknown {
        /// The cost if every prompt byte were a token and the whole of `max_tokens` were used.
        at_most: Usd,
    },
    /// The model has no known price. Never shown as $0.
    Unpriced,
}

impl Cost {
    /// The amount to charge against a budget: exact, the upper bound, or zero where there is no price.
    ///
    /// ```
    /// use together_inference::{Cost, Usd, usd};
    ///
    /// assert_eq!(Cost::Unknown { at_most: usd!("0.01") }.charge(), usd!("0.01"));
    /// assert_eq!(Cost::Unpriced.charge(), Usd::ZERO);
    /// ```
    #[must_use]
    pub const fn charge(self) -> Usd {
        match self {
            Self::Known(usd) | Self::Unknown { at_most: usd } => usd,
            Self::Unpriced => Usd::ZERO,
        }
    }

    /// The exact amount, if it is known.
    ///
    /// ```
    /// use together_inference::{Cost, usd};
    ///
    /// assert_eq!(Cost::Known(usd!("0.01")).known(), Some(usd!("0.01")));
    /// assert_eq!(Cost::Unknown { at_most: usd!("0.01") }.known(), None);
    /// ```
    #[must_use]
    pub const fn known(self) -> Option<Usd> {
        match self {
            Self::Known(usd) => Some(usd),
            _ => None,
        }
    }

    /// The sum of two costs: known only if both are.
    ///
    /// ```
    /// use together_inference::{Cost, usd};
    ///
    /// let known = Cost::Known(usd!("0.02"));
    /// assert_eq!(known.plus(known), Cost::Known(usd!("0.04")));
    /// let lost = Cost::Unknown { at_most: usd!("0.01") };
    /// assert_eq!(known.plus(lost), Cost::Unknown { at_most: usd!("0.03") });
    /// assert_eq!(lost.plus(Cost::Unpriced), Cost::Unpriced);
    /// ```
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a + b),
            (Self::Unpriced, _) | (_, Self::Unpriced) => Self::Unpriced,
            _ => Self::Unknown { at_most: self.charge() + other.charge() },
        }
    }
}

impl fmt::Display for Cost {
    /// `$0.000213`, `at most $0.01` or `unpriced`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(usd) => fmt::Display::fmt(usd, f),
            Self::Unknown { at_most } => f.pad(&format!("at most {at_most}")),
            Self::Unpriced => f.pad("unpriced"),
        }
    }
}
