//! Which Redis, and how patient to be with it.

use std::{fmt, sync::Arc, time::Duration};

use super::{RedisCache, seal::MacKey};
use crate::{
    cache::CacheError,
    store::RedisServer,
    types::{Clock, Rng, SystemClock, SystemRng},
};

/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where a Redis is and how it is to be used; [`RedisCache::connect`] is the short way.
///
/// URLs are `redis://[user[:password]@]host[:port][/db]`, `rediss://…` for TLS (feature `rustls`) and
/// `redis+unix:///path`. Passwords and keys are never shown, in `Debug` neither.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use together_inference::cache::RedisConfig;
///
/// // Nothing listens there: a cache that is down costs misses, not a start.
/// let cache = RedisConfig::new("redis://app:secret@127.0.0.1:1")
///     .mac_key(b"32 random bytes from your secrets")
///     .connect_timeout(Duration::from_millis(100))
///     .connect()
///     .await?;
/// assert!(!cache.stats().is_connected);
/// assert!(!format!("{cache:?}").contains("secret"));
/// # Ok::<(), together_inference::cache::CacheError>(())
/// # }).unwrap();
/// ```
#[must_use]
pub struct RedisConfig {
    server: RedisServer,
    mac_key: Option<Result<MacKey, CacheError>>,
    queue_bytes: usize,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig").field("server", &self.server).finish_non_exhaustive()
    }
}

impl From<RedisServer> for RedisConfig {
    fn from(server: RedisServer) -> Self {
        Self {
            server,
            mac_key: None,
            queue_bytes: 32 << 20,
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng::default()),
        }
    }
}

impl RedisConfig {
    /// One server.
    pub fn new(url: impl Into<String>) -> Self {
        RedisServer::new(url).into()
    }

    /// The master of this name, as the sentinels at these URLs know it. The URLs' users and passwords are the sentinels';
    /// [`username`](Self::username) and [`password`](Self::password) are the master's. With `rediss://` the master is
    /// reached by TLS too.
    pub fn sentinel(master: impl Into<String>, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        RedisServer::sentinel(master, urls).into()
    }

    /// A Redis Cluster, found by any of these nodes.
    pub fn cluster(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        RedisServer::cluster(urls).into()
    }

    /// The user, instead of the URL's.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.server = self.server.username(username);
        self
    }

    /// The password, instead of the URL's.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.server = self.server.password(password);
        self
    }

    /// Signs what is kept with HMAC-SHA256, and takes nothing else for an answer: whoever can write to this Redis but has
    /// not the key cannot put words into a model's mouth. At least 16 bytes, the same in all processes that share.
    pub fn mac_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.mac_key = Some(MacKey::new(key.into()));
        self
    }

    /// Trusts these certificates, PEM, for `rediss://` instead of the system's.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.server = self.server.root_certificates(pem);
        self
    }

    /// How long a connection may take to come about: 250 ms unless set.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.server = self.server.connect_timeout(time);
        self
    }

    /// How long a look-up may take before it is a miss: 50 ms unless set; twice that in a cluster, where one repeat may be
    /// needed to find the node.
    pub fn operation_timeout(mut self, time: Duration) -> Self {
        self.server = self.server.operation_timeout(time);
        self
    }

    /// The most bytes that wait to be written: 32 MiB unless set. What does not fit is not kept.
    pub const fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// The clock that values' ages are read from.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The source of jitter.
    pub fn rng(mut self, rng: impl Rng + 'static) -> Self {
        self.rng = Arc::new(rng);
        self
    }

    /// The cache. Waits for Redis as long as a connection may take, and no longer: the cache starts without it, and uses
    /// it as soon as it is there.
    ///
    /// # Errors
    ///
    /// [`CacheError`] if the settings cannot be: a URL that is none, a MAC key that is too short, TLS without the feature
    /// `rustls`. Never because Redis is down.
    pub async fn connect(mut self) -> Result<RedisCache, CacheError> {
        let mac_key = self.mac_key.take().transpose()?;
        let (target, limits) = self.server.open(PATIENCE).map_err(CacheError::new)?;
        let cache = RedisCache::new(target, limits, mac_key, self.queue_bytes, self.clock, self.rng);
        cache.begin().await;
        Ok(cache)
    }
}
