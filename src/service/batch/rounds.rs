//! What becomes of lines that have no answer after a round, and of a batch that is over.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Batches, of_store,
    placer::Placer,
    row,
    submit::{is_damaged, of_spool, passed},
};
use crate::{
    batch::{
        BatchId, BatchRecord as Batch, BatchState, ChunkRow, ChunkState, LineErrorKind, LineRow, LineState, Outcome,
        Place, Way,
    },
    cost::{CostRecord, CostSink, Ending},
    events::NewJob,
    inference::{InferenceRequest, Source},
    notify::AlertKind,
    service::{Error, ErrorKind, state::State},
    types::{Cost, Priority, Usd},
};

/// Lines that are looked at together.
const PAGE: usize = 1_000;
/// How long lines rest before they are answered one by one for the first time, the second, and any other.
const AGAIN: [Duration; 3] = [Duration::ZERO, Duration::from_secs(60), Duration::from_secs(600)];
/// A batch that failed so often in a row is told of: for a minute or so.
pub(super) const TELL_AFTER: u32 = 5;
/// What was answered before the deadline is written down by then.
const WRITTEN: Duration = Duration::from_secs(10);
/// The queue of events, and the kind of this one.
const EVENTS: &str = "together-events";
const COMPLETED: &str = "batch-completed";

/// What is left of a batch's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// Enough, or it has no deadline.
    None,
    /// What waits has just time to be answered one by one.
    Near,
    /// The deadline has passed.
    Over,
}

impl State {
    /// Takes batches further whose round is over: to another round, or to their end.
    pub(crate) async fn next_rounds(self: &Arc<Self>) -> Result<(), Error> {
        let batches = self.batches()?;
        for (batch, waiting) in batches.journal.rounds_over().await.map_err(of_store)? {
            if !batches.failing.rests(&batch.id) {
                let went = self.next_round(batches, &batch, waiting).await;
                self.went(batches, batch.id, went)?;
            }
        }
        Ok(())
    }

    /// What fails about one batch holds up no other: it is told of, and tried again later.
    pub(super) fn went(
        self: &Arc<Self>,
        batches: &Batches,
        batch: BatchId,
        went: Result<(), Error>,
    ) -> Result<(), Error> {
        let error = match went {
            Ok(()) => {
                batches.failing.went_well(&batch);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::ShuttingDown => return Err(error),
            Err(error) => error,
        };
        let (times, rest) = batches.failing.failed(batch);
        tracing::warn!(%batch, %error, times, ?rest, "a batch could not be taken further; it is tried again");
        if times == TELL_AFTER {
            let title = || format!("batch {batch} cannot be taken further and waits: {error}");
            self.tell_batch(AlertKind::BatchStuck, batch.as_str(), title);
        }
        Ok(())
    }

    async fn next_round(self: &Arc<Self>, batches: &Batches, batch: &Batch, waiting: u64) -> Result<(), Error> {
        if waiting == 0 {
            return self.finish_batch(batches, batch).await;
        }
        let pressure = self.pressure(batches, batch, waiting);
        if batch.state == BatchState::Cancelling || pressure == Pressure::Over {
            let kind =
                if batch.state == BatchState::Cancelling { LineErrorKind::Cancelled } else { LineErrorKind::Late };
            self.give_up(batches, batch, kind).await?;
            return self.finish_batch(batches, batch).await;
        }
        let chunks = batches.journal.chunks(batch.id).await.map_err(of_store)?;
        let always = match pressure {
            // Nothing of it was tried yet: it was gathered line by line.
            Pressure::None if batch.round == 0 && chunks.is_empty() => None,
            Pressure::None => (waiting <= batches.options.singly_below).then_some(Way::Realtime),
            _ => Some(Way::Rescue),
        };
        let rest = rest_after(&chunks).min(time_to_rest(batch, self.clock.now()));
        if self.place_again(batches, batch, always, rest).await? {
            batches.moved();
        }
        Ok(())
    }

    /// How pressing the deadline is for so many lines.
    pub(super) fn pressure(&self, batches: &Batches, batch: &Batch, waiting: u64) -> Pressure {
        let Some(deadline) = batch.deadline else { return Pressure::None };
        let now = self.clock.now();
        let Ok(left) = deadline.duration_since(now) else { return Pressure::Over };
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let drain = Duration::try_from_secs_f64(waiting as f64 / batches.rate()).unwrap_or(Duration::MAX);
        if left <= drain.saturating_add(buffer(batch.created, deadline)) { Pressure::Near } else { Pressure::None }
    }

    /// Places what waits once more, but for what is answered one by one already; lines that were tried often enough fail
    /// with the last word on them. Whether there was anything to place.
    pub(super) async fn place_again(
        self: &Arc<Self>,
        batches: &Batches,
        batch: &Batch,
        always: Option<Way>,
        rest: Duration,
    ) -> Result<bool, Error> {
        let mut placer = Placer::new(self, batches, batch.id, always);
        let (mut at_chunks, mut ended, mut from) = (Vec::new(), Vec::new(), 0);
        loop {
            let page = batches.journal.waiting(batch.id, from, PAGE).await.map_err(of_store)?;
            let Some(last) = page.last() else { break };
            from = last.index + 1;
            let (again, tired): (Vec<_>, Vec<_>) =
                page.into_iter().partition(|line| line.attempts < u32::from(batches.options.rounds));
            ended.extend(tired.iter().map(|line| last_word(line, LineErrorKind::Missing)));
            self.place_page(batches, batch, &mut placer, again, (&mut at_chunks, &mut ended)).await?;
        }
        let has_moved = !ended.is_empty() || !at_chunks.is_empty();
        if !ended.is_empty() {
            batches.journal.end_lines(batch.id, ended).await.map_err(of_store)?;
        }
        if !at_chunks.is_empty() {
            let mut chunks = placer.chunks;
            for chunk in chunks.iter_mut().filter(|chunk| chunk.way != Way::Batch) {
                chunk.rest = rest;
            }
            batches
                .journal
                .next_round(batch.id, batch.round, chunks, &at_chunks, self.clock.now())
                .await
                .map_err(of_store)?;
        }
        Ok(has_moved)
    }

    async fn place_page(
        self: &Arc<Self>,
        batches: &Batches,
        batch: &Batch,
        placer: &mut Placer<'_>,
        lines: Vec<LineRow>,
        (at_chunks, ended): (&mut Vec<(u64, u32)>, &mut Vec<Outcome>),
    ) -> Result<(), Error> {
        let requests = batches.journal.requests(batch.id).map_err(of_spool)?;
        let mut ranked = Vec::with_capacity(lines.len());
        for line in lines {
            let request = match self.request_at(&requests, line.request) {
                Ok(request) => request,
                Err(error) if is_damaged(&error) => {
                    tracing::error!(batch = %batch.id, line = line.index, %error, "a request is damaged on the disk");
                    ended.push(failed(line.index, LineErrorKind::Unreadable));
                    continue;
                }
                Err(error) => return Err(of_spool(error)),
            };
            match self.plan_for(Arc::new(request), true).await {
                Ok(plan) => {
                    let key = plan.request.caching().is_ok().then(|| self.key(&plan));
                    ranked.push((line.index, plan, key));
                }
                Err(error) if error.kind() == ErrorKind::ShuttingDown => return Err(error),
                Err(_) => ended.push(last_word(&line, LineErrorKind::Invalid)),
            }
        }
        // Somebody may have been answered meanwhile.
        let asked: Vec<(&InferenceRequest, _)> = ranked.iter().map(|(_, plan, key)| (&*plan.request, *key)).collect();
        let answers = self.cached_lines(&asked).await;
        for ((index, plan, _), answer) in ranked.iter().zip(answers) {
            if let Some(answer) = answer {
                let bytes = row::of_answer(&answer).map_err(|error| of_spool(std::io::Error::other(error)))?;
                let place: Place = batches.journal.keep_cached(batch.id, bytes).await.map_err(of_store)?;
                let outcome = Outcome::new(*index, LineState::Done);
                ended.push(Outcome { answer: Some(place), cached: true, cost: Some(0), ..outcome });
                continue;
            }
            match placer.place(plan, *index).await? {
                Ok(at) => at_chunks.push((*index, at.chunk)),
                Err(_) => ended.push(failed(*index, LineErrorKind::Invalid)),
            }
        }
        Ok(())
    }

    /// Ends every line that waits, of a batch that nothing is under way for.
    async fn give_up(&self, batches: &Batches, batch: &Batch, kind: LineErrorKind) -> Result<(), Error> {
        let mut from = 0;
        loop {
            // Not from the first line again: those that have ended stand there.
            let page = batches.journal.waiting(batch.id, from, PAGE).await.map_err(of_store)?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.index + 1;
            let ended = page.iter().map(|line| match kind {
                LineErrorKind::Cancelled => Outcome::new(line.index, LineState::Cancelled),
                kind => failed(line.index, kind),
            });
            let ended = ended.collect();
            batches.journal.end_lines(batch.id, ended).await.map_err(of_store)?;
        }
    }

    /// Says that a batch is over, once: to the queue of events, to whoever waits, and to a person where lines failed.
    async fn finish_batch(self: &Arc<Self>, batches: &Batches, batch: &Batch) -> Result<(), Error> {
        let counts = batches.journal.counts(batch.id).await.map_err(of_store)?;
        if let Some(events) = &self.events {
            // Before the journal says so: a crash in between has it pushed again, and the queue knows it by its key.
            let (id, tenant) = (batch.id.as_str(), batch.tenant.as_ref());
            let payload =
                serde_json::json!({ "batch": id, "tenant": tenant, "name": batch.name, "failed": counts.failed });
            let job = NewJob::new(EVENTS, COMPLETED, payload).dedupe(format!("{COMPLETED}-{}", batch.id));
            events.push(job).await.map_err(|error| Error::new(ErrorKind::Store, error.to_string()))?;
        }
        if !batches.journal.finish(batch.id, self.clock.now()).await.map_err(of_store)? {
            return Ok(());
        }
        tracing::info!(batch = %batch.id, answered = counts.done, failed = counts.failed, "a batch is over");
        if counts.failed > 0 {
            let title = || format!("batch {}: {} of {} lines have no answer", batch.id, counts.failed, batch.total);
            self.tell_batch(AlertKind::BatchPartial, batch.id.as_str(), title);
        }
        batches.moved();
        Ok(())
    }

    /// Records what the cache saved.
    pub(super) async fn record_hits(self: &Arc<Self>, id: BatchId) -> Result<(), Error> {
        let batches = self.batches()?;
        let requests = batches.journal.requests(id).map_err(of_spool)?;
        let mut from = 0;
        loop {
            let page = batches.journal.lines(id, from, PAGE).await.map_err(of_store)?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.index + 1;
            let mut records = Vec::new();
            for line in page.iter().filter(|line| line.cached && line.duplicate_of.is_none()) {
                let request = self.request_at(&requests, line.request).map_err(of_spool)?;
                records.extend(self.hit_record(batches, id, line, request).await?);
            }
            if !records.is_empty() {
                let taken = CostSink::record(&self.sinks, &records).await;
                taken.map_err(|error| Error::new(ErrorKind::Store, error.to_string()))?;
                records.iter().for_each(|record| self.totals.add(record));
            }
        }
    }

    async fn hit_record(
        self: &Arc<Self>,
        batches: &Batches,
        id: BatchId,
        line: &LineRow,
        request: InferenceRequest,
    ) -> Result<Option<CostRecord>, Error> {
        let Some(place) = &line.answer else { return Ok(None) };
        let Ok(plan) = self.plan_for(Arc::new(request), true).await else { return Ok(None) };
        let route = plan.asked().clone();
        let bytes = batches.journal.read_answer(id, place).map_err(of_spool)?;
        let Ok(row::Kept::Answer(answer)) = row::read(&bytes, route.model()) else { return Ok(None) };
        let call = super::records::line_request(id, line.index);
        let mut record = plan.record(call.attempt(u16::MAX - 1), &route, self.clock.now());
        record.request = call;
        record.priority = Priority::Batch;
        record.served = Some(answer.served.clone());
        let price = self.prices.get(&route);
        record.saved = price.map_or(Cost::Unpriced, |stamp| Cost::Known(stamp.price.cost(&answer.usage)));
        record.source = Source::Cache(crate::inference::Origin::default());
        record.ending = Ending::Hit;
        record.cost = Cost::Known(Usd::ZERO);
        Ok(Some(record))
    }

    /// Rescues batches whose deadline is near while jobs of theirs are out: those are asked to stop, and what they have
    /// not finished by then is answered one by one.
    pub(crate) async fn rescue_late(self: &Arc<Self>) -> Result<(), Error> {
        let batches = self.batches()?;
        for batch in batches.journal.open_batches().await.map_err(of_store)? {
            let is_of_time = batch.deadline.is_some() && batch.state == BatchState::Running;
            if is_of_time && !batches.failing.rests(&batch.id) {
                let went = self.rescue_if_late(batches, &batch).await;
                self.went(batches, batch.id, went)?;
            }
        }
        Ok(())
    }

    async fn rescue_if_late(self: &Arc<Self>, batches: &Batches, batch: &Batch) -> Result<(), Error> {
        let waiting = batches.journal.counts(batch.id).await.map_err(of_store)?.waiting;
        if waiting == 0 {
            return Ok(());
        }
        match self.pressure(batches, batch, waiting) {
            Pressure::None => Ok(()),
            // Whatever is under way for them: what rests may rest for long.
            Pressure::Over if batch.deadline.is_some_and(|by| passed(by, self.clock.now()) >= WRITTEN) => {
                self.end_late(batches, batch).await?;
                self.finish_batch(batches, batch).await
            }
            Pressure::Near | Pressure::Over => self.rescue(batches, batch).await,
        }
    }

    /// Ends every line that waits, at the deadline.
    async fn end_late(&self, batches: &Batches, batch: &Batch) -> Result<(), Error> {
        let mut from = 0;
        loop {
            let page = batches.journal.all_waiting(batch.id, from, PAGE).await.map_err(of_store)?;
            let Some(last) = page.last() else { return Ok(()) };
            from = last.index + 1;
            let ended = page.iter().map(|line| failed(line.index, LineErrorKind::Late)).collect();
            batches.journal.end_lines(batch.id, ended).await.map_err(of_store)?;
        }
    }

    async fn rescue(self: &Arc<Self>, batches: &Batches, batch: &Batch) -> Result<(), Error> {
        let chunks = batches.journal.chunks(batch.id).await.map_err(of_store)?;
        let mut open = chunks.clone();
        // A second job of lines that have a chunk already is waited for by nobody.
        open.retain(|chunk| chunk.way == Way::Batch && !chunk.state.is_final() && chunk.lines > 0);
        if open.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let patience = batch.deadline.map_or(Duration::ZERO, |deadline| buffer(batch.created, deadline) / 2);
        let mut may_wait = false;
        for chunk in &open {
            match (chunk.state, &chunk.remote_id) {
                (ChunkState::Running, Some(_)) => {
                    batches.journal.hurry(chunk.key, now).await.map_err(of_store)?;
                    may_wait = true;
                }
                // One whose rows cannot be read is not waited for until it is too late.
                (ChunkState::Cancelling | ChunkState::Ended, _) => may_wait |= passed(chunk.since, now) < patience,
                _ => {}
            }
        }
        let has_been_rescued = chunks.iter().any(|chunk| chunk.way == Way::Rescue && chunk.key.round == batch.round);
        if may_wait || has_been_rescued {
            return Ok(());
        }
        if self.place_again(batches, batch, Some(Way::Rescue), Duration::ZERO).await? {
            tracing::warn!(batch = %batch.id, "the deadline is near: what waits is answered one by one");
            batches.moved();
        }
        Ok(())
    }
}

/// How long lines rest that were answered one by one in vain: an outage must not use up their tries at once.
fn rest_after(chunks: &[ChunkRow]) -> Duration {
    let mut rounds: Vec<u16> =
        chunks.iter().filter(|chunk| chunk.way != Way::Batch).map(|chunk| chunk.key.round).collect();
    rounds.sort_unstable();
    rounds.dedup();
    AGAIN.get(rounds.len()).or(AGAIN.last()).copied().unwrap_or_default()
}

/// What may be rested of the time that is left before the deadline: there is to be time for more than one other try.
pub(super) fn time_to_rest(batch: &Batch, now: SystemTime) -> Duration {
    batch.deadline.map_or(Duration::MAX, |deadline| deadline.duration_since(now).unwrap_or_default() / 4)
}

/// What is kept back of a window for what goes wrong: a tenth, a minute at least and ten at most.
fn buffer(from: SystemTime, to: SystemTime) -> Duration {
    let window = to.duration_since(from).unwrap_or_default();
    (window / 10).clamp(Duration::from_secs(60), Duration::from_secs(600))
}

fn failed(index: u64, kind: LineErrorKind) -> Outcome {
    Outcome { failure: Some((kind.as_str().into(), "".into(), "".into())), ..Outcome::new(index, LineState::Failed) }
}

/// What is known of a line that is not tried again.
fn last_word(line: &LineRow, otherwise: LineErrorKind) -> Outcome {
    let failure = line.failure.clone().unwrap_or_else(|| (otherwise.as_str().into(), "".into(), "".into()));
    Outcome { answer: line.answer.clone(), failure: Some(failure), ..Outcome::new(line.index, LineState::Failed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_window_is_kept_back_within_bounds() {
        let buffer = |hours: f64| {
            let from = SystemTime::UNIX_EPOCH;
            buffer(from, from + Duration::from_secs_f64(hours * 3_600.0)).as_secs()
        };
        assert_eq!([0.1, 0.5, 1.0, 24.0].map(buffer), [60, 180, 360, 600]);
    }
}
