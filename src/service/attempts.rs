//! Attempts: at most three a call, over all models together.
//!
//! A failure is classified once. What another model may do better goes to the next candidate at once; what only time
//! mends is repeated after a jittered wait; what the caller must change is an error at once. Every repeat is paid from
//! the retry budget of the route that receives it, and none starts that [could not end](super::in_time) before the deadline.

use std::{
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    choice::Passage,
    error::{Error, ErrorKind, Truncated, total_cost},
    plan::{Plan, no_warnings},
    prompt::at_once,
    send::{Arrival, send},
    settle::Settlement,
    state::State,
};
use crate::{
    client::{self, Blame, TogetherClient},
    cost::TooDear,
    inference::{Answer, Attempt, Origin, Selection},
    limit::{self, Refused},
    router::{Ability, Candidate},
    types::{AttemptId, Cost, FinishReason, ModelId, RouteId, UsageSource, Usd},
};

/// What a call brought, shared by its leader and followers.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) answer: Arc<Answer>,
    pub(super) route: RouteId,
    /// What all attempts cost.
    pub(super) cost: Cost,
    /// What the answering attempt cost: what a hit or a follower saves.
    pub(super) worth: Cost,
    pub(super) usage_source: UsageSource,
    pub(super) attempts: Arc<[Attempt]>,
    pub(super) request_id: Option<Arc<str>>,
    pub(super) warnings: Arc<[String]>,
    /// Where the cache had it after all.
    pub(super) from_cache: Option<Origin>,
}

/// An attempt that succeeded, not yet settled.
pub(super) struct Dispatched<T> {
    pub(super) value: T,
    pub(super) settlement: Settlement,
    pub(super) attempts: Vec<Attempt>,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Stop,
    /// This candidate, at once, since the one before does not serve the request: not a repeat of a failure.
    Elsewhere(usize),
    /// This candidate, at once.
    Next(usize),
    /// The same one, after a wait.
    Again(Duration),
}

/// Attempts of a call, however many models it names.
const MOST: u32 = 3;

impl State {
    /// One answer, by as many attempts as it takes and the bounds allow.
    pub(super) async fn answer(self: &Arc<Self>, plan: &Plan) -> Result<Done, Error> {
        let send = |client: TogetherClient, model: ModelId| async move {
            send(&client, &model, plan.request.input(), &plan.options()).await
        };
        let Dispatched { value, settlement, attempts } = self.dispatch(plan, send).await?;
        settle(plan, value, settlement, attempts)
    }

    /// Makes attempts until one succeeds. `send` makes one.
    pub(super) async fn dispatch<T, F>(
        self: &Arc<Self>,
        plan: &Plan,
        send: impl Fn(TogetherClient, ModelId) -> F,
    ) -> Result<Dispatched<T>, Error>
    where
        F: Future<Output = Result<T, client::Error>>,
    {
        let mut attempts = Vec::new();
        let mut lacking = Vec::new();
        let (mut tried, mut last) = (Vec::new(), None);
        let (mut number, mut charged) = (0_u32, false);
        loop {
            let (at, passage) = match self.choose(plan, &tried) {
                Ok(chosen) => chosen,
                Err(nobody) => return Err(last.map_or(nobody, |error| give_up(plan, error, attempts))),
            };
            let candidate = plan.ranking.candidates.get(at).ok_or_else(|| Error::new(ErrorKind::NoRoute, ""))?;
            // A refused admission has an id of its own too: a store may still be giving back what it had set aside.
            let attempt = plan.attempt(tried.len() + number as usize);
            let spent = plan.spent + total_cost(&attempts).charge();
            let admission = pin!(self.admit(plan, (candidate, spent), attempt, passage));
            let admitted = self.unless_stopped(admission).await;
            if self.may_go_elsewhere(plan, candidate, &admitted) && self.next_taker(plan, &and(&tried, at)).is_some() {
                tried.push(at);
                continue;
            }
            let mut settlement = match admitted {
                Ok(settlement) => settlement,
                // What failed is why the rest of the ceiling is too little.
                Err(refused) if refused.too_dear().is_some() && last.is_some() => {
                    return Err(last.map_or(refused, |error| give_up(plan, error, attempts)));
                }
                Err(refused) => return Err(refused.with_attempts(attempts).of_plan(plan)),
            };
            let client = match self.client_of(candidate) {
                Ok(client) => client,
                Err(error) => return Err(error.with_attempts(attempts)),
            };
            settlement.dispatch();
            number += 1;
            let model = candidate.route.model().clone();
            // Pinned here, so that its size counts once.
            let attempt = pin!(send(client, model));
            let error = match self.within(attempt).await {
                Ok(Ok(value)) => {
                    settlement.route.retries.succeeded(charged);
                    self.teach(lacking);
                    return Ok(Dispatched { value, settlement, attempts });
                }
                Ok(Err(error)) => error,
                Err(ended) => {
                    attempts.push(abandoned_attempt(&settlement));
                    return Err(ended.with_attempts(attempts).of_plan(plan));
                }
            };
            let lacks = plan.lacks(&error);
            lacking.extend(lacks.map(|ability| (candidate.route.clone(), ability)));
            attempts.push(failed_attempt(&mut settlement, &error));
            drop(settlement);
            let passed = self.passed_over(plan, and(&tried, at));
            match self.next_step(plan, (&error, lacks), (at, &passed), number) {
                Step::Stop => return Err(give_up(plan, error, attempts)),
                step @ (Step::Next(_) | Step::Elsewhere(_)) => {
                    charged = matches!(step, Step::Next(_));
                    tracing::warn!(from = %candidate.route, kind = error.kind().as_str(), "falling back to the next model");
                    tried = passed;
                    last = Some(error);
                }
                Step::Again(wait) => {
                    charged = !is_paced(&error, &Step::Again(wait));
                    if let Err(stopped) = self.rest(wait).await {
                        return Err(stopped.with_attempts(attempts).of_plan(plan));
                    }
                    // Meanwhile others may have found out that it is down.
                    if !self.takes(candidate) {
                        return Err(give_up(plan, error, attempts));
                    }
                    last = Some(error);
                }
            }
        }
    }

    /// Whether a candidate that nothing was sent to yet may be passed over for another.
    fn may_go_elsewhere(&self, plan: &Plan, candidate: &Candidate, admitted: &Result<Settlement, Error>) -> bool {
        match admitted {
            // Others were quicker to try it out: this call goes where it would have gone without.
            Ok(_) => self.is_out_of_turn(candidate),
            // Another one may still be affordable or free.
            Err(refused) => can_pass_over(plan, refused),
        }
    }

    /// Waits, unless the service is told to stop.
    pub(super) async fn rest(&self, wait: Duration) -> Result<(), Error> {
        let waited = pin!(async {
            sleep_until(Instant::now() + wait).await;
            Ok(())
        });
        self.unless_stopped(waited).await
    }

    /// Tells the router what models lack that refused a request for it, now that another one answered: what all refuse is
    /// the caller's mistake.
    fn teach(&self, lacking: Vec<(RouteId, Ability)>) {
        for (route, ability) in lacking {
            let taught = AssertUnwindSafe(|| self.router.teach(&route, ability, Instant::now()));
            if catch_unwind(taught).is_err() {
                tracing::warn!("the router panicked in teach");
            }
        }
    }

    /// Runs one attempt until the service is told to stop. Its own time-outs end at the plan's deadline.
    async fn within<T>(
        &self,
        attempt: Pin<&mut impl Future<Output = Result<T, client::Error>>>,
    ) -> Result<Result<T, client::Error>, Error> {
        tokio::select! {
            biased;
            // A panic of a transport of the application's own ends this call, and settles.
            done = AssertUnwindSafe(attempt).catch_unwind() => {
                done.map_err(|_| Error::new(ErrorKind::Policy, "the transport panicked"))
            }
            () = self.cancel.cancelled() => Err(stopped()),
        }
    }

    /// A step before an attempt: not even begun once the service is told to stop.
    pub(super) async fn unless_stopped<T>(
        &self,
        mut step: Pin<&mut impl Future<Output = Result<T, Error>>>,
    ) -> Result<T, Error> {
        if self.cancel.is_cancelled() {
            return Err(stopped());
        }
        if let Some(done) = at_once(step.as_mut()).await {
            return done;
        }
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(stopped()),
            done = step => done,
        }
    }

    /// Takes what an attempt needs before money is spent: a place for its record, a reservation, a turn.
    async fn admit(
        self: &Arc<Self>,
        plan: &Plan,
        (candidate, spent): (&Candidate, Usd),
        attempt: AttemptId,
        passage: Passage,
    ) -> Result<Settlement, Error> {
        if Instant::now() >= plan.deadline {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before an attempt could start"));
        }
        // Before there is a turn to be held up: a recorder that does not keep up is waited for by all.
        let place = self.recorder.place(plan.deadline).await;
        if place.is_none() && self.recorder.is_strict() {
            let message = "the ledger is strict and does not keep up: no record could be kept of an attempt";
            return Err(Error::new(ErrorKind::DeadlineExceeded, message));
        }
        let mut settlement = Settlement::new(passage, plan, candidate, attempt, place);
        self.check_cost(plan, settlement.at_most(), spent)?;
        self.reserve(plan, &mut settlement, candidate, attempt).await?;
        let permit = match settlement.route.lane.admit(&turn(plan)).await {
            Ok(permit) => permit,
            Err(Refused::Full) => {
                let message = format!("too many calls wait for {} already", candidate.route);
                return Err(Error::new(ErrorKind::Overloaded, message));
            }
            Err(Refused::TooLate) => {
                let message = format!("{} was not free before the deadline", candidate.route);
                return Err(Error::new(ErrorKind::DeadlineExceeded, message));
            }
        };
        settlement.admitted(permit);
        if settlement.stamp_again(plan, candidate) {
            self.check_cost(plan, settlement.at_most(), spent)?;
            self.reserve_anew(plan, &mut settlement, candidate, attempt).await?;
        }
        if self.wants_intents {
            self.intend(plan, &mut settlement).await?;
        }
        // Whatever was waited for above: nothing starts that nobody waits for any more.
        if Instant::now() >= plan.deadline {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before an attempt could start"));
        }
        Ok(settlement)
    }

    async fn intend(&self, plan: &Plan, settlement: &mut Settlement) -> Result<(), Error> {
        let Some(intent) = settlement.intent() else { return Ok(()) };
        let told = AssertUnwindSafe(crate::cost::CostSink::intend(&self.sinks, &intent)).catch_unwind();
        match timeout_at(plan.deadline, told).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Error::new(ErrorKind::Policy, error.to_string())),
            Ok(Err(_)) => Err(Error::new(ErrorKind::Policy, "a cost sink panicked")),
            Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "a cost sink did not answer in time")),
        }
    }

    /// Classifies a failure once, and pays for the repeat.
    fn next_step(
        &self,
        plan: &Plan,
        (error, lacks): (&client::Error, Option<Ability>),
        (at, tried): (usize, &[usize]),
        number: u32,
    ) -> Step {
        if number >= MOST.min(self.retry.attempts) {
            return Step::Stop;
        }
        let blame = error.kind().blame();
        if lacks.is_some() || error.kind() == client::ErrorKind::ContextLength || blame == Blame::Model {
            // Not a failure of the route's health: no budget is charged.
            let pinned = matches!(plan.request.selection(), Selection::Pin(_));
            // A pinned model may still be had on another upstream.
            let may = |next: &usize| !pinned || model(plan, *next) == model(plan, at);
            return self.next_taker(plan, tried).filter(may).map_or(Step::Stop, Step::Elsewhere);
        }
        if blame == Blame::Key {
            // The key is stopped by now: whoever takes the call has another one.
            return self.next_taker(plan, tried).map_or(Step::Stop, Step::Elsewhere);
        }
        if !error.is_retryable() || (error.may_be_billed() && !self.retry.after_dispatch) {
            return Step::Stop;
        }
        let (step, receiver, start) = match self.next_taker(plan, tried) {
            Some(next) => (Step::Next(next), next, Duration::ZERO),
            None => {
                let Some(wait) = self.retry.again(error, number, &*self.rng) else { return Step::Stop };
                if !plan.ranking.candidates.get(at).is_some_and(|same| self.takes(same)) {
                    return Step::Stop;
                }
                (Step::Again(wait), at, wait)
            }
        };
        let in_time = self.ends_in_time(plan, receiver, start);
        let Some(receiver) = plan.ranking.candidates.get(receiver) else { return Step::Stop };
        // A repeat of what was refused for our rate goes out when the limiter lets it: it adds nothing to the load.
        let is_paced = is_paced(error, &step);
        if in_time && (is_paced || self.route(&receiver.route).retries.try_spend()) { step } else { Step::Stop }
    }
}

/// The error that the caller gets.
fn give_up(plan: &Plan, error: client::Error, attempts: Vec<Attempt>) -> Error {
    let late = error.kind() == client::ErrorKind::Timeout && Instant::now() >= plan.deadline;
    let error = Error::of_client(error);
    let error = if late { error.of_kind(ErrorKind::DeadlineExceeded) } else { error };
    error.with_attempts(attempts).of_plan(plan)
}

fn and(tried: &[usize], at: usize) -> Vec<usize> {
    tried.iter().copied().chain([at]).collect()
}

fn model(plan: &Plan, at: usize) -> Option<&ModelId> {
    plan.ranking.candidates.get(at).map(|candidate| candidate.route.model())
}

fn stopped() -> Error {
    Error::new(ErrorKind::ShuttingDown, "the service was shut down")
}

/// Whether another candidate may be admitted where this one was not.
fn can_pass_over(plan: &Plan, refused: &Error) -> bool {
    match refused.kind() {
        ErrorKind::OverBudget | ErrorKind::Unpriced | ErrorKind::Overloaded => true,
        // Refused before its time, since this one's turn would come too late.
        ErrorKind::DeadlineExceeded => Instant::now() < plan.deadline,
        _ => false,
    }
}

/// Whether the limiter bounds a repeat, so that the retry budget need not.
fn is_paced(error: &client::Error, step: &Step) -> bool {
    error.kind() == client::ErrorKind::RateLimited && matches!(step, Step::Again(_))
}

/// What an attempt asks the limiter for.
fn turn(plan: &Plan) -> limit::Ask {
    let request = &plan.request;
    limit::Ask {
        priority: request.priority_of(),
        prompt: request.prompt_tokens_roughly(),
        max_answer: request.max_tokens_of(),
        deadline: plan.deadline,
    }
}

fn failed_attempt(settlement: &mut Settlement, error: &client::Error) -> Attempt {
    let cost = settlement.failed(error);
    settlement.attempt(Some(error.kind()), error.status(), cost)
}

/// An attempt that was given up half-way: recorded at its upper bound when its settlement is dropped.
fn abandoned_attempt(settlement: &Settlement) -> Attempt {
    settlement.attempt(Some(client::ErrorKind::Interrupted), None, settlement.at_most())
}

impl State {
    /// Holds the request's own ceiling, less what its attempts so far may have cost, against the price that the next one
    /// is billed by: the router ranks by what it knows.
    fn check_cost(self: &Arc<Self>, plan: &Plan, at_most: Cost, spent: Usd) -> Result<(), Error> {
        let Some(ceiling) = plan.request.max_cost_of() else { return Ok(()) };
        if at_most != Cost::Unpriced && at_most.charge() + spent <= ceiling {
            return Ok(());
        }
        let cost = |one: &Candidate| (one.route.clone(), plan.at_most(one, self.price(one), &self.counter));
        let too_dear = TooDear::new(ceiling, plan.ranking.candidates.iter().map(cost).collect());
        Err(Error::of_too_dear(TooDear { spent, ..too_dear }))
    }
}

/// Settles a whole answer. Reused by streams, which fold theirs.
pub(super) fn settle(
    plan: &Plan,
    mut arrival: Arrival,
    mut settlement: Settlement,
    mut attempts: Vec<Attempt>,
) -> Result<Done, Error> {
    let (usage, usage_source) = arrival.used(&plan.request, &settlement.route.id, settlement.counter());
    settlement.told(arrival.rate_limits);
    let worth = settlement.answered(usage, usage_source, &arrival.served);
    let route = settlement.route.id.clone();
    let answered = settlement.attempt(None, Some(200), worth);
    let attempts: Arc<[Attempt]> = if attempts.is_empty() {
        Arc::new([answered])
    } else {
        attempts.push(answered);
        attempts.into()
    };
    let (request_id, warnings) = (arrival.request_id.take(), mem::take(&mut arrival.warnings));
    let answer = arrival.into_answer(usage, usage_source);
    if answer.is_empty() {
        return Err(nothing_said(plan, &answer).with_attempts(attempts).of_plan(plan));
    }
    Ok(Done {
        answer: Arc::new(answer),
        route,
        cost: total_cost(&attempts),
        worth,
        usage_source,
        attempts,
        request_id,
        warnings: if warnings.is_empty() { no_warnings() } else { warnings.into() },
        from_cache: None,
    })
}

/// The error of an answer without anything in it, which was paid for all the same.
fn nothing_said(plan: &Plan, answer: &Answer) -> Error {
    let usage = answer.usage;
    let finish = answer.finish().map_or("none", FinishReason::as_str);
    let message = format!(
        "{} said nothing: {} completion tokens, {} of them reasoning, finish reason {finish}; raise max_tokens or lower \
         the reasoning effort",
        answer.served, usage.completion, usage.reasoning
    );
    let thinking_only = usage.reasoning > 0 || answer.reasoning().is_some_and(|text| !text.is_empty());
    let cut = answer.finish() == Some(&FinishReason::Length);
    let cap = plan.request.max_tokens_of();
    let truncated = (cut || thinking_only).then_some(Truncated { thinking_only, used: usage.completion, cap });
    Error::new(ErrorKind::EmptyAnswer, message).with_truncated(truncated)
}
