//! What two layers as one promise.

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
async fn a_miss_may_be_remembered_for_ever() {
    for time in [Duration::MAX, Duration::from_secs(500 * 365 * 86_400)] {
        let (tiers, far) = tiers();
        let tiers = tiers.remember_misses(time);
        assert!(tiers.get(&key("a")).await.unwrap().is_none());
        assert!(tiers.get(&key("a")).await.unwrap().is_none());
        assert_eq!(far.asked(), [key("a")]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_near_layer_serves_no_longer_than_it_may() {
    let far = Arc::new(MemoryCache::default());
    let tiers = || TieredCache::new(MemoryCache::default(), Arc::clone(&far)).near_ttl(MINUTE);
    let (one, other) = (tiers(), tiers());
    let entry = || note("a").kept_for(MINUTE * 9);
    one.set(&key("a"), CacheEntry { ttl: MINUTE * 9, ..entry() }).await.unwrap();
    one.set_many(vec![(key("b"), CacheEntry { ttl: MINUTE * 9, ..entry() })]).await.unwrap();
    assert!(other.get(&key("a")).await.unwrap().is_some(), "promoted");
    assert!(other.get_many(&[key("b")]).await.unwrap()[0].is_some());
    tokio::time::advance(MINUTE).await;
    assert!(one.get(&key("a")).await.unwrap().is_some(), "the far one still has it, for a minute more here");
    assert_eq!(one.get_kept(&key("a")).await.unwrap().unwrap().value, entry().value);
    far.remove(&key("a")).await.unwrap();
    far.remove(&key("b")).await.unwrap();
    assert!(one.get(&key("a")).await.unwrap().is_some());
    assert!(other.get_kept(&key("a")).await.unwrap().is_none());
    assert!(one.get_kept(&key("b")).await.unwrap().is_none() && other.get(&key("b")).await.unwrap().is_none());
    tokio::time::advance(MINUTE).await;
    assert!(one.get_kept(&key("a")).await.unwrap().is_none());
}

/// A far layer that never answers.
#[derive(Debug)]
struct Hangs;

#[async_trait]
impl CacheLayer for Hangs {
    async fn get(&self, _: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        std::future::pending().await
    }

    async fn set(&self, _: &CacheKey, _: CacheEntry) -> Result<(), CacheError> {
        Ok(())
    }

    async fn remove(&self, _: &CacheKey) -> Result<(), CacheError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_layer_that_hangs_takes_nothing_from_the_near_one() {
    for (tiers, most) in [
        (TieredCache::new(MemoryCache::default(), Hangs), 200),
        (TieredCache::new(MemoryCache::default(), Hangs).far_timeout(Duration::from_millis(50)), 50),
    ] {
        tiers.set(&key("a"), note("a").kept_for(MINUTE * 9)).await.unwrap();
        let begun = Instant::now();
        let many = timeout(MINUTE, tiers.get_many(&["a", "b"].map(key))).await.unwrap().unwrap();
        assert_eq!(many.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
        assert!(begun.elapsed() <= Duration::from_millis(most + 1), "{:?}", begun.elapsed());
        assert!(timeout(MINUTE, tiers.get(&key("b"))).await.unwrap().unwrap().is_none());
        tokio::time::advance(MINUTE * 2).await;
        let old = timeout(MINUTE, tiers.get_kept(&key("a"))).await.unwrap().unwrap();
        assert_eq!(old.unwrap().value, note("a").value, "past its time, and there all the same");
    }
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
