//! What a request demands of a route, and by what name one that falls short is left out.

use super::{Known, Prices, RouteAsk, RouteLimits, RouteState, table::Row};
use crate::{
    inference::{JsonNeed, Needs, Rejection},
    types::{Price, Task, Tier, UpstreamId, Usage, Usd},
};

/// Tokens of an answer that a ceiling is checked against where the request sets no `max_tokens`.
const UNSET_MAX_TOKENS: u64 = 4_096;
/// Bytes of a token, as an average. A prompt's bound counts every byte as one, which would refuse most long prompts
/// that fit; the estimate lets them through.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that a request realistically takes: a quarter of its prompt's bound, and its answer in full.
pub(super) fn realistic_tokens(ask: &RouteAsk<'_>) -> u64 {
    match ask.task() {
        // Each text has a context of its own; the service looks at every single one.
        Task::Embedding | Task::Rerank => 0,
        _ => ask.prompt_tokens_at_most.div_ceil(BYTES_PER_TOKEN).saturating_add(max_tokens(ask).unwrap_or(0)),
    }
}

/// Whether tiers mean anything for the task. Vectors of two embedding models can't be compared, so that no size of
/// model replaces another.
pub(super) const fn has_tiers(task: Task) -> bool {
    !matches!(task, Task::Embedding)
}

fn max_tokens(ask: &RouteAsk<'_>) -> Option<u64> {
    ask.request.max_tokens_of().map(u64::from)
}

/// What is demanded of every route.
#[derive(Debug)]
pub(super) struct Demand<'a> {
    task: Task,
    needs: Needs,
    limits: &'a RouteLimits,
    upstream: Option<&'a UpstreamId>,
    /// Tokens that must fit into the context.
    context: u64,
    /// What a ceiling is checked against.
    billed: Usage,
    prices: Option<&'a dyn Prices>,
}

/// One demand; a route is left out at the first that stops it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hurdle {
    Upstream,
    Models,
    Tier,
    Tools,
    Vision,
    Json,
    Reasoning,
    Context,
    Cost,
}

const HURDLES: [Hurdle; 9] = [
    Hurdle::Upstream,
    Hurdle::Models,
    Hurdle::Tier,
    Hurdle::Tools,
    Hurdle::Vision,
    Hurdle::Json,
    Hurdle::Reasoning,
    Hurdle::Context,
    Hurdle::Cost,
];

impl<'a> Demand<'a> {
    /// The demands of a request that takes this many tokens.
    pub(super) fn new(ask: &'a RouteAsk<'_>, tokens: u64) -> Self {
        Self {
            task: ask.task(),
            needs: ask.needs,
            limits: &ask.limits,
            upstream: ask.request.upstream_of(),
            context: tokens.max(u64::from(ask.needs.context)),
            billed: ask.request.usage_at_most(ask.prompt_tokens_at_most, UNSET_MAX_TOKENS),
            prices: ask.prices,
        }
    }

    fn price(&self, row: &Row) -> Option<Price> {
        self.prices.and_then(|prices| prices.price(row.id())).or(row.route.price)
    }

    /// Why the route cannot serve the request, if so.
    pub(super) fn unfit(&self, row: &Row) -> Option<Rejection> {
        HURDLES.into_iter().find_map(|hurdle| hurdle.stops(self, row))
    }

    /// Whether the route only may be able to do what is needed.
    pub(super) fn unsure(&self, row: &Row) -> bool {
        let can = &row.route.capabilities;
        let (needs, schema) = (&self.needs, self.needs.json == JsonNeed::Schema);
        [
            (needs.tools, can.tools),
            (needs.vision, can.vision),
            (schema, can.json_schema),
            (needs.reasoning, can.reasoning),
        ]
        .into_iter()
        .any(|(needed, known)| needed && known != Known::Yes)
    }

    /// What none of the routes can do, in words.
    ///
    /// A demand that stops all routes by itself is the one to name; without such a one it is all those together that
    /// stop any.
    pub(super) fn impossible(&self, rows: &[Row]) -> String {
        let task = self.task;
        let in_use: Vec<&Row> = rows.iter().filter(|row| out_of_use(row).is_none()).collect();
        if rows.is_empty() {
            return format!("no {task} model is known; register a route for it");
        }
        let stopped = |hurdle: &Hurdle| in_use.iter().filter(|row| hurdle.stops(self, row).is_some()).count();
        let all = HURDLES.into_iter().filter(|hurdle| stopped(hurdle) == in_use.len());
        let some = HURDLES.into_iter().filter(|hurdle| stopped(hurdle) > 0);
        let mut named: Vec<String> = all.map(|hurdle| hurdle.clause(self)).collect();
        if named.is_empty() {
            named = some.map(|hurdle| hurdle.clause(self)).collect();
        }
        let clauses = if in_use.is_empty() { "is in use".to_owned() } else { named.join(" and ") };
        let were = if rows.len() == 1 { "route was" } else { "routes were" };
        format!("no {task} model {clauses}; {} {were} left out", rows.len())
    }
}

/// Why the route is never a default, if so.
pub(super) fn out_of_use(row: &Row) -> Option<Rejection> {
    match row.route.state {
        RouteState::Retired { .. } => Some(Rejection::Retired),
        RouteState::Preview => Some(Rejection::Preview),
        RouteState::Live | RouteState::Missing if row.route.weight > 0.0 => None,
        RouteState::Live | RouteState::Missing => Some(Rejection::NotInUse),
    }
}

impl Hurdle {
    fn stops(self, demand: &Demand<'_>, row: &Row) -> Option<Rejection> {
        let (needs, can) = (&demand.needs, &row.route.capabilities);
        let lacks = |needed: bool, known: Known, why| (needed && known == Known::No).then_some(why);
        let excluded = |out: bool| out.then_some(Rejection::Excluded);
        match self {
            Self::Upstream => excluded(demand.upstream.is_some_and(|upstream| upstream != row.id().upstream())),
            Self::Models => excluded(!demand.limits.admits(row.id().model())),
            Self::Tier => {
                let most = demand.limits.tier.filter(|most| has_tiers(demand.task) && row.tier > *most);
                most.map(|most| Rejection::Tier { most })
            }
            Self::Tools => lacks(needs.tools, can.tools, Rejection::NoTools),
            Self::Vision => lacks(needs.vision, can.vision, Rejection::NoVision),
            Self::Json => lacks(needs.json == JsonNeed::Schema, can.json_schema, Rejection::NoJsonSchema),
            Self::Reasoning => lacks(needs.reasoning, can.reasoning, Rejection::NoReasoning),
            Self::Context => too_long(demand.context, row),
            Self::Cost => demand.limits.max_cost.and_then(|most| too_dear(&demand.billed, most, demand.price(row))),
        }
    }

    fn clause(self, demand: &Demand<'_>) -> String {
        match (self, demand.limits.tier, demand.limits.max_cost, demand.upstream) {
            (Self::Upstream, _, _, Some(upstream)) => format!("is on upstream {upstream}"),
            (Self::Tier, Some(most), _, _) => format!("is {most} or less"),
            (Self::Cost, _, Some(most), _) => format!("is known to cost at most {most}"),
            (Self::Context, ..) => format!("holds {} tokens", demand.context),
            (Self::Tools, ..) => "calls tools".to_owned(),
            (Self::Vision, ..) => "reads pictures".to_owned(),
            (Self::Json, ..) => "answers in JSON of a schema".to_owned(),
            (Self::Reasoning, ..) => "reasons".to_owned(),
            (Self::Upstream | Self::Models | Self::Tier | Self::Cost, ..) => "is allowed here".to_owned(),
        }
    }
}

fn too_long(needed: u64, row: &Row) -> Option<Rejection> {
    let available = row.route.context?;
    (needed > u64::from(available)).then_some(Rejection::Context { needed, available })
}

fn too_dear(billed: &Usage, most: Usd, price: Option<Price>) -> Option<Rejection> {
    let Some(price) = price else { return Some(Rejection::Unpriced) };
    let at_most = price.upper_bound(billed);
    (at_most > most).then_some(Rejection::Cost { at_most })
}

/// How far a tier is from the one asked for: that one first, then the nearest dearer, then the nearest cheaper.
pub(super) const fn distance(asked: Tier, tier: Tier) -> usize {
    let (asked, tier) = (asked as usize, tier as usize);
    if tier >= asked { tier - asked } else { 3 + asked - tier }
}
