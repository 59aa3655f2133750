//! What a [`BudgetStore`] promises.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Failure, Pace, Promise, begin_and_drop};
use crate::{
    cost::{BudgetError, BudgetStore, OverBudget, Scope},
    types::{AttemptId, RouteId, Usd},
};

/// The grain of time: long enough for a database on a busy machine.
const TICK: Duration = Duration::from_millis(250);
/// A reservation that no check outlives unless it means to.
const LONG: Duration = Duration::from_secs(600);

const LIMIT: Usd = cents(500);
const SMALL: Usd = cents(100);
/// More than any scope has.
const TOO_MUCH: Usd = cents(100_000);

const FITS: &str = "what fits is set aside, and not a nano-dollar more";
const NOT_CUT: &str = "an amount is never cut to what is left";
const ALL_OR_NONE: &str = "money is set aside in every scope or in none";
const UNLIMITED: &str = "a scope without a limit limits nothing";
const KINDS: &str = "scopes of every kind are apart";
const SETTLED: &str = "settling replaces what was set aside by what was spent";
const AGAIN: &str = "settling again changes nothing";
const UNKNOWN: &str = "settling what was never set aside changes nothing";
const AT_ONCE: &str = "settle_now that answers true has settled";
const EXPIRES: &str = "what is not settled in time counts as spent until it is settled";
const GIVEN_UP: &str = "dropping a call harms none after it";
const CROWD: &str = "of a thousand callers at the same time as many get money as there is";

const fn cents(cents: i64) -> Usd {
    Usd::from_nanos(cents * 10_000_000)
}

/// The scopes that [`budget_store`] uses, each with the limit that the store must have for it: $5, or $1 for a few. All
/// other scopes must be without a limit.
#[must_use]
pub fn budget_limits() -> Vec<(Scope, Usd)> {
    let whole = [FITS, NOT_CUT, ALL_OR_NONE, UNLIMITED, SETTLED, AGAIN, UNKNOWN, AT_ONCE, EXPIRES, GIVEN_UP, CROWD];
    let mut limits: Vec<_> = whole.map(|check| (Scope::tenant(check), LIMIT)).into();
    limits.push((Scope::tenant(small(ALL_OR_NONE)), SMALL));
    limits.extend(kinds().map(|scope| (scope, SMALL)));
    limits
}

fn small(check: &str) -> String {
    format!("{check}, small")
}

fn kinds() -> [Scope; 6] {
    [
        Scope::tenant(KINDS),
        Scope::Session(KINDS.into()),
        Scope::Tag("tenant".into(), KINDS.into()),
        Scope::Tag(KINDS.into(), "tenant".into()),
        Scope::Model(RouteId::new("together", KINDS)),
        Scope::Model(RouteId::new("local", KINDS)),
    ]
}

/// Checks what [`BudgetStore`] promises, on a store with the limits of [`budget_limits`] of which nothing is used yet.
///
/// `pace` lets time pass, about two seconds of it in steps of a quarter of a second and more. Ids of attempts count
/// from one; more than a thousand are used, fifty of them at the same time.
///
/// ```
/// use together_inference::{
///     cost::MemoryBudgets,
///     testing::conformance::{self, Failure},
/// };
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Failure> {
/// let budgets = conformance::budget_limits()
///     .into_iter()
///     .fold(MemoryBudgets::new(), |budgets, (scope, limit)| budgets.limit(scope, limit));
/// conformance::budget_store(&budgets, &|time| Box::pin(tokio::time::advance(time))).await
/// # }
/// ```
///
/// # Errors
///
/// The first promise that is not kept.
pub async fn budget_store(store: &dyn BudgetStore, pace: Pace<'_>) -> Result<(), Failure> {
    let on = |promise, block: u128| On { store, pace, promise: Promise(promise), block };
    what_fits_is_set_aside(&on(FITS, 1)).await?;
    amounts_are_never_cut(&on(NOT_CUT, 2)).await?;
    all_scopes_or_none(&on(ALL_OR_NONE, 3)).await?;
    no_limit_no_bound(&on(UNLIMITED, 4)).await?;
    kinds_are_apart(&on(KINDS, 5)).await?;
    settling_replaces(&on(SETTLED, 6)).await?;
    settling_again_is_nothing(&on(AGAIN, 7)).await?;
    settling_the_unknown_is_nothing(&on(UNKNOWN, 8)).await?;
    settled_now_is_settled(&on(AT_ONCE, 9)).await?;
    expired_is_spent_until_settled(&on(EXPIRES, 10)).await?;
    giving_up_harms_none(&on(GIVEN_UP, 11)).await?;
    a_crowd_shares(&on(CROWD, 12)).await
}

/// A store under one check. The promise is also the scope, so that no check sees another's.
struct On<'a> {
    store: &'a dyn BudgetStore,
    pace: Pace<'a>,
    promise: Promise,
    /// Which ids are the check's own.
    block: u128,
}

impl On<'_> {
    fn scope(&self) -> Scope {
        Scope::tenant(self.promise.0)
    }

    fn id(&self, n: u128) -> AttemptId {
        AttemptId::new(self.block * 10_000 + n)
    }

    async fn wait(&self, ticks: u32) {
        (self.pace)(TICK * ticks).await;
    }

    /// Sets money aside; `Some` says where there is too little.
    async fn ask(
        &self,
        n: u128,
        scopes: &[Scope],
        amount: Usd,
        expires: Duration,
    ) -> Result<Option<OverBudget>, Failure> {
        match self.promise.answer("reserve", self.store.reserve(self.id(n), scopes, amount, expires)).await? {
            Ok(()) => Ok(None),
            Err(BudgetError::Over(over)) => Ok(Some(over)),
            Err(error) => Err(self.promise.broken(format!("reserve failed: {error}"))),
        }
    }

    /// Sets money aside in the check's scope; that it fits is the promise.
    async fn reserve(&self, n: u128, amount: Usd) -> Result<(), Failure> {
        self.reserve_in(n, &[self.scope()], amount).await
    }

    async fn reserve_in(&self, n: u128, scopes: &[Scope], amount: Usd) -> Result<(), Failure> {
        match self.ask(n, scopes, amount, LONG).await? {
            None => Ok(()),
            Some(over) => Err(self.promise.broken(format!("{amount} fits and is refused: {over}"))),
        }
    }

    /// That this much does not fit, and that the refusal says why.
    async fn refused(&self, scopes: &[Scope], amount: Usd, by: (&Scope, Usd, Usd)) -> Result<(), Failure> {
        let Some(over) = self.ask(9_999, scopes, amount, LONG).await? else {
            return Err(self.promise.broken(format!("{amount} does not fit and was set aside")));
        };
        let (scope, limit, used) = by;
        let wanted = (scope, limit, used, amount);
        self.promise.same("refusal", (&over.scope, over.limit, over.used, over.needed), wanted)
    }

    /// That this much of the check's scope is spent or set aside.
    async fn used(&self, used: Usd) -> Result<(), Failure> {
        let scope = self.scope();
        self.refused(std::slice::from_ref(&scope), TOO_MUCH, (&scope, LIMIT, used)).await
    }

    async fn settle(&self, n: u128, actual: Usd) -> Result<(), Failure> {
        self.promise.done("settle", self.store.settle(self.id(n), actual)).await
    }
}

async fn what_fits_is_set_aside(on: &On<'_>) -> Result<(), Failure> {
    let (scope, nano) = (on.scope(), Usd::from_nanos(1));
    on.used(Usd::ZERO).await?;
    on.refused(std::slice::from_ref(&scope), LIMIT + nano, (&scope, LIMIT, Usd::ZERO)).await?;
    on.reserve(1, LIMIT - nano).await?;
    on.reserve(2, nano).await?;
    on.refused(std::slice::from_ref(&scope), nano, (&scope, LIMIT, LIMIT)).await?;
    on.reserve(3, Usd::ZERO).await
}

async fn amounts_are_never_cut(on: &On<'_>) -> Result<(), Failure> {
    let scope = on.scope();
    on.reserve(1, cents(300)).await?;
    on.refused(std::slice::from_ref(&scope), cents(300), (&scope, LIMIT, cents(300))).await?;
    on.used(cents(300)).await?;
    on.reserve(2, cents(200)).await?;
    on.used(LIMIT).await
}

async fn all_scopes_or_none(on: &On<'_>) -> Result<(), Failure> {
    let (wide, narrow) = (on.scope(), Scope::tenant(small(ALL_OR_NONE)));
    let (down, up) = ([wide.clone(), narrow.clone()], [narrow.clone(), wide.clone()]);
    for scopes in [&down, &up] {
        on.refused(scopes, cents(200), (&narrow, SMALL, Usd::ZERO)).await?;
        on.used(Usd::ZERO).await?;
    }
    on.reserve_in(1, &down, cents(60)).await?;
    on.used(cents(60)).await?;
    on.refused(&up, cents(60), (&narrow, SMALL, cents(60))).await?;
    on.used(cents(60)).await?;
    on.settle(1, cents(10)).await?;
    on.used(cents(10)).await?;
    on.refused(std::slice::from_ref(&narrow), TOO_MUCH, (&narrow, SMALL, cents(10))).await
}

async fn no_limit_no_bound(on: &On<'_>) -> Result<(), Failure> {
    let free = Scope::tenant("a tenant without a limit");
    on.reserve_in(1, std::slice::from_ref(&free), TOO_MUCH).await?;
    on.reserve_in(2, &[], TOO_MUCH).await?;
    on.reserve_in(3, &[free, on.scope()], cents(100)).await?;
    on.settle(1, TOO_MUCH).await?;
    on.settle(2, TOO_MUCH).await?;
    on.used(cents(100)).await
}

async fn kinds_are_apart(on: &On<'_>) -> Result<(), Failure> {
    for (n, scope) in (1..).zip(kinds()) {
        on.reserve_in(n, std::slice::from_ref(&scope), SMALL).await?;
        on.refused(std::slice::from_ref(&scope), cents(1), (&scope, SMALL, SMALL)).await?;
    }
    Ok(())
}

async fn settling_replaces(on: &On<'_>) -> Result<(), Failure> {
    on.reserve(1, cents(400)).await?;
    on.settle(1, cents(25)).await?;
    on.used(cents(25)).await?;
    on.reserve(2, cents(100)).await?;
    on.settle(2, Usd::ZERO).await?;
    on.used(cents(25)).await?;
    // It cost more than was thought: that is spent all the same, also beyond the limit.
    on.reserve(3, cents(100)).await?;
    on.settle(3, cents(600)).await?;
    on.used(cents(625)).await
}

async fn settling_again_is_nothing(on: &On<'_>) -> Result<(), Failure> {
    on.reserve(1, cents(200)).await?;
    on.reserve(2, cents(200)).await?;
    for actual in [50, 50, 70] {
        on.settle(1, cents(actual)).await?;
        on.used(cents(250)).await?;
    }
    // Either answer will do; it must not count.
    let _ = on.store.settle_now(on.id(1), cents(90));
    on.used(cents(250)).await
}

async fn settling_the_unknown_is_nothing(on: &On<'_>) -> Result<(), Failure> {
    on.reserve(1, cents(100)).await?;
    on.settle(2, cents(30)).await?;
    let _ = on.store.settle_now(on.id(3), cents(30));
    // Nor one that was refused.
    on.used(cents(100)).await?;
    on.settle(9_999, cents(30)).await?;
    on.used(cents(100)).await?;
    on.reserve(4, cents(400)).await
}

async fn settled_now_is_settled(on: &On<'_>) -> Result<(), Failure> {
    on.reserve(1, cents(100)).await?;
    if on.store.settle_now(on.id(1), cents(40)) {
        on.used(cents(40)).await?;
    }
    // What follows an answer of false, and must not count twice after one of true.
    on.settle(1, cents(40)).await?;
    on.used(cents(40)).await
}

async fn expired_is_spent_until_settled(on: &On<'_>) -> Result<(), Failure> {
    let ask = async |n, amount, expires| on.ask(n, &[on.scope()], amount, expires).await;
    for (n, amount, expires) in [(1, cents(300), TICK * 2), (2, cents(100), LONG), (3, cents(100), TICK * 2)] {
        if ask(n, amount, expires).await?.is_some() {
            return Err(on.promise.broken("what fits is refused"));
        }
    }
    on.used(LIMIT).await?;
    on.wait(1).await;
    on.used(LIMIT).await?;
    // What was settled in time stays spent.
    on.settle(3, cents(50)).await?;
    on.wait(2).await;
    on.used(cents(450)).await?;
    // The late word counts, once.
    for actual in [20, 90] {
        on.settle(1, cents(actual)).await?;
        on.used(cents(170)).await?;
    }
    on.reserve(4, cents(330)).await
}

async fn giving_up_harms_none(on: &On<'_>) -> Result<(), Failure> {
    for n in 1..4 {
        begin_and_drop(on.store.reserve(on.id(n), &[on.scope()], cents(100), TICK));
    }
    on.wait(2).await;
    // Whoever gives up says so, and may say so late.
    for n in 1..4 {
        on.settle(n, Usd::ZERO).await?;
    }
    on.reserve(4, LIMIT).await?;
    begin_and_drop(on.store.settle(on.id(4), cents(100)));
    on.settle(4, cents(100)).await?;
    on.used(cents(100)).await
}

async fn a_crowd_shares(on: &On<'_>) -> Result<(), Failure> {
    let scopes = [on.scope(), Scope::tenant("a tenant without a limit")];
    let answers = join_all((0..1_000).map(|n| on.ask(n, &scopes, cents(10), LONG))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let admitted: Vec<u128> = (0..).zip(&answers).filter(|(_, over)| over.is_none()).map(|(n, _)| n).collect();
    on.promise.same("of a thousand who ask for $0.10 of $5, admitted", admitted.len(), 50)?;
    on.used(LIMIT).await?;
    let settled = join_all(admitted.iter().map(|n| on.settle(*n, cents(4)))).await;
    settled.into_iter().collect::<Result<Vec<()>, _>>()?;
    on.used(cents(200)).await
}

#[cfg(test)]
mod tests;
