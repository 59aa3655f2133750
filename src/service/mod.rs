//! The facade: one call that finds the model, keeps within the limits, and says what it cost.
//!
//! [`InferenceService`] composes the policies: a [`ModelRouter`](crate::router::ModelRouter), a
//! [`CacheLayer`](crate::cache::CacheLayer), [`CostSink`](crate::cost::CostSink)s, a
//! [`BudgetStore`](crate::cost::BudgetStore) and a [`Notifier`](crate::notify::Notifier), each with a good default.
//!
//! The path of a call, in the order of the files: `plan` (validate, rank), `coalesce` (cache, one call for identical
//! requests) or `embed` (the same for each text), `attempts` (admit, `send`, fall back), `settle` (exactly one record an attempt).

mod attempts;
mod background;
#[cfg(feature = "batch")]
mod batch;
mod builder;
mod cached;
mod catalogue;
mod choice;
mod coalesce;
mod counter;
mod defer;
mod embed;
mod error;
mod estimate;
mod health;
mod in_time;
mod invalidate;
mod invalidations;
mod layer;
mod model_lists;
mod plan;
mod pricing;
mod prompt;
mod recorder;
mod refresh;
mod reserve;
mod send;
mod settle;
mod shutdown;
mod state;
mod stream;
#[cfg(feature = "schema")]
mod structured;
mod tenant;
mod told;
#[cfg(feature = "schema")]
mod typed_stream;
mod views;

use std::{future::Future, sync::Arc};

use async_trait::async_trait;

#[cfg(feature = "batch")]
pub use self::batch::{BatchBuilder, BatchOptions, BatchRows, BatchTicket, Cancel, DeferredTicket};
#[cfg(all(feature = "batch", feature = "schema"))]
pub use self::batch::{TypedRow, TypedRows};
pub use self::{
    background::{Background, WeakService},
    builder::{BuildError, ServiceBuilder},
    catalogue::{RefreshFailure, Refreshed},
    defer::Completion,
    error::{Error, ErrorKind, Truncated},
    health::{CostTotals, RouteHealth, ServiceHealth},
    shutdown::Drained,
    stream::InferenceStream,
    tenant::TenantService,
};
use self::{
    plan::Plan,
    state::{State, in_runtime},
};
#[cfg(feature = "schema")]
pub use self::{
    structured::{Repair, Typed},
    typed_stream::TypedStream,
};
use crate::{
    client::TogetherClient,
    cost::Budgets,
    inference::{Decision, Infer, InferenceRequest, InferenceResponse, Source},
    types::{BoxError, Task, Tenant},
};

/// How often a service that is set up by the environment reads the model lists.
const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);

/// Answers inference requests. Cheap to clone; clones share everything.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use together_inference::{InferenceRequest, InferenceService, testing::Together};
///
/// let together = Together::new(); // the simulator; `InferenceService::from_env()?` for the real API
/// together.on("sky").reply("Rayleigh scattering.");
/// let service = InferenceService::builder(together.client()).build()?;
///
/// let reply = service.complete(InferenceRequest::chat("Why is the sky blue?").temperature(0.0)).await?;
/// assert_eq!(reply.text(), "Rayleigh scattering.");
///
/// let again = service.complete(InferenceRequest::chat("Why is the sky blue?").temperature(0.0)).await?;
/// assert!(again.cost().known().unwrap().is_zero());
/// assert_eq!(together.calls(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct InferenceService {
    state: Arc<State>,
}

impl InferenceService {
    /// A service with every default on `TOGETHER_API_KEY` and `TOGETHER_BASE_URL`. It touches neither disk nor Redis, and
    /// needs no runtime until the first call. The model lists are read in the background, hourly,
    /// and with them [the page of deprecations](crate::client::DEPRECATIONS_URL), without the key.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the key is missing or the URL is not valid.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::builder(TogetherClient::from_env()?).refresh_catalogue_every(HOUR).build()
    }

    /// A builder on this client, whose upstream id is `together`.
    #[must_use]
    pub fn builder(client: TogetherClient) -> ServiceBuilder {
        ServiceBuilder::new(client)
    }

    /// Answers a request: routed, cached where that is safe, falling back, priced.
    ///
    /// # Errors
    ///
    /// [`Error`] of any kind; what was tried and what it cost is on it.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives everything back. A call that is not cacheable is abandoned and recorded at its upper
    /// bound; a cacheable one goes on for others and its answer is cached.
    pub fn complete(
        &self,
        request: impl Into<InferenceRequest>,
    ) -> impl Future<Output = Result<InferenceResponse, Error>> + Send + 'static {
        let (state, request) = (Arc::clone(&self.state), Arc::new(request.into()));
        async move {
            let _in_flight = state.begin()?;
            let reply = state.complete(request).await;
            log(&reply);
            reply
        }
    }

    /// Answers a request in pieces. Resolves at the first piece, so that every refusal and fallback is over before a
    /// response header need be sent. A cached answer comes in pieces too, and a whole one is kept.
    /// A `deadline` that the request does not set bounds the time
    /// to the first piece; one that it sets bounds the whole stream.
    ///
    /// # Errors
    ///
    /// [`Error`] of any kind, before the first piece.
    ///
    /// # Cancellation
    ///
    /// Dropping the future or the stream abandons the call; what had arrived is recorded.
    pub fn stream(
        &self,
        request: impl Into<InferenceRequest>,
    ) -> impl Future<Output = Result<InferenceStream, Error>> + Send + 'static {
        let (state, request) = (Arc::clone(&self.state), Arc::new(request.into()));
        async move {
            let in_flight = state.begin()?;
            Box::pin(state.stream(request, in_flight)).await
        }
    }

    /// Starts what works in the background on this runtime, as the first call would: for a process that makes none, such
    /// as a worker of batches. Without a runtime it does nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// service.start();
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(&self) {
        if in_runtime().is_ok() {
            self.state.ensure_background();
        }
    }

    /// Ranks the models for a request without calling one.
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete) before anything is sent.
    pub async fn explain(&self, request: &InferenceRequest) -> Result<Arc<Decision>, Error> {
        in_runtime()?;
        let plan = self.state.plan_for(Arc::new(request.clone()), true).await?;
        Ok(plan.ranking.decision)
    }

    /// The budgets: what is left of them, and other amounts for some.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.state.budgets
    }

    /// A handle that stamps every request with this tenant and refuses another one's.
    pub fn for_tenant(&self, tenant: impl Into<Tenant>) -> TenantService {
        TenantService::new(self.clone(), tenant.into())
    }
}

impl State {
    /// The path of one call.
    async fn complete(self: &Arc<Self>, request: Arc<InferenceRequest>) -> Result<InferenceResponse, Error> {
        let plan = self.plan(request).await?;
        self.carry_out(plan).await
    }

    /// The path of a call that is planned.
    async fn carry_out(self: &Arc<Self>, plan: Plan) -> Result<InferenceResponse, Error> {
        if plan.request.task_of() == Task::Embedding {
            return Box::pin(self.embedded(plan)).await;
        }
        match plan.request.caching() {
            Ok(control) => self.cached(plan, control).await,
            Err(bypass) => {
                // On the heap: the attempt's future is most of a call's size.
                let done = Box::pin(self.answer(&plan)).await?;
                Ok(plan.respond(&done, Source::Upstream(bypass)))
            }
        }
    }
}

/// One event a call. The caller's mistake is no error of ours.
fn log(reply: &Result<InferenceResponse, Error>) {
    match reply {
        Ok(reply) => tracing::debug!(
            model = %reply.model(),
            reason = %reply.decision.reason,
            cost = %reply.cost,
            source = %reply.source,
            attempts = reply.attempts.len(),
            "answered"
        ),
        Err(error) => tracing::debug!(kind = error.kind().as_str(), attempts = error.attempts().len(), "not answered"),
    }
}

#[async_trait]
impl Infer for InferenceService {
    async fn infer(&self, request: InferenceRequest) -> Result<InferenceResponse, BoxError> {
        self.complete(request).await.map_err(Into::into)
    }
}
