//! Budgets in this process.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Account, Balance, BudgetError, BudgetStore, Charge, Expired, Hold, Line, Period, Refusal};
use crate::types::{AttemptId, Usd, later};

/// The most reservations at a time, expired ones that may still be settled included.
const MAX_HELD: usize = 100_000;
/// The most accounts at a time.
const MAX_ACCOUNTS: usize = 250_000;
/// How often all accounts are gone through where there are too many.
const SWEEP: Duration = Duration::from_secs(1);
/// Sheet of an account that no longer count and are still there for a clock that is set back.
const OLD_SLOTS: usize = 4;

/// The money of budgets in this process, gone with it.
///
/// One lock for all of it: an attempt takes it twice, for some ten nanoseconds an account. There are 100,000 reservations
/// at a time at most, and 250,000 accounts: those that nobody used for as long as they must be kept are forgotten; what
/// then finds no room is refused. Where there are 100,000 reservations, the expired ones stay as they are for good.
///
/// ```
/// use together_inference::{InferenceService, cost::{Budget, MemoryBudgets}, testing::Together, usd};
///
/// // What a service keeps its budgets in unless told otherwise.
/// let service = InferenceService::builder(Together::new().client())
///     .budget(Budget::daily(usd!("25.00")))
///     .budget_store(MemoryBudgets::new())
///     .build()?;
/// # Ok::<(), together_inference::service::BuildError>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryBudgets(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    accounts: Accounts,
    held: HashMap<AttemptId, Held, Hashed>,
    /// Before which nothing that is held expires.
    quiet_until: Option<Instant>,
    /// Before which accounts are not gone through again.
    swept_until: Option<Instant>,
}

/// Accounts by their places, which they remember themselves: a name is looked up once.
#[derive(Debug, Default)]
struct Accounts {
    all: Vec<Sheet>,
    places: HashMap<Account, usize, Hashed>,
}

/// The money of an account.
#[derive(Debug)]
struct Sheet {
    account: Account,
    slots: Vec<Slot>,
    /// Reservations that are not settled yet.
    open: usize,
    used: Instant,
    keep: Option<Duration>,
}

#[derive(Debug, Default)]
struct Slot {
    at: i64,
    spent: Usd,
    reserved: Usd,
    calls: u64,
    shown: Usd,
    used_up: bool,
}

#[derive(Debug)]
struct Held {
    hold: Arc<Hold>,
    until: Instant,
    expired: bool,
}

impl MemoryBudgets {
    /// Nothing spent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn place(&self, account: &Account) -> Option<usize> {
        let place = account.place();
        if self.all.get(place).is_some_and(|it| it.account == *account) {
            return Some(place);
        }
        let place = *self.places.get(account)?;
        account.is_at(place);
        Some(place)
    }

    fn get(&self, account: &Account) -> Option<&Sheet> {
        self.all.get(self.place(account)?)
    }

    fn get_mut(&mut self, account: &Account) -> Option<&mut Sheet> {
        let place = self.place(account)?;
        self.all.get_mut(place)
    }

    /// The account of a line, opened if it is new.
    fn open(&mut self, line: &Line, now: Instant) -> &mut Sheet {
        let place = self.place(&line.account).unwrap_or_else(|| {
            self.all.push(Sheet::new(line, now));
            line.account.is_at(self.all.len() - 1);
            self.places.insert(line.account.clone(), self.all.len() - 1);
            self.all.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or added a line above")]
        &mut self.all[place]
    }

    /// Forgets what is of no more use.
    fn sweep(&mut self, now: Instant) {
        self.all.retain(|account| account.is_of_use(now));
        self.places = self.all.iter().enumerate().map(|(place, it)| (it.account.clone(), place)).collect();
    }
}

impl Books {
    fn reserve(&mut self, hold: &Arc<Hold>, now: Instant) -> Result<(), BudgetError> {
        self.expire(now);
        self.make_room(hold, now)?;
        let Entry::Vacant(place) = self.held.entry(hold.id) else { return Ok(()) };
        for (line, asked) in hold.lines.iter().enumerate() {
            let mut balance =
                self.accounts.get(&asked.account).map_or_else(Balance::default, |it| it.read(asked.period));
            if !asked.has_room(&balance, hold.amount) {
                balance.used_up =
                    hold.amount <= asked.limit && self.accounts.open(asked, now).is_used_up_first(asked.period);
                return Err(BudgetError::Refused(Refusal::new(line, balance)));
            }
        }
        for line in &hold.lines {
            let account = self.accounts.open(line, now);
            account.used = now;
            account.open += 1;
            let slot = account.slot_of(line.period);
            slot.reserved += hold.amount;
            slot.calls += 1;
        }
        let until = later(now, hold.expires);
        self.quiet_until = Some(self.quiet_until.map_or(until, |quiet| quiet.min(until)));
        place.insert(Held { hold: Arc::clone(hold), until, expired: false });
        Ok(())
    }

    /// Keeps what is remembered bounded.
    fn make_room(&mut self, hold: &Hold, now: Instant) -> Result<(), BudgetError> {
        if self.held.len() >= MAX_HELD {
            self.forget_expired();
            if self.held.len() >= MAX_HELD {
                return Err(BudgetError::Store(format!("more than {MAX_HELD} reservations at a time").into()));
            }
        }
        let is_full = |books: &Self| {
            books.accounts.all.len() + hold.lines.len() > MAX_ACCOUNTS
                && hold.lines.iter().any(|line| books.accounts.place(&line.account).is_none())
        };
        if is_full(self) && self.swept_until.is_none_or(|until| until <= now) {
            self.accounts.sweep(now);
            self.swept_until = Some(later(now, SWEEP));
        }
        if is_full(self) {
            return Err(BudgetError::Store(format!("more than {MAX_ACCOUNTS} accounts").into()));
        }
        Ok(())
    }

    /// What expired stays as it is.
    fn forget_expired(&mut self) {
        for held in self.held.extract_if(|_, held| held.expired).map(|(_, held)| held) {
            for line in &held.hold.lines {
                if let Some(account) = self.accounts.get_mut(&line.account) {
                    account.open -= 1;
                }
            }
        }
    }

    fn settle(&mut self, id: AttemptId, charge: Charge) -> Vec<Balance> {
        let Some(Held { hold, expired, .. }) = self.held.remove(&id) else { return Vec::new() };
        let settle = |line: &Line| {
            let Some(account) = self.accounts.get_mut(&line.account) else { return Balance::default() };
            account.open -= 1;
            // One that is forgotten counts nowhere any more.
            let Some(slot) = account.slots.iter_mut().rfind(|slot| slot.at == line.period.slot) else {
                return account.read(line.period);
            };
            match (expired, line.expired) {
                (false, _) => slot.reserved = slot.reserved - hold.amount,
                (true, Expired::Spent) => slot.spent = slot.spent - hold.amount,
                (true, Expired::Return) => slot.calls += 1,
            }
            slot.spent += charge.spent();
            slot.calls = slot.calls.saturating_sub(u64::from(charge == Charge::NotSent));
            account.show(line)
        };
        hold.lines.iter().map(settle).collect()
    }

    fn renew(&mut self, holds: &[Arc<Hold>], now: Instant) {
        self.expire(now);
        for hold in holds {
            if let Some(held) = self.held.get_mut(&hold.id).filter(|held| !held.expired) {
                held.until = later(now, hold.expires);
            }
        }
    }

    /// Lets go what nobody settled in time. Asked for whenever money is, and done when there is something.
    fn expire(&mut self, now: Instant) {
        if self.quiet_until.is_none_or(|quiet| now < quiet) {
            return;
        }
        for held in self.held.values_mut().filter(|held| !held.expired && held.until <= now) {
            held.expired = true;
            for line in &held.hold.lines {
                let Some(account) = self.accounts.get_mut(&line.account) else { continue };
                // One that is forgotten, since nothing was set aside in it, counts nowhere any more.
                let Some(slot) = account.slots.iter_mut().rfind(|slot| slot.at == line.period.slot) else { continue };
                slot.reserved = slot.reserved - held.hold.amount;
                match line.expired {
                    Expired::Spent => slot.spent += held.hold.amount,
                    Expired::Return => slot.calls = slot.calls.saturating_sub(1),
                }
            }
        }
        self.quiet_until = self.held.values().filter(|held| !held.expired).map(|held| held.until).min();
    }
}

impl Sheet {
    fn new(line: &Line, now: Instant) -> Self {
        Self { account: line.account.clone(), slots: Vec::with_capacity(1), open: 0, used: now, keep: line.keep }
    }

    /// What counts in a period.
    fn read(&self, period: Period) -> Balance {
        let counted = self.slots.iter().filter(|slot| period.counts(slot.at));
        counted.fold(Balance::default(), |sum, slot| Balance {
            spent: sum.spent + slot.spent,
            reserved: sum.reserved + slot.reserved,
            calls: sum.calls + slot.calls,
            ..sum
        })
    }

    /// The same for whoever settles: each sees what was shown before.
    fn show(&mut self, line: &Line) -> Balance {
        let period = line.period;
        let counted = self.slots.iter().filter(|slot| period.counts(slot.at));
        let shown = counted.map(|slot| slot.shown).max().unwrap_or_default();
        let mut balance = Balance { shown, ..self.read(period) };
        if balance.spent > shown {
            self.slot_of(period).shown = balance.spent;
        }
        balance.used_up = line.is_used_up_by(&balance) && self.is_used_up_first(period);
        balance
    }

    /// Notes that it is used up; whether nobody has in this period.
    fn is_used_up_first(&mut self, period: Period) -> bool {
        let is_first = !self.slots.iter().any(|slot| slot.used_up && period.counts(slot.at));
        if is_first {
            self.slot_of(period).used_up = true;
        }
        is_first
    }

    /// The slot that a charge goes to.
    fn slot_of(&mut self, period: Period) -> &mut Slot {
        let at = self.slots.iter().rposition(|slot| slot.at == period.slot).unwrap_or_else(|| self.add(period));
        // Neither can be missing: it was found, or added.
        #[expect(clippy::indexing_slicing, reason = "found or added a line above")]
        &mut self.slots[at]
    }

    /// A new slot, at the end; the oldest of those that no longer count are forgotten.
    fn add(&mut self, period: Period) -> usize {
        let gone = |slot: &Slot| !period.counts(slot.at) && slot.reserved.is_zero();
        let surplus = self.slots.iter().filter(|slot| gone(slot)).count().saturating_sub(OLD_SLOTS);
        if surplus > 0 {
            let mut old: Vec<i64> = self.slots.iter().filter(|slot| gone(slot)).map(|slot| slot.at).collect();
            old.sort_unstable();
            let last = old.get(surplus - 1).copied().unwrap_or(i64::MIN);
            self.slots.retain(|slot| !gone(slot) || slot.at > last);
        }
        self.slots.push(Slot { at: period.slot, ..Slot::default() });
        self.slots.len() - 1
    }

    fn is_of_use(&self, now: Instant) -> bool {
        let in_use = |keep| now.saturating_duration_since(self.used) < keep;
        self.open > 0 || self.keep.is_none_or(in_use)
    }
}

#[async_trait]
impl BudgetStore for MemoryBudgets {
    async fn reserve(&self, hold: &Arc<Hold>) -> Result<(), BudgetError> {
        self.lock().reserve(hold, hold.made())
    }

    fn reserve_now(&self, hold: &Arc<Hold>) -> Option<Result<(), BudgetError>> {
        Some(self.lock().reserve(hold, hold.made()))
    }

    async fn settle(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, BudgetError> {
        Ok(self.lock().settle(hold.id, charge))
    }

    fn settle_now(&self, hold: &Arc<Hold>, charge: Charge) -> Option<Vec<Balance>> {
        Some(self.lock().settle(hold.id, charge))
    }

    async fn renew(&self, holds: &[Arc<Hold>]) -> Result<(), BudgetError> {
        self.lock().renew(holds, Instant::now());
        Ok(())
    }

    async fn read(&self, accounts: &[(Account, Period)]) -> Result<Vec<Balance>, BudgetError> {
        let mut books = self.lock();
        books.expire(Instant::now());
        let read = |(account, period): &(Account, Period)| {
            books.accounts.get(account).map_or_else(Balance::default, |account| account.read(*period))
        };
        Ok(accounts.iter().map(read).collect())
    }
}

/// Takes a hash that was made already, or makes one of an id, which is random as it is.
#[derive(Default)]
struct Folded(u64);

type Hashed = BuildHasherDefault<Folded>;

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64 ^ (value >> 64) as u64);
    }
}

#[cfg(test)]
mod tests;
