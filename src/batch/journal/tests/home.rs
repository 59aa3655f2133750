//! Where the tests keep a journal.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use super::super::Journal;
#[cfg(feature = "postgres")]
use super::server::Database;
use crate::store::Store;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A store of its own, and a folder that goes with it.
pub(super) struct Home {
    folder: PathBuf,
    #[cfg(feature = "postgres")]
    database: Option<Database>,
}

impl Home {
    /// One of each kind.
    pub(super) async fn each() -> Vec<Self> {
        vec![
            Self::file(),
            #[cfg(feature = "postgres")]
            Self::database().await,
        ]
    }

    pub(super) fn file() -> Self {
        let name = format!("together-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            #[cfg(feature = "postgres")]
            database: None,
        }
    }

    #[cfg(feature = "postgres")]
    pub(super) async fn database() -> Self {
        let mut home = Self::file();
        home.database = Some(Database::new().await);
        home
    }

    /// The same store as another process has it.
    pub(super) async fn store(&self) -> Store {
        #[cfg(feature = "postgres")]
        if let Some(database) = &self.database {
            return Store::connect(&database.url()).await.unwrap();
        }
        Store::open(self.folder.join("inference.db")).await.unwrap()
    }

    pub(super) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    pub(super) fn spool(&self) -> PathBuf {
        self.folder.join("inference.db.batches")
    }

    /// The journal as another process has it.
    pub(super) async fn journal(&self) -> Journal {
        Journal::new(&self.store().await, Some(self.spool())).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
