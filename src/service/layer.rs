//! What is asked of the application's cache: for a bounded time, and a panic of it is an error like any other.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::time::timeout;

use super::{
    invalidations::Moment,
    state::{PATIENCE, State},
};
use crate::{
    cache::{CacheEntry, CacheError},
    inference::CacheKey,
};

/// Asks a layer, at most so long. The layer is to be called inside of the future: it may panic before it has made its own.
pub(super) async fn ask<T>(
    longest: Duration,
    asked: impl Future<Output = Result<T, CacheError>>,
) -> Result<T, CacheError> {
    match timeout(longest, AssertUnwindSafe(asked).catch_unwind()).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_)) => Err(CacheError::new("it panicked")),
        Err(_) => Err(CacheError::new(format!("it took too long, over {} s", longest.as_secs_f64()))),
    }
}

impl State {
    /// Keeps a value. Whatever goes wrong costs a later miss.
    pub(super) async fn keep(&self, key: &CacheKey, entry: CacheEntry) {
        if let Err(error) = ask(PATIENCE, async { self.cache.set(key, entry).await }).await {
            tracing::warn!(%error, "an answer could not be cached");
        }
    }

    /// Keeps what was asked for at that moment, unless it was invalidated since.
    pub(super) async fn keep_unless_invalidated(&self, since: Moment, key: &CacheKey, entry: CacheEntry) {
        if self.invalidations.hit(key, since) {
            return;
        }
        self.keep(key, entry).await;
        self.drop_invalidated(since, [key]).await;
    }

    /// The same for several.
    pub(super) async fn keep_many_unless_invalidated(&self, since: Moment, mut entries: Vec<(CacheKey, CacheEntry)>) {
        entries.retain(|(key, _)| !self.invalidations.hit(key, since));
        if entries.is_empty() {
            return;
        }
        let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
        if let Err(error) = ask(PATIENCE, async { self.cache.set_many(entries).await }).await {
            tracing::warn!(%error, "vectors could not be cached");
        }
        self.drop_invalidated(since, &keys).await;
    }

    /// Takes out again what was invalidated while it was put there.
    async fn drop_invalidated(&self, since: Moment, keys: impl IntoIterator<Item = &CacheKey>) {
        for key in keys.into_iter().filter(|key| self.invalidations.hit(key, since)) {
            self.take_out(key).await;
        }
    }

    /// Takes a value out. Whatever goes wrong leaves it there until its time is over.
    pub(super) async fn take_out(&self, key: &CacheKey) {
        if let Err(error) = ask(PATIENCE, async { self.cache.remove(key).await }).await {
            tracing::warn!(%error, "an answer could not be taken out of the cache");
        }
    }
}
