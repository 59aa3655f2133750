//! What to connect to, and what a connection can be asked.

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, RedisError, RedisResult, Script,
    ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cmd,
};
use tokio::time::timeout;

/// Commands that wait for the socket at most; callers wait for a place.
const BUFFER: usize = 512;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) operation: Duration,
}

/// A server, or several that are one.
pub(crate) enum Target {
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
pub(crate) struct Sentinel {
    pub(crate) master: String,
    pub(crate) sentinels: Vec<Client>,
    /// A client of the server at an address.
    pub(crate) client: Box<dyn Fn(String, u16) -> RedisResult<Client> + Send + Sync>,
}

/// A connection that clones share.
#[derive(Clone)]
pub(crate) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_cluster() { "Cluster" } else { "Single" })
    }
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
    pub(crate) async fn connect(&self, limits: Limits) -> RedisResult<Connection> {
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
    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Runs a script by its hash, as `EVALSHA`, on the server that its keys lie on; sends it first to one that has it not.
    pub(crate) async fn run<T: FromRedisValue>(&mut self, script: &Script, evalsha: &Cmd) -> RedisResult<T> {
        match self {
            Self::Single(connection) => run(script, evalsha, connection).await,
            Self::Cluster(connection) => run(script, evalsha, connection).await,
        }
    }
}

async fn run<T: FromRedisValue>(
    script: &Script,
    evalsha: &Cmd,
    connection: &mut (impl ConnectionLike + Send),
) -> RedisResult<T> {
    match evalsha.query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(connection).await?;
            evalsha.query_async(connection).await
        }
        answer => answer,
    }
}

/// The same server settings for another address.
pub(crate) fn at(addr: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match addr {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// What went wrong, without a server's own words: those may repeat what it was sent.
pub(crate) fn describe(error: &RedisError) -> String {
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
