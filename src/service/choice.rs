//! Where an attempt goes: the first candidate whose route is not ejected and whose key is not stopped.
//!
//! Asked when an attempt is about to start, not when the request is ranked: an answer from the cache uses up no probe.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
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
    client::{self, Blame},
    notify::AlertKind,
    router::{Candidate, Pass, Turn, Verdict},
    types::{RouteId, UpstreamId, later},
};

/// How long a stopped key rests until one call finds out whether somebody has acted.
const KEY_REST: Duration = Duration::from_secs(60);

/// The way to a route that takes the call. Gives a probe's slot back when it is dropped before it was used.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) state: Arc<State>,
    pub(super) route: Arc<RouteState>,
    probe: bool,
    /// The place in the order of dispatch, once it is under way.
    number: Option<u64>,
}

/// Why no candidate takes a call.
#[derive(Debug, Default)]
struct Nobody {
    stopped: Option<ErrorKind>,
    probe_in: Option<Duration>,
}

impl State {
    /// The first candidate from this place on that takes the call.
    pub(super) fn choose(self: &Arc<Self>, plan: &Plan, from: usize) -> Result<(usize, Passage), Error> {
        let now = Instant::now();
        let mut nobody = Nobody::default();
        for (at, candidate) in plan.ranking.candidates.iter().enumerate().skip(from) {
            if let Some(kind) = self.key_of(&candidate.route).and_then(|key| key.ask(now)) {
                nobody.stopped = Some(kind);
                continue;
            }
            let route = self.route(&candidate.route);
            let others = || plan.ranking.candidates.iter().filter(|other| other.route != candidate.route);
            let alone = || !others().any(|other| self.takes(other));
            match route.ejection.ask(now, alone, &*self.rng) {
                Pass::Away(next) => nobody.probe_in = [nobody.probe_in, next].into_iter().flatten().min(),
                pass => {
                    let probe = pass == Pass::Probe;
                    return Ok((at, Passage { state: Arc::clone(self), route, probe, number: None }));
                }
            }
        }
        Err(nobody.error(plan))
    }

    /// The place of the first candidate from this one on that would take a call, probes aside.
    pub(super) fn next_taker(&self, plan: &Plan, from: usize) -> Option<usize> {
        let mut candidates = plan.ranking.candidates.iter().enumerate().skip(from);
        candidates.find(|(_, candidate)| self.takes(candidate)).map(|(at, _)| at)
    }

    fn takes(&self, candidate: &Candidate) -> bool {
        let is_stopped = self.key_of(&candidate.route).is_some_and(Key::is_stopped);
        !is_stopped && self.with_route(&candidate.route, |route| route.ejection.is_admitted()).unwrap_or(true)
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
        self.number = Some(self.route.counts.started());
    }

    /// The attempt failed: of all failures, one of the key stops it, and tells somebody once; that a model is gone is
    /// told once a day.
    pub(super) fn failed(&self, error: &client::Error) {
        if error.kind().blame() == Blame::Model {
            let title = || format!("{} is not available any more; calls go to other models", self.route.id);
            self.state.tell_once(AlertKind::ModelDeprecated, &self.route.id.to_string(), title);
        }
        let Some(kind) = Error::of_key(error.kind()) else {
            // Whatever else the provider says, it took the key.
            if error.status().is_some() {
                self.key().into_iter().for_each(Key::well);
            }
            return;
        };
        let alert = match kind {
            ErrorKind::UpstreamPayment => AlertKind::KeyPaymentRequired,
            _ => AlertKind::KeyUnauthorized,
        };
        if self.key().is_some_and(|key| key.stop(kind, Instant::now())) {
            self.state.alert(alert, self.route.id.upstream().as_str(), &error.to_string());
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
            self.key().into_iter().for_each(Key::well);
        }
        let answered = self.route.counts.answered.load(Ordering::Relaxed);
        let (route, rng) = (&self.route, &*self.state.rng);
        let turn = route.ejection.ended(number.unwrap_or(0), answered, Instant::now(), probe, verdict, rng);
        match turn {
            None => {}
            Some(Turn::Ejected) => {
                tracing::warn!(route = %route.id, "ejected: it fails too often");
                let title = format!("{} fails and gets no calls but probes", route.id);
                self.state.alert(AlertKind::BreakerOpen, &route.id.to_string(), &title);
            }
            Some(Turn::Returned) => tracing::info!(route = %route.id, "it answers again and returns step by step"),
        }
        turn
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
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
    /// When one call may try again.
    next: Instant,
}

impl Key {
    /// Why no call may use the key now.
    fn ask(&self, now: Instant) -> Option<ErrorKind> {
        if !self.is_stopped() {
            return None;
        }
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = since.as_mut()?;
        if now < stopped.next {
            return Some(stopped.kind);
        }
        stopped.next = later(now, KEY_REST);
        None
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether it was not stopped before.
    fn stop(&self, kind: ErrorKind, now: Instant) -> bool {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Stopped { kind, next: later(now, KEY_REST) });
        !self.stopped.swap(true, Ordering::AcqRel)
    }

    fn well(&self) {
        if self.is_stopped() {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.stopped.store(false, Ordering::Release);
        }
    }
}
