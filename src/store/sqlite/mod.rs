//! SQLite: one thread writes, for all; each reader has a connection to itself.
//!
//! # Why one thread
//!
//! SQLite lets one write at a time. Threads that take turns pay for each turn; one thread takes whatever waits and
//! commits it at once, so that a hundred writes cost one flush of the disk.

mod open;
mod process;
mod readers;
mod writer;

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tokio::sync::oneshot;

pub(crate) use self::open::error_of;
#[cfg(feature = "batch")]
pub(crate) use self::open::is_unreadable;
pub(crate) use self::writer::Chore;
use self::{
    readers::Readers,
    writer::{Command, Writer},
};
use super::{Durable, StoreError, StoreErrorKind, slot::Slot};

/// A file, open.
#[derive(Debug)]
pub(crate) struct Sqlite {
    name: Box<str>,
    /// Closed before the writer, so that the last connection is one that may tidy up the log.
    readers: Readers,
    writer: Writer,
    process: i64,
    slot: Slot,
}

impl Sqlite {
    pub(crate) async fn open(path: PathBuf, max_bytes: Option<u64>) -> Result<Self, StoreError> {
        let name: Box<str> = path.to_string_lossy().into();
        let (writer, opened) = Writer::start(path.clone(), max_bytes, &name)?;
        let process = opened.await.map_err(|_| StoreError::new(StoreErrorKind::Other, &name, "it panicked"))??;
        let readers = Readers::new(path, name.clone());
        Ok(Self { name, readers, writer, process, slot: Slot::default() })
    }

    /// What this process is called in the store.
    pub(crate) const fn process(&self) -> i64 {
        self.process
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the file is; `None` where only SQLite can read what it was opened by.
    #[cfg(feature = "batch")]
    pub(crate) fn path(&self) -> Option<&Path> {
        Some(self.readers.path()).filter(|path| !is_uri(path))
    }

    /// Writes in a transaction that others may share: what this job does is undone if it fails, and theirs is not.
    /// Answers once it is committed. If it cannot be, `failed` is told before anything else is written. Dropping the
    /// future does not stop it.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        durable: Durable,
        job: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
        failed: impl FnOnce() + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.writer.send(durable, job, failed, answer).await?;
        answered.await.map_err(|_| StoreError::new(StoreErrorKind::Closed, &self.name, ""))?
    }

    /// Hands a job over without waiting. If too many wait already, or it cannot be written, `failed` is told.
    pub(crate) fn write_later(
        &self,
        durable: Durable,
        job: impl FnOnce(&Connection) -> Result<(), rusqlite::Error> + Send + 'static,
        failed: impl FnOnce() + Send + 'static,
    ) {
        self.writer.try_send(durable, job, failed);
    }

    /// What its users share.
    pub(crate) const fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Has this done now and about every ten seconds, until it ends or the store is closed.
    pub(crate) fn every_ten_seconds(&self, chore: Chore) {
        self.writer.command(Command::Chore(chore));
    }

    /// Waits until everything so far is beyond a loss of power.
    pub(crate) async fn sync(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.writer.command(Command::Sync(answer));
        answered.await.map_err(|_| StoreError::new(StoreErrorKind::Closed, &self.name, ""))?
    }

    /// Reads on a thread for blocking work: what was committed when it began.
    pub(crate) async fn read<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let readers = self.readers.clone();
        let reading = tokio::task::spawn_blocking(move || readers.read(job));
        let gone = |error| StoreError::caused(StoreErrorKind::Other, &self.name, error);
        reading.await.map_err(gone)?
    }
}

/// Whether SQLite takes it for a URI and not for a path.
fn is_uri(path: &Path) -> bool {
    path.to_string_lossy().starts_with("file:")
}

#[cfg(test)]
mod tests;
