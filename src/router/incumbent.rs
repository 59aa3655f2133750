//! Who is the first choice, and when another one takes over.
//!
//! # Why not simply the best score
//!
//! Scores are measured, and what is measured trembles. Where two routes are about as good, the better one of the moment
//! changes with every answer, each change loses the prompt cache, and nobody is better off. So the first choice stays
//! until another one is better by a margin and for a while, and until two calls have shown it to be so.
//!
//! What is known for sure does not tremble: where one of the two is new, has another price or can do something else, the
//! better one is first at once. What changed elsewhere in the table moves nobody.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{learn::Estimate, table::Key};
use crate::types::RouteId;

/// How much better a score must be: as much as 15 % in price where the price counts in full.
const MARGIN: f64 = 0.14;
/// For how long.
const HOLD: Duration = Duration::from_secs(1);
/// Fresh results that somebody must have before all calls go there.
const PROOF: u32 = 2;
/// How long one that lost its place may return to it without a margin, from when its probes were clean.
const RETURNS: Duration = Duration::from_secs(60);
/// First choices that are remembered; past it those of requests with bounds are forgotten, which any caller can make up.
const MOST: usize = 256;

/// The first choices of every class of requests.
#[derive(Debug, Default)]
pub(super) struct Incumbents(Mutex<HashMap<Key, Incumbent>>);

#[derive(Debug)]
struct Incumbent {
    route: RouteId,
    /// The table that it was last chosen from.
    version: u64,
    /// Who it took over from. Once its probes are clean it need not be better by a margin to return, for a while.
    before: Option<Before>,
    challenger: Option<(RouteId, Instant)>,
}

#[derive(Debug)]
struct Before {
    route: RouteId,
    /// Since when its probes are clean.
    clean_since: Option<Instant>,
}

impl Incumbent {
    fn new(route: &RouteId, version: u64) -> Self {
        Self { route: route.clone(), version, before: None, challenger: None }
    }

    /// Forgets who was before, unless it is still probed or could return a moment ago.
    fn forget_before(&mut self, rivals: &[Rival<'_>], now: Instant) {
        let Some(before) = &mut self.before else { return };
        let is_clean = rivals.iter().any(|rival| *rival.route == before.route && !rival.estimate.demoted);
        if !is_clean {
            before.clean_since = None;
        } else if now.saturating_duration_since(*before.clean_since.get_or_insert(now)) > RETURNS {
            self.before = None;
        }
    }
}

/// A route that can take a request, as far as it bears on the first choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival<'a> {
    pub(super) route: &'a RouteId,
    pub(super) score: f64,
    pub(super) estimate: Estimate,
    /// The version of the table from which on it is worth what it is.
    pub(super) valued: u64,
}

/// The first choice now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Its place among the rivals.
    pub(super) first: usize,
    /// Who gets every second call to show what it can do.
    pub(super) canary: Option<usize>,
    /// Who was the first choice until now and is slow or fails.
    pub(super) fallen: Option<usize>,
}

impl Incumbents {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Incumbent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A route was ejected: where it had just lost its place for its failures it has it again, for its ejection decides
    /// from now on who gets its calls and when it is back.
    pub(super) fn ejected(&self, route: &RouteId) {
        for incumbent in self.lock().values_mut() {
            if incumbent.before.as_ref().is_some_and(|before| before.route == *route) {
                *incumbent = Incumbent::new(route, incumbent.version);
            }
        }
    }

    /// Where the first choice of a class stands among these, without changing it.
    pub(super) fn place(&self, key: &Key, rivals: &[Rival<'_>]) -> usize {
        let known = self.lock();
        let route = known.get(key).map(|incumbent| &incumbent.route);
        route.and_then(|route| rivals.iter().position(|rival| rival.route == route)).unwrap_or_default()
    }

    /// Decides again. `rivals` are not empty, best first.
    pub(super) fn decide(&self, key: &Key, rivals: &[Rival<'_>], now: Instant, version: u64) -> Choice {
        let known = &mut *self.lock();
        let best = rivals.iter().position(|rival| !rival.estimate.demoted).unwrap_or_default();
        let Some(best_rival) = rivals.get(best) else { return Choice::default() };
        let Some(incumbent) = known.get_mut(key) else {
            let first = founder(known, key, rivals).unwrap_or(best);
            make_room(known);
            let route = rivals.get(first).map_or(best_rival.route, |first| first.route);
            known.insert(*key, Incumbent::new(route, version));
            return Choice { first, ..Choice::default() };
        };
        let anew = Choice { first: best, ..Choice::default() };
        let since = std::mem::replace(&mut incumbent.version, version);
        let place = rivals.iter().position(|rival| *rival.route == incumbent.route);
        let Some((place, stays)) = place.and_then(|place| Some((place, rivals.get(place)?))) else {
            // In the same table it only does not fit this one request.
            if since != version {
                *incumbent = Incumbent::new(best_rival.route, version);
            }
            return anew;
        };
        incumbent.forget_before(rivals, now);
        let stay = Choice { first: place, ..Choice::default() };
        let lead = best_rival.score - stays.score;
        if lead > 0.0 && since != version && best_rival.valued.max(stays.valued) > since {
            *incumbent = Incumbent::new(best_rival.route, version);
            return anew;
        }
        let is_back = incumbent.before.as_ref().is_some_and(|before| before.route == *best_rival.route);
        if best == place || lead <= if is_back { 0.0 } else { MARGIN } {
            incumbent.challenger = None;
            return stay;
        }
        let since = match &incumbent.challenger {
            Some((route, since)) if route == best_rival.route => *since,
            _ => {
                incumbent.challenger = Some((best_rival.route.clone(), now));
                return stay;
            }
        };
        if now.saturating_duration_since(since) < HOLD {
            return stay;
        }
        if best_rival.estimate.fresh < PROOF {
            return Choice { canary: Some(best), ..stay };
        }
        let before = Some(Before { route: stays.route.clone(), clean_since: None });
        *incumbent = Incumbent { before, ..Incumbent::new(best_rival.route, version) };
        Choice { first: best, canary: None, fallen: Some(place) }
    }
}

/// Who a class with bounds begins with: the first choice of the class without them, where it can.
fn founder(known: &HashMap<Key, Incumbent>, key: &Key, rivals: &[Rival<'_>]) -> Option<usize> {
    let route = &known.get(&Key { within: 0, ..*key })?.route;
    rivals.iter().position(|rival| rival.route == route && !rival.estimate.demoted)
}

fn make_room(known: &mut HashMap<Key, Incumbent>) {
    if known.len() >= MOST {
        known.retain(|key, _| key.within == 0);
    }
    if known.len() >= MOST {
        known.clear();
    }
}

#[cfg(test)]
#[path = "incumbent_tests.rs"]
mod tests;
