//! What to connect to, and what a connection can be asked.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, Pipeline, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo},
    cmd,
};
use tokio::time::timeout;

use crate::types::FOREVER;

/// The most bytes that are read of a value: an envelope of the largest value, its tag and one too many. What is longer
/// was not kept by us, and is cut at the server rather than carried here.
const MOST: usize = (4 << 20) + 1_024;
/// Keys that a step of a scan looks at, about.
const STEP: usize = 1_000;
/// Commands that wait for the socket at most; callers wait for a place.
const BUFFER: usize = 512;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connect: Duration,
    pub(super) operation: Duration,
}

/// A server, or several that are one.
pub(super) enum Target {
    Single(Client),
    Sentinel(Sentinel),
    /// In a box: it is large.
    Cluster(Box<ClusterClient>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(client) => write!(f, "Single({})", client.get_connection_info().addr()),
            Self::Sentinel(sentinel) => write!(f, "Sentinel({})", sentinel.master),
            Self::Cluster(_) => f.write_str("Cluster"),
        }
    }
}

/// Sentinels that know which server is the master now.
pub(super) struct Sentinel {
    pub(super) master: String,
    pub(super) sentinels: Vec<Client>,
    /// A client of the server at an address.
    pub(super) client: Box<dyn Fn(String, u16) -> RedisResult<Client> + Send + Sync>,
}

/// A connection that clones share.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_cluster() { "Cluster" } else { "Single" })
    }
}

/// Something to be written.
#[derive(Debug)]
pub(super) enum Write {
    Set { name: String, bytes: Bytes, expires: Duration },
    Remove { name: String },
}

impl Write {
    fn command(&self) -> Cmd {
        match self {
            Self::Set { name, bytes, expires } => {
                // More is an error to Redis, which counts in milliseconds since 1970 with 63 bits.
                let millis = u64::try_from((*expires).min(FOREVER).as_millis()).unwrap_or(u64::MAX).max(1);
                let mut set = Cmd::with_capacity(5, bytes.len() + name.len() + 64);
                set.arg("SET").arg(name).arg(&**bytes).arg("PX").arg(millis);
                set
            }
            Self::Remove { name } => unlink(std::slice::from_ref(name)),
        }
    }
}

fn unlink(names: &[String]) -> Cmd {
    let mut unlink = cmd("UNLINK");
    unlink.arg(names);
    unlink
}

/// `GET` that reads no more than a value of ours can be long.
fn get(name: &str) -> Cmd {
    let mut get = Cmd::with_capacity(4, name.len() + 32);
    get.arg("GETRANGE").arg(name).arg(0).arg(MOST);
    get
}

fn settings(limits: Limits) -> AsyncConnectionConfig {
    // Operations are timed by us, once each; so is the whole of a connection's beginning.
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limits.connect))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(BUFFER)
}

fn too_late() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

async fn open(client: &Client, limits: Limits) -> RedisResult<MultiplexedConnection> {
    let settings = settings(limits);
    let open = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        // A server that loads its data or wants a password says so here, and not to the first caller.
        cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    };
    timeout(limits.connect, open).await.unwrap_or_else(|_| Err(too_late()))
}

impl Target {
    /// A connection that has answered once.
    pub(super) async fn connect(&self, limits: Limits) -> RedisResult<Connection> {
        match self {
            Self::Single(client) => open(client, limits).await.map(Connection::Single),
            Self::Sentinel(sentinel) => sentinel.connect(limits).await.map(Connection::Single),
            Self::Cluster(client) => {
                // It asks one node for the map and then greets all.
                let open = async {
                    let mut connection = client.get_async_connection().await?;
                    cmd("PING").exec_async(&mut connection).await?;
                    Ok(Connection::Cluster(connection))
                };
                timeout(limits.connect * 4, open).await.unwrap_or_else(|_| Err(too_late()))
            }
        }
    }
}

impl Sentinel {
    async fn connect(&self, limits: Limits) -> RedisResult<MultiplexedConnection> {
        let mut last = RedisError::from((ErrorKind::EmptySentinelList, "no sentinel"));
        for sentinel in &self.sentinels {
            match self.by(sentinel, limits).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn by(&self, sentinel: &Client, limits: Limits) -> RedisResult<MultiplexedConnection> {
        let ask = async {
            let mut connection = open(sentinel, limits).await?;
            let mut question = cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
            question.query_async::<Option<(String, u16)>>(&mut connection).await
        };
        let address = timeout(limits.connect, ask).await.unwrap_or_else(|_| Err(too_late()))?;
        let unknown = || (ErrorKind::MasterNameNotFoundBySentinel, "the sentinel does not know this master");
        let (host, port) = address.ok_or_else(unknown)?;
        let mut connection = open(&(self.client)(host, port)?, limits).await?;
        // A sentinel may not know yet that it was demoted.
        let role = timeout(limits.connect, cmd("ROLE").query_async::<Vec<Value>>(&mut connection)).await;
        match role.unwrap_or_else(|_| Err(too_late()))?.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
            _ => Err(RedisError::from((ErrorKind::Client, "the server that the sentinel names is no master"))),
        }
    }
}

impl Connection {
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The bytes under a name; none if there are no such.
    pub(super) async fn get(&mut self, name: &str) -> RedisResult<Vec<u8>> {
        match self {
            Self::Single(connection) => get(name).query_async(connection).await,
            Self::Cluster(connection) => get(name).query_async(connection).await,
        }
    }

    /// The bytes under each name, in one round trip. In a cluster the names may lie on any of its nodes.
    pub(super) async fn get_many(&mut self, names: &[String]) -> RedisResult<Vec<RedisResult<Vec<u8>>>> {
        match self {
            Self::Single(connection) => {
                let mut pipeline = Pipeline::with_capacity(names.len());
                names.iter().for_each(|name| _ = pipeline.add_command(get(name)));
                pipeline.ignore_errors().query_async(connection).await
            }
            Self::Cluster(connection) => {
                let ask = async |name: &String| get(name).query_async(&mut connection.clone()).await;
                Ok(join_all(names.iter().map(ask)).await)
            }
        }
    }

    /// Writes all, and says for each what came of it.
    pub(super) async fn write(&mut self, writes: &[Write]) -> RedisResult<Vec<RedisResult<()>>> {
        match self {
            Self::Single(connection) => {
                let mut pipeline = Pipeline::with_capacity(writes.len());
                writes.iter().for_each(|write| _ = pipeline.add_command(write.command()));
                pipeline.ignore_errors().query_async(connection).await
            }
            Self::Cluster(connection) => {
                let tell = async |write: &Write| write.command().exec_async(&mut connection.clone()).await;
                Ok(join_all(writes.iter().map(tell)).await)
            }
        }
    }

    /// One step of a scan: the places where it goes on, and the names that were found.
    pub(super) async fn scan(&mut self, pattern: &str, at: &Place) -> RedisResult<(Vec<Place>, Vec<String>)> {
        let mut scan = cmd("SCAN");
        scan.arg(at.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(STEP);
        let node = at.node.clone();
        match (self, node) {
            (Self::Single(connection), _) => {
                let (cursor, names) = scan.query_async(connection).await?;
                Ok((Place::after(cursor, None), names))
            }
            (Self::Cluster(connection), Some((host, port))) => {
                let by = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port };
                let value = connection.route_command(scan, RoutingInfo::SingleNode(by)).await?;
                let (cursor, names) = redis::from_redis_value(value)?;
                Ok((Place::after(cursor, Some((host, port))), names))
            }
            (Self::Cluster(connection), None) => {
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                let value = connection.route_command(scan, masters).await?;
                let parts: Vec<(String, (u64, Vec<String>))> = redis::from_redis_value(value)?;
                let (mut places, mut names) = (Vec::new(), Vec::new());
                for (address, (cursor, found)) in parts {
                    let node =
                        address.rsplit_once(':').and_then(|(host, port)| Some((host.into(), port.parse().ok()?)));
                    let node = node.ok_or((ErrorKind::Client, "a node's address is not host and port"))?;
                    places.extend(Place::after(cursor, Some(node)));
                    names.extend(found);
                }
                Ok((places, names))
            }
        }
    }
}

/// Where a scan is: at all nodes' beginning, or at a node's cursor.
#[derive(Debug, Default)]
pub(super) struct Place {
    node: Option<(String, u16)>,
    cursor: u64,
}

impl Place {
    fn after(cursor: u64, node: Option<(String, u16)>) -> Vec<Self> {
        // Zero is the end.
        if cursor == 0 { Vec::new() } else { vec![Self { node, cursor }] }
    }
}

/// The same server settings for another address.
pub(super) fn at(addr: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match addr {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// What went wrong, without a server's own words: those may repeat what it was sent.
pub(super) fn describe(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    if error.is_io_error() {
        return error.to_string();
    }
    match error.code() {
        Some(code) => format!("{} ({code})", error.category()),
        None => error.category().to_owned(),
    }
}
