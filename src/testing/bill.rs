//! What the simulator charges: the same sums as the API, by code that shares nothing with the crate's accounting.

use std::collections::VecDeque;

use super::models::Price;

/// Tokens of one call. Cached tokens are part of the prompt, reasoning tokens part of the completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) prompt: u64,
    pub(super) cached: u64,
    pub(super) completion: u64,
    pub(super) reasoning: u64,
    pub(super) images: u64,
    pub(super) pixels: u64,
}

/// Everything the simulator has charged since it started (or since `forget`).
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{client::ChatRequest, testing::{Fault, Together}};
///
/// let together = Together::new();
/// together.fail_next(1, Fault::status(503));
/// together.client().chat().create(&ChatRequest::new("zai-org/GLM-5.3").user("hi")).await?;
/// let bill = together.bill();
/// assert_eq!((together.calls(), bill.calls), (2, 1), "what failed is not charged");
/// assert_eq!(bill.nano_usd, bill.lines.iter().map(|line| line.nano_usd).sum::<i64>());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bill {
    /// Calls that were charged, rows of batches included: failed ones are not.
    pub calls: u64,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// The part of the prompt tokens that came from the prompt cache.
    pub cached_tokens: u64,
    /// Completion tokens, reasoning included.
    pub completion_tokens: u64,
    /// Pictures made.
    pub images: u64,
    /// Pixels of those pictures.
    pub pixels: u64,
    /// The sum of the lines, in nano-dollars (10⁻⁹ USD).
    pub nano_usd: i64,
    /// One line per charged call or row, oldest first; the latest 10,000.
    pub lines: Vec<BillLine>,
}

/// One charged call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BillLine {
    /// The `id` of the response.
    pub id: String,
    /// The model that served the call, after any redirect.
    pub model: String,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// The part of the prompt tokens that came from the prompt cache.
    pub cached_tokens: u64,
    /// Completion tokens sent, reasoning included.
    pub completion_tokens: u64,
    /// The charge in nano-dollars, rounded up once.
    pub nano_usd: i64,
    /// Whether the whole answer was sent; `false` for a stream that was cut or dropped.
    pub complete: bool,
    /// The job that it was a row of.
    pub batch: Option<String>,
    /// The `custom_id` of that row.
    pub custom_id: Option<String>,
}

/// Which row of a batch is charged, and how much less for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchRow<'a> {
    pub(super) batch: &'a str,
    pub(super) custom_id: &'a str,
    pub(super) percent_off: u8,
}

/// The running account.
#[derive(Debug, Default)]
pub(super) struct Account {
    total: Bill,
    lines: VecDeque<BillLine>,
}

impl Account {
    /// Lines kept, so that a long load test does not eat the memory.
    const KEPT: usize = 10_000;

    pub(super) fn charge(&mut self, id: &str, model: &str, price: Price, tokens: Tokens, complete: bool) {
        self.add(id, model, tokens, cost_in_nano(price, tokens, 0), complete, None);
    }

    /// Charges a finished row of a batch.
    pub(super) fn charge_row(&mut self, id: &str, model: &str, price: Price, tokens: Tokens, row: BatchRow<'_>) {
        self.add(id, model, tokens, cost_in_nano(price, tokens, row.percent_off), true, Some(row));
    }

    fn add(&mut self, id: &str, model: &str, tokens: Tokens, nano_usd: i64, complete: bool, row: Option<BatchRow<'_>>) {
        self.total.calls += 1;
        self.total.prompt_tokens += tokens.prompt;
        self.total.cached_tokens += tokens.cached;
        self.total.completion_tokens += tokens.completion;
        self.total.images += tokens.images;
        self.total.pixels += tokens.pixels;
        self.total.nano_usd = self.total.nano_usd.saturating_add(nano_usd);
        if self.lines.len() == Self::KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(BillLine {
            id: id.to_owned(),
            model: model.to_owned(),
            prompt_tokens: tokens.prompt,
            cached_tokens: tokens.cached,
            completion_tokens: tokens.completion,
            nano_usd,
            complete,
            batch: row.map(|row| row.batch.to_owned()),
            custom_id: row.map(|row| row.custom_id.to_owned()),
        });
    }

    pub(super) fn bill(&self) -> Bill {
        Bill { lines: self.lines.iter().cloned().collect(), ..self.total.clone() }
    }
}

/// The charge for these tokens with so many percent off, rounded up once to a whole nano-dollar.
fn cost_in_nano(price: Price, tokens: Tokens, percent_off: u8) -> i64 {
    let fresh = i128::from(tokens.prompt.saturating_sub(tokens.cached));
    // Wide enough for any count of tokens that fits the wire.
    let pico = fresh * i128::from(price.input)
        + i128::from(tokens.cached) * i128::from(price.cached.unwrap_or(price.input))
        + i128::from(tokens.completion) * i128::from(price.output)
        + i128::from(tokens.pixels) * i128::from(price.pixel);
    let parts = pico * i128::from(100_u8.saturating_sub(percent_off));
    i64::try_from((parts + 99_999).div_euclid(100_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price { input: 150_000, output: 600_000, cached: None, pixel: 0 };

    fn tokens(prompt: u64, cached: u64, completion: u64) -> Tokens {
        Tokens { prompt, cached, completion, ..Tokens::default() }
    }

    #[test]
    fn a_million_tokens_cost_the_listed_price() {
        assert_eq!(cost_in_nano(PRICE, tokens(1_000_000, 0, 0), 0), 150_000_000);
        assert_eq!(cost_in_nano(PRICE, tokens(0, 0, 1_000_000), 0), 600_000_000);
    }

    #[test]
    fn a_fraction_of_a_nano_dollar_is_rounded_up_once() {
        let price = Price { input: 1, output: 1, cached: Some(1), pixel: 0 };
        assert_eq!(cost_in_nano(price, tokens(1, 0, 1), 0), 1);
        assert_eq!(cost_in_nano(price, tokens(1_000, 0, 0), 0), 1);
        assert_eq!(cost_in_nano(price, tokens(1_000, 0, 1), 0), 2);
        assert_eq!(cost_in_nano(price, Tokens::default(), 0), 0);
    }

    #[test]
    fn a_discount_comes_off_before_the_rounding() {
        assert_eq!(cost_in_nano(PRICE, tokens(1_000_000, 0, 0), 50), 75_000_000);
        assert_eq!(cost_in_nano(PRICE, tokens(1, 0, 0), 50), 75);
        let price = Price { input: 1, output: 1, cached: None, pixel: 0 };
        assert_eq!(cost_in_nano(price, tokens(2_001, 0, 0), 50), 2);
        assert_eq!(cost_in_nano(PRICE, tokens(9, 0, 0), 100), 0);
    }

    #[test]
    fn cached_tokens_have_their_price_or_the_full_one() {
        assert_eq!(cost_in_nano(PRICE, tokens(10, 4, 0), 0), 1_500);
        let cached = Price { cached: Some(30_000), ..PRICE };
        assert_eq!(cost_in_nano(cached, tokens(10, 4, 0), 0), 6 * 150 + 4 * 30);
    }

    #[test]
    fn the_total_is_the_sum_of_rounded_lines() {
        let price = Price { input: 1, output: 1, cached: None, pixel: 0 };
        let mut account = Account::default();
        (0..3).for_each(|_| account.charge("id", "m", price, tokens(1, 0, 0), true));
        let bill = account.bill();
        assert_eq!((bill.calls, bill.nano_usd, bill.lines.len()), (3, 3, 3));
    }
}
