//! Writes that nobody waits for: bounded, the newest of a key alone, and seen by reads before they are done.
//!
//! A write that is under way must be found by the next look-up of its key in this process. If it were not, the calls that
//! come right after an answer would pay for it again, which is what the cache is there against.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use redis::RedisResult;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{Lying, commands::Write, stats::Counters};
use crate::{
    cache::{CacheEntry, CacheError},
    inference::CacheKey,
    store::redis::{Blame, Link, describe},
    types::{Rng, Tenant},
};

/// The most writes and bytes of one round trip.
const PAGE: usize = 100;
const PAGE_BYTES: usize = 1 << 20;
/// What a waiting write weighs beside its bytes, about.
const OVERHEAD: usize = 512;
/// How much longer a page may take than a read, for which a caller waits.
const PATIENCE: u32 = 5;
/// The greatest part of its time that a value goes early, so that what was kept together is not missed together.
const JITTER: f64 = 0.1;

type Ack = oneshot::Sender<Result<(), CacheError>>;

#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    /// A page was done.
    moved: Notify,
    most_bytes: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: HashMap<CacheKey, Job>,
    /// Keys that wait for a page, oldest first.
    order: VecDeque<CacheKey>,
    bytes: usize,
}

/// What waits for a key: a page, or for the page that it is in, or both when it was replaced in between.
#[derive(Debug)]
struct Job {
    what: What,
    is_queued: bool,
    is_under_way: bool,
    acks: Vec<Ack>,
}

/// What is to be done with a key.
#[derive(Debug)]
pub(super) enum What {
    /// The value, and its bytes.
    Keep(CacheEntry, Bytes),
    Remove,
}

impl What {
    fn weight(&self) -> usize {
        OVERHEAD + if let Self::Keep(_, bytes) = self { bytes.len() } else { 0 }
    }

    fn write(&self, key: &CacheKey, rng: &dyn Rng) -> Write {
        let name = key.name();
        let Self::Keep(entry, bytes) = self else { return Write::Remove { name } };
        let left = entry.lifetime().saturating_sub(Instant::now().saturating_duration_since(entry.stored));
        if left.is_zero() {
            // The value before it is gone all the same.
            return Write::Remove { name };
        }
        let early = entry.ttl.min(left).mul_f64(JITTER * rng.next_f64());
        Write::Set { name, bytes: bytes.clone(), expires: left.saturating_sub(early) }
    }
}

impl Queue {
    pub(super) fn new(most_bytes: usize, counters: Arc<Counters>) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), moved: Notify::new(), most_bytes, counters }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// What waits to be written under this key: a value, or that there be none.
    pub(super) fn pending(&self, key: &CacheKey) -> Option<Lying> {
        self.lock().jobs.get(key).map(|job| match &job.what {
            What::Keep(entry, _) => Some(entry.clone()),
            What::Remove => None,
        })
    }

    /// Whether there is room for it, and then it waits to be written. What waited under the key is replaced.
    pub(super) fn push(&self, key: CacheKey, what: What, ack: Option<Ack>) -> bool {
        let mut waiting = self.lock();
        let Waiting { jobs, order, bytes } = &mut *waiting;
        let former = jobs.get(&key).map_or(0, |job| job.what.weight());
        let total = *bytes - former + what.weight();
        if total > self.most_bytes {
            return false;
        }
        *bytes = total;
        let new = || Job { what: What::Remove, is_queued: false, is_under_way: false, acks: Vec::new() };
        let job = jobs.entry(key).or_insert_with(new);
        job.what = what;
        job.acks.extend(ack);
        if !job.is_queued {
            job.is_queued = true;
            order.push_back(key);
        }
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// Drops what waits of a tenant, and waits for what of it is under way.
    pub(super) async fn forget(&self, tenant: &Tenant) {
        self.drop_queued(tenant);
        self.until(|waiting| !waiting.jobs.iter().any(|(key, job)| job.is_under_way && key.is_of(tenant))).await;
    }

    fn drop_queued(&self, tenant: &Tenant) {
        let mut waiting = self.lock();
        let Waiting { jobs, order, bytes } = &mut *waiting;
        jobs.retain(|key, job| {
            if !key.is_of(tenant) {
                return true;
            }
            if job.is_queued && !job.acks.is_empty() {
                // Somebody waits for the removal, and is to know whether it was done.
                *bytes -= job.what.weight();
                job.what = What::Remove;
                *bytes += job.what.weight();
                return true;
            }
            job.is_queued = false;
            if !job.is_under_way {
                *bytes -= job.what.weight();
            }
            job.is_under_way
        });
        order.retain(|key| jobs.get(key).is_some_and(|job| job.is_queued));
        drop(waiting);
        self.moved.notify_waiters();
    }

    /// Waits until nothing waits.
    pub(super) async fn empty(&self) {
        self.until(|waiting| waiting.jobs.is_empty()).await;
    }

    async fn until(&self, done: impl Fn(&Waiting) -> bool + Send + Sync) {
        loop {
            let moved = self.moved.notified();
            if done(&self.lock()) {
                return;
            }
            moved.await;
        }
    }

    /// The next page.
    fn take(&self, rng: &dyn Rng) -> (Vec<CacheKey>, Vec<Write>) {
        let mut waiting = self.lock();
        let Waiting { jobs, order, .. } = &mut *waiting;
        let (mut keys, mut writes, mut weight) = (Vec::new(), Vec::new(), 0);
        while keys.len() < PAGE && weight < PAGE_BYTES {
            let Some(key) = order.pop_front() else { break };
            let Some(job) = jobs.get_mut(&key) else { continue };
            (job.is_queued, job.is_under_way) = (false, true);
            weight += job.what.weight();
            writes.push(job.what.write(&key, rng));
            keys.push(key);
        }
        (keys, writes)
    }

    /// A page is done, well or not: what was not replaced in between waits no more.
    fn done(&self, outcomes: impl Iterator<Item = (CacheKey, Result<(), CacheError>)>) {
        let mut waiting = self.lock();
        let Waiting { jobs, bytes, .. } = &mut *waiting;
        for (key, outcome) in outcomes {
            let Some(job) = jobs.get_mut(&key) else { continue };
            job.is_under_way = false;
            if job.is_queued {
                continue;
            }
            *bytes -= job.what.weight();
            let acks = jobs.remove(&key).map(|job| job.acks).unwrap_or_default();
            let mut outcome = Some(outcome);
            // More than one only where a key was removed twice; the others' cause is the same.
            acks.into_iter().for_each(|ack| _ = ack.send(outcome.take().unwrap_or(Ok(()))));
        }
        drop(waiting);
        self.moved.notify_waiters();
    }

    /// Writes what waits, for ever.
    pub(super) async fn work(self: Arc<Self>, link: Arc<Link>, rng: Arc<dyn Rng>) {
        self.recover();
        let mut told = false;
        loop {
            let (keys, writes) = self.take(&*rng);
            if keys.is_empty() {
                self.filled.notified().await;
                continue;
            }
            let limit = link.limits.operation * PATIENCE;
            let written = link.ask(limit, async |mut connection| connection.write(&writes).await).await;
            let written = written.map_err(CacheError::new);
            let outcomes = self.outcomes(&link, written, keys.len());
            let failed = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
            if let Some(error) = failed
                && !told
            {
                tracing::warn!(%error, "answers are not kept in redis");
            }
            told = failed.is_some();
            self.done(keys.into_iter().zip(outcomes));
        }
    }

    /// What a page's writes came to, counted.
    fn outcomes(
        &self,
        link: &Link,
        written: Result<Option<Vec<RedisResult<()>>>, CacheError>,
        count: usize,
    ) -> Vec<Result<(), CacheError>> {
        let add = |counter: &std::sync::atomic::AtomicU64, count: usize| counter.fetch_add(count as u64, Relaxed);
        let all = |text: &str| (0..count).map(|_| Err(CacheError::new(text.to_owned()))).collect();
        match written {
            Ok(Some(results)) => {
                let errors = results.iter().filter_map(|result| result.as_ref().err());
                // A server that is full or loading answers reads as well as before or says so there.
                if errors.clone().any(|error| Blame::of(error) == Blame::Broken) {
                    link.blame_current(Blame::Broken);
                }
                let failed = errors.count();
                add(&self.counters.unwritten, failed);
                add(&self.counters.written, count - failed);
                let told = |error| CacheError::new(format!("redis: {}", describe(&error)));
                results.into_iter().map(|result| result.map_err(told)).collect()
            }
            Ok(None) => {
                add(&self.counters.dropped, count);
                all("redis is out of reach")
            }
            Err(error) => {
                add(&self.counters.unwritten, count);
                all(&error.to_string())
            }
        }
    }

    /// Puts back what was under way when a former writer's runtime ended.
    fn recover(&self) {
        let mut waiting = self.lock();
        let Waiting { jobs, order, .. } = &mut *waiting;
        for (key, job) in jobs.iter_mut().filter(|(_, job)| job.is_under_way) {
            job.is_under_way = false;
            if !job.is_queued {
                job.is_queued = true;
                order.push_back(*key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::{cache::CacheValue, inference::Kind, types::SystemRng};

    const ROOM: usize = 1 << 20;

    fn keep(text: &str) -> What {
        let value = Bytes::copy_from_slice(text.as_bytes());
        let entry = CacheEntry::new(CacheValue::Json(value.clone()), Kind::Inference.ttl());
        What::Keep(entry, value)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_removal_is_not_told_that_it_was_done_where_its_tenant_is_only_being_forgotten() {
        let (tenant, other) = (Tenant::from("acme"), Tenant::from("umbrella"));
        let key = |tenant, text: &str| CacheKey::of_bytes(Kind::Inference, Some(tenant), text.as_bytes());
        let queue = Queue::new(ROOM, Arc::default());
        let (ack, mut done) = oneshot::channel();
        assert!(queue.push(key(&tenant, "a"), What::Remove, Some(ack)));
        assert!(queue.push(key(&tenant, "a"), keep("kept anew since"), None));
        assert!(queue.push(key(&tenant, "b"), keep("b"), None));
        assert!(queue.push(key(&other, "a"), keep("another tenant's"), None));

        queue.forget(&tenant).await;
        assert_eq!(done.try_recv().unwrap_err(), TryRecvError::Empty);
        assert!(matches!(queue.pending(&key(&tenant, "a")), Some(None)), "it is not to be there any more");
        assert!(queue.pending(&key(&tenant, "b")).is_none());
        let (keys, writes) = queue.take(&SystemRng::default());
        assert_eq!(keys, [key(&tenant, "a"), key(&other, "a")]);
        assert!(matches!(writes.as_slice(), [Write::Remove { .. }, Write::Set { .. }]), "{writes:?}");

        queue.done(keys.into_iter().map(|key| (key, Err(CacheError::new("out of reach")))));
        assert!(done.try_recv().unwrap().is_err());
        assert_eq!((queue.len(), queue.lock().bytes), (0, 0));
    }
}
