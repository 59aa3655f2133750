//! A store: one of the databases that can keep it.

#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::sync::Arc;

use super::StoreError;
#[cfg(feature = "testing")]
use super::failpoint;
#[cfg(feature = "postgres")]
use super::postgres::Postgres;
#[cfg(feature = "sqlite")]
use super::sqlite::Sqlite;

/// When the disk must have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Before the answer.
    Now,
    /// Within a second.
    Soon,
}

/// A test may end the process here.
pub(crate) fn reach(place: &str) {
    #[cfg(feature = "testing")]
    failpoint::reach(place);
    #[cfg(not(feature = "testing"))]
    let _ = place;
}

/// A store. Clones share it.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceService, store::Store, testing::Together};
///
/// # let folder = std::env::temp_dir().join(format!("together-inference-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("inference.db");
/// let store = Store::open(path).await?;
/// let service = InferenceService::builder(Together::new().client()).store(&store).build()?;
/// service.complete("Why is the sky blue?").await?;
/// service.shutdown(std::time::Duration::from_secs(10)).await; // the record is on the disk now
/// # drop((service, store));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct Store(Backend);

/// What keeps it.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    #[cfg(feature = "postgres")]
    Postgres(Arc<Postgres>),
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<Sqlite>),
}

/// How a file is opened.
///
/// ```
/// use together_inference::store::StoreOptions;
///
/// let options = StoreOptions::default().max_bytes(10 << 30);
/// ```
#[cfg(feature = "sqlite")]
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    max_bytes: Option<u64>,
}

#[cfg(feature = "sqlite")]
impl StoreOptions {
    /// Bounds the file: beyond it the store says [`Full`](super::StoreErrorKind::Full) instead of filling the disk. Not
    /// bounded unless set.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }
}

impl Store {
    /// Connects to a database of a PostgreSQL server (13 or later), and makes the schema `together_inference` in it or brings
    /// it up to date: `postgres://user:password@host:5432/database`, with the settings of libpq that are known, such as
    /// `connect_timeout` (seconds, five unless set) and several hosts with `target_session_attrs=read-write`.
    ///
    /// Connections leave this machine over TLS alone, with certificates that are verified as the system trusts them, or by
    /// the file that `sslrootcert` names; `sslmode=disable` is for networks of one's own. Connect to the server itself, or
    /// through a pooler by session.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use together_inference::store::{Store, StoreErrorKind};
    ///
    /// let error = Store::connect("postgres://me:secret@127.0.0.1:1/costs").await.unwrap_err();
    /// assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    /// assert_eq!(error.store(), "postgres://me@127.0.0.1:1/costs");
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the address cannot be read, the server cannot be reached or written, or the schema belongs to another
    /// program or a newer version of this crate.
    #[cfg(feature = "postgres")]
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Ok(Self(Backend::Postgres(Arc::new(Postgres::connect(url).await?))))
    }

    /// Opens a file, or makes it: readable by its owner alone. `file:` URIs of SQLite are understood.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the file cannot be opened or written, belongs to another program or a newer version of this crate.
    #[cfg(feature = "sqlite")]
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_with(path, StoreOptions::default()).await
    }

    /// The same, with options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    #[cfg(feature = "sqlite")]
    pub async fn open_with(path: impl Into<PathBuf>, options: StoreOptions) -> Result<Self, StoreError> {
        let sqlite = Sqlite::open(path.into(), options.max_bytes).await?;
        Ok(Self(Backend::Sqlite(Arc::new(sqlite))))
    }

    /// Waits until everything that was written so far is on the disk, beyond a loss of power.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the disk refuses.
    pub async fn sync(&self) -> Result<(), StoreError> {
        match &self.0 {
            #[cfg(feature = "postgres")]
            Backend::Postgres(postgres) => postgres.sync().await,
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(sqlite) => sqlite.sync().await,
        }
    }

    pub(crate) const fn backend(&self) -> &Backend {
        &self.0
    }
}

impl From<&Self> for Store {
    fn from(store: &Self) -> Self {
        store.clone()
    }
}
