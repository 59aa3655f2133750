//! What a refusal says.

use std::{fmt, time::SystemTime};

use super::{Scope, Window};
use crate::types::{Price, Usd, rfc3339};

/// A budget that has too little left for a call, in one sentence.
///
/// ```
/// use together_inference::{cost::{OverBudget, Scope, Window}, usd};
///
/// let over = OverBudget::new(Scope::tenant("acme"), Window::Day, usd!("5"), usd!("4.90"), usd!("0.06"), usd!("0.10"));
/// assert_eq!(over.left(), usd!("0.04"));
/// assert_eq!(
///     over.to_string(),
///     "the daily budget of tenant acme has $0.04 of $5.00 left ($4.90 spent, $0.06 set aside), and the call may cost \
///      $0.10; ask for less, or raise the budget"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverBudget {
    /// Whose budget.
    pub scope: Scope,
    /// For how long it is meant.
    pub window: Window,
    /// Its limit.
    pub limit: Usd,
    /// What is spent of it in this window.
    pub spent: Usd,
    /// What is set aside of it by attempts that have not ended.
    pub reserved: Usd,
    /// What the attempt may cost at most.
    pub needed: Usd,
    /// Attempts that were made, and how many may be, where the budget says so.
    pub calls: Option<(u64, u64)>,
    /// When all of it may be spent again; `None`: never.
    pub resets_at: Option<SystemTime>,
    /// What made it so much.
    pub bound: Option<Bound>,
}

/// Why an attempt may cost as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bound {
    /// Prompt tokens, at most: bytes are counted, of which a token has one at least.
    pub prompt_tokens: u64,
    /// Tokens of the answer, at most: the request's `max_tokens`, or the service's default.
    pub max_tokens: u64,
    /// By which price.
    pub price: Price,
}

impl Bound {
    /// So many tokens at this price.
    #[must_use]
    pub const fn new(prompt_tokens: u64, max_tokens: u64, price: Price) -> Self {
        Self { prompt_tokens, max_tokens, price }
    }
}

impl OverBudget {
    /// A budget that has too little left and never resets.
    #[must_use]
    pub const fn new(scope: Scope, window: Window, limit: Usd, spent: Usd, reserved: Usd, needed: Usd) -> Self {
        Self { scope, window, limit, spent, reserved, needed, calls: None, resets_at: None, bound: None }
    }

    /// What is neither spent nor set aside: less than nothing where a call cost more than was set aside for it.
    #[must_use]
    pub fn left(&self) -> Usd {
        self.limit - self.spent - self.reserved
    }

    /// Whether it is calls that ran out, and not money.
    ///
    /// ```
    /// use together_inference::{Usd, cost::{OverBudget, Scope, Window}, usd};
    ///
    /// let over = OverBudget::new(Scope::Global, Window::Total, usd!("5"), usd!("5"), Usd::ZERO, usd!("1"));
    /// assert!(!over.is_of_calls());
    /// ```
    #[must_use]
    pub fn is_of_calls(&self) -> bool {
        self.calls.is_some_and(|(made, most)| made >= most)
    }
}

/// A budget by its window and scope.
pub(super) fn name(adjective: &str, scope: &Scope) -> String {
    format!("the {adjective}budget of {scope}")
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = name(&self.window.adjective(), &self.scope);
        if let Some((made, most)) = self.calls.filter(|_| self.is_of_calls()) {
            write!(f, "{name} allows {most} calls, and {made} were made")?;
        } else {
            let Self { limit, spent, reserved, needed, .. } = self;
            write!(f, "{name} has {} of {limit} left ({spent} spent, {reserved} set aside)", self.left())?;
            write!(f, ", and the call may cost {needed}")?;
            if let Some(Bound { prompt_tokens, max_tokens, price }) = self.bound {
                let (input, output) = (price.input, price.output);
                write!(
                    f,
                    ": at most {prompt_tokens} prompt tokens at {input}, {max_tokens} of the answer at {output}"
                )?;
            }
        }
        if let Some(at) = self.resets_at {
            write!(f, "; it is full again at {}", rfc3339(at))?;
        }
        f.write_str(if self.is_of_calls() { "" } else { "; ask for less, or raise the budget" })
    }
}

impl std::error::Error for OverBudget {}

/// A hard budget of each tenant applies to a request that names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoTenant;
