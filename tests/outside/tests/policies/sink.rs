//! A sink that appends.

use std::sync::Mutex;

use together_inference::{
    async_trait,
    cost::{CostRecord, CostSink, SinkError},
};

#[derive(Debug, Default)]
pub struct Lines(Mutex<Vec<CostRecord>>);

impl Lines {
    pub fn records(&self) -> Vec<CostRecord> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl CostSink for Lines {
    async fn record(&self, page: &[CostRecord]) -> Result<(), SinkError> {
        let mut lines = self.0.lock().map_err(|_| SinkError::new("poisoned"))?;
        for record in page {
            if lines.iter().all(|line| line.attempt != record.attempt) {
                lines.push(record.clone());
            }
        }
        Ok(())
    }
}
