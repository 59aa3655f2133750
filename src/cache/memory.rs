//! The default layer: moka, bounded by bytes.

use async_trait::async_trait;
use moka::future::Cache;
use tokio::time::Instant;

use super::{CacheEntry, CacheError, CacheLayer};
use crate::{
    inference::{CacheKey, Kind},
    types::Tenant,
};

/// A cache in this process, bounded by the bytes of its values.
///
/// Guaranteed: a value is never served after its time to live ([`get_kept`](CacheLayer::get_kept): after it was to be
/// kept), and the weight stays within a tenth of the bound. Not guaranteed: that a value stays until then. None stays for
/// over two days, whatever its time to live is; and moka's `TinyLFU` keeps what is asked for often, so that a flood of
/// one-time questions does not push the rest out.
#[derive(Clone, Debug)]
pub struct MemoryCache(Cache<CacheKey, CacheEntry>);

impl MemoryCache {
    /// A cache of at most this many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, entry: &CacheEntry| entry.weight())
            // Housekeeping only: age is checked on our own clock, which tests can advance. The longest time to live, and
            // as long again for a value that is kept past it.
            .time_to_live(2 * Kind::Embedding.ttl())
            .support_invalidation_closures();
        Self(cache.build())
    }

    async fn kept(&self, key: &CacheKey) -> Option<CacheEntry> {
        let entry = self.0.get(key).await?;
        if entry.is_kept(Instant::now()) {
            return Some(entry);
        }
        self.0.invalidate(key).await;
        None
    }

    /// The bytes that the values weigh now, after pending evictions.
    pub async fn weight(&self) -> u64 {
        self.0.run_pending_tasks().await;
        self.0.weighted_size()
    }
}

impl Default for MemoryCache {
    /// 64 MiB.
    fn default() -> Self {
        Self::new(64 << 20)
    }
}

#[async_trait]
impl CacheLayer for MemoryCache {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        Ok(self.kept(key).await.filter(|entry| entry.is_fresh(Instant::now())))
    }

    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        Ok(self.kept(key).await)
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.0.insert(*key, entry.for_memory()).await;
        Ok(())
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.0.invalidate(key).await;
        Ok(())
    }

    async fn forget_tenant(&self, tenant: &Tenant) -> Result<(), CacheError> {
        let tenant = tenant.clone();
        // Hidden from reads at once; the memory is given back by the housekeeping, of which one round is done here.
        self.0.invalidate_entries_if(move |key, _| key.is_of(&tenant)).map_err(CacheError::new)?;
        self.0.run_pending_tasks().await;
        Ok(())
    }
}
