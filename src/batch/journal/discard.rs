//! Forgetting batches that are over: first what was asked, later everything.

use std::{fs, time::SystemTime};

use super::{
    BatchId, Journal, Result, locked,
    spool::{REQUESTS, there},
    states::OPEN,
};
use crate::store::Durable;

/// Batches that are forgotten in one turn: a writer is not held up for long.
const AT_ONCE: u64 = 16;

impl Journal {
    /// Deletes a batch that is over, with every line, request and answer. `false`, with nothing deleted, while a line of
    /// it waits or a job of it is out.
    pub(crate) async fn discard(&self, batch: BatchId) -> Result<bool> {
        let places = ("batch: a batch is about to be forgotten", "batch: a batch is forgotten");
        let is_over = self.write(places, Durable::Now, move |sql| {
            let id = batch.as_str();
            let delete = format!(
                "DELETE FROM batch WHERE id = ?1 AND state = 'finished'
                 AND NOT EXISTS (SELECT 1 FROM chunk WHERE batch = ?1 AND {OPEN})"
            );
            if sql.execute(&delete, &[id.into()])? == 0 {
                let known = sql.one("SELECT 1 FROM batch WHERE id = ?1", &[id.into()], |_| Ok(()))?;
                return Ok(known.is_none());
            }
            // What is left is like a plan of a process that is gone: whatever cuts this, the next sweep goes on with it.
            sql.execute("INSERT INTO planning (id, owner) VALUES (?1, 0)", &[id.into()])?;
            sql.execute("DELETE FROM chunk WHERE batch = ?1", &[id.into()])?;
            sql.execute("DELETE FROM transition WHERE batch = ?1", &[id.into()])?;
            Ok(true)
        });
        if !is_over.await? {
            return Ok(false);
        }
        locked(&self.0.gathering).remove(&batch);
        self.erase(batch).await?;
        Ok(true)
    }

    /// Deletes the requests of batches that are over, some at a time: once nothing of them is under way nobody reads them
    /// again.
    pub(crate) async fn forget_requests(&self) -> Result<()> {
        let over = self
            .read(|sql| {
                let select = format!(
                    "SELECT id FROM batch WHERE finished IS NOT NULL AND asked = 1 AND state = 'finished'
                     AND NOT EXISTS (SELECT 1 FROM chunk WHERE batch = id AND {OPEN}) ORDER BY finished LIMIT ?1"
                );
                sql.query(&select, &[AT_ONCE.into()], |row| row.word(0, |id| id.parse().ok()))
            })
            .await?;
        let places = ("batch: requests are about to be forgotten", "batch: requests are forgotten");
        for id in over {
            let id: BatchId = id;
            self.with_files(move |spool| there(fs::remove_file(spool.path(id, REQUESTS)))).await?;
            self.write(places, Durable::Soon, move |sql| {
                sql.execute("UPDATE batch SET asked = 0 WHERE id = ?1", &[id.as_str().into()]).map(drop)
            })
            .await?;
        }
        Ok(())
    }

    /// Deletes batches that were over before this, some at a time; how many.
    pub(crate) async fn discard_before(&self, before: SystemTime) -> Result<usize> {
        let old = self
            .read(move |sql| {
                let select = format!(
                    "SELECT id FROM batch WHERE finished IS NOT NULL AND finished < ?1 AND state = 'finished'
                     AND NOT EXISTS (SELECT 1 FROM chunk WHERE batch = id AND {OPEN}) ORDER BY finished LIMIT ?2"
                );
                sql.query(&select, &[before.into(), AT_ONCE.into()], |row| row.word(0, |id| id.parse().ok()))
            })
            .await?;
        let mut discarded = 0;
        for id in old {
            discarded += usize::from(self.discard(id).await?);
        }
        Ok(discarded)
    }
}
