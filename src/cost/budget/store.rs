//! What keeps the money of budgets.

use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{OverBudget, Period};
#[cfg(any(feature = "postgres", feature = "redis"))]
use crate::types::FOREVER;
use crate::types::{AttemptId, BoxError, Usd};

/// What the money of one budget and scope is kept under. Cloning one is a reference count.
///
/// ```
/// use together_inference::cost::Account;
///
/// assert_eq!(Account::new("day|tenant:acme"), Account::new("day|tenant:acme"));
/// ```
#[derive(Clone)]
pub struct Account(Arc<Name>);

struct Name {
    hash: u64,
    key: Box<str>,
    /// Where a store in this process has it, as far as anybody remembers.
    place: AtomicUsize,
}

impl Account {
    /// The account of this name.
    pub fn new(key: impl Into<Box<str>>) -> Self {
        // One key for the process: names come from callers, who must not choose where they fall.
        static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let key = key.into();
        Self(Arc::new(Name { hash: STATE.hash_one(&*key), key, place: AtomicUsize::new(0) }))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.key
    }

    /// Where a store may have it: a guess, for another store may have guessed as well.
    pub(super) fn place(&self) -> usize {
        self.0.place.load(Ordering::Relaxed)
    }

    pub(super) fn is_at(&self, place: usize) {
        self.0.place.store(place, Ordering::Relaxed);
    }
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.hash == other.0.hash && self.0.key == other.0.key)
    }
}

impl Eq for Account {}

impl Hash for Account {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0.key, f)
    }
}

/// What becomes of money that nobody settled in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Expired {
    /// It counts as spent until it is settled, since nobody knows better.
    Spent,
    /// It returns: nothing is known to have been spent by a process that died. While its process lives, and the store is in
    /// reach, it is [renewed](BudgetStore::renew).
    Return,
}

/// What an attempt sets aside in one account.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Line {
    /// Where.
    pub account: Account,
    /// In which slot, and what counts beside it.
    pub period: Period,
    /// What may be spent and set aside.
    pub limit: Usd,
    /// How many attempts may be made.
    pub max_calls: Option<u64>,
    /// Whether the limits refuse.
    pub hard: bool,
    /// What becomes of it when nobody settles it in time.
    pub expired: Expired,
    /// How long an account that nobody uses must be kept; `None`: for good.
    pub keep: Option<Duration>,
    /// At how many percent of the limit somebody is told of what is spent.
    pub alerts: Arc<[u8]>,
}

impl Line {
    /// A hard limit on an account that is kept for good.
    ///
    /// ```
    /// use together_inference::{cost::{Account, Line, Period}, usd};
    ///
    /// let line = Line::new(Account::new("total|global"), Period::new(0), usd!("5"));
    /// assert!(line.hard && line.max_calls.is_none());
    /// ```
    #[must_use]
    pub fn new(account: Account, period: Period, limit: Usd) -> Self {
        // One for all: a line is made for each attempt.
        static NONE: LazyLock<Arc<[u8]>> = LazyLock::new(|| Arc::from([]));
        let alerts = Arc::clone(&NONE);
        Self { account, period, limit, max_calls: None, hard: true, expired: Expired::Spent, keep: None, alerts }
    }

    /// With alerts at so many percent of what is spent.
    ///
    /// ```
    /// use together_inference::{cost::{Account, Line, Period}, usd};
    ///
    /// let line = Line::new(Account::new("total|global"), Period::new(0), usd!("5")).alerts([50, 80, 100]);
    /// assert_eq!(line.marks().collect::<Vec<_>>(), [usd!("2.50"), usd!("4")], "all of it is told of by being used up");
    /// ```
    #[must_use]
    pub fn alerts(mut self, percent: impl Into<Arc<[u8]>>) -> Self {
        self.alerts = percent.into();
        self
    }

    /// The amounts by whose passing somebody is told, but for all of it: that is [`used_up`](Balance::used_up).
    pub fn marks(&self) -> impl Iterator<Item = Usd> + '_ {
        self.alerts.iter().filter(|percent| **percent != 100).map(|percent| share(self.limit, *percent))
    }

    /// With a limit that never refuses.
    #[must_use]
    pub const fn soft(mut self) -> Self {
        self.hard = false;
        self
    }

    /// With a limit on the number of attempts.
    #[must_use]
    pub const fn max_calls(mut self, calls: u64) -> Self {
        self.max_calls = Some(calls);
        self
    }

    /// With another end of what nobody settles in time.
    #[must_use]
    pub const fn expired(mut self, expired: Expired) -> Self {
        self.expired = expired;
        self
    }

    /// On an account that may be forgotten when nobody has used it for so long.
    #[must_use]
    pub const fn keep(mut self, time: Duration) -> Self {
        self.keep = Some(time);
        self
    }

    /// Whether an attempt of this amount may be made beside what is used of the account.
    ///
    /// ```
    /// use together_inference::{cost::{Account, Balance, Line, Period}, usd};
    ///
    /// let line = Line::new(Account::new("total|global"), Period::new(0), usd!("5")).max_calls(2);
    /// assert!(line.has_room(&Balance::new(usd!("1"), usd!("3"), 1), usd!("1")));
    /// assert!(!line.has_room(&Balance::new(usd!("1"), usd!("3"), 2), usd!("1")), "two calls were made");
    /// assert!(!line.has_room(&Balance::new(usd!("1"), usd!("3.01"), 1), usd!("1")));
    /// ```
    #[must_use]
    pub fn has_room(&self, balance: &Balance, amount: Usd) -> bool {
        !self.hard
            || (balance.used() + amount <= self.limit && self.max_calls.is_none_or(|calls| balance.calls < calls))
    }

    /// Whether all of it is spent. Nothing is used up by nothing.
    ///
    /// ```
    /// use together_inference::{cost::{Account, Balance, Line, Period}, usd};
    ///
    /// let line = Line::new(Account::new("total|global"), Period::new(0), usd!("5"));
    /// assert!(line.is_used_up_by(&Balance::new(usd!("5"), usd!("0"), 1)));
    /// assert!(!line.is_used_up_by(&Balance::new(usd!("4"), usd!("1"), 2)), "it may return");
    /// ```
    #[must_use]
    pub fn is_used_up_by(&self, balance: &Balance) -> bool {
        balance.spent >= self.limit && balance.spent > Usd::ZERO
    }
}

/// What an attempt sets aside.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Hold {
    /// The attempt.
    pub id: AttemptId,
    /// The most that it can cost.
    pub amount: Usd,
    /// Every account that it is charged to, in a fixed order, none of them twice.
    pub lines: Vec<Line>,
    /// When the money counts as [`Expired`], from when the hold was made.
    pub expires: Duration,
    /// When it was made: the clock is read once an attempt.
    made: Instant,
}

impl Hold {
    /// This amount in these accounts for so long, from now.
    #[must_use]
    pub fn new(id: AttemptId, amount: Usd, lines: Vec<Line>, expires: Duration) -> Self {
        Self { id, amount, lines, expires, made: Instant::now() }
    }

    /// When it was made.
    pub(super) const fn made(&self) -> Instant {
        self.made
    }
}

/// What is used of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Balance {
    /// What was spent, and what expired unsettled.
    pub spent: Usd,
    /// What is set aside.
    pub reserved: Usd,
    /// Attempts that were made or are about to be.
    pub calls: u64,
    /// The most that an answer to [`BudgetStore::settle`] has shown as spent before this one: each amount is passed once,
    /// whoever settles. Zero in every other answer.
    pub shown: Usd,
    /// Whether this answer, the first in its window, finds the line used up: its limit is spent, or has too little left
    /// for an attempt that it would have had room for. False in every other answer, whoever asks, and in those to
    /// [`BudgetStore::read`], unless nobody [confirms](BudgetStore::told) that one.
    pub used_up: bool,
    /// The least of the [marks](Line::marks) that an answer before this one has shown as passed, and that nobody has
    /// [confirmed](BudgetStore::told) in time: that answer may be lost.
    pub untold: Option<Usd>,
}

impl Balance {
    /// This much spent and set aside by so many attempts.
    #[must_use]
    pub const fn new(spent: Usd, reserved: Usd, calls: u64) -> Self {
        Self { spent, reserved, calls, shown: Usd::ZERO, used_up: false, untold: None }
    }

    /// What is spent or set aside.
    ///
    /// ```
    /// use together_inference::{cost::Balance, usd};
    ///
    /// assert_eq!(Balance::new(usd!("1"), usd!("0.50"), 2).used(), usd!("1.50"));
    /// ```
    #[must_use]
    pub fn used(&self) -> Usd {
        self.spent + self.reserved
    }
}

/// What somebody was told of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Told {
    /// Which.
    pub account: Account,
    /// In which window.
    pub period: Period,
    /// The [mark](Line::marks) that is passed; `None`: that it is [used up](Balance::used_up).
    pub mark: Option<Usd>,
}

impl Told {
    /// This mark of this account is passed, or it is used up.
    #[must_use]
    pub const fn new(account: Account, period: Period, mark: Option<Usd>) -> Self {
        Self { account, period, mark }
    }
}

/// How an attempt ended, for its budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Charge {
    /// Nothing left this machine: the money returns, and it was no call.
    NotSent,
    /// This was spent, or may have been.
    Spent(Usd),
}

impl Charge {
    /// What was spent.
    ///
    /// ```
    /// use together_inference::{Usd, cost::Charge, usd};
    ///
    /// assert_eq!((Charge::NotSent.spent(), Charge::Spent(usd!("1")).spent()), (Usd::ZERO, usd!("1")));
    /// ```
    #[must_use]
    pub const fn spent(self) -> Usd {
        match self {
            Self::NotSent => Usd::ZERO,
            Self::Spent(usd) => usd,
        }
    }
}

/// The line that has no room for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Which of the [`Hold`]'s lines, from 0: the first one without room.
    pub line: usize,
    /// What is used of its account.
    pub balance: Balance,
}

impl Refusal {
    /// This line has this balance.
    #[must_use]
    pub const fn new(line: usize, balance: Balance) -> Self {
        Self { line, balance }
    }
}

/// Why money was not set aside, or could not be asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// A line has no room. What a store answers.
    #[error("line {} of what was to be set aside has no room: {:?} is used", .0.line, .0.balance)]
    Refused(Refusal),
    /// A budget has too little left. What [`Budgets`](super::Budgets) makes of it.
    #[error(transparent)]
    Over(Box<OverBudget>),
    /// The store failed.
    #[error("the budget store failed: {0}")]
    Store(#[source] BoxError),
}

/// Keeps the money of budgets: sets it aside before it is spent, and settles what was.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), together_inference::cost::BudgetError> {
/// use std::{sync::Arc, time::Duration};
/// use together_inference::{
///     cost::{Account, BudgetStore, Charge, Hold, Line, MemoryBudgets, Period},
///     types::AttemptId,
///     usd,
/// };
///
/// let (store, account) = (MemoryBudgets::new(), Account::new("total|global"));
/// let line = Line::new(account.clone(), Period::new(0), usd!("5"));
/// let hold = Arc::new(Hold::new(AttemptId::new(1), usd!("0.10"), vec![line], Duration::from_secs(60)));
/// store.reserve(&hold).await?;
/// store.settle(&hold, Charge::Spent(usd!("0.04"))).await?;
/// let balances = store.read(&[(account, Period::new(0))]).await?;
/// assert_eq!((balances[0].spent, balances[0].calls), (usd!("0.04"), 1));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait BudgetStore: Send + Sync + fmt::Debug {
    /// Sets the amount aside in every line, and counts a call in each, or does nothing at all. It is never cut to what is
    /// left. A soft line never refuses. What is not settled within `hold.expires` goes the way of each line's
    /// [`Expired`] until [`settle`](Self::settle) says what it really was. Setting aside again what is set aside changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Refused`] names the first line without room, and says [`used_up`](Balance::used_up) if the amount is
    /// within its limit and nobody was told so; [`BudgetError::Store`] when the store failed.
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError>;

    /// The same without waiting; `None`, as by default, if the store must wait.
    fn reserve_now(&self, hold: &Arc<Hold>) -> Option<Result<(), BudgetError>> {
        let _ = hold;
        None
    }

    /// Replaces what was set aside by what was spent, in the slots that it was set aside in, an expired one as well.
    /// Answers with the balance of every line, what was [`shown`](Balance::shown) before, and whether it is
    /// [`used_up`](Balance::used_up) now. Settling again, or what was never set aside, changes nothing and answers with
    /// none.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] when the store failed; it is called again.
    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError>;

    /// Settles at once, from `Drop`. A store that must wait answers `None`, as by default, and
    /// [`settle`](Self::settle) is called from a task.
    fn settle_now(&self, hold: &Arc<Hold>, charge: Charge) -> Option<Vec<Balance>> {
        let _ = (hold, charge);
        None
    }

    /// The attempts of these holds are still under way: each expires `hold.expires` from now, and not as it would have. One
    /// that was settled meanwhile, or has expired, stays as it is. A service calls it, well before the time is over, for what
    /// would [return](Expired::Return): a store that does nothing, which is the default, gives back the money of an attempt
    /// that takes longer than its hold, such as a stream that nobody reads on.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] when the store failed; it is called again.
    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        let _ = holds;
        Ok(())
    }

    /// Somebody was told what an answer to [`settle`](Self::settle) shows for the first time, or a refusal. A store whose
    /// answers can be lost on their way says it again, as [`untold`](Balance::untold) or [`used_up`](Balance::used_up), to
    /// whoever asks next and more than a moment later, until it is told of this. Any other has nothing to do, which is the
    /// default. Not called of what was answered at once.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] when the store failed; it is not called again.
    async fn told(&self, told: &[Told]) -> Result<(), BudgetError> {
        let _ = told;
        Ok(())
    }

    /// What is used of accounts, in their order; nothing of one that was never used.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Store`] when the store failed.
    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError>;

    /// The largest limit that the store can compare exactly.
    fn largest_limit(&self) -> Usd {
        Usd::from_nanos(i64::MAX)
    }

    /// Whether what is set aside outlives the process, so that another one can settle it: what is not open any more was
    /// settled. Unless a store says so, which by default it does not, what a batch has paid is set aside anew by whichever
    /// process reads it.
    fn keeps_holds(&self) -> bool {
        false
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: BudgetStore + ?Sized> BudgetStore for Arc<T> {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        (**self).reserve(hold).await
    }

    fn reserve_now(&self, hold: &Arc<Hold>) -> Option<Result<(), BudgetError>> {
        (**self).reserve_now(hold)
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        (**self).settle(hold, charge).await
    }

    fn settle_now(&self, hold: &Arc<Hold>, charge: Charge) -> Option<Vec<Balance>> {
        (**self).settle_now(hold, charge)
    }

    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        (**self).renew(holds).await
    }

    async fn told(&self, told: &[Told]) -> Result<(), BudgetError> {
        (**self).told(told).await
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        (**self).read(accounts).await
    }

    fn largest_limit(&self) -> Usd {
        (**self).largest_limit()
    }

    fn keeps_holds(&self) -> bool {
        (**self).keeps_holds()
    }
}

/// So many percent of an amount, rounded up.
pub(super) fn share(amount: Usd, percent: u8) -> Usd {
    let nanos = (i128::from(amount.nanos()) * i128::from(percent)).div_euclid(100);
    let rest = i128::from((i128::from(amount.nanos()) * i128::from(percent)).rem_euclid(100) > 0);
    Usd::from_nanos(i64::try_from(nanos + rest).unwrap_or(i64::MAX))
}

/// How long whoever has an answer with news has to say that it was told.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(super) const TELLING: Duration = Duration::from_secs(10);

/// What a server answers, as it counts.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(super) fn balance_of(spent: i64, reserved: i64, calls: i64) -> Balance {
    let calls = u64::try_from(calls).unwrap_or_default();
    Balance::new(Usd::from_nanos(spent), Usd::from_nanos(reserved), calls)
}

/// Rounded up, and not beyond what a server can count.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(super) fn whole_millis(time: Duration) -> i64 {
    let millis = time.min(FOREVER).as_nanos().div_ceil(1_000_000);
    i64::try_from(millis).unwrap_or(i64::MAX).max(1)
}
