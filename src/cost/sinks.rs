//! Sinks that pass records on: to `tracing`, to several sinks.

use std::sync::Arc;

use async_trait::async_trait;

use super::{CostRecord, CostSink, Intent, SinkError};

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

/// Several sinks as one: each gets every page. One that fails does not keep the page from the others; the page is then
/// offered to all again.
#[derive(Clone, Debug)]
pub struct FanOut(Vec<Arc<dyn CostSink>>);

impl FanOut {
    /// These sinks.
    #[must_use]
    pub const fn new(sinks: Vec<Arc<dyn CostSink>>) -> Self {
        Self(sinks)
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
        let mut failed = Ok(());
        for sink in &self.0 {
            failed = sink.record(page).await.and(failed);
        }
        failed
    }

    fn wants_intents(&self) -> bool {
        self.0.iter().any(CostSink::wants_intents)
    }
}
