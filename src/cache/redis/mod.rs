//! A layer that processes share: Redis, alone, behind sentinels or as a cluster.
//!
//! # How it thinks
//!
//! A cache must never cost what it saves. A look-up takes at most 50 ms and, while Redis is out of reach, no time at all:
//! one task keeps the connection up, and callers only take what is there (`link`). What is kept is written in the
//! background, in pages, bounded, and is found by this process at once (`queue`). What is read is believed only if it is
//! whole, of this key and version, and signed where a key is set (`seal`).

mod commands;
mod config;
mod queue;
mod seal;
mod stats;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle, time::Instant};

use self::{
    commands::{Place, Write},
    queue::{Queue, What},
    seal::MacKey,
    stats::Counters,
};
pub use self::{config::RedisConfig, stats::RedisStats};
use super::{CacheEntry, CacheError, CacheLayer};
use crate::{
    inference::{CacheKey, Origin},
    store::redis::{Blame, Connection, Limits, Link, Target, describe},
    types::{Clock, Rng, Tenant},
};

/// The most keys of one round trip, and round trips at the same time.
const PAGE: usize = 100;
const PAGES_IN_FLIGHT: usize = 4;
/// How long a step of forgetting a tenant may take.
const STEP_PATIENCE: Duration = Duration::from_secs(1);

/// A cache in Redis 6.2 or later, or Valkey, that processes share. Clones share the connection.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use together_inference::cache::{MemoryCache, RedisCache, TieredCache};
///
/// // Starts, and serves from memory, whether or not a Redis is there.
/// let redis = RedisCache::connect("redis://127.0.0.1:1").await?;
/// let cache = TieredCache::new(MemoryCache::new(64 << 20), redis.clone());
/// # drop(cache);
/// println!("{:?}", redis.stats());
/// # Ok::<(), together_inference::cache::CacheError>(())
/// # }).unwrap();
/// ```
///
/// * **Time.** A look-up that takes over 50 ms is a miss. While Redis is out of reach it is a miss at once, and the cache
///   is back at most 5 s after Redis is. Five failures within 10 s are reason to leave Redis alone for 5 s.
/// * **Writes** wait for nobody: [`set`](CacheLayer::set) puts the value into a queue of at most 32 MiB, from which reads in
///   this process see it at once. What does not fit, or cannot be written, is counted and not kept.
///   [`flush`](CacheLayer::flush) waits for what waits; dropping the last clone drops it.
/// * **Trust.** A value of another key, version or length is no answer. With [`RedisConfig::mac_key`] neither is one that
///   somebody else wrote. Keys are `ti:{kind}:{tenant hash}:{key hash}`; answers lie in Redis as JSON.
/// * **Size.** Values over 4 MiB are not kept, and not read.
/// * **Jitter.** A value is kept for thirty years at most. Redis drops a value up to a tenth of its time early, at random;
///   it is never served past its time.
/// * **Rights.** An ACL user needs `+ping +getrange +set +unlink +scan` on `~ti:*`; in a cluster `+cluster|slots` and behind
///   sentinels `+role` too.
///
/// Its clients' settings in Redis matter: `maxmemory` with `maxmemory-policy allkeys-lfu` makes it a cache rather than a
/// store that fills up. While it is full and may not evict, nothing is kept and everything is found.
///
/// Dropping a call's future takes nothing from others on the connection.
#[derive(Clone)]
pub struct RedisCache(Arc<Inner>);

/// What lies under a key: a value, or none.
type Lying = Option<CacheEntry>;

struct Inner {
    target: Arc<Target>,
    link: Arc<Link>,
    queue: Arc<Queue>,
    mac: Option<MacKey>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    counters: Arc<Counters>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner).iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("RedisCache");
        text.field("target", &self.0.target).field("mac", &self.0.mac.is_some()).field("stats", &self.stats()).finish()
    }
}

impl RedisCache {
    /// The cache at a URL, `redis://user:password@host:port/db` or `rediss://…`; [`RedisConfig`] has more to set.
    ///
    /// # Errors
    ///
    /// [`CacheError`] if the URL cannot be used. Never because Redis is down: the cache starts without it.
    pub async fn connect(url: impl Into<String>) -> Result<Self, CacheError> {
        RedisConfig::new(url).connect().await
    }

    /// The cache at the URL in `REDIS_URL`.
    ///
    /// # Errors
    ///
    /// [`CacheError`] if `REDIS_URL` is not set or cannot be used. Never because Redis is down.
    pub async fn from_env() -> Result<Self, CacheError> {
        let url = std::env::var("REDIS_URL");
        Self::connect(url.map_err(|_| CacheError::new("REDIS_URL is not set: redis://host:port"))?).await
    }

    fn new(
        target: Target,
        limits: Limits,
        mac: Option<MacKey>,
        queue_bytes: usize,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        let counters = Arc::<Counters>::default();
        Self(Arc::new(Inner {
            target: Arc::new(target),
            link: Arc::new(Link::new(limits, "the cache goes on")),
            queue: Arc::new(Queue::new(queue_bytes, Arc::clone(&counters))),
            mac,
            clock,
            rng,
            counters,
            tasks: Mutex::default(),
        }))
    }

    /// Starts the tasks and waits for the connection, as long as one may take.
    async fn begin(&self) {
        self.0.ensure_tasks();
        self.0.link.wait().await;
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> RedisStats {
        self.0.counters.snapshot(self.0.queue.len(), &self.0.link)
    }
}

impl Inner {
    /// Starts the tasks, again if the runtime that they ran on is gone.
    fn ensure_tasks(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if !tasks.is_empty() && !tasks.iter().any(JoinHandle::is_finished) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        tasks.iter().for_each(JoinHandle::abort);
        let keep = Arc::clone(&self.link).keep(Arc::clone(&self.target), Arc::clone(&self.rng));
        let work = Arc::clone(&self.queue).work(Arc::clone(&self.link), Arc::clone(&self.rng));
        *tasks = vec![runtime.spawn(keep), runtime.spawn(work)];
    }

    fn is_up(&self) -> bool {
        let is_up = self.link.is_up();
        if !is_up {
            self.ensure_tasks();
        }
        is_up
    }

    /// What lies under a key, fresh or not; `None` where nobody could be asked.
    async fn read(&self, key: &CacheKey) -> Result<Option<Lying>, CacheError> {
        if let Some(pending) = self.queue.pending(key) {
            return Ok(Some(pending));
        }
        let name = key.name();
        let read = self.link.ask(self.link.limits.operation, async |mut connection| connection.get(&name).await).await;
        match read {
            Ok(Some(bytes)) => self.open(key, &name, &bytes).map(Some),
            Ok(None) => {
                self.ensure_tasks();
                self.counters.skipped.fetch_add(1, Relaxed);
                Ok(None)
            }
            Err(error) => {
                self.counters.failed.fetch_add(1, Relaxed);
                Err(CacheError::new(error))
            }
        }
    }

    /// What a page of keys has, each for itself.
    async fn read_page(&self, keys: Vec<&CacheKey>) -> Vec<Result<Option<Lying>, CacheError>> {
        let names: Vec<String> = keys.iter().map(|key| key.name()).collect();
        let limit = self.link.limits.operation;
        let read = self.link.ask(limit, async |mut connection| connection.get_many(&names).await).await;
        let count = keys.len();
        let failed = |error: String| {
            self.counters.failed.fetch_add(1, Relaxed);
            Err(CacheError::new(error))
        };
        match read {
            Ok(Some(found)) => {
                let mut blame = Blame::Nobody;
                let opened = keys.into_iter().zip(&names).zip(found).map(|((key, name), bytes)| match bytes {
                    Ok(bytes) => self.open(key, name, &bytes).map(Some),
                    Err(error) => {
                        blame = Blame::of(&error);
                        failed(format!("redis: {}", describe(&error)))
                    }
                });
                let opened = opened.collect();
                self.link.blame_current(blame);
                opened
            }
            Ok(None) => {
                self.ensure_tasks();
                self.counters.skipped.fetch_add(count as u64, Relaxed);
                (0..count).map(|_| Ok(None)).collect()
            }
            Err(error) => (0..count).map(|_| failed(error.clone())).collect(),
        }
    }

    /// The value in what was read, if it can be believed.
    fn open(&self, key: &CacheKey, name: &str, bytes: &[u8]) -> Result<Lying, CacheError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let envelope = match &self.mac {
            None => bytes,
            Some(mac) => mac.open(name, bytes).ok_or_else(|| {
                self.counters.forged.fetch_add(1, Relaxed);
                CacheError::forged("a stored value is not signed with the MAC key: somebody else writes to this Redis")
            })?,
        };
        match CacheEntry::decode(key, envelope, self.clock.now()) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => {
                self.counters.refused.fetch_add(1, Relaxed);
                Err(error)
            }
        }
    }

    /// Counts what a look-up found, and marks where.
    fn found(&self, found: Lying, wanted: impl Fn(&CacheEntry) -> bool) -> Option<CacheEntry> {
        let found = found.filter(wanted).map(|entry| CacheEntry { origin: Origin::Redis, ..entry });
        let counter = if found.is_some() { &self.counters.hits } else { &self.counters.misses };
        counter.fetch_add(1, Relaxed);
        found
    }

    /// Puts a value into the queue, or counts that it does not fit.
    fn keep(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        if !self.is_up() {
            self.counters.dropped.fetch_add(1, Relaxed);
            return Ok(());
        }
        let entry = entry.for_memory();
        let mut bytes = entry.encode(key, self.clock.now())?;
        if let Some(mac) = &self.mac {
            mac.seal(&key.name(), &mut bytes);
        }
        if !self.queue.push(*key, What::Keep(entry, bytes.into()), None) {
            self.counters.dropped.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Asks the server, which must be there.
    async fn must<T: Send, F: Future<Output = redis::RedisResult<T>> + Send>(
        &self,
        ask: impl FnOnce(Connection) -> F + Send,
    ) -> Result<T, CacheError> {
        let answer = self.link.ask(STEP_PATIENCE, ask).await.map_err(CacheError::new)?;
        answer.ok_or_else(out_of_reach)
    }
}

fn out_of_reach() -> CacheError {
    CacheError::new("redis is out of reach")
}

fn is_fresh(entry: &CacheEntry) -> bool {
    entry.is_fresh(Instant::now())
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl CacheLayer for RedisCache {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let read = self.0.read(key).await?;
        Ok(read.and_then(|found| self.0.found(found, is_fresh)))
    }

    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let read = self.0.read(key).await?;
        Ok(read.and_then(|found| self.0.found(found, |entry| entry.is_kept(Instant::now()))))
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.0.keep(key, entry)
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        let (ack, done) = oneshot::channel();
        if !self.0.is_up() || !self.0.queue.push(*key, What::Remove, Some(ack)) {
            return Err(out_of_reach());
        }
        done.await.unwrap_or_else(|_| Err(out_of_reach()))
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheEntry>>, CacheError> {
        let mut found: Vec<_> = keys.iter().map(|key| self.0.queue.pending(key)).collect();
        let (mut places, mut asked) = (Vec::new(), Vec::new());
        for (place, key) in found.iter_mut().zip(keys).filter(|(place, _)| place.is_none()) {
            places.push(place);
            asked.push(key);
        }
        let pages: Vec<_> = asked.chunks(PAGE).map(|page| self.0.read_page(page.to_vec())).collect();
        let read: Vec<_> = stream::iter(pages).buffered(PAGES_IN_FLIGHT).collect().await;
        let mut failure: Option<CacheError> = None;
        for (place, read) in places.into_iter().zip(read.into_iter().flatten()) {
            match read {
                Ok(found) => *place = found,
                // A forged one must be heard of, whatever failed beside it.
                Err(error) if failure.as_ref().is_some_and(CacheError::is_forged) => drop(error),
                Err(error) => failure = Some(error),
            }
        }
        // What was found is worth more than what could not be.
        if let Some(error) = failure
            && !found.iter().any(|found| matches!(found, Some(Some(_))))
        {
            return Err(error);
        }
        Ok(found.into_iter().map(|found| found.and_then(|found| self.0.found(found, is_fresh))).collect())
    }

    async fn set_many(&self, entries: Vec<(CacheKey, CacheEntry)>) -> Result<(), CacheError> {
        let kept: Vec<_> = entries.into_iter().map(|(key, entry)| self.0.keep(&key, entry)).collect();
        kept.into_iter().collect()
    }

    /// In steps, each bounded: a scan of all keys of each master. Writes of other processes in between may stay.
    async fn forget_tenant(&self, tenant: &Tenant) -> Result<(), CacheError> {
        if !self.0.is_up() {
            return Err(out_of_reach());
        }
        self.0.queue.forget(tenant).await;
        let pattern = CacheKey::pattern(tenant);
        let mut places = vec![Place::default()];
        while let Some(at) = places.pop() {
            let (next, names) = self.0.must(async |mut connection| connection.scan(&pattern, &at).await).await?;
            places.extend(next);
            for page in names.chunks(PAGE) {
                let removed: Vec<_> = page.iter().map(|name| Write::Remove { name: name.clone() }).collect();
                let results = self.0.must(async |mut connection| connection.write(&removed).await).await?;
                let failed = results.into_iter().find_map(Result::err);
                failed.map_or(Ok(()), |error| Err(CacheError::new(format!("redis: {}", describe(&error)))))?;
            }
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), CacheError> {
        self.0.ensure_tasks();
        self.0.queue.empty().await;
        Ok(())
    }
}
