//! Where the tests keep a ledger.

#[cfg(feature = "sqlite")]
use std::path::PathBuf;

use together_inference::{cost::Ledger, store::Store};

#[cfg(feature = "postgres")]
use super::server::Database;

/// A store of its own that goes when the test does.
pub(crate) enum Home {
    #[cfg(feature = "sqlite")]
    File(Folder),
    #[cfg(feature = "postgres")]
    Database(Database),
}

impl Home {
    /// One of each kind.
    pub(crate) async fn each() -> Vec<Self> {
        vec![
            #[cfg(feature = "sqlite")]
            Self::File(Folder::new()),
            #[cfg(feature = "postgres")]
            Self::Database(Database::new().await),
        ]
    }

    /// So many of each kind.
    pub(crate) async fn many(count: usize) -> Vec<Self> {
        let mut homes = Vec::new();
        for _ in 0..count {
            homes.extend(Self::each().await);
        }
        homes
    }

    /// Another of the same kind.
    pub(crate) async fn another(&self) -> Self {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(_) => Self::File(Folder::new()),
            #[cfg(feature = "postgres")]
            Self::Database(_) => Self::Database(Database::new().await),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(_) => "SQLite",
            #[cfg(feature = "postgres")]
            Self::Database(_) => "PostgreSQL",
        }
    }

    /// How many processes are to share it.
    pub(crate) fn processes(&self) -> usize {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(_) => 2,
            #[cfg(feature = "postgres")]
            Self::Database(_) => 8,
        }
    }

    /// A path or a URL.
    pub(crate) fn address(&self) -> String {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(folder) => folder.path().display().to_string(),
            #[cfg(feature = "postgres")]
            Self::Database(database) => database.url(),
        }
    }

    pub(crate) async fn store(&self) -> Store {
        store(&self.address()).await
    }

    pub(crate) async fn ledger(&self) -> Ledger {
        open(&self.address()).await
    }

    /// Does something to the tables behind the crate's back.
    pub(crate) async fn execute(&self, sql: &str) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(folder) => folder.connection().execute_batch(sql).unwrap(),
            #[cfg(feature = "postgres")]
            Self::Database(database) => database.client().await.batch_execute(sql).await.unwrap(),
        }
    }

    /// As if all processes had been silent for long.
    pub(crate) async fn silence_everybody(&self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(_) => self.execute("UPDATE process SET renewed_ms = 0, host = 'elsewhere'").await,
            #[cfg(feature = "postgres")]
            Self::Database(_) => self.execute("UPDATE process SET renewed = 'epoch'").await,
        }
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(folder) => folder.connection().query_row(sql, [], |row| row.get(0)).unwrap(),
            #[cfg(feature = "postgres")]
            Self::Database(database) => database.client().await.query_one(sql, &[]).await.unwrap().get(0),
        }
    }
}

pub(crate) async fn store(address: &str) -> Store {
    #[cfg(feature = "postgres")]
    if address.starts_with("postgres://") {
        return Store::connect(address).await.unwrap();
    }
    #[cfg(feature = "sqlite")]
    return Store::open(address).await.unwrap();
    #[cfg(not(feature = "sqlite"))]
    panic!("{address} needs a feature")
}

pub(crate) async fn open(address: &str) -> Ledger {
    Ledger::new(&store(address).await)
}

/// A folder of its own that goes when the test does.
#[cfg(feature = "sqlite")]
pub(crate) struct Folder(PathBuf);

#[cfg(feature = "sqlite")]
impl Folder {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};

        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("together-ledger-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.join("inference.db")
    }

    fn connection(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        connection
    }
}

#[cfg(feature = "sqlite")]
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
