//! Who is the first choice, and when another one takes over.
//!
//! # Why not simply the best score
//!
//! Scores are measured, and what is measured trembles. Where two routes are about as good, the better one of the moment
//! changes with every answer, each change loses the prompt cache, and nobody is better off. So the first choice stays
//! until another one is better by a margin and for a while, and until two calls have shown it to be so.

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
/// First choices that are remembered; past it they are forgotten all at once.
const MOST: usize = 256;

/// The first choices of every class of requests.
#[derive(Debug, Default)]
pub(super) struct Incumbents(Mutex<HashMap<Key, Incumbent>>);

#[derive(Debug)]
struct Incumbent {
    route: RouteId,
    /// The table that it was chosen from: where prices and routes change, the choice is made anew.
    version: u64,
    /// Who it took over from. Once its probes are clean it need not be better by a margin to return.
    before: Option<RouteId>,
    challenger: Option<(RouteId, Instant)>,
}

/// A route that can take a request, as far as it bears on the first choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival<'a> {
    pub(super) route: &'a RouteId,
    pub(super) score: f64,
    pub(super) estimate: Estimate,
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
        for incumbent in self.lock().values_mut().filter(|incumbent| incumbent.before.as_ref() == Some(route)) {
            (incumbent.route, incumbent.before, incumbent.challenger) = (route.clone(), None, None);
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
        let mut known = self.lock();
        let best = rivals.iter().position(|rival| !rival.estimate.demoted).unwrap_or_default();
        let Some(best_rival) = rivals.get(best) else { return Choice::default() };
        let fresh = || Incumbent { route: best_rival.route.clone(), version, before: None, challenger: None };
        let Some(incumbent) = known.get_mut(key) else {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(*key, fresh());
            return Choice { first: best, ..Choice::default() };
        };
        let place = rivals.iter().position(|rival| *rival.route == incumbent.route);
        let Some(place) = place.filter(|_| incumbent.version == version) else {
            *incumbent = fresh();
            return Choice { first: best, ..Choice::default() };
        };
        let stay = Choice { first: place, ..Choice::default() };
        let lead = best_rival.score - rivals.get(place).map_or(f64::NEG_INFINITY, |rival| rival.score);
        let margin = if incumbent.before.as_ref() == Some(best_rival.route) { 0.0 } else { MARGIN };
        if best == place || lead <= margin {
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
        let before = rivals.get(place).map(|rival| rival.route.clone());
        *incumbent = Incumbent { before, ..fresh() };
        Choice { first: best, canary: None, fallen: Some(place) }
    }
}
