//! What batches there are, where each of their lines stands, and where its answer is: written down before it is done,
//! so that whoever comes after a crash goes on where it was.
//!
//! The tables are a store's; the texts are files in a folder beside it, one folder a batch. A row never holds words of a
//! prompt or of an answer, only where they are.
//!
//! # Who may write
//!
//! A chunk has one owner at a time. Whoever claims it gets a number, higher than all before it, and says it with
//! everything that it writes about the chunk. A process that was paused until others took its work over finds, with its
//! next write, that its number is an old one: nothing is changed, and it stops.
//!
//! # Why sums are kept in the batch's row
//!
//! Whoever shows progress asks every second. A million lines take a third of a second to add up, one row none. All that
//! ends lines locks that row first, so that the sums are the lines', arrivals have no gaps, and the first answer of a line
//! wins.

mod discard;
mod files;
mod gather;
mod lease;
mod lines;
mod plan;
#[cfg(feature = "postgres")]
mod postgres;
mod read;
mod rounds;
mod settle;
mod spool;
mod sql;
mod states;
#[cfg(test)]
mod tests;
mod twins;
mod words;
mod workers;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use self::{
    files::Appended,
    spool::Spool,
    sql::{Sql, SqlError},
};
pub(crate) use self::{
    files::{Output, RequestsFile},
    lease::Due,
    plan::Planning,
    settle::Settling,
    words::{
        BatchRow, BatchState, Change, ChunkKey, ChunkRow, ChunkState, Claim, Counts, Draft, LineRef, LineRow,
        LineState, NewChunk, NewLine, Outcome, Place, Planned, Span, Way,
    },
};
use super::BatchId;
#[cfg(feature = "postgres")]
use crate::store::Postgres;
use crate::store::{Backend, Durable, Sqlite, Store, StoreError, StoreErrorKind, reach};

/// Why the journal could not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the folder {folder} of batches failed ({source})", folder = folder.display())]
    Spool { folder: PathBuf, source: Arc<io::Error> },
}

impl JournalError {
    /// Whether the same may succeed a little later.
    #[cfg(test)]
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Spool { .. } => true,
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, JournalError>;

/// How long a statement about leases may take on a server: one that hangs must not hold up the renewal of others.
const BRIEF: &str = "4s";
/// How long any other may take.
const LONG: &str = "60s";

/// The journal of a store. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    books: Books,
    spool: Spool,
    /// Plannings of this process that were dropped; their rows are still there.
    dropped: Mutex<Vec<BatchId>>,
    /// Files that requests are appended to, one a gathering batch.
    gathering: Mutex<HashMap<BatchId, Appended>>,
}

#[derive(Debug)]
enum Books {
    Sqlite(Arc<Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Arc<Postgres>),
}

impl Journal {
    /// The folder is where requests and answers are kept: beside the file of the store unless one is named; on a server
    /// one must be, that all of its processes share.
    pub(crate) fn new(store: &Store, folder: Option<PathBuf>) -> Result<Self> {
        let (books, beside) = match store.backend() {
            Backend::Sqlite(sqlite) => (Books::Sqlite(Arc::clone(sqlite)), sqlite.path().map(beside)),
            #[cfg(feature = "postgres")]
            Backend::Postgres(postgres) => (Books::Postgres(Arc::clone(postgres)), None),
        };
        let Some(folder) = folder.or(beside) else {
            let detail = "name a folder for the requests and answers of batches, which all of its processes share";
            return Err(StoreError::new(StoreErrorKind::Unsupported, books.name(), detail).into());
        };
        let (dropped, gathering) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { books, spool: Spool::at(folder), dropped, gathering })))
    }

    /// What this process is called in the store.
    fn process(&self) -> i64 {
        match &self.0.books {
            Books::Sqlite(sqlite) => sqlite.process(),
            #[cfg(feature = "postgres")]
            Books::Postgres(postgres) => postgres.process(),
        }
    }

    /// Writes in one transaction. A test may end the process before and after it, at `place`.
    async fn write<T: Send + 'static>(
        &self,
        place: (&'static str, &'static str),
        durable: Durable,
        job: impl FnOnce(&Sql<'_>) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_within(LONG, place, durable, job).await
    }

    /// The same; a server gives each of its statements so much time.
    async fn write_within<T: Send + 'static>(
        &self,
        time: &'static str,
        (before, after): (&'static str, &'static str),
        durable: Durable,
        job: impl FnOnce(&Sql<'_>) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        reach(before);
        let written = match &self.0.books {
            Books::Sqlite(sqlite) => {
                let _ = time;
                sqlite
                    .write(
                        durable,
                        move |connection| job(&Sql::Sqlite(connection)).map_err(SqlError::for_sqlite),
                        || {},
                    )
                    .await
            }
            #[cfg(feature = "postgres")]
            Books::Postgres(postgres) => {
                let name: Box<str> = postgres.name().into();
                let job = move |connection: &_| {
                    postgres::prepare(connection, time)?;
                    job(&Sql::Postgres(connection)).map_err(|error| error.for_store(&name))
                };
                postgres.write_apart(job).await
            }
        };
        reach(after);
        Ok(written?)
    }

    /// Reads what was committed when it began.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Sql<'_>) -> sql::Result<T> + Send + 'static,
    ) -> Result<T> {
        let name: Box<str> = self.0.books.name().into();
        let read = match &self.0.books {
            Books::Sqlite(sqlite) => {
                let job = move |connection: &_| job(&Sql::Sqlite(connection)).map_err(|error| error.for_store(&name));
                sqlite.read(job).await
            }
            #[cfg(feature = "postgres")]
            Books::Postgres(postgres) => {
                let job = move |connection: &_| job(&Sql::Postgres(connection)).map_err(|error| error.for_store(&name));
                postgres.read(job).await
            }
        };
        Ok(read?)
    }

    /// Does something with files, on a thread for blocking work.
    async fn with_files<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Spool) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || job(&inner.spool)).await.map_err(io::Error::other);
        done.and_then(|done| done).map_err(|error| self.spool_failed(error))
    }

    fn spool_failed(&self, error: io::Error) -> JournalError {
        JournalError::Spool { folder: self.0.spool.root().to_owned(), source: Arc::new(error) }
    }
}

impl Books {
    fn name(&self) -> &str {
        match self {
            Self::Sqlite(sqlite) => sqlite.name(),
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.name(),
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".batches");
    name.into()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
