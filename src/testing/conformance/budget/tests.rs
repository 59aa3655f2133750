use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::*;
use crate::cost::MemoryBudgets;

/// The suite on tokio's time.
async fn check(store: &dyn BudgetStore) -> Result<(), Failure> {
    budget_store(store, &|time| Box::pin(tokio::time::advance(time))).await
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_keeps_every_promise_behind_every_pointer() {
    check(&MemoryBudgets::new()).await.unwrap();
    check(&Arc::new(MemoryBudgets::new())).await.unwrap();
    let shared: Arc<dyn BudgetStore> = Arc::new(MemoryBudgets::new());
    check(&shared).await.unwrap();
    let boxed: Box<dyn BudgetStore> = Box::new(MemoryBudgets::new());
    check(&*boxed).await.unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    RefusesTheLastCent,
    SaysTheWrongLine,
    Cuts,
    TakesUntilOneRefuses,
    LooksAtTheFirstLine,
    RefusesNoLines,
    RefusesSoftly,
    LeavesSoftLinesOut,
    CountsNoCalls,
    CountsWhatWasNotSent,
    IgnoresCase,
    KnowsOneWindow,
    ForgetsEarlierSlots,
    ForgetsLaterSlots,
    GivesEverythingBack,
    CapsWhatWasSpent,
    SettlesInTheLastSlot,
    ReservesTwice,
    SettlesTwice,
    CreditsTheUnknown,
    PromisesToReserve,
    PromisesToSettle,
    ShowsTwice,
    TellsAgain,
    TakesWhatIsTold,
    TellsOfNone,
    TellsEveryRefusal,
    TellsOfLargeOnes,
    RefusesLateSettling,
    GivesBackWhatExpired,
    ForgetsWhatExpired,
    ExpiresWhatWasSpent,
    KeepsWhatShouldReturn,
    RenewsNothing,
    RenewsWhatExpired,
    RenewsWhatWasSettled,
    CannotSettleNothing,
    KeepsWhatWasGivenUp,
    LooksThenTakes,
    Hangs,
    Panics,
}

/// A store with one fault.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    rows: Mutex<HashMap<AttemptId, Row>>,
    shown: Mutex<HashMap<(Account, i64), Usd>>,
    used_up: Mutex<Vec<(Account, i64)>>,
}

#[derive(Clone, Debug)]
struct Row {
    hold: Arc<Hold>,
    amount: Usd,
    until: Instant,
    settled: Option<Charge>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self { fault, rows: Mutex::default(), shown: Mutex::default(), used_up: Mutex::default() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<AttemptId, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_same(&self, one: &Account, other: &Account) -> bool {
        one == other || (self.has(Fault::IgnoresCase) && one.as_str().eq_ignore_ascii_case(other.as_str()))
    }

    fn counts(&self, period: Period, slot: i64) -> bool {
        match self.fault {
            Fault::KnowsOneWindow => true,
            Fault::ForgetsEarlierSlots if period.since < period.slot => slot >= period.slot,
            Fault::ForgetsLaterSlots => period.since <= slot && slot <= period.slot,
            _ => period.counts(slot),
        }
    }

    /// The balance by what every row says.
    fn balance(&self, account: &Account, period: Period) -> Balance {
        let now = Instant::now();
        let mut sum = Balance::default();
        for row in self.rows().values() {
            let its = |line: &&Line| self.is_same(&line.account, account) && self.counts(period, line.period.slot);
            for line in row.hold.lines.iter().filter(its) {
                if self.has(Fault::LeavesSoftLinesOut) && !line.hard {
                    continue;
                }
                let is_over = row.until <= now;
                let is_back = line.expired == Expired::Return && !self.has(Fault::KeepsWhatShouldReturn);
                sum.calls += u64::from(row.settled.is_some_and(|it| it != Charge::NotSent));
                match row.settled {
                    Some(Charge::NotSent) if self.has(Fault::CountsWhatWasNotSent) => sum.calls += 1,
                    Some(_) if is_over && self.has(Fault::ExpiresWhatWasSpent) => {}
                    Some(charge) => sum.spent += charge.spent(),
                    None if is_over && (is_back || self.has(Fault::GivesBackWhatExpired)) => {}
                    None if is_over => (sum.spent, sum.calls) = (sum.spent + row.amount, sum.calls + 1),
                    None => (sum.reserved, sum.calls) = (sum.reserved + row.amount, sum.calls + 1),
                }
            }
        }
        if self.has(Fault::CountsNoCalls) { Balance { calls: 0, ..sum } } else { sum }
    }

    fn over(&self, hold: &Hold) -> Option<Refusal> {
        if self.has(Fault::RefusesNoLines) && hold.lines.is_empty() {
            return Some(Refusal::new(0, Balance::default()));
        }
        hold.lines.iter().enumerate().find_map(|(at, line)| {
            let balance = self.balance(&line.account, line.period);
            let asked = if self.has(Fault::RefusesTheLastCent) { hold.amount + NANO } else { hold.amount };
            let hard = Line { hard: line.hard || self.has(Fault::RefusesSoftly), ..line.clone() };
            let named = if self.has(Fault::SaysTheWrongLine) { at + 1 } else { at };
            let looks = at == 0 || !self.has(Fault::LooksAtTheFirstLine);
            (looks && !hard.has_room(&balance, asked)).then(|| Refusal::new(named, balance))
        })
    }

    fn take(&self, hold: &Arc<Hold>, amount: Usd) {
        let row = Row { hold: Arc::clone(hold), amount, until: Instant::now() + hold.expires, settled: None };
        let mut rows = self.rows();
        if rows.contains_key(&hold.id) && self.has(Fault::ReservesTwice) {
            rows.insert(AttemptId::new(hold.id.value() + 5_000), row);
        } else {
            rows.entry(hold.id).or_insert(row);
        }
    }

    fn reserved(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        if self.rows().contains_key(&hold.id) && !self.has(Fault::ReservesTwice) {
            return Ok(());
        }
        if let Some(refusal) = self.over(hold) {
            return self.refuse(hold, refusal);
        }
        self.take(hold, hold.amount);
        Ok(())
    }

    fn is_used_up_first(&self, line: &Line) -> bool {
        let mut used_up = self.used_up.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !used_up.iter().any(|(of, slot)| *of == line.account && self.counts(line.period, *slot));
        used_up.push((line.account.clone(), line.period.slot));
        is_first && !self.has(Fault::TellsOfNone)
    }

    fn refuse(&self, hold: &Arc<Hold>, mut refusal: Refusal) -> Result<(), BudgetError> {
        let line = hold.lines.get(refusal.line);
        let counts = |line: &Line| hold.amount <= line.limit || self.has(Fault::TellsOfLargeOnes);
        if let Some(line) = line.filter(|line| counts(line)) {
            refusal.balance.used_up = self.is_used_up_first(line) || self.has(Fault::TellsEveryRefusal);
        }
        let left = line.map_or(Usd::ZERO, |line| line.limit - refusal.balance.used());
        if self.has(Fault::Cuts) && left > Usd::ZERO && hold.amount < LIMIT {
            self.take(hold, left);
            return Ok(());
        }
        if self.has(Fault::TakesUntilOneRefuses) {
            let lines = hold.lines.iter().take(refusal.line).cloned().collect();
            self.take(&Arc::new(Hold::new(hold.id, hold.amount, lines, hold.expires)), hold.amount);
        }
        Err(BudgetError::Refused(refusal))
    }

    fn spend(&self, hold: &Arc<Hold>, charge: Charge) -> Vec<Balance> {
        let mut rows = self.rows();
        let its = |line: &&Line| hold.lines.iter().any(|own| own.account == line.account);
        let last = rows.values().flat_map(|row| &row.hold.lines).filter(its).map(|line| line.period.slot).max();
        match rows.get_mut(&hold.id) {
            Some(row) if self.has(Fault::ForgetsWhatExpired) && row.until <= Instant::now() => return Vec::new(),
            Some(row) if row.settled.is_none() => {
                row.settled = Some(match (self.fault, charge) {
                    (Fault::GivesEverythingBack, _) => Charge::Spent(Usd::ZERO),
                    (Fault::CapsWhatWasSpent, Charge::Spent(usd)) => Charge::Spent(usd.min(row.amount)),
                    _ => charge,
                });
                if let (Fault::SettlesInTheLastSlot, Some(slot)) = (self.fault, last) {
                    let lines = hold.lines.iter().cloned().map(|line| Line { period: Period::new(slot), ..line });
                    row.hold = Arc::new(Hold::new(hold.id, hold.amount, lines.collect(), hold.expires));
                }
            }
            Some(row) if self.has(Fault::SettlesTwice) => row.settled = Some(charge),
            None if self.has(Fault::CreditsTheUnknown) => {
                let until = Instant::now() + LONG;
                rows.insert(hold.id, Row { hold: Arc::clone(hold), amount: hold.amount, until, settled: Some(charge) });
            }
            _ => return Vec::new(),
        }
        drop(rows);
        hold.lines.iter().map(|line| self.show(line)).collect()
    }

    fn show(&self, line: &Line) -> Balance {
        let balance = self.balance(&line.account, line.period);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = shown.entry((line.account.clone(), line.period.slot)).or_default();
        let before = if self.has(Fault::ShowsTwice) { Usd::ZERO } else { *mark };
        *mark = before.max(balance.spent);
        let used_up = line.is_used_up_by(&balance) && self.is_used_up_first(line);
        let untold = line.marks().next().filter(|mark| self.has(Fault::TellsAgain) && *mark <= before);
        Balance { shown: before, used_up, untold, ..balance }
    }
}

#[async_trait]
impl BudgetStore for Broken {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        match self.fault {
            Fault::Hangs => std::future::pending().await,
            Fault::Panics if hold.lines.is_empty() => panic!("no line"),
            Fault::LooksThenTakes if !self.rows().contains_key(&hold.id) => {
                let over = self.over(hold);
                tokio::task::yield_now().await;
                if let Some(refusal) = over {
                    return self.refuse(hold, refusal);
                }
                self.take(hold, hold.amount);
                return Ok(());
            }
            Fault::KeepsWhatWasGivenUp if self.over(hold).is_none() => {
                let in_between = AttemptId::new(hold.id.value() + 5_000);
                self.take(&Arc::new(Hold::new(in_between, hold.amount, hold.lines.clone(), LONG)), hold.amount);
                tokio::task::yield_now().await;
                self.rows().remove(&in_between);
            }
            _ => {}
        }
        self.reserved(hold)
    }

    fn reserve_now(&self, hold: &Arc<Hold>) -> Option<Result<(), BudgetError>> {
        match self.fault {
            Fault::PromisesToReserve => Some(Ok(())),
            _ if hold.id.value().is_multiple_of(2) => None,
            _ => Some(self.reserved(hold)),
        }
    }

    fn settle_now(&self, hold: &Arc<Hold>, charge: Charge) -> Option<Vec<Balance>> {
        match self.fault {
            Fault::PromisesToSettle => Some(Vec::new()),
            _ if hold.id.value().is_multiple_of(2) => None,
            _ => Some(self.spend(hold, charge)),
        }
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        let is_late = self.rows().get(&hold.id).is_none_or(|row| row.settled.is_some());
        if is_late && self.has(Fault::RefusesLateSettling) {
            return Err(BudgetError::Store("not set aside".into()));
        }
        if hold.amount.is_zero() && self.has(Fault::CannotSettleNothing) {
            return Err(BudgetError::Store("-0 is no number".into()));
        }
        Ok(self.spend(hold, charge))
    }

    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        let now = Instant::now();
        for hold in holds.iter().filter(|_| !self.has(Fault::RenewsNothing)) {
            if let Some(row) = self.rows().get_mut(&hold.id) {
                let is_ended = row.settled.is_some() && !self.has(Fault::RenewsWhatWasSettled);
                let is_over = row.until <= now && !self.has(Fault::RenewsWhatExpired);
                if !is_ended && !is_over {
                    (row.until, row.settled) = (now + hold.expires, None);
                }
            }
        }
        Ok(())
    }

    async fn told(&self, told: &[Told]) -> Result<(), BudgetError> {
        if self.has(Fault::TakesWhatIsTold) {
            self.rows().retain(|_, row| row.hold.lines.iter().all(|line| line.account != told[0].account));
        }
        Ok(())
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        Ok(accounts.iter().map(|(account, period)| self.balance(account, *period)).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn the_base_of_the_broken_ones_is_whole_itself() {
    check(&Broken::new(Fault::None)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_broken_store_fails_at_the_promise_that_it_breaks() {
    for (fault, promise) in [
        (Fault::RefusesTheLastCent, FITS),
        (Fault::SaysTheWrongLine, FITS),
        (Fault::RefusesNoLines, FITS),
        (Fault::Hangs, FITS),
        (Fault::Panics, FITS),
        (Fault::Cuts, NOT_CUT),
        (Fault::TakesUntilOneRefuses, ALL_OR_NONE),
        (Fault::LooksAtTheFirstLine, ALL_OR_NONE),
        (Fault::GivesEverythingBack, ALL_OR_NONE),
        (Fault::RefusesSoftly, SOFT),
        (Fault::LeavesSoftLinesOut, SOFT),
        (Fault::CountsNoCalls, CALLS),
        (Fault::CountsWhatWasNotSent, CALLS),
        (Fault::IgnoresCase, APART),
        (Fault::KnowsOneWindow, APART),
        (Fault::ForgetsEarlierSlots, ROLLING),
        (Fault::ForgetsLaterSlots, ROLLING),
        (Fault::CapsWhatWasSpent, SETTLED),
        (Fault::SettlesInTheLastSlot, SETTLED),
        (Fault::ReservesTwice, AGAIN),
        (Fault::SettlesTwice, AGAIN),
        (Fault::RefusesLateSettling, AGAIN),
        (Fault::CreditsTheUnknown, UNKNOWN),
        (Fault::PromisesToReserve, AT_ONCE),
        (Fault::PromisesToSettle, AT_ONCE),
        (Fault::ShowsTwice, SHOWN),
        (Fault::TellsAgain, SHOWN),
        (Fault::TakesWhatIsTold, SHOWN),
        (Fault::TellsOfNone, USED_UP),
        (Fault::TellsEveryRefusal, USED_UP),
        (Fault::TellsOfLargeOnes, USED_UP),
        (Fault::GivesBackWhatExpired, EXPIRES),
        (Fault::ForgetsWhatExpired, EXPIRES),
        (Fault::ExpiresWhatWasSpent, EXPIRES),
        (Fault::KeepsWhatShouldReturn, RETURNS),
        (Fault::RenewsNothing, RENEWED),
        (Fault::RenewsWhatExpired, RENEWED),
        (Fault::RenewsWhatWasSettled, RENEWED),
        (Fault::CannotSettleNothing, FREE),
        (Fault::KeepsWhatWasGivenUp, GIVEN_UP),
        (Fault::LooksThenTakes, CROWD),
    ] {
        let failure = check(&Broken::new(fault)).await.expect_err(&format!("{fault:?}"));
        assert_eq!(failure.promise, promise, "{fault:?}: {failure}");
    }
}
