//! PostgreSQL: one connection writes, for all of a process; readers share a few others, and budgets have one.
//!
//! # Why one connection
//!
//! A commit waits for the server's disk. Connections that commit one row each pay for it each; one that takes
//! whatever waits pays once for a hundred. Many processes together have as many connections as there are processes,
//! and few more.
//!
//! A pooler that hands out connections by transaction does not do: a process is known to live by a lock that its
//! connection holds.

mod batch;
mod connect;
mod desk;
mod process;
mod session;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
};
use tokio_postgres::Row;

use self::{
    batch::Told,
    connect::Server,
    writer::{Command, Writer},
};
pub(crate) use self::{
    batch::Writes,
    desk::{Answers, Desk},
    session::{Session, Value},
    writer::Chore,
};
use super::{Durable, StoreError, StoreErrorKind, slot::Slot};

/// Readers at a time.
const READERS: usize = 4;

/// A database, open.
#[derive(Debug)]
pub(crate) struct Postgres {
    server: Arc<Server>,
    writer: Writer,
    process: i64,
    slot: Slot,
    idle: Mutex<Vec<Session>>,
    readers: Arc<Semaphore>,
}

impl Postgres {
    pub(crate) async fn connect(url: &str) -> Result<Self, StoreError> {
        let server = Arc::new(Server::at(url)?);
        let (mut writer, opened) = Writer::start(&server)?;
        let gone = |_| StoreError::new(StoreErrorKind::Other, server.name(), "it panicked");
        let process = opened.await.map_err(gone)??;
        writer.opened();
        let (slot, readers) = (Slot::default(), Arc::new(Semaphore::new(READERS)));
        Ok(Self { server, writer, process, slot, idle: Mutex::default(), readers })
    }

    /// What this process is called in the store.
    pub(crate) const fn process(&self) -> i64 {
        self.process
    }

    pub(crate) fn name(&self) -> &str {
        self.server.name()
    }

    /// Writes together with whatever else waits. Answers once it is committed. Dropping the future does not stop it.
    pub(crate) async fn write<W: Writes>(
        &self,
        writes: &Arc<W>,
        item: W::Item,
        durable: Durable,
    ) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        let batch = batch::one(writes, item, durable, Told::Answer(answer));
        self.writer.send(Command::Batch(batch)).await;
        // If the thread is gone, so is the answer's sender.
        answered.await.map_err(|_| self.closed())?
    }

    /// Hands something over without waiting. If too much waits already, or it cannot be written, `failed` is told.
    pub(crate) fn write_later<W: Writes>(
        &self,
        writes: &Arc<W>,
        item: W::Item,
        failed: impl FnOnce() + Send + Sync + 'static,
    ) {
        let Some(place) = self.writer.place() else { return failed() };
        place.send(Command::Batch(batch::one(writes, item, Durable::Soon, Told::Failed(Box::new(failed)))));
    }

    /// What its users share.
    pub(crate) const fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Has this done now and about every ten seconds, until it ends or the store is closed.
    pub(crate) fn every_ten_seconds(&self, chore: Box<dyn Chore>) {
        self.writer.chore(chore);
    }

    /// A connection for questions that are answered at once, many of them together.
    pub(crate) fn desk<A: Answers>(&self, answers: A) -> Desk<A> {
        Desk::open(&self.server, self.writer.runtime(), answers)
    }

    /// Waits until everything so far is written.
    pub(crate) async fn sync(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.writer.send(Command::Sync(answer)).await;
        answered.await.map_err(|_| self.closed())?
    }

    /// Reads on a thread for blocking work: what was committed when it began.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Blocking) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.apart("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", job).await
    }

    /// Writes in a transaction of its own, on a thread for blocking work: what takes long. The store still is of the
    /// version that this process knows.
    pub(crate) async fn write_apart<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Blocking) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let checked = |connection: &Blocking| {
            connection.wait(connection.session.is_current())?;
            job(connection)
        };
        self.apart("BEGIN", checked).await
    }

    async fn apart<T: Send + 'static>(
        self: &Arc<Self>,
        begin: &'static str,
        job: impl FnOnce(&Blocking) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| self.closed())?;
        let postgres = Arc::clone(self);
        let working = tokio::task::spawn_blocking(move || {
            let _place = place;
            let connection = postgres.blocking()?;
            connection.run(begin)?;
            let done = job(&connection)?;
            connection.run("COMMIT")?;
            // Only what ended well is used again.
            postgres.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection.session);
            Ok(done)
        });
        working.await.map_err(|error| StoreError::caused(StoreErrorKind::Other, self.name(), error))?
    }

    /// A connection that nobody uses, or a new one.
    fn blocking(&self) -> Result<Blocking, StoreError> {
        let runtime = self.writer.runtime().clone();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let session = match idle {
            Some(session) if !session.is_closed() => session,
            _ => runtime.block_on(Session::open(&self.server, &runtime))?,
        };
        Ok(Blocking { session, runtime })
    }

    fn closed(&self) -> StoreError {
        StoreError::new(StoreErrorKind::Closed, self.name(), "")
    }
}

/// A connection for a thread that may block.
#[derive(Debug)]
pub(crate) struct Blocking {
    session: Session,
    runtime: Handle,
}

impl Blocking {
    /// Commands without values.
    pub(crate) fn run(&self, commands: &str) -> Result<(), StoreError> {
        self.runtime.block_on(self.session.run(commands))
    }

    /// Has something done that needs no thread.
    pub(crate) fn wait<T>(&self, job: impl Future<Output = T>) -> T {
        self.runtime.block_on(job)
    }

    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    /// Hands on each row as it comes.
    pub(crate) fn each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(&Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.runtime.block_on(async {
            let mut rows = std::pin::pin!(self.session.stream(sql, values).await?);
            while let Some(row) = rows.try_next().await.map_err(|error| self.session.error(error))? {
                take(&row)?;
            }
            Ok(())
        })
    }
}
