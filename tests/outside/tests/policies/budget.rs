//! Budgets as a table of reservations.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use together_inference::{
    Usd, async_trait,
    cost::{BudgetError, BudgetStore, OverBudget, Scope},
    types::AttemptId,
};

#[derive(Debug)]
pub struct Accounts {
    limits: HashMap<Scope, Usd>,
    rows: Mutex<HashMap<AttemptId, Row>>,
}

#[derive(Debug)]
struct Row {
    scopes: Vec<Scope>,
    amount: Usd,
    /// Whether the amount is what was really spent. Until then the whole of it counts, expired or not.
    settled: bool,
}

impl Accounts {
    pub fn new(limits: impl IntoIterator<Item = (Scope, Usd)>) -> Self {
        Self { limits: limits.into_iter().collect(), rows: Mutex::default() }
    }

    pub fn used(&self, scope: &Scope) -> Usd {
        used(&self.rows(), scope)
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<AttemptId, Row>> {
        self.rows.lock().unwrap()
    }
}

fn used(rows: &HashMap<AttemptId, Row>, scope: &Scope) -> Usd {
    rows.values().filter(|row| row.scopes.contains(scope)).map(|row| row.amount).sum()
}

#[async_trait]
impl BudgetStore for Accounts {
    async fn reserve(&self, id: AttemptId, scopes: &[Scope], amount: Usd, _: Duration) -> Result<(), BudgetError> {
        let mut rows = self.rows();
        for scope in scopes {
            let Some(limit) = self.limits.get(scope).copied() else { continue };
            let used = used(&rows, scope);
            if used + amount > limit {
                return Err(OverBudget::new(scope.clone(), limit, used, amount).into());
            }
        }
        rows.insert(id, Row { scopes: scopes.to_vec(), amount, settled: false });
        Ok(())
    }

    async fn settle(&self, id: AttemptId, actual: Usd) -> Result<(), BudgetError> {
        if let Some(row) = self.rows().get_mut(&id)
            && !row.settled
        {
            (row.amount, row.settled) = (actual, true);
        }
        Ok(())
    }
}
