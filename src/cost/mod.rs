//! What calls cost: records, prices, budgets.
//!
//! Every dispatched attempt becomes exactly one [`CostRecord`], whatever happens to it: answered, failed, cancelled,
//! cut. Cache hits and coalesced followers get a record of $0 that says what they saved. Records go to [`CostSink`]s
//! from one task of the service, in pages.
//!
//! # Why records and not counters
//!
//! A counter answers the question it was built for. A record per attempt answers "which tenant, which model, which
//! retry", adds up to the same counters, and can be compared with the provider's bill.
//!
//! ```
//! use together_inference::cost::{CostRecord, CostSink, SinkError};
//!
//! /// Prints what each attempt cost.
//! #[derive(Debug)]
//! struct Printer;
//!
//! #[async_trait::async_trait]
//! impl CostSink for Printer {
//!     async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
//!         for record in page {
//!             println!("{} {} {}", record.model(), record.usage.total(), record.cost);
//!         }
//!         Ok(())
//!     }
//! }
//! ```

mod budget;
mod estimate;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod ledger;
mod memory;
mod prices;
mod record;
mod sinks;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

#[cfg(feature = "postgres")]
pub use self::budget::PostgresBudgets;
#[cfg(feature = "redis")]
pub use self::budget::{RedisBudgets, RedisBudgetsBuilder};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use self::ledger::{Basis, By, Durability, Format, Ledger, Report, ReportQuery, ReportRow, Sums};
pub use self::{
    budget::{
        Account, Balance, Bound, Budget, BudgetError, BudgetStore, Budgets, Charge, Expired, Hold, InvalidBudget, Line,
        MemoryBudgets, OverBudget, Period, Refusal, Remaining, Scope, Told, Unpriced, Window,
    },
    estimate::{Estimate, Estimates, TooDear},
    memory::MemoryCosts,
    prices::{PriceBook, PriceChange, PriceSource, PriceStamp},
    record::{CostRecord, Ending, Intent},
    sinks::{FanOut, TracingCosts},
};
pub(crate) use self::{
    budget::{Held, NoTenant, Notice},
    sinks::{PATIENCE, offer},
};
use crate::types::{AttemptId, BoxError};

/// Takes cost records.
#[async_trait]
pub trait CostSink: Send + Sync + fmt::Debug {
    /// Is told of an attempt before it is dispatched. A sink that must not miss one keeps it durably here; the default
    /// keeps nothing.
    ///
    /// # Errors
    ///
    /// [`SinkError`]; the attempt is then not made.
    async fn intend(&self, intent: &Intent) -> Result<(), SinkError> {
        let _ = intent;
        Ok(())
    }

    /// Takes a page of records, in the order in which attempts ended. A page that failed is offered again: taking a
    /// record twice must have the effect of once, by [`CostRecord::attempt`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::cost::SinkError> {
    /// use std::time::SystemTime;
    /// use together_inference::{RouteId, cost::{CostRecord, CostSink, MemoryCosts}, types::RequestId};
    ///
    /// let (costs, call) = (MemoryCosts::default(), RequestId::new(7));
    /// let page = [CostRecord::new(call.attempt(0), call, RouteId::new("local", "m"), SystemTime::now())];
    /// costs.record(&page).await?;
    /// costs.record(&page).await?;
    /// assert_eq!(costs.records().len(), 1, "offered twice, kept once");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SinkError`]; answers do not wait for it.
    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError>;

    /// Is told of attempts that it was told of before they were made, and that were not made after all: nothing was sent,
    /// and no record will come. Told twice has the effect of once. The default keeps nothing, and does nothing.
    ///
    /// # Errors
    ///
    /// [`SinkError`]; it is told again.
    async fn withdraw(&self, attempts: &[AttemptId]) -> Result<(), SinkError> {
        let _ = attempts;
        Ok(())
    }

    /// Waits until what it took is as safe as it will be; called when the service shuts down. The default does nothing.
    ///
    /// # Errors
    ///
    /// [`SinkError`], which is logged.
    async fn flush(&self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Whether [`intend`](Self::intend) does anything: the service skips it otherwise.
    fn wants_intents(&self) -> bool {
        false
    }

    /// Whether an attempt without a place for its record must not be made. Unless one of a service's sinks says so, such
    /// an attempt is made, and the gap is counted and alerted.
    fn is_strict(&self) -> bool {
        false
    }

    /// Whether a record that it did not take is lost, whoever else took it: so with a ledger. Otherwise a record is lost
    /// that no sink took.
    fn is_durable(&self) -> bool {
        false
    }
}

/// A sink could not take records.
///
/// ```
/// use together_inference::cost::SinkError;
///
/// assert_eq!(SinkError::new("the disk is full").to_string(), "the cost sink failed: the disk is full");
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the cost sink failed: {0}")]
pub struct SinkError(#[source] BoxError);

impl SinkError {
    /// A failure with its cause.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self(cause.into())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: CostSink + ?Sized> CostSink for Arc<T> {
    async fn intend(&self, intent: &Intent) -> Result<(), SinkError> {
        (**self).intend(intent).await
    }

    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        (**self).record(page).await
    }

    async fn withdraw(&self, attempts: &[AttemptId]) -> Result<(), SinkError> {
        (**self).withdraw(attempts).await
    }

    async fn flush(&self) -> Result<(), SinkError> {
        (**self).flush().await
    }

    fn wants_intents(&self) -> bool {
        (**self).wants_intents()
    }

    fn is_strict(&self) -> bool {
        (**self).is_strict()
    }

    fn is_durable(&self) -> bool {
        (**self).is_durable()
    }
}
