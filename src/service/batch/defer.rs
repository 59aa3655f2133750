//! Requests that may wait, gathered into batches: what the service hands over is written down before it says so.

use std::{
    collections::HashMap,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{of_store, submit::passed, ticket::LOOK};
use crate::{
    batch::{BatchId, BatchRow, Deferred, Draft, LineState, Overflow, OverflowError, Overflowing},
    inference::{InferenceRequest, Input},
    service::{Error, ErrorKind, InferenceService, state::State},
    types::{Priority, Tenant},
};

/// What a batch must take off the price for a request to wait for it, in percent.
const WORTH_WAITING: u8 = 20;
/// A batch that gathers goes out with so many lines, if not sooner.
const LINES: u64 = 1_000;
/// What a request without a deadline may take: what providers promise, and half as long again.
const PATIENCE: Duration = Duration::from_secs(36 * 3_600);
/// A ticket looks less and less often where nothing of this process tells it, down to this: there may be thousands, and they
/// wait for hours.
const SELDOM: Duration = Duration::from_secs(30);

/// Batches that gather, by tenant and by how much time there is: what is urgent does not hurry the rest.
#[derive(Debug, Default)]
pub(super) struct Gathering(Mutex<HashMap<(Option<Tenant>, u32), BatchId>>);

/// The service's own batches as its overflow.
#[derive(Debug)]
pub(in crate::service) struct Gather(pub(in crate::service) Arc<State>);

#[async_trait]
impl Overflow for Gather {
    async fn take(&self, request: &InferenceRequest, why: Overflowing) -> Result<Deferred, OverflowError> {
        let ticket = self.0.gather(request).await.map_err(OverflowError::new)?;
        Ok(Deferred::new(ticket, why))
    }
}

impl State {
    /// Writes a request down; what it is found by again.
    async fn gather(self: &Arc<Self>, request: &InferenceRequest) -> Result<String, Error> {
        let batches = self.batches()?;
        let left = if request.names_deadline() { request.deadline_of().min(PATIENCE) } else { PATIENCE };
        let tenant = request.tenant_of().cloned();
        let request = request.clone().priority(Priority::Batch);
        let bytes = serde_json::to_vec(&request).map_err(|error| {
            Error::new(ErrorKind::InvalidRequest, format!("the request cannot be written down: {error}"))
        })?;
        // Hours, rounded down to a power of two.
        let class = (left.as_secs() / 3_600).max(1).ilog2();
        loop {
            let id = self.gathering(tenant.clone(), class, left).await?;
            let deadline = self.clock.now().checked_add(left);
            let appended = batches.journal.append(id, bytes.clone(), None, deadline).await.map_err(of_store)?;
            let Some(index) = appended else {
                // It went out meanwhile.
                let mut open = batches.gathering.0.lock().unwrap_or_else(PoisonError::into_inner);
                open.retain(|_, other| *other != id);
                continue;
            };
            self.ensure_background();
            if index + 1 >= LINES {
                batches.moved();
            }
            return Ok(format!("{id}/{index}"));
        }
    }

    /// The batch that gathers such requests.
    async fn gathering(self: &Arc<Self>, tenant: Option<Tenant>, class: u32, left: Duration) -> Result<BatchId, Error> {
        let batches = self.batches()?;
        let key = (tenant.clone(), class);
        if let Some(id) = batches.gathering.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*id);
        }
        let (id, created) = (BatchId::new(self.rng.next_u128()), self.clock.now());
        let deadline = created.checked_add(left);
        let (content, policy) = (*blake3::hash(id.as_str().as_bytes()).as_bytes(), "{}".into());
        let draft = Draft { id, tenant, name: None, content, total: 0, created, deadline, policy };
        batches.journal.gather(draft).await.map_err(of_store)?;
        // Where two made one at the same time both are filled, and both go out.
        batches.gathering.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, id);
        Ok(id)
    }

    /// Whether a request that may wait is cheaper in a batch, and nobody has its answer.
    pub(in crate::service) async fn is_cheaper_later(
        self: &Arc<Self>,
        request: &Arc<InferenceRequest>,
    ) -> Result<bool, Error> {
        let Some(batches) = self.batches.as_ref().filter(|_| self.overflow.is_none()) else { return Ok(false) };
        let plan = self.plan_for(Arc::clone(request), true).await?;
        let Some(first) = plan.ranking.candidates.first().filter(|_| matches!(plan.request.input(), Input::Chat(_)))
        else {
            return Ok(false);
        };
        let percent_off = self.price(first).map_or(0, |stamp| stamp.batch_percent_off);
        if percent_off < WORTH_WAITING || batches.submitter(first.route.upstream()).is_none() {
            return Ok(false);
        }
        if batches.journal.is_refused(&first.route, self.clock.now()).await.map_err(of_store)? {
            return Ok(false);
        }
        let key = plan.request.caching().is_ok().then(|| self.key(&plan));
        Ok(self.cached_lines(&[(&plan.request, key)]).await.iter().all(Option::is_none))
    }

    /// Sends out what has gathered for long enough, or by processes that are gone.
    pub(super) async fn flush_gathered(self: &Arc<Self>) -> Result<(), Error> {
        let (batches, now) = (self.batches()?, self.clock.now());
        for (batch, lines, is_owned) in batches.journal.gatherings().await.map_err(of_store)? {
            let is_due = lines >= LINES || !is_owned || passed(batch.created, now) >= batches.options.gather;
            if is_due && batches.journal.gathered(batch.id).await.map_err(of_store)? {
                let mut open = batches.gathering.0.lock().unwrap_or_else(PoisonError::into_inner);
                open.retain(|_, other| *other != batch.id);
                drop(open);
                tracing::debug!(batch = %batch.id, lines, "deferred requests go out as a batch");
            }
        }
        Ok(())
    }
}

/// A request that was deferred. Awaiting it waits for its answer; dropping it cancels nothing.
#[derive(Clone, Debug)]
pub struct DeferredTicket {
    service: InferenceService,
    batch: BatchId,
    index: u64,
}

impl InferenceService {
    /// The ticket of a request that was [deferred](Self::complete_or_defer), here or in another process, by the text that
    /// [`Deferred::ticket`] has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoBatch`] for a text that is no ticket, or one of another store.
    pub async fn deferred(&self, ticket: &str) -> Result<DeferredTicket, Error> {
        let unknown = || Error::new(ErrorKind::NoBatch, "the store has no request of this ticket");
        let (batch, index) = ticket.split_once('/').ok_or_else(unknown)?;
        let (batch, index) = (batch.parse().map_err(|_| unknown())?, index.parse().map_err(|_| unknown())?);
        let ticket = DeferredTicket { service: self.clone(), batch, index };
        if ticket.row().await?.is_none() {
            return Err(unknown());
        }
        Ok(ticket)
    }
}

impl DeferredTicket {
    /// Its answer, if there is one already, or why there will be none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] where it cannot be read.
    pub async fn poll(&self) -> Result<Option<BatchRow>, Error> {
        match self.row().await? {
            Some(line) if line.state != LineState::Waiting => {
                Ok(self.service.state.rows_of(self.batch, vec![line]).await?.pop())
            }
            _ => Ok(None),
        }
    }

    async fn row(&self) -> Result<Option<crate::batch::LineRow>, Error> {
        let batches = self.service.state.batches()?;
        Ok(batches
            .journal
            .lines(self.batch, self.index, 1)
            .await
            .map_err(of_store)?
            .into_iter()
            .find(|line| line.index == self.index))
    }

    async fn answer(self) -> Result<BatchRow, Error> {
        let state = Arc::clone(&self.service.state);
        let batches = state.batches()?;
        let mut look = LOOK;
        loop {
            let moved = batches.moved.subscribe();
            if let Some(row) = self.poll().await? {
                return Ok(row);
            }
            state.wait_for_batch(batches, moved, look).await?;
            look = (look * 2).min(SELDOM);
        }
    }
}

impl IntoFuture for DeferredTicket {
    type Output = Result<BatchRow, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Waits for its answer. What another process brings is seen half a minute later at most.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.answer())
    }
}
