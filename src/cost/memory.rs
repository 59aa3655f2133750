//! The latest records, in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use super::{CostRecord, CostSink, SinkError};
use crate::types::Usd;

/// Keeps the latest records in this process; older ones are forgotten, nothing survives a restart. Clones share the
/// records.
#[derive(Clone, Debug)]
pub struct MemoryCosts {
    most: usize,
    records: Arc<Mutex<VecDeque<CostRecord>>>,
}

impl MemoryCosts {
    /// Keeps at most this many records.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, records: Arc::default() }
    }

    /// The records that are kept, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<CostRecord> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The sum of the known costs that are kept.
    #[must_use]
    pub fn known(&self) -> Usd {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().filter_map(CostRecord::cost_usd).sum()
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
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        for record in page {
            // A page that failed elsewhere comes again; only its own records can repeat.
            if records.iter().rev().take(page.len()).any(|kept| kept.attempt == record.attempt) {
                continue;
            }
            if records.len() >= self.most {
                records.pop_front();
            }
            records.push_back(record.clone());
        }
        Ok(())
    }
}
