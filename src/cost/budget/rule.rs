//! How a budget is written down.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Expired, Scope, Window,
    over::{self, NoTenant},
    window::Cutter,
};
use crate::{
    inference::InferenceRequest,
    types::{Price, RouteId, Usd},
};

/// An amount that may be spent, in a window, by somebody.
///
/// Every budget that an attempt falls under must have room for it; a scope's smaller one wins. A new budget is for the
/// whole service, hard, in UTC, and has alerts at 50, 80 and 100 % of what is spent.
///
/// Its window, its time zone and whether it is hard are part of its accounts' names, its amount is not: in a store that
/// outlives the service, or that several share, a budget whose zone changes, or that turns hard or soft, starts anew with
/// nothing spent, while one with another amount goes on.
///
/// ```
/// use together_inference::{InferenceService, cost::Budget, testing::Together, usd};
///
/// let service = InferenceService::builder(Together::new().client())
///     .budget(Budget::monthly(usd!("500")).zone("Europe/Berlin").soft())
///     .budget(Budget::daily(usd!("25.00")).per_tenant())
///     .budget(Budget::per_session(usd!("1.00")).max_calls(80))
///     .build()?;
/// # Ok::<(), together_inference::service::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a budget is given to ServiceBuilder::budget"]
pub struct Budget {
    pub(super) amount: Usd,
    pub(super) window: Window,
    pub(super) level: Level,
    pub(super) hard: bool,
    pub(super) max_calls: Option<u64>,
    pub(super) zone: Option<Box<str>>,
    pub(super) alerts: Arc<[u8]>,
    pub(super) expired: Expired,
}

/// What a model costs whose price nobody knows, where a hard budget applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unpriced {
    /// It is not called: what it costs could not be held against the budget.
    #[default]
    Refuse,
    /// It is charged to budgets at this price. Its records stay without a price.
    Assume(Price),
}

/// A budget that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{budget}: {problem}")]
#[non_exhaustive]
pub struct InvalidBudget {
    /// Which.
    pub budget: Box<str>,
    /// What is wrong with it.
    pub problem: Box<str>,
}

/// Whom a budget is for, in the order in which budgets are asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Level {
    Global,
    Key,
    Tenant,
    Tag(Box<str>),
    Model,
    Session,
    One(Scope),
}

impl Budget {
    fn new(amount: Usd, window: Window, alerts: impl Into<Arc<[u8]>>) -> Self {
        Self {
            amount,
            window,
            level: Level::Global,
            hard: true,
            max_calls: None,
            zone: None,
            alerts: alerts.into(),
            expired: Expired::Spent,
        }
    }

    fn alerting(amount: Usd, window: Window) -> Self {
        Self::new(amount, window, [50, 80, 100])
    }

    /// An amount a day.
    pub fn daily(amount: Usd) -> Self {
        Self::alerting(amount, Window::Day)
    }

    /// An amount a month of the calendar.
    pub fn monthly(amount: Usd) -> Self {
        Self::alerting(amount, Window::Month)
    }

    /// An amount within any stretch of this length, a second or more. It is kept in sixtieths: what was spent counts for
    /// this long, and for a sixtieth longer at most.
    pub fn rolling(amount: Usd, time: Duration) -> Self {
        Self::alerting(amount, Window::Rolling(time))
    }

    /// An amount for good.
    pub fn total(amount: Usd) -> Self {
        Self::alerting(amount, Window::Total)
    }

    /// An amount for each session, for good: it applies to requests that name one. What a process that died had set aside
    /// returns. A session that nobody has used for a day is forgotten. No alerts, unless
    /// [`alert_at`](Self::alert_at) asks for them.
    pub fn per_session(amount: Usd) -> Self {
        Self { level: Level::Session, expired: Expired::Return, ..Self::new(amount, Window::Total, []) }
    }

    /// For everything together, as it is unless said otherwise.
    pub fn global(self) -> Self {
        Self { level: Level::Global, ..self }
    }

    /// For each upstream's key.
    pub fn per_key(self) -> Self {
        Self { level: Level::Key, ..self }
    }

    /// For each tenant. If it is hard, a call without a tenant is refused.
    pub fn per_tenant(self) -> Self {
        Self { level: Level::Tenant, ..self }
    }

    /// For each value of this tag. It does not apply to a request without it.
    pub fn per_tag(self, name: impl Into<Box<str>>) -> Self {
        Self { level: Level::Tag(name.into()), ..self }
    }

    /// For each model of each upstream.
    pub fn per_model(self) -> Self {
        Self { level: Level::Model, ..self }
    }

    /// For one alone, beside what holds for all: the smaller amount wins. To give one of many another amount, use
    /// [`Budgets::set`](super::Budgets::set).
    ///
    /// ```
    /// use together_inference::{cost::{Budget, Scope}, usd};
    ///
    /// let trial = Budget::total(usd!("5")).of(Scope::tenant("trial"));
    /// assert_eq!(trial.to_string(), "the hard budget of tenant trial");
    /// ```
    pub fn of(self, scope: Scope) -> Self {
        Self { level: Level::One(scope), ..self }
    }

    /// Refuses what it has no room for, as it does unless said otherwise.
    pub fn hard(self) -> Self {
        Self { hard: true, ..self }
    }

    /// Refuses nothing: it is there for its alerts.
    pub fn soft(self) -> Self {
        Self { hard: false, ..self }
    }

    /// With at most so many attempts as well. What was sent counts, repeats too; what the cache answered does not.
    pub fn max_calls(self, calls: u64) -> Self {
        Self { max_calls: Some(calls), ..self }
    }

    /// With days and months of this time zone, by its IANA name such as `Europe/Berlin`; UTC unless set. An unknown one
    /// is refused when the service is built.
    pub fn zone(self, name: impl Into<Box<str>>) -> Self {
        Self { zone: Some(name.into()), ..self }
    }

    /// With an alert when so many percent are spent, once a window for each; at 100 also when it refuses the first call.
    /// None if there are none here.
    pub fn alert_at(self, percent: impl IntoIterator<Item = u8>) -> Self {
        let mut alerts: Vec<u8> = percent.into_iter().collect();
        alerts.sort_unstable();
        alerts.dedup();
        Self { alerts: alerts.into(), ..self }
    }

    /// With another end of what nobody settles in time: it counts as spent until it is settled, unless set.
    pub fn expired(self, expired: Expired) -> Self {
        Self { expired, ..self }
    }

    /// How long an account that nobody uses must be kept.
    pub(super) fn keep(&self) -> Option<Duration> {
        const DAY: Duration = Duration::from_secs(86_400);
        match self.window {
            Window::Total if self.level == Level::Session => Some(DAY),
            Window::Total => None,
            // The window itself, and another for clocks that are set back and calls that end late.
            Window::Day => Some(DAY * 3),
            Window::Month => Some(DAY * 70),
            Window::Rolling(time) => Some(time.saturating_mul(2).saturating_add(DAY)),
        }
    }

    /// What names it among the budgets of a service, and its accounts in a store.
    pub(super) fn key(&self) -> String {
        let one = if matches!(self.level, Level::One(_)) { "one|" } else { "" };
        let kind = if self.hard { "hard" } else { "soft" };
        format!("{}|{}|{kind}|{one}", self.window.key(), self.zone.as_deref().unwrap_or("UTC"))
    }

    /// Cuts its windows.
    pub(super) fn cutter(&self, largest: Usd) -> Result<Cutter, InvalidBudget> {
        self.check(self.amount, largest)?;
        if self.max_calls == Some(0) {
            return Err(self.invalid("max_calls(0) lets no call out; set at least 1, or leave it out"));
        }
        if self.alerts.contains(&0) {
            return Err(self.invalid("an alert at 0 % would tell nothing"));
        }
        if matches!(self.window, Window::Rolling(time) if time < Duration::from_secs(1)) {
            return Err(self.invalid("a rolling window takes a second at least"));
        }
        let zone = self.zone.as_deref();
        Cutter::new(self.window, zone).ok_or_else(|| {
            let name = zone.unwrap_or_default();
            self.invalid(format!("there is no time zone {name:?}; write an IANA name such as Europe/Berlin"))
        })
    }

    /// Whether an amount can be its.
    pub(super) fn check(&self, amount: Usd, largest: Usd) -> Result<(), InvalidBudget> {
        if amount < Usd::ZERO {
            return Err(self.invalid(format!("{amount} is less than nothing")));
        }
        if amount > largest {
            return Err(self.invalid(format!("its store compares amounts up to {largest} alone, not {amount}")));
        }
        Ok(())
    }

    pub(super) fn invalid(&self, problem: impl Into<Box<str>>) -> InvalidBudget {
        InvalidBudget { budget: self.to_string().into(), problem: problem.into() }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.hard { "hard" } else { "soft" };
        let adjective = self.window.adjective();
        match &self.level {
            Level::One(scope) => f.write_str(&over::name(&format!("{kind} {adjective}"), scope)),
            Level::Global => write!(f, "the {kind} {adjective}budget of the whole service"),
            Level::Key => write!(f, "the {kind} {adjective}budget per key"),
            Level::Tenant => write!(f, "the {kind} {adjective}budget per tenant"),
            Level::Tag(name) => write!(f, "the {kind} {adjective}budget per {name}"),
            Level::Model => write!(f, "the {kind} {adjective}budget per model"),
            Level::Session => write!(f, "the {kind} {adjective}budget per session"),
        }
    }
}

impl Level {
    /// Whose budget an attempt falls under; `None`: nobody's.
    pub(super) fn scope(&self, request: &InferenceRequest, route: &RouteId) -> Result<Option<Scope>, NoTenant> {
        let tag = |name: &str| request.tags_of().find(|(key, _)| *key == name).map(|(_, value)| value);
        Ok(Some(match self {
            Self::Global => Scope::Global,
            Self::Key => Scope::Key(route.upstream().clone()),
            Self::Tenant => Scope::Tenant(request.tenant_of().cloned().ok_or(NoTenant)?),
            Self::Tag(name) => match tag(name) {
                Some(value) => Scope::Tag(name.clone(), value.into()),
                None => return Ok(None),
            },
            Self::Model => Scope::Model(route.clone()),
            Self::Session => match request.session_of() {
                Some(session) => Scope::Session(session.clone()),
                None => return Ok(None),
            },
            Self::One(scope) => {
                let is_in = match scope {
                    Scope::Global => true,
                    Scope::Key(upstream) => route.upstream() == upstream,
                    Scope::Tenant(tenant) => request.tenant_of() == Some(tenant),
                    Scope::Tag(name, value) => tag(name) == Some(value),
                    Scope::Model(model) => route == model,
                    Scope::Session(session) => request.session_of() == Some(session),
                };
                return Ok(is_in.then(|| scope.clone()));
            }
        }))
    }

    /// Whether this scope can be one of its.
    pub(super) fn covers(&self, scope: &Scope) -> bool {
        match (self, scope) {
            (Self::Global, Scope::Global)
            | (Self::Key, Scope::Key(_))
            | (Self::Tenant, Scope::Tenant(_))
            | (Self::Model, Scope::Model(_))
            | (Self::Session, Scope::Session(_)) => true,
            (Self::Tag(name), Scope::Tag(of, _)) => name == of,
            (Self::One(one), scope) => one == scope,
            _ => false,
        }
    }
}
