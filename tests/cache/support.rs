//! Keys, values and waits of the tests.

use std::time::{Duration, Instant};

use together_inference::{
    Tenant,
    cache::{CacheEntry, CacheLayer, CacheValue, RedisCache, RedisConfig},
    inference::{CacheKey, Kind},
};

pub const MINUTE: Duration = Duration::from_secs(60);
/// How long something may take that takes a moment, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// Whether something comes true in time, asked again and again.
pub async fn eventually(limit: Duration, mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if is_so().await {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn key(name: impl AsRef<[u8]>) -> CacheKey {
    CacheKey::of_bytes(Kind::Inference, None, name.as_ref())
}

pub fn key_of(tenant: &Tenant, name: impl AsRef<[u8]>) -> CacheKey {
    CacheKey::of_bytes(Kind::Inference, Some(tenant), name.as_ref())
}

pub fn note(text: impl Into<String>) -> CacheEntry {
    note_for(MINUTE, text)
}

/// A note with another time to live.
pub fn note_for(ttl: Duration, text: impl Into<String>) -> CacheEntry {
    CacheEntry::new(CacheValue::Json(text.into().into()), ttl)
}

/// The text of a note.
pub fn text(entry: &CacheEntry) -> String {
    let CacheValue::Json(json) = &entry.value else { panic!("{entry:?} is no note") };
    String::from_utf8(json.to_vec()).unwrap()
}

/// Keeps a note and waits until Redis has it.
pub async fn keep(cache: &RedisCache, key: &CacheKey, entry: CacheEntry) {
    let before = cache.stats().written;
    cache.set(key, entry).await.unwrap();
    cache.flush().await.unwrap();
    assert_eq!(cache.stats().written, before + 1, "{:?}", cache.stats());
}

/// A cache that waits for its server also on a machine that is busy, where time is not what a test is about.
pub async fn patient(url: impl Into<String>) -> RedisCache {
    let cache = RedisConfig::new(url).operation_timeout(SOON).connect().await.unwrap();
    is_up(&cache).await;
    cache
}

pub async fn connected(url: impl Into<String>) -> RedisCache {
    let cache = RedisCache::connect(url).await.unwrap();
    is_up(&cache).await;
    cache
}

pub async fn is_up(cache: &RedisCache) {
    let up = eventually(SOON, async || cache.stats().is_connected).await;
    assert!(up, "no connection: {:?}", cache.stats());
}

/// How long a look-up takes, and whether it found something.
pub async fn timed(cache: &RedisCache, key: &CacheKey) -> (Duration, bool) {
    let begun = Instant::now();
    let found = cache.get(key).await;
    (begun.elapsed(), found.is_ok_and(|found| found.is_some()))
}
