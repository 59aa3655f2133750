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
use tokio::time::Instant;

#[derive(Debug)]
pub struct Accounts {
    limits: HashMap<Scope, Usd>,
    rows: Mutex<HashMap<AttemptId, Row>>,
}

#[derive(Debug)]
struct Row {
    scopes: Vec<Scope>,
    amount: Usd,
    /// When it is given back; never, once it is spent.
    until: Option<Instant>,
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
    let now = Instant::now();
    let counts = |row: &&Row| row.scopes.contains(scope) && row.until.is_none_or(|until| until > now);
    rows.values().filter(counts).map(|row| row.amount).sum()
}

#[async_trait]
impl BudgetStore for Accounts {
    async fn reserve(
        &self,
        id: AttemptId,
        scopes: &[Scope],
        amount: Usd,
        expires: Duration,
    ) -> Result<(), BudgetError> {
        let mut rows = self.rows();
        for scope in scopes {
            let Some(limit) = self.limits.get(scope).copied() else { continue };
            let used = used(&rows, scope);
            if used + amount > limit {
                return Err(OverBudget::new(scope.clone(), limit, used, amount).into());
            }
        }
        rows.insert(id, Row { scopes: scopes.to_vec(), amount, until: Some(Instant::now() + expires) });
        Ok(())
    }

    async fn settle(&self, id: AttemptId, actual: Usd) -> Result<(), BudgetError> {
        if let Some(row) = self.rows().get_mut(&id)
            && row.until.take().is_some()
        {
            row.amount = actual;
        }
        Ok(())
    }
}
