//! Money that may be spent, reserved before and settled after.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    inference::InferenceRequest,
    types::{AttemptId, BoxError, RouteId, SessionId, Tenant, Usd, later},
};

/// What a budget is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scope {
    /// Everything.
    Global,
    /// A tenant.
    Tenant(Tenant),
    /// A session.
    Session(SessionId),
    /// A label of requests.
    Tag(Box<str>, Box<str>),
    /// A model on an upstream.
    Model(RouteId),
}

impl Scope {
    /// The scope of a tenant.
    pub fn tenant(tenant: impl Into<Tenant>) -> Self {
        Self::Tenant(tenant.into())
    }

    /// Every scope that an attempt falls into, in the fixed order in which they are reserved.
    #[must_use]
    pub fn of(request: &InferenceRequest, route: &RouteId) -> Vec<Self> {
        let mut scopes = vec![Self::Global];
        scopes.extend(request.tenant_of().cloned().map(Self::Tenant));
        scopes.extend(request.session_of().cloned().map(Self::Session));
        scopes.extend(request.tags_of().map(|(name, value)| Self::Tag(name.into(), value.into())));
        scopes.push(Self::Model(route.clone()));
        scopes
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("the global budget"),
            Self::Tenant(tenant) => write!(f, "the budget of tenant {tenant}"),
            Self::Session(session) => write!(f, "the budget of session {session}"),
            Self::Tag(name, value) => write!(f, "the budget of {name}={value}"),
            Self::Model(route) => write!(f, "the budget of {route}"),
        }
    }
}

/// Keeps budgets: reserves before money is spent, settles what was.
#[async_trait]
pub trait BudgetStore: Send + Sync + fmt::Debug {
    /// Sets the amount aside in every scope, or in none. It is never cut to what is left. A reservation that is not
    /// settled by `expires` counts as spent at its whole amount, since nobody knows better, until
    /// [`settle`](Self::settle) says what it really was.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Over`] names the scope that has too little left; [`BudgetError::Store`] when the store failed.
    async fn reserve(&self, id: AttemptId, scopes: &[Scope], amount: Usd, expires: Duration)
    -> Result<(), BudgetError>;

    /// Settles at once, from `Drop`: `true` if done. A store that must wait answers `false`, and
    /// [`settle`](Self::settle) is called from a task.
    fn settle_now(&self, id: AttemptId, actual: Usd) -> bool {
        let _ = (id, actual);
        false
    }

    /// Replaces a reservation by what was really spent, an expired one as well. Repeating it, or settling what was never
    /// reserved, changes nothing.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] when the store failed; it is called again.
    async fn settle(&self, id: AttemptId, actual: Usd) -> Result<(), BudgetError>;
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: BudgetStore + ?Sized> BudgetStore for Arc<T> {
    async fn reserve(
        &self,
        id: AttemptId,
        scopes: &[Scope],
        amount: Usd,
        expires: Duration,
    ) -> Result<(), BudgetError> {
        (**self).reserve(id, scopes, amount, expires).await
    }

    fn settle_now(&self, id: AttemptId, actual: Usd) -> bool {
        (**self).settle_now(id, actual)
    }

    async fn settle(&self, id: AttemptId, actual: Usd) -> Result<(), BudgetError> {
        (**self).settle(id, actual).await
    }
}

/// Why money was not set aside.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// There is too little left.
    #[error(transparent)]
    Over(#[from] OverBudget),
    /// The store failed.
    #[error("the budget store failed: {0}")]
    Store(#[source] BoxError),
}

/// A budget that has too little left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{scope} has {} of {limit} left, {needed} may be needed", *.limit - *.used)]
#[non_exhaustive]
pub struct OverBudget {
    /// Which.
    pub scope: Scope,
    /// Its limit.
    pub limit: Usd,
    /// What is spent and reserved of it.
    pub used: Usd,
    /// What the attempt may cost.
    pub needed: Usd,
    /// When it is full again, if ever.
    pub resets_at: Option<SystemTime>,
}

impl OverBudget {
    /// A budget that has too little left and never resets.
    #[must_use]
    pub const fn new(scope: Scope, limit: Usd, used: Usd, needed: Usd) -> Self {
        Self { scope, limit, used, needed, resets_at: None }
    }
}

/// The most reservations at a time, expired ones that may still be settled included.
const MAX_HELD: usize = 100_000;

/// Budgets in this process: a fixed amount a scope, without windows, gone with the process.
///
/// A reservation that expires counts as spent at its amount until it is settled. Where there are 100,000 at a time, the
/// expired ones stay spent for good.
///
/// ```
/// use together_inference::{cost::{MemoryBudgets, Scope}, usd};
///
/// let budgets = MemoryBudgets::new().limit(Scope::Global, usd!("25.00")).limit(Scope::tenant("acme"), usd!("5.00"));
/// assert_eq!(budgets.remaining(&Scope::tenant("acme")), Some(usd!("5.00")));
/// ```
#[derive(Debug, Default)]
pub struct MemoryBudgets(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    accounts: HashMap<Scope, Account>,
    held: HashMap<AttemptId, Held>,
}

#[derive(Debug, Default)]
struct Account {
    limit: Usd,
    spent: Usd,
    reserved: Usd,
}

#[derive(Debug)]
struct Held {
    scopes: Vec<Scope>,
    amount: Usd,
    until: Instant,
    /// Counted as spent already.
    expired: bool,
}

impl MemoryBudgets {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits a scope to this amount.
    #[must_use]
    pub fn limit(self, scope: Scope, limit: Usd) -> Self {
        self.lock().accounts.entry(scope).or_default().limit = limit;
        self
    }

    /// What is neither spent nor reserved of a scope; `None` if it has no limit.
    #[must_use]
    pub fn remaining(&self, scope: &Scope) -> Option<Usd> {
        self.lock().accounts.get(scope).map(|account| account.limit - account.spent - account.reserved)
    }

    /// What is spent and what is reserved of a scope; `None` if it has no limit.
    #[must_use]
    pub fn used(&self, scope: &Scope) -> Option<(Usd, Usd)> {
        let mut books = self.lock();
        books.expire(Instant::now());
        books.accounts.get(scope).map(|account| (account.spent, account.reserved))
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn release(&mut self, id: AttemptId, actual: Usd) {
        let Some(held) = self.held.remove(&id) else { return };
        for scope in &held.scopes {
            if let Some(account) = self.accounts.get_mut(scope) {
                let counted = if held.expired { &mut account.spent } else { &mut account.reserved };
                *counted = *counted - held.amount;
                account.spent += actual;
            }
        }
    }

    /// Counts as spent what nobody settled in time.
    fn expire(&mut self, now: Instant) {
        for held in self.held.values_mut().filter(|held| !held.expired && held.until <= now) {
            held.expired = true;
            for scope in &held.scopes {
                if let Some(account) = self.accounts.get_mut(scope) {
                    account.reserved = account.reserved - held.amount;
                    account.spent += held.amount;
                }
            }
        }
    }

    fn check(&self, scopes: &[Scope], needed: Usd) -> Result<(), OverBudget> {
        scopes.iter().filter_map(|scope| self.accounts.get_key_value(scope)).try_for_each(|(scope, account)| {
            let used = account.spent + account.reserved;
            let fits = used + needed <= account.limit;
            fits.then_some(()).ok_or_else(|| OverBudget::new(scope.clone(), account.limit, used, needed))
        })
    }
}

#[async_trait]
impl BudgetStore for MemoryBudgets {
    async fn reserve(
        &self,
        id: AttemptId,
        scopes: &[Scope],
        amount: Usd,
        expires: Duration,
    ) -> Result<(), BudgetError> {
        let (mut books, now) = (self.lock(), Instant::now());
        books.check(scopes, amount)?;
        if books.held.len() >= MAX_HELD {
            books.expire(now);
            books.held.retain(|_, held| !held.expired);
        }
        if books.held.len() >= MAX_HELD {
            return Err(BudgetError::Store(format!("more than {MAX_HELD} reservations at a time").into()));
        }
        let limited: Vec<_> = scopes.iter().filter(|scope| books.accounts.contains_key(*scope)).cloned().collect();
        for scope in &limited {
            if let Some(account) = books.accounts.get_mut(scope) {
                account.reserved += amount;
            }
        }
        books.held.insert(id, Held { scopes: limited, amount, until: later(now, expires), expired: false });
        Ok(())
    }

    fn settle_now(&self, id: AttemptId, actual: Usd) -> bool {
        self.lock().release(id, actual);
        true
    }

    async fn settle(&self, id: AttemptId, actual: Usd) -> Result<(), BudgetError> {
        self.lock().release(id, actual);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usd;

    #[tokio::test(start_paused = true)]
    async fn fifty_dimes_fit_into_five_dollars_and_no_more() {
        let budgets = MemoryBudgets::new().limit(Scope::Global, usd!("5"));
        let mut admitted = 0;
        for id in 0..1_000 {
            let reserved = budgets.reserve(AttemptId::new(id), &[Scope::Global], usd!("0.1"), Duration::from_secs(60));
            admitted += u32::from(reserved.await.is_ok());
        }
        assert_eq!((admitted, budgets.remaining(&Scope::Global)), (50, Some(Usd::ZERO)));
        assert!(budgets.settle_now(AttemptId::new(0), usd!("0.04")));
        assert!(budgets.settle_now(AttemptId::new(0), usd!("0.04")), "settling twice counts once");
        assert_eq!(budgets.remaining(&Scope::Global), Some(usd!("0.06")));
    }

    #[tokio::test(start_paused = true)]
    async fn all_scopes_or_none() {
        let acme = Scope::tenant("acme");
        let budgets = MemoryBudgets::new().limit(Scope::Global, usd!("10")).limit(acme.clone(), usd!("1"));
        let scopes = [Scope::Global, acme.clone()];
        let hold = Duration::from_secs(60);
        budgets.reserve(AttemptId::new(1), &scopes, usd!("1"), hold).await.unwrap();
        let Err(BudgetError::Over(over)) = budgets.reserve(AttemptId::new(2), &scopes, usd!("0.5"), hold).await else {
            panic!("there is nothing left")
        };
        assert_eq!((over.scope, over.limit, over.used), (acme.clone(), usd!("1"), usd!("1")));
        assert_eq!(budgets.remaining(&Scope::Global), Some(usd!("9")), "a refused reservation takes nothing anywhere");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_settled_is_spent_until_it_is() {
        let budgets = MemoryBudgets::new().limit(Scope::Global, usd!("1"));
        let hold = Duration::from_secs(60);
        let reserve = async |id, amount| budgets.reserve(AttemptId::new(id), &[Scope::Global], amount, hold).await;
        reserve(1, usd!("0.75")).await.unwrap();
        tokio::time::advance(hold).await;
        assert!(reserve(2, usd!("0.5")).await.is_err(), "it may have been spent");
        assert_eq!(budgets.used(&Scope::Global), Some((usd!("0.75"), Usd::ZERO)));
        for actual in [usd!("0.25"), usd!("0.75")] {
            assert!(budgets.settle_now(AttemptId::new(1), actual));
            assert_eq!(budgets.used(&Scope::Global), Some((usd!("0.25"), Usd::ZERO)), "once");
        }
        reserve(2, usd!("0.75")).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_may_be_for_ever() {
        let budgets = MemoryBudgets::new().limit(Scope::Global, usd!("1"));
        budgets.reserve(AttemptId::new(1), &[Scope::Global], usd!("1"), Duration::MAX).await.unwrap();
        assert_eq!(budgets.used(&Scope::Global), Some((Usd::ZERO, usd!("1"))));
    }

    #[tokio::test(start_paused = true)]
    async fn expired_reservations_make_room_for_new_ones_and_stay_spent() {
        let budgets = MemoryBudgets::new().limit(Scope::Global, usd!("1000"));
        let (cent, hold) = (usd!("0.001"), Duration::from_secs(60));
        for id in 0..MAX_HELD as u128 {
            budgets.reserve(AttemptId::new(id), &[Scope::Global], cent, hold).await.unwrap();
        }
        let next = AttemptId::new(MAX_HELD as u128);
        assert!(matches!(budgets.reserve(next, &[Scope::Global], cent, hold).await, Err(BudgetError::Store(_))));
        tokio::time::advance(hold).await;
        budgets.reserve(next, &[Scope::Global], cent, hold).await.unwrap();
        assert_eq!(budgets.used(&Scope::Global), Some((usd!("100"), cent)));
    }
}
