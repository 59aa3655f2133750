//! Which Redis, and how patient to be with it.

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    Client, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult,
    cluster::ClusterClientBuilder, io::tcp::TcpSettings,
};
#[cfg(feature = "rustls")]
use redis::{ConnectionAddr, TlsCertificates};

use super::{
    RedisCache,
    seal::MacKey,
    target::{Limits, Sentinel, Target, at, describe},
};
use crate::{
    cache::CacheError,
    types::{Clock, Rng, Secret, SystemClock, SystemRng},
};

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
    place: Place,
    username: Option<String>,
    password: Option<Secret>,
    mac_key: Option<Result<MacKey, CacheError>>,
    root_certificates: Option<Vec<u8>>,
    limits: Limits,
    queue_bytes: usize,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

/// URLs, which may hold passwords.
enum Place {
    Single(Secret),
    Sentinel { master: String, urls: Vec<Secret> },
    Cluster(Vec<Secret>),
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Single(_) => "single",
            Place::Sentinel { .. } => "sentinel",
            Place::Cluster(_) => "cluster",
        };
        f.debug_struct("RedisConfig").field("place", &place).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl RedisConfig {
    /// One server.
    pub fn new(url: impl Into<String>) -> Self {
        Self::at(Place::Single(Secret::new(url)))
    }

    /// The master of this name, as the sentinels at these URLs know it. The URLs' users and passwords are the sentinels';
    /// [`username`](Self::username) and [`password`](Self::password) are the master's. With `rediss://` the master is
    /// reached by TLS too.
    pub fn sentinel(master: impl Into<String>, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::at(Place::Sentinel { master: master.into(), urls: urls.into_iter().map(Secret::new).collect() })
    }

    /// A Redis Cluster, found by any of these nodes.
    pub fn cluster(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::at(Place::Cluster(urls.into_iter().map(Secret::new).collect()))
    }

    fn at(place: Place) -> Self {
        let limits = Limits { connect: Duration::from_millis(250), operation: Duration::from_millis(50) };
        Self {
            place,
            username: None,
            password: None,
            mac_key: None,
            root_certificates: None,
            limits,
            queue_bytes: 32 << 20,
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng::default()),
        }
    }

    /// The user, instead of the URL's.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// The password, instead of the URL's.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret::new(password));
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
        self.root_certificates = Some(pem.into());
        self
    }

    /// How long a connection may take to come about: 250 ms unless set.
    pub const fn connect_timeout(mut self, time: Duration) -> Self {
        self.limits.connect = time;
        self
    }

    /// How long a look-up may take before it is a miss: 50 ms unless set; twice that in a cluster, where one repeat may be
    /// needed to find the node.
    pub const fn operation_timeout(mut self, time: Duration) -> Self {
        self.limits.operation = time;
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
        let target = self.target()?;
        if matches!(target, Target::Cluster(_)) {
            self.limits.operation *= 2;
        }
        let cache = RedisCache::new(target, self.limits, mac_key, self.queue_bytes, self.clock, self.rng);
        cache.begin().await;
        Ok(cache)
    }

    fn target(&self) -> Result<Target, CacheError> {
        let infos = |urls: &[Secret]| urls.iter().map(Self::info).collect::<Result<Vec<_>, _>>();
        match &self.place {
            Place::Single(url) => {
                let info = self.authenticated(Self::info(url)?);
                Ok(Target::Single(client(info, self.root_certificates.as_deref()).map_err(|error| unusable(&error))?))
            }
            Place::Cluster(urls) => {
                let infos = infos(urls)?.into_iter().map(|info| self.authenticated(info));
                self.cluster_client(infos.collect()).map_err(|error| unusable(&error))
            }
            Place::Sentinel { master, urls } => {
                let infos = infos(urls)?;
                let first = infos.first().ok_or_else(|| CacheError::new("redis: no sentinel is named"))?;
                let node =
                    self.authenticated(ConnectionInfo::clone(first).set_redis_settings(RedisConnectionInfo::default()));
                let roots = self.root_certificates.clone();
                let sentinels =
                    infos.into_iter().map(|info| client(info, roots.as_deref())).collect::<RedisResult<_>>();
                let of_address = move |host, port| {
                    let addr = at(node.addr(), host, port);
                    client(node.clone().set_addr(addr), roots.as_deref())
                };
                let (sentinels, client) = (sentinels.map_err(|error| unusable(&error))?, Box::new(of_address));
                Ok(Target::Sentinel(Sentinel { master: master.clone(), sentinels, client }))
            }
        }
    }

    fn info(url: &Secret) -> Result<ConnectionInfo, CacheError> {
        let url = url.expose();
        if url.starts_with("rediss://") || url.starts_with("valkeys://") {
            tls()?;
        }
        let info = url.into_connection_info().map_err(|error| unusable(&error))?;
        // Without this, Nagle holds back the last part of a large value until the former is acknowledged: 20 times slower.
        Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
    }

    fn authenticated(&self, info: ConnectionInfo) -> ConnectionInfo {
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.expose());
        }
        info.set_redis_settings(settings)
    }

    fn cluster_client(&self, nodes: Vec<ConnectionInfo>) -> RedisResult<Target> {
        let operation = self.limits.operation;
        let builder = ClusterClientBuilder::new(nodes)
            .tcp_settings(TcpSettings::default().set_nodelay(true))
            .connection_timeout(self.limits.connect)
            .response_timeout(operation)
            .overall_response_timeout(Some(operation * 19 / 10))
            // Its own are 16 repeats and 655 s between them.
            .retries(1)
            .min_retry_wait(1)
            .max_retry_wait(u64::try_from(operation.as_millis()).unwrap_or(u64::MAX));
        #[cfg(feature = "rustls")]
        let builder = match &self.root_certificates {
            Some(pem) => builder.certs(TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) }),
            None => builder,
        };
        Ok(Target::Cluster(Box::new(builder.build()?)))
    }
}

fn unusable(error: &RedisError) -> CacheError {
    CacheError::new(format!("redis: the settings cannot be used: {}", describe(error)))
}

/// A client of one server, with certificates to trust where it is reached by TLS.
fn client(info: ConnectionInfo, roots: Option<&[u8]>) -> RedisResult<Client> {
    #[cfg(feature = "rustls")]
    if let (ConnectionAddr::TcpTls { .. }, Some(pem)) = (info.addr(), roots) {
        let tcp = info.tcp_settings().clone();
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.to_vec()) };
        return Client::build_with_tls(info.set_tcp_settings(tcp), certificates);
    }
    #[cfg(not(feature = "rustls"))]
    let _ = roots;
    Client::open(info)
}

/// Makes sure that there is a TLS library to use.
#[cfg(feature = "rustls")]
#[expect(clippy::unnecessary_wraps, reason = "fails without the feature")]
fn tls() -> Result<(), CacheError> {
    // The client takes the process's provider, and panics where several are compiled in and none was chosen. One that the
    // application chose stays.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    Ok(())
}

#[cfg(not(feature = "rustls"))]
fn tls() -> Result<(), CacheError> {
    Err(CacheError::new("redis: `rediss://` needs the feature `rustls` of together-inference"))
}
