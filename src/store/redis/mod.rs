//! The way to a Redis that processes share: alone, behind sentinels or as a cluster.

mod breaker;
mod link;
mod server;
mod target;

pub use self::server::RedisServer;
pub(crate) use self::{
    link::{Blame, Link},
    target::{Connection, Limits, Target, describe},
};
