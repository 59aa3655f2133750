//! Prices in pico-dollars per token, and what a usage costs by them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Usage, Usd};

/// Pico-dollars (10⁻¹² $) per token. $1 per million tokens is 1,000,000 pico-dollars per token, so that half of
/// $0.015 per million is still exact.
///
/// ```
/// use together_inference::{types::Rate, usd};
///
/// let rate = Rate::per_million(usd!("0.15"));
/// assert_eq!(rate, Rate::from_picos(150_000));
/// assert_eq!(rate.to_string(), "$0.15/M");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(u64);

impl Rate {
    /// Nothing per token.
    pub const FREE: Self = Self(0);

    /// What is below nothing: no rate at all, and dearer than any where somebody counts by it all the same.
    const NEGATIVE: Self = Self(u64::MAX);

    /// This many pico-dollars per token.
    ///
    /// ```
    /// use together_inference::types::Rate;
    ///
    /// assert_eq!(Rate::from_picos(1_000_000).to_string(), "$1.00/M");
    /// ```
    #[must_use]
    pub const fn from_picos(picos: u64) -> Self {
        Self(picos)
    }

    /// This many dollars per million tokens, as price lists write it.
    ///
    /// A part of a pico-dollar per token counts as a whole one. A negative amount [is no rate](Self::is_negative).
    ///
    /// ```
    /// use together_inference::{types::Rate, usd};
    ///
    /// assert_eq!(Rate::per_million(usd!("4.40")).picos(), 4_400_000);
    /// assert_eq!(Rate::per_million(usd!("0")), Rate::FREE);
    /// ```
    #[must_use]
    pub const fn per_million(dollars: Usd) -> Self {
        // A price below nothing would let a budget grow by being used.
        let nanos = dollars.nanos();
        if nanos < 0 { Self::NEGATIVE } else { Self(nanos.unsigned_abs().div_ceil(1_000)) }
    }

    /// Whether it was made of an amount below nothing, which is no rate: what is priced by it is unpriced, and not free.
    ///
    /// ```
    /// use together_inference::{types::Rate, usd};
    ///
    /// assert!(Rate::per_million(-usd!("4.40")).is_negative());
    /// assert!(!Rate::FREE.is_negative());
    /// ```
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 == Self::NEGATIVE.0
    }

    /// A fetched number of dollars per million tokens, rounded to a pico-dollar per token; `None` unless it is finite
    /// and positive (an API says 0 for "not known").
    ///
    /// ```
    /// use together_inference::types::Rate;
    ///
    /// assert_eq!(Rate::from_fetched(0.88), Some(Rate::from_picos(880_000)));
    /// assert_eq!(Rate::from_fetched(0.0), None, "not known is not free");
    /// assert_eq!(Rate::from_fetched(f64::NAN), None);
    /// ```
    #[must_use]
    pub fn from_fetched(dollars_per_million: f64) -> Option<Self> {
        let picos = (dollars_per_million * 1e6).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within range")]
        (picos.is_finite() && picos > 0.0 && picos < 1e15).then_some(Self(picos as u64))
    }

    /// The rate in pico-dollars per token.
    ///
    /// ```
    /// use together_inference::{types::Rate, usd};
    ///
    /// assert_eq!(Rate::per_million(usd!("0.15")).picos(), 150_000);
    /// ```
    #[must_use]
    pub const fn picos(self) -> u64 {
        self.0
    }

    /// The cost of this many tokens in pico-dollars.
    fn of(self, tokens: u64) -> u128 {
        u128::from(self.0) * u128::from(tokens)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Rate {
    /// Dollars per million tokens, as price lists write it: `$0.15/M`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_negative() {
            return f.write_str("less than nothing/M");
        }
        let nanos = i64::try_from(self.0).unwrap_or(i64::MAX).saturating_mul(1_000);
        write!(f, "{}/M", Usd::from_nanos(nanos))
    }
}

/// What a model costs.
///
/// ```
/// use together_inference::{Price, Usage, usd};
///
/// let price = Price::per_million(usd!("0.15"), usd!("0.60"));
/// let usage = Usage { prompt: 1_000, completion: 200, ..Usage::default() };
/// assert_eq!(price.cost(&usage), usd!("0.00027"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Price {
    /// For each prompt token that was not read from the provider's prompt cache.
    pub input: Rate,
    /// For each prompt token that was; `None` means the same as `input`.
    pub cached_input: Option<Rate>,
    /// For each completion token, reasoning included.
    pub output: Rate,
    /// For each picture made, whatever its size.
    #[serde(default)]
    pub image: Usd,
    /// For each pixel made.
    #[serde(default)]
    pub pixel: Rate,
    /// For each minute of sound, by the second.
    #[serde(default)]
    pub audio_minute: Usd,
    /// For each hour of an endpoint of one's own, by the second.
    #[serde(default)]
    pub hour: Usd,
}

impl Price {
    /// A declared price of nothing. Unlike an unknown price, its cost is known to be $0.
    pub const FREE: Self = Self::from_rates(Rate::FREE, None, Rate::FREE);

    /// Dollars per million prompt and completion tokens. A negative amount makes it [no price](Self::is_negative).
    ///
    /// ```
    /// use together_inference::{Price, types::Rate, usd};
    ///
    /// let price = Price::per_million(usd!("1.40"), usd!("4.40"));
    /// assert_eq!((price.input, price.output), (Rate::from_picos(1_400_000), Rate::from_picos(4_400_000)));
    /// ```
    #[must_use]
    pub const fn per_million(input: Usd, output: Usd) -> Self {
        Self::from_rates(Rate::per_million(input), None, Rate::per_million(output))
    }

    /// Dollars per megapixel (10⁶ pixels) of the pictures made. A negative amount makes it [no
    /// price](Self::is_negative).
    ///
    /// ```
    /// use together_inference::{Price, Usage, usd};
    ///
    /// let price = Price::per_megapixel(usd!("0.0027"));
    /// let two = Usage { images: 2, pixels: 2 * 1_000 * 500, ..Usage::default() };
    /// assert_eq!(price.cost(&two), usd!("0.0027"));
    /// ```
    #[must_use]
    pub const fn per_megapixel(dollars: Usd) -> Self {
        Self { pixel: Rate::per_million(dollars), ..Self::FREE }
    }

    /// Dollars per picture, whatever its size. A negative amount makes it [no price](Self::is_negative).
    ///
    /// ```
    /// use together_inference::{Price, Usage, usd};
    ///
    /// let three = Usage { images: 3, pixels: 3 << 20, ..Usage::default() };
    /// assert_eq!(Price::per_image(usd!("0.04")).cost(&three), usd!("0.12"));
    /// ```
    #[must_use]
    pub const fn per_image(dollars: Usd) -> Self {
        Self { image: dollars, ..Self::FREE }
    }

    /// Dollars per minute of sound, billed by the second. A negative amount makes it [no price](Self::is_negative).
    ///
    /// ```
    /// use together_inference::{Price, Usage, usd};
    ///
    /// let spoken = Usage { seconds: 90, ..Usage::default() };
    /// assert_eq!(Price::per_audio_minute(usd!("0.0015")).cost(&spoken), usd!("0.00225"));
    /// ```
    #[must_use]
    pub const fn per_audio_minute(dollars: Usd) -> Self {
        Self { audio_minute: dollars, ..Self::FREE }
    }

    /// Dollars per hour of an endpoint of one's own, billed by the second. A negative amount makes it [no
    /// price](Self::is_negative).
    ///
    /// ```
    /// use together_inference::{Price, Usage, usd};
    ///
    /// let a_minute = Usage { seconds: 60, ..Usage::default() };
    /// assert_eq!(Price::per_hour(usd!("6.60")).cost(&a_minute), usd!("0.11"));
    /// ```
    #[must_use]
    pub const fn per_hour(dollars: Usd) -> Self {
        Self { hour: dollars, ..Self::FREE }
    }

    /// The same with a price per million prompt tokens read from the provider's prompt cache.
    ///
    /// ```
    /// use together_inference::{Price, Usage, usd};
    ///
    /// let price = Price::per_million(usd!("1.00"), usd!("2.00")).cached(usd!("0.10"));
    /// let usage = Usage { prompt: 1_000, cached: 900, ..Usage::default() };
    /// assert_eq!(price.cost(&usage), usd!("0.00019"), "100 tokens at $1 and 900 at $0.10 a million");
    /// ```
    #[must_use]
    pub const fn cached(mut self, cached_input: Usd) -> Self {
        self.cached_input = Some(Rate::per_million(cached_input));
        self
    }

    /// Whether a part of it is below nothing, which makes it no price: it is unpriced, and not free.
    ///
    /// A service is not built with one, and a [`PriceBook`](crate::cost::PriceBook) answers as if the route had none.
    ///
    /// ```
    /// use together_inference::{Price, usd};
    ///
    /// assert!(Price::per_million(usd!("1.00"), -usd!("2.00")).is_negative());
    /// assert!(!Price::FREE.is_negative(), "a declared zero is a price");
    /// ```
    #[must_use]
    pub const fn is_negative(&self) -> bool {
        let cached = match self.cached_input {
            Some(rate) => rate.is_negative(),
            None => false,
        };
        cached
            || self.input.is_negative()
            || self.output.is_negative()
            || self.pixel.is_negative()
            || self.image.nanos() < 0
            || self.audio_minute.nanos() < 0
            || self.hour.nanos() < 0
    }

    /// A price of these rates.
    ///
    /// ```
    /// use together_inference::{Price, types::Rate, usd};
    ///
    /// let rates = Price::from_rates(Rate::from_picos(150_000), None, Rate::from_picos(600_000));
    /// assert_eq!(rates, Price::per_million(usd!("0.15"), usd!("0.60")));
    /// ```
    #[must_use]
    pub const fn from_rates(input: Rate, cached_input: Option<Rate>, output: Rate) -> Self {
        let (image, pixel, audio_minute, hour) = (Usd::ZERO, Rate::FREE, Usd::ZERO, Usd::ZERO);
        Self { input, cached_input, output, image, pixel, audio_minute, hour }
    }

    /// The same with so many percent off, as providers give on batches; 100 and more leave nothing to pay.
    ///
    /// A rate that is no whole number of pico-dollars after that is rounded up, and so is a sum in nano-dollars. Half of
    /// a price that a list writes with up to five decimals is exact.
    ///
    /// ```
    /// use together_inference::{Price, usd};
    ///
    /// let half = Price::per_million(usd!("0.88"), usd!("0.015")).percent_off(50);
    /// assert_eq!(half, Price::per_million(usd!("0.44"), usd!("0.0075")));
    /// ```
    #[must_use]
    pub fn percent_off(self, percent: u8) -> Self {
        if self.is_negative() {
            return self;
        }
        let left = 100 - u64::from(percent.min(100));
        let rate = |rate: Rate| Rate(share(rate.0, left));
        let usd =
            |sum: Usd| Usd::from_nanos(i64::try_from(share(sum.nanos().unsigned_abs(), left)).unwrap_or(i64::MAX));
        Self {
            input: rate(self.input),
            cached_input: self.cached_input.map(rate),
            output: rate(self.output),
            image: usd(self.image),
            pixel: rate(self.pixel),
            audio_minute: usd(self.audio_minute),
            hour: usd(self.hour),
        }
    }

    /// The cost of this usage, rounded up once to a whole nano-dollar.
    ///
    /// Cached tokens beyond the prompt's count as the prompt's; reasoning is part of the completion and not charged
    /// again. A sum above $9.2 billion saturates.
    ///
    /// ```
    /// use together_inference::{Price, Usage, Usd, usd};
    ///
    /// let price = Price::per_million(usd!("0.0015"), usd!("0.0015"));
    /// let usage = Usage { prompt: 1, completion: 1, ..Usage::default() };
    /// assert_eq!(price.cost(&usage), Usd::from_nanos(3), "two halves are rounded up together, not each");
    /// ```
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Usd {
        // The provider's counts are not ours to trust: more cached tokens than there are must not go below zero.
        let cached = usage.cached.min(usage.prompt);
        let picos = self
            .input
            .of(usage.prompt - cached)
            .saturating_add(self.cached_input.unwrap_or(self.input).of(cached))
            .saturating_add(self.output.of(usage.completion))
            .saturating_add(self.pixel.of(usage.pixels))
            .saturating_add(u128::from(self.image.nanos().unsigned_abs()) * u128::from(usage.images) * 1_000);
        let nanos = match self.nanos_of_3600(usage.seconds) {
            0 => picos.div_ceil(1_000),
            // The division by 3,600 comes last: a third of a cent a minute is no whole number a second.
            timed => picos.saturating_mul(3_600).saturating_add(timed.saturating_mul(1_000)).div_ceil(3_600_000),
        };
        Usd::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// What so many seconds cost, in parts of a nano-dollar of which 3,600 are one.
    fn nanos_of_3600(&self, seconds: u64) -> u128 {
        let hourly = u128::from(self.audio_minute.nanos().unsigned_abs()) * 60;
        (hourly + u128::from(self.hour.nanos().unsigned_abs())).saturating_mul(u128::from(seconds))
    }

    /// The most that this usage can cost: as if nothing were cached, or all of it, whichever is dearer.
    ///
    /// ```
    /// use together_inference::{Price, Usage, usd};
    ///
    /// let price = Price::per_million(usd!("1.00"), usd!("2.00")).cached(usd!("0.10"));
    /// let at_most = Usage { prompt: 1_000, completion: 100, ..Usage::default() };
    /// assert_eq!(price.upper_bound(&at_most), usd!("0.0012"), "as if nothing were cached");
    /// ```
    #[must_use]
    pub fn upper_bound(&self, usage: &Usage) -> Usd {
        // Nothing says that reading a cache is the cheaper one; the bound holds either way.
        let input = self.input.max(self.cached_input.unwrap_or(self.input));
        Self { input, cached_input: None, ..*self }.cost(usage)
    }
}

impl fmt::Display for Price {
    /// What is charged for, as price lists write it: `$0.15/M in, $0.60/M out, $0.03/M cached`; `free` where nothing is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: Rate, what: &str| (rate != Rate::FREE).then(|| format!("{rate}{what}"));
        let each = |sum: Usd, what: &str| (!sum.is_zero()).then(|| format!("{sum}{what}"));
        let parts = [
            rate(self.input, " in"),
            rate(self.output, " out"),
            self.cached_input.map(|rate| format!("{rate} cached")),
            each(self.image, "/image"),
            rate(self.pixel, "P"),
            each(self.audio_minute, "/minute"),
            each(self.hour, "/hour"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.pad(&if parts.is_empty() { "free".to_owned() } else { parts.join(", ") })
    }
}

/// So many hundredths of a number, rounded up.
fn share(number: u64, hundredths: u64) -> u64 {
    u64::try_from((u128::from(number) * u128::from(hundredths)).div_ceil(100)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usd;

    #[test]
    fn a_call_is_rounded_up_once() {
        let price = Price::per_million(usd!("0.0015"), usd!("0.0015"));
        // 1 + 1 tokens at 1.5 nano-dollars: 3 nano-dollars, not 2 + 2.
        assert_eq!(price.cost(&Usage { prompt: 1, completion: 1, ..Usage::default() }), Usd::from_nanos(3));
        assert_eq!(price.cost(&Usage { prompt: 1, ..Usage::default() }), Usd::from_nanos(2));
    }

    #[test]
    fn cached_tokens_are_priced_apart_and_never_more_than_the_prompt() {
        let price = Price::per_million(usd!("1"), usd!("2")).cached(usd!("0.1"));
        let usage = Usage { prompt: 100, cached: 40, completion: 10, ..Usage::default() };
        assert_eq!(price.cost(&usage), Usd::from_nanos(60_000 + 4_000 + 20_000));
        let absurd = Usage { prompt: 10, cached: 1_000, ..Usage::default() };
        assert_eq!(price.cost(&absurd), Usd::from_nanos(1_000));
    }

    #[test]
    fn a_fetched_zero_or_nonsense_is_no_price() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e30] {
            assert_eq!(Rate::from_fetched(bad), None, "{bad}");
        }
        assert_eq!(Rate::from_fetched(0.88), Some(Rate::from_picos(880_000)));
        assert_eq!(Rate::from_fetched(0.015), Some(Rate::from_picos(15_000)));
    }

    #[test]
    fn time_is_billed_by_the_second_and_rounded_up_once_with_the_tokens() {
        let price = Price { audio_minute: usd!("0.01"), ..Price::per_million(usd!("0.0001"), usd!("0")) };
        // A second of a cent a minute is 166,666 nano-dollars and two thirds; a token here a tenth of one.
        assert_eq!(price.cost(&Usage { seconds: 1, ..Usage::ZERO }), Usd::from_nanos(166_667));
        assert_eq!(price.cost(&Usage { seconds: 1, prompt: 3, ..Usage::ZERO }), Usd::from_nanos(166_667));
        assert_eq!(price.cost(&Usage { seconds: 1, prompt: 4, ..Usage::ZERO }), Usd::from_nanos(166_668));
        assert_eq!(Price::per_hour(usd!("6.60")).cost(&Usage { seconds: 3_600, ..Usage::ZERO }), usd!("6.60"));
    }

    #[test]
    fn what_is_below_nothing_stays_so_whatever_is_taken_off() {
        let below = -usd!("1");
        for price in [Price::per_million(below, below), Price::per_image(below), Price::FREE.cached(below)] {
            assert!(price.is_negative() && price.percent_off(100).is_negative(), "{price}");
        }
        assert!(Price::per_million(below, below).to_string().starts_with("less than nothing/M in"));
        let usage = Usage { prompt: 1, ..Usage::ZERO };
        assert!(Price::per_million(below, below).cost(&usage) > Price::per_million(usd!("1000"), below).cost(&usage));
    }

    #[test]
    fn a_price_is_written_as_price_lists_do() {
        assert_eq!(Price::FREE.to_string(), "free");
        let chat = Price::per_million(usd!("0.15"), usd!("0.60")).cached(usd!("0.03"));
        assert_eq!(chat.to_string(), "$0.15/M in, $0.60/M out, $0.03/M cached");
        assert_eq!(Price::per_megapixel(usd!("0.0027")).to_string(), "$0.0027/MP");
        assert_eq!(Price::per_audio_minute(usd!("0.0015")).to_string(), "$0.0015/minute");
    }

    #[test]
    fn a_discount_never_undercharges() {
        assert_eq!(Price::FREE.percent_off(50), Price::FREE);
        let odd = Price::from_rates(Rate::from_picos(3), Some(Rate::from_picos(1)), Rate::from_picos(4));
        assert_eq!(
            odd.percent_off(50),
            Price::from_rates(Rate::from_picos(2), Some(Rate::from_picos(1)), Rate::from_picos(2))
        );
        assert_eq!(odd.percent_off(0), odd);
        assert_eq!(
            (odd.percent_off(100), odd.percent_off(200)),
            (
                Price { cached_input: Some(Rate::FREE), ..Price::FREE },
                Price { cached_input: Some(Rate::FREE), ..Price::FREE }
            )
        );
    }

    #[test]
    fn absurd_usage_saturates() {
        let price = Price::from_rates(Rate::from_picos(u64::MAX), None, Rate::from_picos(u64::MAX));
        let usage = Usage { prompt: u64::MAX, completion: u64::MAX, ..Usage::default() };
        assert_eq!(price.cost(&usage), Usd::from_nanos(i64::MAX));
        let price = Price { hour: Usd::from_nanos(i64::MAX), audio_minute: Usd::from_nanos(i64::MAX), ..price };
        assert_eq!(price.cost(&Usage { seconds: u64::MAX, ..usage }), Usd::from_nanos(i64::MAX));
    }
}
