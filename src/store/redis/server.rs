//! Which Redis, and how to get in.

use std::{fmt, time::Duration};

use redis::{
    Client, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult,
    cluster::ClusterClientBuilder, io::tcp::TcpSettings,
};
#[cfg(feature = "rustls")]
use redis::{ConnectionAddr, TlsCertificates};

use super::target::{Limits, Sentinel, Target, at, describe};
use crate::types::Secret;

/// Where a Redis is: one server, the master that sentinels know, or a cluster.
///
/// URLs are `redis://[user[:password]@]host[:port][/db]`, `rediss://…` for TLS (feature `rustls`) and
/// `redis+unix:///path`. Passwords are never shown, in `Debug` neither.
///
/// ```
/// use together_inference::store::RedisServer;
///
/// let server = RedisServer::new("redis://app:secret@127.0.0.1:6379");
/// assert!(!format!("{server:?}").contains("secret"));
/// ```
#[must_use]
pub struct RedisServer {
    place: Place,
    username: Option<String>,
    password: Option<Secret>,
    root_certificates: Option<Vec<u8>>,
    connect: Duration,
    operation: Option<Duration>,
}

/// URLs, which may hold passwords.
enum Place {
    Single(Secret),
    Sentinel { master: String, urls: Vec<Secret> },
    Cluster(Vec<Secret>),
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Single(_) => "single",
            Place::Sentinel { .. } => "sentinel",
            Place::Cluster(_) => "cluster",
        };
        f.debug_struct("RedisServer").field("place", &place).field("connect", &self.connect).finish_non_exhaustive()
    }
}

impl From<&str> for RedisServer {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for RedisServer {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl RedisServer {
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

    const fn at(place: Place) -> Self {
        let connect = Duration::from_millis(250);
        Self { place, username: None, password: None, root_certificates: None, connect, operation: None }
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

    /// Trusts these certificates, PEM, for `rediss://` instead of the system's.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates = Some(pem.into());
        self
    }

    /// How long a connection may take to come about: 250 ms unless set.
    pub const fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect = time;
        self
    }

    /// How long a question may take, twice as long in a cluster, where one repeat may be needed to find the node: as long
    /// as whoever asks says, unless set.
    pub const fn operation_timeout(mut self, time: Duration) -> Self {
        self.operation = Some(time);
        self
    }

    /// What to connect to, and how long to wait for it.
    pub(crate) fn open(self, patience: Duration) -> Result<(Target, Limits), String> {
        let mut limits = Limits { connect: self.connect, operation: self.operation.unwrap_or(patience) };
        let target = self.target(limits)?;
        if matches!(target, Target::Cluster(_)) {
            limits.operation *= 2;
        }
        Ok((target, limits))
    }

    fn target(&self, limits: Limits) -> Result<Target, String> {
        let infos = |urls: &[Secret]| urls.iter().map(Self::info).collect::<Result<Vec<_>, _>>();
        match &self.place {
            Place::Single(url) => {
                let info = self.authenticated(Self::info(url)?);
                Ok(Target::Single(client(info, self.root_certificates.as_deref()).map_err(|error| unusable(&error))?))
            }
            Place::Cluster(urls) => {
                let infos = infos(urls)?.into_iter().map(|info| self.authenticated(info));
                self.cluster_client(infos.collect(), limits).map_err(|error| unusable(&error))
            }
            Place::Sentinel { master, urls } => {
                let infos = infos(urls)?;
                let first = infos.first().ok_or_else(|| String::from("redis: no sentinel is named"))?;
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

    fn info(url: &Secret) -> Result<ConnectionInfo, String> {
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

    fn cluster_client(&self, nodes: Vec<ConnectionInfo>, limits: Limits) -> RedisResult<Target> {
        let operation = limits.operation;
        let builder = ClusterClientBuilder::new(nodes)
            .tcp_settings(TcpSettings::default().set_nodelay(true))
            .connection_timeout(limits.connect)
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

fn unusable(error: &RedisError) -> String {
    format!("redis: the settings cannot be used: {}", describe(error))
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
fn tls() -> Result<(), String> {
    // The client takes the process's provider, and panics where several are compiled in and none was chosen. One that the
    // application chose stays.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    Ok(())
}

#[cfg(not(feature = "rustls"))]
fn tls() -> Result<(), String> {
    Err(String::from("redis: `rediss://` needs the feature `rustls` of together-inference"))
}
