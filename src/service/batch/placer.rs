//! Which chunk a line goes into: one model each, no larger than the provider takes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use super::{Batches, of_store};
use crate::{
    batch::{BatchId, ChunkPlan, Limits, NewChunk, Way},
    cost::Unpriced,
    inference::Input,
    router::Candidate,
    service::{Error, plan::Plan, state::State},
    types::{Price, RouteId, Usage},
};

/// The path that chat lines go to.
const CHAT: &str = "/v1/chat/completions";

/// Where a line was put.
pub(super) struct Placed {
    pub(super) chunk: u32,
    /// What it is expected to use, and at most.
    pub(super) usage: Usage,
    pub(super) usage_at_most: Usage,
    /// What it costs there, and one by one; none where no price is known.
    pub(super) prices: Option<(Price, Price)>,
}

/// The chunks of a round, filled line by line.
pub(super) struct Placer<'a> {
    state: &'a Arc<State>,
    batches: &'a Batches,
    id: BatchId,
    /// Where every line is answered one by one, how.
    always: Option<Way>,
    /// The open chunk of each model.
    open: HashMap<(RouteId, Way), usize>,
    pub(super) chunks: Vec<NewChunk>,
    pub(super) plans: Vec<ChunkPlan>,
    /// Which models refused batches of late.
    refuse: HashMap<RouteId, bool>,
}

impl<'a> Placer<'a> {
    pub(super) fn new(state: &'a Arc<State>, batches: &'a Batches, id: BatchId, always: Option<Way>) -> Self {
        let (open, refuse) = (HashMap::new(), HashMap::new());
        Self { state, batches, id, always, open, chunks: Vec::new(), plans: Vec::new(), refuse }
    }

    /// Puts a line into a chunk, or says why it goes nowhere.
    pub(super) async fn place(&mut self, plan: &Plan, index: u64) -> Result<Result<Placed, Box<str>>, Error> {
        let (candidate, singly) = self.choose(plan).await?;
        let Some(candidate) = candidate else { return Ok(Err("no model can serve it".into())) };
        let route = &candidate.route;
        let mut bytes = 0;
        if singly.is_none() {
            let body = match self.state.body_of(&plan.request, route) {
                Ok(body) => body.len() as u64,
                Err(error) => return Ok(Err(error.to_string().into())),
            };
            bytes = body + overhead(self.id, index);
            let most = self.limits(route).line_bytes;
            if bytes > most {
                return Ok(Err(format!("the line has {bytes} bytes, and the provider takes {most}").into()));
            }
        }
        let estimate = self.state.estimate(plan, candidate);
        match self.state.budgets.draw(&plan.request, route) {
            Err(_) => return Ok(Err("a hard budget of each tenant is set, and the line names none".into())),
            Ok(drawn) if drawn.is_hard() && estimate.price.is_none() && self.state.unpriced == Unpriced::Refuse => {
                return Ok(Err(format!("a hard budget is set, and the price of {route} is not known").into()));
            }
            Ok(_) => {}
        }
        let stamp = self.state.price(candidate);
        let prices = stamp.map(|stamp| (if singly.is_some() { stamp.price } else { stamp.batch() }, stamp.price));
        let chunk = self.put(route, singly, bytes, estimate.usage);
        Ok(Ok(Placed { chunk, usage: estimate.usage, usage_at_most: estimate.usage_at_most, prices }))
    }

    /// The model that a line goes to; how and why not as part of a job, where it does not.
    async fn choose<'p>(
        &mut self,
        plan: &'p Plan,
    ) -> Result<(Option<&'p Candidate>, Option<(Way, &'static str)>), Error> {
        let mut candidates = plan.ranking.candidates.iter().filter(|candidate| !candidate.trial);
        if let Some(way) = self.always {
            return Ok((candidates.next(), Some((way, "few are left, or little time"))));
        }
        if !matches!(plan.request.input(), Input::Chat(_)) {
            return Ok((candidates.next(), Some((Way::Realtime, "only chat requests go as jobs"))));
        }
        for candidate in candidates.clone() {
            if self.batches.submitter(candidate.route.upstream()).is_some() && !self.refuses(&candidate.route).await? {
                return Ok((Some(candidate), None));
            }
        }
        Ok((candidates.next(), Some((Way::Realtime, "the models for it take no batches"))))
    }

    async fn refuses(&mut self, route: &RouteId) -> Result<bool, Error> {
        if let Some(refuses) = self.refuse.get(route) {
            return Ok(*refuses);
        }
        let refuses = self.batches.journal.is_refused(route, self.state.clock.now()).await.map_err(of_store)?;
        self.refuse.insert(route.clone(), refuses);
        Ok(refuses)
    }

    fn limits(&self, route: &RouteId) -> Limits {
        self.batches.submitter(route.upstream()).map(|submitter| submitter.limits()).unwrap_or_default()
    }

    fn put(&mut self, route: &RouteId, singly: Option<(Way, &str)>, bytes: u64, usage: Usage) -> u32 {
        let way = singly.map_or(Way::Batch, |(way, _)| way);
        let (options, limits) = (&self.batches.options, self.limits(route));
        let (lines, most) = (options.chunk_lines.min(limits.lines), options.chunk_bytes.min(limits.bytes));
        let chunks = &self.chunks;
        let fits = |at: usize| chunks.get(at).is_some_and(|chunk| chunk.lines < lines && chunk.bytes + bytes <= most);
        let at = match self.open.entry((route.clone(), way)) {
            Entry::Occupied(open) if fits(*open.get()) => *open.get(),
            entry => {
                let at = self.chunks.len();
                entry.insert_entry(at);
                let (no, endpoint) = (u32::try_from(at).unwrap_or(u32::MAX), CHAT.into());
                let (to, rest) = (route.clone(), Duration::ZERO);
                self.chunks.push(NewChunk { no, route: to, endpoint, way, lines: 0, bytes: 0, tokens: 0, rest });
                let off = self.state.prices.get(route).map(|stamp| stamp.batch_percent_off);
                self.plans.push(ChunkPlan {
                    route: route.clone(),
                    lines: 0,
                    bytes: 0,
                    tokens: 0,
                    percent_off: off.filter(|percent| *percent > 0),
                    one_by_one: singly.map(|(_, why)| why.into()),
                });
                at
            }
        };
        if let (Some(chunk), Some(plan)) = (self.chunks.get_mut(at), self.plans.get_mut(at)) {
            chunk.lines += 1;
            chunk.bytes += bytes;
            chunk.tokens = chunk.tokens.saturating_add(usage.total());
            (plan.lines, plan.bytes, plan.tokens) = (chunk.lines, chunk.bytes, chunk.tokens);
        }
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

/// How many bytes stand around the body of a line.
fn overhead(id: BatchId, index: u64) -> u64 {
    // The number of the round has up to five digits, not one.
    (r#"{"custom_id":"","body":}"#.len() + "\n".len() + id.custom_id(0, index).len() + 4) as u64
}
