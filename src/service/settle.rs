//! The object that turns one attempt into exactly one record.
//!
//! It holds everything that an attempt took: its record's place, the budget's reservation, the place in the lane. Whatever
//! happens (an answer, an error, a dropped future, a panic) it gives all of it back once, in `Drop` at the latest. It is
//! synchronous on purpose: whoever has a place neither waits nor fails, so that no task is spawned from `Drop`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    choice::Passage,
    counter::Counter,
    plan::Plan,
    recorder::{Item, Place, Settled},
    state::{RouteState, State},
};
use crate::{
    client::{self, Blame, RateLimits},
    cost::{Charge, Ending, Held, Intent},
    inference::Attempt,
    limit::Permit,
    notify::AlertKind,
    router::{Candidate, Observation, Outcome, Turn, Verdict},
    types::{AttemptId, Cost, ModelId, Price, Usage, UsageSource, Usd},
};

/// A caller who waits for less says nothing about a route that did not answer in time.
const PATIENT: Duration = Duration::from_secs(5);

/// One attempt from admission to its record.
pub(super) struct Settlement {
    /// The way to its route, until the attempt has ended.
    passage: Option<Passage>,
    /// What the first token of a probe changed.
    turn: Option<Turn>,
    state: Arc<State>,
    pub(super) route: Arc<RouteState>,
    place: Option<Place>,
    record: Option<Box<Settled>>,
    /// What was set aside, where budgets apply.
    held: Option<Arc<Held>>,
    /// What an attempt without a price is charged to them by.
    assumed: Option<Price>,
    permit: Option<Permit>,
    at_most: Cost,
    /// The caller's.
    deadline: Instant,
    first_by: Option<Duration>,
    dispatched: Option<Instant>,
    /// How long a stream waited for its reader, and since when it does.
    held_up: Duration,
    held_since: Option<Instant>,
    /// What a stream has brought so far: what a cut is billed by.
    so_far: Option<Usage>,
    /// When the call began.
    called: Instant,
    probe: bool,
    passed_over: u32,
    /// Whether the ledger was told of it.
    intended: bool,
    ended: Option<Ended>,
}

/// What is known of an attempt at its end.
struct Ended {
    took: Duration,
    first_token: Option<Duration>,
    usage: Usage,
    served: Option<ModelId>,
}

impl std::fmt::Debug for Settlement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settlement").field("route", &self.route.id).finish_non_exhaustive()
    }
}

impl Settlement {
    /// An attempt that nothing was taken for yet.
    pub(super) fn new(
        passage: Passage,
        plan: &Plan,
        candidate: &Candidate,
        attempt: AttemptId,
        place: Option<Place>,
    ) -> Self {
        let (state, route) = (Arc::clone(&passage.state), Arc::clone(&passage.route));
        let record = plan.record(attempt, &candidate.route, plan.at);
        let (probe, passed_over) = (passage.is_probe(), passage.passed_over);
        let mut settlement = Self {
            passage: Some(passage),
            turn: None,
            state,
            route,
            place,
            at_most: Cost::Unpriced,
            deadline: plan.deadline,
            first_by: plan.request.first_token_of(),
            record: Some(Box::new(Settled { record, budget: None })),
            held: None,
            assumed: None,
            permit: None,
            dispatched: None,
            held_up: Duration::ZERO,
            held_since: None,
            so_far: None,
            called: plan.started,
            probe,
            passed_over,
            intended: false,
            ended: None,
        };
        settlement.stamp(plan, candidate);
        settlement
    }

    /// Takes the price as it is now: whether it is another one than before.
    fn stamp(&mut self, plan: &Plan, candidate: &Candidate) -> bool {
        let Some(settled) = &mut self.record else { return false };
        let (price, record) = (self.state.price(candidate), &mut settled.record);
        let version = price.map(|stamp| stamp.version);
        let is_another = version != record.price_version;
        (record.price, record.price_version) = (price.map(|stamp| stamp.price), version);
        self.at_most = plan.at_most(candidate, price, &self.state.counter);
        is_another
    }

    /// It is about to be dispatched: it is billed by the price of this moment. Whether that changed while it was in line.
    pub(super) fn stamp_again(&mut self, plan: &Plan, candidate: &Candidate) -> bool {
        if let Some(settled) = &mut self.record {
            settled.record.at = self.state.clock.now();
        }
        self.stamp(plan, candidate)
    }

    /// How the attempt went, once it has ended: so, with this status, at this cost.
    pub(super) fn attempt(&self, error: Option<client::ErrorKind>, status: Option<u16>, cost: Cost) -> Attempt {
        let ended = self.ended.as_ref();
        Attempt {
            route: self.route.id.clone(),
            error,
            status,
            started: self.dispatched.map_or(Duration::ZERO, |at| at.saturating_duration_since(self.called)),
            took: ended.map_or_else(|| self.took(), |ended| ended.took),
            first_token: ended.and_then(|ended| ended.first_token),
            usage: ended.map_or_else(Usage::default, |ended| ended.usage),
            served: ended.and_then(|ended| ended.served.clone()),
            probe: self.probe,
            passed_over: self.passed_over,
            cost,
        }
    }

    /// What counts tokens where the provider does not.
    pub(super) fn counter(&self) -> &Counter {
        &self.state.counter
    }

    /// The most that the attempt can cost.
    pub(super) const fn at_most(&self) -> Cost {
        self.at_most
    }

    /// What the ledger is told before the attempt is dispatched.
    pub(super) fn intent(&mut self) -> Option<Intent> {
        self.intended = true;
        self.record.as_ref().map(|settled| Intent::new(settled.record.clone(), self.at_most))
    }

    /// What is to be given back or settled from here on.
    pub(super) fn reserved(&mut self, held: Arc<Held>, assumed: Option<Price>) {
        self.held = Some(held);
        self.assumed = assumed;
    }

    /// What is set aside.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.clone()
    }

    /// Nothing was set aside after all.
    pub(super) fn not_reserved(&mut self) {
        self.held = None;
    }

    /// The price that the attempt is billed by, if one is known.
    pub(super) fn price(&self) -> Option<Price> {
        self.record.as_ref().and_then(|settled| settled.record.price)
    }

    pub(super) fn admitted(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// From here on the attempt may cost money.
    pub(super) fn dispatch(&mut self) {
        self.dispatched = Some(Instant::now());
        if let Some(passage) = &mut self.passage {
            passage.dispatched();
        }
    }

    /// What the provider took since dispatch.
    fn took(&self) -> Duration {
        self.dispatched.map_or(Duration::ZERO, |at| at.elapsed().saturating_sub(self.held_up()))
    }

    /// How long a stream waited for its reader until now.
    fn held_up(&self) -> Duration {
        self.held_up + self.held_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The reader asks for more.
    pub(super) fn asked(&mut self) {
        self.held_up = self.held_up();
        self.held_since = None;
    }

    /// The reader has what came: until he asks for more, the time is his.
    pub(super) fn handed_over(&mut self) {
        self.held_since = Some(Instant::now());
    }

    /// A stream has begun.
    pub(super) fn first_token(&mut self) {
        // A probe has found out what it is for: streams are long.
        if let Some(probe) = self.passage.take_if(|passage| passage.is_probe()) {
            self.turn = probe.ended(Verdict::Well);
        }
        let elapsed = self.took();
        if let Some(settled) = &mut self.record {
            settled.record.first_token.get_or_insert(elapsed);
        }
        self.handed_over();
    }

    /// The limits that the response named: for the attempts after this one.
    pub(super) fn told(&self, limits: Option<RateLimits>) {
        if let (Some(permit), Some(limits)) = (&self.permit, limits) {
            permit.told(&limits);
        }
    }

    /// What a stream has brought so far.
    pub(super) const fn progress(&mut self, counted: Usage) {
        self.so_far = Some(counted);
    }

    /// Ends with an answer of this usage.
    pub(super) fn answered(&mut self, usage: Usage, source: UsageSource, served: &ModelId) -> Cost {
        if let Some(permit) = &self.permit {
            permit.used(&usage);
        }
        let cost = self.price_of(served).map_or(Cost::Unpriced, |price| Cost::Known(price.cost(&usage)));
        self.end(usage, source, Some(served), cost, Ending::Answered);
        cost
    }

    /// Ends with an error. What the provider may have billed is recorded at its upper bound, or as counted if a stream
    /// had begun.
    pub(super) fn failed(&mut self, error: &client::Error) -> Cost {
        if let Some(permit) = &self.permit {
            permit.failed(error);
        }
        if let Some(passage) = &self.passage {
            passage.failed(error);
        }
        let ending = Ending::Failed(error.kind());
        if let Some(usage) = self.so_far {
            return self.cut(usage, ending);
        }
        let (cost, source) = if error.may_be_billed() {
            (self.at_most, UsageSource::UpperBound)
        } else {
            (Cost::Known(Usd::ZERO), UsageSource::None)
        };
        if error.sent() == client::Sent::No {
            self.never_sent(ending);
        } else {
            self.end(Usage::default(), source, None, cost, ending);
        }
        cost
    }

    /// Ends because nobody waits for the answer any more: with what a stream has brought, else at the upper bound.
    pub(super) fn cancelled(&mut self) -> Cost {
        match (self.dispatched, self.so_far) {
            (None, _) => {
                self.never_sent(Ending::Cancelled);
                Cost::Known(Usd::ZERO)
            }
            (Some(_), Some(usage)) => self.cut(usage, Ending::Cancelled),
            (Some(_), None) => {
                let at_most = self.at_most;
                self.end(Usage::default(), UsageSource::UpperBound, None, at_most, Ending::Cancelled);
                at_most
            }
        }
    }

    fn cut(&mut self, usage: Usage, ending: Ending) -> Cost {
        let price = self.record.as_ref().and_then(|settled| settled.record.price);
        let cost = price.map_or(Cost::Unpriced, |price| Cost::Known(price.cost(&usage)));
        self.end(usage, UsageSource::Counted, None, cost, ending);
        cost
    }

    /// The price of the model that answered: a silent redirect is priced as served where that price is known.
    fn price_of(&mut self, served: &ModelId) -> Option<Price> {
        let record = &mut self.record.as_mut()?.record;
        if served != self.route.id.model() {
            let asked = &self.route.id;
            let title = || format!("{asked} is answered by {served}, by whose price it counts where that is known");
            self.state.tell_once(AlertKind::ModelRedirected, &format!("{asked} {served}"), title);
            if let Some(stamp) = self.state.price_of_served(asked, served, record.at) {
                (record.price, record.price_version) = (Some(stamp.price), Some(stamp.version));
            }
        }
        record.price
    }

    /// Nothing left this machine: no record, the reservation returns.
    fn never_sent(&mut self, ending: Ending) {
        let Some(settled) = self.record.take() else { return };
        if let Some((held, charge)) = self.release(Charge::NotSent) {
            self.state.recorder.settle(held, charge);
        }
        if self.intended {
            self.state.recorder.take(Item::Withdraw(settled.record.attempt), self.place.take());
        }
        self.observe(Usage::default(), ending, self.took(), None);
    }

    /// Gives everything back and writes the record; the second call does nothing.
    fn end(&mut self, usage: Usage, source: UsageSource, served: Option<&ModelId>, cost: Cost, ending: Ending) {
        let Some(mut settled) = self.record.take() else { return };
        let budget = self.release(Charge::Spent(self.charge_of(cost, &usage, source)));
        let took = self.took();
        let record = &mut settled.record;
        record.usage = usage;
        record.usage_source = source;
        record.served = served.cloned();
        record.cost = cost;
        record.ending = ending;
        record.latency = took;
        self.ended =
            Some(Ended { took: record.latency, first_token: record.first_token, usage, served: served.cloned() });
        self.observe(usage, ending, record.latency, record.first_token);
        self.state.totals.add(record);
        if cost == Cost::Unpriced {
            self.state.tell_unpriced(&record.route);
        }
        settled.budget = budget;
        self.state.recorder.take(Item::Record(settled), self.place.take());
    }

    /// What budgets are charged.
    fn charge_of(&self, cost: Cost, usage: &Usage, source: UsageSource) -> Usd {
        match (cost, self.assumed) {
            (Cost::Unpriced, Some(price)) if source != UsageSource::UpperBound => price.cost(usage),
            (Cost::Unpriced, _) => self.held.as_ref().map_or(Usd::ZERO, |held| held.hold.amount),
            _ => cost.charge(),
        }
    }

    /// Frees the place and settles the reservation; what a store cannot settle at once is for the recorder.
    fn release(&mut self, charge: Charge) -> Option<(Arc<Held>, Charge)> {
        self.permit = None;
        let held = self.held.take()?;
        self.state.spent(&held, charge);
        let settled = AssertUnwindSafe(|| self.state.budgets.settle_now(&held, charge));
        (!catch_unwind(settled).unwrap_or(false)).then_some((held, charge))
    }

    fn observe(&mut self, usage: Usage, ending: Ending, took: Duration, first_token: Option<Duration>) {
        let Some(dispatched) = self.dispatched else { return };
        let outcome = match ending {
            Ending::Answered => Outcome::Answered(usage),
            Ending::Failed(client::ErrorKind::Timeout) if self.was_impatient(took) => Outcome::Cancelled,
            Ending::Failed(kind) => Outcome::Failed(kind),
            _ => Outcome::Cancelled,
        };
        self.route.counts.ended(outcome);
        let turn = self.passage.take().and_then(|passage| passage.ended(verdict(outcome))).or(self.turn.take());
        let seen = Observation {
            first_token,
            held_up: self.held_up(),
            ejected: turn.map(|turn| turn == Turn::Ejected),
            ..Observation::new(self.route.id.clone(), dispatched, took, outcome)
        };
        // A router's panic must not become an abort: this may run while unwinding.
        if catch_unwind(AssertUnwindSafe(|| self.state.router.observe(&seen))).is_err() {
            tracing::warn!("the router panicked in observe");
        }
    }
}

impl Settlement {
    /// Whether the caller's own deadline ended the attempt sooner than anyone could call the route slow.
    fn was_impatient(&self, took: Duration) -> bool {
        let ended_it = Instant::now() >= self.deadline || self.first_by.is_some_and(|first| took >= first);
        // Some answers take their time: a caller who waits for less than twice as long as usual proves nothing.
        let usual = self.state.expects(&self.route.id).map_or(0.0, |expected| expected.seconds);
        ended_it && took.as_secs_f64() < PATIENT.as_secs_f64().max(2.0 * usual)
    }
}

/// What an outcome says about the health of a route.
fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Answered(_) => Verdict::Well,
        Outcome::Failed(kind) if kind.blame() == Blame::Upstream => Verdict::Ill,
        Outcome::Failed(_) | Outcome::Cancelled => Verdict::Nothing,
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.cancelled();
    }
}
