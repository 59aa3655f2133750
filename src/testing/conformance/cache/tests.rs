use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;

use super::*;
use crate::cache::{CacheError, MemoryCache, NoCache, TieredCache};

/// The suite on tokio's time.
async fn check(layer: &dyn CacheLayer, profile: CacheProfile) -> Result<(), Failure> {
    cache_layer(layer, profile, &|time| Box::pin(tokio::time::advance(time))).await
}

#[tokio::test(start_paused = true)]
async fn the_shipped_layers_keep_every_promise_behind_every_pointer() {
    check(&MemoryCache::default(), CacheProfile::KeepsOld).await.unwrap();
    check(&NoCache, CacheProfile::MayForget).await.unwrap();
    check(&Arc::new(MemoryCache::default()), CacheProfile::KeepsOld).await.unwrap();
    let shared: Arc<dyn CacheLayer> = Arc::new(MemoryCache::default());
    check(&shared, CacheProfile::KeepsOld).await.unwrap();
    let boxed: Box<dyn CacheLayer> = Box::new(MemoryCache::new(1));
    check(&*boxed, CacheProfile::MayForget).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn any_two_layers_are_one_that_keeps_every_promise() {
    let memory = MemoryCache::default;
    check(&TieredCache::new(memory(), memory()), CacheProfile::KeepsOld).await.unwrap();
    check(&TieredCache::new(NoCache, Arc::new(memory())), CacheProfile::KeepsOld).await.unwrap();
    check(&TieredCache::new(memory(), NoCache), CacheProfile::KeepsOld).await.unwrap();
    check(&TieredCache::new(MemoryCache::new(1), NoCache), CacheProfile::MayForget).await.unwrap();
    let nested = TieredCache::new(TieredCache::new(MemoryCache::new(1), memory()), TieredCache::new(memory(), NoCache));
    check(&nested, CacheProfile::KeepsOld).await.unwrap();
    let forgetful = TieredCache::new(memory(), memory()).remember_misses(LONG);
    check(&forgetful, CacheProfile::KeepsOld).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_keeps_nothing_is_none_that_keeps() {
    let failure = check(&NoCache, CacheProfile::Keeps).await.unwrap_err();
    assert!(failure.promise.starts_with("a value comes back"), "{failure}");
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    MakesUpValues,
    RoundsFloats,
    WritesFloatsAsText,
    ReformatsJson,
    ForgetsTheSeed,
    ForgetsDelta,
    ForgetsKind,
    ForgetsTenant,
    KeepsTheFirst,
    IgnoresRemove,
    RemovesAll,
    RefusesUnknownRemove,
    ShufflesMany,
    LeavesOutMisses,
    NeverFlushes,
    LosesAtFlush,
    IgnoresTime,
    CountsFromWhenKept,
    ServesOldAmongMany,
    ForgetsKeep,
    ThrowsOldAway,
    KeepsWhatIsNotToBeKept,
    KeepsForEver,
    MakesOldFresh,
    ForgetsNoTenant,
    ForgetsEveryTenant,
    ForgetsOneKindOfATenant,
    ForgetsAndSaysThatItCannot,
    FailsToForget,
    BansTheForgotten,
    SharesOneScratch,
    StaysLocked,
    Hangs,
    Panics,
}

/// A map with one fault. Each call yields once in the middle.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    map: Mutex<HashMap<String, (CacheKey, CacheEntry)>>,
    scratch: Mutex<Option<CacheEntry>>,
    locked: Mutex<bool>,
    banned: Mutex<Option<Tenant>>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        let (scratch, banned) = (Mutex::default(), Mutex::default());
        Self { fault, map: Mutex::default(), scratch, locked: Mutex::new(false), banned }
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, (CacheKey, CacheEntry)>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, key: &CacheKey) -> String {
        let whole = key.to_string();
        match self.fault {
            Fault::ForgetsKind => whole.splitn(3, ':').last().unwrap().to_owned(),
            // A key that is cut where a tenant's begins: all of one kind are one.
            Fault::ForgetsTenant => whole[..whole.len() - 64].to_owned(),
            _ => whole,
        }
    }

    fn spoiled(&self, mut entry: CacheEntry) -> CacheEntry {
        let scaled = |vector: &[f32], by: f32| vector.iter().map(|x| (x * by).round() / by).collect();
        match (self.fault, &mut entry.value) {
            (Fault::RoundsFloats, CacheValue::Embedding(vector)) => *vector = scaled(vector, 1e3),
            (Fault::WritesFloatsAsText, CacheValue::Embedding(vector)) => {
                *vector = vector.iter().map(|x| x.to_string().parse::<f32>().unwrap()).collect();
            }
            (Fault::ReformatsJson, CacheValue::Json(json)) => {
                *json = String::from_utf8(json.to_vec()).unwrap().replace(' ', "").into();
            }
            (Fault::ForgetsTheSeed, CacheValue::Inference(answer)) => {
                if let Output::Chat(choices) = Arc::make_mut(&mut Arc::make_mut(answer).output) {
                    choices.iter_mut().for_each(|choice| choice.seed = None);
                }
            }
            (Fault::ForgetsKeep, _) => entry.keep = Duration::ZERO,
            (Fault::ForgetsDelta, _) => entry.delta = Duration::ZERO,
            (Fault::CountsFromWhenKept, _) if !entry.ttl.is_zero() => entry.stored = Instant::now(),
            _ => {}
        }
        entry
    }

    fn found(&self, key: &CacheKey, checked: bool) -> Option<CacheEntry> {
        let found = self.map().get(&self.name(key)).map(|(_, entry)| entry.clone());
        found.filter(|entry| !checked || self.fault == Fault::IgnoresTime || entry.is_fresh(Instant::now()))
    }

    /// A pause in the middle of a call.
    async fn pause(&self) {
        if self.fault == Fault::StaysLocked {
            assert!(!std::mem::replace(&mut *self.locked.lock().unwrap_or_else(PoisonError::into_inner), true));
            tokio::task::yield_now().await;
            *self.locked.lock().unwrap_or_else(PoisonError::into_inner) = false;
        }
        if self.fault == Fault::Hangs {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl CacheLayer for Broken {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.pause().await;
        Ok(match self.found(key, true) {
            None if self.fault == Fault::MakesUpValues => Some(note("a guess")),
            None if self.fault == Fault::Panics && !self.map().is_empty() => panic!("no such key"),
            found => found,
        })
    }

    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.pause().await;
        let Some(mut found) = self.found(key, false) else { return Ok(None) };
        let now = Instant::now();
        Ok(match self.fault {
            Fault::ThrowsOldAway => Some(found).filter(|entry| entry.is_fresh(now)),
            Fault::KeepsWhatIsNotToBeKept => Some(found).filter(|entry| entry.keep.is_zero() || entry.is_kept(now)),
            Fault::KeepsForEver => Some(found).filter(|entry| !entry.keep.is_zero() || entry.is_kept(now)),
            Fault::MakesOldFresh if found.is_kept(now) => {
                found.stored = now;
                Some(found)
            }
            _ => Some(found).filter(|entry| entry.is_kept(now)),
        })
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        let entry = self.spoiled(entry);
        if self.fault == Fault::SharesOneScratch {
            *self.scratch.lock().unwrap() = Some(entry.clone());
        }
        self.pause().await;
        let entry = self.scratch.lock().unwrap().clone().unwrap_or(entry);
        let name = self.name(key);
        if self.fault == Fault::KeepsTheFirst {
            self.map().entry(name).or_insert((*key, entry));
        } else if !self.banned.lock().unwrap().as_ref().is_some_and(|tenant| key.is_of(tenant)) {
            self.map().insert(name, (*key, entry));
        }
        Ok(())
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.pause().await;
        match self.fault {
            Fault::IgnoresRemove => {}
            Fault::RemovesAll => self.map().clear(),
            Fault::RefusesUnknownRemove if !self.map().contains_key(&self.name(key)) => {
                return Err(CacheError::new("not there"));
            }
            _ => drop(self.map().remove(&self.name(key))),
        }
        Ok(())
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheEntry>>, CacheError> {
        self.pause().await;
        let checked = self.fault != Fault::ServesOldAmongMany;
        let mut found: Vec<_> = keys.iter().map(|key| self.found(key, checked)).collect();
        match self.fault {
            Fault::ShufflesMany => found.reverse(),
            Fault::LeavesOutMisses => found.retain(Option::is_some),
            _ => {}
        }
        Ok(found)
    }

    async fn flush(&self) -> Result<(), CacheError> {
        match self.fault {
            Fault::NeverFlushes => std::future::pending().await,
            Fault::LosesAtFlush => self.map().clear(),
            _ => {}
        }
        Ok(())
    }

    async fn forget_tenant(&self, tenant: &Tenant) -> Result<(), CacheError> {
        self.pause().await;
        let forgotten = |key: &CacheKey| match self.fault {
            Fault::ForgetsNoTenant | Fault::FailsToForget => false,
            Fault::ForgetsEveryTenant => true,
            Fault::ForgetsOneKindOfATenant => key.is_of(tenant) && key.kind() == Kind::Inference,
            _ => key.is_of(tenant),
        };
        self.map().retain(|_, (key, _)| !forgotten(key));
        match self.fault {
            Fault::ForgetsAndSaysThatItCannot => return Err(CacheError::unsupported("cannot")),
            Fault::FailsToForget => return Err(CacheError::new("the store is down")),
            Fault::BansTheForgotten => *self.banned.lock().unwrap() = Some(tenant.clone()),
            _ => {}
        }
        Ok(())
    }
}

/// A layer as they were written before `get_kept` and `forget_tenant`: both are left to the trait.
#[derive(Debug)]
struct Plain(MemoryCache);

#[async_trait]
impl CacheLayer for Plain {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.0.get(key).await
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        self.0.set(key, entry).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        self.0.remove(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_leaves_the_rest_to_the_trait_keeps_its_promises() {
    check(&Plain(MemoryCache::default()), CacheProfile::Keeps).await.unwrap();
    let failure = check(&Plain(MemoryCache::default()), CacheProfile::KeepsOld).await.unwrap_err();
    assert!(failure.promise.starts_with("a value past its time"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn the_base_of_the_broken_ones_is_whole_itself() {
    check(&Broken::new(Fault::None), CacheProfile::KeepsOld).await.unwrap();
    check(&Broken::new(Fault::None), CacheProfile::MayForget).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_broken_layer_fails_at_the_promise_that_it_breaks() {
    for (fault, promise) in [
        (Fault::MakesUpValues, "a key that nothing was kept under"),
        (Fault::Hangs, "a key that nothing was kept under"),
        (Fault::Panics, "a key that nothing was kept under"),
        (Fault::RoundsFloats, "a value comes back"),
        (Fault::WritesFloatsAsText, "a value comes back"),
        (Fault::ReformatsJson, "a value comes back"),
        (Fault::ForgetsTheSeed, "a value comes back"),
        (Fault::ForgetsDelta, "a value comes back"),
        (Fault::ForgetsKeep, "a value comes back"),
        (Fault::ForgetsKind, "a key never gets"),
        (Fault::ForgetsTenant, "a key that nothing was kept under"),
        (Fault::KeepsTheFirst, "the value that was kept last"),
        (Fault::IgnoresRemove, "what was removed"),
        (Fault::RemovesAll, "what was removed"),
        (Fault::RefusesUnknownRemove, "what was removed"),
        (Fault::ShufflesMany, "several values"),
        (Fault::LeavesOutMisses, "several values"),
        (Fault::NeverFlushes, "several values"),
        (Fault::LosesAtFlush, "several values"),
        (Fault::IgnoresTime, "a value is not served past its time"),
        (Fault::CountsFromWhenKept, "a value is not served past its time"),
        (Fault::ServesOldAmongMany, "a value is not served past its time"),
        (Fault::ThrowsOldAway, "a value past its time"),
        (Fault::KeepsWhatIsNotToBeKept, "a value past its time"),
        (Fault::KeepsForEver, "a value past its time"),
        (Fault::MakesOldFresh, "a value past its time"),
        (Fault::ForgetsNoTenant, "forget_tenant"),
        (Fault::ForgetsEveryTenant, "forget_tenant"),
        (Fault::ForgetsOneKindOfATenant, "forget_tenant"),
        (Fault::ForgetsAndSaysThatItCannot, "forget_tenant"),
        (Fault::FailsToForget, "forget_tenant"),
        (Fault::BansTheForgotten, "forget_tenant"),
        (Fault::SharesOneScratch, "calls at the same time"),
        (Fault::StaysLocked, "calls at the same time"),
    ] {
        let failure = check(&Broken::new(fault), CacheProfile::KeepsOld).await.expect_err(&format!("{fault:?}"));
        assert!(failure.promise.starts_with(promise), "{fault:?}: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_be_forgotten_must_still_be_right() {
    for fault in [Fault::MakesUpValues, Fault::RoundsFloats, Fault::ForgetsKind, Fault::KeepsTheFirst] {
        check(&Broken::new(fault), CacheProfile::MayForget).await.expect_err(&format!("{fault:?}"));
    }
}
