//! Each line of a batch, in one pass: validated, ranked, looked up in the cache, compared with those before, put into a
//! chunk. Nothing is sent, and of a line that was planned only what the journal has is kept.

use std::sync::Arc;

use super::{
    USUAL, of_store,
    placer::{Placed, Placer},
    row,
    seen::Seen,
};
use crate::{
    batch::{
        BatchId, BatchLine, BatchPlan, LineError, LineErrorKind, LineState, NewChunk, NewLine, Outcome, Planning, Way,
    },
    cache::CacheValue,
    inference::{Answer, CacheKey, InferenceRequest},
    service::{
        Error, ErrorKind,
        cached::fresh_answer,
        layer::ask,
        plan::Plan,
        state::{PATIENCE, State},
    },
    types::{Priority, Tenant},
};

/// Lines that are looked up together.
const BLOCK: usize = 256;
/// Lines that are written together: each commit is waited for.
const PAGE: usize = 2_048;
/// Refused lines that the plan names.
const NAMED: usize = 1_000;
/// A plan and what it stands on, to be submitted or dropped.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) id: BatchId,
    pub(super) plan: BatchPlan,
    pub(super) planning: Planning,
    pub(super) chunks: Vec<NewChunk>,
    pub(super) content: [u8; 32],
    pub(super) tenant: Option<Tenant>,
}

/// A line that was ranked and not placed yet.
struct Ranked {
    line: NewLine,
    plan: Plan,
    key: Option<CacheKey>,
}

pub(super) struct Planner<'a> {
    state: &'a Arc<State>,
    id: BatchId,
    tenant: Option<Tenant>,
    planning: Planning,
    content: blake3::Hasher,
    seen: Seen,
    block: Vec<Ranked>,
    /// Placed and not written yet.
    lines: Vec<NewLine>,
    placer: Placer<'a>,
    plan: BatchPlan,
}

impl<'a> Planner<'a> {
    pub(super) async fn new(state: &'a Arc<State>, tenant: Option<Tenant>) -> Result<Self, Error> {
        let batches = state.batches()?;
        let id = BatchId::new(state.rng.next_u128());
        let planning = batches.journal.begin(id).await.map_err(of_store)?;
        Ok(Self {
            state,
            id,
            tenant,
            planning,
            content: blake3::Hasher::new(),
            seen: Seen::default(),
            block: Vec::with_capacity(BLOCK),
            lines: Vec::new(),
            placer: Placer::new(state, batches, id, None),
            plan: BatchPlan::default(),
        })
    }

    /// Takes one line.
    pub(super) async fn add(&mut self, line: BatchLine) -> Result<(), Error> {
        let index = self.plan.lines;
        self.plan.lines += 1;
        let BatchLine { id, request } = line;
        let request = self.stamped(request.priority(Priority::Batch), index)?;
        let bytes = serde_json::to_vec(&request).map_err(|error| unwritten(index, &error.to_string()))?;
        for part in [id.as_deref().unwrap_or_default().as_bytes(), &bytes] {
            self.content.update(&part.len().to_le_bytes()).update(part);
        }
        let span = self.planning.add(&bytes).map_err(of_store)?;
        let line =
            NewLine { index, user_id: id, request: span, key: None, duplicate_of: None, chunk: None, outcome: None };
        match self.state.plan_for(Arc::new(request), true).await {
            Ok(plan) => {
                let key = plan.request.caching().is_ok().then(|| self.state.key(&plan));
                self.block.push(Ranked { line, plan, key });
            }
            Err(error) if matches!(error.kind(), ErrorKind::ShuttingDown | ErrorKind::NoRuntime) => return Err(error),
            Err(error) => self.refuse_line(line, &error.to_string())?,
        }
        if self.block.len() >= BLOCK {
            self.place_block().await?;
        }
        if self.lines.len() >= PAGE { self.write_lines().await } else { Ok(()) }
    }

    /// The first line decides whose batch it is, unless the handle did.
    fn stamped(&mut self, request: InferenceRequest, index: u64) -> Result<InferenceRequest, Error> {
        if index == 0 && self.tenant.is_none() {
            self.tenant = request.tenant_of().cloned();
        }
        let Some(tenant) = &self.tenant else {
            return if request.tenant_of().is_none() { Ok(request) } else { Err(two_tenants(index)) };
        };
        request.stamp(tenant).map_err(|_| two_tenants(index))
    }

    async fn write_lines(&mut self) -> Result<(), Error> {
        let lines = std::mem::take(&mut self.lines);
        self.planning.lines(lines).await.map_err(of_store)
    }

    fn refuse_line(&mut self, mut line: NewLine, why: &str) -> Result<(), Error> {
        let index = line.index;
        self.plan.refused_lines += 1;
        if self.plan.refused.len() < NAMED {
            self.plan.refused.push((index, why.into()));
        }
        let error = LineError::new(LineErrorKind::Invalid, "", why);
        let place = self.planning.cached(&row::of_error(&error)).map_err(of_store)?;
        line.outcome = Some(Outcome {
            answer: Some(place),
            failure: Some((error.kind.as_str().into(), "".into(), "".into())),
            ..Outcome::new(index, LineState::Failed)
        });
        self.lines.push(line);
        Ok(())
    }

    /// Looks a block up in the cache and places what is not there.
    async fn place_block(&mut self) -> Result<(), Error> {
        let block = std::mem::take(&mut self.block);
        let asked: Vec<_> = block.iter().map(|ranked| (&*ranked.plan.request, ranked.key)).collect();
        let answers = self.state.cached_lines(&asked).await;
        for (ranked, answer) in block.into_iter().zip(answers) {
            let Ranked { mut line, plan, key } = ranked;
            if let Some(answer) = answer {
                line.outcome = Some(self.answered(line.index, &answer)?);
            } else if let Some(first) = key.and_then(|key| self.seen.first(&key, line.index)) {
                self.plan.duplicates += 1;
                line.duplicate_of = Some(first);
            } else {
                match self.placer.place(&plan, line.index).await? {
                    Ok(placed) => {
                        self.add_cost(&placed);
                        line.chunk = Some(placed.chunk);
                    }
                    Err(why) => {
                        self.refuse_line(line, &why)?;
                        continue;
                    }
                }
            }
            self.lines.push(line);
        }
        Ok(())
    }

    fn answered(&mut self, index: u64, answer: &Answer) -> Result<Outcome, Error> {
        self.plan.cached += 1;
        let bytes = row::of_answer(answer).map_err(|error| unwritten(index, &error.to_string()))?;
        let place = self.planning.cached(&bytes).map_err(of_store)?;
        Ok(Outcome { answer: Some(place), cached: true, cost: Some(0), ..Outcome::new(index, LineState::Done) })
    }

    /// Adds what a line would cost to the plan.
    fn add_cost(&mut self, placed: &Placed) {
        let Some((price, realtime)) = placed.prices else {
            self.plan.unpriced_lines += 1;
            return;
        };
        self.plan.expected += price.cost(&placed.usage);
        self.plan.realtime += realtime.cost(&placed.usage);
        // Any line may have to be answered in realtime after all.
        self.plan.at_most += realtime.upper_bound(&placed.usage_at_most);
    }

    /// The plan of all lines that were added.
    pub(super) async fn finish(mut self) -> Result<Prepared, Error> {
        self.place_block().await?;
        self.write_lines().await?;
        let Self { id, mut plan, planning, placer, content, tenant, .. } = self;
        let Placer { chunks, plans, .. } = placer;
        plan.eta = chunks.iter().any(|chunk| chunk.way == Way::Batch).then_some(USUAL);
        plan.chunks = plans;
        Ok(Prepared { id, plan, planning, chunks, content: *content.finalize().as_bytes(), tenant })
    }
}

fn two_tenants(index: u64) -> Error {
    let message = format!("line {index} is another tenant's; a batch is of one tenant");
    crate::inference::InvalidRequest::new("tenant", message).into()
}

fn unwritten(index: u64, problem: &str) -> Error {
    Error::new(ErrorKind::InvalidRequest, format!("line {index} cannot be written: {problem}"))
}

impl State {
    /// What the cache has of these requests.
    pub(super) async fn cached_lines(
        &self,
        asked: &[(&InferenceRequest, Option<CacheKey>)],
    ) -> Vec<Option<Arc<Answer>>> {
        let control = |request: &InferenceRequest| request.caching().ok().filter(|control| control.read);
        let reads = asked.iter().filter(|(request, _)| control(request).is_some());
        let keys: Vec<CacheKey> = reads.filter_map(|(_, key)| *key).collect();
        let mut found = Vec::new().into_iter();
        if !keys.is_empty() {
            match ask(PATIENCE, async { self.cache.get_many(&keys).await }).await {
                Ok(entries) => found = entries.into_iter(),
                Err(error) => tracing::warn!(%error, "the cache could not be asked for the lines of a batch"),
            }
        }
        let answer = |(request, key): &(&InferenceRequest, Option<CacheKey>)| {
            let control = control(request)?;
            key.as_ref()?;
            let entry = found.next().flatten()?;
            matches!(entry.value, CacheValue::Inference(_)).then(|| fresh_answer(entry, &control)).flatten()
        };
        asked.iter().map(answer).collect()
    }
}
