//! What the cache has of many texts, and what is kept of them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::texts::Vector;
use crate::{
    cache::{CacheEntry, CacheError, CacheValue},
    inference::{CacheControl, CacheKey, Kind, Origin},
    service::{
        invalidations::Moment,
        layer::ask,
        state::{PATIENCE, State},
    },
};

/// The most keys of one look-up, each of which has the patience of one. With a single look-up for all, a layer outside the
/// process would be given up just where it saves the most.
const PAGE: usize = 256;

/// What a look-up brought, in the order of the keys.
pub(super) struct Found {
    pub(super) vectors: Vec<Option<(Vector, Origin)>>,
    /// The layer failed, panicked or took too long: asking it again costs time and brings nothing.
    pub(super) broken: bool,
}

/// Which vectors are looked for.
#[derive(Clone, Copy)]
enum Which {
    Fresh,
    /// Also those past their time.
    Old,
}

impl State {
    /// The vectors that the cache has. Whatever goes wrong is a miss, of its page and of those after it.
    pub(super) async fn look_up_many(
        self: &Arc<Self>,
        keys: &[CacheKey],
        control: &CacheControl,
        by: Instant,
    ) -> Found {
        self.look_up_pages(keys, control, by, Which::Fresh).await
    }

    /// The same of vectors past their time, for when no others can be had.
    pub(super) async fn look_up_old(self: &Arc<Self>, keys: &[CacheKey], control: &CacheControl, by: Instant) -> Found {
        self.look_up_pages(keys, control, by, Which::Old).await
    }

    async fn look_up_pages(
        self: &Arc<Self>,
        keys: &[CacheKey],
        control: &CacheControl,
        by: Instant,
        which: Which,
    ) -> Found {
        let past = match which {
            Which::Fresh => Duration::ZERO,
            Which::Old => control.stale_if_error,
        };
        let mut vectors = Vec::with_capacity(keys.len());
        for page in keys.chunks(PAGE) {
            let longest = PATIENCE.min(by.saturating_duration_since(Instant::now()));
            let mut found = match ask(longest, self.page(page, which)).await {
                Ok(found) => found,
                Err(error) => {
                    self.look_up_failed(&error);
                    return Found { vectors, broken: true };
                }
            };
            // What a layer answers beside the question must not shift the next page.
            found.resize(page.len(), None);
            let now = Instant::now();
            let vector = |entry: CacheEntry| {
                let age = now.saturating_duration_since(entry.stored);
                let is_served = age < entry.ttl.saturating_add(past) && control.max_age.is_none_or(|most| age <= most);
                match entry.value {
                    CacheValue::Embedding(vector) if is_served => Some((vector, entry.origin)),
                    _ => None,
                }
            };
            vectors.extend(found.into_iter().map(|entry| entry.and_then(vector)));
        }
        Found { vectors, broken: false }
    }

    async fn page(&self, keys: &[CacheKey], which: Which) -> Result<Vec<Option<CacheEntry>>, CacheError> {
        match which {
            Which::Fresh => self.cache.get_many(keys).await,
            Which::Old => {
                let asked: Vec<_> = keys.iter().map(|key| self.cache.get_kept(key)).collect();
                join_all(asked).await.into_iter().collect()
            }
        }
    }

    /// Keeps vectors that were asked for at that moment. Whatever goes wrong costs later misses.
    pub(super) async fn keep_many(&self, since: Moment, vectors: Vec<(CacheKey, Vector)>, control: &CacheControl) {
        let ttl = control.ttl.unwrap_or(Kind::Embedding.ttl());
        let entry = |vector| CacheEntry::new(CacheValue::Embedding(vector), ttl).kept_for(control.stale_if_error);
        let entries = vectors.into_iter().map(|(key, vector)| (key, entry(vector))).collect();
        self.keep_many_unless_invalidated(since, entries).await;
    }
}
