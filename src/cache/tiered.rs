//! Two layers as one: a near one before a far one.

use std::time::Duration;

use async_trait::async_trait;
use moka::future::Cache;
use tokio::time::{Instant, timeout};

use super::{CacheEntry, CacheError, CacheLayer};
use crate::{
    inference::CacheKey,
    types::{FOREVER, Tenant, later},
};

/// Misses that are remembered at most, when they are.
const MAX_MISSES: u64 = 100_000;
/// Less than the service waits for a layer: what the near one had must not be lost with a far one that hangs.
const FAR_PATIENCE: Duration = Duration::from_millis(200);

/// A near layer before a far one, such as memory before Redis. Any two layers compose, tiers too.
///
/// * A read asks the near layer, and the far one only for what the near one lacks.
/// * A value that the far layer had is kept near for what is left of its time.
/// * A write goes to both.
/// * Processes that share the far layer each have a near one of their own. A value that one of them removes, or keeps anew,
///   may be served by the others until its time is over, or for as long as [`near_ttl`](Self::near_ttl) says. For the same
///   reason a near value that is older than a request's `max_age` is a miss there, though a younger one may lie far.
/// * A far miss is not remembered unless [`remember_misses`](Self::remember_misses) says so: another process may fill it in
///   the next moment.
/// * A read waits 200 ms for the far layer, or as long as [`far_timeout`](Self::far_timeout) says. What the near layer had
///   is found all the same.
/// * That a far value [was forged](CacheError::is_forged) is answered where nothing near takes its place.
/// * A far layer that fails or is late costs what it would have had, and never the call: its error is a `warn` event. Where the
///   caller must know, in [`remove`](CacheLayer::remove), [`forget_tenant`](CacheLayer::forget_tenant) and
///   [`flush`](CacheLayer::flush), both layers are asked and either's error is answered.
///
/// Guaranteed is what both layers guarantee. Not guaranteed: that a value which is removed while it is read far does not
/// come back near; it goes when its time is over.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::{sync::Arc, time::Duration};
/// use together_inference::{
///     cache::{CacheEntry, CacheLayer, CacheValue, MemoryCache, TieredCache},
///     inference::{CacheKey, Kind},
/// };
///
/// // The far layer stands for one that several processes share.
/// let far = Arc::new(MemoryCache::default());
/// let one = TieredCache::new(MemoryCache::new(64 << 20), Arc::clone(&far));
/// let other = TieredCache::new(MemoryCache::new(64 << 20), Arc::clone(&far));
///
/// let key = CacheKey::of_bytes(Kind::Inference, None, b"question");
/// one.set(&key, CacheEntry::new(CacheValue::Json("{}".into()), Duration::from_secs(60))).await?;
/// assert!(other.get(&key).await?.is_some());
/// # Ok::<(), together_inference::cache::CacheError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct TieredCache<A, B> {
    near: A,
    far: B,
    misses: Option<Misses>,
    far_timeout: Duration,
    near_ttl: Option<Duration>,
}

/// Keys that the far layer did not have, each with when that stops to count.
#[derive(Debug)]
struct Misses {
    until: Cache<CacheKey, Instant>,
    time: Duration,
}

impl Misses {
    async fn add(&self, key: &CacheKey) {
        self.until.insert(*key, later(Instant::now(), self.time)).await;
    }

    async fn has(&self, key: &CacheKey) -> bool {
        self.until.get(key).await.is_some_and(|until| Instant::now() < until)
    }
}

impl<A: CacheLayer, B: CacheLayer> TieredCache<A, B> {
    /// `near` before `far`.
    #[must_use]
    pub const fn new(near: A, far: B) -> Self {
        Self { near, far, misses: None, far_timeout: FAR_PATIENCE, near_ttl: None }
    }

    /// Sets how long a value is served from the near layer before the far one is asked again: how long other processes may
    /// go on with what one of them has removed.
    ///
    /// There is no such bound unless it is set. What is cached is what the same question would be answered, and is seldom
    /// taken back; each time the bound passes costs a way to the far layer. Where answers are invalidated and must be gone
    /// everywhere, a minute is little to pay. While the far layer is down, what is past the bound is not found.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// use std::{sync::Arc, time::Duration};
    /// use together_inference::{
    ///     cache::{CacheEntry, CacheLayer, CacheValue, MemoryCache, TieredCache},
    ///     inference::{CacheKey, Kind},
    /// };
    ///
    /// let (far, minute) = (Arc::new(MemoryCache::default()), Duration::from_secs(60));
    /// let tiers = || TieredCache::new(MemoryCache::default(), Arc::clone(&far)).near_ttl(minute);
    /// let (one, other) = (tiers(), tiers());
    /// let key = CacheKey::of_bytes(Kind::Inference, None, b"question");
    /// one.set(&key, CacheEntry::new(CacheValue::Json("{}".into()), minute * 60)).await?;
    ///
    /// other.remove(&key).await?;
    /// assert!(one.get(&key).await?.is_some());
    /// tokio::time::advance(minute).await;
    /// assert!(one.get(&key).await?.is_none());
    /// # Ok::<(), together_inference::cache::CacheError>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn near_ttl(mut self, ttl: Duration) -> Self {
        self.near_ttl = Some(ttl);
        self
    }

    /// Sets how long a read waits for the far layer. The service waits 250 ms for a layer as a whole: more than that is of
    /// no use there.
    #[must_use]
    pub const fn far_timeout(mut self, timeout: Duration) -> Self {
        self.far_timeout = timeout;
        self
    }

    /// Remembers for this long that the far layer does not have a key. Until then a value that another process keeps
    /// there is not seen; one that is kept here is.
    #[must_use]
    pub fn remember_misses(mut self, time: Duration) -> Self {
        let time = time.min(FOREVER);
        let until = Cache::builder().max_capacity(MAX_MISSES).time_to_live(time).build();
        self.misses = Some(Misses { until, time });
        self
    }

    /// The near layer.
    pub const fn near(&self) -> &A {
        &self.near
    }

    /// The far layer.
    pub const fn far(&self) -> &B {
        &self.far
    }

    async fn is_known_to_miss(&self, key: &CacheKey) -> bool {
        match &self.misses {
            Some(misses) => misses.has(key).await,
            None => false,
        }
    }

    async fn missed(&self, key: &CacheKey) {
        if let Some(misses) = &self.misses {
            misses.add(key).await;
        }
    }

    async fn unmiss(&self, key: &CacheKey) {
        if let Some(misses) = &self.misses {
            misses.until.invalidate(key).await;
        }
    }

    /// A value as the near layer keeps it.
    fn for_near(&self, mut entry: CacheEntry) -> CacheEntry {
        if let Some(most) = self.near_ttl {
            let until = Instant::now().saturating_duration_since(entry.stored).saturating_add(most);
            entry.ttl = entry.ttl.min(until);
            entry.keep = entry.keep.min(until.saturating_sub(entry.ttl));
        }
        entry
    }

    /// What the far layer answers to a read, in time.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, CacheError>> + Send) -> Result<T, CacheError> {
        let late = |_| CacheError::new(format!("no answer within {:?}", self.far_timeout));
        timeout(self.far_timeout, asked).await.map_err(late)?
    }

    /// What the far layer answered, for which nothing near can stand in: that it was forged must be heard of.
    async fn far_alone(
        &self,
        key: &CacheKey,
        found: Result<Option<CacheEntry>, CacheError>,
    ) -> Result<Option<CacheEntry>, CacheError> {
        match found {
            Err(error) if error.is_forged() => Err(error),
            found => Ok(self.far_answered(key, found).await),
        }
    }

    /// What the far layer answered, kept near for the next time.
    async fn far_answered(&self, key: &CacheKey, found: Result<Option<CacheEntry>, CacheError>) -> Option<CacheEntry> {
        let found = without("far", found)?;
        match &found {
            Some(entry) => _ = without("near", self.near.set(key, self.for_near(entry.clone())).await),
            None => self.missed(key).await,
        }
        found
    }
}

/// A result without its error, which is told.
fn without<T>(which: &str, result: Result<T, CacheError>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(%error, "the {which} cache layer failed, going on without")).ok()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<A: CacheLayer, B: CacheLayer> CacheLayer for TieredCache<A, B> {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let near = without("near", self.near.get(key).await).flatten();
        if near.is_some() || self.is_known_to_miss(key).await {
            return Ok(near);
        }
        let found = self.in_time(self.far.get(key)).await;
        self.far_alone(key, found).await
    }

    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let near = without("near", self.near.get_kept(key).await).flatten();
        if near.as_ref().is_some_and(|entry| entry.is_fresh(Instant::now())) || self.is_known_to_miss(key).await {
            return Ok(near);
        }
        let far = self.in_time(self.far.get_kept(key)).await;
        if near.is_none() {
            return self.far_alone(key, far).await;
        }
        let far = without("far", far).flatten();
        let Some(far) = far.filter(|far| near.as_ref().is_none_or(|near| near.stored < far.stored)) else {
            return Ok(near);
        };
        Ok(self.far_answered(key, Ok(Some(far))).await)
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.unmiss(key).await;
        let near = self.near.set(key, self.for_near(entry.clone())).await;
        without("far", self.far.set(key, entry).await);
        near
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        // The far one first: what is read far in between must not come back near.
        let far = self.far.remove(key).await;
        self.near.remove(key).await.and(far)
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheEntry>>, CacheError> {
        let mut found = without("near", self.near.get_many(keys).await).unwrap_or_default();
        found.resize(keys.len(), None);
        let (mut places, mut lacking) = (Vec::new(), Vec::new());
        for (place, key) in found.iter_mut().zip(keys).filter(|(place, _)| place.is_none()) {
            if !self.is_known_to_miss(key).await {
                places.push(place);
                lacking.push(*key);
            }
        }
        if lacking.is_empty() {
            return Ok(found);
        }
        let far = match self.in_time(self.far.get_many(&lacking)).await {
            Err(error) if error.is_forged() && lacking.len() == keys.len() => return Err(error),
            far => without("far", far),
        };
        let Some(far) = far else { return Ok(found) };
        let mut promoted = Vec::new();
        for ((place, key), entry) in places.into_iter().zip(&lacking).zip(far) {
            match &entry {
                Some(entry) => promoted.push((*key, self.for_near(entry.clone()))),
                None => self.missed(key).await,
            }
            *place = entry;
        }
        if !promoted.is_empty() {
            without("near", self.near.set_many(promoted).await);
        }
        Ok(found)
    }

    async fn set_many(&self, entries: Vec<(CacheKey, CacheEntry)>) -> Result<(), CacheError> {
        for (key, _) in &entries {
            self.unmiss(key).await;
        }
        let near = entries.iter().map(|(key, entry)| (*key, self.for_near(entry.clone()))).collect();
        let near = self.near.set_many(near).await;
        without("far", self.far.set_many(entries).await);
        near
    }

    async fn forget_tenant(&self, tenant: &Tenant) -> Result<(), CacheError> {
        let far = self.far.forget_tenant(tenant).await;
        self.near.forget_tenant(tenant).await.and(far)
    }

    async fn flush(&self) -> Result<(), CacheError> {
        let near = self.near.flush().await;
        self.far.flush().await.and(near)
    }
}

#[cfg(test)]
mod tests;
