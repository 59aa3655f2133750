//! What a [`BudgetStore`] promises.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;

use super::{Failure, Pace, Promise, begin_and_drop};
use crate::{
    cost::{Account, Balance, BudgetError, BudgetStore, Charge, Expired, Hold, Line, Period, Refusal, Told},
    types::{AttemptId, Usd},
};

/// The grain of time: long enough for a database on a busy machine.
const TICK: Duration = Duration::from_millis(250);
/// Which id of a check is the first one that is refused.
const REFUSED: u128 = 4_000;
/// A reservation that no check outlives unless it means to.
const LONG: Duration = Duration::from_secs(600);
/// How long the accounts of a check are of use.
const KEEP: Duration = Duration::from_secs(3_600);

const LIMIT: Usd = cents(500);
const SMALL: Usd = cents(100);
/// More than any account has.
const TOO_MUCH: Usd = cents(100_000);
const NANO: Usd = Usd::from_nanos(1);
/// The slot that most checks charge.
const NOW: Period = Period::new(1_800_000_000);

const FITS: &str = "what fits is set aside, and not a nano-dollar more";
const NOT_CUT: &str = "an amount is never cut to what is left";
const ALL_OR_NONE: &str = "money is set aside in every account or in none";
const SOFT: &str = "a soft line counts and never refuses";
const CALLS: &str = "as many calls are made as may be, and one that was not sent is none";
const APART: &str = "accounts of different names and windows are apart";
const ROLLING: &str = "a rolling window counts every slot within it";
const SETTLED: &str = "settling replaces what was set aside by what was spent, in the slot of the reservation";
const AGAIN: &str = "setting aside or settling again changes nothing";
const UNKNOWN: &str = "settling what was never set aside changes nothing";
const AT_ONCE: &str = "what is answered at once is done";
const SHOWN: &str = "each amount that is spent is passed once, whoever settles";
const USED_UP: &str = "a window is found used up once, by what is spent or by the first refusal, whoever asks";
const EXPIRES: &str = "what is not settled in time counts as spent until it is settled";
const RETURNS: &str = "what is not settled in time returns where its line says so";
const RENEWED: &str = "what is renewed in time neither returns nor counts as spent";
const FREE: &str = "what costs nothing is set aside, is settled and expires like any amount";
const GIVEN_UP: &str = "dropping a call harms none after it";
const CROWD: &str = "of a thousand callers at the same time as many get money as there is";

const fn cents(cents: i64) -> Usd {
    Usd::from_nanos(cents * 10_000_000)
}

/// Checks what [`BudgetStore`] promises, on a store that is empty yet.
///
/// `pace` lets time pass, about seven seconds of it in steps of a quarter of a second and more. Ids of attempts count from
/// one; more than a thousand are used, fifty of them at the same time.
///
/// ```
/// use together_inference::{
///     cost::MemoryBudgets,
///     testing::conformance::{self, Failure},
/// };
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Failure> {
/// conformance::budget_store(&MemoryBudgets::new(), &|time| Box::pin(tokio::time::advance(time))).await
/// # }
/// ```
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn budget_store(store: &dyn BudgetStore, pace: Pace<'_>) -> Result<(), Failure> {
    let on = |promise, block: u128| On { store, pace, promise: Promise(promise), block, refused: AtomicU32::new(0) };
    what_fits_is_set_aside(&on(FITS, 1)).await?;
    amounts_are_never_cut(&on(NOT_CUT, 2)).await?;
    all_accounts_or_none(&on(ALL_OR_NONE, 3)).await?;
    soft_lines_never_refuse(&on(SOFT, 4)).await?;
    calls_are_counted(&on(CALLS, 5)).await?;
    names_and_windows_are_apart(&on(APART, 6)).await?;
    rolling_windows_count_their_slots(&on(ROLLING, 7)).await?;
    settling_replaces(&on(SETTLED, 8)).await?;
    again_is_nothing(&on(AGAIN, 9)).await?;
    settling_the_unknown_is_nothing(&on(UNKNOWN, 10)).await?;
    done_at_once_is_done(&on(AT_ONCE, 11)).await?;
    amounts_are_shown_once(&on(SHOWN, 12)).await?;
    windows_are_used_up_once(&on(USED_UP, 13)).await?;
    expired_is_spent_until_settled(&on(EXPIRES, 14)).await?;
    expired_may_return(&on(RETURNS, 15)).await?;
    renewed_is_set_aside_longer(&on(RENEWED, 19)).await?;
    nothing_is_an_amount(&on(FREE, 16)).await?;
    giving_up_harms_none(&on(GIVEN_UP, 17)).await?;
    a_crowd_shares(&on(CROWD, 18)).await
}

/// A store under one check. The promise is also the account, so that no check sees another's.
struct On<'a> {
    store: &'a dyn BudgetStore,
    pace: Pace<'a>,
    promise: Promise,
    /// Which ids are the check's own.
    block: u128,
    /// What was refused so far, which had ids too.
    refused: AtomicU32,
}

impl On<'_> {
    /// The check's account.
    fn line(&self) -> Line {
        self.line_of("", LIMIT)
    }

    /// Another one of the check.
    fn line_of(&self, name: &str, limit: Usd) -> Line {
        Line::new(Account::new(format!("{} {name}", self.promise.0)), NOW, limit).keep(KEEP)
    }

    fn hold(&self, n: u128, amount: Usd, lines: Vec<Line>, expires: Duration) -> Arc<Hold> {
        Arc::new(Hold::new(AttemptId::new(self.block * 10_000 + n), amount, lines, expires))
    }

    async fn wait(&self, ticks: u32) {
        (self.pace)(TICK * ticks).await;
    }

    /// Sets money aside; `Some` says where there is too little.
    async fn ask(&self, hold: &Arc<Hold>) -> Result<Option<Refusal>, Failure> {
        match self.promise.answer("reserve", self.store.reserve(hold)).await? {
            Ok(()) => Ok(None),
            Err(BudgetError::Refused(refusal)) => Ok(Some(refusal)),
            Err(error) => Err(self.promise.broken(format!("reserve failed: {error}"))),
        }
    }

    /// Sets money aside in the check's account; that it fits is the promise.
    async fn reserve(&self, n: u128, amount: Usd) -> Result<Arc<Hold>, Failure> {
        self.reserve_in(n, amount, vec![self.line()]).await
    }

    async fn reserve_in(&self, n: u128, amount: Usd, lines: Vec<Line>) -> Result<Arc<Hold>, Failure> {
        let hold = self.hold(n, amount, lines, LONG);
        match self.ask(&hold).await? {
            None => Ok(hold),
            Some(refusal) => Err(self.promise.broken(format!("{amount} fits and is refused: {refusal:?}"))),
        }
    }

    /// That this much does not fit, and that the refusal says where and what is used there.
    async fn refused(&self, amount: Usd, lines: Vec<Line>, (line, used): (usize, Usd)) -> Result<(), Failure> {
        let n = REFUSED + u128::from(self.refused.fetch_add(1, Ordering::Relaxed));
        let Some(refusal) = self.ask(&self.hold(n, amount, lines, LONG)).await? else {
            return Err(self.promise.broken(format!("{amount} does not fit and was set aside")));
        };
        self.promise.same("refusal", (refusal.line, refusal.balance.used()), (line, used))
    }

    /// What is used of a line's account.
    async fn read(&self, line: &Line) -> Result<Balance, Failure> {
        let asked = [(line.account.clone(), line.period)];
        let balances = self.promise.done("read", self.store.read(&asked)).await?;
        self.promise.same("balances", balances.len(), 1)?;
        Ok(balances.first().copied().unwrap_or_default())
    }

    /// That this much of the check's account is spent, and this much set aside.
    async fn has(&self, spent: Usd, reserved: Usd) -> Result<(), Failure> {
        self.line_has(&self.line(), spent, reserved).await
    }

    async fn line_has(&self, line: &Line, spent: Usd, reserved: Usd) -> Result<(), Failure> {
        let balance = self.read(line).await?;
        self.promise.same("spent and set aside", (balance.spent, balance.reserved), (spent, reserved))
    }

    async fn settle(&self, hold: &Arc<Hold>, actual: Usd) -> Result<Vec<Balance>, Failure> {
        self.end(hold, Charge::Spent(actual)).await
    }

    async fn end(&self, hold: &Arc<Hold>, charge: Charge) -> Result<Vec<Balance>, Failure> {
        self.promise.done("settle", self.store.settle(hold, charge)).await
    }
}

async fn what_fits_is_set_aside(on: &On<'_>) -> Result<(), Failure> {
    on.has(Usd::ZERO, Usd::ZERO).await?;
    on.refused(LIMIT + NANO, vec![on.line()], (0, Usd::ZERO)).await?;
    on.reserve(1, LIMIT - NANO).await?;
    on.reserve(2, NANO).await?;
    on.refused(NANO, vec![on.line()], (0, LIMIT)).await?;
    on.reserve(3, Usd::ZERO).await?;
    on.reserve_in(4, TOO_MUCH, Vec::new()).await?;
    on.has(Usd::ZERO, LIMIT).await
}

async fn amounts_are_never_cut(on: &On<'_>) -> Result<(), Failure> {
    on.reserve(1, cents(300)).await?;
    on.refused(cents(300), vec![on.line()], (0, cents(300))).await?;
    on.has(Usd::ZERO, cents(300)).await?;
    on.reserve(2, cents(200)).await?;
    on.has(Usd::ZERO, LIMIT).await
}

async fn all_accounts_or_none(on: &On<'_>) -> Result<(), Failure> {
    let narrow = on.line_of("narrow", SMALL);
    let (down, up) = (vec![on.line(), narrow.clone()], vec![narrow.clone(), on.line()]);
    for (lines, at) in [(&down, 1), (&up, 0)] {
        on.refused(cents(200), lines.clone(), (at, Usd::ZERO)).await?;
        on.has(Usd::ZERO, Usd::ZERO).await?;
    }
    let hold = on.reserve_in(1, cents(60), down).await?;
    on.has(Usd::ZERO, cents(60)).await?;
    on.refused(cents(60), up, (0, cents(60))).await?;
    on.has(Usd::ZERO, cents(60)).await?;
    on.settle(&hold, cents(10)).await?;
    on.has(cents(10), Usd::ZERO).await?;
    on.line_has(&narrow, cents(10), Usd::ZERO).await
}

async fn soft_lines_never_refuse(on: &On<'_>) -> Result<(), Failure> {
    let soft = on.line_of("soft", SMALL).soft().max_calls(1);
    let hold = on.reserve_in(1, cents(400), vec![soft.clone(), on.line()]).await?;
    on.line_has(&soft, Usd::ZERO, cents(400)).await?;
    on.refused(cents(200), vec![soft.clone(), on.line()], (1, cents(400))).await?;
    on.line_has(&soft, Usd::ZERO, cents(400)).await?;
    on.settle(&hold, cents(300)).await?;
    on.reserve_in(2, cents(200), vec![soft.clone(), on.line()]).await?;
    on.line_has(&soft, cents(300), cents(200)).await
}

async fn calls_are_counted(on: &On<'_>) -> Result<(), Failure> {
    let line = || vec![on.line().max_calls(2)];
    let first = on.reserve_in(1, NANO, line()).await?;
    let second = on.reserve_in(2, NANO, line()).await?;
    on.refused(NANO, line(), (0, NANO + NANO)).await?;
    // It was sent, though it cost nothing.
    on.settle(&first, Usd::ZERO).await?;
    on.refused(NANO, line(), (0, NANO)).await?;
    on.end(&second, Charge::NotSent).await?;
    on.promise.same("calls", on.read(&on.line()).await?.calls, 1)?;
    on.reserve_in(3, NANO, line()).await?;
    on.refused(NANO, line(), (0, NANO)).await
}

async fn names_and_windows_are_apart(on: &On<'_>) -> Result<(), Failure> {
    let tomorrow = |line: Line| Line { period: Period::new(NOW.slot + 86_400), ..line };
    let lines = [on.line(), on.line_of("a", LIMIT), on.line_of("A", LIMIT), on.line_of("a b:c|d{e}", LIMIT)];
    for (n, line) in (1..).zip(lines.iter().cloned().chain(lines.iter().cloned().map(tomorrow))) {
        on.line_has(&line, Usd::ZERO, Usd::ZERO).await?;
        on.reserve_in(n, LIMIT, vec![line.clone()]).await?;
        on.refused(NANO, vec![line], (0, LIMIT)).await?;
    }
    on.has(Usd::ZERO, LIMIT).await
}

async fn rolling_windows_count_their_slots(on: &On<'_>) -> Result<(), Failure> {
    let line = |slot| Line { period: Period::rolling(NOW.slot + slot, NOW.slot + slot - 60), ..on.line() };
    let hold = on.reserve_in(1, cents(200), vec![line(0)]).await?;
    on.settle(&hold, cents(150)).await?;
    on.reserve_in(2, cents(300), vec![line(30)]).await?;
    for slot in [30, 59, 60] {
        on.refused(cents(100), vec![line(slot)], (0, cents(450))).await?;
    }
    on.line_has(&line(61), Usd::ZERO, cents(300)).await?;
    // A clock was set back: what was spent later counts too.
    on.refused(cents(100), vec![line(10)], (0, cents(450))).await?;
    on.reserve_in(3, cents(100), vec![line(61)]).await?;
    on.line_has(&line(61), Usd::ZERO, cents(400)).await
}

async fn settling_replaces(on: &On<'_>) -> Result<(), Failure> {
    let first = on.reserve(1, cents(400)).await?;
    on.settle(&first, cents(25)).await?;
    on.has(cents(25), Usd::ZERO).await?;
    let second = on.reserve(2, cents(100)).await?;
    on.settle(&second, Usd::ZERO).await?;
    on.has(cents(25), Usd::ZERO).await?;
    // It cost more than was thought: that is spent all the same, also beyond the limit.
    let third = on.reserve(3, cents(100)).await?;
    on.settle(&third, cents(600)).await?;
    on.has(cents(625), Usd::ZERO).await?;
    on.refused(NANO, vec![on.line()], (0, cents(625))).await?;
    // The window has changed meanwhile.
    let tomorrow = Line { period: Period::new(NOW.slot + 86_400), ..on.line_of("rolls over", LIMIT) };
    let today = on.line_of("rolls over", LIMIT);
    let late = on.reserve_in(4, cents(400), vec![today.clone()]).await?;
    on.reserve_in(5, cents(200), vec![tomorrow.clone()]).await?;
    on.settle(&late, cents(300)).await?;
    on.line_has(&today, cents(300), Usd::ZERO).await?;
    on.line_has(&tomorrow, Usd::ZERO, cents(200)).await?;
    // Whoever settles may know of the new window alone.
    on.reserve_in(6, cents(100), vec![today.clone()]).await?;
    on.settle(&on.hold(6, cents(100), vec![tomorrow.clone()], LONG), cents(50)).await?;
    on.line_has(&today, cents(350), Usd::ZERO).await?;
    on.line_has(&tomorrow, Usd::ZERO, cents(200)).await
}

async fn again_is_nothing(on: &On<'_>) -> Result<(), Failure> {
    let first = on.reserve(1, cents(200)).await?;
    on.reserve(2, cents(200)).await?;
    // A reply was lost on its way, and the question is asked again.
    on.reserve(1, cents(200)).await?;
    on.has(Usd::ZERO, cents(400)).await?;
    for actual in [50, 50, 70] {
        on.settle(&first, cents(actual)).await?;
        on.has(cents(50), cents(200)).await?;
    }
    // Any answer will do; it must not count.
    let _ = on.store.settle_now(&first, Charge::Spent(cents(90)));
    on.end(&first, Charge::NotSent).await?;
    on.has(cents(50), cents(200)).await?;
    on.promise.same("calls", on.read(&on.line()).await?.calls, 2)
}

async fn settling_the_unknown_is_nothing(on: &On<'_>) -> Result<(), Failure> {
    on.reserve(1, cents(100)).await?;
    let never = |n| on.hold(n, cents(30), vec![on.line()], LONG);
    on.settle(&never(2), cents(30)).await?;
    let _ = on.store.settle_now(&never(3), Charge::Spent(cents(30)));
    // Nor one that was refused.
    on.refused(cents(450), vec![on.line()], (0, cents(100))).await?;
    on.settle(&never(REFUSED), cents(30)).await?;
    on.has(Usd::ZERO, cents(100)).await?;
    on.reserve(4, cents(400)).await?;
    Ok(())
}

async fn done_at_once_is_done(on: &On<'_>) -> Result<(), Failure> {
    let hold = on.hold(1, cents(100), vec![on.line()], LONG);
    match on.store.reserve_now(&hold) {
        Some(answer) => on.promise.ok("reserve_now", answer)?,
        None => drop(on.ask(&hold).await?),
    }
    on.has(Usd::ZERO, cents(100)).await?;
    match on.store.reserve_now(&on.hold(2, LIMIT, vec![on.line()], LONG)) {
        Some(Err(BudgetError::Refused(refusal))) => {
            on.promise.same("refusal", refusal.balance.used(), cents(100))?;
        }
        Some(answer) => return Err(on.promise.broken(format!("{LIMIT} does not fit, and the answer is {answer:?}"))),
        None => {}
    }
    if on.store.settle_now(&hold, Charge::Spent(cents(40))).is_some() {
        on.has(cents(40), Usd::ZERO).await?;
    }
    // What follows an answer of none, and must not count twice after one.
    on.settle(&hold, cents(40)).await?;
    on.has(cents(40), Usd::ZERO).await
}

async fn amounts_are_shown_once(on: &On<'_>) -> Result<(), Failure> {
    let (one, other) = (on.reserve(1, cents(100)).await?, on.reserve(2, cents(100)).await?);
    let mut shown = Vec::new();
    for (hold, actual) in [(&one, 60), (&one, 60), (&other, 30)] {
        let balances = on.settle(hold, cents(actual)).await?;
        shown.push(balances.first().map(|balance| (balance.shown, balance.spent)));
    }
    let wanted = [Some((Usd::ZERO, cents(60))), None, Some((cents(60), cents(90)))];
    on.promise.same("what was shown and is spent", shown, wanted.to_vec())?;
    // Who was answered has time to tell; who told says so, whether or not the store knows of it.
    let line = on.line_of("marked", LIMIT).alerts([10, 20, 100]);
    let marks = line.marks().map(Some).chain([None]);
    let told: Vec<_> = marks.map(|mark| Told::new(line.account.clone(), NOW, mark)).collect();
    for (n, actual) in [(3, 60), (4, 60), (5, 10)] {
        let hold = on.reserve_in(n, cents(actual), vec![line.clone()]).await?;
        let balances = on.settle(&hold, cents(actual)).await?;
        on.promise.same("told again", balances.first().map(|balance| balance.untold), Some(None))?;
        on.promise.done("told", on.store.told(&told)).await?;
    }
    on.line_has(&line, cents(130), Usd::ZERO).await
}

/// Attempts in an account, one after another: what each sets aside, and spends where it has room. Answers with whether each
/// was told that the account is used up.
async fn told(on: &On<'_>, first: u128, line: &Line, amounts: &[(Usd, Usd)]) -> Result<Vec<bool>, Failure> {
    let mut told = Vec::new();
    for (n, (amount, spent)) in (first..).zip(amounts) {
        let hold = on.hold(n, *amount, vec![line.clone()], LONG);
        told.push(match on.ask(&hold).await? {
            Some(refusal) => refusal.balance.used_up,
            None => on.settle(&hold, *spent).await?.iter().any(|balance| balance.used_up),
        });
    }
    Ok(told)
}

async fn windows_are_used_up_once(on: &On<'_>) -> Result<(), Failure> {
    let (some, rest) = ((cents(200), cents(200)), (cents(300), cents(300)));
    // What no empty account has room for says nothing about this one; the first that it had room for does.
    let refused = [(cents(600), NANO), some, (cents(400), NANO), (cents(400), NANO), rest, some];
    on.promise.same(
        "told of",
        told(on, 1, &on.line(), &refused).await?,
        vec![false, false, true, false, false, false],
    )?;
    let spent = [some, (LIMIT, NANO), rest];
    let soft = on.line_of("soft", LIMIT).soft();
    on.promise.same("told of a soft line", told(on, 10, &soft, &spent).await?, vec![false, false, true])?;
    let hard = on.line_of("hard", LIMIT);
    on.promise.same("told of what is spent", told(on, 20, &hard, &[(LIMIT, LIMIT), some]).await?, vec![true, false])?;
    // Another window, and one that may make no call at all.
    let tomorrow = Line { period: Period::new(NOW.slot + 86_400), ..on.line() };
    on.promise.same(
        "told of a new window",
        told(on, 30, &tomorrow, &[(LIMIT, LIMIT), some]).await?,
        vec![true, false],
    )?;
    let none = on.line_of("none", LIMIT).max_calls(0);
    on.promise.same("told of no calls", told(on, 40, &none, &[some, some]).await?, vec![true, false])?;
    let rolling =
        |slot| Line { period: Period::rolling(NOW.slot + slot, NOW.slot + slot - 60), ..on.line_of("r", LIMIT) };
    for (n, slot, news) in [(50, 0, true), (60, 60, false), (70, 121, true)] {
        let all = told(on, n, &rolling(slot), &[(LIMIT, LIMIT), some]).await?;
        on.promise.same("told of a rolling window", all.contains(&true), news)?;
    }
    on.promise.same("told by reading", on.read(&on.line()).await?.used_up, false)
}

async fn expired_is_spent_until_settled(on: &On<'_>) -> Result<(), Failure> {
    let mut holds = Vec::new();
    for (n, amount, expires) in [(1, cents(300), TICK * 2), (2, cents(100), LONG), (3, cents(100), TICK * 2)] {
        let hold = on.hold(n, amount, vec![on.line()], expires);
        if on.ask(&hold).await?.is_some() {
            return Err(on.promise.broken("what fits is refused"));
        }
        holds.push(hold);
    }
    let [first, _, third] = holds.as_slice() else { return Ok(()) };
    on.has(Usd::ZERO, LIMIT).await?;
    on.wait(1).await;
    on.has(Usd::ZERO, LIMIT).await?;
    // What was settled in time stays spent.
    on.settle(third, cents(50)).await?;
    on.wait(2).await;
    on.refused(cents(100), vec![on.line()], (0, cents(450))).await?;
    on.has(cents(350), cents(100)).await?;
    // The late word counts, once.
    for actual in [20, 90] {
        on.settle(first, cents(actual)).await?;
        on.has(cents(70), cents(100)).await?;
    }
    on.reserve(4, cents(330)).await?;
    Ok(())
}

async fn expired_may_return(on: &On<'_>) -> Result<(), Failure> {
    let (returns, stays) = (on.line().expired(Expired::Return).max_calls(2), on.line_of("stays", LIMIT));
    let lost = on.hold(1, LIMIT, vec![returns.clone(), stays.clone()], TICK * 2);
    if on.ask(&lost).await?.is_some() {
        return Err(on.promise.broken("what fits is refused"));
    }
    on.refused(NANO, vec![returns.clone()], (0, LIMIT)).await?;
    on.wait(3).await;
    on.reserve_in(2, cents(100), vec![returns.clone()]).await?;
    on.promise.same("calls", on.read(&returns).await?.calls, 1)?;
    on.line_has(&stays, LIMIT, Usd::ZERO).await?;
    // It was not dead after all.
    on.settle(&lost, cents(200)).await?;
    on.line_has(&returns, cents(200), cents(100)).await?;
    on.line_has(&stays, cents(200), Usd::ZERO).await?;
    on.promise.same("calls", on.read(&returns).await?.calls, 2)
}

async fn renewed_is_set_aside_longer(on: &On<'_>) -> Result<(), Failure> {
    let (returns, stays) = (on.line().expired(Expired::Return), on.line_of("stays", LIMIT));
    let mut holds = Vec::new();
    for (n, amount) in [(1, cents(300)), (2, cents(100)), (3, cents(100))] {
        let hold = on.hold(n, amount, vec![returns.clone(), stays.clone()], TICK * 6);
        if on.ask(&hold).await?.is_some() {
            return Err(on.promise.broken("what fits is refused"));
        }
        holds.push(hold);
    }
    let [kept, lost, ended] = holds.as_slice() else { return Ok(()) };
    on.settle(ended, cents(50)).await?;
    on.wait(3).await;
    // What was settled is not set aside again, nor what never was.
    let unknown = on.hold(4, cents(100), vec![returns.clone()], LONG);
    let renewed = [Arc::clone(kept), Arc::clone(ended), unknown];
    on.promise.done("renew", on.store.renew(&renewed)).await?;
    on.line_has(&returns, cents(50), cents(400)).await?;
    on.wait(4).await;
    on.line_has(&returns, cents(50), cents(300)).await?;
    on.line_has(&stays, cents(150), cents(300)).await?;
    on.refused(cents(200), vec![returns.clone()], (0, cents(350))).await?;
    // Too late.
    on.promise.done("renew", on.store.renew(std::slice::from_ref(lost))).await?;
    on.line_has(&returns, cents(50), cents(300)).await?;
    on.wait(4).await;
    on.line_has(&returns, cents(50), Usd::ZERO).await?;
    on.settle(kept, cents(20)).await?;
    on.line_has(&returns, cents(70), Usd::ZERO).await?;
    on.line_has(&stays, cents(170), Usd::ZERO).await
}

async fn nothing_is_an_amount(on: &On<'_>) -> Result<(), Failure> {
    let returns = on.line_of("returns", LIMIT).expired(Expired::Return);
    let lines = || vec![on.line(), returns.clone()];
    let free = on.reserve_in(1, Usd::ZERO, lines()).await?;
    on.settle(&free, Usd::ZERO).await?;
    let unsent = on.reserve_in(2, Usd::ZERO, lines()).await?;
    on.end(&unsent, Charge::NotSent).await?;
    on.promise.same("calls", on.read(&on.line()).await?.calls, 1)?;
    // It was not free after all.
    let dear = on.reserve_in(3, Usd::ZERO, lines()).await?;
    on.settle(&dear, cents(10)).await?;
    on.has(cents(10), Usd::ZERO).await?;
    let lost = on.hold(4, Usd::ZERO, lines(), TICK * 2);
    if on.ask(&lost).await?.is_some() {
        return Err(on.promise.broken("what costs nothing is refused"));
    }
    on.wait(3).await;
    on.reserve(5, cents(100)).await?;
    on.has(cents(10), cents(100)).await?;
    on.promise.same("calls where it returned", on.read(&returns).await?.calls, 2)?;
    on.settle(&lost, cents(5)).await?;
    on.has(cents(15), cents(100)).await?;
    on.line_has(&returns, cents(15), Usd::ZERO).await?;
    on.promise.same("calls", on.read(&returns).await?.calls, 3)
}

async fn giving_up_harms_none(on: &On<'_>) -> Result<(), Failure> {
    let given_up: Vec<_> = (1..4).map(|n| on.hold(n, cents(100), vec![on.line()], TICK)).collect();
    for hold in &given_up {
        begin_and_drop(on.store.reserve(hold));
    }
    on.wait(2).await;
    // Whoever gives up says so, and may say so late.
    for hold in &given_up {
        on.end(hold, Charge::NotSent).await?;
    }
    let all = on.reserve(4, LIMIT).await?;
    begin_and_drop(on.store.settle(&all, Charge::Spent(cents(100))));
    on.settle(&all, cents(100)).await?;
    on.has(cents(100), Usd::ZERO).await
}

async fn a_crowd_shares(on: &On<'_>) -> Result<(), Failure> {
    let lines = || vec![on.line(), on.line_of("wide", TOO_MUCH)];
    let holds: Vec<_> = (0..1_000).map(|n| on.hold(n, cents(10), lines(), LONG)).collect();
    let answers = join_all(holds.iter().map(|hold| on.ask(hold))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let admitted: Vec<_> = holds.iter().zip(&answers).filter(|(_, refusal)| refusal.is_none()).collect();
    on.promise.same("of a thousand who ask for $0.10 of $5, admitted", admitted.len(), 50)?;
    on.has(Usd::ZERO, LIMIT).await?;
    let settled = join_all(admitted.iter().map(|(hold, _)| on.settle(hold, cents(4)))).await;
    settled.into_iter().collect::<Result<Vec<_>, _>>()?;
    on.has(cents(200), Usd::ZERO).await
}

#[cfg(test)]
mod tests;
