//! Two layers as one: a near one before a far one.

use std::time::Duration;

use async_trait::async_trait;
use moka::future::Cache;
use tokio::time::Instant;

use super::{CacheEntry, CacheError, CacheLayer};
use crate::{inference::CacheKey, types::Tenant};

/// Misses that are remembered at most, when they are.
const MAX_MISSES: u64 = 100_000;

/// A near layer before a far one, such as memory before Redis. Any two layers compose, tiers too.
///
/// * A read asks the near layer, and the far one only for what the near one lacks.
/// * A value that the far layer had is kept near for what is left of its time.
/// * A write goes to both.
/// * A far miss is not remembered unless [`remember_misses`](Self::remember_misses) says so: another process may fill it in
///   the next moment.
/// * A far layer that fails costs what it would have had, and never the call: its error is a `warn` event. Where the
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
}

/// Keys that the far layer did not have, each with when that stops to count.
#[derive(Debug)]
struct Misses {
    until: Cache<CacheKey, Instant>,
    time: Duration,
}

impl Misses {
    async fn add(&self, key: &CacheKey) {
        self.until.insert(*key, Instant::now() + self.time).await;
    }

    async fn has(&self, key: &CacheKey) -> bool {
        self.until.get(key).await.is_some_and(|until| Instant::now() < until)
    }
}

impl<A: CacheLayer, B: CacheLayer> TieredCache<A, B> {
    /// `near` before `far`.
    #[must_use]
    pub const fn new(near: A, far: B) -> Self {
        Self { near, far, misses: None }
    }

    /// Remembers for this long that the far layer does not have a key. Until then a value that another process keeps
    /// there is not seen; one that is kept here is.
    #[must_use]
    pub fn remember_misses(mut self, time: Duration) -> Self {
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

    /// What the far layer answered, kept near for the next time.
    async fn far_answered(&self, key: &CacheKey, found: Result<Option<CacheEntry>, CacheError>) -> Option<CacheEntry> {
        let found = without("far", found)?;
        match &found {
            Some(entry) => _ = without("near", self.near.set(key, entry.clone()).await),
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
        let found = self.far.get(key).await;
        Ok(self.far_answered(key, found).await)
    }

    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let near = without("near", self.near.get_kept(key).await).flatten();
        if near.as_ref().is_some_and(|entry| entry.is_fresh(Instant::now())) || self.is_known_to_miss(key).await {
            return Ok(near);
        }
        let far = without("far", self.far.get_kept(key).await).flatten();
        let Some(far) = far.filter(|far| near.as_ref().is_none_or(|near| near.stored < far.stored)) else {
            return Ok(near);
        };
        Ok(self.far_answered(key, Ok(Some(far))).await)
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.unmiss(key).await;
        let near = self.near.set(key, entry.clone()).await;
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
        let Some(far) = without("far", self.far.get_many(&lacking).await) else { return Ok(found) };
        let mut promoted = Vec::new();
        for ((place, key), entry) in places.into_iter().zip(&lacking).zip(far) {
            match &entry {
                Some(entry) => promoted.push((*key, entry.clone())),
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
        let near = self.near.set_many(entries.clone()).await;
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
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        cache::{CacheValue, MemoryCache, NoCache},
        inference::{Kind, Origin},
    };

    const MINUTE: Duration = Duration::from_secs(60);

    /// A far layer that notes what it is asked for, and can be out of order.
    #[derive(Debug, Default)]
    struct Far {
        kept: MemoryCache,
        asked: Mutex<Vec<CacheKey>>,
        down: Mutex<bool>,
    }

    impl Far {
        fn works(&self) -> Result<(), CacheError> {
            if *self.down.lock().unwrap() { Err(CacheError::new("down")) } else { Ok(()) }
        }

        fn asked(&self) -> Vec<CacheKey> {
            std::mem::take(&mut *self.asked.lock().unwrap())
        }
    }

    #[async_trait]
    impl CacheLayer for Far {
        async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
            self.works()?;
            self.asked.lock().unwrap().push(*key);
            let found = self.kept.get(key).await?;
            Ok(found.map(|entry| CacheEntry { origin: Origin::Other, ..entry }))
        }

        async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
            self.works()?;
            self.kept.set(key, entry).await
        }

        async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
            self.works()?;
            self.kept.remove(key).await
        }
    }

    fn key(name: &str) -> CacheKey {
        CacheKey::of_bytes(Kind::Inference, None, name.as_bytes())
    }

    fn note(text: &str) -> CacheEntry {
        CacheEntry::new(CacheValue::Json(text.to_owned().into()), MINUTE)
    }

    fn tiers() -> (TieredCache<MemoryCache, Arc<Far>>, Arc<Far>) {
        let far = Arc::new(Far::default());
        (TieredCache::new(MemoryCache::default(), Arc::clone(&far)), far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_hit_is_kept_near_for_what_is_left_of_its_time() {
        let (tiers, far) = tiers();
        far.set(&key("a"), note("a")).await.unwrap();
        tokio::time::advance(MINUTE / 2).await;
        assert_eq!(tiers.get(&key("a")).await.unwrap().unwrap().origin, Origin::Other);
        assert_eq!(tiers.get(&key("a")).await.unwrap().unwrap().origin, Origin::Memory);
        assert_eq!(far.asked(), [key("a")]);
        tokio::time::advance(MINUTE / 2).await;
        assert!(tiers.get(&key("a")).await.unwrap().is_none(), "half of its time was over when it was promoted");
    }

    #[tokio::test(start_paused = true)]
    async fn the_far_layer_is_asked_only_for_what_the_near_one_lacks() {
        let (tiers, far) = tiers();
        tiers.set(&key("both"), note("both")).await.unwrap();
        far.set(&key("far"), note("far")).await.unwrap();
        let keys = ["both", "far", "none"].map(key);
        let found = tiers.get_many(&keys).await.unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(far.asked(), [key("far"), key("none")]);
        tiers.get_many(&keys).await.unwrap();
        assert_eq!(far.asked(), [key("none")], "what was found far is near now, and a miss is not remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_miss_is_remembered_only_where_that_is_asked_for() {
        let (tiers, far) = tiers();
        let tiers = tiers.remember_misses(Duration::from_secs(1));
        assert!(tiers.get(&key("a")).await.unwrap().is_none());
        far.set(&key("a"), note("by another process")).await.unwrap();
        assert!(tiers.get(&key("a")).await.unwrap().is_none());
        assert!(tiers.get_many(&[key("a")]).await.unwrap().iter().all(Option::is_none));
        assert_eq!(far.asked(), [key("a")]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(tiers.get(&key("a")).await.unwrap().is_some());
        tiers.get(&key("b")).await.unwrap();
        tiers.set(&key("b"), note("b")).await.unwrap();
        tiers.near().remove(&key("b")).await.unwrap();
        assert!(tiers.get(&key("b")).await.unwrap().is_some(), "what is kept here is no miss any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_far_layer_that_is_down_costs_only_what_it_has() {
        let (tiers, far) = tiers();
        *far.down.lock().unwrap() = true;
        tiers.set(&key("a"), note("a")).await.unwrap();
        tiers.set_many(vec![(key("b"), note("b"))]).await.unwrap();
        assert!(tiers.get(&key("a")).await.unwrap().is_some());
        assert!(tiers.get(&key("c")).await.unwrap().is_none());
        assert!(tiers.get_kept(&key("c")).await.unwrap().is_none());
        let found = tiers.get_many(&["a", "c", "b"].map(key)).await.unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        // Here the caller must know.
        assert!(tiers.remove(&key("a")).await.is_err());
        assert!(tiers.get(&key("a")).await.unwrap().is_none(), "removed near all the same");
        let error = tiers.forget_tenant(&Tenant::from("acme")).await.unwrap_err();
        assert!(error.is_unsupported(), "this far layer cannot");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_old_values_the_younger_is_found() {
        let far = Arc::new(MemoryCache::default());
        let tiers = TieredCache::new(MemoryCache::default(), Arc::clone(&far));
        tiers.set(&key("a"), note("old").kept_for(MINUTE * 9)).await.unwrap();
        tokio::time::advance(MINUTE).await;
        far.set(&key("a"), note("younger").kept_for(MINUTE * 9)).await.unwrap();
        tokio::time::advance(MINUTE).await;
        assert!(tiers.get(&key("a")).await.unwrap().is_none());
        let found = tiers.get_kept(&key("a")).await.unwrap().unwrap();
        assert_eq!(found.value, note("younger").value);
    }

    #[tokio::test(start_paused = true)]
    async fn tiers_compose() {
        let last = Arc::new(MemoryCache::default());
        let tiers = TieredCache::new(NoCache, TieredCache::new(MemoryCache::default(), Arc::clone(&last)));
        tiers.set(&key("a"), note("a")).await.unwrap();
        assert!(last.get(&key("a")).await.unwrap().is_some());
        assert!(tiers.get(&key("a")).await.unwrap().is_some());
    }
}
