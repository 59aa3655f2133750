//! Connections that read.

#[cfg(feature = "batch")]
use std::path::Path;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use super::{
    StoreError,
    open::{error_of, open_to_read},
};

/// How many are kept open while nobody reads, of as many as have read at once. Each may keep two megabytes of the file in
/// memory.
const IDLE: usize = 8;
/// How many statements each remembers: as many as the journal has, and a few.
const STATEMENTS: usize = 64;

/// Connections of one file. Opening one reads the whole schema, which takes longer than most questions: those that nobody
/// uses are kept.
#[derive(Clone, Debug)]
pub(super) struct Readers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    name: Box<str>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, name: Box<str>) -> Self {
        Self(Arc::new(Inner { path, name, idle: Mutex::default() }))
    }

    /// Where the file is.
    #[cfg(feature = "batch")]
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Reads what was committed when it began: all that the job reads is of one moment. Blocks.
    pub(super) fn read<T, E: From<StoreError>>(&self, job: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        let Inner { path, name, idle } = &*self.0;
        let kept = || idle.lock().unwrap_or_else(PoisonError::into_inner);
        let free = kept().pop();
        let connection = match free {
            Some(connection) => connection,
            None => {
                let connection = open_to_read(path, name)?;
                connection.set_prepared_statement_cache_capacity(STATEMENTS);
                connection
            }
        };
        connection.execute_batch("BEGIN").map_err(|error| error_of(name, error))?;
        let read = job(&connection);
        // One that cannot be freed of its moment would keep the log from being shortened: it is closed.
        if connection.execute_batch("COMMIT").is_ok() {
            let mut kept = kept();
            if kept.len() < IDLE {
                kept.push(connection);
            }
        }
        read
    }
}
