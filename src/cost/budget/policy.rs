//! Which budgets an attempt falls under, and what is said of them.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    Account, Balance, Budget, BudgetError, BudgetStore, Charge, Expired, Hold, InvalidBudget, Line, NoTenant,
    OverBudget, Period, Refusal, Scope, Told, Window,
    over::name,
    store::share,
    window::{Cut, Cutter},
};
use crate::{
    inference::InferenceRequest,
    types::{AttemptId, Clock, RouteId, Usd, later},
};

/// Accounts whose names are remembered; past it they are forgotten, which costs time.
const MOST_REMEMBERED: usize = 16_384;

/// The budgets of a service, while it runs.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{
///     InferenceRequest, InferenceService,
///     cost::{Budget, Scope, Window},
///     testing::Together,
///     usd,
/// };
///
/// let service = InferenceService::builder(Together::new().client()).budget(Budget::daily(usd!("25")).per_tenant()).build()?;
/// service.complete(InferenceRequest::chat("Why is the sky blue?").tenant("acme")).await?;
///
/// let acme = Scope::tenant("acme");
/// service.budgets().set(acme.clone(), Window::Day, usd!("50"))?;
/// let budgets = service.budgets().remaining(&acme).await?;
/// assert_eq!((budgets[0].limit, budgets[0].calls), (usd!("50"), 1));
/// assert!(budgets[0].left() < usd!("50") && budgets[0].resets_at.is_some());
/// # Ok(())
/// # }
/// ```
pub struct Budgets {
    rules: RwLock<Arc<[Arc<Rule>]>>,
    store: Arc<dyn BudgetStore>,
    clock: Arc<dyn Clock>,
    /// Whether one of them refuses.
    hard: AtomicBool,
    listener: OnceLock<Listener>,
}

/// Who is told.
type Listener = Box<dyn Fn(Notice) + Send + Sync>;

/// A budget at work.
#[derive(Debug)]
struct Rule {
    budget: Budget,
    /// What every one of its accounts begins with.
    key: String,
    cutter: Cutter,
    accounts: RwLock<HashMap<Scope, Account>>,
    /// Of those that have another amount than the budget's.
    amounts: RwLock<HashMap<Scope, Usd>>,
}

/// One budget of a scope, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remaining {
    /// Whose.
    pub scope: Scope,
    /// For how long its amount is meant.
    pub window: Window,
    /// Whether it refuses.
    pub hard: bool,
    /// Its amount.
    pub limit: Usd,
    /// What is spent of it in this window.
    pub spent: Usd,
    /// What is set aside of it by attempts that have not ended.
    pub reserved: Usd,
    /// Attempts that were made in this window.
    pub calls: u64,
    /// How many may be made.
    pub max_calls: Option<u64>,
    /// When all of it may be spent again; `None`: never.
    pub resets_at: Option<SystemTime>,
}

/// What part of a whole this is, in thousandths: none of it where it is overdrawn.
fn permille(part: Usd, whole: Usd) -> u16 {
    let thousandths = i128::from(part.nanos()) * 1_000 / i128::from(whole.nanos().max(1));
    u16::try_from(thousandths.clamp(0, 1_000)).unwrap_or(0)
}

impl Remaining {
    /// What is neither spent nor set aside: less than nothing where it is overdrawn.
    #[must_use]
    pub fn left(&self) -> Usd {
        self.limit - self.spent - self.reserved
    }
}

/// What an attempt falls under, before its amount is known.
pub(crate) struct Drawn(Vec<Line>, Vec<(Arc<Rule>, Scope)>);

/// What an attempt has set aside.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) hold: Arc<Hold>,
    of: Vec<(Arc<Rule>, Scope)>,
}

/// Which marks an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    /// Those that it passes, and those before that nobody was told of.
    Now,
    /// The latter alone.
    Untold,
}

/// News of a budget.
#[derive(Debug)]
pub(crate) struct Notice {
    /// How much of it is spent.
    pub(crate) percent: u8,
    /// Of which window: the same for the same news alone.
    pub(crate) about: String,
    pub(crate) title: String,
}

impl Budgets {
    pub(crate) fn new(
        budgets: Vec<Budget>,
        store: Arc<dyn BudgetStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, InvalidBudget> {
        let largest = store.largest_limit();
        let mut rules = budgets.into_iter().map(|budget| Rule::new(budget, largest)).collect::<Result<Vec<_>, _>>()?;
        // Whoever asks first waits for whoever asks second nowhere: the order is the same for all.
        rules.sort_by(|a, b| (&a.budget.level, &a.key).cmp(&(&b.budget.level, &b.key)));
        for pair in rules.windows(2) {
            if let [one, other] = pair
                && (&one.budget.level, &one.key) == (&other.budget.level, &other.key)
            {
                return Err(other.budget.invalid("there are two of it; leave one out, or give them two time zones"));
            }
        }
        let hard = rules.iter().any(|rule| rule.budget.hard);
        Ok(Self {
            rules: RwLock::new(rules.into_iter().map(Arc::new).collect()),
            store,
            clock,
            hard: AtomicBool::new(hard),
            listener: OnceLock::new(),
        })
    }

    /// Gives a scope another amount in every budget of this window that it falls under, at once and as long as the
    /// service lives. Where it falls under none, it gets a hard one of its own, in UTC. Other processes keep theirs.
    ///
    /// ```
    /// use together_inference::{InferenceService, cost::{Scope, Window}, testing::Together, usd};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// service.budgets().set(Scope::tenant("trial"), Window::Total, usd!("1"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidBudget`] for an amount below zero, or one that the store cannot compare.
    pub fn set(&self, scope: Scope, window: Window, amount: Usd) -> Result<(), InvalidBudget> {
        let largest = self.store.largest_limit();
        // Held to the end: two who set the same scope make one budget.
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = true;
        for rule in rules.iter().filter(|it| it.budget.window == window && it.budget.level.covers(&scope)) {
            rule.budget.check(amount, largest)?;
            rule.amounts.write().unwrap_or_else(PoisonError::into_inner).insert(scope.clone(), amount);
            is_new = false;
        }
        if is_new {
            let rule = Arc::new(Rule::new(Budget { window, ..Budget::total(amount).of(scope) }, largest)?);
            *rules = rules.iter().cloned().chain([rule]).collect();
            self.hard.store(true, Ordering::Release);
        }
        drop(rules);
        Ok(())
    }

    /// Every budget that is a scope's own, as it stands. Those of others that it falls under as well are theirs.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] when the store failed.
    pub async fn remaining(&self, scope: &Scope) -> Result<Vec<Remaining>, BudgetError> {
        let now = self.clock.now();
        let rules: Vec<_> = self.rules().iter().filter(|rule| rule.budget.level.covers(scope)).cloned().collect();
        let cuts: Vec<Cut> = rules.iter().map(|rule| rule.cutter.cut(now)).collect();
        let accounts: Vec<(Account, Period)> =
            rules.iter().zip(&cuts).map(|(rule, cut)| (rule.account(scope), cut.period)).collect();
        let balances = self.store.read(&accounts).await?;
        let remaining = |((rule, cut), balance): ((&Arc<Rule>, &Cut), &Balance)| Remaining {
            scope: scope.clone(),
            window: rule.budget.window,
            hard: rule.budget.hard,
            limit: rule.limit(scope),
            spent: balance.spent,
            reserved: balance.reserved,
            calls: balance.calls,
            max_calls: rule.budget.max_calls,
            resets_at: cut.resets_at(),
        };
        Ok(rules.iter().zip(&cuts).zip(&balances).map(remaining).collect())
    }

    /// What is left of the tightest budget that a request falls under wherever it goes, in thousandths; `None` if it falls
    /// under none.
    pub(crate) async fn left_for(&self, request: &InferenceRequest) -> Result<Option<u16>, BudgetError> {
        let (rules, now) = (self.rules(), self.clock.now());
        let mut scopes = vec![Scope::Global];
        scopes.extend(request.tenant_of().cloned().map(Scope::Tenant));
        scopes.extend(request.tags_of().map(|(name, value)| Scope::Tag(name.into(), value.into())));
        scopes.extend(request.session_of().cloned().map(Scope::Session));
        let of =
            |scope| rules.iter().filter(move |rule| rule.budget.level.covers(scope)).map(move |rule| (rule, scope));
        let (accounts, limits): (Vec<(Account, Period)>, Vec<Usd>) = scopes
            .iter()
            .flat_map(of)
            .map(|(rule, scope)| ((rule.account(scope), rule.cutter.cut(now).period), rule.limit(scope)))
            .unzip();
        if accounts.is_empty() {
            return Ok(None);
        }
        let balances = self.store.read(&accounts).await?;
        let left = limits.iter().zip(&balances).map(|(limit, it)| permille(*limit - it.spent - it.reserved, *limit));
        Ok(left.min())
    }

    fn rules(&self) -> Arc<[Arc<Rule>]> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether one of them refuses.
    pub(crate) fn are_hard(&self) -> bool {
        self.hard.load(Ordering::Acquire)
    }

    /// Whether there is one.
    #[cfg(feature = "batch")]
    pub(crate) fn are_any(&self) -> bool {
        !self.rules().is_empty()
    }

    /// Who is told of alerts.
    pub(crate) fn listen(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    /// Everything that an attempt falls under.
    pub(crate) fn draw(&self, request: &InferenceRequest, route: &RouteId) -> Result<Drawn, NoTenant> {
        let rules = self.rules();
        let (mut lines, mut of) = (Vec::new(), Vec::new());
        if rules.is_empty() {
            return Ok(Drawn(lines, of));
        }
        let now = self.clock.now();
        for rule in rules.iter() {
            let scope = match rule.budget.level.scope(request, route) {
                Ok(Some(scope)) => scope,
                Err(NoTenant) if rule.budget.hard => return Err(NoTenant),
                Ok(None) | Err(NoTenant) => continue,
            };
            lines.push(rule.line(&scope, now));
            of.push((Arc::clone(rule), scope));
        }
        Ok(Drawn(lines, of))
    }

    /// Sets money aside. If a store fails that no hard budget is in, the attempt goes on without: `false`, and there is
    /// nothing to settle.
    pub(crate) async fn reserve(&self, held: &Held) -> Result<bool, BudgetError> {
        let reserved = match self.store.reserve_now(&held.hold) {
            Some(reserved) => reserved,
            None => self.store.reserve(&held.hold).await,
        };
        match reserved {
            Err(BudgetError::Refused(refusal)) => {
                let (refused, told) = self.refused(held, refusal);
                self.confirm(&told).await;
                Err(refused)
            }
            Err(BudgetError::Store(error)) if !held.is_hard() => {
                tracing::warn!(%error, "a budget store failed, and no hard budget is in it: going on without");
                Ok(false)
            }
            reserved => reserved.map(|()| true),
        }
    }

    /// Has what is paid counted, where the store may not know any more that it was set aside. Nothing refuses it.
    #[cfg(feature = "batch")]
    pub(crate) async fn reserve_paid(&self, held: &Held) -> Result<(), BudgetError> {
        if self.store.keeps_holds() {
            return Ok(());
        }
        let soft = |line: &Line| Line { hard: false, ..line.clone() };
        let Hold { id, amount, expires, .. } = *held.hold;
        let lines = held.hold.lines.iter().map(soft).collect();
        let paid = Held { hold: Arc::new(Hold::new(id, amount, lines, expires)), of: held.of.clone() };
        self.reserve(&paid).await.map(drop)
    }

    /// Settles without waiting, if the store can.
    pub(crate) fn settle_now(&self, held: &Held, charge: Charge) -> bool {
        let balances = self.store.settle_now(&held.hold, charge);
        // What is answered at once cannot be lost: there is nothing to confirm.
        balances.as_ref().map(|balances| self.look_at(held, balances)).is_some()
    }

    /// Attempts under way keep what they set aside.
    pub(crate) async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        self.store.renew(holds).await
    }

    /// Settles.
    pub(crate) async fn settle(&self, held: &Held, charge: Charge) -> Result<(), BudgetError> {
        let balances = self.store.settle(&held.hold, charge).await?;
        let told = self.look_at(held, &balances);
        self.confirm(&told).await;
        Ok(())
    }

    /// Has the store forget what was told. Where that fails it is told again, which whoever hears of it knows already.
    async fn confirm(&self, told: &[Told]) {
        if !told.is_empty()
            && let Err(error) = self.store.told(told).await
        {
            tracing::debug!(%error, "a budget store does not know what was told of its budgets");
        }
    }

    /// What a refusal says, and what was told of it.
    fn refused(&self, held: &Held, refusal: Refusal) -> (BudgetError, Vec<Told>) {
        let Refusal { line, balance } = refusal;
        let (Some(asked), Some((rule, scope))) = (held.hold.lines.get(line), held.of.get(line)) else {
            return (BudgetError::Store(format!("it refuses line {line}, which is none").into()), Vec::new());
        };
        let mut told = self.tell_passed(asked, rule, scope, &balance, Passed::Untold);
        let Balance { spent, reserved, .. } = balance;
        let over = OverBudget {
            calls: asked.max_calls.map(|most| (balance.calls, most)),
            resets_at: rule.cutter.cut(self.clock.now()).resets_at(),
            ..OverBudget::new(scope.clone(), rule.budget.window, asked.limit, spent, reserved, held.hold.amount)
        };
        if balance.used_up {
            if rule.budget.alerts.contains(&100) {
                self.tell(asked, 100, format!("calls are refused: {over}"));
            }
            told.push(Told::new(asked.account.clone(), asked.period, None));
        }
        (BudgetError::Over(Box::new(over)), told)
    }

    /// Tells what was passed on the way; answers with it.
    fn look_at(&self, held: &Held, balances: &[Balance]) -> Vec<Told> {
        let mut told = Vec::new();
        for ((line, (rule, scope)), balance) in held.hold.lines.iter().zip(&held.of).zip(balances) {
            told.extend(self.tell_passed(line, rule, scope, balance, Passed::Now));
            if balance.used_up {
                if rule.budget.alerts.contains(&100) {
                    self.tell_spent(line, rule, scope, 100, balance.spent);
                }
                told.push(Told::new(line.account.clone(), line.period, None));
            }
        }
        told
    }

    /// Tells which marks were passed. All of it is none of them: it may also be found used up by the first call that is
    /// refused.
    fn tell_passed(&self, line: &Line, rule: &Rule, scope: &Scope, balance: &Balance, when: Passed) -> Vec<Told> {
        let limit = rule.limit(scope);
        let mut told = Vec::new();
        for percent in rule.budget.alerts.iter().copied().filter(|percent| *percent != 100) {
            let mark = share(limit, percent);
            let is_now = when == Passed::Now && balance.shown < mark;
            let is_untold = balance.untold.is_some_and(|untold| untold <= mark);
            if (is_now || is_untold) && mark <= balance.spent {
                self.tell_spent(line, rule, scope, percent, balance.spent);
                // As the store knows it, whatever the limit is by now.
                told.push(Told::new(line.account.clone(), line.period, Some(share(line.limit, percent))));
            }
        }
        told
    }

    fn tell_spent(&self, line: &Line, rule: &Rule, scope: &Scope, percent: u8, spent: Usd) {
        let (name, limit) = (name(&rule.budget.window.adjective(), scope), rule.limit(scope));
        self.tell(line, percent, format!("{percent} % of {name} are spent: {spent} of {limit}"));
    }

    fn tell(&self, line: &Line, percent: u8, title: String) {
        let about = format!("{} {} {percent} %", line.account.as_str(), line.period.slot);
        if let Some(listener) = self.listener.get() {
            listener(Notice { percent, about, title });
        }
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").field("rules", &self.rules()).field("store", &self.store).finish_non_exhaustive()
    }
}

impl Drawn {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them refuses.
    pub(crate) fn is_hard(&self) -> bool {
        self.0.iter().any(|line| line.hard)
    }

    pub(crate) fn hold(self, id: AttemptId, amount: Usd, expires: Duration) -> Held {
        Held { hold: Arc::new(Hold::new(id, amount, self.0, expires)), of: self.1 }
    }
}

impl Held {
    /// Whether one of its budgets refuses.
    pub(crate) fn is_hard(&self) -> bool {
        self.hold.lines.iter().any(|line| line.hard)
    }

    /// Whether some of it returns when it expires.
    pub(crate) fn returns(&self) -> bool {
        self.hold.lines.iter().any(|line| line.expired == Expired::Return)
    }

    /// When it expires.
    pub(crate) fn until(&self) -> Instant {
        later(self.hold.made(), self.hold.expires)
    }
}

impl Rule {
    fn new(budget: Budget, largest: Usd) -> Result<Self, InvalidBudget> {
        let cutter = budget.cutter(largest)?;
        Ok(Self { key: budget.key(), cutter, budget, accounts: RwLock::default(), amounts: RwLock::default() })
    }

    fn line(&self, scope: &Scope, now: SystemTime) -> Line {
        let budget = &self.budget;
        let line = Line::new(self.account(scope), self.cutter.cut(now).period, self.limit(scope));
        let (max_calls, hard, expired, keep) = (budget.max_calls, budget.hard, budget.expired, budget.keep());
        Line { max_calls, hard, expired, keep, alerts: Arc::clone(&budget.alerts), ..line }
    }

    fn limit(&self, scope: &Scope) -> Usd {
        let amounts = self.amounts.read().unwrap_or_else(PoisonError::into_inner);
        amounts.get(scope).copied().unwrap_or(self.budget.amount)
    }

    fn account(&self, scope: &Scope) -> Account {
        if let Some(account) = self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(scope) {
            return account.clone();
        }
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= MOST_REMEMBERED {
            accounts.clear();
        }
        let made = || Account::new(self.key.clone() + &scope.key());
        accounts.entry(scope.clone()).or_insert_with(made).clone()
    }
}

#[cfg(test)]
mod tests;
