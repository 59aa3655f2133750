//! What a process may spend by itself while the server of its budgets is out of reach.

use std::sync::Arc;

use super::{BudgetError, BudgetStore, Charge, Hold, Line, MemoryBudgets};
use crate::types::Usd;

/// A part of each limit, kept in this process.
#[derive(Clone, Debug)]
pub(super) struct OwnShare {
    part: u32,
    local: Arc<MemoryBudgets>,
}

impl OwnShare {
    /// One of so many parts.
    pub(super) fn new(part: u32) -> Result<Self, BudgetError> {
        if part == 0 {
            return Err(BudgetError::Store("fail_local(0): a part of a limit is 1 or more".into()));
        }
        Ok(Self { part, local: Arc::new(MemoryBudgets::new()) })
    }

    /// The same attempt against this process's own share, where the server failed so.
    pub(super) fn reserve(&self, hold: &Arc<Hold>, error: BudgetError) -> Result<(), BudgetError> {
        let of = |line: &Line| {
            let limit = Usd::from_nanos(line.limit.nanos() / i64::from(self.part));
            Line { limit, max_calls: line.max_calls.map(|calls| calls / u64::from(self.part)), ..line.clone() }
        };
        let lines = hold.lines.iter().map(of).collect();
        let scaled = Arc::new(Hold::new(hold.id, hold.amount, lines, hold.expires));
        tracing::debug!(%error, "budgets: a share of this process's own is asked");
        self.local.reserve_now(&scaled).unwrap_or(Err(error))
    }

    /// Settles what was set aside here; `false`: it was not. What the server may have set aside as well, when its answer came
    /// too late, is left to its expiry.
    pub(super) fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> bool {
        self.local.settle_now(hold, charge).is_some_and(|balances| !balances.is_empty())
    }

    pub(super) async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        self.local.renew(holds).await
    }
}
