use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::*;
use crate::cost::MemoryBudgets;

/// The suite on tokio's time.
async fn check(store: &dyn BudgetStore) -> Result<(), Failure> {
    budget_store(store, &|time| Box::pin(tokio::time::advance(time))).await
}

fn memory() -> MemoryBudgets {
    budget_limits().into_iter().fold(MemoryBudgets::new(), |budgets, (scope, limit)| budgets.limit(scope, limit))
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_keeps_every_promise_behind_every_pointer() {
    check(&memory()).await.unwrap();
    check(&Arc::new(memory())).await.unwrap();
    let shared: Arc<dyn BudgetStore> = Arc::new(memory());
    check(&shared).await.unwrap();
    let boxed: Box<dyn BudgetStore> = Box::new(memory());
    check(&*boxed).await.unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    RefusesTheLastCent,
    SaysTheWrongScope,
    Cuts,
    TakesUntilOneRefuses,
    LooksAtTheFirstScope,
    RefusesUnknownScopes,
    OneAccountATag,
    GivesEverythingBack,
    CapsWhatWasSpent,
    SettlesTwice,
    CreditsTheUnknown,
    PromisesToSettle,
    RefusesLateSettling,
    GivesBackWhatExpired,
    ForgetsWhatExpired,
    ExpiresWhatWasSpent,
    KeepsWhatWasGivenUp,
    LooksThenTakes,
    Hangs,
    Panics,
}

/// A store with one fault.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    limits: HashMap<Scope, Usd>,
    held: Mutex<HashMap<AttemptId, Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    scopes: Vec<Scope>,
    amount: Usd,
    until: Instant,
    settled: bool,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self { fault, limits: budget_limits().into_iter().collect(), held: Mutex::default() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self, scope: &Scope) -> Scope {
        match scope {
            Scope::Model(route) if self.has(Fault::OneAccountATag) => {
                Scope::Model(RouteId::new("local", route.model().clone()))
            }
            scope => scope.clone(),
        }
    }

    fn used(&self, scope: &Scope) -> Usd {
        let now = Instant::now();
        let counts = |held: &&Held| {
            let kept = match self.fault {
                Fault::ExpiresWhatWasSpent => !held.settled,
                Fault::GivesBackWhatExpired => held.settled,
                _ => true,
            };
            held.scopes.contains(scope) && (kept || held.until > now)
        };
        self.held().values().filter(counts).map(|held| held.amount).sum()
    }

    fn over(&self, scopes: &[Scope], needed: Usd) -> Option<OverBudget> {
        scopes.iter().find_map(|scope| {
            let unknown = self.has(Fault::RefusesUnknownScopes).then_some(Usd::ZERO);
            let limit = self.limits.get(scope).copied().or(unknown)?;
            let used = self.used(scope);
            let fits = if self.has(Fault::RefusesTheLastCent) { used + needed < limit } else { used + needed <= limit };
            let named = if self.has(Fault::SaysTheWrongScope) { Scope::Global } else { scope.clone() };
            (!fits).then(|| OverBudget::new(named, limit, used, needed))
        })
    }

    fn take(&self, id: AttemptId, scopes: &[Scope], amount: Usd, expires: Duration) {
        let until = Instant::now() + expires;
        let scopes = scopes.to_vec();
        self.held().insert(id, Held { scopes, amount, until, settled: false });
    }

    fn spend(&self, id: AttemptId, actual: Usd) {
        let mut held = self.held();
        let unknown = || Held {
            scopes: self.limits.keys().cloned().collect(),
            amount: actual,
            until: Instant::now(),
            settled: true,
        };
        match held.get_mut(&id) {
            Some(held) if self.has(Fault::ForgetsWhatExpired) && held.until <= Instant::now() => {}
            Some(held) if !held.settled => {
                held.settled = true;
                held.amount = match self.fault {
                    Fault::GivesEverythingBack => Usd::ZERO,
                    Fault::CapsWhatWasSpent => actual.min(held.amount),
                    _ => actual,
                };
            }
            Some(held) if self.has(Fault::SettlesTwice) => held.amount += actual,
            None if self.has(Fault::CreditsTheUnknown) => drop(held.insert(id, unknown())),
            _ => {}
        }
    }
}

#[async_trait]
impl BudgetStore for Broken {
    async fn reserve(
        &self,
        id: AttemptId,
        scopes: &[Scope],
        amount: Usd,
        expires: Duration,
    ) -> Result<(), BudgetError> {
        let scopes: Vec<Scope> = scopes.iter().map(|scope| self.account(scope)).collect();
        let over = match self.fault {
            Fault::LooksAtTheFirstScope => self.over(&scopes[..scopes.len().min(1)], amount),
            _ => self.over(&scopes, amount),
        };
        match self.fault {
            Fault::Hangs => std::future::pending().await,
            Fault::Panics if scopes.is_empty() => panic!("no scope"),
            Fault::LooksThenTakes => tokio::task::yield_now().await,
            Fault::KeepsWhatWasGivenUp if over.is_none() => {
                let in_between = AttemptId::new(id.value() + 5_000);
                self.take(in_between, &scopes, amount, LONG);
                tokio::task::yield_now().await;
                self.held().remove(&in_between);
            }
            _ => {}
        }
        if let Some(over) = over {
            if self.has(Fault::Cuts) && over.used < over.limit && amount < TOO_MUCH {
                self.take(id, &scopes, over.limit - over.used, expires);
                return Ok(());
            }
            if self.has(Fault::TakesUntilOneRefuses) {
                let fit = scopes.iter().position(|scope| *scope == over.scope).unwrap_or_default();
                self.take(id, &scopes[..fit], amount, expires);
            }
            return Err(over.into());
        }
        self.take(id, &scopes, amount, expires);
        Ok(())
    }

    fn settle_now(&self, id: AttemptId, actual: Usd) -> bool {
        match self.fault {
            Fault::PromisesToSettle => true,
            _ if id.value().is_multiple_of(2) => false,
            _ => {
                self.spend(id, actual);
                true
            }
        }
    }

    async fn settle(&self, id: AttemptId, actual: Usd) -> Result<(), BudgetError> {
        if self.has(Fault::RefusesLateSettling) && self.held().get(&id).is_none_or(|held| held.settled) {
            return Err(BudgetError::Store("not reserved".into()));
        }
        self.spend(id, actual);
        Ok(())
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
        (Fault::SaysTheWrongScope, FITS),
        (Fault::Hangs, FITS),
        (Fault::Cuts, FITS),
        (Fault::TakesUntilOneRefuses, ALL_OR_NONE),
        (Fault::LooksAtTheFirstScope, ALL_OR_NONE),
        (Fault::RefusesUnknownScopes, UNLIMITED),
        (Fault::Panics, UNLIMITED),
        (Fault::OneAccountATag, KINDS),
        (Fault::GivesEverythingBack, ALL_OR_NONE),
        (Fault::CapsWhatWasSpent, SETTLED),
        (Fault::SettlesTwice, AGAIN),
        (Fault::RefusesLateSettling, AGAIN),
        (Fault::CreditsTheUnknown, UNKNOWN),
        (Fault::PromisesToSettle, AT_ONCE),
        (Fault::GivesBackWhatExpired, EXPIRES),
        (Fault::ForgetsWhatExpired, EXPIRES),
        (Fault::ExpiresWhatWasSpent, EXPIRES),
        (Fault::KeepsWhatWasGivenUp, GIVEN_UP),
        (Fault::LooksThenTakes, CROWD),
    ] {
        let failure = check(&Broken::new(fault)).await.expect_err(&format!("{fault:?}"));
        assert_eq!(failure.promise, promise, "{fault:?}: {failure}");
    }
}
