//! Money that may be spent, reserved before and settled after.
//!
//! [`Budgets`] is the policy: which budgets an attempt falls under, in which window, what a refusal says, who is told
//! when. A [`BudgetStore`] is arithmetic alone: it sets money aside in every account of a [`Hold`] or in none, and
//! replaces it by what was spent. So a store is small, and the same rules hold in memory and across processes.
//!
//! # Why money is set aside before, and not counted after
//!
//! A counter that is looked at before a call and raised after it lets a thousand calls at the same time through one
//! dollar: each of them sees the counter before any of them has raised it. What is set aside is the most that the
//! attempt can cost, and it is never cut to what is left: near its end a hard budget refuses calls that might have
//! fitted, and is never overdrawn by one that did not.

mod memory;
mod over;
mod policy;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod rule;
mod scope;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod share;
mod store;
mod window;

#[cfg(feature = "postgres")]
pub use self::postgres::PostgresBudgets;
#[cfg(feature = "redis")]
pub use self::redis::{RedisBudgets, RedisBudgetsBuilder};
pub use self::{
    memory::MemoryBudgets,
    over::{Bound, OverBudget},
    policy::{Budgets, Remaining},
    rule::{Budget, InvalidBudget, Unpriced},
    scope::Scope,
    store::{Account, Balance, BudgetError, BudgetStore, Charge, Expired, Hold, Line, Refusal, Told},
    window::{Period, Window},
};
pub(crate) use self::{
    over::NoTenant,
    policy::{Held, Notice},
};
