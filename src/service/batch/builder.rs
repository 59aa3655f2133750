//! A batch that is to be: what the caller says of it, what it would cost, and its submission.

use std::{pin::Pin, time::Duration};

use futures_core::Stream;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::{
    BatchTicket, of_store,
    planner::{Planner, Prepared},
};
#[cfg(feature = "schema")]
use crate::client::ResponseFormat;
use crate::{
    batch::{BatchLine, BatchPlan, Draft, Planned},
    cost::TooDear,
    service::{Error, ErrorKind, InferenceService, state::in_runtime},
    types::{Cost, RouteId, Tenant, Usd},
};

/// A batch that is to be estimated and submitted: [`InferenceService::batch`].
#[derive(Debug)]
#[must_use = "nothing happens before submit"]
pub struct BatchBuilder<S> {
    service: InferenceService,
    tenant: Option<Tenant>,
    requests: Option<S>,
    name: Option<Box<str>>,
    deadline: Option<Duration>,
    policy: Policy,
    /// What every answer is to be.
    #[cfg(feature = "schema")]
    shape: Option<crate::client::JsonSchema>,
    prepared: Option<Prepared>,
}

/// What is remembered of what was asked of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Policy {
    /// In nano-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_cost: Option<i64>,
    /// Whether an answer that was cut is a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) require_stop: bool,
}

impl<S> BatchBuilder<S> {
    pub(super) fn new(service: InferenceService, tenant: Option<Tenant>, requests: S) -> Self {
        let policy = Policy::default();
        Self {
            service,
            tenant,
            requests: Some(requests),
            name: None,
            deadline: None,
            policy,
            #[cfg(feature = "schema")]
            shape: None,
            prepared: None,
        }
    }

    /// Names it: submitted again under the same name with the same lines, also after a crash and by another process, it
    /// is the same batch, and nothing is sent or paid twice. With other lines it is
    /// [`ErrorKind::NameTaken`].
    pub fn name(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets when every answer is wanted, from the submission on: what no job has brought in time is answered one by one
    /// before. Without one, a batch takes as long as its jobs do.
    pub const fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// Refuses the batch where it may cost more than this, before anything is sent.
    pub const fn max_cost(mut self, most: Usd) -> Self {
        self.policy.max_cost = Some(most.nanos());
        self
    }

    /// Asks each line for a value of this type, by its JSON schema, and at temperature 0 unless the line sets one. The
    /// values are read with [`BatchTicket::results_as`].
    #[cfg(feature = "schema")]
    pub fn output<T: schemars::JsonSchema>(mut self) -> Self {
        self.shape = Some(crate::client::JsonSchema::of::<T>());
        self
    }

    /// Counts answers that were cut at their `max_tokens` as failures. They are paid and not asked for again.
    pub const fn require_stop(mut self) -> Self {
        self.policy.require_stop = true;
        self
    }
}

impl<S, L> BatchBuilder<S>
where
    S: Stream<Item = L> + Unpin,
    L: Into<BatchLine>,
{
    /// What it would be and cost. Every line is read, validated, ranked and looked up in the cache; nothing is sent.
    /// [`submit`](Self::submit) goes on from here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoBatches`] where the service has none, [`ErrorKind::Store`] where they cannot be written down,
    /// [`ErrorKind::InvalidRequest`] for lines of two tenants. A line that cannot be sent is no error: the plan names it.
    ///
    /// # Cancellation
    ///
    /// Dropping the future or the builder leaves nothing behind.
    pub async fn estimate(&mut self) -> Result<&BatchPlan, Error> {
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => self.prepare().await?,
        };
        Ok(&self.prepared.insert(prepared).plan)
    }

    async fn prepare(&mut self) -> Result<Prepared, Error> {
        in_runtime()?;
        let gone = || Error::new(ErrorKind::InvalidRequest, "the lines were read before, and that failed");
        let mut requests = self.requests.take().ok_or_else(gone)?;
        let mut planner = Planner::new(&self.service.state, self.tenant.clone()).await?;
        while let Some(line) = Pin::new(&mut requests).next().await {
            planner.add(self.shaped(line.into())).await?;
        }
        planner.finish().await
    }

    #[cfg(feature = "schema")]
    fn shaped(&self, mut line: BatchLine) -> BatchLine {
        if let Some(shape) = &self.shape {
            let request = line.request.response_format(ResponseFormat::JsonSchema(shape.clone()));
            line.request = if request.temperature_of().is_none() { request.temperature(0.0) } else { request };
        }
        line
    }

    #[cfg(not(feature = "schema"))]
    #[expect(clippy::unused_self, reason = "without schemas there is no shape")]
    fn shaped(&self, line: BatchLine) -> BatchLine {
        line
    }

    /// Submits it: returns once it is written down for good, before anything is uploaded. From then on it is carried out
    /// by whatever [worker](crate::pipeline::Pipeline) has the store, here or in another process.
    ///
    /// # Errors
    ///
    /// As [`estimate`](Self::estimate); [`ErrorKind::OverBudget`] and [`ErrorKind::Unpriced`] where it may cost more than
    /// [`max_cost`](Self::max_cost), [`ErrorKind::NameTaken`] where another batch has its name.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves either the whole batch or nothing behind.
    pub async fn submit(mut self) -> Result<BatchTicket, Error> {
        let _in_flight = self.service.state.begin()?;
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => self.prepare().await?,
        };
        self.check_cost(&prepared.plan)?;
        let state = &self.service.state;
        let Prepared { id, plan, planning, chunks, content, tenant } = prepared;
        let created = state.clock.now();
        let draft = Draft {
            id,
            tenant,
            name: self.name.clone(),
            content,
            total: plan.lines,
            created,
            // One beyond all time is none.
            deadline: self.deadline.and_then(|time| created.checked_add(time)),
            policy: serde_json::to_string(&self.policy).unwrap_or_default().into(),
        };
        match planning.finish(draft, chunks).await.map_err(of_store)? {
            Planned::New => {
                tracing::info!(batch = %id, lines = plan.lines, to_send = plan.sent(), "a batch was submitted");
                let ticket = BatchTicket::new(self.service.clone(), id);
                state.batches()?.moved();
                // It stands: whatever else fails, the caller is not to submit it again.
                if plan.cached > 0
                    && let Err(error) = state.record_hits(id).await
                {
                    tracing::warn!(batch = %id, %error, "what the cache saves a batch could not be recorded");
                }
                Ok(ticket)
            }
            Planned::Same(id) => Ok(BatchTicket::new(self.service.clone(), id)),
            Planned::NameTaken(id) => {
                let name = self.name.as_deref().unwrap_or_default();
                let message = format!("the name {name:?} is that of batch {id}, which has other lines; choose another");
                Err(Error::new(ErrorKind::NameTaken, message))
            }
        }
    }

    fn check_cost(&self, plan: &BatchPlan) -> Result<(), Error> {
        let Some(most) = self.policy.max_cost.map(Usd::from_nanos) else { return Ok(()) };
        let cost = plan.cost_at_most();
        if cost != Cost::Unpriced && plan.at_most <= most {
            return Ok(());
        }
        let route = plan.chunks.first().map_or_else(|| RouteId::new("", ""), |chunk| chunk.route.clone());
        Err(Error::of_too_dear(TooDear::new(most, vec![(route, cost)])))
    }
}
