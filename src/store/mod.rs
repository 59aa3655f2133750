//! Where what must not be lost outlives the process: a file of this machine (SQLite), or a server that many share
//! (PostgreSQL).
//!
//! A [`Store`] holds the ledger of costs, and on a server the money of budgets. It is opened once, cloned cheaply, and
//! given to the builder of the service. Its tables are made and brought up to date when it is opened, forward only; a
//! store that a newer version of the crate has written is refused, not guessed at.
//!
//! | | [`open`](Store::open), feature `sqlite` | [`connect`](Store::connect), feature `postgres` |
//! |---|---|---|
//! | for | one machine | many machines |
//! | its tables are | the file's | in the schema `together_inference` of a database |
//! | an answer means | a crash does not undo it, a loss of power for a second; `Strict`: nor does that | the disk has it |
//! | while it is away | writes fail | writes wait, and are repeated; `Strict` fails after five seconds |
//!
//! # Why not a connection of the application's own
//!
//! The ledger must know when its records are on the disk. A connection that somebody else keeps in a transaction, or
//! that was opened with other settings, cannot tell. The tables are ordinary ones: read them with whatever you like.
//!
//! # Many processes
//!
//! Several processes may use one store. Each says every ten seconds that it lives; what a process had begun that has
//! been silent for thirty, or that is known to have ended, is taken over by the others.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod database;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod error;
#[cfg(all(feature = "testing", any(feature = "postgres", feature = "sqlite")))]
mod failpoint;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod slot;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
pub use self::database::StoreOptions;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::database::{Backend, Durable, reach};
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::{Answers, Blocking, Chore as PostgresChore, Desk, Postgres, Session, Value, Writes};
#[cfg(feature = "redis")]
pub use self::redis::RedisServer;
#[cfg(feature = "batch")]
pub(crate) use self::sqlite::is_unreadable;
#[cfg(feature = "sqlite")]
pub(crate) use self::sqlite::{Chore, Sqlite, error_of};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use self::{
    database::Store,
    error::{StoreError, StoreErrorKind},
};
