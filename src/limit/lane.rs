//! The attempts of one route: who is out, who waits, and how fast they may go.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Limits,
    bucket::{Bucket, Flow},
    ceiling::Ceiling,
    pace::Pace,
    queue::{Ahead, Place, Queue},
    sent::{Sent, Taken},
};
use crate::{
    client::{self, ErrorKind, RateLimits},
    types::{
        Priority, Usage, later,
        sync::{Mutex, MutexGuard},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// A lane stands still no longer than this, whatever a refusal asks for: the next attempt learns more.
const LONGEST_PAUSE: Duration = MINUTE;
/// The slowest pace: a request every two seconds, and tokens of a short one.
const SLOWEST: (f64, f64) = (0.5, 100.0);
/// How much an attempt changes an average.
const WEIGHT: f64 = 0.1;

/// The attempts of one route.
#[derive(Debug)]
pub(crate) struct Lane(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    /// Never held across an await, and only for as long as it takes to count.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    queue: Queue,
    ceilings: Vec<Ceiling>,
    quotas: Vec<(Flow, Bucket)>,
    requests: Pace,
    tokens: Pace,
    sent: Sent,
    paused: Option<Instant>,
    throttled: u64,
    /// Tokens of an answer, and how long an attempt is out: averages.
    answer: f64,
    held: f64,
}

/// What an attempt asks a lane for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) priority: Priority,
    /// Tokens of the prompt, counted.
    pub(crate) prompt: u64,
    /// Tokens of the answer at most, if the request says.
    pub(crate) max_answer: Option<u32>,
    pub(crate) deadline: Instant,
}

/// A place among the attempts of a route, freed when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    lane: Arc<Shared>,
    number: u64,
    at: Instant,
    prompt: u64,
    tokens: f64,
}

/// Why an attempt may not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many callers wait already.
    Full,
    /// The deadline comes before the turn.
    TooLate,
}

/// The state of a lane at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LaneHealth {
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
    pub(crate) throttled: u64,
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) paused: Duration,
    pub(crate) predicted_wait: Duration,
}

/// What the first one waits for.
enum Blocked {
    /// A place.
    Place,
    /// A time.
    Until(Instant),
}

impl Lane {
    pub(crate) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let ceiling = |attempts: Option<u32>, stretch| attempts.and_then(|attempts| Ceiling::new(attempts, stretch));
        let quota = |tokens: Option<u32>, stretch: Duration| {
            let tokens = f64::from(tokens?);
            let flow = Flow { rate: tokens / stretch.as_secs_f64(), capacity: (tokens / 20.0).max(1.0) };
            Some((flow, Bucket::new(now)))
        };
        let ceilings = [ceiling(limits.requests_per_second, SECOND), ceiling(limits.requests_per_minute, MINUTE)];
        let quotas = [quota(limits.tokens_per_second, SECOND), quota(limits.tokens_per_minute, MINUTE)];
        let state = State {
            in_flight: 0,
            queue: Queue::default(),
            ceilings: ceilings.into_iter().flatten().collect(),
            quotas: quotas.into_iter().flatten().collect(),
            requests: Pace::new(now, SLOWEST.0),
            tokens: Pace::new(now, SLOWEST.1),
            sent: Sent::default(),
            paused: None,
            throttled: 0,
            answer: 0.0,
            held: 0.0,
        };
        Self(Arc::new(Shared { limits, state: Mutex::new(state) }))
    }

    /// Takes a place, or waits for one in turn.
    ///
    /// Dropping the future leaves the queue and takes nothing.
    pub(crate) async fn admit(&self, ask: &Ask) -> Result<Permit, Refused> {
        let waiting = match self.0.enter(ask)? {
            Entered::Out(permit) => return Ok(permit),
            Entered::Waiting(waiting) => waiting,
        };
        // In a box: hardly anybody waits, and everybody's future would be larger for it.
        Box::pin(waiting.turn(ask)).await
    }

    /// How it is now.
    pub(crate) fn health(&self) -> LaneHealth {
        let (now, limits) = (Instant::now(), &self.0.limits);
        let state = &mut *self.0.lock();
        let all = state.queue.all();
        let rate = state.soonest(now, all, state.answer);
        // A place is awaited too, and how long that takes is known on average alone.
        let rounds = f64::from((state.in_flight + all.callers + 1).saturating_sub(limits.concurrency));
        let places = super::seconds(state.held * rounds / f64::from(limits.concurrency.max(1)));
        LaneHealth {
            in_flight: state.in_flight as usize,
            waiting: state.queue.len(),
            throttled: state.throttled,
            requests_per_second: state.requests.limit(),
            tokens_per_second: state.tokens.limit(),
            paused: state.pause(now).map_or(Duration::ZERO, |until| until - now),
            predicted_wait: rate.max(places),
        }
    }
}

enum Entered {
    Out(Permit),
    Waiting(Waiting),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, ask: &Ask) -> Result<Entered, Refused> {
        let now = Instant::now();
        let state = &mut *self.lock();
        let tokens = state.tokens_of(ask);
        if state.queue.len() == 0 && state.go(now, tokens, &self.limits).is_ok() {
            return Ok(Entered::Out(self.permit(state, ask, tokens, now)));
        }
        let place = state.queue.place(now, ask.priority);
        if state.queue.len() >= self.limits.max_waiting {
            return Err(Refused::Full);
        }
        let ahead = state.queue.ahead(place);
        let latest = state.latest(now, ask.deadline);
        if later(now, state.soonest(now, ahead, tokens)) >= latest {
            return Err(Refused::TooLate);
        }
        let turn = state.queue.enter(place, tokens);
        Ok(Entered::Waiting(Waiting { lane: Arc::clone(self), place, turn, latest }))
    }

    /// Notes what goes out. It has been let through.
    fn permit(self: &Arc<Self>, state: &mut State, ask: &Ask, tokens: f64, at: Instant) -> Permit {
        state.in_flight += 1;
        let number = state.sent.note(at, tokens);
        Permit { lane: Arc::clone(self), number, at, prompt: ask.prompt, tokens }
    }
}

/// A caller in the queue, taken out of it when dropped.
struct Waiting {
    lane: Arc<Shared>,
    place: Place,
    turn: Arc<Notify>,
    /// When it gives up.
    latest: Instant,
}

impl Waiting {
    async fn turn(self, ask: &Ask) -> Result<Permit, Refused> {
        loop {
            let until = match self.look(ask) {
                Ok(permit) => return Ok(permit),
                Err(Blocked::Place) => self.latest,
                Err(Blocked::Until(turn)) if turn >= self.latest => return Err(Refused::TooLate),
                Err(Blocked::Until(turn)) => turn,
            };
            let woken = timeout_at(until, self.turn.notified()).await;
            if woken.is_err() && Instant::now() >= self.latest {
                return Err(Refused::TooLate);
            }
        }
    }

    /// Goes out if it is the first one and nothing is in its way.
    fn look(&self, ask: &Ask) -> Result<Permit, Blocked> {
        let now = Instant::now();
        let state = &mut *self.lane.lock();
        if !state.queue.is_first(self.place) {
            return Err(Blocked::Place);
        }
        let tokens = state.tokens_of(ask);
        state.go(now, tokens, &self.lane.limits)?;
        Ok(self.lane.permit(state, ask, tokens, now))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lane.lock().queue.leave(self.place);
    }
}

impl State {
    /// What an attempt is likely to use.
    fn tokens_of(&self, ask: &Ask) -> f64 {
        let at_most = ask.max_answer.map_or(f64::INFINITY, f64::from);
        tokens(ask.prompt) + self.answer.min(at_most)
    }

    fn pause(&self, now: Instant) -> Option<Instant> {
        self.paused.filter(|until| *until > now)
    }

    /// Takes a turn, or says what is in the way; then nothing has been taken.
    fn go(&mut self, now: Instant, tokens: f64, limits: &Limits) -> Result<(), Blocked> {
        if self.in_flight >= limits.concurrency {
            return Err(Blocked::Place);
        }
        if let Some(until) = self.pause(now) {
            return Err(Blocked::Until(until));
        }
        let mut wait = self.requests.turn(now, 1.0).max(self.tokens.turn(now, tokens));
        for (flow, bucket) in &mut self.quotas {
            bucket.fill(now, *flow);
            wait = wait.max(bucket.wait(*flow, tokens, 0.0));
        }
        if !wait.is_zero() {
            return Err(Blocked::Until(later(now, wait)));
        }
        // Last, since governor takes where it is asked. A turn of the second is lost when the minute has none: then it
        // is the minute that counts.
        for ceiling in &mut self.ceilings {
            ceiling.check(now).map_err(Blocked::Until)?;
        }
        self.requests.take(now, 1.0);
        self.tokens.take(now, tokens);
        for (_, bucket) in &mut self.quotas {
            bucket.take(tokens);
        }
        Ok(())
    }

    /// When an attempt must go out that is to bring its answer by the deadline: as long before it as others are out on
    /// average, but no more than a quarter of the time, for who knows. One that goes out at the last moment costs money
    /// and answers nobody.
    fn latest(&self, now: Instant, deadline: Instant) -> Instant {
        let quarter = deadline.saturating_duration_since(now) / 4;
        deadline.checked_sub(quarter.min(super::seconds(self.held))).unwrap_or(deadline)
    }

    /// How long it takes at least until a turn comes after these, at today's pace and however soon places come free.
    fn soonest(&mut self, now: Instant, ahead: Ahead, tokens: f64) -> Duration {
        let pause = self.pause(now).map_or(Duration::ZERO, |until| until - now);
        let paces = self.requests.wait(now, 1.0, f64::from(ahead.callers));
        let paces = paces.max(self.tokens.wait(now, tokens, ahead.tokens));
        let ceilings = self.ceilings.iter().map(|ceiling| ceiling.wait(now, ahead.callers));
        let quotas = self.quotas.iter_mut().map(|(flow, bucket)| {
            bucket.fill(now, *flow);
            bucket.wait(*flow, tokens, ahead.tokens)
        });
        ceilings.chain(quotas).fold(pause.max(paces), Duration::max)
    }
}

impl Permit {
    /// The attempt failed. Of all failures, a refusal for its rate alone is the lane's business.
    pub(crate) fn failed(&self, error: &client::Error) {
        if error.kind() != ErrorKind::RateLimited {
            return;
        }
        let now = Instant::now();
        let state = &mut *self.lane.lock();
        state.throttled += 1;
        if let Some(hint) = error.retry_after() {
            let until = later(now, hint.min(LONGEST_PAUSE));
            state.paused = Some(state.paused.map_or(until, |paused| paused.max(until)));
        }
        let Some(Taken { requests, tokens }) = state.sent.refuse(self.number) else { return };
        if error.code().is_some_and(|code| code.contains("token")) {
            state.tokens.refused(now, self.at, tokens);
        } else {
            state.requests.refused(now, self.at, requests);
        }
    }

    /// The response named limits.
    pub(crate) fn told(&self, limits: &RateLimits) {
        let now = Instant::now();
        let state = &mut *self.lane.lock();
        state.requests.told(now, self.at, [limits.requests, limits.requests_dynamic]);
        state.tokens.told(now, self.at, [limits.tokens, limits.tokens_dynamic]);
        state.queue.wake_first();
    }

    /// The attempt used so much, where that is known.
    pub(crate) fn used(&self, usage: &Usage) {
        let used = tokens(usage.prompt.saturating_add(usage.completion));
        let state = &mut *self.lane.lock();
        let answer = (used - tokens(self.prompt)).max(0.0);
        state.answer = average(state.answer, answer);
        state.tokens.put_right(used - self.tokens);
        for (_, bucket) in &mut state.quotas {
            bucket.take(used - self.tokens);
        }
        state.queue.wake_first();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let state = &mut *self.lane.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.held = average(state.held, self.at.elapsed().as_secs_f64());
        state.queue.wake_first();
    }
}

/// More than four billion count as that many.
fn tokens(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn average(before: f64, now: f64) -> f64 {
    if before == 0.0 { now } else { before + (now - before) * WEIGHT }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
