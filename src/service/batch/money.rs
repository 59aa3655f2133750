//! What the lines of a job set aside in the budgets that they fall under, from before it is submitted until its rows are
//! read: a day or three.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    Batches, of_store,
    records::line_request,
    submit::{is_damaged, of_spool},
};
use crate::{
    batch::{ChunkKey, ChunkRow, LineRef},
    cost::{BudgetError, Charge, CostRecord, Held, PATIENCE, SinkError, Unpriced, offer},
    inference::InferenceRequest,
    service::{Error, ErrorKind, state::State},
    store::reach,
    types::{AttemptId, Cost, Price, UsageSource, Usd},
};

/// Longer than a provider takes: after three days its support is asked.
const HELD: Duration = Duration::from_secs(4 * 86_400);

/// How long a sink that need not have the records of a batch may hold it up.
const QUICK: Duration = Duration::from_secs(1);

/// Rows that this process has charged and whose chunks are not settled yet: a file that is read once more, since it was cut
/// off, is not paid once more.
#[derive(Debug, Default)]
pub(super) struct Paid(Mutex<HashMap<ChunkKey, HashSet<AttemptId>>>);

impl Paid {
    fn has(&self, chunk: ChunkKey, row: AttemptId) -> bool {
        self.lock().get(&chunk).is_some_and(|rows| rows.contains(&row))
    }

    fn add(&self, chunk: ChunkKey, row: AttemptId) {
        self.lock().entry(chunk).or_default().insert(row);
    }

    pub(super) fn forget(&self, chunk: ChunkKey) {
        self.lock().remove(&chunk);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChunkKey, HashSet<AttemptId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands records to every sink and waits until all have them, and charges budgets: what is not recorded is not
    /// settled. The lines that were paid.
    pub(super) async fn pay(
        self: &Arc<Self>,
        batches: &Batches,
        chunk: &ChunkRow,
        billed: Vec<(CostRecord, InferenceRequest, u64)>,
    ) -> Result<Vec<u64>, Error> {
        if billed.is_empty() {
            return Ok(Vec::new());
        }
        let records: Vec<CostRecord> = billed.iter().map(|(record, ..)| record.clone()).collect();
        reach("batch: costs are about to be recorded");
        self.record_all(&records).await?;
        reach("batch: costs are recorded");
        let mut paid = Vec::with_capacity(billed.len());
        for (record, request, index) in &billed {
            paid.push(*index);
            if batches.paid.has(chunk.key, record.attempt) {
                continue;
            }
            self.settle_line(chunk, (request, *index), record).await?;
            self.totals.add(record);
            batches.paid.add(chunk.key, record.attempt);
        }
        Ok(paid)
    }

    /// Hands records to every sink. Whoever must have them has them then: each ledger, and where there is none, anybody. What
    /// another one does not take is offered to it again like the record of any call, and holds back no batch.
    async fn record_all(self: &Arc<Self>, records: &[CostRecord]) -> Result<(), Error> {
        let sinks = self.sinks.sinks();
        let is_kept = sinks.iter().any(|sink| sink.is_durable());
        let offers = sinks.iter().map(|sink| async move {
            let patience = if is_kept && !sink.is_durable() { QUICK } else { PATIENCE };
            let taken = timeout(patience, offer(&**sink, records, &[])).await;
            taken.unwrap_or_else(|_| Err(SinkError::new("it took too long")))
        });
        let offered = join_all(offers).await;
        let is_taken = offered.iter().any(Result::is_ok);
        for (sink, taken) in sinks.iter().zip(&offered) {
            if let Err(error) = taken
                && (sink.is_durable() || !is_taken)
            {
                return Err(Error::new(ErrorKind::Store, error.to_string()));
            }
        }
        for (at, taken) in offered.iter().enumerate() {
            if let Err(error) = taken {
                tracing::warn!(%error, "a cost sink did not take the records of a batch, and is offered them again");
                self.recorder.ensure_running(self);
                self.recorder.offer_again(at, records.to_vec());
            }
        }
        Ok(())
    }

    /// Sets aside the most that lines can cost, each by itself and all or none of them. `Some`: why there is no room now.
    pub(super) async fn reserve_lines(
        self: &Arc<Self>,
        chunk: &ChunkRow,
        lines: &[LineRef],
    ) -> Result<Option<String>, Error> {
        let mut done = Vec::new();
        for held in self.holds(chunk, lines.to_vec()).await? {
            if held.is_hard() && self.price_of_chunk(chunk).is_none() {
                return Ok(Some(format!("a hard budget is set, and the price of {} is not known", chunk.route)));
            }
            match self.budgets.reserve(&held).await {
                Ok(true) => done.push(held),
                Ok(false) => {}
                Err(error) => {
                    for held in done {
                        self.settle_held(&held, Charge::NotSent).await?;
                    }
                    return Ok(Some(error.to_string()));
                }
            }
        }
        Ok(None)
    }

    /// Settles what a line of a chunk had set aside, once. Where nobody remembers that it had, since budgets in memory end
    /// with their process, what was spent counts all the same.
    async fn settle_line(
        &self,
        chunk: &ChunkRow,
        (request, index): (&InferenceRequest, u64),
        record: &CostRecord,
    ) -> Result<(), Error> {
        let Some(held) = self.hold_of(chunk, request, index) else { return Ok(()) };
        let charge = Charge::Spent(match (record.cost, self.unpriced) {
            (Cost::Unpriced, _) if record.usage_source == UsageSource::UpperBound => held.hold.amount,
            (Cost::Unpriced, Unpriced::Assume(price)) => price.cost(&record.usage),
            (cost, _) => cost.charge(),
        });
        self.budgets.reserve_paid(&held).await.map_err(|error| of_budget(&error))?;
        self.settle_held(&held, charge).await
    }

    /// Gives back what all other lines of a chunk had set aside.
    pub(super) async fn release_lines(self: &Arc<Self>, chunk: &ChunkRow, but: &HashSet<u64>) -> Result<(), Error> {
        if !self.budgets.are_any() {
            return Ok(());
        }
        let batches = self.batches()?;
        let (path, batch) = (batches.journal.input_path(&chunk.key), chunk.key.batch);
        let reading = tokio::task::spawn_blocking(move || sent(&path, |name| batch.line_of(name)));
        let mut indexes = reading.await.map_err(io::Error::other).and_then(|read| read).map_err(of_spool)?;
        indexes.retain(|index| !but.contains(index));
        let lines = batches.journal.lines_at(batch, &indexes).await.map_err(of_store)?;
        for held in self.holds(chunk, lines).await? {
            self.settle_held(&held, Charge::NotSent).await?;
        }
        Ok(())
    }

    async fn settle_held(&self, held: &Held, charge: Charge) -> Result<(), Error> {
        if self.budgets.settle_now(held, charge) {
            return Ok(());
        }
        self.budgets.settle(held, charge).await.map_err(|error| of_budget(&error))
    }

    async fn holds(self: &Arc<Self>, chunk: &ChunkRow, lines: Vec<LineRef>) -> Result<Vec<Held>, Error> {
        if !self.budgets.are_any() || lines.is_empty() {
            return Ok(Vec::new());
        }
        let (state, chunk) = (Arc::clone(self), chunk.clone());
        let working = tokio::task::spawn_blocking(move || {
            let requests = state.batches().map_err(io::Error::other)?.journal.requests(chunk.key.batch)?;
            let mut holds = Vec::new();
            for line in lines {
                match state.request_at(&requests, line.request) {
                    // It is not sent.
                    Err(error) if is_damaged(&error) => {}
                    request => holds.extend(state.hold_of(&chunk, &request?, line.index)),
                }
            }
            Ok(holds)
        });
        working.await.map_err(io::Error::other).and_then(|holds| holds).map_err(of_spool)
    }

    /// What a line sets aside; nothing where no budget is over it.
    fn hold_of(&self, chunk: &ChunkRow, request: &InferenceRequest, index: u64) -> Option<Held> {
        // Without a tenant it was refused when it was planned, where one is needed.
        let drawn = self.budgets.draw(request, &chunk.route).ok().filter(|drawn| !drawn.is_empty())?;
        let most = u64::from(request.max_tokens_of().unwrap_or(self.default_max_tokens));
        let usage = request.usage_at_most(request.prompt_tokens_at_most(), most);
        let amount = self.price_of_chunk(chunk).map_or(Usd::ZERO, |price| price.upper_bound(&usage));
        Some(drawn.hold(line_request(chunk.key.batch, index).attempt(chunk.key.round), amount, HELD))
    }

    /// By what its lines are held against budgets: by their own price, or the one that is assumed.
    fn price_of_chunk(&self, chunk: &ChunkRow) -> Option<Price> {
        match (self.prices.get(&chunk.route), self.unpriced) {
            (Some(stamp), _) => Some(stamp.batch()),
            (None, Unpriced::Assume(price)) => Some(price),
            (None, Unpriced::Refuse) => None,
        }
    }
}

/// The lines that were written to be sent.
fn sent(path: &std::path::Path, line_of: impl Fn(&str) -> Option<(u16, u64)>) -> io::Result<Vec<u64>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut indexes = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line?;
        let name = line.split('"').nth(3).unwrap_or_default();
        indexes.extend(line_of(name).map(|(_, index)| index));
    }
    Ok(indexes)
}

fn of_budget(error: &BudgetError) -> Error {
    Error::new(ErrorKind::Policy, error.to_string())
}
