//! Money as integers: nano-dollars.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Neg, Sub},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

const NANOS_PER_DOLLAR: i64 = 1_000_000_000;

/// An amount of US dollars in whole nano-dollars (10⁻⁹ $). Never a float.
///
/// Arithmetic saturates at ±$9.2 billion.
///
/// ```
/// use together_inference::{Usd, usd};
///
/// let spent = usd!("0.25") + Usd::from_nanos(213_000);
/// assert_eq!(spent.to_string(), "$0.250213");
/// assert_eq!("1.5".parse::<Usd>()?, usd!("1.50"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usd(i64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// This many nano-dollars.
    ///
    /// ```
    /// use together_inference::Usd;
    ///
    /// assert_eq!(Usd::from_nanos(213_000).to_string(), "$0.000213");
    /// assert_eq!(Usd::from_nanos(-250_000_000).to_string(), "-$0.25");
    /// ```
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The amount in nano-dollars.
    ///
    /// ```
    /// use together_inference::usd;
    ///
    /// assert_eq!(usd!("0.25").nanos(), 250_000_000);
    /// ```
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whether the amount is exactly zero.
    ///
    /// ```
    /// use together_inference::Usd;
    ///
    /// assert!(Usd::ZERO.is_zero());
    /// assert!(!Usd::from_nanos(1).is_zero());
    /// ```
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// Parses decimal dollars such as `25`, `0.15` or `$1.000000001`; usable in constants.
///
/// ```
/// use together_inference::{Usd, parse_usd, usd};
///
/// const DAILY: Result<Usd, together_inference::types::ParseUsdError> = parse_usd("$25");
/// assert_eq!(DAILY, Ok(usd!("25.00")));
/// for wrong in ["-1", "1,000", "1e3", "0.0000000001", ""] {
///     assert!(parse_usd(wrong).is_err(), "{wrong}");
/// }
/// ```
///
/// # Errors
///
/// [`ParseUsdError`] for anything else than digits with at most nine decimals, and for amounts over $9.2 billion.
pub const fn parse_usd(text: &str) -> Result<Usd, ParseUsdError> {
    // By hand, byte by byte: neither `?` nor `str::parse` may stand in a constant.
    let bytes = text.as_bytes();
    let mut at = if let [b'$', ..] = bytes { 1 } else { 0 };
    let (mut nanos, mut decimals, mut digits) = (0_i64, None::<u32>, 0_u32);
    while at < bytes.len() {
        #[expect(clippy::indexing_slicing, reason = "bounded by the loop; slices have no get() in const fn")]
        let byte = bytes[at];
        match (byte, decimals) {
            (b'.', None) => decimals = Some(0),
            (b'0'..=b'9', _) => {
                if let Some(count) = decimals {
                    if count == 9 {
                        return Err(ParseUsdError(()));
                    }
                    decimals = Some(count + 1);
                }
                let Some(shifted) = nanos.checked_mul(10) else { return Err(ParseUsdError(())) };
                let Some(next) = shifted.checked_add((byte - b'0') as i64) else { return Err(ParseUsdError(())) };
                nanos = next;
                digits += 1;
            }
            _ => return Err(ParseUsdError(())),
        }
        at += 1;
    }
    let missing = 9 - match decimals {
        Some(count) => count,
        None => 0,
    };
    match nanos.checked_mul(10_i64.pow(missing)) {
        Some(nanos) if digits > 0 => Ok(Usd(nanos)),
        _ => Err(ParseUsdError(())),
    }
}

/// A [`Usd`](crate::Usd) amount checked at compile time: a text that [`parse_usd`](crate::parse_usd) refuses does not
/// build.
///
/// ```
/// use together_inference::{Usd, usd};
///
/// const LIMIT: Usd = usd!("25.00");
/// assert_eq!(LIMIT, Usd::from_nanos(25_000_000_000));
/// ```
#[macro_export]
macro_rules! usd {
    ($amount:literal) => {
        const {
            match $crate::parse_usd($amount) {
                Ok(amount) => amount,
                Err(_) => panic!("not an amount of dollars with at most nine decimals"),
            }
        }
    };
}

/// The text is not an amount of dollars.
///
/// ```
/// use together_inference::{Usd, types::ParseUsdError};
///
/// let error: ParseUsdError = "a dollar".parse::<Usd>().unwrap_err();
/// assert!(error.to_string().contains("such as 0.15"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an amount of dollars: write digits with at most nine decimals, such as 0.15")]
pub struct ParseUsdError(());

impl FromStr for Usd {
    type Err = ParseUsdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_usd(text)
    }
}

impl fmt::Display for Usd {
    /// `$0.000213`: at least two decimals, at most nine, no trailing zeros beyond them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let per_dollar = NANOS_PER_DOLLAR.unsigned_abs();
        let decimals = format!("{:09}", nanos % per_dollar);
        let shown = decimals.trim_end_matches('0');
        f.pad(&format!("{sign}${}.{shown:0<2}", nanos / per_dollar))
    }
}

impl fmt::Debug for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Usd {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Neg for Usd {
    type Output = Self;

    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand million additions of $0.0000002 are two hundred dollars, and not a nano-dollar more or less. All of
    /// them one by one in a release build, a hundredth of them otherwise.
    #[test]
    fn a_thousand_million_additions_are_exact_to_the_nano_dollar() {
        let count = if cfg!(debug_assertions) { 10_000_000 } else { 1_000_000_000_i64 };
        let price = crate::usd!("0.0000002");
        let sum: Usd = (0..count).map(|_| std::hint::black_box(price)).sum();
        assert_eq!(sum, Usd::from_nanos(count * 200));
        // However they are grouped.
        let whole: Usd = (0..1_000_000_000 / count).map(|_| sum).sum();
        assert_eq!(whole, crate::usd!("200"));
    }

    #[test]
    fn amounts_print_as_dollars() {
        for (nanos, text) in [
            (0, "$0.00"),
            (213_000, "$0.000213"),
            (1, "$0.000000001"),
            (1_500_000_000, "$1.50"),
            (-250_000_000, "-$0.25"),
            (i64::MIN, "-$9223372036.854775808"),
        ] {
            assert_eq!(Usd(nanos).to_string(), text);
        }
    }

    #[test]
    fn amounts_parse_exactly_or_not_at_all() {
        assert_eq!(parse_usd("$12.000000001"), Ok(Usd(12_000_000_001)));
        assert_eq!(parse_usd("7"), Ok(Usd(7_000_000_000)));
        assert_eq!(parse_usd(".5"), Ok(Usd(500_000_000)));
        for bad in ["", "$", ".", "1.0000000001", "-1", "1e3", "1,000", "1.2.3", "99999999999"] {
            assert!(parse_usd(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_billion_tiny_additions_are_exact() {
        // $0.0000002 a billion times; a float sum would drift.
        let tiny = usd!("0.0000002");
        let thousand: Usd = std::iter::repeat_n(tiny, 1_000).sum();
        let million: Usd = std::iter::repeat_n(thousand, 1_000).sum();
        let billion: Usd = std::iter::repeat_n(million, 1_000).sum();
        assert_eq!(billion, usd!("200"));
    }
}
