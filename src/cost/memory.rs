//! The latest records, in memory.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{CostRecord, CostSink, SinkError};
use crate::types::{AttemptId, Usd};

/// Keeps the latest records in this process; older ones are forgotten, nothing survives a restart. Clones share the
/// records.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceService, cost::MemoryCosts, testing::Together};
///
/// let (together, costs) = (Together::new(), MemoryCosts::default());
/// let service = InferenceService::builder(together.client()).cost_sink(costs.clone()).build()?;
/// service.complete("Why is the sky blue?").await?;
/// service.shutdown(std::time::Duration::from_secs(1)).await; // writes what is still on its way
///
/// assert_eq!(costs.records().len(), 1);
/// assert_eq!(costs.known().nanos(), together.bill().nano_usd);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryCosts {
    most: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<CostRecord>,
    /// Those of the records, to know one that comes twice.
    attempts: HashSet<AttemptId>,
}

impl MemoryCosts {
    /// Keeps at most this many records.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), together_inference::cost::SinkError> {
    /// use std::time::SystemTime;
    /// use together_inference::{RouteId, cost::{CostRecord, CostSink, MemoryCosts}, types::RequestId};
    ///
    /// let costs = MemoryCosts::new(2);
    /// for call in [1, 2, 3].map(RequestId::new) {
    ///     let record = CostRecord::new(call.attempt(0), call, RouteId::new("local", "m"), SystemTime::now());
    ///     costs.record(&[record]).await?;
    /// }
    /// let kept: Vec<_> = costs.records().iter().map(|record| record.request.value()).collect();
    /// assert_eq!(kept, [2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, kept: Arc::default() }
    }

    /// The records that are kept, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<CostRecord> {
        self.lock().records.iter().cloned().collect()
    }

    /// The sum of the known costs that are kept.
    #[must_use]
    pub fn known(&self) -> Usd {
        self.lock().records.iter().filter_map(CostRecord::cost_usd).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryCosts {
    /// The latest 10,000 records.
    fn default() -> Self {
        Self::new(10_000)
    }
}

#[async_trait]
impl CostSink for MemoryCosts {
    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        let mut kept = self.lock();
        for record in page {
            // A page that failed is offered again, and other sinks beside this one may be why it failed.
            if !kept.attempts.insert(record.attempt) {
                continue;
            }
            kept.records.push_back(record.clone());
            if kept.records.len() > self.most
                && let Some(oldest) = kept.records.pop_front()
            {
                kept.attempts.remove(&oldest.attempt);
            }
        }
        Ok(())
    }
}
