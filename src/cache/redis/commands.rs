//! What a cache asks a connection.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use redis::{
    Cmd, ErrorKind, Pipeline, RedisResult,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo},
    cmd,
};

use crate::{store::redis::Connection, types::FOREVER};

/// The most bytes that are read of a value: an envelope of the largest value, its tag and one too many. What is longer
/// was not kept by us, and is cut at the server rather than carried here.
const MOST: usize = (4 << 20) + 1_024;
/// Keys that a step of a scan looks at, about.
const STEP: usize = 1_000;

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

impl Connection {
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
