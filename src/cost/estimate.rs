//! What a request would cost, before anything is sent.

use std::{fmt, sync::Arc};

use crate::{
    inference::Decision,
    types::{Cost, Price, RouteId, Usage, Usd},
};

/// What a request would cost at each route that can serve it, in the order in which they would be tried.
///
/// `{}` is one line on the first choice, `{:#}` a table of all.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceRequest, InferenceService, testing::Together};
///
/// let together = Together::new();
/// let service = InferenceService::builder(together.client()).build()?;
/// let request = InferenceRequest::chat("Why is the sky blue?").model("zai-org/GLM-5.3").max_tokens(100);
/// let estimates = service.estimate(&request).await?;
/// assert_eq!(
///     estimates.to_string(),
///     "together/zai-org/GLM-5.3: about $0.000454, at most $0.0004904 (10 tokens in, 100 out)"
/// );
/// assert_eq!(together.calls(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimates {
    /// First the route that the request would go to, then those that it would fall back to.
    pub candidates: Vec<Estimate>,
    /// Why they stand in this order, and what was left out.
    pub decision: Arc<Decision>,
}

impl Estimates {
    /// Those of a ranking. For the service and its stand-ins.
    #[must_use]
    pub const fn new(candidates: Vec<Estimate>, decision: Arc<Decision>) -> Self {
        Self { candidates, decision }
    }

    /// The route that the request would go to; `None` only where a router of one's own ranked none.
    #[must_use]
    pub fn chosen(&self) -> Option<&Estimate> {
        self.candidates.first()
    }

    /// The one that is expected to cost least, of those whose price is known.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, Priority, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let request = InferenceRequest::chat("Why is the sky blue?").priority(Priority::Realtime);
    /// let estimates = service.estimate(&request).await?;
    /// let (chosen, cheapest) = (estimates.chosen().unwrap(), estimates.cheapest().unwrap());
    /// assert!(cheapest.expected.charge() < chosen.expected.charge());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn cheapest(&self) -> Option<&Estimate> {
        self.candidates.iter().filter(|one| one.expected != Cost::Unpriced).min_by_key(|one| one.expected.charge())
    }
}

/// What one attempt at one route would cost.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Where.
    pub route: RouteId,
    /// The price now; `None` where nobody says one.
    pub price: Option<Price>,
    /// What it is expected to use: the prompt as counted, and as much of an answer as this route's had on average, 256
    /// tokens where it has not answered five times yet. What the provider reads from its prompt cache is not foreseen.
    pub usage: Usage,
    /// What it can use at most.
    pub usage_at_most: Usage,
    /// Whether the answer is sure to end there: the request says `max_tokens`, the model's limit is known, or there
    /// is no answer to end.
    pub is_bounded: bool,
    /// What it is expected to cost: known as far as the price is.
    pub expected: Cost,
    /// The most that it can cost. A call makes further attempts only where one fails.
    pub at_most: Cost,
}

impl Estimate {
    /// An estimate at this price, of one attempt.
    ///
    /// ```
    /// use together_inference::{Cost, Price, RouteId, Usage, cost::Estimate, usd};
    ///
    /// let price = Price::per_million(usd!("1"), usd!("2"));
    /// let [usage, at_most] = [100, 400].map(|completion| Usage { prompt: 50, completion, ..Usage::default() });
    /// let estimate = Estimate::new(RouteId::new("together", "m"), Some(price), usage, at_most);
    /// assert_eq!(estimate.expected, Cost::Known(usd!("0.00025")));
    /// assert_eq!(estimate.at_most, Cost::Unknown { at_most: usd!("0.00085") });
    /// ```
    #[must_use]
    pub fn new(route: RouteId, price: Option<Price>, usage: Usage, usage_at_most: Usage) -> Self {
        let expected = price.map_or(Cost::Unpriced, |price| Cost::Known(price.cost(&usage)));
        let at_most = price.map_or(Cost::Unpriced, |price| bound(price.upper_bound(&usage_at_most)));
        Self { route, price, usage, usage_at_most, is_bounded: true, expected, at_most }
    }

    /// Tokens that the prompt is expected to have.
    #[must_use]
    pub const fn prompt_tokens(&self) -> u64 {
        self.usage.prompt
    }

    /// The most tokens that the prompt can have.
    #[must_use]
    pub const fn prompt_tokens_at_most(&self) -> u64 {
        self.usage_at_most.prompt
    }

    /// Tokens that the answer is expected to have, all its choices together.
    #[must_use]
    pub const fn output_tokens(&self) -> u64 {
        self.usage.completion
    }

    /// The most tokens that the answer can have, or what is assumed where it is not [bounded](Self::is_bounded).
    #[must_use]
    pub const fn output_tokens_at_most(&self) -> u64 {
        self.usage_at_most.completion
    }

    /// What is used, in words.
    fn used(&self) -> String {
        let Usage { prompt, completion, images, .. } = self.usage;
        match (images, completion) {
            (0, 0) => format!("{prompt} tokens in"),
            (0, _) => format!("{prompt} tokens in, {completion} out"),
            (1, _) => "1 picture".to_owned(),
            _ => format!("{images} pictures"),
        }
    }

    fn cost(cost: Cost) -> String {
        if cost == Cost::Unpriced { "unpriced".to_owned() } else { cost.charge().to_string() }
    }
}

/// A bound of nothing is known to be nothing.
const fn bound(at_most: Usd) -> Cost {
    if at_most.is_zero() { Cost::Known(Usd::ZERO) } else { Cost::Unknown { at_most } }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (expected, at_most) = (Self::cost(self.expected), Self::cost(self.at_most));
        match (self.price, self.is_bounded) {
            (None, _) => write!(f, "{}: unpriced ({})", self.route, self.used()),
            (Some(_), true) => write!(f, "{}: about {expected}, at most {at_most} ({})", self.route, self.used()),
            (Some(_), false) => {
                let assumed = self.output_tokens_at_most();
                let used = self.used();
                write!(f, "{}: about {expected}, {at_most} if it says {assumed} tokens ({used})", self.route)
            }
        }
    }
}

impl fmt::Display for Estimates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chosen() {
            Some(chosen) => fmt::Display::fmt(chosen, f)?,
            None => f.write_str("no route")?,
        }
        if f.alternate() { self.table(f) } else { Ok(()) }
    }
}

impl Estimates {
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 6]> = self.candidates.iter().map(row).collect();
        let head = ["route", "expected", "at most", "in", "out", "price"].map(str::to_owned);
        let width = |column: usize| {
            let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        for [route, expected, at_most, prompt, output, price] in [&head].into_iter().chain(&rows) {
            let [of_route, of_expected, of_bound, of_prompt, of_output, _] = widths;
            write!(f, "\n  {route:<of_route$}  {expected:>of_expected$}  {at_most:>of_bound$}")?;
            write!(f, "  {prompt:>of_prompt$}  {output:>of_output$}  {price}")?;
        }
        Ok(())
    }
}

fn row(estimate: &Estimate) -> [String; 6] {
    let Estimate { route, price, usage, .. } = estimate;
    [
        route.to_string(),
        Estimate::cost(estimate.expected),
        format!("{}{}", Estimate::cost(estimate.at_most), if estimate.is_bounded { "" } else { "?" }),
        usage.prompt.to_string(),
        if usage.images > 0 { format!("{}×", usage.images) } else { usage.completion.to_string() },
        price.map_or_else(|| "-".to_owned(), |price| price.to_string()),
    ]
}

/// A request may cost more everywhere than it allows.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceRequest, InferenceService, testing::Together, usd};
///
/// let service = InferenceService::builder(Together::new().client()).build()?;
/// let request = InferenceRequest::chat("Why is the sky blue?").model("zai-org/GLM-5.3").max_tokens(100);
/// let error = service.complete(request.max_cost(usd!("0.0001"))).await.unwrap_err();
/// let too_dear = error.too_dear().expect("it says what it would cost");
/// assert_eq!(too_dear.least().map(|(_, at_most)| at_most), Some(usd!("0.0004904")));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub struct TooDear {
    /// The request's `max_cost`.
    pub ceiling: Usd,
    /// What its attempts so far may have cost.
    pub spent: Usd,
    /// What each candidate may cost at most.
    pub candidates: Vec<(RouteId, Cost)>,
}

impl TooDear {
    /// A request with this ceiling, of which nothing was spent yet.
    #[must_use]
    pub const fn new(ceiling: Usd, candidates: Vec<(RouteId, Cost)>) -> Self {
        Self { ceiling, spent: Usd::ZERO, candidates }
    }

    /// The candidate that may cost least, and how much, of those whose price is known.
    #[must_use]
    pub fn least(&self) -> Option<(&RouteId, Usd)> {
        let priced = self.candidates.iter().filter(|(_, cost)| *cost != Cost::Unpriced);
        priced.map(|(route, cost)| (route, cost.charge())).min_by_key(|(_, at_most)| *at_most)
    }
}

impl fmt::Display for TooDear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no candidate is sure to cost at most {}", self.ceiling)?;
        if !self.spent.is_zero() {
            write!(f, ", of which {} may be spent already", self.spent)?;
        }
        match self.least() {
            Some((route, at_most)) => {
                let needed = at_most + self.spent;
                write!(f, "; {route} costs at most {at_most}: set max_cost to {needed}, or lower max_tokens")
            }
            None => f.write_str("; the price of none is known: set it with .price(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Priority, Task, Tier, usd};

    fn estimates() -> Estimates {
        let usage = Usage { prompt: 12, completion: 256, ..Usage::ZERO };
        let at_most = Usage { prompt: 40, completion: 4_096, ..Usage::ZERO };
        let route = |model: &str| RouteId::new("together", model);
        let price = Price::per_million(usd!("1"), usd!("2"));
        let open = Estimate { is_bounded: false, ..Estimate::new(route("open"), Some(price), usage, at_most) };
        let pictures = Usage { images: 2, pixels: 2_000_000, ..Usage::ZERO };
        let painter = Estimate::new(route("painter"), Some(Price::per_megapixel(usd!("0.01"))), pictures, pictures);
        let candidates = vec![open, painter, Estimate::new(route("unheard-of"), None, usage, at_most)];
        let decision = Decision::new("test", Task::Chat, Priority::Standard, Tier::Mid, "a test");
        Estimates::new(candidates, Arc::new(decision))
    }

    #[test]
    fn an_estimate_reads_as_a_line_and_as_a_table() {
        let estimates = estimates();
        assert_eq!(
            estimates.to_string(),
            "together/open: about $0.000524, $0.008232 if it says 4096 tokens (12 tokens in, 256 out)"
        );
        let table = format!("{estimates:#}");
        let lines: Vec<_> = table.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  route                 expected     at most  in  out  price",
                "  together/open        $0.000524  $0.008232?  12  256  $1.00/M in, $2.00/M out",
                "  together/painter         $0.02       $0.02   0   2×  $0.01/MP",
                "  together/unheard-of   unpriced    unpriced  12  256  -",
            ]
        );
        let cheapest = estimates.cheapest().unwrap();
        assert_eq!(cheapest.route.model(), &"open", "what has no price is not the cheapest");
    }

    #[test]
    fn a_refusal_says_what_to_change() {
        let route = |model: &str| RouteId::new("together", model);
        let candidates = vec![
            (route("dear"), Cost::Unknown { at_most: usd!("0.09") }),
            (route("unpriced"), Cost::Unpriced),
            (route("cheap"), Cost::Unknown { at_most: usd!("0.02") }),
        ];
        let mut refused = TooDear::new(usd!("0.01"), candidates);
        assert_eq!(
            refused.to_string(),
            "no candidate is sure to cost at most $0.01; together/cheap costs at most $0.02: set max_cost to $0.02, or \
             lower max_tokens"
        );
        refused.spent = usd!("0.005");
        assert!(refused.to_string().contains("of which $0.005 may be spent already"), "{refused}");
        assert!(refused.to_string().contains("set max_cost to $0.025"), "{refused}");
        refused.candidates.retain(|(_, cost)| *cost == Cost::Unpriced);
        assert!(refused.to_string().ends_with("set it with .price(..)"), "{refused}");
    }
}
