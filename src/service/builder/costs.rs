//! What calls may cost, and what they are told to cost.

use std::sync::Arc;

use super::ServiceBuilder;
#[cfg(doc)]
use crate::{InferenceService, cost::MemoryBudgets};
use crate::{
    cost::{Budget, BudgetStore, Unpriced},
    inference::CountTokens,
    types::{Price, RouteId},
};

impl ServiceBuilder {
    /// Adds a budget; none unless one is added. Every attempt must have room in all that it falls under.
    ///
    /// Where one of them is hard, a request without `max_tokens` is sent with
    /// [`default_max_tokens`](Self::default_max_tokens): what has no bound could not be held against an amount.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, cost::Budget, service::ErrorKind, testing::Together, usd};
    ///
    /// let service = InferenceService::builder(Together::new().client())
    ///     .budget(Budget::daily(usd!("0.000001")).per_tenant().hard())
    ///     .build()?;
    /// let refused = service.complete(InferenceRequest::chat("Why is the sky blue?").tenant("acme")).await.unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::OverBudget);
    /// assert!(refused.to_string().contains("the daily budget of tenant acme has $0.000001 of $0.000001 left"), "{refused}");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budgets.push(budget);
        self
    }

    /// Replaces where the money of budgets is kept; [`MemoryBudgets`] unless set.
    #[must_use]
    pub fn budget_store(mut self, store: impl BudgetStore + 'static) -> Self {
        self.budget_store = Some(Arc::new(store));
        self
    }

    /// Sets what becomes of a call of a model whose price is not known, where a hard budget applies: it is refused unless
    /// set.
    ///
    /// ```
    /// use together_inference::{InferenceService, Price, cost::{Budget, Unpriced}, testing::Together, usd};
    ///
    /// let service = InferenceService::builder(Together::new().client())
    ///     .budget(Budget::daily(usd!("25")))
    ///     .unpriced(Unpriced::Assume(Price::per_million(usd!("3"), usd!("9"))))
    ///     .build()?;
    /// # Ok::<(), together_inference::service::BuildError>(())
    /// ```
    #[must_use]
    pub const fn unpriced(mut self, unpriced: Unpriced) -> Self {
        self.unpriced = unpriced;
        self
    }

    /// Sets a price that nothing overrides. One [below nothing](Price::is_negative) is refused when the service is built.
    #[must_use]
    pub fn price(mut self, route: &RouteId, price: Price) -> Self {
        self.prices.push((route.clone(), price));
        self
    }

    /// Sets who counts tokens where the provider does not; [`count_tokens`](crate::inference::count_tokens) unless set.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: impl CountTokens + 'static) -> Self {
        self.tokenizer = Some(Arc::new(tokenizer));
        self
    }

    /// Sets what is taken off a route's batches, in percent; 100 and more make them free. Unless set it is what the
    /// provider says of the model, which for most is nothing.
    #[must_use]
    pub fn batch_percent_off(mut self, route: &RouteId, percent: u8) -> Self {
        self.batch_discounts.push((route.clone(), percent));
        self
    }
}
