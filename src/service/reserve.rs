//! What an attempt sets aside in the budgets that it falls under.
//!
//! Whose money it is, is read from the request's typed fields and the route alone. The most that the attempt can cost is
//! set aside in all of them or in none, and is settled by its [`Settlement`] on every path.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};

use super::{
    counter::Counter,
    error::{Cause, Error, ErrorKind},
    plan::Plan,
    settle::Settlement,
    state::State,
};
use crate::{
    client::TogetherClient,
    cost::{Bound, BudgetError, Charge, Held, NoTenant, Notice, OverBudget, Unpriced},
    inference::InvalidRequest,
    notify::AlertKind,
    router::Candidate,
    types::{AttemptId, Cost, Price, RouteId},
};

/// How long a reservation outlives the longest attempt, for its settlement to arrive.
const GRACE: Duration = Duration::from_secs(60);

impl State {
    /// Sets aside the most that an attempt can cost.
    pub(super) async fn reserve(
        &self,
        plan: &Plan,
        settlement: &mut Settlement,
        candidate: &Candidate,
        attempt: AttemptId,
    ) -> Result<(), Error> {
        let drawn = self.budgets.draw(&plan.request, &candidate.route).map_err(|NoTenant| without_tenant())?;
        if drawn.is_empty() {
            return Ok(());
        }
        let assumed = self.assumed(settlement, &candidate.route, drawn.is_hard())?;
        let amount = match assumed {
            Some(price) => price.upper_bound(&plan.usage_at_most(candidate, &self.counter)),
            None => settlement.at_most().charge(),
        };
        let held = Arc::new(drawn.hold(attempt, amount, self.expires(plan, &candidate.route)));
        // From here on: a reservation whose future is dropped half-way is given back by its settlement, or its expiry.
        settlement.reserved(Arc::clone(&held), assumed);
        let reserving = AssertUnwindSafe(self.budgets.reserve(&held)).catch_unwind();
        match timeout_at(plan.deadline, reserving).await {
            Ok(Ok(Ok(true))) => {
                self.recorder.watch(&held);
                Ok(())
            }
            Ok(Ok(Ok(false))) => {
                settlement.not_reserved();
                Ok(())
            }
            Ok(Ok(Err(BudgetError::Over(over)))) => {
                let price = settlement.price().or(assumed);
                let bound = price.and_then(|price| plan.bound(candidate, price, &self.counter));
                Err(over_budget(OverBudget { bound, ..*over }))
            }
            Ok(Ok(Err(error))) => Err(Error::new(ErrorKind::Policy, error.to_string())),
            Ok(Err(_)) => Err(panicked()),
            Err(_) => Err(too_late()),
        }
    }

    /// Sets aside by another price what an attempt in line had set aside before: what it may cost now may be more.
    pub(super) async fn reserve_anew(
        &self,
        plan: &Plan,
        settlement: &mut Settlement,
        candidate: &Candidate,
        attempt: AttemptId,
    ) -> Result<(), Error> {
        if let Some(held) = settlement.held()
            && !self.budgets.settle_now(&held, Charge::NotSent)
        {
            let settling = AssertUnwindSafe(self.budgets.settle(&held, Charge::NotSent)).catch_unwind();
            match timeout_at(plan.deadline, settling).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => return Err(Error::new(ErrorKind::Policy, error.to_string())),
                Ok(Err(_)) => return Err(panicked()),
                Err(_) => return Err(too_late()),
            }
        }
        settlement.not_reserved();
        self.reserve(plan, settlement, candidate, attempt).await
    }

    /// The price that an attempt without one is charged by; `None`: it has one, or nothing is refused for it.
    fn assumed(&self, settlement: &Settlement, route: &RouteId, is_hard: bool) -> Result<Option<Price>, Error> {
        match self.unpriced {
            _ if settlement.at_most() != Cost::Unpriced => Ok(None),
            Unpriced::Assume(price) => Ok(Some(price)),
            Unpriced::Refuse if is_hard => Err(without_price(route)),
            Unpriced::Refuse => Ok(None),
        }
    }

    /// Longer than the attempt itself, which may begin as late as the deadline: it waits for its place until then.
    fn expires(&self, plan: &Plan, route: &RouteId) -> Duration {
        let left = plan.deadline.saturating_duration_since(Instant::now());
        let longest = self.client(route).map_or(left, TogetherClient::longest_attempt);
        left.saturating_add(longest).saturating_add(GRACE)
    }

    /// Has the alerts of budgets told. They hold the service weakly: it holds them.
    pub(super) fn listen_to_budgets(self: &Arc<Self>) {
        let state: Weak<Self> = Arc::downgrade(self);
        self.budgets.listen(Box::new(move |notice| {
            if let Some(state) = state.upgrade() {
                state.tell_of_budget(notice);
            }
        }));
    }

    fn tell_of_budget(self: &Arc<Self>, notice: Notice) {
        let kind = match notice.percent {
            ..80 => AlertKind::Budget50,
            80..100 => AlertKind::Budget80,
            100.. => AlertKind::Budget100,
        };
        self.tell_once(kind, &notice.about, || notice.title);
    }

    /// Has it told that an attempt cost more than was set aside: its budgets may be overdrawn by that.
    pub(super) fn spent(self: &Arc<Self>, held: &Held, charge: Charge) {
        let (spent, reserved) = (charge.spent(), held.hold.amount);
        if spent > reserved {
            let title =
                || format!("an attempt cost {spent}, and {reserved} was set aside for it: it may overdraw budgets");
            self.tell_once(AlertKind::BudgetOverReserved, &held.hold.id.to_string(), title);
        }
    }
}

impl Plan {
    /// What made an attempt cost as much as it may, where tokens did.
    fn bound(&self, candidate: &Candidate, price: Price, counter: &Counter) -> Option<Bound> {
        let usage = self.usage_at_most(candidate, counter);
        (usage.images == 0).then(|| Bound::new(usage.prompt, usage.completion, price))
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Policy, "the budget store panicked")
}

fn too_late() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the budget store did not answer in time")
}

fn over_budget(over: OverBudget) -> Error {
    Error::caused(ErrorKind::OverBudget, over.to_string(), Cause::Budget(Box::new(over)))
}

fn without_tenant() -> Error {
    InvalidRequest::new("tenant", "a hard budget of each tenant is set, and the request names none: .tenant(..)").into()
}

/// Names the line that mends it.
fn without_price(route: &RouteId) -> Error {
    let (upstream, model) = (route.upstream(), route.model());
    let message = format!(
        "a hard budget is set and the price of {route} is not known; say it with \
         .price(&RouteId::new({upstream:?}, {model:?}), Price::per_million(usd!(\"..\"), usd!(\"..\"))) or Price::FREE, \
         or set .unpriced(Unpriced::Assume(..))"
    );
    Error::new(ErrorKind::Unpriced, message)
}
