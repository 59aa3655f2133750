//! Which of the fit routes stands first: the finished rankings, the trials, and what results teach.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::CatalogRouter;
use crate::{
    client::Blame,
    inference::Decision,
    router::{
        NoRoute, Observation, Outcome, Ranking, RouteAsk, RouteLimits, filter,
        incumbent::Rival,
        learn::{self, Change, Learned},
        rank::{self, Fit},
        score,
        table::{Entry, Finished, Key, Table, Trial},
    },
    types::{Usage, later},
};

/// How long a ranking holds while results come in: what they teach shows within it.
const STEADY: Duration = Duration::from_millis(250);
/// How long it holds while none do: estimates fade.
const FADING: Duration = Duration::from_secs(5);
/// A route that answers more often than this and lost its place lost it for its latency.
const STILL_GOOD: f64 = 0.98;

impl CatalogRouter {
    /// Ranks all routes, from the finished rankings where one holds. What fits a ceiling depends on the prompt's length:
    /// those are ranked anew each time.
    pub(super) fn rank_any(&self, table: &Table, ask: &RouteAsk<'_>) -> Result<Ranking, NoRoute> {
        let (tokens, key) = (filter::realistic_tokens(ask), key(ask));
        if ask.limits.max_cost.is_some() {
            let (ranking, trials) = self.decide(table, ask, rank::any(table, ask, tokens)?, &key);
            return Ok(self.shown(ranking, &trials, ask));
        }
        let finished = match table.finished(&key).filter(|finished| self.holds(finished, ask.now)) {
            Some(finished) => finished,
            None => self.finish(table, ask, key)?,
        };
        // Longer than the shortest context: some of those routes have to be left out, by name.
        if tokens > finished.tokens {
            return self.rank_one(table, ask, (tokens, key));
        }
        Ok(self.shown(finished.ranking, &finished.trials, ask))
    }

    /// Ranks for this request alone, around the first choice of its class.
    fn rank_one(&self, table: &Table, ask: &RouteAsk<'_>, (tokens, key): (u64, Key)) -> Result<Ranking, NoRoute> {
        let fit = rank::any(table, ask, tokens)?;
        let first = self.incumbents.place(&key, &fit.rivals());
        Ok(fit.ranking(first, 1.0))
    }

    fn holds(&self, finished: &Finished, now: Instant) -> bool {
        let age = now.saturating_duration_since(finished.made);
        let (turns, results) = (self.turns.load(Ordering::Acquire), self.results.load(Ordering::Acquire));
        finished.turns == turns && (age < STEADY || (finished.results == results && age < FADING))
    }

    fn finish(&self, table: &Table, ask: &RouteAsk<'_>, key: Key) -> Result<Finished, NoRoute> {
        // Before anything is read: what is learned meanwhile makes it old.
        let (turns, results) = (self.turns.load(Ordering::Acquire), self.results.load(Ordering::Acquire));
        let (ranking, trials) = self.decide(table, ask, rank::any(table, ask, 0)?, &key);
        let contexts = ranking.candidates.iter().filter_map(|one| one.context);
        let tokens = contexts.min().map_or(u64::MAX, u64::from);
        let finished = Finished { ranking, tokens, made: ask.now, turns, results, trials };
        table.finish(key, finished.clone());
        Ok(finished)
    }

    /// The ranking of these around the first choice of their class, and who is on trial for its place.
    fn decide(&self, table: &Table, ask: &RouteAsk<'_>, fit: Fit<'_>, key: &Key) -> (Ranking, Arc<[Trial]>) {
        let rivals = fit.rivals();
        let choice = self.incumbents.decide(key, &rivals, ask.now, table.version());
        // Of some of them nobody can say what all have in common.
        if key.within == 0 {
            table.set_common(key.task, common(table.climate(key.task).common, &rivals, choice.first));
        }
        if let Some(fallen) = choice.fallen {
            let is_slow = |at: usize| rivals.get(at).is_some_and(|rival| rival.estimate.success > STILL_GOOD);
            fit.learned(fallen).into_iter().for_each(|learned| learned.demote(ask.now, is_slow(fallen)));
        }
        let trial = |at: usize, canary| fit.learned(at).map(|learned| (at, canary, Arc::clone(learned)));
        let is_demoted = |(at, rival): (usize, &Rival<'_>)| {
            (at != choice.first && (rival.estimate.demoted || choice.fallen == Some(at))).then_some(at)
        };
        let demoted = rivals.iter().enumerate().filter_map(is_demoted).filter_map(|at| trial(at, false));
        let trials: Vec<_> = choice.canary.and_then(|at| trial(at, true)).into_iter().chain(demoted).collect();
        // Those before the first choice move back by one place.
        let place = |at: usize| if at < choice.first { at + 1 } else { at };
        let trial = |(at, canary, learned): (usize, bool, Arc<Learned>)| {
            let share = if canary { 0.5 } else { learned.probe_share() };
            Trial { at: place(at), canary, share, learned }
        };
        let trials: Arc<[Trial]> = trials.into_iter().map(trial).collect();
        let rest = trials.iter().map(|trial| 1.0 - trial.share).product();
        (fit.ranking(choice.first, rest), trials)
    }

    /// The ranking, or one with a route on trial before the first choice if it is its turn.
    fn shown(&self, ranking: Ranking, trials: &[Trial], ask: &RouteAsk<'_>) -> Ranking {
        if ask.rehearsal {
            return ranking;
        }
        let its_turn = |trial: &&Trial| if trial.canary { self.ask_canary() } else { trial.learned.ask_probe(ask.now) };
        let Some(trial) = trials.iter().find(its_turn) else { return ranking };
        let mut candidates = ranking.candidates.to_vec();
        let mut decision = Decision::clone(&ranking.decision);
        if let (Some(candidates), Some(ranked)) =
            (candidates.get_mut(..=trial.at), decision.ranked.get_mut(..=trial.at))
        {
            candidates.rotate_right(1);
            ranked.rotate_right(1);
            candidates.iter_mut().take(1).for_each(|first| first.trial = true);
            decision.propensity = trial.share;
            decision.reason = format!("{}; {}", decision.reason, if trial.canary { "canary" } else { "probe" }).into();
        }
        Ranking::new(candidates, decision)
    }

    /// Whether a call of now is a canary's: every second one. Its turn stays until it goes out.
    fn ask_canary(&self) -> bool {
        let passes = |turn: u64| (turn % 2 == 1).then_some(turn + 1);
        self.canaries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, passes).is_err()
    }

    /// Takes a canary's turn, if nobody else did.
    pub(super) fn take_canary(&self) -> bool {
        let takes = |turn: u64| turn.is_multiple_of(2).then_some(turn + 1);
        self.canaries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, takes).is_ok()
    }

    /// Learns from the end of an attempt.
    pub(super) fn learn(&self, entry: &Entry, climate: f64, seen: &Observation) {
        let (route, learned) = (&entry.route, &entry.learned);
        if let Some(out) = seen.ejected {
            learned.ejected(out, later(seen.dispatched, seen.took));
            if out {
                self.incumbents.ejected(route.id());
            }
            self.turns.fetch_add(1, Ordering::AcqRel);
        }
        let result = learn::Seen {
            dispatched: seen.dispatched,
            took: seen.took,
            held_up: seen.held_up,
            first: seen.first_token,
            usage: if let Outcome::Answered(usage) = seen.outcome { usage } else { Usage::default() },
        };
        let change = match seen.outcome {
            Outcome::Answered(_) => learned.answered(&result, score::said_seconds(route), climate),
            Outcome::Failed(kind) if kind.blame() == Blame::Upstream => learned.failed(&result),
            Outcome::Failed(_) | Outcome::Cancelled => return,
        };
        self.results.fetch_add(1, Ordering::AcqRel);
        if change == Change::Returned {
            self.turns.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The class of requests that one belongs to.
fn key(ask: &RouteAsk<'_>) -> Key {
    let RouteLimits { tier, allow, deny, max_cost } = &ask.limits;
    let upstream = ask.request.upstream_of();
    let bounds = (tier, &**allow, &**deny, max_cost, upstream);
    let within = if matches!(bounds, (None, [], [], None, None)) {
        0
    } else {
        let mut hasher = DefaultHasher::new();
        bounds.hash(&mut hasher);
        hasher.finish().max(1)
    };
    Key {
        task: ask.task(),
        priority: ask.priority(),
        tier: ask.tier(),
        named: ask.request.names_tier(),
        needs: ask.needs,
        thrift: ask.thrift,
        within,
    }
}

/// How much slower than expected all routes are: as much as the fastest one of which anything is known. Of a single one
/// nobody can say whether it is the only one, unless it was known before.
fn common(before: f64, rivals: &[Rival<'_>], first: usize) -> f64 {
    let fresh = || rivals.iter().filter(|rival| rival.estimate.fresh >= 2).map(|rival| rival.estimate.slower);
    let fastest = fresh().fold(f64::INFINITY, f64::min).max(0.0);
    match fresh().count() {
        0 => before,
        1 => fastest.min(before),
        _ => rivals.get(first).map_or(fastest, |first| fastest.min(first.estimate.slower.max(0.0))),
    }
}
