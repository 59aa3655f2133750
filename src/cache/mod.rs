//! Answers that need not be paid twice.
//!
//! A [`CacheLayer`] keeps values under [`CacheKey`]s. [`MemoryCache`] is the default; `RedisCache` (feature `redis`) is
//! shared by processes; [`TieredCache`] puts one before the other; [`NoCache`] keeps nothing. What may be cached is decided
//! by the service (temperature 0 or opt-in, whole answers only), never by a layer.
//!
//! # Why a layer never fails a call
//!
//! A cache that is down must cost a miss, not an outage: every error of [`get`](CacheLayer::get) is a miss, and a layer
//! of one's own gets 250 ms.
//!
//! ```
//! use std::{collections::HashMap, sync::Mutex, time::SystemTime};
//! use together_inference::{cache::{CacheEntry, CacheError, CacheLayer}, inference::CacheKey};
//!
//! /// A key-value store outside the process, reduced to a map: values travel as bytes.
//! #[derive(Debug, Default)]
//! struct Remote(Mutex<HashMap<String, Vec<u8>>>);
//!
//! #[async_trait::async_trait]
//! impl CacheLayer for Remote {
//!     async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
//!         let bytes = self.0.lock().map_err(|_| CacheError::new("poisoned"))?.get(&key.to_string()).cloned();
//!         let entry = bytes.map(|bytes| CacheEntry::decode(key, &bytes, SystemTime::now())).transpose()?;
//!         Ok(entry.filter(|entry| entry.is_fresh(tokio::time::Instant::now())))
//!     }
//!
//!     async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
//!         let bytes = entry.encode(key, SystemTime::now())?;
//!         self.0.lock().map_err(|_| CacheError::new("poisoned"))?.insert(key.to_string(), bytes);
//!         Ok(())
//!     }
//!
//!     async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
//!         self.0.lock().map_err(|_| CacheError::new("poisoned"))?.remove(&key.to_string());
//!         Ok(())
//!     }
//! }
//! ```

mod entry;
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod tiered;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

#[cfg(feature = "redis")]
pub use self::redis::{RedisCache, RedisConfig, RedisStats};
pub use self::{
    entry::{CacheEntry, CacheValue},
    memory::MemoryCache,
    tiered::TieredCache,
};
use crate::{
    inference::CacheKey,
    types::{BoxError, Tenant},
};

/// Keeps values under keys for a while.
///
/// A layer may forget any value at any time. It must never answer a key with another key's value.
#[async_trait]
pub trait CacheLayer: Send + Sync + fmt::Debug {
    /// The value of a key, if it is kept and fresh.
    ///
    /// # Errors
    ///
    /// [`CacheError`]; the service takes it for a miss.
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError>;

    /// The value of a key, also one past its time to live that [is kept](CacheEntry::is_kept) for when nothing newer can
    /// be had. The default answers only fresh ones.
    ///
    /// # Errors
    ///
    /// [`CacheError`]; the service takes it for a miss.
    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        self.get(key).await
    }

    /// Keeps a value, replacing the key's former one.
    ///
    /// # Errors
    ///
    /// [`CacheError`]; the answer does not wait for it.
    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError>;

    /// Forgets a key.
    ///
    /// # Errors
    ///
    /// [`CacheError`].
    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError>;

    /// The values of several keys, in their order. The default asks one by one; a layer outside the process asks once.
    ///
    /// # Errors
    ///
    /// [`CacheError`].
    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheEntry>>, CacheError> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.get(key).await?);
        }
        Ok(found)
    }

    /// Keeps several values. The default keeps one by one.
    ///
    /// # Errors
    ///
    /// [`CacheError`] of the first that failed.
    async fn set_many(&self, entries: Vec<(CacheKey, CacheEntry)>) -> Result<(), CacheError> {
        for (key, entry) in entries {
            self.set(&key, entry).await?;
        }
        Ok(())
    }

    /// Forgets all values of a tenant. What is kept while it works may stay.
    ///
    /// # Errors
    ///
    /// [`CacheError`]; some may be forgotten then. The default's [is unsupported](CacheError::is_unsupported) and forgets
    /// none: a layer that cannot must not look as if it had.
    async fn forget_tenant(&self, _tenant: &Tenant) -> Result<(), CacheError> {
        Err(CacheError::unsupported("this cache layer cannot forget a tenant; its values go when their time is over"))
    }

    /// Waits until what was kept is where it belongs. The default does nothing; a layer that writes in the background
    /// waits for its writes, so that a program may end without losing them.
    ///
    /// # Errors
    ///
    /// [`CacheError`].
    async fn flush(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: CacheLayer + ?Sized> CacheLayer for Arc<T> {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        (**self).get(key).await
    }

    async fn get_kept(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        (**self).get_kept(key).await
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        (**self).set(key, entry).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        (**self).remove(key).await
    }

    async fn get_many(&self, keys: &[CacheKey]) -> Result<Vec<Option<CacheEntry>>, CacheError> {
        (**self).get_many(keys).await
    }

    async fn set_many(&self, entries: Vec<(CacheKey, CacheEntry)>) -> Result<(), CacheError> {
        (**self).set_many(entries).await
    }

    async fn forget_tenant(&self, tenant: &Tenant) -> Result<(), CacheError> {
        (**self).forget_tenant(tenant).await
    }

    async fn flush(&self) -> Result<(), CacheError> {
        (**self).flush().await
    }
}

/// A layer failed, or a stored value is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("cache: {0}")]
pub struct CacheError(#[source] BoxError);

impl CacheError {
    /// A failure with its cause.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self(cause.into())
    }

    /// The failure of a layer that does not have what it is asked for.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::new(Unsupported(reason.into()))
    }

    /// A stored value that somebody else wrote than those who may.
    pub fn forged(reason: impl Into<String>) -> Self {
        Self::new(Forged(reason.into()))
    }

    /// Whether a stored value was written by somebody who may not: the service tells whoever is to be told, once a day.
    #[must_use]
    pub fn is_forged(&self) -> bool {
        self.0.is::<Forged>()
    }

    /// Whether the layer cannot do this at all: trying again is of no use.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.0.is::<Unsupported>()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unsupported(String);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Forged(String);

/// Keeps nothing: every look-up is a miss.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

#[async_trait]
impl CacheLayer for NoCache {
    async fn get(&self, _: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        Ok(None)
    }

    async fn set(&self, _: &CacheKey, _: CacheEntry) -> Result<(), CacheError> {
        Ok(())
    }

    async fn remove(&self, _: &CacheKey) -> Result<(), CacheError> {
        Ok(())
    }

    async fn forget_tenant(&self, _: &Tenant) -> Result<(), CacheError> {
        Ok(())
    }
}
