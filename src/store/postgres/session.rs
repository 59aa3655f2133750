//! A connection with its statements, and bringing the store behind it up to date.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use tokio::runtime::Handle;
use tokio_postgres::{Client, Row, RowStream, Statement, types::ToSql};

use super::{
    super::{StoreError, StoreErrorKind},
    connect::{Server, error_of},
};

/// What brings a store up to date, oldest first; the number of those that were done is kept in the store.
const MIGRATIONS: [&str; 4] = [
    include_str!("../migrations/postgres/001_processes.sql"),
    include_str!("../migrations/postgres/002_ledger.sql"),
    include_str!("../migrations/postgres/003_budgets.sql"),
    include_str!("../migrations/postgres/004_batches.sql"),
];

/// Held by whoever brings the store up to date: "TGIS".
const MIGRATING: i64 = 0x5447_4953;

/// The setting that has the version.
const VERSION: &str = "version";

/// A value that goes with a statement.
pub(crate) type Value<'a> = &'a (dyn ToSql + Sync);

/// A connection.
pub(crate) struct Session {
    client: Client,
    name: Box<str>,
    statements: Mutex<HashMap<Box<str>, Statement>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.name)
            .field("closed", &self.client.is_closed())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, and has this runtime drive the connection. The store's tables are what names without a schema mean, and
    /// whoever waited for a lock sees what was done meanwhile, whatever the server's settings are.
    pub(super) async fn open(server: &Server, runtime: &Handle) -> Result<Self, StoreError> {
        let (client, driver) = server.connect().await?;
        runtime.spawn(driver);
        let session = Self { client, name: server.name().into(), statements: Mutex::default() };
        session
            .run(
                "SET search_path = together_inference, pg_temp;
                 SET default_transaction_isolation = 'read committed';
                 SELECT set_config('synchronous_commit', 'on', FALSE)
                 WHERE current_setting('synchronous_commit') = 'off'",
            )
            .await?;
        Ok(session)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Commands without values.
    pub(crate) async fn run(&self, commands: &str) -> Result<(), StoreError> {
        self.client.batch_execute(commands).await.map_err(|error| self.error(error))
    }

    pub(crate) async fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, values).await.map_err(|error| self.error(error))
    }

    /// Tells how many rows were changed.
    pub(crate) async fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, values).await.map_err(|error| self.error(error))
    }

    pub(super) async fn stream(&self, sql: &str, values: &[Value<'_>]) -> Result<RowStream, StoreError> {
        let statement = self.statement(sql).await?;
        self.client.query_raw(&statement, values.iter().copied()).await.map_err(|error| self.error(error))
    }

    /// Parsed once a connection.
    async fn statement(&self, sql: &str) -> Result<Statement, StoreError> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await.map_err(|error| self.error(error))?;
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).insert(sql.into(), statement.clone());
        Ok(statement)
    }

    /// The same failure, as the store's.
    pub(super) fn error(&self, error: tokio_postgres::Error) -> StoreError {
        error_of(&self.name, error)
    }

    fn wrong(&self, kind: StoreErrorKind, detail: impl Into<Box<str>>) -> StoreError {
        StoreError::new(kind, &self.name, detail)
    }

    /// Makes the store, or brings it up to date: all of it or nothing. Refuses what is not a store, is not for this
    /// version of the crate, or cannot be written.
    pub(super) async fn prepare_store(&self) -> Result<(), StoreError> {
        let read_only = self.query("SELECT current_setting('transaction_read_only') = 'on'", &[]).await?;
        if read_only.first().is_some_and(|row| row.get(0)) {
            return Err(self.wrong(StoreErrorKind::ReadOnly, "the server takes no writes"));
        }
        if self.version().await? == Some(MIGRATIONS.len()) {
            return Ok(());
        }
        self.run(&format!("BEGIN; SELECT pg_advisory_xact_lock({MIGRATING})")).await?;
        match self.migrate().await {
            Ok(()) => self.run("COMMIT").await,
            Err(wrong) => {
                // The first failure says what is wrong; what cannot be undone is undone when the connection ends.
                if let Err(error) = self.run("ROLLBACK").await {
                    tracing::debug!(%error, store = &*self.name, "a migration that failed could not be undone");
                }
                Err(wrong)
            }
        }
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        // Another process may have been quicker.
        let version = match self.version().await? {
            Some(version) => version,
            None => {
                self.run("CREATE SCHEMA IF NOT EXISTS together_inference").await?;
                0
            }
        };
        for migration in MIGRATIONS.iter().skip(version) {
            self.run(migration).await?;
        }
        self.run(&format!(
            "INSERT INTO setting (name, value) VALUES ('{VERSION}', '{}')
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            MIGRATIONS.len()
        ))
        .await
    }

    /// How many migrations the store has seen; `None` where there is none.
    async fn version(&self) -> Result<Option<usize>, StoreError> {
        let sql = "SELECT count(*), count(*) FILTER (WHERE c.relname = 'setting') FROM pg_class c
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'together_inference'";
        let rows = self.client.query(sql, &[]).await.map_err(|error| self.error(error))?;
        let (tables, settings) = rows.first().map_or((0_i64, 0_i64), |row| (row.get(0), row.get(1)));
        if tables == 0 {
            return Ok(None);
        }
        let foreign = || self.wrong(StoreErrorKind::Foreign, "its schema together_inference has other tables");
        if settings == 0 {
            return Err(foreign());
        }
        // Not kept: the table may be made anew meanwhile.
        let sql = format!("SELECT value FROM setting WHERE name = '{VERSION}'");
        let rows = self.client.query(&sql, &[]).await.map_err(|error| self.error(error))?;
        let version = rows.first().ok_or_else(foreign)?;
        self.known(version.try_get(0).map_err(|_| foreign())?).map(Some)
    }

    fn known(&self, version: &str) -> Result<usize, StoreError> {
        let known = MIGRATIONS.len();
        match version.parse() {
            Ok(version) if version <= known => Ok(version),
            _ => {
                let detail = format!("its version is {version}, {known} is known");
                Err(self.wrong(StoreErrorKind::Newer, detail))
            }
        }
    }

    /// Begins a transaction, in a store that still is of the version that this process knows.
    pub(super) async fn begin(&self) -> Result<(), StoreError> {
        // Both go out at once.
        futures_util::try_join!(self.run("BEGIN"), self.is_current()).map(drop)
    }

    /// That the store still is of the version that this process knows.
    pub(crate) async fn is_current(&self) -> Result<(), StoreError> {
        let version = self.query("SELECT value FROM setting WHERE name = 'version'", &[]).await?;
        match version.first().map(|row| self.known(row.get(0))).transpose()? {
            Some(version) if version == MIGRATIONS.len() => Ok(()),
            _ => Err(self.wrong(StoreErrorKind::Newer, "since this process opened it")),
        }
    }
}
