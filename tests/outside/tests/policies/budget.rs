//! Budgets as a table of reservations.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use together_inference::{
    Usd, async_trait,
    cost::{Account, Balance, BudgetError, BudgetStore, Charge, Expired, Hold, Line, Period, Refusal},
    types::AttemptId,
};
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct Accounts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<AttemptId, Row>,
    /// The most that was shown of each account's slot.
    shown: HashMap<(Account, i64), Usd>,
    /// The slots of each account that were found used up.
    used_up: Vec<(Account, i64)>,
}

#[derive(Debug)]
struct Row {
    hold: Arc<Hold>,
    until: Instant,
    /// `None`: the whole amount counts, expired or not, unless it returns.
    charge: Option<Charge>,
}

impl Accounts {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap()
    }
}

impl Table {
    fn balance(&self, account: &Account, period: Period) -> Balance {
        let (now, mut balance) = (Instant::now(), Balance::default());
        for row in self.rows.values() {
            let its = row.hold.lines.iter().find(|line| line.account == *account && period.counts(line.period.slot));
            let Some(line) = its else { continue };
            balance.calls += 1;
            match row.charge {
                Some(Charge::NotSent) => balance.calls -= 1,
                Some(charge) => balance.spent += charge.spent(),
                None if row.until > now => balance.reserved += row.hold.amount,
                None if line.expired == Expired::Return => balance.calls -= 1,
                None => balance.spent += row.hold.amount,
            }
        }
        balance
    }

    fn is_used_up_first(&mut self, line: &Line) -> bool {
        let is_first = !self.used_up.iter().any(|(of, slot)| *of == line.account && line.period.counts(*slot));
        if is_first {
            self.used_up.push((line.account.clone(), line.period.slot));
        }
        is_first
    }
}

#[async_trait]
impl BudgetStore for Accounts {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        let mut table = self.table();
        if table.rows.contains_key(&hold.id) {
            return Ok(());
        }
        for (at, line) in hold.lines.iter().enumerate() {
            let mut balance = table.balance(&line.account, line.period);
            if !line.has_room(&balance, hold.amount) {
                balance.used_up = hold.amount <= line.limit && table.is_used_up_first(line);
                return Err(BudgetError::Refused(Refusal::new(at, balance)));
            }
        }
        let until = Instant::now() + hold.expires.min(Duration::from_secs(1 << 30));
        table.rows.insert(hold.id, Row { hold: Arc::clone(hold), until, charge: None });
        Ok(())
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        let mut table = self.table();
        match table.rows.get_mut(&hold.id) {
            Some(row) if row.charge.is_none() => row.charge = Some(charge),
            _ => return Ok(Vec::new()),
        }
        let mut balances = Vec::new();
        for line in &hold.lines {
            let balance = table.balance(&line.account, line.period);
            let shown = table.shown.entry((line.account.clone(), line.period.slot)).or_default();
            let mut told = balance;
            told.shown = std::mem::replace(shown, balance.spent.max(*shown));
            told.used_up = line.is_used_up_by(&balance) && table.is_used_up_first(line);
            balances.push(told);
        }
        Ok(balances)
    }

    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        let (mut table, now) = (self.table(), Instant::now());
        for hold in holds {
            if let Some(row) = table.rows.get_mut(&hold.id).filter(|row| row.charge.is_none() && row.until > now) {
                row.until = now + hold.expires.min(Duration::from_secs(1 << 30));
            }
        }
        Ok(())
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        let table = self.table();
        Ok(accounts.iter().map(|(account, period)| table.balance(account, *period)).collect())
    }
}
