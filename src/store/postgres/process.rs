//! Who uses a store, and who does not any more: by the server's clock, and by a lock that ends with the connection.

use super::{super::StoreError, session::Session};

/// A process that was silent for this long has ended, or is as good as that.
const SILENT: &str = "interval '30 seconds'";

/// This process among those that use the store.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: i64,
    /// Whether this connection holds the lock.
    is_locked: bool,
}

impl Process {
    pub(super) const fn this(id: i64) -> Self {
        Self { id, is_locked: false }
    }

    /// The lock is gone with the connection that held it.
    pub(super) const fn disconnected(&mut self) {
        self.is_locked = false;
    }

    /// Says that it lives. After a new connection the lock may still be held by the old one for a moment.
    pub(super) async fn renew(&mut self, session: &Session) -> Result<(), StoreError> {
        if !self.is_locked {
            let locked = session.query("SELECT pg_try_advisory_lock($1)", &[&self.id]).await?;
            self.is_locked = locked.first().is_some_and(|row| row.get(0));
        }
        let sql = "INSERT INTO process (id, locked_at, renewed)
             VALUES ($1, CASE WHEN $2 THEN pg_postmaster_start_time() END, clock_timestamp())
             ON CONFLICT (id) DO UPDATE SET locked_at = excluded.locked_at, renewed = excluded.renewed";
        session.execute(sql, &[&self.id, &self.is_locked]).await.map(drop)
    }

    /// Strikes out those that have ended. A server that began after a lock was taken does not know it: after that only
    /// silence tells.
    pub(super) async fn bury_others(&self, session: &Session) -> Result<(), StoreError> {
        let sql = format!(
            "DELETE FROM process WHERE id IN (
                 SELECT id FROM process
                 WHERE id <> $1
                   AND CASE WHEN locked_at = pg_postmaster_start_time() AND pg_try_advisory_xact_lock(id) THEN TRUE
                            ELSE renewed < clock_timestamp() - {SILENT} END
                 FOR UPDATE SKIP LOCKED)"
        );
        session.execute(&sql, &[&self.id]).await.map(drop)
    }

    /// Says that it has ended.
    pub(super) async fn leave(&self, session: &Session) -> Result<(), StoreError> {
        session.execute("DELETE FROM process WHERE id = $1", &[&self.id]).await.map(drop)
    }
}
