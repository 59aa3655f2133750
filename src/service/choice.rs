//! Where an attempt goes: the first candidate whose route is not ejected and whose key is not stopped.
//!
//! Asked when an attempt is about to start, not when the request is ranked: an answer from the cache uses up no probe.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    error::{Error, ErrorKind},
    plan::Plan,
    state::{RouteState, State},
};
use crate::{
    client::{self, Blame, TogetherClient},
    notify::AlertKind,
    router::{Candidate, End, Pass, Turn, Verdict},
    types::{RouteId, UpstreamId, later},
};

/// How long a stopped key rests until one call finds out whether somebody has acted.
const KEY_REST: Duration = Duration::from_secs(60);

/// The way to a route that takes the call. Gives a probe's slot and the turn of a stopped key back when it is dropped
/// before it was used.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) state: Arc<State>,
    pub(super) route: Arc<RouteState>,
    probe: bool,
    /// How many candidates before it take no call.
    pub(super) passed_over: u32,
    /// The one turn of a stopped key, until it is used.
    turn: Option<KeyTurn>,
    /// The place in the order of dispatch, once it is under way, and when that was.
    number: Option<u64>,
    since: Option<Instant>,
}

/// Why no candidate takes a call.
#[derive(Debug, Default)]
struct Nobody {
    stopped: Option<ErrorKind>,
    probe_in: Option<Duration>,
}

impl State {
    /// The first candidate that takes the call, of those that were not tried.
    ///
    /// Where nothing was tried yet, an ejected one behind it that is due for a probe goes first: a route that is never the
    /// first choice would else stay ejected.
    pub(super) fn choose(self: &Arc<Self>, plan: &Plan, tried: &[usize]) -> Result<(usize, Passage), Error> {
        let now = Instant::now();
        let mut nobody = Nobody::default();
        let (mut taken, mut passed_over) = (None, 0);
        let looks_on = tried.is_empty() && self.troubled.load(Ordering::Acquire);
        for (at, candidate) in plan.ranking.candidates.iter().enumerate().filter(|(at, _)| !tried.contains(at)) {
            let is_admitted = |route: &RouteState| route.ejection.is_admitted();
            if taken.is_some() && self.with_route(&candidate.route, is_admitted).unwrap_or(true) {
                // It was never used, or takes what comes: no probe is due.
                continue;
            }
            let route = self.route(&candidate.route);
            let others = || plan.ranking.candidates.iter().enumerate().filter(|(other, _)| *other != at);
            let alone =
                || taken.is_none() && !others().any(|(other, it)| !tried.contains(&other) && self.takes_all(it));
            let key = self.key_of(&candidate.route);
            if !route.ejection.is_shut(now)
                && let Some(kind) = key.and_then(|key| key.refuses(now))
            {
                nobody.stopped = Some(kind);
                passed_over += 1;
                continue;
            }
            let probe = match route.ejection.ask(now, alone, &*self.rng) {
                Pass::Away(next) => {
                    nobody.probe_in = [nobody.probe_in, next].into_iter().flatten().min();
                    passed_over += 1;
                    continue;
                }
                pass => pass == Pass::Probe,
            };
            if probe || taken.is_none() {
                let state = Arc::clone(self);
                let mut passage = Passage { state, route, probe, passed_over, turn: None, number: None, since: None };
                // Last: the turn is for a call that goes out, and another one may have taken it by now.
                match key.map_or(Ok(None), |key| key.ask(now)) {
                    Ok(turn) => passage.turn = turn,
                    Err(kind) => {
                        nobody.stopped = Some(kind);
                        passed_over += 1;
                        continue;
                    }
                }
                taken = Some((at, passage));
            }
            if probe || !looks_on {
                break;
            }
        }
        taken.ok_or_else(|| nobody.error(plan))
    }

    /// The place of the first candidate that would take a call, of those that were not tried.
    pub(super) fn next_taker(&self, plan: &Plan, tried: &[usize]) -> Option<usize> {
        let mut candidates = plan.ranking.candidates.iter().enumerate();
        candidates.find(|(at, candidate)| !tried.contains(at) && self.takes(candidate)).map(|(at, _)| at)
    }

    /// Whether a candidate would take a call: as any other, by its share, or as a probe.
    pub(super) fn takes(&self, candidate: &Candidate) -> bool {
        let now = Instant::now();
        let is_stopped = self.key_of(&candidate.route).is_some_and(Key::is_stopped);
        let takes = |route: &RouteState| route.ejection.takes_all() || !route.ejection.is_shut(now);
        !is_stopped && self.with_route(&candidate.route, takes).unwrap_or(true)
    }

    fn takes_all(&self, candidate: &Candidate) -> bool {
        let is_stopped = self.key_of(&candidate.route).is_some_and(Key::is_stopped);
        !is_stopped && self.with_route(&candidate.route, |route| route.ejection.takes_all()).unwrap_or(true)
    }

    /// The client of a candidate's upstream.
    pub(super) fn client_of(&self, candidate: &Candidate) -> Result<TogetherClient, Error> {
        let missing = || {
            let upstream = candidate.route.upstream();
            Error::new(
                ErrorKind::Policy,
                format!("the router names the upstream {upstream}, which the service has not"),
            )
        };
        self.client(&candidate.route).cloned().ok_or_else(missing)
    }

    /// Whether it was to be tried out and others have done so since it was ranked. Takes the turn otherwise.
    pub(super) fn is_out_of_turn(&self, candidate: &Candidate) -> bool {
        let tried_out = AssertUnwindSafe(|| self.router.try_out(&candidate.route, Instant::now()));
        candidate.trial && !catch_unwind(tried_out).unwrap_or(true)
    }

    /// Upstreams whose key is stopped.
    pub(super) fn stopped_keys(&self) -> Vec<UpstreamId> {
        let stopped = self.upstreams.iter().zip(&self.keys).filter(|(_, key)| key.is_stopped());
        stopped.map(|((id, _), _)| id.clone()).collect()
    }

    fn key_of(&self, route: &RouteId) -> Option<&Key> {
        let id = route.upstream();
        self.upstreams.iter().position(|(upstream, _)| upstream == id).and_then(|at| self.keys.get(at))
    }
}

impl Nobody {
    fn error(self, plan: &Plan) -> Error {
        let routes: Vec<_> = plan.ranking.candidates.iter().map(|candidate| candidate.route.to_string()).collect();
        let routes = routes.join(", ");
        let error = match (self.stopped, self.probe_in) {
            (Some(kind), None) => {
                let message = format!("nothing was sent: the provider refused the key of {routes}; see to the account");
                Error::new(kind, message)
            }
            (_, probe_in) => {
                let message = format!("nothing was sent: {routes} failed too often of late; try again in some seconds");
                Error::new(ErrorKind::Ejected, message).with_wait(probe_in)
            }
        };
        error.of_plan(plan)
    }
}

impl Passage {
    pub(super) const fn is_probe(&self) -> bool {
        self.probe
    }

    /// The attempt is under way.
    pub(super) fn dispatched(&mut self) {
        self.turn = None;
        self.number = Some(self.route.counts.started());
        self.since = Some(Instant::now());
    }

    /// The attempt failed: of all failures, one of the key stops it. That, and that a model is gone that the router knows,
    /// is told once a day.
    pub(super) fn failed(&self, error: &client::Error) {
        if error.kind().blame() == Blame::Model && self.state.knows(&self.route.id) {
            let title = || format!("{} is not available any more; calls go to other models", self.route.id);
            self.state.tell_once(AlertKind::ModelDeprecated, &self.route.id.to_string(), title);
        }
        let Some(kind) = Error::of_key(error.kind()) else {
            // Whatever else the provider says, it took the key.
            if error.status().is_some() {
                self.key_is_well();
            }
            return;
        };
        let alert = match kind {
            ErrorKind::UpstreamPayment => AlertKind::KeyPaymentRequired,
            _ => AlertKind::KeyUnauthorized,
        };
        if let Some(key) = self.key() {
            key.stop(kind, Instant::now());
            self.state.tell_once(alert, self.route.id.upstream().as_str(), || error.to_string());
        }
    }

    /// The provider took the key: that it refuses it is news again.
    fn key_is_well(&self) {
        if self.key().is_some_and(|key| key.well(self.since)) {
            for kind in [AlertKind::KeyPaymentRequired, AlertKind::KeyUnauthorized] {
                self.state.told.forget(kind, self.route.id.upstream().as_str());
            }
        }
    }

    fn key(&self) -> Option<&Key> {
        self.state.key_of(&self.route.id)
    }

    /// The attempt ended; what that changed.
    pub(super) fn ended(mut self, verdict: Verdict) -> Option<Turn> {
        self.end(verdict)
    }

    fn end(&mut self, verdict: Verdict) -> Option<Turn> {
        let (number, probe) = (self.number.take(), std::mem::take(&mut self.probe));
        if number.is_none() && !probe {
            return None;
        }
        if verdict == Verdict::Well {
            self.key_is_well();
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (dispatched, answered) = (count(&self.route.counts.dispatched), count(&self.route.counts.answered));
        let (route, rng) = (&self.route, &*self.state.rng);
        let turn = route.ejection.ended(&End { number, dispatched, answered, at: Instant::now(), probe, verdict }, rng);
        match turn {
            None if probe && verdict == Verdict::Ill => self.tell_ejected(),
            None => {}
            Some(Turn::Ejected) => {
                self.state.troubled.store(true, Ordering::Release);
                tracing::warn!(route = %route.id, "ejected: it fails too often");
                self.state.told.forget(AlertKind::BreakerOpen, &route.id.to_string());
                self.tell_ejected();
            }
            Some(Turn::Returned) => tracing::info!(route = %route.id, "it answers again and returns step by step"),
        }
        turn
    }
}

impl Passage {
    /// Each ejection is told once a day: with each probe that fails if nobody took it.
    fn tell_ejected(&self) {
        let route = &self.route.id;
        let title = || format!("{route} fails and gets no calls but probes");
        self.state.tell_once(AlertKind::BreakerOpen, &route.to_string(), title);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let (Some(key), Some(turn)) = (self.key(), &self.turn) {
            key.give_back(turn, Instant::now());
        }
        self.end(Verdict::Nothing);
    }
}

/// The key of an upstream: stopped when the provider refuses it, since every further call is refused as well.
#[derive(Debug, Default)]
pub(super) struct Key {
    stopped: AtomicBool,
    since: Mutex<Option<Stopped>>,
}

#[derive(Clone, Copy, Debug)]
struct Stopped {
    kind: ErrorKind,
    since: Instant,
    /// When one call may try again.
    next: Instant,
}

/// The right to try a stopped key: until when nobody else has it.
#[derive(Debug, PartialEq, Eq)]
struct KeyTurn(Instant);

impl Key {
    fn lock(&self) -> MutexGuard<'_, Option<Stopped>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no call may use the key now. Takes no turn.
    fn refuses(&self, now: Instant) -> Option<ErrorKind> {
        if !self.is_stopped() {
            return None;
        }
        self.lock().filter(|stopped| now < stopped.next).map(|stopped| stopped.kind)
    }

    /// Lets a call use the key: any call, or one whose turn it is to try it. Else why it may not.
    fn ask(&self, now: Instant) -> Result<Option<KeyTurn>, ErrorKind> {
        if !self.is_stopped() {
            return Ok(None);
        }
        let mut stopped = self.lock();
        let Some(stopped) = stopped.as_mut() else { return Ok(None) };
        if now < stopped.next {
            return Err(stopped.kind);
        }
        stopped.next = later(now, KEY_REST);
        Ok(Some(KeyTurn(stopped.next)))
    }

    /// The call did not go out: the next one may try. Whoever stopped the key again meanwhile knows better.
    fn give_back(&self, turn: &KeyTurn, now: Instant) {
        if let Some(stopped) = self.lock().as_mut().filter(|stopped| stopped.next == turn.0) {
            stopped.next = now;
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn stop(&self, kind: ErrorKind, now: Instant) {
        let mut stopped = self.lock();
        *stopped =
            Some(Stopped { kind, since: stopped.map_or(now, |stopped| stopped.since), next: later(now, KEY_REST) });
        self.stopped.store(true, Ordering::Release);
    }

    /// An attempt that was dispatched then was not refused for the key: what went out before it was stopped says nothing.
    /// Whether it was stopped until now.
    fn well(&self, dispatched: Option<Instant>) -> bool {
        if !self.is_stopped() {
            return false;
        }
        let mut stopped = self.lock();
        let is_well = stopped.is_some_and(|stopped| dispatched.is_some_and(|at| at > stopped.since));
        if is_well {
            *stopped = None;
            self.stopped.store(false, Ordering::Release);
        }
        is_well
    }
}
