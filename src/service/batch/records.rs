//! What a row of a job costs, and what its record is known by.

use std::sync::Arc;

use super::{
    Batches, of_store, row,
    submit::{is_damaged, of_spool},
};
use crate::{
    batch::{BatchId, ChunkRow, RemoteId},
    cost::{CostRecord, Ending},
    inference::{Answer, InferenceRequest, Source},
    service::{Error, send::Arrival, state::State},
    types::{AttemptId, Cost, Priority, RequestId, UsageSource, Usd},
};

impl State {
    /// Records of rows whose lines were answered elsewhere meanwhile: both are billed.
    pub(super) async fn late_records(
        self: &Arc<Self>,
        batches: &Batches,
        chunk: &ChunkRow,
        job: &RemoteId,
        late: Vec<(u64, Box<str>, bytes::Bytes)>,
    ) -> Result<Vec<(CostRecord, InferenceRequest, u64)>, Error> {
        if late.is_empty() {
            return Ok(Vec::new());
        }
        let indexes: Vec<u64> = late.iter().map(|(index, ..)| *index).collect();
        let rows = batches.journal.lines_at(chunk.key.batch, &indexes).await.map_err(of_store)?;
        let requests = batches.journal.requests(chunk.key.batch).map_err(of_spool)?;
        let mut records = Vec::new();
        for (index, custom_id, body) in late {
            let Some(line) = rows.iter().find(|row| row.index == index) else { continue };
            let request = match self.request_at(&requests, line.request) {
                Err(error) if is_damaged(&error) => InferenceRequest::chat(""),
                request => request.map_err(of_spool)?,
            };
            let (record, _) = self.record_of(chunk, job.as_str(), &custom_id, &request, index, &body);
            records.push((record, request, index));
        }
        Ok(records)
    }

    /// The record of a row that the provider bills, with the answer that it has.
    pub(super) fn record_of(
        &self,
        chunk: &ChunkRow,
        job: &str,
        custom_id: &str,
        request: &InferenceRequest,
        index: u64,
        body: &bytes::Bytes,
    ) -> (CostRecord, Option<Answer>) {
        let route = &chunk.route;
        let call = line_request(chunk.key.batch, index);
        let mut record = CostRecord {
            tenant: request.tenant_of().cloned(),
            session: request.session_of().cloned(),
            tags: request.tags_of().map(|(name, value)| (name.into(), value.into())).collect(),
            task: request.task_of(),
            priority: Priority::Batch,
            source: request.caching().map_or_else(Source::Upstream, |_| Source::Miss),
            trace_id: request.trace_id_of(),
            batch: Some(job.into()),
            ..CostRecord::new(attempt_of(job, custom_id), call, route.clone(), self.clock.now())
        };
        record.ending = Ending::Answered;
        let answer = row::answer_of(body, route.model()).ok();
        let served = answer.as_ref().map_or_else(|| route.model().clone(), |answer| answer.served.clone());
        let stamp = if served == *route.model() {
            self.prices.get(route)
        } else {
            self.price_of_served(route, &served, record.at).or_else(|| self.prices.get(route))
        };
        let Some(answer) = answer else {
            // Billed, and nobody can read what it used.
            record.usage_source = UsageSource::UpperBound;
            record.cost = stamp.map_or(Cost::Unpriced, |stamp| {
                let most = u64::from(request.max_tokens_of().unwrap_or(self.default_max_tokens));
                let usage = request.usage_at_most(request.prompt_tokens_at_most(), most);
                Cost::Unknown { at_most: stamp.batch().upper_bound(&usage) }
            });
            record.price = stamp.map(|stamp| stamp.batch());
            record.price_version = stamp.map(|stamp| stamp.version);
            return (record, None);
        };
        let arrival = Arrival::of_answer(answer);
        let (usage, source) = arrival.used(request, route, &self.counter);
        record.usage = usage;
        record.usage_source = source;
        record.served = Some(served);
        record.cost = Cost::Unpriced;
        if let Some(stamp) = stamp {
            let (price, realtime) = (stamp.batch(), stamp.price.cost(&usage));
            record.price = Some(price);
            record.price_version = Some(stamp.version);
            record.cost = Cost::Known(price.cost(&usage));
            record.saved = Cost::Known(realtime - price.cost(&usage));
        } else {
            record.saved = Cost::Known(Usd::ZERO);
        }
        (record, Some(arrival.into_answer(usage, source)))
    }
}

/// The same for every reading of the same row: what a record is known by.
fn attempt_of(job: &str, custom_id: &str) -> AttemptId {
    AttemptId::new(number(&[job.as_bytes(), custom_id.as_bytes()]))
}

/// The call that a line is.
pub(super) fn line_request(batch: BatchId, index: u64) -> RequestId {
    RequestId::new(number(&[batch.as_str().as_bytes(), &index.to_le_bytes()]) >> 16)
}

fn number(parts: &[&[u8]]) -> u128 {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(&part.len().to_le_bytes()).update(part);
    }
    u128::from_le_bytes(hash.finalize().as_bytes().first_chunk().copied().unwrap_or_default())
}
