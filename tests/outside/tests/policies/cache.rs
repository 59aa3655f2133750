//! A cache outside the process, reduced to a map of bytes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use together_inference::{
    async_trait,
    cache::{CacheEntry, CacheError, CacheLayer},
    inference::CacheKey,
    types::Clock,
};

#[derive(Debug)]
pub struct Bytes {
    clock: Arc<dyn Clock>,
    map: Mutex<HashMap<String, Vec<u8>>>,
}

impl Bytes {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, map: Mutex::default() }
    }
}

#[async_trait]
impl CacheLayer for Bytes {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let Some(bytes) = self.map.lock().unwrap().get(&key.to_string()).cloned() else { return Ok(None) };
        let entry = CacheEntry::decode(key, &bytes, self.clock.now())?;
        Ok(entry.is_fresh(tokio::time::Instant::now()).then_some(entry))
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        let bytes = entry.encode(key, self.clock.now())?;
        self.map.lock().unwrap().insert(key.to_string(), bytes);
        Ok(())
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.map.lock().unwrap().remove(&key.to_string());
        Ok(())
    }
}
