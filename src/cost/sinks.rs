//! Sinks that pass records on: to `tracing`, to several sinks.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt, future::join_all};
use tokio::time::timeout;

use super::{CostRecord, CostSink, Intent, SinkError};
use crate::types::AttemptId;

/// One `debug` event a record, at target `together_inference::cost`. No prompts.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingCosts;

#[async_trait]
impl CostSink for TracingCosts {
    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        for record in page {
            tracing::debug!(
                target: "together_inference::cost",
                attempt = %record.attempt,
                route = %record.route,
                served = record.served.as_ref().map(crate::types::ModelId::as_str),
                prompt_tokens = record.usage.prompt,
                completion_tokens = record.usage.completion,
                usage_source = ?record.usage_source,
                cost = %record.cost,
                ending = record.ending.as_str(),
                latency_ms = record.latency.as_millis(),
                "attempt settled"
            );
        }
        Ok(())
    }
}

/// How long a sink may take for a page, or a budget store to settle.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Several sinks as one: each gets every page, all at the same time. One that fails, panics or takes longer than ten
/// seconds does not keep the page from the others.
///
/// As a sink it then fails as a whole, and the page is offered to all again. A service knows its sinks apart: it offers
/// the page again to those alone that did not take it, and goes on with the others.
#[derive(Clone, Debug)]
pub struct FanOut(Vec<Arc<dyn CostSink>>);

impl FanOut {
    /// These sinks.
    #[must_use]
    pub const fn new(sinks: Vec<Arc<dyn CostSink>>) -> Self {
        Self(sinks)
    }

    pub(crate) fn sinks(&self) -> &[Arc<dyn CostSink>] {
        &self.0
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl CostSink for FanOut {
    async fn intend(&self, intent: &Intent) -> Result<(), SinkError> {
        for sink in &self.0 {
            sink.intend(intent).await?;
        }
        Ok(())
    }

    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        let offered = self.0.iter().map(|sink| offer(&**sink, page, &[]));
        join_all(offered).await.into_iter().collect()
    }

    async fn withdraw(&self, attempts: &[AttemptId]) -> Result<(), SinkError> {
        let offered = self.0.iter().map(|sink| offer(&**sink, &[], attempts));
        join_all(offered).await.into_iter().collect()
    }

    async fn flush(&self) -> Result<(), SinkError> {
        join_all(self.0.iter().map(CostSink::flush)).await.into_iter().collect()
    }

    fn wants_intents(&self) -> bool {
        self.0.iter().any(CostSink::wants_intents)
    }

    fn is_strict(&self) -> bool {
        self.0.iter().any(CostSink::is_strict)
    }

    fn is_durable(&self) -> bool {
        self.0.iter().any(CostSink::is_durable)
    }
}

/// Offers a page to one sink, once, and tells it what was not done after all: what it does wrong is an error, never a
/// panic, and within ten seconds.
pub(crate) async fn offer(sink: &dyn CostSink, page: &[CostRecord], withdrawn: &[AttemptId]) -> Result<(), SinkError> {
    let offered = async {
        if !page.is_empty() {
            sink.record(page).await?;
        }
        if withdrawn.is_empty() { Ok(()) } else { sink.withdraw(withdrawn).await }
    };
    match timeout(PATIENCE, AssertUnwindSafe(offered).catch_unwind()).await {
        Ok(Ok(taken)) => taken,
        Ok(Err(_)) => Err(SinkError::new("it panicked")),
        Err(_) => Err(SinkError::new("it took too long")),
    }
}
