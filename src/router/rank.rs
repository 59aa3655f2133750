//! The order of routes for one request, with its reasons.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use tokio::time::Instant;

use super::{
    Candidate, NoRoute, Ranking, RouteAsk, RouteState,
    filter::{self, Demand},
    incumbent::Rival,
    learn::{Estimate, Expected, Learned},
    score::Weights,
    table::{Climate, Row, Table},
};
use crate::{
    inference::{Condition, Considered, Decision, ModelRef, Rejection},
    types::{RouteId, Tier, UpstreamId},
};

/// What decisions of the catalogue are signed with.
const POLICY: &str = "catalog";

/// Behind whatever is there.
const MISSING: usize = 100;

type Rejected = Vec<(RouteId, Rejection)>;

/// A fit route and what its place depends on.
struct Standing<'a> {
    row: &'a Row,
    /// What comes before everything else: the distance of its tier, or its place in a list of preference.
    step: usize,
    /// Whether it only may be able to do what is needed.
    unsure: bool,
    score: f64,
    terms: [f64; 4],
    estimate: Estimate,
}

impl<'a> Standing<'a> {
    fn new(row: &'a Row, step: usize, unsure: bool, weights: Weights, (climate, now): (Climate, Instant)) -> Self {
        let expected = Expected { said: row.said, unknown: climate.unknown, common: climate.common };
        let estimate = row.learned.estimate(now, &expected);
        let terms = row.terms.weighed(weights, &estimate);
        Self { row, step, unsure, score: terms.iter().sum(), terms, estimate }
    }

    /// Best first. The id settles ties, so that the same request is always ranked alike.
    fn order(&self, other: &Self) -> Ordering {
        let key = |standing: &Self| (standing.step, standing.unsure);
        key(self)
            .cmp(&key(other))
            .then_with(|| other.score.total_cmp(&self.score))
            .then_with(|| self.row.id().cmp(other.row.id()))
    }
}

/// The routes that can serve a request, best first, and why the others cannot.
pub(super) struct Fit<'a> {
    ask: &'a RouteAsk<'a>,
    standings: Vec<Standing<'a>>,
    rejected: Rejected,
    reason: String,
    catalogue: u64,
}

/// All routes of the task for a request that takes this many tokens.
pub(super) fn any<'a>(table: &'a Table, ask: &'a RouteAsk<'_>, tokens: u64) -> Result<Fit<'a>, NoRoute> {
    let (demand, asked, task) = (Demand::new(ask, tokens), ask.tier(), ask.task());
    let (weights, climate) = (Weights::asked(ask), table.climate(task));
    let rows = table.rows(task);
    let mut standings = Vec::with_capacity(rows.len());
    let mut rejected = Vec::new();
    for row in rows {
        if let Some(why) = filter::out_of_use(row).or_else(|| demand.unfit(row)) {
            rejected.push((row.id().clone(), why));
            continue;
        }
        let distance = if filter::has_tiers(task) { filter::distance(asked, row.tier) } else { 0 };
        let step = if row.route.state == RouteState::Missing { distance + MISSING } else { distance };
        standings.push(Standing::new(row, step, demand.unsure(row), weights, (climate, ask.now)));
    }
    standings.sort_unstable_by(Standing::order);
    match standings.first() {
        Some(best) => {
            let reason = reason(ask, best.row.tier);
            Ok(Fit { ask, reason, standings, rejected, catalogue: table.fingerprint() })
        }
        None => Err(NoRoute::new(demand.impossible(rows), rejected)),
    }
}

impl Fit<'_> {
    /// The best of them, as far as they are equals but for their scores.
    pub(super) fn rivals(&self) -> Vec<Rival<'_>> {
        let Some(best) = self.standings.first() else { return Vec::new() };
        let equals = self.standings.iter().take_while(|other| (other.step, other.unsure) == (best.step, best.unsure));
        equals
            .map(|one| Rival { route: one.row.id(), score: one.score, estimate: one.estimate, valued: one.row.valued })
            .collect()
    }

    pub(super) fn learned(&self, at: usize) -> Option<&Arc<Learned>> {
        self.standings.get(at).map(|standing| &standing.row.learned)
    }

    /// The ranking, with the one at this place first, which it is in this share of all.
    pub(super) fn ranking(mut self, first: usize, propensity: f64) -> Ranking {
        if let Some(ahead) = self.standings.get_mut(..=first)
            && first > 0
        {
            ahead.rotate_right(1);
            self.reason.push_str("; incumbent within margin");
        }
        ranking(self.ask, &self.reason, (&self.standings, self.rejected), (self.catalogue, propensity))
    }
}

/// `large: realtime`, `small: named tier`, `mid: batch; no small one fits`.
fn reason(ask: &RouteAsk<'_>, got: Tier) -> String {
    if !filter::has_tiers(ask.task()) {
        return format!("{}: tiers do not apply", ask.task());
    }
    let by = if ask.request.names_tier() { "named tier" } else { ask.priority().as_str() };
    let asked = ask.tier();
    let limited = ask.limits.tier.is_some_and(|most| asked == most && asked < ask.request.tier_of());
    let reason = match (limited, got == asked) {
        (false, true) => format!("{got}: {by}"),
        (false, false) => format!("{got}: {by}; no {asked} one fits"),
        (true, true) => format!("{got}: {by}; limited to {asked}"),
        (true, false) => format!("{got}: {by}; limited to {asked}, which none is"),
    };
    reason + ask.thrift.reason()
}

/// Ranks one model's routes: nothing else, whatever becomes of it.
///
/// The length of the prompt is left to the upstream: an estimate must not refuse what might fit where there is no
/// other model to go to.
pub(super) fn pinned(table: &Table, ask: &RouteAsk<'_>, pin: &ModelRef) -> Result<Ranking, NoRoute> {
    named(table, ask, std::slice::from_ref(pin), &Demand::new(ask, 0), "pin")
}

/// Ranks these models' routes in the order in which they are named.
pub(super) fn preferred(table: &Table, ask: &RouteAsk<'_>, list: &[ModelRef]) -> Result<Ranking, NoRoute> {
    named(table, ask, list, &Demand::new(ask, filter::realistic_tokens(ask)), "preferred")
}

fn named(
    table: &Table,
    ask: &RouteAsk<'_>,
    models: &[ModelRef],
    demand: &Demand<'_>,
    why: &str,
) -> Result<Ranking, NoRoute> {
    let mut rejected = Vec::new();
    let mut found: Vec<Named> = Vec::new();
    for (step, model) in models.iter().enumerate() {
        for named in resolve(table, ask, model, step, &mut rejected) {
            if found.iter().any(|other| other.row.id() == named.row.id()) {
                continue;
            }
            match demand.unfit(&named.row) {
                Some(unfit) => rejected.push((named.row.id().clone(), unfit)),
                None => found.push(named),
            }
        }
    }
    let weights = Weights::asked(ask);
    let climate = table.climate(ask.task());
    let mut fit: Vec<Standing<'_>> = Vec::with_capacity(found.len());
    for Named { row, step, .. } in &found {
        fit.push(Standing::new(row, *step, demand.unsure(row), weights, (climate, ask.now)));
    }
    fit.sort_unstable_by(Standing::order);
    let Some(best) = fit.first() else { return Err(none_named(why, rejected)) };
    let replaced = found.iter().any(|named| named.replaced && named.row.id() == best.row.id());
    let reason = match (replaced, why) {
        (false, _) => Cow::Borrowed(why),
        (true, "pin") => Cow::Owned(format!("retired → {}", best.row.id().model())),
        (true, _) => Cow::Owned(format!("{why}; retired → {}", best.row.id().model())),
    };
    Ok(ranking(ask, &reason, (&fit, rejected), (table.fingerprint(), 1.0)))
}

/// A route that a request names, or that replaces one.
struct Named {
    row: Row,
    step: usize,
    replaced: bool,
}

/// The routes of a named model: those in the catalogue, else the replacements of those that are retired, else one of
/// which nothing is known.
fn resolve(table: &Table, ask: &RouteAsk<'_>, model: &ModelRef, step: usize, rejected: &mut Rejected) -> Vec<Named> {
    let named = |id: &RouteId, replaced| Named { row: table.row(id, ask.task()), step, replaced };
    let upstream = ask.request.upstream_of();
    let known =
        table.entries().iter().map(|entry| &entry.route).filter(|route| {
            model.matches(route.id()) && upstream.is_none_or(|upstream| upstream == route.id().upstream())
        });
    let (retired, live): (Vec<_>, Vec<_>) = known.partition(|route| matches!(route.state, RouteState::Retired { .. }));
    if !live.is_empty() {
        return live.into_iter().map(|route| named(route.id(), false)).collect();
    }
    if retired.is_empty() {
        let unset = model.upstream.as_ref().or(upstream);
        let upstream = unset.cloned().unwrap_or_else(UpstreamId::together);
        return vec![named(&RouteId::new(upstream, &model.model), false)];
    }
    let mut replacements = Vec::new();
    for route in retired {
        match table.replacement(route.id()) {
            Some(to) => replacements.push(named(to, true)),
            None => rejected.push((route.id().clone(), Rejection::Retired)),
        }
    }
    replacements
}

fn none_named(why: &str, rejected: Rejected) -> NoRoute {
    let each: Vec<String> = rejected.iter().map(|(route, unfit)| format!("{route}: {unfit}")).collect();
    let which = if why == "pin" { "the pinned model" } else { "none of the preferred models" };
    let verb = if why == "pin" { "cannot serve this request" } else { "can serve this request" };
    NoRoute::new(format!("{which} {verb}: {}", each.join("; ")), rejected)
}

fn ranking(
    ask: &RouteAsk<'_>,
    reason: &str,
    (fit, rejected): (&[Standing<'_>], Rejected),
    (catalogue, propensity): (u64, f64),
) -> Ranking {
    let mut decision = Decision::new(POLICY, ask.task(), ask.priority(), ask.tier(), reason);
    decision.settings = Weights::asked(ask).fingerprint();
    (decision.catalogue, decision.needs, decision.propensity) = (catalogue, ask.needs, propensity);
    decision.ranked = fit.iter().map(considered).collect();
    decision.rejected = rejected;
    Ranking::new(fit.iter().map(candidate).collect::<Vec<_>>(), decision)
}

fn considered(standing: &Standing<'_>) -> Considered {
    let row = standing.row;
    let Estimate { seconds, success, fresh, .. } = standing.estimate;
    let mut considered = Considered::new(row.id().clone(), row.tier, standing.score);
    considered.condition = match row.route.state {
        _ if standing.estimate.demoted => Condition::Demoted,
        RouteState::Missing => Condition::Missing,
        _ => Condition::Live,
    };
    (considered.price, considered.expected_cost, considered.terms) = (row.route.price, row.cost, standing.terms);
    (considered.expected_seconds, considered.success, considered.results) = (seconds, success, fresh);
    considered
}

fn candidate(standing: &Standing<'_>) -> Candidate {
    let route = &standing.row.route;
    let (price, max_output, context) = (route.price, route.max_output, route.context);
    Candidate { price, max_output, context, ..Candidate::new(route.id().clone()) }
}
